//! The proven PIN on its way to the applications, and back.

use statig::Outcome;

use super::{After, State, Step, Try, rest};
use crate::audit::AuditEvent;
use crate::command::{Answer, Caller, CommandKind};
use crate::effect::HsmCall;
use crate::fault::Fault;
use crate::safe::SecretId;
use crate::slot_data;
use crate::token::LoginState;
use crate::turn::Turn;

/// The PIN is proven: the applications get it.
pub(super) fn served(turn: &mut Turn<'_>, attempt: Try, pin: SecretId) -> Outcome<State> {
    begin_hand_over(turn, pin, attempt.caller.map(|caller| (caller, CommandKind::Activate)))
}

/// Hands the proven PIN over, unless the login that proved it is gone or nothing may begin any more.
pub(super) fn begin_hand_over(
    turn: &mut Turn<'_>,
    pin: SecretId,
    caller: Option<(Caller, CommandKind)>,
) -> Outcome<State> {
    if turn.halted {
        // Everybody has been answered; what the token proved is taken back at once.
        turn.wipe(pin);
        return take_back(turn, After::Logout(None));
    }
    if !turn.slot.is_logged_in() {
        return lose_token(turn, pin, caller);
    }
    // Between the beginning of an import and its end no application gets the PIN.
    if !turn.slot.importing {
        slot_data::hand_over(turn, pin);
    }
    activated_if_all_answered(turn, pin, caller)
}

pub(super) fn activated_if_all_answered(
    turn: &mut Turn<'_>,
    pin: SecretId,
    caller: Option<(Caller, CommandKind)>,
) -> Outcome<State> {
    if turn.slot.applications_pending() {
        return Outcome::Transition(State::HandingOver { pin, caller });
    }
    turn.journal(caller.map(|(caller, _)| caller.who), AuditEvent::Activated);
    if let Some((caller, kind)) = caller {
        match turn.slot.unaccepted_application_fault() {
            None => {
                turn.journal(Some(caller.who), AuditEvent::Completed(kind));
                turn.reply(caller, Answer::Done);
            }
            Some(fault) => {
                turn.journal(Some(caller.who), AuditEvent::Failed(kind, fault));
                turn.reply(caller, Answer::Failed(fault));
            }
        }
    }
    Outcome::Transition(State::Active { pin })
}

/// The token of a slot that had its PIN proven is gone: the PIN goes too.
pub(super) fn lose_token(turn: &mut Turn<'_>, pin: SecretId, caller: Option<(Caller, CommandKind)>) -> Outcome<State> {
    turn.wipe(pin);
    turn.journal(None, AuditEvent::TokenAbsent);
    if let Some((caller, kind)) = caller {
        turn.journal(Some(caller.who), AuditEvent::Failed(kind, Fault::TokenGone));
        turn.reply(caller, Answer::Failed(Fault::TokenGone));
    }
    take_back(turn, After::Rest(None))
}

pub(super) fn take_back(turn: &mut Turn<'_>, after: After) -> Outcome<State> {
    slot_data::withdraw(turn);
    taken_back_if_all_answered(turn, after)
}

pub(super) fn taken_back_if_all_answered(turn: &mut Turn<'_>, after: After) -> Outcome<State> {
    if turn.slot.applications_pending() {
        return Outcome::Transition(State::TakingBack { after });
    }
    match after {
        After::Logout(caller) => {
            let ticket = turn.call(HsmCall::Logout);
            Outcome::Transition(State::AtToken { ticket, step: Step::Logout(caller) })
        }
        After::Rest(caller) => deactivated(turn, caller, Ok(())),
    }
}

/// The activation is over; the caller hears what could not be taken back.
pub(super) fn deactivated(turn: &mut Turn<'_>, caller: Option<Caller>, logout: Result<(), Fault>) -> Outcome<State> {
    turn.journal(caller.map(|caller| caller.who), AuditEvent::Deactivated);
    if let Some(token) = &mut turn.slot.token
        && logout.is_ok()
    {
        token.login = LoginState::Public;
    }
    if let Err(fault) = logout {
        turn.slot.fault = Some(fault);
    }
    if let Some(caller) = caller {
        let answer = match logout.err().or(turn.slot.application_fault()) {
            None => {
                turn.journal(Some(caller.who), AuditEvent::Completed(CommandKind::Deactivate));
                Answer::Done
            }
            Some(fault) => {
                turn.journal(Some(caller.who), AuditEvent::Failed(CommandKind::Deactivate, fault));
                Answer::Failed(fault)
            }
        };
        turn.reply(caller, answer);
        return Outcome::Transition(rest::rest(turn));
    }
    go_on_after_loss(turn)
}

/// After an activation ended without an order: a token that is still there may open again.
pub(super) fn go_on_after_loss(turn: &mut Turn<'_>) -> Outcome<State> {
    match turn.slot.fault {
        None => rest::go_on(turn),
        Some(_) => Outcome::Transition(rest::rest(turn)),
    }
}
