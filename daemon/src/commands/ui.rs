//! `diptych ui`: opens a page about a folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, bail};
use diptych_cli::UiArgs;
use diptych_schemas::DatasetManifest;
use diptych_schemas::outcome::Outcome;
use diptych_serve::ui::{self, UiSpec};
use diptych_store::Owner;

use crate::output::line;

/// Depth below the folder to which state folders and datasets are found.
const DEEPEST: usize = 3;
/// Most folders that are searched.
const MOST_FOLDERS: usize = 5_000;
/// Most state folders with a page, last used first.
const MOST_PAGES: usize = 8;
/// The default state folder of a configuration, for a folder that has none yet.
const NEW_STATE: &str = "state";

pub(crate) fn run(args: &UiArgs) -> anyhow::Result<Outcome> {
    let folder = args
        .folder
        .canonicalize()
        .with_context(|| format!("{}: there is no such folder", args.folder.display()))?;
    if !folder.is_dir() {
        bail!("{}: is no folder", folder.display());
    }
    let place = Place::of(&folder);
    let mut states = place.states();
    if states.is_empty() {
        states.push(place.root.join(NEW_STATE));
    }
    let mut ports = std::iter::once(args.port).chain(std::iter::repeat(0));
    let datasets: Arc<dyn Fn() -> Vec<PathBuf> + Send + Sync> = {
        let place = place.clone();
        Arc::new(move || place.datasets())
    };
    let specs = states.into_iter().map(|state| UiSpec {
        state,
        folder: place.root.clone(),
        datasets: Arc::clone(&datasets),
        port: ports.next().unwrap_or(0),
    });
    ui::run(specs.collect(), |pages| {
        for (state, address) in pages {
            let address = by_itself(state).unwrap_or_else(|| address.clone());
            line(format!("{address}/  {}", state.display()))?;
        }
        match place.datasets()[..] {
            [] => line(format!(
                "no dataset in {} yet; the page shows how to begin",
                place.root.display()
            ))?,
            [_] => line(format!("1 dataset in {}", place.root.display()))?,
            ref found => line(format!("{} datasets in {}", found.len(), place.root.display()))?,
        }
        line("Ctrl-C ends the page and nothing else")?;
        if let Some((state, address)) = pages.first().filter(|_| !args.no_open) {
            open_browser(&by_itself(state).unwrap_or_else(|| address.clone()));
        }
        Ok(())
    })
}

/// Returns the address of a service that a browser must open itself, since the certificate is for
/// that name.
fn by_itself(state: &Path) -> Option<String> {
    Owner::current(state)?.address.filter(|address| address.starts_with("https://"))
}

/// The folder to show.
#[derive(Clone)]
struct Place {
    /// The folder in which everything is found.
    root: PathBuf,
    depth: usize,
    /// A folder that was named itself.
    state: Option<PathBuf>,
    dataset: Option<PathBuf>,
}

impl Place {
    /// Chooses what to show. For a state folder or dataset, only its neighbours are searched.
    fn of(folder: &Path) -> Self {
        let beside = || folder.parent().unwrap_or(folder).to_owned();
        let named = Some(folder.to_owned());
        if is_dataset(folder) {
            Self { root: beside(), depth: 1, state: None, dataset: named }
        } else if is_state(folder) {
            Self { root: beside(), depth: 1, state: named, dataset: None }
        } else {
            Self { root: folder.to_owned(), depth: DEEPEST, state: None, dataset: None }
        }
    }

    /// Returns the state folders, last used first.
    fn states(&self) -> Vec<PathBuf> {
        if let Some(state) = &self.state {
            return vec![state.clone()];
        }
        let mut found = self.find(is_state);
        found.sort_by_key(|state| std::cmp::Reverse(last_used(state)));
        if found.len() > MOST_PAGES {
            tracing::info!(
                "{} state folders in {}: the {MOST_PAGES} used last have a page. Name another one \
                 to see \
                 it",
                found.len(),
                self.root.display()
            );
            found.truncate(MOST_PAGES);
        }
        found
    }

    fn datasets(&self) -> Vec<PathBuf> {
        let mut found = self.find(is_dataset);
        if let Some(named) = &self.dataset {
            found.retain(|dataset| dataset != named);
            found.insert(0, named.clone());
        }
        found
    }

    /// Finds folders of a kind, by name. The inside of a dataset or state folder is not searched.
    fn find(&self, is_wanted: fn(&Path) -> bool) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut level = vec![self.root.clone()];
        let mut left = MOST_FOLDERS;
        for _ in 0..self.depth {
            let mut next = Vec::new();
            for folder in level {
                let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
                for entry in entries.take(left) {
                    let path = entry.path();
                    // Also behind a link: the depth ends what goes round.
                    if entry.file_name().to_string_lossy().starts_with('.') || !path.is_dir() {
                        continue;
                    }
                    left = left.saturating_sub(1);
                    if is_wanted(&path) {
                        found.push(path);
                    } else if !is_dataset(&path) && !is_state(&path) {
                        next.push(path);
                    }
                }
            }
            level = next;
        }
        found.sort();
        found
    }
}

fn is_dataset(folder: &Path) -> bool {
    DatasetManifest::path(folder).is_file()
}

fn is_state(folder: &Path) -> bool {
    folder.join("sled").is_dir() || folder.join("owner.json").is_file()
}

fn last_used(state: &Path) -> Option<SystemTime> {
    let changed = |name: &str| state.join(name).metadata().and_then(|file| file.modified()).ok();
    changed("sled/db").max(changed("owner.json"))
}

/// Opens a browser if there is a display. A failure is no error, since the address is printed.
fn open_browser(address: &str) {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let has_display =
        ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
    if !has_display && !cfg!(target_os = "macos") {
        return;
    }
    let mut command = Command::new(program);
    command.arg(address).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.spawn() {
        // Waited for, so that it leaves no zombie.
        Ok(mut opened) => drop(std::thread::spawn(move || opened.wait())),
        Err(error) => tracing::debug!("{program}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_found_below_a_folder_and_beside_a_state_folder_or_dataset() {
        let all = tempfile::tempdir().unwrap();
        let root = all.path();
        for folder in ["a/state/sled", "a/state/inner/sled", "b/c/data/deep", ".hidden/sled"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        for dataset in ["b/c/data", "a/pairs", "b/c/data/deep"] {
            std::fs::create_dir_all(root.join(dataset)).unwrap();
            let manifest = DatasetManifest::path(&root.join(dataset));
            diptych_schemas::durable::write(&manifest, b"{}").unwrap();
        }
        let place = Place::of(root);
        assert_eq!(place.states(), [root.join("a/state")]);
        assert_eq!(place.datasets(), [root.join("a/pairs"), root.join("b/c/data")]);
        let of_state = Place::of(&root.join("a/state"));
        assert_eq!(of_state.states(), [root.join("a/state")]);
        assert_eq!(of_state.datasets(), [root.join("a/pairs")]);
        let of_dataset = Place::of(&root.join("b/c/data"));
        assert_eq!(of_dataset.datasets(), [root.join("b/c/data")]);
        assert_eq!(of_dataset.states(), Vec::<PathBuf>::new());
    }
}
