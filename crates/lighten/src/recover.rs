//! Winning back what lightening lost: the lighter network goes on learning, from labels and from the network it was made of.
//!
//! Distillation (Hinton et al., arXiv:1503.02531) with quantization-aware training of the widths that were chosen. What is trained is
//! a recipe, so that it can be read, changed, and run again by `train` alone.

use qing_train::recipe::Recipe;

use crate::{Effort, LightenError, Report};

/// What a recovery needs to know besides the report.
#[derive(Debug, Clone, PartialEq)]
pub struct Recovery {
    /// Name of the network and of the files that are written.
    pub name: String,
    /// The float network, a file or `zoo:NAME`: where training begins, and the teacher.
    pub model: String,
    /// Labelled samples, `PATH[:SPLIT][@SLICE]`.
    pub data: String,
    /// How images become inputs, as a network's metadata says it (`qing.input.scale`, `.mean`, `.std`).
    pub preprocess: Vec<(String, String)>,
    /// How often every sample is seen.
    pub epochs: u32,
    /// The highest learning rate.
    pub rate: f32,
    /// Samples in a batch.
    pub batch: usize,
    /// Whether images may be mirrored and shifted.
    pub augment: bool,
}

impl Recovery {
    /// The usual settings: one, four or twelve epochs.
    pub fn new(name: &str, model: &str, data: &str, effort: Effort) -> Recovery {
        let epochs = match effort {
            Effort::Quick => 1,
            Effort::Standard => 4,
            Effort::Thorough => 12,
        };
        Recovery {
            name: name.into(),
            model: model.into(),
            data: data.into(),
            preprocess: vec![],
            epochs,
            rate: 0.02,
            batch: 128,
            augment: true,
        }
    }

    /// The recipe: every layer at the widths that the report says it has.
    ///
    /// # Errors
    /// If a setting is none a recipe can have.
    pub fn recipe(&self, report: &Report) -> Result<Recipe, LightenError> {
        let mut text = format!("name = {}\n\n[model]\nfile = {}\n\n", quoted(&self.name), quoted(&self.model));
        text += &format!("[data]\ntrain = {}\nbatch = {}\n", quoted(&self.data), self.batch);
        for (key, value) in &self.preprocess {
            match key.strip_prefix("qing.input.") {
                Some("scale") => text += &format!("scale = {}\n", decimal(value)),
                Some(list @ ("mean" | "std")) if !value.is_empty() => {
                    let values: Vec<String> = value.split(',').map(decimal).collect();
                    text += &format!("{list} = [{}]\n", values.join(", "));
                }
                _ => {}
            }
        }
        if self.augment {
            text += "\n[augment]\ncrop = 4\nflip = 0.5\n";
        }
        text += &format!("\n[distill]\nteacher = {}\nweight = 0.7\ntemperature = 4.0\n", quoted(&self.model));
        text += &format!(
            "\n[optimizer]\nrate = {}\nweight_decay = 5e-5\naverage = 0.999\n",
            decimal(&self.rate.to_string())
        );
        text += &format!("\n[schedule]\nepochs = {}\nwarm_up = 0.02\n", self.epochs);
        // Widths that no layer has are those of no layer.
        text += "\n[quantize]\nbits = \"w8a8\"\n\n[quantize.layers]\n";
        for layer in report.layers.iter().filter(|l| l.weight_bits <= 8) {
            let widths = format!("w{}a{}", layer.weight_bits, layer.activation_bits.min(8));
            text += &format!("{} = {}\n", quoted(&layer.name), quoted(&widths));
        }
        Recipe::parse(&text, &[]).map_err(LightenError::from)
    }
}

/// A number as TOML writes one that is no integer.
fn decimal(text: &str) -> String {
    let text = text.trim();
    if text.contains(['.', 'e', 'E']) { text.into() } else { format!("{text}.0") }
}

/// Text as TOML writes it.
fn quoted(text: &str) -> String {
    let escaped: String =
        text.chars().flat_map(|c| if matches!(c, '"' | '\\') { vec!['\\', c] } else { vec![c] }).collect();
    format!("\"{escaped}\"")
}
