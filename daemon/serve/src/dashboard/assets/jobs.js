// The queue: waiting, running and ended jobs, their actions and logs, and a form for new jobs.

import { get, of, request, send } from "./api.js";
import { fill, h, load, problem, state, sure, table, toast } from "./dom.js";
import { embedButton } from "./embed.js";
import { ago, duration, time } from "./format.js";
import { calm, on } from "./live.js";

const STATES = ["running", "queued", "waiting", "pausing", "paused", "cancelling", "failed", "cancelled", "done"];
const KINDS = ["train", "ingest", "score", "select", "embed", "eval", "export", "dedup"];
const SHOWN = 100;
const LOG_EVERY_MS = 1000;
/** Most lines of a log on the page. */
const LOG_LINES = 5000;

/** The number of a command that owns the state folder by itself. */
const COMMAND = 0;

const DOES = {
  pause: { when: ["queued", "waiting", "running"], text: "Pause" },
  resume: { when: ["paused"], text: "Resume" },
  checkpoint: { when: ["running"], only: "train", text: "Checkpoint", done: "saves a checkpoint after the current step" },
  retry: { when: ["failed", "cancelled"], text: "Try again" },
  cancel: { when: ["queued", "waiting", "running", "pausing", "paused"], text: "Cancel", kind: "danger" },
};

/** Builds buttons for the possible actions on a job. */
export function actions(job, changed) {
  // A command that was started by hand is not a job of a service: only the person who started it
  // can stop it.
  const able = Object.entries(DOES).filter(([name, { when, only }]) => when.includes(job.state) && (!only || only === job.kind) && (job.id !== COMMAND || name === "checkpoint"));
  if (!able.length) return null;
  const what = `job ${job.id}${job.run ? ` (${job.run})` : ""}`;
  return h("div", { class: "actions" }, able.map(([name, { text, kind, done }]) => {
    const button = h("button", { type: "button", class: kind, "aria-label": `${text} ${what}`, onclick: async () => {
      if (name === "cancel" && !await sure(`Cancel ${what}?`, "Its work so far is saved. “Try again” continues from there.", "Cancel the job")) return;
      button.disabled = true;
      try {
        const now = await send("POST", of("jobs", job.id, name));
        toast(`${what[0].toUpperCase()}${what.slice(1)} ${done ?? `is now ${now.state}`}.`);
        changed?.(now);
      } catch (error) {
        toast(`${text} ${what} failed: ${error.message}`, "bad");
      }
      button.disabled = false;
    } }, text);
    return button;
  }));
}

const took = job => job.started_ms ? duration(((job.ended_ms ?? Date.now()) - job.started_ms) / 1000) : "–";
const what = job => job.run ? h("a", { href: `#/runs/${job.run}` }, job.run) : h("code", { class: "cut", title: job.args?.join(" ") }, job.args?.join(" ") ?? "");
/** Describes why a job is in its state: what it waits for, and its message. */
export const why = job => [
  job.waits && (job.not_before_ms > Date.now() ? `${job.waits}, ${ago(job.not_before_ms)}` : job.waits),
  job.message,
].filter(Boolean).join("; ");

export async function show(main, query, signal) {
  const box = h("div");
  const chosen = query.get("state") ?? "";
  const filter = h("select", { onchange: () => { location.hash = filter.value ? `#/jobs?state=${filter.value}` : "#/jobs"; } },
    h("option", { value: "" }, "all states"), STATES.map(name => h("option", { value: name }, name)));
  filter.value = chosen;
  const form = submitForm(() => refresh());
  form.hidden = !query.has("new");
  fill(main,
    h("div", { class: "row" }, h("h1", {}, "Jobs"), h("label", {}, "Show ", filter), h("span", { class: "gap" }),
      embedButton({ text: "Embed…", signal, done: () => refresh() }),
      h("button", { type: "button", class: "main", "aria-expanded": String(!form.hidden), onclick: event => {
        form.hidden = !form.hidden;
        event.currentTarget.setAttribute("aria-expanded", String(!form.hidden));
        if (!form.hidden) form.querySelector("select").focus();
      } }, "New job")),
    form, box);

  // Number of parts that are shown; a refresh loads as many.
  let parts = 1;
  const refresh = () => load(box, async () => {
    const jobs = [];
    let next = null;
    for (let part = 0; part < parts; part += 1) {
      const answer = await get(`/v1/jobs?${new URLSearchParams({ limit: SHOWN, ...(chosen && { state: chosen }), ...(next && { after: next }) })}`, signal);
      jobs.push(...answer.items);
      next = answer.next;
      if (!next) break;
    }
    // A refresh must not take the focus or a number that is being typed.
    const focused = box.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    if (document.activeElement?.matches?.("input.priority")) return undefined;
    queueMicrotask(() => focused && [...box.querySelectorAll("[aria-label]")].find(node => node.getAttribute("aria-label") === focused)?.focus());
    return [
      table("Jobs, the newest first", [
        { title: "Job", number: true, heading: true, cell: job => h("a", { href: `#/jobs/${job.id}` }, String(job.id)) },
        { title: "Kind", cell: job => job.kind },
        { title: "What", class: "whole", cell: what },
        { title: "State", cell: job => state(job.state) },
        { title: "Try", number: true, cell: job => job.attempt ? `${job.attempt}/${job.max_attempts}` : "–" },
        { title: "Priority", number: true, cell: job => priority(job) },
        { title: "Created", number: true, cell: job => h("span", { title: time(job.created_ms) }, ago(job.created_ms)) },
        { title: "Took", number: true, cell: took },
        { title: "Why", class: "words whole", cell: why },
        { title: "Actions", class: "whole", cell: job => actions(job, refresh) },
      ], jobs, { empty: chosen ? `No job is ${chosen}.` : "No jobs yet. Use “New job”, or run diptych submit run.toml.", cards: true }),
      next && h("p", {}, h("button", { type: "button", onclick: () => { parts += 1; refresh(); } }, "Older jobs")),
    ];
  }, signal);
  on("job", calm(refresh, 300), signal);
  on("again", refresh, signal);
  await refresh();
}

function priority(job) {
  if (!["queued", "waiting", "paused"].includes(job.state)) return String(job.priority);
  const input = h("input", { type: "number", class: "priority", value: job.priority, "aria-label": `Priority of job ${job.id}`, onchange: async () => {
    try {
      await send("PATCH", of("jobs", job.id), { priority: Number(input.value) });
      toast(`Job ${job.id} has priority ${input.value}.`);
    } catch (error) {
      input.value = job.priority;
      toast(error.message, "bad");
    }
  } });
  return input;
}

function submitForm(submitted) {
  const kind = h("select", { name: "kind", onchange: () => turn() }, KINDS.map(name => h("option", {}, name)));
  const config = h("textarea", { rows: 12, spellcheck: "false", placeholder: 'name = "my-run"\n\n[data]\ndataset = "/data/pairs"\nselection = "/data/train.parquet"\n…' });
  const file = h("input", { type: "file", accept: ".toml", onchange: async () => { if (file.files[0]) config.value = await file.files[0].text(); } });
  const args = h("textarea", { rows: 5, spellcheck: "false", placeholder: "/data/pairs/*.tar\n--dataset\n/data/pairs" });
  const folder = h("input", { type: "text", placeholder: "the state folder", spellcheck: "false" });
  const level = h("input", { type: "number", value: 0 });
  const after = h("input", { type: "text", placeholder: "none", pattern: "[0-9, ]*" });
  const box = h("div");
  const training = [h("label", {}, "Configuration (TOML)", config), h("label", {}, "or from a file", file)];
  const other = [h("label", {}, "Arguments of the command, one per line", args)];
  const turn = () => {
    training.forEach(node => { node.hidden = kind.value !== "train"; });
    other.forEach(node => { node.hidden = kind.value === "train"; });
  };
  turn();
  return h("form", { class: "card stack", "aria-label": "New job", onsubmit: async event => {
    event.preventDefault();
    fill(box);
    const numbers = after.value.split(/[, ]+/).filter(Boolean).map(Number);
    const job = { kind: kind.value, priority: Number(level.value), after: numbers };
    if (kind.value === "train") job.config = config.value;
    else job.args = args.value.split("\n").map(line => line.trim()).filter(Boolean);
    if (folder.value.trim()) job.folder = folder.value.trim();
    try {
      const taken = await send("POST", "/v1/jobs", job);
      toast(`Job ${taken.id} is in the queue.`);
      submitted();
    } catch (error) {
      fill(box, problem(error));
    }
  } },
  h("div", { class: "row" }, h("label", {}, "Kind ", kind), h("label", {}, "Priority ", level), h("label", {}, "After jobs ", after), h("label", {}, "Relative to folder ", folder)),
  training, other, box, h("p", {}, h("button", { class: "main" }, "Submit")));
}

/** Shows one job, with its log as it grows. */
export async function showOne(main, id, query, signal) {
  const box = h("div");
  const log = h("pre", { class: "log", tabindex: "0", "aria-label": `Log of job ${id}` });
  const follow = h("input", { type: "checkbox", checked: true });
  const note = h("p", { class: "pale" });
  fill(main, h("p", { class: "crumbs" }, h("a", { href: "#/jobs" }, "Jobs"), ` / ${id}`), box,
    h("div", { class: "row" }, h("h2", {}, "Log"), h("label", {}, follow, " follow")), note, log);
  let job = null;
  const refresh = () => load(box, async () => {
    job = await get(of("jobs", id), signal);
    const row = (name, value) => value !== null && value !== undefined && value !== "" && [h("dt", {}, name), h("dd", {}, value)];
    return [
      h("div", { class: "row" }, h("h1", {}, `Job ${job.id}: ${job.kind}`), state(job.state), h("span", { class: "gap" }), actions(job, refresh)),
      job.message && h("p", { class: job.state === "failed" ? "problem" : "" }, job.message),
      h("dl", { class: "facts" },
        row("Run", job.run && h("a", { href: `#/runs/${job.run}` }, job.run)),
        row("Arguments", job.args?.length ? h("code", {}, job.args.join(" ")) : null),
        row("Folder", job.folder), row("Priority", priority(job)),
        row("After", job.after.length ? job.after.map(other => [h("a", { href: `#/jobs/${other}` }, String(other)), " "]) : null),
        row("Tries", `${job.attempt} of ${job.max_attempts}`), row("Not before", job.not_before_ms && time(job.not_before_ms)),
        row("Created", time(job.created_ms)), row("Started", job.started_ms && time(job.started_ms)),
        row("Ended", job.ended_ms && time(job.ended_ms)), row("Took", job.started_ms && took(job)), row("Version", job.version)),
    ];
  }, signal);
  on("job", changed => { if (String(changed.id) === id) refresh(); }, signal);
  on("again", refresh, signal);

  let next = -1;
  const read = async () => {
    try {
      // The log may have grown by more than one answer holds.
      for (let part = 0; part < 8; part += 1) {
        const answer = await request(`${of("jobs", id, "log")}?${new URLSearchParams({ after: next })}`, { signal });
        const text = await answer.text();
        next = Number(answer.headers.get("X-Log-Next") ?? next);
        note.textContent = text || log.hasChildNodes() ? "" : "Nothing has been logged yet.";
        if (!text) break;
        log.append(text.replaceAll(/\x1b\[[0-9;]*m/g, ""));
        const lines = log.textContent.split("\n");
        if (lines.length > LOG_LINES) fill(log, lines.slice(-LOG_LINES).join("\n"));
        if (follow.checked) log.scrollTop = log.scrollHeight;
      }
    } catch (error) {
      if (signal.aborted) return;
      note.textContent = `Cannot read the log: ${error.message}`;
    }
    const ended = job && ["done", "failed", "cancelled"].includes(job.state);
    if (!signal.aborted) setTimeout(read, ended || document.hidden ? 10 * LOG_EVERY_MS : LOG_EVERY_MS);
  };
  await refresh();
  await read();
}

