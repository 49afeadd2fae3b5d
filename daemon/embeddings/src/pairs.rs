//! The pairs that a command works on: a selection, a condition, or a whole dataset.

use std::path::Path;

use anyhow::{Context, bail};
use diptych_pipeline::{EVERYTHING, Selection, all_pairs, choose, choose_of, read_manifest};
use diptych_schemas::words::thousands;
use diptych_schemas::{ContentHash, DatasetManifest, PairChoice, RemoteConfig, is_url};

use crate::session::with_session;

/// Characters of a condition that a name includes.
const NAME_LENGTH: usize = 80;

/// Returns the chosen pairs. A selection of another dataset is an error.
///
/// The pairs of a condition, and all pairs of a dataset, form a selection in memory. Its hash is
/// the same whenever the pairs are the same.
pub fn chosen_pairs(dataset: &Path, choice: &PairChoice) -> anyhow::Result<Selection> {
    let read = |path: &Path| -> anyhow::Result<Selection> {
        let selection = Selection::read(path)?;
        selection.check_dataset(dataset, &read_manifest(dataset, &RemoteConfig::default())?)?;
        Ok(selection)
    };
    let selection = choice.selection.as_deref().map(read).transpose()?;
    let (text, part_of) = match (&choice.condition, selection) {
        (None, Some(selection)) => return Ok(selection),
        (None, None) => (EVERYTHING, None),
        (Some(condition), part_of) => {
            if condition.trim().is_empty() {
                bail!("--where is empty: pass a condition such as \"width > 64\" or omit it");
            }
            (condition.as_str(), part_of)
        }
    };
    if is_url(dataset) {
        if choice.is_everything() {
            let found = all_pairs(dataset, &RemoteConfig::default())?;
            tracing::info!("all {} pairs of {}", thousands(found.len() as u64), dataset.display());
            return Ok(found);
        }
        bail!(
            "--where needs a dataset on this machine, and {} is remote: pass a --selection \
             instead, made by `diptych select` on a machine that holds the dataset",
            dataset.display()
        );
    }
    let found = with_session(Some(dataset), None, async |context| {
        Ok(match &part_of {
            Some(part_of) => choose_of(&context, text, part_of).await?,
            None => choose(&context, text).await?,
        })
    });
    let found = if choice.condition.is_some() { found.context("--where") } else { found }?;
    let of = part_of.map_or(DatasetManifest::read(dataset)?.pairs, |part| part.len() as u64);
    let count = thousands(found.len() as u64);
    let pairs_of = dataset.display();
    if let Some(condition) = &choice.condition {
        tracing::info!("{count} of {} pairs of {pairs_of}: {condition}", thousands(of));
    } else {
        tracing::info!("all {count} pairs of {pairs_of}");
    }
    Ok(found)
}

/// Returns the chosen pairs, or `None` if all pairs are chosen.
pub fn chosen_part(dataset: &Path, choice: &PairChoice) -> anyhow::Result<Option<Selection>> {
    if choice.is_everything() {
        return Ok(None);
    }
    chosen_pairs(dataset, choice).map(Some)
}

/// Returns the name of the pairs in results: that of the selection's file or of the dataset, with
/// the condition.
pub fn name_of_pairs(dataset: &Path, choice: &PairChoice) -> String {
    let base =
        choice.selection.as_deref().and_then(Path::file_stem).or_else(|| dataset.file_name());
    let base = base.map_or_else(|| "data".to_owned(), |name| name.to_string_lossy().into_owned());
    let Some(condition) = &choice.condition else { return base };
    // A slash separates the parts of a metric's name.
    let plain = |c: char| {
        if c == '/' {
            ':'
        } else if c.is_control() {
            ' '
        } else {
            c
        }
    };
    let text: String = condition.chars().map(plain).take(NAME_LENGTH).collect();
    if text == *condition {
        return format!("{base} where {text}");
    }
    let hash = ContentHash::of(condition.as_bytes()).to_string();
    format!("{base} where {text} ({hash:.8})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_named_by_what_they_were_chosen_by() {
        let name = |selection: Option<&str>, condition: Option<&str>| {
            let choice = PairChoice {
                selection: selection.map(Into::into),
                condition: condition.map(str::to_owned),
            };
            name_of_pairs(Path::new("/x/data"), &choice)
        };
        assert_eq!(name(None, None), "data");
        assert_eq!(name(Some("a/heldout.parquet"), None), "heldout");
        assert_eq!(name(None, Some("width > 64")), "data where width > 64");
        assert_eq!(name(Some("h.parquet"), Some("width > 64")), "h where width > 64");
        let [two, three] = ["width / 2 > 3", "width : 2 > 3"].map(|text| name(None, Some(text)));
        assert!(two.starts_with("data where width : 2 > 3 (") && !two.contains('/'), "{two}");
        assert_ne!(two, three);
    }
}
