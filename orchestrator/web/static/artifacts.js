// The files that a job's tasks left, and links that fetch them.

import { get } from "./api.js";
import { h, keyed, setText } from "./dom.js";
import { number } from "./format.js";

const SHOWN = 200;

/** Hidden where there are none. */
export function artifacts(job) {
  const body = h("tbody");
  const more = h("p.sub", { hidden: true });
  const columns = ["File", "Task", "Bytes", ""];
  const names = h("thead", {}, h("tr", {}, ...columns.map((name) => h("th", { scope: "col" }, name))));
  const table = h("table.list.files", {}, h("caption", {}, "Artifacts"), names, body);
  const element = h("section", { hidden: true }, table, more);
  element.refresh = async () => {
    const { items, next } = await get(`/jobs/${job}/artifacts?limit=${SHOWN}`);
    element.hidden = items.length === 0;
    keyed(body, items, (file) => file.id, row);
    more.hidden = next === null;
    setText(more, `These are the first ${SHOWN}: orchestrator job download ${job} fetches all.`);
  };
  return element;
}

function row(file) {
  const address = `/api/v1/artifacts/${file.id}`;
  const fetchIt = h("a", { href: address, download: "", "aria-label": `Download ${file.path}` }, "Download");
  const element = h(
    "tr",
    {},
    h("th", { scope: "row" }, h("span.name.mono", { title: `SHA-256 ${file.sha256}` }, file.path)),
    h("td", {}, file.task, file.number > 1 ? h("span.sub", {}, ` try ${file.number}`) : null),
    h("td.num", {}, number(file.size)),
    h("td", {}, fetchIt),
  );
  element.show = () => {};
  return element;
}
