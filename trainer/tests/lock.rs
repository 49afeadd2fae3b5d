//! Locked towers keep their bits, build no graph and have no moments. The rest learns as without
//! locks, and runs resume exactly.
#![expect(clippy::unwrap_used, reason = "tests say what is wrong by failing")]

#[path = "common/saved.rs"]
mod saved;
#[path = "common/steps.rs"]
mod steps;

use diptych_schemas::{LockConfig, OptimizerConfig, Precision, TrainLoopConfig, WarmupSteps};
use diptych_trainer::{ModelConfig, StepReport, Trainer, TrainerSpec, checkpoint, set_threads};
use saved::save;
use steps::Steps;
use tch::{Kind, Tensor};

const SMALL: &str = r#"{"embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 2},
    "text_cfg": {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2}}"#;
const BATCH: usize = 8;
const IMAGE: LockConfig =
    LockConfig { image: true, image_unlocked_groups: 0, text: false, text_unlocked_layers: 0 };
const BOTH: LockConfig = LockConfig { text: true, ..IMAGE };

fn spec(lock: LockConfig) -> TrainerSpec {
    set_threads(2);
    TrainerSpec {
        optimizer: OptimizerConfig {
            lr: 1e-3,
            warmup_steps: WarmupSteps::Steps(2),
            ..OptimizerConfig::default()
        },
        train: TrainLoopConfig { batch_size: BATCH as u64, lock, ..TrainLoopConfig::default() },
        total_steps: 12,
        seed: 5,
        ..TrainerSpec::new(ModelConfig::parse(SMALL).unwrap())
    }
}

fn trainer(lock: LockConfig) -> Trainer {
    Trainer::new(&spec(lock)).unwrap()
}

/// Does steps with noise that depends only on the step.
fn steps(trainer: &mut Trainer, count: u64) -> Vec<StepReport> {
    let step = |trainer: &mut Trainer| {
        let n = trainer.steps_done() as usize + 1;
        let images: Vec<f32> =
            (0..BATCH * 3 * 16 * 16).map(|i| ((i * n) as f32 * 0.37).sin()).collect();
        let tokens: Vec<i32> = (0..BATCH * 8).map(|i| (i * (i + n) % 99) as i32).collect();
        trainer.step_normalised(&images, &tokens).unwrap()
    };
    (0..count).map(|_| step(trainer)).collect()
}

/// Copies all parameters.
fn values(trainer: &Trainer) -> Vec<Tensor> {
    trainer.model().parameters().iter().map(|parameter| parameter.detach().copy()).collect()
}

/// Names the parameters that changed.
fn changed(trainer: &Trainer, before: &[Tensor]) -> Vec<String> {
    let now = trainer.model().names().iter().zip(trainer.model().parameters());
    now.zip(before)
        .filter(|((_, now), before)| **now != **before)
        .map(|((name, _), _)| name.clone())
        .collect()
}

#[test]
fn what_is_locked_keeps_its_bits_and_all_else_learns() {
    let partly =
        LockConfig { image_unlocked_groups: 2, text: true, text_unlocked_layers: 1, ..IMAGE };
    for (lock, micro_batch_size, precision) in [
        (IMAGE, 0, Precision::Fp32),
        (IMAGE, 3, Precision::Fp32),
        (LockConfig { image: false, ..BOTH }, 3, Precision::Bf16),
        (partly, 0, Precision::Fp32),
        (BOTH, 0, Precision::Fp16),
        (BOTH, 3, Precision::Fp32),
    ] {
        let mut spec = spec(lock.clone());
        (spec.train.micro_batch_size, spec.train.precision) = (micro_batch_size, precision);
        let mut run = Trainer::new(&spec).unwrap();
        let learns: Vec<String> = {
            let all = run.model().names().iter().zip(run.model().parameters());
            all.filter(|(_, parameter)| parameter.requires_grad())
                .map(|(name, _)| name.clone())
                .collect()
        };
        assert!(learns.len() < run.model().names().len() && learns.contains(&"logit_scale".into()));
        let before = values(&run);
        let reports = steps(&mut run, 3);
        assert!(
            reports
                .iter()
                .all(|report| report.grad_norm > 0.0 && !report.skipped && !report.overflow)
        );
        assert_eq!(changed(&run, &before), learns, "{lock:?}");
        let locked = run.model().parameters().iter().filter(|parameter| !parameter.requires_grad());
        assert!(locked.into_iter().all(|parameter| !parameter.grad().defined()));
    }
}

#[test]
fn a_locked_tower_builds_no_graph_and_has_no_moments() {
    let scratch = tempfile::tempdir().unwrap();
    let mut run = trainer(IMAGE);
    steps(&mut run, 1);
    let (images, tokens) = (
        Tensor::zeros([2, 3, 16, 16], (Kind::Float, tch::Device::Cpu)),
        Tensor::ones([2, 8], (Kind::Int64, tch::Device::Cpu)),
    );
    assert!(!run.model().image_features(&images).unwrap().requires_grad());
    assert!(run.model().text_features(&tokens).unwrap().requires_grad());

    let whole = save(&trainer(LockConfig::default()), &scratch.path().join("whole"));
    let manifest = save(&run, &scratch.path().join("locked"));
    let numel = |visual: bool| -> usize {
        let all = run.model().names().iter().zip(run.model().parameters());
        all.filter(|(name, _)| name.starts_with("visual.") == visual)
            .map(|(_, parameter)| parameter.numel())
            .sum()
    };
    let bytes = |manifest: &checkpoint::CheckpointManifest| {
        manifest.files["optimizer.safetensors"].bytes as usize
    };
    // Two moments of four bytes for each number, and the file's header for each tensor.
    assert!(bytes(&whole) - bytes(&manifest) >= 8 * numel(true));
    assert!(bytes(&manifest) >= 8 * numel(false));
    let file = std::fs::read(scratch.path().join("locked/optimizer.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let moments = tensors.names().iter().filter(|name| name.starts_with("average.")).count();
    assert_eq!(
        moments,
        run.model().names().iter().filter(|name| !name.starts_with("visual.")).count()
    );
}

/// Without clipping, the gradient of one parameter does not affect the update of another.
#[test]
fn what_learns_moves_as_if_nothing_were_locked() {
    let (mut free, mut locked) = (trainer(LockConfig::default()), trainer(IMAGE));
    let before = values(&locked);
    let (of_free, of_locked) = (steps(&mut free, 1), steps(&mut locked, 1));
    assert_eq!(of_free[0].loss, of_locked[0].loss);
    assert!(of_free[0].grad_norm > of_locked[0].grad_norm);
    for (name, (free, locked)) in
        free.model().names().iter().zip(values(&free).iter().zip(&values(&locked)))
    {
        assert_eq!(free == locked, !name.starts_with("visual."), "{name}");
    }
    assert!(!changed(&locked, &before).is_empty());
}

#[test]
fn run_goes_on_exactly_and_refuses_the_checkpoint_of_another_lock() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("3");
    let mut spec =
        spec(LockConfig { image_unlocked_groups: 1, text: true, text_unlocked_layers: 3, ..IMAGE });
    spec.train.ema_decay = 0.6;
    let mut whole = Trainer::new(&spec).unwrap();
    steps(&mut whole, 3);
    save(&whole, &folder);
    let expected = steps(&mut whole, 3);
    let mut resumed = Trainer::new(&spec).unwrap();
    resumed.restore(&folder).unwrap();
    assert_eq!(steps(&mut resumed, 3), expected);
    // The hashes of all files: weights, their average, moments.
    assert_eq!(
        save(&resumed, &scratch.path().join("resumed")),
        save(&whole, &scratch.path().join("whole"))
    );

    for (lock, says) in [(LockConfig::default(), "not then"), (IMAGE, "visual.proj")] {
        let mut other = spec.clone();
        other.train.lock = lock;
        let mut other = Trainer::new(&other).unwrap();
        let before = values(&other);
        let said = other.restore(&folder).unwrap_err().to_string();
        assert!(
            said.contains(says) && said.contains("train.lock") && said.contains("model.weights"),
            "{said}"
        );
        assert!(changed(&other, &before).is_empty());
    }
}

#[test]
fn more_groups_than_there_are_are_refused_by_name() {
    let said = Trainer::new(&spec(LockConfig { image_unlocked_groups: 5, ..IMAGE }))
        .err()
        .unwrap()
        .to_string();
    assert!(
        said.contains("train.lock.image_unlocked_groups = 5") && said.contains("4 groups"),
        "{said}"
    );
}
