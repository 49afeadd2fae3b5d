//! Everything that is computed for a single pair: its image's header and pixels, its caption's
//! tokens. Pure functions of bytes and text.
//!
//! It is a separate crate because the loader spends its time here. It is compiled optimised in
//! every profile, with the generic decoders and resizers that it uses. The pipeline around it only
//! moves results, and compiles fast.

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
