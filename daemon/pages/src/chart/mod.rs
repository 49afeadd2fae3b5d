//! The one chart engine: data and axes become SVG, within a page or as a file of its own.
//!
//! Charts name their colours by class only. A page brings them in light and dark (`page.css`), a picture for paper (`paper.css`).

pub(crate) mod axis;
pub(crate) mod heat_map;
pub(crate) mod histogram;
pub(crate) mod lines;
pub(crate) mod plot_area;
pub(crate) mod scatter;
pub(crate) mod tables;

use maud::{Markup, html};

pub(crate) use axis::{Axis, Scale};

/// What both pages and pictures say about shapes.
pub(crate) const SHAPES: &str = include_str!("shapes.css");
/// Colours within a page, light and dark.
pub(crate) const PAGE_COLOURS: &str = include_str!("page.css");
/// Colours of a picture of its own, on white.
pub(crate) const PAPER_COLOURS: &str = include_str!("paper.css");

/// Colours of series: `c0`, `c1` … in the style sheets. They come round again after the last one.
///
/// Searched so that any two differ, also under protanopia, deuteranopia and tritanopia (as simulated by Machado, Oliveira and
/// Fernandes 2009), by at least 0.12 in Oklab, and each contrasts with its background at least 3 to 1 (WCAG 2.2, 1.4.11).
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

/// How a series is drawn, in small.
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

/// A chart within a page: its title, its legend, a note, and the drawing.
pub(crate) fn figure(title: &str, keys: &[Key], note: &Markup, drawing: &Markup) -> Markup {
    html! {
        figure.chart {
            figcaption {
                b { (title) }
                @for key in keys { " " span.key { i class={ (key.shape.class()) " " (colour(key.series)) } {} (key.name) } }
                " " span.pale { (note) }
            }
            (drawing)
        }
    }
}

/// An SVG within a page. It is one picture to those who do not see it, told by `label`.
pub(crate) fn drawing(label: &str, width: f64, height: f64, marks: &Markup) -> Markup {
    html! {
        svg viewBox={ "0 0 " (plot_area::round(width)) " " (plot_area::round(height)) } role="img" aria-label=(label) { (marks) }
    }
}

#[cfg(test)]
pub(crate) mod test {
    use resvg::usvg::roxmltree::Document;

    /// Fails where markup is not well-formed XML.
    pub(crate) fn well_formed(markup: &str) {
        if let Err(error) = Document::parse(&format!("<page>{markup}</page>")) {
            panic!("{error}: {markup}");
        }
    }

    #[test]
    fn paper_and_pages_have_a_colour_for_every_series() {
        for class in (0..super::COLOURS).map(super::colour) {
            assert!(
                [super::PAGE_COLOURS, super::PAPER_COLOURS].iter().all(|css| css.contains(&format!(".{class} {{"))),
                "{class}"
            );
        }
    }
}
