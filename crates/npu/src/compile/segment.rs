//! Layers that are computed together, strip of rows by strip, so that what lies between them is never whole in memory.
//!
//! Every strip computes, of each tensor, the rows that the next rows of the last layer need and that are not there yet. A tensor between the
//! layers *slides*: it has room for a few rows, and those that windows of the next strip reach back to are copied to where that strip begins,
//! so that a window always reads rows that lie one after another. With two such places in turn, a strip is made while the one before is read.

use std::ops::Range;

use super::{
    layout::{self, Layout, inputs},
    network::{Kind, Layer, Network, TensorId, Window},
};
use crate::{Config, NpuError};

/// Layers that are computed in strips, and what becomes of the tensors between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// Which layers.
    pub layers: Range<usize>,
    /// What each strip computes.
    pub strips: Vec<Strip>,
    /// Tensors that slide, with the rows they have room for.
    pub sliding: Vec<(TensorId, usize)>,
    /// Sums that lie where their first operand was, which is read no more: sum and operand.
    pub in_place: Vec<(TensorId, TensorId)>,
}

/// One strip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Strip {
    /// For every sliding tensor of which rows are made: where they lie.
    pub slides: Vec<Slide>,
    /// For every layer the rows of its output that it computes, maybe none.
    pub rows: Vec<Range<usize>>,
}

/// Where the rows of a sliding tensor lie from a strip on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slide {
    /// The tensor.
    pub tensor: TensorId,
    /// The row of the tensor that lies in row 0 of its place, or would.
    pub origin: i64,
    /// Rows that are copied to there first: from which row of its place, to which, how many.
    pub copy: Option<(usize, usize, usize)>,
}

/// Most layers of a segment.
const LONGEST: usize = 8;
/// Strips that are tried.
const PARTS: [usize; 10] = [2, 3, 4, 6, 8, 12, 16, 24, 32, 48];

/// Places a network's tensors; where they do not fit whole, some layers become segments.
///
/// # Errors
/// If that does not suffice either; names the layer at which the memory is too small.
pub(super) fn fit(network: &mut Network, config: &Config) -> Result<Layout, NpuError> {
    let whole = layout::place(network, config, &[]);
    let Err(error) = whole else { return whole };
    let mut chosen: Vec<Segment> = Vec::new();
    let mut excess = layout::excess(network, config, &chosen);
    loop {
        // The shortest segment with the fewest strips that gets rid of the most.
        let mut best: Option<((usize, usize, usize, usize), Segment)> = None;
        for start in (excess.layer + 1).saturating_sub(LONGEST)..=excess.layer {
            let ends = (start + 2).max(excess.layer + 1)..=(start + LONGEST).min(network.layers.len());
            for end in ends {
                if chosen.iter().any(|s| s.layers.start < end && start < s.layers.end) {
                    continue;
                }
                for (parts, places) in PARTS.iter().flat_map(|p| [(*p, 2), (*p, 1)]) {
                    let Some(segment) = Segment::new(network, start..end, parts, places) else { continue };
                    let trial: Vec<Segment> = chosen.iter().cloned().chain([segment.clone()]).collect();
                    let left = layout::excess(network, config, &trial).words;
                    let cost = (left, end - start, 2 - places, parts);
                    let less = left < excess.words || left == 0;
                    let better = less && best.as_ref().is_none_or(|b| cost < b.0);
                    if better && (left > 0 || layout::place(network, config, &trial).is_ok()) {
                        best = Some((cost, segment));
                    }
                }
            }
        }
        let Some((_, segment)) = best else { return Err(error) };
        chosen.push(segment);
        chosen.sort_by_key(|s| s.layers.start);
        excess = layout::excess(network, config, &chosen);
        if excess.words == 0 {
            return layout::place(network, config, &chosen);
        }
    }
}

impl Segment {
    /// The plan of some layers in so many strips, with one or two places for the rows of each sliding tensor; `None` if nothing would slide.
    fn new(network: &Network, layers: Range<usize>, parts: usize, places: usize) -> Option<Segment> {
        let of = |l: usize| &network.layers[l];
        let height = |t: TensorId| network.tensors[t].height;
        if parts > height(of(layers.end - 1).output) {
            return None;
        }
        let slides = |t: TensorId| {
            let within = |l: usize| layers.contains(&l);
            (0..network.layers.len()).all(|l| of(l).output != t || within(l))
                && (0..network.layers.len()).all(|l| !reads(of(l), t) || within(l))
                && layers.clone().any(|l| of(l).output == t)
                && layers.clone().any(|l| reads(of(l), t))
                && network.outputs.iter().all(|p| p.view.tensor != t)
        };
        // Rows of every tensor that are there after each strip.
        let mut done = vec![vec![0usize; network.tensors.len()]];
        for k in 0..parts {
            let mut needed = vec![0; network.tensors.len()];
            let before = &done[k];
            let mut now = before.clone();
            for l in layers.clone().rev() {
                let (layer, whole) = (of(l), height(of(l).output));
                let out = layer.output;
                let read = layers.clone().any(|r| reads(of(r), out));
                let share = if read { 0 } else { (whole * (k + 1)).div_ceil(parts) };
                let all = if k + 1 == parts && !slides(out) { whole } else { 0 };
                let rows = needed[out].max(share).max(all).max(before[out]);
                now[out] = rows.next_multiple_of(repeat(layer)[0]).min(whole);
                for input in inputs(&layer.kind, layer.input) {
                    needed[input] = needed[input].max(rows_read(layer, 0..now[out], height(input)).end);
                }
            }
            done.push(now);
        }
        let mut segment = Segment { layers: layers.clone(), strips: vec![], sliding: vec![], in_place: vec![] };
        for k in 0..parts {
            let rows = layers.clone().map(|l| done[k][of(l).output]..done[k + 1][of(l).output]).collect();
            segment.strips.push(Strip { slides: vec![], rows });
        }
        let mut tensors: Vec<TensorId> = layers.clone().map(|l| of(l).output).filter(|t| slides(*t)).collect();
        tensors.dedup();
        if tensors.is_empty() {
            return None;
        }
        for t in tensors {
            // The first row that is still read, before each strip.
            let lowest = |k: usize| {
                let readers = layers.clone().filter(|l| reads(of(*l), t));
                let left = readers.filter(|l| done[k][of(*l).output] < done[parts][of(*l).output]);
                let first =
                    left.map(|l| rows_read(of(l), done[k][of(l).output]..height(of(l).output), height(t)).start);
                first.min().unwrap_or(done[k][t]).min(done[k][t])
            };
            let room = (0..parts).map(|k| done[k + 1][t] - lowest(k)).max().unwrap_or(0);
            if places * room >= height(t) {
                return None;
            }
            let (mut origin, mut place) = (0i64, 0);
            for k in (0..parts).filter(|k| done[k + 1][t] > done[*k][t]) {
                let (low, there) = (lowest(k), done[k][t]);
                place = (place + 1) % places;
                let at = place * room;
                let (from, kept) = ((low as i64 - origin) as usize, there - low);
                let copy = (kept > 0 && from != at).then_some((from, at, kept));
                origin = low as i64 - at as i64;
                segment.strips[k].slides.push(Slide { tensor: t, origin, copy });
            }
            segment.sliding.push((t, places * room));
        }
        for l in layers.clone() {
            let Kind::Add { .. } = of(l).kind else { continue };
            let sum = of(l).output;
            let whole = |t: TensorId| segment.sliding.iter().all(|s| s.0 != t);
            let operands = inputs(&of(l).kind, of(l).input);
            let free = |x: &TensorId| {
                let like = |a: TensorId, b: TensorId| {
                    let (a, b) = (&network.tensors[a], &network.tensors[b]);
                    (a.bits, a.height, a.width, a.channels) == (b.bits, b.height, b.width, b.channels)
                };
                let readers = (0..network.layers.len()).filter(|r| *r != l && reads(of(*r), *x));
                whole(*x)
                    && like(*x, sum)
                    && network.outputs.iter().all(|p| p.view.tensor != *x)
                    && layers.clone().all(|m| of(m).output != *x)
                    && readers.into_iter().all(|r| {
                        r < layers.start
                            || r < l
                                && (1..parts).all(|k| {
                                    let (from, end) = (done[k][of(r).output], done[parts][of(r).output]);
                                    from == end || rows_read(of(r), from..end, height(*x)).start >= done[k][sum]
                                })
                    })
            };
            if whole(sum) && (0..network.layers.len()).all(|m| m == l || of(m).output != sum) {
                segment.in_place.extend(operands.iter().find(|x| free(x)).map(|x| (sum, *x)));
            }
        }
        Some(segment)
    }
}

fn reads(layer: &Layer, tensor: TensorId) -> bool {
    inputs(&layer.kind, layer.input).contains(&tensor)
}

/// How often a layer repeats rows and columns.
pub(super) fn repeat(layer: &Layer) -> [usize; 2] {
    match layer.kind {
        Kind::Sum { repeat, .. } => repeat,
        _ => [1, 1],
    }
}

/// Where the taps of a layer are.
pub(super) fn window(layer: &Layer) -> Window {
    match layer.kind {
        Kind::Dense { window, .. }
        | Kind::Depthwise { window, .. }
        | Kind::Sum { window, .. }
        | Kind::Max { window } => window,
        Kind::Add { .. } => Window::POINT,
    }
}

/// Rows of an input of a height that the output's rows are computed of.
pub(super) fn rows_read(layer: &Layer, rows: Range<usize>, height: usize) -> Range<usize> {
    if rows.is_empty() {
        return 0..0;
    }
    let (window, repeat) = (window(layer), repeat(layer)[0]);
    let first = (rows.start / repeat * window.stride[0]).saturating_sub(window.pad[0]);
    let last = (rows.end - 1) / repeat * window.stride[0] + (window.kernel[0] - 1) * window.dilation[0] + 1;
    let last = last.saturating_sub(window.pad[0]).min(height);
    first.min(last)..last
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::network::{Finish, Port, Tensor, View};

    fn tensor(height: usize) -> Tensor {
        Tensor {
            name: String::new(),
            height,
            width: 4,
            channels: 8,
            bits: 8,
            signed: true,
            zero: 0,
            unpacked: false,
            windowed: false,
            bipolar: false,
        }
    }

    fn layer(kind: Kind, input: TensorId, output: TensorId) -> Layer {
        let finish = Finish { bias: vec![0], scale: vec![1.0], zero: 0, lo: -128, hi: 127, table: None, raw: false };
        let (name, op) = (output.to_string(), String::new());
        Layer { name, op, kind, input, output, first_channel: 0, channels: 8, merge: 1, finish, macs: 0 }
    }

    /// A residual block: 0 → conv → 1 → conv → 2, 0 + 2 → 3.
    fn block() -> Network {
        let window = Window { kernel: [3, 3], pad: [1, 1], ..Window::POINT };
        let conv = || Kind::Dense { weights: vec![], window };
        let view = View { tensor: 3, dims: vec![], shape: vec![] };
        let value = {
            let mut graph = qing_graph::Graph::new("x");
            graph.add_input("x", qing_graph::Type::new(qing_graph::Element::F32, [1]))
        };
        Network {
            tensors: vec![tensor(16); 4],
            layers: vec![
                layer(conv(), 0, 1),
                layer(conv(), 1, 2),
                layer(Kind::Add { second: 2, multipliers: [1, 1] }, 0, 3),
            ],
            outputs: vec![Port { value, view, real: None, unfold: None }],
            ..Network::default()
        }
    }

    #[test]
    fn strips_make_every_row_once_and_keep_what_windows_reach_back_to() {
        let network = block();
        for (parts, places) in [(2, 1), (4, 1), (4, 2), (8, 2), (16, 1)] {
            let Some(segment) = Segment::new(&network, 0..3, parts, places) else { continue };
            let mut made = [0usize; 4];
            for strip in &segment.strips {
                for (layer, rows) in network.layers.iter().zip(&strip.rows) {
                    assert_eq!(rows.start, made[layer.output]);
                    made[layer.output] = rows.end;
                    // What it reads of the layers before has been made.
                    for input in inputs(&layer.kind, layer.input) {
                        let read = rows_read(layer, rows.clone(), 16);
                        assert!(input == 0 || read.end <= made[input], "{parts} {input} {read:?}");
                        if let Some(slide) = strip.slides.iter().find(|s| s.tensor == input) {
                            let room = segment.sliding.iter().find(|s| s.0 == input).unwrap().1 as i64;
                            let place = (read.start as i64 - slide.origin)..(read.end as i64 - slide.origin);
                            assert!(place.start >= 0 && place.end <= room, "{parts} {place:?} of {room}");
                        }
                    }
                }
            }
            assert_eq!(made[3], 16);
            // The sum overwrites what it adds to: the first convolution is ahead.
            assert_eq!(segment.in_place, [(3, 0)], "{parts}");
        }
        assert!(Segment::new(&network, 0..3, 4, 1).is_some_and(|s| s.sliding.len() == 2));
        // Nothing lies between a layer and itself.
        assert!(Segment::new(&network, 1..2, 2, 1).is_none());
    }

    #[test]
    fn rows_that_are_read_stay_inside() {
        let stride = Window { kernel: [3, 3], stride: [2, 2], pad: [1, 1], ..Window::POINT };
        let conv = layer(Kind::Dense { weights: vec![], window: stride }, 0, 1);
        assert_eq!(rows_read(&conv, 0..2, 8), 0..4);
        assert_eq!(rows_read(&conv, 2..4, 8), 3..8);
        let larger = layer(Kind::Sum { window: Window::POINT, repeat: [2, 2] }, 0, 1);
        assert_eq!(rows_read(&larger, 2..6, 8), 1..3);
    }
}
