// Thumbnails, and a dialog that shows a pair in detail. A browser's own image requests cannot carry
// a token. So with a token, images are fetched and shown from memory.

import { askSql, request, token } from "./api.js";
import { dialog, fill, h } from "./dom.js";
import { bytes, number } from "./format.js";

const AT_ONCE = 6;
const LARGE = 768;
const waiting = [];
let busy = 0;
/** The images that each page (by its signal) has fetched: address → promise of its object URL. */
const fetched = new WeakMap();

/** Builds an image element. Its memory is released with the page that it is on. */
export function picture(address, alt, signal, size) {
  const image = h("img", { alt, loading: "lazy", decoding: "async", draggable: "false" });
  const url = size ? address.replace(/size=\d+/, `size=${size}`) : address;
  const broken = () => image.replaceWith(h("span", { class: "broken" }, "cannot show"));
  image.addEventListener("error", broken);
  if (!token.get()) {
    image.src = url;
    return image;
  }
  if (!fetched.has(signal)) fetched.set(signal, new Map());
  const known = fetched.get(signal);
  const show = () => known.get(url).then(made => { image.src = made; }, () => { if (!signal.aborted) broken(); });
  if (known.has(url)) {
    show();
    return image;
  }
  const seen = new IntersectionObserver(([entry]) => {
    if (!entry.isIntersecting) return;
    seen.disconnect();
    if (!known.has(url)) known.set(url, later(url, signal));
    show();
  });
  seen.observe(image);
  return image;
}

function later(url, signal) {
  return new Promise((resolve, reject) => {
    waiting.push(async () => {
      try {
        const made = URL.createObjectURL(await (await request(url, { signal })).blob());
        signal.addEventListener("abort", () => URL.revokeObjectURL(made));
        resolve(made);
      } catch (error) {
        fetched.get(signal).delete(url);
        reject(error);
      }
    });
    work();
  });
}

async function work() {
  if (busy >= AT_ONCE || !waiting.length) return;
  busy += 1;
  await waiting.shift()();
  busy -= 1;
  work();
}

/**
 * Builds a grid of pairs. A click shows one large. items: {uid, caption, width, height, image,
 * source?, score?}.
 */
export function gallery(items, dataset, signal) {
  return h("ul", { class: "gallery" }, items.map((item, place) => h("li", {},
    h("button", { type: "button", class: "pair", onclick: () => pairDialog(items, place, dataset, signal) },
      h("span", { class: "frame" }, picture(item.image, "", signal)),
      h("span", { class: "caption" }, h("span", { dir: "auto" }, item.score !== undefined && h("b", { class: "score" }, item.score.toFixed(3)), " ", item.caption))))));
}

/** Columns that are shown elsewhere in the dialog, or that are positions in files. */
const NOT_LISTED = new Set(["caption", "width", "height", "row_group", "row", "shard"]);
const SHOWN_AS = { bytes: value => bytes(value), uid: value => h("code", {}, value), sha256: value => h("code", {}, value) };
/** Most characters of a value that are shown. */
const LONG = 2000;

/**
 * Shows one of several pairs, large, with all its columns and buttons to the previous and next
 * pair.
 */
export function pairDialog(items, place, dataset, signal) {
  const content = h("div", { class: "look" });
  const [before, after] = [["←", -1, "Previous pair"], ["→", 1, "Next pair"]].map(([arrow, by, name]) =>
    h("button", { type: "button", "aria-label": name, title: `${name} (${arrow})`, onclick: () => turn(by) }, arrow));
  const turn = by => {
    if (!items[place + by]) return;
    place += by;
    draw();
  };
  function draw() {
    const item = items[place];
    const facts = h("dl", { class: "facts" });
    const caption = h("p", { class: "wording", dir: "auto" }, item.caption);
    const query = `SELECT * FROM scored WHERE uid = uid('${item.uid}')`;
    before.disabled = !items[place - 1];
    after.disabled = !items[place + 1];
    fill(content, h("span", { class: "frame" }, picture(item.image, item.caption ?? "", signal, LARGE)),
      h("div", {}, h("p", { class: "row" }, before, after, h("span", { class: "pale" }, `${place + 1} of ${items.length}`)), caption, facts,
        h("p", { class: "row" }, h("a", { href: `#/search?${new URLSearchParams({ dataset, uid: item.uid })}` }, "Find images like this one"),
          h("a", { href: `#/sql?${new URLSearchParams({ dataset, query })}` }, "Ask in SQL"))));
    const fact = (name, value) => value !== undefined && value !== null && value !== "" && [h("dt", {}, name), h("dd", { dir: "auto" }, value)];
    const known = [fact("Score", item.score?.toFixed(4)), fact("Size", item.width && `${item.width} × ${item.height}`)];
    fill(facts, known, fact("uid", h("code", {}, item.uid)), fact("source", item.source));
    askSql({ query, dataset }, signal).then(({ columns, rows: [row] }) => {
      if (items[place] !== item || !row) return;
      const values = Object.fromEntries(columns.map(({ name }, index) => [name, row[index]]));
      if (item.caption === undefined) caption.textContent = values.caption ?? "";
      const size = fact("Size", `${values.width} × ${values.height}`);
      fill(facts, known[0], size, columns.map(({ name }, index) => !NOT_LISTED.has(name) && row[index] !== null
        && fact(name, SHOWN_AS[name]?.(row[index]) ?? inWords(row[index]))));
    }).catch(error => {
      if (error.name !== "AbortError") fill(facts, ...facts.childNodes, fact("more", h("span", { class: "pale" }, error.message)));
    });
  }
  draw();
  const shown = dialog("Pair", content, [["Close", "", "main"]], "wide");
  content.closest("dialog").addEventListener("keydown", event => {
    if (event.key === "ArrowLeft") turn(-1);
    else if (event.key === "ArrowRight") turn(1);
  });
  return shown;
}

function inWords(value) {
  const text = typeof value === "number" ? number(value) : typeof value === "object" ? JSON.stringify(value) : String(value);
  return text.length > LONG ? `${text.slice(0, LONG)}…` : text;
}
