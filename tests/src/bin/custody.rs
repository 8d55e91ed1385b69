//! An application's keys, made and used with PKCS#11 alone: what an export takes out of a token
//! and a restore brings back. Nothing of Slotwarden is linked in.
//!
//! `custody MODULE LABEL PIN VERB…`:
//! `make` makes an RSA pair (id 01), an EC pair (02), an AES key (03) and a certificate (01), `certificate` that one alone;
//! `locked NAME` makes an AES key that is not extractable, `trusting NAME` one that only a trusted
//! key may wrap, `fixed NAME` one that nobody may modify, `odd NAME` a secret of 36 bytes; `other ID`
//! destroys the AES key of this id and makes another one there; `lose ID` destroys a private key,
//! `lose-secret ID` an AES key; `lasting NAME` makes an AES key that nobody may destroy; `long NAME BYTES` a certificate of
//! so many bytes, whose subject has 2,000 and whose issuer 1,500, `lengths NAME` prints the three;
//! `many COUNT` makes private EC keys, `secrets COUNT` AES keys; `known ID VALUE` makes a secret of these bytes (both in hexadecimal), `value ID`
//! prints one that may be read; `mac NAME` prints what a secret signs; `proof` prints what the
//! keys of `make` sign and encrypt; `check PROOF` verifies and decrypts that, and has the private keys
//! sign for the public ones; `show` prints the objects; `unwrap ID` has W try to unwrap what it wrapped.

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, CertificateType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

type Failed = Box<dyn std::error::Error>;

/// `prime256v1` as a named curve, DER.
const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// A SHA-256 as far as ECDSA knows.
const DIGEST: [u8; 32] = [0x5a; 32];
const TEXT: &[u8; 32] = b"what the original has encrypted.";
const VECTOR: [u8; 16] = [0x17; 16];

fn main() -> Result<(), Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let [module, label, pin, rest @ ..] = words.as_slice() else {
        return Err("usage: custody MODULE LABEL PIN VERB…".into());
    };
    let context = Pkcs11::new(module)?;
    context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    let named = |slot: &_| context.get_token_info(*slot).is_ok_and(|info| info.label().trim_end() == *label);
    let slot = context.get_slots_with_token()?.into_iter().find(named).ok_or("no such token")?;
    let session = context.open_rw_session(slot)?;
    session.login(UserType::User, Some(&AuthPin::new((*pin).into())))?;
    match rest {
        ["make"] => make(&session),
        ["certificate"] => certificate(&session),
        ["locked", name] => {
            let more = [Attribute::Label(name.as_bytes().to_vec()), Attribute::Id(name.as_bytes().to_vec())];
            aes(&session, false, &more).map(drop)
        }
        ["trusting", name] => {
            let more = [
                Attribute::Label(name.as_bytes().to_vec()),
                Attribute::Id(name.as_bytes().to_vec()),
                Attribute::WrapWithTrusted(true),
            ];
            aes(&session, true, &more).map(drop)
        }
        ["fixed", name] => {
            let more = [
                Attribute::Label(name.as_bytes().to_vec()),
                Attribute::Id(name.as_bytes().to_vec()),
                Attribute::Modifiable(false),
            ];
            aes(&session, true, &more).map(drop)
        }
        ["odd", name] => known(&session, name, name.as_bytes(), &[0x33; 36]),
        ["mac", name] => {
            let key = one(&session, ObjectClass::SECRET_KEY, name.as_bytes())?;
            println!("{}", hex(&session.sign(&Mechanism::Sha256Hmac, key, TEXT)?));
            Ok(())
        }
        ["other", id] => {
            let id = vec![id.parse::<u8>()?];
            session.destroy_object(one(&session, ObjectClass::SECRET_KEY, &id)?)?;
            aes(&session, true, &[Attribute::Id(id), Attribute::Label(b"aes".to_vec())]).map(drop)
        }
        ["lose", id] => Ok(session.destroy_object(one(&session, ObjectClass::PRIVATE_KEY, &[id.parse::<u8>()?])?)?),
        ["lose-secret", id] => {
            Ok(session.destroy_object(one(&session, ObjectClass::SECRET_KEY, &[id.parse::<u8>()?])?)?)
        }
        ["lasting", name] => {
            let more = [
                Attribute::Label(name.as_bytes().to_vec()),
                Attribute::Id(name.as_bytes().to_vec()),
                Attribute::Destroyable(false),
            ];
            aes(&session, true, &more).map(drop)
        }
        ["long", name, bytes] => long(&session, name, bytes.parse()?),
        ["lengths", name] => {
            let found = one(&session, ObjectClass::CERTIFICATE, name.as_bytes())?;
            let asked = [AttributeType::Value, AttributeType::Subject, AttributeType::Issuer];
            let lengths: Vec<String> = session.get_attributes(found, &asked)?.iter().map(length).collect();
            println!("{}", lengths.join(" "));
            Ok(())
        }
        ["many", count] => {
            for number in 0..count.parse::<u32>()? {
                ec(&session, &number.to_be_bytes(), false)?;
            }
            Ok(())
        }
        ["known", id, value] => known(&session, id, &bytes_of(id)?, &bytes_of(value)?),
        ["value", id] => {
            let key = one(&session, ObjectClass::SECRET_KEY, &bytes_of(id)?)?;
            match session.get_attributes(key, &[AttributeType::Value])?.as_slice() {
                [Attribute::Value(value)] => println!("{}", hex(value)),
                other => return Err(format!("{} values", other.len()).into()),
            }
            Ok(())
        }
        ["secrets", count] => {
            for number in 0..count.parse::<u32>()? {
                let id = number.to_be_bytes();
                aes(&session, true, &[Attribute::Id(id.to_vec()), Attribute::Label(b"aes".to_vec())])?;
            }
            Ok(())
        }
        ["proof"] => proof(&session),
        ["check", proof] => check(&session, proof),
        ["show"] => show(&session),
        ["unwrap", id] => unwrap(&session, &bytes_of(id)?),
        _ => Err("usage: custody MODULE LABEL PIN VERB…".into()),
    }
}

fn make(session: &Session) -> Result<(), Failed> {
    let named = |id: u8, label: &str| [Attribute::Id(vec![id]), Attribute::Label(label.as_bytes().to_vec())];
    let mut public = vec![
        Attribute::Token(true),
        Attribute::ModulusBits(2048.into()),
        Attribute::PublicExponent(vec![1, 0, 1]),
        Attribute::Verify(true),
    ];
    public.extend(named(1, "rsa"));
    let mut private = private();
    private.extend(named(1, "rsa"));
    session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &private)?;
    ec(session, &[2], true)?;
    aes(session, true, &named(3, "aes"))?;
    certificate(session)
}

fn certificate(session: &Session) -> Result<(), Failed> {
    let named = [Attribute::Id(vec![1]), Attribute::Label(b"certificate".to_vec())];
    let mut certificate = vec![
        Attribute::Class(ObjectClass::CERTIFICATE),
        Attribute::CertificateType(CertificateType::X_509),
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Subject(vec![0x30, 0]),
        Attribute::Issuer(vec![0x30, 0]),
        Attribute::SerialNumber(vec![2, 1, 1]),
        Attribute::Value(vec![0x30, 3, 2, 1, 1]),
    ];
    certificate.extend(named);
    session.create_object(&certificate)?;
    Ok(())
}

/// A certificate as far as a token looks: values of these lengths in DER.
fn long(session: &Session, name: &str, bytes: u16) -> Result<(), Failed> {
    let sequence = |bytes: u16| {
        let inside = bytes - 4;
        let mut value = vec![0x30, 0x82];
        value.extend(inside.to_be_bytes());
        value.resize(usize::from(bytes), 0);
        value
    };
    session.create_object(&[
        Attribute::Class(ObjectClass::CERTIFICATE),
        Attribute::CertificateType(CertificateType::X_509),
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Id(name.as_bytes().to_vec()),
        Attribute::Label(name.as_bytes().to_vec()),
        Attribute::Subject(sequence(2000)),
        Attribute::Issuer(sequence(1500)),
        Attribute::SerialNumber(vec![2, 1, 1]),
        Attribute::Value(sequence(bytes)),
    ])?;
    Ok(())
}

fn length(found: &Attribute) -> String {
    match found {
        Attribute::Value(value) | Attribute::Subject(value) | Attribute::Issuer(value) => value.len().to_string(),
        other => format!("{other:?}"),
    }
}

fn private() -> Vec<Attribute> {
    vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(true),
        Attribute::Sign(true),
    ]
}

fn ec(session: &Session, id: &[u8], keeps_public: bool) -> Result<(), Failed> {
    let named = [Attribute::Id(id.to_vec()), Attribute::Label(b"ec".to_vec())];
    let mut public = vec![Attribute::Token(keeps_public), Attribute::EcParams(P256.to_vec()), Attribute::Verify(true)];
    public.extend(named.clone());
    let mut private = private();
    private.extend(named);
    session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)?;
    Ok(())
}

fn aes(session: &Session, is_extractable: bool, more: &[Attribute]) -> Result<ObjectHandle, Failed> {
    let mut template = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(is_extractable),
        Attribute::ValueLen(32.into()),
        Attribute::Encrypt(true),
        Attribute::Decrypt(true),
    ];
    template.extend_from_slice(more);
    Ok(session.generate_key(&Mechanism::AesKeyGen, &template)?)
}

fn known(session: &Session, label: &str, id: &[u8], value: &[u8]) -> Result<(), Failed> {
    let template = [
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::KeyType(KeyType::GENERIC_SECRET),
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(true),
        Attribute::Sign(true),
        Attribute::Label(label.into()),
        Attribute::Id(id.to_vec()),
        Attribute::Value(value.to_vec()),
    ];
    session.create_object(&template)?;
    Ok(())
}

fn one(session: &Session, class: ObjectClass, id: &[u8]) -> Result<ObjectHandle, Failed> {
    let found = session.find_objects(&[Attribute::Class(class), Attribute::Id(id.to_vec()), Attribute::Token(true)])?;
    match found.as_slice() {
        [object] => Ok(*object),
        other => Err(format!("{} objects of {class:?} {id:?}", other.len()).into()),
    }
}

fn proof(session: &Session) -> Result<(), Failed> {
    let rsa = session.sign(&Mechanism::Sha256RsaPkcs, one(session, ObjectClass::PRIVATE_KEY, &[1])?, TEXT)?;
    let ec = session.sign(&Mechanism::Ecdsa, one(session, ObjectClass::PRIVATE_KEY, &[2])?, &DIGEST)?;
    let aes = session.encrypt(&Mechanism::AesCbc(VECTOR), one(session, ObjectClass::SECRET_KEY, &[3])?, TEXT)?;
    println!("{}.{}.{}", hex(&rsa), hex(&ec), hex(&aes));
    Ok(())
}

fn check(session: &Session, proof: &str) -> Result<(), Failed> {
    let parts: Vec<Vec<u8>> = proof.split('.').map(bytes_of).collect::<Result<_, _>>()?;
    let [rsa, ec, aes] = parts.as_slice() else { return Err("three parts".into()) };
    let [public_rsa, public_ec] =
        [one(session, ObjectClass::PUBLIC_KEY, &[1])?, one(session, ObjectClass::PUBLIC_KEY, &[2])?];
    session.verify(&Mechanism::Sha256RsaPkcs, public_rsa, TEXT, rsa)?;
    session.verify(&Mechanism::Ecdsa, public_ec, &DIGEST, ec)?;
    let private = one(session, ObjectClass::PRIVATE_KEY, &[1])?;
    session.verify(
        &Mechanism::Sha256RsaPkcs,
        public_rsa,
        TEXT,
        &session.sign(&Mechanism::Sha256RsaPkcs, private, TEXT)?,
    )?;
    let private = one(session, ObjectClass::PRIVATE_KEY, &[2])?;
    session.verify(&Mechanism::Ecdsa, public_ec, &DIGEST, &session.sign(&Mechanism::Ecdsa, private, &DIGEST)?)?;
    let secret = one(session, ObjectClass::SECRET_KEY, &[3])?;
    if session.decrypt(&Mechanism::AesCbc(VECTOR), secret, aes)? != TEXT {
        return Err("the AES key is another one".into());
    }
    println!("right");
    Ok(())
}

fn show(session: &Session) -> Result<(), Failed> {
    let classes =
        [ObjectClass::PRIVATE_KEY, ObjectClass::SECRET_KEY, ObjectClass::PUBLIC_KEY, ObjectClass::CERTIFICATE];
    for class in classes {
        for object in session.find_objects(&[Attribute::Class(class), Attribute::Token(true)])? {
            let types = [
                AttributeType::Label,
                AttributeType::Id,
                AttributeType::Private,
                AttributeType::Sensitive,
                AttributeType::Extractable,
                AttributeType::Modifiable,
                AttributeType::Destroyable,
            ];
            println!("{class:?} {:?}", session.get_attributes(object, &types)?);
        }
    }
    Ok(())
}

fn unwrap(session: &Session, id: &[u8]) -> Result<(), Failed> {
    let secrets = session.find_objects(&[
        Attribute::Class(ObjectClass::SECRET_KEY),
        Attribute::Id(id.to_vec()),
        Attribute::Label(b"slotwarden W".to_vec()),
    ])?;
    let [w] = secrets.as_slice() else { return Err("no W".into()) };
    let key = one(session, ObjectClass::SECRET_KEY, &[3])?;
    let template =
        [Attribute::Class(ObjectClass::SECRET_KEY), Attribute::KeyType(KeyType::AES), Attribute::Token(false)];
    for mechanism in [Mechanism::AesKeyWrapPad, Mechanism::AesKeyWrap] {
        let Ok(blob) = session.wrap_key(&mechanism, *w, key) else { continue };
        match session.unwrap_key(&mechanism, *w, &blob, &template) {
            Ok(_) => println!("allowed"),
            Err(error) => println!("refused {error}"),
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes_of(text: &str) -> Result<Vec<u8>, Failed> {
    (0..text.len()).step_by(2).map(|at| Ok(u8::from_str_radix(text.get(at..at + 2).ok_or("odd")?, 16)?)).collect()
}
