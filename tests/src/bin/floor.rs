//! The least that an export can cost: one `C_GetAttributeValue` into fixed buffers and one
//! `C_WrapKey` for each private key of a token, and nothing else. No part of Slotwarden is linked in.
//!
//! `floor MODULE LABEL PIN MECHANISM` finds W and the private keys, and then does that once for
//! every line it reads, printing how many keys and microseconds it took, with the search.
#![allow(unsafe_code)] // the module's own functions, as a program in C calls them

use std::io::BufRead;
use std::ptr;
use std::time::Instant;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::object::Attribute;
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use cryptoki_sys::{CK_ATTRIBUTE, CK_MECHANISM, CK_ULONG, CKA_CLASS, CKA_TOKEN, CKO_PRIVATE_KEY, CKR_OK};

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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [module, label, pin, mechanism] = arguments.as_slice() else {
        return Err("usage: floor MODULE LABEL PIN MECHANISM".into());
    };
    let context = Pkcs11::new(module)?;
    context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    let named = |slot: &_| context.get_token_info(*slot).is_ok_and(|info| info.label().trim_end() == label);
    let slot = context.get_slots_with_token()?.into_iter().find(named).ok_or("no such token")?;
    let session = context.open_rw_session(slot)?;
    session.login(UserType::User, Some(&AuthPin::new(pin.as_str().into())))?;
    let found = session.find_objects(&[Attribute::Label(b"slotwarden W".to_vec())])?;
    let [w] = found.as_slice() else { return Err("no W".into()) };
    let number: CK_ULONG = mechanism.parse()?;

    // SAFETY: it is the module that is loaded already: the same instance, no initialiser runs.
    let raw = unsafe { cryptoki_sys::Pkcs11::new(module) }?;
    let mut list = ptr::null_mut();
    // SAFETY: one pointer is written, to a place that is ours.
    if unsafe { raw.C_GetFunctionList(&mut list) } != CKR_OK {
        return Err("no function list".into());
    }
    // SAFETY: after CKR_OK it points to the module's list, which lives as long as the module is loaded.
    let list = unsafe { list.as_ref() }.ok_or("no function list")?;
    let (Some(find), Some(next), Some(end), Some(get), Some(wrap)) =
        (list.C_FindObjectsInit, list.C_FindObjects, list.C_FindObjectsFinal, list.C_GetAttributeValue, list.C_WrapKey)
    else {
        return Err("functions are missing".into());
    };
    let mut rooms = vec![[0u8; ROOM]; ATTRIBUTES.len()];
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
            let mut template: Vec<CK_ATTRIBUTE> = ATTRIBUTES
                .iter()
                .zip(&mut rooms)
                .map(|(kind, room)| CK_ATTRIBUTE {
                    type_: *kind,
                    pValue: room.as_mut_ptr().cast(),
                    ulValueLen: ROOM as CK_ULONG,
                })
                .collect();
            // An array of attributes is not asked for its members.
            template[26].pValue = ptr::null_mut();
            template[26].ulValueLen = 0;
            let mut mechanism = CK_MECHANISM { mechanism: number, pParameter: ptr::null_mut(), ulParameterLen: 0 };
            let mut length = blob.len() as CK_ULONG;
            // SAFETY: every buffer is ours, as long as the module is told, and lives through the calls.
            let answer = unsafe {
                get(session.handle(), *key, template.as_mut_ptr(), template.len() as CK_ULONG);
                wrap(session.handle(), &mut mechanism, w.handle(), *key, blob.as_mut_ptr(), &mut length)
            };
            if answer != CKR_OK {
                return Err(format!("C_WrapKey: {answer:#x}").into());
            }
        }
        println!("{} {}", keys.len(), begun.elapsed().as_micros());
    }
    Ok(())
}
