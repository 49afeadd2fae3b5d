//! Retrieval on held-out pairs while training, recorded like any other metric.

use std::path::Path;

use diptych_pipeline::Selection;
use diptych_schemas::SampleIndex;
use diptych_trainer::Encoder;
use diptych_trainer::evaluate::RECALL_AT;

use super::prepare::Prepared;
use crate::encode::{EncodeSpec, encode_selection};
use crate::models::Model;
use crate::retrieval::pair_retrieval;

/// Pairs encoded at a time.
const AT_ONCE: usize = 64;

/// Evaluates the weights as they are, and their moving average where there is one; records the recalls, and says them in lines.
pub(super) fn evaluate(run: &mut Prepared, cursor: SampleIndex) -> anyhow::Result<String> {
    let Some(path) = run.config.eval.selection.clone() else { return Ok(String::new()) };
    // The configuration was checked: where there is no single dataset, the evaluation names its own.
    let Some(dataset) = run.config.eval.dataset.clone().or_else(|| run.config.data.dataset.clone()) else {
        return Ok(String::new());
    };
    let selection = Selection::read(&path)?;
    let mut said = evaluate_one(run, run.trainer.encoder()?, ("heldout", "held out"), &dataset, &selection, cursor)?;
    if let Some(average) = run.trainer.average_encoder()? {
        said += "\n";
        said += &evaluate_one(run, average, ("heldout_ema", "held out, average of weights"), &dataset, &selection, cursor)?;
    }
    Ok(said)
}

fn evaluate_one(
    run: &Prepared,
    encoder: Encoder,
    (group, words): (&str, &str),
    dataset: &Path,
    selection: &Selection,
    cursor: SampleIndex,
) -> anyhow::Result<String> {
    let model = Model { encoder, tokenizer: run.tokenizer.clone(), path: dataset.to_owned() };
    let spec = EncodeSpec { batch_size: AT_ONCE, threads: run.config.loader.threads };
    let encoded = encode_selection(&model, dataset, selection, spec)?;
    let result = pair_retrieval(&encoded, model.encoder.dimension(), false)?;

    let mut values = Vec::new();
    for (direction, recall) in [("i2t", result.image_to_text), ("t2i", result.text_to_image)] {
        for (k, value) in RECALL_AT.iter().zip(recall) {
            values.push((format!("{group}/{direction}_recall@{k}"), value));
        }
    }
    values.push((format!("{group}/chance_i2t_recall@1"), result.chance_image_to_text[0]));
    run.metrics(run.record.step, cursor, values)?;
    let [r1, r5, r10] = result.image_to_text;
    let [t1, t5, t10] = result.text_to_image;
    Ok(format!(
        "{words}, {} pairs after step {}: image→text R@1 {r1:.3} R@5 {r5:.3} R@10 {r10:.3}, text→image {t1:.3} {t5:.3} {t10:.3} (chance {:.3})",
        result.images, run.record.step, result.chance_image_to_text[0]
    ))
}
