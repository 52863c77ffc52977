//! The `skeg` binary.
fn main() {}
