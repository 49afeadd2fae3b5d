//! Demo data: thousands of drawn scenes with composed captions, in the three layouts that ingest
//! reads.
//!
//! Captions combine shape, colour, size, place, number and relation. The data has the faults of
//! scraped data. It trains within minutes on two cores. It also tells learning from guessing,
//! because the held-out scenes show pairs of colour and shape that training never sees.
//!
//! This crate does not split or curate. The SQL files beside the data do that, where the user sees
//! it. The bytes are a pure function of the options, and every caption and column is true of its
//! picture.

mod caption;
mod damage;
mod draw;
mod encode;
mod layouts;
mod notes;
mod random;
mod sample;
mod scene;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use diptych_schemas::{SchemaError, durable};
use image::ImageError;
use parquet::errors::ParquetError;

use layouts::{FolderWriter, ParquetFile, TarWriter, write_text};
use sample::Recipe;

/// Options of the generator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DemoOptions {
    /// Good scenes. About a tenth as many damaged records are added.
    pub scenes: u32,
    pub seed: u64,
    /// Side of most images in pixels. Some are a sixth larger, some a third.
    pub image_size: u32,
}

impl Default for DemoOptions {
    /// About 3,500 pairs for training and 900 held out.
    fn default() -> Self {
        Self { scenes: 4500, seed: 0, image_size: 96 }
    }
}

/// Counts of the generated records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoReport {
    /// Globs and files to ingest, in the order of their keys.
    pub sources: Vec<PathBuf>,
    /// Good scenes without a held-out composition.
    pub training: u32,
    /// Good scenes with a held-out composition.
    pub heldout: u32,
    /// Held-out scenes with a single object.
    pub heldout_single: u32,
    /// Damaged records by kind.
    pub damaged: BTreeMap<&'static str, u32>,
}

/// Errors of the generator.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error(
        "{path} exists already and is not an empty folder: choose another one or remove it first"
    )]
    Exists { path: PathBuf },
    #[error("{name} must be from {low} to {high}, got {given}")]
    Option { name: &'static str, low: u32, high: u32, given: u32 },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path}: cannot write Parquet: {source}")]
    Parquet { path: PathBuf, source: ParquetError },
    #[error("cannot encode a picture: {0}")]
    Image(#[from] ImageError),
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

impl DemoError {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

/// The WebDataset's tars. Together they hold seven tenths of the records.
const TARS: [&str; 3] = ["scenes-00000.tar", "scenes-00001.tar", "scenes-00002.tar"];

/// Generates demo data in the folder `out`, which must be empty or missing.
///
/// The folder appears only when it is complete.
pub fn generate(out: &Path, options: DemoOptions) -> Result<DemoReport, DemoError> {
    for (name, low, high, given) in
        [("scenes", 1, 10_000_000, options.scenes), ("image_size", 64, 1024, options.image_size)]
    {
        if !(low..=high).contains(&given) {
            return Err(DemoError::Option { name, low, high, given });
        }
    }
    if out.exists() && fs::read_dir(out).map_or(true, |mut entries| entries.next().is_some()) {
        return Err(DemoError::Exists { path: out.to_owned() });
    }
    let unfinished = durable::unfinished(out);
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(DemoError::io(&unfinished))?;
    }
    let report = fill(&unfinished, out, options)?;
    // Files are not flushed one by one, because after a power cut the seed makes them again.
    durable::publish(&unfinished, out)?;
    Ok(report)
}

/// Writes everything into `folder`. The report's paths are those below `out`.
fn fill(folder: &Path, out: &Path, options: DemoOptions) -> Result<DemoReport, DemoError> {
    let DemoOptions { scenes, seed, image_size } = options;
    let recipe = Recipe { seed, scenes, image_size };
    fs::create_dir_all(folder).map_err(DemoError::io(folder))?;

    let mut report = DemoReport {
        sources: vec![
            out.join("scenes-*.tar"),
            out.join("scenes.parquet"),
            out.join("folder/captions.csv"),
        ],
        training: 0,
        heldout: 0,
        heldout_single: 0,
        damaged: BTreeMap::new(),
    };
    let records = damage::plan(seed, scenes, |scene| recipe.is_jpeg(scene));
    // The plan is shuffled, so any part of it is a fair sample.
    let in_tars = records.len() * 7 / 10;
    let in_parquet = (records.len() - in_tars) / 2;
    let (tar_part, rest) = records.split_at(in_tars);
    let (parquet_part, folder_part) = rest.split_at(in_parquet);
    let key = |at: usize| format!("{at:07}");

    let per_tar = in_tars.div_ceil(TARS.len()).max(1);
    let mut at = 0;
    for (name, part) in TARS.iter().zip(tar_part.chunks(per_tar)) {
        let mut writer = TarWriter::create(&folder.join(name))?;
        for record in part {
            writer.write(&key(at), &recipe.sample(*record)?)?;
            at += 1;
        }
        writer.finish()?;
    }
    let mut writer = ParquetFile::create(&folder.join("scenes.parquet"))?;
    for record in parquet_part {
        writer.write(&key(at), recipe.sample(*record)?)?;
        at += 1;
    }
    writer.finish()?;
    let mut writer = FolderWriter::create(&folder.join("folder"))?;
    for record in folder_part {
        writer.write(&key(at), &recipe.sample(*record)?)?;
        at += 1;
    }
    writer.finish()?;

    for record in &records {
        if let Some(damage) = record.damage {
            let kind = damage::KINDS.iter().find(|kind| kind.damage == damage);
            *report.damaged.entry(kind.map_or("", |kind| kind.name)).or_default() += 1;
            continue;
        }
        let scene = recipe.scene(record.scene);
        if scene.held_out() {
            report.heldout += 1;
            report.heldout_single += u32::from(scene.kind() == "single");
        } else {
            report.training += 1;
        }
    }
    for (name, text) in [
        ("train.sql", notes::train_sql()),
        ("heldout.sql", notes::heldout_sql()),
        ("heldout_single.sql", notes::heldout_single_sql()),
        ("classes.txt", notes::classes()),
        ("templates.txt", notes::TEMPLATES.to_owned()),
        ("README.txt", notes::readme(seed, scenes)),
    ] {
        write_text(&folder.join(name), &text)?;
    }
    Ok(report)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use arrow::array::{Array, AsArray};
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use sha2::{Digest, Sha256};

    use super::*;

    const OPTIONS: DemoOptions = DemoOptions { scenes: 300, seed: 1, image_size: 64 };

    /// Returns the hash of each file by its path below `folder`.
    fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let (mut found, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
        while let Some(inside) = folders.pop() {
            for entry in fs::read_dir(inside).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let hash = Sha256::digest(fs::read(&path).unwrap()).to_vec();
                    found.insert(path.strip_prefix(folder).unwrap().to_owned(), hash);
                }
            }
        }
        found
    }

    /// Returns the names and contents of the members of all tars.
    fn members(folder: &Path) -> Vec<(String, Vec<u8>)> {
        let mut members = Vec::new();
        for name in TARS {
            let file = fs::File::open(folder.join(name)).unwrap();
            for entry in tar::Archive::new(file).entries().unwrap() {
                let mut entry = entry.unwrap();
                let mut bytes = Vec::new();
                entry.read_to_end(&mut bytes).unwrap();
                members.push((entry.path().unwrap().to_str().unwrap().to_owned(), bytes));
            }
        }
        members
    }

    #[test]
    fn same_seed_gives_the_same_bytes_and_another_seed_others() {
        let folder = tempfile::tempdir().unwrap();
        let made = |name: &str, options| {
            let out = folder.path().join(name);
            generate(&out, options).unwrap();
            files(&out)
        };
        let first = made("first", OPTIONS);
        assert_eq!(first, made("second", OPTIONS));
        let other = made("other", DemoOptions { seed: 2, ..OPTIONS });
        let tar = Path::new("scenes-00000.tar");
        assert_ne!(first[tar], other[tar]);
    }

    #[test]
    fn the_three_layouts_hold_all_records_each_once() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("data");
        let report = generate(&out, OPTIONS).unwrap();
        assert_eq!(report.training + report.heldout, 300);
        let damaged: u32 = report.damaged.values().sum();

        let jsons: Vec<Vec<u8>> = members(&out)
            .into_iter()
            .filter(|(name, _)| {
                Path::new(name).extension().is_some_and(|extension| extension == "json")
            })
            .map(|(_, bytes)| bytes)
            .collect();
        for bytes in &jsons {
            let columns: BTreeMap<String, String> = serde_json::from_slice(bytes).unwrap();
            assert_eq!(columns.len(), sample::COLUMNS.len());
        }
        let file = fs::File::open(out.join("scenes.parquet")).unwrap();
        let batches = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let mut rows = 0;
        for batch in batches {
            let batch = batch.unwrap();
            rows += batch.num_rows();
            let bytes =
                batch.column(0).as_struct().column_by_name("bytes").unwrap().as_binary::<i32>();
            assert!(
                bytes
                    .iter()
                    .flatten()
                    .filter(|bytes| image::load_from_memory(bytes).is_ok())
                    .count()
                    * 5
                    > bytes.len() * 4
            );
        }
        let mut csv = csv::Reader::from_path(out.join("folder/captions.csv")).unwrap();
        let lines: Vec<csv::StringRecord> = csv.records().map(Result::unwrap).collect();
        let there = lines.iter().filter(|line| out.join("folder").join(&line[0]).is_file()).count();
        assert!(there * 10 > lines.len() * 9, "{there} of {}", lines.len());
        assert_eq!(jsons.len() + rows + lines.len(), (300 + damaged) as usize);
    }

    #[test]
    fn sources_of_the_report_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("data");
        let report = generate(&out, DemoOptions { scenes: 20, ..OPTIONS }).unwrap();
        assert_eq!(report.sources[0], out.join("scenes-*.tar"));
        assert!(TARS.iter().all(|name| out.join(name).is_file()));
        assert!(report.sources[1].is_file() && report.sources[2].is_file());
        let readme = fs::read_to_string(out.join("README.txt")).unwrap();
        assert!(report.damaged.keys().all(|name| readme.contains(name)), "{readme}");
    }

    #[test]
    fn folder_in_use_is_left_alone_and_a_half_made_one_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("data");
        fs::create_dir_all(durable::unfinished(&out).join("left over")).unwrap();
        fs::create_dir(&out).unwrap();
        let options = DemoOptions { scenes: 5, ..OPTIONS };
        generate(&out, options).unwrap();
        assert!(!durable::unfinished(&out).exists());
        let before = files(&out);
        let error = generate(&out, DemoOptions { seed: 9, ..options }).unwrap_err();
        assert!(error.to_string().contains("data exists already"), "{error}");
        assert_eq!(files(&out), before);
        let error = generate(&folder.path().join("none"), DemoOptions { scenes: 0, ..options })
            .unwrap_err();
        assert!(error.to_string().contains("scenes must be from 1 to"), "{error}");
    }
}
