//! Histograms: counts in bins.

use diptych_schemas::words::thousands;
use maud::{Markup, html};

use super::axis::{Axis, Scale, Tick};
use super::plot_area::{PlotArea, label_room, round};
use super::{colour, drawing, figure};
use crate::numbers::short;

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 160.0;
/// Room above and below the bars: half a label, and the labels of the axis.
const ABOVE: f64 = 6.0;
const BELOW: f64 = 22.0;
/// Part of the axis that the bar of a single value covers.
const SINGLE: f64 = 0.05;
/// Most whole numbers that are labelled.
const LABELLED: usize = 12;

/// Counts in bins of equal width, on the axis or on its logarithm.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Histogram {
    pub(crate) title: String,
    /// The unit of the values and other remarks, shown beside the title.
    pub(crate) note: String,
    pub(crate) scale: Scale,
    /// Lower edge of the first bin and upper edge of the last one, as values (not as logarithms).
    /// Equal for a single value.
    pub(crate) range: (f64, f64),
    pub(crate) counts: Vec<u64>,
    /// Whether each bin is one whole number.
    pub(crate) whole: bool,
    /// Thresholds, marked with lines.
    pub(crate) marks: Vec<f64>,
}

/// A bar: its ends as parts of the axis, and its count.
struct Bar {
    from: f64,
    to: f64,
    name: String,
    count: u64,
}

impl Histogram {
    fn axis(&self) -> Axis {
        Axis::over(self.scale, [self.range.0, self.range.1])
    }

    /// Returns the bars of all bins that are not empty.
    fn bars(&self) -> Vec<Bar> {
        let (axis, (low, high)) = (self.axis(), self.range);
        let has_bins = high > low;
        if !has_bins {
            let count = self.counts.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
            let middle = axis.part(low).unwrap_or(0.5);
            let bar = Bar {
                from: middle - SINGLE / 2.0,
                to: middle + SINGLE / 2.0,
                name: short(low),
                count,
            };
            return if count > 0 { vec![bar] } else { Vec::new() };
        }
        let bins = self.counts.len() as f64;
        let filled = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        filled
            .map(|(bin, count)| {
                let (from, to) = (bin as f64 / bins, (bin + 1) as f64 / bins);
                let (first, last) = (short(axis.value(from)), short(axis.value(to)));
                Bar {
                    from,
                    to,
                    name: if self.whole { first } else { format!("{first} to {last}") },
                    count: *count,
                }
            })
            .collect()
    }

    /// Returns the marks of the axis of values. Whole numbers are labelled below the middle of
    /// their bins.
    fn ticks(&self, axis: &Axis) -> Vec<Tick> {
        if !self.whole {
            return axis.ticks(5.0);
        }
        let every = self.counts.len().div_ceil(LABELLED).max(1);
        let bins = (0..self.counts.len()).step_by(every).map(|bin| self.range.0 + bin as f64);
        bins.map(|value| (value + 0.5, short(value))).collect()
    }

    /// Draws the chart with its caption.
    pub(crate) fn figure(&self) -> Markup {
        let bars = self.bars();
        let most = bars.iter().map(|bar| bar.count).max().unwrap_or(0);
        let total = bars.iter().map(|bar| bar.count as f64).sum::<f64>().max(1.0);
        let (counts, count_ticks) =
            Axis::over(Scale::Linear, [0.0, most.max(1) as f64]).rounded(3.0);
        // Counts are whole numbers, so fractions get no label.
        let count_ticks: Vec<Tick> =
            count_ticks.into_iter().filter(|(count, _)| count.fract() == 0.0).collect();
        let left = label_room(&count_ticks);
        let area = PlotArea {
            left,
            top: ABOVE,
            width: WIDTH - left,
            height: HEIGHT - ABOVE - BELOW,
            x: self.axis(),
            y: counts,
        };
        let marks = self
            .marks
            .iter()
            .filter(|mark| area.x.part(**mark).is_some_and(|part| (0.0..=1.0).contains(&part)));
        let shapes = html! {
            (area.rows(&count_ticks))
            @for bar in &bars {
                // Keep every bin visible that is not empty.
                @let height = (bar.count as f64 / counts.value(1.0) * area.height).max(1.5);
                @let width = ((bar.to - bar.from) * area.width - 1.0).max(0.5);
                @let percent = format!("{:.1}", bar.count as f64 / total * 100.0);
                rect class={ "bar " (colour(0)) } x=(round(area.left + bar.from * area.width))
                    y=(round(area.bottom() - height)) width=(round(width)) height=(round(height)) {
                    title { (bar.name) ": " (thousands(bar.count)) " (" (percent) "%)" }
                }
            }
            (area.base())
            @for (mark, x) in marks.filter_map(|mark| Some((mark, area.across(*mark)?))) {
                line.mark x1=(x) x2=(x) y1="0" y2=(area.bottom()) {
                    title { "threshold " (short(*mark)) }
                }
            }
            (area.labels_below(&self.ticks(&area.x)))
        };
        let label = format!("histogram of {}: {}", self.title, self.note);
        figure(&self.title, &[], &html! { (self.note) }, &drawing(&label, WIDTH, HEIGHT, &shapes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::test::well_formed;

    fn histogram(scale: Scale, range: (f64, f64), counts: &[u64]) -> Histogram {
        let (title, note) = ("width".into(), String::new());
        Histogram {
            title,
            note,
            scale,
            range,
            counts: counts.to_vec(),
            whole: false,
            marks: Vec::new(),
        }
    }

    #[test]
    fn bins_and_marks_stand_where_their_values_are() {
        let marks = vec![100.0, 1e9];
        let histogram =
            Histogram { marks, ..histogram(Scale::Log, (1.0, 10_000.0), &[1, 0, 0, 3]) };
        assert!((histogram.axis().part(100.0).unwrap() - 0.5).abs() < 1e-9);
        let drawn = histogram.figure().into_string();
        assert_eq!(drawn.matches("<rect").count(), 2);
        assert!(drawn.contains("1000 to 10k: 3 (75.0%)"), "{drawn}");
        assert_eq!(
            drawn.matches("class=\"mark\"").count(),
            1,
            "a mark outside the axis is left out"
        );
    }

    #[test]
    fn whole_numbers_are_labelled_below_their_bars() {
        let histogram =
            Histogram { whole: true, ..histogram(Scale::Linear, (3.0, 6.0), &[4, 0, 2]) };
        let ticks = histogram.ticks(&histogram.axis());
        assert_eq!(ticks, [(3.5, "3".to_owned()), (4.5, "4".to_owned()), (5.5, "5".to_owned())]);
        assert!(histogram.figure().into_string().contains("3: 4 (66.7%)"));
    }

    #[test]
    fn strange_counts_are_drawn_as_well_formed_svg() {
        let same = histogram(Scale::Log, (224.0, 224.0), &[7]).figure().into_string();
        assert!(same.contains("224: 7 (100.0%)") && same.matches("<rect").count() == 1, "{same}");
        let many = vec![1; 100_000];
        let strange: [(Scale, (f64, f64), &[u64]); 7] = [
            (Scale::Linear, (0.0, 0.0), &[]),
            (Scale::Linear, (f64::NAN, f64::NAN), &[1, 2]),
            (Scale::Linear, (-1e300, 1e300), &[u64::MAX, u64::MAX]),
            (Scale::Log, (1e-12, 1e12), &[1, 0, 5]),
            (Scale::Linear, (-5.0, -1.0), &[1, 1]),
            (Scale::Linear, (1.0, f64::INFINITY), &[3]),
            (Scale::Linear, (0.0, 1.0), &many),
        ];
        for (scale, range, counts) in strange {
            let drawn = Histogram { marks: vec![f64::NAN, 0.5], ..histogram(scale, range, counts) }
                .figure()
                .into_string();
            well_formed(&drawn);
            assert!(!drawn.contains("NaN\"") && !drawn.contains("inf\""), "{range:?}: {drawn}");
        }
        let hostile = Histogram {
            title: "<script>alert(1)</script>\"".into(),
            ..histogram(Scale::Linear, (0.0, 1.0), &[1])
        };
        let drawn = hostile.figure().into_string();
        well_formed(&drawn);
        assert!(!drawn.contains("<script"), "{drawn}");
    }
}
