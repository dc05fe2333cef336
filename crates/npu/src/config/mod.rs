//! What a chip has: sizes of the array and the memories. The one source of the constants of simulator, compiler and RTL.

mod verilog;

use serde::Deserialize;

use crate::NpuError;

/// Lanes of a word: one bit of 64 channels.
pub const LANES: usize = 64;
/// Most bits of an operand.
pub const MAX_BITS: usize = 8;
/// Taps that the auxiliary unit sums at once.
pub const TAPS: usize = 9;
/// Cycles from the last read of a group to its operands being usable: the slot is full in cycle `t + LOAD_LATENCY`.
pub const LOAD_LATENCY: usize = 3;
/// Step registers of load, and of the auxiliary unit: the RTL has exactly two.
pub const STEPS: usize = 2;
/// Stages of the array between the issue of a pair of planes and the main accumulators.
pub const MAC_STAGES: usize = 4;
/// Stages of the post unit: a vector accepted in cycle `t` is written in cycle `t + POST_STAGES`.
pub const POST_STAGES: usize = 9;
/// How many cycles before its last vector is written an instruction completes: what starts then reads no sooner than the cycle after the write.
pub const POST_COMPLETES: usize = 2;
/// Words that the output stream can hold back.
pub const DRAIN_WORDS: usize = 4;
/// Cycles without progress after which the chip reports that it is stuck.
pub const WATCHDOG: u64 = 65_536;
/// Entries, of one plane each, of an operand buffer.
pub const BUFFER_PLANES: usize = 16;

/// The sizes of a chip. Every field is a parameter of the RTL.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// A name for reports.
    pub name: String,
    /// Output pixels that the array works on at once.
    pub rows: usize,
    /// Output channels that the array works on at once.
    pub columns: usize,
    /// Channels (or taps and channels) that an element sums at once; 64.
    pub lanes: usize,
    /// Banks of the activation memory, one word wide.
    pub banks: usize,
    /// Words in each bank.
    pub bank_words: usize,
    /// Independent single-ported parts of each bank.
    pub sections: usize,
    /// Lanes of the auxiliary unit; fewer than 64 take turns.
    pub aux_lanes: usize,
    /// Words of the weight memory, each of `columns` × 64 bits.
    pub weight_words: usize,
    /// Vectors of the parameter memory, each of `columns` pairs of bias and scale.
    pub parameter_vectors: usize,
    /// Tables of 256 entries.
    pub tables: usize,
    /// Instructions that the instruction memory holds.
    pub instructions: usize,
    /// The clock that times are reported at.
    pub clock_mhz: u64,
    /// Bits per cycle of each of the two streams to the outside; 64.
    pub stream_bits: usize,
}

/// The presets by name.
pub const PRESETS: [(&str, &str); 3] = [
    ("nano", include_str!("../../presets/nano.toml")),
    ("edge", include_str!("../../presets/edge.toml")),
    ("core", include_str!("../../presets/core.toml")),
];

impl Config {
    /// The preset of that name.
    ///
    /// # Errors
    /// If there is none; the error lists those there are.
    pub fn preset(name: &str) -> Result<Config, NpuError> {
        let text = PRESETS.iter().find(|p| p.0 == name).ok_or_else(|| {
            let names: Vec<&str> = PRESETS.iter().map(|p| p.0).collect();
            NpuError::Config(format!("no preset `{name}`; there are {}", names.join(", ")))
        })?;
        Config::parse(text.1)
    }

    /// Reads a configuration from TOML and validates it.
    ///
    /// # Errors
    /// If the text is not a configuration, or none that a chip can have.
    pub fn parse(text: &str) -> Result<Config, NpuError> {
        let config: Config = toml::from_str(text).map_err(|e| NpuError::Config(e.to_string()))?;
        config.validate()?;
        Ok(config)
    }

    /// Whether a chip can have these sizes.
    ///
    /// # Errors
    /// Names the field and what it may be.
    pub fn validate(&self) -> Result<(), NpuError> {
        let check = |ok: bool, field: &str, value: usize, expected: &str| {
            if ok { Ok(()) } else { Err(NpuError::Config(format!("{field} = {value}: expected {expected}"))) }
        };
        check([4, 8, 16].contains(&self.rows), "rows", self.rows, "4, 8 or 16")?;
        check([8, 16].contains(&self.columns), "columns", self.columns, "8 or 16")?;
        check(self.lanes == LANES, "lanes", self.lanes, "64")?;
        check([8, 16].contains(&self.banks), "banks", self.banks, "8 or 16")?;
        check(self.banks >= self.rows, "banks", self.banks, "at least as many as rows")?;
        check([1, 2, 4, 8].contains(&self.sections), "sections", self.sections, "1, 2, 4 or 8")?;
        let whole = self.bank_words.is_power_of_two() && self.bank_words >= 64 && self.bank_words <= 1 << 20;
        check(whole, "bank_words", self.bank_words, "a power of two from 64 to 1048576")?;
        let lanes = [8, 16, 32, 64].contains(&self.aux_lanes) && self.aux_lanes >= self.columns;
        check(lanes, "aux_lanes", self.aux_lanes, "8, 16, 32 or 64, and at least as many as columns")?;
        check((1..=1 << 20).contains(&self.weight_words), "weight_words", self.weight_words, "1 to 1048576")?;
        let vectors = self.parameter_vectors;
        check((1..=1 << 16).contains(&vectors), "parameter_vectors", vectors, "1 to 65536")?;
        check((1..=16).contains(&self.tables), "tables", self.tables, "1 to 16")?;
        check((4..=1 << 16).contains(&self.instructions), "instructions", self.instructions, "4 to 65536")?;
        check(self.clock_mhz > 0, "clock_mhz", self.clock_mhz as usize, "at least 1")?;
        check(self.stream_bits == 64, "stream_bits", self.stream_bits, "64")
    }

    /// Words of the activation memory.
    pub fn activation_words(&self) -> usize {
        self.banks * self.bank_words
    }

    /// Bytes of the activation memory.
    pub fn activation_bytes(&self) -> usize {
        self.activation_words() * 8
    }

    /// Bytes of the weight memory.
    pub fn weight_bytes(&self) -> usize {
        self.weight_words * self.columns * 8
    }

    /// Words of the weight memory that hold the weights of up to nine taps for 64 channels.
    pub fn tap_words(&self) -> usize {
        (TAPS * 8).div_ceil(self.columns)
    }

    /// Turns in which the lanes of the auxiliary unit take a step for so many channels of a group, 1 to 64.
    pub fn aux_turns(&self, channels: usize) -> usize {
        channels.div_ceil(self.aux_lanes)
    }

    /// Stages of the auxiliary unit between the last read of a word and the first of its sums in the result buffer. Lanes that take turns have
    /// one more, in which their taps are chosen.
    pub fn aux_stages(&self) -> usize {
        if self.aux_lanes < LANES { 5 } else { 4 }
    }

    /// The SystemVerilog package with the constants of this chip and the fields of its instructions.
    pub fn package(&self) -> String {
        verilog::package(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_named() {
        for (name, _) in PRESETS {
            assert_eq!(Config::preset(name).unwrap().name, name);
        }
        assert!(Config::preset("huge").unwrap_err().to_string().contains("nano, edge, core"));
    }

    #[test]
    fn sizes_that_no_chip_has_are_refused_by_name() {
        let good = Config::preset("edge").unwrap();
        for (change, field) in [
            (Config { rows: 5, ..good.clone() }, "rows"),
            (Config { banks: 4, ..good.clone() }, "banks"),
            (Config { rows: 16, ..good.clone() }, "banks"),
            (Config { lanes: 32, ..good.clone() }, "lanes"),
            (Config { bank_words: 3000, ..good.clone() }, "bank_words"),
            (Config { aux_lanes: 12, ..good.clone() }, "aux_lanes"),
            (Config { aux_lanes: 8, columns: 16, ..good.clone() }, "aux_lanes"),
            (Config { tables: 0, ..good.clone() }, "tables"),
        ] {
            let error = change.validate().unwrap_err().to_string();
            assert!(error.contains(&format!(" {field} = ")), "{error}");
        }
        assert!(Config::parse("name = 1").is_err());
    }
}
