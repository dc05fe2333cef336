//! `qing zoo`: the networks that come with qing.

use std::path::PathBuf;

use anyhow::Result;
use qing::{data::zoo, formats::atomic};
use serde_json::json;

use crate::{
    model,
    output::{self, bytes},
    table::Table,
};

/// List the networks that come with qing
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write the ONNX file of this network (NAME.onnx, here) instead of listing
    #[arg(long, value_name = "NAME")]
    save: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(name) = &args.save {
        let entry = zoo::find(name.strip_prefix("zoo:").unwrap_or(name))?;
        let path = PathBuf::from(format!("{}.onnx", entry.name));
        atomic::write(&path, entry.onnx)?;
        return output::line(&format!("wrote {}", path.display()));
    }
    let mut table = Table::new(&["model", ">size", "input", ">test images", "what it does"]);
    let mut list = vec![];
    for entry in zoo::ZOO {
        let name = format!("zoo:{}", entry.name);
        let (input, _) = model::signature(&model::load(&name)?.graph);
        let images = (entry.test)()?.len();
        list.push(json!({"model": name, "bytes": entry.onnx.len(), "input": input, "test_images": images, "about": entry.about}));
        table.row([name, bytes(entry.onnx.len() as f64), input.join(", "), images.to_string(), entry.about.into()]);
    }
    if args.json { output::json(&json!(list)) } else { output::print(&table.render()) }
}
