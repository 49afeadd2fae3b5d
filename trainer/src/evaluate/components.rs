//! The first two principal components of rows.

use tch::{Device, Kind};

use super::Rows;
use crate::TrainerError;

/// Projects rows `[N, D]` on the two directions in which they vary most.
///
/// Also returns the share of the total variance that these two directions explain.
pub fn principal(rows: Rows<'_>) -> Result<(Vec<(f32, f32)>, f64), TrainerError> {
    let n = rows.count("rows")?;
    let x = rows.tensor(0, n)?.f_to_kind(Kind::Double)?;
    let centred = x.f_sub(&x.f_mean_dim(0, true, Kind::Double)?)?;
    let (values, vectors) = centred.f_transpose(0, 1)?.f_matmul(&centred)?.f_linalg_eigh("L")?;
    // Eigenvalues are in ascending order.
    let two = vectors
        .f_narrow(1, (rows.dimension as i64 - 2).max(0), rows.dimension.min(2) as i64)?
        .f_flip([1])?;
    let places =
        centred.f_matmul(&two)?.f_to_kind(Kind::Float)?.f_contiguous()?.f_to_device(Device::Cpu)?;
    let mut host = vec![0_f32; n * rows.dimension.min(2)];
    let count = host.len();
    places.f_copy_data(&mut host, count)?;
    let total = values.f_sum(Kind::Double)?.f_double_value(&[])?;
    let explained = centred.f_matmul(&two)?.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])?;
    let share = if total > 0.0 { explained / total } else { 0.0 };
    let pairs = host.chunks_exact(rows.dimension.clamp(1, 2));
    Ok((pairs.map(|pair| (pair[0], pair.get(1).copied().unwrap_or(0.0))).collect(), share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_directions_of_an_ellipse_are_found_in_their_order() {
        // Long along (3, 4, 0)/5, short along the third axis, and constant in the remaining
        // direction.
        let at = |n: usize| ((n % 10) as f32 - 4.5, 0.1 * ((n / 10) as f32 - 4.5));
        let values: Vec<f32> = (0..100)
            .map(at)
            .flat_map(|(long, short)| [7.0 + 0.6 * long, 0.8 * long - 1.0, short])
            .collect();
        let (found, share) = principal(Rows { values: &values, dimension: 3 }).unwrap();
        assert!((share - 1.0).abs() < 1e-9, "{share}");
        for (n, (x, y)) in found.iter().enumerate() {
            let (long, short) = at(n);
            assert!(
                (x.abs() - long.abs()).abs() < 1e-4 && (y.abs() - short.abs()).abs() < 1e-4,
                "{n}: {x} {y}"
            );
        }
        let (same, share) = principal(Rows { values: &[0.5; 12], dimension: 3 }).unwrap();
        assert!(same.iter().all(|at| *at == (0.0, 0.0)) && share == 0.0);
        let (line, share) = principal(Rows { values: &[1.0, 2.0, 3.0], dimension: 1 }).unwrap();
        assert!(
            (line[0].0.abs() - 1.0).abs() < 1e-6
                && line[1] == (0.0, 0.0)
                && (share - 1.0).abs() < 1e-9
        );
    }
}
