//! The plot of a training run: loss as recorded and smoothed, the learning rate, and what the evaluations found.
//!
//! Panels share the axis of steps. Numbers that are not finite leave a gap in their line and are counted in words.

use std::path::Path;

use super::PictureError;
use super::canvas::{Align, Canvas, Rgb};
use super::text::{self, Style};

const BACKGROUND: Rgb = [255, 255, 255];
const GRID: Rgb = [230, 233, 238];
const AXIS: Rgb = [150, 156, 168];
const INK: Rgb = [28, 32, 40];
const PALE_INK: Rgb = [96, 103, 116];
/// Okabe and Ito: told apart also by the colour-blind.
const COLOURS: [Rgb; 6] = [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233]];

const WIDTH: f32 = 1100.0;
const LEFT: f32 = 76.0;
const RIGHT: f32 = 32.0;
const TOP: f32 = 84.0;
const BOTTOM: f32 = 58.0;
/// Above each panel, for its title.
const HEAD: f32 = 34.0;
const SMALL: Style = Style { bold: false, size: 12.0 };

/// What a training step reports.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrainPoint {
    pub step: u64,
    pub loss: f64,
    pub learning_rate: f64,
}

/// One measure of the evaluations, such as "image to text, recall@1".
#[derive(Clone, Debug, PartialEq)]
pub struct EvalSeries {
    pub name: String,
    /// Step and value, 0..=1.
    pub points: Vec<(u64, f64)>,
    /// What guessing would give, drawn as a dashed line of the same colour.
    pub chance: Option<f64>,
}

struct Line<'a> {
    name: &'a str,
    points: Vec<(u64, f64)>,
    colour: Rgb,
    width: f32,
    alpha: f32,
    /// A height that the line is compared to.
    level: Option<f64>,
}

struct Panel<'a> {
    title: &'a str,
    height: f32,
    /// The least that the axis shows.
    low: Option<f64>,
    high: Option<f64>,
    lines: Vec<Line<'a>>,
}

/// Writes a PNG with the run's panels: loss, evaluations where there are any, learning rate.
///
/// # Errors
/// A file that cannot be written.
pub fn loss_plot(run: &str, points: &[TrainPoint], evals: &[EvalSeries], path: &Path) -> Result<(), PictureError> {
    let losses: Vec<(u64, f64)> = points.iter().map(|point| (point.step, point.loss)).collect();
    let line = |name, points, colour, width, alpha| Line { name, points, colour, width, alpha, level: None };
    let mut panels = vec![Panel {
        title: "Training loss",
        height: 300.0,
        low: None,
        high: None,
        lines: vec![
            line("smoothed", smoothed(&losses), COLOURS[0], 2.4, 1.0),
            line("each step", thinned(&losses, 2000), COLOURS[0], 1.0, 0.35),
        ],
    }];
    if evals.iter().any(|series| !series.points.is_empty()) {
        let lines = evals
            .iter()
            .enumerate()
            .map(|(at, series)| Line {
                name: &series.name,
                points: series.points.clone(),
                colour: COLOURS[at % COLOURS.len()],
                width: 2.2,
                alpha: 1.0,
                level: series.chance,
            })
            .collect();
        panels.push(Panel { title: "Held-out pairs (dashed: chance)", height: 210.0, low: Some(0.0), high: None, lines });
    }
    let rates: Vec<(u64, f64)> = points.iter().map(|point| (point.step, point.learning_rate)).collect();
    panels.push(Panel {
        title: "Learning rate",
        height: 110.0,
        low: Some(0.0),
        high: None,
        lines: vec![line("", thinned(&rates, 2000), COLOURS[1], 1.8, 1.0)],
    });

    let height = TOP + BOTTOM + panels.iter().map(|panel| panel.height + HEAD).sum::<f32>();
    let mut canvas = Canvas::new(WIDTH as u64, height as u64, BACKGROUND)?;
    let title = text::wrap(&format!("Run {run}"), Style::bold(21.0), WIDTH - LEFT - RIGHT, 1);
    for line in &title {
        canvas.text(line, Style::bold(21.0), (LEFT, 42.0), Align::Left, INK);
    }
    canvas.text(&summary(points), Style::regular(13.5), (LEFT, 66.0), Align::Left, PALE_INK);

    let steps = steps(&panels);
    let mut top = TOP;
    for (at, panel) in panels.iter().enumerate() {
        top += HEAD;
        draw_panel(&mut canvas, panel, top, steps, at + 1 == panels.len());
        top += panel.height;
    }
    canvas.write(path)
}

/// One line of words under the title.
fn summary(points: &[TrainPoint]) -> String {
    let Some(last) = points.last() else { return "No steps recorded yet.".to_owned() };
    let strange = points.iter().filter(|point| !point.loss.is_finite()).count();
    let strange = if strange == 0 { String::new() } else { format!("  ·  not finite at {strange} steps") };
    let tail = &points[points.len() - points.len().div_ceil(20)..];
    let finite: Vec<f64> = tail.iter().map(|point| point.loss).filter(|loss| loss.is_finite()).collect();
    let mean = finite.iter().sum::<f64>() / finite.len() as f64;
    format!("{} steps  ·  mean loss of the last {}: {mean:.3}{strange}", last.step, finite.len())
}

/// First and last step of all lines, different from each other.
fn steps(panels: &[Panel<'_>]) -> (f64, f64) {
    let all = || panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| &line.points).map(|(step, _)| *step as f64);
    let (first, last) = all().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), step| (low.min(step), high.max(step)));
    if first > last {
        (0.0, 1.0)
    } else if first == last {
        // Wide enough to differ however large the step is.
        let beside = (first * 1e-6).max(1.0);
        (first - beside, last + beside)
    } else {
        (first, last)
    }
}

fn draw_panel(canvas: &mut Canvas, panel: &Panel<'_>, top: f32, steps: (f64, f64), lowest: bool) {
    let bottom = top + panel.height - if lowest { 0.0 } else { 18.0 };
    let right = WIDTH - RIGHT;
    let (low, high, every) = values(panel);
    let x = |step: f64| LEFT + ((step - steps.0) / (steps.1 - steps.0)) as f32 * (right - LEFT);
    let y = |value: f64| bottom - ((value - low) / (high - low)) as f32 * (bottom - top);

    canvas.text(panel.title, Style::bold(14.0), (LEFT, top - 13.0), Align::Left, INK);
    legend(canvas, panel, right, top - 13.0);
    for at in 0..=((high - low) / every).round() as u64 {
        let value = low + at as f64 * every;
        let height = y(value).round() + 0.5;
        canvas.line(&[(LEFT, height), (right, height)], 1.0, GRID, 1.0, false);
        canvas.text(&number(value, every), SMALL, (LEFT - 9.0, height + 4.0), Align::Right, PALE_INK);
    }
    let apart = nice(steps.1 - steps.0, 8.0).max(1.0);
    let first = (steps.0 / apart).ceil();
    // Counted, so that it ends also where a step is too large to be added to.
    for at in 0..=((steps.1 / apart).floor() - first).clamp(0.0, 20.0) as u64 {
        let step = (first + at as f64) * apart;
        let across = x(step).round() + 0.5;
        canvas.line(&[(across, top), (across, bottom)], 1.0, GRID, 1.0, false);
        if lowest {
            canvas.text(&format!("{step}"), SMALL, (across, bottom + 19.0), Align::Middle, PALE_INK);
        }
    }
    canvas.line(&[(LEFT + 0.5, top), (LEFT + 0.5, bottom + 0.5), (right, bottom + 0.5)], 1.0, AXIS, 1.0, false);
    if lowest {
        canvas.text("step", Style::regular(13.0), (f32::midpoint(LEFT, right), bottom + 42.0), Align::Middle, PALE_INK);
    }

    // The first line is the one to see, so it is drawn last.
    for line in panel.lines.iter().rev() {
        if let Some(level) = line.level.filter(|level| level.is_finite()) {
            canvas.line(&[(LEFT, y(level)), (right, y(level))], 1.4, line.colour, 0.7, true);
        }
        for part in line.points.split(|(_, value)| !value.is_finite()) {
            let places: Vec<(f32, f32)> = part.iter().map(|(step, value)| (x(*step as f64), y(*value))).collect();
            canvas.line(&places, line.width, line.colour, line.alpha, false);
            // A few points are measurements; many are a curve.
            if places.len() <= 40 && line.alpha == 1.0 {
                for place in places {
                    canvas.line(&[place], 3.2, line.colour, 1.0, false);
                }
            }
        }
    }
}

/// Names of the lines with a stroke of their colour, right-aligned.
fn legend(canvas: &mut Canvas, panel: &Panel<'_>, right: f32, baseline: f32) {
    let mut x = right;
    for line in panel.lines.iter().rev().filter(|line| !line.name.is_empty()) {
        // More than fits is left out rather than drawn over the title.
        let name = text::wrap(line.name, SMALL, 220.0, 1).concat();
        let start = x - text::width(&name, SMALL) - 30.0;
        if start < LEFT + 280.0 {
            break;
        }
        canvas.text(&name, SMALL, (x, baseline), Align::Right, INK);
        canvas.line(&[(start, baseline - 4.5), (start + 22.0, baseline - 4.5)], line.width, line.colour, line.alpha, false);
        x = start - 20.0;
    }
}

/// Lowest and highest value of the axis, and the distance of its marks.
fn values(panel: &Panel<'_>) -> (f64, f64, f64) {
    let of_lines = panel.lines.iter().flat_map(|line| line.points.iter().map(|(_, value)| *value).chain(line.level));
    let given = panel.low.into_iter().chain(panel.high);
    let (low, high) = of_lines
        .chain(given)
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    let (low, high) = if low > high {
        (0.0, 1.0)
    } else if high - low <= high.abs() * 1e-9 {
        (low - low.abs().max(1e-6) * 0.5, high + high.abs().max(1e-6) * 0.5)
    } else {
        (low, high)
    };
    let every = nice(high - low, f64::from(panel.height / 40.0));
    ((low / every).floor() * every, (high / every).ceil() * every, every)
}

/// A distance of 1, 2 or 5 times a power of ten that divides `range` into about `parts`.
fn nice(range: f64, parts: f64) -> f64 {
    let rough = range / parts.max(1.0);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0].into_iter().find(|step| step * power >= rough * 0.999_999).unwrap_or(10.0);
    step * power
}

/// A value of an axis, with the digits that its marks differ in.
fn number(value: f64, every: f64) -> String {
    let value = if value.abs() < every * 1e-6 { 0.0 } else { value };
    if value == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e6).contains(&every) {
        format!("{value:.1e}")
    } else {
        let digits = (-every.log10().floor()).max(0.0) as usize;
        format!("{value:.digits$}")
    }
}

/// Mean over about a fiftieth of the run around each point. The window is as long before as after, so the curve does not lag
/// behind; towards the ends it narrows to a third, so that the last noise is not taken for a turn.
fn smoothed(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let finite: Vec<(u64, f64)> = points.iter().copied().filter(|(_, value)| value.is_finite()).collect();
    let half = finite.len() / 100;
    let curve: Vec<(u64, f64)> = (0..finite.len())
        .map(|at| {
            let last = finite.len() - 1;
            let half = half.min(at).min(last - at).max(half / 3);
            let window = &finite[at.saturating_sub(half)..=(at + half).min(last)];
            (finite[at].0, window.iter().map(|(_, value)| value / window.len() as f64).sum())
        })
        .collect();
    thinned(&curve, 2000)
}

/// At most about `most` points: of each bucket the lowest and the highest, in their order, so that a spike stays. A bucket
/// with a value that is not finite gives that, so that the gap stays.
fn thinned(points: &[(u64, f64)], most: usize) -> Vec<(u64, f64)> {
    if points.len() <= most {
        return points.to_vec();
    }
    let bucket = points.len().div_ceil(most / 2);
    let mut kept = Vec::with_capacity(most);
    for part in points.chunks(bucket) {
        let by_value = |a: &(usize, &(u64, f64)), b: &(usize, &(u64, f64))| a.1.1.total_cmp(&b.1.1);
        let strange = part.iter().position(|(_, value)| !value.is_finite());
        let low = part.iter().enumerate().min_by(by_value).map(|(at, _)| at);
        let high = part.iter().enumerate().max_by(by_value).map(|(at, _)| at);
        match (strange, low, high) {
            (None, Some(low), Some(high)) if low != high => kept.extend([part[low.min(high)], part[low.max(high)]]),
            (Some(at), ..) | (None, Some(at), _) => kept.push(part[at]),
            _ => {}
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(losses: &[f64]) -> Vec<TrainPoint> {
        let point = |(step, loss): (usize, &f64)| TrainPoint { step: step as u64 + 1, loss: *loss, learning_rate: 1e-3 };
        losses.iter().enumerate().map(point).collect()
    }

    fn series(points: &[(u64, f64)]) -> EvalSeries {
        EvalSeries { name: "recall@1".to_owned(), points: points.to_vec(), chance: Some(0.01) }
    }

    #[test]
    fn strange_runs_are_drawn_without_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plot.png");
        let nan = f64::NAN;
        let runs: [(&[f64], &[EvalSeries]); 9] = [
            (&[], &[]),
            (&[2.5], &[]),
            (&[2.5], &[series(&[(1, 0.2)])]),
            (&[nan], &[]),
            (&[3.0, nan, f64::INFINITY, 2.0, f64::NEG_INFINITY], &[series(&[(1, nan), (2, 0.1)])]),
            (&[2.0, 2.0, 2.0], &[series(&[])]),
            (&[0.0, 0.0], &[]),
            (&[1e300, -1e300], &[]),
            (&[1e-12, 1e-13, 1e-14], &[]),
        ];
        for (losses, evals) in runs {
            loss_plot("strange", &points(losses), evals, &path).unwrap();
            let (width, _) = image::image_dimensions(&path).unwrap();
            assert_eq!(width, 1100);
        }
        let many = vec![series(&[(1, 0.5)]); 20];
        loss_plot(&"long name ".repeat(50), &points(&[1.0, 2.0]), &many, &path).unwrap();
        let far = [TrainPoint { step: u64::MAX, loss: 1.0, learning_rate: 0.0 }];
        loss_plot("far", &far, &[], &path).unwrap();
    }

    #[test]
    fn panel_of_evaluations_is_there_only_with_evaluations() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plot.png");
        loss_plot("run", &points(&[3.0, 2.0, 1.0]), &[], &path).unwrap();
        let without = image::image_dimensions(&path).unwrap().1;
        loss_plot("run", &points(&[3.0, 2.0, 1.0]), &[series(&[(3, 0.4)])], &path).unwrap();
        assert_eq!(image::image_dimensions(&path).unwrap().1, without + 244);
    }

    #[test]
    fn marks_are_at_round_numbers() {
        assert_eq!(nice(10.0, 5.0), 2.0);
        assert_eq!(nice(0.9, 4.0), 0.5);
        assert_eq!(nice(3000.0, 8.0), 500.0);
        assert_eq!(number(0.25, 0.05), "0.25");
        assert_eq!(number(1500.0, 500.0), "1500");
        assert_eq!(number(0.0002, 0.0002), "2.0e-4");
    }

    #[test]
    fn thinning_keeps_spikes_and_gaps() {
        let mut points: Vec<(u64, f64)> = (0..100_000).map(|step| (step, 1.0)).collect();
        points[54_321].1 = 9.0;
        points[70_000].1 = f64::NAN;
        let kept = thinned(&points, 2000);
        assert!(kept.len() <= 2000);
        assert!(kept.contains(&(54_321, 9.0)) && kept.iter().any(|(step, value)| *step == 70_000 && value.is_nan()));
        assert!(kept.is_sorted_by_key(|(step, _)| *step));
    }

    #[test]
    fn smoothing_leaves_a_straight_line_straight_and_takes_the_noise_out() {
        let falling: Vec<(u64, f64)> = (0..500).map(|step| (step, 500.0 - step as f64)).collect();
        assert!(smoothed(&falling).iter().zip(&falling).skip(1).take(498).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-9));
        let noisy: Vec<(u64, f64)> = (0..500).map(|step| (step, if step % 2 == 0 { 1.0 } else { -1.0 })).collect();
        // Eleven points of which six are of one sign.
        assert!((smoothed(&noisy)[250].1 + 1.0 / 11.0).abs() < 1e-9);
    }
}
