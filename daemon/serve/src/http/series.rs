//! Metrics of a run for a chart: as many steps as a chart can show. From each bucket of steps, the
//! smallest and the largest value are kept, so that no spike is lost.

use std::collections::BTreeMap;

use diptych_store::MetricRow;
use serde::Serialize;

const MFU: &str = "mfu";

/// Metrics of a run, by step.
#[expect(clippy::struct_field_names, reason = "the key of the answer")]
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub(super) struct Series {
    pub(super) run: String,
    pub(super) names: Vec<String>,
    pub(super) steps: Vec<u64>,
    pub(super) samples: Vec<u64>,
    /// Milliseconds since 1970.
    pub(super) times: Vec<i64>,
    /// For each name, one number a step. Null where none was recorded.
    pub(super) series: BTreeMap<String, Vec<Option<f64>>>,
    /// Whether steps were left out.
    pub(super) thinned: bool,
}

/// Reduces rows to buckets. It takes rows in order of their steps.
pub(super) struct Thinner<'a> {
    names: &'a [String],
    /// Steps in a bucket.
    width: u64,
    first: u64,
    bucket: Option<Bucket>,
    rows: Vec<StepRow>,
    thinned: bool,
}

struct StepRow {
    step: u64,
    samples: u64,
    time: i64,
    values: BTreeMap<String, f64>,
}

struct Bucket {
    number: u64,
    steps: u64,
    first: (u64, u64, i64),
    last: (u64, u64, i64),
    /// The two extremes of each name, in the order of their steps.
    extremes: BTreeMap<String, [(u64, f64); 2]>,
}

impl<'a> Thinner<'a> {
    /// Prepares for the steps `first..=last`, of which at most about `points` are kept. An empty
    /// `names` means all names.
    pub(super) fn new(names: &'a [String], first: u64, last: u64, points: u64) -> Self {
        let span = last.saturating_sub(first) + 1;
        // Each bucket gives two rows.
        let width = if span <= points { 1 } else { span.div_ceil((points / 2).max(1)) };
        Self { names, width, first, bucket: None, rows: Vec::new(), thinned: false }
    }

    pub(super) fn take(&mut self, row: &MetricRow) {
        let step = row.step.0;
        let number = step.saturating_sub(self.first) / self.width;
        if self.bucket.as_ref().is_some_and(|bucket| bucket.number != number) {
            self.close();
        }
        let place = (step, row.samples.0, row.time.0);
        let bucket = self.bucket.get_or_insert_with(|| Bucket {
            number,
            steps: 0,
            first: place,
            last: place,
            extremes: BTreeMap::new(),
        });
        bucket.steps += 1;
        bucket.last = place;
        for (name, value) in &row.values {
            if !self.names.is_empty() && !self.names.contains(name) {
                continue;
            }
            let here = (step, *value);
            match bucket.extremes.get_mut(name) {
                None => {
                    bucket.extremes.insert(name.clone(), [here, here]);
                }
                Some(extremes) => {
                    let [a, b] = *extremes;
                    let (low, high) = if a.1 <= b.1 { (a, b) } else { (b, a) };
                    let low = if *value < low.1 { here } else { low };
                    let high = if *value > high.1 { here } else { high };
                    *extremes = if low.0 <= high.0 { [low, high] } else { [high, low] };
                }
            }
        }
    }

    fn close(&mut self) {
        let Some(bucket) = self.bucket.take() else { return };
        self.thinned |= bucket.steps > 2;
        let row = |(step, samples, time): (u64, u64, i64), values| StepRow {
            step,
            samples,
            time,
            values,
        };
        if bucket.steps == 1 {
            let values =
                bucket.extremes.into_iter().map(|(name, [only, _])| (name, only.1)).collect();
            self.rows.push(row(bucket.first, values));
            return;
        }
        let (mut early, mut late) = (BTreeMap::new(), BTreeMap::new());
        for (name, [a, b]) in bucket.extremes {
            if a.0 == b.0 && a.0 != bucket.first.0 {
                late.insert(name, a.1);
            } else {
                early.insert(name.clone(), a.1);
                if a.0 != b.0 {
                    late.insert(name, b.1);
                }
            }
        }
        self.rows.push(row(bucket.first, early));
        self.rows.push(row(bucket.last, late));
    }

    pub(super) fn finish(mut self, run: String) -> Series {
        self.close();
        // The utilization is at most 1. If it is more, an earlier version underestimated what the
        // machine can compute.
        let is_wrong = |row: &StepRow| row.values.get(MFU).is_some_and(|mfu| *mfu > 1.0);
        if self.rows.iter().any(is_wrong) {
            for row in &mut self.rows {
                row.values.remove(MFU);
            }
        }
        let mut names: Vec<String> = self.names.to_vec();
        if names.is_empty() {
            let all: std::collections::BTreeSet<&String> =
                self.rows.iter().flat_map(|row| row.values.keys()).collect();
            names = all.into_iter().cloned().collect();
        }
        let of =
            |name: &String| self.rows.iter().map(|row| row.values.get(name).copied()).collect();
        Series {
            run,
            steps: self.rows.iter().map(|row| row.step).collect(),
            samples: self.rows.iter().map(|row| row.samples).collect(),
            times: self.rows.iter().map(|row| row.time).collect(),
            series: names.iter().map(|name| (name.clone(), of(name))).collect(),
            names,
            thinned: self.thinned,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use diptych_schemas::{SampleIndex, Step};
    use diptych_store::Milliseconds;
    use proptest::prelude::*;

    fn row(step: u64, values: &[(&str, f64)]) -> MetricRow {
        MetricRow {
            step: Step(step),
            samples: SampleIndex(10 * step),
            time: Milliseconds(step as i64),
            values: values.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        }
    }

    fn thinned(rows: &[MetricRow], points: u64) -> Series {
        let (first, last) = (rows[0].step.0, rows[rows.len() - 1].step.0);
        let mut thinner = Thinner::new(&[], first, last, points);
        for row in rows {
            thinner.take(row);
        }
        thinner.finish("a".into())
    }

    #[test]
    fn few_steps_are_left_as_they_are() {
        let rows: Vec<_> =
            (1..=9).map(|step| row(step, &[("loss", step as f64), ("lr", 1.0)])).collect();
        let series = thinned(&rows, 9);
        assert_eq!(series.steps, (1..=9).collect::<Vec<_>>());
        assert_eq!(
            series.series["loss"],
            (1..=9).map(|step| Some(f64::from(step))).collect::<Vec<_>>()
        );
        assert!(!series.thinned);
    }

    #[test]
    fn a_number_that_is_recorded_now_and_then_stays() {
        let mut rows: Vec<_> = (1..=1000).map(|step| row(step, &[("loss", 1.0)])).collect();
        rows[499].values.push(("heldout/i2t_recall@1".into(), 0.25));
        let series = thinned(&rows, 100);
        let recorded: Vec<f64> =
            series.series["heldout/i2t_recall@1"].iter().copied().flatten().collect();
        assert_eq!(recorded, [0.25]);
    }

    #[test]
    fn shares_of_the_machine_that_cannot_be_are_left_out() {
        let rows = |last: f64| {
            thinned(&[row(1, &[("loss", 1.0), ("mfu", 0.9)]), row(2, &[("mfu", last)])], 9)
        };
        assert_eq!(rows(1.09).names, ["loss"]);
        assert_eq!(rows(0.99).series["mfu"], [Some(0.9), Some(0.99)]);
    }

    proptest! {
        #[test]
        fn extremes_survive_and_steps_rise(
            values in proptest::collection::vec(-100.0..100.0f64, 1..3000), points in 2_u64..200
        ) {
            let rows: Vec<_> = values
                .iter()
                .zip(5..)
                .map(|(value, step)| row(step, &[("loss", *value)]))
                .collect();
            let series = thinned(&rows, points);
            prop_assert!(series.steps.len() as u64 <= points.max(2));
            prop_assert!(series.steps.windows(2).all(|pair| pair[0] < pair[1]));
            let kept: Vec<f64> = series.series["loss"].iter().copied().flatten().collect();
            let extreme = |values: &[f64], pick: fn(f64, f64) -> f64| {
                values.iter().copied().reduce(pick).unwrap()
            };
            prop_assert_eq!(extreme(&kept, f64::min), extreme(&values, f64::min));
            prop_assert_eq!(extreme(&kept, f64::max), extreme(&values, f64::max));
        }
    }
}
