// Thumbnails. A browser's own requests cannot carry a token, so where there is one, images are fetched and shown from memory.

import { request, token } from "./api.js";
import { h, dialog, fill } from "./dom.js";

const AT_ONCE = 6;
const waiting = [];
let busy = 0;

/** An image element. What it holds in memory is let go with the page that it is on. */
function picture(address, alt, signal, size) {
  const image = h("img", { alt, loading: "lazy", decoding: "async", draggable: "false" });
  const url = size ? address.replace(/size=\d+/, `size=${size}`) : address;
  const broken = () => image.replaceWith(h("span", { class: "broken" }, "cannot be shown"));
  if (!token.get()) {
    image.addEventListener("error", broken);
    image.src = url;
    return image;
  }
  const seen = new IntersectionObserver(([entry]) => {
    if (!entry.isIntersecting) return;
    seen.disconnect();
    waiting.push(async () => {
      try {
        const blob = await (await request(url, { signal })).blob();
        const made = URL.createObjectURL(blob);
        signal.addEventListener("abort", () => URL.revokeObjectURL(made));
        image.src = made;
      } catch {
        if (!signal.aborted) broken();
      }
    });
    work();
  });
  seen.observe(image);
  return image;
}

async function work() {
  if (busy >= AT_ONCE || !waiting.length) return;
  busy += 1;
  await waiting.shift()();
  busy -= 1;
  work();
}

/** A grid of pairs; a click shows one large. items: {uid, caption, width, height, image, source?, score?}. */
export function gallery(items, dataset, signal) {
  return h("ul", { class: "gallery" }, items.map(item => h("li", {},
    h("button", { type: "button", class: "pair", onclick: () => look(item, dataset, signal) },
      h("span", { class: "frame" }, picture(item.image, "", signal)),
      h("span", { class: "caption" }, h("span", {}, item.score !== undefined && h("b", { class: "score" }, item.score.toFixed(3)), " ", item.caption))))));
}

function look(item, dataset, signal) {
  const fact = (name, value) => value !== undefined && value !== null && [h("dt", {}, name), h("dd", {}, value)];
  const content = h("div", { class: "look" });
  fill(content, h("span", { class: "frame" }, picture(item.image, item.caption, signal, 512)),
    h("div", {}, h("p", {}, item.caption), h("dl", { class: "facts" },
      fact("uid", h("code", {}, item.uid)), fact("Size", `${item.width} × ${item.height}`), fact("Source", item.source), fact("Score", item.score?.toFixed(4))),
    h("p", {}, h("a", { href: `#/search?${new URLSearchParams({ dataset, uid: item.uid })}`, onclick: () => content.closest("dialog").close() }, "Find images like this one"))));
  dialog("Pair", content, [["Close", "", "main"]], "wide");
}
