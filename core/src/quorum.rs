//! People who know a code together: collecting what they enter, handing new shares out.
//!
//! A *collection* belongs to one slot and one order: activate it, or change its code. It asks
//! for the present code first, where several persons know that: any m of n shares, or every
//! part of a conjunction. Then for the new one, where several persons are to know it: each
//! types a new part, or fetches a new share once and types it back. What comes out is one
//! whole code (or two), given to the slot machine like one that somebody typed; only that
//! machine touches the token. Until then the old code rules.
//!
//! A share is judged when it is entered, alone: a typing error, a share of another slot, of a
//! former set, of another person, a repeated one are refused by name, and what was entered
//! before stays. A wrong part cannot be told from a right one: the token judges the whole,
//! and all are asked again.
//!
//! Nothing is stored but the public description of a set that is handed out. After a restart
//! a collection is gone, its set is void, and people begin again.
//!
//! The arrows are here, one a line; what they do is told in `quorum/`: `order` (what is asked
//! for, and in which order), `enter` (what a person enters), `hand_out` (new shares).
//!
//! ```text
//! top
//! ├── Waiting
//! ├── open                 can be reset, and ends when nobody goes on
//! │   ├── Present          people enter the present code
//! │   ├── NewParts         people enter parts of the new one
//! │   ├── Drawing          the new secret is being drawn
//! │   └── HandingOut       custodians fetch their shares and type them back
//! └── Ended
//! ```

mod enter;
mod hand_out;
mod order;

use heapless::Vec;
use statig::Outcome;
use statig::blocking::{self, IntoStateMachine, IntoStateMachineExt as _};
use statig::prelude::InitializedStateMachine;

use crate::audit::{AuditEvent, CollectionEnd};
use crate::command::{Answer, Caller, CommandKind};
use crate::effect::{ApplicationSet, Outcome as EffectOutcome, Ticket};
use crate::fault::{Fault, Refusal};
use crate::fmt;
use crate::limits::ROSTER_MAX;
use crate::person::{PersonId, Roster};
use crate::record::{Knowledge, Knows, Mode};
use crate::safe::SecretId;
use crate::share::{Quorum, Set};
use crate::slot_data::SlotData;
use crate::status::{CollectionPerson, CollectionStatus, Progress, WaitKind};
use crate::time::Now;
use crate::turn::Turn;

/// What a collection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct CollectionOrder {
    /// Who ordered it.
    pub caller: Caller,
    /// What it leads to.
    pub want: Want,
    /// Whose present code is collected, while a change of it is undecided.
    pub by: Knows,
    /// What the caller entered: the present code, or their share or part of it.
    pub code: Option<SecretId>,
    /// The new code, when one person is to know it.
    pub new_code: Option<SecretId>,
    /// Whether the last-try confirmation was typed.
    pub confirmed: bool,
}

/// What a collection leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Want {
    /// The slot is activated.
    Activate,
    /// The token gets another PIN.
    Change {
        /// As which command.
        command: CommandKind,
        /// What the new code is.
        new: NewCode,
        /// Applications that need not be told to let go.
        accept: ApplicationSet,
    },
}

/// What a new code is, and who will know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum NewCode {
    /// The service makes it and nobody knows it.
    Generated,
    /// One person knows it and typed it with the order.
    Whole,
    /// These persons in conjunction.
    Parts(Roster),
    /// Any m of n persons, each with a share of a secret that is made now.
    Shares {
        /// How many of how many.
        quorum: Quorum,
        /// Who the shares are for; nobody in particular: whoever asks first.
        custodians: Roster,
    },
    /// Users with the cards of a set that was made just now; the PIN from them came with the order.
    Cards(Knowledge),
}

impl Want {
    /// As which command it was ordered.
    #[must_use]
    pub const fn command(&self) -> CommandKind {
        match self {
            Want::Activate => CommandKind::Activate,
            Want::Change { command, .. } => *command,
        }
    }
}

impl NewCode {
    /// The mode of the slot with it.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        match self {
            NewCode::Generated => Mode::Generated,
            NewCode::Whole | NewCode::Parts(_) | NewCode::Shares { .. } | NewCode::Cards(_) => Mode::Manual,
        }
    }

    /// Who knows it.
    #[must_use]
    pub const fn knowledge(&self) -> Knowledge {
        match self {
            NewCode::Generated | NewCode::Whole => Knowledge::Whole,
            NewCode::Parts(roster) => Knowledge::Parts(*roster),
            NewCode::Shares { .. } => Knowledge::Shares,
            NewCode::Cards(knowledge) => *knowledge,
        }
    }
}

/// What happened to a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum CollectionEvent {
    /// It begins.
    Begin,
    /// A person entered a share or a part, or typed the share back that they were shown.
    Entered {
        /// Who.
        caller: Caller,
        /// What they typed.
        code: SecretId,
        /// Whether the last-try confirmation was typed.
        confirmed: bool,
    },
    /// A person asks for their new share.
    Fetched {
        /// Who.
        caller: Caller,
    },
    /// A person wants it ended.
    ResetOrdered {
        /// Who.
        caller: Caller,
        /// Whether they may end one that others took part in.
        whoever: bool,
    },
    /// An effect of this machine ended.
    Done(Ticket, EffectOutcome),
    /// Nobody went on in time.
    DeadlinePassed,
    /// The slot is not any more what was collected for.
    Superseded,
}

/// Where a collection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum State {
    /// Not begun.
    Waiting,
    /// People enter the present code. Left when it is whole.
    Present,
    /// People enter parts of the new code. Left when it is whole.
    NewParts,
    /// The new secret is being drawn.
    Drawing {
        /// Of the effect.
        ticket: Ticket,
        /// Where it goes.
        id: SecretId,
    },
    /// Custodians fetch their shares and type them back. Left when all n were typed back.
    HandingOut {
        /// What the shares are made from.
        key: SecretId,
    },
    /// Over: the service forgets it.
    Ended,
}

impl State {
    /// The effect this state waits for.
    #[must_use]
    pub const fn awaited(&self) -> Option<Ticket> {
        match self {
            State::Drawing { ticket, .. } => Some(*ticket),
            State::Waiting | State::Present | State::NewParts | State::HandingOut { .. } | State::Ended => None,
        }
    }
}

/// The groups of states that answer alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Superstate {
    /// Answers every leftover.
    Top,
    /// Can be reset, and ends when nobody goes on.
    Open,
}

/// One entered share or part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entered {
    /// x of a share, place in the roster of a part.
    place: u8,
    who: PersonId,
    id: SecretId,
}

/// A collection; statig is hidden behind it.
pub struct Collection {
    machine: InitializedStateMachine<Rules>,
}

/// What one collection knows, whatever its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    order: CollectionOrder,
    attempt: u64,
    entered: Vec<Entered, ROSTER_MAX>,
    /// The present code: given whole, or made of what was entered.
    present: Option<SecretId>,
    /// The new code, as far as it is whole.
    new: Option<SecretId>,
    confirmed: bool,
    /// Who waits for the new secret to be drawn.
    waiting: Option<Caller>,
    due_ms: u64,
}

impl Collection {
    /// Begins a collection; `attempt` names it from here on.
    #[must_use]
    pub fn begin(order: CollectionOrder, attempt: u64, turn: &mut Turn<'_>) -> Self {
        let mut collection = Collection::in_state(Rules::new(order, attempt, turn.now), State::Waiting, turn);
        collection.handle(CollectionEvent::Begin, turn);
        collection
    }

    /// A machine in any state: for golden tables.
    #[must_use]
    pub fn in_state(rules: Rules, state: State, turn: &mut Turn<'_>) -> Self {
        let mut machine = rules.uninitialized_state_machine();
        *machine.state_mut() = state;
        Collection { machine: machine.init_with_context(turn) }
    }

    /// Where the collection is.
    #[must_use]
    pub fn state(&self) -> State {
        *self.machine.state()
    }

    /// Takes one event.
    pub fn handle(&mut self, event: CollectionEvent, turn: &mut Turn<'_>) {
        self.machine.handle_with_context(&event, turn);
    }

    /// What it is for.
    #[must_use]
    pub fn order(&self) -> CollectionOrder {
        self.rules().order
    }

    /// When it ends by itself, monotonic milliseconds.
    #[must_use]
    pub fn due_ms(&self) -> u64 {
        self.rules().due_ms
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state() == State::Ended
    }

    /// How many secrets it owns; checkers compare it with the Safe.
    #[must_use]
    pub fn secrets(&self) -> usize {
        let rules = self.rules();
        let in_state = match self.state() {
            State::Drawing { .. } | State::HandingOut { .. } => 1,
            State::Waiting | State::Present | State::NewParts => 0,
            State::Ended => return 0,
        };
        let whole = [rules.present, rules.new].iter().flatten().count();
        rules.entered.len().saturating_add(whole).saturating_add(in_state)
    }

    /// How far it is, as everybody may see it.
    #[must_use]
    pub fn status(&self, slot: &SlotData, now: Now) -> CollectionStatus {
        let rules = self.rules();
        let mut persons = Vec::new();
        match self.state() {
            State::HandingOut { .. } => {
                if let Some(set) = &slot.sets.next {
                    for x in 1..=set.quorum.n() {
                        if let Some(who) = set.holder(x) {
                            // As many as a set has shares.
                            let _ = persons.push(CollectionPerson { who, done: set.is_confirmed(x) });
                        }
                    }
                }
            }
            State::Waiting | State::Present | State::NewParts | State::Drawing { .. } | State::Ended => {
                for entered in &rules.entered {
                    let _ = persons.push(CollectionPerson { who: entered.who, done: true });
                }
            }
        }
        let left_ms = rules.due_ms.saturating_sub(now.mono_ms);
        CollectionStatus {
            command: rules.order.want.command(),
            progress: rules.progress(self.state(), slot),
            persons,
            seconds_left: u32::try_from(left_ms.div_ceil(1000)).unwrap_or(u32::MAX),
        }
    }

    fn rules(&self) -> &Rules {
        &self.machine
    }
}

impl Rules {
    /// What an order is about; nothing was entered yet.
    #[must_use]
    pub fn new(order: CollectionOrder, attempt: u64, now: Now) -> Self {
        Rules {
            order,
            attempt,
            entered: Vec::new(),
            present: None,
            new: order.new_code,
            confirmed: order.confirmed,
            waiting: None,
            due_ms: now.after_ms(crate::limits::COLLECTION_IDLE_MS),
        }
    }

    /// How far it is in this state.
    fn progress(&self, state: State, slot: &SlotData) -> Progress {
        let have = u8::try_from(self.entered.len()).unwrap_or(u8::MAX);
        let (kind, have, need) = match state {
            State::Waiting | State::Present | State::Ended => {
                let (kind, need) = wanted(slot, self.order.by);
                (kind, have, need)
            }
            State::NewParts => (WaitKind::NewParts, have, self.roster().map_or(0, |roster| roster.count())),
            State::Drawing { .. } => (WaitKind::Custodians, 0, self.quorum().map_or(0, Quorum::n)),
            State::HandingOut { .. } => {
                let next = slot.sets.next.as_ref();
                (WaitKind::Custodians, next.map_or(0, confirmed), self.quorum().map_or(0, Quorum::n))
            }
        };
        Progress { kind, have, need, attempt: self.attempt }
    }

    /// Who is to know the new code in conjunction.
    const fn roster(&self) -> Option<Roster> {
        match self.order.want {
            Want::Change { new: NewCode::Parts(roster), .. } => Some(roster),
            Want::Activate | Want::Change { .. } => None,
        }
    }

    /// Into how many shares the new secret goes.
    const fn quorum(&self) -> Option<Quorum> {
        match self.order.want {
            Want::Change { new: NewCode::Shares { quorum, .. }, .. } => Some(quorum),
            Want::Activate | Want::Change { .. } => None,
        }
    }
}

/// How many shares of a set were typed back.
fn confirmed(set: &Set) -> u8 {
    (1..=set.quorum.n()).filter(|x| set.is_confirmed(*x)).fold(0, |count: u8, _| count.saturating_add(1))
}

/// What people are asked for to open a slot, and how many of it.
#[must_use]
pub fn wanted(slot: &SlotData, by: Knows) -> (WaitKind, u8) {
    match slot.knowledge(by) {
        Knowledge::Whole => (WaitKind::Code, 1),
        Knowledge::Parts(roster) => (WaitKind::Parts, roster.count()),
        Knowledge::Shares => (WaitKind::Shares, slot.set(by).map_or(0, |set| set.quorum.m())),
        Knowledge::Cards { quorum, .. } => (WaitKind::Cards, quorum.m()),
    }
}

/// A step needs a set, and there is none.
const BUG_NO_SET: u16 = 40;
/// A collection began twice.
const BUG_BEGUN: u16 = 41;
/// Shares that were judged good did not make a token PIN.
const BUG_NOT_WHOLE: u16 = 42;

impl IntoStateMachine for Rules {
    type Event<'event> = CollectionEvent;
    type Context<'turn> = Turn<'turn>;
    type State = State;
    type Superstate<'sub> = Superstate;

    fn initial() -> State {
        State::Waiting
    }

    fn after_transition(&mut self, source: &State, target: &State, _turn: &mut Turn<'_>) {
        fmt::trace_transition!("collection", source, target);
    }
}

impl blocking::State<Rules> for State {
    fn call_handler(&mut self, rules: &mut Rules, event: &CollectionEvent, turn: &mut Turn<'_>) -> Outcome<State> {
        use CollectionEvent as On;
        use Outcome::Super;
        match (*self, *event) {
            (State::Waiting, On::Begin) => rules.begin(turn),

            (
                State::Present | State::NewParts | State::Drawing { .. } | State::HandingOut { .. },
                On::ResetOrdered { caller, whoever },
            ) if !whoever && !rules.is_alone(turn, caller.who) => {
                rules.refuse(turn, caller, CommandKind::Reset, Refusal::NotAllowed)
            }

            (State::Present, On::Entered { caller, code, confirmed }) => {
                rules.confirmed |= confirmed;
                rules.enter_present(turn, caller, code)
            }
            (State::NewParts, On::Entered { caller, code, confirmed }) => {
                rules.confirmed |= confirmed;
                rules.enter_new_part(turn, caller, code)
            }
            (State::Present | State::NewParts, On::Fetched { caller }) => {
                rules.refuse(turn, caller, CommandKind::Share, Refusal::CodeMissing)
            }

            (State::Drawing { ticket, id }, On::Done(done, EffectOutcome::Random(result))) if done == ticket => {
                match result {
                    Ok(()) => rules.drawn(turn, id),
                    Err(fault) => rules.not_drawn(turn, id, fault),
                }
            }
            (State::Drawing { ticket, id }, On::DeadlinePassed) => {
                turn.out.withdraw(ticket);
                rules.not_drawn(turn, id, Fault::RandomUnavailable)
            }
            (State::Drawing { .. }, On::Fetched { caller }) => {
                rules.refuse(turn, caller, CommandKind::Share, Refusal::Busy)
            }
            (State::Drawing { .. }, On::Entered { caller, code, .. }) => {
                turn.wipe(code);
                rules.refuse(turn, caller, CommandKind::Share, Refusal::Busy)
            }
            (State::Drawing { ticket, id }, On::ResetOrdered { .. } | On::Superseded) => {
                turn.out.withdraw(ticket);
                turn.wipe(id);
                Super
            }

            (State::HandingOut { key }, On::Fetched { caller }) => rules.fetch(turn, caller, key),
            (State::HandingOut { key }, On::Entered { caller, code, confirmed }) => {
                rules.confirmed |= confirmed;
                rules.typed_back(turn, caller, code, key)
            }
            (State::HandingOut { key }, On::ResetOrdered { .. } | On::DeadlinePassed | On::Superseded) => {
                turn.wipe(key);
                Super
            }

            (_, _) => Super,
        }
    }

    fn superstate(&mut self) -> Option<Superstate> {
        Some(match self {
            State::Present | State::NewParts | State::Drawing { .. } | State::HandingOut { .. } => Superstate::Open,
            State::Waiting | State::Ended => Superstate::Top,
        })
    }
}

impl blocking::Superstate<Rules> for Superstate {
    fn call_handler(&mut self, rules: &mut Rules, event: &CollectionEvent, turn: &mut Turn<'_>) -> Outcome<State> {
        use CollectionEvent as On;
        match (*self, *event) {
            (Superstate::Open, On::ResetOrdered { caller, .. }) => {
                turn.journal(Some(caller.who), AuditEvent::CollectionEnded(CollectionEnd::Reset));
                let ended = rules.end(turn);
                turn.reply(caller, Answer::Done);
                ended
            }
            (Superstate::Open, On::DeadlinePassed) => {
                turn.journal(None, AuditEvent::CollectionEnded(CollectionEnd::Expired));
                rules.end(turn)
            }
            (Superstate::Open, On::Superseded) => {
                turn.journal(None, AuditEvent::CollectionEnded(CollectionEnd::Superseded));
                rules.end(turn)
            }
            (Superstate::Open, _) => Outcome::Super,

            (Superstate::Top, event) => match event {
                // Of a withdrawn effect, or spurious: by contract harmless.
                On::Done(..) | On::DeadlinePassed | On::Superseded => Outcome::Handled,
                On::Begin => {
                    turn.out.bug(BUG_BEGUN);
                    Outcome::Handled
                }
                On::Entered { caller, code, .. } => {
                    turn.wipe(code);
                    rules.refuse(turn, caller, CommandKind::Share, Refusal::NothingCollected)
                }
                On::Fetched { caller } => rules.refuse(turn, caller, CommandKind::Share, Refusal::NothingCollected),
                On::ResetOrdered { caller, .. } => {
                    rules.refuse(turn, caller, CommandKind::Reset, Refusal::NothingCollected)
                }
            },
        }
    }

    fn superstate(&mut self) -> Option<Superstate> {
        match self {
            Superstate::Top => None,
            Superstate::Open => Some(Superstate::Top),
        }
    }
}
