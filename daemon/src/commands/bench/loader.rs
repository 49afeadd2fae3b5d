//! `diptych bench loader`: measures each stage of the loader on the user's own data, next to bare
//! decoding of the same images.

use std::sync::Arc;

use diptych_cli::BenchLoaderArgs;
use diptych_embeddings::pairs::chosen_pairs;
use diptych_pipeline::{
    BenchReport, BenchRound, BenchSpec, DataSource, LoaderSpec, Rate, StageStats, Tokenizer,
    bench_loader,
};
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::thousands;
use diptych_schemas::{LoaderConfig, SampleIndex};
use serde_json::{Value, json};

use super::{MIB, peak_rss, spread_of};
use crate::output::line;

pub(super) fn run(args: &BenchLoaderArgs) -> anyhow::Result<Outcome> {
    let selection = chosen_pairs(&args.dataset.dataset, &args.pairs_of.choice())?;
    let tokenizer = match &args.tokenizer {
        Some(path) => Tokenizer::from_file(path)?,
        None => Tokenizer::clip()?,
    };
    let config = LoaderConfig {
        threads: args.threads,
        queue_mib: args.queue_mib,
        window_row_groups: args.window_row_groups.max(1),
        ..LoaderConfig::default()
    };
    let of = selection.len() as u64;
    let spec = BenchSpec {
        loader: LoaderSpec {
            sources: vec![DataSource {
                dataset: args.dataset.dataset.clone(),
                selection: Arc::new(selection),
                weight: 1.0,
                captions: Vec::new(),
            }],
            tokenizer: Arc::new(tokenizer),
            image_size: args.image_size,
            context_length: args.context_length,
            batch_size: args.batch_size,
            seed: 0,
            augment: diptych_schemas::AugmentConfig::default(),
            config,
            start: SampleIndex(0),
            epochs: 1,
            rank: 0,
            ranks: 1,
        },
        pairs: args.pairs,
        rounds: args.rounds as usize,
        epochs: args.epochs,
        bare: !args.no_bare,
    };
    let mut number = 0;
    let report = bench_loader(spec, &mut |round| {
        number += 1;
        tracing::info!("round {number} of {}: {}", args.rounds, in_words(round));
    })?;
    if args.json {
        line(serde_json::to_string_pretty(&as_json(&report, args, of))?)?;
    } else {
        for text in as_text(&report, args, of) {
            line(text)?;
        }
    }
    Ok(Outcome::Done)
}

fn in_words(round: &BenchRound) -> String {
    let loader = format!("loader {} images/s", thousands(round.loader.per_second() as u64));
    match (round.bare, round.ratio()) {
        (Some(bare), Some(ratio)) => {
            format!(
                "{loader}, bare decoding {} images/s, ratio {ratio:.3}",
                thousands(bare.per_second() as u64)
            )
        }
        _ => loader,
    }
}

/// Returns lowest, median and highest of a figure of each round, or nothing if it was not measured.
fn spread(report: &BenchReport, of: impl Fn(&BenchRound) -> Option<f64>) -> Option<[f64; 3]> {
    spread_of(report.rounds.iter().filter_map(of))
}

/// The number of images that went through the loader, and the time it took.
fn totals(report: &BenchReport) -> (f64, f64) {
    let images =
        report.rounds.iter().map(|round| round.loader.images + round.skipped).sum::<u64>() as f64;
    (images, report.rounds.iter().map(|round| round.loader.seconds).sum())
}

/// Images a second of a core that does nothing else, and the share of its threads' time in which
/// the stage worked.
fn pace(stage: &StageStats, images: f64, seconds: f64) -> (f64, f64) {
    let busy = stage.busy.as_secs_f64();
    (images / busy.max(1e-9), busy / (seconds * stage.threads as f64).max(1e-9))
}

fn as_text(report: &BenchReport, args: &BenchLoaderArgs, of: u64) -> Vec<String> {
    let (images, seconds) = totals(report);
    let files = report
        .file_bytes
        .map_or_else(String::new, |bytes| format!(" ({:.0} MiB as files)", bytes as f64 / MIB));
    let mut lines = vec![
        format!(
            "{} of {} pairs{files}: {} rounds of {} passes, batches of {}, {} px, {} tokens",
            thousands(report.pairs),
            thousands(of),
            report.rounds.len(),
            thousands(report.epochs),
            args.batch_size,
            args.image_size,
            args.context_length
        ),
        String::new(),
        format!("{:<14}{:>8}{:>18}{:>8}", "stage", "threads", "images/s a core", "busy"),
    ];
    for stage in &report.stats.stages {
        let (rate, busy) = pace(stage, images, seconds);
        lines.push(format!(
            "{:<14}{:>8}{:>18}{:>7.0}%",
            stage.stage,
            stage.threads,
            thousands(rate as u64),
            100.0 * busy
        ));
    }
    let (encoded, decoded) = report.stats.peak_bytes;
    lines.push(String::new());
    lines.push(format!(
        "bytes in flight: at most {:.1} MiB encoded and {:.1} MiB decoded, of {} MiB allowed{}",
        encoded as f64 / MIB,
        decoded as f64 / MIB,
        args.queue_mib,
        peak_rss().map_or_else(String::new, |bytes| format!(
            "; the process held {:.0} MiB at most",
            bytes as f64 / MIB
        ))
    ));
    lines.push(format!("limited by {}", report.stats.limiting_stage()));
    let skipped: u64 = report.rounds.iter().map(|round| round.skipped).sum();
    if skipped > 0 {
        lines.push(format!(
            "{} times an image could not be used and was passed over",
            thousands(skipped)
        ));
    }
    lines.push(String::new());
    lines.push(format!("{:<40}{:>10}{:>10}{:>10}", "", "lowest", "median", "highest"));
    let rates = [
        (
            "loader, images/s in ready batches",
            spread(report, |round| Some(round.loader.per_second())),
        ),
        ("bare libjpeg-turbo, images/s", spread(report, |round| round.bare.map(Rate::per_second))),
        ("loader, images a CPU second", spread(report, |round| round.loader.per_cpu_second())),
        (
            "bare libjpeg-turbo, images a CPU second",
            spread(report, |round| round.bare?.per_cpu_second()),
        ),
    ];
    for (name, spread) in rates {
        if let Some(values) = spread {
            let [lowest, median, highest] = values.map(|value| thousands(value as u64));
            lines.push(format!("{name:<40}{lowest:>10}{median:>10}{highest:>10}"));
        }
    }
    let ratios = [
        ("ratio, round by round", spread(report, BenchRound::ratio)),
        ("ratio by CPU time, round by round", spread(report, BenchRound::cpu_ratio)),
    ];
    for (name, spread) in ratios {
        if let Some([lowest, median, highest]) = spread {
            lines.push(format!("{name:<40}{lowest:>10.3}{median:>10.3}{highest:>10.3}"));
        }
    }
    if report.other_formats > 0 {
        lines.push(format!(
            "{} of the files are not JPEG: bare decoding has them through the loader's own \
             decoders",
            thousands(report.other_formats)
        ));
    }
    lines
}

fn as_json(report: &BenchReport, args: &BenchLoaderArgs, of: u64) -> Value {
    let (images, seconds) = totals(report);
    let stage = |stage: &StageStats| {
        let (rate, busy) = pace(stage, images, seconds);
        json!({
            "stage": stage.stage, "threads": stage.threads,
            "images_per_second_per_core": rate, "busy_share": busy,
            "busy_seconds": stage.busy.as_secs_f64(),
            "waiting_for_input_seconds": stage.waiting_for_input.as_secs_f64(),
            "waiting_for_output_seconds": stage.waiting_for_output.as_secs_f64(),
        })
    };
    let round = |round: &BenchRound| {
        json!({
            "loader_images_per_second": round.loader.per_second(),
            "bare_images_per_second": round.bare.map(Rate::per_second),
            "ratio": round.ratio(),
            "loader_images_per_cpu_second": round.loader.per_cpu_second(),
            "bare_images_per_cpu_second": round.bare.and_then(Rate::per_cpu_second),
            "cpu_ratio": round.cpu_ratio(),
            "images": round.loader.images,
            "skipped": round.skipped,
        })
    };
    json!({
        "pairs": report.pairs, "of": of, "file_bytes": report.file_bytes,
        "other_formats": report.other_formats,
        "batch_size": args.batch_size, "image_size": args.image_size,
        "context_length": args.context_length,
        "queue_mib": args.queue_mib, "epochs_per_round": report.epochs,
        "rounds": report.rounds.iter().map(round).collect::<Vec<_>>(),
        "stages": report.stats.stages.iter().map(stage).collect::<Vec<_>>(),
        "peak_encoded_bytes": report.stats.peak_bytes.0,
        "peak_decoded_bytes": report.stats.peak_bytes.1,
        "peak_rss_bytes": peak_rss(),
        "limited_by": report.stats.limiting_stage(),
        "median_ratio": spread(report, BenchRound::ratio).map(|[_, median, _]| median),
        "median_cpu_ratio": spread(report, BenchRound::cpu_ratio).map(|[_, median, _]| median),
    })
}
