//! Mixed precision: from budgets to the widths of every layer.

use qing_graph::{Graph, Tensor};
use serde::Serialize;

use super::{
    budget::{Budget, Limit, Measure},
    cost::{BitOperations, CostModel, Costs, Forms, Latency, Size, file_bytes, measured_latency},
    knapsack::{Problem, least, solve},
    pareto::{Point, front},
    sensitivity::{Sensitivity, sensitivity},
};
use crate::{
    Bits, LightenError, Override, Progress, QuantizeOptions,
    quantize::{Quantized, quantize},
    shape::Tried,
};

/// Times a choice is made again because the network cost more than was predicted.
const TRIES: usize = 6;
/// Points of a front.
const FRONT: usize = 14;

/// What is searched, and among what.
#[derive(Debug, Clone, PartialEq)]
pub struct MixedOptions {
    /// The limits; at least one.
    pub budgets: Vec<Budget>,
    /// Pairs of widths a layer may have.
    pub candidates: Vec<Bits>,
    /// Batches of calibration data that disturbances are measured on.
    pub probes: usize,
}

impl MixedOptions {
    /// Weights of two to eight bits; activations of fewer than eight only where that is limited which they lower.
    pub fn new(budgets: Vec<Budget>) -> MixedOptions {
        let bits = |w, a| Bits { weights: w, activations: a };
        let mut candidates: Vec<Bits> = [8, 6, 5, 4, 3, 2].into_iter().map(|w| bits(w, 8)).collect();
        if budgets.iter().any(|b| !matches!(b.measure, Measure::Size | Measure::Drop)) {
            candidates.extend([bits(4, 4), bits(3, 4), bits(2, 4), bits(2, 2)]);
        }
        MixedOptions { budgets, candidates, probes: 8 }
    }
}

/// Says how accurate a network is, 0 to 1, on data that is not used for anything else.
pub type Judge<'a> = dyn FnMut(&Graph) -> Result<f64, LightenError> + 'a;

/// What was chosen for a layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Selected {
    /// Its name.
    pub layer: String,
    /// Bits of its weights.
    pub weight_bits: u8,
    /// Bits of the activations it reads.
    pub activation_bits: u8,
    /// How much that disturbs the output, alone.
    pub error: f64,
}

/// A limit and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Kept {
    /// Of what.
    pub measure: String,
    /// The most there may be.
    pub limit: f64,
    /// What the network has.
    pub measured: f64,
    /// What the float network has.
    pub float: f64,
}

/// How widths were chosen.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Mixed {
    /// Layer by layer.
    pub selected: Vec<Selected>,
    /// The budgets.
    pub kept: Vec<Kept>,
    /// What other budgets would buy.
    pub front: Vec<Point>,
    /// 0 if the choice is proven to be the best by the sensitivities, else how far from it at most.
    pub gap: f64,
    /// Forms of the network that were tried, where there was more than one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shapes: Vec<Tried>,
}

/// Everything the search works with.
pub(crate) struct Request<'a, 'j> {
    /// The float network as it came: what shares of costs and lost accuracy are measured by.
    pub reference: &'a Graph,
    /// The float network whose layers are chosen for, constants folded.
    pub graph: &'a Graph,
    /// Batches for ranges.
    pub calibration: &'a [Vec<Tensor>],
    /// What is searched.
    pub options: &'a MixedOptions,
    /// How layers are quantized, whatever their widths.
    pub quantize: &'a QuantizeOptions,
    /// What else can be limited: measures that are not the engine's.
    pub models: &'a mut [Box<dyn CostModel>],
    /// Accuracy, where it is limited.
    pub judge: Option<&'a mut Judge<'j>>,
    /// Threads of the engine.
    pub threads: usize,
}

/// Chooses widths within the budgets and makes the network with `build`; `build` is told whether it is for keeps.
///
/// # Errors
/// If the budgets cannot be kept (the message says how close one comes), accuracy is limited and nobody can judge it, or something
/// cannot be run.
pub(crate) fn mixed(
    request: &mut Request<'_, '_>,
    build: &mut dyn FnMut(&[Override], &mut dyn FnMut(Progress)) -> Result<Quantized, LightenError>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(Quantized, Mixed), LightenError> {
    let options = request.options;
    let drop = options.budgets.iter().find(|b| b.measure == Measure::Drop).map(|b| match b.limit {
        Limit::Amount(points) | Limit::Share(points) => points,
    });
    if drop.is_some() && request.judge.is_none() {
        return Err(LightenError::Option(
            "a budget of drop needs labelled samples to measure accuracy on; give some (--validate), or calibration data with labels"
                .into(),
        ));
    }
    known_measures(request)?;
    let probes = &request.calibration
        [..options.probes.clamp(1, request.calibration.len().max(1)).min(request.calibration.len())];
    let found = sensitivity(
        request.graph,
        request.calibration,
        probes,
        &options.candidates,
        request.quantize,
        request.threads,
        progress,
    )?;
    if found.is_empty() {
        return Err(LightenError::Option(
            "no layer of this network can compute on few bits; there is nothing to choose".into(),
        ));
    }
    let mut table = Table::new(request, &found, progress)?;
    let accuracy = match (&mut request.judge, drop) {
        (Some(judge), Some(_)) => Some(judge(request.reference)?),
        _ => None,
    };
    let mut search = Search { request, found: &found, table: &mut table, accuracy, build, drops: vec![] };
    let (quantized, choices, gap) = match drop {
        Some(points) if search.table.limits.is_empty() => search.least_within(points, progress)?,
        _ => search.within(drop, progress)?,
    };
    let drops = search.drops;
    let mut kept = vec![];
    for (k, limit) in &table.limits {
        let measured = table.measured(*k, &quantized, &choices, request)?;
        kept.push(Kept {
            measure: table.measures[*k].name().into(),
            limit: *limit,
            measured,
            float: table.costs[*k].float,
        });
    }
    if let (Some(points), Some((_, lost))) = (drop, drops.iter().rev().find(|(c, _)| *c == choices)) {
        kept.push(Kept { measure: "drop".into(), limit: points, measured: *lost, float: 0.0 });
    }
    let front = table.points(&options.candidates, &choices, &drops);
    let selected = (found.iter().zip(&choices))
        .map(|(s, c)| Selected {
            layer: s.layer.clone(),
            weight_bits: options.candidates[*c].weights,
            activation_bits: options.candidates[*c].activations,
            error: s.errors[*c],
        })
        .collect();
    Ok((quantized, Mixed { selected, kept, front, gap, shapes: vec![] }))
}

/// Refuses a budget of something that nothing here counts.
fn known_measures(request: &Request<'_, '_>) -> Result<(), LightenError> {
    let mut known = vec!["size".to_string(), "latency".into(), "bitops".into(), "drop".into()];
    known.extend(request.models.iter().map(|m| m.measure().name().to_string()));
    match request.options.budgets.iter().find(|b| !known.iter().any(|k| k == b.measure.name())) {
        Some(unknown) => Err(LightenError::Option(format!(
            "nothing here measures {}; budgets limit {}",
            unknown.measure,
            known.join(", ")
        ))),
        None => Ok(()),
    }
}

/// Errors and costs of everything that could be chosen.
struct Table {
    /// Size first, then what else is limited.
    measures: Vec<Measure>,
    costs: Vec<Costs>,
    errors: Vec<Vec<f64>>,
    /// Positions in `measures` and limits.
    limits: Vec<(usize, f64)>,
}

impl Table {
    fn new(
        request: &mut Request<'_, '_>,
        found: &[Sensitivity],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Table, LightenError> {
        let options = request.options;
        let layers: Vec<String> = found.iter().map(|s| s.layer.clone()).collect();
        let one = &request.calibration[..request.calibration.len().min(1)];
        let mut forms = vec![];
        for (i, bits) in options.candidates.iter().enumerate() {
            progress(Progress { stage: "count costs", done: i, total: options.candidates.len() });
            // What a form costs does not depend on how well it is rounded.
            let plain = QuantizeOptions {
                bits: *bits,
                overrides: vec![],
                edge_bits: None,
                bias_correction: false,
                error_feedback: false,
                equalize: false,
                ..request.quantize.clone()
            };
            forms.push((
                *bits,
                quantize(request.graph, one, &plain, request.threads, &mut |_| {})?.assigned.graph.compacted(),
            ));
        }
        let sample: &[Tensor] = one.first().map_or(&[], Vec::as_slice);
        let forms =
            Forms { float: request.reference, layers: &layers, forms: &forms, sample, threads: request.threads };
        let mut table = Table {
            measures: vec![Measure::Size],
            costs: vec![Size.costs(&forms)?],
            errors: found.iter().map(|s| s.errors.clone()).collect(),
            limits: vec![],
        };
        for budget in &options.budgets {
            let at = match &budget.measure {
                Measure::Drop => continue,
                Measure::Size => 0,
                other => {
                    let costs = match other {
                        Measure::BitOperations => BitOperations.costs(&forms)?,
                        Measure::Latency => Latency::default().costs(&forms)?,
                        _ => {
                            let model = request.models.iter_mut().find(|m| m.measure() == *other);
                            let Some(model) = model else { continue };
                            model.costs(&forms)?
                        }
                    };
                    table.measures.push(other.clone());
                    table.costs.push(costs);
                    table.costs.len() - 1
                }
            };
            let limit = match budget.limit {
                Limit::Amount(amount) => amount,
                Limit::Share(share) => share * table.costs[at].float,
            };
            table.limits.push((at, limit));
        }
        Ok(table)
    }

    /// The knapsack with limits on what is chosen.
    fn problem(&self, limits: &[(usize, f64)]) -> Problem {
        Problem {
            errors: self.errors.clone(),
            costs: limits.iter().map(|(k, _)| self.costs[*k].layers.clone()).collect(),
            limits: limits.iter().map(|(k, limit)| limit - self.costs[*k].fixed).collect(),
        }
    }

    fn predicted(&self, k: usize, choices: &[usize]) -> f64 {
        self.costs[k].fixed + choices.iter().enumerate().map(|(i, c)| self.costs[k].layers[i][*c]).sum::<f64>()
    }

    /// What a network that was made costs.
    fn measured(
        &self,
        k: usize,
        made: &Quantized,
        choices: &[usize],
        request: &Request<'_, '_>,
    ) -> Result<f64, LightenError> {
        let sample: &[Tensor] = request.calibration.first().map_or(&[], Vec::as_slice);
        match self.measures[k] {
            Measure::Size => Ok(file_bytes(&made.assigned.graph.clone().compacted())),
            Measure::Latency => measured_latency(&made.assigned.graph, sample, request.threads),
            _ => Ok(self.predicted(k, choices)),
        }
    }

    fn points(&self, candidates: &[Bits], chosen: &[usize], drops: &[(Vec<usize>, f64)]) -> Vec<Point> {
        let problem = self.problem(&[(0, f64::INFINITY)]);
        let mut all = front(&problem, 0, FRONT);
        if !all.iter().any(|c| c == chosen) {
            all.push(chosen.to_vec());
        }
        let mut points: Vec<Point> = all
            .into_iter()
            .map(|choices| Point {
                label: label(candidates, &self.costs[0].layers, &choices),
                size: self.predicted(0, &choices),
                costs: (1..self.measures.len())
                    .map(|k| (self.measures[k].name().to_string(), self.predicted(k, &choices)))
                    .collect(),
                error: choices.iter().enumerate().map(|(i, c)| self.errors[i][*c]).sum(),
                drop: drops.iter().rev().find(|(c, _)| *c == choices).map(|(_, d)| *d),
                chosen: choices == chosen,
                choices,
            })
            .collect();
        points.sort_by(|a, b| a.size.total_cmp(&b.size));
        points
    }
}

/// `w3.7a8`: mean bits, by what each layer weighs at its widest.
fn label(candidates: &[Bits], sizes: &[Vec<f64>], choices: &[usize]) -> String {
    let weight = |i: usize| sizes[i].iter().copied().fold(0.0, f64::max);
    let total: f64 = (0..choices.len()).map(weight).sum();
    let mean = |f: &dyn Fn(&Bits) -> u8| {
        choices.iter().enumerate().map(|(i, c)| weight(i) * f64::from(f(&candidates[*c]))).sum::<f64>()
            / total.max(1e-9)
    };
    format!("w{:.1}a{:.1}", mean(&|b| b.weights), mean(&|b| b.activations))
}

type Build<'a> = dyn FnMut(&[Override], &mut dyn FnMut(Progress)) -> Result<Quantized, LightenError> + 'a;

struct Search<'a, 'b, 'j> {
    request: &'a mut Request<'b, 'j>,
    found: &'a [Sensitivity],
    table: &'a mut Table,
    /// Of the float network, where it counts.
    accuracy: Option<f64>,
    build: &'a mut Build<'a>,
    /// Selections and the points they lost.
    drops: Vec<(Vec<usize>, f64)>,
}

impl Search<'_, '_, '_> {
    fn make(&mut self, choices: &[usize], progress: &mut dyn FnMut(Progress)) -> Result<Quantized, LightenError> {
        let overrides: Vec<Override> = (self.found.iter().zip(choices))
            .map(|(s, c)| Override { pattern: escaped(&s.layer), bits: self.request.options.candidates[*c] })
            .collect();
        (self.build)(&overrides, progress)
    }

    fn lost(&mut self, made: &Quantized, choices: &[usize]) -> Result<f64, LightenError> {
        let (Some(judge), Some(before)) = (&mut self.request.judge, self.accuracy) else { return Ok(0.0) };
        let points = 100.0 * (before - judge(&made.assigned.graph)?);
        self.drops.push((choices.to_vec(), points));
        Ok(points)
    }

    /// The least error within limits, as measured; the points lost are checked in the end.
    fn within(
        &mut self,
        drop: Option<f64>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Quantized, Vec<usize>, f64), LightenError> {
        let mut limits = self.table.limits.clone();
        for attempt in 1.. {
            let problem = self.table.problem(&limits);
            let Some(solution) = solve(&problem) else { return Err(self.impossible(&limits)) };
            let made = self.make(&solution.choices, progress)?;
            let mut over: Option<(usize, f64)> = None;
            for (at, (k, limit)) in self.table.limits.iter().enumerate() {
                let measured = self.table.measured(*k, &made, &solution.choices, self.request)?;
                if measured > *limit {
                    // What was predicted too low is predicted too low the next time as well.
                    limits[at].1 *= (limit / measured) * 0.99;
                    over = Some((*k, measured));
                }
            }
            let Some((k, measured)) = over else {
                let lost = self.lost(&made, &solution.choices)?;
                if let Some(points) = drop.filter(|p| lost > *p) {
                    let size = self.table.predicted(0, &solution.choices);
                    return Err(LightenError::OutOfReach(format!(
                        "no network within these budgets loses at most {points} points: the best found loses {lost:.2} at {}; \
                         allow more of the one or the other, or let it learn again (--effort thorough with labelled data)",
                        Measure::Size.show(size)
                    )));
                }
                return Ok((made, solution.choices, solution.gap));
            };
            if attempt == TRIES {
                let measure = &self.table.measures[k];
                return Err(LightenError::Option(format!(
                    "the budget of {measure} was missed {TRIES} times, the last with {}; this machine is too busy, or the \
                     budget is at the edge of what can be reached",
                    measure.show(measured)
                )));
            }
        }
        unreachable!("the loop ends by returning")
    }

    /// The smallest network that loses at most so many points: by bisection over the front.
    fn least_within(
        &mut self,
        points: f64,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Quantized, Vec<usize>, f64), LightenError> {
        let problem = self.table.problem(&[(0, f64::INFINITY)]);
        let all = front(&problem, 0, 4 * FRONT);
        let (mut low, mut high) = (0, all.len());
        let mut best: Option<(Quantized, Vec<usize>)> = None;
        while low < high {
            let middle = usize::midpoint(low, high);
            let made = self.make(&all[middle], progress)?;
            if self.lost(&made, &all[middle])? <= points {
                (high, best) = (middle, Some((made, all[middle].clone())));
            } else {
                low = middle + 1;
            }
        }
        let best_drop = self.drops.iter().map(|(_, d)| *d).fold(f64::INFINITY, f64::min);
        let (made, choices) = best.ok_or_else(|| {
            LightenError::Option(format!(
                "every choice of widths loses more than {points} points; the best loses {best_drop:.2}. Give more calibration \
                 data, or let it learn again (--effort thorough with labelled data)"
            ))
        })?;
        Ok((made, choices, 0.0))
    }

    /// Says how close one comes.
    fn impossible(&self, limits: &[(usize, f64)]) -> LightenError {
        let reachable = least(&self.table.problem(limits));
        let mut parts = vec![];
        for ((k, _), least) in limits.iter().zip(reachable) {
            let limit = self.table.limits.iter().find(|(at, _)| at == k).map_or(0.0, |(_, limit)| *limit);
            let measure = &self.table.measures[*k];
            let least = least + self.table.costs[*k].fixed;
            let fits = if least <= limit { "could be kept by itself" } else { "cannot be reached by widths alone" };
            parts.push(format!("{measure}<={} {fits}, the least is {}", measure.show(limit), measure.show(least)));
        }
        LightenError::OutOfReach(format!("no choice of widths keeps the budget: {}", parts.join("; ")))
    }
}

/// A name as a pattern that fits it; characters with a meaning stand for any one character.
fn escaped(name: &str) -> String {
    name.replace('*', "?")
}
