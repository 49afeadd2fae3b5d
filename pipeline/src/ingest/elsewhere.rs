//! Names of remote sources: those that are read over the network, and those that other tools read
//! and an ingest does not.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::IngestError;
use super::expand::{NameKind, Source, WILDCARDS, braces, without_tables};
use super::remote::{Address, Location, RemoteClient, has_lists, is_elsewhere};
use crate::storage::without_secrets;

/// Kinds of files that a folder in an object store may hold.
const KINDS: &str = "tar, Parquet file, Arrow file or list (CSV, TSV, JSON Lines)";

/// A remote source, as an argument names it.
enum SourceArgument {
    /// A file. Also a folder: its name ends with a slash, or no such file exists.
    File(Address),
    /// The files of a folder that match a pattern.
    Pattern { folder: Address, pattern: String },
}

/// Returns the sources that an argument names, or `None` if it can be a local file.
pub(super) fn sources(
    argument: &str,
    client: &mut Option<Arc<RemoteClient>>,
    stop: &Arc<AtomicBool>,
) -> Option<Result<Vec<Source>, IngestError>> {
    if Path::new(argument).exists() {
        return None;
    }
    if let Some(message) = advice(argument) {
        return Some(Err(missing(argument, message)));
    }
    is_elsewhere(argument).then(|| {
        let named = names(argument).map_err(|message| missing(argument, message))?;
        let client = match client {
            Some(client) => client,
            None => client
                .insert(RemoteClient::new(stop).map_err(|message| missing(argument, message))?),
        };
        found(named, client)
    })
}

/// Returns the addresses that an argument of a service's job names, for a check against an
/// allow-list.
///
/// For a pattern, this is the folder that is listed. Returns `None` if the argument cannot be
/// remote. Returns an error if it is not a valid source, or holds a secret, which a job would
/// store.
pub fn addresses_of(argument: &str) -> Option<Result<Vec<String>, String>> {
    is_elsewhere(argument).then(|| {
        let named =
            names(argument).map_err(|why| format!("{}: {why}", without_secrets(argument)))?;
        let asked = named.into_iter().map(|named| match named {
            SourceArgument::File(address) => address.url_to_allow(),
            // Matches lie within the folder.
            SourceArgument::Pattern { folder, .. } => folder.url_to_allow(),
        });
        asked.collect()
    })
}

/// Returns whether `name` is a remote source whose address had a query that was not kept.
pub(super) fn is_cut(name: &str) -> bool {
    is_elsewhere(name) && !has_lists(name) && name.contains("?~")
}

/// Returns the name of the remote source of an argument.
pub(super) fn name_of(argument: &str) -> Option<String> {
    is_elsewhere(argument).then(|| Address::parse(argument).ok()).flatten().map(|found| found.name)
}

fn missing(given: &str, message: impl AsRef<str>) -> IngestError {
    let message = message.as_ref().trim_end_matches('.').to_owned();
    IngestError::MissingSource { given: without_secrets(given), message }
}

/// Returns how to read a source that is neither a file nor read over the network.
fn advice(argument: &str) -> Option<String> {
    if let Some(command) = argument.strip_prefix("pipe:") {
        return Some(format!(
            "commands are not supported as sources. Write their output to a file and ingest that: \
             `{command} > 00000.tar`"
        ));
    }
    if argument.contains("::") {
        let parts: Vec<&str> = argument.split("::").collect();
        return Some(format!(
            "sources cannot be joined by `::`. Give each as an argument: {}",
            without_secrets(&parts.join(" "))
        ));
    }
    let (scheme, _) = argument.split_once("://")?;
    (!is_elsewhere(argument)).then(|| {
        format!(
            "{scheme}:// is no place that sources are read from (http, https, s3, gs, az, abfss \
             and hf are): copy it to this machine"
        )
    })
}

/// Expands the braces of an argument, and splits its patterns into folder and pattern.
fn names(argument: &str) -> Result<Vec<SourceArgument>, String> {
    let texts = braces(argument).map_err(|error| error.to_string())?;
    let named = texts.into_iter().map(|text| {
        if !(has_lists(&text) && text.contains(WILDCARDS)) {
            return Address::parse(&text).map(SourceArgument::File);
        }
        let wild = text.find(WILDCARDS).unwrap_or(text.len());
        let bucket = text.find("://").map_or(0, |at| at + 3);
        let slash = text[..wild].rfind('/').filter(|slash| *slash >= bucket);
        let slash = slash.ok_or("a wildcard cannot stand for a bucket")?;
        let pattern = text[slash + 1..].to_owned();
        glob::Pattern::new(&pattern).map_err(|error| format!("not a pattern: {error}"))?;
        if pattern.split('/').any(|part| part == "..") {
            return Err("a pattern does not go upwards (..)".into());
        }
        let folder = Address::parse(&text[..=slash])?;
        Ok(SourceArgument::Pattern { folder, pattern })
    });
    named.collect()
}

/// Returns the files that exist. Requests for single files run concurrently.
fn found(
    named: Vec<SourceArgument>,
    client: &Arc<RemoteClient>,
) -> Result<Vec<Source>, IngestError> {
    let mut addresses = Vec::new();
    for named in named {
        match named {
            SourceArgument::File(address) if is_folder(&address) => {
                addresses.extend(folder(&address, client)?);
            }
            SourceArgument::File(address) => addresses.push(address),
            SourceArgument::Pattern { folder, pattern } => {
                addresses.extend(matching(&folder, &pattern, client)?);
            }
        }
    }
    let files = client.files(addresses);
    let files = files.map_err(|(given, message)| missing(&given, message))?;
    let mut sources = Vec::new();
    let mut folders = Vec::new();
    for (address, file) in files {
        match file {
            Some(file) => sources.push(Source::elsewhere(PathBuf::from(&address.name), file)),
            None if matches!(address.place, Location::Store { .. }) => {
                folders.extend(folder(&address, client)?);
            }
            None => {
                let message = "there is no such file (HTTP 404)";
                return Err(missing(&address.name, message));
            }
        }
    }
    if !folders.is_empty() {
        sources.extend(found(folders.into_iter().map(SourceArgument::File).collect(), client)?);
    }
    Ok(sources)
}

fn is_folder(address: &Address) -> bool {
    match &address.place {
        Location::Store { path, .. } => path.is_empty() || path.ends_with('/'),
        Location::Web { .. } => false,
    }
}

/// Returns the objects of a bucket as addresses.
fn addresses(folder: &Address, paths: Vec<String>) -> Vec<Address> {
    let Location::Store { bucket, .. } = &folder.place else { return Vec::new() };
    // The name as given, since URLs escape some characters.
    let given = folder.name.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
    let address = |path: String| Address {
        name: format!("{given}/{path}"),
        place: Location::Store { bucket: bucket.clone(), path },
    };
    paths.into_iter().map(address).collect()
}

/// Returns the files of a folder that an ingest can read: its shards or, without shards, its lists.
fn folder(folder: &Address, client: &RemoteClient) -> Result<Vec<Address>, IngestError> {
    let paths = client.list(folder, false).map_err(|message| missing(&folder.name, message))?;
    if paths.is_empty() {
        let message = "there is no such file, and no file in a folder of this name";
        return Err(missing(&folder.name, message));
    }
    let is_named = |path: &str, name: &str| path.rsplit('/').next() == Some(name);
    if paths.iter().any(|path| is_named(path, "dataset.json")) {
        let message = "it is a dataset that diptych made. Name the original sources";
        return Err(missing(&folder.name, message));
    }
    let of_kind = |kinds: &[NameKind]| -> Vec<PathBuf> {
        let kind = |path: &&String| {
            NameKind::of(Path::new(path)).is_some_and(|kind| kinds.contains(&kind))
        };
        paths.iter().filter(kind).map(PathBuf::from).collect()
    };
    let mut files = without_tables(of_kind(&[NameKind::Tar, NameKind::Parquet, NameKind::Arrow]));
    if files.is_empty() {
        files = of_kind(&[NameKind::Csv, NameKind::JsonLines]);
    }
    if files.is_empty() {
        let message = format!(
            "none of the {} files in it is a {KINDS}. Folders of images are not read over the \
             network: copy them, or pack them into tars",
            paths.len()
        );
        return Err(missing(&folder.name, message));
    }
    let paths = files.into_iter().map(|path| path.to_string_lossy().into_owned());
    Ok(addresses(folder, paths.collect()))
}

/// Returns the files of a folder that match a pattern.
fn matching(
    folder: &Address,
    pattern: &str,
    client: &RemoteClient,
) -> Result<Vec<Address>, IngestError> {
    let given = format!("{}{pattern}", folder.name);
    let bad = |message: String| missing(&given, message);
    let wanted =
        glob::Pattern::new(pattern).map_err(|error| bad(format!("not a pattern: {error}")))?;
    let options = glob::MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: false,
    };
    let Location::Store { path: start, .. } = &folder.place else { return Ok(Vec::new()) };
    let mut paths = client.list(folder, pattern.contains('/')).map_err(bad)?;
    paths.retain(|path| {
        path.strip_prefix(start.as_str()).is_some_and(|path| wanted.matches_with(path, options))
    });
    if paths.is_empty() {
        return Err(missing(&given, "nothing matches the pattern"));
    }
    Ok(addresses(folder, paths))
}
