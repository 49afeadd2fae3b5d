//! Safetensors files: streamed from the tensors' memory, hashed on the way, and flushed to disk.
//!
//! Names have no meaning here. A malicious file is an error, never a panic: the safetensors crate
//! checks every length.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use diptych_schemas::ContentHash;
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tch::{Kind, Tensor};

use crate::TrainerError;
use crate::device::shim;

/// The length and hash of a file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    pub bytes: u64,
    pub sha256: ContentHash,
}

/// Writes tensors (f32 or i64, contiguous, in CPU memory) in the order of their names.
///
/// The file is created at `path` itself. The caller renames it, or its folder, into place.
pub(crate) fn write(
    path: &Path,
    tensors: &[(String, &Tensor)],
    metadata: &[(&str, &str)],
) -> Result<FileEntry, TrainerError> {
    let mut sorted: Vec<(&str, &Tensor, &[u8])> = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        sorted.push((name, tensor, shim::bytes(tensor)?));
    }
    // The order of the safetensors crate: wide types first, so that each is aligned, then names.
    sorted.sort_by_key(|(name, tensor, _)| (tensor.kind() != Kind::Int64, *name));
    let header =
        header(&sorted, metadata).map_err(|message| TrainerError::weights(path, message))?;
    write_file(path, |sink| {
        sink.write_all(&(header.len() as u64).to_le_bytes())?;
        sink.write_all(&header)?;
        sorted.iter().try_for_each(|(_, _, bytes)| sink.write_all(bytes))
    })
}

fn header(
    tensors: &[(&str, &Tensor, &[u8])],
    metadata: &[(&str, &str)],
) -> Result<Vec<u8>, String> {
    let mut offset = 0;
    let mut infos = Vec::with_capacity(tensors.len());
    for (name, tensor, bytes) in tensors {
        let dtype = if tensor.kind() == Kind::Int64 { Dtype::I64 } else { Dtype::F32 };
        let shape = tensor.size().iter().map(|&n| n as usize).collect();
        infos.push((
            (*name).to_owned(),
            TensorInfo { dtype, shape, data_offsets: (offset, offset + bytes.len()) },
        ));
        offset += bytes.len();
    }
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let metadata = Metadata::new((!metadata.is_empty()).then_some(metadata), infos)
        .map_err(|error| error.to_string())?;
    let mut header = serde_json::to_vec(&metadata).map_err(|error| error.to_string())?;
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

/// Creates a file, lets `fill` write it and flushes it to disk. Returns its length and hash.
pub(crate) fn write_file(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<FileEntry, TrainerError> {
    let file = File::create(path).map_err(TrainerError::io(path))?;
    let mut sink = Hashing {
        inner: io::BufWriter::with_capacity(1 << 20, file),
        hasher: Sha256::new(),
        bytes: 0,
    };
    fill(&mut sink).map_err(TrainerError::io(path))?;
    let Hashing { inner, hasher, bytes } = sink;
    let file = inner.into_inner().map_err(|error| TrainerError::io(path)(error.into_error()))?;
    file.sync_all().map_err(TrainerError::io(path))?;
    Ok(FileEntry { bytes, sha256: ContentHash(hasher.finalize().into()) })
}

/// Reads a file. Returns its length and hash.
pub(crate) fn entry_of(path: &Path) -> Result<FileEntry, TrainerError> {
    let mut file = File::open(path).map_err(TrainerError::io(path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        match file.read(&mut buffer).map_err(TrainerError::io(path))? {
            0 => return Ok(FileEntry { bytes, sha256: ContentHash(hasher.finalize().into()) }),
            n => {
                hasher.update(&buffer[..n]);
                bytes += n as u64;
            }
        }
    }
}

/// Reads all tensors into CPU memory: f32 from f32, f16 and bf16, all without loss, and i64 from
/// i64 and i32.
pub(crate) fn read(path: &Path) -> Result<BTreeMap<String, Tensor>, TrainerError> {
    let map = shim::map_file(path)?;
    let file = SafeTensors::deserialize(&map).map_err(|error| {
        TrainerError::weights(path, format!("not a safetensors file, or truncated: {error}"))
    })?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let (from, to) = match view.dtype() {
            Dtype::F32 => (Kind::Float, Kind::Float),
            Dtype::F16 => (Kind::Half, Kind::Float),
            Dtype::BF16 => (Kind::BFloat16, Kind::Float),
            Dtype::I64 => (Kind::Int64, Kind::Int64),
            Dtype::I32 => (Kind::Int, Kind::Int64),
            other => {
                return Err(TrainerError::weights(
                    path,
                    format!("tensor {name} has type {other:?}; f32, f16 and bf16 are supported"),
                ));
            }
        };
        let shape: Vec<i64> = view.shape().iter().map(|&n| n as i64).collect();
        tensors.insert(
            name.to_owned(),
            Tensor::f_from_data_size(view.data(), &shape, from)?.f_to_kind(to)?,
        );
    }
    Ok(tensors)
}

struct Hashing<W> {
    inner: W,
    hasher: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(buffer)?;
        self.hasher.update(&buffer[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_is_what_the_safetensors_crate_reads_and_its_hash_is_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let (a, b) = (Tensor::from_slice(&[1.5_f32, -2.0]), Tensor::from_slice(&[7_i64]).squeeze());
        let entry =
            write(&path, &[("a".into(), &a), ("b".into(), &b)], &[("format", "pt")]).unwrap();

        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(entry, FileEntry { bytes: bytes.len() as u64, sha256: ContentHash::of(&bytes) });
        assert_eq!(entry_of(&path).unwrap(), entry);
        let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
        assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
        let file = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(
            file.tensor("a").unwrap().data(),
            [1.5_f32.to_le_bytes(), (-2_f32).to_le_bytes()].concat()
        );
        assert_eq!(file.tensor("b").unwrap().shape(), [0_usize; 0]);

        let back = read(&path).unwrap();
        assert_eq!((&back["a"], &back["b"]), (&a, &b));
    }

    #[test]
    fn half_precision_arrives_as_f32() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let view =
            |dtype, data| safetensors::tensor::TensorView::new(dtype, vec![2], data).unwrap();
        // 1.0 and -2.0 in IEEE half precision and in bfloat16, little endian.
        let tensors = [
            ("f16", view(Dtype::F16, &[0x00, 0x3c, 0x00, 0xc0])),
            ("bf16", view(Dtype::BF16, &[0x80, 0x3f, 0x00, 0xc0])),
        ];
        safetensors::serialize_to_file(tensors, None, &path).unwrap();
        for (name, tensor) in read(&path).unwrap() {
            assert_eq!(tensor, Tensor::from_slice(&[1_f32, -2.0]), "{name}");
        }
    }

    #[test]
    fn garbage_is_an_error_that_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bad.safetensors");
        for bytes in [
            &b""[..],
            b"short",
            &[0xff; 64],
            b"\x02\0\0\0\0\0\0\0{}trailing",
            b"\x04\0\0\0\0\0\0\0nope",
        ] {
            let mut file = File::create(&path).unwrap();
            file.write_all(bytes).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("bad.safetensors"), "{error}");
        }
    }

    #[test]
    fn full_disk_is_an_error_that_names_the_file() {
        // Writing to /dev/full fails as on a full disk.
        let path = Path::new("/dev/full");
        if path.exists() {
            let error =
                write_file(path, |sink| sink.write_all(&[0; 4096])).unwrap_err().to_string();
            assert!(error.contains("/dev/full") && error.contains("No space left"), "{error}");
        }
    }
}
