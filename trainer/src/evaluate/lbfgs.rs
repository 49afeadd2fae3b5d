//! L-BFGS with a line search for the strong Wolfe conditions, in f64.
//!
//! Nocedal and Wright, algorithms 7.4, 3.5 and 3.6. For smooth convex functions with as many
//! parameters as a linear probe. Stops when it cannot get lower.

use std::collections::VecDeque;

use tch::Tensor;

use crate::TrainerError;

/// Number of remembered steps and gradients: scipy's default.
const HISTORY: usize = 10;
/// Constant of sufficient decrease. Nocedal and Wright, section 3.1.
const C1: f64 = 1e-4;
/// Constant of curvature for quasi-Newton steps.
const C2: f64 = 0.9;
/// Maximum of evaluations in one line search: scipy's default.
const MAX_SEARCH: usize = 20;

/// The end of a minimisation.
pub(super) struct Minimum {
    /// `[P]`.
    pub(super) at: Tensor,
    pub(super) iterations: usize,
}

/// A point on the line of a search.
struct Point {
    t: f64,
    value: f64,
    slope: f64,
    at: Tensor,
    gradient: Tensor,
}

/// Minimises a function that returns its value and gradient, f64 `[P]`.
///
/// Stops when no component of the gradient exceeds `tolerance`.
pub(super) fn minimise(
    mut function: impl FnMut(&Tensor) -> Result<(f64, Tensor), TrainerError>,
    start: Tensor,
    max_iterations: usize,
    tolerance: f64,
) -> Result<Minimum, TrainerError> {
    let mut at = start;
    let (mut value, mut gradient) = function(&at)?;
    // Steps s, changes of the gradient y, and 1 / s·y.
    let mut history: VecDeque<(Tensor, Tensor, f64)> = VecDeque::with_capacity(HISTORY);
    for iteration in 0..max_iterations {
        if number(&gradient.f_abs()?.f_max()?)? <= tolerance {
            return Ok(Minimum { at, iterations: iteration });
        }
        let direction = direction(&gradient, &history)?;
        let slope = dot(&gradient, &direction)?;
        let first = if history.is_empty() {
            (1.0 / number(&gradient.f_abs()?.f_sum(tch::Kind::Double)?)?).min(1.0)
        } else {
            1.0
        };
        let Some(next) = search(&mut function, (&at, value, slope), &direction, first)? else {
            return Ok(Minimum { at, iterations: iteration });
        };
        let (step, change) = (next.at.f_sub(&at)?, next.gradient.f_sub(&gradient)?);
        let product = dot(&step, &change)?;
        if product > f64::EPSILON * dot(&change, &change)? {
            if history.len() == HISTORY {
                history.pop_front();
            }
            history.push_back((step, change, 1.0 / product));
        }
        (at, value, gradient) = (next.at, next.value, next.gradient);
    }
    Ok(Minimum { at, iterations: max_iterations })
}

/// Computes -H·g by the two loops of algorithm 7.4.
fn direction(
    gradient: &Tensor,
    history: &VecDeque<(Tensor, Tensor, f64)>,
) -> Result<Tensor, TrainerError> {
    let mut q = gradient.f_neg()?;
    let mut alphas = Vec::with_capacity(history.len());
    for (s, y, rho) in history.iter().rev() {
        let alpha = rho * dot(s, &q)?;
        q = q.f_sub(&y.f_mul_scalar(alpha)?)?;
        alphas.push(alpha);
    }
    if let Some((_, y, rho)) = history.back() {
        q = q.f_mul_scalar(1.0 / (rho * dot(y, y)?))?;
    }
    for ((s, y, rho), alpha) in history.iter().zip(alphas.into_iter().rev()) {
        let beta = rho * dot(y, &q)?;
        q = q.f_add(&s.f_mul_scalar(alpha - beta)?)?;
    }
    Ok(q)
}

/// Searches a point that meets both conditions.
///
/// If there is none, returns the best point below the start. Returns `None` if no point is below
/// it.
fn search(
    function: &mut impl FnMut(&Tensor) -> Result<(f64, Tensor), TrainerError>,
    (from, value, slope): (&Tensor, f64, f64),
    direction: &Tensor,
    first: f64,
) -> Result<Option<Point>, TrainerError> {
    let mut evaluate = |t: f64| -> Result<Point, TrainerError> {
        let at = from.f_add(&direction.f_mul_scalar(t)?)?;
        let (value, gradient) = function(&at)?;
        Ok(Point { t, value, slope: dot(&gradient, direction)?, at, gradient })
    };
    let enough = |point: &Point| point.value <= value + C1 * point.t * slope;
    let flat = |point: &Point| point.slope.abs() <= -C2 * slope;
    // A bracket. `low` is the lowest point so far that decreases enough, or the start if there is
    // none.
    let (mut low, mut high): (Option<Point>, Option<Point>) = (None, None);
    let mut t = first;
    for _ in 0..MAX_SEARCH {
        let point = evaluate(t)?;
        let lowest = low.as_ref().map_or(value, |low| low.value);
        if !enough(&point) || point.value >= lowest {
            high = Some(point);
        } else if flat(&point) {
            return Ok(Some(point));
        } else {
            // The minimum is where the function falls: between this point and the other end.
            let low_t = low.as_ref().map_or(0.0, |low| low.t);
            let towards_high = high.as_ref().map_or(1.0, |high| high.t - low_t);
            if point.slope * towards_high >= 0.0 {
                high = low.replace(point);
                if high.is_none() {
                    high = Some(Point {
                        t: 0.0,
                        value,
                        slope,
                        at: from.shallow_clone(),
                        gradient: Tensor::new(),
                    });
                }
            } else {
                low = Some(point);
            }
        }
        let (low_t, low_value, low_slope) =
            low.as_ref().map_or((0.0, value, slope), |low| (low.t, low.value, low.slope));
        t = match &high {
            None => 2.0 * low_t.max(first),
            Some(high) => between((low_t, low_value, low_slope), (high.t, high.value, high.slope)),
        };
    }
    Ok(low.filter(|low| low.value < value))
}

/// Finds the minimum of the cubic through two points and their slopes, away from both ends.
///
/// Returns the middle if there is no such minimum.
fn between(a: (f64, f64, f64), b: (f64, f64, f64)) -> f64 {
    let (width, middle) = (b.0 - a.0, f64::midpoint(a.0, b.0));
    let d1 = a.2 + b.2 - 3.0 * (a.1 - b.1) / (a.0 - b.0);
    let under = d1 * d1 - a.2 * b.2;
    if !under.is_finite() || under < 0.0 {
        return middle;
    }
    let d2 = width.signum() * under.sqrt();
    let t = b.0 - width * (b.2 + d2 - d1) / (b.2 - a.2 + 2.0 * d2);
    let inside = (t - a.0) / width;
    if inside.is_finite() && (0.1..=0.9).contains(&inside) { t } else { middle }
}

fn dot(a: &Tensor, b: &Tensor) -> Result<f64, TrainerError> {
    number(&a.f_dot(b)?)
}

fn number(tensor: &Tensor) -> Result<f64, TrainerError> {
    Ok(tensor.f_double_value(&[])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rosenbrocks_valley_is_followed_to_its_end() {
        // Minimum 0 at (1, 1, …), from the usual start. Hard for any line search that takes short
        // cuts.
        let function = |x: &Tensor| {
            let (a, b) = (x.f_narrow(0, 0, 9)?, x.f_narrow(0, 1, 9)?);
            let (u, v): (Tensor, Tensor) = (b.f_sub(&a.f_square()?)?, 1.0 - &a);
            let value = 100.0 * number(&u.f_square()?.f_sum(tch::Kind::Double)?)?
                + number(&v.f_square()?.f_sum(tch::Kind::Double)?)?;
            let gradient = Tensor::zeros([10], (tch::Kind::Double, tch::Device::Cpu));
            let _ = gradient.f_narrow(0, 0, 9)?.f_add_(&(-400.0 * &a * &u - 2.0 * &v))?;
            let _ = gradient.f_narrow(0, 1, 9)?.f_add_(&(200.0 * &u))?;
            Ok((value, gradient))
        };
        let start = Tensor::from_slice(&[-1.2_f64, 1.0].repeat(5));
        let found = minimise(function, start, 500, 1e-9).unwrap();
        assert!(
            number(&(&found.at - 1.0).abs().max()).unwrap() < 1e-7 && found.iterations < 200,
            "{}",
            found.iterations
        );
    }
}
