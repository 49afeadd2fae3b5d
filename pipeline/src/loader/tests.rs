//! The loader as its callers see it: equal batches for any number of threads and any start, each
//! pair once per epoch. Damage is reported and survived, memory is bounded, and the end is clean.

use std::collections::HashMap;

use diptych_schemas::{Reason, Uid};
use diptych_test_support::eventually;

use super::*;
use crate::test_data::{TestDataset, dataset, own, png};
use crate::{EvalResize, decode, eval_transform};

mod sources;

fn pairs(count: usize) -> Vec<(Vec<u8>, String)> {
    (0..count).map(|number| (png(number), format!("picture {number}"))).collect()
}

fn tokenizer() -> Arc<Tokenizer> {
    Arc::new(Tokenizer::clip().unwrap())
}

fn spec(data: &TestDataset, tokenizer: &Arc<Tokenizer>) -> LoaderSpec {
    LoaderSpec {
        sources: vec![source(data)],
        tokenizer: Arc::clone(tokenizer),
        image_size: 16,
        context_length: 8,
        batch_size: 6,
        seed: 11,
        augment: AugmentConfig { scale: [0.3, 1.0], ..AugmentConfig::default() },
        config: LoaderConfig {
            threads: 2,
            window_row_groups: 2,
            row_group_parts: 1,
            ..LoaderConfig::default()
        },
        start: SampleIndex(0),
        epochs: 3,
        rank: 0,
        ranks: 1,
    }
}

fn source(data: &TestDataset) -> DataSource {
    DataSource {
        dataset: data.folder.path().to_owned(),
        selection: Arc::new(data.selection.clone()),
        weight: 1.0,
        captions: Vec::new(),
    }
}

fn eval_spec(data: &TestDataset, tokenizer: &Arc<Tokenizer>) -> EvalSpec {
    EvalSpec {
        dataset: data.folder.path().to_owned(),
        selection: Arc::new(data.selection.clone()),
        tokenizer: Arc::clone(tokenizer),
        image_size: 16,
        resize: EvalResize::default(),
        context_length: 8,
        batch_size: 6,
        config: LoaderConfig { threads: 2, ..LoaderConfig::default() },
    }
}

/// The order of eight row groups of five.
fn order(data: &TestDataset) -> Order {
    Order::new(
        &[5; 8],
        data.selection.hash(),
        11,
        Shuffle { window_row_groups: 2, row_group_parts: 1 },
    )
}

fn all(spec: LoaderSpec) -> Vec<Batch> {
    train_loader(spec).unwrap().collect::<Result<_, _>>().unwrap()
}

/// Returns all data of a batch, for comparison bit by bit.
fn content(batch: &Batch) -> impl PartialEq + std::fmt::Debug + use<> {
    let Batch {
        first,
        next,
        epoch,
        image_size,
        context_length,
        images,
        tokens,
        uids,
        captions,
        skipped,
        measures: _,
    } = batch.clone();
    ((first, next, epoch, image_size, context_length), (images, tokens, uids, captions, skipped))
}

/// Returns a selection of some rows of another.
fn subset(selection: &Selection, keep: impl Fn(usize) -> bool) -> Selection {
    let rows: Vec<usize> = (0..selection.len()).filter(|row| keep(*row)).collect();
    let pick = |values: &[u32]| rows.iter().map(|row| values[*row]).collect();
    Selection {
        uids: rows.iter().map(|row| selection.uids[*row]).collect(),
        shards: pick(&selection.shards),
        row_groups: pick(&selection.row_groups),
        rows: pick(&selection.rows),
        weights: vec![1.0; rows.len()],
        ..selection.clone()
    }
}

#[test]
fn batches_are_the_same_bit_for_bit_with_any_number_of_threads_and_any_queue() {
    let (data, tokenizer) = (dataset(pairs(40), 5, 3), tokenizer());
    let reference = all(spec(&data, &tokenizer));
    assert_eq!(reference.len(), 3 * 6);
    for threads in [1, 2, 4] {
        for queue_mib in [1, 64] {
            let mut spec = spec(&data, &tokenizer);
            spec.config = LoaderConfig { threads, queue_mib, ..spec.config };
            let batches = all(spec);
            assert!(
                batches.iter().map(content).eq(reference.iter().map(content)),
                "{threads} threads, {queue_mib} MiB"
            );
        }
    }
}

#[test]
fn a_start_anywhere_continues_the_uninterrupted_run_bit_for_bit() {
    let mut made = pairs(40);
    made[17].0 = b"no image".into();
    let (data, tokenizer) = (dataset(made, 5, 3), tokenizer());
    let reference = all(spec(&data, &tokenizer));
    for batch in 0..=reference.len() {
        let start = if batch == 0 { SampleIndex(0) } else { reference[batch - 1].next };
        let rest = all(LoaderSpec { start, ..spec(&data, &tokenizer) });
        assert!(
            rest.iter().map(content).eq(reference[batch..].iter().map(content)),
            "from batch {batch}"
        );
    }
    // Within a batch: the rest of it comes first, with equal pixels.
    let rest = all(LoaderSpec { start: SampleIndex(2), ..spec(&data, &tokenizer) });
    assert_eq!((rest[0].first, rest[0].next), (SampleIndex(2), SampleIndex(6)));
    let whole = &reference[0];
    assert_eq!(rest[0].uids, whole.uids[whole.len() - rest[0].len()..]);
    assert_eq!(rest[0].images, whole.images[whole.images.len() - rest[0].images.len()..]);
    assert!(rest[1..].iter().map(content).eq(reference[1..].iter().map(content)));
}

#[test]
fn every_pair_comes_at_most_once_an_epoch_and_only_the_last_incomplete_batch_is_left_out() {
    let (data, tokenizer) = (dataset(pairs(40), 5, 3), tokenizer());
    let captions: HashMap<Uid, &String> =
        data.selection.uids.iter().copied().zip(data.pairs.iter().map(|pair| &pair.1)).collect();
    let batches = all(spec(&data, &tokenizer));
    let mut cursor = 0;
    for (epoch, of_epoch) in batches.chunks(6).enumerate() {
        let mut seen: Vec<Uid> = of_epoch.iter().flat_map(|batch| batch.uids.clone()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 36);
        for batch in of_epoch {
            assert_eq!(
                (batch.first, batch.next, batch.epoch),
                (SampleIndex(cursor), SampleIndex(cursor + 6), epoch as u64)
            );
            assert_eq!((batch.images.len(), batch.tokens.len()), (6 * 16 * 16 * 3, 6 * 8));
            cursor += 6;
            for (row, (uid, caption)) in batch.uids.iter().zip(&batch.captions).enumerate() {
                assert_eq!(caption, captions[uid]);
                assert_eq!(batch.tokens[8 * row..8 * (row + 1)], tokenizer.encode(caption, 8));
            }
        }
    }
    let order = |epoch: usize| -> Vec<Uid> {
        batches[6 * epoch..6 * (epoch + 1)].iter().flat_map(|batch| batch.uids.clone()).collect()
    };
    assert_ne!(order(0), order(1));
}

#[test]
fn a_sparse_selection_reads_its_own_rows() {
    let (mut data, tokenizer) = (dataset(pairs(60), 7, 3), tokenizer());
    data.selection = subset(&data.selection, |row| row % 4 == 1 || (21..30).contains(&row));
    let mut expected = data.selection.uids.clone();
    let batches =
        all(LoaderSpec { batch_size: data.selection.len(), epochs: 1, ..spec(&data, &tokenizer) });
    let mut seen = batches[0].uids.clone();
    expected.sort_unstable();
    seen.sort_unstable();
    assert_eq!((batches.len(), seen), (1, expected));
}

#[test]
fn pixels_of_an_evaluation_are_those_of_the_evaluation_transform_in_the_selections_order() {
    let (data, tokenizer) = (dataset(pairs(20), 5, 3), tokenizer());
    let batches: Vec<Batch> =
        eval_batches(eval_spec(&data, &tokenizer)).unwrap().map(Result::unwrap).collect();
    assert_eq!(batches.iter().map(Batch::len).collect::<Vec<_>>(), [6, 6, 6, 2]);
    assert_eq!(
        batches.iter().flat_map(|batch| batch.uids.clone()).collect::<Vec<_>>(),
        data.selection.uids
    );
    let expected: Vec<u8> = data
        .pairs
        .iter()
        .flat_map(|(image, _)| {
            eval_transform(&decode(image, 1 << 20).unwrap(), 16, EvalResize::default()).unwrap()
        })
        .collect();
    assert_eq!(batches.iter().flat_map(|batch| batch.images.clone()).collect::<Vec<_>>(), expected);
    assert_eq!(
        batches.iter().flat_map(|batch| batch.captions.clone()).collect::<Vec<_>>(),
        data.pairs.iter().map(|pair| pair.1.clone()).collect::<Vec<_>>()
    );
    assert_eq!(batches[3].next, SampleIndex(20));
}

#[test]
fn pixels_of_training_are_those_of_decoding_and_cropping_one_image_at_a_time_in_fresh_memory() {
    // All kinds and sizes, so that each image is decoded into the memory of another one.
    let kinds = [
        "sub2.jpg",
        "gray.jpg",
        "cmyk.jpg",
        "turned6.jpg",
        "rgba.png",
        "interlaced16.png",
        "lossy.webp",
        "frames.gif",
    ];
    let made = (0..40).map(|number| {
        if number % 2 == 0 {
            png(number)
        } else {
            [own(kinds[number / 2 % 8]), vec![0; number]].concat()
        }
    });
    let made =
        made.enumerate().map(|(number, image)| (image, format!("picture {number}"))).collect();
    let (data, tokenizer) = (dataset(made, 5, 3), tokenizer());
    let files: HashMap<Uid, &Vec<u8>> =
        data.selection.uids.iter().copied().zip(data.pairs.iter().map(|pair| &pair.0)).collect();
    let spec = spec(&data, &tokenizer);
    let (augment, seed) = (spec.augment.clone(), spec.seed);
    for batch in all(spec) {
        assert_eq!((batch.len(), batch.skipped.len()), (6, 0), "{:?}", batch.skipped);
        for (sample, (uid, pixels)) in
            (batch.first.0..).zip(batch.uids.iter().zip(batch.images.chunks(16 * 16 * 3)))
        {
            let image = decode(files[uid], 1 << 20).unwrap();
            let seed = crate::random::seed_of(&[seed, sample]);
            let crop = crate::random_resized_crop_box(image.width, image.height, &augment, seed);
            assert_eq!(pixels, crate::crop_resize(&image, crop, 16).unwrap(), "sample {sample}");
        }
    }
}

#[test]
fn augmentation_differs_by_sample_and_seed() {
    let (data, tokenizer) = (dataset(pairs(12), 12, 1), tokenizer());
    let pixels = |seed: u64| -> HashMap<(u64, Uid), Vec<u8>> {
        let batches = all(LoaderSpec { seed, ..spec(&data, &tokenizer) });
        let of_batch = |batch: &Batch| -> Vec<((u64, Uid), Vec<u8>)> {
            let pixels = batch.images.chunks(16 * 16 * 3).map(<[u8]>::to_vec);
            batch.uids.iter().map(|uid| (batch.epoch, *uid)).zip(pixels).collect()
        };
        batches.iter().flat_map(of_batch).collect()
    };
    let (one, two) = (pixels(1), pixels(2));
    let uid = data.selection.uids[0];
    assert_ne!(one[&(0, uid)], one[&(1, uid)]);
    assert_ne!(one[&(0, uid)], two[&(0, uid)]);
}

#[test]
fn corrupt_images_shrink_their_batch_and_leave_the_order_of_the_others() {
    let mut damaged = pairs(40);
    let cut = own("sub2.jpg");
    damaged[4].0 = cut[..cut.len() - 20].to_vec();
    damaged[33].0 = b"<html>not found</html>".into();
    let (data, tokenizer) = (dataset(damaged, 5, 3), tokenizer());
    let bad = [data.selection.uids[4], data.selection.uids[33]];
    let batches = all(spec(&data, &tokenizer));
    assert_eq!(batches.len(), 3 * 6);
    let mut skipped = 0;
    for batch in &batches {
        assert_eq!(batch.len() + batch.skipped.len(), 6);
        assert_eq!(batch.images.len(), batch.len() * 16 * 16 * 3);
        for entry in &batch.skipped {
            let uid = entry.uid.unwrap();
            assert!(bad.contains(&uid));
            let (reason, source, key, position) = if uid == bad[0] {
                (Reason::CorruptPixels, "source0.tar", "key4", "shard 0, row group 0, row 4")
            } else {
                (Reason::UnsupportedFormat, "source2.tar", "key3", "shard 2, row group 0, row 3")
            };
            assert_eq!(
                (entry.reason, entry.source.as_str(), entry.key.as_str(), entry.position.as_str()),
                (reason, source, key, position)
            );
            assert_eq!(entry.stage, diptych_schemas::Stage::Train);
            skipped += 1;
        }
    }
    assert!(skipped >= 2, "{skipped}");
    // Eight row groups of five: the order of the whole selection, from which the two are skipped.
    let order = order(&data);
    let mut position = 0;
    for batch in &batches {
        let mut expected = Vec::new();
        for _ in 0..6 {
            let uid =
                data.selection.uids[order.row(position / 36, position % 36).unwrap() as usize];
            if !bad.contains(&uid) {
                expected.push(uid);
            }
            position += 1;
        }
        assert_eq!(batch.uids, expected);
    }
}

#[test]
fn a_batch_of_nothing_but_corrupt_images_comes_empty() {
    let damaged =
        (0..12).map(|number| (format!("no image {number}").into_bytes(), "x".to_owned())).collect();
    let (data, tokenizer) = (dataset(damaged, 5, 3), tokenizer());
    let batches = all(LoaderSpec { epochs: 1, ..spec(&data, &tokenizer) });
    assert_eq!(batches.len(), 2);
    assert!(batches.iter().all(|batch| batch.is_empty() && batch.skipped.len() == 6));
}

#[test]
fn an_image_above_the_limit_is_skipped() {
    let (data, tokenizer) = (dataset(pairs(12), 5, 3), tokenizer());
    let mut spec = spec(&data, &tokenizer);
    spec.config.max_pixels = 10;
    let batch = train_loader(spec).unwrap().next().unwrap().unwrap();
    assert!(batch.skipped.iter().all(|entry| entry.reason == Reason::TooManyPixels));
    assert_eq!(batch.skipped.len(), 6);
}

#[test]
fn a_loader_dropped_at_any_time_ends_its_threads() {
    let (data, tokenizer) = (dataset(pairs(40), 5, 3), tokenizer());
    for taken in 0..8 {
        let mut spec = spec(&data, &tokenizer);
        spec.epochs = 1_000_000;
        spec.config.queue_mib = 1;
        let mut loader = train_loader(spec).unwrap();
        for _ in 0..taken {
            loader.next().unwrap().unwrap();
        }
        let counters = Arc::downgrade(&loader.counters);
        drop(loader);
        // Every thread holds the counters; a joined thread holds nothing.
        assert_eq!(counters.strong_count(), 0);
    }
}

#[test]
fn what_waits_for_the_caller_is_bounded_by_the_queue() {
    let (data, tokenizer) = (dataset(pairs(64), 8, 2), tokenizer());
    let mut spec = spec(&data, &tokenizer);
    (spec.image_size, spec.batch_size, spec.epochs, spec.config.queue_mib) = (128, 8, 2, 2);
    // A batch has 8 · (128 · 128 · 3 + 4 · 8 + 64) = 393,984 bytes. A quarter of the 2 MiB is for
    // images that are not decoded yet, so three batches fit in the rest.
    let mut loader = train_loader(spec).unwrap();
    assert_eq!(loader.stats().queue_capacity, 3);
    eventually(Duration::from_mins(2), "three batches in the queue", || {
        (loader.stats().queued_batches == 3).then_some(())
    });
    assert_eq!(loader.stats().decoded_bytes, 3 * 393_984);
    let mut batches = 0;
    while let Some(batch) = loader.next() {
        assert_eq!(batch.unwrap().bytes(), 393_984);
        assert!(loader.stats().decoded_bytes <= 3 * 393_984);
        batches += 1;
    }
    assert_eq!(batches, 16);
    let stats = loader.stats();
    assert_eq!((stats.decoded_bytes, stats.encoded_bytes, stats.queued_batches), (0, 0, 0));
    assert_eq!(stats.peak_bytes.1, 3 * 393_984);
    assert!(stats.stages.iter().all(|stage| !stage.busy.is_zero()), "{stats:?}");
}

/// Creates a PNG that cannot be compressed, so of at least 3 · side² bytes.
fn noise(seed: u64, side: u32) -> Vec<u8> {
    let mut random = crate::random::Random::new(seed);
    let mut bytes = std::io::Cursor::new(Vec::new());
    let pixel = |_, _| image::Rgb([0; 3].map(|_: u8| random.next_u64() as u8));
    image::RgbImage::from_fn(side, side, pixel)
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

#[test]
fn what_is_read_and_not_decoded_is_bounded_whatever_the_window_and_a_larger_image_still_comes() {
    // A window of four row groups has 1.5 MB; a quarter of 1 MiB may be read and not decoded yet.
    // The last image has 360 kB.
    let mut made: Vec<(Vec<u8>, String)> =
        (0..48).map(|number| (noise(number, 102), format!("noise {number}"))).collect();
    made.push((noise(48, 346), "much noise".into()));
    let (largest, (data, tokenizer)) =
        (made[48].0.len() as u64, (dataset(made, 12, 2), tokenizer()));
    let with = |queue_mib: u64| {
        let mut spec = spec(&data, &tokenizer);
        (spec.batch_size, spec.epochs, spec.config.window_row_groups, spec.config.queue_mib) =
            (7, 1, 4, queue_mib);
        let mut loader = train_loader(spec).unwrap();
        let batches: Vec<Batch> = loader.by_ref().map(Result::unwrap).collect();
        (batches, loader.stats())
    };
    let (batches, stats) = with(1);
    let (limit, (peak, _)) = (256 << 10, stats.peak_bytes);
    assert!(largest > limit && peak == largest, "{stats:?}");
    assert_eq!(stats.encoded_bytes, 0);
    let (reference, stats) = with(64);
    assert!(stats.peak_bytes.0 > 1_000_000, "{stats:?}");
    assert!(batches.iter().map(content).eq(reference.iter().map(content)));
    assert_eq!(batches.iter().map(Batch::len).sum::<usize>(), 49);
}

#[test]
fn a_batch_larger_than_the_queue_still_comes() {
    let (data, tokenizer) = (dataset(pairs(12), 5, 3), tokenizer());
    let mut spec = spec(&data, &tokenizer);
    (spec.image_size, spec.batch_size, spec.config.queue_mib) = (512, 6, 1);
    let loader = train_loader(spec).unwrap();
    assert_eq!(loader.stats().queue_capacity, 1);
    assert_eq!(loader.map(Result::unwrap).count(), 6);
}

#[test]
fn selections_that_cannot_be_trained_on_are_refused_in_words() {
    let (data, tokenizer) = (dataset(pairs(12), 5, 3), tokenizer());
    let refusal = |change: &dyn Fn(&mut Selection)| {
        let mut selection = data.selection.clone();
        change(&mut selection);
        let sources = vec![DataSource { selection: Arc::new(selection), ..source(&data) }];
        train_loader(LoaderSpec { sources, ..spec(&data, &tokenizer) }).err().unwrap().to_string()
    };
    let message = refusal(&|selection| *selection = subset(selection, |row| row < 5));
    assert!(message.contains("5 rows") && message.contains('6'), "{message}");
    for weight in [0.0, -1.0, f32::NAN] {
        let message = refusal(&|selection| selection.weights[3] = weight);
        assert!(message.contains("row 3 of the selection has weight"), "{message}");
    }
    let message = refusal(&|selection| selection.weights[3] = 1e30);
    assert!(message.contains("add up to 1.0"), "{message}");
    let message = refusal(&|selection| selection.rows.swap(0, 1));
    assert!(message.contains("diptych select"), "{message}");
    let nowhere = DataSource { dataset: "/nowhere".into(), ..source(&data) };
    let nowhere = LoaderSpec { sources: vec![nowhere], ..spec(&data, &tokenizer) };
    assert!(train_loader(nowhere).err().unwrap().to_string().contains("diptych ingest"));
}

#[test]
fn a_dataset_that_changed_or_broke_names_the_file_and_the_place() {
    let tokenizer = tokenizer();
    let failure = |change: &dyn Fn(&mut TestDataset)| {
        let mut data = dataset(pairs(40), 5, 3);
        change(&mut data);
        let spec = LoaderSpec { batch_size: 40, ..spec(&data, &tokenizer) };
        let mut loader = train_loader(spec).unwrap();
        let error = loader.next().unwrap().unwrap_err().to_string();
        assert!(loader.next().is_none());
        error
    };
    let message = failure(&|data| data.selection.uids[21] = Uid([9; 16]));
    assert!(
        message.contains("meta/00001.parquet: row 1 of row group 1")
            && message.contains("diptych select"),
        "{message}"
    );
    let message = failure(&|data| data.selection.row_groups[39] = 7);
    assert!(
        message.contains("blob/00002.parquet: row 4 of row group 7 does not exist"),
        "{message}"
    );
    let message = failure(&|data| {
        std::fs::remove_file(diptych_schemas::blob_path(data.folder.path(), 1)).unwrap();
    });
    assert!(
        message.contains("blob/00001.parquet: this file of the dataset is missing"),
        "{message}"
    );
    let message = failure(&|data| {
        std::fs::remove_file(diptych_schemas::meta_path(data.folder.path(), 2)).unwrap();
    });
    assert!(
        message.contains("meta/00002.parquet: this file of the dataset is missing"),
        "{message}"
    );
    let message = failure(&|data| {
        let path = diptych_schemas::blob_path(data.folder.path(), 0);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::File::create(&path).unwrap().set_len(bytes.len() as u64).unwrap();
    });
    assert!(message.contains("blob/00000.parquet: cannot be read"), "{message}");
}

#[test]
fn damage_in_a_later_window_comes_after_the_batches_before_it() {
    let (data, tokenizer) = (dataset(pairs(40), 5, 3), tokenizer());
    let order = order(&data);
    let last = order.row(0, 35).unwrap() as usize;
    let blob = diptych_schemas::blob_path(data.folder.path(), data.selection.shards[last]);
    let reference = all(LoaderSpec { epochs: 1, ..spec(&data, &tokenizer) });
    let shard_windows: Vec<u64> = (0..40)
        .filter(|position| {
            data.selection.shards[order.row(0, *position).unwrap() as usize]
                == data.selection.shards[last]
        })
        .collect();
    std::fs::remove_file(blob).unwrap();
    let results: Vec<Result<Batch, LoaderError>> =
        train_loader(LoaderSpec { epochs: 1, ..spec(&data, &tokenizer) }).unwrap().collect();
    let (failed, good) = results.split_last().unwrap();
    assert!(matches!(failed, Err(LoaderError::MissingShard { .. })));
    // Windows have ten rows: whole batches before the first window that touches the shard.
    assert_eq!(good.len() as u64, shard_windows[0] / 10 * 10 / 6);
    assert!(
        good.iter()
            .map(|batch| content(batch.as_ref().unwrap()))
            .eq(reference[..good.len()].iter().map(content))
    );
}

#[test]
fn texts_alone_come_in_the_same_order_and_no_image_is_read() {
    let tokenizer = tokenizer();
    let mut damaged = pairs(40);
    damaged[7].0 = b"no image".to_vec();
    let data = dataset(damaged, 5, 8);
    let whole = all(spec(&data, &tokenizer));
    let texts = all(LoaderSpec { image_size: 0, ..spec(&data, &tokenizer) });
    assert_eq!(texts.len(), whole.len());
    assert!(whole.iter().any(|batch| !batch.skipped.is_empty()));
    for (texts, whole) in texts.iter().zip(&whole) {
        assert_eq!((texts.first, texts.next, texts.epoch), (whole.first, whole.next, whole.epoch));
        assert!(texts.images.is_empty() && texts.skipped.is_empty());
        let without: Vec<_> =
            texts.captions.iter().filter(|caption| *caption != "picture 7").collect();
        assert_eq!(without, whole.captions.iter().collect::<Vec<_>>());
        assert_eq!(texts.tokens.len(), 8 * texts.len());
    }
}
