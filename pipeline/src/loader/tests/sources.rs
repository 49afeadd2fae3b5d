//! The sources of a run and its readers: ranks, weights, mixes, caption columns.

use std::collections::BTreeMap;

use diptych_schemas::CaptionColumn;

use super::*;

#[test]
fn the_batches_of_any_number_of_ranks_put_together_are_those_of_one() {
    let mut made = pairs(60);
    made[17].0 = b"no image".into();
    let (data, tokenizer) = (dataset(made, 5, 3), tokenizer());
    let of_rank = |rank: usize, ranks: usize, start: u64| {
        all(LoaderSpec {
            batch_size: 8,
            rank,
            ranks,
            start: SampleIndex(start),
            ..spec(&data, &tokenizer)
        })
    };
    for start in [0, 8, 19, 21, 56 + 7, 3 * 56 - 1] {
        let whole = of_rank(0, 1, start);
        for ranks in [2, 4, 8] {
            let parts: Vec<Vec<Batch>> =
                (0..ranks).map(|rank| of_rank(rank, ranks, start)).collect();
            assert!(
                parts.iter().all(|part| part.len() == whole.len()),
                "{ranks} ranks from {start}"
            );
            for (number, batch) in whole.iter().enumerate() {
                let mut together =
                    Batch { images: Vec::new(), tokens: Vec::new(), ..batch.clone() };
                together.uids.clear();
                together.captions.clear();
                together.skipped.clear();
                for part in &parts {
                    let part = &part[number];
                    assert_eq!(
                        (part.first, part.next, part.epoch),
                        (batch.first, batch.next, batch.epoch)
                    );
                    together.images.extend(&part.images);
                    together.tokens.extend(&part.tokens);
                    together.uids.extend(&part.uids);
                    together.captions.extend(part.captions.iter().cloned());
                    together.skipped.extend(part.skipped.iter().cloned());
                }
                assert_eq!(content(&together), content(batch), "{ranks} ranks from {start}");
            }
        }
    }
}

#[test]
fn ranks_that_cannot_share_a_batch_are_refused() {
    let (data, tokenizer) = (dataset(pairs(12), 5, 3), tokenizer());
    for (rank, ranks) in [(0, 4), (2, 2), (0, 0)] {
        let error = train_loader(LoaderSpec { rank, ranks, ..spec(&data, &tokenizer) })
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains(&format!("rank {rank} of {ranks}")) && error.contains("divisible"),
            "{error}"
        );
    }
}

#[test]
fn weighted_pairs_come_as_often_as_their_weight_says_each_time_augmented_anew() {
    let (mut data, tokenizer) = (dataset(pairs(40), 5, 3), tokenizer());
    // 20 of weight 2.5, 20 of weight 0.5: an epoch has 60 samples, which are ten batches.
    data.selection.weights = (0..40).map(|row| if row < 20 { 2.5 } else { 0.5 }).collect();
    assert_eq!(data.selection.samples(), 60);
    let batches = all(LoaderSpec { epochs: 2, ..spec(&data, &tokenizer) });
    assert_eq!(batches.len(), 20);
    let (mut repeated, mut anew) = (0, 0);
    for epoch in batches.chunks(10) {
        let mut seen: HashMap<Uid, Vec<Vec<u8>>> = HashMap::new();
        for batch in epoch {
            for (uid, pixels) in batch.uids.iter().zip(batch.images.chunks(16 * 16 * 3)) {
                seen.entry(*uid).or_default().push(pixels.to_vec());
            }
        }
        for (row, uid) in data.selection.uids.iter().enumerate() {
            let mut pixels = seen.remove(uid).unwrap_or_default();
            let times = pixels.len();
            assert!(
                if row < 20 { (2..=3).contains(&times) } else { times <= 1 },
                "row {row} came {times} times"
            );
            repeated += times.saturating_sub(1);
            pixels.sort();
            pixels.dedup();
            anew += pixels.len().saturating_sub(1);
        }
    }
    // Pictures of 9 × 8 pixels have only few different crops.
    assert!(anew * 10 > repeated * 8, "{anew} of {repeated}");
    // From any place.
    let rest = all(LoaderSpec { epochs: 2, start: batches[12].next, ..spec(&data, &tokenizer) });
    assert!(rest.iter().map(content).eq(batches[13..].iter().map(content)));
}

#[test]
fn a_mix_has_its_sources_in_proportion_with_their_own_pairs_and_goes_on_from_anywhere() {
    let named = |name: &str, count: usize, first: usize| -> Vec<(Vec<u8>, String)> {
        (0..count).map(|number| (png(first + number), format!("{name} {number}"))).collect()
    };
    let tokenizer = tokenizer();
    let (large, small) =
        (dataset(named("large", 300, 0), 20, 3), dataset(named("small", 30, 300), 5, 3));
    let sources = vec![
        DataSource { weight: 3.0, ..source(&large) },
        DataSource { weight: 1.0, ..source(&small) },
    ];
    assert_eq!(samples_an_epoch(&sources), 330);
    let mixed = || LoaderSpec {
        sources: sources.clone(),
        batch_size: 64,
        epochs: 4,
        ..spec(&large, &tokenizer)
    };
    let batches = all(mixed());
    assert_eq!(batches.len(), 4 * 5);
    let captions: Vec<&String> = batches.iter().flat_map(|batch| &batch.captions).collect();
    // Cycles of 256 samples have 192 and 64 of them.
    for cycle in captions.chunks_exact(256) {
        assert_eq!(cycle.iter().filter(|caption| caption.starts_with("small")).count(), 64);
    }
    // Each source passes over its pairs before it starts anew, whatever the epochs of the run are.
    let small: Vec<&str> = captions
        .iter()
        .map(|caption| caption.as_str())
        .filter(|caption| caption.starts_with("small"))
        .collect();
    for epoch in small.chunks_exact(30) {
        let mut seen = epoch.to_vec();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 30);
    }
    let rest = all(LoaderSpec { start: batches[6].next, ..mixed() });
    assert!(rest.iter().map(content).eq(batches[7..].iter().map(content)));
}

#[test]
fn captions_come_from_the_columns_that_were_named_where_these_have_a_text() {
    let (data, tokenizer) = (dataset(pairs(40), 5, 3), tokenizer());
    let column =
        |column: &str, probability: f64| CaptionColumn { column: column.into(), probability };
    let with = |captions: Vec<CaptionColumn>| LoaderSpec {
        sources: vec![DataSource { captions, ..source(&data) }],
        epochs: 30,
        ..spec(&data, &tokenizer)
    };
    let batches = all(with(vec![column("caption", 0.25), column("alt", 0.75)]));
    // Shard 0 lacks the column, and every other row of the others has no text in it.
    let mut counts: BTreeMap<bool, (u32, u32)> = BTreeMap::new();
    let rows: HashMap<Uid, usize> = data.selection.uids.iter().copied().zip(0..).collect();
    for batch in &batches {
        for ((uid, caption), tokens) in
            batch.uids.iter().zip(&batch.captions).zip(batch.tokens.chunks(8))
        {
            let row = rows[uid];
            let has_alt = row >= 15 && (row % 15).is_multiple_of(2);
            let (alt, all) = counts.entry(has_alt).or_default();
            *all += 1;
            *alt += u32::from(caption.starts_with("alt of"));
            assert!(caption.ends_with(&data.pairs[row].1));
            assert_eq!(tokens, tokenizer.encode(caption, 8));
        }
    }
    assert_eq!(counts[&false].0, 0);
    let (alt, all_with_alt) = counts[&true];
    // About 390 samples: five standard deviations are 0.11.
    assert!((f64::from(alt) / f64::from(all_with_alt) - 0.75).abs() < 0.11, "{counts:?}");
    let rest = all(LoaderSpec {
        start: batches[50].next,
        ..with(vec![column("caption", 0.25), column("alt", 0.75)])
    });
    assert!(rest.iter().map(content).eq(batches[51..].iter().map(content)));

    let error = train_loader(with(vec![column("alts", 1.0)])).err().unwrap().to_string();
    assert!(error.contains("Did you mean \"alt\"?"), "{error}");
}
