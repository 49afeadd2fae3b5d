//! Queries: a text, an image, a pair's uid, or a sum of them.
//!
//! Each part is a vector of unit length with a weight. The sum is normalized to unit length.

use diptych_schemas::Uid;

use super::NearestError;
use super::loaded::SharedModel;
use super::vectors::Vectors;

/// Length below which the parts have cancelled each other out.
const SHORTEST: f32 = 1e-3;

/// One part of a query.
#[derive(Clone, Debug)]
pub enum QueryTerm {
    Text(String),
    /// The bytes of an image file.
    Image(Vec<u8>),
    /// The image of a searched pair. The pair itself is not among the results.
    Uid(Uid),
}

/// A weighted sum. A negative weight counts against a part.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub parts: Vec<(f32, QueryTerm)>,
}

impl From<QueryTerm> for Query {
    fn from(sought: QueryTerm) -> Self {
        Self { parts: vec![(1.0, sought)] }
    }
}

/// A query as numbers.
pub(super) struct Vector {
    /// `[dimension]`, of unit length.
    pub(super) values: Vec<f32>,
    /// Rows that the query names itself.
    pub(super) named: Vec<usize>,
}

/// Encodes queries, with all of their texts at once.
pub(super) fn encode(
    loaded: &SharedModel,
    vectors: &Vectors,
    queries: &[Query],
) -> Result<Vec<Vector>, NearestError> {
    let texts =
        queries.iter().flat_map(|query| &query.parts).filter_map(|(_, sought)| match sought {
            QueryTerm::Text(text) => Some(text.clone()),
            QueryTerm::Image(_) | QueryTerm::Uid(_) => None,
        });
    let encoded = loaded.lock().encode_texts(&texts.collect::<Vec<_>>())?;
    let mut encoded = encoded.chunks_exact(vectors.dimension());
    queries.iter().map(|query| encode_query(loaded, vectors, query, &mut encoded)).collect()
}

fn encode_query<'a>(
    loaded: &SharedModel,
    vectors: &Vectors,
    query: &Query,
    texts: &mut impl Iterator<Item = &'a [f32]>,
) -> Result<Vector, NearestError> {
    let mut named = Vec::new();
    let mut parts = Vec::new();
    for (weight, sought) in &query.parts {
        if !weight.is_finite() {
            return Err(NearestError::Query(format!(
                "a part of the query has the weight {weight}: it must be finite"
            )));
        }
        let part = match sought {
            QueryTerm::Text(_) => texts.next().unwrap_or_default().to_vec(),
            QueryTerm::Image(bytes) => encode_image(loaded, bytes)?,
            QueryTerm::Uid(uid) => {
                let place = vectors.place_of(*uid).ok_or_else(|| {
                    NearestError::Query(format!(
                        "pair {uid} is not among the {} searched embeddings: check the dataset \
                         and the selection, or embed the pair with `diptych embed`",
                        vectors.len()
                    ))
                })?;
                named.push(place);
                vectors.row(place)[..vectors.dimension()]
                    .iter()
                    .map(|value| value.to_f32())
                    .collect()
            }
        };
        parts.push((*weight, part));
    }
    let values = sum(vectors.dimension(), parts)?;
    Ok(Vector { values, named })
}

fn sum(dimension: usize, parts: Vec<(f32, Vec<f32>)>) -> Result<Vec<f32>, NearestError> {
    if parts.is_empty() {
        return Err(NearestError::Query(
            "nothing to search for: give a text, an image or a uid".into(),
        ));
    }
    if let Some((_, part)) = parts.iter().find(|(_, part)| part.len() != dimension) {
        return Err(NearestError::Dimension { expected: dimension, found: part.len() });
    }
    // A single part stays exactly as the encoder made it.
    if let [(1.0, one)] = parts.as_slice() {
        return Ok(one.clone());
    }
    let mut sum = vec![0.0; dimension];
    for (weight, part) in parts {
        sum.iter_mut().zip(part).for_each(|(sum, value)| *sum += weight * value);
    }
    unit(sum)
        .ok_or_else(|| NearestError::Query("the parts of the query cancel each other out".into()))
}

/// Normalizes a vector to length 1. Returns `None` if it has almost no length.
pub(super) fn unit(mut values: Vec<f32>) -> Option<Vec<f32>> {
    let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
    if !length.is_finite() || length < SHORTEST {
        return None;
    }
    for value in &mut values {
        *value /= length;
    }
    Some(values)
}

fn encode_image(loaded: &SharedModel, bytes: &[u8]) -> Result<Vec<f32>, NearestError> {
    let model = loaded.lock();
    let unreadable = |error| NearestError::Query(format!("the image cannot be decoded: {error}"));
    let pixels = model.pixels(bytes).map_err(unreadable)?;
    Ok(model.encoder.encode_images(&pixels)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_added_by_weight_and_brought_to_unit_length() {
        let (x, y) = (vec![1.0, 0.0], vec![0.0, 1.0]);
        assert_eq!(sum(2, vec![(3.0, x.clone()), (4.0, y.clone())]).unwrap(), [0.6, 0.8]);
        assert_eq!(
            sum(2, vec![(1.0, x.clone()), (1.0, y.clone()), (-1.0, x.clone())]).unwrap(),
            [0.0, 1.0]
        );
        assert_eq!(
            sum(2, vec![(1.0, vec![2.0, 0.0])]).unwrap(),
            [2.0, 0.0],
            "one part stays what it is"
        );
        assert!(
            sum(2, vec![(1.0, x.clone()), (-1.0, x.clone())])
                .unwrap_err()
                .to_string()
                .contains("cancel")
        );
        assert!(sum(2, Vec::new()).unwrap_err().to_string().contains("nothing to search for"));
        assert!(matches!(
            sum(3, vec![(1.0, x)]),
            Err(NearestError::Dimension { expected: 3, found: 2 })
        ));
    }
}
