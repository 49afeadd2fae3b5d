//! Names of remote sources: `https://…`, `s3://…`, `gs://…`, `az://…` and `hf://datasets/…`.

use diptych_schemas::ContentHash;
use object_store::path::Path as ObjectPath;
use url::Url;

use super::client;
use crate::storage::without_secrets;

/// The address of the Hugging Face Hub, unless `HF_ENDPOINT` is set.
const HUB: &str = "https://huggingface.co";
/// Schemes of object stores.
const STORES: [&str; 8] = ["s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss"];
/// Bytes of the hash that replaces a query in a name.
const MARK: usize = 8;
/// Parameters of signed URLs, in lower case.
const SIGNATURE: [&str; 20] = [
    "sig",
    "se",
    "st",
    "sp",
    "sv",
    "sr",
    "spr",
    "skoid",
    "sktid",
    "skt",
    "ske",
    "sks",
    "skv",
    "sdd",
    "sip",
    "expires",
    "policy",
    "key-pair-id",
    "response-content-disposition",
    "x-xet-cas-uid",
];
/// Words in the names of parameters that hold secrets.
const SECRET: [&str; 9] =
    ["token", "secret", "key", "pass", "signature", "auth", "credential", "x-amz-", "x-goog-"];

/// The address of a remote source, before any request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Its name in messages, in the ledger and in the manifest, without secrets.
    pub(crate) name: String,
    pub(crate) place: Location,
}

/// How a remote source is reached.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Location {
    /// A file on a web server. The URL may hold secrets.
    Web { url: Url, is_hub: bool },
    /// An object, or a folder if the path is empty or ends with a slash. `bucket` is
    /// `scheme://bucket`.
    Store { bucket: Url, path: String },
}

impl std::fmt::Debug for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Web { url, .. } => f.write_str(&without_secrets(url.as_str())),
            Self::Store { bucket, path } => write!(f, "{bucket}/{path}"),
        }
    }
}

/// Returns whether a name starts like that of a remote source.
pub(crate) fn is_elsewhere(argument: &str) -> bool {
    scheme(argument).is_some_and(|scheme| {
        is_store(&scheme) || ["http", "https", "hf"].contains(&scheme.as_str())
    })
}

/// Returns whether the files of a source can be listed, as wildcards require.
pub(crate) fn has_lists(argument: &str) -> bool {
    scheme(argument).is_some_and(|scheme| is_store(&scheme))
}

fn scheme(argument: &str) -> Option<String> {
    argument.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase())
}

fn is_store(scheme: &str) -> bool {
    STORES.contains(&scheme)
}

impl Address {
    /// Parses a name without braces and wildcards. The error is a message.
    pub(crate) fn parse(argument: &str) -> Result<Self, String> {
        let (scheme, rest) = argument.split_once("://").ok_or("it has no scheme")?;
        match scheme.to_ascii_lowercase().as_str() {
            "hf" => hub(rest),
            "http" | "https" => web(argument),
            store => in_store(store, rest),
        }
    }

    /// Returns the last part of its path, which tells its kind.
    pub(crate) fn file_name(&self) -> &str {
        let path = match &self.place {
            Location::Web { url, .. } => url.path(),
            Location::Store { path, .. } => path,
        };
        path.rsplit('/').next().unwrap_or_default()
    }

    /// Returns the address of the request, or an error if it may hold a secret.
    pub(crate) fn url_to_allow(&self) -> Result<String, String> {
        match &self.place {
            Location::Web { url, .. }
                if url.query().is_some() || url.password().is_some() || url.username() != "" =>
            {
                Err(format!(
                    "{}: a job is kept with its arguments, so its sources have no user, no \
                     password and no query (?…)",
                    self.name
                ))
            }
            Location::Web { url, .. } => Ok(url.as_str().to_owned()),
            Location::Store { .. } => Ok(self.name.clone()),
        }
    }
}

fn web(argument: &str) -> Result<Address, String> {
    let mut url = Url::parse(argument).map_err(|error| format!("not a URL: {error}"))?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err("it has no host".into());
    }
    client::check(&url).map_err(|error| error.to_string())?;
    if url.path().contains('*') {
        return Err(
            "a web server has no list of its files, so * means nothing here. Name them in braces: \
             {00000..00099}.tar"
                .into(),
        );
    }
    url.set_fragment(None);
    let mut name = url.clone();
    // Fails only for URLs that cannot have a user, and these have none.
    let _ = name.set_username("");
    let _ = name.set_password(None);
    name.set_query(mark(&url).as_deref());
    Ok(Address { name: name.into(), place: Location::Web { url, is_hub: false } })
}

/// Returns a short hash of a query without its signature, or `None` if nothing else is in it.
///
/// Two files that differ in the query have two names. A URL that is signed again keeps its name.
fn mark(url: &Url) -> Option<String> {
    let told: Vec<String> = url
        .query_pairs()
        .filter(|(name, _)| {
            let name = name.to_lowercase();
            !SIGNATURE.contains(&name.as_str()) && !SECRET.iter().any(|word| name.contains(word))
        })
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if told.is_empty() {
        return None;
    }
    let hash = ContentHash::of(told.join("&").as_bytes());
    Some(format!("~{}", hex::encode(&hash.0[..MARK])))
}

/// Parses `datasets/OWNER/NAME[@REVISION]/PATH` of the Hugging Face Hub.
fn hub(rest: &str) -> Result<Address, String> {
    let wrong = || {
        "a file of the Hub is hf://datasets/OWNER/NAME/PATH or \
         hf://datasets/OWNER/NAME@REVISION/PATH"
            .to_owned()
    };
    let (owner, rest) =
        rest.strip_prefix("datasets/").and_then(|rest| rest.split_once('/')).ok_or_else(wrong)?;
    let at = rest.find(['/', '@']).ok_or_else(wrong)?;
    let (name, rest) = rest.split_at(at);
    let (revision, path) = match rest.strip_prefix('@') {
        None => ("main", &rest[1..]),
        Some(rest) => {
            // `refs/convert/parquet` and `refs/pr/3` are revisions with slashes.
            let slashes = if rest.starts_with("refs/") { 2 } else { 0 };
            let (end, _) = rest.match_indices('/').nth(slashes).ok_or_else(wrong)?;
            (&rest[..end], &rest[end + 1..])
        }
    };
    if [owner, name, revision, path].iter().any(|part| part.is_empty()) {
        return Err(wrong());
    }
    if path.contains(['*', '[']) {
        return Err("wildcards are not expanded on the Hub. Name its files in braces: \
                    train-{00000..00009}-of-00010.parquet"
            .into());
    }
    let endpoint = std::env::var("HF_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty());
    let endpoint = endpoint.as_deref().unwrap_or(HUB);
    let mut url = Url::parse(endpoint).map_err(|error| format!("HF_ENDPOINT: {error}"))?;
    url.path_segments_mut()
        .map_err(|()| format!("HF_ENDPOINT: {endpoint} is not an address of a web server"))?
        .pop_if_empty()
        .extend(["datasets", owner, name, "resolve", revision])
        .extend(path.split('/'));
    let shown = rest.strip_suffix('/').unwrap_or(rest);
    Ok(Address {
        name: format!("hf://datasets/{owner}/{name}{shown}"),
        place: Location::Web { url, is_hub: true },
    })
}

fn in_store(scheme: &str, rest: &str) -> Result<Address, String> {
    let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err("a bucket or container is missing".into());
    }
    let url = Url::parse(&format!("{scheme}://{bucket}"))
        .map_err(|error| format!("not a URL: {error}"))?;
    if url.password().is_some() {
        return Err("it has a password. Credentials come from the environment".into());
    }
    let inner = path.strip_suffix('/').unwrap_or(path);
    if inner.starts_with('/') {
        return Err("not a path of an object: it begins with a slash".into());
    }
    ObjectPath::parse(inner).map_err(|_| "not a path of an object".to_owned())?;
    let name = format!("{scheme}://{rest}");
    Ok(Address { name, place: Location::Store { bucket: url, path: path.to_owned() } })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(argument: &str) -> String {
        Address::parse(argument).unwrap().name
    }

    #[test]
    fn names_hold_no_secrets_and_stay_when_a_signature_changes() {
        let signed = "https://host/a.tar?X-Amz-Signature=ab12&X-Amz-Date=1&sig=zz&token=t";
        assert_eq!(name(signed), "https://host/a.tar");
        assert_eq!(name("https://me:secret@host/a.tar#x"), "https://host/a.tar");
        let (one, two) = (name("https://host/get?id=1&sig=a"), name("https://host/get?id=2"));
        assert_ne!(one, two);
        assert_eq!(one, name("https://host/get?id=1&sig=b"));
        assert!(one.starts_with("https://host/get?~") && !one.contains("id"));
        assert!(!format!("{:?}", Address::parse(signed).unwrap()).contains("ab12"));
        assert!(Address::parse("s3://key:secret@bucket/a").is_err());
    }

    #[test]
    fn files_of_the_hub_are_found_by_their_revision() {
        for (given, path) in [
            ("hf://datasets/o/n/a/b.tar", "/datasets/o/n/resolve/main/a/b.tar"),
            ("hf://datasets/o/n@v1/b.tar", "/datasets/o/n/resolve/v1/b.tar"),
            (
                "hf://datasets/o/n@refs/convert/parquet/d/0.parquet",
                "/datasets/o/n/resolve/refs%2Fconvert%2Fparquet/d/0.parquet",
            ),
            ("hf://datasets/o/n/a@b.tar", "/datasets/o/n/resolve/main/a@b.tar"),
        ] {
            let address = Address::parse(given).unwrap();
            let Location::Web { url, is_hub: true } = &address.place else { panic!("{given}") };
            assert_eq!(url.path(), path);
            assert_eq!(address.name, given);
        }
        for wrong in
            ["hf://o/n/a.tar", "hf://datasets/o/n", "hf://datasets/o/n@main", "hf://datasets/o//a"]
        {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn objects_are_named_as_they_are_and_no_path_climbs() {
        let address = Address::parse("S3://Bucket/a b/c#1?.tar").unwrap();
        assert_eq!(address.name, "s3://Bucket/a b/c#1?.tar");
        assert_eq!(address.file_name(), "c#1?.tar");
        for wrong in ["s3:///a", "s3://bucket/../a", "s3://bucket/a/../b", "s3://bucket//a"] {
            assert!(Address::parse(wrong).is_err(), "{wrong}");
        }
    }
}
