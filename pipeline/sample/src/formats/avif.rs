//! AVIF: a picture, or a grid of them, coded as frames of AV1 video, with transparency as a second
//! one.

use image::metadata::Orientation;
use re_rav1d::dav1d::pixel::YUVRange;
use re_rav1d::dav1d::{Decoder, Picture, PixelLayout, PlanarImageComponent as Component, Settings};

use super::avif_boxes::{Grid, Items};
use super::yuv::{Levels, Matrix, rgb_of_yuv};
use super::{Stored, StoredSize, corrupt_header, corrupt_pixels, unsupported_kind};
use crate::limits::check_size;
use crate::samples::{rgb, without_premultiplication};
use crate::{ImageError, RgbImage};

pub(crate) fn size(bytes: &[u8], max_pixels: u64) -> StoredSize {
    open(bytes, max_pixels).map(|avif| (avif.width, avif.height, avif.orientation))
}

pub(crate) fn decode(bytes: &[u8], max_pixels: u64) -> Stored {
    let avif = open(bytes, max_pixels)?;
    let colours = avif.items.colours(avif.items.primary);
    let of_colours = |picture: &Picture| {
        let matrix = colours.as_ref().map_or_else(|| matrix_of(picture), |nclx| nclx.matrix);
        let matrix = Matrix::of_number(matrix)
            .ok_or_else(|| unsupported_kind(format!("an AVIF with the colour matrix {matrix}")))?;
        let is_full = colours.as_ref().map_or_else(|| is_full(picture), |nclx| nclx.is_full);
        Ok(pixels_of(picture, matrix, is_full))
    };
    let mut pixels = avif.canvas(avif.items.primary, 3, &of_colours)?;
    if let Some((alpha, is_multiplied)) = avif.items.alpha(avif.items.primary) {
        let alpha = avif.canvas(alpha, 1, &|picture| Ok(luma_of(picture, is_full(picture))))?;
        let both = pixels.chunks_exact(3).zip(&alpha);
        let mut samples: Vec<u8> =
            both.flat_map(|(colour, alpha)| [colour[0], colour[1], colour[2], *alpha]).collect();
        if is_multiplied {
            without_premultiplication(&mut samples);
        }
        pixels = rgb(samples, 4);
    }
    Ok((RgbImage { width: avif.width, height: avif.height, pixels }, avif.orientation))
}

/// A file whose boxes have been read.
struct Avif<'a> {
    items: Items<'a>,
    /// As stored.
    width: u32,
    height: u32,
    orientation: Orientation,
}

fn open(bytes: &[u8], max_pixels: u64) -> Result<Avif<'_>, ImageError> {
    let items =
        Items::parse(bytes).ok_or_else(|| corrupt_header("the AVIF's boxes cannot be read"))?;
    let (width, height) = items
        .size(items.primary)
        .ok_or_else(|| corrupt_header("the AVIF does not have the size of its picture"))?;
    check_size(width, height, max_pixels)?;
    let orientation = items.orientation(items.primary);
    Ok(Avif { items, width, height, orientation })
}

/// A function that makes samples u8 [H, W, channels] of a frame.
type Convert<'a> = &'a dyn Fn(&Picture) -> Result<Vec<u8>, ImageError>;

impl Avif<'_> {
    /// Returns the samples u8 [H, W, channels] of an item, which has the size of the picture.
    fn canvas(&self, id: u32, channels: usize, of: Convert) -> Result<Vec<u8>, ImageError> {
        if self.items.kind(id) != Some(b"grid") {
            let picture = self.frame(id)?;
            if (picture.width(), picture.height()) != (self.width, self.height) {
                return Err(corrupt_pixels("the AVIF's frame has another size than the picture"));
            }
            return of(&picture);
        }
        let grid =
            self.items.grid(id).ok_or_else(|| corrupt_header("the AVIF's grid is broken"))?;
        let Grid { columns, width, height, tiles } = grid;
        if (width, height) != (self.width, self.height) {
            return Err(corrupt_pixels("the AVIF's grid has another size than the picture"));
        }
        let row = width as usize * channels;
        let mut canvas = vec![0; height as usize * row];
        let mut tile_size = None;
        for (index, tile) in tiles.into_iter().enumerate() {
            let picture = self.frame(tile)?;
            let (tile_width, tile_height) =
                *tile_size.get_or_insert((picture.width() as usize, picture.height() as usize));
            if (picture.width() as usize, picture.height() as usize) != (tile_width, tile_height) {
                return Err(corrupt_pixels("the AVIF's tiles have different sizes"));
            }
            let samples = of(&picture)?;
            let left = (index % columns as usize).saturating_mul(tile_width);
            let top = (index / columns as usize).saturating_mul(tile_height);
            let shown = (width as usize).saturating_sub(left).min(tile_width) * channels;
            for (y, part) in samples.chunks_exact(tile_width * channels).enumerate() {
                let at = (top + y) * row + left * channels;
                if shown > 0 && top + y < height as usize {
                    canvas[at..at + shown].copy_from_slice(&part[..shown]);
                }
            }
        }
        Ok(canvas)
    }

    /// Returns the first frame of an item.
    fn frame(&self, id: u32) -> Result<Picture, ImageError> {
        if self.items.kind(id) != Some(b"av01") {
            let kind = self.items.kind(id).map(|kind| kind.escape_ascii().to_string());
            let kind = kind.unwrap_or_else(|| "no".into());
            return Err(unsupported_kind(format!("an AVIF with a picture in {kind} coding")));
        }
        // A decoder with compiled assertions ends the process if it gets no bytes.
        let data = self.items.data(id).filter(|data| !data.is_empty());
        let data = data.ok_or_else(|| corrupt_pixels("the AVIF ends within its picture"))?;
        let mut settings = Settings::new();
        settings.set_n_threads(1);
        settings.set_max_frame_delay(1);
        settings.set_all_layers(false);
        // No frame of it is larger than the picture itself.
        let most = u64::from(self.width) * u64::from(self.height);
        settings.set_frame_size_limit(u32::try_from(most).unwrap_or(u32::MAX));
        let mut decoder = Decoder::with_settings(&settings).map_err(corrupt_pixels)?;
        match decoder.send_data(data.into_owned(), None, None, None) {
            Ok(()) => {}
            Err(error) if error.is_again() => {}
            Err(error) => return Err(corrupt_pixels(error)),
        }
        loop {
            match decoder.get_picture() {
                Ok(picture) => return Ok(picture),
                Err(error) if error.is_again() => match decoder.send_pending_data() {
                    Ok(()) => return decoder.get_picture().map_err(corrupt_pixels),
                    Err(error) if error.is_again() => {}
                    Err(error) => return Err(corrupt_pixels(error)),
                },
                Err(error) => return Err(corrupt_pixels(error)),
            }
        }
    }
}

fn is_full(picture: &Picture) -> bool {
    picture.color_range() == YUVRange::Full
}

fn matrix_of(picture: &Picture) -> u16 {
    use re_rav1d::dav1d::pixel::MatrixCoefficients as Known;
    match picture.matrix_coefficients() {
        Known::Identity => 0,
        Known::BT709 => 1,
        Known::Unspecified | Known::Reserved => 2,
        Known::BT470M => 4,
        Known::BT470BG | Known::ST170M => 5,
        Known::ST240M => 7,
        Known::YCgCo => 8,
        Known::BT2020NonConstantLuminance => 9,
        // A number without a supported matrix.
        _ => 14,
    }
}

/// The samples of a plane.
struct Samples {
    bytes: re_rav1d::dav1d::Plane,
    /// Bytes from one row to the next.
    stride: usize,
    is_wide: bool,
}

impl Samples {
    fn new(picture: &Picture, component: Component) -> Self {
        Self {
            bytes: picture.plane(component),
            stride: picture.stride(component) as usize,
            is_wide: picture.bit_depth() > 8,
        }
    }

    fn at(&self, x: usize, y: usize) -> f32 {
        let row = y * self.stride;
        if self.is_wide {
            let at = row + 2 * x;
            f32::from(u16::from_ne_bytes([self.bytes[at], self.bytes[at + 1]]))
        } else {
            f32::from(self.bytes[row + x])
        }
    }
}

/// Returns luma u8 [H, W].
fn luma_of(picture: &Picture, is_full: bool) -> Vec<u8> {
    let levels = Levels::new(is_full, picture.bit_depth() as u32);
    let luma = Samples::new(picture, Component::Y);
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    (0..height)
        .flat_map(|y| (0..width).map(move |x| (x, y)))
        .map(|(x, y)| levels.byte(luma.at(x, y)))
        .collect()
}

/// Returns RGB u8 [H, W, 3]. Colour differences that are stored for pairs of pixels are
/// interpolated, as in libavif.
fn pixels_of(picture: &Picture, matrix: Matrix, is_full: bool) -> Vec<u8> {
    let (across, down) = match picture.pixel_layout() {
        PixelLayout::I400 => return rgb(luma_of(picture, is_full), 1),
        PixelLayout::I420 => (true, true),
        PixelLayout::I422 => (true, false),
        PixelLayout::I444 => (false, false),
    };
    let levels = Levels::new(is_full, picture.bit_depth() as u32);
    let [luma, blue, red] =
        [Component::Y, Component::U, Component::V].map(|part| Samples::new(picture, part));
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let mut pixels = Vec::with_capacity(3 * width * height);
    for y in 0..height {
        let rows = neighbours(y, height, down);
        for x in 0..width {
            let columns = neighbours(x, width, across);
            let chroma = |plane: &Samples| {
                let row = |y: usize| 0.75 * plane.at(columns.0, y) + 0.25 * plane.at(columns.1, y);
                0.75 * row(rows.0) + 0.25 * row(rows.1)
            };
            let yuv = [luma.at(x, y), chroma(&blue), chroma(&red)];
            pixels.extend(rgb_of_yuv(yuv, matrix, levels));
        }
    }
    pixels
}

/// Returns the nearest sample of a row of colour differences, and the second nearest.
fn neighbours(at: usize, of: usize, is_halved: bool) -> (usize, usize) {
    if !is_halved {
        return (at, at);
    }
    let last = of.div_ceil(2) - 1;
    let near = at / 2;
    let other = if at.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(last) };
    (near, other)
}
