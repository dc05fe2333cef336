//! The instruction set: fields, encoding, assembly. What instructions do is in `docs/isa.md`.

mod assembly;
mod fields;
mod legal;
mod markdown;

pub use assembly::{assemble, disassemble};
pub use fields::{Field, Opcode, Queue, WORDS};
pub use markdown::markdown;

use crate::NpuError;

/// One instruction: its opcode in the low bits of word 0, its fields where [`Opcode::fields`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Instruction(pub [u64; WORDS]);

impl Instruction {
    /// An instruction with all fields at their least magnitude: 0, or 1 where there is no 0.
    pub fn new(op: Opcode) -> Instruction {
        let mut words = [0; WORDS];
        words[0] = op.number();
        Instruction(words)
    }

    /// What it is: a known opcode, and no bit set that has no meaning. Whether the values of its fields are legal says
    /// [`violation`](Instruction::violation).
    pub fn opcode(&self) -> Option<Opcode> {
        let op = *Opcode::ALL.get((self.0[0] as usize & 15).checked_sub(1)?)?;
        self.0.iter().zip(op.used()).all(|(w, u)| w & !u == 0).then_some(op)
    }

    /// The value of a field; 0 for one that this instruction does not have.
    pub fn get(&self, name: &str) -> i64 {
        self.opcode().and_then(|op| op.field(name)).map_or(0, |f| f.get(&self.0))
    }

    /// Sets a field.
    ///
    /// # Errors
    /// [`NpuError::Field`] if the instruction has no such field or the value does not fit.
    pub fn set(&mut self, name: &str, value: i64) -> Result<(), NpuError> {
        let op = self.opcode();
        let error = |low, high| NpuError::Field {
            opcode: op.map_or("illegal", Opcode::name),
            field: name.into(),
            value,
            low,
            high,
        };
        let field = op.and_then(|op| op.field(name)).ok_or_else(|| error(0, -1))?;
        let (low, high) = field.range();
        if !(low..=high).contains(&value) {
            return Err(error(low, high));
        }
        field.set(&mut self.0, value);
        Ok(())
    }

    /// [`set`](Instruction::set) for several fields.
    ///
    /// # Errors
    /// As `set`, for the first that fails.
    pub fn with(mut self, fields: &[(&str, i64)]) -> Result<Instruction, NpuError> {
        for (name, value) in fields {
            self.set(name, *value)?;
        }
        Ok(self)
    }
}
