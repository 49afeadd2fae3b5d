//! `diptych job pause`, `resume`, `cancel`, `retry` and `checkpoint`: actions on a job.

use diptych_cli::{JobAction, OfJobArgs};
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::did_you_mean;
use reqwest::Method;
use serde_json::Value;

use super::{Service, wait_for};
use crate::output::line;

pub(crate) fn run(args: &OfJobArgs, action: JobAction) -> anyhow::Result<Outcome> {
    let verb = match action {
        JobAction::Pause => "pause",
        JobAction::Resume => "resume",
        JobAction::Cancel => "cancel",
        JobAction::Retry => "retry",
        JobAction::Checkpoint => "checkpoint",
    };
    let service = Service::find(&args.server)?;
    wait_for(async {
        let id = job_id(&service, &args.job).await?;
        let answer = service.ask(Method::POST, &format!("/v1/jobs/{id}/{verb}"), None).await?;
        let job: Value = answer.json().await?;
        line(format!("job {id} ({}) is {}", text(&job, "kind"), text(&job, "state")))?;
        Ok(Outcome::Done)
    })
}

/// Returns the number of a job. It is named by this number, or by the run that it trains.
pub(super) async fn job_id(service: &Service, named: &str) -> anyhow::Result<u64> {
    if let Ok(id) = named.parse() {
        return Ok(id);
    }
    let (mut after, mut known) = (String::new(), Vec::new());
    loop {
        let page: Value = service.get(&format!("/v1/jobs?limit=1000{after}")).await?;
        let jobs = page["items"].as_array().cloned().unwrap_or_default();
        // The newest comes first.
        if let Some(job) = jobs.iter().find(|job| job["run"] == named) {
            return Ok(job["id"].as_u64().unwrap_or(0));
        }
        known.extend(jobs.iter().filter_map(|job| job["run"].as_str().map(str::to_owned)));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return Err(no_such_run(named, &known)),
        }
    }
}

/// Returns the error for a run that no job trains.
pub(super) fn no_such_run(named: &str, known: &[String]) -> anyhow::Error {
    let meant = did_you_mean(named, known.iter().map(String::as_str));
    anyhow::anyhow!(
        "no job of the service trains a run called {named}{meant}. `diptych job list` shows its \
         jobs"
    )
}

/// Returns a text of an answer, or "-" where it has none.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("-")
}
