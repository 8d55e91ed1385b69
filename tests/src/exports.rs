//! Exports and restores as the daemon makes them of a worker: the files around its calls.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write as _;

use ed25519_dalek::{Signer, SigningKey};
use sha2::{Digest, Sha256};
use slotwarden::transfer_dir::{self, DIGEST_BYTES, EXPORT, ExportJob, RESTORE};
use slotwarden_core::effect::{HsmAnswer, HsmCall};
use slotwarden_core::export::{
    Class, Header, Part, Protection, Reader, Trailer, begin, trailer_message, write_trailer,
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

/// Begins an export, has the worker append its section, and leaves the rest.
///
/// # Errors
/// As the device answered.
pub fn append(bench: &Bench, driver: &mut Driver, accepted: &[&str]) -> Result<HsmAnswer, HsmFailure> {
    let dir = bench.transfer_dir();
    transfer_dir::make(&dir).expect("the bench's own directory");
    let header = Header {
        export_id: [1; 16],
        cluster: [2; 16],
        node: node().verifying_key().to_bytes(),
        protection: Protection::Cards { set_id: [3; 16] },
        key_id: KEY_ID,
        sequence: 1,
        made_s: None,
        previous: [0; 32],
        sections: 1,
    };
    let mut bytes = Vec::new();
    let header_hash = begin(&mut bytes, &header).expect("a Vec takes everything");
    fs::write(dir.join(EXPORT), &bytes).expect("the bench's own directory");
    let accepted = accepted.iter().map(|name| (*name).to_owned()).collect();
    let job = ExportJob { name: "ca-root".into(), header_hash, accepted };
    transfer_dir::write_job(&dir, &job).expect("the bench's own directory");
    driver.call(0, HsmCall::ExportSection { key_id: KEY_ID, uid: UID, once: None })
}

/// Ends the export as the daemon does; returns the whole file.
#[must_use]
pub fn finish(bench: &Bench) -> Vec<u8> {
    let path = bench.transfer_dir().join(EXPORT);
    let bytes = fs::read(&path).expect("a section was appended");
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
    let mut trailer = Vec::new();
    write_trailer(&mut trailer, &Trailer { sections: 1, entries, left_out, hash, signature })
        .expect("a Vec takes everything");
    let mut file = OpenOptions::new().append(true).open(&path).expect("it was read");
    file.write_all(&trailer).expect("the bench's own directory");
    [bytes, trailer].concat()
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
