use std::{fmt, path::PathBuf, str::FromStr};

use crate::DataError;

/// Which samples of a data set are meant: `start:stop:step` as in Python, or, after `!`, all the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// First sample.
    pub start: usize,
    /// End, exclusive; `None`: to the last.
    pub stop: Option<usize>,
    /// Distance between samples, at least 1.
    pub step: usize,
    /// Meaning the samples not named.
    pub complement: bool,
}

impl Slice {
    /// Every sample.
    pub const ALL: Slice = Slice { start: 0, stop: None, step: 1, complement: false };

    /// The indices, below `len`, that are meant.
    pub fn indices(&self, len: usize) -> Vec<usize> {
        let stop = self.stop.unwrap_or(len);
        let named = |i: &usize| *i >= self.start && *i < stop && (i - self.start).is_multiple_of(self.step);
        (0..len).filter(|i| named(i) != self.complement).collect()
    }
}

impl FromStr for Slice {
    type Err = DataError;

    fn from_str(text: &str) -> Result<Slice, DataError> {
        let bad = || {
            DataError::invalid(format!(
                "`@{text}` selects nothing: write @start:stop:step (`@0::10`: every tenth), @!… for all others, or @100 \
                 for the first hundred"
            ))
        };
        let (complement, text) = text.strip_prefix('!').map_or((false, text), |rest| (true, rest));
        let parts: Result<Vec<Option<usize>>, _> =
            text.split(':').map(|p| if p.is_empty() { Ok(None) } else { p.parse().map(Some) }).collect();
        match parts.map_err(|_| bad())?[..] {
            [Some(n)] => Ok(Slice { start: 0, stop: Some(n), step: 1, complement }),
            [start, stop] => Ok(Slice { start: start.unwrap_or(0), stop, step: 1, complement }),
            [start, stop, step] if step != Some(0) => {
                Ok(Slice { start: start.unwrap_or(0), stop, step: step.unwrap_or(1), complement })
            }
            _ => Err(bad()),
        }
    }
}

/// Where data is and which part of it is meant: `PATH[:SPLIT][@SLICE]`.
///
/// `cifar10:train@0::50` is every fiftieth training image, `photos@!0::10` all photos but every tenth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataSpec {
    /// File or folder, or `zoo:NAME`.
    pub path: PathBuf,
    /// `train` or `test`, where the data has both.
    pub split: Option<String>,
    /// Which samples.
    pub slice: Slice,
}

impl FromStr for DataSpec {
    type Err = DataError;

    /// A path that exists is taken as it is, whatever characters it contains.
    fn from_str(text: &str) -> Result<DataSpec, DataError> {
        let whole = PathBuf::from(text);
        if whole.exists() {
            return Ok(DataSpec { path: whole, split: None, slice: Slice::ALL });
        }
        let (rest, slice) = match text.rsplit_once('@') {
            Some((rest, slice)) => (rest, slice.parse()?),
            None => (text, Slice::ALL),
        };
        let (path, split) = match rest.rsplit_once(':') {
            Some((path, split @ ("train" | "test" | "validation" | "calibrate"))) => (path, Some(split.to_string())),
            _ => (rest, None),
        };
        Ok(DataSpec { path: path.into(), split, slice })
    }
}

impl fmt::Display for DataSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if let Some(split) = &self.split {
            write!(f, ":{split}")?;
        }
        let Slice { start, stop, step, complement } = self.slice;
        if self.slice != Slice::ALL {
            let stop = stop.map(|n| n.to_string()).unwrap_or_default();
            write!(f, "@{}{start}:{stop}:{step}", if complement { "!" } else { "" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices() {
        let cases: &[(&str, usize, &[usize])] = &[
            ("3", 5, &[0, 1, 2]),
            ("1:3", 5, &[1, 2]),
            ("0::2", 5, &[0, 2, 4]),
            ("!0::2", 5, &[1, 3]),
            ("1::3", 5, &[1, 4]),
            (":", 2, &[0, 1]),
            ("!3", 5, &[3, 4]),
            ("9:", 5, &[]),
        ];
        for (text, len, want) in cases {
            assert_eq!(text.parse::<Slice>().unwrap().indices(*len), *want, "@{text}");
        }
        for bad in ["", "x", "1:2:0", "-1", "1:2:3:4"] {
            assert!(bad.parse::<Slice>().is_err(), "@{bad}");
        }
    }

    #[test]
    fn specs() {
        let spec: DataSpec = "nowhere/cifar10:train@0::50".parse().unwrap();
        assert_eq!((spec.path.to_str(), spec.split.as_deref()), (Some("nowhere/cifar10"), Some("train")));
        assert_eq!(spec.to_string(), "nowhere/cifar10:train@0::50");
        let spec: DataSpec = "zoo:fashion".parse().unwrap();
        assert_eq!((spec.path.to_str(), spec.split), (Some("zoo:fashion"), None));
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("a:test@3");
        std::fs::create_dir(&odd).unwrap();
        assert_eq!(odd.to_str().unwrap().parse::<DataSpec>().unwrap().path, odd);
    }
}
