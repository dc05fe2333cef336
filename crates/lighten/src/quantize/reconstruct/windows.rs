//! Parts of large maps: a convolution does the same everywhere, so a window teaches as much as the map, in the cache and in a
//! fraction of the time.
//!
//! Near the edge of a window its padding stands where the map has values. Those results are left out of the error ([`mask`]
//! says which), so that what is learned on is exactly what the whole map gives.
//!
//! [`mask`]: Windows::mask

use std::collections::HashMap;

use qing_graph::{Graph, Node, QuantRule, ValueId, ops, ops::support::window::Axis};
use qing_train::Random;

use super::blocks::Block;

/// What a value's places along an axis see of the block's input: place `q` reads `q·stride − before ..= q·stride + after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sight {
    stride: usize,
    before: usize,
    after: usize,
}

/// One axis of the windows of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Side {
    /// Size of the map at the input.
    map: usize,
    /// Size of the window there.
    input: usize,
    /// Size of the map that a window gives.
    output: usize,
    /// Size of the whole map at the output.
    whole: usize,
    sight: Sight,
}

/// How windows of a block's maps are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Windows {
    sides: [Side; 2],
}

/// Where a window lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// Its first row and column in the input.
    pub input: [usize; 2],
    /// … and in the output.
    pub output: [usize; 2],
}

impl Windows {
    /// Windows of about `side` by `side` places for a block that reads maps of shape `input` (channels, height, width) and gives
    /// `output`; none if it does not do the same everywhere, or its maps are not much larger.
    pub(super) fn of(graph: &Graph, block: &Block, input: &[usize], output: &[usize], side: usize) -> Option<Windows> {
        let (&[_, height, width], &[_, rows, columns]) = (input, output) else { return None };
        let (sight, _) = sight(graph, block, [height, width])?;
        let one = |axis: usize, map: usize, whole: usize| {
            let s = sight[axis];
            let wanted = side.div_ceil(s.stride) * s.stride;
            let input = if wanted + wanted / 2 >= map { map } else { wanted };
            Side { map, input, output: if input == map { whole } else { input / s.stride }, whole, sight: s }
        };
        let made = Windows { sides: [one(0, height, rows), one(1, width, columns)] };
        let smaller = made.sides.iter().any(|s| s.input < s.map);
        // Padding must not make a window's result larger or smaller than its share, and something must be left of it.
        let fits = made.sides.iter().all(|s| {
            s.input == s.map
                || (s.whole == s.map.div_ceil(s.sight.stride)
                    && (s.sight.before + s.sight.after) * 2 < s.input
                    && s.output > 0)
        });
        let (_, gives) = self::sight(graph, block, made.input())?;
        (smaller && fits && gives == made.output()).then_some(made)
    }

    /// Height and width of a window of the input.
    pub(super) fn input(&self) -> [usize; 2] {
        self.sides.map(|s| s.input)
    }

    /// Height and width of what it gives.
    pub(super) fn output(&self) -> [usize; 2] {
        self.sides.map(|s| s.output)
    }

    /// A random place: windows may begin outside of the map and are moved in, so that its edges are seen as often as its middle.
    pub(super) fn place(&self, random: &mut Random) -> Place {
        let at = self.sides.map(|s| {
            let steps = (s.map - s.input) / s.sight.stride;
            let beyond = s.output / 2;
            let at = random.below((steps + 2 * beyond + 1) as u32) as usize;
            at.saturating_sub(beyond).min(steps)
        });
        let input = [0, 1].map(|i| at[i] * self.sides[i].sight.stride);
        Place { input, output: at }
    }

    /// 1 for every place of the window's result that is what the whole map would give, else 0; row by row.
    pub(super) fn mask(&self, place: Place) -> Vec<f32> {
        let [rows, columns] = [0, 1].map(|i| {
            let s = self.sides[i];
            (0..s.output).map(move |q| {
                let at = q * s.sight.stride;
                let begins = place.input[i] == 0 || at >= s.sight.before;
                let ends = place.input[i] + s.input == s.map || at + s.sight.after < s.input;
                begins && ends
            })
        });
        let columns: Vec<bool> = columns.collect();
        rows.flat_map(|r| columns.iter().map(move |c| f32::from(u8::from(r && *c)))).collect()
    }
}

/// Appends the part of `sample`, maps of `height` by `width`, that begins at `from` and is `size` large.
pub(super) fn cut(
    sample: &[f32],
    [height, width]: [usize; 2],
    from: [usize; 2],
    size: [usize; 2],
    into: &mut Vec<f32>,
) {
    for map in sample.chunks_exact(height * width) {
        for row in map.chunks_exact(width).skip(from[0]).take(size[0]) {
            into.extend(&row[from[1]..from[1] + size[1]]);
        }
    }
}

/// What the block's results see of its input, along both axes, and their size for maps of size `map`; `None` if not every node
/// does the same everywhere.
fn sight(graph: &Graph, block: &Block, map: [usize; 2]) -> Option<([Sight; 2], [usize; 2])> {
    let own = Sight { stride: 1, before: 0, after: 0 };
    let mut known: HashMap<ValueId, ([Sight; 2], [usize; 2])> = HashMap::from([(block.input, ([own; 2], map))]);
    for node in &graph.nodes[block.nodes.clone()] {
        let mut reads = node.inputs.iter().flatten().filter_map(|id| known.get(id));
        let (mut seen, size) = *reads.next()?;
        for (other, other_size) in reads {
            for (a, b) in seen.iter_mut().zip(other) {
                if a.stride != b.stride || *other_size != size {
                    return None;
                }
                (a.before, a.after) = (a.before.max(b.before), a.after.max(b.after));
            }
        }
        let mut gives = size;
        if let Some(axes) = slides(graph, node, size)? {
            for ((s, axis), gives) in seen.iter_mut().zip(axes).zip(&mut gives) {
                let end = ((axis.kernel - 1) * axis.dilation).saturating_sub(axis.pad);
                *s = Sight {
                    stride: s.stride * axis.stride,
                    before: s.before + s.stride * axis.pad,
                    after: s.after + s.stride * end,
                };
                *gives = axis.output;
            }
        }
        known.extend(node.outputs.iter().map(|id| (*id, (seen, gives))));
    }
    known.get(&block.output).copied()
}

/// How the window of a node slides; `Some(None)` if it computes place by place, `None` if neither.
#[allow(clippy::option_option)]
fn slides(graph: &Graph, node: &Node, map: [usize; 2]) -> Option<Option<Vec<Axis>>> {
    if let Some(conv) = node.op.downcast::<ops::Conv>() {
        let taps = graph.constant(node.input(1)?)?.shape().get(2..)?.to_vec();
        return Some(Some(conv.window().axes(&map, &taps).ok()?));
    }
    if let Some(pool) = node.op.downcast::<ops::MaxPool>() {
        return Some(Some(pool.window().axes(&map, &pool.kernel().ok()?).ok()?));
    }
    const EVERYWHERE: [&str; 12] = [
        "Relu",
        "Clip",
        "PRelu",
        "LeakyRelu",
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Max",
        "Min",
        "BatchNormalization",
        "Identity",
    ];
    if node.op.quantization() == QuantRule::Table || EVERYWHERE.contains(&node.op.name()) {
        // A constant that differs from place to place would have to be cut as well.
        let same = |shape: &[usize]| shape.len() < 3 || shape[1..].iter().rev().take(2).all(|d| *d == 1);
        let norm = node.op.name() == "BatchNormalization";
        let uniform = |id: &ValueId| {
            graph.constant(*id).is_none_or(|t| norm || (same(t.shape()) && !(1..3).contains(&t.rank())) || t.len() == 1)
        };
        return node.inputs.iter().flatten().all(uniform).then_some(None);
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use qing_graph::{Element, Tensor, Type, interpret};
    use qing_train::Purpose;

    use super::*;

    fn noise(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| (((i + seed * 977) * 7919 + 13) % 1009) as f32 / 1009.0 - 0.5).collect()
    }

    /// A depthwise convolution of `stride`, ReLU, a residual around a wide convolution; maps of `height` by `width`.
    fn network(stride: i64, height: usize, width: usize) -> Graph {
        let mut g = Graph::new("t");
        let x = g.add_input("x", Type::new(Element::F32, [1usize, 2, height, width]));
        let conv = |g: &mut Graph, x: ValueId, taps: usize, stride: i64, group: i64, seed: usize| {
            let shape = [2, 2 / group as usize, taps, taps];
            let w = Tensor::new(&shape, noise(shape.iter().product(), seed)).unwrap();
            let w = g.add_constant("w", w);
            let b = g.add_constant("b", Tensor::vector(vec![0.3f32, -0.2]));
            let op =
                ops::Conv { pads: vec![taps as i64 / 2; 4], strides: vec![stride; 2], group, ..ops::Conv::default() };
            g.add_node(Arc::new(op), "conv", &[Some(x), Some(w), Some(b)], 1).unwrap()[0]
        };
        let a = conv(&mut g, x, 3, stride, 2, 1);
        let a = g.add_node(Arc::new(ops::Relu {}), "relu", &[Some(a)], 1).unwrap()[0];
        let b = conv(&mut g, a, 5, 1, 1, 2);
        let y = g.add_node(Arc::new(ops::Add {}), "add", &[Some(a), Some(b)], 1).unwrap()[0];
        g.mark_output(y);
        g
    }

    fn block(g: &Graph) -> Block {
        Block { nodes: 0..g.nodes.len(), input: g.inputs[0], output: g.outputs[0] }
    }

    /// What the mask lets through is what the whole map gives, at every place a window may have.
    #[test]
    fn a_window_gives_what_the_map_gives() {
        for (stride, side) in [(1, 16), (2, 22), (2, 24)] {
            let g = network(stride, 64, 49);
            let map = Tensor::new(&[1, 2, 64, 49], noise(2 * 64 * 49, 3)).unwrap();
            let whole = interpret::interpret(&g, std::slice::from_ref(&map)).unwrap().remove(0);
            let windows = Windows::of(&g, &block(&g), &[2, 64, 49], &whole.shape()[1..], side).unwrap();
            let part = network(stride, windows.input()[0], windows.input()[1]);
            let mut random = Random::new(1, Purpose::Probe, 0, 0);
            let (mut corners, mut most) = (0, 0.0f32);
            for _ in 0..200 {
                let place = windows.place(&mut random);
                corners += usize::from(place.input == [0, 0]);
                let mut values = vec![];
                cut(&map.to_f32s(), [64, 49], place.input, windows.input(), &mut values);
                let x = Tensor::new(&[1, 2, windows.input()[0], windows.input()[1]], values).unwrap();
                let y = interpret::interpret(&part, &[x]).unwrap().remove(0);
                let mut wanted = vec![];
                let size = [whole.shape()[2], whole.shape()[3]];
                cut(&whole.to_f32s(), size, place.output, windows.output(), &mut wanted);
                assert_eq!(y.shape()[2..], windows.output());
                let mask = windows.mask(place);
                let area = mask.len();
                most = most.max(mask.iter().sum::<f32>() / area as f32);
                for (i, (a, b)) in y.to_f32s().iter().zip(&wanted).enumerate() {
                    assert!(mask[i % area] == 0.0 || (a - b).abs() < 1e-5, "{place:?} {i}: {a} {b}");
                }
            }
            assert!(corners > 0 && most > 0.3, "{corners} {most}");
        }
    }

    #[test]
    fn what_sees_the_whole_map_and_small_maps_have_none() {
        let g = network(1, 40, 40);
        assert!(Windows::of(&g, &block(&g), &[2, 40, 40], &[2, 40, 40], 36).is_none());
        let mut g = network(1, 40, 40);
        let y = g.outputs[0];
        let mean = g.add_node(Arc::new(ops::GlobalAveragePool {}), "mean", &[Some(y)], 1).unwrap()[0];
        let z = g.add_node(Arc::new(ops::Mul {}), "mul", &[Some(y), Some(mean)], 1).unwrap()[0];
        g.outputs = vec![z];
        assert!(Windows::of(&g, &block(&g), &[2, 40, 40], &[2, 40, 40], 16).is_none());
    }
}
