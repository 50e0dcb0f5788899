// One job: its facts, why it is as it is, its tasks and their logs.

import { get, post } from "./api.js";
import { artifacts } from "./artifacts.js";
import { ask, h, keyed, setAttr, setText, toast } from "./dom.js";
import { JOB_OPEN, lasting, masterNow, pill, plural, when } from "./format.js";
import { shownState } from "./jobs.js";
import { LogView } from "./log.js";
import { explanation, facts, notices, pastEvents } from "./parts.js";

const PAGE = 200;
const PROGRESS_MS = 2000;
const WAITS = ["waiting", "queued"];

export function jobPanel(id, setTitle, refreshSoon) {
  const badge = pill("queued");
  const reason = h("span.reason");
  const cancel = h("button.danger", { type: "button", hidden: true, onclick: confirmCancel }, "Cancel job");
  const again = h("button", { type: "button", hidden: true, onclick: () => runAgain(`job ${id}`, {}) }, "Run again");
  const failed = h(
    "button",
    { type: "button", hidden: true, onclick: () => runAgain("what did not succeed", { failed: true }) },
    "Run what failed",
  );
  const known = facts();
  const why = explanation();
  const told = notices(id);
  const files = artifacts(id);
  const past = pastEvents(`job_id=${id}`);
  const body = h("tbody");
  const caption = h("caption", {}, "Tasks");
  const more = h("button.more", { type: "button", hidden: true, onclick: showMore }, "More tasks");
  const logs = h("section.logs", { hidden: true });
  const element = h(
    "div",
    {},
    h("div.head", {}, badge, reason, cancel, failed, again),
    known,
    why,
    h("section", {}, h("table.list.tasks", {}, caption, head(), body), more),
    files,
    logs,
    told,
    past,
  );
  let job = null;
  let wanted = PAGE;
  let log = null;
  let timer = null;

  async function refresh() {
    const [shown, tasks, reasons] = await Promise.all([
      get(`/jobs/${id}`),
      get(`/jobs/${id}/tasks?limit=${Math.min(wanted, 1000)}`),
      get(`/jobs/${id}/explain`),
      files.refresh(),
      told.refresh(),
      past.refresh(),
    ]);
    job = shown;
    setTitle(`${job.name} #${job.id}`);
    badge.show(shownState(job));
    setText(reason, job.reason ?? "");
    cancel.hidden = !JOB_OPEN.includes(job.state) || job.cancel_requested_at !== null;
    again.hidden = JOB_OPEN.includes(job.state);
    failed.hidden = again.hidden || job.state === "succeeded";
    known.show([
      ["Client", job.client],
      ["Token", job.token],
      ["Priority", job.priority || null],
      ["Rerun of", job.runs_before.join(", again of ") || null],
      ["Rerun by", job.reruns.join(", ") || null],
      ["Submitted by", job.submitted_by],
      ["Submitted", when(job.submitted_at)],
      ["Started", job.started_at && when(job.started_at)],
      ["Finished", job.finished_at && when(job.finished_at)],
      ["Cancel asked", job.cancel_requested_at && when(job.cancel_requested_at)],
    ]);
    why.show(reasons);
    setText(caption, job.tasks > 1 ? `Tasks: ${job.tasks - job.open_tasks} of ${job.tasks} done` : "Task");
    const waits = new Map(reasons.sentences.map((sentence) => /^Task ([^:]+): (.*)$/.exec(sentence)?.slice(1, 3)).filter(Boolean));
    const rows = tasks.items.map((task) => ({ ...task, why: WAITS.includes(task.state) ? waits.get(task.name) : null }));
    keyed(body, rows, (task) => task.id, (task) => taskRow(task, openLog, fromHere));
    for (const row of body.children) row.ended(!again.hidden);
    more.hidden = tasks.next === null || wanted >= 1000;
    if (tasks.items.some((task) => task.state === "running" && task.progress !== null)) soonAgain();
    if (!log && job.tasks === 1 && tasks.items[0]?.attempt_id) openLog(tasks.items[0], false);
    log?.news(tasks.items.find((task) => task.name === log.task));
  }

  /** No event tells of progress: while there is some, it is looked at. */
  function soonAgain() {
    clearTimeout(timer);
    timer = setTimeout(refreshSoon, PROGRESS_MS);
  }

  function openLog(task, focus = true) {
    log?.end();
    log = new LogView(id, task.name, () => {
      log.end();
      log = null;
      logs.hidden = true;
      mark(null);
    });
    logs.replaceChildren(log.element);
    logs.hidden = false;
    mark(task.name);
    if (focus) log.focus();
  }

  function mark(name) {
    for (const row of body.children) row.mark(name);
  }

  function showMore() {
    wanted += PAGE;
    refreshSoon();
  }

  function end() {
    clearTimeout(timer);
    log?.end();
  }

  function fromHere(task) {
    runAgain(`from ${task.name} on`, { from: [task.name] });
  }

  async function runAgain(what, body) {
    try {
      const made = await post(`/jobs/${id}/rerun`, body);
      toast(`Job ${made.id} runs ${what} again.`);
      location.hash = `#/jobs/${made.id}`;
    } catch (error) {
      toast(`Job ${id} does not run again: ${error.message}`);
    }
  }

  async function confirmCancel() {
    const running = job.open_tasks === job.tasks ? plural(job.tasks, "task") : `${job.open_tasks} of ${plural(job.tasks, "task")} open`;
    const text = `${running}. What runs is asked to stop, and killed after its grace. This cannot be undone.`;
    if (!(await ask({ title: `Cancel ${job.name} #${id}?`, text, yes: "Cancel job" }))) return;
    try {
      const { cancelling } = await post(`/jobs/${id}/cancel`);
      toast(cancelling ? `Job ${id} is being cancelled.` : `Job ${id} had ended already.`);
    } catch (error) {
      toast(`Job ${id} was not cancelled: ${error.message}`);
    }
    refreshSoon();
  }

  return { element, refresh, concerns: (event) => event.job_id === id, end };
}

function head() {
  const columns = ["Task", "State", "Node", "Tries", "Exit", "Log"];
  return h("thead", {}, h("tr", {}, ...columns.map((name) => h("th", { scope: "col" }, name))));
}

function taskRow(first, openLog, fromHere) {
  let task = first;
  const badge = pill(first.state);
  const took = lasting();
  const why = h("span.sub.why");
  const done = h("progress", { max: "1", hidden: true, "aria-label": `Progress of ${first.name}` });
  const node = h("a");
  const tries = h("td.num");
  const exit = h("td.num");
  const show = h("button.small", { type: "button", "aria-label": `Log of ${first.name}`, onclick: () => openLog(task) }, "Log");
  const restart = h(
    "button.small",
    { type: "button", hidden: true, "aria-label": `Run again from ${first.name} on`, onclick: () => fromHere(task) },
    "From here",
  );
  const row = h(
    "tr",
    {},
    h("th", { scope: "row" }, h("span.name", {}, first.name), first.kind === "run" ? null : h("span.sub", {}, first.kind)),
    h("td", {}, h("span.line-up", {}, badge, took, done), why),
    h("td.num", {}, node),
    tries,
    exit,
    h("td", {}, show, restart),
  );
  row.ended = (whole) => {
    restart.hidden = !whole;
  };
  row.mark = (name) => {
    setAttr(show, "aria-pressed", String(name === first.name));
  };
  row.show = (now) => {
    task = now;
    badge.show(now.state);
    took.show(now.state === "queued" ? null : now.started_at, now.finished_at);
    const later = now.state === "queued" && now.run_after && Date.parse(now.run_after) > masterNow();
    const again = later ? `${now.reason}; again at ${new Date(now.run_after).toLocaleTimeString()}` : null;
    const running = now.state === "running" && now.progress !== null;
    done.hidden = !running;
    if (running) done.value = now.progress;
    const note = running ? now.progress_note : null;
    const reason = again ?? note ?? now.why?.replace(/^is queued: /, "") ?? now.reason ?? "";
    setText(why, reason);
    setAttr(why, "title", reason);
    setText(node, now.node_id ?? "");
    setAttr(node, "href", now.node_id ? `#/nodes/${now.node_id}` : null);
    setAttr(node, "aria-label", now.node_id ? `node ${now.node_id}` : null);
    setText(tries, now.attempts || "");
    setText(exit, now.exit_code ?? "");
    exit.classList.toggle("bad", Boolean(now.exit_code));
    show.hidden = !now.attempt_id;
  };
  return row;
}
