//! The device file: one graph in one file that is used where it lies.
//!
//! ```text
//! offset  bytes
//!      0      8  magic 89 51 49 4E 47 0D 0A 1A (a text transfer breaks it visibly)
//!      8      4  version of the format, little-endian
//!     12      4  CRC-32 of the header
//!     16      8  length of the header in bytes
//!     24      8  offset of the data section, a multiple of 64
//!     32      8  length of the data section
//!     40      4  CRC-32 of the data section
//!     44      4  CRC-32 of the 44 bytes before
//!     48      …  header: Protocol Buffers, see `schema.rs`; zeros up to the data section
//!      …      …  data: tensors at their own width, each at a multiple of 64 bytes from the start of the file
//! ```
//!
//! A reader maps the file and points its tensors into the map. Weights of 1–8 bits are packed as
//! [`Element::Bits`](qing_graph::Element) says. There is no code per op: ops are names with attributes.
//!
//! Version 2 is the same, compressed, for files that are sent or stored rather than mapped: the header is its length (32 bits)
//! and its bytes, coded; a tensor is coded where that is shorter (`code/`), and decoded when the file is read. What is not
//! compressed is written as version 1.

//! Version 3 is version 1 with sections behind the data, which the header names: weights packed for the kernels of one instruction
//! set, so that a network is loaded without being read. Who has no use for them skips them.

#[cfg(feature = "compress")]
mod code;
mod read;
mod schema;
mod write;

pub use read::{Opened, is, open, open_bytes, read, read_bytes};
pub use write::{to_bytes, to_prepacked_bytes, write, write_prepacked};
#[cfg(feature = "compress")]
pub use write::{to_compressed_bytes, write_compressed};

/// First bytes of every file.
pub const MAGIC: [u8; 8] = *b"\x89QING\r\n\x1a";
/// The newest version this reader and writer speak. A reader refuses newer ones.
pub const VERSION: u32 = PREPACKED;
/// The version of files that are used where they lie.
const PLAIN: u32 = 1;
/// That of compressed files.
const COMPRESSED: u32 = 2;
/// That of files with packed weights beside their own.
const PREPACKED: u32 = 3;
const PREFIX: usize = 48;
/// A byte of a compressed file stands for at most so many.
const DENSEST: usize = 1024;
const ALIGN: usize = 64;

#[cfg(all(test, feature = "compress"))]
mod tests;
