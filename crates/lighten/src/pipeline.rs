//! All of lightening, in order.

use qing_graph::{Graph, Tensor, passes, verify};

use crate::{
    LightenError, Override, QuantizeOptions, Report,
    calibrate::synthetic,
    quantize::{Quantized, Rotated, Smoothed, Smoothing, equalize, quantize, reconstructed, rotate, smooth},
    report::{self, Calibration},
    search::{CostModel, Judge, Measure, Mixed, MixedOptions, Request, mixed},
    shape::{OTHERS, Shape, Shapes, Tried},
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
    /// Batches of the calibration data the noise of each layer is measured on; 0 leaves it out, and with it equalization,
    /// smoothing of a strength that is measured and rotation.
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
    /// What the network may be made of besides what it came as.
    pub shapes: Shapes,
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

/// Makes a float network lighter, with the widths that budgets ask for; those of `options` do not count. Where widths alone do not keep
/// them, or where everything shall be tried, channels are taken out first or layers factorized. Otherwise as [`lighten`].
///
/// # Errors
/// As [`lighten`]; if nothing that is tried keeps the budgets, with the closest that widths alone can reach.
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
    options.quantize.validate()?;
    let mut float = graph.clone();
    passes::normalize(&mut float)?;
    let float = float.compacted();
    let made_up = if calibration.is_empty() { synthetic(&float, options.synthetic_batches)? } else { vec![] };
    let batches = if calibration.is_empty() { &made_up } else { calibration };
    let noise = &batches[..options.noise_batches.min(batches.len())];
    let work = Work { batches, noise, options };
    let before = report::totals(&float, batches.first().map(Vec::as_slice));
    let (made, clarity) = match search {
        None => (work.make(&float, float.clone(), None, progress)?, None),
        Some(mut search) => {
            let made = work.shaped(&float, &mut search, progress)?;
            let clarity = report::output_sqnr(&float, &made.quantized, noise, options.threads)?;
            (made, (!noise.is_empty()).then_some(clarity))
        }
    };
    let Made { float, quantized, smoothed, rotated, choice } = made;
    verify::verify(&quantized.assigned.graph)?;
    let samples = batches.iter().map(|b| b.first().and_then(|t| t.shape().first().copied()).unwrap_or(1)).sum();
    let calibration = Calibration { samples, synthetic: calibration.is_empty() };
    let mut report =
        report::report(&float, &quantized, batches.first(), noise, options.threads, calibration, progress)?;
    // Against the network as it came, whatever it was made of in between.
    report.before = before;
    report.output_sqnr_db = clarity.or(report.output_sqnr_db);
    report.smoothed = smoothed;
    report.rotated = rotated;
    report.search = choice;
    Ok(Lightened { graph: quantized.assigned.graph.compacted(), report })
}

/// A float network, what it was quantized to, and how its widths were chosen.
struct Made {
    float: Graph,
    quantized: Quantized,
    smoothed: Vec<Smoothed>,
    rotated: Vec<Rotated>,
    choice: Option<Mixed>,
}

/// What all forms of a network have in common.
struct Work<'a> {
    batches: &'a [Vec<Tensor>],
    /// Those that errors of the output are measured on.
    noise: &'a [Vec<Tensor>],
    options: &'a Options,
}

impl Work<'_> {
    /// The network in the form that keeps the budgets best.
    fn shaped(
        &self,
        float: &Graph,
        search: &mut Search<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Made, LightenError> {
        let first = self.make(float, float.clone(), Some(search), progress);
        let needed = matches!(first, Err(LightenError::OutOfReach(_)));
        match search.shapes {
            Shapes::All => {}
            Shapes::AsNeeded if needed => {}
            _ => return first,
        }
        // Where nothing but accuracy is limited, small is good; else near to the float network is.
        let small = search.options.budgets.iter().all(|b| b.measure == Measure::Drop);
        let mut tried = vec![];
        let mut best: Option<(f64, usize, Made)> = None;
        let mut refusal = None;
        let mut first = Some(first);
        for shape in [Shape::Whole].into_iter().chain(OTHERS) {
            let made = match first.take() {
                Some(made) => made,
                None => (shape.of(float, self.batches, self.options.threads, progress))
                    .and_then(|graph| self.make(float, graph, Some(search), progress)),
            };
            let mut entry = Tried {
                shape: shape.to_string(),
                file_bytes: None,
                output_sqnr_db: None,
                refused: None,
                chosen: false,
            };
            match made {
                Ok(made) => {
                    let bytes = report::file_bytes(&made.quantized.assigned.graph)[0];
                    let clarity = report::output_sqnr(float, &made.quantized, self.noise, self.options.threads)?;
                    entry.file_bytes = Some(bytes);
                    entry.output_sqnr_db = (!self.noise.is_empty()).then_some(clarity);
                    let value = if small { -(bytes as f64) } else { clarity };
                    if best.as_ref().is_none_or(|(least, ..)| value > *least) {
                        best = Some((value, tried.len(), made));
                    }
                }
                Err(error @ (LightenError::OutOfReach(_) | LightenError::Option(_))) => {
                    entry.refused = Some(error.to_string());
                    refusal.get_or_insert(error);
                }
                Err(other) => return Err(other),
            }
            tried.push(entry);
        }
        match (best, refusal) {
            (Some((_, at, mut made)), _) => {
                tried[at].chosen = true;
                if let Some(choice) = &mut made.choice {
                    choice.shapes = tried;
                }
                Ok(made)
            }
            (None, Some(LightenError::OutOfReach(why))) => Err(LightenError::OutOfReach(format!(
                "{why}. Taking channels out or factorizing layers before that does not keep it either"
            ))),
            (None, refusal) => Err(refusal.unwrap_or_else(|| LightenError::Option("nothing was tried".into()))),
        }
    }

    /// A form of the network on few bits; what it may cost and lose goes by the network as it came, `reference`.
    fn make(
        &self,
        reference: &Graph,
        mut float: Graph,
        search: Option<&mut Search<'_>>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Made, LightenError> {
        let Work { batches, noise, options } = *self;
        // What takes long is done once, on what was chosen; where points of accuracy are limited, on all that is judged.
        let judged = search.as_ref().is_some_and(|s| s.options.budgets.iter().any(|b| b.measure == Measure::Drop));
        let plain = QuantizeOptions { reconstruct: None, ..options.quantize.clone() };
        let mut quantized = quantize(&float, batches, &plain, options.threads, progress)?;
        if options.quantize.equalize && !noise.is_empty() {
            // Evener channels help most networks and hurt some: keep what leaves the clearer output.
            let even = equalize(&float, batches, options.quantize.bits.activations, options.threads)?.compacted();
            let other = quantize(&even, batches, &plain, options.threads, progress)?;
            let clarity = |f, q| report::output_sqnr(f, q, noise, options.threads);
            // Few bits clip rare values of evened channels, which the even network does as well.
            if clarity(&float, &other)? > clarity(&float, &quantized)? {
                (float, quantized) = (even, other);
            }
        }
        let (float, mut quantized, smoothed, rotated) = self.without_outliers(float, quantized, &plain, progress)?;
        let mut choice = None;
        if let Some(search) = search {
            let mut request = Request {
                reference,
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
        Ok(Made { float, quantized, smoothed, rotated, choice })
    }

    /// The network with its outliers in weights or spread over channels, as far as the output is clearer for it.
    fn without_outliers(
        &self,
        float: Graph,
        quantized: Quantized,
        plain: &QuantizeOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Graph, Quantized, Vec<Smoothed>, Vec<Rotated>), LightenError> {
        let Work { batches, noise, options } = *self;
        let clarity = |f: &Graph, q: &Quantized| report::output_sqnr(f, q, noise, options.threads);
        let mut best = (float, quantized, vec![], vec![]);
        let forced = matches!(plain.smooth, Smoothing::Strength(_));
        let mut rough = None;
        if forced || !noise.is_empty() {
            let (smooth, moved) = smooth(&best.0, batches, plain, options.threads)?;
            if !moved.is_empty() {
                let smooth = smooth.compacted();
                let other = quantize(&smooth, batches, plain, options.threads, progress)?;
                if forced || clarity(&smooth, &other)? > clarity(&best.0, &best.1)? {
                    rough = Some(std::mem::replace(&mut best, (smooth, other, moved, vec![])).0);
                }
            }
        }
        if plain.rotate && !noise.is_empty() {
            // On top of smoothing, and in place of it.
            let smooth = Some((best.0.clone(), best.2.clone()));
            for (from, moved) in smooth.into_iter().chain(rough.filter(|_| !forced).map(|g| (g, vec![]))) {
                let (turned, places) = rotate(&from, batches, plain, options.threads)?;
                if !places.is_empty() {
                    let turned = turned.compacted();
                    let other = quantize(&turned, batches, plain, options.threads, progress)?;
                    if clarity(&turned, &other)? > clarity(&best.0, &best.1)? {
                        best = (turned, other, moved, places);
                    }
                }
            }
        }
        Ok(best)
    }
}
