//! A disk that holds whole transactions: records, sealed secrets, audit log.
//!
//! The model that a separate test of the real store proves by cutting redb byte by byte:
//! after a power cut the disk holds the state before the transaction in flight or the one
//! after it, nothing in between (P39). Secrets lie here in the clear, since the simulator
//! has nothing to hide; a checker makes sure that no typed code is ever among them (P31).

use heapless::Vec;
use slotwarden_core::audit::{AuditRecord, Chain, ChainBreak};
use slotwarden_core::card::registry::CardEntry;
use slotwarden_core::card::sets::{CardSets, SetSubject};
use slotwarden_core::ceremony::order::CeremonyId;
use slotwarden_core::ceremony::transcript::Line;
use slotwarden_core::effect::{Room, StoreResult};
use slotwarden_core::person::PersonId;
use slotwarden_core::record::{Owner, PolicyRecord, SecretKey, Sets, SlotRecord};

use crate::SLOTS;
use crate::code::Code;

/// Sealed secrets at once: two for each slot, and those of tokens that may come back.
pub const SEALED_MAX: usize = 8 * SLOTS;
/// Operations of one transaction: a boot turn has a record and a few audit records per slot,
/// a ceremony a few lines, a set and a card.
pub const OPERATIONS_MAX: usize = 160;

/// One operation of a transaction.
#[derive(Clone, Debug)]
enum Operation {
    Slot(Owner, SlotRecord),
    Policy(PolicyRecord),
    Sets(Owner, Box<Sets>),
    Seal(SecretKey, Code),
    Erase(SecretKey),
    Journal(AuditRecord),
    Cluster([u8; 16]),
    CardSets(SetSubject, Box<CardSets>),
    Card(u8, CardEntry),
    Line(CeremonyId, u16, Box<Line>),
}

/// What is durable.
#[derive(Debug, Default)]
pub struct Durable {
    /// The record of each slot, by owner.
    pub slots: [Option<SlotRecord>; SLOTS],
    /// What two persons decided.
    pub policy: Option<PolicyRecord>,
    /// The sets of shares of each slot, by owner.
    pub sets: [Option<Box<Sets>>; SLOTS],
    /// The sealed secrets.
    pub sealed: Vec<(SecretKey, Code), SEALED_MAX>,
    /// The audit log.
    pub journal: std::vec::Vec<AuditRecord>,
    /// The chain over the part of the log that was checked so far.
    pub checked: Chain,
    /// The cluster id.
    pub cluster: Option<[u8; 16]>,
    /// Sets of cards, by subject.
    pub card_sets: std::vec::Vec<(SetSubject, CardSets)>,
    /// The registry of cards, by place.
    pub cards: std::vec::Vec<Option<CardEntry>>,
    /// Transcripts of ceremonies, each with its lines.
    pub transcripts: std::vec::Vec<(CeremonyId, std::vec::Vec<Line>)>,
    /// Whether a line came out of order.
    pub line_missing: bool,
    /// The intent of a zeroize, and who ordered it.
    pub zeroize: Option<PersonId>,
    /// The data key is destroyed: nothing opens what is sealed.
    pub key_is_gone: bool,
}

impl Durable {
    /// The sets of cards of a subject.
    #[must_use]
    pub fn sets_of(&self, subject: SetSubject) -> Option<&CardSets> {
        self.card_sets.iter().find(|(of, _)| *of == subject).map(|(_, sets)| sets)
    }

    /// The lines of a transcript.
    #[must_use]
    pub fn lines_of(&self, id: CeremonyId) -> &[Line] {
        self.transcripts.iter().find(|(of, _)| *of == id).map_or(&[], |(_, lines)| lines)
    }
}

/// The disk.
#[derive(Debug, Default)]
pub struct Disk {
    /// What survives a power cut whatever happens.
    pub durable: Durable,
    /// The transaction that is being filled.
    open: std::vec::Vec<Operation>,
    /// The transaction whose commit is not answered.
    in_flight: std::vec::Vec<Operation>,
    is_in_flight: bool,
    /// Whether less than 4 MiB is free.
    pub reserve: bool,
    /// Whether more was sealed than [`SEALED_MAX`] or put than [`OPERATIONS_MAX`].
    pub overflowed: bool,
}

impl Disk {
    /// An empty disk, as new; keeps its memory.
    pub fn clear(&mut self) {
        self.durable.slots = [None; SLOTS];
        self.durable.policy = None;
        self.durable.sets = [const { None }; SLOTS];
        self.durable.sealed.clear();
        self.durable.journal.clear();
        self.durable.checked = Chain::default();
        self.durable.cluster = None;
        self.durable.card_sets.clear();
        self.durable.cards.clear();
        self.durable.transcripts.clear();
        self.durable.line_missing = false;
        self.durable.zeroize = None;
        self.durable.key_is_gone = false;
        self.open.clear();
        self.in_flight.clear();
        self.is_in_flight = false;
        self.reserve = false;
        self.overflowed = false;
    }

    /// Adds a slot's record to the open transaction.
    pub fn put(&mut self, owner: Owner, record: SlotRecord) {
        self.push(Operation::Slot(owner, record));
    }

    /// Adds what two persons decided to the open transaction.
    pub fn put_policy(&mut self, policy: PolicyRecord) {
        self.push(Operation::Policy(policy));
    }

    /// Adds a slot's sets of shares to the open transaction.
    pub fn put_sets(&mut self, owner: Owner, sets: Sets) {
        self.push(Operation::Sets(owner, Box::new(sets)));
    }

    /// Adds the cluster id to the open transaction.
    pub fn put_cluster(&mut self, cluster: [u8; 16]) {
        self.push(Operation::Cluster(cluster));
    }

    /// Adds the sets of cards of a subject to the open transaction.
    pub fn put_card_sets(&mut self, subject: SetSubject, sets: CardSets) {
        self.push(Operation::CardSets(subject, Box::new(sets)));
    }

    /// Adds a card of the registry to the open transaction.
    pub fn put_card(&mut self, place: u8, entry: CardEntry) {
        self.push(Operation::Card(place, entry));
    }

    /// Adds a line of a transcript to the open transaction.
    pub fn put_line(&mut self, id: CeremonyId, number: u16, line: Line) {
        self.push(Operation::Line(id, number, Box::new(line)));
    }

    /// Adds a secret to be sealed to the open transaction.
    pub fn seal(&mut self, key: SecretKey, code: Code) {
        self.push(Operation::Seal(key, code));
    }

    /// Adds the end of a sealed secret to the open transaction.
    pub fn erase(&mut self, key: SecretKey) {
        self.push(Operation::Erase(key));
    }

    /// Adds an audit record to the open transaction.
    pub fn journal(&mut self, record: AuditRecord) {
        self.push(Operation::Journal(record));
    }

    /// Begins to make the open transaction durable.
    pub fn commit(&mut self) {
        std::mem::swap(&mut self.open, &mut self.in_flight);
        self.open.clear();
        self.is_in_flight = true;
    }

    /// Whether a commit is unanswered.
    #[must_use]
    pub fn is_in_flight(&self) -> bool {
        self.is_in_flight
    }

    /// The slot that the transaction in flight is about, as far as one is.
    #[must_use]
    pub fn slot_in_flight(&self) -> u8 {
        let slot = self.in_flight.iter().find_map(|operation| match operation {
            Operation::Slot(owner, _) | Operation::Sets(owner, _) => u8::try_from(owner.0).ok(),
            Operation::Journal(record) => record.slot.map(|slot| slot.0),
            Operation::Policy(_)
            | Operation::Seal(..)
            | Operation::Erase(_)
            | Operation::Cluster(_)
            | Operation::CardSets(..)
            | Operation::Card(..)
            | Operation::Line(..) => None,
        });
        slot.unwrap_or(0)
    }

    /// The commit succeeds.
    pub fn finish(&mut self) -> StoreResult {
        self.apply();
        StoreResult::Durable(if self.reserve { Room::Reserve } else { Room::Plenty })
    }

    /// The commit fails; nobody knows whether the transaction is there.
    pub fn fail(&mut self, it_is_there: bool) -> StoreResult {
        if it_is_there {
            self.apply();
        }
        self.in_flight.clear();
        self.is_in_flight = false;
        StoreResult::Failed
    }

    /// The power goes: the open transaction is lost, the one in flight is there or not.
    pub fn power_cut(&mut self, in_flight_is_there: bool) {
        if self.is_in_flight && in_flight_is_there {
            self.apply();
        }
        self.open.clear();
        self.in_flight.clear();
        self.is_in_flight = false;
    }

    /// A sealed secret.
    #[must_use]
    pub fn unseal(&self, key: SecretKey) -> Option<&Code> {
        let sealed = self.durable.sealed.iter().filter(|_| !self.durable.key_is_gone);
        sealed.into_iter().find(|(present, _)| *present == key).map(|(_, code)| code)
    }

    /// The sealed codes of a slot.
    pub fn codes(&self, owner: Owner) -> impl Iterator<Item = &Code> {
        let is_readable = !self.durable.key_is_gone;
        self.durable.sealed.iter().filter(move |(key, _)| is_readable && key.owner == owner).map(|(_, code)| code)
    }

    /// Checks what was added to the audit log since the last check (P37).
    ///
    /// # Errors
    /// [`ChainBreak`] at the first record that does not follow.
    pub fn check_chain(&mut self) -> Result<Chain, ChainBreak> {
        let known = usize::try_from(self.durable.checked.sequence).unwrap_or(usize::MAX);
        for record in self.durable.journal.iter().skip(known) {
            self.durable.checked.accept(record)?;
        }
        Ok(self.durable.checked)
    }

    fn push(&mut self, operation: Operation) {
        if self.open.len() < OPERATIONS_MAX {
            self.open.push(operation);
        } else {
            self.overflowed = true;
        }
    }

    fn apply(&mut self) {
        for operation in self.in_flight.drain(..) {
            match operation {
                Operation::Slot(owner, record) => {
                    if let Some(place) = self.durable.slots.get_mut(usize::from(owner.0)) {
                        *place = Some(record);
                    }
                }
                Operation::Policy(policy) => self.durable.policy = Some(policy),
                Operation::Sets(owner, sets) => {
                    if let Some(place) = self.durable.sets.get_mut(usize::from(owner.0)) {
                        *place = Some(sets);
                    }
                }
                Operation::Seal(key, code) => {
                    self.durable.sealed.retain(|(present, _)| *present != key);
                    self.overflowed |= self.durable.sealed.push((key, code)).is_err();
                }
                Operation::Erase(key) => self.durable.sealed.retain(|(present, _)| *present != key),
                Operation::Journal(record) => self.durable.journal.push(record),
                Operation::Cluster(cluster) => self.durable.cluster = Some(cluster),
                Operation::CardSets(subject, sets) => {
                    match self.durable.card_sets.iter_mut().find(|(of, _)| *of == subject) {
                        Some((_, known)) => *known = *sets,
                        None => self.durable.card_sets.push((subject, *sets)),
                    }
                }
                Operation::Card(place, entry) => {
                    let place = usize::from(place);
                    if place >= self.durable.cards.len() {
                        self.durable.cards.resize(place + 1, None);
                    }
                    self.durable.cards[place] = Some(entry);
                }
                Operation::Line(id, number, line) => {
                    let transcripts = &mut self.durable.transcripts;
                    let place = transcripts.iter().position(|(of, _)| *of == id).unwrap_or(transcripts.len());
                    if place == transcripts.len() {
                        transcripts.push((id, std::vec::Vec::new()));
                    }
                    let lines = &mut transcripts[place].1;
                    self.durable.line_missing |= lines.len() != usize::from(number);
                    lines.push(*line);
                }
            }
        }
        self.is_in_flight = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotwarden_core::audit::AuditEvent;
    use slotwarden_core::record::SecretKind;

    const KEY: SecretKey = SecretKey { kind: SecretKind::GeneratedCode, owner: Owner(0), generation: 1 };

    fn disk_with_a_transaction_in_flight() -> Disk {
        let mut disk = Disk::default();
        disk.put(Owner(0), SlotRecord::new([1; 16]));
        disk.seal(KEY, Code::new(b"code"));
        disk.commit();
        disk
    }

    #[test]
    fn p39_a_power_cut_leaves_the_state_before_or_after_and_nothing_between() {
        for is_there in [false, true] {
            let mut disk = disk_with_a_transaction_in_flight();
            disk.put(Owner(1), SlotRecord::new([2; 16]));
            disk.power_cut(is_there);
            assert_eq!(disk.durable.slots[0].is_some(), is_there);
            assert_eq!(disk.unseal(KEY).is_some(), is_there);
            assert!(disk.durable.slots[1].is_none(), "a transaction that was never committed is lost");
            assert!(!disk.is_in_flight());
        }
    }

    #[test]
    fn a_failed_commit_may_be_there_or_not_and_says_failed_both_times() {
        for is_there in [false, true] {
            let mut disk = disk_with_a_transaction_in_flight();
            assert_eq!(disk.fail(is_there), StoreResult::Failed);
            assert_eq!(disk.durable.slots[0].is_some(), is_there);
        }
    }

    #[test]
    fn a_nearly_full_disk_says_reserve() {
        let mut disk = disk_with_a_transaction_in_flight();
        disk.reserve = true;
        assert_eq!(disk.finish(), StoreResult::Durable(Room::Reserve));
        disk.erase(KEY);
        disk.commit();
        assert_eq!(disk.finish(), StoreResult::Durable(Room::Reserve));
        assert!(disk.unseal(KEY).is_none());
    }

    #[test]
    fn p37_a_record_that_does_not_follow_is_found() {
        let mut disk = Disk::default();
        let mut chain = Chain::default();
        for sequence in [1, 2, 4] {
            let record = AuditRecord {
                sequence,
                wall_s: None,
                previous: chain.head,
                who: None,
                slot: None,
                event: AuditEvent::WorkerLost,
            };
            disk.journal(record);
            disk.commit();
            let _durable = disk.finish();
            if sequence == 4 {
                assert_eq!(disk.check_chain(), Err(ChainBreak::Sequence { expected: 3, found: 4 }));
            } else {
                assert!(chain.accept(&record).is_ok());
                assert_eq!(disk.check_chain(), Ok(chain));
            }
        }
    }
}
