//! All keys of both configurations with type, default and explanation, for the reference.

use std::fmt;

use serde_json::{Map, Value};

use crate::config_docs::{docs_of, example, plain, referred, values_in};
use crate::{ServeConfig, TrainConfig};

/// The type of a key's values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValueKind {
    /// In words, as in "list of texts".
    pub name: String,
    /// The words that are allowed, each with its meaning, which may be empty.
    pub words: Vec<(String, String)>,
}

impl fmt::Display for ValueKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.words.is_empty() {
            return f.write_str(&self.name);
        }
        let words: Vec<&str> = self.words.iter().map(|(word, _)| word.as_str()).collect();
        write!(f, "one of {}", words.join(", "))
    }
}

/// A key or a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyReference {
    /// Its name with those of its tables, as in `train.batch_size`.
    pub key: String,
    pub kind: ValueKind,
    /// As TOML; `None` if there is no default.
    pub default: Option<String>,
    /// As TOML, of keys without a default.
    pub example: Option<&'static str>,
    pub text: String,
    pub is_section: bool,
}

/// A configuration in which only keys without a default are set.
const SMALLEST: &str = "name = \"…\"\n[data]\n[model]\n";

/// Keys that [`SMALLEST`] sets.
const SET: [&str; 1] = ["name"];

/// Returns the keys of a training's configuration.
pub fn train_keys() -> Result<Vec<KeyReference>, toml::de::Error> {
    let smallest: TrainConfig = toml::from_str(SMALLEST)?;
    Ok(keys::<TrainConfig>(&smallest.to_toml()))
}

/// Returns the keys of a service's configuration.
pub fn serve_keys() -> Vec<KeyReference> {
    keys::<ServeConfig>(&ServeConfig::default().to_toml())
}

fn keys<T: schemars::JsonSchema>(defaults: &str) -> Vec<KeyReference> {
    let defaults = values_in(defaults);
    let all = docs_of::<T>().into_iter().map(|(key, doc)| KeyReference {
        default: defaults.get(&key).filter(|_| !SET.contains(&key.as_str())).cloned(),
        example: example(&key),
        kind: doc.kind,
        text: doc.text,
        is_section: doc.is_section,
        key,
    });
    let mut all: Vec<KeyReference> = all.collect();
    let sections = all.iter().filter(|key| key.is_section).map(|key| key.key.clone());
    let sections: Vec<String> = sections.collect();
    // Each section with its keys, before the sections within it. The file's own keys come first.
    all.sort_by_cached_key(|key| {
        let holds =
            |section: &&String| key.key == **section || key.key.starts_with(&format!("{section}."));
        let section = sections.iter().filter(holds).max_by_key(|section| section.len());
        (section.cloned(), !key.is_section, key.key.clone())
    });
    all
}

/// Returns the type of a property in words.
pub(crate) fn value_kind(property: &Value, definitions: &Map<String, Value>) -> ValueKind {
    if let Some(options) = property["anyOf"].as_array() {
        let kinds = options.iter().filter(|option| option["type"] != "null");
        let mut kinds = kinds.map(|option| value_kind(option, definitions));
        let mut all = kinds.next().unwrap_or_default();
        for kind in kinds {
            all.name = format!("{} or {}", all.name, kind.name);
            all.words.extend(kind.words);
        }
        return all;
    }
    if let Some((of, true)) = referred(property, definitions) {
        return value_kind(of, definitions);
    }
    let words = words(property);
    if !words.is_empty() {
        return ValueKind { name: "one of these words".into(), words };
    }
    let named = |name: &str| ValueKind { name: name.into(), words: Vec::new() };
    let types: Vec<&str> = match &property["type"] {
        Value::String(one) => vec![one.as_str()],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    match types.first() {
        Some(&"string") => named("text"),
        Some(&"integer") => named("whole number"),
        Some(&"number") => named("number"),
        Some(&"boolean") => named("true or false"),
        Some(&"array") => {
            let item = value_kind(&property["items"], definitions);
            ValueKind { name: format!("list of: {}", item.name), words: item.words }
        }
        Some(&"object") => named("table"),
        _ => named("value"),
    }
}

/// Returns the words that a type allows, with their doc comments.
fn words(schema: &Value) -> Vec<(String, String)> {
    let bare = schema["enum"].as_array().into_iter().flatten();
    let bare = bare.filter_map(|word| Some((word.as_str()?.to_owned(), String::new())));
    let described = schema["oneOf"].as_array().into_iter().flatten().flat_map(|option| {
        let text = plain(option["description"].as_str().unwrap_or_default());
        let single = option["const"].as_str().map(|word| (word.to_owned(), text));
        single.into_iter().chain(words(option))
    });
    bare.chain(described).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_type_and_a_text() {
        for key in train_keys().unwrap().into_iter().chain(serve_keys()) {
            assert!(!key.text.is_empty(), "{} has no comment", key.key);
            assert!(key.kind.name != "value", "{} has no type", key.key);
        }
    }

    #[test]
    fn types_defaults_and_words_are_those_of_the_code() {
        let train = train_keys().unwrap();
        let key = |name: &str| train.iter().find(|key| key.key == name).unwrap();
        let batch = key("train.batch_size");
        assert_eq!(
            (batch.kind.name.as_str(), batch.default.as_deref()),
            ("whole number", Some("256"))
        );
        assert!(key("train.precision").kind.words.iter().any(|(word, _)| word == "bf16"));
        assert_eq!(key("name").default, None);
        let place = |name: &str| train.iter().position(|key| key.key == name).unwrap();
        assert!(place("seed") < place("augment"), "the file's own keys come first");
        assert!(place("loader.threads") < place("loader.remote"), "keys before sections within");
        let serve = serve_keys();
        let listen = serve.iter().find(|key| key.key == "listen").unwrap();
        assert_eq!(listen.default.as_deref(), Some("\"127.0.0.1:8723\""));
    }
}
