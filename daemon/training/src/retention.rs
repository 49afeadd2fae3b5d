//! Thinning of a run's metrics: the newest steps stay complete, and of older ones one of many.
//!
//! The steps that stay depend only on their numbers, so a resumed run keeps the same ones.

use diptych_schemas::Step;

use super::if_disk_works;
use super::prepare::Prepared;

/// Number of steps between two thinnings.
const EVERY: u64 = 1_000;

impl Prepared {
    /// Thins the steps that have become old since the last time, if it is time.
    pub(super) fn thin_metrics(&self) -> anyhow::Result<()> {
        if self.record.step.0.is_multiple_of(EVERY) {
            self.thin_newest_of_the_old(EVERY)
        } else {
            Ok(())
        }
    }

    /// Thins all old steps, because the configuration may have changed while the run was stopped.
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
        // A full disk may prevent thinning. It is repeated when the run starts again.
        let removed = if_disk_works(thinned)?.unwrap_or(0);
        if removed > 0 {
            tracing::debug!(
                "removed metrics of {removed} steps up to {up_to}; one of {} stays",
                config.keep_one_of
            );
        }
        Ok(())
    }
}
