//! What the store's tests share: a Safe that lends, a store to fill, a look at every byte.
#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use slotwarden::devices::{Event, Lend, Store as _};
use slotwarden::store::{DiskStore, Refused, StoreSettings};
use slotwarden_core::audit::{AuditEvent, AuditRecord, Chain};
use slotwarden_core::card::registry::{CardEntry, ShareOnCard};
use slotwarden_core::card::sets::{CardSet, CardSets};
use slotwarden_core::card::{CardSerial, Credential, ProfileId};
use slotwarden_core::command::CommandKind;
use slotwarden_core::effect::{Input, Outcome, SlotId, StoreResult, Ticket};
use slotwarden_core::fault::{Fault, Refusal};
use slotwarden_core::person::{PersonId, Roster};
use slotwarden_core::record::{Owner, SecretKey, SecretKind, Sets, SlotRecord};
use slotwarden_core::share::card_set::CardQuorum;
use slotwarden_core::share::{Quorum, Set};
use slotwarden_core::{Safe, SecretId};

/// A Safe of the core behind the platform's trait.
pub(crate) struct Purse(Safe<16>);

impl Purse {
    pub(crate) fn empty() -> Self {
        Purse(Safe::new())
    }

    pub(crate) fn keep(&mut self, secret: &[u8]) -> SecretId {
        let kept = self.0.fill(|place| {
            place[..secret.len()].copy_from_slice(secret);
            secret.len()
        });
        kept.expect("tests keep few secrets")
    }

    pub(crate) fn forget(&mut self, id: SecretId) {
        self.0.wipe(id);
    }
}

impl Lend for Purse {
    fn lend(&self, id: SecretId, read: &mut dyn FnMut(&[u8])) -> bool {
        self.0.with(id, |secret| read(secret)).is_some()
    }
}

/// A directory that is never on a disk.
pub(crate) fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").expect("/dev/shm is there")
}

/// Settings that do not depend on the environment of the test.
pub(crate) fn settings(dir: &Path) -> StoreSettings {
    let mut settings = StoreSettings::new(dir);
    settings.seal.credential = None;
    settings
}

/// A store and the channel it answers on.
pub(crate) struct Open {
    pub(crate) store: DiskStore,
    pub(crate) events: Receiver<Event>,
    pub(crate) chain: Chain,
    number: u32,
}

pub(crate) fn open(settings: &StoreSettings) -> Result<Open, Refused> {
    let (sender, events): (Sender<Event>, _) = channel();
    let store = DiskStore::open(settings, sender)?;
    let chain = store.loaded().chain;
    Ok(Open { store, events, chain, number: 0 })
}

pub(crate) fn refusal(settings: &StoreSettings) -> Refusal {
    match open(settings) {
        Ok(_) => panic!("the store was opened"),
        Err(refused) => refused.refusal,
    }
}

impl Open {
    /// Adds one record to the journal.
    pub(crate) fn journal(&mut self, event: AuditEvent) {
        let record = record_after(&self.chain, event);
        self.chain.accept(&record).expect("it was made for this chain");
        self.store.journal(&record);
    }

    /// Commits, and waits for the answer.
    pub(crate) fn commit(&mut self) -> StoreResult {
        self.number += 1;
        let ticket = Ticket { slot: None, number: self.number };
        self.store.commit(ticket);
        loop {
            match self.events.recv_timeout(Duration::from_secs(20)).expect("the store answers") {
                Event::Input(Input::Stored { ticket: answered, result }) => {
                    assert_eq!(answered, ticket);
                    return result;
                }
                Event::Note(_) => {}
                other => panic!("the store sent {other:?}"),
            }
        }
    }

    /// Waits until what was handed over without a ticket is durable.
    pub(crate) fn settle(&mut self) {
        assert!(matches!(self.commit(), StoreResult::Durable(_)));
    }
}

/// The next record of a chain.
pub(crate) fn record_after(chain: &Chain, event: AuditEvent) -> AuditRecord {
    AuditRecord {
        sequence: chain.sequence + 1,
        wall_s: Some(1_767_225_600 + chain.sequence),
        previous: chain.head,
        who: Some(PersonId::OWN_USER),
        slot: Some(SlotId(2)),
        event,
    }
}

/// Events of every shape, in turn.
pub(crate) fn event(number: u64) -> AuditEvent {
    match number % 6 {
        0 => AuditEvent::Started { configuration: [number as u8; 32] },
        1 => AuditEvent::Ordered(CommandKind::Activate),
        2 => AuditEvent::AttemptUnknown(Fault::StoreFailed),
        3 => AuditEvent::Activated,
        4 => AuditEvent::Refused(CommandKind::Mode, Refusal::ModeAlready),
        _ => AuditEvent::SlotConfigured { owner: Owner(number as u16) },
    }
}

/// The key of a generated code.
pub(crate) fn code(owner: u16, generation: u32) -> SecretKey {
    SecretKey { kind: SecretKind::GeneratedCode, owner: Owner(owner), generation }
}

/// A slot record that can be told from others.
pub(crate) fn slot(number: u8) -> SlotRecord {
    SlotRecord { next_generation: u32::from(number) + 1, ..SlotRecord::new([number; 16]) }
}

/// Sets of shares that can be told from others.
pub(crate) fn sets(number: u16) -> Sets {
    let quorum = Quorum::new(2, 3).expect("a quorum");
    let mut set = Set::new(&[number as u8; 32], number, quorum, 32);
    assert!(set.hand_out(1, PersonId(7)) && set.confirm(1) && set.hand_out(2, PersonId(8)));
    let mut sets = Sets { last_generation: number, ..Sets::none() };
    sets.begin_next(set);
    sets
}

/// A card that can be told from others.
pub(crate) fn card(number: u8) -> CardEntry {
    let serial = CardSerial::new(&[number; 6]).expect("a serial");
    let share = Some(ShareOnCard { set_id: [1; 16], x: number, generation: 1 });
    CardEntry { share, ..CardEntry::new(serial, Credential::BackupShare, ProfileId::OpenPgp) }
}

/// Sets of cards that can be told from others.
pub(crate) fn card_sets(number: u8) -> CardSets {
    let mut sets = CardSets::none();
    sets.begin_next(CardSet {
        id: [number; 16],
        key_id: [9; 16],
        generation: u32::from(number),
        quorum: CardQuorum::new(2, 3).expect("a quorum"),
        holders: Roster::NOBODY,
        created_s: 0,
        split_knowledge: true,
        with_code: false,
        pin_chars: 0,
    });
    sets.promote_next();
    sets
}

/// Every file of a directory with its bytes; the empty lock file is not state.
pub(crate) fn bytes_of(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(dir).expect("it is there").map(|entry| {
        let path = entry.expect("it is readable").path();
        let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
        (name, fs::read(&path).expect("it is a readable file"))
    });
    files.filter(|(name, _)| name != "daemon.lock").collect()
}

/// Waits for the answer of an application's adapter, and the notes before it.
pub(crate) fn answer(events: &Receiver<Event>) -> (Result<(), Fault>, Vec<String>) {
    let mut notes = Vec::new();
    loop {
        match events.try_recv().expect("the adapter answers at once") {
            Event::Note(note) => notes.push(note),
            Event::Input(Input::Done { outcome: Outcome::Application(result), .. }) => return (result, notes),
            other => panic!("the adapter sent {other:?}"),
        }
    }
}
