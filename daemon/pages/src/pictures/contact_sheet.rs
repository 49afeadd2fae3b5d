//! Contact sheets: images in a grid, each with its caption and, where it was searched for, its rank and score.

use std::path::Path;

use image::RgbImage;
use image::imageops::{self, FilterType};

use super::PictureError;
use super::canvas::{Align, Canvas, Rgb};
use super::text::{self, Style};

const BACKGROUND: Rgb = [243, 244, 247];
const CARD: Rgb = [255, 255, 255];
const EDGE: Rgb = [221, 224, 230];
const INK: Rgb = [28, 32, 40];
const PALE_INK: Rgb = [112, 119, 132];

/// Side of the square that an image is fitted into, in pixels, like all lengths here.
const IMAGE: u32 = 168;
const PADDING: f32 = 10.0;
const CARD_WIDTH: f32 = IMAGE as f32 + 2.0 * PADDING;
const GAP: f32 = 14.0;
const MARGIN: f32 = 28.0;
const LINE: f32 = 17.0;
const MOST_LINES: usize = 4;
const CAPTION: Style = Style { bold: false, size: 12.5 };
const HEADING: Style = Style { bold: true, size: 16.0 };
const TITLE: Style = Style { bold: true, size: 22.0 };

/// One image of a sheet.
#[derive(Clone, Debug, PartialEq)]
pub struct SheetItem {
    pub width: u32,
    pub height: u32,
    /// Height × width × 3.
    pub pixels: Vec<u8>,
    pub caption: String,
    /// Shown with the item's rank, where there is one.
    pub score: Option<f32>,
}

/// Writes a PNG of all items, `columns` in a row.
///
/// # Errors
/// Pixels that do not fit their size, more images than a picture can hold, a file that cannot be written.
pub fn contact_sheet(title: &str, items: &[SheetItem], columns: usize, path: &Path) -> Result<(), PictureError> {
    draw(title, &[(None, items)], columns, path)
}

/// Writes a PNG with a heading for each row's title and its items beneath: the answers to several queries.
///
/// # Errors
/// As [`contact_sheet`].
pub fn query_sheet(title: &str, rows: &[(String, Vec<SheetItem>)], path: &Path) -> Result<(), PictureError> {
    let sections: Vec<(Option<&str>, &[SheetItem])> =
        rows.iter().map(|(heading, items)| (Some(heading.as_str()), items.as_slice())).collect();
    let columns = rows.iter().map(|(_, items)| items.len()).max().unwrap_or(1).min(10);
    draw(title, &sections, columns, path)
}

fn draw(title: &str, sections: &[(Option<&str>, &[SheetItem])], columns: usize, path: &Path) -> Result<(), PictureError> {
    let columns = columns.clamp(1, 100);
    let width = 2.0 * MARGIN + columns as f32 * (CARD_WIDTH + GAP) - GAP;
    let content = width - 2.0 * MARGIN;
    let title = text::wrap(title, TITLE, content, 3);

    // First the heights of all rows, then the canvas, then the drawing.
    let mut height = MARGIN + title.len() as f32 * 28.0 + 14.0;
    let mut rows: Vec<(f32, f32, &[SheetItem], usize)> = Vec::new();
    let mut headings: Vec<(f32, Vec<String>)> = Vec::new();
    for (heading, items) in sections {
        if let Some(heading) = heading {
            let lines = text::wrap(heading, HEADING, content, 2);
            height += 8.0;
            headings.push((height, lines.clone()));
            height += lines.len() as f32 * 21.0 + 8.0;
        }
        for (row, items) in items.chunks(columns).enumerate() {
            let card = items.iter().map(card_height).fold(0.0, f32::max);
            rows.push((height, card, items, row * columns));
            height += card + GAP;
        }
    }
    height += MARGIN - GAP;

    let mut canvas = Canvas::new(width as u64, height as u64, BACKGROUND)?;
    for (at, line) in title.iter().enumerate() {
        let baseline = MARGIN + 20.0 + at as f32 * 28.0;
        canvas.text(line, TITLE, (MARGIN, baseline), Align::Left, INK);
    }
    for (top, lines) in &headings {
        for (at, line) in lines.iter().enumerate() {
            canvas.text(line, HEADING, (MARGIN, top + 15.0 + at as f32 * 21.0), Align::Left, INK);
        }
    }
    for (top, height, items, first) in rows {
        for (column, item) in items.iter().enumerate() {
            let left = MARGIN + column as f32 * (CARD_WIDTH + GAP);
            draw_card(&mut canvas, item, first + column, (left, top), height)?;
        }
    }
    canvas.write(path)
}

fn card_height(item: &SheetItem) -> f32 {
    let lines = text::wrap(&item.caption, CAPTION, IMAGE as f32, MOST_LINES).len();
    let score = if item.score.is_some() { LINE } else { 0.0 };
    2.0 * PADDING + IMAGE as f32 + 6.0 + score + lines as f32 * LINE
}

fn draw_card(
    canvas: &mut Canvas,
    item: &SheetItem,
    index: usize,
    (left, top): (f32, f32),
    height: f32,
) -> Result<(), PictureError> {
    canvas.card(left - 1.0, top - 1.0, CARD_WIDTH + 2.0, height + 2.0, 9.0, EDGE);
    canvas.card(left, top, CARD_WIDTH, height, 8.0, CARD);
    let (x, y) = (left + PADDING, top + PADDING);
    let picture = fitted(item, index)?;
    let (beside, above) = ((IMAGE - picture.width()) / 2, (IMAGE - picture.height()) / 2);
    canvas.picture(x as u32 + beside, y as u32 + above, picture.width(), picture.as_raw());

    let mut baseline = y + IMAGE as f32 + 6.0 + 12.0;
    if let Some(score) = item.score {
        canvas.text(&format!("{}", index + 1), Style::bold(12.5), (x, baseline), Align::Left, INK);
        let right = x + IMAGE as f32;
        canvas.text(&format!("{score:.3}"), CAPTION, (right, baseline), Align::Right, PALE_INK);
        baseline += LINE;
    }
    for line in text::wrap(&item.caption, CAPTION, IMAGE as f32, MOST_LINES) {
        canvas.text(&line, CAPTION, (x, baseline), Align::Left, INK);
        baseline += LINE;
    }
    Ok(())
}

/// The image with its longer edge as long as the square's, its proportions kept.
fn fitted(item: &SheetItem, index: usize) -> Result<RgbImage, PictureError> {
    let SheetItem { width, height, .. } = *item;
    let bad = || PictureError::BadPixels { index, width, height, bytes: item.pixels.len() };
    let wanted = 3 * u64::from(width) * u64::from(height);
    if wanted == 0 || item.pixels.len() as u64 != wanted {
        return Err(bad());
    }
    let image = RgbImage::from_raw(width, height, item.pixels.clone()).ok_or_else(bad)?;
    let scale = f64::from(IMAGE) / f64::from(width.max(height));
    let [width, height] = [width, height].map(|side| ((f64::from(side) * scale).round() as u32).clamp(1, IMAGE));
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

    #[test]
    fn sheet_is_as_wide_as_its_columns_and_as_high_as_its_rows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sheet.png");
        let items: Vec<SheetItem> = (0..7).map(|_| item(40, 30, "a red circle", Some(0.5))).collect();
        contact_sheet("seven", &items, 3, &path).unwrap();
        let three_rows = size(&path);
        contact_sheet("seven", &items[..6], 3, &path).unwrap();
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
            item(3, 500, "漢字 🙂 \u{0} \n\n\t tail", Some(-1.0)),
        ];
        contact_sheet("", &odd, 2, &path).unwrap();
        contact_sheet(&"long title ".repeat(40), &[], 0, &path).unwrap();
        query_sheet("queries", &[("nothing found".to_owned(), vec![]), ("some".to_owned(), odd.to_vec())], &path).unwrap();
        let before = std::fs::read(&path).unwrap();
        let mut wrong = item(2, 2, "short of pixels", None);
        wrong.pixels.pop();
        let error = contact_sheet("wrong", &[odd[0].clone(), wrong], 2, &path).unwrap_err();
        assert!(error.to_string().contains("image 1") && error.to_string().contains("11 bytes"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before, "a picture that fails leaves the old one");
    }

    #[test]
    fn too_many_images_are_refused_before_they_are_drawn() {
        let items = vec![item(1, 1, "x", None); 100_000];
        let error = contact_sheet("many", &items, 1, Path::new("/nonexistent/sheet.png")).unwrap_err();
        assert!(matches!(error, PictureError::TooLarge { .. }), "{error}");
    }
}
