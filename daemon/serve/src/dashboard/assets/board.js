// The charts of one run, or of several runs over each other. The charts share the x axis,
// smoothing, zoom and cursor. Live steps are added, and zooming in loads finer numbers.

import { get, of } from "./api.js";
import { chart, X } from "./chart.js";
import { h, fill, toast } from "./dom.js";
import { duration, metricWords, number, percent } from "./format.js";
import { on } from "./live.js";
import { recall, remember } from "./memory.js";

/** Steps per request: about two for each pixel of a usual chart. */
const POINTS = 1200;
/**
 * Most steps in memory. Live steps are added; above this number the run is loaded again, thinned.
 */
const MOST_HELD = 5000;
const REDRAWN_EVERY_MS = 500;
/**
 * Held-out results arrive without an event, so runs that changed are loaded again after this time.
 */
const ASKED_AGAIN_MS = 60_000;

/** Known metrics in the order of their charts. Others follow by name. */
const KNOWN = [
  { names: ["loss"], title: "Loss" },
  { names: ["lr"], title: "Learning rate" },
  { names: ["samples_per_second"], title: "Throughput (samples/s)", floor: 0 },
  { names: ["mfu"], title: "MFU", show: percent, floor: 0 },
  { names: ["data_wait_seconds"], title: "Data wait per step", show: duration, floor: 0 },
  { names: ["grad_norm"], title: "Gradient norm" },
  { names: ["logit_scale"], title: "Logit scale" },
  { names: ["loss_scale"], title: "Loss scale (fp16)" },
  { names: ["checkpoint_seconds"], title: "Saving a checkpoint", show: duration, floor: 0 },
];
/** Schedules and settings are exact: smoothing would make their peaks lower and later. */
const EXACT = /(^|\/)(lr|learning_rate|loss_scale|logit_scale|weight_decay|momentum|temperature|ema_decay)$/;
const LIVE = ["loss", "lr", "logit_scale", "grad_norm", "samples_per_second", "data_wait_seconds", "mfu"];
/** Title of the one chart for the terms of an objective. */
const BY_TERM = "Loss by term";
/** Constants of an evaluation, which are shown elsewhere. */
const UNCHARTED = /(^|\/)(pairs|loss_batch_size|(zero_shot_)?chance_.*)$/;

const KEPT = "diptych.charts";
const kept = () => recall("localStorage", KEPT) ?? {};
const keep = more => remember("localStorage", KEPT, { ...kept(), ...more });

/**
 * A gap that is this many times larger than the usual distance of live steps means that some were
 * missed.
 */
const GAP = 4;

/**
 * Draws the charts of `runs`. `marks`: steps with events; `guess`: the loss of guessing, if it is
 * known.
 */
export async function board(runs, signal, { marks = [], guess = null } = {}) {
  const held = new Map(runs.map(run => [run, { full: null, fine: null }]));
  const view = { x: "step", smoothing: 0.6, log: {}, ...kept(), zoom: null };
  const several = runs.length > 1;
  const charts = new Map();
  const sync = `board-${runs.join(",")}`;
  const grid = h("div", { class: "charts" });

  const from = h("input", { type: "number", min: 0, inputmode: "numeric", "aria-label": "Zoom from", placeholder: "from", onchange: typed });
  const to = h("input", { type: "number", min: 0, inputmode: "numeric", "aria-label": "Zoom to", placeholder: "to", onchange: typed });
  const reset = h("button", { type: "button", onclick: () => zoom(null), disabled: true }, "Whole run");
  const smoothing = h("input", { type: "range", min: 0, max: 0.99, step: 0.01, value: view.smoothing, oninput: () => {
    view.smoothing = Number(smoothing.value);
    smoothed.textContent = view.smoothing.toFixed(2);
    keep({ smoothing: view.smoothing });
    draw();
  } });
  const smoothed = h("output", {}, view.smoothing.toFixed(2));
  const x = h("select", { onchange: () => { view.x = x.value; keep({ x: view.x }); zoom(null); } },
    Object.entries(X).map(([key, { label }]) => h("option", { value: key }, label)));
  x.value = view.x;
  const controls = h("div", { class: "controls", role: "group", "aria-label": "All charts" },
    h("label", {}, "x axis ", x), h("label", {}, "Smoothing ", smoothing, smoothed),
    h("span", { class: "zoom" }, "Zoom ", from, " – ", to, reset),
    h("span", { class: "pale hint" }, "Drag in a chart to zoom, double-click to reset."));

  const metrics = (run, more = {}) => get(`${of("runs", run, "metrics")}?${new URLSearchParams({ points: POINTS, ...more })}`, signal);

  async function ask() {
    // Load a few runs at a time, so that the requests do not slow down a training.
    const left = [...runs];
    const one = async () => { for (let run = left.shift(); run !== undefined; run = left.shift()) held.get(run).full = await metrics(run); };
    await Promise.all([one(), one(), one(), one()]);
  }

  /**
   * Returns a run's positions on the x axis. Time counts from its first step, so that runs can be
   * compared.
   */
  function places(run, data) {
    if (view.x === "samples") return data.samples ?? data.steps;
    if (view.x === "time" && data.times) return data.times.map(time => (time - (held.get(run).full.times[0] ?? time)) / 1000);
    return data.steps;
  }

  function typed() {
    const numbers = [from, to].map(input => input.value === "" ? null : Number(input.value));
    if (numbers.every(n => n === null)) return zoom(null);
    const all = runs.flatMap(run => places(run, held.get(run).full));
    const [low, high] = [numbers[0] ?? 0, numbers[1] ?? Math.max(...all)];
    if (low < high) zoom([low, high]);
    else toast("“from” must be below “to”.", "bad");
  }

  let zooms = 0;
  async function zoom(range) {
    view.zoom = range;
    zooms += 1;
    const mine = zooms;
    reset.disabled = !range;
    from.value = range ? String(Math.floor(range[0])) : "";
    to.value = range ? String(Math.ceil(range[1])) : "";
    for (const data of held.values()) data.fine = null;
    draw();
    if (!range) return;
    await Promise.all(runs.map(async run => {
      const { full } = held.get(run);
      const xs = places(run, full);
      const inside = full.steps.filter((_, index) => xs[index] >= range[0] && xs[index] <= range[1]);
      if (!inside.length || full.thinned === false) return;
      // Extend the range by one known step on both sides, so that lines continue to the edge.
      const first = full.steps[Math.max(0, full.steps.indexOf(inside[0]) - 1)];
      const last = full.steps[Math.min(full.steps.length - 1, full.steps.indexOf(inside.at(-1)) + 1)];
      try {
        const fine = await metrics(run, { from: first, to: last });
        if (mine === zooms) held.get(run).fine = fine;
      } catch (error) {
        if (error.name !== "AbortError") toast(`Cannot load finer numbers of ${run}: ${error.message}`, "bad");
      }
    }));
    if (mine === zooms) draw();
  }

  /**
   * Chooses the charts: one for each metric, but the metrics of one run's evaluations share charts
   * by kind.
   */
  function plan() {
    const found = new Set();
    for (const { full } of held.values()) {
      Object.entries(full.series).forEach(([name, ys]) => {
        const points = ys.filter(y => y !== null).length;
        // A single evaluation belongs in a table; one dot is not a curve.
        if (points > (name.includes("/") && !name.startsWith("loss/") ? 1 : 0)) found.add(name);
      });
    }
    const plans = KNOWN.filter(({ names }) => names.some(name => found.has(name)));
    const rest = [...found].filter(name => !UNCHARTED.test(name) && !KNOWN.some(({ names }) => names.includes(name))).sort(byNumber);
    const groups = new Map();
    for (const name of rest) {
      const group = several || !name.includes("/") ? name : name.startsWith("loss/") ? BY_TERM : name.replace(/@\d+$/, "");
      groups.set(group, [...(groups.get(group) ?? []), name]);
    }
    for (const [title, names] of groups) plans.push({ names, title: title === BY_TERM ? title : capital(metricWords(title)), held: title.includes("/") });
    // The held-out results come right after the loss.
    return plans.sort((a, b) => rank(a) - rank(b));
  }
  const rank = ({ names, held }) => names[0] === "loss" ? 0 : /^heldout\w*\/loss$/.test(names[0]) ? 0.5 : held ? 1 : KNOWN.some(known => known.names === names) ? 2 : 3;

  /** Returns the positions of marked steps on the x axis, each once and in order. */
  function markedPlaces() {
    const { full } = held.get(runs[0]);
    const xs = places(runs[0], full);
    const found = new Set();
    let at = 0;
    for (const step of [...new Set(marks)].sort((a, b) => a - b)) {
      while (at < full.steps.length && full.steps[at] < step) at += 1;
      if (at < full.steps.length) found.add(xs[at]);
    }
    return [...found];
  }

  function draw() {
    const plans = plan();
    const marked = several ? [] : markedPlaces();
    const before = charts.size;
    // All charts share one range, so that they line up.
    const ends = runs.flatMap(run => { const xs = places(run, held.get(run).full); return xs.length ? [xs[0], xs.at(-1)] : []; });
    const whole = ends.length && Math.min(...ends) < Math.max(...ends) ? [Math.min(...ends), Math.max(...ends)] : null;
    for (const { names, title, show = number, floor } of plans) {
      const key = names[0];
      if (!charts.has(key)) {
        const made = chart({
          title, show, floor, sync, log: Boolean(view.log[key]),
          onLog: log => { view.log = { ...view.log, [key]: log }; keep({ log: view.log }); },
          onZoom: (a, b) => zoom([a, b]), onReset: () => zoom(null),
        });
        charts.set(key, made);
      }
      const lines = runs.flatMap((run, index) => {
        const data = held.get(run).fine ?? held.get(run).full;
        const xs = places(run, data);
        return names.filter(name => data.series[name]).map(name => ({
          ...pick(xs, name === "mfu" ? data.series[name].map(possible) : data.series[name], data.missed),
          label: several ? run : metricWords(name.split("/").pop().replace(/^(i2t|t2i)_/, "")),
          colour: several ? index : undefined,
        }));
      });
      const smoothing = dense(lines) && !names.some(name => EXACT.test(name)) ? view.smoothing : 0;
      charts.get(key).update({ lines, x: view.x, range: view.zoom ?? whole, smoothing, marks: marked, levels: levels(names) });
    }
    if (charts.size > before) fill(grid, plans.map(({ names }) => charts.get(names[0]).node));
    if (!charts.size) fill(grid, h("p", { class: "pale" }, "No steps yet. Charts appear with the first step."));
  }

  /** Returns the value of guessing in a chart. */
  function levels(names) {
    if (names[0] === "loss") return guess === null ? [] : [{ label: "guessing", y: guess }];
    const batch = /^(heldout|heldout_ema)\/loss$/.exec(names[0])?.[1];
    if (batch) {
      const sizes = new Set([...held.values()].map(({ full }) => full.series[`${batch}/loss_batch_size`]?.findLast(y => y !== null)).filter(y => y > 1));
      return sizes.size === 1 ? [{ label: "guessing", y: Math.log([...sizes][0]) }] : [];
    }
    const [, group, k] = /^(heldout|heldout_ema)\/(?:i2t|t2i)_recall@(\d+)$/.exec(names[0]) ?? [];
    const zero = /^(heldout|heldout_ema)\/zero_shot_top1$/.exec(names[0])?.[1];
    const name = group ? `${group}/chance_i2t_recall@1` : zero && `${zero}/zero_shot_chance_top1`;
    if (!name) return [];
    const found = [...new Set([...held.values()].map(({ full }) => full.series[name]?.findLast(y => y !== null)).filter(y => typeof y === "number"))];
    // Runs that were evaluated on different pairs have no common chance.
    if (found.length !== 1) return [];
    // Drawing k times finds about k times as much, as long as that is little.
    const one = Math.min(...names.map(name => Number(/@(\d+)$/.exec(name)?.[1] ?? 1)));
    return [{ label: names.length > 1 ? `chance @${one}` : "chance", y: Math.min(1, found[0] * (k ? one : 1)), inside: true }];
  }

  await ask();
  draw();

  let dirty = false;
  /** Loads steps that did not arrive over the connection. Until then, lines have a gap there. */
  const fillGaps = async run => {
    const { full } = held.get(run);
    if (!full.missed?.length || full.filling) return;
    full.filling = true;
    try {
      const fresh = await metrics(run);
      held.get(run).full = fresh;
      dirty = true;
    } catch (error) {
      if (error.name !== "AbortError" && error.status !== 0) toast(error.message, "bad");
    }
    full.filling = false;
  };

  on("step", step => {
    const data = held.get(step.run);
    if (!data) return;
    for (const part of [data.full, view.zoom && data.fine].filter(Boolean)) {
      // A run that went back repeats its steps. Missed steps come with the next request.
      if (part.steps.length && step.step <= part.steps.at(-1)) continue;
      const [before, last] = part.steps.slice(-2);
      if (last !== undefined && step.step - last > GAP * Math.max(1, last - (before ?? last))) (part.missed ??= []).push(part.steps.length - 1);
      part.steps.push(step.step);
      part.samples?.push(step.samples);
      part.times?.push(Date.now());
      // Terms of the objective have names of their own.
      for (const name of [...LIVE, ...Object.keys(step).filter(name => name.includes("/"))]) if (typeof step[name] === "number") part.series[name] ??= part.steps.slice(1).map(() => null);
      for (const [name, ys] of Object.entries(part.series)) ys.push(step[name] ?? null);
    }
    dirty = true;
  }, signal);
  const redraw = setInterval(() => {
    if (!dirty || document.hidden) return;
    dirty = false;
    draw();
    runs.forEach(fillGaps);
    if ([...held.values()].some(({ full }) => full.steps.length > MOST_HELD)) again();
  }, REDRAWN_EVERY_MS);
  let changed = false;
  const again = async () => {
    changed = false;
    try {
      await ask();
      draw();
    } catch (error) {
      if (error.name !== "AbortError" && error.status !== 0) toast(error.message, "bad");
    }
  };
  on("step", () => { changed = true; }, signal);
  on("again", again, signal);
  on("checkpoint", ({ run }) => { if (held.has(run)) changed = true; }, signal);
  on("theme", () => charts.forEach(made => made.restyle()), signal);
  const refresh = setInterval(() => { if (changed && !document.hidden) again(); }, ASKED_AGAIN_MS);
  signal.addEventListener("abort", () => {
    clearInterval(redraw);
    clearInterval(refresh);
    charts.forEach(made => made.destroy());
  });
  return { node: h("div", {}, controls, grid), mark: step => { marks.push(step); dirty = true; } };
}

const capital = text => text.charAt(0).toUpperCase() + text.slice(1);
const byNumber = (a, b) => a.localeCompare(b, "en", { numeric: true });
/** Whether there are enough points for smoothing: with few points it would hide what they show. */
const dense = lines => lines.some(line => line.ys.length > 50);
/** Drops a utilization above 1: an earlier version underestimated what the device can compute. */
const possible = mfu => mfu > 1 ? null : mfu;

/** Returns the points of a metric. After an index in `missed`, the line has a gap. */
function pick(xs, ys, missed = []) {
  const kept = { xs: [], ys: [] };
  let gap = false;
  ys.forEach((y, index) => {
    const x = xs[index];
    // After a resume, an x in time can occur twice. Keep the first.
    if (y !== null && y !== undefined && !(kept.xs.length && x <= kept.xs.at(-1))) {
      if (gap && kept.xs.length && x > kept.xs.at(-1)) {
        kept.xs.push((kept.xs.at(-1) + x) / 2);
        kept.ys.push(null);
      }
      gap = false;
      kept.xs.push(x);
      kept.ys.push(y);
    }
    gap ||= missed.includes(index);
  });
  return kept;
}
