//! What is known of the keys of each slot, here and at the other members of the cluster: files of the
//! synchronisation directory.
//!
//! One file for each slot and node holds rows of `slotwarden_core::ledger`, in rising order, and is replaced
//! as a whole. Nothing in it is secret, and nothing in it decides about a key that is in a token: it says what
//! travels, and what does not come back. What is here of this node's own token is what the last look
//! at it found. After a restart the files are there; a power cut leaves the old one or the new one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use slotwarden_core::ledger::{Comparison, Fact, KeyName, Known, ROW_BYTES, Standing, is_ready};

use crate::audit::hex;
use crate::transfer_dir;

/// Whose knowledge a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// This node's.
    Own,
    /// What this member said last.
    Member([u8; 32]),
}

/// What is known of the keys of one slot.
pub type Ledger = BTreeMap<KeyName, Known>;

/// The directory.
#[derive(Clone, Debug)]
pub struct LedgerDir {
    dir: PathBuf,
}

/// How far the keys of a slot are on every node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// Objects that are here.
    pub here: u32,
    /// Those that every member has.
    pub ready: u32,
    /// Those that are here although they were removed on another node.
    pub removed_elsewhere: u32,
}

impl LedgerDir {
    /// In this directory, which has to exist when something is written.
    #[must_use]
    pub const fn new(dir: PathBuf) -> Self {
        LedgerDir { dir }
    }

    /// What is known; `None`: nothing was ever heard.
    ///
    /// # Errors
    /// As of the system; `InvalidData` when it is no ledger.
    pub fn read(&self, whose: Whose, uid: [u8; 16]) -> io::Result<Option<Ledger>> {
        let bytes = match fs::read(self.path(whose, uid)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "a ledger is damaged");
        let (rows, rest) = bytes.as_chunks::<ROW_BYTES>();
        if !rest.is_empty() {
            return Err(damaged());
        }
        let facts = rows.iter().map(|row| Fact::from_bytes(row).map(|fact| (fact.name, fact.known)));
        facts.collect::<Option<Ledger>>().map(Some).ok_or_else(damaged)
    }

    /// Takes in what a look at the own token found; whether anything is new by it.
    ///
    /// # Errors
    /// As of the system.
    pub fn observe(&self, uid: [u8; 16], there: &BTreeSet<KeyName>) -> io::Result<bool> {
        let before = self.read(Whose::Own, uid)?;
        let mut own = before.clone().unwrap_or_default();
        for name in there {
            own.entry(*name).or_default().observe(true);
        }
        for (name, known) in &mut own {
            if !there.contains(name) {
                known.observe(false);
            }
        }
        let is_new = before.as_ref() != Some(&own);
        if is_new {
            self.write(Whose::Own, uid, &own)?;
        }
        Ok(is_new)
    }

    /// Objects that need not travel: those that none of these members wants.
    ///
    /// # Errors
    /// As of the system.
    pub fn skip(&self, uid: [u8; 16], targets: &[[u8; 32]]) -> io::Result<Vec<KeyName>> {
        let own = self.read(Whose::Own, uid)?.unwrap_or_default();
        let theirs = targets.iter().map(|node| self.read(Whose::Member(*node), uid).map(Option::unwrap_or_default));
        let theirs = theirs.collect::<io::Result<Vec<Ledger>>>()?;
        let is_wanted = |name: &KeyName, mut known: Known| {
            // It is asked of objects that are found in the token.
            known.observe(true);
            theirs.iter().any(|theirs| theirs.get(name).copied().unwrap_or_default().is_wanted(known))
        };
        Ok(own.iter().filter(|(name, known)| !is_wanted(name, **known)).map(|(name, _)| *name).collect())
    }

    /// Objects of a package that are not made: they were here, or are known to have been removed.
    ///
    /// # Errors
    /// As of the system.
    pub fn unwanted(&self, uid: [u8; 16], facts: &[Fact]) -> io::Result<BTreeSet<KeyName>> {
        let own = self.read(Whose::Own, uid)?.unwrap_or_default();
        let theirs: Ledger = facts.iter().map(|fact| (fact.name, fact.known)).collect();
        let removed = |(name, known): &(&KeyName, &Known)| {
            !known.here && known.count > 0 && !known.is_wanted(theirs.get(name).copied().unwrap_or_default())
        };
        Ok(own.iter().filter(removed).map(|(name, _)| *name).collect())
    }

    /// Keeps what a member said, and merges it. Once more is the same.
    ///
    /// # Errors
    /// As of the system.
    pub fn take_in(&self, source: [u8; 32], uid: [u8; 16], facts: &[Fact]) -> io::Result<()> {
        let theirs: Ledger = facts.iter().map(|fact| (fact.name, fact.known)).collect();
        let mut own = self.read(Whose::Own, uid)?.unwrap_or_default();
        for (name, known) in &theirs {
            own.entry(*name).or_default().merge(known.count);
        }
        self.write(Whose::Own, uid, &own)?;
        self.write(Whose::Member(source), uid, &theirs)
    }

    /// The own rows, for a package.
    ///
    /// # Errors
    /// As of the system.
    pub fn facts(&self, uid: [u8; 16]) -> io::Result<Vec<Fact>> {
        let own = self.read(Whose::Own, uid)?.unwrap_or_default();
        Ok(own.into_iter().filter(|(_, known)| known.count > 0).map(|(name, known)| Fact { name, known }).collect())
    }

    /// How a member stands to this node, over these slots.
    ///
    /// # Errors
    /// As of the system.
    pub fn standing(&self, member: [u8; 32], uids: &[[u8; 16]]) -> io::Result<Standing> {
        let mut comparison = Comparison::default();
        let mut is_heard = false;
        for uid in uids {
            let own = self.read(Whose::Own, *uid)?.unwrap_or_default();
            let Some(theirs) = self.read(Whose::Member(member), *uid)? else { continue };
            is_heard = true;
            for name in own.keys().chain(theirs.keys()).collect::<BTreeSet<_>>() {
                let of = |ledger: &Ledger| ledger.get(name).copied().unwrap_or_default();
                comparison.see(of(&own), of(&theirs));
            }
        }
        Ok(if is_heard { comparison.standing() } else { Standing::Unheard })
    }

    /// How far the keys of a slot are on every one of these members.
    ///
    /// # Errors
    /// As of the system.
    pub fn spread(&self, uid: [u8; 16], members: &[[u8; 32]]) -> io::Result<Spread> {
        let own = self.read(Whose::Own, uid)?.unwrap_or_default();
        let theirs = members.iter().map(|node| self.read(Whose::Member(*node), uid));
        let theirs = theirs.collect::<io::Result<Vec<Option<Ledger>>>>()?;
        let mut spread = Spread::default();
        for (name, known) in own.iter().filter(|(_, known)| known.here) {
            let of = |ledger: &Option<Ledger>| ledger.as_ref().map(|ledger| ledger.get(name).copied().unwrap_or_default());
            spread.here = spread.here.saturating_add(1);
            spread.ready = spread.ready.saturating_add(u32::from(is_ready(*known, theirs.iter().map(of))));
            let removed = u32::from(known.is_removed_elsewhere());
            spread.removed_elsewhere = spread.removed_elsewhere.saturating_add(removed);
        }
        Ok(spread)
    }

    fn write(&self, whose: Whose, uid: [u8; 16], ledger: &Ledger) -> io::Result<()> {
        let rows = ledger.iter().filter(|(_, known)| known.count > 0);
        let bytes: Vec<u8> = rows.flat_map(|(name, known)| Fact { name: *name, known: *known }.to_bytes()).collect();
        transfer_dir::make(&self.dir)?;
        transfer_dir::write(&self.dir, &file_name(whose, uid), &bytes)
    }

    fn path(&self, whose: Whose, uid: [u8; 16]) -> PathBuf {
        self.dir.join(Path::new(&file_name(whose, uid)))
    }
}

fn file_name(whose: Whose, uid: [u8; 16]) -> String {
    match whose {
        Whose::Own => format!("own-{}", hex(&uid)),
        Whose::Member(node) => format!("{}-{}", hex(&node), hex(&uid)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: [u8; 16] = [5; 16];
    const A: [u8; 32] = [1; 32];
    const B: [u8; 32] = [2; 32];

    fn names(names: &[u8]) -> BTreeSet<KeyName> {
        names.iter().map(|name| KeyName([*name; 16])).collect()
    }

    fn node(folder: &tempfile::TempDir, name: &str) -> LedgerDir {
        LedgerDir::new(folder.path().join(name))
    }

    #[test]
    fn p25_a_key_that_was_removed_is_wanted_by_nobody_and_sent_by_nobody() {
        let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
        let (a, b) = (node(&folder, "a"), node(&folder, "b"));
        assert!(a.observe(UID, &names(&[1, 2])).expect("a directory"));
        assert!(!a.observe(UID, &names(&[1, 2])).expect("a directory"), "nothing is new");
        assert_eq!(a.skip(UID, &[B]).expect("a directory"), [], "the other has none of them");
        let facts = a.facts(UID).expect("a directory");
        assert!(b.unwanted(UID, &facts).expect("a directory").is_empty());
        b.take_in(A, UID, &facts).expect("a directory");
        assert_eq!(b.standing(A, &[UID]).expect("a directory"), Standing::Ahead);
        b.observe(UID, &names(&[1, 2])).expect("a directory");
        assert_eq!(b.standing(A, &[UID]).expect("a directory"), Standing::InSync);
        a.take_in(B, UID, &b.facts(UID).expect("a directory")).expect("a directory");
        assert_eq!(a.spread(UID, &[B]).expect("a directory"), Spread { here: 2, ready: 2, removed_elsewhere: 0 });
        // One is destroyed here; the other node has it still, and what it says brings nothing back.
        a.observe(UID, &names(&[2])).expect("a directory");
        let facts = b.facts(UID).expect("a directory");
        assert_eq!(a.unwanted(UID, &facts).expect("a directory"), names(&[1]));
        a.take_in(B, UID, &facts).expect("a directory");
        assert_eq!(a.unwanted(UID, &facts).expect("a directory"), names(&[1]));
        b.take_in(A, UID, &a.facts(UID).expect("a directory")).expect("a directory");
        assert_eq!(b.skip(UID, &[A]).expect("a directory").len(), 2, "one is there, the other was removed there");
        assert_eq!(b.spread(UID, &[A]).expect("a directory").removed_elsewhere, 1);
        assert_eq!(b.standing(A, &[UID]).expect("a directory"), Standing::Diverged);
        // Somebody makes it again, on purpose: now it is wanted.
        a.observe(UID, &names(&[1, 2])).expect("a directory");
        b.observe(UID, &names(&[2])).expect("a directory");
        assert!(b.unwanted(UID, &a.facts(UID).expect("a directory")).expect("a directory").is_empty());
    }

    #[test]
    fn nothing_was_heard_of_who_never_said_anything_and_a_damaged_ledger_is_refused() {
        let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
        let a = node(&folder, "a");
        assert_eq!(a.standing(B, &[UID]).expect("none is none"), Standing::Unheard);
        a.observe(UID, &names(&[1])).expect("a directory");
        assert_eq!(a.standing(B, &[UID]).expect("a directory"), Standing::Unheard);
        assert_eq!(a.spread(UID, &[B]).expect("a directory"), Spread { here: 1, ready: 0, removed_elsewhere: 0 });
        let path = a.path(Whose::Own, UID);
        let mut bytes = fs::read(&path).expect("it was written");
        bytes.pop();
        fs::write(&path, &bytes).expect("a directory");
        assert_eq!(a.facts(UID).expect_err("half a row").kind(), io::ErrorKind::InvalidData);
    }
}
