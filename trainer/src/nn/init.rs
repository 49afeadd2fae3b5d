//! The initial values of parameters: a pure function of the seed, the parameter's name and the
//! index.
//!
//! So a seed gives the same weights in any process, on any device and with any number of threads. A
//! change of one layer does not affect the others.

use diptych_schemas::ContentHash;

use crate::nn::parameters::{Init, ParameterSpec};

/// Computes the initial values of a parameter, in row-major order.
pub(crate) fn values(spec: &ParameterSpec, seed: u64) -> Vec<f32> {
    let count = spec.numel() as usize;
    let mut random =
        SplitMix::new(ContentHash::of(format!("{seed} {}", spec.name).as_bytes()).seed());
    match spec.init {
        Init::Constant(value) => vec![value as f32; count],
        Init::Uniform(bound) => {
            (0..count).map(|_| ((2.0 * random.unit() - 1.0) * bound) as f32).collect()
        }
        Init::Normal(deviation) => {
            let mut values = Vec::with_capacity(count + 1);
            while values.len() < count {
                let (a, b) = random.normal_pair();
                values.push((a * deviation) as f32);
                values.push((b * deviation) as f32);
            }
            values.truncate(count);
            values
        }
        Init::SinCos2d(side) => {
            sin_cos_2d(side as usize, spec.shape.last().map_or(0, |&width| width as usize))
        }
    }
}

/// Computes the positions of a square grid as sines and cosines: `[1 + side², width]`.
///
/// The first row holds zeros for the class token. Each patch, row by row, has the sines and cosines
/// of its column, then those of its row. As `get_2d_sincos_pos_embed` of MAE (He et al., 2022).
fn sin_cos_2d(side: usize, width: usize) -> Vec<f32> {
    let waves = width / 4;
    let angle = |position: usize, wave: usize| {
        position as f64 / 10_000_f64.powf(wave as f64 / waves as f64)
    };
    let mut values = vec![0.0; width];
    for patch in 0..side * side {
        for position in [patch % side, patch / side] {
            values.extend((0..waves).map(|wave| angle(position, wave).sin() as f32));
            values.extend((0..waves).map(|wave| angle(position, wave).cos() as f32));
        }
    }
    values
}

/// The SplitMix64 generator.
///
/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
struct SplitMix(u64);

impl SplitMix {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Draws a uniform number in [0, 1) with 53 random bits.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Draws two independent standard normal numbers by the method of Box and Muller.
    fn normal_pair(&mut self) -> (f64, f64) {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        let (sine, cosine) = (std::f64::consts::TAU * self.unit()).sin_cos();
        (radius * cosine, radius * sine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::parameters::{Depth, Part, Role};

    fn spec(name: &str, init: Init) -> ParameterSpec {
        ParameterSpec {
            name: name.into(),
            shape: vec![100, 400],
            init,
            part: Part::Image,
            depth: Depth::Head,
            role: Role::Other,
        }
    }

    #[test]
    fn generator_gives_the_published_sequence() {
        // SplitMix64's first outputs for seed 1234567, from the test vectors of Rosetta Code.
        let mut random = SplitMix::new(1_234_567);
        let found = [random.next(), random.next(), random.next()];
        assert_eq!(
            found,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn values_have_the_moments_that_were_asked_for() {
        for (start, deviation) in
            [(Init::Normal(0.02), 0.02), (Init::Uniform(0.3), 0.3 / 3_f64.sqrt())]
        {
            let values: Vec<f64> =
                values(&spec("a", start), 7).into_iter().map(f64::from).collect();
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let found = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
            // Six standard errors: a sound generator fails once in 500 million seeds, and this seed
            // is fixed.
            assert!(mean.abs() < 6.0 * deviation / n.sqrt(), "{mean}");
            assert!((found / deviation - 1.0).abs() < 6.0 / (2.0 * n).sqrt(), "{found}");
        }
    }

    #[test]
    fn seed_and_name_decide_the_values() {
        let start = Init::Normal(1.0);
        assert_eq!(values(&spec("a", start), 1), values(&spec("a", start), 1));
        assert_ne!(values(&spec("a", start), 1), values(&spec("a", start), 2));
        assert_ne!(values(&spec("a", start), 1), values(&spec("b", start), 1));
    }
}
