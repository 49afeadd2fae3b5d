//! Pairs with their captions, and their images as thumbnails embedded in the page.

use std::collections::HashMap;
use std::io::Cursor;

use anyhow::Context;
use arrow::array::AsArray;
use arrow::datatypes::UInt32Type;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use datafusion::prelude::SessionContext;
use diptych_pipeline::{decode, sql::query};
use diptych_schemas::{MAX_PIXELS, Uid};
use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;

/// Longer edge of a thumbnail in pixels. It is shown at half this size, for dense screens.
const LONGER_EDGE: u32 = 288;
const QUALITY: u8 = 78;

/// A pair as the page shows it.
#[derive(Clone, Debug)]
pub struct PairView {
    pub caption: String,
    pub size: (u32, u32),
    pub key: String,
    /// A `data:` URL, or the reason why there is none.
    pub thumbnail: Result<String, String>,
}

/// Returns the pairs of these uids. Uids that are not in the dataset are left out.
pub async fn show(
    context: &SessionContext,
    uids: &[Uid],
) -> anyhow::Result<HashMap<Uid, PairView>> {
    if uids.is_empty() {
        return Ok(HashMap::new());
    }
    let list = uids.iter().map(|uid| format!("uid('{uid}')")).collect::<Vec<_>>().join(", ");
    let mut found = HashMap::new();
    let meta = format!("SELECT uid, caption, width, height, key FROM meta WHERE uid IN ({list})");
    for batch in query(context, &meta).await?.collect().await? {
        for row in 0..batch.num_rows() {
            let text =
                |column: usize| batch.column(column).as_string::<i32>().value(row).to_owned();
            let number =
                |column: usize| batch.column(column).as_primitive::<UInt32Type>().value(row);
            let shown = PairView {
                caption: text(1),
                size: (number(2), number(3)),
                key: text(4),
                thumbnail: Err("the image is not in the dataset".into()),
            };
            found.insert(Uid::try_from(batch.column(0).as_fixed_size_binary().value(row))?, shown);
        }
    }
    let mut images =
        query(context, &format!("SELECT uid, image FROM blob WHERE uid IN ({list})")).await?;
    while let Some(batch) = images.next().await? {
        for row in 0..batch.num_rows() {
            let uid = Uid::try_from(batch.column(0).as_fixed_size_binary().value(row))?;
            let image = batch.column(1).as_binary_opt::<i64>().context("images are not bytes")?;
            if let Some(shown) = found.get_mut(&uid) {
                shown.thumbnail = thumbnail(image.value(row)).map_err(|error| error.to_string());
            }
        }
    }
    Ok(found)
}

fn thumbnail(bytes: &[u8]) -> anyhow::Result<String> {
    let image = decode(bytes, MAX_PIXELS)?;
    let (width, height) = (image.width, image.height);
    let image = image::RgbImage::from_raw(width, height, image.pixels)
        .context("the number of pixels does not match the size")?;
    let scale = f64::from(LONGER_EDGE) / f64::from(width.max(height));
    let image = if scale < 1.0 {
        let [width, height] =
            [width, height].map(|side| ((f64::from(side) * scale).round() as u32).max(1));
        image::imageops::resize(&image, width, height, FilterType::Triangle)
    } else {
        image
    };
    let mut jpeg = Cursor::new(Vec::new());
    image.write_with_encoder(JpegEncoder::new_with_quality(&mut jpeg, QUALITY))?;
    Ok(format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg.into_inner())))
}
