// Live events: server-sent events read through fetch, since EventSource cannot send a token. A lost
// connection is retried with growing pauses. The event `again` tells pages that they missed
// something.

import { request } from "./api.js";

const LATEST_TRY_MS = 30_000;
/**
 * The service sends something every 15 s, so a connection that is silent for this long is dead,
 * whatever TCP believes.
 */
const SILENT_MS = 45_000;

const listeners = new Map();
export const connection = { state: "connecting", retryAt: 0, error: null };

/**
 * Calls `listener` at each event of a kind (job, step, event, checkpoint, again, connection) until
 * the signal is aborted.
 */
export function on(kind, listener, signal) {
  if (!listeners.has(kind)) listeners.set(kind, new Set());
  listeners.get(kind).add(listener);
  signal?.addEventListener("abort", () => listeners.get(kind).delete(listener));
}

export function tell(kind, data) {
  for (const listener of listeners.get(kind) ?? []) {
    try {
      listener(data);
    } catch (error) {
      console.error(error);
    }
  }
}

/**
 * Returns a function that runs `work` at most once every `every` milliseconds, and once after its
 * last call.
 */
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
/** Reconnects now instead of waiting. */
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
