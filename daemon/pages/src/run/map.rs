//! Neighbourhoods of embeddings in two dimensions: t-SNE (van der Maaten and Hinton 2008).

/// Approximate number of neighbours that count: the middle of the range that the authors recommend.
const PERPLEXITY: f32 = 30.0;
const EPOCHS: usize = 750;
/// Fewest points for which neighbourhoods are meaningful.
const FEWEST: usize = 12;

/// Returns a position for each row [N, D] of unit length. The search starts at `start`, so that
/// equal rows always give the same picture. Returns `None` if there are too few rows.
pub(super) fn neighbourhoods(
    values: &[f32],
    dimension: usize,
    start: &[(f32, f32)],
) -> Option<Vec<(f32, f32)>> {
    let rows: Vec<&[f32]> = values.chunks_exact(dimension).collect();
    if rows.len() < FEWEST {
        return None;
    }
    // Start small, as the authors do, so that the gradient decides and not the start.
    let widest =
        start.iter().map(|at| at.0.abs().max(at.1.abs())).fold(f32::MIN_POSITIVE, f32::max);
    let start: Vec<f32> =
        start.iter().flat_map(|at| [1e-4 * at.0 / widest, 1e-4 * at.1 / widest]).collect();
    // On several threads, sums would be taken in another order each time and give another picture.
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().ok()?;
    // Rows have unit length, so the angle decides.
    let distance = |a: &&[f32], b: &&[f32]| {
        (2.0 - 2.0 * a.iter().zip(*b).map(|(a, b)| a * b).sum::<f32>()).max(0.0).sqrt()
    };
    let found = one.install(|| {
        let mut tsne = bhtsne::tSNE::<f32, &[f32], 2>::new(&rows);
        tsne.perplexity(PERPLEXITY.min((rows.len() - 1) as f32 / 3.0))
            .epochs(EPOCHS)
            .initial_embedding(start)
            .exact(distance);
        tsne.embedding()
    });
    Some(found.chunks_exact(2).map(|at| (at[0], at[1])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_alike_lies_together_and_the_picture_is_the_same_each_time() {
        // Three clusters of 20 points in 8 dimensions.
        let values: Vec<f32> = (0..60)
            .flat_map(|n| {
                let wobble = |axis: usize| 0.02 * (((n * 7 + axis * 13) % 11) as f32 - 5.0);
                let row: Vec<f32> =
                    (0..8).map(|axis| f32::from(u8::from(axis == n / 20)) + wobble(axis)).collect();
                let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
                row.into_iter().map(move |value| value / length)
            })
            .collect();
        let start: Vec<(f32, f32)> = (0..60).map(|n| ((n % 8) as f32, (n % 5) as f32)).collect();
        let found = neighbourhoods(&values, 8, &start).unwrap();
        let apart = |a: usize, b: usize| (found[a].0 - found[b].0).hypot(found[a].1 - found[b].1);
        for n in 0..60 {
            let nearest = (0..60)
                .filter(|other| *other != n)
                .min_by(|a, b| apart(n, *a).total_cmp(&apart(n, *b)))
                .unwrap();
            assert_eq!(nearest / 20, n / 20, "{n}: {nearest}");
        }
        assert_eq!(neighbourhoods(&values, 8, &start).unwrap(), found);
        assert_eq!(neighbourhoods(&values[..40], 8, &start[..5]), None);
    }
}
