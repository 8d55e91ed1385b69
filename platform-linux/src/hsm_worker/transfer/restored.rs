//! Entries of an export as objects of the token: made, read back, compared with what is there.
//!
//! An object counts as made when it was read back with the names and attributes of its entry,
//! none of them weaker (P18). Whether an object that is there already has the entry's value is
//! told by its public part; where there is none, both are wrapped by a key that the token made for
//! this, as an object of the session, and the two blobs are compared: the key never leaves, and so
//! nobody can unwrap them. Only where an object cannot be wrapped its check value speaks, which
//! has 24 bits.

use std::collections::HashMap;

use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::session::Session;
use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CK_OBJECT_HANDLE, CK_ULONG, CKA_CHECK_VALUE, CKA_CLASS, CKA_DESTROYABLE, CKA_EC_POINT, CKA_ID,
    CKA_KEY_TYPE, CKA_LABEL, CKA_MODIFIABLE, CKA_MODULUS, CKA_PUBLIC_KEY_INFO, CKA_SUBJECT, CKA_TOKEN, CKA_VALUE,
    CKA_VALUE_LEN,
};
use slotwarden_core::export::{Class, Entry, FRAME_BYTES_MAX};
use slotwarden_core::fault::{Function, HsmFailure, Refusal};

use super::super::module::{Module, code, failure};
use super::calls::{Calls, Value};
use super::mechanism::KeyWrap;
use super::object::{self, Sheet, class_number};
use super::section::{is_ours, objects};

/// Objects of the token by what an entry is looked up with.
pub(super) type Index = HashMap<(u8, Vec<u8>), Vec<CK_OBJECT_HANDLE>>;

/// Makes objects of entries in one session.
pub(super) struct Restorer<'a> {
    module: &'a Module,
    open: &'a Session,
    calls: Calls<'a>,
    wrap: KeyWrap,
    /// U.
    by: CK_OBJECT_HANDLE,
    sheet: Sheet,
    /// What two keys are compared with, once it was needed.
    scale: Option<CK_OBJECT_HANDLE>,
}

impl<'a> Restorer<'a> {
    pub(super) fn new(
        module: &'a Module,
        open: &'a Session,
        wrap: KeyWrap,
        by: CK_OBJECT_HANDLE,
    ) -> Result<Self, HsmFailure> {
        let calls = Calls::new(module, open)?;
        Ok(Restorer { module, open, calls, wrap, by, sheet: Sheet::new(), scale: None })
    }

    /// Destroys an object.
    pub(super) fn destroy(&self, object: CK_OBJECT_HANDLE) -> Result<(), HsmFailure> {
        self.calls.destroy(object)
    }

    /// Everything in the token but our own keys.
    pub(super) fn index(&mut self) -> Result<Index, HsmFailure> {
        let mut index = Index::new();
        for object in objects(&self.calls)? {
            let sheet = self.read(object)?;
            if let Some(class) = sheet.class().filter(|_| !is_ours(sheet)) {
                let name = known_by(class, sheet.id(), sheet.label());
                index.entry(name).or_default().push(object);
            }
            self.module.callers.aside(|| ());
        }
        Ok(index)
    }

    /// Makes an entry's object, of the session or of the token, and reads it back.
    pub(super) fn make(&mut self, entry: &Entry<'_>, in_token: bool) -> Result<CK_OBJECT_HANDLE, HsmFailure> {
        let whole = template(entry, in_token)?;
        let made = match self.make_with(entry, &whole, true) {
            // A module may not know an attribute, or take it at its default only. What is left out
            // is harmless, and the object is read back all the same.
            Err(HsmFailure::Pkcs11 { code, .. }) if is_about_the_template(code) => self.make_with(entry, &whole, false),
            other => other,
        }?;
        let right = self.is_as_made(entry, made, in_token);
        if right == Ok(true) {
            return Ok(made);
        }
        // The first failure says more.
        let _ = self.calls.destroy(made);
        right.and(Err(HsmFailure::Refused(Refusal::KeyNotRestorable)))
    }

    fn make_with(
        &self,
        entry: &Entry<'_>,
        whole: &[(CK_ATTRIBUTE_TYPE, Vec<u8>)],
        with_harmless: bool,
    ) -> Result<CK_OBJECT_HANDLE, HsmFailure> {
        let stays = |(kind, value): &&(CK_ATTRIBUTE_TYPE, Vec<u8>)| {
            with_harmless || *kind == CKA_TOKEN || !object::is_harmless(*kind, value)
        };
        let values: Vec<Value<'_>> =
            whole.iter().filter(stays).map(|(kind, value)| (*kind, value.as_slice())).collect();
        match entry.class {
            Class::Secret | Class::Private => self.calls.unwrap(self.wrap.number, self.by, entry.wrapped, &values),
            Class::Public | Class::Certificate => self.calls.create(&values),
        }
    }

    /// Whether an object is named as the entry and has its attributes, as far as the token says.
    pub(super) fn is_as(&mut self, entry: &Entry<'_>, object: CK_OBJECT_HANDLE) -> Result<bool, HsmFailure> {
        self.is_as_made(entry, object, true)
    }

    fn is_as_made(&mut self, entry: &Entry<'_>, object: CK_OBJECT_HANDLE, in_token: bool) -> Result<bool, HsmFailure> {
        let sheet = self.read(object)?;
        if sheet.id() != entry.id || sheet.label() != entry.label || !is_of_type(sheet, entry) {
            return Ok(false);
        }
        let is_set = entry.set.iter().all(|(kind, value)| {
            let kind = CK_ATTRIBUTE_TYPE::from(kind);
            match sheet.for_file(kind) {
                _ if is_left_to_the_token(kind, in_token) => true,
                Some(has) => has == value,
                // A name in a directory restricts nothing.
                None => kind == CKA_SUBJECT || object::is_harmless(kind, value),
            }
        });
        Ok(is_set && contradiction(sheet, entry).is_none())
    }

    /// Whether an object has the entry's label.
    pub(super) fn is_labelled(&mut self, entry: &Entry<'_>, object: CK_OBJECT_HANDLE) -> Result<bool, HsmFailure> {
        Ok(self.read(object)?.label() == entry.label)
    }

    /// Whether an object of the token has the value of the entry's object of the session.
    pub(super) fn has_value_of(
        &mut self,
        entry: &Entry<'_>,
        made: CK_OBJECT_HANDLE,
        object: CK_OBJECT_HANDLE,
    ) -> Result<bool, HsmFailure> {
        let sheet = self.read(object)?;
        if !is_of_type(sheet, entry) || contradiction(sheet, entry).is_some() {
            return Ok(false);
        }
        let both = |kind| sheet.value(kind).is_some() && value_of(entry, kind).is_some();
        let speaks = match entry.class {
            Class::Public => both(CKA_MODULUS) || both(CKA_EC_POINT) || both(CKA_VALUE),
            Class::Certificate => both(CKA_VALUE),
            Class::Private => both(CKA_MODULUS) || both(CKA_PUBLIC_KEY_INFO),
            Class::Secret => false,
        };
        if speaks {
            return Ok(true);
        }
        let by_check_value = entry.class == Class::Secret && both(CKA_CHECK_VALUE);
        match entry.class {
            Class::Public | Class::Certificate => Ok(false),
            Class::Private | Class::Secret => Ok(self.weigh(made, object)?.unwrap_or(by_check_value)),
        }
    }

    /// Whether an object may be what an interrupted import left of this entry: it has the entry's value, or none that
    /// anybody could name. What has another value is somebody else's, and stays (P25).
    pub(super) fn may_be_left_of(&mut self, entry: &Entry<'_>, object: CK_OBJECT_HANDLE) -> Result<bool, HsmFailure> {
        let sheet = self.read(object)?;
        let no_type = sheet.class() == Some(entry.class) && sheet.number(CKA_KEY_TYPE).is_none();
        if no_type && entry.class != Class::Certificate {
            return Ok(true);
        }
        if !is_of_type(sheet, entry) {
            return Ok(false);
        }
        let mut named = entry.set.iter().chain(entry.recorded.iter()).map(|(kind, _)| CK_ATTRIBUTE_TYPE::from(kind));
        let is_said =
            |kind| sheet.value(kind).is_some_and(|value| kind != CKA_VALUE_LEN || value.iter().any(|byte| *byte != 0));
        let (mut some, mut said) = (false, false);
        named.by_ref().filter(|kind| object::identifies(*kind)).for_each(|kind| {
            some = true;
            said |= is_said(kind);
        });
        if some && !said {
            return Ok(true);
        }
        let made = self.make(entry, false)?;
        let same = self.has_value_of(entry, made, object);
        self.destroy(made)?;
        same
    }

    /// Whether two keys give the same blob; `None` where one of them gives none.
    fn weigh(&mut self, one: CK_OBJECT_HANDLE, other: CK_OBJECT_HANDLE) -> Result<Option<bool>, HsmFailure> {
        let by = self.scale()?;
        let mut blobs = [[0; FRAME_BYTES_MAX]; 2];
        let [first, second] = &mut blobs;
        let Ok(length) = self.calls.wrap(self.wrap.number, by, one, first) else { return Ok(None) };
        let Ok(as_long) = self.calls.wrap(self.wrap.number, by, other, second) else { return Ok(None) };
        Ok(Some(first.get(..length) == second.get(..as_long)))
    }

    fn scale(&mut self) -> Result<CK_OBJECT_HANDLE, HsmFailure> {
        if let Some(scale) = self.scale {
            return Ok(scale);
        }
        let template = [
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::ValueLen(32.into()),
            Attribute::Wrap(true),
            Attribute::Unwrap(false),
            Attribute::Encrypt(false),
            Attribute::Decrypt(false),
        ];
        let made = self.module.call(|_| self.open.generate_key(&Mechanism::AesKeyGen, &template));
        let made = made.map_err(|error| failure(&error, Function::Other))?.handle();
        self.scale = Some(made);
        Ok(made)
    }

    fn read(&mut self, object: CK_OBJECT_HANDLE) -> Result<&Sheet, HsmFailure> {
        self.sheet.read(&self.calls, object)?;
        Ok(&self.sheet)
    }
}

/// What an object is looked up with: class and id, or the label where there is no id.
pub(super) fn known_by(class: Class, id: &[u8], label: &[u8]) -> (u8, Vec<u8>) {
    let class = u8::try_from(class_number(class)).unwrap_or(u8::MAX);
    let name = if id.is_empty() { [b"label ".as_slice(), label].concat() } else { [b"id ".as_slice(), id].concat() };
    (class, name)
}

fn is_of_type(sheet: &Sheet, entry: &Entry<'_>) -> bool {
    sheet.class() == Some(entry.class) && sheet.key_type() == entry.key_type
}

/// The value of an attribute in the entry, as a file has it.
fn value_of<'e>(entry: &Entry<'e>, kind: CK_ATTRIBUTE_TYPE) -> Option<&'e [u8]> {
    let all = entry.set.iter().chain(entry.recorded.iter());
    all.filter(|(has, _)| CK_ATTRIBUTE_TYPE::from(*has) == kind).map(|(_, value)| value).next()
}

/// The first attribute that shows that an object has another value than the entry.
fn contradiction(sheet: &Sheet, entry: &Entry<'_>) -> Option<CK_ATTRIBUTE_TYPE> {
    let all = entry.set.iter().chain(entry.recorded.iter());
    all.map(|(kind, value)| (CK_ATTRIBUTE_TYPE::from(kind), value))
        .filter(|(kind, _)| object::identifies(*kind))
        .find(|(kind, value)| {
            let is_unknown = |value: &[u8]| *kind == CKA_VALUE_LEN && value.iter().all(|byte| *byte == 0);
            sheet.for_file(*kind).is_some_and(|has| has != *value && !is_unknown(&has) && !is_unknown(value))
        })
        .map(|(kind, _)| kind)
}

/// Everything that makes the object what the entry says, `CKA_MODIFIABLE` last: SoftHSM takes nothing after it.
fn template(entry: &Entry<'_>, in_token: bool) -> Result<Vec<(CK_ATTRIBUTE_TYPE, Vec<u8>)>, HsmFailure> {
    let invalid = HsmFailure::Refused(Refusal::ExportFileInvalid);
    let mut whole: Vec<(CK_ATTRIBUTE_TYPE, Vec<u8>)> =
        vec![(CKA_CLASS, class_number(entry.class).to_ne_bytes().to_vec())];
    if entry.class != Class::Certificate {
        whole.push((CKA_KEY_TYPE, CK_ULONG::to_ne_bytes(entry.key_type).to_vec()));
    }
    whole.push((CKA_TOKEN, vec![u8::from(in_token)]));
    for (kind, name) in [(CKA_LABEL, entry.label), (CKA_ID, entry.id)] {
        if !name.is_empty() {
            whole.push((kind, name.to_vec()));
        }
    }
    let mut last = None;
    for (kind, value) in entry.set.iter() {
        let native = object::for_module(kind, value).filter(|_| object::is_set_again(entry.class, kind));
        let native = native.ok_or(invalid)?;
        let kind = CK_ATTRIBUTE_TYPE::from(kind);
        if is_left_to_the_token(kind, in_token) {
            continue;
        }
        if kind == CKA_MODIFIABLE {
            last = Some((kind, native));
        } else {
            whole.push((kind, native));
        }
    }
    whole.extend(last);
    Ok(whole)
}

/// An object of the session is only tried, and has to go again.
fn is_left_to_the_token(kind: CK_ATTRIBUTE_TYPE, in_token: bool) -> bool {
    kind == CKA_DESTROYABLE && !in_token
}

fn is_about_the_template(code: u64) -> bool {
    matches!(
        code,
        code::ATTRIBUTE_READ_ONLY
            | code::ATTRIBUTE_TYPE_INVALID
            | code::ATTRIBUTE_VALUE_INVALID
            | code::TEMPLATE_INCOMPLETE
            | code::TEMPLATE_INCONSISTENT
    )
}
