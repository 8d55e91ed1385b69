//! What a ceremony orders at one reader, and what it hears from there.

use serde::{Deserialize, Serialize};

use super::{CardSerial, Credential, ProfileId, RecordPlace};
use crate::safe::SecretId;
use crate::share::record::{RecordProblem, ShareHeader, SignedHeader};

/// One step at a reader. One at a time; each is answered by exactly one [`SessionReport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum SessionOrder {
    /// Wait for a card unless one is there, hold it, select the credential, ask for its tries.
    /// A card that was there since before a [`SessionOrder::Remove`] was ordered does not count.
    Identify {
        /// Which credential.
        credential: Credential,
    },
    /// A person types the PIN on the pad.
    VerifyPin,
    /// A person types the old PIN and twice the new one on the pad.
    ChangePin,
    /// Read the record in force; its y goes into `y`.
    Read {
        /// Where y goes.
        y: SecretId,
    },
    /// Write beside the record in force, point to it, read it back.
    Write {
        /// Everything but y.
        record: SignedHeader,
        /// y.
        y: SecretId,
        /// Where y goes as it was read back.
        y_back: SecretId,
    },
    /// Take away whatever record there is.
    Erase,
    /// Let the card go, and wait until it was removed.
    Remove,
    /// End whatever is under way. A dialogue of the pad cannot be ended from here: it is waited for.
    Cancel,
}

/// A card that a session holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct HeldCard {
    /// Which kind of card.
    pub profile: ProfileId,
    /// Its serial.
    pub serial: CardSerial,
    /// Tries that the credential's PIN has left, where the card says them without cost.
    pub tries_left: Option<u8>,
    /// Where the record in force lies; `None`: the card says that there is none, or does not say.
    pub place: Option<RecordPlace>,
    /// What the record in force says about itself without a PIN, where the card tells it.
    pub header: Option<ShareHeader>,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum SessionReport {
    /// A card is held and known.
    Identified(HeldCard),
    /// The PIN was accepted.
    PinAccepted,
    /// The PIN was changed.
    PinChanged,
    /// A try was spent: the (old) PIN was wrong. Tries left, where the card says them.
    PinWrong {
        /// Tries left.
        left: Option<u8>,
    },
    /// The PIN is blocked.
    PinBlocked,
    /// The pad's dialogue ended without a PIN: nothing was changed, no try was spent.
    PadEnded(PadEnd),
    /// Nobody knows whether the PIN was changed.
    PinOldOrNew,
    /// The record in force was read; `Err`: there is none, or it is not a good one.
    RecordRead(Result<SignedHeader, RecordProblem>),
    /// The record was written, and read back the same.
    Written,
    /// No record is on the card any more.
    Erased,
    /// The card was removed after [`SessionOrder::Remove`].
    Removed,
    /// The step was ended by [`SessionOrder::Cancel`].
    Cancelled,
    /// The step did not succeed. The card, if one is there, was let go.
    Failed(CardProblem),
}

/// How a dialogue of the pad ended without a PIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum PadEnd {
    /// Nobody typed in time (6400).
    TimedOut,
    /// Somebody pressed cancel (6401).
    Cancelled,
    /// The two new PINs were not the same (6402).
    Mismatch,
    /// Too short or too long (6403, or the card's word for it).
    Length,
}

/// Why a step at a reader did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum CardProblem {
    /// There is no such reader, or it went away.
    ReaderGone,
    /// Nobody inserted a card in time.
    NotInserted,
    /// Nobody removed the card in time.
    NotRemoved,
    /// The card was pulled. Before a write or change began, or so that it is known not to have happened.
    CardGone,
    /// The card was pulled, or the transport failed, while a record was being written: it has
    /// the old one, the new one or none.
    TornWrite,
    /// Another program holds the card.
    InUse,
    /// No profile fits the card.
    UnknownCard,
    /// The card does not say its serial.
    NoSerial,
    /// What was read back is not what was written.
    ReadBackDiffers,
    /// The card answered with an error that ends the step.
    Status(u16),
    /// The transport failed or the card answered garbage.
    Transport,
    /// The reader gives no answer; it is waited for, and takes no orders until then.
    Unanswered,
    /// The session does something else, or holds no card.
    NotNow,
}
