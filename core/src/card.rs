//! Smart cards and their readers: what a card session asks of a reader, and what it hears.
//!
//! A *step* is what one person does with one card: insert it, type a PIN on the pad, wait,
//! remove it. The session machine of a reader ([`session`]) turns a step into calls; each
//! call is one APDU or one dialogue of the PIN pad, so that a pulled card or a power cut has
//! a place between any two of them. Platforms make bytes of a call with [`apdu`], which has
//! no way to hold a PIN (P1), and judge nothing: status words are classified here
//! ([`status_word`]).
//!
//! Cards differ in where a record lies and how it is asked for: that is a [`profile`].
//! Everything a card answers may be hostile. Lengths are checked before anything is stored,
//! and of a record only y enters the Safe; the rest is public.
//!
//! After a restart every reader is idle and every card is identified anew.

pub mod apdu;
pub mod profile;
pub mod registry;
pub mod session;
pub mod sets;
pub mod status_word;

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::safe::SecretId;
use crate::share::record::{RecordProblem, ShareHeader, SignedHeader};

/// A reader's number: its place in the platform's table, the same as long as the service runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ReaderId(pub u8);

/// What a card holds for us; each has its own PIN where the card can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Credential {
    /// A backup key share.
    BackupShare,
    /// A user of a slot with smart card activation.
    SlotUser,
    /// The HSM administrator: the SO PIN.
    HsmAdministrator,
}

impl Credential {
    /// Every credential, in the order of the enum.
    pub const ALL: [Credential; 3] = [Credential::BackupShare, Credential::SlotUser, Credential::HsmAdministrator];
}

/// Kinds of card we know how to speak to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ProfileId {
    /// ISO/IEC 7816-4 files: several credentials, two records and a pointer each.
    Iso7816Files,
    /// An OpenPGP card: one credential, in data object 0103.
    OpenPgp,
}

impl ProfileId {
    /// Every profile, in the order in which a card is asked for it.
    pub const ALL: [ProfileId; 2] = [ProfileId::Iso7816Files, ProfileId::OpenPgp];
}

/// Longest card serial we keep, bytes: as long as an application identifier; OpenPGP cards have 6.
pub const SERIAL_BYTES_MAX: usize = 16;

/// What a card says its serial number is. Shown and compared, never trusted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct CardSerial {
    bytes: [u8; SERIAL_BYTES_MAX],
    len: u8,
}

impl CardSerial {
    /// A serial of 1 to [`SERIAL_BYTES_MAX`] bytes; `None` for another length.
    #[must_use]
    pub fn new(serial: &[u8]) -> Option<Self> {
        let mut bytes = [0; SERIAL_BYTES_MAX];
        bytes.get_mut(..serial.len())?.copy_from_slice(serial);
        let len = u8::try_from(serial.len()).ok().filter(|len| *len > 0)?;
        Some(CardSerial { bytes, len })
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or(&[])
    }
}

/// As people read it: hexadecimal, capital letters.
impl fmt::Display for CardSerial {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().iter().try_for_each(|byte| write!(out, "{byte:02X}"))
    }
}

impl fmt::Debug for CardSerial {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// Which of two places of a record: the one that the pointer does not name is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum RecordPlace {
    /// The first. The only one where a card writes safely by itself.
    A,
    /// The second.
    B,
}

impl RecordPlace {
    /// The other place.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            RecordPlace::A => RecordPlace::B,
            RecordPlace::B => RecordPlace::A,
        }
    }
}

/// What a card said when its application was selected. Nothing of it is authentic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Selected {
    /// Its serial, where the selection tells it; else [`CardAnswer::Tries`] does.
    pub serial: Option<CardSerial>,
    /// Where the record in force lies; `None`: there is none, or the card does not say.
    pub place: Option<RecordPlace>,
    /// What the record in force says about itself without a PIN, where the card tells it.
    pub header: Option<ShareHeader>,
}

/// SW1 and SW2 as one number.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct StatusWord(pub u16);

impl fmt::Debug for StatusWord {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:04X}", self.0)
    }
}

/// One call to a reader: an APDU, a dialogue of its PIN pad, or taking and leaving the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum CardCall {
    /// Connect exclusively, begin a transaction. No APDU.
    Hold,
    /// Select the application that holds the credential.
    Select {
        /// As which kind of card.
        profile: ProfileId,
        /// Which credential.
        credential: Credential,
    },
    /// Ask how many tries the credential's PIN has left; costs none.
    Tries {
        /// Of which kind the card is.
        profile: ProfileId,
        /// Which credential.
        credential: Credential,
    },
    /// A person types the PIN on the pad.
    Verify {
        /// Of which kind the card is.
        profile: ProfileId,
        /// Whose PIN.
        credential: Credential,
    },
    /// A person types the old PIN, the new one, and the new one again on the pad.
    ChangePin {
        /// Of which kind the card is.
        profile: ProfileId,
        /// Whose PIN.
        credential: Credential,
    },
    /// Read the record at this place. Its y goes into `y` (`Service::refill`), 32 bytes,
    /// once the record's signature was checked.
    Read {
        /// Of which kind the card is.
        profile: ProfileId,
        /// Of which credential.
        credential: Credential,
        /// Which place.
        place: RecordPlace,
        /// Where y goes.
        y: SecretId,
    },
    /// Write this record to this place: the public part and y.
    Write {
        /// Of which kind the card is.
        profile: ProfileId,
        /// Of which credential.
        credential: Credential,
        /// Which place.
        place: RecordPlace,
        /// Everything but y.
        record: SignedHeader,
        /// y, 32 bytes.
        y: SecretId,
    },
    /// Let the record at this place be the one in force; `None`: none is, the card is blank.
    Point {
        /// Of which kind the card is.
        profile: ProfileId,
        /// Of which credential.
        credential: Credential,
        /// Which place.
        place: Option<RecordPlace>,
    },
    /// Overwrite the record at this place with zeros.
    Erase {
        /// Of which kind the card is.
        profile: ProfileId,
        /// Of which credential.
        credential: Credential,
        /// Which place.
        place: RecordPlace,
    },
    /// End the transaction and disconnect; the card is reset, so that no PIN stays verified.
    Release,
}

/// What a reader answered to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum CardAnswer {
    /// Of [`CardCall::Hold`].
    Held,
    /// Of [`CardCall::Select`].
    Selected {
        /// The card's word.
        status: StatusWord,
        /// What it said; `None`: no success, or nothing that can be read.
        found: Option<Selected>,
    },
    /// Of [`CardCall::Tries`].
    Tries {
        /// The card's word.
        status: StatusWord,
        /// Tries left, where it says them.
        left: Option<u8>,
        /// Its serial, where this call tells it.
        serial: Option<CardSerial>,
    },
    /// Of [`CardCall::Verify`] and [`CardCall::ChangePin`]: the card's word or the pad's.
    Pin {
        /// The word.
        status: StatusWord,
    },
    /// Of [`CardCall::Read`].
    Read {
        /// The card's word.
        status: StatusWord,
        /// The record's public part, its signature good; y is in its place then, else it is empty.
        record: Result<SignedHeader, RecordProblem>,
    },
    /// Of [`CardCall::Write`], [`CardCall::Point`] and [`CardCall::Erase`].
    Written {
        /// The card's word.
        status: StatusWord,
    },
    /// Of [`CardCall::Release`].
    Released,
}

/// Why a call has no answer of the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum CardFailure {
    /// The card was removed, or reset by somebody else: what it did last is unknown.
    CardGone,
    /// Another program holds the card.
    InUse,
    /// The reader was unplugged, or the service of the readers is gone.
    ReaderGone,
    /// The transport failed: what the card did is unknown.
    Transport,
    /// The card answered with more or less than any card of its kind does.
    Garbage,
}

/// What happened at a reader without an order of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ReaderEvent {
    /// The reader is there, has a keypad with secure PIN entry, and policy allows it.
    Found,
    /// It is gone.
    Lost,
    /// A card was inserted.
    CardIn,
    /// The card was removed.
    CardOut,
}
