// Several runs side by side: differences in their configurations, their results, and their curves.

import { get, of } from "./api.js";
import { board } from "./board.js";
import { LINES_AT_MOST, swatch } from "./chart.js";
import { fill, h, load, state, table } from "./dom.js";
import { embedButton, embedded } from "./embed.js";
import { count, largerIsBetter, metricWords, number } from "./format.js";
import { byMetric, figureCell, metricSelect, results } from "./results.js";

/** Requests at once. */
const AT_ONCE = 4;

/**
 * Shows results of single evaluations in a table, and those of several evaluations also as curves.
 */
export async function compare(main, names, signal) {
  const left = names.slice(LINES_AT_MOST);
  names = names.slice(0, LINES_AT_MOST);
  const [head, differences, figures, charts] = [0, 1, 2, 3].map(() => h("div"));
  const ranked = metricSelect(() => draw());
  ranked.node.hidden = true;
  fill(main, h("p", { class: "crumbs" }, h("a", { href: "#/runs" }, "Runs"), " / compare"),
    h("div", { class: "row" }, h("h1", {}, `${names.length} runs`), left.length > 0 && h("span", { class: "chip warn" }, `${left.length} more left out: at most ${LINES_AT_MOST}`),
      h("span", { class: "gap" }), h("label", {}, "Ranked by ", ranked.node), h("a", { class: "button", href: `#/runs?select=${names.join(",")}` }, "Choose other runs")),
    h("section", {}, h("h2", {}, "Differences in configuration"), differences), head,
    h("section", {}, h("h2", {}, "Results"), figures), h("section", { "aria-label": "Charts" }, charts));
  if (!names.length) return fill(differences, h("p", { class: "pale" }, "No runs are chosen."));
  const without = name => `#/${names.length > 2 ? "compare" : "runs"}/${names.filter(other => other !== name).join(",")}`;
  let runs = [];
  let sets = new Map();

  function draw() {
    const metric = ranked.metric;
    const sorted = runs.toSorted(byMetric(metric, run => run.result?.figures.get(metric)?.value));
    const top = sorted[0]?.result?.figures.get(metric);
    fill(head, table("Runs side by side, the best first", [
      { title: "Run", heading: true, cell: runCell },
      { title: metric ? metricWords(metric) : "Result", number: true, cell: run => figureCell(run.result?.figures.get(metric), top) },
      { title: "Loss", number: true, cell: run => h("span", { title: "Mean of the last 100 steps" }, number(run.result?.loss)) },
      { title: "State", cell: run => state(run.state) },
      { title: "Step", number: true, cell: run => `${count(run.step)} / ${count(run.total_steps)}` },
      { title: "Samples", number: true, cell: run => count(run.samples) },
      { title: "Model", cell: run => h("span", { class: "cut", title: run.model }, run.model) },
      { title: "Search", cell: run => sets.has(run.run) ? h("a", { href: `#/search?model=${run.run}` }, "Search with it")
        : embedButton({ model: run.run, text: "Embed…", signal, done: async () => { sets = await embedded(signal); draw(); } }) },
      { title: h("span", { class: "unseen" }, "Leave out"), class: "pick", cell: run => h("a", { href: without(run.run), "aria-label": `Leave ${run.run} out` }, "×") },
    ], sorted, { cards: true }));
    fill(figures, figureTable(runs));
  }

  await load(head, async () => {
    const waiting = names.map((name, index) => [name, index]);
    const found = [];
    const one = async () => {
      for (let next = waiting.shift(); next; next = waiting.shift()) found.push({ index: next[1], ...await get(of("runs", next[0]), signal) });
    };
    const [come, embeddings] = await Promise.all([results(signal), embedded(signal), ...Array.from({ length: AT_ONCE }, one)]);
    sets = embeddings;
    runs = found.sort((a, b) => a.index - b.index).map(run => ({ ...run, result: come.get(run.run) }));
    ranked.offer(new Map(runs.filter(run => run.result).map(run => [run.run, run.result])));
    ranked.node.parentElement.hidden = ranked.node.hidden;
    fill(differences, differ(runs));
    draw();
  }, signal);
  if (runs.length) await load(charts, async () => (await board(names, signal, { guess: lossOfGuessing(runs.map(run => run.config ?? "")) })).node, signal);
}

/**
 * Builds a table of the best of every figure: rows are metrics, columns are runs. With many runs it
 * is transposed.
 */
function figureTable(runs) {
  const metrics = [...new Set(runs.flatMap(run => [...run.result?.figures.keys() ?? []]))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const value = (run, metric) => {
    const figure = run.result?.figures.get(metric);
    const best = runs.map(other => other.result?.figures.get(metric)?.value).filter(value => value !== undefined)
      .reduce((a, b) => largerIsBetter(metric) === (b > a) ? b : a);
    return figure ? h(figure.value === best ? "b" : "span", { title: `step ${count(figure.step)}` }, number(figure.value)) : h("span", { class: "pale" }, "–");
  };
  const empty = { empty: "None of these runs has been evaluated.", cards: true };
  return sideways("The best of every figure", "Metric", metrics, runs, metric => metricWords(metric), value, empty, true);
}

const runCell = run => h("span", { class: "run-cell" }, swatch(run.index), h("a", { href: `#/runs/${run.run}`, class: "run-name", title: run.run }, run.run));

/** Builds a table of things by runs. Few runs become columns, many become rows. */
function sideways(caption, title, things, runs, name, cell, options, numbers) {
  return runs.length <= 4 || things.length > 12
    ? table(caption, [{ title, heading: true, cell: name }, ...runs.map(one => ({ title: one.run, number: numbers, class: "setting", cell: thing => cell(one, thing) }))], things, options)
    : table(caption, [{ title: "Run", heading: true, cell: runCell }, ...things.map(thing => ({ title: name(thing), number: numbers, class: "setting", cell: one => cell(one, thing) }))], things.length ? runs : [], options);
}

/**
 * Returns the values of a TOML text by full name. Handles what Diptych writes: one value a line, or
 * lists over several lines.
 */
export function settings(toml) {
  const found = new Map();
  let section = "";
  let open = null;
  for (const line of toml.split("\n")) {
    if (open) {
      found.set(open, `${found.get(open)} ${line.trim()}`);
      if (/^\s*\]/.test(line)) open = null;
      continue;
    }
    const header = /^\s*\[+([^\]]+)\]+\s*$/.exec(line);
    const value = /^\s*([\w.-]+)\s*=\s*(.*)$/.exec(line);
    if (header) section = `${header[1]}.`;
    else if (value) {
      found.set(section + value[1], value[2]);
      if (/^\[[^\]]*$/.test(value[2])) open = section + value[1];
    }
  }
  return found;
}

/** The hashes that tell whether two runs use the same data, by setting. */
const HASHED = { "data.dataset": "dataset_hash", "data.selection": "selection_hash" };
/** Names and paths that do not affect a run. */
const NO_DIFFERENCE = new Set(["name", "state"]);

/** Returns the settings in which runs differ. Another path to the same data is not a difference. */
export function differences(runs) {
  const all = runs.map(run => settings(run.config ?? ""));
  const differ = values => new Set(values).size > 1;
  return [...new Set(all.flatMap(found => [...found.keys()]))].filter(key => !NO_DIFFERENCE.has(key)
    && differ(all.map(found => found.get(key)))
    && !(HASHED[key] && runs.every(run => run[HASHED[key]]) && !differ(runs.map(run => run[HASHED[key]]))));
}

function differ(runs) {
  const all = new Map(runs.map(run => [run.run, settings(run.config ?? "")]));
  return sideways("Differences in configuration", "Setting", differences(runs), runs, key => h("code", {}, key),
    (run, key) => h("code", {}, all.get(run.run).get(key) ?? "–"), { empty: "No differences except for names and paths.", cards: true });
}

/**
 * Returns the loss of a model that guesses, ln(batch), or null. It is defined if all configurations
 * use the contrastive loss over batches of one size.
 */
export function lossOfGuessing(configs) {
  const sizes = new Set(configs.map(config => {
    const found = settings(config ?? "");
    const plain = [undefined, '"clip"'].includes(found.get("objective.loss"));
    const terms = [...found.keys()].some(key => /^objective\.(terms|weights)/.test(key));
    return plain && !terms ? Number(found.get("train.batch_size")) : NaN;
  }));
  const [size] = sizes;
  return sizes.size === 1 && size > 1 ? Math.log(size) : null;
}
