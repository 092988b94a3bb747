// Small line charts of the last minutes.  What was before this page was opened, clinfra
// tells.
import {h, text} from './parts.js';

export const PERIOD_MS = 2000;
const MOST_POINTS = 150;
const WIDTH = 300;
const HEIGHT = 72;
const SVG = 'http://www.w3.org/2000/svg';

function svg(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

export class Chart {
  // `names` of the lines; `format` makes a number readable.
  constructor(title, names, format) {
    this.names = names;
    this.format = format;
    this.points = names.map(() => []);
    this.lines = names.map((name, place) => svg('polyline', {class: `line${place}`, fill: 'none'}));
    this.area = svg('polygon', {class: 'area'});
    this.drawing = svg('svg', {viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: 'none', role: 'img'});
    this.drawing.append(
      svg('line', {class: 'grid', x1: 0, x2: WIDTH, y1: 1, y2: 1}),
      svg('line', {class: 'grid', x1: 0, x2: WIDTH, y1: HEIGHT / 2, y2: HEIGHT / 2}),
      svg('line', {class: 'grid', x1: 0, x2: WIDTH, y1: HEIGHT - 1, y2: HEIGHT - 1}),
      this.area, ...this.lines);
    this.values = names.map(() => h('b'));
    this.top = h('span', {class: 'top'});
    this.title = title;
    this.element = h('figure', {class: 'chart'},
      h('figcaption', {}, h('span', {class: 'title'}, title, this.top), names.map((name, place) =>
        h('span', {class: `legend line${place}`}, h('i'), `${name} `, this.values[place]))),
      h('div', {class: 'plot'}, this.drawing),
      h('div', {class: 'axis', 'aria-hidden': 'true'},
        h('span', {}, `${Math.round(MOST_POINTS * PERIOD_MS / 60000)} min ago`), h('span', {}, 'now')));
  }

  // Forgets everything.
  clear() {
    this.points.forEach(points => points.splice(0));
  }

  // Adds a value for each line; null where it is not known.
  push(values) {
    this.add(values);
    this.draw();
  }

  // The same without drawing.
  add(values) {
    values.forEach((value, place) => {
      const points = this.points[place];
      points.push(value);
      if (points.length > MOST_POINTS) points.shift();
      text(this.values[place], this.format(value));
    });
  }

  draw() {
    const known = this.points.flat().filter(value => value != null);
    const top = nice(Math.max(...known, 0));
    const step = WIDTH / (MOST_POINTS - 1);
    const at = (value, place, all) =>
      `${(WIDTH - (all.length - 1 - place) * step).toFixed(1)},${(HEIGHT - 1 - (value ?? 0) / top * (HEIGHT - 2)).toFixed(1)}`;
    this.points.forEach((points, place) => {
      const drawn = points.map(at);
      this.lines[place].setAttribute('points', drawn.join(' '));
      if (place === 0 && drawn.length) {
        const left = drawn[0].split(',')[0];
        this.area.setAttribute('points', `${left},${HEIGHT} ${drawn.join(' ')} ${WIDTH},${HEIGHT}`);
      }
    });
    text(this.top, `up to ${this.format(top)}`);
    const told = this.names.map((name, place) => `${name} ${this.format(this.points[place].at(-1))}`);
    this.drawing.setAttribute('aria-label', `${this.title}: ${told.join(', ')}`);
  }
}

function nice(value) {
  if (value <= 1) return 1;
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 5, 7, 10].map(each => each * size).find(each => each >= value);
}

// Turns counters into counts per second.
export class Rates {
  before = new Map();

  clear() {
    this.before.clear();
  }

  of(name, total, now) {
    const last = this.before.get(name);
    if (total == null) return null;
    this.before.set(name, {total, now});
    if (!last || now <= last.now || total < last.total) return null;
    return (total - last.total) / ((now - last.now) / 1000);
  }
}
