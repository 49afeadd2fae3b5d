//! The remote datasets that a request to the service may name.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::config_remote::is_url;

/// Datasets in object stores and on web servers that jobs may read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RemoteAccess {
    /// URL prefixes of the datasets that a job may name: `s3://bucket/sets`,
    /// `https://data.example.org/`. Empty: none. These servers are trusted, including the targets
    /// of their redirects.
    pub allow: Vec<String>,
}

impl RemoteAccess {
    /// Returns the allowed prefixes. The error names the one that is not valid.
    pub fn prefixes(&self) -> Result<Vec<RemotePrefix>, String> {
        let parsed = self.allow.iter().map(|text| RemotePrefix::parse(text));
        parsed.collect::<Result<_, _>>().map_err(|why| format!("remote.allow: {why}"))
    }
}

/// A URL below which everything is allowed. Compared by scheme, user, host, port and whole segments
/// of the path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemotePrefix {
    url: Url,
    segments: Vec<String>,
}

impl RemotePrefix {
    /// Parses `scheme://host[:port]/path`. In Azure's `abfss://container@account…`, the container
    /// takes the place of the user.
    pub fn parse(text: &str) -> Result<Self, String> {
        let url = parse(text)?;
        let mut segments = segments(&url)?;
        // `sets/` and `sets` name the same folder.
        segments.pop_if(|last| last.is_empty());
        Ok(Self { url, segments })
    }

    /// Returns whether a dataset's URL is this one or lies below it. The error says why a URL
    /// cannot be parsed.
    pub fn holds(&self, text: &str) -> Result<bool, String> {
        let url = parse(text)?;
        let place = |url: &Url| {
            (
                url.scheme().to_owned(),
                url.username().to_owned(),
                url.host_str().map(str::to_owned),
                url.port_or_known_default(),
            )
        };
        Ok(place(&url) == place(&self.url) && segments(&url)?.starts_with(&self.segments))
    }
}

impl fmt::Display for RemotePrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

fn parse(text: &str) -> Result<Url, String> {
    let bad = |why: &str| format!("{text:?}: {why}");
    if !is_url(text.as_ref()) {
        return Err(bad("not a URL with s3, gs, az, abfss, http or https"));
    }
    let url = Url::parse(text).map_err(|error| bad(&error.to_string()))?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err(bad("a host or bucket is missing"));
    }
    if url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err(bad("it must have no password, query or fragment"));
    }
    let with_container = matches!(url.scheme(), "abfs" | "abfss");
    if !with_container && !url.username().is_empty() {
        return Err(bad("it must have no user"));
    }
    Ok(url)
}

/// Returns the segments of the path, from which the parser has removed `.` and `..`. Escapes that a
/// reader would decode to dots or separators are refused.
fn segments(url: &Url) -> Result<Vec<String>, String> {
    let lower = url.path().to_lowercase();
    if ["%2e", "%2f", "%5c", "\\"].iter().any(|hidden| lower.contains(hidden)) {
        return Err(format!("{url}: write dots and separators unescaped"));
    }
    let path = url.path();
    Ok(path.strip_prefix('/').unwrap_or(path).split('/').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(prefix: &str, url: &str) -> bool {
        RemotePrefix::parse(prefix).unwrap().holds(url).unwrap_or(false)
    }

    #[test]
    fn a_prefix_holds_what_lies_beneath_it_by_whole_segments() {
        for (prefix, url) in [
            ("s3://bucket", "s3://bucket/any/where"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://bucket/sets", "s3://bucket/sets/"),
            ("s3://bucket/sets/", "s3://bucket/sets/a"),
            ("https://data.example.org/sets", "https://DATA.example.org:443/sets/a"),
            ("https://data.example.org/sets", "https://data.example.org/other/../sets/a"),
            ("abfss://c@a.dfs.core.windows.net/d", "abfss://c@a.dfs.core.windows.net/d/e"),
        ] {
            assert!(holds(prefix, url), "{prefix} {url}");
        }
    }

    #[test]
    fn nothing_beside_a_prefix_is_held() {
        for (prefix, url) in [
            ("s3://bucket/sets", "s3://bucket/sets-of-others"),
            ("s3://bucket/sets", "s3://bucket/sets/../other"),
            ("s3://bucket/sets", "s3://bucket/sets/%2e%2e/other"),
            ("s3://bucket/sets", "s3://bucket/sets/a%2f..%2f..%2fother"),
            ("s3://bucket/sets", "s3://bucket/sets/..%5cother"),
            ("s3://bucket/sets", "s3://bucket-2/sets/a"),
            ("s3://bucket/sets", "gs://bucket/sets/a"),
            ("s3://bucket/sets", "s3://bucket//sets/a"),
            ("https://data.example.org/", "https://data.example.org.evil.example/"),
            ("https://data.example.org/", "https://data.example.org@evil.example/"),
            ("https://data.example.org/", "https://me@data.example.org/"),
            ("https://data.example.org/", "http://data.example.org/"),
            ("https://data.example.org/", "https://data.example.org:8443/"),
            ("https://data.example.org/", "https://evil.example\\@data.example.org/"),
            ("http://127.0.0.1:9000/sets", "http://127.0.0.1:9000/sets/..\\other"),
            ("http://127.0.0.1:9000/sets", "http://127.0.0.1:9000/sets?x=1"),
            ("abfss://c@a.dfs.core.windows.net/", "abfss://other@a.dfs.core.windows.net/"),
        ] {
            assert!(!holds(prefix, url), "{prefix} {url}");
        }
    }

    #[test]
    fn what_is_no_prefix_is_refused_in_words() {
        for text in ["", "data", "ftp://host/", "s3://", "https://me:secret@host/", "s3://b/?a=1"] {
            let access = RemoteAccess { allow: vec![text.to_owned()] };
            let error = access.prefixes().unwrap_err();
            assert!(error.starts_with("remote.allow: "), "{error}");
        }
    }
}
