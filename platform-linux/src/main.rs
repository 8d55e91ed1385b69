//! The program `slotwarden`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(verb) if verb == "hsm-worker" => slotwarden::hsm_worker::main(),
        _ => ExitCode::from(64),
    }
}
