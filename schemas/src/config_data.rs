//! The data of a run: one selection or a mix of several, and the columns that captions come from.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{PathRole, is_url};

/// The training data: `dataset` and `selection`, or several of them in `mix`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Dataset folder, as `diptych ingest` makes it, or its URL: `s3://`, `gs://`, `az://`,
    /// `http://`, `https://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<PathBuf>,
    /// Selection file, as `diptych select` makes it. The weight of a pair says how often it comes
    /// in an epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selection: Option<PathBuf>,
    /// Columns of meta that captions are drawn from, anew for each sample. Default: `caption`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub captions: Vec<CaptionColumn>,
    /// Several selections, mixed by weight.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mix: Vec<MixedSource>,
}

/// A column that captions are drawn from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CaptionColumn {
    /// `caption`, or one of the source's own columns.
    pub column: String,
    /// Share of the samples; the shares of all columns add up to 1. If the column has no text for a
    /// pair, another one is used.
    pub probability: f64,
}

/// One selection of a mix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MixedSource {
    /// Dataset folder, or the URL of one.
    pub dataset: PathBuf,
    /// Selection of that dataset.
    pub selection: PathBuf,
    /// Share of the samples, relative to the other weights. Set it for all selections or for none;
    /// default: by the selections' sizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// Columns that captions are drawn from. Default: those of `data.captions`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub captions: Vec<CaptionColumn>,
}

impl DataConfig {
    /// Returns all selections in their order.
    pub fn sources(&self) -> Vec<MixedSource> {
        let mut sources = self.mix.clone();
        if let (Some(dataset), Some(selection)) = (&self.dataset, &self.selection) {
            let (dataset, selection) = (dataset.clone(), selection.clone());
            sources
                .insert(0, MixedSource { dataset, selection, weight: None, captions: Vec::new() });
        }
        for source in &mut sources {
            if source.captions.is_empty() {
                source.captions.clone_from(&self.captions);
            }
        }
        sources
    }

    pub(crate) fn validate(&self) -> Result<(), String> {
        match (&self.dataset, &self.selection, self.mix.is_empty()) {
            (Some(_), Some(_), true) | (None, None, false) => {}
            (_, _, false) => {
                return Err(
                    "data.mix is set together with data.dataset or data.selection: put all \
                     selections into data.mix"
                        .into(),
                );
            }
            (None, ..) => {
                return Err(
                    "data.dataset is missing: name the dataset (or several in data.mix)".into()
                );
            }
            (_, None, _) => {
                return Err("data.selection is missing: name the selection of data.dataset".into());
            }
        }
        let weights: Vec<f64> = self.mix.iter().filter_map(|source| source.weight).collect();
        if !weights.is_empty() && weights.len() < self.mix.len() {
            return Err(
                "data.mix: some selections have a weight and some have none. Set it for all of \
                 them or for none"
                    .into(),
            );
        }
        if let Some(weight) = weights.iter().find(|weight| !(weight.is_finite() && **weight > 0.0))
        {
            return Err(format!("data.mix: a weight must be above 0, got {weight}"));
        }
        for captions in self
            .mix
            .iter()
            .map(|source| &source.captions)
            .chain([&self.captions])
            .filter(|all| !all.is_empty())
        {
            check_captions(captions)?;
        }
        Ok(())
    }

    pub(crate) fn paths_mut(&mut self) -> impl Iterator<Item = (PathRole, &mut PathBuf)> {
        let of_mix = self.mix.iter_mut().flat_map(|MixedSource { dataset, selection, .. }| {
            [(PathRole::Dataset, dataset), (PathRole::Read, selection)]
        });
        let dataset = self.dataset.iter_mut().map(|path| (PathRole::Dataset, path));
        let selection = self.selection.iter_mut().map(|path| (PathRole::Read, path));
        dataset.chain(selection).chain(of_mix)
    }

    /// Returns a copy without paths, because selections count by their own hashes.
    pub(crate) fn without_paths(&self) -> Self {
        let mut same = self.clone();
        (same.dataset, same.selection) = (None, None);
        for source in &mut same.mix {
            (source.dataset, source.selection) = (PathBuf::new(), PathBuf::new());
        }
        same
    }
}

/// Makes a relative path relative to `folder`. The URL of a dataset stays.
pub(crate) fn resolve(role: PathRole, path: &Path, folder: &Path) -> PathBuf {
    if role == PathRole::Dataset && is_url(path) { path.to_owned() } else { folder.join(path) }
}

fn check_captions(captions: &[CaptionColumn]) -> Result<(), String> {
    for (index, choice) in captions.iter().enumerate() {
        if !(choice.probability > 0.0 && choice.probability <= 1.0) {
            return Err(format!(
                "captions: the probability of {:?} must be in (0, 1], got {}",
                choice.column, choice.probability
            ));
        }
        if captions[..index].iter().any(|other| other.column == choice.column) {
            return Err(format!("captions: the column {:?} is listed twice", choice.column));
        }
    }
    let sum: f64 = captions.iter().map(|choice| choice.probability).sum();
    if (sum - 1.0).abs() > 1e-3 {
        return Err(format!("captions: the probabilities must add up to 1, got {sum}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::TrainConfig;

    fn parse(data: &str) -> Result<TrainConfig, String> {
        TrainConfig::parse(&format!("name = \"a\"\n[model]\nconfig = \"demo\"\n{data}"))
    }

    const ONE: &str = "[data]\ndataset = \"d\"\nselection = \"s\"\n";
    const MIX: &str = "[[data.mix]]\ndataset = \"a\"\nselection = \"b\"\nweight = \
        3.0\n[[data.mix]]\ndataset = \"c\"\nselection = \"d\"\nweight = 1.0\n";

    #[test]
    fn a_single_selection_and_a_mix_are_both_sources_with_their_captions() {
        let captions = "[[data.captions]]\ncolumn = \"caption\"\nprobability = \
            0.7\n[[data.captions]]\ncolumn = \"alt\"\nprobability = 0.3\n";
        let one = parse(&format!("{ONE}{captions}")).unwrap();
        assert_eq!((one.data.sources().len(), one.data.sources()[0].captions.len()), (1, 2));
        let mix = parse(&format!(
            "{captions}{MIX}[[data.mix.captions]]\ncolumn = \"title\"\nprobability = 1.0\n"
        ))
        .unwrap();
        let sources = mix.data.sources();
        assert_eq!(
            sources.iter().map(|source| source.weight).collect::<Vec<_>>(),
            [Some(3.0), Some(1.0)]
        );
        assert_eq!(
            (sources[0].captions.len(), sources[1].captions[0].column.as_str()),
            (2, "title")
        );
        assert_eq!(TrainConfig::parse(&mix.to_toml()).unwrap(), mix);
    }

    #[test]
    fn contradictions_are_refused() {
        let captions = |probability: f64| {
            format!("{ONE}[[data.captions]]\ncolumn = \"alt\"\nprobability = {probability}\n")
        };
        for (data, says) in [
            (format!("{ONE}{MIX}"), "data.mix"),
            ("[data]\ndataset = \"d\"\n".into(), "data.selection"),
            ("[data]\n".into(), "data.dataset"),
            (MIX.replacen("weight = 3.0\n", "", 1), "data.mix"),
            (MIX.replace("3.0", "-3.0"), "-3"),
            (captions(0.5), "0.5"),
            (captions(1.5), "1.5"),
        ] {
            let error = parse(&data).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn weights_and_captions_decide_the_weights_and_paths_do_not() {
        let hash = |data: &str| parse(data).unwrap().training_hash();
        assert_eq!(hash(MIX), hash(&MIX.replace("\"a\"", "\"z\"")));
        assert_ne!(hash(MIX), hash(&MIX.replace("3.0", "2.0")));
    }
}
