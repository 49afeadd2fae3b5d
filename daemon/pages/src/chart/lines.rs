//! Line charts: curves over training steps.

use std::borrow::Cow;

use maud::{Markup, html};

use super::axis::{Axis, Scale, Tick};
use super::plot_area::{PlotArea, label_room, round};
use super::{Key, KeyShape, colour, drawing, figure};
use crate::numbers::{percent_of, short};

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 176.0;
/// Room around the curves: half a label above, the labels of the steps below, and half of the last
/// one on the right.
const ABOVE: f64 = 8.0;
const BELOW: f64 = 22.0;
const RIGHT: f64 = 14.0;
/// Points of a curve for each unit of its width. More would not be visible.
const DENSITY: f64 = 2.0;
/// Largest number of points that are drawn as dots. Longer curves have no dots.
const DOTS: usize = 40;
/// The running mean of a noisy curve spans this fraction of its points: one in `SMOOTHED`.
const SMOOTHED: usize = 50;
/// Number of positions along a chart that show their values in a tooltip.
const HOVERED: usize = 48;

/// A curve over steps. Its index in the chart determines its colour.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Line<'a> {
    pub(crate) name: String,
    /// Ascending steps, and values. A value that is not finite leaves a gap.
    pub(crate) points: Cow<'a, [(u64, f64)]>,
    /// Whether to draw the running mean over the points.
    pub(crate) noisy: bool,
    pub(crate) dashed: bool,
    /// A value to compare with, such as chance.
    pub(crate) level: Option<f64>,
}

impl<'a> Line<'a> {
    pub(crate) fn new(name: impl Into<String>, points: impl Into<Cow<'a, [(u64, f64)]>>) -> Self {
        Self { name: name.into(), points: points.into(), noisy: false, dashed: false, level: None }
    }

    pub(crate) fn is_smoothed(&self) -> bool {
        self.noisy && self.points.len() > 2 * SMOOTHED
    }

    /// Returns the curve that is drawn in full colour, in at most about `most` points.
    fn curve(&self, most: usize) -> Vec<(u64, f64)> {
        if self.is_smoothed() { smoothed(&self.points, most) } else { thinned(&self.points, most) }
    }
}

/// The unit that values are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Plain,
    /// Shares of one.
    Percent,
}

impl Unit {
    fn write(self, value: f64) -> String {
        if self == Self::Percent { percent_of(value) } else { short(value) }
    }
}

/// Curves that share their axes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LineChart<'a> {
    pub(crate) title: String,
    pub(crate) unit: Unit,
    /// Whether the axis of values begins at zero.
    pub(crate) from_zero: bool,
    pub(crate) lines: Vec<Line<'a>>,
}

impl LineChart<'_> {
    /// Returns whether there is nothing to draw.
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.iter().all(|line| line.points.iter().all(|(_, value)| !value.is_finite()))
    }

    /// Returns the axis of values for a height in SVG units, and its marks, about 40 units apart.
    pub(crate) fn values(&self, height: f64) -> (Axis, Vec<Tick>) {
        let of_lines = self
            .lines
            .iter()
            .flat_map(|line| line.points.iter().map(|(_, value)| *value).chain(line.level));
        let axis = Axis::over(Scale::Linear, of_lines.chain(self.from_zero.then_some(0.0)));
        match self.unit {
            Unit::Plain => axis.rounded(height / 40.0),
            Unit::Percent => {
                let (percent, ticks) = axis.times(100.0).rounded(height / 40.0);
                let shares =
                    ticks.into_iter().map(|(value, label)| (value / 100.0, format!("{label}%")));
                (percent.times(0.01), shares.collect())
            }
        }
    }

    /// Draws the curves. The first one is drawn last, so that it lies on top.
    pub(crate) fn curves(&self, area: &PlotArea) -> Markup {
        let most = (area.width * DENSITY) as usize;
        html! {
            @for (place, line) in self.lines.iter().enumerate().rev() {
                @let level = line.level.filter(|_| !line.points.is_empty());
                @if let Some(y) = level.and_then(|level| area.down(level)) {
                    line class={ "level " (colour(place)) } x1=(area.left)
                        x2=(round(area.right())) y1=(y) y2=(y) {}
                }
                @if line.is_smoothed() {
                    @for run in runs(&thinned(&line.points, most), area) {
                        (polyline(&run, &format!("faint {}", colour(place)), false))
                    }
                }
                @let curve = line.curve(most);
                @for run in runs(&curve, area) {
                    @if run.len() > 1 {
                        (polyline(&run, &format!("curve {}", colour(place)), line.dashed))
                    }
                    @if run.len() == 1 || curve.len() <= DOTS {
                        @for (x, y) in run {
                            circle class={ "dot " (colour(place)) } cx=(x) cy=(y) r="3" {}
                        }
                    }
                }
            }
        }
    }

    /// Draws transparent strips. In a browser they show the values of all curves under the pointer.
    pub(crate) fn hover(&self, area: &PlotArea) -> Markup {
        let curves: Vec<(&str, Vec<(u64, f64)>)> = self
            .lines
            .iter()
            .map(|line| (line.name.as_str(), line.curve((area.width * DENSITY) as usize)))
            .collect();
        let mut steps: Vec<u64> =
            curves.iter().flat_map(|(_, points)| points.iter().map(|(step, _)| *step)).collect();
        steps.sort_unstable();
        steps.dedup();
        let chosen: Vec<u64> =
            steps.iter().copied().step_by(steps.len().div_ceil(HOVERED).max(1)).collect();
        let across = |step: u64| area.across(step as f64).unwrap_or(area.left);
        let left_edge = |at: usize| match at {
            0 => area.left,
            _ => f64::midpoint(across(chosen[at - 1]), across(chosen[at])),
        };
        html! {
            @for (at, step) in chosen.iter().enumerate() {
                @let from = left_edge(at);
                @let to = if at + 1 == chosen.len() { area.right() } else { left_edge(at + 1) };
                @let width = round((to - from).max(0.0));
                rect.hover x=(round(from)) width=(width) y=(area.top) height=(area.height) {
                    title {
                        "step " (step)
                        @for (name, points) in &curves {
                            @let value = nearest(points, *step)
                                .filter(|(step, _)| (from..=to).contains(&across(*step)));
                            @if let Some(value) = value {
                                "\n" (name) @if !name.is_empty() { " " } (self.unit.write(value.1))
                            }
                        }
                    }
                }
            }
        }
    }

    /// Returns the names of the curves with their last values.
    fn keys(&self) -> Vec<Key> {
        let named = |(series, line): (usize, &Line<'_>)| {
            let (_, last) = *line
                .curve((WIDTH * DENSITY) as usize)
                .iter()
                .rev()
                .find(|(_, value)| value.is_finite())?;
            let shape = if line.dashed { KeyShape::Dashes } else { KeyShape::Line };
            Some(Key {
                series,
                shape,
                name: format!("{} {}", line.name, self.unit.write(last)).trim().to_owned(),
            })
        };
        self.lines.iter().enumerate().filter_map(named).collect()
    }

    /// Draws the chart with its caption. Draws nothing if no curve has a finite point.
    pub(crate) fn figure(&self) -> Markup {
        if self.is_empty() {
            return html! {};
        }
        let height = HEIGHT - ABOVE - BELOW;
        let (values, value_ticks) = self.values(height);
        let left = label_room(&value_ticks);
        let x = steps(&self.lines);
        let area = PlotArea { left, top: ABOVE, width: WIDTH - left - RIGHT, height, x, y: values };
        let shapes = html! {
            (area.rows(&value_ticks))
            (area.base())
            (area.labels_below(&step_ticks(&area)))
            text.label x="0" y=(area.bottom() + 16.0) { "step" }
            (self.curves(&area))
            (self.hover(&area))
        };
        let keys = self.keys();
        let last: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
        let label = format!("{} over training steps; last: {}", self.title, last.join(", "));
        let smoothed = self.lines.iter().any(Line::is_smoothed);
        let note = html! { @if smoothed { "the last values, smoothed" } };
        figure(&self.title, &keys, &note, &drawing(&label, WIDTH, HEIGHT, &shapes))
    }
}

/// Returns the axis of the steps of all lines.
pub(crate) fn steps<'a>(lines: impl IntoIterator<Item = &'a Line<'a>>) -> Axis {
    let all = lines.into_iter().flat_map(|line| line.points.iter().map(|(step, _)| *step as f64));
    Axis::over(Scale::Linear, all)
}

/// Returns the marks of the axis of steps, which are whole numbers.
pub(crate) fn step_ticks(area: &PlotArea) -> Vec<Tick> {
    let ticks = area
        .x
        .ticks((area.width / 60.0).min(8.0))
        .into_iter()
        .filter(|(step, _)| step.fract() == 0.0);
    // With few steps, marks lie closer than one step and would have decimals.
    let few = area.x.value(1.0) < 10.0;
    ticks.map(|(step, label)| (step, if few { format!("{step}") } else { label })).collect()
}

fn polyline(places: &[(f64, f64)], class: &str, dashed: bool) -> Markup {
    let points: Vec<String> = places.iter().map(|(x, y)| format!("{x},{y}")).collect();
    let dashes = dashed.then_some("5 4");
    html! { polyline class=(class) stroke-dasharray=[dashes] points=(points.join(" ")) {} }
}

/// Returns the positions of a curve, split at gaps.
fn runs(points: &[(u64, f64)], area: &PlotArea) -> Vec<Vec<(f64, f64)>> {
    let places: Vec<Option<(f64, f64)>> = points
        .iter()
        .map(|(step, value)| Some((area.across(*step as f64)?, area.down(*value)?)))
        .collect();
    places
        .split(Option::is_none)
        .filter(|run| !run.is_empty())
        .map(|run| run.iter().flatten().copied().collect())
        .collect()
}

/// Returns the finite point nearest to a step.
fn nearest(points: &[(u64, f64)], step: u64) -> Option<(u64, f64)> {
    let after = points.partition_point(|(known, _)| *known < step);
    let around = points[after.saturating_sub(1)..points.len().min(after + 1)].iter();
    around
        .filter(|(_, value)| value.is_finite())
        .min_by_key(|(known, _)| known.abs_diff(step))
        .copied()
}

/// Returns running means over about a fiftieth of the run, at about `most` of its points. The
/// window is centred, so the curve does not lag. Towards the ends it narrows to a third, where it
/// would otherwise be one-sided.
fn smoothed(points: &[(u64, f64)], most: usize) -> Vec<(u64, f64)> {
    let finite: Vec<(u64, f64)> =
        points.iter().copied().filter(|(_, value)| value.is_finite()).collect();
    let half = finite.len() / (2 * SMOOTHED);
    let mean = |at: usize| {
        let last = finite.len() - 1;
        let half = half.min(at).min(last - at).max(half / 3);
        let window = &finite[at.saturating_sub(half)..=(at + half).min(last)];
        (finite[at].0, window.iter().map(|(_, value)| value / window.len() as f64).sum())
    };
    let every = finite.len().div_ceil(most.max(1)).max(1);
    (0..finite.len()).filter(|at| at % every == 0 || at + 1 == finite.len()).map(mean).collect()
}

/// Returns at most about `most` points. From each bucket it keeps the lowest and the highest in
/// their order, so that spikes stay. From a bucket with a value that is not finite it keeps that
/// value, so that gaps stay.
fn thinned(points: &[(u64, f64)], most: usize) -> Vec<(u64, f64)> {
    if points.len() <= most {
        return points.to_vec();
    }
    let bucket = points.len().div_ceil((most / 2).max(1));
    let mut kept = Vec::with_capacity(most);
    for part in points.chunks(bucket) {
        let by_value = |a: &(usize, &(u64, f64)), b: &(usize, &(u64, f64))| a.1.1.total_cmp(&b.1.1);
        let strange = part.iter().position(|(_, value)| !value.is_finite());
        let low = part.iter().enumerate().min_by(by_value).map(|(at, _)| at);
        let high = part.iter().enumerate().max_by(by_value).map(|(at, _)| at);
        match (strange, low, high) {
            (None, Some(low), Some(high)) if low != high => {
                kept.extend([part[low.min(high)], part[low.max(high)]]);
            }
            (Some(at), ..) | (None, Some(at), _) => kept.push(part[at]),
            _ => {}
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::test::well_formed;

    fn chart(lines: Vec<Line<'_>>) -> LineChart<'_> {
        LineChart { title: "loss".into(), unit: Unit::Plain, from_zero: false, lines }
    }

    #[test]
    fn thinning_keeps_spikes_and_gaps() {
        let mut points: Vec<(u64, f64)> = (0..100_000).map(|step| (step, 1.0)).collect();
        points[54_321].1 = 9.0;
        points[70_000].1 = f64::NAN;
        let kept = thinned(&points, 2000);
        assert!(kept.len() <= 2000);
        assert!(
            kept.contains(&(54_321, 9.0))
                && kept.iter().any(|(step, value)| *step == 70_000 && value.is_nan())
        );
        assert!(kept.is_sorted_by_key(|(step, _)| *step));
    }

    #[test]
    fn smoothing_leaves_a_straight_line_straight_and_takes_the_noise_out() {
        let falling: Vec<(u64, f64)> = (0..500).map(|step| (step, 500.0 - step as f64)).collect();
        let curve = smoothed(&falling, 2000);
        assert!(
            curve
                .iter()
                .zip(&falling)
                .skip(1)
                .take(498)
                .all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-9)
        );
        let noisy: Vec<(u64, f64)> =
            (0..500).map(|step| (step, if step % 2 == 0 { 1.0 } else { -1.0 })).collect();
        // Six of the eleven points have the same sign.
        assert!((smoothed(&noisy, 2000)[250].1 + 1.0 / 11.0).abs() < 1e-9);
        let few = smoothed(&falling, 100);
        assert_eq!(
            (few.len(), few[1], few.last()),
            (101, (5, 495.0), Some(&(499, 1.5))),
            "each fifth, and the last"
        );
    }

    #[test]
    fn noisy_curves_have_their_mean_and_what_is_no_number_is_left_out() {
        let long: Vec<(u64, f64)> = (0..3000).map(|step| (step, step as f64)).collect();
        let noisy = Line { noisy: true, ..Line::new("a", &long[..]) };
        let drawn = chart(vec![
            noisy,
            Line::new("b", vec![]),
            Line::new("c", vec![(1, f64::NAN), (2, 3.0)]),
        ])
        .figure()
        .into_string();
        well_formed(&drawn);
        assert_eq!(
            (drawn.matches("faint c0").count(), drawn.matches("curve c0").count()),
            (1, 1),
            "{drawn}"
        );
        assert_eq!(
            drawn.matches("dot c2").count(),
            1,
            "an empty curve keeps the colours of those after it"
        );
        assert!(!drawn.contains("c1\"") && drawn.contains(">c 3</span>"), "{drawn}");
        assert!(chart(Vec::new()).figure().into_string().is_empty());
        assert!(chart(vec![Line::new("a", vec![(1, f64::NAN)])]).figure().into_string().is_empty());
    }

    #[test]
    fn gaps_stay_gaps_and_single_points_are_dots() {
        let points = vec![
            (0, 1.0),
            (1, 2.0),
            (2, f64::INFINITY),
            (3, 1.0),
            (4, f64::NAN),
            (5, 0.0),
            (6, 1.0),
        ];
        let drawn = chart(vec![Line::new("a", points)]).figure().into_string();
        assert_eq!((drawn.matches("<polyline").count(), drawn.matches("<circle").count()), (2, 5));
    }

    #[test]
    fn the_pointer_is_told_the_numbers_of_all_curves() {
        let lines =
            vec![Line::new("a", vec![(10, 0.5), (20, 0.25)]), Line::new("<b>", vec![(20, 0.75)])];
        let drawn = LineChart { unit: Unit::Percent, ..chart(lines) }.figure().into_string();
        assert!(drawn.contains("<title>step 10\na 50%</title>"), "{drawn}");
        assert!(drawn.contains("<title>step 20\na 25%\n&lt;b&gt; 75%</title>"), "{drawn}");
    }

    #[test]
    fn extreme_curves_are_drawn() {
        let many: Vec<(u64, f64)> =
            (0..1_000_000).map(|step| (step, (step as f64).sin())).collect();
        let values: [&[(u64, f64)]; 8] = [
            &many,
            &[(1, 2.5)],
            &[(u64::MAX, 1.0)],
            &[(0, 1e-12), (1, 1e12)],
            &[(0, f64::MAX), (1, f64::MIN)],
            &[(0, -3.0), (1, -1.0)],
            &[(0, 0.0), (u64::MAX, 0.0)],
            &[(5, 1.0), (5, 2.0)],
        ];
        for points in values {
            for (noisy, from_zero) in [(false, false), (true, true)] {
                let lines =
                    vec![Line { noisy, level: Some(f64::INFINITY), ..Line::new("a", points) }];
                let drawn = LineChart { from_zero, ..chart(lines) }.figure().into_string();
                well_formed(&drawn);
                assert!(drawn.len() < 100_000, "{} bytes", drawn.len());
                assert!(drawn.contains("curve c0") || drawn.contains("dot c0"), "{drawn}");
                assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
            }
        }
    }
}
