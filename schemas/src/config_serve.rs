//! The configuration of `diptych serve`: its address, its access rules, its data and its limits.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config_data::resolve;
use crate::config_keys;
use crate::{PathRole, RemoteAccess, SchemaError};

/// The service. `diptych config --serve` prints one with all its defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServeConfig {
    /// State folder, which the service owns while it runs. Relative paths in this file are relative
    /// to its folder.
    pub state: PathBuf,
    /// ADDRESS:PORT for HTTP and Flight SQL, or unix:PATH. Addresses other than loopback require
    /// `auth.tokens` and `tls`.
    pub listen: String,
    /// Folders that jobs may read and write, in addition to the datasets. Requests can open nothing
    /// else, except readable parts of the state folder. These folders should not contain the state
    /// folder.
    pub folders: Vec<PathBuf>,
    /// Datasets that can be viewed and queried by name.
    #[serde(rename = "dataset", skip_serializing_if = "Vec::is_empty")]
    pub datasets: Vec<ServedDataset>,
    pub remote: RemoteAccess,
    pub auth: AuthConfig,
    /// Certificate and key of HTTPS. Without them, the service speaks HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    pub http: HttpConfig,
    pub sql: SqlLimits,
    pub jobs: JobsConfig,
}

/// A dataset with the name under which it is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServedDataset {
    /// Letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
}

impl ServedDataset {
    /// Gives each folder a unique name: the folder's own, with invalid characters replaced.
    pub fn named(folders: &[PathBuf]) -> Vec<Self> {
        let mut named: Vec<Self> = Vec::new();
        for path in folders {
            let of_folder = path.file_name().unwrap_or_default().to_string_lossy();
            let plain: String =
                of_folder.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
            let base = if plain.is_empty() { "dataset".into() } else { plain };
            let free = |name: &String| named.iter().all(|other| other.name != *name);
            let numbered = (2_u64..).map(|number| format!("{base}-{number}"));
            if let Some(name) = std::iter::once(base.clone()).chain(numbered).find(free) {
                named.push(Self { name, path: path.clone() });
            }
        }
        named
    }
}

/// Returns whether a character is allowed in a dataset's name.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// Access control.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// File of tokens, as `diptych token` writes it. Without it, everyone who reaches the address
    /// may do everything; only allowed on loopback and Unix sockets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<PathBuf>,
}

/// Certificate and key in PEM format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// File of the certificate and those that sign it, PEM.
    pub certificate: PathBuf,
    /// File of the private key, PEM.
    pub key: PathBuf,
}

/// Limits of HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Largest body of a request in MiB.
    pub max_body_mib: u64,
    /// Requests that are answered at the same time; further ones get status 503.
    pub concurrent: usize,
    /// Share of `concurrent`, and of the connections, that one client may use. A client is a token
    /// or, without tokens, an address. Above 0, at most 1.
    pub client_share: f64,
    /// Seconds in which the headers of a request must arrive; then the connection is closed.
    pub header_seconds: u64,
    /// Seconds in which the body of a request must arrive; then the answer is status 408.
    pub body_seconds: u64,
}

impl HttpConfig {
    /// Returns the share of `all` that one client may use, at least 1.
    pub fn share_of(&self, all: usize) -> usize {
        ((all as f64 * self.client_share) as usize).max(1)
    }
}

/// Limits of one query, over HTTP or Flight SQL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SqlLimits {
    /// Memory of one query in MiB, above which it spills to disk or fails. Results of its functions
    /// come on top, up to 96 MiB.
    pub memory_mib: u64,
    /// Longest time of one query, in seconds.
    pub max_seconds: u64,
    /// Rows of a JSON answer. Flight SQL streams its rows and has no such limit.
    pub max_rows: u64,
    /// Queries at the same time; further ones get status 429.
    pub concurrent: usize,
}

/// Limits of jobs: how many run at once, and how often a failed one is repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JobsConfig {
    /// Jobs that run a model at the same time: train, embed, eval, and score with a model.
    pub model_slots: usize,
    /// Jobs on data at the same time: ingest, score, select, dedup, export.
    pub data_slots: usize,
    /// Attempts of a job before it counts as failed.
    pub attempts: u32,
    /// Seconds before the second attempt. Each further pause is four times as long, at most an
    /// hour.
    pub retry_seconds: u64,
    /// Seconds that jobs get to save their work when the service stops.
    pub stop_seconds: u64,
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            state: PathBuf::from("state"),
            listen: "127.0.0.1:8723".into(),
            folders: Vec::new(),
            datasets: Vec::new(),
            remote: RemoteAccess::default(),
            auth: AuthConfig::default(),
            tls: None,
            http: HttpConfig::default(),
            sql: SqlLimits::default(),
            jobs: JobsConfig::default(),
        }
    }
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            max_body_mib: 16,
            concurrent: 256,
            client_share: 0.25,
            header_seconds: 30,
            body_seconds: 30,
        }
    }
}

impl Default for SqlLimits {
    fn default() -> Self {
        Self { memory_mib: 1024, max_seconds: 60, max_rows: 10_000, concurrent: 8 }
    }
}

impl Default for JobsConfig {
    fn default() -> Self {
        Self { model_slots: 1, data_slots: 1, attempts: 3, retry_seconds: 30, stop_seconds: 120 }
    }
}

/// The address on which the service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Listen {
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("listen: unix: must be followed by the path of a socket".into()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| {
                format!(
                    "listen must be ADDRESS:PORT, as in 127.0.0.1:8723 or [::1]:8723, or \
                     unix:PATH, got {text:?}"
                )
            }),
        }
    }

    /// Returns whether only this machine can reach the address.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl ServeConfig {
    /// Reads and checks a file. Relative paths in it become relative to the file's folder.
    pub fn read(path: &Path) -> Result<Self, SchemaError> {
        let text = std::fs::read_to_string(path).map_err(SchemaError::io(path))?;
        let bad = |message| SchemaError::Config { path: path.to_owned(), message };
        let mut config: Self = config_keys::parse(&text).map_err(bad)?;
        config.resolve_paths(path.parent().unwrap_or_else(|| Path::new("")));
        config.validate().map_err(bad)?;
        Ok(config)
    }

    fn resolve_paths(&mut self, folder: &Path) {
        if let Some(socket) = self.listen.strip_prefix("unix:").filter(|socket| !socket.is_empty())
        {
            self.listen = format!("unix:{}", folder.join(socket).display());
        }
        let tls = self.tls.iter_mut().flat_map(|tls| [&mut tls.certificate, &mut tls.key]);
        for dataset in &mut self.datasets {
            dataset.path = resolve(PathRole::Dataset, &dataset.path, folder);
        }
        self.folders
            .iter_mut()
            .chain([&mut self.state])
            .chain(self.auth.tokens.as_mut())
            .chain(tls)
            .for_each(|path| *path = folder.join(&*path));
    }

    /// Refuses settings that would leave the service open to others, and limits that let nothing
    /// through.
    pub fn validate(&self) -> Result<(), String> {
        let check =
            |holds: bool, message: &str| if holds { Ok(()) } else { Err(message.to_owned()) };
        let listen = Listen::parse(&self.listen)?;
        if !listen.is_local() {
            let open = format!("listen = {:?} can be reached from other machines", self.listen);
            check(
                self.auth.tokens.is_some(),
                &format!(
                    "{open}: set auth.tokens (`diptych token` makes the file), or listen on \
                     127.0.0.1"
                ),
            )?;
            check(
                self.tls.is_some(),
                &format!(
                    "{open}, and tokens would cross the network unencrypted: set tls.certificate \
                     and tls.key"
                ),
            )?;
        }
        for (number, dataset) in self.datasets.iter().enumerate() {
            check(
                !dataset.name.is_empty() && dataset.name.chars().all(is_plain),
                &format!(
                    "dataset.name must be letters, digits, '-', '_' or '.', got {:?}",
                    dataset.name
                ),
            )?;
            check(
                self.datasets[..number].iter().all(|other| other.name != dataset.name),
                &format!("two datasets are called {:?}: rename one of them", dataset.name),
            )?;
        }
        self.remote.prefixes()?;
        check(self.http.max_body_mib >= 1, "http.max_body_mib must be at least 1")?;
        check(self.http.concurrent >= 1, "http.concurrent must be at least 1")?;
        check(
            self.http.client_share > 0.0 && self.http.client_share <= 1.0,
            "http.client_share must be above 0 and up to 1",
        )?;
        check(
            self.http.header_seconds >= 1 && self.http.body_seconds >= 1,
            "http.header_seconds and http.body_seconds must be at least 1",
        )?;
        check(
            self.sql.memory_mib >= 64,
            "sql.memory_mib must be at least 64: below it even small sorts fail",
        )?;
        check(self.sql.max_seconds >= 1, "sql.max_seconds must be at least 1")?;
        check(self.sql.max_rows >= 1, "sql.max_rows must be at least 1")?;
        check(self.sql.concurrent >= 1, "sql.concurrent must be at least 1")?;
        check(
            self.jobs.model_slots >= 1 && self.jobs.data_slots >= 1,
            "jobs.model_slots and jobs.data_slots must be at least 1",
        )?;
        check(self.jobs.attempts >= 1, "jobs.attempts must be at least 1")
    }

    /// Adds datasets under the names of their folders, or under similar names if those are taken.
    pub fn add_datasets(&mut self, folders: &[PathBuf]) {
        let known = self.datasets.iter().map(|dataset| dataset.path.clone());
        let new =
            folders.iter().filter(|path| self.datasets.iter().all(|known| known.path != **path));
        let all: Vec<PathBuf> = known.chain(new.cloned()).collect();
        for added in ServedDataset::named(&all).split_off(self.datasets.len()) {
            let mut name = added.name.clone();
            while self.datasets.iter().any(|dataset| dataset.name == name) {
                name.push('_');
            }
            self.datasets.push(ServedDataset { name, ..added });
        }
    }

    /// Returns all keys as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self)
            .unwrap_or_else(|error| format!("# this configuration has no TOML form: {error}\n"))
    }
}

/// The permission of a token. Each scope includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// View everything: runs, datasets, SQL, search.
    Read,
    /// Submit and control jobs.
    Submit,
    /// Back up the state and reload the configuration.
    Admin,
}

impl Scope {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Admin => "admin",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<ServeConfig, String> {
        let config = config_keys::parse::<ServeConfig>(text)?;
        config.validate().map(|()| config)
    }

    #[test]
    fn what_others_can_reach_wants_tokens_and_tls() {
        assert!(checked("").is_ok());
        assert!(checked("listen = \"[::1]:80\"\n").is_ok());
        assert!(checked("listen = \"unix:/run/diptych/diptych.sock\"\n").is_ok());
        assert!(checked("listen = \"0.0.0.0:8723\"\n").unwrap_err().contains("auth.tokens"));
        let with_tokens = "listen = \"0.0.0.0:8723\"\n[auth]\ntokens = \"t\"\n";
        assert!(checked(with_tokens).unwrap_err().contains("tls.certificate"));
        assert!(
            checked(&format!("{with_tokens}[tls]\ncertificate = \"c\"\nkey = \"k\"\n")).is_ok()
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (text, says) in [
            ("listen = \"8723\"\n", "ADDRESS:PORT"),
            ("liste = \"a\"\n", "did you mean `listen`"),
            ("[[dataset]]\nname = \"a/b\"\npath = \"d\"\n", "dataset.name"),
            (
                "[[dataset]]\nname = \"a\"\npath = \"d\"\n[[dataset]]\nname = \"a\"\npath = \
                 \"e\"\n",
                "two datasets",
            ),
            ("[jobs]\nattempts = 0\n", "jobs.attempts"),
            ("[remote]\nallow = [\"data\"]\n", "remote.allow"),
            ("[http]\nclient_share = 0.0\n", "http.client_share"),
            ("[http]\nbody_seconds = 0\n", "http.body_seconds"),
        ] {
            let error = checked(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn added_datasets_have_names_of_their_own() {
        let mut config = ServeConfig::default();
        config.datasets.push(ServedDataset { name: "b".into(), path: "x/a".into() });
        config.add_datasets(&["y/b".into(), "z/b".into(), "ä b".into(), "/".into(), "x/a".into()]);
        config.validate().unwrap();
        let paths: Vec<_> = config.datasets.iter().map(|dataset| dataset.path.clone()).collect();
        assert_eq!(paths, ["x/a", "y/b", "z/b", "ä b", "/"].map(PathBuf::from));
    }

    #[test]
    fn defaults_are_what_is_printed() {
        assert_eq!(
            config_keys::parse::<ServeConfig>(&ServeConfig::default().to_toml()).unwrap(),
            ServeConfig::default()
        );
    }
}
