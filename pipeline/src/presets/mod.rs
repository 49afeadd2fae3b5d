//! Filters of known data sets as SQL that a user can read, copy and edit. Each is a file whose
//! first lines say where it comes from.
//!
//! Lines `-- set KEY = DEFAULT meaning` declare parameters. Their values replace `{KEY}` in the
//! SQL.

use std::fmt::Write;

use diptych_schemas::words::did_you_mean;

/// A filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preset {
    pub name: &'static str,
    text: &'static str,
}

/// A parameter of a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    pub key: &'static str,
    /// `None`: a value is required.
    pub default: Option<&'static str>,
    pub meaning: &'static str,
}

/// The reason why a filter cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PresetError {
    #[error("there is no preset {name}{}. Known presets: \
             {known}", did_you_mean(name, known.split(", ")))]
    Unknown { name: String, known: String },
    #[error(
        "preset {preset} has no parameter {key}{}. Its parameters: {known}",
        did_you_mean(key, known.split(", "))
    )]
    UnknownKey { preset: &'static str, key: String, known: String },
    #[error("preset {preset} needs {key}: {meaning}. Set it with --set {key}=…")]
    Missing { preset: &'static str, key: &'static str, meaning: &'static str },
}

/// All filters.
pub const PRESETS: [Preset; 8] = [
    Preset { name: "datacomp-basic", text: include_str!("datacomp-basic.sql") },
    Preset { name: "datacomp-clip-score", text: include_str!("datacomp-clip-score.sql") },
    Preset { name: "datacomp-image-and-clip", text: include_str!("datacomp-image-and-clip.sql") },
    Preset { name: "laion-400m", text: include_str!("laion-400m.sql") },
    Preset { name: "laion-2b-en", text: include_str!("laion-2b-en.sql") },
    Preset { name: "laion-2b-multi", text: include_str!("laion-2b-multi.sql") },
    Preset { name: "laion-aesthetics", text: include_str!("laion-aesthetics.sql") },
    Preset { name: "laion-high-resolution", text: include_str!("laion-high-resolution.sql") },
];

/// Returns the filter with this name.
pub fn preset(name: &str) -> Result<&'static Preset, PresetError> {
    PRESETS.iter().find(|preset| preset.name == name).ok_or_else(|| PresetError::Unknown {
        name: name.to_owned(),
        known: PRESETS.iter().map(|preset| preset.name).collect::<Vec<_>>().join(", "),
    })
}

impl Preset {
    /// Returns its description in one line.
    pub fn title(&self) -> &'static str {
        self.text.lines().next().unwrap_or_default().trim_start_matches("-- ")
    }

    pub fn parameters(&self) -> Vec<Parameter> {
        let declared = self.text.lines().filter_map(|line| line.strip_prefix("-- set "));
        let parameter = |line: &'static str| {
            let (declared, meaning) = line.split_once("  ").unwrap_or((line, ""));
            let (key, default) = match declared.split_once(" = ") {
                Some((key, default)) => (key, Some(default.trim())),
                None => (declared, None),
            };
            Parameter { key: key.trim(), default, meaning: meaning.trim() }
        };
        declared.map(parameter).collect()
    }

    /// Returns the SQL with the parameters filled in. Comments list them with their values.
    pub fn sql(&self, set: &[(String, String)]) -> Result<String, PresetError> {
        let parameters = self.parameters();
        if let Some((key, _)) =
            set.iter().find(|(key, _)| parameters.iter().all(|parameter| parameter.key != key))
        {
            let known =
                parameters.iter().map(|parameter| parameter.key).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "none".into() } else { known };
            return Err(PresetError::UnknownKey { preset: self.name, key: key.clone(), known });
        }
        let mut sql = String::new();
        for line in self.text.lines().filter(|line| !line.starts_with("-- set ")) {
            let mut line = line.to_owned();
            if !line.starts_with("--") {
                for Parameter { key, default, meaning } in &parameters {
                    let given = set
                        .iter()
                        .rev()
                        .find(|(name, _)| name == key)
                        .map(|(_, value)| value.as_str());
                    let value = given.or(*default);
                    let value =
                        value.ok_or(PresetError::Missing { preset: self.name, key, meaning })?;
                    line = line.replace(&format!("{{{key}}}"), value);
                }
            }
            // Writing to a String cannot fail.
            let _ = writeln!(sql, "{line}");
        }
        Ok(sql)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_says_what_it_is_and_uses_all_that_can_be_set() {
        for preset in &PRESETS {
            assert!(
                preset.title().ends_with(['.', ',']) || preset.title().len() > 40,
                "{}",
                preset.name
            );
            let set: Vec<(String, String)> = preset
                .parameters()
                .iter()
                .map(|p| (p.key.to_owned(), format!("SET_{}", p.key)))
                .collect();
            let sql = preset.sql(&set).unwrap();
            assert!(!sql.contains(['{', '}']), "{}: {sql}", preset.name);
            for (key, value) in &set {
                assert!(sql.contains(value), "{}: {key} is not used", preset.name);
            }
        }
    }

    #[test]
    fn what_is_missing_or_unknown_is_named() {
        let image = preset("datacomp-image-and-clip").unwrap();
        assert!(image.sql(&[]).unwrap_err().to_string().contains("--set clusters="));
        let set = [("clusters".into(), "1".into()), ("treshold".into(), "2".into())];
        let error = image.sql(&set).unwrap_err().to_string();
        assert!(error.contains("treshold") && error.contains("fraction"), "{error}");
        assert!(preset("datacomp").unwrap_err().to_string().contains("datacomp-basic"));
        assert!(
            preset("datacomp-basic")
                .unwrap()
                .sql(&[])
                .unwrap()
                .contains("least(width, height) >= 200")
        );
    }
}
