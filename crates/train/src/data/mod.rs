//! Batches to train on: shuffled, changed at random, prepared ahead on a thread of their own.
//!
//! What a sample becomes depends on the seed, the epoch and the sample alone, so runs repeat bit for bit however many
//! threads there are, and a resumed run meets the batches it would have met.

mod augment;
mod loader;
mod masks;

pub use augment::{Augment, Colour, Cutout, Fill};
pub use loader::{Batch, Loader, Source};
pub use masks::Masks;
