//! MODEL on the command line: a file, or `zoo:NAME`.

use std::{fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use qing::{Graph, PlanOptions, Prepacked, data::zoo, formats};

use crate::run::has_extension;

/// A model and where it came from.
#[derive(Debug)]
pub(crate) struct Model {
    /// Name without folder and extension: `fashion`.
    pub name: String,
    /// Size of the file in bytes, external data included.
    pub file_bytes: u64,
    /// The network.
    pub graph: Graph,
    /// Its weights as they were packed for this machine before, if the file has them (`qing pack`).
    pub prepacked: Option<Prepacked>,
    /// What the zoo knows of it, if it came from there.
    pub entry: Option<&'static zoo::Entry>,
}

/// Reads MODEL.
pub(crate) fn load(text: &str) -> Result<Model> {
    if let Some(name) = text.strip_prefix("zoo:") {
        let entry = zoo::find(name)?;
        let graph = formats::onnx::read_bytes(&entry.bytes(), None).with_context(|| format!("zoo:{name}"))?;
        return Ok(Model {
            name: name.into(),
            file_bytes: entry.onnx.len() as u64,
            graph,
            prepacked: None,
            entry: Some(entry),
        });
    }
    let path = Path::new(text);
    if !path.is_file() {
        bail!("{text}: no such file; MODEL is a file (.onnx, .tflite, .qing) or zoo:NAME (see `qing zoo`)");
    }
    let (graph, prepacked) = if formats::qing::is(path) {
        let opened = formats::qing::open(path, &PlanOptions::default().packing())?;
        (opened.graph, opened.packed.and_then(Prepacked::new))
    } else {
        (formats::read(path)?, None)
    };
    let name = path.file_stem().map_or_else(|| "model".into(), |s| s.to_string_lossy().into_owned());
    Ok(Model { name, file_bytes: file_bytes(path), graph, prepacked, entry: None })
}

/// Refuses a name that says no format that networks are written in.
pub(crate) fn check_output(path: &Path) -> Result<()> {
    let known = has_extension(path, "onnx") || has_extension(path, "qing");
    ensure!(known, "{}: .onnx and .qing can be written", path.display());
    Ok(())
}

/// Writes a network in the format that its name says, which [`check_output`] has let pass.
pub(crate) fn write(graph: &Graph, path: &Path) -> Result<()> {
    if has_extension(path, "qing") {
        formats::qing::write(graph, path)?;
    } else {
        formats::onnx::write(graph, path, &formats::onnx::WriteOptions::default())?;
    }
    Ok(())
}

/// Size of a model on disk, with the weights an ONNX file keeps beside itself.
pub(crate) fn file_bytes(path: &Path) -> u64 {
    let size = |p: &Path| fs::metadata(p).map_or(0, |m| m.len());
    let mut beside = path.as_os_str().to_owned();
    beside.push(".data");
    size(path) + size(Path::new(&beside))
}

/// Types of inputs and outputs, as a dump shows them.
pub(crate) fn signature(graph: &Graph) -> (Vec<String>, Vec<String>) {
    let typed = |ids: &[qing::graph::ValueId]| {
        ids.iter().map(|id| format!("{}: {}", graph.value(*id).name, graph.ty(*id))).collect()
    };
    (typed(&graph.inputs), typed(&graph.outputs))
}
