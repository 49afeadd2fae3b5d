//! Results in CLIP_benchmark's format: one JSON file per task with its keys and names.
//!
//! So `clip_benchmark build` can put our results and others into one table.

use std::path::{Path, PathBuf};

use diptych_schemas::durable;
use diptych_trainer::evaluate::{Predictions, RECALL_AT};
use serde_json::{Value, json};

use super::measure::TaskResult;

/// Fewest classes for which top-5 is meaningful, as in CLIP_benchmark.
const CLASSES_FOR_TOP5: usize = 5;

/// The names in the files.
pub struct Named<'a> {
    pub dataset: &'a str,
    /// Whether the dataset is a folder in its WebDataset layout, which it calls `wds/NAME`.
    pub is_benchmark: bool,
    pub model: PathBuf,
}

/// Writes a result's file. Returns its path.
pub fn write(folder: &Path, named: &Named<'_>, result: &TaskResult) -> anyhow::Result<PathBuf> {
    let (task, metrics) = metrics(result);
    // In CLIP_benchmark `model` is an architecture and `pretrained` its weights. Here they are a
    // run and its step, or a folder and its parent.
    let part = |path: Option<&Path>| {
        path.and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned())
    };
    let pretrained = part(Some(&named.model)).unwrap_or_else(|| "model".to_owned());
    let model = part(named.model.parent()).unwrap_or_else(|| pretrained.clone());
    let dataset = if named.is_benchmark {
        format!("wds/{}", named.dataset)
    } else {
        named.dataset.to_owned()
    };
    let name = format!("{}_{pretrained}_{model}_en_{task}.json", named.dataset.replace('/', "_"));
    let path = folder.join(name);
    let content = json!({
        "dataset": dataset, "model": model, "pretrained": pretrained, "task": task,
        "metrics": metrics, "language": "en",
    });
    std::fs::create_dir_all(folder).map_err(diptych_schemas::SchemaError::io(folder))?;
    durable::write(&path, format!("{content}\n").as_bytes())?;
    Ok(path)
}

/// Returns CLIP_benchmark's name of the task, and its figures.
fn metrics(result: &TaskResult) -> (String, Value) {
    match result {
        TaskResult::Pairs { retrieval, .. } => {
            let mut metrics = serde_json::Map::new();
            for (at, k) in RECALL_AT.iter().enumerate() {
                // The name begins with what is retrieved.
                metrics.insert(
                    format!("image_retrieval_recall@{k}"),
                    json!(retrieval.text_to_image[at]),
                );
                metrics.insert(
                    format!("text_retrieval_recall@{k}"),
                    json!(retrieval.image_to_text[at]),
                );
            }
            ("zeroshot_retrieval".to_owned(), Value::Object(metrics))
        }
        TaskResult::Labels { found, .. } => {
            // In CLIP_benchmark a class without images counts as 0.
            let sum: f64 = found.per_class.iter().flatten().sum();
            let mean = sum / found.per_class.len() as f64;
            ("zeroshot_classification".to_owned(), json!({ "mean_average_precision": mean }))
        }
        TaskResult::Classes { name, draws, details } => {
            let found = Predictions::pooled(draws).summary();
            let top5 = (found.classes >= CLASSES_FOR_TOP5).then_some(found.top5);
            match name.as_str() {
                "zero_shot" => (
                    "zeroshot_classification".to_owned(),
                    json!({ "acc1": found.top1, "acc5": top5,
                    "mean_per_class_recall": found.mean_per_class }),
                ),
                name => {
                    let shots = details["shots"].as_i64().unwrap_or(-1);
                    let task = if name.starts_with("few_shot") {
                        format!("linear_probe_{shots}_shot")
                    } else {
                        name.to_owned()
                    };
                    let metrics = json!({
                        "lp_acc1": found.top1, "lp_acc5": top5,
                        "lp_mean_per_class_recall": found.mean_per_class,
                        "fewshot_k": shots, "normalized": true,
                    });
                    (task, metrics)
                }
            }
        }
    }
}
