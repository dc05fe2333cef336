//! What a network is made of before its widths are chosen: all of it, fewer channels, or chains of smaller layers.
//!
//! Some budgets cannot be kept by narrow numbers alone, and some are kept better by a smaller network on more bits. Which is the case is
//! found by making them: every form goes through the whole search for widths, and what comes out is compared with the float network as it
//! came.

use std::fmt;

use qing_graph::{Graph, Tensor};
use serde::Serialize;

use crate::{
    LightenError, Progress,
    factorize::{Amount, FactorizeOptions, Form, factorize},
    search::{Budget, Limit, Measure},
    sparsify::channels::{Importance, PruneOptions, prune},
};

/// A form of the float network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// As it came.
    Whole,
    /// With fewer channels: this share of the multiply–accumulates is left ([`prune`]).
    Pruned(f64),
    /// With layers taken apart: this share of the weights is left ([`factorize`]).
    Factorized(f64),
}

/// Forms besides the network as it came, lightly changed ones first.
pub(crate) const OTHERS: [Shape; 6] = [
    Shape::Factorized(0.75),
    Shape::Pruned(0.75),
    Shape::Factorized(0.5),
    Shape::Pruned(0.5),
    Shape::Factorized(0.33),
    Shape::Pruned(0.33),
];

/// Which forms are tried. Where there is more than one, that whose output is nearest to the float network's is taken or, where nothing but
/// accuracy is limited, the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shapes {
    /// The network as it came alone.
    Whole,
    /// Others where widths alone cannot keep the budget.
    #[default]
    AsNeeded,
    /// All of them, whatever widths can do.
    All,
}

/// A form that was tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tried {
    /// Which.
    pub shape: String,
    /// Bytes of the network it became, if it kept the budget.
    pub file_bytes: Option<u64>,
    /// Signal-to-noise ratio of the first output, in decibels, against the float network as it came.
    pub output_sqnr_db: Option<f64>,
    /// Why it became none.
    pub refused: Option<String>,
    /// Whether it was taken.
    pub chosen: bool,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: &f64| 100.0 * share;
        match self {
            Shape::Whole => f.write_str("as it came"),
            Shape::Pruned(share) => {
                write!(f, "channels taken out, {:.0} % of the multiply–accumulates", percent(share))
            }
            Shape::Factorized(share) => write!(f, "layers factorized, {:.0} % of the weights", percent(share)),
        }
    }
}

impl Shape {
    /// The network in this form.
    ///
    /// # Errors
    /// If it has none: nothing can be taken out or apart, or not so much.
    pub(crate) fn of(
        self,
        float: &Graph,
        batches: &[Vec<Tensor>],
        threads: usize,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Graph, LightenError> {
        Ok(match self {
            Shape::Whole => float.clone(),
            Shape::Pruned(share) => {
                let budget = Budget { measure: Measure::Other("macs".into()), limit: Limit::Share(share) };
                let options = PruneOptions { importance: Importance::Taylor, threads, ..PruneOptions::default() };
                prune(float, batches, &budget, &options, None, progress)?.graph
            }
            Shape::Factorized(share) => {
                let options = FactorizeOptions {
                    amount: Amount::Parameters(share),
                    forms: Form::ALL.to_vec(),
                    whitened: true,
                    threads,
                };
                factorize(float, batches, &options, progress)?.graph
            }
        })
    }
}
