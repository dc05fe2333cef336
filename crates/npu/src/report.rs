//! What a frame cost, layer by layer.

use crate::{
    compile::{Program, network::Kind},
    isa::{Instruction, Opcode},
    simulate::Run,
};

/// A layer's part of a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerProfile {
    /// Name of the node it began with.
    pub name: String,
    /// Its op.
    pub op: String,
    /// What computes it: `array` or `aux`.
    pub unit: &'static str,
    /// Bits of activations and weights.
    pub bits: (usize, Option<usize>),
    /// Multiply–accumulates.
    pub macs: u64,
    /// The cycle in which its first instruction started, and that in which its last completed.
    pub span: (u64, u64),
    /// Cycles that the unit needs at least: pairs of planes, or steps.
    pub work: u64,
    /// Cycles from the completion of what the unit did before (or the start, if later) to its own: those that add up to the frame.
    pub cycles: u64,
    /// Instructions.
    pub instructions: usize,
    /// In how many strips it was computed together with the layers around it; 1 if by itself. Such layers share cycles, which are charged to the first.
    pub strips: usize,
}

/// The profile of a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Profile {
    /// In order.
    pub layers: Vec<LayerProfile>,
    /// Cycles of the frame.
    pub cycles: u64,
    /// Multiply–accumulates of the frame.
    pub macs: u64,
    /// Of the array's elements, the part that worked, over the cycles of the frame.
    pub array_use: f64,
    /// Words that came in and went out.
    pub traffic: (u64, u64),
}

/// Cycles that an instruction keeps its unit busy at least.
pub fn work(instruction: &Instruction, rows: usize) -> u64 {
    let get = |name: &str| instruction.get(name) as u64;
    match instruction.opcode() {
        Some(Opcode::Conv) => {
            let taps = get("kh") * get("kw");
            let groups = if get("lgt") == 0 { taps * get("cg") } else { taps.div_ceil(1 << get("lgt")) };
            get("n").div_ceil(rows as u64) * get("ct") * groups * get("abits") * get("wbits")
        }
        Some(Opcode::Aux) => get("n") * get("cg") * get("kh").div_ceil(3) * get("kw").div_ceil(3) * get("abits"),
        Some(Opcode::Add) => get("n") * get("cg") * get("abits").max(get("bbits")),
        _ => 0,
    }
}

impl Program {
    /// What a run of a frame cost.
    pub fn profile(&self, run: &Run) -> Profile {
        let mut layers: Vec<LayerProfile> = self
            .layers
            .iter()
            .zip(&self.network.layers)
            .map(|(info, layer)| LayerProfile {
                name: info.name.clone(),
                op: info.op.clone(),
                unit: if matches!(layer.kind, Kind::Dense { .. }) { "array" } else { "aux" },
                bits: info.bits,
                macs: info.macs,
                span: (u64::MAX, 0),
                work: 0,
                cycles: 0,
                instructions: 0,
                strips: info.strips,
            })
            .collect();
        for span in &run.spans {
            let Some(layer) = self.layer_of.get(span.pc).and_then(|l| layers.get_mut(*l)) else { continue };
            if !matches!(span.queue.name(), "array" | "aux") {
                continue;
            }
            layer.span = (layer.span.0.min(span.start), layer.span.1.max(span.end));
            layer.work += work(&self.instructions[span.pc], self.config.rows);
            layer.instructions += 1;
        }
        // A layer is charged with what the frame got longer by it.
        let mut reached = 0;
        for layer in &mut layers {
            layer.cycles = layer.span.1.saturating_sub(reached);
            reached = reached.max(layer.span.1);
        }
        let c = &run.counters;
        let elements = (self.config.rows * self.config.columns) as f64;
        Profile {
            macs: layers.iter().map(|l| l.macs).sum(),
            layers,
            cycles: c.cycles,
            array_use: c.element_cycles as f64 / (elements * c.cycles as f64),
            traffic: (c.fetched, c.drained),
        }
    }
}
