//! Names of sources that do not lie on this machine: those that are read over the network, and
//! those that other tools take and an ingest does not.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::IngestError;
use super::expand::{NameKind, Source, WILDCARDS, braces, without_tables};
use super::remote::{Address, Location, RemoteClient, has_lists, is_elsewhere};
use crate::storage::without_secrets;

/// What a folder in a store may hold.
const KINDS: &str = "tar, Parquet file, Arrow file or list (CSV, TSV, JSON Lines)";

/// What an argument stands for.
enum SourceArgument {
    /// A file, or a folder where it ends with a slash or where there is no such file.
    File(Address),
    /// Whatever matches beneath a folder.
    Pattern { folder: Address, pattern: String },
}

/// The sources that an argument names which does not lie here. None for what can be a file on this
/// machine.
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

/// The addresses that an argument of a service's job asks for, as an allow-list is to see them: of
/// a pattern, the folder that is listed. None for what cannot be elsewhere. An error for what is no
/// source there, and for secrets, which a job would keep.
pub fn addresses_of(argument: &str) -> Option<Result<Vec<String>, String>> {
    is_elsewhere(argument).then(|| {
        let named =
            names(argument).map_err(|why| format!("{}: {why}", without_secrets(argument)))?;
        let asked = named.into_iter().map(|named| match named {
            SourceArgument::File(address) => address.url_to_allow(),
            // What matches lies beneath the folder.
            SourceArgument::Pattern { folder, .. } => folder.url_to_allow(),
        });
        asked.collect()
    })
}

/// Whether a name is one of a source elsewhere whose address held more than is kept of it.
pub(super) fn is_cut(name: &str) -> bool {
    is_elsewhere(name) && !has_lists(name) && name.contains("?~")
}

/// How a source elsewhere is called that an argument names.
pub(super) fn name_of(argument: &str) -> Option<String> {
    is_elsewhere(argument).then(|| Address::parse(argument).ok()).flatten().map(|found| found.name)
}

fn missing(given: &str, message: String) -> IngestError {
    let message = message.trim_end_matches('.').to_owned();
    IngestError::MissingSource { given: without_secrets(given), message }
}

/// How to get at what is not read over the network, and not a file here either.
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
            "{scheme}:// is no place that sources are read from (http, https, s3, gs, az, abfss and hf are): copy it to this machine"
        )
    })
}

/// Expands the braces of an argument, and takes its patterns apart.
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

/// The files that are there. Those that are named one by one are asked for at the same time.
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
                let message = "there is no such file (HTTP 404)".into();
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

/// The objects of a bucket as addresses.
fn addresses(folder: &Address, paths: Vec<String>) -> Vec<Address> {
    let Location::Store { bucket, .. } = &folder.place else { return Vec::new() };
    // As it was given, since URLs escape some letters.
    let given = folder.name.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
    let address = |path: String| Address {
        name: format!("{given}/{path}"),
        place: Location::Store { bucket: bucket.clone(), path },
    };
    paths.into_iter().map(address).collect()
}

/// What a folder holds that an ingest knows: as a folder here, its shards, or else its lists.
fn folder(folder: &Address, client: &RemoteClient) -> Result<Vec<Address>, IngestError> {
    let paths = client.list(folder, false).map_err(|message| missing(&folder.name, message))?;
    if paths.is_empty() {
        let message = "there is no such file, and no file in a folder of this name".into();
        return Err(missing(&folder.name, message));
    }
    let is_named = |path: &str, name: &str| path.rsplit('/').next() == Some(name);
    if paths.iter().any(|path| is_named(path, "dataset.json")) {
        let message = "it is a dataset that diptych made. Name the original sources".into();
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
            "none of the {} files in it is a {KINDS}. Folders of images are not read over the network: copy them, or pack them into tars",
            paths.len()
        );
        return Err(missing(&folder.name, message));
    }
    let paths = files.into_iter().map(|path| path.to_string_lossy().into_owned());
    Ok(addresses(folder, paths.collect()))
}

/// The files beneath a folder that match a pattern.
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
        return Err(missing(&given, "nothing matches the pattern".into()));
    }
    Ok(addresses(folder, paths))
}
