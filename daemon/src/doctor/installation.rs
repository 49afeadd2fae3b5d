//! The installation, checked: libraries, devices, memory, disks and limits. Each check says what it
//! found, and what to do where that is not good.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use diptych_trainer::{CudaLibraries, gpu_count, libtorch_folder, open_cuda_libraries};
use rustix::process::{Resource, getrlimit};
use serde::Serialize;

use crate::system::{Gpu, cache_folder, gpus, memory, processors, usable_processors};

const GIB: f64 = (1_u64 << 30) as f64;
/// Free space of a disk in GiB below which a check is bad, and below which it warns.
const DISK: (f64, f64) = (1.0, 10.0);
/// Usable memory in GiB below which a check is bad, and below which it warns.
const MEMORY: (f64, f64) = (0.5, 2.0);
/// Open files below which large datasets meet the limit.
const OPEN_FILES: u64 = 4096;
/// How far behind the binary's own date a clock may be: time zones of file systems.
const CLOCK_BEHIND: Duration = Duration::from_hours(26);

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Ok,
    /// Works, but may be slow or fail later.
    Warn,
    /// Something does not work.
    Bad,
}

impl Verdict {
    /// Returns its name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Bad => "bad",
        }
    }
}

/// A check of the installation.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub verdict: Verdict,
    /// The finding in one line.
    pub found: String,
    /// The next step, if the verdict is not `Ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), advice: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, found: found.into(), advice: Some(advice.into()) }
    }

    fn bad(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Bad, ..Self::warn(name, found, advice) }
    }

    /// Judges an amount in GiB by the amounts below which it is bad or warns.
    fn of_amount(
        name: &'static str,
        gib: f64,
        (bad, warn): (f64, f64),
        found: String,
        advice: &str,
    ) -> Self {
        if gib < bad {
            Self::bad(name, found, advice)
        } else if gib < warn {
            Self::warn(name, found, advice)
        } else {
            Self::ok(name, found)
        }
    }
}

/// Runs all checks. Takes about a second.
pub fn check_installation() -> Vec<Check> {
    let mut checks = vec![libtorch()];
    if checks[0].verdict == Verdict::Ok {
        checks.push(cuda(&gpus()));
    }
    checks.extend([threads(), memory_check()]);
    checks.extend(disks());
    checks.extend([open_files(), certificates(), landlock(), locale(), clock()]);
    checks
}

fn libtorch() -> Check {
    const NAME: &str = "libtorch";
    if let Err(error) = diptych_trainer::open_libtorch() {
        return Check::bad(
            NAME,
            error.to_string(),
            "install diptych again with its libraries, or run `make setup` where it was built. \
             Without libtorch only data verbs work",
        );
    }
    let folder = libtorch_folder();
    let place = folder.as_ref().map_or_else(|| "?".into(), |f| f.display().to_string());
    Check::ok(NAME, format!("{} from {place}", version(folder.as_deref())))
}

/// The version that a libtorch says of itself, or the one that this binary is made for.
fn version(folder: Option<&Path>) -> String {
    let file = folder.and_then(Path::parent).map(|root| root.join("build-version"));
    let own = file.and_then(|file| std::fs::read_to_string(file).ok());
    own.map_or_else(|| diptych_trainer::LIBTORCH.to_owned(), |text| text.trim().to_owned())
}

fn cuda(gpus: &Result<Vec<Gpu>, String>) -> Check {
    const NAME: &str = "CUDA";
    let libraries = open_cuda_libraries();
    let seen = gpu_count();
    match (gpus, libraries) {
        (Ok(gpus), _) if seen > 0 => {
            let names: Vec<String> = gpus
                .iter()
                .map(|gpu| format!("{} ({:.0} GiB)", gpu.name, gpu.memory as f64 / GIB))
                .collect();
            let driver = gpus.first().map_or("", |gpu| gpu.driver.as_str());
            Check::ok(NAME, format!("{seen} GPUs: {}, driver {driver}", names.join(", ")))
        }
        (Err(_), _) if seen > 0 => Check::ok(NAME, format!("{seen} GPUs")),
        (Err(reason), _) if reason == "no NVIDIA driver" => {
            Check::ok(NAME, format!("not used: {reason}. Models run on the CPU"))
        }
        (Err(reason), _) => Check::warn(
            NAME,
            reason.as_str(),
            "repair the NVIDIA driver: `nvidia-smi` must list the GPU. Until then models run on \
             the CPU",
        ),
        (Ok(gpus), _) if gpus.is_empty() => {
            Check::ok(NAME, "not used: the driver sees no GPU. Models run on the CPU")
        }
        (Ok(_), CudaLibraries::NotFound) => Check::warn(
            NAME,
            libraries.to_string(),
            "run `make setup` on this machine, which fetches them, or name their folder in \
             LD_LIBRARY_PATH. Until then models run on the CPU",
        ),
        (Ok(_), CudaLibraries::Failed { .. }) => Check::warn(
            NAME,
            libraries.to_string(),
            "update the NVIDIA driver, or repair the library. Until then models run on the CPU",
        ),
        (Ok(_), CudaLibraries::Opened(_)) => Check::warn(
            NAME,
            "the driver lists GPUs, but libtorch sees none",
            "look at CUDA_VISIBLE_DEVICES, and at the permissions of /dev/nvidia*; a driver of \
             CUDA \
             13 or later is needed",
        ),
    }
}

fn threads() -> Check {
    const NAME: &str = "processors";
    let usable = usable_processors();
    match processors() {
        Some(all) if all > usable => {
            Check::ok(NAME, format!("{usable} of {all} (limited by affinity or control group)"))
        }
        _ => Check::ok(NAME, usable.to_string()),
    }
}

fn memory_check() -> Check {
    const NAME: &str = "memory";
    let Some(memory) = memory() else {
        return Check::ok(NAME, "unknown: /proc/meminfo cannot be read");
    };
    let gib = |bytes: u64| bytes as f64 / GIB;
    let limit = memory.limit.map_or_else(String::new, |limit| {
        format!(", limit of the control group {:.1} GiB", gib(limit))
    });
    let found = format!(
        "{:.1} GiB available of {:.1} GiB{limit}",
        gib(memory.available),
        gib(memory.total)
    );
    let advice = "close other programs, or raise the limit (MemoryMax= of a unit, --memory of a \
                  container); train.micro_batch_size lowers what a run needs";
    Check::of_amount(NAME, gib(memory.usable()), MEMORY, found, advice)
}

/// Checks the disks of this folder, of the cache and of temporary files, each disk once.
fn disks() -> Vec<Check> {
    let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
    let mut disks: Vec<(u64, PathBuf, Vec<&str>)> = Vec::new();
    for (use_of, folder) in [
        ("this folder", Some(here)),
        ("the cache", cache_folder()),
        ("temporary files", Some(std::env::temp_dir())),
    ] {
        let Some(folder) = folder else { continue };
        let existing = folder.ancestors().find(|folder| folder.exists());
        let existing = existing.unwrap_or(Path::new("/")).to_owned();
        let number = existing.metadata().map_or(0, |folder| folder.dev());
        match disks.iter_mut().find(|(known, ..)| *known == number) {
            Some((.., uses)) => uses.push(use_of),
            None => disks.push((number, existing, vec![use_of])),
        }
    }
    disks.iter().map(|(_, folder, uses)| disk(folder, &uses.join(", "))).collect()
}

fn disk(folder: &Path, uses: &str) -> Check {
    let name = "disk";
    match rustix::fs::statvfs(folder) {
        Err(error) => Check::bad(
            name,
            format!("{}: {error}", folder.display()),
            "make the folder, or repair its permissions",
        ),
        Ok(disk) => {
            let gib = (disk.f_bavail * disk.f_frsize) as f64 / GIB;
            let found = format!("{gib:.1} GiB free at {}, for {uses}", folder.display());
            let advice = "make room there: datasets, checkpoints and temporary files of sorts need \
                          it";
            Check::of_amount(name, gib, DISK, found, advice)
        }
    }
}

fn open_files() -> Check {
    const NAME: &str = "open files";
    let limit = getrlimit(Resource::Nofile);
    match limit.current {
        Some(most) if most < OPEN_FILES => Check::warn(
            NAME,
            format!("at most {most}"),
            "raise the hard limit: `ulimit -Hn 65536`, or LimitNOFILE=65536 of the unit",
        ),
        Some(most) => Check::ok(NAME, format!("at most {most}")),
        None => Check::ok(NAME, "no limit"),
    }
}

/// Where systems keep the certificates of authorities, as rustls-native-certs looks for them.
const CERTIFICATES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
    "/etc/pki/tls/cert.pem",
];

fn certificates() -> Check {
    const NAME: &str = "certificates";
    let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let files = named.map_or_else(|| CERTIFICATES.map(PathBuf::from).to_vec(), |file| vec![file]);
    let found = files.iter().find_map(|file| {
        let text = std::fs::read_to_string(file).ok()?;
        let count = text.matches("-----BEGIN CERTIFICATE-----").count();
        (count > 0).then(|| format!("{count} authorities in {}", file.display()))
    });
    match found {
        Some(found) => Check::ok(NAME, found),
        None => Check::warn(
            NAME,
            format!("none in {}", files[0].display()),
            "install the package ca-certificates, or name a file of certificates in SSL_CERT_FILE. \
             Without them https:// and s3:// fail",
        ),
    }
}

fn landlock() -> Check {
    const NAME: &str = "Landlock";
    if diptych_serve::can_confine() {
        Check::ok(NAME, "the kernel can confine the jobs of a service to their folders")
    } else {
        Check::warn(
            NAME,
            "this kernel or container does not offer it",
            "only `diptych serve` uses it, to confine jobs to their folders. Enable it with a \
             kernel from 5.13 and lsm=landlock,…, or run jobs of trusted users only",
        )
    }
}

fn locale() -> Check {
    const NAME: &str = "locale";
    let variables = ["LC_ALL", "LC_CTYPE", "LANG"];
    let set = variables.iter().find_map(|name| {
        let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
        Some((*name, value))
    });
    let is_unicode = |value: &str| value.to_lowercase().replace('-', "").contains("utf8");
    match set {
        Some((name, value)) if is_unicode(&value) => Check::ok(NAME, format!("{name}={value}")),
        Some((name, value)) => Check::warn(
            NAME,
            format!("{name}={value} is not UTF-8"),
            "files are right, but captions may look wrong in the terminal: set LC_ALL=C.UTF-8",
        ),
        None => Check::ok(NAME, "not set; files and output are UTF-8"),
    }
}

fn clock() -> Check {
    const NAME: &str = "clock";
    let zone = std::env::var("TZ").ok().filter(|zone| !zone.is_empty()).or_else(|| {
        let link = std::fs::read_link("/etc/localtime").ok()?;
        let text = link.to_string_lossy().into_owned();
        Some(text.split_once("zoneinfo/")?.1.to_owned())
    });
    let zone = zone.unwrap_or_else(|| "UTC".into());
    let built = std::env::current_exe().ok().and_then(|exe| exe.metadata().ok()?.modified().ok());
    let now = SystemTime::now();
    if built.is_some_and(|built| now + CLOCK_BEHIND < built) {
        return Check::bad(
            NAME,
            "it is behind the date of this binary",
            "set it (`timedatectl set-ntp true`): TLS certificates and file dates depend on it",
        );
    }
    Check::ok(NAME, format!("after the date of this binary; time zone {zone}"))
}
