//! A compiled network on the simulator: the host's part before and after, the layout of inputs and outputs, reports.

use std::collections::HashMap;

use qing_graph::{Element, Eval, Graph, Node, Tensor, Type, ValueId, interpret::check_inputs};

use crate::{
    NpuError,
    compile::{
        Program, Words,
        network::{Axis, Port, Unfold, View},
    },
    simulate::{Chip, Run, State},
};

/// A chip with a program whose weights are loaded.
#[derive(Debug)]
pub struct Session {
    program: Program,
    chip: Chip,
    /// The set-up run.
    pub setup: Run,
}

/// What a frame gave.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The graph's outputs.
    pub outputs: Vec<Tensor>,
    /// What the chip itself computed, before the host went on: the values of [`Network::outputs`](crate::compile::network::Network).
    pub computed: Vec<(ValueId, Tensor)>,
    /// The chip's run.
    pub run: Run,
}

impl Session {
    /// Loads a program into a chip.
    ///
    /// # Errors
    /// If the chip stops with an error.
    pub fn new(program: Program) -> Result<Session, NpuError> {
        let mut chip = Chip::new(program.config.clone());
        chip.program(&program.instructions)?;
        let setup = chip.run(program.setup, &program.setup_words);
        succeeded(&setup)?;
        Ok(Session { program, chip, setup })
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// The integers that a tensor of the network has in the chip's memory: channels, rows, columns. They are those of the layer that wrote
    /// it, unless a later layer has used its place. `None` if it is never there as a whole.
    pub fn tensor(&self, tensor: usize) -> Option<Vec<i32>> {
        let t = &self.program.network.tensors[tensor];
        let b = &self.program.buffers[tensor];
        if b.rows < t.height {
            return None;
        }
        let view = View {
            tensor,
            dims: vec![vec![Axis::Channel], vec![Axis::Row], vec![Axis::Column]],
            shape: vec![t.channels, t.height, t.width],
        };
        let stride = b.plane_stride(&self.program.config);
        let planes: Vec<u64> = (0..t.bits)
            .flat_map(|k| &self.chip.memory.activations[b.base + k * stride..][..b.plane_words])
            .copied()
            .collect();
        Some(self.program.unpack(&view, &planes))
    }

    /// The chip, for its memories.
    pub fn chip(&self) -> &Chip {
        &self.chip
    }

    /// Frames record the operands of an element of the array, by row and column, from now on.
    pub fn probe(&mut self, element: (usize, usize)) {
        self.chip.probe = Some(element);
    }

    /// Computes a frame.
    ///
    /// # Errors
    /// If an input does not fit the graph, the host cannot compute its part, or the chip stops with an error.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Frame, NpuError> {
        let graph = &self.program.graph;
        let mut values = self.program.before(inputs)?;
        let words = self.program.input_words(&values)?;
        let run = self.chip.run(self.program.frame, &words);
        succeeded(&run)?;
        self.program.take_outputs(&run.output, &mut values)?;
        let ports = self.program.network.outputs.iter();
        let computed = ports.filter_map(|p| Some((p.value, values.get(&p.value)?.clone()))).collect();
        for index in &self.program.network.after {
            evaluate(graph, &graph.nodes[*index], &mut values)?;
        }
        let outputs = graph
            .outputs
            .iter()
            .map(|id| {
                let constant = || graph.constant(*id).cloned();
                let missing = || NpuError::Limit(format!("output `{}` was not computed", graph.value(*id).name));
                values.get(id).cloned().or_else(constant).ok_or_else(missing)
            })
            .collect::<Result<_, _>>()?;
        Ok(Frame { outputs, computed, run })
    }
}

fn succeeded(run: &Run) -> Result<(), NpuError> {
    match run.state {
        State::Done => Ok(()),
        State::Illegal { queue, pc } => {
            Err(NpuError::Chip(format!("illegal instruction {pc} in the queue {}", queue.name())))
        }
        State::Stuck => Err(NpuError::Chip(format!("stuck after {} cycles", run.counters.cycles))),
        State::Starved => {
            Err(NpuError::Chip(format!("it waits for more than the {} words that came in", run.counters.fetched)))
        }
        State::Running => Err(NpuError::Chip(format!("not ready after {} cycles", run.counters.cycles))),
    }
}

/// A node by its reference semantics.
fn evaluate(graph: &Graph, node: &Node, values: &mut HashMap<ValueId, Tensor>) -> Result<(), NpuError> {
    let types: Vec<Option<&Type>> = node.inputs.iter().map(|id| id.map(|id| graph.ty(id))).collect();
    let outputs: Vec<Type> = node.outputs.iter().map(|id| graph.ty(*id).clone()).collect();
    let results = {
        let inputs: Vec<Option<&Tensor>> =
            node.inputs.iter().map(|id| id.and_then(|id| values.get(&id).or_else(|| graph.constant(id)))).collect();
        let cx = Eval { inputs: &inputs, types: &types, outputs: &outputs };
        node.op.evaluate(&cx).map_err(|e| graph.node_error(node, e))?
    };
    values.extend(node.outputs.iter().copied().zip(results));
    Ok(())
}

impl Program {
    /// What the host computes before the chip: the values of the graph's inputs and of all nodes up to the chip's.
    fn before(&self, inputs: &[Tensor]) -> Result<HashMap<ValueId, Tensor>, NpuError> {
        check_inputs(&self.graph, inputs)?;
        let mut values: HashMap<ValueId, Tensor> =
            self.graph.inputs.iter().copied().zip(inputs.iter().cloned()).collect();
        for index in &self.network.before {
            evaluate(&self.graph, &self.graph.nodes[*index], &mut values)?;
        }
        Ok(values)
    }

    /// The words of the in stream for a frame, from the graph's inputs.
    ///
    /// # Errors
    /// If an input does not fit the graph, or the host cannot compute its part.
    pub fn frame_input(&self, inputs: &[Tensor]) -> Result<Vec<u64>, NpuError> {
        self.input_words(&self.before(inputs)?)
    }

    /// The words of the in stream for a frame, from the values that the host holds.
    ///
    /// # Errors
    /// If a value is missing.
    pub fn input_words(&self, values: &HashMap<ValueId, Tensor>) -> Result<Vec<u64>, NpuError> {
        let mut packed = Vec::new();
        for port in &self.network.inputs {
            let value = values
                .get(&port.value)
                .ok_or_else(|| NpuError::Input(format!("`{}` is missing", self.graph.value(port.value).name)))?;
            packed.push(self.pack(port, &value.to_ints()));
        }
        let mut words = Vec::new();
        for part in &self.frame_words {
            match part {
                Words::Input { port, first, count } => {
                    for plane in &packed[*port] {
                        words.extend(&plane[*first..first + count]);
                    }
                }
                Words::Weights { first, count } => words.extend(&self.streamed[*first..first + count]),
            }
        }
        Ok(words)
    }

    /// The planes of a value.
    fn pack(&self, port: &Port, values: &[i32]) -> Vec<Vec<u64>> {
        let t = &self.network.tensors[port.view.tensor];
        let b = &self.buffers[port.view.tensor];
        let mut planes = vec![vec![0u64; b.plane_words]; t.bits];
        let windows: Vec<i32>;
        let (view, values) = match &port.unfold {
            None => (port.view.clone(), values),
            Some(unfold) => {
                windows = unfold_rows(&port.view, unfold, values, t.width, t.zero);
                let dims = vec![vec![Axis::Row], vec![Axis::Column], vec![Axis::Channel]];
                (View { tensor: port.view.tensor, dims, shape: vec![t.height, t.width, t.channels] }, &windows[..])
            }
        };
        self.each_place(&view, |i, word, lane| {
            for (k, plane) in planes.iter_mut().enumerate() {
                plane[word] |= u64::from(values[i] >> k & 1 != 0) << lane;
            }
        });
        planes
    }

    /// For every element of a view in logical order: its index, its word in a plane, its lane.
    fn each_place(&self, view: &View, mut f: impl FnMut(usize, usize, usize)) {
        let t = &self.network.tensors[view.tensor];
        let b = &self.buffers[view.tensor];
        let axes: Vec<Axis> = view.dims.iter().flatten().copied().collect();
        let count: usize = view.shape.iter().product();
        for i in 0..count {
            let (mut rest, mut at) = (i, [0usize; 3]);
            for axis in axes.iter().rev() {
                let size = [t.channels, t.height, t.width][*axis as usize];
                at[*axis as usize] = rest % size;
                rest /= size;
            }
            let [channel, row, column] = at;
            let pixel = row * b.pitch + column;
            let per_word = 1 << b.lg_pixels;
            let word = pixel / per_word + channel / 64 * b.group_words;
            let lane = (pixel % per_word) * (64 / per_word) + channel % 64;
            f(i, word, lane);
        }
    }

    /// Turns the words of the out stream into values.
    ///
    /// # Errors
    /// If there are too few.
    pub fn take_outputs(&self, words: &[u64], values: &mut HashMap<ValueId, Tensor>) -> Result<(), NpuError> {
        let mut starts: HashMap<usize, usize> = HashMap::new();
        let mut next = 0;
        for port in &self.network.outputs {
            let tensor = port.view.tensor;
            let t = &self.network.tensors[tensor];
            let b = &self.buffers[tensor];
            let start = *starts.entry(tensor).or_insert_with(|| {
                let start = next;
                next += b.plane_words * t.bits;
                start
            });
            let planes = words
                .get(start..start + b.plane_words * t.bits)
                .ok_or_else(|| NpuError::Chip(format!("{} words came out, {} were expected", words.len(), next)))?;
            let ints = self.unpack(&port.view, planes);
            let element: Element = self.graph.ty(port.value).element;
            let value = match &port.real {
                None => Tensor::from_ints(element, &port.view.shape, &ints),
                Some(scale) => {
                    let mut reals = vec![0f32; ints.len()];
                    let channels = self.channels(&port.view);
                    for (i, r) in reals.iter_mut().enumerate() {
                        *r = ints[i] as f32 * scale[channels[i].min(scale.len() - 1)];
                    }
                    Tensor::new(&port.view.shape, reals)
                }
            };
            values.insert(port.value, value.map_err(|e| NpuError::Input(e.to_string()))?);
        }
        Ok(())
    }

    /// The integers of a view from the planes of its tensor, one after another.
    fn unpack(&self, view: &View, planes: &[u64]) -> Vec<i32> {
        let t = &self.network.tensors[view.tensor];
        let words = self.buffers[view.tensor].plane_words;
        let mut ints = vec![0i32; view.shape.iter().product()];
        self.each_place(view, |i, word, lane| {
            let mut v = 0i64;
            for k in 0..t.bits {
                let bit = (planes[k * words + word] >> lane & 1) as i64;
                v += if t.signed && k + 1 == t.bits { -(bit << k) } else { bit << k };
            }
            ints[i] = v as i32;
        });
        ints
    }

    /// The channel of every element of a view.
    fn channels(&self, view: &View) -> Vec<usize> {
        let t = &self.network.tensors[view.tensor];
        let axes: Vec<Axis> = view.dims.iter().flatten().copied().collect();
        let count: usize = view.shape.iter().product();
        let channel = |i: usize| {
            let (mut rest, mut channel) = (i, 0);
            for axis in axes.iter().rev() {
                let size = [t.channels, t.height, t.width][*axis as usize];
                if *axis == Axis::Channel {
                    channel = rest % size;
                }
                rest /= size;
            }
            channel
        };
        (0..count).map(channel).collect()
    }
}

/// Rows of windows from the values of a view: `[row][window][pixel of the window][channel]`.
fn unfold_rows(view: &View, unfold: &Unfold, values: &[i32], windows: usize, zero: i32) -> Vec<i32> {
    let [channels, rows, columns] = unfold.size;
    let axes: Vec<Axis> = view.dims.iter().flatten().copied().collect();
    let mut made = vec![zero; rows * windows * unfold.window * channels];
    for (i, value) in values.iter().enumerate() {
        let (mut rest, mut at) = (i, [0usize; 3]);
        for axis in axes.iter().rev() {
            let size = [channels, rows, columns][*axis as usize];
            at[*axis as usize] = rest % size;
            rest /= size;
        }
        let [channel, row, column] = at;
        for j in 0..windows {
            // The pixel's place in window j, if it is in it.
            let Some(k) = (column + unfold.pad).checked_sub(j * unfold.step).filter(|k| *k < unfold.window) else {
                continue;
            };
            made[((row * windows + j) * unfold.window + k) * channels + channel] = *value;
        }
    }
    made
}
