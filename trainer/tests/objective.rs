//! The objectives: compared with OpenCLIP and a plain computation, and with equal gradients for any
//! split of the batch.
#![expect(clippy::unwrap_used, reason = "tests say what is wrong by failing")]

#[path = "common/steps.rs"]
mod steps;

use diptych_pipeline::Batch;
use diptych_schemas::{
    LossKind, ObjectiveConfig, OptimizerConfig, TrainLoopConfig, Uid, WarmupSteps,
};
use diptych_trainer::{ModelConfig, Objective, Scalars, Trainer, TrainerSpec, set_threads};
use steps::Steps;
use tch::{Kind, Tensor};

const SMALL: &str = r#"{"embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2},
    "text_cfg": {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2}}"#;
const N: i64 = 6;

/// Computes sin(0.7·k + phase) at the k-th place of `[6, 4]`, with rows scaled to unit length.
fn features(phase: f64) -> Tensor {
    let values: Vec<f32> = (0..N * 4).map(|k| (0.7 * k as f64 + phase).sin() as f32).collect();
    let x = Tensor::from_slice(&values).reshape([N, 4]);
    let norm = x.norm_scalaropt_dim(2.0, [1_i64].as_slice(), true);
    (x / norm).set_requires_grad(true)
}

fn scalar(value: f64) -> Tensor {
    Tensor::from(value as f32).set_requires_grad(true)
}

fn objective(loss: LossKind) -> ObjectiveConfig {
    ObjectiveConfig { loss, ..ObjectiveConfig::default() }
}

fn close(found: f64, expected: f64, what: &str) {
    assert!(
        (found - expected).abs() < 2e-5 * expected.abs().max(1.0),
        "{what}: {found} instead of {expected}"
    );
}

#[test]
fn sigmoid_loss_and_its_gradients_are_openclips() {
    // open_clip 3.3.0's SigLipLoss on the same features, torch 2.11.0.
    let (image, text, scale, bias) =
        (features(0.0), features(1.3), scalar(10_f64.ln()), scalar(-10.0));
    let scalars = Scalars { logit_scale: &scale, logit_bias: Some(&bias) };
    let loss =
        Objective::new(&objective(LossKind::Siglip)).loss(&image, &text, scalars, None).unwrap();
    loss.backward();
    let norm = |t: &Tensor| t.grad().norm().double_value(&[]);
    close(loss.double_value(&[]), 7.739_243_984, "loss");
    close(scale.grad().double_value(&[]), 0.647_248_089, "logit scale");
    close(bias.grad().double_value(&[]), -0.638_142_884, "logit bias");
    close(norm(&image), 3.979_272_604, "images");
    close(norm(&text), 4.021_040_917, "texts");
}

#[test]
fn label_smoothing_is_torchs() {
    let (image, text, scale) = (features(0.0), features(1.3), scalar(10_f64.ln()));
    let config = ObjectiveConfig { label_smoothing: 0.1, ..objective(LossKind::Clip) };
    let loss = Objective::new(&config)
        .loss(&image, &text, Scalars { logit_scale: &scale, logit_bias: None }, None)
        .unwrap();
    loss.backward();
    close(loss.double_value(&[]), 6.489_438_534, "loss");
    close(scale.grad().double_value(&[]), 6.202_308_655, "logit scale");
    close(image.grad().norm().double_value(&[]), 4.787_187_099, "images");
}

/// Computes both losses as in the papers, pair by pair in f64, without the pairs of equal captions.
#[test]
fn pairs_with_the_same_caption_are_not_each_others_negatives() {
    let captions = [0_i64, 1, 0, 3, 1, 0];
    let (image, text) = (features(0.0), features(1.3));
    let (scale, bias) = (3.0_f64.ln(), -1.0);
    let rows =
        |t: &Tensor| -> Vec<Vec<f64>> { Vec::try_from(t.detach().to_kind(Kind::Double)).unwrap() };
    let (a, b) = (rows(&image), rows(&text));
    let logit = |i: usize, j: usize, bias: f64| {
        a[i].iter().zip(&b[j]).map(|(x, y)| x * y).sum::<f64>() * scale.exp() + bias
    };
    let counts = |i: usize, j: usize| i == j || captions[i] != captions[j];
    let n = N as usize;
    let (mut clip, mut sigmoid) = (0.0, 0.0);
    for i in 0..n {
        let of_image: f64 = (0..n).filter(|&j| counts(i, j)).map(|j| logit(i, j, 0.0).exp()).sum();
        let of_text: f64 = (0..n).filter(|&j| counts(i, j)).map(|j| logit(j, i, 0.0).exp()).sum();
        clip += f64::midpoint(of_image.ln(), of_text.ln()) - logit(i, i, 0.0);
        for j in (0..n).filter(|&j| counts(i, j)) {
            let y = if i == j { 1.0 } else { -1.0 };
            sigmoid += (1.0 + (-y * logit(i, j, bias)).exp()).ln();
        }
    }
    let caption_n = Tensor::from_slice(&captions);
    for (kind, expected) in [(LossKind::Clip, clip), (LossKind::Siglip, sigmoid)] {
        let (scale, bias) = (scalar(scale), scalar(bias));
        let scalars = Scalars {
            logit_scale: &scale,
            logit_bias: (kind == LossKind::Siglip).then_some(&bias),
        };
        let config = ObjectiveConfig { mask_duplicate_captions: true, ..objective(kind) };
        let loss = Objective::new(&config).loss(&image, &text, scalars, Some(&caption_n)).unwrap();
        close(loss.double_value(&[]), expected / n as f64, &format!("{kind:?}"));
        loss.backward();
        assert!(
            image.grad().isfinite().all().int64_value(&[]) == 1,
            "{kind:?}: a gradient is not finite"
        );
    }
}

fn batch(pairs: usize) -> Batch {
    let noise = |n: usize| (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    Batch {
        image_size: 16,
        context_length: 8,
        images: (0..pairs * 16 * 16 * 3).map(|n| noise(n) as u8).collect(),
        // Some texts occur twice.
        tokens: (0..pairs * 8).map(|n| (noise((n / 8 % 5) * 8 + n % 8 + 7) % 100) as i32).collect(),
        uids: vec![Uid([0; 16]); pairs],
        captions: vec![String::new(); pairs],
        ..Batch::default()
    }
}

fn trainer(objective: ObjectiveConfig, micro_batch_size: u64) -> Trainer {
    set_threads(2);
    let spec = TrainerSpec {
        optimizer: OptimizerConfig {
            warmup_steps: WarmupSteps::Steps(0),
            ..OptimizerConfig::default()
        },
        objective,
        train: TrainLoopConfig { batch_size: 11, micro_batch_size, ..TrainLoopConfig::default() },
        total_steps: 100,
        seed: 3,
        ..TrainerSpec::new(ModelConfig::parse(SMALL).unwrap())
    };
    Trainer::new(&spec).unwrap()
}

#[test]
fn gradient_is_the_same_however_batch_and_similarities_are_cut() {
    for loss in [LossKind::Clip, LossKind::Siglip] {
        for mask_duplicate_captions in [false, true] {
            let whole = ObjectiveConfig { mask_duplicate_captions, ..objective(loss) };
            let mut expected = trainer(whole.clone(), 0);
            let report = expected.step_host(&batch(11)).unwrap();
            for (micro_batch_size, chunk) in
                [(1, 0), (4, 0), (4, 3), (0, 1), (0, 5), (10, 100), (50, 11)]
            {
                let mut cut = trainer(ObjectiveConfig { chunk, ..whole.clone() }, micro_batch_size);
                let found = cut.step_host(&batch(11)).unwrap();
                let what = format!(
                    "{loss:?}, duplicates {mask_duplicate_captions}, micro {micro_batch_size}, \
                     chunk {chunk}"
                );
                close(found.loss, report.loss, &what);
                for ((name, a), b) in cut
                    .model()
                    .names()
                    .iter()
                    .zip(cut.model().parameters())
                    .zip(expected.model().parameters())
                {
                    let (a, b) = (a.grad(), b.grad());
                    let norm = b.norm().double_value(&[]);
                    let difference = (&a - &b).norm().double_value(&[]);
                    // Relative, except for gradients that consist of rounding only.
                    assert!(
                        difference <= 1e-5 * norm.max(1e-3),
                        "{what}: {name} differs by {difference} of {norm}"
                    );
                }
            }
        }
    }
}

#[test]
fn model_learns_with_either_loss_and_the_bias_moves() {
    for loss in [LossKind::Clip, LossKind::Siglip] {
        let mut trainer = trainer(objective(loss), 4);
        let first = trainer.step_host(&batch(11)).unwrap().loss;
        let last = (0..30).map(|_| trainer.step_host(&batch(11)).unwrap().loss).last().unwrap();
        assert!(last < 0.9 * first, "{loss:?}: from {first} to {last}");
        assert_eq!(trainer.model().parameter("logit_bias").is_some(), loss == LossKind::Siglip);
        if let Some(bias) = trainer.model().parameter("logit_bias") {
            assert!((bias.double_value(&[]) + 10.0).abs() > 1e-3, "the bias did not move");
        }
    }
}
