//! The memories of a chip, composed of macros.

use std::{collections::BTreeMap, fmt::Write as _, path::PathBuf};

use serde::Serialize;

use super::{
    liberty,
    target::{self, Technology},
};
use crate::{Config, NpuError, config::LANES, isa};

/// Memories of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Memory {
    /// What it holds.
    pub name: &'static str,
    /// How many there are.
    pub instances: usize,
    /// Words of each.
    pub words: usize,
    /// Bits of a word.
    pub bits: usize,
    /// It can be read and written in the same cycle; a macro of one port, which it is composed of here, cannot.
    pub two_ports: bool,
    /// The macros of each of them, where the library has some.
    pub composed: Option<Composed>,
    /// The module of the RTL.
    #[serde(skip)]
    pub(super) module: &'static str,
    /// The kind of cell that stands for it in the netlist.
    #[serde(skip)]
    pub(super) cell: String,
}

/// A memory made of macros; each access is one of one macro.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Composed {
    /// Macros: their words, and how many.
    pub macros: Vec<(usize, usize)>,
    /// Area of one memory, µm².
    pub area_um2: f64,
    /// Picojoules of a read, of the macro that takes most.
    pub read_pj: f64,
    /// Picojoules of a write with half of the data bits changed.
    pub write_pj: f64,
    /// Nanoseconds from the clock to the data.
    pub access_ns: f64,
    /// Leakage, µW.
    pub leakage_uw: f64,
}

/// A macro of a library.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Macro {
    words: usize,
    area: f64,
    read: f64,
    write: f64,
    access: f64,
    leakage: f64,
}

/// The memories of a chip.
pub(crate) fn of(config: &Config) -> Vec<Memory> {
    let make = |name, module: &'static str, instances, words, two_ports| {
        let cell = format!("memory_{}_{words}", module.trim_start_matches("npu_"));
        Memory { name, instances, words, bits: LANES, two_ports, composed: None, module, cell }
    };
    let columns = config.columns;
    let mut all = vec![
        make(
            "activations",
            "npu_ram_masked",
            config.banks * config.sections,
            config.bank_words / config.sections,
            false,
        ),
        make("weights", "npu_ram_single", columns, config.weight_words, false),
        make("parameters", "npu_ram", columns, config.parameter_vectors, true),
        make("tables", "npu_ram", columns, config.tables * 32, true),
        make("instructions", "npu_ram", 1, config.instructions * isa::WORDS, true),
    ];
    // Two of one size are one kind of cell.
    all.sort_by_key(|m| std::cmp::Reverse(m.instances * m.words));
    all
}

/// The macros of a library among the files given, by words; those of 64 bits.
///
/// # Errors
/// If a file cannot be read, or lacks what a macro has.
pub(super) fn macros(technology: &Technology, given: &[PathBuf]) -> Result<Vec<Macro>, NpuError> {
    let Some(start) = technology.macros else { return Ok(vec![]) };
    let mut found = BTreeMap::new();
    for path in target::liberty_files(given)? {
        if !path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(start)) {
            continue;
        }
        let library = liberty::parse(&target::read(&path)?)?;
        let read = library.of("cell").next().and_then(read_macro);
        let bad = || NpuError::Library(format!("{}: no memory macro with energy and timing", path.display()));
        let (bits, read) = read.ok_or_else(bad)?;
        if bits == LANES {
            found.insert(read.words, read);
        }
    }
    Ok(found.into_values().collect())
}

/// A macro and its bits.
fn read_macro(cell: &liberty::Group) -> Option<(usize, Macro)> {
    let memory = cell.of("memory").next()?;
    let (address, bits) = (memory.number("address_width")? as u32, memory.number("word_width")? as usize);
    // Energy of the clock's edge by what is done at it: the enable, and one of write and read.
    let energy = |pin: &liberty::Group, when: &dyn Fn(&str) -> bool| {
        let power = pin.of("internal_power").find(|p| p.get("when").is_none_or(when))?;
        let of = |kind: &str| power.of(kind).flat_map(liberty::Group::values).next();
        Some((of("rise_power")?, of("fall_power")?))
    };
    let exactly = |wanted: &'static str| move |when: &str| when.split_whitespace().collect::<String>() == wanted;
    let clock = cell.named("pin", "A_CLK")?;
    let data = cell.named("bus", "A_DIN")?.of("pin").next()?;
    let (read, _) = energy(clock, &exactly("A_MEN&!A_WEN&A_REN"))?;
    let (write, _) = energy(clock, &exactly("A_MEN&A_WEN&!A_REN"))?;
    let (rise, fall) = energy(data, &exactly("A_MEN"))?;
    let delays = cell.named("bus", "A_DOUT")?.of("timing").flat_map(|t| t.groups.iter());
    let access = delays.filter(|g| g.kind.starts_with("cell_")).flat_map(liberty::Group::values).fold(0.0, f64::max);
    let read = Macro {
        words: 1 << address,
        area: cell.number("area")?,
        read,
        write: write + bits as f64 / 2.0 * (rise + fall) / 2.0,
        access,
        leakage: cell.number("cell_leakage_power")? * 1e-3,
    };
    Some((bits, read))
}

/// The least area of macros, given as words and area, that hold so many words; and how many of each it is made of, by their place.
/// Nothing if there are no macros.
pub(crate) fn least_area(words: usize, macros: &[(usize, f64)]) -> Option<(f64, BTreeMap<usize, usize>)> {
    let step = macros.iter().map(|m| m.0).min()?;
    // The least area for so many steps of words, and the macro that it ends with.
    let steps = words.div_ceil(step);
    let mut best: Vec<(f64, usize)> = vec![(0.0, 0)];
    for n in 1..=steps {
        let with = |(k, m): (usize, &(usize, f64))| (best[n.saturating_sub(m.0 / step)].0 + m.1, k);
        best.push(macros.iter().enumerate().map(with).min_by(|a, b| a.0.total_cmp(&b.0))?);
    }
    let mut counts = BTreeMap::new();
    let mut left = steps;
    while left > 0 {
        let k = best[left].1;
        *counts.entry(k).or_default() += 1;
        left = left.saturating_sub(macros[k].0 / step);
    }
    Some((best[steps].0, counts))
}

/// Composes each memory of the macros that take the least area.
pub(super) fn compose(memories: &mut [Memory], macros: &[Macro]) {
    let sizes: Vec<(usize, f64)> = macros.iter().map(|m| (m.words, m.area)).collect();
    for memory in memories {
        let Some((area_um2, counts)) = least_area(memory.words, &sizes) else { return };
        let most = |of: &dyn Fn(&Macro) -> f64| counts.keys().map(|k| of(&macros[*k])).fold(0.0, f64::max);
        memory.composed = Some(Composed {
            macros: counts.iter().map(|(k, n)| (macros[*k].words, *n)).collect(),
            area_um2,
            read_pj: most(&|m| m.read),
            write_pj: most(&|m| m.write),
            access_ns: most(&|m| m.access),
            leakage_uw: counts.iter().map(|(k, n)| macros[*k].leakage * *n as f64).sum(),
        });
    }
}

/// A Liberty file in which each kind of memory is a cell with the access time of its macros. Where a memory is made of several, choosing among
/// their data is left out, and so is the set-up time of the inputs.
pub(super) fn timing(memories: &[Memory]) -> String {
    let mut text = String::from("library (memories) {\n  time_unit : \"1ns\";\n  capacitive_load_unit (1, pf);\n");
    let out = &mut text;
    // OpenSTA reads no library without these; the delays here are of no slew.
    for (threshold, percent) in
        [("input_threshold", 50), ("output_threshold", 50), ("slew_lower_threshold", 20), ("slew_upper_threshold", 80)]
    {
        let _ = writeln!(out, "  {threshold}_pct_rise : {percent};\n  {threshold}_pct_fall : {percent};");
    }
    let width = |words: usize| usize::BITS as usize - (words.max(2) - 1).leading_zeros() as usize;
    let mut sizes: Vec<usize> = memories.iter().map(|m| width(m.words)).chain([LANES]).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for n in &sizes {
        let _ = writeln!(
            out,
            "  type (bits_{n}) {{ base_type : array; data_type : bit; bit_width : {n}; bit_from : {}; bit_to : 0; downto : true; }}",
            n - 1
        );
    }
    let mut written = Vec::new();
    for m in memories {
        let Some(composed) = &m.composed else { continue };
        if written.contains(&&m.cell) {
            continue;
        }
        written.push(&m.cell);
        let address = width(m.words);
        let _ = writeln!(out, "  cell ({}) {{\n    area : {};", m.cell, composed.area_um2);
        let _ = writeln!(out, "    pin (clk) {{ direction : input; clock : true; capacitance : 0.004; }}");
        let (pins, addresses): (&[&str], &[&str]) =
            if m.two_ports { (&["read", "write"], &["raddr", "waddr"]) } else { (&["read", "write"], &["addr"]) };
        for pin in pins {
            let _ = writeln!(out, "    pin ({pin}) {{ direction : input; capacitance : 0.004; }}");
        }
        let data: &[&str] = if m.module == "npu_ram_masked" { &["wdata", "wmask"] } else { &["wdata"] };
        let buses = addresses.iter().map(|b| (b, address)).chain(data.iter().map(|b| (b, LANES)));
        for (bus, n) in buses {
            let _ = writeln!(out, "    bus ({bus}) {{ bus_type : bits_{n}; direction : input; capacitance : 0.007; }}");
        }
        let _ =
            writeln!(out, "    bus (rdata) {{\n      bus_type : bits_{LANES}; direction : output;\n      timing () {{");
        let _ = writeln!(out, "        related_pin : \"clk\"; timing_type : rising_edge;");
        for (edge, value) in [("cell_rise", composed.access_ns), ("cell_fall", composed.access_ns)] {
            let _ = writeln!(out, "        {edge} (scalar) {{ values (\"{value}\"); }}");
        }
        for edge in ["rise_transition", "fall_transition"] {
            let _ = writeln!(out, "        {edge} (scalar) {{ values (\"0.1\"); }}");
        }
        let _ = writeln!(out, "      }}\n    }}\n  }}");
    }
    text.push_str("}\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sized(words: usize, area: f64) -> Macro {
        Macro { words, area, read: words as f64, write: 2.0, access: 3.0, leakage: 0.5 }
    }

    #[test]
    fn the_least_area_of_macros_that_hold_all_words() {
        let macros = [sized(64, 50.0), sized(256, 93.0), sized(1024, 264.0)];
        let mut memories = of(&Config { weight_words: 3584, ..Config::preset("edge").unwrap() });
        compose(&mut memories, &macros);
        let weights = memories.iter().find(|m| m.name == "weights").unwrap().composed.clone().unwrap();
        // 3,584 words: three of 1,024 and two of 256.
        assert_eq!(weights.macros, [(256, 2), (1024, 3)]);
        assert!((weights.area_um2 - (3.0 * 264.0 + 2.0 * 93.0)).abs() < 1e-9);
        assert_eq!((weights.read_pj, weights.leakage_uw), (1024.0, 2.5));
    }

    #[test]
    fn the_memories_are_those_of_the_chip() {
        let config = Config::preset("core").unwrap();
        let bits: usize = of(&config).iter().map(|m| m.instances * m.words * m.bits).sum();
        let parameters = config.parameter_vectors * config.columns * 64;
        let tables = config.tables * 256 * 8 * config.columns;
        let expected = 8 * (config.activation_bytes() + config.weight_bytes()) + parameters + tables;
        assert_eq!(bits, expected + config.instructions * 512);
    }

    #[test]
    fn their_timing_is_liberty() {
        let mut memories = of(&Config::preset("nano").unwrap());
        compose(&mut memories, &[sized(256, 93.0)]);
        let library = liberty::parse(&timing(&memories)).unwrap();
        let cell = library.named("cell", "memory_ram_masked_256").unwrap();
        let timing = cell.named("bus", "rdata").unwrap().of("timing").next().unwrap();
        assert_eq!(timing.of("cell_rise").next().unwrap().values(), [3.0]);
        assert_eq!(cell.named("bus", "addr").unwrap().get("bus_type"), Some("bits_8"));
    }
}
