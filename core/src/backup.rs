//! The backup key's children: one key for each purpose and slot.
//!
//! The backup key encrypts nothing itself (P17). From it come, for each slot, a key that
//! wraps and unwraps the slot's keys (KEK; AES key wrap with padding, RFC 5649) and a key
//! that authenticates its exports (MAK; HMAC with SHA-256): PRK = HKDF-Extract (RFC 5869)
//! with SHA-256, salt "slotwarden/backup-key/v1", IKM = backup key; KEK = HKDF-Expand, info
//! "slotwarden/kwp/v1" ‖ slot uid; MAK the same, info "slotwarden/mak/v1" ‖ slot uid; 32
//! bytes each. Neither set nor cards enter, so sharing the backup key anew changes neither.
//!
//! Results are written where the caller wants them, and what is needed on the way is wiped.
//! Nothing here survives a restart.

use zeroize::Zeroizing;

use crate::derive::{self, KEY_BYTES};

/// What a MAK authenticates when it is new in a token, so that a wrong one is noticed while
/// the backup key is still there: see [`mak_check`].
pub const MAK_CHECK: &[u8] = b"slotwarden/mak-check/v1";
const SALT: &[u8] = b"slotwarden/backup-key/v1";
const KEK_INFO: &[u8] = b"slotwarden/kwp/v1";
const MAK_INFO: &[u8] = b"slotwarden/mak/v1";

/// Writes the key that wraps and unwraps the keys of this slot.
pub fn kek(backup_key: &[u8; KEY_BYTES], slot_uid: &[u8; 16], out: &mut [u8; KEY_BYTES]) {
    child(backup_key, KEK_INFO, slot_uid, out);
}

/// Writes the key that authenticates the exports of this slot.
pub fn mak(backup_key: &[u8; KEY_BYTES], slot_uid: &[u8; 16], out: &mut [u8; KEY_BYTES]) {
    child(backup_key, MAK_INFO, slot_uid, out);
}

/// HMAC with SHA-256 of [`MAK_CHECK`] under this MAK: what a token that holds it has to say.
#[must_use]
pub fn mak_check(mak: &[u8; KEY_BYTES]) -> [u8; KEY_BYTES] {
    let mut mac = [0; KEY_BYTES];
    derive::hmac(mak, &[MAK_CHECK], &mut mac);
    mac
}

/// What stands in a section's end: HMAC with SHA-256 of its message under the slot's MAK.
#[must_use]
pub fn section_mac(mak: &[u8; KEY_BYTES], message: &[u8]) -> [u8; KEY_BYTES] {
    let mut mac = [0; KEY_BYTES];
    derive::hmac(mak, &[message], &mut mac);
    mac
}

/// Names a backup key: HMAC with SHA-256 of "slotwarden/key-id/v1" under it, the first half.
#[must_use]
pub fn key_id(backup_key: &[u8; KEY_BYTES]) -> [u8; 16] {
    crate::share::card_set::key_id(backup_key)
}

fn child(backup_key: &[u8; KEY_BYTES], info: &[u8], slot_uid: &[u8; 16], out: &mut [u8; KEY_BYTES]) {
    let mut prk = Zeroizing::new([0; KEY_BYTES]);
    // The salt is shorter than a block and a key than HKDF's bound: nothing can be refused.
    let _ = derive::extract(SALT, &[backup_key], &mut prk) && derive::expand(&prk, [info, slot_uid], out);
}
