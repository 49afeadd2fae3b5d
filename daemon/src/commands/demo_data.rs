//! `diptych demo-data`: draws scenes to try everything on.

use diptych_cli::DemoDataArgs;
use diptych_demo::{DemoOptions, generate};
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::thousands;

use crate::output::line;

pub(crate) fn run(args: &DemoDataArgs) -> anyhow::Result<Outcome> {
    let options = DemoOptions { scenes: args.scenes, seed: args.seed, ..DemoOptions::default() };
    let report = generate(&args.output, options)?;
    for source in &report.sources {
        line(source.display().to_string())?;
    }
    line(format!(
        "{} pairs for training, {} held out",
        thousands(report.training.into()),
        thousands(report.heldout.into())
    ))?;
    let damaged: Vec<String> =
        report.damaged.iter().map(|(what, count)| format!("{count} {what}")).collect();
    line(format!("on purpose: {}", damaged.join(", ")))?;
    Ok(Outcome::Done)
}
