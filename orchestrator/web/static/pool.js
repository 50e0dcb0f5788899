// One pool: its bounds, what is asked of it, what holds it back.

import { get } from "./api.js";
import { h, setText } from "./dom.js";
import { pill, span, when } from "./format.js";
import { explanation, facts, pastEvents } from "./parts.js";

export function poolPanel(id, setTitle) {
  const badge = pill("active");
  const reason = h("span.reason");
  const known = facts();
  const why = explanation();
  const past = pastEvents(`pool_id=${id}`);
  const element = h("div", {}, h("div.head", {}, badge, reason), known, why, past);

  async function refresh() {
    // Addresses have the id, as events do; the API knows pools by name.
    const pool = (await get("/pools")).items.find((one) => one.id === id);
    if (!pool) throw new Error(`pool ${id} is gone`);
    const [told] = await Promise.all([get(`/pools/${encodeURIComponent(pool.name)}/explain`), past.refresh()]);
    setTitle(`pool ${pool.name}`);
    badge.show(pool.state);
    setText(reason, pool.state_reason ?? "");
    known.show([
      ["Cloud", pool.cloud],
      ["Policy", pool.policy],
      ["Nodes", Object.entries(pool.nodes).map(([state, count]) => `${count} ${state}`).join(", ") || "none"],
      ["Bounds", `${pool.min_nodes} to ${pool.max_nodes}`],
      ["Slots a node", pool.slots],
      ["Boot deadline", span(pool.boot_timeout_s)],
      ["Lease", span(pool.lease_s)],
      ["Created", when(pool.created_at)],
      ["Launch", h("code.wrap", {}, JSON.stringify(pool.launch))],
    ]);
    why.show(told);
  }

  return { element, refresh, concerns: (event) => event.pool_id === id || event.subject === "deployment" };
}
