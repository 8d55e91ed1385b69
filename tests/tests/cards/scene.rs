//! One test's machine: a pcscd of its own, readers of the simulator, and the daemon's card
//! readers with the loop's part played by the test.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread::sleep;
use std::time::{Duration, Instant};

use slotwarden::cards::PcscCards;
use slotwarden::config;
use slotwarden::devices::{Cards as _, Event, Lend, ReaderView};
use slotwarden_core::card::{
    CardAnswer, CardCall, CardFailure, Credential, ProfileId, ReaderEvent, ReaderId, RecordPlace,
};
use slotwarden_core::effect::{Input, Ticket};
use slotwarden_core::share::card_set;
use slotwarden_core::share::record::{ShareHeader, ShareKind, SignedHeader};
use slotwarden_core::{Safe, SecretId};
use slotwarden_sim::cards::Card;
use slotwarden_sim::reader::Pad;
use slotwarden_tests::pcscd::Pcscd;

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How long nothing has to happen before a test believes that nothing will.
const SILENCE: Duration = Duration::from_millis(300);
/// A blank card with this serial, eight times the same byte.
pub(crate) fn card(serial: u8) -> Card {
    Card::new([serial; 8])
}

/// A record of a set, and its y.
pub(crate) fn record() -> (SignedHeader, [u8; 32]) {
    let (seed, y) = ([5; 32], [0xA7; 32]);
    let header = ShareHeader {
        kind: ShareKind::BackupKey,
        set_id: card_set::set_id(&card_set::public_key(&seed)),
        subject: [3; 16],
        m: 2,
        n: 3,
        x: 1,
        generation: 1,
        created_s: 1_700_000_000,
        key_id: [4; 16],
    };
    (card_set::sign(&seed, &header, &y), y)
}

/// Asks again and again until there is an answer.
pub(crate) fn patiently<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < PATIENCE, "it never came");
        sleep(Duration::from_millis(20));
    }
}

/// One machine with readers.
pub(crate) struct Scene {
    pcscd: Pcscd,
    cards: Option<PcscCards>,
    arriving: Option<Receiver<Event>>,
    /// Events at readers that were heard while an answer was waited for.
    heard: VecDeque<(u8, ReaderEvent)>,
    answers: Vec<(Ticket, Result<CardAnswer, CardFailure>)>,
    safe: RefCell<Safe<8>>,
    tickets: u32,
}

impl Scene {
    /// Readers of these names on a pcscd that runs; nobody uses them yet.
    pub(crate) fn new(names: &[&str]) -> Self {
        Scene {
            pcscd: Pcscd::start(names),
            cards: None,
            arriving: None,
            heard: VecDeque::new(),
            answers: Vec::new(),
            safe: RefCell::default(),
            tickets: 0,
        }
    }

    /// The same with the daemon's readers.
    pub(crate) fn watched(names: &[&str]) -> Self {
        let mut scene = Scene::new(names);
        scene.watch("");
        scene
    }

    pub(crate) fn pcscd(&mut self) -> &mut Pcscd {
        &mut self.pcscd
    }

    /// Starts pcscd again with the two readers of vsmartcard beside ours: they have no keypad.
    pub(crate) fn add_plain_readers(&mut self) {
        let driver = Path::new("/usr/lib/pcsc/drivers/serial/libifdvpcd.so");
        assert!(driver.exists(), "{} is missing: apt-get install vsmartcard-vpcd", driver.display());
        // It listens for cards at this port and the next.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port is free").port();
        let (driver, device) = (driver.display(), format!("/dev/null:{port:#X}"));
        self.pcscd.stop();
        let name = "FRIENDLYNAME \"Virtual PCD\"";
        self.pcscd.add_reader_file(&format!("{name}\nDEVICENAME {device}\nLIBPATH {driver}\nCHANNELID {port:#X}\n"));
        self.pcscd.start_again();
    }

    /// Starts the daemon's card readers, with this in `[cards]`.
    pub(crate) fn watch(&mut self, table: &str) {
        let slot = "[[slot]]\nname = \"ca\"\ntoken = \"pkcs11:token=ca\"\n";
        let top = "state_dir = \"/s\"\nsocket = \"/c\"\nsecurity_level = \"cards\"\n";
        let settings = config::check(&format!("{top}[hsm]\nmodule = \"/m.so\"\n{slot}[cards]\n{table}"));
        let (events, arriving) = channel();
        let settings = settings.expect("the test wrote it").cards;
        self.cards = Some(PcscCards::start(settings, events).expect("threads can be started"));
        self.arriving = Some(arriving);
    }

    /// Ends them.
    pub(crate) fn end_watch(&mut self) {
        self.cards = None;
        self.arriving = None;
        self.heard.clear();
    }

    pub(crate) fn pad(&self, number: usize) -> &Pad {
        self.pcscd.pad(number)
    }

    pub(crate) fn readers(&self) -> Vec<ReaderView> {
        self.cards.as_ref().expect("they run").readers()
    }

    /// The readers once every one was asked what it can do.
    pub(crate) fn readers_settled(&self) -> Vec<ReaderView> {
        let asked = |reader: &ReaderView| !reader.reason.as_ref().is_some_and(|reason| reason.contains("not asked"));
        patiently(|| Some(self.readers()).filter(|readers| readers.iter().all(asked)))
    }

    /// Names and numbers of the readers that are used.
    pub(crate) fn numbered(&self) -> Vec<(u8, String)> {
        self.readers().into_iter().filter_map(|reader| Some((reader.number?, reader.name))).collect()
    }

    pub(crate) fn number_of(&self, name: &str) -> ReaderId {
        let number = self.numbered().into_iter().find(|(_, other)| other.starts_with(name));
        ReaderId(number.unwrap_or_else(|| panic!("{name} is not used")).0)
    }

    /// Begins a call.
    pub(crate) fn begin(&mut self, reader: ReaderId, call: CardCall) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket { slot: None, number: self.tickets };
        let lend = Lent(&self.safe);
        self.cards.as_mut().expect("they run").perform(ticket, reader, call, &lend);
        ticket
    }

    /// Waits for the answer to a call.
    pub(crate) fn answer(&mut self, ticket: Ticket) -> Result<CardAnswer, CardFailure> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(place) = self.answers.iter().position(|(other, _)| *other == ticket) {
                return self.answers.remove(place).1;
            }
            assert!(self.hear(until), "no answer came to {ticket:?}");
        }
    }

    pub(crate) fn call(&mut self, reader: ReaderId, call: CardCall) -> Result<CardAnswer, CardFailure> {
        let ticket = self.begin(reader, call);
        self.answer(ticket)
    }

    pub(crate) fn write(
        &mut self,
        profile: ProfileId,
        credential: Credential,
        place: RecordPlace,
        record: SignedHeader,
        y: &[u8; 32],
    ) -> CardCall {
        CardCall::Write { profile, credential, place, record, y: self.keep(y) }
    }

    /// A call that reads, and where its y goes.
    pub(crate) fn read(
        &mut self,
        profile: ProfileId,
        credential: Credential,
        place: RecordPlace,
    ) -> (CardCall, SecretId) {
        let y = self.keep(&[]);
        (CardCall::Read { profile, credential, place, y }, y)
    }

    fn keep(&mut self, secret: &[u8]) -> SecretId {
        let filled = self.safe.borrow_mut().fill(|place| {
            place[..secret.len()].copy_from_slice(secret);
            secret.len()
        });
        filled.expect("a place is free")
    }

    /// What was put into this place.
    pub(crate) fn y(&self, id: SecretId) -> Option<[u8; 32]> {
        self.safe.borrow().with(id, |secret| secret.try_into().ok())?
    }

    /// The next event at a reader.
    pub(crate) fn next_event(&mut self) -> (u8, ReaderEvent) {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(event) = self.heard.pop_front() {
                return event;
            }
            assert!(self.hear(until), "nothing happened at any reader");
        }
    }

    /// These events come, in this order, and no other for a while.
    pub(crate) fn expect_events(&mut self, expected: &[(u8, ReaderEvent)]) {
        self.expect_next(expected);
        self.expect_silence();
    }

    /// The next events are these.
    pub(crate) fn expect_next(&mut self, expected: &[(u8, ReaderEvent)]) {
        let found: Vec<_> = expected.iter().map(|_| self.next_event()).collect();
        assert_eq!(found, expected);
    }

    /// These events come, in any order, and no other for a while.
    pub(crate) fn expect_events_in_any_order(&mut self, expected: &[(u8, ReaderEvent)]) {
        let mut missing = expected.to_vec();
        while !missing.is_empty() {
            let event = self.next_event();
            let place = missing.iter().position(|other| *other == event);
            missing.remove(place.unwrap_or_else(|| panic!("{event:?} came, {missing:?} did not")));
        }
        self.expect_silence();
    }

    fn expect_silence(&mut self) {
        let until = Instant::now() + SILENCE;
        while self.hear(until) {}
        assert_eq!(self.heard, []);
    }

    /// Takes one event from the readers, as the daemon's loop would; false when none comes.
    fn hear(&mut self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        let Ok(event) = self.arriving.as_ref().expect("they run").recv_timeout(left) else { return false };
        match event {
            Event::Input(Input::Reader { reader, event }) => self.heard.push_back((reader.0, event)),
            Event::Card { ticket, result, y } => {
                if let Some((id, y)) = y {
                    let placed = self.safe.borrow_mut().refill(id, |place| {
                        place[..y.len()].copy_from_slice(&*y);
                        y.len()
                    });
                    assert!(placed, "its place is there");
                }
                self.answers.push((ticket, result));
            }
            Event::Note(text) => println!("{text}"),
            other => panic!("readers send nothing else: {other:?}"),
        }
        true
    }
}

struct Lent<'safe>(&'safe RefCell<Safe<8>>);

impl Lend for Lent<'_> {
    fn lend(&self, id: SecretId, read: &mut dyn FnMut(&[u8])) -> bool {
        self.0.borrow().with(id, |secret| read(secret)).is_some()
    }
}
