// The overview: running jobs and their progress, alarms, the queue, the best results, and datasets.

import { all, get, of } from "./api.js";
import { sparkline } from "./chart.js";
import { bar, fill, h, load, state, table } from "./dom.js";
import { embedButton, embedded } from "./embed.js";
import { firstSteps } from "./first.js";
import { ago, bytes, count, duration, eventName, metricWords, number, percent, time } from "./format.js";
import { actions, why } from "./jobs.js";
import { calm, on } from "./live.js";
import { byMetric, figureCell, metricSelect, results } from "./results.js";

/** Number of recent runs whose alarms are shown. */
const RECENT_RUNS = 6;
const BEST_RUNS = 8;
const RECENT_ALARMS = 12;
const RECENT_JOBS = 200;
/** Events may come by the hundred, so lists are reloaded at most this often. */
const AGAIN_MS = 2000;
const SPARK_POINTS = 180;
/** Share of a step's time above which the device counts as starved of data. */
const STARVED = 0.1;

export async function show(main, _, __, signal) {
  const [degraded, running, alarms, queue, bests, data] = [0, 1, 2, 3, 4, 5].map(() => h("div"));
  const ranked = metricSelect(() => showBests());
  ranked.node.hidden = true;
  fill(main,
    h("h1", { class: "unseen" }, "Overview"), degraded,
    h("section", { "aria-label": "Running" }, running),
    h("div", { class: "columns" },
      h("section", {}, h("h2", {}, "Alarms"), alarms),
      h("section", {}, h("h2", {}, h("a", { href: "#/jobs" }, "Queue")), queue),
      h("section", {}, h("div", { class: "row" }, h("h2", {}, h("a", { href: "#/runs" }, "Best results")), h("span", { class: "gap" }), ranked.node), bests),
      h("section", {}, h("h2", {}, h("a", { href: "#/datasets" }, "Datasets")), data)));

  const cards = new Map();
  const showRunning = () => load(running, async () => {
    const status = await get("/v1/status", signal);
    fill(degraded, status.degraded && h("div", { class: "problem", role: "alert" }, h("b", {}, "The state folder has lost data"), h("p", {}, status.degraded)));
    const jobs = new Map((await get(`/v1/jobs?limit=${RECENT_JOBS}`, signal)).items.map(job => [job.id, job]));
    // Load jobs that were submitted long ago and still run.
    for (const { job } of status.running) if (!jobs.has(job)) jobs.set(job, await get(of("jobs", job), signal));
    for (const id of cards.keys()) if (!status.running.some(({ job }) => job === id)) cards.delete(id);
    for (const entry of status.running) {
      // Until its first step, only the job says which run it is.
      const one = { ...entry, run: entry.run ?? jobs.get(entry.job)?.run };
      if (!cards.has(one.job)) cards.set(one.job, card(one, jobs.get(one.job), signal));
      cards.get(one.job).update(one, jobs.get(one.job));
    }
    fill(queue, queueOf(status.jobs, [...jobs.values()]));
    if (cards.size) return [...cards.values()].map(({ node }) => node);
    if (!status.runs) return firstSteps(status, (await get("/v1/datasets", signal)).items);
    return h("div", { class: "card idle" }, h("p", {}, h("b", {}, "Nothing is running.")),
      h("p", { class: "pale" }, "Submit a training with ", h("code", {}, "diptych submit run.toml"), ", or ", h("a", { href: "#/jobs?new" }, "here"), "."),
      h("p", { class: "pale" }, `Diptych ${status.version}, running since ${time(status.started_ms)}, state folder ${status.state}.`));
  }, signal);

  let found = new Map();
  const bestTable = () => {
    const metric = ranked.metric;
    const scored = [...found.values()].filter(one => one.figures.has(metric)).map(one => ({ run: one.run, figure: one.figures.get(metric) }))
      .sort(byMetric(metric, one => one.figure.value));
    const chance = scored.map(({ figure }) => figure.chance).find(chance => chance !== null);
    return [
      table(`Best results of all runs: ${metricWords(metric)}`, [
        { title: "Run", heading: true, cell: ({ run }) => h("a", { href: `#/runs/${run}`, class: "run-name", title: run }, run) },
        { title: metricWords(metric), number: true, cell: ({ figure }) => figureCell(figure, scored[0].figure) },
      ], scored.slice(0, BEST_RUNS), { empty: found.size ? "No run has been evaluated yet. Set eval.selection in its configuration." : "No runs yet." }),
      scored.length > 0 && h("p", { class: "pale" }, [scored.length > BEST_RUNS && `The best ${BEST_RUNS} of ${count(scored.length)} runs.`, chance && `Chance: ${number(chance)}.`].filter(Boolean).join(" ")),
    ];
  };
  const showBests = () => fill(bests, bestTable());
  const showRuns = async () => {
    let runs;
    await load(bests, async () => {
      let known;
      [known, found] = await Promise.all([all("/v1/runs", signal), results(signal)]);
      runs = known.sort((a, b) => b.updated_ms - a.updated_ms).slice(0, RECENT_RUNS);
      ranked.offer(found);
      return bestTable();
    }, signal);
    await load(alarms, async () => {
      if (!runs) return h("p", { class: "pale" }, "Unknown, because the runs could not be loaded.");
      const found = (await Promise.all(runs.map(async run => (await all(of("runs", run.run, "events"), signal)).map(event => ({ ...event, run: run.run })))))
        .flat().sort((a, b) => b.time_ms - a.time_ms);
      return alarmList(found.slice(0, RECENT_ALARMS), found.length);
    }, signal);
  };

  load(data, async () => {
    const [{ items }, sets, runs] = await Promise.all([get("/v1/datasets", signal), embedded(signal), get("/v1/runs?limit=1", signal)]);
    const search = sets.size ? [h("a", { href: "#/search" }, "Search"), ` with ${[...sets.keys()].slice(0, 3).join(", ")}${sets.size > 3 ? ` and ${count(sets.size - 3)} more` : ""}.`]
      : ["No model has embedded a dataset yet, so search is not possible. ", embedButton({ signal, done: () => { location.hash = "#/search"; } })];
    return [table("Datasets", [
      { title: "Name", heading: true, cell: one => h("a", { href: `#/datasets/${encodeURIComponent(one.name)}` }, one.name) },
      { title: "Pairs", number: true, cell: one => count(one.pairs) },
      { title: "Size", number: true, cell: one => bytes(one.bytes) },
      { title: "Refused", number: true, cell: one => count(one.ledger) },
    ], items, { empty: "No datasets. Make one with diptych ingest. diptych ui finds datasets in its folder; for diptych serve, add --dataset FOLDER, or [[dataset]] with name and path to its configuration." }), items.length > 0 && runs.items.length > 0 && h("p", { class: "pale" }, search)];
  }, signal);

  on("step", step => { for (const { run, step: take } of cards.values()) if (run === step.run) take(step); }, signal);
  on("job", calm(showRunning, 300), signal);
  on("job", calm(showRuns, AGAIN_MS), signal);
  on("event", calm(showRuns, AGAIN_MS), signal);
  on("checkpoint", calm(showRuns, AGAIN_MS), signal);
  on("again", () => { showRunning(); showRuns(); }, signal);
  on("theme", () => main.querySelectorAll(".spark").forEach(canvas => canvas.redraw?.()), signal);
  await Promise.all([showRunning(), showRuns()]);
}

export function alarmList(events, total = events.length) {
  if (!events.length) return h("p", { class: "pale" }, "No alarms.");
  return [h("ul", { class: "alarms" }, events.map(event => h("li", {},
    h("span", { class: `alarm ${event.kind}` }, eventName(event.kind)), " ",
    event.run && h("a", { href: `#/runs/${event.run}` }, event.run), ` step ${count(event.step)} `,
    h("time", { class: "pale", datetime: new Date(event.time_ms).toISOString(), title: time(event.time_ms) }, ago(event.time_ms)),
    h("p", {}, event.message)))),
  total > events.length && h("p", { class: "pale" }, `and ${count(total - events.length)} more; see the runs`)];
}

function queueOf(counts, jobs) {
  const waiting = jobs.filter(job => ["queued", "waiting", "paused"].includes(job.state)).sort((a, b) => b.priority - a.priority || a.id - b.id);
  const failed = jobs.filter(job => job.state === "failed").slice(0, 3);
  return [
    h("p", { class: "chips" }, Object.entries(counts).map(([name, n]) => h("a", { href: `#/jobs?state=${name}`, class: "chip" }, state(name), ` ${n}`))),
    table("Waiting jobs and the last failed ones", [
      { title: "Job", heading: true, cell: job => h("a", { href: `#/jobs/${job.id}` }, `${job.id} ${job.kind}`, job.run && ` ${job.run}`) },
      { title: "State", cell: job => state(job.state) },
      { title: "Why", cell: why },
    ], [...waiting.slice(0, 6), ...failed], { empty: "No waiting jobs." }),
  ];
}

/** Builds the card of a running job. A training shows its live numbers. */
function card(one, job, signal) {
  const tile = (name, hint) => {
    const value = h("dd");
    return { node: h("div", { class: "tile", title: hint }, h("dt", {}, name), value), value };
  };
  const tiles = {
    loss: tile("Loss"), speed: tile("Samples/s", "Over the last two minutes, evaluations and checkpoints included"), wait: tile("Data wait", `Share of a step's time spent waiting for data. Above ${percent(STARVED)}, loading data limits the speed`),
    mfu: tile("MFU", "Model FLOPs utilization: share of the device's peak"), lr: tile("Learning rate"), eta: tile("Time left"),
  };
  const [head, progress, spark, does] = [h("div", { class: "row" }), h("div"), h("div", { class: "sparks" }), h("div", { class: "row" })];
  const node = h("article", { class: "card running" }, head, progress,
    one.run && h("div", { class: "row live" }, spark, h("dl", { class: "tiles" }, Object.values(tiles).map(({ node }) => node))), does);
  let losses = [];
  let drawn = 0;
  const draw = () => {
    drawn = Date.now();
    fill(spark, h("small", { class: "pale" }, "Loss of the last steps"), sparkline(losses, `Loss of the last ${losses.length} steps`, 480, 108));
  };
  if (one.run) {
    const from = Math.max(1, (one.step ?? 0) - SPARK_POINTS);
    get(`${of("runs", one.run, "metrics")}?${new URLSearchParams({ names: "loss", from, points: SPARK_POINTS })}`, signal)
      .then(({ series }) => { losses = [...series.loss ?? [], ...losses].slice(-SPARK_POINTS); draw(); })
      .catch(() => {});
  }
  const known = {};
  const take = step => {
    // Newer services send the duration of a step. It also follows from the throughput.
    const batch = known.samples && step.step > known.step ? (step.samples - known.samples) / (step.step - known.step) : null;
    const seconds = step.seconds ?? (batch && step.samples_per_second ? batch / step.samples_per_second : null);
    const wait = seconds ? step.data_wait_seconds / seconds : null;
    Object.assign(known, step);
    if (typeof step.step !== "number") {
      fill(progress, h("small", { class: "pale" }, "No steps yet: reading data and building the model."));
      return;
    }
    const share = step.step / step.total_steps;
    fill(progress, bar(share, `${percent(share)} of ${step.run}`), h("small", { class: "pale" }, `step ${count(step.step)} of ${count(step.total_steps)} · ${percent(share)}`));
    const set = (name, text) => { tiles[name].value.textContent = text; };
    set("loss", number(step.loss));
    const speed = step.average_samples_per_second ?? step.samples_per_second;
    set("speed", number(speed && Number(speed.toPrecision(3))));
    if (wait !== null && Number.isFinite(wait)) {
      set("wait", percent(wait));
      tiles.wait.node.classList.toggle("bad", wait > STARVED);
    } else if (!tiles.wait.value.textContent) set("wait", "–");
    // A utilization above 1 comes from an earlier version that underestimated the machine.
    tiles.mfu.node.hidden = !(step.mfu <= 1);
    set("mfu", percent(step.mfu));
    if (step.lr !== undefined) set("lr", number(step.lr));
    set("eta", duration(step.eta_seconds));
    if (typeof step.loss === "number") losses = [...losses, step.loss].slice(-SPARK_POINTS);
    if (Date.now() - drawn > 500) draw();
  };
  return {
    node, run: one.run, step: take,
    update(now, job) {
      fill(head, job && state(job.state), h("h2", {}, now.run ? h("a", { href: `#/runs/${now.run}` }, now.run) : `${now.kind ?? job?.kind ?? "Job"} ${now.job}`),
        h("span", { class: "pale" }, h("a", { href: `#/jobs/${now.job}` }, `job ${now.job}`), job?.started_ms && ` · started ${ago(job.started_ms)}`, job?.attempt > 1 && ` · try ${job.attempt} of ${job.max_attempts}`));
      if (now.run && (now.step === undefined || now.step !== known.step)) take(now);
      fill(does, job && actions(job));
    },
  };
}
