//! The comparison of two configurations.

/// Collects the keys whose values differ, including keys of nested objects.
pub(crate) fn compare_keys(
    key: &str,
    ours: &serde_json::Value,
    theirs: &serde_json::Value,
    found: &mut Vec<String>,
) {
    let (Some(a), Some(b)) = (ours.as_object(), theirs.as_object()) else {
        if ours != theirs {
            found.push(format!("{key} is {ours} and {theirs}"));
        }
        return;
    };
    let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    for name in keys {
        let place = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
        compare_keys(&place, &ours[name.as_str()], &theirs[name.as_str()], found);
    }
}
