//! What clients ask on the control socket and what they are answered.
//!
//! One connection carries one request: the request's frame, one frame for each secret it
//! announces, one answer, and one more frame where the answer announces a share. Slots travel by whatever name the person typed; the daemon knows
//! which one is meant. Nothing here holds a secret. After a restart of the daemon a client
//! that waits finds its connection closed and says so.

use serde::{Deserialize, Serialize};
use slotwarden_core::audit::AuditRecord;
use slotwarden_core::card::Credential;
use slotwarden_core::ceremony::transcript::Line;
use slotwarden_core::record::Mode;

use crate::audit::NodeKeys;
use crate::devices::ReaderView;
use crate::problem::Problem;
use crate::status_json::{
    CardsView, CeremonyView, LastCeremonyView, ProgressView, SlotDetail, StatusView, SynchronisedKeyView,
};

/// Version of this conversation. Program and daemon of different versions refuse each other.
pub const VERSION: u16 = 8;
/// Secrets of one request: the present code and the new one.
pub const SECRETS_MAX: usize = 2;
/// Longest secret on the socket, bytes. Longer than a place of the Safe (80), so that what
/// does not fit one is answered with its own refusal.
pub const SECRET_BYTES_MAX: usize = 256;
/// Audit records of one answer: 192 bytes each at most, so they fit one frame.
pub const AUDIT_PAGE: u32 = 256;
/// Checkpoints of one answer: about 110 bytes each.
pub const CHECKPOINT_PAGE: u32 = 256;
/// Lines of a transcript in one answer: 768 bytes each at most, so they fit one frame.
pub const TRANSCRIPT_PAGE: u16 = 512;
/// Keys of a slot in one answer: 1.9 KB each at most, so they fit one frame.
pub const KEYS_PAGE: usize = 256;

/// Bytes of a file in one answer.
pub const READ_PAGE: usize = 256 * 1024;
/// Bytes of a file in one request.
pub const SPOOL_PAGE: usize = 48 * 1024;
/// Longest file that is taken, bytes: 100,000 keys of 8 KiB would be less.
pub const SPOOL_BYTES_MAX: u64 = 1 << 30;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`].
    pub version: u16,
    /// What is wanted.
    pub ask: Ask,
    /// Which secrets follow, in this order, each in a frame of its own.
    pub secrets: Vec<SecretRole>,
}

/// What is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// The status.
    Status,
    /// One slot.
    Slot {
        /// Its name, label or URI.
        slot: String,
    },
    /// An order to the core; answered when it ended.
    Order(Order),
    /// What two persons approved of the configuration.
    Configuration,
    /// A part of the audit log.
    Audit {
        /// From this record on, counting from 1; `None`: the last ones.
        first: Option<u64>,
        /// At most so many; never more than [`AUDIT_PAGE`].
        count: u32,
    },
    /// A part of the signed checkpoints.
    Checkpoints {
        /// Leave out so many of the oldest.
        skip: u32,
    },
    /// The ceremony under way, and how the last one ended.
    Ceremony {
        /// The changes that are known: answered when there are others, when no ceremony is under way,
        /// or after ten seconds. `None`: answered at once.
        seen: Option<u32>,
    },
    /// A part of a transcript.
    Transcript {
        /// Of which ceremony, as people type it.
        id: String,
        /// From this line on, counting from 0.
        first: u16,
    },
    /// The cards that are known, and the readers.
    Cards,
    /// A part of a file that the daemon made; at most [`READ_PAGE`] bytes.
    Read {
        /// Which file.
        what: Outgoing,
        /// From this byte on.
        offset: u64,
    },
    /// A part of a file for the daemon, in order; at most [`SPOOL_PAGE`] bytes. With its last
    /// byte the file is checked; what it is it says by its first ones.
    Spool {
        /// From this byte on; 0 begins anew.
        offset: u64,
        /// Bytes of the whole file.
        total: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// A part of the keys of a slot, as they are on the members; at most [`KEYS_PAGE`].
    Keys {
        /// Its name, label or URI.
        slot: String,
        /// Behind the key of this name; `None`: from the first one on.
        after: Option<[u8; 16]>,
    },
}

/// An order to the core, without its secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Try every slot that opens without people.
    Boot,
    /// Prove the token PIN and hand it over.
    Activate {
        /// Name, label or URI.
        slot: String,
        /// The confirmation for a last try was typed.
        confirmed: bool,
    },
    /// Take the PIN back, log out, forget it.
    Deactivate {
        /// Name, label or URI.
        slot: String,
    },
    /// End the HSM worker because a call of this slot stays unanswered.
    EndCall {
        /// Name, label or URI.
        slot: String,
    },
    /// Give a token its first user PIN.
    Init {
        /// Name, label or URI.
        slot: String,
        /// Which free token, when there are several.
        free_slot: Option<u64>,
        /// The confirmation for a last try was typed.
        confirmed: bool,
    },
    /// Replace the code.
    ChangeCode {
        /// Name, label or URI.
        slot: String,
        /// The confirmation for a last try was typed.
        confirmed: bool,
        /// Applications that need not be told to let go, by name.
        accept: Vec<String>,
    },
    /// Switch the mode.
    Mode {
        /// Name, label or URI.
        slot: String,
        /// To which.
        to: Mode,
        /// Names of the persons who will know the manual code in conjunction; empty: one does.
        parts: Vec<String>,
        /// The confirmation for a last try was typed.
        confirmed: bool,
        /// Applications that need not be told to let go, by name.
        accept: Vec<String>,
    },
    /// Give the token another user PIN by the SO PIN.
    Unblock {
        /// Name, label or URI.
        slot: String,
        /// The mode from then on.
        to: Mode,
        /// The confirmation for a last try was typed.
        confirmed: bool,
        /// Applications that need not be told to let go, by name.
        accept: Vec<String>,
    },
    /// Erase the token, or forget one that is gone.
    Decommission {
        /// Name, label or URI.
        slot: String,
        /// The texts that were typed: the daemon looks for the one that names the slot.
        confirm: Vec<String>,
        /// Applications that need not be told to let go, by name.
        accept: Vec<String>,
    },
    /// Approve what another person asked for.
    Approve {
        /// Which request.
        id: u32,
        /// The code that its requester reads aloud.
        code: String,
    },
    /// Withdraw a request for an approval.
    Withdraw {
        /// Which request.
        id: u32,
    },
    /// Switch dual control.
    DualControl {
        /// On or off.
        on: bool,
    },
    /// Let the configuration file count as it is now.
    AdoptConfiguration,
    /// Make a new secret and hand its shares out.
    Split {
        /// Name, label or URI.
        slot: String,
        /// How many persons open the slot.
        m: u8,
        /// Of how many.
        n: u8,
        /// Their names; empty: whoever may hold a share and asks first.
        custodians: Vec<String>,
        /// The confirmation for a last try was typed.
        confirmed: bool,
        /// Applications that need not be told to let go, by name.
        accept: Vec<String>,
    },
    /// Fetch a share, type it back, enter a share or a part.
    Share {
        /// Name, label or URI.
        slot: String,
        /// The confirmation for a last try was typed.
        confirmed: bool,
    },
    /// End what is being collected or handed out.
    Reset {
        /// Name, label or URI.
        slot: String,
    },
    /// A ceremony that is about cards.
    Cards {
        /// What is to be done.
        task: CardTask,
        /// At which readers.
        at: At,
    },
    /// Let users with cards open a slot.
    SlotCards {
        /// Name, label or URI.
        slot: String,
        /// How many of them.
        k: u8,
        /// Their names, share 1 first.
        users: Vec<String>,
        /// Whether a code is needed as well.
        with_code: bool,
        /// The confirmation for a last try was typed.
        confirmed: bool,
        /// Applications that need not be told to let go, by name.
        accept: Vec<String>,
        /// At which readers.
        at: At,
    },
    /// Let cards give the SO PIN.
    AdministratorCards {
        /// Name, label or URI.
        slot: String,
        /// How many of them.
        k: u8,
        /// The HSM administrators' names, share 1 first.
        holders: Vec<String>,
        /// The confirmation for a last try was typed.
        confirmed: bool,
        /// At which readers.
        at: At,
    },
    /// Initialise, unblock or decommission by the SO PIN of cards.
    BySoCards {
        /// Name, label or URI.
        slot: String,
        /// Which of them.
        then: SoCardsUse,
        /// The confirmation for a last try was typed.
        confirmed: bool,
        /// At which readers.
        at: At,
    },
    /// Declare a card lost.
    CardLost {
        /// Its serial, hexadecimal.
        serial: String,
        /// Which of its credentials.
        credential: Credential,
    },
    /// Answer what a ceremony asks.
    AnswerCeremony {
        /// Which ceremony, as people type it.
        id: String,
        /// The answer.
        yes: bool,
        /// The text was typed that a last try needs.
        confirmed: bool,
    },
    /// End a ceremony.
    CancelCeremony {
        /// Which, as people type it.
        id: String,
    },
    /// Make a protected export.
    Export {
        /// The slots, by name, label or URI.
        slots: Vec<String>,
        /// Keys that stay behind, each as SLOT/KEY.
        left_out: Vec<String>,
    },
    /// See what a section of the spooled file, which a passphrase protects, would import into a slot.
    RestoreByPassphrase {
        /// Name, label or URI.
        slot: String,
        /// The section's slot uid.
        uid: [u8; 16],
        /// Names the file's backup key.
        key_id: [u8; 16],
        /// SHA-256 of the file.
        file: [u8; 32],
    },
    /// Make in a slot what its prepared restore calls new.
    Import {
        /// Name, label or URI.
        slot: String,
        /// SHA-256 of the file.
        file: [u8; 32],
    },
    /// Give a restore up before its import.
    EndRestore,
    /// Give up an import that was ordered and cannot end, of a restore or a package.
    Abandon {
        /// SHA-256 of the file.
        file: [u8; 32],
    },
    /// Change who belongs to the cluster.
    Cluster(ClusterAsk),
    /// Exchange keys with the other members.
    Sync(SyncAsk),
    /// Count a slot's keys.
    CountKeys {
        /// Name, label or URI.
        slot: String,
    },
    /// Destroy the data key, and every sealed code and the node key with it.
    Zeroize {
        /// The text that was typed.
        confirm: Option<String>,
    },
}

/// How the cluster changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClusterAsk {
    /// Be its first node.
    Found,
    /// Take in the node whose request was spooled.
    Invite {
        /// SHA-256 of the request.
        request: [u8; 32],
    },
    /// Become a member by the rosters that were spooled.
    Join {
        /// Hash of the newest roster.
        roster: [u8; 32],
    },
    /// Take a newer roster that was spooled.
    Follow {
        /// Its hash.
        roster: [u8; 32],
    },
    /// Take a node out.
    Remove {
        /// Its name.
        node: String,
    },
    /// The same members with the backup key that is in force here.
    Renew,
    /// Let this roster count, of two of one epoch.
    Choose {
        /// Its hash.
        roster: [u8; 32],
    },
}

/// What is done with packages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SyncAsk {
    /// Make one for other members.
    Package {
        /// The slots; empty: all of the cluster's that are active.
        slots: Vec<String>,
        /// Names of the members; empty: all others.
        to: Vec<String>,
    },
    /// See what the spooled one would bring.
    Receive {
        /// Its hash.
        file: [u8; 32],
    },
    /// Make what it brings.
    Apply {
        /// Its hash.
        file: [u8; 32],
    },
    /// Give it up before it is applied.
    End,
}

/// At which readers a ceremony is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct At {
    /// Name, a part of it, or number of the reader; `None`: the first that is there.
    pub reader: Option<String>,
    /// The same of the reader of a copy's target; `None`: another one if there is one.
    pub target: Option<String>,
    /// Whatever is on a new card may be overwritten without a question.
    pub overwrite: bool,
}

/// What a ceremony about cards does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CardTask {
    /// Make a backup key and its first set.
    CreateSet {
        /// How many cards.
        m: u8,
        /// Of how many.
        n: u8,
        /// To whom each goes, by name.
        holders: Vec<String>,
        /// Slots that do not get the key now.
        leave_out: Vec<String>,
    },
    /// Another PIN.
    ChangePin {
        /// Of which credential.
        credential: Credential,
    },
    /// Give a card to another person.
    Reassign {
        /// Which credential.
        credential: Credential,
        /// To whom, by name.
        to: String,
    },
    /// Copy a card.
    Copy {
        /// Which credential.
        credential: Credential,
    },
    /// Verify cards of the backup key.
    VerifySet,
    /// Check the MACs of the file that was brought, with cards of its backup key.
    VerifyFile {
        /// Names the backup key.
        key_id: [u8; 16],
        /// SHA-256 of the file.
        file: [u8; 32],
    },
    /// Bring the derived keys into slots.
    RestoreKey {
        /// Only into this one.
        slot: Option<String>,
        /// Names the key.
        key_id: Option<[u8; 16]>,
    },
    /// Another set of the same key.
    ReplaceSet {
        /// How many cards.
        m: u8,
        /// Of how many.
        n: u8,
        /// To whom each goes, by name.
        holders: Vec<String>,
    },
    /// Another key.
    Rotate {
        /// How many cards.
        m: u8,
        /// Of how many.
        n: u8,
        /// To whom each goes, by name.
        holders: Vec<String>,
        /// Slots that do not get the key now.
        leave_out: Vec<String>,
    },
    /// Take away what is on a card.
    Erase {
        /// Which credential.
        credential: Credential,
        /// The text was typed that it needs.
        confirmed: bool,
    },
    /// See what a section of the spooled file would import into a slot.
    Restore {
        /// Into which slot.
        slot: String,
        /// The section's slot uid.
        uid: [u8; 16],
        /// Names the file's backup key.
        key_id: [u8; 16],
        /// SHA-256 of the file.
        file: [u8; 32],
    },
}

/// What the SO PIN of cards is used for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SoCardsUse {
    /// [`Order::Init`]
    Init {
        /// Which free token, when there are several.
        free_slot: Option<u64>,
    },
    /// [`Order::Unblock`]
    Unblock {
        /// The mode from then on.
        to: Mode,
        /// Applications that need not be told to let go, by name.
        accept: Vec<String>,
    },
    /// [`Order::Decommission`]
    Decommission {
        /// The texts that were typed.
        confirm: Vec<String>,
        /// Applications that need not be told to let go, by name.
        accept: Vec<String>,
    },
}

/// What a secret is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecretRole {
    /// The present code, or a share or part of a code.
    Code,
    /// The new code.
    NewCode,
    /// The security officer's PIN.
    SoPin,
    /// The passphrase of a new export.
    NewPassphrase,
    /// The passphrase of a file.
    Passphrase,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answered {
    /// The order was carried out: the device confirmed it, and it is durable.
    Done,
    /// Nothing was done yet: a second person has to approve it first.
    NeedsApproval {
        /// Names the request.
        id: u32,
        /// What the person reads to whoever approves.
        code: String,
    },
    /// What two persons approved of the configuration; `None`: dual control is off.
    Configuration(Option<Vec<u8>>),
    /// What was entered is good; more people are wanted.
    Waits(ProgressView),
    /// The person's share, shown this once. Its text follows in a frame of its own.
    Share {
        /// Which of its set.
        x: u8,
        /// How many persons open the slot.
        m: u8,
        /// Of how many.
        n: u8,
    },
    /// It was not.
    Problem {
        /// Why, and what to do.
        problem: Problem,
        /// The tokens that `--free-slot` may name, when that is the remedy.
        free_tokens: Vec<FreeTokenView>,
    },
    /// The status.
    Status(Box<StatusView>),
    /// One slot.
    Slot(Box<SlotDetail>),
    /// A part of the audit log.
    Audit(AuditPage),
    /// A part of the signed checkpoints.
    Checkpoints(CheckpointPage),
    /// The ceremony under way, and how the last one ended.
    Ceremony(Box<CeremonyNow>),
    /// A part of a transcript.
    Transcript(Box<TranscriptPage>),
    /// The cards that are known, and the readers.
    Cards(CardsView),
    /// A part of a file.
    Part {
        /// Which file it is of: as [`crate::devices::FilePart::version`].
        version: u64,
        /// Bytes of the whole.
        total: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// The part was taken; with the last one: what the file is.
    Spooled(Option<Box<Spooled>>),
    /// A part of the keys of a slot.
    Keys(KeysPage),
}

/// A file that the daemon made and a client takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outgoing {
    /// The export that was made last.
    Export,
    /// The key synchronisation package that was made last.
    Package,
    /// The rosters of the cluster, from the first to the one in force.
    Roster,
    /// What another node is asked with to be invited. Made anew when it is read from its first byte on.
    JoinRequest,
}

/// What a file is that a client brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spooled {
    /// A protected export.
    Export(SpooledFile),
    /// A key synchronisation package that this node can open.
    Package(SpooledPackage),
    /// Rosters of a cluster.
    Roster(SpooledRoster),
    /// Another node asks to be invited.
    JoinRequest(SpooledRequest),
}

/// A package, opened; its signature is that of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpooledPackage {
    /// Names it.
    pub file: [u8; 32],
    /// The name of the member that made it.
    pub source: String,
    /// Which of its packages it is.
    pub sequence: u64,
    /// Whether it was applied before: the same again does nothing.
    pub known: bool,
    /// The slots that it is about, by their names here.
    pub slots: Vec<String>,
    /// Objects in it, over all slots.
    pub entries: u32,
}

/// The newest of some rosters, each checked against the one before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpooledRoster {
    /// Its hash.
    pub hash: [u8; 32],
    /// The hashes of those that may be followed from the one in force on, in their order: the newer ones; before them
    /// another one of its epoch, which divides the cluster; the one in force, where there is nothing else.
    pub newer: Vec<[u8; 32]>,
    /// The hash of the one that has the epoch of the one in force, if the file has it.
    pub of_our_epoch: Option<[u8; 32]>,
    /// Its number, from 1.
    pub epoch: u32,
    /// Names the backup key of the cluster.
    pub key_id: [u8; 16],
    /// Its members.
    pub members: Vec<MemberView>,
    /// The fingerprint of the member that signed it.
    pub signer: String,
    /// The slots whose keys are synchronised.
    pub slots: Vec<String>,
}

/// A member of a cluster as people see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberView {
    /// Its name.
    pub name: String,
    /// What people compare.
    pub fingerprint: String,
    /// Its public key (Ed25519), hexadecimal.
    pub node: String,
    /// Whether it is this node.
    pub own: bool,
}

/// A node that asks to be invited.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpooledRequest {
    /// SHA-256 of the file.
    pub file: [u8; 32],
    /// The name that it gives itself.
    pub name: String,
    /// What people compare.
    pub fingerprint: String,
}

/// A file that is to be restored, as far as it says so itself. Nothing here is authentic before cards
/// were there: the authority for a restore is the MAC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpooledFile {
    /// SHA-256 of the file.
    pub file: [u8; 32],
    /// Names the backup key that opens it.
    pub key_id: [u8; 16],
    /// The public key (Ed25519) of the node that signed it.
    pub node: [u8; 32],
    /// Whether that is this node.
    pub own: bool,
    /// Whether a passphrase protects it, and not cards.
    pub passphrase: bool,
    /// Its sections.
    pub sections: Vec<SpooledSection>,
}

/// One slot in a file that is to be restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpooledSection {
    /// The slot uid.
    pub uid: [u8; 16],
    /// The slot's name where it was exported.
    pub name: String,
    /// Objects in it.
    pub entries: u32,
    /// Keys that stayed behind.
    pub left_out: u32,
    /// Bytes of the part that the vendor's own program wrote; 0: it has none.
    pub vendor_bytes: u64,
}

/// The ceremony under way, and how the last one ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CeremonyNow {
    /// Who asks, by their configured name.
    pub you: Option<String>,
    /// The one under way.
    pub ceremony: Option<CeremonyView>,
    /// How the last one ended, since the start of the daemon.
    pub last: Option<LastCeremonyView>,
}

/// A part of a transcript, with what it takes to read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TranscriptPage {
    /// The ceremony's id.
    pub id: [u8; 8],
    /// How many lines there are.
    pub all: u32,
    /// Some of them.
    pub lines: Vec<Line>,
    /// The hash of the last one and the signature, once it is signed.
    pub end: Option<([u8; 32], Vec<u8>)>,
    /// The node's public key (Ed25519).
    pub node_key: [u8; 32],
    /// The names that numbers of slots have now.
    pub slots: Vec<String>,
    /// The names that numbers of applications have now.
    pub applications: Vec<String>,
    /// The names of persons by their numbers.
    pub persons: Vec<(String, u8)>,
    /// The readers.
    pub readers: Vec<ReaderView>,
    /// The HSM module of this node.
    pub module: String,
    /// Version of the daemon.
    pub version: String,
    /// SHA-256 of the daemon's program file.
    pub program: String,
}

/// A token that `slot init` could take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreeTokenView {
    /// PKCS#11 slot number, for this run of the module only.
    pub slot_number: u64,
    /// What the module calls the slot.
    pub description: String,
}

/// A part of the audit log, with the names its numbers have now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPage {
    /// Number of the last record there is.
    pub last: u64,
    /// The records.
    pub records: Vec<AuditRecord>,
    /// Who, about which slot: one for each record.
    pub names: Vec<(String, String)>,
}

/// A part of the keys of a slot, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeysPage {
    /// The slot's configured name.
    pub slot: String,
    /// The keys.
    pub keys: Vec<SynchronisedKeyView>,
    /// Behind which key there are others; `None`: there are none.
    pub next: Option<[u8; 16]>,
}

/// A part of the signed checkpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointPage {
    /// How many there are.
    pub all: u32,
    /// The node's public keys (Ed25519).
    pub node_keys: NodeKeys,
    /// Sequence, head, signature.
    pub checkpoints: Vec<(u64, [u8; 32], Vec<u8>)>,
}

/// What confirms that every sealed code is destroyed.
pub const ZEROIZE_TEXT: &str = "zeroize";

/// What confirms that a slot's life ends; `name` as configured.
#[must_use]
pub fn decommission_text(name: &str) -> String {
    format!("decommission {name}")
}

/// What confirms that a node leaves the cluster.
#[must_use]
pub fn remove_text(node: &str) -> String {
    format!("remove {node}")
}

impl From<Problem> for Answered {
    fn from(problem: Problem) -> Self {
        Answered::Problem { problem, free_tokens: Vec::new() }
    }
}
