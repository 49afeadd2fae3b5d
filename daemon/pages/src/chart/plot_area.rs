//! The rectangle in which data is drawn, with its grid and the labels around it.

use maud::{Markup, html};

use super::axis::{Axis, Tick};

/// Width of a label's character in SVG units. Digits of system fonts are narrower.
const CHARACTER: f64 = 6.8;
/// Distance between a label and the grid.
const GAP: f64 = 6.0;

/// A rectangle in units of the SVG, and the values at its edges.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlotArea {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
}

impl PlotArea {
    pub(crate) fn right(&self) -> f64 {
        self.left + self.width
    }

    pub(crate) fn bottom(&self) -> f64 {
        self.top + self.height
    }

    /// Returns the position of a value from left to right, or `None` if the axis cannot show it.
    pub(crate) fn across(&self, value: f64) -> Option<f64> {
        Some(round(self.left + self.x.part(value)? * self.width))
    }

    /// Returns the position of a value from top to bottom, or `None` if the axis cannot show it.
    pub(crate) fn down(&self, value: f64) -> Option<f64> {
        Some(round(self.top + (1.0 - self.y.part(value)?) * self.height))
    }

    /// Draws horizontal lines at marked values, with labels on the left.
    pub(crate) fn rows(&self, ticks: &[Tick]) -> Markup {
        html! {
            @for (value, label) in ticks {
                @if let Some(y) = self.down(*value) {
                    line.gridline x1=(self.left) x2=(round(self.right())) y1=(y) y2=(y) {}
                    text.label x=(round(self.left - GAP)) y=(round(y + 4.0)) text-anchor="end" {
                        (label)
                    }
                }
            }
        }
    }

    /// Draws vertical lines at marked values.
    pub(crate) fn columns(&self, ticks: &[Tick]) -> Markup {
        html! {
            @for x in ticks.iter().filter_map(|(value, _)| self.across(*value)) {
                line.gridline x1=(x) x2=(x) y1=(self.top) y2=(round(self.bottom())) {}
            }
        }
    }

    /// Draws labels of marked values below the rectangle.
    pub(crate) fn labels_below(&self, ticks: &[Tick]) -> Markup {
        html! {
            @for (value, label) in ticks {
                @if let Some(x) = self.across(*value) {
                    text.label x=(x) y=(round(self.bottom() + 16.0)) text-anchor="middle" {
                        (label)
                    }
                }
            }
        }
    }

    /// Draws the left edge.
    pub(crate) fn side(&self) -> Markup {
        html! { line.axis x1=(self.left) x2=(self.left) y1=(self.top) y2=(round(self.bottom())) {} }
    }

    /// Draws the lower edge.
    pub(crate) fn base(&self) -> Markup {
        let y = round(self.bottom());
        html! { line.axis x1=(self.left) x2=(round(self.right())) y1=(y) y2=(y) {} }
    }
}

/// Returns the width that labels on the left take.
pub(crate) fn label_room(ticks: &[Tick]) -> f64 {
    let longest = ticks.iter().map(|(_, label)| label.chars().count()).max().unwrap_or(0);
    round(longest as f64 * CHARACTER + GAP)
}

/// Rounds to two decimals, which are enough for a picture.
pub(crate) fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chart::Scale;

    #[test]
    fn values_and_their_lines_lie_at_the_same_place() {
        let (x, y) =
            (Axis::over(Scale::Linear, [0.0, 10.0]), Axis::over(Scale::Linear, [-1.0, 1.0]));
        let area = PlotArea { left: 40.0, top: 5.0, width: 200.0, height: 100.0, x, y };
        assert_eq!(
            (area.across(2.5), area.down(-1.0), area.down(0.5)),
            (Some(90.0), Some(105.0), Some(30.0))
        );
        assert_eq!(area.across(f64::NAN), None);
        let rows = area.rows(&[(0.5, "half".into())]).into_string();
        assert!(
            rows.contains(r#"x1="40" x2="240" y1="30" y2="30""#) && rows.contains(">half<"),
            "{rows}"
        );
    }
}
