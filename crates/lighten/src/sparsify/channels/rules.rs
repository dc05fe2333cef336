//! How each op ties the channels of what it reads and makes.

use qing_graph::{AttrValue, Dim, Graph, Node, NodeId, ValueId, ops};

use super::depend::{Atom, Dependencies, Edit, Lane, Part, Slice, Weighted};

/// Ops that treat every channel by itself and leave it where it is.
const ALONG: [&str; 9] = [
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "LpPool",
    "GlobalLpPool",
    "Identity",
    "Dropout",
    "Clip",
];

/// Ties what `node` reads and makes. `None` if there is no rule, or the node does not fit it: nothing it reads may go then.
pub(super) fn tie(d: &mut Dependencies, graph: &Graph, at: NodeId, node: &Node) -> Option<()> {
    if !node.op.spec().domain.is_empty() {
        return None;
    }
    match node.op.name() {
        "Conv" => convolution(d, graph, at, node),
        "ConvTranspose" => transposed_convolution(d, graph, at, node),
        "Gemm" | "MatMul" => product(d, graph, at, node),
        "BatchNormalization" | "InstanceNormalization" => normalization(d, graph, at, node),
        "Add" | "Sub" | "Mul" | "Div" | "Min" | "Max" | "Sum" | "PRelu" => elementwise(d, graph, at, node),
        "Concat" => concat(d, graph, node),
        "Pad" => pad(d, graph, at, node),
        "Flatten" | "Reshape" => reshape(d, graph, at, node),
        "Squeeze" | "Unsqueeze" => squeeze(d, graph, node),
        "Transpose" => transpose(d, graph, node),
        "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceL2" => reduce(d, graph, node),
        "Slice" => crop(d, graph, node),
        "Resize" | "Upsample" => resize(d, graph, node),
        name if ALONG.contains(&name) || (node.inputs.len() == 1 && node.op.map(0.5).is_some()) => along(d, node),
        _ => None,
    }
}

fn dims(graph: &Graph, id: ValueId) -> Option<&[Dim]> {
    graph.ty(id).shape.as_deref()
}

fn ints(graph: &Graph, node: &Node, input: usize) -> Option<Vec<i64>> {
    Some(graph.constant(node.input(input)?)?.to_f64s().into_iter().map(|v| v as i64).collect())
}

/// An axis counted from the front.
fn front(axis: i64, rank: usize) -> Option<usize> {
    usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok().filter(|a| *a < rank)
}

fn attribute(node: &Node, name: &str, default: i64) -> i64 {
    node.op.attrs().read(name, default).unwrap_or(default)
}

/// Cuts the constant at an input; false if it is none, or has another size there.
fn cut(d: &mut Dependencies, graph: &Graph, at: NodeId, input: usize, axis: usize, atoms: &[Atom], part: Part) -> bool {
    let node = &graph.nodes[at];
    let Some(id) = node.input(input) else { return false };
    let Some(tensor) = graph.constant(id) else { return false };
    if tensor.shape().get(axis) != Some(&atoms.len()) || graph.ty(id).quant.is_some() {
        return false;
    }
    d.slices.push(Slice { node: at, input, constant: id, axis, atoms: atoms.to_vec(), part });
    true
}

fn weights<'g>(graph: &'g Graph, node: &Node) -> Option<&'g [usize]> {
    let id = node.input(1)?;
    let tensor = graph.constant(id)?;
    (tensor.element().is_float() && graph.ty(id).quant.is_none()).then(|| tensor.shape())
}

fn convolution(d: &mut Dependencies, graph: &Graph, at: NodeId, node: &Node) -> Option<()> {
    let w = weights(graph, node)?;
    let groups = node.op.downcast::<ops::Conv>()?.groups().ok()?;
    let (out, per_group) = (*w.first()?, *w.get(1)?);
    if node.input(2).is_some_and(|b| graph.constant(b).is_none()) || out % groups != 0 {
        return None;
    }
    let input = d.lane(node.input(0)).cloned();
    if input.as_ref().is_some_and(|lane| lane.axis != 1 || lane.atoms.len() != per_group * groups) {
        return None;
    }
    if groups > 1 && per_group == 1 {
        // Outputs are inputs, filtered.
        let atoms: Vec<Atom> = match &input {
            Some(lane) => (0..out).map(|o| lane.atoms[o / (out / groups)]).collect(),
            None => {
                let atoms = d.fresh(out);
                d.freeze(&atoms);
                atoms
            }
        };
        let mut fits = cut(d, graph, at, 1, 0, &atoms, Part::Along);
        fits &= node.input(2).is_none() || cut(d, graph, at, 2, 0, &atoms, Part::Along);
        if !fits {
            return None;
        }
        if let Some(lane) = input {
            d.edits.push(Edit::Depthwise { node: at, atoms: lane.atoms.clone() });
            d.weighted.push(Weighted { node: at, input: Some(lane.atoms), output: atoms.clone(), depthwise: true });
        }
        d.set_lane(node.outputs[0], 1, atoms);
        return Some(());
    }
    let atoms = d.fresh(out);
    // Groups stay of one size: channel i of one goes with channel i of all.
    let mut first = None;
    if let Some(lane) = &input {
        for (i, atom) in lane.atoms.iter().enumerate() {
            d.tie(lane.atoms[i % per_group], *atom);
        }
        first = Some(lane.atoms[..per_group].to_vec());
    }
    let rows = out / groups;
    (0..out).for_each(|o| d.tie(atoms[o % rows], atoms[o]));
    if !cut(d, graph, at, 1, 0, &atoms, Part::Output)
        || (node.input(2).is_some() && !cut(d, graph, at, 2, 0, &atoms, Part::Output))
        || first.is_some_and(|first| !cut(d, graph, at, 1, 1, &first, Part::Input))
    {
        d.freeze(&atoms);
        return None;
    }
    d.set_lane(node.outputs[0], 1, atoms.clone());
    d.weighted.push(Weighted { node: at, input: input.map(|l| l.atoms), output: atoms, depthwise: false });
    Some(())
}

fn transposed_convolution(d: &mut Dependencies, graph: &Graph, at: NodeId, node: &Node) -> Option<()> {
    let w = weights(graph, node)?;
    if attribute(node, "group", 1) != 1 || node.input(2).is_some_and(|b| graph.constant(b).is_none()) {
        return None;
    }
    let input = d.lane(node.input(0)).cloned();
    if input.as_ref().is_some_and(|lane| lane.axis != 1 || lane.atoms.len() != w[0]) {
        return None;
    }
    let atoms = d.fresh(*w.get(1)?);
    if !cut(d, graph, at, 1, 1, &atoms, Part::Output)
        || (node.input(2).is_some() && !cut(d, graph, at, 2, 0, &atoms, Part::Output))
        || input.as_ref().is_some_and(|lane| !cut(d, graph, at, 1, 0, &lane.atoms, Part::Input))
    {
        d.freeze(&atoms);
        return None;
    }
    d.set_lane(node.outputs[0], 1, atoms.clone());
    d.weighted.push(Weighted { node: at, input: input.map(|l| l.atoms), output: atoms, depthwise: false });
    Some(())
}

fn product(d: &mut Dependencies, graph: &Graph, at: NodeId, node: &Node) -> Option<()> {
    let gemm = node.op.downcast::<ops::Gemm>();
    let transposed = gemm.is_some_and(|g| g.transB);
    let w = weights(graph, node)?;
    let rank = dims(graph, node.input(0)?)?.len();
    if w.len() != 2 || rank < 2 || gemm.is_some_and(|g| g.transA) {
        return None;
    }
    let input = d.lane(node.input(0)).cloned();
    if let Some(lane) = input.as_ref().filter(|lane| lane.axis != rank - 1) {
        // Rows of the product, not its depth.
        d.set_lane(node.outputs[0], lane.axis, lane.atoms.clone());
        return gemm.is_none().then_some(());
    }
    let (deep, wide) = if transposed { (1, 0) } else { (0, 1) };
    if input.as_ref().is_some_and(|lane| lane.atoms.len() != w[deep]) {
        return None;
    }
    let atoms = d.fresh(w[wide]);
    let mut fits = cut(d, graph, at, 1, wide, &atoms, Part::Output);
    if let Some(lane) = &input {
        fits &= cut(d, graph, at, 1, deep, &lane.atoms, Part::Input);
    }
    if let Some(bias) = node.input(2) {
        let shape = graph.constant(bias).map(|b| b.shape().to_vec());
        fits &= match shape.as_deref() {
            Some([.., n]) if *n == atoms.len() => {
                cut(d, graph, at, 2, shape.map_or(0, |s| s.len() - 1), &atoms, Part::Output)
            }
            Some([] | [1] | [_, 1]) => true,
            _ => false,
        };
    }
    if !fits {
        d.freeze(&atoms);
        return None;
    }
    d.set_lane(node.outputs[0], rank - 1, atoms.clone());
    d.weighted.push(Weighted { node: at, input: input.map(|l| l.atoms), output: atoms, depthwise: false });
    Some(())
}

fn normalization(d: &mut Dependencies, graph: &Graph, at: NodeId, node: &Node) -> Option<()> {
    let Some(lane) = d.lane(node.input(0)).cloned() else { return Some(()) };
    if lane.axis != 1 || node.outputs.len() != 1 {
        return None;
    }
    for input in 1..node.inputs.len() {
        if !cut(d, graph, at, input, 0, &lane.atoms, Part::Along) {
            return None;
        }
    }
    d.set_lane(node.outputs[0], 1, lane.atoms);
    Some(())
}

/// Operands are lined up from the last axis.
fn elementwise(d: &mut Dependencies, graph: &Graph, at: NodeId, node: &Node) -> Option<()> {
    let rank = dims(graph, node.outputs[0])?.len();
    let mut found: Option<Lane> = None;
    for id in node.inputs.iter().flatten() {
        let Some(lane) = d.lane(Some(*id)).cloned() else { continue };
        let axis = lane.axis + rank - dims(graph, *id)?.len();
        match &found {
            None => found = Some(Lane { axis, atoms: lane.atoms }),
            Some(first) if first.axis == axis && first.atoms.len() == lane.atoms.len() => {
                d.tie_all(&first.atoms.clone(), &lane.atoms);
            }
            Some(_) => return None,
        }
    }
    let Some(lane) = found else { return Some(()) };
    for (i, id) in node.inputs.iter().enumerate() {
        let Some(id) = *id else { continue };
        if d.lane(Some(id)).is_some() {
            continue;
        }
        let own = dims(graph, id)?;
        let Some(axis) = (lane.axis + own.len()).checked_sub(rank) else { continue };
        if own[axis].known() == Some(1) {
            continue;
        }
        if !cut(d, graph, at, i, axis, &lane.atoms, Part::Along) {
            return None;
        }
    }
    d.set_lane(node.outputs[0], lane.axis, lane.atoms);
    Some(())
}

fn concat(d: &mut Dependencies, graph: &Graph, node: &Node) -> Option<()> {
    let rank = dims(graph, node.outputs[0])?.len();
    let axis = front(attribute(node, "axis", 1), rank)?;
    let lanes: Vec<Option<Lane>> = node.inputs.iter().map(|id| d.lane(*id).cloned()).collect();
    let Some(first) = lanes.iter().flatten().next().cloned() else { return Some(()) };
    if lanes.iter().flatten().any(|lane| lane.axis != first.axis) {
        return None;
    }
    if first.axis != axis {
        // Side by side along another axis: all must have the same channels.
        if lanes.iter().any(Option::is_none) {
            return None;
        }
        lanes.iter().flatten().for_each(|lane| d.tie_all(&first.atoms, &lane.atoms));
        d.set_lane(node.outputs[0], first.axis, first.atoms);
        return Some(());
    }
    let mut all = vec![];
    for (lane, id) in lanes.into_iter().zip(&node.inputs) {
        match lane {
            Some(lane) => all.extend(lane.atoms),
            None => {
                let count = dims(graph, (*id)?)?[axis].known()?;
                let atoms = d.fresh(count);
                d.freeze(&atoms);
                all.extend(atoms);
            }
        }
    }
    d.set_lane(node.outputs[0], axis, all);
    Some(())
}

/// Channels of zeros before and after are channels of their own.
fn pad(d: &mut Dependencies, graph: &Graph, at: NodeId, node: &Node) -> Option<()> {
    let Some(lane) = d.lane(node.input(0)).cloned() else { return Some(()) };
    let rank = dims(graph, node.input(0)?)?.len();
    let pads = ints(graph, node, 1)?;
    if node.input(3).is_some() || pads.len() != 2 * rank {
        return None;
    }
    let (before, after) = (pads[lane.axis], pads[rank + lane.axis]);
    if (before, after) == (0, 0) {
        return along(d, node);
    }
    let mode: String = node.op.attrs().read("mode", "constant".to_string()).ok()?;
    let (before, after) = (usize::try_from(before).ok()?, usize::try_from(after).ok()?);
    if mode != "constant" || before.max(after) > 1 << 16 {
        return None;
    }
    let (before, after) = (d.fresh(before), d.fresh(after));
    let atoms = [before.as_slice(), &lane.atoms, &after].concat();
    d.edits.push(Edit::Pad { node: at, axis: lane.axis, before, after });
    d.set_lane(node.outputs[0], lane.axis, atoms);
    Some(())
}

/// Axes after the channels may be joined with them; those before must stay.
fn reshape(d: &mut Dependencies, graph: &Graph, at: NodeId, node: &Node) -> Option<()> {
    let Some(lane) = d.lane(node.input(0)).cloned() else { return Some(()) };
    let from = dims(graph, node.input(0)?)?;
    let to = dims(graph, node.outputs[0])?;
    let axis = lane.axis;
    if from.len() <= axis || to.len() <= axis || from[..axis] != to[..axis] {
        return None;
    }
    let rest: usize = from[axis + 1..].iter().map(Dim::known).product::<Option<usize>>()?;
    let size = to[axis].known()?;
    let atoms: Vec<Atom> = if size == lane.atoms.len() {
        lane.atoms
    } else if size == lane.atoms.len() * rest {
        lane.atoms.iter().flat_map(|a| std::iter::repeat_n(*a, rest)).collect()
    } else {
        return None;
    };
    if node.op.name() == "Reshape" {
        let target = ints(graph, node, 1)?;
        match target.get(axis)? {
            -1 => {}
            0 if size == lane_len(d, node)? => {}
            n if usize::try_from(*n).ok() == Some(size) => {
                d.edits.push(Edit::Shape { node: at, at: axis, atoms: atoms.clone() });
            }
            _ => return None,
        }
    }
    d.set_lane(node.outputs[0], axis, atoms);
    Some(())
}

fn lane_len(d: &Dependencies, node: &Node) -> Option<usize> {
    Some(d.lane(node.input(0))?.atoms.len())
}

fn squeeze(d: &mut Dependencies, graph: &Graph, node: &Node) -> Option<()> {
    let Some(lane) = d.lane(node.input(0)).cloned() else { return Some(()) };
    let (from, to) = (dims(graph, node.input(0)?)?.len(), dims(graph, node.outputs[0])?.len());
    let longer = from.max(to);
    let axes: Vec<usize> = ints(graph, node, 1)?.into_iter().map(|a| front(a, longer)).collect::<Option<Vec<_>>>()?;
    let axis = if to < from {
        if axes.contains(&lane.axis) {
            return None;
        }
        lane.axis - axes.iter().filter(|a| **a < lane.axis).count()
    } else {
        // The place that is number `lane.axis` of those that are not new.
        (0..to).filter(|a| !axes.contains(a)).nth(lane.axis)?
    };
    d.set_lane(node.outputs[0], axis, lane.atoms);
    Some(())
}

fn transpose(d: &mut Dependencies, graph: &Graph, node: &Node) -> Option<()> {
    let Some(lane) = d.lane(node.input(0)).cloned() else { return Some(()) };
    let rank = dims(graph, node.input(0)?)?.len();
    let axis = match node.op.attrs().get("perm") {
        Some(AttrValue::Ints(perm)) => perm.iter().position(|p| usize::try_from(*p).ok() == Some(lane.axis))?,
        _ => rank - 1 - lane.axis,
    };
    d.set_lane(node.outputs[0], axis, lane.atoms);
    Some(())
}

fn reduce(d: &mut Dependencies, graph: &Graph, node: &Node) -> Option<()> {
    let Some(lane) = d.lane(node.input(0)).cloned() else { return Some(()) };
    let rank = dims(graph, node.input(0)?)?.len();
    let axes: Vec<usize> = ints(graph, node, 1)?.into_iter().map(|a| front(a, rank)).collect::<Option<Vec<_>>>()?;
    if axes.is_empty() || axes.contains(&lane.axis) {
        return None;
    }
    let kept = attribute(node, "keepdims", 1) != 0;
    let before = axes.iter().filter(|a| **a < lane.axis).count();
    d.set_lane(node.outputs[0], if kept { lane.axis } else { lane.axis - before }, lane.atoms);
    Some(())
}

fn crop(d: &mut Dependencies, graph: &Graph, node: &Node) -> Option<()> {
    let Some(lane) = d.lane(node.input(0)).cloned() else { return Some(()) };
    let rank = dims(graph, node.input(0)?)?.len();
    let axes = ints(graph, node, 3)?.into_iter().map(|a| front(a, rank)).collect::<Option<Vec<_>>>()?;
    if axes.contains(&lane.axis) {
        return None;
    }
    d.set_lane(node.outputs[0], lane.axis, lane.atoms);
    Some(())
}

fn resize(d: &mut Dependencies, graph: &Graph, node: &Node) -> Option<()> {
    let Some(lane) = d.lane(node.input(0)).cloned() else { return Some(()) };
    // Target sizes would say the number of channels.
    let same = dims(graph, node.outputs[0])?.get(lane.axis)?.known() == Some(lane.atoms.len());
    if node.input(3).is_some() || node.input(1).is_some_and(|roi| graph.ty(roi).shape.is_none()) || !same {
        return None;
    }
    along(d, node)
}

fn along(d: &mut Dependencies, node: &Node) -> Option<()> {
    if node.inputs.iter().skip(1).any(|id| d.lane(*id).is_some()) {
        return None;
    }
    if let Some(lane) = d.lane(node.input(0)).cloned() {
        d.set_lane(node.outputs[0], lane.axis, lane.atoms);
        for other in node.outputs.iter().skip(1) {
            d.set_lane(*other, lane.axis, d.lanes[node.outputs[0].0 as usize].clone()?.atoms);
        }
    }
    Some(())
}
