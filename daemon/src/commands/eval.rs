//! `diptych eval`: retrieval and zero-shot classification on held-out pairs, each beside chance.

use anyhow::bail;
use diptych_pipeline::Selection;
use diptych_schemas::durable;
use diptych_trainer::evaluate::{RECALL_AT, Recall, Retrieval, ZeroShot};
use serde_json::json;

use crate::classification::Classification;
use crate::cli::EvalArgs;
use crate::encode::{EncodeSpec, encode_selection};
use crate::exit::Outcome;
use crate::models;
use crate::output::line;
use crate::retrieval::{distinct_captions, pair_retrieval};

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<Outcome> {
    let selection = Selection::read(&args.selection)?;
    let classification = match (&args.classes, &args.label_column) {
        (Some(classes), Some(label)) => {
            Some(Classification::read(&args.dataset.dataset, classes, label, args.templates.as_deref())?)
        }
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
    if let Some(classification) = &classification {
        let result = classification.of(&model, &encoded)?;
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
