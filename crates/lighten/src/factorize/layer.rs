//! One layer and the chains of smaller layers it may become.
//!
//! - **SVD**: `W ≈ U · (Uᵀ W)`, `U` the leading directions of what the layer gives on calibration data, the eigenvectors of `W C Wᵀ` with
//!   `C` the second moments of its inputs: the best of its rank for these inputs (Zhang et al., "Accelerating very deep convolutional networks
//!   for classification and detection", arXiv:1505.06798; whitened SVD: Wang et al., SVD-LLM, arXiv:2403.07378). With `C` the identity it
//!   is the plain truncated SVD. A convolution keeps its taps in the first layer, the second is 1×1.
//! - **Tucker-2** (Kim et al., arXiv:1511.06530): 1×1 to fewer channels, the taps between few channels, 1×1 to all: the same for the
//!   inputs, whose channels are whitened by their own moments, then for the outputs.
//! - **CP** of channels × channels × taps (Lebedev et al., arXiv:1412.6553, the taps in one): 1×1, depthwise, 1×1, by alternating least
//!   squares.
//! - **Separable**: one to three filters for every input channel, then 1×1 ("network decoupling", Guo et al., arXiv:1808.05517): the filters
//!   begin as each channel's singular vectors and are fitted to the layer's inputs in turns with the 1×1 weights.

use super::{
    dense::{Matrix, Weight, error, solve_right},
    eigen::{Eigen, eigen},
};

/// Weights of a layer: `out` rows of `channels × taps` columns, taps fastest.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Kernel {
    /// The weights.
    pub weights: Matrix,
    /// Input channels.
    pub channels: usize,
    /// Taps of each.
    pub taps: usize,
}

/// What a layer may become.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Chain {
    /// The taps to `rank` channels, then 1×1.
    Svd { first: Matrix, second: Matrix },
    /// 1×1 to fewer channels, the taps (`core`, `columns` = channels × taps), 1×1.
    Tucker { first: Matrix, core: Matrix, last: Matrix },
    /// 1×1, one filter (`depthwise`, rows of taps) for each channel, 1×1.
    Cp { first: Matrix, depthwise: Matrix, last: Matrix },
    /// Filters (`depthwise`, rows of taps) for each input channel, one for all channels, then the next for all; then 1×1.
    Separable { terms: usize, depthwise: Matrix, last: Matrix },
}

impl Chain {
    /// Numbers it holds, without biases.
    pub(super) fn parameters(&self) -> usize {
        let of = |m: &Matrix| m.values.len();
        match self {
            Chain::Svd { first, second } => of(first) + of(second),
            Chain::Tucker { first, core, last } => of(first) + of(core) + of(last),
            Chain::Cp { first, depthwise, last } => of(first) + of(depthwise) + of(last),
            Chain::Separable { depthwise, last, .. } => of(depthwise) + of(last),
        }
    }

    /// Its name with its ranks.
    pub(super) fn label(&self) -> String {
        match self {
            Chain::Svd { first, .. } => format!("svd {}", first.rows),
            Chain::Tucker { first, core, .. } => format!("tucker {}×{}", first.rows, core.rows),
            Chain::Cp { first, .. } => format!("cp {}", first.rows),
            Chain::Separable { terms, .. } => format!("separable ×{terms}"),
        }
    }

    /// The weights of one layer that computes the same.
    pub(super) fn product(&self, kernel: &Kernel) -> Matrix {
        match self {
            Chain::Svd { first, second } => second.times(first),
            Chain::Tucker { first, core, last } => {
                let inner = last.times(core);
                // Columns: few channels × taps become all channels × taps.
                let (few, taps) = (first.rows, kernel.taps);
                let mut out = Matrix::zeros(inner.rows, kernel.channels * taps);
                for o in 0..inner.rows {
                    for r in 0..few {
                        for (c, f) in first.row(r).iter().enumerate() {
                            for t in 0..taps {
                                out.values[o * kernel.channels * taps + c * taps + t] += inner.row(o)[r * taps + t] * f;
                            }
                        }
                    }
                }
                out
            }
            Chain::Cp { first, depthwise, last } => last.times(&khatri_rao(first, depthwise)),
            Chain::Separable { depthwise, last, .. } => last.times(&apart(depthwise, kernel.channels)),
        }
    }
}

/// Rows `r`: all products of a value of row `r` of `a` with one of `b`, the latter fastest.
fn khatri_rao(a: &Matrix, b: &Matrix) -> Matrix {
    let row = |r: usize| a.row(r).iter().flat_map(move |x| b.row(r).iter().map(move |y| x * y));
    Matrix::new(a.rows, a.columns * b.columns, (0..a.rows).flat_map(row).collect())
}

/// Filters of single channels, some for each, as rows that see all channels.
fn apart(filters: &Matrix, channels: usize) -> Matrix {
    let taps = filters.columns;
    let mut out = Matrix::zeros(filters.rows, channels * taps);
    for r in 0..filters.rows {
        out.values[r * channels * taps + r % channels * taps..][..taps].copy_from_slice(filters.row(r));
    }
    out
}

/// A layer with all that factorizations of any rank share.
pub(super) struct Factors<'a> {
    kernel: &'a Kernel,
    moments: &'a Weight,
    outputs: Eigen,
    /// Directions of the input channels, in their whitened form, and the whitening itself and its inverse.
    inputs: Option<(Eigen, Matrix, Matrix)>,
}

impl<'a> Factors<'a> {
    /// Takes a layer apart; `None` if its weights or moments are not finite. The moments are those of its inputs, in the order of its
    /// columns.
    pub(super) fn new(kernel: &'a Kernel, moments: &'a Weight) -> Option<Factors<'a>> {
        let out = kernel.weights.rows;
        let outputs = eigen(&symmetrized(kernel.weights.around(moments)), out)?;
        let inputs = match kernel.taps > 1 && kernel.channels > 1 {
            true => Some(input_directions(kernel, moments)?),
            false => None,
        };
        Some(Factors { kernel, moments, outputs, inputs })
    }

    /// The power of the layer's output.
    pub(super) fn power(&self) -> f64 {
        self.outputs.values.iter().map(|v| v.max(0.0)).sum()
    }

    /// The power of what a chain loses.
    pub(super) fn lost(&self, chain: &Chain) -> f64 {
        error(&self.kernel.weights, &chain.product(self.kernel), self.moments).max(0.0)
    }

    /// Factors of rank `rank`.
    pub(super) fn svd(&self, rank: usize) -> Chain {
        let u = leading(&self.outputs, rank);
        Chain::Svd { first: u.times(&self.kernel.weights), second: u.transposed() }
    }

    /// From `inputs` channels to `outputs`; `None` for layers without taps.
    pub(super) fn tucker(&self, inputs: usize, outputs: usize) -> Option<Chain> {
        let (directions, whitening, coloring) = self.inputs.as_ref()?;
        let q = leading(directions, inputs);
        // x ≈ C^½ Qᵀ (Q C^−½ x).
        let first = q.times(whitening);
        let back = coloring.times(&q.transposed());
        let (taps, channels) = (self.kernel.taps, self.kernel.channels);
        let u = leading(&self.outputs, outputs);
        let full = u.times(&self.kernel.weights);
        let mut core = Matrix::zeros(outputs, inputs * taps);
        for o in 0..outputs {
            for c in 0..channels {
                for (r, f) in back.row(c).iter().enumerate() {
                    for t in 0..taps {
                        core.values[o * inputs * taps + r * taps + t] += full.row(o)[c * taps + t] * f;
                    }
                }
            }
        }
        Some(Chain::Tucker { first, core, last: u.transposed() })
    }

    /// `rank` terms; `None` for layers without taps.
    pub(super) fn cp(&self, rank: usize) -> Option<Chain> {
        const ROUNDS: usize = 40;
        let (directions, ..) = self.inputs.as_ref()?;
        let (out, channels, taps) = (self.kernel.weights.rows, self.kernel.channels, self.kernel.taps);
        // Unfoldings: rows of outputs, of channels, of taps.
        let by_output = &self.kernel.weights;
        let by_channel = unfolded(by_output, out, channels, taps, |o, c, t| (c, o * taps + t));
        let by_tap = unfolded(by_output, out, channels, taps, |o, c, t| (t, o * channels + c));
        // Rows are terms. Channels begin with their own directions, taps with waves.
        let wave = |r: usize, t: usize| ((r + 1) as f64 * (t as f64 + 0.5)).cos() + 0.1;
        let mut b =
            Matrix::new(rank, channels, (0..rank).flat_map(|r| directions.vector(r % channels).to_vec()).collect());
        let mut c = Matrix::new(rank, taps, (0..rank * taps).map(|i| wave(i / taps, i % taps)).collect());
        let mut a = Matrix::zeros(rank, out);
        for _ in 0..ROUNDS {
            a = fitted(by_output, &b, &c);
            b = fitted(&by_channel, &a, &c);
            c = fitted(&by_tap, &a, &b);
            // Unit rows but for the outputs' keep the sizes of the three together.
            for m in [&mut b, &mut c] {
                for row in m.values.chunks_exact_mut(m.columns) {
                    let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
                    row.iter_mut().for_each(|v| *v /= norm);
                }
            }
        }
        // The last layer is free: the best for the inputs there are.
        let last = self.last(&khatri_rao(&b, &c));
        debug_assert_eq!(a.rows, rank);
        Some(Chain::Cp { first: b, depthwise: c, last })
    }

    /// `terms` filters for each input channel; `None` for layers without taps, or with fewer.
    pub(super) fn separable(&self, terms: usize) -> Option<Chain> {
        const ROUNDS: usize = 4;
        /// Unknowns of filters that are solved for at once; where there are more, singular vectors stay.
        const LARGEST: usize = 1_800;
        let (channels, taps, weights) = (self.kernel.channels, self.kernel.taps, &self.kernel.weights);
        if channels == 1 || taps <= terms {
            return None;
        }
        let mut depthwise = Matrix::zeros(terms * channels, taps);
        for c in 0..channels {
            let slice: Vec<f64> =
                (0..weights.rows).flat_map(|o| weights.row(o)[c * taps..(c + 1) * taps].to_vec()).collect();
            let slice = Matrix::new(weights.rows, taps, slice);
            let parts = eigen(&symmetrized(slice.transposed().times(&slice)), taps)?;
            for t in 0..terms {
                depthwise.values[(t * channels + c) * taps..][..taps].copy_from_slice(parts.vector(t));
            }
        }
        let mut last = self.last(&apart(&depthwise, channels));
        if let (Weight::Full(moments), true) = (self.moments, terms * channels * taps <= LARGEST) {
            for _ in 0..ROUNDS {
                depthwise = filters_for(weights, &last, moments, taps);
                last = self.last(&apart(&depthwise, channels));
            }
        }
        Some(Chain::Separable { terms, depthwise, last })
    }

    /// The weights on top of `basis` (rows of channels × taps) that lose least on the layer's inputs.
    fn last(&self, basis: &Matrix) -> Matrix {
        let seen = basis.weighed(self.moments);
        let cross = self.kernel.weights.times(&seen.transposed());
        solve_right(&cross, &seen.times(&basis.transposed()))
    }
}

/// The filters of single channels that lose least below the 1×1 weights `last` on inputs of these moments.
fn filters_for(weights: &Matrix, last: &Matrix, moments: &Matrix, taps: usize) -> Matrix {
    let (seen, filters) = (moments.rows, last.columns);
    // Tap k of filter r adds column r of `last` times the input of that tap.
    let columns = last.transposed();
    let pairs = columns.times(last);
    let wanted = columns.times(&weights.times(moments));
    let input = |i: usize| i % seen;
    let n = filters * taps;
    let mut gram = Matrix::zeros(n, n);
    for i in 0..n {
        let (pairs, moments) = (pairs.row(i / taps), moments.row(input(i)));
        for (j, g) in gram.values[i * n..(i + 1) * n].iter_mut().enumerate() {
            *g = pairs[j / taps] * moments[input(j)];
        }
    }
    let wanted = (0..n).map(|i| wanted.row(i / taps)[input(i)]).collect();
    Matrix::new(filters, taps, solve_right(&Matrix::new(1, n, wanted), &gram).values)
}

/// The least-squares factor, terms as rows, of an unfolding by the Khatri–Rao product of the others.
fn fitted(unfolding: &Matrix, slow: &Matrix, fast: &Matrix) -> Matrix {
    let basis = khatri_rao(slow, fast);
    let gram = |m: &Matrix| m.times(&m.transposed());
    let (g, h) = (gram(slow), gram(fast));
    let both = Matrix::new(g.rows, g.columns, g.values.iter().zip(&h.values).map(|(a, b)| a * b).collect());
    solve_right(&unfolding.times(&basis.transposed()), &both).transposed()
}

fn unfolded(
    w: &Matrix,
    out: usize,
    channels: usize,
    taps: usize,
    place: impl Fn(usize, usize, usize) -> (usize, usize),
) -> Matrix {
    let rows = place(out - 1, channels - 1, taps - 1).0 + 1;
    let mut m = Matrix::zeros(rows, out * channels * taps / rows);
    for o in 0..out {
        for c in 0..channels {
            for t in 0..taps {
                let (row, column) = place(o, c, t);
                m.values[row * m.columns + column] = w.row(o)[c * taps + t];
            }
        }
    }
    m
}

/// Directions of the whitened input channels, by what the layer makes of them, with the whitening and its inverse.
fn input_directions(kernel: &Kernel, moments: &Weight) -> Option<(Eigen, Matrix, Matrix)> {
    let (channels, taps) = (kernel.channels, kernel.taps);
    let mut c = Matrix::zeros(channels, channels);
    for i in 0..channels {
        for j in 0..channels {
            c.values[i * channels + j] = (0..taps)
                .map(|t| match moments {
                    Weight::Full(m) => m.row(i * taps + t)[j * taps + t],
                    Weight::Diagonal(d) => {
                        if i == j {
                            d[i * taps + t]
                        } else {
                            0.0
                        }
                    }
                })
                .sum::<f64>()
                / taps as f64;
        }
    }
    let parts = eigen(&symmetrized(c), channels)?;
    const FLOOR: f64 = 1e-7;
    let square = |values| Matrix::new(channels, channels, values);
    let (whitening, coloring) = (square(parts.power(-0.5, FLOOR)), square(parts.power(0.5, FLOOR)));
    let by_channel = unfolded(&kernel.weights, kernel.weights.rows, channels, taps, |o, c, t| (c, o * taps + t));
    let seen = coloring.times(&by_channel);
    let gram = seen.times(&seen.transposed());
    Some((eigen(&symmetrized(gram), channels)?, whitening, coloring))
}

/// Without what rounding made unequal.
fn symmetrized(mut m: Matrix) -> Vec<f64> {
    for i in 0..m.rows {
        for j in 0..i {
            let mean = 0.5 * (m.values[i * m.columns + j] + m.values[j * m.columns + i]);
            m.values[i * m.columns + j] = mean;
            m.values[j * m.columns + i] = mean;
        }
    }
    m.values
}

/// The first `rank` eigenvectors as rows.
fn leading(parts: &Eigen, rank: usize) -> Matrix {
    let n = parts.values.len();
    Matrix::new(rank, n, (0..rank).flat_map(|k| parts.vector(k).to_vec()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(out: usize, channels: usize, taps: usize) -> Kernel {
        let noise = |i: usize| ((i * 7919 + 13) % 1009) as f64 / 1009.0 - 0.5;
        let n = channels * taps;
        Kernel { weights: Matrix::new(out, n, (0..out * n).map(|i| noise(i * i + 3 * i)).collect()), channels, taps }
    }

    /// Moments of inputs that go together.
    fn moments(n: usize) -> Weight {
        let noise = |i: usize| ((i * 104_729 + 71) % 997) as f64 / 997.0 - 0.5;
        let x = Matrix::new(3 * n, n, (0..3 * n * n).map(|i| noise(i) + 1.5 * noise(i / n * 31)).collect());
        let mut c = x.transposed().times(&x);
        c.values.iter_mut().for_each(|v| *v /= 3.0 * n as f64);
        Weight::Full(c)
    }

    #[test]
    fn full_rank_loses_nothing() {
        let k = kernel(8, 6, 9);
        for m in [moments(54), Weight::Diagonal(vec![1.0; 54])] {
            let f = Factors::new(&k, &m).unwrap();
            assert!(f.lost(&f.svd(8)) < 1e-9 * f.power());
            assert!(
                f.lost(&f.tucker(6, 8).unwrap()) < 1e-6 * f.power(),
                "{}",
                f.lost(&f.tucker(6, 8).unwrap()) / f.power()
            );
        }
    }

    #[test]
    fn more_rank_loses_less_and_the_eigenvalues_say_how_much() {
        let (k, m) = (kernel(8, 6, 9), moments(54));
        let f = Factors::new(&k, &m).unwrap();
        let mut last = f64::INFINITY;
        for rank in 1..8 {
            let lost = f.lost(&f.svd(rank));
            let want: f64 = f.outputs.values[rank..].iter().sum();
            assert!((lost - want).abs() < 1e-9 * f.power(), "{rank}: {lost} {want}");
            assert!(lost < last);
            last = lost;
        }
        let lost = |r| f.lost(&f.tucker(r, 6).unwrap());
        assert!(lost(2) > lost(4) && lost(4) > lost(6));
    }

    #[test]
    fn knowing_the_inputs_helps() {
        let (k, m) = (kernel(16, 24, 1), moments(24));
        let plain = Weight::Diagonal(vec![1.0; 24]);
        let (aware, blind) = (Factors::new(&k, &m).unwrap(), Factors::new(&k, &plain).unwrap());
        assert!(aware.lost(&aware.svd(4)) < 0.8 * aware.lost(&blind.svd(4)));
    }

    #[test]
    fn a_layer_of_few_terms_is_found_again() {
        let (out, channels, taps, rank) = (10, 7, 9, 3);
        let part = |rows: usize, columns: usize, seed: usize| {
            Matrix::new(
                rows,
                columns,
                (0..rows * columns).map(|i| (((i + seed) * (i + seed) * 7919) % 1009) as f64 / 504.5 - 1.0).collect(),
            )
        };
        let basis = khatri_rao(&part(rank, channels, 5), &part(rank, taps, 11));
        let weights = part(rank, out, 23).transposed().times(&basis);
        let k = Kernel { weights, channels, taps };
        let m = moments(channels * taps);
        let f = Factors::new(&k, &m).unwrap();
        let found = f.cp(rank).unwrap();
        assert!(f.lost(&found) < 1e-4 * f.power(), "{}", f.lost(&found) / f.power());
        assert_eq!(found.parameters(), rank * (out + channels + taps));
    }

    #[test]
    fn separable_layers_are_found_again_and_inputs_help_where_there_is_none() {
        let (out, channels, taps) = (12, 5, 9);
        let noise = |rows: usize, columns: usize, seed: usize| {
            let value = |i: usize| (((i + seed) * (i + seed) * 7919) % 1009) as f64 / 504.5 - 1.0;
            Matrix::new(rows, columns, (0..rows * columns).map(value).collect())
        };
        for terms in [1, 2] {
            let filters = noise(terms * channels, taps, 3);
            let weights = noise(out, terms * channels, 17).times(&apart(&filters, channels));
            let m = moments(channels * taps);
            let k = Kernel { weights, channels, taps };
            let f = Factors::new(&k, &m).unwrap();
            let found = f.separable(terms).unwrap();
            assert!(f.lost(&found) < 1e-6 * f.power(), "{}", f.lost(&found) / f.power());
            assert_eq!(found.parameters(), terms * channels * (taps + out));
        }

        let (k, m) = (kernel(8, 6, 9), moments(54));
        let f = Factors::new(&k, &m).unwrap();
        // Singular vectors alone, with the 1×1 weights that are best above them.
        let blind = Factors::new(&k, &Weight::Diagonal(vec![1.0; 54])).unwrap().separable(1).unwrap();
        let Chain::Separable { depthwise, .. } = blind else { unreachable!() };
        let last = f.last(&apart(&depthwise, 6));
        let plain = f.lost(&Chain::Separable { terms: 1, depthwise, last });
        let lost = |terms| f.lost(&f.separable(terms).unwrap());
        assert!(lost(1) < 0.95 * plain, "{} {plain}", lost(1));
        assert!(lost(2) < 0.7 * lost(1) && lost(3) < 0.7 * lost(2), "{} {} {}", lost(1), lost(2), lost(3));
        assert!(Factors::new(&kernel(16, 24, 1), &moments(24)).unwrap().separable(1).is_none());
    }
}
