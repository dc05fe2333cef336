//! How much time lightening may take.

use std::str::FromStr;

use crate::{LightenError, QuantizeOptions, Smoothing};

/// How hard to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Effort {
    /// Seconds: every weight to its nearest integer.
    Quick,
    /// Roundings make up for each other, channels are evened out where that helps.
    #[default]
    Standard,
    /// Everything there is.
    Thorough,
}

impl FromStr for Effort {
    type Err = LightenError;

    fn from_str(s: &str) -> Result<Effort, LightenError> {
        match s {
            "quick" => Ok(Effort::Quick),
            "standard" => Ok(Effort::Standard),
            "thorough" => Ok(Effort::Thorough),
            _ => Err(LightenError::Option(format!("`{s}` is no effort; there are quick, standard and thorough"))),
        }
    }
}

impl Effort {
    /// Options with this effort.
    pub fn apply(self, options: QuantizeOptions) -> QuantizeOptions {
        match self {
            Effort::Quick => QuantizeOptions {
                equalize: false,
                smooth: Smoothing::Off,
                rotate: false,
                error_feedback: false,
                ..options
            },
            Effort::Standard | Effort::Thorough => options,
        }
    }
}
