//! `diptych doctor`: checks the installation, a state folder or a dataset.

use std::path::Path;

use anyhow::bail;
use diptych_cli::{DoctorArgs, DoctorFormat};
use diptych_pipeline::{Checksums, verify_dataset};
use diptych_schemas::DatasetManifest;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::{did_you_mean_path, thousands, unreadable, wrapped};
use diptych_store::Owner;
use serde_json::json;

use crate::client::owning::make_way;
use crate::doctor::{Check, Finding, Severity, Verdict, check_installation, examine};
use crate::output::{line, screen_width};

/// Columns of the names of checks.
const NAME: usize = 16;
/// Columns of a verdict.
const VERDICT: usize = 6;

pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<Outcome> {
    let Some(folder) = &args.folder else { return look_at_installation(args.format) };
    if !folder.is_dir() {
        bail!(
            "{}: there is no such folder{}",
            folder.display(),
            did_you_mean_path(folder, Path::is_dir)
        );
    }
    if !DatasetManifest::path(folder).is_file() {
        return look_through_state(folder, args.fix);
    }
    if args.fix {
        bail!(
            "{}: --fix is for state folders. Copy the damaged files of a dataset again, or ingest \
             the sources into a new one",
            folder.display()
        );
    }
    look_through_dataset(folder)
}

fn look_at_installation(format: DoctorFormat) -> anyhow::Result<Outcome> {
    let checks = check_installation();
    let worst = checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok);
    match format {
        DoctorFormat::Json => {
            let version = env!("CARGO_PKG_VERSION");
            let report = json!({ "version": version, "verdict": worst, "checks": checks });
            line(serde_json::to_string_pretty(&report)?)?;
        }
        DoctorFormat::Table => {
            line(format!("diptych {}", env!("CARGO_PKG_VERSION")))?;
            for check in &checks {
                print_check(check)?;
            }
            let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
            line(match (count(Verdict::Bad), count(Verdict::Warn)) {
                (0, 0) => "all is well".to_owned(),
                (bad, warn) => format!("{bad} bad, {warn} warnings"),
            })?;
        }
    }
    Ok(if worst == Verdict::Bad { Outcome::ProblemsFound } else { Outcome::Done })
}

fn print_check(check: &Check) -> anyhow::Result<()> {
    let indent = " ".repeat(VERDICT + NAME);
    let room = screen_width().unwrap_or(80).saturating_sub(indent.len()).max(20);
    let advice = check.advice.iter().flat_map(|advice| wrapped(&format!("→ {advice}"), room));
    let texts = wrapped(&check.found, room).into_iter().chain(advice);
    for (place, text) in texts.enumerate() {
        let head = format!("{:VERDICT$}{:NAME$}", check.verdict.name(), check.name);
        line(format!("{}{text}", if place == 0 { &head } else { &indent }))?;
    }
    Ok(())
}

fn look_through_state(state: &Path, fix: bool) -> anyhow::Result<Outcome> {
    if fix {
        make_way(state)?;
    } else if let Some(owner) = Owner::current(state) {
        line(format!(
            "in use by process {} (`{}`): reading what is complete now",
            owner.pid, owner.command
        ))?;
    }
    let examined = examine(state, fix)?;
    for Finding { severity, what, mended, .. } in &examined.findings {
        let kind = match severity {
            Severity::Problem => "problem",
            Severity::Note => "note",
        };
        let mended = mended.as_ref().map_or_else(String::new, |how| format!(". Repaired: {how}"));
        line(format!("{kind}: {what}{mended}"))?;
    }
    let contents = &examined.contents;
    line(format!(
        "{}: {} runs, {} valid checkpoints, {} steps of metrics, {} events, {} ledger entries, {} \
         embeddings read; {}",
        state.display(),
        contents.runs,
        examined.checkpoints,
        thousands(contents.steps),
        thousands(contents.events),
        thousands(contents.ledger),
        thousands(contents.embeddings),
        conclusion(&examined.findings, fix)
    ))?;
    Ok(if examined.problems().next().is_some() { Outcome::ProblemsFound } else { Outcome::Done })
}

fn conclusion(findings: &[Finding], fix: bool) -> String {
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (problems, notes) = (count(Severity::Problem), count(Severity::Note));
    let open =
        findings.iter().filter(|finding| finding.mended.is_none() && finding.mendable).count();
    let advice =
        if open > 0 && !fix { format!(". `--fix` repairs {open} of them") } else { String::new() };
    match (problems, notes) {
        (0, 0) => "all is well".into(),
        _ => format!("{problems} problems, {notes} notes{advice}"),
    }
}

fn look_through_dataset(folder: &Path) -> anyhow::Result<Outcome> {
    let files = verify_dataset(folder)?;
    for file in &files {
        let Err(message) = &file.found else { continue };
        let advice = if file.derived {
            "Remove it and compute it again: only what it held is computed"
        } else {
            "Copy it again from where it is whole, or ingest the sources into a new dataset"
        };
        let damage = format!("damaged: {message}. {advice}");
        line(format!("problem: {}", unreadable(&file.path, message, &damage)))?;
    }
    let damaged = files.iter().filter(|file| file.found.is_err()).count() as u64;
    let unchecked = files.iter().filter(|file| file.found == Ok(Checksums::Missing)).count() as u64;
    if unchecked > 0 {
        line(format!(
            "note: {} files have no checksums, since an earlier version wrote them. They can be \
             read, \
             but a flipped bit may go unnoticed. Images were compared with their hashes",
            thousands(unchecked)
        ))?;
    }
    line(format!(
        "{}: {} files read to their ends; {}",
        folder.display(),
        thousands(files.len() as u64),
        if damaged == 0 {
            "all is well".to_owned()
        } else {
            format!("{} damaged", thousands(damaged))
        }
    ))?;
    Ok(if damaged == 0 { Outcome::Done } else { Outcome::ProblemsFound })
}
