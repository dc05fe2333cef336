//! Recurrent ops step by step in simpler ops, for their gradients: backpropagation through time.

use qing_tensor::Tensor;

use super::recurrent::Recurrent;
use crate::{
    Backward, Gradients, OpError, ValueId,
    ops::{
        Clip, Concat, Elu, Gemm, Greater, HardSigmoid, LeakyRelu, Relu, ReverseSequence, Sigmoid, Softplus, Softsign,
        Tanh, ThresholdedRelu,
    },
};

/// An activation and its parameters.
#[derive(Debug, Clone)]
enum Activation {
    Relu,
    Tanh,
    Sigmoid,
    Softsign,
    Softplus,
    Affine(f32, f32),
    LeakyRelu(f32),
    ThresholdedRelu(f32),
    ScaledTanh(f32, f32),
    HardSigmoid(f32, f32),
    Elu(f32),
}

/// Weights of one direction, and its activations.
#[derive(Debug)]
pub struct Cell {
    hidden: usize,
    /// `[gates·hidden, hidden]`.
    r: ValueId,
    /// `[gates·hidden]`.
    rb: Option<ValueId>,
    peepholes: Option<ValueId>,
    activations: Vec<Activation>,
    clip: Option<f64>,
}

impl Cell {
    /// Activation `i` of a value, with the clip before it.
    ///
    /// # Errors
    /// If `x` is not of floats.
    pub fn f(&self, cx: &Backward<'_>, i: usize, mut x: ValueId) -> Result<ValueId, OpError> {
        if let Some(clip) = self.clip {
            x = cx.emit(Clip {}, &[x, cx.scalar(x, -clip), cx.scalar(x, clip)])?;
        }
        match self.activations[i] {
            Activation::Relu => cx.emit(Relu {}, &[x]),
            Activation::Tanh => cx.emit(Tanh {}, &[x]),
            Activation::Sigmoid => cx.emit(Sigmoid {}, &[x]),
            Activation::Softsign => cx.emit(Softsign {}, &[x]),
            Activation::Softplus => cx.emit(Softplus {}, &[x]),
            Activation::Affine(a, b) => cx.offset(cx.scale(x, a.into())?, b.into()),
            Activation::LeakyRelu(alpha) => cx.emit(LeakyRelu { alpha }, &[x]),
            Activation::ThresholdedRelu(alpha) => cx.emit(ThresholdedRelu { alpha }, &[x]),
            Activation::ScaledTanh(a, b) => cx.scale(cx.emit(Tanh {}, &[cx.scale(x, b.into())?])?, a.into()),
            Activation::HardSigmoid(alpha, beta) => cx.emit(HardSigmoid { alpha, beta }, &[x]),
            Activation::Elu(alpha) => cx.emit(Elu { alpha }, &[x]),
        }
    }

    /// `h · rᵀ + rb` for all gates: `[batch, gates·hidden]`.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn from_state(&self, cx: &Backward<'_>, h: ValueId) -> Result<ValueId, OpError> {
        let inputs = [Some(h), Some(self.r), self.rb];
        let inputs = &inputs[..2 + usize::from(self.rb.is_some())];
        Ok(cx.emit_all(Gemm { transB: true, ..Gemm::default() }, inputs, 1)?[0])
    }

    /// The same for one gate alone.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn from_state_of(&self, cx: &Backward<'_>, gate: usize, h: ValueId) -> Result<ValueId, OpError> {
        let (from, to) = (gate * self.hidden, (gate + 1) * self.hidden);
        let rows = cx.slice(self.r, 0, from, to)?;
        let product = cx.emit(Gemm { transB: true, ..Gemm::default() }, &[h, rows])?;
        self.rb.map_or(Ok(product), |rb| cx.add(product, cx.slice(rb, 0, from, to)?))
    }

    /// A gate of what all have side by side.
    ///
    /// # Errors
    /// If there is no such gate.
    pub fn gate(&self, cx: &Backward<'_>, gate: usize, all: ValueId) -> Result<ValueId, OpError> {
        cx.slice(all, 1, gate * self.hidden, (gate + 1) * self.hidden)
    }

    /// `sum` and what a gate sees of the cell state.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn peep(&self, cx: &Backward<'_>, gate: usize, sum: ValueId, c: ValueId) -> Result<ValueId, OpError> {
        let Some(all) = self.peepholes else { return Ok(sum) };
        let weights = cx.slice(all, 0, gate * self.hidden, (gate + 1) * self.hidden)?;
        cx.add(sum, cx.mul(weights, c)?)
    }
}

impl Recurrent<'_> {
    /// The gradients by [`Backward::by_parts`]. `step` gives the next states from the weights, what the input gives to all gates
    /// (`[batch, gates·hidden]`), and the states.
    ///
    /// # Errors
    /// If shapes are not known, and those of `step`.
    pub fn gradient(
        &self,
        cx: &Backward<'_>,
        step: impl Fn(&Cell, ValueId, &[ValueId]) -> Result<Vec<ValueId>, OpError>,
    ) -> Gradients {
        cx.by_parts(|| self.unrolled(cx, &step))
    }

    fn unrolled(
        &self,
        cx: &Backward<'_>,
        step: &dyn Fn(&Cell, ValueId, &[ValueId]) -> Result<Vec<ValueId>, OpError>,
    ) -> Gradients {
        let batch_first = self.layout == 1;
        let mut x = cx.input(0)?;
        if batch_first {
            x = cx.transpose(x, &[1, 0, 2])?;
        }
        let [sequence, batch, width] = cx.shape(x)?[..] else {
            return Err(OpError::invalid("X of another rank than 3"));
        };
        let hidden = cx.shape(cx.input(2)?)?[2];
        let rows = hidden * self.gates;
        let directions = if self.direction == "bidirectional" { 2 } else { 1 };
        let of = |value: ValueId, d: usize, shape: &[usize]| cx.reshape(cx.slice(value, 0, d, d + 1)?, shape);
        let lengths = cx.optional(4);
        let (mut all, mut last) = (vec![], vec![vec![]; self.states]);
        for (d, activations) in self.named_activations(directions)?.into_iter().enumerate() {
            let bias = cx.optional(3).map(|b| of(b, d, &[2 * rows])).transpose()?;
            let part = |from: usize| bias.map(|b| cx.slice(b, 0, from, from + rows)).transpose();
            let peepholes = cx.optional(5 + self.states).map(|p| of(p, d, &[3 * hidden])).transpose()?;
            let cell = Cell {
                hidden,
                r: of(cx.input(2)?, d, &[rows, hidden])?,
                rb: part(rows)?,
                peepholes,
                activations,
                clip: self.clip.map(|c| f64::from(c).abs()),
            };
            // What the input gives does not wait for the state: one product for all steps.
            let w = of(cx.input(1)?, d, &[rows, width])?;
            let mut inputs = vec![Some(cx.reshape(x, &[sequence * batch, width])?), Some(w)];
            inputs.extend(part(0)?.map(Some));
            let wx = cx.emit_all(Gemm { transB: true, ..Gemm::default() }, &inputs, 1)?[0];
            let mut wx = cx.reshape(wx, &[sequence, batch, rows])?;
            let backwards = self.direction == "reverse" || d == 1;
            let turned = |value| {
                let whole = || cx.ints(&vec![sequence; batch]);
                let op = ReverseSequence { batch_axis: 1, time_axis: 0 };
                cx.emit(op, &[value, lengths.unwrap_or_else(whole)])
            };
            if backwards {
                wx = turned(wx)?;
            }
            let mut states = vec![];
            for s in 0..self.states {
                states.push(match cx.optional(5 + s) {
                    None => cx.expand(cx.scalar(x, 0.0), &[batch, hidden])?,
                    Some(initial) if batch_first => cx.reshape(cx.slice(initial, 1, d, d + 1)?, &[batch, hidden])?,
                    Some(initial) => of(initial, d, &[batch, hidden])?,
                });
            }
            let mut outputs = vec![];
            for t in 0..sequence {
                let next = step(&cell, of(wx, t, &[batch, rows])?, &states)?;
                let mut output = next[0];
                states = match lengths {
                    None => next,
                    Some(lengths) => {
                        // Sequences that have ended keep their state and give zeros.
                        let lengths = cx.reshape(lengths, &[batch, 1])?;
                        let now = cx.tensor(Tensor::scalar(t as i64).cast(cx.element(lengths)));
                        let runs = cx.emit(Greater {}, &[lengths, now])?;
                        output = cx.masked(runs, output)?;
                        let pairs = next.into_iter().zip(states);
                        pairs.map(|(new, old)| cx.choose(runs, new, old)).collect::<Result<_, _>>()?
                    }
                };
                outputs.push(cx.reshape(output, &[1, batch, hidden])?);
            }
            let mut outputs = cx.emit(Concat { axis: 0 }, &outputs)?;
            if backwards {
                outputs = turned(outputs)?;
            }
            all.push(cx.reshape(outputs, &[sequence, 1, batch, hidden])?);
            for (last, state) in last.iter_mut().zip(states) {
                last.push(cx.reshape(state, &[1, batch, hidden])?);
            }
        }
        let all = cx.emit(Concat { axis: 1 }, &all)?;
        let mut results = vec![Some(if batch_first { cx.transpose(all, &[2, 0, 1, 3])? } else { all })];
        for states in last {
            let states = cx.emit(Concat { axis: 0 }, &states)?;
            results.push(Some(if batch_first { cx.transpose(states, &[1, 0, 2])? } else { states }));
        }
        Ok(results)
    }

    /// The activations of every direction, with the parameters that they take in order.
    fn named_activations(&self, directions: usize) -> Result<Vec<Vec<Activation>>, OpError> {
        let each = self.default_activations.len();
        let names: Vec<&str> = if self.activations.is_empty() {
            (0..directions).flat_map(|_| self.default_activations.iter().copied()).collect()
        } else {
            self.activations.iter().map(String::as_str).collect()
        };
        let (mut alpha, mut beta) = (self.alpha.iter().copied(), self.beta.iter().copied());
        let mut all = vec![];
        for name in names {
            let mut a = |default: f32| alpha.next().unwrap_or(default);
            let mut b = |default: f32| beta.next().unwrap_or(default);
            all.push(match name.to_ascii_lowercase().as_str() {
                "relu" => Activation::Relu,
                "tanh" => Activation::Tanh,
                "sigmoid" => Activation::Sigmoid,
                "softsign" => Activation::Softsign,
                "softplus" => Activation::Softplus,
                "affine" => Activation::Affine(a(1.0), b(0.0)),
                "leakyrelu" => Activation::LeakyRelu(a(0.01)),
                "thresholdedrelu" => Activation::ThresholdedRelu(a(1.0)),
                "scaledtanh" => Activation::ScaledTanh(a(1.0), b(1.0)),
                "hardsigmoid" => Activation::HardSigmoid(a(0.2), b(0.5)),
                "elu" => Activation::Elu(a(1.0)),
                _ => return Err(OpError::unsupported(format!("activation {name:?}"))),
            });
        }
        if all.len() != directions * each {
            return Err(OpError::invalid(format!("{} activations for {directions} directions", all.len())));
        }
        Ok(all.chunks(each).map(<[Activation]>::to_vec).collect())
    }
}
