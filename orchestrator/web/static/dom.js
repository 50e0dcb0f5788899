// Making and mending elements. Everything from outside goes through text nodes: names, reasons and logs are untrusted.

export const $ = (id) => document.getElementById(id);

/** h("a.link", {href: "#x", onclick}, "text", child): an element; null children are left out. */
export function h(name, props = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag || "div");
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Only what differs is written, so that selections and screen readers stay undisturbed. */
export function setText(element, text) {
  const value = text === null || text === undefined ? "" : String(text);
  if (element.textContent !== value) element.textContent = value;
}

export function setAttr(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value === true ? "" : value);
}

/**
 * Make the children of `parent` those of `items`, in their order, keeping the elements of known keys.
 * `create(item)` returns an element with a method `show(item)`, which is called at once and at every change.
 */
export function keyed(parent, items, key, create) {
  const known = (parent.known ??= new Map());
  const keep = new Set(items.map(key));
  for (const [id, element] of known) {
    if (keep.has(id)) continue;
    element.remove();
    known.delete(id);
  }
  let place = parent.firstElementChild;
  for (const item of items) {
    const id = key(item);
    let element = known.get(id);
    if (!element) known.set(id, (element = create(item)));
    element.show(item);
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
}

/** Pressing anywhere on a row follows its link; real links, buttons and selected text keep their own ways. */
export function followRows(body) {
  body.addEventListener("click", (event) => {
    if (event.target.closest("a, button") || String(getSelection())) return;
    event.target.closest("tr")?.querySelector("a")?.click();
  });
}

let fading;
export function toast(text) {
  const box = $("toast");
  box.textContent = text;
  box.classList.add("shown");
  clearTimeout(fading);
  fading = setTimeout(() => box.classList.remove("shown"), 6000);
}

/** The confirmation dialog. Resolves to null, or to {option: whether the check box is set}. */
export function ask({ title, text, yes, option }) {
  const dialog = $("ask");
  const check = $("ask-option");
  setText($("ask-title"), title);
  setText($("ask-text"), text);
  setText($("ask-yes"), yes);
  check.hidden = !option;
  check.firstElementChild.checked = false;
  setText(check.lastElementChild, option ?? "");
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    const done = () => resolve(dialog.returnValue === "yes" ? { option: check.firstElementChild.checked } : null);
    dialog.addEventListener("close", done, { once: true });
  });
}
