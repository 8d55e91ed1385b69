//! Ed25519 (RFC 8032) for records of shares, and a stack that keeps nothing of it.
//!
//! The crate ed25519-dalek wipes its keys when they are dropped, but not what it moved: the
//! state of a hash with a part of y in it, a nonce, the scalar that signs. So whatever calls
//! it here does so in a function of its own, and the stack below is overwritten after that
//! (a test searches it). Nothing survives a restart.

use core::hint::black_box;

use ed25519_dalek::ed25519::signature::MultipartSigner as _;
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};
use zeroize::Zeroize as _;

/// Bytes of stack that are overwritten. The crate goes 15 KiB deep on x86-64, where verifying
/// goes deepest, and 11 KiB on a Cortex-M3, both measured.
const STACK_BYTES: usize = 16 * 1024;

/// Writes the public key of this seed of a private key.
pub(super) fn public_key(seed: &[u8; 32], public_key: &mut [u8; 32]) {
    public_key_deep(seed, public_key);
    wipe_stack();
}

/// Writes the signature over all parts, one after the other, and its public key.
pub(super) fn sign(seed: &[u8; 32], signed: [&[u8]; 2], public_key: &mut [u8; 32], signature: &mut [u8; 64]) {
    sign_deep(seed, signed, public_key, signature);
    wipe_stack();
}

/// Whether the signature is this key's, judged strictly: one that others may judge otherwise
/// (a key or point of small order, an s beyond the order) is none.
pub(super) fn verify(public_key: &[u8; 32], signed: &[u8], signature: &[u8; 64]) -> bool {
    let good = verify_deep(public_key, signed, signature);
    wipe_stack();
    good
}

#[inline(never)]
fn public_key_deep(seed: &[u8; 32], public_key: &mut [u8; 32]) {
    *public_key = SigningKey::from_bytes(seed).verifying_key().to_bytes();
}

/// What is signed is the parts and then the public key.
#[inline(never)]
fn sign_deep(seed: &[u8; 32], signed: [&[u8]; 2], public_key: &mut [u8; 32], signature: &mut [u8; 64]) {
    let key = SigningKey::from_bytes(seed);
    *public_key = key.verifying_key().to_bytes();
    let [header, y] = signed;
    // This key is in memory: signing with it cannot fail.
    *signature = key.try_multipart_sign(&[header, y, public_key]).map_or([0; 64], |signature| signature.to_bytes());
}

#[inline(never)]
fn verify_deep(public_key: &[u8; 32], signed: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(public_key)
        .is_ok_and(|key| key.verify_strict(signed, &Signature::from_bytes(signature)).is_ok())
}

/// Overwrites the stack below the caller's frame.
#[inline(never)]
fn wipe_stack() {
    let mut below = [0u8; STACK_BYTES];
    below.zeroize();
    black_box(&mut below);
}
