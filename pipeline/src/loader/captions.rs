//! The choice of the column that a sample's caption comes from. It is random, as a function of the
//! seed and the sample's place in the stream.

use std::path::Path;

use diptych_schemas::{CaptionColumn, DatasetManifest, column};

use super::LoaderError;
use crate::random::{Random, seed_of};

/// Separates these seeds from others of a run.
const PURPOSE: u64 = 0x6361_7074_696f_6e73;

/// The columns to choose from. If empty, the caption is always `caption`.
pub(super) struct Captions {
    columns: Vec<CaptionColumn>,
    seed: u64,
}

impl Captions {
    /// Creates the choice. Refuses columns that the dataset's meta does not have.
    pub(super) fn new(
        columns: &[CaptionColumn],
        dataset: &Path,
        manifest: &DatasetManifest,
        seed: u64,
    ) -> Result<Self, LoaderError> {
        let known: Vec<&str> = std::iter::once(column::CAPTION)
            .chain(manifest.source_columns.iter().map(String::as_str))
            .collect();
        for choice in columns {
            if !known.contains(&choice.column.as_str()) {
                let likeness = |name: &str| strsim::jaro_winkler(&choice.column, name);
                let nearest = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
                let nearest = nearest.filter(|name| likeness(name) > 0.75);
                return Err(LoaderError::NoCaptionColumn {
                    dataset: dataset.to_owned(),
                    column: choice.column.clone(),
                    nearest: nearest
                        .map_or_else(String::new, |name| format!(" Did you mean {name:?}?")),
                    known: known.join(", "),
                });
            }
        }
        Ok(Self { columns: columns.to_vec(), seed })
    }

    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|choice| choice.column.as_str())
    }

    /// Chooses the caption of a sample among the columns with a text, by their probabilities.
    /// `value` returns the text of the n-th column. Returns `None` if no column has a text.
    pub(super) fn choose<'a>(
        &self,
        sample: u64,
        value: impl Fn(usize) -> Option<&'a str>,
    ) -> Option<&'a str> {
        let texts = self.columns.iter().enumerate();
        let texts = texts.filter_map(|(index, choice)| Some((choice.probability, value(index)?)));
        let texts: Vec<(f64, &str)> = texts.filter(|(_, text)| !text.trim().is_empty()).collect();
        let sum: f64 = texts.iter().map(|(probability, _)| probability).sum();
        let mut at = Random::new(seed_of(&[self.seed, PURPOSE, sample])).uniform(0.0, sum);
        for (probability, text) in &texts {
            if at < *probability {
                return Some(text);
            }
            at -= probability;
        }
        // Rounding may leave a small rest after the last one.
        texts.last().map(|(_, text)| *text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn captions(columns: &[(&str, f64)]) -> Result<Captions, LoaderError> {
        let mut manifest = DatasetManifest::empty();
        manifest.source_columns = vec!["alt".into(), "title".into()];
        let columns: Vec<CaptionColumn> = columns
            .iter()
            .map(|(name, probability)| CaptionColumn {
                column: (*name).into(),
                probability: *probability,
            })
            .collect();
        Captions::new(&columns, Path::new("data"), &manifest, 3)
    }

    #[test]
    fn columns_are_chosen_by_their_probabilities_and_those_without_a_text_fall_to_the_others() {
        let choice = captions(&[("caption", 0.5), ("alt", 0.3), ("title", 0.2)]).unwrap();
        for (texts, expected) in [
            ([Some("a"), Some("b"), Some("c")], [0.5, 0.3, 0.2]),
            ([None, Some("b"), Some("c")], [0.0, 0.6, 0.4]),
            ([Some(" "), Some("b"), None], [0.0, 1.0, 0.0]),
        ] {
            let mut counts = [0.0_f64; 3];
            for sample in 0..10_000 {
                let chosen = choice.choose(sample, |column| texts[column]);
                assert_eq!(chosen, choice.choose(sample, |column| texts[column]));
                counts[texts.iter().position(|text| *text == chosen).unwrap()] += 1.0;
            }
            for (count, expected) in counts.iter().zip(expected) {
                // Five standard deviations of a count: 5 · √(10000 / 4) = 250.
                assert!(
                    (count - expected * 10_000.0).abs()
                        <= 250.0 * f64::from(u8::from(expected > 0.0)),
                    "{counts:?}"
                );
            }
        }
        assert_eq!(choice.choose(1, |_| None), None);
        assert_eq!(captions(&[]).unwrap().choose(1, |_| None), None);
    }

    #[test]
    fn a_column_that_meta_lacks_is_refused_with_the_nearest_name() {
        let error = captions(&[("titel", 1.0)]).err().unwrap().to_string();
        assert!(
            error.contains("data")
                && error.contains("\"titel\"")
                && error.contains("Did you mean \"title\"?"),
            "{error}"
        );
    }
}
