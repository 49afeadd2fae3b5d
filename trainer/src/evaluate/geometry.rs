//! The geometry of embeddings on the sphere: modality gap, alignment, uniformity and effective
//! rank.
//!
//! None of these says that a model is good; together they say how a model is bad. An effective rank
//! near 1, or a uniformity near 0, means that all embeddings are close to one point or line.
//! Computed in f64 over all rows; the caller chooses how many.

use tch::{Device, Kind, Tensor};

use super::{Rows, same_dimension};
use crate::TrainerError;

/// Rows and columns of a tile of distances.
const TILE: usize = 1024;

/// The geometry of n pairs of an image and its text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Geometry {
    /// Distance between the means of images and texts: Liang et al. 2022.
    pub modality_gap: f64,
    /// Mean squared distance between an image and its text: Wang and Isola 2020, with α = 2.
    pub alignment: f64,
    pub images: Spread,
    pub texts: Spread,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// Natural logarithm of the mean of exp(-2 · squared distance) over all pairs: Wang and Isola
    /// 2020, with t = 2. It is 0 for a single point, and lower for a more even spread.
    pub uniformity: f64,
    /// exp of the entropy of the singular values: Roy and Vetterli 2007. It is 1 for a line, and at
    /// most the dimension.
    pub effective_rank: f64,
    /// Effective rank after subtracting the mean. CLIP's embeddings are in a narrow cone, whose
    /// axis would dominate.
    pub effective_rank_centred: f64,
}

/// Computes the geometry of pairs: row n of the images belongs to row n of the texts.
pub fn geometry(images: Rows<'_>, texts: Rows<'_>) -> Result<Geometry, TrainerError> {
    let (n, m) = (images.count("images")?, texts.count("texts")?);
    same_dimension(("images", images.dimension), ("texts", texts.dimension))?;
    if n != m || n < 2 {
        return Err(TrainerError::Evaluation(format!(
            "{n} images and {m} texts: at least two pairs are needed, with as many images as texts"
        )));
    }
    let (x, y) = (
        images.tensor(0, n)?.f_to_kind(Kind::Double)?,
        texts.tensor(0, n)?.f_to_kind(Kind::Double)?,
    );
    let mean = |rows: &Tensor| rows.f_mean_dim(0, false, Kind::Double);
    Ok(Geometry {
        modality_gap: mean(&x)?
            .f_sub(&mean(&y)?)?
            .f_square()?
            .f_sum(Kind::Double)?
            .f_double_value(&[])?
            .sqrt(),
        alignment: x.f_sub(&y)?.f_square()?.f_sum(Kind::Double)?.f_double_value(&[])? / n as f64,
        images: spread(&x)?,
        texts: spread(&y)?,
    })
}

/// Computes the spread of rows, f64 `[N, D]`.
fn spread(rows: &Tensor) -> Result<Spread, TrainerError> {
    let centred = rows.f_sub(&rows.f_mean_dim(0, true, Kind::Double)?)?;
    Ok(Spread {
        uniformity: uniformity(rows)?,
        effective_rank: effective_rank(rows)?,
        effective_rank_centred: effective_rank(&centred)?,
    })
}

fn uniformity(rows: &Tensor) -> Result<f64, TrainerError> {
    let n = rows.size2()?.0;
    let squares = rows.f_square()?.f_sum_dim_intlist(1, false, Kind::Double)?;
    let part = |tensor: &Tensor, from: i64| tensor.f_narrow(0, from, (TILE as i64).min(n - from));
    // Each pair counts once: tiles above the diagonal, and half of those on it without the rows'
    // distances to themselves.
    let mut sum = 0.0;
    for top in (0..n).step_by(TILE) {
        for left in (top..n).step_by(TILE) {
            let products = part(rows, top)?.f_matmul(&part(rows, left)?.f_transpose(0, 1)?)?;
            let squares = part(&squares, top)?
                .f_unsqueeze(1)?
                .f_add(&part(&squares, left)?.f_unsqueeze(0)?)?;
            let distances = squares.f_sub(&products.f_mul_scalar(2.0)?)?;
            let all = distances.f_mul_scalar(-2.0)?.f_exp()?;
            let tile = all.f_sum(Kind::Double)?.f_double_value(&[])?;
            sum +=
                if top == left { (tile - all.f_trace()?.f_double_value(&[])?) / 2.0 } else { tile };
        }
    }
    Ok((sum / (n as f64 * (n as f64 - 1.0) / 2.0)).ln())
}

fn effective_rank(rows: &Tensor) -> Result<f64, TrainerError> {
    let (n, d) = rows.size2()?;
    // Singular values are the roots of the eigenvalues of the smaller of the two products.
    let product = if n < d {
        rows.f_matmul(&rows.f_transpose(0, 1)?)?
    } else {
        rows.f_transpose(0, 1)?.f_matmul(rows)?
    };
    let eigenvalues = product.f_linalg_eigvalsh("L")?.f_to_device(Device::Cpu)?;
    let mut host = vec![0_f64; n.min(d) as usize];
    let count = host.len();
    eigenvalues.f_copy_data(&mut host, count)?;
    // Eigenvalues below the precision of the product are noise.
    let noise = host.iter().copied().fold(0.0, f64::max) * f64::EPSILON * count as f64;
    let singular: Vec<f64> =
        host.into_iter().filter(|value| *value > noise).map(f64::sqrt).collect();
    let all: f64 = singular.iter().sum();
    Ok(singular.into_iter().map(|value| value / all).map(|p| -p * p.ln()).sum::<f64>().exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collapsed_model_has_rank_one_and_no_spread() {
        let (point, axes) = ([0.6, 0.8].repeat(30), [1.0, 0.0, 0.0, 1.0].repeat(15));
        let rows = |values| Rows { values, dimension: 2 };
        let found = geometry(rows(&point), rows(&axes)).unwrap();
        assert!(
            (found.images.effective_rank - 1.0).abs() < 1e-9
                && found.images.uniformity.abs() < 1e-9,
            "{found:?}"
        );
        assert!((found.texts.effective_rank - 2.0).abs() < 1e-9, "{found:?}");
        // From (0.6, 0.8) to (0.5, 0.5).
        assert!((found.modality_gap - 0.1_f64.hypot(0.3)).abs() < 1e-7);
    }
}
