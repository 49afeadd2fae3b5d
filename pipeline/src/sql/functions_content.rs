//! Functions of images and captions: size, aspect ratio, perceptual hash, numbers of tokens and
//! words.
//!
//! Decoding and tokenizing are passed in as closures, so this module knows no image format and no
//! vocabulary. An unreadable image gives null, so that one broken file does not end a query over a
//! million.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::array::{Float64Array, Int64Array, UInt32Array, UInt64Array};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::logical_expr::Documentation;

use super::function::{Function, SECTION, each_row, is_binary, is_text, type_names};

/// Returns width and height in pixels, as displayed, of an image file, or `None` if its header
/// cannot be read.
pub type ImageSize = dyn Fn(&[u8]) -> Option<(u32, u32)> + Send + Sync;
/// Returns the perceptual hash of an image file, or `None` if it cannot be decoded.
pub type ImageHash = dyn Fn(&[u8]) -> Option<u64> + Send + Sync;
/// Returns the number of tokens of a text, without the start and end tokens and without truncation.
pub type TokenCount = dyn Fn(&str) -> usize + Send + Sync;

/// Implementations of the functions of images and captions.
#[derive(Clone)]
pub struct ContentFunctions {
    pub image_size: Arc<ImageSize>,
    pub perceptual_hash: Arc<ImageHash>,
    pub token_count: Arc<TokenCount>,
}

impl fmt::Debug for ContentFunctions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentFunctions")
    }
}

pub(super) fn content_functions(content: &ContentFunctions) -> Vec<Function> {
    let size = || content.image_size.clone();
    let (for_width, for_height, for_ratio) = (size(), size(), size());
    let hash = content.perceptual_hash.clone();
    let tokens = content.token_count.clone();
    vec![
        Function::new(
            "width",
            DataType::UInt32,
            image,
            image_doc(
                "width(image)",
                "Width of an image file in pixels, as displayed (after EXIF orientation), read \
                 from its header. Null if the header cannot be read. The column meta.width holds \
                 this value without reading the image.",
                "SELECT uid, width(image) FROM blob",
            ),
            move |arguments, rows| {
                Ok(each_row::<_, UInt32Array>(rows, |row| {
                    Some(for_width(arguments[0].bytes(row)?)?.0)
                }))
            },
        ),
        Function::new(
            "height",
            DataType::UInt32,
            image,
            image_doc(
                "height(image)",
                "Height of an image file in pixels, as displayed (after EXIF orientation), read \
                 from its header. Null if the header cannot be read. The column meta.height holds \
                 this value without reading the image.",
                "SELECT uid, height(image) FROM blob",
            ),
            move |arguments, rows| {
                Ok(each_row::<_, UInt32Array>(rows, |row| {
                    Some(for_height(arguments[0].bytes(row)?)?.1)
                }))
            },
        ),
        Function::new(
            "aspect_ratio",
            DataType::Float64,
            image_or_sides,
            ratio_doc(),
            move |arguments, rows| {
                Ok(each_row::<_, Float64Array>(rows, |row| {
                    let (width, height) = match arguments {
                        [image] => for_ratio(image.bytes(row)?)
                            .map(|(width, height)| (width.into(), height.into()))?,
                        sides => {
                            let side = |n: usize| {
                                let (values, index) = (
                                    sides[n].array().as_primitive::<Float64Type>(),
                                    sides[n].index(row),
                                );
                                values.is_valid(index).then(|| values.value(index))
                            };
                            (side(0)?, side(1)?)
                        }
                    };
                    (height != 0.0).then(|| width / height)
                }))
            },
        ),
        Function::new(
            "phash",
            DataType::UInt64,
            image,
            image_doc(
                "phash(image)",
                "Perceptual hash of an image file: 64 bits that hardly change when the image is \
                 resized or compressed again; compare with hamming. Decodes all pixels. Null if \
                 the image cannot be decoded. The column meta.phash holds this value if the ingest \
                 computed it.",
                "SELECT uid FROM blob WHERE hamming(phash(image), 12345) <= 4",
            ),
            move |arguments, rows| {
                Ok(each_row::<_, UInt64Array>(rows, |row| hash(arguments[0].bytes(row)?)))
            },
        ),
        Function::new(
            "token_count",
            DataType::Int64,
            text,
            text_doc(
                "token_count(text)",
                "Number of tokens of a text for CLIP's tokenizer, without the start and end tokens \
                 and without truncation. CLIP uses at most 75 of them.",
                "SELECT uid FROM meta WHERE token_count(caption) <= 75",
            ),
            move |arguments, rows| {
                Ok(each_row::<_, Int64Array>(rows, |row| {
                    Some(tokens(arguments[0].text(row)?) as i64)
                }))
            },
        ),
        Function::new(
            "word_count",
            DataType::Int64,
            text,
            text_doc(
                "word_count(text)",
                "Number of words of a text, separated by white space.",
                "SELECT uid FROM meta WHERE word_count(caption) >= 3",
            ),
            |arguments, rows| {
                Ok(each_row::<_, Int64Array>(rows, |row| {
                    Some(arguments[0].text(row)?.split_whitespace().count() as i64)
                }))
            },
        ),
    ]
}

fn image(types: &[DataType]) -> Result<Vec<DataType>, String> {
    match types {
        [one] if is_binary(one) => Ok(vec![DataType::LargeBinary]),
        other => Err(format!("the bytes of an image, as in blob.image, not {}", type_names(other))),
    }
}

fn image_or_sides(types: &[DataType]) -> Result<Vec<DataType>, String> {
    match types {
        [one] if is_binary(one) => Ok(vec![DataType::LargeBinary]),
        [a, b] if (a.is_numeric() || a.is_null()) && (b.is_numeric() || b.is_null()) => {
            Ok(vec![DataType::Float64; 2])
        }
        other => {
            Err(format!("width and height, or the bytes of an image, not {}", type_names(other)))
        }
    }
}

fn text(types: &[DataType]) -> Result<Vec<DataType>, String> {
    match types {
        [one] if is_text(one) => Ok(vec![DataType::LargeUtf8]),
        other => Err(format!("a text, not {}", type_names(other))),
    }
}

fn image_doc(syntax: &str, description: &str, example: &str) -> Documentation {
    Documentation::builder(SECTION, description, syntax)
        .with_argument("image", "The bytes of a JPEG, PNG, WebP or GIF file, as in blob.image.")
        .with_sql_example(example)
        .build()
}

fn ratio_doc() -> Documentation {
    let description = "Width divided by height: above 1 for wide images. Takes two numbers, or an \
        image file, whose header is read. Null if the height is 0 or the header cannot be read.";
    Documentation::builder(SECTION, description, "aspect_ratio(width, height)")
        .with_argument(
            "width",
            "Width in pixels; or, as the only argument, the bytes of an image file.",
        )
        .with_argument("height", "Height in pixels.")
        .with_alternative_syntax("aspect_ratio(image)")
        .with_sql_example(
            "SELECT uid FROM meta WHERE aspect_ratio(width, height) BETWEEN 0.5 AND 2",
        )
        .build()
}

fn text_doc(syntax: &str, description: &str, example: &str) -> Documentation {
    Documentation::builder(SECTION, description, syntax)
        .with_argument("text", "A text, as in meta.caption.")
        .with_sql_example(example)
        .build()
}
