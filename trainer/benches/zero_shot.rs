//! Benchmarks zero-shot classification of embeddings that are already computed.
//!
//! Each of 1,000 classes has 80 prompts, averaged once into one vector. Then 50,000 images are
//! assigned to classes, with ranks and confidences. Prints seconds as JSON; `zero_shot.py` runs it
//! and compares it with torch.

use std::io::Write;
use std::time::Instant;

use diptych_pipeline::Random;
use diptych_trainer::evaluate::{Rows, classify, ensemble};

const IMAGES: usize = 50_000;
const CLASSES: usize = 1_000;
const TEMPLATES: usize = 80;
const DIMENSION: usize = 512;

/// Makes random rows of unit length, `[count, DIMENSION]`.
fn rows(count: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    let mut values: Vec<f32> =
        (0..count * DIMENSION).map(|_| random.below(1 << 20) as f32 - (1 << 19) as f32).collect();
    for row in values.chunks_exact_mut(DIMENSION) {
        let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
        for value in row {
            *value /= length;
        }
    }
    values
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if let Some(threads) = std::env::args().skip(1).find_map(|argument| argument.parse().ok()) {
        diptych_trainer::set_threads(threads);
    }
    let (images, prompts) = (rows(IMAGES, 1), rows(TEMPLATES, 2));
    let labels: Vec<usize> = (0..IMAGES).map(|image| image % CLASSES).collect();
    let began = Instant::now();
    let mut classes = Vec::new();
    for class in 0..CLASSES {
        // Each class gets a different first prompt, so that no two classes are equal.
        let mut of_class = prompts.clone();
        of_class.rotate_left((class % TEMPLATES) * DIMENSION);
        of_class[..DIMENSION].copy_from_slice(&images[class * DIMENSION..][..DIMENSION]);
        classes.extend(ensemble(Rows { values: &of_class, dimension: DIMENSION })?);
    }
    let of_texts = began.elapsed().as_secs_f64();
    let began = Instant::now();
    let rows = |values| Rows { values, dimension: DIMENSION };
    let found = classify(rows(&images), &labels, rows(&classes), 100.0)?.summary();
    let of_images = began.elapsed().as_secs_f64();
    writeln!(
        std::io::stdout(),
        "{{\"ensemble\": {of_texts}, \"classify\": {of_images}, \"top1\": {}}}",
        found.top1
    )?;
    Ok(())
}
