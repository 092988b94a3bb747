// The console: asks clinfra every two seconds how it is, and shows the part that is
// looked at.
import {$, ask, facts, h, settings, text, time} from './parts.js';
import {PERIOD_MS} from './charts.js';
import * as overview from './overview.js';
import * as proxy from './proxy.js';
import * as cluster from './cluster.js';
import * as image from './image.js';

const CLUSTER_PERIOD_MS = 5000;
let parts = settings.admin ? ['overview'] : ['blob'];
let status, before;

// Which part is looked at.

const current = () => {
  const wanted = location.hash.slice(1);
  return parts.includes(wanted) ? wanted : parts[0];
};

function show() {
  const part = current();
  for (const name of ['overview', 'proxy', 'blob', 'image']) $(`#${name}`).hidden = name !== part;
  for (const link of document.querySelectorAll('nav a')) {
    if (link.hash === `#${part}`) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  draw();
  if (part === 'blob') cluster.update();
}

function offer(names) {
  if (names.join() === parts.join() && $('nav').firstChild) return;
  parts = names;
  $('nav').replaceChildren(...(parts.length > 1 ? parts.map(name => h('a', {href: `#${name}`}, name[0].toUpperCase() + name.slice(1))) : []));
  show();
}

// How it is.

function draw() {
  if (!status) return;
  const part = current(), {products} = status;
  if (part === 'proxy' && products.proxy) proxy.update(products.proxy, before.now);
  if (part === 'image' && products.image) image.update(products.image, status.addresses?.image);
}

async function look() {
  try {
    const told = await ask('/status', {seconds: 5});
    if (status && told.uptime_seconds < status.uptime_seconds) {
      location.reload(); // It was started anew: our token is not known there.
      return;
    }
    status = told;
    if (!before || performance.now() - before.now > 3 * PERIOD_MS) overview.recall(await ask('/history'));
    before = {now: performance.now()};
    const {products} = status;
    offer(['overview', ...['proxy', 'blob', 'image'].filter(name => products[name])]);
    text($('#state'), facts(`${status.state} for ${time(status.uptime_seconds)}`, `version ${status.version}`));
    $('#state').className = status.state === 'running' ? '' : 'bad';
    overview.update(status, before.now);
    overview.showWorries([...overview.worries(status), ...cluster.worries()]);
    draw();
  } catch (error) {
    text($('#state'), error.message);
    $('#state').className = 'bad';
  }
}

// Calls again and again while somebody looks; one call at a time.
function repeat(work, milliseconds) {
  const again = async () => {
    if (!document.hidden) await work();
    setTimeout(again, milliseconds);
  };
  again();
}

// Keys.

function help() {
  const keys = [['1 – 4', 'overview, proxy, blob, image'], ...cluster.KEYS, ['?', 'these keys']];
  $('#help').replaceChildren(h('h2', {}, 'Keys'), h('dl', {}, (settings.admin ? keys : keys.slice(1)).map(([key, what]) =>
    h('div', {}, h('dt', {}, h('kbd', {}, key)), h('dd', {}, what)))),
  h('button', {type: 'button', onclick: () => $('#help').close()}, 'Close'));
  $('#help').showModal();
}

addEventListener('keydown', event => {
  if (event.ctrlKey || event.altKey || event.metaKey || $('#help').open) return;
  const at = event.target;
  if (at.closest('input, textarea, select') || (event.key === ' ' && at.closest('button, a, summary, pre'))) return;
  const part = parts[Number(event.key) - 1];
  if (event.key === '?') help();
  else if (part && settings.admin) location.hash = part;
  else if (current() !== 'blob' || !cluster.pressed(event.key)) return;
  event.preventDefault();
});

addEventListener('hashchange', show);

if (settings.admin) {
  $('#links').append(...['/status', '/metrics', '/health/ready'].flatMap(path => [h('a', {href: path}, path), ' ']), h('span', {}, '? shows the keys'));
  repeat(look, PERIOD_MS);
} else {
  text($('#state'), 'the cluster of this blob server');
  $('#links').append(h('a', {href: '/_status'}, '/_status'), ' ', h('a', {href: '/_config'}, '/_config'), ' ', h('span', {}, '? shows the keys'));
  show();
}
repeat(async () => { if (['blob', 'overview'].includes(current())) await cluster.update(); }, CLUSTER_PERIOD_MS);
