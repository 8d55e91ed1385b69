//! Zeroize: the data key goes first, then every slot lets go, then the service ends.
//!
//! The platform destroys the key on [`Effect::Zeroize`](crate::effect::Effect::Zeroize), which is
//! yielded before everything else and waits for no commit: the store may be full, halted or hung. From
//! that order on the service behaves as halted. Nothing is recorded, begun, proven or handed over any
//! more, approvals, collections and ceremonies are gone, the Safe is wiped; applications give the PIN
//! back and tokens are logged out. What the audit log has to say is written by the next start, from the
//! platform's own durable intent, so a power cut at any point leaves nothing to remember here.
//!
//! A call that stays unanswered for [`ZEROIZE_WORKER_MS`] ends with the worker, as by an order to end
//! it, and every login ends with it. A call that replaces a PIN or erases a token is never ended like
//! that: a kill inside it can destroy a token's keys, which zeroize keeps. Whoever ordered is answered
//! after [`ZEROIZE_DEADLINE_MS`] at the latest, with what had not let go by then.
//!
//! There is no way back: the state is left by the end of the service only.

use super::entry::Entry;
use super::{Phase, Service};
use crate::approval::Approvals;
use crate::command::{Answer, Caller};
use crate::effect::Ticket;
use crate::fault::{ApplicationFault, Fault, Function, Refusal};
use crate::limits::{ZEROIZE_DEADLINE_MS, ZEROIZE_WORKER_MS};
use crate::outbox::Act;
use crate::slot::SlotEvent;
use crate::turn::Out as _;

/// How far a zeroize is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Zeroizing {
    caller: Caller,
    ticket: Ticket,
    /// What became of the data key; `None`: the platform has not said it yet.
    destroyed: Option<Result<(), Fault>>,
    /// When a call that is still unanswered ends with the worker; `None`: it was ended, or must not be.
    end_worker_ms: Option<u64>,
    deadline_ms: u64,
}

impl Zeroizing {
    /// Who waits for its end.
    pub(super) const fn caller(&self) -> Caller {
        self.caller
    }

    /// When time is the next input.
    pub(super) fn due_ms(&self) -> u64 {
        self.end_worker_ms.map_or(self.deadline_ms, |at_ms| at_ms.min(self.deadline_ms))
    }
}

impl<const SLOTS: usize, const PLACES: usize, const OUTBOX: usize> Service<SLOTS, PLACES, OUTBOX> {
    /// Begins; there is no way back.
    pub(super) fn zeroize(&mut self, caller: Caller) {
        // Asked before the halt drops the ceremony: its call, also one given up, may be a new SO PIN.
        let unheard = self.slots().any(|slot| self.cards.is_unheard(slot));
        let may_end_worker = !unheard && !self.ceremony_changes_a_token();
        let ticket = self.outbox.service_ticket();
        self.destroy = Some((ticket, caller.who));
        self.phase = Phase::Zeroizing(Zeroizing {
            caller,
            ticket,
            destroyed: None,
            end_worker_ms: may_end_worker.then(|| self.now.after_ms(ZEROIZE_WORKER_MS)),
            deadline_ms: self.now.after_ms(ZEROIZE_DEADLINE_MS),
        });
        self.approvals = Approvals::new();
        // Drops what waits for a commit: what no call was made for is at no token.
        self.halt(Fault::Zeroized, Refusal::Zeroizing);
        for slot in self.slots() {
            // What could not be taken back earlier is asked for once more.
            let left = self.entries.get(usize::from(slot.0)).is_some_and(|entry| {
                entry.data.application_fault().is_some()
                    && entry.change.is_none()
                    && !entry.machine.state().is_working()
            });
            if left {
                self.slot_event(slot, SlotEvent::ZeroizeOrdered);
            }
        }
        self.let_slots_go();
    }

    /// The platform says what became of the data key.
    pub(super) fn key_destroyed(&mut self, ticket: Ticket, result: Result<(), Fault>) {
        if let Phase::Zeroizing(zeroizing) = &mut self.phase
            && zeroizing.ticket == ticket
        {
            zeroizing.destroyed = Some(result);
        }
    }

    /// Every slot on which no call is under way lets go. After each input, since what ends a call
    /// may want to go on.
    pub(super) fn let_slots_go(&mut self) {
        for slot in self.slots() {
            let Some(entry) = self.entries.get_mut(usize::from(slot.0)) else { continue };
            if entry.is_at_platform() {
                continue;
            }
            if entry.change.take().is_some() || entry.machine.state().holds_on() {
                self.slot_event(slot, SlotEvent::ZeroizeOrdered);
            }
        }
    }

    /// Time passed.
    pub(super) fn tick_zeroize(&mut self) {
        let Phase::Zeroizing(zeroizing) = &mut self.phase else { return };
        if zeroizing.end_worker_ms.is_none_or(|at_ms| self.now.mono_ms < at_ms) {
            return;
        }
        zeroizing.end_worker_ms = None;
        let unanswered = self.entries.iter().any(Entry::is_at_platform);
        let replaces_a_pin = self.entries.iter().any(|entry| entry.is_at_platform() && entry.may_change_its_token());
        if unanswered && !replaces_a_pin {
            self.outbox.act(Act::EndWorker);
        }
    }

    /// Ends the service when the key is destroyed and every slot has let go, or at the deadline.
    pub(super) fn conclude_zeroize(&mut self) {
        let Phase::Zeroizing(zeroizing) = self.phase else { return };
        self.let_slots_go();
        let late = self.now.mono_ms >= zeroizing.deadline_ms;
        let holds = self.entries.iter().find_map(Entry::holds);
        if (zeroizing.destroyed.is_none() || holds.is_some()) && !late {
            return;
        }
        let left = self.entries.iter().find_map(|entry| entry.data.application_fault());
        let answer = match (zeroizing.destroyed, holds.or(left)) {
            (Some(Ok(())), None) => Answer::Done,
            (Some(Ok(())), Some(fault)) | (Some(Err(fault)), _) => Answer::Failed(fault),
            (None, _) => Answer::Failed(Fault::StoreFailed),
        };
        self.phase = Phase::Stopped;
        self.outbox.withdraw_calls();
        self.answer_all_open(Some(zeroizing.caller.reply), Refusal::Zeroizing);
        self.reply(zeroizing.caller, answer);
        self.outbox.act(Act::Stopped);
    }
}

impl Entry {
    /// Whether the platform has a call of this slot that it has not answered.
    fn is_at_platform(&self) -> bool {
        use crate::pin_change::State as Change;
        use crate::slot::{State, Step};
        let polled = |ticket| self.armed.is_some_and(|armed| armed.waits == super::entry::Waits::Effect(ticket));
        match (self.change.as_ref().map(crate::pin_change::PinChange::state), self.machine.state()) {
            (Some(Change::Doubtful { .. }), _) | (None, State::Doubtful { .. }) => true,
            (Some(Change::AtToken { ticket, .. }), _) => polled(ticket),
            // A logout is what is wanted: it stays, polled or not.
            (None, State::AtToken { step: Step::Logout(_), .. }) => true,
            (None, State::AtToken { ticket, .. }) => polled(ticket),
            (Some(_), _) | (None, _) => false,
        }
    }

    /// What has not let go yet.
    fn holds(&self) -> Option<Fault> {
        if self.is_at_platform() {
            let function = match (&self.change, self.machine.state()) {
                (Some(change), _) => change.state().function(),
                (None, state) => state.function(),
            };
            return Some(Fault::Unanswered(function.unwrap_or(Function::Other)));
        }
        let waits = self.data.applications_pending() || self.change.is_some() || self.machine.state().is_working();
        waits.then_some(Fault::Application(ApplicationFault::Unanswered))
    }
}
