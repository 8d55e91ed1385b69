//! The slot's keys of a backup key in its token: W wraps and does nothing else, MAK signs and
//! verifies and does nothing else, and U, which is there for an import only, unwraps and does
//! nothing else.
//!
//! Both are named by a label and by the id key id ‖ slot uid. Neither is ever public: a public
//! key is used without a login. Neither is `CKA_TRUSTED`, which on SoftHSM 2.6 needs a public
//! one. `CKA_COPYABLE` is false, because a copy may be given other attributes than the object
//! it is made of (PKCS#11 v3.1, section 5.7.2): a copy of W that unwraps would be a key with
//! both uses (P17). `CKA_MODIFIABLE` comes last, since SoftHSM takes nothing after it.
//!
//! A key counts as made when it was read back and does what software does with the same
//! bytes: W wraps a known key by RFC 5649, U unwraps it, MAK is HMAC-SHA-256 of a known string. One that
//! does something else is destroyed; where the token only fails to answer, keys that were
//! there before stay. A worker that dies on the way leaves W alone, both, or neither; the
//! same order again repairs that.

mod import;
mod key_wrap;

use aes_kw::KwpAes256;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeInfo, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, SessionState};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use slotwarden_core::effect::HsmAnswer;
use slotwarden_core::fault::{Function, HsmFailure, rv};
use zeroize::Zeroize;

use slotwarden_core::backup::MAK_CHECK;

use self::import::Importer;
pub(super) use self::key_wrap::{Bare, says_lost};
use super::module::{Module, code, failure};
use super::token::{Call, Kept, Token};

/// KEK and MAK, bytes.
const KEY_BYTES: usize = 32;
/// What W wraps so that it can be told from another key; worthless. RFC 5649 differs from RFC
/// 3394 at every length. It is a multiple of eight, since SoftHSM 2.6.1 fills up other lengths
/// with zeros first and wraps those as a part of the key.
const KNOWN_KEY: [u8; 32] = *b"slotwarden: a key for W to wrap!";
/// [`KNOWN_KEY`] under RFC 5649: eight bytes more.
const WRAPPED_BYTES: usize = 40;
/// What one of the keys is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// W: wraps, nothing else.
    Wrap,
    /// MAK: signs and verifies, nothing else.
    Authenticate,
    /// U: unwraps, nothing else.
    Unwrap,
}

impl Purpose {
    /// Every one.
    pub(super) const ALL: [Purpose; 3] = [Purpose::Wrap, Purpose::Authenticate, Purpose::Unwrap];

    /// `CKA_LABEL`.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Purpose::Wrap => "slotwarden W",
            Purpose::Authenticate => "slotwarden MAK",
            Purpose::Unwrap => "slotwarden U",
        }
    }

    const fn key_type(self) -> KeyType {
        match self {
            Purpose::Wrap | Purpose::Unwrap => KeyType::AES,
            Purpose::Authenticate => KeyType::GENERIC_SECRET,
        }
    }
}

/// `CKA_ID`: which backup key, of which slot.
pub(super) fn id_of(key_id: [u8; 16], uid: [u8; 16]) -> Vec<u8> {
    [key_id, uid].concat()
}

/// What a key is and may do, but for its value.
pub(super) fn attributes(purpose: Purpose, id: &[u8]) -> Vec<Attribute> {
    let authenticates = purpose == Purpose::Authenticate;
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(purpose.key_type()),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Label(purpose.label().into()),
        Attribute::Id(id.to_vec()),
        Attribute::Wrap(purpose == Purpose::Wrap),
        Attribute::Unwrap(purpose == Purpose::Unwrap),
        Attribute::Encrypt(false),
        Attribute::Decrypt(false),
        Attribute::Sign(authenticates),
        Attribute::Verify(authenticates),
        Attribute::Derive(false),
        Attribute::Copyable(false),
        Attribute::Modifiable(false),
    ]
}

/// A key that is wrapped to show what a token does: in this session only.
pub(super) fn known_key() -> Vec<Attribute> {
    vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(false),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(true),
    ]
}

impl Token {
    /// Makes W and MAK, and U for a member of a cluster, unless they are there and right.
    pub(super) fn put_backup_keys(
        &self,
        session: &mut Kept,
        call: &Call,
        (key_id, uid): ([u8; 16], [u8; 16]),
        unwrap: bool,
    ) -> Result<(), HsmFailure> {
        let kek = key(call, 0)?;
        let mak = key(call, 1)?;
        let own = self.own_session(session, Function::CreateObject)?;
        let id = id_of(key_id, uid);
        let mut bench = Bench::new(&self.module, &own);
        let put = bench.put(Purpose::Wrap, &id, kek).and_then(|()| bench.put(Purpose::Authenticate, &id, mak));
        let put = put.and_then(|()| if unwrap { bench.put(Purpose::Unwrap, &id, kek) } else { Ok(()) });
        bench.finish();
        put
    }

    /// Destroys the keys of every backup key but this one, and U where it may not stay; says which of its own
    /// are there.
    pub(super) fn keep_backup_keys(
        &mut self,
        session: &mut Kept,
        key_id: Option<[u8; 16]>,
        uid: [u8; 16],
        unwrap: bool,
    ) -> Result<HsmAnswer, HsmFailure> {
        let own = self.own_session(session, Function::FindObjects)?;
        let objects = Objects { module: &self.module, open: &own };
        let ours = key_id.map(|key_id| id_of(key_id, uid));
        let mut destroyed = 0u8;
        for purpose in Purpose::ALL {
            for object in objects.find(&[Attribute::Private(true), Attribute::Label(purpose.label().into())])? {
                if Some(objects.id(object)?) != ours || (purpose == Purpose::Unwrap && !unwrap) {
                    objects.destroy(object)?;
                    destroyed = destroyed.saturating_add(1);
                }
            }
        }
        let (mut present, mut unwraps) = (false, false);
        if let Some(id) = ours {
            let (w, mak) = (objects.right(Purpose::Wrap, &id)?, objects.right(Purpose::Authenticate, &id)?);
            present = w.is_some() && mak.is_some();
            if let (Some(w), Some(mak)) = (w, mak) {
                self.known.learn(self.place()?, &id, (w.handle(), mak.handle()));
            }
            unwraps = unwrap && objects.right(Purpose::Unwrap, &id)?.is_some();
        }
        Ok(HsmAnswer::BackupKeysKept { present, destroyed, unwrap: unwraps })
    }

    /// A session for one order, beside the one that holds the login. What a call that failed
    /// left begun, which would refuse every later one as `CKR_OPERATION_ACTIVE`, ends with it,
    /// and so do the objects of the session.
    pub(super) fn own_session(&self, session: &mut Kept, function: Function) -> Result<Session, HsmFailure> {
        let (_, state) = self.open(session)?;
        needs_user(state, function)?;
        let place = self.place()?;
        let own = self.module.call(|module| module.open_rw_session(place));
        own.map_err(|error| failure(&error, Function::OpenSession))
    }
}

/// Where keys are made and tried.
pub(super) struct Bench<'a> {
    module: &'a Module,
    open: &'a Session,
    importer: Importer<'a>,
}

impl<'a> Bench<'a> {
    pub(super) fn new(module: &'a Module, open: &'a Session) -> Self {
        Bench { module, open, importer: Importer::new(module, open) }
    }

    /// Makes a key with these attributes and bytes, as a key of the session for a test.
    pub(super) fn import(&mut self, attributes: Vec<Attribute>, bytes: &[u8]) -> Result<ObjectHandle, HsmFailure> {
        self.importer.import(attributes, bytes)
    }

    /// Leaves nothing behind that was made for the time of one order.
    pub(super) fn finish(&mut self) {
        self.importer.finish();
    }

    /// Sees to it that exactly one key of this purpose and id is there, and that it is right.
    pub(super) fn put(&mut self, purpose: Purpose, id: &[u8], bytes: &[u8]) -> Result<(), HsmFailure> {
        let objects = Objects { module: self.module, open: self.open };
        let named = [Attribute::Label(purpose.label().into()), Attribute::Id(id.to_vec())];
        let mut is_there = false;
        for object in objects.find(&named)? {
            if !is_there && objects.is_as(object, purpose, id)? && self.does_as_software(purpose, object, bytes)? {
                is_there = true;
            } else {
                objects.destroy(object)?;
            }
        }
        if is_there {
            return Ok(());
        }
        let made = self.importer.import(attributes(purpose, id), bytes)?;
        let checked = match objects.is_as(made, purpose, id) {
            Ok(true) => match self.does_as_software(purpose, made, bytes) {
                Ok(true) => return Ok(()),
                Ok(false) => Err(does_something_else(purpose.function())),
                Err(failed) => Err(failed),
            },
            Ok(false) => Err(does_something_else(Function::GetAttributeValue)),
            Err(failed) => Err(failed),
        };
        // The first failure says more; what stays for want of an answer is judged by the next order.
        let _ = objects.destroy(made);
        checked
    }

    /// Makes such a key as an object of the session, which ends with it, and checks it in the same way.
    pub(super) fn put_for_session(
        &mut self,
        purpose: Purpose,
        id: &[u8],
        bytes: &[u8],
    ) -> Result<ObjectHandle, HsmFailure> {
        let wanted = attributes(purpose, id).into_iter().map(|attribute| match attribute {
            Attribute::Token(_) => Attribute::Token(false),
            other => other,
        });
        let made = self.importer.import(wanted.collect(), bytes)?;
        if self.does_as_software(purpose, made, bytes)? {
            Ok(made)
        } else {
            Err(does_something_else(purpose.function()))
        }
    }

    /// Whether the key in the token gives what software gives with these bytes.
    fn does_as_software(&mut self, purpose: Purpose, object: ObjectHandle, bytes: &[u8]) -> Result<bool, HsmFailure> {
        match purpose {
            Purpose::Wrap => self.wraps_as_software(object, bytes),
            Purpose::Authenticate => {
                let mac = self.module.call(|_| self.open.sign(&Mechanism::Sha256Hmac, object, MAK_CHECK));
                let mac = mac.map_err(|error| failure(&error, Function::Sign))?;
                Ok(mac == mac_by_software(bytes)?)
            }
            Purpose::Unwrap => {
                let wrapped = wrapped_by_software(bytes)?;
                key_wrap::unwraps(self.module, self.open, object, &wrapped, &mac_by_software(&KNOWN_KEY)?)
            }
        }
    }

    fn wraps_as_software(&mut self, object: ObjectHandle, kek: &[u8]) -> Result<bool, HsmFailure> {
        let expected = wrapped_by_software(kek)?;
        let known = self.importer.import(known_key(), &KNOWN_KEY)?;
        let wraps = key_wrap::wraps_to(self.module, self.open, object, known, &expected);
        let destroyed = Objects { module: self.module, open: self.open }.destroy(known);
        wraps.and_then(|wraps| destroyed.map(|()| wraps))
    }
}

impl Purpose {
    /// The function that shows whether a key of this purpose is right.
    const fn function(self) -> Function {
        match self {
            Purpose::Wrap => Function::WrapKey,
            Purpose::Authenticate => Function::Sign,
            Purpose::Unwrap => Function::UnwrapKey,
        }
    }
}

/// The objects of the token that this session sees.
pub(super) struct Objects<'a> {
    pub(super) module: &'a Module,
    pub(super) open: &'a Session,
}

impl Objects<'_> {
    /// The secret keys with these attributes.
    pub(super) fn find(&self, with: &[Attribute]) -> Result<Vec<ObjectHandle>, HsmFailure> {
        let template: Vec<Attribute> =
            [Attribute::Class(ObjectClass::SECRET_KEY)].into_iter().chain(with.iter().cloned()).collect();
        let found = self.module.call(|_| self.open.find_objects(&template));
        found.map_err(|error| failure(&error, Function::FindObjects))
    }

    pub(super) fn destroy(&self, object: ObjectHandle) -> Result<(), HsmFailure> {
        let destroyed = self.module.call(|_| self.open.destroy_object(object));
        destroyed.map_err(|error| failure(&error, Function::DestroyObject))
    }

    /// Its `CKA_ID`.
    pub(super) fn id(&self, object: ObjectHandle) -> Result<Vec<u8>, HsmFailure> {
        match self.read(object, &[AttributeType::Id])?.pop() {
            Some(Attribute::Id(id)) => Ok(id),
            // An object of our label without an id that can be read is nobody's to destroy.
            Some(_) | None => Err(does_something_else(Function::GetAttributeValue)),
        }
    }

    /// The key of this purpose and id, if it is there with every attribute as it has to be.
    pub(super) fn right(&self, purpose: Purpose, id: &[u8]) -> Result<Option<ObjectHandle>, HsmFailure> {
        for object in self.find(&[Attribute::Label(purpose.label().into()), Attribute::Id(id.to_vec())])? {
            if self.is_as(object, purpose, id)? {
                return Ok(Some(object));
            }
        }
        Ok(None)
    }

    /// Whether every attribute of an object is what it has to be, and its value stays inside.
    pub(super) fn is_as(&self, object: ObjectHandle, purpose: Purpose, id: &[u8]) -> Result<bool, HsmFailure> {
        let wanted = attributes(purpose, id);
        let types: Vec<AttributeType> = wanted.iter().map(Attribute::attribute_type).collect();
        // cryptoki leaves out what a module does not know, and takes an untouched buffer for an
        // answer: so each attribute is asked for first.
        let info = self.info(object, &types)?;
        if !info.iter().all(|info| matches!(info, AttributeInfo::Available(_))) {
            return Ok(false);
        }
        let value = self.info(object, &[AttributeType::Value])?;
        if value.iter().any(|info| matches!(info, AttributeInfo::Available(_))) {
            return Ok(false);
        }
        let trusted = self.info(object, &[AttributeType::Trusted])?;
        let may_be_trusted = trusted.iter().any(|info| matches!(info, AttributeInfo::Available(_)));
        if may_be_trusted && self.read(object, &[AttributeType::Trusted])? != [Attribute::Trusted(false)] {
            return Ok(false);
        }
        Ok(self.read(object, &types)? == wanted)
    }

    fn info(&self, object: ObjectHandle, types: &[AttributeType]) -> Result<Vec<AttributeInfo>, HsmFailure> {
        let info = self.module.call(|_| self.open.get_attribute_info(object, types));
        info.map_err(|error| failure(&error, Function::GetAttributeValue))
    }

    fn read(&self, object: ObjectHandle, types: &[AttributeType]) -> Result<Vec<Attribute>, HsmFailure> {
        let read = self.module.call(|_| self.open.get_attributes(object, types));
        read.map_err(|error| failure(&error, Function::GetAttributeValue))
    }
}

/// A template whose value is wiped when it is dropped: cryptoki keeps it in a plain `Vec`.
struct Template(Vec<Attribute>);

impl Template {
    /// These attributes with a value, which stands before `CKA_MODIFIABLE`.
    fn with_value(mut attributes: Vec<Attribute>, bytes: &[u8]) -> Self {
        attributes.insert(0, Attribute::Value(bytes.to_vec()));
        Template(attributes)
    }
}

impl Drop for Template {
    fn drop(&mut self) {
        for attribute in &mut self.0 {
            if let Attribute::Value(bytes) = attribute {
                bytes.zeroize();
            }
        }
    }
}

/// The secret at `index` as the bytes of a key.
pub(super) fn key(call: &Call, index: usize) -> Result<&[u8], HsmFailure> {
    let invalid = HsmFailure::Pkcs11 { code: rv::ARGUMENTS_BAD, function: Function::CreateObject };
    let secret = call.secrets.get(index).ok_or(invalid)?;
    if secret.len() == KEY_BYTES { Ok(secret) } else { Err(invalid) }
}

/// Private keys are made and seen by a user who is logged in for writing.
fn needs_user(state: SessionState, function: Function) -> Result<(), HsmFailure> {
    match state {
        SessionState::RwUser => Ok(()),
        SessionState::RoUser => Err(HsmFailure::Pkcs11 { code: rv::SESSION_READ_ONLY, function }),
        SessionState::RoPublic | SessionState::RwPublic | SessionState::RwSecurityOfficer => {
            Err(HsmFailure::Pkcs11 { code: rv::USER_NOT_LOGGED_IN, function })
        }
    }
}

/// The token did what it was asked, and it is not what was asked for.
pub(super) fn does_something_else(function: Function) -> HsmFailure {
    HsmFailure::Pkcs11 { code: code::FUNCTION_FAILED, function }
}

fn wrapped_by_software(kek: &[u8]) -> Result<[u8; WRAPPED_BYTES], HsmFailure> {
    let unlikely = || does_something_else(Function::WrapKey);
    let mut wrapped = [0; WRAPPED_BYTES];
    let kwp = KwpAes256::new_from_slice(kek).map_err(|_| unlikely())?;
    kwp.wrap_key(&KNOWN_KEY, &mut wrapped).map_err(|_| unlikely())?;
    Ok(wrapped)
}

fn mac_by_software(mak: &[u8]) -> Result<Vec<u8>, HsmFailure> {
    let mac = Hmac::<Sha256>::new_from_slice(mak).map_err(|_| does_something_else(Function::Sign))?;
    Ok(mac.chain_update(MAK_CHECK).finalize().into_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backup_keys_are_made_in_a_users_session_only() {
        let refused = |code| Err(HsmFailure::Pkcs11 { code, function: Function::CreateObject });
        let judged = |state| needs_user(state, Function::CreateObject);
        assert_eq!(judged(SessionState::RwSecurityOfficer), refused(rv::USER_NOT_LOGGED_IN));
        assert_eq!(judged(SessionState::RoPublic), refused(rv::USER_NOT_LOGGED_IN));
        assert_eq!(judged(SessionState::RwPublic), refused(rv::USER_NOT_LOGGED_IN));
        assert_eq!(judged(SessionState::RoUser), refused(rv::SESSION_READ_ONLY));
        assert_eq!(judged(SessionState::RwUser), Ok(()));
    }

    #[test]
    fn p17_no_template_has_two_purposes() {
        for purpose in Purpose::ALL {
            let template = attributes(purpose, &[7; 32]);
            let has = |attribute| template.contains(&attribute);
            assert!(has(Attribute::Encrypt(false)) && has(Attribute::Decrypt(false)) && has(Attribute::Derive(false)));
            assert!(has(Attribute::Private(true)) && has(Attribute::Sensitive(true)));
            assert!(has(Attribute::Extractable(false)) && has(Attribute::Copyable(false)));
            let uses = [Attribute::Wrap(true), Attribute::Unwrap(true), Attribute::Sign(true)];
            assert_eq!(uses.into_iter().filter(|one| has(one.clone())).count(), 1, "{purpose:?}");
            assert_eq!(has(Attribute::Sign(true)), has(Attribute::Verify(true)));
            assert_eq!(template.last(), Some(&Attribute::Modifiable(false)), "SoftHSM takes nothing after it");
        }
    }

    #[test]
    fn software_agrees_with_the_vector_of_rfc_5649() {
        // RFC 5649, section 6: 20 bytes under a key of 192 bits. Ours has 256; this shows the crate's algorithm.
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal"))
                .collect()
        };
        let kek = hex("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8");
        let key = hex("c37b7e6492584340bed12207808941155068f738");
        let mut wrapped = [0; 32];
        let kwp = aes_kw::KwpAes192::new_from_slice(&kek).expect("24 bytes");
        kwp.wrap_key(&key, &mut wrapped).expect("20 bytes");
        assert_eq!(wrapped.to_vec(), hex("138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a"));
    }
}
