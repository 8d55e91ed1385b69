//! What the store holds, table by table, and the two things done with it: read everything
//! and check it, apply one batch.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | name | `format`: version, u32 big-endian; `cluster`: 16 bytes, bound into every seal; `node`: Ed25519 public key; `policy`: [`PolicyRecord::encode`], once dual control was switched; `cluster-id`: the cluster id in force, once the core recorded it; `restoration`: [`Restoration::encode`], once there was one; `roster`: [`Membership::encode`], once there was a cluster; `sync-marks`: [`Marks::encode`], once a package was made or taken; `reception`: [`Reception::encode`], once there was one; `zeroized`: the id of the last zeroize that was finished |
//! | `former-nodes` | sequence of the audit record that names its successor | a node key that a zeroize destroyed: public key |
//! | `owners` | slot name | owner number; rows are never removed, so no number is used twice |
//! | `persons` | person's name | person number, from 1; rows are never removed |
//! | `configurations` | SHA-256 of the value | the protected part of a configuration |
//! | `slots` | owner number | [`SlotRecord::encode`] |
//! | `sets` | owner number | [`Sets::encode`]; made when a slot has its first set |
//! | `secrets` | kind, owner, generation (big-endian) | nonce ‖ ciphertext ‖ tag |
//! | `audit` | sequence | [`AuditRecord::encode`] |
//! | `checkpoints` | sequence | head ‖ signature |
//! | `card-sets` | kind, owner number (big-endian, 0: the cluster's) | [`CardSets::encode`] |
//! | `cards` | place in the registry, from 0 without gaps | [`CardEntry::encode`]; rows are replaced, never removed |
//! | `transcripts` | ceremony id, line number (big-endian) | [`Line::encode`]; only ever appended to |
//! | `transcript-ends` | ceremony id | hash of the last line ‖ signature |
//!
//! Stores made before there were persons, configurations or cards lack these tables; each is
//! made when it is first written.
//!
//! A batch is one redb transaction in two phases: data and the second commit slot are
//! durable before the slot becomes the first. redb's one-phase commit would save a sync, but
//! then a damaged newest transaction looks like a torn one and is silently rolled back;
//! with two phases it is refused.

use redb::{
    Builder, Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    TableError,
};
use sha2::{Digest, Sha256};
use slotwarden_core::audit::{AUDIT_RECORD_BYTES_MAX, AuditRecord, Chain};
use slotwarden_core::card::registry::{CARD_ENTRY_BYTES_MAX, CardEntry};
use slotwarden_core::card::sets::{CARD_SETS_BYTES_MAX, CardSets, SetSubject};
use slotwarden_core::ceremony::CeremonyId;
use slotwarden_core::ceremony::transcript::{LINE_BYTES_MAX, Line};
use slotwarden_core::cluster::{MARKS_BYTES_MAX, MEMBERSHIP_BYTES_MAX, Membership};
use slotwarden_core::fault::Refusal;
use slotwarden_core::package::Marks;
use slotwarden_core::person::PersonId;
use slotwarden_core::reception::{RECEPTION_BYTES_MAX, Reception};
use slotwarden_core::record::{
    Owner, POLICY_RECORD_BYTES_MAX, PolicyRecord, SETS_BYTES_MAX, SLOT_RECORD_BYTES_MAX, SecretKey, Sets, SlotRecord,
};
use slotwarden_core::transfer::{RESTORATION_BYTES_MAX, Restoration};

use super::Refused;
use super::directory::FORMAT_VERSION;
use crate::audit::{NodeKeys, Verifier};
use crate::devices::{Checkpoint, TranscriptEnd};
use crate::seal::{kind_code, kind_from_code};
use crate::transcript;

const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const OWNERS: TableDefinition<'_, &str, u16> = TableDefinition::new("owners");
const PERSONS: TableDefinition<'_, &str, u8> = TableDefinition::new("persons");
const CONFIGURATIONS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("configurations");
const SLOTS: TableDefinition<'_, u16, &[u8]> = TableDefinition::new("slots");
const SETS: TableDefinition<'_, u16, &[u8]> = TableDefinition::new("sets");
const SECRETS: TableDefinition<'_, &[u8; 7], &[u8]> = TableDefinition::new("secrets");
const AUDIT: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit");
const CHECKPOINTS: TableDefinition<'_, u64, &[u8; 96]> = TableDefinition::new("checkpoints");
const CARD_SETS: TableDefinition<'_, &[u8; 3], &[u8]> = TableDefinition::new("card-sets");
const CARDS: TableDefinition<'_, u8, &[u8]> = TableDefinition::new("cards");
const TRANSCRIPTS: TableDefinition<'_, &[u8; 10], &[u8]> = TableDefinition::new("transcripts");
const FORMER_NODES: TableDefinition<'_, u64, &[u8; 32]> = TableDefinition::new("former-nodes");
const TRANSCRIPT_ENDS: TableDefinition<'_, &[u8; 8], &[u8; 96]> = TableDefinition::new("transcript-ends");

/// redb's page cache, bytes. The whole working set of 64 slots is a tenth of this.
const CACHE_BYTES: usize = 2 << 20;

/// The protected part of a configuration, behind its SHA-256.
pub type KeptConfiguration = ([u8; 32], Vec<u8>);

/// One change of a batch. Secrets are sealed already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A slot name gets its number.
    Owner(String, Owner),
    /// A person's name gets its number.
    Person(String, PersonId),
    /// What two persons decided; replaces the one before.
    Policy(PolicyRecord),
    /// The protected part of a configuration, under its SHA-256.
    Configuration(Vec<u8>),
    /// A configuration goes.
    ForgetConfiguration([u8; 32]),
    /// The state of a slot; replaces the one before.
    Slot(Owner, SlotRecord),
    /// The sets of shares of a slot; replace those before.
    Sets(Owner, Box<Sets>),
    /// A sealed secret.
    Secret(SecretKey, Vec<u8>),
    /// A sealed secret goes.
    Erase(SecretKey),
    /// A record of the journal; never replaces one.
    Audit(AuditRecord),
    /// A signed head of the journal.
    Checkpoint(Checkpoint),
    /// The sets of cards of one subject; replace those before.
    CardSets(SetSubject, Box<CardSets>),
    /// One card of the registry; replaces the one at its place.
    Card(u8, CardEntry),
    /// The cluster id in force; replaces the one before.
    Cluster([u8; 16]),
    /// The restoration under way; replaces the one before.
    Restoration(Option<Restoration>),
    /// The roster in force; replaces the one before.
    Roster(Box<Membership>),
    /// What was taken from other members and sent to them; replaces what was before.
    SyncMarks(Box<Marks>),
    /// The package under way whose making was ordered; replaces the one before.
    Reception(Option<Box<Reception>>),
    /// A line of a transcript; never replaces one.
    Transcript(CeremonyId, u16, Box<Line>),
    /// The signed end of a transcript.
    TranscriptEnd(CeremonyId, TranscriptEnd),
}

/// Everything a store holds but the journal, whose end is kept, as those of transcripts are; checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The cluster id.
    pub cluster: [u8; 16],
    /// The node's public key.
    pub node: [u8; 32],
    /// Public keys that the node had before, oldest first.
    pub former_nodes: Vec<[u8; 32]>,
    /// The last zeroize that was finished.
    pub zeroized: Option<[u8; 16]>,
    /// Slot names and their numbers.
    pub owners: Vec<(String, Owner)>,
    /// Names of persons and their numbers.
    pub persons: Vec<(String, PersonId)>,
    /// What two persons decided.
    pub policy: PolicyRecord,
    /// Protected parts of configurations; the one that the policy names is there.
    pub configurations: Vec<KeptConfiguration>,
    /// The slots' records.
    pub slots: Vec<(Owner, SlotRecord)>,
    /// The slots' sets of shares.
    pub sets: Vec<(Owner, Sets)>,
    /// The sets of cards.
    pub card_sets: Vec<(SetSubject, CardSets)>,
    /// The cards, in the order of their places.
    pub cards: Vec<CardEntry>,
    /// The cluster id in force, once it was recorded.
    pub cluster_id: Option<[u8; 16]>,
    /// The restoration under way.
    pub restoration: Option<Restoration>,
    /// The roster in force.
    pub membership: Option<Membership>,
    /// What was taken from other members, and sent to them.
    pub marks: Marks,
    /// The package under way whose making was ordered.
    pub reception: Option<Reception>,
    /// The transcripts, by their ends; every line before them was checked.
    pub transcripts: Vec<Transcript>,
    /// The sealed secrets.
    pub secrets: Vec<(SecretKey, Vec<u8>)>,
    /// The end of the journal; every record before it was checked.
    pub chain: Chain,
    /// The signed heads, oldest first; each stands in the chain.
    pub checkpoints: Vec<Checkpoint>,
}

/// A transcript by its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transcript {
    /// Of which ceremony.
    pub id: CeremonyId,
    /// How many lines it has.
    pub lines: u32,
    /// The hash of the last one.
    pub head: [u8; 32],
    /// Whether the node signed that.
    pub signed: bool,
}

/// A redb database over any storage, with our settings, repaired if it was not closed. An
/// empty storage becomes an empty database. What it holds is trusted: see [`open_verifying`].
///
/// # Errors
/// redb's, when the storage is damaged or fails.
pub fn open(backend: impl StorageBackend) -> Result<Database, redb::Error> {
    Ok(Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(backend)?)
}

/// The same, with every page verified, whatever the storage says about itself. It writes
/// even if everything is in order, so it is for copies.
///
/// # Errors
/// redb's, when the storage is damaged or fails.
pub fn open_verifying(backend: impl StorageBackend) -> Result<Database, redb::Error> {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    Ok(builder.create_with_backend(backend)?)
}

/// Makes the tables of a new store, with its identity and the sealed node key, in one
/// transaction.
///
/// # Errors
/// redb's, when the storage fails.
pub fn initialise(
    database: &Database,
    cluster: &[u8; 16],
    node: &[u8; 32],
    node_key: (SecretKey, &[u8]),
) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_two_phase_commit(true);
    {
        let mut meta = transaction.open_table(META)?;
        meta.insert("format", FORMAT_VERSION.to_be_bytes().as_slice())?;
        meta.insert("cluster", cluster.as_slice())?;
        meta.insert("node", node.as_slice())?;
        transaction.open_table(OWNERS)?;
        transaction.open_table(SLOTS)?;
        transaction.open_table(SETS)?;
        transaction.open_table(SECRETS)?.insert(&secret_bytes(node_key.0), node_key.1)?;
        transaction.open_table(AUDIT)?;
        transaction.open_table(CHECKPOINTS)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Makes a batch durable as one transaction: all of it or nothing.
///
/// # Errors
/// redb's. What the storage holds then is the state before or after, and nobody knows which.
pub fn apply(database: &Database, batch: &[Change]) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_two_phase_commit(true);
    for change in batch {
        match change {
            Change::Owner(name, owner) => {
                if transaction.open_table(OWNERS)?.insert(name.as_str(), owner.0)?.is_some() {
                    return Err(invariant("a slot name has one number for ever"));
                }
            }
            Change::Person(name, person) => {
                if transaction.open_table(PERSONS)?.insert(name.as_str(), person.0)?.is_some() {
                    return Err(invariant("a person's name has one number for ever"));
                }
            }
            Change::Policy(policy) => {
                let mut place = [0; POLICY_RECORD_BYTES_MAX];
                let bytes = policy.encode(&mut place).map_err(|_| invariant("a policy fits its bound"))?;
                if policy.dual_control && transaction.open_table(CONFIGURATIONS)?.get(&policy.configuration)?.is_none()
                {
                    return Err(invariant("what two persons approved is kept before it counts"));
                }
                transaction.open_table(META)?.insert("policy", bytes)?;
            }
            Change::Configuration(bytes) => {
                let digest: [u8; 32] = Sha256::digest(bytes).into();
                transaction.open_table(CONFIGURATIONS)?.insert(&digest, bytes.as_slice())?;
            }
            Change::ForgetConfiguration(digest) => {
                transaction.open_table(CONFIGURATIONS)?.remove(digest)?;
            }
            Change::Slot(owner, record) => {
                let mut place = [0; SLOT_RECORD_BYTES_MAX];
                let bytes = record.encode(&mut place).map_err(|_| invariant("a slot record fits its bound"))?;
                transaction.open_table(SLOTS)?.insert(owner.0, bytes)?;
            }
            Change::Sets(owner, sets) => {
                let mut place = [0; SETS_BYTES_MAX];
                let bytes = sets.encode(&mut place).map_err(|_| invariant("the sets of a slot fit their bound"))?;
                transaction.open_table(SETS)?.insert(owner.0, bytes)?;
            }
            Change::Secret(key, sealed) => {
                transaction.open_table(SECRETS)?.insert(&secret_bytes(*key), sealed.as_slice())?;
            }
            Change::Erase(key) => {
                transaction.open_table(SECRETS)?.remove(&secret_bytes(*key))?;
            }
            Change::Audit(record) => {
                let mut place = [0; AUDIT_RECORD_BYTES_MAX];
                let bytes = record.encode(&mut place).map_err(|_| invariant("an audit record fits its bound"))?;
                if transaction.open_table(AUDIT)?.insert(record.sequence, bytes)?.is_some() {
                    return Err(invariant("the journal is only ever appended to"));
                }
            }
            Change::Checkpoint(checkpoint) => {
                let mut value = [0; 96];
                value[..32].copy_from_slice(&checkpoint.head);
                value[32..].copy_from_slice(&checkpoint.signature);
                transaction.open_table(CHECKPOINTS)?.insert(checkpoint.sequence, &value)?;
            }
            Change::CardSets(subject, sets) => {
                let mut place = [0; CARD_SETS_BYTES_MAX];
                let bytes =
                    sets.encode(&mut place).map_err(|_| invariant("the card sets of a subject fit their bound"))?;
                transaction.open_table(CARD_SETS)?.insert(&subject_bytes(*subject), bytes)?;
            }
            Change::Card(place, entry) => {
                let mut buffer = [0; CARD_ENTRY_BYTES_MAX];
                let bytes = entry.encode(&mut buffer).map_err(|_| invariant("a card's entry fits its bound"))?;
                transaction.open_table(CARDS)?.insert(*place, bytes)?;
            }
            Change::Cluster(id) => {
                transaction.open_table(META)?.insert("cluster-id", id.as_slice())?;
            }
            Change::Restoration(restoration) => {
                let mut place = [0; RESTORATION_BYTES_MAX];
                let bytes = Restoration::encode(restoration.as_ref(), &mut place)
                    .map_err(|_| invariant("a restoration fits its bound"))?;
                transaction.open_table(META)?.insert("restoration", bytes)?;
            }
            Change::Roster(membership) => {
                let mut place = [0; MEMBERSHIP_BYTES_MAX];
                let bytes = membership.encode(&mut place).map_err(|_| invariant("a roster fits its bound"))?;
                transaction.open_table(META)?.insert("roster", bytes)?;
            }
            Change::SyncMarks(marks) => {
                let mut place = [0; MARKS_BYTES_MAX];
                let bytes = marks.encode(&mut place).map_err(|_| invariant("marks fit their bound"))?;
                transaction.open_table(META)?.insert("sync-marks", bytes)?;
            }
            Change::Reception(reception) => {
                let mut place = [0; RECEPTION_BYTES_MAX];
                let bytes = Reception::encode(reception.as_deref(), &mut place)
                    .map_err(|_| invariant("a reception fits its bound"))?;
                transaction.open_table(META)?.insert("reception", bytes)?;
            }
            Change::Transcript(id, number, line) => {
                let mut place = [0; LINE_BYTES_MAX];
                let bytes = line.encode(&mut place).map_err(|_| invariant("a line of a transcript fits its bound"))?;
                if transaction.open_table(TRANSCRIPTS)?.insert(&line_bytes(*id, *number), bytes)?.is_some() {
                    return Err(invariant("a transcript is only ever appended to"));
                }
            }
            Change::TranscriptEnd(id, end) => {
                let mut value = [0; 96];
                value[..32].copy_from_slice(&end.head);
                value[32..].copy_from_slice(&end.signature);
                transaction.open_table(TRANSCRIPT_ENDS)?.insert(&id.0, &value)?;
            }
        }
    }
    // A transaction dropped before this line, by any return above, leaves nothing behind.
    transaction.commit()?;
    Ok(())
}

/// What a zeroize leaves in a store.
pub struct Rekey<'r> {
    /// Of the zeroize.
    pub id: [u8; 16],
    /// The new node key, public.
    pub node: [u8; 32],
    /// The same, sealed under the new data key.
    pub sealed: &'r [u8],
    /// The node key that is gone, public.
    pub former: [u8; 32],
    /// Audit records; the last one names both keys.
    pub records: &'r [AuditRecord],
    /// What the store held.
    pub content: &'r Content,
}

/// Takes everything sealed out of the store and puts the new node key in, in one transaction.
///
/// # Errors
/// redb's.
pub fn rekey(database: &Database, change: &Rekey<'_>) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_two_phase_commit(true);
    {
        let mut secrets = transaction.open_table(SECRETS)?;
        secrets.retain(|_, _| false)?;
        secrets.insert(&secret_bytes(super::NODE_KEY), change.sealed)?;
        let mut meta = transaction.open_table(META)?;
        meta.insert("node", change.node.as_slice())?;
        meta.insert("zeroized", change.id.as_slice())?;
        if let Some(restoration) = change.content.restoration.map(Restoration::given_up) {
            let mut place = [0; RESTORATION_BYTES_MAX];
            let bytes = Restoration::encode(Some(&restoration), &mut place)
                .map_err(|_| invariant("a restoration fits its bound"))?;
            meta.insert("restoration", bytes)?;
        }
        let mut slots = transaction.open_table(SLOTS)?;
        for (owner, record) in &change.content.slots {
            let mut place = [0; SLOT_RECORD_BYTES_MAX];
            let record = record.without_sealed_codes();
            let bytes = record.encode(&mut place).map_err(|_| invariant("a slot record fits its bound"))?;
            slots.insert(owner.0, bytes)?;
        }
        let mut audit = transaction.open_table(AUDIT)?;
        for record in change.records {
            let mut place = [0; AUDIT_RECORD_BYTES_MAX];
            let bytes = record.encode(&mut place).map_err(|_| invariant("an audit record fits its bound"))?;
            if audit.insert(record.sequence, bytes)?.is_some() {
                return Err(invariant("the journal is only ever appended to"));
            }
        }
        let last = change.records.last().map_or(0, |record| record.sequence);
        transaction.open_table(FORMER_NODES)?.insert(last, &change.former)?;
    }
    transaction.commit()?;
    Ok(())
}

/// Reads and checks everything.
///
/// # Errors
/// [`Refusal::StoreNewer`], [`Refusal::StoreUnreadable`].
pub fn read(database: &impl ReadableDatabase) -> Result<Content, Refused> {
    let transaction = database.begin_read().map_err(unreadable)?;
    let meta = transaction.open_table(META).map_err(unreadable)?;
    let version = u32::from_be_bytes(fixed(&meta, "format")?);
    if version > FORMAT_VERSION {
        return Err(Refused::new(Refusal::StoreNewer, format!("the store has format version {version}")));
    }
    let cluster = fixed(&meta, "cluster")?;
    let node = fixed(&meta, "node")?;
    let former_nodes = former_nodes(&transaction)?;
    let zeroized = match meta.get("zeroized").map_err(unreadable)? {
        Some(_) => Some(fixed(&meta, "zeroized")?),
        None => None,
    };
    let nodes = NodeKeys { former: former_nodes.clone(), current: node };

    let mut owners = Vec::new();
    for row in transaction.open_table(OWNERS).map_err(unreadable)?.iter().map_err(unreadable)? {
        let (name, owner) = row.map_err(unreadable)?;
        owners.push((name.value().to_owned(), Owner(owner.value())));
    }
    let persons = persons(&transaction)?;
    let policy = match meta.get("policy").map_err(unreadable)? {
        Some(bytes) => {
            PolicyRecord::decode(bytes.value()).map_err(|refusal| Refused::new(refusal, "what two persons decided"))?
        }
        None => PolicyRecord::default(),
    };
    let configurations = configurations(&transaction)?;
    if policy.dual_control && !configurations.iter().any(|(digest, _)| *digest == policy.configuration) {
        return Err(damaged("the configuration that two persons approved is missing"));
    }
    let mut slots = Vec::new();
    for row in transaction.open_table(SLOTS).map_err(unreadable)?.iter().map_err(unreadable)? {
        let (owner, bytes) = row.map_err(unreadable)?;
        let record = SlotRecord::decode(bytes.value())
            .map_err(|refusal| Refused::new(refusal, format!("the record of owner {}", owner.value())))?;
        slots.push((Owner(owner.value()), record));
    }
    let sets = read_sets(&transaction)?;
    let card_sets = read_card_sets(&transaction)?;
    let cards = read_cards(&transaction)?;
    let cluster_id = match meta.get("cluster-id").map_err(unreadable)? {
        Some(_) => Some(fixed(&meta, "cluster-id")?),
        None => None,
    };
    let restoration = match meta.get("restoration").map_err(unreadable)? {
        Some(bytes) => {
            Restoration::decode(bytes.value()).map_err(|refusal| Refused::new(refusal, "the restoration under way"))?
        }
        None => None,
    };
    let membership = record_of(&meta, "roster", Membership::decode)?;
    let marks = record_of(&meta, "sync-marks", Marks::decode)?.unwrap_or_default();
    let reception = record_of(&meta, "reception", Reception::decode)?.flatten();
    let transcripts = read_transcripts(&transaction, &nodes)?;
    let mut secrets = Vec::new();
    for row in transaction.open_table(SECRETS).map_err(unreadable)?.iter().map_err(unreadable)? {
        let (key, sealed) = row.map_err(unreadable)?;
        let key = secret_key(key.value()).ok_or_else(|| damaged("a sealed secret of unknown kind"))?;
        secrets.push((key, sealed.value().to_vec()));
    }
    let checkpoints = checkpoints(database)?;
    let chain = check_journal(&transaction.open_table(AUDIT).map_err(unreadable)?, &nodes, &checkpoints)?;
    Ok(Content {
        cluster,
        node,
        former_nodes,
        zeroized,
        owners,
        persons,
        policy,
        configurations,
        slots,
        sets,
        card_sets,
        cards,
        cluster_id,
        restoration,
        membership,
        marks,
        reception,
        transcripts,
        secrets,
        chain,
        checkpoints,
    })
}

/// A record of the meta table; a store from before there was any has none.
fn record_of<T>(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
    decode: fn(&[u8]) -> Result<T, Refusal>,
) -> Result<Option<T>, Refused> {
    let found = meta.get(name).map_err(unreadable)?;
    let decoded = found.map(|bytes| decode(bytes.value())).transpose();
    decoded.map_err(|refusal| Refused::new(refusal, format!("`{name}`")))
}

/// The keys that zeroize destroyed; a store that had none has no table of them.
fn former_nodes(transaction: &ReadTransaction) -> Result<Vec<[u8; 32]>, Refused> {
    let mut former = Vec::new();
    let table = match transaction.open_table(FORMER_NODES) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(former),
        table => table.map_err(unreadable)?,
    };
    for row in table.iter().map_err(unreadable)? {
        former.push(*row.map_err(unreadable)?.1.value());
    }
    Ok(former)
}

fn persons(transaction: &ReadTransaction) -> Result<Vec<(String, PersonId)>, Refused> {
    let mut persons = Vec::new();
    let table = match transaction.open_table(PERSONS) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(persons),
        table => table.map_err(unreadable)?,
    };
    for row in table.iter().map_err(unreadable)? {
        let (name, number) = row.map_err(unreadable)?;
        let person = PersonId(number.value());
        let reserved = person == PersonId::OWN_USER || person == PersonId::SERVICE;
        if reserved || persons.iter().any(|(_, known)| *known == person) {
            return Err(damaged("two persons have one number"));
        }
        persons.push((name.value().to_owned(), person));
    }
    Ok(persons)
}

fn configurations(transaction: &ReadTransaction) -> Result<Vec<KeptConfiguration>, Refused> {
    let mut configurations = Vec::new();
    let table = match transaction.open_table(CONFIGURATIONS) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(configurations),
        table => table.map_err(unreadable)?,
    };
    for row in table.iter().map_err(unreadable)? {
        let (digest, bytes) = row.map_err(unreadable)?;
        if <[u8; 32]>::from(Sha256::digest(bytes.value())) != *digest.value() {
            return Err(damaged("a configuration is not the one that was kept"));
        }
        configurations.push((*digest.value(), bytes.value().to_vec()));
    }
    Ok(configurations)
}

/// The sets of shares; a store of 0.1.0 has no table of them.
fn read_sets(transaction: &ReadTransaction) -> Result<Vec<(Owner, Sets)>, Refused> {
    let table = match transaction.open_table(SETS) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut sets = Vec::new();
    for row in table.iter().map_err(unreadable)? {
        let (owner, bytes) = row.map_err(unreadable)?;
        let found = Sets::decode(bytes.value())
            .map_err(|refusal| Refused::new(refusal, format!("the sets of owner {}", owner.value())))?;
        sets.push((Owner(owner.value()), found));
    }
    Ok(sets)
}

/// The sets of cards; a store from before there were cards has no table of them.
fn read_card_sets(transaction: &ReadTransaction) -> Result<Vec<(SetSubject, CardSets)>, Refused> {
    let table = match transaction.open_table(CARD_SETS) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        table => table.map_err(unreadable)?,
    };
    let mut found = Vec::new();
    for row in table.iter().map_err(unreadable)? {
        let (key, bytes) = row.map_err(unreadable)?;
        let subject = subject_of(key.value()).ok_or_else(|| damaged("sets of cards for something unknown"))?;
        let sets = CardSets::decode(bytes.value()).map_err(|refusal| Refused::new(refusal, "sets of cards"))?;
        found.push((subject, sets));
    }
    Ok(found)
}

/// The cards. An entry keeps its place, so a gap means that one is missing.
fn read_cards(transaction: &ReadTransaction) -> Result<Vec<CardEntry>, Refused> {
    let table = match transaction.open_table(CARDS) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        table => table.map_err(unreadable)?,
    };
    let mut cards = Vec::new();
    for row in table.iter().map_err(unreadable)? {
        let (place, bytes) = row.map_err(unreadable)?;
        if usize::from(place.value()) != cards.len() {
            return Err(damaged("a card of the registry is missing"));
        }
        cards
            .push(CardEntry::decode(bytes.value()).map_err(|refusal| Refused::new(refusal, "a card of the registry"))?);
    }
    Ok(cards)
}

/// Follows every transcript, and compares its end with what was signed.
fn read_transcripts(transaction: &ReadTransaction, nodes: &NodeKeys) -> Result<Vec<Transcript>, Refused> {
    let mut found: Vec<Transcript> = Vec::new();
    match transaction.open_table(TRANSCRIPTS) {
        Err(TableError::TableDoesNotExist(_)) => {}
        table => {
            for row in table.map_err(unreadable)?.iter().map_err(unreadable)? {
                let (key, bytes) = row.map_err(unreadable)?;
                let (id, number) = line_of(key.value());
                let line = decode_line(bytes.value())?;
                // Rows come in the order of their keys: all lines of one ceremony, then those of the next.
                if found.last().is_none_or(|last| last.id != id) {
                    found.push(Transcript { id, lines: 0, head: transcript::BEGINNING, signed: false });
                }
                let Some(last) = found.last_mut() else { continue };
                if last.lines != u32::from(number) {
                    return Err(damaged(&format!("line {} of the transcript {id} is missing", last.lines)));
                }
                last.lines += 1;
                last.head = line.hash(&last.head);
            }
        }
    }
    let ends = match transaction.open_table(TRANSCRIPT_ENDS) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(found),
        table => table.map_err(unreadable)?,
    };
    for row in ends.iter().map_err(unreadable)? {
        let (id, value) = row.map_err(unreadable)?;
        let (id, end) = (CeremonyId(*id.value()), end_of(value.value()));
        match found.iter_mut().find(|transcript| transcript.id == id && transcript.head == end.head) {
            Some(transcript) if nodes.signer_of(id, &end).is_some() => transcript.signed = true,
            Some(_) | None => return Err(damaged(&format!("the transcript {id} is not the one that was signed"))),
        }
    }
    Ok(found)
}

/// The lines of a transcript from `first`, at most `count`, and how many there are; its signed
/// end, if it has one.
///
/// # Errors
/// [`Refusal::StoreUnreadable`], [`Refusal::StoreNewer`].
pub fn transcript(
    database: &impl ReadableDatabase,
    id: CeremonyId,
    first: u16,
    count: usize,
) -> Result<(u32, Vec<Line>, Option<TranscriptEnd>), Refused> {
    let transaction = database.begin_read().map_err(unreadable)?;
    let (mut all, mut lines) = (0u32, Vec::new());
    match transaction.open_table(TRANSCRIPTS) {
        Err(TableError::TableDoesNotExist(_)) => {}
        table => {
            let table = table.map_err(unreadable)?;
            let (from, to) = (line_bytes(id, 0), line_bytes(id, u16::MAX));
            for row in table.range::<&[u8; 10]>(&from..=&to).map_err(unreadable)? {
                let (key, bytes) = row.map_err(unreadable)?;
                all += 1;
                if line_of(key.value()).1 >= first && lines.len() < count {
                    lines.push(decode_line(bytes.value())?);
                }
            }
        }
    }
    let end = match transaction.open_table(TRANSCRIPT_ENDS) {
        Err(TableError::TableDoesNotExist(_)) => None,
        table => table.map_err(unreadable)?.get(&id.0).map_err(unreadable)?.map(|value| end_of(value.value())),
    };
    Ok((all, lines, end))
}

/// A sealed secret; `None` if there is none under this key.
///
/// # Errors
/// [`Refusal::StoreUnreadable`].
pub fn secret(database: &impl ReadableDatabase, key: SecretKey) -> Result<Option<Vec<u8>>, Refused> {
    let transaction = database.begin_read().map_err(unreadable)?;
    let table = transaction.open_table(SECRETS).map_err(unreadable)?;
    let sealed = table.get(&secret_bytes(key)).map_err(unreadable)?;
    Ok(sealed.map(|sealed| sealed.value().to_vec()))
}

/// The records of the journal from `first`, at most `count`.
///
/// # Errors
/// [`Refusal::StoreUnreadable`], [`Refusal::StoreNewer`].
pub fn audit(database: &impl ReadableDatabase, first: u64, count: usize) -> Result<Vec<AuditRecord>, Refused> {
    let transaction = database.begin_read().map_err(unreadable)?;
    let table = transaction.open_table(AUDIT).map_err(unreadable)?;
    let mut records = Vec::new();
    for row in table.range(first..).map_err(unreadable)?.take(count) {
        let (_, bytes) = row.map_err(unreadable)?;
        records.push(decode_audit(bytes.value())?);
    }
    Ok(records)
}

/// The signed heads, oldest first.
///
/// # Errors
/// [`Refusal::StoreUnreadable`].
pub fn checkpoints(database: &impl ReadableDatabase) -> Result<Vec<Checkpoint>, Refused> {
    let transaction = database.begin_read().map_err(unreadable)?;
    let table = transaction.open_table(CHECKPOINTS).map_err(unreadable)?;
    let mut checkpoints = Vec::new();
    for row in table.iter().map_err(unreadable)? {
        let (sequence, value) = row.map_err(unreadable)?;
        let mut checkpoint = Checkpoint { sequence: sequence.value(), head: [0; 32], signature: [0; 64] };
        checkpoint.head.copy_from_slice(&value.value()[..32]);
        checkpoint.signature.copy_from_slice(&value.value()[32..]);
        checkpoints.push(checkpoint);
    }
    Ok(checkpoints)
}

/// Follows the whole chain, and each checkpoint in it. Of the signatures only the last is
/// checked: it covers all before it, and a start should not take longer every hour.
fn check_journal(
    table: &impl ReadableTable<u64, &'static [u8]>,
    nodes: &NodeKeys,
    checkpoints: &[Checkpoint],
) -> Result<Chain, Refused> {
    let mut verifier = Verifier::new(nodes).map_err(|finding| damaged(&finding.to_string()))?;
    let mut awaited = checkpoints.iter().peekable();
    for row in table.iter().map_err(unreadable)? {
        let (sequence, bytes) = row.map_err(unreadable)?;
        let record = decode_audit(bytes.value())?;
        if record.sequence != sequence.value() {
            return Err(damaged(&format!("audit record {} stands at {}", record.sequence, sequence.value())));
        }
        verifier.record(&record).map_err(|finding| damaged(&finding.to_string()))?;
        while let Some(checkpoint) = awaited.next_if(|checkpoint| checkpoint.sequence == record.sequence) {
            let last = awaited.peek().is_none();
            let checked = if last { verifier.checkpoint(checkpoint) } else { verifier.head(checkpoint) };
            checked.map_err(|finding| damaged(&finding.to_string()))?;
        }
    }
    match awaited.next() {
        Some(checkpoint) => Err(damaged(&format!(
            "the audit log ends before record {}, for which there is a checkpoint",
            checkpoint.sequence
        ))),
        None => Ok(verifier.chain()),
    }
}

fn decode_audit(bytes: &[u8]) -> Result<AuditRecord, Refused> {
    AuditRecord::decode(bytes).map_err(|refusal| Refused::new(refusal, "a record of the audit log"))
}

fn fixed<const LEN: usize>(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &str,
) -> Result<[u8; LEN], Refused> {
    let value = meta.get(name).map_err(unreadable)?;
    let value = value.and_then(|value| value.value().try_into().ok());
    value.ok_or_else(|| damaged(&format!("`{name}` is missing or has another length")))
}

fn decode_line(bytes: &[u8]) -> Result<Line, Refused> {
    Line::decode(bytes).map_err(|refusal| Refused::new(refusal, "a line of a transcript"))
}

fn end_of(value: &[u8; 96]) -> TranscriptEnd {
    let mut end = TranscriptEnd { head: [0; 32], signature: [0; 64] };
    end.head.copy_from_slice(&value[..32]);
    end.signature.copy_from_slice(&value[32..]);
    end
}

fn line_bytes(id: CeremonyId, number: u16) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&id.0);
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

fn line_of(key: &[u8; 10]) -> (CeremonyId, u16) {
    let [i0, i1, i2, i3, i4, i5, i6, i7, n0, n1] = *key;
    (CeremonyId([i0, i1, i2, i3, i4, i5, i6, i7]), u16::from_be_bytes([n0, n1]))
}

fn subject_bytes(subject: SetSubject) -> [u8; 3] {
    let (kind, owner) = match subject {
        SetSubject::BackupKey => (1, Owner(0)),
        SetSubject::Users(owner) => (2, owner),
        SetSubject::Administrators(owner) => (3, owner),
    };
    let [o0, o1] = owner.0.to_be_bytes();
    [kind, o0, o1]
}

fn subject_of(key: &[u8; 3]) -> Option<SetSubject> {
    let [kind, o0, o1] = *key;
    let owner = Owner(u16::from_be_bytes([o0, o1]));
    match kind {
        1 if owner == Owner(0) => Some(SetSubject::BackupKey),
        2 => Some(SetSubject::Users(owner)),
        3 => Some(SetSubject::Administrators(owner)),
        _ => None,
    }
}

fn secret_bytes(key: SecretKey) -> [u8; 7] {
    let [o0, o1] = key.owner.0.to_be_bytes();
    let [g0, g1, g2, g3] = key.generation.to_be_bytes();
    [kind_code(key.kind), o0, o1, g0, g1, g2, g3]
}

fn secret_key(bytes: &[u8; 7]) -> Option<SecretKey> {
    let [kind, o0, o1, g0, g1, g2, g3] = *bytes;
    Some(SecretKey {
        kind: kind_from_code(kind)?,
        owner: Owner(u16::from_be_bytes([o0, o1])),
        generation: u32::from_be_bytes([g0, g1, g2, g3]),
    })
}

/// A rule of ours that a batch breaks: the transaction is dropped and the store fails.
fn invariant(rule: &str) -> redb::Error {
    redb::Error::Corrupted(format!("refused to store: {rule}"))
}

fn damaged(what: &str) -> Refused {
    Refused::new(Refusal::StoreUnreadable, what)
}

fn unreadable(error: impl Into<redb::Error>) -> Refused {
    Refused::new(Refusal::StoreUnreadable, error.into().to_string())
}
