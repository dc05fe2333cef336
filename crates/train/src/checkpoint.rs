//! Where a run stands, on disk, so that it can be killed at any moment.
//!
//! A checkpoint is a NumPy archive, so that other tools can look at it: parameters, running statistics, averages, the
//! optimizer's vectors, and the epoch and step, from which all random numbers follow. It is written beside the old one,
//! synced and renamed over it: there is always a whole one. A resumed run comes to the same weights, bit for bit.

use std::{collections::HashMap, path::Path};

use qing_data::npz;
use qing_formats::{atomic, npy};
use qing_graph::Tensor;

use crate::{
    TrainError,
    curves::Row,
    parameters::{Model, Values},
    trainer::State,
};

/// Version of the layout.
const VERSION: i64 = 1;

/// Where a run stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// What the run is made by, as text; another recipe cannot resume it.
    pub recipe: String,
    /// Epochs finished.
    pub epoch: u32,
    /// Steps finished in the epoch that runs.
    pub step: usize,
    /// Sum of the losses, samples classified correctly and samples seen in the epoch that runs.
    pub partial: [f64; 3],
    /// Seconds trained so far.
    pub seconds: f64,
    /// What was measured after each epoch.
    pub history: Vec<Row>,
    /// Values and the optimizer's state.
    pub state: State,
}

fn names(model: &Model) -> String {
    let parameters = model.parameters.iter().map(|p| p.name.as_str());
    parameters.chain(model.statistics.iter().map(|s| s.name.as_str())).collect::<Vec<_>>().join("\n")
}

fn text(value: &str) -> Tensor {
    Tensor::vector(value.as_bytes().to_vec())
}

impl Checkpoint {
    /// Writes it whole or not at all.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path, model: &Model) -> Result<(), TrainError> {
        let state = &self.state;
        let history: Vec<f64> = self.history.iter().flat_map(Row::numbers).collect();
        let average = state.average.as_ref().map_or(-1, |(n, _)| *n as i64);
        let position =
            vec![VERSION, self.epoch.into(), self.step as i64, state.steps as i64, average, self.history.len() as i64];
        let mut arrays = vec![
            ("position".to_string(), Tensor::vector(position)),
            ("partial".to_string(), Tensor::vector([&self.partial[..], &[self.seconds]].concat())),
            ("history".to_string(), Tensor::vector(history)),
            ("recipe".to_string(), text(&self.recipe)),
            ("names".to_string(), text(&names(model))),
        ];
        let mut add = |name: String, value: &[f32]| arrays.push((name, Tensor::vector(value.to_vec())));
        let mut both = |prefix: &str, values: &Values| {
            values.parameters.iter().enumerate().for_each(|(i, v)| add(format!("{prefix}parameter.{i}"), v));
            values.statistics.iter().enumerate().for_each(|(i, v)| add(format!("{prefix}statistic.{i}"), v));
        };
        both("", &state.values);
        if let Some((_, values)) = &state.average {
            both("average.", values);
        }
        for (i, vectors) in state.optimizer.iter().enumerate() {
            vectors.iter().enumerate().for_each(|(k, v)| add(format!("optimizer.{i}.{k}"), v));
        }
        let bytes = npz::format(&arrays).map_err(|e| TrainError::io(path, e))?;
        Ok(atomic::write(path, &bytes)?)
    }

    /// Reads a checkpoint of this network.
    ///
    /// # Errors
    /// If the file cannot be read, is damaged, or is of another network.
    pub fn read(path: &Path, model: &Model) -> Result<Checkpoint, TrainError> {
        let arrays = npy::read_npz(path)?;
        Checkpoint::from_arrays(&arrays, model)
            .map_err(|what| TrainError::invalid(format!("{}: no checkpoint of this run: {what}", path.display())))
    }

    /// The trained values in a checkpoint of whatever network by their names, averages where there are any.
    ///
    /// # Errors
    /// If the file cannot be read, or is no checkpoint.
    pub fn read_parameters(path: &Path) -> Result<HashMap<String, Vec<f32>>, TrainError> {
        let arrays = npy::read_npz(path)?;
        let names = arrays.get("names").map(|names| String::from_utf8_lossy(names.bytes()).into_owned());
        let value = |i: usize| {
            arrays
                .get(&format!("average.parameter.{i}"))
                .or_else(|| arrays.get(&format!("parameter.{i}")))
                .map(Tensor::to_f32s)
        };
        let found: HashMap<String, Vec<f32>> = (names.iter().flat_map(|names| names.lines()).enumerate())
            .filter_map(|(i, name)| Some((name.to_owned(), value(i)?)))
            .collect();
        match found.is_empty() {
            true => Err(TrainError::invalid(format!("{}: no checkpoint of a run", path.display()))),
            false => Ok(found),
        }
    }

    fn from_arrays(arrays: &HashMap<String, Tensor>, model: &Model) -> Result<Checkpoint, String> {
        let get = |name: &str| arrays.get(name).ok_or_else(|| format!("`{name}` is missing"));
        let string = |name: &str| Ok::<_, String>(String::from_utf8_lossy(get(name)?.bytes()).into_owned());
        let floats = |name: &str, n: usize| {
            let tensor = get(name)?;
            match tensor.len() == n {
                true => Ok(tensor.to_f32s()),
                false => Err(format!("`{name}` has {} values, expected {n}", tensor.len())),
            }
        };
        let position = get("position")?.to_i64s();
        let &[version, epoch, step, steps, average, rows] = &position[..] else {
            return Err("`position` has an unknown layout".into());
        };
        if version != VERSION {
            return Err(format!("version {version}, expected {VERSION}"));
        }
        if string("names")? != names(model) {
            return Err("it is of a network with other parameters".into());
        }
        let partial = get("partial")?.to_f64s();
        let &[a, b, c, seconds] = &partial[..] else { return Err("`partial` has an unknown layout".into()) };
        let numbers = get("history")?.to_f64s();
        let history: Vec<Row> = numbers.chunks_exact(Row::COLUMNS.len()).map(Row::from_numbers).collect();
        if history.len() as i64 != rows {
            return Err("`history` has an unknown layout".into());
        }
        let both = |prefix: &str| {
            let parameters = (model.parameters.iter().enumerate())
                .map(|(i, p)| floats(&format!("{prefix}parameter.{i}"), p.value.len()))
                .collect::<Result<_, String>>()?;
            let statistics = (model.statistics.iter().enumerate())
                .map(|(i, s)| floats(&format!("{prefix}statistic.{i}"), s.running.len()))
                .collect::<Result<_, String>>()?;
            Ok::<_, String>(Values { parameters, statistics })
        };
        let optimizer = (model.parameters.iter().enumerate())
            .map(|(i, p)| {
                (0..)
                    .map(|k| format!("optimizer.{i}.{k}"))
                    .take_while(|name| arrays.contains_key(name))
                    .map(|name| floats(&name, p.value.len()))
                    .collect::<Result<Vec<_>, String>>()
            })
            .collect::<Result<Vec<_>, String>>()?;
        let average = if average < 0 { None } else { Some((average as u64, both("average.")?)) };
        let counted = |n: i64| usize::try_from(n).map_err(|_| "negative counts".to_string());
        Ok(Checkpoint {
            recipe: string("recipe")?,
            epoch: u32::try_from(epoch).map_err(|_| "negative counts")?,
            step: counted(step)?,
            partial: [a, b, c],
            seconds,
            history,
            state: State { values: both("")?, average, steps: counted(steps)? as u64, optimizer },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        architectures::{self, Settings},
        parameters::{Exposure, expose},
    };

    fn model(name: &str) -> Model {
        let settings = Settings { input: vec![1, 28, 28], classes: 10, seed: 1 };
        expose(&architectures::build(name, &settings).unwrap(), &Exposure::all(2)).unwrap()
    }

    #[test]
    fn comes_back_as_written() {
        let model = model("fashion");
        let optimizer = model.parameters.iter().map(|p| vec![vec![0.25; p.value.len()]; 2]).collect();
        let row = Row { epoch: 1.0, rate: 0.1, loss: 2.5, accuracy: 0.1, seconds: 3.25, ..Row::default() };
        let checkpoint = Checkpoint {
            recipe: "name = \"ŷ\"".into(),
            epoch: 3,
            step: 17,
            partial: [0.1, 2.0, 3.0],
            seconds: 1.5,
            history: vec![row],
            state: State { values: model.values(), average: Some((9, model.values())), steps: 99, optimizer },
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.npz");
        checkpoint.write(&path, &model).unwrap();
        let back = Checkpoint::read(&path, &model).unwrap();
        // What was not measured is no number, and equals nothing.
        assert_eq!(format!("{back:?}"), format!("{checkpoint:?}"));
    }

    #[test]
    fn other_networks_and_damage_are_refused() {
        let model = model("fashion");
        let state = State { values: model.values(), average: None, steps: 0, optimizer: vec![vec![]; 9] };
        let checkpoint = Checkpoint {
            recipe: String::new(),
            epoch: 0,
            step: 0,
            partial: [0.0; 3],
            seconds: 0.0,
            history: vec![],
            state,
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.npz");
        checkpoint.write(&path, &model).unwrap();
        let error = Checkpoint::read(&path, &self::model("resnet8")).unwrap_err().to_string();
        assert!(error.contains("other parameters"), "{error}");
        let bytes = std::fs::read(&path).unwrap();
        for cut in [0, 10, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            assert!(Checkpoint::read(&path, &model).is_err(), "{cut} bytes");
            assert!(Checkpoint::read_parameters(&path).is_err(), "{cut} bytes");
        }
        assert!(Checkpoint::read(&folder.path().join("none"), &model).is_err());
    }
}
