//! The check of a state folder and of an installation. Each finding is one line that says what to
//! do.
//!
//! 1. A kill or a full disk never causes a problem, but may leave a note. A note may also be
//!    something that a person wants to delete.
//! 2. Without `fix` nothing is written: the store is read from a copy, also while another process
//!    owns it. With `fix`, parts that can be rebuilt from files are rebuilt. Data is moved aside
//!    and never deleted.

mod checkpoints;
mod installation;
mod leftovers;

pub use installation::{Check, Verdict, check_installation};

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use diptych_schemas::SchemaError;
use diptych_store::{Contents, Owner, RunName, Store};

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Problem,
    Note,
}

/// A fault of a state folder.
#[derive(Clone, Debug)]
pub struct Finding {
    pub severity: Severity,
    /// The fault in one line, with what to do.
    pub what: String,
    /// The repair, if there was one.
    pub mended: Option<String>,
    /// Whether `fix` repairs it.
    pub mendable: bool,
}

/// The result of an examination.
#[derive(Clone, Debug)]
pub struct Examined {
    pub findings: Vec<Finding>,
    pub contents: Contents,
    /// Number of checkpoints whose files all have the hashes in their manifests.
    pub checkpoints: u64,
}

impl Examined {
    /// Returns the problems that are not repaired.
    pub fn problems(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .filter(|finding| finding.severity == Severity::Problem && finding.mended.is_none())
    }
}

/// Reads the whole state folder. To repair it, no other process may own it.
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

/// Examines once. If the folder `is_owned`, files named *.incomplete may be ones that its owner is
/// writing.
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

/// Returns all runs that the store or a folder of checkpoints names.
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

/// Returns the entries of a folder by name, or nothing if there is no such folder.
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

    /// Records a fault that can be repaired, and repairs it if `fix` is set.
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
