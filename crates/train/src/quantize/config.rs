//! What can be chosen about quantization-aware training.

use std::str::FromStr;

use crate::TrainError;

/// Widths of weights and activations: `w4a4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bits {
    /// Bits of a weight, 1–8. One bit is −1 and +1, two are −1, 0 and +1.
    pub weights: u8,
    /// Bits of an activation, 1–8. One bit is 0 and 1: the sign of what lies on both sides of zero, otherwise whether it is large.
    pub activations: u8,
}

impl FromStr for Bits {
    type Err = TrainError;

    fn from_str(s: &str) -> Result<Bits, TrainError> {
        let width = |s: &str| s.parse::<u8>().ok().filter(|b| (1..=8).contains(b));
        let both = s.strip_prefix('w').and_then(|s| s.split_once('a')).map(|(w, a)| (width(w), width(a)));
        let Some((Some(weights), Some(activations))) = both else {
            return Err(TrainError::invalid(format!(
                "`{s}` is not a pair of widths; write for example w4a4, 1 to 8 bits each"
            )));
        };
        Ok(Bits { weights, activations })
    }
}

/// How the gradient of a rounding is estimated; `LearnedQuantizeGrad` says what each computes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Estimator {
    /// Learned step size quantization, arXiv:1902.08153.
    Lsq,
    /// Learned clipping, arXiv:1805.06085.
    Pact,
    /// Element-wise gradient scaling of this strength, arXiv:2104.00903.
    Ewgs(f32),
    /// A piecewise polynomial for two levels, arXiv:1808.00278.
    Polynomial,
}

impl Estimator {
    /// Name and strength, as the op has them.
    pub(super) fn attributes(self) -> (&'static str, f32) {
        match self {
            Estimator::Lsq => ("lsq", 0.0),
            Estimator::Pact => ("pact", 0.0),
            Estimator::Ewgs(delta) => ("ewgs", delta),
            Estimator::Polynomial => ("polynomial", 0.0),
        }
    }
}

impl FromStr for Estimator {
    type Err = TrainError;

    /// `lsq`, `pact`, `polynomial`, `ewgs` or `ewgs:0.01`.
    fn from_str(s: &str) -> Result<Estimator, TrainError> {
        Ok(match s.split_once(':').unwrap_or((s, "")) {
            ("lsq", "") => Estimator::Lsq,
            ("pact", "") => Estimator::Pact,
            ("polynomial", "") => Estimator::Polynomial,
            ("ewgs", "") => Estimator::Ewgs(0.01),
            ("ewgs", delta) if delta.parse::<f32>().is_ok_and(|d| (0.0..=1.0).contains(&d)) => {
                Estimator::Ewgs(delta.parse().unwrap_or_default())
            }
            _ => {
                return Err(TrainError::invalid(format!(
                    "`{s}` is no estimator; there are lsq, pact, polynomial and ewgs, which may name its strength from 0 to \
                     1, as in ewgs:0.01"
                )));
            }
        })
    }
}

/// Other widths for some layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    /// The name of a layer or of its weights; `*` stands for any text.
    pub pattern: String,
    /// Bits of its weights and of the activations it reads.
    pub bits: Bits,
}

/// How a network is quantized while it is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Widths of all layers that no override names.
    pub bits: Bits,
    /// Widths by layer; the first pattern that fits wins.
    pub overrides: Vec<Override>,
    /// At least so many bits for the first and the last layer, weights and what they read.
    pub edge_bits: Option<u8>,
    /// Bits of values that are added, pooled or read by layers of different widths: the residual stream.
    pub stream_bits: u8,
    /// The gradient of quantizers of more than two levels.
    pub rounding: Estimator,
    /// The gradient of quantizers of two levels.
    pub sign: Estimator,
}

impl Config {
    /// These widths, eight bits at both ends, LSQ, and a polynomial where there are two levels.
    pub fn with_bits(bits: Bits) -> Config {
        Config {
            bits,
            overrides: vec![],
            edge_bits: Some(8),
            stream_bits: 8,
            rounding: Estimator::Lsq,
            sign: Estimator::Polynomial,
        }
    }

    /// Checks what types cannot.
    ///
    /// # Errors
    /// Names what is out of range.
    pub fn validate(&self) -> Result<(), TrainError> {
        let widths = self.overrides.iter().map(|o| o.bits).chain([self.bits]).flat_map(|b| [b.weights, b.activations]);
        if let Some(bad) = widths.chain(self.edge_bits).chain([self.stream_bits]).find(|b| !(1..=8).contains(b)) {
            return Err(TrainError::invalid(format!("{bad} bits; widths go from 1 to 8")));
        }
        if self.rounding == Estimator::Polynomial {
            return Err(TrainError::invalid(
                "the polynomial estimator is for quantizers of two levels; `rounding` may be lsq, pact or ewgs",
            ));
        }
        Ok(())
    }

    /// The widths of a layer by the names of its weights and of its node; `edge` says that it is the first or the last.
    pub(super) fn bits_of(&self, names: [&str; 2], edge: bool) -> Bits {
        if let Some(o) = self.overrides.iter().find(|o| names.iter().any(|name| matches(&o.pattern, name))) {
            return o.bits;
        }
        let least = self.edge_bits.filter(|_| edge).unwrap_or(1);
        Bits { weights: self.bits.weights.max(least), activations: self.bits.activations.max(least) }
    }
}

/// Whether `name` is what `pattern` describes, `*` being any text.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_and_estimators_are_read_as_people_write_them() {
        assert_eq!("w4a8".parse::<Bits>().unwrap(), Bits { weights: 4, activations: 8 });
        for bad in ["w9a8", "w0a1", "4a8", "w4", "w4a", "wa", ""] {
            assert!(bad.parse::<Bits>().is_err(), "{bad}");
        }
        assert_eq!("ewgs:0.5".parse::<Estimator>().unwrap(), Estimator::Ewgs(0.5));
        for bad in ["ewgs:2", "ewgs:x", "lsq:1", "ste"] {
            assert!(bad.parse::<Estimator>().is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, name, fits) in [
            ("conv", "conv", true),
            ("conv", "conv1", false),
            ("conv*", "conv1", true),
            ("*", "", true),
            ("layer*.conv1.*", "layer2.0.conv1.weight", true),
            ("layer*.conv1.*", "layer2.0.conv2.weight", false),
            ("*a", "ba", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn ends_are_wider_unless_named() {
        let mut config = Config::with_bits("w2a3".parse().unwrap());
        let wide = Bits { weights: 8, activations: 8 };
        assert_eq!((config.bits_of(["x", "y"], true), config.bits_of(["x", "y"], false)), (wide, config.bits));
        config.overrides.push(Override { pattern: "x".into(), bits: "w1a1".parse().unwrap() });
        assert_eq!(config.bits_of(["x", "y"], true), Bits { weights: 1, activations: 1 });
        assert_eq!(config.bits_of(["z", "x"], true), Bits { weights: 1, activations: 1 });
        config.rounding = Estimator::Polynomial;
        assert!(config.validate().is_err());
    }
}
