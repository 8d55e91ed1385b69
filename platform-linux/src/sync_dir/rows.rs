//! A file of ledger rows: magic `SLWL`, version 1, rows of 21 bytes ([`Fact::to_bytes`]) with names that
//! strictly rise, and SHA-256 of everything before it.
//!
//! A file is replaced as a whole or stays as it was. One that was cut or altered is refused: taken for an
//! empty one it would say that no key was ever removed. Rows are read and written one by one.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use slotwarden_core::ledger::{Fact, KeyName, Known, ROW_BYTES};
use slotwarden_core::limits::FACTS_MAX;

use crate::store::directory::{create_private, remove_if_there, rename_durably};

const START: [u8; 5] = *b"SLWL\x01";
const HASH_BYTES: usize = 32;

/// The rows of a file, in the order of their names. A problem ends them.
pub(super) struct Rows {
    path: PathBuf,
    /// `None`: there is no file, or it was read to its end, or it was refused.
    from: Option<BufReader<File>>,
    left: u32,
    hash: Sha256,
    above: Option<KeyName>,
}

impl Rows {
    /// Opens a file; one that is not there has no rows.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let mut rows = Rows { path, from: None, left: 0, hash: Sha256::new(), above: None };
        let file = match File::open(&rows.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(rows),
            Err(error) => return Err(error),
        };
        let bytes = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        let mut start = [0; START.len()];
        let mut from = BufReader::new(file);
        let begins = from.read_exact(&mut start).is_ok() && start == START;
        let in_rows = bytes.checked_sub(START.len() + HASH_BYTES).filter(|bytes| bytes.is_multiple_of(ROW_BYTES));
        let left = in_rows.and_then(|bytes| u32::try_from(bytes / ROW_BYTES).ok()).filter(|left| *left <= FACTS_MAX);
        rows.left = left.filter(|_| begins).ok_or_else(|| damaged(&rows.path))?;
        rows.hash.update(START);
        rows.from = Some(from);
        Ok(rows)
    }

    fn row(&mut self) -> io::Result<Option<Fact>> {
        let Some(from) = &mut self.from else { return Ok(None) };
        if self.left == 0 {
            let mut hash = [0; HASH_BYTES];
            from.read_exact(&mut hash)?;
            self.from = None;
            let is_whole = hash == <[u8; HASH_BYTES]>::from(self.hash.finalize_reset());
            return if is_whole { Ok(None) } else { Err(damaged(&self.path)) };
        }
        let mut row = [0; ROW_BYTES];
        from.read_exact(&mut row)?;
        self.hash.update(row);
        self.left -= 1;
        let fact = Fact::from_bytes(&row).filter(|fact| self.above.is_none_or(|above| above < fact.name));
        let fact = fact.ok_or_else(|| damaged(&self.path))?;
        self.above = Some(fact.name);
        Ok(Some(fact))
    }
}

impl Iterator for Rows {
    type Item = io::Result<Fact>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.row().transpose();
        if matches!(row, Some(Err(_))) {
            self.from = None;
        }
        row
    }
}

/// Writes a file. One that is not [finished](RowsWriter::finish) changes nothing.
pub(super) struct RowsWriter {
    path: PathBuf,
    fresh: PathBuf,
    to: BufWriter<File>,
    hash: Sha256,
    rows: u32,
    above: Option<KeyName>,
}

impl RowsWriter {
    pub(super) fn begin(path: PathBuf) -> io::Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let fresh = path.with_file_name(name);
        remove_if_there(&fresh)?;
        let mut to = BufWriter::new(create_private(&fresh)?);
        to.write_all(&START)?;
        Ok(RowsWriter { path, fresh, to, hash: Sha256::new().chain_update(START), rows: 0, above: None })
    }

    pub(super) fn push(&mut self, fact: Fact) -> io::Result<()> {
        if self.rows >= FACTS_MAX {
            return Err(io::Error::other(format!("{}: more than {FACTS_MAX} keys", self.path.display())));
        }
        if fact.known == Known::NEVER || self.above.is_some_and(|above| above >= fact.name) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the rows are not in the order of their names"));
        }
        (self.above, self.rows) = (Some(fact.name), self.rows + 1);
        let row = fact.to_bytes();
        self.hash.update(row);
        self.to.write_all(&row)
    }

    /// Makes the file durable under its name, unless that has the same rows already. Says whether it had others.
    pub(super) fn finish(mut self) -> io::Result<bool> {
        let hash = <[u8; HASH_BYTES]>::from(self.hash.finalize_reset());
        if last_hash(&self.path)? == Some(hash) {
            drop(self.to);
            fs::remove_file(&self.fresh)?;
            return Ok(false);
        }
        self.to.write_all(&hash)?;
        self.to.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        rename_durably(&self.fresh, &self.path)?;
        Ok(true)
    }
}

/// What a file says that its hash is; `None`: there is none.
pub(super) fn last_hash(path: &Path) -> io::Result<Option<[u8; HASH_BYTES]>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let bytes = file.metadata()?.len();
    let at = bytes.checked_sub(HASH_BYTES as u64).ok_or_else(|| damaged(path))?;
    file.seek(SeekFrom::Start(at))?;
    let mut hash = [0; HASH_BYTES];
    file.read_exact(&mut hash)?;
    Ok(Some(hash))
}

fn damaged(path: &Path) -> io::Error {
    let what = format!("{} is damaged; without it, what was removed from this slot is not known", path.display());
    io::Error::new(io::ErrorKind::InvalidData, what)
}
