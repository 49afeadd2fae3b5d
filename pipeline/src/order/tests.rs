use proptest::prelude::*;

use super::*;

fn order_of(sizes: &[u32], seed: u64, window_row_groups: usize, row_group_parts: usize) -> Order {
    Order::new(
        sizes,
        ContentHash::of(b"selection"),
        seed,
        Shuffle { window_row_groups, row_group_parts },
    )
}

pub(super) fn rows(order: &Order, epoch: u64) -> Vec<u64> {
    let epoch = order.epoch(epoch);
    (0..epoch.windows()).flat_map(|index| order.window(&epoch, index).rows).collect()
}

proptest! {
    #[test]
    fn every_epoch_is_a_permutation(sizes in prop::collection::vec(0_u32..40, 0..30), seed: u64,
        epoch in 0_u64..9, window in 1_usize..9, parts in 1_usize..9) {
        let order = order_of(&sizes, seed, window, parts);
        let mut all = rows(&order, epoch);
        prop_assert_eq!(all.len() as u64, order.epoch_len());
        all.sort_unstable();
        prop_assert!(all.iter().copied().eq(0..order.epoch_len()));
    }

    #[test]
    fn a_position_has_the_row_that_the_walk_meets_there(sizes in prop::collection::vec(0_u32..20,
        1..12), seed: u64, epoch in 0_u64..3, window in 1_usize..5, parts in 1_usize..9,
        heavy: bool) {
        let mut order = order_of(&sizes, seed, window, parts);
        if heavy {
            let weights: Vec<f32> = (0..order.epoch_len()).map(|row| 0.3 * (row % 9) as f32)
                .collect();
            order = order.with_weights(&weights);
        }
        for (position, row) in rows(&order, epoch).into_iter().enumerate() {
            prop_assert_eq!(order.row(epoch, position as u64), Some(row));
        }
        prop_assert_eq!(order.row(epoch, order.epoch_len()), None);
    }

    #[test]
    fn a_window_holds_whole_blocks(sizes in prop::collection::vec(1_u32..20, 1..12), seed: u64,
        window in 1_usize..5, parts in 1_usize..9) {
        let order = order_of(&sizes, seed, window, parts);
        let epoch = order.epoch(0);
        let block_of = |row: u64| order.starts.partition_point(|start| *start <= row) - 1;
        for index in 0..epoch.windows() {
            let rows = order.window(&epoch, index).rows;
            let mut blocks: Vec<usize> = rows.iter().map(|row| block_of(*row)).collect();
            blocks.sort_unstable();
            blocks.dedup();
            prop_assert!(blocks.len() <= window * parts);
            prop_assert_eq!(rows.len() as u64, blocks.iter().map(|block| order
                .block_rows(*block as u32).count() as u64).sum::<u64>());
        }
    }

    #[test]
    fn blocks_are_parts_of_equal_size_that_no_row_group_shares(
        sizes in prop::collection::vec(1_u32..100, 1..9), parts in 1_usize..9) {
        let order = order_of(&sizes, 0, 1, parts);
        let mut row = 0;
        for size in sizes {
            prop_assert!(order.starts.contains(&row));
            let end = row + u64::from(size);
            let inside: Vec<u64> = order.starts.iter().copied()
                .filter(|start| (row..=end).contains(start)).collect();
            prop_assert_eq!(inside.len() - 1, parts.min(size as usize));
            let sizes: Vec<u64> = inside.windows(2).map(|two| two[1] - two[0]).collect();
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
            row = end;
        }
        prop_assert_eq!(order.starts.last(), Some(&row));
    }

    #[test]
    fn weighted_rows_come_as_often_as_their_weight_rounded_down_or_up_and_the_length_is_fixed(
        weights in prop::collection::vec(prop_oneof![Just(1.0_f32), Just(2.0), 0.01_f32..4.0],
        1..80), seed: u64, epoch in 0_u64..20, parts in 1_usize..5) {
        let (groups, rest) = (weights.len() / 10, weights.len() % 10);
        let mut sizes = vec![10; groups];
        sizes.push(rest as u32);
        let order = order_of(&sizes, seed, 2, parts).with_weights(&weights);
        let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        // Fixed point rounds each weight by at most 2⁻²⁵.
        let rounding = weights.len() as f64 / f64::from(1_u32 << 25);
        let length = order.epoch_len();
        prop_assert!((sum - rounding).floor() as u64 <= length && length <= (sum + rounding)
            .floor() as u64);
        let all = rows(&order, epoch);
        prop_assert_eq!(all.len() as u64, length);
        let mut missing = 0;
        for (row, weight) in weights.iter().enumerate() {
            let times = all.iter().filter(|found| **found == row as u64).count() as f32;
            prop_assert!(times <= (weight + 1e-6).ceil(), "{weight} came {times} times");
            if times < (weight - 1e-6).floor() {
                missing += 1;
            }
        }
        // The one sample that the rounded-down length leaves out of some epochs.
        prop_assert!(missing <= 1);
    }
}

#[test]
fn fractions_of_weights_are_met_over_epochs_and_independently_of_neighbours() {
    // 2.3, 0.4 and 1, in turns.
    let weights: Vec<f32> = (0..600).map(|row| [2.3, 0.4, 1.0][row % 3]).collect();
    let order = order_of(&[200; 3], 5, 2, 8).with_weights(&weights);
    // 740, but the nearest f32 to 2.3 and to 0.4 are a little smaller and larger.
    assert_eq!(order.epoch_len(), 739);
    let epochs = 1000;
    let (mut third, mut once, mut both) = (0_u32, 0_u32, 0_u32);
    for epoch in 0..epochs {
        let all = rows(&order, epoch);
        let times = |row: u64| all.iter().filter(|found| **found == row).count();
        // The last sample of an epoch may be the one that the rounded-down length leaves out.
        assert!((1..=3).contains(&times(300)) && times(301) <= 1);
        third += u32::from(times(300) == 3);
        once += u32::from(times(301) == 1);
        both += u32::from(times(301) == 1 && times(304) == 1);
    }
    // Five standard deviations: 5 · √(1000 · p · (1 − p)) ≤ 5 · 15.5.
    let near = |count: u32, share: f64| (f64::from(count) - share * epochs as f64).abs() < 78.0;
    assert!(near(third, 0.3) && near(once, 0.4) && near(both, 0.16), "{third} {once} {both}");
}

#[test]
fn equal_weights_of_one_leave_the_order_as_it_is_without_them() {
    let order = order_of(&[50; 20], 1, 4, 8);
    assert_eq!(rows(&order, 3), rows(&order.clone().with_weights(&[1.0; 1000]), 3));
}

#[test]
fn whole_weights_repeat_every_row_in_every_epoch() {
    let order = order_of(&[30; 4], 1, 2, 4).with_weights(&[3.0; 120]);
    for epoch in 0..50 {
        let mut all = rows(&order, epoch);
        all.sort_unstable();
        assert!(
            all.chunks(3)
                .map(|three| [three[0], three[1], three[2]])
                .eq((0..120).map(|row| [row; 3]))
        );
    }
}

#[test]
fn epoch_seed_and_selection_each_change_the_order() {
    let sizes = [50; 20];
    let base = rows(&order_of(&sizes, 1, 4, 8), 0);
    assert_eq!(base, rows(&order_of(&sizes, 1, 4, 8), 0));
    assert_ne!(base, rows(&order_of(&sizes, 1, 4, 8), 1));
    assert_ne!(base, rows(&order_of(&sizes, 2, 4, 8), 0));
    let shuffle = Shuffle { window_row_groups: 4, row_group_parts: 8 };
    assert_ne!(base, rows(&Order::new(&sizes, ContentHash::of(b"other"), 1, shuffle), 0));
}

#[test]
fn every_row_comes_first_in_a_window_equally_often() {
    let order = order_of(&[3, 3], 9, 2, 1);
    let mut counts = [0_i32; 6];
    for epoch in 0..6000 {
        counts[order.row(epoch, 0).unwrap() as usize] += 1;
    }
    // Five standard deviations: 5 · √(6000 · 1/6 · 5/6) ≈ 144.
    assert!(counts.iter().all(|count| (count - 1000).abs() < 144), "{counts:?}");
}
