//! A comparison of the loader with bare decoding of the same images.
//!
//! Rounds of both alternate, so that other load on the machine affects both equally. The ratio of
//! two neighbouring rounds therefore says more than either speed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use arrow::buffer::Buffer;
use diptych_sample::BareDecoder;
use diptych_schemas::SampleIndex;

use super::plan::Pick;
use super::shards::Shards;
use super::{LoaderError, LoaderSpec, LoaderStats, train_loader};
use crate::{ImageFormat, Selection};

/// Memory for image files in bare decoding, in bytes. Further pairs are not measured.
const KEPT_BYTES: u64 = 512 << 20;

/// The settings of a measurement.
pub struct BenchSpec {
    /// The loader to measure, with one source. Its `start` and `epochs` are ignored.
    pub loader: LoaderSpec,
    /// Most pairs to measure, from the start of the selection; 0: all.
    pub pairs: usize,
    pub rounds: usize,
    /// Passes over the pairs per round; 0: as many as take a second, measured by a first pass that
    /// does not count.
    pub epochs: u64,
    /// Whether bare decoding alternates with the loader. Its files are kept in memory, so fewer
    /// pairs may be measured.
    pub bare: bool,
}

/// The results of a measurement.
#[derive(Clone, Debug)]
pub struct BenchReport {
    /// Pairs in one pass, and the bytes of their files if bare decoding was measured.
    pub pairs: u64,
    pub file_bytes: Option<u64>,
    /// Files that are not JPEG, which bare decoding reads with other decoders.
    pub other_formats: u64,
    /// Passes per round.
    pub epochs: u64,
    pub rounds: Vec<BenchRound>,
    /// Statistics of all rounds together.
    pub stats: LoaderStats,
}

/// One round of the loader and of bare decoding.
#[derive(Clone, Debug)]
pub struct BenchRound {
    pub loader: Rate,
    pub bare: Option<Rate>,
    pub stats: LoaderStats,
    /// Images that could not be used.
    pub skipped: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub images: u64,
    pub seconds: f64,
    /// Processor time of all threads, if the system reports it. It is a better measure on a machine
    /// with other load.
    pub cpu_seconds: Option<f64>,
}

/// The start of a [`Rate`].
struct Start {
    time: Instant,
    cpu_seconds: Option<f64>,
}

impl Start {
    fn now() -> Self {
        Self { time: Instant::now(), cpu_seconds: cpu_seconds() }
    }

    fn rate(&self, images: u64) -> Rate {
        let cpu_seconds = self.cpu_seconds.zip(cpu_seconds()).map(|(before, now)| now - before);
        Rate { images, seconds: self.time.elapsed().as_secs_f64(), cpu_seconds }
    }
}

/// Returns the processor time of this process in seconds, from Linux's `/proc` (proc(5): fields 14
/// and 15 of `stat`, in hundredths of a second).
pub fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name, in brackets, and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some((ticks(14)? + ticks(15)?) as f64 / 100.0)
}

impl Rate {
    /// Returns the images per second of processor time.
    pub fn per_cpu_second(self) -> Option<f64> {
        self.cpu_seconds.map(|seconds| self.images as f64 / seconds.max(0.01))
    }

    pub fn per_second(self) -> f64 {
        self.images as f64 / self.seconds.max(1e-9)
    }
}

impl BenchRound {
    /// Returns the speed of the loader divided by that of bare decoding.
    pub fn ratio(&self) -> Option<f64> {
        self.bare.map(|bare| self.loader.per_second() / bare.per_second())
    }

    /// Returns [`Self::ratio`] per second of processor time.
    pub fn cpu_ratio(&self) -> Option<f64> {
        Some(self.loader.per_cpu_second()? / self.bare?.per_cpu_second()?)
    }
}

/// Measures the loader, and calls `each` after each round.
pub fn bench_loader(
    mut spec: BenchSpec,
    each: &mut dyn FnMut(&BenchRound),
) -> Result<BenchReport, LoaderError> {
    let all = spec.loader.sources[0].selection.len();
    let wanted = if spec.pairs == 0 { all } else { spec.pairs.min(all) };
    let files = if spec.bare { Some(files(&spec.loader, wanted)?) } else { None };
    let pairs = files.as_ref().map_or(wanted, Vec::len);
    if pairs < all {
        let source = &mut spec.loader.sources[0];
        source.selection = first(&source.selection, pairs).into();
    }
    spec.loader.start = SampleIndex(0);
    let epochs = match spec.epochs {
        0 => {
            let (pass, _, _) = deliver(&spec.loader, 1)?;
            (1.0 / pass.seconds).ceil().max(1.0) as u64
        }
        epochs => epochs,
    };
    let mut rounds: Vec<BenchRound> = Vec::new();
    let mut total: Option<LoaderStats> = None;
    for _ in 0..spec.rounds.max(1) {
        let (loader, stats, skipped) = deliver(&spec.loader, epochs)?;
        let threads = stats.stage("decode").map_or(1, |stage| stage.threads);
        let bare = match &files {
            Some(files) => Some(decode_bare(files, loader.images as usize, threads)?),
            None => None,
        };
        match &mut total {
            Some(total) => total.add(&stats),
            None => total = Some(stats.clone()),
        }
        let round = BenchRound { loader, bare, stats, skipped };
        each(&round);
        rounds.push(round);
    }
    let stats = total.unwrap_or_default();
    let other = |file: &&Buffer| ImageFormat::of(file) != Some(ImageFormat::Jpeg);
    Ok(BenchReport {
        pairs: pairs as u64,
        file_bytes: files.as_ref().map(|files| files.iter().map(|file| file.len() as u64).sum()),
        other_formats: files.as_ref().map_or(0, |files| files.iter().filter(other).count() as u64),
        epochs,
        rounds,
        stats,
    })
}

/// Returns the first rows of a selection.
fn first(selection: &Selection, rows: usize) -> Selection {
    Selection {
        uids: selection.uids[..rows].to_vec(),
        shards: selection.shards[..rows].to_vec(),
        row_groups: selection.row_groups[..rows].to_vec(),
        rows: selection.rows[..rows].to_vec(),
        weights: selection.weights[..rows].to_vec(),
        ..selection.clone()
    }
}

/// Reads the image files of the first rows, as many as fit into memory.
fn files(spec: &LoaderSpec, rows: usize) -> Result<Vec<Buffer>, LoaderError> {
    let mut shards = Shards::open(
        spec.sources[..1].to_vec(),
        spec.seed,
        true,
        &spec.config.remote,
        &Arc::default(),
    )?;
    let stop = AtomicBool::new(false);
    let mut left = KEPT_BYTES;
    let mut files = Vec::new();
    let rows: Vec<Pick> =
        (0..rows as u64).map(|row| Pick { source: 0, row, sample: row }).collect();
    for rows in rows.chunks(256) {
        let mut pairs = shards.describe(rows, &stop)?.unwrap_or_default();
        let fit = pairs
            .iter()
            .take_while(|pair| left.checked_sub(pair.bytes).inspect(|rest| left = *rest).is_some())
            .count();
        let whole = fit == pairs.len();
        pairs.truncate(fit);
        shards.load(&mut pairs, &stop)?;
        files.extend(pairs.into_iter().map(|pair| pair.image));
        if !whole {
            break;
        }
    }
    Ok(files)
}

/// Takes all batches of some passes as fast as they come. Returns the rate, the statistics and the
/// number of skipped images.
fn deliver(spec: &LoaderSpec, epochs: u64) -> Result<(Rate, LoaderStats, u64), LoaderError> {
    let begin = Start::now();
    let mut loader = train_loader(LoaderSpec { epochs, ..spec.clone() })?;
    let (mut images, mut skipped) = (0, 0);
    for batch in loader.by_ref() {
        let batch = batch?;
        images += batch.len() as u64;
        skipped += batch.skipped.len() as u64;
    }
    Ok((begin.rate(images), loader.stats(), skipped))
}

/// Decodes `count` images, repeating `files`, on `threads` threads, and does nothing else.
fn decode_bare(files: &[Buffer], count: usize, threads: usize) -> Result<Rate, LoaderError> {
    let next = AtomicUsize::new(0);
    let begin = Start::now();
    std::thread::scope(|scope| -> Result<(), LoaderError> {
        for _ in 0..threads {
            let decode = || {
                let mut decoder = BareDecoder::default();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    decoder.decode(&files[number % files.len()]);
                }
            };
            std::thread::Builder::new()
                .name("diptych-bare".into())
                .spawn_scoped(scope, decode)
                .map_err(LoaderError::Threads)?;
        }
        Ok(())
    })?;
    Ok(begin.rate(count as u64))
}

/// Returns the median: the middle value, or the mean of the middle two.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        length => f64::midpoint(sorted[(length - 1) / 2], sorted[length / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!((median([3.0, 1.0, 2.0]), median([4.0, 1.0, 2.0, 3.0])), (2.0, 2.5));
    }
}
