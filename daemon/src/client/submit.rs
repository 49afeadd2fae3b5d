//! `diptych job submit`: gives a job to a running service.

use std::path::Path;

use anyhow::{Context, bail};
use clap::Parser;
use diptych_cli::{OptionsBehind, SubmitArgs};
use diptych_schemas::TrainConfig;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::did_you_mean;
use reqwest::Method;
use serde_json::{Value, json};

use super::control::text;
use super::{Service, wait_for};
use crate::output::line;

/// Verbs that can be jobs.
const COMMANDS: [&str; 7] = ["embed", "ingest", "score", "select", "dedup", "eval", "export"];

pub(crate) fn run(args: SubmitArgs) -> anyhow::Result<Outcome> {
    let here = std::env::current_dir().context("the folder that this is called in")?;
    let [first, rest @ ..] = &args.what[..] else {
        bail!("nothing to do: name a configuration or a verb")
    };
    let mut how = args.how;
    let mut job = if COMMANDS.contains(&first.as_str()) {
        json!({ "kind": first, "args": rest, "folder": here })
    } else if Path::new(first).is_file() {
        let behind = OptionsBehind::try_parse_from(rest).unwrap_or_else(|error| error.exit());
        how = behind.over(how);
        let mut config = TrainConfig::read(Path::new(first))?;
        config.resolve_paths(&here);
        json!({ "kind": "train", "config": config.to_toml(), "folder": here })
    } else {
        bail!(
            "{first}: neither a configuration file nor one of {}{}",
            COMMANDS.join(", "),
            did_you_mean(first, COMMANDS)
        );
    };
    job["priority"] = how.priority.into();
    job["after"] = how.after.into();
    let service = Service::find(&how.server)?;
    wait_for(async {
        let answer: Value = service.ask(Method::POST, "/v1/jobs", Some(&job)).await?.json().await?;
        let run = answer["run"].as_str().map(|run| format!(", run {run}")).unwrap_or_default();
        line(format!(
            "job {} ({}{run}) is {}",
            answer["id"],
            text(&answer, "kind"),
            text(&answer, "state")
        ))?;
        Ok(Outcome::Done)
    })
}
