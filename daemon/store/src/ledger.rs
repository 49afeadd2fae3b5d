//! The training's own entries of the ledger: samples whose image turned out to be unusable. One for each run and uid,
//! however often the sample is met again.

use diptych_schemas::{ContentHash, LedgerEntry};

use super::Store;
use super::error::StoreError;
use super::records::RunName;

impl Store {
    /// Puts entries in the ledger of a run; one that is there already is overwritten. Durable with the next checkpoint.
    pub fn put_ledger(&self, run: &RunName, entries: &[LedgerEntry]) -> Result<(), StoreError> {
        let _writer = self.writer();
        for entry in entries {
            let changes = self.replace(self.engine()?.ledger(), &identity(run, entry), entry)?;
            self.apply(self.engine()?.ledger(), changes)?;
        }
        Ok(())
    }

    /// The entries of a run, ordered by uid.
    pub fn ledger(&self, run: &RunName) -> Result<Vec<LedgerEntry>, StoreError> {
        self.records(self.engine()?.ledger(), &run.key())
    }

    pub(super) fn all_ledgers(&self) -> Result<Vec<LedgerEntry>, StoreError> {
        self.records(self.engine()?.ledger(), &[])
    }
}

/// run ‖ 0 ‖ uid; an entry without a uid is known by its place.
fn identity(run: &RunName, entry: &LedgerEntry) -> Vec<u8> {
    let place = || {
        ContentHash::of(format!("{}\0{}\0{}", entry.source, entry.position, entry.key).as_bytes())
    };
    let mut identity = run.key();
    match entry.uid {
        Some(uid) => identity.extend(uid.0),
        None => identity.extend(&place().0[..16]),
    }
    identity
}
