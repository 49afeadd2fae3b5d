//! The figures of one step, computed once for display, records and guards.

use diptych_pipeline::Batch;
use diptych_trainer::StepReport;

use crate::live::{LOGIT_SCALE, LiveStep};
use crate::prepare::Prepared;

/// The figures of a step.
#[derive(Clone, Debug, Default)]
pub(crate) struct StepFigures {
    /// Steps done, including this one.
    pub(crate) step: u64,
    pub(crate) total_steps: u64,
    /// StepCounters from 1.
    pub(crate) epoch: u64,
    /// Place in the data after the step.
    pub(crate) next_sample: u64,
    /// Samples of the batch.
    pub(crate) samples: u64,
    /// Pairs that were learned from. If 0, nothing was updated.
    pub(crate) pairs: usize,
    pub(crate) loss: f64,
    pub(crate) lr: f64,
    /// The factor on the logits, in models that have one.
    pub(crate) logit_scale: Option<f64>,
    /// Figures of the objective by name: `loss/TERM`, `logit_scale`.
    pub(crate) terms: Vec<(String, f64)>,
    pub(crate) grad_norm: f64,
    /// Scale of fp16's gradients.
    pub(crate) loss_scale: Option<f64>,
    pub(crate) overflow: bool,
    /// Whether the step changed no weights.
    pub(crate) skipped: bool,
    /// Duration of the whole step.
    pub(crate) seconds: f64,
    pub(crate) data_wait_seconds: f64,
    /// Share of the device's ceiling, if that was measured.
    pub(crate) mfu: Option<f64>,
}

impl StepFigures {
    pub(crate) fn new(
        run: &Prepared,
        batch: &Batch,
        report: &StepReport,
        seconds: f64,
        data_wait_seconds: f64,
    ) -> Self {
        Self {
            step: report.step.0,
            total_steps: run.record.total_steps.0,
            epoch: batch.epoch + 1,
            next_sample: batch.next.0,
            samples: batch.len() as u64,
            pairs: report.samples,
            loss: report.loss,
            lr: report.lr,
            logit_scale: report.term(LOGIT_SCALE),
            terms: report.terms.clone(),
            grad_norm: report.grad_norm,
            loss_scale: report.loss_scale,
            overflow: report.overflow,
            skipped: report.skipped,
            seconds,
            data_wait_seconds,
            mfu: run.machine.mfu(report.flops, seconds),
        }
    }

    pub(crate) fn samples_per_second(&self) -> f64 {
        self.samples as f64 / self.seconds.max(1e-9)
    }

    /// Returns the metrics of the step, by name.
    pub(crate) fn metrics(&self) -> Vec<(String, f64)> {
        let always = [
            ("loss", self.loss),
            ("lr", self.lr),
            ("grad_norm", self.grad_norm),
            ("samples_per_second", self.samples_per_second()),
            ("data_wait_seconds", self.data_wait_seconds),
        ];
        let fp16 = self
            .loss_scale
            .map(|scale| [("loss_scale", scale), ("overflow", f64::from(u8::from(self.overflow)))]);
        let mfu = self.mfu.map(|mfu| ("mfu", mfu));
        let skipped = self.skipped.then_some(("skipped_step", 1.0));
        let all = always.into_iter().chain(fp16.into_iter().flatten()).chain(mfu).chain(skipped);
        all.map(|(name, value)| (name.to_owned(), value))
            .chain(self.terms.iter().cloned())
            .collect()
    }

    /// Returns the step as listeners receive it.
    pub(crate) fn live(&self, run: &str) -> LiveStep {
        LiveStep {
            run: run.to_owned(),
            step: self.step,
            total_steps: self.total_steps,
            epoch: self.epoch,
            samples: self.next_sample,
            loss: self.loss,
            lr: self.lr,
            grad_norm: self.grad_norm,
            seconds: self.seconds,
            samples_per_second: self.samples_per_second(),
            average_samples_per_second: 0.0,
            time_ms: 0,
            data_wait_seconds: self.data_wait_seconds,
            mfu: self.mfu,
            eta_seconds: 0.0,
            skipped: self.skipped,
            terms: self.terms.iter().cloned().collect(),
        }
    }
}
