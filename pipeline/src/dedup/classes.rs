//! Classes of rows with equal values, named by their first row. Later steps compare classes, so a
//! million equal rows cost no more than one.

use std::io;

use super::keys::{Keys, words};

/// Class of a row without a value, which is not compared with anything.
pub(super) const NO_CLASS: u32 = u32::MAX;
/// Number of recent keys that are remembered, by some of their bits. A key that repeats often is
/// not even recorded.
const RECENT: usize = 1 << 12;

/// Classes under construction.
pub(super) struct Classes {
    /// For each row, an earlier one with an equal value, or itself. It is a forest in which each
    /// root is the first row of its tree.
    parent: Vec<u32>,
    keys: Keys<4>,
    recent: Vec<Option<([u64; 2], u32)>>,
}

impl Classes {
    /// Prepares classes with at most `memory` bytes for keys. Each of the `rows` takes four bytes
    /// more.
    pub(super) fn new(rows: u32, memory: usize) -> Self {
        Self {
            parent: vec![NO_CLASS; rows as usize],
            keys: Keys::new(memory),
            recent: vec![None; RECENT],
        }
    }

    /// Adds a row. Rows may come in any order, each at most once. The highest bits of keys must be
    /// evenly distributed.
    pub(super) fn push(&mut self, key: [u64; 2], row: u32) -> io::Result<()> {
        self.parent[row as usize] = row;
        let recent = &mut self.recent[key[0] as usize % RECENT];
        match *recent {
            Some((known, first)) if known == key => {
                self.unite(first, row);
                Ok(())
            }
            _ => {
                *recent = Some((key, row));
                self.keys.push(words(key), row)
            }
        }
    }

    /// Returns the class of every row: the first row with an equal value, or [`NO_CLASS`].
    pub(super) fn finish(mut self) -> io::Result<Vec<u32>> {
        self.recent = Vec::new();
        let keys = std::mem::replace(&mut self.keys, Keys::new(0));
        keys.for_each_group(|group| {
            for record in &group[1..] {
                self.unite(group[0].row, record.row);
            }
        })?;
        // Parents are earlier rows, so one pass in order is enough.
        for row in 0..self.parent.len() {
            let parent = self.parent[row];
            if parent != NO_CLASS {
                self.parent[row] = self.parent[parent as usize];
            }
        }
        Ok(self.parent)
    }

    fn unite(&mut self, a: u32, b: u32) {
        let (a, b) = (self.root(a), self.root(b));
        self.parent[a.max(b) as usize] = a.min(b);
    }

    fn root(&mut self, mut row: u32) -> u32 {
        while self.parent[row as usize] != row {
            // Halves the path for later searches.
            let grandparent = self.parent[self.parent[row as usize] as usize];
            self.parent[row as usize] = grandparent;
            row = grandparent;
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_named_by_their_first_row_in_whatever_order_rows_come() {
        let key = |row: u32| [u64::from(row % 3) << 60, u64::from(row % 5)];
        let expected: Vec<u32> =
            (0..5000).map(|row| if row == 77 { NO_CLASS } else { row % 15 }).collect();
        for step in [1_u32, 7, 4999] {
            let mut classes = Classes::new(5000, 0);
            for row in (0..5000).map(|n| (n * step) % 5000).filter(|row| *row != 77) {
                classes.push(key(row), row).unwrap();
            }
            assert_eq!(classes.finish().unwrap(), expected, "{step}");
        }
    }
}
