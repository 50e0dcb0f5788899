// The log of a task, followed: what is new since the last offset is asked for, once a second while it runs.

import { call } from "./api.js";
import { h, setText } from "./dom.js";
import { number } from "./format.js";
import { logSearch } from "./search.js";

const KEPT = 256 * 1024; // bytes first shown, and letters kept on the page (twice)
const PACE_MS = 1000;
const TASK_ENDED = ["succeeded", "failed", "cancelled", "skipped"];

export class LogView {
  #job; #offset = 0; #attempt = null; #timer = null; #abort = new AbortController(); #decoder = new TextDecoder(); #still = 0;

  constructor(job, task, onClose) {
    this.#job = job;
    this.task = task;
    this.text = h("pre.log", { tabindex: "0", role: "region", "aria-label": `Log of ${task}` });
    this.status = h("span.sub");
    const search = logSearch(job, task);
    this.follow = h("input", { type: "checkbox", checked: true });
    this.element = h(
      "div",
      {},
      h(
        "div.bar",
        {},
        h("h3", {}, "Log of ", h("span.mono", {}, task)),
        this.status,
        search.field,
        h("label.check", {}, this.follow, h("span", {}, "Follow")),
        h("button.small", { type: "button", onclick: onClose }, "Hide"),
      ),
      search.results,
      this.text,
    );
    this.text.addEventListener("scroll", () => {
      const atEnd = this.text.scrollHeight - this.text.scrollTop - this.text.clientHeight < 24;
      if (!atEnd && performance.now() - (this.moved ?? 0) > 150) this.follow.checked = false;
    });
    this.follow.addEventListener("change", () => this.#toEnd());
    this.#look();
  }

  focus() {
    this.element.scrollIntoView({ block: "nearest" });
    this.text.focus({ preventScroll: true });
  }

  end() {
    clearTimeout(this.#timer);
    this.#abort.abort();
    this.#abort = null;
  }

  /** What the list of tasks tells: a new attempt, or an end, is looked at soon. */
  news(task) {
    if (task && (task.attempt_id !== this.#attempt || !this.#timer)) {
      if (task.attempt_id !== this.#attempt || !TASK_ENDED.includes(task.state)) this.#soon(200);
    }
  }

  #soon(ms) {
    clearTimeout(this.#timer);
    this.#timer = this.#abort && setTimeout(() => (document.hidden ? this.#soon(PACE_MS) : this.#look()), ms);
  }

  async #look() {
    this.#timer = null;
    try {
      const answer = await this.#read(this.#offset);
      const size = Number(answer.headers.get("X-Log-Size"));
      const attempt = Number(answer.headers.get("X-Log-Attempt")) || null;
      const state = answer.headers.get("X-Task-State");
      if (attempt !== this.#attempt) return await this.#begin(attempt, size);
      const bytes = await answer.arrayBuffer();
      this.#offset += bytes.byteLength;
      this.#add(this.#decoder.decode(bytes, { stream: true }));
      setText(this.status, `attempt ${attempt ?? "–"} · ${number(size)} bytes`);
      if (!size && !this.text.textContent) this.text.dataset.empty = TASK_ENDED.includes(state) ? "It wrote nothing." : "Nothing yet.";
      // The last lines may come a moment after the result.
      this.#still = TASK_ENDED.includes(state) && !bytes.byteLength ? this.#still + 1 : 0;
      if (this.#offset < size) this.#soon(0);
      else if (this.#still < 5) this.#soon(PACE_MS);
    } catch (error) {
      if (error.name === "AbortError") return;
      setText(this.status, error.message);
      this.#soon(3000);
    }
  }

  /** A first look, or another attempt: from the start, or from the last part of a long log. */
  async #begin(attempt, size) {
    const again = this.#attempt !== null;
    this.#attempt = attempt;
    this.#decoder = new TextDecoder();
    this.#offset = Math.max(0, size - KEPT);
    this.text.replaceChildren();
    if (again) this.#add(`── attempt ${attempt} ──\n`);
    if (this.#offset) this.#add(`… the first ${number(this.#offset)} bytes are left out: orchestrator job logs ${this.#job}\n`);
    this.#soon(0);
  }

  #read(offset) {
    const query = new URLSearchParams({ task: this.task, offset, limit: KEPT });
    return call(`/jobs/${this.#job}/logs?${query}`, { signal: this.#abort.signal });
  }

  #add(text) {
    if (!text) return;
    this.text.append(plain(text));
    while (this.text.textContent.length > 2 * KEPT && this.text.childNodes.length > 1) this.text.firstChild.remove();
    this.#toEnd();
  }

  #toEnd() {
    if (!this.follow.checked) return;
    this.moved = performance.now();
    this.text.scrollTop = this.text.scrollHeight;
  }
}

/** Colours and cursor moves of terminals are left out; a line that was drawn over keeps its last form. */
function plain(text) {
  return text
    .replace(/\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)/g, "")
    .replace(/\r+\n/g, "\n")
    .replace(/[^\n]*\r(?!$)/g, "");
}
