//! JPEG XL, with the decoder of its own project. The decoder applies the orientation itself.
//! Profiles are ignored, as in other formats.

use image::metadata::Orientation;
use jxl::api::{
    AlphaMode, Event, ExtraChannel, JxlColorType, JxlDataFormat, JxlDecoder, JxlDecoderOptions,
    JxlOutputBuffer, JxlPixelFormat, ProfileLevel,
};

use super::{Stored, StoredSize, corrupt_header, corrupt_pixels, unsupported_kind};
use crate::limits::check_size;
use crate::samples::rgb;
use crate::{ImageError, RgbImage};

/// Most decoded channels of a picture: colours, alpha, and one that is not displayed.
const MOST_CHANNELS: u64 = 5;

pub(crate) fn size(bytes: &[u8], max_pixels: u64) -> StoredSize {
    let opened = open(bytes, max_pixels)?;
    Ok((opened.width, opened.height, Orientation::NoTransforms))
}

pub(crate) fn decode(bytes: &[u8], max_pixels: u64) -> Stored {
    let Opened { mut decoder, mut rest, width, height } = open(bytes, max_pixels)?;
    let info = decoder.basic_info().map(|info| info.extra_channels.clone()).unwrap_or_default();
    let has = |kind: ExtraChannel| info.iter().any(|channel| channel.ec_type == kind);
    if has(ExtraChannel::Black) {
        return Err(unsupported_kind("a JPEG XL picture in CMYK"));
    }
    let is_grey = decoder.current_pixel_format().is_some_and(|kind| kind.color_type.is_grayscale());
    let color_type = match (is_grey, has(ExtraChannel::Alpha)) {
        (true, false) => JxlColorType::Grayscale,
        (true, true) => JxlColorType::GrayscaleAlpha,
        (false, false) => JxlColorType::Rgb,
        (false, true) => JxlColorType::Rgba,
    };
    let format = JxlPixelFormat {
        color_type,
        color_data_format: Some(JxlDataFormat::U8 { bit_depth: 8 }),
        extra_channel_format: vec![None; info.len()],
    };
    decoder.set_pixel_format(format).map_err(corrupt_pixels)?;
    let channels = color_type.samples_per_pixel();
    let row = width as usize * channels;
    let mut samples = vec![0; row * height as usize];
    let mut buffers = [JxlOutputBuffer::new(&mut samples, height as usize, row)];
    loop {
        match decoder.process(&mut rest, Some(&mut buffers), None).map_err(corrupt_pixels)? {
            Event::FrameComplete { .. } => break,
            Event::BasicInfo | Event::FrameHeader => {}
            Event::NeedMoreInput { .. } | Event::Complete => {
                return Err(corrupt_pixels("the JPEG XL picture ends within its first frame"));
            }
        }
    }
    let pixels = rgb(samples, channels as u8);
    Ok((RgbImage { width, height, pixels }, Orientation::NoTransforms))
}

/// A picture whose header has been read.
struct Opened<'a> {
    decoder: JxlDecoder,
    rest: &'a [u8],
    /// Pixels, as displayed.
    width: u32,
    height: u32,
}

fn open(bytes: &[u8], max_pixels: u64) -> Result<Opened<'_>, ImageError> {
    let mut options = JxlDecoderOptions::default();
    options.sample_limit = Some(max_pixels.saturating_mul(MOST_CHANNELS) as usize);
    options.alpha_mode = AlphaMode::Unpremultiplied;
    options.max_profile_level = ProfileLevel::Main10;
    let mut decoder = JxlDecoder::new(options);
    let mut rest = bytes;
    match decoder.process(&mut rest, None, None).map_err(corrupt_header)? {
        Event::BasicInfo => {}
        _ => return Err(corrupt_header("the JPEG XL picture ends within its header")),
    }
    let info = decoder.basic_info().ok_or_else(|| corrupt_header("it has no header"))?;
    let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
    let (width, height) = (side(info.size.0), side(info.size.1));
    check_size(width, height, max_pixels)?;
    Ok(Opened { decoder, rest, width, height })
}
