//! Measures how well the shuffle of blocks and windows mixes, compared with a full shuffle.
//!
//! Measured are how often neighbours come from one row group, how many row groups a batch has, and
//! how far apart neighbours are in the dataset.

use std::collections::HashSet;

use super::tests::rows;
use super::*;

/// Like 25 GB of photographs of 100 KB: 256 row groups of 96 MiB.
const GROUPS: u64 = 256;
const ROWS: u64 = 1000;
const BATCH: usize = 256;

#[derive(Debug)]
struct Mixing {
    /// Share of neighbours that come from one row group.
    same_group: f64,
    /// Average number of different row groups in a batch of 256.
    groups_a_batch: f64,
    /// Largest difference between the distribution of the distances of neighbours and that of a
    /// full shuffle (Kolmogorov-Smirnov distance). Averaged over batches; 0 is a full shuffle.
    distance_of_batches: f64,
}

fn measure(order: &[u64]) -> Mixing {
    let pairs = (order.len() - 1) as f64;
    let same = order.windows(2).filter(|pair| pair[0] / ROWS == pair[1] / ROWS).count() as f64;
    let (mut groups, mut distance, mut batches) = (0.0, 0.0, 0.0);
    for batch in order.chunks_exact(BATCH).step_by(7) {
        groups += batch.iter().map(|row| row / ROWS).collect::<HashSet<u64>>().len() as f64;
        let total = (GROUPS * ROWS) as f64;
        let mut gaps: Vec<f64> =
            batch.windows(2).map(|pair| pair[0].abs_diff(pair[1]) as f64 / total).collect();
        gaps.sort_unstable_by(f64::total_cmp);
        let count = gaps.len() as f64;
        // The distance of two independent places in [0, 1) is at most x with probability 1 − (1 −
        // x)².
        let off = |(at, gap): (usize, &f64)| {
            ((at as f64 + 0.5) / count - (1.0 - (1.0 - gap).powi(2))).abs()
        };
        distance += gaps.iter().enumerate().map(off).fold(0.0, f64::max);
        batches += 1.0;
    }
    Mixing {
        same_group: same / pairs,
        groups_a_batch: groups / batches,
        distance_of_batches: distance / batches,
    }
}

fn shuffled(window_row_groups: usize, row_group_parts: usize) -> Mixing {
    let shuffle = Shuffle { window_row_groups, row_group_parts };
    measure(&rows(
        &Order::new(&[ROWS as u32; GROUPS as usize], ContentHash::of(b"s"), 1, shuffle),
        0,
    ))
}

#[test]
fn a_window_of_parts_mixes_nearly_as_a_full_shuffle_where_one_of_row_groups_does_not() {
    let mut everything: Vec<u64> = (0..GROUPS * ROWS).collect();
    Random::new(1).shuffle(&mut everything);
    let full = measure(&everything);
    println!("full shuffle: {full:?}");
    for (window, parts) in [(32, 1), (4, 16)] {
        println!("window of {window} row groups in {parts} parts: {:?}", shuffled(window, parts));
    }
    let (whole, parts) = (shuffled(4, 1), shuffled(4, 8));
    println!("window of 4 row groups: {whole:?}\nin 8 parts: {parts:?}");
    // In a window of 4 whole row groups, a quarter of the neighbours is of one group. Among 32
    // parts, of which sometimes two are of one group, it is 1/32 and a little more. Full: 1/256.
    assert!((whole.same_group - 0.25).abs() < 0.01, "{whole:?}");
    assert!((1.0 / 32.0..1.0 / 28.0).contains(&parts.same_group), "{parts:?}");
    assert!(whole.groups_a_batch < 8.0 && parts.groups_a_batch > 28.0, "{whole:?} {parts:?}");
    // A batch of 256 of a full shuffle has 256 · (1 − (255/256)^256) ≈ 162 of 256 row groups.
    assert!((full.groups_a_batch - 162.0).abs() < 2.0, "{full:?}");
    assert!(parts.distance_of_batches < 2.5 * full.distance_of_batches, "{parts:?} {full:?}");
    assert!(whole.distance_of_batches > 4.0 * full.distance_of_batches, "{whole:?} {full:?}");
}
