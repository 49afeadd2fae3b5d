//! Figures by group: they show for which part of the data a model is worse.
//!
//! Groups are the values of a column, or of an SQL expression over columns.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use diptych_embeddings::values::{column_texts, selected_texts};
use diptych_pipeline::Selection;
use diptych_schemas::Uid;
use diptych_trainer::evaluate::{Interval, Unit, wilson};

/// The group of pairs without a value.
const NONE: &str = "(none)";

/// The group of each pair that has one.
pub struct Groups(HashMap<Uid, String>);

/// A group of images or examples, with its figures.
#[derive(Debug, PartialEq)]
pub struct Group {
    pub name: String,
    pub count: usize,
    /// Share of hits in each column, with the interval for this number of images.
    pub values: Vec<(f64, Interval)>,
}

impl Groups {
    /// Reads the groups of a selection's pairs from a column, or an SQL expression over columns.
    ///
    /// Columns of scores are available too.
    pub fn read(dataset: &Path, selection: &Selection, by: &str) -> anyhow::Result<Self> {
        // The exact column name comes first, because as an expression it might need quotes.
        if let Ok(found) = column_texts(dataset, selection, by) {
            return Ok(Self(found));
        }
        Ok(Self(selected_texts(dataset, selection, &format!("arrow_cast({by}, 'Utf8')"), by)?))
    }

    /// Returns the groups of these pairs.
    pub fn names_of(&self, uids: &[Uid]) -> Vec<&str> {
        uids.iter().map(|uid| self.0.get(uid).map_or(NONE, String::as_str)).collect()
    }
}

/// Splits columns with one [`Unit`] per name by group, the lowest value of the first column first.
pub fn by_group(names: &[&str], columns: &[Vec<Unit>]) -> Vec<Group> {
    let mut rows: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (row, name) in names.iter().enumerate() {
        rows.entry(name).or_default().push(row);
    }
    let of = |(name, rows): (&str, Vec<usize>)| {
        let value = |column: &Vec<Unit>| {
            let sum =
                |part: fn(&Unit) -> f64| rows.iter().map(|row| part(&column[*row])).sum::<f64>();
            let value = sum(|unit| unit.hits) / sum(|unit| unit.of);
            (value, wilson(value, rows.len()))
        };
        Group {
            name: name.to_owned(),
            count: rows.len(),
            values: columns.iter().map(value).collect(),
        }
    };
    let mut found: Vec<Group> = rows.into_iter().map(of).collect();
    found.sort_by(|a, b| a.values[0].0.total_cmp(&b.values[0].0));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_their_own_values_the_lowest_first() {
        let names: Vec<&str> = (0..200).map(|n| if n % 4 == 0 { "few" } else { "many" }).collect();
        // A fifth of the few is right, and all of the many. Every unit of the second column counts
        // twice.
        let first: Vec<Unit> = (0..200).map(|n| Unit::from(n % 4 != 0 || n % 20 == 0)).collect();
        let second = first.iter().map(|unit| Unit { hits: unit.hits, of: 2.0 }).collect();
        let found = by_group(&names, &[first, second]);
        let values = |group: &Group| group.values.iter().map(|value| value.0).collect::<Vec<_>>();
        let short: Vec<_> =
            found.iter().map(|group| (group.name.as_str(), group.count, values(group))).collect();
        assert_eq!(short, [("few", 50, vec![0.2, 0.1]), ("many", 150, vec![1.0, 0.5])]);
    }
}
