//! What a teacher says, on disk, so that it is asked once (Shen and Xing, "A fast knowledge distillation framework for visual
//! recognition", ECCV 2022).
//!
//! Where samples have a fixed number of augmented views, the teacher's logits for one view of one sample are the same in
//! every epoch and in every run. They are kept in a NumPy archive, for each view that was seen: `logits.V`, f32
//! `[samples, classes]`, and `inputs.V`, i64 `[samples]`: the CRC-32 of the input that the logits answer, −1 where there are none
//! yet. `key` is text that says which teacher they are of. The file is written beside the old one, synced and renamed over it.

use std::{
    collections::{BTreeMap, HashMap, btree_map::Entry},
    path::{Path, PathBuf},
    time::SystemTime,
};

use qing_data::npz;
use qing_formats::npy;
use qing_graph::{Graph, Tensor, dump};

use crate::TrainError;

/// First line of every key.
const VERSION: &str = "soft labels, version 1";

/// One view of all samples.
#[derive(Debug, Clone, PartialEq)]
struct View {
    /// `[samples, classes]`.
    logits: Vec<f32>,
    /// CRC-32 of the input each row answers; −1 where there is no row yet.
    inputs: Vec<i64>,
}

/// The logits of one teacher for views of samples, as far as they are known.
#[derive(Debug)]
pub(super) struct SoftLabels {
    path: PathBuf,
    key: String,
    samples: usize,
    classes: usize,
    views: BTreeMap<u32, View>,
    /// Whether there are rows that the file may not have.
    new: bool,
    /// When the file that was read last was written.
    read: Option<SystemTime>,
}

/// Which teacher is asked about what: a line for each thing that must be the same.
///
/// The inputs themselves are in no key. Each row keeps the checksum of its own, which holds it to data, preprocessing,
/// augmentation and seed together.
pub(super) fn key(teacher: &Graph, samples: usize, classes: usize, seed: u64, changes: &str) -> String {
    let mut sum = crc32fast::Hasher::new();
    sum.update(dump::dump(teacher).as_bytes());
    for (_, value) in teacher.values() {
        value.constant.iter().for_each(|c| sum.update(c.bytes()));
    }
    let teacher = sum.finalize();
    format!(
        "{VERSION}\nteacher: {teacher:08x}\nsamples: {samples}\nclasses: {classes}\nseed: {seed}\naugmentation: {changes}\n"
    )
}

impl SoftLabels {
    /// What is in the file, or nothing if there is none yet.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged, or has another key.
    pub(super) fn open(path: &Path, key: String, samples: usize, classes: usize) -> Result<SoftLabels, TrainError> {
        let mut labels = SoftLabels {
            path: path.to_path_buf(),
            key,
            samples,
            classes,
            views: BTreeMap::new(),
            new: false,
            read: None,
        };
        labels.refresh()?;
        Ok(labels)
    }

    /// The logits of view `view` of a sample, if they are known; `input` is what the network is shown.
    ///
    /// # Errors
    /// If the logits are those for another input.
    pub(super) fn get(&self, view: u32, sample: usize, input: &[u8]) -> Result<Option<&[f32]>, TrainError> {
        let Some(known) = self.views.get(&view) else { return Ok(None) };
        match known.inputs[sample] {
            -1 => Ok(None),
            sum if sum == checksum(input) => Ok(Some(&known.logits[sample * self.classes..][..self.classes])),
            _ => Err(TrainError::invalid(format!(
                "{}: what it holds for view {view} of sample {sample} answers another input, so data, preprocessing, \
                 augmentation or seed were different; name another file as distill.cache, or delete this one",
                self.path.display()
            ))),
        }
    }

    /// Notes what the teacher says about view `view` of a sample.
    pub(super) fn put(&mut self, view: u32, sample: usize, input: &[u8], logits: &[f32]) {
        let (samples, classes) = (self.samples, self.classes);
        let empty = || View { logits: vec![0.0; samples * classes], inputs: vec![-1; samples] };
        let known = self.views.entry(view).or_insert_with(empty);
        known.logits[sample * classes..][..classes].copy_from_slice(logits);
        known.inputs[sample] = checksum(input);
        self.new = true;
    }

    /// Writes what is known, if the file may not have it, with what other runs have written since.
    ///
    /// # Errors
    /// If the file cannot be written, or has become one of another key.
    pub(super) fn save(&mut self) -> Result<(), TrainError> {
        if !self.new {
            return Ok(());
        }
        self.refresh()?;
        let mut arrays = vec![("key".to_string(), Tensor::vector(self.key.as_bytes().to_vec()))];
        for (number, view) in &self.views {
            let logits = Tensor::new(&[self.samples, self.classes], view.logits.clone())?;
            arrays.push((format!("logits.{number}"), logits));
            arrays.push((format!("inputs.{number}"), Tensor::vector(view.inputs.clone())));
        }
        npz::write(&self.path, &arrays)?;
        self.new = false;
        Ok(())
    }

    /// Takes what the file has and this has not, if it was written since it was read last; says whether it was.
    ///
    /// # Errors
    /// As [`SoftLabels::open`].
    pub(super) fn refresh(&mut self) -> Result<bool, TrainError> {
        let written = std::fs::metadata(&self.path).and_then(|m| m.modified()).ok();
        if written.is_none() || written == self.read {
            return Ok(false);
        }
        let arrays = npy::read_npz(&self.path)?;
        self.take(&arrays).map_err(|what| {
            TrainError::invalid(format!(
                "{}: {what}; name another file as distill.cache, or delete this one",
                self.path.display()
            ))
        })?;
        self.read = written;
        Ok(true)
    }

    fn take(&mut self, arrays: &HashMap<String, Tensor>) -> Result<(), String> {
        let key = arrays.get("key").ok_or("`key` is missing: no soft labels")?;
        let key = String::from_utf8_lossy(key.bytes());
        if key != self.key {
            let mut lines = key.lines().zip(self.key.lines());
            let (old, new) = lines.find(|(a, b)| a != b).unwrap_or(("", "another length"));
            return Err(format!("soft labels of another teacher or other samples (`{old}`, this run has `{new}`)"));
        }
        for (name, logits) in arrays {
            let Some(number) = name.strip_prefix("logits.") else { continue };
            let number: u32 = number.parse().map_err(|_| format!("`{name}` is no view"))?;
            let inputs = arrays.get(&format!("inputs.{number}")).ok_or(format!("`inputs.{number}` is missing"))?;
            let view = View { logits: logits.to_f32s(), inputs: inputs.to_i64s() };
            if logits.shape() != [self.samples, self.classes] || inputs.shape() != [self.samples] {
                return Err(format!("view {number} has an unknown layout"));
            }
            match self.views.entry(number) {
                Entry::Vacant(entry) => _ = entry.insert(view),
                Entry::Occupied(mut entry) => {
                    let mine = entry.get_mut();
                    for i in 0..self.samples {
                        if mine.inputs[i] >= 0 || view.inputs[i] < 0 {
                            continue;
                        }
                        mine.inputs[i] = view.inputs[i];
                        let row = i * self.classes..(i + 1) * self.classes;
                        mine.logits[row.clone()].copy_from_slice(&view.logits[row]);
                    }
                }
            }
        }
        Ok(())
    }
}

/// CRC-32 of an input, where −1 is free to say that there is none.
fn checksum(input: &[u8]) -> i64 {
    crc32fast::hash(input).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path, key: &str) -> Result<SoftLabels, TrainError> {
        SoftLabels::open(path, format!("{VERSION}\nteacher: {key}\n"), 5, 2)
    }

    #[test]
    fn rows_come_back_and_gaps_are_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.npz");
        let mut labels = open(&path, "a").unwrap();
        labels.save().unwrap();
        assert!(!path.exists(), "nothing to write");
        labels.put(3, 1, b"one", &[0.5, -1.0]);
        labels.save().unwrap();
        let back = open(&path, "a").unwrap();
        assert_eq!(back.get(3, 1, b"one").unwrap(), Some(&[0.5, -1.0][..]));
        for (view, sample) in [(3, 0), (3, 2), (0, 1), (4, 1)] {
            assert_eq!(back.get(view, sample, b"one").unwrap(), None, "view {view} of sample {sample}");
        }
    }

    #[test]
    fn runs_that_share_a_file_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.npz");
        let (mut a, mut b) = (open(&path, "a").unwrap(), open(&path, "a").unwrap());
        a.put(0, 0, b"zero", &[1.0, 2.0]);
        a.put(1, 0, b"other", &[3.0, 4.0]);
        a.save().unwrap();
        b.put(0, 4, b"four", &[5.0, 6.0]);
        b.save().unwrap();
        assert_eq!(a.get(0, 4, b"four").unwrap(), None);
        assert!(a.refresh().unwrap() && !a.refresh().unwrap());
        for labels in [a, b, open(&path, "a").unwrap()] {
            assert_eq!(labels.get(0, 0, b"zero").unwrap(), Some(&[1.0, 2.0][..]));
            assert_eq!(labels.get(1, 0, b"other").unwrap(), Some(&[3.0, 4.0][..]));
            assert_eq!(labels.get(0, 4, b"four").unwrap(), Some(&[5.0, 6.0][..]));
        }
    }

    #[test]
    fn other_teachers_other_inputs_and_damage_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.npz");
        let mut labels = open(&path, "a").unwrap();
        labels.put(0, 1, b"one", &[0.5, -1.0]);
        labels.save().unwrap();
        let error = labels.get(0, 1, b"two").unwrap_err().to_string();
        assert!(error.contains("view 0 of sample 1") && error.contains("distill.cache"), "{error}");
        let error = open(&path, "b").unwrap_err().to_string();
        assert!(error.contains("teacher: a") && error.contains("teacher: b"), "{error}");
        let error = SoftLabels::open(&path, labels.key.clone(), 6, 2).unwrap_err().to_string();
        assert!(error.contains("layout"), "{error}");
        let bytes = std::fs::read(&path).unwrap();
        for cut in [0, 10, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            assert!(open(&path, "a").is_err(), "{cut} bytes");
        }
        // Neither is it written over.
        labels.put(0, 2, b"three", &[0.0, 1.0]);
        assert!(labels.save().is_err());
    }
}
