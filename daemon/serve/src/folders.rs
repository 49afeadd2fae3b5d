//! The files and datasets that a request may name. This module alone decides it, by the path that
//! remains after links are followed.
//!
//! 1. Below the `folders` and datasets of the configuration, everything may be read and written.
//! 2. In the state folder only the service writes. Its other files may be read, except for the
//!    store and the files around it.
//! 3. If several of these folders contain a path, the innermost one decides.
//! 4. A URL can only name a dataset, or a source of an ingest, below `remote.allow`.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use diptych_schemas::{PathRole, RemotePrefix, ServeConfig, is_url};

use crate::socket::SOCKET;

/// Entries of the state folder besides the store that no request may read: the lock, notes and
/// socket, and the jobs' logs.
const BESIDE_THE_STORE: [&str; 5] = ["lock", "owner.json", "acknowledged", "jobs", SOCKET];
/// Folder within the state folder for backups.
const BACKUPS: &str = "backups";

/// The folders and URLs that requests may name, with links resolved.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Folders {
    /// Folders and datasets of the configuration.
    open: Vec<PathBuf>,
    state: PathBuf,
    remote: Vec<RemotePrefix>,
}

impl Folders {
    pub(crate) fn from_config(config: &ServeConfig) -> Result<Self, String> {
        let datasets = config.datasets.iter().map(|dataset| &dataset.path);
        let named = config.folders.iter().chain(datasets.filter(|path| !is_url(path)));
        // A folder that does not exist yet is kept by its name, and checked again when a path in it
        // is named.
        let real = |folder: &PathBuf| resolve_links(folder).unwrap_or_else(|_| folder.clone());
        Ok(Self {
            open: named.map(real).collect(),
            state: real(&config.state),
            remote: config.remote.prefixes()?,
        })
    }

    /// Resolves a path that a request names for this role. Returns a message if it may not be
    /// named. Relative paths start at `base`.
    pub(crate) fn resolve(
        &self,
        base: &Path,
        path: &Path,
        role: PathRole,
    ) -> Result<PathBuf, String> {
        if role == PathRole::Dataset && is_url(path) {
            return self.check_remote(&path.to_string_lossy()).map(|()| path.to_owned());
        }
        let whole = base.join(path);
        let real =
            resolve_links(&whole).map_err(|error| format!("{}: {error}", whole.display()))?;
        let depth = |folder: &PathBuf| {
            if real.starts_with(folder) { folder.components().count() } else { 0 }
        };
        let open = self.open.iter().map(depth).max().unwrap_or_default();
        let state = depth(&self.state);
        if open == 0 && state == 0 {
            return Err(format!(
                "{}: outside the folders of this service ({}). Add its folder to `folders` in the \
                 service's configuration",
                whole.display(),
                self.words()
            ));
        }
        if open <= state {
            self.check_in_state(&whole, &real, role)?;
        }
        Ok(real)
    }

    /// Resolves the path of a state folder: the service's own, or another one in a folder that may
    /// be written.
    pub(crate) fn resolve_state(&self, base: &Path, path: &Path) -> Result<PathBuf, String> {
        match resolve_links(&base.join(path)) {
            Ok(real) if real == self.state => Ok(real),
            _ => self.resolve(base, path, PathRole::Write),
        }
    }

    /// Resolves the target of a backup: in a folder that may be written, or in `backups` of the
    /// state folder.
    pub(crate) fn resolve_backup(&self, to: &Path) -> Result<PathBuf, String> {
        match resolve_links(to) {
            Ok(real) if real.starts_with(self.state.join(BACKUPS)) => Ok(real),
            _ => self.resolve(Path::new("/"), to, PathRole::Write),
        }
    }

    fn check_in_state(&self, whole: &Path, real: &Path, role: PathRole) -> Result<(), String> {
        if role == PathRole::Write {
            return Err(format!(
                "{}: inside the state folder, where only the service writes. Name a place in one \
                 of the folders of this service ({})",
                whole.display(),
                self.words()
            ));
        }
        let first = real.strip_prefix(&self.state).ok().and_then(|rest| rest.iter().next());
        if first.is_some_and(is_of_the_store) {
            return Err(format!(
                "{}: belongs to the store of the service, which no job may read",
                whole.display()
            ));
        }
        Ok(())
    }

    /// Checks that an ingest may read a source at a URL. The rules are those for datasets.
    pub(crate) fn check_source(&self, url: &str) -> Result<(), String> {
        self.check_remote(url)
    }

    fn check_remote(&self, url: &str) -> Result<(), String> {
        for prefix in &self.remote {
            if prefix.holds(url)? {
                return Ok(());
            }
        }
        let allowed = self.remote.iter().map(ToString::to_string).collect::<Vec<_>>();
        Err(format!(
            "{url}: not among the remote places of this service ({}). Add it, or a URL above it, \
             to `remote.allow` in the service's configuration",
            if allowed.is_empty() { "there are none".into() } else { allowed.join(", ") }
        ))
    }

    fn words(&self) -> String {
        if self.open.is_empty() {
            return "there are none".into();
        }
        self.open.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Returns the folders below which jobs may read and write.
    pub(crate) fn open(&self) -> &[PathBuf] {
        &self.open
    }

    /// Returns the existing entries of the state folder that may be read.
    pub(crate) fn readable_state(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.state).into_iter().flatten().flatten();
        let readable = entries.filter(|entry| !is_of_the_store(&entry.file_name()));
        readable.map(|entry| entry.path()).collect()
    }

    pub(crate) fn state(&self) -> &Path {
        &self.state
    }

    /// Returns a folder of the configuration that contains the state folder, if there is one.
    pub(crate) fn around_the_state(&self) -> Option<&Path> {
        self.open.iter().find(|folder| self.state.starts_with(folder)).map(PathBuf::as_path)
    }
}

/// Whether an entry of the state folder belongs to the store: `sled`, damaged stores that were
/// moved aside, and the files around it.
fn is_of_the_store(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let whole = name.strip_suffix(".incomplete").unwrap_or(&name);
    name.starts_with("sled") || BESIDE_THE_STORE.contains(&whole)
}

/// Returns the path with all existing links resolved. The part that does not exist must not contain
/// `..`.
fn resolve_links(path: &Path) -> Result<PathBuf, String> {
    let path = std::path::absolute(path).map_err(|error| error.to_string())?;
    for there in path.ancestors() {
        match there.canonicalize() {
            Ok(real) => {
                let rest = path.strip_prefix(there).unwrap_or(Path::new(""));
                if rest.components().any(|part| part == Component::ParentDir) {
                    return Err("contains .. below a folder that does not exist".into());
                }
                // Creating the target would follow a link that leads nowhere.
                if !rest.as_os_str().is_empty()
                    && real.join(rest.iter().next().unwrap_or_default()).is_symlink()
                {
                    return Err("lies behind a link whose target does not exist".into());
                }
                return Ok(if rest.as_os_str().is_empty() { real } else { real.join(rest) });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Err("is not a path".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(open: &[&Path], state: &Path) -> Folders {
        let open = open.iter().map(|folder| folder.to_path_buf()).collect();
        Folders { open, state: state.to_owned(), remote: Vec::new() }
    }

    #[test]
    fn nothing_outside_can_be_named_by_dots_or_links() {
        let all = tempfile::tempdir().unwrap();
        let root = all.path().canonicalize().unwrap();
        let inside = root.join("inside");
        std::fs::create_dir_all(inside.join("a")).unwrap();
        std::fs::create_dir_all(root.join("outside")).unwrap();
        std::os::unix::fs::symlink(root.join("outside"), inside.join("out")).unwrap();
        std::os::unix::fs::symlink(inside.join("a"), inside.join("in")).unwrap();
        std::os::unix::fs::symlink(root.join("outside/new"), inside.join("nowhere")).unwrap();
        let folders = folders(&[&inside], &root.join("state"));
        for (good, leads) in [
            ("a", "a"),
            ("a/new.parquet", "a/new.parquet"),
            ("new/deep/file", "new/deep/file"),
            ("in/x", "a/x"),
            ("a/../a/b", "a/b"),
            ("s3://bucket/data", "s3:/bucket/data"),
        ] {
            let found = folders.resolve(&inside, Path::new(good), PathRole::Write);
            assert_eq!(found, Ok(inside.join(leads)), "{good}");
        }
        for bad in [
            "..",
            "../outside/x",
            "out/x",
            "out",
            "a/../../outside",
            "new/../../outside/x",
            "/etc/passwd",
            "nowhere",
            "nowhere/x",
            "a://../../outside/x",
            "s3://../../outside/x",
            "file:///etc/passwd",
            "\0",
        ] {
            for role in [PathRole::Read, PathRole::Write] {
                let found = folders.resolve(&inside, Path::new(bad), role);
                // Here it is not a URL, but a folder with a strange name that does not exist.
                let strange =
                    bad.starts_with("file:") && found == Ok(inside.join("file:/etc/passwd"));
                assert!(found.is_err() || strange, "{bad}: {found:?}");
            }
        }
        // A sibling with the same beginning is another folder.
        std::fs::create_dir_all(root.join("inside-not")).unwrap();
        let sibling = root.join("inside-not/x");
        assert!(folders.resolve(&inside, &sibling, PathRole::Read).is_err());
    }

    #[test]
    fn state_folder_is_not_written_and_its_store_not_read_whatever_is_around_it() {
        let all = tempfile::tempdir().unwrap();
        let root = all.path().canonicalize().unwrap();
        let state = root.join("state");
        for name in ["sled", "checkpoints/run", "jobs/1", "own"] {
            std::fs::create_dir_all(state.join(name)).unwrap();
        }
        let own = state.join("own");
        for folders in [
            folders(&[], &state),
            folders(&[&root], &state),
            folders(&[&state], &state),
            folders(&[&own, &root], &state),
        ] {
            let may = |path: &str, role| folders.resolve(&state, Path::new(path), role).is_ok();
            for read in ["checkpoints/run/x", ".", "train.parquet"] {
                assert!(may(read, PathRole::Read) && !may(read, PathRole::Write), "{read}");
            }
            for never in
                ["sled/db", "sled", "sled.damaged-3/db", "lock", "owner.json", "jobs/1/log"]
            {
                assert!(!may(never, PathRole::Read) && !may(never, PathRole::Write), "{never}");
            }
            assert!(folders.resolve_state(&root, Path::new("state")).is_ok());
            assert!(folders.resolve_state(&root, Path::new("state/checkpoints")).is_err());
        }
        // The innermost folder decides, even inside the state folder.
        let found = folders(&[&own], &state).resolve(&state, Path::new("own/x"), PathRole::Write);
        assert_eq!(found, Ok(own.join("x")));
    }

    #[test]
    fn remote_datasets_are_those_that_are_allowed() {
        let all = tempfile::tempdir().unwrap();
        let root = all.path().canonicalize().unwrap();
        let mut folders = folders(&[&root], &root.join("state"));
        let url = Path::new("s3://bucket/sets/a");
        let error = folders.resolve(&root, url, PathRole::Dataset).unwrap_err();
        assert!(error.contains("remote.allow"), "{error}");
        folders.remote = vec![RemotePrefix::parse("s3://bucket/sets").unwrap()];
        assert_eq!(folders.resolve(&root, url, PathRole::Dataset), Ok(url.to_owned()));
        for bad in ["http://127.0.0.1/", "s3://bucket/sets/../x", "http://169.254.169.254/latest"] {
            assert!(folders.resolve(&root, Path::new(bad), PathRole::Dataset).is_err(), "{bad}");
        }
    }
}
