// The frame of all pages: routing, keyboard, theme, connection and signing in.

import { onUnauthorized, token } from "./api.js";
import { h, fill, dialog, problem, toast } from "./dom.js";
import { eventName } from "./format.js";
import { connection, listen, on, tell, tryNow } from "./live.js";
import * as datasets from "./datasets.js";
import * as jobs from "./jobs.js";
import * as overview from "./overview.js";
import * as run from "./run.js";
import * as runs from "./runs.js";
import * as search from "./search.js";
import * as sql from "./sql.js";

/**
 * Maps the first part of the address to a page and its chapter of the book. A page receives the
 * element to draw in, the rest of the address, its query, and a signal that ends it.
 */
const PAGES = {
  "": { title: "Now", docs: "guides/dashboard", show: overview.show },
  runs: { title: "Runs", docs: "guides/training", show: (main, [name], ...rest) => name ? run.show(main, [name], ...rest) : runs.show(main, [], ...rest) },
  compare: { title: "Compare", docs: "guides/training", nav: "runs", show: (main, [names = ""], ...rest) => run.show(main, names.split(",").filter(Boolean), ...rest) },
  jobs: { title: "Jobs", docs: "guides/service", show: (main, [id], ...rest) => id ? jobs.showOne(main, id, ...rest) : jobs.show(main, ...rest) },
  datasets: { title: "Datasets", docs: "concepts/dataset", show: (main, [name], ...rest) => name ? datasets.showOne(main, name, ...rest) : datasets.show(main, ...rest) },
  search: { title: "Search", docs: "guides/search", show: (main, _, ...rest) => search.show(main, ...rest) },
  sql: { title: "SQL", docs: "guides/sql", show: (main, _, ...rest) => sql.show(main, ...rest) },
};

const main = document.getElementById("main");
let leave = null;

function route() {
  leave?.abort();
  leave = new AbortController();
  const { signal } = leave;
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [first, ...rest] = path.split("/").map(part => { try { return decodeURIComponent(part); } catch { return part; } });
  const page = PAGES[first];
  document.title = `${page ? [...rest.filter(Boolean), page.title].join(" · ") : "Not found"} · Diptych`;
  document.getElementById("docs").href = page ? `/docs/${page.docs}` : "/docs";
  for (const link of document.querySelectorAll("#nav a")) {
    const here = link.getAttribute("href") === `#/${page?.nav ?? first}`;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    if (here) link.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  fill(main);
  window.scrollTo(0, 0);
  if (!page) return fill(main, h("h1", {}, "Page not found"), h("p", {}, h("a", { href: "#/" }, "Go to the overview")));
  Promise.resolve(page.show(main, rest, new URLSearchParams(query), signal)).catch(error => {
    if (!signal.aborted && error.name !== "AbortError") fill(main, problem(error, route));
  });
  // After a click, screen readers announce the new page through the focus. The first page leaves
  // the focus where the browser put it.
  if (route.moved) main.focus({ preventScroll: true });
  route.moved = true;
}

const GO = { n: "#/", h: "#/", r: "#/runs", j: "#/jobs", d: "#/datasets", s: "#/search", q: "#/sql" };
const KEYS = [
  ["g n", "overview"], ["g r", "runs"], ["g j", "jobs"], ["g d", "datasets"], ["g s", "search"], ["g q", "SQL"],
  ["/", "search, or this page's filter"], ["t", "light, dark or the system's theme"], ["?", "this help"], ["Esc", "close a dialog, leave a field"],
  ["Ctrl Enter", "run (SQL console)"],
];

let going = 0;
document.addEventListener("keydown", event => {
  const field = event.target.closest?.("input:not([type=checkbox]):not([type=range]), textarea, select");
  if (event.key === "Escape" && field) return field.blur();
  if (field || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const after = Date.now() - going < 1500;
  going = 0;
  if (after && GO[event.key]) location.hash = GO[event.key];
  else if (event.key === "g") going = Date.now();
  else if (event.key === "?") showHelp();
  else if (event.key === "t") turnTheme();
  else if (event.key === "/") {
    event.preventDefault();
    const here = main.querySelector("[data-search]");
    if (here) here.focus();
    else location.hash = "#/search";
  }
});

function showHelp() {
  dialog("Keyboard", h("table", { class: "keys" }, h("tbody", {}, KEYS.map(([keys, what]) =>
    h("tr", {}, h("th", { scope: "row" }, keys.split(" ").map(key => h("kbd", {}, key))), h("td", {}, what))))), [["Close", "", "main"]]);
}
document.getElementById("help").addEventListener("click", showHelp);
document.getElementById("skip").addEventListener("click", event => {
  event.preventDefault();
  main.focus();
});

const THEMES = ["", "light", "dark"];
const root = document.documentElement;
function turnTheme() {
  const next = THEMES[(THEMES.indexOf(root.dataset.theme ?? "") + 1) % THEMES.length];
  if (next) root.dataset.theme = next;
  else delete root.dataset.theme;
  try {
    if (next) localStorage.setItem("diptych.theme", next);
    else localStorage.removeItem("diptych.theme");
  } catch {
    // Storage may be forbidden; then the theme lasts until the page is closed.
  }
  nameTheme();
  tell("theme");
}
function nameTheme() {
  const name = { "": "Auto", light: "Light", dark: "Dark" }[root.dataset.theme ?? ""];
  fill(document.getElementById("theme"), name).title = `Theme: ${name} (t)`;
  document.getElementById("theme").setAttribute("aria-label", `Theme: ${name}. Change theme`);
}
document.getElementById("theme").addEventListener("click", turnTheme);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => tell("theme"));

const connectionBox = document.getElementById("connection");
function showConnection() {
  const { state, retryAt, error } = connection;
  connectionBox.dataset.state = state;
  if (state === "live") fill(connectionBox, "live").title = "Everything shown is up to date";
  else if (state === "connecting") fill(connectionBox, "connecting…");
  else {
    const seconds = Math.max(0, Math.round((retryAt - Date.now()) / 1000));
    fill(connectionBox, "no connection ", h("span", { "aria-hidden": "true" }, `${seconds} s `), h("button", { type: "button", class: "quiet", onclick: tryNow }, "Try now"))
      .title = error?.message ?? "The service closed the connection";
  }
}
on("connection", showConnection);
setInterval(() => { if (connection.state === "lost" && !connectionBox.contains(document.activeElement)) showConnection(); }, 1000);
// Retry everything that failed while the service could not be reached.
on("again", () => main.querySelectorAll("[data-again]").forEach(button => button.click()));

on("event", ({ run: name, kind, step, message }) => {
  const text = `${name}, step ${step}: ${eventName(kind)}. ${message}`;
  const log = document.getElementById("alarms");
  log.append(h("p", {}, text));
  while (log.childElementCount > 20) log.firstElementChild.remove();
  toast(text, "warn");
});

const signOut = document.getElementById("sign-out");
signOut.addEventListener("click", () => {
  token.set(null);
  location.reload();
});
const showSignOut = () => { signOut.hidden = !token.get(); };

onUnauthorized(async (words, refused) => {
  let given = "";
  while (!given) {
    const input = h("input", { type: "password", name: "token", autocomplete: "current-password", autofocus: true, required: true, placeholder: "dpt_…", spellcheck: "false" });
    await dialog("Sign in", h("div", { class: "stack" },
      h("p", {}, refused ? "The service does not accept this token." : "This service needs a token."),
      h("label", {}, "Token", input),
      h("p", { class: "pale" }, h("code", {}, "diptych token"), " makes one. This tab keeps it until it is closed."),
      h("p", { class: "unseen" }, words)), [["Sign in", "in", "main"]]);
    given = input.value.trim();
  }
  token.set(given);
  showSignOut();
});

nameTheme();
showSignOut();
showConnection();
window.addEventListener("hashchange", route);
route();
listen();
