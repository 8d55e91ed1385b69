//! The file that is being restored, as the worker reads it.
//!
//! It is read as a whole, with its hashes, before anything is done with any of it (P19). Who
//! signed it is not asked here: what counts is the MAC by the key of this slot.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use slotwarden_core::export::{Entry, Part, Reader, Strategy};
use slotwarden_core::fault::{HsmFailure, Refusal};

use super::files_failed;
use crate::transfer_dir::RESTORE;

pub(super) struct Spool {
    file: File,
    uid: [u8; 16],
    /// Entries of the section, once it was verified.
    count: u32,
    /// Whether the section is for the vendor's own program.
    vendor: bool,
}

/// Judges whether this MAC is the one of a message.
pub(super) type IsMac<'a> = dyn FnMut(&[u8], &[u8; 32]) -> Result<bool, HsmFailure> + 'a;

/// The MAC by a key that is here for one restore.
pub(super) fn by_key<'k>(mak: &'k [u8]) -> impl FnMut(&[u8], &[u8; 32]) -> Result<bool, HsmFailure> + 'k {
    move |message, found| {
        let mac = Hmac::<Sha256>::new_from_slice(mak);
        let mac = mac.map_err(|_| HsmFailure::Refused(Refusal::ExportFileInvalid))?;
        Ok(mac.chain_update(message).verify_slice(found).is_ok())
    }
}

/// Reads a file and hashes what it reads.
struct Hashing<'a> {
    from: BufReader<&'a File>,
    hash: Sha256,
}

impl embedded_io::ErrorType for Hashing<'_> {
    type Error = io::Error;
}

impl embedded_io::Read for Hashing<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = self.from.read(into)?;
        self.hash.update(into.get(..length).unwrap_or_default());
        Ok(length)
    }
}

impl Spool {
    pub(super) fn open(dir: &Path, uid: [u8; 16]) -> Result<Self, HsmFailure> {
        Ok(Spool { file: File::open(dir.join(RESTORE)).map_err(|_| files_failed())?, uid, count: 0, vendor: false })
    }

    /// Verifies the whole file; `is_mac` judges the section's message and MAC. Returns the file's SHA-256.
    pub(super) fn verify(&mut self, is_mac: &mut IsMac<'_>) -> Result<[u8; 32], HsmFailure> {
        let invalid = HsmFailure::Refused(Refusal::ExportFileInvalid);
        self.file.seek(SeekFrom::Start(0)).map_err(|_| files_failed())?;
        let mut from = Hashing { from: BufReader::new(&self.file), hash: Sha256::new() };
        let mut reader = Reader::new(&mut from);
        let (mut inside, mut sections) = (false, 0u32);
        let mut is_authentic = true;
        let (mut is_for, mut is_usable) = (Strategy::Kwp, true);
        let mut pieces = false;
        loop {
            match reader.next().map_err(|_| invalid)? {
                Part::Header(_) | Part::Entry(_) | Part::LeftOut(_) => {}
                Part::Section(section) => {
                    inside = section.uid == self.uid;
                    if inside {
                        is_for = section.strategy;
                    }
                    sections = sections.saturating_add(u32::from(inside));
                }
                Part::Piece(_) => pieces |= inside,
                Part::SectionEnd { end, message } => {
                    if inside {
                        self.count = end.entries;
                        is_authentic = is_mac(&message, &end.mac)?;
                        // A vendor's section holds its program's part and nothing that we would make or leave out.
                        is_usable = match is_for {
                            Strategy::Kwp => true,
                            Strategy::Vendor => pieces && (end.entries, end.left_out) == (0, 0),
                        };
                    }
                    inside = false;
                }
                Part::End { .. } => break,
            }
        }
        let hash = from.hash.finalize().into();
        if sections == 0 {
            return Err(HsmFailure::Refused(Refusal::NoSuchSection));
        }
        if sections > 1 {
            return Err(invalid);
        }
        if !is_authentic {
            return Err(HsmFailure::Refused(Refusal::ExportOfAnotherKey));
        }
        if !is_usable {
            return Err(invalid);
        }
        self.vendor = is_for == Strategy::Vendor;
        Ok(hash)
    }

    /// How many entries the section has.
    pub(super) const fn count(&self) -> usize {
        self.count as usize
    }

    /// Whether the section is for the vendor's own program, once the file was verified.
    pub(super) const fn is_vendor(&self) -> bool {
        self.vendor
    }

    /// Each entry of the section, in order.
    pub(super) fn entries(
        &mut self,
        mut each: impl FnMut(&Entry<'_>) -> Result<(), HsmFailure>,
    ) -> Result<(), HsmFailure> {
        let invalid = HsmFailure::Refused(Refusal::ExportFileInvalid);
        self.file.seek(SeekFrom::Start(0)).map_err(|_| files_failed())?;
        let mut reader = Reader::new(Hashing { from: BufReader::new(&self.file), hash: Sha256::new() });
        let mut inside = false;
        loop {
            match reader.next().map_err(|_| invalid)? {
                Part::Section(section) => inside = section.uid == self.uid,
                Part::Entry(entry) if inside => each(&entry)?,
                Part::SectionEnd { .. } if inside => return Ok(()),
                Part::End { .. } => return Err(invalid),
                Part::Header(_) | Part::Entry(_) | Part::LeftOut(_) | Part::Piece(_) | Part::SectionEnd { .. } => {}
            }
        }
    }
}
