//! Suggests a model, batch size, learning rate and number of epochs for data and a device. A pure
//! function of facts. The recipes are those of published runs, which the reasons name.

use diptych_schemas::Precision;
use diptych_trainer::ModelEstimate;

/// Steps that an epoch should have at least: few steps with large batches learn little.
const STEPS_AN_EPOCH: u64 = 40;
/// Smallest and largest batch to suggest. Larger ones need several machines.
const BATCH: (u64, u64) = (32, 4096);
/// Longest step to suggest, in seconds: progress stays visible.
const LONGEST_STEP: f64 = 20.0;
/// Part of the usable memory that a run plans with. The rest is for the loader, evaluations and
/// what the formulas leave out.
const MEMORY_SHARE: f64 = 0.6;
/// Bytes per parameter of the copy that a checkpoint is written from, where it shares the memory.
const SNAPSHOT: f64 = 12.0;
/// Share of the measured peak of matrix products that a training step reaches, on the CPU and on a
/// GPU. Measured with `bench train`.
const REACHED: (f64, f64) = (0.5, 0.35);
/// Share of the time that is left for training beside evaluations and checkpoints.
const TRAINING_SHARE: f64 = 0.85;
/// Parameters below which a model learns with the rate of small ones.
const SMALL_MODEL: u64 = 30_000_000;
/// Parameters from which CLIP lowers the learning rate: ViT-L.
const LARGE_MODEL: u64 = 400_000_000;
/// Built-in models to train from random weights, with the pairs from which each pays.
const MODELS: [(&str, u64); 5] = [
    ("ViT-L-14", 100_000_000),
    ("ViT-B-16", 10_000_000),
    ("ViT-B-32", 500_000),
    ("ViT-S-32", 20_000),
    ("demo", 0),
];
/// Hours that a run may take on a CPU and on a GPU, for the choice of the model.
const PATIENCE: (f64, f64) = (12.0, 72.0);
/// Passes that a model should make in that time.
const LEAST_PASSES: f64 = 8.0;

/// The device that a run trains on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DeviceFacts {
    /// Its description, as in "16 processors" or "NVIDIA H200".
    pub(crate) name: String,
    pub(crate) is_gpu: bool,
    /// Usable memory in bytes; 0: unknown.
    pub(crate) memory: u64,
    /// Measured floating-point operations a second of large matrix products.
    pub(crate) peak: f64,
}

/// Where the weights come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    Random,
    Pretrained,
}

/// Everything that a suggestion depends on.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Facts {
    /// Pairs to train on.
    pub(crate) pairs: u64,
    pub(crate) device: DeviceFacts,
    /// Hours that the run may take, if the user said so.
    pub(crate) hours: Option<f64>,
    pub(crate) start: Start,
    pub(crate) model: ModelEstimate,
}

/// A number and the reason for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Suggested<T> {
    pub(crate) value: T,
    pub(crate) reason: String,
}

/// A suggestion for the `[train]` and `[optimizer]` sections.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Advice {
    pub(crate) batch: Suggested<u64>,
    /// 0: the whole batch at once.
    pub(crate) micro_batch: Suggested<u64>,
    pub(crate) epochs: Suggested<u64>,
    pub(crate) learning_rate: Suggested<f64>,
    pub(crate) weight_decay: Suggested<f64>,
    pub(crate) precision: Precision,
    /// Estimated seconds of the whole run.
    pub(crate) seconds: f64,
}

/// Returns the number of pairs that a device trains on in a second.
pub(crate) fn pairs_per_second(device: &DeviceFacts, model: &ModelEstimate) -> f64 {
    let reached = if device.is_gpu { REACHED.1 } else { REACHED.0 };
    reached * device.peak / model.flops.max(1.0)
}

/// Suggests a built-in model for training from random weights.
pub(crate) fn suggest_model(
    pairs: u64,
    device: &DeviceFacts,
    hours: Option<f64>,
    estimate: impl Fn(&str) -> Option<ModelEstimate>,
) -> &'static str {
    let patience = if device.is_gpu { PATIENCE.1 } else { PATIENCE.0 };
    let seconds = 3600.0 * hours.unwrap_or(patience);
    let fits = |name: &str| {
        estimate(name).is_some_and(|model| {
            let passes = seconds * pairs_per_second(device, &model) / pairs.max(1) as f64;
            let state = state_bytes(device, &model);
            passes >= LEAST_PASSES && (device.memory == 0 || state < budget(device))
        })
    };
    let chosen = MODELS.iter().find(|(name, least)| pairs >= *least && fits(name));
    chosen.map_or("demo", |(name, _)| name)
}

fn budget(device: &DeviceFacts) -> f64 {
    MEMORY_SHARE * device.memory as f64
}

fn state_bytes(device: &DeviceFacts, model: &ModelEstimate) -> f64 {
    let snapshot = if device.is_gpu { 0.0 } else { SNAPSHOT * model.parameters as f64 };
    model.state_bytes() + snapshot
}

/// Returns the largest power of two that is not above a number, at least 1.
fn power_of_two(number: f64) -> u64 {
    if number < 1.0 { 1 } else { 1 << (number.min(1e15) as u64).ilog2() }
}

/// Suggests how to train.
pub(crate) fn advise(facts: &Facts) -> Advice {
    let Facts { pairs, device, hours, start, model } = facts;
    let precision = if device.is_gpu { Precision::Bf16 } else { Precision::Fp32 };
    let speed = pairs_per_second(device, model);
    let (batch, micro_batch) = batches(*pairs, device, model, precision, speed);
    let epochs = epochs(*pairs, *start, *hours, speed);
    let seconds = epochs.value as f64 * *pairs as f64 / speed.max(1e-9) / TRAINING_SHARE;
    Advice {
        batch,
        micro_batch,
        epochs,
        learning_rate: learning_rate(*start, model),
        weight_decay: match start {
            Start::Random => Suggested { value: 0.2, reason: "that of CLIP and OpenCLIP".into() },
            Start::Pretrained => Suggested {
                value: 0.1,
                reason: "that of WiSE-FT (Wortsman et al., 2022), which fine-tunes CLIP".into(),
            },
        },
        precision,
        seconds,
    }
}

/// Returns the batch and the part of it that goes through the towers at once.
fn batches(
    pairs: u64,
    device: &DeviceFacts,
    model: &ModelEstimate,
    precision: Precision,
    speed: f64,
) -> (Suggested<u64>, Suggested<u64>) {
    let by_data = power_of_two(pairs as f64 / STEPS_AN_EPOCH as f64);
    let by_time = power_of_two(speed * LONGEST_STEP);
    let batch = by_data.min(by_time).clamp(BATCH.0, BATCH.1).min(power_of_two(pairs as f64 / 2.0));
    let reason = if batch == BATCH.1 {
        "contrastive losses gain from more negatives; larger ones need several devices".to_owned()
    } else if by_time < by_data {
        format!("a step takes about {:.0} s on this device", batch as f64 / speed.max(1e-9))
    } else {
        format!("{} steps an epoch; a larger batch would leave too few", pairs / batch.max(1))
    };
    let batch = Suggested { value: batch.max(2), reason };
    let gib = |bytes: f64| bytes / f64::from(1 << 30);
    let (state, a_pair) = (state_bytes(device, model), model.activation_bytes(precision));
    let whole = state + a_pair * batch.value as f64;
    if device.memory == 0 || whole <= budget(device) {
        let reason = format!(
            "the whole batch fits: about {:.1} GiB of {:.1} GiB",
            gib(whole),
            gib(device.memory as f64)
        );
        return (batch, Suggested { value: 0, reason });
    }
    let value = power_of_two((budget(device) - state) / a_pair).min(batch.value / 2).max(1);
    let reason = format!(
        "the whole batch would take about {:.1} GiB of {:.1} GiB; parts of {value} take {:.1} GiB \
         and one more forward pass, with the same gradient",
        gib(whole),
        gib(device.memory as f64),
        gib(state + a_pair * value as f64)
    );
    (batch, Suggested { value, reason })
}

fn epochs(pairs: u64, start: Start, hours: Option<f64>, speed: f64) -> Suggested<u64> {
    let (usual, source) = match start {
        Start::Random => (32, "that of CLIP and OpenCLIP from random weights"),
        Start::Pretrained => (10, "that of WiSE-FT, which fine-tunes CLIP"),
    };
    let Some(hours) = hours else { return Suggested { value: usual, reason: source.to_owned() } };
    let affordable = 3600.0 * hours * TRAINING_SHARE * speed / pairs.max(1) as f64;
    let value = (affordable as u64).clamp(1, usual);
    let reason = if value == usual {
        format!("{source}; fits into {hours} h")
    } else {
        format!("what fits into {hours} h; usual are {usual}")
    };
    Suggested { value, reason }
}

fn learning_rate(start: Start, model: &ModelEstimate) -> Suggested<f64> {
    let (value, reason) = match start {
        Start::Pretrained => (1e-5, "that of FLYP (Goyal et al., 2022), which fine-tunes CLIP"),
        Start::Random if model.parameters < SMALL_MODEL => {
            (1e-3, "small models take a larger rate than CLIP's 5e-4")
        }
        Start::Random if model.parameters >= LARGE_MODEL => {
            (4e-4, "that of CLIP's ViT-L (Radford et al., 2021, table 20)")
        }
        Start::Random => (5e-4, "that of CLIP's ViT-B (Radford et al., 2021, table 20)"),
    };
    Suggested { value, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIT_B_32: ModelEstimate =
        ModelEstimate { parameters: 151_277_313, flops: 44.3e9, activations: 16.8e6 };
    const DEMO: ModelEstimate =
        ModelEstimate { parameters: 3e6 as u64, flops: 1e9, activations: 2e6 };

    fn cpu() -> DeviceFacts {
        DeviceFacts { name: "2 processors".into(), is_gpu: false, memory: 8 << 30, peak: 1e11 }
    }

    fn gpu() -> DeviceFacts {
        DeviceFacts { name: "GPU".into(), is_gpu: true, memory: 80 << 30, peak: 6e14 }
    }

    fn facts(pairs: u64, device: DeviceFacts, model: ModelEstimate) -> Facts {
        Facts { pairs, device, hours: None, start: Start::Random, model }
    }

    #[test]
    fn batches_follow_the_data_the_device_and_its_memory() {
        let demo = advise(&facts(3700, cpu(), DEMO));
        assert_eq!((demo.batch.value, demo.micro_batch.value), (64, 0));
        let large = advise(&facts(3_000_000, gpu(), VIT_B_32));
        assert_eq!(large.batch.value, BATCH.1);
        // 2.4 GB of state and 4096 × 50 MB do not fit into 0.6 × 80 GiB; 512 × 50 MB do.
        assert_eq!(large.micro_batch.value, 512);
        assert_eq!(large.precision, Precision::Bf16);
        // A step of 20 s: 22 pairs, at least the smallest batch.
        assert_eq!(advise(&facts(3_000_000, cpu(), VIT_B_32)).batch.value, BATCH.0);
        assert_eq!(advise(&facts(10, cpu(), DEMO)).batch.value, 4);
    }

    #[test]
    fn hours_decide_the_epochs() {
        let of =
            |hours, pairs| advise(&Facts { hours, ..facts(pairs, gpu(), VIT_B_32) }).epochs.value;
        assert_eq!(of(None, 3_000_000), 32);
        assert_eq!(of(Some(1000.0), 3_000_000), 32);
        assert_eq!(of(Some(0.01), 3_000_000), 1);
        // 3600 s × 0.85 × 4740 pairs/s make 14.5 million pairs.
        assert_eq!(of(Some(1.0), 3_000_000), 4);
    }

    #[test]
    fn pretrained_weights_learn_slowly() {
        let tuned = advise(&Facts { start: Start::Pretrained, ..facts(10_000, gpu(), VIT_B_32) });
        assert_eq!((tuned.learning_rate.value, tuned.epochs.value), (1e-5, 10));
        assert_eq!(advise(&facts(10_000, gpu(), VIT_B_32)).learning_rate.value, 5e-4);
        assert_eq!(advise(&facts(10_000, gpu(), DEMO)).learning_rate.value, 1e-3);
    }

    #[test]
    fn models_follow_the_number_of_pairs_and_the_device() {
        let estimate = |name: &str| Some(if name == "demo" { DEMO } else { VIT_B_32 });
        let suggest = |pairs, device: DeviceFacts| suggest_model(pairs, &device, None, estimate);
        assert_eq!(suggest(4000, cpu()), "demo");
        assert_eq!(suggest(1_000_000, cpu()), "demo", "a CPU would take days");
        assert_eq!(suggest(1_000_000, gpu()), "ViT-B-32");
        assert_eq!(suggest(30_000, gpu()), "ViT-S-32");
    }
}
