//! An appliance without HSM and slots, for as long as one command line needs cards read and no daemon is there.
//!
//! The loop, the core and the readers are those of the daemon, so a ceremony is the same one: its steps, its time
//! limits, the question before a card's last try. What differs is that nothing outlives it. Its store is in a
//! directory for temporary files that goes with it, so there is no transcript to show afterwards, and when the
//! process ends the ceremony ends: pcscd resets the card that is held, and what was read of others was in memory.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use slotwarden_core::Refusal;
use slotwarden_core::effect::{HsmCall, Input, Outcome, SlotId, Ticket};
use slotwarden_core::fault::HsmFailure;
use tempfile::TempDir;

use super::{Prepared, harden, prepare, transfer_dir};
use crate::config::{CardsSettings, Offered, SecurityLevel, Settings};
use crate::control;
use crate::daemon::{self, Devices};
use crate::devices::{Cards, Event, Events, FreeToken, Hsm, Lend, NOT_ASKED_YET, ReaderView, Store as _};
use crate::files::DiskFiles;
use crate::interrupt::Interrupts;
use crate::problem::{Own, Problem};

/// Longest wait for a reader that can be used: one where pcscd sees a card that is gone takes a second.
const READERS_WAIT: Duration = Duration::from_secs(5);
/// Between two looks.
const READERS_PAUSE: Duration = Duration::from_millis(20);

/// Starts the readers that a program has.
pub type Readers = fn(&CardsSettings, &Events) -> Result<Box<dyn Cards + Send>, Problem>;

/// One such appliance. It ends when this is dropped.
pub struct CardsAlone {
    socket: PathBuf,
    events: Events,
    running: Option<JoinHandle<()>>,
    // Removed after the loop ended.
    _dir: TempDir,
}

impl CardsAlone {
    /// Starts one with the readers that this configuration allows; where there is no such file, with all. An
    /// interrupt ends it, and takes its directory along.
    ///
    /// # Errors
    /// The file says something else than a configuration: what it excludes is not known. Or what would
    /// keep a daemon from starting: no place for its store or its socket, no thread.
    pub fn start(config: &Path, readers: Readers, interrupts: &Interrupts) -> Result<Self, Problem> {
        let allowed = if config.exists() { allowed(&Offered::read(config).settings?) } else { CardsSettings::all() };
        let no_place = |error: io::Error| Own::FileUnwritable.with(format!("a directory for temporary files: {error}"));
        let dir = tempfile::Builder::new().prefix("slotwarden-").tempdir().map_err(no_place)?;
        interrupts.alone_in(dir.path());
        let settings = Settings::cards_alone(dir.path(), allowed);
        let socket = settings.socket.clone();
        harden();
        let (events, arriving) = channel();
        let Prepared { setup, store, applications, settings } = prepare(&Offered::alone(settings), false, &events)?;
        let listening = control::listen(&settings.socket, Arc::clone(&setup.names), events.clone())?;
        let cards = readers(&settings.cards, &events)?;
        wait_for_readers(&*cards)?;
        let files = DiskFiles::new(transfer_dir(&settings), events.clone(), store.signer(), store.node_keys().current);
        let hsm = NoHsm { events: events.clone() };
        let devices = Devices { hsm, store, applications, cards, files: Box::new(files), exchange: None };
        let serve = move || {
            // Whoever waits for an answer hears that the connection is gone.
            let _ = daemon::run(setup, devices, &arriving, &mut |_| {});
            drop(listening);
        };
        let running = thread::Builder::new().name("loop".to_owned()).spawn(serve);
        let running = running.map_err(|error| Own::SpawnFailed.with(error.to_string()))?;
        Ok(CardsAlone { socket, events, running: Some(running), _dir: dir })
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for CardsAlone {
    fn drop(&mut self) {
        // A loop that ended already needs no word.
        let _ = self.events.send(Event::Stop);
        if let Some(running) = self.running.take() {
            let _ = running.join();
        }
    }
}

/// Until every reader was asked what it can do and one is used: an order before that finds none.
///
/// # Errors
/// [`Refusal::NoReader`], with the reasons: nobody can be asked for them afterwards.
fn wait_for_readers(cards: &dyn Cards) -> Result<(), Problem> {
    let until = Instant::now() + READERS_WAIT;
    let ready = |readers: &[ReaderView]| {
        let asked = readers.iter().all(|reader| reader.reason.as_deref() != Some(NOT_ASKED_YET));
        asked && readers.iter().any(|reader| reader.present && reader.reason.is_none())
    };
    while !ready(&cards.readers()) {
        if Instant::now() > until {
            return Err(Problem::from(Refusal::NoReader).with(why_none(&cards.readers())));
        }
        thread::sleep(READERS_PAUSE);
    }
    Ok(())
}

fn why_none(readers: &[ReaderView]) -> String {
    let reason = |reader: &ReaderView| Some(format!("{}: {}", reader.name, reader.reason.as_deref()?));
    let reasons: Vec<String> = readers.iter().filter_map(reason).collect();
    if reasons.is_empty() { "PC/SC names none; does pcscd run?".to_owned() } else { reasons.join("; ") }
}

/// The readers that an appliance of this configuration uses; at a level without cards it says nothing of them.
fn allowed(settings: &Settings) -> CardsSettings {
    let enabled = settings.cards.enabled || settings.security_level != SecurityLevel::Cards;
    CardsSettings { enabled, ..settings.cards.clone() }
}

/// No HSM: without slots nothing is ordered at one but to look for tokens, of which there are none.
struct NoHsm {
    events: Events,
}

impl Hsm for NoHsm {
    fn perform(&mut self, ticket: Ticket, _slot: SlotId, _call: HsmCall, _secrets: &dyn Lend) {
        let outcome = Outcome::Hsm(Err(HsmFailure::NoWorker));
        let _ = self.events.send(Event::Input(Input::Done { ticket, outcome }));
    }

    fn look(&mut self) {
        let _ = self.events.send(Event::Looked);
    }

    fn end_worker(&mut self) {}

    fn free_tokens(&self) -> Vec<FreeToken> {
        vec![]
    }

    fn random(&mut self, _half: &mut [u8; 32]) -> bool {
        false
    }

    fn description(&self) -> String {
        "none".to_owned()
    }

    fn stop(&mut self) {}
}
