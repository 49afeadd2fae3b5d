//! Embeddings in two dimensions: their first two principal components, so that distances are those of a projection and nothing is
//! arranged.

/// Turns of the power iteration: the gap of two components that a picture shows needs few.
const TURNS: usize = 60;

/// The place of each row [N, D] along the two directions in which rows differ most, and what part of all variance these two have.
pub(super) fn principal(values: &[f32], dimension: usize) -> (Vec<(f32, f32)>, f64) {
    let count = values.len() / dimension.max(1);
    let mut mean = vec![0.0_f64; dimension];
    for row in values.chunks_exact(dimension) {
        mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += f64::from(*value) / count as f64);
    }
    let centred: Vec<f64> = values
        .chunks_exact(dimension)
        .flat_map(|row| row.iter().zip(&mean).map(|(value, mean)| f64::from(*value) - mean))
        .collect();
    let total: f64 = centred.iter().map(|value| value * value).sum();
    let first = direction(&centred, dimension, None);
    let second = direction(&centred, dimension, Some(&first));
    let along = |direction: &[f64]| -> Vec<f64> { centred.chunks_exact(dimension).map(|row| dot(row, direction)).collect() };
    let (x, y) = (along(&first), along(&second));
    let explained: f64 = x.iter().chain(&y).map(|value| value * value).sum();
    let share = if total > 0.0 { explained / total } else { 0.0 };
    (x.into_iter().zip(y).map(|(x, y)| (x as f32, y as f32)).collect(), share)
}

/// The direction of most variance, among those at right angles to `other`: power iteration on XᵀX, which is never formed.
fn direction(centred: &[f64], dimension: usize, other: Option<&[f64]>) -> Vec<f64> {
    // Any start that is not at right angles to the answer will do, and the same one always gives the same picture.
    let mut found: Vec<f64> = (0..dimension).map(|place| 1.0 + (place as f64 * 0.618_033_988_75).fract()).collect();
    for _ in 0..TURNS {
        let mut next = vec![0.0; dimension];
        for row in centred.chunks_exact(dimension) {
            let weight = dot(row, &found);
            next.iter_mut().zip(row).for_each(|(next, value)| *next += weight * value);
        }
        if let Some(other) = other {
            let along = dot(&next, other);
            next.iter_mut().zip(other).for_each(|(next, value)| *next -= along * value);
        }
        let length = dot(&next, &next).sqrt();
        // Rows that are all alike have no direction.
        if length < f64::MIN_POSITIVE.sqrt() {
            return vec![0.0; dimension];
        }
        for value in &mut next {
            *value /= length;
        }
        found = next;
    }
    found
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_directions_of_an_ellipse_are_found_in_their_order() {
        // Long along (3, 4, 0)/5, short along the third axis, nothing along the rest.
        let points: Vec<[f32; 3]> = (0..100)
            .map(|n| {
                let (long, short) = ((n % 10) as f32 - 4.5, 0.1 * ((n / 10) as f32 - 4.5));
                [7.0 + 0.6 * long, 0.8 * long - 1.0, short]
            })
            .collect();
        let values: Vec<f32> = points.iter().flatten().copied().collect();
        let (found, share) = principal(&values, 3);
        assert!((share - 1.0).abs() < 1e-9, "{share}");
        for (n, (x, y)) in found.iter().enumerate() {
            let (long, short) = ((n % 10) as f32 - 4.5, 0.1 * ((n / 10) as f32 - 4.5));
            assert!((x.abs() - long.abs()).abs() < 1e-4 && (y.abs() - short.abs()).abs() < 1e-4, "{n}: {x} {y}");
        }
        let (same, share) = principal(&[0.5; 12], 3);
        assert!(same.iter().all(|at| *at == (0.0, 0.0)) && share == 0.0);
    }
}
