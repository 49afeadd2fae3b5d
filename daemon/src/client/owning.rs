//! Owning a state folder to write to it. `diptych ui` gives way, and gets answers from the new
//! owner.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use diptych_schemas::words::describe;
use diptych_serve::{Answering, GIVE_WAY, OwningCommand};
use diptych_store::{Owner, OwnerRole, Store, StoreError};
use reqwest::Method;

use super::service::{Service, wait_for};

/// Longest time that a page has to close the store.
const GIVES_WAY_WITHIN: Duration = Duration::from_secs(15);

/// Opens the store of a state folder as its owner.
pub(crate) fn own(
    state: &Path,
    open: impl FnOnce(&Path) -> Result<Store, StoreError>,
) -> anyhow::Result<Store> {
    make_way(state)?;
    Ok(open(state)?)
}

/// Asks `diptych ui` to leave the folder, if it owns it.
pub(crate) fn make_way(state: &Path) -> anyhow::Result<()> {
    let Some(Owner { pid, role: OwnerRole::Page, address: Some(address), .. }) =
        Owner::current(state)
    else {
        return Ok(());
    };
    let service = Service::at(&address, None)?;
    wait_for(async { service.ask(Method::POST, GIVE_WAY, None).await.map(drop) })?;
    let began = Instant::now();
    while Owner::current(state).is_some_and(|owner| owner.pid == pid)
        && began.elapsed() < GIVES_WAY_WITHIN
    {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Answers readers of a store that this process owns. If that fails, the command continues, and
/// readers use a copy.
pub(crate) fn answer(
    store: &Store,
    datasets: &[PathBuf],
    command: OwningCommand,
) -> Option<Answering> {
    match Answering::start(store, datasets, command) {
        Ok(answering) => Some(answering),
        Err(error) => {
            tracing::warn!(
                "who looks at {} is not answered, and reads copies of it: {}",
                store.folder().display(),
                describe(&error)
            );
            None
        }
    }
}
