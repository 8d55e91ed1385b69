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

use statig::Outcome;
use statig::blocking::{self, IntoStateMachine, IntoStateMachineExt as _};
use statig::prelude::InitializedStateMachine;

use crate::audit::{AttemptCause, AuditEvent};
use crate::command::{Answer, Caller, CommandKind};
use crate::effect::{HsmAnswer, HsmCall, Outcome as EffectOutcome, Ticket};
use crate::fault::{Fault, Function, HsmFailure, Refusal, rv};
use crate::pin_change::{ChangeEnd, ChangeOrder, Then};
use crate::record::{ChangeKind, Doubt, Mode};
use crate::safe::SecretId;
use crate::slot_data::{application_answered, applications_overdue, hand_over, withdraw};
use crate::status::{Attention, StateName};
use crate::token::{LoginState, Presence, TokenState};
use crate::turn::Turn;
use crate::{attempts, code, fmt};

/// What happened to a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum SlotEvent {
    /// The platform looked for the token.
    Token(Presence),
    /// Somebody wants every slot tried that opens without people.
    BootOrdered,
    /// A person wants the slot active.
    ActivateOrdered {
        /// Who.
        caller: Caller,
        /// The typed code.
        code: Option<SecretId>,
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
        /// Whether the last-try confirmation was typed.
        confirmed: bool,
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
}

/// One try of a PIN, from the order to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Try {
    /// Where the PIN comes from.
    pub source: Source,
    /// Why it is tried.
    pub cause: AttemptCause,
    /// Who waits for the end.
    pub caller: Option<Caller>,
    /// Whether the last-try confirmation was typed.
    pub confirmed: bool,
    /// Whether a leftover login was already logged out for this try.
    pub cleared: bool,
}

/// Where a PIN comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Source {
    /// A person typed it.
    Typed(SecretId),
    /// The sealed code that was accepted last; not unsealed yet.
    Stored,
    /// That code, unsealed.
    Unsealed(SecretId),
    /// The PIN of an active slot, kept in the Safe.
    Kept(SecretId),
}

impl Source {
    const fn secret(self) -> Option<SecretId> {
        match self {
            Source::Typed(id) | Source::Unsealed(id) | Source::Kept(id) => Some(id),
            Source::Stored => None,
        }
    }
}

/// What the token was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Step {
    /// Fresh flags before a try.
    Observe(Try),
    /// Log out a leftover login before a try.
    Clear(Try),
    /// The try itself.
    Login(Try, SecretId),
    /// Make the module's files durable, before codes that this login proved wrong are erased.
    Settle(Try, SecretId),
    /// Log out at the end of an activation.
    Logout(Option<Caller>),
}

impl Step {
    const fn function(&self) -> Function {
        match self {
            Step::Observe(_) => Function::GetTokenInfo,
            Step::Clear(_) | Step::Logout(_) => Function::Logout,
            Step::Login(..) => Function::Login,
            Step::Settle(..) => Function::Settle,
        }
    }

    const fn caller(&self) -> Option<Caller> {
        match self {
            Step::Observe(attempt) | Step::Clear(attempt) | Step::Login(attempt, _) | Step::Settle(attempt, _) => {
                attempt.caller
            }
            Step::Logout(caller) => *caller,
        }
    }

    /// The same step with nobody waiting: its caller has been answered.
    const fn without_caller(mut self) -> Self {
        match &mut self {
            Step::Observe(attempt) | Step::Clear(attempt) | Step::Login(attempt, _) | Step::Settle(attempt, _) => {
                attempt.caller = None;
            }
            Step::Logout(caller) => *caller = None,
        }
        self
    }
}

/// What follows when the applications have given the PIN back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum After {
    /// Log out, then answer.
    Logout(Option<Caller>),
    /// Nothing to log out: the login is gone already.
    Rest(Option<Caller>),
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
                order_init(turn, caller, so_pin, free_slot, confirmed)
            }

            (State::CoolingDown { .. }, On::WaitOver) => Transition(rest(turn)),
            (State::CoolingDown { .. }, On::ActivateOrdered { caller, code, .. }) => {
                refuse(turn, caller, CommandKind::Activate, Refusal::SlotCoolingDown, [code, None])
            }
            (State::CoolingDown { .. }, On::ChangeOrdered { caller, kind, code, new_code, .. }) => {
                refuse(turn, caller, kind, Refusal::SlotCoolingDown, [code, new_code])
            }

            (State::Locked, On::BootOrdered) => {
                turn.slot.held = false;
                go_on(turn)
            }
            (State::InDoubt, On::BootOrdered) => go_on(turn),
            (State::InDoubt, On::ChangeOrdered { caller, kind, code, new_code, .. }) => {
                let refusal = match turn.slot.record.doubt {
                    Some(Doubt::OldOrNew) => Refusal::CodeOldOrNew,
                    Some(Doubt::BothRefused | Doubt::CallUnanswered) | None => Refusal::ActivationNeedsPerson,
                };
                refuse(turn, caller, kind, refusal, [code, new_code])
            }
            (State::Locked, On::ChangeOrdered { caller, kind, to, code, new_code, confirmed }) => {
                order_change(turn, None, Wish { caller, kind, to, code, new_code, confirmed })
            }

            (State::Unsealing { ticket, id, attempt }, On::Done(done, EffectOutcome::Unsealed(result)))
                if done == ticket =>
            {
                match result {
                    Ok(()) => begin_login(turn, Try { source: Source::Unsealed(id), ..attempt }, id),
                    Err(fault) => {
                        turn.wipe(id);
                        fail(turn, attempt.caller, CommandKind::Activate, fault)
                    }
                }
            }
            (State::Unsealing { ticket, id, attempt }, On::DeadlinePassed) => {
                turn.out.withdraw(ticket);
                turn.wipe(id);
                fail(turn, attempt.caller, CommandKind::Activate, Fault::SealBroken)
            }
            (State::Unsealing { ticket, id, attempt }, On::WorkerLost) => {
                turn.out.withdraw(ticket);
                turn.wipe(id);
                fail(turn, attempt.caller, CommandKind::Activate, Fault::WorkerLost(Function::Login))
            }

            (State::AtToken { ticket, step }, On::Done(done, EffectOutcome::Hsm(result))) if done == ticket => {
                token_answered(turn, step, result)
            }
            (State::Doubtful { ticket, step }, On::Done(done, EffectOutcome::Hsm(result))) if done == ticket => {
                late_answer(turn, step, result)
            }
            (State::AtToken { ticket, step }, On::DeadlinePassed) => {
                if turn.out.withdraw(ticket) {
                    // The platform never saw it: nothing happened, and nothing is in doubt.
                    return not_made(turn, step, Fault::StoreFailed);
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
                if turn.out.withdraw(ticket) { not_made(turn, step, fault) } else { unknown(turn, step, fault) }
            }
            (State::Doubtful { step, .. }, On::WorkerLost) => unknown(turn, step, Fault::WorkerLost(step.function())),

            (State::HandingOver { pin, caller }, On::Done(ticket, EffectOutcome::Application(result))) => {
                if !application_answered(turn, ticket, result) {
                    return Super;
                }
                activated_if_all_answered(turn, pin, caller)
            }
            (State::HandingOver { pin, caller }, On::DeadlinePassed) => {
                applications_overdue(turn);
                activated_if_all_answered(turn, pin, caller)
            }
            (State::HandingOver { pin, caller }, On::WorkerLost) => {
                if let Some((caller, _)) = caller {
                    turn.reply(caller, Answer::Failed(Fault::WorkerLost(Function::Login)));
                }
                Transition(State::Reconnecting { pin })
            }
            (State::HandingOver { pin, caller }, On::Token(presence)) => {
                turn.slot.look(presence);
                if turn.slot.token.is_some() {
                    return Handled;
                }
                lose_token(turn, pin, caller.map(|(caller, _)| caller))
            }

            (State::Active { .. }, On::ActivateOrdered { caller, code, .. }) => {
                refuse(turn, caller, CommandKind::Activate, Refusal::AlreadyActive, [code, None])
            }
            (State::Active { pin }, On::DeactivateOrdered { caller }) => {
                turn.slot.held = true;
                turn.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::Deactivate));
                turn.wipe(pin);
                take_back(turn, After::Logout(Some(caller)))
            }
            (State::Active { .. }, On::ChangeOrdered { caller, kind, code, new_code, .. })
                if turn.slot.is_cooling(turn.now) =>
            {
                refuse(turn, caller, kind, Refusal::SlotCoolingDown, [code, new_code])
            }
            (State::Active { pin }, On::ChangeOrdered { caller, kind, to, code, new_code, confirmed }) => {
                order_change(turn, Some(pin), Wish { caller, kind, to, code, new_code, confirmed })
            }
            (State::Active { pin }, On::Token(presence)) => {
                let before = turn.slot.attention;
                turn.slot.look(presence);
                if turn.slot.token.is_none() {
                    return lose_token(turn, pin, None);
                }
                attend(turn, before);
                Handled
            }
            (State::Active { pin }, On::WorkerLost) => Transition(State::Reconnecting { pin }),

            (State::TakingBack { after }, On::Done(ticket, EffectOutcome::Application(result))) => {
                if !application_answered(turn, ticket, result) {
                    return Super;
                }
                taken_back_if_all_answered(turn, after)
            }
            (State::TakingBack { after }, On::DeadlinePassed) => {
                applications_overdue(turn);
                taken_back_if_all_answered(turn, after)
            }
            (State::TakingBack { after }, On::WorkerLost) => match after {
                After::Logout(caller) => Transition(State::TakingBack { after: After::Rest(caller) }),
                After::Rest(_) => Handled,
            },

            (State::Reconnecting { pin }, On::Token(presence)) => {
                turn.slot.look(presence);
                if turn.slot.token.is_none() {
                    return lose_token(turn, pin, None);
                }
                let attempt = Try {
                    source: Source::Kept(pin),
                    cause: AttemptCause::Repeat,
                    caller: None,
                    confirmed: false,
                    cleared: false,
                };
                begin_login(turn, attempt, pin)
            }
            (State::Reconnecting { pin }, On::DeactivateOrdered { caller }) => {
                turn.slot.held = true;
                turn.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::Deactivate));
                turn.wipe(pin);
                take_back(turn, After::Rest(Some(caller)))
            }
            (State::Reconnecting { .. }, On::WorkerLost) => Handled,

            (State::Changing, On::ChangeEnded(end)) => change_ended(turn, end),
            // The change saw it first and answers by `ChangeEnded`, if it has to.
            (State::Changing, On::WorkerLost | On::DeadlinePassed) => Handled,

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
            (Superstate::Closed, On::ActivateOrdered { caller, code, confirmed }) => {
                order_activation(turn, caller, code, confirmed)
            }

            (Superstate::Resting, On::Token(presence)) => {
                let before = turn.slot.attention;
                let was_there = turn.slot.token.is_some();
                turn.slot.look(presence);
                attend(turn, before);
                match (was_there, turn.slot.token.is_some()) {
                    (false, true) => turn.journal(None, AuditEvent::TokenPresent),
                    (true, false) => turn.journal(None, AuditEvent::TokenAbsent),
                    (false, false) | (true, true) => {}
                }
                go_on(turn)
            }
            (Superstate::Resting, On::WorkerLost) => Handled,
            // The platform looks again at boot; what it finds arrives as `Token`.
            (Superstate::Resting, On::BootOrdered) => Handled,
            (Superstate::Resting, On::DeactivateOrdered { caller }) => {
                refuse(turn, caller, CommandKind::Deactivate, Refusal::SlotNotActive, [None, None])
            }
            (Superstate::Resting, On::ActivateOrdered { caller, code, .. }) => {
                let refusal = why_not(turn);
                refuse(turn, caller, CommandKind::Activate, refusal, [code, None])
            }
            (Superstate::Resting, On::ChangeOrdered { caller, kind, code, new_code, .. }) => {
                let refusal = why_not(turn);
                refuse(turn, caller, kind, refusal, [code, new_code])
            }
            (Superstate::Resting, On::InitOrdered { caller, so_pin, .. }) => {
                let refusal = match (turn.slot.token, turn.slot.refusal, turn.slot.record.serial) {
                    (Some(_), _, _) | (None, None, Some(_)) => Refusal::SlotHasToken,
                    (None, Some(refusal), _) => refusal,
                    (None, None, None) => Refusal::NoFreeToken,
                };
                refuse(turn, caller, CommandKind::Init, refusal, [Some(so_pin), None])
            }

            (Superstate::Working, On::Token(presence)) => {
                turn.slot.look(presence);
                Handled
            }
            (Superstate::Working, On::BootOrdered) => Handled,
            (Superstate::Working, On::ActivateOrdered { caller, code, .. }) => {
                let refusal = busy(turn);
                refuse(turn, caller, CommandKind::Activate, refusal, [code, None])
            }
            (Superstate::Working, On::DeactivateOrdered { caller }) => {
                let refusal = busy(turn);
                refuse(turn, caller, CommandKind::Deactivate, refusal, [None, None])
            }
            (Superstate::Working, On::ChangeOrdered { caller, kind, code, new_code, .. }) => {
                let refusal = busy(turn);
                refuse(turn, caller, kind, refusal, [code, new_code])
            }
            (Superstate::Working, On::InitOrdered { caller, so_pin, .. }) => {
                let refusal = busy(turn);
                refuse(turn, caller, CommandKind::Init, refusal, [Some(so_pin), None])
            }

            (Superstate::Closed | Superstate::Resting | Superstate::Working, _) => Super,

            (Superstate::Top, event) => match event {
                On::Done(ticket, outcome) => leftover_answer(turn, ticket, outcome),
                // A deadline or wait that no longer matters: spurious, by contract harmless.
                On::DeadlinePassed | On::WaitOver | On::BootOrdered | On::WorkerLost => Handled,
                On::InitOrdered { caller, so_pin, .. } => {
                    refuse(turn, caller, CommandKind::Init, Refusal::SlotHasToken, [Some(so_pin), None])
                }
                On::Token(_) => {
                    turn.out.bug(BUG_TOKEN_UNHANDLED);
                    Handled
                }
                On::ActivateOrdered { .. } | On::DeactivateOrdered { .. } | On::ChangeOrdered { .. } => {
                    turn.out.bug(BUG_ORDER_UNHANDLED);
                    Handled
                }
                On::ChangeEnded(end) => {
                    turn.out.bug(BUG_CHANGE_NOT_AWAITED);
                    turn.wipe_any(end.then.secret());
                    Transition(rest(turn))
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

/// A person's wish for another token PIN.
#[derive(Clone, Copy)]
struct Wish {
    caller: Caller,
    kind: CommandKind,
    to: Mode,
    code: Option<SecretId>,
    new_code: Option<SecretId>,
    confirmed: bool,
}

// Resting: where a slot belongs, and whether it goes on by itself.

/// The state that record and token ask for when nobody waits for anything.
fn rest(turn: &mut Turn<'_>) -> State {
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
fn go_on(turn: &mut Turn<'_>) -> Outcome<State> {
    if !turn.stopping && turn.slot.token.is_some() {
        if turn.slot.has_open_change() {
            return decide(turn, None, false);
        }
        if turn.slot.opens_by_itself() && !turn.slot.held {
            let attempt = Try {
                source: Source::Stored,
                cause: AttemptCause::Automatic,
                caller: None,
                confirmed: false,
                cleared: false,
            };
            return ready(turn, attempt);
        }
    }
    Outcome::Transition(rest(turn))
}

/// Lets `pin_change` decide what the token has.
fn decide(turn: &mut Turn<'_>, caller: Option<Caller>, confirmed: bool) -> Outcome<State> {
    *turn.change = Some(ChangeOrder::Decide { caller, confirmed });
    Outcome::Transition(State::Changing)
}

/// Why a resting slot cannot be opened or changed.
fn why_not(turn: &Turn<'_>) -> Refusal {
    match turn.slot.token {
        None if turn.slot.free => Refusal::SlotUninitialised,
        None => turn.slot.refusal.unwrap_or(Refusal::SlotAbsent),
        Some(token) if !token.user_pin => Refusal::SlotUninitialised,
        Some(_) => Refusal::SlotBlocked,
    }
}

/// Why a working slot takes no order: somebody else's, or a call without an answer.
fn busy(turn: &Turn<'_>) -> Refusal {
    match turn.slot.fault {
        Some(Fault::Unanswered(_)) => Refusal::SlotDoubtful,
        Some(_) | None => Refusal::Busy,
    }
}

/// Writes a rise of attention into the log, once.
fn attend(turn: &mut Turn<'_>, before: Option<Attention>) {
    let rises = turn.slot.attention == Some(Attention::TriesSpentElsewhere);
    if rises && before != turn.slot.attention {
        turn.journal(None, AuditEvent::TriesSpentElsewhere);
    }
}

// Orders.

fn refuse(
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
fn fail(turn: &mut Turn<'_>, caller: Option<Caller>, kind: CommandKind, fault: Fault) -> Outcome<State> {
    turn.slot.fault = Some(fault);
    turn.journal(caller.map(|caller| caller.who), AuditEvent::Failed(kind, fault));
    if let Some(caller) = caller {
        turn.reply(caller, Answer::Failed(fault));
    }
    Outcome::Transition(rest(turn))
}

/// Ends a try with a refusal after it began, and rests.
fn end_refused(turn: &mut Turn<'_>, attempt: Try, refusal: Refusal) -> Outcome<State> {
    turn.wipe_any(attempt.source.secret());
    if let Some(caller) = attempt.caller {
        turn.journal(Some(caller.who), AuditEvent::Refused(CommandKind::Activate, refusal));
        turn.reply(caller, Answer::Refused(refusal));
    }
    Outcome::Transition(rest(turn))
}

fn order_activation(turn: &mut Turn<'_>, caller: Caller, code: Option<SecretId>, confirmed: bool) -> Outcome<State> {
    let record = &turn.slot.record;
    let stored_rules = record.mode == Mode::Generated && record.accepted.is_some();
    let undisturbed = !record.user.automatic_stopped && turn.slot.doubt().is_none();
    let source = match code {
        Some(id) => {
            if stored_rules && undisturbed {
                return refuse(turn, caller, CommandKind::Activate, Refusal::CodeNotWanted, [code, None]);
            }
            if let Err(refusal) = check_code(turn, id) {
                return refuse(turn, caller, CommandKind::Activate, refusal, [code, None]);
            }
            Source::Typed(id)
        }
        None => {
            let kept = record.mode == Mode::Manual && leaves_a_kept_code(turn);
            let decidable = record.change.is_some() || record.doubt == Some(Doubt::BothRefused) || (kept && confirmed);
            if !stored_rules && !decidable {
                let refusal = if kept { Refusal::KeptCode } else { Refusal::CodeMissing };
                return refuse(turn, caller, CommandKind::Activate, refusal, [None, None]);
            }
            if decidable {
                turn.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::Activate));
                turn.slot.record.user.person_acts();
                turn.save();
                return decide(turn, Some(caller), confirmed);
            }
            Source::Stored
        }
    };
    turn.journal(Some(caller.who), AuditEvent::Ordered(CommandKind::Activate));
    turn.slot.held = false;
    let attempt = Try { source, cause: AttemptCause::Person, caller: Some(caller), confirmed, cleared: false };
    let ticket = turn.call(HsmCall::Observe);
    Outcome::Transition(State::AtToken { ticket, step: Step::Observe(attempt) })
}

fn order_change(turn: &mut Turn<'_>, pin: Option<SecretId>, wish: Wish) -> Outcome<State> {
    let from = turn.slot.record.mode;
    let kind = match (wish.kind, from, wish.to) {
        (CommandKind::Mode, Mode::Generated, Mode::Generated) | (CommandKind::Mode, Mode::Manual, Mode::Manual) => {
            return refuse(turn, wish.caller, wish.kind, Refusal::ModeAlready, [wish.code, wish.new_code]);
        }
        (_, Mode::Generated, Mode::Generated) => ChangeKind::GeneratedToGenerated,
        (_, Mode::Generated, Mode::Manual) => ChangeKind::GeneratedToManual,
        (_, Mode::Manual, Mode::Generated) => ChangeKind::ManualToGenerated,
        (_, Mode::Manual, Mode::Manual) => ChangeKind::ManualToManual,
    };
    if leaves_a_kept_code(turn) {
        return refuse(turn, wish.caller, wish.kind, Refusal::ActivateFirst, [wish.code, wish.new_code]);
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
    });
    Outcome::Transition(State::Changing)
}

/// Whether a sealed code is kept that only an accepted code may replace (rule 2).
fn leaves_a_kept_code(turn: &Turn<'_>) -> bool {
    let record = &turn.slot.record;
    match record.mode {
        Mode::Generated => record.pending.is_some(),
        Mode::Manual => record.pending.is_some() || record.accepted.is_some(),
    }
}

fn order_init(
    turn: &mut Turn<'_>,
    caller: Caller,
    so_pin: SecretId,
    free_slot: Option<u64>,
    confirmed: bool,
) -> Outcome<State> {
    if turn.slot.record.serial.is_some() {
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

/// Checks a typed code of this slot before its token is touched.
fn check_code(turn: &Turn<'_>, id: SecretId) -> Result<(), Refusal> {
    let token_max = turn.slot.pin_chars_max();
    let mut verdict = Err(Refusal::CodeMissing);
    let lent = turn.secrets.lend(id, &mut |bytes| verdict = code::check_typed(bytes, token_max));
    lent.ok_or(Refusal::CodeMissing)?;
    verdict
}

/// An SO PIN has the token's own rules; we only refuse what nobody can have meant.
fn check_so_pin(turn: &Turn<'_>, id: SecretId) -> Result<(), Refusal> {
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
fn check_codes(turn: &Turn<'_>, from: Mode, wish: Wish) -> Result<(), Refusal> {
    match (from, wish.code) {
        (Mode::Generated, Some(_)) => return Err(Refusal::CodeNotWanted),
        (Mode::Manual, None) => return Err(Refusal::CodeMissing),
        (Mode::Manual, Some(id)) => check_code(turn, id)?,
        (Mode::Generated, None) => {}
    }
    match (wish.to, wish.new_code) {
        (Mode::Generated, Some(_)) => return Err(Refusal::NewCodeNotWanted),
        (Mode::Generated, None) => code::generated_chars(turn.slot.pin_chars_max()).map(|_| ()),
        (Mode::Manual, None) => Err(Refusal::NewCodeMissing),
        (Mode::Manual, Some(id)) => check_code(turn, id),
    }?;
    let (Some(old), Some(new)) = (wish.code, wish.new_code) else { return Ok(()) };
    let mut unchanged = false;
    turn.secrets.lend(old, &mut |old| {
        turn.secrets.lend(new, &mut |new| unchanged = code::equal(old, new));
    });
    if unchanged { Err(Refusal::CodeUnchanged) } else { Ok(()) }
}

// A try, step by step.

/// The flags are fresh: goes to the token with this try, or to the store for its code.
fn ready(turn: &mut Turn<'_>, attempt: Try) -> Outcome<State> {
    let Some(token) = turn.slot.token else {
        let refusal = turn.slot.refusal.unwrap_or(Refusal::SlotAbsent);
        return end_refused(turn, attempt, refusal);
    };
    if token.locked {
        return end_refused(turn, attempt, Refusal::SlotBlocked);
    }
    if !token.user_pin {
        return end_refused(turn, attempt, Refusal::SlotUninitialised);
    }
    if token.login != LoginState::Public {
        if attempt.cleared {
            turn.wipe_any(attempt.source.secret());
            return fail(turn, attempt.caller, CommandKind::Activate, Fault::ModuleLies(Function::Logout));
        }
        let ticket = turn.call(HsmCall::Logout);
        let step = Step::Clear(Try { cleared: true, ..attempt });
        return Outcome::Transition(State::AtToken { ticket, step });
    }
    let needs_confirmation = turn.slot.record.user.needs_confirmation(turn.tries, token.final_try);
    if needs_confirmation && attempt.cause == AttemptCause::Person && !attempt.confirmed {
        return end_refused(turn, attempt, Refusal::LastTryUnconfirmed);
    }
    // Without a person nobody spends a token's last try.
    if token.final_try && attempt.cause == AttemptCause::Automatic {
        return end_refused(turn, attempt, Refusal::ActivationNeedsPerson);
    }
    match attempt.source {
        Source::Typed(id) | Source::Unsealed(id) | Source::Kept(id) => begin_login(turn, attempt, id),
        Source::Stored => {
            let Some(generation) = turn.slot.record.accepted else {
                return end_refused(turn, attempt, Refusal::CodeMissing);
            };
            match turn.unseal(generation) {
                Ok((ticket, id)) => Outcome::Transition(State::Unsealing { ticket, id, attempt }),
                Err(refusal) => end_refused(turn, attempt, refusal),
            }
        }
    }
}

/// Records the try, then makes it. Making a login again that succeeded since the start is
/// no try, unless it is refused.
fn begin_login(turn: &mut Turn<'_>, attempt: Try, id: SecretId) -> Outcome<State> {
    if attempt.cause != AttemptCause::Repeat {
        attempts::begin(turn, attempt.caller, attempt.cause);
    }
    let ticket = turn.call(HsmCall::Login { pin: id });
    Outcome::Transition(State::AtToken { ticket, step: Step::Login(attempt, id) })
}

/// The token was heard.
fn token_answered(turn: &mut Turn<'_>, step: Step, result: Result<HsmAnswer, HsmFailure>) -> Outcome<State> {
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
                forget_superseded(turn);
                served(turn, attempt, id)
            }
            Ok(_) => wrong_answer(turn, step),
            // The code is right, so the slot opens; what it supersedes stays until a later
            // settle succeeds (rule 2), and the fault is shown.
            Err(failure) => {
                let fault = failure.fault(Function::Settle);
                let next = served(turn, attempt, id);
                turn.slot.fault = Some(fault);
                next
            }
        },
        Step::Logout(caller) => match result {
            Ok(HsmAnswer::LoggedOut) | Err(HsmFailure::TokenGone | HsmFailure::NoWorker) => {
                deactivated(turn, caller, Ok(()))
            }
            Ok(_) => wrong_answer(turn, step),
            Err(failure) => deactivated(turn, caller, Err(failure.fault(Function::Logout))),
        },
    }
}

/// The token was heard after the deadline. A login or logout is what it is; a try that had
/// not begun yet does not begin any more, since its person was told otherwise.
fn late_answer(turn: &mut Turn<'_>, step: Step, result: Result<HsmAnswer, HsmFailure>) -> Outcome<State> {
    match (step, result) {
        (Step::Observe(attempt) | Step::Clear(attempt), Ok(HsmAnswer::Observed(_) | HsmAnswer::LoggedOut)) => {
            turn.slot.fault = None;
            turn.wipe_any(attempt.source.secret());
            if let Ok(HsmAnswer::Observed(token)) = result {
                turn.slot.observe(token);
            }
            Outcome::Transition(rest(turn))
        }
        (_, _) => token_answered(turn, step, result),
    }
}

fn login_answered(
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
            } else if let Some(token) = &mut turn.slot.token {
                token.login = LoginState::User;
            }
            if matches!(attempt.source, Source::Typed(_)) && supersedes(turn) {
                let ticket = turn.call(HsmCall::Settle);
                return Outcome::Transition(State::AtToken { ticket, step: Step::Settle(attempt, id) });
            }
            served(turn, attempt, id)
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

fn login_refused(turn: &mut Turn<'_>, attempt: Try, id: SecretId, locked: bool) -> Outcome<State> {
    attempts::refused(turn, attempt.caller, attempt.cause == AttemptCause::Person);
    turn.wipe(id);
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
        return take_back(turn, After::Rest(None));
    }
    Outcome::Transition(rest(turn))
}

/// The step did not reach the token: it costs nothing and proves nothing.
fn not_made(turn: &mut Turn<'_>, step: Step, fault: Fault) -> Outcome<State> {
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
        Step::Logout(caller) => deactivated(turn, caller, Ok(())),
    }
}

/// The token may have heard the step, and nobody knows what it did.
fn unknown(turn: &mut Turn<'_>, step: Step, fault: Fault) -> Outcome<State> {
    match step {
        Step::Login(attempt, id) if attempt.cause != AttemptCause::Repeat => {
            turn.wipe(id);
            attempts::unknown(turn, attempt.caller, fault);
            end_try(turn, attempt, fault)
        }
        Step::Observe(_) | Step::Clear(_) | Step::Login(..) | Step::Settle(..) | Step::Logout(_) => {
            not_made(turn, step, fault)
        }
    }
}

/// Ends a try with a fault. A slot that was active until now takes its PIN back first.
fn end_try(turn: &mut Turn<'_>, attempt: Try, fault: Fault) -> Outcome<State> {
    let next = fail(turn, attempt.caller, CommandKind::Activate, fault);
    if attempt.cause == AttemptCause::Repeat {
        return take_back(turn, After::Rest(None));
    }
    next
}

/// The worker, and the vendor's module in it, answered another question than was asked.
fn wrong_answer(turn: &mut Turn<'_>, step: Step) -> Outcome<State> {
    unknown(turn, step, Fault::ModuleLies(step.function()))
}

/// Whether a typed code that was accepted leaves something behind to resolve.
fn supersedes(turn: &Turn<'_>) -> bool {
    let record = &turn.slot.record;
    record.accepted.is_some()
        || record.pending.is_some()
        || record.doubt.is_some()
        || record.change.is_some()
        || record.mode == Mode::Generated
}

/// A typed code was accepted and settled: it rules, and the sealed ones go (rule 2).
fn forget_superseded(turn: &mut Turn<'_>) {
    let (accepted, pending) = (turn.slot.record.accepted, turn.slot.record.pending);
    turn.erase(accepted);
    turn.erase(pending);
    let record = &mut turn.slot.record;
    let resolved = record.doubt.is_some() || record.change.is_some();
    let switched = record.mode != Mode::Manual;
    record.accepted = None;
    record.pending = None;
    record.doubt = None;
    record.change = None;
    record.mode = Mode::Manual;
    turn.save();
    if resolved {
        turn.journal(None, AuditEvent::DoubtResolved);
    }
    if switched {
        turn.journal(None, AuditEvent::ModeIs(Mode::Manual));
    }
}

/// The PIN is proven: the applications get it.
fn served(turn: &mut Turn<'_>, attempt: Try, pin: SecretId) -> Outcome<State> {
    begin_hand_over(turn, pin, attempt.caller.map(|caller| (caller, CommandKind::Activate)))
}

fn begin_hand_over(turn: &mut Turn<'_>, pin: SecretId, caller: Option<(Caller, CommandKind)>) -> Outcome<State> {
    hand_over(turn, pin);
    activated_if_all_answered(turn, pin, caller)
}

fn activated_if_all_answered(
    turn: &mut Turn<'_>,
    pin: SecretId,
    caller: Option<(Caller, CommandKind)>,
) -> Outcome<State> {
    if turn.slot.applications_pending() {
        return Outcome::Transition(State::HandingOver { pin, caller });
    }
    turn.journal(caller.map(|(caller, _)| caller.who), AuditEvent::Activated);
    if let Some((caller, kind)) = caller {
        match turn.slot.application_fault() {
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

// The way back.

/// The token of a slot that had its PIN proven is gone: the PIN goes too.
fn lose_token(turn: &mut Turn<'_>, pin: SecretId, caller: Option<Caller>) -> Outcome<State> {
    turn.wipe(pin);
    turn.journal(None, AuditEvent::TokenAbsent);
    if let Some(caller) = caller {
        turn.reply(caller, Answer::Failed(Fault::TokenGone));
    }
    take_back(turn, After::Rest(None))
}

fn take_back(turn: &mut Turn<'_>, after: After) -> Outcome<State> {
    withdraw(turn);
    taken_back_if_all_answered(turn, after)
}

fn taken_back_if_all_answered(turn: &mut Turn<'_>, after: After) -> Outcome<State> {
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
fn deactivated(turn: &mut Turn<'_>, caller: Option<Caller>, logout: Result<(), Fault>) -> Outcome<State> {
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
        return Outcome::Transition(rest(turn));
    }
    go_on_after_loss(turn)
}

/// After an activation ended without an order: a token that is still there may open again.
fn go_on_after_loss(turn: &mut Turn<'_>) -> Outcome<State> {
    match turn.slot.fault {
        None => go_on(turn),
        Some(_) => Outcome::Transition(rest(turn)),
    }
}

/// `pin_change` gave the word back.
fn change_ended(turn: &mut Turn<'_>, end: ChangeEnd) -> Outcome<State> {
    match end.then {
        Then::HandOver(pin) => begin_hand_over(turn, pin, end.caller),
        Then::Logout => {
            let ticket = turn.call(HsmCall::Logout);
            Outcome::Transition(State::AtToken { ticket, step: Step::Logout(None) })
        }
        Then::Reconnect(pin) => Outcome::Transition(State::Reconnecting { pin }),
        Then::Rest => Outcome::Transition(rest(turn)),
        Then::GoOn => go_on(turn),
        Then::Decide => decide(turn, None, false),
    }
}

/// An answer that no leaf took: an application's late one, or one of a withdrawn effect.
fn leftover_answer(turn: &mut Turn<'_>, ticket: Ticket, outcome: EffectOutcome) -> Outcome<State> {
    match outcome {
        EffectOutcome::Application(result) => {
            // After its deadline: the application's state is shown, nothing else follows.
            application_answered(turn, ticket, result);
        }
        EffectOutcome::Hsm(_) | EffectOutcome::Random(_) | EffectOutcome::Unsealed(_) => {}
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
        pin_chars_max: 0,
        login: LoginState::Public,
    }
}
