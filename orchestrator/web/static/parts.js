// What the panels have in common.

import { get } from "./api.js";
import { h, keyed, setText } from "./dom.js";
import { eventRow } from "./events.js";

/** Facts as a list of terms; `show([[term, text or element], …])`. */
export function facts() {
  const list = h("dl.facts");
  list.show = (pairs) => {
    const told = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
    list.replaceChildren(...told.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))));
  };
  return list;
}

/** The master's own sentences. */
export function explanation() {
  const list = h("ul.told");
  const next = h("p.next");
  const utc = new Date().getTimezoneOffset() ? h("p.sub", {}, "Times in these sentences are UTC.") : null;
  const element = h("section", {}, h("h3", {}, "Why"), list, next, utc);
  element.show = ({ sentences, next: expected }) => {
    const items = sentences.map((text, i) => ({ text, i }));
    keyed(list, items, (item) => item.i, () => {
      const line = h("li");
      line.show = (item) => setText(line, item.text);
      return line;
    });
    setText(next, expected ? `Next: ${expected}` : "");
  };
  return element;
}

/** Who was told of a job's end, and what came of it; hidden where nobody is. */
export function notices(id) {
  const list = h("ul.told");
  const element = h("section", { hidden: true }, h("h3", {}, "Notifications"), list);
  element.refresh = async () => {
    const { items } = await get(`/jobs/${id}/notifications?limit=50`);
    element.hidden = items.length === 0;
    keyed(list, items, (notice) => notice.id, () => {
      const line = h("li");
      line.show = ({ to, state, reason }) => setText(line, `${to}: ${state}${reason ? ` (${reason})` : ""}`);
      return line;
    });
  };
  return element;
}

/** The events with this link (`node_id=3`), newest first. */
export function pastEvents(link) {
  const list = h("ol.feed.short");
  const element = h("section", {}, h("h3", {}, "Events"), list);
  element.refresh = async () => {
    const { items } = await get(`/events?${link}&limit=50`);
    keyed(list, items, (event) => event.id, (event) => Object.assign(eventRow(event), { show: () => {} }));
  };
  return element;
}
