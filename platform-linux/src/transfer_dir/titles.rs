//! What people know the keys of a slot by: their names in the ledger are digests, which nobody can read.
//!
//! `titles-UID`: version 1, then for each key, in the order of the names, one after the other in postcard: name, class,
//! `CKK_*`, `CKA_ID`, `CKA_LABEL`. The worker writes it whenever it looked through a token. What is gone from
//! the token stays in the file, so that a key which was removed is still called what it was called.
//!
//! Nothing is decided by it, and nothing in it is secret. One that was damaged is taken for none: the next look
//! writes what is in the token then.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use slotwarden_core::export::Class;
use slotwarden_core::ledger::KeyName;
use slotwarden_core::limits::FACTS_MAX;

use super::{make, of_slot, write};

/// With the slot's uid.
const TITLES: &str = "titles";
const VERSION: u8 = 1;
/// Longest `CKA_ID`, and longest `CKA_LABEL`, of a key that has a title, bytes: a page of the longest titles has to fit
/// one answer of the daemon. A key with a longer one is shown by its name alone.
pub const TITLE_PART_BYTES_MAX: usize = 255;
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

/// Takes in what the keys are called that are in the token of a slot. The others' titles are kept, as far as there is
/// room: as many as a ledger has rows.
///
/// # Errors
/// As of the system.
pub fn keep_titles(dir: &Path, uid: [u8; 16], here: &BTreeMap<KeyName, Title>) -> io::Result<()> {
    make(dir)?;
    let before = bytes(dir, uid)?;
    let fits = |title: &Title| title.id.len().max(title.label.len()) <= TITLE_PART_BYTES_MAX;
    let here = here.iter().filter(|(_, title)| fits(title));
    let mut rows: BTreeMap<KeyName, Row<'_>> = here
        .map(|(name, Title { class, key_type, id, label })| (*name, (*name, *class, *key_type, &id[..], &label[..])))
        .collect();
    let room = usize::try_from(FACTS_MAX).unwrap_or(usize::MAX).saturating_sub(rows.len());
    let gone: Vec<Row<'_>> =
        parsed(&before).unwrap_or_default().into_iter().filter(|row| !rows.contains_key(&row.0)).take(room).collect();
    rows.extend(gone.into_iter().map(|row| (row.0, row)));
    let mut after = vec![VERSION];
    for row in rows.values() {
        after = postcard::to_extend(row, after).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    }
    if after == before { Ok(()) } else { write(dir, &of_slot(TITLES, uid), &after) }
}

/// The titles of those keys of a slot that `which` names.
///
/// # Errors
/// As of the system; `InvalidData` when it is not a list of titles.
pub fn read_titles(dir: &Path, uid: [u8; 16], which: impl Fn(KeyName) -> bool) -> io::Result<BTreeMap<KeyName, Title>> {
    let bytes = bytes(dir, uid)?;
    let rows = parsed(&bytes).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no list of titles"))?;
    let title = |(name, class, key_type, id, label): Row<'_>| {
        (name, Title { class, key_type, id: id.to_vec(), label: label.to_vec() })
    };
    Ok(rows.into_iter().filter(|row| which(row.0)).map(title).collect())
}

/// The file; empty where there is none.
fn bytes(dir: &Path, uid: [u8; 16]) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match File::open(dir.join(of_slot(TITLES, uid))) {
        Ok(file) => file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error),
    };
    Ok(bytes)
}

fn parsed(bytes: &[u8]) -> Option<Vec<Row<'_>>> {
    let mut left = match bytes {
        [] => return Some(Vec::new()),
        [VERSION, left @ ..] => left,
        _ => return None,
    };
    let mut rows: Vec<Row<'_>> = Vec::new();
    while !left.is_empty() {
        let (row, rest) = postcard::take_from_bytes::<Row<'_>>(left).ok()?;
        let rises = rows.last().is_none_or(|above| above.0 < row.0);
        if !rises || row.3.len().max(row.4.len()) > TITLE_PART_BYTES_MAX {
            return None;
        }
        rows.push(row);
        left = rest;
    }
    Some(rows)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const UID: [u8; 16] = [2; 16];

    fn title(label: &[u8]) -> Title {
        Title { class: Class::Private, key_type: 3, id: vec![1], label: label.to_vec() }
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
        let swapped = [&whole[..1], &whole[1 + (whole.len() - 2) / 2..], &whole[1..=(whole.len() - 2) / 2]].concat();
        for damaged in [whole[..whole.len() - 1].to_vec(), [&whole[..], b"x"].concat(), vec![9], swapped] {
            fs::write(&path, &damaged).expect("it can be written");
            let error = read_titles(dir, UID, |_| true).expect_err("it is damaged");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
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
