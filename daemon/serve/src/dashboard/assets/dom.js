// Builds elements in code. Text only ever becomes text nodes, so text from a server can never
// become markup.

/** Builds an element: h("a", {href: "#/", class: "x", onclick: f}, "text", node, [more]). */
export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...flat(children));
  return node;
}

function flat(children) {
  return children.flat(Infinity).filter(child => child !== undefined && child !== null && child !== false);
}

export function fill(node, ...children) {
  node.replaceChildren(...flat(children));
  return node;
}

/**
 * Builds a bar for a share of 0 to 1. Sets its width through the style object, since the page's
 * policy forbids style attributes.
 */
export function bar(share, label, kind = "") {
  const inner = h("span", { class: "fill" });
  inner.style.width = `${Math.max(0, Math.min(1, share || 0)) * 100}%`;
  return h("span", { class: `bar ${kind}`, role: "img", "aria-label": label }, inner);
}

/**
 * Builds a table with headings. columns: {title, cell(item), number?, heading?: whether the cell
 * names the row, class?, sorted?: the order of the rows, sort?: called when the heading is
 * clicked}. With `cards`, a phone shows each row as a card. The roles then keep it a table for
 * screen readers, which browsers forget once its display changes.
 */
export function table(caption, columns, items, { empty = "Nothing here yet.", cards = false } = {}) {
  const role = name => cards ? name : undefined;
  const row = (...cells) => h("tr", { role: role("row") }, cells);
  return h("div", { class: cards ? "scroll cards" : "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", { role: role("table") }, h("caption", { class: "unseen" }, caption),
      h("thead", { role: role("rowgroup") }, row(columns.map(column => h("th", { scope: "col", role: role("columnheader"), class: classes(column), "aria-sort": column.sorted }, heading(column))))),
      h("tbody", { role: role("rowgroup") }, items.length === 0
        ? row(h("td", { colspan: columns.length, class: "pale", role: role("cell") }, empty))
        : items.map(item => row(columns.map(column => h(column.heading ? "th" : "td", {
          scope: column.heading && "row", role: role(column.heading ? "rowheader" : "cell"), class: classes(column),
          "data-title": typeof column.title === "string" && column.title,
        }, column.cell(item))))))));
}

function heading({ title, sort, sorted }) {
  if (!sort) return title;
  const arrow = { ascending: "▲", descending: "▼" }[sorted];
  return h("button", { type: "button", class: "quiet sort", "aria-label": `Sort by ${title}`, onclick: sort }, title, h("span", { "aria-hidden": "true" }, arrow ?? "↕"));
}

function classes(column) {
  return [column.number && "number", column.class].filter(Boolean).join(" ") || undefined;
}

export const state = name => h("span", { class: `state ${name}` }, name);

/**
 * Runs `work` and shows its state in `box`: loading, the result, or the error with a button to
 * retry.
 */
export async function load(box, work, signal) {
  const wait = h("p", { class: "pale", "aria-busy": "true" }, "Loading…");
  if (!box.hasChildNodes()) fill(box, wait);
  try {
    const nodes = await work();
    if (!signal?.aborted && nodes !== undefined) fill(box, nodes);
  } catch (error) {
    if (signal?.aborted || error.name === "AbortError") return;
    fill(box, problem(error, () => { fill(box); load(box, work, signal); }));
  }
}

export function problem(error, again) {
  const known = error.title !== undefined;
  if (!known) console.error(error);
  const title = known ? error.title : "This page has a bug";
  return h("div", { class: "problem", role: "alert" },
    title && h("b", {}, title), h("p", { class: error.message?.includes("\n") ? "lines" : undefined }, error.message),
    error.advice && h("p", { class: "pale" }, error.advice),
    again && h("button", { type: "button", onclick: again, "data-again": "" }, "Try again"));
}

/** Shows a message for a moment, and announces it to screen readers. */
export function toast(text, kind = "") {
  const node = h("div", { class: `toast ${kind}`, role: kind === "bad" ? "alert" : "status" }, text,
    h("button", { type: "button", class: "quiet", "aria-label": "Dismiss", onclick: () => node.remove() }, "×"));
  const toasts = document.getElementById("toasts");
  // Keep few: a page may stay open over a weekend.
  while (toasts.childElementCount >= 4) toasts.firstElementChild.remove();
  toasts.append(node);
  setTimeout(() => node.remove(), kind === "bad" ? 15000 : 6000);
}

/**
 * Shows a dialog until it is closed or the page behind it changes. Resolves to the value of the
 * button that closed it ("" for Escape).
 */
export function dialog(title, content, buttons = [], className = "") {
  return new Promise(resolve => {
    const node = h("dialog", { class: className, "aria-label": title }, h("form", { method: "dialog" },
      h("h2", {}, title), content,
      h("p", { class: "buttons" }, buttons.map(([text, value, kind]) => h("button", { value, class: kind, autofocus: kind === "main" }, text)))));
    node.addEventListener("click", event => { if (event.target === node) node.close(""); });
    const left = new AbortController();
    window.addEventListener("hashchange", () => node.close(""), { signal: left.signal });
    node.addEventListener("close", () => { left.abort(); node.remove(); resolve(node.returnValue); });
    document.body.append(node);
    node.showModal();
  });
}

export async function sure(question, detail, yes) {
  return await dialog(question, h("p", {}, detail), [["Back", "", ""], [yes, "yes", "danger"]]) === "yes";
}
