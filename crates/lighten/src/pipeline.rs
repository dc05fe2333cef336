//! All of lightening, in order.

use qing_graph::{Graph, Tensor, passes, verify};

use crate::{
    LightenError, Override, QuantizeOptions, Report,
    calibrate::synthetic,
    quantize::{equalize, quantize, reconstructed},
    report::{self, Calibration},
    search::{CostModel, Judge, Measure, MixedOptions, Request, mixed},
};

/// How far a stage has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What is being done.
    pub stage: &'static str,
    /// Steps done.
    pub done: usize,
    /// Steps in all.
    pub total: usize,
}

/// Options of lightening.
#[derive(Debug, Clone)]
pub struct Options {
    /// How to quantize.
    pub quantize: QuantizeOptions,
    /// Batches of the calibration data the noise of each layer is measured on; 0 leaves it out, and equalization with it.
    pub noise_batches: usize,
    /// Batches of synthetic data made up when there is no calibration data.
    pub synthetic_batches: usize,
    /// Threads of the engine; the result does not depend on it.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { quantize: QuantizeOptions::default(), noise_batches: 4, synthetic_batches: 32, threads: 1 }
    }
}

/// A lighter network and what became of it.
#[derive(Debug)]
pub struct Lightened {
    /// The typed graph.
    pub graph: Graph,
    /// What was gained and lost.
    pub report: Report,
}

/// What chooses widths, and by what.
pub struct Search<'a> {
    /// Budgets and candidates.
    pub options: MixedOptions,
    /// Measures that budgets may limit besides the engine's own: those of a chip.
    pub models: Vec<Box<dyn CostModel>>,
    /// Says how accurate a network is; wanted where a budget limits how much of that is lost.
    pub judge: Option<Box<Judge<'a>>>,
}

/// Makes a float network lighter, with the widths of `options`.
///
/// `calibration` holds batches, each with one tensor for every graph input in the form the network takes them
/// (preprocessed); if there are none, data is made up and the report says so. The result is the same for any number of
/// threads.
///
/// # Errors
/// If an option is out of range, the data does not fit the network, or an op fails.
pub fn lighten(
    graph: &Graph,
    calibration: &[Vec<Tensor>],
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Lightened, LightenError> {
    run(graph, calibration, options, None, progress)
}

/// Makes a float network lighter, with the widths that budgets ask for; those of `options` do not count. Otherwise as [`lighten`].
///
/// # Errors
/// As [`lighten`]; if no choice of widths keeps the budgets, with the closest that can be reached.
pub fn lighten_within(
    graph: &Graph,
    calibration: &[Vec<Tensor>],
    options: &Options,
    search: Search<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Lightened, LightenError> {
    run(graph, calibration, options, Some(search), progress)
}

fn run(
    graph: &Graph,
    calibration: &[Vec<Tensor>],
    options: &Options,
    search: Option<Search<'_>>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Lightened, LightenError> {
    let mut float = graph.clone();
    passes::normalize(&mut float)?;
    let mut float = float.compacted();
    let made_up = if calibration.is_empty() { synthetic(&float, options.synthetic_batches)? } else { vec![] };
    let batches = if calibration.is_empty() { &made_up } else { calibration };
    let noise = &batches[..options.noise_batches.min(batches.len())];
    // What takes long is done once, on what was chosen; where points of accuracy are limited, on all that is judged.
    let judged = search.as_ref().is_some_and(|s| s.options.budgets.iter().any(|b| b.measure == Measure::Drop));
    let plain = QuantizeOptions { reconstruct: None, ..options.quantize.clone() };
    let mut quantized = quantize(&float, batches, &plain, options.threads, progress)?;
    if options.quantize.equalize && !noise.is_empty() {
        // Evener channels help most networks and hurt some: keep what leaves the clearer output.
        let even = equalize(&float, batches, options.threads)?.compacted();
        let other = quantize(&even, batches, &plain, options.threads, progress)?;
        let clarity = |f, q| report::output_sqnr(f, q, noise, options.threads);
        if clarity(&even, &other)? > clarity(&float, &quantized)? {
            (float, quantized) = (even, other);
        }
    }
    let mut choice = None;
    if let Some(mut search) = search {
        let mut request = Request {
            graph: &float,
            calibration: batches,
            options: &search.options,
            quantize: &plain,
            models: &mut search.models,
            judge: search.judge.as_deref_mut(),
            threads: options.threads,
        };
        let mut build = |overrides: &[Override], progress: &mut dyn FnMut(Progress)| {
            let base = if judged { &options.quantize } else { &plain };
            let chosen = QuantizeOptions { overrides: overrides.to_vec(), ..base.clone() };
            quantize(&float, batches, &chosen, options.threads, progress)
        };
        let (made, found) = mixed(&mut request, &mut build, progress)?;
        (quantized, choice) = (made, Some(found));
    }
    if !judged {
        quantized = reconstructed(&float, quantized, batches, &options.quantize, options.threads, progress)?;
    }
    verify::verify(&quantized.assigned.graph)?;
    let samples = batches.iter().map(|b| b.first().and_then(|t| t.shape().first().copied()).unwrap_or(1)).sum();
    let calibration = Calibration { samples, synthetic: calibration.is_empty() };
    let mut report =
        report::report(&float, &quantized, batches.first(), noise, options.threads, calibration, progress)?;
    report.search = choice;
    Ok(Lightened { graph: quantized.assigned.graph.compacted(), report })
}
