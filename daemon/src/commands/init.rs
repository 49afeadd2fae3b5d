//! `diptych init`: asks for data, device and model, and writes a configuration that fits them.

use std::io::{BufRead, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use diptych_cli::{Cli, Command, InitArgs, command};
use diptych_embeddings::models::{checkpoint_folder, resolve};
use diptych_embeddings::pairs::chosen_pairs;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::{duration, thousands};
use diptych_schemas::{
    DatasetManifest, ModelRef, PairChoice, Precision, TrainConfig, durable, is_url,
};
use diptych_trainer::{Device, ModelConfig, ModelEstimate, flops, set_threads};

use crate::commands::{ingest, split};
use crate::init::advice::{DeviceFacts, Facts, Start, advise, suggest_model};
use crate::init::file::{Names, text};
use crate::output::{line, raw};
use crate::system::{gpus, memory, usable_processors};

/// The dataset that sources become where none is named.
const DATASET: &str = "data";
/// The state folder of the configuration, beside it.
const STATE: &str = "state";
/// Pairs below which nothing can be held out and learned.
const LEAST_PAIRS: u64 = 20;
/// Held-out part of the pairs, and the most pairs of it.
const HELD_OUT: (f64, f64) = (0.05, 5000.0);

/// The answers to the three questions.
struct Answers {
    sources: Vec<String>,
    dataset: PathBuf,
    device: String,
    hours: Option<f64>,
    /// `None`: the one that is suggested.
    model: Option<String>,
}

pub(crate) fn run(args: &InitArgs) -> anyhow::Result<Outcome> {
    if args.output.exists() && !args.force {
        bail!(
            "{} exists already: name another file with --output, or replace it with --force",
            args.output.display()
        );
    }
    let run = run_name(args)?;
    let asks = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let mut answers = ask_for_data_and_device(args, asks)?;
    Device::parse(&answers.device)?;
    if !answers.sources.is_empty() {
        let outcome = ingest_sources(&answers)?;
        if outcome == Outcome::Stopped {
            return Ok(outcome);
        }
    }
    let (selection, heldout) = match &args.selection {
        Some(selection) => (selection.clone(), args.heldout.clone()),
        None => split_pairs(&answers.dataset, &folder_of(&args.output))?,
    };
    let count = |path: &PathBuf| -> anyhow::Result<u64> {
        let choice = PairChoice::of_selection(path.clone());
        Ok(chosen_pairs(&answers.dataset, &choice)?.len() as u64)
    };
    let pairs = count(&selection)?;
    let Some(heldout) = heldout else {
        bail!("--heldout is missing: with --selection, name the selection of held-out pairs too");
    };
    count(&heldout).context("--heldout")?;
    let device = look_at_device(&answers.device)?;
    let suggested = suggest_model(pairs, &device, answers.hours, built_in);
    if asks && answers.model.is_none() {
        let question = format!(
            "3/3 Model: a built-in one to train from random weights (demo, ViT-S-32,\n    \
             ViT-B-32, \
             ViT-B-16, ViT-L-14), or the folder of a model to fine-tune [{suggested}]: "
        );
        answers.model = Some(ask(&question)?).filter(|answer| !answer.is_empty());
    }
    let name = answers.model.as_deref().unwrap_or(suggested);
    let (start, model) = look_at_model(name, &folder_of(&args.output).join(STATE))?;
    let facts = Facts { pairs, device, hours: answers.hours, start, model };
    let advice = advise(&facts);
    let place = |path: &Path| from_file(path, &args.output);
    let names = Names {
        run: &run,
        dataset: &place(&answers.dataset)?,
        selection: &place(&selection)?,
        heldout: &place(&heldout)?,
        model: &place_of_model(name, start, &args.output)?,
        device: &answers.device,
    };
    let written = text(&names, &facts, &advice);
    TrainConfig::parse(&written).map_err(anyhow::Error::msg).context("the new configuration")?;
    durable::write(&args.output, written.as_bytes())?;
    line(format!(
        "{}: {name} on {}, {} pairs, {} epochs of batch {}, about {}",
        args.output.display(),
        facts.device.name,
        thousands(pairs),
        advice.epochs.value,
        advice.batch.value,
        duration(advice.seconds)
    ))?;
    line(format!("next: diptych train {}", shell_word(&args.output)))?;
    Ok(Outcome::Done)
}

/// The name of the run: that of the arguments, or of the file.
fn run_name(args: &InitArgs) -> anyhow::Result<String> {
    let of_file = || {
        let stem = args.output.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
        stem.chars().map(plain).collect::<String>().trim_start_matches('.').to_owned()
    };
    let run = args.name.clone().unwrap_or_else(of_file);
    diptych_store::RunName::new(&run)?;
    let checkpoints = checkpoint_folder(&folder_of(&args.output).join(STATE), &run);
    if checkpoints.exists() {
        bail!(
            "{}: there is a run of that name already. Name this one with --name",
            checkpoints.display()
        );
    }
    Ok(run)
}

/// The folder that a file lies in.
fn folder_of(file: &Path) -> PathBuf {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new(".")).to_owned()
}

fn is_dataset(folder: &Path) -> bool {
    DatasetManifest::path(folder).is_file()
}

/// Takes the answers of the arguments, and asks for the others where there is a terminal.
fn ask_for_data_and_device(args: &InitArgs, asks: bool) -> anyhow::Result<Answers> {
    let (mut sources, mut dataset) = (args.sources.clone(), args.dataset.clone());
    let here = Some(PathBuf::from(DATASET)).filter(|folder| is_dataset(folder));
    if sources.is_empty() && dataset.is_none() {
        if !asks {
            bail!(
                "name the pairs, since there is no terminal to ask on: files as in `diptych init \
                 'pairs/*.tar'`, or a dataset as in `diptych init --dataset {DATASET}`"
            );
        }
        let default = here.as_ref().map_or_else(String::new, |_| format!(" [{DATASET}]"));
        let answer = ask(&format!(
            "1/3 Pairs: a dataset folder, or files, folders or patterns to ingest{default}: "
        ))?;
        match answer.as_str() {
            "" => dataset = Some(here.context("no pairs were named")?),
            folder if is_dataset(Path::new(folder)) || is_url(Path::new(folder)) => {
                dataset = Some(folder.into());
            }
            several => sources = several.split_whitespace().map(str::to_owned).collect(),
        }
    }
    let dataset = dataset.unwrap_or_else(|| DATASET.into());
    if sources.is_empty() && !is_dataset(&dataset) {
        bail!(
            "{}: there is no dataset. `diptych init SOURCE --dataset {}` makes it from files of \
             pairs",
            dataset.display(),
            dataset.display()
        );
    }
    let (mut device, mut hours) = (args.device.clone(), args.hours);
    if asks && device.is_none() && hours.is_none() {
        let answer = ask(
            "2/3 Device and hours: auto, cpu, cuda or cuda:N, and how long the run may take,\n    \
             as \
             in 'cuda 8' [auto, as long as it takes]: ",
        )?;
        for word in answer.split_whitespace() {
            match word.parse::<f64>() {
                Ok(number) if number > 0.0 => hours = Some(number),
                _ => device = Some(word.to_owned()),
            }
        }
    }
    let device = device.unwrap_or_else(|| "auto".into());
    Ok(Answers { sources, dataset, device, hours, model: args.model.clone() })
}

/// Asks a question and returns the answer without spaces around it.
fn ask(question: &str) -> anyhow::Result<String> {
    raw(question.as_bytes())?;
    let mut answer = String::new();
    if std::io::stdin().lock().read_line(&mut answer)? == 0 {
        bail!("nothing was written: the input ended");
    }
    Ok(answer.trim().to_owned())
}

/// Runs another verb with arguments as a user would write them.
fn parsed(words: &[&str]) -> anyhow::Result<Command> {
    use clap::FromArgMatches;
    let words = std::iter::once("diptych").chain(words.iter().copied());
    Ok(Cli::from_arg_matches(&command().try_get_matches_from(words)?)?.command)
}

fn ingest_sources(answers: &Answers) -> anyhow::Result<Outcome> {
    let dataset = answers.dataset.to_string_lossy();
    let sources = answers.sources.iter().map(String::as_str);
    let words: Vec<&str> =
        ["ingest", "--dataset", &*dataset, "--"].into_iter().chain(sources).collect();
    let Command::Ingest(args) = parsed(&words)? else { bail!("ingest is no verb") };
    ingest::run(args)
}

/// Returns the selections of training and held-out pairs in a folder. Makes them where they are
/// missing.
fn split_pairs(dataset: &Path, folder: &Path) -> anyhow::Result<(PathBuf, Option<PathBuf>)> {
    let [train, heldout] = ["train.parquet", "heldout.parquet"].map(|name| {
        if folder.as_os_str() == "." { PathBuf::from(name) } else { folder.join(name) }
    });
    if train.exists() || heldout.exists() {
        return Ok((train, Some(heldout)));
    }
    let pairs = DatasetManifest::read(dataset)?.pairs;
    if pairs < LEAST_PAIRS {
        bail!(
            "{}: it has {pairs} pairs, and a run needs at least {LEAST_PAIRS}. `diptych ledger \
             --dataset {}` shows what was refused",
            dataset.display(),
            dataset.display()
        );
    }
    let share = 100.0 * HELD_OUT.0.min(HELD_OUT.1 / pairs as f64);
    let (share, dataset) = (format!("{share:.3}%"), dataset.to_string_lossy());
    let folder = folder.to_string_lossy();
    let words = ["split", "--heldout", &share, "--dataset", &dataset, "--output", &folder];
    let Command::Split(args) = parsed(&words)? else { bail!("split is no verb") };
    split::run(&args)?;
    Ok((train, Some(heldout)))
}

fn look_at_device(named: &str) -> anyhow::Result<DeviceFacts> {
    let device = Device::parse(named)?;
    set_threads(0);
    let is_gpu = device != Device::CPU;
    let precision = if is_gpu { Precision::Bf16 } else { Precision::Fp32 };
    let peak = flops::matmul_ceiling(device, precision)?;
    if !is_gpu {
        let memory = memory().map_or(0, |memory| memory.usable());
        let name = format!("{} processors", usable_processors());
        return Ok(DeviceFacts { name, is_gpu, memory, peak });
    }
    let number = device.to_string().rsplit(':').next().and_then(|number| number.parse().ok());
    let gpu = gpus().ok().and_then(|gpus| gpus.into_iter().nth(number.unwrap_or(0)));
    let (name, memory) =
        gpu.map_or_else(|| (device.to_string(), 0), |gpu| (gpu.name.clone(), gpu.memory));
    Ok(DeviceFacts { name, is_gpu, memory, peak })
}

fn built_in(name: &str) -> Option<ModelEstimate> {
    ModelConfig::built_in(name).map(|config| ModelEstimate::of(&config))
}

/// Returns how a run of this model starts, and its sizes.
fn look_at_model(name: &str, state: &Path) -> anyhow::Result<(Start, ModelEstimate)> {
    if let Some(model) = built_in(name) {
        return Ok((Start::Random, model));
    }
    if Path::new(name).extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json")) {
        return Ok((Start::Random, ModelEstimate::of(&ModelConfig::named_or_file(name)?)));
    }
    let named = ModelRef {
        name: name.to_owned(),
        config: None,
        ema: false,
        state: state.to_owned(),
        device: String::new(),
        threads: 0,
    };
    let is_there = Path::new(name).exists() || name.contains('@');
    // A mistyped name is more often that of a built-in model than of a run.
    let folder = if is_there { resolve(&named)? } else { return Err(unknown(name, &named)) };
    let config = ModelConfig::from_weights(&folder)?.with_context(|| {
        format!(
            "{name}: a file of weights does not say its model: name a folder with its configuration"
        )
    })?;
    Ok((Start::Pretrained, ModelEstimate::of(&config)))
}

fn unknown(name: &str, named: &ModelRef) -> anyhow::Error {
    match (resolve(named), ModelConfig::named_or_file(name)) {
        (Ok(_), _) => anyhow::anyhow!("{name} is a run: name its checkpoint, as in {name}@best"),
        (Err(_), Err(error)) => error.into(),
        (Err(error), Ok(_)) => error,
    }
}

/// Returns a path as the file can name it: relative to the file's folder where that is this one.
fn from_file(path: &Path, file: &Path) -> anyhow::Result<PathBuf> {
    if is_url(path) || folder_of(file) == Path::new(".") {
        return Ok(path.to_owned());
    }
    std::path::absolute(path).with_context(|| path.display().to_string())
}

fn place_of_model(name: &str, start: Start, file: &Path) -> anyhow::Result<String> {
    let path = Path::new(name);
    if start == Start::Random && !path.is_file() || !path.exists() {
        return Ok(name.to_owned());
    }
    Ok(from_file(path, file)?.to_string_lossy().into_owned())
}

/// Returns a path as a word of a shell.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
