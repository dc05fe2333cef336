//! An ultra-low-bit NPU: instruction set, compiler, simulator, RTL.
//!
//! A quantized [`Graph`](qing_graph::Graph) becomes a program; the simulator runs it with the results and the cycles of the
//! chip, to the bit. `docs/isa.md` specifies the chip for those who build it or program it otherwise; `rtl/` holds it in
//! SystemVerilog. This crate knows no CPU kernel: what it computes is held to [`qing_graph::interpret`].

pub mod area;
pub mod compile;
pub mod config;
pub mod energy;
mod error;
pub mod export;
pub mod isa;
pub mod report;
mod run;
pub mod simulate;
pub mod synth;

pub use compile::{Program, compile};
pub use config::Config;
pub use error::NpuError;
pub use run::{Frame, Session};
