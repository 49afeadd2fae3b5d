// Embedding for search: the models that have embedded images, and a button that submits an embed
// job.

import { all, get, of, send } from "./api.js";
import { dialog, fill, h, toast } from "./dom.js";
import { count, duration, plural } from "./format.js";
import { on } from "./live.js";

const ENDED = ["done", "failed", "cancelled"];

/** Returns the sets of image embeddings by run: run → [{step, rows}], the newest step first. */
export async function embedded(signal) {
  const found = new Map();
  for (const set of await all("/v1/embeddings", signal)) {
    if (set.modality !== "image" || !set.run || !set.rows) continue;
    found.set(set.run, [...(found.get(set.run) ?? []), { step: set.step, rows: set.rows }].sort((a, b) => b.step - a.step));
  }
  return found;
}

/** Quotes a word for a shell if necessary. */
const word = text => /^[\w./:@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;

/** Describes the longest time that embedding takes: a training step does more with each pair. */
async function estimate(run, pairs, signal) {
  try {
    const { series } = await get(`${of("runs", run, "metrics")}?${new URLSearchParams({ names: "samples_per_second", points: 100 })}`, signal);
    const speed = (series.samples_per_second ?? []).filter(Boolean).at(-1);
    return speed ? `about ${duration(Number((pairs / speed).toPrecision(1)))} at most, judging by the speed of its training` : "an unknown time";
  } catch {
    return "an unknown time";
  }
}

/**
 * Builds a button that embeds a dataset with a model, and then shows the state of its job. `model`:
 * a run, RUN@STEP or RUN@best. If `model` or `dataset` is missing, the user is asked for it. `done`
 * is called when the embeddings exist.
 */
export function embedButton({ model, dataset, text = "Embed now", kind = "", signal, done }) {
  const box = h("span", { class: "row" });
  const button = h("button", { type: "button", class: kind, onclick: async () => {
    button.disabled = true;
    try {
      const job = await start(model, dataset, signal);
      if (job) follow(job);
    } catch (error) {
      if (error.name !== "AbortError") toast(`Cannot embed: ${error.message}`, "bad");
    }
    button.disabled = false;
  } }, text);
  function follow(job) {
    const state = h("span", {}, job.state);
    fill(box, h("span", { role: "status" }, h("a", { href: `#/jobs/${job.id}` }, `Job ${job.id}`), " embeds: ", state));
    const take = now => {
      if (now.id !== job.id) return;
      state.textContent = now.message ? `${now.state}, ${now.message}` : now.state;
      if (!ENDED.includes(now.state)) return;
      if (now.state === "done") done?.(now);
      else box.append(button);
    };
    on("job", take, signal);
    // The job may have ended before the listener was added.
    get(of("jobs", job.id), signal).then(take, () => {});
  }
  return fill(box, button);
}

/** Asks for what is missing, says what it costs, and submits the job. */
async function start(model, dataset, signal) {
  const [{ items: sets }, runs, status] = await Promise.all([get("/v1/datasets?limit=1000", signal), model ? [] : all("/v1/runs", signal), get("/v1/status", signal)]);
  const usable = sets.filter(({ problem }) => !problem);
  if (!usable.length) throw new Error("there is no dataset to embed");
  if (!model && !runs.length) throw new Error("there is no run yet whose model could embed");
  const which = h("select", {}, usable.map(({ name, pairs }) => h("option", { value: name }, `${name}, ${plural(pairs, "pair")}`)));
  which.value = dataset ?? usable[0].name;
  if (which.selectedIndex < 0) which.selectedIndex = 0;
  const by = h("select", {}, runs.sort((a, b) => b.updated_ms - a.updated_ms).map(({ run }) => h("option", { value: run }, run)));
  const cost = h("p", { class: "pale", role: "status" });
  const chosen = () => usable.find(({ name }) => name === which.value);
  const name = () => model ?? by.value;
  // A command that owns the state folder takes no jobs. Then the dialog shows the command to type.
  const takesJobs = status.takes_jobs !== false;
  const command = h("pre", { hidden: takesJobs });
  let asked = 0;
  const tell = async () => {
    command.textContent = `diptych embed --model ${name()} --dataset ${word(chosen().path)} --state ${word(status.state)}`;
    const mine = ++asked;
    const { pairs } = chosen();
    const how = takesJobs ? "as a job of the queue" : "by this command, once no other process uses the state folder";
    cost.textContent = `${count(pairs)} images and captions are encoded ${how}.`;
    const takes = await estimate(name().split("@")[0], pairs, signal);
    if (mine === asked) cost.textContent = `${count(pairs)} images and captions are encoded ${how}. It takes ${takes}. Existing embeddings are kept.`;
  };
  which.addEventListener("change", tell);
  by.addEventListener("change", tell);
  tell();
  const answer = await dialog(model ? `Embed with ${model}` : "Embed a dataset", h("div", { class: "stack" },
    !model && h("label", {}, "With the newest checkpoint of", by), h("label", {}, "Dataset", which), cost, command), takesJobs ? [["Back", ""], ["Embed", "yes", "main"]] : [["Close", "", "main"]]);
  if (answer !== "yes") return null;
  return send("POST", "/v1/jobs", { kind: "embed", args: ["--model", name(), "--dataset", chosen().path] }, signal);
}
