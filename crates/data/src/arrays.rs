//! Arrays: pairs of `.npy` files, `.npz` files, and raw features with their shape in the name.

use std::path::{Path, PathBuf};

use qing_formats::npy;
use qing_graph::{Element, Tensor};

use crate::{
    DataError,
    dataset::Source,
    error::{read_file, read_text},
    mosaic::parse_labels,
};

/// An array of samples, with labels in `NAME_y.npy`, `NAME_labels.npy`, or, for `x.npy`, `y.npy` beside it.
pub(crate) fn open_npy(path: &Path) -> Result<Source, DataError> {
    let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let mut names = vec![format!("{stem}_y.npy"), format!("{stem}_labels.npy")];
    if let Some(base) = stem.strip_suffix('x') {
        names.push(format!("{base}y.npy"));
    }
    let labels = names.iter().map(|n| path.with_file_name(n)).find(|p| p.is_file());
    let labels = labels.map(|p| npy::read(&p)).transpose()?;
    pair(path, npy::read(path)?, labels.as_ref())
}

/// The arrays `x` and `y` of an archive (or its only array).
pub(crate) fn open_npz(path: &Path) -> Result<Source, DataError> {
    let mut arrays = npy::read_npz(path)?;
    let labels = ["y", "labels", "y_test"].iter().find_map(|name| arrays.remove(*name));
    let x = ["x", "images", "x_test"].iter().find_map(|name| arrays.remove(*name));
    let x = x.or_else(|| (arrays.len() == 1).then(|| arrays.drain().next().map(|(_, x)| x)).flatten());
    let x = x.ok_or_else(|| DataError::format(path, "expected an array named `x` (and `y` with the classes)"))?;
    pair(path, x, labels.as_ref())
}

fn pair(path: &Path, x: Tensor, labels: Option<&Tensor>) -> Result<Source, DataError> {
    let Some(&n) = x.shape().first() else {
        return Err(DataError::format(path, "the array has no axis of samples"));
    };
    let labels = match labels {
        None => None,
        Some(y) if y.len() == n => Some(y.to_i64s().into_iter().map(|v| v as usize).collect()),
        Some(y) => return Err(DataError::format(path, format!("{n} samples, but {:?} labels", y.shape()))),
    };
    match (x.element(), x.shape()) {
        // Bytes in the shape of images are images, so that they are normalized like any other.
        (Element::U8, [_, _, _] | [_, _, _, 1 | 3]) => Source::images(path, &x, labels),
        _ => Ok(Source::Arrays { x, labels }),
    }
}

/// A folder with one file of raw numbers, `NAME_AxBxC_TYPE.bin`, whose first axis counts samples, and `labels.txt`.
pub(crate) fn open_raw(folder: &Path) -> Result<Option<Source>, DataError> {
    let entries = std::fs::read_dir(folder).map_err(|e| DataError::io(folder, e))?;
    let mut files: Vec<PathBuf> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    files.sort();
    let found = files.iter().find_map(|path| {
        let (shape, element) = raw_name(path.file_name()?.to_str()?)?;
        Some((path, shape, element))
    });
    let Some((path, shape, element)) = found else { return Ok(None) };
    let bytes = read_file(path)?;
    let x = Tensor::from_bytes(element, &shape, bytes.into()).map_err(|e| DataError::format(path, e.to_string()))?;
    let labels = folder.join("labels.txt");
    let labels = match labels.is_file() {
        false => None,
        true => {
            let classes = parse_labels(&read_text(&labels)?).map_err(|e| DataError::format(&labels, e))?;
            if classes.len() != shape[0] {
                let (n, m) = (shape[0], classes.len());
                return Err(DataError::format(&labels, format!("{m} labels for {n} samples")));
            }
            Some(classes)
        }
    };
    Ok(Some(Source::Arrays { x, labels }))
}

/// Shape and element that a name like `features_1000x49x10_int8.bin` tells.
fn raw_name(name: &str) -> Option<(Vec<usize>, Element)> {
    let mut parts = name.strip_suffix(".bin")?.rsplit('_');
    let element = match parts.next()? {
        "int8" => Element::I8,
        "uint8" => Element::U8,
        "int16" => Element::I16,
        "float32" => Element::F32,
        _ => return None,
    };
    let shape: Option<Vec<usize>> = parts.next()?.split('x').map(|n| n.parse().ok()).collect();
    shape.filter(|s| s.len() > 1).map(|shape| (shape, element))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dataset, Item};

    #[test]
    fn pairs_archives_and_raw_features() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let x = Tensor::new(&[2, 3], vec![0.0f32, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        let y = Tensor::vector(vec![8i64, 9]);
        let want = Item::Array(Tensor::vector(vec![3.0f32, 4.0, 5.0]));
        crate::npz::write(&at("both.npz"), &[("y".into(), y.clone()), ("x".into(), x.clone())]).unwrap();
        std::fs::write(at("x.npy"), npy::to_bytes(&x)).unwrap();
        std::fs::write(at("y.npy"), npy::to_bytes(&y)).unwrap();
        for path in [at("both.npz"), at("x.npy"), folder.path().into()] {
            let data = Dataset::open(path.to_str().unwrap()).unwrap();
            assert_eq!((data.len(), data.label(1)), (2, Some(9)), "{path:?}");
            assert_eq!(data.item(1).unwrap(), want);
        }
        let raw = tempfile::tempdir().unwrap();
        std::fs::write(raw.path().join("f_2x2_int8.bin"), [1, 2, 255, 4]).unwrap();
        std::fs::write(raw.path().join("labels.txt"), "1\n0\n").unwrap();
        let data = Dataset::open(raw.path().to_str().unwrap()).unwrap();
        assert_eq!(data.item(1).unwrap(), Item::Array(Tensor::vector(vec![-1i8, 4])));
        assert_eq!(data.label(0), Some(1));
        std::fs::write(raw.path().join("labels.txt"), "1\n").unwrap();
        assert!(Dataset::open(raw.path().to_str().unwrap()).is_err());
    }

    #[test]
    fn names_of_raw_files() {
        assert_eq!(raw_name("features_1000x49x10_int8.bin"), Some((vec![1000, 49, 10], Element::I8)));
        for name in ["a.bin", "a_3_int8.bin", "a_2x2_f2.bin", "a_2xb_int8.bin", "a_2x2_int8.txt"] {
            assert_eq!(raw_name(name), None, "{name}");
        }
    }
}
