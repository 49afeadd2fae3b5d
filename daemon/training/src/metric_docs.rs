//! The names of a run's metrics with unit and meaning, for the reference.

/// A metric, or a family of metrics whose names have a part in capital letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricDoc {
    /// As recorded. `TERM`, `K`, `TASK`, `DATASET` and `FIGURE` stand for one or more words.
    pub name: &'static str,
    pub unit: &'static str,
    pub meaning: &'static str,
}

const fn doc(name: &'static str, unit: &'static str, meaning: &'static str) -> MetricDoc {
    MetricDoc { name, unit, meaning }
}

/// All metrics: of steps, of held-out pairs, of suites, of `diptych eval`.
pub const METRICS: [MetricDoc; 25] = [
    doc("loss", "", "Weighted sum of the objective's terms in this step"),
    doc("loss/TERM", "", "One term of the objective, if there are several"),
    doc("accuracy/TERM", "0 to 1", "Share of masked tokens that the model got right"),
    doc("lr", "", "Learning rate"),
    doc("grad_norm", "", "Norm of the gradient before clipping"),
    doc("logit_scale", "", "Factor of the logits after the step, of models that have one"),
    doc("samples_per_second", "samples/s", "Samples of this step by its time"),
    doc("data_wait_seconds", "s", "Time that the step waited for its batch"),
    doc("loss_scale", "", "Factor of fp16's gradients"),
    doc(
        "overflow",
        "0 or 1",
        "Whether fp16's gradients overflowed, so that the step changed no weights",
    ),
    doc("skipped_step", "1", "The step changed no weights, since loss or gradient was not finite"),
    doc("mfu", "0 to 1", "Share of the device's peak speed, if it is known"),
    doc(
        "heldout/i2t_recall@K",
        "0 to 1",
        "Share of held-out images whose caption is among the K nearest",
    ),
    doc(
        "heldout/t2i_recall@K",
        "0 to 1",
        "Share of held-out captions whose image is among the K nearest",
    ),
    doc("heldout/chance_i2t_recall@1", "0 to 1", "The recall of a model that guesses"),
    doc("heldout/pairs", "pairs", "Held-out pairs that were evaluated"),
    doc("heldout/loss", "", "Loss of the held-out pairs"),
    doc("heldout/loss/TERM", "", "One term of the objective on the held-out pairs"),
    doc(
        "heldout/accuracy/TERM",
        "0 to 1",
        "Share of masked tokens of held-out samples that the model got right",
    ),
    doc(
        "heldout/loss_batch_size",
        "pairs",
        "Batch size of that loss, if it differs from the run's",
    ),
    doc(
        "heldout/zero_shot_FIGURE",
        "0 to 1",
        "Zero-shot classification: top1, top5, mean_per_class, chance_top1",
    ),
    doc(
        "heldout_ema/FIGURE",
        "",
        "The figures of `heldout/`, of the moving average of the weights",
    ),
    doc("suite/TASK/FIGURE", "0 to 1", "A figure of a task of eval.suite"),
    doc("suite/FIGURE", "", "The suite itself: tasks that were evaluated, their average"),
    doc("eval/DATASET/FIGURE", "0 to 1", "A figure that `diptych eval` recorded"),
];

/// Returns whether a name is one of [`METRICS`].
pub fn is_documented(name: &str) -> bool {
    METRICS.iter().any(|doc| matches(doc.name, name))
}

/// Returns whether a name fits a pattern, whose words in capital letters stand for anything.
fn matches(pattern: &str, name: &str) -> bool {
    let start = pattern.find(|char: char| char.is_ascii_uppercase());
    let Some(start) = start else { return pattern == name };
    let (before, rest) = pattern.split_at(start);
    let rest = rest.trim_start_matches(|char: char| char.is_ascii_uppercase());
    let Some(tail) = name.strip_prefix(before).filter(|tail| !tail.is_empty()) else {
        return false;
    };
    rest.is_empty()
        || (1..tail.len()).any(|at| tail.is_char_boundary(at) && matches(rest, &tail[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::StepFigures;

    #[test]
    fn names_fit_their_patterns() {
        for name in
            ["loss", "loss/mlm", "heldout/i2t_recall@10", "suite/fashion/top1", "eval/a b/top1"]
        {
            assert!(is_documented(name), "{name}");
        }
        for name in ["los", "loss/", "heldout/i2t_recall@", "suite/", "other/top1"] {
            assert!(!is_documented(name), "{name}");
        }
    }

    #[test]
    fn every_metric_of_a_step_is_documented() {
        let figures = StepFigures {
            loss_scale: Some(1.0),
            mfu: Some(0.5),
            skipped: true,
            terms: [("loss/clip".to_owned(), 1.0), ("logit_scale".to_owned(), 1.0)].into(),
            ..StepFigures::default()
        };
        for (name, _) in figures.metrics() {
            assert!(is_documented(&name), "{name}");
        }
    }
}
