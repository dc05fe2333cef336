//! The chip's SystemVerilog, carried inside the library, as files for a tool.

use std::{fs, io, path::Path};

use super::Target;
use crate::Config;

/// Every source of `rtl/files.txt` in its order: a file may use those before it.
const SOURCES: &[(&str, &str)] = &[
    ("npu_types.sv", include_str!("../../rtl/npu_types.sv")),
    ("npu_ram.sv", include_str!("../../rtl/npu_ram.sv")),
    ("npu_ram_masked.sv", include_str!("../../rtl/npu_ram_masked.sv")),
    ("npu_requantize.sv", include_str!("../../rtl/npu_requantize.sv")),
    ("npu_element.sv", include_str!("../../rtl/npu_element.sv")),
    ("npu_activations.sv", include_str!("../../rtl/npu_activations.sv")),
    ("npu_cursor.sv", include_str!("../../rtl/npu_cursor.sv")),
    ("npu_fetch.sv", include_str!("../../rtl/npu_fetch.sv")),
    ("npu_drain.sv", include_str!("../../rtl/npu_drain.sv")),
    ("npu_load.sv", include_str!("../../rtl/npu_load.sv")),
    ("npu_array.sv", include_str!("../../rtl/npu_array.sv")),
    ("npu_lane.sv", include_str!("../../rtl/npu_lane.sv")),
    ("npu_aux.sv", include_str!("../../rtl/npu_aux.sv")),
    ("npu_post.sv", include_str!("../../rtl/npu_post.sv")),
    ("npu_sequencer.sv", include_str!("../../rtl/npu_sequencer.sv")),
    ("npu_control.sv", include_str!("../../rtl/npu_control.sv")),
    ("npu_top.sv", include_str!("../../rtl/npu_top.sv")),
];

/// What an FPGA has in place of a source of the same name: block RAM has no mask for single bits.
const FPGA: (&str, &str) = ("npu_ram_masked.sv", include_str!("../../rtl/fpga/npu_ram_masked.sv"));

/// Writes the package of constants and all sources into a folder; gives their names in the order in which a tool reads them.
///
/// # Errors
/// If a file cannot be written.
pub(super) fn write(config: &Config, target: Target, folder: &Path) -> io::Result<Vec<&'static str>> {
    fs::write(folder.join("npu_pkg.sv"), config.package())?;
    for (name, text) in SOURCES {
        let text = if target == Target::Ecp5 && *name == FPGA.0 { FPGA.1 } else { text };
        fs::write(folder.join(name), text)?;
    }
    Ok([&["npu_pkg.sv"][..], &SOURCES.iter().map(|s| s.0).collect::<Vec<_>>()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_are_those_of_the_list() {
        let list: Vec<&str> = include_str!("../../rtl/files.txt").lines().collect();
        assert_eq!(SOURCES.iter().map(|s| s.0).collect::<Vec<_>>(), list);
    }
}
