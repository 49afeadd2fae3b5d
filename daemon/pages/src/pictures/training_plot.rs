//! The plot of a training run: recorded and smoothed loss, the learning rate, and the results of
//! evaluations.
//!
//! Panels share the axis of steps. Values that are not finite leave a gap in their line, and the
//! summary counts them.

use std::path::Path;

use diptych_schemas::durable;
use diptych_schemas::words::thousands;
use maud::{Markup, html};

use super::PictureError;
use super::raster::Raster;
use super::svg::document;
use super::text::{self, Style};
use crate::chart::lines::{Line, LineChart, Unit, step_ticks, steps};
use crate::chart::plot_area::{PlotArea, label_room, round};
use crate::chart::{Axis, colour};
use crate::metrics::{Metrics, held_out_losses, loss_and_terms};

const WIDTH: f64 = 1100.0;
/// Least room for the labels on the left.
const LEFT: f64 = 76.0;
const RIGHT: f64 = 32.0;
const TOP: f64 = 84.0;
const BOTTOM: f64 = 58.0;
/// Room above each panel for its title.
const HEAD: f64 = 34.0;
/// Room below each panel except the lowest.
const BETWEEN: f64 = 18.0;
/// Distance of a legend from the left edge of its panel, which leaves room for the title.
const LEGEND_FROM: f64 = 280.0;
const SMALL: Style = Style::regular(12.0);
/// Length of a stroke in a legend, with the space after it.
const STROKE: f64 = 30.0;
const STYLE: &str = "
.label, .key { font-size: 12px; }
.curve { stroke-width: 2.3; }
.run { font-size: 21px; font-weight: bold; }
.summary { font-size: 13.5px; }
.panel { font-size: 14px; font-weight: bold; }
";

/// The metrics of a run that are drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingPlot<'a> {
    run: String,
    /// The loss, then its terms.
    losses: Vec<Line<'a>>,
    /// Loss on held-out pairs.
    held_out: Vec<Line<'a>>,
    /// Results on held-out pairs from 0 to 1, with chance as their level.
    evaluations: Vec<Line<'a>>,
    /// One line for each run.
    learning_rates: Vec<Line<'a>>,
}

/// Metrics of the evaluations that are drawn, with their names in the legend.
const EVALUATIONS: [(&str, &str); 2] =
    [("heldout/i2t_recall@1", "image to text R@1"), ("heldout/t2i_recall@1", "text to image R@1")];
const CHANCE: &str = "heldout/chance_i2t_recall@1";

impl<'a> TrainingPlot<'a> {
    /// Chooses the curves that a plot shows from a run's metrics.
    pub fn from_metrics(run: &str, metrics: &'a Metrics) -> Self {
        let recorded = |metric: &str| metrics.get(metric).map_or(&[][..], Vec::as_slice);
        let level = recorded(CHANCE).first().map(|(_, value)| *value);
        let losses = loss_and_terms(metrics.keys());
        Self {
            run: run.to_owned(),
            losses: losses.iter().map(|(metric, name)| Line::new(name, recorded(metric))).collect(),
            held_out: held_out_losses(metrics.keys())
                .iter()
                .map(|(metric, name)| Line::new(name, recorded(metric)))
                .collect(),
            evaluations: EVALUATIONS
                .map(|(metric, name)| Line { level, ..Line::new(name, recorded(metric)) })
                .to_vec(),
            learning_rates: vec![Line::new("", recorded("lr"))],
        }
    }

    /// Chooses the curves of a plot of several runs: one line for each run in each panel.
    pub fn from_runs(runs: &'a [(String, Metrics)]) -> Self {
        let lines = |metric: &str| -> Vec<Line<'a>> {
            let recorded =
                |metrics: &'a Metrics| metrics.get(metric).map_or(&[][..], Vec::as_slice);
            runs.iter().map(|(name, metrics)| Line::new(name, recorded(metrics))).collect()
        };
        let names: Vec<&str> = runs.iter().map(|(name, _)| name.as_str()).collect();
        Self {
            run: names.join(", "),
            losses: lines("loss"),
            held_out: Vec::new(),
            evaluations: lines(EVALUATIONS[0].0),
            learning_rates: lines("lr"),
        }
    }
}

impl TrainingPlot<'_> {
    /// Writes the plot as SVG or PNG, depending on the file's extension.
    ///
    /// # Errors
    /// Returns an error for any other extension, or if the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), PictureError> {
        match path
            .extension()
            .map(|extension| extension.to_string_lossy().to_lowercase())
            .as_deref()
        {
            Some("svg") => Ok(durable::write(path, self.svg().as_bytes())?),
            Some("png") | None => Raster::new(&self.svg())?.write(path),
            Some(_) => Err(PictureError::UnknownFormat { path: path.to_owned() }),
        }
    }

    /// Returns the plot as an SVG file.
    fn svg(&self) -> String {
        let panels = self.panels();
        let height = TOP + BOTTOM + panels.iter().map(|(_, height)| height + HEAD).sum::<f64>();
        let steps = steps(panels.iter().flat_map(|(panel, _)| &panel.lines));
        let room = panels
            .iter()
            .map(|(panel, height)| label_room(&panel.values(*height).1))
            .fold(LEFT, f64::max);
        let content = (WIDTH - room - RIGHT) as f32;
        let word = if self.learning_rates.len() > 1 { "Runs" } else { "Run" };
        let name =
            text::wrap(&format!("{word} {}", self.run), Style::bold(21.0), content, 1).concat();
        let tops = panels.iter().scan(TOP, |top, (_, height)| {
            *top += HEAD + height;
            Some(*top - height)
        });
        let marks = html! {
            text.run x=(room) y="42" { (name) }
            text.summary.pale x=(room) y="66" { (self.summary()) }
            @for (at, ((panel, height), top)) in panels.iter().zip(tops).enumerate() {
                (draw(panel, (room, top, *height), steps, at + 1 == panels.len()))
            }
        };
        document(
            WIDTH as u64,
            height as u64,
            &format!("Training of {}: {}", self.run, self.summary()),
            STYLE,
            &marks,
        )
    }

    /// Returns the panels with their heights.
    fn panels(&self) -> Vec<(LineChart<'_>, f64)> {
        let chart = |title: &str, from_zero, lines| LineChart {
            title: title.into(),
            unit: Unit::Plain,
            from_zero,
            lines,
        };
        let noisy: Vec<Line<'_>> =
            self.losses.iter().map(|line| Line { noisy: true, ..line.clone() }).collect();
        let smoothed = noisy.iter().any(Line::is_smoothed);
        let title = if smoothed { "Training loss (pale: each step)" } else { "Training loss" };
        let lines = noisy.into_iter().chain(self.held_out.clone()).collect();
        let mut panels = vec![(chart(title, false, lines), 300.0)];
        if self.evaluations.iter().any(|line| !line.points.is_empty()) {
            panels.push((
                chart("Held-out pairs (dotted: chance)", true, self.evaluations.clone()),
                210.0,
            ));
        }
        panels.push((chart("Learning rate", true, self.learning_rates.clone()), 110.0));
        panels
    }

    /// Returns the line below the title.
    fn summary(&self) -> String {
        if self.learning_rates.len() > 1 {
            let count = self.learning_rates.len();
            return format!("{count} runs  ·  held-out figure: {}", EVALUATIONS[0].1);
        }
        let points = self.losses.first().map_or(&[][..], |line| &line.points);
        let Some((last, _)) = points.last() else { return "No steps recorded yet.".to_owned() };
        let steps = |count: u64| {
            if count == 1 { "1 step".to_owned() } else { format!("{} steps", thousands(count)) }
        };
        let strange = points.iter().filter(|(_, loss)| !loss.is_finite()).count();
        let strange = if strange == 0 {
            String::new()
        } else {
            format!("  ·  not finite at {}", steps(strange as u64))
        };
        let tail = &points[points.len() - points.len().div_ceil(20)..];
        let finite: Vec<f64> =
            tail.iter().map(|(_, loss)| *loss).filter(|loss| loss.is_finite()).collect();
        if finite.is_empty() {
            return format!("{}{strange}", steps(*last));
        }
        let mean = finite.iter().map(|loss| loss / finite.len() as f64).sum::<f64>();
        let count = thousands(finite.len() as u64);
        format!("{}  ·  mean loss of the last {count}: {mean:.3}{strange}", steps(*last))
    }
}

fn draw(
    panel: &LineChart<'_>,
    (left, top, height): (f64, f64, f64),
    steps: Axis,
    lowest: bool,
) -> Markup {
    let (y, value_ticks) = panel.values(height);
    // Only the lowest panel has labels below it, which bring their own distance.
    let height = if lowest { height } else { height - BETWEEN };
    let area = PlotArea { left, top, width: WIDTH - left - RIGHT, height, x: steps, y };
    let step_ticks = step_ticks(&area);
    html! {
        text.panel x=(left) y=(top - 12.0) { (panel.title) }
        (legend(panel, &area))
        (area.columns(&step_ticks))
        (area.rows(&value_ticks))
        (area.base())
        (area.side())
        (panel.curves(&area))
        (panel.hover(&area))
        @if lowest {
            (area.labels_below(&step_ticks))
            text.label x=(round(left + area.width / 2.0)) y=(area.bottom() + 42.0)
                text-anchor="middle" { "step" }
        }
    }
}

/// Draws the names of the lines, each with a stroke in its colour, right-aligned. Names that do not
/// fit beside the title are left out.
fn legend(panel: &LineChart<'_>, area: &PlotArea) -> Markup {
    let mut room = area.width - LEGEND_FROM;
    let mut named = Vec::new();
    let shown = |line: &Line<'_>| !line.name.is_empty() && !line.points.is_empty();
    for (place, line) in panel.lines.iter().enumerate().filter(|(_, line)| shown(line)) {
        let name = text::wrap(&line.name, SMALL, 220.0, 1).concat();
        let width = STROKE + f64::from(text::width(&name, SMALL)) + 20.0;
        if width > room {
            break;
        }
        room -= width;
        named.push((place, name, width));
    }
    // The last name ends at the right edge of the panel.
    let start = area.right() + 20.0 - named.iter().map(|(.., width)| width).sum::<f64>();
    let starts =
        named.iter().scan(start, |next, (.., width)| Some(std::mem::replace(next, *next + width)));
    let y = area.top - 12.0;
    html! {
        @for (x, (place, name, _)) in starts.zip(&named) {
            line class={ "curve " (colour(*place)) } x1=(round(x)) x2=(round(x + 22.0))
                y1=(y - 4.5) y2=(y - 4.5) {}
            text.key x=(round(x + STROKE)) y=(y) { (name) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use resvg::usvg::roxmltree::{Document, Node};

    const RECALL: &str = "heldout/i2t_recall@1";

    fn metrics(losses: &[f64]) -> Metrics {
        let steps =
            |values: &mut dyn Iterator<Item = f64>| (1..).zip(values).collect::<Vec<(u64, f64)>>();
        let of_steps = [
            ("loss", steps(&mut losses.iter().copied())),
            ("lr", steps(&mut losses.iter().map(|_| 1e-3))),
        ];
        let chance = (CHANCE, vec![(1, 0.01)]);
        of_steps
            .into_iter()
            .chain([chance])
            .map(|(name, points)| (name.to_owned(), points))
            .collect()
    }

    fn with(mut metrics: Metrics, name: &str, points: &[(u64, f64)]) -> Metrics {
        metrics.insert(name.to_owned(), points.to_vec());
        metrics
    }

    type Losses<'a> = &'a [f64];
    type Scores<'a> = &'a [(u64, f64)];

    #[test]
    fn strange_runs_are_drawn_without_a_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plot.png");
        let nan = f64::NAN;
        let million: Vec<f64> = (0..1_000_000).map(|step| f64::from(step % 1000)).collect();
        let runs: [(Losses<'_>, Scores<'_>); 11] = [
            (&[], &[]),
            (&[2.5], &[]),
            (&[2.5], &[(1, 0.2)]),
            (&[nan], &[]),
            (&[3.0, nan, f64::INFINITY, 2.0, f64::NEG_INFINITY], &[(1, nan), (2, 0.1)]),
            (&[2.0, 2.0, 2.0], &[]),
            (&[0.0, 0.0], &[]),
            (&[1e300, -1e300], &[]),
            (&[1e-12, 1e-13, 1e-14], &[]),
            (&[-1e-12, 1e12], &[(u64::MAX, 1.0)]),
            (&million, &[]),
        ];
        for (losses, recalls) in runs {
            TrainingPlot::from_metrics("strange", &with(metrics(losses), RECALL, recalls))
                .write(&path)
                .unwrap();
            let (width, _) = image::image_dimensions(&path).unwrap();
            assert_eq!(width, 1100);
        }
        TrainingPlot::from_metrics(&"long name ".repeat(50), &metrics(&[1.0, 2.0]))
            .write(&path)
            .unwrap();
        TrainingPlot::from_metrics("nothing", &Metrics::new()).write(&path).unwrap();
    }

    #[test]
    fn several_runs_have_a_line_each_under_their_names() {
        let runs = ["first", "second"]
            .map(|name| (name.to_owned(), with(metrics(&[3.0, 2.0, 1.0]), RECALL, &[(3, 0.4)])));
        let svg = TrainingPlot::from_runs(&runs).svg();
        let document = Document::parse(&svg).unwrap();
        let texts = document.descendants().filter(Node::is_text);
        let texts: Vec<&str> = texts.filter_map(|node| node.text()).collect();
        for name in ["first", "second"] {
            // In the legends of loss, evaluation and learning rate.
            assert_eq!(texts.iter().filter(|text| **text == name).count(), 3, "{texts:?}");
        }
        assert!(texts.contains(&"Runs first, second"), "{texts:?}");
    }

    #[test]
    fn panel_of_evaluations_is_there_only_with_evaluations() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plot.png");
        TrainingPlot::from_metrics("run", &metrics(&[3.0, 2.0, 1.0])).write(&path).unwrap();
        let without = image::image_dimensions(&path).unwrap().1;
        TrainingPlot::from_metrics("run", &with(metrics(&[3.0, 2.0, 1.0]), RECALL, &[(3, 0.4)]))
            .write(&path)
            .unwrap();
        assert_eq!(image::image_dimensions(&path).unwrap().1, without + 244);
    }

    #[test]
    fn the_same_plot_is_written_as_svg_or_as_png_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let metrics = metrics(&[3.0, 2.0, 1.0]);
        let drawn = TrainingPlot::from_metrics("<b>&", &metrics);
        drawn.write(&folder.path().join("plot.SVG")).unwrap();
        let svg = std::fs::read_to_string(folder.path().join("plot.SVG")).unwrap();
        assert_eq!(svg, drawn.svg());
        assert!(Document::parse(&svg).is_ok() && svg.contains("Run &lt;b&gt;&amp;"), "{svg}");
        let png = folder.path().join("plot.png");
        drawn.write(&png).unwrap();
        let pixels = image::open(&png).unwrap().to_rgb8();
        // The curve has its colour, and most of the picture is paper.
        let count = |colour: [u8; 3]| pixels.pixels().filter(|pixel| pixel.0 == colour).count();
        assert!(
            count([0x00, 0x72, 0xb2]) > 500 && count([255, 255, 255]) > 300_000,
            "{}",
            count([0x00, 0x72, 0xb2])
        );
        let error = drawn.write(&folder.path().join("plot.pdf")).unwrap_err();
        assert!(matches!(error, PictureError::UnknownFormat { .. }), "{error}");
    }

    #[test]
    fn the_summary_tells_the_last_losses_and_what_is_not_finite() {
        let of = |losses: &[f64]| TrainingPlot::from_metrics("run", &metrics(losses)).summary();
        assert_eq!(of(&[]), "No steps recorded yet.");
        // A twentieth of 40 steps is two steps.
        let losses: Vec<f64> = (0..40).map(f64::from).collect();
        assert_eq!(of(&losses), "40 steps  ·  mean loss of the last 2: 38.500");
        assert_eq!(of(&[1.0, f64::NAN]), "2 steps  ·  not finite at 1 step");
    }

    #[test]
    fn terms_of_the_loss_are_curves_of_their_own_and_too_many_names_are_left_out() {
        let terms = (0..40).fold(metrics(&[3.0, 2.0]), |all, n| {
            with(all, &format!("loss/term {n:02}"), &[(1, 1.0), (2, 0.5)])
        });
        let svg = TrainingPlot::from_metrics("run", &terms).svg();
        assert!(
            svg.contains(">loss</text>")
                && svg.contains(">term 00</text>")
                && !svg.contains(">term 39</text>"),
            "{svg}"
        );
        assert_eq!(
            svg.matches("<polyline").count(),
            41 + 1,
            "all of them are drawn, and the learning rate"
        );
    }
}
