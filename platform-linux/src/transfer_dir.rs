//! The directory through which the daemon and its HSM worker hand exports and restores to each other.
//!
//! Keys never pass the socket between the two: the worker writes what it wraps straight into the
//! file that the daemon began, and reads what is to be restored from the file that the daemon
//! spooled. Names are fixed, so nobody tells the worker a path. The directory is the service's
//! alone (0700). What is in it after a restart: a half-made export, which nobody publishes, and
//! the file and the plan of a restore that was under way, which are needed to finish it.

mod titles;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use slotwarden_core::export::{Attributes, Class, Entry};
use slotwarden_core::ledger::{KeyName, NAME_BYTES};

pub use titles::{Look, TITLE_PART_BYTES_MAX, Title, read_titles};

/// The export that is being made.
pub const EXPORT: &str = "export.part";
/// The file that is being restored.
pub const RESTORE: &str = "restore.slwx";
/// What the vendor's own program wrote of the slot whose section is next, or what it is given back.
pub const VENDOR_PART: &str = "vendor.part";
const JOB: &str = "export.job";
const REPORT: &str = "export.report";
/// What a restore makes; with the slot's uid what a package makes there.
const PLAN: &str = "restore.plan";
/// That an import may have made objects. A new plan begins without it.
const BEGUN: &str = "restore.begun";
/// The digest of the export that was made last.
const DIGEST: &str = "export.digest";
/// Which keys the export holds that nobody has taken yet.
const TAKEN: &str = "export.covers";
/// With the slot's uid: which of its keys the last export holds.
const COVERED: &str = "covered";
/// With the slot's uid: which keys were in its token before the vendor's program made its part of an export.
const HELD: &str = "held";
/// With the slot's uid: which objects are in its token.
const NAMES: &str = "names";
/// With the slot's uid: which keys of a package are not made, since they are recorded as removed.
const UNWANTED: &str = "unwanted";
/// What is known of the keys of the slot that the restore is for.
const REMEMBERED: &str = "restore.remembered";
/// A plan of 100,000 entries takes less; a file that is longer is not ours.
const FILE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// First half of a SHA-256.
pub const DIGEST_BYTES: usize = 16;
/// Attributes that tell one value from another, as numbers of the file: check value, modulus,
/// public exponent, parameters of a curve.
const TELLING: [u32; 4] = [0x90, 0x120, 0x122, 0x180];

/// What the daemon wants in the export, for one slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportJob {
    /// The slot's name.
    pub name: String,
    /// Of the header that is in the file already.
    pub header_hash: [u8; 32],
    /// What is exported for.
    pub purpose: JobPurpose,
    /// Whether the section is what the vendor's own program wrote, in [`VENDOR_PART`].
    pub vendor: bool,
}

/// What an export is for, as the worker has to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobPurpose {
    /// A file that people keep.
    Backup {
        /// Names of keys that may be left out because they cannot leave.
        accepted: Vec<String>,
    },
    /// A package for other nodes: keys that cannot leave are listed, and no reason to refuse it.
    Package {
        /// What every target has already, or must not get: sorted.
        skip: Vec<KeyName>,
    },
}

/// What an import makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePlan {
    /// SHA-256 of the whole file it was made for.
    pub hash: [u8; 32],
    /// Which section.
    pub uid: [u8; 16],
    /// Entries that the token does not have, in rising order.
    pub new: Vec<u32>,
}

/// What is known of keys of a slot that are not in its token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The slot, by whose uid keys are named.
    pub uid: [u8; 16],
    /// Recorded as removed, and in the token of a package's source no more.
    pub removed: BTreeSet<KeyName>,
    /// In the token when it was looked through last: what is not there now was removed since, and that counts
    /// already (P25).
    pub seen: BTreeSet<KeyName>,
}

impl Remembered {
    /// Whether this entry was removed; `there`: the token has an object of its name.
    #[must_use]
    pub fn was_removed(&self, entry: &Entry<'_>, there: bool) -> bool {
        let name = KeyName::of_entry(&self.uid, entry);
        name.is_some_and(|name| self.removed.contains(&name) || (!there && self.seen.contains(&name)))
    }
}

/// Makes the directory, unless it is there.
///
/// # Errors
/// As of the system.
pub fn make(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Keeps what the worker shall export.
///
/// # Errors
/// As of the system.
pub fn write_job(dir: &Path, job: &ExportJob) -> io::Result<()> {
    make(dir)?;
    // On a full disk that of another export would stay, and the section would belong to none.
    remove(dir, JOB)?;
    write(dir, JOB, &packed(job)?)
}

/// What the daemon wants exported.
///
/// # Errors
/// As of the system; `InvalidData` when it is not a job.
pub fn read_job(dir: &Path) -> io::Result<ExportJob> {
    read(dir, JOB)
}

/// Which plan is meant: there is one of a restore, and one of a package for each slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanOf {
    /// Of the file that is restored.
    Restore,
    /// Of the package that was received, for the slot with this uid.
    Package([u8; 16]),
}

impl PlanOf {
    fn file(self, name: &str) -> String {
        match self {
            PlanOf::Restore => name.to_owned(),
            PlanOf::Package(uid) => of_slot(name, uid),
        }
    }
}

/// Keeps the plan of an import.
///
/// # Errors
/// As of the system.
pub fn write_plan(dir: &Path, which: PlanOf, plan: &RestorePlan) -> io::Result<()> {
    remove(dir, &which.file(BEGUN))?;
    write(dir, &which.file(PLAN), &packed(plan)?)
}

/// The plan of the import that is under way.
///
/// # Errors
/// As of the system; `InvalidData` when it is not a plan.
pub fn read_plan(dir: &Path, which: PlanOf) -> io::Result<RestorePlan> {
    read(dir, &which.file(PLAN))
}

/// Forgets a plan: nothing of it is made from here on.
///
/// # Errors
/// As of the system.
pub fn forget_plan(dir: &Path, which: PlanOf) -> io::Result<()> {
    remove(dir, &which.file(PLAN))
}

/// Keeps that the import of this plan may have made objects.
///
/// # Errors
/// As of the system.
pub fn begin_import(dir: &Path, which: PlanOf, plan: &RestorePlan) -> io::Result<()> {
    write(dir, &which.file(BEGUN), &plan.hash)
}

/// Keeps that nothing of an import is in the token any more.
///
/// # Errors
/// As of the system.
pub fn end_import(dir: &Path, which: PlanOf) -> io::Result<()> {
    remove(dir, &which.file(BEGUN))
}

/// Whether the import of this plan may have made objects.
///
/// # Errors
/// As of the system.
pub fn is_import_begun(dir: &Path, which: PlanOf, plan: &RestorePlan) -> io::Result<bool> {
    match fs::read(dir.join(which.file(BEGUN))) {
        Ok(hash) => Ok(hash == plan.hash),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Keeps which objects are in the token of a slot.
///
/// # Errors
/// As of the system.
fn write_names(dir: &Path, uid: [u8; 16], names: &BTreeSet<KeyName>) -> io::Result<()> {
    make(dir)?;
    write_list(dir, &of_slot(NAMES, uid), names)
}

/// Which objects were in the token of a slot when it was looked through last; `None`: it never was.
///
/// # Errors
/// As of the system; `InvalidData` when it is not a list of names.
pub fn read_names(dir: &Path, uid: [u8; 16]) -> io::Result<Option<BTreeSet<KeyName>>> {
    read_list(dir, &of_slot(NAMES, uid))
}

/// Keeps what is known of the keys of the slot that a restore is planned for.
///
/// # Errors
/// As of the system.
pub fn write_remembered(dir: &Path, remembered: &Remembered) -> io::Result<()> {
    make(dir)?;
    // On a full disk that of another slot would stay.
    remove(dir, REMEMBERED)?;
    write(dir, REMEMBERED, &packed(remembered)?)
}

/// What is known of the keys of the slot that a plan is made for.
///
/// # Errors
/// As of the system; `InvalidData` when it is not that.
pub fn read_remembered(dir: &Path, which: PlanOf) -> io::Result<Remembered> {
    match which {
        // Without a ledger nothing was ever removed.
        PlanOf::Restore => match read(dir, REMEMBERED) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Remembered::default()),
            read => read,
        },
        PlanOf::Package(uid) => {
            let seen = read_names(dir, uid)?.unwrap_or_default();
            Ok(Remembered { uid, removed: read_unwanted(dir, uid)?, seen })
        }
    }
}

/// Keeps which keys of a package are not to be made in a slot.
///
/// # Errors
/// As of the system.
pub fn write_unwanted(dir: &Path, uid: [u8; 16], names: &BTreeSet<KeyName>) -> io::Result<()> {
    make(dir)?;
    write_list(dir, &of_slot(UNWANTED, uid), names)
}

/// Which keys of a package are not to be made in a slot.
///
/// # Errors
/// As of the system; `InvalidData` when it is not a list of names.
fn read_unwanted(dir: &Path, uid: [u8; 16]) -> io::Result<BTreeSet<KeyName>> {
    read_list(dir, &of_slot(UNWANTED, uid)).map(Option::unwrap_or_default)
}

fn of_slot(name: &str, uid: [u8; 16]) -> String {
    uid.iter().fold(format!("{name}-"), |name, byte| name + &format!("{byte:02x}"))
}

fn write_list(dir: &Path, name: &str, names: &BTreeSet<KeyName>) -> io::Result<()> {
    let bytes: Vec<u8> = names.iter().flat_map(|name| name.0).collect();
    write(dir, name, &bytes)
}

fn read_list(dir: &Path, name: &str) -> io::Result<Option<BTreeSet<KeyName>>> {
    let bytes = match fs::read(dir.join(name)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let (names, rest) = bytes.as_chunks::<NAME_BYTES>();
    if !rest.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "half a name"));
    }
    Ok(Some(names.iter().map(|name| KeyName(*name)).collect()))
}

fn remove(dir: &Path, name: &str) -> io::Result<()> {
    match fs::remove_file(dir.join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Says which keys cannot leave and were not accepted.
///
/// # Errors
/// As of the system.
pub fn write_report(dir: &Path, names: &[String]) -> io::Result<()> {
    // A label may hold anything; one line is one name.
    let lines: String = names.iter().map(|name| printable(name) + "\n").collect();
    write(dir, REPORT, lines.as_bytes())
}

/// The names that [`write_report`] wrote.
///
/// # Errors
/// As of the system.
pub fn read_report(dir: &Path) -> io::Result<Vec<String>> {
    let text = fs::read_to_string(dir.join(REPORT))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// What a key that cannot leave is called when it is accepted: its label, or its id.
#[must_use]
pub fn name_of(label: &[u8], id: &[u8]) -> String {
    if label.is_empty() {
        id.iter().fold("id:".to_owned(), |name, byte| name + &format!("{byte:02x}"))
    } else {
        printable(&String::from_utf8_lossy(label))
    }
}

/// A text that comes from a file or a token, as it may be shown on a terminal.
#[must_use]
pub fn printable(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// What coverage knows a key by.
#[must_use]
pub fn digest(class: Class, id: &[u8], label: &[u8], recorded: Attributes<'_>) -> [u8; DIGEST_BYTES] {
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes();
    let class: u8 = match class {
        Class::Secret => 0,
        Class::Private => 1,
        Class::Public => 2,
        Class::Certificate => 3,
    };
    let mut hash = Sha256::new();
    hash.update([class]);
    for name in [id, label] {
        hash.update(length(name));
        hash.update(name);
    }
    for (kind, value) in recorded.iter() {
        if TELLING.contains(&kind) {
            hash.update(value);
        }
    }
    let mut short = [0; DIGEST_BYTES];
    short.copy_from_slice(&hash.finalize()[..DIGEST_BYTES]);
    short
}

/// What coverage knows an entry of an export by. A module may give a check value of a secret key that
/// it made, and none of one that was restored: such an entry is known without it too.
pub fn digests_of(entry: &Entry<'_>) -> impl Iterator<Item = [u8; DIGEST_BYTES]> {
    let by = |recorded| digest(entry.class, entry.id, entry.label, recorded);
    let nameless = Attributes::new(&[]).ok().filter(|_| entry.class == Class::Secret);
    std::iter::once(by(entry.recorded)).chain(nameless.map(by))
}

/// Keeps which keys of a slot the last export holds.
///
/// # Errors
/// As of the system.
pub fn cover(dir: &Path, uid: [u8; 16], digests: &BTreeSet<[u8; DIGEST_BYTES]>) -> io::Result<()> {
    make(dir)?;
    let bytes: Vec<u8> = digests.iter().flatten().copied().collect();
    write(dir, &of_slot(COVERED, uid), &bytes)
}

/// Keeps the SHA-256 of the export that was made last, and of which file it is ([`crate::devices::FilePart`]).
///
/// # Errors
/// As of the system.
pub fn write_last_digest(dir: &Path, digest: &(u64, [u8; 32])) -> io::Result<()> {
    write(dir, DIGEST, &packed(digest)?)
}

/// What [`write_last_digest`] wrote.
///
/// # Errors
/// As of the system; `InvalidData` when it is not that.
pub fn read_last_digest(dir: &Path) -> io::Result<(u64, [u8; 32])> {
    read(dir, DIGEST)
}

/// Keeps which keys the export holds that was made last, by the uids of their slots, until somebody has taken it: a file
/// that lies here alone saves nothing.
///
/// # Errors
/// As of the system.
pub fn write_taken(dir: &Path, covered: &BTreeMap<[u8; 16], BTreeSet<[u8; DIGEST_BYTES]>>) -> io::Result<()> {
    write(dir, TAKEN, &packed(covered)?)
}

/// Nobody has taken the export that is going to be the last.
///
/// # Errors
/// As of the system.
pub fn forget_taken(dir: &Path) -> io::Result<()> {
    remove(dir, TAKEN)
}

/// Somebody has the export that was made last: its keys are covered. Once more is nothing.
///
/// # Errors
/// As of the system; `InvalidData` when it is not what [`write_taken`] wrote.
pub fn cover_taken(dir: &Path) -> io::Result<()> {
    let covered: BTreeMap<[u8; 16], BTreeSet<[u8; DIGEST_BYTES]>> = match read(dir, TAKEN) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read?,
    };
    for (uid, digests) in covered {
        cover(dir, uid, &digests)?;
    }
    remove(dir, TAKEN)
}

/// Which keys of a slot the last export holds; none when there was none.
///
/// # Errors
/// As of the system; `InvalidData` when it is not a list of digests.
pub fn covered(dir: &Path, uid: [u8; 16]) -> io::Result<BTreeSet<[u8; DIGEST_BYTES]>> {
    read_digests(dir, &of_slot(COVERED, uid))
}

fn read_digests(dir: &Path, name: &str) -> io::Result<BTreeSet<[u8; DIGEST_BYTES]>> {
    let bytes = match fs::read(dir.join(name)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error),
    };
    let (digests, rest) = bytes.as_chunks::<DIGEST_BYTES>();
    if !rest.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "half a digest"));
    }
    Ok(digests.iter().copied().collect())
}

/// Keeps which keys were in a token before the vendor's program made its part of an export.
///
/// # Errors
/// As of the system.
pub fn write_held(dir: &Path, uid: [u8; 16], digests: &BTreeSet<[u8; DIGEST_BYTES]>) -> io::Result<()> {
    let bytes: Vec<u8> = digests.iter().flatten().copied().collect();
    write(dir, &of_slot(HELD, uid), &bytes)
}

/// Which keys those were.
///
/// # Errors
/// As of the system; `InvalidData` when it is not a list of digests.
pub fn read_held(dir: &Path, uid: [u8; 16]) -> io::Result<BTreeSet<[u8; DIGEST_BYTES]>> {
    read_digests(dir, &of_slot(HELD, uid))
}

fn packed(value: &impl Serialize) -> io::Result<Vec<u8>> {
    postcard::to_stdvec(value).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

fn read<T: DeserializeOwned>(dir: &Path, name: &str) -> io::Result<T> {
    let mut bytes = Vec::new();
    File::open(dir.join(name))?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    postcard::from_bytes(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Durable and whole, or as it was.
pub(crate) fn write(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let fresh: PathBuf = dir.join(format!("{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, dir.join(name))?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_cannot_be_written_leaves_none_of_an_earlier_export() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
        let dir = dir.path();
        let job = |header_hash| ExportJob {
            name: "ca-root".into(),
            header_hash,
            purpose: JobPurpose::Backup { accepted: Vec::new() },
            vendor: false,
        };
        write_job(dir, &job([1; 32])).expect("a directory");
        // What stands in its way is there at the moment of writing only, as a full disk is.
        fs::create_dir(dir.join("export.job.new")).expect("a directory");
        assert!(write_job(dir, &job([2; 32])).is_err());
        assert_eq!(read_job(dir).map_err(|error| error.kind()), Err(io::ErrorKind::NotFound));
        fs::remove_dir(dir.join("export.job.new")).expect("it is empty");
        write_job(dir, &job([2; 32])).expect("a directory");
        assert_eq!(read_job(dir).expect("it was written"), job([2; 32]));
    }

    #[test]
    fn what_was_written_is_read_and_a_slot_without_an_export_covers_nothing() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
        let dir = dir.path().join("transfer");
        let job = ExportJob {
            name: "ca-root".into(),
            header_hash: [7; 32],
            purpose: JobPurpose::Backup { accepted: vec!["old".into()] },
            vendor: true,
        };
        write_job(&dir, &job).expect("a fresh directory");
        assert_eq!(read_job(&dir).expect("it was written"), job);
        let plan = RestorePlan { hash: [1; 32], uid: [2; 16], new: (0..70_000).collect() };
        let other = RestorePlan { new: vec![], ..plan.clone() };
        for (which, plan) in [(PlanOf::Restore, &plan), (PlanOf::Package([2; 16]), &other)] {
            assert!(read_plan(&dir, which).is_err(), "each has a place of its own");
            write_plan(&dir, which, plan).expect("a directory");
            assert_eq!(&read_plan(&dir, which).expect("it was written"), plan);
            assert!(!is_import_begun(&dir, which, plan).expect("it was written"));
            begin_import(&dir, which, plan).expect("a directory");
            assert!(is_import_begun(&dir, which, plan).expect("it was written"));
        }
        assert_eq!(read_names(&dir, [2; 16]).expect("none is none"), None);
        let names = BTreeSet::from([KeyName([9; 16]), KeyName([3; 16])]);
        write_names(&dir, [2; 16], &names).expect("a directory");
        assert_eq!(read_names(&dir, [2; 16]).expect("it was written"), Some(names));
        assert!(read_unwanted(&dir, [2; 16]).expect("none is none").is_empty());
        assert!(covered(&dir, [3; 16]).expect("none is none").is_empty());
        let digests = BTreeSet::from([[4; 16], [1; 16]]);
        cover(&dir, [3; 16], &digests).expect("a directory");
        assert_eq!(covered(&dir, [3; 16]).expect("it was written"), digests);
        assert_eq!(name_of(b"\x1b[2Jroot", b"1"), " [2Jroot", "a terminal shows it and does nothing");
        write_report(&dir, &["a\nb".into(), "c".into()]).expect("a directory");
        assert_eq!(read_report(&dir).expect("it was written"), ["a b", "c"]);
    }
}
