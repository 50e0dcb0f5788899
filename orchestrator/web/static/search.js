// Search in a log: the master looks through all of it, however little of it is on the page.

import { get } from "./api.js";
import { h, setText } from "./dom.js";
import { plural } from "./format.js";

const PAUSE_MS = 300;
const MOST = 200;

/** A field, and under it the lines that have its text, with their numbers. */
export function logSearch(job, task) {
  const field = h("input", { type: "search", placeholder: "Search", maxlength: "200", "aria-label": `Search the log of ${task}` });
  const count = h("p.sub", { role: "status" });
  const list = h("ol.found");
  const results = h("div", { hidden: true }, count, list);
  let timer = null;
  let latest = 0;
  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(look, PAUSE_MS);
  });
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter") look();
  });

  async function look() {
    clearTimeout(timer);
    const turn = ++latest;
    const text = field.value;
    results.hidden = text === "";
    if (!text) return;
    try {
      const query = new URLSearchParams({ task, search: text, limit: MOST });
      const { items } = await get(`/jobs/${job}/logs?${query}`);
      if (turn !== latest) return;
      setText(count, items.length < MOST ? `${plural(items.length, "line")} with it` : `The first ${MOST} lines with it`);
      list.replaceChildren(...items.map((item) => h("li", { value: String(item.line) }, ...marked(item.text, text))));
    } catch (error) {
      if (turn === latest) setText(count, error.message);
    }
  }

  return { field, results };
}

/** The text with what was looked for marked in it. */
function marked(line, text) {
  const parts = [];
  const low = line.toLowerCase();
  const wanted = text.toLowerCase();
  let at = 0;
  for (let next = low.indexOf(wanted); next >= 0; next = low.indexOf(wanted, at)) {
    parts.push(line.slice(at, next), h("mark", {}, line.slice(next, next + wanted.length)));
    at = next + wanted.length;
  }
  return [...parts, line.slice(at)];
}
