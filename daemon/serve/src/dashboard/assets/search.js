// Search over embeddings: by words, by a pair's uid, or by an image of one's own.

import { all, get, of, request } from "./api.js";
import { fill, h, load, problem } from "./dom.js";
import { best, count, duration } from "./format.js";
import { recall, remember } from "./memory.js";
import { gallery } from "./pictures.js";

const FOUND = 24;
const MOST = 200;

export async function show(main, query, signal) {
  const box = h("div", { "aria-live": "polite" });
  const words = h("input", { type: "search", value: query.get("text") ?? "", placeholder: "two dogs on a beach", "data-search": "", class: "big", "aria-label": "Words to search for" });
  const [dataset, model, version] = [h("select"), h("select"), h("select")];
  const file = h("input", { type: "file", accept: "image/*", class: "unseen", tabindex: "-1", "aria-label": "Image to search by", onchange: () => { if (file.files[0]) byImage(file.files[0]); file.value = ""; } });
  const ask = { k: FOUND };

  const chosen = () => ({ dataset: dataset.value, model: model.value + version.value });
  /** The address says what is shown, so that it can be sent to somebody, and "back" goes to what was found before. */
  const go = what => {
    const address = `#/search?${new URLSearchParams({ ...chosen(), ...what })}`;
    if (address === location.hash) find(what); else location.hash = address;
  };
  fill(main,
    h("h1", {}, "Search"),
    h("form", { class: "stack", role: "search", onsubmit: event => {
      event.preventDefault();
      if (words.value.trim()) go({ text: words.value.trim() });
    } },
    h("div", { class: "row" }, words, h("button", { class: "main" }, "Search"), h("button", { type: "button", onclick: () => file.click() }, "By an image…"), file),
    h("div", { class: "row" }, h("label", {}, "in ", dataset), h("label", {}, "with ", model), h("label", {}, "as of ", version))), box);

  async function versions() {
    const found = model.value ? await all(of("runs", model.value, "checkpoints"), signal) : [];
    fill(version, h("option", { value: "" }, "its newest checkpoint"), best(found) && h("option", { value: "@best" }, "its best checkpoint"),
      found.reverse().map(({ step }) => h("option", { value: `@${step}` }, `step ${count(step)}`)));
  }
  const showVersions = () => versions().catch(error => { if (error.name !== "AbortError") fill(box, problem(error)); });
  model.addEventListener("change", showVersions);

  const answer = async (path, options) => {
    const found = await (await request(path, { signal, ...options })).json();
    remember("localStorage", "model", found.model);
    return [
      h("p", { class: "pale" }, `${count(found.items.length)} of ${count(found.pairs)} pairs, by ${found.model}, in ${duration(found.seconds)}`),
      found.items.length ? gallery(found.items, dataset.value, signal) : h("p", {}, "Nothing was found."),
      found.items.length === ask.k && ask.k < MOST && h("p", {}, h("button", { type: "button", onclick: () => { ask.k = Math.min(MOST, ask.k * 2); again(); } }, "More")),
    ];
  };
  let again = () => {};
  const run = (what, options) => {
    again = () => {
      box.setAttribute("aria-busy", "true");
      return load(box, () => answer(`/v1/search?${new URLSearchParams({ ...chosen(), ...what, k: ask.k })}`, options), signal)
        .finally(() => box.removeAttribute("aria-busy"));
    };
    return again();
  };
  const find = what => {
    fill(box);
    return run(what);
  };
  const byImage = async image => {
    fill(box);
    await run({}, { method: "POST", body: image, type: image.type || "application/octet-stream" });
  };
  for (const name of ["dragover", "drop"]) {
    main.addEventListener(name, event => {
      const dropped = event.dataTransfer?.items?.[0]?.kind === "file";
      if (!dropped) return;
      event.preventDefault();
      if (name === "drop" && event.dataTransfer.files[0]) byImage(event.dataTransfer.files[0]);
    }, { signal });
  }

  let sets, runs, known;
  try {
    [sets, known] = await Promise.all([get("/v1/datasets?limit=1000", signal), all("/v1/runs", signal)]);
    runs = known.sort((a, b) => b.updated_ms - a.updated_ms);
    fill(dataset, sets.items.map(({ name }) => h("option", { value: name }, name)));
    fill(model, runs.map(({ run }) => h("option", { value: run }, run)));
    if (!sets.items.length || !runs.length) {
      fill(box, h("p", { class: "pale" }, sets.items.length ? "There is no run yet whose model could search." : "There is no dataset: name them in diptych.toml, [[dataset]] name and path."));
      return;
    }
  } catch (error) {
    if (error.name !== "AbortError") fill(box, problem(error, () => show(main, query, signal)));
    return;
  }
  const [wanted, at] = (query.get("model") || recall("localStorage", "model") || "").split("@");
  // Who asked before the lists were there named neither.
  if (sets.items.some(({ name }) => name === query.get("dataset"))) dataset.value = query.get("dataset");
  if (runs.some(({ run }) => run === wanted)) model.value = wanted;
  await showVersions();
  if (at) version.value = `@${at}`;
  if (version.selectedIndex < 0) version.value = "";
  if (query.has("uid")) await find({ uid: query.get("uid") });
  else if (query.has("text")) await find({ text: query.get("text") });
  else {
    fill(box, h("p", { class: "pale" }, "Words, an image (drop one here), or “Find images like this one” at a pair. The model must have embedded the images: a job of the kind embed does that."));
    words.focus();
  }
}
