//! Scores of 16-bit rows. Products are rounded to f32 and summed in 32 lanes, which are added
//! pairwise at the end.
//!
//! Every processor computes the same bits. AVX2 with F16C is only faster, so products and sums are
//! never fused. Rows and queries are padded with zeros to whole lanes, which changes no sum.

use half::f16;
use half::slice::HalfFloatSliceExt;

/// Partial sums of a score.
const LANES: usize = 32;
/// Positions of a block that are read in turn. A row is too short for the processor's prefetching:
/// 8 streams take a quarter less time than 1.
const STREAMS: usize = 8;

/// Returns the length of a row in memory: the dimension rounded up to whole lanes.
pub(super) fn stride(dimension: usize) -> usize {
    dimension.next_multiple_of(LANES)
}

/// Returns a row with its padding.
pub fn padded(row: &[f32]) -> Vec<f32> {
    let mut padded = row.to_vec();
    padded.resize(stride(row.len()), 0.0);
    padded
}

/// Appends rows, `[rows, dimension]`, with their padding.
pub(super) fn append_padded(rows: &[f16], dimension: usize, to: &mut Vec<f16>) {
    let stride = stride(dimension);
    if stride == dimension {
        to.extend_from_slice(rows);
        return;
    }
    for row in rows.chunks_exact(dimension) {
        to.extend_from_slice(row);
        to.resize(to.len() + stride - dimension, f16::ZERO);
    }
}

/// Scores rows, `[rows, stride]`, against a query, `[stride]`, into `scores`, `[rows]`.
pub(super) fn score(rows: &[f16], query: &[f32], scores: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = fearless_simd::Level::new().as_avx2() {
        return score_avx2(avx2, rows.reinterpret_cast(), query, scores);
    }
    score_portable(rows, query, scores);
}

/// Returns the score of two 16-bit rows.
pub(super) fn score_pair(a: &[f16], b: &[f16]) -> f32 {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = fearless_simd::Level::new().as_avx2() {
        return score_pair_avx2(avx2, a.reinterpret_cast(), b.reinterpret_cast());
    }
    let mut wide = vec![0.0; b.len()];
    b.convert_to_f32_slice(&mut wide);
    let mut scores = [0.0];
    score_portable(a, &wide, &mut scores);
    scores[0]
}

fn score_portable(rows: &[f16], query: &[f32], scores: &mut [f32]) {
    let mut wide = vec![0.0; query.len()];
    for (row, score) in rows.chunks_exact(query.len()).zip(scores) {
        row.convert_to_f32_slice(&mut wide);
        let mut sums = [0.0; LANES];
        for (x, y) in wide.as_chunks::<LANES>().0.iter().zip(query.as_chunks::<LANES>().0) {
            for lane in 0..LANES {
                sums[lane] += x[lane] * y[lane];
            }
        }
        let sums: [f32; 16] = halved(sums);
        *score = sum_of_8(halved(sums));
    }
}

/// Adds the upper half to the lower one.
#[inline]
fn halved<const N: usize, const HALF: usize>(sums: [f32; N]) -> [f32; HALF] {
    std::array::from_fn(|lane| sums[lane] + sums[lane + HALF])
}

#[inline]
fn sum_of_8(sums: [f32; 8]) -> f32 {
    let sums: [f32; 4] = halved(sums);
    let sums: [f32; 2] = halved(sums);
    sums[0] + sums[1]
}

#[cfg(target_arch = "x86_64")]
fearless_simd::kernel!(
    fn score_avx2(avx2: Avx2, rows: &[u16], query: &[f32], scores: &mut [f32]) {
        use std::arch::x86_64::{
            __m128i, __m256, _mm256_add_ps, _mm256_cvtph_ps, _mm256_mul_ps, _mm256_setzero_ps,
        };

        use fearless_simd::{f32x8, prelude::*, u16x8};

        let stride = query.len();
        let query = query.as_chunks::<LANES>().0;
        let in_stream = scores.len().div_ceil(STREAMS);
        for step in 0..in_stream {
            for place in (step..scores.len()).step_by(in_stream) {
                let row = rows[place * stride..][..stride].as_chunks::<LANES>().0;
                let mut sums = [_mm256_setzero_ps(); 4];
                for (x, y) in row.iter().zip(query) {
                    for part in 0..4 {
                        let x: __m128i = u16x8::from_slice(avx2, &x[8 * part..][..8]).into();
                        let y: __m256 = f32x8::from_slice(avx2, &y[8 * part..][..8]).into();
                        sums[part] =
                            _mm256_add_ps(sums[part], _mm256_mul_ps(_mm256_cvtph_ps(x), y));
                    }
                }
                let sums =
                    _mm256_add_ps(_mm256_add_ps(sums[0], sums[2]), _mm256_add_ps(sums[1], sums[3]));
                let sums: f32x8<_> = sums.simd_into(avx2);
                scores[place] = sum_of_8(sums.into());
            }
        }
    }
);

#[cfg(target_arch = "x86_64")]
fearless_simd::kernel!(
    fn score_pair_avx2(avx2: Avx2, a: &[u16], b: &[u16]) -> f32 {
        use std::arch::x86_64::{
            __m128i, _mm256_add_ps, _mm256_cvtph_ps, _mm256_mul_ps, _mm256_setzero_ps,
        };

        use fearless_simd::{f32x8, prelude::*, u16x8};

        let mut sums = [_mm256_setzero_ps(); 4];
        for (x, y) in a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0) {
            for part in 0..4 {
                let x: __m128i = u16x8::from_slice(avx2, &x[8 * part..][..8]).into();
                let y: __m128i = u16x8::from_slice(avx2, &y[8 * part..][..8]).into();
                sums[part] = _mm256_add_ps(
                    sums[part],
                    _mm256_mul_ps(_mm256_cvtph_ps(x), _mm256_cvtph_ps(y)),
                );
            }
        }
        let sums = _mm256_add_ps(_mm256_add_ps(sums[0], sums[2]), _mm256_add_ps(sums[1], sums[3]));
        let sums: f32x8<_> = sums.simd_into(avx2);
        sum_of_8(sums.into())
    }
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Sums lane by lane, as the module describes.
    fn by_hand(row: &[f16], query: &[f32]) -> f32 {
        let mut sums = [0.0_f32; LANES];
        for (place, (x, y)) in row.iter().zip(query).enumerate() {
            sums[place % LANES] += x.to_f32() * y;
        }
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                sums[lane] += sums[lane + width];
            }
            width /= 2;
        }
        sums[0]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn scores_have_the_same_bits_whatever_the_processor(
            dimension in 1_usize..100,
            rows in 1_usize..40,
            seed in any::<u64>(),
        ) {
            let mut random = diptych_pipeline::Random::new(seed);
            let query: Vec<f32> =
                (0..dimension).map(|_| random.uniform(-1.0, 1.0) as f32).collect();
            // The small ones are subnormal in 16 bits.
            let mut value = || {
                let scale = if random.below(4) == 0 { 1e-6 } else { 1.0 };
                f16::from_f64(random.uniform(-1.0, 1.0) * scale)
            };
            let plain: Vec<f16> = (0..rows * dimension).map(|_| value()).collect();
            let mut stored = Vec::new();
            append_padded(&plain, dimension, &mut stored);
            let (mut fast, mut portable) = (vec![0.0; rows], vec![0.0; rows]);
            score(&stored, &padded(&query), &mut fast);
            score_portable(&stored, &padded(&query), &mut portable);
            for (place, row) in plain.chunks_exact(dimension).enumerate() {
                let expected = by_hand(row, &query).to_bits();
                prop_assert_eq!(fast[place].to_bits(), expected);
                prop_assert_eq!(portable[place].to_bits(), expected);
            }
            let row = stride(dimension);
            let (a, b) = (&stored[..row], &stored[stored.len() - row..]);
            let wide: Vec<f32> = b.iter().map(|x| x.to_f32()).collect();
            prop_assert_eq!(score_pair(a, b).to_bits(), by_hand(a, &wide).to_bits());
        }
    }
}
