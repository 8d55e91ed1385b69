//! PKCS#11 calls of a transfer, by the module's own function list.
//!
//! cryptoki asks for the length of every attribute and of every wrapped key first: four calls a
//! key, where two do. It has no name for `CKM_AES_KEY_WRAP_KWP`, and it loses attributes that it
//! does not know. Here buffers are fixed, and what a module says of a length is bounded by them.
#![allow(unsafe_code)] // the foreign functions of the module's list

use std::ffi::c_void;
use std::ptr;

use cryptoki::object::Attribute;
use cryptoki::session::Session;
use cryptoki_sys::{
    CK_ATTRIBUTE, CK_ATTRIBUTE_TYPE, CK_FUNCTION_LIST, CK_MECHANISM, CK_MECHANISM_TYPE, CK_OBJECT_HANDLE, CK_RV,
    CK_ULONG, CKM_SHA256_HMAC, CKR_ATTRIBUTE_SENSITIVE, CKR_ATTRIBUTE_TYPE_INVALID, CKR_BUFFER_TOO_SMALL, CKR_OK,
};
use slotwarden_core::fault::{Function, HsmFailure, rv};

use super::super::module::{Module, code};

/// Handles that one `C_FindObjects` gives.
const FOUND_AT_ONCE: usize = 2048;
/// SHA-256.
const MAC_BYTES: usize = 32;

/// One attribute with its value as the module takes it.
pub(in super::super) type Value<'v> = (CK_ATTRIBUTE_TYPE, &'v [u8]);

/// A place for the value of one attribute, and what the module wrote there.
pub(super) struct Place<'b> {
    pub(super) kind: CK_ATTRIBUTE_TYPE,
    /// Empty: only the length is asked for.
    pub(super) room: &'b mut [u8],
}

/// What a module said of one attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// So many bytes.
    Length(usize),
    /// It does not have it, or does not give it.
    Unavailable,
    /// The call failed on the way and this one was not looked at.
    Nothing,
}

/// The calls of one session.
pub(in super::super) struct Calls<'a> {
    module: &'a Module,
    list: &'a CK_FUNCTION_LIST,
    open: &'a Session,
}

impl<'a> Calls<'a> {
    /// # Errors
    /// `CKR_FUNCTION_NOT_SUPPORTED` where the function list cannot be had a second time.
    pub(in super::super) fn new(module: &'a Module, open: &'a Session) -> Result<Self, HsmFailure> {
        let list = module.bare().ok_or(unsupported(Function::Other))?.list();
        Ok(Calls { module, list, open })
    }

    /// The objects with these attributes.
    pub(super) fn find(&self, with: &[Value<'_>]) -> Result<Vec<CK_OBJECT_HANDLE>, HsmFailure> {
        let asked = Function::FindObjects;
        let (Some(begin), Some(next), Some(end)) =
            (self.list.C_FindObjectsInit, self.list.C_FindObjects, self.list.C_FindObjectsFinal)
        else {
            return Err(unsupported(asked));
        };
        let mut template = template(with);
        let count = template.len() as CK_ULONG;
        let session = self.open.handle();
        // SAFETY: the template and the values it points to live through the call, which only reads them.
        judged(self.module.call(|_| unsafe { begin(session, template.as_mut_ptr(), count) }), asked)?;
        let (mut found, mut some) = (Vec::new(), vec![0; FOUND_AT_ONCE]);
        let result = loop {
            let mut how_many: CK_ULONG = 0;
            // SAFETY: the module writes at most FOUND_AT_ONCE handles and their count, to places that are ours.
            let answer = self
                .module
                .call(|_| unsafe { next(session, some.as_mut_ptr(), FOUND_AT_ONCE as CK_ULONG, &mut how_many) });
            if let Err(failed) = judged(answer, asked) {
                break Err(failed);
            }
            let how_many = usize::try_from(how_many).unwrap_or(0).min(FOUND_AT_ONCE);
            if how_many == 0 {
                break Ok(found);
            }
            found.extend_from_slice(&some[..how_many]);
        };
        // SAFETY: it takes a session and nothing else.
        let ended = judged(self.module.call(|_| unsafe { end(session) }), asked);
        result.and_then(|found| ended.map(|()| found))
    }

    /// Asks for attributes once.
    pub(super) fn attributes(
        &self,
        object: CK_OBJECT_HANDLE,
        places: &mut [Place<'_>],
        said: &mut Vec<Said>,
    ) -> Result<(), HsmFailure> {
        let asked = Function::GetAttributeValue;
        let get = self.list.C_GetAttributeValue.ok_or(unsupported(asked))?;
        let mut template: Vec<CK_ATTRIBUTE> = places
            .iter_mut()
            .map(|place| CK_ATTRIBUTE {
                type_: place.kind,
                pValue: if place.room.is_empty() { ptr::null_mut() } else { place.room.as_mut_ptr().cast::<c_void>() },
                ulValueLen: place.room.len() as CK_ULONG,
            })
            .collect();
        let (session, count) = (self.open.handle(), template.len() as CK_ULONG);
        // SAFETY: each buffer is as long as its `ulValueLen` says and lives through the call; where
        // it is null the module writes a length only (PKCS#11 v3.1, section 5.7.5).
        let answer = self.module.call(|_| unsafe { get(session, object, template.as_mut_ptr(), count) });
        let complete = match answer {
            CKR_OK => true,
            CKR_ATTRIBUTE_SENSITIVE | CKR_ATTRIBUTE_TYPE_INVALID | CKR_BUFFER_TOO_SMALL => false,
            other => return Err(failed(other, asked)),
        };
        said.clear();
        said.extend(template.iter().zip(places.iter()).map(|(told, place)| {
            let room = place.room.len();
            match usize::try_from(told.ulValueLen).ok().filter(|_| told.ulValueLen != CK_ULONG::MAX) {
                None => Said::Unavailable,
                // No value is as long as its room: a length that stays as it was set was not looked at.
                Some(length) if room > 0 && length == room && !complete => Said::Nothing,
                Some(length) if room > 0 && length > room => Said::Unavailable,
                Some(length) => Said::Length(length),
            }
        }));
        Ok(())
    }

    /// `C_WrapKey` into a buffer; the module's own code where it refuses.
    pub(super) fn wrap(
        &self,
        mechanism: CK_MECHANISM_TYPE,
        by: CK_OBJECT_HANDLE,
        key: CK_OBJECT_HANDLE,
        wrapped: &mut [u8],
    ) -> Result<usize, u64> {
        let wrap_key = self.list.C_WrapKey.ok_or(rv::FUNCTION_NOT_SUPPORTED)?;
        let mut mechanism = plain(mechanism);
        let mut length = wrapped.len() as CK_ULONG;
        let session = self.open.handle();
        // SAFETY: mechanism, buffer and its length are ours and live through the call; the module
        // writes at most `length` bytes and then how many (PKCS#11 v3.1, section 5.2).
        let answer = self
            .module
            .call(|_| unsafe { wrap_key(session, &mut mechanism, by, key, wrapped.as_mut_ptr(), &mut length) });
        if answer != CKR_OK {
            return Err(answer);
        }
        usize::try_from(length).ok().filter(|length| *length <= wrapped.len()).ok_or(code::FUNCTION_FAILED)
    }

    /// `C_UnwrapKey`.
    pub(in super::super) fn unwrap(
        &self,
        mechanism: CK_MECHANISM_TYPE,
        by: CK_OBJECT_HANDLE,
        wrapped: &[u8],
        with: &[Value<'_>],
    ) -> Result<CK_OBJECT_HANDLE, HsmFailure> {
        let asked = Function::UnwrapKey;
        let unwrap_key = self.list.C_UnwrapKey.ok_or(unsupported(asked))?;
        let mut mechanism = plain(mechanism);
        let mut template = template(with);
        let (session, count) = (self.open.handle(), template.len() as CK_ULONG);
        let length = wrapped.len() as CK_ULONG;
        let mut made = 0;
        // SAFETY: all of it is ours and lives through the call; the module only reads the blob and
        // the template, whose pointers are not const because C's are not, and writes one handle.
        let answer = self.module.call(|_| unsafe {
            let blob = wrapped.as_ptr().cast_mut();
            unwrap_key(session, &mut mechanism, by, blob, length, template.as_mut_ptr(), count, &mut made)
        });
        judged(answer, asked).map(|()| made)
    }

    /// `C_CreateObject`.
    pub(super) fn create(&self, with: &[Value<'_>]) -> Result<CK_OBJECT_HANDLE, HsmFailure> {
        let asked = Function::CreateObject;
        let create = self.list.C_CreateObject.ok_or(unsupported(asked))?;
        let mut template = template(with);
        let (session, count) = (self.open.handle(), template.len() as CK_ULONG);
        let mut made = 0;
        // SAFETY: the template and its values live through the call, which only reads them, and one handle is written.
        let answer = self.module.call(|_| unsafe { create(session, template.as_mut_ptr(), count, &mut made) });
        judged(answer, asked).map(|()| made)
    }

    /// `C_DestroyObject`.
    pub(in super::super) fn destroy(&self, object: CK_OBJECT_HANDLE) -> Result<(), HsmFailure> {
        let asked = Function::DestroyObject;
        let destroy = self.list.C_DestroyObject.ok_or(unsupported(asked))?;
        let session = self.open.handle();
        // SAFETY: it takes two numbers.
        judged(self.module.call(|_| unsafe { destroy(session, object) }), asked)
    }

    /// HMAC-SHA-256 by a key of the token.
    pub(in super::super) fn authenticate(
        &self,
        by: CK_OBJECT_HANDLE,
        message: &[u8],
    ) -> Result<[u8; MAC_BYTES], HsmFailure> {
        let asked = Function::Sign;
        let (Some(begin), Some(sign)) = (self.list.C_SignInit, self.list.C_Sign) else {
            return Err(unsupported(asked));
        };
        let mut mechanism = plain(CKM_SHA256_HMAC);
        let session = self.open.handle();
        // SAFETY: the mechanism is ours and lives through the call.
        judged(self.module.call(|_| unsafe { begin(session, &mut mechanism, by) }), asked)?;
        let mut mac = [0; MAC_BYTES];
        let mut length = MAC_BYTES as CK_ULONG;
        // SAFETY: the module reads the message and writes at most `length` bytes, both ours.
        let answer = self.module.call(|_| unsafe {
            let bytes = message.as_ptr().cast_mut();
            sign(session, bytes, message.len() as CK_ULONG, mac.as_mut_ptr(), &mut length)
        });
        judged(answer, asked)?;
        if length == MAC_BYTES as CK_ULONG { Ok(mac) } else { Err(failed(code::FUNCTION_FAILED, asked)) }
    }
}

/// An attribute as the module has it.
pub(super) fn raw(attribute: &Attribute) -> Value<'_> {
    let plain = CK_ATTRIBUTE::from(attribute);
    let length = usize::try_from(plain.ulValueLen).unwrap_or(0);
    if plain.pValue.is_null() || length == 0 {
        return (plain.type_, &[]);
    }
    // SAFETY: cryptoki points to the value inside `attribute`, which lives as long as the answer, and says its length.
    let value = unsafe { std::slice::from_raw_parts(plain.pValue.cast::<u8>(), length) };
    (plain.type_, value)
}

/// A mechanism without a parameter.
fn plain(mechanism: CK_MECHANISM_TYPE) -> CK_MECHANISM {
    CK_MECHANISM { mechanism, pParameter: ptr::null_mut(), ulParameterLen: 0 }
}

fn template(values: &[Value<'_>]) -> Vec<CK_ATTRIBUTE> {
    let attribute = |(kind, value): &Value<'_>| CK_ATTRIBUTE {
        type_: *kind,
        pValue: value.as_ptr().cast_mut().cast::<c_void>(),
        ulValueLen: value.len() as CK_ULONG,
    };
    values.iter().map(attribute).collect()
}

fn judged(answer: CK_RV, function: Function) -> Result<(), HsmFailure> {
    if answer == CKR_OK { Ok(()) } else { Err(failed(answer, function)) }
}

pub(super) fn failed(code: u64, function: Function) -> HsmFailure {
    HsmFailure::Pkcs11 { code, function }
}

fn unsupported(function: Function) -> HsmFailure {
    failed(rv::FUNCTION_NOT_SUPPORTED, function)
}
