//! Compares the search with a full sort, and tests growing sets and the approximate index.

use diptych_pipeline::Random;
use diptych_schemas::{ContentHash, Uid};
use diptych_store::{Modality, Store};
use half::f16;
use proptest::prelude::*;

use super::vectors::Vectors;
use super::{Graph, GraphSpec, Hit, NearestError, nearest, nearest_of_batch, padded};

fn uid(row: usize) -> Uid {
    Uid((row as u128).to_be_bytes())
}

fn uids(rows: std::ops::Range<usize>) -> Vec<Uid> {
    rows.map(uid).collect()
}

/// Rows of few different values, so that scores tie.
fn coarse(random: &mut Random, rows: usize, dimension: usize) -> Vec<f32> {
    (0..rows * dimension).map(|_| random.below(5) as f32 / 4.0 - 0.5).collect()
}

fn narrowed(values: &[f32]) -> Vec<f16> {
    values.iter().map(|value| f16::from_f32(*value)).collect()
}

/// Sorts all rows by score and place. Coarse values make every product and sum exact in any order.
fn by_sorting(rows: &[f32], query: &[f32], k: usize) -> Vec<(usize, f32)> {
    let scores = rows.chunks_exact(query.len()).map(|row| {
        row.iter().zip(query).map(|(a, b)| a * b).fold(0.0, |sum, product| sum + product)
    });
    let mut all: Vec<(usize, f32)> = scores.enumerate().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all.truncate(k);
    all
}

fn places(hits: &[Hit]) -> Vec<(usize, f32)> {
    hits.iter().map(|hit| (hit.place, hit.score)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn nearest_are_those_of_a_full_sort_with_ties_by_place(
        rows in 0_usize..300,
        dimension in 1_usize..70,
        k in 0_usize..400,
        queries in 1_usize..12,
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let values = coarse(&mut random, rows, dimension);
        let vectors = Vectors::from_rows(dimension, uids(0..rows), &narrowed(&values));
        let asked: Vec<Vec<f32>> =
            (0..queries).map(|_| coarse(&mut random, 1, dimension)).collect();
        let ready: Vec<Vec<f32>> = asked.iter().map(|query| padded(query)).collect();
        let batch = nearest_of_batch(&vectors, &ready, k).unwrap();
        for ((query, ready), batch) in asked.iter().zip(&ready).zip(batch) {
            let expected = by_sorting(&values, query, k);
            let one = nearest(&vectors, ready, k);
            prop_assert_eq!(places(&one), &*expected);
            prop_assert!(one.iter().all(|hit| hit.uid == uid(hit.place)));
            prop_assert_eq!(places(&batch), expected);
        }
    }
}

#[test]
fn a_batch_answers_bit_for_bit_what_single_queries_do_on_several_tiles_and_threads() {
    const ROWS: usize = 40_000;
    let mut random = Random::new(5);
    let mut draw =
        |count: usize| (0..count).map(|_| random.uniform(-1.0, 1.0) as f32).collect::<Vec<_>>();
    let mut values = draw(ROWS * 24);
    // Copies have exactly equal scores, so their places decide.
    values.copy_within(0..24 * 50, 24 * 39_000);
    let vectors = Vectors::from_rows(24, uids(0..ROWS), &narrowed(&values));
    let queries: Vec<Vec<f32>> = (0..9).map(|query| padded(&values[24 * query..][..24])).collect();
    let batch = nearest_of_batch(&vectors, &queries, 30).unwrap();
    for (number, (query, batch)) in queries.iter().zip(batch).enumerate() {
        let one = nearest(&vectors, query, 30);
        assert_eq!(places(&one), places(&batch));
        assert_eq!((one[0].place, one[1].place), (number, 39_000 + number), "a row and its copy");
        assert_eq!(one[0].score.to_bits(), one[1].score.to_bits());
    }
}

#[test]
fn all_rows_alike_come_in_the_order_of_their_places() {
    let vectors =
        Vectors::from_rows(3, uids(0..20_000), &narrowed(&[0.6, 0.0, 0.8].repeat(20_000)));
    let query = padded(&[0.36, 0.48, 0.8]);
    let expected: Vec<usize> = (0..7).collect();
    let found = |hits: &[Hit]| hits.iter().map(|hit| hit.place).collect::<Vec<_>>();
    assert_eq!(found(&nearest(&vectors, &query, 7)), expected);
    let batch = nearest_of_batch(&vectors, &vec![query; 8], 7).unwrap();
    assert!(batch.iter().all(|hits| found(hits) == expected));
}

#[test]
fn a_set_that_grows_is_taken_in_and_one_made_anew_is_read_anew() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let producer = ContentHash::of(b"weights");
    let mut random = Random::new(1);
    let values = coarse(&mut random, 1000, 40);
    let append = |rows: std::ops::Range<usize>| {
        let mut writer = store.embedding_writer(producer, Modality::Image, 40, "").unwrap();
        writer.append(&uids(rows.clone()), &values[rows.start * 40..rows.end * 40]).unwrap();
        writer.finish().unwrap();
    };
    let expected = |rows: std::ops::Range<usize>| {
        let vectors = Vectors::from_rows(
            40,
            uids(rows.clone()),
            &narrowed(&values[rows.start * 40..rows.end * 40]),
        );
        (vectors.uids().to_vec(), vectors.values().to_vec())
    };
    let found = |vectors: &Vectors| (vectors.uids().to_vec(), vectors.values().to_vec());

    append(0..300);
    let mut vectors = Vectors::read(&store, producer, Modality::Image, 1 << 20).unwrap();
    assert_eq!(found(&vectors), expected(0..300));
    append(300..777);
    assert!(vectors.refresh(&store).unwrap(), "the rows that were there are the same");
    assert_eq!(found(&vectors), expected(0..777));
    assert!(vectors.refresh(&store).unwrap());
    assert_eq!(vectors.len(), 777);

    // A part, in the requested order. Unknown uids are skipped.
    let some = Vectors::read_some(
        &store,
        producer,
        Modality::Image,
        &[uid(700), uid(999), uid(3)],
        1 << 20,
    )
    .unwrap();
    assert_eq!(some.uids(), [uid(700), uid(3)]);
    assert_eq!(some.row(0), &found(&vectors).1[700 * 64..701 * 64]);
    assert_eq!(some.row(1), &found(&vectors).1[3 * 64..4 * 64]);

    assert!(store.drop_embeddings(producer).unwrap());
    append(100..1000);
    assert!(!vectors.refresh(&store).unwrap(), "other rows stand where these stood");
    assert_eq!(found(&vectors), expected(100..1000));
}

#[test]
fn what_does_not_fit_into_memory_is_refused_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let producer = ContentHash::of(b"weights");
    let mut writer = store.embedding_writer(producer, Modality::Image, 32, "").unwrap();
    writer.append(&uids(0..100), &vec![0.5; 3200]).unwrap();
    // 2 · 32 + 16 bytes per row.
    assert_eq!(Vectors::read(&store, producer, Modality::Image, 8000).unwrap().len(), 100);
    let refused = Vectors::read(&store, producer, Modality::Image, 7999).err().unwrap();
    assert!(
        matches!(refused, NearestError::Memory { rows: 100, bytes: 8000, limit: 7999, .. }),
        "{refused}"
    );
    assert!(Vectors::read(&store, producer, Modality::Text, 8000).is_err());
}

/// Rows of unit length around random centres, as embeddings are.
fn clustered(random: &mut Random, centres: &[f32], dimension: usize, rows: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(rows * dimension);
    for _ in 0..rows {
        let centre = random.below((centres.len() / dimension) as u64) as usize;
        let row: Vec<f32> = centres[centre * dimension..][..dimension]
            .iter()
            .map(|value| value + 0.8 * random.uniform(-1.0, 1.0) as f32)
            .collect();
        let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
        values.extend(row.iter().map(|value| value / length));
    }
    values
}

#[test]
fn approximate_index_finds_nearly_all_of_the_exact_answers_and_scores_them_alike() {
    let (rows, dimension, k) = (1200, 32, 10);
    let mut random = Random::new(7);
    let centres: Vec<f32> = (0..20 * dimension).map(|_| random.uniform(-1.0, 1.0) as f32).collect();
    let values = narrowed(&clustered(&mut random, &centres, dimension, rows));
    let half = Vectors::from_rows(dimension, uids(0..rows / 2), &values[..rows / 2 * dimension]);
    let vectors = Vectors::from_rows(dimension, uids(0..rows), &values);
    // Built from a half, then grown.
    let mut graph = Graph::build(&half, GraphSpec { links: 16, candidates: 64 }).unwrap();
    graph.grow(&vectors).unwrap();
    let queries = clustered(&mut random, &centres, dimension, 50);
    let mut found = 0;
    for query in queries.chunks_exact(dimension).map(padded) {
        let exact = nearest(&vectors, &query, k);
        let hits = graph.nearest(&vectors, &query, k, 64).unwrap();
        for hit in &hits {
            let right = exact.iter().find(|right| right.place == hit.place);
            found += usize::from(right.is_some());
            assert!(right.is_none_or(|right| right.score.to_bits() == hit.score.to_bits()));
        }
    }
    assert!(found >= 475, "recall@10 is {:.3}", found as f64 / 500.0);
}

#[test]
fn approximate_index_takes_few_rows_equal_rows_and_no_rows() {
    let graph = |rows: usize| {
        let vectors = Vectors::from_rows(4, uids(0..rows), &narrowed(&[0.5; 4].repeat(rows)));
        (Graph::build(&vectors, GraphSpec::default()).unwrap(), vectors)
    };
    let query = padded(&[0.5; 4]);
    for (rows, k, expected) in [(0, 3, 0), (1, 3, 1), (2, 0, 0), (200, 5, 5)] {
        let (graph, vectors) = graph(rows);
        let hits = graph.nearest(&vectors, &query, k, 16).unwrap();
        assert_eq!(hits.len(), expected, "{k} of {rows}");
        assert!(hits.iter().all(|hit| hit.score == 1.0));
    }
    let (_, vectors) = graph(1);
    for (links, candidates) in [(1, 200), (300, 1000), (16, 32)] {
        assert!(matches!(
            Graph::build(&vectors, GraphSpec { links, candidates }),
            Err(NearestError::Query(_))
        ));
    }
}
