//! `qing npu explore`: which chip and which bits.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use qing::{
    Graph,
    data::{Dataset, Feed},
    lighten::{Bits, Effort, Options, QuantizeOptions, Rounding, lighten},
    npu::{AreaTable, Config, EnergyTable, PRESETS, Session},
};
use serde_json::{Value, json};

use super::{
    energy_table, pareto, read,
    run::{boundary, check},
    traffic,
};
use crate::{
    accuracy,
    calibration::DataArgs,
    feeds::{Feeds, PreprocessArgs},
    model::{self, Model},
    output::{self, note, percent},
    process,
    progress::Progress,
    runner::{Runner, random_inputs},
    table::Table,
};

const READING: &str = "\
How to read it: a row with a star is on the Pareto front: no other is as good in latency, energy, area and accuracy, and better in one of them.
Accuracy is the engine's, and every row's frame is held to the engine bit for bit. Without labelled data, `output` is the signal-to-noise ratio
of the network's output against floating point. `logic` and `memory` are areas before placement, by the parts of `qing npu synth`.

  qing npu explore net.onnx --calibrate photos --evaluate test --bits w8a8,w4a4,w2a2 --chips edge,core,mine.toml --plot front.svg";

/// Compare chips and widths for a network: area, latency, energy and accuracy as one Pareto table
///
/// A quantized network is measured as it is on every chip; one in floating point is lightened to every pair of widths first.
#[derive(Debug, clap::Args)]
#[command(after_help = READING)]
pub(crate) struct Args {
    /// A file (.onnx, .tflite, .qing) or zoo:NAME
    #[arg(value_name = "MODEL")]
    model: String,
    /// Widths to try for a network in floating point
    #[arg(long, value_name = "wXaY,…", value_delimiter = ',', default_value = "w8a8,w4a8,w4a4,w2a4,w2a2")]
    bits: Vec<Bits>,
    /// Least bits for the first and the last layer; 0 to treat them like the others
    #[arg(long, value_name = "BITS", default_value_t = 8, value_parser = clap::value_parser!(u8).range(0..=8))]
    edge_bits: u8,
    /// How weights become integers: nearest, feedback, reconstruct (minutes for each pair of widths) [default: feedback]
    #[arg(long, value_name = "METHOD")]
    rounding: Option<Rounding>,
    /// Chips to try: presets, or TOML files (those of the presets are in crates/npu/presets)
    #[arg(long, value_name = "NAME|FILE,…", value_delimiter = ',', default_value = "nano,edge,core")]
    chips: Vec<PathBuf>,
    /// Energy of their operations: asap7, ihp-sg13g2, published-45nm or a TOML file
    #[arg(long, value_name = "NAME|FILE", default_value = "asap7")]
    energy: PathBuf,
    /// Area of their parts: asap7, ihp-sg13g2 or a TOML file
    #[arg(long, value_name = "NAME|FILE", default_value = "asap7")]
    area: PathBuf,
    /// Clock of all chips [default: that of each]
    #[arg(long, value_name = "MHZ", value_parser = clap::value_parser!(u64).range(1..))]
    clock: Option<u64>,
    /// Write the table as a picture: accuracy over latency and over energy
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Threads for lightening and accuracy [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    preprocess: PreprocessArgs,
}

/// A network at some widths.
struct Form {
    bits: String,
    graph: Graph,
    accuracy: Option<f64>,
    output_db: Option<f64>,
}

/// A network at some widths on a chip.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// Its widths.
    pub bits: String,
    /// The chip.
    pub chip: String,
    /// Share of samples whose class was the best guess.
    pub accuracy: Option<f64>,
    /// Signal-to-noise ratio of the output against floating point, in decibels.
    pub output_db: Option<f64>,
    /// What the chip makes of it.
    pub outcome: Outcome,
    /// No other row is as good in everything and better in something.
    pub front: bool,
}

/// What a chip makes of a network.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// It cannot hold it: why.
    DoesNotFit(String),
    /// It computes it.
    Measured(Measured),
}

/// A frame on a chip.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    /// Cycles of a frame.
    pub cycles: u64,
    /// Milliseconds of a frame.
    pub ms: f64,
    /// Microjoules of a frame.
    pub microjoules: f64,
    /// Square millimetres of the chip's logic.
    pub logic_mm2: f64,
    /// Square millimetres of its memories.
    pub memory_mm2: f64,
    /// Bytes of the weights as they lie on the chip.
    pub weight_bytes: usize,
    /// Share of the array's elements in use.
    pub array_use: f64,
    /// What comes from outside and goes there, in words.
    pub external: String,
}

impl Row {
    /// What should be small, if the chip computes it: milliseconds, microjoules, square millimetres, and what is lost.
    pub(super) fn costs(&self) -> Option<[f64; 4]> {
        let Outcome::Measured(m) = &self.outcome else { return None };
        let lost = self.accuracy.map(|a| 1.0 - a).or(self.output_db.map(|db| -db));
        Some([m.ms, m.microjoules, m.logic_mm2 + m.memory_mm2, lost.unwrap_or(0.0)])
    }
}

/// Runs it.
pub(super) fn run(args: &Args) -> Result<()> {
    let chips = args.chips.iter().map(|chip| chip_of(chip, args.clock)).collect::<Result<Vec<_>>>()?;
    let (energy, area) = (energy_table(&args.energy)?, area_table(&args.area)?);
    if let Some(path) = &args.plot {
        pareto::check(path)?;
    }
    ensure!(!args.bits.is_empty(), "--bits: no widths to try");
    let model = model::load(&args.model)?;
    let feeds = Feeds::new(&model.graph, &args.preprocess)?;
    let test = args.data.test(&model)?;
    let forms = forms(args, &model, &feeds, test.as_ref())?;

    let mut progress = Progress::new("simulate", forms.len() * chips.len());
    let mut rows = vec![];
    for form in &forms {
        for chip in &chips {
            let outcome = measure(form, chip, &energy, &area)?;
            let (bits, chip) = (form.bits.clone(), chip.name.clone());
            let (accuracy, output_db) = (form.accuracy, form.output_db);
            rows.push(Row { bits, chip, accuracy, output_db, outcome, front: false });
            progress.set(rows.len());
        }
    }
    drop(progress);
    pareto::mark(&mut rows);
    if let Some(path) = &args.plot {
        pareto::write(path, &model.name, &rows)?;
        note(&format!("wrote {}", path.display()));
    }
    if args.json {
        return output::json(&json!({
            "model": args.model, "samples": test.map(|t| t.len()), "energy": energy.name, "area": area.name,
            "rows": rows.iter().map(as_json).collect::<Vec<_>>(),
        }));
    }
    show(&rows)?;
    if let Some(test) = &test {
        output::line(&format!("accuracy: {} samples of {}", test.len(), test.name()))?;
    }
    output::line(&format!("energy `{}`: {}; leaves out {}", energy.name, energy.source, energy.leaves_out))?;
    output::line(&format!("area `{}`: {}; leaves out {}", area.name, area.source, area.leaves_out))
}

/// A chip by its preset's name or its file, with this clock.
fn chip_of(named: &Path, clock: Option<u64>) -> Result<Config> {
    let preset = PRESETS.iter().find(|p| Some(p.0) == named.to_str());
    let mut config = match preset {
        Some((name, _)) => Config::preset(name)?,
        None => read(named, Config::parse)
            .with_context(|| format!("--chips: a preset ({}) or a file", PRESETS.map(|p| p.0).join(", ")))?,
    };
    config.clock_mhz = clock.unwrap_or(config.clock_mhz);
    Ok(config)
}

/// A table of areas by its name or its file.
fn area_table(named: &Path) -> Result<AreaTable> {
    if let Some(table) = named.to_str().and_then(AreaTable::named) {
        return Ok(table);
    }
    read(named, AreaTable::parse)
}

/// The network as it is if it is quantized, else at every pair of widths.
fn forms(args: &Args, model: &Model, feeds: &Feeds, test: Option<&Dataset>) -> Result<Vec<Form>> {
    let threads = args.threads.unwrap_or_else(process::cores);
    let accuracy = |graph: &Graph| -> Result<Option<f64>> {
        let Some(data) = test else { return Ok(None) };
        let feed: &Feed = feeds.only()?;
        Ok(Some(accuracy::measure(&mut Runner::new(graph, threads), data, feed, 1, "evaluate")?.top1()))
    };
    if model.graph.values().any(|(_, v)| v.ty.quant.is_some()) {
        let accuracy = accuracy(&model.graph)?;
        return Ok(vec![Form { bits: "as it is".into(), graph: model.graph.clone(), accuracy, output_db: None }]);
    }
    let learns = matches!(args.rounding, Some(Rounding::Reconstruct(_)));
    let batches = args.data.calibration(model, feeds, learns)?;
    let mut forms = vec![];
    for &bits in &args.bits {
        let quantize = QuantizeOptions {
            edge_bits: (args.edge_bits > 0).then_some(args.edge_bits),
            ..Effort::Standard.apply(QuantizeOptions::with_bits(bits))
        };
        let quantize = match args.rounding {
            Some(rounding) => rounding.apply(quantize),
            None => quantize,
        };
        let mut progress = Progress::new("lighten", 1);
        let options = Options { quantize, threads, ..Options::default() };
        let lighter = lighten(&model.graph, &batches.tensors, &options, &mut |p| {
            progress.stage(p.stage, p.done, p.total);
        })?;
        drop(progress);
        let bits = format!("w{}a{}", bits.weights, bits.activations);
        let accuracy = accuracy(&lighter.graph)?;
        forms.push(Form { bits, graph: lighter.graph, accuracy, output_db: lighter.report.output_sqnr_db });
    }
    Ok(forms)
}

/// A frame of a network on a chip, held to the engine.
fn measure(form: &Form, config: &Config, energy: &EnergyTable, area: &AreaTable) -> Result<Outcome> {
    let program = match qing::npu::compile(&form.graph, config) {
        Ok(program) => program,
        Err(error) => return Ok(Outcome::DoesNotFit(error.to_string())),
    };
    let weight_bytes = program.layers.iter().map(|l| l.weight_words).sum::<usize>() * config.columns * 8;
    let external = traffic(&program);
    let mut session = Session::new(program)?;
    let inputs = random_inputs(&session.program().graph, 1)?;
    let frame = session.run(&inputs)?;
    check(&frame, &Runner::new(&boundary(&session), 1).run(&inputs)?, &session)?;
    let profile = session.program().profile(&frame.run);
    Ok(Outcome::Measured(Measured {
        cycles: profile.cycles,
        ms: profile.cycles as f64 / config.clock_mhz as f64 / 1e3,
        microjoules: energy.parts(&frame.run.counters, config).iter().map(|p| p.1).sum(),
        logic_mm2: area.logic(config) * 1e-6,
        memory_mm2: area.memories(config) * 1e-6,
        weight_bytes,
        array_use: profile.array_use,
        external,
    }))
}

fn as_json(row: &Row) -> Value {
    let measured = match &row.outcome {
        Outcome::DoesNotFit(_) => Value::Null,
        Outcome::Measured(m) => json!({
            "cycles": m.cycles, "ms": m.ms, "microjoules": m.microjoules, "logic_mm2": m.logic_mm2, "memory_mm2": m.memory_mm2,
            "weight_bytes": m.weight_bytes, "array_use": m.array_use, "external": m.external,
        }),
    };
    let why = match &row.outcome {
        Outcome::DoesNotFit(why) => Some(why),
        Outcome::Measured(_) => None,
    };
    json!({
        "bits": row.bits, "chip": row.chip, "accuracy": row.accuracy, "output_db": row.output_db, "front": row.front,
        "measured": measured, "does_not_fit": why,
    })
}

fn show(rows: &[Row]) -> Result<()> {
    let judged = rows.iter().any(|r| r.accuracy.is_some());
    let fidelity = if judged { ">accuracy" } else { ">output" };
    let head = ["", "bits", "chip", fidelity, ">cycles", ">ms", ">µJ", ">logic mm²", ">memory", ">weights", ">array"];
    let mut table = Table::new(&[&head[..], &["external or what does not fit"]].concat());
    for row in rows {
        let lost = match (row.accuracy, row.output_db) {
            (Some(accuracy), _) => percent(accuracy),
            (None, Some(db)) => format!("{db:.1} dB"),
            (None, None) => "–".into(),
        };
        let star = if row.front { "*" } else { "" };
        let mut cells = vec![star.to_string(), row.bits.clone(), row.chip.clone(), lost];
        match &row.outcome {
            Outcome::DoesNotFit(why) => {
                cells.push("–".into());
                cells.resize(head.len(), String::new());
                cells.push(why.clone());
            }
            Outcome::Measured(m) => cells.extend([
                m.cycles.to_string(),
                format!("{:.3}", m.ms),
                format!("{:.2}", m.microjoules),
                format!("{:.3}", m.logic_mm2),
                format!("{:.3}", m.memory_mm2),
                output::bytes(m.weight_bytes as f64),
                percent(m.array_use),
                m.external.clone(),
            ]),
        }
        table.row(cells);
    }
    output::print(&table.render())
}
