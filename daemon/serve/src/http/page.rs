//! Lists that are returned in parts.

use serde::{Deserialize, Serialize};

/// Number of entries by default.
const DEFAULT_LIMIT: usize = 100;
/// Most entries in one answer.
const MAX_LIMIT: usize = 1000;

/// The choice of a part of a list.
#[derive(Clone, Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub(super) struct ListQuery {
    /// Most entries in the answer: 100 by default, at most 1000.
    pub(super) limit: Option<usize>,
    /// The `next` of the previous part.
    pub(super) after: Option<String>,
}

/// A part of a list.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    /// Pass it as `after` to get the following part. Null at the end.
    pub(super) next: Option<String>,
}

impl ListQuery {
    /// Returns the requested part of all entries. `key` gives the order, and is what the next
    /// request passes as `after`.
    pub(super) fn page<T>(
        &self,
        all: impl IntoIterator<Item = T>,
        key: impl Fn(&T) -> String,
    ) -> Page<T> {
        let limit = self.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT);
        let mut rest = all.into_iter().peekable();
        if let Some(after) = &self.after {
            // If that entry no longer exists, return the end of the list rather than its beginning.
            for entry in rest.by_ref() {
                if key(&entry) == *after {
                    break;
                }
            }
        }
        let items: Vec<T> = rest.by_ref().take(limit).collect();
        let next = rest.peek().and(items.last()).map(key);
        Page { items, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_one_after_the_other_are_the_list() {
        let all: Vec<u32> = (0..25).collect();
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = ListQuery { limit: Some(10), after }.page(all.clone(), ToString::to_string);
            found.extend(page.items);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, all);
        assert_eq!(
            ListQuery { limit: Some(0), after: None }.page(all.clone(), ToString::to_string).items,
            [0]
        );
        assert_eq!(
            ListQuery { limit: Some(5000), after: None }
                .page(0..2000, ToString::to_string)
                .items
                .len(),
            MAX_LIMIT
        );
    }
}
