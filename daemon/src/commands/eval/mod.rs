//! `diptych eval`: how good a model is on held-out pairs, each figure beside chance and with its interval.

mod benchmark;
mod clip_benchmark;
mod compositional;
mod data;
mod measure;
mod record;
mod report;

use std::path::Path;

use anyhow::bail;
use diptych_schemas::durable;
use diptych_trainer::evaluate::Bootstrap;
use serde_json::json;

use crate::cli::{EvalArgs, ModelArgs, ResultFormat};
use crate::exit::Outcome;
use crate::models;
use crate::output::line;
use compositional::Test;
use data::EvalData;
use measure::{Measured, TaskResult, measure};

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<Outcome> {
    if let Some(images) = args.images.as_deref().filter(|_| !args.compositional.is_empty()) {
        return of_compositions(args, images);
    }
    let data = EvalData::read(args)?;
    let model = models::load(&args.model)?;
    let measured = measure(&model, &data, args)?;
    let path = model.path.clone();
    // One model in memory at a time.
    drop(model);
    let other = args.compare.as_ref().map(|name| compared(name, &data, args)).transpose()?;
    if other.as_ref().is_some_and(|(_, other)| other.uids != measured.uids) {
        bail!("--compare: the two models did not see the same pairs; run again when nothing else writes to the dataset");
    }

    let Measured { uids, distinct_captions, geometry, results } = &measured;
    line(format!("{}: {} pairs, {distinct_captions} different captions", data.name, uids.len()))?;
    let with = report::Context {
        classes: data.classification.as_ref().map_or(&[], |classification| classification.classes()),
        uids,
        groups: data.groups.as_ref(),
        bootstrap: Bootstrap { resamples: args.resamples, seed: args.seed, ..Bootstrap::default() },
    };
    let selection = args.selection.as_ref().or(args.benchmark.as_ref());
    let mut json = json!({ "model": path, "selection": selection, "pairs": uids.len() });
    if let Some((path, _)) = &other {
        json["compared_with"] = json!(path);
        line(format!("compared with {}", path.display()))?;
    }
    for (at, result) in results.iter().enumerate() {
        let beside: Option<&TaskResult> = other.as_ref().and_then(|(_, other)| other.results.get(at));
        let (name, figures) = report::report(result, beside, &with)?;
        json[name] = figures;
    }
    if json.get("retrieval").is_some() {
        json["retrieval"]["same_caption_counts"] = json!(!args.strict_pairs);
    }
    if let Some(geometry) = geometry {
        json["geometry"] = report::geometry(geometry)?;
    }
    record::record(&args.model.run_on.state, &path, &data.name, results.iter().flat_map(record::figures).collect())?;
    if let Some(path) = &args.json {
        durable::write(path, format!("{json:#}\n").as_bytes())?;
    }
    if let Some(ResultFormat::ClipBenchmark) = args.output_format {
        let named = clip_benchmark::Named { dataset: &data.name, is_benchmark: args.benchmark.is_some(), model: path };
        for result in results {
            line(clip_benchmark::write(&args.output, &named, result)?.display().to_string())?;
        }
    }
    Ok(Outcome::Done)
}

fn of_compositions(args: &EvalArgs, images: &Path) -> anyhow::Result<Outcome> {
    let tests: Vec<Test> = args.compositional.iter().map(|file| Test::read(file, images)).collect::<anyhow::Result<_>>()?;
    let model = models::load(&args.model)?;
    let bootstrap = Bootstrap { resamples: args.resamples, seed: args.seed, ..Bootstrap::default() };
    let tested = compositional::run(&model, &tests, bootstrap)?;
    let mut json = json!({ "model": model.path });
    for test in tested {
        let figures = test.figures.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        record::record(&args.model.run_on.state, &model.path, &test.name, figures)?;
        json[test.name] = test.json;
    }
    if let Some(path) = &args.json {
        durable::write(path, format!("{json:#}\n").as_bytes())?;
    }
    Ok(Outcome::Done)
}

/// A second model's answers, and where its weights lie.
fn compared(name: &str, data: &EvalData, args: &EvalArgs) -> anyhow::Result<(std::path::PathBuf, Measured)> {
    let model = models::load(&ModelArgs { model: name.to_owned(), ema: false, ..args.model.clone() })?;
    let measured = measure(&model, data, args)?;
    Ok((model.path, measured))
}
