//! People with cards: told beforehand what each of them does, one act after the other, they look
//! at the status as everybody may, and do it when a ceremony asks for it.
//!
//! A ceremony that asks for anything else, or that nothing happens in for [`PATIENCE`], fails the
//! test. Every PIN is one person's choice of twelve digits that occur nowhere else, so that it
//! can be searched for; people know their PIN by themselves and look into no card.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use slotwarden::client::Client;
use slotwarden::status_json::CeremonyView;
use slotwarden::wire::{Answered, Ask};
use slotwarden_sim::cards::{Card, SERIAL_BYTES};
use slotwarden_sim::reader::Pad;

use crate::stage::{Begun, Ran, Stage, begin};

/// Longest time in which a ceremony does not change.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// The PIN that a new card comes with.
pub const FRESH_PIN: &str = "123456";
/// One that nobody chose.
pub const WRONG_PIN: &str = "111111";

/// What somebody does when the ceremony asks for it.
#[derive(Clone, Copy)]
pub enum Act<'a> {
    /// Puts this card in, types its PIN, and takes it out when that is asked for.
    Card(&'a str),
    /// The same, but it stays in while a card is wanted at another reader.
    Stays(&'a str),
    /// As the first, but the card is refused for this reason.
    Refused(&'a str, u16),
    /// As the first, but the first PIN is a wrong one.
    Mistypes(&'a str),
    /// Puts this card in and leaves it to the acts that follow.
    In(&'a str),
    /// Answers what is asked at the console.
    Says(&'a str),
    /// This happens when the ceremony waits for this, and nobody does anything else.
    At(&'a str, &'a dyn Fn(&CeremonyView)),
}

/// A reader as people meet it.
pub trait Reader {
    /// The beginning of its PC/SC name.
    fn name(&self) -> &str;
    /// Puts this card in.
    fn insert(&self, card: &str, table: &Table);
    /// Takes the card out.
    fn remove(&self);
    /// Whether a card is in.
    fn has_card(&self) -> bool;
    /// Somebody types these when the keypad asks.
    fn types(&self, pins: &[&str]);
    /// Nobody is going to type what was said.
    fn forget(&self);
}

impl Reader for Pad {
    fn name(&self) -> &str {
        Pad::name(self)
    }
    fn insert(&self, card: &str, table: &Table) {
        Pad::insert(self, table.shared(card));
    }
    fn remove(&self) {
        Pad::remove(self);
    }
    fn has_card(&self) -> bool {
        Pad::has_card(self)
    }
    fn types(&self, pins: &[&str]) {
        Pad::types(self, pins);
    }
    fn forget(&self) {
        Pad::forget(self);
    }
}

/// Readers on a table, the cards before them, and what people know.
pub struct Table {
    readers: Vec<Box<dyn Reader>>,
    cards: RefCell<BTreeMap<String, Arc<Mutex<Card>>>>,
    pins: RefCell<BTreeMap<String, String>>,
    chosen: RefCell<Vec<String>>,
    heard: RefCell<String>,
}

impl Table {
    /// With these readers; cards appear when they are first named.
    #[must_use]
    pub fn new(readers: Vec<Box<dyn Reader>>) -> Self {
        Table {
            readers,
            cards: RefCell::default(),
            pins: RefCell::default(),
            chosen: RefCell::default(),
            heard: RefCell::default(),
        }
    }

    /// The card of this name, to look into or to prepare.
    ///
    /// # Panics
    /// When the card did.
    #[must_use]
    pub fn shared(&self, name: &str) -> Arc<Mutex<Card>> {
        let mut cards = self.cards.borrow_mut();
        let number = u8::try_from(cards.len() + 1).expect("a test has few cards");
        let new = || Arc::new(Mutex::new(Card::new([number; SERIAL_BYTES])));
        Arc::clone(cards.entry(name.to_owned()).or_insert_with(new))
    }

    /// Somebody comes with a card that was made elsewhere.
    pub fn brings(&self, name: &str, card: Arc<Mutex<Card>>) {
        self.cards.borrow_mut().insert(name.to_owned(), card);
    }

    /// What a test does with a card of this name.
    pub fn with<T>(&self, name: &str, act: impl FnOnce(&mut Card) -> T) -> T {
        let card = self.shared(name);
        let mut held: MutexGuard<'_, Card> = card.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut held)
    }

    /// The serial of a card, as it is shown.
    #[must_use]
    pub fn serial(&self, name: &str) -> String {
        self.with(name, |card| card.serial().iter().map(|byte| format!("{byte:02X}")).collect())
    }

    /// The PIN of a card, as its holder knows it.
    #[must_use]
    pub fn pin(&self, card: &str) -> String {
        self.pins.borrow().get(card).cloned().unwrap_or_else(|| FRESH_PIN.to_owned())
    }

    /// The holder knows another PIN from now on.
    pub fn knows(&self, card: &str, pin: &str) {
        self.pins.borrow_mut().insert(card.to_owned(), pin.to_owned());
    }

    /// Every PIN that anybody chose.
    #[must_use]
    pub fn chosen(&self) -> Vec<String> {
        self.chosen.borrow().clone()
    }

    /// Everything that commands said to those who gave orders.
    #[must_use]
    pub fn heard(&self) -> String {
        self.heard.borrow().clone()
    }

    /// Somebody chooses a PIN: twelve digits, each time others.
    fn choose(&self) -> String {
        let mut chosen = self.chosen.borrow_mut();
        let turn = u64::try_from(chosen.len() + 1).expect("few");
        // Digits of the golden ratio, times the turn: none begins or ends like another.
        let pin = format!("{:012}", 618_033_988_749 * turn % 1_000_000_000_000);
        chosen.push(pin.clone());
        pin
    }

    /// Gives an order as the daemon's own user, and lets people act until it is answered.
    #[track_caller]
    pub fn order(&self, stage: &Stage, arguments: &[&str], acts: &[Act<'_>]) -> Ran {
        self.follow(stage, begin(stage.command().args(arguments)), acts)
    }

    /// Lets people act until this command ends.
    ///
    /// # Panics
    /// When the ceremony asks for what nobody is to do, or does not go on.
    #[track_caller]
    pub fn follow(&self, stage: &Stage, order: Begun, acts: &[Act<'_>]) -> Ran {
        self.follow_at(&|| Some(stage.socket()), stage, order, acts)
    }

    /// The same where the status is told at another socket, once there is one.
    ///
    /// # Panics
    /// As [`Table::follow`].
    #[track_caller]
    pub fn follow_at(
        &self,
        socket: &dyn Fn() -> Option<PathBuf>,
        stage: &Stage,
        mut order: Begun,
        acts: &[Act<'_>],
    ) -> Ran {
        let people = People { table: self, stage, acts, done: Cell::new(0), mistyped: Cell::new(false) };
        let mut seen: Option<(u32, String)> = None;
        let mut typed: Option<Moment> = None;
        let mut since = Instant::now();
        let ran = loop {
            if let Some(ran) = order.try_end() {
                break ran;
            }
            if let Some(socket) = socket()
                && let Ok(Answered::Status(status)) = Client::new(&socket).ask(Ask::Status, &[])
                && let Some(view) = status.ceremony
            {
                let now = (view.changes, view.wait.clone());
                if seen.as_ref() != Some(&now) {
                    (seen, since) = (Some(now), Instant::now());
                }
                people.act(&view, &mut typed);
            }
            assert!(
                since.elapsed() < PATIENCE,
                "nothing goes on: {seen:?}, act {}; {}",
                people.done.get(),
                stage.log()
            );
            thread::sleep(LOOK_PAUSE);
        };
        for reader in self.readers.iter().filter(|reader| reader.has_card()) {
            reader.remove();
        }
        self.readers.iter().for_each(|reader| reader.forget());
        self.heard.borrow_mut().push_str(&format!("{}\n{}\n", ran.stdout, ran.stderr));
        assert_eq!(people.done.get(), acts.len(), "not asked for; {}{}", ran.stdout, ran.stderr);
        ran
    }
}

/// Which ceremony, after how many changes, and what it waits for.
type Moment = (String, u32, String);

/// Those who act for one order.
struct People<'p, 'a> {
    table: &'p Table,
    stage: &'p Stage,
    acts: &'p [Act<'a>],
    done: Cell<usize>,
    mistyped: Cell<bool>,
}

impl<'a> People<'_, 'a> {
    fn next(&self) -> Option<Act<'a>> {
        self.acts.get(self.done.get()).copied()
    }

    fn did(&self) {
        self.done.set(self.done.get() + 1);
        self.mistyped.set(false);
    }

    /// `asked`: when somebody acted for the last time.
    #[track_caller]
    fn act(&self, view: &CeremonyView, asked: &mut Option<Moment>) {
        let change = (view.id.clone(), view.changes, view.wait.clone());
        if let Some(Act::At(wait, act)) = self.next()
            && view.wait == wait
            && asked.as_ref() != Some(&change)
        {
            *asked = Some(change);
            self.did();
            return act(view);
        }
        let readers = &self.table.readers;
        let found = readers.iter().find(|reader| view.reader.starts_with(reader.name()));
        let reader = found.unwrap_or_else(|| panic!("no such reader is on the table: {view:?}"));
        match view.wait.as_str() {
            "insert" if !reader.has_card() => {
                if let Some(Act::Stays(_)) = self.next()
                    && readers.iter().any(|other| other.has_card())
                {
                    self.did();
                }
                match self.next() {
                    Some(
                        Act::Card(name)
                        | Act::Stays(name)
                        | Act::Refused(name, _)
                        | Act::Mistypes(name)
                        | Act::In(name),
                    ) => reader.insert(name, self.table),
                    Some(Act::Says(_) | Act::At(..)) | None => panic!("another card is wanted: {view:?}"),
                }
                if let Some(Act::In(_)) = self.next() {
                    self.did();
                }
            }
            "pin" | "new-pin" if asked.as_ref() != Some(&change) => {
                *asked = Some(change);
                self.at_pad(reader.as_ref(), view);
            }
            "remove" if reader.has_card() => {
                let last = view.last.as_ref().map(|told| told.number);
                match self.next() {
                    Some(Act::Refused(_, number)) => assert_eq!(last, Some(number), "{view:?}"),
                    Some(Act::Card(_) | Act::Mistypes(_)) => assert_eq!(last, None, "{view:?}"),
                    Some(Act::Stays(_) | Act::In(_) | Act::Says(_) | Act::At(..)) | None => {
                        panic!("it is to go: {view:?}")
                    }
                }
                self.did();
                reader.remove();
            }
            "answer" if asked.as_ref() != Some(&change) => {
                *asked = Some(change);
                let Some(Act::Says(answer)) = self.next() else { panic!("nobody was to be asked: {view:?}") };
                self.did();
                self.stage.run(&["ceremony", "answer", answer]).exits(0);
            }
            _ => {}
        }
    }

    #[track_caller]
    fn at_pad(&self, reader: &dyn Reader, view: &CeremonyView) {
        let (name, mistypes) = match self.next() {
            Some(Act::Card(name) | Act::Stays(name) | Act::Refused(name, _)) => (name, false),
            Some(Act::Mistypes(name)) => (name, !self.mistyped.replace(true)),
            Some(Act::In(_) | Act::Says(_) | Act::At(..)) | None => panic!("nobody is at the keypad: {view:?}"),
        };
        let present = self.table.pin(name);
        match (view.wait == "new-pin", mistypes) {
            (false, true) => reader.types(&[WRONG_PIN]),
            (false, false) => reader.types(&[&present]),
            (true, wrong) => {
                let new = self.table.choose();
                reader.types(&[if wrong { WRONG_PIN } else { &present }, &new, &new]);
                if !wrong {
                    self.table.knows(name, &new);
                }
            }
        }
    }
}
