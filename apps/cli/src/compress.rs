//! `qing compress`: a device file that is sent or stored rather than mapped.

use std::{path::PathBuf, time::Instant};

use anyhow::{Result, ensure};
use qing::formats;
use serde_json::json;

use crate::{
    model,
    output::{self, bytes, ms},
    run::has_extension,
};

/// Write a network as a compressed .qing file
///
/// Weights are entropy coded at their own width, so zeros and other likely values take little, and decoded when the file is read.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file (.onnx, .tflite, .qing) or zoo:NAME, of any types
    #[arg(value_name = "MODEL")]
    model: String,
    /// Where to write [default: MODEL-compressed.qing]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let model = model::load(&args.model)?;
    let path = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{}-compressed.qing", model.name)));
    ensure!(has_extension(&path, "qing"), "{}: only .qing files are compressed", path.display());
    formats::qing::write_compressed(&model.graph, &path)?;
    let (plain, small) = (formats::qing::to_bytes(&model.graph).len() as f64, model::file_bytes(&path) as f64);
    let start = Instant::now();
    formats::qing::read(&path)?;
    let reading = start.elapsed().as_secs_f64() * 1e3;
    if args.json {
        return output::json(&json!({
            "model": args.model, "plain": plain, "compressed": small, "read_ms": reading, "output": path,
        }));
    }
    output::line(&format!("{} → {} (÷ {:.2}), read in {}", bytes(plain), bytes(small), plain / small, ms(reading)))?;
    output::line(&format!("wrote {}", path.display()))
}
