//! Retrieval on held-out pairs while training, recorded like any other metric.

use diptych_pipeline::Selection;
use diptych_schemas::SampleIndex;
use diptych_trainer::evaluate::RECALL_AT;

use super::prepare::Prepared;
use crate::encode::{EncodeSpec, encode_selection};
use crate::models::Model;
use crate::retrieval::pair_retrieval;

/// Pairs encoded at a time.
const AT_ONCE: usize = 64;

/// Evaluates the weights as they are, records the recalls, and says them in a line.
pub(super) fn evaluate(run: &mut Prepared, cursor: SampleIndex) -> anyhow::Result<String> {
    let Some(path) = run.config.eval.selection.clone() else { return Ok(String::new()) };
    // The configuration was checked: where there is no single dataset, the evaluation names its own.
    let Some(dataset) = run.config.eval.dataset.clone().or_else(|| run.config.data.dataset.clone()) else {
        return Ok(String::new());
    };
    let selection = Selection::read(&path)?;
    let model = Model { encoder: run.trainer.encoder()?, tokenizer: run.tokenizer.clone(), path };
    let spec = EncodeSpec { batch_size: AT_ONCE, threads: run.config.loader.threads };
    let encoded = encode_selection(&model, &dataset, &selection, spec)?;
    let result = pair_retrieval(&encoded, model.encoder.dimension(), false)?;

    let mut values = Vec::new();
    for (direction, recall) in [("i2t", result.image_to_text), ("t2i", result.text_to_image)] {
        for (k, value) in RECALL_AT.iter().zip(recall) {
            values.push((format!("heldout/{direction}_recall@{k}"), value));
        }
    }
    values.push(("heldout/chance_i2t_recall@1".to_owned(), result.chance_image_to_text[0]));
    run.metrics(run.record.step, cursor, values)?;
    let [r1, r5, r10] = result.image_to_text;
    let [t1, t5, t10] = result.text_to_image;
    Ok(format!(
        "held out, {} pairs after step {}: image→text R@1 {r1:.3} R@5 {r5:.3} R@10 {r10:.3}, text→image {t1:.3} {t5:.3} {t10:.3} (chance {:.3})",
        result.images, run.record.step, result.chance_image_to_text[0]
    ))
}
