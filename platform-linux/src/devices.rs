//! What the daemon's loop needs from its devices: four traits, one real and one simulated
//! implementation each, under the same file names (`hsm`, `store`, `apps`, `cards`).
//!
//! The loop (`daemon.rs`) is the only one that talks to the core. Devices answer by
//! sending [`Event`]s into the loop's channel; none of them decides anything.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use serde::{Deserialize, Serialize};
use slotwarden_core::SecretId;
use slotwarden_core::audit::AuditRecord;
use slotwarden_core::card::{CardAnswer, CardCall, CardFailure, ReaderId};
use slotwarden_core::ceremony::CeremonyId;
use slotwarden_core::ceremony::transcript::Line;
use slotwarden_core::effect::{ApplicationId, ApplicationOrder, HsmCall, Input, SlotId, Ticket};
use slotwarden_core::fault::{Fault, Refusal};
use slotwarden_core::ledger::KeyName;
use slotwarden_core::package::Header;
use slotwarden_core::person::PersonId;
use slotwarden_core::record::{Record, SecretKey};
use slotwarden_core::transfer::{FileOrder, Salt};
use zeroize::Zeroizing;

use crate::audit::NodeKeys;
use crate::exchange::Arrival;
use crate::member_keys::{MemberKeys, NodeSecrets};
use crate::package_file::Opened;
use crate::problem::Problem;
use crate::sync_dir::{SyncDir, Uid};
use crate::wire::SpooledFile;

/// Lends a secret of the Safe while an effect is performed.
pub trait Lend {
    /// Calls `read` with the bytes; false for a stale id.
    fn lend(&self, id: SecretId, read: &mut dyn FnMut(&[u8])) -> bool;
}

/// What arrives at the daemon's loop.
#[derive(Debug)]
pub enum Event {
    /// Something for the core, from a device.
    Input(Input),
    /// A call at a card reader ended.
    Card {
        /// Of the call.
        ticket: Ticket,
        /// What it came to.
        result: Result<CardAnswer, CardFailure>,
        /// What goes into the Safe, and where: y of a record that was read.
        y: Option<(SecretId, Zeroizing<[u8; 32]>)>,
    },
    /// A passphrase became the backup key of an export.
    Stretched {
        /// Of the order.
        ticket: Ticket,
        /// Where the passphrase is.
        place: SecretId,
        /// What takes its place.
        result: Result<Zeroizing<[u8; 32]>, Fault>,
    },
    /// A frame from a client of the control socket.
    Control(crate::control::Request),
    /// SIGTERM or SIGINT.
    Stop,
    /// The program of an HSM's vendor ended, which had to come before a call of the worker.
    ProgramEnded {
        /// Of the call.
        ticket: Ticket,
        /// Whose token.
        slot: SlotId,
        /// What the worker does next.
        call: HsmCall,
        /// Whether the program did what it was told.
        result: ProgramResult,
    },
    /// A file was read to its end.
    FileRead {
        /// Of the order.
        number: u32,
        /// What is in it.
        result: Result<FileRead, Problem>,
    },
    /// A file of another member came by the exchange.
    Arrived(Arrival),
    /// A look of [`Hsm::look`] ended; what it found was sent before this.
    Looked,
    /// Something an operator should read in the log: the loader's reason, a lost worker.
    Note(String),
}

/// Where devices send events.
pub type Events = Sender<Event>;

/// What a program of an HSM's vendor came to, and why it failed, for people.
pub type ProgramResult = Result<(), (Refusal, String)>;

/// A token that `slot init` could take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreeToken {
    /// PKCS#11 slot number, valid for this run of the module only.
    pub slot_number: u64,
    /// `CK_SLOT_INFO.slotDescription`, trimmed.
    pub description: String,
}

/// How far the transfer of a slot's keys is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeysDone {
    /// Whose keys.
    pub slot: SlotId,
    /// Objects that are done.
    pub done: u32,
    /// Of so many.
    pub of: u32,
}

/// The HSM behind its worker.
pub trait Hsm {
    /// Performs one operation on the token of `slot`. The answer comes later as
    /// `Input::Done` with `ticket`; a hung token delays no other. When no worker runs the
    /// answer is `HsmFailure::NoWorker` at once.
    fn perform(&mut self, ticket: Ticket, slot: SlotId, call: HsmCall, secrets: &dyn Lend);
    /// Looks for absent and free tokens now (boot, activate, init); `Input::Token` follows
    /// for each slot whose presence changed, after restarting the worker if that is needed.
    /// Each look is answered by one [`Event::Looked`], in the order of the looks; it may be
    /// late where a worker cannot be started or is in a call that hangs.
    fn look(&mut self);
    /// Ends the worker, whatever it is doing, and starts a new one; `Input::WorkerLost`
    /// follows, then presences, then `Input::WorkerUp`.
    fn end_worker(&mut self);
    /// Tokens that `slot init` could take, as of the last look.
    fn free_tokens(&self) -> Vec<FreeToken>;
    /// Fills one half of a random draw from the HSM, if it can; false when it cannot.
    fn random(&mut self, half: &mut [u8; 32]) -> bool;
    /// How far the transfer of a slot's keys is, where that was told.
    fn progress(&self) -> Option<KeysDone> {
        None
    }
    /// What `status` says about the module: path, vendor, version; or why it could not be started.
    fn description(&self) -> String;
    /// Ends the worker for good: finishes the call in progress, bounded, then exits.
    fn stop(&mut self);
}

/// The store: records, journal, sealed secrets.
pub trait Store {
    /// Adds one record to the open transaction; a sealed secret is encrypted here.
    fn put(&mut self, record: &Record, secrets: &dyn Lend);
    /// Adds one audit record to the open transaction.
    fn journal(&mut self, record: &AuditRecord);
    /// Commits in another thread; `Input::Stored` with `ticket` follows.
    fn commit(&mut self, ticket: Ticket);
    /// Decrypts a sealed secret into `place`; returns its length in bytes.
    ///
    /// # Errors
    /// [`Fault::SealBroken`].
    fn unseal(&mut self, key: SecretKey, place: &mut [u8]) -> Result<usize, Fault>;
    /// Signs this head of the audit chain and keeps the signature.
    fn checkpoint(&mut self, sequence: u64, head: [u8; 32]);
    /// Signs this end of a transcript's chain and keeps the signature.
    fn sign_transcript(&mut self, id: CeremonyId, head: [u8; 32]);
    /// The lines of a transcript from `first` (counting from 0), at most `count` of them.
    ///
    /// # Errors
    /// [`Refusal::StoreUnreadable`].
    fn transcript(&mut self, id: CeremonyId, first: u16, count: usize) -> Result<TranscriptPart, Refusal>;
    /// The audit records from `first` (counting from 1), at most `count` of them.
    ///
    /// # Errors
    /// [`Refusal::StoreUnreadable`].
    fn audit(&mut self, first: u64, count: usize) -> Result<Vec<AuditRecord>, Refusal>;
    /// The signed checkpoints, oldest first.
    ///
    /// # Errors
    /// [`Refusal::StoreUnreadable`].
    fn checkpoints(&mut self) -> Result<Vec<Checkpoint>, Refusal>;
    /// Keeps the protected part of a configuration durably, under its SHA-256: before anything
    /// that names it is committed, so that no power cut leaves a digest without its text.
    ///
    /// # Errors
    /// [`Refusal::StoreFailed`].
    fn keep_configuration(&mut self, bytes: &[u8]) -> Result<(), Refusal>;
    /// What [`Store::keep_configuration`] kept under this SHA-256.
    fn kept_configuration(&self, digest: &[u8; 32]) -> Option<Vec<u8>>;
    /// What protects the sealed codes, as `status` shows it: `key-file`, `systemd-credential`.
    fn seal(&self) -> &'static str;
    /// The node's public keys (Ed25519): the one it signs with, and those that it had before.
    fn node_keys(&self) -> &NodeKeys;
    /// The node's public key.
    fn node_key(&self) -> [u8; 32] {
        self.node_keys().current
    }
    /// Destroys the data key and the node key: in memory before it returns, on the disk in another
    /// thread, behind a durable intent that the next start finishes. `Input::Done` with `ticket` follows
    /// when the disk confirmed it. From here on nothing is sealed, opened or signed.
    fn zeroize(&mut self, ticket: Ticket, who: PersonId);
    /// Signs with the node key, in whatever thread: what it signs begins with a domain of its own.
    fn signer(&self) -> Signer;
    /// The node's private keys for packages: made for as long as they are needed.
    ///
    /// # Errors
    /// [`Fault::SealBroken`]: a zeroize destroyed what they follow from.
    fn node_secrets(&self) -> Result<NodeSecrets, Fault>;
}

/// Signs a message with the node key (Ed25519).
pub type Signer = Arc<dyn Fn(&[u8]) -> [u8; 64] + Send + Sync>;

/// A signed head of the audit chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Number of the last record under it.
    pub sequence: u64,
    /// Chain hash of that record.
    pub head: [u8; 32],
    /// Ed25519 over `Chain::checkpoint_message`, by the node key.
    pub signature: [u8; 64],
}

/// The signed end of a transcript.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TranscriptEnd {
    /// The hash of its last line.
    pub head: [u8; 32],
    /// Ed25519 over `ceremony::transcript::signed_message`, by the node key.
    pub signature: [u8; 64],
}

/// A part of a transcript.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TranscriptPart {
    /// How many lines it has; 0: there is no such transcript.
    pub all: u32,
    /// Some of them.
    pub lines: Vec<Line>,
    /// Its signed end; `None`: the ceremony is under way, or a power cut ended it.
    pub end: Option<TranscriptEnd>,
}

/// The card readers.
pub trait Cards {
    /// Carries out one call at a reader. The answer comes later as [`Event::Card`] with `ticket`;
    /// a reader that hangs delays no other.
    fn perform(&mut self, ticket: Ticket, reader: ReaderId, call: CardCall, secrets: &dyn Lend);
    /// Every reader that is or was there since the start, for `card list`: the place of a usable one is
    /// its [`ReaderId`].
    fn readers(&self) -> Vec<ReaderView>;
}

/// The reason of a reader that was just found.
pub const NOT_ASKED_YET: &str = "not asked yet what it can do";

/// One reader as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReaderView {
    /// Its number in the core; `None`: it is not used.
    pub number: Option<u8>,
    /// The name that PC/SC gives it.
    pub name: String,
    /// Whether it is there now.
    pub present: bool,
    /// Whether a card is in it.
    pub card: bool,
    /// Why it is not used: no keypad, or excluded by the configuration.
    pub reason: Option<String>,
}

/// A part of a file that a client takes away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePart {
    /// Changes when another file takes its place: parts of two are no file.
    pub version: u64,
    /// Length of the whole file, bytes.
    pub total: u64,
    /// None behind the end.
    pub bytes: Vec<u8>,
}

impl FilePart {
    /// Of this file, from `offset` on.
    ///
    /// # Errors
    /// Of the system.
    pub fn of(path: &Path, offset: u64, count: usize) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let about = file.metadata()?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::with_capacity(count);
        file.take(count as u64).read_to_end(&mut bytes)?;
        Ok(FilePart { version: FilePart::version_of(&about), total: about.len(), bytes })
    }

    /// Of the file that this is said of: each is made under another name and renamed, so it is another inode, made at
    /// another time.
    #[must_use]
    pub fn version_of(about: &Metadata) -> u64 {
        about.ino() ^ about.ctime().cast_unsigned().rotate_left(16) ^ about.ctime_nsec().cast_unsigned().rotate_left(32)
    }
}

/// The files of exports and restores.
pub trait Files {
    /// Carries out an order; the answer comes later as `Input::Done` with `ticket`, but for `Discard`.
    fn perform(&mut self, ticket: Ticket, order: FileOrder, about: ExportAbout);
    /// Makes the backup key of a passphrase in a thread of its own; the answer comes later as
    /// [`Event::Stretched`] with `ticket`. A new salt is that of the export that begins next.
    fn stretch(&mut self, ticket: Ticket, place: SecretId, passphrase: Zeroizing<Vec<u8>>, of: Salt);
    /// Holds every MAC of the spooled file against a backup key, in a thread of its own; the answer comes later as
    /// `Input::Done` with `ticket`. `hash`: SHA-256 of the file that is meant.
    fn check(&mut self, ticket: Ticket, hash: [u8; 32], backup_key: Zeroizing<Vec<u8>>);
    /// The worker is about to write the section of this slot.
    fn begin_section(&mut self, slot: &str);
    /// Whether a program of the HSM's vendor has to run before the worker gets this call; then
    /// [`Event::ProgramEnded`] follows. A later order ends it.
    fn program_first(&mut self, ticket: Ticket, slot: SlotId, name: &str, call: HsmCall) -> bool;
    /// Such a program ended; whether the call that waited for it is still wanted.
    fn program_ended(&mut self, ticket: Ticket, result: &ProgramResult) -> bool;
    /// Why the last one failed.
    fn program_said(&self) -> String;
    /// The program that makes the exports of a slot, where one does.
    fn program(&self, slot: &str) -> Option<String>;
    /// Bytes of the vendor part in this section of the spooled file, where it has one.
    fn vendor_bytes(&self, uid: [u8; 16]) -> Option<u64>;
    /// Keys that the section written last could not hold and that nobody accepted, by name.
    fn left_out(&self) -> Vec<String>;
    /// A part of the export that was made last: how long it is, and bytes from `offset` on.
    ///
    /// # Errors
    /// `Own::NoExport`; [`Refusal::StoreUnreadable`].
    fn read_export(&self, offset: u64, count: usize) -> Result<FilePart, Problem>;
    /// Takes a part of a file that somebody brought; what it says that it is, and where it is until the next one,
    /// once it is whole.
    ///
    /// # Errors
    /// `Own::FileRefused` with the reason; [`Refusal::DiskReserve`].
    fn spool(&mut self, offset: u64, total: u64, bytes: &[u8]) -> Result<Option<(Kind, PathBuf)>, Problem>;
    /// Reads a whole file to its end in a thread of its own; [`Event::FileRead`] with `number` follows, unless it is
    /// given up. What was spooled before is forgotten.
    fn read(&mut self, number: u32, file: ToRead);
    /// Gives up what is being read: soon nothing of it is there, and no secret of the node in its thread.
    fn give_up_reading(&mut self);
    /// The export that was read takes the place from which the worker reads.
    ///
    /// # Errors
    /// As of the system.
    fn place_export(&mut self, found: &SpooledFile) -> io::Result<()>;
    /// The same of the keys of a package.
    ///
    /// # Errors
    /// As of the system.
    fn place_package(&mut self, number: u32) -> io::Result<()>;
    /// What was read is not wanted.
    fn forget_read(&mut self, number: u32);
    /// When the last export was made, seconds since 1970; `None`: there is none.
    fn last_export_s(&self) -> Option<u64>;
    /// SHA-256 of the file that is spooled, if one is whole.
    fn spooled(&self) -> Option<[u8; 32]>;
}

/// A whole file, of which nothing is known but what it says that it is.
pub enum ToRead {
    /// The export that was spooled.
    Export,
    /// A package, for the node with these keys.
    Package {
        /// Where it is.
        path: PathBuf,
        /// The node's public key.
        own: [u8; 32],
        /// Its private keys.
        secrets: NodeSecrets,
    },
}

/// A file that was read to its end, and is whole.
#[derive(Debug)]
pub enum FileRead {
    /// A protected export.
    Export(SpooledFile),
    /// A package.
    Package {
        /// What it is, and what it says.
        opened: Box<Opened>,
        /// How many objects it brings for each slot.
        sections: BTreeMap<[u8; 16], u32>,
    },
}

/// What a file says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A protected export.
    Export,
    /// A key synchronisation package.
    Package,
    /// Rosters.
    Rosters,
    /// A request to join.
    JoinRequest,
}

/// What stands in the header of an export, and what is made of it.
#[derive(Clone, Debug, Default)]
pub struct ExportAbout {
    /// The cluster id.
    pub cluster: [u8; 16],
    /// Keys that stay behind, each as SLOT/KEY.
    pub left_out: Vec<String>,
    /// Seconds since 1970, where there is a clock.
    pub wall_s: Option<u64>,
    /// Of a package: what it is.
    pub package: Option<Box<PackageAbout>>,
}

/// A package that is to be made.
#[derive(Clone, Debug)]
pub struct PackageAbout {
    /// What it says about itself.
    pub header: Header,
    /// The keys of its targets, in the order of the header.
    pub targets: Vec<MemberKeys>,
    /// By the name of a slot: what need not travel, sorted.
    pub skip: BTreeMap<String, Vec<KeyName>>,
    /// The slots whose keys are in it.
    pub with_keys: Vec<Uid>,
    /// The slots of which it tells what is known.
    pub told: Vec<Uid>,
    /// Where that is known from.
    pub ledgers: SyncDir,
    /// Its name once it is whole.
    pub place: PathBuf,
}

/// An appliance without card readers.
#[derive(Clone, Copy, Debug)]
pub struct NoCards;

impl Cards for NoCards {
    // Nothing ever reports a reader, so the core never orders anything at one.
    fn perform(&mut self, _ticket: Ticket, _reader: ReaderId, _call: CardCall, _secrets: &dyn Lend) {}

    fn readers(&self) -> Vec<ReaderView> {
        vec![]
    }
}

/// The adapters to applications.
pub trait Applications {
    /// Carries out an order; the answer comes later as `Input::Done` with `ticket`.
    fn perform(
        &mut self,
        ticket: Ticket,
        application: ApplicationId,
        slot: SlotId,
        order: ApplicationOrder,
        secrets: &dyn Lend,
    );
    /// Takes back whatever an earlier run handed over: before anything else at start, and at stop.
    fn withdraw_all(&mut self);
}
