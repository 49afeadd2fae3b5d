//! The version of keys and values, and how a store of an older version becomes one of this: step by step, each on the disk
//! before the store calls itself by the next number. Killed in between, the next opening goes on. A newer store is refused.

use std::path::Path;

use super::engine::Engine;
use super::error::StoreError;
use super::guard;

const KEY: &[u8] = b"format";
/// The first format that stores had.
const FIRST: u32 = 1;

/// Makes a store of one format one of the next. It may be killed anywhere and begun again, so twice must be as once.
type Migration = fn(&Path, &Engine) -> Result<(), StoreError>;

/// The n-th makes format n + 1 of format n. A tree that is added needs none: opening makes it.
const MIGRATIONS: &[Migration] = &[];

/// Brings a store that was opened to the format of this binary; a new one begins with it.
pub(super) fn bring_up_to_date(state: &Path, engine: &Engine) -> Result<(), StoreError> {
    migrate(state, engine, MIGRATIONS)
}

fn migrate(state: &Path, engine: &Engine, migrations: &[Migration]) -> Result<(), StoreError> {
    let current = FIRST + migrations.len() as u32;
    let put = |format: u32| {
        guard::call(state, || engine.db().insert(KEY, format.to_string().into_bytes()))
    };
    let Some(found) = guard::call(state, || engine.db().get(KEY))? else {
        put(current)?;
        return Ok(());
    };
    let found = String::from_utf8_lossy(&found).into_owned();
    let known = found.parse().ok().filter(|format| (FIRST..=current).contains(format));
    let Some(known) = known else {
        let message = format!("format {found}, this binary reads up to {current}");
        return Err(StoreError::Version { state: state.to_owned(), message });
    };
    for (format, migration) in (known..).zip(&migrations[(known - FIRST) as usize..]) {
        tracing::info!("{}: the store becomes one of format {}", state.display(), format + 1);
        let on_disk = || guard::call(state, || engine.flush()).and_then(|()| engine.sync());
        migration(state, engine)?;
        on_disk()?;
        put(format + 1)?;
        on_disk()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count_up(state: &Path, engine: &Engine) -> Result<(), StoreError> {
        let before = guard::call(state, || engine.db().get(b"count"))?.map_or(0, |value| value[0]);
        guard::call(state, || engine.db().insert(b"count", &[before + 1]))?;
        Ok(())
    }

    /// Fails until somebody has made room for it.
    fn wants_room(state: &Path, engine: &Engine) -> Result<(), StoreError> {
        if !state.join("room").exists() {
            return Err(StoreError::damaged(state, "no room"));
        }
        count_up(state, engine)
    }

    #[test]
    fn older_store_is_brought_up_step_by_step_and_goes_on_where_it_was_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path();
        let engine = || Engine::open(state, &state.join("sled")).unwrap();
        // One after the other: a store is opened by one at a time.
        let value = |key: &[u8]| engine().db().get(key).unwrap().map(|value| value.to_vec());
        let format_and_count = || [value(KEY), value(b"count")];
        migrate(state, &engine(), &[]).unwrap();
        assert_eq!(value(KEY), Some(b"1".to_vec()));

        let migrations: [Migration; 3] = [count_up, wants_room, count_up];
        assert!(
            migrate(state, &engine(), &migrations).unwrap_err().to_string().contains("no room")
        );
        assert_eq!(format_and_count(), [Some(b"2".to_vec()), Some(vec![1])]);
        std::fs::create_dir(state.join("room")).unwrap();
        for _ in 0..2 {
            migrate(state, &engine(), &migrations).unwrap();
            assert_eq!(format_and_count(), [Some(b"4".to_vec()), Some(vec![3])]);
        }

        let error = migrate(state, &engine(), &migrations[..2]).unwrap_err().to_string();
        assert!(
            error.contains("format 4")
                && error.contains("up to 3")
                && error.contains("another state folder"),
            "{error}"
        );
        assert_eq!(value(b"count"), Some(vec![3]));
    }
}
