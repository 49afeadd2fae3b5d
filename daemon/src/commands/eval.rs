//! `diptych eval`: how good a model is on held-out pairs, each figure beside chance and with its interval.

mod benchmark;
mod clip_benchmark;
mod compositional;
mod data;
mod measure;
mod record;
mod report;
mod suite;
mod towers;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use diptych_schemas::durable;
use serde_json::{Value, json};

use diptych_cli::{EvalArgs, ModelArgs, ResultFormat};
use diptych_embeddings::files::EmbeddingFiles;
use diptych_schemas::outcome::Outcome;
use diptych_embeddings::models::{self, Model};
use crate::output::line;
use compositional::Test;
use data::EvalData;
use measure::{Measured, Measuring, TaskResult, measure};
pub(crate) use suite::Suite;
use towers::{Kept, Towers};

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<Outcome> {
    let json = if let Some(path) = &args.suite {
        of_suite(args, path)?
    } else if let Some(images) = args.images.as_deref().filter(|_| !args.compositional.is_empty()) {
        of_compositions(args, images)?
    } else {
        of_pairs(args)?
    };
    if let Some(path) = &args.json {
        durable::write(path, format!("{json:#}\n").as_bytes())?;
    }
    Ok(Outcome::Done)
}

fn of_pairs(args: &EvalArgs) -> anyhow::Result<Value> {
    let state = &args.model.run_on.state;
    let other = compared(args)?;
    let data = EvalData::read(&args.on, state)?;
    let answers = |name: &ModelArgs| {
        with_towers(name, args, |towers, path| {
            let measured = measure(towers, &data, measuring(args, &|| true))?.context("the evaluation did not go on")?;
            Ok((path.to_owned(), measured))
        })
    };
    // One model in memory at a time.
    let (path, measured) = answers(&args.model)?;
    let other = other.map(|name| answers(&name)).transpose()?;
    if other.as_ref().is_some_and(|(_, other)| other.uids != measured.uids) {
        bail!(
            "--compare: the two models did not see the same pairs; run again when nothing else writes to the dataset, and see that files of embeddings have all pairs"
        );
    }

    let Measured { uids, distinct_captions, geometry, results } = &measured;
    line(format!("{}: {} pairs, {distinct_captions} different captions", data.name, uids.len()))?;
    let with = report::Context {
        classes: data.classification.as_ref().map_or(&[], |classification| classification.classes()),
        uids,
        groups: data.groups.as_ref(),
        bootstrap: args.how.bootstrap(),
    };
    let selection = args.on.selection.as_ref().or(args.on.benchmark.as_ref());
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
        json["retrieval"]["same_caption_counts"] = json!(!args.on.strict_pairs);
    }
    if let Some(geometry) = geometry {
        json["geometry"] = report::geometry(geometry)?;
    }
    record::record(state, &path, &data.name, results.iter().flat_map(record::figures).collect())?;
    if let Some(ResultFormat::ClipBenchmark) = args.output_format {
        let named = clip_benchmark::Named { dataset: &data.name, is_benchmark: args.on.benchmark.is_some(), model: path };
        for result in results {
            line(clip_benchmark::write(&args.output, &named, result)?.display().to_string())?;
        }
    }
    Ok(json)
}

fn of_suite(args: &EvalArgs, path: &Path) -> anyhow::Result<Value> {
    let other = compared(args)?;
    let suite = Suite::read(path, &args.model.run_on.state)?;
    let began = Instant::now();
    let most = args.max_seconds.map(Duration::try_from_secs_f64).transpose().context("--max-seconds")?;
    let go_on = || most.is_none_or(|most| began.elapsed() < most);
    let scored = |name: &ModelArgs| {
        with_towers(name, args, |towers, path| Ok((path.to_owned(), suite.run(towers, measuring(args, &go_on))?)))
    };
    let (model, own) = scored(&args.model)?;
    let other = other.map(|name| scored(&name)).transpose()?;
    let mut json = own.report(&suite.name, other.as_ref().map(|(_, scored)| scored))?;
    json["model"] = json!(model);
    if let Some((path, _)) = &other {
        json["compared_with"] = json!(path);
    }
    record::record(&args.model.run_on.state, &model, &suite.name, own.figures())?;
    Ok(json)
}

fn of_compositions(args: &EvalArgs, images: &Path) -> anyhow::Result<Value> {
    let tests: Vec<Test> = args.compositional.iter().map(|file| Test::read(file, images)).collect::<anyhow::Result<_>>()?;
    let model = models::load(&args.model)?;
    let mut json = json!({ "model": model.path });
    for tested in compositional::run(&model, &tests.iter().collect::<Vec<_>>())? {
        json[tested.name()] = tested.report(args.how.bootstrap())?;
        record::record(&args.model.run_on.state, &model.path, tested.name(), tested.figures())?;
    }
    Ok(json)
}

fn measuring<'a>(args: &'a EvalArgs, go_on: &'a dyn Fn() -> bool) -> Measuring<'a> {
    Measuring { how: &args.how, threads: args.model.run_on.threads, go_on }
}

/// The second model. That it is there is seen before the first one is evaluated.
fn compared(args: &EvalArgs) -> anyhow::Result<Option<ModelArgs>> {
    let Some(name) = &args.compare else { return Ok(None) };
    let other = ModelArgs { model: name.clone(), ema: false, ..args.model.clone() };
    if !EmbeddingFiles::are_at(Path::new(name)) {
        models::resolve(&other).context("--compare")?;
    }
    Ok(Some(other))
}

/// Loads a model, or embeddings, and says where they lie.
fn with_towers<T>(
    name: &ModelArgs,
    args: &EvalArgs,
    run: impl FnOnce(&Towers<'_>, &Path) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let path = PathBuf::from(&name.model);
    if EmbeddingFiles::are_at(&path) {
        return run(&Towers::Files(&EmbeddingFiles::read(&path)?), &path);
    }
    let model: Model = models::load(name)?;
    // A model from elsewhere may be evaluated where there is no state folder, or one that cannot be written.
    let state = &name.run_on.state;
    let kept = if args.no_cache || !state.is_dir() { None } else { Kept::open(state, &model) };
    run(&Towers::Model { model: &model, kept }, &model.path)
}
