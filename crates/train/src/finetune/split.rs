//! Updating some output channels of a layer: the layer becomes layers side by side, one of them trained.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use qing_graph::{Graph, Op, Tensor, ValueId, ops};

use crate::{
    TrainError,
    parameters::{Export, Model, Values},
};

/// Some or all slices of a constant along its first axis.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// The constant's name in the network.
    pub name: String,
    /// First slice.
    pub start: usize,
    /// One past the last.
    pub end: usize,
}

impl Part {
    /// What the part is called where it is a constant of its own.
    fn label(&self) -> String {
        format!("{}[{}:{}]", self.name, self.start, self.end)
    }
}

/// The slices of a constant from `range`.
fn slice(tensor: &Tensor, range: &Range<usize>) -> Result<Tensor, TrainError> {
    let mut shape = tensor.shape().to_vec();
    let row: usize = shape[1..].iter().product();
    shape[0] = range.len();
    Ok(tensor.take(&shape, range.start * row..range.end * row)?)
}

/// True if the output channels of the node that reads `weight` can stand side by side: convolutions without groups.
pub(super) fn splits(graph: &Graph, weight: ValueId) -> bool {
    let mut readers = graph.nodes.iter().filter(|n| n.inputs.contains(&Some(weight)));
    let conv = readers.next().and_then(|n| n.op.downcast::<ops::Conv>()).is_some_and(|c| c.group == 1);
    conv && readers.next().is_none()
}

/// The network with every weight of which only parts are wanted cut at the borders of the parts, and the names under which
/// the wanted parts are constants of it.
pub(super) fn split(graph: &Graph, wanted: &[Part]) -> Result<(Graph, Vec<String>), TrainError> {
    let mut graph = graph.clone();
    let mut names = vec![];
    let mut by_name: BTreeMap<&str, Vec<&Part>> = BTreeMap::new();
    wanted.iter().for_each(|p| by_name.entry(&p.name).or_default().push(p));
    for (name, mut parts) in by_name {
        parts.sort();
        let id =
            graph.find(name).ok_or_else(|| TrainError::invalid(format!("the network has no constant `{name}`")))?;
        let rows = graph.ty(id).known_shape().and_then(|s| s.first().copied()).unwrap_or(1);
        if parts.iter().map(|p| p.end - p.start).sum::<usize>() >= rows {
            names.push(name.to_string());
            continue;
        }
        // Neighbours become one layer.
        let mut segments: Vec<(Range<usize>, bool)> = vec![];
        let mut at = 0;
        for part in parts {
            if part.start > at {
                segments.push((at..part.start, false));
            }
            match segments.last_mut() {
                Some((range, true)) if range.end == part.start => range.end = part.end,
                _ => segments.push((part.start..part.end, true)),
            }
            at = part.end;
        }
        if at < rows {
            segments.push((at..rows, false));
        }
        names.extend(cut(&mut graph, id, &segments)?);
    }
    // A bias whose layer was cut is cut as well.
    let whole: Vec<String> = std::mem::take(&mut names);
    for name in whole {
        match graph.find(&name) {
            Some(id) if !graph.nodes.iter().any(|n| n.inputs.contains(&Some(id))) => {
                let prefix = format!("{name}[");
                let pieces = graph.values().filter(|(_, v)| v.name.starts_with(&prefix));
                names.extend(pieces.map(|(_, v)| v.name.clone()));
            }
            _ => names.push(name),
        }
    }
    Ok((graph.compacted(), names))
}

/// Replaces the convolution that reads `weight` by one for each segment; gives the names of the wanted weights.
fn cut(graph: &mut Graph, weight: ValueId, segments: &[(Range<usize>, bool)]) -> Result<Vec<String>, TrainError> {
    let Some(at) = graph.nodes.iter().position(|n| n.inputs.contains(&Some(weight))) else { return Ok(vec![]) };
    let tail = graph.nodes.split_off(at + 1);
    let Some(node) = graph.nodes.pop() else { return Ok(vec![]) };
    let (mut pieces, mut names) = (vec![], vec![]);
    for (range, wanted) in segments {
        let mut inputs = node.inputs.clone();
        for slot in [1, 2] {
            let Some(id) = node.input(slot) else { continue };
            let constant = graph.constant(id).ok_or_else(|| {
                TrainError::invalid(format!("node `{}`: `{}` is no constant", node.name, graph.value(id).name))
            })?;
            let piece = slice(constant, range)?;
            let part = Part { name: graph.value(id).name.clone(), start: range.start, end: range.end };
            inputs[slot] = Some(graph.add_constant(&part.label(), piece));
            if slot == 1 && *wanted {
                names.push(part.label());
            }
        }
        let name = format!("{}[{}:{}]", node.name, range.start, range.end);
        pieces.push(Some(graph.add_node(node.op.clone(), &name, &inputs, 1)?[0]));
    }
    let joined: Arc<dyn Op> = Arc::new(ops::Concat { axis: 1 });
    let joined = graph.add_node(joined, &format!("{}.joined", node.name), &pieces, 1)?[0];
    // The old value is what the joined one is called by its readers.
    let made = graph.nodes.len() - 1;
    let old = node.outputs[0];
    graph.nodes[made].outputs[0] = old;
    debug_assert_ne!(joined, old, "a new value");
    graph.nodes.extend(tail);
    Ok(names)
}

/// Parts back into the constants they are of.
pub(super) struct Whole {
    pub(super) base: Graph,
}

impl Export for Whole {
    fn export(&self, model: &Model, values: &Values) -> Result<Graph, TrainError> {
        let mut graph = self.base.clone();
        for (parameter, value) in model.parameters.iter().zip(&values.parameters) {
            let (name, start) = match parameter.name.rsplit_once('[') {
                Some((name, range)) if self.base.find(&parameter.name).is_none() => {
                    (name, range.split(':').next().and_then(|s| s.parse().ok()).unwrap_or(0))
                }
                _ => (parameter.name.as_str(), 0usize),
            };
            let lost = || TrainError::invalid(format!("the network has no constant `{name}` to write back to"));
            let id = graph.find(name).ok_or_else(lost)?;
            let constant = graph.constant(id).ok_or_else(lost)?;
            let shape = constant.shape().to_vec();
            let mut all = constant.to_f32s();
            let row: usize = shape.iter().skip(1).product();
            all.get_mut(start * row..start * row + value.len()).ok_or_else(lost)?.copy_from_slice(value);
            graph.value_mut(id).constant = Some(Tensor::new(&shape, all)?);
        }
        Ok(graph)
    }
}

#[cfg(test)]
mod tests {
    use qing_graph::{interpret::interpret, passes, verify::verify};

    use super::*;
    use crate::architectures::{self, Settings};

    #[test]
    fn a_layer_in_parts_computes_the_same() {
        let settings = Settings { input: vec![1, 8, 8], classes: 10, seed: 1 };
        let mut graph = architectures::build("fashion", &settings).unwrap();
        passes::normalize(&mut graph).unwrap();
        let graph = graph.compacted();
        let weights: Vec<String> = graph
            .nodes
            .iter()
            .filter_map(|n| n.op.downcast::<ops::Conv>().and(n.input(1)))
            .filter(|id| splits(&graph, *id))
            .map(|id| graph.value(id).name.clone())
            .collect();
        assert_eq!(weights.len(), 7);
        let part = |i: usize, start, end| Part { name: weights[i].clone(), start, end };
        let wanted =
            [part(1, 16, 32), part(2, 0, 16), part(3, 0, 16), part(3, 16, 32), part(5, 16, 32), part(5, 32, 40)];
        let (cut, names) = split(&graph, &wanted).unwrap();
        verify(&cut).unwrap();
        assert_eq!(names.len(), 4, "{names:?}");
        let x = Tensor::new(&[2, 1, 8, 8], (0..128).map(|i| (i * 37 % 64) as f32 / 32.0 - 1.0).collect()).unwrap();
        let run = |g: &Graph| interpret(g, std::slice::from_ref(&x)).unwrap()[0].to_f32s();
        for (a, b) in run(&graph).iter().zip(run(&cut)) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }
}
