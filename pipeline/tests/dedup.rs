//! Deduplication of artificial datasets: an equal result for any number of threads and any memory,
//! and the effect of embeddings.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "clippy knows tests by their attribute, not by their folder"
)]

mod common;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, FixedSizeBinaryArray, FixedSizeListArray, Float16Array, RecordBatch,
    StringArray,
};
use arrow::datatypes::{DataType, Float32Type, Int64Type, UInt64Type};
use datafusion::prelude::SessionContext;
use diptych_pipeline::sql::{SessionSpec, parquet_file_table, query, session};
use diptych_pipeline::{
    DedupError, DedupReport, DedupSpec, Evaluation, Selection, Tier, decontaminate, dedup,
    write_synthetic_dataset,
};
use diptych_schemas::{
    ContentHash, ScoreFileMetadata, embedding_file_schema, embedding_folder, numbered_file,
};
use half::f16;
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;

use common::{Pair, pairs, stand_ins, write_dataset};

fn open(folder: &Path, partitions: usize) -> SessionContext {
    let functions = stand_ins();
    let mut spec = SessionSpec::new(Some(folder), &functions);
    spec.partitions = NonZeroUsize::new(partitions);
    session(spec).unwrap()
}

fn spec(tiers: &[Tier], keep: &str, memory: usize) -> DedupSpec {
    DedupSpec { tiers: tiers.to_vec(), keep: keep.into(), memory }
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(future)
}

/// Returns one number from a query over a dataset and the files of a deduplication.
fn number(folder: &Path, sql: &str) -> i64 {
    wait(async {
        let context = open(folder, 2);
        for name in ["kept", "groups"] {
            if let Ok(table) = parquet_file_table(&folder.join(format!("{name}.parquet"))) {
                context.register_table(name, table).unwrap();
            }
        }
        let batches = query(&context, sql).await.unwrap().collect().await.unwrap();
        batches[0].column(0).as_primitive::<Int64Type>().value(0)
    })
}

const ALL: [Tier; 3] = [Tier::Sha256, Tier::Phash { hamming: 4 }, Tier::Caption { jaccard: 0.8 }];

#[test]
fn result_is_the_same_for_any_number_of_threads_and_any_memory() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    write_synthetic_dataset(&data, 12_000, 7).unwrap();
    let run = |threads: usize, memory: usize| -> (DedupReport, Vec<u8>, Vec<u8>) {
        let (kept, groups) = (data.join("kept.parquet"), data.join("groups.parquet"));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(threads).build().unwrap();
        let spec = spec(&ALL, "clip DESC", memory);
        let report = pool
            .install(|| {
                runtime.block_on(dedup(&open(&data, threads), None, &spec, &kept, Some(&groups)))
            })
            .unwrap();
        (report, std::fs::read(kept).unwrap(), std::fs::read(groups).unwrap())
    };
    let first = run(1, 1 << 30);
    // So little memory that keys go to files many times.
    for other in [run(4, 1 << 30), run(3, 0)] {
        assert_eq!(other.0, first.0);
        assert!(other.1 == first.1 && other.2 == first.2);
    }
    // The input: of 100 rows, 2 have a blank image, 8 another's, 5 one near to another's; 3 have
    // one of four captions, 4 another's, 5 one near to another's. The limits are five deviations of
    // a binomial count.
    let about = |found: u64, percent: f64| {
        let mean = 12_000.0 * percent / 100.0;
        assert!((found as f64 - mean).abs() < 5.0 * mean.sqrt(), "{found} and not {mean}");
    };
    let dropped: Vec<u64> = first.0.tiers.iter().map(|tier| tier.dropped).collect();
    about(dropped[0], 10.0);
    // Of two that are near to a third, one may stay in addition.
    assert!((400..=640).contains(&dropped[1]), "{dropped:?}");
    // A number at the end of a short caption changes more than a fifth of its shingles.
    assert!(
        (dropped[2] as f64) > 12_000.0 * 0.08 && (dropped[2] as f64) < 12_000.0 * 0.13,
        "{dropped:?}"
    );
    assert_eq!(first.0.kept + dropped.iter().sum::<u64>(), 12_000);
    // Blank images, and some that are near to them.
    assert!(
        first.0.largest[0].pairs
            >= number(&data, "SELECT count(*) FROM meta WHERE phash = 0") as u64
    );

    // The pair with the best score of a group stays; it is the dataset's, by uid.
    let worse = "SELECT count(*) FROM groups a JOIN groups b ON a.\"group\" = b.\"group\" AND \
                 a.kept AND NOT b.kept
         JOIN scored sa ON a.uid = sa.uid JOIN scored sb ON b.uid = sb.uid WHERE sa.clip < sb.clip";
    assert_eq!(number(&data, worse), 0);
    assert_eq!(
        number(&data, "SELECT count(*) FROM kept JOIN groups USING (uid) WHERE NOT groups.kept"),
        0
    );
    let equal = "SELECT count(*) - count(DISTINCT sha256) FROM kept JOIN meta USING (uid)";
    assert_eq!(number(&data, equal), 0);
}

#[test]
fn hashes_that_stay_are_apart_by_brute_force() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    write_synthetic_dataset(&data, 2500, 3).unwrap();
    let spec = spec(&[Tier::Phash { hamming: 6 }], "uid", 1 << 20);
    wait(dedup(&open(&data, 2), None, &spec, &data.join("kept.parquet"), None)).unwrap();
    let hashes = |sql: &str| -> Vec<u64> {
        let batches = wait(async {
            let context = open(&data, 2);
            context
                .register_table("kept", parquet_file_table(&data.join("kept.parquet")).unwrap())
                .unwrap();
            query(&context, sql).await.unwrap().collect().await.unwrap()
        });
        batches
            .iter()
            .flat_map(|batch| batch.column(0).as_primitive::<UInt64Type>().values().to_vec())
            .collect()
    };
    let near = |a: u64, b: u64| (a ^ b).count_ones() <= 6;
    let kept = hashes("SELECT phash FROM kept JOIN meta USING (uid)");
    for (n, a) in kept.iter().enumerate() {
        assert!(kept[..n].iter().all(|b| !near(*a, *b)));
    }
    for dropped in hashes("SELECT phash FROM meta WHERE uid NOT IN (SELECT uid FROM kept)") {
        assert!(kept.iter().any(|kept| near(*kept, dropped)));
    }
}

/// Embeddings of forty pairs: 4 · k … 4 · k + 3 are near to each other, except for the last, which
/// has none.
fn write_embeddings(folder: &Path, shards: &[Vec<Pair>], dimension: usize, producer: &str) {
    for (number, rows) in (0_u32..).zip(shards) {
        let values: Vec<f16> = rows
            .iter()
            .flat_map(|row| {
                let n = row.width as usize - 10;
                (0..dimension).map(move |at| {
                    let own = if at == n % dimension { 0.05 } else { 0.0 };
                    f16::from_f32(if at == n / 4 { 1.0 } else { own })
                })
            })
            .collect();
        let schema = embedding_file_schema(dimension);
        let DataType::FixedSizeList(item, size) = schema.field(1).data_type().clone() else {
            panic!()
        };
        let valid: Vec<bool> = rows.iter().map(|row| row.width != 49).collect();
        let vectors = FixedSizeListArray::new(
            item,
            size,
            Arc::new(Float16Array::from(values)),
            Some(valid.into()),
        );
        let columns: Vec<ArrayRef> = vec![
            Arc::new(
                FixedSizeBinaryArray::try_from_iter(rows.iter().map(|row| row.uid().0)).unwrap(),
            ),
            Arc::new(vectors.clone()),
            Arc::new(vectors),
            Arc::new(StringArray::new_null(rows.len())),
        ];
        let says =
            ScoreFileMetadata { shard: number, producer: producer.into(), made_by: "test".into() };
        let says = says
            .to_pairs()
            .into_iter()
            .map(|(key, value)| KeyValue::new(key.to_owned(), value))
            .collect();
        let properties = WriterProperties::builder().set_key_value_metadata(Some(says)).build();
        let path = numbered_file(&embedding_folder(folder, producer), number);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut writer = ArrowWriter::try_new(
            std::fs::File::create(path).unwrap(),
            schema.clone(),
            Some(properties),
        )
        .unwrap();
        writer.write(&RecordBatch::try_new(schema, columns).unwrap()).unwrap();
        writer.close().unwrap();
    }
}

#[test]
fn near_embeddings_are_found_within_clusters() {
    let folder = tempfile::tempdir().unwrap();
    let shards = [pairs(0..10), pairs(10..40)];
    write_dataset(folder.path(), &shards);
    let producer = ContentHash::of(b"model").to_string();
    write_embeddings(folder.path(), &shards, 32, &producer);
    let context = open(folder.path(), 2);
    let (kept, groups) = (folder.path().join("kept.parquet"), folder.path().join("groups.parquet"));
    let mut hashes = Vec::new();
    for (clusters, prefix) in [(1, ""), (1, &producer[..6]), (0, "")] {
        let tier = Tier::Semantic { cosine: 0.99, clusters, producer: prefix.into() };
        let report = wait(dedup(
            &context,
            None,
            &spec(&[tier], "width DESC", 1 << 20),
            &kept,
            Some(&groups),
        ))
        .unwrap();
        // Ten groups of four; the last pair has no embedding and stays.
        assert_eq!(
            (report.kept, report.groups, report.tiers[0].unseen),
            (11, 10, 1),
            "{clusters} clusters"
        );
        hashes.push(Selection::read(&kept).unwrap().hash());
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]));
    // 1 - 1 / (1 + 0.05²) for two vectors that each differ in one number.
    let batches = wait(async {
        context.register_table("groups", parquet_file_table(&groups).unwrap()).unwrap();
        query(&context, "SELECT max(distance) FROM groups").await.unwrap().collect().await.unwrap()
    });
    let distance = batches[0].column(0).as_primitive::<Float32Type>().value(0);
    assert!((distance - (1.0 - 1.0 / 1.0025)).abs() < 2e-4, "{distance}");

    let other = Tier::Semantic { cosine: 0.99, clusters: 0, producer: "beef".into() };
    let error =
        wait(dedup(&context, None, &spec(&[other], "uid", 1 << 20), &kept, None)).unwrap_err();
    assert!(
        matches!(&error, DedupError::NoEmbeddings { .. }) && error.to_string().contains("beef"),
        "{error}"
    );

    // Against an evaluation set with embeddings of one model: pairs near to it are dropped,
    // whatever they are among themselves.
    let evaluation = tempfile::tempdir().unwrap();
    let held = [vec![shards[1][0].clone()]];
    write_dataset(evaluation.path(), &held);
    write_embeddings(evaluation.path(), &held, 32, &producer);
    let against = [Evaluation { name: "held".into(), context: open(evaluation.path(), 1) }];
    let tier = Tier::Semantic { cosine: 0.99, clusters: 1, producer: String::new() };
    let report =
        wait(decontaminate(&context, None, &against, &spec(&[tier], "uid", 1 << 20), &kept, None))
            .unwrap();
    assert_eq!((report.kept, report.evaluations[0].dropped), (36, 4));
    assert_eq!(
        report.evaluations[0].examples[0].uid,
        report.evaluations[0].examples[0].evaluation_uid
    );
}

/// A million equal values cost no more than one: here many of each kind, which squared would take
/// hours.
#[test]
fn hot_spots_are_not_quadratic() {
    let folder = tempfile::tempdir().unwrap();
    let rows: Vec<Pair> = (0..30_000)
        .map(|n| Pair {
            caption: format!("image {}", if n % 2 == 0 { n } else { 1 }),
            width: 2 * (n / 100) + 10,
            ..common::pair(n)
        })
        .collect();
    // Every image occurs a hundred times, so captions make the pairs.
    write_dataset(folder.path(), &[rows]);
    let spec = spec(&[Tier::Sha256, Tier::Caption { jaccard: 0.9 }], "uid", 1 << 20);
    let report = wait(dedup(
        &open(folder.path(), 2),
        None,
        &spec,
        &folder.path().join("kept.parquet"),
        None,
    ))
    .unwrap();
    assert_eq!(report.tiers[0].dropped + report.tiers[1].dropped + report.kept, 30_000);
    assert!(report.kept <= 300, "{report:?}");
}
