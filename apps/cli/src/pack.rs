//! `qing pack`: a device file that is loaded without being read.

use std::{path::PathBuf, time::Instant};

use anyhow::{Result, ensure};
use qing::{Plan, PlanOptions, Prepacked, formats, graph::passes};
use serde_json::json;

use crate::{
    model,
    output::{self, bytes, ms},
    run::has_extension,
};

/// Write a network as a .qing file with its weights packed for this machine's kernels
///
/// Loading such a file on a machine with the same instruction set neither reads the weights nor orders them anew: they are used where they lie in
/// the file, and processes that run the same network share them. Elsewhere it is loaded like any other. The file has the weights twice.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file (.onnx, .tflite, .qing) or zoo:NAME, of any types
    #[arg(value_name = "MODEL")]
    model: String,
    /// Where to write [default: MODEL-packed.qing]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let model = model::load(&args.model)?;
    let path = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{}-packed.qing", model.name)));
    ensure!(has_extension(&path, "qing"), "{}: only .qing files hold packed weights", path.display());
    let options = PlanOptions::default();
    let packing = options.packing();
    // What every plan would begin with; then the graph as it will be read, so that plans number its nodes alike.
    let mut graph = model.graph;
    passes::normalize(&mut graph)?;
    let graph = formats::qing::read_bytes(&formats::qing::to_bytes(&graph).into())?;
    let packed = Plan::prepack(&graph, &options)?.1;
    let own = formats::qing::to_bytes(&graph).len() as f64;
    formats::qing::write_prepacked(&graph, &[(packing.clone(), packed)], &path)?;
    let start = Instant::now();
    let opened = formats::qing::open(&path, &packing)?;
    Plan::new(&opened.graph, &PlanOptions { prepacked: opened.packed.and_then(Prepacked::new), ..options })?;
    let loading = start.elapsed().as_secs_f64() * 1e3;
    let size = model::file_bytes(&path) as f64;
    if args.json {
        return output::json(&json!({
            "model": args.model, "packing": packing, "plain": own, "packed": size, "load_ms": loading, "output": path,
        }));
    }
    output::line(&format!("{} → {}, packed for {packing}, loaded in {}", bytes(own), bytes(size), ms(loading)))?;
    output::line(&format!("wrote {}", path.display()))
}
