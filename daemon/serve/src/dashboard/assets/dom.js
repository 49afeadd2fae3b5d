// Elements from code. Text becomes text nodes and nothing else, so what a server says can never become markup.

/** h("a", {href: "#/", class: "x", onclick: f}, "text", node, [more]) */
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

/** A bar of 0 to 1. Width by the style object: the page's policy forbids style attributes. */
export function bar(share, label, kind = "") {
  const inner = h("span", { class: "fill" });
  inner.style.width = `${Math.max(0, Math.min(1, share || 0)) * 100}%`;
  return h("span", { class: `bar ${kind}`, role: "img", "aria-label": label }, inner);
}

/**
 * A table with headings. columns: {title, cell(item), number?, heading?: it names the row, class?, sorted?: how it is sorted, sort?: what
 * happens when its heading is clicked}. With `cards`, a phone shows each row as a card; the roles say that it is a table still, which
 * browsers forget once its display changes.
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

/** Runs `work` and shows what came of it in `box`: a wait, the result, or the error with a way to try again. */
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
  const title = known ? error.title : "The page has a fault";
  return h("div", { class: "problem", role: "alert" },
    title && h("b", {}, title), h("p", { class: error.message?.includes("\n") ? "lines" : undefined }, error.message),
    error.advice && h("p", { class: "pale" }, error.advice),
    again && h("button", { type: "button", onclick: again, "data-again": "" }, "Try again"));
}

/** Says something for a moment, to eyes and to screen readers. */
export function toast(text, kind = "") {
  const node = h("div", { class: `toast ${kind}`, role: kind === "bad" ? "alert" : "status" }, text,
    h("button", { type: "button", class: "quiet", "aria-label": "Dismiss", onclick: () => node.remove() }, "×"));
  const toasts = document.getElementById("toasts");
  // A page that is left open over a weekend shall not drown in them.
  while (toasts.childElementCount >= 4) toasts.firstElementChild.remove();
  toasts.append(node);
  setTimeout(() => node.remove(), kind === "bad" ? 15000 : 6000);
}

/** A dialog that is gone when closed, or when the page behind it changes. Resolves to what its buttons close it with ("" for Escape). */
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
