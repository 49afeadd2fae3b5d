//! The main figures of a result by name, as recorded in a run's metrics.

use diptych_trainer::evaluate::{Predictions, RECALL_AT};

use crate::measure::TaskResult;

/// Returns the main figures of a task.
pub fn figures(result: &TaskResult) -> Vec<(String, f64)> {
    match result {
        TaskResult::Classes { name, draws, .. } => {
            let found = Predictions::pooled(draws).summary();
            [("top1", found.top1), ("top5", found.top5), ("mean_per_class", found.mean_per_class)]
                .map(|(figure, value)| (format!("{name}/{figure}"), value))
                .to_vec()
        }
        TaskResult::Labels { found, .. } => {
            vec![("multi_label/mean_average_precision".to_owned(), found.mean)]
        }
        TaskResult::Pairs { retrieval, .. } => {
            let of = |direction: &str, recall: [f64; 3]| {
                let named = RECALL_AT.iter().zip(recall);
                named
                    .map(|(k, value)| (format!("{direction}_recall@{k}"), value))
                    .collect::<Vec<_>>()
            };
            [of("i2t", retrieval.image_to_text), of("t2i", retrieval.text_to_image)].concat()
        }
    }
}
