//! Prints the figures of the README: `tests/figures` builds and runs this.

mod activation;
mod appliance;
mod cards;
mod dispatch;
mod shares;
mod transfer;
mod whole;
#[path = "../../../firmware/src/world.rs"]
#[expect(unreachable_pub, reason = "shared with programs that are crates of their own")]
mod world;

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["dispatch", way, story, rounds] => match rounds.parse() {
            Ok(rounds) => dispatch::live(way, story, rounds),
            Err(error) => Err(format!("{rounds}: {error}")),
        },
        ["core", rounds] => match rounds.parse() {
            Ok(rounds) => whole::live(rounds).map(drop),
            Err(error) => Err(format!("{rounds}: {error}")),
        },
        ["dispatch"] => dispatch::print(),
        ["core"] => whole::print(),
        ["activation"] => activation::print(),
        ["shares"] => shares::print(),
        ["transfer"] => transfer::print(),
        ["transfer", what, keys] => match keys.parse() {
            Ok(keys) => transfer::one(what, keys),
            Err(error) => Err(format!("{keys}: {error}")),
        },
        // By itself: it takes this thread to a mount namespace of its own.
        ["cards"] => cards::print(),
        [] => dispatch::print()
            .and_then(|()| whole::print())
            .and_then(|()| shares::print())
            .and_then(|()| activation::print()),
        _ => Err("usage: tests/figures [dispatch|core|shares|activation|cards|transfer]".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("figures: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
