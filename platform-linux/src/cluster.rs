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
//! | `offered-HASH` | rosters up to one that the core was offered: what [`ClusterFiles::file`] files |
//! | `received` | what the package says that was admitted last: its facts are taken in when its keys are there |
//! | `last.slwp` | the package that this node made last |
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

use crate::audit::hex;
use crate::devices::Signer;
use crate::export_file::Io;
use crate::package_file::NodeKeys;
use crate::problem::{Own, Problem};
use crate::store::directory::{remove_if_there, write_durably};
use crate::sync_dir::{Heard, SlotFacts, SyncDir, Uid};
use crate::wire::{MemberView, SpooledRequest, SpooledRoster};

const ROSTERS: &str = "rosters.slwr";
const OFFERED: &str = "offered-";
const RECEIVED: &str = "received";
/// The package that was made last, whole.
const PACKAGE: &str = "last.slwp";
/// Rosters that were offered and are in force nowhere: what people look at and do not take.
const OFFERED_MAX: usize = 64;

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
    pub keys: NodeKeys,
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
    keys: NodeKeys,
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
    /// [`Own::FileUnreadable`] where a file of the directory is damaged; a fault of the store's keys.
    pub fn open(dir: PathBuf, name: String, keys: NodeKeys, sign: Signer) -> Result<Self, Problem> {
        let member = keys.member().ok_or(Fault::SealBroken)?;
        let path = dir.join(ROSTERS);
        let chain = match File::open(&path) {
            Ok(file) => read_rosters(file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(Own::FileUnreadable.with(format!("{}: {error}", path.display()))),
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
    pub const fn keys(&self) -> &NodeKeys {
        &self.keys
    }

    /// What people compare of this node.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.member.fingerprint().as_str().to_owned()
    }

    /// Where the package lies that was made last.
    #[must_use]
    pub fn package(&self) -> PathBuf {
        self.dir.join(PACKAGE)
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
        let NodeKeys { node, x_wing, p256 } = &self.keys;
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
        let keys = NodeKeys { node: request.node, x_wing: request.x_wing.to_vec(), p256: request.p256.to_vec() };
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

    /// Reads rosters, and keeps them for whoever orders to take one. `in_force`: the epoch in force here.
    ///
    /// # Errors
    /// [`Refusal::RosterFileInvalid`] with the reason; of the file system.
    pub fn take_rosters(&self, path: &Path, in_force: Option<&Roster>) -> Result<SpooledRoster, Problem> {
        let chain = read_rosters(File::open(path).map_err(|error| unreadable(path, &error))?)?;
        let newer = |listed: &Listed| in_force.is_none_or(|current| current.epoch < listed.signed.roster.epoch);
        let mut hashes = Vec::new();
        for (place, listed) in chain.iter().enumerate() {
            if newer(listed) || place + 1 == chain.len() {
                let hash = listed.signed.roster.hash();
                self.keep_offered(hash, &chain[..=place]).map_err(|error| kept(&error))?;
                hashes.push(hash);
            }
        }
        let Some(Listed { signed, annex }) = chain.last() else { return Err(Refusal::RosterFileInvalid.into()) };
        let signer = signed.roster.member(&signed.signer);
        Ok(SpooledRoster {
            hash: signed.roster.hash(),
            newer: hashes,
            epoch: signed.roster.epoch,
            key_id: signed.roster.key_id,
            members: self.members(signed, annex),
            signer: signer.map(|member| member.fingerprint().as_str().to_owned()).unwrap_or_default(),
            slots: annex.slots.iter().map(|(name, _)| name.clone()).collect(),
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
        let (epoch, previous, mut members) = match (change, in_force) {
            (Change::Found, _) => (1, [0; 32], vec![own]),
            (Change::Invite(_) | Change::Remove(_) | Change::Renew, None) => return Err(Refusal::NoCluster.into()),
            (Change::Invite(_) | Change::Remove(_) | Change::Renew, Some(roster)) => {
                let epoch = roster.epoch.checked_add(1).ok_or(Refusal::RosterNotNext)?;
                (epoch, roster.hash(), self.listed(roster)?.annex.members)
            }
        };
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
        let annex = Annex { members, slots };
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
        let last = self.read_offered(hash).ok().and_then(|mut chain| chain.pop());
        last.ok_or_else(|| Refusal::RosterNotOffered.into())
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
        let mut offered = self.read_offered(hash)?;
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
        let chain: Vec<Listed> = before.cloned().chain(offered).collect();
        let newest = chain.len().saturating_sub(usize::from(slotwarden_core::roster::file::ROSTERS_MAX));
        self.write_chain(&chain[newest..])?;
        self.chain = chain[newest..].to_vec();
        self.forget_offered()
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
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display()));
        let received: Received = postcard::from_bytes(&fs::read(&path)?).map_err(|_| damaged())?;
        if received.heard.hash != hash {
            return Err(damaged());
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
        self.dir.join(format!("{OFFERED}{}", hex(&hash)))
    }

    fn keep_offered(&self, hash: [u8; 32], chain: &[Listed]) -> io::Result<()> {
        self.make()?;
        if fs::read_dir(&self.dir)?.count() > OFFERED_MAX + 4 * MEMBERS_MAX {
            self.forget_offered()?;
        }
        let links: Vec<(&SignedRoster, &Annex)> = chain.iter().map(|listed| (&listed.signed, &listed.annex)).collect();
        let bytes = postcard::to_stdvec(&links).map_err(io::Error::other)?;
        write_durably(&self.offered_path(hash), &bytes)
    }

    fn read_offered(&self, hash: [u8; 32]) -> io::Result<Vec<Listed>> {
        let path = self.offered_path(hash);
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display()));
        let links: Vec<(SignedRoster, Annex)> = postcard::from_bytes(&fs::read(&path)?).map_err(|_| damaged())?;
        let chain: Vec<Listed> = links.into_iter().map(|(signed, annex)| Listed { signed, annex }).collect();
        let is_it = chain.last().is_some_and(|last| last.signed.roster.hash() == hash);
        if is_it { Ok(chain) } else { Err(damaged()) }
    }

    fn forget_offered(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_name().to_str().is_some_and(|name| name.starts_with(OFFERED)) {
                remove_if_there(&entry.path())?;
            }
        }
        Ok(())
    }
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
