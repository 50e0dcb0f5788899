// The panel beside the lists: one job, node or pool, chosen by the address (`#/jobs/12`).

import { $, setText } from "./dom.js";
import { jobPanel } from "./job.js";
import { nodePanel } from "./node.js";
import { poolPanel } from "./pool.js";
import { Refresher } from "./refresh.js";

const PANELS = { jobs: jobPanel, nodes: nodePanel, pools: poolPanel };
const narrow = matchMedia("(max-width: 1023px)");

let open = null; // {panel, refresher, kind, id}
let opener = null;

export function startDetail() {
  window.addEventListener("hashchange", followAddress);
  narrow.addEventListener("change", layOut);
  $("detail-close").addEventListener("click", closeDetail);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && open && !$("ask").open) closeDetail();
  });
}

export function followAddress() {
  const [, kind, id] = /^#\/(jobs|nodes|pools)\/(\d+)$/.exec(location.hash) ?? [];
  if (open && open.kind === kind && open.id === Number(id)) return;
  leave();
  if (kind) enter(kind, Number(id));
  else if (opener?.isConnected) opener.focus();
}

export function closeDetail() {
  if (!location.hash) return;
  history.pushState(null, "", location.pathname);
  followAddress();
}

function enter(kind, id) {
  if (document.activeElement !== document.body && !$("detail").contains(document.activeElement)) {
    opener = document.activeElement;
  }
  const panel = PANELS[kind](id, (title) => setText($("detail-title"), title), () => refresher.ask(0));
  const refresher = new Refresher(panel.refresh, { gapMs: 400, onError: (message) => setText($("detail-trouble"), message) });
  open = { kind, id, panel, refresher };
  setText($("detail-title"), `${kind.slice(0, -1)} ${id}`);
  $("detail-body").replaceChildren(panel.element);
  $("detail").hidden = false;
  layOut();
  $("detail").scrollTop = 0;
  $("detail-title").focus({ preventScroll: true });
  refresher.ask(0);
}

/** Close the panel and leave the address as it is. */
export function leave() {
  if (!open) return;
  open.refresher.end();
  open.panel.end?.();
  open = null;
  $("detail").hidden = true;
  setText($("detail-trouble"), "");
  $("detail-body").replaceChildren();
  layOut();
}

function layOut() {
  document.body.classList.toggle("with-detail", open !== null);
  $("main").inert = open !== null && narrow.matches;
}

/** Something happened: look again if it concerns what is open. */
export function detailEvents(events) {
  if (open && events.some((event) => open.panel.concerns(event))) open.refresher.ask();
}

export function refreshDetail() {
  open?.refresher.ask(1000);
}
