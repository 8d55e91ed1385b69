//! Exports of keys: the file format `SLWX`, version 1, written and read as a stream.
//!
//! A file is the magic `SLWX`, the version byte 1 and [frames](crate::frame), whose bodies are the structs
//! below and never longer than [`FRAME_BYTES_MAX`]:
//!
//! | kind | body | where |
//! |---|---|---|
//! | 1 | [`Header`] | first, once |
//! | 2 | [`Section`] | begins the section of a slot |
//! | 3 | [`Entry`] | in a section; indices rise by one from 0 |
//! | 4 | [`LeftOut`] | in a section |
//! | 5 | [`SectionEnd`] | ends a section |
//! | 6 | [`Trailer`] | after as many sections as the header says; nothing follows |
//! | 7 | [`Piece`] | in a section of [`Strategy::Vendor`], after its entries; indices rise by one from 0 |
//!
//! Each section is authenticated by its slot's MAK ([`crate::backup`]), which is in the slot's
//! token and comes from the backup key: HMAC with SHA-256 over "slotwarden/export-section/v1" ‖
//! SHA-256(from the magic to the end of the header's frame) ‖ SHA-256(frames of the section
//! before its end). That is the authority for a restore, and it ties a section to one header.
//! The node signs the whole (Ed25519, RFC 8032): "slotwarden/export/v1" ‖ the header's hash ‖
//! SHA-256(every byte from there to the trailer's frame). Wrapped keys are RFC 5649's.
//!
//! What the vendor's own program made of a slot is the *vendor part* of its section: any bytes, cut
//! into pieces. It is authenticated as entries are, and what is in it nobody here knows.
//!
//! The [`Reader`] holds one frame, so that a file of any length is read in the same memory. It
//! checks everything but the MACs, for which it gives the message: those keys are not here.
//! What it gave before [`Part::End`] is not yet known to be whole. Every file that one of the
//! writers here did not write is refused by a named [`Problem`], and nothing panics (P21).
//! Nothing here is secret, and nothing survives a restart.

mod attributes;
mod read;
mod write;

use serde::{Deserialize, Serialize};

pub use self::attributes::{ATTRIBUTE_HEADER_BYTES, Attributes, Iter, push};
pub use self::read::{Part, Problem, Reader};
pub use self::write::{SectionWriter, begin, write_trailer};
pub use crate::frame::WriteProblem;
use crate::frame::joined;
use crate::limits::SLOTS_APPLIANCE;

/// The first bytes of a file.
pub const MAGIC: [u8; 4] = *b"SLWX";
/// The version that is written, and the only one that is read.
pub const VERSION: u8 = 1;
/// Bytes of a frame's body at most: a wrapped RSA-4096 key takes about 2,400 with its attributes, and a
/// firmware can hold one such frame.
pub const FRAME_BYTES_MAX: usize = 8 * 1024;
/// Bytes of every piece of a vendor part but its last: with its frame's numbers it fits a body, and a
/// reader needs no more memory for it than for an entry.
pub const PIECE_BYTES: usize = 8_000;
/// Sections of a file at most: one for each slot.
pub const SECTIONS_MAX: usize = SLOTS_APPLIANCE;
/// Bytes of a SHA-256.
pub const HASH_BYTES: usize = 32;
/// Bytes of what the MAC of a section covers.
pub const MESSAGE_BYTES: usize = SECTION_DOMAIN.len().saturating_add(2 * HASH_BYTES);
/// Bytes of what the node signs.
pub const TRAILER_MESSAGE_BYTES: usize = FILE_DOMAIN.len().saturating_add(2 * HASH_BYTES);
/// The key type of certificates, which have none: no `CKK_*` has this value.
pub const NO_KEY_TYPE: u64 = u64::MAX;

const SECTION_DOMAIN: &[u8] = b"slotwarden/export-section/v1";
const FILE_DOMAIN: &[u8] = b"slotwarden/export/v1";

/// What the backup key that protects an export is itself protected by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Protection {
    /// Shares on cards.
    Cards {
        /// The set that ruled when the export was made.
        set_id: [u8; 16],
    },
    /// A passphrase, by Argon2id (RFC 9106). The bounds of the three costs are for those to
    /// judge who compute it.
    Passphrase {
        /// Random.
        salt: [u8; 16],
        /// Memory, KiB.
        memory_kib: u32,
        /// Passes over the memory.
        passes: u32,
        /// Lanes.
        lanes: u32,
    },
}

/// What a file says about itself before everything else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Header {
    /// Names this export; random.
    pub export_id: [u8; 16],
    /// Whose backup key it is.
    pub cluster: [u8; 16],
    /// The Ed25519 public key of the node that made it, and that the trailer is checked with.
    pub node: [u8; 32],
    /// How the backup key is protected.
    pub protection: Protection,
    /// Names the backup key.
    pub key_id: [u8; 16],
    /// Which export of the node; rises with each.
    pub sequence: u64,
    /// When it was made, seconds since 1970; information only, `None` without a clock.
    pub made_s: Option<u64>,
    /// SHA-256 of the file of the node's export before, zeros for the first.
    pub previous: [u8; 32],
    /// How many sections follow, at most [`SECTIONS_MAX`].
    pub sections: u8,
}

/// How the keys of a section are wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Strategy {
    /// AES key wrap with padding (RFC 5649) under the slot's KEK.
    Kwp,
    /// As the program of the HSM's vendor does it, in a vendor part: only such an HSM takes it back.
    Vendor,
}

/// Begins what comes from one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section<'a> {
    /// The slot's uid, from which KEK and MAK are derived; no two sections have the same.
    pub uid: [u8; 16],
    /// The slot's name in the configuration.
    pub name: &'a str,
    /// How its keys are wrapped.
    pub strategy: Strategy,
    /// Label of the token.
    pub token_label: &'a str,
    /// Serial of the token.
    pub token_serial: &'a str,
    /// Who made the HSM.
    pub manufacturer: &'a str,
    /// Which HSM it is.
    pub model: &'a str,
    /// Its firmware, major and minor.
    pub firmware: (u8, u8),
}

/// What kind of object an entry is: `CKO_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Class {
    /// A secret key.
    Secret,
    /// A private key.
    Private,
    /// A public key.
    Public,
    /// A certificate.
    Certificate,
}

impl Class {
    /// Whether such an object is wrapped; public ones are in the attributes alone.
    #[must_use]
    pub const fn is_wrapped(self) -> bool {
        match self {
            Class::Secret | Class::Private => true,
            Class::Public | Class::Certificate => false,
        }
    }

    /// Whether an object of this class can have this key type.
    const fn has(self, key_type: u64) -> bool {
        match self {
            Class::Secret | Class::Private | Class::Public => key_type != NO_KEY_TYPE,
            Class::Certificate => key_type == NO_KEY_TYPE,
        }
    }
}

/// One object of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry<'a> {
    /// Which entry of its section, from 0.
    pub index: u32,
    /// What it is.
    pub class: Class,
    /// `CKK_*`, or [`NO_KEY_TYPE`] for certificates.
    pub key_type: u64,
    /// `CKA_ID`.
    pub id: &'a [u8],
    /// `CKA_LABEL`.
    pub label: &'a [u8],
    /// What a restore sets, and compares after that.
    #[serde(borrow)]
    pub set: Attributes<'a>,
    /// What no restore can set, such as `CKA_LOCAL`: known, and no more.
    #[serde(borrow)]
    pub recorded: Attributes<'a>,
    /// The wrapped key; empty for public keys and certificates.
    pub wrapped: &'a [u8],
}

/// Why a key is not in an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Why {
    /// `CKA_EXTRACTABLE` is false.
    NotExtractable,
    /// `CKA_WRAP_WITH_TRUSTED` is true, and the KEK is not trusted.
    WrapWithTrusted,
    /// The token refused to wrap it.
    Refused {
        /// `CKR_*`.
        code: u64,
    },
}

/// A key that is not in the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut<'a> {
    /// What it is.
    pub class: Class,
    /// `CKK_*`, or [`NO_KEY_TYPE`] for certificates.
    pub key_type: u64,
    /// `CKA_ID`.
    pub id: &'a [u8],
    /// `CKA_LABEL`.
    pub label: &'a [u8],
    /// Why it is not in it.
    pub why: Why,
}

/// A piece of a vendor part. Every one but the last has [`PIECE_BYTES`], so that a part has one form only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece<'a> {
    /// Which piece of its part, from 0.
    pub index: u32,
    /// Whether the part ends with it.
    pub last: bool,
    /// What the vendor's program wrote; never empty.
    pub bytes: &'a [u8],
}

/// Ends what comes from one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SectionEnd {
    /// Entries of the section.
    pub entries: u32,
    /// Keys of the slot that are not in it.
    pub left_out: u32,
    /// HMAC with SHA-256 of [`section_message`] under the slot's MAK.
    pub mac: [u8; 32],
}

/// Ends a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Trailer {
    /// Sections of the file.
    pub sections: u8,
    /// Entries of all sections.
    pub entries: u32,
    /// Left-out keys of all sections.
    pub left_out: u32,
    /// SHA-256 of every byte behind the header's frame and before the trailer's.
    pub hash: [u8; 32],
    /// Ed25519 of [`trailer_message`] under the header's node key.
    #[serde(with = "crate::share::record::signature_bytes")]
    pub signature: [u8; 64],
}

/// What the MAC of a section covers; `frames` is the hash of its frames before its end.
#[must_use]
pub fn section_message(header_hash: &[u8; HASH_BYTES], frames: &[u8; HASH_BYTES]) -> [u8; MESSAGE_BYTES] {
    joined(SECTION_DOMAIN, &[header_hash, frames])
}

/// What the node signs; `body_hash` is [`Trailer::hash`].
#[must_use]
pub fn trailer_message(header_hash: &[u8; HASH_BYTES], body_hash: &[u8; HASH_BYTES]) -> [u8; TRAILER_MESSAGE_BYTES] {
    joined(FILE_DOMAIN, &[header_hash, body_hash])
}

/// The kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Header,
    Section,
    Entry,
    LeftOut,
    SectionEnd,
    Trailer,
    Piece,
}

impl Kind {
    const ALL: [Kind; 7] =
        [Kind::Header, Kind::Section, Kind::Entry, Kind::LeftOut, Kind::SectionEnd, Kind::Trailer, Kind::Piece];

    const fn number(self) -> u8 {
        match self {
            Kind::Header => 1,
            Kind::Section => 2,
            Kind::Entry => 3,
            Kind::LeftOut => 4,
            Kind::SectionEnd => 5,
            Kind::Trailer => 6,
            Kind::Piece => 7,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        Kind::ALL.into_iter().find(|kind| kind.number() == number)
    }
}

impl Header {
    /// Whether it fits the limits of the format.
    const fn is_possible(&self) -> bool {
        // A u8 always fits.
        self.sections as usize <= SECTIONS_MAX
    }
}

impl Entry<'_> {
    /// Whether class, key type and wrapped key go together.
    const fn is_possible(&self) -> bool {
        self.class.has(self.key_type) && self.class.is_wrapped() != self.wrapped.is_empty()
    }

    /// Whether its attributes are in order.
    fn has_attributes(&self) -> bool {
        self.set.are_in_order() && self.recorded.are_in_order()
    }
}

impl Piece<'_> {
    /// Whether it is as long as its place in the part wants it.
    const fn is_possible(&self) -> bool {
        if self.last {
            !self.bytes.is_empty() && self.bytes.len() <= PIECE_BYTES
        } else {
            self.bytes.len() == PIECE_BYTES
        }
    }
}

/// How much of its vendor part a section has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum VendorPart {
    /// The section can have none.
    NotHere,
    /// It may have one, and ends without it.
    None,
    /// So many pieces, and more follow.
    Begun(u32),
    /// All of it: the section ends.
    Whole,
}

impl VendorPart {
    const fn of(strategy: Strategy) -> Self {
        match strategy {
            Strategy::Kwp => VendorPart::NotHere,
            Strategy::Vendor => VendorPart::None,
        }
    }

    /// The same with one more piece, if that may be the next.
    fn with(self, piece: &Piece<'_>) -> Result<Self, Problem> {
        let next = match self {
            VendorPart::NotHere | VendorPart::Whole => return Err(Problem::OutOfOrder),
            VendorPart::None => 0,
            VendorPart::Begun(pieces) => pieces,
        };
        if piece.index != next {
            return Err(Problem::Index);
        }
        if !piece.is_possible() {
            return Err(Problem::Malformed);
        }
        if piece.last {
            return Ok(VendorPart::Whole);
        }
        Ok(VendorPart::Begun(next.checked_add(1).ok_or(Problem::Counts)?))
    }

    /// Whether entries and left-out keys may still come: they are before it.
    const fn takes_entries(self) -> bool {
        match self {
            VendorPart::NotHere | VendorPart::None => true,
            VendorPart::Begun(_) | VendorPart::Whole => false,
        }
    }

    /// Whether the section may end.
    const fn may_end(self) -> bool {
        match self {
            VendorPart::NotHere | VendorPart::None | VendorPart::Whole => true,
            VendorPart::Begun(_) => false,
        }
    }
}
