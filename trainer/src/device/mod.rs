//! Devices for tensors and the number of threads: `auto`, `cpu` or `cuda:N` in a configuration.
//!
//! A device that is named and does not exist is an error, never a silent fallback to the CPU.

pub(crate) mod shim;

use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::TrainerError;
use diptych_schemas::Precision;

/// A device that exists. It is opaque, so that only this crate names `tch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device(pub(crate) tch::Device);

impl Device {
    /// The CPU, which always exists.
    pub const CPU: Self = Self(tch::Device::Cpu);

    /// Parses `auto` (a GPU if there is one), `cpu`, `cuda` (the first GPU) or `cuda:N`.
    ///
    /// Returns an error that lists the GPUs found if the device does not exist.
    pub fn parse(text: &str) -> Result<Self, TrainerError> {
        open_libtorch()?;
        let state = open_cuda_libraries();
        let gpus = gpu_count();
        match text {
            "auto" if gpus > 0 => Ok(Self(tch::Device::Cuda(0))),
            "auto" | "cpu" => Ok(Self::CPU),
            _ => {
                let number = match text {
                    "cuda" => Some(0),
                    _ => text.strip_prefix("cuda:").and_then(|n| n.parse::<usize>().ok()),
                };
                let Some(number) = number else {
                    return Err(TrainerError::Device(format!(
                        "unknown device {text:?}; use auto, cpu, cuda or cuda:N"
                    )));
                };
                if number < gpus {
                    return Ok(Self(tch::Device::Cuda(number)));
                }
                let found = match gpus {
                    0 => "no GPU was found".to_owned(),
                    n => format!("GPUs 0 to {} were found", n - 1),
                };
                Err(TrainerError::Device(format!(
                    "device {text} does not exist: {found} ({state}). Use auto or cpu"
                )))
            }
        }
    }
}

/// Returns libtorch's name for the numbers that matrix products take.
pub(crate) fn kind_of(precision: Precision) -> tch::Kind {
    match precision {
        Precision::Fp32 => tch::Kind::Float,
        Precision::Bf16 => tch::Kind::BFloat16,
        Precision::Fp16 => tch::Kind::Half,
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            tch::Device::Cuda(number) => write!(f, "cuda:{number}"),
            _ => f.write_str("cpu"),
        }
    }
}

/// Opens libtorch, once per process. Takes about 0.2 s.
///
/// Functions that compute with tensors open it on their own, and end the process if that fails.
/// Call this first to get an error instead.
pub fn open_libtorch() -> Result<(), TrainerError> {
    shim::open_libtorch()
}

/// The result of looking for CUDA's libraries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CudaLibraries {
    /// Opened from this path.
    Opened(PathBuf),
    /// Found but not opened, for example because the driver is too old or a library is missing.
    Failed {
        path: PathBuf,
        message: String,
    },
    NotFound,
}

impl fmt::Display for CudaLibraries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened(path) => write!(f, "{} is open", path.display()),
            Self::Failed { path, message } => {
                write!(f, "{} could not be opened: {message}", path.display())
            }
            Self::NotFound => f.write_str(
                "libtorch_cuda.so is neither next to libtorch, nor in the cache, nor on \
                 LD_LIBRARY_PATH",
            ),
        }
    }
}

/// Opens `libtorch_cuda.so` if it exists, once per process. Call it before asking libtorch for
/// CUDA.
///
/// Looks in the folder of `libtorch_cpu.so`, in the cache folder that `trainer/setup/setup.py`
/// fills, and on `LD_LIBRARY_PATH`.
pub fn open_cuda_libraries() -> &'static CudaLibraries {
    static STATE: OnceLock<CudaLibraries> = OnceLock::new();
    STATE.get_or_init(|| {
        let Some(path) = cuda_folders()
            .into_iter()
            .map(|folder| folder.join("libtorch_cuda.so"))
            .find(|path| path.is_file())
        else {
            return CudaLibraries::NotFound;
        };
        match shim::open_library(&path) {
            Ok(_) => CudaLibraries::Opened(path),
            Err(message) => CudaLibraries::Failed { path, message },
        }
    })
}

fn cuda_folders() -> Vec<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    let mut folders: Vec<PathBuf> = shim::libtorch_folder().into_iter().collect();
    folders.extend(cache.map(|cache| cache.join("diptych/libtorch-2.11.0-cuda")));
    folders.extend(std::env::var_os("LD_LIBRARY_PATH").iter().flat_map(std::env::split_paths));
    folders
}

/// The version of libtorch that this crate is made for.
pub const LIBTORCH: &str = "2.11.0";

/// Returns the folder that libtorch was loaded from. Open it first.
pub fn libtorch_folder() -> Option<PathBuf> {
    shim::libtorch_folder()
}

/// Returns the number of GPUs that libtorch sees. Open it, and CUDA's libraries, first.
pub fn gpu_count() -> usize {
    if tch::Cuda::is_available() { tch::Cuda::device_count().max(0) as usize } else { 0 }
}

/// Sets the number of threads that one operator uses on the CPU; 0 means one per core.
///
/// Returns the number in use. A run is reproducible bit for bit only with the same number, because
/// sums are split among threads. Call it on the thread that computes, before the first computation.
pub fn set_threads(threads: usize) -> usize {
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        n => n,
    };
    tch::set_num_threads(threads as i32);
    threads
}

/// Lets libtorch's idle threads sleep instead of spin, unless `OMP_WAIT_POLICY` or `GOMP_SPINCOUNT`
/// is set.
///
/// Returns whether a choice is in effect. Returns `false` if this process already has other
/// threads.
///
/// Spinning pays only while no other thread needs the cores, but decoding threads do. Measured on 2
/// cores (a step of batch 256, 64 px, width 192), sleeping and spinning took:
/// - 1.9 s and 1.9 s on an idle machine,
/// - 3.9 s and 4.6 s with one other busy thread,
/// - 4.1 s and 5.3 s with two.
///
/// Results are identical bit for bit.
///
/// Call it first in `main`: OpenMP reads the environment when libtorch is opened, and the
/// environment can be written only while there is no other thread.
pub fn let_idle_threads_sleep() -> bool {
    shim::let_idle_threads_sleep()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_an_error_and_not_the_cpu() {
        assert_eq!(Device::parse("cpu").unwrap(), Device::CPU);
        assert!(Device::parse("cuda:999").unwrap_err().to_string().contains("cuda:999"));
        assert!(Device::parse("gpu").unwrap_err().to_string().contains("gpu"));
    }
}
