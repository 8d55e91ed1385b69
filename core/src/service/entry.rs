//! One slot in the service: its two machines, what they share, the deadline they wait for.

use heapless::Vec;

use crate::audit::AuditEvent;
use crate::effect::Ticket;
use crate::pin_change::{self, PinChange};
use crate::quorum::{Collection, Want, wanted};
use crate::record::{Doubt, Knowledge, Knows, Mode, SecretKey, SecretKind};
use crate::slot::{SlotMachine, State};
use crate::slot_data::SlotData;
use crate::status::{
    ApplicationStatus, Attention, CollectionStatus, KnowledgeStatus, Progress, SetStatus, SlotStatus, StateName,
    WaitKind, WaitsFor,
};
use crate::time::Now;
use crate::turn::Out;

/// One slot: its two machines, what they share, and the deadline of what they wait for.
pub(super) struct Entry {
    pub(super) machine: SlotMachine,
    pub(super) change: Option<PinChange>,
    pub(super) data: SlotData,
    pub(super) armed: Option<Armed>,
}

/// A deadline that runs since its effect was polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Armed {
    pub(super) at_ms: u64,
    pub(super) waits: Waits,
}

/// Whose answer a deadline is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    Effect(Ticket),
    Applications,
}

impl Entry {
    /// Closes what the last run left open in the record.
    pub(super) fn recover(&mut self, out: &mut dyn Out) {
        let data = &mut self.data;
        data.dirty |= data.record.user.close_after_restart();
        data.dirty |= data.record.so.close_after_restart();
        if let Some(by_so) = data.record.by_so.filter(|by_so| !by_so.calling) {
            data.record.by_so = None;
            data.dirty = true;
            if let Some(drawn) = data.record.unblocking.filter(|kept| !kept.called) {
                data.record.unblocking = None;
                let generation = drawn.generation;
                out.erase(SecretKey { kind: SecretKind::GeneratedCode, owner: data.owner, generation });
            }
            out.journal(None, data.id, AuditEvent::ChangeUndone(by_so.kind));
        }
        let Some(change) = data.record.change else {
            // A set that was being handed out, its secret gone with the last run.
            if data.record.knowledge_next.is_none() && data.sets.void_next() {
                data.sets_dirty = true;
                out.journal(None, data.id, AuditEvent::SetVoid);
            }
            return;
        };
        if change.calling {
            return;
        }
        // Without *calling* nothing changed: no login is needed (rule 1).
        data.record.change = None;
        data.dirty = true;
        data.forget_next();
        if let Some(generation) = data.record.pending.take() {
            out.erase(SecretKey { kind: SecretKind::GeneratedCode, owner: data.owner, generation });
        }
        out.journal(None, data.id, AuditEvent::ChangeUndone(change.kind));
    }

    pub(super) fn due_ms(&self) -> Option<u64> {
        let wait = match self.machine.state() {
            State::CoolingDown { until_ms } => Some(until_ms),
            State::Absent
            | State::Uninitialised
            | State::Blocked
            | State::Locked
            | State::InDoubt
            | State::Unsealing { .. }
            | State::AtToken { .. }
            | State::HandingOver { .. }
            | State::Active { .. }
            | State::TakingBack { .. }
            | State::Reconnecting { .. }
            | State::Changing
            | State::Doubtful { .. } => None,
        };
        [wait, self.armed.map(|armed| armed.at_ms)].into_iter().flatten().min()
    }

    pub(super) fn wait_is_over(&self, now: Now) -> bool {
        matches!(self.machine.state(), State::CoolingDown { until_ms } if until_ms <= now.mono_ms)
    }

    /// Whether the deadline of what a machine still waits for has passed; disarms it.
    pub(super) fn deadline_passed(&mut self, now: Now) -> bool {
        let Some(armed) = self.armed.filter(|armed| armed.at_ms <= now.mono_ms) else { return false };
        self.armed = None;
        match armed.waits {
            Waits::Effect(ticket) => self.awaited() == Some(ticket),
            Waits::Applications => self.data.applications_pending(),
        }
    }

    pub(super) fn awaited(&self) -> Option<Ticket> {
        match &self.change {
            Some(change) => change.state().awaited(),
            None => self.machine.state().awaited(),
        }
    }

    /// Whether a call that changes the token is under way, within its deadline.
    pub(super) fn is_changing_its_token(&self) -> bool {
        use pin_change::State;
        match self.change.as_ref().map(PinChange::state) {
            Some(State::AtToken { step, .. }) => step.changes_the_token(),
            Some(
                State::Waiting
                | State::ClosingApplications
                | State::Drawing { .. }
                | State::UnsealingOld { .. }
                | State::UnsealingForDecision { .. }
                | State::Doubtful { .. }
                | State::Ended,
            )
            | None => false,
        }
    }

    /// Whether a call that may change the token is under way, answered in time or not.
    pub(super) fn may_change_its_token(&self) -> bool {
        use pin_change::State;
        match self.change.as_ref().map(PinChange::state) {
            Some(State::AtToken { step, .. } | State::Doubtful { step, .. }) => step.changes_the_token(),
            Some(
                State::Waiting
                | State::ClosingApplications
                | State::Drawing { .. }
                | State::UnsealingOld { .. }
                | State::UnsealingForDecision { .. }
                | State::Ended,
            )
            | None => false,
        }
    }

    pub(super) fn is_unanswered(&self) -> bool {
        match &self.change {
            Some(change) => matches!(change.state(), pin_change::State::Doubtful { .. }),
            None => matches!(self.machine.state(), State::Doubtful { .. }),
        }
    }

    pub(super) fn secrets(&self) -> usize {
        let of_change = self.change.as_ref().map_or(0, PinChange::secrets);
        of_change.saturating_add(usize::from(self.machine.state().secret().is_some()))
    }

    pub(super) fn status(&self, now: Now, tries: u8, collection: Option<&Collection>) -> SlotStatus {
        let data = &self.data;
        let opens = collection.is_some_and(|collection| collection.order().want == Want::Activate);
        let name = self.machine.state().name();
        let state = match (self.is_unanswered(), name == StateName::Locked && opens) {
            (true, _) => StateName::Doubtful,
            (false, true) => StateName::Collecting,
            (false, false) => name,
        };
        let collection = collection.map(|collection| collection.status(data, now));
        let knowledge = match (data.record.knowledge, data.set(Knows::Current)) {
            (Knowledge::Shares, Some(set)) => {
                let (quorum, generation, mark) = (set.quorum, set.generation, set.set_mark());
                KnowledgeStatus::Shares(SetStatus { quorum, generation, mark })
            }
            (Knowledge::Parts(roster), _) => KnowledgeStatus::Parts(roster),
            (Knowledge::Cards { quorum, with_code, .. }, _) => KnowledgeStatus::Cards { quorum, with_code },
            (Knowledge::Whole | Knowledge::Shares, _) => KnowledgeStatus::Whole,
        };
        let mut applications = Vec::new();
        for bound in &data.applications {
            let _ = applications.push(ApplicationStatus { application: bound.application, state: bound.state });
        }
        let attention = match data.application_fault() {
            Some(_) => Some(Attention::ApplicationFailed),
            None if data.record.lacks_its_code() && self.change.is_none() => {
                data.attention.or(Some(Attention::CodeGone))
            }
            None => data.attention,
        };
        let doubt = if self.is_unanswered() { Some(Doubt::CallUnanswered) } else { data.doubt() };
        SlotStatus {
            slot: data.id,
            mode: data.record.mode,
            knowledge,
            backup_key: data.backup_key,
            unwrap_key: data.unwrap_key,
            key_counts: data.key_counts,
            state,
            applications,
            waits_for: self.waits_for(state, now, collection.as_ref()),
            collection,
            tries_left: data.record.user.tries_left(tries, data.final_try()),
            attention,
            doubt,
            refusal: data.refusal,
            fault: data.fault,
            so_proven_s: data.record.so_proven_s,
        }
    }

    pub(super) fn waits_for(
        &self,
        state: StateName,
        now: Now,
        collection: Option<&CollectionStatus>,
    ) -> Option<WaitsFor> {
        let person = WaitsFor { kind: WaitKind::Person, have: 0, need: 1, attempt: None, seconds_left: None };
        if let Some(CollectionStatus { progress, seconds_left, .. }) = collection {
            let Progress { kind, have, need, attempt } = *progress;
            return Some(WaitsFor { kind, have, need, attempt: Some(attempt), seconds_left: Some(*seconds_left) });
        }
        let (by, _) = self.data.known()[0];
        let (kind, need) = wanted(&self.data, by);
        let code = WaitsFor { kind, need, ..person };
        let for_mode = match self.data.record.mode {
            Mode::Manual => code,
            Mode::Generated => person,
        };
        match (state, self.machine.state()) {
            (StateName::Locked | StateName::Collecting, _) => Some(for_mode),
            (StateName::CoolingDown, State::CoolingDown { until_ms }) => {
                let left_ms = until_ms.saturating_sub(now.mono_ms);
                let left_s = u32::try_from(left_ms.div_ceil(1000)).unwrap_or(u32::MAX);
                Some(WaitsFor { seconds_left: Some(left_s), ..for_mode })
            }
            (StateName::Doubtful, State::InDoubt) => Some(match self.data.record.doubt {
                Some(Doubt::OldOrNew) => code,
                Some(Doubt::BothRefused | Doubt::CallUnanswered) | None => person,
            }),
            (StateName::Uninitialised | StateName::Blocked | StateName::Doubtful, _) => Some(person),
            (
                StateName::Absent
                | StateName::Activating
                | StateName::Active
                | StateName::Changing
                | StateName::CoolingDown,
                _,
            ) => None,
        }
    }
}
