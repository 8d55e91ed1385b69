//! Exports and restores as the daemon makes them of a worker: the files around its calls.

use std::collections::BTreeSet;
use std::fs;

use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use slotwarden::transfer_dir::{self, DIGEST_BYTES, EXPORT, ExportJob, JobPurpose, RESTORE, VENDOR_PART};
use slotwarden_core::effect::{HsmAnswer, HsmCall};
use slotwarden_core::export::{
    Attributes, Class, Entry, Header, Part, Protection, Reader, Section, SectionWriter, Strategy, Trailer, begin,
    trailer_message, write_trailer,
};
use slotwarden_core::fault::HsmFailure;

use crate::driver::Driver;
use crate::modules::Bench;

/// The slot uid.
pub const UID: [u8; 16] = [0xA5; 16];
/// Names the backup key.
pub const KEY_ID: [u8; 16] = [0x11; 16];
/// The slot's wrapping key.
pub const KEK: [u8; 32] = [0x4B; 32];
/// The slot's authentication key.
pub const MAK: [u8; 32] = [0x4D; 32];

fn node() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn header() -> Header {
    Header {
        export_id: [1; 16],
        cluster: [2; 16],
        node: node().verifying_key().to_bytes(),
        protection: Protection::Cards { set_id: [3; 16] },
        key_id: KEY_ID,
        sequence: 1,
        made_s: None,
        previous: [0; 32],
        sections: 1,
    }
}

/// Begins an export, has the worker append its section, and leaves the rest.
///
/// # Errors
/// As the device answered.
pub fn append(bench: &Bench, driver: &mut Driver, accepted: &[&str]) -> Result<HsmAnswer, HsmFailure> {
    let accepted = accepted.iter().map(|name| (*name).to_owned()).collect();
    append_for(bench, driver, JobPurpose::Backup { accepted })
}

/// The same for whatever it is for.
///
/// # Errors
/// As the device answered.
pub fn append_for(bench: &Bench, driver: &mut Driver, purpose: JobPurpose) -> Result<HsmAnswer, HsmFailure> {
    append_job(bench, driver, purpose, false)
}

/// The same where the vendor's own program was run before; what it wrote, if it wrote anything.
///
/// # Errors
/// As the device answered.
pub fn append_vendor_part(bench: &Bench, driver: &mut Driver, written: Option<&[u8]>) -> Result<HsmAnswer, HsmFailure> {
    let place = bench.transfer_dir().join(VENDOR_PART);
    transfer_dir::make(&bench.transfer_dir()).expect("the bench's own directory");
    match written {
        Some(bytes) => fs::write(place, bytes).expect("the bench's own directory"),
        None => assert!(!place.exists(), "no program ran"),
    }
    append_job(bench, driver, JobPurpose::Backup { accepted: Vec::new() }, true)
}

fn append_job(bench: &Bench, driver: &mut Driver, purpose: JobPurpose, vendor: bool) -> Result<HsmAnswer, HsmFailure> {
    let dir = bench.transfer_dir();
    transfer_dir::make(&dir).expect("the bench's own directory");
    let mut bytes = Vec::new();
    let header_hash = begin(&mut bytes, &header()).expect("a Vec takes everything");
    fs::write(dir.join(EXPORT), &bytes).expect("the bench's own directory");
    let job = ExportJob { name: "ca-root".into(), header_hash, purpose, vendor };
    transfer_dir::write_job(&dir, &job).expect("the bench's own directory");
    driver.call(0, HsmCall::ExportSection { key_id: KEY_ID, uid: UID, once: None })
}

/// Ends the export as the daemon does; returns the whole file.
#[must_use]
pub fn finish(bench: &Bench) -> Vec<u8> {
    let path = bench.transfer_dir().join(EXPORT);
    let bytes = fs::read(&path).expect("a section was appended");
    let whole = signed(bytes);
    fs::write(&path, &whole).expect("the bench's own directory");
    whole
}

/// Header and one section with the trailer behind them.
fn signed(mut bytes: Vec<u8>) -> Vec<u8> {
    let (mut header_bytes, mut header_hash) = (0, [0; 32]);
    let mut from = bytes.as_slice();
    let mut reader = Reader::new(&mut from);
    let (entries, left_out) = loop {
        match reader.next().expect("the worker writes what the reader reads") {
            Part::Header(header) => {
                let mut again = Vec::new();
                header_hash = begin(&mut again, &header).expect("a Vec takes everything");
                header_bytes = again.len();
            }
            Part::SectionEnd { end, .. } => break (end.entries, end.left_out),
            _ => {}
        }
    };
    let hash: [u8; 32] = Sha256::digest(&bytes[header_bytes..]).into();
    let signature = node().sign(&trailer_message(&header_hash, &hash)).to_bytes();
    write_trailer(&mut bytes, &Trailer { sections: 1, entries, left_out, hash, signature })
        .expect("a Vec takes everything");
    bytes
}

/// A whole file with one secret of no special type (`CKK_GENERIC_SECRET`) that nothing but this blob
/// carries. It signs, and may be read once it is unwrapped: for vectors, whose
/// keys everybody knows.
#[must_use]
pub fn file_of_a_known_secret(id: &[u8], wrapped: &[u8]) -> Vec<u8> {
    const GENERIC_SECRET: u64 = 0x10;
    let mut bytes = Vec::new();
    let header_hash = begin(&mut bytes, &header()).expect("a Vec takes everything");
    let section = Section {
        uid: UID,
        name: "ca-root",
        strategy: Strategy::Kwp,
        token_label: "ca-root",
        token_serial: "1",
        manufacturer: "nobody",
        model: "none",
        firmware: (1, 0),
    };
    // CKA_PRIVATE, not CKA_SENSITIVE, CKA_SIGN, CKA_EXTRACTABLE
    let set: Vec<u8> = [(0x02_u32, 1), (0x103, 0), (0x108, 1), (0x162, 1)]
        .into_iter()
        .flat_map(|(kind, flag)| [&kind.to_be_bytes()[..], &[0, 1, flag]].concat())
        .collect();
    let mut writer = SectionWriter::begin(&mut bytes, header_hash, &section).expect("a Vec takes everything");
    let entry = Entry {
        index: 0,
        class: Class::Secret,
        key_type: GENERIC_SECRET,
        id,
        label: b"known",
        set: Attributes::new(&set).expect("in order"),
        recorded: Attributes::new(&[]).expect("in order"),
        wrapped,
    };
    writer.entry(&entry).expect("an entry");
    let mac = Hmac::<Sha256>::new_from_slice(&MAK).expect("any length").chain_update(writer.message()).finalize();
    writer.end(mac.into_bytes().into()).expect("a Vec takes everything");
    signed(bytes)
}

/// Puts a file where the worker restores from.
pub fn spool(bench: &Bench, file: &[u8]) {
    let dir = bench.transfer_dir();
    transfer_dir::make(&dir).expect("the bench's own directory");
    fs::write(dir.join(RESTORE), file).expect("the bench's own directory");
}

/// Class, id and label of each entry of a file.
#[must_use]
pub fn entries(file: &[u8]) -> Vec<(Class, Vec<u8>, String)> {
    let (mut from, mut all) = (file, Vec::new());
    let mut reader = Reader::new(&mut from);
    loop {
        match reader.next().expect("a whole file") {
            Part::Entry(entry) => {
                all.push((entry.class, entry.id.to_vec(), String::from_utf8_lossy(entry.label).into_owned()));
            }
            Part::End { .. } => return all,
            _ => {}
        }
    }
}

/// The vendor part of a file with one section.
#[must_use]
pub fn vendor_part(file: &[u8]) -> Vec<u8> {
    let (mut from, mut all) = (file, Vec::new());
    let mut reader = Reader::new(&mut from);
    loop {
        match reader.next().expect("a whole file") {
            Part::Piece(piece) => all.extend_from_slice(piece.bytes),
            Part::End { .. } => return all,
            _ => {}
        }
    }
}

/// What coverage knows the entries of a file by.
#[must_use]
pub fn digests(file: &[u8]) -> BTreeSet<[u8; DIGEST_BYTES]> {
    let (mut from, mut all) = (file, BTreeSet::new());
    let mut reader = Reader::new(&mut from);
    loop {
        match reader.next().expect("a whole file") {
            Part::Entry(entry) => {
                all.extend(transfer_dir::digests_of(&entry));
            }
            Part::End { .. } => return all,
            _ => {}
        }
    }
}

/// Id and wrapped key of each entry of a file.
#[must_use]
pub fn blobs(file: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let (mut from, mut all) = (file, Vec::new());
    let mut reader = Reader::new(&mut from);
    loop {
        match reader.next().expect("a whole file") {
            Part::Entry(entry) => all.push((entry.id.to_vec(), entry.wrapped.to_vec())),
            Part::End { .. } => return all,
            _ => {}
        }
    }
}

/// The same export as another node would publish it as its own: everything is right but the MACs.
///
/// # Panics
/// Where it is no whole export of few sections.
#[must_use]
pub fn signed_by_somebody_else(whole: &[u8]) -> Vec<u8> {
    let theirs = node();
    let mut reader = Reader::new(whole);
    let Ok(Part::Header(header)) = reader.next() else { panic!("it begins with a header") };
    let header_bytes = 5 + 5 + u32::from_be_bytes(whole[6..10].try_into().expect("four bytes")) as usize;
    let trailer = loop {
        if let Some(trailer) = reader.unsigned() {
            break trailer;
        }
        reader.next().expect("it is whole");
    };
    let mut forged = Vec::new();
    let header = Header { node: theirs.verifying_key().to_bytes(), ..header };
    let hash = begin(&mut forged, &header).expect("a Vec takes everything");
    // The trailer: kind, length, counts of one byte each here, hash and signature.
    let body_end = whole.len() - (5 + 3 + 32 + 64);
    forged.extend_from_slice(&whole[header_bytes..body_end]);
    let signature = theirs.sign(&trailer_message(&hash, &trailer.hash)).to_bytes();
    write_trailer(&mut forged, &Trailer { signature, ..trailer }).expect("a Vec takes everything");
    forged
}
