//! Whole files, read to their end in a thread of their own.
//!
//! A gigabyte takes seconds, and whoever can write where packages are exchanged brings one whenever they like: the loop
//! answers people meanwhile, and a zeroize (P45) waits for nobody's file. Nothing that was read has the place from which
//! the worker reads before the loop says so. One file is read at a time; another one, and a zeroize, give it up.
//!
//! After a restart what a package was opened to is removed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use sha2::{Digest as _, Sha256};
use slotwarden_core::export::{Part, Reader};
use slotwarden_core::fault::Refusal;

use super::{DiskFiles, SPOOL};
use crate::devices::{Event, FileRead, ToRead};
use crate::export_file::Io;
use crate::member_keys::NodeSecrets;
use crate::problem::{Own, Problem};
use crate::transfer_dir::{self, RESTORE};
use crate::wire::{SpooledFile, SpooledSection};
use crate::{package_file, passphrase};

/// With the number of the reading: the keys of a package that was opened.
const UNPACKED: &str = "unpacked";

/// The file that is read; a handle on it gives nothing any more once it was given up.
#[derive(Clone, Default)]
pub(super) struct Wanted(Arc<AtomicBool>);

impl Wanted {
    fn is_given_up(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

struct WhileWanted {
    file: File,
    wanted: Wanted,
}

impl Read for WhileWanted {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.wanted.is_given_up() {
            return Err(io::Error::other("it was given up"));
        }
        self.file.read(into)
    }
}

impl Seek for WhileWanted {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// Removes what earlier runs opened and nobody took.
pub(super) fn remove_unpacked(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(UNPACKED)) {
            // What cannot be removed now is in nobody's way.
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl DiskFiles {
    pub(super) fn begin_reading(&mut self, number: u32, file: ToRead) {
        self.end_reading();
        self.spooled = None;
        let _ = fs::remove_file(self.dir.join(RESTORE));
        let (wanted, events) = (Wanted::default(), self.events.clone());
        self.reading = Some(wanted.clone());
        let (spool, unpacked) = (self.dir.join(SPOOL), unpacked(&self.dir, number));
        let answer = move |result| {
            // A loop that ended needs no answer.
            let _ = events.send(Event::FileRead { number, result });
        };
        let failing = answer.clone();
        let spawned = thread::Builder::new().name("read".to_owned()).spawn(move || {
            let result = match file {
                ToRead::Export => read_export(&spool, &wanted).map(FileRead::Export),
                ToRead::Package { path, own, secrets } => {
                    let read = read_package(&path, (&own, &secrets), &unpacked, &wanted);
                    if path == spool {
                        // What is needed of it lies elsewhere now.
                        let _ = fs::remove_file(&path);
                    }
                    read
                }
            };
            if wanted.is_given_up() {
                // Whoever gave it up was answered.
                let _ = fs::remove_file(&unpacked);
            } else {
                answer(result);
            }
        });
        if let Err(error) = spawned {
            failing(Err(Own::FileUnreadable.with(error.to_string())));
        }
    }

    pub(super) fn end_reading(&mut self) {
        if let Some(wanted) = self.reading.take() {
            wanted.0.store(true, Ordering::SeqCst);
        }
    }
}

/// Where the keys of a package are opened to.
pub(super) fn unpacked(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("{UNPACKED}-{number}"))
}

fn read_export(path: &Path, wanted: &Wanted) -> Result<SpooledFile, Problem> {
    let open = || File::open(path).map(|file| WhileWanted { file, wanted: wanted.clone() });
    let found = open().and_then(|file| file.file.sync_all()).map_err(|error| error.to_string());
    found.and_then(|()| look_into(open)).map_err(|reason| {
        if !wanted.is_given_up() {
            let _ = fs::remove_file(path);
        }
        Own::FileRefused.with(reason)
    })
}

fn read_package(
    path: &Path,
    (own, secrets): (&[u8; 32], &NodeSecrets),
    into: &Path,
    wanted: &Wanted,
) -> Result<FileRead, Problem> {
    let file = package_file::open_file(path).map_err(package_file::Wrong::Unreadable)?;
    let while_wanted = |file| WhileWanted { file, wanted: wanted.clone() };
    let opened = package_file::open_from(&mut while_wanted(file), own, secrets, into)?;
    let sections = if opened.export {
        File::open(into).and_then(|file| sections(while_wanted(file)))
    } else {
        Ok(BTreeMap::new())
    };
    let sections = sections.map_err(|error| Problem::from(Refusal::TransferFiles).with(error.to_string()))?;
    Ok(FileRead::Package { opened: Box::new(opened), sections })
}

/// Reads a whole export, twice; what it is, or what is wrong with it.
pub(super) fn look_into<F: Read>(open: impl Fn() -> io::Result<F>) -> Result<SpooledFile, String> {
    let unreadable = |error: io::Error| error.to_string();
    let file = open().and_then(digest_of).map_err(unreadable)?;
    let mut found =
        SpooledFile { file, key_id: [0; 16], node: [0; 32], own: false, passphrase: false, sections: Vec::new() };
    let mut reader = Reader::new(Io(BufReader::new(open().map_err(unreadable)?)));
    loop {
        match reader.next().map_err(|problem| problem.sentence().to_owned())? {
            Part::Header(header) => {
                (found.key_id, found.node) = (header.key_id, header.node);
                if let Some((_, cost)) = passphrase::of_header(header.protection) {
                    found.passphrase = true;
                    if !cost.is_sane() {
                        return Err("its passphrase asks for more memory or time than any of ours".to_owned());
                    }
                }
            }
            Part::Section(section) => {
                let (uid, name) = (section.uid, transfer_dir::printable(section.name));
                found.sections.push(SpooledSection { uid, name, entries: 0, left_out: 0, vendor_bytes: 0 });
            }
            Part::Entry(_) | Part::LeftOut(_) => {}
            Part::Piece(piece) => {
                if let Some(section) = found.sections.last_mut() {
                    section.vendor_bytes = section.vendor_bytes.saturating_add(piece.bytes.len() as u64);
                }
            }
            Part::SectionEnd { end, .. } => {
                if let Some(section) = found.sections.last_mut() {
                    (section.entries, section.left_out) = (end.entries, end.left_out);
                }
            }
            Part::End { .. } => return Ok(found),
        }
    }
}

/// How many objects an export has for each slot.
fn sections(file: impl Read) -> io::Result<BTreeMap<[u8; 16], u32>> {
    let mut sections = BTreeMap::new();
    let mut uid = [0; 16];
    let mut reader = Reader::new(Io(BufReader::new(file)));
    loop {
        match reader.next().map_err(|problem| io::Error::new(io::ErrorKind::InvalidData, problem.sentence()))? {
            Part::Section(section) => uid = section.uid,
            Part::SectionEnd { end, .. } => {
                sections.insert(uid, end.entries);
            }
            Part::Header(_) | Part::Entry(_) | Part::LeftOut(_) | Part::Piece(_) => {}
            Part::End { .. } => return Ok(sections),
        }
    }
}

/// SHA-256 of a whole file.
pub(super) fn digest_of(mut file: impl Read) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.finalize().into()),
            count => hash.update(&buffer[..count]),
        }
    }
}
