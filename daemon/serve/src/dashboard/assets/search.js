// Search over embeddings: by words, by a pair's uid, or by an image of the user.

import { all, get, of, request } from "./api.js";
import { fill, h, load, problem } from "./dom.js";
import { embedButton, embedded } from "./embed.js";
import { best, count, duration, plural } from "./format.js";
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
  /** Runs that have embedded images: run → [{step, rows}]. */
  let sets = new Map();

  const chosen = () => ({ dataset: dataset.value, model: model.value + version.value });
  /**
   * Puts the query into the address, so that it can be shared and "back" returns to the previous
   * results.
   */
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
    const has = sets.get(model.value) ?? [];
    const newest = found.at(-1)?.step;
    const mark = step => has.some(set => set.step === step) ? " ✓" : "";
    fill(version, h("option", { value: "" }, `its newest checkpoint${mark(newest)}`), best(found) && h("option", { value: "@best" }, `its best checkpoint${mark(best(found).step)}`),
      found.reverse().map(({ step }) => h("option", { value: `@${step}` }, `step ${count(step)}${mark(step)}`)));
    // Prefer a checkpoint that can be searched to a newer one.
    if (has.length && !mark(newest)) version.value = `@${has[0].step}`;
    if (version.selectedIndex < 0) version.value = "";
  }
  const showVersions = () => versions().catch(error => { if (error.name !== "AbortError") fill(box, problem(error)); });
  model.addEventListener("change", showVersions);

  /** Offers to embed the dataset with a model that has not embedded it yet. */
  const embedFirst = () => {
    const { dataset, model } = chosen();
    const others = [...sets.keys()].filter(run => run !== model.split("@")[0]);
    return h("div", { class: "card stack" },
      h("p", {}, h("b", {}, model), " has not embedded the images of ", h("b", {}, dataset), " yet. Search compares embeddings, so this is needed once."),
      h("p", { class: "row" }, embedButton({ model, dataset, kind: "main", signal, done: async () => {
        sets = await embedded(signal);
        await again();
      } }), others.length > 0 && h("span", { class: "pale" }, `Already searchable: ${others.join(", ")}.`)));
  };

  const answer = async (path, options) => {
    let found;
    try {
      found = await (await request(path, { signal, ...options })).json();
    } catch (error) {
      if (error.code === "no_embeddings") return embedFirst();
      throw error;
    }
    remember("localStorage", "model", found.model);
    if (!found.items.length) return embedFirst();
    return [
      h("p", { class: "pale" }, `${count(found.items.length)} of ${count(found.pairs)} pairs, by ${found.model}, in ${duration(found.seconds)}`),
      gallery(found.items, dataset.value, signal),
      found.items.length === ask.k && ask.k < MOST && h("p", {}, h("button", { type: "button", onclick: () => { ask.k = Math.min(MOST, ask.k * 2); again(); } }, "More")),
    ];
  };
  const invite = () => {
    fill(box, h("p", { class: "pale" }, "Enter words, drop an image here, or use “Find images like this one” at a pair."));
    words.focus();
  };
  let again = invite;
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

  let datasets, runs;
  try {
    [datasets, runs, sets] = await Promise.all([get("/v1/datasets?limit=1000", signal), all("/v1/runs", signal), embedded(signal)]);
    datasets = datasets.items;
    // List the models that can be searched first.
    runs.sort((a, b) => sets.has(b.run) - sets.has(a.run) || b.updated_ms - a.updated_ms);
    fill(dataset, datasets.map(({ name }) => h("option", { value: name }, name)));
    const group = (label, some) => some.length > 0 && h("optgroup", { label }, some.map(({ run }) => {
      const rows = sets.get(run)?.[0].rows;
      return h("option", { value: run }, rows ? `${run} (${plural(rows, "image")})` : run);
    }));
    fill(model, group("Searchable", runs.filter(({ run }) => sets.has(run))), group("Not embedded yet", runs.filter(({ run }) => !sets.has(run))));
    if (!datasets.length || !runs.length) {
      fill(box, h("p", { class: "pale" }, datasets.length ? "There is no run yet, and so no model to search with." : "There is no dataset yet. Make one with diptych ingest."));
      return;
    }
  } catch (error) {
    if (error.name !== "AbortError") fill(box, problem(error, () => show(main, query, signal)));
    return;
  }
  const asked = query.get("model");
  const kept = recall("localStorage", "model") ?? "";
  // Restore the model that was searched last, if it can be searched.
  const [wanted, at] = (asked || (sets.has(kept.split("@")[0]) ? kept : "")).split("@");
  // A query from before the lists were loaded names neither.
  if (datasets.some(({ name }) => name === query.get("dataset"))) dataset.value = query.get("dataset");
  if (runs.some(({ run }) => run === wanted)) model.value = wanted;
  await showVersions();
  if (at) version.value = `@${at}`;
  // An address that names a run means its newest checkpoint, as the page said when it made the
  // address.
  else if (asked && (query.has("text") || query.has("uid"))) version.value = "";
  if (version.selectedIndex < 0) version.value = "";
  if (query.has("uid")) await find({ uid: query.get("uid") });
  else if (query.has("text")) await find({ text: query.get("text") });
  else if (!(sets.get(model.value) ?? []).length) fill(box, embedFirst());
  else invite();
}
