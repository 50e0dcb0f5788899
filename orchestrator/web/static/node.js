// One node: where it is on its way, why it exists, what happened to it.

import { get, post } from "./api.js";
import { ask, h, setText, toast } from "./dom.js";
import { pill, plural } from "./format.js";
import { nodeFacts, signalList, steps } from "./nodes.js";
import { explanation, facts, pastEvents } from "./parts.js";

export function nodePanel(id, setTitle, refreshSoon) {
  const badge = pill("requested");
  const way = steps();
  const reason = h("p.reason");
  const end = h("button.danger", { type: "button", hidden: true, onclick: confirmEnd }, "Terminate");
  const health = signalList();
  const known = facts();
  const why = explanation();
  const past = pastEvents(`node_id=${id}`);
  const element = h("div", {}, h("div.head", {}, badge, way, end), reason, health, known, why, past);
  let node = null;

  async function refresh() {
    const [shown, told] = await Promise.all([get(`/nodes/${id}`), get(`/nodes/${id}/explain`), past.refresh()]);
    node = shown;
    setTitle(`node ${id}`);
    badge.show(node.state);
    way.show(node);
    setText(reason, node.reason ?? "");
    end.hidden = node.state === "terminating" || node.state === "terminated";
    health.show(node);
    known.show(nodeFacts(node));
    why.show(told);
  }

  async function confirmEnd() {
    const busy = node.busy ? `It runs ${plural(node.busy, "task")}. It takes no new ones, and its machine ends when nothing runs on it.` : "Nothing runs on it; its machine ends at once.";
    const answer = await ask({
      title: `Terminate node ${id}?`,
      text: `${busy} If something still asks for machines, another may come.`,
      yes: "Terminate",
      option: "Now: do not wait for its tasks; they are queued again elsewhere",
    });
    if (!answer) return;
    try {
      const after = await post(`/nodes/${id}/terminate${answer.option ? "?now=true" : ""}`);
      toast(`Node ${id} is ${after.state}.`);
    } catch (error) {
      toast(`Node ${id} was not terminated: ${error.message}`);
    }
    refreshSoon();
  }

  return { element, refresh, concerns: (event) => event.node_id === id };
}
