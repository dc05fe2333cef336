//! The compiler: a quantized graph becomes a [`Program`].
//!
//! `lower` decides what the host and what the chip computes and joins what one pass of the chip does; `layout` places activations, and where they do not fit, `segment`
//! finds layers to compute strip by strip together; `emit` cuts layers into strips and encodes them; `schedule` makes every instruction wait for what it depends on.

mod emit;
mod image;
mod join;
mod layout;
mod lower;
pub mod network;
mod schedule;
mod segment;
mod select;
mod split;
mod unfold;
mod weights;

use qing_graph::Graph;

use self::{
    emit::{Constants, Emitter},
    network::{Kind, Network},
    schedule::{Schedule, Stream},
};
use crate::{
    Config, NpuError,
    isa::{Instruction, Opcode},
};

pub use layout::Buffer;

/// A part of the words that go into the chip for a frame.
#[derive(Debug, Clone, PartialEq)]
pub enum Words {
    /// The plane words `first .. first + count` of every plane of an input, plane by plane.
    Input {
        /// Which of [`Network::inputs`].
        port: usize,
        /// The first word.
        first: usize,
        /// Words of each plane.
        count: usize,
    },
    /// Weights that have no place on the chip: parts of [`Program::streamed`].
    Weights {
        /// The first part.
        first: usize,
        /// Parts.
        count: usize,
    },
}

/// What a layer costs on the chip, as far as the compiler knows.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerInfo {
    /// The node's name.
    pub name: String,
    /// The node's op.
    pub op: String,
    /// Bits of activations, and of weights where the array multiplies them.
    pub bits: (usize, Option<usize>),
    /// Multiply–accumulates.
    pub macs: u64,
    /// Words of weights, each of all columns.
    pub weight_words: usize,
    /// Whether the weights stay on the chip.
    pub resident: bool,
    /// In how many strips it is computed, each together with the layers around it, because what lies between them does not fit
    /// the activation memory whole; 1 if that is not so.
    pub strips: usize,
}

/// A compiled network.
#[derive(Debug, Clone)]
pub struct Program {
    /// The chip it is for.
    pub config: Config,
    /// The graph, with its shapes bound.
    pub graph: Graph,
    /// What the chip computes of it.
    pub network: Network,
    /// Where activations lie.
    pub buffers: Vec<Buffer>,
    /// The instruction memory.
    pub instructions: Vec<Instruction>,
    /// For every instruction, the layer it belongs to; `usize::MAX` for set-up, inputs, outputs, and copies of rows between strips.
    pub layer_of: Vec<usize>,
    /// Entries of the set-up run, which loads weights, parameters and tables once.
    pub setup: [usize; 4],
    /// The words it takes.
    pub setup_words: Vec<u64>,
    /// Entries of the run of a frame.
    pub frame: [usize; 4],
    /// The words that a frame takes, in order.
    pub frame_words: Vec<Words>,
    /// Weights that are brought in with every frame.
    pub streamed: Vec<u64>,
    /// The layers' costs.
    pub layers: Vec<LayerInfo>,
}

/// Compiles a quantized graph for a chip.
///
/// # Errors
/// [`NpuError::Unmappable`] names the node that the chip cannot compute and the limit; [`NpuError::Limit`] where the whole does not fit.
pub fn compile(graph: &Graph, config: &Config) -> Result<Program, NpuError> {
    config.validate()?;
    let graph = lower::bind(graph)?;
    let mut network = lower::lower(&graph)?;
    join::align(&mut network, config);
    // Inputs that are laid out as windows are faster, but larger.
    let mut unfolded = network.clone();
    unfold::unfold(&mut unfolded, config);
    split::split(&mut unfolded, config);
    split::split(&mut network, config);
    let layout = match segment::fit(&mut unfolded, config) {
        Ok(layout) => {
            network = unfolded;
            layout
        }
        Err(_) => segment::fit(&mut network, config)?,
    };
    let mut memory = weights::Memory::new(config);
    let plan = memory.plan(&network, &layout)?;
    let mut schedule = Schedule::default();
    schedule.layer = usize::MAX;
    let mut frame_words = Vec::new();
    {
        let mut emitter = Emitter::new(config, &network, &layout, &mut schedule);
        let constants: Vec<Constants> = plan.iter().map(|p| p.constants).collect();
        for (port, input) in network.inputs.iter().enumerate() {
            emitter.input(input.view.tensor, port, &mut frame_words)?;
        }
        for (l, layer) in network.layers.iter().enumerate() {
            if let Some(segment) = layout.segments.iter().find(|s| s.layers.contains(&l)) {
                if segment.layers.start == l {
                    emitter.segment(segment, &constants, memory.unchanged)?;
                }
                continue;
            }
            emitter.schedule.layer = l;
            let weights = plan[l].emit(emitter.schedule, config, &mut frame_words)?;
            emitter.layer(layer, constants[l], weights.as_ref())?;
        }
        emitter.schedule.layer = usize::MAX;
        let mut drained = Vec::new();
        for output in &network.outputs {
            if !drained.contains(&output.view.tensor) {
                drained.push(output.view.tensor);
                emitter.output(output.view.tensor)?;
            }
        }
    }
    let queues = schedule.finish(&layout.buffers)?;
    let (mut instructions, mut layer_of) = (Vec::new(), Vec::new());
    let mut place = |streams: [Stream; 4]| {
        streams.map(|stream| {
            let entry = instructions.len();
            for (instruction, layer) in stream {
                instructions.push(instruction);
                layer_of.push(layer);
            }
            instructions.push(Instruction::new(Opcode::End));
            layer_of.push(usize::MAX);
            entry
        })
    };
    let (setup_queue, setup_words) = memory.setup()?;
    let setup = place([setup_queue, vec![], vec![], vec![]]);
    let frame = place(queues);
    if instructions.len() > config.instructions {
        return Err(NpuError::Limit(format!(
            "{} instructions; the chip `{}` holds {}",
            instructions.len(),
            config.name,
            config.instructions
        )));
    }
    let layers = network
        .layers
        .iter()
        .zip(&plan)
        .enumerate()
        .map(|(l, (layer, p))| LayerInfo {
            name: layer.name.clone(),
            op: layer.op.clone(),
            bits: (network.tensors[layer.input].bits, p.bits),
            macs: layer.macs,
            weight_words: p.words,
            resident: p.streams.is_empty(),
            strips: layout.segments.iter().find(|s| s.layers.contains(&l)).map_or(1, |s| s.strips.len()),
        })
        .collect();
    Ok(Program {
        config: config.clone(),
        graph,
        buffers: layout.buffers,
        instructions,
        layer_of,
        setup,
        setup_words,
        frame,
        frame_words,
        streamed: memory.streamed,
        layers,
        network,
    })
}

impl Program {
    /// Words that come into the chip for a frame, and those that leave it.
    pub fn frame_traffic(&self) -> (usize, usize) {
        let planes = |t: usize| self.network.tensors[t].bits;
        let input = self.frame_words.iter().map(|w| match w {
            Words::Input { port, count, .. } => count * planes(self.network.inputs[*port].view.tensor),
            Words::Weights { count, .. } => *count,
        });
        let mut seen = Vec::new();
        let mut output = 0;
        for port in &self.network.outputs {
            if !seen.contains(&port.view.tensor) {
                seen.push(port.view.tensor);
                output += self.buffers[port.view.tensor].plane_words * planes(port.view.tensor);
            }
        }
        (input.sum(), output)
    }
}

/// Bits of a layer's weights where the array multiplies them.
fn weight_bits(kind: &Kind) -> Option<usize> {
    match kind {
        Kind::Dense { weights, .. } => image::form(weights).map(|f| f.bits),
        Kind::Depthwise { .. } => Some(8),
        _ => None,
    }
}
