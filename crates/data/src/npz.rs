//! Writing NumPy's archives: ZIP files of stored `.npy` members, as `numpy.savez` makes them.

use std::{io, path::Path};

use flate2::Crc;
use qing_formats::{atomic, npy};
use qing_graph::Tensor;

use crate::DataError;

/// Writes a `.npz` file whose members are stored, in the order given.
///
/// # Errors
/// If the file cannot be written, or would exceed 4 GiB.
pub fn write(path: &Path, arrays: &[(String, Tensor)]) -> Result<(), DataError> {
    let bytes = format(arrays).map_err(|e| DataError::io(path, e))?;
    Ok(atomic::write(path, &bytes)?)
}

/// The bytes of a `.npz` file.
///
/// # Errors
/// If they would exceed 4 GiB.
pub fn format(arrays: &[(String, Tensor)]) -> Result<Vec<u8>, io::Error> {
    let large = |_| io::Error::other("an .npz file of 4 GiB or more is not supported");
    let (mut out, mut directory) = (vec![], vec![]);
    for (name, tensor) in arrays {
        let data = npy::to_bytes(tensor);
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
        out.extend(b"PK\x03\x04");
        out.extend(&common);
        out.extend(name.as_bytes());
        out.extend(data);
        directory.extend(b"PK\x01\x02");
        directory.extend([20, 0]);
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(at.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let at = u32::try_from(out.len()).map_err(large)?;
    let count = (arrays.len() as u16).to_le_bytes();
    out.extend(&directory);
    out.extend(b"PK\x05\x06");
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
    use super::*;

    #[test]
    fn arrays_come_back() {
        let x = Tensor::new(&[2, 2], vec![1.0f32, 2.0, 3.0, 4.0]).unwrap();
        let y = Tensor::vector(vec![7i64]);
        let bytes = format(&[("x".into(), x.clone()), ("ŷ".into(), y.clone())]).unwrap();
        let back = npy::read_npz_bytes(&bytes.into()).unwrap();
        assert_eq!((&back["x"], &back["ŷ"], back.len()), (&x, &y, 2));
    }
}
