//! Makes a trained network lighter: a [`Graph`](qing_graph::Graph) in, a lighter one and a [`Report`] out.
//!
//! To lighten a network is to give its values lighter types. [`lighten`] does all that this crate knows, in order: it
//! folds what can be folded, watches the network on calibration data, chooses a quantization for every value, and measures
//! what was gained and lost. It runs networks and never looks at labels; where labels are at hand, [`Recovery`]
//! says how `qing-train` wins back what was lost.

mod calibrate;
pub mod compare;
pub mod design;
mod effort;
mod error;
pub mod factorize;
mod pipeline;
mod quantize;
mod recover;
pub mod report;
mod run;
pub mod score;
pub mod search;
pub mod shape;
pub mod sparsify;

pub use calibrate::synthetic;
pub use effort::Effort;
pub use error::LightenError;
pub use pipeline::{Lightened, Options, Progress, Search, lighten, lighten_within};
pub use quantize::{
    Bits, Codebook, Encoding, Factors, Granularity, Override, QuantizeOptions, RangeMethod, Reconstructed,
    Reconstruction, Rotated, Rounding, Smoothed, Smoothing, matches,
};
pub use recover::Recovery;
pub use report::{Calibration, Island, Layer, Report, Totals, layers, totals};
