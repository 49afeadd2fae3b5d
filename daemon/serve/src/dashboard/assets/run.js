// One run, or several side by side: charts, alarms, checkpoints with their evaluations, and
// configuration.

import { all, get, of, send } from "./api.js";
import { board } from "./board.js";
import { compare, lossOfGuessing } from "./compare.js";
import { bar, fill, h, load, state, table, toast } from "./dom.js";
import { embedButton, embedded } from "./embed.js";
import { ago, best, bytes, count, duration, largerIsBetter, number, percent, short, time } from "./format.js";
import { actions } from "./jobs.js";
import { learning } from "./learning.js";
import { calm, on } from "./live.js";
import { alarmList } from "./overview.js";

const ALARMS_SHOWN = 30;
const JOBS_LOOKED_AT = 1000;
/** Number of checkpoints that are shown at first. */
const CHECKPOINTS_SHOWN = 20;

export async function show(main, names, query, signal) {
  const once = [...new Set(names)];
  return once.length === 1 ? showOne(main, once[0], signal) : compare(main, once, signal);
}

async function showOne(main, name, signal) {
  const [head, charts, queries, alarms, checkpoints, config] = [0, 1, 2, 3, 4, 5].map(() => h("div"));
  // Fail once for an unknown run, rather than in each section.
  const { config: configuration } = await get(of("runs", name), signal);
  const learns = h("section", { hidden: true }, h("h2", {}, "Search results for held-out captions"), queries);
  fill(main, h("p", { class: "crumbs" }, h("a", { href: "#/runs" }, "Runs"), ` / ${name}`), head,
    h("section", { "aria-label": "Charts" }, charts), learns,
    h("section", {}, h("h2", {}, "Alarms"), alarms),
    h("section", {}, h("h2", {}, "Checkpoints and evaluations"), checkpoints),
    h("section", {}, h("h2", {}, "Configuration"), config));

  const find = h("span", { class: "row" }, h("a", { class: "button", href: `#/search?model=${name}` }, "Search with it"));
  const offerEmbedding = async () => {
    // Without a checkpoint there is nothing to embed with.
    const [sets, checkpoints] = await Promise.all([embedded(signal), get(`${of("runs", name, "checkpoints")}?limit=1`, signal)]);
    if (!sets.has(name) && checkpoints.items.length) fill(find, embedButton({ model: name, text: "Embed for search…", signal, done: () => fill(find, h("a", { class: "button", href: `#/search?model=${name}` }, "Search with it")) }));
  };
  offerEmbedding().catch(() => {});
  const live = h("span", { class: "pale", "aria-live": "off" });
  let progress = h("span");
  // Show progress with the same numbers as everywhere else.
  const showProgress = (step, total, left, how) => {
    live.textContent = `step ${count(step)} of ${count(total)} · ${percent(step / total)}${left === undefined ? "" : ` · ${duration(left)} left`}`;
    const now = bar(step / total, percent(step / total), how);
    progress.replaceWith(now);
    progress = now;
  };
  const showHead = () => load(head, async () => {
    const [run, status, jobs] = await Promise.all([get(of("runs", name), signal), get("/v1/status", signal), get(`/v1/jobs?limit=${JOBS_LOOKED_AT}`, signal)]);
    const running = status.running.find(one => one.run === name);
    // The newest job of this run, even if it is paused or has failed.
    const job = running ? await get(of("jobs", running.job), signal) : jobs.items.find(job => job.run === name);
    showProgress(running?.step ?? run.step, run.total_steps, running?.eta_seconds, run.state);
    const fact = (title, value, hint) => [h("dt", {}, title), h("dd", { title: hint }, value)];
    fill(config, h("dl", { class: "facts" },
      fact("Version", run.version), fact("Configuration", short(run.config_hash), run.config_hash), fact("Selection", short(run.selection_hash), run.selection_hash),
      fact("Dataset", short(run.dataset_hash), run.dataset_hash), fact("Tokenizer", short(run.tokenizer_hash), run.tokenizer_hash)),
    h("pre", { tabindex: "0", "aria-label": `Configuration of ${name}` }, run.config));
    return [
      h("div", { class: "row" }, h("h1", {}, name), state(run.state), h("span", { class: "gap" }),
        job && actions(job, showHead), h("a", { class: "button", href: `#/runs?select=${name}` }, "Compare…"),
        find),
      run.message && h("p", { class: run.state === "failed" ? "problem" : "pale" }, run.message),
      h("div", { class: "progress" }, progress,
        h("small", { class: "pale" }, live,
          ` · ${count(run.samples)} samples · ${count(run.skipped)} skipped · ${run.model} · started ${ago(run.started_ms)} · updated ${ago(run.updated_ms)}`)),
    ];
  }, signal);

  let drawn;
  const showAlarms = () => load(alarms, async () => {
    const events = (await all(of("runs", name, "events"), signal)).reverse();
    return alarmList(events.slice(0, ALARMS_SHOWN).map(({ run: _, ...event }) => event), events.length);
  }, signal);
  const showLearning = learning(learns, queries, name, signal);
  const showCheckpoints = () => load(checkpoints, () => checkpointTable(name, signal), signal);

  await Promise.all([showHead(), showAlarms(), showLearning(), showCheckpoints(), load(charts, async () => {
    const marks = (await all(of("runs", name, "events"), signal)).map(event => event.step);
    drawn = await board([name], signal, { marks, guess: lossOfGuessing([configuration]) });
    return drawn.node;
  }, signal)]);

  let told = 0;
  on("step", step => {
    if (step.run !== name || Date.now() - told < 1000) return;
    told = Date.now();
    showProgress(step.step, step.total_steps, step.eta_seconds, "running");
  }, signal);
  on("job", calm(showHead, 300), signal);
  on("again", () => { showHead(); showAlarms(); showLearning(); showCheckpoints(); }, signal);
  const alarmsAgain = calm(showAlarms, 1000);
  on("event", event => {
    if (event.run !== name) return;
    drawn?.mark(event.step);
    alarmsAgain();
  }, signal);
  const checkpointsAgain = calm(() => { showCheckpoints(); showLearning(); showHead(); }, 1000);
  on("checkpoint", event => { if (event.run === name) checkpointsAgain(); }, signal);
}

/**
 * Returns the evaluations of a run, which are metrics of the steps at which they were made. Uses
 * SQL, since thinned metrics may be a step off.
 */
async function evaluations(name, signal) {
  const query = `SELECT step, name, value FROM metrics WHERE run = '${name.replaceAll("'", "''")}' AND name LIKE '%/%' ORDER BY step`;
  try {
    const { rows } = await send("POST", "/v1/sql", { query }, signal);
    return rows;
  } catch (error) {
    if (error.name !== "AbortError") toast(`Cannot load the evaluations of ${name}: ${error.message}`, "bad");
    return [];
  }
}

async function checkpointTable(name, signal, most = CHECKPOINTS_SHOWN) {
  const [found, rows] = await Promise.all([all(of("runs", name, "checkpoints"), signal), evaluations(name, signal)]);
  const top = best(found);
  const measured = new Map();
  for (const [step, metric, value] of rows) measured.set(step, { ...measured.get(step), [metric]: value });
  const known = new Set(found.map(checkpoint => checkpoint.step));
  // Evaluations whose checkpoint was removed are results too.
  const lines = [...found, ...[...measured.keys()].filter(step => !known.has(step)).map(step => ({ step }))].sort((a, b) => b.step - a.step);
  const metrics = [...new Set(rows.map(([, metric]) => metric))].filter(metric => !/\/(pairs|loss_batch_size|(zero_shot_)?chance_.*)$/.test(metric))
    .sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const chance = rows.filter(([, metric]) => /\/chance_/.test(metric)).at(-1);
  const highest = new Map(metrics.map(metric => {
    const all = [...measured.values()].map(values => values[metric]).filter(value => value !== undefined);
    return [metric, largerIsBetter(metric) ? Math.max(...all) : Math.min(...all)];
  }));
  const rest = lines.length - most;
  const node = h("div");
  fill(node,
    top && h("p", {}, "Best: ", h("b", {}, `step ${count(top.step)}`), `, ${top.score.metric} ${number(top.score.value)}. `,
      h("code", {}, `diptych export --model ${name}@best --format openclip --output ${name}`)),
    !top && rows.length > 0 && h("p", { class: "pale" }, "The best checkpoint is not kept. Set checkpoint.keep_best in the configuration to keep it as ", h("code", {}, `${name}@best`), "."),
    chance && h("p", { class: "pale" }, `Chance: ${number(chance[2])} (${chance[1].split("/").pop().replace("chance_", "")}).`),
    table("Checkpoints and evaluations, the newest first", [
      { title: "Step", number: true, heading: true, cell: one => [count(one.step), one === top && h("span", { class: "chip good" }, "best")] },
      { title: "Epoch", number: true, cell: one => one.epoch === undefined ? "–" : number(Number(one.epoch.toFixed(2))) },
      ...metrics.map(metric => ({ title: words(metric), number: true, cell: one => {
        const value = measured.get(one.step)?.[metric];
        return value === undefined ? "" : value === highest.get(metric) ? h("b", {}, number(value)) : number(value);
      } })),
      // If the score is one of these metrics, its column shows it already.
      ...found.some(one => one.score && !metrics.includes(one.score.metric)) ? [{ title: "Score", number: true, cell: one => one.score ? h("span", { title: one.score.metric }, number(one.score.value)) : "" }] : [],
      { title: "Saved", number: true, cell: one => one.time_ms ? h("span", { title: time(one.time_ms) }, ago(one.time_ms)) : h("span", { class: "pale", title: "Removed to make room (checkpoint.keep_last)" }, "removed") },
      { title: "Size", number: true, cell: one => one.bytes ? bytes(one.bytes) : "" },
      { title: "Weights", cell: one => one.weights_hash ? h("code", { title: `${one.weights_hash}\n${one.path}` }, short(one.weights_hash)) : "" },
    ], lines.slice(0, most), { empty: "No checkpoint yet." }),
    rest > 0 && h("button", { type: "button", onclick: () => load(node, () => checkpointTable(name, signal, most * 10), signal) }, `${count(rest)} older`));
  return node;
}

const words = metric => metric.split("/").pop().replace("i2t_recall", "image→text R").replace("t2i_recall", "text→image R").replaceAll("_", " ");
