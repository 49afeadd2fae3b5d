// Datasets: an overview, the losses on the way from inputs to pairs, and pairs to look at.

import { get, of } from "./api.js";
import { bar, fill, h, load, table } from "./dom.js";
import { embedButton } from "./embed.js";
import { bytes, count, percent, plural, typeWords } from "./format.js";
import { gallery } from "./pictures.js";

const SAMPLES = 24;

const link = one => `#/datasets/${encodeURIComponent(one.name)}`;

export async function show(main, _, signal) {
  const box = h("div");
  fill(main, h("h1", {}, "Datasets"), box);
  await load(box, async () => {
    const { items } = await get("/v1/datasets?limit=1000", signal);
    return table("Datasets", [
      { title: "Name", heading: true, cell: one => h("a", { href: link(one) }, one.name) },
      { title: "Pairs", number: true, cell: one => count(one.pairs) },
      { title: "Images", number: true, cell: one => bytes(one.bytes) },
      { title: "Shards", number: true, cell: one => count(one.shards) },
      { title: "Refused", number: true, cell: one => count(one.ledger) },
      { title: "Folder", cell: one => h("code", {}, one.path) },
      { title: "Problem", class: "words", cell: one => one.problem ?? "" },
    ], items, { empty: "No datasets. Add [[dataset]] with name and path to diptych.toml, then run systemctl reload diptych.", cards: true });
  }, signal);
}

export async function showOne(main, name, query, signal) {
  const [head, grid] = [h("div"), h("div", { "aria-live": "polite" })];
  let seed = 0;
  const where = h("input", { type: "search", value: query.get("where") ?? "", spellcheck: "false", autocapitalize: "off", "data-search": "", placeholder: "width >= 200 AND caption LIKE '%dog%'" });
  const look = () => load(grid, async () => {
    const asked = new URLSearchParams({ limit: SAMPLES, seed, ...(where.value.trim() && { where: where.value.trim() }) });
    const { items } = await get(`${of("datasets", name, "samples")}?${asked}`, signal);
    return items.length ? gallery(items, name, signal) : h("p", { class: "pale" }, "No pair matches.");
  }, signal);
  fill(main, h("p", { class: "crumbs" }, h("a", { href: "#/datasets" }, "Datasets"), ` / ${name}`), head,
    h("section", {}, h("h2", {}, "Samples"),
      h("form", { class: "row", onsubmit: event => { event.preventDefault(); seed = 0; look(); } },
        h("label", { class: "grow" }, "Where (SQL over meta) ", where), h("button", { class: "main" }, "Show"),
        h("button", { type: "button", onclick: () => { seed += 1; look(); } }, "Other samples")), grid));
  await Promise.all([look(), load(head, async () => {
    const one = await get(of("datasets", name), signal);
    const shares = (caption, title, items, key) => h("section", {}, h("h2", {}, title), table(caption, [
      { title: key, heading: true, cell: item => item[key.toLowerCase()] },
      { title: "Count", number: true, cell: item => count(item.count) },
      { title: "Share", class: "track", cell: item => bar(item.count / items.reduce((sum, { count }) => sum + count, 0), percent(item.count / items.reduce((sum, { count }) => sum + count, 0))) },
    ], items, { empty: "None." }));
    const ask = (text, sql) => h("a", { href: `#/sql?${new URLSearchParams({ dataset: name, query: sql })}` }, text);
    return [
      h("h1", {}, one.name), one.problem && h("p", { class: "problem" }, one.problem),
      h("p", { class: "pale" }, `${plural(one.pairs, "pair")} · ${bytes(one.bytes)} of images in ${plural(one.shards, "shard")} · ${plural(one.ledger, "input")} refused · `, h("code", {}, one.path)),
      h("p", { class: "row" }, h("a", { class: "button", href: `#/search?${new URLSearchParams({ dataset: name })}` }, "Search in it"),
        embedButton({ dataset: name, text: "Embed…", signal }),
        ask("Ask in SQL", "SELECT * FROM meta LIMIT 100"), ask("Refused inputs", "SELECT reason, source, position, detail FROM ledger LIMIT 100")),
      h("div", { class: "columns" },
        h("section", {}, h("h2", {}, "Funnel"), funnel(one.funnel),
          one.last_selection && h("p", { class: "pale" }, `Latest selection: ${plural(one.last_selection.pairs, "pair")}, ${percent(one.last_selection.pairs / one.pairs)}, in `, h("code", {}, one.last_selection.path), ".")),
        shares("Inputs that did not become pairs, by reason", "Refused, by reason", one.ledger_by_reason, "Reason"),
        shares("Formats of the images", "Formats", one.formats, "Format"),
        h("section", {}, h("h2", {}, "Columns of meta"), h("ul", { class: "chips" }, one.columns.map(column =>
          h("li", { class: "chip" }, column.name, " ", h("small", { class: "pale", title: column.type }, typeWords(column.type))))))),
    ];
  }, signal)]);
}

function funnel(stages) {
  const first = stages[0]?.count || 1;
  return table("From inputs to training pairs", [
    { title: "Stage", heading: true, cell: stage => stage.stage },
    { title: "Left", number: true, cell: stage => {
      const at = stages.indexOf(stage);
      return [count(stage.count), at > 0 && stages[at - 1].count > stage.count && h("small", { class: "drop" }, ` −${count(stages[at - 1].count - stage.count)}`)];
    } },
    { title: "Of all", class: "track", cell: stage => [bar(stage.count / first, percent(stage.count / first)), " ", h("small", { class: "pale" }, percent(stage.count / first))] },
  ], stages, { empty: "Nothing has been ingested." });
}
