//! IDX files, the form MNIST and Fashion-MNIST come in, plain or gzipped: `*-images-idx3-ubyte`, `*-labels-idx1-ubyte`.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;
use qing_graph::Tensor;

use crate::{DataError, dataset::Source, error::read_file};

/// Most bytes a gzipped file may unpack to: 2 GiB.
const MOST: u64 = 1 << 31;

/// The images of an IDX file with the labels that lie beside them.
pub(crate) fn open(path: &Path) -> Result<Source, DataError> {
    let images = read(path)?;
    let labels = match labels_beside(path) {
        None => None,
        Some(file) => {
            let labels = read(&file)?;
            if labels.rank() != 1 || labels.len() != images.shape()[0] {
                let (n, shape) = (images.shape()[0], labels.shape());
                return Err(DataError::format(&file, format!("labels of shape {shape:?} for {n} images")));
            }
            Some(labels.to_i64s().into_iter().map(|v| v as usize).collect())
        }
    };
    Source::images(path, &images, labels)
}

/// The file of images of `split` in a folder of IDX files, if there is one.
pub(crate) fn find(folder: &Path, split: &str) -> Option<PathBuf> {
    let prefix = if split == "test" { "t10k" } else { split };
    [prefix, split].iter().find_map(|p| {
        [format!("{p}-images-idx3-ubyte"), format!("{p}-images.idx3-ubyte")]
            .iter()
            .flat_map(|name| [folder.join(name), folder.join(format!("{name}.gz"))])
            .find(|path| path.is_file())
    })
}

/// True if the name of a file says that it is IDX.
pub(crate) fn is_idx(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    name.ends_with("ubyte") || name.ends_with(".idx")
}

fn labels_beside(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let plain = name.strip_suffix(".gz").unwrap_or(name).replace("images", "labels").replace("idx3", "idx1");
    if plain == name.strip_suffix(".gz").unwrap_or(name) {
        return None;
    }
    [plain.clone(), format!("{plain}.gz")].iter().map(|n| path.with_file_name(n)).find(|p| p.is_file())
}

fn read(path: &Path) -> Result<Tensor, DataError> {
    let mut bytes = read_file(path)?;
    if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut out = vec![];
        let unpacked = MultiGzDecoder::new(&bytes[..]).take(MOST).read_to_end(&mut out);
        unpacked.map_err(|e| DataError::format(path, format!("damaged gzip data: {e}")))?;
        bytes = out;
    }
    parse(&bytes).map_err(|message| DataError::format(path, message))
}

/// Magic `0 0 type rank`, big-endian sizes, data. Only unsigned bytes (type 8) are read.
fn parse(bytes: &[u8]) -> Result<Tensor, String> {
    let [0, 0, kind, rank] = *bytes.get(..4).and_then(|b| <&[u8; 4]>::try_from(b).ok()).ok_or("not an IDX file")?
    else {
        return Err("not an IDX file (the first two bytes are not zero)".into());
    };
    if kind != 8 {
        return Err(format!("IDX elements of type {kind:#x} are not supported, only unsigned bytes"));
    }
    let start = 4 + 4 * usize::from(rank);
    let header = bytes.get(4..start).ok_or("the IDX header is cut off")?;
    let shape: Vec<usize> = header.chunks(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize).collect();
    if shape.is_empty() {
        return Err("an IDX file without dimensions".into());
    }
    Tensor::from_bytes(qing_graph::Element::U8, &shape, bytes[start..].to_vec().into()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::{Dataset, Item};

    #[test]
    fn images_and_labels_plain_and_gzipped() {
        let folder = tempfile::tempdir().unwrap();
        let images = [&[0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2][..], &[1, 2, 3, 4]].concat();
        let labels = [0, 0, 8, 1, 0, 0, 0, 2, 9, 4];
        std::fs::write(folder.path().join("t10k-images-idx3-ubyte"), images).unwrap();
        let file = std::fs::File::create(folder.path().join("t10k-labels-idx1-ubyte.gz")).unwrap();
        flate2::write::GzEncoder::new(file, Default::default()).write_all(&labels).unwrap();
        for spec in [folder.path().to_path_buf(), folder.path().join("t10k-images-idx3-ubyte")] {
            let data = Dataset::open(spec.to_str().unwrap()).unwrap();
            assert_eq!((data.len(), data.label(1)), (2, Some(4)));
            let Item::Image(image) = data.item(1).unwrap() else { panic!("an image") };
            assert_eq!((image.width, image.height, image.data), (2, 1, vec![3, 4]));
        }
    }

    #[test]
    fn malformed_headers_are_refused() {
        for bytes in [&[][..], &[0, 0, 8], &[0, 0, 8, 1], &[0, 0, 8, 1, 0, 0, 0, 2, 1], &[0, 0, 13, 0], &[0, 0, 8, 0]] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
        assert!(parse(&[0, 0, 8, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255]).is_err());
    }
}
