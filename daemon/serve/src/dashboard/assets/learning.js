// Results of a run's evaluations for a few fixed captions. A slider over the evaluations shows how
// the model learns.

import { all, of } from "./api.js";
import { fill, h } from "./dom.js";
import { count, plural } from "./format.js";
import { pairDialog, picture } from "./pictures.js";

/** Milliseconds for which each evaluation is shown during playback. */
const PLAYED_MS = 700;

/**
 * Draws into `box`. If nothing was recorded, `section` stays hidden. Returns a function that loads
 * the evaluations again.
 */
export function learning(section, box, run, signal) {
  let evaluations = [];
  let shown = 0;
  let following = true;
  let playing = null;

  const slider = h("input", { type: "range", min: 0, step: 1, "aria-label": "Evaluation", oninput: () => { stop(); show(Number(slider.value)); } });
  const where = h("output", {});
  const play = h("button", { type: "button", onclick: () => playing ? stop() : start() }, "Play");
  const rows = h("div", { class: "queries" });
  const note = h("p", { class: "pale" });
  fill(box, h("div", { class: "controls", role: "group", "aria-label": "Evaluations" }, slider, where, play), note, rows);
  signal.addEventListener("abort", stop);

  function stop() {
    clearInterval(playing);
    playing = null;
    play.textContent = "Play";
  }

  function start() {
    if (shown === evaluations.length - 1) show(0);
    play.textContent = "Stop";
    playing = setInterval(() => shown < evaluations.length - 1 ? show(shown + 1) : stop(), PLAYED_MS);
  }

  function show(at) {
    shown = Math.max(0, Math.min(at, evaluations.length - 1));
    following = shown === evaluations.length - 1;
    slider.value = String(shown);
    const { step, pairs, dataset, queries } = evaluations[shown];
    const first = queries.filter(query => query.own_rank === 1).length;
    const text = `after step ${count(step)}`;
    slider.setAttribute("aria-valuetext", text);
    where.textContent = `${text} · ${shown + 1} of ${evaluations.length}`;
    const near = queries.filter(query => query.found.some(found => found.correct)).length;
    note.textContent = `Of ${plural(queries.length, "caption")}, ${first} find their own image first among ${count(pairs)}, and ${near} among the first five.${dataset ? "" : " The images belong to a dataset that this service does not have."}`;
    fill(rows, queries.map(query => h("article", { class: "query" },
      h("div", { class: "asked" }, h("p", { class: "wording", dir: "auto" }, query.caption),
        h("small", { class: query.own_rank === 1 ? "good" : "pale" }, query.own_rank ? `own image at rank ${count(query.own_rank)}` : "")),
      h("ol", { class: "near" }, query.found.map((found, place) => h("li", { class: found.correct ? "correct" : "" }, image(query, found, place, dataset)))))));
  }

  function image(query, found, place, dataset) {
    const words = `${place + 1}: ${found.score.toFixed(3)}${found.correct ? ", right" : ""}`;
    const label = h("small", {}, found.score.toFixed(3), found.correct && h("b", { class: "good" }, " ✓"));
    if (!dataset) return h("span", { class: "frame", title: `uid ${found.uid}` }, label);
    const address = `/v1/datasets/${encodeURIComponent(dataset)}/images/${found.uid}?size=160`;
    const items = query.found.map(one => ({ uid: one.uid, score: one.score, image: address.replace(found.uid, one.uid) }));
    return h("button", { type: "button", class: "pair", "aria-label": words, onclick: () => pairDialog(items, place, dataset, signal) },
      h("span", { class: "frame" }, picture(address, "", signal)), label);
  }

  return async () => {
    let found;
    try {
      found = await all(of("runs", run, "sample-queries"), signal);
    } catch (error) {
      if (error.name === "AbortError" || signal.aborted) return;
      // Older services do not record any.
      found = [];
    }
    section.hidden = !found.length;
    const grew = found.length !== evaluations.length || found.at(-1)?.step !== evaluations.at(-1)?.step;
    evaluations = found;
    if (!found.length || !grew) return;
    slider.max = String(found.length - 1);
    play.hidden = slider.hidden = found.length < 2;
    // Stay at an older evaluation if the reader has chosen one.
    show(following ? found.length - 1 : shown);
  };
}
