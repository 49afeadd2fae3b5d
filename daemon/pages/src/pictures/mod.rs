//! Pictures: contact sheets of images with their captions, and plots of a training.
//!
//! They are drawn as SVG, and turned into PNG with compiled-in fonts, so they look the same on
//! every machine. Nothing here reads a dataset or a store: callers pass pixels and numbers.

mod contact_sheet;
mod raster;
mod svg;
mod text;
mod training_plot;

use std::path::PathBuf;

use diptych_schemas::SchemaError;

pub use contact_sheet::{SheetItem, query_sheet};
pub use training_plot::TrainingPlot;

/// Reasons why a picture cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    #[error(
        "a picture of {width} x {height} pixels exceeds the limit of {limit} pixels; show fewer \
         images"
    )]
    TooLarge { width: u64, height: u64, limit: u64 },
    #[error(
        "image {index} of the contact sheet is {width} x {height} but has {bytes} bytes of pixels; \
         it needs 3 for each pixel"
    )]
    BadPixels { index: usize, width: u32, height: u32, bytes: usize },
    #[error("{path}: plots are written as .png or .svg; use one of these extensions")]
    UnknownFormat { path: PathBuf },
    #[error("cannot draw the picture's SVG: {0}")]
    Svg(#[from] resvg::usvg::Error),
    #[error("{path}: cannot encode PNG: {source}")]
    Encode { path: PathBuf, source: image::ImageError },
    #[error(transparent)]
    Schema(#[from] SchemaError),
}
