//! The benchmark of a training step, as a user sees it.

use diptych_tests::{Work, messages};
use serde_json::Value;

const SMALL: [&str; 11] = [
    "bench",
    "train",
    "demo",
    "--device",
    "cpu",
    "--threads",
    "2",
    "--batch-size",
    "8",
    "--steps",
    "3",
];
const PARTS: [&str; 6] =
    ["preparation", "image forward", "text forward", "loss", "backward", "optimizer"];

/// Runs the benchmark with these options. Returns its output and its JSON report.
fn bench(work: &Work, options: &[&str]) -> (String, Value) {
    let text =
        work.diptych(&[&SMALL[..], &["--json", "report.json"], options].concat()).ok().stdout;
    (text, serde_json::from_str(&work.read("report.json")).unwrap())
}

/// Returns the number behind a row's name.
fn row(text: &str, name: &str) -> f64 {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{name} ")))
        .unwrap_or_else(|| panic!("{name}\n{text}"));
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn printed_parts_of_a_step_add_up_to_the_step_whole_or_in_micro_batches() {
    let work = Work::new();
    for (micro_batch, message) in [("0", "train"), ("3", "train_in_micro_batches")] {
        let (text, report) = bench(&work, &["--micro-batch-size", micro_batch]);
        let (sum, step) =
            (PARTS.map(|part| row(&text, part)).iter().sum::<f64>(), row(&text, "step"));
        // Parts are printed to a tenth of a millisecond. Only counting and reporting lie outside of
        // them.
        assert!(sum < step + 7e-4 && sum > 0.95 * step - 7e-4, "{sum} of {step}\n{text}");
        for part in ["image forward", "text forward", "backward", "optimizer"] {
            assert!(report["parts"]["seconds"][part].as_f64().unwrap() > 0.0, "{part}\n{text}");
        }
        assert_eq!(report["steps"].as_array().unwrap().len(), 3);
        let mfu = report["mfu"].as_f64().unwrap();
        assert!(mfu > 0.0 && mfu < 1.0, "{text}");
        assert!(report["peak_rss_bytes"].as_u64().unwrap() > 50 << 20, "{text}");
        messages::check_without_figures("bench", message, &text);
    }
}

#[test]
fn options_reach_the_step() {
    let work = Work::new();
    let first_loss = |options: &[&str]| {
        let (text, report) = bench(&work, &[&["--no-parts", "--warmup", "0"], options].concat());
        assert!(!text.contains("image forward") && report["parts"].is_null(), "{text}");
        report["steps"][0]["loss"].as_f64().unwrap()
    };
    // The same pairs and weights: rounding apart, the same loss, whole or in parts.
    let (whole, parts, half) = (
        first_loss(&[]),
        first_loss(&["--micro-batch-size", "3"]),
        first_loss(&["--precision", "bf16"]),
    );
    assert!(
        (whole - parts).abs() < 1e-4 && (whole - half).abs() < 0.05 && whole != half,
        "{whole} {parts} {half}"
    );
    // SigLIP starts with scale 10 and bias -10. Each of the 8 pairs costs about 10 - 10·cos, the
    // other combinations nearly nothing.
    let siglip = first_loss(&["--loss", "siglip"]);
    assert!(siglip > 5.0 && siglip < 15.0, "{siglip}");

    work.diptych(&["bench", "train", "ViT-B-33"]).fails(1, "unknown_model").names(&["ViT-B-33"]);
    work.diptych(&["bench", "train", "demo", "--device", "cuda:99"])
        .fails(1, "no_such_device")
        .names(&["cuda:99"]);
    assert_eq!(work.diptych(&["bench", "train", "demo", "--batch-size", "0"]).code, Some(2));
}
