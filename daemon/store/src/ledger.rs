//! The training's own ledger entries: samples whose image turned out to be unusable. There is one
//! for each run and uid, no matter how often the sample is met.

use diptych_schemas::{ContentHash, LedgerEntry};

use super::Store;
use super::error::StoreError;
use super::records::RunName;

impl Store {
    /// Writes entries to the ledger of a run and replaces existing ones. Durable with the next
    /// checkpoint.
    pub fn put_ledger(&self, run: &RunName, entries: &[LedgerEntry]) -> Result<(), StoreError> {
        let _writer = self.writer();
        for entry in entries {
            let changes = self.replace(self.engine()?.ledger(), &identity(run, entry), entry)?;
            self.apply(self.engine()?.ledger(), changes)?;
        }
        Ok(())
    }

    /// Returns the entries of a run, ordered by uid.
    pub fn ledger(&self, run: &RunName) -> Result<Vec<LedgerEntry>, StoreError> {
        self.records(self.engine()?.ledger(), &run.key())
    }

    pub(super) fn all_ledgers(&self) -> Result<Vec<LedgerEntry>, StoreError> {
        self.records(self.engine()?.ledger(), &[])
    }
}

/// Returns run ‖ 0 ‖ uid. An entry without a uid is identified by a hash of its place.
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
