//! Data for calibration and measurement: images, arrays and labels from files, made into inputs of a network.
//!
//! [`Dataset::open`] understands the layouts data usually comes in; [`Preprocess`] turns pixels into numbers the way the
//! network was trained; [`Feed`] gathers samples into batches of the type a graph input has. What a network needs to know
//! travels in its metadata (`qing.input.*`, `qing.labels`). This crate knows no kernel, no engine and no model.

mod arrays;
mod dataset;
mod error;
mod feed;
mod folder;
mod idx;
mod mosaic;
mod pixels;
mod preprocess;
mod select;
mod synthetic;

pub mod npz;
pub mod zoo;

pub use dataset::{Dataset, Item};
pub use error::DataError;
pub use feed::Feed;
pub use pixels::Pixels;
pub use preprocess::{Channels, Extent, Layout, PRESETS, Preprocess};
pub use select::{DataSpec, Slice};
pub use synthetic::synthetic;

/// Metadata key under which a model keeps the names of its classes, separated by commas.
pub const LABELS_KEY: &str = "qing.labels";

/// The names of the classes a model's metadata gives, or none.
pub fn class_names(metadata: &std::collections::BTreeMap<String, String>) -> Vec<String> {
    metadata.get(LABELS_KEY).map(|v| v.split(',').map(|s| s.trim().to_string()).collect()).unwrap_or_default()
}
