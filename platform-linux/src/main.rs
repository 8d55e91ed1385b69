//! The program `slotwarden`.

fn main() {}
