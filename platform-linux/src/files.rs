//! The files of exports and restores, in the transfer directory.
//!
//! An export is begun under another name than the one it is read by: it has that one when every
//! section was read back, the whole was signed and is durable (P20). A file to restore is taken part
//! by part; its first bytes are looked at before the rest is taken, and the whole is read (`reading`) before
//! anybody is called to a reader (P19, P21). Files are read and signed in threads of their own: the
//! loop waits for no disk but where it takes a part of a file.
//!
//! After a restart the last export and a whole spooled file are still there; what was not whole is
//! begun anew.

mod reading;
mod vendor;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, UNIX_EPOCH};

use slotwarden_core::SecretId;
use slotwarden_core::effect::{HsmCall, Input, Outcome, SlotId, Ticket};
use slotwarden_core::export::{self, Header, Part, Protection, Reader, Strategy, Trailer};
use slotwarden_core::fault::{Fault, Refusal};
use slotwarden_core::transfer::{Export, FileOrder, Purpose, Salt};
use slotwarden_core::{join, package, roster};
use zeroize::Zeroizing;

use self::reading::{Wanted, digest_of, look_into};
use self::vendor::Vendor;
use crate::devices::{Event, Events, ExportAbout, FilePart, Files, Kind, PackageAbout, ProgramResult, Signer, ToRead};
use crate::exchange::ROSTER_BYTES_MAX;
use crate::export_file::{Io, check_macs};
use crate::package_file;
use crate::passphrase::{self, Cost};
use crate::problem::{Own, Problem};
use crate::store::directory::{create_private, remove_if_there, rename_durably};
use crate::transfer_dir::{self, DIGEST_BYTES, ExportJob, JobPurpose};
use crate::wire::{SPOOL_BYTES_MAX, SpooledFile};

/// The export that was made last, whole.
const LAST: &str = "last.slwx";
/// A file to restore that is not whole yet.
const SPOOL: &str = "restore.part";
/// What a file to restore leaves free for the store, which shares its file system: 16 times its reserve.
const STORE_BYTES: u64 = 64 * 1024 * 1024;
/// What is taken, by its first bytes: enough to refuse ten gigabytes of zeros at their first byte. Each with its
/// version, what it is and how long it may be.
const TAKEN: [([u8; 4], u8, Kind, u64); 4] = [
    (export::MAGIC, export::VERSION, Kind::Export, SPOOL_BYTES_MAX),
    (package::MAGIC, package::VERSION, Kind::Package, SPOOL_BYTES_MAX),
    (roster::file::MAGIC, roster::file::VERSION, Kind::Rosters, ROSTER_BYTES_MAX),
    (join::MAGIC, join::VERSION, Kind::JoinRequest, join::FILE_BYTES_MAX as u64),
];

/// The files of one daemon.
pub struct DiskFiles {
    dir: PathBuf,
    events: Events,
    sign: Signer,
    node: [u8; 32],
    begun: Option<Begun>,
    spooled: Option<[u8; 32]>,
    /// What the file that is being spooled says that it is.
    taking: Kind,
    /// When its last part came, while more are to come.
    part_at: Option<Instant>,
    /// The file that is being read.
    reading: Option<Wanted>,
    /// The salt of the export that begins next.
    salt: [u8; 16],
    vendor: Vendor,
}

/// The export under way.
struct Begun {
    /// Hash of its header.
    header: [u8; 32],
    /// What stays behind, as SLOT/KEY.
    left_out: Vec<String>,
    /// Of a package: what it is.
    package: Option<Box<PackageAbout>>,
}

impl DiskFiles {
    /// In this directory, which is made when it is needed. What an earlier run did not end is removed.
    #[must_use]
    pub fn new(dir: PathBuf, events: Events, sign: Signer, node: [u8; 32]) -> Self {
        for name in [transfer_dir::EXPORT, transfer_dir::VENDOR_PART, SPOOL] {
            // There is none, as a rule.
            let _ = fs::remove_file(dir.join(name));
        }
        reading::remove_unpacked(&dir);
        // Read before: it has this name only then.
        let restore = dir.join(transfer_dir::RESTORE);
        let spooled = File::open(&restore).and_then(digest_of).ok();
        let found = spooled.and_then(|_| look_into(|| File::open(&restore)).ok());
        let vendor = Vendor::new(found.as_ref().map(vendor_parts).unwrap_or_default());
        DiskFiles {
            dir,
            events,
            sign,
            node,
            begun: None,
            spooled,
            taking: Kind::Export,
            part_at: None,
            reading: None,
            salt: [0; 16],
            vendor,
        }
    }

    fn begin(&mut self, order: Export, about: ExportAbout) -> io::Result<()> {
        transfer_dir::make(&self.dir)?;
        let (sequence, previous) = match &about.package {
            Some(package) => (package.header.sequence, [0; 32]),
            None => last(&self.dir).map(|(sequence, hash)| (sequence.saturating_add(1), hash))?,
        };
        let mut export_id = [0; 16];
        getrandom::fill(&mut export_id).map_err(|error| io::Error::other(error.to_string()))?;
        let header = Header {
            export_id,
            cluster: about.cluster,
            node: self.node,
            protection: match order.passphrase {
                None => Protection::Cards { set_id: order.set_id },
                Some(_) => {
                    let Cost { memory_kib, passes, lanes } = passphrase::COST;
                    Protection::Passphrase { salt: self.salt, memory_kib, passes, lanes }
                }
            },
            key_id: order.key_id,
            sequence,
            made_s: about.wall_s,
            previous,
            sections: u8::try_from(order.slots.slots().count()).unwrap_or(u8::MAX),
        };
        let path = self.dir.join(transfer_dir::EXPORT);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let mut file = Io(file);
        let hash = export::begin(&mut file, &header).map_err(|error| io::Error::other(format!("{error:?}")))?;
        file.0.sync_all()?;
        self.begun = Some(Begun { header: hash, left_out: about.left_out, package: about.package });
        Ok(())
    }

    fn take(&mut self, offset: u64, total: u64, bytes: &[u8]) -> Result<Option<(Kind, PathBuf)>, Problem> {
        let refused = |detail: &str| Own::FileRefused.with(detail);
        let failed = |error: io::Error| Problem::from(Refusal::TransferFiles).with(error.to_string());
        if total > SPOOL_BYTES_MAX {
            return Err(refused("it is longer than 1 GiB"));
        }
        let path = self.dir.join(SPOOL);
        if offset == 0 {
            let found = bytes.split_first_chunk().and_then(|(magic, rest)| {
                let known = TAKEN.iter().find(|(taken, ..)| taken == magic)?;
                rest.first().map(|version| (*version, known))
            });
            let Some((version, (_, known, kind, bytes_max))) = found else {
                return Err(refused("it does not begin as a file of Slotwarden"));
            };
            if version > *known {
                return Err(refused("it is of a newer version"));
            }
            if total > *bytes_max {
                return Err(refused(&format!("it is longer than {bytes_max} bytes")));
            }
            self.taking = *kind;
            self.spooled = None;
            transfer_dir::make(&self.dir).map_err(failed)?;
            let _ = fs::remove_file(self.dir.join(transfer_dir::RESTORE));
            let _ = fs::remove_file(&path);
            let disk = rustix::fs::statvfs(&self.dir).map_err(|error| failed(error.into()))?;
            if !has_room(disk.f_bavail.saturating_mul(disk.f_frsize), total) {
                let detail = format!("it needs {total} bytes, and {STORE_BYTES} are kept free");
                return Err(Problem::from(Refusal::DiskReserve).with(detail));
            }
        }
        let mut file = OpenOptions::new().append(true).create(offset == 0).mode(0o600).open(&path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let end = offset.saturating_add(bytes.len() as u64);
        if length != offset || end > total || (bytes.is_empty() && end < total) {
            return Err(refused("its parts do not follow one another"));
        }
        file.write_all(bytes).map_err(failed)?;
        Ok((end == total).then_some((self.taking, path)))
    }
}

impl Files for DiskFiles {
    fn perform(&mut self, ticket: Ticket, order: FileOrder, about: ExportAbout) {
        let answer = move |events: &Events, result: io::Result<()>| {
            let result = result.map_err(|error| {
                let _ = events.send(Event::Note(format!("the export cannot be made: {error}")));
                Fault::StoreFailed
            });
            // A loop that ended needs no answer.
            let _ = events.send(Event::Input(Input::Done { ticket, outcome: Outcome::File(result) }));
        };
        match order {
            // Those are the loop's own: the cluster's files are not of a transfer.
            FileOrder::KeepRoster { .. } | FileOrder::Received { .. } => {
                answer(&self.events, Err(io::Error::other("it is no order about an export")));
            }
            FileOrder::Begin(Export { purpose: Purpose::Package { .. }, .. }) if about.package.is_none() => {
                answer(&self.events, Err(io::Error::other("nobody said what the package is")));
            }
            FileOrder::Begin(export) => {
                self.vendor.stop();
                let begun = self.begin(export, about);
                answer(&self.events, begun);
            }
            FileOrder::Finish => {
                let (dir, sign, events) = (self.dir.clone(), self.sign.clone(), self.events.clone());
                let begun = self.begun.take();
                let spawned = thread::Builder::new().name("export".to_owned()).spawn(move || {
                    let finished = match begun {
                        Some(Begun { header, package: Some(package), .. }) => {
                            finish_package(&dir, header, &sign, &package)
                        }
                        Some(Begun { header, package: None, .. }) => finish(&dir, header, &sign),
                        None => Err(io::Error::other("none was begun")),
                    };
                    answer(&events, finished);
                });
                if let Err(error) = spawned {
                    answer(&self.events, Err(error));
                }
            }
            // By `Files::stretch` and `Files::check`, which have the secrets.
            FileOrder::Stretch { .. } | FileOrder::Check { .. } => {}
            FileOrder::Discard => {
                self.begun = None;
                self.spooled = None;
                self.vendor.stop();
                for name in [transfer_dir::EXPORT, transfer_dir::VENDOR_PART, transfer_dir::RESTORE, SPOOL] {
                    let _ = fs::remove_file(self.dir.join(name));
                }
            }
        }
    }

    fn stretch(&mut self, ticket: Ticket, place: SecretId, passphrase: Zeroizing<Vec<u8>>, of: Salt) {
        let events = self.events.clone();
        let answer = move |result| {
            // A loop that ended needs no answer.
            let _ = events.send(Event::Stretched { ticket, place, result });
        };
        let found = match of {
            Salt::New => getrandom::fill(&mut self.salt).ok().map(|()| (self.salt, passphrase::COST)),
            Salt::Spooled => first_part(&self.dir.join(transfer_dir::RESTORE)).and_then(passphrase::of_header),
        };
        let Some((salt, cost)) = found else { return answer(Err(Fault::StoreFailed)) };
        let failing = answer.clone();
        let spawned = thread::Builder::new()
            .name("passphrase".to_owned())
            .spawn(move || answer(passphrase::backup_key(&passphrase, &salt, cost)));
        if spawned.is_err() {
            failing(Err(Fault::OutOfMemory));
        }
    }

    fn check(&mut self, ticket: Ticket, hash: [u8; 32], backup_key: Zeroizing<Vec<u8>>) {
        let events = self.events.clone();
        let answer = move |found: io::Result<bool>| {
            let checked = found.map_err(|error| {
                let _ = events.send(Event::Note(format!("the file cannot be checked: {error}")));
                Fault::StoreFailed
            });
            // A loop that ended needs no answer.
            let _ = events.send(Event::Input(Input::Done { ticket, outcome: Outcome::FileChecked(checked) }));
        };
        // Opened here: another file may take its place while this one is read.
        let opened = match self.spooled {
            Some(spooled) if spooled == hash => File::open(self.dir.join(transfer_dir::RESTORE)),
            Some(_) | None => Err(io::Error::other("another file was brought meanwhile")),
        };
        let file = match opened {
            Ok(file) => file,
            Err(error) => return answer(Err(error)),
        };
        let failing = answer.clone();
        let spawned = thread::Builder::new().name("check".to_owned()).spawn(move || {
            let mut reader = Reader::new(Io(BufReader::new(file)));
            let key_of = |_: &Header, place: &mut [u8; 32]| {
                // One of another length was wiped meanwhile, and is no file's.
                place.iter_mut().zip(&*backup_key).for_each(|(to, from)| *to = *from);
                Ok(())
            };
            answer(match check_macs(&mut reader, key_of) {
                Ok(checked) => Ok(checked.is_ok()),
                Err(problem) => Err(io::Error::other(problem.to_string())),
            });
        });
        if let Err(error) = spawned {
            failing(Err(error));
        }
    }

    fn begin_section(&mut self, slot: &str) {
        let Some(Begun { header, left_out, package }) = &self.begun else { return };
        let purpose = match package {
            Some(package) => JobPurpose::Package { skip: package.skip.get(slot).cloned().unwrap_or_default() },
            None => {
                let of_slot = |name: &String| Some(name.strip_prefix(slot)?.strip_prefix('/')?.to_owned());
                JobPurpose::Backup { accepted: left_out.iter().filter_map(of_slot).collect() }
            }
        };
        // A program's part is for the HSM that it is of: other members are sent what they can take.
        let vendor = package.is_none() && self.vendor.makes(slot);
        let job = ExportJob { name: slot.to_owned(), header_hash: *header, purpose, vendor };
        // The job first: where there is no room for the report, that of an earlier export must not stay.
        let written =
            transfer_dir::write_job(&self.dir, &job).and_then(|()| transfer_dir::write_report(&self.dir, &[]));
        if let Err(error) = written {
            // The worker finds no job, or that of another slot, and refuses.
            let _ = self.events.send(Event::Note(format!("the export cannot be made: {error}")));
        }
    }

    fn program_first(&mut self, ticket: Ticket, slot: SlotId, name: &str, call: HsmCall) -> bool {
        self.run_program(ticket, slot, name, call)
    }

    fn program_ended(&mut self, ticket: Ticket, result: &ProgramResult) -> bool {
        self.take_program(ticket, result)
    }

    fn program_said(&self) -> String {
        self.vendor.said().to_owned()
    }

    fn program(&self, slot: &str) -> Option<String> {
        self.vendor.program(slot)
    }

    fn vendor_bytes(&self, uid: [u8; 16]) -> Option<u64> {
        self.vendor.part(uid).filter(|_| self.spooled.is_some())
    }

    fn left_out(&self) -> Vec<String> {
        let job = transfer_dir::read_job(&self.dir).map(|job| job.name).unwrap_or_default();
        let names = transfer_dir::read_report(&self.dir).unwrap_or_default();
        names.into_iter().map(|name| format!("{job}/{name}")).collect()
    }

    fn read_export(&self, offset: u64, count: usize) -> Result<FilePart, Problem> {
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Problem::from(Own::NoExport),
            _ => Problem::from(Refusal::StoreUnreadable).with(error.to_string()),
        };
        let part = FilePart::of(&self.dir.join(LAST), offset, count).map_err(unreadable)?;
        if offset >= part.total {
            // Whoever asks behind the end has it all, durably.
            transfer_dir::cover_taken(&self.dir).map_err(unreadable)?;
        }
        Ok(part)
    }

    fn spool(&mut self, offset: u64, total: u64, bytes: &[u8]) -> Result<Option<(Kind, PathBuf)>, Problem> {
        // Two who bring files at the same time would make one file that is none.
        if offset == 0 && self.part_at.is_some_and(|at| at.elapsed() < PART_PAUSE) {
            return Err(Refusal::TransferUnderWay.into());
        }
        let taken = self.take(offset, total, bytes);
        self.part_at = Some(Instant::now()).filter(|_| matches!(taken, Ok(None)));
        taken
    }

    fn read(&mut self, number: u32, file: ToRead) {
        self.begin_reading(number, file);
    }

    fn give_up_reading(&mut self) {
        self.end_reading();
    }

    fn place_export(&mut self, found: &SpooledFile) -> io::Result<()> {
        self.reading = None;
        rename_durably(&self.dir.join(SPOOL), &self.dir.join(transfer_dir::RESTORE))?;
        self.spooled = Some(found.file);
        self.vendor.spooled(vendor_parts(found));
        Ok(())
    }

    fn place_package(&mut self, number: u32) -> io::Result<()> {
        self.reading = None;
        rename_durably(&reading::unpacked(&self.dir, number), &self.dir.join(transfer_dir::RESTORE))
    }

    fn forget_read(&mut self, number: u32) {
        // There is none, unless it was a package; what cannot be removed now is removed by the next start.
        let _ = fs::remove_file(reading::unpacked(&self.dir, number));
    }

    fn last_export_s(&self) -> Option<u64> {
        let made = fs::metadata(self.dir.join(LAST)).and_then(|about| about.modified()).ok()?;
        made.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
    }

    fn spooled(&self) -> Option<[u8; 32]> {
        self.spooled
    }
}

/// What protects a file.
fn first_part(path: &Path) -> Option<Protection> {
    let mut reader = Reader::new(Io(BufReader::new(File::open(path).ok()?)));
    match reader.next() {
        Ok(Part::Header(header)) => Some(header.protection),
        Ok(_) | Err(_) => None,
    }
}

/// A client that is still there sends the next part sooner.
const PART_PAUSE: Duration = Duration::from_secs(3);

/// Whether a file of so many bytes leaves the store what it needs.
const fn has_room(free: u64, total: u64) -> bool {
    free.saturating_sub(total) >= STORE_BYTES
}

/// Number and SHA-256 of the export that was made last; zeros where there was none.
fn last(dir: &Path) -> io::Result<(u64, [u8; 32])> {
    let path = dir.join(LAST);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((0, [0; 32])),
        Err(error) => return Err(error),
    };
    let mut reader = Reader::new(Io(BufReader::new(file)));
    match reader.next() {
        Ok(Part::Header(header)) => Ok((header.sequence, digest_of_last(dir)?)),
        Ok(_) | Err(_) => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} is damaged; put it aside, and a chain of exports begins anew", path.display()),
        )),
    }
}

/// SHA-256 of the last export, as it was kept when that was made: the loop does not read a gigabyte for it.
fn digest_of_last(dir: &Path) -> io::Result<[u8; 32]> {
    let file = File::open(dir.join(LAST))?;
    let version = FilePart::version_of(&file.metadata()?);
    if let Some((_, digest)) = transfer_dir::read_last_digest(dir).ok().filter(|(of, _)| *of == version) {
        return Ok(digest);
    }
    let digest = digest_of(file)?;
    transfer_dir::write_last_digest(dir, &(version, digest))?;
    Ok(digest)
}

/// Reads every section back, signs, makes it durable, and gives it its name. Its keys are covered when somebody took it.
fn finish(dir: &Path, header: [u8; 32], sign: &Signer) -> io::Result<()> {
    let covered = close(dir, header, sign)?;
    // Whoever has just taken the one before says nothing of this one.
    transfer_dir::forget_taken(dir)?;
    rename_durably(&dir.join(transfer_dir::EXPORT), &dir.join(LAST))?;
    transfer_dir::write_taken(dir, &covered)?;
    digest_of_last(dir)?;
    // It is in the file, and need not be there twice.
    remove_if_there(&dir.join(transfer_dir::VENDOR_PART))
}

/// The same of a package: what is there now goes into the ledgers, and facts and keys into one sealed file.
fn finish_package(dir: &Path, header: [u8; 32], sign: &Signer, about: &PackageAbout) -> io::Result<()> {
    let keys = close(dir, header, sign)?;
    for uid in &about.with_keys {
        if let Some(names) = transfer_dir::read_names(dir, *uid)? {
            about.ledgers.observe(*uid, &names)?;
        }
    }
    let facts = about.ledgers.facts(&about.told)?;
    let export = dir.join(transfer_dir::EXPORT);
    let brings = keys.values().any(|found| !found.is_empty());
    let mut name = about.place.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = about.place.with_file_name(name);
    remove_if_there(&part)?;
    let file = create_private(&part)?;
    package_file::seal(&file, &about.header, &about.targets, &facts, brings.then_some(&export), sign)?;
    file.sync_all()?;
    rename_durably(&part, &about.place)?;
    remove_if_there(&export)
}

/// Reads every section back, signs the whole and makes it durable; which keys are in it, by the uids of their slots.
fn close(dir: &Path, header: [u8; 32], sign: &Signer) -> io::Result<BTreeMap<[u8; 16], BTreeSet<[u8; DIGEST_BYTES]>>> {
    let damaged = |problem: &dyn std::fmt::Debug| io::Error::new(io::ErrorKind::InvalidData, format!("{problem:?}"));
    let path = dir.join(transfer_dir::EXPORT);
    let mut covered: BTreeMap<[u8; 16], BTreeSet<[u8; DIGEST_BYTES]>> = BTreeMap::new();
    let mut uid = [0; 16];
    let mut reader = Reader::new(Io(BufReader::new(File::open(&path)?)));
    let trailer = loop {
        if let Some(trailer) = reader.unsigned() {
            break trailer;
        }
        match reader.next().map_err(|problem| damaged(&problem))? {
            Part::Section(section) => {
                uid = section.uid;
                let covered = covered.entry(uid).or_default();
                match section.strategy {
                    Strategy::Kwp => {}
                    // What is in its part only the program knows: as far as we know, what was there before it ran.
                    Strategy::Vendor => covered.extend(transfer_dir::read_held(dir, uid)?),
                }
            }
            Part::Entry(entry) => {
                covered.entry(uid).or_default().extend(transfer_dir::digests_of(&entry));
            }
            Part::Header(_) | Part::LeftOut(_) | Part::Piece(_) | Part::SectionEnd { .. } => {}
            Part::End { .. } => return Err(damaged(&"it ended already")),
        }
    };
    let signature = sign(&export::trailer_message(&header, &trailer.hash));
    if signature == [0; 64] {
        return Err(damaged(&"the node key was destroyed"));
    }
    let mut file = Io(OpenOptions::new().append(true).open(&path)?);
    export::write_trailer(&mut file, &Trailer { signature, ..trailer }).map_err(|problem| damaged(&problem))?;
    file.0.sync_all()?;
    if file.0.metadata()?.len() > SPOOL_BYTES_MAX {
        return Err(damaged(&"it is longer than what can be restored"));
    }
    // What counts as covered is what can be read: once more, with the signature.
    look_into(|| File::open(&path)).map_err(|problem| damaged(&problem))?;
    Ok(covered)
}

/// Bytes of its vendor parts, by the uids of their sections.
fn vendor_parts(found: &SpooledFile) -> BTreeMap<[u8; 16], u64> {
    let all = found.sections.iter().map(|section| (section.uid, section.vendor_bytes));
    all.filter(|(_, bytes)| *bytes > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::{Duration, Instant};

    const BEGINNING: [u8; 5] = *b"SLWX\x01";
    const PATIENCE: Duration = Duration::from_secs(30);

    fn files(dir: &Path) -> (DiskFiles, Receiver<Event>) {
        let (events, heard) = channel();
        (DiskFiles::new(dir.to_owned(), events, Arc::new(|_| [0; 64]), [0; 32]), heard)
    }

    fn names_in(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).expect("it is there");
        entries.map(|entry| entry.expect("it can be read").file_name().to_string_lossy().into_owned()).collect()
    }

    fn refused(files: &mut DiskFiles, offset: u64, total: u64, bytes: &[u8]) -> Problem {
        files.spool(offset, total, bytes).expect_err("it is none")
    }

    #[test]
    fn a_file_that_would_fill_the_disk_is_refused_before_it_is_taken() {
        assert!(!has_room(STORE_BYTES, 1) && has_room(STORE_BYTES + 1, 1) && !has_room(0, u64::MAX));
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
        let (mut files, _heard) = files(dir.path());
        let too_long = refused(&mut files, 0, SPOOL_BYTES_MAX + 1, &BEGINNING);
        assert!(too_long.to_string().contains("longer than 1 GiB"), "{too_long}");
        assert_eq!(names_in(dir.path()), [""; 0]);
    }

    #[test]
    fn parts_that_do_not_follow_one_another_make_no_file() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
        let (mut files, heard) = files(dir.path());
        assert!(refused(&mut files, 0, 10, b"SLW").to_string().contains("does not begin as a file of Slotwarden"));
        assert!(refused(&mut files, 0, 10, b"SLWX\x02").to_string().contains("newer version"));
        assert_eq!(files.spool(0, 10, &BEGINNING), Ok(None));
        // Somebody else begins: the one who was first is not disturbed.
        let later = refused(&mut files, 0, 10, &BEGINNING);
        assert_eq!(later.number, Problem::from(Refusal::TransferUnderWay).number, "{later}");
        for (offset, bytes) in [(4, &b"12345"[..]), (6, b"1234"), (5, b"123456"), (5, b"")] {
            let refused = refused(&mut files, offset, 10, bytes);
            assert!(refused.to_string().contains("do not follow"), "{offset}: {refused}");
        }
        // Whole, and no export: nothing of it stays.
        assert_eq!(files.spool(5, 10, b"12345"), Ok(Some((Kind::Export, dir.path().join(SPOOL)))));
        files.read(7, ToRead::Export);
        let Ok(Event::FileRead { number: 7, result: Err(refused) }) = heard.recv_timeout(PATIENCE) else {
            panic!("it is none")
        };
        assert_eq!(refused.number, Problem::from(Own::FileRefused).number, "{refused}");
        assert_eq!((files.spooled(), names_in(dir.path())), (None, Vec::new()));
    }

    #[test]
    fn a_file_that_is_given_up_is_not_heard_of_again_and_leaves_the_next_one_alone() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
        let (mut files, heard) = files(dir.path());
        // A header that promises sections, and then nothing but zeros: read to its end only for its digest.
        let long = dir.path().join(SPOOL);
        fs::write(&long, BEGINNING)
            .and_then(|()| File::options().write(true).open(&long)?.set_len(1 << 30))
            .expect("a sparse file");
        let begun = Instant::now();
        files.read(1, ToRead::Export);
        assert!(begun.elapsed() < Duration::from_millis(100), "whoever orders it does not wait: {:?}", begun.elapsed());
        files.give_up_reading();
        fs::write(&long, BEGINNING).expect("there is room");
        files.read(2, ToRead::Export);
        let Ok(Event::FileRead { number: 2, result: Err(_) }) = heard.recv_timeout(PATIENCE) else {
            panic!("the second is answered, and the first is not")
        };
        assert!(heard.recv_timeout(Duration::from_millis(300)).is_err());
        assert_eq!(names_in(dir.path()), [""; 0]);
    }
}
