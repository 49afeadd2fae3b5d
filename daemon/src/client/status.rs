//! `diptych status`: what a running service does.

use diptych_cli::StatusArgs;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::duration;
use serde_json::Value;

use super::control::text;
use super::{Service, wait_for};
use crate::output::line;

/// Jobs that have ended and are shown.
const ENDED_SHOWN: usize = 5;

pub(crate) fn run(args: &StatusArgs) -> anyhow::Result<Outcome> {
    let service = Service::find(&args.server)?;
    wait_for(async {
        let status: Value = service.get("/v1/status").await?;
        if args.json {
            line(serde_json::to_string_pretty(&status)?)?;
            return Ok(Outcome::Done);
        }
        let jobs: Value = service.get("/v1/jobs?limit=1000").await?;
        line(format!("diptych {} serves {}", text(&status, "version"), text(&status, "state")))?;
        if let Some(degraded) = status["degraded"].as_str() {
            line(format!("degraded: {degraded}"))?;
        }
        let jobs = jobs["items"].as_array().cloned().unwrap_or_default();
        if jobs.is_empty() {
            line("no jobs: `diptych submit` gives it one")?;
        }
        let ended = |job: &&Value| matches!(text(job, "state"), "done" | "failed" | "cancelled");
        let open = jobs.iter().filter(|job| !ended(job));
        for job in open.chain(jobs.iter().filter(ended).take(ENDED_SHOWN)) {
            line(describe(job, &status))?;
        }
        Ok(Outcome::Done)
    })
}

fn describe(job: &Value, status: &Value) -> String {
    let running = status["running"]
        .as_array()
        .and_then(|running| running.iter().find(|running| running["job"] == job["id"]));
    let what = job["run"]
        .as_str()
        .map_or_else(|| text(job, "kind").to_owned(), |run| format!("{} {run}", text(job, "kind")));
    let mut line = format!("{:>6}  {:<10}  {what}", job["id"].to_string(), text(job, "state"));
    if let Some(step) = running.filter(|running| running["step"].is_u64()) {
        let number = |key: &str| step[key].as_f64().unwrap_or(f64::NAN);
        line = format!(
            "{line}  step {}/{}  loss {:.3}  {:.1} samples/s  {} left",
            step["step"],
            step["total_steps"],
            number("loss"),
            number("average_samples_per_second"),
            duration(number("eta_seconds"))
        );
    }
    match job["message"].as_str() {
        Some(message) => format!("{line}  {}", message.lines().next().unwrap_or_default()),
        None => line,
    }
}
