//! The description of the service at `/openapi.json`: the rules of OpenAPI 3.1 that break client
//! generators.

use std::collections::BTreeSet;

use diptych_tests::Work;
use diptych_tests::service::Service;
use serde_json::{Value, json};

const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];
const TYPES: [&str; 7] = ["string", "number", "integer", "boolean", "array", "object", "null"];

/// Broken rules, each with its place.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn check(&mut self, holds: bool, place: &str, rule: &str) {
        if !holds {
            self.0.push(format!("{place}: {rule}"));
        }
    }

    /// Checks that references point to something and that types are those of JSON.
    fn of_schemas(&mut self, described: &Value, value: &Value, place: &str) {
        if let Some(target) = value["$ref"].as_str() {
            let found = target.strip_prefix('#').and_then(|pointer| described.pointer(pointer));
            self.check(found.is_some(), place, &format!("{target} points to nothing"));
        }
        let named = |kind: &Value| kind.as_str().is_some_and(|kind| TYPES.contains(&kind));
        if place.contains("schema") && !place.ends_with("properties") {
            let known = match &value["type"] {
                Value::Null => true,
                Value::Array(kinds) => !kinds.is_empty() && kinds.iter().all(named),
                kind => named(kind),
            };
            self.check(known, place, &format!("{} is no type", value["type"]));
        }
        match value {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.of_schemas(described, item, &format!("{place}/{index}"));
                }
            }
            Value::Object(fields) => {
                for (name, field) in fields {
                    self.of_schemas(described, field, &format!("{place}/{name}"));
                }
            }
            _ => {}
        }
    }

    fn of_parameters(&mut self, path: &str, operation: &Value, place: &str) {
        let mut seen = BTreeSet::new();
        let mut in_path = BTreeSet::new();
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let (name, kind) =
                (parameter["name"].as_str().unwrap_or_default(), parameter["in"].as_str());
            let place = format!("{place} {name:?}");
            self.check(!name.is_empty(), &place, "a parameter has a name");
            self.check(
                matches!(kind, Some("query" | "header" | "path" | "cookie")),
                &place,
                "a parameter is in the query, the path, a header or a cookie",
            );
            self.check(parameter["schema"].is_object(), &place, "a parameter has a schema");
            self.check(seen.insert((name, kind)), &place, "a parameter is declared once");
            if kind == Some("path") {
                self.check(
                    parameter["required"] == true,
                    &place,
                    "what is in the path is required",
                );
                in_path.insert(name);
            }
        }
        let templated: BTreeSet<&str> =
            path.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0)).collect();
        self.check(
            in_path == templated,
            place,
            &format!("declares {in_path:?} in the path, which has {templated:?}"),
        );
    }

    fn of_responses(&mut self, operation: &Value, place: &str) {
        let responses = operation["responses"].as_object();
        self.check(responses.is_some_and(|all| !all.is_empty()), place, "there is a response");
        for (status, response) in responses.into_iter().flatten() {
            let number = status.parse().is_ok_and(|status: u16| (100..600).contains(&status));
            self.check(number || status == "default", place, &format!("{status} is no status"));
            self.check(response["description"].is_string(), place, "a response is described");
        }
    }
}

fn faults(described: &Value) -> Vec<String> {
    let mut faults = Faults::default();
    let version = described["openapi"].as_str().unwrap_or_default();
    faults.check(version.starts_with("3."), "openapi", "the version is 3");
    for name in ["title", "version"] {
        faults.check(described["info"][name].is_string(), "info", &format!("has a {name}"));
    }
    let mut identities = BTreeSet::new();
    let mut shapes = BTreeSet::new();
    for (path, item) in described["paths"].as_object().into_iter().flatten() {
        faults.check(path.starts_with('/'), path, "begins with a slash");
        let shape: Vec<_> =
            path.split('/').map(|part| if part.starts_with('{') { "{}" } else { part }).collect();
        faults.check(shapes.insert(shape), path, "is another path with other names");
        for (method, operation) in item.as_object().into_iter().flatten() {
            let place = format!("{method} {path}");
            faults.check(METHODS.contains(&method.as_str()), &place, "is a method");
            let identity = operation["operationId"].as_str().unwrap_or_default();
            faults.check(
                !identity.is_empty() && identities.insert(identity),
                &place,
                &format!("operationId {identity:?} is there once"),
            );
            faults.of_parameters(path, operation, &place);
            faults.of_responses(operation, &place);
        }
    }
    faults.of_schemas(described, described, "");
    faults.0
}

#[test]
fn description_of_the_service_is_valid() {
    let work = Work::new();
    work.write("diptych.toml", "state = \"state\"\nlisten = \"127.0.0.1:0\"\n");
    let described = Service::start(&work).get("/openapi.json");
    assert!(described["paths"].as_object().unwrap().len() > 15);
    assert_eq!(faults(&described), Vec::<String>::new());

    // The check sees what it is there for.
    for (place, wrong) in [
        ("/paths/~1v1~1runs~1{run}/get/parameters", json!([])),
        ("/paths/~1v1~1runs~1{run}/get/parameters/0/required", json!(false)),
        ("/paths/~1v1~1runs/get/parameters/0/in", json!("path")),
        ("/paths/~1v1~1runs/get/operationId", json!("list_jobs")),
        ("/components/schemas/Job/type", json!("text")),
        (
            "/paths/~1v1~1jobs/post/requestBody/content/application~1json/schema/$ref",
            json!("#/components/schemas/Jub"),
        ),
    ] {
        let mut broken = described.clone();
        *broken.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = wrong;
        assert!(!faults(&broken).is_empty(), "{place}");
    }
}
