//! The cells of recurrent networks: what is left of a step once its products are computed.

use super::elementwise::functions::{sigmoid, tanh};
use super::simd::{Kernel, Simd, dispatch};
use crate::{Isa, KernelError, expect_len};

/// A cell, by how it makes the next state of each item from its gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// `h = tanh(x)`, where `x` holds the input's and the state's share.
    Plain,
    /// Gates i, o, f and c: `c = σ(f)·c + σ(i)·tanh(c̃)`, `h = σ(o)·tanh(c)`, where `x` holds both shares.
    Lstm,
    /// Gates z, r and h: `n = tanh(x_h + σ(r)·y_h)`, `h = (1 − σ(z))·n + σ(z)·h`, where `x` is the input's share and `y` the state's.
    Gru,
}

impl Cell {
    /// Values of gates for each value of the state.
    #[must_use]
    pub fn gates(self) -> usize {
        match self {
            Cell::Plain => 1,
            Cell::Lstm => 4,
            Cell::Gru => 3,
        }
    }

    /// Goes one step on: `x` and, for [`Cell::Gru`], `y` are `[batch, gates · hidden]`; `h` and, for [`Cell::Lstm`], `c` are
    /// `[batch, hidden]`. Allocates nothing.
    ///
    /// # Errors
    /// [`KernelError`] when lengths do not agree.
    pub fn step(
        self,
        isa: Isa,
        hidden: usize,
        [x, y]: [&[f32]; 2],
        c: &mut [f32],
        h: &mut [f32],
    ) -> Result<(), KernelError> {
        if hidden == 0 || !h.len().is_multiple_of(hidden) {
            return Err(KernelError::Geometry(format!("{} values are not states of {hidden}", h.len())));
        }
        expect_len("gates", x.len(), h.len() * self.gates())?;
        expect_len("gates of the state", y.len(), if self == Cell::Gru { x.len() } else { 0 })?;
        expect_len("cell", c.len(), if self == Cell::Lstm { h.len() } else { 0 })?;
        dispatch(isa, Step { cell: self, hidden, x, y, c, h });
        Ok(())
    }
}

struct Step<'a> {
    cell: Cell,
    hidden: usize,
    x: &'a [f32],
    y: &'a [f32],
    c: &'a mut [f32],
    h: &'a mut [f32],
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Step { cell, hidden, x, y, c, h } = self;
        for (item, h) in h.chunks_exact_mut(hidden).enumerate() {
            let width = cell.gates() * hidden;
            let x = &x[item * width..(item + 1) * width];
            for (i, h) in h.chunks_mut(S::LANES).enumerate() {
                let at = i * S::LANES;
                let len = h.len();
                let next = match cell {
                    Cell::Plain => tanh(s, s.load_tail(&x[at..at + len])),
                    Cell::Lstm => {
                        let [input, output, forget, new] =
                            [0, 1, 2, 3].map(|gate| gate * hidden + at).map(|at| &x[at..at + len]);
                        let c = &mut c[item * hidden + at..][..len];
                        let kept = s.mul(sigmoid(s, s.load_tail(forget)), s.load_tail(c));
                        let state = s.fma(sigmoid(s, s.load_tail(input)), tanh(s, s.load_tail(new)), kept);
                        s.store_tail(c, state);
                        s.mul(sigmoid(s, s.load_tail(output)), tanh(s, state))
                    }
                    Cell::Gru => {
                        let y = &y[item * width..(item + 1) * width];
                        let [update, reset, new] = [0, 1, 2].map(|gate| gate * hidden + at);
                        let both = s.add(s.load_tail(&x[update..update + len]), s.load_tail(&y[update..update + len]));
                        let z = sigmoid(s, both);
                        let both = s.add(s.load_tail(&x[reset..reset + len]), s.load_tail(&y[reset..reset + len]));
                        let r = sigmoid(s, both);
                        let n = s.fma(r, s.load_tail(&y[new..new + len]), s.load_tail(&x[new..new + len]));
                        let n = tanh(s, n);
                        s.fma(z, s.sub(s.load_tail(h), n), n)
                    }
                };
                s.store_tail(h, next);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::testing::noise;

    fn sig(x: f32) -> f64 {
        1.0 / (1.0 + (-f64::from(x)).exp())
    }

    #[test]
    fn every_set_agrees_with_the_definitions() {
        for isa in Isa::available() {
            for (batch, hidden) in [(1, 1), (2, 16), (3, 37)] {
                let n = batch * hidden;
                for cell in [Cell::Plain, Cell::Lstm, Cell::Gru] {
                    let x: Vec<f32> = noise(1, n * cell.gates()).iter().map(|v| v * 3.0).collect();
                    let y = noise(2, if cell == Cell::Gru { x.len() } else { 0 });
                    let (mut c, mut h) = (noise(3, if cell == Cell::Lstm { n } else { 0 }), noise(4, n));
                    let (c0, h0) = (c.clone(), h.clone());
                    cell.step(isa, hidden, [&x, &y], &mut c, &mut h).unwrap();
                    for i in 0..n {
                        let gate = |v: &[f32], g: usize| v[(i / hidden * cell.gates() + g) * hidden + i % hidden];
                        let want = match cell {
                            Cell::Plain => f64::from(x[i]).tanh(),
                            Cell::Lstm => {
                                let state = sig(gate(&x, 2)) * f64::from(c0[i])
                                    + sig(gate(&x, 0)) * f64::from(gate(&x, 3)).tanh();
                                assert!((f64::from(c[i]) - state).abs() < 2e-6);
                                sig(gate(&x, 1)) * state.tanh()
                            }
                            Cell::Gru => {
                                let (z, r) = (sig(gate(&x, 0) + gate(&y, 0)), sig(gate(&x, 1) + gate(&y, 1)));
                                let new = (f64::from(gate(&x, 2)) + r * f64::from(gate(&y, 2))).tanh();
                                (1.0 - z) * new + z * f64::from(h0[i])
                            }
                        };
                        assert!((f64::from(h[i]) - want).abs() < 2e-6, "{} {cell:?}", isa.name());
                    }
                }
            }
        }
        assert!(Cell::Plain.step(Isa::Scalar, 2, [&[0.0; 3], &[]], &mut [], &mut [0.0; 3]).is_err());
        assert!(Cell::Lstm.step(Isa::Scalar, 1, [&[0.0; 4], &[]], &mut [], &mut [0.0]).is_err());
        assert!(Cell::Gru.step(Isa::Scalar, 1, [&[0.0; 3], &[0.0; 2]], &mut [], &mut [0.0]).is_err());
    }
}
