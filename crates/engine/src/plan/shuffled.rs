//! The order in which a convolution writes the channels that become pixels.

use std::sync::Arc;

use qing_graph::{
    Granularity, Node, OpError, Quant, Tensor, Type, ValueId, ops,
    rewrite::{Patch, Rule, View},
};

/// `DepthToSpace` in the order that PyTorch's pixel shuffle has takes the values of a pixel from channels far apart. After a
/// convolution with constant weights its channels are put in the other order instead, in which they lie side by side.
pub(super) struct Shuffled;

impl Rule for Shuffled {
    fn name(&self) -> &'static str {
        "pixel shuffle after convolution"
    }

    fn apply(&self, view: &View<'_>, node: &Node) -> Result<Option<Patch>, OpError> {
        let (Some(op), Some(x)) = (node.op.downcast::<ops::DepthToSpace>(), node.input(0)) else { return Ok(None) };
        let Some((conv, producer)) = view.producer_as::<ops::Conv>(x) else { return Ok(None) };
        let (Some(image), Some(w)) = (producer.input(0), producer.input(1)) else { return Ok(None) };
        let channels = view.graph.ty(w).known_shape().map_or(0, |shape| shape[0]);
        let block = usize::try_from(op.blocksize).ok().and_then(|r| r.checked_mul(r)).filter(|block| *block > 1);
        let Some(block) = block.filter(|block| channels.is_multiple_of(*block)) else { return Ok(None) };
        let depth = channels / block;
        let per_tensor = view.graph.ty(x).quant.as_ref().is_none_or(|quant| quant.as_per_tensor().is_some());
        let suits = op.mode == "CRD" && depth > 1 && conv.group == 1 && per_tensor;
        if !suits || view.single_consumer(x).is_none() {
            return Ok(None);
        }
        let order: Vec<usize> = (0..block).flat_map(|at| (0..depth).map(move |d| d * block + at)).collect();
        let mut patch = Patch::new();
        let Some((ty, weights)) = reordered(view, w, &order)? else { return Ok(None) };
        let mut inputs = vec![Some(image.into()), Some(patch.typed_constant(&view.graph.value(w).name, ty, weights))];
        if let Some(bias) = producer.input(2) {
            let Some((ty, values)) = reordered(view, bias, &order)? else { return Ok(None) };
            inputs.push(Some(patch.typed_constant(&view.graph.value(bias).name, ty, values)));
        }
        let y = patch.typed_node(producer.op.clone(), &producer.name, &inputs, view.graph.ty(x).clone());
        let shuffle = Arc::new(ops::DepthToSpace { mode: "DCR".into(), ..op.clone() });
        let ty = view.graph.ty(node.outputs[0]).clone();
        let y = patch.typed_node(shuffle, &node.name, &[Some(y)], ty);
        patch.replace(node.outputs[0], y);
        Ok(Some(patch))
    }
}

/// A constant with the slices of its first axis, and their scales, in another order.
fn reordered(view: &View<'_>, id: ValueId, order: &[usize]) -> Result<Option<(Type, Tensor)>, OpError> {
    let (Some(tensor), mut ty) = (view.graph.constant(id), view.graph.ty(id).clone()) else { return Ok(None) };
    if tensor.shape().first() != Some(&order.len()) {
        return Ok(None);
    }
    let slice = tensor.len() / order.len();
    let values = tensor.take(tensor.shape(), order.iter().flat_map(|from| from * slice..(from + 1) * slice))?;
    if let Some(quant) = ty.quant.as_deref().filter(|quant| quant.as_per_tensor().is_none()) {
        if quant.granularity() != Granularity::Axis(0) {
            return Ok(None);
        }
        let scales = order.iter().map(|from| quant.scale(*from)).collect();
        let zeros = order.iter().map(|from| quant.zero(*from)).collect();
        ty.quant = Some(Arc::new(Quant::new(quant.granularity(), scales, zeros)?));
    }
    Ok(Some((ty, values)))
}

#[cfg(test)]
mod tests {
    use qing_graph::{Element, Graph, interpret::interpret, rewrite::rewrite};

    use super::*;

    fn shuffle(graph: &mut Graph, x: ValueId, ty: Option<Type>) {
        let op = Arc::new(ops::DepthToSpace { blocksize: 2, mode: "CRD".into() });
        let y = match ty {
            Some(ty) => graph.add_typed_node(op, "shuffle", &[Some(x)], vec![ty]).unwrap()[0],
            None => graph.add_node(op, "shuffle", &[Some(x)], 1).unwrap()[0],
        };
        graph.mark_output(y);
    }

    fn agrees(mut graph: Graph, input: &Tensor) {
        let before = interpret(&graph, std::slice::from_ref(input)).unwrap();
        rewrite(&mut graph, &[&Shuffled]).unwrap();
        let modes: Vec<_> =
            graph.nodes.iter().filter_map(|n| n.op.downcast::<ops::DepthToSpace>()).map(|op| op.mode.clone()).collect();
        assert_eq!(modes, ["DCR"]);
        assert_eq!(interpret(&graph, std::slice::from_ref(input)).unwrap(), before);
    }

    #[test]
    fn floats_and_quantized_values_come_out_the_same() {
        let mut graph = Graph::new("floats");
        let x = graph.add_input("x", Type::new(Element::F32, [1usize, 2, 3, 3]));
        let w =
            graph.add_constant("w", Tensor::new(&[12, 2, 1, 1], (0..24).map(|i| i as f32 - 7.0).collect()).unwrap());
        let b = graph.add_constant("b", Tensor::new(&[12], (0..12).map(|i| 3.0 * i as f32).collect()).unwrap());
        let y = graph.add_node(Arc::new(ops::Conv::default()), "conv", &[Some(x), Some(w), Some(b)], 1).unwrap()[0];
        shuffle(&mut graph, y, None);
        agrees(graph, &Tensor::new(&[1, 2, 3, 3], (0..18).map(|i| i as f32).collect()).unwrap());

        let mut graph = Graph::new("quantized");
        let per_tensor = |scale, zero| Quant::per_tensor(scale, zero).unwrap();
        let quantized =
            |shape: &[usize], element, quant| Type::new(Element::F32, shape.iter().copied()).quantized(element, quant);
        let x = graph.add_input("x", quantized(&[1, 2, 3, 3], Element::U8, per_tensor(0.5, 3)));
        let scales = (1..=12).map(|i| i as f32 * 0.01).collect();
        let ty = quantized(&[12, 2, 1, 1], Element::I8, Quant::per_axis(0, scales).unwrap());
        let values: Vec<i32> = (0..24).map(|i| 5 * i - 60).collect();
        let w = graph.add_typed_constant("w", ty, Tensor::from_ints(Element::I8, &[12, 2, 1, 1], &values).unwrap());
        let ty = quantized(&[1, 12, 3, 3], Element::U8, per_tensor(1.0, 100));
        let y = graph.add_typed_node(Arc::new(ops::Conv::default()), "conv", &[Some(x), Some(w)], vec![ty]).unwrap()[0];
        shuffle(&mut graph, y, Some(quantized(&[1, 3, 6, 6], Element::U8, per_tensor(1.0, 100))));
        let all: Vec<i32> = (0..18).map(|i| 13 * i).collect();
        agrees(graph, &Tensor::from_ints(Element::U8, &[1, 2, 3, 3], &all).unwrap());
    }
}
