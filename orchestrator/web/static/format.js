// States as colours, moments as local time with their age, spans as words.

import { h, setAttr, setText } from "./dom.js";

export const NODE_STATES = ["requested", "launching", "booting", "ready", "draining", "terminating", "terminated"];
export const JOB_STATES = ["queued", "running", "succeeded", "failed", "cancelled"];
export const JOB_OPEN = ["queued", "running"];

const TONES = {
  launching: "sky", booting: "violet", running: "blue",
  ready: "green", succeeded: "green", active: "green", launched: "green",
  draining: "amber", paused: "amber", deleting: "amber", cancelling: "amber", late: "amber",
  terminating: "orange", failed: "red", frozen: "red", timed_out: "red", killed: "red", lost: "red",
  cancelled: "grey", skipped: "grey", terminated: "grey",
};
const MOVING = new Set(["launching", "booting", "running", "draining", "terminating", "cancelling", "deleting"]);

export const toneOf = (state) => `tone-${TONES[state] ?? "plain"}`;

/** A pill with the state's word and colour; `show(state)` changes it. */
export function pill(state) {
  const word = h("span");
  const element = h("span.pill", {}, h("i", { "aria-hidden": "true" }), word);
  element.show = (now) => {
    setText(word, (now ?? "").replace("_", " "));
    element.className = `pill ${toneOf(now)}${MOVING.has(now) ? " moving" : ""}`;
  };
  element.show(state);
  return element;
}

const GRAIN_MS = 2500; // whole seconds, and a master that is busy
let skewMs = 0; // how far the master's clock is ahead of this one

/** Learn from the Date header of an answer, which was written between asking and now: only outside of that is it skew. */
export function learnClock(date, asked) {
  const told = date ? Date.parse(date) : NaN;
  if (told < asked - GRAIN_MS) skewMs = told - asked;
  else if (told > Date.now() + GRAIN_MS) skewMs = told - Date.now();
  else skewMs = 0;
}

export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min${s % 60 && s < 600 ? ` ${s % 60} s` : ""}`;
  if (s < 172800) return `${Math.floor(s / 3600)} h${s % 3600 >= 60 ? ` ${Math.floor((s % 3600) / 60)} min` : ""}`;
  return `${Math.floor(s / 86400)} days`;
}

/** The master's clock. */
export const masterNow = () => Date.now() + skewMs;

export const secondsBetween = (from, to) =>
  ((to ? Date.parse(to) : masterNow()) - Date.parse(from)) / 1000;

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

function localTime(moment) {
  const today = new Date().toDateString() === moment.toDateString();
  return today ? clock.format(moment) : `${day.format(moment)} ${clock.format(moment)}`;
}

/** A <time> in local time with its age beside it; `show(iso)` changes it, `tick` keeps the age true. */
export function when(iso, { age = true } = {}) {
  const at = h("span.at");
  const ago = h("span.ago");
  const element = h("time", {}, at, age ? ago : null);
  element.show = (now) => {
    if (element.iso !== now) {
      element.iso = now;
      const moment = now ? new Date(now) : null;
      setAttr(element, "datetime", now ?? null);
      setAttr(element, "title", moment ? whole.format(moment) : null);
      setText(at, moment ? localTime(moment) : "–");
      element.age = age && now ? ago : null;
    }
    showAge(element);
  };
  element.show(iso);
  return element;
}

function showAge(element) {
  if (!element.age) return;
  const seconds = secondsBetween(element.iso);
  setText(element.age, seconds < -5 ? `in ${span(-seconds)}` : seconds < 1.5 ? "now" : `${span(seconds)} ago`);
}

/** Once a second: every age on the page, and every span that still grows (`element.since`). */
export function tick() {
  for (const element of document.querySelectorAll("time[datetime]")) showAge(element);
  for (const element of document.querySelectorAll(".grows")) {
    if (element.since) setText(element, span(secondsBetween(element.since)));
  }
}

/** A span of time: fixed once it has ended, growing until then. */
export function lasting() {
  const element = h("span.lasting.grows");
  element.show = (from, to) => {
    element.since = from && !to ? from : null;
    setText(element, from ? span(secondsBetween(from, to)) : "");
  };
  return element;
}

export const number = (n) => n.toLocaleString();
export const plural = (n, noun) => `${number(n)} ${noun}${n === 1 ? "" : "s"}`;
