//! Standalone SVG files.

use maud::{Markup, PreEscaped, html};

use crate::chart::{PAPER_COLOURS, SHAPES};

/// Builds an SVG file from its size in pixels, its title, its own style and its shapes.
pub(super) fn document(
    width: u64,
    height: u64,
    title: &str,
    style: &str,
    marks: &Markup,
) -> String {
    let document = html! {
        svg xmlns="http://www.w3.org/2000/svg" width=(width) height=(height)
            viewBox={ "0 0 " (width) " " (height) } role="img" aria-label=(title) {
            title { (title) }
            style { (PreEscaped(SHAPES)) (PreEscaped(PAPER_COLOURS)) (PreEscaped(style)) }
            rect.paper width=(width) height=(height) {}
            (marks)
        }
    };
    // XML forbids some characters even in escaped form.
    document.into_string().replace(|character| !is_xml(character), "\u{fffd}")
}

/// Whether XML 1.0 allows a character (section 2.2).
fn is_xml(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use resvg::usvg::roxmltree::Document;

    #[test]
    fn no_text_becomes_markup_and_any_text_is_well_formed() {
        let hostile =
            "</title><script>alert('x')</script> & \" ]]> <!-- \u{0} \u{1b} \u{ffff} \u{202e} 漢字";
        let drawn = document(10, 10, hostile, "", &html! { text class="label" { (hostile) } });
        let parsed = Document::parse(&drawn).unwrap();
        let shown = hostile.replace(['\u{0}', '\u{1b}', '\u{ffff}'], "\u{fffd}");
        let text = |name: &str| {
            parsed.descendants().find(|node| node.has_tag_name(name)).and_then(|node| node.text())
        };
        assert_eq!(
            (text("title"), text("text"), text("script")),
            (Some(shown.as_str()), Some(shown.as_str()), None)
        );
        assert_eq!(parsed.root_element().attribute("aria-label"), Some(shown.as_str()));
    }
}
