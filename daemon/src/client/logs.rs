//! `diptych job logs`: prints the log of a job.

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use diptych_cli::LogsArgs;
use diptych_schemas::outcome::Outcome;
use reqwest::Method;
use serde_json::Value;

use super::control::{job_id, text};
use super::{Service, wait_for};
use crate::output::standard_output;

/// Time between two reads of a log that grows.
const LOOKS_EVERY: Duration = Duration::from_millis(500);

pub(crate) fn run(args: &LogsArgs) -> anyhow::Result<Outcome> {
    let service = Service::find(&args.job.server)?;
    wait_for(async {
        let id = job_id(&service, &args.job.job).await?;
        let mut from = 0_u64;
        let mut out = standard_output();
        loop {
            // Asked before the log is read, so that what it wrote last is read too.
            let job: Value = service.get(&format!("/v1/jobs/{id}")).await?;
            let goes_on = args.follow
                && matches!(
                    text(&job, "state"),
                    "queued" | "waiting" | "running" | "pausing" | "cancelling"
                );
            loop {
                let answer = service
                    .ask(Method::GET, &format!("/v1/jobs/{id}/log?after={from}"), None)
                    .await?;
                let next = answer
                    .headers()
                    .get("x-log-next")
                    .and_then(|next| next.to_str().ok()?.parse().ok());
                let next = next.context(
                    "the answer does not say how far the log is: is it another version?",
                )?;
                out.write_all(&answer.bytes().await?)?;
                out.flush()?;
                if next == from {
                    break;
                }
                from = next;
            }
            if !goes_on {
                return Ok(Outcome::Done);
            }
            tokio::time::sleep(LOOKS_EVERY).await;
        }
    })
}
