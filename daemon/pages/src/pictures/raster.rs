//! Rasterized SVG, written as PNG.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use diptych_schemas::durable;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder, RgbImage};
use resvg::tiny_skia::{Pixmap, PremultipliedColorU8, Transform};
use resvg::usvg::fontdb::{Database, Source};
use resvg::usvg::{Options, Tree};

use super::PictureError;
use super::text::FAMILY;

/// Most pixels of a picture: 256 MB while it is drawn.
const MOST_PIXELS: u64 = 64_000_000;

/// The compiled-in fonts; system fonts are not loaded.
static FONTS: LazyLock<Arc<Database>> = LazyLock::new(|| {
    let mut fonts = Database::new();
    for bytes in [dejavu::sans::regular(), dejavu::sans::bold()] {
        fonts.load_font_source(Source::Binary(Arc::new(bytes)));
    }
    // Any other font that a style names falls back to this one.
    fonts.set_sans_serif_family(FAMILY);
    fonts.set_serif_family(FAMILY);
    Arc::new(fonts)
});

/// The pixels of a picture without transparency.
pub(super) struct Raster {
    pixels: Pixmap,
}

/// Returns an error if a picture is too large to be drawn.
pub(super) fn check_size(width: u64, height: u64) -> Result<(), PictureError> {
    if width.saturating_mul(height) > MOST_PIXELS {
        return Err(PictureError::TooLarge { width, height, limit: MOST_PIXELS });
    }
    Ok(())
}

impl Raster {
    /// Draws an SVG of a size in pixels that it covers completely.
    pub(super) fn new(svg: &str) -> Result<Self, PictureError> {
        let options = Options {
            font_family: FAMILY.to_owned(),
            fontdb: Arc::clone(&FONTS),
            ..Options::default()
        };
        let tree = Tree::from_str(svg, &options)?;
        let size = tree.size().to_int_size();
        let (width, height) = (u64::from(size.width()), u64::from(size.height()));
        check_size(width, height)?;
        let too_large = PictureError::TooLarge { width, height, limit: MOST_PIXELS };
        let mut pixels = Pixmap::new(size.width(), size.height()).ok_or(too_large)?;
        resvg::render(&tree, Transform::identity(), &mut pixels.as_mut());
        Ok(Self { pixels })
    }

    /// Draws an image with its upper left corner at (left, top). Parts outside the picture are cut
    /// off.
    pub(super) fn put(&mut self, left: u32, top: u32, image: &RgbImage) {
        let (across, down) = (self.pixels.width(), self.pixels.height());
        let target = self.pixels.pixels_mut();
        for (x, y, pixel) in image.enumerate_pixels() {
            let (x, y) = (left + x, top + y);
            if x < across && y < down {
                let [red, green, blue] = pixel.0;
                // Every channel is at most 255, the alpha, so this never fails.
                let opaque = PremultipliedColorU8::from_rgba(red, green, blue, 255)
                    .unwrap_or(PremultipliedColorU8::TRANSPARENT);
                target[y as usize * across as usize + x as usize] = opaque;
            }
        }
    }

    /// Writes the picture as a PNG, completely or not at all.
    pub(super) fn write(&self, path: &Path) -> Result<(), PictureError> {
        let rgb: Vec<u8> = self
            .pixels
            .pixels()
            .iter()
            .flat_map(|pixel| [pixel.red(), pixel.green(), pixel.blue()])
            .collect();
        let mut bytes = Vec::new();
        PngEncoder::new(&mut bytes)
            .write_image(&rgb, self.pixels.width(), self.pixels.height(), ExtendedColorType::Rgb8)
            .map_err(|source| PictureError::Encode { path: path.to_owned(), source })?;
        Ok(durable::write(path, &bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pictures::svg::document;
    use crate::pictures::text::{self, Style};
    use maud::html;

    fn dark(raster: &Raster) -> Vec<(u32, u32)> {
        let across = raster.pixels.width();
        let places = raster.pixels.pixels().iter().zip(0..).filter(|(pixel, _)| pixel.red() < 100);
        places.map(|(_, place)| (place % across, place / across)).collect()
    }

    #[test]
    fn text_is_as_wide_as_it_was_measured() {
        let drawn = Raster::new(&document(
            400,
            60,
            "",
            "",
            &html! { text x="10" y="40" font-size="24" { "Hamburgefonts AVA" } },
        ));
        let dark = dark(&drawn.unwrap());
        let (left, right) =
            (dark.iter().map(|at| at.0).min().unwrap(), dark.iter().map(|at| at.0).max().unwrap());
        let measured = text::width("Hamburgefonts AVA", Style::regular(24.0));
        assert!((right as f32 - left as f32 - measured).abs() < 6.0, "{left} {right} {measured}");
        assert!(dark.iter().all(|(_, y)| (15..50).contains(y)));
    }

    #[test]
    fn colours_come_from_the_style_and_pictures_are_put_on_top() {
        let shapes = html! { rect.bar.c0 x="2" y="2" width="6" height="6" {} };
        let mut drawn = Raster::new(&document(10, 10, "", "", &shapes)).unwrap();
        let at = |drawn: &Raster, x: u32, y: u32| {
            let pixel = drawn.pixels.pixel(x, y).unwrap();
            [pixel.red(), pixel.green(), pixel.blue(), pixel.alpha()]
        };
        assert_eq!((at(&drawn, 4, 4), at(&drawn, 0, 0)), ([0x00, 0x72, 0xb2, 255], [255; 4]));
        drawn.put(8, 8, &RgbImage::from_pixel(5, 5, image::Rgb([1, 2, 3])));
        assert_eq!((at(&drawn, 9, 9), at(&drawn, 7, 7)), ([1, 2, 3, 255], [0x00, 0x72, 0xb2, 255]));
    }
}
