//! How far a classifier's confidence can be believed, as a picture: accuracy over confidence, and how many images are behind it.

use diptych_schemas::words::thousands;
use diptych_trainer::evaluate::Calibration;
use maud::{Markup, html};

use super::lines::{BELOW, LEFT};
use crate::chart::{percent_of, round};

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 200.0;
/// Between the diagram and the counts below it.
const GAP: f64 = 10.0;
/// Height of the counts.
const COUNTS: f64 = 36.0;

/// Each bin's accuracy as a bar and its mean confidence as a mark on the diagonal: where all is well, bars end at their marks.
pub(super) fn reliability(found: &Calibration) -> Markup {
    let width = WIDTH / found.bins.len().max(1) as f64;
    let most = found.bins.iter().map(|bin| bin.images).max().unwrap_or(0).max(1) as f64;
    let bins = found.bins.iter().enumerate().filter(|(_, bin)| bin.images > 0);
    let x = |part: f64| LEFT + part * WIDTH;
    let y = |part: f64| 4.0 + (1.0 - part) * HEIGHT;
    let floor = y(0.0) + GAP + COUNTS;
    html! {
        figure.chart {
            figcaption { b { "Reliability" } " " span.key.c0 { "right" } " " span.key.c1 { "confidence" } " "
                span.pale { "bars below their marks: surer than it may be; below, how many images" } }
            svg viewBox={ "0 0 " (x(1.0) + 4.0) " " (floor + BELOW) } role="img" aria-label="reliability diagram" {
                @for part in [0.0, 0.5, 1.0] {
                    line.axis x1=(LEFT) x2=(x(1.0)) y1=(y(part)) y2=(y(part)) {}
                    text.label x=(LEFT - 5.0) y=(y(part) + 4.0) text-anchor="end" { (100.0 * part) "%" }
                    text.label x=(x(part)) y=(floor + 14.0) text-anchor=(if part == 0.0 { "start" } else if part == 1.0 { "end" } else { "middle" }) { (100.0 * part) "%" }
                }
                line.axis x1=(x(0.0)) y1=(y(0.0)) x2=(x(1.0)) y2=(y(1.0)) {}
                @for (place, bin) in bins {
                    @let at = LEFT + place as f64 * width;
                    @let counts = (bin.images as f64 / most * COUNTS).max(1.5);
                    g {
                        rect.bar x=(round(at + 0.5)) width=(round(width - 1.0)) y=(round(y(bin.accuracy))) height=(round(y(0.0) - y(bin.accuracy))) {}
                        line.curve.c1 x1=(round(at)) x2=(round(at + width)) y1=(round(y(bin.confidence))) y2=(round(y(bin.confidence))) {}
                        rect.bar x=(round(at + 0.5)) width=(round(width - 1.0)) y=(round(floor - counts)) height=(round(counts)) {}
                        title { (percent_of(bin.accuracy)) " right at a confidence of " (percent_of(bin.confidence)) ", " (thousands(bin.images as u64)) " images" }
                    }
                }
            }
        }
    }
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
        assert!(drawn.contains(&format!(r#"y="{}" height="{}""#, 4.0 + 0.3 * HEIGHT, 0.7 * HEIGHT)), "{drawn}");
    }
}
