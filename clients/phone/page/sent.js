// What was sent, for people to see.

import {$} from './state.js';
import * as store from './store.js';
import {TEXT} from './strings.js';

const MOST_SENT = 200; // lines

export const sent = {count: 0, bytes: 0, lines: []};

export function wasSent({type, facts, bytes}) {
  const words = TEXT.sent[type];
  const clock = new Date().toLocaleTimeString();
  sent.count += 1;
  sent.bytes += bytes;
  sent.lines.push(`${clock} ${typeof words === 'function' ? words(facts) : words} (${TEXT.size(bytes)})`);
  sent.lines.splice(0, sent.lines.length - MOST_SENT);
  listSent(sent.lines.at(-1));
  store.put('facts', 'sent', {...sent}).catch(() => {}); // for people: what it says happened all the same
}

export function listSent(...lines) {
  $('sent-sum').textContent = TEXT.sentSum(sent.count, sent.bytes);
  for (const line of lines) $('sent-list').prepend(Object.assign(document.createElement('li'), {textContent: line}));
  while ($('sent-list').children.length > MOST_SENT) $('sent-list').lastChild.remove();
}
