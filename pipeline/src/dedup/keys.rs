//! Groups of rows with equal keys, for any number of rows in bounded memory.
//!
//! (key, row) records are kept in memory up to a limit, in partitions by their highest bits. Beyond
//! it, each partition goes to a temporary file; the files are read back and sorted one by one. So
//! the cost is that of sorting, and the result does not depend on the order of the rows.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};

use rayon::iter::{IntoParallelRefMutIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

/// Partitions of keys by their highest bits. Each is small enough for sorting in the cache, and has
/// a file.
const PARTITIONS: usize = 32;

/// A row and its key of N words, whose highest bits must be evenly distributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Keyed<const N: usize> {
    pub(super) key: [u32; N],
    pub(super) row: u32,
}

/// Collects records, then groups those with equal keys.
pub(super) struct Keys<const N: usize> {
    /// Most records in memory, and the current number.
    capacity: usize,
    waiting: usize,
    partitions: Vec<Partition<N>>,
}

#[derive(Default)]
struct Partition<const N: usize> {
    waiting: Vec<Keyed<N>>,
    /// The file, and the number of records in it.
    file: Option<BufWriter<File>>,
    written: usize,
}

impl<const N: usize> Keys<N> {
    /// Creates an empty collection with at most `memory` bytes for records.
    pub(super) fn new(memory: usize) -> Self {
        let capacity = (memory / size_of::<Keyed<N>>()).max(1024);
        Self {
            capacity,
            waiting: 0,
            partitions: (0..PARTITIONS).map(|_| Partition::default()).collect(),
        }
    }

    pub(super) fn push(&mut self, key: [u32; N], row: u32) -> io::Result<()> {
        if self.waiting >= self.capacity {
            self.partitions.iter_mut().try_for_each(Partition::spill)?;
            self.waiting = 0;
        }
        self.partitions[(key[0] >> (u32::BITS - PARTITIONS.ilog2())) as usize]
            .waiting
            .push(Keyed { key, row });
        self.waiting += 1;
        Ok(())
    }

    /// Calls `each` with the rows of every key that has more than one, ascending by key and row.
    pub(super) fn for_each_group(mut self, mut each: impl FnMut(&[Keyed<N>])) -> io::Result<()> {
        if self.partitions.iter().all(|part| part.file.is_none()) {
            self.partitions.par_iter_mut().for_each(|part| part.waiting.sort_unstable());
            for part in &self.partitions {
                groups_of(&part.waiting, &mut each);
            }
            return Ok(());
        }
        self.partitions.iter_mut().try_for_each(Partition::spill)?;
        for part in self.partitions {
            part.read_back(self.capacity, &mut each)?;
        }
        Ok(())
    }
}

impl<const N: usize> Partition<N> {
    fn spill(&mut self) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(BufWriter::with_capacity(1 << 17, tempfile::tempfile()?)),
        };
        for record in &self.waiting {
            for word in record.key {
                file.write_all(&word.to_le_bytes())?;
            }
            file.write_all(&record.row.to_le_bytes())?;
        }
        self.written += self.waiting.len();
        self.waiting = Vec::new();
        Ok(())
    }

    /// Reads records back. A partition larger than memory is read several times, each time for a
    /// range of the next bits.
    fn read_back(self, capacity: usize, each: &mut impl FnMut(&[Keyed<N>])) -> io::Result<()> {
        let Some(file) = self.file else { return Ok(()) };
        let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        let passes = self.written.div_ceil(capacity).next_power_of_two() as u32;
        let mut records = Vec::new();
        for pass in 0..passes {
            file.rewind()?;
            let mut reader = BufReader::with_capacity(1 << 20, &file);
            records.clear();
            for _ in 0..self.written {
                let record = read_record::<N>(&mut reader)?;
                let next_bits = (record.key[0] << PARTITIONS.ilog2())
                    .checked_shr(u32::BITS - passes.ilog2())
                    .unwrap_or(0);
                if next_bits == pass {
                    records.push(record);
                }
            }
            records.par_sort_unstable();
            groups_of(&records, each);
        }
        Ok(())
    }
}

fn read_record<const N: usize>(file: &mut impl Read) -> io::Result<Keyed<N>> {
    let mut bytes = [0; 4];
    let mut key = [0; N];
    for word in &mut key {
        file.read_exact(&mut bytes)?;
        *word = u32::from_le_bytes(bytes);
    }
    file.read_exact(&mut bytes)?;
    Ok(Keyed { key, row: u32::from_le_bytes(bytes) })
}

/// Calls `each` with the groups of sorted records.
fn groups_of<const N: usize>(records: &[Keyed<N>], each: &mut impl FnMut(&[Keyed<N>])) {
    for group in records.chunk_by(|a, b| a.key == b.key).filter(|group| group.len() > 1) {
        each(group);
    }
}

/// Splits numbers into words, in order.
pub(super) fn words<const N: usize, const W: usize>(numbers: [u64; N]) -> [u32; W] {
    std::array::from_fn(|word| (numbers[word / 2] >> (32 * (1 - word % 2))) as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grouped(memory: usize, records: &[(u64, u64)]) -> Vec<Vec<u32>> {
        let mut keys = Keys::new(memory);
        for (row, (high, low)) in (0..).zip(records) {
            keys.push(words::<2, 4>([*high, *low]), row).unwrap();
        }
        let mut groups = Vec::new();
        keys.for_each_group(|group| groups.push(group.iter().map(|record| record.row).collect()))
            .unwrap();
        groups
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// Fifteen times the limit, most of it in one partition.
        #[test]
        fn groups_are_the_same_on_disk_as_in_memory(keys in prop::collection::vec(
            (0_u64..400, 0_u64..3), 15_000), high in any::<u64>()) {
            let records: Vec<_> = keys.iter().map(|(key, low)| (
                if key % 7 == 0 { key << 55 } else { high ^ (key << 40) }, *low)).collect();
            prop_assert_eq!(grouped(1 << 30, &records), grouped(0, &records));
        }
    }
}
