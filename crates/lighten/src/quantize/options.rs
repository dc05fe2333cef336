//! What the user can say about quantization.

use std::{path::PathBuf, str::FromStr};

use super::{codebook::Codebook, factors::Factors};
use crate::LightenError;

/// Widths of weights and activations: `w4a8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bits {
    /// Bits of a weight, 1–8.
    pub weights: u8,
    /// Bits of an activation, 1–8.
    pub activations: u8,
}

impl FromStr for Bits {
    type Err = LightenError;

    fn from_str(s: &str) -> Result<Bits, LightenError> {
        let bad = || {
            LightenError::Option(format!(
                "`{s}` is not a pair of widths; write for example w8a8 or w4a8, 1 to 8 bits each"
            ))
        };
        let (w, a) = s.strip_prefix('w').and_then(|s| s.split_once('a')).ok_or_else(bad)?;
        let width = |s: &str| s.parse::<u8>().ok().filter(|b| (1..=8).contains(b)).ok_or_else(bad);
        Ok(Bits { weights: width(w)?, activations: width(a)? })
    }
}

/// How the range of an activation is chosen from its histogram.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum RangeMethod {
    /// From the smallest to the largest value seen.
    MinMax,
    /// So that this share of the values, in percent, lies inside.
    Percentile(f64),
    /// The range with the least squared error of quantization.
    #[default]
    LeastSquares,
}

/// Other widths for some layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    /// Layer name; `*` stands for any text, `?` for one character.
    pub pattern: String,
    /// Bits of the layer's weights and of the activations it reads.
    pub bits: Bits,
}

impl FromStr for Override {
    type Err = LightenError;

    /// `PATTERN=w8a8`.
    fn from_str(s: &str) -> Result<Override, LightenError> {
        let (pattern, bits) = s
            .rsplit_once('=')
            .ok_or_else(|| LightenError::Option(format!("`{s}`: write LAYER=w8a8, with * for any part of the name")))?;
        Ok(Override { pattern: pattern.into(), bits: bits.parse()? })
    }
}

/// How much of the spread of activations' channels moves into the weights of the matrix products that read them (SmoothQuant,
/// arXiv:2211.10438).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Smoothing {
    /// Nothing.
    Off,
    /// For every value the share, of a few, with the least error of the layers that read it; nothing if the network's output is
    /// not clearer for it.
    #[default]
    Measured,
    /// This share of every value, from 0 to 1, in any case.
    Strength(f64),
}

impl FromStr for Smoothing {
    type Err = LightenError;

    /// `off`, `measured` or a share such as `0.5`.
    fn from_str(s: &str) -> Result<Smoothing, LightenError> {
        match s {
            "off" => Ok(Smoothing::Off),
            "measured" => Ok(Smoothing::Measured),
            _ => match s.parse() {
                Ok(share) if (0.0..=1.0).contains(&share) => Ok(Smoothing::Strength(share)),
                _ => Err(LightenError::Option(format!("`{s}`: smoothing is off, measured or a share from 0 to 1"))),
            },
        }
    }
}

/// How finely a network is cut where blocks are reconstructed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Granularity {
    /// One layer with what is fused to it, or what a residual goes around.
    Layer,
    /// What a residual goes around; elsewhere up to three layers in a row.
    #[default]
    Block,
}

/// How blocks are reconstructed: weights, scales and biases of each in turn are learned so that it gives what it gives in
/// floating point (AdaRound, arXiv:2004.10568; BRECQ, arXiv:2102.05426; QDrop, arXiv:2203.05740).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reconstruction {
    /// Steps for each block.
    pub iterations: usize,
    /// Samples in a step; if not given 32, of large ones 16.
    pub batch: Option<usize>,
    /// Of maps that are larger, windows of so many rows and columns are learned on.
    pub window: usize,
    /// What counts as a block.
    pub granularity: Granularity,
    /// Share of the values of a block's input that come from the network that is quantized so far; the others are those of
    /// the float network.
    pub quantized: f32,
    /// Seed of all random choices.
    pub seed: u64,
}

/// Values of a sample from which on steps take fewer.
const LARGE: usize = 16_384;

impl Reconstruction {
    /// Samples in a step, of `count` with `values` values each.
    pub(crate) fn samples(&self, count: usize, values: usize) -> usize {
        self.batch.unwrap_or(if values > LARGE { 16 } else { 32 }).min(count)
    }
}

impl Default for Reconstruction {
    fn default() -> Reconstruction {
        Reconstruction {
            iterations: 400,
            batch: None,
            window: 24,
            granularity: Granularity::Block,
            quantized: 0.5,
            seed: 0,
        }
    }
}

/// How weights become integers.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Rounding {
    /// Each to the nearest.
    Nearest,
    /// Each makes up for the errors of those before it (GPTQ, arXiv:2210.17323).
    #[default]
    Feedback,
    /// Then as planes of digits and a scale, chosen in turns (bit-split and stitching, Wang et al., ICML 2020).
    BitSplit,
    /// As learned, block by block.
    Reconstruct(Reconstruction),
}

impl FromStr for Rounding {
    type Err = LightenError;

    fn from_str(s: &str) -> Result<Rounding, LightenError> {
        match s {
            "nearest" => Ok(Rounding::Nearest),
            "feedback" => Ok(Rounding::Feedback),
            "bit-split" => Ok(Rounding::BitSplit),
            "reconstruct" => Ok(Rounding::Reconstruct(Reconstruction::default())),
            _ => Err(LightenError::Option(format!(
                "`{s}` is no rounding; there are nearest, feedback, bit-split and reconstruct"
            ))),
        }
    }
}

impl Rounding {
    /// Options with this rounding.
    pub fn apply(self, options: QuantizeOptions) -> QuantizeOptions {
        let options = QuantizeOptions {
            error_feedback: self != Rounding::Nearest,
            bit_split: self == Rounding::BitSplit,
            reconstruct: None,
            ..options
        };
        match self {
            Rounding::Reconstruct(how) => QuantizeOptions { reconstruct: Some(how), ..options },
            _ => options,
        }
    }
}

/// What a compressed file holds in place of weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Encoding {
    /// Indices of code words.
    Codebook(Codebook),
    /// Ternary matrices that they are the product of.
    Factors(Factors),
}

/// Options of quantization.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantizeOptions {
    /// Widths of all layers that no override names.
    pub bits: Bits,
    /// Widths by layer; the first pattern that fits wins.
    pub overrides: Vec<Override>,
    /// Layers that stay in floating point, as patterns.
    pub keep_float: Vec<String>,
    /// At least so many bits for the weights of the first and the last layer, and for the network's inputs.
    pub edge_bits: Option<u8>,
    /// At least so many bits for values that are added, pooled or otherwise combined; layers that want fewer read them
    /// rescaled. `None` stores a value in as many bits as the layers that read it want.
    pub stream_bits: Option<u8>,
    /// How activation ranges are chosen.
    pub range: RangeMethod,
    /// One weight scale per output channel rather than per tensor.
    pub per_channel: bool,
    /// Shift biases by what quantizing the weights changes on average.
    pub bias_correction: bool,
    /// Try to even out the channels of consecutive layers first (cross-layer equalization, arXiv:1906.04721), and keep the
    /// result if the network's output is clearer for it.
    pub equalize: bool,
    /// How outliers of what matrix products read move into their weights.
    pub smooth: Smoothing,
    /// Try to spread outliers of what matrix products read over channels by rotations (QuaRot, arXiv:2404.00456), and keep the result
    /// if the network's output is clearer for it.
    pub rotate: bool,
    /// Let each rounding of a weight make up for the errors of those before it, as the layer's inputs weigh them
    /// (arXiv:2210.17323).
    pub error_feedback: bool,
    /// After error feedback, choose planes of digits and scales of weights in turns (Wang et al., ICML 2020).
    pub bit_split: bool,
    /// Round the weights of all layers but the first and the last (unless `edge_bits` is `None`) to what can be encoded so.
    pub encoding: Option<Encoding>,
    /// Then learn roundings, scales and biases block by block.
    pub reconstruct: Option<Reconstruction>,
    /// Where blocks that are reconstructed are noted, so that a run that was killed goes on behind them.
    pub checkpoint: Option<PathBuf>,
}

impl Default for QuantizeOptions {
    fn default() -> QuantizeOptions {
        QuantizeOptions {
            bits: Bits { weights: 8, activations: 8 },
            overrides: vec![],
            keep_float: vec![],
            edge_bits: Some(8),
            stream_bits: Some(8),
            range: RangeMethod::default(),
            per_channel: true,
            bias_correction: true,
            equalize: true,
            smooth: Smoothing::Measured,
            rotate: true,
            error_feedback: true,
            bit_split: false,
            encoding: None,
            reconstruct: None,
            checkpoint: None,
        }
    }
}

impl QuantizeOptions {
    /// Default options at other widths.
    pub fn with_bits(bits: Bits) -> QuantizeOptions {
        QuantizeOptions { bits, ..QuantizeOptions::default() }
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// Names the option that is out of range.
    pub fn validate(&self) -> Result<(), LightenError> {
        let widths = self.overrides.iter().map(|o| o.bits).chain([self.bits]).flat_map(|b| [b.weights, b.activations]);
        if let Some(bad) = widths.chain(self.edge_bits).chain(self.stream_bits).find(|b| !(1..=8).contains(b)) {
            return Err(LightenError::Option(format!("{bad} bits; widths go from 1 to 8")));
        }
        if let Some(r) = &self.reconstruct {
            if r.iterations == 0 || r.batch == Some(0) || r.window == 0 {
                return Err(LightenError::Option(
                    "reconstruction takes at least one step of one sample, in windows of at least one place".into(),
                ));
            }
            if !(0.0..=1.0).contains(&r.quantized) {
                return Err(LightenError::Option(format!(
                    "reconstruction from a share of {} quantized inputs; the share goes from 0 to 1",
                    r.quantized
                )));
            }
        }
        if let Smoothing::Strength(share) = self.smooth
            && !(0.0..=1.0).contains(&share)
        {
            return Err(LightenError::Option(format!("smoothing by a share of {share}; it goes from 0 to 1")));
        }
        if let (Some(encoding), true) = (self.encoding, self.reconstruct.is_some()) {
            let what = match encoding {
                Encoding::Codebook(_) => "weights from codebooks",
                Encoding::Factors(_) => "products of ternary factors",
            };
            return Err(LightenError::Option(format!(
                "{what} cannot be learned one by one: take another rounding than reconstruct"
            )));
        }
        match self.range {
            RangeMethod::Percentile(p) if !(50.0..=100.0).contains(&p) => {
                Err(LightenError::Option(format!("percentile {p}; it goes from 50 to 100")))
            }
            _ => Ok(()),
        }
    }

    /// The widths asked for a layer by name, before the edges are considered; `true` if an override named it.
    pub(crate) fn bits_of(&self, layer: &str) -> (Bits, bool) {
        match self.overrides.iter().find(|o| matches(&o.pattern, layer)) {
            Some(o) => (o.bits, true),
            None => (self.bits, false),
        }
    }

    /// Whether the user wants a layer to stay in floating point.
    pub(crate) fn keeps_float(&self, layer: &str) -> bool {
        self.keep_float.iter().any(|p| matches(p, layer))
    }
}

/// Whether `name` is what `pattern` describes: `*` any text, `?` one character.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (p, n): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut i, mut j) = (0, 0);
    // Where the last star stands, and up to where it has eaten.
    let mut star: Option<(usize, usize)> = None;
    while j < n.len() {
        if i < p.len() && p[i] == '*' {
            star = Some((i, j));
            i += 1;
        } else if i < p.len() && (p[i] == '?' || p[i] == n[j]) {
            i += 1;
            j += 1;
        } else if let Some((s, eaten)) = star {
            star = Some((s, eaten + 1));
            i = s + 1;
            j = eaten + 1;
        } else {
            return false;
        }
    }
    p[i..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_read_as_people_write_them() {
        assert_eq!("w4a8".parse::<Bits>().unwrap(), Bits { weights: 4, activations: 8 });
        for bad in ["w9a8", "w0a1", "4a8", "w4", "w4a", "wa", ""] {
            assert!(bad.parse::<Bits>().is_err(), "{bad}");
        }
        let o: Override = "layer*=w2a4".parse().unwrap();
        assert_eq!((o.pattern.as_str(), o.bits), ("layer*", Bits { weights: 2, activations: 4 }));
    }

    #[test]
    fn smoothing_is_read() {
        assert_eq!("off".parse::<Smoothing>().unwrap(), Smoothing::Off);
        assert_eq!("measured".parse::<Smoothing>().unwrap(), Smoothing::Measured);
        assert_eq!("0.5".parse::<Smoothing>().unwrap(), Smoothing::Strength(0.5));
        for bad in ["", "on", "1.5", "-0.1", "nan"] {
            assert!(bad.parse::<Smoothing>().is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            ("*", "", true),
            ("conv", "conv", true),
            ("conv", "conv1", false),
            ("conv*", "conv1", true),
            ("*/fc/*", "/head/fc/Gemm", true),
            ("*a*b", "xaaxbb", true),
            ("*a*b", "xaaxbbc", false),
            ("c?n?", "conv", true),
            ("é*", "émile", true),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
