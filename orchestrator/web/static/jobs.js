// The table of jobs, and why the queued ones among them wait.

import { get } from "./api.js";
import { $, followRows, h, keyed, setAttr, setText } from "./dom.js";
import { JOB_OPEN, lasting, pill, plural, secondsBetween, when } from "./format.js";
import { Refresher } from "./refresh.js";
import { showFilter } from "./summary.js";

const PAGE = 25;
const MOST_LIVE = 500; // rows beyond stay as they were loaded
const WHYS = 6; // queued jobs that are asked why at a time

let state = "";
let wanted = PAGE;
let rows = [];
let older = []; // loaded by `more` beyond MOST_LIVE
let next = null;
const whys = new Map(); // job id → sentence

export const refreshJobs = new Refresher(async () => {
  const asked = state;
  const page = await get(`/jobs?limit=${Math.min(wanted, MOST_LIVE)}${asked && `&state=${asked}`}`);
  if (asked !== state) return refreshJobs.ask();
  rows = page.items;
  const last = rows.at(-1)?.id ?? 0;
  older = page.next === null ? [] : older.filter((job) => job.id < last);
  if (!older.length) next = page.next;
  show();
  refreshWhys.ask();
}, { onError: (message) => setText($("jobs-trouble"), message) });

// The list says `submitted` of a job that waits; what it waits for is a question of its own. A few at a time, slowly.
const refreshWhys = new Refresher(async () => {
  const waiting = rows.filter((job) => job.state === "queued" && secondsBetween(job.submitted_at) > 1);
  for (const id of whys.keys()) if (!waiting.some((job) => job.id === id)) whys.delete(id);
  const oldest = waiting.slice(-WHYS);
  await Promise.all(oldest.map(async (job) => whys.set(job.id, firstReason(await get(`/jobs/${job.id}/explain`)))));
  show();
  if (oldest.length) setTimeout(() => refreshWhys.ask(), 3000);
}, { gapMs: 1500 });

function firstReason({ sentences }) {
  const wait = sentences.find((told) => told.startsWith("Waiting: ")) ?? sentences.find((told) => /^Task .*: (is|waits)/.test(told));
  return wait?.replace(/^Waiting: /, "").replace(/^Task [^:]+: (is queued: |is )?/, "") ?? "";
}

export function startJobs() {
  followRows($("jobs"));
  $("jobs-state").addEventListener("change", (event) => pickState(event.target.value));
  $("jobs-more").addEventListener("click", more);
}

/** Show only jobs in this state; the same again shows all. */
export function pickState(picked, again = false) {
  state = again && picked === state ? "" : picked;
  $("jobs-state").value = state;
  showFilter(state);
  wanted = PAGE;
  rows = older = [];
  next = null;
  refreshJobs.ask(0);
}

async function more() {
  if (next === null) return;
  const button = $("jobs-more");
  button.disabled = true;
  try {
    const page = await get(`/jobs?limit=${PAGE}&before=${next}${state && `&state=${state}`}`);
    wanted += PAGE;
    if (wanted > MOST_LIVE) older = [...older, ...page.items];
    else rows = [...rows, ...page.items];
    next = page.next;
    show();
  } catch (error) {
    setText($("jobs-trouble"), error.message);
  } finally {
    button.disabled = false;
  }
}

function show() {
  const all = [...rows, ...older];
  keyed($("jobs"), all, (job) => job.id, jobRow);
  $("jobs-empty").hidden = all.length > 0;
  $("jobs-more").hidden = next === null;
}

function jobRow(first) {
  const name = h("a.name", { href: `#/jobs/${first.id}` });
  const who = h("span.sub");
  const badge = pill(first.state);
  const why = h("span.sub.why");
  const tasks = progress();
  const took = lasting();
  const at = when(first.submitted_at);
  const row = h(
    "tr",
    {},
    h("th", { scope: "row" }, name, who),
    h("td", {}, h("span.line-up", {}, badge, took), why),
    h("td.wide", {}, tasks),
    h("td", {}, at),
  );
  row.show = (job) => {
    setText(name, job.name);
    setText(who, `#${job.id} · ${job.client}`);
    const state = shownState(job);
    badge.show(state);
    took.show(job.started_at, job.finished_at);
    const reason = (job.state === "queued" && whys.get(job.id)) || job.reason || "";
    setText(why, reason);
    setAttr(why, "title", reason);
    tasks.show(job.tasks, job.open_tasks, job.state);
    at.show(job.submitted_at);
  };
  return row;
}

/** A job that was told to stop and still runs is `cancelling`. */
export const shownState = (job) => (job.cancel_requested_at && JOB_OPEN.includes(job.state) ? "cancelling" : job.state);

function progress() {
  const done = h("i");
  const words = h("span.sub");
  const element = h("span.progress", {}, h("span.track", { "aria-hidden": "true" }, done), words);
  element.show = (tasks, open, state) => {
    done.style.width = `${(100 * (tasks - open)) / Math.max(1, tasks)}%`;
    element.dataset.state = state;
    setText(words, open ? `${tasks - open} of ${plural(tasks, "task")}` : plural(tasks, "task"));
  };
  return element;
}
