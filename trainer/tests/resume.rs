//! A resumed run equals an uninterrupted one bit for bit, also in another process.
//!
//! A damaged or incomplete checkpoint is never taken for a complete one.
#![expect(
    clippy::unwrap_used,
    reason = "tests say what is wrong by failing, and that they were skipped"
)]

#[path = "common/saved.rs"]
mod saved;
#[path = "common/steps.rs"]
mod steps;

use std::path::{Path, PathBuf};
use std::process::Command;

use diptych_pipeline::Batch;
use diptych_schemas::{OptimizerConfig, SampleIndex, Step, TrainLoopConfig, Uid, WarmupSteps};
use diptych_trainer::{
    Device, Encoder, ModelConfig, Saver, StepReport, Trainer, TrainerError, TrainerSpec, Weights,
    checkpoint, set_threads,
};
use saved::{meta, save};
use steps::Steps;

const SMALL: &str = r#"{"embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2},
    "text_cfg": {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2}}"#;
const BATCH: usize = 8;

fn config() -> ModelConfig {
    ModelConfig::parse(SMALL).unwrap()
}

fn trainer() -> Trainer {
    set_threads(2);
    let optimizer = OptimizerConfig {
        lr: 1e-3,
        warmup_steps: WarmupSteps::Steps(2),
        clip_grad_norm: 1.0,
        ..OptimizerConfig::default()
    };
    Trainer::new(&TrainerSpec { optimizer, ..spec() }).unwrap()
}

fn spec() -> TrainerSpec {
    TrainerSpec {
        train: TrainLoopConfig { batch_size: BATCH as u64, ..TrainLoopConfig::default() },
        total_steps: 12,
        seed: 5,
        ..TrainerSpec::new(config())
    }
}

/// Makes the n-th batch: noise that depends only on n.
fn batch(n: u64) -> Batch {
    let mut state = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        // xorshift64, Marsaglia 2003.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    Batch {
        image_size: 16,
        context_length: 8,
        images: (0..BATCH * 16 * 16 * 3).map(|_| next() as u8).collect(),
        tokens: (0..BATCH * 8).map(|_| (next() % 100) as i32).collect(),
        uids: vec![Uid([0; 16]); BATCH],
        captions: vec![String::new(); BATCH],
        ..Batch::default()
    }
}

fn steps(trainer: &mut Trainer, count: u64) -> Vec<StepReport> {
    (0..count).map(|_| trainer.step_host(&batch(trainer.steps_done())).unwrap()).collect()
}

#[test]
fn same_seed_gives_the_same_run_and_another_seed_another() {
    let (mut a, mut b) = (trainer(), trainer());
    assert_eq!(steps(&mut a, 3), steps(&mut b, 3));
    let mut other = Trainer::new(&TrainerSpec { seed: 6, ..spec() }).unwrap();
    assert_ne!(steps(&mut other, 1)[0].loss, steps(&mut trainer(), 1)[0].loss);
}

#[test]
fn moving_average_follows_the_weights_and_is_restored_with_them() {
    let scratch = tempfile::tempdir().unwrap();
    let spec = TrainerSpec { train: TrainLoopConfig { ema_decay: 0.6, ..spec().train }, ..spec() };
    let mut run = Trainer::new(&spec).unwrap();
    // By hand, for one weight: it keeps min(0.6, (1 + n) / (10 + n)) of its value.
    let watched = |run: &Trainer| run.model().parameters()[3].flatten(0, -1).double_value(&[0]);
    let mut expected = watched(&run);
    for n in 1..=12_u32 {
        steps(&mut run, 1);
        let decay = 0.6_f64.min(f64::from(1 + n) / f64::from(10 + n));
        expected = decay * expected + (1.0 - decay) * watched(&run);
    }
    let folder = scratch.path().join("12");
    save(&run, &folder);
    let bytes = std::fs::read(folder.join("average.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let first = file.tensor(&run.model().names()[3]).unwrap().data()[..4].try_into().unwrap();
    assert!((f64::from(f32::from_le_bytes(first)) - expected).abs() < 1e-6);

    // The average encodes differently from the weights, and identically from a file and from the
    // run.
    let batch = batch(0);
    let encode = |encoder: &Encoder| encoder.encode_images(&batch.images).unwrap();
    let average = encode(&run.average_encoder().unwrap().unwrap());
    assert_ne!(average, encode(&run.encoder().unwrap()));
    let read = Weights::read_average(&folder).unwrap();
    assert_eq!(encode(&Encoder::from_weights(&read, Device::CPU).unwrap()), average);

    let mut resumed = Trainer::new(&spec).unwrap();
    resumed.restore(&folder).unwrap();
    steps(&mut run, 3);
    steps(&mut resumed, 3);
    assert_eq!(
        save(&resumed, &scratch.path().join("resumed")),
        save(&run, &scratch.path().join("whole"))
    );

    // A run without an average has nothing to read.
    save(&trainer(), &scratch.path().join("plain"));
    assert!(
        Weights::read_average(&scratch.path().join("plain"))
            .err()
            .unwrap()
            .to_string()
            .contains("train.ema_decay")
    );
    assert!(Trainer::new(&spec).unwrap().restore(&scratch.path().join("plain")).is_err());
}

#[test]
fn restored_run_equals_an_uninterrupted_one_bit_for_bit() {
    let scratch = tempfile::tempdir().unwrap();
    let mut whole = trainer();
    steps(&mut whole, 3);
    save(&whole, &scratch.path().join("3"));
    let expected = steps(&mut whole, 4);

    let mut resumed = trainer();
    let manifest = resumed.restore(&scratch.path().join("3")).unwrap();
    assert_eq!((manifest.step, manifest.samples, manifest.epoch), (Step(3), SampleIndex(24), 1));
    assert_eq!(steps(&mut resumed, 4), expected);
    // The hashes of all files: weights, both moments, number of updates.
    assert_eq!(
        save(&resumed, &scratch.path().join("resumed")),
        save(&whole, &scratch.path().join("whole"))
    );
}

/// Runs this very test in a separate process.
///
/// That process starts from `DIPTYCH_RESUME_FROM`, if set, runs up to a step, and saves there.
#[test]
fn run_resumed_in_another_process_equals_an_uninterrupted_one_bit_for_bit() {
    const SELF: &str = "run_resumed_in_another_process_equals_an_uninterrupted_one_bit_for_bit";
    if let Some(save_to) = std::env::var_os("DIPTYCH_RESUME_SAVE") {
        let mut trainer = trainer();
        if let Some(from) = std::env::var_os("DIPTYCH_RESUME_FROM") {
            trainer.restore(Path::new(&from)).unwrap();
        }
        let until: u64 = std::env::var("DIPTYCH_RESUME_UNTIL").unwrap().parse().unwrap();
        let missing = until - trainer.steps_done();
        steps(&mut trainer, missing);
        save(&trainer, Path::new(&save_to));
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let run = |from: Option<&Path>, until: u64, name: &str| -> PathBuf {
        let folder = scratch.path().join(name);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", SELF])
            .env("DIPTYCH_RESUME_SAVE", &folder)
            .env("DIPTYCH_RESUME_UNTIL", until.to_string());
        if let Some(from) = from {
            command.env("DIPTYCH_RESUME_FROM", from);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        folder
    };
    let half = run(None, 4, "half");
    let resumed = checkpoint::verify(&run(Some(&half), 9, "resumed")).unwrap();
    let whole = checkpoint::verify(&run(None, 9, "whole")).unwrap();
    assert_eq!(resumed, whole);
    assert_ne!(
        resumed.files["model.safetensors"],
        checkpoint::verify(&half).unwrap().files["model.safetensors"]
    );
}

#[test]
fn bytes_of_the_loader_are_normalised_as_openclip_does() {
    let (mut by_bytes, mut by_floats) = (trainer(), trainer());
    let batch = batch(0);
    let mut floats = Vec::new();
    for image in batch.images.chunks_exact(16 * 16 * 3) {
        for channel in 0..3 {
            let (mean, std) = (
                diptych_trainer::IMAGE_MEAN[channel] as f32,
                diptych_trainer::IMAGE_STD[channel] as f32,
            );
            floats.extend(
                image.iter().skip(channel).step_by(3).map(|&v| (f32::from(v) / 255.0 - mean) / std),
            );
        }
    }
    let (a, b) = (
        by_bytes.step_host(&batch).unwrap(),
        by_floats.step_normalised(&floats, &batch.tokens).unwrap(),
    );
    assert!(
        (a.loss - b.loss).abs() < 1e-6 && (a.grad_norm - b.grad_norm).abs() < 1e-4,
        "{a:?} {b:?}"
    );
}

#[test]
fn batch_without_a_usable_image_moves_the_schedule_and_nothing_else() {
    let scratch = tempfile::tempdir().unwrap();
    let mut trainer = trainer();
    let before = save(&trainer, &scratch.path().join("before"));
    let empty = Batch { image_size: 16, context_length: 8, ..Batch::default() };
    let report = trainer.step_host(&empty).unwrap();
    assert_eq!((report.step, report.samples, report.loss), (Step(1), 0, 0.0));
    let after = save(&trainer, &scratch.path().join("after"));
    assert_eq!(after.files, before.files);
    assert_eq!(after.step, Step(1));
}

#[test]
fn nan_in_the_gradient_changes_nothing_but_the_schedule_and_is_said() {
    let scratch = tempfile::tempdir().unwrap();
    let mut trainer = trainer();
    steps(&mut trainer, 2);
    let before = save(&trainer, &scratch.path().join("before"));
    let mut images = vec![0.5_f32; BATCH * 3 * 16 * 16];
    images[7] = f32::NAN;
    let report = trainer.step_normalised(&images, &batch(0).tokens).unwrap();
    assert!(report.skipped && report.step == Step(3) && report.loss.is_nan(), "{report:?}");
    // Weights, moments and the number of updates are unchanged. Only the schedule advanced.
    assert_eq!(save(&trainer, &scratch.path().join("after")).files, before.files);
    assert!(steps(&mut trainer, 1)[0].loss.is_finite());
}

#[test]
fn run_that_goes_back_to_older_weights_goes_on_at_the_step_where_it_was() {
    let scratch = tempfile::tempdir().unwrap();
    let mut first = trainer();
    steps(&mut first, 2);
    let old = save(&first, &scratch.path().join("old"));
    steps(&mut first, 3);
    first.restore(&scratch.path().join("old")).unwrap();
    first.pass_to(Step(5));
    assert_eq!(save(&first, &scratch.path().join("back")).files, old.files);
    // As if steps 3 to 5 had never happened, with the learning rate of step 6.
    let mut other = trainer();
    other.restore(&scratch.path().join("old")).unwrap();
    other.pass_to(Step(5));
    let reports = steps(&mut first, 2);
    assert_eq!(steps(&mut other, 2), reports);
    let mut whole = trainer();
    assert_eq!(reports[0].lr, steps(&mut whole, 6)[5].lr);
    assert_ne!(reports[0].loss, whole.step_host(&batch(6)).unwrap().loss);
}

#[test]
fn batches_that_do_not_fit_the_model_are_refused_in_words() {
    let mut trainer = trainer();
    let said = |trainer: &mut Trainer, change: &dyn Fn(&mut Batch)| {
        let mut batch = batch(0);
        change(&mut batch);
        trainer.step_host(&batch).unwrap_err().to_string()
    };
    assert!(said(&mut trainer, &|b| b.image_size = 32).contains("16 pixels"));
    assert!(said(&mut trainer, &|b| b.tokens[3] = 100).contains("token id 100"));
    assert!(said(&mut trainer, &|b| b.tokens.truncate(8)).contains("8 images and 1 texts"));
    assert!(said(&mut trainer, &|b| b.images.truncate(100)).contains("100 bytes"));
    assert_eq!(trainer.steps_done(), 0);
}

#[test]
fn damaged_checkpoint_is_refused_by_hash_and_the_older_one_is_found() {
    let scratch = tempfile::tempdir().unwrap();
    let mut trainer = trainer();
    for step in 1..=3 {
        steps(&mut trainer, 1);
        save(&trainer, &scratch.path().join(format!("step-{step}")));
    }
    let flip = |file: &str, at: usize| {
        let path = scratch.path().join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at] ^= 1;
        diptych_schemas::durable::write(&path, &bytes).unwrap();
    };
    flip("step-3/model.safetensors", 20_000);
    let manifest = std::fs::read_to_string(scratch.path().join("step-2/manifest.json")).unwrap();
    flip("step-2/manifest.json", manifest.find("\"samples\": 24").unwrap() + 12);
    // Left behind by a killed writer.
    std::fs::create_dir(scratch.path().join("step-4.incomplete")).unwrap();

    let error = trainer.restore(&scratch.path().join("step-3")).unwrap_err().to_string();
    assert!(error.contains("model.safetensors has sha256"), "{error}");
    assert!(Encoder::load(&scratch.path().join("step-3"), None, Device::CPU).is_err());

    let scan = checkpoint::scan(scratch.path()).unwrap();
    assert_eq!(scan.valid.iter().map(|found| found.manifest.step.0).collect::<Vec<_>>(), [1]);
    assert_eq!(scan.invalid.len(), 2);
    assert!(matches!(scan.invalid[0].1, TrainerError::Damaged { .. }));
    let (newest, rejected) = checkpoint::newest(scratch.path()).unwrap();
    assert_eq!(newest.unwrap().folder, scratch.path().join("step-1"));
    assert_eq!(rejected.len(), 2);

    assert_eq!(checkpoint::remove_unfinished(scratch.path()).unwrap(), 1);
    checkpoint::remove(&scratch.path().join("step-3")).unwrap();
    assert_eq!(checkpoint::scan(scratch.path()).unwrap().invalid.len(), 1);
}

#[test]
fn failed_save_leaves_older_checkpoints_alone_and_nothing_half_written() {
    let scratch = tempfile::tempdir().unwrap();
    let mut trainer = trainer();
    save(&trainer, &scratch.path().join("step-0"));
    steps(&mut trainer, 1);
    // A folder cannot be created inside a file.
    diptych_schemas::durable::write(&scratch.path().join("taken"), b"").unwrap();
    let mut saver = Saver::new();
    assert!(saver.start(&trainer, scratch.path().join("taken/step-1"), meta()).unwrap().is_none());
    let saved = saver.finish().unwrap();
    assert_eq!(saved.step, Step(1));
    assert!(saved.result.unwrap_err().to_string().contains("taken"));
    let scan = checkpoint::scan(scratch.path()).unwrap();
    assert_eq!((scan.valid.len(), scan.invalid.len()), (1, 0));
}

#[test]
fn saver_writes_beside_training_what_a_plain_save_writes() {
    let scratch = tempfile::tempdir().unwrap();
    let mut trainer = trainer();
    let mut saver = Saver::new();
    saver.reserve(&trainer).unwrap();
    steps(&mut trainer, 1);
    let plain = save(&trainer, &scratch.path().join("plain"));
    assert!(saver.start(&trainer, scratch.path().join("a"), meta()).unwrap().is_none());
    // Training continues in place while the snapshot is written.
    steps(&mut trainer, 2);
    let first = saver.start(&trainer, scratch.path().join("b"), meta()).unwrap().unwrap();
    assert_eq!(first.result.unwrap(), plain);
    assert_eq!(saver.finish().unwrap().step, Step(3));
    assert!(saver.finish().is_none() && saver.poll().is_none());
    // Saving to the same place is no error with the same content, and replaces other content.
    assert_eq!(save(&trainer, &scratch.path().join("b")).step, Step(3));
    assert_eq!(save(&trainer, &scratch.path().join("a")).step, Step(3));
    assert_eq!(checkpoint::scan(scratch.path()).unwrap().valid.len(), 3);
}

#[test]
fn checkpoint_encodes_as_the_trainer_does_and_refuses_another_model() {
    let scratch = tempfile::tempdir().unwrap();
    let mut trainer = trainer();
    steps(&mut trainer, 2);
    let folder = scratch.path().join("c");
    save(&trainer, &folder);
    let batch = batch(3);
    let (loaded, shared) =
        (Encoder::load(&folder, None, Device::CPU).unwrap(), trainer.encoder().unwrap());
    let features = loaded.encode_images(&batch.images).unwrap();
    assert_eq!(features, shared.encode_images(&batch.images).unwrap());
    assert_eq!(
        loaded.encode_tokens(&batch.tokens).unwrap(),
        shared.encode_tokens(&batch.tokens).unwrap()
    );
    assert_eq!(loaded.hash().unwrap(), shared.hash().unwrap());
    for row in features.chunks_exact(loaded.dimension()) {
        assert!((row.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-5);
    }

    let weights = Weights::read(&folder, None).unwrap();
    assert_eq!(weights.config, config());
    let mut other = config();
    other.dual_encoder_mut().unwrap().quick_gelu = true;
    let mut other = Trainer::new(&TrainerSpec { model: other, ..spec() }).unwrap();
    let error = other.restore(&folder).unwrap_err().to_string();
    assert!(error.contains("quick_gelu"), "{error}");
}
