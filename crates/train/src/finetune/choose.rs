use std::{collections::HashSet, sync::Arc};

use qing_engine::{EngineError, Options, Plan, Pool};
use qing_graph::{Graph, Tensor, passes};

use super::split::{Part, Whole, split, splits};
use crate::{
    TrainError,
    parameters::{Exposure, Model, Norm, Role, concrete, expose},
    trainer::{Objective, Settings, Trainer},
};

/// Output channels in a block: what fills a register of the widest instruction set.
const BLOCK: usize = 16;

/// Something that may be updated.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// What.
    pub part: Part,
    /// Bias or weight.
    pub role: Role,
    /// Squared length of its gradient on the probe: what a step gains, to first order.
    pub contribution: f64,
    /// Bytes of training this alone.
    pub memory: usize,
    /// Whether it is updated.
    pub chosen: bool,
}

/// What is updated, and what that takes.
#[derive(Debug)]
pub struct Choice {
    /// The network in training form, without a loss.
    pub model: Model,
    /// All that was considered, the most gain for its memory first; what did not fit alone is left out.
    pub candidates: Vec<Candidate>,
    /// Samples in a batch.
    pub batch: usize,
    /// Bytes of activations, gradients, parameters that are updated, scratch and the optimizer's state.
    pub memory: usize,
}

/// What a choice is made for.
pub struct Request<'a> {
    /// The network as it was given.
    pub network: &'a Graph,
    /// The largest batch.
    pub batch: usize,
    /// The most bytes.
    pub budget: usize,
    /// Of the run.
    pub settings: &'a Settings,
    /// Which constants may be updated, by name and role.
    pub allowed: &'a dyn Fn(&str, Role) -> bool,
    /// Adds the loss.
    pub attach: &'a dyn Fn(&mut Model) -> Result<Objective, TrainError>,
    /// A batch of so many samples: the inputs of the network, then of the loss.
    pub probe: &'a dyn Fn(usize) -> Result<Vec<Tensor>, TrainError>,
}

/// Chooses what of a network is updated such that training fits the budget. Nothing that is tried on the way takes more.
///
/// # Errors
/// If nothing fits at a batch of one; the message says what the network takes by itself.
pub fn choose(request: &Request<'_>, pool: &Arc<Pool>) -> Result<Choice, TrainError> {
    let mut base = request.network.clone();
    passes::normalize(&mut base)?;
    let base = base.compacted();
    let all = expose(&base, &Exposure { batch: 1, norm: Norm::Running, select: request.allowed })?;
    let mut batch = request.batch.max(1);
    loop {
        if let Some(choice) = at_batch(request, &base, &all, batch, pool)? {
            return Ok(choice);
        }
        if batch == 1 {
            return Err(too_little(request, &base, &all));
        }
        batch /= 2;
    }
}

/// Says what the network itself takes, that a budget can be chosen.
fn too_little(request: &Request<'_>, base: &Graph, all: &Model) -> TrainError {
    let alone = concrete(base, 1).and_then(|g| Ok(Plan::new(&g, &Options::default())?.peak_memory()));
    let alone = alone.map_or_else(|_| String::new(), |n| format!(" (to run it takes {n} already)"));
    let (budget, n) = (request.budget, all.parameters.len());
    TrainError::invalid(format!(
        "none of the {n} parameters can be updated within {budget} bytes, one sample at a time{alone}; give more memory, or a \
         smaller network or image"
    ))
}

/// The best choice at this batch; `None` if so little fits that a smaller batch is better.
fn at_batch(
    request: &Request<'_>,
    base: &Graph,
    all: &Model,
    batch: usize,
    pool: &Arc<Pool>,
) -> Result<Option<Choice>, TrainError> {
    let probe = (request.probe)(batch)?;
    let probe: Vec<&Tensor> = probe.iter().collect();
    let mut candidates = vec![];
    for parameter in &all.parameters {
        let rows = parameter.shape.first().copied().unwrap_or(1);
        let part = |start, end| Part { name: parameter.name.clone(), start, end };
        let whole = part(0, rows);
        let blocks: Vec<Part> = match base.find(&parameter.name) {
            Some(id) if parameter.role == Role::Weight && rows > BLOCK && splits(base, id) => {
                (0..rows).step_by(BLOCK).map(|at| part(at, (at + BLOCK).min(rows))).collect()
            }
            _ => vec![whole.clone()],
        };
        for part in blocks {
            let Some(mut trainer) = trial(request, base, std::slice::from_ref(&part), batch, pool)? else { continue };
            trainer.run(&probe)?;
            let mut contribution = 0.0;
            for i in 0..trainer.model().parameters.len() {
                contribution += trainer.gradient(i)?.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
            }
            let memory = trainer.memory();
            candidates.push(Candidate { part, role: parameter.role, contribution, memory, chosen: false });
        }
    }
    let least = candidates.iter().map(|c| c.memory).min();
    // A batch that leaves no room for anything but itself is too large.
    if least.is_none_or(|m| batch > 1 && m > request.budget / 2) {
        return Ok(None);
    }
    let least = least.unwrap_or(0);
    // What it adds to the cheapest there is, and never nothing.
    let price = |c: &Candidate| (c.memory - least + 1024) as f64;
    candidates.sort_by(|a, b| (b.contribution / price(b)).total_cmp(&(a.contribution / price(a))));
    let (mut chosen, mut memory): (Vec<Part>, usize) = (vec![], 0);
    for candidate in &mut candidates {
        chosen.push(candidate.part.clone());
        match trial(request, base, &chosen, batch, pool)? {
            Some(trainer) => {
                memory = trainer.memory();
                candidate.chosen = true;
            }
            None => {
                chosen.pop();
            }
        }
    }
    let mut model = model_of(base, &chosen, batch)?;
    model.export = Box::new(Whole { base: base.clone() });
    Ok(Some(Choice { model, candidates, batch, memory }))
}

/// The network with these parts as parameters.
fn model_of(base: &Graph, parts: &[Part], batch: usize) -> Result<Model, TrainError> {
    let (graph, names) = split(base, parts)?;
    let names: HashSet<String> = names.into_iter().collect();
    expose(&graph, &Exposure { batch, norm: Norm::Running, select: &|name, _| names.contains(name) })
}

/// A trainer of these parts, if it fits the budget.
fn trial(
    request: &Request<'_>,
    base: &Graph,
    parts: &[Part],
    batch: usize,
    pool: &Arc<Pool>,
) -> Result<Option<Trainer>, TrainError> {
    let mut model = model_of(base, parts, batch)?;
    let objective = (request.attach)(&mut model)?;
    let mut settings = request.settings.clone();
    settings.plan.memory_limit = request.budget;
    match Trainer::new(model, &objective, &settings, pool) {
        Ok(trainer) => Ok((trainer.memory() <= request.budget).then_some(trainer)),
        Err(TrainError::Engine(EngineError::Memory { .. })) => Ok(None),
        Err(e) => Err(e),
    }
}
