//! The files that the process of a job or of queries may open. The kernel (Landlock) enforces this,
//! whatever the process is made to do.
//!
//! The service passes the allowed files in an environment variable, and the process restricts
//! itself before it does anything else. Trainings and embeds run in the service's own process and
//! are not confined. Without Landlock in the kernel, nothing is confined.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use diptych_store::JobKind;
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError, Scope, path_beneath_rules,
};
use serde::{Deserialize, Serialize};

use crate::folders::Folders;

/// Environment variable with the files that a process may open.
pub(crate) const VARIABLE: &str = "DIPTYCH_CONFINEMENT";

/// Kinds of file access that are restricted, as far as the kernel knows them. These are those of
/// Linux 6.10; 5.13 has most of them.
const FILES: ABI = ABI::V5;
/// Restriction of signals and abstract sockets, available from Linux 6.12.
const SCOPES: ABI = ABI::V6;

/// Places of the system that a process needs: programs, libraries, name resolution, certificates,
/// devices. /etc is not listed as a whole, since the service's own key and tokens lie there.
const SYSTEM: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/proc",
    "/sys",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/passwd",
    "/etc/group",
    "/etc/localtime",
    "/etc/ssl/certs",
    "/etc/ssl/cert.pem",
    "/etc/ssl/openssl.cnf",
    "/etc/ca-certificates",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust",
    "/etc/crypto-policies",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/dev/random",
    "/dev/urandom",
];
/// Devices that may be written: sinks, and those of GPUs.
const DEVICES: [&str; 4] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/dri"];
const GPU: &str = "nvidia";
/// Prefixes of variables that name files with credentials and certificates.
const CREDENTIALS: [&str; 4] = ["AWS_", "GOOGLE_", "AZURE_", "SSL_CERT_"];

/// The files that a process may open, and folders with everything below them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Confinement {
    read: Vec<PathBuf>,
    /// May be read and written.
    write: Vec<PathBuf>,
}

impl Confinement {
    /// Returns the files that a job's process may open. Creates the folders that it writes, since
    /// only existing folders can be allowed.
    pub(crate) fn for_job(kind: JobKind, folders: &Folders) -> Self {
        let state = folders.state();
        let mut made: Vec<PathBuf> = folders.open().to_vec();
        if kind == JobKind::Eval {
            made.extend([state.join("cache/evaluations"), state.join("benchmarks")]);
        }
        let cache = cache_folder();
        // The cache also holds libraries, which no job may replace.
        made.extend(cache.iter().map(|cache| cache.join("blocks")));
        for folder in &made {
            // If this fails, the job reports what it cannot write.
            let _ = fs::create_dir_all(folder);
        }
        let mut read = system_files();
        read.extend(folders.readable_state());
        read.push(state.join("owner.json"));
        read.extend(cache);
        let mut write = made;
        write.extend(DEVICES.iter().map(PathBuf::from));
        write.extend(gpus());
        // A command that needs the store learns from the lock that the service has it.
        write.extend([std::env::temp_dir(), state.join("lock")]);
        Self { read, write }
    }

    /// Returns the files that a process for queries may open. It reads datasets, and writes only
    /// data that does not fit into its memory, to `spill`.
    pub(crate) fn for_queries(folders: &Folders, spill: &Path) -> Self {
        let mut read = system_files();
        read.extend(folders.open().iter().cloned());
        // Blocks of datasets in buckets are kept there.
        let blocks = cache_folder().map(|cache| cache.join("blocks"));
        if let Some(blocks) = &blocks {
            let _ = fs::create_dir_all(blocks);
        }
        let mut write: Vec<PathBuf> = DEVICES.iter().map(PathBuf::from).collect();
        write.extend(blocks);
        write.extend([spill.to_owned(), "/proc/self/oom_score_adj".into()]);
        Self { read, write }
    }

    /// Returns the value of the environment variable.
    pub(crate) fn to_variable(&self) -> anyhow::Result<String> {
        serde_json::to_string(self).context("cannot encode the files that a process may open")
    }

    /// Restricts this thread and those that it starts. Paths that do not exist are skipped.
    fn restrict(&self) -> Result<(), RulesetError> {
        Ruleset::default()
            .handle_access(AccessFs::from_all(FILES))?
            .scope(Scope::from_all(SCOPES))?
            .create()?
            .add_rules(path_beneath_rules(&self.read, AccessFs::from_read(FILES)))?
            .add_rules(path_beneath_rules(&self.write, AccessFs::from_all(FILES)))?
            .restrict_self()?;
        Ok(())
    }
}

/// Restricts this process to the files that its service allows, if it is the process of a job or of
/// queries. Call it before there is a second thread.
pub fn apply() -> anyhow::Result<()> {
    let Some(text) = std::env::var_os(VARIABLE) else { return Ok(()) };
    let confinement: Confinement = text
        .to_str()
        .context("it is not UTF-8")
        .and_then(|text| Ok(serde_json::from_str(text)?))
        .with_context(|| {
            format!(
                "the environment variable {VARIABLE}, which a service sets for \
             its processes, is invalid"
            )
        })?;
    confinement.restrict().context("cannot confine this process to the folders of its service")
}

/// Whether this kernel can confine processes.
pub fn can_confine() -> bool {
    Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(ABI::V1))
        .and_then(Ruleset::create)
        .is_ok()
}

/// Logs a warning at the start of the service if jobs cannot be confined completely.
pub(crate) fn say_what_is_open(folders: &Folders) {
    if !can_confine() {
        tracing::warn!(
            "this kernel has no Landlock, or the unit does not allow it: only the service's own \
             checks keep the processes of jobs in their folders"
        );
    } else if let Some(folder) = folders.around_the_state() {
        tracing::warn!(
            "{}, one of `folders`, contains the state folder: the kernel cannot keep the processes \
             of jobs from the store. Name folders that do not contain it",
            folder.display()
        );
    }
}

/// Returns the files that every process needs to read besides the data.
fn system_files() -> Vec<PathBuf> {
    let mut read: Vec<PathBuf> = SYSTEM.iter().map(PathBuf::from).collect();
    read.extend(libraries());
    read.extend(credentials());
    read
}

/// Returns the files of code that this process has opened, and the folders of libraries, whose
/// parts are opened on demand.
fn libraries() -> BTreeSet<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let named = maps.lines().filter_map(|line| Some(&line[line.find('/')?..]));
    // A file that was replaced by a newer one is opened by its name.
    let files = named.map(|name| PathBuf::from(name.strip_suffix(" (deleted)").unwrap_or(name)));
    let files: BTreeSet<PathBuf> = files.filter(|file| file.is_file()).collect();
    // The folder of the binary may contain anything else.
    let own = std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned));
    let is_library = |file: &&PathBuf| {
        file.file_name().is_some_and(|name| name.to_string_lossy().contains(".so"))
    };
    let folders = files.iter().filter(is_library).filter_map(|file| file.parent());
    let mut folders: Vec<PathBuf> =
        folders.filter(|folder| Some(*folder) != own.as_deref()).map(Path::to_owned).collect();
    // Libraries for a GPU may not be open yet. Those of PyTorch lie in packages next to it.
    let packages = folders.iter().filter(|folder| folder.ends_with("torch/lib"));
    let packages: Vec<PathBuf> = packages.map(|folder| folder.join("../../nvidia")).collect();
    folders.extend(packages);
    let path = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path).filter(|folder| folder.is_absolute()));
    files.into_iter().chain(folders).collect()
}

/// Returns the files that the environment names for access to remote stores.
fn credentials() -> Vec<PathBuf> {
    let named = std::env::vars_os().filter(|(name, _)| {
        CREDENTIALS.iter().any(|begins| name.to_string_lossy().starts_with(begins))
    });
    let default = std::env::home_dir().map(|home| home.join(".config/gcloud"));
    named
        .map(|(_, value)| PathBuf::from(value))
        .chain(default)
        .filter(|path| path.is_absolute())
        .collect()
}

fn gpus() -> Vec<PathBuf> {
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    let names = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(GPU));
    names.map(|entry| entry.path()).collect()
}

/// Returns the cache folder of this user.
fn cache_folder() -> Option<PathBuf> {
    let named = std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty());
    let folder = named
        .map(PathBuf::from)
        .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))?;
    Some(folder.join("diptych"))
}
