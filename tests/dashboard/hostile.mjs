// Captions and names of files, columns and metrics that try to become markup, scripts or addresses,
// or to reverse the page's text. `make` writes them as data to ingest. `visit` opens every page
// that shows them. None of them may run, become an element, or widen the page.

import assert from "node:assert/strict";
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { open } from "./browser.mjs";

const [what, folder, token] = process.argv.slice(2);

const RUNS = "window.hacked = 1";
const HOSTILE = [
  `<script>${RUNS}</script>`, `<img src=x onerror="${RUNS}">`, `"><svg onload=${RUNS}>`, `'\` onmouseover='${RUNS}' autofocus onfocus='${RUNS}' x='`,
  `<a href="javascript:${RUNS}">click</a>`, `javascript:${RUNS}`, `data:text/html,<script>${RUNS}</script>`, `<iframe srcdoc="<script>parent.hacked=1</script>"></iframe>`,
  `</style><style>*{display:none}</style>`, `</textarea></pre></td></table><h1>gone</h1>`, `<form action="https://example.invalid"><input name=a autofocus></form>`,
  `{{constructor.constructor('${RUNS}')()}}`, "\u202Egnp.exe\u202C \u2066isolate\u2069 \u200Fright to left", "\u0007\u001b[31mred\u001b[0m\u001b]0;title\u0007\u0008\u0085",
  `\u0000null`, `=HYPERLINK("https://example.invalid","x")`, "𝕏".repeat(200), `unbroken${"x".repeat(100_000)}`, `${"long words ".repeat(9_000)}<script>${RUNS}</script>`,
  `&lt;script&gt;${RUNS}&lt;/script&gt; &#x3C;b&#x3E;`, `'; DROP TABLE meta; --`, "%3Cscript%3E", "../../etc/passwd",
];
/**
 * Versions for the names of files, columns and metrics, without characters that these cannot hold.
 */
const named = HOSTILE.filter(text => text.length < 150).map(text => text.replaceAll(/[/\u0000-\u001f\u0085]/g, "_"));

function make() {
  const from = join(folder, "scenes", "folder");
  const image = readdirSync(from, { recursive: true }).map(name => join(from, name)).find(name => /\.(png|jpe?g)$/.test(name));
  const to = join(folder, "hostile-files");
  mkdirSync(to, { recursive: true });
  const lines = HOSTILE.map((text, index) => {
    const file = `${named[index % named.length].slice(0, 60)}-${index}.${image.split(".").at(-1)}`;
    cpSync(image, join(to, file));
    return JSON.stringify({ file_name: file, text, label: text.slice(0, 500), [named[0]]: named[index % named.length], [`"quoted" ${named[1]}`]: index });
  });
  // Refused inputs reach the ledger under their names.
  lines.push(...named.map(name => JSON.stringify({ file_name: `missing ${name}`, text: "a caption" })));
  writeFileSync(join(to, "metadata.jsonl"), `${lines.join("\n")}\n`);
}

/** Returns everything in the page that the page itself did not write. */
const foreign = page => page.evaluate(() => ({
  hacked: window.hacked ?? null,
  made: [...document.querySelectorAll("script:not([src]), iframe, object, embed, base, form[action], style, [onerror], [onload], [onfocus], [onmouseover], a[href^='javascript'], a[href^='data'], img[src='x'], h1:not(main h1):not(body > * h1)")]
    .map(node => node.outerHTML.slice(0, 200)),
  wide: document.documentElement.scrollWidth - innerWidth,
}));

async function visit() {
  const owner = JSON.parse(readFileSync(join(folder, "state", "owner.json"), "utf8"));
  const base = owner.address.startsWith("http") ? owner.address.replace(/\/$/, "") : `http://${owner.address}`;
  const api = async (method, path, body) => {
    const response = await fetch(base + path, { method, headers: { Authorization: `Bearer ${token}`, "Content-Type": "application/json" }, body: body && JSON.stringify(body) });
    return { status: response.status, json: await response.json().catch(() => null) };
  };
  const { json: { items: [run] } } = await api("GET", "/v1/runs");
  const { json: { items: checkpoints } } = await api("GET", `/v1/runs/${run.run}/checkpoints`);
  const step = checkpoints.at(-1).step;
  for (const at of [0, 1]) {
    const values = Object.fromEntries(named.map((name, index) => [`eval/${name}`, (index + at) / 100]));
    assert.equal((await api("POST", `/v1/runs/${run.run}/metrics`, { step: checkpoints.at(-1 - at)?.step ?? step, values })).status, 204);
  }
  // Jobs that fail, or cannot be submitted, with such words in them.
  for (const text of named.slice(0, 8)) await api("POST", "/v1/jobs", { kind: "score", args: ["blur", "--dataset", text] });
  const { status, json } = await api("POST", "/v1/jobs", { kind: "train", config: `name = "${named[0]}"` });
  assert(status === 400 && json.detail, "a hostile name of a run is refused");

  const { page, faults, go, shoot, close } = await open(base, join(folder, "screenshots"));
  page.on("dialog", dialog => { faults.push(`a dialog of the browser: ${dialog.message()}`); dialog.dismiss(); });
  await page.addInitScript(token => sessionStorage.setItem("diptych.token", JSON.stringify(token)), token);
  await page.goto(`${base}/`);
  const sql = (query, dataset) => `#/sql?${new URLSearchParams({ dataset, query })}`;
  const pages = {
    now: "#/", runs: "#/runs", run: `#/runs/${run.run}`, jobs: "#/jobs", "job-new": "#/jobs?new", datasets: "#/datasets", dataset: "#/datasets/hostile",
    search: "#/search?dataset=hostile&text=" + encodeURIComponent(HOSTILE[0]), meta: sql("SELECT * FROM meta", "hostile"), ledger: sql("SELECT * FROM ledger", "hostile"),
    error: sql(HOSTILE[1], "hostile"), literal: sql(`SELECT '${HOSTILE[1]}' AS "${named[2].replaceAll('"', "")}", 1 AS "<b>bold</b>"`, "hostile"),
    none: `#/${encodeURIComponent(HOSTILE[0])}`, "no-run": `#/runs/${encodeURIComponent(HOSTILE[1])}`, "no-job": `#/jobs/${encodeURIComponent(HOSTILE[2])}`,
    "no-dataset": `#/datasets/${encodeURIComponent(HOSTILE[4])}`, compare: `#/compare/${run.run},${encodeURIComponent("<b>x</b>")}`, script: "#javascript:window.hacked=1",
  };
  const seen = [];
  for (const [width, height] of [[1360, 900], [390, 844]]) {
    await page.setViewportSize({ width, height });
    for (const [name, hash] of Object.entries(pages)) {
      await go(hash);
      const found = await foreign(page);
      assert.equal(found.hacked, null, `${name}: something ran`);
      assert.deepEqual(found.made, [], `${name}: text became markup`);
      if (found.wide > 0) faults.push(`${name} is ${found.wide} pixels too wide for ${width}`);
      seen.push(await page.locator("#main").innerText());
      if (name === "dataset") {
        for (let pair = 0; pair < await page.locator(".pair").count(); pair += 6) {
          await page.locator(".pair").nth(pair).click();
          await page.locator("dialog .facts dt", { hasText: "label" }).waitFor();
          const dialog = await foreign(page);
          assert.deepEqual([dialog.hacked, dialog.made], [null, []], "a pair's dialog");
          await page.keyboard.press("Escape");
        }
        // A mouse over everything, and every handler that something may have smuggled in.
        for (const box of await page.locator(".pair").all()) await box.hover();
      }
      await shoot(`hostile-${name}-${width}`);
    }
  }
  const text = seen.join("\n");
  for (const words of [HOSTILE[0], HOSTILE[1], "<b>bold</b>"]) assert(text.includes(words), `${words} is shown as the text that it is`);
  assert.equal((await foreign(page)).hacked, null);

  // Pages of files, which stand alone.
  const ofService = faults.splice(0);
  for (const file of ["hostile-profile.html", "hostile-report.html"].map(name => join(folder, name)).filter(existsSync)) {
    await page.goto(pathToFileURL(file).href);
    const found = await page.evaluate(() => ({ hacked: window.hacked ?? null, made: document.querySelectorAll("script, iframe, object, [onerror], [onload], a[href^='javascript']").length }));
    assert.deepEqual(found, { hacked: null, made: 0 }, file);
    assert.deepEqual(faults.splice(0).filter(fault => !fault.includes("asked another host: file:")), [], file);
    await shoot(file.split("/").pop().replace(".html", ""));
  }
  await close();
  assert.deepEqual(ofService, []);
  console.log("Nothing hostile ran.");
}

if (what === "make") make();
else await visit();
