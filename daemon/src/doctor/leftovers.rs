//! Files of a state folder that nothing uses any more.

use std::fs;
use std::path::Path;

use anyhow::Context;
use diptych_schemas::durable::UNFINISHED;

use super::{Findings, Severity, entries};

/// First letters of what the opening of a store, or `--fix`, moved aside.
const ASIDE: [&str; 2] = ["sled.damaged-", "damaged-checkpoint-"];

impl Findings {
    /// Examines the folder itself. Files deeper in it may belong to commands that are running
    /// without owning the store.
    pub(super) fn examine_leftovers(&mut self, state: &Path) -> anyhow::Result<()> {
        for entry in entries(state)? {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if ASIDE.iter().any(|start| name.starts_with(start)) {
                self.note(format!(
                    "{}: damaged and moved aside; delete it when you do not need it",
                    path.display()
                ));
            }
            if path.extension().is_some_and(|ending| ending == UNFINISHED) && !self.is_owned {
                let what =
                    format!("{}: an incomplete file of a command that was stopped", path.display());
                self.mend(Severity::Note, what, || delete(&path))?;
            }
        }
        Ok(())
    }
}

fn delete(path: &Path) -> anyhow::Result<String> {
    let deleted = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    deleted.with_context(|| format!("deleting {}", path.display()))?;
    Ok("deleted".into())
}
