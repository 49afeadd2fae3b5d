//! Bare decoding at the full speed of libjpeg-turbo, the reference of the loader's benchmark.

use turbojpeg::{Colorspace, Decompressor, Image, PixelFormat};

/// A decompressor and a buffer for pixels, both reused for each image.
#[derive(Default)]
pub struct BareDecoder {
    decompressor: Option<Decompressor>,
    pixels: Vec<u8>,
}

impl BareDecoder {
    /// Decodes a JPEG to RGB at its full size. Errors do not matter here, because the loader
    /// reports them. Other formats go through the loader's own decoders.
    pub fn decode(&mut self, bytes: &[u8]) {
        if self.jpeg(bytes).is_none() {
            std::hint::black_box(super::decode(bytes, diptych_schemas::MAX_PIXELS).ok());
        }
        std::hint::black_box(&self.pixels);
    }

    fn jpeg(&mut self, bytes: &[u8]) -> Option<()> {
        if !bytes.starts_with(&[0xFF, 0xD8]) {
            return None;
        }
        if self.decompressor.is_none() {
            self.decompressor = Some(Decompressor::new().ok()?);
        }
        let decompressor = self.decompressor.as_mut()?;
        let header = decompressor.read_header(bytes).ok()?;
        if header.width as u64 * header.height as u64 > diptych_schemas::MAX_PIXELS {
            return None;
        }
        let inks = matches!(header.colorspace, Colorspace::CMYK | Colorspace::YCCK);
        let format = if inks { PixelFormat::CMYK } else { PixelFormat::RGB };
        let pitch = header.width * format.size();
        self.pixels.resize(self.pixels.len().max(header.height * pitch), 0);
        let target = Image {
            pixels: self.pixels.as_mut_slice(),
            width: header.width,
            pitch,
            height: header.height,
            format,
        };
        // A warning comes after the pixels.
        let _ = decompressor.decompress(bytes, target);
        Some(())
    }
}
