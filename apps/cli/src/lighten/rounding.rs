//! `--rounding`: how weights become integers.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use qing::lighten::{Granularity, QuantizeOptions, Reconstruction, Rounding};

/// How weights are rounded.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Rounding")]
pub(crate) struct RoundingArgs {
    /// How weights become integers: nearest; feedback (each makes up for the errors of those before it); bit-split
    /// (then planes of digits and a scale in turns, for few bits); reconstruct
    /// (learned, with scales and biases, so that every block gives what it gave in floating point; minutes) [default: by
    /// --effort]
    #[arg(long, value_name = "METHOD")]
    pub rounding: Option<Rounding>,
    /// Steps in which a block is learned [default: 400]
    #[arg(long, value_name = "N", requires = "rounding")]
    pub iterations: Option<usize>,
    /// Learn layer by layer instead of what a residual goes around, or three layers in a row, together
    #[arg(long, requires = "rounding")]
    pub by_layer: bool,
    /// Samples in a step of learning [default: 32, of large ones 16]
    #[arg(long, value_name = "N", requires = "rounding")]
    pub step_samples: Option<usize>,
}

impl RoundingArgs {
    /// Where a run that learns notes what is finished: beside the first output.
    pub(super) fn checkpoint(&self, outputs: &[PathBuf]) -> Option<PathBuf> {
        let learns = matches!(self.rounding, Some(Rounding::Reconstruct(_)));
        outputs.first().filter(|_| learns).map(|path| path.with_extension("blocks.npz"))
    }

    /// Options with this rounding, if one was asked for.
    pub(super) fn apply(&self, options: QuantizeOptions) -> QuantizeOptions {
        match self.rounding {
            None => options,
            Some(Rounding::Reconstruct(how)) => Rounding::Reconstruct(self.reconstruction(how)).apply(options),
            Some(other) => other.apply(options),
        }
    }

    fn reconstruction(&self, mut how: Reconstruction) -> Reconstruction {
        how.iterations = self.iterations.unwrap_or(how.iterations);
        how.batch = self.step_samples.or(how.batch);
        if self.by_layer {
            how.granularity = Granularity::Layer;
        }
        how
    }

    /// Refuses what would change nothing.
    pub(super) fn check(&self) -> Result<()> {
        let learns = matches!(self.rounding, Some(Rounding::Reconstruct(_)));
        let other = self.iterations.is_some() || self.step_samples.is_some() || self.by_layer;
        ensure!(learns || !other, "--iterations, --step-samples and --by-layer are for --rounding reconstruct");
        Ok(())
    }
}
