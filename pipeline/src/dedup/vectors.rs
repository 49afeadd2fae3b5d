//! Embeddings in a temporary file: written once in order, read by number, as unit vectors in f32.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;

use half::f16;

/// Concatenated vectors in half precision.
pub(super) struct Vectors {
    dimension: usize,
    file: BufWriter<File>,
    rows: Vec<u32>,
}

impl Vectors {
    pub(super) fn new(dimension: usize) -> io::Result<Self> {
        Ok(Self {
            dimension,
            file: BufWriter::with_capacity(1 << 20, tempfile::tempfile()?),
            rows: Vec::new(),
        })
    }

    pub(super) fn dimension(&self) -> usize {
        self.dimension
    }

    /// Adds the vector of a row: half-precision floats, little endian.
    pub(super) fn push(&mut self, vector: &[u8], row: u32) -> io::Result<()> {
        self.rows.push(row);
        self.file.write_all(vector)
    }

    /// Returns the row of each vector. Vectors can be read from now on.
    pub(super) fn finish(&mut self) -> io::Result<Vec<u32>> {
        self.file.flush()?;
        Ok(std::mem::take(&mut self.rows))
    }

    /// Reads vectors by number, normalised to unit length: [N, D].
    pub(super) fn read(&self, numbers: &[usize]) -> io::Result<Vec<f32>> {
        let mut vectors = Vec::with_capacity(numbers.len() * self.dimension);
        let mut bytes = vec![0; self.dimension * 2];
        for &number in numbers {
            let at = (number * self.dimension * 2) as u64;
            self.file.get_ref().read_exact_at(&mut bytes, at)?;
            let start = vectors.len();
            vectors.extend(
                bytes.chunks_exact(2).map(|two| f16::from_le_bytes([two[0], two[1]]).to_f32()),
            );
            normalise(&mut vectors[start..]);
        }
        Ok(vectors)
    }
}

/// Normalises a vector to length 1. Returns false if its length is 0 or not finite.
pub(super) fn normalise(vector: &mut [f32]) -> bool {
    let length = dot(vector, vector).sqrt();
    let usable = length > 0.0 && length.is_finite();
    if usable {
        for value in vector {
            *value /= length;
        }
    }
    usable
}

/// Computes a dot product in eight sums, which a processor adds in parallel.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, b) = (a.chunks_exact(8), b.chunks_exact(8));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| x * y).sum();
    let mut sums = [0.0_f32; 8];
    for (x, y) in a.zip(b) {
        for lane in 0..8 {
            sums[lane] += x[lane] * y[lane];
        }
    }
    sums.iter().sum::<f32>() + rest
}
