//! Counts a network by the rules of the MicroNet challenge (NeurIPS 2019, <https://micronet-challenge.github.io>).
//!
//! A score is `parameters / baseline + operations / baseline`, both counted in units of 32 bits: a parameter of b bits is
//! b/32 of a parameter, an operation whose widest input has b bits is b/32 of an operation. What is not written in the
//! challenge's rules or its counting code (`google-research/micronet_challenge`) follows the winner of the CIFAR-100 track
//! (`wps712/MicroNetChallenge`, branch `cifar100`), except where that counts less than there is: [`Rules::as_released`].
//!
//! # Parameters
//!
//! - Everything inference needs and does not compute is a parameter: weights, biases, scales, zero points, tables, indices.
//!   Shapes, axes and other numbers that say what a node is are not.
//! - A tensor is stored in the narrowest format that holds all its values exactly: integers of b bits (integers in a float
//!   element too), powers of two in 8 (E8M0), 8-bit floats (E5M2, E4M3), f16 and bf16 in 16, f32 in 32.
//! - A tensor with zeros may be stored sparse: the non-zero values and a mask of one bit for every place. Where zero needs no
//!   code, b bits hold −2^(b−1) … −1 and 1 … 2^(b−1). The shorter of both forms counts.
//! - A quantized layer has a scale for each output channel, all of one format, where its accumulators are multiplied at all.
//! - Indices that take some channels out of n are n bits if they ascend, else ⌈log2 n⌉ bits each.
//!
//! # Operations
//!
//! - Multiplications and additions count apart, for one sample, at the width of the widest input. Weights that are zero
//!   count nothing; taps in the padding count.
//! - An output of a layer with n weights that are not zero is n multiplications and n − 1 additions, one more with a bias.
//! - Additions of integer products have the width of their accumulator ([`Sums`]). In an adder tree the lowest additions are
//!   as wide as a product and every level is one bit wider.
//! - A multiplication by a scale is one multiplication, unless the scale is a power of two, which moves the point.
//!   Rounding and saturation are part of it.
//! - ReLU is one multiplication (so the challenge counts it), sigmoid and softmax two and an addition, swish three and an addition; a
//!   function of a quantized value is a table: parameters, no operations, ReLU and clipping excepted, which have no table.
//! - Pooling over n values is n − 1 additions and, if it is a mean, one multiplication (none where
//!   the mean of 2^k integers moves the point); a comparison is an addition.
//! - Moving values costs nothing. An op that none of this covers is one multiplication for each output and is named in
//!   [`Score::assumed`].
//!
//! Reals count at the width of their element, unless they are known to be integers: what a quantized layer without scales
//! gives, and sums of those. Where a cast makes a value narrower, it stays that narrow.

mod constants;
mod operations;
mod widths;

use qing_graph::Graph;
use serde::Serialize;

use crate::{LightenError, report::bound};

use self::operations::Counter;

/// What a score is relative to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Baseline {
    /// Its name.
    pub name: String,
    /// Parameters of 32 bits.
    pub parameters: f64,
    /// Operations of 32 bits.
    pub operations: f64,
}

impl Baseline {
    /// MobileNetV2 1.4, the baseline of the ImageNet track.
    pub fn imagenet() -> Baseline {
        Baseline { name: "imagenet".into(), parameters: 6.9e6, operations: 1170e6 }
    }

    /// WideResNet-28-10, the baseline of the CIFAR-100 track.
    pub fn cifar100() -> Baseline {
        Baseline { name: "cifar100".into(), parameters: 36.5e6, operations: 10.49e9 }
    }

    /// A baseline by its name.
    ///
    /// # Errors
    /// If there is none of this name.
    pub fn find(name: &str) -> Result<Baseline, LightenError> {
        match name {
            "imagenet" => Ok(Baseline::imagenet()),
            "cifar100" => Ok(Baseline::cifar100()),
            _ => Err(LightenError::Option(format!("no baseline `{name}`; there are imagenet and cifar100"))),
        }
    }
}

/// Where the products of a quantized layer are summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sums {
    /// An adder tree: every level one bit wider than the one below.
    Tree,
    /// One accumulator for a layer, as wide as the largest sum its shape allows needs: `⌊log2(n · x_max · w_max)⌋ + 1`.
    Fixed,
    /// Accumulators of this many bits.
    Bits(u8),
}

/// How to count.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rules {
    /// What the score is relative to.
    pub baseline: Baseline,
    /// Where integer products are summed.
    pub sums: Sums,
    /// Bits of additions of reals outside of products: biases, pooling; those of their inputs if absent.
    pub real_sums: Option<u8>,
    /// Counts less, as the counter that the winner of the CIFAR-100 track released does: scales and biases of a layer are
    /// stored as if it had one output channel, a pooling window of k×k adds k − 1 values, and sums that are not
    /// in an adder tree are those of a layer whose channels all have the mean number of weights. With this, and the network
    /// it was written for, it gives the published figures.
    pub as_released: bool,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { baseline: Baseline::cifar100(), sums: Sums::Tree, real_sums: None, as_released: false }
    }
}

/// What something costs, in bits: bits of parameters, and operations times their width.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Values of weights: dense, or those that are not zero.
    pub values: f64,
    /// Masks of weights and of chosen channels.
    pub masks: f64,
    /// Scales, zero points, biases, tables.
    pub scales: f64,
    /// Multiplications.
    pub multiplications: f64,
    /// Additions.
    pub additions: f64,
}

impl Cost {
    fn add(&mut self, other: &Cost) {
        self.values += other.values;
        self.masks += other.masks;
        self.scales += other.scales;
        self.multiplications += other.multiplications;
        self.additions += other.additions;
    }

    /// Bits of all parameters.
    pub fn storage(&self) -> f64 {
        self.values + self.masks + self.scales
    }

    /// Operations times bits.
    pub fn operations(&self) -> f64 {
        self.multiplications + self.additions
    }
}

/// A node and what it costs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// Name of the node.
    pub name: String,
    /// Name of its op.
    pub op: String,
    /// Weights, if it has any.
    pub weights: u64,
    /// Those that are not zero.
    pub nonzero: u64,
    /// Bits a weight is stored in.
    pub weight_bits: u8,
    /// Bits of what it reads.
    pub activation_bits: u8,
    /// What it costs.
    pub cost: Cost,
}

/// A network counted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Score {
    /// How it was counted.
    pub rules: Rules,
    /// Nodes that cost something, in the order of execution.
    pub lines: Vec<Line>,
    /// Their sum.
    pub total: Cost,
    /// Parameters of 32 bits.
    pub parameters: f64,
    /// Operations of 32 bits.
    pub operations: f64,
    /// Parameters over those of the baseline.
    pub storage_score: f64,
    /// Operations over those of the baseline.
    pub operation_score: f64,
    /// The sum of both.
    pub score: f64,
    /// Nodes whose ops have no rule and were counted as one multiplication for each output: name and op.
    pub assumed: Vec<(String, String)>,
}

/// Counts a network, for one sample.
///
/// # Errors
/// If shapes do not follow from the network (only the batch may be open), or a rule makes no sense.
pub fn score(graph: &Graph, rules: &Rules) -> Result<Score, LightenError> {
    check(graph, rules)?;
    let graph = bound(graph, None);
    let mut counter = Counter::new(&graph, rules);
    let lines = graph.nodes.iter().map(|node| counter.line(node)).collect::<Result<Vec<Option<Line>>, _>>()?;
    let lines: Vec<Line> = lines.into_iter().flatten().collect();
    let mut total = Cost::default();
    lines.iter().for_each(|line| total.add(&line.cost));
    let (parameters, operations) = (total.storage() / 32.0, total.operations() / 32.0);
    let storage_score = parameters / rules.baseline.parameters;
    let operation_score = operations / rules.baseline.operations;
    Ok(Score {
        rules: rules.clone(),
        assumed: counter.assumed,
        lines,
        total,
        parameters,
        operations,
        storage_score,
        operation_score,
        score: storage_score + operation_score,
    })
}

fn check(graph: &Graph, rules: &Rules) -> Result<(), LightenError> {
    let wide = |bits: u8| !(1..=64).contains(&bits);
    if let Sums::Bits(bits) = rules.sums
        && wide(bits)
    {
        return Err(LightenError::Option(format!("accumulators of {bits} bits; 1 to 64 make sense")));
    }
    if let Some(bits) = rules.real_sums.filter(|b| wide(*b)) {
        return Err(LightenError::Option(format!("additions of reals of {bits} bits; 1 to 64 make sense")));
    }
    let positive = |v: f64| v.is_finite() && v > 0.0;
    if !positive(rules.baseline.parameters) || !positive(rules.baseline.operations) {
        return Err(LightenError::Option("a baseline has parameters and operations above 0".into()));
    }
    for id in &graph.inputs {
        let (value, shape) = (graph.value(*id), graph.ty(*id).shape.as_ref());
        let open = shape.is_none_or(|dims| dims.iter().skip(1).any(|d| d.known().is_none()));
        if open {
            return Err(LightenError::Option(format!(
                "input `{}` is {}: its shape must be known, but for the batch, to count operations; export the network with \
                 fixed shapes",
                value.name, value.ty
            )));
        }
    }
    Ok(())
}
