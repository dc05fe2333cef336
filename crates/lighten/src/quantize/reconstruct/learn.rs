//! One block: what is learned, how fast, and what it becomes.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use qing_engine::Pool;
use qing_graph::{Graph, Quant, Tensor, Type, ValueId};
use qing_train::{
    TrainError,
    loss::Terms,
    optimize::{Method, Settings as Optimizer},
    parameters::{Export, Model, Role, Values},
    trainer::{Objective, Settings, Trainer},
};

use super::{
    batches::Batches,
    blocks::Block,
    build::{Built, Form, Network, Quantizer, build},
};
use crate::{
    LightenError,
    quantize::{assign::Chosen, options::Reconstruction, trial::reals},
};

/// How far a logit can go in all steps together; the stretched sigmoid is closed at ±2.4.
const LOGIT_REACH: f32 = 20.0;
/// How far a scale of activations can, as a share of itself.
const SCALE_REACH: f32 = 1.0;
/// How far that of weights can: steps that stay in place let roundings settle.
const WEIGHT_SCALE_REACH: f32 = 0.1;
/// How far a bias can, in its units.
const BIAS_REACH: f32 = 3.0;
/// Share of the steps before the first rounding is decided, and after which all are; then scales and biases alone are learned.
const DECIDED: std::ops::Range<f32> = 0.1..0.9;
/// Steps from one decision to the next.
const DECIDE_EVERY: usize = 4;

/// Learns the numbers of a block and writes them into `chosen`. `before` is its mean squared error so far; `step` hears of every
/// step.
///
/// # Errors
/// If an op on the way has no gradient, or the loss is no number.
pub(super) fn learn(
    network: Network<'_>,
    block: &Block,
    batches: &Batches<'_>,
    how: &Reconstruction,
    before: f64,
    pool: &Arc<Pool>,
    chosen: &mut Chosen,
    step_done: &mut dyn FnMut(usize),
) -> Result<(), LightenError> {
    let mut built = build(network, block, &batches.input_shape(), Form::Learned)?;
    if built.parameters.is_empty() {
        return Ok(());
    }
    let Objectives { loss, inputs } = objective(&mut built, batches, before)?;
    let Built { graph, parameters, layers, quantizers, .. } = built;
    let undecided = Arc::new(AtomicU32::new(1f32.to_bits()));
    let roles = parameters.iter().map(|p| p.role).collect();
    let export = Box::new(Part { roles, undecided: undecided.clone() });
    let model = Model { graph, parameters, statistics: vec![], export };
    let settings = Settings {
        optimizer: Optimizer {
            method: Method::AdamW { betas: [0.9, 0.999], epsilon: 1e-10 },
            decay: 0.0,
            scale_rate: 1.0,
            clip: None,
            rates: vec![
                ("*.rounding".into(), LOGIT_REACH),
                ("*.bias".into(), BIAS_REACH),
                ("*.scale".into(), WEIGHT_SCALE_REACH),
                ("*.step".into(), SCALE_REACH),
            ],
            ..Optimizer::default()
        },
        average: None,
        plan: qing_engine::Options::threads(pool.threads()),
    };
    let mut trainer = Trainer::new(model, &Objective { loss, inputs }, &settings, pool)?;
    for step in 0..how.iterations {
        let at = step as f32 / how.iterations as f32;
        step_done(step);
        let batch = batches.draw(step)?;
        if step % DECIDE_EVERY == 0 {
            undecided.store(open(at).to_bits(), Ordering::Relaxed);
        }
        let inputs: Vec<&Tensor> = batch.iter().collect();
        let rate = (1.0 + (std::f32::consts::PI * at).cos()) / 2.0;
        trainer.step(&inputs, rate / how.iterations as f32)?;
    }
    let values = trainer.values()?.parameters;
    for (which, slot) in quantizers {
        let to = match which {
            Quantizer::Stored(value) => chosen.types.get_mut(&value),
            Quantizer::Read(node) => chosen.narrow.get_mut(&node),
        };
        if let Some((_, quant)) = to {
            *quant = Quant::per_tensor(quant.scale(0) * values[slot][0], quant.zero(0))?;
        }
    }
    for layer in layers {
        let Some(of) = chosen.layers.get_mut(&layer.node) else { continue };
        if let Some((rounding, round, scale)) = &layer.rounding {
            of.weights = rounding.weights(&values[*round], of.ty.element, &of.ty)?;
            let scales: Vec<f32> = rounding.scales.iter().zip(&values[*scale]).map(|(s, f)| s * f).collect();
            of.ty = rescaled(&of.ty, scales)?;
        }
        let (first, unit, slot) = &layer.bias;
        let bias = first.iter().zip(unit).zip(&values[*slot]);
        let mut bias: Vec<f64> = bias.map(|((b, u), v)| f64::from(*b) + f64::from(u * v)).collect();
        if let (Some((rounding, ..)), Some(means)) = (&layer.rounding, &of.means) {
            let drift = rounding.drift(&reals(of)?, means);
            bias.iter_mut().zip(drift).for_each(|(b, d)| *b -= d);
        }
        of.bias = Some(bias);
    }
    Ok(())
}

/// The same type with other scales.
pub(super) fn rescaled(ty: &Type, scales: Vec<f32>) -> Result<Type, LightenError> {
    let quant = match &ty.quant {
        Some(old) => Quant::new(old.granularity(), scales, vec![0])?,
        None => return Err(LightenError::Option("weights without a scale".into())),
    };
    Ok(ty.clone().quantized(ty.element, quant))
}

/// What shall be small, and the inputs besides what the block reads.
struct Objectives {
    loss: ValueId,
    /// The target; the factor of every place's error, if they differ.
    inputs: Vec<ValueId>,
}

/// Adds what shall be small: the squared error in units of that before.
fn objective(built: &mut Built, batches: &Batches<'_>, before: f64) -> Result<Objectives, LightenError> {
    let graph = &mut built.graph;
    graph.outputs.clear();
    let float = |graph: &mut Graph, name: &str, shape: &[usize]| {
        graph.add_input(name, Type::new(qing_graph::Element::F32, shape.iter().copied()))
    };
    let target = float(graph, "target", &batches.target_shape());
    let mask = batches.mask_shape().map(|shape| float(graph, "mask", &shape));
    let mut t = Terms::new(graph, "reconstruct");
    let mut difference = t.sub(built.output, target)?;
    if let Some(mask) = mask {
        difference = t.mul(difference, mask)?;
    }
    let square = t.mul(difference, difference)?;
    let error = t.mean(square)?;
    let loss = t.times(error, (1.0 / before) as f32)?;
    Ok(Objectives { loss, inputs: [Some(target), mask].into_iter().flatten().collect() })
}

/// The share of roundings that are still open when a share `at` of the steps is done: fewer and fewer are decided at a time.
fn open(at: f32) -> f32 {
    let left = 1.0 - ((at - DECIDED.start) / (DECIDED.end - DECIDED.start)).clamp(0.0, 1.0);
    left.powi(3)
}

/// A logit that is decided; one that is learned does not come near, as the stretched sigmoid is flat beyond ±2.4.
const DECISION: f32 = 32.0;

/// Decides those roundings that are nearest to whole steps, until no more than the share `open` is left; those that are left
/// make up for what that changes, as in incremental quantization (arXiv:1702.03044).
fn decide(logits: &mut [f32], open: f32) {
    let is_open = |v: &f32| v.abs() < DECISION / 2.0;
    let mut left: Vec<f32> = logits.iter().filter(|v| is_open(v)).map(|v| v.abs()).collect();
    let stay = (logits.len() as f32 * open) as usize;
    if left.len() <= stay {
        return;
    }
    let least = if stay == 0 { -1.0 } else { *left.select_nth_unstable_by(stay - 1, f32::total_cmp).1 };
    for v in logits.iter_mut().filter(|v| is_open(v) && v.abs() > least) {
        *v = if *v >= 0.0 { DECISION } else { -DECISION };
    }
}

/// A block is no network of its own.
struct Part {
    roles: Vec<Role>,
    /// The share of roundings that are open, as bits.
    undecided: Arc<AtomicU32>,
}

/// How far a scale may move from where it was.
const FACTORS: std::ops::RangeInclusive<f32> = 0.1..=10.0;

impl Export for Part {
    fn export(&self, _: &Model, _: &Values) -> Result<Graph, TrainError> {
        Err(TrainError::invalid("a block that is reconstructed is part of a network; its values go there"))
    }

    fn constrain(&self, index: usize, value: &mut [f32], _: &[f32]) {
        match self.roles[index] {
            Role::Scale => value.iter_mut().for_each(|v| *v = v.clamp(*FACTORS.start(), *FACTORS.end())),
            // Weights that are learned are logits.
            Role::Weight => decide(value, f32::from_bits(self.undecided.load(Ordering::Relaxed))),
            _ => {}
        }
    }
}
