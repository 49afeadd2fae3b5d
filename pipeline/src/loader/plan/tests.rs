use diptych_schemas::ContentHash;
use proptest::prelude::*;

use super::*;
use crate::order::Shuffle;

/// The parameters of a stream, small enough to check all of it.
#[derive(Clone, Debug)]
struct Setting {
    /// Selected rows of each row group of each source.
    sources: Vec<Vec<u32>>,
    weighted: bool,
    shuffle: (usize, usize),
    seed: u64,
    /// Samples per rank and batch, times 8, so that it is divisible by 1, 2, 4 and 8 ranks.
    eighth: u64,
    epochs: u64,
}

fn setting() -> impl Strategy<Value = Setting> {
    let source = prop::collection::vec(1_u32..30, 2..8);
    let sources = prop::collection::vec(source, 1..4);
    (sources, any::<bool>(), (1_usize..4, 1_usize..9), any::<u64>(), 1_u64..3, 1_u64..4).prop_map(
        |(sources, weighted, shuffle, seed, eighth, epochs)| Setting {
            sources,
            weighted,
            shuffle,
            seed,
            eighth,
            epochs,
        },
    )
}

impl Setting {
    fn orders(&self) -> Vec<Order> {
        let shuffle =
            Shuffle { window_row_groups: self.shuffle.0, row_group_parts: self.shuffle.1 };
        let order = |sizes: &Vec<u32>| {
            let rows: u32 = sizes.iter().sum();
            let weights: Vec<f32> = (0..rows)
                .map(|row| if self.weighted { 0.4 + (row % 3) as f32 } else { 1.0 })
                .collect();
            Order::new(sizes, ContentHash::of(&sizes.len().to_le_bytes()), self.seed, shuffle)
                .with_weights(&weights)
        };
        self.sources.iter().map(order).collect()
    }

    fn cut(&self) -> Option<Cut> {
        let rows: u64 = self.orders().iter().map(Order::epoch_len).sum();
        let batch = 8 * self.eighth;
        (rows >= batch).then_some(Cut { batch, epoch: rows / batch * batch })
    }

    /// Returns the samples of a rank from a place in the stream of all ranks on.
    fn of_rank(&self, cut: Cut, rank: u64, ranks: u64, start: u64) -> Vec<Pick> {
        let share = Share::of_rank(cut, rank, ranks);
        let mut orders = self.orders();
        let weights: Vec<f64> = (0..orders.len()).map(|source| 1.0 + source as f64).collect();
        let stream = if orders.len() == 1 {
            Stream::One(orders.remove(0))
        } else {
            Stream::Mixed(orders, Mix::new(&weights, self.seed))
        };
        let mut next = share.local_before(start);
        let mut all = Vec::new();
        for stretch in train_plan(stream, share, next, share.local_before(cut.epoch * self.epochs))
        {
            assert_eq!(stretch.first, next);
            assert!(!stretch.rows.is_empty());
            next += stretch.rows.len() as u64;
            all.extend(stretch.rows);
        }
        all
    }
}

proptest! {
    #[test]
    fn any_number_of_ranks_from_any_start_has_the_rest_of_the_one_global_order(
        setting in setting(), ranks in prop::sample::select(vec![1_u64, 2, 4, 8]),
        start: prop::sample::Index) {
        let Some(cut) = setting.cut() else { return Ok(()) };
        let whole = setting.of_rank(cut, 0, 1, 0);
        prop_assert_eq!(whole.len() as u64, cut.epoch * setting.epochs);
        prop_assert!(whole.iter().map(|row| row.sample).eq(0..whole.len() as u64));
        let start = start.index(whole.len() + 1) as u64;
        let parts: Vec<Vec<Pick>> = (0..ranks).map(|rank| setting.of_rank(cut, rank, ranks, start))
            .collect();
        // In each batch, the concatenated parts of the ranks are the global batch.
        let mut together: Vec<Pick> = Vec::new();
        let mut taken = vec![0; parts.len()];
        let mut batch = cut.batch_start(start);
        while batch < cut.epoch * setting.epochs {
            for (part, taken) in parts.iter().zip(&mut taken) {
                let here = part[*taken..].iter().take_while(|row| row.sample < batch + cut.batch)
                    .count();
                together.extend_from_slice(&part[*taken..*taken + here]);
                *taken += here;
            }
            batch += cut.batch;
        }
        prop_assert_eq!(&together[..], &whole[start as usize..]);
    }

    #[test]
    fn the_stream_of_one_source_is_its_order_epoch_by_epoch(setting in setting()) {
        let setting = Setting { sources: setting.sources[..1].to_vec(), ..setting };
        let Some(cut) = setting.cut() else { return Ok(()) };
        let order = setting.orders().remove(0);
        for row in setting.of_rank(cut, 0, 1, 0) {
            prop_assert_eq!(Some(row.row), order.row(row.sample / cut.epoch,
                row.sample % cut.epoch));
        }
    }

    #[test]
    fn each_source_of_a_mix_passes_over_all_of_its_rows_before_it_begins_anew(
        setting in setting()) {
        let setting = Setting { weighted: false, epochs: 3, ..setting };
        let Some(cut) = setting.cut() else { return Ok(()) };
        prop_assume!(setting.sources.len() > 1);
        let all = setting.of_rank(cut, 0, 1, 0);
        for (source, sizes) in setting.sources.iter().enumerate() {
            let rows: Vec<u64> = all.iter().filter(|row| row.source == source as u32)
                .map(|row| row.row).collect();
            for epoch in rows.chunks_exact(sizes.iter().sum::<u32>() as usize) {
                let mut seen = epoch.to_vec();
                seen.sort_unstable();
                prop_assert!(seen.iter().copied().eq(0..seen.len() as u64));
            }
        }
    }

    #[test]
    fn a_share_counts_forth_and_back(eighth in 1_u64..5, batches in 1_u64..5, rank in 0_u64..8,
        local in 0_u64..200) {
        let batch = 8 * eighth;
        let share = Share::of_rank(Cut { batch, epoch: batches * batch }, rank, 8);
        let global = share.global_of(local);
        prop_assert_eq!(share.local_before(global), local);
        prop_assert_eq!(share.local_before(global + 1), local + 1);
    }
}

#[test]
fn batches_end_where_the_epoch_ends() {
    let cut = Cut { batch: 4, epoch: 10 };
    let ends: Vec<u64> = [0, 3, 4, 9, 10, 19, 20].map(|index| cut.batch_end(index)).into();
    assert_eq!(ends, [4, 4, 8, 10, 14, 20, 24]);
    let starts: Vec<u64> = [0, 3, 4, 9, 10, 19, 20].map(|index| cut.batch_start(index)).into();
    assert_eq!(starts, [0, 0, 4, 8, 10, 18, 20]);
    assert_eq!(cut.batches_until(20), 6);
}
