//! Artificial meta for measuring curation at scale: a dataset of any number of rows without images.
//!
//! Every row is a function of (seed, row), so shards are written in parallel without shared state.
//! Of 100 rows, 2 show one blank image. 8 show an image of another row, and 5 one that is near to
//! another's (1 to 4 bits of the perceptual hash). 3 have one of four captions, 4 another row's
//! caption, and 5 one that is near to another's. Sizes are log-normal, words follow Zipf's law. The
//! score `clip` has a normal distribution.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeBinaryArray, Float64Array, RecordBatch, StringArray, UInt8Array,
    UInt32Array, UInt64Array,
};
use arrow::datatypes::SchemaRef;
use diptych_schemas::{
    ContentHash, DatasetManifest, SchemaError, ScoreFileMetadata, ScoreValue, ShardEntry, Uid,
    blob_path, blob_schema, durable, ledger_path, meta_path, meta_schema, numbered_file,
    score_file_schema, score_folder,
};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use rayon::prelude::*;

use crate::checksums::ParquetWriter;
use crate::ingest::{META_ROWS, meta_properties, narrow_properties};
use crate::random::{Random, seed_of};

/// Rows per shard, about as in a shard of photographs.
const SHARD_ROWS: u64 = 1 << 18;
/// Images in a row group of 96 MiB.
const GROUP_ROWS: u64 = 960;
/// Number of words that captions are made of.
const VOCABULARY: u64 = 20_000;
const HOT_CAPTIONS: [&str; 4] = ["image", "photo", "untitled", "product image"];
/// The number of the blank image. No row has this number.
const BLANK: u64 = u64::MAX;

/// The kind of a row, drawn in hundredths. Most rows have their own image and caption.
struct Kind {
    image: Source,
    caption: Source,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Own,
    /// One that many rows share.
    Hot,
    Another,
    NearAnother,
}

/// Writes a dataset of `rows` rows into a folder that must not exist.
pub fn write_synthetic_dataset(
    folder: &Path,
    rows: u64,
    seed: u64,
) -> Result<DatasetManifest, SchemaError> {
    if folder.exists() {
        return Err(SchemaError::io(folder)(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "it already exists",
        )));
    }
    let scores = score_folder(folder, "clip");
    for file in [
        meta_path(folder, 0),
        blob_path(folder, 0),
        ledger_path(folder, 0),
        numbered_file(&scores, 0),
    ] {
        let parent = file.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(SchemaError::io(parent))?;
    }
    let shards = rows.div_ceil(SHARD_ROWS) as u32;
    let entries: Result<Vec<ShardEntry>, SchemaError> = (0..shards)
        .into_par_iter()
        .map(|shard| {
            let first = u64::from(shard) * SHARD_ROWS;
            write_shard(folder, shard, first, SHARD_ROWS.min(rows - first), seed)
        })
        .collect();
    let mut manifest = DatasetManifest::empty();
    manifest.pairs = rows;
    manifest.shards = entries?;
    manifest.write(folder)?;
    Ok(manifest)
}

fn write_shard(
    folder: &Path,
    shard: u32,
    first: u64,
    rows: u64,
    seed: u64,
) -> Result<ShardEntry, SchemaError> {
    let blob = blob_path(folder, shard);
    write_file(&blob, &blob_schema(), narrow_properties().build(), std::iter::empty())?;
    let mut uids: Vec<u8> = Vec::with_capacity(rows as usize * 16);
    let groups =
        (0..rows).step_by(META_ROWS).map(|start| start..rows.min(start + META_ROWS as u64));
    let batches = groups.clone().map(|group| {
        let rows: Vec<Row> = group.map(|row| Row::of(seed, first + row)).collect();
        uids.extend(rows.iter().flat_map(|row| row.uid.0));
        meta_batch(shard, first, &rows)
    });
    write_file(&meta_path(folder, shard), &meta_schema(&[]), meta_properties(META_ROWS), batches)?;

    let schema = score_file_schema(ScoreValue::Number);
    let says = ScoreFileMetadata {
        shard,
        producer: ContentHash::of(b"synthetic").to_string(),
        made_by: "made up, for measurements".into(),
    };
    let says = says
        .to_pairs()
        .into_iter()
        .map(|(key, value)| KeyValue::new(key.to_owned(), value))
        .collect();
    let properties = narrow_properties().set_key_value_metadata(Some(says)).build();
    let producer = ContentHash::of(b"synthetic").to_string();
    let batches = groups.map(|group| {
        let of_group = &uids[group.start as usize * 16..group.end as usize * 16];
        let columns: Vec<ArrayRef> = vec![
            Arc::new(
                FixedSizeBinaryArray::try_from_iter(of_group.chunks(16))
                    .map_err(io::Error::other)?,
            ),
            Arc::new(Float64Array::from_iter_values(
                group.clone().map(|row| bell(seed, first + row)),
            )),
            Arc::new(StringArray::from_iter_values(group.clone().map(|_| &producer))),
            Arc::new(StringArray::new_null((group.end - group.start) as usize)),
        ];
        RecordBatch::try_new(Arc::clone(&schema), columns).map_err(io::Error::other)
    });
    write_file(&numbered_file(&score_folder(folder, "clip"), shard), &schema, properties, batches)?;
    let blob_bytes = fs::metadata(&blob).map_err(SchemaError::io(&blob))?.len();
    Ok(ShardEntry { shard, pairs: rows, uids_hash: ContentHash::of(&uids), blob_bytes })
}

fn write_file(
    path: &Path,
    schema: &SchemaRef,
    properties: WriterProperties,
    batches: impl Iterator<Item = io::Result<RecordBatch>>,
) -> Result<(), SchemaError> {
    durable::write_with(path, |file| {
        let mut writer = ParquetWriter::try_new(file, Arc::clone(schema), Some(properties))
            .map_err(io::Error::other)?;
        for batch in batches {
            writer.write(&batch?).map_err(io::Error::other)?;
        }
        writer.close().map_err(io::Error::other)?;
        Ok(())
    })
}

struct Row {
    uid: Uid,
    number: u64,
    sha256: ContentHash,
    phash: u64,
    caption: String,
    width: u32,
    height: u32,
}

impl Row {
    fn of(seed: u64, number: u64) -> Self {
        let (image, phash) = image_of(seed, number);
        let caption = caption_of(seed, number);
        let sha256 = ContentHash::of(&[seed.to_le_bytes(), image.to_le_bytes()].concat());
        let mut of_image = Random::new(seed_of(&[seed, image, 2]));
        let area = (12.5 + 1.1 * normal(&mut of_image)).exp().clamp(64.0, 6e7);
        let aspect = (0.2 + 0.35 * normal(&mut of_image)).exp();
        let side = |value: f64| (value as u32).clamp(1, 20_000);
        let (width, height) = (side((area * aspect).sqrt()), side((area / aspect).sqrt()));
        Self { uid: Uid::of(&sha256, &caption), number, sha256, phash, caption, width, height }
    }
}

impl Kind {
    fn of(seed: u64, number: u64) -> Self {
        use Source::{Another, Hot, NearAnother, Own};
        let (image, caption) = match seed_of(&[seed, number, 0]) % 100 {
            0..2 => (Hot, Own),
            2..10 => (Another, Own),
            10..15 => (NearAnother, Own),
            15..18 => (Own, Hot),
            18..22 => (Own, Another),
            22..27 => (Own, NearAnother),
            _ => (Own, Own),
        };
        Self { image, caption }
    }
}

/// Returns the row whose image a row shows, and its perceptual hash.
fn image_of(seed: u64, number: u64) -> (u64, u64) {
    let mut random = Random::new(seed_of(&[seed, number, 1]));
    let mut another = || image_of(seed, random.below(number));
    // Row 0 has no row before it.
    match Kind::of(seed, number).image {
        Source::Hot => (BLANK, 0),
        Source::Another if number > 0 => another(),
        Source::NearAnother if number > 0 => {
            let (_, near) = another();
            let flips = 1 + random.below(4);
            (number, (0..flips).fold(near, |hash, _| hash ^ 1 << random.below(64)))
        }
        _ => (number, phash_of(seed, number)),
    }
}

fn caption_of(seed: u64, number: u64) -> String {
    let mut random = Random::new(seed_of(&[seed, number, 6]));
    let mut another = || caption_of(seed, random.below(number));
    let kind = Kind::of(seed, number);
    match kind.caption {
        Source::Hot => HOT_CAPTIONS[random.below(4) as usize].to_owned(),
        Source::Another if number > 0 => another(),
        Source::NearAnother if number > 0 => {
            format!("{}, {}", another().to_uppercase(), random.below(10))
        }
        // An equal image with an equal caption would be an equal pair.
        _ if matches!(kind.image, Source::Hot | Source::Another) => {
            format!("{} {number}", own_caption(seed, number))
        }
        _ => own_caption(seed, number),
    }
}

fn phash_of(seed: u64, image: u64) -> u64 {
    seed_of(&[seed, image, 3])
}

/// Makes a caption of 3 to 18 words, some with a number.
fn own_caption(seed: u64, number: u64) -> String {
    let mut random = Random::new(seed_of(&[seed, number, 4]));
    let words = (3.0 + 4.0 * (0.7 * normal(&mut random)).exp()).min(18.0) as u64;
    let mut caption = String::new();
    for word in 0..words {
        // Zipf: the rank is log-uniform.
        let rank = (VOCABULARY as f64).powf(random.uniform(0.0, 1.0)) as u64;
        if word > 0 {
            caption.push(' ');
        }
        push_word(rank, &mut caption);
    }
    if random.below(4) == 0 {
        caption.push(' ');
        caption.push_str(&random.below(100_000).to_string());
    }
    caption
}

/// Appends the word of a rank. Frequent words are short.
fn push_word(rank: u64, caption: &mut String) {
    let mut random = Random::new(seed_of(&[rank, 7]));
    let letters = 2 + u64::from(rank.max(1).ilog2()) / 2 + random.below(3);
    for letter in 0..letters {
        let from: &[u8] = if letter % 2 == 0 { b"bcdfghjklmnprstvwxz" } else { b"aeiouy" };
        caption.push(char::from(from[random.below(from.len() as u64) as usize]));
    }
}

/// Returns a normal number with mean 0.24 and deviation 0.06, like CLIP similarities of pairs from
/// the web.
fn bell(seed: u64, number: u64) -> f64 {
    0.24 + 0.06 * normal(&mut Random::new(seed_of(&[seed, number, 5])))
}

/// Returns a standard normal number (Box and Muller, 1958).
fn normal(random: &mut Random) -> f64 {
    let (radius, angle) = (random.uniform(1e-12, 1.0), random.uniform(0.0, std::f64::consts::TAU));
    (-2.0 * radius.ln()).sqrt() * angle.cos()
}

fn meta_batch(shard: u32, first: u64, rows: &[Row]) -> io::Result<RecordBatch> {
    let text = |value: &dyn Fn(&Row) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(value)))
    };
    let number = |value: &dyn Fn(&Row) -> u32| -> ArrayRef {
        Arc::new(UInt32Array::from_iter_values(rows.iter().map(value)))
    };
    let uids = FixedSizeBinaryArray::try_from_iter(rows.iter().map(|row| row.uid.0))
        .map_err(io::Error::other)?;
    let hashes = FixedSizeBinaryArray::try_from_iter(rows.iter().map(|row| row.sha256.0))
        .map_err(io::Error::other)?;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(uids),
        text(&|row| row.caption.clone()),
        number(&|row| row.width),
        number(&|row| row.height),
        text(&|row| {
            ["jpeg", "jpeg", "jpeg", "jpeg", "jpeg", "jpeg", "png", "webp"]
                [(row.phash % 8) as usize]
                .into()
        }),
        Arc::new(UInt64Array::from_iter_values(
            rows.iter().map(|row| u64::from(row.width) * u64::from(row.height) / 8 + 600),
        )),
        Arc::new(hashes),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.phash))),
        Arc::new(UInt8Array::from_iter_values(rows.iter().map(|_| 1))),
        Arc::new(StringArray::new_null(rows.len())),
        text(&|row| format!("pairs/{:05}.tar", row.number / 10_000)),
        text(&|row| format!("{:09}", row.number)),
        number(&|_| shard),
        number(&|row| ((row.number - first) / GROUP_ROWS) as u32),
        number(&|row| ((row.number - first) % GROUP_ROWS) as u32),
    ];
    RecordBatch::try_new(meta_schema(&[]), columns).map_err(io::Error::other)
}
