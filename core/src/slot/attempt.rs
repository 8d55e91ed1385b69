//! A try of a PIN, step by step: flags, a clean session, the record, the login, the verdict.

use statig::Outcome;

use super::{After, Source, State, Step, Try, hand_over, order, rest};
use crate::attempts;
use crate::audit::{AttemptCause, AuditEvent};
use crate::command::{Answer, CommandKind};
use crate::effect::{HsmAnswer, HsmCall};
use crate::fault::{Fault, Function, HsmFailure, Refusal, rv};
use crate::record::{Knows, Mode};
use crate::safe::SecretId;
use crate::token::LoginState;
use crate::turn::Turn;

/// The flags are fresh: goes to the token with this try, or to the store for its code.
pub(super) fn ready(turn: &mut Turn<'_>, attempt: Try) -> Outcome<State> {
    let Some(token) = turn.slot.token else {
        let refusal = turn.slot.refusal.unwrap_or(Refusal::SlotAbsent);
        return order::end_refused(turn, attempt, refusal);
    };
    if token.locked {
        return order::end_refused(turn, attempt, Refusal::SlotBlocked);
    }
    if !token.user_pin {
        return order::end_refused(turn, attempt, Refusal::SlotUninitialised);
    }
    if token.login != LoginState::Public {
        if attempt.cleared {
            turn.wipe_any(attempt.source.secret());
            return order::fail(turn, attempt.caller, CommandKind::Activate, Fault::ModuleLies(Function::Logout));
        }
        let ticket = turn.call(HsmCall::Logout);
        let step = Step::Clear(Try { cleared: true, ..attempt });
        return Outcome::Transition(State::AtToken { ticket, step });
    }
    let needs_confirmation = turn.slot.record.user.needs_confirmation(turn.tries, token.final_try);
    if needs_confirmation && attempt.cause == AttemptCause::Person && !attempt.confirmed {
        return order::end_refused(turn, attempt, Refusal::LastTryUnconfirmed);
    }
    // Without a person nobody spends a token's last try.
    if token.final_try && attempt.cause == AttemptCause::Automatic {
        return order::end_refused(turn, attempt, Refusal::ActivationNeedsPerson);
    }
    match attempt.source {
        Source::Typed(id) | Source::Unsealed(id) | Source::Kept(id) => begin_login(turn, attempt, id),
        Source::Stored => {
            let Some(generation) = turn.slot.record.accepted else {
                return order::end_refused(turn, attempt, Refusal::CodeMissing);
            };
            match turn.unseal(generation) {
                Ok((ticket, id)) => Outcome::Transition(State::Unsealing { ticket, id, attempt }),
                Err(refusal) => order::end_refused(turn, attempt, refusal),
            }
        }
    }
}

/// Records the try, then makes it. Making a login again that succeeded since the start is
/// no try, unless it is refused.
pub(super) fn begin_login(turn: &mut Turn<'_>, attempt: Try, id: SecretId) -> Outcome<State> {
    if attempt.cause != AttemptCause::Repeat {
        attempts::begin(turn, attempt.caller, attempt.cause);
    }
    let ticket = turn.call(HsmCall::Login { pin: id });
    Outcome::Transition(State::AtToken { ticket, step: Step::Login(attempt, id) })
}

/// The token was heard.
pub(super) fn token_answered(turn: &mut Turn<'_>, step: Step, result: Result<HsmAnswer, HsmFailure>) -> Outcome<State> {
    if let Some(Fault::Unanswered(_)) = turn.slot.fault {
        turn.slot.fault = None;
    }
    if result == Err(HsmFailure::TokenGone) {
        turn.slot.token = None;
    }
    match step {
        Step::Observe(attempt) => match result {
            Ok(HsmAnswer::Observed(token)) => {
                turn.slot.observe(token);
                ready(turn, attempt)
            }
            Ok(_) => wrong_answer(turn, step),
            Err(failure) => not_made(turn, step, failure.fault(step.function())),
        },
        Step::Clear(attempt) => match result {
            Ok(HsmAnswer::LoggedOut) => {
                if let Some(token) = &mut turn.slot.token {
                    token.login = LoginState::Public;
                }
                ready(turn, attempt)
            }
            Ok(_) => wrong_answer(turn, step),
            Err(failure) => not_made(turn, step, failure.fault(step.function())),
        },
        Step::Login(attempt, id) => login_answered(turn, attempt, id, result),
        Step::Settle(attempt, id) => match result {
            Ok(HsmAnswer::Settled) => {
                forget_superseded(turn, attempt.by);
                hand_over::served(turn, attempt, id)
            }
            Ok(_) => wrong_answer(turn, step),
            // The code is right, so the slot opens; what it supersedes stays until a later
            // settle succeeds (rule 2), and the fault is shown.
            Err(failure) => {
                let fault = failure.fault(Function::Settle);
                if let Some(caller) = attempt.caller {
                    // Not *done*: until it is settled a power cut may bring the other code back.
                    turn.journal(Some(caller.who), AuditEvent::Failed(CommandKind::Activate, fault));
                    turn.reply(caller, Answer::Failed(fault));
                }
                let next = hand_over::served(turn, Try { caller: None, ..attempt }, id);
                turn.slot.fault = Some(fault);
                next
            }
        },
        Step::Logout(caller) => match result {
            Ok(HsmAnswer::LoggedOut) | Err(HsmFailure::TokenGone | HsmFailure::NoWorker) => {
                hand_over::deactivated(turn, caller, Ok(()))
            }
            Ok(_) => wrong_answer(turn, step),
            Err(failure) => hand_over::deactivated(turn, caller, Err(failure.fault(Function::Logout))),
        },
    }
}

/// The token was heard after the deadline. A login or logout is what it is; a try that had
/// not begun yet does not begin any more, since its person was told otherwise.
pub(super) fn late_answer(turn: &mut Turn<'_>, step: Step, result: Result<HsmAnswer, HsmFailure>) -> Outcome<State> {
    match (step, result) {
        (Step::Observe(attempt) | Step::Clear(attempt), Ok(HsmAnswer::Observed(_) | HsmAnswer::LoggedOut)) => {
            turn.slot.fault = None;
            turn.wipe_any(attempt.source.secret());
            if let Ok(HsmAnswer::Observed(token)) = result {
                turn.slot.observe(token);
            }
            if attempt.cause == AttemptCause::Repeat {
                return hand_over::take_back(turn, After::Rest(None));
            }
            Outcome::Transition(rest::rest(turn))
        }
        (_, _) => token_answered(turn, step, result),
    }
}

pub(super) fn login_answered(
    turn: &mut Turn<'_>,
    attempt: Try,
    id: SecretId,
    result: Result<HsmAnswer, HsmFailure>,
) -> Outcome<State> {
    let step = Step::Login(attempt, id);
    match result {
        Ok(HsmAnswer::LoggedIn) => {
            if attempt.cause != AttemptCause::Repeat {
                attempts::accepted(turn, attempt.caller);
            } else {
                turn.slot.fault = None;
                if let Some(token) = &mut turn.slot.token {
                    token.login = LoginState::User;
                }
            }
            if matches!(attempt.source, Source::Typed(_)) && supersedes(turn) {
                let ticket = turn.call(HsmCall::Settle);
                return Outcome::Transition(State::AtToken { ticket, step: Step::Settle(attempt, id) });
            }
            hand_over::served(turn, attempt, id)
        }
        Ok(_) => wrong_answer(turn, step),
        Err(HsmFailure::Pkcs11 { code: rv::PIN_INCORRECT, .. }) => login_refused(turn, attempt, id, false),
        Err(HsmFailure::Pkcs11 { code: rv::PIN_LOCKED, .. }) => login_refused(turn, attempt, id, true),
        Err(HsmFailure::Pkcs11 { code: rv::USER_PIN_NOT_INITIALIZED, function }) => {
            not_made(turn, step, Fault::Pkcs11 { code: rv::USER_PIN_NOT_INITIALIZED, function })
        }
        Err(HsmFailure::AlreadyLoggedIn) if !attempt.cleared => {
            if attempt.cause != AttemptCause::Repeat {
                attempts::not_made(turn, attempt.caller);
            }
            let source = match attempt.source {
                Source::Typed(_) | Source::Kept(_) | Source::Unsealed(_) => attempt.source,
                Source::Stored => Source::Unsealed(id),
            };
            let ticket = turn.call(HsmCall::Logout);
            let step = Step::Clear(Try { source, cleared: true, ..attempt });
            Outcome::Transition(State::AtToken { ticket, step })
        }
        Err(
            failure @ (HsmFailure::AlreadyLoggedIn
            | HsmFailure::TokenGone
            | HsmFailure::NoWorker
            | HsmFailure::Refused(_)
            | HsmFailure::NotSettled),
        ) => not_made(turn, step, failure.fault(Function::Login)),
        Err(failure @ HsmFailure::Pkcs11 { .. }) => unknown(turn, step, failure.fault(Function::Login)),
    }
}

pub(super) fn login_refused(turn: &mut Turn<'_>, attempt: Try, id: SecretId, locked: bool) -> Outcome<State> {
    attempts::refused(turn, attempt.caller, attempt.cause == AttemptCause::Person);
    turn.wipe(id);
    turn.slot.ask_other(attempt.by);
    if let Some(token) = &mut turn.slot.token {
        token.locked |= locked;
    }
    if let Some(caller) = attempt.caller {
        let refusal = match attempt.source {
            _ if locked => Refusal::SlotBlocked,
            Source::Typed(_) => Refusal::CodeWrong,
            Source::Stored | Source::Unsealed(_) | Source::Kept(_) => Refusal::StoredCodeRefused,
        };
        turn.reply(caller, Answer::Refused(refusal));
    }
    if attempt.cause == AttemptCause::Repeat {
        return hand_over::take_back(turn, After::Rest(None));
    }
    Outcome::Transition(rest::rest(turn))
}

/// The step did not reach the token: it costs nothing and proves nothing.
pub(super) fn not_made(turn: &mut Turn<'_>, step: Step, fault: Fault) -> Outcome<State> {
    match step {
        Step::Observe(attempt) | Step::Clear(attempt) => {
            turn.wipe_any(attempt.source.secret());
            end_try(turn, attempt, fault)
        }
        Step::Login(attempt, id) => {
            turn.wipe(id);
            if attempt.cause != AttemptCause::Repeat {
                attempts::not_made(turn, attempt.caller);
            }
            end_try(turn, attempt, fault)
        }
        Step::Settle(attempt, id) => {
            // The login before it was accepted and recorded; only the settle is missing.
            turn.wipe(id);
            end_try(turn, attempt, fault)
        }
        Step::Logout(caller) => hand_over::deactivated(turn, caller, Ok(())),
    }
}

/// The token may have heard the step, and nobody knows what it did.
pub(super) fn unknown(turn: &mut Turn<'_>, step: Step, fault: Fault) -> Outcome<State> {
    match step {
        // A repeated login counts as well: the worker may die of it each time.
        Step::Login(attempt, id) => {
            turn.wipe(id);
            attempts::unknown(turn, attempt.caller, fault);
            // The worker's return must not repeat the login: the next boot or a person may.
            turn.slot.held |= attempt.cause == AttemptCause::Automatic;
            end_try(turn, attempt, fault)
        }
        Step::Observe(_) | Step::Clear(_) | Step::Settle(..) | Step::Logout(_) => not_made(turn, step, fault),
    }
}

/// Ends a try with a fault. A slot that was active until now takes its PIN back first.
pub(super) fn end_try(turn: &mut Turn<'_>, attempt: Try, fault: Fault) -> Outcome<State> {
    let next = order::fail(turn, attempt.caller, CommandKind::Activate, fault);
    if attempt.cause == AttemptCause::Repeat {
        return hand_over::take_back(turn, After::Rest(None));
    }
    next
}

/// The worker, and the vendor's module in it, answered another question than was asked.
pub(super) fn wrong_answer(turn: &mut Turn<'_>, step: Step) -> Outcome<State> {
    let fault = Fault::ModuleLies(step.function());
    match step {
        Step::Logout(caller) => hand_over::deactivated(turn, caller, Err(fault)),
        Step::Observe(_) | Step::Clear(_) | Step::Login(..) | Step::Settle(..) => unknown(turn, step, fault),
    }
}

/// Whether a typed code that was accepted leaves something behind to resolve.
pub(super) fn supersedes(turn: &Turn<'_>) -> bool {
    let record = &turn.slot.record;
    record.accepted.is_some()
        || record.pending.is_some()
        || record.unblocking.is_some()
        || record.doubt.is_some()
        || record.change.is_some()
        || record.by_so.is_some()
        || record.mode == Mode::Generated
}

/// A typed code was accepted and settled: it rules, and the sealed ones go (rule 2).
pub(super) fn forget_superseded(turn: &mut Turn<'_>, by: Knows) {
    for generation in turn.slot.record.sealed() {
        turn.erase(generation);
    }
    let record = &mut turn.slot.record;
    let resolved = record.doubt.is_some() || record.change.is_some() || record.by_so.is_some();
    let switched = record.mode != Mode::Manual;
    record.accepted = None;
    record.pending = None;
    record.doubt = None;
    record.change = None;
    record.unblocking = None;
    record.by_so = None;
    record.mode = Mode::Manual;
    turn.slot.rule(by);
    turn.save();
    if resolved {
        turn.journal(None, AuditEvent::DoubtResolved);
    }
    if switched {
        turn.journal(None, AuditEvent::ModeIs(Mode::Manual));
    }
}
