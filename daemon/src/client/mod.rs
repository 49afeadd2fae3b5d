//! Clients of a running service, and of the owner of a state folder.

mod control;
pub(super) mod job;
mod logs;
pub(super) mod owning;
pub(super) mod reading;
mod service;
mod status;
mod submit;
mod watch;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

pub(super) use service::{Found, Service, wait_for};

/// Posts a request to the service at an address. Returns its answer, or null if it has none.
pub(super) fn post(address: &str, path: &str, body: &Value) -> anyhow::Result<Value> {
    let service = Service::at(address, None)?;
    wait_for(async {
        let answer = service.ask(Method::POST, path, Some(body)).await?;
        if answer.status() == StatusCode::NO_CONTENT {
            Ok(Value::Null)
        } else {
            Ok(answer.json().await?)
        }
    })
}

/// Sends the figures of an evaluation of a checkpoint to a service.
pub(super) fn record_metrics(
    address: &str,
    run: &str,
    step: u64,
    values: &[(String, f64)],
) -> anyhow::Result<()> {
    let values: serde_json::Map<String, Value> =
        values.iter().map(|(name, value)| (name.clone(), (*value).into())).collect();
    post(address, &format!("/v1/runs/{run}/metrics"), &json!({ "step": step, "values": values }))
        .map(drop)
}
