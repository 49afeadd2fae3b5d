//! JSON Schemas of the configurations, for editors that complete and check TOML.

use schemars::{JsonSchema, schema_for};
use serde_json::Value;

use crate::{ServeConfig, TrainConfig};

/// Returns the JSON Schema (draft 2020-12) of a run's configuration.
pub fn train_schema() -> Value {
    schema::<TrainConfig>("A training run of diptych")
}

/// Returns the JSON Schema (draft 2020-12) of the configuration of `diptych serve`.
pub fn serve_schema() -> Value {
    schema::<ServeConfig>("The service of diptych")
}

fn schema<T: JsonSchema>(title: &str) -> Value {
    let mut schema = schema_for!(T).to_value();
    schema["title"] = title.into();
    unwrap_lines(&mut schema);
    schema
}

/// Joins the lines of each description: line breaks of the source mean nothing to a reader.
fn unwrap_lines(value: &mut Value) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(text) if key == "description" => {
                        *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
                    }
                    other => unwrap_lines(other),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(unwrap_lines),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config_reference::value_kind;

    /// Checks a value as an editor does, by the parts of JSON Schema that these schemas use.
    fn check(value: &Value, schema: &Value, root: &Value, place: &str) -> Result<(), String> {
        if let Some(path) = schema["$ref"].as_str() {
            let name = path.rsplit('/').next().unwrap();
            check(value, &root["$defs"][name], root, place)?;
        }
        for options in ["anyOf", "oneOf"].iter().filter_map(|key| schema[*key].as_array()) {
            let found = options.iter().map(|option| check(value, option, root, place));
            if found.clone().all(|option| option.is_err()) {
                return Err(format!("{place}: {:?}", found.collect::<Vec<_>>()));
            }
        }
        if schema.get("const").is_some_and(|wanted| wanted != value)
            || schema["enum"].as_array().is_some_and(|wanted| !wanted.contains(value))
        {
            return Err(format!("{place}: {value} is not one of the words"));
        }
        let is_of = |name: &str| match name {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_u64() || value.is_i64(),
            "number" => value.is_number(),
            "null" => value.is_null(),
            other => panic!("{place}: unknown type {other}"),
        };
        let types = match &schema["type"] {
            Value::Null => Vec::new(),
            Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
            name => vec![name.as_str().unwrap()],
        };
        if !types.is_empty() && !types.iter().any(|name| is_of(name)) {
            return Err(format!("{place}: {value} is no {types:?}"));
        }
        for (key, value) in value.as_object().into_iter().flatten() {
            let (place, more) = (format!("{place}.{key}"), &schema["additionalProperties"]);
            match schema["properties"].get(key) {
                Some(property) => check(value, property, root, &place)?,
                None if more.is_object() => check(value, more, root, &place)?,
                None if more == &Value::Bool(false) => return Err(format!("{place}: unknown")),
                None => {}
            }
        }
        for wanted in schema["required"].as_array().into_iter().flatten() {
            if value.is_object() && value.get(wanted.as_str().unwrap()).is_none() {
                return Err(format!("{place}: {wanted} is missing"));
            }
        }
        let items = value.as_array().filter(|_| schema["items"].is_object());
        for item in items.into_iter().flatten() {
            check(item, &schema["items"], root, place)?;
        }
        Ok(())
    }

    fn checked(toml: &str, schema: &Value) -> Result<(), String> {
        let value: toml::Table = toml.parse().unwrap();
        check(&serde_json::to_value(value).unwrap(), schema, schema, "")
    }

    const SMALLEST: &str =
        "name = \"a\"\n[data]\ndataset = \"d\"\nselection = \"s\"\n[model]\nconfig = \"demo\"\n";

    #[test]
    fn examples_and_all_defaults_are_valid() {
        let (train, serve) = (train_schema(), serve_schema());
        let all_keys = TrainConfig::parse(SMALLEST).unwrap().to_toml();
        let rich = format!(
            "{SMALLEST}weights = {{ image = \"i\" }}\n[train]\nprecision = \
             \"bf16\"\n[train.lock]\nimage = true\n\
             [optimizer]\nwarmup_steps = 7\n[objective]\nterms = {{ clip = 1.0, mlm = 0.5 }}\nmask \
             = {{ text = 0.4 }}\n\
             [metrics]\ntensorboard = \"board\"\n[lora]\nrank = 4\ntargets = [\"query\"]\n"
        );
        TrainConfig::parse(&rich).unwrap();
        let emoji = include_str!("../../tests/emoji/train.toml");
        for text in [
            SMALLEST,
            &all_keys,
            &rich,
            &crate::commented(&TrainConfig::parse(SMALLEST).unwrap()),
            emoji,
        ] {
            checked(text, &train).unwrap_or_else(|error| panic!("{error}\n{text}"));
        }
        let packaged = include_str!("../../daemon/dist/diptych.toml");
        for text in ["", &ServeConfig::default().to_toml(), packaged] {
            checked(text, &serve).unwrap_or_else(|error| panic!("{error}\n{text}"));
        }
    }

    #[test]
    fn mistakes_are_invalid() {
        let train = train_schema();
        for add in [
            "[train]\nbatchsize = 3\n",
            "[train]\nbatch_size = \"3\"\n",
            "[train]\nprecision = \"amp\"\n",
            "[optimizer]\nlr = true\n",
            "[objective]\nterms = { clip = \"1\" }\n",
            "[nothing]\n",
        ] {
            assert!(checked(&format!("{SMALLEST}{add}"), &train).is_err(), "{add}");
        }
        assert!(checked("[data]\n[model]\n", &train).unwrap_err().contains("name"));
        assert!(checked("[http]\nmax_body = 3\n", &serve_schema()).is_err());
    }

    #[test]
    fn every_key_has_a_description_and_a_kind() {
        for schema in [train_schema(), serve_schema()] {
            assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
            let definitions = schema["$defs"].as_object().unwrap();
            for (name, table) in definitions.iter().chain([(&"root".to_owned(), &schema)]) {
                for (key, property) in table["properties"].as_object().into_iter().flatten() {
                    let of_type = property["$ref"].as_str().and_then(|path| {
                        definitions.get(path.rsplit('/').next()?)?["description"].as_str()
                    });
                    let text = property["description"].as_str().or(of_type);
                    assert!(text.is_some_and(|text| !text.contains('\n')), "{name}.{key}");
                    let kind = value_kind(property, definitions).to_string();
                    assert!(kind != "value", "{name}.{key}");
                }
            }
        }
    }
}
