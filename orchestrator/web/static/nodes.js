// The table of nodes: those that live, then those that ended last.

import { get } from "./api.js";
import { $, followRows, h, keyed, setAttr, setText } from "./dom.js";
import { lasting, NODE_STATES, pill, plural, span, toneOf, when } from "./format.js";
import { Refresher } from "./refresh.js";

const LIVE = 300;
const ENDED = 8;
let live = [];
let ended = [];
let more = false;

const trouble = { onError: (message) => setText($("nodes-trouble"), message) };

export const refreshNodes = new Refresher(async () => {
  const page = await get(`/nodes?live=true&limit=${LIVE}`);
  live = page.items;
  more = page.next !== null;
  show();
}, trouble);

export const refreshEnded = new Refresher(async () => {
  ended = (await get(`/nodes?state=terminated&limit=${ENDED}`)).items;
  show();
}, trouble);

export function startNodes() {
  followRows($("nodes"));
}

function show() {
  const gone = new Set(ended.map((node) => node.id));
  const all = [...live.filter((node) => !gone.has(node.id)), ...ended];
  keyed($("nodes"), all, (node) => node.id, nodeRow);
  $("nodes-empty").hidden = all.length > 0;
  setText($("nodes-title"), more ? `Nodes (the newest ${LIVE} of those that live)` : "Nodes");
}

function nodeRow(first) {
  const name = h("a.name", { href: `#/nodes/${first.id}` }, `node ${first.id}`);
  const where = h("span.sub.clip");
  const badge = pill(first.state);
  const way = steps();
  const why = h("span.sub.why");
  const token = h("span.mono.clip");
  const slots = slotDots();
  const age = lasting();
  const heard = h("span.sub");
  const row = h(
    "tr",
    {},
    h("th", { scope: "row" }, name, where),
    h("td", {}, h("span.line-up", {}, badge, way), why),
    h("td.wide", {}, token),
    h("td", {}, slots),
    h("td.wide", {}, age, heard),
  );
  row.show = (node) => {
    row.classList.toggle("ended", node.state === "terminated");
    setText(where, [node.pool, node.instance_id].filter(Boolean).join(" · "));
    setAttr(where, "title", node.address);
    badge.show(node.state);
    way.show(node);
    setText(why, node.reason ?? "");
    setAttr(why, "title", node.reason);
    setText(token, node.token ?? "–");
    setAttr(token, "title", node.token);
    slots.show(node);
    age.show(node.requested_at, node.terminated_at);
    setText(heard, node.protected ? "protected" : "");
  };
  return row;
}

/** requested → … → terminated as seven little bars; what was never reached stays hollow. */
export function steps() {
  const bars = NODE_STATES.map(() => h("i"));
  const element = h("span.steps", { role: "img" }, ...bars);
  element.show = (node) => {
    const now = NODE_STATES.indexOf(node.state);
    const skipped = [false, !node.launched_at, !node.launched_at, !node.enrolled_at, false, !node.terminating_at, false];
    bars.forEach((bar, i) => {
      bar.className = i === now ? "now" : i < now && !skipped[i] ? "done" : "";
    });
    element.className = `steps ${toneOf(node.state)}`;
    setAttr(element, "aria-label", `step ${now + 1} of ${NODE_STATES.length}`);
    setAttr(element, "title", NODE_STATES.join(" → "));
  };
  return element;
}

function slotDots() {
  const dots = h("span.slots", { "aria-hidden": "true" });
  const words = h("span.sub");
  const element = h("span", {}, dots, words);
  element.show = (node) => {
    const there = node.state === "ready" || node.state === "draining";
    const shown = there ? Math.min(node.slots, 8) : 0;
    const kinds = Array.from({ length: shown }, (_, i) => (i < node.busy ? "full" : "open")).join(" ");
    if (dots.dataset.kinds !== kinds) {
      dots.dataset.kinds = kinds;
      dots.replaceChildren(...kinds.split(" ").filter(Boolean).map((kind) => h(`i.${kind}`)));
    }
    setText(words, there ? `${node.busy} of ${node.slots}` : plural(node.slots, "slot"));
  };
  return element;
}

/** The three signals of a node's health: what each says, how old that is, and its strikes. */
export function signalList() {
  const list = h("ul.signals");
  const element = h("section", {}, h("h3", {}, "Health"), list);
  element.show = (node) => {
    element.hidden = !node.signals.length || node.state === "terminated";
    list.replaceChildren(...node.signals.map((signal) => {
      const tone = signal.strikes === 0 ? "good" : signal.strikes < signal.most ? "warn" : "bad";
      const age = signal.age_s === null ? "never" : `${span(signal.age_s)} ago`;
      const strikes = signal.strikes ? ` · ${signal.strikes} of ${plural(signal.most, "strike")}` : "";
      return h("li", {}, h(`i.${tone}`, { "aria-hidden": "true" }), h("b", {}, signal.name), h("span", {}, signal.told),
        h("span.sub", {}, age + strikes));
    }));
  };
  return element;
}

/** The facts of a node, for its panel. */
export const nodeFacts = (node) => [
  ["Pool", node.pool],
  ["Cloud", node.cloud],
  ["Kind", node.kind],
  ["Machine", node.instance_id],
  ["Address", node.address],
  ["Token", node.token],
  ["Slots", `${node.busy} busy of ${node.slots}`],
  ["Agent", node.agent_version],
  ["Requested", when(node.requested_at)],
  ["Launched", node.launched_at && when(node.launched_at)],
  ["Boot", node.state === "booting" ? node.boot_phase : null],
  ["Enrolled", node.enrolled_at && when(node.enrolled_at)],
  ["Last heard of", node.heartbeat_at && when(node.heartbeat_at)],
  ["Taken back by its cloud", node.reclaim_at && when(node.reclaim_at)],
  ["Asked to end", node.terminating_at && when(node.terminating_at)],
  ["Ended", node.terminated_at && when(node.terminated_at)],
];
