//! Structured pruning: whole channels go, with everything that makes and reads them, and a smaller graph is left.
//!
//! `depend` finds which channels stand or fall together through residual sums, concatenation, grouped and depthwise
//! convolution, normalization and flattening; `importance` says how much each such unit matters; `select` takes out the
//! least for what they cost, over all layers at once, until a budget is kept; `remove` builds the graph that is left; and
//! `reconstruct` fits its layers to what they made before. Done in several rounds, each judges what the last one left.

mod depend;
mod importance;
mod reconstruct;
mod remove;
mod rules;
mod select;

use qing_graph::{Graph, Tensor, passes};
use serde::Serialize;

pub use importance::Importance;

use self::{
    depend::Dependencies,
    reconstruct::Kept,
    select::{Count, Ledger, Rules},
};
use crate::{
    LightenError, Progress, Totals,
    report::{self, float_sqnr},
    search::{Budget, Limit, Measure, measured_latency},
};

/// Measures a network in the unit of its budget; smaller is lighter.
pub type Cost<'a> = dyn FnMut(&Graph) -> Result<f64, LightenError> + 'a;

/// How channels are taken out.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// By what channels are judged.
    pub importance: Importance,
    /// Channels of a layer are left in multiples of this: what fills the registers of a kernel.
    pub multiple: usize,
    /// The least share of a layer's channels that stays, 0 to 1.
    pub least: f64,
    /// Whether a residual branch may go entirely.
    pub whole: bool,
    /// Rounds in which the budget is approached; channels are judged anew in each.
    pub rounds: usize,
    /// Whether the layers that are left are fitted to what they made before; needs samples.
    pub reconstruct: bool,
    /// Threads of the engine; the result does not depend on it.
    pub threads: usize,
}

impl Default for PruneOptions {
    fn default() -> PruneOptions {
        PruneOptions {
            importance: Importance::Taylor,
            multiple: 8,
            least: 0.0,
            whole: true,
            rounds: 2,
            reconstruct: true,
            threads: 1,
        }
    }
}

/// A layer with weights, before and after.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PrunedLayer {
    /// Name of the node.
    pub name: String,
    /// Name of its op.
    pub op: String,
    /// Channels it makes.
    pub channels: [usize; 2],
    /// Multiply–accumulates of one sample.
    pub macs: [u64; 2],
    /// Weights and biases.
    pub parameters: [u64; 2],
}

/// What pruning took out and what that changed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PruneReport {
    /// Name of the model.
    pub model: String,
    /// What the budget limits, what it was, and what came of it.
    pub budget: String,
    /// Cost before.
    pub cost_before: f64,
    /// Cost after.
    pub cost_after: f64,
    /// The network as it came.
    pub before: Totals,
    /// The network that is left.
    pub after: Totals,
    /// Its layers, those that are gone with zeros after.
    pub layers: Vec<PrunedLayer>,
    /// Layers that were fitted anew.
    pub fitted: usize,
    /// Signal-to-noise ratio of the first output on the samples, in decibels.
    pub output_sqnr_db: Option<f64>,
}

/// A network with fewer channels.
#[derive(Debug)]
pub struct Pruned {
    /// The graph.
    pub graph: Graph,
    /// What became of it.
    pub report: PruneReport,
}

/// Takes channels out of a float network until it keeps a budget: `macs`, `params`, `latency` (milliseconds in the engine), or
/// whatever `cost` measures.
///
/// `batches` holds samples as the network takes them, labels not needed; all batches but those of the first one's shapes are
/// left out where gradients are taken. Without samples, channels must be judged by [`Importance::Magnitude`] or
/// [`Importance::Scale`], and nothing is fitted.
///
/// # Errors
/// If the network is quantized, an option or budget makes no sense, the budget cannot be reached (the message says what can), or
/// the network cannot be run.
pub fn prune(
    graph: &Graph,
    batches: &[Vec<Tensor>],
    budget: &Budget,
    options: &PruneOptions,
    cost: Option<&mut Cost<'_>>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Pruned, LightenError> {
    check(graph, options)?;
    let mut original = graph.clone();
    passes::fold_constants(&mut original)?;
    passes::simplify(&mut original)?;
    let original = original.compacted();
    let sample = batches.first().map(Vec::as_slice);
    let count = match (&budget.measure, &cost) {
        (Measure::Other(name), _) if name == "macs" => Some(Count::Macs),
        (Measure::Other(name), _) if name == "params" || name == "parameters" => Some(Count::Parameters),
        (Measure::Latency, _) | (_, Some(_)) => None,
        (other, None) => {
            return Err(LightenError::Option(format!(
                "taking channels out can keep a budget of macs, params or latency, not of {other}"
            )));
        }
    };
    let work = Work { original: &original, batches, sample, options };
    let (made, kept, amounts) = match count {
        Some(count) => {
            let before = work.counted(&original, count)?;
            let limit = limit(budget, before)?;
            let (made, kept) = work.down_to(count, limit / before, progress)?;
            let after = work.counted(&made, count)?;
            (made, kept, [before, after])
        }
        None => {
            let mut engine = |g: &Graph| match sample {
                Some(sample) => measured_latency(g, sample, options.threads),
                None => Err(LightenError::Calibration("a budget of latency needs samples to run".into())),
            };
            match cost {
                Some(cost) => work.measured(budget, cost, progress)?,
                None => work.measured(budget, &mut engine, progress)?,
            }
        }
    };
    let (mut made, mut fitted) = (made, 0);
    if options.reconstruct && !batches.is_empty() {
        fitted = reconstruct::reconstruct(&original, &mut made, &kept, batches, options.threads, progress)?;
    }
    let noise = match batches.is_empty() {
        true => None,
        false => float_sqnr(&original, &made, &batches[..batches.len().min(4)], options.threads)?,
    };
    let report = PruneReport {
        model: original.name.clone(),
        budget: budget.measure.to_string(),
        cost_before: amounts[0],
        cost_after: amounts[1],
        before: report::totals(&original, sample),
        after: report::totals(&made, sample),
        layers: layers(&original, &made, sample),
        fitted,
        output_sqnr_db: noise,
    };
    Ok(Pruned { graph: made, report })
}

fn check(graph: &Graph, options: &PruneOptions) -> Result<(), LightenError> {
    let fail = |what: String| Err(LightenError::Option(what));
    if let Some((_, value)) = graph.values().find(|(_, v)| v.ty.quant.is_some()) {
        return fail(format!("`{}` is quantized; channels are taken out of the float network, before", value.name));
    }
    if options.multiple == 0 || options.rounds == 0 || !(0.0..=1.0).contains(&options.least) {
        return fail(
            "channels are left in multiples of at least 1, in at least one round, and a least share is 0 to 1".into(),
        );
    }
    for (_, value) in graph.values() {
        let bad = |t: &Tensor| t.element().is_float() && t.to_f32s().iter().any(|v| v.is_nan());
        if value.constant.as_ref().is_some_and(bad) {
            return fail(format!("`{}` has weights that are no numbers (NaN)", value.name));
        }
    }
    Ok(())
}

fn limit(budget: &Budget, before: f64) -> Result<f64, LightenError> {
    let limit = match budget.limit {
        Limit::Amount(amount) => amount,
        Limit::Share(share) => share * before,
    };
    if before > 0.0 { Ok(limit) } else { Err(LightenError::Option(format!("the network has no {}", budget.measure))) }
}

/// What all rounds need.
struct Work<'a> {
    original: &'a Graph,
    batches: &'a [Vec<Tensor>],
    sample: Option<&'a [Tensor]>,
    options: &'a PruneOptions,
}

impl Work<'_> {
    fn counted(&self, graph: &Graph, count: Count) -> Result<f64, LightenError> {
        let bound = self.bound(graph)?;
        Ok(select::costs(&bound, &report::macs_by_node(&bound), count).iter().sum())
    }

    /// With all shapes known, for one sample.
    fn bound(&self, graph: &Graph) -> Result<Graph, LightenError> {
        Ok(report::bound(graph, self.sample))
    }

    /// Rounds down to a share of what is counted.
    fn down_to(
        &self,
        count: Count,
        share: f64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Graph, Kept), LightenError> {
        let (mut made, mut kept) = (self.original.clone(), Kept::new());
        let whole = self.counted(&made, count)?;
        for round in 1..=self.options.rounds {
            // Equal factors: the first channels to go are the easiest.
            let limit = whole * share.powf(round as f64 / self.options.rounds as f64);
            if self.counted(&made, count)? <= limit {
                continue;
            }
            (made, kept) = self.round(&made, kept, count, limit, progress)?;
            let more = round < self.options.rounds;
            if more && self.options.reconstruct && !self.batches.is_empty() {
                let batches = &self.batches[..self.batches.len().div_ceil(2)];
                reconstruct::reconstruct(self.original, &mut made, &kept, batches, self.options.threads, progress)?;
            }
        }
        Ok((made, kept))
    }

    fn round(
        &self,
        graph: &Graph,
        mut kept: Kept,
        count: Count,
        limit: f64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Graph, Kept), LightenError> {
        let options = self.options;
        let bound = self.bound(graph)?;
        let d = Dependencies::of(&bound);
        if d.groups.is_empty() {
            return Err(LightenError::Option("no channels of the network can be taken out".into()));
        }
        let how = options.importance;
        let importance = importance::importance(graph, &d, how, self.batches, options.threads, progress)?;
        let costs = select::costs(&bound, &report::macs_by_node(&bound), count);
        let ledger = Ledger::new(&d, &costs);
        let rules = Rules { multiple: options.multiple, least: options.least, whole: options.whole };
        let gone = select::select(&bound, &d, &ledger, &importance, limit, rules)?;
        let made = remove::remove(graph, &d, &gone)?;
        for (id, value) in graph.values() {
            let Some(lane) = &d.lanes[id.0 as usize] else { continue };
            let old = kept.get(&value.name).cloned().unwrap_or_else(|| (0..lane.atoms.len()).collect());
            let left = old.into_iter().zip(&lane.atoms).filter(|(_, a)| d.stays(**a, &gone)).map(|(i, _)| i);
            kept.insert(value.name.clone(), left.collect());
        }
        Ok((made, kept))
    }

    /// For a cost that is measured: the share of multiply–accumulates at which it keeps the budget, by bisection.
    fn measured(
        &self,
        budget: &Budget,
        cost: &mut Cost<'_>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Graph, Kept, [f64; 2]), LightenError> {
        let before = cost(self.original)?;
        let limit = limit(budget, before)?;
        let mut best = None;
        let (mut low, mut high) = (0.0, 1.0);
        let mut nearest = before;
        for step in 0..STEPS {
            let share = if step == 0 { (limit / before).clamp(0.02, 0.98) } else { f64::midpoint(low, high) };
            // What cannot be counted so low cannot be had.
            let Ok((made, kept)) = self.down_to(Count::Macs, share, progress) else {
                low = share;
                continue;
            };
            let after = cost(&made)?;
            nearest = nearest.min(after);
            if after <= limit {
                low = share;
                best = Some((made, kept, [before, after]));
            } else {
                high = share;
            }
        }
        best.ok_or_else(|| {
            LightenError::Option(format!(
                "a budget of {} of {} cannot be reached; the closest is {}",
                budget.measure.show(limit),
                budget.measure,
                budget.measure.show(nearest)
            ))
        })
    }
}

/// Networks that are made to find one within a measured budget.
const STEPS: usize = 7;

fn layers(original: &Graph, made: &Graph, sample: Option<&[Tensor]>) -> Vec<PrunedLayer> {
    let after = report::layers(made, sample);
    let channels = |graph: &Graph, name: &str| {
        let node = graph.nodes.iter().find(|n| n.name == name);
        let output = node.and_then(|n| graph.ty(n.outputs[0]).shape.clone()).unwrap_or_default();
        let axis = if output.len() > 2 { 1 } else { output.len().saturating_sub(1) };
        output.get(axis).and_then(qing_graph::Dim::known).unwrap_or(0)
    };
    let of = |layer: report::Layer| {
        let new = after.iter().find(|l| l.name == layer.name);
        PrunedLayer {
            channels: [channels(original, &layer.name), new.map_or(0, |l| channels(made, &l.name))],
            macs: [layer.macs, new.map_or(0, |l| l.macs)],
            parameters: [layer.parameters, new.map_or(0, |l| l.parameters)],
            name: layer.name,
            op: layer.op,
        }
    };
    report::layers(original, sample).into_iter().map(of).collect()
}

#[cfg(test)]
mod tests;
