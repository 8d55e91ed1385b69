//! Deciding what the token has, flags first, with at most one refused login.

use statig::Outcome;

use super::{BUG_NOTHING_TO_TRY, ChangeOrder, Rules, State, Step, Then, Which};
use crate::audit::AuditEvent;
use crate::command::Answer;
use crate::effect::HsmCall;
use crate::fault::{Fault, Function, Refusal, rv};
use crate::record::{ChangeKind, Doubt, Mode};
use crate::token::LoginState;
use crate::turn::Turn;

impl Rules {
    pub(super) fn decide(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        let Some(token) = turn.slot.token else {
            let refusal = turn.slot.refusal.unwrap_or(Refusal::SlotAbsent);
            self.reply_decided(turn, refusal);
            return self.end(turn, Then::Rest);
        };
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
            (ChangeKind::GeneratedToManual, _) | (_, true) => Which::Accepted,
            (_, false) => Which::Pending,
        };
        // A refused pending code stops automatic tries; the other sealed code still has its one.
        let accepted_tried = turn.slot.record.change.is_some_and(|change| change.accepted_tried);
        let has_one_left = self.pending_refused && !accepted_tried;
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
            (ChangeKind::Initialise | ChangeKind::ManualToManual, _) => self.bug(turn, BUG_NOTHING_TO_TRY),
        }
    }

    /// The sealed code was refused: a manual one rules, and the sealed one is kept until
    /// that is accepted.
    pub(super) fn ends_manual(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        turn.slot.record.change = None;
        turn.slot.record.mode = Mode::Manual;
        turn.save();
        let event = match self.kind {
            ChangeKind::GeneratedToManual => AuditEvent::ChangeCompleted(self.kind),
            ChangeKind::ManualToGenerated
            | ChangeKind::Initialise
            | ChangeKind::GeneratedToGenerated
            | ChangeKind::ManualToManual => AuditEvent::ChangeUndone(self.kind),
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
        if let Some(change) = &mut turn.slot.record.change {
            change.pending_refused = true;
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
        let mode = if self.makes_a_code() {
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
        let switched = turn.slot.record.mode != Mode::Generated;
        turn.slot.record.mode = Mode::Generated;
        turn.slot.record.change = None;
        turn.slot.record.doubt = None;
        turn.save();
        turn.journal(None, AuditEvent::ChangeUndone(self.kind));
        if switched {
            turn.journal(None, AuditEvent::ModeIs(Mode::Generated));
        }
    }
}
