//! Deciding what the token has, flags first, with at most one refused login.

use statig::Outcome;

use super::{BUG_NOTHING_TO_TRY, ChangeOrder, Rules, State, Step, Then, Which};
use crate::audit::AuditEvent;
use crate::command::Answer;
use crate::effect::HsmCall;
use crate::fault::{Fault, Function, Refusal, rv};
use crate::record::{ChangeKind, Doubt, Knowledge, Knows, Mode};
use crate::token::{LoginState, TokenState};
use crate::turn::Turn;

impl Rules {
    pub(super) fn decide(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        let Some(token) = turn.slot.token else {
            let refusal = turn.slot.refusal.unwrap_or(Refusal::SlotAbsent);
            self.reply_decided(turn, refusal);
            return self.end(turn, Then::Rest);
        };
        match self.kind {
            ChangeKind::Decommission => return self.decide_decommission(turn, token.user_pin),
            ChangeKind::UnblockToManual => return self.decide_unblock_to_manual(turn, token),
            // Only C_InitPIN ends a lock: it did not happen. Without a user PIN nothing can be tried.
            ChangeKind::Unblock if token.locked || !token.user_pin => return self.unblock_undone(turn, token.locked),
            ChangeKind::Unblock
            | ChangeKind::Initialise
            | ChangeKind::GeneratedToGenerated
            | ChangeKind::ManualToGenerated
            | ChangeKind::GeneratedToManual
            | ChangeKind::ManualToManual => {}
        }
        if self.kind == ChangeKind::Initialise {
            let record = &mut turn.slot.record;
            if !token.user_pin || record.accepted.is_none() || record.pending.is_none() {
                return self.decide_initialise(turn, token.user_pin);
            }
            // Flags spoke for an earlier code already, so they cannot tell which of the two it
            // is: from here on this is decided like a change of one sealed code by another.
            self.kind = ChangeKind::GeneratedToGenerated;
            if let Some(change) = &mut record.change {
                change.kind = self.kind;
            }
            turn.save();
        }
        if self.kind == ChangeKind::ManualToManual {
            turn.slot.record.change = None;
            self.arise(turn, Doubt::OldOrNew);
            self.reply(turn, Answer::Refused(Refusal::CodeOldOrNew));
            return self.end(turn, Then::Rest);
        }
        if token.locked {
            self.reply_decided(turn, Refusal::SlotBlocked);
            return self.end(turn, Then::Rest);
        }
        if token.login != LoginState::Public {
            if self.cleared {
                return self.undecided(turn, Fault::ModuleLies(Function::Logout), false);
            }
            self.cleared = true;
            return self.ask(turn, Step::DecideClear, HsmCall::Logout);
        }
        let which = match (self.kind, self.pending_refused) {
            (ChangeKind::ManualToGenerated, true) => return self.decided_refused(turn, Which::Pending),
            (ChangeKind::Unblock, true) => return self.decided_refused(turn, Which::Unblocking),
            (ChangeKind::Unblock, false) => Which::Unblocking,
            (ChangeKind::GeneratedToManual, _) | (_, true) => Which::Accepted,
            (_, false) => Which::Pending,
        };
        // A refused pending code stops automatic tries; the other sealed code still has its one.
        let accepted_tried = turn.slot.record.change.is_some_and(|change| change.accepted_tried);
        // So has the code of an unblock: what stopped the tries was another.
        let unblocking_tried = turn.slot.record.unblocking.is_some_and(|kept| kept.tried);
        let has_one_left = match which {
            Which::Unblocking => !unblocking_tried,
            Which::Pending | Which::Accepted => self.pending_refused && !accepted_tried,
        };
        let stopped = turn.slot.record.user.automatic_stopped && !has_one_left;
        let last = token.final_try || turn.slot.record.user.needs_confirmation(turn.tries, false);
        let refusal = match (self.order, self.caller) {
            (ChangeOrder::Decide { .. }, Some(_)) if last && !self.confirmed() => Some(Refusal::LastTryUnconfirmed),
            (_, _) if token.final_try && !self.confirmed() => Some(Refusal::LastTryUnconfirmed),
            (_, None) if stopped => Some(Refusal::ActivationNeedsPerson),
            (_, Some(_) | None) => None,
        };
        if let Some(refusal) = refusal {
            self.reply_decided(turn, refusal);
            return self.end(turn, Then::Rest);
        }
        let generation = match which {
            Which::Pending => turn.slot.record.pending,
            Which::Accepted => turn.slot.record.accepted,
            Which::Unblocking => turn.slot.record.unblocking.map(|kept| kept.generation),
        };
        let Some(generation) = generation else {
            return self.decided_refused(turn, which);
        };
        match turn.unseal(generation) {
            Ok((ticket, id)) => Outcome::Transition(State::UnsealingForDecision { ticket, which, id }),
            Err(refusal) => {
                self.reply_decided(turn, refusal);
                self.end(turn, Then::Rest)
            }
        }
    }

    /// The flags say whether `C_InitPIN` happened; no login is needed.
    pub(super) fn decide_initialise(&mut self, turn: &mut Turn<'_>, user_pin: bool) -> Outcome<State> {
        if user_pin {
            return self.ask(turn, Step::DecideSettleShown, HsmCall::Settle);
        }
        let pending = turn.slot.record.pending.take();
        turn.erase(pending);
        turn.slot.record.change = None;
        turn.save();
        turn.journal(None, AuditEvent::ChangeUndone(self.kind));
        self.reply_decided(turn, Refusal::SlotUninitialised);
        self.end(turn, Then::Rest)
    }

    /// The flags say whether `C_InitToken` happened; no login is needed.
    fn decide_decommission(&mut self, turn: &mut Turn<'_>, user_pin: bool) -> Outcome<State> {
        if !user_pin {
            return self.ask(turn, Step::DecideSettleShown, HsmCall::Settle);
        }
        turn.slot.record.by_so = None;
        turn.save();
        turn.journal(None, AuditEvent::ChangeUndone(self.kind));
        self.reply_decided(turn, Refusal::ActivationNeedsPerson);
        self.end(turn, Then::GoOn)
    }

    /// The token is erased and the flags say so: nothing of it is kept.
    pub(super) fn ends_decommissioned(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        for generation in turn.slot.record.sealed() {
            turn.erase(generation);
        }
        let so_proven_s = turn.slot.record.so_proven_s;
        turn.slot.forget();
        turn.slot.record.so_proven_s = so_proven_s;
        let who = self.caller.map(|caller| caller.who);
        turn.journal(who, AuditEvent::ChangeCompleted(self.kind));
        turn.journal(who, AuditEvent::SlotForgotten);
        self.reply(turn, Answer::Done);
        self.end(turn, Then::Rest)
    }

    /// Whether the token has the new manual code only people can find out, unless it is still locked.
    fn decide_unblock_to_manual(&mut self, turn: &mut Turn<'_>, token: TokenState) -> Outcome<State> {
        if token.locked || !token.user_pin {
            return self.unblock_undone(turn, token.locked);
        }
        let record = &mut turn.slot.record;
        let switched = record.mode != Mode::Manual;
        record.by_so = None;
        record.change = None;
        record.mode = Mode::Manual;
        // The new code is known whole; who knows the old one stays so.
        record.knowledge_next.get_or_insert(Knowledge::Whole);
        self.arise(turn, Doubt::OldOrNew);
        if switched {
            turn.journal(None, AuditEvent::ModeIs(Mode::Manual));
        }
        self.reply(turn, Answer::Refused(Refusal::CodeOldOrNew));
        self.end(turn, Then::Rest)
    }

    /// The token does not have what the unblock gave it: everything is as it was before. Its
    /// sealed code is kept like every other until one is accepted.
    fn unblock_undone(&mut self, turn: &mut Turn<'_>, locked: bool) -> Outcome<State> {
        if turn.slot.record.by_so.take().is_some() {
            turn.journal(None, AuditEvent::ChangeUndone(self.kind));
        }
        turn.save();
        let refusal = if locked { Refusal::SlotBlocked } else { Refusal::StoredCodeRefused };
        self.reply_decided(turn, refusal);
        self.end(turn, Then::Rest)
    }

    /// Durable with the try: the service makes no other of this code by itself.
    pub(super) fn note_tried(&mut self, turn: &mut Turn<'_>, which: Which) {
        let record = &mut turn.slot.record;
        match (which, &mut record.change, &mut record.unblocking) {
            (Which::Accepted, Some(change), _) => change.accepted_tried = true,
            (Which::Unblocking, _, Some(kept)) => kept.tried = true,
            (Which::Pending | Which::Accepted | Which::Unblocking, _, _) => {}
        }
    }

    /// The token has a user PIN: the one that was sealed before the call.
    pub(super) fn ends_initialised(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        self.promote_new(turn);
        // A code that was refused just now is not tried again by itself.
        let then = if self.pending_refused { Then::Rest } else { Then::GoOn };
        self.reply_decided(turn, Refusal::ActivationNeedsPerson);
        self.end(turn, then)
    }

    /// The token refused a sealed code while deciding.
    pub(super) fn decided_refused(&mut self, turn: &mut Turn<'_>, which: Which) -> Outcome<State> {
        match (self.kind, which) {
            (ChangeKind::GeneratedToGenerated, Which::Pending) => {
                self.note_pending_refused(turn);
                self.ask(turn, Step::DecideObserve, HsmCall::Observe)
            }
            // A person had the kept codes of a manual slot tried: its manual code rules on.
            (ChangeKind::GeneratedToGenerated, Which::Accepted) if turn.slot.record.mode == Mode::Manual => {
                self.reply_decided(turn, Refusal::ManualCodeRules);
                self.end(turn, Then::Rest)
            }
            (ChangeKind::GeneratedToGenerated, Which::Accepted) => {
                turn.slot.record.change = None;
                self.arise(turn, Doubt::BothRefused);
                self.reply_decided(turn, Refusal::StoredCodeRefused);
                self.end(turn, Then::Rest)
            }
            (ChangeKind::GeneratedToManual, _) => self.ask(turn, Step::DecideSettleShown, HsmCall::Settle),
            (ChangeKind::ManualToGenerated, _) => self.ends_manual(turn),
            (ChangeKind::Unblock, _) => {
                self.note_pending_refused(turn);
                self.unblock_undone(turn, false)
            }
            (ChangeKind::GeneratedToGenerated, Which::Unblocking)
            | (
                ChangeKind::Initialise
                | ChangeKind::ManualToManual
                | ChangeKind::UnblockToManual
                | ChangeKind::Decommission,
                _,
            ) => self.bug(turn, BUG_NOTHING_TO_TRY),
        }
    }

    /// The sealed code was refused: a manual one rules, and the sealed one is kept until
    /// that is accepted.
    pub(super) fn ends_manual(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        turn.slot.record.change = None;
        turn.slot.record.mode = Mode::Manual;
        match self.kind {
            ChangeKind::GeneratedToManual => turn.slot.rule(Knows::Next),
            ChangeKind::ManualToGenerated
            | ChangeKind::Initialise
            | ChangeKind::GeneratedToGenerated
            | ChangeKind::ManualToManual
            | ChangeKind::Unblock
            | ChangeKind::UnblockToManual
            | ChangeKind::Decommission => {}
        }
        turn.save();
        let event = match self.kind {
            ChangeKind::GeneratedToManual => AuditEvent::ChangeCompleted(self.kind),
            ChangeKind::ManualToGenerated
            | ChangeKind::Initialise
            | ChangeKind::GeneratedToGenerated
            | ChangeKind::ManualToManual
            | ChangeKind::Unblock
            | ChangeKind::UnblockToManual
            | ChangeKind::Decommission => AuditEvent::ChangeUndone(self.kind),
        };
        turn.journal(None, event);
        turn.journal(None, AuditEvent::ModeIs(Mode::Manual));
        self.reply_decided(turn, Refusal::ManualCodeRules);
        self.end(turn, Then::Rest)
    }

    /// An order that came this far has called `C_SetPIN`: its answer must not say that
    /// nothing was done, or people would forget the new code.
    pub(super) fn reply_decided(&mut self, turn: &mut Turn<'_>, refusal: Refusal) {
        let answer = if self.is_order() {
            Answer::Failed(Fault::Pkcs11 { code: rv::PIN_INCORRECT, function: Function::Login })
        } else {
            Answer::Refused(refusal)
        };
        self.reply(turn, answer);
    }

    /// Durable with the refusal: the pending code has had its one try.
    pub(super) fn note_pending_refused(&mut self, turn: &mut Turn<'_>) {
        self.pending_refused = true;
        let record = &mut turn.slot.record;
        match (self.kind, &mut record.unblocking, &mut record.change) {
            (ChangeKind::Unblock, Some(kept), _) => kept.refused = true,
            (ChangeKind::Unblock | ChangeKind::UnblockToManual | ChangeKind::Decommission, _, _) => {}
            (_, _, Some(change)) => change.pending_refused = true,
            (_, _, None) => {}
        }
        turn.save();
    }

    pub(super) fn arise(&mut self, turn: &mut Turn<'_>, doubt: Doubt) {
        turn.slot.record.doubt = Some(doubt);
        turn.save();
        turn.journal(None, AuditEvent::DoubtArose(doubt));
    }

    /// The new PIN was accepted and settled (or the flags prove it): it rules from here on.
    pub(super) fn promote_new(&mut self, turn: &mut Turn<'_>) {
        let mode = if self.kind == ChangeKind::Unblock {
            let [accepted, pending, _] = turn.slot.record.sealed();
            turn.erase(accepted);
            turn.erase(pending);
            let record = &mut turn.slot.record;
            record.pending = None;
            record.accepted = record.unblocking.take().map(|kept| kept.generation);
            Mode::Generated
        } else if self.kind == ChangeKind::UnblockToManual {
            let pending = turn.slot.record.pending.take();
            turn.erase(pending);
            let superseded = turn.slot.record.accepted.take();
            turn.erase(superseded);
            Mode::Manual
        } else if self.makes_a_code() {
            let superseded = turn.slot.record.accepted.take();
            // A code that only a token's flags spoke for may belong to a token that comes back:
            // another initialisation leaves it sealed in the store.
            if self.kind != ChangeKind::Initialise {
                turn.erase(superseded);
            }
            turn.slot.record.accepted = turn.slot.record.pending.take();
            Mode::Generated
        } else {
            let superseded = turn.slot.record.accepted.take();
            turn.erase(superseded);
            Mode::Manual
        };
        match self.kind {
            ChangeKind::GeneratedToManual | ChangeKind::ManualToManual => turn.slot.rule(Knows::Next),
            ChangeKind::Initialise
            | ChangeKind::GeneratedToGenerated
            | ChangeKind::ManualToGenerated
            | ChangeKind::Unblock
            | ChangeKind::UnblockToManual
            | ChangeKind::Decommission => turn.slot.rule(Knows::Rescued),
        }
        forget_unblocking(turn);
        let switched = turn.slot.record.mode != mode;
        turn.slot.record.mode = mode;
        turn.slot.record.change = None;
        turn.slot.record.doubt = None;
        turn.save();
        turn.journal(self.caller.map(|caller| caller.who), AuditEvent::ChangeCompleted(self.kind));
        if switched {
            turn.journal(None, AuditEvent::ModeIs(mode));
        }
    }

    /// The old code was accepted and settled: the pending one goes.
    pub(super) fn keep_old(&mut self, turn: &mut Turn<'_>) {
        let pending = turn.slot.record.pending.take();
        turn.erase(pending);
        forget_unblocking(turn);
        let switched = turn.slot.record.mode != Mode::Generated;
        turn.slot.record.mode = Mode::Generated;
        turn.slot.record.change = None;
        turn.slot.record.doubt = None;
        turn.slot.rule(Knows::Rescued);
        turn.save();
        turn.journal(None, AuditEvent::ChangeUndone(self.kind));
        if switched {
            turn.journal(None, AuditEvent::ModeIs(Mode::Generated));
        }
    }
}

/// Another code was accepted and settled: that of an unblock goes (rule 2).
fn forget_unblocking(turn: &mut Turn<'_>) {
    turn.slot.record.by_so = None;
    let superseded = turn.slot.record.unblocking.take();
    turn.erase(superseded.map(|kept| kept.generation));
}
