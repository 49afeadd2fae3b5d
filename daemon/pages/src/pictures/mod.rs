//! Pictures for people: contact sheets of images with their captions, and plots of training.
//!
//! They are drawn as SVG, and as PNG with the fonts that are compiled in, so they look the same on every machine. Nothing here
//! reads a dataset or a store: it is handed pixels and numbers.

mod contact_sheet;
mod raster;
mod svg;
mod text;
mod training_plot;

use std::path::PathBuf;

use diptych_schemas::SchemaError;

pub use contact_sheet::{SheetItem, query_sheet};
pub use training_plot::TrainingPlot;

/// Why there is no picture.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    #[error(
        "a picture of {width} x {height} pixels is beyond what is drawn ({limit} pixels); show fewer images"
    )]
    TooLarge { width: u64, height: u64, limit: u64 },
    #[error(
        "image {index} of the contact sheet is {width} x {height} but has {bytes} bytes of pixels; 3 for each pixel are wanted"
    )]
    BadPixels { index: usize, width: u32, height: u32, bytes: usize },
    #[error("{path}: plots are written as .png or .svg")]
    UnknownFormat { path: PathBuf },
    #[error("the SVG of the picture cannot be drawn: {0}")]
    Svg(#[from] resvg::usvg::Error),
    #[error("{path}: cannot encode PNG: {source}")]
    Encode { path: PathBuf, source: image::ImageError },
    #[error(transparent)]
    Schema(#[from] SchemaError),
}
