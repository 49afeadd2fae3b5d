//! Commands that ask a running service.

pub(super) mod control;
pub(super) mod logs;
mod service;
pub(super) mod sql;
pub(super) mod status;
pub(super) mod submit;
pub(super) mod watch;

pub(super) use service::{Service, wait_for};

/// Tells a service what an evaluation of a checkpoint gave.
pub(super) fn record_metrics(address: &str, run: &str, step: u64, values: &[(String, f64)]) -> anyhow::Result<()> {
    let values: serde_json::Map<String, serde_json::Value> =
        values.iter().map(|(name, value)| (name.clone(), (*value).into())).collect();
    let body = serde_json::json!({ "step": step, "values": values });
    let service = Service::at(address, None)?;
    wait_for(async { service.ask(reqwest::Method::POST, &format!("/v1/runs/{run}/metrics"), Some(&body)).await.map(drop) })
}
