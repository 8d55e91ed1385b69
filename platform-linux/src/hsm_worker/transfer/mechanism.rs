//! Which of the module's mechanisms is RFC 5649.
//!
//! Found out by what it does, never by its number: a known key of the session is wrapped by
//! another known key of the session and compared with what software makes of the same bytes.
//! So no KEK is needed, and a module that was replaced since the last start is tried anew.
//! `CKM_AES_CBC_PAD` is no candidate: it has no integrity.

use aes_kw::KwpAes256;
use cryptoki::object::{Attribute, KeyType, ObjectClass};
use cryptoki::session::Session;
use cryptoki_sys::{CK_MECHANISM_TYPE, CKM_AES_KEY_WRAP_KWP, CKM_AES_KEY_WRAP_PAD};
use hmac::KeyInit;
use slotwarden_core::fault::{Function, HsmFailure};

use super::super::backup_keys::{Bench, Objects, known_key};
use super::super::module::{Module, code};
use super::calls::{Calls, failed};

/// Worthless: they never leave the session, and are destroyed.
const WRAPS: [u8; 32] = *b"slotwarden: only for this check.";
const IS_WRAPPED: [u8; 32] = *b"slotwarden: a key to be wrapped!";
/// No multiple of eight: SoftHSM 2.6.1 fills such a key up with zeros and wraps them as a part of it.
const ODD_BYTES: usize = 20;
/// More than a known key takes.
const WRAPPED_BYTES_MAX: usize = 64;

/// A mechanism of the module that wraps by RFC 5649.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeyWrap {
    pub(super) number: CK_MECHANISM_TYPE,
    /// Keys whose length is no multiple of eight come out as long as they were.
    pub(super) keeps_lengths: bool,
}

impl KeyWrap {
    /// # Errors
    /// `CKR_MECHANISM_INVALID` when the module has none; else as of the calls.
    pub(super) fn find(module: &Module, open: &Session, calls: &Calls<'_>) -> Result<Self, HsmFailure> {
        let mut bench = Bench::new(module, open);
        let objects = Objects { module, open };
        let mut made = Vec::new();
        let mut import = |bench: &mut Bench<'_>, attributes: Vec<Attribute>, bytes: &[u8]| {
            let key = bench.import(attributes, bytes)?;
            made.push(key);
            Ok::<_, HsmFailure>(key.handle())
        };
        let keys = import(&mut bench, wraps(), &WRAPS).and_then(|by| {
            Ok((
                by,
                import(&mut bench, known_key(), &IS_WRAPPED)?,
                import(&mut bench, known_key(), &IS_WRAPPED[..ODD_BYTES])?,
            ))
        });
        bench.finish();
        let found = keys.and_then(|(by, even, odd)| {
            let does = |number, key, bytes: &[u8]| {
                let mut wrapped = [0; WRAPPED_BYTES_MAX];
                let length = calls.wrap(number, by, key, &mut wrapped)?;
                Ok::<_, u64>(wrapped.get(..length) == by_software(bytes).as_deref())
            };
            let mut refused = code::MECHANISM_INVALID;
            for number in [CKM_AES_KEY_WRAP_PAD, CKM_AES_KEY_WRAP_KWP] {
                match does(number, even, &IS_WRAPPED) {
                    Ok(true) => {
                        let keeps_lengths = does(number, odd, &IS_WRAPPED[..ODD_BYTES]) == Ok(true);
                        return Ok(KeyWrap { number, keeps_lengths });
                    }
                    Ok(false) => {}
                    Err(code) => refused = code,
                }
            }
            Err(failed(refused, Function::WrapKey))
        });
        // Gone with the session, if the token does not let them go.
        for key in made {
            let _ = objects.destroy(key);
        }
        found
    }
}

fn by_software(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut wrapped = [0; WRAPPED_BYTES_MAX];
    let wrapped = KwpAes256::new_from_slice(&WRAPS).ok()?.wrap_key(bytes, &mut wrapped).ok()?;
    Some(wrapped.to_vec())
}

fn wraps() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::AES),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Wrap(true),
        Attribute::Unwrap(false),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
    ]
}
