//! What every page has: the document around it, tiles of figures, the frame of a picture.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::chart::{PAGE_COLOURS, SHAPES};
use crate::pairs::PairView;

const STYLE: &str = include_str!("style.css");
/// The page runs nothing and fetches nothing, whatever a caption says.
const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";

/// A page that stands alone; `style` comes behind that of all pages.
pub(crate) fn whole(title: &str, style: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                style { (PreEscaped(STYLE)) (PreEscaped(SHAPES)) (PreEscaped(PAGE_COLOURS)) (PreEscaped(style)) }
            }
            body { (body) }
        }
    }
}

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

pub(crate) fn tile(what: &str, value: &str, more: &str) -> Markup {
    html! { div.tile { div.value { (value) } div { (what) } div.pale { (more) } } }
}
