//! A Lattice ECP5-85F: Yosys maps the RTL, nextpnr places and routes it.

use std::{fmt::Write as _, fs};

use super::{Job, Unit, reports};
use crate::NpuError;

/// Builds a unit without pins, the chip with them: without, its clock would not get the network that the FPGA has for clocks.
pub(super) fn run(job: &Job<'_>, sources: &[&str]) -> Result<reports::Routed, NpuError> {
    let mut script = String::new();
    let top = job.unit.module();
    // Cells of the FPGA are there already; their descriptions are for simulation and proofs.
    let cells =
        ["CCU2C", "LUT4", "PFUMX", "L6MUX21", "TRELLIS_FF"].map(|cell| format!("--blackboxed-module {cell} ")).concat();
    let _ = writeln!(script, "read_slang --top {top} {cells}{}", sources.join(" "));
    let _ = writeln!(script, "synth_ecp5 -top {top} -json netlist.json");
    let io = |name: &str| {
        let path = job.folder.join(name);
        move |e: std::io::Error| NpuError::Library(format!("{}: {e}", path.display()))
    };
    fs::write(job.folder.join("synth.ys"), script).map_err(io("synth.ys"))?;
    job.tools.yosys(job.folder, "synth.ys")?;
    let mhz = format!("{}", job.clock_mhz);
    let pins: &[&str] = match job.unit {
        Unit::Top => &["--lpf-allow-unconstrained", "--router", "router2"],
        _ => &["--out-of-context"],
    };
    let mut arguments = vec![
        "--85k",
        "--package",
        "CABGA756",
        "--speed",
        "6",
        "--json",
        "netlist.json",
        "--freq",
        &mhz,
        "--report",
        "routed.json",
        "--timing-allow-fail",
        "--seed",
        "1",
    ];
    arguments.extend(pins);
    job.tools.nextpnr(job.folder, "nextpnr", &arguments)?;
    let text = fs::read_to_string(job.folder.join("routed.json")).map_err(io("routed.json"))?;
    reports::routed(&text)
}
