// Which result of a run is the best: the checkpoint that the run itself ranks first, or, where it keeps no best ones, its best evaluation.

import { all, get, of } from "./api.js";
import { best } from "./format.js";

/** checkpoint.best_metric's default. */
const METRIC = "heldout/i2t_recall@1";

export async function bestOf(run, signal) {
  const ranked = best(await all(of("runs", run, "checkpoints"), signal));
  if (ranked) return ranked;
  const { steps, series } = await get(`${of("runs", run, "metrics")}?${new URLSearchParams({ names: METRIC })}`, signal);
  return best((series[METRIC] ?? []).flatMap((value, index) => value === null ? [] : [{ step: steps[index], score: { metric: METRIC, value } }]));
}
