// Origins, rules, the cache, and what the rules make of a request.
import {$, act, action, ask, badge, bar, bytes, call, card, count, facts, h, keep, rate, seen, settings, text, time, tree} from './parts.js';
import {Rates} from './charts.js';

const rates = new Rates();
const STATES = {up: 'good', warming: 'warn', maintenance: 'calm', down: 'bad', open: 'bad'};
const NUMBERS = ['now', 'requests', 'failed', 'under way'];
const WORDS = {open: 'circuit open'};

// Origins.

async function maintain(out, ...names) {
  const path = ['/maintenance', ...names.map(encodeURIComponent)].join('/');
  await call(path, {method: out ? 'PUT' : 'DELETE'});
  const what = names.length ? names.join(' ') : 'Every origin';
  return out ? `${what} is asked no more, until you put it back or clinfra ends.` : `${what} is asked again.`;
}

// A button that takes something out, or puts it back.
function toggle(...names) {
  const button = h('button', {type: 'button', class: 'small', onclick: () =>
    act(button, () => maintain(button.getAttribute('aria-pressed') !== 'true', ...names))});
  button.update = out => {
    button.setAttribute('aria-pressed', out);
    text(button, `${out ? 'Put' : 'Take'} ${names.length ? '' : 'all '}${out ? 'back' : 'out'}`);
    button.setAttribute('aria-label', seen(`${out ? 'Put back' : 'Take out'} ${names.join(' ') || 'every origin'}`));
  };
  button.hidden = !settings.actions;
  return button;
}

function memberRow(pool, {address}) {
  const state = badge(), confidence = bar(`Confidence in ${address}`), switched = toggle(pool, address);
  const cells = NUMBERS.map(title => h('td', {class: 'number', 'data-title': title}));
  const about = h('td', {class: 'about'});
  const made = h('tr', {}, h('th', {scope: 'row'}, address), h('td', {}, state), h('td', {}, confidence), cells, about, h('td', {}, switched));
  made.update = ({member, pool: whole, now}) => {
    state.update(WORDS[member.state] ?? member.state, STATES[member.state] ?? 'warn');
    const share = member.weight ? member.confidence / Math.max(1, member.weight) : 0;
    confidence.update(share, share >= 0.7 ? 'good' : share >= 0.3 ? 'warn' : 'bad');
    text(cells[0], rate(rates.of(`${pool} ${address}`, member.requests, now)));
    text(cells[1], count(member.requests));
    text(cells[2], count(member.failed_requests));
    cells[2].classList.toggle('bad', member.failed_requests > 0);
    text(cells[3], count(member.under_way));
    text(about, facts(member.backup ? 'backup' : '', member.weight !== 1 ? `weight ${member.weight}` : '',
      member.last_failure ? `${member.last_failure}, ${time(member.seconds_since_failure)} ago` : ''));
    switched.update(member.state === 'maintenance');
    switched.disabled = whole.maintenance;
  };
  return made;
}

function poolCard(name) {
  const body = h('tbody'), about = h('p', {class: 'facts'}), switched = toggle(name);
  const titles = ['origin', '', 'confidence', ...NUMBERS, '', ''];
  const made = h('article', {class: 'card whole'}, h('div', {class: 'head'}, h('h2', {}, name), switched), about,
    h('div', {class: 'wide'}, h('table', {class: 'pool'}, h('thead', {}, h('tr', {}, titles.map((title, place) =>
      h('th', {scope: 'col', class: place > 2 && place < 7 ? 'number' : ''}, title)))), body)));
  made.update = ({pool, now}) => {
    text(about, facts(`${pool.askable} of ${Object.keys(pool.members).length} can be asked`, pool.choice.replaceAll('_', ' '),
      pool.panic ? 'all are asked, since too many are down' : '', pool.maintenance ? 'in maintenance' : '',
      `${count(pool.retries_left)} retries left`, pool.retries_refused ? `${count(pool.retries_refused)} refused` : ''));
    switched.update(pool.maintenance);
    keep(body, Object.entries(pool.members).map(([key, member]) => [key, {member, pool, now}]),
      (key, value) => memberRow(name, value.member));
  };
  return made;
}

// Rules.

const MOST_OPEN = 12;

// What a module counts for each of its rules, as [rule, hits].
const rulesOf = (report, bygone) => Object.entries(report.rules ?? report.refused ?? {}).map(([rule, hits]) =>
  [rule, hits + ((bygone?.rules ?? bygone?.refused ?? {})[rule] ?? 0)]);

function ruleRow(rule) {
  const hits = h('td', {class: 'number'}), share = bar(`Share of ${rule}`);
  const made = h('tr', {}, h('th', {scope: 'row'}, rule), h('td', {}, share), hits);
  made.update = ({many, most}) => {
    text(hits, count(many));
    share.update(most ? many / most : 0, 'calm', `${count(many)} requests`);
    made.classList.toggle('idle', !many);
  };
  return made;
}

function moduleRow(name, {report}) {
  const total = h('span', {class: 'quiet'}), rest = h('div'), body = h('tbody');
  const table = h('table', {class: 'rules'}, h('thead', {}, h('tr', {}, h('th', {scope: 'col'}, 'rule'), h('th'), h('th', {scope: 'col', class: 'number'}, 'requests'))), body);
  const known = rulesOf(report).length;
  const made = h('details', {open: known > 0 && known <= MOST_OPEN}, h('summary', {}, h('span', {}, name), total), table, rest);
  let last;
  const fill = () => {
    if (!made.open) return;
    const rules = rulesOf(last.report, last.bygone), most = Math.max(...rules.map(([, many]) => many));
    table.hidden = !rules.length;
    keep(body, rules.map(([rule, many]) => [rule, {many, most}]), ruleRow);
    const others = Object.entries(last.report).filter(([name, value]) => !['rules', 'refused'].includes(name)
      && !(value && typeof value === 'object' && !Object.keys(value).length));
    rest.hidden = rules.length && !others.length;
    rest.replaceChildren(tree(Object.fromEntries(others)));
  };
  made.addEventListener('toggle', fill);
  made.update = value => {
    last = value;
    text(total, headline(last.report, rulesOf(last.report, last.bygone)));
    fill();
  };
  return made;
}

function headline(report, rules) {
  const numbers = Object.entries(report).filter(([, value]) => typeof value === 'number').filter(([name]) => !name.includes('bytes')).slice(0, 3);
  const told = numbers.map(([name, value]) => `${count(value)} ${name.replaceAll('_', ' ')}`);
  if (rules.length) told.unshift(`${rules.length} ${rules.length === 1 ? 'rule' : 'rules'}`, `${count(rules.reduce((all, [, many]) => all + many, 0))} hits`);
  return told.join(' · ');
}

// The cache.

const field = (label, input, wide = true) => h('label', {class: wide ? 'field' : 'check'}, wide ? [label, input] : [input, label]);
const PURGES = {page: '/purge', prefix: '/purge/prefixes', tag: '/purge/tags'};

function cacheCard() {
  const pages = h('textarea', {rows: 2, id: 'pages', spellcheck: 'false', placeholder: 'http://www.example.com/page'});
  const how = h('select', {id: 'how'}, h('option', {value: 'page'}, 'pages'), h('option', {value: 'prefix'}, 'all that begin so'), h('option', {value: 'tag'}, 'tags'));
  const soft = h('input', {type: 'checkbox', id: 'soft'});
  const found = h('div', {id: 'found', 'aria-live': 'polite'});
  const lines = () => pages.value.split('\n').map(each => each.trim()).filter(Boolean);

  async function look() {
    const [page] = lines();
    if (!page) throw new Error('Which page?');
    const told = await ask(`/cache?${new URLSearchParams({page})}`);
    found.replaceChildren(told.found.length ? answers(told.found) : h('p', {class: 'quiet'}, `Nothing is kept of ${told.pages.join(', ')}.`));
    return `${told.found.length || 'No'} answers are kept.`;
  }
  async function purge() {
    if (!lines().length) throw new Error('Which pages?');
    const said = await call(PURGES[how.value], {method: 'POST', body: lines().join('\n'), headers: soft.checked ? {'Soft-Purge': '1'} : {}, seconds: 30});
    found.replaceChildren(h('p', {}, said.trim()));
    return said.trim();
  }
  return card('Cache', field('URLs, hosts and paths, or tags, one a line', pages),
    h('div', {class: 'row'}, action('Look up', look, {id: 'look'}),
      settings.actions && [action('Purge', purge, {id: 'purge'}), how, field('softly: stale, not gone', soft, false)]), found);
}

function answers(found) {
  const titles = ['where', 'status', 'size', 'age', 'fresh for', 'type'];
  return h('div', {class: 'wide'}, h('table', {}, h('thead', {}, h('tr', {}, titles.map(title => h('th', {scope: 'col'}, title)))),
    h('tbody', {}, found.map(each => h('tr', {}, [
      facts(each.page, each.worker ? `${each.tier} of process ${each.worker}` : each.tier), each.status ?? '', each.bytes == null ? '' : bytes(each.bytes),
      each.age_seconds == null ? '' : time(each.age_seconds),
      each.fresh_seconds == null ? '' : each.fresh_seconds > 0 ? time(each.fresh_seconds) : `stale since ${time(-each.fresh_seconds)}`,
      facts(each.type, each.varies_on ? `varies on ${each.varies_on.join(', ')}` : '', each.tags ? `tags ${each.tags.join(' ')}` : ''),
    ].map(cell => h('td', {}, String(cell))))))));
}

// Explaining.

function explainCard() {
  const url = h('input', {type: 'text', id: 'url', inputmode: 'url', spellcheck: 'false', placeholder: 'http://www.example.com/page'});
  const method = h('input', {type: 'text', id: 'method', value: 'GET', size: 7, list: 'methods'});
  const client = h('input', {type: 'text', id: 'client', value: '127.0.0.1', size: 15});
  const fields = h('textarea', {rows: 2, id: 'fields', spellcheck: 'false', placeholder: 'Cookie: session=1'});
  const answer = h('textarea', {rows: 2, id: 'answer', spellcheck: 'false', placeholder: 'Cache-Control: max-age=60'});
  const told = h('pre', {id: 'explained', 'aria-live': 'polite', tabindex: 0, hidden: true});
  const lines = area => area.value.split('\n').map(each => each.trim()).filter(Boolean);
  async function explain() {
    const question = {url: url.value, method: method.value, client: client.value, fields: lines(fields), answer: lines(answer)};
    try {
      text(told, (await ask('/explain', {method: 'POST', body: JSON.stringify(question), seconds: 15})).lines.join('\n'));
    } catch (error) {
      text(told, error.message);
    }
    told.hidden = false;
    return 'No origin was asked: its answer was made up.';
  }
  const button = action('Explain', explain, {id: 'explain'});
  url.addEventListener('keydown', event => { if (event.key === 'Enter') button.click(); });
  return card('Explain a URL', field('URL', url), h('div', {class: 'row'}, field('Method', method), field('Client', client)),
    h('details', {}, h('summary', {}, 'More of the request and the answer'), field('Fields of the request, one a line', fields), field('Fields of the origin\u2019s answer', answer)),
    h('div', {class: 'row'}, button), told);
}

// Requests under way.

const MOST_ACTIVE = 50;

function activeRow() {
  const request = h('span', {class: 'clamped'}), cells = ['', '', 'client', 'origin'].map((title, place) =>
    h('td', {class: place === 0 ? 'number' : place > 1 ? 'about' : '', 'data-title': title}));
  const made = h('tr', {}, h('th', {scope: 'row'}, request), cells);
  made.update = each => {
    text(request, facts(each.request, each.status));
    request.title = seen(each.request);
    const went = (who, there, back) => facts(who, `${bytes(there)} from it`, `${bytes(back)} to it`);
    text(cells[0], time(each.milliseconds / 1000));
    text(cells[1], each.phase.replace('_', ''));
    text(cells[2], went(each.client, each.bytes_in, each.bytes_out));
    text(cells[3], each.origin ? went(each.origin, each.origin_bytes_in, each.origin_bytes_out) : '–');
  };
  return made;
}

function activeCard() {
  const about = h('p', {class: 'facts'}), body = h('tbody');
  const table = h('div', {class: 'wide'}, h('table', {class: 'active'}, h('thead', {}, h('tr', {}, ['request', 'for', 'phase', 'client', 'origin'].map((title, place) =>
    h('th', {scope: 'col', class: place === 1 ? 'number' : ''}, title)))), body));
  const made = card('Under way', about, table);
  made.update = report => {
    const listed = [...report.under_way ?? []].sort((one, other) => other.milliseconds - one.milliseconds).slice(0, MOST_ACTIVE);
    text(about, facts(`${count(report.active)} requests`, listed.length < report.active ? `the ${listed.length} oldest are listed` : ''));
    table.hidden = !listed.length;
    keep(body, listed.map(each => [each.id, each]), activeRow);
  };
  return made;
}

let pools, modules, active, everything;

export function update(report, now) {
  const section = $('#proxy');
  if (!section.firstChild) {
    pools = h('div', {class: 'stack'});
    modules = h('div', {class: 'modules'});
    active = activeCard();
    everything = toggle();
    section.append(h('div', {class: 'head'}, h('h2', {}, 'Origins'), everything), pools,
      h('div', {class: 'cards two'}, cacheCard(), explainCard()), h('div', {class: 'stack'}, card('Rules, in order', modules), active));
  }
  const forwarder = report.modules?.Forwarder ?? {};
  everything.update(Boolean(forwarder.maintenance));
  keep(pools, Object.entries(forwarder.pools ?? {}).map(([name, pool]) => [name, {pool, now}]), poolCard);
  const bygone = report.crew?.bygone?.modules ?? {};
  keep(modules, Object.entries(report.modules ?? {}).map(([name, each]) => [name, {report: each, bygone: bygone[name]}]), moduleRow);
  active.update(report);
}
