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
//! | unblock | new, unless the token is still locked | it rules | everything as before; the new one kept too |
//! | unblock to manual | none, unless the token is still locked | – | manual: people try the new, then the old |
//! | decommission | none: the flags say it | – | – |
//!
//! The last three are done by the SO PIN, whatever the token has. What was under way before them
//! (a change not decided, a doubt) stays as it was until they succeed, and so does every sealed code.
//!
//! The arrows are here, one a line; what they do is told in `pin_change/`: `order` (up to
//! the call), `answer` (what each answer proves), `decide`, `ends`, `step`.
//!
//! ```text
//! top
//! ├── preparing        nothing is durable on the token yet: an abort undoes everything
//! │   ├── ClosingApplications
//! │   ├── Drawing
//! │   └── UnsealingOld
//! ├── AtToken          before the call that changes the token an abort, after it a decision
//! ├── Doubtful         the deadline is over, the answer is not there
//! ├── UnsealingForDecision
//! └── Ended
//! ```

mod answer;
mod decide;
mod ends;
mod order;
mod step;

use statig::Outcome;
use statig::blocking::{self, IntoStateMachine, IntoStateMachineExt as _};
use statig::prelude::InitializedStateMachine;

pub use self::step::{Step, Which};
use crate::attempts;
use crate::audit::AttemptCause;
use crate::command::{Answer, Caller, CommandKind};
use crate::effect::{HsmCall, Outcome as EffectOutcome, Ticket};
use crate::fault::{Fault, Function};
use crate::fmt;
use crate::record::{Change, ChangeKind, Knowledge, Unblocking};
use crate::safe::SecretId;
use crate::slot_data::{application_answered, applications_overdue};
use crate::token::Serial;
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
        /// Who knows the new manual code.
        next: Knowledge,
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
    /// Do what the SO PIN can: unblock, decommission.
    BySo {
        /// Which of it.
        kind: ChangeKind,
        /// Who waits.
        caller: Caller,
        /// Whether the last-try confirmation was typed.
        confirmed: bool,
        /// The SO PIN.
        so_pin: SecretId,
        /// The new manual code.
        new_code: Option<SecretId>,
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

    /// What the token was asked, if it was asked something.
    #[must_use]
    pub const fn function(&self) -> Option<Function> {
        match self {
            State::AtToken { step, .. } | State::Doubtful { step, .. } => Some(step.function()),
            State::Waiting
            | State::ClosingApplications
            | State::Drawing { .. }
            | State::UnsealingOld { .. }
            | State::UnsealingForDecision { .. }
            | State::Ended => None,
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
    /// The token that was initialised; another may have taken its place since.
    initialised: Option<Serial>,
    /// What the SO PIN had under way before this order: an order that changed nothing leaves it.
    by_so_before: Option<Change>,
    /// The code of an earlier unblock: this one gives the token the same.
    unblocking_before: Option<Unblocking>,
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
            ChangeOrder::Initialise { so_pin, .. } | ChangeOrder::BySo { so_pin, .. } => Some(so_pin),
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
            ChangeOrder::BySo { kind, caller, new_code, .. } => (kind, Some(caller), None, new_code, false),
            ChangeOrder::Decide { caller, .. } => {
                // Without a change under way both sealed codes were refused, or are kept beside
                // a manual one: they are tried as after an interrupted change of generated codes.
                // The code of an unblock comes first: it is what the token was given last.
                let record = &turn.slot.record;
                let rescued = record.unblocking.is_some_and(|kept| kept.may_rule());
                let otherwise = if rescued { ChangeKind::Unblock } else { ChangeKind::GeneratedToGenerated };
                let kind = record.by_so.or(record.change).map_or(otherwise, |change| change.kind);
                (kind, caller, None, None, false)
            }
        };
        let record = &turn.slot.record;
        let goes_on = match (order, kind) {
            (ChangeOrder::Initialise { .. }, _) => record.change.is_some() && record.pending.is_some(),
            (ChangeOrder::BySo { .. }, ChangeKind::Unblock) => record.unblocking.is_some(),
            (ChangeOrder::BySo { .. } | ChangeOrder::Change { .. } | ChangeOrder::Decide { .. }, _) => false,
        };
        let pending_refused = match (order, kind) {
            (ChangeOrder::Decide { .. }, ChangeKind::Unblock) => record.unblocking.is_some_and(|kept| kept.refused),
            (ChangeOrder::Decide { .. }, _) => record.change.is_some_and(|change| change.pending_refused),
            (ChangeOrder::Change { .. } | ChangeOrder::Initialise { .. } | ChangeOrder::BySo { .. }, _) => false,
        };
        let (by_so_before, unblocking_before) = (record.by_so, record.unblocking);
        Rules {
            order,
            kind,
            caller,
            old,
            new,
            logged_in,
            relogged: false,
            cleared: false,
            pending_refused,
            goes_on,
            initialised: None,
            by_so_before,
            unblocking_before,
        }
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
            ChangeOrder::BySo { kind: ChangeKind::Decommission, .. } => CommandKind::Decommission,
            ChangeOrder::BySo { .. } => CommandKind::Unblock,
            ChangeOrder::Decide { .. } => CommandKind::Activate,
        }
    }

    const fn confirmed(&self) -> bool {
        match self.order {
            ChangeOrder::Change { confirmed, .. }
            | ChangeOrder::Initialise { confirmed, .. }
            | ChangeOrder::BySo { confirmed, .. }
            | ChangeOrder::Decide { confirmed, .. } => confirmed,
        }
    }

    const fn active(&self) -> Option<SecretId> {
        match self.order {
            ChangeOrder::Change { active, .. } => active,
            ChangeOrder::Initialise { .. } | ChangeOrder::BySo { .. } | ChangeOrder::Decide { .. } => None,
        }
    }

    const fn so_pin(&self) -> Option<SecretId> {
        match self.order {
            ChangeOrder::Initialise { so_pin, .. } | ChangeOrder::BySo { so_pin, .. } => Some(so_pin),
            ChangeOrder::Change { .. } | ChangeOrder::Decide { .. } => None,
        }
    }

    const fn is_order(&self) -> bool {
        match self.order {
            ChangeOrder::Change { .. } | ChangeOrder::Initialise { .. } | ChangeOrder::BySo { .. } => true,
            ChangeOrder::Decide { .. } => false,
        }
    }

    /// Whether the new PIN is ours: made here, sealed, promoted.
    const fn makes_a_code(&self) -> bool {
        match self.kind {
            ChangeKind::Initialise
            | ChangeKind::GeneratedToGenerated
            | ChangeKind::ManualToGenerated
            | ChangeKind::Unblock => true,
            ChangeKind::GeneratedToManual
            | ChangeKind::ManualToManual
            | ChangeKind::UnblockToManual
            | ChangeKind::Decommission => false,
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
                        rules.note_tried(turn, which);
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
                On::Done(
                    _,
                    EffectOutcome::Hsm(_)
                    | EffectOutcome::Random(_)
                    | EffectOutcome::Unsealed(_)
                    | EffectOutcome::File(_)
                    | EffectOutcome::Card(_)
                    | EffectOutcome::FileChecked(_)
                    | EffectOutcome::Zeroized(_),
                )
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
