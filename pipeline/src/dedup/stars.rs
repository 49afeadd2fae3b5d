//! The choice of the pairs that stay: groups as stars.
//!
//! Rows are taken from the best to the worst. A row that is near to one that stays is dropped, and
//! belongs to the first such row. Any other row stays. So no two rows that stay are near to each
//! other, and every dropped row is near to one that stays.
//!
//! Connected components would not do this. In a chain of a, b and c where only neighbours are near,
//! they would drop c because of a, which does not resemble it. Among millions of hashes such chains
//! grow across unrelated images.

use std::ops::Range;

use super::caption_index::CaptionIndex;
use super::classes::NO_CLASS;
use super::rows::RowSet;

/// The row that stays to which a class is near, and the distance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cover {
    pub(super) by: u32,
    pub(super) distance: f32,
}

impl Cover {
    pub(super) const NONE: Self = Self { by: NO_CLASS, distance: 0.0 };

    pub(super) fn is_covered(self) -> bool {
        self.by != NO_CLASS
    }
}

/// The similarity of rows in one tier: classes of equal values, and near classes.
pub(super) struct Alike {
    /// The class of each row.
    pub(super) classes: Vec<u32>,
    pub(super) near: Near,
}

/// The classes that are near to each other.
pub(super) enum Near {
    /// Only equal values are near.
    Equal,
    /// Class, class and distance, in both directions, sorted.
    Pairs(Vec<(u32, u32, f32)>),
    Captions(Box<CaptionIndex>),
}

/// A row that is dropped because of another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Dropped {
    pub(super) row: u32,
    pub(super) by: u32,
    /// Index of the tier.
    pub(super) tier: usize,
    pub(super) distance: f32,
}

impl Alike {
    /// Adds the rows that are equal or may be near to another one.
    pub(super) fn add_involved(&self, rows: &mut RowSet) {
        let mut with_company = RowSet::none(self.classes.len() as u32);
        for (row, &class) in (0..).zip(&self.classes) {
            if class != NO_CLASS && class != row {
                with_company.insert(class);
            }
        }
        match &self.near {
            Near::Equal => {}
            Near::Pairs(pairs) => {
                for (class, _, _) in pairs {
                    with_company.insert(*class);
                }
            }
            Near::Captions(index) => with_company.unite(&index.has_candidates),
        }
        for (row, &class) in (0..).zip(&self.classes) {
            if class != NO_CLASS && with_company.contains(class) {
                rows.insert(row);
            }
        }
    }

    /// Covers the class of a row that stays, and all classes near to it.
    fn cover(&mut self, row: u32, open: Option<&RowSet>, covers: &mut [Cover]) {
        let class = self.classes[row as usize];
        if class == NO_CLASS {
            return;
        }
        let open = |class: u32| open.is_none_or(|open| open.contains(class));
        // Equal is nearer than near.
        covers[class as usize] = Cover { by: row, distance: 0.0 };
        match &mut self.near {
            Near::Equal => {}
            Near::Pairs(pairs) => {
                let from = pairs.partition_point(|(known, _, _)| *known < class);
                for &(_, other, distance) in
                    pairs[from..].iter().take_while(|(known, _, _)| *known == class)
                {
                    if open(other) && !covers[other as usize].is_covered() {
                        covers[other as usize] = Cover { by: row, distance };
                    }
                }
            }
            Near::Captions(index) => index.cover(class, row, open, covers),
        }
    }

    fn cover_of(&self, row: u32, covers: &[Cover]) -> Option<Cover> {
        let class = self.classes[row as usize];
        (class != NO_CLASS).then(|| covers[class as usize]).filter(|cover| cover.is_covered())
    }

    fn no_covers(&self) -> Vec<Cover> {
        vec![Cover::NONE; self.classes.len()]
    }
}

/// Returns the dropped rows of `order`, which is sorted best first. A row that several tiers would
/// drop counts for the first of them.
pub(super) fn drop_alike(tiers: &mut [Alike], order: &[u32]) -> Vec<Dropped> {
    let mut covers: Vec<Vec<Cover>> = tiers.iter().map(Alike::no_covers).collect();
    let mut dropped = Vec::new();
    for &row in order {
        let found = tiers.iter().zip(&covers).enumerate().find_map(|(tier, (alike, covers))| {
            let cover = alike.cover_of(row, covers)?;
            Some(Dropped { row, by: cover.by, tier, distance: cover.distance })
        });
        match found {
            Some(found) => dropped.push(found),
            None => tiers
                .iter_mut()
                .zip(&mut covers)
                .for_each(|(alike, covers)| alike.cover(row, None, covers)),
        }
    }
    dropped
}

/// Returns the rows below `rows` that are near to any of `references`.
pub(super) fn drop_near(tiers: &mut [Alike], references: &Range<u32>, rows: u32) -> Vec<Dropped> {
    let mut found: Vec<Option<Dropped>> = vec![None; rows as usize];
    for (tier, alike) in tiers.iter_mut().enumerate() {
        let mut open = RowSet::none(alike.classes.len() as u32);
        alike.classes[..rows as usize]
            .iter()
            .filter(|class| **class != NO_CLASS)
            .for_each(|class| open.insert(*class));
        let mut covers = alike.no_covers();
        references.clone().for_each(|row| alike.cover(row, Some(&open), &mut covers));
        for row in 0..rows {
            if found[row as usize].is_none()
                && let Some(cover) = alike.cover_of(row, &covers)
            {
                found[row as usize] =
                    Some(Dropped { row, by: cover.by, tier, distance: cover.distance });
            }
        }
    }
    found.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn near(classes: Vec<u32>, pairs: &[(u32, u32)]) -> Alike {
        let mut both: Vec<_> =
            pairs.iter().flat_map(|(a, b)| [(*a, *b, 1.0), (*b, *a, 1.0)]).collect();
        both.sort_unstable_by_key(|pair| (pair.0, pair.1));
        both.dedup();
        Alike { classes, near: Near::Pairs(both) }
    }

    fn rows(dropped: &[Dropped]) -> Vec<(u32, u32)> {
        dropped.iter().map(|dropped| (dropped.row, dropped.by)).collect()
    }

    #[test]
    fn end_of_a_chain_stays() {
        let chain = || near(vec![0, 1, 2, 3], &[(0, 1), (1, 2), (2, 3)]);
        assert_eq!(rows(&drop_alike(&mut [chain()], &[0, 1, 2, 3])), [(1, 0), (3, 2)]);
        // With b as the best, a and c are its group.
        assert_eq!(rows(&drop_alike(&mut [chain()], &[1, 0, 2, 3])), [(0, 1), (2, 1)]);
    }

    #[test]
    fn rows_without_a_value_are_alike_to_nothing() {
        let classes = vec![NO_CLASS, NO_CLASS, 2, 2];
        assert_eq!(
            rows(&drop_alike(&mut [Alike { classes, near: Near::Equal }], &[1, 0, 3, 2])),
            [(2, 3)]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn kept_rows_are_apart_and_dropped_rows_are_near_a_kept_one(
            values in prop::collection::vec((0_u32..12, 0_u32..9), 1..60),
            pairs in prop::collection::vec((0_u32..12, 0_u32..12), 0..20),
            seed in any::<u64>(),
        ) {
            let first = |value: &dyn Fn(&(u32, u32)) -> u32| -> Vec<u32> {
                values.iter().map(|row| values.iter().position(|other| value(other) == value(row))
                    .unwrap() as u32).collect()
            };
            let (a, b) = (first(&|row| row.0), first(&|row| row.1));
            let class_of = |value: u32| values.iter().position(|row| row.0 == value)
                .map(|row| row as u32);
            let pairs: Vec<_> = pairs.iter().filter_map(|(x, y)| Some(
                (class_of(*x)?, class_of(*y)?))).filter(|(x, y)| x != y).collect();
            let alike = |x: u32, y: u32| {
                let (x, y) = (x as usize, y as usize);
                a[x] == a[y] || b[x] == b[y]
                    || pairs.contains(&(a[x], a[y])) || pairs.contains(&(a[y], a[x]))
            };
            let mut order: Vec<u32> = (0..values.len() as u32).collect();
            crate::random::Random::new(seed).shuffle(&mut order);
            let equal = Alike { classes: b.clone(), near: Near::Equal };
            let mut tiers = [near(a.clone(), &pairs), equal];
            let dropped = drop_alike(&mut tiers, &order);
            let is_kept = |row: u32| dropped.iter().all(|dropped| dropped.row != row);
            for x in &order {
                for y in order.iter().filter(|y| *y != x) {
                    prop_assert!(!(is_kept(*x) && is_kept(*y) && alike(*x, *y)), "{x} and {y} both \
                        stay");
                }
            }
            let rank = |row: u32| order.iter().position(|other| *other == row);
            for row in &dropped {
                prop_assert!(is_kept(row.by) && alike(row.row, row.by)
                    && rank(row.by) < rank(row.row), "{row:?}");
            }
        }
    }
}
