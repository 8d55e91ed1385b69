//! A room with a table: one core, card readers, tokens, a store, and people who do what the
//! wait view says.
//!
//! Smaller than the [`world`](crate::world): no chance, no time that passes by itself. A test
//! orders a ceremony, says what people do, and looks at what came of it; or cuts the power at
//! each commit, each APDU and each call of the HSM in turn, and looks what is left.

use std::collections::{BTreeMap, HashMap, VecDeque};

use slotwarden_core::audit::{AuditRecord, Chain};
use slotwarden_core::card::registry::CardEntry;
use slotwarden_core::card::sets::{CardSets, SetSubject};
use slotwarden_core::card::{CardCall, CardFailure, ReaderEvent, ReaderId};
use slotwarden_core::ceremony::order::CeremonyId;
use slotwarden_core::ceremony::transcript::{self, Line};
use slotwarden_core::cluster::Membership;
use slotwarden_core::command::{Answer, Caller, Command, ReplyId};
use slotwarden_core::effect::{Effect, HsmAnswer, HsmCall, Input, Outcome, Room as Space, SlotId, StoreResult, Ticket};
use slotwarden_core::fault::{Fault, HsmFailure, Refusal};
use slotwarden_core::package::Marks;
use slotwarden_core::person::{PersonId, Persons, Role, Roles};
use slotwarden_core::reception::Reception;
use slotwarden_core::record::{Owner, PolicyRecord, Record, SecretKey, Sets, SlotRecord};
use slotwarden_core::roster::Roster;
use slotwarden_core::safe::SecretId;
use slotwarden_core::service::SecurityLevel;
use slotwarden_core::status::{CeremonyStatus, CeremonyWait};
use slotwarden_core::time::Now;
use slotwarden_core::token::{LoginState, Presence};
use slotwarden_core::transfer::{FileOrder, Purpose, Restoration};
use slotwarden_core::{Configuration, Service, SlotConfiguration};

use crate::cards::Card;
use crate::code::Code;
use crate::hsm::{self, Character, Extent, Token};
use crate::pin_pad::{Entry, PinPad, Pull};
use crate::sync::Sync;
use crate::terminal::{Performed, Terminal, Y};
use crate::vault::{Reach, Vault};

/// Slots of a room.
pub const SLOTS: usize = 2;
/// Places of its Safe: sixteen cards read, sixteen written, and what commands bring.
pub const PLACES: usize = 64;
/// Its outbox.
pub const OUTBOX: usize = 128;
/// Effects of one input; more means that somebody goes round in circles.
const EFFECTS_MAX: u32 = 20_000;

/// The backup key that a passphrase gives here, without the second that it takes elsewhere.
#[must_use]
pub fn stretched(passphrase: &[u8]) -> [u8; 32] {
    slotwarden_core::backup::section_mac(&[0x5A; 32], passphrase)
}

/// The service in a room.
pub type Core = Service<SLOTS, PLACES, OUTBOX>;

/// What is durable.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// Slots.
    pub slots: BTreeMap<Owner, SlotRecord>,
    /// Sets of typed shares.
    pub sets: BTreeMap<Owner, Sets>,
    /// Sets of cards.
    pub card_sets: BTreeMap<SetSubject, CardSets>,
    /// The registry.
    pub cards: BTreeMap<u8, CardEntry>,
    /// The cluster id.
    pub cluster: Option<[u8; 16]>,
    /// The restoration under way.
    pub restoration: Option<Restoration>,
    /// The roster in force.
    pub membership: Option<Membership>,
    /// What was taken from other members, and sent to them.
    pub marks: Marks,
    /// The package under way whose making was ordered.
    pub reception: Option<Reception>,
    /// Transcripts.
    pub transcripts: BTreeMap<[u8; 8], Vec<Line>>,
    /// What two persons decided.
    pub policy: PolicyRecord,
    /// Sealed codes.
    pub sealed: HashMap<SecretKey, Code>,
    /// The end of the audit chain.
    pub chain: Chain,
    /// The audit log.
    pub journal: Vec<AuditRecord>,
}

/// Where the power goes: at the point after so many, before it is done, after it, or amid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Points to let pass: commits, APDUs and calls of the HSM.
    pub after: u32,
    /// How far the point comes.
    pub way: CutWay,
}

/// How far a point comes when the power goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutWay {
    /// It is not done.
    Before,
    /// It is done, and nobody hears of it.
    After,
    /// A card is left half-way; for a commit or a call of the HSM as [`CutWay::Before`].
    Amid,
}

/// The room.
pub struct Room {
    /// The service; `None` while there is no power.
    pub core: Option<Box<Core>>,
    /// The tokens, one for each slot.
    pub tokens: Vec<Token>,
    /// Keys of the tokens, and files of exports and restores.
    pub vault: Vault,
    /// What it keeps as a member of a cluster.
    pub sync: Sync,
    /// The readers.
    pub terminals: Vec<Terminal<Card>>,
    /// The store.
    pub stored: Stored,
    /// Answers to orders, by the order's number.
    pub answers: HashMap<u32, Answer>,
    /// Milliseconds since the beginning.
    pub now_ms: u64,
    /// Calls of the HSM that were made, in order.
    pub calls: Vec<&'static str>,
    /// Card calls that were made, in order.
    pub card_calls: Vec<CardCall>,
    /// Transcripts that were signed.
    pub signed: Vec<(CeremonyId, [u8; 32])>,
    /// Where the power goes.
    pub cut: Option<Cut>,
    /// Where the worker of the HSM is lost, counted in calls of the HSM from now on.
    pub strike: Option<Cut>,
    /// How often it was.
    pub workers_lost: u32,
    /// How often a transcript was run again and compared.
    pub compared: u32,
    /// Points passed since the room was made.
    pub points: u32,
    /// Cards to be inserted before the one that is pulled by itself, and when that one is.
    pub pull: Option<(u32, Pull)>,
    /// Calls of the HSM that are carried out and answered only when a test says so, by name.
    pub silent: Option<&'static str>,
    /// The share that was shown last.
    pub shown: Option<Code>,
    /// Secrets that were left when the service ended in order.
    pub left: Option<usize>,
    /// Calls of the HSM that fail with this, by name.
    pub failing: Option<(&'static str, HsmFailure)>,
    /// The node's public key.
    pub node: [u8; 32],
    /// Whether it makes and takes packages by itself.
    pub automatic: bool,
    persons: Persons,
    level: SecurityLevel,
    open: Stored,
    inputs: VecDeque<Input>,
    waiting: Vec<Option<Ticket>>,
    late: Vec<Input>,
    next_reply: u32,
    draws: u8,
}

/// The administrator of a room.
pub const ADMINISTRATOR: PersonId = PersonId(1);
/// A second one.
pub const SECOND: PersonId = PersonId(2);
/// Somebody who only watches.
pub const AUDITOR: PersonId = PersonId(20);
/// The first of sixteen custodians.
pub const CUSTODIAN: PersonId = PersonId(30);

impl Room {
    /// A room with so many readers, and a token for each slot with a generated code that is
    /// proven: both slots are active.
    #[must_use]
    pub fn new(readers: usize) -> Self {
        let mut persons = Persons::default();
        let roles = |role| Roles::NONE.with(role);
        let mut add = |who, role| assert!(persons.add(who, roles(role)).is_ok(), "there is room for persons");
        add(ADMINISTRATOR, Role::Administrator);
        add(SECOND, Role::Administrator);
        add(AUDITOR, Role::Auditor);
        for number in 0..16 {
            add(PersonId(CUSTODIAN.0 + number), Role::Custodian);
        }
        let character = Character::SOFT;
        let tokens = (0..2)
            .map(|slot| {
                Token::initialised(slot, character, slot, Code::new(b"code-of-people"), Code::new(b"so-pin-of-people"))
            })
            .collect();
        let mut room = Room {
            core: None,
            tokens,
            vault: Vault::default(),
            sync: Sync::default(),
            terminals: (0..readers).map(|_| Terminal::new(PinPad::default())).collect(),
            stored: Stored::default(),
            answers: HashMap::new(),
            now_ms: 0,
            calls: Vec::new(),
            card_calls: Vec::new(),
            signed: Vec::new(),
            cut: None,
            strike: None,
            workers_lost: 0,
            points: 0,
            compared: 0,
            pull: None,
            silent: None,
            late: Vec::new(),
            shown: None,
            left: None,
            failing: None,
            node: [0; 32],
            automatic: false,
            persons,
            level: SecurityLevel::Cards,
            open: Stored::default(),
            inputs: VecDeque::new(),
            waiting: vec![None; readers],
            next_reply: 0,
            draws: 0,
        };
        room.start();
        for slot in [SlotId(0), SlotId(1)] {
            let code = room.secret(b"code-of-people");
            let answer = room.order(ADMINISTRATOR, Command::Activate { slot, code: Some(code), confirmed: false });
            assert_eq!(answer, Some(Answer::Done));
        }
        room
    }

    /// Another appliance security level from the next start on.
    pub fn at_level(&mut self, level: SecurityLevel) {
        self.level = level;
        self.restart();
    }

    /// The service starts from what is stored.
    pub fn start(&mut self) {
        let slots = (0..SLOTS)
            .map(|slot| {
                let number = u8::try_from(slot).unwrap_or(0);
                let owner = Owner(u16::from(number) + 1);
                SlotConfiguration {
                    owner,
                    uid: [0xA0 + number; 16],
                    applications: heapless::Vec::new(),
                    pin_chars_max: 0,
                }
            })
            .collect();
        let configuration = Configuration {
            slots,
            persons: self.persons.clone(),
            tries: 3,
            digest: [0; 32],
            in_force: [0; 32],
            offered: [0; 32],
            level: self.level,
            cluster: [0xC1; 16],
        };
        let mut core = Box::new(Core::new(configuration).unwrap_or_else(|refusal| panic!("{refusal:?}")));
        let stored = &self.stored;
        stored.slots.iter().for_each(|(owner, record)| core.load(*owner, *record));
        stored.sets.iter().for_each(|(owner, sets)| core.load_sets(*owner, sets.clone()));
        stored.card_sets.iter().for_each(|(subject, sets)| core.load_card_sets(*subject, sets.clone()));
        stored.cards.values().for_each(|entry| core.load_card(*entry));
        if let Some(cluster) = stored.cluster {
            core.load_cluster(cluster);
        }
        if let Some(restoration) = self.stored.restoration {
            core.load_restoration(restoration);
        }
        core.load_node(self.node);
        core.load_automatic(self.automatic);
        if let Some(membership) = &self.stored.membership {
            core.load_roster(membership.clone());
        }
        core.load_marks(self.stored.marks.clone());
        if let Some(reception) = &self.stored.reception {
            core.load_reception(reception);
        }
        core.load_policy(stored.policy);
        core.load_chain(stored.chain);
        self.open = self.stored.clone();
        self.core = Some(core);
        self.inputs.clear();
        self.late.clear();
        self.waiting.iter_mut().for_each(|waiting| *waiting = None);
        for token in &mut self.tokens {
            token.session = LoginState::Public;
        }
        self.input(Input::Start);
        for (slot, token) in self.tokens.clone().iter().enumerate() {
            let slot = SlotId(u8::try_from(slot).unwrap_or(0));
            self.input(Input::Token { slot, presence: Presence::Present(token.state()) });
        }
        self.input(Input::WorkerUp);
        for reader in 0..self.terminals.len() {
            self.reader(reader, ReaderEvent::Found);
            if self.terminals.get(reader).is_some_and(|terminal| terminal.pad.has_card()) {
                self.reader(reader, ReaderEvent::CardIn);
            }
        }
    }

    /// Power goes and comes back.
    pub fn restart(&mut self) {
        self.power_off();
        self.start();
    }

    fn power_off(&mut self) {
        self.core = None;
        self.sync.power_off();
        for terminal in &mut self.terminals {
            terminal.pad.power_off();
            terminal.pad.forget();
        }
        self.inputs.clear();
    }

    /// Puts a secret into the Safe.
    pub fn secret(&mut self, bytes: &[u8]) -> SecretId {
        let filled = self.core().fill(|place| {
            place[..bytes.len()].copy_from_slice(bytes);
            bytes.len()
        });
        filled.unwrap_or_else(|refusal| panic!("{refusal:?}"))
    }

    /// The running service.
    pub fn core(&mut self) -> &mut Core {
        self.core.as_mut().unwrap_or_else(|| panic!("there is no power"))
    }

    /// Gives an order; its answer, if there is one already.
    pub fn order(&mut self, who: PersonId, command: Command) -> Option<Answer> {
        let reply = self.begin(who, command);
        self.answers.get(&reply).copied()
    }

    /// Gives an order; the number of its answer.
    pub fn begin(&mut self, who: PersonId, command: Command) -> u32 {
        self.next_reply += 1;
        let reply = ReplyId(self.next_reply);
        let now = self.now();
        let taken = self.core().handle(now, Input::Command { caller: Caller { who, reply }, command });
        if let Err(refusal) = taken {
            self.answers.insert(reply.0, Answer::Refused(refusal));
        }
        self.perform_all();
        reply.0
    }

    /// The answer to an order, if there is one.
    #[must_use]
    pub fn answer(&self, reply: u32) -> Option<Answer> {
        self.answers.get(&reply).copied()
    }

    /// Time passes.
    pub fn wait(&mut self, wait_ms: u64) {
        self.now_ms += wait_ms;
        self.input(Input::Tick);
    }

    /// What the ceremony waits for.
    #[must_use]
    pub fn ceremony(&self) -> Option<CeremonyStatus> {
        self.core.as_ref()?.status(self.now()).ceremony
    }

    /// A card goes in.
    pub fn insert(&mut self, reader: usize, card: Card) {
        assert!(self.terminals[reader].pad.insert(card).is_none(), "a card is in already");
        match &mut self.pull {
            Some((0, pull)) => {
                self.terminals[reader].pad.pull(*pull);
                self.pull = None;
            }
            Some((before, _)) => *before -= 1,
            None => {}
        }
        self.reader(reader, ReaderEvent::CardIn);
    }

    /// The card comes out.
    pub fn remove(&mut self, reader: usize) -> Card {
        let card = self.terminals[reader].pad.remove().unwrap_or_else(|| panic!("no card is in"));
        self.reader(reader, ReaderEvent::CardOut);
        card
    }

    /// A person does this at a pad that asks.
    pub fn at_pad(&mut self, reader: usize, entries: &[Entry]) {
        for entry in entries {
            self.terminals[reader].pad.expect(*entry);
        }
        if self.terminals[reader].asking().is_some() {
            let performed = self.terminals[reader].go_on();
            self.performed(reader, performed);
        }
    }

    /// Types one PIN, or the old one and twice the new one.
    pub fn type_pins(&mut self, reader: usize, pins: &[&str]) {
        let entries: Vec<Entry> = pins.iter().map(|pin| Entry::Types(Code::new(pin.as_bytes()))).collect();
        self.at_pad(reader, &entries);
    }

    /// Nobody types.
    pub fn pad_times_out(&mut self, reader: usize) {
        let performed = self.terminals[reader].time_out();
        self.performed(reader, performed);
    }

    /// Answers what the ceremony asks.
    pub fn say(&mut self, who: PersonId, yes: bool) -> Option<Answer> {
        let id = self.ceremony().map(|ceremony| ceremony.id)?;
        self.order(who, Command::AnswerCeremony { id, yes, confirmed: true })
    }

    /// What the ceremony waits for, in one word.
    #[must_use]
    pub fn wants(&self) -> Option<CeremonyWait> {
        self.ceremony().map(|ceremony| ceremony.wait)
    }

    /// Which refusal it showed last.
    #[must_use]
    pub fn last(&self) -> Option<Refusal> {
        self.ceremony().and_then(|ceremony| ceremony.last)
    }

    /// Something happens at a reader.
    pub fn reader(&mut self, reader: usize, event: ReaderEvent) {
        let reader = ReaderId(u8::try_from(reader).unwrap_or(u8::MAX));
        self.input(Input::Reader { reader, event });
    }

    /// The moment.
    #[must_use]
    pub fn now(&self) -> Now {
        Now { mono_ms: self.now_ms, wall_s: Some(1_800_000_000 + self.now_ms / 1000) }
    }

    /// Hands an input over and performs what follows.
    pub fn input(&mut self, input: Input) {
        self.inputs.push_back(input);
        self.perform_all();
    }

    fn perform_all(&mut self) {
        for _ in 0..EFFECTS_MAX {
            let now = self.now();
            let Some(core) = &mut self.core else { return };
            if let Some(effect) = core.poll_effect() {
                self.perform(effect);
            } else if let Some(input) = self.inputs.pop_front() {
                let taken = core.handle(now, input);
                assert!(taken.is_ok(), "only commands are refused");
            } else {
                return;
            }
        }
        panic!("effects without end");
    }

    /// Whether the power goes here, and how far the point comes.
    fn point(&mut self) -> Option<CutWay> {
        self.points += 1;
        reach(&mut self.cut)
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Store(record) => self.put(record),
            Effect::Journal(record) => {
                self.open.chain = Chain { sequence: record.sequence, head: record.hash() };
                self.open.journal.push(record);
            }
            Effect::Commit { ticket } => {
                self.compare();
                match self.point() {
                    Some(CutWay::After) => {
                        self.stored = self.open.clone();
                        self.power_off();
                    }
                    Some(CutWay::Before | CutWay::Amid) => self.power_off(),
                    None => {
                        self.stored = self.open.clone();
                        let result = StoreResult::Durable(Space::Plenty);
                        self.inputs.push_back(Input::Stored { ticket, result });
                    }
                }
            }
            Effect::Hsm { ticket, slot, call } => self.hsm(ticket, slot, call),
            Effect::Card { ticket, reader, call } => self.card(ticket, usize::from(reader.0), &call),
            Effect::Random { ticket, id } => {
                self.draws = self.draws.wrapping_add(1);
                let draw = self.draws;
                let taken = self.core().refill(id, |place| {
                    for (at, byte) in place[..64].iter_mut().enumerate() {
                        *byte = u8::try_from(at).unwrap_or(0).wrapping_mul(31)
                            ^ draw.wrapping_mul(if at < 32 { 17 } else { 91 });
                    }
                    64
                });
                let outcome = Outcome::Random(if taken { Ok(()) } else { Err(Fault::RandomUnavailable) });
                self.inputs.push_back(Input::Done { ticket, outcome });
            }
            Effect::Unseal { ticket, key, id } => {
                let code = self.stored.sealed.get(&key).copied();
                let result = match code {
                    Some(code) if self.core().refill(id, |place| code.write(place)) => Ok(()),
                    Some(_) | None => Err(Fault::SealBroken),
                };
                self.inputs.push_back(Input::Done { ticket, outcome: Outcome::Unsealed(result) });
            }
            Effect::Application { ticket, .. } => {
                self.inputs.push_back(Input::Done { ticket, outcome: Outcome::Application(Ok(())) });
            }
            Effect::Reply { reply, answer } => {
                if let Answer::Share { id, .. } = answer {
                    self.shown = Some(self.lent(id));
                }
                assert!(self.answers.insert(reply.0, answer).is_none(), "one answer for each order");
            }
            Effect::SignTranscript { id, head } => self.signed.push((id, head)),
            Effect::Checkpoint { .. } => {}
            Effect::File { ticket, order } => self.file(ticket, order),
            // Its own world (`zeroize`) orders it; people at a table do not.
            Effect::Zeroize { .. } => {}
            Effect::EndWorker => self.inputs.push_back(Input::WorkerLost),
            Effect::Stopped => {
                self.left = Some(self.core().secrets_taken_and_owned().0);
                self.power_off();
            }
        }
    }

    /// The lines that are about to be durable come to the state and the knowledge of the ceremony (P38).
    fn compare(&mut self) {
        let Some(ceremony) = self.core.as_ref().and_then(|core| core.ceremony()) else { return };
        let lines = self.open.transcripts.get(&ceremony.id().0).map_or(&[][..], Vec::as_slice);
        let replayed = transcript::replay(ceremony.id(), lines);
        let expected = (ceremony.state(), ceremony.rules().without_secrets());
        assert_eq!(replayed, Ok(expected), "a transcript comes to the same");
        self.compared += 1;
    }

    fn put(&mut self, record: Record) {
        let open = &mut self.open;
        match record {
            Record::Slot { owner, record } => {
                open.slots.insert(owner, record);
            }
            Record::Sets { owner, sets } => {
                open.sets.insert(owner, sets);
            }
            Record::Policy(policy) => open.policy = policy,
            Record::CardSets { subject, sets } => {
                let mut bytes = [0; slotwarden_core::card::sets::CARD_SETS_BYTES_MAX];
                let encoded = sets.encode(&mut bytes).unwrap_or_else(|refusal| panic!("{refusal:?}"));
                assert_eq!(CardSets::decode(encoded).as_ref(), Ok(&sets));
                open.card_sets.insert(subject, sets);
            }
            Record::Card { place, entry } => {
                open.cards.insert(place, entry);
            }
            Record::Cluster(cluster) => open.cluster = Some(cluster),
            Record::Restoration(restoration) => open.restoration = restoration,
            Record::Roster(membership) => open.membership = Some(membership),
            Record::SyncMarks(marks) => open.marks = marks,
            Record::Reception(reception) => open.reception = reception,
            Record::Transcript { id, number, line } => {
                let mut bytes = [0; slotwarden_core::ceremony::transcript::LINE_BYTES_MAX];
                let encoded = line.encode(&mut bytes).unwrap_or_else(|refusal| panic!("{refusal:?}"));
                assert_eq!(Line::decode(encoded), Ok(line));
                let lines = open.transcripts.entry(id.0).or_default();
                assert_eq!(lines.len(), usize::from(number), "lines come in order");
                lines.push(line);
            }
            Record::Seal { key, id } => {
                let code = self.core.as_ref().and_then(|core| core.with(id, Code::new));
                let code = code.unwrap_or_else(|| panic!("a secret was wiped before it was sealed"));
                self.open.sealed.insert(key, code);
            }
            Record::Erase { key } => {
                open.sealed.remove(&key);
            }
        }
    }

    fn lent(&self, id: SecretId) -> Code {
        let code = self.core.as_ref().and_then(|core| core.with(id, Code::new));
        code.unwrap_or_else(|| panic!("a secret was wiped before the call that carries it"))
    }

    fn file(&mut self, ticket: Ticket, order: FileOrder) {
        let way = self.point();
        if matches!(way, Some(CutWay::Before | CutWay::Amid)) {
            return self.power_off();
        }
        let done = self.file_done(order);
        if way.is_some() {
            return self.power_off();
        }
        if order != FileOrder::Discard {
            let result = if done { Ok(()) } else { Err(Fault::StoreFailed) };
            let outcome = match order {
                FileOrder::Check { backup_key, .. } => {
                    let lent = self.lent(backup_key);
                    Outcome::FileChecked(lent.bytes().try_into().map_or(Ok(false), |key| self.vault.check(key)))
                }
                _ => Outcome::File(result),
            };
            self.inputs.push_back(Input::Done { ticket, outcome });
        }
    }

    /// What the platform does with files. False: it could not be done.
    fn file_done(&mut self, order: FileOrder) -> bool {
        match order {
            FileOrder::Begin(export) if matches!(export.purpose, Purpose::Package { .. }) => {
                let Some(roster) = self.core().roster().cloned() else { return false };
                self.sync.begin(export, self.node, &roster);
                true
            }
            FileOrder::Finish if self.sync.is_making() => {
                self.sync.finish();
                true
            }
            FileOrder::Received { hash } => self.sync.receive(hash),
            FileOrder::KeepRoster { hash } => {
                assert_eq!(self.core().roster().map(Roster::hash), Some(hash), "the roster in force is filed");
                if !self.sync.filed.contains(&hash) {
                    self.sync.filed.push(hash);
                }
                true
            }
            FileOrder::Discard => {
                self.sync.discard();
                self.vault.file(order)
            }
            FileOrder::Stretch { passphrase, .. } => {
                let key = stretched(self.lent(passphrase).bytes());
                self.core().refill(passphrase, |place| {
                    place[..key.len()].copy_from_slice(&key);
                    key.len()
                })
            }
            FileOrder::Begin(_) | FileOrder::Finish => self.vault.file(order),
            // What is found is the answer.
            FileOrder::Check { .. } => true,
        }
    }

    /// A call about what a package holds.
    fn package_call(&mut self, slot: SlotId, call: &HsmCall, reach: Reach) -> Result<HsmAnswer, HsmFailure> {
        let number = usize::from(slot.0);
        let holder = self.tokens.get(number).ok_or(HsmFailure::TokenGone)?;
        let token = self.vault.tokens.get_mut(number).ok_or(HsmFailure::TokenGone)?;
        let has = |purpose, name| {
            let mut held = holder.live.backup_keys.iter().flatten();
            held.any(|key| key.purpose == purpose && (key.key_id, key.uid) == name)
        };
        match *call {
            HsmCall::PlanPackage { key_id, uid } if has(hsm::Purpose::Unwrap, (key_id, uid)) => {
                self.sync.plan(uid, token).map(HsmAnswer::ImportPrepared)
            }
            HsmCall::ImportPackage { key_id, uid } if has(hsm::Purpose::Unwrap, (key_id, uid)) => {
                self.sync.import(uid, token, reach)
            }
            HsmCall::ExportSection { key_id, uid, once: None } if has(hsm::Purpose::Wrap, (key_id, uid)) => {
                Ok(self.sync.export(uid, token))
            }
            _ => Err(HsmFailure::Refused(Refusal::NoBackupKey)),
        }
    }

    fn hsm(&mut self, ticket: Ticket, slot: SlotId, call: HsmCall) {
        let (cut, lost) = (self.point(), reach(&mut self.strike));
        let way = cut.or(lost);
        let result = match (way, call) {
            (None | Some(CutWay::After), _) => Some(self.call(slot, call)),
            (Some(CutWay::Amid), HsmCall::Import { .. }) => {
                let _ = self.vault.call(slot, &call, Reach::First);
                None
            }
            (Some(CutWay::Amid), HsmCall::ImportPackage { .. }) => {
                let _ = self.package_call(slot, &call, Reach::First);
                None
            }
            (Some(CutWay::Amid | CutWay::Before), _) => None,
        };
        let result = match (cut, lost, result) {
            (Some(_), _, _) => return self.power_off(),
            (None, Some(_), _) => return self.lose_worker(),
            (None, None, result) => result.unwrap_or(Err(HsmFailure::NoWorker)),
        };
        let done = Input::Done { ticket, outcome: Outcome::Hsm(result) };
        if self.silent.is_some() && self.calls.last().copied() == self.silent {
            self.late.push(done);
        } else {
            self.inputs.push_back(done);
        }
    }

    /// The worker of the HSM is gone, and with it what it was doing; another one starts, and finds every token closed.
    fn lose_worker(&mut self) {
        self.workers_lost += 1;
        self.late.clear();
        self.inputs.push_back(Input::WorkerLost);
        for (slot, token) in (0..).map(SlotId).zip(&mut self.tokens) {
            token.session = LoginState::Public;
            self.inputs.push_back(Input::Token { slot, presence: Presence::Present(token.state()) });
        }
        self.inputs.push_back(Input::WorkerUp);
    }

    /// What the HSM did not answer is answered now.
    pub fn answer_late(&mut self) {
        self.silent = None;
        self.inputs.extend(std::mem::take(&mut self.late));
        self.perform_all();
    }

    fn call(&mut self, slot: SlotId, call: HsmCall) -> Result<HsmAnswer, HsmFailure> {
        let name = name(&call);
        self.calls.push(name);
        if let Some((failing, failure)) = self.failing
            && failing == name
        {
            return Err(failure);
        }
        let lent = |id| self.lent(id);
        let (first, second) = match call {
            HsmCall::Login { pin } => (lent(pin), Code::NONE),
            HsmCall::SetPin { old, new } | HsmCall::SetSoPin { old, new } => (lent(old), lent(new)),
            HsmCall::Initialise { so_pin, new, .. } | HsmCall::Unblock { so_pin, new } => (lent(so_pin), lent(new)),
            HsmCall::Erase { so_pin } => (lent(so_pin), Code::NONE),
            HsmCall::PutBackupKeys { kek, mak, .. }
            | HsmCall::PrepareImport { kek, mak, .. }
            | HsmCall::ExportSection { once: Some([kek, mak]), .. } => (lent(kek), lent(mak)),
            HsmCall::Observe
            | HsmCall::Logout
            | HsmCall::Settle
            | HsmCall::KeepBackupKeys { .. }
            | HsmCall::Inventory { .. }
            | HsmCall::ExportSection { .. }
            | HsmCall::Import { .. }
            | HsmCall::PlanPackage { .. }
            | HsmCall::ImportPackage { .. }
            | HsmCall::DropUnwrapKey { .. } => (Code::NONE, Code::NONE),
        };
        let token = self.tokens.get_mut(usize::from(slot.0)).ok_or(HsmFailure::TokenGone)?;
        match call {
            HsmCall::Observe => Ok(HsmAnswer::Observed(token.state())),
            HsmCall::Login { .. } => token.login(&first),
            HsmCall::Logout => token.logout(),
            HsmCall::SetPin { .. } => token.set_pin(&first, &second),
            HsmCall::Initialise { .. } => token.initialise(slot.0, &first, &second, Extent::Whole),
            HsmCall::Settle => {
                token.settle();
                Ok(HsmAnswer::Settled)
            }
            HsmCall::Unblock { .. } => token.unblock(&first, &second),
            HsmCall::Erase { .. } => token.erase(&first),
            HsmCall::PutBackupKeys { key_id, uid, unwrap, .. } => {
                token.put_backup_keys((key_id, uid), &first, &second, unwrap, Extent::Whole)
            }
            HsmCall::KeepBackupKeys { key_id, uid, unwrap } => {
                let kept = token.keep_backup_keys(key_id, uid, unwrap);
                if kept.is_ok() {
                    self.vault.keep(slot, key_id.filter(|_| unwrap), uid);
                }
                kept
            }
            HsmCall::SetSoPin { .. } => token.set_so_pin(&first, &second),
            HsmCall::Inventory { .. }
            | HsmCall::ExportSection { .. }
            | HsmCall::PrepareImport { .. }
            | HsmCall::Import { .. }
            | HsmCall::PlanPackage { .. }
            | HsmCall::ImportPackage { .. }
            | HsmCall::DropUnwrapKey { .. } => {
                if token.session != LoginState::User {
                    return token.transfer(&call);
                }
                let of_package = match call {
                    HsmCall::PlanPackage { .. } | HsmCall::ImportPackage { .. } => true,
                    HsmCall::ExportSection { .. } => self.sync.is_making(),
                    _ => false,
                };
                if of_package {
                    return self.package_call(slot, &call, Reach::Whole);
                }
                self.vault.call(slot, &call, Reach::Whole)
            }
        }
    }

    fn card(&mut self, ticket: Ticket, reader: usize, call: &CardCall) {
        self.card_calls.push(*call);
        let is_apdu = !matches!(call, CardCall::Hold | CardCall::Release);
        let way = if is_apdu { self.point() } else { None };
        if way == Some(CutWay::Before) {
            return self.power_off();
        }
        let y = match call {
            CardCall::Write { y, .. } => {
                let lent = self.lent(*y);
                let y: Result<Y, _> = lent.bytes().try_into();
                Some(y.unwrap_or_else(|_| panic!("y is 32 bytes")))
            }
            _ => None,
        };
        self.waiting[reader] = Some(ticket);
        if way == Some(CutWay::Amid) {
            self.terminals[reader].pad.pull(Pull::Amid(0));
            let performed = self.terminals[reader].perform(call, y.as_ref());
            if let Performed::Waits { .. } | Performed::Hesitates(_) = performed {
                self.terminals[reader].time_out();
            }
            if let Some(card) = self.terminals[reader].pad.remove() {
                self.terminals[reader].pad.insert(card);
            }
            return self.power_off();
        }
        let performed = self.terminals[reader].perform(call, y.as_ref());
        if way == Some(CutWay::After) {
            return self.power_off();
        }
        self.performed(reader, performed);
    }

    fn performed(&mut self, reader: usize, performed: Performed) {
        let Performed::Ended(result, y) = performed else { return };
        let Some(ticket) = self.waiting[reader].take() else { return };
        let into = self.card_calls.iter().rev().find_map(|call| match call {
            CardCall::Read { y, .. } => Some(*y),
            _ => None,
        });
        let placed = match (y, into) {
            (Some(y), Some(into)) => self.core().refill(into, |place| {
                place[..y.len()].copy_from_slice(&y);
                y.len()
            }),
            (Some(_), None) => false,
            (None, _) => true,
        };
        let result = if placed { result } else { result.and(Err(CardFailure::Garbage)) };
        self.inputs.push_back(Input::Done { ticket, outcome: Outcome::Card(result) });
        if !self.terminals[reader].pad.has_card() {
            self.inputs.push_back(Input::Reader {
                reader: ReaderId(u8::try_from(reader).unwrap_or(u8::MAX)),
                event: ReaderEvent::CardOut,
            });
        }
        self.perform_all();
    }
}

/// Lets one point pass; how far it comes where this is the one.
fn reach(cut: &mut Option<Cut>) -> Option<CutWay> {
    let left = cut.as_mut()?;
    match left.after.checked_sub(1) {
        Some(after) => {
            left.after = after;
            None
        }
        None => cut.take().map(|cut| cut.way),
    }
}

fn name(call: &HsmCall) -> &'static str {
    match call {
        HsmCall::Observe => "observe",
        HsmCall::Login { .. } => "login",
        HsmCall::Logout => "logout",
        HsmCall::SetPin { .. } => "set pin",
        HsmCall::Initialise { .. } => "initialise",
        HsmCall::Settle => "settle",
        HsmCall::Unblock { .. } => "unblock",
        HsmCall::Erase { .. } => "erase",
        HsmCall::PutBackupKeys { .. } => "put backup keys",
        HsmCall::KeepBackupKeys { .. } => "keep backup keys",
        HsmCall::SetSoPin { .. } => "set so pin",
        HsmCall::Inventory { .. } => "inventory",
        HsmCall::ExportSection { .. } => "export section",
        HsmCall::PrepareImport { .. } => "prepare import",
        HsmCall::Import { .. } => "import",
        HsmCall::DropUnwrapKey { .. } => "drop unwrap key",
        HsmCall::PlanPackage { .. } => "plan package",
        HsmCall::ImportPackage { .. } => "import package",
    }
}
