//! Factorization: a layer becomes a chain of smaller ones that computes nearly the same.
//!
//! Every layer is taken apart in every way it can be (`layer`), at several ranks; what each loses is measured against the second moments of
//! the layer's inputs on calibration data. Which layers become which chains is one choice over the whole network, within a budget of
//! multiply–accumulates or parameters, by the same exact knapsack that chooses widths.

mod dense;
mod eigen;
mod layer;
mod replace;

use std::{collections::BTreeMap, str::FromStr};

use qing_graph::{Graph, NodeId, Tensor, ops, passes, verify};
use serde::Serialize;

pub(crate) use self::dense::cholesky;
use self::{
    dense::Weight,
    layer::{Chain, Factors, Kernel},
};
use crate::{
    LightenError, Progress,
    calibrate::{Moments, calibrate},
    report,
    search::knapsack::{Problem, least, solve},
};

/// Largest matrix whose singular values are looked at for a report.
const LARGEST_SEEN: usize = 256;

/// How many singular values of a matrix of so many rows hold 99 % of the power, and how many there are; `None` if it is large or has
/// none.
pub(crate) fn effective_rank(values: &[f32], rows: usize) -> Option<[usize; 2]> {
    let columns = values.len().checked_div(rows).filter(|c| *c > 0 && c * rows == values.len())?;
    let n = rows.min(columns);
    if n > LARGEST_SEEN {
        return None;
    }
    // The smaller of both products of the matrix with itself has the squares of its singular values.
    let at =
        |i: usize, k: usize| f64::from(if rows <= columns { values[i * columns + k] } else { values[k * columns + i] });
    let mut gram = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let dot: f64 = (0..rows.max(columns)).map(|k| at(i, k) * at(j, k)).sum();
            (gram[i * n + j], gram[j * n + i]) = (dot, dot);
        }
    }
    let powers = eigen::eigen(&gram, n)?.values;
    let total: f64 = powers.iter().sum();
    // The power of those before it is less than enough.
    let before = powers.iter().scan(0.0, |sum, p| {
        let old = *sum;
        *sum += p;
        Some(old)
    });
    let rank = before.take_while(|power| *power < 0.99 * total).count();
    (total > 0.0).then_some([rank, n])
}

/// What a budget of factorization limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// Multiply–accumulates, as a share of what the network has.
    Macs(f64),
    /// Weights, as a share of what the network has.
    Parameters(f64),
}

/// What a layer may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Two layers of lower rank.
    Svd,
    /// 1×1, taps between few channels, 1×1.
    Tucker,
    /// 1×1, one filter for each channel, 1×1.
    Cp,
    /// One filter for each channel or a few, 1×1.
    Separable,
}

impl Form {
    /// All of them.
    pub const ALL: [Form; 4] = [Form::Svd, Form::Tucker, Form::Cp, Form::Separable];
}

impl FromStr for Form {
    type Err = LightenError;

    fn from_str(text: &str) -> Result<Form, LightenError> {
        Ok(match text.trim() {
            "svd" => Form::Svd,
            "tucker" => Form::Tucker,
            "cp" => Form::Cp,
            "separable" => Form::Separable,
            other => {
                return Err(LightenError::Option(format!("form `{other}`: there are svd, tucker, cp and separable")));
            }
        })
    }
}

/// How to factorize.
#[derive(Debug, Clone, PartialEq)]
pub struct FactorizeOptions {
    /// The budget.
    pub amount: Amount,
    /// What layers may become.
    pub forms: Vec<Form>,
    /// Whether errors count by the inputs that calibration shows; else all alike.
    pub whitened: bool,
    /// Threads of the engine.
    pub threads: usize,
}

/// What became of a layer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FactorizedLayer {
    /// Its name.
    pub layer: String,
    /// What it is now: `svd 16`, `tucker 16×24`, `cp 32`, `separable ×2`, or `as it was`.
    pub form: String,
    /// Weights before and after.
    pub parameters: (usize, usize),
    /// Multiply–accumulates before and after.
    pub macs: (f64, f64),
    /// Power of what is lost over the power of the output.
    pub lost: f64,
}

/// A network with factorized layers, and what became of them.
#[derive(Debug)]
pub struct Factorized {
    /// The network.
    pub graph: Graph,
    /// Layer by layer.
    pub layers: Vec<FactorizedLayer>,
}

/// Channels are taken in multiples of so many: what kernels work on at once.
const STEP: usize = 8;

/// A layer and all it may become.
struct Options {
    node: NodeId,
    chains: Vec<Option<Chain>>,
    lost: Vec<f64>,
    macs: Vec<f64>,
    parameters: Vec<f64>,
}

/// Factorizes a float network within a budget; `calibration` holds batches of inputs as the network takes them.
///
/// # Errors
/// If there is nothing to factorize, the budget is out of reach (the message says what is not), or something cannot be run.
pub fn factorize(
    graph: &Graph,
    calibration: &[Vec<Tensor>],
    options: &FactorizeOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Factorized, LightenError> {
    let share = match options.amount {
        Amount::Macs(share) | Amount::Parameters(share) => share,
    };
    if !(share > 0.0 && share < 1.0) {
        return Err(LightenError::Option(format!("a budget of {share} of the network; it is between 0 and 1")));
    }
    if calibration.is_empty() && options.whitened {
        return Err(LightenError::Calibration("ranks are chosen by what layers see: give some typical inputs".into()));
    }
    let mut float = graph.clone();
    while passes::fold_constants(&mut float)? + passes::simplify(&mut float)? > 0 {}
    let float = float.compacted();
    let samples = calibration.iter().map(|b| b.first().and_then(|t| t.shape().first().copied()).unwrap_or(1)).sum();
    let kernels: BTreeMap<NodeId, Kernel> =
        (0..float.nodes.len()).filter_map(|i| Some((i, replace::kernel(&float, &float.nodes[i])?))).collect();
    let moments: Vec<(NodeId, Moments)> = (kernels.keys())
        .filter(|_| options.whitened)
        .filter_map(|i| Some((*i, Moments::of(&float, &float.nodes[*i], true, samples)?)))
        .collect();
    let statistics = calibrate(&float, calibration, &[], &moments, options.threads, progress)?;
    let costs: BTreeMap<String, f64> = report::layers(&float, calibration.first().map(Vec::as_slice))
        .into_iter()
        .map(|l| (l.name, l.macs as f64))
        .collect();
    let mut all = vec![];
    for (done, (node, kernel)) in kernels.iter().enumerate() {
        progress(Progress { stage: "factorize", done, total: kernels.len() });
        let seen = statistics.moments.get(node);
        let weight = seen
            .and_then(|m| moments_of(m, kernel))
            .unwrap_or_else(|| Weight::Diagonal(vec![1.0; kernel.weights.columns]));
        let macs = costs.get(&float.nodes[*node].name).copied().unwrap_or(0.0);
        all.extend(choices(&float, *node, kernel, &weight, macs, &options.forms));
    }
    progress(Progress { stage: "factorize", done: kernels.len(), total: kernels.len() });
    let chosen = choose(&all, &costs, options.amount)?;
    let mut chains = BTreeMap::new();
    let mut layers = vec![];
    for (o, choice) in all.iter().zip(chosen) {
        let name = float.nodes[o.node].name.clone();
        let chain = o.chains[choice].clone();
        layers.push(FactorizedLayer {
            layer: name.clone(),
            form: chain.as_ref().map_or_else(|| "as it was".into(), Chain::label),
            parameters: (o.parameters[0] as usize, o.parameters[choice] as usize),
            macs: (o.macs[0], o.macs[choice]),
            lost: o.lost[choice],
        });
        if let Some(chain) = chain {
            chains.insert(name, (chain, kernels[&o.node].taps));
        }
    }
    let mut made = float;
    replace::replace(&mut made, chains)?;
    verify::verify(&made)?;
    Ok(Factorized { graph: made.compacted(), layers })
}

/// Second moments in the order of the kernel's columns.
fn moments_of(moments: &Moments, kernel: &Kernel) -> Option<Weight> {
    let n = kernel.weights.columns;
    if moments.groups() != 1 || moments.width() != n {
        return None;
    }
    Some(match moments.covariance(0) {
        Some(c) => Weight::Full(dense::Matrix::new(n, n, c)),
        None => Weight::Diagonal(moments.squares(0)),
    })
}

/// A layer in every form that makes it smaller; nothing if there is none.
fn choices(
    graph: &Graph,
    node: NodeId,
    kernel: &Kernel,
    moments: &Weight,
    macs: f64,
    forms: &[Form],
) -> Option<Options> {
    let factors = Factors::new(kernel, moments)?;
    let power = factors.power();
    let (out, channels) = (kernel.weights.rows, kernel.channels);
    if power <= 0.0 || out < 2 * STEP {
        return None;
    }
    let whole = kernel.weights.values.len() as f64;
    let places = macs / whole;
    // Layers before the one that strides work on more places.
    let stride: f64 =
        (graph.nodes[node].op.downcast::<ops::Conv>()).map_or(1.0, |c| c.strides.iter().map(|s| *s as f64).product());
    let ranks = |n: usize| (1..8).map(move |i| (n * i / 8).div_ceil(STEP) * STEP).filter(move |r| *r > 0 && *r < n);
    let wanted = |form: Form| forms.contains(&form);
    let mut chains: Vec<Chain> = vec![];
    if wanted(Form::Svd) {
        let mut distinct: Vec<usize> = ranks(out).filter(|r| *r < kernel.weights.columns).collect();
        distinct.dedup();
        chains.extend(distinct.iter().map(|r| factors.svd(*r)));
    }
    if kernel.taps > 1 && channels >= 2 * STEP {
        if wanted(Form::Tucker) {
            let mut pairs: Vec<(usize, usize)> = (1..8)
                .map(|i| ((channels * i / 8).div_ceil(STEP) * STEP, (out * i / 8).div_ceil(STEP) * STEP))
                .filter(|(a, b)| *a < channels && *b < out)
                .collect();
            pairs.dedup();
            chains.extend(pairs.iter().filter_map(|(a, b)| factors.tucker(*a, *b)));
        }
        if wanted(Form::Cp) {
            for times in [1, 2] {
                chains.extend(factors.cp((channels.max(out) * times).div_ceil(STEP) * STEP));
            }
        }
        if wanted(Form::Separable) {
            chains.extend((1..=3).filter_map(|terms| factors.separable(terms)));
        }
    }
    let mut made = Options { node, chains: vec![None], lost: vec![0.0], macs: vec![macs], parameters: vec![whole] };
    for chain in chains {
        let cost = match &chain {
            Chain::Svd { .. } | Chain::Separable { .. } => places * chain.parameters() as f64,
            Chain::Tucker { first, core: middle, last } | Chain::Cp { first, depthwise: middle, last } => {
                places * (stride * first.values.len() as f64 + (middle.values.len() + last.values.len()) as f64)
            }
        };
        if cost >= macs && chain.parameters() as f64 >= whole {
            continue;
        }
        made.lost.push(factors.lost(&chain) / power);
        made.macs.push(cost);
        made.parameters.push(chain.parameters() as f64);
        made.chains.push(Some(chain));
    }
    (made.chains.len() > 1).then_some(made)
}

/// The choice for every layer.
fn choose(all: &[Options], costs: &BTreeMap<String, f64>, amount: Amount) -> Result<Vec<usize>, LightenError> {
    if all.is_empty() {
        return Err(LightenError::Option("no layer of this network becomes smaller by factorization".into()));
    }
    let (what, share, of): (_, _, fn(&Options) -> &Vec<f64>) = match amount {
        Amount::Macs(share) => ("multiply–accumulates", share, |o| &o.macs),
        Amount::Parameters(share) => ("weights", share, |o| &o.parameters),
    };
    let open: f64 = all.iter().map(|o| of(o)[0]).sum();
    let total = match amount {
        Amount::Macs(_) => costs.values().sum::<f64>(),
        Amount::Parameters(_) => open,
    };
    let problem = Problem {
        errors: all.iter().map(|o| o.lost.clone()).collect(),
        costs: vec![all.iter().map(|o| of(o).clone()).collect()],
        limits: vec![share * total - (total - open)],
    };
    let solution = solve(&problem).ok_or_else(|| {
        let reachable = (least(&problem)[0] + total - open) / total;
        LightenError::Option(format!(
            "{share} of the {what} is out of reach of factorization; the least is {reachable:.3}"
        ))
    })?;
    Ok(solution.choices)
}

#[cfg(test)]
mod rank_tests {
    use super::effective_rank;

    #[test]
    fn rank_of_products() {
        // An outer product has rank one; the identity all of it.
        let outer: Vec<f32> = (0..12).map(|i| ((i / 4 + 1) * (i % 4 + 1)) as f32).collect();
        assert_eq!(effective_rank(&outer, 3), Some([1, 3]));
        let identity: Vec<f32> = (0..16).map(|i| if i % 5 == 0 { 1.0 } else { 0.0 }).collect();
        assert_eq!(effective_rank(&identity, 4), Some([4, 4]));
        assert_eq!(effective_rank(&[0.0; 4], 2), None);
        assert_eq!(effective_rank(&[1.0; 5], 2), None);
    }
}
