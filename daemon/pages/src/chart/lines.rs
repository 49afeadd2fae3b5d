//! Curves over steps as SVG within a page.

use maud::{Markup, html};

use crate::chart::{percent_of, range, round, short};

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 150.0;
/// Room for the numbers at the left and below.
pub(super) const LEFT: f64 = 38.0;
pub(super) const BELOW: f64 = 18.0;
/// Points of a curve: more than the chart has pixels are not seen.
const POINTS: usize = 300;

/// A curve with its name; its place in the list is its colour.
pub(super) struct Curve<'a> {
    pub(super) name: String,
    pub(super) points: &'a [(u64, f64)],
}

/// How numbers are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Plain,
    Percent,
}

/// The mean of as many steps a point as there are too many of.
fn thinned(points: &[(u64, f64)]) -> Vec<(f64, f64)> {
    let finite: Vec<(f64, f64)> =
        points.iter().filter(|(_, value)| value.is_finite()).map(|(step, value)| (*step as f64, *value)).collect();
    let every = finite.len().div_ceil(POINTS).max(1);
    let mean = |part: &[(f64, f64)]| {
        let of = |get: fn(&(f64, f64)) -> f64| part.iter().map(get).sum::<f64>() / part.len() as f64;
        (of(|point| point.0), of(|point| point.1))
    };
    finite.chunks(every).map(mean).collect()
}

/// A chart of some curves; nothing where none of them has a point.
pub(super) fn chart(title: &str, unit: Unit, curves: &[Curve<'_>]) -> Markup {
    let drawn: Vec<(&str, Vec<(f64, f64)>)> = curves.iter().map(|curve| (curve.name.as_str(), thinned(curve.points))).collect();
    let all = || drawn.iter().flat_map(|(_, points)| points);
    if all().next().is_none() {
        return html! {};
    }
    let (first, last) = range(all().map(|point| point.0));
    let (low, high) = range(all().map(|point| point.1));
    let (low, high) = if high > low { (low, high) } else { (low - 0.5, high + 0.5) };
    let x = |step: f64| LEFT + if last > first { (step - first) / (last - first) } else { 0.5 } * (WIDTH - LEFT);
    let y = |value: f64| (1.0 - (value - low) / (high - low)) * (HEIGHT - 8.0) + 4.0;
    let said = |value: f64| if unit == Unit::Percent { percent_of(value) } else { short(value) };
    html! {
        figure.chart {
            figcaption {
                b { (title) }
                @for (place, (name, points)) in drawn.iter().enumerate() {
                    @if let Some((_, value)) = points.last() { " " span class={ "key c" (place) } { (name) " " (said(*value)) } }
                }
            }
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT + BELOW) } role="img" aria-label=(title) {
                @for part in [0.0, 0.5, 1.0] {
                    @let value = low + part * (high - low);
                    line.axis x1=(LEFT) x2=(WIDTH) y1=(round(y(value))) y2=(round(y(value))) {}
                    text.label x=(LEFT - 5.0) y=(round(y(value) + 4.0)) text-anchor="end" { (said(value)) }
                }
                @for (place, (name, points)) in drawn.iter().enumerate() {
                    @if let [(step, value)] = points[..] {
                        circle class={ "dot c" (place) } cx=(round(x(step))) cy=(round(y(value))) r="3" { title { (name) ": " (said(value)) } }
                    } @else {
                        polyline class={ "curve c" (place) } points=(points.iter().map(|(step, value)| format!("{},{}", round(x(*step)), round(y(*value)))).collect::<Vec<_>>().join(" ")) {
                            title { (name) }
                        }
                    }
                }
                text.label x=(LEFT) y=(HEIGHT + 14.0) { "step " (short(first)) }
                text.label x=(WIDTH) y=(HEIGHT + 14.0) text-anchor="end" { (short(last)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_curves_are_means_and_what_is_no_number_is_left_out() {
        let long: Vec<(u64, f64)> = (0..3000).map(|step| (step, step as f64)).collect();
        let points = thinned(&long);
        assert_eq!((points.len(), points[0]), (POINTS, (4.5, 4.5)));
        assert_eq!(thinned(&[(1, f64::NAN), (2, 3.0)]), [(2.0, 3.0)]);
        let drawn =
            chart("loss", Unit::Plain, &[Curve { name: "a".into(), points: &long }, Curve { name: "b".into(), points: &[] }]);
        let drawn = drawn.into_string();
        assert_eq!(drawn.matches("<polyline").count(), 2, "an empty curve keeps the colours of those after it");
        assert!(chart("nothing", Unit::Plain, &[]).into_string().is_empty());
    }
}
