//! Settings for reading datasets in object stores and on web servers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Reading of datasets whose name is a URL (`s3://`, `gs://`, `az://`, `http://`, `https://`).
///
/// Credentials come from the environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`). The machine's own role
/// is used only with `DIPTYCH_INSTANCE_CREDENTIALS=true`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RemoteConfig {
    /// Folder of the cache. Default: `diptych/blocks` in the user's cache folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// Size of the cache in MiB; 0: no cache.
    pub cache_mib: u64,
    /// How many times a failed request is repeated, with growing pauses.
    pub retries: u32,
    /// Longest duration of a request with its body, in seconds.
    pub timeout_seconds: u64,
    /// More settings of the object store, named like its environment variables: `aws_endpoint =
    /// "http://minio:9000"`. Do not put secrets here, because a run stores its configuration.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

impl Default for RemoteConfig {
    fn default() -> Self {
        Self {
            cache: None,
            cache_mib: 16 << 10,
            retries: 10,
            timeout_seconds: 60,
            options: BTreeMap::new(),
        }
    }
}

impl RemoteConfig {
    pub(crate) fn validate(&self) -> Result<(), String> {
        if self.cache_mib != 0 && self.cache_mib < 64 {
            return Err(format!(
                "loader.remote.cache_mib must be 0 (no cache) or at least 64, got {}",
                self.cache_mib
            ));
        }
        if self.timeout_seconds == 0 {
            return Err("loader.remote.timeout_seconds must be at least 1".into());
        }
        if self.retries > 100 {
            return Err(format!("loader.remote.retries must be at most 100, got {}", self.retries));
        }
        let secret = |name: &&String| {
            let name = name.to_lowercase();
            ["secret", "token", "password", "private_key", "access_key", "account_key", "sas"]
                .iter()
                .any(|word| name.contains(word))
        };
        if let Some(name) = self.options.keys().find(secret) {
            return Err(format!(
                "loader.remote.options: {name} looks like a secret, and a run stores its \
                 configuration. Set it in the environment instead"
            ));
        }
        Ok(())
    }

    /// Refuses options that a request may not set: those that name a file, a host or credentials.
    /// Only the environment of the service may set these.
    pub fn check_request(&self) -> Result<(), String> {
        for (name, value) in &self.options {
            if !REQUESTABLE.contains(&name.to_lowercase().as_str()) {
                return Err(format!(
                    "loader.remote.options: a request cannot set {name}; it can set {}. Set others \
                     in the environment of the service",
                    REQUESTABLE.join(", ")
                ));
            }
            // A region becomes part of a host's name.
            if value.is_empty() || !value.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
                return Err(format!(
                    "loader.remote.options: {name} must be letters, digits or '-', got {value:?}"
                ));
            }
        }
        Ok(())
    }
}

/// Options of object stores that a request may set.
const REQUESTABLE: [&str; 5] = [
    "aws_region",
    "aws_default_region",
    "aws_skip_signature",
    "google_skip_signature",
    "azure_skip_signature",
];

/// Schemes of URLs that datasets are read from.
const SCHEMES: [&str; 10] =
    ["s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss", "http", "https"];

/// Returns whether a dataset's name is a URL. Any other name with `://` in it is a path.
pub fn is_url(name: &Path) -> bool {
    let scheme = name.to_str().and_then(|name| name.split_once("://")).map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| SCHEMES.iter().any(|known| known.eq_ignore_ascii_case(scheme)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TrainConfig;

    #[test]
    fn urls_are_told_from_folders_and_stay_as_they_are() {
        for url in
            ["s3://bucket/data", "http://127.0.0.1:9000/x", "abfss://c@a.dfs.core.windows.net/d"]
        {
            assert!(is_url(Path::new(url)));
            let text = format!(
                "name = \"a\"\n[data]\ndataset = \"{url}\"\nselection = \"s\"\n[model]\nconfig = \
                 \"demo\"\n"
            );
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("run.toml");
            crate::durable::write(&path, text.as_bytes()).unwrap();
            let config = TrainConfig::read(&path).unwrap();
            assert_eq!(config.data.dataset, Some(url.into()));
            assert_eq!(config.data.selection, Some(folder.path().join("s")));
        }
        for folder in ["data", "/a/b", "C:/x", "a://../x", "file:///etc", " s3://b", "./s3://b", ""]
        {
            assert!(!is_url(Path::new(folder)), "{folder}");
        }
    }

    #[test]
    fn a_request_may_set_few_options_and_none_that_names_a_file_or_a_host() {
        let with = |name: &str, value: &str| {
            let options = [(name.to_owned(), value.to_owned())].into();
            RemoteConfig { options, ..RemoteConfig::default() }.check_request()
        };
        with("AWS_REGION", "eu-central-1").unwrap();
        with("google_skip_signature", "true").unwrap();
        for (name, value) in [
            ("google_service_account_path", "/etc/passwd"),
            ("google_service_account", "/etc/passwd"),
            ("aws_endpoint", "http://169.254.169.254"),
            ("aws_metadata_endpoint", "http://127.0.0.1"),
            ("azure_storage_account_name", "evil"),
            ("aws_virtual_hosted_style_request", "true"),
            ("proxy_url", "http://127.0.0.1"),
            ("aws_region", "evil.example/"),
            ("aws_region", ""),
        ] {
            assert!(with(name, value).is_err(), "{name} = {value}");
        }
    }

    #[test]
    fn secrets_do_not_go_into_a_configuration() {
        let with = |name: &str| RemoteConfig {
            options: [(name.to_owned(), "x".to_owned())].into(),
            ..RemoteConfig::default()
        };
        assert!(with("aws_secret_access_key").validate().unwrap_err().contains("environment"));
        with("aws_endpoint").validate().unwrap();
    }
}
