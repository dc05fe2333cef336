//! Quantization-aware training: a float network becomes a training graph that computes what the integer network will, and its
//! trained values become that network.
//!
//! A float graph is outlined (`outline.rs`: which nodes compute on integers, which values are quantized how), gets scales to
//! begin with (`scales.rs`), and is built anew (`build.rs`): values are rounded by `LearnedQuantize`, sums are of integers in
//! f32 (exact below 2^24), and batch normalization works on the sums, whose unit it takes away. After training it is folded
//! into scales, signs and whole biases (`fold.rs`), of which the typed graph is made (`typed.rs`). In between it may be trained
//! further in a form that computes exactly what the typed graph does (`settle.rs`).
//! The residual stream has eight bits; a layer of fewer reads it rescaled. For one bit blocks may be rewired before (`shortcuts.rs`), and
//! the statistics of their normalizations taken anew (`renormalize.rs`).

mod build;
mod config;
mod dequantize;
mod fold;
mod outline;
mod renormalize;
mod scales;
mod settle;
mod shortcuts;
mod typed;
mod watch;

use std::collections::HashMap;

use qing_graph::{Graph, NodeId, Tensor, passes};

pub use config::{Bits, Config, Estimator, Override};
pub use renormalize::renormalize;
pub use shortcuts::shortcuts;

use self::{
    build::{DotSlots, Slots},
    dequantize::Known,
    fold::Folded,
    outline::{Kind, Outline},
};
use crate::{
    TrainError,
    parameters::{Export, Model, Values, concrete},
};

/// A network in the form in which it is trained to compute on few bits, in batches of `batch`. Scales begin with what the
/// network computes on `calibration`, batches of any size. Latent weights are those of the float network; of one that is
/// quantized already, what its integers stand for, and what it stores in as many bits keeps its scale and zero point.
///
/// What [`Model::exported`] gives is the typed integer network, which computes what arithmetic says, to the bit.
///
/// # Errors
/// If an option is out of range, the network takes integers or has no layer that could be quantized, or the batches do not fit.
pub fn prepare(graph: &Graph, batch: usize, config: &Config, calibration: &[Vec<Tensor>]) -> Result<Model, TrainError> {
    config.validate()?;
    let (base, known) = cleaned(graph)?;
    let mut outline = Outline::new(&base, config)?;
    scales::calibrate(&base, &mut outline, calibration)?;
    outline.keep(&base, &known);
    let shapes = concrete(&base, batch)?;
    let built = build::build(&shapes, &outline, config)?;
    let export = Typed { base, outline, config: config.clone(), slots: built.slots };
    Ok(Model {
        graph: built.graph,
        parameters: built.parameters,
        statistics: built.statistics,
        export: Box::new(export),
    })
}

/// The network in floating point, with constants folded and without what does nothing; normalizations stay. With it, what it says of quantizations.
fn cleaned(graph: &Graph) -> Result<(Graph, Known), TrainError> {
    let quantized = graph.values().any(|(_, v)| v.ty.quant.is_some());
    let (mut base, known) = if quantized { dequantize::float(graph)? } else { (graph.clone(), Known::default()) };
    while passes::fold_constants(&mut base)? + passes::simplify(&mut base)? > 0 {}
    Ok((base.compacted(), known))
}

/// The way to the typed network.
struct Typed {
    base: Graph,
    outline: Outline,
    config: Config,
    slots: Slots,
}

impl Typed {
    /// The dot whose weights parameter `index` is the scales of.
    fn scaled(&self, index: usize) -> Option<(NodeId, &DotSlots)> {
        self.slots.dots.iter().find(|(_, d)| d.scale == Some(index)).map(|(node, d)| (*node, d))
    }
}

impl Export for Typed {
    fn export(&self, _: &Model, values: &Values) -> Result<Graph, TrainError> {
        let folded = fold::fold(&self.base, &self.outline, &self.slots, values, false)?;
        typed::typed(&self.base, &self.outline, &folded)
    }

    fn settled(&self, batch: usize, values: &Values) -> Result<Option<Model>, TrainError> {
        let folded = fold::fold(&self.base, &self.outline, &self.slots, values, true)?;
        let shapes = concrete(&self.base, batch)?;
        let settled = settle::settle(&shapes, &self.outline, &self.config, &folded)?;
        let export = Exact { base: self.base.clone(), outline: self.outline.clone(), folded, slots: settled.slots };
        Ok(Some(Model {
            graph: settled.graph,
            parameters: settled.parameters,
            statistics: vec![],
            export: Box::new(export),
        }))
    }

    fn limited_by(&self, index: usize) -> Option<usize> {
        self.scaled(index).map(|(_, d)| d.weight)
    }

    fn constrain(&self, index: usize, value: &mut [f32], weights: &[f32]) {
        if let Some(q) = self.slots.quantizers.iter().position(|slot| *slot == Some(index)) {
            let least = self.outline.quantizers[q].scale * build::LEAST_SCALE;
            value.iter_mut().for_each(|v| *v = v.max(least));
        } else if let Some((node, _)) = self.scaled(index)
            && let Kind::Dot(dot) = &self.outline.kinds[node]
            && let Some(like) = self.base.constant(dot.weight)
        {
            scales::limit(value, weights, like.shape(), dot.axis, dot.bits);
        }
    }
}

/// The way to the typed network from a form that computes the same.
struct Exact {
    base: Graph,
    outline: Outline,
    folded: Folded,
    slots: HashMap<NodeId, settle::DotSlots>,
}

impl Export for Exact {
    fn export(&self, _: &Model, values: &Values) -> Result<Graph, TrainError> {
        let folded = settle::refold(&self.outline, &self.slots, &self.folded, &self.base, values)?;
        typed::typed(&self.base, &self.outline, &folded)
    }

    fn constrain(&self, index: usize, value: &mut [f32], _: &[f32]) {
        if self.slots.values().any(|d| d.scale == index) {
            value.iter_mut().for_each(|v| *v = v.max(scales::LEAST));
        }
    }
}
