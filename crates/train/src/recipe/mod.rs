//! A run as a file: network, data, loss, optimizer, schedule.
//!
//! Recipes are TOML. A key that means nothing is an error that lists those that would, so that a misspelt setting never
//! silently is the default. What a recipe says is in [`Recipe`]; [`run`](crate::run) does it.

mod sections;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::TrainError;
pub use sections::{
    AugmentSection, ColourSection, CurveName, CutoutSection, DataSection, DistillSection, FillName, LossName,
    LossSection, MasksSection, MethodName, ModelSection, OptimizerSection, QuantizeSection, ScheduleSection,
    UpdateSection,
};

/// A run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the network and of the files that are written.
    pub name: String,
    /// What for, and with what result; for people.
    #[serde(default)]
    pub about: String,
    /// What everything random is drawn from.
    #[serde(default = "one")]
    pub seed: u64,
    /// Whether convolutions, their gradients with them, multiply factors that are rounded to bfloat16 where the processor has instructions
    /// for it: up to twice as fast. What is quantized to eight bits or fewer is not changed by rounding, so networks of few
    /// bits come out as before; gradients keep eight significant bits. Other machines train on with floats.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bf16: bool,
    /// What is trained.
    pub model: ModelSection,
    /// On what.
    pub data: DataSection,
    /// How samples are changed.
    #[serde(default)]
    pub augment: AugmentSection,
    /// What is made small.
    #[serde(default)]
    pub loss: LossSection,
    /// To how few bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantize: Option<QuantizeSection>,
    /// What is updated, if not all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<UpdateSection>,
    /// A network to learn from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distill: Option<DistillSection>,
    /// From gradients to values.
    pub optimizer: OptimizerSection,
    /// For how long, and how fast.
    pub schedule: ScheduleSection,
}

fn one() -> u64 {
    1
}

impl Recipe {
    /// Reads a recipe, with settings over it: `optimizer.rate=0.1` each.
    ///
    /// # Errors
    /// If the file cannot be read or a key or value is not one; the message says which are.
    pub fn read(path: &Path, settings: &[String]) -> Result<Recipe, TrainError> {
        let text = std::fs::read_to_string(path).map_err(|e| TrainError::io(path, e))?;
        Recipe::parse(&text, settings).map_err(|e| TrainError::invalid(format!("{}: {e}", path.display())))
    }

    /// [`Recipe::read`] for text.
    ///
    /// # Errors
    /// As [`Recipe::read`].
    pub fn parse(text: &str, settings: &[String]) -> Result<Recipe, TrainError> {
        let bad = |e: toml::de::Error| TrainError::invalid(e.to_string().trim_end().to_string());
        if settings.is_empty() {
            return toml::from_str(text).map_err(bad);
        }
        let mut table: toml::Table = toml::from_str(text).map_err(bad)?;
        for setting in settings {
            set(&mut table, setting)?;
        }
        table.try_into().map_err(bad)
    }

    /// Whether the teacher alone says what the network should give, so that samples need no labels.
    pub fn unlabelled(&self) -> bool {
        self.distill.as_ref().is_some_and(|d| d.weight >= 1.0)
    }

    /// The recipe as TOML, defaults and all.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }
}

/// `a.b=value` in a table; the value is TOML, or else a string.
fn set(table: &mut toml::Table, setting: &str) -> Result<(), TrainError> {
    let bad = |what: &str| TrainError::invalid(format!("`{setting}`: {what}; write SECTION.KEY=VALUE"));
    let (key, value) = setting.split_once('=').ok_or_else(|| bad("there is no `=`"))?;
    let value = value.trim();
    let parsed = toml::from_str::<toml::Table>(&format!("v = {value}")).ok().and_then(|mut t| t.remove("v"));
    let value = parsed.unwrap_or_else(|| toml::Value::String(value.into()));
    let mut keys: Vec<&str> = key.trim().split('.').collect();
    let last = keys.pop().filter(|k| !k.is_empty()).ok_or_else(|| bad("there is no key"))?;
    let mut at = table;
    for key in keys {
        let entry = at.entry(key).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        at = entry.as_table_mut().ok_or_else(|| bad(&format!("`{key}` is no section")))?;
    }
    at.insert(last.into(), value);
    Ok(())
}

/// A path a recipe names: seen from the recipe's folder if there is such a thing, else as it is.
pub(crate) fn beside(folder: &Path, spec: &str) -> String {
    let rest = spec.split_once(['@']).map_or(spec, |(p, _)| p);
    let bare = rest.rsplit_once(':').map_or(rest, |(p, _)| p);
    let absolute = Path::new(spec).is_absolute();
    let found = [rest, bare].iter().any(|p| !p.is_empty() && folder.join(p).exists());
    if !absolute && found { folder.join(spec).display().to_string() } else { spec.into() }
}

/// Where a run's files go: `FOLDER/NAME` with an extension each.
pub(crate) fn file(folder: &Path, name: &str, extension: &str) -> PathBuf {
    folder.join(format!("{name}.{extension}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
        name = 'small'
        [model]
        architecture = 'resnet8'
        [data]
        train = 'cifar10:train'
        preset = 'cifar10'
        [optimizer]
        rate = 0.1
        [schedule]
        epochs = 2
    ";

    #[test]
    fn defaults_and_settings() {
        let recipe = Recipe::parse(TEXT, &[]).unwrap();
        assert_eq!((recipe.seed, recipe.data.batch, recipe.optimizer.momentum), (1, 128, 0.9));
        let settings = ["optimizer.rate=0.5", "augment.crop=4", "model.architecture=resnet20", "seed=7"];
        let changed = Recipe::parse(TEXT, &settings.map(String::from)).unwrap();
        assert_eq!((changed.optimizer.rate, changed.augment.crop, changed.seed), (0.5, 4, 7));
        assert_eq!(changed.model.architecture.as_deref(), Some("resnet20"));
        assert_eq!(Recipe::parse(&changed.to_toml(), &[]).unwrap(), changed);
    }

    #[test]
    fn misspelt_keys_are_told_what_there_is() {
        let error = Recipe::parse(&TEXT.replace("epochs", "epoch"), &[]).unwrap_err().to_string();
        assert!(error.contains("epoch") && error.contains("epochs") && error.contains("warm_up"), "{error}");
        let error = Recipe::parse(TEXT, &["optimizer.method=sdg".into()]).unwrap_err().to_string();
        assert!(error.contains("sdg") && error.contains("adamw"), "{error}");
        for bad in ["rate", "=1", "name.x=1"] {
            assert!(Recipe::parse(TEXT, &[bad.into()]).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_are_seen_from_the_recipe() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("images")).unwrap();
        let at = folder.path().join("images").display().to_string();
        assert_eq!(beside(folder.path(), "images:train@0::2"), format!("{at}:train@0::2"));
        assert_eq!(beside(folder.path(), "images"), at);
        assert_eq!(beside(folder.path(), "elsewhere:train"), "elsewhere:train");
        assert_eq!(beside(folder.path(), "zoo:fashion"), "zoo:fashion");
    }
}
