//! What a ceremony is ordered for, and what it may rely on from its beginning to its end.

use heapless::Vec;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::card::sets::CardSet;
use crate::card::{Credential, ReaderId};
use crate::command::{Command, CommandKind};
use crate::effect::{ApplicationSet, SlotId};
use crate::person::{PersonId, Roster};
use crate::record::{Mode, Owner};
use crate::safe::SecretId;
use crate::share::card_set::CardQuorum;
use crate::share::record::{ShareHeader, ShareKind};

/// Names a ceremony, and commits to everything that was ordered: nobody can change a parameter
/// under way without changing the name.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct CeremonyId(pub [u8; 8]);

impl CeremonyId {
    /// Bytes of the longest order.
    const ORDER_BYTES_MAX: usize = 512;

    /// Of this order, given as the audit log's record of this number.
    #[must_use]
    pub fn of(command: &Command, facts: &Facts, sequence: u64) -> Self {
        let mut bytes = [0; Self::ORDER_BYTES_MAX];
        let order = postcard::to_slice(&(command.without_secrets(), facts), &mut bytes);
        let mut hash = Sha256::new().chain_update(b"slotwarden/ceremony/v1").chain_update(sequence.to_be_bytes());
        hash.update(order.as_deref().unwrap_or(&[]));
        let mut id = [0; 8];
        for (to, from) in id.iter_mut().zip(hash.finalize()) {
            *to = from;
        }
        CeremonyId(id)
    }
}

/// As people read and type it: 16 hexadecimal digits.
impl core::fmt::Display for CeremonyId {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl core::fmt::Debug for CeremonyId {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, out)
    }
}

/// A ceremony with cards that is about no slot's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct CardOrder {
    /// What is to be done.
    pub task: Task,
    /// At which readers, and whether cards may be overwritten.
    pub at: Places,
}

/// At which readers a ceremony is, and what may be done to the cards there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Places {
    /// The reader; `None`: the first that is there.
    pub reader: Option<ReaderId>,
    /// The reader of the target of a copy; `None`: another one if there is one.
    pub target: Option<ReaderId>,
    /// Whether whatever is on a new card may be overwritten without a question.
    pub overwrite: bool,
}

/// What a ceremony does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Task {
    /// Make a backup key and its first set.
    CreateSet {
        /// How many cards of how many.
        quorum: CardQuorum,
        /// To whom each share goes.
        holders: Roster,
        /// Slots that do not get the key now.
        leave_out: SlotSet,
    },
    /// Another PIN for a credential.
    ChangePin {
        /// Whose.
        credential: Credential,
    },
    /// Give a card to another person, who changes its PIN.
    Reassign {
        /// Which of its credentials.
        credential: Credential,
        /// To whom.
        to: PersonId,
    },
    /// Copy a card 1:1.
    Copy {
        /// Which credential.
        credential: Credential,
    },
    /// Read cards of the backup key's set, each alone; with enough of them the key is compared.
    VerifySet,
    /// Bring the backup key's derived keys into slots.
    RestoreKey {
        /// Only into this one.
        slot: Option<SlotId>,
        /// Names the key, typed from a transcript: where this appliance knows no set.
        key_id: Option<[u8; 16]>,
    },
    /// Another set of the same backup key.
    ReplaceSet {
        /// How many cards of how many.
        quorum: CardQuorum,
        /// To whom each share goes.
        holders: Roster,
    },
    /// Another backup key with a set of its own.
    Rotate {
        /// How many cards of how many.
        quorum: CardQuorum,
        /// To whom each share goes.
        holders: Roster,
        /// Slots that do not get the key now.
        leave_out: SlotSet,
    },
    /// Take away what is on a card.
    Erase {
        /// Which credential.
        credential: Credential,
    },
    /// Bring the key that unwraps a file's section into a slot, and see what it would import.
    Restore {
        /// Into which slot.
        slot: SlotId,
        /// The section's slot uid.
        uid: [u8; 16],
        /// Names the file's backup key.
        key_id: [u8; 16],
        /// SHA-256 of the file.
        file: [u8; 32],
    },
    /// Check the MACs of a file with the backup key that the cards give; no token takes part.
    VerifyFile {
        /// Names the file's backup key.
        key_id: [u8; 16],
        /// SHA-256 of the file.
        file: [u8; 32],
    },
}

impl Task {
    /// What its rights are checked by.
    #[must_use]
    pub const fn kind(&self) -> CommandKind {
        match self {
            Task::CreateSet { .. } => CommandKind::CreateSet,
            Task::ChangePin { .. } => CommandKind::ChangeCardPin,
            Task::Reassign { .. } => CommandKind::ReassignCard,
            Task::Copy { .. } => CommandKind::CopyCard,
            Task::VerifySet => CommandKind::VerifySet,
            Task::RestoreKey { .. } => CommandKind::RestoreKey,
            Task::ReplaceSet { .. } => CommandKind::ReplaceSet,
            Task::Rotate { .. } => CommandKind::RotateKey,
            Task::Erase { .. } => CommandKind::EraseCard,
            Task::Restore { .. } => CommandKind::Restore,
            Task::VerifyFile { .. } => CommandKind::VerifyFile,
        }
    }
}

/// What the SO PIN from cards is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum SoUse {
    /// [`Command::Init`]
    Init {
        /// The PKCS#11 slot number of the free token to take, when several are free.
        free_slot: Option<u64>,
    },
    /// [`Command::Unblock`]
    Unblock {
        /// The mode from then on.
        to: Mode,
        /// The new manual code, when the slot becomes manual.
        new_code: Option<SecretId>,
        /// Applications that need not be told to let go.
        accept: ApplicationSet,
    },
    /// [`Command::Decommission`]
    Decommission {
        /// Applications that need not be told to let go.
        accept: ApplicationSet,
    },
}

/// A set of slots, by their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SlotSet(u64);

impl SlotSet {
    /// No slot.
    pub const NONE: SlotSet = SlotSet(0);

    /// This set and one more. A number that no configuration gives (64 and above) is left out.
    #[must_use]
    pub const fn with(self, slot: SlotId) -> Self {
        SlotSet(self.0 | Self::bit(slot))
    }

    /// This set without one.
    #[must_use]
    pub const fn without(self, slot: SlotId) -> Self {
        SlotSet(self.0 & !Self::bit(slot))
    }

    /// Whether the set holds the slot.
    #[must_use]
    pub const fn has(self, slot: SlotId) -> bool {
        self.0 & Self::bit(slot) != 0
    }

    /// The slots in it, lowest number first.
    pub fn slots(self) -> impl Iterator<Item = SlotId> {
        (0..64u8).map(SlotId).filter(move |slot| self.has(*slot))
    }

    const fn bit(slot: SlotId) -> u64 {
        match 1u64.checked_shl(slot.0 as u32) {
            Some(bit) => bit,
            None => 0,
        }
    }
}

/// What the service knows when a ceremony begins. It does not change under way, and stands in
/// the transcript, so that the transcript alone replays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Facts {
    /// Who ordered it.
    pub starter: PersonId,
    /// Which credential of a card it is about.
    pub credential: Credential,
    /// Cluster id or slot uid.
    pub subject: [u8; 16],
    /// The slot's owner number, for those about a slot.
    pub owner: Option<Owner>,
    /// The set whose cards are read.
    pub gather: Option<CardSet>,
    /// Others, while nobody knows which of them counts: the first card decides.
    pub others: [Option<CardSet>; 2],
    /// The set that is made, with id and key id still empty.
    pub make: Option<CardSet>,
    /// Whether the secret is made too; else it is that of the cards that are read.
    pub fresh_secret: bool,
    /// Where cards are read and written.
    pub reader: ReaderId,
    /// Where the target of a copy is.
    pub target: ReaderId,
    /// Whatever is on a new card may be overwritten without a question.
    pub overwrite: bool,
    /// Slots that get the derived keys.
    pub slots: SlotSet,
    /// Whether another person than the starter has to confirm a last try.
    pub two_persons: bool,
}

impl Facts {
    /// The sets whose cards may be read.
    pub fn candidates(&self) -> impl Iterator<Item = CardSet> {
        core::iter::once(self.gather).chain(self.others).flatten()
    }
}

/// A list of shares: x and where y is.
pub type Shares = Vec<(u8, SecretId), { crate::limits::SHARES_MAX }>;

/// The kind of record that a credential holds.
#[must_use]
pub const fn kind_of(credential: Credential) -> ShareKind {
    match credential {
        Credential::BackupShare => ShareKind::BackupKey,
        Credential::SlotUser => ShareKind::SlotUser,
        Credential::HsmAdministrator => ShareKind::SoPin,
    }
}

/// What share `x` of a set says about itself.
#[must_use]
pub const fn header_of(set: &CardSet, credential: Credential, subject: [u8; 16], x: u8) -> ShareHeader {
    ShareHeader {
        kind: kind_of(credential),
        set_id: set.id,
        subject,
        m: set.quorum.m(),
        n: set.quorum.n(),
        x,
        generation: set.generation,
        created_s: set.created_s,
        key_id: set.key_id,
    }
}

#[cfg(test)]
pub(super) mod tests {
    extern crate std;

    use super::*;
    use crate::record::Mode;

    /// The longest set.
    fn set() -> CardSet {
        let holders: [PersonId; 16] = core::array::from_fn(|number| PersonId(u8::try_from(number).unwrap_or(0)));
        CardSet {
            id: [0xFF; 16],
            key_id: [0xFF; 16],
            generation: u32::MAX,
            quorum: CardQuorum::new(16, 16).expect("a quorum"),
            holders: Roster::new(&holders).expect("sixteen persons"),
            created_s: u64::MAX,
            split_knowledge: true,
            with_code: true,
            pin_chars: u8::MAX,
        }
    }

    /// The longest facts.
    pub(in crate::ceremony) fn facts() -> Facts {
        Facts {
            starter: PersonId(0xFE),
            credential: Credential::HsmAdministrator,
            subject: [0xFF; 16],
            owner: Some(Owner(u16::MAX)),
            gather: Some(set()),
            others: [Some(set()); 2],
            make: Some(set()),
            fresh_secret: true,
            reader: ReaderId(u8::MAX),
            target: ReaderId(u8::MAX),
            overwrite: true,
            slots: SlotSet(u64::MAX),
            two_persons: true,
        }
    }

    fn places() -> Places {
        Places { reader: Some(ReaderId(u8::MAX)), target: Some(ReaderId(u8::MAX)), overwrite: true }
    }

    /// Every order that begins a ceremony, as long as it can be.
    pub(in crate::ceremony) fn orders() -> std::vec::Vec<Command> {
        let (quorum, holders, slot, at) = (set().quorum, set().holders, SlotId(u8::MAX), places());
        let leave_out = SlotSet(u64::MAX);
        let (credential, to) = (Credential::HsmAdministrator, PersonId(0xFE));
        let accept = (0..64).map(crate::effect::ApplicationId).fold(ApplicationSet::NONE, ApplicationSet::with);
        let (code, new_code, so_pin) = (Some(SecretId::NONE), Some(SecretId::NONE), Some(SecretId::NONE));
        let tasks = [
            Task::CreateSet { quorum, holders, leave_out },
            Task::ChangePin { credential },
            Task::Reassign { credential, to },
            Task::Copy { credential },
            Task::VerifySet,
            Task::RestoreKey { slot: Some(slot), key_id: Some([0xFF; 16]) },
            Task::ReplaceSet { quorum, holders },
            Task::Rotate { quorum, holders, leave_out },
            Task::Erase { credential },
            Task::Restore { slot, uid: [0xFF; 16], key_id: [0xFF; 16], file: [0xFF; 32] },
            Task::VerifyFile { key_id: [0xFF; 16], file: [0xFF; 32] },
        ];
        let unblock = SoUse::Unblock { to: Mode::Manual, new_code, accept };
        let mut orders: std::vec::Vec<Command> =
            tasks.into_iter().map(|task| Command::Cards { order: CardOrder { task, at } }).collect();
        let with_code = true;
        orders.extend([
            Command::SlotCards { slot, quorum, holders, with_code, code, new_code, confirmed: true, accept, at },
            Command::AdministratorCards { slot, quorum, holders, so_pin, confirmed: true, at },
            Command::BySoCards { slot, then: unblock, confirmed: true, at },
            Command::Activate { slot, code, confirmed: true },
            Command::Mode { slot, to: Mode::Manual, parts: Some(holders), code, new_code, confirmed: true, accept },
        ]);
        orders
    }

    #[test]
    fn the_longest_order_fits_what_a_name_commits_to() {
        for order in orders() {
            let mut bytes = [0; CeremonyId::ORDER_BYTES_MAX];
            let encoded = postcard::to_slice(&(order.without_secrets(), facts()), &mut bytes);
            assert!(encoded.is_ok(), "{order:?}");
        }
    }

    #[test]
    fn p27_the_name_of_a_ceremony_commits_to_every_parameter() {
        let mut names = std::vec::Vec::new();
        let mut name = |command: &Command, facts: &Facts, sequence| {
            let id = CeremonyId::of(command, facts, sequence).0;
            assert!(!names.contains(&id), "{command:?} {facts:?}");
            names.push(id);
        };
        let orders = orders();
        orders.iter().for_each(|order| name(order, &facts(), 1));
        let order = orders[0];
        name(&order, &facts(), 2);
        let fewer = CardSet { quorum: CardQuorum::new(15, 16).expect("a quorum"), ..set() };
        let other_holders = CardSet { holders: Roster::NOBODY, ..set() };
        for facts in [
            Facts { starter: PersonId(1), ..facts() },
            Facts { credential: Credential::SlotUser, ..facts() },
            Facts { subject: [0; 16], ..facts() },
            Facts { owner: None, ..facts() },
            Facts { gather: None, ..facts() },
            Facts { others: [None; 2], ..facts() },
            Facts { make: Some(fewer), ..facts() },
            Facts { make: Some(other_holders), ..facts() },
            Facts { fresh_secret: false, ..facts() },
            Facts { reader: ReaderId(1), ..facts() },
            Facts { target: ReaderId(1), ..facts() },
            Facts { overwrite: false, ..facts() },
            Facts { slots: SlotSet::NONE, ..facts() },
            Facts { two_persons: false, ..facts() },
        ] {
            name(&order, &facts, 1);
        }
        let at = Places { overwrite: false, ..places() };
        for task in [
            Task::CreateSet { quorum: fewer.quorum, holders: set().holders, leave_out: SlotSet(u64::MAX) },
            Task::CreateSet { quorum: set().quorum, holders: Roster::NOBODY, leave_out: SlotSet(u64::MAX) },
            Task::CreateSet { quorum: set().quorum, holders: set().holders, leave_out: SlotSet::NONE },
            Task::RestoreKey { slot: None, key_id: None },
        ] {
            name(&Command::Cards { order: CardOrder { task, at: places() } }, &facts(), 1);
            name(&Command::Cards { order: CardOrder { task, at } }, &facts(), 1);
        }
    }

    #[test]
    fn the_name_of_a_ceremony_says_nothing_about_its_secrets() {
        let so_pin = |place| Command::AdministratorCards {
            slot: SlotId(1),
            quorum: set().quorum,
            holders: set().holders,
            so_pin: Some(place),
            confirmed: false,
            at: places(),
        };
        let mut safe = crate::safe::Safe::<2>::new();
        let two: std::vec::Vec<SecretId> = (0..2).map(|_| safe.fill(|_| 1).unwrap_or(SecretId::NONE)).collect();
        assert_ne!(two[0], two[1]);
        assert_eq!(CeremonyId::of(&so_pin(two[0]), &facts(), 1), CeremonyId::of(&so_pin(two[1]), &facts(), 1));
    }
}
