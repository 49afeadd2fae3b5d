//! `diptych bench`: measures a part of Diptych on the user's machine, and on the user's data if it
//! reads any.

mod loader;
mod search;
mod train;

use diptych_cli::{Bench, BenchArgs};
use diptych_pipeline::median;
use diptych_schemas::outcome::Outcome;

const MIB: f64 = (1 << 20) as f64;

pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<Outcome> {
    match &args.what {
        Bench::Loader(args) => loader::run(args),
        Bench::Train(args) => train::run(args),
        Bench::Search(args) => search::run(args),
    }
}

/// Returns lowest, median and highest, or nothing if there are no values.
fn spread_of(values: impl IntoIterator<Item = f64>) -> Option<[f64; 3]> {
    let values: Vec<f64> = values.into_iter().collect();
    let lowest = values.iter().copied().reduce(f64::min)?;
    let highest = values.iter().copied().reduce(f64::max)?;
    Some([lowest, median(values), highest])
}

/// Returns the most memory that this process had resident, in bytes, if the system says it.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}
