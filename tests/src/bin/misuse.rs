//! What a user with the token PIN can make of a slot's backup keys with PKCS#11 alone: every
//! use that they must not have is tried. Nothing of Slotwarden is linked in.
//!
//! `misuse MODULE LABEL PIN` prints what the token shows (`public COUNT` before the login;
//! `object LABEL wrap=… unwrap=…` after it), then one line a try: `refused NAME CODE` or
//! `allowed NAME`. With `show` behind it nothing is tried. With `make ID` it makes keys that
//! must not be taken for W and MAK: ID (hexadecimal) with the right labels and other
//! attributes or bytes.

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::Error;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [module, label, pin, rest @ ..] = arguments.as_slice() else {
        return Err("usage: misuse MODULE LABEL PIN [show | make ID]".into());
    };
    let context = Pkcs11::new(module)?;
    context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    let named = |slot: &_| context.get_token_info(*slot).is_ok_and(|info| info.label().trim_end() == label);
    let slot = context.get_slots_with_token()?.into_iter().find(named).ok_or("no such token")?;
    let session = context.open_rw_session(slot)?;
    println!("public {}", session.find_objects(&[])?.len());
    session.login(UserType::User, Some(&AuthPin::new(pin.as_str().into())))?;
    match rest {
        [] => {
            show(&session)?;
            misuse(&session)
        }
        [verb] if verb == "show" => show(&session),
        [verb, id] if verb == "make" => make_false_ones(&session, &bytes_of(id)?),
        _ => Err("usage: misuse MODULE LABEL PIN [show | make ID]".into()),
    }
}

fn show(session: &Session) -> Result<(), Failed> {
    // Kryoptic lists what it can do as objects as well.
    for object in session.find_objects(&[Attribute::Class(ObjectClass::SECRET_KEY)])? {
        let types = [AttributeType::Label, AttributeType::Wrap, AttributeType::Unwrap];
        let (mut label, mut wrap, mut unwrap) = (String::new(), false, false);
        for attribute in session.get_attributes(object, &types)? {
            match attribute {
                Attribute::Label(text) => label = String::from_utf8(text)?,
                Attribute::Wrap(may) => wrap = may,
                Attribute::Unwrap(may) => unwrap = may,
                _ => {}
            }
        }
        println!("object {label} wrap={wrap} unwrap={unwrap}");
    }
    Ok(())
}

fn one(session: &Session, label: &str) -> Result<ObjectHandle, Failed> {
    let found = session.find_objects(&[Attribute::Label(label.into())])?;
    match found.as_slice() {
        [object] => Ok(*object),
        other => Err(format!("{} objects are labelled {label}", other.len()).into()),
    }
}

fn told<T>(name: &str, tried: Result<T, Error>) {
    match tried {
        Ok(_) => println!("allowed {name}"),
        Err(Error::Pkcs11(reason, _)) => println!("refused {name}: {reason:?}"),
        Err(error) => println!("refused {name}: {error:?}"),
    }
}

/// A key of the user's own, in this session only.
fn own(session: &Session, key_type: KeyType, more: &[Attribute]) -> Result<ObjectHandle, Error> {
    let mut template = vec![
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(key_type),
        Attribute::Token(false),
        Attribute::Value(vec![7; 32]),
    ];
    template.extend_from_slice(more);
    session.create_object(&template)
}

fn misuse(session: &Session) -> Result<(), Failed> {
    let w = one(session, "slotwarden W")?;
    let mak = one(session, "slotwarden MAK")?;
    let leaves = own(session, KeyType::GENERIC_SECRET, &[Attribute::Extractable(true)])?;
    let wraps = own(session, KeyType::AES, &[Attribute::Wrap(true)])?;
    // A refusal says something only by a mechanism that works with another key.
    let works = |mechanism: &Mechanism| session.wrap_key(mechanism, wraps, leaves).is_ok();
    let pad = [Mechanism::AesKeyWrapPad, Mechanism::AesKeyWrap].into_iter().find(works).ok_or("no key wrap")?;

    told("W wraps", session.wrap_key(&pad, w, leaves));
    let secret = [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::KeyType(KeyType::GENERIC_SECRET)];
    told("W unwraps", session.unwrap_key(&pad, w, &[0x5A; 40], &secret));
    for (name, mechanism) in [("ECB", Mechanism::AesEcb), ("CBC", Mechanism::AesCbc([0; 16]))] {
        told(&format!("W encrypts {name}"), session.encrypt(&mechanism, w, &[0; 32]));
        told(&format!("W decrypts {name}"), session.decrypt(&mechanism, w, &[0; 32]));
    }
    let mut iv = [0; 12];
    told("W encrypts GCM", session.encrypt(&Mechanism::AesGcm(GcmParams::new(&mut iv, &[], 128.into())?), w, b"text"));
    told("W signs", session.sign(&Mechanism::AesCMac, w, b"text"));
    told("MAK signs", session.sign(&Mechanism::Sha256Hmac, mak, b"text"));
    told("MAK wraps", session.wrap_key(&pad, mak, leaves));
    told("MAK unwraps", session.unwrap_key(&pad, mak, &[0x5A; 40], &secret));
    for (name, key) in [("W", w), ("MAK", mak)] {
        told(&format!("{name} is wrapped by another key"), session.wrap_key(&pad, wraps, key));
        told(&format!("{name} is wrapped by W"), session.wrap_key(&pad, w, key));
        told(&format!("{name} is read"), read_value(session, key));
        for (what, attribute) in [
            ("unwraps from now on", Attribute::Unwrap(true)),
            ("decrypts from now on", Attribute::Decrypt(true)),
            ("leaves from now on", Attribute::Extractable(true)),
            ("is no secret from now on", Attribute::Sensitive(false)),
            ("is modifiable from now on", Attribute::Modifiable(true)),
            ("has another name from now on", Attribute::Label(b"other".to_vec())),
        ] {
            told(&format!("{name} {what}"), session.update_attributes(key, &[attribute]));
        }
        for (what, attribute) in [
            ("unwraps", Attribute::Unwrap(true)),
            ("decrypts", Attribute::Decrypt(true)),
            ("leaves", Attribute::Extractable(true)),
            ("is no secret", Attribute::Sensitive(false)),
            ("is public", Attribute::Private(false)),
            ("is modifiable", Attribute::Modifiable(true)),
        ] {
            let copied = session.copy_object(key, &[Attribute::Token(false), attribute]);
            told(&format!("a copy of {name} {what}"), copied);
        }
    }
    let derivation =
        Mechanism::ConcatenateBaseAndData(cryptoki::mechanism::misc::KeyDerivationStringData::new(b"more"));
    told("W derives", session.derive_key(&derivation, w, &secret));
    told("MAK derives", session.derive_key(&derivation, mak, &secret));
    Ok(())
}

fn read_value(session: &Session, key: ObjectHandle) -> Result<(), Error> {
    let read = session.get_attributes(key, &[AttributeType::Value])?;
    if read.is_empty() { Err(Error::NotSupported) } else { Ok(()) }
}

/// A W that unwraps too, a second W of other bytes, and a MAK that is extractable.
fn make_false_ones(session: &Session, id: &[u8]) -> Result<(), Failed> {
    let make = |label: &str, key_type, byte, more: &[Attribute]| {
        let mut template = vec![
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(key_type),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Label(label.into()),
            Attribute::Id(id.to_vec()),
            Attribute::Value(vec![byte; 32]),
        ];
        template.extend_from_slice(more);
        session.create_object(&template)
    };
    make("slotwarden W", KeyType::AES, 1, &[Attribute::Wrap(true), Attribute::Unwrap(true)])?;
    let no_other_use = |wrap, sign| {
        [
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Wrap(wrap),
            Attribute::Unwrap(false),
            Attribute::Encrypt(false),
            Attribute::Decrypt(false),
            Attribute::Sign(sign),
            Attribute::Verify(sign),
            Attribute::Derive(false),
            Attribute::Copyable(false),
            Attribute::Modifiable(false),
        ]
    };
    make("slotwarden W", KeyType::AES, 9, &no_other_use(true, false))?;
    make("slotwarden MAK", KeyType::GENERIC_SECRET, 9, &no_other_use(false, true))?;
    make("slotwarden U", KeyType::AES, 3, &[Attribute::Unwrap(true), Attribute::Wrap(false)])?;
    Ok(())
}

fn bytes_of(hex: &str) -> Result<Vec<u8>, Failed> {
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}
