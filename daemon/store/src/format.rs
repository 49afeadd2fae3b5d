//! The version of the format of keys and values. A store of an older format is upgraded one version
//! at a time, and each version is on the disk before the store takes its number. If the process is
//! killed in between, the next opening continues. Newer stores are refused.

use std::path::Path;

use super::engine::Engine;
use super::error::StoreError;
use super::guard;

const KEY: &[u8] = b"format";
/// The first format.
const FIRST: u32 = 1;

/// A function that turns a store of one format into the next. It may be killed at any point and
/// started again, so running it twice must give the same result as once.
type Migration = fn(&Path, &Engine) -> Result<(), StoreError>;

/// Migrations in order: the n-th turns format n into n + 1. A new tree needs none, since opening
/// creates it.
const MIGRATIONS: &[Migration] = &[];

/// Upgrades an opened store to the format of this binary. A new store starts with that format.
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
        let message = format!("format {found}; this binary reads up to format {current}");
        return Err(StoreError::Version { state: state.to_owned(), message });
    };
    for (format, migration) in (known..).zip(&migrations[(known - FIRST) as usize..]) {
        tracing::info!("{}: upgrading the store to format {}", state.display(), format + 1);
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

    /// Fails until the test has made room.
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
        // A store can be opened only once at a time.
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

        let error = migrate(state, &engine(), &migrations[..2]).unwrap_err();
        let StoreError::Version { message, .. } = error else { panic!("{error}") };
        assert!(message.contains('4') && message.contains('3'), "{message}");
        assert_eq!(value(b"count"), Some(vec![3]));
    }
}
