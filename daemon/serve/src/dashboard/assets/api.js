// What is asked of the daemon: JSON with errors in words, lists part by part, the token where one is wanted.

import { recall, remember } from "./memory.js";

const KEY = "diptych.token";
const PAGES_AT_MOST = 20;

/** An answer that is an error. `title` is a headline where the daemon's words need one; `code` names what a page can mend itself. */
class ApiError extends Error {
  constructor(status, { title = null, detail, advice, code }) {
    super(detail || title || `The daemon answered with ${status}.`);
    Object.assign(this, { status, title, advice, code });
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
      throw new ApiError(0, {
        title: "The daemon cannot be reached", detail: "It may be stopped or starting, or the network is down.",
        advice: "Look at `systemctl status diptych`, or start it: diptych serve.",
      });
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
  409: "Its state changed meanwhile; look again.",
  429: "Wait a moment and try again.",
  503: "Wait a moment and try again.",
  504: "Ask for less, or raise the limit in diptych.toml.",
};

const TITLES = { 403: "This token may not do that", 429: "The daemon is busy", 503: "The daemon is busy" };

async function asError(response) {
  const status = response.status;
  const title = TITLES[status] ?? (status >= 500 ? "The daemon failed" : null);
  try {
    const { detail, code } = await response.json();
    return new ApiError(status, { title, detail, code, advice: ADVICE[status] });
  } catch {
    return new ApiError(status, { title, advice: ADVICE[status] });
  }
}

export async function get(path, signal) {
  return (await request(path, { signal })).json();
}

export async function send(method, path, json, signal) {
  const body = json === undefined ? undefined : JSON.stringify(json);
  return (await request(path, { method, body, type: body && "application/json", signal })).json();
}

/** A query's answer. Whole numbers beyond 2^53, perceptual hashes for one, are kept as their digits where the browser can; a rounded hash is a wrong one. */
export async function askSql(question, signal) {
  const answer = await request("/v1/sql", { method: "POST", body: JSON.stringify(question), type: "application/json", signal });
  return JSON.parse(await answer.text(), (_, value, context) =>
    Number.isInteger(value) && !Number.isSafeInteger(value) && context?.source ? context.source : value);
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
