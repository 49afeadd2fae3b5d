//! A run's own records during training: metrics and progress.

use std::time::{Duration, Instant};

use diptych_schemas::{SampleIndex, Step};
use diptych_store::{MetricRow, Milliseconds};

use super::if_disk_works;
use super::prepare::Prepared;

/// The greatest age of a run's record during training. Each write waits for the disk.
const RECORDED_EVERY: Duration = Duration::from_secs(10);

impl Prepared {
    pub(super) fn metrics(
        &mut self,
        step: Step,
        samples: SampleIndex,
        values: Vec<(String, f64)>,
    ) -> anyhow::Result<()> {
        // NaN has no place in a chart. A step with such a loss is an event.
        let values: Vec<_> = values.into_iter().filter(|(_, value)| value.is_finite()).collect();
        if let Some(events) = &mut self.events {
            events.write(step.0, &values);
        }
        Ok(self.records.metrics(MetricRow { step, samples, time: Milliseconds::now(), values })?)
    }

    /// Records figures of an earlier step, which keeps its time.
    pub(super) fn metrics_of(
        &mut self,
        step: Step,
        samples: SampleIndex,
        values: Vec<(String, f64)>,
    ) -> anyhow::Result<()> {
        if let Some(events) = &mut self.events {
            events.write(step.0, &values);
        }
        Ok(self.records.figures(step, samples, values)?)
    }

    /// Records the run's progress periodically, because others read it during training.
    pub(super) fn keep_record_fresh(&mut self) -> anyhow::Result<()> {
        if self.recorded.elapsed() >= RECORDED_EVERY {
            self.recorded = Instant::now();
            self.record.updated = Milliseconds::now();
            if_disk_works(self.store.put_run(&self.record))?;
        }
        Ok(())
    }

    pub(super) fn save_record(&mut self, message: Option<String>) -> anyhow::Result<()> {
        self.record.updated = Milliseconds::now();
        self.record.message = message;
        self.store.put_run(&self.record)?;
        Ok(())
    }
}
