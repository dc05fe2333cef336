//! One block: what is learned, how fast, and what it becomes.

use std::sync::Arc;

use qing_engine::Pool;
use qing_graph::{Graph, OpError, Quant, Tensor, Type, ValueId};
use qing_train::{
    Purpose, Random, TrainError,
    loss::{Terms, mean_squared},
    optimize::{Method, Settings as Optimizer},
    parameters::{Export, Model, Role, Values},
    trainer::{Objective, Settings, Trainer},
};

use super::{
    blocks::Block,
    build::{Built, Form, Network, Quantizer, build},
    cache::Cache,
};
use crate::{
    LightenError,
    quantize::{assign::Chosen, options::Reconstruction},
};

/// What a block reads and shall give.
pub(super) struct Data<'a> {
    /// Its inputs in the float network.
    pub float: &'a Cache,
    /// Its inputs in the network that is quantized so far.
    pub light: &'a Cache,
    /// Its results in the float network.
    pub target: &'a Cache,
}

/// How far a logit can go in all steps together; the stretched sigmoid is closed at ±2.4.
const LOGIT_REACH: f32 = 10.0;
/// How far a scale of activations can, as a share of itself; that of weights goes a third as far.
const SCALE_REACH: f32 = 1.0;
/// How far a bias can, in its units.
const BIAS_REACH: f32 = 3.0;
/// Share of the steps before roundings are drawn to whole steps.
const FREE: f32 = 0.2;

/// Learns the numbers of a block and writes them into `chosen`. `(index, before)` are the position of the block and its mean
/// squared error so far.
///
/// # Errors
/// If an op on the way has no gradient, or the loss is no number.
pub(super) fn learn(
    network: Network<'_>,
    block: &Block,
    shape: &[usize],
    data: &Data<'_>,
    how: &Reconstruction,
    (index, before): (usize, f64),
    pool: &Arc<Pool>,
    chosen: &mut Chosen,
) -> Result<(), LightenError> {
    let mut built = build(network, block, shape, Form::Learned)?;
    if built.parameters.is_empty() {
        return Ok(());
    }
    let target_shape = data.target.batch_shape(shape[0]);
    let (loss, target, pull) = objective(&mut built, &target_shape, before)?;
    let Built { graph, parameters, layers, quantizers, openness, .. } = built;
    let inputs = [target].into_iter().chain(openness.and(pull)).collect();
    let export = Box::new(Part { factors: parameters.iter().map(|p| p.role == Role::Scale).collect() });
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
                ("*.scale".into(), SCALE_REACH / 3.0),
                ("*.step".into(), SCALE_REACH),
            ],
        },
        average: None,
        plan: qing_engine::Options::threads(pool.threads()),
    };
    let mut trainer = Trainer::new(model, &Objective { loss, inputs }, &settings, pool)?;
    for step in 0..how.iterations {
        let at = step as f32 / how.iterations as f32;
        let (x, y) = batch(data, shape, &target_shape, how, (index, step))?;
        let pull = how.regularization * 2.0 * ((at - FREE) / (1.0 - FREE)).max(0.0);
        let pull = Tensor::scalar(pull);
        let inputs: Vec<&Tensor> = [&x, &y].into_iter().chain(openness.map(|_| &pull)).collect();
        let rate = (1.0 + 0.9 * (std::f32::consts::PI * at).cos() + 0.1) / 2.0;
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
        of.bias = Some(bias.map(|((b, u), v)| f64::from(*b) + f64::from(u * v)).collect());
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

/// Adds what shall be small: the squared error in units of that before, and the openness of roundings times an input. Gives
/// the loss, the input for the target and that for the factor.
fn objective(
    built: &mut Built,
    target: &[usize],
    before: f64,
) -> Result<(ValueId, ValueId, Option<ValueId>), LightenError> {
    let graph = &mut built.graph;
    graph.outputs.clear();
    let float = |graph: &mut Graph, name: &str, shape: &[usize]| {
        graph.add_input(name, Type::new(qing_graph::Element::F32, shape.iter().copied()))
    };
    let target = float(graph, "target", target);
    let error = mean_squared(graph, built.output, target)?;
    let pull = built.openness.map(|_| float(graph, "pull", &[]));
    let mut t = Terms::new(graph, "reconstruct");
    let mut loss = t.times(error, (1.0 / before) as f32)?;
    if let (Some(open), Some(pull)) = (built.openness, pull) {
        let open = t.mul(open, pull)?;
        loss = t.add(loss, open)?;
    }
    Ok((loss, target, pull))
}

/// The inputs and targets of a step: random samples, each value of which is from one of both networks.
fn batch(
    data: &Data<'_>,
    shape: &[usize],
    target: &[usize],
    how: &Reconstruction,
    (index, step): (usize, usize),
) -> Result<(Tensor, Tensor), LightenError> {
    let numbers = |purpose| Random::new(how.seed, purpose, index as u32, step as u32);
    let (mut pick, mut drop) = (numbers(Purpose::Shuffle), numbers(Purpose::Mix));
    let share = (how.quantized * 256.0).round() as u32;
    let (mut x, mut y) = (Vec::with_capacity(shape.iter().product()), Vec::with_capacity(target.iter().product()));
    for _ in 0..shape[0] {
        let i = pick.below(data.float.count as u32) as usize;
        for (float, light) in data.float.sample(i).chunks(4).zip(data.light.sample(i).chunks(4)) {
            let bits = drop.bits();
            let choose = |(k, (f, l)): (usize, (&f32, &f32))| if (bits >> (8 * k)) & 255 < share { *l } else { *f };
            x.extend(float.iter().zip(light).enumerate().map(choose));
        }
        y.extend(data.target.sample(i));
    }
    let tensor = |shape: &[usize], values| Tensor::new(shape, values).map_err(OpError::from);
    Ok((tensor(shape, x)?, tensor(target, y)?))
}

/// A block is no network of its own.
struct Part {
    /// Which parameters are factors of scales.
    factors: Vec<bool>,
}

/// How far a scale may move from where it was.
const FACTORS: std::ops::RangeInclusive<f32> = 0.1..=10.0;

impl Export for Part {
    fn export(&self, _: &Model, _: &Values) -> Result<Graph, TrainError> {
        Err(TrainError::invalid("a block that is reconstructed is part of a network; its values go there"))
    }

    fn constrain(&self, index: usize, value: &mut [f32]) {
        if self.factors[index] {
            value.iter_mut().for_each(|v| *v = v.clamp(*FACTORS.start(), *FACTORS.end()));
        }
    }
}
