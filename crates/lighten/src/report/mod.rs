//! What lightening gained and lost: bits, sizes, operations and noise, layer by layer.

mod advice;
mod cost;
mod html;
mod noise;
mod study;

use std::collections::BTreeMap;

use qing_graph::{Graph, Tensor};
use serde::Serialize;

pub use advice::{Advice, advice};
pub(crate) use cost::{bound, macs_by_node};
pub use cost::{layers, totals};
pub use html::html;
pub(crate) use noise::{float_sqnr, output_sqnr};
pub use study::{Histogram, LayerStudy, Study, study};

use crate::{
    LightenError, Progress,
    quantize::{Mode, Quantized, Reconstructed, Rotated, Smoothed},
    search::Mixed,
};

/// Sums over a network.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Totals {
    /// Constants that layers compute with: weights and biases.
    pub parameters: u64,
    /// Bytes of the parameters, each at its own width; ternary weights count 1.58 bits.
    pub weight_bytes: f64,
    /// Multiply–accumulates of one sample.
    pub macs: u64,
    /// Multiply–accumulates times the bits of both operands.
    pub bit_operations: u64,
}

/// A layer with weights.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Layer {
    /// Name of the node.
    pub name: String,
    /// Name of its op.
    pub op: String,
    /// Shape of its first output, where known.
    pub output: Vec<usize>,
    /// Bits of its weights.
    pub weight_bits: u8,
    /// Bits of the activations it reads.
    pub activation_bits: u8,
    /// Weights and biases.
    pub parameters: u64,
    /// Their bytes.
    pub weight_bytes: f64,
    /// Multiply–accumulates of one sample.
    pub macs: u64,
    /// Multiply–accumulates times the bits of both operands.
    pub bit_operations: u64,
    /// Power of its output over the power of what quantization of the network up to here added, in decibels; absent if
    /// not measured.
    pub sqnr_db: Option<f64>,
}

/// A node that still computes in floating point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Island {
    /// Name of the node.
    pub node: String,
    /// Name of its op.
    pub op: String,
    /// Why.
    pub reason: String,
}

/// The data ranges were chosen on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Calibration {
    /// Number of samples.
    pub samples: usize,
    /// True if the data was made up: accuracy may suffer, and nothing here is measured on real inputs.
    pub synthetic: bool,
}

/// What lightening gained and lost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Name of the model.
    pub model: String,
    /// The network as it came, with constants folded.
    pub before: Totals,
    /// The lighter network.
    pub after: Totals,
    /// Bytes of the device file of the lighter network, and of the same compressed.
    pub file_bytes: [u64; 2],
    /// Its layers with weights.
    pub layers: Vec<Layer>,
    /// Nodes left in floating point.
    pub islands: Vec<Island>,
    /// The data ranges were chosen on.
    pub calibration: Calibration,
    /// Signal-to-quantization-noise ratio of the first output, in decibels.
    pub output_sqnr_db: Option<f64>,
    /// Values whose outliers moved into the weights of the layers that read them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub smoothed: Vec<Smoothed>,
    /// Values whose outliers were spread over their channels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rotated: Vec<Rotated>,
    /// What became of every block whose numbers were learned.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<Reconstructed>,
    /// How widths were chosen, where budgets asked for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<Mixed>,
}

/// How often both networks were right.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Accuracy {
    /// Samples.
    pub samples: usize,
    /// Share of them whose class was the best guess, before and after.
    pub top1: [f64; 2],
}

/// What was measured of both networks, before and after, by whoever lightened.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Measured {
    /// Bytes of the files.
    pub file_bytes: [u64; 2],
    /// Median milliseconds of a run.
    pub latency_ms: Option<[f64; 2]>,
    /// Accuracy on labelled samples.
    pub accuracy: Option<Accuracy>,
}

/// Everything a report file says, as JSON and, by [`html`], as a page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Document {
    /// What lightening gained and lost.
    pub report: Report,
    /// Files, time and accuracy.
    pub measured: Measured,
    /// The layers, side by side with what they were.
    pub study: Option<Study>,
    /// Where something is lost and what to try.
    pub advice: Vec<Advice>,
}

impl Document {
    /// Puts together what is known, and what follows from it.
    pub fn new(report: Report, measured: Measured, study: Option<Study>) -> Document {
        let lost = measured.accuracy.as_ref().map(|a| 100.0 * (a.top1[0] - a.top1[1]));
        let advice = advice(&report, study.as_ref(), lost);
        Document { report, measured, study, advice }
    }
}

/// Compares a float network with its quantized form.
///
/// # Errors
/// If a graph cannot be run on `noise` batches.
pub(crate) fn report(
    float: &Graph,
    quantized: &Quantized,
    sample: Option<&Vec<Tensor>>,
    noise: &[Vec<Tensor>],
    threads: usize,
    calibration: Calibration,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, LightenError> {
    let typed = &quantized.assigned.graph;
    let noise = noise::measure(float, quantized, noise, threads, progress)?;
    let mut layers = layers(typed, sample.map(Vec::as_slice));
    for layer in &mut layers {
        layer.sqnr_db = noise.layers.get(&layer.name).copied();
    }
    let islands = quantized.modes().iter().zip(&float.nodes).filter_map(|(mode, node)| match mode {
        Mode::Float(reason) => {
            Some(Island { node: node.name.clone(), op: node.op.name().into(), reason: reason.clone() })
        }
        _ => None,
    });
    Ok(Report {
        model: float.name.clone(),
        before: totals(float, sample.map(Vec::as_slice)),
        after: totals(typed, sample.map(Vec::as_slice)),
        file_bytes: file_bytes(typed),
        islands: islands.collect(),
        layers,
        calibration,
        output_sqnr_db: noise.output,
        smoothed: vec![],
        rotated: vec![],
        blocks: quantized.blocks.clone(),
        search: None,
    })
}

/// Bytes of the device file, plain and compressed.
pub(crate) fn file_bytes(graph: &Graph) -> [u64; 2] {
    use qing_formats::qing::{to_bytes, to_compressed_bytes};
    [to_bytes(graph).len() as u64, to_compressed_bytes(graph).len() as u64]
}

/// Noise by layer name, and of the first output.
struct Noise {
    layers: BTreeMap<String, f64>,
    output: Option<f64>,
}
