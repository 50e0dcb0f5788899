// The events as they come, newest on top, at most 300.

import { $, h, setText } from "./dom.js";
import { pill, when } from "./format.js";

const MOST = 300;
const PAUSED_MOST = 300;

let waiting = []; // newest last; put on the page together
let paused = false;
let drawing = false;
let filter = "";

export function startEvents() {
  $("events-filter").addEventListener("input", (event) => {
    filter = event.target.value.trim().toLowerCase();
    for (const row of $("events").children) row.hidden = !fits(row);
    showEmpty();
  });
  $("events-pause").addEventListener("click", () => {
    paused = !paused;
    showPause();
    if (!paused) draw();
  });
}

export function clearEvents() {
  waiting = [];
  $("events").replaceChildren();
}

export function addEvents(events) {
  waiting.push(...events.slice(-MOST));
  if (waiting.length > PAUSED_MOST) waiting.splice(0, waiting.length - PAUSED_MOST);
  if (paused) showPause();
  else if (!drawing) {
    drawing = true;
    setTimeout(() => {
      drawing = false;
      if (!paused) draw();
    }, 200);
  }
}

function draw() {
  const list = $("events");
  const fresh = waiting.length <= 30; // a flood does not flash
  const rows = waiting.map((event) => eventRow(event, fresh)).reverse();
  waiting = [];
  setTimeout(() => rows.forEach((row) => row.classList.remove("fresh")), 1000);
  for (const row of rows) row.hidden = !fits(row);
  list.prepend(...rows);
  while (list.children.length > MOST) list.lastElementChild.remove();
  showEmpty();
}

function showPause() {
  const button = $("events-pause");
  button.setAttribute("aria-pressed", String(paused));
  setText(button, !paused ? "Pause" : waiting.length ? `Resume (${waiting.length})` : "Resume");
}

function showEmpty() {
  const rows = [...$("events").children];
  $("events-empty").hidden = rows.length === 0 || rows.some((row) => !row.hidden);
}

const fits = (row) => !filter || row.words.includes(filter);

/** Where to look for what this event is about; null where there is no page for it. */
function linkOf(event) {
  if (event.subject === "job" || event.subject === "node" || event.subject === "pool") {
    return `#/${event.subject}s/${event.subject_id}`;
  }
  if (event.job_id) return `#/jobs/${event.job_id}`;
  if (event.node_id) return `#/nodes/${event.node_id}`;
  return event.pool_id ? `#/pools/${event.pool_id}` : null;
}

export function eventRow(event, fresh = false) {
  const name = event.subject_id ? `${event.subject} ${event.subject_id}` : event.subject;
  const link = linkOf(event);
  const from = event.from_state && event.from_state !== event.to_state ? event.from_state : null;
  const row = h(
    "li",
    { class: fresh ? "event fresh" : "event" },
    h(
      "div.event-top",
      {},
      link ? h("a.subject", { href: link }, name) : h("span.subject", {}, name),
      from ? h("span.from", {}, from) : null,
      from ? h("span.arrow", { "aria-label": "to" }, "→") : null,
      event.to_state ? pill(event.to_state) : null,
      when(event.at),
    ),
    h(
      "p.reason",
      {},
      event.reason,
      event.detail ? h("span.muted", {}, ` · ${event.detail}`) : null,
      event.actor !== "master" ? h("span.actor", {}, `by ${event.actor}`) : null,
    ),
  );
  row.words = [name, from, event.to_state, event.reason, event.detail, event.actor].filter(Boolean).join(" ").toLowerCase();
  return row;
}
