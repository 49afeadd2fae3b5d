//! Heat maps: a matrix drawn as shades.

use maud::{Markup, html};

use super::axis::{Axis, Scale};
use super::plot_area::round;
use super::{colour, drawing};
use crate::numbers::excerpt;

const CELL: f64 = 12.0;
/// Most characters of a name in a tooltip.
const TOOLTIP_CHARACTERS: usize = 120;

/// A square matrix whose rows and columns have the same names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeatMap<'a> {
    pub(crate) names: &'a [String],
    /// Row by row.
    pub(crate) values: &'a [f32],
}

impl HeatMap<'_> {
    fn axis(&self) -> Axis {
        Axis::over(Scale::Linear, self.values.iter().map(|value| f64::from(*value)))
    }

    /// Draws the highest value in full colour and the lowest as the background. A value that is not
    /// finite has no cell.
    pub(crate) fn draw(&self, label: &str) -> Markup {
        let (n, axis) = (self.names.len(), self.axis());
        let names: Vec<String> =
            self.names.iter().map(|name| excerpt(name, TOOLTIP_CHARACTERS)).collect();
        let cells = self
            .values
            .iter()
            .enumerate()
            .filter_map(|(place, value)| Some((place, value, axis.part(f64::from(*value))?)));
        let shapes = html! {
            @for (place, value, shade) in cells.filter(|(place, ..)| *place < n * n) {
                @let (row, column) = (place / n, place % n);
                rect class={ "cell " (colour(0)) } x=(column as f64 * CELL) y=(row as f64 * CELL)
                    width=(CELL - 0.5) height=(CELL - 0.5) fill-opacity=(round(shade)) {
                    title { (names[row]) " / " (names[column]) ": " (format!("{value:.3}")) }
                }
            }
        };
        drawing(label, n as f64 * CELL, n as f64 * CELL, &shapes)
    }

    /// Builds the legend of the shades, from the lowest to the highest value.
    pub(crate) fn legend(&self) -> Markup {
        let axis = self.axis();
        html! {
            span.key {
                (format!("{:.2}", axis.value(0.0)))
                i class={ "shades " (colour(0)) } {}
                (format!("{:.2}", axis.value(1.0)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::test::well_formed;

    #[test]
    fn shades_go_from_the_lowest_value_to_the_highest() {
        let names = ["a".to_owned(), "<b>".to_owned()];
        let map = HeatMap { names: &names, values: &[0.2, f32::NAN, 0.4, 0.6] };
        let drawn = map.draw("cosines").into_string();
        well_formed(&drawn);
        assert_eq!(drawn.matches("<rect").count(), 3, "a value that is no number has no cell");
        assert!(drawn.contains(r#"fill-opacity="0.5"><title>&lt;b&gt; / a: 0.400"#), "{drawn}");
        assert!(
            map.legend().into_string().contains("0.20")
                && map.legend().into_string().contains("0.60")
        );
        well_formed(&HeatMap { names: &[], values: &[] }.draw("nothing").into_string());
        well_formed(&HeatMap { names: &names[..1], values: &[0.5] }.draw("one").into_string());
    }
}
