//! The weights that a training run starts from.

use std::fmt;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

/// The weights that a run starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum FirstWeights {
    /// All weights of the model.
    Whole(PathBuf),
    /// The weights of its towers. A tower without a source starts at random.
    Towers(TowerWeights),
}

/// The sources of each tower's weights: a whole model that contains the tower, or a model that is
/// that tower.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TowerWeights {
    /// Source of the image tower's weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<PathBuf>,
    /// Source of the text tower's weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<PathBuf>,
}

impl FirstWeights {
    /// Returns all files and folders.
    pub(crate) fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::Whole(path) => vec![path],
            Self::Towers(TowerWeights { image, text }) => image.iter_mut().chain(text).collect(),
        }
    }

    /// Returns the path as the name of a run, with its checkpoint if given (`RUN`, `RUN@STEP`,
    /// `RUN@best`). Returns `None` if it cannot be such a name.
    pub fn run_name(path: &Path) -> Option<&str> {
        let name = path.to_str()?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@');
        (!name.starts_with('.') && !name.is_empty() && name.chars().all(plain)).then_some(name)
    }

    /// Returns the runs among the weights, without their checkpoints.
    pub fn run_names(&self) -> Vec<&str> {
        let paths: Vec<&PathBuf> = match self {
            Self::Whole(path) => vec![path],
            Self::Towers(TowerWeights { image, text }) => image.iter().chain(text).collect(),
        };
        let names = paths.into_iter().filter_map(|path| Self::run_name(path));
        names.map(|name| name.split_once('@').map_or(name, |(run, _)| run)).collect()
    }

    /// Returns the source of the whole model's weights, or `None` if each tower has its own.
    pub fn whole(&self) -> Option<&Path> {
        match self {
            Self::Whole(path) => Some(path),
            Self::Towers(_) => None,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), String> {
        match self {
            Self::Towers(TowerWeights { image: None, text: None }) => Err(
                "model.weights names no tower: remove it, or name at least one, as in { text = \
                 \"FOLDER\" }"
                    .into(),
            ),
            Self::Whole(_) | Self::Towers(_) => Ok(()),
        }
    }
}

impl fmt::Display for FirstWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(path) => path.display().fmt(f),
            Self::Towers(TowerWeights { image, text }) => {
                let both: Vec<_> = [image, text]
                    .into_iter()
                    .flatten()
                    .map(|path| path.display().to_string())
                    .collect();
                f.write_str(&both.join(" and "))
            }
        }
    }
}

impl<'de> Deserialize<'de> for FirstWeights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PathOrTowers;

        impl<'de> Visitor<'de> for PathOrTowers {
            type Value = FirstWeights;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, or { image = \"PATH\", text = \"PATH\" }")
            }

            fn visit_str<E>(self, path: &str) -> Result<FirstWeights, E> {
                Ok(FirstWeights::Whole(path.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<FirstWeights, A::Error> {
                TowerWeights::deserialize(MapAccessDeserializer::new(map)).map(FirstWeights::Towers)
            }
        }

        deserializer.deserialize_any(PathOrTowers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TrainConfig;

    fn parse(weights: &str) -> Result<TrainConfig, String> {
        let rest = "name = \"a\"\n[data]\ndataset = \"d\"\nselection = \
                    \"s.parquet\"\n[model]\nconfig = \"demo\"\ntokenizer = \"t\"\n";
        TrainConfig::parse(&format!("{rest}{weights}\n"))
    }

    #[test]
    fn one_path_or_one_for_each_tower() {
        let whole = parse("weights = \"w\"").unwrap();
        assert_eq!(
            whole.model.weights.as_ref().and_then(FirstWeights::whole),
            Some(Path::new("w"))
        );
        // The hash of older configurations is made from this text.
        assert!(
            whole.to_toml().contains("config = \"demo\"\nweights = \"w\"\ntokenizer = \"t\"\n")
        );
        let mut towers = parse("weights = { text = \"t/u\", image = \"/i\" }").unwrap();
        assert_eq!(TrainConfig::parse(&towers.to_toml()).unwrap(), towers);
        towers.resolve_paths(Path::new("/folder"));
        let expected = TowerWeights { image: Some("/i".into()), text: Some("/folder/t/u".into()) };
        assert_eq!(towers.model.weights, Some(FirstWeights::Towers(expected)));
        assert!(parse("weights = {}").unwrap_err().contains("names no tower"));
        let error = parse("weights = { txt = \"t\" }").unwrap_err();
        assert!(error.contains("`text`"), "{error}");
        assert!(parse("weights = 3").unwrap_err().contains("a path, or"));
    }

    #[test]
    fn weights_say_the_model_and_a_run_stays_a_name() {
        let without = |weights: &str| {
            TrainConfig::parse(&format!(
                "name = \"a\"\n[data]\ndataset = \"d\"\nselection = \
                 \"s.parquet\"\n[model]\n{weights}\n"
            ))
        };
        for (weights, resolved) in
            [("run@best", "run@best"), ("models/clip", "/folder/models/clip")]
        {
            let mut config = without(&format!("weights = \"{weights}\"")).unwrap();
            assert_eq!(TrainConfig::parse(&config.to_toml()).unwrap(), config);
            config.resolve_paths(Path::new("/folder"));
            assert_eq!(config.model.name(), resolved);
        }
        for weights in ["", "weights = { text = \"t\" }"] {
            let error = without(weights).unwrap_err();
            assert!(error.contains("model.config is missing"), "{error}");
        }
    }
}
