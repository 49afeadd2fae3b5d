//! `diptych doctor`: a state folder or a dataset, read through.

use std::path::Path;

use anyhow::bail;
use diptych_cli::DoctorArgs;
use diptych_pipeline::{Checksums, verify_dataset};
use diptych_schemas::DatasetManifest;
use diptych_schemas::outcome::Outcome;
use diptych_schemas::words::{thousands, unreadable};
use diptych_store::Owner;

use crate::client::owning::make_way;
use crate::doctor::{Finding, Severity, examine};
use crate::output::line;

pub(crate) fn run(args: &DoctorArgs) -> anyhow::Result<Outcome> {
    let folder = &args.folder;
    if !folder.is_dir() {
        bail!("{}: there is no such folder", folder.display());
    }
    if !DatasetManifest::path(folder).is_file() {
        return look_through_state(folder, args.fix);
    }
    if args.fix {
        bail!(
            "{}: --fix is for state folders. Copy the damaged files of a dataset again, or ingest the sources into a new one",
            folder.display()
        );
    }
    look_through_dataset(folder)
}

fn look_through_state(state: &Path, fix: bool) -> anyhow::Result<Outcome> {
    if fix {
        make_way(state)?;
    } else if let Some(owner) = Owner::current(state) {
        line(format!(
            "in use by process {} (`{}`): read as it is now, but for what is being written",
            owner.pid, owner.command
        ))?;
    }
    let examined = examine(state, fix)?;
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
        if open > 0 && !fix { format!(". `--fix` mends {open} of them") } else { String::new() };
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
            "note: {} files have no checksums, since an earlier version wrote them. They can be read; a flipped bit in them that \
             leaves them readable is not noticed. Images were held against their hashes",
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
