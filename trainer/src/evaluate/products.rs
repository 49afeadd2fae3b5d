//! Products of many rows with the same queries, so that a search of many queries runs at the speed
//! of a matrix product.

use half::f16;
use tch::{Kind, Tensor};

use super::{Rows, same_dimension};
use crate::TrainerError;

/// Queries, prepared for products.
pub struct Products {
    /// `[Q, D]`.
    queries: Tensor,
    dimension: usize,
}

impl Products {
    pub fn new(queries: Rows<'_>) -> Result<Self, TrainerError> {
        let count = queries.count("queries")?;
        Ok(Self { queries: queries.tensor(0, count)?, dimension: queries.dimension })
    }

    /// Computes the scores of rows `[N, D]` with all queries. Returns `[Q, N]`, in f32.
    pub fn multiply(&self, rows: &[f16]) -> Result<Vec<f32>, TrainerError> {
        if !rows.len().is_multiple_of(self.dimension) {
            let message = format!("{} values are not whole rows of {}", rows.len(), self.dimension);
            return Err(TrainerError::Evaluation(message));
        }
        let count = (rows.len() / self.dimension) as i64;
        let rows = Tensor::f_from_slice(rows)?
            .f_reshape([count, self.dimension as i64])?
            .f_to_kind(Kind::Float)?;
        let scores = self.queries.f_matmul(&rows.f_transpose(0, 1)?)?.f_contiguous()?;
        let mut host = vec![0.0; scores.numel()];
        scores.f_copy_data(&mut host, scores.numel())?;
        Ok(host)
    }
}

/// Computes the cosines of all rows of unit length with all others. Returns `[N, M]`.
pub fn cosines(rows: Rows<'_>, others: Rows<'_>) -> Result<Vec<f32>, TrainerError> {
    let (n, m) = (rows.count("rows")?, others.count("other rows")?);
    same_dimension(("rows", rows.dimension), ("other rows", others.dimension))?;
    let mut scores = vec![0.0; n * m];
    rows.tensor(0, n)?
        .f_matmul(&others.tensor(0, m)?.f_transpose(0, 1)?)?
        .f_copy_data(&mut scores, n * m)?;
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_queries_by_rows() {
        let queries = [1.0, 2.0, 0.0, -1.0];
        let products = Products::new(Rows { values: &queries, dimension: 2 }).unwrap();
        let rows = [0.5, 0.25, 3.0, 4.0, -1.0, 2.0].map(f16::from_f32);
        assert_eq!(products.multiply(&rows).unwrap(), [1.0, 11.0, 3.0, -0.25, -4.0, -2.0]);
        assert!(products.multiply(&rows[..3]).unwrap_err().to_string().contains("whole rows of 2"));
    }
}
