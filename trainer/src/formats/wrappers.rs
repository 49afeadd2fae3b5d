//! Tensor names without the prefixes of PyTorch's module wrappers.
//!
//! The wrappers are data parallelism (`module.`), `torch.compile` (`_orig_mod.`), FSDP and
//! activation checkpointing.

use std::collections::BTreeMap;

/// The prefix of data parallelism.
const PARALLEL: &str = "module.";
/// Wrappers' parts of a name. No module of ours, OpenCLIP's or Hugging Face's has them, wherever
/// they occur.
const WRAPPERS: [&str; 3] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// Returns the tensors under plain names. Changes nothing if names would collide.
pub(crate) fn without_wrappers<T>(tensors: BTreeMap<String, T>) -> BTreeMap<String, T> {
    let mut names: Vec<String> = tensors.keys().map(|name| without_parts(name)).collect();
    while !names.is_empty() && names.iter().all(|name| name.starts_with(PARALLEL)) {
        for name in &mut names {
            name.drain(..PARALLEL.len());
        }
    }
    let mut sorted = names.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() < names.len() {
        return tensors;
    }
    names.into_iter().zip(tensors.into_values()).collect()
}

fn without_parts(name: &str) -> String {
    name.split('.').filter(|part| !WRAPPERS.contains(part)).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(names: &[&str]) -> Vec<String> {
        let tensors = names.iter().map(|name| ((*name).to_owned(), ())).collect();
        without_wrappers(tensors).into_keys().collect()
    }

    #[test]
    fn wrappers_are_taken_away_and_modules_are_not() {
        for (wrapped, expected) in [
            (["module.a.w", "module.b.w"], ["a.w", "b.w"]),
            (["_orig_mod.a.w", "_orig_mod.b.w"], ["a.w", "b.w"]),
            (["module._orig_mod.a.w", "module._orig_mod.b.w"], ["a.w", "b.w"]),
            (["_orig_mod.module.a.w", "_orig_mod.module.b.w"], ["a.w", "b.w"]),
            (
                ["a._orig_mod.w", "b._fsdp_wrapped_module._checkpoint_wrapped_module.w"],
                ["a.w", "b.w"],
            ),
            (["a.w", "module.b.w"], ["a.w", "module.b.w"]),
            (["_orig_mod.a.w", "a.w"], ["_orig_mod.a.w", "a.w"]),
        ] {
            assert_eq!(plain(&wrapped), expected);
        }
        assert!(plain(&[]).is_empty());
    }
}
