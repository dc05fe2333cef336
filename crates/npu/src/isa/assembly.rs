//! Instructions as text: `conv wait.fetch=3 abits=8 …`, one a line, fields at their default left out.

use std::fmt::Write;

use super::{Instruction, Opcode};
use crate::NpuError;

/// Text of a program, one instruction a line. Fields that are 0, or 1 where there is no 0, are left out.
///
/// # Errors
/// [`NpuError::Assembly`] for an illegal instruction, with its place.
pub fn disassemble(program: &[Instruction]) -> Result<String, NpuError> {
    let mut text = String::new();
    for (i, instruction) in program.iter().enumerate() {
        let op = instruction.opcode().ok_or_else(|| NpuError::Assembly {
            line: i + 1,
            what: format!("illegal instruction {:016x?}", instruction.0),
        })?;
        text.push_str(op.name());
        for f in op.fields() {
            let value = f.get(&instruction.0);
            if value != i64::from(f.minus_one) {
                let _ = write!(text, " {}={value}", f.name);
            }
        }
        text.push('\n');
    }
    Ok(text)
}

/// Reads what [`disassemble`] writes; `;` starts a comment, empty lines are skipped, numbers may be hexadecimal (`0x`).
///
/// # Errors
/// [`NpuError::Assembly`] with the line.
pub fn assemble(text: &str) -> Result<Vec<Instruction>, NpuError> {
    let mut program = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let error = |what: String| NpuError::Assembly { line: i + 1, what };
        let mut words = line.split(';').next().unwrap_or("").split_whitespace();
        let Some(name) = words.next() else { continue };
        let op = Opcode::ALL.into_iter().find(|op| op.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Opcode::ALL.iter().map(|op| op.name()).collect();
            error(format!("no instruction `{name}`; there are {}", names.join(", ")))
        })?;
        let mut instruction = Instruction::new(op);
        for word in words {
            let (field, value) =
                word.split_once('=').ok_or_else(|| error(format!("`{word}` is not of the form field=value")))?;
            if op.field(field).is_none() {
                let names: Vec<&str> = op.fields().iter().map(|f| f.name).collect();
                return Err(error(format!("{name} has no field `{field}`; it has {}", names.join(", "))));
            }
            let number = match value.strip_prefix("0x") {
                Some(hex) => i64::from_str_radix(hex, 16),
                None => value.parse(),
            };
            let number = number.map_err(|e| error(format!("{field}: `{value}`: {e}")))?;
            instruction.set(field, number).map_err(|e| error(e.to_string()))?;
        }
        program.push(instruction);
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn programs_survive_text(seeds in proptest::collection::vec((0usize..6, any::<[u64; 8]>()), 0..20)) {
            let program: Vec<Instruction> = seeds
                .iter()
                .map(|(op, bits)| {
                    let op = Opcode::ALL[*op];
                    let mut words: [u64; 8] = std::array::from_fn(|i| bits[i] & op.used()[i]);
                    words[0] = words[0] & !15 | op.number();
                    Instruction(words)
                })
                .collect();
            let text = disassemble(&program).unwrap();
            prop_assert_eq!(assemble(&text).unwrap(), program);
        }
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, part) in [
            ("end\nmul", "line 2: no instruction `mul`"),
            ("conv rows=3", "no field `rows`"),
            ("conv abits", "form field=value"),
            ("conv abits=9", "does not fit 1 … 8"),
            ("conv zero=-257", "does not fit -256 … 255"),
            ("conv n=x", "line 1: n: `x`"),
        ] {
            let error = assemble(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(disassemble(&[Instruction([0; 8])]).is_err());
        let mut stray = Instruction::new(Opcode::End);
        stray.0[3] = 1;
        assert!(stray.opcode().is_none());
    }

    #[test]
    fn comments_and_hexadecimal() {
        let program = assemble("; nothing\n\nfetch base=0x10 n0=4 ; input\nend").unwrap();
        assert_eq!(program.len(), 2);
        assert_eq!((program[0].get("base"), program[0].get("n0"), program[0].get("n1")), (16, 4, 1));
    }
}
