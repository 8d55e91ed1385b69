//! What the platform performs, and how it reports back.
//!
//! Effects are data: printable, comparable, recordable. Both platforms match them
//! exhaustively, so a new one does not compile until the simulator has it too. An effect
//! with a [`Ticket`] is answered by exactly one [`Input::Done`] with that ticket — or by
//! [`Input::WorkerLost`], which answers every device call under way.

use serde::{Deserialize, Serialize};

use crate::audit::AuditRecord;
use crate::card::{CardAnswer, CardCall, CardFailure, ReaderEvent, ReaderId};
use crate::ceremony::order::CeremonyId;
use crate::command::{Answer, Caller, Command, ReplyId};
use crate::fault::{Fault, HsmFailure};
use crate::person::PersonId;
use crate::record::{Record, SecretKey};
use crate::safe::SecretId;
use crate::token::{Presence, TokenState};
use crate::transfer::FileOrder;

/// A slot's number: its place in the configuration. Names are the platform's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SlotId(pub u8);

/// An application's number: its place in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ApplicationId(pub u8);

/// A set of applications, by their numbers: those a person accepts as dead, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ApplicationSet(u64);

impl ApplicationSet {
    /// No application.
    pub const NONE: ApplicationSet = ApplicationSet(0);

    /// This set and one more application. A number that no configuration gives
    /// (`APPLICATIONS_MAX` and above) is left out.
    #[must_use]
    pub const fn with(self, application: ApplicationId) -> Self {
        ApplicationSet(self.0 | Self::bit(application))
    }

    /// Whether the set holds the application.
    #[must_use]
    pub const fn has(self, application: ApplicationId) -> bool {
        self.0 & Self::bit(application) != 0
    }

    const fn bit(application: ApplicationId) -> u64 {
        match 1u64.checked_shl(application.0 as u32) {
            Some(bit) => bit,
            None => 0,
        }
    }
}

/// Names one effect; its completion carries the same ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Ticket {
    /// The slot whose machine waits; `None`: the service itself (store commits).
    pub slot: Option<SlotId>,
    /// Rises with every effect, so that a late answer is recognised.
    pub number: u32,
}

/// One order to the platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)] // sets of shares are large, and there is no allocator to box them
pub enum Effect {
    /// A durable record; with those before the next `Commit` one transaction.
    Store(Record),
    /// An audit record; part of the same transaction.
    Journal(AuditRecord),
    /// Make the transaction durable, answer with [`Input::Stored`]. Nothing behind it is
    /// yielded before.
    Commit {
        /// Carried by the answer.
        ticket: Ticket,
    },
    /// One PKCS#11 operation on the token of a slot.
    Hsm {
        /// Carried by the answer.
        ticket: Ticket,
        /// The slot.
        slot: SlotId,
        /// What to call.
        call: HsmCall,
    },
    /// Fill the place `id` with two halves of 32 bytes, each from another random source.
    Random {
        /// Carried by the answer.
        ticket: Ticket,
        /// Where the 64 bytes go (`Service::refill`).
        id: SecretId,
    },
    /// Decrypt a sealed secret into the place `id`.
    Unseal {
        /// Carried by the answer.
        ticket: Ticket,
        /// Which secret.
        key: SecretKey,
        /// Where it goes (`Service::refill`).
        id: SecretId,
    },
    /// An order to an application's adapter.
    Application {
        /// Carried by the answer.
        ticket: Ticket,
        /// The application.
        application: ApplicationId,
        /// The slot, since one application may use several.
        slot: SlotId,
        /// What it should do.
        order: ApplicationOrder,
    },
    /// One call to a card reader.
    Card {
        /// Carried by the answer.
        ticket: Ticket,
        /// Which reader.
        reader: ReaderId,
        /// What to do there.
        call: CardCall,
    },
    /// The answer to an order.
    Reply {
        /// To whom.
        reply: ReplyId,
        /// How it ended.
        answer: Answer,
    },
    /// Sign this head of the audit chain with the node key, and keep the signature.
    Checkpoint {
        /// Number of the last record under the checkpoint.
        sequence: u64,
        /// Its chain hash.
        head: [u8; 32],
    },
    /// Sign the end of this transcript's chain with the node key, and keep the signature
    /// (`ceremony::transcript::signed_message`).
    SignTranscript {
        /// Of which ceremony.
        id: CeremonyId,
        /// The hash of its last line.
        head: [u8; 32],
    },
    /// Something about the file of an export or a restoration.
    File {
        /// Carried by the answer; none follows [`FileOrder::Discard`].
        ticket: Ticket,
        /// What.
        order: FileOrder,
    },
    /// End the HSM worker now, whatever it is doing; `Input::WorkerLost` follows.
    EndWorker,
    /// Everything is wiped and taken back: the platform may exit.
    Stopped,
    /// Destroy the data key and the node key now, in memory and on the disk, behind a durable intent: a
    /// start finishes what a power cut left. Yielded before everything else, whatever the store does.
    Zeroize {
        /// Carried by the answer.
        ticket: Ticket,
        /// Who ordered it, for the audit record that the next start writes.
        who: PersonId,
    },
}

/// One PKCS#11 operation. The platform opens sessions as needed and keeps one per token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum HsmCall {
    /// `C_GetTokenInfo` and `C_GetSessionInfo`; costs no try.
    Observe,
    /// `C_Login` as user, only from a session whose state is public; otherwise the answer
    /// is [`HsmFailure::AlreadyLoggedIn`] and `C_Login` was not called.
    Login {
        /// The token PIN.
        pin: SecretId,
    },
    /// `C_Logout`; "not logged in" counts as done.
    Logout,
    /// `C_SetPIN` in a session whose state is read-write user, never in an SO session.
    SetPin {
        /// The present token PIN.
        old: SecretId,
        /// The new token PIN.
        new: SecretId,
    },
    /// `C_InitToken` with the slot's configured label, unless a token with that label is
    /// there; `C_Login` as SO; `C_InitPIN`; `C_Logout`. Refused by the platform for a token with a user PIN or objects.
    Initialise {
        /// The SO PIN.
        so_pin: SecretId,
        /// The first user PIN.
        new: SecretId,
        /// Which free token, when several are free.
        free_slot: Option<u64>,
    },
    /// Make the module's own files durable (`[hsm] settle_dir`); nothing where none is configured.
    Settle,
    /// `C_Login` as SO, `C_InitPIN`, `C_Logout`: another user PIN, and every key stays. Refused by
    /// the platform for a token without `CKF_TOKEN_INITIALIZED` or without a user PIN.
    Unblock {
        /// The SO PIN.
        so_pin: SecretId,
        /// The new user PIN.
        new: SecretId,
    },
    /// `C_InitToken` on the slot's own token: every object and the user PIN are gone.
    Erase {
        /// The SO PIN.
        so_pin: SecretId,
    },
    /// Make the slot's keys of a backup key, by the user who is logged in: W (wrap only) and MAK
    /// (sign and verify only), private, sensitive, not extractable, not modifiable. Each is read back
    /// and checked against what software computes from the same bytes; those that fail are destroyed.
    /// Keys of the same id that are there already and pass the check count as made.
    PutBackupKeys {
        /// Names the backup key; with the slot uid it is the objects' `CKA_ID`.
        key_id: [u8; 16],
        /// The slot uid.
        uid: [u8; 16],
        /// The wrapping key, 32 bytes.
        kek: SecretId,
        /// The authentication key, 32 bytes.
        mak: SecretId,
        /// Whether U (unwrap only) is made as well, of `kek`: for members of a cluster.
        unwrap: bool,
    },
    /// Look for the slot's keys of this backup key and destroy those of every other one (`None`: of all).
    KeepBackupKeys {
        /// The backup key in force.
        key_id: Option<[u8; 16]>,
        /// The slot uid.
        uid: [u8; 16],
        /// Whether U of it may stay; otherwise that is destroyed too.
        unwrap: bool,
    },
    /// `C_Login` as SO, `C_SetPIN` in that session, `C_Logout`: another SO PIN.
    SetSoPin {
        /// The present SO PIN.
        old: SecretId,
        /// The new SO PIN.
        new: SecretId,
    },
    /// Count the slot's keys: those that can leave, and those that no export covers.
    Inventory {
        /// The slot uid.
        uid: [u8; 16],
    },
    /// Append this slot's section to the export that is being made: every key that can leave, wrapped
    /// by W, with public keys and certificates, and a MAC by MAK. A key that cannot leave and was not
    /// accepted by name refuses the export.
    ExportSection {
        /// Names the backup key.
        key_id: [u8; 16],
        /// The slot uid.
        uid: [u8; 16],
        /// KEK and MAK of a backup key that is for this export only: they become objects of the session,
        /// and end with it. `None`: those of the key in force, which the token has.
        once: Option<[SecretId; 2]>,
    },
    /// Put U (unwrap only) into the token, check the spooled section's MAC, unwrap each of its keys
    /// as an object of the session, compare and destroy it; keep the plan. The token's own objects stay
    /// as they are.
    PrepareImport {
        /// Names the backup key.
        key_id: [u8; 16],
        /// The section's slot uid: what its keys are derived from.
        uid: [u8; 16],
        /// The wrapping key, 32 bytes.
        kek: SecretId,
        /// The authentication key, 32 bytes.
        mak: SecretId,
    },
    /// Make what the plan calls new, by U: absent objects are made, those that differ made again; each is
    /// read back. Repeating it does nothing more.
    Import {
        /// Names the backup key.
        key_id: [u8; 16],
        /// The section's slot uid.
        uid: [u8; 16],
    },
    /// Destroy every U in the token but this one.
    DropUnwrapKey {
        /// Key id and slot uid of the U of a member of a cluster, which stays.
        keep: Option<([u8; 16], [u8; 16])>,
    },
    /// Check the MAC of this slot's section of the spooled package, unwrap each of its keys by the member's
    /// own U as an object of the session, compare and destroy it; keep the plan. The token's own
    /// objects stay as they are. Keys that the ledger does not want are counted, and are not in the plan.
    PlanPackage {
        /// Names the backup key.
        key_id: [u8; 16],
        /// The slot uid.
        uid: [u8; 16],
    },
    /// Make what the plan of this slot calls new: absent objects are made, those that differ made again; each is
    /// read back. Repeating it does nothing more. Refused only before anything is made.
    ImportPackage {
        /// Names the backup key.
        key_id: [u8; 16],
        /// The slot uid.
        uid: [u8; 16],
    },
}

/// An order to an application's adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ApplicationOrder {
    /// Give the application the token PIN.
    HandOver {
        /// The token PIN.
        pin: SecretId,
    },
    /// Take it back; "was not there" counts as done.
    Withdraw,
}

/// What an effect with a ticket came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Outcome {
    /// Of [`Effect::Hsm`].
    Hsm(Result<HsmAnswer, HsmFailure>),
    /// Of [`Effect::Random`].
    Random(Result<(), Fault>),
    /// Of [`Effect::Unseal`].
    Unsealed(Result<(), Fault>),
    /// Of [`Effect::Application`].
    Application(Result<(), Fault>),
    /// Of [`Effect::Card`].
    Card(Result<CardAnswer, CardFailure>),
    /// Of [`Effect::File`].
    File(Result<(), Fault>),
    /// Of [`Effect::Zeroize`]: the disk confirmed that the data key is gone.
    Zeroized(Result<(), Fault>),
    /// Of [`FileOrder::Check`]: whether every MAC is right.
    FileChecked(Result<bool, Fault>),
}

/// What the device confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum HsmAnswer {
    /// Of [`HsmCall::Observe`].
    Observed(TokenState),
    /// `CKR_OK` from `C_Login` in a session that was public before.
    LoggedIn,
    /// The session is public.
    LoggedOut,
    /// `CKR_OK` from `C_SetPIN`.
    PinSet,
    /// `CKR_OK` from `C_InitPIN`; the state is that of the token after the logout.
    Initialised(TokenState),
    /// The module's files are durable.
    Settled,
    /// `CKR_OK` from `C_InitPIN`, and the SO is logged out.
    Unblocked,
    /// `CKR_OK` from `C_InitToken`; the state is that of the token after it.
    Erased(TokenState),
    /// W and MAK are there, read back and checked.
    BackupKeysPut,
    /// Of [`HsmCall::KeepBackupKeys`].
    BackupKeysKept {
        /// Whether W and MAK of the backup key are there.
        present: bool,
        /// Objects of other backup keys, and U where it may not stay, that were destroyed.
        destroyed: u8,
        /// Whether U of the backup key is there.
        unwrap: bool,
    },
    /// `CKR_OK` from `C_SetPIN` in the SO's session, and the SO is logged out.
    SoPinSet,
    /// Of [`HsmCall::Inventory`].
    Counted(KeyCounts),
    /// The section is in the file, with its MAC.
    SectionExported {
        /// Keys in it.
        keys: u32,
        /// Keys that cannot leave, accepted by name.
        left_out: u32,
    },
    /// Of [`HsmCall::PrepareImport`] and [`HsmCall::PlanPackage`].
    ImportPrepared(ImportPlan),
    /// Everything new is there, read back: of [`HsmCall::Import`] and [`HsmCall::ImportPackage`].
    Imported {
        /// Objects that this call made.
        made: u32,
    },
    /// No U is in the token but the one that stays.
    UnwrapKeyDropped,
}

/// What a look at the keys of a slot counted: private and secret keys without our own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct KeyCounts {
    /// All of them.
    pub keys: u32,
    /// Those that an export can hold: `CKA_EXTRACTABLE` is true.
    pub can_leave: u32,
    /// Those that no export of this appliance holds.
    pub uncovered: u32,
}

/// What an import is going to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ImportPlan {
    /// Objects that the token does not have.
    pub new: u32,
    /// Objects that it has already, with the same value.
    pub same: u32,
    /// Objects of the same class and id with another value: any of them refuses the import.
    pub conflict: u32,
    /// Objects that are recorded as removed. A package does not make them again; of a restore they are among the
    /// new ones, since people want them back.
    pub removed: u32,
}

/// What a commit came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum StoreResult {
    /// Durable.
    Durable(Room),
    /// Not durable, or nobody knows: the service halts and never retries (P40).
    Failed,
}

/// Room left in the store's file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Room {
    /// At least 4 MiB.
    Plenty,
    /// Less: the ballast file is gone, only boot activation, deactivate and stop go on.
    Reserve,
}

/// Everything that enters the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Input {
    /// The first input: records are loaded, the service may begin.
    Start,
    /// A person's order.
    Command {
        /// Who, and where the answer goes.
        caller: Caller,
        /// What.
        command: Command,
    },
    /// An effect ended.
    Done {
        /// Of the effect.
        ticket: Ticket,
        /// What it came to.
        outcome: Outcome,
    },
    /// A commit ended.
    Stored {
        /// Of the commit.
        ticket: Ticket,
        /// What it came to.
        result: StoreResult,
    },
    /// The platform looked for the token of a slot: after each start of the worker, and
    /// when a token went or changed. Flags are as fresh as the look.
    Token {
        /// The slot.
        slot: SlotId,
        /// What was found.
        presence: Presence,
    },
    /// The HSM worker runs and its first look at every slot has been reported.
    WorkerUp,
    /// The HSM worker died or was ended: every call under way has an unknown outcome,
    /// every login is gone.
    WorkerLost,
    /// Something happened at a card reader.
    Reader {
        /// Which.
        reader: ReaderId,
        /// What.
        event: ReaderEvent,
    },
    /// Time passed; harmless when nothing is due.
    Tick,
}
