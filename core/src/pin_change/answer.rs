//! The token's answers, one by one: what each proves, and what follows.

use statig::Outcome;

use super::{BUG_NO_PIN, Rules, State, Step, Then, Which};
use crate::attempts;
use crate::audit::AttemptCause;
use crate::command::Answer;
use crate::effect::{HsmAnswer, HsmCall};
use crate::fault::{Fault, Function, HsmFailure, Refusal, rv};
use crate::record::ChangeKind;
use crate::token::LoginState;
use crate::turn::Turn;

impl Rules {
    pub(super) fn answered(
        &mut self,
        turn: &mut Turn<'_>,
        step: Step,
        result: Result<HsmAnswer, HsmFailure>,
    ) -> Outcome<State> {
        if let Some(Fault::Unanswered(_)) = turn.slot.fault {
            turn.slot.fault = None;
        }
        if result == Err(HsmFailure::TokenGone) {
            turn.slot.token = None;
            self.logged_in = false;
        }
        let answer = match result {
            Ok(answer) => answer,
            Err(failure) => return self.failed(turn, step, failure),
        };
        match (step, answer) {
            (Step::Observe, HsmAnswer::Observed(token)) => {
                turn.slot.observe(token);
                self.observed(turn)
            }
            (Step::Clear, HsmAnswer::LoggedOut) => {
                self.logged_in = false;
                self.ask(turn, Step::Observe, HsmCall::Observe)
            }
            (Step::LoginOld, HsmAnswer::LoggedIn) => {
                attempts::accepted(turn, self.caller);
                self.logged_in = true;
                self.relogged = true;
                self.set_pin(turn)
            }
            (Step::SetPin, HsmAnswer::PinSet) => {
                turn.slot.record.user.not_made();
                turn.save();
                self.ask(turn, Step::Logout, HsmCall::Logout)
            }
            (Step::Initialise, HsmAnswer::Initialised(token)) => {
                attempts::so_accepted(turn, self.caller);
                turn.slot.observe(token);
                self.initialised = Some(token.serial);
                self.login_new(turn)
            }
            (Step::Unblock, HsmAnswer::Unblocked) => {
                attempts::so_accepted(turn, self.caller);
                // What was refused was another PIN.
                turn.slot.record.user.accepted();
                turn.slot.cooling_until_ms = None;
                self.ask(turn, Step::ReadPublic, HsmCall::Observe)
            }
            (Step::Erase, HsmAnswer::Erased(token)) => {
                attempts::so_accepted(turn, self.caller);
                turn.slot.observe(token);
                if token.user_pin {
                    return self.undecided(turn, Fault::ModuleLies(Function::InitToken), false);
                }
                self.ask(turn, Step::Settle, HsmCall::Settle)
            }
            (Step::Logout, HsmAnswer::LoggedOut) => {
                self.logged_in = false;
                self.ask(turn, Step::ReadPublic, HsmCall::Observe)
            }
            (Step::ReadPublic, HsmAnswer::Observed(token)) => {
                turn.slot.observe(token);
                if turn.slot.token.is_none() {
                    return self.undecided(turn, Fault::TokenGone, false);
                }
                if token.login != LoginState::Public {
                    return self.undecided(turn, Fault::ModuleLies(Function::Logout), false);
                }
                self.login_new(turn)
            }
            (Step::LoginNew, HsmAnswer::LoggedIn) => {
                attempts::accepted(turn, self.caller);
                self.logged_in = true;
                self.ask(turn, Step::Settle, HsmCall::Settle)
            }
            (Step::Settle, HsmAnswer::Settled) if self.kind == ChangeKind::Decommission => {
                self.ends_decommissioned(turn)
            }
            (Step::Settle, HsmAnswer::Settled) => {
                turn.slot.record.serial = self.initialised.or(turn.slot.record.serial);
                self.promote_new(turn);
                match self.new {
                    Some(pin) => self.end(turn, Then::HandOver(pin)),
                    None => self.bug(turn, BUG_NO_PIN),
                }
            }
            (Step::DecideObserve, HsmAnswer::Observed(token)) => {
                turn.slot.observe(token);
                self.decide(turn)
            }
            (Step::DecideClear, HsmAnswer::LoggedOut) => self.ask(turn, Step::DecideObserve, HsmCall::Observe),
            (Step::DecideLogin(which, id), HsmAnswer::LoggedIn) => {
                attempts::accepted(turn, self.caller);
                self.logged_in = true;
                self.ask(turn, Step::DecideSettle(which, id), HsmCall::Settle)
            }
            (Step::DecideSettle(which, id), HsmAnswer::Settled) => {
                match which {
                    Which::Pending | Which::Unblocking => self.promote_new(turn),
                    Which::Accepted => self.keep_old(turn),
                }
                if self.is_order() && which == Which::Accepted {
                    // The slot opens, but not with the code that was ordered.
                    self.reply_decided(turn, Refusal::CodeWrong);
                }
                self.end(turn, Then::HandOver(id))
            }
            (Step::DecideSettleShown, HsmAnswer::Settled) => match self.kind {
                ChangeKind::Initialise => self.ends_initialised(turn),
                ChangeKind::Decommission => self.ends_decommissioned(turn),
                ChangeKind::GeneratedToGenerated
                | ChangeKind::ManualToGenerated
                | ChangeKind::GeneratedToManual
                | ChangeKind::ManualToManual
                | ChangeKind::Unblock
                | ChangeKind::UnblockToManual => self.ends_manual(turn),
            },
            (
                _,
                HsmAnswer::Observed(_)
                | HsmAnswer::LoggedIn
                | HsmAnswer::LoggedOut
                | HsmAnswer::PinSet
                | HsmAnswer::Initialised(_)
                | HsmAnswer::Settled
                | HsmAnswer::Unblocked
                | HsmAnswer::Erased(_)
                | HsmAnswer::BackupKeysPut
                | HsmAnswer::BackupKeysKept { .. }
                | HsmAnswer::SoPinSet
                | HsmAnswer::Counted(_)
                | HsmAnswer::SectionExported { .. }
                | HsmAnswer::ImportPrepared(_)
                | HsmAnswer::Imported { .. }
                | HsmAnswer::UnwrapKeyDropped,
            ) => self.unknown(turn, step, Fault::ModuleLies(step.function()), false),
        }
    }

    pub(super) fn login_new(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        let Some(new) = self.new else { return self.bug(turn, BUG_NO_PIN) };
        attempts::begin(turn, self.caller, AttemptCause::Change);
        self.ask(turn, Step::LoginNew, HsmCall::Login { pin: new })
    }

    pub(super) fn failed(&mut self, turn: &mut Turn<'_>, step: Step, failure: HsmFailure) -> Outcome<State> {
        let fault = failure.fault(step.function());
        match (step, failure) {
            (Step::LoginOld, HsmFailure::Pkcs11 { code: rv::PIN_INCORRECT, .. }) => {
                attempts::refused(turn, self.caller, self.caller.is_some());
                let typed = matches!(self.kind, ChangeKind::ManualToManual | ChangeKind::ManualToGenerated);
                let refusal = if typed { Refusal::CodeWrong } else { Refusal::StoredCodeRefused };
                self.abort(turn, Answer::Refused(refusal))
            }
            (Step::SetPin, HsmFailure::Pkcs11 { code: rv::PIN_INCORRECT, .. }) => {
                attempts::refused(turn, self.caller, self.caller.is_some());
                if self.old.is_none() {
                    // It was the PIN of the active slot: that is not handed over again.
                    return self.abort_then(turn, Answer::Refused(Refusal::StoredCodeRefused), Then::Logout);
                }
                self.abort(turn, Answer::Refused(Refusal::CodeWrong))
            }
            (
                Step::SetPin,
                HsmFailure::Pkcs11 {
                    code: rv::PIN_INVALID | rv::PIN_LEN_RANGE | rv::SESSION_READ_ONLY | rv::FUNCTION_NOT_SUPPORTED,
                    ..
                },
            ) => self.not_made(turn, step, fault),
            // Not changed either; and the login that the slot was active by is gone.
            (Step::SetPin, HsmFailure::Pkcs11 { code: rv::USER_NOT_LOGGED_IN, .. }) => {
                self.close_not_made(turn, step);
                self.logged_in = false;
                if let Some(token) = &mut turn.slot.token {
                    token.login = LoginState::Public;
                }
                self.abort_then(turn, Answer::Failed(fault), Then::GoOn)
            }
            // The token may be labelled now, but it has no user PIN: nothing to lose.
            (
                Step::Initialise,
                HsmFailure::Pkcs11 { code: rv::PIN_INVALID | rv::PIN_LEN_RANGE, function: Function::InitPin },
            ) => self.not_made(turn, step, fault),
            // Said by C_InitPIN itself it proves nothing about the SO PIN: the flags decide then.
            (
                Step::Initialise | Step::Unblock | Step::Erase,
                HsmFailure::Pkcs11 {
                    code: code @ (rv::PIN_INCORRECT | rv::PIN_LOCKED),
                    function: Function::Login | Function::InitToken,
                },
            ) => {
                attempts::so_refused(turn, self.caller);
                let locked = code == rv::PIN_LOCKED;
                if let Some(token) = &mut turn.slot.token {
                    token.so_locked |= locked;
                }
                let refusal = if locked { Refusal::SoPinBlocked } else { Refusal::SoPinWrong };
                self.abort(turn, Answer::Refused(refusal))
            }
            // The SO is in, and C_InitPIN refused the PIN itself, or the call: the token is as it was.
            (
                Step::Unblock,
                HsmFailure::Pkcs11 {
                    code:
                        rv::PIN_INVALID
                        | rv::PIN_LEN_RANGE
                        | rv::SESSION_READ_ONLY
                        | rv::USER_NOT_LOGGED_IN
                        | rv::FUNCTION_NOT_SUPPORTED,
                    function: Function::InitPin,
                },
            ) => {
                attempts::so_accepted(turn, self.caller);
                self.abort(turn, Answer::Failed(fault))
            }
            // C_InitToken looks at these before it touches anything.
            (
                Step::Erase,
                HsmFailure::Pkcs11 {
                    code: rv::SESSION_EXISTS | rv::FUNCTION_NOT_SUPPORTED | rv::TOKEN_WRITE_PROTECTED,
                    function: Function::InitToken,
                },
            ) => self.not_made(turn, step, fault),
            // C_InitPIN comes after C_Login: the token is as it was, and only the SO's count is unknown.
            (Step::Unblock, HsmFailure::Pkcs11 { function: Function::Login, .. }) => {
                turn.slot.record.so.unknown();
                turn.save();
                self.abort(turn, Answer::Failed(fault))
            }
            // What was looked at before the SO logged in.
            (
                Step::Unblock | Step::Erase,
                HsmFailure::Pkcs11 {
                    function: Function::GetTokenInfo | Function::GetSessionInfo | Function::OpenSession,
                    ..
                },
            ) => self.not_made(turn, step, fault),
            (Step::Initialise | Step::Unblock | Step::Erase, HsmFailure::Refused(refusal)) => {
                turn.slot.record.so.not_made();
                turn.save();
                // Of a call that goes on: perhaps the earlier one took effect; its flags will tell.
                self.abort(turn, Answer::Refused(refusal))
            }
            (Step::LoginNew, HsmFailure::Pkcs11 { code: rv::PIN_INCORRECT | rv::PIN_LOCKED, .. }) => {
                attempts::refused(turn, self.caller, self.caller.is_some());
                self.note_pending_refused(turn);
                self.ask(turn, Step::DecideObserve, HsmCall::Observe)
            }
            (Step::DecideLogin(which, id), HsmFailure::Pkcs11 { code: rv::PIN_INCORRECT | rv::PIN_LOCKED, .. }) => {
                attempts::refused(turn, self.caller, self.caller.is_some());
                turn.wipe(id);
                self.decided_refused(turn, which)
            }
            // The worker looks at the session before and after these calls; only the flags, or a
            // login, can tell which it was. For an unblock it looks before only.
            (Step::SetPin | Step::Initialise, HsmFailure::AlreadyLoggedIn) => self.unknown(turn, step, fault, false),
            // Of a login: C_Login was not called, or says that there is nothing to compare.
            (
                _,
                HsmFailure::AlreadyLoggedIn
                | HsmFailure::TokenGone
                | HsmFailure::NoWorker
                | HsmFailure::Refused(_)
                | HsmFailure::NotSettled,
            ) => self.not_made(turn, step, fault),
            (_, HsmFailure::Pkcs11 { .. }) => self.unknown(turn, step, fault, false),
        }
    }

    /// The step did not reach the token.
    pub(super) fn not_made(&mut self, turn: &mut Turn<'_>, step: Step, fault: Fault) -> Outcome<State> {
        self.close_not_made(turn, step);
        if step.leaves_doubt_when_not_made() {
            return self.undecided(turn, fault, false);
        }
        self.abort(turn, Answer::Failed(fault))
    }

    /// The step was withdrawn when the worker was lost.
    pub(super) fn withdrawn(&mut self, turn: &mut Turn<'_>, step: Step, fault: Fault) -> Outcome<State> {
        self.close_not_made(turn, step);
        if step.leaves_doubt_when_not_made() {
            return self.undecided(turn, fault, true);
        }
        self.abort_without_worker(turn, fault)
    }

    pub(super) fn close_not_made(&mut self, turn: &mut Turn<'_>, step: Step) {
        if step.is_login() {
            attempts::not_made(turn, self.caller);
        }
        if step == Step::SetPin {
            turn.slot.record.user.not_made();
            turn.save();
        }
        if step.is_by_so() {
            turn.slot.record.so.not_made();
            turn.save();
        }
        turn.wipe_any(step.secret());
    }

    /// The token may have heard the step, and nobody knows what it did.
    pub(super) fn unknown(
        &mut self,
        turn: &mut Turn<'_>,
        step: Step,
        fault: Fault,
        worker_lost: bool,
    ) -> Outcome<State> {
        if step.is_login() || (step == Step::SetPin && turn.slot.record.user.open) {
            attempts::unknown(turn, self.caller, fault);
        }
        if step.is_by_so() {
            turn.slot.record.so.unknown();
            turn.save();
        }
        turn.wipe_any(step.secret());
        if worker_lost {
            self.logged_in = false;
        }
        if step.is_after_calling() {
            return self.undecided(turn, fault, worker_lost);
        }
        if worker_lost {
            return self.abort_without_worker(turn, fault);
        }
        self.abort(turn, Answer::Failed(fault))
    }
}
