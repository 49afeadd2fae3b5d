//! Where tensors live and how many threads compute on them: `auto`, `cpu` or `cuda:N`, in words from a configuration.
//!
//! A device that is asked for by name and is not there is an error, never a silent fall-back to the CPU.

pub(crate) mod shim;

use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::TrainerError;
use diptych_schemas::Precision;

/// A device that exists. Opaque, so that only this crate names `tch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device(pub(crate) tch::Device);

impl Device {
    /// The CPU, which is always there.
    pub const CPU: Self = Self(tch::Device::Cpu);

    /// `auto` (a GPU where there is one), `cpu`, `cuda` (the first GPU) or `cuda:N`.
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
                        "device {text:?} is not known: use auto, cpu, cuda or cuda:N"
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
                    "device {text} is not there: {found} ({state}). Use auto or cpu"
                )))
            }
        }
    }
}

/// libtorch's name for the numbers that matrix products take.
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

/// Opens libtorch, once for the process; takes about 0.2 s. What computes with tensors does so by itself where this was not
/// called, and ends the process where that fails: call it first to have an error instead.
pub fn open_libtorch() -> Result<(), TrainerError> {
    shim::open_libtorch()
}

/// What came of looking for CUDA's libraries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CudaLibraries {
    /// Opened from here.
    Opened(PathBuf),
    /// Found, but not to be opened: a driver that is too old, a library that is missing.
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
                "there is no libtorch_cuda.so beside libtorch, in the cache, or on LD_LIBRARY_PATH",
            ),
        }
    }
}

/// Opens `libtorch_cuda.so` where there is one, once for the process, and before anything asks libtorch for CUDA.
///
/// Looked for beside `libtorch_cpu.so`, in the cache folder that `trainer/setup/setup.py` fills, and on `LD_LIBRARY_PATH`.
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

/// Sets the number of threads that one operator uses on the CPU; 0: one for each core. Returns the number in use.
///
/// The number is part of what makes a run reproducible bit for bit: sums are split among threads. Call it on the thread that
/// computes, before anything is computed.
pub fn set_threads(threads: usize) -> usize {
    let threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        n => n,
    };
    tch::set_num_threads(threads as i32);
    threads
}

/// Lets libtorch's idle threads sleep instead of spinning, unless the user has chosen with `OMP_WAIT_POLICY` or
/// `GOMP_SPINCOUNT`. Returns whether the choice is made; false where this process has other threads already.
///
/// Spinning pays only where nobody else wants the cores, but decoding threads do. Measured on 2 cores (a step of batch 256,
/// 64 px, width 192), asleep and spinning: 1.9 s and 1.9 s on an idle machine, 3.9 s and 4.6 s beside one busy thread, 4.1 s
/// and 5.3 s beside two. Results are the same bit for bit.
///
/// Call it first in `main`: OpenMP reads the environment when libtorch is opened, and it can be written only while there is
/// no other thread.
pub fn let_idle_threads_sleep() -> bool {
    shim::let_idle_threads_sleep()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_an_error_and_not_the_cpu() {
        assert_eq!(Device::parse("cpu").unwrap(), Device::CPU);
        assert!(
            Device::parse("cuda:999").unwrap_err().to_string().contains("cuda:999 is not there")
        );
        assert!(
            Device::parse("gpu").unwrap_err().to_string().contains("auto, cpu, cuda or cuda:N")
        );
    }
}
