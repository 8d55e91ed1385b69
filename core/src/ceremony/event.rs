//! What happens to a ceremony, and what it wants done.
//!
//! Events carry no secret and no secret's name: what needed one comes as a verdict. So the
//! list of them is the transcript, and replays to the same state (P38).

use serde::{Deserialize, Serialize};

use super::order::Shares;
use crate::audit::AuditEvent;
use crate::card::session::{HeldCard, SessionOrder, SessionReport};
use crate::card::sets::{CardSet, Standing};
use crate::card::{CardSerial, Credential, ProfileId, ReaderId};
use crate::command::Answer;
use crate::effect::SlotId;
use crate::fault::{Fault, Refusal};
use crate::person::PersonId;
use crate::safe::SecretId;
use crate::share::record::{RecordProblem, ShareHeader, SignedHeader};

/// What happened to a ceremony.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[allow(clippy::large_enum_variant)] // there is no allocator to box a record
pub enum CeremonyEvent {
    /// It begins.
    Begin,
    /// A random draw ended.
    Drawn(Result<(), Fault>),
    /// Seed and secret became a set.
    Made(Result<MadeSet, Fault>),
    /// A card is held at this reader.
    Identified(ReaderId, HeldCard, CardFacts),
    /// The record of the held card was read.
    RecordRead(ReaderId, Result<SignedHeader, RecordProblem>, Option<Standing>),
    /// Another step at this reader ended.
    Reported(ReaderId, SessionReport),
    /// The share for the held card was computed and signed.
    ShareReady(Option<SignedHeader>),
    /// What needed a secret to be judged: shares the same, key id right, PIN derived.
    Verdict(bool),
    /// A slot got its derived keys, or did not.
    KeysPut(SlotId, Result<(), Fault>),
    /// The SO PIN of the slot's token was changed, or was not.
    SoPinSet(Result<(), SoPinEnd>),
    /// A person answered the question.
    Answered {
        /// Who.
        who: PersonId,
        /// Yes or no.
        yes: bool,
    },
    /// Somebody who may ends it.
    CancelOrdered {
        /// Who; `None`: the service stops.
        who: Option<PersonId>,
    },
    /// Nobody went on in time.
    DeadlinePassed,
    /// What is to be restored does not do.
    RestoreRefused(Refusal),
    /// The MACs of a file were checked: whether each is right; or they could not be.
    FileChecked(Result<bool, Fault>),
}

/// What seed and secret became.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct MadeSet {
    /// Tells the set apart.
    pub set_id: [u8; 16],
    /// Names the secret.
    pub key_id: [u8; 16],
}

/// How a change of the SO PIN ended otherwise than well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum SoPinEnd {
    /// The token refused: nothing was changed.
    Refused(Refusal),
    /// Nobody knows: the token has the old SO PIN or the new one.
    OldOrNew(Fault),
}

/// What is known here of a card that is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct CardFacts {
    /// Whose it is.
    pub holder: Option<PersonId>,
    /// Whether its PIN was changed on a pad before this service.
    pub pin_changed: bool,
    /// Declared lost.
    pub lost: bool,
    /// How the set on it stands, as far as the card says it without a PIN, or the registry knows.
    pub standing: Option<Standing>,
    /// Whether it holds a share of some set in force, of whatever subject.
    pub in_force: bool,
    /// Whether without it the set in force could not be put together any more.
    pub only_quorum: bool,
    /// On how many cards its share is.
    pub cards_of_share: u8,
    /// Whether no more cards can be kept account of.
    pub no_room: bool,
}

/// What a ceremony wants done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // as `CeremonyEvent`
pub enum Deed {
    /// A step at a reader; answered by `Identified`, `RecordRead` or `Reported`.
    Session(ReaderId, SessionOrder),
    /// A random draw into this place; answered by `Drawn`.
    Draw(SecretId),
    /// Mix the drawn halves in place; the secret is drawn too, or was gathered. Answered by `Made`.
    Make {
        /// The set's seed.
        seed: SecretId,
        /// The secret.
        secret: SecretId,
        /// Whether the secret is two drawn halves as well.
        fresh: bool,
    },
    /// Compute and sign a share; answered by `ShareReady`.
    Share {
        /// The set's seed.
        seed: SecretId,
        /// The secret.
        secret: SecretId,
        /// What the record says.
        header: ShareHeader,
        /// Where y goes.
        y: SecretId,
    },
    /// Compare what was written with what was read back; answered by `Verdict`.
    Same(SecretId, SecretId),
    /// Put the secret together and hold it against its key id; answered by `Verdict`.
    Combine {
        /// From these.
        shares: Shares,
        /// So many are needed.
        m: u8,
        /// What it has to be.
        key_id: [u8; 16],
        /// Where it goes.
        into: SecretId,
    },
    /// Put the secret together from two different quorums, and forget it; answered by `Verdict`.
    Rehearse {
        /// From these.
        shares: Shares,
        /// So many are needed.
        m: u8,
        /// What it has to be.
        key_id: [u8; 16],
    },
    /// Derive the PIN that the secret gives, with or without a code, in place; answered by `Verdict`.
    Pin {
        /// The secret; the PIN afterwards.
        secret: SecretId,
        /// The set it is of.
        set: CardSet,
        /// The code that is typed as well.
        code: Option<SecretId>,
    },
    /// Bring the derived keys into a slot; answered by `KeysPut`.
    PutKeys {
        /// The backup key.
        secret: SecretId,
        /// Its name.
        key_id: [u8; 16],
        /// Into which slot.
        slot: SlotId,
    },
    /// Check the MACs of the file that was ordered; answered by `FileChecked`.
    CheckFile,
    /// Give the slot's token the SO PIN of the cards; answered by `SoPinSet`.
    SetSoPin {
        /// Whose.
        slot: SlotId,
        /// The present SO PIN.
        old: SecretId,
        /// The PIN from the new cards.
        new: SecretId,
    },
    /// A set is being made from here on.
    BeginSet(CardSet),
    /// The set that was being made never comes into force.
    VoidSet,
    /// The set that was being made is in force; or the one on the cards, where none was known.
    CommitSet(Option<CardSet>),
    /// What is known of a card changes.
    Note(CardNote),
    /// Hand what the cards gave to what was ordered for the slot. It is over then, and whoever
    /// ordered it is answered by the slot.
    Deliver {
        /// The PIN that the cards read give.
        present: Option<SecretId>,
        /// The PIN that the new cards give.
        new: Option<SecretId>,
    },
    /// Wipe a secret.
    Wipe(SecretId),
    /// Into the audit log.
    Journal(Option<PersonId>, AuditEvent),
    /// Answer whoever ordered it. It is over then.
    End(Answer),
}

/// What a ceremony found out about a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CardNote {
    /// The card.
    pub serial: CardSerial,
    /// Which credential.
    pub credential: Credential,
    /// Which kind of card.
    pub profile: ProfileId,
    /// What changes.
    pub what: Noted,
}

/// What changes of a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noted {
    /// Its PIN was changed on a pad; it is this person's from here on, if one is named.
    PinChanged(Option<PersonId>),
    /// Nobody knows its PIN for sure any more.
    PinUnknown,
    /// This share was written to it and read back; it is this person's.
    Written {
        /// What the record says.
        header: ShareHeader,
        /// Whose it is.
        holder: Option<PersonId>,
    },
    /// Its share was read and is good.
    Verified(ShareHeader),
    /// Nothing is on it any more.
    Erased,
}
