//! The ledgers of one daemon: which keys each slot has had and has, here and at the other members.
//!
//! | file in `STATE_DIR/sync` | what is in it |
//! |---|---|
//! | `own-UID` | what this node knows of the keys of a slot |
//! | `NODE-UID` | what a member said of them last |
//! | `heard-NODE` | which package of the member that was |
//!
//! From them comes what a package has to carry ([`SyncDir::skip`]), what of a package is not made
//! ([`SyncDir::unwanted`]), how members stand and which keys everybody has. The rules are the core's
//! ([`slotwarden_core::ledger`]); here are the files. Names of keys are in them, and nothing secret.
//!
//! What it promises: each file is replaced as a whole. Everything that changes files can be repeated, also after
//! half of it, and then comes to the same: `heard-NODE` is written last. So after a restart a package
//! whose facts were not taken in to the end is taken in once more. A file that was damaged is refused by its
//! name, since a lost ledger does not know what was removed (P25). If it is deleted, the next packages of
//! the members bring back what they know. One thread at a time changes them, which a lock sees to.
//!
//! Rows are read and written one by one where they are not handed over as facts: 24 bytes each, 2.4 MB for
//! 100,000. A slot that a member does not keep, which its facts then do not list, is not compared and needs nothing there.

mod keys;
mod rows;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufReader};
use std::iter::Peekable;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use slotwarden_core::export;
use slotwarden_core::ledger::{Comparison, Fact, KeyName, Known, Standing, is_ready};

pub use self::keys::{LedgerKey, LedgerKeys, Readiness};
use self::rows::{Rows, RowsWriter, last_hash};
use crate::audit::hex;
use crate::export_file::Io;
use crate::store::directory::{remove_if_there, sync_directory, write_durably};
use crate::transfer_dir::Remembered;

/// The uid of a slot.
pub type Uid = [u8; 16];
/// A member's node key.
pub type Node = [u8; 32];
/// What is said of a slot: rows in the order of their names.
pub type SlotFacts = (Uid, Vec<Fact>);

const HEARD: &str = "heard-";
/// Version of [`Heard`] on disk.
const HEARD_VERSION: u8 = 1;

/// The directory. It holds no file open, and a clone of it is the same directory.
#[derive(Clone, Debug)]
pub struct SyncDir {
    dir: PathBuf,
    /// Held by whoever changes a file.
    changing: Arc<Mutex<()>>,
}

/// What a look into the token changed in the ledger of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Keys that were not there before; what a package brought is one of them.
    pub came: u32,
    /// Keys that were there before.
    pub went: u32,
    /// Whether the ledger says anything else than before.
    pub changed: bool,
}

/// Which package the facts of a member are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// The member.
    pub node: Node,
    /// Which of its packages.
    pub sequence: u64,
    /// Names the package.
    pub hash: [u8; 32],
    /// When the member made it, seconds since 1970, by its clock.
    pub made_s: Option<u64>,
}

/// What `status` says of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotCounts {
    /// Objects in the token.
    pub here: u32,
    /// Of them: recorded as removed by another member. They are used on here, and sent to nobody.
    pub removed_elsewhere: u32,
    /// Of them: not removed, and missing at a member that keeps the slot, or at one that was never heard.
    pub not_ready: u32,
}

impl SyncDir {
    /// This directory, which is made when something is written.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        SyncDir { dir, changing: Arc::default() }
    }

    /// Takes in which objects are in the token of a slot now, and after that what members told of it: in this order,
    /// since what nobody had seen is older than what was told (P25, [`Known::look`]).
    ///
    /// # Errors
    /// Of the file system; `InvalidData` for a damaged ledger; for more than `FACTS_MAX` names.
    pub fn observe(&self, uid: Uid, names: &BTreeSet<KeyName>) -> io::Result<Observed> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let told = self.told(uid)?;
        let (mut own, mut observed) = (self.writer(self.own(uid))?, Observed::default());
        // A name that was told and is not there is a row as well: its count is known.
        let all: BTreeSet<KeyName> = names.iter().chain(told.keys()).copied().collect();
        let there =
            all.iter().map(|name| Ok(Fact { name: *name, known: Known { count: 1, here: names.contains(name) } }));
        for joined in Joined::new(Rows::open(self.own(uid))?, there) {
            let (name, mut known, there) = joined?;
            let was_here = known.here;
            known.look(there.here, told.get(&name).copied());
            let changed = match (was_here, known.here) {
                (false, true) => &mut observed.came,
                (true, false) => &mut observed.went,
                (false, false) | (true, true) => &mut 0,
            };
            *changed += 1;
            own.push(Fact { name, known })?;
        }
        observed.changed = own.finish()?;
        Ok(observed)
    }

    /// The token of a slot was initialised, erased or replaced: nothing is in it, and yet nobody removed a
    /// key. To be said before the next [`SyncDir::observe`], which would take all of them for removed, and so
    /// would every member.
    ///
    /// # Errors
    /// As [`SyncDir::observe`].
    pub fn emptied(&self, uid: Uid) -> io::Result<()> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.own(uid).exists() {
            return Ok(());
        }
        let rows = Rows::open(self.own(uid))?;
        let mut own = self.writer(self.own(uid))?;
        for row in rows {
            let Fact { name, known } = row?;
            own.push(Fact { name, known: Known { here: known.is_removed_elsewhere(), ..known } })?;
        }
        own.finish().map(drop)
    }

    /// Files the facts of a package. The own ledgers learn of them at the next [`SyncDir::observe`] of each slot.
    ///
    /// # Errors
    /// As [`SyncDir::observe`]; `InvalidData` for facts that are not in the order of a package.
    pub fn received(&self, heard: &Heard, facts: &[SlotFacts]) -> io::Result<()> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.heard(heard.node)?.as_ref() == Some(heard) {
            return Ok(());
        }
        let mut listed = BTreeSet::new();
        for (uid, rows) in facts {
            let path = self.of_member(&heard.node, *uid);
            let mut theirs = self.writer(path.clone())?;
            rows.iter().try_for_each(|fact| theirs.push(*fact))?;
            theirs.finish()?;
            listed.insert(path);
        }
        let its = format!("{}-", hex(&heard.node));
        self.remove(|name| name.starts_with(&its) && !listed.contains(&self.dir.join(name)))?;
        let bytes = postcard::to_stdvec(&(HEARD_VERSION, heard)).map_err(io::Error::other)?;
        write_durably(&self.heard_path(&heard.node), &bytes)
    }

    /// Which package of a member was taken in last; `None`: nothing was heard of it.
    ///
    /// # Errors
    /// Of the file system; `InvalidData` for a damaged file.
    pub fn heard(&self, node: Node) -> io::Result<Option<Heard>> {
        let path = self.heard_path(&node);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display()));
        let (version, heard): (u8, Heard) = postcard::from_bytes(&bytes).map_err(|_| damaged())?;
        if version == HEARD_VERSION && heard.node == node { Ok(Some(heard)) } else { Err(damaged()) }
    }

    /// Forgets what nodes said that are no members any more.
    ///
    /// # Errors
    /// Of the file system.
    pub fn keep_only(&self, members: &[Node]) -> io::Result<()> {
        let known: BTreeSet<String> = members.iter().map(|node| hex(node)).collect();
        self.remove(|name| {
            let node = name.strip_prefix(HEARD).or_else(|| name.split_once('-').map(|(node, _)| node));
            node.is_some_and(|node| node.len() == size_of::<Node>() * 2 && !known.contains(node))
        })
    }

    /// The objects of a slot that a package for these members need not carry, sorted: each of them has
    /// it, or knows that it was removed, or does not keep the slot. What is not in our ledger yet is not in it.
    ///
    /// # Errors
    /// Of the file system; `InvalidData` for a damaged ledger.
    pub fn skip(&self, uid: Uid, targets: &[Node]) -> io::Result<Vec<KeyName>> {
        let mut theirs = self.members(uid, targets)?;
        let mut skip = Vec::new();
        for row in Rows::open(self.own(uid))? {
            let Fact { name, known: mine } = row?;
            let mut is_wanted = false;
            for their in &mut theirs {
                is_wanted |= match their {
                    Member::Unheard => Known::NEVER.is_wanted(mine),
                    Member::WithoutSlot => false,
                    Member::Said(rows) => known_of(rows, name)?.is_wanted(mine),
                };
            }
            if mine.here && !is_wanted {
                skip.push(name);
            }
        }
        Ok(skip)
    }

    /// What is known of the keys of a slot that are not in its token, by its own ledger.
    ///
    /// # Errors
    /// Of the file system; `InvalidData` for a damaged ledger.
    pub fn remembered(&self, uid: Uid) -> io::Result<Remembered> {
        let mut remembered = Remembered { uid, ..Remembered::default() };
        for row in Rows::open(self.own(uid))? {
            let Fact { name, known } = row?;
            if known.here {
                remembered.seen.insert(name);
            } else if known.is_removed() {
                remembered.removed.insert(name);
            }
        }
        Ok(remembered)
    }

    /// The objects of these slots that a package carries (`keys`: the export in it) and that are not to be made here: they
    /// are recorded as removed, or its source does not say that it has them (`facts`).
    ///
    /// # Errors
    /// Of the file system; `InvalidData` for a damaged ledger, and for an export that is not whole.
    pub fn unwanted(
        &self,
        uids: &[Uid],
        facts: &[SlotFacts],
        keys: &Path,
    ) -> io::Result<BTreeMap<Uid, BTreeSet<KeyName>>> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let known = |facts: &[Fact], name| {
            let at = facts.binary_search_by_key(&name, |fact| fact.name).ok();
            at.and_then(|at| facts.get(at)).map_or(Known::NEVER, |fact| fact.known)
        };
        let mut unwanted: BTreeMap<Uid, BTreeSet<KeyName>> = uids.iter().map(|uid| (*uid, BTreeSet::new())).collect();
        let (mut inside, mut mine, mut theirs) = (None, Vec::new(), &[] as &[Fact]);
        let mut reader = export::Reader::new(Io(BufReader::new(File::open(keys)?)));
        loop {
            match reader.next().map_err(|problem| invalid(problem.sentence()))? {
                export::Part::Section(section) => {
                    inside = Some(section.uid).filter(|uid| uids.contains(uid));
                    if let Some(uid) = inside {
                        mine = self.rows(uid)?;
                        theirs = facts.iter().find(|(of, _)| *of == uid).map_or(&[], |(_, rows)| rows);
                    }
                }
                export::Part::Entry(entry) => {
                    let Some(uid) = inside else { continue };
                    let name = KeyName::of_entry(&uid, &entry).ok_or_else(|| invalid("an entry has no name"))?;
                    let mine = known(&mine, name);
                    if !mine.here && !mine.is_wanted(known(theirs, name)) {
                        unwanted.entry(uid).or_default().insert(name);
                    }
                }
                export::Part::End { .. } => return Ok(unwanted),
                export::Part::Header(_)
                | export::Part::LeftOut(_)
                | export::Part::Piece(_)
                | export::Part::SectionEnd { .. } => {}
            }
        }
    }

    /// What this node knows of the keys of these slots, as a package says it. A slot of which nothing is
    /// known is listed all the same: it is kept here.
    ///
    /// # Errors
    /// Of the file system; `InvalidData` for a damaged ledger.
    pub fn facts(&self, slots: &[Uid]) -> io::Result<Vec<SlotFacts>> {
        let sorted: BTreeSet<Uid> = slots.iter().copied().collect();
        sorted.into_iter().map(|uid| Ok((uid, self.rows(uid)?))).collect()
    }

    /// Names what [`SyncDir::facts`] would say: the same as long as nothing changes.
    ///
    /// # Errors
    /// Of the file system; `InvalidData` for a ledger that is no whole file.
    pub fn facts_hash(&self, slots: &[Uid]) -> io::Result<[u8; 32]> {
        let mut hash = Sha256::new();
        for uid in slots.iter().copied().collect::<BTreeSet<Uid>>() {
            hash.update(uid);
            hash.update(last_hash(&self.own(uid))?.unwrap_or_default());
        }
        Ok(hash.finalize().into())
    }

    /// Counts where this node and a member differ in these slots; `None`: nothing was heard of it.
    ///
    /// # Errors
    /// Of the file system; `InvalidData` for a damaged ledger.
    pub fn comparison(&self, node: Node, slots: &[Uid]) -> io::Result<Option<Comparison>> {
        if self.heard(node)?.is_none() {
            return Ok(None);
        }
        let mut comparison = Comparison::default();
        for uid in slots {
            match self.members(*uid, &[node])?.pop() {
                None | Some(Member::Unheard) => return Ok(None),
                Some(Member::WithoutSlot) => {}
                Some(Member::Said(theirs)) => {
                    for joined in Joined::new(Rows::open(self.own(*uid))?, *theirs) {
                        let (_, mine, their) = joined?;
                        comparison.see(mine, their);
                    }
                }
            }
        }
        Ok(Some(comparison))
    }

    /// How a member stands, as far as its keys say: two rosters of one epoch are for whoever has the rosters.
    ///
    /// # Errors
    /// As [`SyncDir::comparison`].
    pub fn standing(&self, node: Node, slots: &[Uid]) -> io::Result<Standing> {
        Ok(self.comparison(node, slots)?.map_or(Standing::Unheard, Comparison::standing))
    }

    /// Whether a member lacks something of what a package says that its source has, as far as is known here. Of one that
    /// was never heard nobody knows: it may.
    ///
    /// # Errors
    /// As [`SyncDir::comparison`].
    pub fn lacks(&self, node: Node, facts: &[SlotFacts]) -> io::Result<bool> {
        for (uid, rows) in facts {
            match self.members(*uid, &[node])?.pop() {
                None | Some(Member::Unheard) => return Ok(true),
                Some(Member::WithoutSlot) => {}
                Some(Member::Said(theirs)) => {
                    for joined in Joined::new(rows.iter().copied().map(Ok), *theirs) {
                        let (_, source, their) = joined?;
                        if their.is_wanted(source) {
                            return Ok(true);
                        }
                    }
                }
            }
        }
        Ok(false)
    }

    /// What `status` says of a slot; `members`: all of them but this node.
    ///
    /// # Errors
    /// As [`SyncDir::comparison`].
    pub fn counts(&self, uid: Uid, members: &[Node]) -> io::Result<SlotCounts> {
        let mut theirs = self.members(uid, members)?;
        let mut counts = SlotCounts::default();
        for row in Rows::open(self.own(uid))? {
            let Fact { name, known: mine } = row?;
            let mut said = Vec::with_capacity(theirs.len());
            for their in &mut theirs {
                match their {
                    Member::Unheard => said.push(None),
                    Member::WithoutSlot => {}
                    Member::Said(rows) => said.push(Some(known_of(rows, name)?)),
                }
            }
            counts.here += u32::from(mine.here);
            counts.removed_elsewhere += u32::from(mine.is_removed_elsewhere());
            counts.not_ready += u32::from(mine.here && mine.is_made() && !is_ready(mine, said));
        }
        Ok(counts)
    }

    /// The members that were heard and do not keep the slot: none of its keys is there, and none is sent there. That
    /// may be meant, since a slot that one node only has is in sync with nobody; people are told, and judge.
    ///
    /// # Errors
    /// As [`SyncDir::comparison`].
    pub fn without_slot(&self, uid: Uid, members: &[Node]) -> io::Result<Vec<Node>> {
        let theirs = self.members(uid, members)?;
        let without = members.iter().zip(theirs).filter(|(_, their)| matches!(their, Member::WithoutSlot));
        Ok(without.map(|(node, _)| *node).collect())
    }

    /// Whether every member that keeps the slot has this object, and it is here.
    ///
    /// # Errors
    /// As [`SyncDir::comparison`].
    pub fn is_ready_to_use(&self, uid: Uid, name: KeyName, members: &[Node]) -> io::Result<bool> {
        let mine = known_of(&mut Rows::open(self.own(uid))?.peekable(), name)?;
        let mut said = Vec::with_capacity(members.len());
        for their in &mut self.members(uid, members)? {
            match their {
                Member::Unheard => said.push(None),
                Member::WithoutSlot => {}
                Member::Said(rows) => said.push(Some(known_of(rows, name)?)),
            }
        }
        Ok(is_ready(mine, said))
    }

    fn rows(&self, uid: Uid) -> io::Result<Vec<Fact>> {
        Rows::open(self.own(uid))?.collect()
    }

    fn members(&self, uid: Uid, nodes: &[Node]) -> io::Result<Vec<Member>> {
        let member = |node: &Node| {
            let path = self.of_member(node, uid);
            Ok(match (self.heard(*node)?, path.exists()) {
                (None, _) => Member::Unheard,
                (Some(_), false) => Member::WithoutSlot,
                (Some(_), true) => Member::Said(Box::new(Rows::open(path)?.peekable())),
            })
        };
        nodes.iter().map(member).collect()
    }

    /// The highest count of each key of a slot that a member told.
    fn told(&self, uid: Uid) -> io::Result<BTreeMap<KeyName, u32>> {
        let mut told = BTreeMap::new();
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(told),
            Err(error) => return Err(error),
        };
        let its = hex(&uid);
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some((node, slot)) = name.to_str().and_then(|name| name.split_once('-')) else { continue };
            if node.len() != size_of::<Node>() * 2 || slot != its {
                continue;
            }
            for row in Rows::open(entry.path())? {
                let Fact { name, known } = row?;
                let count: &mut u32 = told.entry(name).or_default();
                *count = known.count.max(*count);
            }
        }
        Ok(told)
    }

    fn writer(&self, path: PathBuf) -> io::Result<RowsWriter> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        RowsWriter::begin(path)
    }

    /// Removes the files with such names.
    fn remove(&self, which: impl Fn(&str) -> bool) -> io::Result<()> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut removed = false;
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(&which) {
                remove_if_there(&entry.path())?;
                removed = true;
            }
        }
        if removed { sync_directory(&self.dir) } else { Ok(()) }
    }

    fn own(&self, uid: Uid) -> PathBuf {
        self.dir.join(format!("own-{}", hex(&uid)))
    }

    fn of_member(&self, node: &Node, uid: Uid) -> PathBuf {
        self.dir.join(format!("{}-{}", hex(node), hex(&uid)))
    }

    fn heard_path(&self, node: &Node) -> PathBuf {
        self.dir.join(format!("{HEARD}{}", hex(node)))
    }
}

/// What a member said of one slot.
enum Member {
    Unheard,
    WithoutSlot,
    Said(Box<Peekable<Rows>>),
}

/// What rows say of a key; asked for names that rise.
fn known_of(rows: &mut Peekable<Rows>, name: KeyName) -> io::Result<Known> {
    while let Some(row) = rows.next_if(|row| !row.as_ref().is_ok_and(|fact| fact.name > name)) {
        let fact = row?;
        if fact.name == name {
            return Ok(fact.known);
        }
    }
    Ok(Known::NEVER)
}

/// Goes through two lists by their names; what one of them does not have is [`Known::NEVER`].
struct Joined<A: Iterator, B: Iterator> {
    one: Peekable<A>,
    other: Peekable<B>,
}

impl<A: Iterator<Item = io::Result<Fact>>, B: Iterator<Item = io::Result<Fact>>> Joined<A, B> {
    fn new(one: A, other: B) -> Self {
        Joined { one: one.peekable(), other: other.peekable() }
    }
}

impl<A: Iterator<Item = io::Result<Fact>>, B: Iterator<Item = io::Result<Fact>>> Iterator for Joined<A, B> {
    type Item = io::Result<(KeyName, Known, Known)>;

    fn next(&mut self) -> Option<Self::Item> {
        let heads = [
            self.one.peek().and_then(|row| row.as_ref().ok()).map(|fact| fact.name),
            self.other.peek().and_then(|row| row.as_ref().ok()).map(|fact| fact.name),
        ];
        // A problem comes before everything else, whichever list it is in.
        let lowest = heads.into_iter().flatten().min();
        let take = |row: &io::Result<Fact>| row.as_ref().map_or(true, |fact| Some(fact.name) == lowest);
        let both = (self.one.next_if(take).transpose(), self.other.next_if(take).transpose());
        match both {
            (Err(error), _) | (_, Err(error)) => Some(Err(error)),
            (Ok(None), Ok(None)) => None,
            (Ok(one), Ok(other)) => {
                let known = |fact: Option<Fact>| fact.map_or(Known::NEVER, |fact| fact.known);
                lowest.map(|name| Ok((name, known(one), known(other))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    pub(super) const UID: Uid = [0xA5; 16];
    pub(super) const ONE: Node = [1; 32];
    pub(super) const TWO: Node = [2; 32];

    pub(super) fn directory() -> (TempDir, SyncDir) {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
        let sync = SyncDir::new(dir.path().join("sync"));
        (dir, sync)
    }

    pub(super) fn name(number: u8) -> KeyName {
        KeyName([number; 16])
    }

    pub(super) fn names(numbers: &[u8]) -> BTreeSet<KeyName> {
        numbers.iter().map(|number| name(*number)).collect()
    }

    pub(super) fn fact(number: u8, count: u32, here: bool) -> Fact {
        Fact { name: name(number), known: Known { count, here } }
    }

    pub(super) fn hears(sync: &SyncDir, node: Node, sequence: u64, facts: &[Fact]) {
        let heard = Heard { node, sequence, hash: [u8::try_from(sequence).expect("few"); 32], made_s: None };
        sync.received(&heard, &[(UID, facts.to_vec())]).expect("it can be written");
    }

    fn own(sync: &SyncDir) -> Vec<Fact> {
        sync.facts(&[UID]).expect("it can be read").pop().expect("one slot").1
    }

    #[test]
    fn p25_a_damaged_ledger_is_refused_by_its_name_and_never_taken_for_an_empty_one() {
        let (_dir, sync) = directory();
        sync.observe(UID, &names(&[1, 2])).expect("it can be written");
        let path = sync.own(UID);
        let whole = fs::read(&path).expect("it was written");
        for place in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[place] ^= 1;
            for damaged in [flipped, whole[..place].to_vec()] {
                fs::write(&path, damaged).expect("it can be written");
                let error = sync.facts(&[UID]).expect_err("it is damaged");
                assert!(error.to_string().contains("own-a5a5"), "{error}");
                assert!(sync.skip(UID, &[ONE]).is_err() && sync.observe(UID, &names(&[])).is_err());
            }
        }
        fs::write(&path, &whole).expect("it can be written");
        assert_eq!(own(&sync), [fact(1, 1, true), fact(2, 1, true)]);
    }

    #[test]
    fn p25_what_was_removed_here_is_neither_sent_nor_made_again() {
        let (_dir, sync) = directory();
        sync.observe(UID, &names(&[1, 2])).expect("it can be written");
        assert_eq!(
            sync.observe(UID, &names(&[2])).expect("it can be written"),
            Observed { came: 0, went: 1, changed: true }
        );
        hears(&sync, ONE, 1, &[fact(1, 1, true), fact(2, 1, true)]);
        sync.observe(UID, &names(&[2])).expect("it can be written");
        assert_eq!(own(&sync), [fact(1, 2, false), fact(2, 1, true)]);
        assert_eq!(sync.standing(ONE, &[UID]).expect("it can be read"), Standing::Diverged);
        // A restore may make it, and whoever orders one sees that it was removed.
        let remembered = Remembered { uid: UID, removed: names(&[1]), seen: names(&[2]) };
        assert_eq!(sync.remembered(UID).expect("it can be read"), remembered);
        assert_eq!(
            sync.remembered([9; 16]).expect("there is none"),
            Remembered { uid: [9; 16], ..Remembered::default() }
        );
        // It is not here, so it is not in what could be sent; the other need not travel, since it is there.
        assert_eq!(sync.skip(UID, &[ONE]).expect("it can be read"), [name(2)]);
    }

    #[test]
    fn p25_what_nobody_had_seen_is_older_than_a_removal_that_was_told() {
        let (_dir, sync) = directory();
        hears(&sync, ONE, 1, &[fact(1, 2, false)]);
        sync.observe(UID, &names(&[1])).expect("it can be written");
        assert_eq!(own(&sync), [fact(1, 2, true)]);
        let counts = sync.counts(UID, &[ONE]).expect("it can be read");
        assert_eq!(counts, SlotCounts { here: 1, removed_elsewhere: 1, not_ready: 0 });
        assert_eq!(sync.skip(UID, &[ONE]).expect("it can be read"), [name(1)], "it is sent to nobody");
        // Destroyed and made again on purpose: now it is meant.
        sync.observe(UID, &names(&[])).expect("it can be written");
        sync.observe(UID, &names(&[1])).expect("it can be written");
        assert_eq!(own(&sync), [fact(1, 3, true)]);
        assert_eq!(sync.skip(UID, &[ONE]).expect("it can be read"), [] as [KeyName; 0]);
    }

    #[test]
    fn a_new_token_removes_nothing_and_what_was_removed_elsewhere_does_not_come_back_by_it() {
        let (_dir, sync) = directory();
        sync.observe(UID, &names(&[1, 2])).expect("it can be written");
        hears(&sync, ONE, 1, &[fact(1, 1, true), fact(2, 2, false)]);
        sync.observe(UID, &names(&[1, 2])).expect("it can be written");
        sync.emptied(UID).expect("it can be written");
        sync.observe(UID, &names(&[])).expect("it can be written");
        assert_eq!(own(&sync), [fact(1, 1, false), fact(2, 2, false)]);
        let remembered = sync.remembered(UID).expect("it can be read");
        assert_eq!((remembered.removed, remembered.seen), (names(&[2]), names(&[])), "what was lost was not removed");
        assert_eq!(sync.standing(ONE, &[UID]).expect("it can be read"), Standing::Ahead);
        let (_dir, never) = directory();
        never.emptied(UID).expect("there is nothing to do");
        assert!(!never.dir.exists());
    }

    #[test]
    fn a_member_that_was_not_heard_gets_everything_and_one_without_the_slot_nothing() {
        let (_dir, sync) = directory();
        sync.observe(UID, &names(&[1])).expect("it can be written");
        assert_eq!(sync.skip(UID, &[ONE]).expect("it can be read"), [] as [KeyName; 0]);
        assert_eq!(sync.standing(ONE, &[UID]).expect("it can be read"), Standing::Unheard);
        assert!(sync.lacks(ONE, &[(UID, vec![fact(1, 1, true)])]).expect("it can be read"));
        let heard = Heard { node: ONE, sequence: 1, hash: [1; 32], made_s: None };
        sync.received(&heard, &[([7; 16], vec![fact(9, 1, true)])]).expect("it can be written");
        assert_eq!(sync.skip(UID, &[ONE]).expect("it can be read"), [name(1)]);
        assert!(!sync.lacks(ONE, &[(UID, vec![fact(1, 1, true)])]).expect("it can be read"));
        assert_eq!(sync.counts(UID, &[ONE]).expect("it can be read").not_ready, 0);
        assert_eq!(sync.without_slot(UID, &[ONE, TWO]).expect("it can be read"), [ONE], "nobody knows of two");
        assert_eq!(sync.without_slot([7; 16], &[ONE, TWO]).expect("it can be read"), [] as [Node; 0]);
        assert!(sync.is_ready_to_use(UID, name(1), &[ONE]).expect("it can be read"));
        assert!(!sync.is_ready_to_use(UID, name(1), &[ONE, TWO]).expect("it can be read"), "nobody knows of two");
    }

    #[test]
    fn a_package_is_taken_in_once_and_what_a_removed_member_said_is_forgotten() {
        let (_dir, sync) = directory();
        sync.observe(UID, &names(&[1])).expect("it can be written");
        for node in [ONE, TWO] {
            hears(&sync, node, 1, &[fact(1, 1, false)]);
        }
        assert_eq!(sync.standing(ONE, &[UID]).expect("it can be read"), Standing::Behind);
        // The same package says nothing new, whatever it is said to hold.
        hears(&sync, ONE, 1, &[fact(1, 1, true)]);
        assert_eq!(sync.standing(ONE, &[UID]).expect("it can be read"), Standing::Behind);
        hears(&sync, ONE, 2, &[fact(1, 1, true)]);
        assert_eq!(sync.standing(ONE, &[UID]).expect("it can be read"), Standing::InSync);
        sync.keep_only(&[ONE]).expect("it can be written");
        assert_eq!(sync.standing(TWO, &[UID]).expect("it can be read"), Standing::Unheard);
        assert_eq!(sync.heard(ONE).expect("it can be read").expect("it is a member").sequence, 2);
        assert_eq!(own(&sync), [fact(1, 1, true)]);
    }

    #[test]
    fn facts_out_of_order_are_refused_and_change_nothing() {
        let (_dir, sync) = directory();
        hears(&sync, ONE, 1, &[fact(1, 1, true)]);
        let heard = Heard { node: ONE, sequence: 2, hash: [2; 32], made_s: None };
        for facts in [vec![fact(2, 1, true), fact(1, 1, true)], vec![fact(1, 0, false)]] {
            let error = sync.received(&heard, &[(UID, facts)]).expect_err("they are in no order");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert_eq!(sync.heard(ONE).expect("it can be read").expect("heard").sequence, 1);
            assert_eq!(sync.standing(ONE, &[UID]).expect("it can be read"), Standing::Ahead);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Files say what the rule says, key by key.
        #[test]
        fn what_is_filed_is_what_the_rule_makes_of_it(
            before in proptest::collection::btree_set(0_u8..12, 0..8),
            after in proptest::collection::btree_set(0_u8..12, 0..8),
            told in proptest::collection::btree_map(0_u8..12, (1_u32..5, any::<bool>()), 0..8),
        ) {
            let (_dir, sync) = directory();
            let set = |numbers: &BTreeSet<u8>| numbers.iter().map(|number| name(*number)).collect();
            sync.observe(UID, &set(&before)).expect("it can be written");
            let facts: Vec<Fact> = told.iter().map(|(number, (count, here))| fact(*number, *count, *here)).collect();
            hears(&sync, ONE, 1, &facts);
            sync.observe(UID, &set(&after)).expect("it can be written");
            let mut expected = Vec::new();
            for number in 0..12 {
                let mut known = Known::NEVER;
                known.observe(before.contains(&number));
                known.look(after.contains(&number), told.get(&number).map(|(count, _)| *count));
                if known != Known::NEVER {
                    expected.push(Fact { name: name(number), known });
                }
            }
            prop_assert_eq!(own(&sync), expected);
            let wanted = |number: &u8| {
                let theirs = told.get(number).map_or(Known::NEVER, |(count, here)| Known { count: *count, here: *here });
                let mine = own(&sync).into_iter().find(|fact| fact.name == name(*number)).map(|fact| fact.known);
                mine.filter(|mine| mine.here).is_some_and(|mine| !theirs.is_wanted(mine))
            };
            let skipped: Vec<KeyName> = (0..12).filter(wanted).map(name).collect();
            prop_assert_eq!(sync.skip(UID, &[ONE]).expect("it can be read"), skipped);
        }
    }
}
