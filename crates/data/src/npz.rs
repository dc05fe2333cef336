//! NumPy's archives: ZIP files of `.npy` members, stored or deflated. Only what `numpy.savez` and `savez_compressed`
//! write is understood: no encryption, no spanning, sizes below 4 GiB.

use std::{
    io::{self, Read},
    path::Path,
};

use bytes::Bytes;
use flate2::{Crc, read::DeflateDecoder};
use qing_graph::Tensor;

use crate::{DataError, error::read_file, npy};

const LOCAL: &[u8; 4] = b"PK\x03\x04";
const CENTRAL: &[u8; 4] = b"PK\x01\x02";
const END: &[u8; 4] = b"PK\x05\x06";
/// Deflate cannot shrink by more than about 1,032; more is a lie.
const LARGEST_RATIO: usize = 1032;

/// Reads all arrays of a `.npz` file, in the order of its directory.
///
/// # Errors
/// If it cannot be read or is malformed.
pub fn read(path: &Path) -> Result<Vec<(String, Tensor)>, DataError> {
    parse(&read_file(path)?.into()).map_err(|message| DataError::format(path, message))
}

/// Reads the bytes of a `.npz` file.
///
/// # Errors
/// What is wrong, in words.
pub fn parse(bytes: &Bytes) -> Result<Vec<(String, Tensor)>, String> {
    // The end record is the last 22 bytes, or earlier where a comment follows it.
    let from = bytes.len().saturating_sub(22 + 0xffff);
    let end = bytes[from..].windows(4).rposition(|w| w == END).ok_or("not a .npz file (no ZIP directory)")? + from;
    let count = u16_at(bytes, end + 10)?;
    let mut at = u32_at(bytes, end + 16)?;
    let mut arrays = vec![];
    for _ in 0..count {
        if bytes.get(at..at + 4) != Some(CENTRAL) {
            return Err(format!("byte {at}: no ZIP directory entry where one should be"));
        }
        let (flags, method) = (u16_at(bytes, at + 8)?, u16_at(bytes, at + 10)?);
        let (crc, packed, size) = (u32_at(bytes, at + 16)?, u32_at(bytes, at + 20)?, u32_at(bytes, at + 24)?);
        let (name_length, extra, comment) = (u16_at(bytes, at + 28)?, u16_at(bytes, at + 30)?, u16_at(bytes, at + 32)?);
        let local = u32_at(bytes, at + 42)?;
        let name = bytes.get(at + 46..at + 46 + name_length).ok_or("the ZIP directory is cut off")?;
        let name = String::from_utf8_lossy(name).into_owned();
        at += 46 + name_length + extra + comment;
        if flags & 1 != 0 {
            return Err(format!("member `{name}` is encrypted"));
        }
        if bytes.get(local..local + 4) != Some(LOCAL) {
            return Err(format!("byte {local}: member `{name}` should start here"));
        }
        let start = local + 30 + u16_at(bytes, local + 26)? + u16_at(bytes, local + 28)?;
        let end = start.checked_add(packed).filter(|e| *e <= bytes.len());
        let data = bytes.slice(start..end.ok_or_else(|| format!("member `{name}` is cut off"))?);
        let data = match method {
            0 => data,
            8 => inflate(&data, size).map_err(|e| format!("member `{name}`: {e}"))?,
            m => return Err(format!("member `{name}` is compressed by method {m}; only stored and deflated are read")),
        };
        let mut sum = Crc::new();
        sum.update(&data);
        if data.len() != size || sum.sum() as usize != crc {
            return Err(format!("member `{name}` is damaged (size or checksum differ)"));
        }
        let tensor = npy::parse(&data).map_err(|e| format!("member `{name}`: {e}"))?;
        arrays.push((name.strip_suffix(".npy").unwrap_or(&name).to_string(), tensor));
    }
    Ok(arrays)
}

fn inflate(data: &[u8], size: usize) -> Result<Bytes, String> {
    if size > data.len().saturating_mul(LARGEST_RATIO) {
        return Err(format!("{} bytes cannot unpack to {size}", data.len()));
    }
    let mut out = Vec::with_capacity(size);
    DeflateDecoder::new(data).take(size as u64 + 1).read_to_end(&mut out).map_err(|e| e.to_string())?;
    Ok(out.into())
}

fn u16_at(bytes: &[u8], at: usize) -> Result<usize, String> {
    let b = bytes.get(at..at + 2).ok_or("the ZIP directory is cut off")?;
    Ok(u16::from_le_bytes([b[0], b[1]]).into())
}

fn u32_at(bytes: &[u8], at: usize) -> Result<usize, String> {
    let b = bytes.get(at..at + 4).ok_or("the ZIP directory is cut off")?;
    Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)
}

/// Writes a `.npz` file whose members are stored, in the order given.
///
/// # Errors
/// If the file cannot be written, or would exceed 4 GiB.
pub fn write(path: &Path, arrays: &[(String, Tensor)]) -> Result<(), DataError> {
    let bytes = format(arrays).map_err(|e| DataError::io(path, e))?;
    std::fs::write(path, bytes).map_err(|e| DataError::io(path, e))
}

/// The bytes of a `.npz` file.
///
/// # Errors
/// If they would exceed 4 GiB.
pub fn format(arrays: &[(String, Tensor)]) -> Result<Vec<u8>, io::Error> {
    let large = |_| io::Error::other("an .npz file of 4 GiB or more is not supported");
    let (mut out, mut directory) = (vec![], vec![]);
    for (name, tensor) in arrays {
        let data = npy::format(tensor);
        let name = format!("{name}.npy");
        let mut crc = Crc::new();
        crc.update(&data);
        let size = u32::try_from(data.len()).map_err(large)?;
        let at = u32::try_from(out.len()).map_err(large)?;
        // Version 2.0, UTF-8 names, stored, midnight of 1 January 1980.
        let mut common = vec![20, 0, 0, 8, 0, 0, 0, 0, 0x21, 0];
        common.extend(crc.sum().to_le_bytes());
        common.extend(size.to_le_bytes());
        common.extend(size.to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        out.extend(LOCAL);
        out.extend(&common);
        out.extend(name.as_bytes());
        out.extend(data);
        directory.extend(CENTRAL);
        directory.extend([20, 0]);
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let at = u32::try_from(out.len()).map_err(large)?;
    let count = (arrays.len() as u16).to_le_bytes();
    out.extend(&directory);
    out.extend(END);
    out.extend([0; 4]);
    out.extend(count);
    out.extend(count);
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(at.to_le_bytes());
    out.extend([0, 0]);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arrays() -> Vec<(String, Tensor)> {
        vec![
            ("x".into(), Tensor::new(&[2, 2], vec![1.0f32, 2.0, 3.0, 4.0]).unwrap()),
            ("ŷ".into(), Tensor::vector(vec![7i64])),
        ]
    }

    #[test]
    fn arrays_come_back() {
        assert_eq!(parse(&format(&arrays()).unwrap().into()).unwrap(), arrays());
    }

    #[test]
    fn damage_is_noticed() {
        let mut file = format(&arrays()).unwrap();
        let at = file.windows(4).position(|w| w == 2.0f32.to_le_bytes()).unwrap();
        file[at] ^= 1;
        assert!(parse(&file.into()).unwrap_err().contains("checksum"));
    }

    proptest! {
        #[test]
        fn damaged_files_never_panic(at in 0usize..600, byte: u8, keep in 0usize..600) {
            let mut file = format(&arrays()).unwrap();
            let n = file.len();
            file[at % n] = byte;
            file.truncate(n - keep % n);
            let _ = parse(&file.into());
        }
    }
}
