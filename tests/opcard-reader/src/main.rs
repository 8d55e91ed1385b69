//! OpenPGP cards that nobody here wrote, behind a virtual PIN pad.
//!
//! `opcard-reader SOCKET CONTROL CARD…`: cards of these names, each the card application of
//! Nitrokey's devices (crate `opcard`) on a Trussed in memory. The first lies in the reader at
//! SOCKET; orders at CONTROL are those of `slotwarden-sim reader`. Ends with its standard input.
//!
//! A card is as it leaves the factory: user PIN 123456, admin PIN 12345678, serial 1, 2, …
//! What is written stays while the program runs, also over a removal and a reset.
//! `opcard` is under the LGPL: it is in this program only.

mod card;
mod dispatch;

use std::io::{self, Read as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use slotwarden_sim::reader::Server;
use slotwarden_sim::reader::desk::Desk;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [socket, control, cards @ ..] = &words[..] else {
        eprintln!("opcard-reader SOCKET CONTROL CARD…");
        return ExitCode::from(64);
    };
    match serve(Path::new(socket), Path::new(control), cards) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("opcard-reader: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(socket: &Path, control: &Path, cards: &[String]) -> io::Result<()> {
    let desk = Arc::new(Desk::new(Server::start(&[socket])?));
    for (name, serial) in cards.iter().zip(1..) {
        desk.put_other(name, Arc::new(Mutex::new(card::OpenPgp::start(serial))));
    }
    if let Some(first) = cards.first() {
        let said = desk.order(&format!("insert {first}"));
        assert_eq!(said, "ok", "the card was just put there");
    }
    let _ear = desk.listen(control)?;
    println!("ready");
    io::stdin().lock().read_to_end(&mut Vec::new())?;
    Ok(())
}
