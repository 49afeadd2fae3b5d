//! Explanations of the keys of a training configuration, taken from the doc comments of its fields.
//!
//! `diptych config` prints a file that explains itself; `diptych config --keys` prints the full
//! explanations.

use std::collections::{BTreeMap, BTreeSet};

use schemars::{JsonSchema, schema_for};
use serde_json::{Map, Value};

use crate::TrainConfig;
use crate::config_reference::{ValueKind, value_kind};
use crate::words::{nearest, wrapped};

/// Longest explanation above a key, in characters.
const SHORT: usize = 120;
/// Longest line of a full explanation, in characters.
const LINE: usize = 96;

/// Example values of keys that have no default.
const EXAMPLES: [(&str, &str); 19] = [
    (
        "data.captions",
        "[{ column = \"caption\", probability = 0.7 }, { column = \"alt\", probability = 0.3 }]",
    ),
    ("data.dataset", "\"data\""),
    ("data.mix", "[{ dataset = \"photos\", selection = \"photos.parquet\", weight = 3.0 }]"),
    ("data.selection", "\"train.parquet\""),
    ("eval.classes", "\"classes.txt\""),
    ("eval.dataset", "\"data\""),
    ("eval.label_column", "\"label\""),
    ("eval.selection", "\"heldout.parquet\""),
    ("eval.suite", "\"suite.toml\""),
    ("eval.templates", "\"templates.txt\""),
    ("loader.remote.cache", "\"/nvme/diptych\""),
    ("loader.remote.options", "{ aws_endpoint = \"http://minio:9000\" }"),
    ("model.config", "\"ViT-B-32\""),
    ("model.tokenizer", "\"tokenizer.json\""),
    ("model.weights", "\"models/clip\""),
    ("objective.loss", "\"clip\""),
    ("objective.mask", "{ text = 0.15, whole_words = true }"),
    ("objective.terms", "{ clip = 1.0, alignment = 0.5 }"),
    ("optimizer.warmup_samples", "500000"),
];

/// The explanation of a key or of a section.
#[derive(Clone, Debug)]
pub(crate) struct KeyDoc {
    pub(crate) text: String,
    /// The type of its values.
    pub(crate) kind: ValueKind,
    /// Whether the key is a table with its own heading.
    pub(crate) is_section: bool,
    /// Whether the key is part of a table inside a value, like those of `data.mix`.
    pub(crate) is_within_a_value: bool,
}

pub(crate) type Docs = BTreeMap<String, KeyDoc>;

fn docs() -> Docs {
    docs_of::<TrainConfig>()
}

/// Returns the keys of a configuration, by their names with those of their tables.
pub(crate) fn docs_of<T: JsonSchema>() -> Docs {
    let schema = schema_for!(T).to_value();
    let mut docs = BTreeMap::new();
    let no_definitions = Map::new();
    let definitions = schema["$defs"].as_object().unwrap_or(&no_definitions);
    add(&schema, "", false, definitions, &mut docs);
    docs
}

/// Adds the properties of a schema and of the definitions that they refer to.
fn add(
    schema: &Value,
    prefix: &str,
    within: bool,
    definitions: &Map<String, Value>,
    docs: &mut Docs,
) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let found = referred(property, definitions);
        let table = found.filter(|(of, _)| of["properties"].is_object());
        let own = property["description"].as_str();
        let text = own.or_else(|| table?.0["description"].as_str()).unwrap_or_default();
        let is_section = table.is_some_and(|(_, direct)| direct) && !within;
        docs.insert(
            key.clone(),
            KeyDoc {
                text: plain(text),
                kind: value_kind(property, definitions),
                is_section,
                is_within_a_value: within,
            },
        );
        if let Some((table, _)) = table {
            add(table, &key, within || !is_section, definitions, docs);
        }
    }
}

/// Returns the definition that a property, an optional property or the items of a list refer to.
/// The flag says whether the property itself refers to it.
pub(crate) fn referred<'a>(
    property: &'a Value,
    definitions: &'a Map<String, Value>,
) -> Option<(&'a Value, bool)> {
    let step = |schema: &'a Value| definitions.get(schema["$ref"].as_str()?.rsplit('/').next()?);
    // A type that is read through another type refers to that one.
    let of = |schema: &'a Value| std::iter::successors(step(schema), |next| step(next)).last();
    if let Some(found) = of(property) {
        return Some((found, true));
    }
    let options = property["anyOf"].as_array().into_iter().flatten();
    options.chain([&property["items"]]).find_map(of).map(|found| (found, false))
}

/// Returns a doc comment as running text.
pub(crate) fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace("[`", "`").replace("`]", "`")
}

/// Returns the first sentence, and further ones while the text stays below the limit.
fn short(text: &str) -> String {
    let mut kept = String::new();
    for sentence in text.split_inclusive(". ") {
        if !kept.is_empty() && kept.len() + sentence.len() > SHORT {
            break;
        }
        kept += sentence;
    }
    kept.trim().to_owned()
}

/// Writes a configuration as TOML with an explanation above each key. Keys that are not set appear
/// as comments.
pub fn commented(config: &TrainConfig) -> String {
    let (docs, toml) = (docs(), config.to_toml());
    let heading = |line: &str| {
        let name = line.strip_prefix('[')?.trim_start_matches('[').trim_end_matches(']');
        Some(name.to_owned())
    };
    let tables: BTreeSet<String> = toml.lines().filter_map(heading).collect();
    let mut written = Written { docs: &docs, tables, lines: Vec::new(), keys: BTreeSet::new() };
    let (mut section, mut is_list) = (String::new(), false);
    for line in toml.lines().filter(|line| !line.is_empty()) {
        if let Some(name) = heading(line) {
            if !is_list {
                written.add_unset(&section);
            }
            written.lines.push(String::new());
            written.explain(&name);
            (section, is_list) = (name, line.starts_with("[["));
        } else if let Some((name, _)) = line.split_once(" = ") {
            let key = joined(&section, name);
            written.explain(&key);
            written.keys.insert(key);
        }
        written.lines.push(line.to_owned());
    }
    if !is_list {
        written.add_unset(&section);
    }
    written.lines.join("\n") + "\n"
}

struct Written<'a> {
    docs: &'a Docs,
    /// Headings of the file.
    tables: BTreeSet<String>,
    lines: Vec<String>,
    keys: BTreeSet<String>,
}

impl Written<'_> {
    fn explain(&mut self, key: &str) {
        if let Some(doc) = self.docs.get(key).filter(|doc| !doc.text.is_empty()) {
            self.lines.push(format!("# {}", short(&doc.text)));
        }
    }

    /// Adds the keys of a section that are not set, as comments.
    fn add_unset(&mut self, section: &str) {
        let docs = self.docs;
        for (key, doc) in docs {
            let (of, name) = key.rsplit_once('.').unwrap_or(("", key));
            let is_set = self.keys.contains(key) || self.tables.contains(key);
            if of != section || doc.is_section || doc.is_within_a_value || is_set {
                continue;
            }
            self.explain(key);
            self.lines.push(format!("# {name} = {}", example(key).unwrap_or("…")));
        }
    }
}

fn joined(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

pub(crate) fn example(key: &str) -> Option<&'static str> {
    EXAMPLES.iter().find(|(known, _)| *known == key).map(|(_, example)| *example)
}

/// Explains all keys, the keys of one section, or one key. The defaults are taken from `config`.
pub fn explained(config: &TrainConfig, wanted: Option<&str>) -> Result<String, String> {
    let docs = docs();
    let is_wanted = |key: &str| {
        wanted.is_none_or(|wanted| {
            key == wanted || key.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('.'))
        })
    };
    if !docs.keys().any(|key| is_wanted(key)) {
        let wanted = wanted.unwrap_or_default();
        let sections = docs.iter().filter(|(_, doc)| doc.is_section).map(|(key, _)| key.as_str());
        let listed: Vec<&str> = sections.collect();
        // A key may be named without its section.
        let last = |key: &'_ str| key.rsplit('.').next().unwrap_or_default().to_owned();
        let names: Vec<String> = docs.keys().map(|key| last(key)).collect();
        let by_name = nearest(wanted, names.iter().map(String::as_str))
            .and_then(|name| docs.keys().find(|key| last(key) == name));
        let whole = nearest(wanted, docs.keys().map(String::as_str)).map(str::to_owned);
        let guess = if wanted.contains('.') { whole } else { by_name.cloned().or(whole) };
        let guess = guess.map_or_else(String::new, |key| format!("did you mean {key}? "));
        return Err(format!("there is no key {wanted}: {guess}Sections: {}", listed.join(", ")));
    }
    let values = values(config);
    let mut lines = Vec::new();
    for (key, doc) in docs.iter().filter(|(key, _)| is_wanted(key)) {
        let head = if doc.is_section {
            format!("[{key}]")
        } else {
            match (values.get(key), example(key)) {
                (Some(value), _) => format!("{key} = {value}   ({})", doc.kind),
                (None, Some(example)) => {
                    format!("{key}   ({}; not set; for example {example})", doc.kind)
                }
                (None, None) => format!("{key}   ({})", doc.kind),
            }
        };
        lines.push(head);
        lines.extend(wrapped(&doc.text, LINE).into_iter().map(|line| format!("    {line}")));
    }
    Ok(lines.join("\n") + "\n")
}

/// Returns each key with its value as TOML.
fn values(config: &TrainConfig) -> BTreeMap<String, String> {
    values_in(&config.to_toml())
}

/// Returns each key of a TOML text with its value as TOML.
pub(crate) fn values_in(toml: &str) -> BTreeMap<String, String> {
    fn add(table: &toml::Table, prefix: &str, found: &mut BTreeMap<String, String>) {
        for (name, value) in table {
            let key = joined(prefix, name);
            match value {
                toml::Value::Table(table) => add(table, &key, found),
                value => {
                    found.insert(key, value.to_string());
                }
            }
        }
    }
    let mut found = BTreeMap::new();
    if let Ok(table) = toml.parse::<toml::Table>() {
        add(&table, "", &mut found);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str = "name = \"a\"\n[data]\ndataset = \"d\"\nselection = \
        \"s.parquet\"\n[model]\nconfig = \"demo\"\n";

    #[test]
    fn every_key_is_explained_and_those_without_a_default_have_an_example() {
        let config = TrainConfig::parse(SMALLEST).unwrap();
        let (docs, set) = (docs(), values(&config));
        for (key, doc) in &docs {
            assert!(!doc.text.is_empty(), "{key} has no comment");
            if !doc.is_section && !doc.is_within_a_value && !set.contains_key(key) {
                assert!(example(key).is_some(), "{key} has no example");
            }
        }
        for key in set.keys() {
            assert!(docs.contains_key(key), "{key} is not in the schema");
        }
        for (key, example) in EXAMPLES {
            assert!(docs.contains_key(key), "{key} is no key");
            let value: Result<toml::Table, _> = format!("a = {example}").parse();
            assert!(value.is_ok(), "{key} = {example}");
        }
    }

    #[test]
    fn commented_file_is_the_configuration_and_holds_every_key() {
        let mixed = "name = \"a\"\n[[data.mix]]\ndataset = \"d\"\nselection = \
                     \"s\"\n[[data.mix]]\ndataset = \"e\"\nselection = \"t\"\n\
                     [model]\nweights = \"w\"\n[eval]\nselection = \"h\"\ndataset = \
                     \"d\"\n[objective]\nterms = { clip = 1.0 }\n";
        for text in [SMALLEST, mixed] {
            let config = TrainConfig::parse(text).unwrap();
            let written = commented(&config);
            assert_eq!(TrainConfig::parse(&written).unwrap(), config, "{written}");
        }
        let written = commented(&TrainConfig::parse(SMALLEST).unwrap());
        let lines: Vec<&str> = written.lines().map(|line| line.trim_start_matches("# ")).collect();
        for (key, doc) in docs().into_iter().filter(|(_, doc)| !doc.is_within_a_value) {
            let name = key.rsplit('.').next().unwrap();
            let start = if doc.is_section { format!("[{key}]") } else { format!("{name} = ") };
            assert!(
                lines.iter().any(|line| line.starts_with(&start)),
                "{key} is missing in\n{written}"
            );
        }
        assert!(written.contains("\n# selection = \"heldout.parquet\"\n"), "{written}");
    }

    #[test]
    fn keys_are_explained_by_section_and_a_typo_gets_a_guess() {
        let config = TrainConfig::parse(SMALLEST).unwrap();
        let eval = explained(&config, Some("eval")).unwrap();
        assert!(
            eval.contains("eval.every_steps = 0   (whole number)\n    Evaluate every this many"),
            "{eval}"
        );
        assert!(
            eval.contains("eval.selection   (text; not set; for example")
                && !eval.contains("train."),
            "{eval}"
        );
        assert!(explained(&config, Some("loader.remote.cache")).unwrap().lines().count() < 4);
        let error = explained(&config, Some("evla")).unwrap_err();
        assert!(error.contains("did you mean eval?"), "{error}");
    }
}
