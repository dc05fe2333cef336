//! Which values of two networks belong together.

use std::collections::{BTreeMap, HashSet};

use qing_graph::{Graph, Node, QuantRule, ValueId, ops};
use serde::Serialize;

/// How two values were found to belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Match {
    /// A name in common.
    Name,
    /// The same op and shape at the same place among the layers without a name in common.
    Structure,
    /// Outputs of the networks, by their order.
    Output,
}

/// Values that belong together.
pub(super) struct Matched {
    pub a: ValueId,
    pub b: ValueId,
    pub a_node: String,
    pub b_node: String,
    pub op: &'static str,
    pub layer: bool,
    pub matched: Match,
}

/// What was matched, and the layers that were not.
pub(super) struct Found {
    pub pairs: Vec<Matched>,
    pub only_a: Vec<String>,
    pub only_b: Vec<String>,
}

/// A node together with the functions of one value behind it.
struct Spot {
    /// Names of the node and of all values of the chain.
    names: Vec<String>,
    /// The node it begins with.
    node: String,
    /// What comes out in the end.
    value: ValueId,
    op: &'static str,
    layer: bool,
    shape: Option<Vec<usize>>,
}

/// Matches the values of two graphs.
pub(super) fn matches(a: &Graph, b: &Graph) -> Found {
    let (first, second) = (spots(a), spots(b));
    let mut by_name = BTreeMap::new();
    for (j, spot) in second.iter().enumerate() {
        for name in &spot.names {
            by_name.entry(name.as_str()).or_insert(j);
        }
    }
    let mut taken = HashSet::new();
    let mut partner: Vec<Option<(usize, Match)>> = vec![None; first.len()];
    for (i, spot) in first.iter().enumerate() {
        let fits = |j: &&usize| same_size(spot, &second[**j]) && spot.layer == second[**j].layer;
        let found =
            spot.names.iter().filter_map(|name| by_name.get(name.as_str())).find(|j| fits(j) && !taken.contains(*j));
        if let Some(j) = found {
            taken.insert(*j);
            partner[i] = Some((*j, Match::Name));
        }
    }
    let left = |spots: &[Spot], free: &dyn Fn(usize) -> bool| -> Vec<usize> {
        (0..spots.len()).filter(|i| spots[*i].layer && free(*i)).collect()
    };
    let left_a = left(&first, &|i| partner[i].is_none());
    let left_b = left(&second, &|j| !taken.contains(&j));
    for (i, j) in aligned(&left_a, &left_b, |i, j| first[i].op == second[j].op && same_size(&first[i], &second[j])) {
        partner[i] = Some((j, Match::Structure));
        taken.insert(j);
    }
    let mut pairs: Vec<Matched> = vec![];
    for (spot, found) in first.iter().zip(&partner) {
        let Some((j, matched)) = found else { continue };
        let other = &second[*j];
        if !a.outputs.contains(&spot.value) {
            pairs.push(Matched {
                a: spot.value,
                b: other.value,
                a_node: spot.node.clone(),
                b_node: other.node.clone(),
                op: spot.op,
                layer: spot.layer,
                matched: *matched,
            });
        }
    }
    for (x, y) in a.outputs.iter().zip(&b.outputs) {
        let made = first.iter().find(|s| s.value == *x);
        let (op, layer) = made.map_or(("output", false), |s| (s.op, s.layer));
        let node = |spots: &[Spot], id: &ValueId| {
            spots.iter().find(|s| s.value == *id).map_or_else(String::new, |s| s.node.clone())
        };
        let (a_node, b_node) = (node(&first, x), node(&second, y));
        pairs.push(Matched { a: *x, b: *y, a_node, b_node, op, layer, matched: Match::Output });
    }
    let output = |graph: &Graph, value: ValueId| graph.outputs.contains(&value);
    let lost = |graph: &Graph, spots: &[Spot], free: &dyn Fn(usize) -> bool| -> Vec<String> {
        let lone = |i: &usize| spots[*i].layer && free(*i) && !output(graph, spots[*i].value);
        (0..spots.len()).filter(lone).map(|i| spots[i].names[0].clone()).collect()
    };
    let only_a = lost(a, &first, &|i| partner[i].is_none());
    let only_b = lost(b, &second, &|j| !taken.contains(&j));
    Found { pairs, only_a, only_b }
}

/// For every pair, the pairs whose values it is computed from in the first graph.
pub(super) fn sources(graph: &Graph, pairs: &[Matched]) -> Vec<Vec<usize>> {
    let producers = graph.producers();
    let place: BTreeMap<ValueId, usize> = pairs.iter().enumerate().map(|(k, p)| (p.a, k)).collect();
    let mut all = vec![];
    for pair in pairs {
        let (mut found, mut seen, mut open) = (vec![], HashSet::from([pair.a]), vec![pair.a]);
        while let Some(id) = open.pop() {
            if id != pair.a
                && let Some(k) = place.get(&id)
            {
                found.push(*k);
                continue;
            }
            let Some(node) = producers[id.0 as usize].map(|n| &graph.nodes[n]) else { continue };
            open.extend(node.inputs.iter().flatten().filter(|id| seen.insert(**id)));
        }
        all.push(found);
    }
    all
}

fn spots(graph: &Graph) -> Vec<Spot> {
    let consumers = graph.consumers();
    let mut inside = vec![false; graph.nodes.len()];
    let mut spots = vec![];
    for (i, node) in graph.nodes.iter().enumerate() {
        if inside[i] || node.outputs.len() != 1 || graph.constant(node.outputs[0]).is_some() {
            continue;
        }
        let mut value = node.outputs[0];
        let mut names = vec![bare(&node.name), bare(&graph.value(value).name)];
        // Follow what is done to this value alone; an output of the network ends the chain.
        while let [next] = consumers[value.0 as usize][..] {
            if graph.outputs.contains(&value) || !is_function(graph, &graph.nodes[next], value) {
                break;
            }
            inside[next] = true;
            value = graph.nodes[next].outputs[0];
            names.push(bare(&graph.nodes[next].name));
            names.push(bare(&graph.value(value).name));
        }
        let numbers = graph.ty(value).element.is_float() || graph.ty(value).quant.is_some();
        if !numbers {
            continue;
        }
        let layer = match node.op.quantization() {
            QuantRule::Dot { weight, .. } => node.input(weight).is_some_and(|w| is_constant(graph, w)),
            _ => false,
        };
        spots.push(Spot {
            names,
            node: node.name.clone(),
            value,
            op: node.op.name(),
            layer,
            shape: graph.ty(value).known_shape(),
        });
    }
    spots
}

/// Constants, and what is made of them alone.
fn is_constant(graph: &Graph, id: ValueId) -> bool {
    graph.constant(id).is_some()
        || graph
            .nodes
            .iter()
            .any(|n| n.outputs.contains(&id) && n.inputs.iter().flatten().all(|id| graph.constant(*id).is_some()))
}

/// True for a function of one value, number by number: it belongs to what made the value.
fn is_function(graph: &Graph, node: &Node, of: ValueId) -> bool {
    let named = matches!(
        node.op.name(),
        "Relu" | "Clip" | "PRelu" | "BatchNormalization" | "Cast" | "Identity" | "Dropout" | "LeakyRelu"
    );
    let function =
        named || node.op.is::<ops::Quantize>() || node.op.is::<ops::Dequantize>() || node.op.map(0.0).is_some();
    let mut others = node.inputs.iter().flatten().filter(|id| **id != of);
    function && node.outputs.len() == 1 && others.all(|id| graph.constant(*id).is_some())
}

/// A name without what qing and exporters append to the values around a quantization.
fn bare(name: &str) -> String {
    const ENDS: [&str; 6] = [".quantized", ".dequantized", ".integers", ".narrowed", ".real", ".rounded"];
    let mut name = name;
    while let Some(short) = ENDS.iter().find_map(|end| name.strip_suffix(end)) {
        name = short;
    }
    name.into()
}

fn same_size(a: &Spot, b: &Spot) -> bool {
    let (Some(a), Some(b)) = (&a.shape, &b.shape) else { return true };
    let sorted = |shape: &[usize]| {
        let mut s = shape.to_vec();
        s.sort_unstable();
        s
    };
    a.len() == b.len() && sorted(a) == sorted(b)
}

/// The longest common subsequence: pairs in the order of both.
fn aligned(a: &[usize], b: &[usize], same: impl Fn(usize, usize) -> bool) -> Vec<(usize, usize)> {
    let mut longest = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i][j] = match same(a[i], b[j]) {
                true => longest[i + 1][j + 1] + 1,
                false => longest[i + 1][j].max(longest[i][j + 1]),
            };
        }
    }
    let (mut i, mut j, mut pairs) = (0, 0, vec![]);
    while i < a.len() && j < b.len() {
        if same(a[i], b[j]) {
            pairs.push((a[i], b[j]));
            (i, j) = (i + 1, j + 1);
        } else if longest[i + 1][j] >= longest[i][j + 1] {
            i += 1;
        } else {
            j += 1;
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_without_their_ends() {
        assert_eq!(bare("conv1.quantized"), "conv1");
        assert_eq!(bare("x.integers.narrowed"), "x");
        assert_eq!(bare("real"), "real");
    }

    #[test]
    fn alignment_keeps_the_order() {
        let same = |i: usize, j: usize| i == j % 10;
        assert_eq!(aligned(&[1, 2, 3, 4], &[11, 13, 14, 12], same), [(1, 11), (3, 13), (4, 14)]);
        assert_eq!(aligned(&[], &[1], same), []);
    }
}
