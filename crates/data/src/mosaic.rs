//! Mosaics: many small images in few large ones, losslessly compressed together.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use crate::{DataError, Pixels, error::read_text};

/// Tiles in a row of the mosaics found in folders.
const COLUMNS: usize = 40;
/// Rows of tiles in such a mosaic.
const ROWS: usize = 25;

/// Square tiles, sheet by sheet, row by row; a sheet is decoded when the first of its tiles is asked for.
pub(crate) struct Sheets {
    sheets: Vec<Sheet>,
    columns: usize,
    per_sheet: usize,
    tile: Option<usize>,
    labels: Option<Vec<usize>>,
    count: usize,
}

struct Sheet {
    bytes: Encoded,
    pixels: OnceLock<Result<Pixels, String>>,
}

enum Encoded {
    File(PathBuf),
    Memory(&'static [u8]),
}

impl fmt::Debug for Sheets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sheets({} tiles)", self.count)
    }
}

impl Sheets {
    /// The tiles of one sheet in memory, `columns` in a row, each `tile` pixels wide and high.
    pub(crate) fn embedded(
        bytes: &'static [u8],
        columns: usize,
        tile: usize,
        count: usize,
        labels: Option<Vec<usize>>,
    ) -> Sheets {
        let sheet = Sheet { bytes: Encoded::Memory(bytes), pixels: OnceLock::new() };
        Sheets { sheets: vec![sheet], columns, per_sheet: count, tile: Some(tile), labels, count }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn label(&self, i: usize) -> Option<usize> {
        self.labels.as_ref()?.get(i).copied()
    }

    pub(crate) fn tile(&self, i: usize) -> Result<Pixels, DataError> {
        let sheet = &self.sheets[i / self.per_sheet];
        let pixels = sheet.pixels.get_or_init(|| {
            match &sheet.bytes {
                Encoded::File(path) => Pixels::open(path),
                Encoded::Memory(bytes) => Pixels::decode(bytes),
            }
            .map_err(|e| e.to_string())
        });
        let pixels = pixels.as_ref().map_err(|e| DataError::invalid(e.clone()))?;
        let side = self.tile.unwrap_or(pixels.width / self.columns);
        let at = i % self.per_sheet;
        pixels.crop(at % self.columns * side, at / self.columns * side, side, side)
    }
}

/// The mosaics `SPLIT_00.webp` … beside `SPLIT_labels.txt`, if the folder has them.
pub(crate) fn open(folder: &Path, split: &str) -> Result<Option<Sheets>, DataError> {
    let path = folder.join(format!("{split}_labels.txt"));
    if !path.is_file() {
        return Ok(None);
    }
    let labels = parse_labels(&read_text(&path)?).map_err(|e| DataError::format(&path, e))?;
    let per_sheet = COLUMNS * ROWS;
    let mut sheets = vec![];
    for i in 0..labels.len().div_ceil(per_sheet) {
        let file = ["webp", "png"].iter().map(|e| folder.join(format!("{split}_{i:02}.{e}"))).find(|p| p.is_file());
        let Some(file) = file else {
            let n = labels.len();
            return Err(DataError::format(
                folder,
                format!("{n} labels, but the mosaic {split}_{i:02}.webp is missing"),
            ));
        };
        sheets.push(Sheet { bytes: Encoded::File(file), pixels: OnceLock::new() });
    }
    let count = labels.len();
    Ok(Some(Sheets { sheets, columns: COLUMNS, per_sheet, tile: None, labels: Some(labels), count }))
}

/// Classes as numbers, one a line.
pub(crate) fn parse_labels(text: &str) -> Result<Vec<usize>, String> {
    text.split_whitespace()
        .enumerate()
        .map(|(i, word)| word.parse().map_err(|_| format!("line {}: the class `{word}` is not a number", i + 1)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dataset, Item};

    #[test]
    fn tiles_row_by_row() {
        let folder = tempfile::tempdir().unwrap();
        let (w, h) = (COLUMNS * 2, ROWS * 2);
        let tile_of = |x: usize, y: usize| (y / 2 * COLUMNS + x / 2) as u8;
        let data = (0..w * h).map(|i| tile_of(i % w, i / w)).collect();
        let sheet = image::GrayImage::from_raw(w as u32, h as u32, data).unwrap();
        sheet.save(folder.path().join("test_00.png")).unwrap();
        std::fs::write(folder.path().join("test_labels.txt"), "3\n".repeat(60)).unwrap();
        let data = Dataset::open(folder.path().to_str().unwrap()).unwrap();
        assert_eq!((data.len(), data.label(59)), (60, Some(3)));
        for i in [0, 1, 41] {
            assert!(matches!(data.item(i).unwrap(), Item::Image(p) if p.data == [i as u8; 4]));
        }
        std::fs::write(folder.path().join("test_labels.txt"), "3\n".repeat(1001)).unwrap();
        let error = Dataset::open(folder.path().to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("test_01.webp"), "{error}");
    }
}
