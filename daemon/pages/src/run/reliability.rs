//! The reliability diagram of a classifier: accuracy over confidence, and the number of images
//! behind it.

use diptych_schemas::words::thousands;
use diptych_trainer::evaluate::Calibration;
use maud::{Markup, html};

use crate::chart::axis::Tick;
use crate::chart::plot_area::{PlotArea, label_room, round};
use crate::chart::{Axis, Key, KeyShape, Scale, colour, drawing, figure};
use crate::numbers::percent_of;

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 200.0;
/// Room above and on the right: half a label.
const ABOVE: f64 = 4.0;
const RIGHT: f64 = 18.0;
/// Distance between the diagram and the counts below it.
const GAP: f64 = 10.0;
/// Height of the counts, and of the labels below them.
const COUNTS: f64 = 36.0;
const BELOW: f64 = 22.0;

/// Draws each bin's accuracy as a bar and its mean confidence as a mark on the diagonal. In a
/// calibrated classifier, bars end at their marks.
pub(super) fn reliability(found: &Calibration) -> Markup {
    let part = Axis::over(Scale::Linear, [0.0, 1.0]);
    let ticks: Vec<Tick> =
        [0.0, 0.5, 1.0].map(|part| (part, format!("{}%", 100.0 * part))).to_vec();
    let area = PlotArea {
        left: label_room(&ticks),
        top: ABOVE,
        width: WIDTH,
        height: HEIGHT,
        x: part,
        y: part,
    };
    let floor = area.bottom() + GAP + COUNTS;
    let width = WIDTH / found.bins.len().max(1) as f64;
    let most = found.bins.iter().map(|bin| bin.images).max().unwrap_or(0).max(1) as f64;
    let bins = found.bins.iter().enumerate().filter(|(_, bin)| bin.images > 0);
    // The labels of the diagram's axis stand below the counts.
    let below = PlotArea { height: floor - area.top, ..area };
    let shapes = html! {
        (area.rows(&ticks))
        line.axis x1=(area.left) y1=(area.bottom()) x2=(area.right()) y2=(area.top) {}
        @for (place, bin) in bins {
            @let at = area.left + place as f64 * width;
            @let counts = (bin.images as f64 / most * COUNTS).max(1.5);
            @let accuracy = area.down(bin.accuracy).unwrap_or(area.bottom());
            @let confidence = area.down(bin.confidence).unwrap_or(area.bottom());
            @let (x, bar) = (round(at + 0.5), round(width - 1.0));
            g {
                rect class={ "bar " (colour(0)) } x=(x) width=(bar) y=(accuracy)
                    height=(round(area.bottom() - accuracy)) {}
                line class={ "curve " (colour(1)) } x1=(round(at)) x2=(round(at + width))
                    y1=(confidence) y2=(confidence) {}
                rect class={ "bar " (colour(5)) } x=(x) width=(bar) y=(round(floor - counts))
                    height=(round(counts)) {}
                title {
                    (percent_of(bin.accuracy)) " right at a confidence of "
                    (percent_of(bin.confidence)) ", " (thousands(bin.images as u64)) " images"
                }
            }
        }
        (below.base())
        (below.labels_below(&ticks))
    };
    let keys = [
        (0, KeyShape::Box, "right"),
        (1, KeyShape::Line, "confidence"),
        (5, KeyShape::Box, "images"),
    ]
    .map(|(series, shape, name)| Key { series, shape, name: name.to_owned() });
    let note = html! { "bars below their marks: too confident; bottom row: number of images" };
    let (width, height) = (area.right() + RIGHT, floor + BELOW);
    figure(
        "Reliability",
        &keys,
        &note,
        &drawing("reliability diagram: accuracy over confidence", width, height, &shapes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use diptych_trainer::evaluate::calibration;

    #[test]
    fn bars_are_accuracies_and_bins_without_images_have_none() {
        // Ten at 0.9, of which seven are right, and two at 0.2 that are wrong.
        let confidence = [[0.9; 10].to_vec(), [0.2; 2].to_vec()].concat();
        let right: Vec<bool> = (0..12).map(|n| n < 7).collect();
        let drawn = reliability(&calibration(&confidence, &right, 10)).into_string();
        assert_eq!(drawn.matches("<g>").count(), 2);
        assert!(drawn.contains("70% right at a confidence of 90%, 10 images"), "{drawn}");
        assert!(drawn.contains("0.0% right at a confidence of 20%, 2 images"), "{drawn}");
        assert!(
            drawn.contains(&format!(r#"y="{}" height="{}""#, ABOVE + 0.3 * HEIGHT, 0.7 * HEIGHT)),
            "{drawn}"
        );
    }
}
