//! `diptych report`: writes a page about a run.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use arrow::array::RecordBatch;
use diptych_cli::ReportArgs;
use diptych_embeddings::encode::{EncodeSpec, encode_while};
use diptych_embeddings::models;
use diptych_embeddings::session::with_session;
use diptych_evaluate::classification::{Classes, Classification};
use diptych_evaluate::groups::Groups;
use diptych_pages::pairs;
use diptych_pages::run::{History, Look, ModelInspection, Report};
use diptych_pipeline::sql::query;
use diptych_pipeline::{Selection, funnel};
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::thousands;
use diptych_schemas::{DatasetManifest, TrainConfig, durable};
use diptych_trainer::evaluate::Bootstrap;

use crate::client::reading::state_tables;
use crate::output::line;

pub(crate) fn run(args: &ReportArgs) -> anyhow::Result<Outcome> {
    let state = &args.run_on.state;
    let ask = |sql: &str| ask(state, sql);
    let name = args.run.split('@').next().unwrap_or_default();
    let history = History::read(name, state, &ask)?;
    let beside = args.beside.as_deref().map(|name| History::read(name, state, &ask)).transpose()?;
    let config = TrainConfig::parse(&history.config())
        .map_err(anyhow::Error::msg)
        .context("the configuration of the run")?;
    let held_out = if args.no_model { None } else { held_out(args, &config) };
    let looked = held_out.as_ref().map(|held_out| look(args, held_out)).transpose()?;
    let wanted = looked.as_ref().map(ModelInspection::shown).unwrap_or_default();
    let wanted = [wanted, history.sampled_uids()].concat();
    let pairs = match dataset_of(args, &config).filter(|_| !wanted.is_empty()) {
        None => HashMap::new(),
        Some(dataset) => {
            let shown = with_session(Some(&dataset), None, async |context| {
                pairs::show(&context, &wanted).await
            });
            match shown {
                Err(error) if looked.is_none() => {
                    tracing::warn!("the pictures are left out: {error:#}");
                    HashMap::new()
                }
                shown => shown?,
            }
        }
    };
    let report = Report { funnel: funnel_of(&config), history, beside, looked, pairs };
    let page = report.page();
    durable::write(&args.output, page.as_bytes())?;
    line(format!("{}: {} kB", args.output.display(), thousands(page.len() as u64 / 1000)))?;
    Ok(Outcome::Done)
}

/// Queries the tables of a state folder.
fn ask(state: &Path, sql: &str) -> anyhow::Result<Vec<RecordBatch>> {
    with_session(None, Some(state_tables(state)?), async |context| {
        Ok(query(&context, sql).await?.collect().await?)
    })
}

/// The pairs and classes that the model is shown.
struct HeldOut {
    dataset: PathBuf,
    selection: PathBuf,
    classes: Option<(PathBuf, String, Option<PathBuf>)>,
}

/// Returns the held-out pairs of the arguments, or those of the run's configuration. Returns `None`
/// if neither names any.
fn held_out(args: &ReportArgs, config: &TrainConfig) -> Option<HeldOut> {
    let of_config = &config.eval;
    let selection = args.selection.clone().or_else(|| of_config.selection.clone())?;
    let dataset = dataset_of(args, config)?;
    let classes =
        match (&args.classes, &args.label_column, &of_config.classes, &of_config.label_column) {
            (Some(classes), Some(label), ..) => {
                Some((classes.clone(), label.clone(), args.templates.clone()))
            }
            (None, _, Some(classes), Some(label)) if args.selection.is_none() => {
                Some((classes.clone(), label.clone(), of_config.templates.clone()))
            }
            _ => None,
        };
    Some(HeldOut { dataset, selection, classes })
}

/// Returns the dataset of the held-out pairs.
fn dataset_of(args: &ReportArgs, config: &TrainConfig) -> Option<PathBuf> {
    let named = [&args.dataset, &config.eval.dataset, &config.data.dataset];
    named.into_iter().flatten().next().cloned()
}

fn look(args: &ReportArgs, held_out: &HeldOut) -> anyhow::Result<ModelInspection> {
    let selection = Selection::read(&held_out.selection)?;
    let classification = match &held_out.classes {
        Some((classes, label, templates)) => Some(Classification::read(
            &held_out.dataset,
            &Classes::listed_in(classes),
            label,
            templates.as_deref(),
        )?),
        None => None,
    };
    let groups = args
        .group_by
        .as_ref()
        .map(|by| Groups::read(&held_out.dataset, &selection, by))
        .transpose()
        .context("--group-by")?;
    let model = models::load(&args.run_on.model_ref(&args.run, None, false))?;
    let spec = EncodeSpec { batch_size: args.batch_size.max(1), threads: args.run_on.threads };
    let encoded = encode_while(&model, &held_out.dataset, &selection, spec, |done| {
        done < args.pairs as usize
    })?;
    if encoded.uids.is_empty() {
        bail!("{}: none of its images could be decoded", held_out.selection.display());
    }
    Look {
        model: &model,
        encoded: &encoded,
        classification: classification.as_ref(),
        name: held_out.selection.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        of: selection.len(),
        groups: groups.as_ref().zip(args.group_by.as_deref()),
        bootstrap: Bootstrap::default(),
    }
    .look()
}

/// Returns the steps from all inputs of the dataset to the selection. Leaves out what cannot be
/// read any more.
fn funnel_of(config: &TrainConfig) -> Vec<(String, u64)> {
    let Some((dataset, selection)) =
        config.data.dataset.as_ref().zip(config.data.selection.as_ref())
    else {
        return Vec::new();
    };
    let read = || -> anyhow::Result<Vec<(String, u64)>> {
        let manifest = DatasetManifest::read(dataset)?;
        let selection = Selection::read(selection)?;
        let mut steps = vec![
            ("inputs".to_owned(), manifest.pairs + manifest.ledger_rows),
            ("pairs".to_owned(), manifest.pairs),
        ];
        let conditions = with_session(Some(dataset), None, async |context| {
            Ok(funnel(&context, &selection.sql).await?)
        });
        match conditions {
            Ok(conditions) => steps.extend(
                conditions.into_iter().skip(1).map(|step| (step.condition, step.remaining)),
            ),
            Err(error) => tracing::debug!("the selection's SQL cannot be asked again: {error}"),
        }
        if steps.last().is_none_or(|(_, left)| *left != selection.len() as u64) {
            steps.push(("selected".to_owned(), selection.len() as u64));
        }
        Ok(steps)
    };
    read().unwrap_or_else(|error| {
        tracing::warn!("the funnel of the data is left out: {error}");
        Vec::new()
    })
}
