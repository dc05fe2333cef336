//! The constants of a chip as a SystemVerilog package.

use std::fmt::Write;

use super::{
    BUFFER_PLANES, Config, DRAIN_WORDS, LANES, LOAD_LATENCY, MAC_STAGES, MAX_BITS, POST_COMPLETES, POST_STAGES, TAPS,
    WATCHDOG,
};
use crate::isa::{Opcode, Queue, WORDS};

/// The text of `package npu_pkg`.
pub(super) fn package(config: &Config) -> String {
    let mut text = String::new();
    let out = &mut text;
    let _ = writeln!(out, "// Made from the preset `{}` by crates/npu/src/config; do not edit.", config.name);
    let _ = writeln!(out, "package npu_pkg;");
    let numbers: [(&str, usize); 24] = [
        ("ROWS", config.rows),
        ("COLS", config.columns),
        ("LANES", LANES),
        ("BANKS", config.banks),
        ("BANK_WORDS", config.bank_words),
        ("SECTIONS", config.sections),
        ("AUX_LANES", config.aux_lanes),
        ("WEIGHT_WORDS", config.weight_words),
        ("PARAM_VECTORS", config.parameter_vectors),
        ("TABLES", config.tables),
        ("INSTRUCTIONS", config.instructions),
        ("ACTIVATION_WORDS", config.activation_words()),
        ("TAP_WORDS", config.tap_words()),
        ("MAX_BITS", MAX_BITS),
        ("TAPS", TAPS),
        ("BUFFER_PLANES", BUFFER_PLANES),
        ("LOAD_LATENCY", LOAD_LATENCY),
        ("MAC_STAGES", MAC_STAGES),
        ("AUX_STAGES", config.aux_stages()),
        ("POST_STAGES", POST_STAGES),
        ("POST_COMPLETES", POST_COMPLETES),
        ("DRAIN_WORDS", DRAIN_WORDS),
        ("WATCHDOG", WATCHDOG as usize),
        ("INSTRUCTION_WORDS", WORDS),
    ];
    for (name, value) in numbers {
        let _ = writeln!(out, "  localparam int {name} = {value};");
    }
    for queue in Queue::ALL {
        let _ = writeln!(out, "  localparam int Q_{} = {};", queue.name().to_uppercase(), queue as usize);
    }
    for op in Opcode::ALL {
        let name = op.name().to_uppercase();
        let _ = writeln!(out, "\n  // {name}");
        let _ = writeln!(out, "  localparam logic [3:0] OP_{name} = 4'd{};", op.number());
        let words: Vec<String> = op.used().iter().rev().map(|w| format!("64'h{w:016x}")).collect();
        let _ = writeln!(out, "  // Bits that may be set, word 7 first.");
        let _ = writeln!(out, "  localparam logic [511:0] {name}_USED = {{{}}};", words.join(", "));
        for f in op.fields() {
            let field = f.name.to_uppercase().replace('.', "_");
            let low = f.word * 64 + f.low;
            let one = if f.minus_one { ", stored minus one" } else { "" };
            let sign = if f.signed { ", two's complement" } else { "" };
            let _ = writeln!(out, "  localparam int {name}_{field}_LSB = {low};  // {}{one}{sign}", f.docs);
            let _ = writeln!(out, "  localparam int {name}_{field}_BITS = {};", f.bits);
        }
    }
    let _ = writeln!(out, "endpackage");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_has_every_size_and_every_field() {
        let text = package(&Config::preset("core").unwrap());
        for line in
            ["int ROWS = 16;", "int TAP_WORDS = 5;", "int CONV_N_LSB = 294;", "OP_ADD = 4'd6;", "int Q_DRAIN = 3;"]
        {
            assert!(text.contains(line), "{line} is missing");
        }
    }
}
