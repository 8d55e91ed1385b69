//! One transfer at a time: keys into an export, or from a file into a slot.
//!
//! Keys do not flow through here: the HSM worker writes and reads the file, this machine says what
//! comes next. It answers the people who ordered it, and remembers what has to survive a power cut
//! as one [`Restoration`]. Where cards protect, a ceremony brings the backup key; where a passphrase
//! does, the platform makes the key of it, for this one export or restore. Where U (unwrap only) may be in a token is durable before it is put there,
//! so that it does not stay; what is going to be made is durable before the first object is (P24).
//!
//! ```text
//! Idle ─ export ─▶ (Stretching) ─▶ Beginning ─▶ AtSection (one slot after the other) ─▶ Finishing ─▶ Idle
//! Idle ─ restore ─▶ Preparing ─▶ Prepared ─ import ─▶ Waiting{Import} ⇄ AtToken{Import} ─▶ Halfway
//!                        │          │                                          │  ◀─ import ─┘
//! Idle ─ restore by passphrase ─▶ Unlocking ─▶ Proving ─▶ Prepared
//!                        └── end ───┴──▶ Waiting{Drop} ⇄ AtToken{Drop} ◀───────┘ ─▶ Idle
//! ```
//!
//! After a restart an export is gone, as if it had not been ordered. A restoration whose import was not
//! ordered ends by taking U away; one whose import was ordered goes on. Both wait until somebody, or
//! the service itself, has activated the slot.
//!
//! Whoever ordered something does not wait that long: they hear it when the slot is closed. An import is
//! done for them once everything is there and that is durable; that U goes after it is our affair, and a
//! token that keeps it is asked again.

use serde::{Deserialize, Serialize};

use crate::audit::AuditEvent;
use crate::ceremony::order::SlotSet;
use crate::command::{Answer, Caller, CommandKind};
use crate::effect::{HsmAnswer, HsmCall, ImportPlan, SlotId};
use crate::fault::{Fault, Function, HsmFailure, Refusal};
use crate::person::PersonId;
use crate::record::{self, Owner};
use crate::safe::SecretId;

/// Version of the encoding of [`Restoration`]. A store with a higher one is refused.
pub const RESTORATION_VERSION: u8 = 1;
/// Bytes that always hold an encoded [`Restoration`] (70, by test).
pub const RESTORATION_BYTES_MAX: usize = 96;
/// Calls of one import that may end with the worker's death before a person has to look.
const WORKERS_LOST_MAX: u8 = 2;

/// What people order about exports and files to restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum TransferOrder {
    /// Write every key that can leave these slots into a protected export.
    Export {
        /// Which slots.
        slots: SlotSet,
        /// SHA-256 of the names of the keys that stay behind, which a person accepted. The platform
        /// keeps the names.
        left_out: [u8; 32],
        /// What protects it at level `passphrase`.
        passphrase: Option<SecretId>,
    },
    /// Make what the plan of the restoration calls new.
    Import {
        /// Into which slot.
        slot: SlotId,
        /// SHA-256 of the file.
        file: [u8; 32],
    },
    /// Give a restoration up before its import; nothing of it stays in the token.
    EndRestore,
    /// Count a slot's keys: those that can leave, and those that no export holds. Changes nothing.
    Count {
        /// Which slot.
        slot: SlotId,
    },
    /// Write the keys that other members of the cluster lack into a package for them.
    Package {
        /// For which members, a bit for each place in the roster.
        targets: u8,
        /// The roster that the places are of: an approval is of these members and no others.
        roster_epoch: u32,
        /// Of which slots; none: it only says what is known of the keys.
        slots: SlotSet,
    },
    /// Compare what a package holds with the tokens. It was spooled, checked and admitted
    /// ([`crate::Service::admit_package`]).
    Receive {
        /// Names the package.
        hash: [u8; 32],
        /// Slots that it has keys for.
        slots: SlotSet,
    },
    /// Make what the plan of the package calls new.
    Apply {
        /// Names the package.
        hash: [u8; 32],
    },
    /// Give up a package that was only planned.
    EndReceive,
    /// Give up an import that was ordered and cannot end: of a restoration or of a package. What it made stays.
    Abandon {
        /// SHA-256 of the file, or the name of the package.
        file: [u8; 32],
    },
    /// See what a section of a file that a passphrase protects would import into a slot.
    Restore {
        /// Into which slot.
        slot: SlotId,
        /// The section's slot uid.
        uid: [u8; 16],
        /// Names the file's backup key.
        key_id: [u8; 16],
        /// SHA-256 of the file.
        file: [u8; 32],
        /// Its passphrase.
        passphrase: Option<SecretId>,
    },
}

impl TransferOrder {
    /// What its rights are checked by.
    #[must_use]
    pub const fn kind(&self) -> CommandKind {
        match self {
            TransferOrder::Export { .. } => CommandKind::Export,
            TransferOrder::Import { .. } => CommandKind::Import,
            TransferOrder::EndRestore => CommandKind::EndRestore,
            TransferOrder::Count { .. } => CommandKind::CountKeys,
            TransferOrder::Package { .. } => CommandKind::MakePackage,
            TransferOrder::Receive { .. } => CommandKind::ReceivePackage,
            TransferOrder::Apply { .. } => CommandKind::ApplyPackage,
            TransferOrder::EndReceive => CommandKind::EndReceive,
            TransferOrder::Abandon { .. } => CommandKind::Abandon,
            TransferOrder::Restore { .. } => CommandKind::Restore,
        }
    }
}

/// What is durable of a restoration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Restoration {
    /// The slot's owner number.
    pub owner: Owner,
    /// The section's slot uid, which U is derived from.
    pub uid: [u8; 16],
    /// Names the backup key of the file.
    pub key_id: [u8; 16],
    /// SHA-256 of the file.
    pub file: [u8; 32],
    /// How far it is.
    pub reached: Reached,
}

/// How far a restoration is, for whoever comes after a power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Reached {
    /// U may be in the token, and nothing else.
    Preparing,
    /// Its import was ordered: everything new is made.
    Committed,
    /// Everything new is there; U goes.
    Made,
}

impl Restoration {
    /// The same given up: what was made stays, U goes as soon as the slot is open.
    #[must_use]
    pub const fn given_up(self) -> Self {
        let reached = match self.reached {
            Reached::Preparing | Reached::Committed => Reached::Preparing,
            Reached::Made => Reached::Made,
        };
        Restoration { reached, ..self }
    }

    /// Writes version and record into `out`; returns the part written. No bytes: there is none.
    ///
    /// # Errors
    /// [`Refusal::StoreUnreadable`] when `out` is smaller than [`RESTORATION_BYTES_MAX`].
    pub fn encode<'out>(record: Option<&Self>, out: &'out mut [u8]) -> Result<&'out [u8], Refusal> {
        record::encode(RESTORATION_VERSION, &record, out)
    }

    /// Reads what [`Restoration::encode`] wrote.
    ///
    /// # Errors
    /// [`Refusal::StoreNewer`] for a higher version, [`Refusal::StoreUnreadable`] for
    /// anything that is not exactly one record.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, Refusal> {
        record::decode(RESTORATION_VERSION, bytes)
    }
}

/// An export under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Export {
    /// Every slot in it.
    pub slots: SlotSet,
    /// The set in force.
    pub set_id: [u8; 16],
    /// Names the backup key.
    pub key_id: [u8; 16],
    /// What it is for.
    pub purpose: Purpose,
    /// Where its passphrase is, then the backup key made of it; `None`: the key in force protects it.
    pub passphrase: Option<SecretId>,
}

/// What an export is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Purpose {
    /// A file that people keep, opened with their cards.
    Backup {
        /// SHA-256 of the names of the keys that were accepted as staying behind.
        left_out: [u8; 32],
    },
    /// A package for other members of the cluster. Keys that cannot leave are only listed.
    Package {
        /// For which members, a bit for each place in the roster.
        targets: u8,
        /// Which package of this node.
        sequence: u64,
        /// The roster that the places are of.
        roster_epoch: u32,
    },
}

impl Export {
    /// What was ordered.
    #[must_use]
    pub const fn kind(&self) -> CommandKind {
        match self.purpose {
            Purpose::Backup { .. } => CommandKind::Export,
            Purpose::Package { .. } => CommandKind::MakePackage,
        }
    }
}

/// A [`FileOrder`] on its way out, without what it begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the variants are those of `FileOrder`
pub enum FileStep {
    Begin,
    Finish,
    Discard,
    KeepRoster,
    Received,
    Stretch,
    Check,
}

/// What the platform does with files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum FileOrder {
    /// Begin an export: a new file with its header.
    Begin(Export),
    /// Every section is in it: read it, sign it, make it durable, give it its name.
    Finish,
    /// Remove a file that is not whole, or was restored or received.
    Discard,
    /// Sign the roster with this hash, where this node made it; file it with its annex, and all rosters before
    /// it. It is in force and durable already ([`crate::Service::roster`]). Once more is the same.
    KeepRoster {
        /// Of the roster.
        hash: [u8; 32],
    },
    /// Every key of the package is there: file what its source knows, durably, and keep what was spooled. Once
    /// more is the same. The keys that were planned of this very package are there, and are taken in as seen; for
    /// all others what the source knows counts from the next look at each token on ([`crate::ledger::Known::look`]).
    Received {
        /// Names the package.
        hash: [u8; 32],
    },
    /// Put the backup key that a passphrase gives (Argon2id) in its place.
    Stretch {
        /// Where it is.
        passphrase: SecretId,
        /// Of which file.
        of: Salt,
    },
    /// Hold the MAC of each section of the spooled file against the backup key; answered by
    /// [`Outcome::FileChecked`](crate::effect::Outcome::FileChecked). Nothing is changed.
    Check {
        /// SHA-256 of the file.
        hash: [u8; 32],
        /// Where the backup key is.
        backup_key: SecretId,
    },
}

/// Whose salt and costs make a key of a passphrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Salt {
    /// A new one, for the export that begins next.
    New,
    /// Those of the file to restore.
    Spooled,
}

/// Where the transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum State {
    /// None is under way.
    Idle,
    /// The platform makes the backup key of an export of its passphrase.
    Stretching {
        /// Who ordered it.
        caller: Caller,
        /// What is exported.
        export: Export,
    },
    /// The platform begins the file of an export.
    Beginning {
        /// Who ordered it.
        caller: Caller,
        /// What is exported.
        export: Export,
    },
    /// A slot's keys are written into it.
    AtSection {
        /// Who ordered it.
        caller: Caller,
        /// What is exported.
        export: Export,
        /// Whose keys.
        slot: SlotId,
        /// What is in it.
        sum: Sum,
    },
    /// The platform signs it and gives it its name.
    Finishing {
        /// Who ordered it.
        caller: Caller,
        /// What is exported.
        export: Export,
        /// What is in it.
        sum: Sum,
    },
    /// The platform makes the backup key of a file to restore of its passphrase.
    Unlocking {
        /// Who ordered it.
        caller: Caller,
        /// Of what.
        restoration: Restoration,
        /// Where the passphrase is, then the key.
        passphrase: SecretId,
    },
    /// The token unwraps the file's keys to see whether it can.
    Proving {
        /// Of what.
        restoration: Restoration,
        /// Who waits for it, if anybody does.
        caller: Option<Caller>,
    },
    /// A ceremony gathers cards, and the token unwraps the file's keys to see whether it can. Left by
    /// the plan, or when the ceremony ended without one.
    Preparing {
        /// Of what.
        restoration: Restoration,
    },
    /// The plan is known; a person orders its import or gives it up.
    Prepared {
        /// Of what.
        restoration: Restoration,
        /// What would be made.
        plan: ImportPlan,
    },
    /// The next step waits until the slot is active, or until it is time to ask a token again that kept U.
    Waiting {
        /// Of what.
        restoration: Restoration,
        /// Which step.
        step: Step,
        /// Who waits for it, if anybody does.
        caller: Option<Caller>,
    },
    /// The token is at it.
    AtToken {
        /// Of what.
        restoration: Restoration,
        /// At what.
        step: Step,
        /// Who waits for it, if anybody does.
        caller: Option<Caller>,
    },
    /// The import began and did not end; a person mends the cause and orders it again.
    Halfway {
        /// Of what.
        restoration: Restoration,
        /// What was answered.
        why: Answer,
    },
}

/// What is in an export.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Sum {
    /// Slots.
    pub sections: u8,
    /// Keys, over all slots.
    pub keys: u32,
    /// Keys that stayed behind, over all slots.
    pub left_out: u32,
}

/// A step of a restoration at the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Step {
    /// Make the new objects; so many workers died of it.
    Import {
        /// How many.
        lost: u8,
    },
    /// Destroy U; then the restoration is over.
    Drop,
}

/// What happens to a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferEvent {
    /// An export is ordered; everything was checked.
    ExportOrdered {
        /// By whom.
        caller: Caller,
        /// Of what.
        export: Export,
    },
    /// The restore of a file is ordered that a passphrase protects.
    RestoreOrdered {
        /// By whom.
        caller: Caller,
        /// Of what.
        restoration: Restoration,
        /// Where its passphrase is.
        passphrase: SecretId,
    },
    /// A ceremony for a restoration begins.
    RestoreBegan {
        /// Of what.
        restoration: Restoration,
    },
    /// The token has U and the plan is made.
    Planned(ImportPlan),
    /// The ceremony ended; without a plan there is nothing to import.
    CeremonyEnded,
    /// The import is ordered.
    ImportOrdered {
        /// By whom.
        caller: Caller,
        /// Into the slot with this owner number.
        owner: Owner,
        /// SHA-256 of the file.
        file: [u8; 32],
    },
    /// The restoration is given up.
    EndOrdered {
        /// By whom.
        caller: Caller,
    },
    /// What cannot end is given up with what it made.
    AbandonOrdered {
        /// By whom.
        caller: Caller,
        /// SHA-256 of the file.
        file: [u8; 32],
        /// Whether its slot is open.
        open: bool,
    },
    /// What the platform did with the file ended.
    FileDone(Result<(), Fault>),
    /// A call of a token ended.
    TokenDone(Result<HsmAnswer, HsmFailure>),
    /// The slot that the next step waits for is active.
    SlotReady,
    /// It is not, or its token is silent, and nobody knows for how long; or the call of the token failed, and its
    /// slot is not active any more.
    SlotClosed(Refusal),
    /// The worker is gone, and every call with it.
    WorkerLost,
    /// The token has not answered for very long.
    DeadlinePassed,
}

/// What a transfer wants done, in this order.
pub trait TransferOut {
    /// Something at the platform's files; answered by [`TransferEvent::FileDone`] but for `Discard`.
    fn file(&mut self, order: FileOrder);
    /// A call of a slot's token; answered by [`TransferEvent::TokenDone`].
    fn call(&mut self, slot: SlotId, call: HsmCall);
    /// The same of the slot with this owner number.
    fn call_of(&mut self, owner: Owner, call: HsmCall);
    /// The uid of a slot.
    fn uid(&self, slot: SlotId) -> [u8; 16];
    /// Names the backup key in this place; `None`: none is there.
    fn key_id(&self, place: SecretId) -> Option<[u8; 16]>;
    /// The same as [`HsmCall::ExportSection`] under the keys that come from the backup key in this place.
    fn export_once(&mut self, slot: SlotId, key_id: [u8; 16], place: SecretId);
    /// [`HsmCall::PrepareImport`] with the keys that come from the backup key in this place.
    fn prepare(&mut self, restoration: Restoration, place: SecretId);
    /// A secret is not needed any more.
    fn wipe(&mut self, place: SecretId);
    /// Key id and uid of the U that stays in the token of the slot with this owner number.
    fn keeps(&self, owner: Owner) -> Option<([u8; 16], [u8; 16])>;
    /// The number of this package is used up from here on.
    fn sent(&mut self, sequence: u64);
    /// This is what is durable from here on.
    fn remember(&mut self, restoration: Option<Restoration>);
    /// A line in the audit log.
    fn journal(&mut self, who: Option<PersonId>, event: AuditEvent);
    /// The answer to an order.
    fn reply(&mut self, caller: Caller, answer: Answer);
    /// The applications of the slot with this owner number get the token PIN anew.
    fn serve(&mut self, owner: Owner);
}

/// The transfer under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    state: State,
}

impl Default for Transfer {
    fn default() -> Self {
        Transfer::new()
    }
}

impl Transfer {
    /// None is under way.
    #[must_use]
    pub const fn new() -> Self {
        Transfer { state: State::Idle }
    }

    /// What a restart finds.
    #[must_use]
    pub const fn loaded(restoration: Restoration) -> Self {
        let step = match restoration.reached {
            Reached::Preparing | Reached::Made => Step::Drop,
            Reached::Committed => Step::Import { lost: 0 },
        };
        Transfer { state: State::Waiting { restoration, step, caller: None } }
    }

    /// In this state: for tables.
    #[must_use]
    pub const fn in_state(state: State) -> Self {
        Transfer { state }
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// The restoration under way.
    #[must_use]
    pub const fn restoration(&self) -> Option<Restoration> {
        match self.state {
            State::Idle
            | State::Stretching { .. }
            | State::Beginning { .. }
            | State::AtSection { .. }
            | State::Finishing { .. } => None,
            State::Preparing { restoration }
            | State::Unlocking { restoration, .. }
            | State::Proving { restoration, .. }
            | State::Prepared { restoration, .. }
            | State::Waiting { restoration, .. }
            | State::AtToken { restoration, .. }
            | State::Halfway { restoration, .. } => Some(restoration),
        }
    }

    /// The slot that the next step waits for to be active.
    #[must_use]
    pub const fn waits_for(&self) -> Option<Owner> {
        match self.state {
            State::Waiting { restoration, .. } => Some(restoration.owner),
            State::Idle
            | State::Stretching { .. }
            | State::Beginning { .. }
            | State::AtSection { .. }
            | State::Finishing { .. }
            | State::Unlocking { .. }
            | State::Proving { .. }
            | State::Preparing { .. }
            | State::Prepared { .. }
            | State::AtToken { .. }
            | State::Halfway { .. } => None,
        }
    }

    /// Whether somebody waits for the slot with it.
    #[must_use]
    pub const fn is_awaited(&self) -> bool {
        match self.state {
            State::Waiting { caller, .. } => caller.is_some(),
            State::Idle
            | State::Stretching { .. }
            | State::Beginning { .. }
            | State::AtSection { .. }
            | State::Finishing { .. }
            | State::Unlocking { .. }
            | State::Proving { .. }
            | State::Preparing { .. }
            | State::Prepared { .. }
            | State::AtToken { .. }
            | State::Halfway { .. } => false,
        }
    }

    /// The place of the Safe that it owns.
    #[must_use]
    pub const fn secret(&self) -> Option<SecretId> {
        match self.state {
            State::Stretching { export, .. } | State::Beginning { export, .. } | State::AtSection { export, .. } => {
                export.passphrase
            }
            State::Unlocking { passphrase, .. } => Some(passphrase),
            State::Idle
            | State::Finishing { .. }
            | State::Proving { .. }
            | State::Preparing { .. }
            | State::Prepared { .. }
            | State::Waiting { .. }
            | State::AtToken { .. }
            | State::Halfway { .. } => None,
        }
    }

    /// One line for each arrow. An answer that nobody waits for changes nothing.
    pub fn handle(&mut self, event: TransferEvent, out: &mut dyn TransferOut) {
        use TransferEvent as On;
        self.state = match (self.state, event) {
            (State::Idle, On::ExportOrdered { caller, export }) => {
                out.journal(Some(caller.who), AuditEvent::Ordered(export.kind()));
                if let Purpose::Package { sequence, .. } = export.purpose {
                    out.sent(sequence);
                }
                match export.passphrase {
                    Some(passphrase) => {
                        out.file(FileOrder::Stretch { passphrase, of: Salt::New });
                        State::Stretching { caller, export }
                    }
                    None => {
                        out.file(FileOrder::Begin(export));
                        State::Beginning { caller, export }
                    }
                }
            }
            (State::Idle, On::RestoreOrdered { caller, restoration, passphrase }) => {
                out.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::Restore));
                out.file(FileOrder::Stretch { passphrase, of: Salt::Spooled });
                State::Unlocking { caller, restoration, passphrase }
            }
            (State::Idle, On::RestoreBegan { restoration }) => {
                out.remember(Some(restoration));
                State::Preparing { restoration }
            }
            (State::Idle, On::ImportOrdered { caller, .. }) => {
                refuse(out, caller, CommandKind::Import, Refusal::NothingPrepared);
                self.state
            }
            (State::Idle, On::EndOrdered { caller }) => {
                refuse(out, caller, CommandKind::EndRestore, Refusal::NothingPrepared);
                self.state
            }
            (State::Idle, On::AbandonOrdered { caller, .. }) => {
                refuse(out, caller, CommandKind::Abandon, Refusal::NothingHalfway);
                self.state
            }

            (State::Stretching { caller, export }, On::FileDone(Ok(()))) => {
                match export.passphrase.and_then(|place| out.key_id(place)) {
                    Some(key_id) => {
                        let export = Export { key_id, ..export };
                        out.file(FileOrder::Begin(export));
                        State::Beginning { caller, export }
                    }
                    None => give_up(out, caller, export, Err(Fault::OutOfMemory)),
                }
            }
            (State::Stretching { caller, export }, On::FileDone(Err(fault))) => {
                give_up(out, caller, export, about_files(fault))
            }

            (State::Beginning { caller, export }, On::FileDone(Ok(()))) => {
                next_section(out, caller, export, Sum::default(), None)
            }
            (State::Beginning { caller, export }, On::FileDone(Err(fault))) => {
                give_up(out, caller, export, about_files(fault))
            }

            (
                State::AtSection { caller, export, slot, sum },
                On::TokenDone(Ok(HsmAnswer::SectionExported { keys, left_out })),
            ) => {
                let sum = Sum {
                    sections: sum.sections.saturating_add(1),
                    keys: sum.keys.saturating_add(keys),
                    left_out: sum.left_out.saturating_add(left_out),
                };
                next_section(out, caller, export, sum, Some(slot))
            }
            (State::AtSection { caller, export, .. }, On::TokenDone(Err(HsmFailure::Refused(refusal)))) => {
                give_up(out, caller, export, Ok(refusal))
            }
            (State::AtSection { caller, export, .. }, On::TokenDone(Err(failure))) => {
                give_up(out, caller, export, Err(failure.fault(Function::WrapKey)))
            }
            (State::AtSection { caller, export, .. }, On::TokenDone(Ok(_))) => {
                give_up(out, caller, export, Err(Fault::ModuleLies(Function::WrapKey)))
            }
            (State::AtSection { caller, export, .. }, On::WorkerLost) => {
                give_up(out, caller, export, Err(Fault::WorkerLost(Function::WrapKey)))
            }
            (State::AtSection { caller, export, .. }, On::DeadlinePassed) => {
                give_up(out, caller, export, Err(Fault::Unanswered(Function::WrapKey)))
            }

            (State::Finishing { caller, export, sum }, On::FileDone(Ok(()))) => {
                let Sum { sections, keys, left_out } = sum;
                out.journal(
                    Some(caller.who),
                    match export.purpose {
                        Purpose::Backup { .. } => AuditEvent::ExportMade { sections, keys, left_out },
                        Purpose::Package { sequence, .. } => {
                            AuditEvent::PackageMade { sequence, sections, keys, left_out }
                        }
                    },
                );
                out.journal(Some(caller.who), AuditEvent::Completed(export.kind()));
                out.reply(caller, Answer::Done);
                State::Idle
            }
            (State::Finishing { caller, export, .. }, On::FileDone(Err(fault))) => {
                give_up(out, caller, export, about_files(fault))
            }

            // The MAC is asked next, in the worker; a passphrase that gives another key never gets there.
            (State::Unlocking { caller, restoration, passphrase }, On::FileDone(Ok(()))) => {
                if out.key_id(passphrase) == Some(restoration.key_id) {
                    out.remember(Some(restoration));
                    out.prepare(restoration, passphrase);
                    State::Proving { restoration, caller: Some(caller) }
                } else {
                    out.wipe(passphrase);
                    refuse(out, caller, CommandKind::Restore, Refusal::PassphraseWrong);
                    State::Idle
                }
            }
            (State::Unlocking { caller, passphrase, .. }, On::FileDone(Err(fault))) => {
                out.wipe(passphrase);
                match about_files(fault) {
                    Ok(refusal) => refuse(out, caller, CommandKind::Restore, refusal),
                    Err(fault) => fail(out, caller, CommandKind::Restore, fault),
                }
                State::Idle
            }
            (State::Proving { restoration, caller }, On::TokenDone(Ok(HsmAnswer::ImportPrepared(plan)))) => {
                let ImportPlan { new, same, conflict, removed: _ } = plan;
                out.journal(None, AuditEvent::ImportPlanned { new, same, conflict });
                if let Some(caller) = caller {
                    out.journal(Some(caller.who), AuditEvent::Completed(CommandKind::Restore));
                    out.reply(caller, Answer::Done);
                }
                State::Prepared { restoration, plan }
            }
            (State::Proving { restoration, caller }, On::TokenDone(result)) => {
                if let Some(caller) = caller {
                    match result {
                        Err(HsmFailure::Refused(refusal)) => refuse(out, caller, CommandKind::Restore, refusal),
                        Err(failure) => {
                            fail(out, caller, CommandKind::Restore, failure.fault(Function::UnwrapKey));
                        }
                        Ok(_) => fail(out, caller, CommandKind::Restore, Fault::ModuleLies(Function::UnwrapKey)),
                    }
                }
                undo(restoration, None)
            }
            (State::Proving { restoration, caller }, On::WorkerLost) => {
                if let Some(caller) = caller {
                    fail(out, caller, CommandKind::Restore, Fault::WorkerLost(Function::UnwrapKey));
                }
                undo(restoration, None)
            }
            // Only the device ends a call; whoever waits is told.
            (State::Proving { restoration, caller: Some(caller) }, On::DeadlinePassed) => {
                fail(out, caller, CommandKind::Restore, Fault::Unanswered(Function::UnwrapKey));
                State::Proving { restoration, caller: None }
            }

            (State::Preparing { restoration }, On::Planned(plan)) => {
                let ImportPlan { new, same, conflict, removed: _ } = plan;
                out.journal(None, AuditEvent::ImportPlanned { new, same, conflict });
                State::Prepared { restoration, plan }
            }
            // Whether a call put U there before it failed nobody knows.
            (State::Preparing { restoration }, On::CeremonyEnded) => undo(restoration, None),

            (State::Prepared { restoration, plan }, On::ImportOrdered { caller, owner, file }) => {
                if (restoration.owner, restoration.file) != (owner, file) {
                    refuse(out, caller, CommandKind::Import, Refusal::NothingPrepared);
                    self.state
                } else if plan.conflict > 0 {
                    refuse(out, caller, CommandKind::Import, Refusal::ImportConflicts);
                    self.state
                } else {
                    let restoration = Restoration { reached: Reached::Committed, ..restoration };
                    out.remember(Some(restoration));
                    out.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::Import));
                    State::Waiting { restoration, step: Step::Import { lost: 0 }, caller: Some(caller) }
                }
            }
            (State::Prepared { restoration, .. }, On::EndOrdered { caller }) => {
                out.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::EndRestore));
                undo(restoration, Some(caller))
            }
            (State::Halfway { restoration, .. }, On::ImportOrdered { caller, owner, file }) => {
                if (restoration.owner, restoration.file) == (owner, file) {
                    out.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::Import));
                    State::Waiting { restoration, step: Step::Import { lost: 0 }, caller: Some(caller) }
                } else {
                    refuse(out, caller, CommandKind::Import, Refusal::NothingPrepared);
                    self.state
                }
            }
            // Nothing of ours is in the token. What a vendor's program did until it failed nobody else can take
            // back, and it may never end well.
            (
                State::Halfway {
                    restoration,
                    why: Answer::Refused(Refusal::VendorProgramFailed | Refusal::VendorProgramMissing),
                },
                On::EndOrdered { caller },
            ) => {
                out.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::EndRestore));
                let restoration = restoration.given_up();
                out.remember(Some(restoration));
                undo(restoration, Some(caller))
            }
            (State::Halfway { .. }, On::EndOrdered { caller }) => {
                refuse(out, caller, CommandKind::EndRestore, Refusal::ImportHalfway);
                self.state
            }
            // What was made stays, and is served. U goes, as after every restore.
            (State::Halfway { restoration, .. }, On::AbandonOrdered { caller, file, open: true })
                if restoration.file == file =>
            {
                out.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::Abandon));
                let restoration = restoration.given_up();
                out.remember(Some(restoration));
                out.serve(restoration.owner);
                undo(restoration, Some(caller))
            }
            // Nobody knows whether the slot is ever opened again. If it is, U is destroyed then, as whatever of a
            // backup key does not belong there.
            (
                State::Prepared { restoration, .. } | State::Halfway { restoration, .. },
                On::AbandonOrdered { caller, file, open: false },
            ) if restoration.file == file => abandon(out, caller),
            (State::Waiting { restoration, caller: waiter, .. }, On::AbandonOrdered { caller, file, open: false })
                if restoration.file == file =>
            {
                let why = match restoration.reached {
                    Reached::Committed => Refusal::ImportHalfway,
                    Reached::Preparing | Reached::Made => Refusal::SlotNotActive,
                };
                release(out, &restoration, waiter, why);
                abandon(out, caller)
            }
            // The token keeps U, and nobody knows for how long: the same.
            (
                State::Waiting { restoration, step: Step::Drop, caller: waiter },
                On::AbandonOrdered { caller, file, open: true },
            ) if restoration.file == file => {
                release(out, &restoration, waiter, Refusal::SlotDoubtful);
                if restoration.reached == Reached::Made {
                    out.serve(restoration.owner);
                }
                abandon(out, caller)
            }
            (State::Prepared { .. } | State::Halfway { .. }, On::AbandonOrdered { caller, .. }) => {
                refuse(out, caller, CommandKind::Abandon, Refusal::NothingHalfway);
                self.state
            }

            (State::Waiting { restoration, step, caller }, On::SlotReady) => {
                let Restoration { owner, key_id, uid, .. } = restoration;
                let keep = out.keeps(owner);
                out.call_of(
                    owner,
                    match step {
                        Step::Import { .. } => HsmCall::Import { key_id, uid },
                        Step::Drop => HsmCall::DropUnwrapKey { keep },
                    },
                );
                State::AtToken { restoration, step, caller }
            }
            // It goes on when the slot is active; nobody waits for that.
            (
                State::Waiting { restoration, step, caller: waiter }
                | State::AtToken { restoration, step, caller: waiter },
                On::SlotClosed(refusal),
            ) => {
                release(out, &restoration, waiter, refusal);
                State::Waiting { restoration, step, caller: None }
            }
            (
                State::AtToken { restoration, step: Step::Import { .. }, caller },
                On::TokenDone(Ok(HsmAnswer::Imported { made })),
            ) => {
                out.journal(caller.map(|caller| caller.who), AuditEvent::ImportDone { made });
                // Once U is gone the import cannot be repeated.
                let restoration = Restoration { reached: Reached::Made, ..restoration };
                out.remember(Some(restoration));
                State::Waiting { restoration, step: Step::Drop, caller }
            }
            // Nothing of it is in the token. Somebody made such a key since the plan, and nothing was made yet:
            // theirs stays. Or there was no room for all, and the worker destroyed what it had made.
            (
                State::AtToken { restoration, step: Step::Import { .. }, caller },
                On::TokenDone(Err(HsmFailure::Refused(refusal @ (Refusal::ImportConflicts | Refusal::TokenFull)))),
            ) => {
                end_badly(out, caller, Answer::Refused(refusal));
                let restoration = Restoration { reached: Reached::Preparing, ..restoration };
                out.remember(Some(restoration));
                undo(restoration, None)
            }
            (State::AtToken { restoration, step: Step::Import { .. }, caller }, On::TokenDone(result)) => {
                let why = match result {
                    Ok(_) => Answer::Failed(Fault::ModuleLies(Function::UnwrapKey)),
                    Err(HsmFailure::Refused(refusal)) => Answer::Refused(refusal),
                    Err(failure) => Answer::Failed(failure.fault(Function::UnwrapKey)),
                };
                halfway(out, restoration, caller, why)
            }
            (
                State::AtToken { restoration, step: Step::Drop, caller },
                On::TokenDone(Ok(HsmAnswer::UnwrapKeyDropped)),
            ) => {
                out.remember(None);
                out.file(FileOrder::Discard);
                if restoration.reached == Reached::Made {
                    out.serve(restoration.owner);
                }
                if let Some(caller) = caller {
                    let kind = ended_kind(&restoration);
                    out.journal(Some(caller.who), AuditEvent::Completed(kind));
                    out.reply(caller, Answer::Done);
                }
                State::Idle
            }
            // U is still there: it is tried again after a while, and when the slot is opened the next time.
            (State::AtToken { restoration, step: step @ Step::Drop, caller }, On::TokenDone(result)) => {
                if let (Some(caller), Err(failure)) = (caller, result) {
                    fail(out, caller, ended_kind(&restoration), failure.fault(Function::DestroyObject));
                }
                State::Waiting { restoration, step, caller: None }
            }
            (State::AtToken { restoration, step: Step::Import { lost }, caller }, On::WorkerLost) => {
                let lost = lost.saturating_add(1);
                if lost >= WORKERS_LOST_MAX {
                    halfway(out, restoration, caller, Answer::Failed(Fault::WorkerLost(Function::UnwrapKey)))
                } else {
                    State::Waiting { restoration, step: Step::Import { lost }, caller }
                }
            }
            (State::AtToken { restoration, step: step @ Step::Drop, caller }, On::WorkerLost) => {
                State::Waiting { restoration, step, caller }
            }
            // Only the device ends a call; whoever waits is told.
            (State::AtToken { restoration, step, caller: Some(caller) }, On::DeadlinePassed) => {
                fail(out, caller, ended_kind(&restoration), Fault::Unanswered(Function::UnwrapKey));
                State::AtToken { restoration, step, caller: None }
            }

            (
                State::Stretching { .. }
                | State::Beginning { .. }
                | State::AtSection { .. }
                | State::Finishing { .. }
                | State::Unlocking { .. }
                | State::Proving { .. }
                | State::Preparing { .. }
                | State::Waiting { .. }
                | State::AtToken { .. },
                On::ImportOrdered { caller, .. },
            ) => {
                refuse(out, caller, CommandKind::Import, Refusal::TransferUnderWay);
                self.state
            }
            (
                State::Stretching { .. }
                | State::Beginning { .. }
                | State::AtSection { .. }
                | State::Finishing { .. }
                | State::Unlocking { .. }
                | State::Proving { .. }
                | State::Preparing { .. }
                | State::Waiting { .. }
                | State::AtToken { .. },
                On::EndOrdered { caller },
            ) => {
                refuse(out, caller, CommandKind::EndRestore, Refusal::TransferUnderWay);
                self.state
            }
            (
                State::Stretching { .. }
                | State::Beginning { .. }
                | State::AtSection { .. }
                | State::Finishing { .. }
                | State::Unlocking { .. }
                | State::Proving { .. }
                | State::Preparing { .. }
                | State::Waiting { .. }
                | State::AtToken { .. },
                On::AbandonOrdered { caller, .. },
            ) => {
                refuse(out, caller, CommandKind::Abandon, Refusal::TransferUnderWay);
                self.state
            }
            (
                State::Stretching { .. }
                | State::Beginning { .. }
                | State::AtSection { .. }
                | State::Finishing { .. }
                | State::Unlocking { .. }
                | State::Proving { .. }
                | State::Preparing { .. }
                | State::Prepared { .. }
                | State::Waiting { .. }
                | State::AtToken { .. }
                | State::Halfway { .. },
                On::ExportOrdered { caller, export },
            ) => {
                if let Some(place) = export.passphrase {
                    out.wipe(place);
                }
                refuse(out, caller, export.kind(), Refusal::TransferUnderWay);
                self.state
            }
            (
                State::Stretching { .. }
                | State::Beginning { .. }
                | State::AtSection { .. }
                | State::Finishing { .. }
                | State::Unlocking { .. }
                | State::Proving { .. }
                | State::Preparing { .. }
                | State::Prepared { .. }
                | State::Waiting { .. }
                | State::AtToken { .. }
                | State::Halfway { .. },
                On::RestoreOrdered { caller, passphrase, .. },
            ) => {
                out.wipe(passphrase);
                refuse(out, caller, CommandKind::Restore, Refusal::TransferUnderWay);
                self.state
            }
            // Late or spurious: by contract harmless. A ceremony is begun only where nothing is under way.
            (
                state,
                On::RestoreBegan { .. }
                | On::Planned(_)
                | On::CeremonyEnded
                | On::FileDone(_)
                | On::TokenDone(_)
                | On::SlotReady
                | On::SlotClosed(_)
                | On::WorkerLost
                | On::DeadlinePassed,
            ) => state,
        };
    }
}

/// The next slot's keys; when all are in the file, its end.
fn next_section(out: &mut dyn TransferOut, caller: Caller, export: Export, sum: Sum, last: Option<SlotId>) -> State {
    let next = export.slots.slots().find(|slot| last.is_none_or(|last| *slot > last));
    match next {
        Some(slot) => {
            match export.passphrase {
                Some(place) => out.export_once(slot, export.key_id, place),
                None => {
                    let uid = out.uid(slot);
                    out.call(slot, HsmCall::ExportSection { key_id: export.key_id, uid, once: None });
                }
            }
            State::AtSection { caller, export, slot, sum }
        }
        None => {
            if let Some(place) = export.passphrase {
                out.wipe(place);
            }
            out.file(FileOrder::Finish);
            // What is wiped is not its own any more.
            State::Finishing { caller, export: Export { passphrase: None, ..export }, sum }
        }
    }
}

/// The export comes to nothing; its file goes (P20).
fn give_up(out: &mut dyn TransferOut, caller: Caller, export: Export, why: Result<Refusal, Fault>) -> State {
    if let Some(place) = export.passphrase {
        out.wipe(place);
    }
    out.file(FileOrder::Discard);
    match why {
        Ok(refusal) => refuse(out, caller, export.kind(), refusal),
        Err(fault) => fail(out, caller, export.kind(), fault),
    }
    State::Idle
}

/// Why a file of a transfer came to nothing. Its disk is not the store's: nothing has to be restarted.
fn about_files(fault: Fault) -> Result<Refusal, Fault> {
    if fault == Fault::StoreFailed { Ok(Refusal::TransferFiles) } else { Err(fault) }
}

/// What whoever waits for its end ordered.
const fn ended_kind(restoration: &Restoration) -> CommandKind {
    match restoration.reached {
        Reached::Preparing => CommandKind::EndRestore,
        Reached::Committed | Reached::Made => CommandKind::Import,
    }
}

/// Nothing of the restoration stays in the token.
const fn undo(restoration: Restoration, caller: Option<Caller>) -> State {
    State::Waiting { restoration, step: Step::Drop, caller }
}

/// Whoever waits with it for its slot waits no longer. An import is done once everything is there: U goes later.
fn release(out: &mut dyn TransferOut, restoration: &Restoration, waiter: Option<Caller>, why: Refusal) {
    let Some(waiter) = waiter else { return };
    let kind = ended_kind(restoration);
    match restoration.reached {
        Reached::Made => {
            out.journal(Some(waiter.who), AuditEvent::Completed(kind));
            out.reply(waiter, Answer::Done);
        }
        Reached::Preparing | Reached::Committed => refuse(out, waiter, kind, why),
    }
}

/// Two persons gave up what waits for a slot.
fn abandon(out: &mut dyn TransferOut, caller: Caller) -> State {
    out.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::Abandon));
    out.remember(None);
    out.file(FileOrder::Discard);
    out.journal(Some(caller.who), AuditEvent::Completed(CommandKind::Abandon));
    out.reply(caller, Answer::Done);
    State::Idle
}

/// The import did not end. What it made stays, so that it can go on.
fn halfway(out: &mut dyn TransferOut, restoration: Restoration, caller: Option<Caller>, why: Answer) -> State {
    end_badly(out, caller, why);
    State::Halfway { restoration, why }
}

/// An import was refused or failed, whoever waits for it.
fn end_badly(out: &mut dyn TransferOut, caller: Option<Caller>, why: Answer) {
    let who = caller.map(|caller| caller.who);
    match why {
        Answer::Refused(refusal) => out.journal(who, AuditEvent::Refused(CommandKind::Import, refusal)),
        Answer::Failed(fault) => out.journal(who, AuditEvent::Failed(CommandKind::Import, fault)),
        Answer::Done | Answer::NeedsApproval { .. } | Answer::Waits(_) | Answer::Share { .. } => {}
    }
    if let Some(caller) = caller {
        out.reply(caller, why);
    }
}

fn refuse(out: &mut dyn TransferOut, caller: Caller, kind: CommandKind, refusal: Refusal) {
    out.journal(Some(caller.who), AuditEvent::Refused(kind, refusal));
    out.reply(caller, Answer::Refused(refusal));
}

fn fail(out: &mut dyn TransferOut, caller: Caller, kind: CommandKind, fault: Fault) {
    out.journal(Some(caller.who), AuditEvent::Failed(kind, fault));
    out.reply(caller, Answer::Failed(fault));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restoration_comes_back_and_nothing_else_is_one() {
        let full = Restoration {
            owner: Owner(u16::MAX),
            uid: [0xFF; 16],
            key_id: [0xFF; 16],
            file: [0xFF; 32],
            reached: Reached::Made,
        };
        for record in [None, Some(full)] {
            let mut bytes = [0; RESTORATION_BYTES_MAX];
            let encoded = Restoration::encode(record.as_ref(), &mut bytes).expect("the bound holds");
            assert_eq!(Restoration::decode(encoded), Ok(record));
            assert_eq!(encoded.len(), if record.is_some() { 70 } else { 2 }, "the documented size");
            assert_eq!(Restoration::decode(&encoded[..encoded.len() - 1]), Err(Refusal::StoreUnreadable));
        }
        assert_eq!(Restoration::decode(&[RESTORATION_VERSION + 1, 0]), Err(Refusal::StoreNewer));
    }
}
