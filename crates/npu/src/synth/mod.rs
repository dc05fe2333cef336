//! From RTL to figures: area, speed and energy in real cell libraries, and what an FPGA takes.
//!
//! The tools are those of others (Yosys, OpenSTA, nextpnr): this module writes their scripts, runs them in a folder and reads their reports.
//! What they wrote stays there.

mod asic;
mod buffers;
mod ecp5;
mod gates;
mod liberty;
pub(crate) mod memories;
mod netlist;
mod power;
mod reports;
mod rtl;
mod target;
mod tools;

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

pub use self::{
    asic::{Cells, CriticalPath, Density, Part, Through},
    memories::{Composed, Memory},
    power::Energy,
    reports::Routed,
    target::Target,
    tools::Tools,
};
use crate::{Config, NpuError, simulate::Operands};

/// What is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// One element of the array: 64 lanes.
    Element,
    /// The array with one column: its control, the operand buffers of all rows and of one column, the elements of this column and those that
    /// sum the rows.
    Column,
    /// One requantizer.
    Requantize,
    /// A lane of the auxiliary unit: nine taps.
    Lane,
    /// The chip.
    Top,
}

impl Unit {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Unit); 5] = [
        ("element", Unit::Element),
        ("column", Unit::Column),
        ("requantize", Unit::Requantize),
        ("lane", Unit::Lane),
        ("top", Unit::Top),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Unit::ALL.iter().find(|u| u.1 == self).map_or("", |u| u.0)
    }

    /// The module of the RTL.
    fn module(self) -> &'static str {
        match self {
            Unit::Element => "npu_element",
            Unit::Column => "npu_array",
            Unit::Requantize => "npu_requantize",
            Unit::Lane => "npu_lane",
            Unit::Top => "npu_top",
        }
    }
}

/// What is to be built, of what, and where.
#[derive(Debug)]
pub struct Job<'a> {
    /// The chip's sizes.
    pub config: &'a Config,
    /// What is built.
    pub unit: Unit,
    /// What it is built of.
    pub target: Target,
    /// The clock that is aimed at, MHz.
    pub clock_mhz: f64,
    /// Liberty files, or folders with them.
    pub libraries: &'a [PathBuf],
    /// What an element was given in a run, for its energy; may be empty.
    pub operands: &'a [Operands],
    /// Where scripts, netlists and reports go; made if it is not there.
    pub folder: &'a Path,
    /// The programs.
    pub tools: &'a Tools,
}

impl Job<'_> {
    /// Nanoseconds of a period.
    fn period(&self) -> f64 {
        1e3 / self.clock_mhz
    }

    /// The sizes, as this unit has them.
    fn configuration(&self) -> Config {
        let columns = if self.unit == Unit::Column { 1 } else { self.config.columns };
        Config { columns, ..self.config.clone() }
    }

    /// Multiply–accumulates of 4 × 4 bits per cycle, of the columns that compute dots.
    fn macs_per_cycle(&self) -> Option<f64> {
        let elements = match self.unit {
            Unit::Element => 1,
            Unit::Column => self.config.rows,
            Unit::Top => self.config.rows * self.config.columns,
            Unit::Requantize | Unit::Lane => return None,
        };
        Some((elements * self.config.lanes) as f64 / 16.0)
    }
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The chip.
    pub config: String,
    /// What was built.
    pub unit: &'static str,
    /// What it was built of.
    pub target: &'static str,
    /// The clock that was aimed at, MHz.
    pub clock_mhz: f64,
    /// The figures.
    #[serde(flatten)]
    pub figures: Figures,
    /// What they do not count.
    pub leaves_out: &'static str,
}

/// Figures by kind of target.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Figures {
    /// In standard cells.
    Cells(Cells),
    /// In an FPGA.
    Fpga(Routed),
}

/// Builds a unit and reads what the tools report.
///
/// # Errors
/// If a program is not there (the error says how to install it) or fails, if a library is missing, or a file cannot be written.
pub fn synthesize(job: &Job<'_>) -> Result<Report, NpuError> {
    if !(job.clock_mhz.is_finite() && job.clock_mhz > 0.0) {
        return Err(NpuError::Config(format!("a clock of {} MHz", job.clock_mhz)));
    }
    let failed = |e: std::io::Error| NpuError::Library(format!("{}: {e}", job.folder.display()));
    fs::create_dir_all(job.folder).map_err(failed)?;
    let mut sources = rtl::write(&job.configuration(), job.target, job.folder).map_err(failed)?;
    // A file needs none behind it; and what is behind an array with one column is not made for that.
    let last = sources.iter().position(|s| s.strip_suffix(".sv") == Some(job.unit.module()));
    sources.truncate(last.map_or(sources.len(), |n| n + 1));
    let (figures, leaves_out) = match job.target.technology() {
        Some(technology) => (
            Figures::Cells(asic::run(job, technology, &sources)?),
            "wires, the clock tree, placement and margins for variation; cells at the typical corner",
        ),
        None => {
            let left_out = match job.unit {
                Unit::Top => "places of pins: the tool chooses them",
                _ => "pins: the unit is placed without them",
            };
            (Figures::Fpga(ecp5::run(job, &sources)?), left_out)
        }
    };
    Ok(Report {
        config: job.config.name.clone(),
        unit: job.unit.name(),
        target: job.target.name(),
        clock_mhz: job.clock_mhz,
        figures,
        leaves_out,
    })
}
