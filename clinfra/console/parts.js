// What the page is made of.  Text is only ever text: the page's policy allows no markup,
// and characters that would hide or turn around what stands beside them are spelled out.

export const settings = JSON.parse(document.querySelector('meta[name=console]').content);

export const $ = (selector, from = document) => from.querySelector(selector);

const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;

export const seen = value => value == null ? '' : String(value).replace(UNSEEN, each => `\\u{${each.codePointAt(0).toString(16)}}`);

// Makes an element: h('button', {class: 'x', onclick: f}, 'text', other elements...).
export function h(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith('on')) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, '');
    else if (value !== false && value != null) made.setAttribute(key, key === 'title' || key.startsWith('aria-') ? seen(value) : value);
  }
  made.append(...children.flat().filter(each => each != null && each !== false).map(each => each instanceof Node ? each : seen(each)));
  return made;
}

export function text(element, value) {
  const told = seen(value);
  if (element.textContent !== told) element.textContent = told;
}

// Keeps the children of `parent` as they are where their keys stay, so that what has
// the focus keeps it.  `items` are [key, value]; `make` returns an element whose
// `update` takes a value.
export function keep(parent, items, make) {
  const known = new Map([...parent.children].map(each => [each.key, each]));
  let before = null;
  for (const [key, value] of items) {
    let element = known.get(key);
    known.delete(key);
    if (!element) {
      element = make(key, value);
      element.key = key;
    }
    const place = before ? before.nextSibling : parent.firstChild;
    if (place !== element) parent.insertBefore(element, place);
    element.update(value);
    before = element;
  }
  for (const element of known.values()) element.remove();
}

// Numbers for people.  No line is broken between a number and its unit.

const NARROW = '\u202f';

export function count(value) {
  if (value == null) return '–';
  return Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, NARROW);
}

export function bytes(value) {
  if (value == null) return '–';
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value >= 10 || !unit ? Math.round(value) : value.toFixed(1)}\u00a0${units[unit]}`;
}

export function rate(value) {
  if (value == null) return '–';
  return `${value >= 10 ? count(value) : value.toFixed(value ? 1 : 0)}/s`;
}

export function time(seconds) {
  if (seconds == null) return '–';
  if (seconds < 0.001) return '0\u00a0s';
  if (seconds < 1) return `${Math.max(1, Math.round(seconds * 1000))}\u00a0ms`;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)}\u00a0s`;
  const parts = [[86400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']];
  const first = parts.findIndex(([size]) => seconds >= size);
  return parts.slice(first, first + 2).map(([size, unit], place) => {
    const whole = Math.floor((place ? seconds % parts[first][0] : seconds) / size);
    return whole ? `${whole}\u00a0${unit}` : '';
  }).filter(Boolean).join(' ');
}

export const percent = share => `${Math.round(100 * share)}\u00a0%`;
export const facts = (...parts) => parts.filter(Boolean).join('\u00a0· ');

// Asking the service.

export class Refusal extends Error {}

export async function call(path, {method = 'GET', body, headers = {}, seconds = 8} = {}) {
  let answer;
  try {
    // Not relative to the page's address: that may have a password in it.
    answer = await fetch(new URL(path, location.origin), {
      method, body, cache: 'no-store', signal: AbortSignal.timeout(seconds * 1000),
      headers: method === 'GET' ? headers : {...headers, 'X-Console-Token': settings.token ?? ''},
    });
  } catch (error) {
    throw new Error(error.name === 'TimeoutError' ? `No answer within ${seconds} s.` : 'clinfra does not answer.');
  }
  const said = await answer.text();
  if (!answer.ok) throw new Refusal(said.trim() || `It answers ${answer.status}.`);
  return said;
}

export const ask = async (path, options) => JSON.parse(await call(path, options));

// Says something at the bottom of the page for a while.
let hiding;
export function tell(sentence, bad = false) {
  const told = $('#told');
  told.hidden = false;
  told.className = bad ? 'bad' : '';
  text(told, sentence);
  clearTimeout(hiding);
  hiding = setTimeout(() => { told.hidden = true; }, bad ? 10000 : 5000);
}

// Does something for a button, once at a time, and says how it went.
export async function act(button, work) {
  if (button.getAttribute('aria-busy')) return;
  button.setAttribute('aria-busy', 'true');
  try {
    tell(await work());
  } catch (error) {
    tell(error.message, true);
  } finally {
    button.removeAttribute('aria-busy');
  }
}

export const action = (label, work, properties = {}) => h('button', {
  type: 'button', ...properties, onclick: event => act(event.currentTarget, work),
}, label);

// Pieces.

export function bar(label) {
  const fill = h('i');
  const made = h('span', {class: 'bar', role: 'meter', 'aria-label': label, 'aria-valuemin': 0, 'aria-valuemax': 100}, fill);
  made.update = (share, state = 'good', shown = '') => {
    const whole = Math.round(100 * Math.min(1, Math.max(0, share || 0)));
    fill.style.width = `${whole}%`;
    made.className = `bar ${state}`;
    made.setAttribute('aria-valuenow', whole);
    made.setAttribute('aria-valuetext', seen(shown) || `${whole} %`);
    made.title = seen(shown) || `${whole} %`;
  };
  return made;
}

export function badge() {
  const made = h('span', {class: 'badge'});
  made.update = (word, state) => {
    text(made, word);
    made.className = `badge ${state}`;
  };
  return made;
}

// A value of a report, whatever it is, as nested lists.
export function tree(value) {
  if (Array.isArray(value)) {
    if (!value.length) return '–';
    if (value.every(each => typeof each !== 'object' || each === null)) return value.join(', ');
    return h('div', {}, value.map(tree));
  }
  if (value && typeof value === 'object') {
    const entries = Object.entries(value);
    if (!entries.length) return '–';
    return h('dl', {class: 'tree'}, entries.map(([name, each]) =>
      h('div', {class: each && typeof each === 'object' && Object.keys(each).length ? 'inner' : ''},
        h('dt', {}, name.replaceAll('_', ' ')), h('dd', {}, tree(each)))));
  }
  if (typeof value === 'number') return Number.isInteger(value) ? count(value) : String(+value.toPrecision(4));
  return value == null || value === '' ? '–' : String(value);
}

export const card = (title, ...children) => h('article', {class: 'card'}, h('h2', {}, title), ...children);
