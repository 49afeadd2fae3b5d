//! The chart engine. It turns data and axes into SVG, within a page or as a file of its own.
//!
//! Shapes name their colours only by class. A page defines the classes for light and dark
//! (`page.css`), a picture for a white background (`paper.css`).

pub(crate) mod axis;
pub(crate) mod heat_map;
pub(crate) mod histogram;
pub(crate) mod lines;
pub(crate) mod plot_area;
pub(crate) mod scatter;
pub(crate) mod tables;

use maud::{Markup, html};

pub(crate) use axis::{Axis, Scale};

/// Style of shapes, for pages and pictures.
pub(crate) const SHAPES: &str = include_str!("shapes.css");
/// Colours within a page, light and dark.
pub(crate) const PAGE_COLOURS: &str = include_str!("page.css");
/// Colours of a standalone picture, on white.
pub(crate) const PAPER_COLOURS: &str = include_str!("paper.css");

/// Number of series colours: `c0`, `c1` … in the style sheets. A chart with more series starts
/// again with the first.
///
/// Any two colours differ by at least 0.12 in Oklab. This also holds under protanopia, deuteranopia
/// and tritanopia as simulated by Machado, Oliveira and Fernandes (2009). Each has a contrast of at
/// least 3:1 with its background (WCAG 2.2, 1.4.11).
const COLOURS: usize = 6;

/// Returns the class of a series' colour.
pub(crate) fn colour(series: usize) -> String {
    format!("c{}", series % COLOURS)
}

/// A name in a legend.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Key {
    pub(crate) series: usize,
    pub(crate) shape: KeyShape,
    pub(crate) name: String,
}

/// The sign of a series in a legend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyShape {
    Line,
    Dashes,
    Box,
    Disc,
    Diamond,
}

impl KeyShape {
    fn class(self) -> &'static str {
        match self {
            Self::Line => "line",
            Self::Dashes => "dashes",
            Self::Box => "box",
            Self::Disc => "disc",
            Self::Diamond => "diamond",
        }
    }
}

/// Builds a chart of a page: title, legend, note and drawing.
pub(crate) fn figure(title: &str, keys: &[Key], note: &Markup, drawing: &Markup) -> Markup {
    html! {
        figure.chart {
            figcaption {
                b { (title) }
                @for key in keys {
                    " "
                    span.key {
                        i class={ (key.shape.class()) " " (colour(key.series)) } {} (key.name)
                    }
                }
                " " span.pale { (note) }
            }
            (drawing)
        }
    }
}

/// Builds an SVG of a page. Screen readers read its `label`.
pub(crate) fn drawing(label: &str, width: f64, height: f64, marks: &Markup) -> Markup {
    let (width, height) = (plot_area::round(width), plot_area::round(height));
    html! {
        svg viewBox={ "0 0 " (width) " " (height) } role="img" aria-label=(label) { (marks) }
    }
}

#[cfg(test)]
pub(crate) mod test {
    use resvg::usvg::roxmltree::Document;

    /// Panics if markup is not well-formed XML.
    pub(crate) fn well_formed(markup: &str) {
        if let Err(error) = Document::parse(&format!("<page>{markup}</page>")) {
            panic!("{error}: {markup}");
        }
    }

    #[test]
    fn paper_and_pages_have_a_colour_for_every_series() {
        for class in (0..super::COLOURS).map(super::colour) {
            assert!(
                [super::PAGE_COLOURS, super::PAPER_COLOURS]
                    .iter()
                    .all(|css| css.contains(&format!(".{class} {{"))),
                "{class}"
            );
        }
    }
}
