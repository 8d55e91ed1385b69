//! One share on a card: a record of 200 bytes that is judged alone.
//!
//! | offset | length | field |
//! |---|---|---|
//! | 0 | 4 | magic `SLWS` |
//! | 4 | 4 | version 1; kind; scheme; reserved 0 |
//! | 8 | 16 | set id = SHA-256("slotwarden/set/v1" ‖ set public key), the first 16 bytes |
//! | 24 | 16 | subject: cluster id, or slot uid |
//! | 40 | 4 | m, n, x, reserved 0 |
//! | 44 | 4 | generation |
//! | 48 | 8 | created, seconds since 1970 (information only) |
//! | 56 | 16 | key id |
//! | 72 | 32 | y, the only secret part |
//! | 104 | 32 | set public key (Ed25519) |
//! | 136 | 64 | signature over bytes 0..136 |
//!
//! Numbers are big-endian. Kinds are 1 (backup key), 3 (slot user) and 4 (SO PIN); 2 names
//! codes that people type, which are on no card. Scheme 1 is Shamir's, 2 ≤ m ≤ n ≤ 16; scheme
//! 0 is m = 1, where y is the secret itself, and there is none for the backup key. Ed25519 is
//! RFC 8032's, checked strictly: no key or point of small order, no second form of a signature.
//!
//! A record is taken whole or not at all, and what is taken is written again as the same
//! bytes. What the signature proves is that all of them were made together with the set's
//! key; which set is wanted, and whether it still rules, is for those to say who read cards.
//! Nothing here survives a restart.

use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

use super::card_set::{self, CardQuorum};
use super::signature;

/// Bytes of a record.
pub const RECORD_BYTES: usize = 200;
/// Bytes of its header.
pub const HEADER_BYTES: usize = 72;
/// Bytes that the signature covers: header, y and public key.
const SIGNED_BYTES: usize = 136;
const MAGIC: [u8; 4] = *b"SLWS";
const VERSION: u8 = 1;
const SCHEME_ITSELF: u8 = 0;
const SCHEME_SHAMIR: u8 = 1;

/// What a record says about itself: its first 72 bytes, all public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ShareHeader {
    /// What the secret is.
    pub kind: ShareKind,
    /// Tells sets apart: a hash of the set's public key.
    pub set_id: [u8; 16],
    /// Whose secret: the cluster id, or a slot uid.
    pub subject: [u8; 16],
    /// How many of how many; 1 of n is the secret itself, for slot users and the HSM administrator.
    pub m: u8,
    /// How many there are.
    pub n: u8,
    /// Which share, 1 to n.
    pub x: u8,
    /// Which set of its subject and kind; rises with each.
    pub generation: u32,
    /// When the set was made, seconds since 1970; information only.
    pub created_s: u64,
    /// Names the secret, and survives a re-share.
    pub key_id: [u8; 16],
}

/// What the secret of a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ShareKind {
    /// The backup key.
    BackupKey,
    /// What a slot's token PIN is derived from, known to slot users.
    SlotUser,
    /// What a token's SO PIN is derived from.
    SoPin,
}

/// Everything of a record but y; its signature was checked together with y, or is being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SignedHeader {
    /// The first 72 bytes.
    pub header: ShareHeader,
    /// Public key of the set.
    pub public_key: [u8; 32],
    /// Over bytes 0..136.
    #[serde(with = "signature_bytes")]
    pub signature: [u8; 64],
}

/// Why bytes from a card are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum RecordProblem {
    /// The card answered with an error, or with nothing: no record was read.
    Missing,
    /// Another length, magic, or a reserved byte that is not 0.
    NotOurs,
    /// A version, kind or scheme that is not known here.
    Newer,
    /// Fields that contradict each other: no such quorum, x outside it, the set id not that of the key.
    Malformed,
    /// The signature does not fit: altered or forged.
    Forged,
}

impl ShareHeader {
    /// Reads the [`HEADER_BYTES`] public bytes of a record. They are not authentic before
    /// [`check`] read them together with their signature.
    ///
    /// # Errors
    /// The first problem from the magic on, version, kind and scheme before everything else;
    /// never [`RecordProblem::Forged`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordProblem> {
        if bytes.is_empty() {
            return Err(RecordProblem::Missing);
        }
        let bytes: &[u8; HEADER_BYTES] = bytes.try_into().map_err(|_| RecordProblem::NotOurs)?;
        let mut fields = Fields(bytes);
        if fields.take() != MAGIC {
            return Err(RecordProblem::NotOurs);
        }
        let [version, kind, scheme, reserved] = fields.take();
        if version != VERSION {
            return Err(RecordProblem::Newer);
        }
        let kind = ShareKind::from_number(kind).ok_or(RecordProblem::Newer)?;
        if scheme != SCHEME_ITSELF && scheme != SCHEME_SHAMIR {
            return Err(RecordProblem::Newer);
        }
        let (set_id, subject) = (fields.take(), fields.take());
        let [m, n, x, also_reserved] = fields.take();
        if [reserved, also_reserved] != [0, 0] {
            return Err(RecordProblem::NotOurs);
        }
        let header = ShareHeader {
            kind,
            set_id,
            subject,
            m,
            n,
            x,
            generation: u32::from_be_bytes(fields.take()),
            created_s: u64::from_be_bytes(fields.take()),
            key_id: fields.take(),
        };
        let quorum = header.quorum().ok_or(RecordProblem::Malformed)?;
        let possible = quorum.is_for(kind).is_ok() && quorum.has(x) && header.scheme() == scheme;
        if possible { Ok(header) } else { Err(RecordProblem::Malformed) }
    }

    /// Writes the [`HEADER_BYTES`] public bytes of a record.
    pub fn write(&self, out: &mut [u8; HEADER_BYTES]) {
        let places = out.iter_mut();
        let words = [[VERSION, self.kind.number(), self.scheme(), 0], [self.m, self.n, self.x, 0]];
        let fields: [&[u8]; 8] = [
            &MAGIC,
            &words[0],
            &self.set_id,
            &self.subject,
            &words[1],
            &self.generation.to_be_bytes(),
            &self.created_s.to_be_bytes(),
            &self.key_id,
        ];
        for (place, byte) in places.zip(fields.into_iter().flatten()) {
            *place = *byte;
        }
    }

    /// How many of how many; `None` when there is no such quorum.
    #[must_use]
    pub fn quorum(&self) -> Option<CardQuorum> {
        CardQuorum::new(self.m, self.n).ok()
    }

    const fn scheme(&self) -> u8 {
        if self.m == 1 { SCHEME_ITSELF } else { SCHEME_SHAMIR }
    }
}

impl ShareKind {
    /// Every kind, in the order of the enum.
    pub const ALL: [ShareKind; 3] = [ShareKind::BackupKey, ShareKind::SlotUser, ShareKind::SoPin];

    /// Its number in a record.
    const fn number(self) -> u8 {
        match self {
            ShareKind::BackupKey => 1,
            ShareKind::SlotUser => 3,
            ShareKind::SoPin => 4,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        ShareKind::ALL.into_iter().find(|kind| kind.number() == number)
    }
}

/// Judges the bytes of a whole record, and writes its secret part into `y` when all of it is
/// good; otherwise `y` is wiped.
///
/// # Errors
/// As [`ShareHeader::parse`], then [`RecordProblem::Malformed`] for a set id that is not that
/// of the key, then [`RecordProblem::Forged`].
pub fn check(bytes: &[u8], y: &mut [u8; 32]) -> Result<SignedHeader, RecordProblem> {
    y.zeroize();
    if bytes.is_empty() {
        return Err(RecordProblem::Missing);
    }
    let bytes: &[u8; RECORD_BYTES] = bytes.try_into().map_err(|_| RecordProblem::NotOurs)?;
    let (header, rest) = bytes.split_at(HEADER_BYTES);
    let header = ShareHeader::parse(header)?;
    let Some((secret, rest)) = rest.split_first_chunk() else { return Err(RecordProblem::NotOurs) };
    let Some((public_key, signature)) = rest.split_first_chunk() else { return Err(RecordProblem::NotOurs) };
    let signature: &[u8; 64] = signature.try_into().map_err(|_| RecordProblem::NotOurs)?;
    if header.set_id != card_set::set_id(public_key) {
        return Err(RecordProblem::Malformed);
    }
    let (signed, _) = bytes.split_at(SIGNED_BYTES);
    if !signature::verify(public_key, signed, signature) {
        return Err(RecordProblem::Forged);
    }
    copy(secret, y);
    Ok(SignedHeader { header, public_key: *public_key, signature: *signature })
}

/// Writes a whole record into `out`, which holds a secret from here on: its owner wipes it.
pub fn write(record: &SignedHeader, y: &[u8; 32], out: &mut [u8; RECORD_BYTES]) {
    let mut header = [0; HEADER_BYTES];
    record.header.write(&mut header);
    let fields: [&[u8]; 4] = [&header, y, &record.public_key, &record.signature];
    for (place, byte) in out.iter_mut().zip(fields.into_iter().flatten()) {
        *place = *byte;
    }
}

/// Byte by byte into its place: an array that is assigned may pass over the stack.
fn copy(from: &[u8; 32], to: &mut [u8; 32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

/// What is still to be read of a header, field by field.
struct Fields<'bytes>(&'bytes [u8]);

impl Fields<'_> {
    /// The next field. The fields of a header are as long as the header, so none is cut short.
    fn take<const BYTES: usize>(&mut self) -> [u8; BYTES] {
        let Some((field, rest)) = self.0.split_first_chunk() else { return [0; BYTES] };
        self.0 = rest;
        *field
    }
}

/// Arrays beyond 32 bytes as postcard writes a tuple: without a length.
pub(crate) mod signature_bytes {
    use serde::de::{Deserialize as _, Deserializer};
    use serde::ser::{Serialize as _, Serializer};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8; 64], serializer: S) -> Result<S::Ok, S::Error> {
        let (chunks, _) = bytes.as_chunks::<32>();
        let halves = [chunks.first().copied().unwrap_or([0; 32]), chunks.get(1).copied().unwrap_or([0; 32])];
        halves.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 64], D::Error> {
        let halves = <[[u8; 32]; 2]>::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        for (to, from) in bytes.iter_mut().zip(halves.as_flattened()) {
            *to = *from;
        }
        Ok(bytes)
    }
}
