//! The command line of qing.
fn main() {}
