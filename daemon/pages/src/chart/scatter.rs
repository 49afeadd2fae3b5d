//! Scatter plots. Both axes have the same scale, so that distances can be compared.

use maud::{Markup, html};

use super::axis::{Axis, Scale};
use super::plot_area::round;
use super::{colour, drawing};
use crate::numbers::excerpt;

const SIDE: f64 = 400.0;
/// Empty margin around the points.
const MARGIN: f64 = 10.0;
const RADIUS: f64 = 2.6;
/// Most points that are drawn. From more, an even choice is drawn.
const MOST: usize = 10_000;
/// Most characters of a point's name in a tooltip.
const TOOLTIP_CHARACTERS: usize = 160;

/// A point and its name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point<'a> {
    pub(crate) at: (f32, f32),
    /// 0 is drawn as a disc, any other as a diamond.
    pub(crate) series: usize,
    pub(crate) name: &'a str,
}

/// Draws all points with finite coordinates.
pub(crate) fn scatter(label: &str, points: &[Point<'_>]) -> Markup {
    let finite = |point: &&Point<'_>| point.at.0.is_finite() && point.at.1.is_finite();
    let points: Vec<&Point<'_>> =
        points.iter().step_by(points.len().div_ceil(MOST).max(1)).filter(finite).collect();
    let [x, y] = [|at: (f32, f32)| at.0, |at: (f32, f32)| at.1]
        .map(|of| Axis::over(Scale::Linear, points.iter().map(|point| f64::from(of(point.at)))));
    let widest = (x.value(1.0) - x.value(0.0)).max(y.value(1.0) - y.value(0.0));
    let place = |value: f32, axis: &Axis| {
        let middle = f64::midpoint(axis.value(0.0), axis.value(1.0));
        round(SIDE / 2.0 + (f64::from(value) - middle) / widest * (SIDE - 2.0 * MARGIN))
    };
    let shapes = html! {
        @for point in points {
            @let (x, y) = (place(point.at.0, &x), SIDE - place(point.at.1, &y));
            @let class = format!("point {}", colour(point.series));
            @let name = excerpt(point.name, TOOLTIP_CHARACTERS);
            @if point.series == 0 {
                circle class=(class) cx=(x) cy=(round(y)) r=(RADIUS) { title { (name) } }
            } @else {
                path class=(class) d={ "M" (x) " " (round(y - 3.4)) "l3.4 3.4-3.4 3.4-3.4-3.4z" } {
                    title { (name) }
                }
            }
        }
    };
    drawing(label, SIDE, SIDE, &shapes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::test::well_formed;

    fn point(x: f32, y: f32) -> Point<'static> {
        Point { at: (x, y), series: 0, name: "a < b & \"c\"" }
    }

    #[test]
    fn both_axes_have_the_scale_of_the_wider_one() {
        let drawn = scatter("map", &[point(0.0, 0.0), point(4.0, 2.0)]).into_string();
        // 380 units for 4: the two points are 190 units apart from top to bottom, and larger values
        // lie higher.
        assert!(
            drawn.contains(r#"cx="10" cy="295""#) && drawn.contains(r#"cx="390" cy="105""#),
            "{drawn}"
        );
    }

    #[test]
    fn strange_points_are_left_out_and_too_many_are_thinned() {
        let strange =
            [point(f32::NAN, 1.0), point(1.0, f32::INFINITY), point(1e30, -1e30), point(3.0, 3.0)];
        for points in [&strange[..], &strange[..1], &strange[3..], &[]] {
            let drawn = scatter("map", points).into_string();
            well_formed(&drawn);
            assert!(!drawn.contains("NaN") && !drawn.contains("inf\""), "{drawn}");
        }
        let many: Vec<Point<'_>> =
            (0..1_000_000).map(|n| point((n % 1000) as f32, (n / 1000) as f32)).collect();
        assert_eq!(scatter("map", &many).into_string().matches("<circle").count(), MOST);
    }
}
