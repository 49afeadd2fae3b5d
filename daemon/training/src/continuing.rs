//! The check that an existing run matches its configuration.

use anyhow::bail;
use diptych_schemas::{TrainConfig, WarmupSteps};
use diptych_store::RunRecord;
use diptych_trainer::checkpoint;

/// Returns the record of an existing run with the new limits, or an error if the configuration
/// differs.
///
/// `given` is the configuration as the user wrote it, and `newest` the newest checkpoint.
pub(super) fn continued(
    known: RunRecord,
    new: &RunRecord,
    given: &TrainConfig,
    newest: Option<&checkpoint::StoredCheckpoint>,
) -> anyhow::Result<RunRecord> {
    let start = newest.map_or_else(String::new, |newest| {
        format!(
            " (to start from these weights, set model.weights = \"{}\")",
            newest.folder.display()
        )
    });
    let advice = format!(
        "To resume {}, restore the old values; otherwise start a new run with another name{start}",
        known.run
    );
    let differs = [
        ("selection", known.selection_hash != new.selection_hash),
        ("tokenizer", known.tokenizer_hash != new.tokenizer_hash),
        ("configuration", known.config_hash != new.config_hash),
    ];
    for (what, differs) in differs {
        if differs {
            let lines = if what == "configuration" {
                changed_lines(&known.config, &new.config, given)
            } else {
                String::new()
            };
            bail!("run {} was started with a different {what}.{lines} {advice}", known.run);
        }
    }
    Ok(RunRecord {
        config: new.config.clone(),
        version: new.version.clone(),
        total_steps: new.total_steps,
        ..known
    })
}

/// Lists the lines of TOML that are in only one of two configurations.
///
/// A warm-up that follows from the length of the run is left out.
fn changed_lines(known: &str, new: &str, given: &TrainConfig) -> String {
    let follows = given.optimizer.warmup_steps == WarmupSteps::Auto;
    let only = |a: &str, b: &str| -> Vec<String> {
        a.lines()
            .filter(|line| !line.is_empty() && !b.lines().any(|other| other == *line))
            .map(str::to_owned)
            .collect()
    };
    let (mut then, mut now) = (only(known, new), only(new, known));
    let is_warmup = |line: &String| line.starts_with("warmup_steps = ");
    // If it is the only difference, the user removed the number from the file.
    if follows && then.len() > 1 {
        then.retain(|line| !is_warmup(line));
        now.retain(|line| !is_warmup(line));
    }
    format!(" Then: {}. Now: {}.", then.join("; "), now.join("; "))
}
