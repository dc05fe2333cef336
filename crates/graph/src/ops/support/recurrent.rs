//! The frame of recurrent ops: directions, layouts, sequence lengths and activations around a step of the cell.

use qing_tensor::Tensor;

use super::{math, sizes};
use crate::{Dim, Eval, Infer, OpError, Type};

/// What LSTM, GRU and RNN have in common.
#[derive(Debug, Clone, Copy)]
pub struct Recurrent<'a> {
    /// Scaling values of the activations that have one, in order.
    pub alpha: &'a [f32],
    /// Offsets of the activations that have one, in order.
    pub beta: &'a [f32],
    /// Names of the activations, of one direction or of both.
    pub activations: &'a [String],
    /// The names if none are given.
    pub default_activations: &'a [&'a str],
    /// Bound of what activations are applied to.
    pub clip: Option<f32>,
    /// `forward`, `reverse` or `bidirectional`.
    pub direction: &'a str,
    /// Size of the state.
    pub hidden_size: Option<i64>,
    /// 0: sequence first; 1: batch first.
    pub layout: i64,
    /// Gates of the cell: rows of `W` per state value.
    pub gates: usize,
    /// State vectors of the cell.
    pub states: usize,
}

/// A real function with the clip before it.
pub type Activation = Box<dyn Fn(f64) -> f64>;

/// Weights of one direction.
pub struct Direction {
    /// `[gates·hidden, input]`.
    pub w: Vec<f64>,
    /// `[gates·hidden, hidden]`.
    pub r: Vec<f64>,
    /// Bias beside `w`, `[gates·hidden]`.
    pub wb: Vec<f64>,
    /// Bias beside `r`, `[gates·hidden]`.
    pub rb: Vec<f64>,
    /// Peephole weights, zeros if there are none.
    pub peepholes: Vec<f64>,
    /// The activations.
    pub f: Vec<Activation>,
}

impl Direction {
    /// `w · x + wb`, all gates.
    pub fn from_input(&self, x: &[f64]) -> Vec<f64> {
        affine(&self.w, x, &self.wb)
    }

    /// `r · h + rb`, all gates.
    pub fn from_state(&self, h: &[f64]) -> Vec<f64> {
        affine(&self.r, h, &self.rb)
    }
}

/// `matrix · x + bias`.
pub fn affine(matrix: &[f64], x: &[f64], bias: &[f64]) -> Vec<f64> {
    if x.is_empty() {
        return bias.to_vec();
    }
    let dot = |row: &[f64]| row.iter().zip(x).map(|(m, x)| m * x).sum::<f64>();
    matrix.chunks_exact(x.len()).zip(bias).map(|(row, b)| dot(row) + b).collect()
}

/// The sizes of a run.
struct Sizes {
    sequence: usize,
    batch: usize,
    input: usize,
    hidden: usize,
}

impl Recurrent<'_> {
    fn directions(&self) -> Result<usize, OpError> {
        match self.direction {
            "forward" | "reverse" => Ok(1),
            "bidirectional" => Ok(2),
            other => Err(OpError::invalid(format!("direction {other:?}"))),
        }
    }

    fn batch_first(&self) -> Result<bool, OpError> {
        match self.layout {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(OpError::invalid(format!("layout {other}"))),
        }
    }

    fn activations(&self) -> Result<Vec<Vec<Activation>>, OpError> {
        let (directions, each) = (self.directions()?, self.default_activations.len());
        let names: Vec<&str> = if self.activations.is_empty() {
            (0..directions).flat_map(|_| self.default_activations.iter().copied()).collect()
        } else {
            self.activations.iter().map(String::as_str).collect()
        };
        if names.len() != directions * each {
            return Err(OpError::invalid(format!("{} activations for {directions} directions", names.len())));
        }
        let (mut alpha, mut beta) = (self.alpha.iter(), self.beta.iter());
        let clip = self.clip.map_or(f64::INFINITY, |c| f64::from(c).abs());
        let mut all = names.into_iter().map(|name| {
            let mut a = |default: f64| alpha.next().map_or(default, |v| f64::from(*v));
            let mut b = |default: f64| beta.next().map_or(default, |v| f64::from(*v));
            let f: Activation = match name.to_ascii_lowercase().as_str() {
                "relu" => Box::new(|x| x.max(0.0)),
                "tanh" => Box::new(f64::tanh),
                "sigmoid" => Box::new(math::sigmoid),
                "softsign" => Box::new(|x| x / (1.0 + x.abs())),
                "softplus" => Box::new(math::softplus),
                "affine" => {
                    let (a, b) = (a(1.0), b(0.0));
                    Box::new(move |x| a * x + b)
                }
                "leakyrelu" => {
                    let a = a(0.01);
                    Box::new(move |x| if x < 0.0 { a * x } else { x })
                }
                "thresholdedrelu" => {
                    let a = a(1.0);
                    Box::new(move |x| if x > a { x } else { 0.0 })
                }
                "scaledtanh" => {
                    let (a, b) = (a(1.0), b(1.0));
                    Box::new(move |x| a * (b * x).tanh())
                }
                "hardsigmoid" => {
                    let (a, b) = (a(0.2), b(0.5));
                    Box::new(move |x| (a * x + b).clamp(0.0, 1.0))
                }
                "elu" => {
                    let a = a(1.0);
                    Box::new(move |x| if x < 0.0 { a * x.exp_m1() } else { x })
                }
                _ => return Err(OpError::unsupported(format!("activation {name:?}"))),
            };
            Ok(Box::new(move |x: f64| f(x.max(-clip).min(clip))) as Activation)
        });
        (0..directions).map(|_| all.by_ref().take(each).collect()).collect()
    }

    /// Types of the outputs: all states, then the last of each kind.
    ///
    /// # Errors
    /// If ranks or sizes contradict each other.
    pub fn infer(&self, cx: &Infer<'_>) -> Result<Vec<Type>, OpError> {
        let element = cx.element(0)?;
        let (x, r) = (cx.shape(0)?, cx.shape(2)?);
        for (dims, name) in [(x, "X"), (cx.shape(1)?, "W"), (r, "R")] {
            if dims.is_some_and(|d| d.len() != 3) {
                return Err(OpError::invalid(format!("{name} of rank {}; expected 3", dims.map_or(0, <[_]>::len))));
            }
        }
        let hidden = match (self.hidden_size, r) {
            (Some(n), _) => Dim::Known(sizes::dimension(n)?),
            (None, Some(r)) => r[2].clone(),
            (None, None) => Dim::Unknown,
        };
        let (mut sequence, mut batch) = x.map_or((Dim::Unknown, Dim::Unknown), |x| (x[0].clone(), x[1].clone()));
        let directions = Dim::Known(self.directions()?);
        let (all, last) = if self.batch_first()? {
            std::mem::swap(&mut sequence, &mut batch);
            (vec![batch.clone(), sequence, directions.clone(), hidden.clone()], vec![batch, directions, hidden])
        } else {
            (vec![sequence, directions.clone(), batch.clone(), hidden.clone()], vec![directions, batch, hidden])
        };
        let mut types = vec![Type::maybe(element, Some(all))];
        types.resize(1 + self.states, Type::maybe(element, Some(last)));
        Ok(types)
    }

    /// Multiply–accumulates for known shapes.
    pub fn macs(&self, cx: &Infer<'_>) -> u64 {
        let shape = |i: usize| cx.optional(i).and_then(Type::known_shape).filter(|s| s.len() == 3);
        let (Some(x), Some(w), Some(r)) = (shape(0), shape(1), shape(2)) else { return 0 };
        (x[0] * x[1]) as u64 * (w.iter().product::<usize>() + r.iter().product::<usize>()) as u64
    }

    fn sizes(&self, x: &Tensor, w: &Tensor, r: &Tensor) -> Result<Sizes, OpError> {
        let (&[mut sequence, mut batch, input], &[_, _, hidden]) = (x.shape(), r.shape()) else {
            return Err(OpError::invalid(format!("X of shape {:?} and R of shape {:?}", x.shape(), r.shape())));
        };
        if self.batch_first()? {
            std::mem::swap(&mut sequence, &mut batch);
        }
        let (directions, rows) = (self.directions()?, hidden.saturating_mul(self.gates));
        let declared = self.hidden_size.is_none_or(|n| usize::try_from(n) == Ok(hidden));
        if w.shape() != [directions, rows, input] || r.shape() != [directions, rows, hidden] || !declared {
            let text = format!("W of shape {:?} and R of shape {:?}", w.shape(), r.shape());
            return Err(OpError::invalid(format!("{text} for X of shape {:?}, {directions} directions", x.shape())));
        }
        Ok(Sizes { sequence, batch, input, hidden })
    }

    /// Runs the cell over all sequences. Inputs: X, W, R, bias, sequence lengths, then an initial value of each state and,
    /// behind them, peephole weights. `step` replaces the states; the first is the output.
    ///
    /// # Errors
    /// If shapes contradict each other.
    pub fn eval(
        &self,
        cx: &Eval<'_>,
        step: impl Fn(&Direction, &[f64], &mut [Vec<f64>]),
    ) -> Result<Vec<Tensor>, OpError> {
        let (x, w, r) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
        if !x.element().is_float() {
            return Err(OpError::unsupported(format!("X of {}; expected floats", x.element())));
        }
        let Sizes { sequence, batch, input, hidden } = self.sizes(x, w, r)?;
        let (directions, batch_first, rows) = (self.directions()?, self.batch_first()?, hidden * self.gates);
        // Absent inputs are zeros.
        let optional = |i: usize, count: usize| match cx.optional(i) {
            None => Ok(vec![0.0; count]),
            Some(t) if t.len() == count => Ok(t.to_f64s()),
            Some(t) => Err(OpError::invalid(format!("input {i} of shape {:?}; expected {count} values", t.shape()))),
        };
        let bias = optional(3, directions * 2 * rows)?;
        let lengths = match cx.optional(4) {
            None => vec![sequence; batch],
            Some(t) => t.to_i64s().into_iter().map(sizes::dimension).collect::<Result<Vec<usize>, OpError>>()?,
        };
        if lengths.len() != batch || lengths.iter().any(|n| *n > sequence) {
            return Err(OpError::invalid(format!(
                "sequence lengths {lengths:?} of {batch} sequences up to {sequence}"
            )));
        }
        let initial =
            (0..self.states).map(|s| optional(5 + s, directions * batch * hidden)).collect::<Result<Vec<_>, _>>()?;
        let peepholes = optional(5 + self.states, directions * 3 * hidden)?;
        let (xs, ws, rs) = (x.to_f64s(), w.to_f64s(), r.to_f64s());
        let per_direction = |all: &[f64], d: usize| {
            let n = all.len() / directions;
            all[d * n..(d + 1) * n].to_vec()
        };
        // Positions of a state among the last states, and among all.
        let last_at = |d: usize, b: usize| (if batch_first { b * directions + d } else { d * batch + b }) * hidden;
        let all_at = |t: usize, d: usize, b: usize| {
            (if batch_first { (b * sequence + t) * directions + d } else { (t * directions + d) * batch + b }) * hidden
        };
        let mut all = vec![0.0; sizes::limited(&[sequence, directions, batch, hidden])?];
        let mut last = vec![vec![0.0; directions * batch * hidden]; self.states];
        for (d, f) in self.activations()?.into_iter().enumerate() {
            let both = per_direction(&bias, d);
            let direction = Direction {
                w: per_direction(&ws, d),
                r: per_direction(&rs, d),
                wb: both[..rows].to_vec(),
                rb: both[rows..].to_vec(),
                peepholes: per_direction(&peepholes, d),
                f,
            };
            let backwards = self.direction == "reverse" || d == 1;
            for (b, &length) in lengths.iter().enumerate() {
                let at = last_at(d, b);
                let mut states: Vec<Vec<f64>> = initial.iter().map(|s| s[at..at + hidden].to_vec()).collect();
                for i in 0..length {
                    let t = if backwards { length - 1 - i } else { i };
                    let from = (if batch_first { b * sequence + t } else { t * batch + b }) * input;
                    step(&direction, &xs[from..from + input], &mut states);
                    all[all_at(t, d, b)..][..hidden].copy_from_slice(&states[0]);
                }
                for (last, state) in last.iter_mut().zip(states) {
                    last[at..at + hidden].copy_from_slice(&state);
                }
            }
        }
        let (all_shape, last_shape) = if batch_first {
            ([batch, sequence, directions, hidden], [batch, directions, hidden])
        } else {
            ([sequence, directions, batch, hidden], [directions, batch, hidden])
        };
        let tensor =
            |shape: &[usize], values| Ok::<Tensor, OpError>(Tensor::new::<f64>(shape, values)?.cast(x.element()));
        let mut outputs = vec![tensor(&all_shape, all)?];
        for state in last {
            outputs.push(tensor(&last_shape, state)?);
        }
        Ok(outputs)
    }
}
