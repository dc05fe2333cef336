//! qing (轻, "light") takes a neural network that somebody already trained, makes it as light as its task allows, and runs
//! it.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # #[cfg(feature = "data")] {
//! use qing::{Plan, PlanOptions, Session, data, formats};
//!
//! // A network that comes with the library, and the first of its test images.
//! let entry = data::zoo::find("fashion")?;
//! let graph = formats::onnx::read_bytes(&entry.bytes(), None)?;
//! let test = (entry.test)()?;
//!
//! let feed = data::Feed::for_input(&graph, 0)?;
//! let image = feed.batch(vec![test.item(0)?])?;
//! let mut session = Session::new(Plan::new(&graph, &PlanOptions::default())?.into());
//! let logits = session.run(&[image])?.remove(0).to_f32s();
//!
//! let best = (0..logits.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b]));
//! assert_eq!(best, test.label(0));
//! # }
//! # Ok(())
//! # }
//! ```
//!
//! The stages are values: a model file becomes a [`Graph`] ([`formats`]), a lighter `Graph` ([`lighten`]), a [`Plan`] for
//! this machine, and a [`Session`] that runs it. Each can be printed, saved and stopped at.
//!
//! Features: `onnx`, `tflite` (readers), `lighten`, `data` (data sets, preprocessing, the embedded networks), `train`, `npu` (the chip); all
//! are on by default. Without them the engine and the reader of `.qing` files are left: what a device needs.

pub use qing_engine::{
    Arithmetic, Bound, EngineError, Isa, LayerTime, Memory, Options as PlanOptions, Plan, Pool, Prepacked, Roof,
    Roofline, Session, Span,
};
pub use qing_graph::{Dim, Element, Graph, GraphError, Quant, Tensor, TensorError, Type};

/// The network as data: values, nodes, types, and the reference semantics of every op.
pub mod graph {
    pub use qing_graph::{
        Granularity, Node, NodeId, QuantRule, Value, ValueId, dump::dump, infer, interpret::interpret, ops, passes,
        verify::verify,
    };
}

/// Model files: ONNX, TFLite and qing's own device file.
pub mod formats {
    #[cfg(feature = "onnx")]
    pub use qing_formats::onnx;
    #[cfg(feature = "tflite")]
    pub use qing_formats::tflite;
    pub use qing_formats::{FormatError, UnsupportedNode, atomic, npy, qing, read};
}

/// Making networks lighter.
#[cfg(feature = "lighten")]
pub mod lighten {
    pub use qing_lighten::{
        Bits, Calibration, Codebook, Effort, Encoding, Factors, Granularity, Island, Layer, LightenError, Lightened,
        Options, Override, Progress, QuantizeOptions, RangeMethod, Reconstruction, Recovery, Report, Rotated, Rounding,
        Search, Smoothed, Smoothing, Totals, compare, design, factorize, layers, lighten, lighten_within, matches,
        report, score, search, shape, sparsify, totals,
    };
}

/// Training on the same graph.
#[cfg(feature = "train")]
pub mod train {
    pub use qing_train::{
        BackwardOptions, Curve, Differentiated, Measured, Purpose, Random, Schedule, TrainError, architectures,
        checkpoint, curves, data, differentiate, differentiate_with, finetune, loss, measure, optimize, parameters,
        recipe, run, trainer,
    };
}

/// The chip: a compiler for quantized graphs, and a simulator with the results and cycles of the hardware.
#[cfg(feature = "npu")]
pub mod npu {
    pub use qing_npu::{
        Config, Frame, NpuError, Program, Session,
        area::AreaTable,
        compile,
        compile::{LayerInfo, network},
        config::PRESETS,
        energy::EnergyTable,
        export::Image,
        isa,
        report::{LayerProfile, Profile},
        simulate, synth,
    };
}

/// Data sets, preprocessing and the networks the library carries inside.
#[cfg(feature = "data")]
pub mod data {
    pub use qing_data::{
        Channels, DataError, DataSpec, Dataset, Extent, Feed, Item, LABELS_KEY, Layout, PRESETS, Pixels, Preprocess,
        Slice, class_names, npz, synthetic, zoo,
    };
}
