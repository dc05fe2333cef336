use serde::{Deserialize, Serialize};

use crate::{
    Curve, Schedule, TrainError, architectures,
    data::{Augment, Colour, Cutout, Fill, Masks},
    optimize::{Method, Settings},
    quantize::{Config, Override},
};

/// `[model]`: one of `architecture` and `file`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSection {
    /// A built-in network, or a [`Design`](architectures::Design) as text, with fresh weights.
    pub architecture: Option<String>,
    /// A model file to go on from, or `zoo:NAME`.
    pub file: Option<String>,
    /// The checkpoint of another run of this network, whose weights to go on from: one for more bits, say, which is nearer to one for few than the
    /// float network is (Zhuang et al., "Towards Effective Low-bitwidth Convolutional Neural Networks", arXiv:1711.00205). Statistics of
    /// normalizations are taken anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    /// Shape of a sample, channels first, for architectures; theirs if absent.
    pub input: Option<Vec<usize>>,
    /// Number of classes, for architectures; theirs if absent.
    pub classes: Option<usize>,
    /// Names of the classes, which travel with the model.
    #[serde(default)]
    pub labels: Vec<String>,
}

impl ModelSection {
    /// The built-in network's settings.
    ///
    /// # Errors
    /// If there is no such architecture.
    pub(crate) fn settings(&self, name: &str, seed: u64) -> Result<architectures::Settings, TrainError> {
        if name.contains(':') {
            let (Some(input), Some(classes)) = (self.input.clone(), self.classes) else {
                return Err(TrainError::invalid(format!(
                    "model.architecture = \"{name}\" needs model.input ([channels, rows, columns]) and model.classes"
                )));
            };
            return Ok(architectures::Settings { input, classes, seed });
        }
        let known = architectures::find(name)?;
        let input = self.input.clone().unwrap_or_else(|| known.input.to_vec());
        Ok(architectures::Settings { input, classes: self.classes.unwrap_or(known.classes), seed })
    }
}

/// `[data]`: where samples are, `PATH[:SPLIT][@SLICE]`, and how they become inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSection {
    /// To train on.
    pub train: String,
    /// Only so many of them, from the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// More data to train on, behind that. With a teacher, which alone says what the network should give for these samples, any
    /// images do; without, they need labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra: Vec<String>,
    /// Held out: measured after every epoch, to judge settings by.
    pub validate: Option<String>,
    /// Measured once, at the end.
    pub test: Option<String>,
    /// Samples in a batch.
    #[serde(default = "batch")]
    pub batch: usize,
    /// Normalization by name: imagenet, cifar10, lite0, signed, unit or raw.
    pub preset: Option<String>,
    /// Or: what pixels are divided by first,
    pub scale: Option<f32>,
    /// then subtracted,
    pub mean: Option<Vec<f32>>,
    /// then divided by.
    pub std: Option<Vec<f32>>,
}

fn batch() -> usize {
    128
}

/// `[augment]`: changes to samples; none by default.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AugmentSection {
    /// Pixels of padding before a piece of the old size is cut out anywhere.
    pub crop: usize,
    /// How often an image is mirrored, 0 to 1.
    pub flip: f32,
    /// Parameter of mixup; 0 for none.
    pub mixup: f32,
    /// How many augmented views of each sample there are: epochs show them in turn. A new one in every epoch if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub views: Option<u32>,
    /// A square that is blotted out.
    pub cutout: Option<CutoutSection>,
    /// Changes of colour.
    pub colour: Option<ColourSection>,
    /// Stripes of zeros in arrays, and moves in time.
    pub masks: Option<MasksSection>,
}

/// `[augment.cutout]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CutoutSection {
    /// Pixels a side.
    pub size: usize,
    /// How often, 0 to 1.
    #[serde(default = "whole")]
    pub probability: f32,
    /// Black or gray.
    #[serde(default)]
    pub fill: FillName,
}

/// What is put where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FillName {
    /// 0
    #[default]
    Black,
    /// 128
    Gray,
}

/// `[augment.colour]`: factors from 1 − v to 1 + v.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ColourSection {
    /// Of all values.
    pub brightness: f32,
    /// Of the distance to the mean.
    pub contrast: f32,
    /// Of the distance to gray.
    pub saturation: f32,
}

/// `[augment.masks]`
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MasksSection {
    /// Stripes over time.
    pub times: usize,
    /// Most steps of each.
    pub time_width: usize,
    /// Stripes over frequency.
    pub frequencies: usize,
    /// Most bands of each.
    pub frequency_width: usize,
    /// Most steps all is moved by.
    pub shift: usize,
}

fn whole() -> f32 {
    1.0
}

impl AugmentSection {
    pub(crate) fn augment(&self) -> Augment {
        Augment {
            crop: self.crop,
            fill: Fill::Black,
            flip: self.flip,
            colour: self.colour.as_ref().map(|c| Colour {
                brightness: c.brightness,
                contrast: c.contrast,
                saturation: c.saturation,
            }),
            cutout: self.cutout.as_ref().map(|c| Cutout {
                size: c.size,
                probability: c.probability,
                fill: if c.fill == FillName::Gray { Fill::Gray } else { Fill::Black },
            }),
            masks: self.masks.as_ref().map(|m| Masks {
                times: m.times,
                time_width: m.time_width,
                frequencies: m.frequencies,
                frequency_width: m.frequency_width,
                shift: m.shift,
            }),
        }
    }
}

/// `[loss]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossSection {
    /// Which.
    pub kind: LossName,
    /// Share of a target that is spread over all classes.
    pub label_smoothing: f32,
    /// Focal loss: weight of the right class, 0 to 1.
    pub alpha: f32,
    /// Focal loss: how much what is already right counts less.
    pub gamma: f32,
}

impl Default for LossSection {
    fn default() -> LossSection {
        LossSection { kind: LossName::CrossEntropy, label_smoothing: 0.0, alpha: 0.25, gamma: 2.0 }
    }
}

/// Losses of classifiers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossName {
    /// Of the softmax.
    CrossEntropy,
    /// Of a sigmoid for each class.
    Focal,
}

/// `[distill]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillSection {
    /// A model file, or `zoo:NAME`.
    pub teacher: String,
    /// Share of the loss that is the distance to the teacher; the rest is that to the labels. At 1 samples need none. Where there are none,
    /// accuracy in training is how often both agree.
    #[serde(default = "half")]
    pub weight: f32,
    /// Temperature at which both are compared.
    #[serde(default = "four")]
    pub temperature: f32,
    /// A file (`.npz`, seen from the recipe's folder) that keeps the teacher's logits for each view of each sample, so that it is
    /// asked once, whatever epochs and runs follow. Needs `augment.views`. Filled as far as runs come; one of another teacher,
    /// other data, another augmentation or another seed is refused. It changes no weight, on the machine it was made on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<String>,
}

fn half() -> f32 {
    0.5
}

fn four() -> f32 {
    4.0
}

/// `[quantize]`: training for a network of few bits; what is written is the integer network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantizeSection {
    /// Widths of weights and activations, as `w4a4`.
    pub bits: String,
    /// At least so many bits for the first and the last layer.
    #[serde(default = "eight")]
    pub edge_bits: u8,
    /// Bits of what is added, pooled, or read by layers of different widths.
    #[serde(default = "eight")]
    pub stream_bits: u8,
    /// The gradient of a rounding to more than two levels: lsq, pact, ewgs or `ewgs:STRENGTH`.
    #[serde(default = "lsq")]
    pub rounding: String,
    /// The gradient of a rounding to two levels: these, or polynomial.
    #[serde(default = "polynomial")]
    pub sign: String,
    /// Samples from which scales begin.
    #[serde(default = "some_samples")]
    pub calibration: usize,
    /// Batches from which the statistics of normalizations are taken in the end; their running averages if 0.
    #[serde(default = "some_batches")]
    pub statistics: usize,
    /// Whether normalizations are folded into their layers beforehand, with the statistics that the network came with, rather than
    /// trained on those of batches: for data that is not quite what the network was trained on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fold: bool,
    /// Whether every convolution of a residual block gets a shortcut of its own; for activations of one bit, signs, without the ReLUs
    /// between.
    #[serde(default)]
    pub shortcuts: bool,
    /// Other widths by the name of a layer or of its weights, `*` standing for anything.
    #[serde(default)]
    pub layers: toml::Table,
}

fn eight() -> u8 {
    8
}

fn lsq() -> String {
    "lsq".into()
}

fn polynomial() -> String {
    "polynomial".into()
}

fn some_samples() -> usize {
    512
}

fn some_batches() -> usize {
    100
}

impl QuantizeSection {
    pub(crate) fn config(&self) -> Result<Config, TrainError> {
        let mut overrides = vec![];
        for (pattern, value) in &self.layers {
            let bits = value.as_str().ok_or_else(|| {
                TrainError::invalid(format!("quantize.layers: `{pattern}` needs widths like \"w8a8\", got {value}"))
            })?;
            overrides.push(Override { pattern: pattern.clone(), bits: bits.parse()? });
        }
        Ok(Config {
            bits: self.bits.parse()?,
            overrides,
            edge_bits: Some(self.edge_bits),
            stream_bits: self.stream_bits,
            rounding: self.rounding.parse()?,
            sign: self.sign.parse()?,
        })
    }
}

/// `[update]`: fine-tuning of a part of the network; normalizations keep their statistics.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateSection {
    /// The most memory for activations, gradients, updated parameters and the optimizer's state: `1MB`, `256kB`. What is
    /// updated is chosen to fit.
    pub memory: Option<String>,
    /// Only constants of these names, `*` standing for anything.
    pub only: Vec<String>,
    /// Only biases.
    pub biases: bool,
}

/// `[optimizer]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerSection {
    /// Which.
    #[serde(default)]
    pub method: MethodName,
    /// The highest learning rate.
    pub rate: f32,
    /// SGD.
    #[serde(default = "momentum")]
    pub momentum: f32,
    /// SGD.
    #[serde(default = "yes")]
    pub nesterov: bool,
    /// AdamW and Lion.
    pub betas: Option<[f32; 2]>,
    /// Of weights alone.
    #[serde(default)]
    pub weight_decay: f32,
    /// Longest gradient.
    pub clip: Option<f32>,
    /// Share of an average of all values that stays at each step; the average is what is measured and exported.
    pub average: Option<f32>,
    /// Factor of the learning rate for quantizers' steps.
    #[serde(default = "whole")]
    pub scale_rate: f32,
    /// Factors of the learning rate by name, `*` standing for anything.
    #[serde(default)]
    pub rates: toml::Table,
    /// Weights that are zero at the start stay zero: for a pruned network.
    #[serde(default)]
    pub keep_zeros: bool,
    /// Weights that become sparse while they are trained, by name, `*` standing for anything: the share that is zero in the end. The smallest
    /// go first.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    pub sparsity: toml::Table,
    /// Share of the run after which they are as sparse as that; half of it if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparse_after: Option<f32>,
}

/// The numbers of a table by name.
fn numbers(key: &str, table: &toml::Table) -> Result<Vec<(String, f32)>, TrainError> {
    let one = |(pattern, value): (&String, &toml::Value)| {
        let number = value.as_float().or_else(|| value.as_integer().map(|i| i as f64));
        let number = number.filter(|v| v.is_finite() && *v >= 0.0);
        let number = number.ok_or_else(|| {
            TrainError::invalid(format!("optimizer.{key}: `{pattern}` needs a number of at least 0, got {value}"))
        })?;
        Ok((pattern.clone(), number as f32))
    };
    table.iter().map(one).collect()
}

/// Optimizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MethodName {
    /// With momentum.
    #[default]
    Sgd,
    /// Adam with decoupled weight decay.
    AdamW,
    /// Sign of the momentum.
    Lion,
}

fn momentum() -> f32 {
    0.9
}

fn yes() -> bool {
    true
}

impl OptimizerSection {
    pub(crate) fn settings(&self) -> Result<Settings, TrainError> {
        let method = match self.method {
            MethodName::Sgd => Method::Sgd { momentum: self.momentum, nesterov: self.nesterov },
            MethodName::AdamW => Method::AdamW { betas: self.betas.unwrap_or([0.9, 0.999]), epsilon: 1e-8 },
            MethodName::Lion => Method::Lion { betas: self.betas.unwrap_or([0.9, 0.99]) },
        };
        Ok(Settings {
            method,
            decay: self.weight_decay,
            scale_rate: self.scale_rate,
            clip: self.clip,
            rates: numbers("rates", &self.rates)?,
            keep_zeros: self.keep_zeros,
            sparsity: numbers("sparsity", &self.sparsity)?,
            sparse_after: self.sparse_after.unwrap_or(0.5),
        })
    }
}

/// `[schedule]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleSection {
    /// Times every sample is seen.
    pub epochs: u32,
    /// Share of the run in which the rate rises from zero.
    #[serde(default)]
    pub warm_up: f32,
    /// How the rate changes then.
    #[serde(default)]
    pub curve: CurveName,
    /// Steps: shares of the run at which the rate falls.
    #[serde(default)]
    pub at: Vec<f32>,
    /// Steps: to what part.
    pub factor: Option<f32>,
    /// Cosine: last rate over the highest.
    pub floor: Option<f32>,
    /// One cycle: share of the run at which the rate is highest.
    pub peak: Option<f32>,
    /// One cycle: first rate over the highest.
    pub start: Option<f32>,
    /// One cycle: last rate over the highest.
    pub end: Option<f32>,
}

/// Curves of the learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CurveName {
    /// The same throughout.
    Constant,
    /// Falling at `at`.
    Steps,
    /// Falling smoothly.
    #[default]
    Cosine,
    /// Rising and falling.
    OneCycle,
}

impl ScheduleSection {
    pub(crate) fn schedule(&self, rate: f32) -> Result<Schedule, TrainError> {
        let curve = match self.curve {
            CurveName::Constant => Curve::Constant,
            CurveName::Steps => Curve::Steps { at: self.at.clone(), factor: self.factor.unwrap_or(0.1) },
            CurveName::Cosine => Curve::Cosine { floor: self.floor.unwrap_or(0.0) },
            CurveName::OneCycle => Curve::OneCycle {
                peak: self.peak.unwrap_or(0.25),
                start: self.start.unwrap_or(0.04),
                end: self.end.unwrap_or(1e-3),
            },
        };
        let stray = [
            ("at", !self.at.is_empty() && self.curve != CurveName::Steps),
            ("factor", self.factor.is_some() && self.curve != CurveName::Steps),
            ("floor", self.floor.is_some() && self.curve != CurveName::Cosine),
            ("peak", self.peak.is_some() && self.curve != CurveName::OneCycle),
            ("start", self.start.is_some() && self.curve != CurveName::OneCycle),
            ("end", self.end.is_some() && self.curve != CurveName::OneCycle),
        ];
        if let Some((key, _)) = stray.iter().find(|(_, stray)| *stray) {
            return Err(TrainError::invalid(format!("schedule.{key} means nothing for the curve {:?}", self.curve)));
        }
        let schedule = Schedule { rate, warm_up: self.warm_up, curve };
        schedule.check()?;
        Ok(schedule)
    }
}
