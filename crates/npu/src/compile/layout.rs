//! How activations lie in their memory, and where.

use super::{
    network::{Kind, Layer, Network, Tensor, TensorId, Window},
    segment::Segment,
};
use crate::{Config, NpuError};

/// A tensor's place in the activation memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Buffer {
    /// Address of plane 0 of the first word.
    pub base: usize,
    /// log2 of pixels per word.
    pub lg_pixels: usize,
    /// Plane stride, in rows of all banks.
    pub plane_rows: usize,
    /// Pixels from one row to the next.
    pub pitch: usize,
    /// Rows that it has room for; fewer than the tensor has where the layers around it are computed in strips.
    pub rows: usize,
    /// Words of one plane.
    pub plane_words: usize,
    /// Words from one group of 64 channels to the next.
    pub group_words: usize,
    /// Words from the first to the last that is used.
    pub words: usize,
}

impl Buffer {
    /// Words from one plane to the next.
    pub fn plane_stride(&self, config: &Config) -> usize {
        self.plane_rows * config.banks + 1
    }
}

/// How the activations of a network lie.
#[derive(Debug, Clone, Default)]
pub(super) struct Layout {
    /// By tensor.
    pub buffers: Vec<Buffer>,
    /// For every tensor the one whose place it takes: itself, or what it is added to.
    pub roots: Vec<TensorId>,
    /// Layers that are computed in strips.
    pub segments: Vec<Segment>,
}

/// Gives every tensor its form, and a place while it lives.
///
/// # Errors
/// If the activation memory is too small; names the layer at which it is.
pub(super) fn place(network: &mut Network, config: &Config, segments: &[Segment]) -> Result<Layout, NpuError> {
    spread_packing(network);
    let mut layout = Layout {
        buffers: forms(network, config, segments),
        roots: roots(network.tensors.len(), segments),
        segments: segments.to_vec(),
    };
    let (life, order) = lives(network, &layout.roots, segments);
    // First so that layers can overlap; if that does not fit, as low as possible.
    let buffers = &mut layout.buffers;
    if assign(&order, &life, buffers, config, true)
        || assign_by_size(&order, &life, buffers, config.activation_words())
        || assign(&order, &life, buffers, config, false)
    {
        for (t, root) in layout.roots.iter().enumerate() {
            layout.buffers[t].base = layout.buffers[*root].base;
        }
        return Ok(layout);
    }
    let failed = order.iter().copied().max_by_key(|t| alive(&order, &life, buffers, life[*t].0));
    let Some(t) = failed else { return Ok(layout) };
    let words = alive(&order, &life, buffers, life[t].0);
    let layer = network.layers.iter().find(|l| l.output == t);
    Err(NpuError::Unmappable {
        node: layer.map_or_else(|| network.tensors[t].name.clone(), |l| l.name.clone()),
        op: layer.map_or_else(|| "input".into(), |l| l.op.clone()),
        what: format!(
            "{} bytes of activations are needed at once; the chip `{}` holds {}; take a larger preset, fewer bits or a smaller input",
            words * 8,
            config.name,
            config.activation_bytes()
        ),
    })
}

/// By how much the tensors that live together are too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Excess {
    /// Words beyond the memory, summed over the layers.
    pub words: usize,
    /// The first layer at which most are needed.
    pub layer: usize,
}

/// What is missing for tensors to be placed, were there no gaps between them.
pub(super) fn excess(network: &Network, config: &Config, segments: &[Segment]) -> Excess {
    let buffers = forms(network, config, segments);
    let (life, order) = lives(network, &roots(buffers.len(), segments), segments);
    let needed: Vec<usize> = (1..=network.layers.len()).map(|time| alive(&order, &life, &buffers, time)).collect();
    let layer = needed.iter().enumerate().max_by_key(|(l, words)| (**words, std::cmp::Reverse(*l)));
    let words = needed.iter().map(|words| words.saturating_sub(config.activation_words())).sum();
    Excess { words, layer: layer.map_or(0, |l| l.0) }
}

/// Words of all that lives at a time.
fn alive(order: &[TensorId], life: &[(usize, usize)], buffers: &[Buffer], time: usize) -> usize {
    order.iter().filter(|t| (life[**t].0..=life[**t].1).contains(&time)).map(|t| buffers[*t].words).sum()
}

/// The tensors' forms, without places.
fn forms(network: &Network, config: &Config, segments: &[Segment]) -> Vec<Buffer> {
    // What the host lays out may have more pixels to a word than what the post unit writes, unless it is read side by side with that.
    let mut made_by_host: Vec<TensorId> = network.inputs.iter().map(|p| p.view.tensor).collect();
    let by_words = |l: &&Layer| matches!(l.kind, Kind::Add { .. } | Kind::Sum { .. });
    for layer in network.layers.iter().filter(by_words) {
        made_by_host.retain(|t| !inputs(&layer.kind, layer.input).contains(t));
    }
    let form = |(id, t): (TensorId, &Tensor)| {
        let lg_pixels = if t.unpacked || t.channels > 32 {
            0
        } else {
            // What the post unit writes comes in bytes of lanes at least.
            let least = if made_by_host.contains(&id) { 1 } else { 8 };
            (64 / t.channels.next_power_of_two().max(least)).trailing_zeros() as usize
        };
        let pitch = if t.windowed && t.height > 1 {
            pitch(t.width.div_ceil(1 << lg_pixels), config.banks) << lg_pixels
        } else if segments.is_empty() || t.height == 1 {
            t.width
        } else {
            // Strips are moved and added by words.
            t.width.next_multiple_of(1 << lg_pixels)
        };
        let sliding = segments.iter().flat_map(|s| &s.sliding).find(|s| s.0 == id);
        let rows = sliding.map_or(t.height, |s| s.1);
        let pixels = (rows - 1) * pitch + t.width;
        let plane_words = if lg_pixels > 0 { pixels.div_ceil(1 << lg_pixels) } else { pixels * t.groups() };
        let plane_rows = (plane_words - 1).div_ceil(config.banks);
        let words = (t.bits - 1) * (plane_rows * config.banks + 1) + plane_words;
        Buffer { base: 0, lg_pixels, plane_rows, pitch, rows, plane_words, group_words: pixels, words }
    };
    network.tensors.iter().enumerate().map(form).collect()
}

fn roots(tensors: usize, segments: &[Segment]) -> Vec<TensorId> {
    let mut roots: Vec<TensorId> = (0..tensors).collect();
    for (sum, operand) in segments.iter().flat_map(|s| &s.in_place) {
        roots[*sum] = roots[*operand];
    }
    roots
}

/// When every tensor lives, in layers from 1 on (0: inputs), and those that need a place, in order of their making.
fn lives(network: &Network, roots: &[TensorId], segments: &[Segment]) -> (Vec<(usize, usize)>, Vec<TensorId>) {
    // From the layer that writes it first to the last that reads it; all layers of a segment are at work at once.
    let layers = network.layers.len();
    let mut life = vec![(usize::MAX, 0usize); network.tensors.len()];
    for port in &network.inputs {
        life[port.view.tensor] = (0, 0);
    }
    for (l, layer) in network.layers.iter().enumerate() {
        let segment = segments.iter().find(|s| s.layers.contains(&l));
        let (first, last) = segment.map_or((l + 1, l + 1), |s| (s.layers.start + 1, s.layers.end));
        let t = &mut life[roots[layer.output]];
        *t = (t.0.min(first), t.1.max(last));
        for input in inputs(&layer.kind, layer.input) {
            let t = &mut life[roots[input]];
            t.1 = t.1.max(last);
        }
    }
    for port in &network.outputs {
        life[roots[port.view.tensor]].1 = layers + 1;
    }
    let mut order: Vec<TensorId> = (0..roots.len()).filter(|t| roots[*t] == *t && life[*t].0 != usize::MAX).collect();
    order.sort_by_key(|t| life[*t].0);
    (life, order)
}

/// The least distance of rows at which the nine taps of a 3 × 3 window take the fewest turns of the banks.
fn pitch(width: usize, banks: usize) -> usize {
    let turns = |pitch: usize| {
        let mut asked = vec![0; banks];
        for tap in 0..9 {
            asked[(tap / 3 * pitch + tap % 3) % banks] += 1;
        }
        asked.into_iter().max().unwrap_or(0)
    };
    (width..width + 8).min_by_key(|p| (turns(*p), *p)).unwrap_or(width)
}

/// What a layer reads.
pub(super) fn inputs(kind: &Kind, first: TensorId) -> Vec<TensorId> {
    match kind {
        Kind::Add { second, .. } => vec![first, *second],
        _ => vec![first],
    }
}

/// Operands and sum of an addition have one form.
fn spread_packing(network: &mut Network) {
    loop {
        let mut changed = false;
        for layer in &network.layers {
            let mut tied = inputs(&layer.kind, layer.input);
            let joins = match layer.kind {
                Kind::Add { .. } => true,
                Kind::Sum { window, repeat } => {
                    window == Window::POINT
                        && repeat == [1, 1]
                        && layer.channels == network.tensors[layer.output].channels
                }
                Kind::Depthwise { .. } if layer.shifts(&network.tensors[layer.input]) => true,
                _ => false,
            };
            // Windows slide over the input of a depthwise layer, but not over its output.
            let slides = matches!(layer.kind, Kind::Depthwise { .. });
            if !joins {
                continue;
            }
            tied.push(layer.output);
            let unpacked = tied.iter().any(|t| network.tensors[*t].unpacked);
            let windowed = tied.iter().any(|t| network.tensors[*t].windowed);
            for t in tied {
                let tensor = &mut network.tensors[t];
                let windowed = if slides { tensor.windowed } else { windowed };
                changed |= tensor.unpacked != unpacked || tensor.windowed != windowed;
                (tensor.unpacked, tensor.windowed) = (unpacked, windowed);
            }
        }
        if !changed {
            return;
        }
    }
}

/// Places of tensors, in order of their making; false if they do not fit.
///
/// With `spread`, tensors that are at work together (what a layer reads and writes, and its neighbours) are kept in different sections where
/// that is possible: a section serves either reads or writes in a cycle. Without it, as low as possible.
fn assign(order: &[TensorId], life: &[(usize, usize)], buffers: &mut [Buffer], config: &Config, spread: bool) -> bool {
    let capacity = config.activation_words();
    let section = capacity / config.sections;
    for (i, t) in order.iter().enumerate() {
        let words = buffers[*t].words;
        let lives = |o: &TensorId| (buffers[*o].base, buffers[*o].base + buffers[*o].words);
        let taken: Vec<(usize, usize)> = order[..i].iter().filter(|o| life[**o].1 >= life[*t].0).map(lives).collect();
        // What was used a moment ago is as good as taken: layers overlap.
        let recent: Vec<(usize, usize)> =
            order[..i].iter().filter(|o| life[**o].1 + 3 >= life[*t].0).map(lives).collect();
        let fits = |at: usize| at + words <= capacity && taken.iter().all(|(a, b)| at + words <= *a || at >= *b);
        let starts = (0..config.sections).map(|s| s * section);
        let after = taken.iter().map(|(_, b)| *b);
        let before = taken.iter().filter_map(|(a, _)| a.checked_sub(words));
        let places = starts.chain(after).chain(before).chain(recent.iter().map(|(_, b)| *b));
        let sections = |a: usize, b: usize| (a / section, (b - 1) / section);
        let cost = |at: usize| {
            let (first, last) = sections(at, at + words);
            let shared = |(a, b): &&(usize, usize)| {
                let (f, l) = sections(*a, *b);
                f <= last && first <= l
            };
            let reused = recent.iter().filter(|(a, b)| at < *b && *a < at + words).count();
            (reused, recent.iter().filter(shared).count())
        };
        let found =
            places.filter(|at| fits(*at)).min_by_key(|at| if spread { (cost(*at), *at) } else { ((0, 0), *at) });
        let Some(at) = found else { return false };
        buffers[*t].base = at;
    }
    true
}

/// The last resort: large tensors first, each as low as those that live with it allow.
fn assign_by_size(order: &[TensorId], life: &[(usize, usize)], buffers: &mut [Buffer], capacity: usize) -> bool {
    let mut sorted = order.to_vec();
    sorted.sort_by_key(|t| std::cmp::Reverse(buffers[*t].words));
    for (i, t) in sorted.iter().enumerate() {
        let words = buffers[*t].words;
        let meets = |o: &&TensorId| life[**o].0 <= life[*t].1 && life[*t].0 <= life[**o].1;
        let taken: Vec<(usize, usize)> = sorted[..i]
            .iter()
            .filter(meets)
            .map(|o| (buffers[*o].base, buffers[*o].base + buffers[*o].words))
            .collect();
        let fits = |at: usize| at + words <= capacity && taken.iter().all(|(a, b)| at + words <= *a || at >= *b);
        let Some(at) = std::iter::once(0).chain(taken.iter().map(|(_, b)| *b)).filter(|at| fits(*at)).min() else {
            return false;
        };
        buffers[*t].base = at;
    }
    true
}
