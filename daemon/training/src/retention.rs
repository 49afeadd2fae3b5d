//! Metrics of a run that goes on for weeks: the newest steps as they were recorded, of older ones one of many.
//!
//! Which steps stay follows from their numbers, so a run that was killed and goes on ends with the same ones.

use diptych_schemas::Step;

use super::if_disk_works;
use super::prepare::Prepared;

/// Steps after which it is time again.
const EVERY: u64 = 1_000;

impl Prepared {
    /// Thins what has come of age since the last time, where it is time.
    pub(super) fn thin_metrics(&self) -> anyhow::Result<()> {
        if self.record.step.0.is_multiple_of(EVERY) {
            self.thin_newest_of_the_old(EVERY)
        } else {
            Ok(())
        }
    }

    /// Thins all that is of age: the configuration may have changed while the run was stopped.
    pub(super) fn thin_all_metrics(&self) -> anyhow::Result<()> {
        self.thin_newest_of_the_old(u64::MAX)
    }

    fn thin_newest_of_the_old(&self, steps: u64) -> anyhow::Result<()> {
        let config = &self.config.metrics;
        if config.keep_raw_steps == 0 {
            return Ok(());
        }
        let up_to = self.record.step.0.saturating_sub(config.keep_raw_steps);
        let after = up_to.saturating_sub(steps);
        let (after, up_to) = (Step(after), Step(up_to));
        let thinned = self.store.thin_metrics(&self.record.run, after, up_to, config.keep_one_of);
        // What a full disk keeps from being thinned is thinned when the run is started again.
        let removed = if_disk_works(thinned)?.unwrap_or(0);
        if removed > 0 {
            tracing::debug!(
                "metrics of {removed} steps up to {up_to} were left out: one of {} stays",
                config.keep_one_of
            );
        }
        Ok(())
    }
}
