//! The configuration of `diptych serve`: where it listens, who may ask, what it may read, and how much at once.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config_data::resolve;
use crate::config_keys;
use crate::{PathRole, RemoteAccess, SchemaError};

/// The service. `diptych config --serve` prints this with all its defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServeConfig {
    /// State folder, which the service owns while it runs. Relative paths here are relative to this file.
    pub state: PathBuf,
    /// ADDRESS:PORT for HTTP and Flight SQL, or unix:PATH. Beyond loopback, `auth.tokens` and `tls` must be set.
    pub listen: String,
    /// Folders that jobs may read and write, beside the datasets. Nothing else is opened for a request, but what the state folder holds
    /// to be read. They should not contain the state folder.
    pub folders: Vec<PathBuf>,
    /// Datasets that can be looked at and asked by name.
    #[serde(rename = "dataset", skip_serializing_if = "Vec::is_empty")]
    pub datasets: Vec<ServedDataset>,
    pub remote: RemoteAccess,
    pub auth: AuthConfig,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsConfig>,
    pub http: HttpConfig,
    pub sql: SqlLimits,
    pub jobs: JobsConfig,
}

/// A dataset under a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServedDataset {
    /// Letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
}

impl ServedDataset {
    /// Folders under names of their own: those of the folders, without characters that a name may not have.
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

/// Whether a dataset's name may have it.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

/// Who may ask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// File of tokens, as `diptych token` writes it. Without it, whoever reaches the address may do everything: loopback and
    /// Unix sockets only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<PathBuf>,
}

/// Certificate and key, PEM.
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
    /// Requests that are answered at once; more are told to come again (503).
    pub concurrent: usize,
    /// Part of `concurrent` that one client may have, and of the connections: its token, or where none is asked for, its address.
    /// Above 0, up to 1.
    pub client_share: f64,
    /// Seconds until the headers of a request must be there; the connection is closed then.
    pub header_seconds: u64,
    /// Seconds until the body of a request must be there (408 then).
    pub body_seconds: u64,
}

impl HttpConfig {
    /// The part of `all` that one client may have, at least 1.
    pub fn share_of(&self, all: usize) -> usize {
        ((all as f64 * self.client_share) as usize).max(1)
    }
}

/// Limits of one query, by HTTP and by Flight SQL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SqlLimits {
    /// Memory of one query in MiB, before it goes to the disk or fails. What its functions make comes on top, up to 96 MiB.
    pub memory_mib: u64,
    /// Longest time of one query, in seconds.
    pub max_seconds: u64,
    /// Rows of an answer in JSON. Flight SQL streams, and so has no such limit.
    pub max_rows: u64,
    /// Queries at once; more are told to come again (429).
    pub concurrent: usize,
}

/// Jobs that run at once, and how often one that failed is tried again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JobsConfig {
    /// Jobs that run a model at once: train, embed, eval, and score with a model.
    pub model_slots: usize,
    /// Jobs on data at once: ingest, score, select, dedup, export.
    pub data_slots: usize,
    /// Tries of a job before it counts as failed.
    pub attempts: u32,
    /// Seconds before the second try; each further one waits four times as long, an hour at most.
    pub retry_seconds: u64,
    /// Seconds that jobs have to save what they did when the service is asked to leave.
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

/// Where the service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Listen {
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("listen: unix: wants the path of a socket after it".into()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| {
                format!("listen must be ADDRESS:PORT, as in 127.0.0.1:8723 or [::1]:8723, or unix:PATH, got {text:?}")
            }),
        }
    }

    /// Whether only this machine can reach it.
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

    /// Refuses what would be open to others, and limits that let nothing through.
    pub fn validate(&self) -> Result<(), String> {
        let check =
            |holds: bool, message: &str| if holds { Ok(()) } else { Err(message.to_owned()) };
        let listen = Listen::parse(&self.listen)?;
        if !listen.is_local() {
            let open = format!("listen = {:?} can be reached from other machines", self.listen);
            check(
                self.auth.tokens.is_some(),
                &format!(
                    "{open}: set auth.tokens (`diptych token` makes one), or listen on 127.0.0.1"
                ),
            )?;
            check(
                self.tls.is_some(),
                &format!(
                    "{open}, and tokens would cross the network in clear: set tls.certificate and tls.key"
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
                &format!("two datasets are called {:?}", dataset.name),
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

    /// Adds datasets under the names of their folders, or others where those are taken.
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

    /// All keys, as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self)
            .unwrap_or_else(|error| format!("# this configuration has no TOML form: {error}\n"))
    }
}

/// What a token allows; each allows what those before it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Look at everything: runs, datasets, SQL, search.
    Read,
    /// Give the service work and control it.
    Submit,
    /// Back up the state, read the configuration again.
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
                "[[dataset]]\nname = \"a\"\npath = \"d\"\n[[dataset]]\nname = \"a\"\npath = \"e\"\n",
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
