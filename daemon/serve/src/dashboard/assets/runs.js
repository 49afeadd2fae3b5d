// All runs: how far, how well, side by side when chosen.

import { all, get, of } from "./api.js";
import { bestOf } from "./best.js";
import { sparkline } from "./chart.js";
import { bar, fill, h, load, state, table } from "./dom.js";
import { ago, count, number, percent, time } from "./format.js";
import { calm, on } from "./live.js";

const PAGE = 50;
/** Requests for the lines of a table at once: a list must not push a training aside. */
const AT_ONCE = 3;
const SPARK_POINTS = 60;
/** Lines over each other that an eye can tell apart. */
const COMPARED_AT_MOST = 8;

const ORDER = {
  updated: ["updated last", (a, b) => b.updated_ms - a.updated_ms], started: ["started last", (a, b) => b.started_ms - a.started_ms],
  name: ["name", (a, b) => a.run.localeCompare(b.run, "en", { numeric: true })], step: ["most steps", (a, b) => b.step - a.step],
};

export async function show(main, _, query, signal) {
  const chosen = new Set((query.get("select") ?? "").split(",").filter(Boolean));
  const box = h("div");
  const filter = h("input", { type: "search", placeholder: "name or model", "data-search": "", "aria-label": "Filter by name or model", oninput: () => { page = 0; draw(); } });
  const only = h("select", { "aria-label": "State", onchange: () => { page = 0; draw(); } }, ["all states", "running", "stopped", "failed", "finished"].map(name => h("option", {}, name)));
  const order = h("select", { "aria-label": "Order", onchange: () => draw() }, Object.entries(ORDER).map(([key, [name]]) => h("option", { value: key }, name)));
  const compare = h("button", { type: "button", class: "main", onclick: () => { location.hash = `#/compare/${[...chosen].join(",")}`; } });
  const told = () => {
    compare.textContent = chosen.size ? `Compare ${chosen.size}` : "Compare";
    compare.disabled = chosen.size < 2 || chosen.size > COMPARED_AT_MOST;
    compare.title = chosen.size > COMPARED_AT_MOST ? `At most ${COMPARED_AT_MOST} at once` : "Choose two or more by their boxes";
  };
  told();
  fill(main, h("div", { class: "row" }, h("h1", {}, "Runs"), filter, only, order, h("span", { class: "gap" }), compare), box);

  let runs = [];
  let page = 0;
  const looked = new Map();
  const queue = [];
  let busy = 0;
  // Loss and best score are asked for when a line comes into view, and again when the run has moved.
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
        const [{ series }, top] = await Promise.all([
          get(`${of("runs", run.run, "metrics")}?${new URLSearchParams({ names: "loss", points: SPARK_POINTS })}`, signal), bestOf(run.run, signal)]);
        looked.set(run.run, { step: run.step, losses: series.loss ?? [], best: top });
      }
      const { losses, best: top } = looked.get(run.run);
      const last = losses.filter(loss => loss !== null).at(-1);
      fill(cell, sparkline(losses, `Loss of ${run.run}`), h("span", {}, number(last)));
      fill(cell.best, top ? h("span", { title: top.score.metric }, number(top.score.value), h("br"), h("small", { class: "pale" }, `${top.score.metric} @ ${count(top.step)}`)) : "–");
    } catch (error) {
      if (!signal.aborted) fill(cell, h("span", { class: "pale", title: error.message }, "?"));
    }
    busy -= 1;
    work();
  }

  function draw() {
    const text = filter.value.trim().toLowerCase();
    const wanted = runs.filter(run => (only.selectedIndex === 0 || run.state === only.value)
      && (!text || `${run.run} ${run.model}`.toLowerCase().includes(text))).sort(ORDER[order.value][1]);
    const pages = Math.max(1, Math.ceil(wanted.length / PAGE));
    page = Math.min(page, pages - 1);
    seen.disconnect();
    const later = run => {
      const loss = h("span", { class: "sparkcell" }, "…");
      loss.run = run;
      loss.best = h("span", {}, "…");
      run.cells = loss;
      seen.observe(loss);
      return loss;
    };
    const turn = by => h("button", { type: "button", disabled: by < 0 ? page === 0 : page >= pages - 1, onclick: () => { page += by; draw(); } }, by < 0 ? "‹ Before" : "After ›");
    fill(box,
      table("Runs", [
        { title: h("span", { class: "unseen" }, "Compare"), cell: run => h("input", { type: "checkbox", checked: chosen.has(run.run), "aria-label": `Compare ${run.run}`, onchange: event => {
          if (event.target.checked) chosen.add(run.run); else chosen.delete(run.run);
          told();
        } }) },
        { title: "Run", heading: true, cell: run => h("a", { href: `#/runs/${run.run}` }, run.run) },
        { title: "State", cell: run => h("span", { title: run.message }, state(run.state)) },
        { title: "Progress", class: "progress whole", cell: run => [bar(run.step / run.total_steps, percent(run.step / run.total_steps), run.state), h("small", { class: "pale" }, `${count(run.step)} / ${count(run.total_steps)}`)] },
        { title: "Loss", number: true, cell: later },
        { title: "Best", number: true, cell: run => run.cells.best },
        { title: "Model", cell: run => h("span", { class: "cut", title: run.model }, run.model) },
        { title: "Samples", number: true, cell: run => count(run.samples) },
        { title: "Skipped", number: true, cell: run => count(run.skipped) },
        { title: "Started", number: true, cell: run => h("span", { title: time(run.started_ms) }, ago(run.started_ms)) },
        { title: "Updated", number: true, cell: run => h("span", { title: time(run.updated_ms) }, ago(run.updated_ms)) },
      ], wanted.slice(page * PAGE, (page + 1) * PAGE), { empty: runs.length ? "No run is like that." : "No run yet. The first is a configuration away: diptych submit run.toml.", cards: true }),
      pages > 1 && h("p", { class: "row" }, turn(-1), `${page + 1} of ${pages}`, turn(1)));
  }

  const refresh = () => load(box, async () => {
    const fresh = await all("/v1/runs", signal);
    // What a reader chose stays focused and chosen; a list that has not changed is not drawn again.
    const same = JSON.stringify(fresh) === JSON.stringify(runs.map(({ cells, ...run }) => run));
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
