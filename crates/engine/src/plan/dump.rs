//! A plan as text: one line a step, with what it reads and writes and where that lies.

use std::fmt::Write;

use super::Plan;
use crate::step::Slot;

impl Plan {
    /// The plan as text.
    pub fn dump(&self) -> String {
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "plan {} for {} on {} thread{}: {} steps, {} bytes of activations, {} bytes of constants",
            self.graph.name,
            self.isa.name(),
            self.threads,
            if self.threads == 1 { "" } else { "s" },
            self.steps.len(),
            self.arena,
            self.constants.iter().map(|c| c.as_ref().len()).sum::<usize>()
        );
        for port in &self.inputs {
            let _ = writeln!(out, "  input  {} {}{:?} {}", port.name, port.element, port.shape, place(&port.slot));
        }
        for (i, step) in self.steps.iter().enumerate() {
            let list = |slots: &[Slot]| slots.iter().map(place).collect::<Vec<_>>().join(" ");
            let _ = writeln!(
                out,
                "{i:4}  {} {} [{}] {} -> {}{}",
                step.op,
                step.node,
                step.kernel,
                list(&step.inputs),
                list(&step.outputs),
                if step.scratch.len > 0 { format!(", scratch {}", step.scratch.len) } else { String::new() }
            );
        }
        for port in &self.outputs {
            let _ = writeln!(out, "  output {} {}{:?} {}", port.name, port.element, port.shape, place(&port.slot));
        }
        out
    }
}

fn place(slot: &Slot) -> String {
    match slot {
        Slot::Arena(region) => format!("@{}+{}", region.offset, region.len),
        Slot::Constant(index, _) => format!("constant{index}"),
        Slot::Dynamic(index) => format!("dynamic{index}"),
    }
}
