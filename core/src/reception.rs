//! Receiving one package: keys of another member of the cluster into several slots, all or nothing.
//!
//! The platform has spooled the package, checked its signature and opened it; the service has admitted it.
//! This machine says what comes next. Each slot's keys are first compared with what its token has,
//! which changes nothing there; one key of the same id and another value, in any slot, refuses the
//! whole (P25). What is going to be made is durable before the first object is (P24). What the source
//! knows of its keys is taken in after that, and the mark of the source rises with the end (P23).
//!
//! ```text
//! Idle ─ receive ─▶ Planning (one slot after the other) ─▶ Planned ─ apply ─▶ Waiting ⇄ AtToken (one after the other)
//!                      │ refused, failed, conflict           │ end             │  │                     │
//!                      └──────────────▶ Idle ◀───────────────┘                 │  └─▶ Halfway ◀─────────┤
//!                                        ▲                                     │  apply ┘  ▲            ▼
//!                                        └──────── merged ──────── Merging ◀───┴───────────┴──── all made
//! ```
//!
//! Where nobody has to say yes, `Planned` is passed by. A package without keys for us goes to `Merging` at once.
//!
//! After a restart a package that was only planned is gone, as if it had not come. One whose making was
//! ordered goes on from its first slot, each as soon as it is active: what is there already is not made twice.
//! What cannot end two persons give up (`abandon`, from `Halfway` and from `Waiting` for a closed slot): what was made
//! stays, and the mark does not rise, so the package may come again.

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::audit::AuditEvent;
use crate::ceremony::order::SlotSet;
use crate::command::{Answer, Caller, CommandKind};
use crate::effect::{HsmAnswer, HsmCall, ImportPlan, SlotId};
use crate::fault::{Fault, Function, HsmFailure, Refusal};
use crate::limits::SLOTS_APPLIANCE;
use crate::person::PersonId;
use crate::record::{self, Owner};
use crate::transfer::FileStep;

/// Version of the encoding of [`Reception`]. A store with a higher one is refused.
pub const RECEPTION_VERSION: u8 = 1;
/// Bytes that always hold an encoded [`Reception`] (285, by test).
pub const RECEPTION_BYTES_MAX: usize = 320;
/// Calls for one slot that may end with the worker's death before a person has to look.
const WORKERS_LOST_MAX: u8 = 2;

/// A package that was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Parcel {
    /// Node key of its source.
    pub source: [u8; 32],
    /// Which package of the source.
    pub sequence: u64,
    /// Names it: [`crate::package::hash`].
    pub hash: [u8; 32],
    /// Names the backup key its keys are wrapped under.
    pub key_id: [u8; 16],
    /// Slots that it has keys for.
    pub slots: SlotSet,
}

/// What is durable of a package whose making was ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reception {
    /// Node key of its source.
    pub source: [u8; 32],
    /// Which package of the source.
    pub sequence: u64,
    /// Names it.
    pub hash: [u8; 32],
    /// Names the backup key.
    pub key_id: [u8; 16],
    /// Owner numbers of the slots: places in a configuration change.
    pub owners: Vec<Owner, SLOTS_APPLIANCE>,
}

impl Reception {
    /// Writes version and record into `out`; returns the part written. No reception: there is none.
    ///
    /// # Errors
    /// [`Refusal::StoreUnreadable`] when `out` is smaller than [`RECEPTION_BYTES_MAX`].
    pub fn encode<'out>(record: Option<&Self>, out: &'out mut [u8]) -> Result<&'out [u8], Refusal> {
        record::encode(RECEPTION_VERSION, &record, out)
    }

    /// Reads what [`Reception::encode`] wrote.
    ///
    /// # Errors
    /// [`Refusal::StoreNewer`] for a higher version, [`Refusal::StoreUnreadable`] for
    /// anything that is not exactly one record.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, Refusal> {
        record::decode(RECEPTION_VERSION, bytes)
    }
}

/// Who waits for the end, and what they ordered.
pub type Waiter = (Caller, CommandKind);

/// Where the reception is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum State {
    /// None is under way.
    Idle,
    /// A slot's token compares what came with what it has. Left by its answer, which comes to the next
    /// slot, to the plan or to nothing.
    Planning {
        /// Who ordered it.
        caller: Caller,
        /// What is received.
        parcel: Parcel,
        /// Whether a person has to say yes to the plan.
        asks: bool,
        /// Whose keys are compared.
        slot: SlotId,
        /// What was found so far.
        plan: ImportPlan,
    },
    /// The plan of all slots is known and has no conflict; a person orders it or gives it up.
    Planned {
        /// What is received.
        parcel: Parcel,
        /// What would be made.
        plan: ImportPlan,
    },
    /// It is durable that everything new is made; the next step waits until the slot is active.
    Waiting {
        /// What is received.
        parcel: Parcel,
        /// How far it is.
        progress: Progress,
        /// Who waits for the end, if anybody does.
        waiter: Option<Waiter>,
    },
    /// The token of that slot makes its keys.
    AtToken {
        /// What is received.
        parcel: Parcel,
        /// How far it is.
        progress: Progress,
        /// Who waits for the end, if anybody does.
        waiter: Option<Waiter>,
    },
    /// Every key is there; the platform takes in what the source knows.
    Merging {
        /// What is received.
        parcel: Parcel,
        /// Objects that were made.
        made: u32,
        /// Who waits for the end, if anybody does.
        waiter: Option<Waiter>,
    },
    /// The making began and did not end; a person mends the cause and orders it again.
    Halfway {
        /// What is received.
        parcel: Parcel,
        /// What was answered.
        why: Answer,
    },
}

/// How far the making is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Progress {
    /// Whose keys are made.
    pub slot: SlotId,
    /// Objects that were made in this run.
    pub made: u32,
    /// Whether any token may have something of it already.
    pub touched: bool,
    /// Workers that died of this slot's call.
    pub lost: u8,
}

/// What happens to a reception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceptionEvent {
    /// A package is to be planned; it was admitted.
    ReceiveOrdered {
        /// By whom.
        caller: Caller,
        /// Which.
        parcel: Parcel,
        /// Whether a person has to say yes to the plan.
        asks: bool,
    },
    /// A person says yes to the plan, or has it go on.
    ApplyOrdered {
        /// Who.
        caller: Caller,
        /// Names the package.
        hash: [u8; 32],
    },
    /// The plan is given up.
    EndOrdered {
        /// By whom.
        caller: Caller,
    },
    /// What cannot end is given up with what it made.
    AbandonOrdered {
        /// By whom.
        caller: Caller,
        /// Names the package.
        hash: [u8; 32],
        /// Whether the slot that is waited for is open.
        open: bool,
    },
    /// A call of a token ended.
    TokenDone(Result<HsmAnswer, HsmFailure>),
    /// What the platform did with what came ended.
    FileDone(Result<(), Fault>),
    /// The slot that the next step waits for is active.
    SlotReady,
    /// The slot that the next step waits for is closed; or the call of the token failed, and its slot is not active any
    /// more.
    SlotClosed,
    /// The worker is gone, and every call with it.
    WorkerLost,
    /// The token has not answered for very long.
    DeadlinePassed,
}

/// What a reception wants done, in this order.
pub trait ReceptionOut {
    /// Something at the platform's files; answered by [`ReceptionEvent::FileDone`] but for `Discard`.
    fn file(&mut self, step: FileStep);
    /// A call of a slot's token; answered by [`ReceptionEvent::TokenDone`].
    fn call(&mut self, slot: SlotId, call: HsmCall);
    /// The uid of a slot.
    fn uid(&self, slot: SlotId) -> [u8; 16];
    /// This is what is durable from here on.
    fn remember(&mut self, parcel: Option<Parcel>);
    /// The mark of its source is at this package from here on.
    fn mark(&mut self, parcel: Parcel);
    /// A line in the audit log.
    fn journal(&mut self, who: Option<PersonId>, event: AuditEvent);
    /// The answer to an order.
    fn reply(&mut self, caller: Caller, answer: Answer);
    /// The applications of these slots get the token PIN anew.
    fn serve(&mut self, slots: SlotSet);
}

/// The package under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receiving {
    state: State,
}

impl Default for Receiving {
    fn default() -> Self {
        Receiving::new()
    }
}

impl Receiving {
    /// None is under way.
    #[must_use]
    pub const fn new() -> Self {
        Receiving { state: State::Idle }
    }

    /// What a restart finds. Keys that are there already are not made twice, so it begins anew.
    #[must_use]
    pub fn loaded(parcel: Parcel) -> Self {
        let first = parcel.slots.slots().next();
        // One whose slots are all gone from the configuration has nothing left to make.
        let state = first.map_or(State::Halfway { parcel, why: Answer::Refused(Refusal::UnknownSlot) }, |slot| {
            State::Waiting { parcel, progress: Progress { slot, made: 0, touched: true, lost: 0 }, waiter: None }
        });
        Receiving { state }
    }

    /// In this state: for tables.
    #[must_use]
    pub const fn in_state(state: State) -> Self {
        Receiving { state }
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// The package under way.
    #[must_use]
    pub const fn parcel(&self) -> Option<Parcel> {
        match self.state {
            State::Idle => None,
            State::Planning { parcel, .. }
            | State::Planned { parcel, .. }
            | State::Waiting { parcel, .. }
            | State::AtToken { parcel, .. }
            | State::Merging { parcel, .. }
            | State::Halfway { parcel, .. } => Some(parcel),
        }
    }

    /// Slots in which keys are being made: no application gets their PIN (P24).
    #[must_use]
    pub const fn making(&self) -> SlotSet {
        match self.state {
            State::Idle | State::Planning { .. } | State::Planned { .. } => SlotSet::NONE,
            State::Waiting { parcel, .. }
            | State::AtToken { parcel, .. }
            | State::Merging { parcel, .. }
            | State::Halfway { parcel, .. } => parcel.slots,
        }
    }

    /// The slot that the next step waits for to be active.
    #[must_use]
    pub const fn waits_for(&self) -> Option<SlotId> {
        match self.state {
            State::Waiting { progress, .. } => Some(progress.slot),
            State::Idle
            | State::Planning { .. }
            | State::Planned { .. }
            | State::AtToken { .. }
            | State::Merging { .. }
            | State::Halfway { .. } => None,
        }
    }

    /// One line for each arrow. An answer that nobody waits for changes nothing.
    pub fn handle(&mut self, event: ReceptionEvent, out: &mut dyn ReceptionOut) {
        use ReceptionEvent as On;
        self.state = match (self.state, event) {
            (State::Idle, On::ReceiveOrdered { caller, parcel, asks }) => {
                out.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::ReceivePackage));
                compare_next(out, caller, parcel, asks, ImportPlan::default(), None)
            }
            (State::Idle, On::ApplyOrdered { caller, .. }) => {
                refuse(out, caller, CommandKind::ApplyPackage, Refusal::NothingReceived);
                self.state
            }
            (State::Idle, On::EndOrdered { caller }) => {
                refuse(out, caller, CommandKind::EndReceive, Refusal::NothingReceived);
                self.state
            }
            (State::Idle, On::AbandonOrdered { caller, .. }) => {
                refuse(out, caller, CommandKind::Abandon, Refusal::NothingHalfway);
                self.state
            }

            (
                State::Planning { caller, parcel, asks, slot, plan },
                On::TokenDone(Ok(HsmAnswer::ImportPrepared(found))),
            ) => compare_next(out, caller, parcel, asks, sum(plan, found), Some(slot)),
            (State::Planning { caller, .. }, On::TokenDone(Err(HsmFailure::Refused(refusal)))) => {
                out.file(FileStep::Discard);
                refuse(out, caller, CommandKind::ReceivePackage, refusal);
                State::Idle
            }
            (State::Planning { caller, .. }, On::TokenDone(Err(failure))) => {
                give_up(out, caller, failure.fault(Function::UnwrapKey))
            }
            (State::Planning { caller, .. }, On::TokenDone(Ok(_))) => {
                give_up(out, caller, Fault::ModuleLies(Function::UnwrapKey))
            }
            (State::Planning { caller, .. }, On::SlotClosed) => {
                out.file(FileStep::Discard);
                refuse(out, caller, CommandKind::ReceivePackage, Refusal::SlotNotActive);
                State::Idle
            }
            (State::Planning { caller, .. }, On::WorkerLost) => {
                give_up(out, caller, Fault::WorkerLost(Function::UnwrapKey))
            }
            (State::Planning { caller, .. }, On::DeadlinePassed) => {
                give_up(out, caller, Fault::Unanswered(Function::UnwrapKey))
            }

            (State::Planned { parcel, .. }, On::ApplyOrdered { caller, hash }) if parcel.hash == hash => {
                out.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::ApplyPackage));
                commit(out, parcel, (caller, CommandKind::ApplyPackage))
            }
            (State::Planned { .. }, On::EndOrdered { caller }) => {
                out.file(FileStep::Discard);
                out.journal(Some(caller.who), AuditEvent::Completed(CommandKind::EndReceive));
                out.reply(caller, Answer::Done);
                State::Idle
            }
            (State::Halfway { parcel, .. }, On::ApplyOrdered { caller, hash }) if parcel.hash == hash => {
                out.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::ApplyPackage));
                make_next(out, parcel, None, (0, true), Some((caller, CommandKind::ApplyPackage)))
            }
            (State::Planned { .. } | State::Halfway { .. }, On::ApplyOrdered { caller, .. }) => {
                refuse(out, caller, CommandKind::ApplyPackage, Refusal::NothingReceived);
                self.state
            }
            (State::Halfway { .. }, On::EndOrdered { caller }) => {
                refuse(out, caller, CommandKind::EndReceive, Refusal::PackageHalfway);
                self.state
            }
            // What was made stays, and is the cluster's. The mark does not rise: the package may come again.
            (State::Halfway { parcel, .. }, On::AbandonOrdered { caller, hash, .. }) if parcel.hash == hash => {
                abandon(out, parcel, None, caller)
            }
            (State::Waiting { parcel, waiter, .. }, On::AbandonOrdered { caller, hash, open: false })
                if parcel.hash == hash =>
            {
                abandon(out, parcel, waiter, caller)
            }
            (State::Planned { .. } | State::Halfway { .. }, On::AbandonOrdered { caller, .. }) => {
                refuse(out, caller, CommandKind::Abandon, Refusal::NothingHalfway);
                self.state
            }

            (State::Waiting { parcel, progress, waiter }, On::SlotReady) => {
                let uid = out.uid(progress.slot);
                out.call(progress.slot, HsmCall::ImportPackage { key_id: parcel.key_id, uid });
                State::AtToken { parcel, progress, waiter }
            }
            (State::AtToken { parcel, progress, waiter }, On::TokenDone(Ok(HsmAnswer::Imported { made }))) => {
                let made = progress.made.saturating_add(made);
                make_next(out, parcel, Some(progress.slot), (made, true), waiter)
            }
            // No token has anything of it: these are said before anything is made, or once it was taken back. What
            // somebody did since the plan stays, and so does the rest.
            (
                State::AtToken { progress: Progress { touched: false, .. }, waiter, .. },
                On::TokenDone(Err(HsmFailure::Refused(
                    refusal @ (Refusal::ImportConflicts
                    | Refusal::ImportPlanOutdated
                    | Refusal::NoBackupKey
                    | Refusal::SlotWithoutUnwrapKey
                    | Refusal::TokenFull),
                ))),
            ) => {
                out.remember(None);
                out.file(FileStep::Discard);
                end_badly(out, waiter, Answer::Refused(refusal));
                State::Idle
            }
            (State::AtToken { parcel, waiter, .. }, On::TokenDone(result)) => {
                let why = match result {
                    Ok(_) => Answer::Failed(Fault::ModuleLies(Function::UnwrapKey)),
                    Err(HsmFailure::Refused(refusal)) => Answer::Refused(refusal),
                    Err(failure) => Answer::Failed(failure.fault(Function::UnwrapKey)),
                };
                halfway(out, parcel, waiter, why)
            }
            // It goes on when the slot is opened again; nobody waits for that.
            (State::AtToken { parcel, progress, waiter }, On::SlotClosed) => {
                release(out, waiter);
                State::Waiting { parcel, progress: Progress { touched: true, ..progress }, waiter: None }
            }
            (State::Waiting { parcel, progress, waiter: Some(waiter) }, On::SlotClosed) => {
                release(out, Some(waiter));
                State::Waiting { parcel, progress, waiter: None }
            }
            (State::AtToken { parcel, progress, waiter }, On::WorkerLost) => {
                let lost = progress.lost.saturating_add(1);
                if lost >= WORKERS_LOST_MAX {
                    halfway(out, parcel, waiter, Answer::Failed(Fault::WorkerLost(Function::UnwrapKey)))
                } else {
                    State::Waiting { parcel, progress: Progress { touched: true, lost, ..progress }, waiter }
                }
            }
            // Only the device ends a call; whoever waits is told.
            (State::AtToken { parcel, progress, waiter: Some((caller, kind)) }, On::DeadlinePassed) => {
                fail(out, caller, kind, Fault::Unanswered(Function::UnwrapKey));
                State::AtToken { parcel, progress, waiter: None }
            }

            (State::Merging { parcel, made, waiter }, On::FileDone(Ok(()))) => {
                // Mark and end are one transaction: after it the same package is nothing new.
                out.mark(parcel);
                out.remember(None);
                let who = waiter.map(|(caller, _)| caller.who);
                out.journal(who, AuditEvent::PackageTaken { sequence: parcel.sequence, made });
                out.file(FileStep::Discard);
                out.serve(parcel.slots);
                if let Some((caller, kind)) = waiter {
                    out.journal(Some(caller.who), AuditEvent::Completed(kind));
                    out.reply(caller, Answer::Done);
                }
                State::Idle
            }
            // Without keys there is nothing that has to end: the same package can come again.
            (State::Merging { parcel, waiter, .. }, On::FileDone(Err(fault))) if parcel.slots == SlotSet::NONE => {
                out.file(FileStep::Discard);
                end_badly(out, waiter, Answer::Failed(fault));
                State::Idle
            }
            (State::Merging { parcel, waiter, .. }, On::FileDone(Err(fault))) => {
                halfway(out, parcel, waiter, Answer::Failed(fault))
            }

            (
                State::Planning { .. }
                | State::Planned { .. }
                | State::Waiting { .. }
                | State::AtToken { .. }
                | State::Merging { .. }
                | State::Halfway { .. },
                On::ReceiveOrdered { caller, .. },
            ) => {
                refuse(out, caller, CommandKind::ReceivePackage, Refusal::TransferUnderWay);
                self.state
            }
            (
                State::Planning { .. } | State::Waiting { .. } | State::AtToken { .. } | State::Merging { .. },
                On::ApplyOrdered { caller, .. },
            ) => {
                refuse(out, caller, CommandKind::ApplyPackage, Refusal::TransferUnderWay);
                self.state
            }
            (
                State::Planning { .. } | State::Waiting { .. } | State::AtToken { .. } | State::Merging { .. },
                On::EndOrdered { caller },
            ) => {
                refuse(out, caller, CommandKind::EndReceive, Refusal::TransferUnderWay);
                self.state
            }
            (
                State::Planning { .. } | State::Waiting { .. } | State::AtToken { .. } | State::Merging { .. },
                On::AbandonOrdered { caller, .. },
            ) => {
                refuse(out, caller, CommandKind::Abandon, Refusal::TransferUnderWay);
                self.state
            }
            // Late or spurious: by contract harmless.
            (
                state,
                On::TokenDone(_)
                | On::FileDone(_)
                | On::SlotReady
                | On::SlotClosed
                | On::WorkerLost
                | On::DeadlinePassed,
            ) => state,
        };
    }
}

/// The next slot's keys are compared; after the last one the plan is whole.
fn compare_next(
    out: &mut dyn ReceptionOut,
    caller: Caller,
    parcel: Parcel,
    asks: bool,
    plan: ImportPlan,
    last: Option<SlotId>,
) -> State {
    if let Some(slot) = next_slot(parcel, last) {
        let uid = out.uid(slot);
        out.call(slot, HsmCall::PlanPackage { key_id: parcel.key_id, uid });
        return State::Planning { caller, parcel, asks, slot, plan };
    }
    out.journal(None, AuditEvent::PackagePlanned(plan));
    if plan.conflict > 0 {
        out.file(FileStep::Discard);
        refuse(out, caller, CommandKind::ReceivePackage, Refusal::ImportConflicts);
        return State::Idle;
    }
    if asks && parcel.slots != SlotSet::NONE {
        out.journal(Some(caller.who), AuditEvent::Completed(CommandKind::ReceivePackage));
        out.reply(caller, Answer::Done);
        return State::Planned { parcel, plan };
    }
    commit(out, parcel, (caller, CommandKind::ReceivePackage))
}

/// From here on everything new is made, whatever happens.
fn commit(out: &mut dyn ReceptionOut, parcel: Parcel, waiter: Waiter) -> State {
    if parcel.slots != SlotSet::NONE {
        out.remember(Some(parcel));
    }
    make_next(out, parcel, None, (0, false), Some(waiter))
}

/// The next slot's keys are made; after the last one what the source knows is taken in.
fn make_next(
    out: &mut dyn ReceptionOut,
    parcel: Parcel,
    last: Option<SlotId>,
    (made, touched): (u32, bool),
    waiter: Option<Waiter>,
) -> State {
    match next_slot(parcel, last) {
        Some(slot) => State::Waiting { parcel, progress: Progress { slot, made, touched, lost: 0 }, waiter },
        None => {
            out.file(FileStep::Received);
            State::Merging { parcel, made, waiter }
        }
    }
}

fn next_slot(parcel: Parcel, last: Option<SlotId>) -> Option<SlotId> {
    parcel.slots.slots().find(|slot| last.is_none_or(|last| *slot > last))
}

const fn sum(plan: ImportPlan, found: ImportPlan) -> ImportPlan {
    ImportPlan {
        new: plan.new.saturating_add(found.new),
        same: plan.same.saturating_add(found.same),
        conflict: plan.conflict.saturating_add(found.conflict),
        removed: plan.removed.saturating_add(found.removed),
    }
}

/// Whoever waits for a slot that was closed waits no longer.
fn release(out: &mut dyn ReceptionOut, waiter: Option<Waiter>) {
    if let Some((caller, kind)) = waiter {
        refuse(out, caller, kind, Refusal::SlotNotActive);
    }
}

/// Nothing was touched, and nothing of it stays.
fn give_up(out: &mut dyn ReceptionOut, caller: Caller, fault: Fault) -> State {
    out.file(FileStep::Discard);
    fail(out, caller, CommandKind::ReceivePackage, fault);
    State::Idle
}

/// Two persons gave the making up. Whoever waited for its end is told that it did not come.
fn abandon(out: &mut dyn ReceptionOut, parcel: Parcel, waiter: Option<Waiter>, caller: Caller) -> State {
    if let Some((waiting, kind)) = waiter {
        refuse(out, waiting, kind, Refusal::PackageHalfway);
    }
    out.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::Abandon));
    out.remember(None);
    out.file(FileStep::Discard);
    out.serve(parcel.slots);
    out.journal(Some(caller.who), AuditEvent::Completed(CommandKind::Abandon));
    out.reply(caller, Answer::Done);
    State::Idle
}

/// The making did not end. What was made stays, so that it can go on.
fn halfway(out: &mut dyn ReceptionOut, parcel: Parcel, waiter: Option<Waiter>, why: Answer) -> State {
    end_badly(out, waiter, why);
    State::Halfway { parcel, why }
}

/// The making was refused or failed, whoever waits for it.
fn end_badly(out: &mut dyn ReceptionOut, waiter: Option<Waiter>, why: Answer) {
    let who = waiter.map(|(caller, _)| caller.who);
    let kind = waiter.map_or(CommandKind::ApplyPackage, |(_, kind)| kind);
    match why {
        Answer::Refused(refusal) => out.journal(who, AuditEvent::Refused(kind, refusal)),
        Answer::Failed(fault) => out.journal(who, AuditEvent::Failed(kind, fault)),
        Answer::Done | Answer::NeedsApproval { .. } | Answer::Waits(_) | Answer::Share { .. } => {}
    }
    if let Some((caller, _)) = waiter {
        out.reply(caller, why);
    }
}

fn refuse(out: &mut dyn ReceptionOut, caller: Caller, kind: CommandKind, refusal: Refusal) {
    out.journal(Some(caller.who), AuditEvent::Refused(kind, refusal));
    out.reply(caller, Answer::Refused(refusal));
}

fn fail(out: &mut dyn ReceptionOut, caller: Caller, kind: CommandKind, fault: Fault) {
    out.journal(Some(caller.who), AuditEvent::Failed(kind, fault));
    out.reply(caller, Answer::Failed(fault));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reception_comes_back_and_nothing_else_is_one() {
        let full = Reception {
            source: [0xFF; 32],
            sequence: u64::MAX,
            hash: [0xFF; 32],
            key_id: [0xFF; 16],
            owners: (0..64).map(|number| Owner(u16::MAX - number)).collect(),
        };
        for record in [None, Some(full)] {
            let mut bytes = [0; RECEPTION_BYTES_MAX];
            let encoded = Reception::encode(record.as_ref(), &mut bytes).expect("the bound holds");
            assert_eq!(encoded.len(), if record.is_some() { 285 } else { 2 }, "the documented size");
            assert_eq!(Reception::decode(encoded), Ok(record));
            assert_eq!(Reception::decode(&encoded[..encoded.len() - 1]), Err(Refusal::StoreUnreadable));
        }
        assert_eq!(Reception::decode(&[RECEPTION_VERSION + 1, 0]), Err(Refusal::StoreNewer));
    }
}
