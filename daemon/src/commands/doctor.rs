//! `diptych doctor`: a state folder, read through.

use anyhow::bail;
use diptych_cli::DoctorArgs;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::thousands;

use crate::doctor::{Finding, Severity, examine};
use crate::output::line;

pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<Outcome> {
    let state = &args.state;
    if !state.is_dir() {
        bail!("{}: there is no such state folder", state.display());
    }
    let examined = examine(state, args.fix)?;
    for Finding { severity, what, mended, .. } in &examined.findings {
        let kind = match severity {
            Severity::Problem => "problem",
            Severity::Note => "note",
        };
        let mended = mended.as_ref().map_or_else(String::new, |how| format!(". Mended: {how}"));
        line(format!("{kind}: {what}{mended}"))?;
    }
    let contents = &examined.contents;
    line(format!(
        "{}: {} runs, {} whole checkpoints, {} steps of metrics, {} events, {} ledger entries, {} embeddings read; {}",
        state.display(),
        contents.runs,
        examined.checkpoints,
        thousands(contents.steps),
        thousands(contents.events),
        thousands(contents.ledger),
        thousands(contents.embeddings),
        conclusion(&examined.findings, args.fix)
    ))?;
    Ok(if examined.problems().next().is_some() { Outcome::ProblemsFound } else { Outcome::Done })
}

fn conclusion(findings: &[Finding], fix: bool) -> String {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (problems, notes) = (count(Severity::Problem), count(Severity::Note));
    let open =
        findings.iter().filter(|finding| finding.mended.is_none() && finding.mendable).count();
    let advice =
        if open > 0 && !fix { format!(". `--fix` mends {open} of them") } else { String::new() };
    match (problems, notes) {
        (0, 0) => "all is well".into(),
        _ => format!("{problems} problems, {notes} notes{advice}"),
    }
}
