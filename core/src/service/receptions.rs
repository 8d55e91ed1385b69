//! Packages in the service: what is checked before one is planned or made, and what it gets done.

use super::Service;
use crate::audit::AuditEvent;
use crate::ceremony::order::SlotSet;
use crate::command::{Answer, Caller, CommandKind};
use crate::effect::{HsmCall, Outcome, SlotId, Ticket};
use crate::fault::{Fault, Function, HsmFailure, Refusal, rv};
use crate::limits::TRANSFER_DEADLINE_MS;
use crate::outbox::Act;
use crate::person::PersonId;
use crate::reception::{Parcel, Receiving, Reception, ReceptionEvent, ReceptionOut, State};
use crate::record::{Owner, Record};
use crate::slot::{SlotEvent, State as SlotState};
use crate::status::TransferStage;
use crate::transfer::{self, FileOrder, FileStep};
use crate::turn::Out;

/// What a reception wants done after one event: seven at most.
const WISHES_MAX: usize = 8;
/// More than a reception wants at once.
const BUG_WISHES: u16 = 71;

/// The package under way.
pub(super) struct Receptions {
    machine: Receiving,
    remembered: Option<Parcel>,
    dirty: bool,
}

impl Receptions {
    pub(super) const fn new() -> Self {
        Receptions { machine: Receiving::new(), remembered: None, dirty: false }
    }

    /// The state.
    pub(super) const fn state(&self) -> State {
        self.machine.state()
    }

    /// Slots in which keys are being made.
    pub(super) const fn making(&self) -> SlotSet {
        self.machine.making()
    }

    pub(super) const fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// The next record of the transaction that forms.
    pub(super) fn take_record(&mut self, owner_of: impl Fn(SlotId) -> Option<Owner>) -> Option<Record> {
        if !core::mem::take(&mut self.dirty) {
            return None;
        }
        Some(Record::Reception(self.remembered.map(|parcel| {
            let Parcel { source, sequence, hash, key_id, slots } = parcel;
            Reception { source, sequence, hash, key_id, owners: slots.slots().filter_map(owner_of).collect() }
        })))
    }
}

/// One thing that the machine wants.
#[derive(Clone, Copy)]
enum Wish {
    File(FileStep),
    Call(SlotId, HsmCall),
    Remember(Option<Parcel>),
    Mark(Parcel),
    Journal(Option<PersonId>, AuditEvent),
    Reply(Caller, Answer),
    Serve(SlotSet),
}

/// Collects what the machine wants, and knows the slots' uids.
struct Wishes<'w> {
    list: heapless::Vec<Wish, WISHES_MAX>,
    lost: bool,
    uids: &'w dyn Fn(SlotId) -> [u8; 16],
}

impl Wishes<'_> {
    fn push(&mut self, wish: Wish) {
        self.lost |= self.list.push(wish).is_err();
    }
}

impl ReceptionOut for Wishes<'_> {
    fn file(&mut self, step: FileStep) {
        self.push(Wish::File(step));
    }
    fn call(&mut self, slot: SlotId, call: HsmCall) {
        self.push(Wish::Call(slot, call));
    }
    fn uid(&self, slot: SlotId) -> [u8; 16] {
        (self.uids)(slot)
    }
    fn remember(&mut self, parcel: Option<Parcel>) {
        self.push(Wish::Remember(parcel));
    }
    fn mark(&mut self, parcel: Parcel) {
        self.push(Wish::Mark(parcel));
    }
    fn journal(&mut self, who: Option<PersonId>, event: AuditEvent) {
        self.push(Wish::Journal(who, event));
    }
    fn reply(&mut self, caller: Caller, answer: Answer) {
        self.push(Wish::Reply(caller, answer));
    }
    fn serve(&mut self, slots: SlotSet) {
        self.push(Wish::Serve(slots));
    }
}

impl<const SLOTS: usize, const PLACES: usize, const OUTBOX: usize> Service<SLOTS, PLACES, OUTBOX> {
    /// The package under way: for platforms and checkers.
    #[must_use]
    pub fn reception_state(&self) -> State {
        self.reception.state()
    }

    /// Takes a package up where the last run left it. Slots that are no longer configured are left out.
    pub(super) fn take_up_reception(&mut self, reception: &Reception) {
        let owners = reception.owners.iter();
        let slots = owners.filter_map(|owner| self.slot_of(*owner)).fold(SlotSet::NONE, SlotSet::with);
        let Reception { source, sequence, hash, key_id, .. } = *reception;
        let parcel = Parcel { source, sequence, hash, key_id, slots };
        self.reception.machine = Receiving::loaded(parcel);
        self.reception.remembered = Some(parcel);
        self.mark_importing();
    }

    /// Whether a package is under way.
    pub(super) fn is_receiving(&self) -> bool {
        self.reception.state() != State::Idle
    }

    /// A package is to be planned.
    pub(super) fn receive(&mut self, caller: Caller, hash: [u8; 32], slots: SlotSet) {
        match self.plan_reception(hash, slots) {
            Ok(parcel) => {
                let asks = caller.who != PersonId::SERVICE;
                self.reception_event(ReceptionEvent::ReceiveOrdered { caller, parcel, asks });
            }
            Err(refusal) => self.refuse_package(caller, CommandKind::ReceivePackage, refusal),
        }
    }

    /// A package's plan is to be carried out, or goes on.
    pub(super) fn apply(&mut self, caller: Caller, hash: [u8; 32]) {
        // Whoever orders something of a token that is not open would wait for who knows how long.
        let slots = match self.reception.state() {
            State::Planned { parcel, .. } | State::Halfway { parcel, .. } => parcel.slots,
            State::Idle
            | State::Planning { .. }
            | State::Waiting { .. }
            | State::AtToken { .. }
            | State::Merging { .. } => SlotSet::NONE,
        };
        match self.are_open(slots) {
            Ok(()) => self.reception_event(ReceptionEvent::ApplyOrdered { caller, hash }),
            Err(refusal) => self.refuse_package(caller, CommandKind::ApplyPackage, refusal),
        }
    }

    pub(super) fn end_reception(&mut self, caller: Caller) {
        self.reception_event(ReceptionEvent::EndOrdered { caller });
    }

    pub(super) fn abandon_reception(&mut self, caller: Caller, hash: [u8; 32]) {
        let open = match self.reception.state() {
            State::Waiting { progress, .. } | State::AtToken { progress, .. } => self.is_active(progress.slot),
            State::Idle
            | State::Planning { .. }
            | State::Planned { .. }
            | State::Merging { .. }
            | State::Halfway { .. } => false,
        };
        self.reception_event(ReceptionEvent::AbandonOrdered { caller, hash, open });
    }

    pub(super) fn refuse_package(&mut self, caller: Caller, kind: CommandKind, refusal: Refusal) {
        self.outbox.journal_service(Some(caller.who), AuditEvent::Refused(kind, refusal));
        self.reply(caller, Answer::Refused(refusal));
    }

    fn plan_reception(&self, hash: [u8; 32], slots: SlotSet) -> Result<Parcel, Refusal> {
        if self.transfer.state() != transfer::State::Idle || self.is_receiving() {
            return Err(Refusal::TransferUnderWay);
        }
        if self.cards.ceremony().is_some() {
            return Err(Refusal::CeremonyUnderWay);
        }
        let parcel = self.clustering.admitted(hash)?;
        let current = self.cards.backup.current.ok_or(Refusal::NoBackupKey)?;
        if current.key_id != parcel.key_id {
            return Err(Refusal::PackageOfAnotherKey);
        }
        self.are_open(slots)?;
        Ok(Parcel { slots, ..parcel })
    }

    /// Whether all of these slots can take keys now.
    fn are_open(&self, slots: SlotSet) -> Result<(), Refusal> {
        for slot in slots.slots() {
            let entry = self.entries.get(usize::from(slot.0)).ok_or(Refusal::UnknownSlot)?;
            if !matches!(entry.machine.state(), SlotState::Active { .. }) {
                return Err(Refusal::SlotNotActive);
            }
            if self.cards.is_unheard(slot) {
                return Err(Refusal::SlotDoubtful);
            }
            if entry.data.unwrap_key == Some(false) {
                return Err(Refusal::SlotWithoutUnwrapKey);
            }
        }
        Ok(())
    }

    /// Runs one event of the reception, and does what it wants.
    pub(super) fn reception_event(&mut self, event: ReceptionEvent) {
        let entries = &self.entries;
        let uids = |slot: SlotId| entries.get(usize::from(slot.0)).map_or([0; 16], |entry| entry.data.record.uid);
        let mut wishes = Wishes { list: heapless::Vec::new(), lost: false, uids: &uids };
        self.reception.machine.handle(event, &mut wishes);
        let Wishes { list, lost, .. } = wishes;
        if lost {
            self.outbox.bug(BUG_WISHES);
        }
        self.mark_importing();
        for wish in list {
            match wish {
                Wish::File(step) => {
                    let ticket = self.outbox.service_ticket();
                    self.outbox.act(Act::File { ticket, step });
                    if step != FileStep::Discard {
                        self.await_transfer(ticket, None, TRANSFER_DEADLINE_MS);
                    }
                }
                Wish::Call(slot, call) => self.call_for_transfer(slot, call),
                Wish::Remember(parcel) => {
                    self.reception.remembered = parcel;
                    self.reception.dirty = true;
                }
                Wish::Mark(parcel) => self.clustering.mark(parcel),
                Wish::Journal(who, event) => self.outbox.journal_service(who, event),
                Wish::Reply(caller, answer) => self.reply(caller, answer),
                Wish::Serve(slots) => {
                    for slot in slots.slots() {
                        self.slot_event(slot, SlotEvent::ServeOrdered);
                    }
                }
            }
        }
    }

    /// What came, with what it begins with, which does not change before it was answered.
    pub(super) fn received_order(&self) -> FileOrder {
        match self.reception.machine.parcel() {
            Some(parcel) => FileOrder::Received { hash: parcel.hash },
            None => FileOrder::Discard,
        }
    }

    pub(super) fn reception_call_done(&mut self, outcome: Outcome) {
        let failed = HsmFailure::Pkcs11 { code: rv::DEVICE_ERROR, function: Function::Other };
        let event = match outcome {
            // A slot that was closed meanwhile says so in the words of its token.
            Outcome::Hsm(Err(failure)) if !matches!(failure, HsmFailure::Refused(_)) && self.is_at_closed_slot() => {
                ReceptionEvent::SlotClosed
            }
            Outcome::Hsm(result) => ReceptionEvent::TokenDone(result),
            Outcome::File(result) => ReceptionEvent::FileDone(result),
            Outcome::Random(_)
            | Outcome::Unsealed(_)
            | Outcome::Application(_)
            | Outcome::Card(_)
            | Outcome::FileChecked(_)
            | Outcome::Zeroized(_) => ReceptionEvent::TokenDone(Err(failed)),
        };
        self.reception_event(event);
    }

    fn is_at_closed_slot(&self) -> bool {
        let slot = match self.reception.state() {
            State::Planning { slot, .. } => slot,
            State::AtToken { progress, .. } => progress.slot,
            State::Idle
            | State::Planned { .. }
            | State::Waiting { .. }
            | State::Merging { .. }
            | State::Halfway { .. } => return false,
        };
        !self.is_active(slot)
    }

    /// Ends a wait whose time is over. Only the device ends a call (P44).
    pub(super) fn tick_reception(&mut self, ticket: Ticket, slot: Option<SlotId>) {
        match (slot, self.reception.state()) {
            (Some(slot), State::Planning { .. }) => {
                self.transfer.await_nothing();
                self.cards.note_unheard(ticket, slot);
                self.reception_event(ReceptionEvent::DeadlinePassed);
            }
            (None, _) => {
                self.transfer.await_nothing();
                self.reception_event(ReceptionEvent::FileDone(Err(Fault::StoreFailed)));
            }
            // The making goes on when the token is heard; only whoever waits is told.
            (Some(_), _) => {
                self.transfer.await_for_ever();
                self.reception_event(ReceptionEvent::DeadlinePassed);
            }
        }
    }

    /// The slot is ready for the next step.
    pub(super) fn go_on_with_reception(&mut self) {
        let Some(slot) = self.reception.machine.waits_for() else { return };
        let active = matches!(self.slot_state(slot), Some(SlotState::Active { .. }));
        if active && self.worker && self.halted.is_none() && !self.cards.is_unheard(slot) {
            self.reception_event(ReceptionEvent::SlotReady);
        } else if !active && !self.slot_state(slot).is_some_and(|state| state.is_working()) {
            self.reception_event(ReceptionEvent::SlotClosed);
        }
    }

    /// How far it is, and at which slot.
    pub(super) fn reception_stage(&self) -> Option<(TransferStage, Option<SlotId>)> {
        Some(match self.reception.state() {
            State::Idle => return None,
            State::Planning { slot, .. } => (TransferStage::Preparing, Some(slot)),
            State::Planned { plan, .. } => (TransferStage::Prepared(plan), None),
            State::Waiting { progress, .. } | State::AtToken { progress, .. } => {
                (TransferStage::Importing, Some(progress.slot))
            }
            State::Merging { .. } => (TransferStage::Ending, None),
            State::Halfway { why, .. } => (TransferStage::Halfway(why), None),
        })
    }

    /// Names the package under way.
    pub(super) const fn reception_hash(&self) -> Option<[u8; 32]> {
        match self.reception.machine.parcel() {
            Some(parcel) => Some(parcel.hash),
            None => None,
        }
    }
}
