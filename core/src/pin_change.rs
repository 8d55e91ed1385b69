//! The token PIN change: a transaction between our store and a token that shares none.
//!
//! Intent, and the new code if it is ours, are durable first (*intended*); a second record
//! (*calling*) stands before `C_SetPIN`. Then: `C_SetPIN`, log out, state read as public,
//! `C_Login` with the new PIN, settle, promote. A stored code is erased only after another
//! code of the slot was accepted and settled; never because one was refused.
//!
//! After a restart, a lost worker or an answer that decides nothing, the same machine
//! *decides* what the token has, flags first, at most one refused login (two only if both
//! stored codes are wrong):
//!
//! | change | tried | accepted | refused |
//! |---|---|---|---|
//! | generated → generated | new, then old | that one rules | both: *doubtful*, both kept |
//! | manual → generated | new | it rules | manual; the new one kept until a manual code is accepted |
//! | generated → manual | old | still generated | manual; the old one kept until a manual code is accepted |
//! | manual → manual | none | – | people try the new, then the old |
//! | initialise | none: the flags say it | – | – |
//!
//! ```text
//! top
//! ├── preparing        nothing is durable on the token yet: an abort undoes everything
//! │   ├── ClosingApplications
//! │   ├── Drawing
//! │   └── UnsealingOld
//! ├── AtToken          before `SetPin` an abort, after it a decision
//! ├── Doubtful         the deadline is over, the answer is not there
//! ├── UnsealingForDecision
//! └── Ended
//! ```

use statig::Outcome;
use statig::blocking::{self, IntoStateMachine, IntoStateMachineExt as _};
use statig::prelude::InitializedStateMachine;

use crate::attempts;
use crate::audit::{AttemptCause, AuditEvent};
use crate::code;
use crate::command::{Answer, Caller, CommandKind};
use crate::effect::{HsmAnswer, HsmCall, Outcome as EffectOutcome, Ticket};
use crate::fault::{Fault, Function, HsmFailure, Refusal, rv};
use crate::fmt;
use crate::limits::GENERATED_CHARS;
use crate::record::{Change, ChangeKind, Doubt, Mode};
use crate::safe::SecretId;
use crate::slot_data::{application_answered, applications_overdue, withdraw};
use crate::token::LoginState;
use crate::turn::Turn;

/// What a change should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ChangeOrder {
    /// Replace the token PIN.
    Change {
        /// From what to what.
        kind: ChangeKind,
        /// As which command.
        command: CommandKind,
        /// Who waits.
        caller: Caller,
        /// Whether the last-try confirmation was typed.
        confirmed: bool,
        /// The PIN of the slot, if it is active.
        active: Option<SecretId>,
        /// The present manual code.
        code: Option<SecretId>,
        /// The new manual code.
        new_code: Option<SecretId>,
    },
    /// Give the token its first user PIN.
    Initialise {
        /// Who waits.
        caller: Caller,
        /// Whether the last-try confirmation was typed.
        confirmed: bool,
        /// The SO PIN.
        so_pin: SecretId,
        /// Which free token.
        free_slot: Option<u64>,
    },
    /// Find out what the token has after an interrupted change.
    Decide {
        /// Who waits, if a person ordered it.
        caller: Option<Caller>,
        /// Whether the last-try confirmation was typed.
        confirmed: bool,
    },
}

/// How a change ended, for the slot machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ChangeEnd {
    /// What follows.
    pub then: Then,
    /// Who still waits, for *active*; everybody else has been answered.
    pub caller: Option<(Caller, CommandKind)>,
}

/// What follows a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Then {
    /// The session holds a login with this PIN: hand it over.
    HandOver(SecretId),
    /// The slot was active with this PIN, and the worker is gone.
    Reconnect(SecretId),
    /// The session holds a login that nobody wants: log out.
    Logout,
    /// Rest; nothing goes on by itself.
    Rest,
    /// Rest, or go on by itself with the stored code.
    GoOn,
    /// The outcome is unknown and the token is there: decide.
    Decide,
}

impl Then {
    /// The secret that changes hands.
    #[must_use]
    pub const fn secret(self) -> Option<SecretId> {
        match self {
            Then::HandOver(pin) | Then::Reconnect(pin) => Some(pin),
            Then::Logout | Then::Rest | Then::GoOn | Then::Decide => None,
        }
    }
}

/// What happened to a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ChangeEvent {
    /// It begins.
    Begin,
    /// An effect of this machine ended.
    Done(Ticket, EffectOutcome),
    /// The effect it waits for was not answered in time.
    DeadlinePassed,
    /// The HSM worker died.
    WorkerLost,
}

/// Which of the two sealed codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Which {
    /// The one never accepted yet.
    Pending,
    /// The one accepted last.
    Accepted,
}

/// What the token was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Step {
    /// Fresh flags before anything.
    Observe,
    /// Log out a leftover login.
    Clear,
    /// Prove the present PIN.
    LoginOld,
    /// `C_SetPIN`.
    SetPin,
    /// `C_InitToken` and `C_InitPIN`.
    Initialise,
    /// Log out after the change.
    Logout,
    /// The state must read as public before the new PIN is proven.
    ReadPublic,
    /// Prove the new PIN.
    LoginNew,
    /// Make the module's files durable.
    Settle,
    /// Deciding: fresh flags.
    DecideObserve,
    /// Deciding: log out a leftover login.
    DecideClear,
    /// Deciding: try a sealed code.
    DecideLogin(Which, SecretId),
    /// Deciding: make the module's files durable before the other code is erased.
    DecideSettle(Which, SecretId),
    /// Deciding: a refusal, or the flags, showed what the token has; a power cut must not
    /// bring back what it had before once the record says so.
    DecideSettleShown,
}

impl Step {
    const fn function(self) -> Function {
        match self {
            Step::Observe | Step::ReadPublic | Step::DecideObserve => Function::GetTokenInfo,
            Step::Clear | Step::Logout | Step::DecideClear => Function::Logout,
            Step::LoginOld | Step::LoginNew | Step::DecideLogin(..) => Function::Login,
            Step::SetPin => Function::SetPin,
            Step::Initialise => Function::InitPin,
            Step::Settle | Step::DecideSettle(..) | Step::DecideSettleShown => Function::Settle,
        }
    }

    /// Whether the token may have been changed when this step is under way.
    const fn is_after_calling(self) -> bool {
        match self {
            Step::Observe | Step::Clear | Step::LoginOld => false,
            Step::SetPin
            | Step::Initialise
            | Step::Logout
            | Step::ReadPublic
            | Step::LoginNew
            | Step::Settle
            | Step::DecideObserve
            | Step::DecideClear
            | Step::DecideLogin(..)
            | Step::DecideSettle(..)
            | Step::DecideSettleShown => true,
        }
    }

    /// Whether the token may have been changed by an earlier step, even if this one was not made.
    const fn leaves_doubt_when_not_made(self) -> bool {
        self.is_after_calling() && !matches!(self, Step::SetPin | Step::Initialise)
    }

    const fn is_login(self) -> bool {
        matches!(self, Step::LoginOld | Step::LoginNew | Step::DecideLogin(..))
    }

    const fn secret(self) -> Option<SecretId> {
        match self {
            Step::DecideLogin(_, id) | Step::DecideSettle(_, id) => Some(id),
            Step::Observe
            | Step::Clear
            | Step::LoginOld
            | Step::SetPin
            | Step::Initialise
            | Step::Logout
            | Step::ReadPublic
            | Step::LoginNew
            | Step::Settle
            | Step::DecideObserve
            | Step::DecideClear
            | Step::DecideSettleShown => None,
        }
    }
}

/// Where a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum State {
    /// Not begun.
    Waiting,
    /// The applications are giving the PIN back. Left when all did, or one could not.
    ClosingApplications,
    /// The new code is being drawn, or decrypted where an earlier initialisation sealed it.
    Drawing {
        /// Of the effect.
        ticket: Ticket,
        /// Where it goes.
        id: SecretId,
    },
    /// The present stored code is being decrypted.
    UnsealingOld {
        /// Of the effect.
        ticket: Ticket,
        /// Where it goes.
        id: SecretId,
    },
    /// A stored code is being decrypted, to decide.
    UnsealingForDecision {
        /// Of the effect.
        ticket: Ticket,
        /// Which.
        which: Which,
        /// Where it goes.
        id: SecretId,
    },
    /// The token was asked something.
    AtToken {
        /// Of the effect.
        ticket: Ticket,
        /// What.
        step: Step,
    },
    /// The token did not answer in time. Only its answer, or the end of the worker, leads out.
    Doubtful {
        /// Of the effect.
        ticket: Ticket,
        /// What.
        step: Step,
    },
    /// Over: `Turn::change_end` has been set.
    Ended,
}

impl State {
    /// The effect whose deadline counts now.
    #[must_use]
    pub const fn awaited(&self) -> Option<Ticket> {
        match self {
            State::Drawing { ticket, .. }
            | State::UnsealingOld { ticket, .. }
            | State::UnsealingForDecision { ticket, .. }
            | State::AtToken { ticket, .. } => Some(*ticket),
            State::Waiting | State::ClosingApplications | State::Doubtful { .. } | State::Ended => None,
        }
    }
}

/// The groups of states that answer alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Superstate {
    /// Answers every leftover.
    Top,
    /// Nothing was called yet: an abort undoes everything.
    Preparing,
}

/// The token PIN change; statig is hidden behind it.
pub struct PinChange {
    machine: InitializedStateMachine<Rules>,
}

/// What one change knows, whatever its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    order: ChangeOrder,
    kind: ChangeKind,
    caller: Option<Caller>,
    /// The PIN that `C_SetPIN` gets as old: typed, or unsealed. `None`: that of the active slot.
    old: Option<SecretId>,
    /// The new PIN: typed or drawn.
    new: Option<SecretId>,
    /// Whether our session holds a login.
    logged_in: bool,
    /// Whether the login that we hold was made anew by this change, with `old`.
    relogged: bool,
    /// Whether a leftover login was already logged out.
    cleared: bool,
    /// Deciding: the pending code was refused.
    pending_refused: bool,
    /// An earlier initialisation was never decided: its pending code is used again, so that
    /// whichever of the two calls took effect, the code is kept.
    goes_on: bool,
}

impl PinChange {
    /// Begins a change; the machine ends by setting `Turn::change_end`.
    #[must_use]
    pub fn begin(order: ChangeOrder, turn: &mut Turn<'_>) -> Self {
        let mut change = PinChange::in_state(Rules::new(order, turn), State::Waiting, turn);
        change.handle(ChangeEvent::Begin, turn);
        change
    }

    /// A machine in any state: for golden tables.
    #[must_use]
    pub fn in_state(rules: Rules, state: State, turn: &mut Turn<'_>) -> Self {
        let mut machine = rules.uninitialized_state_machine();
        *machine.state_mut() = state;
        PinChange { machine: machine.init_with_context(turn) }
    }

    /// Where the change is.
    #[must_use]
    pub fn state(&self) -> State {
        *self.machine.state()
    }

    /// Takes one event.
    pub fn handle(&mut self, event: ChangeEvent, turn: &mut Turn<'_>) {
        self.machine.handle_with_context(&event, turn);
    }

    /// How many secrets it owns; checkers compare it with the Safe.
    #[must_use]
    pub fn secrets(&self) -> usize {
        let rules: &Rules = &self.machine;
        let active = match rules.order {
            ChangeOrder::Change { active, .. } => active,
            ChangeOrder::Initialise { so_pin, .. } => Some(so_pin),
            ChangeOrder::Decide { .. } => None,
        };
        let in_state = match self.state() {
            State::Drawing { id, .. } | State::UnsealingOld { id, .. } | State::UnsealingForDecision { id, .. } => {
                Some(id)
            }
            State::AtToken { step, .. } | State::Doubtful { step, .. } => step.secret(),
            State::Waiting | State::ClosingApplications => None,
            State::Ended => return 0,
        };
        [active, rules.old, rules.new, in_state].iter().flatten().count()
    }
}

impl Rules {
    /// What an order is about, as far as the slot's record knows.
    #[must_use]
    pub fn new(order: ChangeOrder, turn: &Turn<'_>) -> Self {
        let (kind, caller, old, new, logged_in) = match order {
            ChangeOrder::Change { kind, caller, active, code, new_code, .. } => {
                (kind, Some(caller), code, new_code, active.is_some())
            }
            ChangeOrder::Initialise { caller, .. } => (ChangeKind::Initialise, Some(caller), None, None, false),
            ChangeOrder::Decide { caller, .. } => {
                // Without a change under way both sealed codes were refused, or are kept beside
                // a manual one: they are tried as after an interrupted change of generated codes.
                let kind = turn.slot.record.change.map_or(ChangeKind::GeneratedToGenerated, |change| change.kind);
                (kind, caller, None, None, false)
            }
        };
        let goes_on = matches!(order, ChangeOrder::Initialise { .. })
            && turn.slot.record.change.is_some()
            && turn.slot.record.pending.is_some();
        let pending_refused = matches!(order, ChangeOrder::Decide { .. })
            && turn.slot.record.change.is_some_and(|change| change.pending_refused);
        Rules { order, kind, caller, old, new, logged_in, relogged: false, cleared: false, pending_refused, goes_on }
    }

    /// The same with the new code drawn already, where the change makes one: for golden tables.
    #[must_use]
    pub fn with_drawn(self, id: SecretId) -> Self {
        let new = if self.makes_a_code() && self.is_order() { Some(id) } else { self.new };
        Rules { new, ..self }
    }

    const fn command(&self) -> CommandKind {
        match self.order {
            ChangeOrder::Change { command, .. } => command,
            ChangeOrder::Initialise { .. } => CommandKind::Init,
            ChangeOrder::Decide { .. } => CommandKind::Activate,
        }
    }

    const fn confirmed(&self) -> bool {
        match self.order {
            ChangeOrder::Change { confirmed, .. }
            | ChangeOrder::Initialise { confirmed, .. }
            | ChangeOrder::Decide { confirmed, .. } => confirmed,
        }
    }

    const fn active(&self) -> Option<SecretId> {
        match self.order {
            ChangeOrder::Change { active, .. } => active,
            ChangeOrder::Initialise { .. } | ChangeOrder::Decide { .. } => None,
        }
    }

    const fn so_pin(&self) -> Option<SecretId> {
        match self.order {
            ChangeOrder::Initialise { so_pin, .. } => Some(so_pin),
            ChangeOrder::Change { .. } | ChangeOrder::Decide { .. } => None,
        }
    }

    const fn is_order(&self) -> bool {
        match self.order {
            ChangeOrder::Change { .. } | ChangeOrder::Initialise { .. } => true,
            ChangeOrder::Decide { .. } => false,
        }
    }

    /// Whether the new PIN is ours: made here, sealed, promoted.
    const fn makes_a_code(&self) -> bool {
        match self.kind {
            ChangeKind::Initialise | ChangeKind::GeneratedToGenerated | ChangeKind::ManualToGenerated => true,
            ChangeKind::GeneratedToManual | ChangeKind::ManualToManual => false,
        }
    }

    // Ends.

    fn reply(&mut self, turn: &mut Turn<'_>, answer: Answer) {
        let Some(caller) = self.caller.take() else { return };
        match answer {
            Answer::Done => turn.journal(Some(caller.who), AuditEvent::Completed(self.command())),
            Answer::Refused(refusal) => {
                turn.journal(Some(caller.who), AuditEvent::Refused(self.command(), refusal));
            }
            Answer::Failed(fault) => turn.journal(Some(caller.who), AuditEvent::Failed(self.command(), fault)),
        }
        turn.reply(caller, answer);
    }

    fn end(&mut self, turn: &mut Turn<'_>, then: Then) -> Outcome<State> {
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
    fn abort(&mut self, turn: &mut Turn<'_>, answer: Answer) -> Outcome<State> {
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
    fn abort_without_worker(&mut self, turn: &mut Turn<'_>, fault: Fault) -> Outcome<State> {
        let then = self.active().map_or(Then::Rest, Then::Reconnect);
        self.abort_then(turn, Answer::Failed(fault), then)
    }

    fn abort_then(&mut self, turn: &mut Turn<'_>, answer: Answer, then: Then) -> Outcome<State> {
        if self.is_order() && !self.goes_on && turn.slot.record.change.take().is_some() {
            if self.makes_a_code() {
                let pending = turn.slot.record.pending.take();
                turn.erase(pending);
            }
            turn.save();
            turn.journal(None, AuditEvent::ChangeUndone(self.kind));
        }
        if let Answer::Failed(fault) = answer {
            turn.slot.fault = Some(fault);
        }
        self.reply(turn, answer);
        self.end(turn, then)
    }

    /// The token may have the old PIN or the new one.
    fn undecided(&mut self, turn: &mut Turn<'_>, fault: Fault, worker_lost: bool) -> Outcome<State> {
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

    // The order, step by step.

    fn begin_order(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
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
            ChangeOrder::Decide { .. } => self.ask(turn, Step::DecideObserve, HsmCall::Observe),
        }
    }

    fn ask(&mut self, turn: &mut Turn<'_>, step: Step, call: HsmCall) -> Outcome<State> {
        let ticket = turn.call(call);
        Outcome::Transition(State::AtToken { ticket, step })
    }

    fn applications_closed(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        if turn.slot.applications_pending() {
            return Outcome::Transition(State::ClosingApplications);
        }
        if turn.slot.application_fault().is_some() {
            return self.abort(turn, Answer::Refused(Refusal::ApplicationUnreachable));
        }
        self.draw(turn)
    }

    fn draw(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        if !self.makes_a_code() {
            return self.intend(turn);
        }
        let drawn = match turn.slot.record.pending {
            Some(generation) if self.goes_on => turn.unseal(generation),
            Some(_) | None => turn.random(),
        };
        match drawn {
            Ok((ticket, id)) => Outcome::Transition(State::Drawing { ticket, id }),
            Err(refusal) => self.abort(turn, Answer::Refused(refusal)),
        }
    }

    fn drawn(&mut self, turn: &mut Turn<'_>, id: SecretId) -> Outcome<State> {
        self.new = Some(id);
        let chars = match code::generated_chars(turn.slot.pin_chars_max()) {
            Ok(chars) => chars.min(GENERATED_CHARS),
            Err(refusal) => return self.abort(turn, Answer::Refused(refusal)),
        };
        match turn.watch.generate(turn.secrets, id, chars) {
            Ok(()) => self.intend(turn),
            Err(fault) => self.abort(turn, Answer::Failed(fault)),
        }
    }

    /// Intent, and the new code if it is ours, become durable.
    fn intend(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        turn.slot.record.change = Some(Change::intended(self.kind));
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
            ChangeOrder::Change { .. } | ChangeOrder::Decide { .. } => self.ask(turn, Step::Observe, HsmCall::Observe),
        }
    }

    /// No step lies between intent and call here, so both records are one.
    fn call_initialise(&mut self, turn: &mut Turn<'_>, so_pin: SecretId, free_slot: Option<u64>) -> Outcome<State> {
        let Some(new) = self.new else { return self.bug(turn, BUG_NO_PIN) };
        turn.slot.record.so.begin();
        self.calling(turn);
        self.ask(turn, Step::Initialise, HsmCall::Initialise { so_pin, new, free_slot })
    }

    fn calling(&mut self, turn: &mut Turn<'_>) {
        turn.slot.record.change = Some(Change::calling(self.kind));
        turn.save();
        turn.journal(self.caller.map(|caller| caller.who), AuditEvent::ChangeCalling(self.kind));
    }

    /// The flags are fresh: proves the old PIN, unless the slot is logged in with it.
    fn observed(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        let Some(token) = turn.slot.token else {
            let refusal = turn.slot.refusal.unwrap_or(Refusal::SlotAbsent);
            self.logged_in = false;
            return self.abort(turn, Answer::Refused(refusal));
        };
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
                self.cleared = true;
                self.ask(turn, Step::Clear, HsmCall::Logout)
            }
        }
    }

    fn login_old(&mut self, turn: &mut Turn<'_>, old: SecretId) -> Outcome<State> {
        attempts::begin(turn, self.caller, AttemptCause::Person);
        self.ask(turn, Step::LoginOld, HsmCall::Login { pin: old })
    }

    fn set_pin(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        let (Some(old), Some(new)) = (self.old.or(self.active()), self.new) else {
            return self.bug(turn, BUG_NO_PIN);
        };
        // A wrong old PIN here is a counted try (rule 4).
        turn.slot.record.user.begin();
        self.calling(turn);
        self.ask(turn, Step::SetPin, HsmCall::SetPin { old, new })
    }

    fn bug(&mut self, turn: &mut Turn<'_>, place: u16) -> Outcome<State> {
        turn.out.bug(place);
        self.undecided(turn, Fault::Bug(place), true)
    }

    // Answers.

    fn answered(&mut self, turn: &mut Turn<'_>, step: Step, result: Result<HsmAnswer, HsmFailure>) -> Outcome<State> {
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
                turn.slot.record.so.accepted();
                turn.save();
                turn.slot.observe(token);
                self.login_new(turn)
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
            (Step::Settle, HsmAnswer::Settled) => {
                attempts::know_token(turn);
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
                    Which::Pending => self.promote_new(turn),
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
                ChangeKind::GeneratedToGenerated
                | ChangeKind::ManualToGenerated
                | ChangeKind::GeneratedToManual
                | ChangeKind::ManualToManual => self.ends_manual(turn),
            },
            (
                _,
                HsmAnswer::Observed(_)
                | HsmAnswer::LoggedIn
                | HsmAnswer::LoggedOut
                | HsmAnswer::PinSet
                | HsmAnswer::Initialised(_)
                | HsmAnswer::Settled,
            ) => self.unknown(turn, step, Fault::ModuleLies(step.function()), false),
        }
    }

    fn login_new(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        let Some(new) = self.new else { return self.bug(turn, BUG_NO_PIN) };
        attempts::begin(turn, self.caller, AttemptCause::Change);
        self.ask(turn, Step::LoginNew, HsmCall::Login { pin: new })
    }

    fn failed(&mut self, turn: &mut Turn<'_>, step: Step, failure: HsmFailure) -> Outcome<State> {
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
                    code:
                        rv::PIN_INVALID
                        | rv::PIN_LEN_RANGE
                        | rv::SESSION_READ_ONLY
                        | rv::USER_NOT_LOGGED_IN
                        | rv::FUNCTION_NOT_SUPPORTED,
                    ..
                },
            ) => self.not_made(turn, step, fault),
            // The token may be labelled now, but it has no user PIN: nothing to lose.
            (
                Step::Initialise,
                HsmFailure::Pkcs11 { code: rv::PIN_INVALID | rv::PIN_LEN_RANGE, function: Function::InitPin },
            ) => self.not_made(turn, step, fault),
            (Step::Initialise, HsmFailure::Pkcs11 { code: rv::PIN_INCORRECT, .. }) => {
                let last = turn.slot.record.so.needs_confirmation(turn.tries, false);
                turn.slot.record.so.refused(last);
                turn.slot.so_cooling_until_ms = turn.slot.record.so.wait_ms().map(|wait_ms| turn.now.after_ms(wait_ms));
                turn.save();
                self.abort(turn, Answer::Refused(Refusal::SoPinWrong))
            }
            (Step::Initialise, HsmFailure::Refused(refusal)) => {
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
            // The worker looks at the session before and after the calls that change a token;
            // only the flags, or a login, can tell which it was.
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
    fn not_made(&mut self, turn: &mut Turn<'_>, step: Step, fault: Fault) -> Outcome<State> {
        self.close_not_made(turn, step);
        if step.leaves_doubt_when_not_made() {
            return self.undecided(turn, fault, false);
        }
        self.abort(turn, Answer::Failed(fault))
    }

    /// The step was withdrawn when the worker was lost.
    fn withdrawn(&mut self, turn: &mut Turn<'_>, step: Step, fault: Fault) -> Outcome<State> {
        self.close_not_made(turn, step);
        if step.leaves_doubt_when_not_made() {
            return self.undecided(turn, fault, true);
        }
        self.abort_without_worker(turn, fault)
    }

    fn close_not_made(&mut self, turn: &mut Turn<'_>, step: Step) {
        if step.is_login() {
            attempts::not_made(turn, self.caller);
        }
        if step == Step::SetPin {
            turn.slot.record.user.not_made();
            turn.save();
        }
        if step == Step::Initialise {
            turn.slot.record.so.not_made();
            turn.save();
        }
        turn.wipe_any(step.secret());
    }

    /// The token may have heard the step, and nobody knows what it did.
    fn unknown(&mut self, turn: &mut Turn<'_>, step: Step, fault: Fault, worker_lost: bool) -> Outcome<State> {
        if step.is_login() || step == Step::SetPin {
            attempts::unknown(turn, self.caller, fault);
        }
        if step == Step::Initialise {
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

    // Deciding.

    fn decide(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        let Some(token) = turn.slot.token else {
            let refusal = turn.slot.refusal.unwrap_or(Refusal::SlotAbsent);
            self.reply_decided(turn, refusal);
            return self.end(turn, Then::Rest);
        };
        if self.kind == ChangeKind::Initialise {
            return self.decide_initialise(turn, token.user_pin);
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
    fn decide_initialise(&mut self, turn: &mut Turn<'_>, user_pin: bool) -> Outcome<State> {
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
    fn ends_initialised(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        self.promote_new(turn);
        // A code that was refused just now is not tried again by itself.
        let then = if self.pending_refused { Then::Rest } else { Then::GoOn };
        self.reply_decided(turn, Refusal::ActivationNeedsPerson);
        self.end(turn, then)
    }

    /// The token refused a sealed code while deciding.
    fn decided_refused(&mut self, turn: &mut Turn<'_>, which: Which) -> Outcome<State> {
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
    fn ends_manual(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
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
    fn reply_decided(&mut self, turn: &mut Turn<'_>, refusal: Refusal) {
        let answer = if self.is_order() {
            Answer::Failed(Fault::Pkcs11 { code: rv::PIN_INCORRECT, function: Function::Login })
        } else {
            Answer::Refused(refusal)
        };
        self.reply(turn, answer);
    }

    /// Durable with the refusal: the pending code has had its one try.
    fn note_pending_refused(&mut self, turn: &mut Turn<'_>) {
        self.pending_refused = true;
        if let Some(change) = &mut turn.slot.record.change {
            change.pending_refused = true;
        }
        turn.save();
    }

    fn arise(&mut self, turn: &mut Turn<'_>, doubt: Doubt) {
        turn.slot.record.doubt = Some(doubt);
        turn.save();
        turn.journal(None, AuditEvent::DoubtArose(doubt));
    }

    /// The new PIN was accepted and settled (or the flags prove it): it rules from here on.
    fn promote_new(&mut self, turn: &mut Turn<'_>) {
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
    fn keep_old(&mut self, turn: &mut Turn<'_>) {
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

/// A PIN that a step needs is not there.
const BUG_NO_PIN: u16 = 20;
/// A decision by login was asked for a change that has none.
const BUG_NOTHING_TO_TRY: u16 = 22;

impl IntoStateMachine for Rules {
    type Event<'event> = ChangeEvent;
    type Context<'turn> = Turn<'turn>;
    type State = State;
    type Superstate<'sub> = Superstate;

    fn initial() -> State {
        State::Waiting
    }

    fn after_transition(&mut self, source: &State, target: &State, _turn: &mut Turn<'_>) {
        fmt::trace_transition!("pin change", source, target);
    }
}

impl blocking::State<Rules> for State {
    fn call_handler(&mut self, rules: &mut Rules, event: &ChangeEvent, turn: &mut Turn<'_>) -> Outcome<State> {
        use ChangeEvent as On;
        use Outcome::{Handled, Super, Transition};
        match (*self, *event) {
            (State::Waiting, On::Begin) => rules.begin_order(turn),

            (State::ClosingApplications, On::Done(ticket, EffectOutcome::Application(result))) => {
                if !application_answered(turn, ticket, result) {
                    return Super;
                }
                rules.applications_closed(turn)
            }
            (State::ClosingApplications, On::DeadlinePassed) => {
                applications_overdue(turn);
                rules.applications_closed(turn)
            }

            (State::Drawing { ticket, id }, On::Done(done, EffectOutcome::Random(result))) if done == ticket => {
                match result {
                    Ok(()) => rules.drawn(turn, id),
                    Err(fault) => {
                        turn.wipe(id);
                        rules.abort(turn, Answer::Failed(fault))
                    }
                }
            }
            (State::Drawing { ticket, id }, On::Done(done, EffectOutcome::Unsealed(result))) if done == ticket => {
                match result {
                    Ok(()) => {
                        rules.new = Some(id);
                        rules.intend(turn)
                    }
                    Err(fault) => {
                        turn.wipe(id);
                        rules.abort(turn, Answer::Failed(fault))
                    }
                }
            }
            (State::Drawing { ticket, id }, On::DeadlinePassed) => {
                turn.out.withdraw(ticket);
                turn.wipe(id);
                rules.abort(turn, Answer::Failed(Fault::RandomUnavailable))
            }
            (State::Drawing { ticket, id } | State::UnsealingOld { ticket, id }, On::WorkerLost) => {
                turn.out.withdraw(ticket);
                turn.wipe(id);
                Super
            }

            (State::UnsealingOld { ticket, id }, On::Done(done, EffectOutcome::Unsealed(result))) if done == ticket => {
                match result {
                    Ok(()) => {
                        rules.old = Some(id);
                        rules.login_old(turn, id)
                    }
                    Err(fault) => {
                        turn.wipe(id);
                        rules.abort(turn, Answer::Failed(fault))
                    }
                }
            }
            (State::UnsealingOld { ticket, id }, On::DeadlinePassed) => {
                turn.out.withdraw(ticket);
                turn.wipe(id);
                rules.abort(turn, Answer::Failed(Fault::SealBroken))
            }

            (State::UnsealingForDecision { ticket, which, id }, On::Done(done, EffectOutcome::Unsealed(result)))
                if done == ticket =>
            {
                match result {
                    Ok(()) => {
                        if let (Which::Accepted, Some(change)) = (which, &mut turn.slot.record.change) {
                            change.accepted_tried = true;
                        }
                        attempts::begin(turn, rules.caller, AttemptCause::Change);
                        rules.ask(turn, Step::DecideLogin(which, id), HsmCall::Login { pin: id })
                    }
                    Err(fault) => {
                        turn.wipe(id);
                        rules.undecided(turn, fault, true)
                    }
                }
            }
            (State::UnsealingForDecision { ticket, id, .. }, On::DeadlinePassed | On::WorkerLost) => {
                turn.out.withdraw(ticket);
                turn.wipe(id);
                rules.undecided(turn, Fault::WorkerLost(Function::Login), true)
            }

            (
                State::AtToken { ticket, step } | State::Doubtful { ticket, step },
                On::Done(done, EffectOutcome::Hsm(result)),
            ) if done == ticket => rules.answered(turn, step, result),
            (State::AtToken { ticket, step }, On::DeadlinePassed) => {
                if turn.out.withdraw(ticket) {
                    return rules.not_made(turn, step, Fault::StoreFailed);
                }
                let fault = Fault::Unanswered(step.function());
                turn.slot.fault = Some(fault);
                rules.reply(turn, Answer::Failed(fault));
                Transition(State::Doubtful { ticket, step })
            }
            (State::AtToken { ticket, step } | State::Doubtful { ticket, step }, On::WorkerLost) => {
                let fault = Fault::WorkerLost(step.function());
                if !turn.out.withdraw(ticket) {
                    return rules.unknown(turn, step, fault, true);
                }
                rules.withdrawn(turn, step, fault)
            }
            // A second worker may be lost, or a deadline repeat, while the token is silent.
            (State::Doubtful { .. }, On::DeadlinePassed) => Handled,

            (_, _) => Super,
        }
    }

    fn superstate(&mut self) -> Option<Superstate> {
        Some(match self {
            State::ClosingApplications | State::Drawing { .. } | State::UnsealingOld { .. } => Superstate::Preparing,
            State::Waiting
            | State::UnsealingForDecision { .. }
            | State::AtToken { .. }
            | State::Doubtful { .. }
            | State::Ended => Superstate::Top,
        })
    }
}

impl blocking::Superstate<Rules> for Superstate {
    fn call_handler(&mut self, rules: &mut Rules, event: &ChangeEvent, turn: &mut Turn<'_>) -> Outcome<State> {
        use ChangeEvent as On;
        match (*self, *event) {
            (Superstate::Preparing, On::WorkerLost) => {
                rules.abort_without_worker(turn, Fault::WorkerLost(Function::SetPin))
            }
            (Superstate::Preparing, _) => Outcome::Super,
            (Superstate::Top, event) => match event {
                // A late answer of an application shows in its state; others are of withdrawn effects.
                On::Done(ticket, EffectOutcome::Application(result)) => {
                    application_answered(turn, ticket, result);
                    Outcome::Handled
                }
                On::Done(_, EffectOutcome::Hsm(_) | EffectOutcome::Random(_) | EffectOutcome::Unsealed(_))
                | On::DeadlinePassed
                | On::WorkerLost => Outcome::Handled,
                On::Begin => {
                    turn.out.bug(BUG_NOTHING_TO_TRY);
                    Outcome::Handled
                }
            },
        }
    }

    fn superstate(&mut self) -> Option<Superstate> {
        match self {
            Superstate::Top => None,
            Superstate::Preparing => Some(Superstate::Top),
        }
    }
}
