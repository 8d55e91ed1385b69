//! Keys from keys: HKDF with SHA-256 (RFC 5869), in place.
//!
//! The crate hkdf moves its state when it finishes, and a moved state leaves on the stack
//! what was fed to it last: here that is a secret. So HMAC (RFC 2104) is written out over
//! SHA-256, whose blocks wipe themselves, and everything else is wiped by its owner. Tests
//! hold the results against the crate's and the RFC's.

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Bytes of a SHA-256, and so of a key.
pub const KEY_BYTES: usize = 32;
/// Bytes of a block of SHA-256.
const BLOCK_BYTES: usize = 64;

/// HKDF-Extract: writes the key that is in all `parts`, one after the other, into `prk`.
/// False for a salt longer than a block, 64 bytes.
#[must_use]
pub fn extract(salt: &[u8], parts: &[&[u8]], prk: &mut [u8; KEY_BYTES]) -> bool {
    if salt.len() > BLOCK_BYTES {
        return false;
    }
    hmac(salt, parts, prk);
    true
}

/// HKDF-Expand: fills `out` from `prk`; the info is both its parts, one after the other.
/// False, with nothing written, for more than 255 × 32 bytes.
#[must_use]
pub fn expand(prk: &[u8; KEY_BYTES], info: [&[u8]; 2], out: &mut [u8]) -> bool {
    if out.len() > usize::from(u8::MAX).saturating_mul(KEY_BYTES) {
        return false;
    }
    let mut before = Zeroizing::new([0; KEY_BYTES]);
    let mut block = Zeroizing::new([0; KEY_BYTES]);
    let [first, second] = info;
    for (number, place) in (1..=u8::MAX).zip(out.chunks_mut(KEY_BYTES)) {
        // The first block has none before it.
        let chained: &[u8] = if number == 1 { &[] } else { before.as_slice() };
        hmac(prk, &[chained, first, second, &[number]], &mut block);
        for (to, from) in place.iter_mut().zip(block.iter()) {
            *to = *from;
        }
        *before = *block;
    }
    true
}

/// HMAC (RFC 2104) of all parts, one after the other, under a key of one block at most.
pub(crate) fn hmac(key: &[u8], parts: &[&[u8]], out: &mut [u8; KEY_BYTES]) {
    const INNER: u8 = 0x36;
    const OUTER: u8 = 0x5C;
    let mut hash = Sha256::new();
    let mut padded = Zeroizing::new([INNER; BLOCK_BYTES]);
    for (place, byte) in padded.iter_mut().zip(key) {
        *place ^= byte;
    }
    hash.update(padded.as_slice());
    for part in parts {
        hash.update(part);
    }
    hash.finalize_into_reset(out.into());
    for place in padded.iter_mut() {
        *place ^= INNER ^ OUTER;
    }
    hash.update(padded.as_slice());
    hash.update(out.as_slice());
    hash.finalize_into_reset(out.into());
}

#[cfg(test)]
mod tests {
    use super::*;
    use hkdf::Hkdf;

    #[test]
    fn a_salt_or_a_result_that_is_too_long_is_refused() {
        assert!(!extract(&[1; BLOCK_BYTES + 1], &[b"key"], &mut [0; KEY_BYTES]));
        assert!(!expand(&[1; KEY_BYTES], [b"", b""], &mut [0; 255 * KEY_BYTES + 1]));
        assert!(expand(&[1; KEY_BYTES], [b"", b""], &mut [0; 255 * KEY_BYTES]));
    }

    /// RFC 5869, A.1.
    #[test]
    fn the_first_example_of_the_rfc_comes_out() {
        let salt: [u8; 13] = core::array::from_fn(|nth| u8::try_from(nth).expect("below 13"));
        let mut prk = [0; KEY_BYTES];
        assert!(extract(&salt, &[&[0x0B; 22]], &mut prk));
        assert_eq!(prk[..8], [0x07, 0x77, 0x09, 0x36, 0x2C, 0x2E, 0x32, 0xDF]);
        let mut out = [0; 42];
        assert!(expand(&prk, [&[0xF0, 0xF1, 0xF2, 0xF3, 0xF4], &[0xF5, 0xF6, 0xF7, 0xF8, 0xF9]], &mut out));
        assert_eq!(out[..8], [0x3C, 0xB2, 0x5F, 0x25, 0xFA, 0xAC, 0xD5, 0x7A]);
        assert_eq!(out[32..], [0x34, 0x00, 0x72, 0x08, 0xD5, 0xB8, 0x87, 0x18, 0x58, 0x65]);
    }

    #[test]
    fn every_length_is_what_the_crate_hkdf_gives() {
        let (mut salt, mut secret) = ([0; BLOCK_BYTES], [0; 100]);
        salt.iter_mut().chain(&mut secret).zip((0..=u8::MAX).cycle()).for_each(|(place, byte)| *place = byte);
        for len in 0..=BLOCK_BYTES {
            let (salt, secret) = (&salt[..len], &secret[..len + 36]);
            let (theirs_prk, theirs) = Hkdf::<Sha256>::extract(Some(salt), secret);
            let mut prk = [0; KEY_BYTES];
            assert!(extract(salt, &[&secret[..len], &secret[len..]], &mut prk));
            assert_eq!(prk, theirs_prk.as_slice());
            let (mut ours_out, mut theirs_out) = ([0; 200], [0; 200]);
            assert!(expand(&prk, [b"info", salt], &mut ours_out[..len * 3]));
            assert!(theirs.expand_multi_info(&[b"info", salt], &mut theirs_out[..len * 3]).is_ok());
            assert_eq!(ours_out, theirs_out, "{len}");
        }
    }
}
