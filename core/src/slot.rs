//! The slot machine: one PKCS#11 slot from absent to active and back.
//!
//! A slot is *active* when its token PIN was proven by `C_Login` in a session that was
//! public before, and every application bound to it was given the PIN. The machine never
//! tries a PIN on its own more often than the rules allow (`attempts`), and records each
//! try before it is made. Token PIN changes are a machine of their own (`pin_change`);
//! while one runs this machine is *changing* and only watches.
//!
//! After a restart the machine begins in *absent* with the loaded record; the first look
//! of the platform (`Token`) sends it where the record and the token say it belongs.
//!
//! The arrows are here, one a line; what they do is told in `slot/`: `order` (people's
//! orders, checked), `attempt` (a try of a PIN), `hand_over` (the applications), `rest`
//! (where a slot belongs), `step` (what the token was asked).
//!
//! ```text
//! top
//! ├── resting                       nobody waits for the token
//! │   ├── Absent
//! │   ├── Uninitialised
//! │   ├── Blocked
//! │   └── closed                    a code opens it
//! │       ├── Locked
//! │       ├── InDoubt
//! │       └── CoolingDown
//! ├── working                       orders are refused as busy
//! │   ├── Unsealing
//! │   ├── AtToken
//! │   ├── HandingOver
//! │   ├── TakingBack
//! │   ├── Reconnecting
//! │   ├── Changing
//! │   └── Doubtful                  the deadline is over, the answer is not there
//! └── Active
//! ```

mod attempt;
mod hand_over;
mod order;
mod rest;
mod step;

use statig::Outcome;
use statig::blocking::{self, IntoStateMachine, IntoStateMachineExt as _};
use statig::prelude::InitializedStateMachine;

pub use self::step::{After, Source, Step, Try};
use crate::audit::{AttemptCause, AuditEvent};
use crate::command::{Answer, Caller, CommandKind};
use crate::effect::{ApplicationSet, HsmCall, Outcome as EffectOutcome, Ticket};
use crate::fault::{Fault, Function, Refusal};
use crate::fmt;
use crate::pin_change::{ChangeEnd, Then};
use crate::record::{Doubt, Knowledge, Knows, Mode};
use crate::safe::SecretId;
use crate::slot_data::{application_answered, applications_overdue};
use crate::status::StateName;
use crate::token::{LoginState, Presence, TokenState};
use crate::turn::Turn;

/// What happened to a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum SlotEvent {
    /// The token has keys that the applications do not know yet: they get the PIN anew.
    ServeOrdered,
    /// The platform looked for the token.
    Token(Presence),
    /// Somebody wants every slot tried that opens without people.
    BootOrdered,
    /// A person wants the slot active.
    ActivateOrdered {
        /// Who.
        caller: Caller,
        /// The code: typed whole, or made of what people entered.
        code: Option<SecretId>,
        /// Whose code it is.
        by: Knows,
        /// Whether the last-try confirmation was typed.
        confirmed: bool,
    },
    /// A person wants the slot inactive.
    DeactivateOrdered {
        /// Who.
        caller: Caller,
    },
    /// A person wants the token PIN changed; which kind follows from the slot's mode.
    ChangeOrdered {
        /// Who.
        caller: Caller,
        /// As which command.
        kind: CommandKind,
        /// The mode wanted.
        to: Mode,
        /// The present manual code.
        code: Option<SecretId>,
        /// The new manual code.
        new_code: Option<SecretId>,
        /// Who knows the new manual code.
        next: Knowledge,
        /// Whether the last-try confirmation was typed.
        confirmed: bool,
        /// Applications that need not be told to let go.
        accept: ApplicationSet,
    },
    /// A person wants the token PIN replaced by the SO PIN.
    UnblockOrdered {
        /// Who.
        caller: Caller,
        /// The SO PIN.
        so_pin: SecretId,
        /// The mode wanted.
        to: Mode,
        /// The new manual code.
        new_code: Option<SecretId>,
        /// Whether the last-try confirmation was typed.
        confirmed: bool,
        /// Applications that need not be told to let go.
        accept: ApplicationSet,
    },
    /// A person wants the slot's life to end.
    DecommissionOrdered {
        /// Who.
        caller: Caller,
        /// The SO PIN; `None`: the token is gone or replaced.
        so_pin: Option<SecretId>,
        /// Whether the last-try confirmation was typed.
        confirmed: bool,
        /// Applications that need not be told to let go.
        accept: ApplicationSet,
    },
    /// A person wants the token to get its first user PIN.
    InitOrdered {
        /// Who.
        caller: Caller,
        /// The SO PIN.
        so_pin: SecretId,
        /// Which free token.
        free_slot: Option<u64>,
        /// Whether the last-try confirmation was typed.
        confirmed: bool,
    },
    /// An effect of this machine ended.
    Done(Ticket, EffectOutcome),
    /// The effect this machine waits for was not answered in time.
    DeadlinePassed,
    /// The wait after a refused last try is over.
    WaitOver,
    /// The HSM worker died.
    WorkerLost,
    /// The token PIN change ended.
    ChangeEnded(ChangeEnd),
    /// Let go of the token PIN, whatever is under way; never while a call of it is at the token.
    ZeroizeOrdered,
}

/// Where a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum State {
    /// No token matches, or nobody looked yet. Entered at start and when the token goes;
    /// left when the platform finds it.
    Absent,
    /// The token has no user PIN, or a free token could be taken. Left by `init`.
    Uninitialised,
    /// The token blocked its user PIN. Left when the token says otherwise.
    Blocked,
    /// The token is there, its PIN not proven. Left by a person's code, or by itself when
    /// a stored code may be tried.
    Locked,
    /// The token has one of two codes, or refused both, or a change was not decided.
    /// Left by a person's order.
    InDoubt,
    /// A last try was refused. Left when the wait is over.
    CoolingDown {
        /// Monotonic milliseconds.
        until_ms: u64,
    },
    /// A stored code is being decrypted.
    Unsealing {
        /// Of the effect.
        ticket: Ticket,
        /// Where the code goes.
        id: SecretId,
        /// For which try.
        attempt: Try,
    },
    /// The token was asked something.
    AtToken {
        /// Of the effect.
        ticket: Ticket,
        /// What.
        step: Step,
    },
    /// The PIN is proven; the applications are being served.
    HandingOver {
        /// The token PIN.
        pin: SecretId,
        /// Who waits for *active*, and what they ordered.
        caller: Option<(Caller, CommandKind)>,
    },
    /// Proven and handed over. The PIN stays in the Safe to hand it over again.
    Active {
        /// The token PIN.
        pin: SecretId,
    },
    /// The applications are giving the PIN back.
    TakingBack {
        /// What follows.
        after: After,
    },
    /// The worker is gone, and every login with it; the login is made again when it is back.
    Reconnecting {
        /// The token PIN.
        pin: SecretId,
    },
    /// `pin_change` has the word.
    Changing,
    /// The token was asked something and did not answer in time. Only its answer, or the
    /// end of the worker, leads out.
    Doubtful {
        /// Of the effect.
        ticket: Ticket,
        /// What; nobody waits any more.
        step: Step,
    },
}

impl State {
    /// The state in the product's words.
    #[must_use]
    pub const fn name(&self) -> StateName {
        match self {
            State::Absent => StateName::Absent,
            State::Uninitialised => StateName::Uninitialised,
            State::Blocked => StateName::Blocked,
            State::Locked => StateName::Locked,
            State::InDoubt | State::Doubtful { .. } => StateName::Doubtful,
            State::CoolingDown { .. } => StateName::CoolingDown,
            State::Unsealing { .. } | State::HandingOver { .. } | State::Reconnecting { .. } => StateName::Activating,
            State::AtToken { step, .. } => match step {
                Step::Observe(_) | Step::Clear(_) | Step::Login(..) | Step::Settle(..) => StateName::Activating,
                Step::Logout(_) => StateName::Changing,
            },
            State::Active { .. } => StateName::Active,
            State::TakingBack { .. } | State::Changing => StateName::Changing,
        }
    }

    /// The effect whose deadline counts now.
    #[must_use]
    pub const fn awaited(&self) -> Option<Ticket> {
        match self {
            State::Unsealing { ticket, .. } | State::AtToken { ticket, .. } => Some(*ticket),
            State::Absent
            | State::Uninitialised
            | State::Blocked
            | State::Locked
            | State::InDoubt
            | State::CoolingDown { .. }
            | State::HandingOver { .. }
            | State::Active { .. }
            | State::TakingBack { .. }
            | State::Reconnecting { .. }
            | State::Changing
            | State::Doubtful { .. } => None,
        }
    }

    /// Whether the machine will go on by itself: boot and stop wait for it.
    #[must_use]
    pub const fn is_working(&self) -> bool {
        match self {
            State::Unsealing { .. }
            | State::AtToken { .. }
            | State::HandingOver { .. }
            | State::TakingBack { .. }
            | State::Reconnecting { .. }
            | State::Changing => true,
            State::Absent
            | State::Uninitialised
            | State::Blocked
            | State::Locked
            | State::InDoubt
            | State::CoolingDown { .. }
            | State::Active { .. }
            | State::Doubtful { .. } => false,
        }
    }

    /// Whether a zeroize has something to take back here.
    #[must_use]
    pub const fn holds_on(&self) -> bool {
        match self {
            State::Unsealing { .. }
            | State::AtToken { .. }
            | State::HandingOver { .. }
            | State::Active { .. }
            | State::Reconnecting { .. }
            | State::Changing => true,
            State::Absent
            | State::Uninitialised
            | State::Blocked
            | State::Locked
            | State::InDoubt
            | State::CoolingDown { .. }
            | State::TakingBack { .. }
            | State::Doubtful { .. } => false,
        }
    }

    /// What the token was asked, if it was asked something.
    #[must_use]
    pub const fn function(&self) -> Option<Function> {
        match self {
            State::AtToken { step, .. } | State::Doubtful { step, .. } => Some(step.function()),
            State::Absent
            | State::Uninitialised
            | State::Blocked
            | State::Locked
            | State::InDoubt
            | State::CoolingDown { .. }
            | State::Unsealing { .. }
            | State::HandingOver { .. }
            | State::Active { .. }
            | State::TakingBack { .. }
            | State::Reconnecting { .. }
            | State::Changing => None,
        }
    }

    /// The secret this state owns.
    #[must_use]
    pub const fn secret(&self) -> Option<SecretId> {
        match self {
            State::Unsealing { id, .. } => Some(*id),
            State::HandingOver { pin, .. } | State::Active { pin } | State::Reconnecting { pin } => Some(*pin),
            State::AtToken { step, .. } | State::Doubtful { step, .. } => match step {
                Step::Observe(attempt) | Step::Clear(attempt) => attempt.source.secret(),
                Step::Login(_, id) | Step::Settle(_, id) => Some(*id),
                Step::Logout(_) => None,
            },
            State::Absent
            | State::Uninitialised
            | State::Blocked
            | State::Locked
            | State::InDoubt
            | State::CoolingDown { .. }
            | State::TakingBack { .. }
            | State::Changing => None,
        }
    }
}

/// The groups of states that answer alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Superstate {
    /// Answers every leftover.
    Top,
    /// Nobody waits for the token.
    Resting,
    /// A code opens the slot.
    Closed,
    /// Orders are refused as busy.
    Working,
}

/// The slot machine; statig is hidden behind it.
pub struct SlotMachine {
    machine: InitializedStateMachine<Rules>,
}

/// Storage of the machine: none of its own, everything is in `SlotData`.
pub(crate) struct Rules;

impl SlotMachine {
    /// A machine in *absent*, where every start begins.
    #[must_use]
    pub fn new(turn: &mut Turn<'_>) -> Self {
        SlotMachine { machine: Rules.uninitialized_state_machine().init_with_context(turn) }
    }

    /// A machine in any state: for golden tables.
    #[must_use]
    pub fn in_state(state: State, turn: &mut Turn<'_>) -> Self {
        let mut machine = Rules.uninitialized_state_machine();
        *machine.state_mut() = state;
        SlotMachine { machine: machine.init_with_context(turn) }
    }

    /// Where the slot is.
    #[must_use]
    pub fn state(&self) -> State {
        *self.machine.state()
    }

    /// Takes one event.
    pub fn handle(&mut self, event: SlotEvent, turn: &mut Turn<'_>) {
        self.machine.handle_with_context(&event, turn);
    }
}

impl IntoStateMachine for Rules {
    type Event<'event> = SlotEvent;
    type Context<'turn> = Turn<'turn>;
    type State = State;
    type Superstate<'sub> = Superstate;

    fn initial() -> State {
        State::Absent
    }

    fn after_transition(&mut self, source: &State, target: &State, _turn: &mut Turn<'_>) {
        fmt::trace_transition!("slot", source, target);
    }
}

impl blocking::State<Rules> for State {
    fn call_handler(&mut self, _: &mut Rules, event: &SlotEvent, turn: &mut Turn<'_>) -> Outcome<State> {
        use Outcome::{Handled, Super, Transition};
        use SlotEvent as On;
        match (*self, *event) {
            (State::Uninitialised, On::InitOrdered { caller, so_pin, free_slot, confirmed }) => {
                order::initialise(turn, caller, so_pin, free_slot, confirmed)
            }

            (State::CoolingDown { .. }, On::WaitOver) => Transition(rest::rest(turn)),
            (State::CoolingDown { .. }, On::ActivateOrdered { caller, code, .. }) => {
                order::refuse(turn, caller, CommandKind::Activate, Refusal::SlotCoolingDown, [code, None])
            }
            (State::CoolingDown { .. }, On::ChangeOrdered { caller, kind, code, new_code, .. }) => {
                order::refuse(turn, caller, kind, Refusal::SlotCoolingDown, [code, new_code])
            }

            (State::Locked, On::BootOrdered) => {
                turn.slot.held = false;
                rest::go_on_with_fresh_flags(turn)
            }
            (State::InDoubt, On::BootOrdered) => rest::go_on(turn),
            (State::InDoubt, On::ChangeOrdered { caller, kind, code, new_code, .. }) => {
                let refusal = match turn.slot.record.doubt {
                    Some(Doubt::OldOrNew) => Refusal::CodeOldOrNew,
                    Some(Doubt::BothRefused | Doubt::CallUnanswered) | None => Refusal::ActivationNeedsPerson,
                };
                order::refuse(turn, caller, kind, refusal, [code, new_code])
            }
            (State::Locked, On::ChangeOrdered { caller, kind, to, code, new_code, next, confirmed, accept }) => {
                turn.slot.accept = accept;
                order::change(turn, None, order::Wish { caller, kind, to, code, new_code, next, confirmed })
            }
            (State::Absent, On::DecommissionOrdered { caller, so_pin, .. }) => {
                order::forget_token(turn, caller, so_pin)
            }
            (
                State::Uninitialised | State::Blocked | State::Locked | State::InDoubt | State::CoolingDown { .. },
                On::DecommissionOrdered { caller, so_pin, confirmed, accept },
            ) => {
                turn.slot.accept = accept;
                order::decommission(turn, caller, so_pin, confirmed)
            }
            (
                State::Blocked | State::Locked | State::InDoubt | State::CoolingDown { .. },
                On::UnblockOrdered { caller, so_pin, to, new_code, confirmed, accept },
            ) => {
                turn.slot.accept = accept;
                order::unblock(turn, order::Rescue { caller, so_pin, to, new_code, confirmed })
            }

            (State::Unsealing { ticket, id, attempt }, On::Done(done, EffectOutcome::Unsealed(result)))
                if done == ticket =>
            {
                match result {
                    Ok(()) => attempt::begin_login(turn, Try { source: Source::Unsealed(id), ..attempt }, id),
                    Err(fault) => {
                        turn.wipe(id);
                        order::fail(turn, attempt.caller, CommandKind::Activate, fault)
                    }
                }
            }
            (State::Unsealing { ticket, id, attempt }, On::DeadlinePassed) => {
                turn.out.withdraw(ticket);
                turn.wipe(id);
                order::fail(turn, attempt.caller, CommandKind::Activate, Fault::SealBroken)
            }
            (State::Unsealing { ticket, id, attempt }, On::WorkerLost) => {
                turn.out.withdraw(ticket);
                turn.wipe(id);
                order::fail(turn, attempt.caller, CommandKind::Activate, Fault::WorkerLost(Function::Login))
            }

            (State::AtToken { ticket, step }, On::Done(done, EffectOutcome::Hsm(result))) if done == ticket => {
                attempt::token_answered(turn, step, result)
            }
            (State::Doubtful { ticket, step }, On::Done(done, EffectOutcome::Hsm(result))) if done == ticket => {
                attempt::late_answer(turn, step, result)
            }
            (State::AtToken { ticket, step }, On::DeadlinePassed) => {
                if turn.out.withdraw(ticket) {
                    // The platform never saw it: nothing happened, and nothing is in doubt.
                    return attempt::not_made(turn, step, Fault::StoreFailed);
                }
                let fault = Fault::Unanswered(step.function());
                turn.slot.fault = Some(fault);
                if let Some(caller) = step.caller() {
                    turn.journal(Some(caller.who), AuditEvent::Failed(CommandKind::Activate, fault));
                    turn.reply(caller, Answer::Failed(fault));
                }
                Transition(State::Doubtful { ticket, step: step.without_caller() })
            }
            (State::AtToken { ticket, step }, On::WorkerLost) => {
                let fault = Fault::WorkerLost(step.function());
                if turn.out.withdraw(ticket) {
                    attempt::not_made(turn, step, fault)
                } else {
                    attempt::unknown(turn, step, fault)
                }
            }
            (State::Doubtful { step, .. }, On::WorkerLost) => {
                attempt::unknown(turn, step, Fault::WorkerLost(step.function()))
            }

            (State::HandingOver { pin, caller }, On::Done(ticket, EffectOutcome::Application(result))) => {
                if !application_answered(turn, ticket, result) {
                    return Super;
                }
                hand_over::activated_if_all_answered(turn, pin, caller)
            }
            (State::HandingOver { pin, caller }, On::DeadlinePassed) => {
                applications_overdue(turn);
                hand_over::activated_if_all_answered(turn, pin, caller)
            }
            (State::HandingOver { pin, caller }, On::WorkerLost) => {
                if let Some((caller, kind)) = caller {
                    let fault = Fault::WorkerLost(Function::Login);
                    turn.journal(Some(caller.who), AuditEvent::Failed(kind, fault));
                    turn.reply(caller, Answer::Failed(fault));
                }
                Transition(State::Reconnecting { pin })
            }
            (State::HandingOver { pin, caller }, On::Token(presence)) => {
                turn.slot.look(presence);
                if turn.slot.token.is_some() {
                    return Handled;
                }
                hand_over::lose_token(turn, pin, caller)
            }

            (State::Active { .. }, On::ActivateOrdered { caller, code, .. }) => {
                order::refuse(turn, caller, CommandKind::Activate, Refusal::AlreadyActive, [code, None])
            }
            (State::Active { pin }, On::DeactivateOrdered { caller }) => {
                turn.slot.held = true;
                turn.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::Deactivate));
                turn.wipe(pin);
                hand_over::take_back(turn, After::Logout(Some(caller)))
            }
            (State::Active { .. }, On::ChangeOrdered { caller, kind, code, new_code, .. })
                if turn.slot.is_cooling(turn.now) =>
            {
                order::refuse(turn, caller, kind, Refusal::SlotCoolingDown, [code, new_code])
            }
            (
                State::Active { pin },
                On::ChangeOrdered { caller, kind, to, code, new_code, next, confirmed, accept },
            ) => {
                turn.slot.accept = accept;
                order::change(turn, Some(pin), order::Wish { caller, kind, to, code, new_code, next, confirmed })
            }
            // Nothing that the SO PIN does takes an active slot out of service unasked.
            (State::Active { .. }, On::UnblockOrdered { caller, so_pin, new_code, .. }) => {
                let refusal = Refusal::DeactivateFirst;
                order::refuse(turn, caller, CommandKind::Unblock, refusal, [Some(so_pin), new_code])
            }
            (State::Active { .. }, On::DecommissionOrdered { caller, so_pin, .. }) => {
                order::refuse(turn, caller, CommandKind::Decommission, Refusal::DeactivateFirst, [so_pin, None])
            }
            (State::Active { pin }, On::Token(presence)) => {
                let before = turn.slot.attention;
                turn.slot.look(presence);
                if turn.slot.token.is_none() {
                    return hand_over::lose_token(turn, pin, None);
                }
                rest::attend(turn, before);
                Handled
            }
            (State::Active { pin }, On::ServeOrdered) => hand_over::begin_hand_over(turn, pin, None),
            (State::Active { pin }, On::WorkerLost) => Transition(State::Reconnecting { pin }),

            (State::TakingBack { after }, On::Done(ticket, EffectOutcome::Application(result))) => {
                if !application_answered(turn, ticket, result) {
                    return Super;
                }
                hand_over::taken_back_if_all_answered(turn, after)
            }
            (State::TakingBack { after }, On::DeadlinePassed) => {
                applications_overdue(turn);
                hand_over::taken_back_if_all_answered(turn, after)
            }
            (State::TakingBack { after }, On::WorkerLost) => match after {
                After::Logout(caller) => Transition(State::TakingBack { after: After::Rest(caller) }),
                After::Rest(_) => Handled,
            },

            (State::Reconnecting { pin }, On::Token(presence)) => {
                turn.slot.look(presence);
                if turn.slot.token.is_none() {
                    return hand_over::lose_token(turn, pin, None);
                }
                if turn.halted || !rest::may_repeat(turn) {
                    turn.wipe(pin);
                    return hand_over::take_back(turn, After::Rest(None));
                }
                let attempt = Try {
                    source: Source::Kept(pin),
                    cause: AttemptCause::Repeat,
                    caller: None,
                    by: Knows::Current,
                    confirmed: false,
                    cleared: false,
                };
                attempt::begin_login(turn, attempt, pin)
            }
            (State::Reconnecting { pin }, On::DeactivateOrdered { caller }) => {
                turn.slot.held = true;
                turn.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::Deactivate));
                turn.wipe(pin);
                hand_over::take_back(turn, After::Rest(Some(caller)))
            }
            (State::Reconnecting { .. }, On::WorkerLost) => Handled,

            (State::Changing, On::ChangeEnded(end)) => change_ended(turn, end),
            // The change saw it first and answers by `ChangeEnded`, if it has to.
            (State::Changing, On::WorkerLost | On::DeadlinePassed) => Handled,

            // A call that is at the token has the word; what is being taken back, goes on.
            (State::Doubtful { .. } | State::TakingBack { .. }, On::ZeroizeOrdered) => Handled,
            (State::AtToken { step: Step::Logout(_), .. }, On::ZeroizeOrdered) => Handled,
            (State::Reconnecting { pin }, On::ZeroizeOrdered) => {
                turn.wipe(pin);
                hand_over::take_back(turn, After::Rest(None))
            }
            // Whoever waits is answered by the service, which answers everybody.
            (
                state @ (State::Unsealing { .. }
                | State::AtToken { .. }
                | State::HandingOver { .. }
                | State::Active { .. }
                | State::Changing),
                On::ZeroizeOrdered,
            ) => {
                turn.wipe_any(state.secret());
                hand_over::take_back(turn, After::Logout(None))
            }

            (_, _) => Super,
        }
    }

    fn superstate(&mut self) -> Option<Superstate> {
        Some(match self {
            State::Absent | State::Uninitialised | State::Blocked => Superstate::Resting,
            State::Locked | State::InDoubt | State::CoolingDown { .. } => Superstate::Closed,
            State::Unsealing { .. }
            | State::AtToken { .. }
            | State::HandingOver { .. }
            | State::TakingBack { .. }
            | State::Reconnecting { .. }
            | State::Changing
            | State::Doubtful { .. } => Superstate::Working,
            State::Active { .. } => Superstate::Top,
        })
    }
}

impl blocking::Superstate<Rules> for Superstate {
    fn call_handler(&mut self, _: &mut Rules, event: &SlotEvent, turn: &mut Turn<'_>) -> Outcome<State> {
        use Outcome::{Handled, Super, Transition};
        use SlotEvent as On;
        match (*self, *event) {
            (Superstate::Closed, On::ActivateOrdered { caller, code, by, confirmed }) => {
                order::activate(turn, caller, code, by, confirmed)
            }

            (Superstate::Resting, On::Token(presence)) => {
                rest::look(turn, presence);
                rest::go_on(turn)
            }
            (Superstate::Resting, On::WorkerLost) => Handled,
            // The platform looks again at boot; what it finds arrives as `Token`.
            (Superstate::Resting, On::BootOrdered) => Handled,
            // An application may still have what could not be taken back: it is asked again.
            (Superstate::Resting, On::DeactivateOrdered { caller }) if turn.slot.application_fault().is_some() => {
                turn.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::Deactivate));
                hand_over::take_back(turn, After::Rest(Some(caller)))
            }
            (Superstate::Resting, On::DeactivateOrdered { caller }) => {
                order::refuse(turn, caller, CommandKind::Deactivate, Refusal::SlotNotActive, [None, None])
            }
            (Superstate::Resting, On::ActivateOrdered { caller, code, .. }) => {
                let refusal = rest::why_not(turn);
                order::refuse(turn, caller, CommandKind::Activate, refusal, [code, None])
            }
            (Superstate::Resting, On::ChangeOrdered { caller, kind, code, new_code, .. }) => {
                let refusal = rest::why_not(turn);
                order::refuse(turn, caller, kind, refusal, [code, new_code])
            }
            (Superstate::Resting, On::UnblockOrdered { caller, so_pin, new_code, .. }) => {
                let refusal = rest::why_not(turn);
                order::refuse(turn, caller, CommandKind::Unblock, refusal, [Some(so_pin), new_code])
            }
            (Superstate::Resting, On::InitOrdered { caller, so_pin, .. }) => {
                let refusal = match (turn.slot.token, turn.slot.refusal, turn.slot.record.serial) {
                    (Some(_), _, _) | (None, None, Some(_)) => Refusal::SlotHasToken,
                    (None, Some(refusal), _) => refusal,
                    (None, None, None) => Refusal::NoFreeToken,
                };
                order::refuse(turn, caller, CommandKind::Init, refusal, [Some(so_pin), None])
            }

            (Superstate::Working, On::Token(presence)) => {
                rest::look(turn, presence);
                Handled
            }
            (Superstate::Working, On::BootOrdered) => Handled,
            (Superstate::Working, On::ActivateOrdered { caller, code, .. }) => {
                let refusal = rest::busy(turn);
                order::refuse(turn, caller, CommandKind::Activate, refusal, [code, None])
            }
            (Superstate::Working, On::DeactivateOrdered { caller }) => {
                let refusal = rest::busy(turn);
                order::refuse(turn, caller, CommandKind::Deactivate, refusal, [None, None])
            }
            (Superstate::Working, On::ChangeOrdered { caller, kind, code, new_code, .. }) => {
                let refusal = rest::busy(turn);
                order::refuse(turn, caller, kind, refusal, [code, new_code])
            }
            (Superstate::Working, On::UnblockOrdered { caller, so_pin, new_code, .. }) => {
                let refusal = rest::busy(turn);
                order::refuse(turn, caller, CommandKind::Unblock, refusal, [Some(so_pin), new_code])
            }
            (Superstate::Working, On::DecommissionOrdered { caller, so_pin, .. }) => {
                let refusal = rest::busy(turn);
                order::refuse(turn, caller, CommandKind::Decommission, refusal, [so_pin, None])
            }
            (Superstate::Working, On::InitOrdered { caller, so_pin, .. }) => {
                let refusal = rest::busy(turn);
                order::refuse(turn, caller, CommandKind::Init, refusal, [Some(so_pin), None])
            }

            (Superstate::Resting, On::ZeroizeOrdered) if turn.slot.application_fault().is_some() => {
                hand_over::take_back(turn, After::Rest(None))
            }
            (Superstate::Closed | Superstate::Resting | Superstate::Working, _) => Super,

            (Superstate::Top, event) => match event {
                On::Done(ticket, outcome) => leftover_answer(turn, ticket, outcome),
                // A deadline or wait that no longer matters: spurious, by contract harmless.
                On::DeadlinePassed | On::WaitOver | On::BootOrdered | On::WorkerLost => Handled,
                // Whoever is not active serves nobody now, and everybody when it is.
                On::ServeOrdered => Handled,
                // Nobody has anything of a slot that rests.
                On::ZeroizeOrdered => Handled,
                On::InitOrdered { caller, so_pin, .. } => {
                    order::refuse(turn, caller, CommandKind::Init, Refusal::SlotHasToken, [Some(so_pin), None])
                }
                On::Token(_) => {
                    turn.out.bug(BUG_TOKEN_UNHANDLED);
                    Handled
                }
                On::ActivateOrdered { .. }
                | On::DeactivateOrdered { .. }
                | On::ChangeOrdered { .. }
                | On::UnblockOrdered { .. }
                | On::DecommissionOrdered { .. } => {
                    turn.out.bug(BUG_ORDER_UNHANDLED);
                    Handled
                }
                On::ChangeEnded(end) => {
                    turn.out.bug(BUG_CHANGE_NOT_AWAITED);
                    turn.wipe_any(end.then.secret());
                    Transition(rest::rest(turn))
                }
            },
        }
    }

    fn superstate(&mut self) -> Option<Superstate> {
        match self {
            Superstate::Top => None,
            Superstate::Closed => Some(Superstate::Resting),
            Superstate::Resting | Superstate::Working => Some(Superstate::Top),
        }
    }
}

/// Some state between a leaf and `top` had to answer a look at the token.
const BUG_TOKEN_UNHANDLED: u16 = 10;
/// Some state between a leaf and `top` had to answer an order.
const BUG_ORDER_UNHANDLED: u16 = 11;
/// A change ended that this machine did not wait for.
const BUG_CHANGE_NOT_AWAITED: u16 = 12;

/// `pin_change` gave the word back.
fn change_ended(turn: &mut Turn<'_>, end: ChangeEnd) -> Outcome<State> {
    match end.then {
        Then::HandOver(pin) => hand_over::begin_hand_over(turn, pin, end.caller),
        Then::Logout => {
            let ticket = turn.call(HsmCall::Logout);
            Outcome::Transition(State::AtToken { ticket, step: Step::Logout(None) })
        }
        Then::Reconnect(pin) => Outcome::Transition(State::Reconnecting { pin }),
        Then::Rest => Outcome::Transition(rest::rest(turn)),
        Then::GoOn => rest::go_on(turn),
        Then::Decide => rest::decide(turn, None, false),
    }
}

/// An answer that no leaf took: an application's late one, or one of a withdrawn effect.
fn leftover_answer(turn: &mut Turn<'_>, ticket: Ticket, outcome: EffectOutcome) -> Outcome<State> {
    match outcome {
        EffectOutcome::Application(result) => {
            // After its deadline: the application's state is shown, nothing else follows.
            application_answered(turn, ticket, result);
        }
        EffectOutcome::Hsm(_)
        | EffectOutcome::Random(_)
        | EffectOutcome::Unsealed(_)
        | EffectOutcome::Card(_)
        | EffectOutcome::File(_)
        | EffectOutcome::FileChecked(_)
        | EffectOutcome::Zeroized(_) => {}
    }
    Outcome::Handled
}

/// A token state for golden tables and tests: present, user PIN set, nothing counted.
#[must_use]
pub const fn plain_token() -> TokenState {
    TokenState {
        serial: *b"0000000000000001",
        initialised: true,
        user_pin: true,
        count_low: false,
        final_try: false,
        locked: false,
        so_count_low: false,
        so_final_try: false,
        so_locked: false,
        pin_chars_max: 0,
        login: LoginState::Public,
    }
}
