//! One share of a slot code, as people read it from a screen and type it back.
//!
//! The text is bech32m (BIP-350) with the prefix `slws`: 55 characters in eleven groups of
//! five with hyphens between. What it carries, 27 bytes:
//!
//! | offset | length | field |
//! |---|---|---|
//! | 0 | 1 | version 1 in the upper four bits, kind in the lower; kind 2 is a slot code |
//! | 1 | 1 | m − 1 in the upper four bits, n − 1 in the lower |
//! | 2 | 1 | x |
//! | 3 | 2 | generation, big-endian |
//! | 5 | 6 | set mark: the first bytes of the set id |
//! | 11 | 16 | y |
//!
//! Bech32m finds every error of up to four characters in a text of this length, and others
//! with a chance of one in 2^30. It finds typing errors, not forgeries: those a
//! [`Set`](super::Set) finds. Looking up characters for people takes a small table, so it
//! is not free of secret addresses as the arithmetic is. Vectors: `tests/vectors`.

use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32m, ByteIterExt as _, Fe32, Fe32IterExt as _, Hrp};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{Quorum, SECRET_BYTES};
use crate::fault::Refusal;

/// Bytes that a share's text carries.
pub const PAYLOAD_BYTES: usize = 27;
/// Characters of a share's text with its hyphens: eleven groups of five.
pub const TEXT_BYTES: usize = 65;
/// Bytes of the set id in a share: enough to tell sets apart, few enough to type.
pub const SET_MARK_BYTES: usize = 6;
/// Characters that carry the payload: 216 bits, five each, four left over.
const DATA_CHARS: usize = 44;
/// Longest text that bech32m allows (BIP-173): another version may be longer than ours.
const BECH32_CHARS_MAX: usize = 90;
const PREFIX: &str = "slws";
/// Version 1, kind 2: a share of a slot code.
const VERSION_AND_KIND: u8 = 0x12;
/// What the spare bits of the last data character may not hold.
const SPARE_BITS: u8 = 0x0F;

/// A whole share. It cannot be printed or copied, and is wiped when dropped. A move can leave
/// the bytes of this one share behind on the stack: read it where it is used.
pub struct TypedShare {
    quorum: Quorum,
    x: u8,
    generation: u16,
    set_mark: [u8; SET_MARK_BYTES],
    y: Zeroizing<[u8; SECRET_BYTES]>,
}

impl TypedShare {
    /// Reads what a person typed. Spaces and hyphens may stand anywhere, letters may be all
    /// small or all capital.
    ///
    /// # Errors
    /// - [`Refusal::ShareMistyped`]: a wrong character, checksum or length, or mixed case.
    /// - [`Refusal::ShareForeign`]: no typing error, but another prefix, version or kind.
    /// - [`Refusal::ShareWrong`]: no typing error, but an m, n or x that no set has.
    pub fn parse(text: &[u8]) -> Result<TypedShare, Refusal> {
        let mut characters = Zeroizing::new([0u8; BECH32_CHARS_MAX]);
        let mut places = characters.iter_mut();
        let mut len = 0usize;
        for character in without_separators(text) {
            *places.next().ok_or(Refusal::ShareMistyped)? = character;
            len = len.saturating_add(1);
        }
        let typed = characters.get(..len).and_then(|characters| core::str::from_utf8(characters).ok());
        let checked = typed.and_then(|typed| CheckedHrpstring::new::<Bech32m>(typed).ok());
        let checked = checked.ok_or(Refusal::ShareMistyped)?;
        let mut bytes = checked.byte_iter();
        if !checked.hrp().lowercase_byte_iter().eq(PREFIX.bytes()) || bytes.next() != Some(VERSION_AND_KIND) {
            return Err(Refusal::ShareForeign);
        }
        let spare = checked.fe32_iter().last().map_or(0, Fe32::to_u8) & SPARE_BITS;
        if checked.fe32_iter().len() != DATA_CHARS || spare != 0 {
            return Err(Refusal::ShareMistyped);
        }
        let mut next = || bytes.next().ok_or(Refusal::ShareMistyped);
        let (quorum, x, generation) = (next()?, next()?, [next()?, next()?]);
        let quorum = Quorum::new((quorum >> 4).saturating_add(1), (quorum & 0x0F).saturating_add(1));
        let quorum = quorum.map_err(|_| Refusal::ShareWrong)?;
        if !quorum.has(x) {
            return Err(Refusal::ShareWrong);
        }
        let mut share = TypedShare::empty(quorum, x, u16::from_be_bytes(generation));
        for (place, byte) in share.set_mark.iter_mut().chain(share.y.iter_mut()).zip(bytes) {
            *place = byte;
        }
        Ok(share)
    }

    /// Writes the text for people into `text`: small letters, groups of five with hyphens
    /// between. Returns [`TEXT_BYTES`], or 0 with nothing written when there is less room.
    pub fn encode(&self, text: &mut [u8]) -> usize {
        let Some(text) = text.get_mut(..TEXT_BYTES) else { return 0 };
        let Ok(prefix) = Hrp::parse(PREFIX) else { return 0 };
        let payload = self.payload();
        let data = payload.iter().copied().bytes_to_fes();
        let mut characters = data.with_checksum::<Bech32m>(&prefix).bytes();
        for group in text.chunks_mut(6) {
            group.fill(b'-');
            for place in group.iter_mut().take(5) {
                // 5 + 44 + 6 characters fill eleven groups.
                *place = characters.next().unwrap_or(b'-');
            }
        }
        TEXT_BYTES
    }

    /// By what a set knows this share again: SHA-256 of the payload, its first 16 bytes. It
    /// says nothing about y, which has 128 bit.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 16] {
        let mut fingerprint = [0; 16];
        for (to, from) in fingerprint.iter_mut().zip(Sha256::digest(self.payload().as_slice())) {
            *to = from;
        }
        fingerprint
    }

    /// Any m of n.
    #[must_use]
    pub const fn quorum(&self) -> Quorum {
        self.quorum
    }

    /// Which share of its set, 1 to n.
    #[must_use]
    pub const fn x(&self) -> u8 {
        self.x
    }

    /// The generation of its set.
    #[must_use]
    pub const fn generation(&self) -> u16 {
        self.generation
    }

    /// The first bytes of its set's id.
    #[must_use]
    pub const fn set_mark(&self) -> [u8; SET_MARK_BYTES] {
        self.set_mark
    }

    /// The secret part.
    #[must_use]
    pub fn y(&self) -> &[u8; SECRET_BYTES] {
        &self.y
    }

    /// The secret part, to be filled in place.
    pub(super) fn y_mut(&mut self) -> &mut [u8; SECRET_BYTES] {
        &mut self.y
    }

    /// A share whose set and secret part are still to be filled in.
    fn empty(quorum: Quorum, x: u8, generation: u16) -> Self {
        TypedShare { quorum, x, generation, set_mark: [0; SET_MARK_BYTES], y: Zeroizing::new([0; SECRET_BYTES]) }
    }

    /// Share `x` of the set with this id, its secret part still to be filled in.
    pub(super) fn blank(set_id: &[u8; 16], quorum: Quorum, x: u8, generation: u16) -> Self {
        let mut share = TypedShare::empty(quorum, x, generation);
        for (to, from) in share.set_mark.iter_mut().zip(set_id) {
            *to = *from;
        }
        share
    }

    fn payload(&self) -> Zeroizing<[u8; PAYLOAD_BYTES]> {
        let [generation_high, generation_low] = self.generation.to_be_bytes();
        let quorum = (self.quorum.m().saturating_sub(1) << 4) | self.quorum.n().saturating_sub(1);
        let head = [VERSION_AND_KIND, quorum, self.x, generation_high, generation_low];
        let mut payload = Zeroizing::new([0; PAYLOAD_BYTES]);
        for (to, from) in payload.iter_mut().zip(head.iter().chain(&self.set_mark).chain(self.y.iter())) {
            *to = *from;
        }
        payload
    }
}

/// Whether a text is meant to be a share, whole or not: it begins with `slws1` or `SLWS1`,
/// separators aside. A code that people chose hardly does.
#[must_use]
pub fn looks_like_share(text: &[u8]) -> bool {
    let begins = |prefix: &[u8; 5]| without_separators(text).take(prefix.len()).eq(prefix.iter().copied());
    begins(b"slws1") || begins(b"SLWS1")
}

fn without_separators(text: &[u8]) -> impl Iterator<Item = u8> {
    text.iter().copied().filter(|character| !matches!(character, b' ' | b'-'))
}
