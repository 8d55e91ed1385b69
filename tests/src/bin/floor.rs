//! The least that an export can cost: one `C_GetAttributeValue` into fixed buffers and one
//! `C_WrapKey` for each private key of a token, and nothing else. No part of Slotwarden is linked in.
//!
//! `floor MODULE LABEL PIN MECHANISM` finds W and the private keys, and then does that once for
//! every line it reads, printing how many keys and microseconds it took, with the search. With `restore FILE` it finds U,
//! and unwraps what is in the file, which is not an export but what the least program would have made of one. With
//! `open BLOB` (hexadecimal) it has U unwrap an AES key that came from elsewhere, and prints `allowed` or `refused` with the
//! answer's number: what whoever holds the token PIN could do.
#![allow(unsafe_code)] // the module's own functions, as a program in C calls them

use std::io::BufRead;
use std::ptr;
use std::time::Instant;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::object::Attribute;
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use cryptoki_sys::{
    CK_ATTRIBUTE, CK_FUNCTION_LIST, CK_MECHANISM, CK_ULONG, CKA_CLASS, CKA_KEY_TYPE, CKA_TOKEN, CKK_AES,
    CKO_PRIVATE_KEY, CKO_SECRET_KEY, CKR_OK,
};

type Failed = Box<dyn std::error::Error>;

/// What an export asks of a private key.
const ATTRIBUTES: [CK_ULONG; 28] = [
    0x2,
    0x3,
    0x100,
    0x101,
    0x102,
    0x103,
    0x105,
    0x107,
    0x108,
    0x109,
    0x10C,
    0x110,
    0x111,
    0x120,
    0x122,
    0x129,
    0x162,
    0x163,
    0x164,
    0x165,
    0x166,
    0x170,
    0x171,
    0x180,
    0x202,
    0x210,
    0x4000_0212,
    0x4000_0600,
];
const ROOM: usize = 1025;

fn main() -> Result<(), Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [module, label, pin, mechanism, rest @ ..] = arguments.as_slice() else {
        return Err("usage: floor MODULE LABEL PIN MECHANISM [restore FILE | open BLOB]".into());
    };
    let context = Pkcs11::new(module)?;
    context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    let named = |slot: &_| context.get_token_info(*slot).is_ok_and(|info| info.label().trim_end() == label);
    let slot = context.get_slots_with_token()?.into_iter().find(named).ok_or("no such token")?;
    let session = context.open_rw_session(slot)?;
    session.login(UserType::User, Some(&AuthPin::new(pin.as_str().into())))?;
    // SAFETY: it is the module that is loaded already: the same instance, no initialiser runs.
    let raw = unsafe { cryptoki_sys::Pkcs11::new(module) }?;
    let mut list = ptr::null_mut();
    // SAFETY: one pointer is written, to a place that is ours.
    if unsafe { raw.C_GetFunctionList(&mut list) } != CKR_OK {
        return Err("no function list".into());
    }
    // SAFETY: after CKR_OK it points to the module's list, which lives as long as the module is loaded.
    let list = unsafe { list.as_ref() }.ok_or("no function list")?;
    let mechanism = mechanism.parse()?;
    match rest {
        [] => export(&session, list, mechanism),
        [verb, file] if verb == "restore" => restore(&session, list, mechanism, &std::fs::read(file)?),
        [verb, blob] if verb == "open" => open(&session, list, mechanism, blob),
        _ => Err("usage: floor MODULE LABEL PIN MECHANISM [restore FILE | open BLOB]".into()),
    }
}

/// Has U unwrap an AES key as an object of the session, with every attribute left to the module.
fn open(session: &Session, list: &CK_FUNCTION_LIST, number: CK_ULONG, blob: &str) -> Result<(), Failed> {
    let pairs = (0..blob.len()).step_by(2).map(|at| blob.get(at..at + 2).ok_or("odd"));
    let mut blob = pairs.map(|pair| Ok(u8::from_str_radix(pair?, 16)?)).collect::<Result<Vec<u8>, Failed>>()?;
    let u = key_named(session, "slotwarden U")?;
    let (mut class, mut kind): (CK_ULONG, CK_ULONG) = (CKO_SECRET_KEY, CKK_AES);
    let mut template = [(CKA_CLASS, &mut class), (CKA_KEY_TYPE, &mut kind)].map(|(kind, value)| CK_ATTRIBUTE {
        type_: kind,
        pValue: ptr::from_mut(value).cast(),
        ulValueLen: size_of::<CK_ULONG>() as CK_ULONG,
    });
    let (mut mechanism, mut made) = (plain(number), 0);
    let (length, count) = (CK_ULONG::try_from(blob.len())?, CK_ULONG::try_from(template.len())?);
    let unwrap = list.C_UnwrapKey.ok_or("a function is missing")?;
    // SAFETY: every pointer is to a place that is ours, with its length beside it, and lives over the call.
    let answer = unsafe {
        unwrap(session.handle(), &mut mechanism, u, blob.as_mut_ptr(), length, template.as_mut_ptr(), count, &mut made)
    };
    if answer == CKR_OK {
        println!("allowed")
    } else {
        println!("refused 0x{answer:x}")
    }
    Ok(())
}

fn key_named(session: &Session, label: &str) -> Result<CK_ULONG, Failed> {
    match session.find_objects(&[Attribute::Label(label.into())])?.as_slice() {
        [key] => Ok(key.handle()),
        other => Err(format!("{} objects {label}", other.len()).into()),
    }
}

fn plain(number: CK_ULONG) -> CK_MECHANISM {
    CK_MECHANISM { mechanism: number, pParameter: ptr::null_mut(), ulParameterLen: 0 }
}

/// Buffers for everything that is asked of a key.
struct Rooms(Vec<[u8; ROOM]>);

impl Rooms {
    fn template(&mut self) -> Vec<CK_ATTRIBUTE> {
        let mut template: Vec<CK_ATTRIBUTE> = ATTRIBUTES
            .iter()
            .zip(&mut self.0)
            .map(|(kind, room)| CK_ATTRIBUTE {
                type_: *kind,
                pValue: room.as_mut_ptr().cast(),
                ulValueLen: ROOM as CK_ULONG,
            })
            .collect();
        // An array of attributes is not asked for its members.
        template[26].pValue = ptr::null_mut();
        template[26].ulValueLen = 0;
        template
    }
}

fn export(session: &Session, list: &CK_FUNCTION_LIST, number: CK_ULONG) -> Result<(), Failed> {
    let w = key_named(session, "slotwarden W")?;
    let (Some(find), Some(next), Some(end), Some(get), Some(wrap)) =
        (list.C_FindObjectsInit, list.C_FindObjects, list.C_FindObjectsFinal, list.C_GetAttributeValue, list.C_WrapKey)
    else {
        return Err("functions are missing".into());
    };
    let mut rooms = Rooms(vec![[0u8; ROOM]; ATTRIBUTES.len()]);
    let mut blob = vec![0u8; 8192];
    for line in std::io::stdin().lock().lines() {
        line?;
        let begun = Instant::now();
        let (mut class, mut yes) = (CKO_PRIVATE_KEY, 1u8);
        let mut template = [
            CK_ATTRIBUTE {
                type_: CKA_CLASS,
                pValue: (&raw mut class).cast(),
                ulValueLen: size_of::<CK_ULONG>() as CK_ULONG,
            },
            CK_ATTRIBUTE { type_: CKA_TOKEN, pValue: (&raw mut yes).cast(), ulValueLen: 1 },
        ];
        let mut keys = Vec::new();
        // SAFETY: template, handles and counts are ours and live through the calls.
        unsafe {
            find(session.handle(), template.as_mut_ptr(), 2);
            loop {
                let (mut some, mut count) = ([0; 512], 0);
                if next(session.handle(), some.as_mut_ptr(), 512, &mut count) != CKR_OK || count == 0 {
                    break;
                }
                keys.extend_from_slice(&some[..usize::try_from(count)?]);
            }
            end(session.handle());
        }
        for key in &keys {
            let (mut template, mut mechanism) = (rooms.template(), plain(number));
            let mut length = blob.len() as CK_ULONG;
            // SAFETY: every buffer is ours, as long as the module is told, and lives through the calls.
            let answer = unsafe {
                get(session.handle(), *key, template.as_mut_ptr(), template.len() as CK_ULONG);
                wrap(session.handle(), &mut mechanism, w, *key, blob.as_mut_ptr(), &mut length)
            };
            if answer != CKR_OK {
                return Err(format!("C_WrapKey: {answer:#x}").into());
            }
        }
        println!("{} {}", keys.len(), begun.elapsed().as_micros());
    }
    Ok(())
}

/// One entry of an export: {count u32, then for each attribute type u64, length u32, value; length u32, blob},
/// in the numbers' own order of bytes. `CKA_TOKEN` is the first attribute.
struct Entry {
    with: Vec<(CK_ULONG, Vec<u8>)>,
    blob: Vec<u8>,
}

fn entries(mut bytes: &[u8]) -> Option<Vec<Entry>> {
    fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = bytes.split_at_checked(count)?;
        *bytes = rest;
        Some(taken)
    }
    fn length(bytes: &mut &[u8]) -> Option<usize> {
        usize::try_from(u32::from_ne_bytes(take(bytes, 4)?.try_into().ok()?)).ok()
    }
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let mut with = Vec::new();
        for _ in 0..length(&mut bytes)? {
            let kind = CK_ULONG::from_ne_bytes(take(&mut bytes, 8)?.try_into().ok()?);
            let count = length(&mut bytes)?;
            with.push((kind, take(&mut bytes, count)?.to_vec()));
        }
        let count = length(&mut bytes)?;
        all.push(Entry { with, blob: take(&mut bytes, count)?.to_vec() });
    }
    Some(all)
}

/// The least that a restore into a fresh token can cost: each entry unwrapped as an object of the session, read
/// back and destroyed; then each unwrapped into the token and read back.
fn restore(session: &Session, list: &CK_FUNCTION_LIST, number: CK_ULONG, file: &[u8]) -> Result<(), Failed> {
    let u = key_named(session, "slotwarden U")?;
    let (Some(unwrap), Some(get), Some(destroy)) = (list.C_UnwrapKey, list.C_GetAttributeValue, list.C_DestroyObject)
    else {
        return Err("functions are missing".into());
    };
    let mut all = entries(file).ok_or("another form of file")?;
    let mut rooms = Rooms(vec![[0u8; ROOM]; ATTRIBUTES.len()]);
    for line in std::io::stdin().lock().lines() {
        line?;
        let begun = Instant::now();
        for in_token in [0u8, 1] {
            for entry in &mut all {
                entry.with[0].1[0] = in_token;
                let mut with: Vec<CK_ATTRIBUTE> = entry
                    .with
                    .iter_mut()
                    .map(|(kind, value)| CK_ATTRIBUTE {
                        type_: *kind,
                        pValue: value.as_mut_ptr().cast(),
                        ulValueLen: value.len() as CK_ULONG,
                    })
                    .collect();
                let (mut read, mut mechanism, mut made) = (rooms.template(), plain(number), 0);
                // SAFETY: every buffer is ours, as long as the module is told, and lives through the calls.
                let answer = unsafe {
                    let blob = entry.blob.as_mut_ptr();
                    let length = entry.blob.len() as CK_ULONG;
                    let count = with.len() as CK_ULONG;
                    let own = session.handle();
                    let answer = unwrap(own, &mut mechanism, u, blob, length, with.as_mut_ptr(), count, &mut made);
                    get(own, made, read.as_mut_ptr(), read.len() as CK_ULONG);
                    if in_token == 0 { answer | destroy(own, made) } else { answer }
                };
                if answer != CKR_OK {
                    return Err(format!("C_UnwrapKey: {answer:#x}").into());
                }
            }
        }
        println!("{} {}", all.len(), begun.elapsed().as_micros());
    }
    Ok(())
}
