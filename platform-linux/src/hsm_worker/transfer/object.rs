//! One object as an export describes it: its names, what is set again, what is recorded.
//!
//! All attributes are asked for by one call into buffers that stay. What a module does not know
//! it leaves out, and the others are there all the same (PKCS#11 v3.1, section 5.7.5).

use cryptoki_sys::{
    CK_ATTRIBUTE_TYPE, CK_OBJECT_CLASS, CK_OBJECT_HANDLE, CK_ULONG, CKA_ALLOWED_MECHANISMS, CKA_ALWAYS_AUTHENTICATE,
    CKA_ALWAYS_SENSITIVE, CKA_BASE, CKA_CERTIFICATE_CATEGORY, CKA_CERTIFICATE_TYPE, CKA_CHECK_VALUE, CKA_CLASS,
    CKA_COPYABLE, CKA_DECRYPT, CKA_DERIVE, CKA_DESTROYABLE, CKA_EC_PARAMS, CKA_EC_POINT, CKA_ENCRYPT, CKA_END_DATE,
    CKA_EXTRACTABLE, CKA_ID, CKA_ISSUER, CKA_KEY_GEN_MECHANISM, CKA_KEY_TYPE, CKA_LABEL, CKA_LOCAL, CKA_MODIFIABLE,
    CKA_MODULUS, CKA_NEVER_EXTRACTABLE, CKA_PARAMETER_SET, CKA_PRIME, CKA_PRIVATE, CKA_PUBLIC_EXPONENT,
    CKA_PUBLIC_KEY_INFO, CKA_SENSITIVE, CKA_SERIAL_NUMBER, CKA_SIGN, CKA_SIGN_RECOVER, CKA_START_DATE, CKA_SUBJECT,
    CKA_SUBPRIME, CKA_UNWRAP, CKA_UNWRAP_TEMPLATE, CKA_VALUE, CKA_VALUE_LEN, CKA_VERIFY, CKA_VERIFY_RECOVER, CKA_WRAP,
    CKA_WRAP_TEMPLATE, CKA_WRAP_WITH_TRUSTED, CKC_X_509, CKO_CERTIFICATE, CKO_PRIVATE_KEY, CKO_PUBLIC_KEY,
    CKO_SECRET_KEY,
};
use slotwarden_core::export::Class;
use slotwarden_core::fault::HsmFailure;

use super::calls::{Calls, Place, Said};

/// What an export does with an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Names the object or says what it is.
    Name,
    /// Is set again.
    Set,
    /// Is compared or kept for people.
    Recorded,
    /// Forbids that the key leaves: an array of attributes, of which an export knows nothing.
    Forbids,
}

/// How a value is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Flag,
    Number,
    Numbers,
    Bytes,
}

type Row = (CK_ATTRIBUTE_TYPE, Use);

/// In rising order of their numbers, as a file has them.
const SECRET: &[Row] = &[
    (CKA_PRIVATE, Use::Set),
    (CKA_LABEL, Use::Name),
    (CKA_CHECK_VALUE, Use::Recorded),
    (CKA_KEY_TYPE, Use::Name),
    (CKA_ID, Use::Name),
    (CKA_SENSITIVE, Use::Set),
    (CKA_ENCRYPT, Use::Set),
    (CKA_DECRYPT, Use::Set),
    (CKA_WRAP, Use::Set),
    (CKA_UNWRAP, Use::Set),
    (CKA_SIGN, Use::Set),
    (CKA_VERIFY, Use::Set),
    (CKA_DERIVE, Use::Set),
    (CKA_START_DATE, Use::Set),
    (CKA_END_DATE, Use::Set),
    (CKA_VALUE_LEN, Use::Recorded),
    (CKA_EXTRACTABLE, Use::Set),
    (CKA_LOCAL, Use::Recorded),
    (CKA_NEVER_EXTRACTABLE, Use::Recorded),
    (CKA_ALWAYS_SENSITIVE, Use::Recorded),
    (CKA_KEY_GEN_MECHANISM, Use::Recorded),
    (CKA_MODIFIABLE, Use::Set),
    (CKA_COPYABLE, Use::Set),
    (CKA_DESTROYABLE, Use::Set),
    (CKA_WRAP_WITH_TRUSTED, Use::Set),
    (CKA_WRAP_TEMPLATE, Use::Forbids),
    (CKA_UNWRAP_TEMPLATE, Use::Forbids),
    (CKA_ALLOWED_MECHANISMS, Use::Set),
];
const PRIVATE: &[Row] = &[
    (CKA_PRIVATE, Use::Set),
    (CKA_LABEL, Use::Name),
    (CKA_KEY_TYPE, Use::Name),
    (CKA_SUBJECT, Use::Set),
    (CKA_ID, Use::Name),
    (CKA_SENSITIVE, Use::Set),
    (CKA_DECRYPT, Use::Set),
    (CKA_UNWRAP, Use::Set),
    (CKA_SIGN, Use::Set),
    (CKA_SIGN_RECOVER, Use::Set),
    (CKA_DERIVE, Use::Set),
    (CKA_START_DATE, Use::Set),
    (CKA_END_DATE, Use::Set),
    (CKA_MODULUS, Use::Recorded),
    (CKA_PUBLIC_EXPONENT, Use::Recorded),
    (CKA_PUBLIC_KEY_INFO, Use::Recorded),
    (CKA_EXTRACTABLE, Use::Set),
    (CKA_LOCAL, Use::Recorded),
    (CKA_NEVER_EXTRACTABLE, Use::Recorded),
    (CKA_ALWAYS_SENSITIVE, Use::Recorded),
    (CKA_KEY_GEN_MECHANISM, Use::Recorded),
    (CKA_MODIFIABLE, Use::Set),
    (CKA_COPYABLE, Use::Set),
    (CKA_DESTROYABLE, Use::Set),
    (CKA_EC_PARAMS, Use::Recorded),
    (CKA_ALWAYS_AUTHENTICATE, Use::Set),
    (CKA_WRAP_WITH_TRUSTED, Use::Set),
    (CKA_UNWRAP_TEMPLATE, Use::Forbids),
    (CKA_ALLOWED_MECHANISMS, Use::Set),
];
const PUBLIC: &[Row] = &[
    (CKA_PRIVATE, Use::Set),
    (CKA_LABEL, Use::Name),
    (CKA_VALUE, Use::Set),
    (CKA_KEY_TYPE, Use::Name),
    (CKA_SUBJECT, Use::Set),
    (CKA_ID, Use::Name),
    (CKA_ENCRYPT, Use::Set),
    (CKA_WRAP, Use::Set),
    (CKA_VERIFY, Use::Set),
    (CKA_VERIFY_RECOVER, Use::Set),
    (CKA_DERIVE, Use::Set),
    (CKA_START_DATE, Use::Set),
    (CKA_END_DATE, Use::Set),
    (CKA_MODULUS, Use::Set),
    (CKA_PUBLIC_EXPONENT, Use::Set),
    (CKA_PRIME, Use::Set),
    (CKA_SUBPRIME, Use::Set),
    (CKA_BASE, Use::Set),
    (CKA_LOCAL, Use::Recorded),
    (CKA_KEY_GEN_MECHANISM, Use::Recorded),
    (CKA_MODIFIABLE, Use::Set),
    (CKA_COPYABLE, Use::Set),
    (CKA_DESTROYABLE, Use::Set),
    (CKA_EC_PARAMS, Use::Set),
    (CKA_EC_POINT, Use::Set),
    (CKA_PARAMETER_SET, Use::Set),
];
const CERTIFICATE: &[Row] = &[
    (CKA_PRIVATE, Use::Set),
    (CKA_LABEL, Use::Name),
    (CKA_VALUE, Use::Set),
    (CKA_CERTIFICATE_TYPE, Use::Set),
    (CKA_ISSUER, Use::Set),
    (CKA_SERIAL_NUMBER, Use::Set),
    (CKA_CERTIFICATE_CATEGORY, Use::Set),
    (CKA_SUBJECT, Use::Set),
    (CKA_ID, Use::Name),
    (CKA_START_DATE, Use::Set),
    (CKA_END_DATE, Use::Set),
    (CKA_MODIFIABLE, Use::Set),
    (CKA_COPYABLE, Use::Set),
    (CKA_DESTROYABLE, Use::Set),
];

/// What tells one value from another, where a module says it.
const IDENTIFYING: [CK_ATTRIBUTE_TYPE; 12] = [
    CKA_VALUE,
    CKA_CHECK_VALUE,
    CKA_MODULUS,
    CKA_PUBLIC_EXPONENT,
    CKA_PUBLIC_KEY_INFO,
    CKA_PRIME,
    CKA_SUBPRIME,
    CKA_BASE,
    CKA_VALUE_LEN,
    CKA_EC_PARAMS,
    CKA_EC_POINT,
    CKA_PARAMETER_SET,
];

/// Odd, so that no value fills it (see [`Said::Nothing`]).
const ROOM_OF_A_NUMBER: usize = size_of::<CK_ULONG>() + 7;
const ROOM_OF_A_FLAG: usize = 3;

/// How a value of this attribute is written.
fn form(kind: CK_ATTRIBUTE_TYPE) -> Form {
    match kind {
        CKA_PRIVATE
        | CKA_SENSITIVE
        | CKA_ENCRYPT
        | CKA_DECRYPT
        | CKA_WRAP
        | CKA_UNWRAP
        | CKA_SIGN
        | CKA_SIGN_RECOVER
        | CKA_VERIFY
        | CKA_VERIFY_RECOVER
        | CKA_DERIVE
        | CKA_EXTRACTABLE
        | CKA_LOCAL
        | CKA_NEVER_EXTRACTABLE
        | CKA_ALWAYS_SENSITIVE
        | CKA_MODIFIABLE
        | CKA_COPYABLE
        | CKA_DESTROYABLE
        | CKA_ALWAYS_AUTHENTICATE
        | CKA_WRAP_WITH_TRUSTED => Form::Flag,
        CKA_CLASS
        | CKA_KEY_TYPE
        | CKA_VALUE_LEN
        | CKA_KEY_GEN_MECHANISM
        | CKA_CERTIFICATE_TYPE
        | CKA_CERTIFICATE_CATEGORY
        | CKA_PARAMETER_SET => Form::Number,
        CKA_ALLOWED_MECHANISMS => Form::Numbers,
        _ => Form::Bytes,
    }
}

/// The module's number of a class.
pub(super) fn class_number(class: Class) -> CK_OBJECT_CLASS {
    match class {
        Class::Secret => CKO_SECRET_KEY,
        Class::Private => CKO_PRIVATE_KEY,
        Class::Public => CKO_PUBLIC_KEY,
        Class::Certificate => CKO_CERTIFICATE,
    }
}

fn rows(class: Class) -> &'static [Row] {
    match class {
        Class::Secret => SECRET,
        Class::Private => PRIVATE,
        Class::Public => PUBLIC,
        Class::Certificate => CERTIFICATE,
    }
}

/// What is asked of an object before its class is known. `CKA_VALUE` is last, by itself, and asked
/// of public objects only: that of a key that is not sensitive would be the key itself.
fn asked() -> Vec<CK_ATTRIBUTE_TYPE> {
    let mut kinds: Vec<CK_ATTRIBUTE_TYPE> =
        [SECRET, PRIVATE, PUBLIC, CERTIFICATE].concat().into_iter().map(|(kind, _)| kind).collect();
    kinds.push(CKA_CLASS);
    kinds.sort_unstable();
    kinds.dedup();
    kinds.retain(|kind| *kind != CKA_VALUE);
    kinds.push(CKA_VALUE);
    kinds
}

/// The attributes of one object, in buffers that are used again for the next one.
///
/// The class is one of them: a search for each class would have SoftHSM look at every object of the
/// token as often, which costs nearly as much as to wrap it.
pub(super) struct Sheet {
    kinds: Vec<CK_ATTRIBUTE_TYPE>,
    rooms: Vec<Vec<u8>>,
    said: Vec<Said>,
    class: Option<Class>,
    is_too_long: bool,
}

impl Sheet {
    pub(super) fn new() -> Self {
        let room = |kind: &CK_ATTRIBUTE_TYPE| match form(*kind) {
            _ if is_template(*kind) => Vec::new(),
            Form::Flag => vec![0; ROOM_OF_A_FLAG],
            Form::Number => vec![0; ROOM_OF_A_NUMBER],
            Form::Numbers | Form::Bytes => vec![0; OBJECT_BYTES_MAX],
        };
        let kinds = asked();
        Sheet { rooms: kinds.iter().map(room).collect(), kinds, said: Vec::new(), class: None, is_too_long: false }
    }

    /// `None` for what no export holds.
    pub(super) fn class(&self) -> Option<Class> {
        self.class
    }

    /// Whether a value is longer than any entry, or a public object does not say what it is. Where a module has no
    /// attribute of a name it says the same as of one that is too long for a buffer, so it is asked again for what
    /// names an object, and for all that a certificate has.
    pub(super) fn is_too_long(&self) -> bool {
        self.is_too_long
    }

    /// Reads an object: one call for a key. Another one for the value of a public object, and where a module
    /// stopped on the way or does not have what every object has.
    pub(super) fn read(&mut self, calls: &Calls<'_>, object: CK_OBJECT_HANDLE) -> Result<(), HsmFailure> {
        let before_value = self.kinds.len().saturating_sub(1);
        self.class = None;
        self.said.clear();
        self.said.resize(self.kinds.len(), Said::Unavailable);
        self.ask(calls, object, (0, before_value))?;
        self.class = match self.number(CKA_CLASS) {
            Some(CKO_SECRET_KEY) => Some(Class::Secret),
            Some(CKO_PRIVATE_KEY) => Some(Class::Private),
            Some(CKO_PUBLIC_KEY) => Some(Class::Public),
            Some(CKO_CERTIFICATE) if self.number(CKA_CERTIFICATE_TYPE) == Some(CKC_X_509) => Some(Class::Certificate),
            Some(_) | None => None,
        };
        if matches!(self.class, Some(Class::Public | Class::Certificate)) {
            self.ask(calls, object, (before_value, self.kinds.len()))?;
        }
        let says = |kinds: &[CK_ATTRIBUTE_TYPE]| kinds.iter().any(|kind| self.value(*kind).is_some());
        let says_what_it_is = match self.class {
            Some(Class::Public) => says(&[CKA_VALUE, CKA_MODULUS, CKA_EC_POINT]),
            Some(Class::Certificate) => says(&[CKA_VALUE]),
            Some(Class::Secret | Class::Private) | None => true,
        };
        self.is_too_long = !says_what_it_is || self.has_longer(calls, object)?;
        Ok(())
    }

    /// Whether what the module did not give is there, and longer than its room.
    fn has_longer(&self, calls: &Calls<'_>, object: CK_OBJECT_HANDLE) -> Result<bool, HsmFailure> {
        let Some(class) = self.class else { return Ok(false) };
        let is_asked = |kind: CK_ATTRIBUTE_TYPE| match class {
            Class::Certificate => form(kind) == Form::Bytes && rows(class).iter().any(|(row, _)| *row == kind),
            Class::Secret | Class::Private | Class::Public => matches!(kind, CKA_LABEL | CKA_ID),
        };
        let missing =
            self.kinds.iter().zip(&self.said).filter(|(kind, said)| **said == Said::Unavailable && is_asked(**kind));
        let mut places: Vec<Place<'_>> = missing.map(|(kind, _)| Place { kind: *kind, room: &mut [] }).collect();
        if places.is_empty() {
            return Ok(false);
        }
        let mut said = Vec::with_capacity(places.len());
        calls.attributes(object, &mut places, &mut said)?;
        Ok(said.iter().any(|said| matches!(said, Said::Length(1..))))
    }

    fn ask(
        &mut self,
        calls: &Calls<'_>,
        object: CK_OBJECT_HANDLE,
        (from, to): (usize, usize),
    ) -> Result<(), HsmFailure> {
        let mut said = Vec::with_capacity(to.saturating_sub(from));
        let rooms = self.rooms[from..to].iter_mut();
        let mut places: Vec<Place<'_>> =
            self.kinds[from..to].iter().zip(rooms).map(|(kind, room)| Place { kind: *kind, room }).collect();
        calls.attributes(object, &mut places, &mut said)?;
        for (at, told) in (from..to).zip(said) {
            self.said[at] = told;
            if told == Said::Nothing {
                let mut one = Vec::new();
                let mut place = [Place { kind: self.kinds[at], room: &mut self.rooms[at] }];
                calls.attributes(object, &mut place, &mut one)?;
                let told = one.first().copied().unwrap_or(Said::Unavailable);
                self.said[at] = if told == Said::Nothing { Said::Unavailable } else { told };
            }
        }
        Ok(())
    }

    /// The value as the module gave it; `None` where it has none or an empty one.
    pub(super) fn value(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<&[u8]> {
        let at = self.kinds.iter().position(|asked| *asked == kind)?;
        match self.said.get(at)? {
            Said::Length(length) => self.rooms.get(at)?.get(..*length).filter(|value| !value.is_empty()),
            Said::Unavailable | Said::Nothing => None,
        }
    }

    /// The value as a file has it.
    pub(super) fn for_file(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        push(&mut bytes, kind, self.value(kind)?);
        bytes.get(HEAD_BYTES..).map(<[u8]>::to_vec)
    }

    pub(super) fn flag(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<bool> {
        self.value(kind).and_then(<[u8]>::first).map(|byte| *byte != 0)
    }

    pub(super) fn number(&self, kind: CK_ATTRIBUTE_TYPE) -> Option<u64> {
        let bytes = self.value(kind)?.try_into().ok()?;
        Some(CK_ULONG::from_ne_bytes(bytes))
    }

    pub(super) fn id(&self) -> &[u8] {
        self.value(CKA_ID).unwrap_or_default()
    }

    pub(super) fn label(&self) -> &[u8] {
        self.value(CKA_LABEL).unwrap_or_default()
    }

    /// `CKK_*`; all ones for certificates.
    pub(super) fn key_type(&self) -> u64 {
        self.number(CKA_KEY_TYPE).unwrap_or(u64::MAX)
    }

    /// Whether the key has an array of attributes that an export cannot carry.
    pub(super) fn has_template(&self) -> bool {
        let has = |said: &Said| matches!(said, Said::Length(length) if *length > 0);
        self.kinds.iter().zip(&self.said).any(|(kind, said)| is_template(*kind) && has(said))
    }

    /// The attributes that are set again, as a file has them.
    pub(super) fn set(&self, into: &mut Vec<u8>) {
        self.write(Use::Set, into);
    }

    /// The attributes that are recorded, as a file has them.
    pub(super) fn recorded(&self, into: &mut Vec<u8>) {
        self.write(Use::Recorded, into);
    }

    fn write(&self, what: Use, into: &mut Vec<u8>) {
        into.clear();
        for (kind, row) in self.class.map(rows).unwrap_or_default() {
            if *row == what
                && let Some(value) = self.value(*kind)
            {
                push(into, *kind, value);
            }
        }
    }
}

/// An array of attributes: only its length is asked for.
fn is_template(kind: CK_ATTRIBUTE_TYPE) -> bool {
    matches!(kind, CKA_WRAP_TEMPLATE | CKA_UNWRAP_TEMPLATE)
}

/// {type u32, length u16} before each value.
const HEAD_BYTES: usize = 6;
/// Longest value that is asked for: no entry holds more.
const OBJECT_BYTES_MAX: usize = 8193;

fn push(into: &mut Vec<u8>, kind: CK_ATTRIBUTE_TYPE, value: &[u8]) {
    let Ok(number) = u32::try_from(kind) else { return };
    let mut add = |bytes: &mut dyn Iterator<Item = u8>, length: usize| {
        into.extend_from_slice(&number.to_be_bytes());
        into.extend_from_slice(&u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        into.extend(bytes);
    };
    match form(kind) {
        Form::Flag => add(&mut std::iter::once(u8::from(value.first().is_some_and(|byte| *byte != 0))), 1),
        Form::Bytes => add(&mut value.iter().copied(), value.len()),
        Form::Number | Form::Numbers => {
            let numbers = value.as_chunks::<{ size_of::<CK_ULONG>() }>().0;
            add(&mut numbers.iter().flat_map(|number| CK_ULONG::from_ne_bytes(*number).to_be_bytes()), value.len());
        }
    }
}

/// The value of an attribute of a file as a module takes it; `None` for one that has another form.
pub(super) fn for_module(kind: u32, value: &[u8]) -> Option<Vec<u8>> {
    match form(CK_ATTRIBUTE_TYPE::from(kind)) {
        Form::Flag => (value.len() == 1).then(|| vec![u8::from(value[0] != 0)]),
        Form::Bytes => Some(value.to_vec()),
        Form::Number | Form::Numbers => {
            let (numbers, rest) = value.as_chunks::<{ size_of::<CK_ULONG>() }>();
            let native = || numbers.iter().flat_map(|number| CK_ULONG::from_be_bytes(*number).to_ne_bytes()).collect();
            rest.is_empty().then(native)
        }
    }
}

/// Whether an export sets this attribute again for objects of this class.
pub(super) fn is_set_again(class: Class, kind: u32) -> bool {
    rows(class).contains(&(CK_ATTRIBUTE_TYPE::from(kind), Use::Set))
}

/// Whether the attribute tells one value from another.
pub(super) fn identifies(kind: CK_ATTRIBUTE_TYPE) -> bool {
    IDENTIFYING.contains(&kind)
}

/// What a module may leave out without the object being weaker than it was: a use it does not
/// have, a restriction that was not there.
pub(super) fn is_harmless(kind: CK_ATTRIBUTE_TYPE, value: &[u8]) -> bool {
    let is_on = value.first().is_some_and(|byte| *byte != 0);
    match kind {
        CKA_MODIFIABLE | CKA_COPYABLE | CKA_DESTROYABLE => is_on,
        CKA_CERTIFICATE_CATEGORY => value.iter().all(|byte| *byte == 0),
        _ => form(kind) == Form::Flag && !is_on,
    }
}
