// All runs: progress, results, and a choice of runs to compare.

import { all, get, of } from "./api.js";
import { LINES_AT_MOST, sparkline } from "./chart.js";
import { bar, fill, h, load, state, table } from "./dom.js";
import { ago, count, number, percent, time } from "./format.js";
import { calm, on } from "./live.js";
import { byMetric, figureCell, metricSelect, results } from "./results.js";

const PAGE = 50;
/** Requests for table rows at once: a list must not slow down a training. */
const AT_ONCE = 3;
const SPARK_POINTS = 60;
/** Most runs in a comparison, so that their lines can be told apart. */
const COMPARED_AT_MOST = LINES_AT_MOST;

/**
 * Orders of the table: key → name in the list of orders, and comparison. A click on a heading
 * reverses the order.
 */
const ORDER = {
  updated: ["updated last", (a, b) => b.updated_ms - a.updated_ms], best: ["best result", null],
  loss: ["lowest loss", byMetric("loss", run => run.result?.loss)], started: ["started last", (a, b) => b.started_ms - a.started_ms],
  name: ["name", (a, b) => a.run.localeCompare(b.run, "en", { numeric: true })], step: ["most steps", (a, b) => b.step - a.step],
  samples: ["most samples", (a, b) => b.samples - a.samples], skipped: ["most skipped", (a, b) => b.skipped - a.skipped],
  model: ["model", (a, b) => a.model.localeCompare(b.model, "en", { numeric: true })],
};
/** Orders that begin with the smallest value. */
const RISING = ["loss", "name", "model"];

export async function show(main, _, query, signal) {
  const chosen = new Set((query.get("select") ?? "").split(",").filter(Boolean));
  const box = h("div");
  const filter = h("input", { type: "search", placeholder: "name or model", "data-search": "", "aria-label": "Filter by name or model", oninput: () => { page = 0; draw(); } });
  const only = h("select", { "aria-label": "State", onchange: () => { page = 0; draw(); } }, ["all states", "running", "stopped", "failed", "finished"].map(name => h("option", {}, name)));
  const order = h("select", { "aria-label": "Order", onchange: () => { turned = false; draw(); } }, Object.entries(ORDER).map(([key, [name]]) => h("option", { value: key }, name)));
  const compare = h("button", { type: "button", class: "main", onclick: () => { location.hash = `#/compare/${[...chosen].join(",")}`; } });
  const showChosen = () => {
    compare.textContent = chosen.size ? `Compare ${chosen.size}` : "Compare";
    compare.disabled = chosen.size < 2 || chosen.size > COMPARED_AT_MOST;
    compare.title = chosen.size > COMPARED_AT_MOST ? `At most ${COMPARED_AT_MOST} at once` : "Choose two or more with their checkboxes";
  };
  showChosen();
  const ranked = metricSelect(() => draw());
  ranked.node.hidden = true;
  fill(main, h("div", { class: "row" }, h("h1", {}, "Runs"), filter, only, order, ranked.node, h("span", { class: "gap" }), compare), box);

  let runs = [];
  let turned = false;
  const figure = run => run.result?.figures.get(ranked.metric);
  const compared = () => {
    const by = order.value === "best" ? byMetric(ranked.metric, run => figure(run)?.value) : ORDER[order.value][1];
    return turned ? (a, b) => by(b, a) : by;
  };
  const sortBy = key => () => {
    turned = order.value === key && !turned;
    order.value = key;
    page = 0;
    draw();
  };
  const sorted = key => order.value !== key ? undefined : (RISING.includes(key) || (key === "best" && /loss|perplexity/.test(ranked.metric))) === turned ? "descending" : "ascending";
  const sortable = key => ({ sort: sortBy(key), sorted: sorted(key) });
  let page = 0;
  const looked = new Map();
  const queue = [];
  let busy = 0;
  // The loss is loaded when a row comes into view, and again when the run has progressed.
  const seen = new IntersectionObserver(entries => entries.filter(entry => entry.isIntersecting).forEach(({ target }) => {
    seen.unobserve(target);
    queue.push(target);
    work();
  }));
  signal.addEventListener("abort", () => seen.disconnect());
  async function work() {
    if (busy >= AT_ONCE || !queue.length || signal.aborted) return;
    busy += 1;
    const cell = queue.shift();
    const run = cell.run;
    try {
      const known = looked.get(run.run);
      if (known?.step !== run.step) {
        const { series } = await get(`${of("runs", run.run, "metrics")}?${new URLSearchParams({ names: "loss", points: SPARK_POINTS })}`, signal);
        looked.set(run.run, { step: run.step, losses: series.loss ?? [] });
      }
      cell.firstChild.replaceWith(sparkline(looked.get(run.run).losses, `Loss of ${run.run}`));
    } catch (error) {
      if (!signal.aborted) cell.title = error.message;
    }
    busy -= 1;
    work();
  }

  function draw() {
    const text = filter.value.trim().toLowerCase();
    const wanted = runs.filter(run => (only.selectedIndex === 0 || run.state === only.value)
      && (!text || `${run.run} ${run.model}`.toLowerCase().includes(text))).sort(compared());
    const pages = Math.max(1, Math.ceil(wanted.length / PAGE));
    page = Math.min(page, pages - 1);
    seen.disconnect();
    const later = run => {
      const loss = h("span", { class: "sparkcell" }, h("span", { class: "spark" }), h("span", { title: "Mean of the last 100 steps" }, number(run.result?.loss)));
      loss.run = run;
      seen.observe(loss);
      return loss;
    };
    const top = wanted.map(figure).filter(Boolean).sort(byMetric(ranked.metric, one => one.value))[0];
    const turn = by => h("button", { type: "button", disabled: by < 0 ? page === 0 : page >= pages - 1, onclick: () => { page += by; draw(); } }, by < 0 ? "‹ Previous" : "Next ›");
    fill(box,
      table("Runs", [
        { title: h("span", { class: "unseen" }, "Compare"), class: "pick", cell: run => h("input", { type: "checkbox", checked: chosen.has(run.run), "aria-label": `Compare ${run.run}`, onchange: event => {
          if (event.target.checked) chosen.add(run.run); else chosen.delete(run.run);
          showChosen();
        } }) },
        { title: "Run", heading: true, ...sortable("name"), cell: run => h("a", { href: `#/runs/${run.run}`, class: "run-name", title: run.run }, run.run) },
        { title: "State", cell: run => h("span", { title: run.message }, state(run.state)) },
        { title: "Progress", ...sortable("step"), class: "progress whole", cell: run => [bar(run.step / run.total_steps, percent(run.step / run.total_steps), run.state), h("small", { class: "pale" }, `${count(run.step)} / ${count(run.total_steps)}`)] },
        { title: "Loss", number: true, ...sortable("loss"), cell: later },
        { title: "Best", number: true, ...sortable("best"), cell: run => figureCell(figure(run), top) },
        { title: "Model", ...sortable("model"), cell: run => h("span", { class: "cut", title: run.model }, run.model) },
        { title: "Samples", number: true, ...sortable("samples"), cell: run => count(run.samples) },
        { title: "Skipped", number: true, ...sortable("skipped"), cell: run => count(run.skipped) },
        { title: "Started", number: true, ...sortable("started"), cell: run => h("span", { title: time(run.started_ms) }, ago(run.started_ms)) },
        { title: "Updated", number: true, ...sortable("updated"), cell: run => h("span", { title: time(run.updated_ms) }, ago(run.updated_ms)) },
      ], wanted.slice(page * PAGE, (page + 1) * PAGE), { empty: runs.length ? "No run matches." : "No runs yet. Submit a configuration with diptych submit run.toml.", cards: true }),
      pages > 1 && h("p", { class: "row" }, turn(-1), `${page + 1} of ${pages}`, turn(1)));
  }

  const refresh = () => load(box, async () => {
    const [fresh, found] = await Promise.all([all("/v1/runs", signal), results(signal)]);
    ranked.offer(found);
    for (const run of fresh) run.result = found.get(run.run);
    // Keep the reader's focus and choice: a list that has not changed is not drawn again.
    const comparable = list => JSON.stringify(list.map(({ result, ...run }) => [run, result?.loss, [...result?.figures ?? []]]));
    const same = comparable(fresh) === comparable(runs);
    if (same && box.querySelector("table")) return;
    const focused = box.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    runs = fresh;
    draw();
    if (focused) [...box.querySelectorAll("[aria-label]")].find(node => node.getAttribute("aria-label") === focused)?.focus();
  }, signal);
  on("job", calm(refresh, 500), signal);
  on("checkpoint", calm(refresh, 500), signal);
  on("again", refresh, signal);
  await refresh();
}
