//! `diptych eval`: retrieval and zero-shot classification on held-out pairs, each beside chance.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, bail};
use arrow::array::AsArray;
use diptych_pipeline::Selection;
use diptych_pipeline::sql::query;
use diptych_schemas::{SchemaError, Uid, column, durable};
use diptych_trainer::evaluate::{RECALL_AT, Recall, Retrieval, Rows, ZeroShot, ensemble, zero_shot};
use serde_json::json;

use crate::cli::EvalArgs;
use crate::commands::sql::with_session;
use crate::encode::{EncodeSpec, Encoded, encode_selection};
use crate::exit::Outcome;
use crate::models::{self, Model};
use crate::output::line;
use crate::retrieval::{distinct_captions, pair_retrieval};

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<Outcome> {
    let selection = Selection::read(&args.selection)?;
    let classes = args.classes.as_deref().map(read_lines).transpose()?;
    let templates = args.templates.as_deref().map(read_lines).transpose()?;
    if let (Some(templates), Some(path)) = (&templates, &args.templates)
        && let Some(bad) = templates.iter().position(|template| !template.contains("{}"))
    {
        bail!("{}, line {}: a prompt needs {{}} where the class name goes", path.display(), bad + 1);
    }
    let truth = match (&classes, &args.label_column) {
        (Some(classes), Some(label)) => Some(read_labels(&args.dataset.dataset, label, classes)?),
        _ => None,
    };

    let model = models::load(&args.model)?;
    let spec = EncodeSpec { batch_size: args.batch_size.max(1), threads: args.model.run_on.threads };
    let encoded = encode_selection(&model, &args.dataset.dataset, &selection, spec)?;
    if encoded.uids.is_empty() {
        bail!("{}: none of its {} images could be decoded", args.selection.display(), selection.len());
    }
    line(format!(
        "{}: {} pairs, {} different captions",
        args.selection.display(),
        encoded.uids.len(),
        distinct_captions(&encoded)
    ))?;

    let mut report = json!({ "model": model.path, "selection": args.selection, "pairs": encoded.uids.len() });
    if let (Some(classes), Some(truth)) = (&classes, &truth) {
        let templates = templates.unwrap_or_else(|| vec!["{}".to_owned()]);
        let result = classify(&model, &encoded, classes, &templates, truth)?;
        print_zero_shot(&result)?;
        report["zero_shot"] = json!({
            "classes": result.classes, "top1": result.top1, "top5": result.top5, "mean_per_class": result.mean_per_class,
            "chance_top1": result.chance_top1, "chance_top5": result.chance_top5,
        });
    }
    let result = pair_retrieval(&encoded, model.encoder.dimension(), args.strict_pairs)?;
    print_retrieval(&result)?;
    report["retrieval"] = json!({
        "recall_at": RECALL_AT, "image_to_text": result.image_to_text, "text_to_image": result.text_to_image,
        "chance_image_to_text": result.chance_image_to_text, "chance_text_to_image": result.chance_text_to_image,
        "same_caption_counts": !args.strict_pairs,
    });
    if let Some(path) = &args.json {
        durable::write(path, format!("{report:#}\n").as_bytes())?;
    }
    Ok(Outcome::Done)
}

/// Lines that are not empty.
fn read_lines(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(path).map_err(SchemaError::io(path))?;
    let lines: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if lines.is_empty() {
        bail!("{}: it has no lines", path.display());
    }
    Ok(lines)
}

/// The class number of each pair of the dataset that has a label: from a column with class names, or with their numbers.
fn read_labels(dataset: &Path, label_column: &str, classes: &[String]) -> anyhow::Result<HashMap<Uid, Label>> {
    let quoted = label_column.replace('"', "\"\"");
    let sql = format!("SELECT {}, CAST(\"{quoted}\" AS VARCHAR) FROM meta WHERE \"{quoted}\" IS NOT NULL", column::UID);
    let numbers: HashMap<&str, usize> = classes.iter().map(String::as_str).zip(0..).collect();
    let named = |label: &str| {
        let number = || label.parse().ok().filter(|number| *number < classes.len());
        numbers.get(label).copied().or_else(number).ok_or_else(|| label.to_owned())
    };
    with_session(Some(dataset), None, async |context| {
        let mut labels = HashMap::new();
        let mut rows = query(&context, &sql).await.with_context(|| format!("--label-column {label_column}"))?;
        while let Some(batch) = rows.next().await? {
            let uids = batch.column(0).as_fixed_size_binary();
            let texts = batch.column(1).as_string::<i32>();
            for row in 0..batch.num_rows() {
                labels.insert(Uid::try_from(uids.value(row))?, named(texts.value(row)));
            }
        }
        Ok(labels)
    })
}

/// A class number, or a label that is no class.
type Label = Result<usize, String>;

fn classify(
    model: &Model,
    encoded: &Encoded,
    classes: &[String],
    templates: &[String],
    truth: &HashMap<Uid, Label>,
) -> anyhow::Result<ZeroShot> {
    let labels = encoded.uids.iter().map(|uid| match truth.get(uid) {
        Some(Ok(class)) => Ok(*class),
        Some(Err(label)) => bail!("pair {uid} has the label {label:?}, which is not in the list of classes: add it, or leave those pairs out of the selection"),
        None => bail!("pair {uid} has no label: leave those pairs out of the selection"),
    });
    let labels = labels.collect::<anyhow::Result<Vec<usize>>>()?;
    let dimension = model.encoder.dimension();
    let mut class_rows = Vec::with_capacity(classes.len() * dimension);
    for class in classes {
        let prompts: Vec<String> = templates.iter().map(|template| template.replace("{}", class)).collect();
        class_rows.extend(ensemble(Rows { values: &model.encode_texts(&prompts)?, dimension })?);
    }
    Ok(zero_shot(Rows { values: &encoded.images, dimension }, &labels, Rows { values: &class_rows, dimension })?)
}

fn print_zero_shot(result: &ZeroShot) -> anyhow::Result<()> {
    line(format!("\nzero-shot, {} classes      top-1   top-5   mean per class", result.classes))?;
    line(format!("  model                   {:>6.3}  {:>6.3}  {:>6.3}", result.top1, result.top5, result.mean_per_class))?;
    line(format!(
        "  chance                  {:>6.3}  {:>6.3}  {:>6.3}",
        result.chance_top1, result.chance_top5, result.chance_top1
    ))?;
    Ok(())
}

fn print_retrieval(result: &Retrieval) -> anyhow::Result<()> {
    let header: String = RECALL_AT.map(|k| format!("{:>8}", format!("R@{k}"))).concat();
    line(format!("\nretrieval, {} pairs    {header}", result.images))?;
    let row = |name: &str, recall: Recall| {
        let values: String = recall.map(|value| format!("{value:>8.3}")).concat();
        line(format!("  {name:<22}{values}"))
    };
    row("image to text", result.image_to_text)?;
    row("  chance", result.chance_image_to_text)?;
    row("text to image", result.text_to_image)?;
    row("  chance", result.chance_text_to_image)?;
    Ok(())
}
