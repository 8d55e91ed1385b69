//! The cluster as the platform knows it: names of members, the keys that packages are sealed to, and which slots
//! the members have in common.
//!
//! The core knows members by their node keys and judges who may follow whom (`slotwarden_core::roster`). What
//! people call them, their HPKE keys and the names and uids of the slots stand in an [`Annex`], whose hash is in
//! the roster; so the roster's signature covers it, and an approval of the roster's hash binds it.
//!
//! | file in `STATE_DIR/sync` | what is in it |
//! |---|---|
//! | `rosters.slwr` | every roster that is known, up to the one that was filed last |
//! | `offered-HASH` | rosters that the core may be offered, up to the one with this hash; each follows on the roster in force, or is this node's proposal. A few |
//! | `received` | what the package says that was admitted last: its facts are taken in when its keys are there |
//! | `last.slwp`, `published.slwp` | the package that a person had made last, and the one that the exchange carries |
//!
//! Each is replaced as a whole. A roster that this node proposes is made the same way each time it is ordered,
//! so that it has the hash that was approved; it is signed when the core says that it is in force, which
//! after a power cut it says again.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufReader};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use slotwarden_core::fault::{Fault, Refusal};
use slotwarden_core::join::{self, Request, is_name};
use slotwarden_core::limits::MEMBERS_MAX;
use slotwarden_core::roster::file::{ANNEX_BYTES_MAX, Begin, Reader, Writer};
use slotwarden_core::roster::{Member, Roster, SignedRoster};
use tracing::warn;

use crate::audit::{hex, unhex};
use crate::devices::Signer;
use crate::export_file::Io;
use crate::member_keys::MemberKeys;
use crate::problem::{Own, Problem};
use crate::store::directory::{remove_if_there, write_durably};
use crate::sync_dir::{Heard, SlotFacts, SyncDir, Uid};
use crate::wire::{MemberView, SpooledRequest, SpooledRoster};

const ROSTERS: &str = "rosters.slwr";
const OFFERED: &str = "offered-";
const RECEIVED: &str = "received";
/// The package that a person had made last, whole.
const PACKAGE: &str = "last.slwp";
/// The package that the exchange carries, whole.
const PUBLISHED: &str = "published.slwp";
/// Files of rosters that were offered and are in force nowhere: what people look at and do not take.
const OFFERED_MAX: usize = 8;

/// What the digest begins with that a slot's first uid is made from.
const SLOT_UID: &str = "slotwarden/slot-uid/v1";

/// What is beside a roster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Annex {
    /// The members, in the order of the roster.
    pub members: Vec<NamedMember>,
    /// The slots whose keys are exchanged, by name and uid.
    pub slots: Vec<(String, Uid)>,
}

/// A member with its name and keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedMember {
    /// What people call it.
    pub name: String,
    /// Its keys.
    pub keys: MemberKeys,
}

/// A roster with its annex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What the core judges.
    pub signed: SignedRoster,
    /// What people read.
    pub annex: Annex,
}

/// How a roster that this node proposes differs from the one in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// It is the first one.
    Found,
    /// This node is let in.
    Invite(&'a NamedMember),
    /// The member of this name is shut out.
    Remove(&'a str),
    /// It has the backup key that is in force here.
    Renew,
}

/// What a package says that was admitted, for when its keys are there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// Which package.
    pub heard: Heard,
    /// Its facts.
    pub facts: Vec<SlotFacts>,
}

/// The files of the cluster, and who this node is in it.
pub struct ClusterFiles {
    dir: PathBuf,
    name: String,
    keys: MemberKeys,
    member: Member,
    sign: Signer,
    ledgers: SyncDir,
    /// What is in `rosters.slwr`.
    chain: Vec<Listed>,
    /// The request that was spooled last: SHA-256 of its file, and who asks.
    request: Option<([u8; 32], NamedMember)>,
}

impl ClusterFiles {
    /// In this directory, which is made when something is written. `name`: what this node wants to be called; `keys`: its own.
    ///
    /// # Errors
    /// A fault of the store's keys. Rosters that cannot be read are none: it is logged, and a member's file brings them back.
    pub fn open(dir: PathBuf, name: String, keys: MemberKeys, sign: Signer) -> Result<Self, Problem> {
        let member = keys.member().ok_or(Fault::SealBroken)?;
        let path = dir.join(ROSTERS);
        let chain = match File::open(&path).map(read_rosters) {
            Ok(Ok(chain)) => chain,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Ok(Err(problem)) => {
                warn!("{}: {problem}; `slotwarden cluster follow` with a member's file brings it back", path.display());
                Vec::new()
            }
            Err(error) => {
                warn!("{}: {error}", path.display());
                Vec::new()
            }
        };
        let ledgers = SyncDir::new(dir.clone());
        Ok(ClusterFiles { dir, name, keys, member, sign, ledgers, chain, request: None })
    }

    /// What is known of the members' keys.
    #[must_use]
    pub const fn ledgers(&self) -> &SyncDir {
        &self.ledgers
    }

    /// This node's public keys.
    #[must_use]
    pub const fn keys(&self) -> &MemberKeys {
        &self.keys
    }

    /// What people compare of this node.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.member.fingerprint().as_str().to_owned()
    }

    /// Where the package lies that a person had made last.
    #[must_use]
    pub fn package(&self) -> PathBuf {
        self.dir.join(PACKAGE)
    }

    /// Where the package lies that the exchange carries.
    #[must_use]
    pub fn published(&self) -> PathBuf {
        self.dir.join(PUBLISHED)
    }

    /// Where the rosters lie.
    #[must_use]
    pub fn rosters(&self) -> PathBuf {
        self.dir.join(ROSTERS)
    }

    /// What this node is invited with, as a file.
    ///
    /// # Errors
    /// [`Own::FileUnwritable`]: its name is none; the configuration was checked for it.
    pub fn join_request(&self, made_s: Option<u64>) -> Result<Vec<u8>, Problem> {
        let MemberKeys { node, x_wing, p256 } = &self.keys;
        let request = Request { node: *node, x_wing, p256, name: &self.name, made_s };
        let impossible = || Own::FileUnwritable.with("a request to join");
        let signature = (self.sign)(&request.message().ok_or_else(impossible)?);
        let mut bytes = Vec::new();
        request.write(Io(&mut bytes), &signature).map_err(|_| impossible())?;
        Ok(bytes)
    }

    /// Reads a request to join, and remembers it until the next one.
    ///
    /// # Errors
    /// [`Refusal::JoinRequestInvalid`] with the reason.
    pub fn take_request(&mut self, path: &Path) -> Result<SpooledRequest, Problem> {
        let length = fs::metadata(path).map_err(|error| unreadable(path, &error))?.len();
        if length > join::FILE_BYTES_MAX as u64 {
            return Err(Problem::from(Refusal::JoinRequestInvalid).with(format!("{length} bytes")));
        }
        let bytes = fs::read(path).map_err(|error| unreadable(path, &error))?;
        let invalid = |reason: &str| Problem::from(Refusal::JoinRequestInvalid).with(reason);
        let request = Request::read(&bytes).map_err(|problem| invalid(problem.sentence()))?;
        let keys = MemberKeys { node: request.node, x_wing: request.x_wing.to_vec(), p256: request.p256.to_vec() };
        let member = keys.member().ok_or_else(|| invalid("a key of it is none"))?;
        let file: [u8; 32] = Sha256::digest(&bytes).into();
        let named = NamedMember { name: request.name.to_owned(), keys };
        let view =
            SpooledRequest { file, name: named.name.clone(), fingerprint: member.fingerprint().as_str().to_owned() };
        self.request = Some((file, named));
        Ok(view)
    }

    /// Who asked by the request with this hash.
    ///
    /// # Errors
    /// [`Own::FileNotSpooled`]
    pub fn requested(&self, file: [u8; 32]) -> Result<NamedMember, Problem> {
        let found = self.request.as_ref().filter(|(hash, _)| *hash == file);
        found.map(|(_, named)| named.clone()).ok_or_else(|| Own::FileNotSpooled.into())
    }

    /// Reads rosters, and keeps those that this node might take, for whoever orders it: those that follow on the one in
    /// force, or another one of its epoch and what follows on that; where none is in force, the newest.
    ///
    /// # Errors
    /// [`Refusal::RosterFileInvalid`] with the reason; [`Refusal::OtherCluster`], [`Refusal::RosterOld`],
    /// [`Refusal::RosterNotNext`] for rosters that lead nowhere from the one in force, [`Refusal::RosterOfStranger`] where
    /// none of its members signed; of the file system.
    pub fn take_rosters(&self, path: &Path, in_force: Option<&Roster>) -> Result<SpooledRoster, Problem> {
        let mut chain = read_rosters(File::open(path).map_err(|error| unreadable(path, &error))?)?;
        let Some(last) = chain.last().cloned() else { return Err(Refusal::RosterFileInvalid.into()) };
        let signer = last.signed.roster.member(&last.signed.signer);
        let signer = signer.map(|member| member.fingerprint().as_str().to_owned());
        let mut of_our_epoch = None;
        let first = match in_force {
            None => chain.len() - 1,
            Some(current) => {
                if last.signed.roster.cluster != current.cluster {
                    return Err(Refusal::OtherCluster.into());
                }
                let ours = chain.iter().position(|listed| listed.signed.roster.epoch == current.epoch);
                match ours.map(|place| (place, chain[place].signed.roster.hash())) {
                    Some((place, hash)) => {
                        of_our_epoch = Some(hash);
                        // With the one in force alone there is nothing to take, and taking it once more files it.
                        if hash == current.hash() && place + 1 < chain.len() { place + 1 } else { place }
                    }
                    None if last.signed.roster.epoch < current.epoch => return Err(Refusal::RosterOld.into()),
                    None => {
                        let first = chain.first().map(|listed| &listed.signed);
                        let leads = first.map_or(Ok(()), |first| current.is_followed_by(first));
                        leads.map_err(|problem| Problem::from(problem.refusal()).with(problem.sentence()))?;
                        0
                    }
                }
            }
        };
        if in_force.is_none() && signer.is_none() {
            // Nobody could compare whose it is.
            return Err(Problem::from(Refusal::RosterFileInvalid).with("whoever signed it is no member of it"));
        }
        let chain = chain.split_off(first);
        // Before anything is kept: whoever is no member could fill the disk, and says nothing that counts.
        if let (Some(current), Some(next)) = (in_force, chain.first().map(|listed| &listed.signed))
            && next.roster.hash() != current.hash()
            && current.member(&next.signer).is_none()
        {
            return Err(Refusal::RosterOfStranger.into());
        }
        let hash = last.signed.roster.hash();
        let newer = chain.iter().map(|listed| listed.signed.roster.hash()).collect();
        self.keep_offered(hash, &chain).map_err(|error| kept(&error))?;
        Ok(SpooledRoster {
            hash,
            newer,
            of_our_epoch,
            epoch: last.signed.roster.epoch,
            key_id: last.signed.roster.key_id,
            members: self.members(&last.signed, &last.annex),
            signer: signer.unwrap_or_default(),
            slots: last.annex.slots.iter().map(|(name, _)| name.clone()).collect(),
        })
    }

    /// The members of a roster, for people.
    #[must_use]
    pub fn members(&self, signed: &SignedRoster, annex: &Annex) -> Vec<MemberView> {
        let view = |(named, member): (&NamedMember, &Member)| MemberView {
            name: named.name.clone(),
            fingerprint: member.fingerprint().as_str().to_owned(),
            node: hex(&member.node),
            own: member.node == self.keys.node,
        };
        annex.members.iter().zip(&signed.roster.members).map(view).collect()
    }

    /// Makes the roster that follows on the one in force, and keeps it. The same change of the same roster
    /// gives the same one. `cluster` and `key_id`: what is in force here; `slots`: those of this node.
    ///
    /// # Errors
    /// [`Refusal::NoCluster`], [`Refusal::UnknownMember`], [`Refusal::MemberAlready`], [`Refusal::TooManyMembers`];
    /// of the file system.
    pub fn propose(
        &self,
        in_force: Option<&Roster>,
        change: &Change<'_>,
        (cluster, key_id): ([u8; 16], [u8; 16]),
        slots: Vec<(String, Uid)>,
    ) -> Result<SignedRoster, Problem> {
        let own = NamedMember { name: self.name.clone(), keys: self.keys.clone() };
        let (epoch, previous, mut members, mut common) = match (change, in_force) {
            (Change::Found, _) => (1, [0; 32], vec![own], Vec::new()),
            (Change::Invite(_) | Change::Remove(_) | Change::Renew, None) => return Err(Refusal::NoCluster.into()),
            (Change::Invite(_) | Change::Remove(_) | Change::Renew, Some(roster)) => {
                let epoch = roster.epoch.checked_add(1).ok_or(Refusal::RosterNotNext)?;
                let Annex { members, slots } = self.listed(roster)?.annex;
                (epoch, roster.hash(), members, slots)
            }
        };
        // What a member has that this node has not stays the cluster's.
        let own_only = slots.into_iter().filter(|(name, uid)| !common.iter().any(|(its, it)| its == name || it == uid));
        let own_only: Vec<(String, Uid)> = own_only.collect();
        common.extend(own_only);
        match change {
            Change::Found | Change::Renew => {}
            Change::Invite(asked) => {
                let known = members.iter().find(|one| one.keys.node == asked.keys.node || one.name == asked.name);
                if let Some(known) = known {
                    return Err(Problem::from(Refusal::MemberAlready).with(&known.name));
                }
                members.push((*asked).clone());
            }
            Change::Remove(name) => {
                let before = members.len();
                members.retain(|member| member.name != **name);
                if members.len() == before {
                    return Err(Problem::from(Refusal::UnknownMember).with(*name));
                }
            }
        }
        members.sort_by_key(|member| member.keys.node);
        let annex = Annex { members, slots: common };
        let of_core = annex.members.iter().map(|named| named.keys.member()).collect::<Option<Vec<Member>>>();
        let members = heapless::Vec::<_, MEMBERS_MAX>::from_slice(&of_core.ok_or(Refusal::JoinRequestInvalid)?);
        let members = members.map_err(|_| Refusal::TooManyMembers)?;
        let annex_hash = Sha256::digest(annex.bytes()).into();
        let roster = Roster { epoch, previous, cluster, key_id, annex: annex_hash, members };
        let signed = SignedRoster { roster, signer: self.keys.node, signature: [0; 64] };
        let listed = Listed { signed, annex };
        let hash = listed.signed.roster.hash();
        self.keep_offered(hash, std::slice::from_ref(&listed)).map_err(|error| kept(&error))?;
        Ok(listed.signed)
    }

    /// What the core is offered by this hash.
    ///
    /// # Errors
    /// [`Refusal::RosterNotOffered`]
    pub fn offered(&self, hash: [u8; 32]) -> Result<Listed, Problem> {
        let filed = self.chain.iter().find(|listed| listed.signed.roster.hash() == hash);
        if let Some(listed) = filed {
            return Ok(listed.clone());
        }
        let mut found = self.offered_chain(hash).map_err(|error| kept(&error))?;
        found.pop().ok_or_else(|| Refusal::RosterNotOffered.into())
    }

    /// A roster in force, with its names.
    ///
    /// # Errors
    /// As [`ClusterFiles::offered`]: its files are gone.
    pub fn listed(&self, roster: &Roster) -> Result<Listed, Problem> {
        self.offered(roster.hash())
    }

    /// Puts the roster of this hash behind those that are filed, signed by this node where it made it. Once more
    /// is the same.
    ///
    /// # Errors
    /// Of the file system; `NotFound`: it was never offered.
    pub fn file(&mut self, hash: [u8; 32]) -> io::Result<()> {
        if self.chain.last().is_some_and(|last| last.signed.roster.hash() == hash) {
            return Ok(());
        }
        let mut offered = self.offered_chain(hash)?;
        if offered.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the roster was never offered"));
        }
        for listed in &mut offered {
            let SignedRoster { roster, signer, signature } = &mut listed.signed;
            if *signer == self.keys.node && *signature == [0; 64] {
                *signature = (self.sign)(&roster.message());
            }
        }
        let first = offered.first().map_or(0, |listed| listed.signed.roster.epoch);
        let cluster = offered.first().map(|listed| listed.signed.roster.cluster);
        // What a node knew before it joined another cluster is of no use there.
        let before = self
            .chain
            .iter()
            .filter(|listed| listed.signed.roster.epoch < first && Some(listed.signed.roster.cluster) == cluster);
        let mut before: Vec<Listed> = before.cloned().collect();
        // After a division it may lead to another one than people chose.
        let leads = |last: &Listed| {
            offered.first().is_some_and(|next| next.signed.roster.previous == last.signed.roster.hash())
        };
        if !before.last().is_some_and(leads) {
            before.clear();
        }
        let chain: Vec<Listed> = before.into_iter().chain(offered).collect();
        let newest = chain.len().saturating_sub(usize::from(slotwarden_core::roster::file::ROSTERS_MAX));
        self.write_chain(&chain[newest..])?;
        self.chain = chain[newest..].to_vec();
        let epoch = self.chain.last().map_or(0, |last| last.signed.roster.epoch);
        self.forget_offered(|chain| chain.last().is_none_or(|last| last.signed.roster.epoch <= epoch))
    }

    /// Keeps what a package says until its keys are there.
    ///
    /// # Errors
    /// Of the file system.
    pub fn keep_received(&self, received: &Received) -> io::Result<()> {
        self.make()?;
        let bytes = postcard::to_stdvec(received).map_err(io::Error::other)?;
        write_durably(&self.dir.join(RECEIVED), &bytes)
    }

    /// Takes in what the package of this hash says: its keys are there. Answers whose it is. Once more is the same.
    ///
    /// # Errors
    /// Of the file system; `InvalidData`: another one was admitted last.
    pub fn take_in(&self, hash: [u8; 32]) -> io::Result<[u8; 32]> {
        let path = self.dir.join(RECEIVED);
        let damaged = |what| io::Error::new(io::ErrorKind::InvalidData, format!("{} {what}", path.display()));
        let received: Received = postcard::from_bytes(&fs::read(&path)?).map_err(|_| damaged("is damaged"))?;
        if received.heard.hash != hash {
            return Err(damaged("is of another package, which was admitted since"));
        }
        self.ledgers.received(&received.heard, &received.facts)?;
        Ok(received.heard.node)
    }

    fn make(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)
    }

    fn write_chain(&self, chain: &[Listed]) -> io::Result<()> {
        let impossible = |_| io::Error::new(io::ErrorKind::InvalidData, "the rosters do not follow on one another");
        let rosters = u16::try_from(chain.len()).unwrap_or(u16::MAX);
        let mut writer = Writer::begin(Io(Vec::new()), Begin { rosters }).map_err(impossible)?;
        for Listed { signed, annex } in chain {
            writer.push(signed, &annex.bytes()).map_err(impossible)?;
        }
        let Io(bytes) = writer.end().map_err(impossible)?;
        self.make()?;
        write_durably(&self.rosters(), &bytes)
    }

    fn offered_path(&self, hash: [u8; 32]) -> PathBuf {
        offered_path(&self.dir, hash)
    }

    /// Keeps rosters that may be offered. Of too many the oldest ones go.
    fn keep_offered(&self, hash: [u8; 32], chain: &[Listed]) -> io::Result<()> {
        self.make()?;
        let path = self.offered_path(hash);
        let mut others = self.offered_files()?;
        others.retain(|other| *other != path);
        others.sort_by_key(|other| fs::metadata(other).and_then(|about| about.modified()).ok());
        let too_many = (others.len() + 1).saturating_sub(OFFERED_MAX);
        others.iter().take(too_many).try_for_each(|other| remove_if_there(other))?;
        let links: Vec<(&SignedRoster, &Annex)> = chain.iter().map(|listed| (&listed.signed, &listed.annex)).collect();
        let bytes = postcard::to_stdvec(&links).map_err(io::Error::other)?;
        write_durably(&path, &bytes)
    }

    /// The rosters that may be offered, up to the one with this hash; none, where it is in no file.
    fn offered_chain(&self, hash: [u8; 32]) -> io::Result<Vec<Listed>> {
        let mut files = self.offered_files()?;
        let path = self.offered_path(hash);
        files.sort_by_key(|file| *file != path);
        for file in files {
            let mut chain = read_offered(&file)?;
            if let Some(place) = chain.iter().position(|listed| listed.signed.roster.hash() == hash) {
                chain.truncate(place + 1);
                return Ok(chain);
            }
        }
        Ok(Vec::new())
    }

    fn offered_files(&self) -> io::Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_str().and_then(|name| name.strip_prefix(OFFERED)).and_then(unhex::<32>).is_some() {
                files.push(entry.path());
            }
        }
        Ok(files)
    }

    fn forget_offered(&self, which: impl Fn(&[Listed]) -> bool) -> io::Result<()> {
        for file in self.offered_files()? {
            // What cannot be read is of no use.
            if read_offered(&file).map_or(true, |chain| which(&chain)) {
                remove_if_there(&file)?;
            }
        }
        Ok(())
    }
}

fn offered_path(dir: &Path, hash: [u8; 32]) -> PathBuf {
    dir.join(format!("{OFFERED}{}", hex(&hash)))
}

fn read_offered(path: &Path) -> io::Result<Vec<Listed>> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display()));
    let links: Vec<(SignedRoster, Annex)> = postcard::from_bytes(&fs::read(path)?).map_err(|_| damaged())?;
    Ok(links.into_iter().map(|(signed, annex)| Listed { signed, annex }).collect())
}

/// The first uid of a slot that has no record yet. Members that configure a slot of one name have to come to the same
/// one, since keys travel between slots of one uid: it is the one that the annex of the roster in force gives a slot of
/// that name, and where there is none, it follows from what they have in common ([`derived_uid`]). `cluster`: the id of
/// the roster's cluster, of a node without a roster its own; `annexed`: the slots of the annex, if it could be read.
#[must_use]
pub fn first_uid(cluster: [u8; 16], annexed: &[(String, Uid)], name: &str) -> Uid {
    let listed = annexed.iter().find(|(its, _)| its == name);
    listed.map_or_else(|| derived_uid(cluster, name), |(_, uid)| *uid)
}

/// The first 16 bytes of SHA-256 over "slotwarden/slot-uid/v1", the cluster id (16 bytes) and the name of the slot
/// (UTF-8): whatever is before the name has one length, so two names never give the same bytes. It is no secret; the
/// cluster id, which is random, keeps slots of different clusters apart, and those of a store that was made anew.
fn derived_uid(cluster: [u8; 16], name: &str) -> Uid {
    let digest = Sha256::new().chain_update(SLOT_UID).chain_update(cluster).chain_update(name).finalize();
    let mut uid = [0; 16];
    uid.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
    uid
}

/// The slots in the annex of the roster in force, by the files in `dir`; none where they cannot be read.
#[must_use]
pub fn annexed_slots(dir: &Path, in_force: &Roster) -> Vec<(String, Uid)> {
    let hash = in_force.hash();
    let filed = File::open(dir.join(ROSTERS)).ok().and_then(|file| read_rosters(file).ok()).unwrap_or_default();
    // One that was not filed before the last end is still where it was offered.
    let offered = || read_offered(&offered_path(dir, hash)).unwrap_or_default();
    let is_it = |listed: &Listed| listed.signed.roster.hash() == hash;
    let found = filed.into_iter().find(is_it).or_else(|| offered().into_iter().find(is_it));
    found.map_or_else(Vec::new, |listed| listed.annex.slots)
}

impl Annex {
    /// The bytes whose hash is in the roster.
    fn bytes(&self) -> Vec<u8> {
        // Strings and bytes can always be written.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// Reads the annex of this roster: only what [`Annex::bytes`] wrote, with the members of the roster, the keys that
    /// it binds, and names that are names.
    fn of(roster: &Roster, bytes: &[u8]) -> Option<Self> {
        let annex: Annex = postcard::from_bytes(bytes).ok()?;
        let members = annex.members.iter().map(|named| named.keys.member()).collect::<Option<Vec<Member>>>()?;
        let names: BTreeSet<&str> = annex.members.iter().map(|named| named.name.as_str()).collect();
        let usable = names.iter().all(|name| is_name(name)) && names.len() == annex.members.len();
        let shown = annex.slots.iter().all(|(name, _)| !name.is_empty() && !name.chars().any(char::is_control));
        // Two slots with one uid would have one key between them (P17).
        let slot_names: BTreeSet<&str> = annex.slots.iter().map(|(name, _)| name.as_str()).collect();
        let uids: BTreeSet<Uid> = annex.slots.iter().map(|(_, uid)| *uid).collect();
        let shown = shown && slot_names.len() == annex.slots.len() && uids.len() == annex.slots.len();
        (annex.bytes() == bytes && members == roster.members.as_slice() && usable && shown).then_some(annex)
    }
}

/// Reads a file of rosters to its end.
///
/// # Errors
/// [`Refusal::RosterFileInvalid`] and others with the reason.
pub fn read_rosters(file: impl io::Read) -> Result<Vec<Listed>, Problem> {
    let mut place = Box::new([0; ANNEX_BYTES_MAX]);
    let mut reader = Reader::new(Io(BufReader::new(file)), &mut place);
    let mut chain = Vec::new();
    loop {
        let next = reader.next().map_err(|problem| Problem::from(problem.refusal()).with(problem.sentence()))?;
        let Some(link) = next else { return Ok(chain) };
        let annex = Annex::of(&link.signed.roster, link.annex).ok_or_else(|| {
            Problem::from(Refusal::RosterFileInvalid).with("the names beside a roster are in no order")
        })?;
        chain.push(Listed { signed: link.signed.clone(), annex });
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Problem {
    Own::FileUnreadable.with(format!("{}: {error}", path.display()))
}

fn kept(error: &io::Error) -> Problem {
    Problem::from(Refusal::TransferFiles).with(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ed25519_dalek::{Signer as _, SigningKey};
    use tempfile::TempDir;

    use super::*;
    use crate::member_keys::NodeSecrets;

    const CLUSTER: [u8; 16] = [0xC1; 16];
    const KEY: [u8; 16] = [0x11; 16];

    /// A node with a directory of its own.
    struct Node {
        files: ClusterFiles,
        dir: TempDir,
    }

    impl Node {
        fn new(number: u8) -> Self {
            let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
            let files = open(number, dir.path());
            Node { files, dir }
        }

        fn named(&self) -> NamedMember {
            NamedMember { name: self.files.name.clone(), keys: self.files.keys.clone() }
        }

        /// Proposes and files.
        fn makes(&mut self, change: &Change<'_>) -> Roster {
            let proposed = self.propose(self.in_force().as_ref(), change).expect("it is in order");
            self.files.file(proposed.roster.hash()).expect("it was offered");
            proposed.roster
        }

        fn propose(&self, in_force: Option<&Roster>, change: &Change<'_>) -> Result<SignedRoster, Problem> {
            self.files.propose(in_force, change, (CLUSTER, KEY), vec![("ca".to_owned(), [1; 16])])
        }

        fn in_force(&self) -> Option<Roster> {
            self.files.chain.last().map(|last| last.signed.roster.clone())
        }

        fn take(&self, from: &Node) -> Result<SpooledRoster, Problem> {
            self.files.take_rosters(&from.files.rosters(), self.in_force().as_ref())
        }

        /// Takes everything that is newer, one after the other.
        fn follows(&mut self, from: &Node) {
            for hash in self.take(from).expect("it follows").newer {
                self.files.file(hash).expect("it was offered");
            }
        }
    }

    fn open(number: u8, dir: &Path) -> ClusterFiles {
        let key = SigningKey::from_bytes(&[number; 32]);
        let secrets = NodeSecrets::of_node(&[number; 32]).expect("it is a seed");
        let keys = secrets.public(key.verifying_key().to_bytes()).expect("it was made");
        let sign: Signer = Arc::new(move |message: &[u8]| key.sign(message).to_bytes());
        ClusterFiles::open(dir.join("sync"), format!("node-{number}"), keys, sign).expect("its keys are right")
    }

    fn refused<T>(result: Result<T, Problem>) -> String {
        result.err().expect("it is refused").name
    }

    #[test]
    fn the_same_change_is_the_same_roster_and_is_signed_when_it_is_in_force() {
        let (mut one, two) = (Node::new(1), Node::new(2));
        assert_eq!(refused(one.propose(None, &Change::Invite(&two.named()))), "no-cluster");
        let first = one.makes(&Change::Found);
        let proposed = one.propose(Some(&first), &Change::Invite(&two.named())).expect("it is in order");
        assert_eq!(one.propose(Some(&first), &Change::Invite(&two.named())), Ok(proposed.clone()));
        assert_eq!(proposed.signature, [0; 64]);
        // A power cut before it was filed: what was offered is there.
        one.files = open(1, one.dir.path());
        one.files.file(proposed.roster.hash()).expect("it was offered");
        one.files.file(proposed.roster.hash()).expect("once more is the same");
        let chain = read_rosters(File::open(one.files.rosters()).expect("it was written")).expect("it is whole");
        assert_eq!(chain, one.files.chain);
        assert_eq!(chain.iter().map(|listed| listed.signed.roster.epoch).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(refused(one.propose(Some(&proposed.roster), &Change::Invite(&two.named()))), "member-already");
        assert_eq!(refused(one.propose(Some(&proposed.roster), &Change::Remove("nobody"))), "unknown-member");
        let never = one.files.file([9; 32]).expect_err("it was never offered");
        assert_eq!(never.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_node_that_was_away_takes_several_rosters_one_after_the_other() {
        let (mut one, mut two, three) = (Node::new(1), Node::new(2), Node::new(3));
        one.makes(&Change::Found);
        one.makes(&Change::Invite(&two.named()));
        two.follows(&one);
        assert_eq!(two.files.chain.len(), 1, "who joins needs the newest only");
        one.makes(&Change::Invite(&three.named()));
        one.makes(&Change::Remove("node-3"));
        let taken = two.take(&one).expect("it follows");
        assert_eq!((taken.newer.len(), taken.epoch), (2, 4));
        for hash in taken.newer {
            two.files.file(hash).expect("each is there when its turn comes");
        }
        assert_eq!(two.in_force(), one.in_force());
        // Nothing newer: the one in force, which may be filed once more.
        let same = two.take(&one).expect("it is the same");
        assert_eq!(same.newer, [same.hash]);
    }

    #[test]
    fn a_roster_of_the_other_side_is_filed_and_one_that_no_member_signed_is_not_even_kept() {
        let (mut one, mut two) = (Node::new(1), Node::new(2));
        one.makes(&Change::Found);
        one.makes(&Change::Invite(&two.named()));
        two.follows(&one);
        // Both go on for two steps before they hear of each other; people choose the second of the other side.
        for (node, others) in [(&mut one, [3, 4]), (&mut two, [5, 6])] {
            for number in others {
                node.makes(&Change::Invite(&Node::new(number).named()));
            }
        }
        let taken = one.take(&two).expect("a member signed it");
        assert_eq!((taken.of_our_epoch, &taken.newer), (Some(taken.hash), &vec![taken.hash]));
        one.files.file(taken.hash).expect("it was offered");
        assert_eq!(one.in_force(), two.in_force());
        assert_eq!(open(1, one.dir.path()).chain, one.files.chain, "and is found there");
        // Anybody can sign something of this epoch.
        let mut stranger = Node::new(9);
        stranger.follows(&two);
        let forged = stranger.propose(two.in_force().as_ref(), &Change::Remove("node-1")).expect("it is in order");
        let mut forged = stranger.files.offered_chain(forged.roster.hash()).expect("it was offered");
        for listed in &mut forged {
            listed.signed.roster.epoch = taken.epoch;
            listed.signed.signature = (stranger.files.sign)(&listed.signed.roster.message());
        }
        stranger.files.write_chain(&forged).expect("it is in order");
        let kept = |node: &Node| node.files.offered_files().expect("it can be read").len();
        let before = kept(&two);
        assert_eq!(refused(two.take(&stranger)), "roster-of-a-stranger");
        assert_eq!(kept(&two), before);
    }

    #[test]
    fn rosters_that_lead_nowhere_are_refused_by_name_and_not_kept() {
        let (mut one, mut two, mut other) = (Node::new(1), Node::new(2), Node::new(3));
        one.makes(&Change::Found);
        one.makes(&Change::Invite(&two.named()));
        two.follows(&one);
        let old = one.dir.path().join("old");
        fs::copy(one.files.rosters(), &old).expect("there is room");
        // Of another cluster, whoever is in it.
        let own = other.files.propose(None, &Change::Found, ([7; 16], KEY), Vec::new()).expect("it is in order");
        other.files.file(own.roster.hash()).expect("it was offered");
        assert_eq!(refused(two.take(&other)), "other-cluster");
        // Older than ours; and a later one without what is between.
        one.makes(&Change::Invite(&Node::new(4).named()));
        two.follows(&one);
        assert_eq!(refused(two.files.take_rosters(&old, two.in_force().as_ref())), "roster-old");
        one.makes(&Change::Remove("node-4"));
        one.makes(&Change::Invite(&Node::new(5).named()));
        let chain = one.files.chain.split_off(4);
        one.files.write_chain(&chain).expect("the last one alone");
        assert_eq!(refused(two.take(&one)), "roster-not-next");
        fs::write(&old, b"SLWR\x01 and nothing else").expect("there is room");
        assert_eq!(refused(two.files.take_rosters(&old, None)), "roster-file-invalid");
        assert_eq!(two.files.offered_files().expect("it can be read"), [] as [PathBuf; 0]);
    }

    #[test]
    fn another_roster_of_our_epoch_is_named_first_also_when_the_file_goes_on() {
        let (mut one, mut two, three) = (Node::new(1), Node::new(2), Node::new(3));
        one.makes(&Change::Found);
        one.makes(&Change::Invite(&two.named()));
        two.follows(&one);
        let ours = two.makes(&Change::Invite(&three.named()));
        let theirs = one.makes(&Change::Invite(&Node::new(4).named()));
        one.makes(&Change::Remove("node-4"));
        let taken = two.take(&one).expect("the core is told");
        assert_eq!((taken.newer.len(), taken.of_our_epoch), (2, Some(theirs.hash())));
        assert_eq!(taken.newer.first(), Some(&theirs.hash()));
        // Seen from the side that went on, the other one is of an epoch that is over.
        assert_eq!(refused(one.take(&two)), "roster-old");
        // Chosen: it takes the place of ours, and what follows comes behind it.
        for hash in taken.newer {
            two.files.file(hash).expect("each is there when its turn comes");
        }
        assert!(two.files.chain.iter().all(|listed| listed.signed.roster.hash() != ours.hash()));
        assert_eq!(two.in_force(), one.in_force());
    }

    #[test]
    fn what_is_offered_and_not_taken_is_bounded() {
        let (mut one, two) = (Node::new(1), Node::new(2));
        let first = one.makes(&Change::Found);
        for number in 0..3 * OFFERED_MAX {
            let named = NamedMember { name: format!("name-{number}"), ..two.named() };
            one.propose(Some(&first), &Change::Invite(&named)).expect("it is in order");
        }
        assert_eq!(one.files.offered_files().expect("it can be read").len(), OFFERED_MAX);
        one.makes(&Change::Invite(&two.named()));
        assert_eq!(one.files.offered_files().expect("it can be read").len(), 0);
    }

    #[test]
    fn p17_an_annex_with_a_uid_or_a_name_twice_is_none() {
        let one = Node::new(1);
        let mut proposed = one.propose(None, &Change::Found).expect("it is in order");
        let slots = |slots: &[(&str, u8)]| slots.iter().map(|(name, uid)| ((*name).to_owned(), [*uid; 16])).collect();
        let mut is_one = |members: Vec<NamedMember>, slots: Vec<(String, Uid)>| {
            let bytes = Annex { members, slots }.bytes();
            proposed.roster.annex = Sha256::digest(&bytes).into();
            Annex::of(&proposed.roster, &bytes).is_some()
        };
        assert!(is_one(vec![one.named()], slots(&[("ca", 1), ("tsa", 2)])));
        assert!(!is_one(vec![one.named()], slots(&[("ca", 1), ("tsa", 1)])));
        assert!(!is_one(vec![one.named()], slots(&[("ca", 1), ("ca", 2)])));
        assert!(!is_one(vec![one.named()], slots(&[("c\u{1b}a", 1)])));
        assert!(!is_one(vec![NamedMember { name: "a b".to_owned(), ..one.named() }], Vec::new()));
        assert!(!is_one(vec![NamedMember { keys: Node::new(2).named().keys, ..one.named() }], Vec::new()));
        assert!(!is_one(Vec::new(), Vec::new()));
    }

    #[test]
    fn members_that_configure_a_slot_of_one_name_give_it_one_uid() {
        let annexed = [("ca".to_owned(), [7; 16])];
        assert_eq!(first_uid(CLUSTER, &annexed, "ca"), [7; 16], "the annex says it");
        let uid = first_uid(CLUSTER, &annexed, "issuing");
        assert_eq!(uid, first_uid(CLUSTER, &[], "issuing"), "an annex that cannot be read changes nothing");
        assert_ne!(uid, first_uid(CLUSTER, &[], "issuing2"));
        assert_ne!(uid, first_uid([0xC2; 16], &[], "issuing"), "of another cluster, or of a store that was made anew");
        // Computed by sha256sum: it stays as it is, or members of two versions would differ.
        assert_eq!(hex(&uid), "8d4c0d499ad2ddea061ea5b48168410f");
    }

    #[test]
    fn the_annex_in_force_is_found_filed_or_not_and_one_that_is_damaged_lists_nothing() {
        let mut one = Node::new(1);
        let slots = vec![("ca".to_owned(), [7; 16])];
        let proposed = one.files.propose(None, &Change::Found, (CLUSTER, KEY), slots.clone()).expect("it is in order");
        let dir = one.dir.path().join("sync");
        assert_eq!(annexed_slots(&dir, &proposed.roster), slots, "it is in force, and not filed yet");
        one.files.file(proposed.roster.hash()).expect("it was offered");
        assert_eq!(annexed_slots(&dir, &proposed.roster), slots);
        let other = Roster { epoch: 2, ..proposed.roster.clone() };
        assert_eq!(annexed_slots(&dir, &other), []);
        fs::write(one.files.rosters(), b"SLWR").expect("it can be written");
        assert_eq!(annexed_slots(&dir, &proposed.roster), []);
        assert_eq!(annexed_slots(&dir.join("nowhere"), &proposed.roster), []);
    }

    #[test]
    fn a_damaged_file_of_rosters_is_none_and_a_member_brings_it_back() {
        let (mut one, mut two) = (Node::new(1), Node::new(2));
        one.makes(&Change::Found);
        let in_force = one.makes(&Change::Invite(&two.named()));
        two.follows(&one);
        fs::write(two.files.rosters(), b"SLWR").expect("it can be written");
        two.files = open(2, two.dir.path());
        assert_eq!(refused(two.files.listed(&in_force)), "roster-not-offered");
        let taken = two.files.take_rosters(&one.files.rosters(), Some(&in_force)).expect("it is the same");
        assert_eq!(taken.newer, [in_force.hash()]);
        two.files.file(in_force.hash()).expect("it was offered");
        assert!(two.files.listed(&in_force).is_ok());
    }

    #[test]
    fn a_request_is_read_back_and_one_that_was_changed_is_refused() {
        let (one, mut two) = (Node::new(1), Node::new(2));
        let bytes = one.files.join_request(Some(5)).expect("its name is one");
        let path = two.dir.path().join("request");
        fs::write(&path, &bytes).expect("there is room");
        let asked = two.files.take_request(&path).expect("it is whole");
        assert_eq!((asked.name.as_str(), asked.fingerprint), ("node-1", one.files.fingerprint()));
        assert_eq!(two.files.requested(asked.file), Ok(one.named()));
        assert_eq!(refused(two.files.requested([0; 32])), "file-not-spooled");
        for place in (0..bytes.len()).step_by(37) {
            let mut flipped = bytes.clone();
            flipped[place] ^= 4;
            fs::write(&path, flipped).expect("there is room");
            assert_eq!(refused(two.files.take_request(&path)), "join-request-invalid");
        }
    }
}
