//! `diptych bench train`: measures a training step on made-up pairs in memory, without disk and
//! decoder.
//!
//! The steps are those of a run: each batch is uploaded while the previous one is computed. A
//! second pass measures the parts of the steps, since waiting for a GPU after each part makes a
//! step slower. Compare figures only with others of the same machine and load.

use std::time::{Duration, Instant};

use anyhow::bail;
use diptych_cli::BenchTrainArgs;
use diptych_pipeline::scores::Measures;
use diptych_pipeline::{Batch, Waited, cpu_seconds};
use diptych_schemas::outcome::Outcome;
use diptych_schemas::{
    LossKind, ObjectiveConfig, OptimizerConfig, Precision, SampleIndex, TrainLoopConfig, Uid,
    durable,
};
use diptych_trainer::{
    Device, DualEncoderConfig, ModelConfig, PartTimes, StepPart, StepReport, Trainer, TrainerSpec,
    flops, set_threads,
};
use diptych_training::prefetcher::{Next, Prefetcher, Ready};
use serde_json::{Value, json};

use super::{MIB, peak_rss, spread_of};
use crate::output::line;

/// The measurements of one step.
struct Taken {
    seconds: f64,
    cpu_seconds: Option<f64>,
    loss: f64,
}

/// All measurements.
struct Report {
    device: Device,
    threads: usize,
    precision: Precision,
    loss: LossKind,
    steps: Vec<Taken>,
    /// Seconds of each step of the second pass, and of its parts.
    timed: Vec<(f64, PartTimes)>,
    flops_per_pair: f64,
    /// Operations a second of large matrix products.
    ceiling: f64,
    /// Peak memory after all steps, in bytes.
    peak_memory: Option<u64>,
}

pub(super) fn run(args: &BenchTrainArgs) -> anyhow::Result<Outcome> {
    let report = measure(args)?;
    for text in as_text(&report, args) {
        line(text)?;
    }
    if let Some(path) = &args.json {
        durable::write(path, serde_json::to_string_pretty(&as_json(&report, args))?.as_bytes())?;
    }
    Ok(Outcome::Done)
}

fn measure(args: &BenchTrainArgs) -> anyhow::Result<Report> {
    let (precision, loss) = (Precision::from(args.precision), LossKind::from(args.loss));
    let model = ModelConfig::named_or_file(&args.model)?;
    let device = Device::parse(&args.device)?;
    let threads = set_threads(args.threads);
    let train = TrainLoopConfig {
        batch_size: args.batch_size,
        micro_batch_size: args.micro_batch_size,
        activation_checkpointing: args.activation_checkpointing,
        precision,
        ..TrainLoopConfig::default()
    };
    let objective = ObjectiveConfig { loss, ..ObjectiveConfig::default() };
    let optimizer =
        OptimizerConfig { clip_grad_norm: args.clip_grad_norm, ..OptimizerConfig::default() };
    let mut trainer = Trainer::new(&TrainerSpec {
        train,
        objective,
        optimizer,
        device,
        ..TrainerSpec::new(model.clone())
    })?;
    let batch = made_up(model.dual_encoder()?, args.batch_size as usize);

    let again = batch.clone();
    let batches = Prefetcher::start(trainer.uploader(), move || Waited::Batch(Ok(again.clone())))?;
    for number in 0..args.warmup {
        let started = Instant::now();
        step(&mut trainer, &batches)?;
        tracing::info!(
            "step {} of {} before the measurement: {:.3} s",
            number + 1,
            args.warmup,
            started.elapsed().as_secs_f64()
        );
    }
    let mut steps = Vec::new();
    let mut flops_per_pair = 0.0;
    for _ in 0..args.steps {
        // A step ends with a wait for the device.
        let (started, cpu_before) = (Instant::now(), cpu_seconds());
        let done = step(&mut trainer, &batches)?;
        steps.push(Taken {
            seconds: started.elapsed().as_secs_f64(),
            cpu_seconds: cpu_before.zip(cpu_seconds()).map(|(before, now)| now - before),
            loss: done.loss,
        });
        flops_per_pair = done.flops / done.samples.max(1) as f64;
    }
    drop(batches);
    let mut timed = Vec::new();
    trainer.time_steps(true);
    for _ in 0..if args.no_parts { 0 } else { args.steps } {
        let started = Instant::now();
        let done = trainer.step(&trainer.uploader().upload(&batch)?)?;
        timed.push((started.elapsed().as_secs_f64(), done.times.unwrap_or_default()));
    }
    let peak_memory = peak_rss();
    let ceiling = flops::matmul_ceiling(device, precision)?;
    Ok(Report {
        device,
        threads,
        precision,
        loss,
        steps,
        timed,
        flops_per_pair,
        ceiling,
        peak_memory,
    })
}

fn step(trainer: &mut Trainer, batches: &Prefetcher) -> anyhow::Result<StepReport> {
    loop {
        match batches.next_within(Duration::MAX)? {
            Next::Ready(Ready { uploaded, .. }) => return Ok(trainer.step(&uploaded)?),
            Next::NotYet => {}
            Next::Ended => bail!("the batches came to an end"),
        }
    }
}

/// Makes pairs that need no file. Pixels and tokens are a multiplicative hash of their place, so
/// that `trainer/benches/` has equal ones.
fn made_up(model: &DualEncoderConfig, pairs: usize) -> Batch {
    let (size, length) = (model.vision.image_size as usize, model.text.context_length as usize);
    // Knuth, "The art of computer programming", volume 3, section 6.4: 2^32 over the golden ratio.
    let hash = |place: usize| (place as u32).wrapping_mul(2_654_435_761);
    let ids = (model.text.vocab_size - 1).max(1) as u32;
    Batch {
        first: SampleIndex(0),
        next: SampleIndex(pairs as u64),
        epoch: 0,
        image_size: size as u32,
        context_length: length,
        images: (0..pairs * size * size * 3).map(|place| (hash(place) >> 24) as u8).collect(),
        // 0 is padding in most vocabularies.
        tokens: (0..pairs * length).map(|place| (1 + (hash(place) >> 8) % ids) as i32).collect(),
        uids: (0..pairs).map(|pair| Uid((pair as u128).to_le_bytes())).collect(),
        captions: vec![String::new(); pairs],
        measures: vec![Measures::default(); pairs],
        skipped: Vec::new(),
    }
}

impl Report {
    /// Returns lowest, median and highest.
    fn seconds(&self) -> Option<[f64; 3]> {
        spread_of(self.steps.iter().map(|step| step.seconds))
    }

    fn cpu_seconds(&self) -> Option<[f64; 3]> {
        spread_of(self.steps.iter().filter_map(|step| step.cpu_seconds))
    }

    fn samples_per_second(&self, pairs: u64) -> Option<[f64; 3]> {
        spread_of(self.steps.iter().map(|step| pairs as f64 / step.seconds.max(1e-9)))
    }

    /// Returns the mean seconds of the timed steps and of their parts. The means of the parts add
    /// up.
    fn parts(&self) -> Option<(f64, Vec<(StepPart, f64)>)> {
        let count = self.timed.len() as f64;
        let whole = self.timed.iter().map(|(seconds, _)| seconds).sum::<f64>() / count;
        let of = |part: StepPart| {
            self.timed.iter().map(|(_, parts)| parts.seconds(part)).sum::<f64>() / count
        };
        (count > 0.0).then(|| (whole, StepPart::ALL.map(|part| (part, of(part))).into()))
    }

    /// Returns the operations a second of the median step.
    fn achieved(&self, pairs: u64) -> Option<f64> {
        Some(self.flops_per_pair * self.samples_per_second(pairs)?[1])
    }
}

fn as_text(report: &Report, args: &BenchTrainArgs) -> Vec<String> {
    let at_once = match args.micro_batch_size {
        0 => String::new(),
        pairs => format!(", {pairs} at once"),
    };
    let checkpointed =
        if args.activation_checkpointing { ", activation checkpointing" } else { "" };
    let mut lines = vec![
        format!(
            "{} on {} ({} threads), {}, {} loss, batches of {}{at_once}{checkpointed}, {} steps \
             after {}",
            args.model,
            report.device,
            report.threads,
            word(json!(report.precision)),
            word(json!(report.loss)),
            args.batch_size,
            args.steps,
            args.warmup
        ),
        String::new(),
        format!("{:<28}{:>10}{:>10}{:>10}", "", "lowest", "median", "highest"),
    ];
    let rows = [
        ("samples/s", report.samples_per_second(args.batch_size)),
        ("seconds a step", report.seconds()),
        ("processor seconds a step", report.cpu_seconds()),
    ];
    for (name, spread) in rows {
        if let Some([lowest, median, highest]) = spread {
            lines.push(format!("{name:<28}{lowest:>10.3}{median:>10.3}{highest:>10.3}"));
        }
    }
    if let Some((whole, parts)) = report.parts() {
        lines.push(String::new());
        lines.push(format!("{:<28}{:>10}{:>10}", "part, in a pass of its own", "seconds", "share"));
        for (part, seconds) in &parts {
            lines.push(format!(
                "{:<28}{seconds:>10.4}{:>9.1}%",
                part.name(),
                100.0 * seconds / whole
            ));
        }
        lines.push(format!("{:<28}{whole:>10.4}", "step"));
    }
    lines.push(String::new());
    let achieved = report.achieved(args.batch_size).unwrap_or(f64::NAN);
    lines.push(format!(
        "{:.3} GFLOP a pair by formula, forward and backward; {:.1} GFLOP/s, and {:.1} in large \
         matrix products: MFU {:.1}%",
        report.flops_per_pair / 1e9,
        achieved / 1e9,
        report.ceiling / 1e9,
        100.0 * achieved / report.ceiling
    ));
    if let Some(bytes) = report.peak_memory {
        let of = if report.device == Device::CPU { "" } else { ", without the GPU's" };
        lines.push(format!("peak memory: {:.0} MiB{of}", bytes as f64 / MIB));
    }
    lines
}

fn as_json(report: &Report, args: &BenchTrainArgs) -> Value {
    let step = |step: &Taken| {
        json!({
            "seconds": step.seconds, "cpu_seconds": step.cpu_seconds, "loss": step.loss,
        })
    };
    let parts = report.parts().map(|(whole, parts)| {
        let parts: serde_json::Map<String, Value> = parts
            .into_iter()
            .map(|(part, seconds)| (part.name().to_owned(), json!(seconds)))
            .collect();
        json!({ "step_seconds": whole, "seconds": parts })
    });
    let achieved = report.achieved(args.batch_size);
    json!({
        "model": args.model, "device": report.device.to_string(), "threads": report.threads,
        "precision": report.precision, "loss": report.loss,
        "batch_size": args.batch_size, "micro_batch_size": args.micro_batch_size,
        "activation_checkpointing": args.activation_checkpointing,
        "steps": report.steps.iter().map(step).collect::<Vec<_>>(),
        "samples_per_second":
            report.samples_per_second(args.batch_size).map(|[_, median, _]| median),
        "parts": parts,
        "flops_per_pair": report.flops_per_pair, "flops_per_second": achieved,
        "ceiling_flops_per_second": report.ceiling,
        "mfu": achieved.map(|achieved| achieved / report.ceiling),
        "peak_rss_bytes": report.peak_memory,
    })
}

/// Returns a value as the configuration writes it.
fn word(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}
