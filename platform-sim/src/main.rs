//! The program `slotwarden-sim`.

fn main() {}
