// Formats numbers, sizes and times for people.

const whole = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });

export const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;
export const count = n => n === null || n === undefined ? "–" : whole.format(n);

/**
 * Formats a number with four significant digits, or in powers of ten if it is very small or large.
 */
export function number(n) {
  if (n === null || n === undefined || Number.isNaN(n)) return "–";
  if (n === 0) return "0";
  const size = Math.abs(n);
  if (size < 1e-3 || size >= 1e7) return n.toExponential(2).replace("e+", "e");
  if (Number.isInteger(n)) return whole.format(n);
  return size >= 1000 ? whole.format(n) : String(Number(n.toPrecision(4)));
}

export function bytes(n) {
  if (n === null || n === undefined) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (n >= 1024 && at < units.length - 1) { n /= 1024; at += 1; }
  return `${n >= 100 || at === 0 ? Math.round(n) : n.toFixed(1)} ${units[at]}`;
}

export const percent = share => share === null || share === undefined || Number.isNaN(share) ? "–"
  : `${(share * 100).toFixed(Math.abs(share) < 0.1 && Math.abs(share) >= 0.0005 ? 1 : 0)}%`;

/** Formats seconds as "3 d 4 h", "5 min 12 s" or "420 ms". */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  if (seconds > 0 && seconds < 1e-3) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds > 0 && seconds < 1) return `${number(Number((seconds * 1000).toPrecision(3)))} ms`;
  if (seconds < 10 && !Number.isInteger(seconds)) return `${seconds.toFixed(1)} s`;
  const s = Math.round(seconds);
  const parts = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = parts.findIndex(([, size]) => s >= size);
  if (first < 0) return "0 s";
  const [name, size] = parts[first];
  const next = parts[first + 1];
  const rest = next ? Math.floor((s % size) / next[1]) : 0;
  return `${Math.floor(s / size)} ${name}${rest ? ` ${rest} ${next[0]}` : ""}`;
}

export function ago(ms) {
  if (!ms) return "–";
  const seconds = (Date.now() - ms) / 1000;
  return seconds < 5 ? "just now" : seconds < 0 ? `in ${duration(Math.round(-seconds))}` : `${duration(Math.round(seconds))} ago`;
}

const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
export const time = ms => ms ? clock.format(new Date(ms)) : "–";

export const short = hash => hash ? hash.slice(0, 12) : "–";

/** Names of the events of guards. */
const EVENTS = {
  skipped_step: "Step skipped", roll_back: "Rolled back to older weights", loss_spike: "Loss spike", loss_stuck: "Loss is not falling",
  data_wait: "Waiting for data", logit_scale: "Logit scale at its limit", checkpoint_failed: "Checkpoint failed",
  store_failed: "Store cannot be written", stall: "Stalled", overfitting: "Overfitting",
};
export const eventName = kind => EVENTS[kind] ?? kind.replaceAll("_", " ");

/** Whether a larger value of a metric is better. */
export const largerIsBetter = metric => !/loss|perplexity/.test(metric);

export function best(checkpoints) {
  return checkpoints.filter(checkpoint => checkpoint.score).reduce((a, b) => {
    if (!a) return b;
    const better = (b.score.larger_is_better ?? largerIsBetter(b.score.metric)) ? b.score.value > a.score.value : b.score.value < a.score.value;
    return better ? b : a;
  }, null);
}

const GROUPS = { heldout: "Held out", heldout_ema: "Held out, averaged weights", suite: "Suite", eval: "Evaluated" };

/** Formats the name of a metric: "heldout/i2t_recall@1" becomes "Held out: image→text recall@1". */
export function metricWords(name) {
  const at = name.indexOf("/");
  const group = at > 0 && GROUPS[name.slice(0, at)];
  const rest = (group ? name.slice(at + 1) : name).replace(/\bi2t_/, "image→text ").replace(/\bt2i_/, "text→image ").replaceAll("_", " ");
  return group ? `${group}: ${rest}` : rest;
}

/** Translates Arrow's name of a type. */
export function typeWords(type) {
  const [, name, rest = ""] = /^(\w+)(.*)$/s.exec(type) ?? [null, type];
  if (/^(Large|)(Utf8)(View|)$/.test(name)) return "text";
  if (/^U?Int\d+$/.test(name)) return "whole number";
  if (/^(Float|Decimal)\d+$/.test(name)) return "number";
  if (/Binary/.test(name)) return rest === "(16)" ? "uid (16 bytes)" : rest ? `bytes ${rest}` : "bytes";
  if (name === "Boolean") return "true or false";
  if (name === "Timestamp") return "time";
  if (/^Date/.test(name)) return "date";
  if (/List/.test(name)) return `list of ${typeWords(rest.replace(/^\((non-null |nullable )?/, "").replace(/\)$/, ""))}s`;
  if (name === "Null") return "nothing";
  return type;
}
