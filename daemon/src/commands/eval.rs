//! `diptych eval`: measures a model on held-out pairs. Each figure stands next to chance and has an
//! interval.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use diptych_cli::{EvalArgs, EvalOnArgs, EvalSettingsArgs, EvalTask, ResultFormat};
use diptych_embeddings::files::EmbeddingFiles;
use diptych_embeddings::models::{self, Model};
use diptych_evaluate::compositional::{self, Test};
use diptych_evaluate::data::EvalData;
use diptych_evaluate::figures::figures;
use diptych_evaluate::measure::{MeasureOptions, Measured, TaskResult, measure};
use diptych_evaluate::request::{
    ClassSource, Control, EvalSettings, PairSource, Request, Stopped, Subject, Task,
};
use diptych_evaluate::source::{EmbeddingCache, EmbeddingSource};
use diptych_evaluate::suite::Suite;
use diptych_evaluate::text::Text;
use diptych_evaluate::{clip_benchmark, report};
use diptych_schemas::outcome::Outcome;
use diptych_schemas::{ModelRef, PairChoice, durable};
use serde_json::{Value, json};

use crate::commands::eval_record::record;
use crate::commands::ingest_progress::IngestBar;
use crate::output::{line, raw};
use crate::signals::{self, Ending};

/// Longest time that an evaluation has to end by itself after a signal.
const ENDS_WITHIN: Duration = Duration::from_millis(700);

pub(crate) fn run(args: &EvalArgs) -> anyhow::Result<Outcome> {
    // It saves nothing before its end, and writes each cache file completely or not at all, so
    // leaving loses nothing.
    let stop = signals::watch(Ending::Within("nothing has been recorded", ENDS_WITHIN))?;
    let bar = IngestBar::new()?;
    let control =
        Control { go_on: &|| !stop.is_requested(), on_ingest: &|progress| bar.show(progress) };
    let json = if let Some(path) = &args.suite {
        of_suite(args, path, control)
    } else if let Some(images) = args.images.as_deref().filter(|_| !args.compositional.is_empty()) {
        of_compositions(args, images, control)
    } else {
        of_pairs(args, control)
    };
    bar.finish();
    let json = match json {
        Err(error) if error.is::<Stopped>() => {
            line("stopped; nothing was recorded")?;
            return Ok(Outcome::Stopped);
        }
        other => other?,
    };
    if let Some(path) = &args.json {
        durable::write(path, format!("{json:#}\n").as_bytes())?;
    }
    Ok(Outcome::Done)
}

/// Converts the arguments into a request.
fn request(args: &EvalArgs) -> anyhow::Result<Request> {
    let EvalOnArgs {
        dataset,
        pairs,
        benchmark,
        tasks,
        classes,
        label_column,
        templates,
        train_selection,
        ..
    } = &args.on;
    let source = match (benchmark, dataset) {
        (Some(folder), _) => PairSource::Benchmark(folder.clone()),
        (None, Some(dataset)) => PairSource::Dataset {
            dataset: dataset.clone(),
            pairs: pairs.choice(),
            classes: label_column.clone().map(|label_column| ClassSource {
                names: classes.clone(),
                label_column,
                templates: templates.clone(),
            }),
            train_selection: train_selection.clone(),
        },
        // clap asks for one or the other.
        (None, None) => bail!("--dataset or --benchmark"),
    };
    Ok(Request {
        subject: Subject {
            source,
            more_captions: args.on.more_captions.clone(),
            strict_pairs: args.on.strict_pairs,
            group_by: args.on.group_by.clone(),
        },
        tasks: tasks.iter().map(|task| task_of(*task)).collect(),
        settings: settings(&args.how, args.model.run_on.threads),
    })
}

fn task_of(task: EvalTask) -> Task {
    match task {
        EvalTask::Retrieval => Task::Retrieval,
        EvalTask::ZeroShot => Task::ZeroShot,
        EvalTask::MultiLabel => Task::MultiLabel,
        EvalTask::LinearProbe => Task::LinearProbe,
        EvalTask::Knn => Task::Knn,
        EvalTask::FewShot => Task::FewShot,
    }
}

fn settings(how: &EvalSettingsArgs, threads: usize) -> EvalSettings {
    let EvalSettingsArgs { k, knn_temperature, probe_c, shots, seed, resamples, batch_size } =
        how.clone();
    EvalSettings { k, knn_temperature, probe_c, shots, seed, resamples, batch_size, threads }
}

fn of_pairs(args: &EvalArgs, control: Control<'_>) -> anyhow::Result<Value> {
    let state = &args.model.run_on.state;
    let other = compared(args)?;
    let Request { subject, tasks, settings } = request(args)?;
    let data = EvalData::read(&subject, &tasks, state, control)?;
    let options = MeasureOptions { settings: &settings, go_on: control.go_on };
    let answers = |named: &ModelRef| {
        with_towers(named, args, |towers, path| {
            let measured = measure(towers, &data, options)?.ok_or(Stopped)?;
            Ok((path.to_owned(), measured))
        })
    };
    // One model in memory at a time.
    let (path, measured) = answers(&args.model.model_ref())?;
    let other = other.map(|name| answers(&name)).transpose()?;
    if other.as_ref().is_some_and(|(_, other)| other.uids != measured.uids) {
        bail!(
            "--compare: the two models did not see the same pairs. Check that files of embeddings \
             have all pairs, and run again when nothing else writes to the dataset"
        );
    }

    let Measured { uids, distinct_captions, geometry, results } = &measured;
    let mut out = Text::default();
    out.line(format!(
        "{}: {} pairs, {distinct_captions} different captions",
        data.name,
        uids.len()
    ));
    for note in &data.notes {
        out.line(note);
    }
    let with = report::Context {
        classes: data
            .classification
            .as_ref()
            .map_or(&[], |classification| classification.classes()),
        uids,
        groups: data.groups.as_ref(),
        bootstrap: settings.bootstrap(),
    };
    let PairChoice { selection, condition } = args.on.pairs.choice();
    let selection = selection.as_ref().or(args.on.benchmark.as_ref());
    let mut json = json!({
        "model": path, "selection": selection, "where": condition, "pairs": uids.len(),
        "selection_hash": data.selection.hash().to_string(),
        "dataset_hash": data.selection.dataset_hash.to_string(),
    });
    if let Some((path, _)) = &other {
        json["compared_with"] = json!(path);
        out.line(format!("compared with {}", path.display()));
    }
    for (at, result) in results.iter().enumerate() {
        let beside: Option<&TaskResult> =
            other.as_ref().and_then(|(_, other)| other.results.get(at));
        let (name, figures) = report::report(result, beside, &with, &mut out)?;
        json[name] = figures;
    }
    if json.get("retrieval").is_some() {
        json["retrieval"]["same_caption_counts"] = json!(!args.on.strict_pairs);
    }
    if let Some(geometry) = geometry {
        json["geometry"] = report::geometry(geometry, &mut out);
    }
    raw(out.as_str().as_bytes())?;
    record(state, &path, &data.name, results.iter().flat_map(figures).collect())?;
    if let Some(ResultFormat::ClipBenchmark) = args.output_format {
        let named = clip_benchmark::Named {
            dataset: &data.name,
            is_benchmark: args.on.benchmark.is_some(),
            model: path,
        };
        for result in results {
            line(clip_benchmark::write(&args.output, &named, result)?.display().to_string())?;
        }
    }
    Ok(json)
}

fn of_suite(args: &EvalArgs, path: &Path, control: Control<'_>) -> anyhow::Result<Value> {
    let other = compared(args)?;
    let suite = Suite::read(path, &args.model.run_on.state, control)?;
    let began = Instant::now();
    let most =
        args.max_seconds.map(Duration::try_from_secs_f64).transpose().context("--max-seconds")?;
    let go_on = || (control.go_on)() && most.is_none_or(|most| began.elapsed() < most);
    let settings = settings(&args.how, args.model.run_on.threads);
    let scored = |named: &ModelRef| {
        with_towers(named, args, |towers, path| {
            let scored =
                suite.run(towers, MeasureOptions { settings: &settings, go_on: &go_on })?;
            // Only the time leaves tasks out; a signal ends it all.
            control.check()?;
            Ok((path.to_owned(), scored))
        })
    };
    let (model, own) = scored(&args.model.model_ref())?;
    let other = other.map(|named| scored(&named)).transpose()?;
    let mut out = Text::default();
    let mut json = own.report(&suite.name, other.as_ref().map(|(_, scored)| scored), &mut out)?;
    raw(out.as_str().as_bytes())?;
    json["model"] = json!(model);
    if let Some((path, _)) = &other {
        json["compared_with"] = json!(path);
    }
    record(&args.model.run_on.state, &model, &suite.name, own.figures())?;
    Ok(json)
}

fn of_compositions(args: &EvalArgs, images: &Path, control: Control<'_>) -> anyhow::Result<Value> {
    let tests: Vec<Test> = args
        .compositional
        .iter()
        .map(|file| Test::read(file, images))
        .collect::<anyhow::Result<_>>()?;
    let model = models::load(&args.model.model_ref())?;
    let bootstrap = settings(&args.how, args.model.run_on.threads).bootstrap();
    let mut json = json!({ "model": model.path });
    for tested in compositional::run(&model, &tests.iter().collect::<Vec<_>>(), control)? {
        let mut out = Text::default();
        json[tested.name()] = tested.report(bootstrap, &mut out)?;
        raw(out.as_str().as_bytes())?;
        record(&args.model.run_on.state, &model.path, tested.name(), tested.figures())?;
    }
    Ok(json)
}

/// Returns the second model. Checks that it exists before the first one is evaluated.
fn compared(args: &EvalArgs) -> anyhow::Result<Option<ModelRef>> {
    let Some(name) = &args.compare else { return Ok(None) };
    let other = args.model.run_on.model_ref(name, args.model.model_config.clone(), false);
    if !EmbeddingFiles::exist_at(Path::new(name)) {
        models::resolve(&other).context("--compare")?;
    }
    Ok(Some(other))
}

/// Loads a model or embeddings, and passes them on with their path.
fn with_towers<T>(
    named: &ModelRef,
    args: &EvalArgs,
    run: impl FnOnce(&EmbeddingSource<'_>, &Path) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let path = PathBuf::from(&named.name);
    if EmbeddingFiles::exist_at(&path) {
        return run(&EmbeddingSource::Files(&EmbeddingFiles::read(&path)?), &path);
    }
    let model: Model = models::load(named)?;
    // A model from elsewhere can be evaluated without a state folder.
    let kept = if args.no_cache || !named.state.is_dir() {
        None
    } else {
        EmbeddingCache::open(&named.state, &model)
    };
    run(&EmbeddingSource::Model { model: &model, kept }, &model.path)
}
