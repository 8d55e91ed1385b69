//! The order, step by step, up to the call that changes the token.

use statig::Outcome;

use super::{BUG_NO_PIN, ChangeOrder, Rules, State, Step};
use crate::attempts;
use crate::audit::{AttemptCause, AuditEvent};
use crate::code;
use crate::command::Answer;
use crate::effect::HsmCall;
use crate::fault::{Fault, Function, Refusal};
use crate::limits::GENERATED_CHARS;
use crate::record::{Change, ChangeKind, Unblocking};
use crate::safe::SecretId;
use crate::slot_data::{leave_accepted, withdraw};
use crate::token::{LoginState, TokenState};
use crate::turn::Turn;

impl Rules {
    pub(super) fn begin_order(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        match self.order {
            ChangeOrder::Change { active: Some(_), .. } => {
                withdraw(turn);
                self.applications_closed(turn)
            }
            ChangeOrder::Change { active: None, .. } => self.draw(turn),
            ChangeOrder::Initialise { confirmed, .. } => {
                if turn.slot.record.so.needs_confirmation(turn.tries, false) && !confirmed {
                    return self.abort(turn, Answer::Refused(Refusal::LastTryUnconfirmed));
                }
                self.draw(turn)
            }
            ChangeOrder::BySo { confirmed, .. } => {
                if turn.slot.record.so.needs_confirmation(turn.tries, turn.slot.so_final_try()) && !confirmed {
                    return self.abort(turn, Answer::Refused(Refusal::LastTryUnconfirmed));
                }
                // The slot is not active, but an application may still have the old PIN: with it
                // it would block the token again.
                withdraw(turn);
                self.applications_closed(turn)
            }
            ChangeOrder::Decide { .. } => self.ask(turn, Step::DecideObserve, HsmCall::Observe),
        }
    }

    pub(super) fn ask(&mut self, turn: &mut Turn<'_>, step: Step, call: HsmCall) -> Outcome<State> {
        let ticket = turn.call(call);
        Outcome::Transition(State::AtToken { ticket, step })
    }

    pub(super) fn applications_closed(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        if turn.slot.applications_pending() {
            return Outcome::Transition(State::ClosingApplications);
        }
        if turn.slot.unaccepted_application_fault().is_some() {
            return self.abort(turn, Answer::Refused(Refusal::ApplicationUnreachable));
        }
        leave_accepted(turn, self.caller.map(|caller| caller.who));
        self.draw(turn)
    }

    pub(super) fn draw(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        if !self.makes_a_code() {
            return self.intend(turn);
        }
        let kept = match self.order {
            ChangeOrder::BySo { .. } => self.unblocking_before.map(|kept| kept.generation),
            ChangeOrder::Change { .. } | ChangeOrder::Initialise { .. } | ChangeOrder::Decide { .. } => {
                turn.slot.record.pending
            }
        };
        let drawn = match kept {
            Some(generation) if self.goes_on => turn.unseal(generation),
            Some(_) | None => turn.random(),
        };
        match drawn {
            Ok((ticket, id)) => Outcome::Transition(State::Drawing { ticket, id }),
            Err(refusal) => self.abort(turn, Answer::Refused(refusal)),
        }
    }

    pub(super) fn drawn(&mut self, turn: &mut Turn<'_>, id: SecretId) -> Outcome<State> {
        self.new = Some(id);
        let chars = match code::generated_chars(turn.slot.new_pin_chars_max()) {
            Ok(chars) => chars.min(GENERATED_CHARS),
            Err(refusal) => return self.abort(turn, Answer::Refused(refusal)),
        };
        match turn.watch.generate(turn.secrets, id, chars) {
            Ok(()) => self.intend(turn),
            Err(fault) => self.abort(turn, Answer::Failed(fault)),
        }
    }

    /// Intent, and the new code if it is ours, become durable.
    pub(super) fn intend(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        if let ChangeOrder::BySo { .. } = self.order {
            return self.intend_by_so(turn);
        }
        turn.slot.record.change = Some(Change::intended(self.kind));
        if let (false, ChangeOrder::Change { next, .. }) = (self.makes_a_code(), self.order) {
            turn.slot.record.knowledge_next = Some(next);
        }
        if let (true, false, Some(new)) = (self.makes_a_code(), self.goes_on, self.new) {
            let generation = turn.slot.record.next_generation;
            turn.slot.record.next_generation = generation.saturating_add(1);
            turn.slot.record.pending = Some(generation);
            let key = turn.code_key(generation);
            turn.out.seal(key, new);
        }
        turn.save();
        turn.journal(self.caller.map(|caller| caller.who), AuditEvent::ChangeIntended(self.kind));
        match self.order {
            ChangeOrder::Initialise { so_pin, free_slot, .. } => self.call_initialise(turn, so_pin, free_slot),
            ChangeOrder::Change { .. } | ChangeOrder::BySo { .. } | ChangeOrder::Decide { .. } => {
                self.ask(turn, Step::Observe, HsmCall::Observe)
            }
        }
    }

    /// As `intend`, beside what the record says of earlier changes. Where the SO PIN has a call
    /// under way that nobody saw the end of, this one counts as called from here on.
    fn intend_by_so(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        let called = self.by_so_before.is_some_and(|before| before.calling);
        let change = if called { Change::calling(self.kind) } else { Change::intended(self.kind) };
        turn.slot.record.by_so = Some(change);
        if let (true, false, Some(new)) = (self.makes_a_code(), self.goes_on, self.new) {
            let generation = turn.slot.record.next_generation;
            turn.slot.record.next_generation = generation.saturating_add(1);
            turn.slot.record.unblocking = Some(Unblocking::drawn(generation));
            let key = turn.code_key(generation);
            turn.out.seal(key, new);
        }
        turn.save();
        turn.journal(self.caller.map(|caller| caller.who), AuditEvent::ChangeIntended(self.kind));
        self.ask(turn, Step::Observe, HsmCall::Observe)
    }

    /// The flags are fresh: goes to the token with the SO PIN, from a session without a login.
    fn observed_by_so(&mut self, turn: &mut Turn<'_>, token: TokenState) -> Outcome<State> {
        if token.so_locked {
            return self.abort(turn, Answer::Refused(Refusal::SoPinBlocked));
        }
        let needs_user_pin = self.kind != ChangeKind::Decommission;
        if !token.initialised || (needs_user_pin && !token.user_pin) {
            return self.abort(turn, Answer::Refused(Refusal::SlotUninitialised));
        }
        if turn.slot.record.so.needs_confirmation(turn.tries, token.so_final_try) && !self.confirmed() {
            return self.abort(turn, Answer::Refused(Refusal::LastTryUnconfirmed));
        }
        match token.login {
            LoginState::Public => self.call_by_so(turn),
            LoginState::User | LoginState::SecurityOfficer if self.cleared => {
                self.abort(turn, Answer::Failed(Fault::ModuleLies(Function::Logout)))
            }
            LoginState::User | LoginState::SecurityOfficer => {
                self.cleared = true;
                self.ask(turn, Step::Clear, HsmCall::Logout)
            }
        }
    }

    fn call_by_so(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        let Some(so_pin) = self.so_pin() else { return self.bug(turn, BUG_NO_PIN) };
        turn.slot.record.so.begin();
        turn.slot.record.by_so = Some(Change::calling(self.kind));
        if let (true, Some(kept)) = (self.makes_a_code(), &mut turn.slot.record.unblocking) {
            *kept = kept.calling();
        }
        turn.save();
        turn.journal(self.caller.map(|caller| caller.who), AuditEvent::ChangeCalling(self.kind));
        match (self.kind, self.new) {
            (ChangeKind::Decommission, _) => self.ask(turn, Step::Erase, HsmCall::Erase { so_pin }),
            (_, Some(new)) => self.ask(turn, Step::Unblock, HsmCall::Unblock { so_pin, new }),
            (_, None) => self.bug(turn, BUG_NO_PIN),
        }
    }

    /// No step lies between intent and call here, so both records are one.
    pub(super) fn call_initialise(
        &mut self,
        turn: &mut Turn<'_>,
        so_pin: SecretId,
        free_slot: Option<u64>,
    ) -> Outcome<State> {
        let Some(new) = self.new else { return self.bug(turn, BUG_NO_PIN) };
        turn.slot.record.so.begin();
        self.calling(turn);
        self.ask(turn, Step::Initialise, HsmCall::Initialise { so_pin, new, free_slot })
    }

    pub(super) fn calling(&mut self, turn: &mut Turn<'_>) {
        turn.slot.record.change = Some(Change::calling(self.kind));
        turn.save();
        turn.journal(self.caller.map(|caller| caller.who), AuditEvent::ChangeCalling(self.kind));
    }

    /// The flags are fresh: proves the old PIN, unless the slot is logged in with it.
    pub(super) fn observed(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        let Some(token) = turn.slot.token else {
            let refusal = turn.slot.refusal.unwrap_or(Refusal::SlotAbsent);
            self.logged_in = false;
            return self.abort(turn, Answer::Refused(refusal));
        };
        if let ChangeOrder::BySo { .. } = self.order {
            return self.observed_by_so(turn, token);
        }
        if token.locked {
            return self.abort(turn, Answer::Refused(Refusal::SlotBlocked));
        }
        if turn.slot.record.user.needs_confirmation(turn.tries, token.final_try) && !self.confirmed() {
            return self.abort(turn, Answer::Refused(Refusal::LastTryUnconfirmed));
        }
        match (token.login, self.logged_in) {
            (LoginState::User, true) => self.set_pin(turn),
            (LoginState::Public, _) => {
                self.logged_in = false;
                match (self.old.or(self.active()), turn.slot.record.accepted) {
                    (Some(old), _) => self.login_old(turn, old),
                    (None, Some(generation)) => match turn.unseal(generation) {
                        Ok((ticket, id)) => Outcome::Transition(State::UnsealingOld { ticket, id }),
                        Err(refusal) => self.abort(turn, Answer::Refused(refusal)),
                    },
                    (None, None) => self.abort(turn, Answer::Refused(Refusal::CodeMissing)),
                }
            }
            (LoginState::User | LoginState::SecurityOfficer, _) if self.cleared => {
                self.abort(turn, Answer::Failed(Fault::ModuleLies(Function::Logout)))
            }
            (LoginState::User | LoginState::SecurityOfficer, _) => {
                // The session is not as we left it: our login is not relied on any more.
                self.logged_in = false;
                self.cleared = true;
                self.ask(turn, Step::Clear, HsmCall::Logout)
            }
        }
    }

    pub(super) fn login_old(&mut self, turn: &mut Turn<'_>, old: SecretId) -> Outcome<State> {
        attempts::begin(turn, self.caller, AttemptCause::Person);
        self.ask(turn, Step::LoginOld, HsmCall::Login { pin: old })
    }

    pub(super) fn set_pin(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        let (Some(old), Some(new)) = (self.old.or(self.active()), self.new) else {
            return self.bug(turn, BUG_NO_PIN);
        };
        // A wrong old PIN here is a counted try (rule 4). One that a login just proved cannot be
        // wrong: a call whose outcome stays unknown then says nothing about tries.
        if !self.relogged && !self.is_proven(turn, old) {
            turn.slot.record.user.begin();
        }
        self.calling(turn);
        self.ask(turn, Step::SetPin, HsmCall::SetPin { old, new })
    }

    /// Whether this is the PIN that the slot is active with.
    fn is_proven(&self, turn: &Turn<'_>, old: SecretId) -> bool {
        let Some(active) = self.active() else { return false };
        let mut same = false;
        turn.secrets.lend(active, &mut |active| {
            turn.secrets.lend(old, &mut |old| same = code::equal(active, old));
        });
        same
    }

    pub(super) fn bug(&mut self, turn: &mut Turn<'_>, place: u16) -> Outcome<State> {
        turn.out.bug(place);
        self.undecided(turn, Fault::Bug(place), true)
    }
}
