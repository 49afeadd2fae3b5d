//! A state folder, read through: what is damaged, missing or left over, each in one line that says what to do.
//!
//! 1. A problem is what no kill and no full disk leaves; a note is what one may leave, or what a person may want to delete.
//! 2. Without `fix` nothing is written: the store is read from a copy, also while somebody owns it. With it, what can be rebuilt from files is; nothing
//!    that could hold data is deleted, it is moved aside.

mod checkpoints;
mod leftovers;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use diptych_schemas::SchemaError;
use diptych_store::{Contents, Owner, RunName, Store};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Problem,
    Note,
}

/// What is not as it should be.
#[derive(Clone, Debug)]
pub struct Finding {
    pub severity: Severity,
    /// In one line, with what to do.
    pub what: String,
    /// How it was mended, if it was.
    pub mended: Option<String>,
    /// Whether `fix` mends it.
    pub mendable: bool,
}

/// What was looked through and found.
#[derive(Clone, Debug)]
pub struct Examined {
    pub findings: Vec<Finding>,
    pub contents: Contents,
    /// Checkpoints whose every file has the hash that its manifest says.
    pub checkpoints: u64,
}

impl Examined {
    /// Problems that are there still.
    pub fn problems(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(|finding| finding.severity == Severity::Problem && finding.mended.is_none())
    }
}

/// Reads everything in a state folder that is there. To mend it, nobody else may own it.
pub fn examine(state: &Path, fix: bool) -> anyhow::Result<Examined> {
    let is_owned = !fix && Owner::current(state).is_some();
    let mut examined = examine_once(state, fix, is_owned)?;
    if is_owned && !examined.findings.is_empty() {
        // What its owner was at work on is found only once.
        let again = examine_once(state, fix, is_owned)?;
        let is_there =
            |finding: &Finding| again.findings.iter().any(|now| now.what == finding.what);
        examined.findings.retain(is_there);
    }
    Ok(examined)
}

/// `is_owned`: what is called *.incomplete may be what its owner writes.
fn examine_once(state: &Path, fix: bool, is_owned: bool) -> anyhow::Result<Examined> {
    let mut findings = Findings { list: Vec::new(), fix, is_owned };
    let mut store = if fix { Store::open(state)? } else { Store::open_readable_part(state)? };
    findings.lost_at_opening(&store);
    let mut contents = store.check();
    if fix && !contents.damage.is_empty() {
        let damage = std::mem::take(&mut contents.damage);
        drop(store);
        store = Store::open(state)?;
        for what in damage {
            findings.problem(
                what,
                Some("the store was begun anew with what can still be read".into()),
                true,
            );
        }
        findings.lost_at_opening(&store);
        contents = store.check();
    }
    for what in &contents.damage {
        let advice = "`--fix` begins the store anew with what can still be read of it";
        findings.problem(format!("{what}; {advice}"), None, true);
    }
    if !contents.note_is_whole {
        let what = format!(
            "{}: cannot be read; without it a loss is not noticed",
            state.join("sled/acknowledged").display()
        );
        findings.mend(Severity::Note, what, || {
            Ok(store.renew_note().map(|()| "written again".to_owned())?)
        })?;
    }
    // Before checkpoints are moved aside: what this call does is no leftover to it.
    findings.examine_leftovers(state)?;
    let mut checkpoints = 0;
    for run in runs(state, &store, &contents)? {
        checkpoints += findings.examine_run(state, &store, &run)?;
    }
    Ok(Examined { findings: findings.list, contents, checkpoints })
}

/// All runs that the store or a folder of checkpoints names.
fn runs(state: &Path, store: &Store, contents: &Contents) -> anyhow::Result<BTreeSet<RunName>> {
    let mut runs = contents.mentioned.clone();
    if contents.damage.is_empty() {
        runs.extend(store.runs()?.into_iter().map(|record| record.run));
    }
    for entry in entries(&state.join("checkpoints"))? {
        runs.extend(
            entry
                .file_name()
                .to_str()
                .and_then(|name| RunName::new(name).ok())
                .filter(|_| entry.path().is_dir()),
        );
    }
    Ok(runs)
}

/// What is in a folder, by name; nothing where there is no such folder.
fn entries(folder: &Path) -> anyhow::Result<Vec<fs::DirEntry>> {
    let read = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.and_then(Iterator::collect::<Result<Vec<_>, _>>),
    };
    let mut found: Vec<fs::DirEntry> = read.map_err(SchemaError::io(folder))?;
    found.sort_by_key(fs::DirEntry::file_name);
    Ok(found)
}

struct Findings {
    list: Vec<Finding>,
    fix: bool,
    is_owned: bool,
}

impl Findings {
    fn problem(&mut self, what: String, mended: Option<String>, mendable: bool) {
        self.list.push(Finding { severity: Severity::Problem, what, mended, mendable });
    }

    fn note(&mut self, what: String) {
        self.list.push(Finding { severity: Severity::Note, what, mended: None, mendable: false });
    }

    /// Notes something that can be mended, and mends it where that is wanted.
    fn mend(
        &mut self,
        severity: Severity,
        what: String,
        mend: impl FnOnce() -> anyhow::Result<String>,
    ) -> anyhow::Result<()> {
        let mended = if self.fix { Some(mend()?) } else { None };
        self.list.push(Finding { severity, what, mended, mendable: true });
        Ok(())
    }

    fn lost_at_opening(&mut self, store: &Store) {
        if let Some(lost) = store.degraded() {
            self.problem(lost.to_owned(), self.fix.then(|| "by opening it".to_owned()), true);
        }
    }
}
