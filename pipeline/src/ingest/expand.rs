//! From the user's arguments (files, folders, patterns) to the list of sources.
//!
//! The order does not depend on the disk: arguments in the given order, the files of each sorted by
//! path. Nothing is written, and only names are read. Names are interpreted only here: a service
//! that checks them for a client calls [`source_names`] and [`sources_at`] like the ingest.

use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::IngestError;
use super::elsewhere;
use super::images_folder;
use super::parts_of_folder;
use super::remote::RemoteFile;
use super::tar_group::is_image_extension;

/// Most names that one pattern in braces may stand for.
const MAX_BRACES: usize = 1_000_000;
/// Characters that make a name a pattern.
pub(super) const WILDCARDS: [char; 3] = ['*', '?', '['];

/// A source: a file, or a folder of images.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// Size in bytes, and time of the last change in milliseconds since 1970. If they change, the
    /// source is read again.
    pub(super) size: u64,
    pub(super) modified: u64,
    /// Whether it is a folder of images with captions next to them.
    pub(super) is_folder: bool,
    /// The file, where it does not lie here. `path` is its address then.
    pub(super) remote: Option<Arc<RemoteFile>>,
}

impl Source {
    /// Returns the name of the source in meta, in the ledger and in the manifest.
    pub(super) fn name(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    fn file(path: PathBuf) -> Result<Self, IngestError> {
        let metadata = fs::metadata(&path).map_err(|e| missing(&path, e.to_string()))?;
        if !metadata.is_file() {
            return Err(missing(&path, "it is neither a regular file nor a folder".into()));
        }
        Ok(Self {
            path,
            size: metadata.len(),
            modified: images_folder::modified(&metadata),
            is_folder: false,
            remote: None,
        })
    }

    pub(super) fn elsewhere(path: PathBuf, file: Arc<RemoteFile>) -> Self {
        Self { path, size: file.size(), modified: 0, is_folder: false, remote: Some(file) }
    }

    /// Returns the mark of this version of a remote file, or an empty text for a local file.
    pub(super) fn version(&self) -> &str {
        self.remote.as_ref().map_or("", |file| file.mark())
    }

    /// Its kind, by its name.
    pub(super) fn kind(&self) -> Option<NameKind> {
        match &self.remote {
            Some(file) => NameKind::of(Path::new(file.file_name())),
            None => NameKind::of(&self.path),
        }
    }
}

impl Source {
    /// Creates a source from a folder of images.
    fn folder(path: &Path) -> Result<Self, IngestError> {
        let listing = images_folder::list(path, &|_| true);
        Ok(Self::folder_with(path, &listing.map_err(|e| missing(path, e.to_string()))?))
    }

    fn folder_with(path: &Path, listing: &images_folder::Listing) -> Self {
        let path = path.to_owned();
        Self { path, size: listing.size, modified: listing.modified, is_folder: true, remote: None }
    }
}

/// The kind of a file, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NameKind {
    Tar,
    Parquet,
    Arrow,
    Csv,
    JsonLines,
}

impl NameKind {
    pub(super) fn of(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy().to_lowercase();
        let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
        let unpacked = [".gz", ".zst"].iter().find_map(|packed| name.strip_suffix(packed));
        let list_ends = |endings: &[&str]| {
            endings.iter().any(|ending| unpacked.unwrap_or(&name).ends_with(ending))
        };
        if ends(&[".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"]) {
            Some(Self::Tar)
        } else if ends(&[".parquet"]) {
            Some(Self::Parquet)
        } else if ends(&[".arrow", ".feather"]) {
            Some(Self::Arrow)
        } else if list_ends(&[".csv", ".tsv", ".psv"]) {
            Some(Self::Csv)
        } else if list_ends(&[".jsonl", ".ndjson"]) {
            Some(Self::JsonLines)
        } else {
            None
        }
    }
}

/// Returns all sources, each once. `stop` ends the waiting for remote ones.
pub(super) fn expand(given: &[String], stop: &Arc<AtomicBool>) -> Result<Vec<Source>, IngestError> {
    let mut seen = HashSet::new();
    let mut all: Vec<Source> = Vec::new();
    let mut reach = None;
    for argument in given {
        if let Some(found) = elsewhere::sources(argument, &mut reach, stop) {
            all.extend(found?.into_iter().filter(|source| seen.insert(source.path.clone())));
            continue;
        }
        for path in paths(argument)? {
            let found = sources(&path)?;
            all.extend(found.into_iter().filter(|source| seen.insert(source.path.clone())));
        }
    }
    if all.is_empty() {
        return Err(IngestError::Request {
            message: "no source was given. Name tars, Parquet files, lists or folders".into(),
        });
    }
    Ok(all)
}

/// Returns the sources at one path: the file, or those in the folder.
fn sources(path: &Path) -> Result<Vec<Source>, IngestError> {
    let path = plain(path);
    if path.is_dir() { folder(&path) } else { Ok(vec![Source::file(path)?]) }
}

/// Returns the files and folders that an ingest opens for an existing path.
pub fn sources_at(path: &Path) -> Result<Vec<PathBuf>, IngestError> {
    Ok(sources(path)?.into_iter().map(|source| source.path).collect())
}

/// The meaning of a part of an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceName {
    /// A file or folder, which may not exist.
    Path(PathBuf),
    /// All matching files.
    Pattern(SourcePattern),
}

/// A pattern with `*`, `?` and `[…]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcePattern {
    /// The folder that the pattern is relative to.
    base: PathBuf,
    pattern: String,
}

impl SourcePattern {
    /// Returns the path before the part with the first wildcard.
    fn before_wildcards(&self) -> &str {
        let place = self.pattern.find(WILDCARDS).unwrap_or(self.pattern.len());
        self.pattern[..place].rfind('/').map_or("", |slash| &self.pattern[..=slash])
    }

    /// Returns the folder in which the pattern searches.
    pub fn folder(&self) -> PathBuf {
        self.base.join(self.before_wildcards())
    }

    /// Returns whether the pattern goes upwards (`..`) after its first wildcard.
    pub fn climbs(&self) -> bool {
        self.pattern[self.before_wildcards().len()..].split('/').any(|part| part == "..")
    }

    /// Returns the matching paths, sorted. A wildcard never matches `.` or `..`.
    pub fn matches(&self) -> Result<Vec<PathBuf>, IngestError> {
        let whole = if self.base.as_os_str().is_empty() || self.pattern.starts_with('/') {
            self.pattern.clone()
        } else {
            format!("{}/{}", glob::Pattern::escape(&self.base.to_string_lossy()), self.pattern)
        };
        let bad = |message: String| missing(Path::new(&self.pattern), message);
        let found = glob::glob(&whole).map_err(|e| bad(format!("not a pattern: {e}")))?;
        let mut found = found.collect::<Result<Vec<_>, _>>().map_err(|e| bad(e.to_string()))?;
        found.retain(|path| {
            let more = |dots: &str| {
                let matched = path.as_os_str().as_bytes();
                count(matched, dots.as_bytes()) > count(whole.as_bytes(), dots.as_bytes())
            };
            !more(".") && !more("..")
        });
        found.sort_unstable();
        Ok(found)
    }
}

/// Counts the parts of a path that equal `part`.
fn count(path: &[u8], part: &[u8]) -> usize {
    path.split(|byte| *byte == b'/').filter(|found| *found == part).count()
}

/// Interprets an argument relative to `base`: as a path if it exists, else by its braces and
/// wildcards.
pub fn source_names(base: &Path, argument: &str) -> Result<Vec<SourceName>, IngestError> {
    let literal = base.join(argument);
    if literal.exists() {
        return Ok(vec![SourceName::Path(literal)]);
    }
    let name = |pattern: String| {
        if pattern.contains(WILDCARDS) {
            SourceName::Pattern(SourcePattern { base: base.to_owned(), pattern })
        } else {
            SourceName::Path(base.join(pattern))
        }
    };
    Ok(braces(argument)?.into_iter().map(name).collect())
}

/// Removes `.` and doubled slashes from a path, so that a source has one name.
pub(super) fn plain(path: &Path) -> PathBuf {
    let path: PathBuf = path.components().filter(|part| *part != Component::CurDir).collect();
    if path.as_os_str().is_empty() { PathBuf::from(".") } else { path }
}

fn missing(path: &Path, message: String) -> IngestError {
    IngestError::MissingSource { given: path.display().to_string(), message }
}

/// Returns the existing paths of an argument.
fn paths(argument: &str) -> Result<Vec<PathBuf>, IngestError> {
    let mut found = Vec::new();
    for name in source_names(Path::new(""), argument)? {
        match name {
            SourceName::Path(path) => found.push(path),
            SourceName::Pattern(pattern) => {
                let matches = pattern.matches()?;
                if matches.is_empty() {
                    let message = "nothing matches the pattern".into();
                    return Err(missing(Path::new(&pattern.pattern), message));
                }
                found.extend(matches);
            }
        }
    }
    Ok(found)
}

/// Expands `a{00..02}.tar` and `{a,b}.tar`, as WebDataset's users write them.
pub(super) fn braces(pattern: &str) -> Result<Vec<String>, IngestError> {
    let mut done = vec![String::new()];
    let mut rest = pattern;
    while let Some((before, inner, after)) = rest.split_once('{').and_then(|(before, tail)| {
        tail.split_once('}').map(|(inner, after)| (before, inner, after))
    }) {
        let choices = choices(inner).unwrap_or_else(|| vec![format!("{{{inner}}}")]);
        if done.len().saturating_mul(choices.len()) > MAX_BRACES {
            return Err(IngestError::Request {
                message: format!("{pattern} stands for more than {MAX_BRACES} files"),
            });
        }
        done = done
            .iter()
            .flat_map(|start| choices.iter().map(move |choice| format!("{start}{before}{choice}")))
            .collect();
        rest = after;
    }
    Ok(done.into_iter().map(|start| start + rest).collect())
}

fn choices(inner: &str) -> Option<Vec<String>> {
    if let Some((first, last)) = inner.split_once("..") {
        let (from, to): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        if to < from || to - from >= MAX_BRACES as u64 {
            return None;
        }
        let width = first.len();
        return Some((from..=to).map(|number| format!("{number:0width$}")).collect());
    }
    inner.contains(',').then(|| inner.split(',').map(str::to_owned).collect())
}

/// Returns the sources in a folder: tars and Parquet files, or lists, or images.
fn folder(path: &Path) -> Result<Vec<Source>, IngestError> {
    let unreadable = |e: std::io::Error| missing(path, e.to_string());
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        files.push(entry.map_err(unreadable)?.path());
    }
    files.sort_unstable();
    if files.iter().any(|file| file.ends_with("dataset.json")) {
        let found = "it is a dataset that diptych made";
        return Err(IngestError::Unrecognised {
            path: path.to_owned(),
            found: found.into(),
            advice: "Name the original sources",
        });
    }
    let of_kind = |kinds: &[NameKind]| -> Vec<PathBuf> {
        files
            .iter()
            .filter(|file| {
                NameKind::of(file).is_some_and(|kind| kinds.contains(&kind)) && file.is_file()
            })
            .cloned()
            .collect()
    };
    let mut shards = without_tables(of_kind(&[NameKind::Tar, NameKind::Parquet, NameKind::Arrow]));
    let folders = parts_of_folder::image_folders(&shards);
    shards.retain(|file| !folders.contains(&file.with_extension("")));
    if !shards.is_empty() || !folders.is_empty() {
        let folders = folders.iter().map(|folder| Source::folder(folder));
        return shards.into_iter().map(Source::file).chain(folders).collect();
    }
    let listings = of_kind(&[NameKind::Csv, NameKind::JsonLines]);
    if !listings.is_empty() {
        return listings.into_iter().map(Source::file).collect();
    }
    let parts = parts_of_folder::parts(path);
    if !parts.is_empty() {
        return parts.into_iter().map(Source::file).collect();
    }
    let listing = images_folder::list(path, &|_| true).map_err(unreadable)?;
    if listing.images() == 0 {
        return Err(IngestError::Unrecognised {
            path: path.to_owned(),
            found: "the folder contains no tar, Parquet, CSV, TSV or JSON Lines file, and no image"
                .into(),
            advice: "If its subfolders do, name them with a pattern such as FOLDER/**/*.tar",
        });
    }
    Ok(vec![Source::folder_with(path, &listing)])
}

/// Removes the tables that img2dataset writes next to its tars: 00000.tar, 00000.parquet.
pub(super) fn without_tables(mut shards: Vec<PathBuf>) -> Vec<PathBuf> {
    let tars: HashSet<PathBuf> =
        shards.iter().filter(|file| NameKind::of(file) == Some(NameKind::Tar)).cloned().collect();
    shards.retain(|file| {
        NameKind::of(file) != Some(NameKind::Parquet) || !tars.contains(&file.with_extension("tar"))
    });
    shards
}

/// Returns whether a file is an image by its name. A single image is not a source.
pub(super) fn is_image(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| is_image_extension(&extension.to_string_lossy().to_lowercase()))
}

#[cfg(test)]
mod tests {
    use diptych_schemas::durable;

    use super::*;

    #[test]
    fn braces_stand_for_ranges_and_lists() {
        assert_eq!(braces("a{08..10}.tar").unwrap(), ["a08.tar", "a09.tar", "a10.tar"]);
        assert_eq!(
            braces("{x,y}/{0..1}.tar").unwrap(),
            ["x/0.tar", "x/1.tar", "y/0.tar", "y/1.tar"]
        );
        assert_eq!(braces("plain{odd}.tar").unwrap(), ["plain{odd}.tar"]);
        assert!(braces("{0..99999999}.tar").unwrap()[0].contains(".."));
        assert!(braces("{0..999}{0..9999}").is_err());
    }

    #[test]
    fn patterns_are_sorted_and_a_source_comes_once() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.tar", "a.tar", "c.tar"] {
            durable::write(&folder.path().join(name), b"").unwrap();
        }
        let base = folder.path().display();
        let given = [
            format!("{base}/c.tar"),
            format!("{base}/*.tar"),
            format!("{base}/./a.tar"),
            format!("{base}/{{a,b}}.tar"),
        ];
        let names: Vec<String> =
            expand(&given, &Arc::default()).unwrap().iter().map(Source::name).collect();
        assert_eq!(
            names,
            [format!("{base}/c.tar"), format!("{base}/a.tar"), format!("{base}/b.tar")]
        );
        for given in
            [format!("{base}/d.tar"), format!("{base}/*.parquet"), format!("{base}/{{a,d}}.tar")]
        {
            assert!(matches!(
                expand(&[given], &Arc::default()),
                Err(IngestError::MissingSource { .. })
            ));
        }
    }

    #[test]
    fn wildcards_stand_for_no_dots() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("in[1]");
        std::fs::create_dir_all(base.join(".hidden")).unwrap();
        for name in ["a.tar", "in[1]/b.tar", "in[1]/.hidden/c.tar"] {
            durable::write(&folder.path().join(name), b"").unwrap();
        }
        let found = |argument: &str| -> Vec<PathBuf> {
            source_names(&base, argument)
                .unwrap()
                .into_iter()
                .flat_map(|name| match name {
                    SourceName::Path(path) => vec![path],
                    SourceName::Pattern(pattern) => pattern.matches().unwrap(),
                })
                .collect()
        };
        for climbs in [".?/*.tar", "?./*.tar", ".*/a.tar", "[.]./a.tar", ".[.]/a.tar"] {
            assert!(found(climbs).iter().all(|path| path.starts_with(&base)), "{climbs}");
            assert!(!found(climbs).iter().any(|path| path.ends_with("../a.tar")), "{climbs}");
        }
        assert_eq!(found(".*/*.tar"), [base.join(".hidden/c.tar")]);
        assert_eq!(found("*.tar"), [base.join("b.tar")]);
        // A pattern that is written upwards goes upwards.
        assert_eq!(found("../*.tar"), [base.join("../a.tar")]);
        assert_eq!(found("{.,}./a.tar"), [base.join("../a.tar"), base.join("./a.tar")]);
    }

    #[test]
    fn a_pattern_says_where_it_looks_and_whether_it_climbs() {
        let pattern = |text: &str| match &source_names(Path::new(""), text).unwrap()[..] {
            [SourceName::Pattern(pattern)] => (pattern.folder(), pattern.climbs()),
            other => panic!("{other:?}"),
        };
        assert_eq!(pattern("a/b*/c.tar"), ("a/".into(), false));
        assert_eq!(pattern("*.tar"), ("".into(), false));
        assert_eq!(pattern("/*.tar"), ("/".into(), false));
        assert_eq!(pattern("../a/*.tar"), ("../a/".into(), false));
        assert_eq!(pattern("a/*/../b"), ("a/".into(), true));
    }

    #[test]
    fn folder_is_taken_for_what_it_holds() {
        let folder = tempfile::tempdir().unwrap();
        let given = [folder.path().display().to_string()];
        assert!(matches!(expand(&given, &Arc::default()), Err(IngestError::Unrecognised { .. })));
        let names = |given: &[String]| -> Vec<String> {
            let sources = expand(given, &Arc::default()).unwrap();
            sources
                .iter()
                .map(|source| source.path.file_name().unwrap().to_string_lossy().into_owned())
                .collect()
        };
        durable::write(&folder.path().join("cat.jpg"), b"").unwrap();
        assert!(expand(&given, &Arc::default()).unwrap()[0].is_folder);
        durable::write(&folder.path().join("list.csv"), b"").unwrap();
        assert_eq!(names(&given), ["list.csv"]);
        for name in ["0.tar", "0.parquet", "1.parquet"] {
            durable::write(&folder.path().join(name), b"").unwrap();
        }
        assert_eq!(names(&given), ["0.tar", "1.parquet"]);
        durable::write(&folder.path().join("dataset.json"), b"").unwrap();
        assert!(matches!(expand(&given, &Arc::default()), Err(IngestError::Unrecognised { .. })));
    }
}
