//! Networks with fewer weights: whole channels taken out ([`channels`]).

pub mod channels;
