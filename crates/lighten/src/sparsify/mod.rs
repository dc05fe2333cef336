//! Networks with fewer weights: whole channels taken out ([`channels`]), or single weights and blocks of them made zero ([`weights`]).

pub mod channels;
pub mod weights;
