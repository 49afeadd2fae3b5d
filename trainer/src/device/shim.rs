//! The only place with `unsafe`: opening libtorch, calls into `shim/shim.cpp`, raw access to the bytes of tensors, and memory maps.
//!
//! Everything that leaves this module is safe to use: pointers are checked before they are used, and errors of C++ arrive
//! as errors of ours. It computes nothing by itself.
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

/// What stays the same for all tensors of one call of AdamW.
pub(crate) struct AdamWStep<'a> {
    /// f32 scalar: updates done, this one included.
    pub(crate) step: &'a Tensor,
    /// f32 scalar: 1 where nothing may be updated.
    pub(crate) unusable: &'a Tensor,
    pub(crate) lr: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) weight_decay: f64,
    pub(crate) eps: f64,
}

/// One fused AdamW update of all parameters of a group, in place.
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
    // SAFETY: all four lists hold `count` live, defined tensors, and both scalars are borrowed for the call.
    said(unsafe {
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

/// The 2-norm of all tensors together: an f32 scalar that stays on the device.
pub(crate) fn total_norm(tensors: &[Tensor]) -> Result<Tensor, TrainerError> {
    let list = pointers(tensors)?;
    let mut out = std::ptr::null_mut();
    // SAFETY: the list holds live, defined tensors; `out` is written only when no message comes back.
    said(unsafe { diptych_total_norm(list.len(), list.as_ptr(), &raw mut out) })?;
    // SAFETY: the shim made this tensor with `new` and gave it away.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// Multiplies every tensor in place by a scalar that lies on the device.
pub(crate) fn scale(tensors: &[Tensor], factor: &Tensor) -> Result<(), TrainerError> {
    let list = pointers(tensors)?;
    // SAFETY: the list holds live, defined tensors and the factor is borrowed for the call.
    said(unsafe { diptych_scale(list.len(), list.as_ptr(), factor.as_ptr()) })
}

/// Drops the gradients of parameters.
pub(crate) fn clear_gradients(parameters: &[Tensor]) -> Result<(), TrainerError> {
    let list = pointers(parameters)?;
    // SAFETY: the list holds live, defined tensors.
    said(unsafe { diptych_clear_gradients(list.len(), list.as_ptr()) })
}

/// Lets libtorch take only algorithms whose result does not depend on the order in which threads finish.
pub(crate) fn deterministic(on: bool) -> Result<(), TrainerError> {
    // SAFETY: takes no pointer.
    said(unsafe { diptych_deterministic(on) })
}

/// Waits until a device has done all that it was asked for. The CPU always has.
pub(crate) fn synchronise(device: Device) -> Result<(), TrainerError> {
    match device {
        // SAFETY: takes no pointer.
        Device::Cuda(number) => said(unsafe { diptych_synchronise(number as i32) }),
        _ => Ok(()),
    }
}

/// From now on, what this thread asks of a GPU goes on beside what others ask of it. The CPU has nothing of the kind.
pub(crate) fn own_stream(device: Device) -> Result<(), TrainerError> {
    match device {
        // SAFETY: takes no pointer.
        Device::Cuda(number) => said(unsafe { diptych_own_stream(number as i32) }),
        _ => Ok(()),
    }
}

/// Waits until a device has done all that this thread asked of it, and for nothing else.
pub(crate) fn synchronise_own_stream(device: Device) -> Result<(), TrainerError> {
    match device {
        // SAFETY: takes no pointer.
        Device::Cuda(number) => said(unsafe { diptych_synchronise_own_stream(number as i32) }),
        _ => Ok(()),
    }
}

/// A copy in memory that the system does not move, for GPUs to read beside what the host does.
pub(crate) fn pinned(tensor: &Tensor) -> Result<Tensor, TrainerError> {
    let mut out = std::ptr::null_mut();
    // SAFETY: the tensor is borrowed for the call; `out` is written only when no message comes back.
    said(unsafe { diptych_pinned(tensor.as_ptr(), &raw mut out) })?;
    // SAFETY: the shim made this tensor with `new` and gave it away.
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// The folder that libtorch was loaded from.
pub(crate) fn libtorch_folder() -> Option<PathBuf> {
    // SAFETY: returns null or a zero-terminated string that the loader keeps for the life of the process.
    let file = unsafe {
        let name = diptych_libtorch_file();
        if name.is_null() {
            return None;
        }
        CStr::from_ptr(name)
    };
    Path::new(file.to_str().ok()?).parent().map(Path::to_path_buf)
}

/// The bytes of a contiguous f32 or i64 tensor in the CPU's memory, without a copy.
pub(crate) fn bytes(tensor: &Tensor) -> Result<&[u8], TrainerError> {
    let width = match tensor.kind() {
        Kind::Float => 4,
        Kind::Int64 => 8,
        other => {
            return Err(TrainerError::Torch(format!(
                "cannot take the bytes of a tensor of kind {other:?}"
            )));
        }
    };
    if tensor.device() != Device::Cpu || !tensor.is_contiguous() {
        return Err(TrainerError::Torch(
            "cannot take the bytes of a tensor that is not contiguous in the CPU's memory".into(),
        ));
    }
    let length = tensor.numel() * width;
    if length == 0 {
        return Ok(&[]);
    }
    let data = tensor.data_ptr().cast::<u8>().cast_const();
    // SAFETY: a contiguous CPU tensor holds numel × width bytes from its data pointer on, and the borrow of the tensor keeps
    // its storage alive. Nobody writes to it meanwhile: snapshots are never handed to an operator that works in place.
    Ok(unsafe { std::slice::from_raw_parts(data, length) })
}

/// A file as memory. What it holds must not change while it is mapped: these are files that were put in place by a rename.
pub(crate) fn map_file(path: &Path) -> Result<memmap2::Mmap, TrainerError> {
    let file = File::open(path).map_err(TrainerError::io(path))?;
    // SAFETY: the file is read-only to us and whoever replaces it does so by a rename, which leaves this one as it is. Somebody
    // who cuts it short by hand while it is being read takes the process down, as with every program that maps files.
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

fn said(message: *mut c_char) -> Result<(), TrainerError> {
    if message.is_null() {
        return Ok(());
    }
    // SAFETY: not null, so a zero-terminated string that the shim allocated for us and that is freed here, once.
    let text = unsafe {
        let text = CStr::from_ptr(message).to_string_lossy().into_owned();
        diptych_free(message);
        text
    };
    Err(TrainerError::torch(&text))
}
