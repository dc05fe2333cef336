//! How wide values are.

use qing_graph::{Graph, Node, Type, ValueId};

use super::constants::{integer_bits, real_bits, values};

/// Width of the numbers of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Width {
    /// Bits.
    pub bits: u32,
    /// Whether they are integers, up to a factor common to all.
    pub integer: bool,
    /// Whether some may be negative.
    pub signed: bool,
}

impl Width {
    /// A real number of this many bits.
    pub(super) fn real(bits: u32) -> Width {
        Width { bits, integer: false, signed: true }
    }

    /// A signed integer of this many bits.
    pub(super) fn integer(bits: u32) -> Width {
        Width { bits, integer: true, signed: true }
    }

    /// The wider of two, real if one is.
    pub(super) fn max(self, other: Width) -> Width {
        Width {
            bits: self.bits.max(other.bits),
            integer: self.integer && other.integer,
            signed: self.signed || other.signed,
        }
    }
}

/// Widths of the values of a graph, as far as nodes have been counted.
pub(super) struct Widths<'a> {
    graph: &'a Graph,
    known: Vec<Option<Width>>,
}

impl<'a> Widths<'a> {
    pub(super) fn new(graph: &'a Graph) -> Widths<'a> {
        Widths { graph, known: vec![None; graph.values().len()] }
    }

    /// Width of a value: what was found for it, else what its type says.
    pub(super) fn of(&self, id: ValueId) -> Width {
        let ty = self.graph.ty(id);
        if let Some(constant) = self.graph.constant(id) {
            let values = values(constant, ty);
            let signed = values.iter().any(|v| *v < 0.0);
            return match integer_bits(&values) {
                Some(bits) => Width { bits: bits.into(), integer: true, signed },
                None => Width { bits: real_bits(&values).into(), integer: false, signed },
            };
        }
        self.known[id.0 as usize].unwrap_or_else(|| of_type(ty))
    }

    /// The widest of the inputs of a node that are not constant.
    pub(super) fn of_inputs(&self, node: &Node) -> Width {
        let inputs = node.inputs.iter().flatten().filter(|id| self.graph.constant(**id).is_none());
        inputs.map(|id| self.of(*id)).reduce(Width::max).unwrap_or(Width::real(32))
    }

    /// Says how wide a value is. Quantized values are as wide as their type, whatever made them.
    pub(super) fn set(&mut self, id: ValueId, width: Width) {
        if self.graph.ty(id).quant.is_none() {
            self.known[id.0 as usize] = Some(width);
        }
    }
}

fn of_type(ty: &Type) -> Width {
    let bits = ty.element.bits() as u32;
    let signed = ty.element.range().is_none_or(|(lo, _)| lo < 0);
    Width { bits, integer: !ty.element.is_float(), signed }
}
