// A SQL console: queries, their rows, and downloads.

import { askSql, get } from "./api.js";
import { LINES_AT_MOST, chart } from "./chart.js";
import { fill, h, load, table } from "./dom.js";
import { count, duration, number, typeWords } from "./format.js";
import { on } from "./live.js";
import { recall, remember } from "./memory.js";

const KEPT = "diptych.sql";
const KEPT_AT_MOST = 20;
const ROWS = 100;

const EXAMPLES = [
  ["Runs", "", "SELECT run, state, step, samples, skipped, updated FROM runs ORDER BY updated DESC"],
  ["Loss per hundred steps", "", "SELECT run, step / 100 * 100 AS step, avg(value) AS loss FROM metrics WHERE name = 'loss' GROUP BY run, step / 100 ORDER BY run, step"],
  ["Held-out results", "", "SELECT run, step, name, value FROM metrics WHERE name LIKE 'heldout/%' ORDER BY run, step, name"],
  ["Events of guards", "", "SELECT run, kind, count(*) AS times, max(step) AS last FROM events GROUP BY run, kind ORDER BY times DESC"],
  ["Formats", "dataset", "SELECT format, count(*) AS pairs, avg(width) AS width, avg(bytes) AS bytes FROM meta GROUP BY format ORDER BY pairs DESC"],
  ["Longest captions", "dataset", "SELECT uid, length(caption) AS letters, caption FROM meta ORDER BY letters DESC LIMIT 20"],
  ["Why inputs were refused", "dataset", "SELECT reason, count(*) AS inputs, min(position) AS example FROM ledger GROUP BY reason ORDER BY inputs DESC"],
];

const kept = () => recall("sessionStorage", KEPT) ?? [];

export async function show(main, query, signal) {
  const box = h("div", { "aria-live": "polite" });
  const text = h("textarea", { rows: 6, spellcheck: "false", autocapitalize: "off", class: "code", "data-search": "", "aria-label": "SQL",
    value: query.get("query") ?? kept()[0]?.query ?? EXAMPLES[0][2], onkeydown: event => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); } } });
  const dataset = h("select", {}, h("option", { value: "" }, "the state folder: runs, checkpoints, metrics, events, embeddings"));
  const button = h("button", { class: "main" }, "Run");
  const stop = h("button", { type: "button", hidden: true, onclick: () => asking?.abort() }, "Stop");
  const history = h("select", { "aria-label": "Previous queries", onchange: () => {
    const chosen = kept()[history.selectedIndex - 1];
    if (chosen) { text.value = chosen.query; dataset.value = chosen.dataset; }
    history.selectedIndex = 0;
  } });
  const showHistory = () => fill(history, h("option", {}, "Previous queries…"), kept().map(({ query }) => h("option", {}, query.replaceAll(/\s+/g, " ").slice(0, 80))));
  showHistory();
  const examples = h("select", { "aria-label": "Examples", onchange: () => {
    const [, of, sql] = EXAMPLES[examples.selectedIndex - 1] ?? [];
    if (sql) { text.value = sql; if (of && !dataset.value) dataset.selectedIndex = Math.min(1, dataset.options.length - 1); }
    examples.selectedIndex = 0;
    text.focus();
  } }, h("option", {}, "Examples…"), EXAMPLES.map(([name]) => h("option", {}, name)));
  const tables = h("div", { class: "tables" });
  fill(main, h("h1", {}, "SQL"), h("div", { class: "console" },
    h("form", { class: "stack", onsubmit: event => { event.preventDefault(); run(); } }, text,
      h("div", { class: "row" }, button, stop, h("label", {}, "over ", dataset), examples, history, h("span", { class: "pale hint" }, "Ctrl + Enter runs. Queries only read."))),
    h("aside", { "aria-label": "Tables and columns" }, tables)), box);
  const insert = name => {
    text.setRangeText(name, text.selectionStart, text.selectionEnd, "end");
    text.focus();
  };
  const showTables = () => load(tables, () => schema(dataset.value, insert, signal), signal);
  dataset.addEventListener("change", showTables);

  let asking = null;
  async function run() {
    asking?.abort();
    asking = new AbortController();
    const mine = asking;
    const ended = AbortSignal.any([signal, mine.signal]);
    const question = { query: text.value, ...(dataset.value && { dataset: dataset.value }) };
    const now = { query: text.value, dataset: dataset.value };
    remember("sessionStorage", KEPT, [now, ...kept().filter(({ query }) => query !== now.query)].slice(0, KEPT_AT_MOST));
    showHistory();
    stop.hidden = false;
    fill(box);
    await load(box, async () => result(await askSql(question, ended), ended), ended);
    if (mine === asking) {
      stop.hidden = true;
      if (mine.signal.aborted && !signal.aborted) fill(box, h("p", { class: "pale" }, "Stopped."));
    }
  }

  try {
    const { items } = await get("/v1/datasets?limit=1000", signal);
    dataset.append(...items.map(({ name }) => h("option", { value: name }, `${name}: meta, ledger, scores, and the state folder`)));
    dataset.value = query.get("dataset") ?? kept()[0]?.dataset ?? "";
    if (dataset.selectedIndex < 0) dataset.value = "";
  } catch {
    // Queries over the state folder work without datasets. Failing queries report their own errors.
  }
  await Promise.all([showTables(), query.has("query") && run()]);
}

/** Lists the tables of a dataset and of the state folder. A click inserts a name into the query. */
async function schema(dataset, insert, signal) {
  const query = "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema <> 'information_schema' ORDER BY table_name, ordinal_position";
  const { rows } = await askSql({ query, ...(dataset && { dataset }) }, signal);
  const columns = new Map();
  for (const [table, column, type] of rows) columns.set(table, [...(columns.get(table) ?? []), [column, type]]);
  const name = text => h("button", { type: "button", class: "quiet", title: `Write ${text} into the query`, onclick: () => insert(quoted(text)) }, text);
  return [...columns].map(([table, all]) => h("details", { open: ["meta", "runs"].includes(table) || undefined },
    h("summary", {}, h("b", {}, table), " ", h("small", { class: "pale" }, count(all.length))),
    h("ul", {}, h("li", {}, name(table)), all.map(([column, type]) => h("li", {}, name(column), " ", h("small", { class: "pale", title: type }, typeWords(type)))))));
}

/** Quotes a name for a query if necessary. */
const quoted = name => /^[a-z_][a-z0-9_]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`;

function result({ columns, rows, truncated, seconds }, signal) {
  const box = h("div");
  let page = 0;
  const pages = Math.max(1, Math.ceil(rows.length / ROWS));
  const numeric = columns.map(({ type }) => /^(u?int|float|decimal)/i.test(type));
  const turn = by => h("button", { type: "button", disabled: by < 0 ? page === 0 : page >= pages - 1, onclick: () => { page += by; draw(); } }, by < 0 ? "‹ Previous" : "Next ›");
  function draw() {
    fill(box, table("Result", columns.map((column, index) => ({
      title: [column.name, h("small", { class: "pale type", title: column.type }, typeWords(column.type))], number: numeric[index], class: numeric[index] ? "" : "cell", cell: row => value(row[index]),
    })), rows.slice(page * ROWS, (page + 1) * ROWS), { empty: "No rows." }),
    pages > 1 && h("p", { class: "row" }, turn(-1), `${count(page * ROWS + 1)} to ${count(Math.min(rows.length, (page + 1) * ROWS))}`, turn(1)));
  }
  draw();
  const curves = plottable(columns, rows);
  return [
    h("p", { class: "row" }, `${count(rows.length)} rows in ${duration(seconds)}`,
      truncated && h("span", { class: "chip warn" }, "more rows than the service sends (sql.max_rows): add LIMIT, or aggregate"), h("span", { class: "gap" }),
      h("button", { type: "button", onclick: () => save("result.csv", "text/csv", csv(columns, rows)) }, "CSV"),
      h("button", { type: "button", onclick: () => save("result.json", "application/json", json(columns, rows)) }, "JSON")),
    curves && h("div", { class: "result-chart" }, plot(curves, signal)), box];
}

/**
 * Returns the curves of rows whose first column is ascending and all of whose columns are numbers,
 * or null.
 */
export function plottable(columns, rows) {
  const number = ({ type }) => /^(u?int|float)/i.test(type);
  const lines = columns.slice(1);
  if (rows.length < 3 || !lines.length || lines.length > LINES_AT_MOST || !columns.every(number)) return null;
  const xs = rows.map(([x]) => x);
  if (!xs.every((x, at) => typeof x === "number" && (at === 0 || x > xs[at - 1]))) return null;
  return { x: columns[0].name, lines: lines.map(({ name }, at) => ({ label: name, xs, ys: rows.map(row => typeof row[at + 1] === "number" ? row[at + 1] : null) })) };
}

function plot({ x, lines }, signal) {
  const made = chart({ title: lines.length === 1 ? lines[0].label : "Result" });
  // A canvas has a size only once it is on the page.
  queueMicrotask(() => made.update({ lines, x: { label: x, show: number }, range: null, smoothing: 0 }));
  on("theme", () => made.restyle(), signal);
  signal.addEventListener("abort", () => made.destroy());
  return made.node;
}

function value(cell) {
  if (cell === null || cell === undefined) return h("i", { class: "pale" }, "null");
  const text = typeof cell === "object" ? JSON.stringify(cell) : String(cell);
  return text.length > 300 ? h("span", { title: text.slice(0, 5000) }, `${text.slice(0, 300)}…`) : text;
}

export function csv(columns, rows) {
  const field = cell => {
    const text = cell === null || cell === undefined ? "" : typeof cell === "object" ? JSON.stringify(cell) : String(cell);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns.map(({ name }) => field(name)), ...rows.map(row => row.map(field))].map(line => line.join(",")).join("\r\n") + "\r\n";
}

const json = (columns, rows) => JSON.stringify(rows.map(row => Object.fromEntries(columns.map(({ name }, index) => [name, row[index]]))), null, 1);

function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
