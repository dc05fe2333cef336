//! The RTL does what the simulator does: results, memories, counters, and cycles with no difference.
//!
//! Needs the models that `suite/npu/run` builds, whose folder `QING_NPU_RTL` names; skips without. `QING_NPU_PROGRAMS` says how many random
//! programs there are, `QING_NPU_POINTS` at how many random points the requantizer is compared.

mod errors;
mod networks;
mod programs;
mod random;
mod requantize;
mod rtl;
