//! The warm-up of a run as a number, and the check that it ends.
//!
//! A run records its warm-up as a number of steps, so that it resumes with its original schedule
//! even if the meaning of `auto` changes.

use anyhow::bail;
use diptych_schemas::{ContentHash, TrainConfig, WarmupSteps};

/// The default warm-up before `auto` existed.
const EARLIER_DEFAULT: WarmupSteps = WarmupSteps::Steps(2000);

/// Replaces `auto` by a number. `begun` is the training hash of the run to resume, if there is one.
pub(super) fn resolve(
    mut config: TrainConfig,
    total_steps: u64,
    begun: Option<ContentHash>,
) -> TrainConfig {
    if config.optimizer.warmup_steps != WarmupSteps::Auto {
        return config;
    }
    let auto = WarmupSteps::Steps(WarmupSteps::Auto.of_run(total_steps));
    config.optimizer.warmup_steps = EARLIER_DEFAULT;
    if begun != Some(config.training_hash()) {
        config.optimizer.warmup_steps = auto;
    }
    config
}

/// Refuses a new run whose learning rate never reaches `optimizer.lr`.
///
/// An existing run with such a schedule continues with a warning. A new run that is mostly warm-up
/// is only warned about.
pub(super) fn check(config: &TrainConfig, total_steps: u64, is_new: bool) -> anyhow::Result<()> {
    let (optimizer, batch) = (&config.optimizer, config.train.batch_size);
    let total = total_steps.saturating_mul(batch);
    let warmup = optimizer.warmup(batch, total);
    let key = match optimizer.warmup_samples {
        Some(samples) => {
            format!("optimizer.warmup_samples = {samples} ({} steps)", samples / batch)
        }
        None => format!("optimizer.warmup_steps = {}", warmup / batch),
    };
    let usual = WarmupSteps::Auto.of_run(total_steps);
    let advice = format!(
        "Set optimizer.warmup_steps = \"auto\" ({usual} steps here) instead, or train longer \
         (train.epochs)"
    );
    if warmup > total {
        let reached = optimizer.lr * total as f64 / warmup as f64;
        let problem = format!(
            "{key} is longer than the run of {total_steps} steps; the learning rate would only \
             reach {reached:.2e} instead of optimizer.lr = {:.2e}",
            optimizer.lr
        );
        if is_new {
            bail!("{problem}. {advice}");
        }
        tracing::warn!("{problem}. The run continues with its original schedule");
    } else if warmup > total / 2 && is_new {
        tracing::warn!(
            "{key} is more than half of the run of {total_steps} steps; the learning rate is at \
             its peak for at most {} of them. {advice}",
            (total - warmup) / batch
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(optimizer: &str) -> TrainConfig {
        let text = format!(
            "name = \"a\"\n[data]\ndataset = \"d\"\nselection = \"s\"\n[model]\nconfig = \
             \"demo\"\n[optimizer]\n{optimizer}"
        );
        TrainConfig::parse(&text).unwrap()
    }

    #[test]
    fn a_run_of_an_earlier_version_keeps_its_warm_up_and_a_new_one_gets_a_tenth() {
        let begun = |steps: &str| Some(config(steps).training_hash());
        let resolved = |begun| resolve(config(""), 82, begun).optimizer.warmup_steps;
        assert_eq!(resolved(None), WarmupSteps::Steps(8));
        assert_eq!(resolved(begun("warmup_steps = 8")), WarmupSteps::Steps(8));
        assert_eq!(resolved(begun("warmup_steps = 2000")), WarmupSteps::Steps(2000));
        // A run that started with a number of its own has a different configuration without it.
        assert_eq!(resolved(begun("warmup_steps = 30")), WarmupSteps::Steps(8));
        let given = resolve(config("warmup_steps = 5"), 82, begun("warmup_steps = 2000"));
        assert_eq!(given.optimizer.warmup_steps, WarmupSteps::Steps(5));
    }

    #[test]
    fn hash_of_a_resolved_configuration_is_that_of_the_number() {
        let hash = resolve(config(""), 82, None).training_hash();
        assert_eq!(hash, config("warmup_steps = 8").training_hash());
        let samples = "warmup_samples = 100\n";
        let earlier = config(&format!("{samples}warmup_steps = 2000")).training_hash();
        assert_eq!(resolve(config(samples), 82, Some(earlier)).training_hash(), earlier);
    }

    #[test]
    fn a_schedule_that_never_reaches_its_rate_is_refused_at_the_start_and_goes_on_later() {
        for optimizer in ["warmup_steps = 2000", "warmup_steps = 83", "warmup_samples = 30000"] {
            for shape in ["cosine", "linear", "constant", "constant-cooldown", "wsd"] {
                let config = config(&format!("{optimizer}\nschedule = \"{shape}\""));
                let error = check(&config, 82, true).unwrap_err().to_string();
                let key = optimizer.split(' ').next().unwrap_or_default();
                assert!(error.contains(key) && error.contains("82 steps"), "{error}");
                check(&config, 82, false).unwrap();
            }
        }
        for optimizer in ["", "warmup_steps = 82", "warmup_steps = 0", "warmup_samples = 256"] {
            check(&resolve(config(optimizer), 82, None), 82, true).unwrap();
        }
    }
}
