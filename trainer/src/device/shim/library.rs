//! Opens `libdiptych_torch.so`, which holds all code that calls libtorch, for the trampolines.
//!
//! The binary is not linked against libtorch. `trainer/build` builds the library, and a trampoline
//! for each of its C functions that jumps through a table. A call before the library is open opens
//! it, and ends the process if that fails. Call [`open_libtorch`] first to get an error instead.

use std::error::Error;
use std::ffi::{CStr, c_char, c_void};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use crate::TrainerError;

/// The environment variable that replaces the library built or installed with the binary.
const LIBRARY: &str = "DIPTYCH_TORCH";

// Defined in the assembly that `trainer/build/trampolines.rs` writes.
unsafe extern "C" {
    static diptych_trampoline_table: AtomicPtr<c_void>;
    safe static diptych_trampoline_count: usize;
    static diptych_trampoline_interface: c_char;
    static diptych_trampoline_library: c_char;
}

/// Opens libtorch, once per process. The error says what is missing and what to do.
pub(crate) fn open_libtorch() -> Result<(), TrainerError> {
    static OPEN: Mutex<bool> = Mutex::new(false);
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if !*open {
        let path = library_path()?;
        fill_table(&path).map_err(|message| TrainerError::Library { path, message })?;
        *open = true;
    }
    Ok(())
}

/// Opens the library for a trampoline whose table entry is still empty.
///
/// Ends the process if the library cannot be opened: the caller expects a result of libtorch, and
/// there is none.
#[unsafe(no_mangle)]
#[expect(
    clippy::print_stderr,
    clippy::exit,
    reason = "there is no caller that could pass the error on"
)]
extern "C" fn diptych_open_libtorch_or_exit() {
    if let Err(error) = open_libtorch() {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

/// Returns the library's path.
///
/// It is that of the environment, or else the one that the build or the installation wrote into the
/// binary.
fn library_path() -> Result<PathBuf, TrainerError> {
    if let Some(path) = std::env::var_os(LIBRARY).filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    // SAFETY: the assembly defines a zero-terminated string.
    let built = unsafe { CStr::from_ptr(&raw const diptych_trampoline_library) };
    let built = Path::new(built.to_str().unwrap_or_default());
    let Ok(beside) = built.strip_prefix("$ORIGIN") else { return Ok(built.to_owned()) };
    let binary = std::env::current_exe().map_err(TrainerError::io("/proc/self/exe"))?;
    Ok(binary.parent().unwrap_or(Path::new("/")).join(beside))
}

/// Opens the library and fills the table. On an error the table stays empty.
fn fill_table(path: &Path) -> Result<(), String> {
    if !path.is_file() {
        return Err("file not found".into());
    }
    let library = open_library(path)?;
    let other = "it is not a library built by diptych";
    // SAFETY: a library with this symbol defines it as a zero-terminated string.
    let interface = unsafe {
        library.get::<*const c_char>(b"diptych_torch_interface\0").map(|text| CStr::from_ptr(*text))
    };
    // SAFETY: the assembly defines a zero-terminated string.
    let expected = unsafe { CStr::from_ptr(&raw const diptych_trampoline_interface) };
    let interface = interface.map_err(|_| other)?;
    if interface != expected {
        let (interface, expected) = (interface.to_string_lossy(), expected.to_string_lossy());
        return Err(format!(
            "it belongs to another build of diptych ({interface}; this one needs {expected})"
        ));
    }
    // SAFETY: a library with this symbol defines it as an array of pointers to functions.
    let functions = unsafe {
        library.get::<*const *mut c_void>(b"diptych_torch_functions\0").map(|array| *array)
    };
    let functions = functions.map_err(|_| other)?;
    for entry in 0..diptych_trampoline_count {
        // SAFETY: equal interfaces mean equally many functions in the same order, and the
        // assembly's table has a place for each. Other threads may read an entry meanwhile: the
        // library is loaded completely before any entry is stored.
        unsafe {
            (*(&raw const diptych_trampoline_table).add(entry))
                .store(*functions.add(entry), Ordering::Release);
        }
    }
    Ok(())
}

/// Opens a shared library for the rest of the process and makes its symbols visible to all.
///
/// That is how `libtorch_cuda` registers itself.
pub(crate) fn open_library(path: &Path) -> Result<ManuallyDrop<Library>, String> {
    // SAFETY: the initialisers are those of libtorch, which any program that is linked against it
    // runs.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
    // Closing it would unload code that libtorch has registered.
    library
        .map(ManuallyDrop::new)
        .map_err(|error| error.source().map_or_else(|| error.to_string(), ToString::to_string))
}

/// Lets libtorch's idle threads sleep instead of spin, unless the user has chosen.
///
/// Returns whether a choice is in effect. OpenMP reads the setting from the environment when
/// libtorch is opened. The environment may be written only while no other thread reads it, so this
/// returns `false` if the process has more than one thread.
pub(crate) fn let_idle_threads_sleep() -> bool {
    const POLICY: &str = "OMP_WAIT_POLICY";
    if [POLICY, "GOMP_SPINCOUNT"].iter().any(|name| std::env::var_os(name).is_some()) {
        return true;
    }
    let alone = std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1);
    if alone {
        // SAFETY: there is no other thread that could read the environment.
        unsafe { std::env::set_var(POLICY, "PASSIVE") };
    }
    alone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_of_another_build_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let mut bytes = std::fs::read(library_path().unwrap()).unwrap();
        let named = b"torch-sys-";
        // Paths of source files may contain the name too.
        let places = bytes.windows(named.len()).enumerate().filter(|(_, window)| *window == named);
        for at in places.map(|(at, _)| at).collect::<Vec<_>>() {
            bytes[at..at + named.len()].copy_from_slice(b"other-sys-");
        }
        let path = scratch.path().join("libother.so");
        diptych_schemas::durable::write(&path, &bytes).unwrap();
        let message = fill_table(&path).unwrap_err();
        assert!(message.contains("other-sys-"), "{message}");
    }
}
