//! Contact sheets: images in a grid, each with its caption and, in search results, its rank and
//! score.

use std::path::Path;

use image::RgbImage;
use image::imageops::{self, FilterType};
use maud::{Markup, html};

use super::PictureError;
use super::raster::{Raster, check_size};
use super::svg::document;
use super::text::{self, Style};

/// Side in pixels of the square that an image is fitted into. All lengths here are in pixels.
const IMAGE: u32 = 168;
const PADDING: f32 = 10.0;
const CARD_WIDTH: f32 = IMAGE as f32 + 2.0 * PADDING;
const GAP: f32 = 14.0;
const MARGIN: f32 = 28.0;
const LINE: f32 = 17.0;
const MOST_LINES: usize = 4;
const CAPTION: Style = Style::regular(12.5);
const HEADING: Style = Style::bold(16.0);
const TITLE: Style = Style::bold(22.0);
const STYLE: &str = "
.paper { fill: #f3f4f7; }
.card { fill: #ffffff; stroke: #dde0e6; stroke-width: 1; }
.title { font-size: 22px; font-weight: bold; }
.heading { font-size: 16px; font-weight: bold; }
.rank { font-size: 12.5px; font-weight: bold; }
.caption { font-size: 12.5px; }
.score { font-size: 12.5px; fill: #606774; }
";

/// An image of a sheet.
#[derive(Clone, Debug, PartialEq)]
pub struct SheetItem {
    pub width: u32,
    pub height: u32,
    /// Height × width × 3.
    pub pixels: Vec<u8>,
    pub caption: String,
    /// Shown together with the item's rank.
    pub score: Option<f32>,
}

/// Writes a PNG with one section for each query: its text as a heading, and its results beneath.
///
/// # Errors
/// Returns an error if pixels do not match their size, if the picture becomes too large, or if the
/// file cannot be written.
pub fn query_sheet(
    title: &str,
    rows: &[(String, Vec<SheetItem>)],
    path: &Path,
) -> Result<(), PictureError> {
    let columns = rows.iter().map(|(_, items)| items.len()).max().unwrap_or(1).min(10);
    draw(title, rows, columns, path)
}

/// A card's position and text.
struct Card<'a> {
    left: f32,
    top: f32,
    height: f32,
    item: &'a SheetItem,
    /// Index in the list, from 0.
    rank: usize,
    caption: Vec<String>,
}

/// Lines of text, with the baseline of the first.
struct Heading {
    class: &'static str,
    baseline: f32,
    line_height: f32,
    lines: Vec<String>,
}

fn draw(
    title: &str,
    sections: &[(String, Vec<SheetItem>)],
    columns: usize,
    path: &Path,
) -> Result<(), PictureError> {
    let columns = columns.clamp(1, 100);
    let width = 2.0 * MARGIN + columns as f32 * (CARD_WIDTH + GAP) - GAP;
    let content = width - 2.0 * MARGIN;

    // Lay out everything first, then draw it, then put the images on top.
    let lines = text::wrap(title, TITLE, content, 3);
    let mut height = MARGIN + lines.len() as f32 * 28.0 + 14.0;
    let mut headings =
        vec![Heading { class: "title", baseline: MARGIN + 20.0, line_height: 28.0, lines }];
    let mut cards: Vec<Card<'_>> = Vec::new();
    for (heading, items) in sections {
        let lines = text::wrap(heading, HEADING, content, 2);
        let shown = lines.len() as f32;
        headings.push(Heading {
            class: "heading",
            baseline: height + 8.0 + 15.0,
            line_height: 21.0,
            lines,
        });
        height += 8.0 + shown * 21.0 + 8.0;
        for (row, items) in items.chunks(columns).enumerate() {
            let first = cards.len();
            for (column, item) in items.iter().enumerate() {
                let left = MARGIN + column as f32 * (CARD_WIDTH + GAP);
                let caption = text::wrap(&item.caption, CAPTION, IMAGE as f32, MOST_LINES);
                cards.push(Card {
                    left,
                    top: height,
                    height: 0.0,
                    item,
                    rank: row * columns + column,
                    caption,
                });
            }
            let row = &mut cards[first..];
            let highest = row.iter().map(card_height).fold(0.0, f32::max);
            for card in row {
                card.height = highest;
            }
            height += highest + GAP;
        }
    }
    height += MARGIN - GAP;
    check_size(width as u64, height as u64)?;

    let marks = html! {
        @for heading in &headings {
            @for (at, line) in heading.lines.iter().enumerate() {
                @let y = heading.baseline + at as f32 * heading.line_height;
                text class=(heading.class) x=(MARGIN) y=(y) { (line) }
            }
        }
        @for card in &cards { (draw_card(card)) }
    };
    let mut sheet = Raster::new(&document(width as u64, height as u64, title, STYLE, &marks))?;
    for card in &cards {
        let image = fitted(card.item, card.rank)?;
        let (beside, above) = ((IMAGE - image.width()) / 2, (IMAGE - image.height()) / 2);
        sheet.put(
            (card.left + PADDING) as u32 + beside,
            (card.top + PADDING) as u32 + above,
            &image,
        );
    }
    sheet.write(path)
}

fn card_height(card: &Card<'_>) -> f32 {
    let score = if card.item.score.is_some() { LINE } else { 0.0 };
    2.0 * PADDING + IMAGE as f32 + 6.0 + score + card.caption.len() as f32 * LINE
}

fn draw_card(card: &Card<'_>) -> Markup {
    let (left, right) = (card.left + PADDING, card.left + PADDING + IMAGE as f32);
    let baseline = card.top + PADDING + IMAGE as f32 + 6.0 + 12.0;
    let below_score = if card.item.score.is_some() { baseline + LINE } else { baseline };
    html! {
        rect.card x=(card.left - 0.5) y=(card.top - 0.5) width=(CARD_WIDTH + 1.0)
            height=(card.height + 1.0) rx="8.5" {}
        @if let Some(score) = card.item.score {
            text.rank x=(left) y=(baseline) { (card.rank + 1) }
            text.score x=(right) y=(baseline) text-anchor="end" { (format!("{score:.3}")) }
        }
        @for (at, line) in card.caption.iter().enumerate() {
            text.caption x=(left) y=(below_score + at as f32 * LINE) { (line) }
        }
    }
}

/// Scales an image to the square's size and keeps its proportions.
fn fitted(item: &SheetItem, index: usize) -> Result<RgbImage, PictureError> {
    let SheetItem { width, height, .. } = *item;
    let bad = || PictureError::BadPixels { index, width, height, bytes: item.pixels.len() };
    let wanted = 3 * u64::from(width) * u64::from(height);
    if wanted == 0 || item.pixels.len() as u64 != wanted {
        return Err(bad());
    }
    let image = RgbImage::from_raw(width, height, item.pixels.clone()).ok_or_else(bad)?;
    let scale = f64::from(IMAGE) / f64::from(width.max(height));
    let [width, height] =
        [width, height].map(|side| ((f64::from(side) * scale).round() as u32).clamp(1, IMAGE));
    Ok(imageops::resize(&image, width, height, FilterType::CatmullRom))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(width: u32, height: u32, caption: &str, score: Option<f32>) -> SheetItem {
        let pixels = (0..width * height).flat_map(|at| [at as u8, 80, 200]).collect();
        SheetItem { width, height, pixels, caption: caption.to_owned(), score }
    }

    fn size(path: &Path) -> (u32, u32) {
        image::image_dimensions(path).unwrap()
    }

    fn rows(items: &[SheetItem]) -> Vec<(String, Vec<SheetItem>)> {
        vec![("a query".to_owned(), items.to_vec())]
    }

    #[test]
    fn sheet_is_as_wide_as_its_columns_and_as_high_as_its_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sheet.png");
        let items: Vec<SheetItem> =
            (0..7).map(|_| item(40, 30, "a red circle", Some(0.5))).collect();
        draw("seven", &rows(&items), 3, &path).unwrap();
        let three_rows = size(&path);
        draw("seven", &rows(&items[..6]), 3, &path).unwrap();
        let two_rows = size(&path);
        // Margins, three cards, two gaps.
        assert_eq!(three_rows.0, 2 * 28 + 3 * 188 + 2 * 14);
        assert_eq!(two_rows.0, three_rows.0);
        // A card: paddings, image, space, line of the score, line of the caption; and a gap.
        assert_eq!(three_rows.1 - two_rows.1, 20 + 168 + 6 + 17 + 17 + 14);
    }

    #[test]
    fn odd_images_and_captions_are_drawn_and_wrong_ones_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sheet.png");
        let odd = [
            item(1, 1, "", None),
            item(1000, 1, "a caption without end ".repeat(50).as_str(), Some(f32::NAN)),
            item(2, 2, &"x".repeat(1_000_000), None),
            item(2, 2, "</text><script>alert(1)</script> & \u{ffff}\u{202e}", None),
            item(3, 500, "漢字 🙂 \u{0} \n\n\t tail", Some(-1.0)),
        ];
        draw("", &rows(&odd), 2, &path).unwrap();
        draw(&"long title ".repeat(40), &[], 0, &path).unwrap();
        query_sheet(
            "queries",
            &[("nothing found".to_owned(), vec![]), ("some".to_owned(), odd.to_vec())],
            &path,
        )
        .unwrap();
        let before = std::fs::read(&path).unwrap();
        let mut wrong = item(2, 2, "short of pixels", None);
        wrong.pixels.pop();
        let error = draw("wrong", &rows(&[odd[0].clone(), wrong]), 2, &path).unwrap_err();
        assert!(
            error.to_string().contains("image 1") && error.to_string().contains("11 bytes"),
            "{error}"
        );
        assert_eq!(
            std::fs::read(&path).unwrap(),
            before,
            "a picture that fails leaves the old one"
        );
    }

    #[test]
    fn too_many_images_are_refused_before_they_are_drawn() {
        let items = vec![item(1, 1, "x", None); 100_000];
        let error =
            draw("many", &rows(&items), 1, Path::new("/nonexistent/sheet.png")).unwrap_err();
        assert!(matches!(error, PictureError::TooLarge { .. }), "{error}");
    }
}
