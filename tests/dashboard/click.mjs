// A walk through the dashboard, with checks at each step. See run.sh.

import assert from "node:assert/strict";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { open } from "./browser.mjs";

const [folder, token] = process.argv.slice(2);
const RUN = "clicked";
const OTHER = "clicked-again";
const config = (name, lr, epochs) => `name = "${name}"
seed = 1

[data]
dataset = "${folder}/data"
selection = "${folder}/train.parquet"

[model]
config = "demo"

[train]
batch_size = 64
epochs = ${epochs}

[optimizer]
lr = ${lr}
warmup_steps = 20

[checkpoint]
every_steps = 50
keep_best = 1

[eval]
selection = "${folder}/heldout.parquet"
every_epochs = 1
`;
const MINUTES = 60_000;

async function until(what, ask, within) {
  const end = Date.now() + within;
  for (;;) {
    const answer = await ask();
    if (answer) return answer;
    assert(Date.now() < end, `${what}: not within ${within / 1000} s`);
    await new Promise(resolve => setTimeout(resolve, 200));
  }
}

const owner = join(folder, "state", "owner.json");
const address = await until("the daemon's address", () => existsSync(owner) && JSON.parse(readFileSync(owner, "utf8") || "{}").address, MINUTES);
const base = address.startsWith("http") ? address.replace(/\/$/, "") : `http://${address}`;
const step = what => console.log(`- ${what}`);
const { page, faults, go, shoot, looks, close } = await open(base, join(folder, "screenshots"));
const named = (role, name, exact = true) => page.getByRole(role, { name, exact });

step("signs in, after a wrong token");
await page.goto(`${base}/`);
await page.getByLabel("Token").fill("dpt_wrong");
await page.keyboard.press("Enter");
await page.getByText("does not accept this token").waitFor();
await page.getByLabel("Token").fill(token);
await page.keyboard.press("Enter");
await page.getByText(/Nothing (is running|has been trained here yet)/).waitFor();
await page.locator('#connection[data-state="live"]').waitFor();
await shoot("first");

step("is told what is wrong with a configuration, then submits one that is right");
await page.keyboard.press("g");
await page.keyboard.press("j");
await named("button", "New job").click();
await page.getByLabel("Configuration (TOML)").fill("[data]");
await named("button", "Submit").click();
await page.locator("form .problem").waitFor();
await page.getByLabel("Configuration (TOML)").fill(config(RUN, 1e-3, 2));
await named("button", "Submit").click();
await page.locator("tbody .state.running").waitFor();

step("sees it train: steps come by themselves");
await go("#/");
const shown = page.locator(".running small", { hasText: "step" }).first();
await shown.waitFor({ timeout: MINUTES });
const first = await shown.textContent();
await until("another step", async () => await shown.textContent() !== first, MINUTES);
await shoot("training");

step("looks at its charts while they grow, pauses it, goes on");
await go(`#/runs/${RUN}`);
const loss = page.locator("figure.chart").first();
await loss.locator("canvas").waitFor();
const last = loss.locator(".legend .value");
const before = await last.textContent();
await until("another loss in the legend", async () => await last.textContent() !== before, MINUTES);
await page.getByRole("button", { name: /^Pause job/ }).click();
await go("#/jobs");
await page.locator("tbody .state.paused").waitFor({ timeout: MINUTES });
await page.getByRole("button", { name: /^Resume job/ }).click();
await page.locator("tbody .state.running").waitFor({ timeout: MINUTES });
await page.locator("tbody .state.done").waitFor({ timeout: 8 * MINUTES });

step("trains another beside it, and compares the two");
await go("#/jobs?new");
await page.getByLabel("Configuration (TOML)").fill(config(OTHER, 3e-3, 1));
await named("button", "Submit").click();
await page.locator("tbody .state.running").waitFor({ timeout: MINUTES });
await go("#/jobs?state=running");
await go("#/jobs");
await page.getByRole("button", { name: /^Cancel job/ }).first().click();
await page.locator("dialog").waitFor();
await page.goBack();
await until("the question to go with its page", async () => await page.locator("dialog").count() === 0, MINUTES);
await go("#/jobs");
await until("the other run", async () => await page.locator("tbody .state.done").count() === 2, 5 * MINUTES);
await page.keyboard.press("Escape");
await go("#/runs");
await page.getByLabel(`Compare ${RUN}`, { exact: true }).check();
await page.getByLabel(`Compare ${OTHER}`, { exact: true }).check();
await named("button", "Compare 2").click();
await page.locator("figure.chart canvas").first().waitFor();
assert.equal(await page.locator("figure.chart").first().locator(".legend button").count(), 2, "a line a run");
const differs = page.locator("section", { hasText: "Differences in configuration" });
await differs.getByText("optimizer.lr").waitFor();
assert.equal(await differs.getByText("data.dataset").count(), 0);
assert(await differs.evaluate(node => Boolean(node.compareDocumentPosition(document.querySelector("figure.chart")) & Node.DOCUMENT_POSITION_FOLLOWING)), "differences come first");
assert.match(await page.locator("figure.chart", { hasText: "image→text recall@1" }).first().locator(".plot").getAttribute("aria-label"), /chance: 0\.00/);
assert.match(await page.locator("figure.chart").first().locator(".plot").getAttribute("aria-label"), /guessing: 4\.159/);

step("sorts the runs, by loss and by what evaluations gave");
await go("#/runs");
const column = async title => (await page.locator(`tbody td[data-title="${title}"]`).allInnerTexts()).map(text => Number(/[\d.]+/.exec(text)[0]));
await named("button", "Sort by Loss").click();
const losses = await column("Loss");
assert(losses.length === 2 && losses[0] <= losses[1], `${losses}`);
await named("button", "Sort by Loss").click();
assert.deepEqual(await column("Loss"), [...losses].reverse());
await page.getByLabel("Ranked by").selectOption("heldout/t2i_recall@10");
await named("button", "Sort by Best").click();
const best = await column("Best");
assert(best.length === 2 && best[0] >= best[1] && best[0] > 0, `${best}`);
assert.match(await page.locator('tbody td[data-title="Best"]').first().innerText(), /– .* · step \d/, "with its interval");
await go("#/");
await page.locator("section", { hasText: "Best results" }).locator("tbody tr").nth(1).waitFor();
const shownBest = (await page.locator("section", { hasText: "Best results" }).locator("tbody td b").allInnerTexts()).map(Number);
assert.deepEqual(shownBest, [...shownBest].sort((a, b) => b - a), "the best are the best");

step("reads a log");
await go("#/jobs");
await page.locator("tbody th a").last().click();
await page.locator("pre.log", { hasText: RUN }).waitFor();
await shoot("job");

step("zooms into a chart, finer and by keyboard, back, logarithmic, by time");
await go(`#/runs/${RUN}`);
await loss.locator("canvas").waitFor();
const box = await loss.locator(".u-over").boundingBox();
await page.mouse.move(box.x + box.width / 4, box.y + 40);
await page.mouse.down();
await page.mouse.move(box.x + box.width / 2, box.y + 60, { steps: 4 });
await page.mouse.up();
const [from, to] = [page.getByLabel("Zoom from"), page.getByLabel("Zoom to")];
const [low, high] = [Number(await from.inputValue()), Number(await to.inputValue())];
assert(low > 0 && low < high, `zoomed from ${low} to ${high}`);
await page.mouse.move(box.x + box.width / 2, box.y + 40);
assert.match(await loss.locator(".where").textContent(), /^step \d/);
await page.mouse.dblclick(box.x + box.width / 2, box.y + 40);
assert.equal(await from.inputValue(), "");
await from.fill("50");
await to.fill("100");
await to.press("Tab");
assert(await named("button", "Whole run").isEnabled());
await named("button", "Whole run").click();
await loss.getByRole("button", { name: /^log scale/ }).click();
await page.getByLabel("x axis").selectOption("time");
await shoot("logarithmic-by-time");
await page.getByLabel("x axis").selectOption("step");
await loss.getByRole("button", { name: /^log scale/ }).click();
assert.equal(await page.locator(".chip.good", { hasText: "best" }).count(), 1, "one checkpoint is the best");
assert(await page.locator("figure.chart", { hasText: "Held out" }).count() > 0, "held-out results have charts");

step("sees what it found for the same captions, evaluation by evaluation");
const evaluation = page.getByLabel("Evaluation", { exact: true });
await evaluation.waitFor();
assert.equal(await page.locator(".query").count(), 8);
assert.equal(await page.locator(".query .near li").count(), 40);
const captions = await page.locator(".query .wording").allInnerTexts();
const atLast = await page.locator("[aria-label=Evaluations] output").innerText();
await evaluation.focus();
await page.keyboard.press("Home");
const atFirst = await page.locator("[aria-label=Evaluations] output").innerText();
assert(atFirst !== atLast && atFirst.includes("1 of "), `${atFirst}, ${atLast}`);
assert.deepEqual(await page.locator(".query .wording").allInnerTexts(), captions, "the same captions");
await until("the pictures", () => page.locator(".query img").first().evaluate(image => image.naturalWidth > 0), MINUTES);
await page.locator(".query .pair").first().click();
await page.locator("dialog .facts dt", { hasText: "sha256" }).waitFor();
await page.keyboard.press("Escape");

step("looks at the data: samples by SQL, one of them large, a mistake explained");
await go("#/datasets/data");
await page.locator(".pair img").first().waitFor();
await page.locator('#main input[type="search"]').fill("format = 'nonsense'");
await named("button", "Show").click();
await page.getByText("No pair matches.").waitFor();
await page.locator('#main input[type="search"]').fill("nonsense = 1");
await named("button", "Show").click();
await page.locator(".problem", { hasText: "nonsense" }).waitFor();
await page.locator('#main input[type="search"]').fill("");
await named("button", "Show").click();
await page.locator(".pair").first().click();
await page.locator("dialog img").waitFor();
await until("the large image", () => page.locator("dialog img").evaluate(image => image.naturalWidth > 0), MINUTES);
await page.locator("dialog .facts dt", { hasText: "label" }).waitFor();
await shoot("pair");
const firstUid = await page.locator("dialog .facts dd code").first().innerText();
await page.keyboard.press("ArrowRight");
await until("the next pair", async () => await page.locator("dialog .facts dd code").first().innerText() !== firstUid, MINUTES);
await page.keyboard.press("ArrowLeft");
await until("the pair before", async () => await page.locator("dialog .facts dd code").first().innerText() === firstUid, MINUTES);
const [drawn, real] = await page.locator("dialog img").evaluate(image => [image.clientWidth, image.naturalWidth]);
assert(drawn <= real, `${real} pixels are shown as ${drawn}`);
await page.goBack();
await until("the dialog to go with its page", async () => await page.locator("dialog").count() === 0, MINUTES);

step("embeds the data where the search misses them, and searches");
await go(`#/search?model=${RUN}`);
await page.getByText("has not embedded the images").waitFor();
assert.equal(await page.locator(".problem").count(), 0, "that is no error");
await named("button", "Embed now").click();
await page.locator("dialog", { hasText: "at most, judging by the speed" }).waitFor();
await shoot("embed");
await named("button", "Embed").click();
await page.getByText("Enter words, drop an image here").waitFor({ timeout: 5 * MINUTES });
await go("#/search");
assert.equal(await page.getByLabel("with").inputValue(), RUN, "what can be searched comes first");
await page.getByLabel("Words to search for").fill("a red circle");
await page.keyboard.press("Enter");
await page.locator(".gallery .score").first().waitFor({ timeout: MINUTES });
const scores = (await page.locator(".gallery .score").allTextContents()).map(Number);
assert.deepEqual(scores, [...scores].sort((a, b) => b - a), "the best come first");
await page.locator(".pair").first().click();
await page.getByRole("link", { name: "Find images like this one" }).click();
await page.waitForFunction(() => location.hash.includes("uid="));
await page.locator(".gallery .score").first().waitFor({ timeout: MINUTES });

step("asks in SQL, is told of a mistake, takes the rows away");
await go("#/sql");
await page.getByLabel("SQL").fill("SELEC 1");
await page.keyboard.press("Control+Enter");
await page.locator(".problem").waitFor();
assert(!(await page.locator(".problem").innerText()).includes("Bad Request"));
await page.locator(".tables summary", { hasText: "metrics" }).click();
await page.getByLabel("SQL").fill("");
await page.locator(".tables details", { hasText: "metrics" }).getByRole("button", { name: "value", exact: true }).click();
assert.equal(await page.getByLabel("SQL").inputValue(), "value");
await page.getByLabel("SQL").fill(`SELECT max(step) AS steps FROM metrics WHERE run = '${RUN}' AND name = 'loss'`);
await page.keyboard.press("Control+Enter");
await page.locator("td.number", { hasText: /^\d+$/ }).waitFor();
const coming = page.waitForEvent("download");
await named("button", "CSV").click();
const csv = readFileSync(await (await coming).path(), "utf8");
assert.match(csv, /^steps\r\n\d+\r\n$/);

step("computes what it shows, beside values by hand");
assert.deepEqual(await page.evaluate(async () => {
  const [chart, format, compare, sql] = await Promise.all(["chart", "format", "compare", "sql"].map(name => import(`/assets/${name}.js`)));
  const scored = (step, metric, value) => ({ step, score: metric && { metric, value } });
  return {
    // Means with weights 1/2 and 1/2 · 1/2, divided by their sum: (1/2 · 3 + 1/4 · 0) / (3/4) = 2.
    smooth: chart.smooth([0, null, 3], 0.5),
    ticks: [chart.logTicks(0.5, 50), chart.logTicks(1.1, 1.6)],
    durations: [93784, 59.6, 0.42, 0].map(format.duration),
    bytes: [1023, 1536, 90.5 * 2 ** 20].map(format.bytes),
    best: [format.best([scored(1, "r", 0.1), scored(2, "r", 0.3), scored(3)]).step, format.best([scored(1, "loss", 2), scored(2, "loss", 3)]).step],
    types: ["Utf8", "LargeUtf8", "UInt32", "Float64", "FixedSizeBinary(16)", "List(non-null Float32)", "Timestamp(ms, \"UTC\")"].map(format.typeWords),
    metrics: ["heldout/i2t_recall@1", "eval/Held out: x", "loss"].map(format.metricWords),
    // Equal data under another path is not a difference; other data is.
    differ: [["a", "a"], ["a", "b"]].map(hashes => compare.differences(["data", "mine/data"].map((path, at) => ({ run: path, dataset_hash: hashes[at], config: `name = "${path}"\nstate = "${path}"\n[data]\ndataset = "${path}"\n` })))),
    guessing: [['[train]\nbatch_size = 64\n'], ['[train]\nbatch_size = 64\n[objective]\nloss = "siglip"\n'], ['[train]\nbatch_size = 64\n', '[train]\nbatch_size = 32\n']].map(compare.lossOfGuessing),
    curves: [[["a", "Int64"], ["b", "Float64"]], [["a", "Utf8"], ["b", "Float64"]]].map(columns => sql.plottable(columns.map(([name, type]) => ({ name, type })), [[1, 2], [3, null], [5, 6]])?.lines[0].ys ?? null),
    settings: [...compare.settings('a = 1\n[b]\nc = [\n  1,\n]\n[b.d]\ne = "x = y"\n')],
    csv: sql.csv([{ name: "a" }, { name: 'b"c' }], [[1, null], ["x,y", [2]]]),
  };
}), {
  smooth: [0, null, 2],
  ticks: [[0.5, 1, 2, 5, 10, 20, 50], [1.1, 1.2, 1.3, 1.4, 1.5, 1.6]],
  durations: ["1 d 2 h", "1 min", "420 ms", "0 s"],
  bytes: ["1023 B", "1.5 KiB", "90.5 MiB"],
  best: [2, 1],
  types: ["text", "text", "whole number", "number", "uid (16 bytes)", "list of numbers", "time"],
  metrics: ["Held out: image→text recall@1", "Evaluated: Held out: x", "loss"],
  differ: [[], ["data.dataset"]],
  guessing: [Math.log(64), null, null],
  curves: [[2, null, 6], null],
  settings: [["a", "1"], ["b.c", "[ 1, ]"], ["b.d.e", '"x = y"']],
  csv: 'a,"b""c"\r\n1,\r\n"x,y",[2]\r\n',
});

step("looks at every page in light, dark and on a phone");
const sql = encodeURIComponent("SELECT run, step, name, value FROM metrics WHERE name LIKE 'heldout/%' ORDER BY step, name LIMIT 30");
await looks({
  now: "#/", runs: "#/runs", run: `#/runs/${RUN}`, compare: `#/compare/${RUN},${OTHER}`, jobs: "#/jobs", job: "#/jobs/1", datasets: "#/datasets", dataset: "#/datasets/data",
  search: `#/search?dataset=data&model=${RUN}&text=a+red+circle`, sql: `#/sql?query=${sql}`, none: "#/runs/none",
});
await close();
assert.deepEqual(faults, []);
console.log("The dashboard works.");
