// Signing in, and who hears of what: one line of events in, coalesced looks at the lists out.

import { hasLink, onRefused, resume, signIn, signOut } from "./api.js";
import { detailEvents, followAddress, leave, refreshDetail, startDetail } from "./detail.js";
import { $, setText } from "./dom.js";
import { addEvents, clearEvents, startEvents } from "./events.js";
import { masterNow, tick } from "./format.js";
import { pickState, refreshJobs, startJobs } from "./jobs.js";
import { refreshEnded, refreshNodes, startNodes } from "./nodes.js";
import { clearPulse, drawPulse, pulseEvents, startPulse } from "./pulse.js";
import { EventLine } from "./stream.js";
import { clearSummary, countEvents, countJobs, liveNodes, refreshPools, startSummary } from "./summary.js";

const HEAL_MS = 15000; // the periodic look; events bring everything else
const RECOUNT_MS = 120000;
const LINE = { live: "live", connecting: "connecting", off: "" };
let line = null;

function hear(events) {
  addEvents(events);
  countEvents(events);
  pulseEvents(events);
  detailEvents(events);
  const subjects = new Set(events.map((event) => event.subject));
  const has = (...names) => names.some((name) => subjects.has(name));
  if (has("job")) refreshJobs.ask();
  if (has("task")) refreshJobs.ask(1000);
  if (has("node", "launch")) refreshNodes.ask();
  if (has("task", "attempt")) refreshNodes.ask(1000);
  if (has("node", "pool", "launch", "deployment")) refreshPools.ask();
  if (events.some((event) => event.subject === "node" && event.to_state === "terminated")) refreshEnded.ask();
}

function lookAtAll() {
  for (const refresher of [refreshJobs, refreshNodes, refreshEnded, refreshPools]) refresher.ask();
  refreshDetail();
}

function startOver() {
  lookAtAll();
  countJobs.ask();
}

function showLine(state) {
  if ($("line").dataset.state === state) return;
  $("line").dataset.state = state;
  setText($("line"), state === "reconnecting" ? `reconnecting · as of ${new Date().toLocaleTimeString()}` : LINE[state]);
  if (state === "live") lookAtAll();
}

function signedIn() {
  $("sign-in").hidden = true;
  $("main").hidden = false;
  $("sign-out").hidden = false;
  line = new EventLine({ onEvents: hear, onState: showLine, onGap: startOver });
  line.run();
  startOver();
  followAddress();
}

function signedOut(message = "") {
  line?.end();
  line = null;
  leave();
  clearEvents();
  clearSummary();
  clearPulse();
  $("main").hidden = true;
  $("sign-out").hidden = true;
  $("sign-in").hidden = false;
  setText($("sign-in-error"), message);
  showLine("off");
  $("name").focus();
}

async function submitSignIn(event) {
  event.preventDefault();
  const [name, password, fresh] = [$("name"), $("password"), $("new-password")];
  const button = event.target.querySelector("button");
  setText($("sign-in-error"), "");
  button.disabled = true;
  try {
    await signIn(name.value, password.value, fresh.value);
    password.value = fresh.value = "";
    askNewPassword(false);
    signedIn();
  } catch (error) {
    setText($("sign-in-error"), `${error.message}.`);
    const wantsNew = error.fields.some((field) => field.path === "new_password");
    askNewPassword(wantsNew);
    (wantsNew ? fresh : password).select();
  } finally {
    button.disabled = false;
  }
}

function askNewPassword(wanted) {
  $("new").hidden = !wanted;
  $("new-password").required = wanted;
}

function begin() {
  const hadLink = hasLink();
  resume().then(signedIn, (error) => {
    if (error.status === 401) signedOut(hadLink ? error.message : "");
    else signedIn(); // the master is away: the page says so and tries again
  });
}

startSummary((state) => pickState(state, true));
startPulse();
startJobs();
startNodes();
startEvents();
startDetail();
$("sign-in").querySelector("form").addEventListener("submit", submitSignIn);
$("sign-out").addEventListener("click", () => signOut().then(() => signedOut()));
onRefused(() => {
  if (line) signedOut("This login is over. Sign in again.");
});
setInterval(() => {
  if (document.hidden) return;
  tick();
  drawPulse(masterNow(), liveNodes);
}, 1000);
setInterval(() => {
  if (!line || $("line").dataset.state !== "live") return; // it looks at all when it is back
  lookAtAll();
  countJobs.ask(RECOUNT_MS);
}, HEAL_MS);
window.addEventListener("hashchange", () => {
  if (hasLink()) location.reload();
});

begin();
