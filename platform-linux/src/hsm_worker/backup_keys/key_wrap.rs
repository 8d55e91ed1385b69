//! Wrapping by RFC 5649 in the token, whatever number the module gives it.
//!
//! SoftHSM 2.6 has it under `CKM_AES_KEY_WRAP_PAD` 0x210A, which older texts of the standard
//! left open; others have something else there, and RFC 5649 under `CKM_AES_KEY_WRAP_KWP`
//! 0x210B (PKCS#11 v3.1, section 6.13.16; Kryoptic 1.5). So a mechanism is believed for what
//! it does with a known key, never for its number. `CKM_AES_CBC_PAD` is not tried: it has no
//! integrity.
//!
//! cryptoki 0.12 has no name for 0x210B and lets nobody give a number: that one call is made
//! here by the module's own function list. A client library that gives each caller another
//! instance of itself (`p11-kit-client`) does not know the session there and says so; its
//! module then has to have RFC 5649 under the first number.
#![allow(unsafe_code)] // foreign functions: the module's list, and C_WrapKey from it

use std::path::Path;
use std::ptr;

use cryptoki::mechanism::Mechanism;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki_sys::{
    CK_FUNCTION_LIST, CK_MECHANISM, CK_ULONG, CKA_CLASS, CKA_EXTRACTABLE, CKA_KEY_TYPE, CKA_PRIVATE, CKA_SENSITIVE,
    CKA_SIGN, CKA_TOKEN, CKK_GENERIC_SECRET, CKM_AES_KEY_WRAP_KWP, CKM_AES_KEY_WRAP_PAD, CKO_SECRET_KEY, CKR_OK,
    Pkcs11,
};
use slotwarden_core::backup::MAK_CHECK;
use slotwarden_core::fault::{Function, HsmFailure, rv};

use super::super::module::{Module, code, failure};
use super::super::transfer::{Calls, Value};

/// More than a wrapped known key takes; a module that wants to write more wraps something else.
const WRAPPED_BYTES_MAX: usize = 64;

/// The module's function list, loaded a second time for what cryptoki does not offer.
pub(in super::super) struct Bare {
    list: CK_FUNCTION_LIST,
    /// Keeps the module loaded as long as its functions may be called.
    _loaded: Pkcs11,
}

impl Bare {
    /// Asks a module that is loaded already for its list of functions.
    pub(in super::super) fn load(path: &Path) -> Option<Self> {
        // SAFETY: cryptoki loaded this very file and called its C_Initialize; loading it again
        // gives the same instance and runs no initialiser.
        let loaded = unsafe { Pkcs11::new(path) }.ok()?;
        let mut list = ptr::null_mut();
        // SAFETY: the function writes one pointer, to a place that is ours (PKCS#11 v3.1, section 5.4.4).
        if unsafe { loaded.C_GetFunctionList(&mut list) } != CKR_OK {
            return None;
        }
        // SAFETY: after CKR_OK it points to the module's list, which lives as long as the module is loaded.
        let list = *unsafe { list.as_ref() }?;
        Some(Bare { list, _loaded: loaded })
    }

    /// The module's functions.
    pub(in super::super) fn list(&self) -> &CK_FUNCTION_LIST {
        &self.list
    }

    /// `C_WrapKey` by `CKM_AES_KEY_WRAP_KWP`.
    fn wrap(&self, open: &Session, by: ObjectHandle, key: ObjectHandle) -> Result<Vec<u8>, u64> {
        let wrap_key = self.list.C_WrapKey.ok_or(rv::FUNCTION_NOT_SUPPORTED)?;
        let mut mechanism =
            CK_MECHANISM { mechanism: CKM_AES_KEY_WRAP_KWP, pParameter: ptr::null_mut(), ulParameterLen: 0 };
        let mut wrapped = vec![0; WRAPPED_BYTES_MAX];
        let mut length = WRAPPED_BYTES_MAX as CK_ULONG;
        // SAFETY: mechanism, buffer and its length are ours and live through the call; the module
        // writes at most `length` bytes and then how many (PKCS#11 v3.1, section 5.2).
        let answer = unsafe {
            wrap_key(open.handle(), &mut mechanism, by.handle(), key.handle(), wrapped.as_mut_ptr(), &mut length)
        };
        if answer != CKR_OK {
            return Err(answer);
        }
        wrapped.truncate(usize::try_from(length).unwrap_or(WRAPPED_BYTES_MAX));
        Ok(wrapped)
    }
}

/// Whether a key in the token wraps another one to these bytes, under either number.
///
/// # Errors
/// When the token does not say: no answer to this is a "no".
pub(super) fn wraps_to(
    module: &Module,
    open: &Session,
    by: ObjectHandle,
    key: ObjectHandle,
    expected: &[u8],
) -> Result<bool, HsmFailure> {
    let first = module.call(|_| open.wrap_key(&Mechanism::AesKeyWrapPad, by, key));
    let first = first.map_err(|error| failure(&error, Function::WrapKey));
    if first.as_deref() == Ok(expected) {
        return Ok(true);
    }
    let second = module.bare().map(|bare| module.call(|_| bare.wrap(open, by, key)));
    let second = second.unwrap_or(Err(code::MECHANISM_INVALID));
    let second = second.map_err(|code| HsmFailure::Pkcs11 { code, function: Function::WrapKey });
    judged(first, second, expected)
}

/// Whether a key in the token unwraps this blob to the known key, under either number. The key
/// that comes out shows itself by its HMAC, so that nothing is read out of the token.
///
/// # Errors
/// When the token does not say.
pub(super) fn unwraps(
    module: &Module,
    open: &Session,
    by: ObjectHandle,
    wrapped: &[u8],
    mac: &[u8],
) -> Result<bool, HsmFailure> {
    let calls = Calls::new(module, open)?;
    let [class, key_type] = [CKO_SECRET_KEY, CKK_GENERIC_SECRET].map(CK_ULONG::to_ne_bytes);
    let template: [Value<'_>; 7] = [
        (CKA_CLASS, &class),
        (CKA_KEY_TYPE, &key_type),
        (CKA_TOKEN, &[0]),
        (CKA_PRIVATE, &[1]),
        (CKA_SENSITIVE, &[1]),
        (CKA_EXTRACTABLE, &[0]),
        (CKA_SIGN, &[1]),
    ];
    let mut failed = HsmFailure::Pkcs11 { code: code::MECHANISM_INVALID, function: Function::UnwrapKey };
    for number in [CKM_AES_KEY_WRAP_PAD, CKM_AES_KEY_WRAP_KWP] {
        match calls.unwrap(number, by.handle(), wrapped, &template) {
            Ok(known) => {
                let has = calls.authenticate(known, MAK_CHECK);
                let destroyed = calls.destroy(known);
                let is_it = has? == mac;
                destroyed?;
                if is_it {
                    return Ok(true);
                }
            }
            // A refusal under one number says nothing while the other may have the mechanism.
            Err(refused) if is_missing(refused) => {}
            Err(refused) => failed = refused,
        }
    }
    match failed {
        HsmFailure::Pkcs11 { code, .. } if says_lost(code) || code == code::MECHANISM_INVALID => Err(failed),
        HsmFailure::Pkcs11 { .. } => Ok(false),
        other => Err(other),
    }
}

/// Whether a code is about the session or the device, so that nothing was said of the key. Modules
/// have `CKR_GENERAL_ERROR` and `CKR_DEVICE_ERROR` for a blob of another key as well.
pub(in super::super) fn says_lost(code: u64) -> bool {
    matches!(
        code,
        rv::TOKEN_NOT_PRESENT
            | rv::USER_NOT_LOGGED_IN
            | rv::DEVICE_MEMORY
            | code::DEVICE_REMOVED
            | code::SESSION_CLOSED
            | code::SESSION_HANDLE_INVALID
    )
}

/// What two tries say together: a mechanism that is not there says nothing, other bytes say no.
fn judged(
    first: Result<Vec<u8>, HsmFailure>,
    second: Result<Vec<u8>, HsmFailure>,
    expected: &[u8],
) -> Result<bool, HsmFailure> {
    let tries = [first, second];
    if tries.iter().any(|wrapped| wrapped.as_deref() == Ok(expected)) {
        return Ok(true);
    }
    if let Some(failed) = tries.iter().find_map(|wrapped| wrapped.as_ref().err().filter(|failed| !is_missing(**failed)))
    {
        return Err(*failed);
    }
    if tries.iter().any(Result::is_ok) {
        return Ok(false);
    }
    Err(HsmFailure::Pkcs11 { code: code::MECHANISM_INVALID, function: Function::WrapKey })
}

/// Whether a failure says that the module does not have the mechanism, or not in this instance.
fn is_missing(failed: HsmFailure) -> bool {
    match failed {
        HsmFailure::Pkcs11 { code, .. } => matches!(
            code,
            code::MECHANISM_INVALID
                | code::MECHANISM_PARAM_INVALID
                | rv::FUNCTION_NOT_SUPPORTED
                | code::CRYPTOKI_NOT_INITIALIZED
        ),
        HsmFailure::AlreadyLoggedIn
        | HsmFailure::TokenGone
        | HsmFailure::NoWorker
        | HsmFailure::Refused(_)
        | HsmFailure::NotSettled => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RIGHT: &[u8] = b"right";

    fn failed(code: u64) -> Result<Vec<u8>, HsmFailure> {
        Err(HsmFailure::Pkcs11 { code, function: Function::WrapKey })
    }

    #[test]
    fn a_token_that_does_not_answer_is_not_taken_for_a_wrong_key() {
        let gone = || failed(rv::DEVICE_ERROR);
        assert!(judged(gone(), failed(code::MECHANISM_INVALID), RIGHT).is_err());
        assert!(judged(Ok(b"wrong".to_vec()), gone(), RIGHT).is_err());
        assert!(judged(failed(code::MECHANISM_INVALID), failed(code::MECHANISM_INVALID), RIGHT).is_err());
    }

    #[test]
    fn other_bytes_are_a_wrong_key_and_the_right_ones_count_under_either_number() {
        let missing = || failed(code::MECHANISM_INVALID);
        assert_eq!(judged(Ok(b"wrong".to_vec()), missing(), RIGHT), Ok(false));
        assert_eq!(judged(Ok(b"wrong".to_vec()), Ok(b"wrong too".to_vec()), RIGHT), Ok(false));
        assert_eq!(judged(Ok(b"another mechanism".to_vec()), Ok(RIGHT.to_vec()), RIGHT), Ok(true));
        assert_eq!(judged(Ok(RIGHT.to_vec()), missing(), RIGHT), Ok(true));
    }
}
