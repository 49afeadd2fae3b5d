//! `diptych job watch`: prints steps, events and jobs as they come, one line each.

use std::time::{Duration, Instant};

use anyhow::bail;
use diptych_cli::WatchArgs;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::duration;
use futures::StreamExt;
use reqwest::Method;
use serde_json::Value;

use super::control::{no_such_run, text};
use super::{Service, wait_for};
use crate::output::line;

/// Least time between two printed steps.
const STEP_EVERY: Duration = Duration::from_secs(1);
/// The number that stands for a command with its own state folder, which is no job of a service.
const COMMAND: u64 = 0;
/// Longest line of the stream, in bytes.
const LONGEST_LINE: usize = 1 << 20;

pub(crate) fn run(args: &WatchArgs) -> anyhow::Result<Outcome> {
    let service = Service::find(&args.server)?;
    wait_for(async {
        let answer = service.ask(Method::GET, "/v1/events", None).await?;
        if let Some(run) = &args.run {
            let record: Value = service.get("/v1/jobs?limit=1000").await?;
            let jobs = record["items"].as_array().cloned().unwrap_or_default();
            match jobs.iter().find(|job| job["run"] == run.as_str()) {
                None => {
                    let known = jobs.iter().filter_map(|job| job["run"].as_str());
                    let known: Vec<String> = known.map(str::to_owned).collect();
                    return Err(no_such_run(run, &known));
                }
                Some(job) if has_ended(job) => {
                    line(about_job(job))?;
                    return Ok(Outcome::Done);
                }
                Some(_) => {}
            }
        }
        let mut stream = answer.bytes_stream();
        let (mut buffer, mut event) = (Vec::new(), String::new());
        let mut shown: Option<Instant> = None;
        let mut command_ended = false;
        while let Some(bytes) = stream.next().await {
            buffer.extend_from_slice(&bytes?);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let text: Vec<u8> = buffer.drain(..=end).collect();
                let text = String::from_utf8_lossy(&text);
                let text = text.trim_end();
                if let Some(name) = text.strip_prefix("event:") {
                    name.trim().clone_into(&mut event);
                } else if let Some(data) = text.strip_prefix("data:") {
                    let data: Value = serde_json::from_str(data.trim())?;
                    if args.run.as_ref().is_some_and(|run| data["run"] != run.as_str()) {
                        continue;
                    }
                    let last = data["step"] == data["total_steps"];
                    let now = shown.is_none_or(|shown| shown.elapsed() >= STEP_EVERY);
                    if event != "step" || now || last {
                        line(about(&event, &data))?;
                    }
                    if event == "step" && now {
                        shown = Some(Instant::now());
                    }
                    if event == "job" && has_ended(&data) {
                        if args.run.is_some() {
                            return Ok(Outcome::Done);
                        }
                        command_ended |= data["id"] == COMMAND;
                    }
                }
            }
            if buffer.len() > LONGEST_LINE {
                bail!("the service sends a line without end: is it another version?");
            }
        }
        if command_ended {
            // With it, whoever answered is gone.
            return Ok(Outcome::Done);
        }
        bail!("the service closed the connection. `diptych job list` shows whether it is back")
    })
}

fn has_ended(job: &Value) -> bool {
    matches!(text(job, "state"), "done" | "failed" | "cancelled" | "paused")
}

fn about(event: &str, data: &Value) -> String {
    let number = |key: &str| data[key].as_f64().unwrap_or(f64::NAN);
    match event {
        "step" => format!(
            "{}  step {}/{}  loss {:.3}  lr {:.2e}  grad {:.2}  {:.1} samples/s  wait {:.0}%  {} \
             left",
            text(data, "run"),
            data["step"],
            data["total_steps"],
            number("loss"),
            number("lr"),
            number("grad_norm"),
            number("average_samples_per_second"),
            100.0 * number("data_wait_seconds") / number("seconds"),
            duration(number("eta_seconds"))
        ),
        "event" => {
            format!("{}  {}: {}", text(data, "run"), text(data, "kind"), text(data, "message"))
        }
        "evaluation" => {
            let values = data["values"].as_object().into_iter().flatten();
            let values: Vec<String> = values
                .map(|(name, value)| format!("{name} {:.3}", value.as_f64().unwrap_or(f64::NAN)))
                .collect();
            format!("{}  step {}: {}", text(data, "run"), data["step"], values.join("  "))
        }
        "checkpoint" => format!("{}  checkpoint of step {}", text(data, "run"), data["step"]),
        _ => about_job(data),
    }
}

fn about_job(job: &Value) -> String {
    let run = job["run"].as_str().map(|run| format!(" {run}")).unwrap_or_default();
    let message = job["message"].as_str().map(|message| format!(": {message}")).unwrap_or_default();
    format!("job {} ({}{run}) is {}{message}", job["id"], text(job, "kind"), text(job, "state"))
}
