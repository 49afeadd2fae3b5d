//! The `.npy` files of numpy that curation exchanges: lists of uids, counts, centroids.
//!
//! DataComp's lists of uids are sorted structured arrays of two `u8` (64 bits each), the upper and
//! the lower half of a uid of 128 bits. Only the format that numpy writes for `np.array(…,
//! np.dtype("u8,u8"))` is accepted.
//!
//! CLIP_benchmark's multi-class labels are one array in each image's `.npy`: 1 if the image has the
//! class.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use diptych_schemas::{SchemaError, Uid, durable};
use half::f16;

/// The dtype as numpy writes it, without white space.
const DESCRIPTION: &str = "[('f0','<u8'),('f1','<u8')]";
/// Longest header that is read. Numpy's own header for this dtype has 128 bytes.
const MAX_HEADER: usize = 1 << 16;
const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// Most classes in an array of labels. No real list of classes is longer, but a damaged file could
/// claim more.
const MAX_CLASSES: u64 = 1 << 20;
/// Numpy starts data at a multiple of this.
const ALIGNMENT: usize = 64;

/// An error in a `.npy` file.
#[derive(Debug, thiserror::Error)]
pub enum NpyError {
    #[error("{path}: {message}")]
    Unreadable { path: PathBuf, message: String },
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

/// Reads a list of uids, in its order.
pub fn read_uid_list(path: &Path) -> Result<Vec<Uid>, NpyError> {
    let wanted = "not a list of uids. Expected the result of np.save for an array of dtype u8,u8, \
        as in DataComp";
    let (_, bytes) = read_array(path, DESCRIPTION, 16, 1, wanted)?;
    let halves = |bytes: &[u8; 16]| {
        let mut uid = [0; 16];
        // Each half is little endian in the file, and starts with its first digits in a uid.
        for (to, from) in uid.iter_mut().zip(bytes[..8].iter().rev().chain(bytes[8..].iter().rev()))
        {
            *to = *from;
        }
        Uid(uid)
    };
    Ok(bytes.as_chunks::<16>().0.iter().map(halves).collect())
}

/// Writes a list of unique uids in numpy's order. Returns their number.
pub fn write_uid_list(path: &Path, mut uids: Vec<Uid>) -> Result<u64, NpyError> {
    // The bytes of a uid are both halves, highest first: their order is that of (f0, f1).
    uids.sort_unstable();
    uids.dedup();
    write_array(path, "[('f0', '<u8'), ('f1', '<u8')]", &format!("{},", uids.len()), |file| {
        for uid in &uids {
            let mut halves = uid.0;
            halves[..8].reverse();
            halves[8..].reverse();
            file.write_all(&halves)?;
        }
        Ok(())
    })?;
    Ok(uids.len() as u64)
}

/// Reads an array of 64-bit unsigned integers, [N].
pub fn read_counts(path: &Path) -> Result<Vec<u64>, NpyError> {
    let wanted = "not an array of counts. Expected the result of np.save for an array of dtype \
        uint64, one number per entry";
    let (_, bytes) = read_array(path, "'<u8'", 8, 1, wanted)?;
    Ok(bytes.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes)).collect())
}

/// A matrix of numbers, [K, D].
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    /// D, above 0.
    pub columns: usize,
    pub values: Vec<f32>,
}

/// Reads a matrix of float32.
pub fn read_matrix(path: &Path) -> Result<Matrix, NpyError> {
    let wanted =
        "not a matrix. Expected the result of np.save for a two-dimensional array of dtype float32";
    let (shape, bytes) = read_array(path, "'<f4'", 4, 2, wanted)?;
    matrix(
        path,
        &shape,
        bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
    )
}

/// Reads a matrix of float16 or float32, as tools write embeddings.
pub fn read_rows(path: &Path) -> Result<Matrix, NpyError> {
    let wanted = "not a matrix. Expected the result of np.save for a two-dimensional array of \
        dtype float16 or float32";
    if let Ok((shape, bytes)) = read_array(path, "'<f2'", 2, 2, wanted) {
        return matrix(
            path,
            &shape,
            bytes
                .as_chunks::<2>()
                .0
                .iter()
                .map(|bytes| f16::from_le_bytes(*bytes).to_f32())
                .collect(),
        );
    }
    let (shape, bytes) = read_array(path, "'<f4'", 4, 2, wanted)?;
    matrix(
        path,
        &shape,
        bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
    )
}

/// Returns the classes that an image has, from the bytes of its array of labels, [C], with any
/// number type.
pub(crate) fn marked_classes(bytes: &[u8]) -> Result<Vec<usize>, String> {
    let wanted = "not labels. Expected the result of np.save for a one-dimensional array with 1 \
        for each class that the image has, else 0";
    let mut data = bytes;
    let (header, _) = read_header(&mut data).map_err(|error| no_header(&error))?;
    let Some((dtype, shape)) = parse_header(&header) else { return Err(unlike(wanted, &header)) };
    let [count] = shape[..] else { return Err(unlike(wanted, &header)) };
    if count > MAX_CLASSES {
        return Err(format!("labels of {count} classes, above the limit of {MAX_CLASSES}"));
    }
    // The widest type has 8 bytes per number.
    let data = &data[..data.len().min(8 * count as usize + 8)];
    let numbers = match dtype.trim_matches('\'') {
        "|b1" | "|i1" | "|u1" => numbers(data, |bytes: [u8; 1]| f64::from(bytes[0])),
        "<i2" | "<u2" => numbers(data, |bytes| f64::from(u16::from_le_bytes(bytes))),
        "<i4" | "<u4" => numbers(data, |bytes| f64::from(u32::from_le_bytes(bytes))),
        "<i8" | "<u8" => numbers(data, |bytes| u64::from_le_bytes(bytes) as f64),
        "<f2" => numbers(data, |bytes| f16::from_le_bytes(bytes).to_f64()),
        "<f4" => numbers(data, |bytes| f64::from(f32::from_le_bytes(bytes))),
        "<f8" => numbers(data, f64::from_le_bytes),
        _ => return Err(unlike(wanted, &header)),
    };
    let Some(numbers) = numbers.filter(|numbers| numbers.len() as u64 == count) else {
        return Err(format!(
            "its header claims {count} numbers of the type {dtype}, but other data follow: the \
             file is truncated or damaged"
        ));
    };
    if let Some(class) = numbers.iter().position(|number| *number != 0.0 && *number != 1.0) {
        return Err(format!("class {class} is marked with neither 1 nor 0"));
    }
    Ok(numbers
        .iter()
        .enumerate()
        .filter(|(_, number)| **number == 1.0)
        .map(|(class, _)| class)
        .collect())
}

/// Decodes numbers. Returns `None` if a part of a number is left over.
fn numbers<const WIDTH: usize>(
    data: &[u8],
    number: impl Fn([u8; WIDTH]) -> f64,
) -> Option<Vec<f64>> {
    let (chunks, rest) = data.as_chunks::<WIDTH>();
    rest.is_empty().then(|| chunks.iter().map(|bytes| number(*bytes)).collect())
}

/// Returns the dtype, without white space, and the shape. Returns `None` for an array in Fortran
/// order.
fn parse_header(header: &str) -> Option<(String, Vec<u64>)> {
    let plain: String = header.chars().filter(|char| !char.is_whitespace()).collect();
    let (dtype, shape) =
        plain.strip_prefix("{'descr':")?.split_once(",'fortran_order':False,'shape':(")?;
    let shape = shape.strip_suffix("),}").or_else(|| shape.strip_suffix(")}"))?;
    let shape = shape.split_terminator(',').map(|side| side.parse().ok()).collect::<Option<_>>()?;
    Some((dtype.to_owned(), shape))
}

/// Describes the error when there is no header.
fn no_header(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            "truncated within its header; write or copy it again".to_owned()
        }
        _ => error.to_string(),
    }
}

fn unlike(wanted: &str, header: &str) -> String {
    let shown: String = header.trim().chars().take(120).collect();
    format!("{wanted}. This one has {}", shown.escape_debug())
}

fn matrix(path: &Path, shape: &[u64], values: Vec<f32>) -> Result<Matrix, NpyError> {
    let bad =
        |message: &str| NpyError::Unreadable { path: path.to_owned(), message: message.into() };
    if values.is_empty() {
        return Err(bad("it is empty"));
    }
    if !values.iter().all(|value| value.is_finite()) {
        return Err(bad("it has values that are not finite numbers"));
    }
    Ok(Matrix { columns: shape[1] as usize, values })
}

/// Writes an array of 64-bit unsigned integers, [N].
pub fn write_counts(path: &Path, counts: &[u64]) -> Result<(), NpyError> {
    write_array(path, "'<u8'", &format!("{},", counts.len()), |file| {
        counts.iter().try_for_each(|count| file.write_all(&count.to_le_bytes()))
    })
}

/// Writes rows of half-precision floats, [N, D], as clip-retrieval and autofaiss read them.
pub fn write_halves(
    path: &Path,
    dimension: usize,
    rows: &mut dyn ExactSizeIterator<Item = &[f16]>,
) -> Result<(), NpyError> {
    write_array(path, "'<f2'", &format!("{}, {dimension}", rows.len()), |file| {
        rows.flatten().try_for_each(|value| file.write_all(&value.to_le_bytes()))
    })
}

/// Reads shape and data of a file whose dtype is `description`, of `width` bytes per element.
fn read_array(
    path: &Path,
    description: &str,
    width: u64,
    dimensions: usize,
    wanted: &str,
) -> Result<(Vec<u64>, Vec<u8>), NpyError> {
    let bad = |message: String| NpyError::Unreadable { path: path.to_owned(), message };
    let file = File::open(path).map_err(SchemaError::io(path))?;
    let size = file.metadata().map_err(SchemaError::io(path))?.len();
    let mut reader = BufReader::new(file);
    let (header, header_bytes) =
        read_header(&mut reader).map_err(|error| bad(no_header(&error)))?;
    let parsed = parse_header(&header)
        .filter(|(dtype, shape)| dtype == description && shape.len() == dimensions);
    let Some((_, shape)) = parsed else { return Err(bad(unlike(wanted, &header))) };
    // Checked before any allocation: the data that the header claims must exist.
    let data = size.saturating_sub(header_bytes);
    let elements = shape.iter().try_fold(1_u64, |product, side| product.checked_mul(*side));
    if elements.and_then(|elements| elements.checked_mul(width)) != Some(data) {
        return Err(bad(format!(
            "its header claims {shape:?} elements of {width} bytes, but {data} bytes follow: the \
             file is truncated or damaged"
        )));
    }
    let mut bytes = Vec::with_capacity(data as usize);
    reader.take(data).read_to_end(&mut bytes).map_err(SchemaError::io(path))?;
    if bytes.len() as u64 != data {
        return Err(bad("it became shorter while it was read".into()));
    }
    Ok((shape, bytes))
}

/// Reads the text of the header. Also returns the number of bytes before the data.
fn read_header(reader: &mut impl Read) -> io::Result<(String, u64)> {
    let mut start = [0; 8];
    reader.read_exact(&mut start)?;
    if &start[..6] != MAGIC {
        return Err(io::Error::other("not a .npy file"));
    }
    let (length, before) = match start[6] {
        1 => {
            let mut length = [0; 2];
            reader.read_exact(&mut length)?;
            (usize::from(u16::from_le_bytes(length)), 10)
        }
        2 | 3 => {
            let mut length = [0; 4];
            reader.read_exact(&mut length)?;
            (u32::from_le_bytes(length) as usize, 12)
        }
        other => {
            return Err(io::Error::other(format!(
                "it has version {other} of the .npy format; versions 1 to 3 are supported"
            )));
        }
    };
    if length > MAX_HEADER {
        return Err(io::Error::other(format!(
            "its header claims {length} bytes, above the limit of {MAX_HEADER}"
        )));
    }
    let mut text = vec![0; length];
    reader.read_exact(&mut text)?;
    let text = String::from_utf8(text).map_err(|_| io::Error::other("its header is not text"))?;
    Ok((text, before + length as u64))
}

fn write_array(
    path: &Path,
    description: &str,
    shape: &str,
    data: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), NpyError> {
    let mut header =
        format!("{{'descr': {description}, 'fortran_order': False, 'shape': ({shape}), }}");
    // Magic, version, length and the line break count too.
    let used = MAGIC.len() + 2 + 2 + header.len() + 1;
    header.push_str(&" ".repeat(used.next_multiple_of(ALIGNMENT) - used));
    header.push('\n');
    durable::write_with(path, |file| {
        let mut file = io::BufWriter::new(file);
        file.write_all(MAGIC)?;
        file.write_all(&[1, 0])?;
        file.write_all(&(header.len() as u16).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        data(&mut file)?;
        file.flush()
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that numpy 2 writes for `np.array([(1, 2), (2**64 - 1, 3)], "u8,u8")`.
    fn numpy_bytes() -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
        let mut header =
            "{'descr': [('f0', '<u8'), ('f1', '<u8')], 'fortran_order': False, 'shape': (2,), }"
                .to_owned();
        header.push_str(&" ".repeat(0x76 - header.len() - 1));
        bytes.extend(header.as_bytes());
        bytes.push(b'\n');
        for number in [1, 2, u64::MAX, 3] {
            bytes.extend(number.to_le_bytes());
        }
        bytes
    }

    fn uid(upper: u64, lower: u64) -> Uid {
        Uid((u128::from(upper) << 64 | u128::from(lower)).to_be_bytes())
    }

    /// The bytes that numpy writes: `header` without the padding, and the data.
    fn array(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn labels_of_any_kind_of_number_are_the_classes_that_are_marked() {
        type Write = fn(f64) -> Vec<u8>;
        let of = |dtype: &str, data: &[u8]| {
            marked_classes(&array(
                &format!("{{'descr': '{dtype}', 'fortran_order': False, 'shape': (3,), }}"),
                data,
            ))
        };
        let bytes = |numbers: [f64; 3], write: Write| {
            numbers.into_iter().flat_map(write).collect::<Vec<_>>()
        };
        let kinds: [(&str, Write); 7] = [
            ("|b1", |number| vec![number as u8]),
            ("<i2", |number| (number as i16).to_le_bytes().into()),
            ("<i4", |number| (number as i32).to_le_bytes().into()),
            ("<i8", |number| (number as i64).to_le_bytes().into()),
            ("<f2", |number| f16::from_f64(number).to_le_bytes().into()),
            ("<f4", |number| (number as f32).to_le_bytes().into()),
            ("<f8", |number| number.to_le_bytes().into()),
        ];
        for (dtype, write) in kinds {
            assert_eq!(of(dtype, &bytes([1.0, 0.0, 1.0], write)).unwrap(), [0, 2], "{dtype}");
            assert_eq!(of(dtype, &bytes([0.0; 3], write)).unwrap(), [0; 0], "{dtype}");
            assert!(
                of(dtype, &bytes([0.0, 1.0, 2.0], write)).unwrap_err().contains("class 2"),
                "{dtype}"
            );
            assert!(
                of(dtype, &bytes([1.0; 3], write)[1..]).unwrap_err().contains("claims 3 numbers"),
                "{dtype}"
            );
        }
        // VOC marks difficult objects with -1.
        assert!(of("|i1", &[1, 0, 255]).unwrap_err().contains("class 2"));
        assert!(of("<c8", &[0; 24]).unwrap_err().contains("not labels"));
        let long =
            array("{'descr': '|b1', 'fortran_order': False, 'shape': (1048577,), }", &[0; 3]);
        assert!(marked_classes(&long).unwrap_err().contains("1048577 classes"));
        let longer = array("{'descr': '|b1', 'fortran_order': False, 'shape': (3,), }", &[0; 1000]);
        assert!(marked_classes(&longer).unwrap_err().contains("claims 3 numbers"));
        let matrix =
            array("{'descr': '|b1', 'fortran_order': False, 'shape': (1, 3), }", &[1, 0, 1]);
        assert!(marked_classes(&matrix).unwrap_err().contains("not labels"));
        for length in 0..matrix.len() {
            marked_classes(&matrix[..length]).unwrap_err();
        }
    }

    #[test]
    fn lists_are_read_and_written_as_numpy_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("uids.npy");
        durable::write(&path, &numpy_bytes()).unwrap();
        assert_eq!(read_uid_list(&path).unwrap(), [uid(1, 2), uid(u64::MAX, 3)]);
        let again = folder.path().join("again.npy");
        assert_eq!(
            write_uid_list(&again, vec![uid(u64::MAX, 3), uid(1, 2), uid(1, 2)]).unwrap(),
            2
        );
        assert_eq!(std::fs::read(&again).unwrap(), numpy_bytes());
        write_uid_list(&again, vec![]).unwrap();
        assert_eq!(read_uid_list(&again).unwrap(), []);
        write_counts(&again, &[3, u64::MAX]).unwrap();
        assert_eq!(read_counts(&again).unwrap(), [3, u64::MAX]);
    }

    #[test]
    fn hostile_and_other_files_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("uids.npy");
        let whole = numpy_bytes();
        let replaced = |from: &str, to: &str| {
            let text: Vec<u8> = whole.clone();
            let at = text.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
            [&text[..at], to.as_bytes(), &text[at + from.len()..]].concat()
        };
        let mut cases = vec![
            (b"PK\x03\x04 something".to_vec(), "not a .npy"),
            (whole[..60].to_vec(), "header"),
            (whole[..whole.len() - 1].to_vec(), "damaged"),
            ([&whole[..], &[0]].concat(), "damaged"),
            (replaced("(2,)", "(9,)"), "claims [9] elements"),
            (replaced("(2,), }", "(18446744073709551615,), }")[..].to_vec(), "uids.npy"),
            (replaced("'<u8'", "'<f8'"), "u8,u8"),
            (replaced("[('f0'", "\"O\" #'"), "u8,u8"),
            (replaced("(2,)", "((("), "u8,u8"),
            (b"\x93NUMPY\x09\x00".to_vec(), "version 9"),
            (b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), "65536"),
            (vec![], "header"),
        ];
        cases.extend(
            (0..whole.len()).step_by(7).map(|length| (whole[..length].to_vec(), "uids.npy")),
        );
        for (bytes, says) in cases {
            durable::write(&path, &bytes).unwrap();
            let error = read_uid_list(&path).unwrap_err().to_string();
            assert!(error.contains("uids.npy") && error.contains(says), "{error}");
        }
    }
}
