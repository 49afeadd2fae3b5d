//! The configuration that `diptych init` writes: TOML with the reason for each number.

use std::fmt::Write;
use std::path::Path;

use diptych_schemas::Precision;
use diptych_schemas::words::{duration, thousands, wrapped};

use super::advice::{Advice, Facts, Start};

/// Columns of a comment.
const COMMENT: usize = 76;
/// Evaluations on held-out pairs in a run.
const EVALUATIONS: u64 = 8;

/// Names of the run, its files, its model and its device.
#[derive(Clone, Debug)]
pub(crate) struct Names<'a> {
    pub(crate) run: &'a str,
    pub(crate) dataset: &'a Path,
    pub(crate) selection: &'a Path,
    pub(crate) heldout: &'a Path,
    /// A built-in model, or the place of weights.
    pub(crate) model: &'a str,
    pub(crate) device: &'a str,
}

/// Returns a text as a TOML string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            char if char.is_control() => {
                // Writing to a text cannot fail.
                let _ = write!(quoted, "\\u{:04X}", u32::from(char));
            }
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}

fn comment(text: &str) -> String {
    wrapped(text, COMMENT).iter().flat_map(|line| ["# ", line, "\n"]).collect()
}

/// Writes the configuration.
pub(crate) fn text(names: &Names<'_>, facts: &Facts, advice: &Advice) -> String {
    let Advice { batch, micro_batch, epochs, learning_rate, weight_decay, precision, seconds } =
        advice;
    let path = |path: &Path| quoted(&path.to_string_lossy());
    let device = &facts.device;
    let head = comment(&format!(
        "{} pairs, {}, {:.1} million parameters: about {} in all, estimated from the measured \
         speed \
         of matrix products. Start it with `diptych train`; `diptych config --keys` explains every \
         key. For completion in editors: `diptych config --schema > diptych.schema.json`, and the \
         line `#:schema ./diptych.schema.json` at the top.",
        thousands(facts.pairs),
        device.name,
        facts.model.parameters as f64 / 1e6,
        duration(*seconds),
    ));
    let model = match facts.start {
        Start::Random => format!(
            "{}config = {}\n",
            comment(
                "Trained from random weights. With fewer than some million pairs, fine-tuning an \
                 existing model gives better results: `diptych init --model FOLDER`."
            ),
            quoted(names.model)
        ),
        Start::Pretrained => format!(
            "{}weights = {}\n",
            comment("Fine-tunes these weights, which also name the model and its tokenizer."),
            quoted(names.model)
        ),
    };
    let precision = match precision {
        Precision::Fp32 => "fp32",
        Precision::Bf16 => "bf16",
        Precision::Fp16 => "fp16",
    };
    let rate = format!("{:e}", learning_rate.value);
    format!(
        "{head}
name = {name}
state = \"state\"

[data]
dataset = {dataset}
selection = {selection}

[model]
{model}
[train]
{batch_reason}batch_size = {batch}
{micro_reason}micro_batch_size = {micro}
{epochs_reason}epochs = {epochs}
precision = \"{precision}\"
device = {device}

[optimizer]
{rate_reason}lr = {rate}
{decay_reason}weight_decay = {decay}
{warmup}warmup_steps = \"auto\"
{clip}clip_grad_norm = 1.0

[eval]
selection = {heldout}
every_epochs = {every}

[checkpoint]
{best}keep_best = 1
",
        name = quoted(names.run),
        dataset = path(names.dataset),
        selection = path(names.selection),
        batch_reason = comment(&format!("Pairs in a step: {}.", batch.reason)),
        batch = batch.value,
        micro_reason = comment(&format!("Pairs in memory at once: {}.", micro_batch.reason)),
        micro = micro_batch.value,
        epochs_reason = comment(&format!("Passes over the pairs: {}.", epochs.reason)),
        epochs = epochs.value,
        device = quoted(names.device),
        rate_reason = comment(&format!("Learning rate: {}.", learning_rate.reason)),
        decay_reason = comment(&format!("Weight decay: {}.", weight_decay.reason)),
        decay = weight_decay.value,
        warmup = comment("A tenth of the run, and at most OpenCLIP's 2,000 steps."),
        clip = comment("Keeps a single bad batch from throwing the weights far off."),
        heldout = path(names.heldout),
        every = (epochs.value / EVALUATIONS).max(1),
        best = comment(&format!(
            "Keeps the checkpoint with the best held-out recall, which `{}@best` names.",
            names.run
        )),
    )
}

#[cfg(test)]
mod tests {
    use diptych_schemas::TrainConfig;
    use diptych_trainer::ModelEstimate;

    use super::super::advice::{DeviceFacts, advise};
    use super::*;

    #[test]
    fn file_is_a_configuration_whatever_the_names_are() {
        let model = ModelEstimate { parameters: 3_000_000, flops: 1e9, activations: 2e6 };
        let device =
            DeviceFacts { name: "2 processors".into(), is_gpu: false, memory: 8 << 30, peak: 1e11 };
        for start in [Start::Random, Start::Pretrained] {
            let facts = Facts { pairs: 3700, device: device.clone(), hours: None, start, model };
            let names = Names {
                run: "my-run",
                dataset: Path::new("a \"b\\c\u{1}"),
                selection: Path::new("train.parquet"),
                heldout: Path::new("heldout.parquet"),
                model: "demo",
                device: "auto",
            };
            let written = text(&names, &facts, &advise(&facts));
            let config = TrainConfig::parse(&written).unwrap_or_else(|e| panic!("{e}\n{written}"));
            assert_eq!(config.data.dataset.as_deref(), Some(names.dataset));
            assert_eq!(config.train.batch_size, 64);
            assert!(written.lines().all(|line| line.chars().count() <= 80), "{written}");
        }
    }
}
