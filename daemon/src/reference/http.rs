//! The HTTP API, from its OpenAPI document.

use serde_json::Value;

use super::markdown::{code, prose, start, table};

const ABOUT: &str = "The service answers under `/v1`, and describes itself in `/openapi.json`. Lists come in parts: `next` asks for the \
                     part after. Errors are problem details (RFC 9457). Where tokens are set, requests carry `Authorization: Bearer dpt_…`.";

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

pub(super) fn page() -> anyhow::Result<String> {
    let document = diptych_serve::openapi()?;
    let mut text = start("HTTP", ABOUT);
    text += "\n## Requests\n";
    for (path, item) in entries(&document["paths"]) {
        for method in METHODS.iter().filter(|method| item[**method].is_object()) {
            text += &operation(&method.to_uppercase(), path, &item[*method]);
        }
    }
    text += "\n## Objects\n";
    for (name, schema) in entries(&document["components"]["schemas"]) {
        text += &object(name, schema);
    }
    Ok(text)
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text_of(value: &Value) -> String {
    prose(value.as_str().unwrap_or_default())
}

fn operation(method: &str, path: &str, operation: &Value) -> String {
    let about = [&operation["summary"], &operation["description"]].map(text_of);
    let about = about.iter().filter(|about| !about.is_empty());
    let about: Vec<String> = about
        .map(|about| if about.ends_with('.') { about.clone() } else { format!("{about}.") })
        .collect();
    let mut text = format!("\n### {method} {path}\n\n{}\n", about.join(" "));
    let parameters: Vec<Vec<String>> = items(&operation["parameters"])
        .map(|parameter| {
            let name = parameter["name"].as_str().unwrap_or_default();
            let place = parameter["in"].as_str().unwrap_or_default();
            let required = if parameter["required"] == true { "yes" } else { "" };
            vec![
                code(name),
                place.to_owned(),
                type_of(&parameter["schema"]),
                required.to_owned(),
                text_of(&parameter["description"]),
            ]
        })
        .collect();
    if !parameters.is_empty() {
        let head = ["parameter", "in", "type", "required", "meaning"];
        text += &format!("\n{}", table(&head, parameters));
    }
    for (kind, body) in entries(&operation["requestBody"]["content"]) {
        text += &format!("\nBody: {} as `{kind}`.\n", type_of(&body["schema"]));
    }
    let answers = entries(&operation["responses"]).map(|(status, answer)| {
        let bodies = entries(&answer["content"])
            .map(|(kind, body)| format!("{} as `{kind}`", type_of(&body["schema"])));
        let bodies: Vec<String> = bodies.collect();
        vec![code(status), text_of(&answer["description"]), bodies.join(", ")]
    });
    text + "\n" + &table(&["status", "meaning", "body"], answers)
}

fn object(name: &str, schema: &Value) -> String {
    let mut text = format!("\n### {name}\n");
    let about = text_of(&schema["description"]);
    if !about.is_empty() {
        text += &format!("\n{}\n", if about.ends_with('.') { about } else { about + "." });
    }
    let words: Vec<String> = items(&schema["enum"]).filter_map(Value::as_str).map(code).collect();
    if !words.is_empty() {
        return text + &format!("\nOne of {}.\n", words.join(", "));
    }
    // What is flattened into another object stands in a list of parts.
    let parts = items(&schema["allOf"]).chain([schema]);
    let rows: Vec<Vec<String>> = parts
        .flat_map(|part| entries(&part["properties"]))
        .map(|(name, property)| {
            vec![code(name), type_of(property), text_of(&property["description"])]
        })
        .collect();
    if rows.is_empty() {
        let alternatives =
            ["oneOf", "anyOf", "allOf"].iter().flat_map(|kind| items(&schema[*kind]));
        let alternatives: Vec<String> = alternatives.map(type_of).collect();
        let form =
            if alternatives.is_empty() { type_of(schema) } else { alternatives.join(" or ") };
        return text + &format!("\nForm: {form}.\n");
    }
    text + "\n" + &table(&["field", "type", "meaning"], rows)
}

/// Returns a schema's type in words, with links to objects.
fn type_of(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
        return format!("[{name}](#{})", name.to_lowercase());
    }
    let alternatives: Vec<String> = ["oneOf", "anyOf", "allOf"]
        .iter()
        .flat_map(|kind| items(&schema[*kind]))
        .map(type_of)
        .filter(|kind| kind != "null")
        .collect();
    if !alternatives.is_empty() {
        return alternatives.join(" or ");
    }
    let named = match &schema["type"] {
        Value::String(name) => name.clone(),
        Value::Array(names) => {
            let names = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
            names.collect::<Vec<_>>().join(" or ")
        }
        _ => return "any value".into(),
    };
    match named.as_str() {
        "array" => format!("list of {}", type_of(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("object of {}", type_of(&schema["additionalProperties"]))
        }
        _ => named,
    }
}
