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
