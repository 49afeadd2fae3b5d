//! Where a training run's weights come from.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

/// The weights that a run starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum FirstWeights {
    /// All of the model's.
    Whole(PathBuf),
    /// Those of its towers; a tower that is not named starts at random.
    Towers(TowerWeights),
}

/// Weights of towers: of a whole model of which one tower is taken, or of a model that is that tower.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TowerWeights {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<PathBuf>,
}

impl FirstWeights {
    /// All files and folders that it names.
    pub(crate) fn paths_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::Whole(path) => vec![path],
            Self::Towers(TowerWeights { image, text }) => image.iter_mut().chain(text).collect(),
        }
    }

    /// The weights of the whole model, where they come from one place.
    pub fn whole(&self) -> Option<&Path> {
        match self {
            Self::Whole(path) => Some(path),
            Self::Towers(_) => None,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), String> {
        match self {
            Self::Towers(TowerWeights { image: None, text: None }) => {
                Err("model.weights names no tower: leave it out, or name at least one, as in { text = \"FOLDER\" }".into())
            }
            Self::Whole(_) | Self::Towers(_) => Ok(()),
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
        let rest = "name = \"a\"\n[data]\ndataset = \"d\"\nselection = \"s.parquet\"\n[model]\nconfig = \"demo\"\ntokenizer = \"t\"\n";
        TrainConfig::parse(&format!("{rest}{weights}\n"))
    }

    #[test]
    fn one_path_or_one_for_each_tower() {
        let whole = parse("weights = \"w\"").unwrap();
        assert_eq!(
            whole.model.weights.as_ref().and_then(FirstWeights::whole),
            Some(Path::new("w"))
        );
        // What the hash of older configurations is made of.
        assert!(
            whole.to_toml().contains("config = \"demo\"\nweights = \"w\"\ntokenizer = \"t\"\n")
        );
        let mut towers = parse("weights = { text = \"t\", image = \"/i\" }").unwrap();
        assert_eq!(TrainConfig::parse(&towers.to_toml()).unwrap(), towers);
        towers.resolve_paths(Path::new("/folder"));
        let expected = TowerWeights { image: Some("/i".into()), text: Some("/folder/t".into()) };
        assert_eq!(towers.model.weights, Some(FirstWeights::Towers(expected)));
        assert!(parse("weights = {}").unwrap_err().contains("names no tower"));
        let error = parse("weights = { txt = \"t\" }").unwrap_err();
        assert!(error.contains("`text`"), "{error}");
        assert!(parse("weights = 3").unwrap_err().contains("a path, or"));
    }
}
