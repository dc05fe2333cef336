//! Layers fitted anew: after channels are gone, the weights of every layer are those that come nearest, in least squares over
//! calibration data, to what it made before, given what it now reads (channel pruning, He et al., arXiv:1707.06168). One layer
//! after the other, so that each makes up for what those before it lost. No gradients, no labels.

use std::collections::BTreeMap;

use qing_graph::{Graph, Node, NodeId, OpError, Tensor, ValueId, ops, ops::support::window::Axis};

use crate::{LightenError, Progress, calibrate::window_position, run::Observer};

/// Rows a layer is fitted on, about.
const ROWS: usize = 8192;
/// Layers that read more inputs for each output are left as they are.
const WIDEST: usize = 1300;
/// Pull towards the old weights, relative to the mean square of an input: decides where calibration saw little.
const RIDGE: f64 = 1e-3;

/// By name of a value, which of its channels in the original are left; all where there is no entry.
pub(super) type Kept = BTreeMap<String, Vec<usize>>;

/// Fits the layers of `made` to what those of the same name make in `original`. Gives how many were fitted.
///
/// # Errors
/// If a network cannot be run on the batches.
pub(super) fn reconstruct(
    original: &Graph,
    made: &mut Graph,
    kept: &Kept,
    batches: &[Vec<Tensor>],
    threads: usize,
    progress: &mut dyn FnMut(Progress),
) -> Result<usize, LightenError> {
    let samples: usize = batches.iter().map(|b| b.first().and_then(|t| t.shape().first().copied()).unwrap_or(1)).sum();
    let per_sample = (ROWS / samples.max(1)).clamp(1, 64);
    let layers: Vec<(NodeId, Layer)> = (0..made.nodes.len())
        .filter_map(|i| Some((i, Layer::of(original, made, &made.nodes[i], kept, per_sample)?)))
        .collect();
    // What every layer made, at the places it will be fitted on.
    let wanted: Vec<ValueId> = layers.iter().map(|(_, l)| l.target).collect();
    let mut observer = Observer::new(original, &wanted, threads);
    let mut targets = vec![vec![]; layers.len()];
    for batch in batches {
        for ((target, tensor), (_, layer)) in targets.iter_mut().zip(observer.run(batch)?).zip(&layers) {
            layer.outputs(&tensor, target);
        }
    }
    let mut fitted = 0;
    for (k, (node, layer)) in layers.iter().enumerate() {
        progress(Progress { stage: "fit layers", done: k, total: layers.len() });
        let Some(x) = made.nodes[*node].input(0) else { continue };
        let mut observer = Observer::new(made, &[x], threads);
        let mut fit = Fit::new(layer.width, layer.rows);
        let mut target = targets[k].chunks_exact(layer.rows);
        for batch in batches {
            let seen = observer.run(batch)?;
            layer.inputs(&seen[0], |row| {
                if let Some(y) = target.next() {
                    fit.add(row, y);
                }
            })?;
        }
        if let Some((weights, bias)) = fit.solve(&layer.weights) {
            layer.store(made, *node, &weights, &bias)?;
            fitted += 1;
        }
    }
    progress(Progress { stage: "fit layers", done: layers.len(), total: layers.len() });
    Ok(fitted)
}

/// A layer that can be fitted.
struct Layer {
    /// What it made before, in the original graph.
    target: ValueId,
    /// Of the channels it made, those it still makes.
    kept: Vec<usize>,
    channels: usize,
    /// Outputs and inputs of one place.
    rows: usize,
    width: usize,
    /// Row-major, `rows` by `width`.
    weights: Vec<f64>,
    /// Where the shift of its outputs goes.
    shift: Shift,
    /// Taps of a convolution.
    window: Option<(ops::Conv, Vec<usize>)>,
    transposed: bool,
    per_sample: usize,
}

/// What takes up a constant that is added to the outputs.
enum Shift {
    /// The bias of the layer.
    Bias(ValueId),
    /// The mean of the normalization that follows.
    Mean(ValueId),
    /// Nothing.
    None,
}

impl Layer {
    fn of(original: &Graph, made: &Graph, node: &Node, kept: &Kept, per_sample: usize) -> Option<Layer> {
        let window = match node.op.downcast::<ops::Conv>() {
            Some(op) if op.groups().ok()? == 1 => {
                let kernel = made.constant(node.input(1)?)?.shape().get(2..)?.to_vec();
                Some((op.clone(), kernel))
            }
            Some(_) => return None,
            None if matches!(node.op.name(), "Gemm" | "MatMul") => None,
            None => return None,
        };
        let gemm = node.op.downcast::<ops::Gemm>();
        if gemm.is_some_and(|g| g.alpha != 1.0 || g.beta != 1.0 || g.transA) {
            return None;
        }
        let transposed = window.is_none() && gemm.is_none_or(|g| !g.transB);
        let before = original.nodes.iter().find(|n| {
            original.value(n.outputs[0]).name == made.value(node.outputs[0]).name && n.op.name() == node.op.name()
        })?;
        let (old, new) = (original.constant(before.input(1)?)?, made.constant(node.input(1)?)?);
        if new.element() != qing_graph::Element::F32 || (window.is_none() && new.rank() != 2) {
            return None;
        }
        let axis = usize::from(transposed);
        let (channels, rows) = (old.shape()[axis], new.shape()[axis]);
        let width = new.len() / rows.max(1);
        if width == 0 || width > WIDEST || original.ty(before.outputs[0]).rank()? < 2 {
            return None;
        }
        let values = new.to_f64s();
        let weights = match transposed {
            true => (0..rows * width).map(|k| values[k % width * rows + k / width]).collect(),
            false => values,
        };
        let consumers = made.consumers();
        let shift = match (node.input(2), consumers[node.outputs[0].0 as usize].as_slice()) {
            (Some(bias), _) if made.constant(bias)?.len() == rows => Shift::Bias(bias),
            (None, [next]) if made.nodes[*next].op.name() == "BatchNormalization" => {
                Shift::Mean(made.nodes[*next].input(3)?)
            }
            _ => Shift::None,
        };
        let kept = match kept.get(&original.value(before.outputs[0]).name) {
            Some(kept) => kept.clone(),
            None => (0..channels).collect(),
        };
        (kept.len() == rows).then_some(Layer {
            target: before.outputs[0],
            kept,
            channels,
            rows,
            width,
            weights,
            shift,
            window,
            transposed,
            per_sample,
        })
    }

    /// Appends what the layer made at the places it is fitted on.
    fn outputs(&self, y: &Tensor, into: &mut Vec<f32>) {
        let values = y.to_f32s();
        if self.window.is_none() {
            let rows = values.len() / self.channels.max(1);
            for k in places(rows, self.per_sample * y.shape()[0].max(1)) {
                into.extend(self.kept.iter().map(|c| values[k * self.channels + c]));
            }
            return;
        }
        let area: usize = y.shape()[2..].iter().product();
        for n in 0..y.shape()[0] {
            for place in places(area, self.per_sample) {
                into.extend(self.kept.iter().map(|c| values[(n * self.channels + c) * area + place]));
            }
        }
    }

    /// Shows what the layer reads at these places.
    fn inputs(&self, x: &Tensor, mut see: impl FnMut(&[f32])) -> Result<(), OpError> {
        let values = x.to_f32s();
        let Some((op, kernel)) = &self.window else {
            let rows = values.len() / self.width;
            for k in places(rows, self.per_sample * x.shape()[0].max(1)) {
                see(&values[k * self.width..(k + 1) * self.width]);
            }
            return Ok(());
        };
        let axes: Vec<Axis> = op.window().axes(&x.shape()[2..], kernel)?;
        let (channels, area) = (x.shape()[1], x.shape()[2..].iter().product::<usize>());
        let taps: usize = kernel.iter().product();
        let out: usize = axes.iter().map(|a| a.output).product();
        let mut row = vec![0.0; self.width];
        for n in 0..x.shape()[0] {
            for place in places(out, self.per_sample) {
                let at: Vec<Option<usize>> = (0..taps).map(|tap| window_position(&axes, place, tap)).collect();
                for c in 0..channels {
                    let plane = (n * channels + c) * area;
                    for (tap, at) in at.iter().enumerate() {
                        row[c * taps + tap] = at.map_or(0.0, |at| values[plane + at]);
                    }
                }
                see(&row);
            }
        }
        Ok(())
    }

    fn store(&self, made: &mut Graph, node: NodeId, weights: &[f64], shift: &[f64]) -> Result<(), LightenError> {
        let Some(id) = made.nodes[node].input(1) else { return Ok(()) };
        let Some(old) = made.constant(id) else { return Ok(()) };
        let shape = old.shape().to_vec();
        let values: Vec<f32> = match self.transposed {
            true => {
                let at = |k: usize| k % self.rows * self.width + k / self.rows;
                (0..weights.len()).map(|k| weights[at(k)] as f32).collect()
            }
            false => weights.iter().map(|w| *w as f32).collect(),
        };
        made.value_mut(id).constant = Some(Tensor::new(&shape, values).map_err(OpError::from)?);
        let (place, sign, absolute) = match self.shift {
            Shift::Bias(id) => (id, 1.0, true),
            Shift::Mean(id) => (id, -1.0, false),
            Shift::None => return Ok(()),
        };
        if let Some(old) = made.constant(place) {
            // A mean is moved by the shift; a bias is it.
            let base = if absolute { vec![0.0; self.rows] } else { old.to_f64s() };
            let values: Vec<f32> = base.iter().zip(shift).map(|(b, s)| (b + sign * s) as f32).collect();
            let tensor = Tensor::new(old.shape(), values).map_err(OpError::from)?;
            made.value_mut(place).constant = Some(tensor);
        }
        Ok(())
    }
}

/// Evenly spread places.
fn places(all: usize, wanted: usize) -> impl Iterator<Item = usize> {
    let take = wanted.min(all);
    (0..take).map(move |k| (2 * k + 1) * all / (2 * take))
}

/// Sums for a linear fit of outputs to inputs.
struct Fit {
    width: usize,
    rows: usize,
    count: f64,
    x: Vec<f64>,
    y: Vec<f64>,
    /// Lower triangle of the products of inputs.
    xx: Vec<f64>,
    /// Products of outputs (rows) and inputs.
    yx: Vec<f64>,
}

impl Fit {
    fn new(width: usize, rows: usize) -> Fit {
        let (x, y) = (vec![0.0; width], vec![0.0; rows]);
        Fit { width, rows, count: 0.0, x, y, xx: vec![0.0; width * width], yx: vec![0.0; rows * width] }
    }

    fn add(&mut self, x: &[f32], y: &[f32]) {
        self.count += 1.0;
        for (s, v) in self.x.iter_mut().zip(x) {
            *s += f64::from(*v);
        }
        for (i, v) in x.iter().enumerate().filter(|(_, v)| **v != 0.0) {
            let v = f64::from(*v);
            let row = &mut self.xx[i * self.width..=i * self.width + i];
            row.iter_mut().zip(x).for_each(|(s, u)| *s += v * f64::from(*u));
        }
        for (r, v) in y.iter().enumerate() {
            let v = f64::from(*v);
            self.y[r] += v;
            let row = &mut self.yx[r * self.width..(r + 1) * self.width];
            row.iter_mut().zip(x).for_each(|(s, u)| *s += v * f64::from(*u));
        }
    }

    /// Weights and shift; `None` if too little was seen.
    fn solve(self, old: &[f64]) -> Option<(Vec<f64>, Vec<f64>)> {
        let (n, w) = (self.count, self.width);
        if n < 2.0 {
            return None;
        }
        let mean_x: Vec<f64> = self.x.iter().map(|s| s / n).collect();
        let mean_y: Vec<f64> = self.y.iter().map(|s| s / n).collect();
        let mut g = self.xx;
        for i in 0..w {
            for j in 0..=i {
                g[i * w + j] = g[i * w + j] / n - mean_x[i] * mean_x[j];
            }
        }
        let scale = (0..w).map(|i| g[i * w + i]).sum::<f64>() / w as f64;
        if !(scale > 0.0 && scale.is_finite()) {
            return None;
        }
        let pull = RIDGE * scale;
        (0..w).for_each(|i| g[i * w + i] += pull);
        factor(&mut g, w)?;
        let mut weights = vec![0.0; self.rows * w];
        let mut shift = mean_y;
        for r in 0..self.rows {
            let row = &mut weights[r * w..(r + 1) * w];
            for i in 0..w {
                row[i] = self.yx[r * w + i] / n - shift[r] * mean_x[i] + pull * old[r * w + i];
            }
            substitute(&g, w, row);
            shift[r] -= row.iter().zip(&mean_x).map(|(a, b)| a * b).sum::<f64>();
        }
        weights.iter().chain(&shift).all(|v| v.is_finite()).then_some((weights, shift))
    }
}

/// Cholesky's factor in place of the lower triangle; `None` if it is not positive definite.
fn factor(g: &mut [f64], n: usize) -> Option<()> {
    for j in 0..n {
        let (above, rest) = g.split_at_mut(j * n);
        let row = &mut rest[..=j];
        for k in 0..j {
            let other = &above[k * n..=k * n + k];
            let dot: f64 = row[..k].iter().zip(&other[..k]).map(|(a, b)| a * b).sum();
            row[k] = (row[k] - dot) / other[k];
        }
        let d = row[j] - row[..j].iter().map(|v| v * v).sum::<f64>();
        if !(d > 0.0 && d.is_finite()) {
            return None;
        }
        row[j] = d.sqrt();
    }
    Some(())
}

/// Solves `L·Lᵀ·x = b` in place.
fn substitute(l: &[f64], n: usize, b: &mut [f64]) {
    for i in 0..n {
        let dot: f64 = l[i * n..i * n + i].iter().zip(&b[..i]).map(|(a, b)| a * b).sum();
        b[i] = (b[i] - dot) / l[i * n + i];
    }
    for i in (0..n).rev() {
        b[i] /= l[i * n + i];
        let v = b[i];
        for (k, l) in l[i * n..i * n + i].iter().enumerate() {
            b[k] -= v * l;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linear_map_is_found_again() {
        let noise = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 1009.0 - 0.5;
        let (width, rows) = (5, 2);
        let truth: Vec<f64> = (0..10).map(|i| f64::from(noise(i + 3))).collect();
        let mut fit = Fit::new(width, rows);
        for s in 0..200 {
            let x: Vec<f32> = (0..width).map(|i| noise(s * 31 + i * 17) + 0.3).collect();
            let y: Vec<f32> = (0..rows)
                .map(|r| {
                    let dot: f64 = (0..width).map(|i| truth[r * width + i] * f64::from(x[i])).sum();
                    dot as f32 + r as f32 - 0.25
                })
                .collect();
            fit.add(&x, &y);
        }
        let (weights, shift) = fit.solve(&truth).unwrap();
        for (a, b) in weights.iter().zip(&truth) {
            assert!((a - b).abs() < 1e-3, "{a} {b}");
        }
        assert!((shift[0] + 0.25).abs() < 1e-3 && (shift[1] - 0.75).abs() < 1e-3, "{shift:?}");
    }

    #[test]
    fn nothing_seen_fits_nothing() {
        assert!(Fit::new(3, 1).solve(&[0.0; 3]).is_none());
        let mut silent = Fit::new(3, 1);
        (0..9).for_each(|_| silent.add(&[0.0; 3], &[1.0]));
        assert!(silent.solve(&[0.0; 3]).is_none());
    }
}
