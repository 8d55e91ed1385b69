//! Resting: where a slot belongs when nobody waits for anything, and whether it goes on by itself.

use statig::Outcome;

use super::{Source, State, Step, Try, attempt};
use crate::audit::{AttemptCause, AuditEvent};
use crate::command::Caller;
use crate::effect::HsmCall;
use crate::fault::{Fault, Refusal};
use crate::pin_change::ChangeOrder;
use crate::record::Knows;
use crate::status::Attention;
use crate::token::Presence;
use crate::turn::Turn;

/// The state that record and token ask for when nobody waits for anything.
pub(super) fn rest(turn: &mut Turn<'_>) -> State {
    let slot = &turn.slot;
    let Some(token) = slot.token else {
        return if slot.free { State::Uninitialised } else { State::Absent };
    };
    if !token.user_pin {
        return State::Uninitialised;
    }
    if token.locked {
        return State::Blocked;
    }
    if let (Some(wait_ms), None) = (slot.record.user.wait_ms(), slot.cooling_until_ms) {
        // The record has a wait and this start has not served it: it starts anew.
        turn.slot.cooling_until_ms = Some(turn.now.after_ms(wait_ms));
    }
    match turn.slot.cooling_until_ms {
        Some(until_ms) if turn.now.mono_ms < until_ms => State::CoolingDown { until_ms },
        Some(_) | None if turn.slot.doubt().is_some() => State::InDoubt,
        Some(_) | None => State::Locked,
    }
}

/// Rests, or begins what the service does without people: decides an interrupted change,
/// or opens a slot with its stored code.
pub(super) fn go_on(turn: &mut Turn<'_>) -> Outcome<State> {
    if !turn.stopping && turn.slot.token.is_some() {
        if turn.slot.has_open_change() {
            return decide(turn, None, false);
        }
        if turn.slot.opens_by_itself() && !turn.slot.held {
            let attempt = Try {
                source: Source::Stored,
                cause: AttemptCause::Automatic,
                caller: None,
                by: Knows::Current,
                confirmed: false,
                cleared: false,
            };
            return attempt::ready(turn, attempt);
        }
    }
    Outcome::Transition(rest(turn))
}

/// As `go_on`, but with flags read now: others may have spent tries since the last look.
pub(super) fn go_on_with_fresh_flags(turn: &mut Turn<'_>) -> Outcome<State> {
    if turn.stopping || turn.slot.has_open_change() || !turn.slot.opens_by_itself() {
        return go_on(turn);
    }
    let attempt = Try {
        source: Source::Stored,
        cause: AttemptCause::Automatic,
        caller: None,
        by: Knows::Current,
        confirmed: false,
        cleared: false,
    };
    let ticket = turn.call(HsmCall::Observe);
    Outcome::Transition(State::AtToken { ticket, step: Step::Observe(attempt) })
}

/// Whether a login that succeeded since the start may be made again: never a token's last try.
pub(super) fn may_repeat(turn: &Turn<'_>) -> bool {
    turn.slot.token.is_some_and(|token| token.user_pin && !token.locked && !token.final_try)
}

/// Takes in a look of the platform, and writes what it shows into the log.
pub(super) fn look(turn: &mut Turn<'_>, presence: Presence) {
    let before = turn.slot.attention;
    let was_there = turn.slot.token.is_some();
    turn.slot.look(presence);
    attend(turn, before);
    match (was_there, turn.slot.token.is_some()) {
        (false, true) => turn.journal(None, AuditEvent::TokenPresent),
        (true, false) => turn.journal(None, AuditEvent::TokenAbsent),
        (false, false) | (true, true) => {}
    }
}

/// Lets `pin_change` decide what the token has.
pub(super) fn decide(turn: &mut Turn<'_>, caller: Option<Caller>, confirmed: bool) -> Outcome<State> {
    *turn.change = Some(ChangeOrder::Decide { caller, confirmed });
    Outcome::Transition(State::Changing)
}

/// Why a resting slot cannot be opened or changed.
pub(super) fn why_not(turn: &Turn<'_>) -> Refusal {
    match turn.slot.token {
        None if turn.slot.free => Refusal::SlotUninitialised,
        None => turn.slot.refusal.unwrap_or(Refusal::SlotAbsent),
        Some(token) if !token.user_pin => Refusal::SlotUninitialised,
        Some(_) => Refusal::SlotBlocked,
    }
}

/// Why a working slot takes no order: somebody else's, or a call without an answer.
pub(super) fn busy(turn: &Turn<'_>) -> Refusal {
    match turn.slot.fault {
        Some(Fault::Unanswered(_)) => Refusal::SlotDoubtful,
        Some(_) | None => Refusal::Busy,
    }
}

/// Writes a rise of attention into the log, once.
pub(super) fn attend(turn: &mut Turn<'_>, before: Option<Attention>) {
    let rises = turn.slot.attention == Some(Attention::TriesSpentElsewhere);
    if rises && before != turn.slot.attention {
        turn.journal(None, AuditEvent::TriesSpentElsewhere);
    }
}
