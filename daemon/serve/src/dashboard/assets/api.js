// Requests to the service: JSON, errors with advice, lists in parts, and tokens.

import { recall, remember } from "./memory.js";

const KEY = "diptych.token";
const PAGES_AT_MOST = 20;

/**
 * An error from the service. `title` is a headline if its message needs one. `code` names an error
 * that a page can react to.
 */
class ApiError extends Error {
  constructor(status, { title = null, detail, advice, code }) {
    super(detail || title || `The service answered with status ${status}.`);
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

/**
 * Sets the function that asks the user for a token. It receives the service's message and whether a
 * token was refused, and resolves when there is a new one.
 */
export function onUnauthorized(ask) {
  askForToken = ask;
}

/**
 * Returns a response or throws an ApiError. If a token is needed, asks the user once for all
 * waiting requests, and tries them again.
 */
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
        title: "Cannot reach the service", detail: "It may be stopped or starting, or the network is down.",
        advice: "Check `systemctl status diptych`, or start it with diptych serve.",
      });
    }
    if (response.ok) return response;
    const error = await asError(response);
    if (response.status !== 401 || !askForToken) throw error;
    // Another request may have received a new token meanwhile.
    if (sent === token.get()) {
      asking ??= askForToken(error.message, Boolean(sent)).finally(() => { asking = null; });
      await asking;
    }
  }
}

const ADVICE = {
  403: "Sign out, and sign in with a token of a wider scope (diptych token).",
  409: "Its state has changed. Reload and try again.",
  429: "Wait a moment and try again.",
  503: "Wait a moment and try again.",
  504: "Request less, or raise the limit in diptych.toml.",
};

const TITLES = { 403: "This token does not allow that", 429: "The service is busy", 503: "The service is busy" };

async function asError(response) {
  const status = response.status;
  const title = TITLES[status] ?? (status >= 500 ? "The service failed" : null);
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

/**
 * Runs a SQL query. Integers beyond 2^53, such as perceptual hashes, are kept as text if the
 * browser supports it, since a rounded hash is a wrong one.
 */
export async function askSql(question, signal) {
  const answer = await request("/v1/sql", { method: "POST", body: JSON.stringify(question), type: "application/json", signal });
  return JSON.parse(await answer.text(), (_, value, context) =>
    Number.isInteger(value) && !Number.isSafeInteger(value) && context?.source ? context.source : value);
}

/** Returns a whole list, up to PAGES_AT_MOST parts. */
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
