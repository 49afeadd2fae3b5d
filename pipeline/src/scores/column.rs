//! A column that is being filled: the pairs of the shard that it lacks, and the rows that wait to
//! be written.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, FixedSizeListArray, Float16Array, Float64Array, StringArray, UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field};
use diptych_schemas::{
    ScoreValue, Uid, embedding_file_schema, embedding_folder, score_file_schema, score_folder,
};
use half::f16;

use super::append::Appender;
use super::pairs::Pair;
use super::{Producer, ScoreError};

/// A value of a score.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Number(f64),
    Text(&'static str),
    Bits(u64),
}

/// The vectors of image and caption, each [D].
pub(super) type Vectors = [Vec<f16>; 2];

/// A column of values. A waiting row is the pair's index in the shard, with the value or the reason
/// why there is none. A language that cannot be detected has neither a value nor a reason.
pub(super) struct Column<T> {
    appender: Appender,
    kind: Kind,
    producer: Producer,
    missing: Vec<bool>,
    waiting: Vec<(usize, Result<Option<T>, String>)>,
    pub(super) counts: Counts,
}

/// Numbers of pairs by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) present: u64,
    pub(super) added: u64,
    pub(super) failed: u64,
}

#[derive(Clone, Copy)]
enum Kind {
    Score(ScoreValue),
    Embedding { dimension: usize },
}

impl<T> Column<T> {
    /// Opens the column of a score, `scores/NAME`.
    pub(super) fn score(
        dataset: &Path,
        name: &str,
        value: ScoreValue,
        producer: Producer,
    ) -> Result<Self, ScoreError> {
        let appender = Appender::open(
            &score_folder(dataset, name),
            score_file_schema(value),
            producer.clone(),
        )?;
        Ok(Self::new(appender, Kind::Score(value), producer))
    }

    /// Opens the columns of a model, `embeddings/PRODUCER`.
    pub(super) fn embeddings(
        dataset: &Path,
        dimension: usize,
        producer: Producer,
    ) -> Result<Self, ScoreError> {
        let folder = embedding_folder(dataset, &producer.hash);
        let appender = Appender::open(&folder, embedding_file_schema(dimension), producer.clone())?;
        Ok(Self::new(appender, Kind::Embedding { dimension }, producer))
    }

    fn new(appender: Appender, kind: Kind, producer: Producer) -> Self {
        Self {
            appender,
            kind,
            producer,
            missing: Vec::new(),
            waiting: Vec::new(),
            counts: Counts::default(),
        }
    }

    pub(super) fn producer(&self) -> &Producer {
        &self.producer
    }

    /// Returns whether each pair of a shard has its row. Reads nothing.
    pub(super) fn is_full(&self, shard: u32, pairs: u64) -> bool {
        self.appender.rows(shard) >= pairs
    }

    /// Starts a shard. `wants` returns whether a pair belongs into this column.
    pub(super) fn begin(
        &mut self,
        shard: u32,
        pairs: &[Pair],
        wants: impl Fn(&Pair) -> bool,
    ) -> Result<(), ScoreError> {
        let there = self.appender.uids(shard)?;
        self.missing = pairs.iter().map(|pair| wants(pair) && !there.contains(&pair.uid)).collect();
        self.counts.present += self.missing.iter().filter(|missing| !**missing).count() as u64;
        Ok(())
    }

    pub(super) fn lacks(&self, place: usize) -> bool {
        self.missing.get(place).copied().unwrap_or(false)
    }

    pub(super) fn lacks_any(&self) -> bool {
        self.missing.contains(&true)
    }

    pub(super) fn put(&mut self, place: usize, value: Result<Option<T>, String>) {
        if self.lacks(place) {
            self.missing[place] = false;
            self.counts.failed += u64::from(value.is_err());
            self.waiting.push((place, value));
        }
    }
}

impl Column<Value> {
    /// Writes the waiting rows into a file.
    pub(super) fn save(&mut self, shard: u32, pairs: &[Pair]) -> Result<(), ScoreError> {
        self.save_with(shard, pairs, |column, rows| {
            let values = rows.iter().map(|(_, value)| value.as_ref().ok().and_then(Option::as_ref));
            let values: ArrayRef =
                match column.kind {
                    Kind::Score(ScoreValue::Text) => Arc::new(
                        values
                            .map(|value| {
                                if let Some(Value::Text(text)) = value { Some(*text) } else { None }
                            })
                            .collect::<StringArray>(),
                    ),
                    Kind::Score(ScoreValue::Bits) => Arc::new(
                        values
                            .map(|value| {
                                if let Some(Value::Bits(bits)) = value { Some(*bits) } else { None }
                            })
                            .collect::<UInt64Array>(),
                    ),
                    _ => Arc::new(
                        values
                            .map(|value| {
                                if let Some(Value::Number(number)) = value {
                                    Some(*number)
                                } else {
                                    None
                                }
                            })
                            .collect::<Float64Array>(),
                    ),
                };
            let producer =
                StringArray::from_iter_values(rows.iter().map(|_| column.producer.hash.as_str()));
            vec![values, Arc::new(producer)]
        })
    }
}

impl Column<Vectors> {
    /// Writes the waiting rows into a file.
    pub(super) fn save(&mut self, shard: u32, pairs: &[Pair]) -> Result<(), ScoreError> {
        self.save_with(shard, pairs, |column, rows| {
            let Kind::Embedding { dimension } = column.kind else { return Vec::new() };
            let vectors = |which: usize| -> ArrayRef {
                let mut values = Vec::with_capacity(rows.len() * dimension);
                let mut valid = Vec::with_capacity(rows.len());
                for (_, value) in rows {
                    let vectors = value.as_ref().ok().and_then(Option::as_ref);
                    valid.push(vectors.is_some());
                    match vectors {
                        Some(vectors) => values.extend_from_slice(&vectors[which]),
                        None => values.resize(values.len() + dimension, f16::ZERO),
                    }
                }
                let item = Arc::new(Field::new("item", DataType::Float16, false));
                let values = Arc::new(Float16Array::from(values));
                Arc::new(FixedSizeListArray::new(
                    item,
                    dimension as i32,
                    values,
                    Some(NullBuffer::from(valid)),
                ))
            };
            vec![vectors(0), vectors(1)]
        })
    }
}

impl<T> Column<T> {
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn save_with(
        &mut self,
        shard: u32,
        pairs: &[Pair],
        columns: impl FnOnce(&Self, &[(usize, Result<Option<T>, String>)]) -> Vec<ArrayRef>,
    ) -> Result<(), ScoreError> {
        let mut rows = std::mem::take(&mut self.waiting);
        rows.sort_unstable_by_key(|(place, _)| *place);
        let uids: Vec<Uid> = rows.iter().map(|(place, _)| pairs[*place].uid).collect();
        let mut columns = columns(self, &rows);
        columns.push(Arc::new(
            rows.iter()
                .map(|(_, value)| value.as_ref().err().map(String::as_str))
                .collect::<StringArray>(),
        ));
        self.appender.append(shard, &uids, columns)?;
        self.counts.added += uids.len() as u64;
        Ok(())
    }
}
