//! Helpers for the tests of all crates: waiting, chance, test data. This crate depends on no crate
//! of the product, so unit tests of all of them can use it.

#![expect(clippy::print_stdout, reason = "the seed of a test that fails is in its output")]

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use diptych_test_needs::needs;

const LOOKS_EVERY: Duration = Duration::from_millis(5);

/// Calls `look` again and again until it returns something.
///
/// # Panics
/// If there is nothing after `patience`. The message names `what` the test waited for.
#[track_caller]
pub fn eventually<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} in vain for {what}");
        std::thread::sleep(LOOKS_EVERY);
    }
}

/// Returns a seed for random parts of a test, such as the moment of a kill: a new one each time, or
/// the one in `DIPTYCH_TEST_SEED`. Prints it, so that a failure can be repeated.
///
/// # Panics
/// If `DIPTYCH_TEST_SEED` is not a number.
pub fn seed() -> u64 {
    let seed = match std::env::var("DIPTYCH_TEST_SEED") {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("DIPTYCH_TEST_SEED is {text:?} and must be a number")),
        // The standard library keys its hash maps at random.
        Err(_) => RandomState::new().build_hasher().finish(),
    };
    println!("DIPTYCH_TEST_SEED={seed} repeats this");
    seed
}

/// Returns the path of a file or folder of the test data outside of the repository. Only for tests
/// with `#[needs(data)]`.
///
/// # Panics
/// If the folder in `DIPTYCH_TEST_DATA` does not have it.
pub fn data(name: &str) -> PathBuf {
    let folder = std::env::var_os("DIPTYCH_TEST_DATA").unwrap_or_default();
    let path = Path::new(&folder).join(name);
    assert!(
        path.exists(),
        "DIPTYCH_TEST_DATA is {}, where {name} is missing",
        Path::new(&folder).display()
    );
    path
}

/// Returns the folder of the small reference models that are in the repository.
pub fn parity() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../trainer/tests/data/parity")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_what_came() {
        let mut looks = 0;
        let found = eventually(Duration::from_mins(1), "the third look", || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(found, 3);
    }

    #[test]
    #[should_panic(expected = "in vain for nothing at all")]
    fn waiting_in_vain_says_for_what() {
        eventually(Duration::ZERO, "nothing at all", || None::<()>);
    }
}
