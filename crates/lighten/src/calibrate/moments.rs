//! First and second moments of what a layer multiplies its weights with: the mean tells how quantized weights shift the
//! output, the second moments how much the error of each weight matters.

use qing_graph::{Graph, Node, OpError, Tensor, ops, ops::support::window::Axis};

/// Most rows of inputs taken from one sample: neighbours tell the same.
const ROWS_PER_SAMPLE: usize = 64;

/// Rows a layer's moments are estimated from, about.
const ROWS: usize = 4096;

/// Second moments are kept in full up to so many inputs per output, else only their diagonal.
pub(super) const LARGEST_FULL: usize = 1300;

/// Moments of the inputs that meet one row of weights, for each group of channels.
#[derive(Debug, Clone)]
pub(crate) struct Moments {
    gather: Gather,
    groups: usize,
    width: usize,
    full: bool,
    /// Per group, sum of the inputs.
    sum: Vec<f64>,
    /// Per group, sums of products (`width²`, lower triangle) or of squares (`width`).
    products: Vec<f64>,
    rows: u64,
    seen: usize,
    per_sample: usize,
    /// Per group, rows not yet in `products`.
    pending: Vec<Vec<f32>>,
}

/// Rows that are added to the products at once, so that a row of the products is used while it is near.
const BLOCK: usize = 16;

/// How a layer gathers its inputs.
#[derive(Debug, Clone)]
enum Gather {
    /// `X [batch, channels, spatial…]`, taps of the kernel.
    Convolution { op: ops::Conv, kernel: Vec<usize> },
    /// The last axis.
    Rows,
}

impl Moments {
    /// Empty moments for a layer, with all products of its inputs if `products`, to be estimated from so many
    /// samples; `None` if the way it reads its input is not known here.
    pub(crate) fn of(graph: &Graph, node: &Node, products: bool, samples: usize) -> Option<Moments> {
        let w = graph.constant(node.input(1)?)?;
        let (gather, groups, width) = if let Some(op) = node.op.downcast::<ops::Conv>() {
            let kernel = w.shape().get(2..)?.to_vec();
            (Gather::Convolution { op: op.clone(), kernel }, op.groups().ok()?, w.shape()[1..].iter().product())
        } else if matches!(node.op.name(), "Gemm" | "MatMul") && w.rank() == 2 {
            let rule = node.op.quantization();
            let qing_graph::QuantRule::Dot { axis, .. } = rule else { return None };
            (Gather::Rows, 1, w.shape()[1 - axis.min(1)])
        } else {
            return None;
        };
        let full = products && width <= LARGEST_FULL;
        let products = groups * if full { width * width } else { width };
        Some(Moments {
            gather,
            groups,
            width,
            full,
            sum: vec![0.0; groups * width],
            products: vec![0.0; products],
            rows: 0,
            seen: 0,
            pending: vec![vec![]; if full { groups } else { 0 }],
            per_sample: (ROWS / samples.max(1)).clamp(1, ROWS_PER_SAMPLE),
        })
    }

    /// Counts an input of the layer, at evenly spread places.
    ///
    /// # Errors
    /// If it does not have the shape the layer takes.
    pub(crate) fn add(&mut self, x: &Tensor) -> Result<(), OpError> {
        let values = x.to_f32s();
        match self.gather.clone() {
            Gather::Rows => {
                let rows = values.len() / self.width.max(1);
                let step = rows.div_ceil(self.per_sample * x.shape().first().copied().unwrap_or(1).max(1)).max(1);
                for row in values.chunks_exact(self.width.max(1)).step_by(step) {
                    self.add_row(0, row);
                    self.rows += 1;
                }
            }
            Gather::Convolution { op, kernel } => {
                if x.rank() != kernel.len() + 2 {
                    return Err(OpError::invalid(format!("an input of shape {:?}", x.shape())));
                }
                let axes = op.window().axes(&x.shape()[2..], &kernel)?;
                self.add_windows(&values, x.shape(), &axes);
            }
        }
        Ok(())
    }

    fn add_windows(&mut self, values: &[f32], shape: &[usize], axes: &[Axis]) {
        let (channels, area) = (shape[1], shape[2..].iter().product::<usize>());
        let places: usize = axes.iter().map(|a| a.output).product();
        let taps: usize = axes.iter().map(|a| a.kernel).product();
        let per_group = channels / self.groups;
        if per_group * taps != self.width || places == 0 {
            return;
        }
        let mut row = vec![0.0; self.width];
        let take = places.min(self.per_sample);
        for n in 0..shape[0] {
            // Other places for other samples, spread by the golden ratio.
            let offset = (self.seen as f64 * 0.618_033_988_75).fract() * places as f64 / take as f64;
            self.seen += 1;
            for k in 0..take {
                let place = ((k as f64 * places as f64 / take as f64 + offset) as usize).min(places - 1);
                let positions: Vec<Option<usize>> = (0..taps).map(|tap| position(axes, place, tap)).collect();
                for g in 0..self.groups {
                    for c in 0..per_group {
                        let plane = (n * channels + g * per_group + c) * area;
                        for (tap, at) in positions.iter().enumerate() {
                            row[c * taps + tap] = at.map_or(0.0, |at| values[plane + at]);
                        }
                    }
                    self.add_row(g, &row);
                }
                self.rows += 1;
            }
        }
    }

    fn add_row(&mut self, group: usize, row: &[f32]) {
        let width = self.width;
        for (s, v) in self.sum[group * width..].iter_mut().zip(row) {
            *s += f64::from(*v);
        }
        if !self.full {
            for (s, v) in self.products[group * width..].iter_mut().zip(row) {
                *s += f64::from(*v) * f64::from(*v);
            }
            return;
        }
        self.pending[group].extend_from_slice(row);
        if self.pending[group].len() >= BLOCK * width {
            self.flush(group);
        }
    }

    /// Adds the pending rows of a group to its products.
    fn flush(&mut self, group: usize) {
        let width = self.width;
        let products = &mut self.products[group * width * width..(group + 1) * width * width];
        for i in 0..width {
            let sums = &mut products[i * width..=i * width + i];
            for row in self.pending[group].chunks_exact(width) {
                let v = f64::from(row[i]);
                if v != 0.0 {
                    sums.iter_mut().zip(row).for_each(|(s, u)| *s += v * f64::from(*u));
                }
            }
        }
        self.pending[group].clear();
    }

    /// Counts what is still pending; to be called after the last input.
    pub(crate) fn finish(&mut self) {
        (0..self.pending.len()).for_each(|group| self.flush(group));
    }

    /// Number of groups; the weights' rows belong to them in order.
    pub(crate) fn groups(&self) -> usize {
        self.groups
    }

    /// Inputs per row of weights.
    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// Mean input of a group.
    pub(crate) fn mean(&self, group: usize) -> Vec<f64> {
        let n = self.rows.max(1) as f64;
        self.sum[group * self.width..(group + 1) * self.width].iter().map(|s| s / n).collect()
    }

    /// Mean square of each input of a group.
    pub(crate) fn squares(&self, group: usize) -> Vec<f64> {
        let (n, w) = (self.rows.max(1) as f64, self.width);
        let at = |i: usize| if self.full { group * w * w + i * w + i } else { group * w + i };
        (0..w).map(|i| self.products[at(i)] / n).collect()
    }

    /// Mean products of all pairs of inputs of a group, `width²`; `None` if only their squares were kept.
    pub(crate) fn covariance(&self, group: usize) -> Option<Vec<f64>> {
        if !self.full || self.rows == 0 {
            return None;
        }
        let (n, w) = (self.rows as f64, self.width);
        let lower = &self.products[group * w * w..(group + 1) * w * w];
        Some((0..w * w).map(|k| lower[(k / w).max(k % w) * w + (k / w).min(k % w)] / n).collect())
    }
}

/// Position in a plane of tap `tap` at output place `place`; `None` in the padding.
pub(crate) fn position(axes: &[Axis], place: usize, tap: usize) -> Option<usize> {
    let (mut place, mut tap) = (place, tap);
    let (mut position, mut stride) = (0, 1);
    for axis in axes.iter().rev() {
        position += axis.tap(place % axis.output, tap % axis.kernel)? * stride;
        stride *= axis.input;
        place /= axis.output;
        tap /= axis.kernel;
    }
    Some(position)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use qing_graph::{Element, Type};

    use super::*;

    #[test]
    fn moments_of_a_grouped_convolution() {
        let mut graph = Graph::new("t");
        let x = graph.add_input("x", Type::new(Element::F32, [1usize, 2, 1, 3]));
        let w = graph.add_constant("w", Tensor::new(&[2, 1, 1, 2], vec![1.0f32; 4]).unwrap());
        let op = ops::Conv { group: 2, ..ops::Conv::default() };
        graph.add_node(Arc::new(op), "c", &[Some(x), Some(w)], 1).unwrap();
        let mut m = Moments::of(&graph, &graph.nodes[0], true, 1).unwrap();
        m.add(&Tensor::new(&[1, 2, 1, 3], vec![1.0f32, 2.0, 3.0, -1.0, 0.0, 1.0]).unwrap()).unwrap();
        m.finish();
        // Windows (1, 2), (2, 3) and (−1, 0), (0, 1).
        assert_eq!((m.mean(0), m.mean(1)), (vec![1.5, 2.5], vec![-0.5, 0.5]));
        assert_eq!(m.covariance(0).unwrap(), [2.5, 4.0, 4.0, 6.5]);
        assert_eq!(m.squares(1), [0.5, 0.5]);
    }
}
