//! Files that `torch.save` wrote (`.bin`, `.pt`): reads the state dict, by name, into CPU memory.
//!
//! Nothing in a file is executed. The crate `pytorch-reader` reads the numbers and verifies
//! checksums. This module checks first what the crate leaves open:
//! - It accepts a pickle that names any function of Python (without calling it).
//! - It keeps a value for each of a hundred million operations.
//! - It lets every tensor repeat a small storage up to 10 GiB.
//! - It does not name the tensor whose view is wrong.
//!
//! Invariant: the tensors together are no larger than the file, and each error names the file and
//! what is wrong in it.

mod archive;
mod pickle;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use pytorch_reader::{DType, PytorchReader};
use tch::{Kind, Tensor};

use crate::TrainerError;
use crate::device::shim;
use archive::Archive;
use pickle::Declared;

/// The beginning of files from before PyTorch 1.6: a pickled magic number.
const LEGACY_MAGIC: &[u8] =
    &[0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// The largest accepted pickle, in bytes. State dicts have some hundred bytes per tensor.
const LARGEST_PICKLE: usize = 64 << 20;

/// Returns whether a file with this beginning was written by any version of `torch.save`.
pub(crate) fn is_one(beginning: &[u8]) -> bool {
    beginning.starts_with(archive::MAGIC) || beginning.starts_with(LEGACY_MAGIC)
}

/// Reads the state dict of a file: f32 from f32, f16 and bf16, all without loss, and i64 from i64
/// and i32.
pub(crate) fn read(path: &Path) -> Result<BTreeMap<String, Tensor>, TrainerError> {
    let map = shim::map_file(path)?;
    let refused = |message: String| TrainerError::weights(path, message);
    let declared = check(&map).map_err(refused)?;
    let reader = match declared.under {
        Some(key) => PytorchReader::with_top_level_key(path, key),
        None => PytorchReader::new(path),
    };
    let reader = reader.map_err(|error| refused(error.to_string()))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in declared.tensors {
        let holds = view.storage.holds;
        let (dtype, from, to) = kinds(holds).ok_or_else(|| {
            refused(format!(
                "tensor {name} has type {holds}; float32, float16 and bfloat16 are supported"
            ))
        })?;
        let same_shape = |found: &pytorch_reader::Tensor| {
            found.shape().iter().map(|&n| n as i64).eq(view.shape.iter().copied())
        };
        let found = reader.get(name).filter(|found| found.dtype() == dtype && same_shape(found));
        let found =
            found.ok_or_else(|| refused(format!("two readers disagree about tensor {name}")))?;
        let bytes = found.read().map_err(|error| refused(error.to_string()))?;
        let tensor = Tensor::f_from_data_size(&bytes, &view.shape, from)?.f_to_kind(to)?;
        tensors.insert(name.to_owned(), tensor);
    }
    Ok(tensors)
}

/// Returns the state dict that a file declares, if all of it can be read.
fn check(file: &[u8]) -> Result<pickle::StateDict<'_>, String> {
    if file.starts_with(LEGACY_MAGIC) {
        return Err("written by PyTorch before 1.6, whose format is not supported; load it in \
                    Python with torch.load(…, weights_only=True) and save it again"
            .into());
    }
    let archive = Archive::open(file)?;
    let pickle =
        archive.get("data.pkl").ok_or("it has no data.pkl, so torch.save did not write it")?;
    if archive.get("byteorder").is_some_and(|order| order != b"little") {
        return Err("written on a big-endian machine, which is not supported".into());
    }
    if pickle.len() > LARGEST_PICKLE {
        return Err(format!(
            "its pickle has {} bytes; a state dict has at most {LARGEST_PICKLE}",
            pickle.len()
        ));
    }
    let declared = pickle::state_dict(pickle)?;
    let mut left = HashMap::new();
    for (name, view) in &declared.tensors {
        check_view(&archive, view, &mut left)
            .map_err(|message| format!("tensor {name}: {message}"))?;
    }
    Ok(declared)
}

/// Checks that a view is within its storage, and that the storage has room for it after the views
/// before it.
fn check_view<'a>(
    archive: &Archive<'_>,
    view: &Declared<'a>,
    left: &mut HashMap<&'a str, i64>,
) -> Result<(), String> {
    let Declared { storage, offset, shape, strides } = view;
    let bytes = archive
        .get(&format!("data/{}", storage.key))
        .ok_or_else(|| format!("its storage {:?} is missing", storage.key))?;
    if usize::try_from(storage.count).ok().and_then(|count| count.checked_mul(storage.width))
        != Some(bytes.len())
    {
        return Err(format!(
            "its storage {:?} should hold {} numbers ({}) and has {} bytes",
            storage.key,
            storage.count,
            storage.holds,
            bytes.len()
        ));
    }
    let view = || format!("shape {shape:?}, strides {strides:?} and offset {offset}");
    if shape.len() != strides.len()
        || shape.iter().chain(strides).chain([offset]).any(|&number| number < 0)
    {
        return Err(format!("{} are not a valid view of a storage", view()));
    }
    let (mut numbers, mut last) = (Some(1_i64), Some(*offset));
    for (&length, &stride) in shape.iter().zip(strides) {
        numbers = numbers.and_then(|numbers| numbers.checked_mul(length));
        last = last.and_then(|last| last.checked_add((length - 1).max(0).checked_mul(stride)?));
    }
    let (Some(numbers), Some(last)) = (numbers, last) else {
        return Err(format!("{} are too large", view()));
    };
    if (numbers > 0 && last >= storage.count) || *offset > storage.count {
        return Err(format!(
            "{} exceed storage {:?} of {} numbers",
            view(),
            storage.key,
            storage.count
        ));
    }
    // Views that share a storage without sharing numbers fit into it together. So memory is bounded
    // by the file's length.
    let room = left.entry(storage.key).or_insert(storage.count);
    *room -= numbers;
    if *room < 0 {
        return Err(format!(
            "{} overlap with themselves or with another tensor in storage {:?} of {} numbers",
            view(),
            storage.key,
            storage.count
        ));
    }
    Ok(())
}

/// Returns the type of numbers in the crate and in libtorch, and the type they are converted to.
fn kinds(holds: &str) -> Option<(DType, Kind, Kind)> {
    Some(match holds {
        "float32" => (DType::F32, Kind::Float, Kind::Float),
        "float16" => (DType::F16, Kind::Half, Kind::Float),
        "bfloat16" => (DType::BF16, Kind::BFloat16, Kind::Float),
        "int64" => (DType::I64, Kind::Int64, Kind::Int64),
        "int32" => (DType::I32, Kind::Int, Kind::Int64),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
