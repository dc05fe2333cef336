//! The chip's SystemVerilog, carried inside the library, as files for a tool.

use std::{fs, io, path::Path};

use super::Target;
use crate::Config;

/// Every source of `rtl/files.txt` in its order: a file may use those before it.
const SOURCES: &[(&str, &str)] = &[
    ("npu_types.sv", include_str!("../../rtl/npu_types.sv")),
    ("npu_select.sv", include_str!("../../rtl/npu_select.sv")),
    ("npu_copies.sv", include_str!("../../rtl/npu_copies.sv")),
    ("npu_ram.sv", include_str!("../../rtl/npu_ram.sv")),
    ("npu_ram_masked.sv", include_str!("../../rtl/npu_ram_masked.sv")),
    ("npu_normalize.sv", include_str!("../../rtl/npu_normalize.sv")),
    ("npu_round.sv", include_str!("../../rtl/npu_round.sv")),
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

/// What an FPGA has in place of sources of the same name: block RAM has no mask for single bits and
/// reads in every cycle, carry chains add in fewer LUTs, and so do its own multiplexers choose; copies of a signal stay as many.
const FPGA: [(&str, &str); 6] = [
    ("npu_select.sv", include_str!("../../rtl/fpga/npu_select.sv")),
    ("npu_ram.sv", include_str!("../../rtl/fpga/npu_ram.sv")),
    ("npu_ram_masked.sv", include_str!("../../rtl/fpga/npu_ram_masked.sv")),
    ("npu_copies.sv", include_str!("../../rtl/fpga/npu_copies.sv")),
    ("npu_element.sv", include_str!("../../rtl/fpga/npu_element.sv")),
    ("npu_lane.sv", include_str!("../../rtl/fpga/npu_lane.sv")),
];
/// What only these use: chains of the FPGA's own carry cells.
const CARRY: (&str, &str) = ("npu_carry.sv", include_str!("../../rtl/fpga/npu_carry.sv"));

/// Writes the package of constants and all sources into a folder; gives their names in the order in which a tool reads them.
///
/// # Errors
/// If a file cannot be written.
pub(super) fn write(config: &Config, target: Target, folder: &Path) -> io::Result<Vec<&'static str>> {
    fs::write(folder.join("npu_pkg.sv"), config.package())?;
    let mut names = vec!["npu_pkg.sv"];
    let fpga = target == Target::Ecp5;
    for (name, text) in fpga.then_some(&CARRY).into_iter().chain(SOURCES) {
        let own = FPGA.iter().find(|(of, _)| fpga && of == name);
        fs::write(folder.join(name), own.map_or(*text, |(_, text)| text))?;
        names.push(name);
    }
    Ok(names)
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
