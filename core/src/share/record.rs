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
//! Numbers are big-endian.

use serde::{Deserialize, Serialize};

/// Bytes of a record.
pub const RECORD_BYTES: usize = 200;

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
    /// A version or scheme that is not known here.
    Newer,
    /// Fields that contradict each other: no such quorum, x outside it, the set id not that of the key.
    Malformed,
    /// The signature does not fit: altered or forged.
    Forged,
}

/// Arrays beyond 32 bytes as postcard writes a tuple: without a length.
mod signature_bytes {
    use serde::de::{Deserialize as _, Deserializer};
    use serde::ser::{Serialize as _, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 64], serializer: S) -> Result<S::Ok, S::Error> {
        let (chunks, _) = bytes.as_chunks::<32>();
        let halves = [chunks.first().copied().unwrap_or([0; 32]), chunks.get(1).copied().unwrap_or([0; 32])];
        halves.serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 64], D::Error> {
        let halves = <[[u8; 32]; 2]>::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        for (to, from) in bytes.iter_mut().zip(halves.as_flattened()) {
            *to = *from;
        }
        Ok(bytes)
    }
}
