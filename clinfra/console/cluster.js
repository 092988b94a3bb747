// The blob store: every replica of every bucket of every cluster, coloured by how it is.
import {$, act, action, ask, badge, bar, bytes, call, count, facts, h, keep, percent, seen, settings, tell, text, time, tree} from './parts.js';

const AT_ONCE = 8;
const PATIENCE_SECONDS = 2;
const ORDER = ['good', 'wait', 'warn', 'bad'];
const SIGNS = {good: '✓', wait: '…', warn: '!', bad: '✕'};
const TITLES = {good: 'well', wait: 'not known yet', warn: 'worth a look', bad: 'in trouble'};
const CHORES = {sync: 'Sync', purge: 'Purge', buffer: 'Buffer', scrub: 'Scrub'};
const MEANINGS = {sync: 'Compare with the others and bring what is lacking', purge: 'Drop what has expired', buffer: 'Send what waits now', scrub: 'Read every blob'};

const replicas = new Map(); // name → {cluster, bucket, ip, port, status, trouble, checked}
let config, byHost = false, asking = false, shown;
let open = new Set(); // whose cards are shown

const path = (command, name) => `${settings.cluster}_${command}/${encodeURIComponent(name)}`;

// How a replica is: a state, and the reasons for it.
function judge(replica) {
  const {status, trouble} = replica;
  if (trouble) return ['bad', [trouble]];
  if (!status) return ['wait', []];
  const reasons = [];
  const say = (state, sentence) => reasons.push([state, sentence]);
  for (const name of ['purge_status', 'sync_status', 'buffer_status']) {
    if (status[name]?.startsWith('failed')) say('bad', `${name.replace('_status', '')} ${status[name]}`);
  }
  const store = status.store_disk ?? {};
  for (const [word, free, total] of [['space', store.free_space, store.total_space], ['inodes', store.free_inodes, store.total_inodes]]) {
    if (!total) continue;
    const used = 1 - free / total;
    if (used >= 0.6) say(used >= 0.8 ? 'bad' : 'warn', `${percent(used)} of the disk\u2019s ${word} used`);
  }
  for (const part of ['index_sqlite', 'store_disk']) {
    const waiting = status[part]?.queue_size ?? 0;
    if (waiting >= 10) say(waiting >= 20 ? 'bad' : 'warn', `${count(waiting)} changes wait for the disk`);
  }
  for (const [name, peer] of Object.entries({...status.replicas, ...prefixed(status.clusters)})) {
    if (peer.lag_seconds > 60) say(peer.lag_seconds > 600 ? 'bad' : 'warn', `${name} lags by ${time(peer.lag_seconds)}`);
    else if (peer.lag_seconds == null && peer.events > 1000) say('warn', `${name} lacks ${count(peer.events)} changes`);
    if (peer.parked) say('warn', `${count(peer.parked)} changes were refused by ${name}`);
    if (peer.last_failed != null && peer.last_failed < 60) say('warn', `${name} failed ${time(peer.last_failed)} ago`);
  }
  if (status.scrub?.damaged) say('bad', `${count(status.scrub.damaged)} blobs damaged`);
  if (status.scrub?.quarantined) say('warn', `${count(status.scrub.quarantined)} in quarantine`);
  if (status.rejoin?.fenced) say('warn', 'proves its blobs before it serves them');
  if (status.refill?.filling) say('warn', `is filled from ${status.refill.source || 'others'}`);
  if (status.clock?.trouble) say('warn', String(status.clock.trouble));
  const worst = reasons.reduce((state, [each]) => ORDER.indexOf(each) > ORDER.indexOf(state) ? each : state, 'good');
  return [worst, reasons.sort(([one], [other]) => ORDER.indexOf(other) - ORDER.indexOf(one)).map(([, sentence]) => sentence)];
}

const prefixed = clusters => Object.fromEntries(Object.entries(clusters ?? {}).map(([id, each]) => [`cluster ${id}`, each]));

const lag = status => Math.max(0, ...Object.values({...status?.replicas, ...prefixed(status?.clusters)}).map(each => each.lag_seconds ?? 0));

// Asking.

async function refresh(name) {
  const replica = replicas.get(name);
  try {
    replica.status = await ask(path('status', name), {seconds: PATIENCE_SECONDS});
    replica.trouble = null;
  } catch (error) {
    replica.trouble = error.message.replace(`${name}: `, '');
  }
  replica.checked = Date.now();
}

async function refreshAll(wanted) {
  const names = [...wanted];
  const worker = async () => {
    while (names.length) {
      await refresh(names.shift());
      draw();
    }
  };
  await Promise.all(Array.from({length: AT_ONCE}, worker));
}

async function readConfig() {
  config = (await ask(`${settings.cluster}_config`)).clblob.client;
  const known = new Set();
  config.clusters.forEach((buckets, cluster) => buckets.forEach((bucket, number) => bucket.replicas.forEach(name => {
    const about = {cluster, bucket: number, ...config.replicas[name]};
    replicas.set(name, {...replicas.get(name), ...about});
    known.add(name);
  })));
  for (const name of replicas.keys()) if (!known.has(name)) replicas.delete(name);
  open = new Set([...open].filter(name => known.has(name)));
  if (!open.size && !shown.emptied) open.add(config.replica ?? [...known][0]);
}

async function chore(name, command) {
  await call(path(command, name), {method: 'POST', seconds: 8});
  await refresh(name);
  draw();
  return `${CHORES[command]}: ${name} begins with it.`;
}

async function choreOf(command, names) {
  if (!names.length) throw new Error('No card is shown.');
  const failed = [];
  for (const name of names) {
    try { await chore(name, command); } catch { failed.push(name); }
  }
  if (failed.length) throw new Error(`${CHORES[command]}: ${failed.join(', ')} could not be asked.`);
  return `${CHORES[command]}: ${names.length === 1 ? `${names[0]} begins` : `all ${names.length} begin`} with it.`;
}

// The grid.

function tile(name) {
  const sign = h('i', {'aria-hidden': 'true'}), lagging = h('small');
  const made = h('button', {type: 'button', class: 'tile', onclick: () => { only(name); }}, sign, h('span', {}, name), lagging);
  made.update = () => {
    const replica = replicas.get(name);
    const [state, reasons] = judge(replica);
    const told = replica.trouble ? 'no answer' : replica.status ? lag(replica.status) > 1 ? `lag ${time(lag(replica.status))}` : '' : '';
    made.className = `tile ${state}`;
    text(sign, SIGNS[state]);
    text(lagging, told);
    made.title = seen(facts(TITLES[state], ...reasons));
    made.setAttribute('aria-label', seen(facts(`Replica ${name}`, TITLES[state], ...reasons)));
    made.setAttribute('aria-pressed', open.has(name));
  };
  return made;
}

function group(title) {
  const about = badge(), tiles = h('div', {class: 'tiles'});
  const made = h('div', {class: 'bucket'}, h('h3', {}, title), about, tiles);
  made.update = names => {
    const well = names.filter(name => !replicas.get(name).trouble && replicas.get(name).status).length;
    const known = names.every(name => replicas.get(name).checked);
    const least = well === names.length ? 'good' : well > 1 ? 'warn' : 'bad';
    about.update(byHost ? `${well} of ${names.length} answer` : `${well} of ${names.length} copies`, known ? least : 'wait');
    keep(tiles, names.map(name => [name, name]), tile);
  };
  return made;
}

function groups() {
  const found = new Map();
  for (const [name, replica] of replicas) {
    const clusters = config.clusters.length > 1 ? `Cluster ${replica.cluster}, bucket ${replica.bucket}` : `Bucket ${replica.bucket}`;
    const key = byHost ? replica.ip : clusters;
    found.set(key, [...found.get(key) ?? [], name]);
  }
  return [...found].sort(([one], [other]) => byHost ? one.localeCompare(other, 'en', {numeric: true}) : 0);
}

// The card of one replica.

function consoleOf({ip, port}) {
  const url = new URL('/_console', location.origin);
  url.protocol = 'http:';
  url.hostname = ip.includes(':') ? `[${ip}]` : ip;
  url.port = port;
  return url.href;
}

function replicaCard(name) {
  const title = h('h2'), state = badge(), reasons = h('ul', {class: 'reasons'}), about = h('p', {class: 'facts'});
  const space = bar('Space of its disk'), spaceFacts = h('p', {class: 'facts'}), peers = h('tbody'), chores = h('p', {class: 'facts'}), raw = h('div');
  const details = h('details', {ontoggle: () => draw()}, h('summary', {}, 'Everything it tells'), raw);
  const buttons = h('div', {class: 'row'}, action('Refresh', async () => {
    await refresh(name);
    draw();
    return `${name}: ${TITLES[judge(replicas.get(name))[0]]}.`;
  }), settings.actions && Object.entries(CHORES).map(([command, label]) => action(label, () => chore(name, command), {'data-chore': command, title: MEANINGS[command]})));
  const address = h('a', {class: 'button', rel: 'noreferrer'});
  buttons.append(address);
  const table = h('div', {class: 'wide'}, h('table', {}, h('thead', {}, h('tr', {}, ['changes for', 'waiting', 'lag', 'refused', 'sent', 'compared', ''].map((each, place) =>
    h('th', {scope: 'col', class: place > 0 && place < 6 ? 'number' : ''}, each)))), peers));
  const made = h('article', {class: 'card whole', 'data-replica': name}, h('div', {class: 'head'}, title, state), about, reasons, space, spaceFacts, table, chores, buttons, details);
  made.update = () => {
    const replica = replicas.get(name);
    const {status} = replica, [how, why] = judge(replica);
    text(title, `Replica ${name}`);
    text(address, `Its own console: ${replica.ip}:${replica.port}`);
    address.href = consoleOf(replica);
    state.update(TITLES[how], how);
    reasons.className = `reasons ${how}`;
    keep(reasons, why.map(each => [each, each]), each => Object.assign(h('li', {}, each), {update() {}}));
    text(about, facts(`cluster ${replica.cluster}, bucket ${replica.bucket}`, `${replica.ip}:${replica.port}`, `read weight ${replica.read_weight}`,
      replica.checked && Date.now() - replica.checked > 3000 ? `asked ${time((Date.now() - replica.checked) / 1000)} ago` : ''));
    const store = status?.store_disk;
    space.hidden = spaceFacts.hidden = table.hidden = chores.hidden = !status;
    if (!status) return;
    const used = store?.total_space ? 1 - store.free_space / store.total_space : 0;
    space.update(used, used >= 0.8 ? 'bad' : used >= 0.6 ? 'warn' : 'calm');
    const events = status.events ?? {};
    text(spaceFacts, facts(`${bytes(store?.free_space)} of ${bytes(store?.total_space)} free`, `index ${bytes(status.index_sqlite?.size)}`,
      ...['get', 'put', 'delete'].map(kind => `${count(events[kind]?.total ?? 0)} ${kind}`)));
    const compared = status.repair?.destinations ?? {};
    const rows = [...Object.entries(status.replicas ?? {}).map(([name, each]) => [`replica ${name}`, each, compared[`peer:${name}`]]),
      ...Object.entries(status.clusters ?? {}).map(([id, each]) => [`cluster ${id}`, each, compared[`cluster:${id}`]])];
    table.hidden = !rows.length;
    keep(peers, rows.map(([name, each, comparison]) => [name, {each, comparison}]), peerRow);
    const {scrub} = status;
    text(chores, facts(`sync: ${status.sync_status}`, `purge: ${status.purge_status}`, status.buffer_status, scrub ?
      facts(`scrub: ${scrub.running ? 'under way' : scrub.ended_seconds == null ? 'not ended yet' : `ended ${time(scrub.ended_seconds)} ago`}`, `${count(scrub.checked)} blobs read`, `${count(scrub.damaged)} damaged`, `${count(scrub.quarantined)} in quarantine`) : ''));
    if (details.open) raw.replaceChildren(tree(status));
  };
  return made;
}

function peerRow(name) {
  const cells = Array.from({length: 6}, (_, place) => h('td', {class: place < 5 ? 'number' : 'about'}));
  const made = h('tr', {}, h('th', {scope: 'row'}, name), cells);
  made.update = ({each, comparison}) => {
    text(cells[0], count(each.waiting ?? each.events));
    text(cells[1], time(each.lag_seconds));
    text(cells[2], count(each.parked ?? 0));
    text(cells[3], count(each.sent));
    text(cells[4], comparison?.compared_seconds == null ? '–' : `${time(comparison.compared_seconds)} ago`);
    text(cells[5], facts(comparison?.lacked ? `lacked ${count(comparison.lacked)}` : '', comparison?.trouble, each.last_failed == null ? '' : `failed ${time(each.last_failed)} ago`));
  };
  return made;
}

// All together.

const waiting = (known, whom) => known.flatMap(each => Object.values(each[whom] ?? {})).reduce((all, each) => all + (each.waiting ?? each.events ?? 0), 0);

function fullest(word, known, what) {
  const used = known.map(each => each.store_disk).filter(store => store?.[`total_${what}`]).map(store => 1 - store[`free_${what}`] / store[`total_${what}`]);
  return used.length ? `fullest ${word} ${percent(Math.max(...used))}` : '';
}

// Shows one card only, none, or all.
function only(...names) {
  open = new Set(names);
  shown.emptied = !names.length;
  draw();
}

function draw() {
  if (!config || !shown) return;
  const all = [...replicas.values()], states = all.map(each => judge(each)[0]);
  const known = all.filter(each => each.status && !each.trouble).map(each => each.status);
  text(shown.summary, facts(`${all.length} ${all.length === 1 ? 'replica' : 'replicas'}`, ...ORDER.slice().reverse().map(state => {
    const many = states.filter(each => each === state).length;
    return many ? `${many} ${TITLES[state]}` : '';
  }), `${count(waiting(known, 'replicas'))} changes wait for replicas`, config.clusters.length > 1 ? `${count(waiting(known, 'clusters'))} for clusters` : '',
  `longest lag ${time(Math.max(0, ...known.map(lag)))}`, fullest('disk', known, 'space'), fullest('inodes', known, 'inodes')));
  keep(shown.grid, groups(), group);
  keep(shown.cards, groups().flatMap(([, names]) => names).filter(name => open.has(name)).map(name => [name, name]), replicaCard);
  shown.view.setAttribute('aria-pressed', byHost);
}

function make() {
  const view = h('button', {type: 'button', class: 'small', onclick: () => { byHost = !byHost; shown.grid.replaceChildren(); draw(); }}, 'By host');
  shown = {summary: h('p', {class: 'facts', id: 'summary'}), grid: h('div', {class: 'grid'}), cards: h('div', {class: 'stack', id: 'replicas'}), view, emptied: false};
  const section = $('#blob');
  section.append(h('div', {class: 'head'}, h('h2', {}, 'Cluster'), view), shown.summary, shown.grid, shown.cards);
}

// Looks at every replica, unless it is doing so.
export async function update() {
  if (asking || !settings.cluster) return;
  asking = true;
  if (!shown) make();
  try {
    await readConfig();
    await refreshAll(replicas.keys());
  } catch (error) {
    if (!config) text(shown.summary, error.message);
    else tell(error.message, true);
  } finally {
    asking = false;
    draw();
  }
}

// Replicas in trouble, as [where, sentence].
export function worries() {
  return [...replicas].flatMap(([name, replica]) => {
    const [state, [reason]] = judge(replica);
    return state === 'bad' ? [['blob', `Replica ${name}: ${reason}`]] : [];
  });
}

export const KEYS = [
  ['r, space', 'refresh the replicas whose cards are shown; R: all'], ['s', 'sync them; S: all'], ['p', 'purge them; P: all'],
  ['b', 'buffer: they send what waits; B: all'], ['h', 'hide all cards; H: show all'], ['i', 'by host, or by bucket'], ['← →', 'show another card'],
];

// Does what a key is for; returns whether it is for anything.
export function pressed(key) {
  if (!config) return false;
  const all = groups().flatMap(([, each]) => each), names = all.filter(name => open.has(name));
  const commands = {s: 'sync', p: 'purge', b: 'buffer'};
  const run = work => act(shown.view, work);
  if (key === 'r' || key === ' ') refreshAll(names);
  else if (key === 'R') update();
  else if (key === 'h') only();
  else if (key === 'H') only(...all);
  else if (key === 'i' || key === 'I') shown.view.click();
  else if (key === 'ArrowLeft') only(all.at((all.indexOf(names[0]) || all.length) - 1));
  else if (key === 'ArrowRight') only(all[(all.indexOf(names.at(-1)) + 1) % all.length]);
  else if (settings.actions && commands[key]) run(() => choreOf(commands[key], names));
  else if (settings.actions && commands[key.toLowerCase()]) run(() => choreOf(commands[key.toLowerCase()], all));
  else return false;
  return true;
}
