//! Folders of image files: with `labels.csv`, with one folder per class, or without labels.

use std::path::{Path, PathBuf};

use crate::{DataError, dataset::Source, error::read_text};

const EXTENSIONS: [&str; 4] = ["jpg", "jpeg", "png", "webp"];

/// `labels.csv`: a header that names the columns `file` and `class` (a number), then one line an image.
pub(crate) fn open_csv(folder: &Path) -> Result<Source, DataError> {
    let path = folder.join("labels.csv");
    let text = read_text(&path)?;
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let header = lines.next().map(|(_, line)| fields(line)).unwrap_or_default();
    let column = |name: &str| {
        header.iter().position(|h| h == name).ok_or_else(|| {
            DataError::format(
                &path,
                format!("the first line must name the columns `file` and `class`; `{name}` is missing"),
            )
        })
    };
    let (file, class) = (column("file")?, column("class")?);
    let row = |(i, line): (usize, &str)| {
        let fields = fields(line);
        let (Some(file), Some(class)) = (fields.get(file), fields.get(class)) else {
            return Err(DataError::format(
                &path,
                format!("line {}: {} columns, fewer than the header", i + 1, fields.len()),
            ));
        };
        let class = class.parse::<usize>();
        let class =
            class.map_err(|_| DataError::format(&path, format!("line {}: the class is not a number", i + 1)))?;
        Ok((folder.join(file), Some(class)))
    };
    lines.map(row).collect::<Result<_, _>>().map(Source::Files)
}

/// Columns of a line; quotes keep commas together.
fn fields(line: &str) -> Vec<String> {
    let (mut out, mut quoted) = (vec![String::new()], false);
    for c in line.trim_end().chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => out.push(String::new()),
            _ => {
                if let Some(last) = out.last_mut() {
                    last.push(c);
                }
            }
        }
    }
    out.iter().map(|s| s.trim().to_string()).collect()
}

/// One folder per class, numbered in alphabetical order (or by name, where all names are numbers), or images alone.
pub(crate) fn open_classes(folder: &Path, split: Option<&str>) -> Result<Source, DataError> {
    let (mut files, mut folders) = list(folder)?;
    if let Some(split) = split {
        let Some(inside) = folders.iter().find(|f| f.ends_with(split)) else {
            return Err(DataError::format(folder, format!("there is no split `{split}`")));
        };
        (files, folders) = list(inside)?;
    }
    if folders.is_empty() {
        if files.is_empty() {
            return Err(DataError::format(
                folder,
                "no data qing knows is here: expected labels.csv, one folder per class, images, mosaics \
                 (test_labels.txt, test_00.webp …), IDX files, or x.npy with y.npy",
            ));
        }
        return Ok(Source::Files(files.into_iter().map(|f| (f, None)).collect()));
    }
    let numbers: Option<Vec<usize>> = folders.iter().map(|f| f.file_name()?.to_str()?.parse().ok()).collect();
    let mut out = vec![];
    for (i, class) in folders.iter().enumerate() {
        let label = numbers.as_ref().map_or(i, |n| n[i]);
        out.extend(list(class)?.0.into_iter().map(|f| (f, Some(label))));
    }
    if out.is_empty() {
        return Err(DataError::format(folder, "its folders hold no images (jpg, png, webp)"));
    }
    Ok(Source::Files(out))
}

/// Image files and folders inside a folder, each sorted by name.
fn list(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), DataError> {
    let (mut files, mut folders) = (vec![], vec![]);
    for entry in std::fs::read_dir(folder).map_err(|e| DataError::io(folder, e))? {
        let path = entry.map_err(|e| DataError::io(folder, e))?.path();
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        if hidden {
            continue;
        } else if path.is_dir() {
            folders.push(path);
        } else if EXTENSIONS.contains(&extension.as_str()) {
            files.push(path);
        }
    }
    files.sort();
    folders.sort();
    Ok((files, folders))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Dataset, Item};

    fn image(path: &Path, value: u8) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::GrayImage::from_raw(2, 2, vec![value; 4]).unwrap().save(path).unwrap();
    }

    #[test]
    fn labels_csv() {
        let folder = tempfile::tempdir().unwrap();
        image(&folder.path().join("a.png"), 7);
        let csv = folder.path().join("labels.csv");
        std::fs::write(&csv, "name,class,file\n\"one, two\",5,a.png\n\nx,6,b.png\n").unwrap();
        let data = Dataset::open(folder.path().to_str().unwrap()).unwrap();
        assert_eq!((data.len(), data.label(0), data.label(1)), (2, Some(5), Some(6)));
        assert!(matches!(data.item(0).unwrap(), Item::Image(p) if p.data == [7; 4]));
        assert!(data.item(1).unwrap_err().to_string().contains("b.png"));
        for bad in ["file\na.png\n", "file,class\na.png,dog\n", "file,class\na.png\n"] {
            std::fs::write(&csv, bad).unwrap();
            let error = Dataset::open(folder.path().to_str().unwrap()).unwrap_err().to_string();
            assert!(error.contains("labels.csv"), "{error}");
        }
    }

    #[test]
    fn one_folder_per_class() {
        let folder = tempfile::tempdir().unwrap();
        image(&folder.path().join("dog/1.png"), 2);
        image(&folder.path().join("cat/1.png"), 1);
        let path = folder.path().to_str().unwrap();
        let data = Dataset::open(path).unwrap();
        assert_eq!((data.label(0), data.label(1)), (Some(0), Some(1)));
        assert!(matches!(data.item(0).unwrap(), Item::Image(p) if p.data[0] == 1));
        assert!(Dataset::open(&format!("{path}:train")).is_err());
        assert!(Dataset::open(&format!("{path}@9:")).unwrap_err().to_string().contains("no sample"));
    }

    #[test]
    fn an_empty_folder_says_what_was_expected() {
        let folder = tempfile::tempdir().unwrap();
        let error = Dataset::open(folder.path().to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("labels.csv"), "{error}");
    }
}
