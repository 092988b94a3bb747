// All products at a glance, and what needs attention.
import {bar, bytes, card, count, facts, h, keep, percent, rate, text, time, $} from './parts.js';
import {Chart, Rates} from './charts.js';

const YOUNG_SECONDS = 1; // A rate over less than that jumps.
const rates = new Rates();
let past = [];
const told = () => h('p', {class: 'facts'});

function link(name) {
  return h('a', {href: `#${name}`}, name[0].toUpperCase() + name.slice(1));
}

// A chart of one product's totals.
function lines(product, title, names) {
  const chart = new Chart(title, names, rate);
  const values = (totals, now) => names.map(name => rates.of(`${product} ${name}`, totals?.[name], now));
  chart.recall = () => {
    chart.clear();
    for (const {at, totals} of past) chart.add(values(totals[product], at));
  };
  chart.show = (totals, now) => chart.push(values(totals, now));
  chart.recall();
  return chart;
}

// Takes what was before: moments, from the oldest on.
export function recall({moments}) {
  const now = performance.now();
  past = moments.filter(each => each.seconds_ago >= YOUNG_SECONDS).map(each => ({at: now - 1000 * each.seconds_ago, totals: each.totals}));
  rates.clear();
  for (const card of $('#overview').querySelectorAll('.cards > .card')) card.chart.recall();
}

function makeProxy() {
  const chart = lines('proxy', 'Requests', ['all', 'hits', 'misses']);
  const facts1 = told(), facts2 = told(), memory = bar('Memory of the cache');
  const made = card(link('proxy'), chart.element, facts1, memory, facts2);
  made.chart = chart;
  made.update = ({report, totals, now}) => {
    const cache = report.modules?.DirectCache ?? {}, {hits, misses} = totals;
    chart.show(totals, now);
    const asked = hits + misses + (cache.pass ?? 0);
    text(facts1, facts(`${count(report.requests)} requests`, asked ? `${percent(hits / asked)} hits` : '',
      `${count(report.active)} active`, crew(report)));
    const share = cache.max_bytes ? cache.bytes / cache.max_bytes : 0;
    memory.update(share, 'calm', `${bytes(cache.bytes)} of ${bytes(cache.max_bytes)}`);
    text(facts2, facts(`${bytes(cache.bytes)} of ${bytes(cache.max_bytes)} in memory`, `${count(cache.entries)} pages`,
      cache.evicted ? `${count(cache.evicted)} evicted` : ''));
    memory.hidden = facts2.hidden = cache.max_bytes == null;
  };
  return made;
}

function makeBlob() {
  const chart = lines('blob', 'Requests', ['reads', 'writes', 'deletes']);
  const facts1 = told(), facts2 = told(), space = bar('Space of the disk');
  const made = card(link('blob'), chart.element, facts1, space, facts2);
  made.chart = chart;
  made.update = ({report, totals, now}) => {
    chart.show(totals, now);
    const store = report.store_disk, hot = report.hot;
    const peers = Object.values({...report.replicas, ...report.clusters});
    const lag = Math.max(0, ...peers.map(each => each.lag_seconds ?? 0));
    text(facts1, facts(report.replica ? `replica ${report.replica}` : 'keeps no blobs itself',
      `${count(totals.reads + totals.writes + totals.deletes)} requests`,
      hot && hot.hits + hot.misses ? `${percent(hot.hits / (hot.hits + hot.misses))} from memory` : '',
      peers.length ? `lag ${time(lag)}` : ''));
    space.hidden = facts2.hidden = !store;
    if (store) {
      const used = 1 - store.free_space / store.total_space;
      space.update(used, used >= 0.8 ? 'bad' : used >= 0.6 ? 'warn' : 'calm');
      text(facts2, `${bytes(store.free_space)} of ${bytes(store.total_space)} free`);
    }
  };
  return made;
}

function makeImage() {
  const chart = lines('image', 'Pictures', ['uploads', 'on demand']);
  const facts1 = told(), facts2 = told(), busy = bar('Workers that are busy');
  const made = card(link('image'), chart.element, facts1, busy, facts2);
  made.chart = chart;
  made.update = ({report, totals, now}) => {
    chart.show(totals, now);
    text(facts1, facts(`${count(report.rendered)} pictures`, report.bad ? `${count(report.bad)} bad` : '',
      report.refused ? `${count(report.refused)} refused` : '', crew(report)));
    busy.update(report.busy / report.workers, 'calm', `${report.busy} of ${report.workers} busy`);
    text(facts2, facts(`${count(report.busy)} of ${count(report.workers)} workers busy`, `${count(report.waiting)} waiting`));
  };
  return made;
}

const crew = report => report.crew ? `${report.crew.ready} of ${report.crew.wanted} processes` : '';
const MAKERS = {proxy: makeProxy, blob: makeBlob, image: makeImage};

function listeners() {
  const body = h('tbody');
  const row = name => {
    const cells = Array.from({length: 4}, () => h('td'));
    const made = h('tr', {}, h('th', {scope: 'row'}, name), cells);
    made.update = ({addresses, seen}) => {
      const refused = Object.values(seen?.refused ?? {}).reduce((all, each) => all + each, 0);
      text(cells[0], (addresses ?? []).join(' '));
      text(cells[1], seen ? count(seen.connections) : 'in its workers');
      text(cells[2], seen ? count(seen.requests) : '');
      text(cells[3], seen ? count(refused + (seen.evicted ?? 0)) : '');
    };
    return made;
  };
  const made = card('Listeners', h('div', {class: 'wide'}, h('table', {class: 'listeners'},
    h('thead', {}, h('tr', {}, ['', 'address', 'connections', 'requests', 'refused'].map(each => h('th', {scope: 'col'}, each)))), body)));
  made.classList.add('whole');
  made.update = status => keep(body, Object.entries(status.addresses ?? {}).map(([name, addresses]) =>
    [name, {addresses, seen: status.listeners?.[name]}]), row);
  return made;
}

// Everything an operator should look at, as [where, sentence].
export function worries(status) {
  const found = [];
  const say = (where, sentence) => found.push([where, sentence]);
  if (status.state !== 'running') say('overview', `clinfra is ${status.state}.`);
  for (const [name, report] of Object.entries(status.products)) {
    for (const reason of report.not_ready ?? []) say(name, `${name} is not ready: ${reason}.`);
    const {wanted, ready} = report.crew ?? {};
    if (ready < wanted) say(name, `${ready} of ${wanted} processes of ${name} run.`);
  }
  const {proxy, blob} = status.products;
  for (const problem of proxy?.rules?.problems ?? []) say('proxy', `The rules on disk are wrong: ${problem}`);
  for (const [name, pool] of Object.entries(proxy?.modules?.Forwarder?.pools ?? {})) {
    if (pool.maintenance) say('proxy', `The pool ${name} is in maintenance.`);
    if (pool.panic) say('proxy', `So much of the pool ${name} is down that all of it is asked.`);
    for (const member of Object.values(pool.members)) {
      if (member.state === 'down' || member.state === 'open') say('proxy', `${member.address} of the pool ${name} is ${member.state === 'open' ? 'not asked: it failed' : 'down'}.`);
    }
  }
  for (const [node, alive] of Object.entries(proxy?.modules?.DirectCache?.memcached ?? {})) {
    if (alive === false) say('proxy', `memcached ${node} does not answer.`);
  }
  if (blob?.scrub?.damaged) say('blob', `${count(blob.scrub.damaged)} blobs here are damaged.`);
  if (blob?.rejoin?.fenced) say('blob', 'This replica was away for too long: it proves its blobs before it serves them.');
  if (blob?.clock?.trouble) say('blob', String(blob.clock.trouble));
  return found;
}

export function showWorries(found) {
  const list = $('#attention');
  list.hidden = !found.length;
  keep(list, found.slice(0, 12).map(each => [each.join(' '), each]), (key, [where, sentence]) => {
    const made = h('li', {}, h('a', {href: `#${where}`}, sentence));
    made.update = () => {};
    return made;
  });
}

let table;

export function update(status, now) {
  const section = $('#overview');
  if (!table) {
    table = listeners();
    section.append(h('div', {class: 'cards'}), table);
  }
  const products = Object.keys(MAKERS).filter(name => status.products[name]);
  keep(section.firstChild, products.map(name => [name, {report: status.products[name], totals: status.totals[name], now}]), name => MAKERS[name]());
  table.update(status);
}
