//! Lines of text: their width, and where they break.
//!
//! The fonts are DejaVu Sans from the crate `dejavu`. Their licence is that of Bitstream Vera,
//! which is permissive, and public domain.

use std::sync::LazyLock;

use rustybuzz::{Face, UnicodeBuffer};

/// Name of the font in style sheets.
pub(super) const FAMILY: &str = "DejaVu Sans";

/// A weight and a size in pixels per em.
#[derive(Clone, Copy)]
pub(super) struct Style {
    pub(super) bold: bool,
    pub(super) size: f32,
}

impl Style {
    pub(super) const fn regular(size: f32) -> Self {
        Self { bold: false, size }
    }

    pub(super) const fn bold(size: f32) -> Self {
        Self { bold: true, size }
    }
}

static REGULAR: LazyLock<Face<'static>> = LazyLock::new(|| parsed(dejavu::sans::regular()));
static BOLD: LazyLock<Face<'static>> = LazyLock::new(|| parsed(dejavu::sans::bold()));

#[expect(
    clippy::expect_used,
    reason = "the bytes are compiled in, and every test that measures text reads them"
)]
fn parsed(bytes: &'static [u8]) -> Face<'static> {
    Face::from_slice(bytes, 0).expect("DejaVu Sans is a font")
}

/// Returns the width of a line in pixels, laid out as resvg does.
pub(super) fn width(text: &str, style: Style) -> f32 {
    let face = if style.bold { &*BOLD } else { &*REGULAR };
    let mut buffer = UnicodeBuffer::new();
    buffer.push_str(text);
    buffer.guess_segment_properties();
    let advance: i32 = rustybuzz::shape(face, &[], buffer)
        .glyph_positions()
        .iter()
        .map(|glyph| glyph.x_advance)
        .sum();
    advance as f32 * style.size / face.units_per_em() as f32
}

/// Breaks a text into lines of at most `limit` pixels, at white space or within a word that is too
/// long for a line. Text beyond `most` lines is cut, and ends in an ellipsis. Control characters
/// count as white space.
pub(super) fn wrap(text: &str, style: Style, limit: f32, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    'words: for word in
        text.split(|character: char| character.is_whitespace() || character.is_control())
    {
        if word.is_empty() {
            continue;
        }
        let joined = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
        if width(&joined, style) <= limit {
            line = joined;
            continue;
        }
        if !line.is_empty() {
            lines.push(std::mem::take(&mut line));
        }
        for character in word.chars() {
            line.push(character);
            if width(&line, style) > limit && line.chars().nth(1).is_some() {
                line.pop();
                lines.push(std::mem::replace(&mut line, character.to_string()));
            }
            // A caption may be megabytes long, so stop once all visible lines are full.
            if lines.len() > most {
                break 'words;
            }
        }
        if lines.len() > most {
            break;
        }
    }
    if !line.is_empty() {
        lines.push(line);
    }
    if lines.len() > most {
        lines.truncate(most);
        if let Some(last) = lines.last_mut() {
            while !last.is_empty() && width(&format!("{last}…"), style) > limit {
                last.pop();
            }
            *last = format!("{}…", last.trim_end());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const STYLE: Style = Style::regular(14.0);

    #[test]
    fn wrapping_keeps_all_words_and_no_line_is_too_wide() {
        let text =
            "one large red circle to the left of a small and remarkably well-behaved blue square";
        let lines = wrap(text, STYLE, 120.0, 20);
        assert!(lines.len() > 3);
        assert_eq!(lines.join(" "), text);
        assert!(lines.iter().all(|line| width(line, STYLE) <= 120.0));
    }

    #[test]
    fn too_much_text_ends_in_an_ellipsis_and_a_long_word_is_broken() {
        let lines = wrap(&"word ".repeat(100), STYLE, 100.0, 3);
        assert_eq!(lines.len(), 3);
        assert!(lines[2].ends_with('…') && width(&lines[2], STYLE) <= 100.0);
        let broken = wrap(&"x".repeat(50), STYLE, 100.0, 20);
        assert!(broken.len() > 1 && broken.concat() == "x".repeat(50));
        assert!(wrap("", STYLE, 100.0, 3).is_empty() && wrap(" \n\t", STYLE, 100.0, 3).is_empty());
    }
}
