//! The program `slotwarden`.

use std::process::ExitCode;

use slotwarden::cli::{self, Program};

fn main() -> ExitCode {
    let program = Program {
        daemon: slotwarden::appliance::run,
        hsm_worker: slotwarden::hsm_worker::main,
        readers: Some(slotwarden::appliance::card_readers),
    };
    cli::main(&program, std::env::args_os())
}
