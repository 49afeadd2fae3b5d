// The first steps for a state folder without runs: three commands with the paths of this machine.

import { h } from "./dom.js";
import { count } from "./format.js";

/** Quotes a word for a shell if necessary. */
const word = text => /^[\w./:@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;

export function firstSteps(status, datasets) {
  const folder = status.state.replace(/\/[^/]*$/, "") || "/";
  const [dataset] = datasets;
  const data = word(dataset?.path ?? `${folder}/data`);
  const train = word(`${folder}/train.parquet`);
  const config = word(`${folder}/run.toml`);
  const step = (title, done, ...content) => h("li", {}, h("b", {}, title), done && h("span", { class: "pale" }, ` ✓ ${done}`), content);
  const command = text => h("pre", { class: "command" }, h("code", {}, text));
  return h("div", { class: "card first" }, h("h2", {}, "Nothing has been trained here yet"),
    h("p", { class: "pale" }, `State folder ${status.state}`),
    h("ol", {},
      step("Read your pairs into a dataset", dataset && `${dataset.name}: ${count(dataset.pairs)} pairs`,
        command(`diptych ingest 'PICTURES/*.tar' --dataset ${data}`),
        h("p", { class: "pale" }, "Tar files, Parquet, folders of images, or lists as CSV or JSON Lines. ", h("code", {}, "diptych demo-data scenes"), " makes some to try.")),
      step("Choose pairs and train", null,
        command(`diptych select "SELECT uid FROM meta" --dataset ${data} --output ${train}\ndiptych config > ${config}\n`
          + (status.takes_jobs ? `diptych submit ${config} --state ${word(status.state)}` : `diptych train ${config}`)),
        h("p", { class: "pale" }, "Before you train, name the dataset and the selection in the configuration: ", h("code", {}, "data.dataset"), " and ", h("code", {}, "data.selection"), ".")),
      step("Watch it", null, command(`diptych ui ${word(folder)}`),
        h("p", { class: "pale" }, "This page shows the run while it trains: its loss and what it learns. Afterwards you can search with the model."))));
}
