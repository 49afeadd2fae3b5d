//! Lines of text: how wide they are, where they break, which pixels they cover.
//!
//! The fonts are DejaVu Sans (licence: Bitstream Vera, which is permissive, and public domain), out of the crate `dejavu`.

use std::sync::LazyLock;

use ab_glyph::{Font, FontRef, ScaleFont, point};

/// A weight and a size in pixels per em.
#[derive(Clone, Copy)]
pub(super) struct Style {
    pub(super) bold: bool,
    pub(super) size: f32,
}

impl Style {
    pub(super) fn regular(size: f32) -> Self {
        Self { bold: false, size }
    }

    pub(super) fn bold(size: f32) -> Self {
        Self { bold: true, size }
    }
}

static REGULAR: LazyLock<FontRef<'static>> = LazyLock::new(|| parsed(dejavu::sans::regular()));
static BOLD: LazyLock<FontRef<'static>> = LazyLock::new(|| parsed(dejavu::sans::bold()));

#[expect(clippy::expect_used, reason = "the bytes are compiled in, and every test that draws text reads them")]
fn parsed(bytes: &'static [u8]) -> FontRef<'static> {
    FontRef::try_from_slice(bytes).expect("DejaVu Sans is a font")
}

/// The width of a line in pixels.
pub(super) fn width(text: &str, style: Style) -> f32 {
    lay_out(text, style, |_, _| {})
}

/// Calls `cover` with each pixel that the line touches, relative to the line's start on the baseline, and how much of it
/// (0..=1) is covered.
pub(super) fn cover(text: &str, style: Style, mut cover: impl FnMut(i32, i32, f32)) {
    let font = if style.bold { &*BOLD } else { &*REGULAR };
    lay_out(text, style, |id, x| {
        let glyph = id.with_scale_and_position(scale(font, style), point(x, 0.0));
        if let Some(outlined) = font.outline_glyph(glyph) {
            let corner = outlined.px_bounds().min;
            outlined.draw(|x, y, share| cover(corner.x as i32 + x as i32, corner.y as i32 + y as i32, share.min(1.0)));
        }
    });
}

/// Calls `place` with each glyph and where it begins; returns where the line ends.
fn lay_out(text: &str, style: Style, mut place: impl FnMut(ab_glyph::GlyphId, f32)) -> f32 {
    let font = if style.bold { &*BOLD } else { &*REGULAR };
    let scaled = font.as_scaled(scale(font, style));
    let (mut x, mut previous) = (0.0, None);
    for character in text.chars() {
        let id = font.glyph_id(character);
        if let Some(previous) = previous {
            x += scaled.kern(previous, id);
        }
        place(id, x);
        x += scaled.h_advance(id);
        previous = Some(id);
    }
    x
}

/// `ab_glyph` counts a size from the highest ascent to the lowest descent; people count it in ems.
fn scale(font: &FontRef<'_>, style: Style) -> f32 {
    style.size * font.height_unscaled() / font.units_per_em().unwrap_or(1.0)
}

/// Breaks a text at white space into lines of `limit` pixels, and within a word that is longer than that; what does not fit
/// in `most` lines is cut, with an ellipsis. Control characters count as white space.
pub(super) fn wrap(text: &str, style: Style, limit: f32, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for word in text.split(|character: char| character.is_whitespace() || character.is_control()) {
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
        }
        // A caption may be megabytes long; the lines that nobody sees need no breaking.
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

    const STYLE: Style = Style { bold: false, size: 14.0 };

    #[test]
    fn wrapping_keeps_all_words_and_no_line_is_too_wide() {
        let text = "one large red circle to the left of a small and remarkably well-behaved blue square";
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

    #[test]
    fn covered_pixels_lie_within_the_line() {
        let (mut right, mut top, mut ink) = (0, 0, 0.0);
        cover("Hamburg", STYLE, |x, y, share| {
            (right, top, ink) = (right.max(x), top.min(y), ink + share);
        });
        assert!(right as f32 <= width("Hamburg", STYLE) + 1.0 && top < -8 && ink > 50.0, "{right} {top} {ink}");
    }
}
