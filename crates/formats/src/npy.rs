//! NumPy arrays: `.npy` (format 1–3) in and out, `.npz` in.

use std::{collections::HashMap, io::Read, path::Path};

use bytes::Bytes;
use qing_graph::{Element, Tensor};
use qing_tensor::{element_count, map_file, strides};

use crate::{FormatError, atomic};

const MAGIC: &[u8] = b"\x93NUMPY";

/// NumPy's names of elements, without the byte order.
const ELEMENTS: &[(&str, Element)] = &[
    ("f8", Element::F64),
    ("f4", Element::F32),
    ("f2", Element::F16),
    ("i8", Element::I64),
    ("i4", Element::I32),
    ("i2", Element::I16),
    ("i1", Element::I8),
    ("u8", Element::U64),
    ("u4", Element::U32),
    ("u2", Element::U16),
    ("u1", Element::U8),
    ("b1", Element::Bool),
];

/// Reads a `.npy` file; row-major arrays share the memory-mapped file.
///
/// # Errors
/// If the file cannot be read, is malformed, or has elements that qing does not have.
pub fn read(path: &Path) -> Result<Tensor, FormatError> {
    let bytes = map_file(path).map_err(|e| FormatError::from(e).in_file(path))?;
    read_bytes(&bytes).map_err(|e| e.in_file(path))
}

/// Reads a `.npy` array. Allocates nothing if it is row-major, at most nine times the input if it is column-major.
///
/// # Errors
/// As [`read`].
pub fn read_bytes(bytes: &Bytes) -> Result<Tensor, FormatError> {
    let fail = |at: usize, message: &str| FormatError::malformed(format!("byte {at}"), message);
    if !bytes.starts_with(MAGIC) || bytes.len() < 10 {
        return Err(fail(0, "not a NumPy array: it must begin with \\x93NUMPY and a version"));
    }
    let (start, length) = match bytes[6] {
        1 => (10, usize::from(u16::from_le_bytes([bytes[8], bytes[9]]))),
        2 | 3 if bytes.len() >= 12 => (12, u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize),
        version => return Err(fail(6, &format!("version {version} of the NumPy format; expected 1 to 3"))),
    };
    let end = start + length;
    let header = bytes.get(start..end).ok_or_else(|| fail(8, "the header is longer than the file"))?;
    let header = std::str::from_utf8(header).map_err(|_| fail(start, "the header is not text"))?;
    let entry = |key: &str| {
        let quoted = [format!("'{key}'"), format!("\"{key}\"")];
        let at = quoted.iter().find_map(|q| header.find(q.as_str()).map(|i| i + q.len()));
        at.and_then(|at| header[at..].trim_start().strip_prefix(':'))
            .map(str::trim_start)
            .ok_or_else(|| fail(start, &format!("the header has no `{key}`: {header}")))
    };
    let descr = entry("descr")?;
    let descr = descr.strip_prefix(['\'', '"']).and_then(|d| d.split(['\'', '"']).next()).unwrap_or("");
    let element = ELEMENTS
        .iter()
        .find(|(name, _)| descr.strip_prefix(['<', '|', '=']) == Some(name))
        .map(|(_, e)| *e)
        .ok_or_else(|| FormatError::unsupported(format!("byte {start}"), format!("elements of type `{descr}`")))?;
    let column_major = entry("fortran_order")?.starts_with("True");
    let shape = entry("shape")?
        .strip_prefix('(')
        .and_then(|s| s.split_once(')'))
        .map(|(s, _)| s.split(',').map(str::trim).filter(|s| !s.is_empty()))
        .and_then(|s| s.map(|n| n.parse::<usize>().ok()).collect::<Option<Vec<usize>>>())
        .ok_or_else(|| fail(start, &format!("the header has no legal shape: {header}")))?;
    let wrap = |source| FormatError::tensor("array", source);
    let data = bytes.slice(end..);
    if element == Element::Bool && data.iter().any(|b| *b > 1) {
        return Err(fail(end, "a truth value other than 0 and 1"));
    }
    if !column_major || shape.len() < 2 {
        return Tensor::from_bytes(element, &shape, data).map_err(wrap);
    }
    let reversed: Vec<usize> = shape.iter().rev().copied().collect();
    let stored = Tensor::from_bytes(element, &reversed, data).map_err(wrap)?;
    let count = element_count(&shape).map_err(wrap)?;
    let row_major = strides(&shape);
    let column: Vec<usize> = strides(&reversed).into_iter().rev().collect();
    let indices =
        (0..count).map(|i| row_major.iter().zip(&column).zip(&shape).map(|((r, c), n)| i / r % n * c).sum::<usize>());
    stored.take(&shape, indices).map_err(wrap)
}

/// Writes a `.npy` file, format 1.0. Integers below eight bits and bf16 have no NumPy type and are widened to i8, u8 and
/// f32.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, tensor: &Tensor) -> Result<(), FormatError> {
    atomic::write(path, &to_bytes(tensor))
}

/// The content of a `.npy` file; see [`write()`].
pub fn to_bytes(tensor: &Tensor) -> Vec<u8> {
    let tensor = match tensor.element() {
        Element::Bits { signed: false, .. } => tensor.cast(Element::U8),
        Element::Bits { .. } | Element::Bipolar => tensor.cast(Element::I8),
        Element::BF16 => tensor.cast(Element::F32),
        _ => tensor.clone(),
    };
    let name = ELEMENTS.iter().find(|(_, e)| *e == tensor.element()).map_or("u1", |(n, _)| n);
    let order = if tensor.element().bits() == 8 { '|' } else { '<' };
    let dims: String = tensor.shape().iter().map(|d| format!("{d}, ")).collect();
    let mut header = format!("{{'descr': '{order}{name}', 'fortran_order': False, 'shape': ({}), }}", dims.trim_end());
    // The data begin at a multiple of 64 bytes.
    let padding = 63 - (10 + header.len()) % 64;
    header.extend(std::iter::repeat_n(' ', padding));
    header.push('\n');
    let mut out = Vec::with_capacity(10 + header.len() + tensor.bytes().len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[1, 0]);
    out.extend_from_slice(&(header.len() as u16).to_le_bytes());
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(tensor.bytes());
    out
}

/// Reads the arrays of a `.npz` file by name, without their `.npy`.
///
/// # Errors
/// As [`read`].
pub fn read_npz(path: &Path) -> Result<HashMap<String, Tensor>, FormatError> {
    let bytes = map_file(path).map_err(|e| FormatError::from(e).in_file(path))?;
    read_npz_bytes(&bytes).map_err(|e| e.in_file(path))
}

/// Reads the arrays of a `.npz` archive. Stored arrays share `bytes`; compressed ones take at most 1,032 times their size
/// in the archive, the most that deflate can give.
///
/// # Errors
/// As [`read`].
pub fn read_npz_bytes(bytes: &Bytes) -> Result<HashMap<String, Tensor>, FormatError> {
    let mut arrays = HashMap::new();
    for entry in archive_entries(bytes)? {
        let Some(name) = entry.name.strip_suffix(".npy") else { continue };
        let content = entry.content(bytes)?;
        let tensor = read_bytes(&content).map_err(|e| match e {
            FormatError::Malformed { at, message } => {
                FormatError::malformed(format!("`{}`, {at}", entry.name), message)
            }
            other => other,
        })?;
        arrays.insert(name.to_string(), tensor);
    }
    Ok(arrays)
}

/// A file in a ZIP archive.
struct Entry {
    name: String,
    method: u16,
    packed: usize,
    unpacked: usize,
    /// Of the local header.
    offset: usize,
}

fn short(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?).into())
}

fn long(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?) as usize)
}

/// The central directory of an archive; archives over 4 GiB are refused.
fn archive_entries(bytes: &[u8]) -> Result<Vec<Entry>, FormatError> {
    let broken = |at: usize| FormatError::malformed(format!("byte {at}"), "not a ZIP archive, or a damaged one");
    // The end record is followed by a comment of at most 65,535 bytes.
    let first = bytes.len().saturating_sub(22 + 0xffff);
    let end =
        bytes[first..].windows(4).rposition(|w| w == b"PK\x05\x06").map(|i| first + i).ok_or_else(|| broken(0))?;
    let (Some(count), Some(_comment)) = (short(bytes, end + 10), short(bytes, end + 20)) else {
        return Err(broken(end));
    };
    let mut at = long(bytes, end + 16).ok_or_else(|| broken(end))?;
    let mut entries = vec![];
    for _ in 0..count {
        let entry = (|| {
            if bytes.get(at..at.checked_add(4)?)? != b"PK\x01\x02" {
                return None;
            }
            let (name, extra, comment) = (short(bytes, at + 28)?, short(bytes, at + 30)?, short(bytes, at + 32)?);
            let entry = Entry {
                name: String::from_utf8(bytes.get(at + 46..at + 46 + name)?.to_vec()).ok()?,
                method: short(bytes, at + 10)? as u16,
                packed: long(bytes, at + 20)?,
                unpacked: long(bytes, at + 24)?,
                offset: long(bytes, at + 42)?,
            };
            Some((entry, 46 + name + extra + comment))
        })();
        let (entry, size) = entry.ok_or_else(|| broken(at))?;
        entries.push(entry);
        at += size;
    }
    Ok(entries)
}

impl Entry {
    fn content(&self, bytes: &Bytes) -> Result<Bytes, FormatError> {
        let fail = |message: &str| FormatError::malformed(format!("`{}` at byte {}", self.name, self.offset), message);
        let range = || {
            let (name, extra) =
                (short(bytes, self.offset.checked_add(26)?)?, short(bytes, self.offset.checked_add(28)?)?);
            let start = self.offset + 30 + name + extra;
            let end = start.checked_add(self.packed)?;
            (end <= bytes.len()).then(|| bytes.slice(start..end))
        };
        let packed = range().ok_or_else(|| fail("its data lie outside of the archive"))?;
        match self.method {
            0 => Ok(packed),
            8 => {
                let mut out = vec![];
                // One byte more than promised, so that a longer stream is seen.
                let limit = self.unpacked as u64 + 1;
                let mut stream = flate2::read::DeflateDecoder::new(packed.as_ref()).take(limit);
                stream.read_to_end(&mut out).map_err(|_| fail("its compressed data are damaged"))?;
                if out.len() != self.unpacked {
                    return Err(fail("it does not unpack to the size it claims"));
                }
                Ok(out.into())
            }
            method => Err(FormatError::unsupported(format!("`{}`", self.name), format!("compression method {method}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Bytes {
        let mut out = MAGIC.to_vec();
        out.extend([1, 0]);
        out.extend((header.len() as u16).to_le_bytes());
        out.extend(header.as_bytes());
        out.extend(data);
        out.into()
    }

    #[test]
    fn arrays_round_trip() {
        for tensor in [
            Tensor::new(&[2, 3], vec![1.0f32, 2., 3., 4., 5., 6.]).unwrap(),
            Tensor::scalar(-7i64),
            Tensor::vector(vec![1u8, 2]),
            Tensor::from_bools(&[0, 2], &[]).unwrap(),
        ] {
            let bytes = to_bytes(&tensor);
            assert_eq!((bytes.len() - tensor.bytes().len()) % 64, 0);
            assert_eq!(read_bytes(&bytes.into()).unwrap(), tensor);
        }
    }

    #[test]
    fn column_major_arrays_are_turned() {
        let header = "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }";
        let tensor = read_bytes(&file(header, &[1, 4, 2, 5, 3, 6])).unwrap();
        assert_eq!((tensor.shape(), tensor.to_ints()), ([2, 3].as_slice(), vec![1, 2, 3, 4, 5, 6]));
    }

    #[test]
    fn malformed_arrays_are_refused_with_a_place() {
        for (bytes, expected) in [
            (Bytes::from_static(b"PK"), "byte 0"),
            (file("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", &[0; 4]), "needs 8 bytes, got 4"),
            (file("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 99999999999), }", &[]), "address"),
            (file("{'descr': '<c8', 'fortran_order': False, 'shape': (), }", &[]), "elements of type `<c8`"),
            (file("{'descr': '<f4', 'shape': (), }", &[]), "no `fortran_order`"),
            (file("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", &[]), "no legal shape"),
        ] {
            let error = read_bytes(&bytes).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    /// A ZIP archive of one file, as `numpy.savez` lays it out.
    fn archive(name: &str, method: u16, packed: &[u8], unpacked: usize) -> Bytes {
        let mut out = vec![];
        let sizes = |out: &mut Vec<u8>| {
            out.extend([0; 4]);
            out.extend((packed.len() as u32).to_le_bytes());
            out.extend((unpacked as u32).to_le_bytes());
            out.extend((name.len() as u16).to_le_bytes());
        };
        out.extend(b"PK\x03\x04\x14\0\0\0");
        out.extend(method.to_le_bytes());
        out.extend([0; 4]);
        sizes(&mut out);
        out.extend([0; 2]);
        out.extend(name.as_bytes());
        out.extend(packed);
        let directory = out.len() as u32;
        out.extend(b"PK\x01\x02\x14\0\x14\0\0\0");
        out.extend(method.to_le_bytes());
        out.extend([0; 4]);
        sizes(&mut out);
        out.extend([0; 16]);
        out.extend(name.as_bytes());
        let size = out.len() as u32 - directory;
        out.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
        out.extend(size.to_le_bytes());
        out.extend(directory.to_le_bytes());
        out.extend([0; 2]);
        out.into()
    }

    #[test]
    fn archives_of_arrays_are_read() {
        use std::io::Write as _;
        let tensor = Tensor::vector(vec![1.5f32; 100]);
        let array = to_bytes(&tensor);
        let stored = read_npz_bytes(&archive("x.npy", 0, &array, array.len())).unwrap();
        assert_eq!(stored["x"], tensor);
        let mut encoder = flate2::write::DeflateEncoder::new(vec![], flate2::Compression::default());
        encoder.write_all(&array).unwrap();
        let packed = encoder.finish().unwrap();
        let unpacked = read_npz_bytes(&archive("a.b.npy", 8, &packed, array.len())).unwrap();
        assert_eq!(unpacked["a.b"], tensor);
        assert!(read_npz_bytes(&archive("x.npy", 8, &packed, array.len() + 1)).is_err());
        let whole = archive("x.npy", 0, &array, array.len());
        for cut in 0..whole.len() {
            assert!(read_npz_bytes(&whole.slice(..cut)).is_err());
        }
    }
}
