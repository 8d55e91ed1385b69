//! Stands where the daemon's loop stands: orders calls of a real [`WorkerHsm`], keeps the
//! secrets, and hears every event.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use slotwarden::devices::{Event, Hsm, Lend};
use slotwarden::hsm::{WorkerHsm, WorkerSettings};
use slotwarden_core::effect::{HsmAnswer, HsmCall, Input, Outcome, SlotId, Ticket};
use slotwarden_core::fault::HsmFailure;
use slotwarden_core::token::{Presence, TokenState};
use slotwarden_core::{Safe, SecretId};

/// Longest wait for anything in these tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// The daemon's side of one worker.
pub struct Driver {
    /// The device under test.
    pub hsm: WorkerHsm,
    /// Every input that arrived, in order.
    pub heard: Vec<Input>,
    /// Every note for the log.
    pub notes: Vec<String>,
    /// How many looks have ended.
    pub looked: usize,
    events: Receiver<Event>,
    safe: Safe<64>,
    tickets: u32,
    slots: usize,
}

struct Lender<'a>(&'a Safe<64>);

impl Lend for Lender<'_> {
    fn lend(&self, id: SecretId, read: &mut dyn FnMut(&[u8])) -> bool {
        self.0.with(id, |secret| read(secret)).is_some()
    }
}

impl Driver {
    /// Starts a worker without waiting for it.
    #[must_use]
    pub fn start(settings: WorkerSettings) -> Self {
        let (events, heard) = mpsc::channel();
        let slots = settings.tokens.len();
        let hsm = WorkerHsm::start(settings, events).expect("a thread can be started");
        let (safe, notes) = (Safe::new(), Vec::new());
        Driver { hsm, heard: Vec::new(), notes, looked: 0, events: heard, safe, tickets: 0, slots }
    }

    /// Starts a worker and waits until it is up; returns what it found of each slot.
    #[must_use]
    pub fn up(settings: WorkerSettings) -> (Self, Vec<Presence>) {
        let mut driver = Driver::start(settings);
        let presences = driver.wait_up();
        (driver, presences)
    }

    /// Waits for the next `WorkerUp` and until it was told of every slot, which may take as
    /// long as a look may; returns what it was told last.
    pub fn wait_up(&mut self) -> Vec<Presence> {
        let from = self.heard.len();
        self.wait("WorkerUp", |input| (*input == Input::WorkerUp).then_some(()));
        loop {
            let of = |number| {
                self.heard.iter().skip(from).rev().find_map(|input| match input {
                    Input::Token { slot: SlotId(slot), presence } if usize::from(*slot) == number => Some(*presence),
                    _ => None,
                })
            };
            let presences: Vec<Presence> = (0..self.slots).filter_map(of).collect();
            if presences.len() == self.slots {
                return presences;
            }
            self.wait("a presence", |input| matches!(input, Input::Token { .. }).then_some(()));
        }
    }

    /// Waits for what the platform says of one slot without being asked.
    pub fn wait_presence(&mut self, slot: u8, wanted: fn(&Presence) -> bool) -> Presence {
        self.wait("a presence", |input| match input {
            Input::Token { slot: SlotId(number), presence } if *number == slot && wanted(presence) => Some(*presence),
            _ => None,
        })
    }

    /// Orders one call and waits for its answer.
    ///
    /// # Errors
    /// As the device answered.
    pub fn call(&mut self, slot: u8, call: HsmCall) -> Result<HsmAnswer, HsmFailure> {
        let ticket = self.order(slot, call);
        self.answer(ticket)
    }

    /// Orders one call.
    pub fn order(&mut self, slot: u8, call: HsmCall) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket { slot: Some(SlotId(slot)), number: self.tickets };
        self.hsm.perform(ticket, SlotId(slot), call, &Lender(&self.safe));
        ticket
    }

    /// Waits for the answer to an order, unless it was heard already.
    ///
    /// # Errors
    /// As the device answered.
    pub fn answer(&mut self, wanted: Ticket) -> Result<HsmAnswer, HsmFailure> {
        let is_it = |input: &Input| match input {
            Input::Done { ticket, outcome: Outcome::Hsm(result) } if *ticket == wanted => Some(*result),
            _ => None,
        };
        match self.heard.iter().find_map(is_it) {
            Some(result) => result,
            None => self.wait("an answer", is_it),
        }
    }

    /// Waits until something is said of any slot.
    pub fn wait_token(&mut self) -> (SlotId, Presence) {
        self.wait("a presence", |input| match input {
            Input::Token { slot, presence } => Some((*slot, *presence)),
            _ => None,
        })
    }

    /// Whether the order has been answered within `wait`.
    pub fn is_answered_within(&mut self, wanted: Ticket, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        let is_it = |input: &Input| matches!(input, Input::Done { ticket, .. } if *ticket == wanted);
        loop {
            if self.heard.iter().any(is_it) {
                return true;
            }
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(event) => {
                    self.hear(event);
                }
                Err(_) => return false,
            }
        }
    }

    /// Listens for a while, for what must not come.
    pub fn listen(&mut self, wait: Duration) {
        let until = Instant::now() + wait;
        while let Ok(event) = self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
            self.hear(event);
        }
    }

    /// Waits until so many looks have ended in all; returns how long that took.
    pub fn wait_looked(&mut self, looks: usize) -> Duration {
        let begun = Instant::now();
        while self.looked < looks {
            match self.events.recv_timeout(PATIENCE.saturating_sub(begun.elapsed())) {
                Ok(event) => {
                    self.hear(event);
                }
                Err(_) => panic!("{} of {looks} looks ended; notes: {:?}", self.looked, self.notes),
            }
        }
        begun.elapsed()
    }

    /// Waits for a note that holds this text.
    pub fn wait_note(&mut self, text: &str) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(note) = self.notes.iter().find(|note| note.contains(text)) {
                return note.clone();
            }
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(event) => {
                    self.hear(event);
                }
                Err(_) => panic!("no note with {text:?}; notes: {:?}", self.notes),
            }
        }
    }

    /// How often this input was heard.
    #[must_use]
    pub fn count(&self, wanted: Input) -> usize {
        self.heard.iter().filter(|input| **input == wanted).count()
    }

    /// Puts a secret into the Safe.
    pub fn secret(&mut self, text: &str) -> SecretId {
        self.secret_bytes(text.as_bytes())
    }

    /// Puts a secret that is no text into the Safe.
    pub fn secret_bytes(&mut self, bytes: &[u8]) -> SecretId {
        let filled = self.safe.fill(|place| {
            place[..bytes.len()].copy_from_slice(bytes);
            bytes.len()
        });
        filled.expect("a test has few secrets")
    }

    /// `C_Login` as user.
    ///
    /// # Errors
    /// As the device answered.
    pub fn login(&mut self, slot: u8, pin: &str) -> Result<HsmAnswer, HsmFailure> {
        let pin = self.secret(pin);
        let result = self.call(slot, HsmCall::Login { pin });
        self.safe.wipe(pin);
        result
    }

    /// `C_SetPIN`.
    ///
    /// # Errors
    /// As the device answered.
    pub fn set_pin(&mut self, slot: u8, old: &str, new: &str) -> Result<HsmAnswer, HsmFailure> {
        let (old, new) = (self.secret(old), self.secret(new));
        let result = self.call(slot, HsmCall::SetPin { old, new });
        self.safe.wipe(old);
        self.safe.wipe(new);
        result
    }

    /// `HsmCall::Initialise`.
    ///
    /// # Errors
    /// As the device answered.
    pub fn initialise(
        &mut self,
        slot: u8,
        so_pin: &str,
        new: &str,
        free_slot: Option<u64>,
    ) -> Result<HsmAnswer, HsmFailure> {
        let (so_pin, new) = (self.secret(so_pin), self.secret(new));
        let result = self.call(slot, HsmCall::Initialise { so_pin, new, free_slot });
        self.safe.wipe(so_pin);
        self.safe.wipe(new);
        result
    }

    /// `HsmCall::PutBackupKeys`.
    ///
    /// # Errors
    /// As the device answered.
    pub fn put_backup_keys(
        &mut self,
        slot: u8,
        names: ([u8; 16], [u8; 16]),
        kek: &[u8],
        mak: &[u8],
    ) -> Result<HsmAnswer, HsmFailure> {
        self.put_keys(slot, names, (kek, mak), false)
    }

    /// The same with U, which members of a cluster have.
    ///
    /// # Errors
    /// As the device answered.
    pub fn put_keys_of_member(
        &mut self,
        slot: u8,
        names: ([u8; 16], [u8; 16]),
        kek: &[u8],
        mak: &[u8],
    ) -> Result<HsmAnswer, HsmFailure> {
        self.put_keys(slot, names, (kek, mak), true)
    }

    fn put_keys(
        &mut self,
        slot: u8,
        (key_id, uid): ([u8; 16], [u8; 16]),
        (kek, mak): (&[u8], &[u8]),
        unwrap: bool,
    ) -> Result<HsmAnswer, HsmFailure> {
        let (kek, mak) = (self.secret_bytes(kek), self.secret_bytes(mak));
        let result = self.call(slot, HsmCall::PutBackupKeys { key_id, uid, kek, mak, unwrap });
        self.safe.wipe(kek);
        self.safe.wipe(mak);
        result
    }

    /// `HsmCall::PrepareImport`.
    ///
    /// # Errors
    /// As the device answered.
    pub fn prepare_import(
        &mut self,
        slot: u8,
        (key_id, uid): ([u8; 16], [u8; 16]),
        kek: &[u8],
        mak: &[u8],
    ) -> Result<HsmAnswer, HsmFailure> {
        let (kek, mak) = (self.secret_bytes(kek), self.secret_bytes(mak));
        let result = self.call(slot, HsmCall::PrepareImport { key_id, uid, kek, mak });
        self.safe.wipe(kek);
        self.safe.wipe(mak);
        result
    }

    /// `HsmCall::SetSoPin`.
    ///
    /// # Errors
    /// As the device answered.
    pub fn set_so_pin(&mut self, slot: u8, old: &str, new: &str) -> Result<HsmAnswer, HsmFailure> {
        let (old, new) = (self.secret(old), self.secret(new));
        let result = self.call(slot, HsmCall::SetSoPin { old, new });
        self.safe.wipe(old);
        self.safe.wipe(new);
        result
    }

    /// `HsmCall::Unblock`.
    ///
    /// # Errors
    /// As the device answered.
    pub fn unblock(&mut self, slot: u8, so_pin: &str, new: &str) -> Result<HsmAnswer, HsmFailure> {
        let (so_pin, new) = (self.secret(so_pin), self.secret(new));
        let result = self.call(slot, HsmCall::Unblock { so_pin, new });
        self.safe.wipe(so_pin);
        self.safe.wipe(new);
        result
    }

    /// `C_GetTokenInfo` and `C_GetSessionInfo`; fails the test when the token does not answer.
    pub fn observe(&mut self, slot: u8) -> TokenState {
        match self.call(slot, HsmCall::Observe) {
            Ok(HsmAnswer::Observed(state)) => state,
            other => panic!("slot {slot} was not observed: {other:?}"),
        }
    }

    fn wait<T>(&mut self, what: &str, wanted: impl Fn(&Input) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(event) => {
                    if let Some(found) = self.hear(event).as_ref().and_then(&wanted) {
                        return found;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("{what} did not come; heard {:?}; notes {:?}", self.heard, self.notes)
                }
            }
        }
    }

    fn hear(&mut self, event: Event) -> Option<Input> {
        match event {
            Event::Input(input) => {
                self.heard.push(input);
                Some(input)
            }
            Event::Note(note) => {
                self.notes.push(note);
                None
            }
            Event::Looked => {
                self.looked += 1;
                None
            }
            other => panic!("an HSM does not send {other:?}"),
        }
    }
}

/// Whether no token was found.
#[must_use]
pub fn is_absent(presence: &Presence) -> bool {
    matches!(presence, Presence::Absent { .. })
}

/// Whether exactly one token was found.
#[must_use]
pub fn is_present(presence: &Presence) -> bool {
    matches!(presence, Presence::Present(_))
}
