//! Storage of the service's jobs, by number. `serve::jobs::machine` decides about their states.

use super::Store;
use super::error::StoreError;
use super::records::JobRecord;

/// Number of ended jobs that are remembered: a service that selects every hour for years must not
/// fill the disk.
const MOST_ENDED: usize = 1_000;

impl Store {
    /// Inserts or replaces a job. Durable when it returns.
    pub fn put_job(&self, job: &JobRecord) -> Result<(), StoreError> {
        {
            let _writer = self.writer();
            let changes = self.replace(self.engine()?.jobs(), &identity(job.id), job)?;
            self.apply(self.engine()?.jobs(), changes)?;
        }
        self.make_durable()
    }

    pub fn job(&self, id: u64) -> Result<Option<JobRecord>, StoreError> {
        Ok(self.records(self.engine()?.jobs(), &identity(id))?.pop())
    }

    /// Returns all jobs, by number.
    pub fn jobs(&self) -> Result<Vec<JobRecord>, StoreError> {
        self.records(self.engine()?.jobs(), &[])
    }

    /// Forgets the oldest ended jobs beyond the limit. Returns their numbers, so that their logs
    /// can be deleted too.
    pub fn forget_old_jobs(&self) -> Result<Vec<u64>, StoreError> {
        let jobs = self.jobs()?;
        // Keep jobs that others wait for.
        let wanted =
            |id: u64| jobs.iter().any(|job| !job.state.has_ended() && job.after.contains(&id));
        let ended: Vec<u64> = jobs
            .iter()
            .filter(|job| job.state.has_ended() && !wanted(job.id))
            .map(|job| job.id)
            .collect();
        let old = &ended[..ended.len().saturating_sub(MOST_ENDED)];
        let _writer = self.writer();
        for id in old {
            let changes = self.removal(self.engine()?.jobs(), &identity(*id))?;
            self.apply(self.engine()?.jobs(), changes)?;
        }
        Ok(old.to_vec())
    }
}

fn identity(id: u64) -> Vec<u8> {
    id.to_be_bytes().to_vec()
}
