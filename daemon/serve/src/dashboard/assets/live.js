// What happens, as it happens: server-sent events read through fetch, since EventSource cannot send a token. A lost connection is tried
// again, each time a little later; `again` tells pages that they missed something.

import { request } from "./api.js";

const LATEST_TRY_MS = 30_000;
/** The daemon says something every 15 s; a connection that is silent for longer is dead, whatever TCP believes. */
const SILENT_MS = 45_000;

const listeners = new Map();
export const connection = { state: "connecting", retryAt: 0, error: null };

/** Calls `heed` at each event of a kind (job, step, event, checkpoint, again, connection) until the signal is aborted. */
export function on(kind, heed, signal) {
  if (!listeners.has(kind)) listeners.set(kind, new Set());
  listeners.get(kind).add(heed);
  signal?.addEventListener("abort", () => listeners.get(kind).delete(heed));
}

export function tell(kind, data) {
  for (const heed of listeners.get(kind) ?? []) {
    try {
      heed(data);
    } catch (error) {
      console.error(error);
    }
  }
}

/** `work`, but however often it is called, at most once in so many milliseconds, and a last time after the last call. */
export function calm(work, every) {
  let waits = false;
  return () => {
    if (waits) return;
    waits = true;
    setTimeout(() => { waits = false; work(); }, every);
  };
}

function become(state, more = {}) {
  Object.assign(connection, { error: null, retryAt: 0 }, more, { state });
  tell("connection", connection);
}

let wake = null;
/** Tries at once rather than when it is time. */
export const tryNow = () => wake?.();

export async function listen() {
  let failures = 0;
  let missed = false;
  for (;;) {
    const abort = new AbortController();
    let silence;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => abort.abort(), SILENT_MS);
    };
    let error = null;
    try {
      const response = await request("/v1/events", { signal: abort.signal });
      failures = 0;
      become("live");
      if (missed) tell("again");
      missed = true;
      heard();
      await read(response.body, heard);
    } catch (caught) {
      error = caught;
    }
    clearTimeout(silence);
    failures += 1;
    missed = true;
    const wait = Math.min(LATEST_TRY_MS, 500 * 2 ** failures) * (0.75 + Math.random() / 2);
    become("lost", { retryAt: Date.now() + wait, error });
    await new Promise(resolve => {
      wake = resolve;
      setTimeout(resolve, wait);
    });
    wake = null;
  }
}

async function read(stream, heard) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    heard();
    text += value;
    const blocks = text.split(/\r?\n\r?\n/);
    text = blocks.pop();
    for (const block of blocks) {
      const fields = { event: "message", data: "" };
      for (const line of block.split(/\r?\n/)) {
        const [, name, content] = /^(\w+): ?(.*)$/.exec(line) ?? [];
        if (name === "data") fields.data += (fields.data && "\n") + content;
        else if (name) fields[name] = content;
      }
      if (fields.event === "missed") tell("again");
      else if (fields.data) tell(fields.event, JSON.parse(fields.data));
    }
  }
}
