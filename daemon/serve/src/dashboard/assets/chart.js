// A chart: lines over a common x axis, a legend with the values under the cursor, zoom by dragging,
// log scale, and smoothing. It does not know about runs or where numbers come from.

import { h, fill } from "./dom.js";
import { number, count, duration } from "./format.js";

const STEPS_BETWEEN_TICKS = [1, 2, 5].flatMap(n => Array.from({ length: 10 }, (_, power) => n * 10 ** power)).sort((a, b) => a - b);
const SECONDS_BETWEEN_TICKS = [1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800];

export const X = {
  step: { label: "step", show: count, incrs: STEPS_BETWEEN_TICKS },
  samples: { label: "samples", show: count, incrs: STEPS_BETWEEN_TICKS },
  time: { label: "time since the start", show: seconds => seconds ? duration(seconds) : "0", incrs: SECONDS_BETWEEN_TICKS },
};

/**
 * Smooths like TensorBoard's slider: an exponential mean, corrected for its pull to zero at the
 * beginning.
 */
export function smooth(ys, weight) {
  let mean = 0;
  let seen = 0;
  return ys.map(y => {
    if (y === null || y === undefined) return y;
    mean = weight * mean + (1 - weight) * y;
    seen += 1;
    return mean / (1 - weight ** seen);
  });
}

const probe = h("span", { hidden: true });
/**
 * Resolves a colour of the style sheet for a canvas: light-dark() is resolved only where a property
 * uses it.
 */
function colour(name, alpha = 1) {
  if (!probe.isConnected) document.body.append(probe);
  probe.style.color = `color-mix(in srgb, var(${name}) ${alpha * 100}%, transparent)`;
  return getComputedStyle(probe).color;
}
const COLOURS = 8;
/** Lines of the same colour differ by their strokes. */
const DASHES = [undefined, [7, 4], [2, 3]];
/** Largest number of lines that can be told apart. */
export const LINES_AT_MOST = COLOURS * DASHES.length;
const lineColour = index => `--line-${index % COLOURS}`;
const lineDash = index => DASHES[Math.floor(index / COLOURS) % DASHES.length];

/** Builds a patch that looks like a line. */
export function swatch(index) {
  const node = h("span", { class: "swatch" });
  const colour = `var(${lineColour(index)})`;
  const dash = lineDash(index);
  node.style.background = dash ? `repeating-linear-gradient(90deg, ${colour} 0 ${dash[0] / 2}px, transparent 0 ${(dash[0] + dash[1]) / 2}px)` : colour;
  return node;
}

/**
 * Builds a chart. title, show (formats a number), log (initially), floor, sync (charts with the
 * same key share the cursor), onLog, onZoom(from, to), onReset.
 */
export function chart({ title, show = number, log = false, floor, sync, onLog, onZoom, onReset }) {
  const plotBox = h("div", { class: "plot", role: "img" });
  const legend = h("div", { class: "legend" });
  const where = h("span", { class: "where pale" });
  const logButton = h("button", { type: "button", class: "quiet", title: "Logarithmic scale", "aria-pressed": String(log), onclick: () => {
    log = !log;
    logButton.setAttribute("aria-pressed", String(log));
    onLog?.(log);
    rebuild();
  } }, "log");
  const wideButton = h("button", { type: "button", class: "quiet", title: "Larger", "aria-pressed": "false", onclick: () => {
    const wide = node.classList.toggle("wide");
    wideButton.setAttribute("aria-pressed", String(wide));
  } }, "⤢");
  wideButton.setAttribute("aria-label", `Larger chart of ${title}`);
  logButton.setAttribute("aria-label", `log scale for ${title}`);
  const node = h("figure", { class: "chart" },
    h("figcaption", {}, h("b", {}, title), where, h("span", { class: "gap" }), logButton, wideButton), plotBox, legend);

  let plot = null;
  let given = null;
  const hidden = new Set();
  let values = [];

  const sizes = new ResizeObserver(() => plot?.setSize(size()));
  sizes.observe(plotBox);
  function size() {
    return { width: Math.max(200, plotBox.clientWidth), height: Math.max(120, plotBox.clientHeight) };
  }

  const across = () => X[given.x] ?? given.x;

  function table() {
    // Draw the measured values pale behind the smooth line.
    const lines = given.lines.flatMap((line, index) => {
      const raw = { ...line, index, pale: given.smoothing > 0 };
      return given.smoothing > 0 ? [raw, { ...line, index, ys: smooth(line.ys, given.smoothing) }] : [raw];
    });
    const positive = ys => log ? ys.map(y => y > 0 ? y : null) : ys;
    const data = lines.length ? uPlot.join(lines.map(line => [line.xs, positive(line.ys)])) : [[]];
    return { lines, data };
  }

  function rebuild() {
    plot?.destroy();
    plot = null;
    if (!given) return;
    const { lines, data } = table();
    const ink = colour("--pale");
    const axis = { stroke: ink, grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const x = across();
    plot = new uPlot({
      ...size(),
      legend: { show: false },
      scales: {
        x: { time: false, range: (_, low, high) => given.range ?? (low === high ? [low - 1, high + 1] : [low, high]) },
        y: log
          ? { distr: 100, fwd: Math.log10, bwd: y => 10 ** y, range: (_, low, high) => logRange(low, high) }
          : { range: (_, low, high) => range(...withLevels(low, high)) },
      },
      axes: [
        { ...axis, incrs: x.incrs, space: 70, size: 26, gap: 4, values: (_, ticks) => ticks.map(x.show) },
        { ...axis, size: (_, ticks) => 14 + 6.2 * Math.max(1, ...(ticks ?? []).map(tick => tick.length)), space: 32, gap: 4,
          values: (_, ticks) => ticks.map(show), ...(log && { splits: (_, __, low, high) => logTicks(low, high), filter: (_, ticks) => ticks }) },
      ],
      series: [{}, ...lines.map(line => {
        const name = lineColour(line.colour ?? line.index);
        const stroke = colour(name, line.pale ? 0.3 : 1);
        return {
          stroke,
          width: line.pale ? 1 : 1.6,
          dash: lineDash(line.colour ?? line.index),
          // Null marks an unknown step, which leaves a gap. Undefined marks a point of another
          // line, which is skipped.
          spanGaps: false,
          show: !hidden.has(line.label),
          points: line.pale ? { show: false } : { size: 5, fill: stroke },
        };
      })],
      cursor: {
        sync: { key: sync, scales: ["x", null] },
        drag: { x: true, y: false, setScale: false },
        points: { size: 7 },
        bind: { dblclick: () => () => { onReset?.(); return null; } },
      },
      hooks: {
        setCursor: [showValues],
        drawAxes: [drawLevels, drawMarks],
        setSelect: [u => {
          if (u.select.width < 4) return;
          const [from, to] = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")];
          u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          onZoom?.(from, to);
        }],
      },
    }, data, plotBox);
    plotBox.querySelector("canvas").setAttribute("aria-hidden", "true");
    touch(plot);
    drawLegend();
  }

  function range(low, high) {
    if (low === null) return [0, 1];
    if (floor !== undefined) low = Math.min(low, floor);
    const pad = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
    // Keep a line along the floor off the axis.
    return [low === floor ? low - pad / 3 : low - pad, high + pad];
  }

  function logRange(low, high) {
    if (low === null) return [0.1, 1];
    const pad = (high / low) ** 0.06;
    return low === high ? [low / 2, high * 2] : [low / pad, high * pad];
  }

  /** Extends the range of y to levels that are part of the picture, such as chance. */
  function withLevels(low, high) {
    if (low === null) return [low, high];
    const shown = (given.levels ?? []).filter(level => level.inside).map(({ y }) => y);
    return [Math.min(low, ...shown), Math.max(high, ...shown)];
  }

  /** Draws horizontal lines with names, such as the value of guessing. */
  function drawLevels(u) {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("--pale");
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.textAlign = "right";
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
    for (const { label, y } of given.levels ?? []) {
      if (!(y >= u.scales.y.min && y <= u.scales.y.max)) continue;
      const at = Math.round(u.valToPos(y, "y", true));
      ctx.beginPath();
      ctx.moveTo(bbox.left, at);
      ctx.lineTo(bbox.left + bbox.width, at);
      ctx.stroke();
      const above = at - bbox.top > 16 * devicePixelRatio;
      ctx.fillText(label, bbox.left + bbox.width, above ? at - 4 * devicePixelRatio : at + 12 * devicePixelRatio);
    }
    ctx.restore();
  }

  /** Draws vertical lines at events. */
  function drawMarks(u) {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.strokeStyle = colour("--warn");
    ctx.setLineDash([3, 3]);
    ctx.lineWidth = 1;
    let before = null;
    for (const mark of given.marks ?? []) {
      const at = Math.round(u.valToPos(mark, "x", true));
      // A run with an event at every step has more marks than pixels.
      if (at === before || at < bbox.left || at > bbox.left + bbox.width) continue;
      before = at;
      ctx.beginPath();
      ctx.moveTo(at, bbox.top);
      ctx.lineTo(at, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  function drawLegend() {
    values = given.lines.map(() => h("span", { class: "value" }));
    fill(legend, given.lines.map((line, index) => {
      return h("button", { type: "button", "aria-pressed": String(!hidden.has(line.label)), title: "Show or hide", onclick: event => {
        if (!hidden.delete(line.label)) hidden.add(line.label);
        event.currentTarget.setAttribute("aria-pressed", String(!hidden.has(line.label)));
        const drawn = given.smoothing > 0 ? [2 * index + 1, 2 * index + 2] : [index + 1];
        drawn.forEach(series => plot.setSeries(series, { show: !hidden.has(line.label) }));
      } }, swatch(line.colour ?? index), h("span", { class: "name" }, line.label), values[index]);
    }));
    showValues(plot);
  }

  /** Shows the values at the cursor, or the last values. */
  function showValues(u) {
    if (!u || values.length !== given.lines.length) return;
    const at = u.cursor.left >= 0 ? u.cursor.idx : null;
    where.textContent = at === null || at === undefined ? "" : `${across().label} ${across().show(u.data[0][at])}`;
    given.lines.forEach((_, index) => {
      const ys = u.data[given.smoothing > 0 ? 2 * index + 2 : index + 1];
      const found = ys && nearest(ys, at ?? ys.length - 1);
      values[index].textContent = found === null || found === undefined ? "–" : show(found);
    });
  }

  function touch(u) {
    // A finger moves the cursor; vertical swipes still scroll the page.
    const move = event => {
      const box = u.over.getBoundingClientRect();
      const finger = event.touches[0];
      u.setCursor({ left: finger.clientX - box.left, top: finger.clientY - box.top });
    };
    u.over.addEventListener("touchstart", move, { passive: true });
    u.over.addEventListener("touchmove", move, { passive: true });
  }

  function describe() {
    const texts = given.lines.map(({ label, ys }) => {
      const measured = ys.filter(y => y !== null && y !== undefined);
      if (!measured.length) return `${label}: nothing yet`;
      const [low, high] = measured.reduce(([a, b], y) => [Math.min(a, y), Math.max(b, y)], [Infinity, -Infinity]);
      return `${label}: last ${show(measured.at(-1))}, smallest ${show(low)}, largest ${show(high)}`;
    });
    texts.push(...(given.levels ?? []).map(({ label, y }) => `${label}: ${show(y)}`));
    plotBox.setAttribute("aria-label", `Chart of ${title} by ${across().label}. ${texts.join(". ")}`);
  }

  return {
    node,
    /**
     * Replaces the data. lines: {label, xs, ys, colour?}; x: a key of X, or {label, show}; range:
     * [from, to] or null; smoothing: 0 to 1; marks: positions on x; levels: {label, y, inside?:
     * whether the chart always shows it}.
     */
    update(next) {
      const kind = all => all && JSON.stringify([all.x, all.smoothing > 0, all.lines.map(line => [line.label, line.colour])]);
      const same = plot && kind(given) === kind(next);
      given = next;
      if (same) {
        plot.setData(table().data);
        showValues(plot);
      } else {
        rebuild();
      }
      describe();
    },
    restyle: rebuild,
    destroy() {
      sizes.disconnect();
      plot?.destroy();
    },
  };
}

function nearest(ys, at) {
  for (let away = 0; away < ys.length; away += 1) {
    for (const index of [at - away, at + away]) {
      if (ys[index] !== null && ys[index] !== undefined) return ys[index];
    }
  }
  return null;
}

/**
 * Returns 1, 2 and 5 in each power of ten, or evenly spaced round numbers within less than a power.
 */
export function logTicks(low, high) {
  const powers = Math.log10(high / low);
  const ticks = [];
  const of = powers > 5 ? [1] : powers > 2 ? [1, 3] : [1, 2, 5];
  const every = Math.max(1, Math.ceil(powers / 8));
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    if (powers > 5 && power % every !== 0) continue;
    ticks.push(...of.map(n => n * 10 ** power).filter(tick => tick >= low && tick <= high));
  }
  if (ticks.length >= 3) return ticks;
  const step = 10 ** Math.floor(Math.log10((high - low) / 3));
  const width = [1, 2, 5, 10].map(n => n * step).find(width => (high - low) / width <= 6);
  // A tick at the very edge counts, whatever the last bit of the quotient is.
  const [first, last] = [Math.ceil(low / width - 1e-9), Math.floor(high / width + 1e-9)];
  return Array.from({ length: last - first + 1 }, (_, index) => Number(((first + index) * width).toPrecision(6)));
}

/** Draws a small line without axes. */
export function sparkline(ys, label, width = 180, height = 44) {
  const canvas = h("canvas", { class: "spark", role: "img", "aria-label": label, width, height });
  const measured = ys.filter(y => y !== null);
  if (measured.length < 2) return canvas;
  const [low, high] = measured.reduce(([a, b], y) => [Math.min(a, y), Math.max(b, y)], [Infinity, -Infinity]);
  const context = canvas.getContext("2d");
  const draw = () => {
    context.clearRect(0, 0, width, height);
    context.strokeStyle = colour(lineColour(0));
    context.lineWidth = 2.5;
    context.lineJoin = "round";
    context.beginPath();
    measured.forEach((y, index) => context.lineTo(2 + (index / (measured.length - 1)) * (width - 4), 4 + (1 - (y - low) / (high - low || 1)) * (height - 8)));
    context.stroke();
  };
  draw();
  canvas.redraw = draw;
  return canvas;
}
