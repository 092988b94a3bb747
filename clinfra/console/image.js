// The image service: its queue, how long pictures take, and the way to the gallery.
import {$, bar, card, count, facts, h, keep, text, time} from './parts.js';

const KINDS = {upload: 'Uploads', demand: 'On demand'};

function gallery(addresses) {
  const address = (addresses ?? []).find(each => each.startsWith('http'));
  if (!address) return null;
  const url = new URL(address);
  if (['0.0.0.0', '[::]'].includes(url.hostname)) url.hostname = location.hostname;
  return url.href;
}

function kindCard(kind) {
  const about = h('p', {class: 'facts'}), body = h('tbody');
  const made = card(KINDS[kind] ?? kind, about, h('div', {class: 'wide'}, h('table', {},
    h('thead', {}, h('tr', {}, ['format', 'pictures', 'each took'].map((title, place) =>
      h('th', {scope: 'col', class: place ? 'number' : ''}, title)))), body)));
  made.update = ({waited, worked, ...tally}) => {
    text(about, facts(`${count(tally.rendered)} made`, `${count(tally.waiting)} waiting`,
      waited?.count ? `waited ${time(waited.seconds / waited.count)} on average` : '',
      ...['bad', 'refused', 'cancelled'].map(word => tally[word] ? `${count(tally[word])} ${word}` : '')));
    keep(body, Object.entries(worked ?? {}), format => {
      const cells = [h('td', {class: 'number'}), h('td', {class: 'number'})];
      const row = h('tr', {}, h('th', {scope: 'row'}, format), cells);
      row.update = spent => {
        text(cells[0], count(spent.count));
        text(cells[1], spent.count ? time(spent.seconds / spent.count) : '');
      };
      return row;
    });
  };
  return made;
}

function queueCard() {
  const busy = bar('Workers that are busy'), about = h('p', {class: 'facts'}), more = h('p', {class: 'facts'});
  const link = h('a', {class: 'button', rel: 'noreferrer', target: '_blank'}, 'Open the gallery and playground');
  const made = card('Queue', about, busy, more, h('p', {}, link));
  made.update = ({report, addresses}) => {
    text(about, facts(`${count(report.busy)} of ${count(report.workers)} workers busy`, `${count(report.waiting)} waiting`,
      `backlog of ${(report.backlog_photographs ?? 0).toFixed(1)} photographs`));
    busy.update(report.workers ? report.busy / report.workers : 0, report.waiting ? 'warn' : 'calm', `${report.busy} of ${report.workers}`);
    const demand = report.on_demand ?? {};
    text(more, facts(`${count(report.rendered)} made`, `${count(report.bad)} bad`, `${count(report.refused)} refused`, `${count(report.timed_out)} took too long`,
      `${count(report.died)} workers died`, `${count(demand.stored)} found, ${count(demand.made)} made on demand`));
    const url = gallery(addresses);
    link.hidden = !url;
    if (url) link.href = url;
  };
  return made;
}

let queue, kinds;

export function update(report, addresses) {
  const section = $('#image');
  if (!queue) {
    queue = queueCard();
    kinds = h('div', {class: 'cards two'});
    section.append(queue, kinds);
  }
  queue.update({report, addresses});
  keep(kinds, Object.entries(report.kinds ?? {}), kindCard);
}
