// The last two minutes as small bars: tasks that ended, and nodes that lived. Made of the events that come anyway.

import { $, h, setText } from "./dom.js";
import { number, plural } from "./format.js";

const BARS = 60;
const BAR_MS = 2000;
const ended = new Map(); // moment / BAR_MS → {good, bad}
const change = new Map(); // moment / BAR_MS → how many nodes more
let charts = null;

export function startPulse() {
  charts = { jobs: chart($("jobs-pulse")), nodes: chart($("nodes-pulse")) };
}

export function clearPulse() {
  ended.clear();
  change.clear();
}

export function pulseEvents(events) {
  for (const { subject, from_state: from, to_state: to, at } of events) {
    const slot = Math.floor(Date.parse(at) / BAR_MS);
    if (subject === "task" && (to === "succeeded" || to === "failed")) {
      const bar = ended.get(slot) ?? { good: 0, bad: 0 };
      bar[to === "failed" ? "bad" : "good"] += 1;
      ended.set(slot, bar);
    } else if (subject === "node" && (to === "terminated" || (to === "requested" && !from))) {
      change.set(slot, (change.get(slot) ?? 0) + (to === "terminated" ? -1 : 1));
    }
  }
}

/** Draw up to `now` (the master's clock); `live` is how many nodes there are at this moment. */
export function drawPulse(now, live) {
  const last = Math.floor(now / BAR_MS);
  const slots = Array.from({ length: BARS }, (_, i) => last - BARS + 1 + i);
  for (const map of [ended, change]) for (const slot of map.keys()) if (slot < slots[0]) map.delete(slot);

  const done = slots.map((slot) => ended.get(slot) ?? { good: 0, bad: 0 });
  const busiest = Math.max(1, ...done.map((bar) => bar.good + bar.bad));
  charts.jobs(done.map((bar) => [bar.good / busiest, bar.bad / busiest]));
  const sum = done.reduce((total, bar) => total + bar.good + bar.bad, 0);
  setText($("jobs-pulse-words"), `${plural(sum, "task")} ended in 2 min`);

  const counts = [];
  let count = live;
  for (const slot of [...slots].reverse()) {
    counts.unshift(Math.max(0, count));
    count -= change.get(slot) ?? 0;
  }
  const most = Math.max(1, ...counts);
  charts.nodes(counts.map((n) => [n / most, 0]));
  setText($("nodes-pulse-words"), `peak ${number(Math.max(...counts))} in 2 min`);
}

function chart(parent) {
  const bars = Array.from({ length: BARS }, () => h("i", {}, h("b.bad"), h("b.good")));
  parent.replaceChildren(...bars);
  return (shares) => {
    shares.forEach(([good, bad], i) => {
      const [upper, lower] = bars[i].children;
      upper.style.height = `${100 * bad}%`;
      lower.style.height = `${100 * good}%`;
    });
  };
}
