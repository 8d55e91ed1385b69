//! The store: records, journal and sealed secrets in one redb file, behind
//! [`devices::Store`](crate::devices::Store).
//!
//! A turn's records are collected, committed as one transaction by a thread of its own, and
//! answered. Opening changes nothing unless everything is in order: the file is first opened
//! through a copy in memory, every page and every record is checked, the audit chain is
//! followed from its first record, the seal is opened; only then is it opened for writing.
//! So a truncated, damaged, foreign or newer store is refused with all its bytes as they
//! were. Two things cannot be told from a power cut: a file put back whole from earlier, and
//! a flip of the one bit that names redb's newer commit slot (the state one transaction
//! before); a checkpoint kept elsewhere shows both.
//!
//! After a restart the store holds exactly what was answered as durable, and possibly the
//! one transaction whose answer was under way (P39).

pub mod copy;
pub mod directory;
pub mod format;
mod lost;
pub mod room;
pub mod writer;
pub mod zeroize;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use ::zeroize::Zeroizing;
use ed25519_dalek::{Signer as _, SigningKey};
use redb::Database;
use redb::backends::FileBackend;
use sha2::{Digest as _, Sha256};
use slotwarden_core::SecretId;
use slotwarden_core::audit::{AuditRecord, Chain};
use slotwarden_core::card::registry::CardEntry;
use slotwarden_core::card::sets::{CardSets, SetSubject};
use slotwarden_core::ceremony::CeremonyId;
use slotwarden_core::ceremony::transcript::signed_message;
use slotwarden_core::cluster::Membership;
use slotwarden_core::effect::{Input, Outcome, Ticket};
use slotwarden_core::fault::{Fault, Refusal};
use slotwarden_core::package::Marks;
use slotwarden_core::person::PersonId;
use slotwarden_core::reception::Reception;
use slotwarden_core::record::{Owner, PolicyRecord, Record, SecretKey, SecretKind, Sets, SlotRecord};
use slotwarden_core::transfer::Restoration;

use self::directory::{
    Directory, Found, create_private, remove_if_there, rename_durably, sync_directory, write_durably,
};
use self::format::{Change, Content};
use self::room::Ballast;
use self::writer::Job;
use crate::audit::NodeKeys;
use crate::devices::{Checkpoint, Event, Events, Lend, Signer, Store, TranscriptEnd, TranscriptPart};
use crate::member_keys::NodeSecrets;
use crate::seal::{self, CREDENTIAL, DataKey, SealPlaces, SealSource};
use crate::transcript;

pub use self::lost::set_lost_aside;

/// The node key's place among the secrets. Owner 0 is the node; slots count from 1.
const NODE_KEY: SecretKey = SecretKey { kind: SecretKind::NodeKey, owner: Owner(0), generation: 1 };

/// A refusal, and what exactly it is about: a path, redb's reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refused {
    /// The refusal.
    pub refusal: Refusal,
    /// The particulars; no secret.
    pub detail: String,
    /// The file system forbids it to this user: nothing is known to be wrong with the store.
    pub forbidden: bool,
}

impl Refused {
    /// A refusal with its particulars.
    #[must_use]
    pub fn new(refusal: Refusal, detail: impl Into<String>) -> Self {
        Refused { refusal, detail: detail.into(), forbidden: false }
    }

    /// What the file system answered about a file of the state directory.
    #[must_use]
    pub fn of_file(refusal: Refusal, path: &Path, error: &io::Error) -> Self {
        let forbidden = matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem);
        let user =
            if forbidden { format!(", as user id {}", rustix::process::geteuid().as_raw()) } else { String::new() };
        Refused { refusal, detail: format!("{}: {error}{user}", path.display()), forbidden }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({}); {}", self.refusal.sentence(), self.detail, self.refusal.remedy())
    }
}

/// Where a store is, and where its seal.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// The state directory.
    pub state_dir: PathBuf,
    /// Where the seal is looked for.
    pub seal: SealPlaces,
}

impl StoreSettings {
    /// The usual places: the key file in the state directory, the credential where systemd
    /// put it (`$CREDENTIALS_DIRECTORY`).
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|path| !path.is_empty());
        let credential = credentials.map(|path| Path::new(&path).join(CREDENTIAL));
        let seal = SealPlaces { credential, key_file: state_dir.join("seal.key") };
        StoreSettings { state_dir: state_dir.to_owned(), seal }
    }
}

/// What was found at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The slots' records.
    pub slots: Vec<(Owner, SlotRecord)>,
    /// What two persons decided.
    pub policy: PolicyRecord,
    /// The slots' sets of shares.
    pub sets: Vec<(Owner, Sets)>,
    /// The sets of cards.
    pub card_sets: Vec<(SetSubject, CardSets)>,
    /// The cards, in the order of their places.
    pub cards: Vec<CardEntry>,
    /// The cluster id in force, once the core recorded it.
    pub cluster_id: Option<[u8; 16]>,
    /// The restoration under way.
    pub restoration: Option<Restoration>,
    /// The roster in force.
    pub membership: Option<Membership>,
    /// What was taken from other members, and sent to them.
    pub marks: Marks,
    /// The package under way whose making was ordered.
    pub reception: Option<Reception>,
    /// The end of the audit chain, every record of which was checked.
    pub chain: Chain,
    /// The sealed codes and keys that are there.
    pub secrets: Vec<SecretKey>,
}

/// The store of one daemon.
pub struct DiskStore {
    database: Arc<Database>,
    /// `Some` until the store is dropped.
    thread: Option<(Sender<Job>, JoinHandle<()>)>,
    /// The open transaction, or why it cannot be stored.
    batch: Result<Vec<Change>, String>,
    /// The end of the journal with the open transaction.
    chain: Chain,
    loaded: Loaded,
    owners: BTreeMap<String, Owner>,
    persons: BTreeMap<String, PersonId>,
    configurations: BTreeMap<[u8; 32], Vec<u8>>,
    cluster: [u8; 16],
    /// `None`: it was destroyed.
    key: Option<DataKey>,
    source: SealSource,
    /// Shared with those who sign in other threads; `None`: it was destroyed.
    node: Arc<Mutex<Option<Box<SigningKey>>>>,
    /// The public node keys.
    nodes: NodeKeys,
    directory: Directory,
    key_file: PathBuf,
    /// What destroys the data key on the disk.
    destroying: Option<JoinHandle<()>>,
    events: Events,
    /// Held until the store is dropped; declared last, so that it goes after the database.
    _lock: File,
}

impl DiskStore {
    /// Opens the store, or makes it in a directory where none ever was.
    ///
    /// # Errors
    /// `StoreLocked`, `StoreMissing`, `StoreUnreadable`, `StoreNewer`, `SealMissing`,
    /// `SealWrong`: nothing was changed. `StoreFailed`: the disk refused.
    pub fn open(settings: &StoreSettings, events: Events) -> Result<Self, Refused> {
        let directory = Directory::make(&settings.state_dir)?;
        let lock = directory.lock()?;
        let ballast = Ballast::new(&directory.path);
        zeroize::finish(&directory, settings)?;
        let marked = match directory.look()? {
            Found::Store { marked } => marked,
            Found::Nothing => {
                make(&directory, &settings.seal)?;
                false
            }
        };
        let content = inspect(&directory)?;
        let blob = directory.blob();
        let bytes = fs::read(&blob).map_err(|error| Refused::of_file(Refusal::SealMissing, &blob, &error))?;
        let (key, source) = seal::open(&bytes, &settings.seal)?;
        let node = Arc::new(Mutex::new(Some(unseal_node(&content, &key)?)));
        let nodes = NodeKeys { former: content.former_nodes.clone(), current: content.node };

        // Everything is in order: from here on files are written. Room first, since redb may
        // have to repair after a power cut.
        let _ = ballast.room();
        if !marked {
            directory.mark()?;
        }
        let file = fs::OpenOptions::new().read(true).write(true).open(directory.store());
        let file = file.map_err(|error| Refused::of_file(Refusal::StoreFailed, &directory.store(), &error))?;
        let backend = FileBackend::new(file).map_err(|error| failed(&error))?;
        let database = Arc::new(format::open(backend).map_err(|error| match error {
            redb::Error::DatabaseAlreadyOpen => {
                Refused::new(Refusal::StoreLocked, settings.state_dir.display().to_string())
            }
            other => failed(&other),
        })?);

        let (jobs, queue) = mpsc::channel();
        let worker = thread::Builder::new().name("store".into()).spawn({
            let database = Arc::clone(&database);
            let events = events.clone();
            move || writer::run(&database, &ballast, &queue, &events)
        });
        let worker = worker.map_err(|error| failed(&error))?;
        Ok(DiskStore {
            database,
            thread: Some((jobs, worker)),
            batch: Ok(Vec::new()),
            chain: content.chain,
            loaded: Loaded {
                slots: content.slots,
                policy: content.policy,
                sets: content.sets,
                card_sets: content.card_sets,
                cards: content.cards,
                cluster_id: content.cluster_id,
                restoration: content.restoration,
                membership: content.membership,
                marks: content.marks,
                reception: content.reception,
                chain: content.chain,
                secrets: content.secrets.iter().map(|(key, _)| *key).collect(),
            },
            owners: content.owners.into_iter().collect(),
            persons: content.persons.into_iter().collect(),
            configurations: content.configurations.into_iter().collect(),
            cluster: content.cluster,
            key: Some(key),
            source,
            node,
            nodes,
            directory,
            key_file: settings.seal.key_file.clone(),
            destroying: None,
            events,
            _lock: lock,
        })
    }

    /// Whether a store was ever made in this directory. Changes nothing.
    #[must_use]
    pub fn is_at(state_dir: &Path) -> bool {
        state_dir.is_dir() && matches!(Directory { path: state_dir.to_owned() }.look(), Ok(Found::Store { .. }))
    }

    /// What was found at the start.
    #[must_use]
    pub fn loaded(&self) -> &Loaded {
        &self.loaded
    }

    /// The number that this slot name has for ever; a new name gets the next one, durably.
    ///
    /// # Errors
    /// [`Refusal::StoreFailed`].
    pub fn owner_of(&mut self, name: &str) -> Result<Owner, Refused> {
        if let Some(owner) = self.owners.get(name) {
            return Ok(*owner);
        }
        let last = self.owners.values().copied().max().unwrap_or(NODE_KEY.owner);
        let next = last.0.checked_add(1).ok_or_else(|| failed(&"no owner number is left"))?;
        let owner = Owner(next);
        format::apply(&self.database, &[Change::Owner(name.to_owned(), owner)]).map_err(|error| failed(&error))?;
        self.owners.insert(name.to_owned(), owner);
        Ok(owner)
    }

    /// Every slot name the store ever numbered, in the order of the names.
    pub fn owners(&self) -> impl Iterator<Item = (&str, Owner)> {
        self.owners.iter().map(|(name, owner)| (name.as_str(), *owner))
    }

    /// The number that this person's name has for ever; a new name gets the next one, durably.
    ///
    /// # Errors
    /// [`Refusal::StoreFailed`]; [`Refusal::TooManyPersons`] when 254 names had one.
    pub fn person_of(&mut self, name: &str) -> Result<PersonId, Refused> {
        if let Some(person) = self.persons.get(name) {
            return Ok(*person);
        }
        let last = self.persons.values().copied().max().unwrap_or(PersonId::OWN_USER);
        let next = last.0.checked_add(1).map(PersonId).filter(|next| *next <= PersonId::LAST);
        let next = next.ok_or_else(|| Refused::new(Refusal::TooManyPersons, "no number for a person is left"))?;
        format::apply(&self.database, &[Change::Person(name.to_owned(), next)]).map_err(|error| failed(&error))?;
        self.persons.insert(name.to_owned(), next);
        Ok(next)
    }

    /// Every person's name the store ever numbered, in the order of the names.
    pub fn persons(&self) -> impl Iterator<Item = (&str, PersonId)> {
        self.persons.iter().map(|(name, person)| (name.as_str(), *person))
    }

    /// The protected part of a configuration that is kept under this SHA-256.
    #[must_use]
    pub fn configuration(&self, digest: &[u8; 32]) -> Option<&[u8]> {
        self.configurations.get(digest).map(Vec::as_slice)
    }

    /// Forgets every kept configuration but this one. At the start only: what a person may
    /// still adopt is kept anew when it is wanted.
    ///
    /// # Errors
    /// [`Refusal::StoreFailed`].
    pub fn keep_only(&mut self, digest: &[u8; 32]) -> Result<(), Refused> {
        let others: Vec<Change> = self
            .configurations
            .keys()
            .filter(|kept| *kept != digest)
            .map(|kept| Change::ForgetConfiguration(*kept))
            .collect();
        if !others.is_empty() {
            format::apply(&self.database, &others).map_err(|error| failed(&error))?;
            self.configurations.retain(|kept, _| kept == digest);
        }
        Ok(())
    }

    /// The slots that had a sealed code at the start.
    pub fn with_sealed_code(&self) -> impl Iterator<Item = &str> {
        let sealed =
            |owner| self.loaded.secrets.iter().any(|key| key.owner == owner && key.kind != SecretKind::NodeKey);
        self.owners().filter(move |(_, owner)| sealed(*owner)).map(|(name, _)| name)
    }

    /// 16 random bytes, made with the first store: the cluster id until the core recorded another.
    #[must_use]
    pub fn cluster_id(&self) -> [u8; 16] {
        self.cluster
    }

    fn add(&mut self, change: Result<Change, String>) {
        match (&mut self.batch, change) {
            (Ok(batch), Ok(change)) => batch.push(change),
            (Ok(_), Err(reason)) => self.batch = Err(reason),
            // The first reason stays.
            (Err(_), _) => {}
        }
    }

    fn hand_over(&mut self, ticket: Option<Ticket>) {
        let changes = std::mem::replace(&mut self.batch, Ok(Vec::new()));
        if let Some((jobs, _)) = &self.thread {
            // The thread ends only after this sender is dropped.
            let _ = jobs.send(Job { ticket, changes });
        }
    }
}

impl Store for DiskStore {
    fn put(&mut self, record: &Record, secrets: &dyn Lend) {
        let change = match record {
            Record::Slot { owner, record } => Ok(Change::Slot(*owner, *record)),
            Record::Sets { owner, sets } => Ok(Change::Sets(*owner, Box::new(sets.clone()))),
            Record::Erase { key } => Ok(Change::Erase(*key)),
            Record::Seal { key, id } => self.sealed(*key, *id, secrets),
            Record::Policy(policy) => Ok(Change::Policy(*policy)),
            Record::CardSets { subject, sets } => Ok(Change::CardSets(*subject, Box::new(sets.clone()))),
            Record::Card { place, entry } => Ok(Change::Card(*place, *entry)),
            Record::Cluster(id) => Ok(Change::Cluster(*id)),
            Record::Restoration(restoration) => Ok(Change::Restoration(*restoration)),
            Record::Roster(membership) => Ok(Change::Roster(Box::new(membership.clone()))),
            Record::SyncMarks(marks) => Ok(Change::SyncMarks(Box::new(marks.clone()))),
            Record::Reception(reception) => Ok(Change::Reception(reception.clone().map(Box::new))),
            Record::Transcript { id, number, line } => Ok(Change::Transcript(*id, *number, Box::new(*line))),
        };
        self.add(change);
    }

    fn journal(&mut self, record: &AuditRecord) {
        // What would break the chain is not stored: the log could not be verified any more.
        let change = match self.chain.accept(record) {
            Ok(()) => Ok(Change::Audit(*record)),
            Err(broken) => Err(format!("the audit record does not follow the one before: {broken:?}")),
        };
        self.add(change);
    }

    fn commit(&mut self, ticket: Ticket) {
        self.hand_over(Some(ticket));
    }

    fn unseal(&mut self, key: SecretKey, place: &mut [u8]) -> Result<usize, Fault> {
        let sealed = format::secret(&*self.database, key).map_err(|_| Fault::SealBroken)?;
        let data_key = self.key.as_ref().ok_or(Fault::SealBroken)?;
        data_key.unseal(&self.cluster, key, &sealed.ok_or(Fault::SealBroken)?, place)
    }

    fn checkpoint(&mut self, sequence: u64, head: [u8; 32]) {
        // A signature under what does not stand in the journal would make it look truncated.
        if !self.has(sequence, head) {
            // A closed channel means that nobody reads notes any more.
            let _ = self.events.send(Event::Note(format!("no checkpoint was made: record {sequence} is another one")));
            return;
        }
        let Some(signature) = self.sign(&Chain { sequence, head }.checkpoint_message()) else { return };
        // With an open transaction it becomes part of that one: its record may be in it.
        let alone = self.batch.as_ref().is_ok_and(Vec::is_empty);
        self.add(Ok(Change::Checkpoint(Checkpoint { sequence, head, signature })));
        if alone {
            self.hand_over(None);
        }
    }

    fn sign_transcript(&mut self, id: CeremonyId, head: [u8; 32]) {
        // As with a checkpoint: what does not stand in the store would look truncated.
        if self.transcript_head(id) != Some(head) {
            let _ = self.events.send(Event::Note(format!("the transcript {id} was not signed: its lines are others")));
            return;
        }
        let Some(signature) = self.sign(&signed_message(id, &head)) else { return };
        let alone = self.batch.as_ref().is_ok_and(Vec::is_empty);
        self.add(Ok(Change::TranscriptEnd(id, TranscriptEnd { head, signature })));
        if alone {
            self.hand_over(None);
        }
    }

    fn transcript(&mut self, id: CeremonyId, first: u16, count: usize) -> Result<TranscriptPart, Refusal> {
        let (all, lines, end) =
            format::transcript(&*self.database, id, first, count).map_err(|refused| refused.refusal)?;
        Ok(TranscriptPart { all, lines, end })
    }

    fn audit(&mut self, first: u64, count: usize) -> Result<Vec<AuditRecord>, Refusal> {
        format::audit(&*self.database, first, count).map_err(|refused| refused.refusal)
    }

    fn checkpoints(&mut self) -> Result<Vec<Checkpoint>, Refusal> {
        format::checkpoints(&*self.database).map_err(|refused| refused.refusal)
    }

    fn kept_configuration(&self, digest: &[u8; 32]) -> Option<Vec<u8>> {
        self.configuration(digest).map(<[u8]>::to_vec)
    }

    fn keep_configuration(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let digest = Sha256::digest(bytes).into();
        if self.configurations.contains_key(&digest) {
            return Ok(());
        }
        format::apply(&self.database, &[Change::Configuration(bytes.to_vec())]).map_err(|_| Refusal::StoreFailed)?;
        self.configurations.insert(digest, bytes.to_vec());
        Ok(())
    }

    fn seal(&self) -> &'static str {
        self.source.name()
    }

    fn node_keys(&self) -> &NodeKeys {
        &self.nodes
    }

    fn signer(&self) -> Signer {
        let node = Arc::clone(&self.node);
        // After a zeroize nothing is signed any more: what no key signed verifies under none.
        Arc::new(move |message| signed(&node, message).unwrap_or([0; 64]))
    }

    fn zeroize(&mut self, ticket: Ticket, who: PersonId) {
        // What is in memory first: it takes no disk.
        self.key = None;
        *self.node.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let destroy = {
            let (directory, key_file, events) = (self.directory.clone(), self.key_file.clone(), self.events.clone());
            Arc::new(move || {
                let result = zeroize::order(&directory, &key_file, who).map_err(|error| {
                    // A closed channel means that nobody reads notes any more.
                    let _ = events.send(Event::Note(format!("zeroize: the disk refused: {error}")));
                    Fault::StoreFailed
                });
                let _ = events.send(Event::Input(Input::Done { ticket, outcome: Outcome::Zeroized(result) }));
            })
        };
        // In a thread of its own: a disk that hangs keeps no PIN with an application.
        let spawned = thread::Builder::new().name("zeroize".into()).spawn({
            let destroy = Arc::clone(&destroy);
            move || destroy()
        });
        match spawned {
            Ok(thread) => self.destroying = Some(thread),
            Err(_) => destroy(),
        }
    }

    fn node_secrets(&self) -> Result<NodeSecrets, Fault> {
        let node = self.node.lock().unwrap_or_else(PoisonError::into_inner);
        // A zeroize took it out of memory.
        let key = node.as_ref().ok_or(Fault::SealBroken)?;
        NodeSecrets::of_node(&Zeroizing::new(key.to_bytes()))
    }
}

impl DiskStore {
    /// Whether the journal, with the open transaction, has this record with this hash.
    fn has(&self, sequence: u64, head: [u8; 32]) -> bool {
        let collected = self.batch.iter().flatten().any(
            |change| matches!(change, Change::Audit(record) if record.sequence == sequence && record.hash() == head),
        );
        collected
            || format::audit(&*self.database, sequence, 1)
                .is_ok_and(|found| found.iter().any(|record| record.sequence == sequence && record.hash() == head))
    }

    /// The end of a transcript's chain, with the open transaction; `None`: there is no such one.
    fn transcript_head(&self, id: CeremonyId) -> Option<[u8; 32]> {
        let (_, mut lines, _) = format::transcript(&*self.database, id, 0, usize::MAX).ok()?;
        for change in self.batch.iter().flatten() {
            match change {
                Change::Transcript(of, _, line) if *of == id => lines.push(**line),
                _ => {}
            }
        }
        (!lines.is_empty()).then(|| transcript::head(&lines))
    }

    fn sign(&self, message: &[u8]) -> Option<[u8; 64]> {
        signed(&self.node, message)
    }

    /// Seals at once, so that no plaintext reaches the store thread.
    fn sealed(&self, key: SecretKey, id: SecretId, secrets: &dyn Lend) -> Result<Change, String> {
        let mut sealed = None;
        let data_key = self.key.as_ref().ok_or("the data key was destroyed")?;
        let lent = secrets.lend(id, &mut |secret| sealed = Some(data_key.seal(&self.cluster, key, secret)));
        match sealed {
            Some(Ok(sealed)) if lent => Ok(Change::Secret(key, sealed)),
            Some(Err(fault)) => Err(format!("a secret could not be sealed: {}", fault.sentence())),
            Some(Ok(_)) | None => Err("the secret to seal is not in the Safe".into()),
        }
    }
}

fn signed(node: &Mutex<Option<Box<SigningKey>>>, message: &[u8]) -> Option<[u8; 64]> {
    let node = node.lock().unwrap_or_else(PoisonError::into_inner);
    node.as_ref().map(|node| node.sign(message).to_bytes())
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        if let Some(destroying) = self.destroying.take() {
            // A destruction that is slow is not left halfway.
            let _ = destroying.join();
        }
        if let Some((jobs, worker)) = self.thread.take() {
            drop(jobs);
            // What was handed over is committed before the lock is given back.
            let _ = worker.join();
        }
    }
}

/// Reads a store without changing anything, whatever it is.
///
/// # Errors
/// [`Refusal::StoreUnreadable`], [`Refusal::StoreNewer`].
pub fn inspect(directory: &Directory) -> Result<Content, Refused> {
    format::read(&open_copy(directory)?)
}

/// Opens a store through a copy in memory.
///
/// # Errors
/// [`Refusal::StoreUnreadable`].
pub fn open_copy(directory: &Directory) -> Result<Database, Refused> {
    let path = directory.store();
    let unreadable = |reason: String| Refused::new(Refusal::StoreUnreadable, format!("{}: {reason}", path.display()));
    let file = File::open(&path).map_err(|error| Refused::of_file(Refusal::StoreUnreadable, &path, &error))?;
    // redb takes an empty storage for a new one; an empty file is a truncated one.
    if file.metadata().map_err(|error| unreadable(error.to_string()))?.len() == 0 {
        return Err(unreadable("it is empty".into()));
    }
    let copy = copy::Copy::of(file).map_err(|error| unreadable(error.to_string()))?;
    format::open_verifying(copy).map_err(|error| unreadable(error.to_string()))
}

/// Makes store and seal for the first time, in an order in which every power cut can be
/// told from a loss (see [`directory`]).
fn make(directory: &Directory, places: &SealPlaces) -> Result<(), Refused> {
    let store = directory.store_in_making();
    remove_if_there(&store).map_err(|error| failed(&error))?;
    let (key, _, blob) = seal::make(places)?;
    let mut cluster = [0; 16];
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut cluster).map_err(|error| failed(&error))?;
    getrandom::fill(seed.as_mut_slice()).map_err(|error| failed(&error))?;
    let node = Box::new(SigningKey::from_bytes(&seed));
    let sealed = key
        .seal(&cluster, NODE_KEY, seed.as_slice())
        .map_err(|fault| Refused::new(Refusal::StoreFailed, fault.sentence()))?;

    let file = create_private(&store).map_err(|error| failed(&error))?;
    let synced = file.try_clone().map_err(|error| failed(&error))?;
    let backend = FileBackend::new(file).map_err(|error| failed(&error))?;
    let database = format::open(backend).map_err(|error| failed(&error))?;
    format::initialise(&database, &cluster, node.verifying_key().as_bytes(), (NODE_KEY, &sealed))
        .map_err(|error| failed(&error))?;
    drop(database);
    synced.sync_all().map_err(|error| failed(&error))?;
    // Its name has to be durable before the blob's: a blob alone means a loss.
    sync_directory(&directory.path).map_err(|error| failed(&error))?;
    write_durably(&directory.blob(), &blob).map_err(|error| failed(&error))?;
    rename_durably(&store, &directory.store()).map_err(|error| failed(&error))
}

/// Opens the node key and compares it with the public one in the store.
fn unseal_node(content: &Content, key: &DataKey) -> Result<Box<SigningKey>, Refused> {
    let broken = || Refused::new(Refusal::StoreUnreadable, "the node key cannot be opened");
    let sealed = content.secrets.iter().find(|(key, _)| *key == NODE_KEY);
    let (_, sealed) = sealed.ok_or_else(broken)?;
    let mut seed = Zeroizing::new([0; 32]);
    let length = key
        .unseal(&content.cluster, NODE_KEY, sealed, seed.as_mut_slice())
        .map_err(|_| Refused::new(Refusal::SealWrong, "seal.blob belongs to another store"))?;
    let node = Box::new(SigningKey::from_bytes(&seed));
    if length != seed.len() || node.verifying_key().to_bytes() != content.node {
        return Err(broken());
    }
    Ok(node)
}

fn failed(error: &impl fmt::Display) -> Refused {
    Refused::new(Refusal::StoreFailed, error.to_string())
}
