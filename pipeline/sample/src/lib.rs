//! What is done to one pair alone: its image's header and pixels, its caption's tokens. Pure functions of bytes and text.
//!
//! A crate of its own because this is where the loader's time goes: it is compiled optimised in every profile, with the
//! generic decoders and resizers that it uses, while the pipeline around it, which only moves results, compiles fast.

mod decode;
mod exif;
mod format;
mod formats;
pub mod header;
mod image_error;
mod limits;
mod resize;
mod samples;
#[cfg(test)]
mod test_data;
mod tokenizer;

pub use decode::{BareDecoder, decode, decode_reusing};
pub use fast_image_resize::FilterType;
pub use format::ImageFormat;
pub use header::{ImageHeader, probe};
pub use image_error::ImageError;
pub use resize::{CropBox, Interpolation, resize, resize_gray};
pub use samples::RgbImage;
pub use tokenizer::{
    Cleaning, TokenKinds, Tokenizer, TokenizerError, TokenizerOptions, Vocabulary,
};
