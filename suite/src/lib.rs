//! What the conformance tests share: comparison of tensors, parallel running of cases, and lists of what passes.
//!
//! The cases themselves are those of ONNX, found through the environment, and those that ONNX Runtime computed with the
//! generators beside this crate. Every executor of qing must give the same results on them.

mod compare;
mod lists;
mod parallel;

pub use compare::{difference, exactly, within};
pub use lists::{CaseList, Outcome};
pub use parallel::run_all;
