//! What people know the keys of a slot by: their names in the ledger are digests, which nobody can read.
//!
//! `titles-UID`: version 1, then the keys one after the other in postcard: name, class, `CKK_*`, `CKA_ID`,
//! `CKA_LABEL`. The worker writes it while it looks through a token, row by row: what it holds of all keys at once is
//! their names. What is gone from the token follows after what is there, so that a key which was removed is still called
//! what it was called.
//!
//! Nothing is decided by it, and nothing in it is secret. One that was damaged is taken for none: the next look
//! writes what is in the token then.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use slotwarden_core::export::Class;
use slotwarden_core::ledger::KeyName;
use slotwarden_core::limits::FACTS_MAX;

use super::{make, of_slot, read_names, write_names};

/// With the slot's uid.
const TITLES: &str = "titles";
const VERSION: u8 = 1;
/// Longest `CKA_ID`, and longest `CKA_LABEL`, of a key that has a title, bytes: a page of the longest titles has to fit
/// one answer of the daemon. A key with a longer one is shown by its name alone.
pub const TITLE_PART_BYTES_MAX: usize = 255;
/// The parts of the longest row together.
const ROW_PARTS_BYTES_MAX: usize = 2 * TITLE_PART_BYTES_MAX;
/// The longest row: its parts, their lengths, a name and two numbers.
const ROW_BYTES_MAX: usize = ROW_PARTS_BYTES_MAX + 64;
/// 100,000 of the longest titles take 55 MB; a file that is longer is not ours.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What people know a key, a public key or a certificate by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Title {
    /// What it is.
    pub class: Class,
    /// `CKK_*`, or [`slotwarden_core::export::NO_KEY_TYPE`] for certificates.
    pub key_type: u64,
    /// `CKA_ID`.
    pub id: Vec<u8>,
    /// `CKA_LABEL`, as the token has it: to be made printable before it is shown.
    pub label: Vec<u8>,
}

/// A key in the file.
type Row<'a> = (KeyName, Class, u64, &'a [u8], &'a [u8]);

/// One look through the token of a slot: what is in it, and what that is called. Until [`Look::keep`] everything is as
/// it was before.
pub struct Look<'a> {
    dir: &'a Path,
    uid: [u8; 16],
    fresh: PathBuf,
    rows: BufWriter<File>,
    here: BTreeSet<KeyName>,
}

impl<'a> Look<'a> {
    /// Begins with nothing seen.
    ///
    /// # Errors
    /// As of the system.
    pub fn begin(dir: &'a Path, uid: [u8; 16]) -> io::Result<Self> {
        make(dir)?;
        let fresh = dir.join(of_slot(TITLES, uid) + ".new");
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        let mut rows = BufWriter::new(file);
        rows.write_all(&[VERSION])?;
        Ok(Look { dir, uid, fresh, rows, here: BTreeSet::new() })
    }

    /// Takes in an object of the token.
    ///
    /// # Errors
    /// As of the system.
    pub fn sees(&mut self, name: KeyName, class: Class, key_type: u64, id: &[u8], label: &[u8]) -> io::Result<()> {
        let fits = id.len().max(label.len()) <= TITLE_PART_BYTES_MAX;
        let is_new = self.here.insert(name);
        if fits && is_new { self.write(&(name, class, key_type, id, label)) } else { Ok(()) }
    }

    /// Keeps what was seen, and the titles of what is gone, as far as there is room: as many as a ledger has rows.
    ///
    /// # Errors
    /// As of the system.
    pub fn keep(mut self) -> io::Result<()> {
        let whole = is_whole(self.dir, self.uid);
        // A name is a digest of all that is in its title: the same names are called the same.
        if whole && read_names(self.dir, self.uid).is_ok_and(|names| names.as_ref() == Some(&self.here)) {
            return fs::remove_file(&self.fresh);
        }
        if whole {
            let mut room = usize::try_from(FACTS_MAX).unwrap_or(usize::MAX).saturating_sub(self.here.len());
            each_row(self.dir, self.uid, |row| {
                if room == 0 || self.here.contains(&row.0) {
                    return Ok(());
                }
                room -= 1;
                self.write(row)
            })?;
        }
        self.rows.flush()?;
        self.rows.get_ref().sync_all()?;
        fs::rename(&self.fresh, self.dir.join(of_slot(TITLES, self.uid)))?;
        write_names(self.dir, self.uid, &self.here)
    }

    fn write(&mut self, row: &Row<'_>) -> io::Result<()> {
        let mut buffer = [0; ROW_BYTES_MAX];
        let bytes = postcard::to_slice(row, &mut buffer);
        let bytes = bytes.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        self.rows.write_all(bytes)
    }
}

/// The titles of those keys of a slot that `which` names.
///
/// # Errors
/// As of the system; `InvalidData` when it is not a list of titles.
pub fn read_titles(dir: &Path, uid: [u8; 16], which: impl Fn(KeyName) -> bool) -> io::Result<BTreeMap<KeyName, Title>> {
    let mut titles = BTreeMap::new();
    each_row(dir, uid, |(name, class, key_type, id, label)| {
        if which(*name) {
            let title = Title { class: *class, key_type: *key_type, id: id.to_vec(), label: label.to_vec() };
            titles.insert(*name, title);
        }
        Ok(())
    })?;
    Ok(titles)
}

/// Whether there is a list of titles, and nothing else in its file.
fn is_whole(dir: &Path, uid: [u8; 16]) -> bool {
    each_row(dir, uid, |_| Ok(())).is_ok_and(|there| there)
}

/// Hands on every key of the file, if there is one.
fn each_row(dir: &Path, uid: [u8; 16], mut each: impl FnMut(&Row<'_>) -> io::Result<()>) -> io::Result<bool> {
    let mut file = match File::open(dir.join(of_slot(TITLES, uid))) {
        Ok(file) => BufReader::new(file.take(FILE_BYTES_MAX)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut version = [0];
    file.read_exact(&mut version)?;
    if version != [VERSION] {
        return Err(no_titles());
    }
    let mut parts = [0; ROW_PARTS_BYTES_MAX];
    while !file.fill_buf()?.is_empty() {
        let (row, rest) = postcard::from_io::<Row<'_>, _>((file, &mut parts)).map_err(|_| no_titles())?;
        if row.3.len().max(row.4.len()) > TITLE_PART_BYTES_MAX {
            return Err(no_titles());
        }
        each(&row)?;
        file = rest.0;
    }
    Ok(true)
}

fn no_titles() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no list of titles")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const UID: [u8; 16] = [2; 16];

    fn title(label: &[u8]) -> Title {
        Title { class: Class::Private, key_type: 3, id: vec![1], label: label.to_vec() }
    }

    fn keep_titles(dir: &Path, uid: [u8; 16], here: &BTreeMap<KeyName, Title>) -> io::Result<()> {
        let mut look = Look::begin(dir, uid)?;
        for (name, Title { class, key_type, id, label }) in here {
            look.sees(*name, *class, *key_type, id, label)?;
        }
        look.keep()
    }

    fn titles(of: &[(u8, &[u8])]) -> BTreeMap<KeyName, Title> {
        of.iter().map(|(number, label)| (KeyName([*number; 16]), title(label))).collect()
    }

    #[test]
    fn a_damaged_list_of_titles_is_refused_and_the_next_look_replaces_it() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
        let dir = dir.path();
        let here = titles(&[(1, b"first"), (2, b"second")]);
        keep_titles(dir, UID, &here).expect("a directory");
        let path = dir.join(of_slot(TITLES, UID));
        let whole = fs::read(&path).expect("it was written");
        for damaged in [whole[..whole.len() - 1].to_vec(), [&whole[..], b"x"].concat(), vec![9], Vec::new()] {
            fs::write(&path, &damaged).expect("it can be written");
            let error = read_titles(dir, UID, |_| true).expect_err("it is damaged");
            assert!(matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof), "{error}");
            keep_titles(dir, UID, &here).expect("a directory");
            assert_eq!(fs::read(&path).expect("it was written"), whole);
        }
    }

    #[test]
    fn what_is_gone_keeps_its_title_and_what_is_too_long_gets_none() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
        let dir = dir.path();
        assert_eq!(read_titles(dir, UID, |_| true).expect("none is none"), BTreeMap::new());
        let long = vec![b'x'; TITLE_PART_BYTES_MAX + 1];
        keep_titles(dir, UID, &titles(&[(1, b"first"), (2, b"second"), (3, &long)])).expect("a directory");
        keep_titles(dir, UID, &titles(&[(2, b"second"), (4, &long[1..])])).expect("a directory");
        let found = read_titles(dir, UID, |_| true).expect("it was written");
        assert_eq!(found, titles(&[(1, b"first"), (2, b"second"), (4, &long[1..])]));
        let one = read_titles(dir, UID, |name| name == KeyName([2; 16])).expect("it was written");
        assert_eq!(one, titles(&[(2, b"second")]));
        assert_eq!(read_titles(dir, [3; 16], |_| true).expect("another slot"), BTreeMap::new());
    }
}
