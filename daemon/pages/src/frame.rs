//! The parts that all pages share: the HTML document, tiles with figures, and picture frames.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::chart::{PAGE_COLOURS, SHAPES};
use crate::pairs::PairView;

const STYLE: &str = include_str!("style.css");
/// Content security policy: the page runs and fetches nothing, whatever a caption contains.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";

/// Builds a standalone page. `style` follows the style sheet of all pages.
pub(crate) fn document(title: &str, style: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style {
                    (PreEscaped(STYLE)) (PreEscaped(SHAPES)) (PreEscaped(PAGE_COLOURS))
                    (PreEscaped(style))
                }
            }
            body { (body) }
        }
    }
}

/// Builds a picture in a frame, or the reason why it is missing.
pub(crate) fn frame(shown: &PairView) -> Markup {
    html! {
        div.frame {
            @match &shown.thumbnail {
                Ok(url) => img src=(url) alt=(shown.caption) loading="lazy";,
                Err(reason) => span.broken { (reason) },
            }
        }
    }
}

/// Builds a tile with a figure, its name and a remark.
pub(crate) fn tile(what: &str, value: &str, more: &str) -> Markup {
    html! { div.tile { div.value { (value) } div { (what) } div.pale { (more) } } }
}
