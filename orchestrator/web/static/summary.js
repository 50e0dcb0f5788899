// The tiles: how many jobs are in which state, where the nodes are on their way, what the pools hold.

import { get } from "./api.js";
import { $, h, keyed, setAttr, setText } from "./dom.js";
import { JOB_STATES, NODE_STATES, number, pill, plural, toneOf } from "./format.js";
import { Refresher } from "./refresh.js";

const RANK = { queued: 0, running: 1, succeeded: 2, failed: 2, cancelled: 2 };
const CELLS = 48; // pools larger than this are drawn as a bar of shares
const FLOW = NODE_STATES.slice(0, -1);

// There is no call that counts jobs, so they are counted here: once from the lists, then by each event. A job only moves
// forward, so whatever comes late or twice changes nothing.
const known = new Map();
const counts = Object.fromEntries(JOB_STATES.map((state) => [state, 0]));
let older = false;
const cells = {};
export let liveNodes = 0;

function learn(id, state) {
  const before = known.get(id);
  if (before !== undefined) {
    if (RANK[before] >= RANK[state]) return;
    counts[before] -= 1;
  }
  counts[state] += 1;
  known.set(id, state);
}

export const countJobs = new Refresher(async () => {
  const asked = ["/jobs?limit=1000", "/jobs?limit=1000&state=queued", "/jobs?limit=1000&state=running"];
  const pages = await Promise.all(asked.map((path) => get(path)));
  older = pages[0].next !== null;
  for (const page of pages) for (const job of page.items) learn(job.id, job.state);
  showJobs();
}, { gapMs: 5000 });

export const refreshPools = new Refresher(async () => {
  const { items } = await get("/pools");
  pools = items;
  showPools();
  onPools.forEach((work) => work());
});
export let pools = [];
export const onPools = new Set();

export function startSummary(onPick) {
  for (const state of JOB_STATES) {
    const count = h("strong", {}, "0");
    const button = h(`button.count.${toneOf(state)}`, { type: "button", onclick: () => onPick(state) }, count, h("span", {}, state));
    cells[state] = { button, count };
    $("job-counts").append(button);
  }
  for (const state of FLOW) {
    const count = h("strong", {}, "0");
    const step = h(`li.${toneOf(state)}`, {}, count, h("span", {}, state));
    cells[state] = { step, count };
    $("node-counts").append(step);
  }
}

export function clearSummary() {
  known.clear();
  for (const state of JOB_STATES) counts[state] = 0;
}

export function showFilter(state) {
  for (const name of JOB_STATES) setAttr(cells[name].button, "aria-pressed", String(name === state));
}

let drawing = false;
export function countEvents(events) {
  for (const event of events) {
    if (event.subject === "job" && event.to_state in RANK) learn(event.subject_id, event.to_state);
  }
  if (drawing) return;
  drawing = true;
  setTimeout(() => {
    drawing = false;
    showJobs();
  }, 200);
}

function showJobs() {
  for (const state of JOB_STATES) {
    setText(cells[state].count, number(counts[state]));
    cells[state].button.classList.toggle("none", counts[state] === 0);
  }
  setText($("jobs-scope"), older ? "the newest 1,000, all open, and all since" : "");
}

function showPools() {
  const total = Object.fromEntries(FLOW.map((state) => [state, 0]));
  for (const pool of pools) for (const [state, count] of Object.entries(pool.nodes)) total[state] += count;
  for (const state of FLOW) {
    setText(cells[state].count, number(total[state]));
    cells[state].step.classList.toggle("none", total[state] === 0);
  }
  liveNodes = Object.values(total).reduce((sum, count) => sum + count, 0);
  setText($("nodes-total"), liveNodes ? `${number(liveNodes)} live` : "none live");
  keyed($("pools"), pools, (pool) => pool.id, poolRow);
  if (!pools.length && !$("pools").firstElementChild) {
    $("pools").replaceChildren(h("li.empty", {}, "No pools yet: ", h("code", {}, "orchestrator pool create")));
    $("pools").known = new Map();
  } else if (pools.length) {
    $("pools").querySelector(".empty")?.remove();
  }
}

function poolRow(first) {
  const name = h("a.name", { href: `#/pools/${first.id}` });
  const cloud = h("span.muted");
  const state = pill(first.state);
  const used = h("span.used");
  const bar = h("span.meter", { role: "img" });
  const why = h("p.reason");
  const row = h("li", {}, h("div.pool-top", {}, name, cloud, state, used), bar, why);
  row.show = (pool) => {
    const live = FLOW.map((name) => [name, pool.nodes[name] ?? 0]).filter(([, count]) => count);
    const sum = live.reduce((total, [, count]) => total + count, 0);
    setText(name, pool.name);
    setText(cloud, pool.cloud === pool.name ? "" : pool.cloud);
    state.show(pool.state);
    state.hidden = pool.state === "active";
    setText(used, `${number(sum)} / ${number(pool.max_nodes)}`);
    setText(why, pool.state_reason ?? "");
    drawMeter(bar, live, sum, pool.max_nodes);
  };
  return row;
}

function drawMeter(bar, live, sum, most) {
  const said = live.map(([state, count]) => `${count} ${state}`).join(", ") || "no nodes";
  const words = `${said}; at most ${plural(most, "node")}`;
  if (bar.title === words) return;
  bar.title = words;
  setAttr(bar, "aria-label", words);
  const scale = Math.max(most, sum);
  const shares = [...live, ["free", scale - sum]].filter(([, count]) => count);
  bar.classList.toggle("cells", scale <= CELLS);
  const parts = shares.flatMap(([state, count]) => {
    const one = state === "free" ? "i.free" : `i.${toneOf(state)}`;
    if (scale <= CELLS) return Array.from({ length: count }, () => h(one));
    const part = h(one);
    part.style.flexGrow = count;
    return [part];
  });
  bar.replaceChildren(...parts);
}
