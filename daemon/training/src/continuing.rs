//! Whether a run that is known already is the one that its configuration describes.

use anyhow::bail;
use diptych_schemas::{TrainConfig, WarmupSteps};
use diptych_store::RunRecord;
use diptych_trainer::checkpoint;

/// The record of a run that is known already, if it is the same run. `given` is the configuration as the user wrote it, `newest` its newest
/// checkpoint.
pub(super) fn continued(
    known: RunRecord,
    new: &RunRecord,
    given: &TrainConfig,
    newest: Option<&checkpoint::Found>,
) -> anyhow::Result<RunRecord> {
    let start = newest.map_or_else(String::new, |newest| {
        format!(
            ", and to start from its weights, set model.weights = \"{}\" there",
            newest.folder.display()
        )
    });
    let advice = format!(
        "To go on with {}, put back what was changed; to train with what is here now, give it another name{start}",
        known.run
    );
    let differs = [
        ("the selection", known.selection_hash != new.selection_hash),
        ("the tokenizer", known.tokenizer_hash != new.tokenizer_hash),
        ("the configuration", known.config_hash != new.config_hash),
    ];
    for (what, differs) in differs {
        if differs {
            let lines = if what == "the configuration" {
                changed_lines(&known.config, &new.config, given)
            } else {
                String::new()
            };
            bail!(
                "run {} was begun otherwise: {what} is not the one that it was begun with.{lines} {advice}",
                known.run
            );
        }
    }
    Ok(RunRecord {
        config: new.config.clone(),
        version: new.version.clone(),
        total_steps: new.total_steps,
        ..known
    })
}

/// Lines of TOML that stand in one of two configurations only. A warm-up that follows from the length of the run is none of them.
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
    // Where it is the only difference, the number was taken out of the file.
    if follows && then.len() > 1 {
        then.retain(|line| !is_warmup(line));
        now.retain(|line| !is_warmup(line));
    }
    format!(" Then: {}. Now: {}.", then.join("; "), now.join("; "))
}
