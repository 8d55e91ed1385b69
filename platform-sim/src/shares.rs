//! Shares computed a second time, as plainly as their description reads.
//!
//! The core computes in constant time, in lanes and with crates; here is the same from the
//! documents alone (`core/src/share.rs`, BIP-350, RFC 5869), byte by byte, so that a mistake
//! in one of the two shows as a token PIN that nobody has.

use sha2::{Digest, Sha256};
use slotwarden_core::code::BASE58;

use crate::code::Code;

/// Characters of bech32, by value (BIP-173).
const CHARACTERS: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
/// What stands before the data, and the character between.
const PREFIX: &[u8; 4] = b"slws";
/// Characters of the checksum.
const CHECKSUM_CHARS: usize = 6;
/// Bytes of a share.
const PAYLOAD_BYTES: usize = 27;
/// Version 1, kind 2: a share of a slot code.
const VERSION_AND_KIND: u8 = 0x12;

/// What stands in one share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// How many are needed.
    pub m: u8,
    /// How many there are.
    pub n: u8,
    /// Which one.
    pub x: u8,
    /// Of the how-manieth set of its slot.
    pub generation: u16,
    /// The beginning of its set's id.
    pub mark: [u8; 6],
    /// The secret part.
    pub y: [u8; 16],
}

impl Share {
    /// Reads a text that was shown; the checksum is left to the core. `None`: not a share.
    #[must_use]
    pub fn read(text: &[u8]) -> Option<Self> {
        let letters: Vec<u8> = text.iter().copied().filter(|letter| !matches!(letter, b'-' | b' ')).collect();
        let data = letters.strip_prefix(PREFIX)?.strip_prefix(b"1")?;
        let data = data.get(..data.len().checked_sub(CHECKSUM_CHARS)?)?;
        let mut bytes = Vec::new();
        let (mut bits, mut held) = (0u32, 0);
        for letter in data {
            let value = CHARACTERS.iter().position(|character| character == letter)?;
            bits = (bits << 5 | u32::try_from(value).ok()?) & 0xFFFF;
            held += 5;
            if held >= 8 {
                held -= 8;
                bytes.push(u8::try_from(bits >> held & 0xFF).ok()?);
            }
        }
        let bytes: [u8; PAYLOAD_BYTES] = bytes.try_into().ok()?;
        let mut share = Share {
            m: (bytes[1] >> 4) + 1,
            n: (bytes[1] & 15) + 1,
            x: bytes[2],
            generation: u16::from_be_bytes([bytes[3], bytes[4]]),
            mark: [0; 6],
            y: [0; 16],
        };
        share.mark.copy_from_slice(&bytes[5..11]);
        share.y.copy_from_slice(&bytes[11..]);
        (bytes[0] == VERSION_AND_KIND).then_some(share)
    }

    /// The text, with a checksum that holds, whatever stands in the share: for forgeries.
    #[must_use]
    pub fn write(&self) -> Code {
        let mut bytes = vec![VERSION_AND_KIND, (self.m - 1) << 4 | (self.n - 1), self.x];
        bytes.extend(self.generation.to_be_bytes());
        bytes.extend(self.mark);
        bytes.extend(self.y);
        let mut values = Vec::new();
        let (mut bits, mut held) = (0u32, 0);
        for byte in bytes {
            bits = (bits << 8 | u32::from(byte)) & 0xFFFF;
            held += 8;
            while held >= 5 {
                held -= 5;
                values.push(bits >> held & 31);
            }
        }
        if held > 0 {
            values.push(bits << (5 - held) & 31);
        }
        let checksum = checksum(&values);
        values.extend((0..CHECKSUM_CHARS).rev().map(|place| checksum >> (5 * place) & 31));
        let mut text: Vec<u8> = PREFIX.iter().copied().chain([b'1']).collect();
        text.extend(values.iter().map(|value| CHARACTERS[*value as usize]));
        Code::new(&text.chunks(5).collect::<Vec<_>>().join(&b'-'))
    }
}

/// The checksum of bech32m over the prefix and these values.
fn checksum(values: &[u32]) -> u32 {
    const GENERATORS: [u32; 5] = [0x3B6A_57B2, 0x2650_8E6D, 0x1EA1_19FA, 0x3D42_33DD, 0x2A14_62B3];
    let letters = || PREFIX.iter().map(|letter| u32::from(*letter));
    let expanded = letters().map(|letter| letter >> 5).chain([0]).chain(letters().map(|letter| letter & 31));
    let mut sum = 1u32;
    for value in expanded.chain(values.iter().copied()).chain([0; CHECKSUM_CHARS]) {
        let top = sum >> 25;
        sum = (sum & 0x01FF_FFFF) << 5 ^ value;
        for (place, generator) in GENERATORS.into_iter().enumerate() {
            if top >> place & 1 == 1 {
                sum ^= generator;
            }
        }
    }
    sum ^ 0x2BC8_30A3
}

/// The token PIN that these shares give; all of them are used.
#[must_use]
pub fn token_pin(shares: &[Share], slot_uid: &[u8; 16], set_id: &[u8; 16], chars: usize) -> Code {
    let mut secret = [0; 16];
    for one in shares {
        // The value at 0 of the polynomial that is 1 at this x and 0 at the others.
        let mut weight = 1;
        for other in shares.iter().filter(|other| other.x != one.x) {
            weight = multiply(weight, multiply(other.x, inverse(other.x ^ one.x)));
        }
        for (byte, y) in secret.iter_mut().zip(one.y) {
            *byte ^= multiply(weight, y);
        }
    }
    digits(&hmac(slot_uid, &[&secret, &[0, 0]]), b"slotwarden/slot-pin/v1", set_id, chars)
}

/// The first digits of the stream of this key.
fn digits(key: &[u8; 32], label: &[u8], set_id: &[u8; 16], chars: usize) -> Code {
    let mut digits = Vec::new();
    let mut block = Vec::new();
    for number in 1..=4 {
        block = hmac(key, &[&block, label, set_id, &[number]]).to_vec();
        digits.extend(block.iter().filter_map(|byte| BASE58.get(usize::from(byte & 63))));
    }
    digits.truncate(chars);
    Code::new(&digits)
}

/// The secret of a set on cards: x and y of as many shares as it takes, all of them used.
#[must_use]
pub fn card_secret(shares: &[(u8, [u8; 32])]) -> [u8; 32] {
    let mut secret = [0; 32];
    for (x, y) in shares {
        let mut weight = 1;
        for (other, _) in shares.iter().filter(|(other, _)| other != x) {
            weight = multiply(weight, multiply(*other, inverse(other ^ x)));
        }
        for (byte, y) in secret.iter_mut().zip(y) {
            *byte ^= multiply(weight, *y);
        }
    }
    secret
}

/// What names the secret of a set on cards.
#[must_use]
pub fn card_key_id(secret: &[u8; 32]) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&hmac(secret, &[b"slotwarden/key-id/v1"])[..16]);
    id
}

/// The PIN that the secret of a set on cards gives a token, with a code or without.
#[must_use]
pub fn card_pin(secret: &[u8; 32], code: &[u8], [slot_uid, set_id]: [&[u8; 16]; 2], so: bool, chars: usize) -> Code {
    let len = u16::try_from(code.len()).unwrap_or(u16::MAX).to_be_bytes();
    let key = hmac(slot_uid, &[secret, &len, code]);
    let label: &[u8] = if so { b"slotwarden/so-pin/v1" } else { b"slotwarden/slot-pin/v1" };
    digits(&key, label, set_id, chars)
}

/// The key that a backup key gives a slot, by its label.
#[must_use]
pub fn slot_key(backup_key: &[u8; 32], label: &[u8], slot_uid: &[u8; 16]) -> [u8; 32] {
    let key = hmac(b"slotwarden/backup-key/v1", &[backup_key]);
    hmac(&key, &[label, slot_uid, &[1]])
}

/// Multiplication as at school, modulo x⁸ + x⁴ + x³ + x + 1.
fn multiply(one: u8, other: u8) -> u8 {
    let mut product = 0u16;
    for bit in 0..8 {
        if other >> bit & 1 == 1 {
            product ^= u16::from(one) << bit;
        }
    }
    for bit in (8..16).rev() {
        if product >> bit & 1 == 1 {
            product ^= 0x11B << (bit - 8);
        }
    }
    product.to_le_bytes()[0]
}

/// What gives 1 with this: its 254th power, since the 255th of each but 0 is 1.
fn inverse(of: u8) -> u8 {
    (0..254).fold(1, |power, _| multiply(power, of))
}

/// HMAC with SHA-256 (RFC 2104) of these parts.
fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let pad = |with: u8| {
        let mut block = [with; 64];
        for (byte, key) in block.iter_mut().zip(key) {
            *byte ^= key;
        }
        block
    };
    let mut inner = Sha256::new_with_prefix(pad(0x36));
    for part in parts {
        inner.update(part);
    }
    Sha256::new_with_prefix(pad(0x5C)).chain_update(inner.finalize()).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotwarden_core::share::{Quorum, Set, TypedShare};

    const KEY: [u8; 32] = *b"any key from which a set is made";

    fn shown(set: &Set, x: u8) -> Vec<u8> {
        let mut text = [0; 65];
        assert_eq!(set.share(&KEY, x).map(|share| share.encode(&mut text)), Some(65));
        text.to_vec()
    }

    #[test]
    fn what_the_core_shows_is_read_and_written_alike() {
        let set = Set::new(&KEY, 7, Quorum::new(3, 5).expect("a quorum"), 32);
        for x in 1..=5 {
            let text = shown(&set, x);
            let share = Share::read(&text).expect("a share was shown");
            assert_eq!((share.m, share.n, share.x, share.generation), (3, 5, x, 7));
            assert_eq!(share.write().bytes(), text);
        }
        assert_eq!(Share::read(b"slws1-nothing"), None);
        assert_eq!(Share::read(b"M-a-manual-code"), None);
    }

    #[test]
    fn a_forgery_has_no_typing_error_and_is_known_as_one() {
        let set = Set::new(&KEY, 7, Quorum::new(2, 3).expect("a quorum"), 32);
        let mut forged = Share::read(&shown(&set, 1)).expect("a share was shown");
        forged.y[3] ^= 4;
        let parsed = TypedShare::parse(forged.write().bytes()).expect("no typing error");
        let who = slotwarden_core::person::PersonId(1);
        assert_eq!(set.judge(who, &parsed), Err(slotwarden_core::Refusal::ShareWrong));
    }

    #[test]
    fn every_quorum_of_cards_gives_secret_pins_and_keys_as_the_core_derives_them() {
        use slotwarden_core::share::card_set::{CardQuorum, key_id, public_key, set_id, share_of};
        use slotwarden_core::{backup, code};
        let (seed, secret, uid) = ([3; 32], [5; 32], [9; 16]);
        let id = set_id(&public_key(&seed));
        let quorum = CardQuorum::new(3, 5).expect("a quorum");
        let cards: Vec<(u8, [u8; 32])> = (1..=5)
            .map(|x| {
                let mut y = [0; 32];
                assert!(share_of(&seed, &secret, &id, quorum, x, &mut y));
                (x, y)
            })
            .collect();
        for chosen in 0u8..32 {
            let some: Vec<(u8, [u8; 32])> = cards.iter().filter(|(x, _)| chosen >> (x - 1) & 1 == 1).copied().collect();
            assert_eq!(card_secret(&some) == secret, some.len() >= 3, "cards {chosen:05b}");
        }
        assert_eq!(card_key_id(&secret), key_id(&secret));
        let mut pin = [0; 32];
        assert_eq!(code::token_pin(&secret, b"M-code", &uid, &id, 32, &mut pin), 32);
        assert_eq!(card_pin(&secret, b"M-code", [&uid, &id], false, 32).bytes(), pin);
        assert_eq!(code::so_pin(&secret, &uid, &id, 32, &mut pin), 32);
        assert_eq!(card_pin(&secret, b"", [&uid, &id], true, 32).bytes(), pin);
        let mut key = [0; 32];
        backup::kek(&secret, &uid, &mut key);
        assert_eq!(slot_key(&secret, b"slotwarden/kwp/v1", &uid), key);
        backup::mak(&secret, &uid, &mut key);
        assert_eq!(slot_key(&secret, b"slotwarden/mak/v1", &uid), key);
    }

    #[test]
    fn every_quorum_gives_the_token_pin_that_the_core_derives() {
        let set = Set::new(&KEY, 1, Quorum::new(3, 5).expect("a quorum"), 32);
        let mut secret = [0; 16];
        assert!(slotwarden_core::share::secret_of(&KEY, &set.id, set.quorum, &mut secret));
        let mut pin = [0; 32];
        assert_eq!(slotwarden_core::code::token_pin(&secret, &[], &[9; 16], &set.id, 32, &mut pin), 32);
        let shares: Vec<Share> = (1..=5).filter_map(|x| Share::read(&shown(&set, x))).collect();
        for chosen in 0u8..32 {
            let some: Vec<Share> = shares.iter().filter(|share| chosen >> (share.x - 1) & 1 == 1).copied().collect();
            let same = token_pin(&some, &[9; 16], &set.id, 32).bytes() == pin;
            assert_eq!(same, some.len() >= 3, "shares {chosen:05b}");
        }
    }
}
