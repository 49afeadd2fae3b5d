//! Which files a request may name: those below the state folder, the datasets and `folders` of the configuration. Symbolic links
//! are followed before it is decided.

use std::path::{Component, Path, PathBuf};

use diptych_schemas::{ServeConfig, is_url};

/// The folders below which everything may be named, links resolved.
#[derive(Clone, Debug)]
pub(crate) struct Folders(Vec<PathBuf>);

impl Folders {
    pub(crate) fn of(config: &ServeConfig) -> Self {
        let named = config
            .folders
            .iter()
            .chain(config.datasets.iter().map(|dataset| &dataset.path))
            .chain([&config.state]);
        // A folder that is not there yet is taken by its name, and looked at again when something in it is named.
        Self(
            named.map(|folder| where_it_leads(folder).unwrap_or_else(|_| folder.clone())).collect(),
        )
    }

    /// Whether a request may name this path; says in words why not. Relative ones are relative to `base`.
    pub(crate) fn check(&self, base: &Path, path: &Path) -> Result<(), String> {
        if is_url(path) {
            return Ok(());
        }
        let whole = base.join(path);
        let leads =
            where_it_leads(&whole).map_err(|error| format!("{}: {error}", whole.display()))?;
        if self.0.iter().any(|folder| leads.starts_with(folder)) {
            return Ok(());
        }
        Err(format!(
            "{}: outside of the folders of this service ({}). Name its folder in `folders` of the service's configuration",
            whole.display(),
            self.0.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
        ))
    }
}

/// The path with the links of what is there resolved. What is not there yet must not climb.
fn where_it_leads(path: &Path) -> Result<PathBuf, String> {
    let path = std::path::absolute(path).map_err(|error| error.to_string())?;
    for there in path.ancestors() {
        match there.canonicalize() {
            Ok(real) => {
                let rest = path.strip_prefix(there).unwrap_or(Path::new(""));
                if rest.components().any(|part| part == Component::ParentDir) {
                    return Err("leads upwards (..) through folders that are not there".into());
                }
                // A link to something that is not there would be followed when it is made.
                if !rest.as_os_str().is_empty()
                    && real.join(rest.iter().next().unwrap_or_default()).is_symlink()
                {
                    return Err("is behind a link that leads nowhere".into());
                }
                return Ok(if rest.as_os_str().is_empty() { real } else { real.join(rest) });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Err("is no path".into())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let folders = Folders(vec![inside.clone()]);
        for good in ["a", "a/new.parquet", "new/deep/file", "in/x", "a/../a/b", "s3://bucket/data"]
        {
            folders
                .check(&inside, Path::new(good))
                .unwrap_or_else(|error| panic!("{good}: {error}"));
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
        ] {
            assert!(folders.check(&inside, Path::new(bad)).is_err(), "{bad}");
        }
        // A sibling whose name begins alike is another folder.
        std::fs::create_dir_all(root.join("inside-not")).unwrap();
        assert!(folders.check(&inside, &root.join("inside-not/x")).is_err());
    }
}
