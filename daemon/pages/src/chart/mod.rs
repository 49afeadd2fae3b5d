//! Charts as SVG within a page: they scale with it, take its colours, and tell their numbers under the pointer.

use diptych_schemas::words::thousands;
use maud::{Markup, html};

/// Width and height of a histogram in its own units.
const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 132.0;
/// Room below for the labels of the axis.
const AXIS: f64 = 20.0;

/// Counts in bins of equal width, on the axis or on its logarithm.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    pub title: String,
    /// What was counted, beside the title.
    pub note: String,
    pub scale: Scale,
    /// Lower edge of the first bin and upper edge of the last one, as values (not as logarithms).
    pub range: (f64, f64),
    pub counts: Vec<u64>,
    /// Whether each bin is one whole number.
    pub whole: bool,
    /// Values that are marked with a line: thresholds.
    pub marks: Vec<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Linear,
    Log,
}

impl Scale {
    pub fn forward(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.max(f64::MIN_POSITIVE).ln(),
        }
    }

    fn back(self, place: f64) -> f64 {
        match self {
            Self::Linear => place,
            Self::Log => place.exp(),
        }
    }
}

impl Histogram {
    /// The place of a value between 0 and 1.
    fn place(&self, value: f64) -> f64 {
        let (low, high) = (self.scale.forward(self.range.0), self.scale.forward(self.range.1));
        if high > low { (self.scale.forward(value) - low) / (high - low) } else { 0.5 }
    }

    fn value(&self, place: f64) -> f64 {
        let (low, high) = (self.scale.forward(self.range.0), self.scale.forward(self.range.1));
        self.scale.back(low + place * (high - low))
    }

    /// Labels of the axis: where, aligned how, and what. Whole numbers stand below the middle of their bins.
    fn labels(&self) -> Vec<(f64, &'static str, String)> {
        if self.whole {
            let (bins, every) = (self.counts.len(), self.counts.len().div_ceil(12));
            let middles = (0..bins).step_by(every).map(|bin| (bin as f64 + 0.5) / bins as f64);
            return middles.map(|place| (place, "middle", short(self.value(place).floor()))).collect();
        }
        let places = [(0.0, "start"), (0.25, "middle"), (0.5, "middle"), (0.75, "middle"), (1.0, "end")];
        places.map(|(place, anchor)| (place, anchor, short(self.value(place)))).to_vec()
    }

    pub fn draw(&self) -> Markup {
        let most = self.counts.iter().copied().max().unwrap_or(0).max(1) as f64;
        let total = self.counts.iter().sum::<u64>().max(1) as f64;
        let bin = 1.0 / self.counts.len().max(1) as f64;
        let bars = self.counts.iter().enumerate().filter(|(_, count)| **count > 0).map(|(index, count)| {
            // A bin with anything in it can be seen.
            let height = (*count as f64 / most * (HEIGHT - 4.0)).max(1.5);
            let (from, to) = (self.value(index as f64 * bin), self.value((index + 1) as f64 * bin));
            let share = *count as f64 / total * 100.0;
            let bin_name = if self.whole { short(from) } else { format!("{} to {}", short(from), short(to)) };
            let told = format!("{bin_name}: {} ({share:.1}%)", thousands(*count));
            (index as f64 * bin * WIDTH, bin * WIDTH - 1.0, height, told)
        });
        let labels = self.labels();
        html! {
            figure.chart {
                figcaption { b { (self.title) } " " span.pale { (self.note) } }
                svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT + AXIS) } role="img" aria-label=(self.title) {
                    @for (left, width, height, told) in bars {
                        rect.bar x={ (round(left)) } y={ (round(HEIGHT - height)) } width={ (round(width)) } height={ (round(height)) } {
                            title { (told) }
                        }
                    }
                    line.axis x1="0" y1=(HEIGHT) x2=(WIDTH) y2=(HEIGHT) {}
                    @for mark in self.marks.iter().filter(|mark| (0.0..=1.0).contains(&self.place(**mark))) {
                        line.mark x1={ (round(self.place(*mark) * WIDTH)) } y1="0" x2={ (round(self.place(*mark) * WIDTH)) } y2=(HEIGHT) {
                            title { "threshold " (short(*mark)) }
                        }
                    }
                    @for (place, anchor, label) in labels {
                        text.label x=(round(place * WIDTH)) y=(HEIGHT + 14.0) text-anchor=(anchor) { (label) }
                    }
                }
            }
        }
    }
}

/// A name, its count, and what it is of all.
pub fn bars(title: &str, note: &str, rows: &[(String, u64)], total: u64) -> Markup {
    let most = rows.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1) as f64;
    html! {
        figure.chart {
            figcaption { b { (title) } " " span.pale { (note) } }
            @if rows.is_empty() { p.pale { "none" } }
            table.bars {
                @for (name, count) in rows {
                    tr {
                        td.name title=(name) { (name) }
                        td.track { div.fill style={ "width:" (round(*count as f64 / most * 100.0)) "%" } {} }
                        td.number { (thousands(*count)) }
                        td.number.pale { (percent(*count, total)) }
                    }
                }
            }
        }
    }
}

/// What each condition leaves of the first row's count.
pub fn funnel(steps: &[(String, u64)]) -> Markup {
    let all = steps.first().map_or(1, |(_, count)| *count).max(1);
    html! {
        table.funnel {
            thead { tr { th { "condition" } th.number { "left" } th.number { "dropped" } th.number { "of all" } th {} } }
            @for (index, (condition, left)) in steps.iter().enumerate() {
                @let before = if index == 0 { *left } else { steps[index - 1].1 };
                tr {
                    td { code { (condition) } }
                    td.number { (thousands(*left)) }
                    td.number.drop { @if index > 0 { "−" (thousands(before.saturating_sub(*left))) } }
                    td.number.pale { (percent(*left, all)) }
                    td.track { div.lost style={ "width:" (round(before as f64 / all as f64 * 100.0)) "%" } {
                        div.fill style={ "width:" (round(if before == 0 { 0.0 } else { *left as f64 / before as f64 * 100.0 })) "%" } {}
                    } }
                }
            }
        }
    }
}

pub fn percent(part: u64, all: u64) -> String {
    let percent = part as f64 / all.max(1) as f64 * 100.0;
    if part > 0 && percent < 0.1 { "<0.1%".into() } else { format!("{percent:.1}%") }
}

/// A part of one as percent, in three digits.
pub fn percent_of(part: f64) -> String {
    let percent = 100.0 * part;
    if percent.abs() < 10.0 { format!("{percent:.1}%") } else { format!("{percent:.0}%") }
}

/// A number in as few digits as an axis has room for.
pub fn short(value: f64) -> String {
    let size = value.abs();
    let trimmed = |value: f64, digits: usize, unit: &str| {
        let text = format!("{value:.digits$}");
        let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
        format!("{text}{unit}")
    };
    match size {
        _ if size >= 9.995e8 => trimmed(value / 1e9, 1, "G"),
        _ if size >= 9.995e5 => trimmed(value / 1e6, 1, "M"),
        _ if size >= 9.995e3 => trimmed(value / 1e3, 0, "k"),
        _ if size >= 100.0 => trimmed(value, 0, ""),
        _ if size >= 10.0 => trimmed(value, 1, ""),
        _ if size > 0.0 && size < 1e-3 => format!("{value:.1e}"),
        _ => trimmed(value, 3, ""),
    }
}

/// The lowest and the highest; turned around where there is none.
pub fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}

/// Two digits are enough for a picture.
pub fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_on_axes_are_short() {
        let shown: Vec<String> = [0.0, 0.25, 2.0, 47.25, 224.0, 12_000.0, 1_500_000.0, 3e9, -0.5, 3e-6].map(short).to_vec();
        assert_eq!(shown, ["0", "0.25", "2", "47.2", "224", "12k", "1.5M", "3G", "-0.5", "3.0e-6"]);
    }

    #[test]
    fn bins_and_marks_stand_where_their_values_are() {
        let histogram = Histogram {
            title: "width".into(),
            note: String::new(),
            scale: Scale::Log,
            range: (1.0, 10_000.0),
            counts: vec![1, 0, 0, 3],
            whole: false,
            marks: vec![100.0, 1e9],
        };
        assert!((histogram.place(100.0) - 0.5).abs() < 1e-9);
        let drawn = histogram.draw().into_string();
        assert_eq!(drawn.matches("<rect").count(), 2);
        assert!(drawn.contains("1000 to 10k: 3 (75.0%)"), "{drawn}");
        assert_eq!(drawn.matches("class=\"mark\"").count(), 1, "a mark outside the axis is left out");
    }
}
