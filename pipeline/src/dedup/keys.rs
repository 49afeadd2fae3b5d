//! Rows that have the same key, of any number of rows in bounded memory.
//!
//! (key, row) records are kept in memory up to a limit; beyond it they go to temporary files, each for a range of keys, which
//! are read back and sorted one by one. So the cost is that of sorting, and the result does not depend on the order in which
//! rows come.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};

use rayon::slice::ParallelSliceMut;

/// Temporary files, and parts that keys are split into by their highest bits.
const PARTS: usize = 32;

/// A row and its key of N words, whose highest bits must be evenly spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Keyed<const N: usize> {
    pub(super) key: [u64; N],
    pub(super) row: u32,
}

/// Collects records, then gives those with the same key together.
pub(super) struct Keys<const N: usize> {
    /// Records in memory at most.
    capacity: usize,
    waiting: Vec<Keyed<N>>,
    parts: Vec<Part>,
}

struct Part {
    file: BufWriter<File>,
    records: usize,
}

impl<const N: usize> Keys<N> {
    /// `memory`: bytes for records at most.
    pub(super) fn new(memory: usize) -> Self {
        Self { capacity: (memory / size_of::<Keyed<N>>()).max(1024), waiting: Vec::new(), parts: Vec::new() }
    }

    pub(super) fn push(&mut self, key: [u64; N], row: u32) -> io::Result<()> {
        if self.waiting.len() >= self.capacity {
            self.spill()?;
        }
        self.waiting.push(Keyed { key, row });
        Ok(())
    }

    fn spill(&mut self) -> io::Result<()> {
        if self.parts.is_empty() {
            for _ in 0..PARTS {
                self.parts.push(Part { file: BufWriter::with_capacity(1 << 17, tempfile::tempfile()?), records: 0 });
            }
        }
        for record in self.waiting.drain(..) {
            let part = &mut self.parts[(record.key[0] >> (u64::BITS - PARTS.ilog2())) as usize];
            for word in record.key {
                part.file.write_all(&word.to_le_bytes())?;
            }
            part.file.write_all(&record.row.to_le_bytes())?;
            part.records += 1;
        }
        Ok(())
    }

    /// Calls `each` with the rows of every key that has more than one, ascending by key and row.
    pub(super) fn for_each_group(mut self, mut each: impl FnMut(&[Keyed<N>])) -> io::Result<()> {
        if self.parts.is_empty() {
            groups_of(&mut self.waiting, &mut each);
            return Ok(());
        }
        self.spill()?;
        let mut records = std::mem::take(&mut self.waiting);
        for mut part in self.parts {
            part.file.flush()?;
            // A part that is larger than memory is read several times, each time for a range of the next bits.
            let passes = part.records.div_ceil(self.capacity).next_power_of_two() as u64;
            for pass in 0..passes {
                let file = part.file.get_mut();
                file.rewind()?;
                let mut file = BufReader::with_capacity(1 << 20, file);
                records.clear();
                for _ in 0..part.records {
                    let record = read_record::<N>(&mut file)?;
                    let next_bits = (record.key[0] << PARTS.ilog2()).checked_shr(u64::BITS - passes.ilog2()).unwrap_or(0);
                    if next_bits == pass {
                        records.push(record);
                    }
                }
                groups_of(&mut records, &mut each);
            }
        }
        Ok(())
    }
}

fn read_record<const N: usize>(file: &mut impl Read) -> io::Result<Keyed<N>> {
    let mut key = [0; N];
    for word in &mut key {
        let mut bytes = [0; 8];
        file.read_exact(&mut bytes)?;
        *word = u64::from_le_bytes(bytes);
    }
    let mut row = [0; 4];
    file.read_exact(&mut row)?;
    Ok(Keyed { key, row: u32::from_le_bytes(row) })
}

fn groups_of<const N: usize>(records: &mut [Keyed<N>], each: &mut impl FnMut(&[Keyed<N>])) {
    records.par_sort_unstable();
    for group in records.chunk_by(|a, b| a.key == b.key).filter(|group| group.len() > 1) {
        each(group);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grouped(memory: usize, records: &[(u64, u64)]) -> Vec<Vec<u32>> {
        let mut keys = Keys::new(memory);
        for (row, (high, low)) in (0..).zip(records) {
            keys.push([*high, *low], row).unwrap();
        }
        let mut groups = Vec::new();
        keys.for_each_group(|group| groups.push(group.iter().map(|record| record.row).collect())).unwrap();
        groups
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// Fifteen times what fits, most of it in one part.
        #[test]
        fn groups_are_the_same_on_disk_as_in_memory(keys in prop::collection::vec((0_u64..400, 0_u64..3), 15_000), high in any::<u64>()) {
            let records: Vec<_> = keys.iter().map(|(key, low)| (if key % 7 == 0 { key << 55 } else { high ^ (key << 40) }, *low)).collect();
            prop_assert_eq!(grouped(1 << 30, &records), grouped(0, &records));
        }
    }
}
