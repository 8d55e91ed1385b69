//! A desk with cards on it, and people who do what the wait view says: each does the right thing
//! unless a test says otherwise.
//!
//! After each thing that somebody did the transcript is run again, and has to come to the state
//! and the knowledge of the ceremony (P38); and the Safe is counted (P16).

// A test that panics has found something; not every test file uses everything here.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::expect_used, clippy::panic)]

use slotwarden_core::card::Credential;
use slotwarden_core::card::sets::{CardSet, CardSets, SetSubject};
use slotwarden_core::ceremony::order::{CardOrder, Places, SlotSet, Task};
use slotwarden_core::ceremony::{Question, transcript};
use slotwarden_core::command::{Answer, Command};
use slotwarden_core::effect::ApplicationSet;
use slotwarden_core::effect::SlotId;
use slotwarden_core::fault::Refusal;
use slotwarden_core::person::{PersonId, Roster};
use slotwarden_core::share::card_set::CardQuorum;
use slotwarden_core::status::{CeremonyStatus, CeremonyWait as Wants};
use slotwarden_sim::cards::{Card, Manner};
use slotwarden_sim::code::Code;
use slotwarden_sim::room::{ADMINISTRATOR, CUSTODIAN, Room};

pub const TRANSPORT: &str = "123456";
pub const PIN: &str = "271828";
pub const OTHER_PIN: &str = "314159";
/// Things that people do in one ceremony; more means that it goes round in circles.
const STEPS_MAX: usize = 400;

pub fn holders(n: u8) -> Roster {
    let persons: Vec<PersonId> = (0..n).map(|number| PersonId(CUSTODIAN.0 + number)).collect();
    Roster::new(&persons).expect("different persons")
}

pub fn quorum(m: u8, n: u8) -> CardQuorum {
    CardQuorum::new(m, n).expect("a quorum")
}

pub fn cards(task: Task) -> Command {
    Command::Cards { order: CardOrder { task, at: Places::default() } }
}

pub fn create_set(m: u8, n: u8) -> Command {
    cards(Task::CreateSet { quorum: quorum(m, n), holders: holders(n), leave_out: SlotSet::NONE })
}

pub fn rotate(m: u8, n: u8) -> Command {
    cards(Task::Rotate { quorum: quorum(m, n), holders: holders(n), leave_out: SlotSet::NONE })
}

pub fn replace_set(m: u8, n: u8) -> Command {
    cards(Task::ReplaceSet { quorum: quorum(m, n), holders: holders(n) })
}

pub fn restore(slot: Option<u8>, key_id: Option<[u8; 16]>) -> Command {
    cards(Task::RestoreKey { slot: slot.map(SlotId), key_id })
}

pub const SHARE: Credential = Credential::BackupShare;

/// Cards on a desk by number, and what people will do with them.
pub struct Desk {
    pub room: Room,
    pub cards: Vec<Option<Card>>,
    /// The cards that are inserted, in this order.
    pub plan: Vec<usize>,
    /// Which credential it is about.
    pub credential: Credential,
    /// What is said to a question, where not the plan decides.
    pub overwrites: bool,
    /// Questions that were asked.
    pub asked: Vec<Question>,
    /// Refusals that were shown.
    pub shown: Vec<Refusal>,
    /// What people did.
    pub did: usize,
    /// PINs typed.
    pub typed: u32,
    at: usize,
    present: Option<usize>,
    step_of_present: u8,
}

impl Desk {
    pub fn new(readers: usize) -> Self {
        Desk {
            room: Room::new(readers),
            cards: Vec::new(),
            plan: Vec::new(),
            credential: SHARE,
            overwrites: true,
            asked: Vec::new(),
            shown: Vec::new(),
            did: 0,
            typed: 0,
            at: 0,
            present: None,
            step_of_present: 0,
        }
    }

    /// A desk where a set was made; its cards come first.
    pub fn with_set(readers: usize, m: u8, n: u8) -> Self {
        let mut desk = Desk::new(readers);
        let new = desk.blank(usize::from(n));
        assert_eq!(desk.run(create_set(m, n), &new), Some(Answer::Done));
        desk
    }

    /// A desk where two users with cards open the first slot; their cards come first.
    pub fn with_users() -> Self {
        let mut desk = Desk::new(1);
        desk.credential = Credential::SlotUser;
        let new = desk.blank(2);
        let order = desk.slot_cards(0, (2, 2), Some(b"code-of-people"), None);
        assert_eq!(desk.run(order, &new), Some(Answer::Done));
        desk
    }

    /// So many more new cards; their numbers.
    pub fn blank(&mut self, count: usize) -> Vec<usize> {
        (0..count).map(|_| self.put(Card::new([u8::try_from(self.cards.len()).expect("few cards") + 1; 8]))).collect()
    }

    /// One more card; its number.
    pub fn put(&mut self, card: Card) -> usize {
        self.cards.push(Some(card));
        self.cards.len() - 1
    }

    /// One more new card that behaves so.
    pub fn with_manner(&mut self, manner: Manner) -> usize {
        let serial = [u8::try_from(self.cards.len()).expect("few cards") + 1; 8];
        self.put(Card::with(serial, 3, manner))
    }

    pub fn card(&self, number: usize) -> &Card {
        self.cards[number].as_ref().expect("the card is on the desk")
    }

    pub fn card_mut(&mut self, number: usize) -> &mut Card {
        self.cards[number].as_mut().expect("the card is on the desk")
    }

    /// Orders it, plays it to its end; the answer.
    pub fn run(&mut self, command: Command, plan: &[usize]) -> Option<Answer> {
        let reply = self.begin(command, plan);
        self.play();
        self.room.answer(reply)
    }

    /// Orders it, with these cards in this order.
    pub fn begin(&mut self, command: Command, plan: &[usize]) -> u32 {
        (self.plan, self.at, self.present, self.step_of_present) = (plan.to_vec(), 0, None, 0);
        self.did = 0;
        self.asked.clear();
        self.shown.clear();
        let reply = self.room.begin(ADMINISTRATOR, command);
        self.check();
        reply
    }

    /// Does what is wanted until the ceremony is over or the power gone.
    pub fn play(&mut self) {
        for _ in 0..STEPS_MAX {
            if !self.step() {
                return;
            }
        }
        panic!("no end after {STEPS_MAX} steps: {:?}", self.room.ceremony());
    }

    /// Does what is wanted until this is.
    pub fn play_until(&mut self, wants: Wants) {
        for _ in 0..STEPS_MAX {
            if self.room.wants() == Some(wants) {
                return;
            }
            assert!(self.step(), "it ended before {wants:?}: {:?}", self.shown);
        }
        panic!("never {wants:?}: {:?}", self.room.ceremony());
    }

    /// Does one thing that is wanted. False: nothing is.
    pub fn step(&mut self) -> bool {
        let Some(status) = self.room.ceremony() else { return false };
        if let Some(refusal) = status.last
            && self.shown.last() != Some(&refusal)
        {
            self.shown.push(refusal);
        }
        let reader = usize::from(status.reader.0);
        match status.wait {
            Wants::Insert => {
                if !self.insert(reader, &status) {
                    return false;
                }
            }
            Wants::Pin => self.type_pin(reader, false),
            Wants::NewPin => self.type_pin(reader, true),
            Wants::Remove => self.take_out(reader),
            Wants::Answer(question) => {
                self.asked.push(question);
                let more = self.at < self.plan.len();
                let yes = match question {
                    Question::AnotherCard | Question::AnotherCopy => more,
                    Question::Overwrite | Question::AdoptKey => self.overwrites,
                    Question::LastTry | Question::Again => true,
                };
                self.room.say(ADMINISTRATOR, yes);
            }
            Wants::Read | Wants::Write | Wants::Hsm | Wants::Computing | Wants::End => return false,
        }
        self.did += 1;
        self.check();
        true
    }

    fn insert(&mut self, reader: usize, status: &CeremonyStatus) -> bool {
        // One that was pulled lies beside the reader.
        self.collect(reader);
        let same = matches!(
            status.last,
            Some(
                Refusal::CardPulled
                    | Refusal::CardTornWrite
                    | Refusal::CardPinOldOrNew
                    | Refusal::CardInUse
                    | Refusal::CardReadBackDiffers
                    | Refusal::CardFaulty
            )
        );
        // Pulled before anybody noticed that it was there.
        let unseen = status.last.is_none() && status.step == self.step_of_present;
        let again = self.present.take().filter(|_| same || unseen);
        self.step_of_present = status.step;
        let Some(number) = again.or_else(|| self.plan.get(self.at).copied()) else { return false };
        self.at += usize::from(again.is_none());
        self.present = Some(number);
        let card = self.cards[number].take().unwrap_or_else(|| panic!("card {number} is not on the desk"));
        self.room.insert(reader, card);
        true
    }

    fn type_pin(&mut self, reader: usize, change: bool) {
        let pin = self.room.terminals[reader].pad.card().expect("a card is in").pin(self.credential);
        let pin = String::from_utf8(pin.bytes().to_vec()).expect("digits");
        let new = if pin == PIN { OTHER_PIN } else { PIN };
        self.typed += 1;
        if change {
            self.room.type_pins(reader, &[&pin, new, new]);
        } else {
            self.room.type_pins(reader, &[&pin]);
        }
    }

    pub fn take_out(&mut self, reader: usize) {
        if self.room.terminals[reader].pad.has_card() {
            let card = self.room.remove(reader);
            self.lay_down(card);
        }
    }

    /// Cards in readers and beside them come back to the desk.
    pub fn collect_all(&mut self) {
        for reader in 0..self.room.terminals.len() {
            self.take_out(reader);
            self.collect(reader);
        }
    }

    fn collect(&mut self, reader: usize) {
        if !self.room.terminals[reader].pad.has_card()
            && let Some(card) = self.room.terminals[reader].pad.remove()
        {
            self.lay_down(card);
        }
    }

    fn lay_down(&mut self, card: Card) {
        let number = usize::from(card.serial()[0]) - 1;
        assert!(self.cards[number].replace(card).is_none(), "one card of each serial");
    }

    /// The same, and the slots are opened with the code of people.
    pub fn reopen(&mut self) {
        self.restart();
        for slot in 0..2 {
            assert_eq!(self.activate(slot, Some(b"code-of-people"), &[]), Some(Answer::Done));
        }
    }

    /// Time passes until it is over: nobody does anything.
    pub fn wait_for_the_end(&mut self) {
        for _ in 0..20 {
            if self.room.ceremony().is_none() {
                return;
            }
            for reader in 0..self.room.terminals.len() {
                if self.room.terminals[reader].asking().is_some() {
                    self.room.pad_times_out(reader);
                }
            }
            let due_ms = self.room.core().poll_deadline().expect("something is due");
            let now_ms = self.room.now_ms;
            self.room.wait(due_ms.saturating_sub(now_ms));
            self.check();
        }
    }

    /// Power comes back; every card is on the desk.
    pub fn restart(&mut self) {
        for reader in 0..self.room.terminals.len() {
            self.collect(reader);
            if let Some(card) = self.room.terminals[reader].pad.remove() {
                self.lay_down(card);
            }
        }
        self.room.restart();
    }

    /// The transcript comes to the same, and no secret is left over.
    pub fn check(&mut self) {
        let Some(core) = &mut self.room.core else { return };
        assert_eq!(core.status(slotwarden_core::Now { mono_ms: 0, wall_s: None }).halted, None);
        let (taken, owned) = core.secrets_taken_and_owned();
        assert_eq!(taken, owned, "every secret is somebody's");
        assert!(core.free_places_are_wiped());
        let Some(ceremony) = core.ceremony() else { return };
        let lines = &self.room.stored.transcripts[&ceremony.id().0];
        let (state, rules) = transcript::replay(ceremony.id(), lines).expect("a whole transcript");
        assert_eq!(state, ceremony.state(), "the transcript comes to the same state");
        assert_eq!(rules, ceremony.rules().without_secrets(), "and to the same knowledge");
    }

    pub fn sets(&self, subject: SetSubject) -> CardSets {
        self.room.stored.card_sets.get(&subject).cloned().unwrap_or_default()
    }

    pub fn backup(&self) -> CardSet {
        self.sets(SetSubject::BackupKey).current.expect("a set is in force")
    }

    /// Tries that all cards ever lost.
    pub fn tries_spent(&self) -> u32 {
        self.cards.iter().flatten().map(Card::tries_spent).sum()
    }

    /// What is on every card that lies on the desk.
    pub fn records(&self) -> Vec<Option<Vec<u8>>> {
        let record = |card: &Card| card.record(self.credential).map(|record| record.to_vec());
        self.cards.iter().map(|card| card.as_ref().and_then(record)).collect()
    }

    pub fn card_in_reader(&self) -> &Card {
        self.room.terminals[0].pad.card().expect("a card is in the reader")
    }

    pub fn secret(&mut self, bytes: &[u8]) -> slotwarden_core::safe::SecretId {
        self.room.secret(bytes)
    }

    /// Activates with cards, or with a code.
    pub fn activate(&mut self, slot: u8, code: Option<&[u8]>, plan: &[usize]) -> Option<Answer> {
        let code = code.map(|code| self.secret(code));
        self.run(Command::Activate { slot: SlotId(slot), code, confirmed: false }, plan)
    }

    pub fn deactivate(&mut self, slot: u8) {
        let answer = self.room.order(ADMINISTRATOR, Command::Deactivate { slot: SlotId(slot) });
        assert_eq!(answer, Some(Answer::Done));
    }

    /// The order for a set of slot users.
    pub fn slot_cards(&mut self, slot: u8, (k, n): (u8, u8), code: Option<&[u8]>, new_code: Option<&[u8]>) -> Command {
        let with_code = new_code.is_some();
        let code = code.map(|code| self.secret(code));
        let new_code = new_code.map(|code| self.secret(code));
        Command::SlotCards {
            slot: SlotId(slot),
            quorum: quorum(k, n),
            holders: holders(n),
            with_code,
            code,
            new_code,
            confirmed: false,
            accept: ApplicationSet::NONE,
            at: Places::default(),
        }
    }

    pub fn so_cards(&mut self, slot: u8, (k, n): (u8, u8), so_pin: Option<&[u8]>) -> Command {
        let so_pin = so_pin.map(|pin| self.secret(pin));
        Command::AdministratorCards {
            slot: SlotId(slot),
            quorum: quorum(k, n),
            holders: holders(n),
            so_pin,
            confirmed: true,
            at: Places::default(),
        }
    }
}

/// Digits as the pad takes them.
pub fn code(digits: &str) -> Code {
    Code::new(digits.as_bytes())
}

/// How many ceremonies [`ready`] knows.
pub const CEREMONIES: usize = 15;

/// A ceremony, its name, a room that is ready for it, and the cards it takes.
pub fn ready(which: usize) -> (&'static str, Desk, Command, Vec<usize>) {
    let credential = SHARE;
    let to = PersonId(CUSTODIAN.0 + 9);
    let (name, command, old, new) = match which {
        0 => {
            let mut desk = Desk::new(1);
            let plan = desk.blank(2);
            return ("create", desk, create_set(2, 2), plan);
        }
        1 => {
            let mut desk = Desk::new(1);
            desk.credential = Credential::SlotUser;
            let plan = desk.blank(2);
            let order = desk.slot_cards(0, (2, 2), Some(b"code-of-people"), Some(b"code-on-top"));
            return ("slot cards", desk, order, plan);
        }
        2 => {
            let mut desk = Desk::new(1);
            desk.credential = Credential::HsmAdministrator;
            let plan = desk.blank(2);
            desk.deactivate(0);
            let order = desk.so_cards(0, (2, 2), Some(b"so-pin-of-people"));
            return ("SO cards", desk, order, plan);
        }
        11 => {
            let mut desk = Desk::with_set(2, 2, 3);
            let plan = [vec![0], desk.blank(1)].concat();
            return ("copy at two readers", desk, cards(Task::Copy { credential }), plan);
        }
        12 => {
            let mut desk = Desk::with_users();
            let plan = [vec![0, 1], desk.blank(2)].concat();
            let order = desk.slot_cards(0, (2, 2), None, None);
            return ("other slot cards", desk, order, plan);
        }
        13 => {
            let mut desk = Desk::with_users();
            desk.deactivate(0);
            let order = Command::Activate { slot: SlotId(0), code: None, confirmed: false };
            return ("activate", desk, order, vec![1, 0]);
        }
        14 => {
            let mut desk = Desk::new(1);
            desk.credential = Credential::HsmAdministrator;
            let plan = desk.blank(4);
            desk.deactivate(0);
            let order = desk.so_cards(0, (2, 2), Some(b"so-pin-of-people"));
            assert_eq!(desk.run(order, &plan[..2]), Some(Answer::Done));
            let order = desk.so_cards(0, (2, 2), None);
            return ("other SO cards", desk, order, plan);
        }
        3 => ("replace", replace_set(2, 2), 2, 2),
        4 => ("rotate", rotate(2, 2), 0, 2),
        5 => ("restore", restore(None, None), 2, 0),
        6 => ("verify", cards(Task::VerifySet), 3, 0),
        7 => ("copy", cards(Task::Copy { credential }), 1, 1),
        8 => ("change", cards(Task::ChangePin { credential }), 1, 0),
        9 => ("reassign", cards(Task::Reassign { credential, to }), 1, 0),
        _ => ("erase", cards(Task::Erase { credential }), 1, 0),
    };
    let mut desk = Desk::with_set(1, 2, 3);
    let plan = (0..old).chain(desk.blank(new)).collect();
    (name, desk, command, plan)
}
