//! Standard cells: Yosys maps the RTL to a library, OpenSTA times what came out.
//!
//! The hierarchy stays: what is there many times (elements, lanes, requantizers) is mapped once; nets that lead through modules are buffered
//! afterwards. Memories are black boxes; those of a library with macros get the macros' timing.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use serde::Serialize;

use super::{
    Job, Unit, buffers, liberty,
    memories::{self, Memory},
    netlist::Netlist,
    power::{self, Energy},
    reports,
    target::Technology,
};
use crate::NpuError;

/// Modules that are there many times.
const REPEATED: [&str; 4] = ["npu_element", "npu_lane", "npu_requantize", "npu_cursor"];
/// Modules that are memories.
const MEMORIES: [&str; 3] = ["npu_ram", "npu_ram_single", "npu_ram_masked"];
/// Instances of the chip, which have the names of their modules without `npu_`.
const INSTANCES: [&str; 9] = ["activations", "array", "aux", "control", "drain", "fetch", "load", "post", "sequencer"];

/// A unit in standard cells.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cells {
    /// Liberty files.
    pub libraries: Vec<String>,
    /// Of all cells, without memories, µm².
    pub area_um2: f64,
    /// How many.
    pub cells: usize,
    /// Of them flip-flops.
    pub flip_flops: usize,
    /// Modules, the largest first.
    pub parts: Vec<Part>,
    /// The slowest path.
    pub path: CriticalPath,
    /// Memories outside of the cells.
    pub memories: Vec<Memory>,
    /// Operations for the area.
    pub density: Option<Density>,
    /// Energy, where the unit was given something to compute.
    pub energy: Vec<Energy>,
}

/// What all instances of a module take, without modules inside.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Part {
    /// The module, without `npu_`.
    pub name: String,
    /// How many there are.
    pub instances: usize,
    /// Cells of all of them.
    pub cells: usize,
    /// Of them flip-flops.
    pub flip_flops: usize,
    /// Of all of them, µm².
    pub area_um2: f64,
}

/// The slowest path from register to register (or port).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CriticalPath {
    /// Nanoseconds that a period must have.
    pub ns: f64,
    /// The frequency that this allows, MHz.
    pub mhz: f64,
    /// Where it begins.
    pub from: String,
    /// Where it ends.
    pub to: String,
    /// The instances that it goes through.
    pub through: Vec<Through>,
}

/// A part of a path.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Through {
    /// Path of the instance; empty for the unit itself.
    pub instance: String,
    /// Cells in it.
    pub cells: usize,
    /// Nanoseconds.
    pub ns: f64,
}

/// Operations per second for the area, at 4 × 4 bits; a multiply–accumulate is two operations.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Density {
    /// Multiply–accumulates of 4 × 4 bits that end per cycle.
    pub macs_per_cycle: f64,
    /// The clock, MHz: that of the job, or what the slowest path allows if that is less.
    pub mhz: f64,
    /// 10^12 operations per second and mm² of all cells, memories not counted.
    pub tops_per_mm2: f64,
}

/// Maps and times a unit.
pub(super) fn run(job: &Job<'_>, technology: &Technology, sources: &[&str]) -> Result<Cells, NpuError> {
    let libraries = technology.collect(job.libraries, job.folder)?;
    let write = |name: &str, text: String| {
        let path = job.folder.join(name);
        fs::write(&path, text).map_err(|e| NpuError::Library(format!("{}: {e}", path.display())))
    };
    let read = |name: &str| {
        let path = job.folder.join(name);
        fs::read_to_string(&path).map_err(|e| NpuError::Library(format!("{}: {e}", path.display())))
    };
    let mut memories = if job.unit == Unit::Top { memories::of(&job.configuration()) } else { vec![] };
    let macros = memories::macros(technology, job.libraries)?;
    let mut timed = libraries.clone();
    if !macros.is_empty() && !memories.is_empty() {
        memories::compose(&mut memories, &macros);
        write("memories.lib", memories::timing(&memories))?;
        timed.push("memories.lib".into());
    }
    write("synth.ys", script(job, technology, sources, &libraries, &memories))?;
    job.tools.yosys(job.folder, "synth.ys")?;
    let mut netlist = Netlist::parse(&read("netlist.json")?)?;
    let parsed = libraries.iter().map(|l| liberty::parse(&read(l)?)).collect::<Result<Vec<_>, _>>()?;
    let top = job.unit.module();
    // A module by itself was mapped whole.
    let buffers = match job.unit {
        Unit::Element | Unit::Requantize | Unit::Lane => BTreeMap::new(),
        Unit::Column | Unit::Top => buffers::insert(&mut netlist, top, &parsed, technology)?,
    };
    write("netlist.v", netlist.verilog(top))?;
    let cell_library = &parsed[0];
    let unit = time_unit(cell_library);
    write("timing.tcl", timing(job, &timed, unit))?;
    job.tools.sta(job.folder, "timing.tcl")?;

    let modules = reports::modules(&read("cells.json")?)?;
    let is_flip_flop = |cell: &str| cell_library.named("cell", cell).is_some_and(|c| c.of("ff").next().is_some());
    let buffer = parsed.iter().find_map(|l| l.named("cell", technology.buffer.0)?.number("area")).unwrap_or(0.0);
    let parts = parts(&modules, top, &is_flip_flop, &buffers, buffer);
    let slowest = reports::path(&read("timing.tcl.log")?, unit)?;
    let path = critical(&slowest, job.period(), &netlist, top);
    let area_um2 = parts.iter().map(|p| p.area_um2).sum();
    let density = job.macs_per_cycle().map(|macs| {
        let mhz = path.mhz.min(job.clock_mhz);
        Density { macs_per_cycle: macs, mhz, tops_per_mm2: 2.0 * macs * mhz * 1e6 / area_um2 * 1e6 * 1e-12 }
    });
    let energy = power::run(job, technology, &libraries, job.operands)?;
    Ok(Cells {
        energy,
        libraries,
        area_um2,
        cells: parts.iter().map(|p| p.cells).sum(),
        flip_flops: parts.iter().map(|p| p.flip_flops).sum(),
        parts,
        path,
        memories,
        density,
    })
}

/// Nanoseconds of a library's unit of time.
pub(super) fn time_unit(library: &liberty::Group) -> f64 {
    if library.get("time_unit").is_some_and(|u| u.contains("ps")) { 1e-3 } else { 1.0 }
}

fn script(job: &Job<'_>, t: &Technology, sources: &[&str], libraries: &[String], memories: &[Memory]) -> String {
    let mut text = String::new();
    let s = &mut text;
    let files = sources.join(" ");
    let top = job.unit.module();
    let inside: &[&str] = match job.unit {
        Unit::Element | Unit::Requantize | Unit::Lane => &[],
        Unit::Column => &REPEATED[..1],
        Unit::Top => &REPEATED,
    };
    for module in inside {
        let _ = writeln!(s, "read_slang --top {module} {files}");
    }
    let boxes: String = inside.iter().chain(&MEMORIES).map(|m| format!(" --blackboxed-module {m}")).collect();
    // A unit alone is one module.
    let keep = if inside.is_empty() { "" } else { " --keep-hierarchy" };
    let _ = writeln!(s, "read_slang --top {top}{keep}{boxes} {files}");
    // A module that is read without its inside shows its constants as parameters, which the one that stands for it does not have.
    let _ = writeln!(s, "setparam -unset SUM t:npu_element\nsetparam -unset LOCAL t:npu_lane");
    if job.unit == Unit::Top {
        for name in INSTANCES {
            let long = format!("npu_{name}$npu_top.{name}");
            let _ = writeln!(s, "rename {long} npu_{name}\nchtype -set npu_{name} t:{long}");
        }
    }
    let _ = writeln!(s, "hierarchy -top {top}\nsynth -run coarse:check -noabc");
    let (gate, enable, clock, gated, low) = t.gate;
    let low = low.map_or(String::new(), |pin| format!(" -tie_lo {pin}"));
    let _ = writeln!(s, "clockgate -pos {gate} {enable}:{clock}:{gated}{low} -min_net_size 4");
    let libs: String = libraries.iter().map(|l| format!(" -liberty {l}")).collect();
    let picoseconds = job.period() * 1e3;
    let _ = writeln!(s, "dfflibmap{libs}\nopt");
    let _ = writeln!(
        s,
        "abc{libs} -script +strash;ifraig;scorr;dc2;dc2;strash;dch;map,-B,0.9,-D,{picoseconds:.0};topo;buffer,-c;topo;stime,-p;\
         upsize,-D,{picoseconds:.0};dnsize,-D,{picoseconds:.0};stime,-p"
    );
    // Memories of one size are one kind of cell.
    for m in memories {
        let _ = writeln!(s, "chtype -set {} t:{} r:WORDS={} %i", m.cell, m.module, m.words);
    }
    let _ = writeln!(s, "setparam -unset WORDS -unset BITS t:memory_*");
    let _ = writeln!(s, "splitnets\nsetundef -zero\nopt_clean -purge\nrename -enumerate -pattern u%");
    let _ = writeln!(s, "tee -q -o cells.json stat -json{libs}\nwrite_json netlist.json");
    text
}

/// The beginning of a script of OpenSTA: libraries, netlist and clock.
pub(super) fn loaded(job: &Job<'_>, libraries: &[String], unit: f64) -> String {
    let mut text = String::new();
    for library in libraries {
        let _ = writeln!(text, "read_liberty {library}");
    }
    let period = job.period() / unit;
    let _ = writeln!(text, "read_verilog netlist.v\nlink_design {}", job.unit.module());
    // The clock is ideal, also behind its gates: paths have nothing in common to take back.
    let _ = writeln!(text, "set sta_crpr_enabled 0");
    let _ = writeln!(text, "create_clock -name clk -period {period} [get_ports clk]");
    text
}

fn timing(job: &Job<'_>, libraries: &[String], unit: f64) -> String {
    let mut text = loaded(job, libraries, unit);
    let _ = writeln!(text, "set_input_delay 0 -clock clk [all_inputs]\nset_output_delay 0 -clock clk [all_outputs]");
    let _ = writeln!(text, "report_checks -path_delay max -format full -digits 4\nexit");
    text
}

/// What every module below the top takes, with so many buffers that were inserted, each of this area.
fn parts(
    modules: &BTreeMap<String, reports::Module>,
    top: &str,
    is_flip_flop: &dyn Fn(&str) -> bool,
    buffers: &BTreeMap<String, usize>,
    buffer: f64,
) -> Vec<Part> {
    fn count(
        modules: &BTreeMap<String, reports::Module>,
        name: &str,
        times: usize,
        counts: &mut BTreeMap<String, usize>,
    ) {
        let Some(module) = modules.get(name) else { return };
        *counts.entry(name.to_string()).or_default() += times;
        for (inside, n) in &module.num_cells_by_type {
            if inside != name {
                count(modules, inside, n * times, counts);
            }
        }
    }
    let mut counts = BTreeMap::new();
    count(modules, top, 1, &mut counts);
    let mut parts: Vec<Part> = counts
        .into_iter()
        .map(|(name, instances)| {
            let module = &modules[&name];
            let is_cell = |c: &&String| !modules.contains_key(*c) && !c.starts_with("memory_");
            let of = |wanted: &dyn Fn(&str) -> bool| {
                let cells = module.num_cells_by_type.iter().filter(|(c, _)| is_cell(c) && wanted(c));
                cells.map(|(_, n)| n * instances).sum()
            };
            let inserted = buffers.get(&name).copied().unwrap_or(0);
            Part {
                instances,
                cells: of(&|_| true) + inserted * instances,
                flip_flops: of(is_flip_flop),
                area_um2: (module.area + inserted as f64 * buffer) * instances as f64,
                name: name.trim_start_matches("npu_").to_string(),
            }
        })
        .collect();
    parts.sort_by(|a, b| b.area_um2.total_cmp(&a.area_um2));
    parts
}

fn critical(path: &reports::Path, period: f64, netlist: &Netlist, top: &str) -> CriticalPath {
    let place = |instance: &str| match instance.rsplit_once('/') {
        Some((place, _)) => place.to_string(),
        None => String::new(),
    };
    let mut through: Vec<Through> = Vec::new();
    // The pin that the path begins with adds nothing, the one that it ends with only a wire.
    let stages = &path.stages;
    for stage in &stages[1.min(stages.len())..stages.len().saturating_sub(1)] {
        let instance = place(&stage.instance);
        match through.last_mut() {
            Some(last) if last.instance == instance => {
                last.cells += 1;
                last.ns += stage.delay;
            }
            _ => through.push(Through { instance, cells: 1, ns: stage.delay }),
        }
    }
    let end =
        |stage: Option<&reports::Stage>| stage.map_or(String::new(), |s| netlist.register(top, &s.instance, &s.pin));
    let ns = period - path.slack;
    CriticalPath { ns, mhz: 1e3 / ns, from: end(stages.first()), to: end(stages.last()), through }
}
