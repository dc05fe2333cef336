use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use qing_formats::npy;
use qing_graph::Tensor;

use crate::{DataError, DataSpec, Pixels, arrays, folder, idx, mosaic, mosaic::Sheets, zoo};

/// One sample, without its batch dimension.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// An image, to be preprocessed.
    Image(Pixels),
    /// Numbers, as a file held them.
    Array(Tensor),
}

/// Samples, some of them labelled, read when asked for. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dataset {
    name: String,
    source: Arc<Source>,
    indices: Vec<usize>,
}

/// Where samples come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// Image files with their classes.
    Files(Vec<(PathBuf, Option<usize>)>),
    /// Tiles of larger images.
    Sheets(Sheets),
    /// Images of one size in memory.
    Images { width: usize, height: usize, channels: usize, data: Vec<u8>, labels: Option<Vec<usize>> },
    /// The slices of an array along its first axis.
    Arrays { x: Tensor, labels: Option<Vec<usize>> },
    /// One data set behind the other.
    Chain(Vec<Dataset>),
}

/// The data set that sample `i` of a chain is in, and which it is there.
fn in_chain(parts: &[Dataset], mut i: usize) -> Option<(&Dataset, usize)> {
    for part in parts {
        if i < part.len() {
            return Some((part, i));
        }
        i -= part.len();
    }
    None
}

impl Source {
    /// Images [n, rows, columns] or [n, rows, columns, 1 or 3] of bytes.
    pub(crate) fn images(path: &Path, x: &Tensor, labels: Option<Vec<usize>>) -> Result<Source, DataError> {
        let (height, width, channels) = match *x.shape() {
            [_, h, w] => (h, w, 1),
            [_, h, w, c @ (1 | 3)] => (h, w, c),
            _ => return Err(DataError::format(path, format!("{x:?} is not a list of images"))),
        };
        Ok(Source::Images { width, height, channels, data: x.bytes().to_vec(), labels })
    }

    fn len(&self) -> usize {
        match self {
            Source::Files(files) => files.len(),
            Source::Sheets(sheets) => sheets.len(),
            Source::Images { width, height, channels, data, .. } => data.len() / (width * height * channels).max(1),
            Source::Arrays { x, .. } => x.shape().first().copied().unwrap_or(0),
            Source::Chain(parts) => parts.iter().map(Dataset::len).sum(),
        }
    }

    fn label(&self, i: usize) -> Option<usize> {
        match self {
            Source::Files(files) => files.get(i)?.1,
            Source::Sheets(sheets) => sheets.label(i),
            Source::Images { labels, .. } | Source::Arrays { labels, .. } => labels.as_ref()?.get(i).copied(),
            Source::Chain(parts) => in_chain(parts, i).and_then(|(part, i)| part.label(i)),
        }
    }

    fn item(&self, i: usize) -> Result<Item, DataError> {
        match self {
            Source::Files(files) => Pixels::open(&files[i].0).map(Item::Image),
            Source::Sheets(sheets) => sheets.tile(i).map(Item::Image),
            Source::Images { width, height, channels, data, .. } => {
                let n = width * height * channels;
                Pixels::new(*width, *height, *channels, data[i * n..(i + 1) * n].to_vec()).map(Item::Image)
            }
            Source::Arrays { x, .. } => {
                let shape = &x.shape()[1..];
                let n: usize = shape.iter().product();
                Ok(Item::Array(x.take(shape, i * n..(i + 1) * n)?))
            }
            Source::Chain(parts) => match in_chain(parts, i) {
                Some((part, i)) => part.item(i),
                None => Err(DataError::invalid(format!("sample {i} of {}", self.len()))),
            },
        }
    }
}

impl Dataset {
    pub(crate) fn new(name: &str, source: Source) -> Dataset {
        let indices = (0..source.len()).collect();
        Dataset { name: name.into(), source: Arc::new(source), indices }
    }

    /// Opens `PATH[:SPLIT][@SLICE]` (see [`DataSpec`]). PATH is
    /// - a folder with `labels.csv` (`file,class`), one folder per class, or just images,
    /// - a folder of mosaics: `test_labels.txt` beside `test_00.webp` … of 25 rows of 40 tiles,
    /// - a folder of IDX files, or one such file, plain or gzipped,
    /// - a folder with `x.npy` and `y.npy`, an `.npy` file (labels in `NAME_y.npy` or `y.npy` beside it), an `.npz` file with
    ///   `x` and `y`, or a folder with raw features (`NAME_1000x49x10_int8.bin` and `labels.txt`),
    /// - one image,
    /// - `zoo:NAME`, what the binary carries for that network.
    ///
    /// # Errors
    /// If nothing is there, or it is none of these, or the selection is empty.
    pub fn open(spec: &str) -> Result<Dataset, DataError> {
        let spec: DataSpec = spec.parse()?;
        let mut data = match spec.path.to_str().and_then(|p| p.strip_prefix("zoo:")) {
            Some(name) => {
                let entry = zoo::find(name)?;
                if spec.split.as_deref() == Some("calibrate") { (entry.calibrate)()? } else { (entry.test)()? }
            }
            None => Dataset::new(&spec.path.display().to_string(), open_path(&spec)?),
        };
        data.indices = spec.slice.indices(data.source.len());
        data.name = spec.to_string();
        if data.indices.is_empty() {
            let n = data.source.len();
            return Err(DataError::invalid(format!("{spec}: no sample is selected of the {n} that are there")));
        }
        Ok(data)
    }

    /// Images from files, without labels.
    pub fn from_files(paths: &[PathBuf]) -> Dataset {
        Dataset::new("files", Source::Files(paths.iter().map(|p| (p.clone(), None)).collect()))
    }

    /// The samples of several data sets, one behind the other. They keep their labels, whatever these mean.
    pub fn chain(parts: Vec<Dataset>) -> Dataset {
        let name = parts.iter().map(Dataset::name).collect::<Vec<_>>().join(", ");
        Dataset::new(&name, Source::Chain(parts))
    }

    /// What the data was opened as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// True if there is no sample.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The class of sample `i`, if known.
    pub fn label(&self, i: usize) -> Option<usize> {
        self.source.label(*self.indices.get(i)?)
    }

    /// Sample `i`.
    ///
    /// # Errors
    /// If there is no such sample, or its file cannot be read.
    pub fn item(&self, i: usize) -> Result<Item, DataError> {
        let Some(at) = self.indices.get(i) else {
            return Err(DataError::invalid(format!("{}: sample {i} of {}", self.name, self.len())));
        };
        self.source.item(*at)
    }

    /// The first `n` samples.
    #[must_use]
    pub fn take(mut self, n: usize) -> Dataset {
        self.indices.truncate(n);
        self
    }
}

fn open_path(spec: &DataSpec) -> Result<Source, DataError> {
    let path = spec.path.as_path();
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    if path.is_file() {
        return match extension.as_str() {
            "npy" => arrays::open_npy(path),
            "npz" => arrays::open_npz(path),
            "jpg" | "jpeg" | "png" | "webp" => Ok(Source::Files(vec![(path.into(), None)])),
            _ if idx::is_idx(path) => idx::open(path),
            _ => Err(DataError::format(path, "not data qing knows: images, .npy, .npz, or IDX files (…-idx3-ubyte)")),
        };
    }
    if !path.is_dir() {
        return Err(DataError::format(path, "no such file or folder"));
    }
    let split = spec.split.as_deref().unwrap_or("test");
    if path.join("labels.csv").is_file() {
        return folder::open_csv(path);
    }
    if let Some(sheets) = mosaic::open(path, split)? {
        return Ok(Source::Sheets(sheets));
    }
    if let Some(file) = idx::find(path, split) {
        return idx::open(&file);
    }
    if path.join("x.npy").is_file() {
        return arrays::open_npy(&path.join("x.npy"));
    }
    if let Some(source) = arrays::open_raw(path)? {
        return Ok(source);
    }
    folder::open_classes(path, spec.split.as_deref())
}

impl Item {
    /// What a file holds: an image, the array of an `.npy` file, or the named arrays of an `.npz` file.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(path: &Path) -> Result<Vec<(Option<String>, Item)>, DataError> {
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        Ok(match extension.as_str() {
            "npy" => vec![(None, Item::Array(npy::read(path)?))],
            "npz" => npy::read_npz(path)?.into_iter().map(|(name, x)| (Some(name), Item::Array(x))).collect(),
            _ => vec![(None, Item::Image(Pixels::open(path)?))],
        })
    }

    /// Element and shape, for messages.
    pub fn describe(&self) -> String {
        match self {
            Item::Image(p) => format!("an image of {}×{} with {} channels", p.width, p.height, p.channels),
            Item::Array(x) => {
                format!("{}{:?}", x.element(), x.shape())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_has_the_samples_of_its_parts_in_order() {
        let part = |spec: &str| Dataset::open(spec).unwrap();
        let parts = [part("zoo:fashion@3:6"), part("zoo:fashion:calibrate@0:2"), part("zoo:fashion@0:2")];
        let chain = Dataset::chain(parts.to_vec());
        assert_eq!(chain.len(), 7);
        let each = parts.iter().flat_map(|p| (0..p.len()).map(move |i| (p.item(i).unwrap(), p.label(i))));
        for (i, (item, label)) in each.enumerate() {
            assert_eq!((chain.item(i).unwrap(), chain.label(i)), (item, label), "sample {i}");
        }
        assert!(chain.item(7).is_err() && chain.label(7).is_none());
        assert_eq!(chain.take(4).len(), 4);
        assert!(Dataset::chain(vec![]).is_empty());
    }
}
