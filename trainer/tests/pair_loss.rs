//! The objective on pairs with known embeddings equals that of a training batch.
#![expect(clippy::unwrap_used, reason = "tests say what is wrong by failing")]

use diptych_schemas::{LossKind, ObjectiveConfig, ObjectiveTerm};
use diptych_trainer::{
    EmbeddedPairs, ModelConfig, Objective, Scalars, Trainer, TrainerSpec, pair_loss,
};
use tch::Tensor;

const SMALL: &str = r#"{"embed_dim": 4,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 32, "head_width": 16, "layers": 1},
    "text_cfg": {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1}}"#;
const N: usize = 40;
const D: usize = 4;

fn vectors(phase: f64) -> Vec<f32> {
    let plain: Vec<f32> = (0..N * D).map(|k| (0.7 * k as f64 + phase).sin() as f32).collect();
    let unit = plain.chunks(D).flat_map(|row| {
        let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt();
        row.iter().map(move |x| x / norm)
    });
    unit.collect()
}

/// Computes the contrastive loss of a batch as a step does.
fn of_batch(config: &ObjectiveConfig, scale: f64, images: &[f32], texts: &[f32]) -> f64 {
    let tensor = |rows: &[f32]| Tensor::from_slice(rows).reshape([-1, D as i64]);
    let logit_scale = Tensor::from(scale.ln() as f32);
    let scalars = Scalars { logit_scale: &logit_scale, logit_bias: None };
    let loss = Objective::new(config).loss(&tensor(images), &tensor(texts), scalars, None);
    loss.unwrap().double_value(&[])
}

fn assert_close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-5 * expected.abs().max(1.0), "{found} {expected}");
}

#[test]
fn loss_of_held_out_pairs_is_that_of_batches_of_the_same_size() {
    let trainer = Trainer::new(&TrainerSpec::new(ModelConfig::parse(SMALL).unwrap())).unwrap();
    let encoder = trainer.encoder().unwrap();
    let scale = encoder.logit_scale().unwrap();
    let (images, texts, captions) = (vectors(0.0), vectors(1.3), [0; N]);
    let pairs = EmbeddedPairs { images: &images, texts: &texts, captions: &captions };
    let rows = |from: usize, to: usize| from * D..to * D;
    for loss in [LossKind::Clip, LossKind::Siglip] {
        let config = ObjectiveConfig { loss, ..ObjectiveConfig::default() };
        let batch = |range: std::ops::Range<usize>| {
            of_batch(&config, scale, &images[range.clone()], &texts[range])
        };
        // Fewer pairs than a batch are one batch.
        let whole = pair_loss(&encoder, &config, pairs, 256, &|| true).unwrap();
        assert_eq!((whole.batch_size, whole.terms.len()), (N, 1));
        assert_close(whole.terms[0].1, batch(rows(0, N)));
        // The last of three batches overlaps the second.
        let three = pair_loss(&encoder, &config, pairs, 16, &|| true).unwrap();
        let expected = (batch(rows(0, 16)) + batch(rows(16, 32)) + batch(rows(24, 40))) / 3.0;
        assert_close(three.terms[0].1, expected);
        assert_eq!(three.parts.len(), 3 * 16);
        assert_close(three.parts.iter().sum::<f64>() / three.parts.len() as f64, expected);
    }
    let mixed = ObjectiveConfig {
        terms: [(ObjectiveTerm::Clip, 1.0), (ObjectiveTerm::Alignment, 0.5)].into(),
        ..ObjectiveConfig::default()
    };
    let found = pair_loss(&encoder, &mixed, pairs, 256, &|| true).unwrap();
    let of = |name: &str| found.terms.iter().find(|(known, _)| known == name).unwrap().1;
    let distances: f32 = images.iter().zip(&texts).map(|(x, y)| (x - y).powi(2)).sum();
    assert_close(of("loss/alignment"), f64::from(distances) / N as f64);
    assert_close(of("loss"), of("loss/clip") + 0.5 * of("loss/alignment"));

    let one = EmbeddedPairs { images: &images[..D], texts: &texts[..D], captions: &[0] };
    assert!(pair_loss(&encoder, &mixed, one, 256, &|| true).is_err(), "one pair has no negatives");
}
