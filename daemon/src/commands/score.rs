//! `diptych score`: adds columns of scores to a dataset.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use diptych_cli::{ScoreArgs, ScoreKindArg};
use diptych_embeddings::encode::encode;
use diptych_embeddings::models::{self, Model};
use diptych_embeddings::pairs::chosen_part;
use diptych_pipeline::scores::{
    ClusterRequest, ModelSpec, Producer, ScoreKind, ScoreReport, ScoreRequest, assign_clusters,
    score,
};
use diptych_pipeline::{Batch, Matrix, Tokenizer, read_matrix};
use diptych_schemas::DatasetManifest;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::thousands;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{bars, line};
use crate::signals::{self, Ending};

pub(crate) fn run(args: &ScoreArgs) -> anyhow::Result<Outcome> {
    let kinds = kinds(args)?;
    let selection = chosen_part(&args.dataset.dataset, &args.pairs.choice())?;
    let pairs = match &selection {
        Some(selection) => selection.len() as u64,
        None => DatasetManifest::read(&args.dataset.dataset)?.pairs,
    };
    let centroids = centroids(args)?;
    let model = model(args)?;
    let tokenizer = match &model {
        Some(model) => Arc::clone(&model.tokenizer),
        None => Arc::new(Tokenizer::clip()?),
    };
    let stop = signals::watch(Ending::InOrder("what was computed is written"))?;
    let flag = stop.flag();
    let request = ScoreRequest {
        dataset: &args.dataset.dataset,
        selection: selection.as_ref(),
        kinds,
        model: model.as_ref().map(model_spec).transpose()?,
        tokenizer,
        batch_size: args.batch_size.max(1),
        threads: args.run_on.threads,
        save_every: Duration::from_secs(args.save_every),
        stop: &flag,
    };
    let bar = bars().add(ProgressBar::new(pairs));
    let style =
        ProgressStyle::with_template("scoring [{bar:30}] {pos}/{len} pairs  {per_sec}  ETA {eta}");
    bar.set_style(style.context("progress template")?.progress_chars("=> "));
    if args.no_progress {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let mut encode = |batch: &Batch| match &model {
        Some(model) => encode(model, batch).map_err(|error| format!("{error:#}")),
        None => Err("no model is there to encode".into()),
    };
    let mut reports = Vec::new();
    if !request.kinds.is_empty() {
        reports = score(&request, &mut encode, &mut |pairs| bar.inc(pairs))?;
    }
    if let Some(centroids) = centroids.as_ref().filter(|_| !stop.is_requested()) {
        bar.set_position(0);
        let request = ClusterRequest {
            dataset: &args.dataset.dataset,
            selection: selection.as_ref(),
            name: args.name.as_deref().unwrap_or("cluster"),
            centroids,
            embeddings: args.embeddings.as_deref(),
        };
        reports.push(assign_clusters(&request, &mut |pairs| bar.inc(pairs))?);
    }
    bar.finish_and_clear();
    for report in reports {
        line(in_words(&report))?;
    }
    if stop.is_requested() {
        tracing::info!("stopped; the same command computes what is still missing");
        return Ok(Outcome::Stopped);
    }
    Ok(Outcome::Done)
}

fn kinds(args: &ScoreArgs) -> anyhow::Result<Vec<(ScoreKind, String)>> {
    let mut kinds: Vec<(ScoreKind, String)> = Vec::new();
    for kind in &args.kinds {
        let kind = match kind {
            ScoreKindArg::Cluster => continue,
            ScoreKindArg::Clip => ScoreKind::Clip,
            ScoreKindArg::Language => ScoreKind::Language,
            ScoreKindArg::Phash => ScoreKind::Phash,
            ScoreKindArg::Blur => ScoreKind::Blur,
            ScoreKindArg::Entropy => ScoreKind::Entropy,
        };
        if kinds.iter().all(|(known, _)| *known != kind) {
            kinds.push((kind, kind.as_str().to_owned()));
        }
    }
    if let Some(name) = args.name.as_ref().filter(|_| args.kinds != [ScoreKindArg::Cluster]) {
        match kinds.as_mut_slice() {
            [(_, only)] if !args.kinds.contains(&ScoreKindArg::Cluster) => only.clone_from(name),
            _ => {
                bail!("--name {name} would name {} scores; give one KIND with it", args.kinds.len())
            }
        }
    }
    Ok(kinds)
}

fn centroids(args: &ScoreArgs) -> anyhow::Result<Option<Matrix>> {
    let wanted = args.kinds.contains(&ScoreKindArg::Cluster);
    match &args.centroids {
        Some(path) if wanted => Ok(Some(read_matrix(path)?)),
        Some(path) => bail!(
            "--centroids {} has nothing to do: only the score cluster uses centroids",
            path.display()
        ),
        None if wanted => {
            bail!("cluster compares embeddings with centroids: give them with --centroids FILE.npy")
        }
        None => Ok(None),
    }
}

fn model(args: &ScoreArgs) -> anyhow::Result<Option<Model>> {
    let wanted = args.kinds.contains(&ScoreKindArg::Clip);
    let Some(model) = args.model.clone() else {
        if wanted {
            bail!(
                "clip compares image and caption with a model: name one with --model, a run or a \
                 folder with weights"
            );
        }
        return Ok(None);
    };
    if !wanted {
        bail!("--model {model} has nothing to do: only the score clip uses a model");
    }
    models::load(&args.run_on.model_ref(&model, args.model_config.clone(), false)).map(Some)
}

fn model_spec(model: &Model) -> anyhow::Result<ModelSpec> {
    let (image_size, context_length) = (model.image_size(), model.context_length());
    let (weights, tokenizer) = (model.encoder.hash()?, model.tokenizer.hash());
    Ok(ModelSpec {
        producer: Producer::of_model(
            &weights,
            &tokenizer,
            image_size,
            model.resize(),
            context_length,
        ),
        dimension: model.encoder.dimension(),
        image_size,
        resize: model.resize(),
        context_length,
    })
}

fn in_words(report: &ScoreReport) -> String {
    let name = report.name.clone().unwrap_or_else(|| "embeddings".into());
    let producer = format!("producer {:.12}", report.producer.hash);
    let there = thousands(report.present);
    if report.added == 0 {
        return format!("{name}: nothing to do, {there} there already, {producer}");
    }
    let failed = match report.failed {
        0 => String::new(),
        failed => format!(
            " ({} of them without a value: SELECT error FROM scores WHERE name = '{name}')",
            thousands(failed)
        ),
    };
    format!("{name}: {} added{failed}, {there} there already, {producer}", thousands(report.added))
}
