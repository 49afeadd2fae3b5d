//! Facts about this machine: memory, cores and GPUs. Reads files of Linux and asks `nvidia-smi`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// `nvidia-smi` hangs with some broken drivers. It answers within a second otherwise.
const GPU_ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Memory in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) total: u64,
    pub(crate) available: u64,
    /// Limit of the control group (container, systemd unit, Slurm job).
    pub(crate) limit: Option<u64>,
}

impl Memory {
    /// Returns the bytes that a new process can use.
    pub(crate) fn usable(&self) -> u64 {
        self.limit.map_or(self.available, |limit| limit.min(self.available))
    }
}

/// A GPU, as its driver describes it.
#[derive(Clone, Debug)]
pub(crate) struct Gpu {
    pub(crate) name: String,
    /// In bytes.
    pub(crate) memory: u64,
    pub(crate) driver: String,
}

/// Reads the memory of the machine. Returns `None` where the system does not say it.
pub(crate) fn memory() -> Option<Memory> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kib = |key: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    Some(Memory {
        total: kib("MemTotal:")? << 10,
        available: kib("MemAvailable:")? << 10,
        limit: memory_limit(),
    })
}

/// Returns the smallest memory limit of the control group and those around it.
fn memory_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default();
    let root = Path::new("/sys/fs/cgroup");
    let of_version_2 = root.join(own);
    let around = of_version_2.ancestors().take_while(|folder| folder.starts_with(root));
    let files = around.map(|folder| folder.join("memory.max"));
    let of_version_1 = root.join("memory/memory.limit_in_bytes");
    let limits = files.chain([of_version_1]).filter_map(|file| {
        // "max" is no number, and version 1 writes an absurd one where there is no limit.
        let limit: u64 = std::fs::read_to_string(file).ok()?.trim().parse().ok()?;
        (limit < 1 << 60).then_some(limit)
    });
    limits.min()
}

/// Returns the number of processors of the machine, also those that this process may not use.
pub(crate) fn processors() -> Option<usize> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    let count = |range: &str| -> Option<usize> {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(last.trim().parse::<usize>().ok()? + 1 - first.trim().parse::<usize>().ok()?)
    };
    text.split(',').map(count).sum()
}

/// Returns the processors that this process may use, by its affinity and its control group.
pub(crate) fn usable_processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Asks the driver for its GPUs. The error says why there are none.
pub(crate) fn gpus() -> Result<Vec<Gpu>, String> {
    let (sender, answer) = mpsc::channel();
    std::thread::spawn(move || {
        let query =
            ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"];
        let output = Command::new("nvidia-smi").args(query).stdin(Stdio::null()).output();
        // Nobody listens any more after the time is over.
        let _ = sender.send(output);
    });
    let output = match answer.recv_timeout(GPU_ANSWERS_WITHIN) {
        Err(_) => return Err("nvidia-smi does not answer".into()),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(if Path::new("/dev/nvidiactl").exists() {
                "/dev/nvidiactl is there, but nvidia-smi is not installed".into()
            } else {
                "no NVIDIA driver".into()
            });
        }
        Ok(Err(error)) => return Err(format!("nvidia-smi: {error}")),
        Ok(Ok(output)) => output,
    };
    if !output.status.success() {
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        return Err(format!("nvidia-smi: {}", text.lines().next().unwrap_or("failed")));
    }
    Ok(parse_gpus(&String::from_utf8_lossy(&output.stdout)))
}

/// Parses lines such as `NVIDIA H200, 143771, 575.57.08`, with the memory in MiB.
fn parse_gpus(text: &str) -> Vec<Gpu> {
    let gpu = |line: &str| {
        let mut fields = line.split(',').map(str::trim);
        let (name, memory, driver) = (fields.next()?, fields.next()?, fields.next()?);
        let memory = memory.parse::<u64>().ok()? << 20;
        Some(Gpu { name: name.to_owned(), memory, driver: driver.to_owned() })
    };
    text.lines().filter_map(gpu).collect()
}

/// Returns the folder for caches of this user.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    let named = std::env::var_os("XDG_CACHE_HOME").filter(|folder| !folder.is_empty());
    let folder = named.map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".cache")))?;
    Some(folder.join("diptych"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_are_parsed_and_other_lines_are_not() {
        let gpus = parse_gpus("NVIDIA H200, 143771, 575.57.08\nNo devices were found\n");
        assert_eq!(gpus.len(), 1);
        assert_eq!((gpus[0].name.as_str(), gpus[0].memory >> 20), ("NVIDIA H200", 143_771));
        assert_eq!(gpus[0].driver, "575.57.08");
    }

    #[test]
    fn memory_and_processors_of_this_machine_are_plausible() {
        let memory = memory().unwrap();
        assert!(memory.available <= memory.total && memory.usable() <= memory.available);
        assert!(processors().unwrap() >= 1 && usable_processors() >= 1);
    }
}
