//! The one projection of the service that everybody sees.
//!
//! Lamps, console, CLI and metrics are functions of [`Status`], so they cannot disagree.
//! It names persons, slots and applications by number; the platform joins the names when
//! it prints. It holds no secret and no secret's id.

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::audit::CeremonyEnd;
use crate::card::sets::CardSet;
use crate::card::{CardSerial, ReaderId};
use crate::ceremony::Question;
use crate::ceremony::order::CeremonyId;
use crate::command::{Answer, Command, CommandKind};
use crate::effect::{ApplicationId, ImportPlan, KeyCounts, SlotId};
use crate::fault::{Fault, Refusal};
use crate::limits::{APPLICATIONS_PER_SLOT_MAX, APPROVALS_MAX, ROSTER_MAX};
use crate::person::{PersonId, Roster};
use crate::record::{Doubt, Mode};
use crate::share::Quorum;
use crate::share::card_set::CardQuorum;
use crate::share::typed::SET_MARK_BYTES;

/// The whole service at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status<const SLOTS: usize> {
    /// Every configured slot, in the order of the configuration.
    pub slots: Vec<SlotStatus, SLOTS>,
    /// Why the service halted, if it did.
    pub halted: Option<Fault>,
    /// Whether one person alone decides (dual control is off).
    pub single_person: bool,
    /// Orders that wait for a second person, or for being given again.
    pub approvals: Vec<ApprovalStatus, APPROVALS_MAX>,
    /// Whether the configuration file differs from what two persons approved.
    pub configuration_waits: bool,
    /// Whether what they approved counts only from the next start on.
    pub restart_wanted: bool,
    /// Whether boot's automatic activations have all been tried.
    pub boot_done: bool,
    /// Whether the HSM worker runs.
    pub worker: bool,
    /// Whether the store has fallen back on its reserve of space.
    pub disk_reserve: bool,
    /// The ceremony under way.
    pub ceremony: Option<CeremonyStatus>,
    /// How the last one ended, since the start.
    pub last_ceremony: Option<(CeremonyId, CommandKind, CeremonyEnd)>,
    /// The backup key's set in force.
    pub backup: Option<BackupStatus>,
    /// The export, restoration or package under way.
    pub transfer: Option<TransferStatus>,
    /// The cluster that this node is, or was, a member of.
    pub cluster: Option<ClusterStatus>,
}

/// The cluster as everybody may see it; the roster itself is [`crate::Service::roster`], and how members
/// stand comes from the platform's ledgers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ClusterStatus {
    /// Which roster is in force.
    pub epoch: u32,
    /// How many members it has.
    pub members: u8,
    /// This node's place among them; `None`: it was shut out.
    pub own: Option<u8>,
    /// Whether the platform has the roster signed and in its file.
    pub filed: bool,
    /// Whether there are two rosters of this epoch, of which two persons have to choose one.
    pub divided: bool,
}

/// An export, a restoration or a package as everybody may see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct TransferStatus {
    /// How far it is.
    pub stage: TransferStage,
    /// Of which slot, now.
    pub slot: Option<SlotId>,
    /// SHA-256 of the file that is restored, or the hash that names the package which is received.
    pub file: Option<[u8; 32]>,
    /// Whether it is a package of the cluster, sent or received.
    pub package: bool,
}

/// How far an export, a restoration or a package is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum TransferStage {
    /// Keys are written into an export.
    Exporting,
    /// Cards are gathered for a restore, or keys of a file are unwrapped and compared.
    Preparing,
    /// The plan is known; a person orders its import or gives it up.
    Prepared(ImportPlan),
    /// Keys are made in the token.
    Importing,
    /// The import began and did not end.
    Halfway(Answer),
    /// The key that unwraps is taken away.
    Ending,
}

/// The backup key as everybody may see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct BackupStatus {
    /// The set in force.
    pub set: CardSet,
    /// How many different shares are on cards that can be used.
    pub shares_in_use: u8,
    /// When the share that was verified longest ago was, seconds since 1970; `None`: one never was.
    pub verified_s: Option<u64>,
}

/// What a ceremony waits for, live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct CeremonyStatus {
    /// Which.
    pub id: CeremonyId,
    /// What was ordered.
    pub command: CommandKind,
    /// About which slot.
    pub slot: Option<SlotId>,
    /// Who began it.
    pub starter: PersonId,
    /// The step it is at, counted from 1.
    pub step: u8,
    /// Of how many, when nothing goes wrong.
    pub steps: u8,
    /// What is wanted now.
    pub wait: CeremonyWait,
    /// Of whom, where that is known.
    pub who: Option<PersonId>,
    /// At which reader.
    pub reader: ReaderId,
    /// Which share is being written.
    pub x: Option<u8>,
    /// The card that is there.
    pub serial: Option<CardSerial>,
    /// Tries that its PIN has left, where the card says.
    pub tries_left: Option<u8>,
    /// The id of the key that the cards name which were read so far.
    pub key_id: Option<[u8; 16]>,
    /// Seconds until the wait ends by itself.
    pub seconds_left: Option<u32>,
    /// Why the last card or PIN did not do, if so.
    pub last: Option<Refusal>,
    /// What people did so far: cards inserted and taken out, PINs typed, questions answered.
    pub human_steps: u16,
    /// Rises with each change: whoever watches asks for the next one.
    pub changes: u32,
}

/// What a ceremony wants now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum CeremonyWait {
    /// A card is to be inserted.
    Insert,
    /// The PIN is to be typed on the pad.
    Pin,
    /// The old PIN, and twice a new one, are to be typed on the pad.
    NewPin,
    /// The card is being read; leave it.
    Read,
    /// The card is being written; leave it.
    Write,
    /// The card is to be taken out.
    Remove,
    /// Somebody has to answer at the console.
    Answer(Question),
    /// The HSM is at work.
    Hsm,
    /// The service is at work.
    Computing,
    /// It ends when the reader is done.
    End,
}

/// One order that needs two persons. Its code is told to its requester only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ApprovalStatus {
    /// Names it while it lasts.
    pub id: u32,
    /// Who gave the order.
    pub requester: PersonId,
    /// The order, without its secrets.
    pub operation: Command,
    /// Who approved it; `None`: it waits for that.
    pub by: Option<PersonId>,
    /// Seconds until it ends by itself.
    pub seconds_left: u32,
}

/// One slot at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotStatus {
    /// The slot.
    pub slot: SlotId,
    /// Its code mode.
    pub mode: Mode,
    /// Who knows its manual code.
    pub knowledge: KnowledgeStatus,
    /// The collection under way.
    pub collection: Option<CollectionStatus>,
    /// Its state, in the product's words.
    pub state: StateName,
    /// The applications bound to it.
    pub applications: Vec<ApplicationStatus, APPLICATIONS_PER_SLOT_MAX>,
    /// Whether the token has the derived keys of the backup key in force; `None`: not known, since
    /// it was not open yet, or there is no backup key.
    pub backup_key: Option<bool>,
    /// Whether a member's token has the key that unwraps what other members send; `None`: not known, or
    /// this node is in no cluster with others.
    pub unwrap_key: Option<bool>,
    /// Its keys as they were counted last; `None`: never since the start.
    pub key_counts: Option<KeyCounts>,
    /// Who is wanted, if somebody is.
    pub waits_for: Option<WaitsFor>,
    /// Tries before each further one needs a confirmation; 0: the next one does.
    pub tries_left: u8,
    /// What an operator should look at, if anything.
    pub attention: Option<Attention>,
    /// What only people can resolve.
    pub doubt: Option<Doubt>,
    /// Why nothing is done by itself, if so.
    pub refusal: Option<Refusal>,
    /// The last device failure since the slot was last well.
    pub fault: Option<Fault>,
    /// When the SO PIN was last proven here, seconds since 1970; `None`: never. An SO PIN that
    /// nobody has proven for years is perhaps one that nobody has.
    pub so_proven_s: Option<u64>,
}

/// Who knows a manual code, as everybody may see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum KnowledgeStatus {
    /// One person, or several as one.
    Whole,
    /// These persons in conjunction.
    Parts(Roster),
    /// Any m of n persons, with the shares of this set.
    Shares(SetStatus),
    /// Any k of n users with their cards.
    Cards {
        /// How many of how many.
        quorum: CardQuorum,
        /// Whether a code is typed as well.
        with_code: bool,
    },
}

/// A set of shares, as everybody may see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SetStatus {
    /// Any m of n.
    pub quorum: Quorum,
    /// Which set of its slot; rises with each.
    pub generation: u16,
    /// The beginning of its id, as each of its shares carries it.
    pub mark: [u8; SET_MARK_BYTES],
}

/// States of a slot as people are told them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum StateName {
    /// No token matches.
    Absent,
    /// The token has no user PIN.
    Uninitialised,
    /// The token is there, its PIN not proven.
    Locked,
    /// People are entering what opens the slot.
    Collecting,
    /// The PIN is being proven and handed over.
    Activating,
    /// Proven and handed over.
    Active,
    /// The code, the mode or the activation is being changed.
    Changing,
    /// Waits after a refused last try.
    CoolingDown,
    /// Nobody knows yet what the token did or has.
    Doubtful,
    /// The token blocked its user PIN.
    Blocked,
}

impl StateName {
    /// All names, in the order of the enum.
    pub const ALL: [StateName; 10] = [
        StateName::Absent,
        StateName::Uninitialised,
        StateName::Locked,
        StateName::Collecting,
        StateName::Activating,
        StateName::Active,
        StateName::Changing,
        StateName::CoolingDown,
        StateName::Doubtful,
        StateName::Blocked,
    ];

    /// The word, for JSON and people.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            StateName::Absent => "absent",
            StateName::Uninitialised => "uninitialised",
            StateName::Locked => "locked",
            StateName::Collecting => "collecting",
            StateName::Activating => "activating",
            StateName::Active => "active",
            StateName::Changing => "changing",
            StateName::CoolingDown => "cooling-down",
            StateName::Doubtful => "doubtful",
            StateName::Blocked => "blocked",
        }
    }
}

/// Who or what a slot waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct WaitsFor {
    /// For what.
    pub kind: WaitKind,
    /// How many are there already.
    pub have: u8,
    /// How many it takes.
    pub need: u8,
    /// The attempt, if one was begun.
    pub attempt: Option<u64>,
    /// Seconds until something can be done, where that is known.
    pub seconds_left: Option<u32>,
}

/// How far a collection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Progress {
    /// What people are asked for.
    pub kind: WaitKind,
    /// How many were entered, or confirmed.
    pub have: u8,
    /// How many it takes.
    pub need: u8,
    /// The attempt: the number of the audit record that began it, so never the same twice.
    pub attempt: u64,
}

/// A collection under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionStatus {
    /// For which order.
    pub command: CommandKind,
    /// How far it is.
    pub progress: Progress,
    /// Who entered, fetched or confirmed.
    pub persons: Vec<CollectionPerson, ROSTER_MAX>,
    /// Seconds until it ends by itself, unless somebody goes on.
    pub seconds_left: u32,
}

/// What one person did in a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct CollectionPerson {
    /// Who.
    pub who: PersonId,
    /// Whether that is all that is wanted of them: entered, or confirmed after fetching.
    pub done: bool,
}

/// Kinds of waiting. Cards and approvals join when they exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum WaitKind {
    /// A manual code.
    Code,
    /// Parts of a code that several persons know in conjunction.
    Parts,
    /// Parts of a new code.
    NewParts,
    /// Shares of a code.
    Shares,
    /// Custodians who fetch their new shares and type them back.
    Custodians,
    /// Users with their cards at a pad.
    Cards,
    /// A person who looks into it.
    Person,
}

/// What an operator should look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Attention {
    /// The token's low count rose without an attempt of ours: somebody else spends tries.
    TriesSpentElsewhere,
    /// The token shows a low count.
    CountLow,
    /// The token says that one more refused try blocks it.
    FinalTry,
    /// An application could not be served.
    ApplicationFailed,
    /// The generated code of the slot was destroyed by a zeroize: the SO PIN gives the token another.
    CodeGone,
}

/// One application of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ApplicationStatus {
    /// The application.
    pub application: ApplicationId,
    /// What it has.
    pub state: ApplicationState,
}

/// What an application has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ApplicationState {
    /// Nothing.
    Inactive,
    /// It is being served.
    Pending,
    /// The token PIN.
    Active,
    /// It could not be served.
    Failed(Fault),
}
