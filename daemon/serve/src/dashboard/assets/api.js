// What is asked of the daemon: JSON with errors in words, lists part by part, the token where one is wanted.

import { recall, remember } from "./memory.js";

const KEY = "diptych.token";
const PAGES_AT_MOST = 20;

class ApiError extends Error {
  constructor(status, title, detail, advice) {
    super(detail || title);
    Object.assign(this, { status, title, advice });
  }
}

let held = recall("sessionStorage", KEY);
export const token = {
  get: () => held,
  set(value) {
    held = value;
    remember("sessionStorage", KEY, value);
  },
};

let askForToken = null;
let asking = null;

/** Who asks the user for a token; gets the daemon's words and the last token's fate, and resolves when there is another. */
export function onUnauthorized(ask) {
  askForToken = ask;
}

/** A response, or an ApiError. Where a token is wanted, the user is asked once for all that wait, and everything is tried again. */
export async function request(path, { method = "GET", body, type, signal } = {}) {
  for (;;) {
    const sent = token.get();
    const headers = {};
    if (sent) headers.Authorization = `Bearer ${sent}`;
    if (type) headers["Content-Type"] = type;
    let response;
    try {
      response = await fetch(path, { method, body, headers, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "The daemon cannot be reached", "It may be stopped or starting, or the network is down.",
        "Look at `systemctl status diptych`, or start it: diptych serve.");
    }
    if (response.ok) return response;
    const error = await asError(response);
    if (response.status !== 401 || !askForToken) throw error;
    // Somebody else may have been given a new one meanwhile.
    if (sent === token.get()) {
      asking ??= askForToken(error.message, Boolean(sent)).finally(() => { asking = null; });
      await asking;
    }
  }
}

const ADVICE = {
  403: "Sign out and in again with a token of a wider scope (diptych token).",
  404: "It may have been removed or renamed meanwhile.",
  409: "Its state changed meanwhile; look again.",
  429: "Wait a moment and try again.",
  503: "Wait a moment and try again.",
  504: "Ask for less, or raise the limit in diptych.toml.",
};

async function asError(response) {
  const status = response.status;
  try {
    const { title, detail } = await response.json();
    return new ApiError(status, title ?? `HTTP ${status}`, detail, ADVICE[status]);
  } catch {
    return new ApiError(status, `HTTP ${status}`, response.statusText || "The answer is no problem document.", ADVICE[status]);
  }
}

export async function get(path, signal) {
  return (await request(path, { signal })).json();
}

export async function send(method, path, json, signal) {
  const body = json === undefined ? undefined : JSON.stringify(json);
  return (await request(path, { method, body, type: body && "application/json", signal })).json();
}

/** A list to its end, or as far as is sensible to hold. */
export async function all(path, signal) {
  const items = [];
  let next = null;
  for (let page = 0; page < PAGES_AT_MOST; page += 1) {
    const query = new URLSearchParams({ limit: 1000, ...(next && { after: next }) });
    const answer = await get(`${path}?${query}`, signal);
    items.push(...answer.items);
    next = answer.next;
    if (!next) break;
  }
  return items;
}

export const of = (...parts) => `/v1/${parts.map(encodeURIComponent).join("/")}`;
