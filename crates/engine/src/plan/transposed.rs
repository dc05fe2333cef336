//! Transposed convolutions as ordinary ones.
//!
//! With a stride of `s`, every `s`-th pixel of an axis of the result is an ordinary convolution of the input by every `s`-th tap, in
//! reverse. All these together are one convolution with `s²` times the channels, whose results are put side by side as `DepthToSpace`
//! does (the sub-pixel convolution of Shi et al., 2016). Where phases need different taps the union is taken, filled with zeros.

use qing_graph::{
    Element, Node, OpError, Tensor, ops,
    rewrite::{Patch, Rule, View},
};

/// `ConvTranspose` of an image of floats by constant weights, in one group.
pub(super) struct Transposed;

/// One axis of a transposed convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Axis {
    stride: i64,
    taps: i64,
    pad: i64,
    /// The first input pixel that a block of results reads, relative to the block's number, and how many.
    first: i64,
    count: i64,
    /// Pixels read behind the last of the input.
    behind: i64,
}

impl Axis {
    /// `None` where the ordinary convolution would have to cut its input or its result.
    fn new(input: usize, output: usize, taps: usize, stride: i64, pad: i64) -> Option<Axis> {
        let [input, output, taps] = [input, output, taps].map(|v| i64::try_from(v).ok());
        let (input, output, taps) = (input?, output?, taps?);
        if stride < 1 || pad < 0 || output % stride != 0 || taps < 1 {
            return None;
        }
        let phases = (0..stride).map(|r| {
            let (newest, tap) = ((r + pad) / stride, (r + pad) % stride);
            // A phase without taps reads nothing.
            (newest, if tap < taps { (taps - 1 - tap) / stride } else { -1 })
        });
        let used: Vec<(i64, i64)> = phases.filter(|(_, more)| *more >= 0).collect();
        let first = used.iter().map(|(newest, more)| newest - more).min()?;
        let last = used.iter().map(|(newest, _)| *newest).max()?;
        let behind = output / stride - 1 + last - (input - 1);
        (first <= 0 && behind >= 0).then_some(Axis { stride, taps, pad, first, count: last - first + 1, behind })
    }

    /// The tap that phase `r` of the result applies to place `at` of what is read.
    fn tap(&self, r: i64, at: i64) -> Option<usize> {
        let more = (r + self.pad) / self.stride - (self.first + at);
        let tap = (r + self.pad) % self.stride + self.stride * more;
        usize::try_from(tap).ok().filter(|_| more >= 0 && tap < self.taps)
    }
}

impl Rule for Transposed {
    fn name(&self) -> &'static str {
        "transposed convolution"
    }

    fn apply(&self, view: &View<'_>, node: &Node) -> Result<Option<Patch>, OpError> {
        let Some(op) = node.op.downcast::<ops::ConvTranspose>() else { return Ok(None) };
        let found = || {
            let (x, y) = (node.input(0)?, *node.outputs.first()?);
            let float = |id| view.graph.ty(id).element == Element::F32 && view.graph.ty(id).quant.is_none();
            let weights = view.graph.constant(node.input(1)?)?;
            let bias = node.input(2).map(|id| view.graph.constant(id));
            let (from, to) = (view.graph.ty(x).known_shape()?, view.graph.ty(y).known_shape()?);
            let [channels, out, height, width] = *weights.shape() else { return None };
            let plain = op.group == 1
                && matches!(op.auto_pad.as_str(), "NOTSET" | "" | "VALID")
                && op.output_shape.is_empty()
                && op.dilations.iter().all(|d| *d == 1);
            if !plain || !float(x) || !float(y) || from.len() != 4 || bias == Some(None) {
                return None;
            }
            let strides: [i64; 2] = if op.strides.is_empty() { [1, 1] } else { op.strides[..].try_into().ok()? };
            let pads = if op.pads.is_empty() || op.auto_pad == "VALID" { vec![0; 4] } else { op.pads.clone() };
            let [stride, other] = strides;
            let rows = Axis::new(from[2], to[2], height, stride, *pads.first()?)?;
            let columns = Axis::new(from[3], to[3], width, other, *pads.get(1)?)?;
            (stride == other).then_some((x, weights, bias.flatten(), [channels, out, height, width], rows, columns))
        };
        let Some((x, weights, bias, [channels, out, height, width], rows, columns)) = found() else { return Ok(None) };
        let stride = rows.stride;
        let values = weights.to_f32s();
        let mut packed = vec![];
        for (r, c) in (0..stride).flat_map(|r| (0..stride).map(move |c| (r, c))) {
            for (o, i) in (0..out).flat_map(|o| (0..channels).map(move |i| (o, i))) {
                for (at_row, at_column) in (0..rows.count).flat_map(|a| (0..columns.count).map(move |b| (a, b))) {
                    let taps = rows.tap(r, at_row).zip(columns.tap(c, at_column));
                    packed.push(
                        taps.map_or(0.0, |(row, column)| values[((i * out + o) * height + row) * width + column]),
                    );
                }
            }
        }
        let phases = (stride * stride) as usize;
        let shape = [phases * out, channels, rows.count as usize, columns.count as usize];
        let mut patch = Patch::new();
        let mut inputs = vec![x.into(), patch.constant(&format!("{}.phases", node.name), Tensor::new(&shape, packed)?)];
        if let Some(bias) = bias {
            let bias = Tensor::vector(bias.to_f32s().repeat(phases));
            inputs.push(patch.constant(&format!("{}.biases", node.name), bias));
        }
        let pads = vec![-rows.first, -columns.first, rows.behind, columns.behind];
        let mut y = patch.node(ops::Conv { pads, ..ops::Conv::default() }, &node.name, &inputs);
        if stride > 1 {
            y = patch.node(ops::DepthToSpace { blocksize: stride, mode: "DCR".into() }, &node.name, &[y]);
        }
        patch.replace(node.outputs[0], y);
        Ok(Some(patch))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use qing_graph::{Graph, Type, interpret::interpret, rewrite::rewrite};

    use super::*;

    #[test]
    fn ordinary_convolutions_compute_the_same() {
        let mut rewritten = 0;
        for (taps, stride, pad, extra) in [
            (2, 2, 0, 0),
            (3, 2, 1, 1),
            (4, 2, 1, 0),
            (5, 3, 1, 0),
            (3, 1, 1, 0),
            (2, 3, 0, 1),
            (3, 3, 0, 0),
            (3, 2, 0, 0),
            (6, 4, 1, 0),
        ] {
            let mut graph = Graph::new("g");
            let x = graph.add_input("x", Type::new(Element::F32, [2usize, 3, 4, 5]));
            let wave = |n: usize, step: usize| (0..n).map(|i| ((i * step) % 17) as f32 - 8.0).collect::<Vec<f32>>();
            let w = graph.add_constant("w", Tensor::new(&[3, 2, taps, taps], wave(6 * taps * taps, 5)).unwrap());
            let b = graph.add_constant("b", Tensor::vector(vec![0.5f32, -3.0]));
            let op = ops::ConvTranspose {
                strides: vec![stride; 2],
                pads: vec![pad; 4],
                output_padding: vec![extra; 2],
                ..ops::ConvTranspose::default()
            };
            let y = graph.add_node(Arc::new(op), "t", &[Some(x), Some(w), Some(b)], 1).unwrap()[0];
            graph.mark_output(y);
            let input = Tensor::new(&[2, 3, 4, 5], wave(120, 7)).unwrap();
            let want = interpret(&graph, std::slice::from_ref(&input)).unwrap();
            rewritten += rewrite(&mut graph, &[&Transposed]).unwrap();
            // Small integers: sums are exact in any order.
            assert_eq!(
                interpret(&graph, &[input]).unwrap(),
                want,
                "{taps} taps, stride {stride}, pad {pad}, {extra} more"
            );
        }
        assert!(rewritten >= 7, "{rewritten}");
    }
}
