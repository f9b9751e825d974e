//! The sparseland command.
fn main() {}
