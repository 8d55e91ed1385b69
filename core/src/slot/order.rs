//! Orders of people: checked completely before the token is touched, then begun or refused.

use statig::Outcome;

use super::{After, Source, State, Step, Try, hand_over, rest};
use crate::audit::{AttemptCause, AuditEvent};
use crate::code;
use crate::command::{Answer, Caller, CommandKind};
use crate::effect::{ApplicationSet, HsmCall};
use crate::fault::{Fault, Refusal};
use crate::pin_change::ChangeOrder;
use crate::record::{ChangeKind, Doubt, Knowledge, Knows, Mode};
use crate::safe::SecretId;
use crate::turn::Turn;

/// A person's wish to bring a token back by its SO PIN.
#[derive(Clone, Copy)]
pub(super) struct Rescue {
    pub(super) caller: Caller,
    pub(super) so_pin: SecretId,
    pub(super) to: Mode,
    pub(super) new_code: Option<SecretId>,
    pub(super) confirmed: bool,
}

/// A person's wish for another token PIN.
#[derive(Clone, Copy)]
pub(super) struct Wish {
    pub(super) caller: Caller,
    pub(super) kind: CommandKind,
    pub(super) to: Mode,
    pub(super) code: Option<SecretId>,
    pub(super) new_code: Option<SecretId>,
    pub(super) next: Knowledge,
    pub(super) confirmed: bool,
}

pub(super) fn refuse(
    turn: &mut Turn<'_>,
    caller: Caller,
    kind: CommandKind,
    refusal: Refusal,
    secrets: [Option<SecretId>; 2],
) -> Outcome<State> {
    for secret in secrets {
        turn.wipe_any(secret);
    }
    turn.journal(Some(caller.who), AuditEvent::Refused(kind, refusal));
    turn.reply(caller, Answer::Refused(refusal));
    Outcome::Handled
}

/// Ends a try without a verdict on the PIN, and rests.
pub(super) fn fail(turn: &mut Turn<'_>, caller: Option<Caller>, kind: CommandKind, fault: Fault) -> Outcome<State> {
    turn.slot.fault = Some(fault);
    turn.journal(caller.map(|caller| caller.who), AuditEvent::Failed(kind, fault));
    if let Some(caller) = caller {
        turn.reply(caller, Answer::Failed(fault));
    }
    Outcome::Transition(rest::rest(turn))
}

/// Ends a try with a refusal after it began, and rests.
pub(super) fn end_refused(turn: &mut Turn<'_>, attempt: Try, refusal: Refusal) -> Outcome<State> {
    turn.wipe_any(attempt.source.secret());
    if let Some(caller) = attempt.caller {
        turn.journal(Some(caller.who), AuditEvent::Refused(CommandKind::Activate, refusal));
        turn.reply(caller, Answer::Refused(refusal));
    }
    if attempt.cause == AttemptCause::Repeat {
        // The slot was active until now: its applications still have the PIN.
        return hand_over::take_back(turn, After::Rest(None));
    }
    Outcome::Transition(rest::rest(turn))
}

pub(super) fn activate(
    turn: &mut Turn<'_>,
    caller: Caller,
    code: Option<SecretId>,
    by: Knows,
    confirmed: bool,
) -> Outcome<State> {
    turn.slot.accept = ApplicationSet::NONE;
    let record = &turn.slot.record;
    let stored_rules = record.mode == Mode::Generated && record.accepted.is_some();
    let undisturbed = !record.user.automatic_stopped && turn.slot.doubt().is_none();
    let source = match code {
        Some(id) => {
            if stored_rules && undisturbed {
                return refuse(turn, caller, CommandKind::Activate, Refusal::CodeNotWanted, [code, None]);
            }
            if let Err(refusal) = code::check_in_safe(turn.secrets, id, turn.slot.pin_chars_max()) {
                return refuse(turn, caller, CommandKind::Activate, refusal, [code, None]);
            }
            Source::Typed(id)
        }
        None => {
            let kept = record.mode == Mode::Manual && turn.slot.keeps_a_code();
            // The code of an unblock that nobody saw the end of: it may be the one that rules.
            let rescued = record.unblocking.is_some_and(|kept| kept.may_rule()) && record.user.automatic_stopped;
            let decidable = turn.slot.has_open_change()
                || record.doubt == Some(Doubt::BothRefused)
                || ((kept || rescued) && confirmed);
            if !stored_rules && !decidable {
                let refusal = if kept { Refusal::KeptCode } else { Refusal::CodeMissing };
                return refuse(turn, caller, CommandKind::Activate, refusal, [None, None]);
            }
            if decidable {
                turn.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::Activate));
                return rest::decide(turn, Some(caller), confirmed);
            }
            Source::Stored
        }
    };
    turn.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::Activate));
    turn.slot.held = false;
    let attempt = Try { source, cause: AttemptCause::Person, caller: Some(caller), by, confirmed, cleared: false };
    let ticket = turn.call(HsmCall::Observe);
    Outcome::Transition(State::AtToken { ticket, step: Step::Observe(attempt) })
}

pub(super) fn change(turn: &mut Turn<'_>, pin: Option<SecretId>, wish: Wish) -> Outcome<State> {
    let from = turn.slot.record.mode;
    let kind = match (wish.kind, from, wish.to) {
        (CommandKind::Mode, _, _) if from == wish.to && turn.slot.record.knowledge == wish.next => {
            return refuse(turn, wish.caller, wish.kind, Refusal::ModeAlready, [wish.code, wish.new_code]);
        }
        (_, Mode::Generated, Mode::Generated) => ChangeKind::GeneratedToGenerated,
        (_, Mode::Generated, Mode::Manual) => ChangeKind::GeneratedToManual,
        (_, Mode::Manual, Mode::Generated) => ChangeKind::ManualToGenerated,
        (_, Mode::Manual, Mode::Manual) => ChangeKind::ManualToManual,
    };
    if turn.slot.keeps_a_code() {
        return refuse(turn, wish.caller, wish.kind, Refusal::ActivateFirst, [wish.code, wish.new_code]);
    }
    if turn.slot.is_open_between_two() {
        return refuse(turn, wish.caller, wish.kind, Refusal::CodeOldOrNew, [wish.code, wish.new_code]);
    }
    if let Err(refusal) = check_codes(turn, from, wish) {
        return refuse(turn, wish.caller, wish.kind, refusal, [wish.code, wish.new_code]);
    }
    turn.journal(Some(wish.caller.who), AuditEvent::Ordered(wish.kind));
    *turn.change = Some(ChangeOrder::Change {
        kind,
        command: wish.kind,
        caller: wish.caller,
        confirmed: wish.confirmed,
        active: pin,
        code: wish.code,
        new_code: wish.new_code,
        next: wish.next,
    });
    Outcome::Transition(State::Changing)
}

/// Another token PIN by the SO PIN: checked as far as it can be before the token is touched.
pub(super) fn unblock(turn: &mut Turn<'_>, rescue: Rescue) -> Outcome<State> {
    let Rescue { caller, so_pin, to, new_code, confirmed } = rescue;
    if let Err(refusal) = may_unblock(turn, rescue) {
        return refuse(turn, caller, CommandKind::Unblock, refusal, [Some(so_pin), new_code]);
    }
    turn.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::Unblock));
    turn.slot.held = false;
    let kind = match to {
        Mode::Generated => ChangeKind::Unblock,
        Mode::Manual => ChangeKind::UnblockToManual,
    };
    *turn.change = Some(ChangeOrder::BySo { kind, caller, confirmed, so_pin, new_code });
    Outcome::Transition(State::Changing)
}

fn may_unblock(turn: &mut Turn<'_>, rescue: Rescue) -> Result<(), Refusal> {
    may_prove_so(turn, rescue.so_pin)?;
    match (rescue.to, rescue.new_code) {
        (Mode::Generated, Some(_)) => Err(Refusal::NewCodeNotWanted),
        (Mode::Generated, None) => code::generated_chars(turn.slot.new_pin_chars_max()).map(|_| ()),
        (Mode::Manual, None) => Err(Refusal::NewCodeMissing),
        (Mode::Manual, Some(id)) => code::check_in_safe(turn.secrets, id, turn.slot.new_pin_chars_max()),
    }
}

/// The end of a slot's life, with its token there.
pub(super) fn decommission(
    turn: &mut Turn<'_>,
    caller: Caller,
    so_pin: Option<SecretId>,
    confirmed: bool,
) -> Outcome<State> {
    if turn.slot.token.is_none() {
        // A free token is not the slot's own, and an initialisation that nobody saw the end of may
        // have made one: its sealed code is kept, and `init` goes on.
        return refuse(turn, caller, CommandKind::Decommission, Refusal::SlotUninitialised, [so_pin, None]);
    }
    let Some(so_pin) = so_pin else {
        return refuse(turn, caller, CommandKind::Decommission, Refusal::TokenIsThere, [None, None]);
    };
    if let Err(refusal) = may_prove_so(turn, so_pin) {
        return refuse(turn, caller, CommandKind::Decommission, refusal, [Some(so_pin), None]);
    }
    turn.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::Decommission));
    let kind = ChangeKind::Decommission;
    *turn.change = Some(ChangeOrder::BySo { kind, caller, confirmed, so_pin, new_code: None });
    Outcome::Transition(State::Changing)
}

/// The end of a slot's life, with its token gone or replaced: what is kept for it is forgotten.
pub(super) fn forget_token(turn: &mut Turn<'_>, caller: Caller, so_pin: Option<SecretId>) -> Outcome<State> {
    let refusal = match (so_pin, turn.slot.refusal) {
        _ if !turn.slot.looked => Some(Refusal::NotStarted),
        (Some(_), Some(refusal)) => Some(refusal),
        (Some(_), None) => Some(Refusal::SoPinNotWanted),
        // One of those tokens may be the slot's own.
        (None, Some(refusal @ Refusal::SlotAmbiguous)) => Some(refusal),
        (None, _) => None,
    };
    if let Some(refusal) = refusal {
        return refuse(turn, caller, CommandKind::Decommission, refusal, [so_pin, None]);
    }
    turn.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::Decommission));
    for generation in turn.slot.record.sealed() {
        turn.erase(generation);
    }
    turn.slot.forget();
    turn.journal(Some(caller.who), AuditEvent::SlotForgotten);
    turn.journal(Some(caller.who), AuditEvent::Completed(CommandKind::Decommission));
    turn.reply(caller, Answer::Done);
    // Another token may be waiting there; the next look shows it.
    Outcome::Transition(rest::rest(turn))
}

/// Whether a try of the SO PIN may be made, as far as is known without asking the token.
fn may_prove_so(turn: &mut Turn<'_>, so_pin: SecretId) -> Result<(), Refusal> {
    if turn.slot.is_so_cooling(turn.now) {
        return Err(Refusal::SlotCoolingDown);
    }
    check_so_pin(turn, so_pin)
}

pub(super) fn initialise(
    turn: &mut Turn<'_>,
    caller: Caller,
    so_pin: SecretId,
    free_slot: Option<u64>,
    confirmed: bool,
) -> Outcome<State> {
    if turn.slot.had_token() {
        return refuse(turn, caller, CommandKind::Init, Refusal::SlotHasToken, [Some(so_pin), None]);
    }
    if turn.slot.is_so_cooling(turn.now) {
        return refuse(turn, caller, CommandKind::Init, Refusal::SlotCoolingDown, [Some(so_pin), None]);
    }
    if let Err(refusal) = check_so_pin(turn, so_pin) {
        return refuse(turn, caller, CommandKind::Init, refusal, [Some(so_pin), None]);
    }
    turn.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::Init));
    *turn.change = Some(ChangeOrder::Initialise { caller, confirmed, so_pin, free_slot });
    Outcome::Transition(State::Changing)
}

/// An SO PIN has the token's own rules; we only refuse what nobody can have meant.
pub(super) fn check_so_pin(turn: &Turn<'_>, id: SecretId) -> Result<(), Refusal> {
    let mut verdict = Err(Refusal::CodeMissing);
    let lent = turn.secrets.lend(id, &mut |bytes| {
        let printable = bytes.iter().all(|byte| (0x20..=0x7E).contains(byte));
        verdict = match (bytes.is_empty(), printable) {
            (true, _) => Err(Refusal::CodeMissing),
            (false, true) => Ok(()),
            (false, false) => Err(Refusal::CodeNotPrintable),
        };
    });
    lent.ok_or(Refusal::CodeMissing)?;
    verdict
}

/// Checks that exactly the codes are there that the change needs, and that they can be codes.
pub(super) fn check_codes(turn: &Turn<'_>, from: Mode, wish: Wish) -> Result<(), Refusal> {
    match (from, wish.code) {
        (Mode::Generated, Some(_)) => return Err(Refusal::CodeNotWanted),
        (Mode::Manual, None) => return Err(Refusal::CodeMissing),
        (Mode::Manual, Some(id)) => code::check_in_safe(turn.secrets, id, turn.slot.pin_chars_max())?,
        (Mode::Generated, None) => {}
    }
    match (wish.to, wish.new_code) {
        (Mode::Generated, Some(_)) => return Err(Refusal::NewCodeNotWanted),
        (Mode::Generated, None) => code::generated_chars(turn.slot.new_pin_chars_max()).map(|_| ()),
        (Mode::Manual, None) => Err(Refusal::NewCodeMissing),
        (Mode::Manual, Some(id)) => code::check_in_safe(turn.secrets, id, turn.slot.new_pin_chars_max()),
    }?;
    let (Some(old), Some(new)) = (wish.code, wish.new_code) else { return Ok(()) };
    let mut unchanged = false;
    turn.secrets.lend(old, &mut |old| {
        turn.secrets.lend(new, &mut |new| unchanged = code::equal(old, new));
    });
    if unchanged { Err(Refusal::CodeUnchanged) } else { Ok(()) }
}
