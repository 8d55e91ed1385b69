//! How a change ends: undone, undecided, or with a PIN to hand over; every secret accounted for.

use statig::Outcome;

use super::{ChangeEnd, ChangeOrder, Rules, State, Then};
use crate::audit::AuditEvent;
use crate::command::Answer;
use crate::fault::Fault;
use crate::record::ChangeKind;
use crate::turn::Turn;

impl Rules {
    pub(super) fn reply(&mut self, turn: &mut Turn<'_>, answer: Answer) {
        let Some(caller) = self.caller.take() else { return };
        match answer {
            Answer::Done => turn.journal(Some(caller.who), AuditEvent::Completed(self.command())),
            Answer::Refused(refusal) => {
                turn.journal(Some(caller.who), AuditEvent::Refused(self.command(), refusal));
            }
            Answer::Failed(fault) => turn.journal(Some(caller.who), AuditEvent::Failed(self.command(), fault)),
            // A change ends in one of the three above; these are a collection's and the door's.
            Answer::Waits(_) | Answer::Share { .. } | Answer::NeedsApproval { .. } => {}
        }
        turn.reply(caller, answer);
    }

    pub(super) fn end(&mut self, turn: &mut Turn<'_>, then: Then) -> Outcome<State> {
        // Exactly one secret may change hands; everything else is wiped here.
        for id in [self.old.take(), self.new.take(), self.active(), self.so_pin()].into_iter().flatten() {
            if then.secret() != Some(id) {
                turn.wipe(id);
            }
        }
        let caller = self.caller.take().map(|caller| (caller, self.command()));
        *turn.change_end = Some(ChangeEnd { then, caller });
        Outcome::Transition(State::Ended)
    }

    /// Nothing was changed on the token: undoes the intent, answers, and goes back.
    pub(super) fn abort(&mut self, turn: &mut Turn<'_>, answer: Answer) -> Outcome<State> {
        // A login went with its token.
        let proven = if self.relogged { self.old.or(self.active()) } else { self.active() };
        let then = match (self.active().and(proven), self.logged_in && turn.slot.token.is_some()) {
            (Some(pin), true) => Then::HandOver(pin),
            (None, true) => Then::Logout,
            (Some(_) | None, false) => Then::Rest,
        };
        self.abort_then(turn, answer, then)
    }

    /// As `abort`, when the worker is gone: a slot that was active logs in again when it is back.
    pub(super) fn abort_without_worker(&mut self, turn: &mut Turn<'_>, fault: Fault) -> Outcome<State> {
        let then = self.active().map_or(Then::Rest, Then::Reconnect);
        self.abort_then(turn, Answer::Failed(fault), then)
    }

    pub(super) fn abort_then(&mut self, turn: &mut Turn<'_>, answer: Answer, then: Then) -> Outcome<State> {
        if let ChangeOrder::BySo { kind, .. } = self.order {
            self.undo_by_so(turn, kind);
        } else if self.is_order() && !self.goes_on && turn.slot.record.change.take().is_some() {
            if self.makes_a_code() {
                let pending = turn.slot.record.pending.take();
                turn.erase(pending);
            }
            turn.save();
            turn.journal(None, AuditEvent::ChangeUndone(self.kind));
        }
        if matches!(self.order, ChangeOrder::Change { .. }) {
            // Shares of the new code may be in people's hands: they are void.
            turn.slot.forget_next();
        }
        if let Answer::Failed(fault) = answer {
            turn.slot.fault = Some(fault);
        }
        self.reply(turn, answer);
        self.end(turn, then)
    }

    /// The SO PIN changed nothing: what stood in the record before stands again.
    fn undo_by_so(&mut self, turn: &mut Turn<'_>, kind: ChangeKind) {
        let record = &mut turn.slot.record;
        if (record.by_so, record.unblocking) == (self.by_so_before, self.unblocking_before) {
            return;
        }
        let drawn = if self.goes_on || kind != ChangeKind::Unblock { None } else { record.unblocking };
        record.by_so = self.by_so_before;
        record.unblocking = self.unblocking_before;
        turn.erase(drawn.map(|kept| kept.generation));
        turn.save();
        turn.journal(None, AuditEvent::ChangeUndone(kind));
    }

    /// The token may have the old PIN or the new one.
    pub(super) fn undecided(&mut self, turn: &mut Turn<'_>, fault: Fault, worker_lost: bool) -> Outcome<State> {
        turn.slot.fault = Some(fault);
        self.reply(turn, Answer::Failed(fault));
        let there = !worker_lost && turn.slot.token.is_some();
        let then = match (self.is_order(), self.logged_in) {
            (true, _) if there => Then::Decide,
            (false, true) if there => Then::Logout,
            (true | false, _) => Then::Rest,
        };
        self.end(turn, then)
    }
}
