//! Metrics of runs that last for weeks.

use std::path::Path;
use std::time::{Duration, Instant};

use diptych_schemas::{SampleIndex, Step};
use diptych_store::{FLUSH_EVERY_MS, MetricRow, Milliseconds, RunName, Store};

use crate::samples::*;

#[test]
fn of_old_steps_one_of_many_stays_and_all_evaluations() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    let runs = ["at-once", "by-and-by", "other"].map(|name| RunName::new(name).unwrap());
    let evaluation = |run: &RunName| {
        let row = MetricRow { values: vec![("heldout/i2t_recall@1".into(), 0.5)], ..metrics(777) };
        store.append_metrics(run, &[row]).unwrap();
    };
    for run in &runs {
        store.append_metrics(run, &(1..=2500).map(metrics).collect::<Vec<_>>()).unwrap();
        evaluation(run);
    }
    // From 1 to 2000, the 20 multiples of 100 and step 777 stay.
    assert_eq!(store.thin_metrics(&runs[0], Step(0), Step(2000), 100).unwrap(), 2000 - 21);
    assert_eq!(store.thin_metrics(&runs[0], Step(0), Step(2000), 100).unwrap(), 0);
    for last in [1, 900, 1000, 2000] {
        store.thin_metrics(&runs[1], Step(0), Step(last), 100).unwrap();
    }
    let steps = |run: &RunName| {
        store.metrics(run).unwrap().iter().map(|row| row.step.0).collect::<Vec<_>>()
    };
    let expected: Vec<u64> =
        (1..=2500).filter(|step| step % 100 == 0 || *step == 777 || *step > 2000).collect();
    assert_eq!(steps(&runs[0]), expected);
    assert_eq!(steps(&runs[1]), expected);
    assert_eq!(store.metrics_at(&runs[0], Step(777)).unwrap().unwrap().values.len(), 3);
    assert_eq!(steps(&runs[2]).len(), 2500);
}

/// Simulates thirty days at five steps a second: `cargo test --workspace --test store --
/// thirty_days --ignored --nocapture`. `DIPTYCH_SIMULATED_STEPS` makes it and its window shorter.
///
/// sled collects space at each flush, every half second, and frees at most one segment each time.
/// Steps that come faster than a thousand in some seconds outrun it, and the file grows. A real run
/// has 400 flushes in 1,000 steps; here there are four.
#[test]
#[ignore = "takes as long as 13 million steps of metrics"]
fn thirty_days_of_metrics_keep_disk_and_memory_flat() {
    const DAYS: u64 = 30 * 86_400 * 5;
    const PAUSE: Duration = Duration::from_millis(4 * FLUSH_EVERY_MS);
    let steps: u64 =
        std::env::var("DIPTYCH_SIMULATED_STEPS").map_or(DAYS, |steps| steps.parse().unwrap());
    let raw = 1_000_000 * steps / DAYS;
    let folder = tempfile::tempdir_in(
        std::env::var("DIPTYCH_BENCH_FOLDER").unwrap_or_else(|_| "/tmp".into()),
    )
    .unwrap();
    let store = Store::open(folder.path()).unwrap();
    let names = [
        "loss",
        "lr",
        "grad_norm",
        "logit_scale",
        "samples_per_second",
        "data_wait_seconds",
        "mfu",
    ];
    let (mut measured, started) = (Vec::new(), Instant::now());
    let part = steps / 13;
    println!("{raw} raw steps, then one of 100");
    for step in 1..=steps {
        let values = names
            .iter()
            .enumerate()
            .map(|(place, name)| ((*name).to_owned(), (step * 31 + place as u64) as f64 / 7.0));
        let row = MetricRow {
            step: Step(step),
            samples: SampleIndex(step),
            time: Milliseconds(step as i64),
            values: values.collect(),
        };
        store.append_metrics(&run_name(), &[row]).unwrap();
        if step % 1000 == 0 {
            let up_to = step.saturating_sub(raw);
            store
                .thin_metrics(&run_name(), Step(up_to.saturating_sub(1000)), Step(up_to), 100)
                .unwrap();
            std::thread::sleep(PAUSE);
        }
        if step % 10_000 == 0 {
            // A checkpoint does the same.
            store.put_run(&run_record(step)).unwrap();
        }
        if step % part == 0 {
            let (disk, memory) = (bytes(folder.path()), resident());
            println!(
                "{step} steps: disk {:.0} MB, memory {:.0} MB, {:.0} s",
                disk as f64 / 1e6,
                memory as f64 / 1e6,
                started.elapsed().as_secs_f64()
            );
            measured.push((disk, memory));
        }
    }
    let opened = Instant::now();
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    println!("closed and opened in {:.1} s", opened.elapsed().as_secs_f64());
    let contents = store.check();
    // Steps up to here were thinned at the last thousand.
    let old = steps / 1000 * 1000 - raw;
    assert_eq!(contents.steps, steps - old + old / 100);
    // From the time when the window was full, at the third measurement, to the end.
    let ((disk, memory), (last_disk, last_memory)) = (measured[2], measured[measured.len() - 1]);
    assert!(last_disk < disk * 3 / 2, "disk: {disk}, at the end {last_disk} bytes");
    assert!(last_memory < memory * 3 / 2, "memory: {memory}, at the end {last_memory} bytes");
}

fn bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| {
            if entry.path().is_dir() {
                bytes(&entry.path())
            } else {
                entry.metadata().unwrap().len()
            }
        })
        .sum()
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
}
