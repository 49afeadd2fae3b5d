//! Embeddings are appended, resumed, read and dropped.

use diptych_store::{EmbeddingChunk, Modality, Store, StoreError};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::samples::*;

#[test]
fn embeddings_are_resumed_read_and_dropped() {
    let state = tempfile::tempdir().unwrap();
    let (ours, other) = (hash("weights"), hash("other weights"));
    let store = Store::open(state.path()).unwrap();
    let mut writer = store.embedding_writer(ours, Modality::Image, DIM, "checkpoints/1").unwrap();
    writer.append(&uids(0..100), &vectors(0..100, DIM)).unwrap();
    drop((writer, store));

    let store = Store::open(state.path()).unwrap();
    let mut writer = store.embedding_writer(ours, Modality::Image, DIM, "checkpoints/1").unwrap();
    assert_eq!(writer.rows_done(), 100);
    assert_eq!(writer.missing(&uids(97..103)), [3, 4, 5]);
    assert!(!store.embeddings().unwrap()[0].complete);
    writer.append(&uids(100..1000), &vectors(100..1000, DIM)).unwrap();
    assert!(writer.finish().unwrap().complete);
    let mut text = store.embedding_writer(other, Modality::Text, 7, "").unwrap();
    text.append(&uids(0..5), &vectors(0..5, 7)).unwrap();

    let mut reader = store.read_embeddings(ours, Modality::Image).unwrap();
    assert_eq!((reader.set().rows, reader.set().complete), (1000, true));
    let mut whole = EmbeddingChunk::default();
    while let Some(chunk) = reader.next_chunk(333).unwrap() {
        assert_eq!(chunk.first_row, whole.uids.len() as u64);
        whole.uids.extend(chunk.uids);
        whole.vectors.extend(chunk.vectors);
    }
    assert_rows(&whole, 1000, DIM);
    assert_eq!(store.read_embeddings(ours, Modality::Image).unwrap().read_all().unwrap(), whole);

    assert!(store.drop_embeddings(ours).unwrap());
    assert!(!store.drop_embeddings(ours).unwrap());
    let error = store.read_embeddings(ours, Modality::Image).err().unwrap();
    assert!(matches!(error, StoreError::NoEmbeddings { modality: "image", .. }), "{error}");
    assert_rows(&store.read_embeddings(other, Modality::Text).unwrap().read_all().unwrap(), 5, 7);
}

#[test]
fn embeddings_that_do_not_fit_are_refused_in_words() {
    let state = tempfile::tempdir().unwrap();
    let store = Store::open(state.path()).unwrap();
    let open = |dim| store.embedding_writer(hash("weights"), Modality::Image, dim, "");
    assert!(open(3585).err().unwrap().to_string().contains("3584"));
    assert!(open(0).is_err());
    let mut writer = open(2).unwrap();
    let error = open(3).err().unwrap();
    assert!(
        matches!(&error, StoreError::Shape { expected, .. } if expected.starts_with('2')),
        "{error}"
    );
    assert!(writer.append(&uids(0..2), &[1.0; 3]).is_err());
    for bad in [f32::NAN, f32::INFINITY, 1e6] {
        let error = writer.append(&uids(0..2), &[1.0, 1.0, 1.0, bad]).unwrap_err().to_string();
        assert!(error.contains("row 1"), "{error}");
    }
    assert!(writer.append(&[uid(1), uid(1)], &[0.0; 4]).is_err());
    assert_eq!(writer.rows_done(), 0);
    let mut second = open(2).unwrap();
    writer.append(&uids(0..2), &[1.0; 4]).unwrap();
    assert!(writer.append(&uids(1..2), &[1.0; 2]).is_err());
    assert!(matches!(second.append(&uids(5..6), &[1.0; 2]), Err(StoreError::Changed { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn vectors_of_any_dimension_come_back_within_the_rounding_of_16_bit_floats(
        dim in prop_oneof![1usize..=600, Just(512), Just(1024), Just(3584), 601usize..=3583],
        appends in proptest::collection::vec(1usize..60, 1..4),
        seed in any::<u64>(),
    ) {
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path()).unwrap();
        let mut random = StdRng::seed_from_u64(seed);
        let mut writer = store.embedding_writer(hash("weights"), Modality::Text, dim, "").unwrap();
        let mut written: Vec<f32> = Vec::new();
        let mut rows = 0;
        for count in appends {
            let new: Vec<f32> = (0..count * dim).map(|_| random.random_range(-1.0..1.0)).collect();
            let next = rows + count as u64;
            // The store refuses values above its limit, so this tests the limit too.
            writer.append(&uids(rows..next), &new).unwrap();
            rows = next;
            written.extend(new);
        }
        let reader = store.read_embeddings(hash("weights"), Modality::Text).unwrap();
        let read = reader.read_all().unwrap();
        prop_assert_eq!(read.uids, uids(0..rows));
        for (half, value) in read.vectors.iter().zip(&written) {
            // Half a unit in the last of 11 bits, or half the smallest subnormal.
            let tolerance = (value.abs() * 2f32.powi(-11)).max(2f32.powi(-25));
            prop_assert!((half.to_f32() - value).abs() <= tolerance, "{} became {}", value, half);
        }
    }
}
