//! The activation functions of MLPs.

use tch::Tensor;

use crate::TrainerError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    /// The exact function, with erf.
    Gelu,
    GeluTanh,
    /// `x·sigmoid(1.702x)`.
    QuickGelu,
}

impl Activation {
    pub(crate) fn forward(self, x: &Tensor) -> Result<Tensor, TrainerError> {
        Ok(match self {
            Self::Gelu => x.f_gelu("none")?,
            Self::GeluTanh => x.f_gelu("tanh")?,
            Self::QuickGelu => x.f_mul(&x.f_mul_scalar(1.702)?.f_sigmoid()?)?,
        })
    }
}

/// Returns the ratio of an MLP's hidden layer to its width.
///
/// `width * ratio`, rounded down, gives `hidden` again. Returns `None` where no such ratio is
/// found.
pub(crate) fn mlp_ratio(width: i64, hidden: i64) -> Option<f64> {
    let gives = |ratio: &f64| (width as f64 * ratio) as i64 == hidden;
    let ratio = hidden as f64 / width as f64;
    // Where the division is not exact, the next larger number rounds down to the right size.
    Some(ratio).filter(gives).or(Some(ratio.next_up()).filter(gives))
}
