//! Figures of parts of what is evaluated: whom and what a model serves worse. Parts are the values of a column, or of SQL over columns.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use diptych_embeddings::values::{column_texts, selected_texts};
use diptych_pipeline::Selection;
use diptych_schemas::Uid;
use diptych_trainer::evaluate::{Interval, Unit, wilson};

/// Of pairs that have no value.
const NONE: &str = "(none)";

/// The group of each pair that has one.
pub struct Groups(HashMap<Uid, String>);

/// Some images, or examples, and what they came to.
#[derive(Debug, PartialEq)]
pub struct Group {
    pub name: String,
    pub count: usize,
    /// Hits over tries of each column, with the interval that so many images allow.
    pub values: Vec<(f64, Interval)>,
}

impl Groups {
    /// Of a selection's pairs, by a column or an expression over columns; those of scores are there too.
    pub fn read(dataset: &Path, selection: &Selection, by: &str) -> anyhow::Result<Self> {
        // A column by its very name first, which as an expression would have to be quoted.
        if let Ok(found) = column_texts(dataset, selection, by) {
            return Ok(Self(found));
        }
        Ok(Self(selected_texts(dataset, selection, &format!("arrow_cast({by}, 'Utf8')"), by)?))
    }

    /// The groups of these pairs.
    pub fn of(&self, uids: &[Uid]) -> Vec<&str> {
        uids.iter().map(|uid| self.0.get(uid).map_or(NONE, String::as_str)).collect()
    }
}

/// Takes columns, each with one [`Unit`] a name, apart by the names: the lowest of the first column first.
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
        // Of the few a fifth is right, of the many all; every unit of the second column counts twice.
        let first: Vec<Unit> = (0..200).map(|n| Unit::from(n % 4 != 0 || n % 20 == 0)).collect();
        let second = first.iter().map(|unit| Unit { hits: unit.hits, of: 2.0 }).collect();
        let found = by_group(&names, &[first, second]);
        let values = |group: &Group| group.values.iter().map(|value| value.0).collect::<Vec<_>>();
        let short: Vec<_> =
            found.iter().map(|group| (group.name.as_str(), group.count, values(group))).collect();
        assert_eq!(short, [("few", 50, vec![0.2, 0.1]), ("many", 150, vec![1.0, 0.5])]);
    }
}
