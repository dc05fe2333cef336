//! LSTM, GRU and RNN: the input's share of all steps is one product, and each step a product with the state and a cell.

use qing_graph::{Node, Tensor};
use qing_kernels::{
    Isa, Pool,
    float::{Clamp, matmul::MatMul, recurrent::Cell},
};

use super::{Lower, StepSpec, attr, elementwise::is_f32};
use crate::{
    EngineError,
    plan::layout::Layout,
    step::{Step, StepError, StepIo},
};

/// The products of one direction.
struct Direction {
    input: MatMul,
    state: MatMul,
    backwards: bool,
}

/// Input 0 is the sequence; then initial states, where there are any.
struct Recurrent {
    isa: Isa,
    cell: Cell,
    directions: Vec<Direction>,
    sequence: usize,
    batch: usize,
    hidden: usize,
    /// Which inputs hold the initial `h` and `c`; zeros if none.
    initial: [Option<usize>; 2],
    /// For each output: 0 all states, 1 the last ones, 2 the last cells.
    outputs: Vec<usize>,
}

/// The parts of the scratch, in floats.
struct Parts {
    /// The input's share of all steps of one direction.
    shares: usize,
    /// The gates of a step.
    gates: usize,
    /// `[sequence, directions, batch, hidden]`
    all: usize,
    /// `[directions, batch, hidden]`, once for `h` and once for `c`.
    last: usize,
}

impl Recurrent {
    fn parts(&self) -> Parts {
        let states = self.batch * self.hidden;
        let gates = states * self.cell.gates();
        let all = self.directions.len() * states;
        Parts { shares: self.sequence * gates, gates, all: self.sequence * all, last: all }
    }

    fn scratch_len(&self) -> usize {
        let Parts { shares, gates, all, last } = self.parts();
        shares + gates + all + 2 * last
    }
}

impl Step for Recurrent {
    fn run(&self, io: &mut StepIo<'_>, pool: &Pool) -> Result<(), StepError> {
        let Parts { shares, gates, all, last } = self.parts();
        let states = self.batch * self.hidden;
        let width = states * self.cell.gates();
        let (inputs, _, scratch) = io.split();
        let scratch = bytemuck::cast_slice_mut::<u8, f32>(scratch);
        let (share, rest) = scratch.split_at_mut(shares);
        let (gate, rest) = rest.split_at_mut(gates);
        let (every, rest) = rest.split_at_mut(all);
        let (ends, cells) = rest.split_at_mut(last);
        for (to, from) in [&mut *ends, &mut *cells].into_iter().zip(self.initial) {
            match from {
                Some(input) => to[..last].copy_from_slice(inputs.values(input)),
                None => to[..last].fill(0.0),
            }
        }
        for (d, direction) in self.directions.iter().enumerate() {
            direction.input.run(inputs.values(0), None, share, pool)?;
            let h = &mut ends[d * states..(d + 1) * states];
            let c: &mut [f32] =
                if self.cell == Cell::Lstm { &mut cells[d * states..(d + 1) * states] } else { &mut [] };
            for step in 0..self.sequence {
                let t = if direction.backwards { self.sequence - 1 - step } else { step };
                let x = &share[t * width..(t + 1) * width];
                if self.cell == Cell::Gru {
                    direction.state.run(h, None, gate, pool)?;
                    self.cell.step(self.isa, self.hidden, [x, gate], c, h)?;
                } else {
                    direction.state.run(h, Some(x), gate, pool)?;
                    self.cell.step(self.isa, self.hidden, [gate, &[]], c, h)?;
                }
                every[(t * self.directions.len() + d) * states..][..states].copy_from_slice(h);
            }
        }
        for (i, which) in self.outputs.iter().enumerate() {
            let (_, y, scratch) = io.split_output(i);
            let scratch = bytemuck::cast_slice::<u8, f32>(scratch);
            let (at, len) =
                [(shares + gates, all), (shares + gates + all, last), (shares + gates + all + last, last)][*which];
            bytemuck::cast_slice_mut::<u8, f32>(y).copy_from_slice(&scratch[at..at + len]);
        }
        Ok(())
    }
}

/// `LSTM`, `GRU` and `RNN` of floats, with constant weights and the usual activations.
pub(super) fn lower(cx: &mut Lower<'_>, node: &Node) -> Result<bool, EngineError> {
    let (cell, names): (Cell, &[&str]) = match node.op.name() {
        "LSTM" => (Cell::Lstm, &["sigmoid", "tanh", "tanh"]),
        "GRU" if attr(node, "linear_before_reset", false) => (Cell::Gru, &["sigmoid", "tanh"]),
        "RNN" => (Cell::Plain, &["tanh"]),
        _ => return Ok(false),
    };
    let activations: Vec<String> = attr(node, "activations", vec![]);
    let usual = activations.iter().zip(names.iter().cycle()).all(|(a, b)| a.eq_ignore_ascii_case(b));
    let clip: Option<f32> = attr(node, "clip", None);
    let plain = usual && clip.is_none() && attr(node, "layout", 0i64) == 0 && !attr(node, "input_forget", false);
    let backwards: &[bool] = match attr(node, "direction", "forward".to_string()).as_str() {
        "forward" => &[false],
        "reverse" => &[true],
        "bidirectional" => &[false, true],
        _ => return Ok(false),
    };
    let Some(x) = node.input(0) else { return Ok(false) };
    let constant = |i: usize| node.input(i).and_then(|id| cx.graph.constant(id)).map(Tensor::to_f32s);
    let (Some(w), Some(r)) = (constant(1), constant(2)) else { return Ok(false) };
    let sizes = |id| <[usize; 3]>::try_from(cx.shape(id)).ok();
    let (Some([sequence, batch, input]), Some([_, _, hidden])) = (sizes(x), node.input(2).and_then(sizes)) else {
        return Ok(false);
    };
    let bias = constant(3);
    let floats = [x].iter().chain(&node.outputs).all(|id| is_f32(cx, *id));
    let known = node.input(3).is_none() == bias.is_none() && node.input(4).is_none() && node.input(7).is_none();
    let gates = cell.gates() * hidden;
    let count = backwards.len();
    let sizes = w.len() == count * gates * input
        && r.len() == count * gates * hidden
        && bias.as_ref().is_none_or(|b| b.len() == 2 * count * gates);
    if !plain || !floats || !known || !sizes {
        return Ok(false);
    }
    let mut inputs = vec![];
    let mut initial = [None; 2];
    for (slot, i) in initial.iter_mut().zip([5, 6]) {
        let Some(id) = node.input(i) else { continue };
        if !is_f32(cx, id) || cx.shape(id) != [count, batch, hidden] {
            return Ok(false);
        }
        *slot = Some(inputs.len() + 1);
        inputs.push(id);
    }
    let mut directions = vec![];
    for (d, backwards) in backwards.iter().enumerate() {
        let both = bias.as_ref().map(|b| b[2 * d * gates..2 * (d + 1) * gates].split_at(gates));
        // A GRU resets the state's share with its bias; elsewhere both biases are one.
        let (of_input, of_state) = match both {
            None => (None, None),
            Some((a, b)) if cell == Cell::Gru => (Some(a.to_vec()), Some(b.to_vec())),
            Some((a, b)) => (Some(a.iter().zip(b).map(|(a, b)| a + b).collect()), None),
        };
        let pack = |depth: usize, weights: &[f32], bias: Option<Vec<f32>>| {
            let weights = &weights[d * gates * depth..(d + 1) * gates * depth];
            MatMul::pack(cx.isa, depth, gates, weights, true, bias.as_deref(), Clamp::NONE)
                .map_err(|e| cx.refuse(node, e))
        };
        let (input, state) = (pack(input, &w, of_input)?, pack(hidden, &r, of_state)?);
        directions.push(Direction { input, state, backwards: *backwards });
    }
    let outputs = (0..node.outputs.len()).collect();
    let step = Recurrent { isa: cx.isa, cell, directions, sequence, batch, hidden, initial, outputs };
    let scratch = 4 * step.scratch_len();
    let mut places = vec![cx.read(x, Layout::Plain)?];
    for id in inputs {
        places.push(cx.read(id, Layout::Plain)?);
    }
    let mut results = vec![];
    for id in &node.outputs {
        results.push(cx.write(*id, Layout::Plain));
    }
    let weights = 4 * (w.len() + r.len()) as u64;
    let spec = StepSpec::new(node, format!("recurrent f32 {}", cx.isa.name()), places, results, step);
    cx.push(StepSpec { scratch, weights, ..spec });
    Ok(true)
}
