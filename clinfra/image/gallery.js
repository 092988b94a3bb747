// The gallery: uploads, the sizes that came of them, and a playground of recipes.
// Whatever a picture is called is only ever text; the page's policy allows nothing else.
'use strict';

const settings = JSON.parse(document.querySelector('meta[name=gallery]').content);
const UPLOADS_AT_ONCE = 2;
const MOST_REMEMBERED = 24;
const PAUSE_MS = 180; // after the last turn of a knob

const $ = (selector, from = document) => from.querySelector(selector);
const all = (selector, from = document) => [...from.querySelectorAll(selector)];
const clone = id => $('#' + id).content.firstElementChild.cloneNode(true);

// No line is broken inside of a number and its unit.
function bytes(count) {
  if (count < 1000) return `${count}\u00a0B`;
  if (count < 1e6) return `${(count / 1e3).toFixed(count < 9950 ? 1 : 0)}\u00a0kB`;
  return `${(count / 1e6).toFixed(1)}\u00a0MB`;
}

const time = ms => ms < 1000 ? `${Math.max(1, Math.round(ms))}\u00a0ms` : `${(ms / 1000).toFixed(1)}\u00a0s`;
const pixels = (width, height) => `${width}\u00a0×\u00a0${height}`;
const facts = (...parts) => parts.filter(Boolean).join('\u00a0· ');

// What the service makes.

const sentence = (status, text) => text.trim() || `The service answers ${status}.`;

async function answered(request) {
  let answer;
  try {
    answer = await request;
  } catch (error) {
    throw error.name === 'AbortError' ? error : new Error('The service does not answer.');
  }
  if (answer.ok) return answer;
  throw Object.assign(new Error(sentence(answer.status, await answer.text())), {status: answer.status});
}

// Returns its canonical recipe, its address, and the picture itself.
async function obtain(name, recipe, signal) {
  const query = new URLSearchParams({name, recipe});
  const signed = await (await answered(fetch('gallery/sign?' + query, {
    headers: {'X-Gallery-Token': settings.token}, signal,
  }))).json();
  const begun = performance.now();
  const answer = await answered(fetch(signed.url, {
    headers: {Accept: 'image/avif,image/webp,image/*;q=0.8'}, cache: 'no-store', signal,
  }));
  const body = await answer.blob();
  return {...signed, body, url: new URL(signed.url, document.baseURI).href,
    ms: performance.now() - begun};
}

async function show(figure, made, about) {
  const image = $('img', figure);
  if (image.src) URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(made.body);
  image.alt = about;
  const link = $('a', figure);
  if (link) link.href = made.url;
  const kind = made.body.type.replace('image/', '').toUpperCase();
  try {
    await image.decode();
  } catch {
    throw new Error(`This browser cannot show this ${kind}.`);
  }
  $('figcaption span', figure).textContent = facts(
    pixels(image.naturalWidth, image.naturalHeight), kind, bytes(made.body.size), time(made.ms));
}

// Pictures that were put here.

const remembered = {
  all() {
    try { return JSON.parse(localStorage.gallery || '[]'); } catch { return []; }
  },
  change(picture, ...more) {
    const others = this.all().filter(each => each.name !== picture.name);
    try {
      localStorage.gallery = JSON.stringify([...more, ...others].slice(0, MOST_REMEMBERED));
    } catch { /* then not */ }
  },
  add(picture) { this.change(picture, picture); },
  remove(picture) { this.change(picture); },
};

function place(picture, first) {
  all('article').filter(each => each.dataset.name === picture.name).forEach(each => each.remove());
  const article = clone('picture');
  article.dataset.name = picture.name;
  $('h2', article).textContent = picture.title;
  $('.facts', article).textContent = picture.facts;
  $('.play', article).onclick = () => play(article, picture);
  $('.remove', article).onclick = () => { remembered.remove(picture); article.remove(); };
  for (const size of picture.sizes) {
    const figure = clone('size');
    $('b', figure).textContent = size;
    if (/^[0-9a-f]{6}$/.test(picture.average)) $('a', figure).style.background = '#' + picture.average;
    $('.sizes', article).append(figure);
    obtain(picture.name, size)
      .then(made => show(figure, made, `${picture.title}, ${size}`))
      .catch(error => {
        if (error.status === 404) remembered.remove(picture);
        $('figcaption span', figure).textContent = error.message;
        figure.className = 'bad';
      });
  }
  if (first) $('#pictures').prepend(article); else $('#pictures').append(article);
  return article;
}

// Uploads.

const waiting = [];
let underWay = 0;

function take(files) {
  all('#arriving .bad').forEach(row => row.remove());
  for (const file of files) {
    const row = clone('arrival');
    $('.title', row).textContent = file.name;
    $('progress', row).setAttribute('aria-label', file.name);
    $('#arriving').append(row);
    waiting.push([file, row]);
  }
  while (underWay < UPLOADS_AT_ONCE && waiting.length) next();
}

function next() {
  if (!waiting.length) return;
  const [file, row] = waiting.shift();
  underWay += 1;
  upload(file, row).then(picture => {
    row.remove();
    remembered.add(picture);
    const article = place(picture, true);
    $('#told').textContent = `${picture.title} is there, in ${picture.sizes.length} sizes.`;
    if (!$('.playground')) play(article, picture);
  }, error => {
    row.className = 'bad';
    row.setAttribute('role', 'alert');
    $('progress', row).remove();
    $('.state', row).textContent = error.message;
  }).finally(() => { underWay -= 1; next(); });
}

function upload(file, row) {
  const request = new XMLHttpRequest();
  const state = $('.state', row), bar = $('progress', row);
  const begun = performance.now();
  request.upload.onprogress = event => { bar.value = event.loaded / (event.total || 1); };
  request.upload.onload = () => {
    bar.removeAttribute('value');
    state.textContent = 'being made';
  };
  return new Promise((resolve, reject) => {
    request.onerror = () => reject(new Error('The connection was lost.'));
    request.onload = () => {
      if (request.status !== 200) {
        reject(new Error(sentence(request.status, request.responseText)));
        return;
      }
      const info = JSON.parse(request.responseText);
      resolve({
        name: info.blob_info_name.replace(/\.json$/, ''),
        title: file.name,
        sizes: Object.keys(info.blob_names),
        frames: info.frames || 1,
        average: info.average || '',
        facts: facts(
          pixels(info.oriented_width || info.width, info.oriented_height || info.height),
          info.format, bytes(file.size), info.frames > 1 && `${info.frames} frames`,
          info.truncated && 'cut short', `sent and made in ${time(performance.now() - begun)}`),
      });
    };
    request.open('PUT', './?response=info&keep=true&filename=' + encodeURIComponent(file.name));
    request.send(file);
  });
}

// The playground.

function play(article, picture) {
  const old = $('.playground'), here = old && article.contains(old);
  if (old) {
    $('.play', old.closest('article')).setAttribute('aria-expanded', 'false');
    old.remove();
  }
  if (here) return;
  const ground = clone('playground');
  article.append(ground);
  $('.play', article).setAttribute('aria-expanded', 'true');
  new Playground(ground, picture).start();
}

class Playground {
  constructor(ground, picture) {
    this.ground = ground;
    this.picture = picture;
    this.controls = $('.controls', ground);
    this.recipe = $('#recipe', ground);
    this.address = $('#address', ground);
    this.running = new AbortController();
    this.timer = 0;
  }

  start() {
    const {controls, ground, recipe} = this, mark = $('.point', ground);
    controls.oninput = () => this.turned();
    // Its fields are reset only after this event.
    controls.onreset = () => setTimeout(() => this.begin());
    recipe.onchange = () => this.make();
    ground.onsubmit = event => { event.preventDefault(); this.make(); };
    $('.copy', ground).onclick = () => this.copy();
    mark.onclick = event => {
      const box = $('img', mark).getBoundingClientRect();
      this.aim((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    };
    mark.onkeydown = event => {
      const step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
      if (!step) return;
      event.preventDefault();
      this.aim(this.point[0] + step[0] / 20, this.point[1] + step[1] / 20);
    };
    for (const name of settings.presets) {
      const button = document.createElement('button');
      button.type = 'button';
      button.textContent = name;
      button.onclick = () => { recipe.value = name; this.make(); };
      $('.presets', ground).append(button);
    }
    this.begin();
    this.compare();
  }

  begin() {
    const {width, height, mode, format, q} = this.controls.elements;
    [width.value, height.value, mode.value, format.value] = ['450', '450', 'fill', 'webp'];
    q.value = settings.quality;
    this.point = [0.5, 0.5];
    this.turned();
  }

  // The largest of the usual sizes, to compare with and to point into.
  async compare() {
    const area = size => /^\d+x\d+$/.test(size) ? size.split('x').reduce((a, b) => a * b) : 0;
    const size = this.picture.sizes.reduce((a, b) => area(b) > area(a) ? b : a, '600x450');
    const figure = $('.views figure', this.ground);
    $('b', figure).textContent = `Default ${size}`;
    try {
      await show(figure, await obtain(this.picture.name, size), this.picture.title);
    } catch (error) {
      $('figcaption span', figure).textContent = error.message;
    }
  }

  aim(x, y) {
    this.point = [x, y].map(each => Math.round(Math.min(1, Math.max(0, each)) * 1000) / 1000);
    this.controls.elements.mode.value = 'fill';
    this.controls.elements.gravity.value = 'point';
    this.turned();
  }

  turned() {
    const {mode, gravity, format, q, progressive, lossless, animate, frame} = this.controls.elements;
    const cut = mode.value === 'fill', film = this.picture.frames > 1;
    gravity.disabled = !(cut || mode.value === 'pad');
    for (const option of gravity.options) {
      option.disabled = !cut && ['point', 'smart'].includes(option.value);
      if (option.disabled && option.selected) gravity.value = 'center';
    }
    progressive.disabled = !['jpeg', 'auto'].includes(format.value);
    animate.disabled = !film || format.value === 'jpeg';
    frame.disabled = !film || (animate.checked && !animate.disabled);
    q.disabled = format.value === 'png' || lossless.checked;
    for (const range of all('[type=range]', this.controls)) range.previousElementSibling.textContent = range.value;
    const pointing = !gravity.disabled && gravity.value === 'point';
    const mark = $('.point', this.ground), [x, y] = this.point.map(each => `${(each * 100).toFixed(1)}%`);
    $('i', mark).hidden = !pointing;
    $('i', mark).style.left = x;
    $('i', mark).style.top = y;
    mark.setAttribute('aria-label', `Focal point: ${x} across, ${y} down. Click, or use the arrow keys.`);
    this.recipe.value = this.compose();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.make(), PAUSE_MS);
  }

  // What is switched off is not in the form's data.
  compose() {
    const said = Object.fromEntries(new FormData(this.controls));
    const other = (key, usual) => said[key] && said[key] !== usual && `${key}-${said[key]}`;
    const gravity = said.gravity === 'point' ? `fp-${this.point.join('x')}`
      : said.gravity && said.gravity !== 'center' && `g-${said.gravity}`;
    const sides = said.width || said.height ? `${said.width}x${said.height}` : 'full';
    return [
      sides, said.mode !== 'fit' && said.mode, gravity, said.enlarge && 'enlarge',
      said.trim && `trim-${said.trim}`, other('rotate', '0'), said.flip && 'flip',
      said.flop && 'flop', other('dpr', '1'), said.bg !== '#ffffff' && `bg-${said.bg.slice(1)}`,
      other('blur', '0'), other('sharpen', '0'), other('frame', '0'),
      said.animate && 'animate', said.keep && 'keep', other('q', String(settings.quality)),
      said.progressive && 'progressive', said.lossless && 'lossless',
      said.format !== 'jpeg' && said.format,
    ].filter(Boolean).join('_');
  }

  async make() {
    clearTimeout(this.timer);
    this.running.abort();
    const running = this.running = new AbortController();
    const figure = $('.result', this.ground), error = $('.error', this.ground);
    figure.setAttribute('aria-busy', 'true');
    try {
      const made = await obtain(this.picture.name, this.recipe.value.trim(), running.signal);
      if (running.signal.aborted) return;
      error.textContent = '';
      this.recipe.value = made.recipe;
      this.address.value = made.url;
      const until = new Date(made.expires * 1000).toLocaleTimeString([], {timeStyle: 'short'});
      $('.note', this.ground).textContent = !made.expires ? 'Anybody may ask for this.'
        : `Signed by this page until ${until}, or the service's next start.`;
      await show(figure, made, `${this.picture.title}, ${made.recipe}`);
    } catch (problem) {
      if (running.signal.aborted) return;
      error.textContent = problem.message;
      this.address.value = $('.note', this.ground).textContent = '';
    }
    figure.removeAttribute('aria-busy');
  }

  async copy() {
    const button = $('.copy', this.ground);
    try {
      await navigator.clipboard.writeText(this.address.value);
    } catch {
      this.address.select();
      document.execCommand('copy');
    }
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = 'Copy URL'; }, 1500);
  }
}

// The page itself.

const drop = $('#drop');
$('#bounds').textContent = facts(
  settings.formats.join(', '), `up to ${(settings.max_bytes / 2 ** 20).toFixed()} MiB`,
  `kept ${Math.round(settings.ttl_seconds / 86400)} days`, `sizes ${settings.sizes.join(', ')}`);
$('#shell').textContent = `curl -T photo.jpg '${new URL('./?response=info', document.baseURI)}'`;
$('#file').onchange = event => { take(event.target.files); event.target.value = ''; };
for (const kind of ['dragover', 'dragleave', 'drop']) {
  document.addEventListener(kind, event => {
    event.preventDefault();
    drop.classList.toggle('over', kind === 'dragover');
    if (kind === 'drop') take(event.dataTransfer.files);
  });
}
document.addEventListener('paste', event => {
  if (event.clipboardData.files.length) take(event.clipboardData.files);
});
for (const picture of remembered.all()) place(picture, false);
