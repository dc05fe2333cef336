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
    /// The network with which training begins, a file or `zoo:NAME`.
    pub model: String,
    /// The network that teaches: the float one.
    pub teacher: String,
    /// Samples, `PATH[:SPLIT][@SLICE]`.
    pub data: String,
    /// Only so many of them.
    pub limit: Option<usize>,
    /// Whether they have labels to learn from; else the teacher alone says what is right.
    pub labelled: bool,
    /// How images become inputs, as a network's metadata says it (`qing.input.scale`, `.mean`, `.std`).
    pub preprocess: Vec<(String, String)>,
    /// How often every sample is seen.
    pub epochs: u32,
    /// The highest learning rate.
    pub rate: f32,
    /// Samples in a batch.
    pub batch: usize,
    /// Pixels by which images are shifted and how often they are mirrored, if they may be.
    pub augment: Option<(usize, f32)>,
}

/// Steps of a recovery without labels.
const STEPS: usize = 900;
/// Values of a sample from which on batches are small: what a step remembers grows with both.
const LARGE: usize = 16_384;

impl Recovery {
    /// On labelled samples: one, four or twelve epochs.
    pub fn labelled(name: &str, model: &str, data: &str, effort: Effort) -> Recovery {
        let epochs = match effort {
            Effort::Quick => 1,
            Effort::Standard => 4,
            Effort::Thorough => 12,
        };
        Recovery {
            name: name.into(),
            model: model.into(),
            teacher: model.into(),
            data: data.into(),
            limit: None,
            labelled: true,
            preprocess: vec![],
            epochs,
            rate: 0.02,
            batch: 128,
            augment: Some((4, 0.5)),
        }
    }

    /// On `samples` unlabelled samples of `values` numbers each, few as they may be: mixed with each other (mixup, Zhang et al.,
    /// arXiv:1710.09412) they are as many as one likes, and the teacher knows what is right for every mixture. That a student so
    /// comes to compute the same function is the finding of Beyer et al., arXiv:2106.05237.
    pub fn unlabelled(name: &str, model: &str, data: &str, samples: usize, values: usize) -> Recovery {
        let large = values > LARGE;
        let batch = if large { 16 } else { 64 }.min(samples.max(1));
        let epochs = (STEPS * batch).div_ceil(samples.max(1) / batch * batch) as u32;
        Recovery {
            limit: Some(samples),
            labelled: false,
            epochs,
            rate: if large { 0.001 } else { 0.01 },
            batch,
            augment: Some((if large { 16 } else { 4 }, 0.5)),
            ..Recovery::labelled(name, model, data, Effort::Standard)
        }
    }

    /// The recipe: every layer at the widths that the report says it has.
    ///
    /// # Errors
    /// If a setting is none a recipe can have.
    pub fn recipe(&self, report: &Report) -> Result<Recipe, LightenError> {
        let mut text = format!("name = {}\n\n[model]\nfile = {}\n\n", quoted(&self.name), quoted(&self.model));
        text += &format!("[data]\ntrain = {}\nbatch = {}\n", quoted(&self.data), self.batch);
        text += &self.limit.map_or_else(String::new, |n| format!("limit = {n}\n"));
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
        text += "\n[augment]\n";
        if let Some((shift, flip)) = self.augment {
            text += &format!("crop = {shift}\nflip = {}\n", decimal(&flip.to_string()));
        }
        text += if self.labelled { "" } else { "mixup = 1.0\n" };
        let (weight, decay, average) = if self.labelled { ("0.7", "5e-5", "0.999") } else { ("1.0", "0.0", "0.99") };
        text += &format!("\n[distill]\nteacher = {}\nweight = {weight}\ntemperature = 4.0\n", quoted(&self.teacher));
        let rate = decimal(&self.rate.to_string());
        text += &format!("\n[optimizer]\nrate = {rate}\nweight_decay = {decay}\naverage = {average}\nclip = 10.0\n");
        text += &format!("\n[schedule]\nepochs = {}\nwarm_up = 0.02\n", self.epochs);
        // Every layer is named below.
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
