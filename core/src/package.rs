//! Packages of keys for other members of the cluster: the file format `SLWP`, version 1.
//!
//! A file is the magic `SLWP`, the version byte 1 and [frames](crate::frame), whose bodies are the structs
//! below and never longer than [`FRAME_BYTES_MAX`]:
//!
//! | kind | body | where |
//! |---|---|---|
//! | 1 | [`Header`] | first, once |
//! | 2 | [`Sealed`] | once for each target, in the header's order |
//! | 3 | [`Commitment`] | once |
//! | 4 | [`Chunk`] | once or more; the last says so, and all before it are full |
//! | 5 | [`End`] | once; nothing follows |
//!
//! The payload is [facts] and, unless it is a *receipt*, a whole [export](crate::export)
//! of the keys that a target lacks. It is encrypted under a random content key of 32 bytes:
//!
//! - *Sealed*: HPKE (RFC 9180), base mode, to the target's key of the header's [`Suite`], info =
//!   "slotwarden/slwp/v1" ‖ header hash ‖ target, nothing added ([`hpke_info`]).
//! - *Commitment*, so that no two targets open two payloads: HKDF-Expand (RFC 5869) with SHA-256 of the content
//!   key, info "slotwarden/slwp/commitment/v1", 32 bytes. The payload key: the same, "slotwarden/slwp/payload/v1".
//! - *Chunks*: AES-256-GCM under the payload key in STREAM's manner (Hoang, Reyhanitabar, Rogaway, Vizár 2015): nonce = 7 zeros ‖
//!   number from 0, u32 big-endian ‖ 1 for the last, else 0 ([`nonce`]); added data = header hash.
//! - *End*: the source signs "slotwarden/package/v1" ‖ header hash ‖ SHA-256(every byte behind the header's
//!   frame and before this one) (Ed25519, RFC 8032, judged strictly).
//!
//! The header hash is SHA-256 of everything from the magic to the end of the header's frame.
//! Names of keys, uids of slots and labels are inside the encryption; header and targets are not.
//! Opening is the platform's, and nothing secret is here. Every file that the writer here
//! did not write is refused by a named problem, and nothing panics (P21, P42). [`admit`] says
//! whether a package is taken (P22, P23). Nothing here survives a restart but what is recorded of [`Marks`].

pub mod facts;
mod read;
mod write;

use heapless::Vec;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use self::read::{Part, Problem, Reader};
pub use self::write::Writer;
use crate::export;
use crate::fault::Refusal;
use crate::frame;
pub use crate::frame::WriteProblem;
use crate::limits::MEMBERS_MAX;
use crate::roster::Roster;

/// The first bytes of a file.
pub const MAGIC: [u8; 4] = *b"SLWP";
/// The version that is written, and the only one that is read.
pub const VERSION: u8 = 1;
/// Bytes of a chunk's plaintext at most, and exactly in all but the last.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// Bytes of AES-256-GCM's tag.
pub const TAG_BYTES: usize = 16;
/// Bytes of a sealed content key: the key and a tag.
pub const SEALED_KEY_BYTES: usize = 32 + TAG_BYTES;
/// Bytes of a frame's body at most: a full chunk, whether it is the last, and its length.
pub const FRAME_BYTES_MAX: usize = CHUNK_BYTES + TAG_BYTES + 4;
/// Bytes of a body at most that is no chunk: a key sealed by X-Wing has 1,203.
const SHORT_BYTES_MAX: usize = 2 * 1024;
/// Bytes of what the source signs.
pub const MESSAGE_BYTES: usize = DOMAIN.len() + 64;
/// Bytes of the info of HPKE.
pub const HPKE_INFO_BYTES: usize = HPKE_DOMAIN.len() + 64;
/// Info of HKDF-Expand for [`Commitment`].
pub const COMMITMENT_INFO: &[u8] = b"slotwarden/slwp/commitment/v1";
/// Info of HKDF-Expand for the payload key.
pub const PAYLOAD_INFO: &[u8] = b"slotwarden/slwp/payload/v1";

const DOMAIN: &[u8] = b"slotwarden/package/v1";
const HPKE_DOMAIN: &[u8] = b"slotwarden/slwp/v1";

/// How content keys are sealed. One byte in the header: its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[serde(try_from = "u8", into = "u8")]
pub enum Suite {
    /// 1: X-Wing (ML-KEM-768 and X25519), HKDF-SHA256, AES-256-GCM.
    XWing,
    /// 2: DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
    P256,
}

impl Suite {
    /// Bytes of what is encapsulated.
    #[must_use]
    pub const fn enc_bytes(self) -> usize {
        match self {
            Suite::XWing => 1120,
            Suite::P256 => 65,
        }
    }
}

impl From<Suite> for u8 {
    fn from(suite: Suite) -> u8 {
        match suite {
            Suite::XWing => 1,
            Suite::P256 => 2,
        }
    }
}

impl TryFrom<u8> for Suite {
    type Error = &'static str;

    fn try_from(number: u8) -> Result<Self, Self::Error> {
        match number {
            1 => Ok(Suite::XWing),
            2 => Ok(Suite::P256),
            0 | 3.. => Err("no suite of this version"),
        }
    }
}

/// What a file says about itself before everything else, for everybody to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Names this package; random.
    pub package_id: [u8; 16],
    /// Which cluster.
    pub cluster: [u8; 16],
    /// The Ed25519 public key of the node that made it, and that its end is checked with.
    pub source: [u8; 32],
    /// The roster that the source had.
    pub roster_epoch: u32,
    /// Its hash.
    pub roster_hash: [u8; 32],
    /// Which package of the source; rises with each, from 1.
    pub sequence: u64,
    /// Names the backup key under whose children the keys are wrapped.
    pub key_id: [u8; 16],
    /// When it was made, seconds since 1970; information only, `None` without a clock.
    pub made_s: Option<u64>,
    /// The members it is for, strictly rising, at least one.
    pub targets: Vec<[u8; 32], MEMBERS_MAX>,
    /// How the content key is sealed.
    pub suite: Suite,
}

/// The content key, sealed to one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed<'a> {
    /// To whom.
    pub target: [u8; 32],
    /// HPKE's encapsulated key, [`Suite::enc_bytes`].
    pub enc: &'a [u8],
    /// The sealed key, [`SEALED_KEY_BYTES`].
    pub key: &'a [u8],
}

/// Ties the payload to one content key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commitment {
    /// HKDF-Expand of the content key with [`COMMITMENT_INFO`].
    pub commitment: [u8; 32],
}

/// A piece of the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk<'a> {
    /// Whether no other follows.
    pub is_last: bool,
    /// The ciphertext and its tag; [`CHUNK_BYTES`] and a tag in all but the last, which has at least a byte.
    pub sealed: &'a [u8],
}

/// Ends a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct End {
    /// Chunks of the file.
    pub chunks: u32,
    /// SHA-256 of every byte behind the header's frame and before this one.
    pub hash: [u8; 32],
    /// Ed25519 of [`message`] under the header's source key.
    #[serde(with = "crate::share::record::signature_bytes")]
    pub signature: [u8; 64],
}

/// What the source signs; `body_hash` is [`End::hash`].
#[must_use]
pub fn message(header_hash: &[u8; 32], body_hash: &[u8; 32]) -> [u8; MESSAGE_BYTES] {
    frame::joined(DOMAIN, &[header_hash, body_hash])
}

/// What names a whole package: SHA-256 of [`message`]. No two packages have the same.
#[must_use]
pub fn hash(header_hash: &[u8; 32], body_hash: &[u8; 32]) -> [u8; 32] {
    Sha256::digest(message(header_hash, body_hash)).into()
}

/// The info with which the content key is sealed to a target.
#[must_use]
pub fn hpke_info(header_hash: &[u8; 32], target: &[u8; 32]) -> [u8; HPKE_INFO_BYTES] {
    frame::joined(HPKE_DOMAIN, &[header_hash, target])
}

/// The nonce of a chunk, numbered from 0.
#[must_use]
pub fn nonce(number: u32, is_last: bool) -> [u8; 12] {
    frame::joined(&[0; 7], &[&number.to_be_bytes(), &[u8::from(is_last)]])
}

/// What was taken from a source last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Mark {
    /// The source's node key.
    pub node: [u8; 32],
    /// Which package of it.
    pub sequence: u64,
    /// Its [`hash`].
    pub hash: [u8; 32],
}

/// What was taken from everybody, and what was sent: durable, so that no package is taken twice (P23).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// Sequence of the last package that this node made, 0 for none.
    pub sent: u64,
    taken: Vec<Mark, MEMBERS_MAX>,
}

impl Marks {
    /// Nothing taken and nothing sent.
    #[must_use]
    pub const fn new() -> Self {
        Marks { sent: 0, taken: Vec::new() }
    }

    /// What was taken from this node last.
    #[must_use]
    pub fn of(&self, node: &[u8; 32]) -> Option<&Mark> {
        self.taken.iter().find(|mark| mark.node == *node)
    }

    /// Every mark.
    #[must_use]
    pub fn taken(&self) -> &[Mark] {
        &self.taken
    }

    /// Notes that a package was taken. False, with nothing noted, where the mark would not rise, or
    /// where there are as many sources as a roster has members ([`Marks::keep`] was not called).
    #[must_use]
    pub fn note(&mut self, mark: Mark) -> bool {
        match self.taken.iter_mut().find(|known| known.node == mark.node) {
            Some(known) if known.sequence < mark.sequence => {
                *known = mark;
                true
            }
            Some(_) => false,
            None => self.taken.push(mark).is_ok(),
        }
    }

    /// Forgets the sources that are no members any more. Nothing old of theirs can be taken
    /// after that, even if they come back: it names an older roster, and is refused for that.
    pub fn keep(&mut self, roster: &Roster) {
        self.taken.retain(|mark| roster.member(&mark.node).is_some());
    }
}

/// Whether a package is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Admission {
    /// It is newer than everything that was taken from its source.
    Take,
    /// It was taken already: there is nothing to do.
    Nothing,
}

/// Judges what the header says, before anything else of the file is believed (P22). The order: the source
/// is a member, the cluster, the roster, the backup key, and that this node, `own`, is a target.
///
/// # Errors
/// [`Refusal::UnknownSource`], [`Refusal::OtherCluster`], [`Refusal::RosterOld`], [`Refusal::RosterNewer`],
/// [`Refusal::RosterDiverged`], [`Refusal::PackageOfAnotherKey`], [`Refusal::NotForUs`]
pub fn judge_header(header: &Header, roster: &Roster, own: &[u8; 32]) -> Result<(), Refusal> {
    if header.cluster != roster.cluster {
        return Err(Refusal::OtherCluster);
    }
    if roster.member(&header.source).is_none() {
        return Err(if header.roster_epoch > roster.epoch { Refusal::RosterNewer } else { Refusal::UnknownSource });
    }
    if header.roster_epoch < roster.epoch {
        return Err(Refusal::RosterOld);
    }
    if header.roster_epoch > roster.epoch {
        return Err(Refusal::RosterNewer);
    }
    if header.roster_hash != roster.hash() {
        return Err(Refusal::RosterDiverged);
    }
    if header.key_id != roster.key_id {
        return Err(Refusal::PackageOfAnotherKey);
    }
    // A node's own package names others, and comes back to it where everybody reads everything.
    if header.source == *own || !header.targets.contains(own) { Err(Refusal::NotForUs) } else { Ok(()) }
}

/// Judges a package that was read to its end, whose signature is its source's; `hash` is its [`hash`].
///
/// # Errors
/// As [`judge_header`]; then [`Refusal::PackageOld`] where a later one was taken from its source, and
/// [`Refusal::PackageForked`] where another one with its number was.
pub fn admit(
    header: &Header,
    hash: &[u8; 32],
    roster: &Roster,
    own: &[u8; 32],
    marks: &Marks,
) -> Result<Admission, Refusal> {
    judge_header(header, roster, own)?;
    match marks.of(&header.source) {
        None => Ok(Admission::Take),
        Some(mark) if mark.sequence < header.sequence => Ok(Admission::Take),
        Some(mark) if mark.sequence > header.sequence => Err(Refusal::PackageOld),
        Some(mark) if mark.hash == *hash => Ok(Admission::Nothing),
        Some(_) => Err(Refusal::PackageForked),
    }
}

/// The kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Header,
    Sealed,
    Commitment,
    Chunk,
    End,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Header, Kind::Sealed, Kind::Commitment, Kind::Chunk, Kind::End];

    const fn number(self) -> u8 {
        match self {
            Kind::Header => 1,
            Kind::Sealed => 2,
            Kind::Commitment => 3,
            Kind::Chunk => 4,
            Kind::End => 5,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        Kind::ALL.into_iter().find(|kind| kind.number() == number)
    }

    /// Bytes of such a body at most.
    const fn bytes_max(self) -> usize {
        match self {
            Kind::Header | Kind::Sealed | Kind::Commitment | Kind::End => SHORT_BYTES_MAX,
            Kind::Chunk => FRAME_BYTES_MAX,
        }
    }
}

impl Header {
    /// Whether the export in a package belongs to it.
    #[must_use]
    pub fn holds(&self, inside: &export::Header) -> bool {
        inside.cluster == self.cluster && inside.node == self.source && inside.key_id == self.key_id
    }

    /// Whether its targets are in order and its numbers possible.
    fn is_possible(&self) -> bool {
        let rise = self.targets.iter().zip(self.targets.iter().skip(1)).all(|(one, next)| one < next);
        rise && !self.targets.is_empty() && self.roster_epoch > 0 && self.sequence > 0
    }
}
