//! Calls into sled. Its panics on damaged bytes become errors and are not printed.
//!
//! This needs build profiles that unwind. Panics on sled's own threads are not caught here.

use std::any::Any;
use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::Once;

use diptych_schemas::words::panic_message;

use super::error::StoreError;

thread_local! {
    /// Whether a panic of this thread will be caught and reported as an error.
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

static HOOK: Once = Once::new();

/// Calls sled for the store in `state`.
pub(super) fn call<T>(
    state: &Path,
    call: impl FnOnce() -> sled::Result<T>,
) -> Result<T, StoreError> {
    match catch(call) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(StoreError::from_sled(state, &error)),
        Err(panic) => Err(StoreError::damaged(state, panic)),
    }
}

/// Runs a closure. Returns the message of a panic as an error.
fn catch<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !CAUGHT.get() {
                previous(info);
            }
        }));
    });
    let before = CAUGHT.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(run));
    CAUGHT.set(before);
    outcome.map_err(|payload| message(payload.as_ref()))
}

fn message(payload: &(dyn Any + Send)) -> String {
    panic_message(payload).unwrap_or("sled panicked").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_becomes_damage_with_its_message() {
        let error =
            call(Path::new("state"), || -> sled::Result<()> { panic!("page {} is torn", 7) })
                .unwrap_err();
        assert!(
            matches!(&error, StoreError::Damaged { message, .. } if message == "page 7 is torn"),
            "{error}"
        );
        assert_eq!(call(Path::new("state"), || Ok(3)).unwrap(), 3);
    }
}
