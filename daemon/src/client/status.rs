//! `diptych job list`: shows what a service or a training does, or the last runs of a folder.

use std::path::Path;

use arrow::json::ArrayWriter;
use diptych_cli::StatusArgs;
use diptych_embeddings::session::with_session;
use diptych_pipeline::sql::query;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::duration;
use serde_json::{Value, json};

use super::control::text;
use super::reading::state_tables;
use super::{Found, Service, wait_for};
use crate::output::line;

/// Most ended jobs that are shown.
const ENDED_SHOWN: usize = 5;

pub(crate) fn run(args: &StatusArgs) -> anyhow::Result<Outcome> {
    let service = match Service::look_for(&args.server)? {
        Found::Service(service) => service,
        Found::Nobody => return recorded(&args.server.state, args.json),
    };
    wait_for(async {
        let status: Value = service.get("/v1/status").await?;
        if args.json {
            line(serde_json::to_string_pretty(&status)?)?;
            return Ok(Outcome::Done);
        }
        let jobs: Value = service.get("/v1/jobs?limit=1000").await?;
        let does = if status["takes_jobs"] == false { "works in" } else { "serves" };
        line(format!("diptych {} {does} {}", text(&status, "version"), text(&status, "state")))?;
        if let Some(degraded) = status["degraded"].as_str() {
            line(format!("degraded: {degraded}"))?;
        }
        let jobs = jobs["items"].as_array().cloned().unwrap_or_default();
        if jobs.is_empty() {
            line("no jobs. `diptych job submit` gives it one")?;
        }
        let ended = |job: &&Value| matches!(text(job, "state"), "done" | "failed" | "cancelled");
        let open = jobs.iter().filter(|job| !ended(job));
        for job in open.chain(jobs.iter().filter(ended).take(ENDED_SHOWN)) {
            line(describe(job, &status))?;
        }
        Ok(Outcome::Done)
    })
}

/// Prints the last runs of a folder in which nothing runs now.
fn recorded(state: &Path, as_json: bool) -> anyhow::Result<Outcome> {
    let newest = format!(
        "SELECT run, CASE state WHEN 'running' THEN 'killed' ELSE state END AS state, step, \
         total_steps, message FROM runs ORDER BY updated DESC LIMIT {ENDED_SHOWN}"
    );
    let runs = with_session(None, Some(state_tables(state)?), async |context| {
        let batches = query(&context, &newest).await?.collect().await?;
        let mut writer = ArrayWriter::new(Vec::new());
        writer.write_batches(&batches.iter().collect::<Vec<_>>())?;
        writer.finish()?;
        let bytes = writer.into_inner();
        Ok(if bytes.is_empty() {
            Vec::new()
        } else {
            serde_json::from_slice::<Vec<Value>>(&bytes)?
        })
    })?;
    if as_json {
        let status = json!({ "state": state, "running": [], "runs": runs });
        line(serde_json::to_string_pretty(&status)?)?;
        return Ok(Outcome::Done);
    }
    line(format!("nothing runs in {}", state.display()))?;
    for run in &runs {
        let message = run["message"].as_str().map(|message| format!("  {message}"));
        line(format!(
            "        {:<10}  {}  step {}/{}{}",
            text(run, "state"),
            text(run, "run"),
            run["step"],
            run["total_steps"],
            message.unwrap_or_default()
        ))?;
    }
    Ok(Outcome::Done)
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
