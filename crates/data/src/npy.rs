//! NumPy's array files: versions 1–3, little-endian numbers and truth values, C order.
//!
//! Format: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.

use std::path::Path;

use bytes::Bytes;
use qing_graph::{Element, Tensor};

use crate::{DataError, error::read_file};

const MAGIC: &[u8] = b"\x93NUMPY";

const TYPES: &[(&str, Element)] = &[
    ("<f8", Element::F64),
    ("<f4", Element::F32),
    ("<f2", Element::F16),
    ("<i8", Element::I64),
    ("<i4", Element::I32),
    ("<i2", Element::I16),
    ("|i1", Element::I8),
    ("<u8", Element::U64),
    ("<u4", Element::U32),
    ("<u2", Element::U16),
    ("|u1", Element::U8),
    ("|b1", Element::Bool),
];

/// Reads a `.npy` file.
///
/// # Errors
/// If it cannot be read, is malformed, or holds something else than plain numbers in C order.
pub fn read(path: &Path) -> Result<Tensor, DataError> {
    parse(&read_file(path)?.into()).map_err(|message| DataError::format(path, message))
}

/// Reads the bytes of a `.npy` file; the values are not copied.
///
/// # Errors
/// What is wrong, in words.
pub fn parse(bytes: &Bytes) -> Result<Tensor, String> {
    let start = bytes.get(..8).filter(|b| b.starts_with(MAGIC)).ok_or("not a .npy file (no magic bytes)")?;
    let (at, length) = match start[6] {
        1 => (10, bytes.get(8..10).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])))),
        2 | 3 => (12, bytes.get(8..12).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)),
        v => return Err(format!("version {v} of the .npy format is not known")),
    };
    let end = length.and_then(|n| n.checked_add(at)).filter(|end| *end <= bytes.len());
    let end = end.ok_or("the header of the .npy file is cut off")?;
    let header = std::str::from_utf8(&bytes[at..end]).map_err(|_| "the header of the .npy file is not text")?;
    let field = |name: &str| {
        let (_, rest) = header.split_once(&format!("'{name}':"))?;
        Some(rest.trim_start())
    };
    let descr = field("descr").and_then(|v| v.strip_prefix('\'')?.split('\'').next());
    let descr = descr.ok_or("the header of the .npy file names no plain element type")?;
    let known = TYPES.iter().find(|(name, _)| *name == descr);
    let (_, element) = known.ok_or_else(|| format!("elements of type `{descr}` are not supported"))?;
    if !field("fortran_order").is_some_and(|v| v.starts_with("False")) {
        return Err("the array is in Fortran order; save numpy.ascontiguousarray(x)".into());
    }
    let shape = field("shape").and_then(|v| v.strip_prefix('(')?.split(')').next());
    let shape: Result<Vec<usize>, _> = shape
        .ok_or("the header of the .npy file has no shape")?
        .split(',')
        .map(str::trim)
        .filter(|s| !s.is_empty())
        .map(str::parse)
        .collect();
    let shape = shape.map_err(|e| format!("the shape in the .npy header: {e}"))?;
    Tensor::from_bytes(*element, &shape, bytes.slice(end..)).map_err(|e| e.to_string())
}

/// The bytes of a `.npy` file. Elements NumPy lacks are widened: bfloat16 to f32, 1–7 bits to 8.
pub fn format(tensor: &Tensor) -> Vec<u8> {
    let wide = match tensor.element() {
        Element::BF16 => tensor.cast(Element::F32),
        Element::Bits { signed: false, .. } => tensor.cast(Element::U8),
        Element::Bits { signed: true, .. } | Element::Bipolar => tensor.cast(Element::I8),
        _ => tensor.clone(),
    };
    let descr = TYPES.iter().find(|(_, e)| *e == wide.element()).map_or("|u1", |(name, _)| name);
    let dims: Vec<String> = wide.shape().iter().map(usize::to_string).collect();
    let comma = if dims.len() == 1 { "," } else { "" };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}{comma}), }}", dims.join(", "));
    // Magic, version and length take 10 bytes; the data starts at a multiple of 64.
    let padding = 64 - (10 + header.len() + 1) % 64;
    header.extend(std::iter::repeat_n(' ', padding % 64));
    header.push('\n');
    let mut out = MAGIC.to_vec();
    if let Ok(length) = u16::try_from(header.len()) {
        out.extend([1, 0]);
        out.extend(length.to_le_bytes());
    } else {
        out.extend([2, 0]);
        out.extend((header.len() as u32).to_le_bytes());
    }
    out.extend(header.as_bytes());
    out.extend_from_slice(wide.bytes());
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_element_comes_back() {
        for (_, element) in TYPES {
            for shape in [&[][..], &[3], &[2, 3], &[0, 4]] {
                let n = shape.iter().product::<usize>();
                let x = Tensor::new(shape, (0..n).map(|i| i as f32 - 1.0).collect()).unwrap().cast(*element);
                let file = format(&x);
                assert!((file.len() - x.bytes().len()).is_multiple_of(64));
                assert_eq!(parse(&file.into()).unwrap(), x);
            }
        }
    }

    #[test]
    fn what_numpy_writes_is_read() {
        let mut file = b"\x93NUMPY\x01\0\x76\0{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }".to_vec();
        file.resize(127, b' ');
        file.push(b'\n');
        file.extend([1, 0, 0, 0, 254, 255, 255, 255]);
        assert_eq!(parse(&file.clone().into()).unwrap(), Tensor::vector(vec![1, -2]));
        file.pop();
        assert!(parse(&file.into()).is_err());
    }

    proptest! {
        #[test]
        fn damaged_files_never_panic(at in 0usize..90, byte: u8, keep in 0usize..90) {
            let mut file = format(&Tensor::vector(vec![1.0f32, 2.0]));
            let n = file.len();
            file[at % n] = byte;
            file.truncate(n - keep % n);
            let _ = parse(&file.into());
        }
    }
}
