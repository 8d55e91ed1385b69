//! An appliance to try: the daemon's own loop, control socket, store and hand-over file, on
//! simulated tokens, in a directory that is removed at the end.
//!
//! Where `/dev/shm` is, the directory is in memory and so the hand-over file is allowed;
//! elsewhere handing over is refused, and the status says why. Codes here are worthless:
//! they lie beside the configuration, for the commands to name.
//!
//! A power cut (`power`) ends the loop without a word to store and tokens: from that moment
//! nothing is written, what no token had settled is lost, and the loop starts again from
//! the records.

mod bench;
mod running;
mod screen;
mod stage;
mod table;
mod typed;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead as _};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;
use slotwarden::cli::{self, Program};
use slotwarden::problem::{Own, Problem};
use slotwarden::status_json::StatusView;
use slotwarden::{appliance, output};

use crate::pin_pad::Entry;
use bench::Bench;
use running::Running;
use screen::Screen;
use stage::{SLOTS, Stage};
use table::{CARDS, Table};
use typed::Typed;

/// How often seconds are counted down on the screen.
const TICK: Duration = Duration::from_secs(1);

/// Runs the appliance until somebody ends it, or for so many seconds.
///
/// # Errors
/// Why it could not start or go on.
pub fn run(seconds: Option<u64>) -> Result<(), Problem> {
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let (happens, happened) = channel();
    watch_signals(&happens).map_err(|error| cannot("signals", &error))?;
    let stage = Stage::set().map_err(|error| cannot("its directory", &error))?;
    let log = File::create(stage.path("log")).map_err(|error| cannot("the log", &error))?;
    appliance::start_log(Mutex::new(log));
    appliance::harden();
    let bench = Bench::new(stage.tokens);
    let table = Table::new();
    let mut running = Some(Running::start(&stage, &bench, &table, &happens)?);
    read_typed(&happens);
    let mut screen = Screen::open(stage.below());
    let mut ended = Ok(());
    while let Some(now_running) = &running {
        let happening = next(&happened, until, screen.ticks());
        match happening {
            Happening::Status(status) => screen.status(*status),
            Happening::Tick => {
                if let Some(status) = now_running.status() {
                    screen.status(status);
                }
            }
            Happening::Resized => screen.draw(true),
            Happening::Typed(line) => match Typed::read(&line, &SLOTS, &CARDS) {
                Ok(None) => screen.say(""),
                Err(said) => screen.say(&said),
                Ok(Some(Typed::Quit)) => break,
                Ok(Some(Typed::Power)) => {
                    if let Some(cut) = running.take() {
                        cut.cut_power(&bench);
                    }
                    running = Some(Running::start(&stage, &bench, &table, &happens)?);
                    screen.say("the power was cut; the daemon started again from its records");
                }
                Ok(Some(done)) => screen.say(&carry_out(&bench, &table, done)),
            },
            Happening::Quit => break,
            // The one before a power cut was joined then.
            Happening::Ended(thread) if thread == now_running.thread() => {
                ended = running.take().map_or(Ok(()), Running::join);
            }
            Happening::Ended(_) => {}
        }
        if screen.closed {
            break;
        }
    }
    if let Some(running) = running {
        screen.say("stopping");
        // A token that hangs would be waited for.
        bench.answer_all();
        ended = running.stop();
    }
    drop(screen);
    let place = stage.directory.path().display().to_string();
    stage.directory.close().map_err(|error| cannot("the removal of its directory", &error))?;
    output::line(&format!("stopped; {place} is removed"));
    ended
}

/// The command line of the product, as a client of an appliance that runs.
#[must_use]
pub fn command_line(arguments: Vec<OsString>) -> ExitCode {
    let program = Program {
        daemon: |_, _| Err(Own::SpawnFailed.with("the simulator runs it: `slotwarden-sim` without arguments")),
        hsm_worker: || {
            output::aside("slotwarden-sim: simulated tokens need no worker");
            ExitCode::from(slotwarden::problem::EXIT_USAGE)
        },
        readers: None,
    };
    cli::main(&program, std::iter::once(OsString::from("slotwarden-sim cli")).chain(arguments))
}

/// What the simulator reacts to.
enum Happening {
    Status(Box<StatusView>),
    Typed(String),
    Tick,
    Resized,
    Quit,
    /// The loop ended: by itself, unless it was before a power cut.
    Ended(ThreadId),
}

fn next(happened: &Receiver<Happening>, until: Option<Instant>, ticks: bool) -> Happening {
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    if left.is_some_and(|left| left.is_zero()) {
        return Happening::Quit;
    }
    let wait = left.into_iter().chain(ticks.then_some(TICK)).min();
    match wait {
        None => happened.recv().unwrap_or(Happening::Quit),
        Some(wait) => match happened.recv_timeout(wait) {
            Ok(happening) => happening,
            Err(RecvTimeoutError::Timeout) => Happening::Tick,
            Err(RecvTimeoutError::Disconnected) => Happening::Quit,
        },
    }
}

fn carry_out(bench: &Bench, table: &Table, typed: Typed) -> String {
    let at_pad = |done: Result<(), &str>, then: &str| done.map_or_else(str::to_owned, |()| then.to_owned());
    let name = |slot: u8| SLOTS[usize::from(slot)];
    let told = |slot, done: Result<(), &str>, then: &str| match done {
        Ok(()) => format!("{}: {then}", name(slot)),
        Err(why) => format!("{}: {why}", name(slot)),
    };
    match typed {
        Typed::Pull(slot) => told(slot, bench.pull(slot), "the token is out"),
        Typed::Insert(slot) => told(slot, bench.insert(slot), "the token is in"),
        Typed::Hang(slot) => {
            bench.hang(slot);
            told(slot, Ok(()), "the next calls stay unanswered until `answer` or `kill`")
        }
        Typed::Answer(slot) => told(slot, bench.answer(slot), "the token answers again"),
        Typed::Wrong(slot) => told(slot, bench.wrong(slot), "somebody else tried a wrong PIN"),
        Typed::Kill => {
            bench.kill();
            "the HSM worker was killed; another starts".to_owned()
        }
        Typed::Card(card) => at_pad(table.insert(card), "the card is in the reader"),
        Typed::CardOut => at_pad(table.remove(), "the card is out of the reader"),
        Typed::Pins(pins) => at_pad(table.at_pad(table::typed(&pins)), "typed on the pad"),
        Typed::PadCancel => at_pad(table.at_pad(std::iter::once(Entry::Cancels)), "cancelled on the pad"),
        Typed::Help => typed::HELP.to_owned(),
        // Both end the loop that calls this.
        Typed::Power | Typed::Quit => String::new(),
    }
}

/// A closed terminal ends the simulator: nobody is left to try anything.
fn watch_signals(happens: &Sender<Happening>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGWINCH])?;
    let happens = happens.clone();
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            let happening = if signal == SIGWINCH { Happening::Resized } else { Happening::Quit };
            if happens.send(happening).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// The end of the input is no end: a service manager or a test gives none.
fn read_typed(happens: &Sender<Happening>) {
    let happens = happens.clone();
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if happens.send(Happening::Typed(line)).is_err() {
                return;
            }
        }
    });
}

fn cannot(what: &str, error: &io::Error) -> Problem {
    Own::SpawnFailed.with(format!("{what}: {error}"))
}
