// Results of runs: the best value of each figure with its interval, and the metric by which runs
// are ranked.

import { all } from "./api.js";
import { h } from "./dom.js";
import { count, largerIsBetter, metricWords, number } from "./format.js";
import { recall, remember } from "./memory.js";

const KEPT = "diptych.ranked-by";
/** The default of checkpoint.best_metric. */
const USUAL = "heldout/i2t_recall@1";

/** Returns the results of all runs, by the run's name. */
export async function results(signal) {
  return new Map((await all("/v1/results", signal)).map(one => [one.run, { ...one, figures: new Map(one.figures.map(figure => [figure.name, figure])) }]));
}

/** Builds a select of the existing metrics. Calls `changed` when the user chooses another one. */
export function metricSelect(changed) {
  const node = h("select", { "aria-label": "Ranked by", onchange: () => { remember("localStorage", KEPT, node.value); changed(); } });
  return {
    node,
    get metric() { return node.value; },
    /** Offers the metrics of these results. */
    offer(found) {
      const names = [...new Set([...found.values()].flatMap(one => [...one.figures.keys()]))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
      const wanted = [node.value, recall("localStorage", KEPT), USUAL, names[0]].find(name => names.includes(name)) ?? "";
      if (names.join() !== [...node.options].map(({ value }) => value).join()) node.replaceChildren(...names.map(name => h("option", { value: name }, metricWords(name))));
      node.value = wanted;
      node.hidden = names.length < 2;
    },
  };
}

/** Returns a comparison of two values of a metric: the better one first, missing values last. */
export function byMetric(metric, of) {
  const sign = largerIsBetter(metric) ? -1 : 1;
  return (a, b) => {
    const [x, y] = [of(a), of(b)];
    if (x === null || y === null || x === undefined || y === undefined) return (x === null || x === undefined) - (y === null || y === undefined);
    return sign * (x - y);
  };
}

const rounded = value => number(Number(value.toPrecision(3)));

/**
 * Shows a figure with its interval and step. `top` is the best of all, to mark values that cannot
 * be told apart from it.
 */
export function figureCell(figure, top) {
  if (!figure) return h("span", { class: "pale" }, "–");
  const has = figure.low !== null && figure.high !== null;
  // Overlapping intervals say little. An interval that holds the other value means that they cannot
  // be told apart.
  const same = has && top && top !== figure && figure.low <= top.value && top.value <= figure.high;
  return h("span", { class: "figure" }, h("b", {}, has ? rounded(figure.value) : number(figure.value)),
    h("small", { class: "pale" }, has && h("span", { title: "95% interval" }, `${rounded(figure.low)} – ${rounded(figure.high)}`), has && " · ", `step ${count(figure.step)}`),
    same && h("small", { class: "pale", title: "The best value lies within its interval" }, "not distinguishable from the best"));
}
