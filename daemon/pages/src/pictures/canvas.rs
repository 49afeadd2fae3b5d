//! A canvas: anti-aliased lines, boxes, pictures and text on one colour, and the PNG that they become.

use std::path::Path;

use diptych_schemas::durable;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use tiny_skia::{Color, FillRule, LineJoin, Paint, PathBuilder, Pixmap, PremultipliedColorU8, Stroke, StrokeDash, Transform};

use super::PictureError;
use super::text::{self, Style};

/// Most pixels of a picture: 256 MB while it is drawn.
const MOST_PIXELS: u64 = 64_000_000;

pub(super) type Rgb = [u8; 3];

/// Where a text's given point is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Middle,
    Right,
}

pub(super) struct Canvas {
    pixels: Pixmap,
}

impl Canvas {
    pub(super) fn new(width: u64, height: u64, background: Rgb) -> Result<Self, PictureError> {
        let too_large = || PictureError::TooLarge { width, height, limit: MOST_PIXELS };
        if width.saturating_mul(height) > MOST_PIXELS {
            return Err(too_large());
        }
        let mut pixels = Pixmap::new(width as u32, height as u32).ok_or_else(too_large)?;
        pixels.fill(colour(background, 1.0));
        Ok(Self { pixels })
    }

    pub(super) fn size(&self) -> (u32, u32) {
        (self.pixels.width(), self.pixels.height())
    }

    /// A box with round corners, filled.
    pub(super) fn card(&mut self, x: f32, y: f32, width: f32, height: f32, radius: f32, fill: Rgb) {
        let (right, bottom) = (x + width, y + height);
        let mut path = PathBuilder::new();
        path.move_to(x + radius, y);
        path.line_to(right - radius, y);
        path.quad_to(right, y, right, y + radius);
        path.line_to(right, bottom - radius);
        path.quad_to(right, bottom, right - radius, bottom);
        path.line_to(x + radius, bottom);
        path.quad_to(x, bottom, x, bottom - radius);
        path.line_to(x, y + radius);
        path.quad_to(x, y, x + radius, y);
        path.close();
        if let Some(path) = path.finish() {
            self.pixels.fill_path(&path, &paint(fill, 1.0), FillRule::Winding, Transform::identity(), None);
        }
    }

    /// A line through all points; a single point is a dot.
    pub(super) fn line(&mut self, points: &[(f32, f32)], width: f32, stroke: Rgb, alpha: f32, dashed: bool) {
        let mut path = PathBuilder::new();
        match points {
            [] => return,
            [(x, y)] => {
                path.push_circle(*x, *y, width.max(1.5));
                if let Some(path) = path.finish() {
                    self.pixels.fill_path(&path, &paint(stroke, alpha), FillRule::Winding, Transform::identity(), None);
                }
                return;
            }
            [(x, y), rest @ ..] => {
                path.move_to(*x, *y);
                for (x, y) in rest {
                    path.line_to(*x, *y);
                }
            }
        }
        let dash = if dashed { StrokeDash::new(vec![5.0, 5.0], 0.0) } else { None };
        let pen = Stroke { width, dash, line_join: LineJoin::Round, ..Stroke::default() };
        if let Some(path) = path.finish() {
            self.pixels.stroke_path(&path, &paint(stroke, alpha), &pen, Transform::identity(), None);
        }
    }

    /// A picture, `width` × `height` × 3, with its upper left corner at (x, y); what lies outside is cut.
    pub(super) fn picture(&mut self, x: u32, y: u32, width: u32, rgb: &[u8]) {
        let (across, down) = self.size();
        let target = self.pixels.pixels_mut();
        for (at, pixel) in rgb.chunks_exact(3).enumerate() {
            let (to_x, to_y) = (x + at as u32 % width, y + at as u32 / width);
            if to_x < across && to_y < down {
                target[(to_y * across + to_x) as usize] = opaque([pixel[0], pixel[1], pixel[2]]);
            }
        }
    }

    /// A line of text whose baseline is at y.
    pub(super) fn text(&mut self, text: &str, style: Style, (x, y): (f32, f32), align: Align, ink: Rgb) {
        let left = match align {
            Align::Left => x,
            Align::Middle => x - text::width(text, style) / 2.0,
            Align::Right => x - text::width(text, style),
        };
        let (left, baseline) = (left.round() as i32, y.round() as i32);
        let (across, down) = self.size();
        let target = self.pixels.pixels_mut();
        text::cover(text, style, |x, y, share| {
            let (x, y) = (left + x, baseline + y);
            if (0..across as i32).contains(&x) && (0..down as i32).contains(&y) {
                let pixel = &mut target[y as usize * across as usize + x as usize];
                let under = [pixel.red(), pixel.green(), pixel.blue()];
                let mixed = [0, 1, 2].map(|channel| {
                    let (ink, under) = (f32::from(ink[channel]), f32::from(under[channel]));
                    (under + (ink - under) * share).round() as u8
                });
                *pixel = opaque(mixed);
            }
        });
    }

    /// Writes the canvas as a PNG, whole or not at all.
    pub(super) fn write(&self, path: &Path) -> Result<(), PictureError> {
        let rgb: Vec<u8> = self.pixels.pixels().iter().flat_map(|pixel| [pixel.red(), pixel.green(), pixel.blue()]).collect();
        let (width, height) = self.size();
        let mut bytes = Vec::new();
        PngEncoder::new(&mut bytes)
            .write_image(&rgb, width, height, ExtendedColorType::Rgb8)
            .map_err(|source| PictureError::Encode { path: path.to_owned(), source })?;
        Ok(durable::write(path, &bytes)?)
    }
}

fn colour([red, green, blue]: Rgb, alpha: f32) -> Color {
    let mut colour = Color::from_rgba8(red, green, blue, 255);
    colour.set_alpha(alpha);
    colour
}

fn paint(fill: Rgb, alpha: f32) -> Paint<'static> {
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color(colour(fill, alpha));
    paint
}

fn opaque([red, green, blue]: Rgb) -> PremultipliedColorU8 {
    // No channel is above an alpha of 255, which is all that is asked.
    PremultipliedColorU8::from_rgba(red, green, blue, 255).unwrap_or(PremultipliedColorU8::TRANSPARENT)
}
