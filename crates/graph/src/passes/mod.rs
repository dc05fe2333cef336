//! Rewrites that more than one crate needs: folding what is constant, recognising what exporters took apart, and going
//! between ONNX's QuantizeLinear form and typed values.
//!
//! Each pass is a set of [`Rule`](crate::rewrite::Rule)s in a file of its own; none changes what a float graph computes by
//! more than rounding, and none knows a CPU or a file format.

mod fold_affine;
mod fold_constants;
mod from_qdq;
mod fuse_activations;
mod simplify;
mod support;
mod to_qdq;

pub use fold_affine::fold_affine;
pub use fold_constants::{fold_all_constants, fold_constants};
pub use from_qdq::from_qdq;
pub use fuse_activations::fuse_activations;
pub use simplify::simplify;
pub use to_qdq::to_qdq;

use crate::{Graph, GraphError};

/// What every imported float graph goes through before it is run or lightened: constants folded, identities removed,
/// activation functions joined, batch normalization merged into the layer before it. Quantized weights stay recognisable.
///
/// # Errors
/// If a node cannot be evaluated or a rewrite would not type.
pub fn normalize(graph: &mut Graph) -> Result<(), GraphError> {
    loop {
        let changes = fold_constants(graph)? + simplify(graph)? + fuse_activations(graph)? + fold_affine(graph)?;
        if changes == 0 {
            return Ok(());
        }
    }
}
