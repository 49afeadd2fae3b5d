//! The only place with `unsafe`: opening libtorch, calls into `shim/shim.cpp`, bytes of tensors,
//! and memory maps.
//!
//! Everything that this module exports is safe to use. It checks pointers before it uses them, and
//! turns C++ errors into [`TrainerError`]. It computes nothing itself.
#![expect(unsafe_code, reason = "C++ and memory maps are called here, and nowhere else")]

mod library;

use std::ffi::{CStr, c_char};
use std::fs::File;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use crate::TrainerError;

pub(crate) use library::{let_idle_threads_sleep, open_library, open_libtorch};

unsafe extern "C" {
    fn diptych_free(message: *mut c_char);
    fn diptych_fused_adamw(
        count: usize,
        parameters: *const *const C_tensor,
        gradients: *const *const C_tensor,
        averages: *const *const C_tensor,
        squares: *const *const C_tensor,
        step: *const C_tensor,
        unusable: *const C_tensor,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
    ) -> *mut c_char;
    fn diptych_total_norm(
        count: usize,
        tensors: *const *const C_tensor,
        out: *mut *mut C_tensor,
    ) -> *mut c_char;
    fn diptych_scale(
        count: usize,
        tensors: *const *const C_tensor,
        factor: *const C_tensor,
    ) -> *mut c_char;
    fn diptych_clear_gradients(count: usize, tensors: *const *const C_tensor) -> *mut c_char;
    fn diptych_deterministic(on: bool) -> *mut c_char;
    fn diptych_synchronise(device: i32) -> *mut c_char;
    fn diptych_own_stream(device: i32) -> *mut c_char;
    fn diptych_synchronise_own_stream(device: i32) -> *mut c_char;
    fn diptych_pinned(tensor: *const C_tensor, out: *mut *mut C_tensor) -> *mut c_char;
    fn diptych_libtorch_file() -> *const c_char;
}

/// The settings that all tensors of one AdamW call share.
pub(crate) struct AdamWStep<'a> {
    /// Number of updates including this one, an f32 scalar.
    pub(crate) step: &'a Tensor,
    /// An f32 scalar: 1 if nothing may be updated.
    pub(crate) unusable: &'a Tensor,
    pub(crate) lr: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) weight_decay: f64,
    pub(crate) eps: f64,
}

/// Runs one fused AdamW update of all parameters of a group, in place.
pub(crate) fn fused_adamw(
    parameters: &[Tensor],
    gradients: &[Tensor],
    averages: &[Tensor],
    squares: &[Tensor],
    with: &AdamWStep<'_>,
) -> Result<(), TrainerError> {
    let count = parameters.len();
    if gradients.len() != count || averages.len() != count || squares.len() != count {
        return Err(TrainerError::Torch("AdamW was given lists of different lengths".into()));
    }
    let (parameters, gradients) = (pointers(parameters)?, pointers(gradients)?);
    let (averages, squares) = (pointers(averages)?, pointers(squares)?);
    // SAFETY: all four lists hold `count` live, defined tensors, and both scalars are borrowed for
    // the call.
    check(unsafe {
        diptych_fused_adamw(
            count,
            parameters.as_ptr(),
            gradients.as_ptr(),
            averages.as_ptr(),
            squares.as_ptr(),
            with.step.as_ptr(),
            with.unusable.as_ptr(),
            with.lr,
            with.beta1,
            with.beta2,
            with.weight_decay,
            with.eps,
        )
    })
}

/// Computes the 2-norm of all tensors together, an f32 scalar that stays on the device.
pub(crate) fn total_norm(tensors: &[Tensor]) -> Result<Tensor, TrainerError> {
    let list = pointers(tensors)?;
    let mut out = std::ptr::null_mut();
    // SAFETY: the list holds live, defined tensors; `out` is written only if no message is
    // returned.
    check(unsafe { diptych_total_norm(list.len(), list.as_ptr(), &raw mut out) })?;
    // SAFETY: the shim allocated this tensor with `new` and gave up its ownership.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// Multiplies every tensor in place by a scalar on the device.
pub(crate) fn scale(tensors: &[Tensor], factor: &Tensor) -> Result<(), TrainerError> {
    let list = pointers(tensors)?;
    // SAFETY: the list holds live, defined tensors and the factor is borrowed for the call.
    check(unsafe { diptych_scale(list.len(), list.as_ptr(), factor.as_ptr()) })
}

/// Drops the gradients of parameters.
pub(crate) fn clear_gradients(parameters: &[Tensor]) -> Result<(), TrainerError> {
    let list = pointers(parameters)?;
    // SAFETY: the list holds live, defined tensors.
    check(unsafe { diptych_clear_gradients(list.len(), list.as_ptr()) })
}

/// Restricts libtorch to algorithms whose result does not depend on the order in which threads
/// finish.
pub(crate) fn deterministic(on: bool) -> Result<(), TrainerError> {
    // SAFETY: takes no pointer.
    check(unsafe { diptych_deterministic(on) })
}

/// Waits until a device has finished all its work. The CPU always has.
pub(crate) fn synchronise(device: Device) -> Result<(), TrainerError> {
    match device {
        // SAFETY: takes no pointer.
        Device::Cuda(number) => check(unsafe { diptych_synchronise(number as i32) }),
        _ => Ok(()),
    }
}

/// Gives this thread a stream of its own, so that its work on a GPU overlaps with other work.
///
/// Does nothing on the CPU.
pub(crate) fn own_stream(device: Device) -> Result<(), TrainerError> {
    match device {
        // SAFETY: takes no pointer.
        Device::Cuda(number) => check(unsafe { diptych_own_stream(number as i32) }),
        _ => Ok(()),
    }
}

/// Waits until a device has finished the work of this thread's own stream, and nothing else.
pub(crate) fn synchronise_own_stream(device: Device) -> Result<(), TrainerError> {
    match device {
        // SAFETY: takes no pointer.
        Device::Cuda(number) => check(unsafe { diptych_synchronise_own_stream(number as i32) }),
        _ => Ok(()),
    }
}

/// Copies a tensor into page-locked memory, which GPUs can read while the host continues.
pub(crate) fn pinned(tensor: &Tensor) -> Result<Tensor, TrainerError> {
    let mut out = std::ptr::null_mut();
    // SAFETY: the tensor is borrowed for the call; `out` is written only if no message is returned.
    check(unsafe { diptych_pinned(tensor.as_ptr(), &raw mut out) })?;
    // SAFETY: the shim allocated this tensor with `new` and gave up its ownership.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// Returns the folder that libtorch was loaded from.
pub(crate) fn libtorch_folder() -> Option<PathBuf> {
    // SAFETY: returns null or a zero-terminated string that the loader keeps for the life of the
    // process.
    let file = unsafe {
        let name = diptych_libtorch_file();
        if name.is_null() {
            return None;
        }
        CStr::from_ptr(name)
    };
    Path::new(file.to_str().ok()?).parent().map(Path::to_path_buf)
}

/// Returns the bytes of a contiguous f32 or i64 tensor in the CPU's memory, without a copy.
pub(crate) fn bytes(tensor: &Tensor) -> Result<&[u8], TrainerError> {
    let width = match tensor.kind() {
        Kind::Float => 4,
        Kind::Int64 => 8,
        other => {
            return Err(TrainerError::Torch(format!(
                "cannot read the bytes of a tensor of kind {other:?}"
            )));
        }
    };
    if tensor.device() != Device::Cpu || !tensor.is_contiguous() {
        return Err(TrainerError::Torch(
            "cannot read the bytes of a tensor that is not contiguous in CPU memory".into(),
        ));
    }
    let length = tensor.numel() * width;
    if length == 0 {
        return Ok(&[]);
    }
    let data = tensor.data_ptr().cast::<u8>().cast_const();
    // SAFETY: a contiguous CPU tensor holds numel × width bytes from its data pointer on, and the
    // borrow of the tensor keeps its storage alive. Nothing writes to it meanwhile: snapshots are
    // never passed to an in-place operator.
    Ok(unsafe { std::slice::from_raw_parts(data, length) })
}

/// Maps a file into memory.
///
/// The file must not change while it is mapped. Files read here were put in place by a rename.
pub(crate) fn map_file(path: &Path) -> Result<memmap2::Mmap, TrainerError> {
    let file = File::open(path).map_err(TrainerError::io(path))?;
    // SAFETY: the mapping is read-only, and a rename that replaces the file leaves the mapped one
    // intact. If somebody truncates the file by hand while it is read, the process dies, as does
    // every program that maps files.
    unsafe { memmap2::Mmap::map(&file) }.map_err(TrainerError::io(path))
}

fn pointers(tensors: &[Tensor]) -> Result<Vec<*const C_tensor>, TrainerError> {
    if let Some(place) = tensors.iter().position(|tensor| !tensor.defined()) {
        return Err(TrainerError::Torch(format!(
            "tensor {place} of a list is undefined: it took no part in the loss"
        )));
    }
    Ok(tensors.iter().map(Tensor::as_ptr).collect())
}

fn check(message: *mut c_char) -> Result<(), TrainerError> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: not null, so it is a zero-terminated string that the shim allocated for this call. It
    // is freed here, once.
    let text = unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        diptych_free(message);
        text
    };
    Err(TrainerError::torch(&text))
}
