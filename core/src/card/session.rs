//! What a ceremony orders at one reader, what it hears from there, and the machine between.
//!
//! A ceremony orders a step; the session of the reader makes it into calls, one at a time, and
//! reports once how it ended. An order that comes while a step is under way is refused at once,
//! and the step goes on; only [`SessionOrder::Cancel`] is none of its own then: the step's report
//! answers both.
//!
//! What it rests on: each call is answered once, sooner or later, by the platform; a pad ends
//! its dialogue by itself; a card that is reset has no PIN verified any more.
//!
//! What it promises:
//! - no call while another is unanswered. When a call's deadline passes its step is reported, and
//!   the reader takes no orders until it was heard;
//! - a PIN is asked for only once the card was asked for its tries in the same hold (P4); one
//!   order, one dialogue: nothing is repeated after timeout, cancel, mismatch or a broken
//!   transport (P5);
//! - wherever it is open which PIN rules, the report is [`SessionReport::PinOldOrNew`] (P7), and
//!   where it is open what was written, [`CardProblem::TornWrite`];
//! - a record is written beside the one in force where the card has two places, then pointed to,
//!   then read back (P15). Cancel does not interrupt that: it takes a second, and half of it
//!   helps nobody;
//! - a cancelled dialogue is waited for: where the pad then says that the PIN was accepted, changed
//!   or wrong, that is reported and the card stays held;
//! - a hold is ended by one [`CardCall::Release`], unless the reader went away; after
//!   [`SessionReport::Failed`], [`SessionReport::PinOldOrNew`] and [`SessionReport::Cancelled`] the
//!   card is no longer held.
//!
//! The session owns no secret: places of the Safe in orders stay their owner's. Nothing of it is
//! stored; after a restart every reader is found anew, and every card identified anew.
//!
//! The arrows are here, one a line; what they do is told in `session/`: `identify` (from a card in
//! the reader to a known one), `pin` (what the pad said), `record` (reading, writing, erasing),
//! `ends` (how a step is reported and a card let go).
//!
//! ```text
//! top
//! ├── NoReader                  an unanswered call is remembered
//! └── there                     cards come and go, the reader can be lost
//!     ├── Idle
//!     ├── Waiting               for a card
//!     ├── Ready                 a card is held and known
//!     ├── Removing              waiting until the card is taken out
//!     ├── Silent                a deadline is over, the answer is not there
//!     └── calling               one call is under way; other orders are refused
//!         ├── Holding, Selecting, AskingTries
//!         ├── Verifying, Changing, AskingTriesAgain
//!         ├── Reading
//!         ├── Writing, Pointing, ReadingBack
//!         ├── Unpointing, Erasing
//!         ├── Cancelling        what comes is not wanted any more
//!         └── LettingGo
//! ```

mod ends;
mod identify;
mod pin;
mod record;

use serde::{Deserialize, Serialize};
use statig::Outcome;
use statig::blocking::{self, IntoStateMachine, IntoStateMachineExt as _};
use statig::prelude::InitializedStateMachine;

use super::{CardAnswer, CardCall, CardFailure, CardSerial, Credential, ProfileId, ReaderEvent, ReaderId, RecordPlace};
use crate::effect::Ticket;
use crate::fmt;
use crate::limits::{CARD_CALL_DEADLINE_MS, PAD_DEADLINE_MS};
use crate::safe::SecretId;
use crate::share::record::{RecordProblem, ShareHeader, SignedHeader};
use crate::time::Now;

/// One step at a reader. One at a time; each is answered by exactly one [`SessionReport`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum SessionOrder {
    /// Wait for a card unless one is there, hold it, select the credential, ask for its tries.
    /// A card that was there since before a [`SessionOrder::Remove`] was ordered does not count.
    Identify {
        /// Which credential.
        credential: Credential,
    },
    /// A person types the PIN on the pad.
    VerifyPin,
    /// A person types the old PIN and twice the new one on the pad.
    ChangePin,
    /// Read the record in force; its y goes into `y`.
    Read {
        /// Where y goes.
        y: SecretId,
    },
    /// Write beside the record in force, point to it, read it back.
    Write {
        /// Everything but y.
        record: SignedHeader,
        /// y.
        y: SecretId,
        /// Where y goes as it was read back.
        y_back: SecretId,
    },
    /// Take away whatever record there is.
    Erase,
    /// Let the card go, and wait until it was removed.
    Remove,
    /// End whatever is under way. A dialogue of the pad cannot be ended from here: it is waited for.
    Cancel,
}

/// A card that a session holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct HeldCard {
    /// Which kind of card.
    pub profile: ProfileId,
    /// Its serial.
    pub serial: CardSerial,
    /// Tries that the credential's PIN has left, where the card says them without cost.
    pub tries_left: Option<u8>,
    /// Where the record in force lies; `None`: the card says that there is none, or does not say.
    pub place: Option<RecordPlace>,
    /// What the record in force says about itself without a PIN, where the card tells it.
    pub header: Option<ShareHeader>,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum SessionReport {
    /// A card is held and known.
    Identified(HeldCard),
    /// The PIN was accepted.
    PinAccepted,
    /// The PIN was changed.
    PinChanged,
    /// A try was spent: the (old) PIN was wrong. Tries left, where the card says them.
    PinWrong {
        /// Tries left.
        left: Option<u8>,
    },
    /// The PIN is blocked.
    PinBlocked,
    /// The pad's dialogue ended without a PIN: nothing was changed, no try was spent.
    PadEnded(PadEnd),
    /// Nobody knows whether the PIN was changed.
    PinOldOrNew,
    /// The record in force was read; `Err`: there is none, or it is not a good one.
    RecordRead(Result<SignedHeader, RecordProblem>),
    /// The record was written, and read back the same.
    Written,
    /// No record is on the card any more.
    Erased,
    /// The card was removed after [`SessionOrder::Remove`].
    Removed,
    /// The step was ended by [`SessionOrder::Cancel`].
    Cancelled,
    /// The step did not succeed. The card, if one is there, was let go.
    Failed(CardProblem),
}

/// How a dialogue of the pad ended without a PIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum PadEnd {
    /// Nobody typed in time (6400).
    TimedOut,
    /// Somebody pressed cancel (6401).
    Cancelled,
    /// The two new PINs were not the same (6402).
    Mismatch,
    /// Too short or too long (6403, or the card's word for it).
    Length,
}

/// Why a step at a reader did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum CardProblem {
    /// There is no such reader, or it went away.
    ReaderGone,
    /// Nobody inserted a card in time.
    NotInserted,
    /// Nobody removed the card in time.
    NotRemoved,
    /// The card was pulled. Before a write or change began, or so that it is known not to have happened.
    CardGone,
    /// The card was pulled, or the transport failed, while a record was being written: it has
    /// the old one, the new one or none.
    TornWrite,
    /// Another program holds the card.
    InUse,
    /// No profile fits the card.
    UnknownCard,
    /// The card does not say its serial.
    NoSerial,
    /// What was read back is not what was written.
    ReadBackDiffers,
    /// The card answered with an error that ends the step.
    Status(u16),
    /// The transport failed or the card answered garbage.
    Transport,
    /// The reader gives no answer; it is waited for, and takes no orders until then.
    Unanswered,
    /// The session does something else, or holds no card.
    NotNow,
}

/// What happened at the session's reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[allow(clippy::large_enum_variant)] // an order to write carries its record; there is no allocator to box it
pub enum SessionEvent {
    /// Something without an order of ours.
    Reader(ReaderEvent),
    /// A step is ordered.
    Order(SessionOrder),
    /// A call ended.
    Done(Ticket, Result<CardAnswer, CardFailure>),
    /// The deadline of the call under way passed, or [`CardSession::due_ms`] is here.
    DeadlinePassed,
}

/// Where a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[allow(clippy::large_enum_variant)] // as above
pub enum State {
    /// There is no reader. Left when it is found.
    NoReader {
        /// A call that had no answer when the reader went; it is waited for once the reader is back.
        unanswered: Option<Ticket>,
    },
    /// Nothing is under way, no card is held.
    Idle,
    /// Somebody is to insert a card.
    Waiting {
        /// For this credential.
        credential: Credential,
        /// When nobody did, monotonic milliseconds.
        due_ms: u64,
    },
    /// The card is being taken hold of.
    Holding {
        /// Of the call.
        ticket: Ticket,
        /// For this credential.
        credential: Credential,
    },
    /// The card is asked whether it is of this kind.
    Selecting {
        /// Of the call.
        ticket: Ticket,
        /// For this credential.
        credential: Credential,
        /// Which kind.
        profile: ProfileId,
    },
    /// The card, now of a known kind, is asked for its tries.
    AskingTries {
        /// Of the call.
        ticket: Ticket,
        /// For this credential.
        credential: Credential,
        /// Its kind.
        profile: ProfileId,
        /// What it said when it was selected.
        said: super::Selected,
    },
    /// A card is held and known; steps can be ordered. Left with each of them, or when the card goes.
    Ready {
        /// Which card.
        held: Held,
    },
    /// The pad has the dialogue: a person types the PIN.
    Verifying {
        /// Of the call.
        ticket: Ticket,
        /// Which card.
        held: Held,
        /// Whether the step was cancelled meanwhile.
        cancelled: bool,
    },
    /// The pad has the dialogue: a person types the old PIN and twice the new one.
    Changing {
        /// Of the call.
        ticket: Ticket,
        /// Which card.
        held: Held,
        /// Whether the step was cancelled meanwhile.
        cancelled: bool,
    },
    /// The PIN was wrong, and the card is asked how many tries are left, since it did not say.
    AskingTriesAgain {
        /// Of the call.
        ticket: Ticket,
        /// Which card.
        held: Held,
    },
    /// The record is being read.
    Reading {
        /// Of the call.
        ticket: Ticket,
        /// Which card.
        held: Held,
    },
    /// The record is being written, where the card has two places beside the one in force.
    Writing {
        /// Of the call.
        ticket: Ticket,
        /// Which card.
        held: Held,
        /// What is being written.
        new: NewRecord,
    },
    /// The new record is whole, and the pointer is being set to it.
    Pointing {
        /// Of the call.
        ticket: Ticket,
        /// Which card.
        held: Held,
        /// What was written.
        new: NewRecord,
    },
    /// The new record is in force, and is being read back.
    ReadingBack {
        /// Of the call.
        ticket: Ticket,
        /// Which card.
        held: Held,
        /// What was written.
        new: NewRecord,
    },
    /// The pointer is being set to nothing, before records are overwritten.
    Unpointing {
        /// Of the call.
        ticket: Ticket,
        /// Which card.
        held: Held,
    },
    /// No record is in force, and this place is being overwritten.
    Erasing {
        /// Of the call.
        ticket: Ticket,
        /// Which card.
        held: Held,
        /// Which place.
        place: RecordPlace,
    },
    /// The step was cancelled, and the call under way is waited for. Left with its answer.
    Cancelling {
        /// Of the call.
        ticket: Ticket,
        /// Whether a card was held before that call.
        holds: bool,
    },
    /// The card is being let go.
    LettingGo {
        /// Of the call.
        ticket: Ticket,
        /// What follows.
        then: Then,
    },
    /// The card was let go, and somebody is to take it out.
    Removing {
        /// When nobody did, monotonic milliseconds.
        due_ms: u64,
    },
    /// A call did not end in time; its step was reported. Left when it is heard, by letting go
    /// of whatever is held.
    Silent {
        /// Of the call.
        ticket: Ticket,
    },
}

/// A card that is held, and for which credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Held {
    /// For this credential.
    pub credential: Credential,
    /// What is known of it.
    pub card: HeldCard,
}

/// A record on its way to a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct NewRecord {
    /// Where it goes.
    pub place: RecordPlace,
    /// Everything but y.
    pub record: SignedHeader,
    /// Where y goes as it is read back.
    pub y_back: SecretId,
}

/// What follows once a card was let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Then {
    /// Nothing: nobody waits.
    Rest,
    /// The step is reported.
    Report(SessionReport),
    /// The next card is identified: ordered meanwhile.
    Identify(Credential),
    /// The card's removal is waited for.
    Removal,
}

/// Whether a card is in the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Presence {
    /// No card.
    Out,
    /// A card.
    In,
    /// A card that was to be removed and never left: it is nobody's next card.
    Leftover,
}

impl State {
    /// The call this state waits for.
    #[must_use]
    pub const fn awaited(&self) -> Option<Ticket> {
        match self {
            State::Holding { ticket, .. }
            | State::Selecting { ticket, .. }
            | State::AskingTries { ticket, .. }
            | State::Verifying { ticket, .. }
            | State::Changing { ticket, .. }
            | State::AskingTriesAgain { ticket, .. }
            | State::Reading { ticket, .. }
            | State::Writing { ticket, .. }
            | State::Pointing { ticket, .. }
            | State::ReadingBack { ticket, .. }
            | State::Unpointing { ticket, .. }
            | State::Erasing { ticket, .. }
            | State::Cancelling { ticket, .. }
            | State::LettingGo { ticket, .. }
            | State::Silent { ticket } => Some(*ticket),
            State::NoReader { unanswered } => *unanswered,
            State::Idle | State::Waiting { .. } | State::Ready { .. } | State::Removing { .. } => None,
        }
    }

    /// The card that is held, once it is known.
    #[must_use]
    pub const fn held(&self) -> Option<Held> {
        match self {
            State::Ready { held }
            | State::Verifying { held, .. }
            | State::Changing { held, .. }
            | State::AskingTriesAgain { held, .. }
            | State::Reading { held, .. }
            | State::Writing { held, .. }
            | State::Pointing { held, .. }
            | State::ReadingBack { held, .. }
            | State::Unpointing { held, .. }
            | State::Erasing { held, .. } => Some(*held),
            State::NoReader { .. }
            | State::Idle
            | State::Waiting { .. }
            | State::Holding { .. }
            | State::Selecting { .. }
            | State::AskingTries { .. }
            | State::Cancelling { .. }
            | State::LettingGo { .. }
            | State::Removing { .. }
            | State::Silent { .. } => None,
        }
    }

    /// The report of the step under way when nothing further is heard of it, for this reason;
    /// `None`: nobody waits for one.
    const fn broken_off(&self, problem: CardProblem) -> Option<SessionReport> {
        match self {
            State::NoReader { .. } | State::Idle | State::Ready { .. } | State::Silent { .. } => None,
            State::Waiting { .. }
            | State::Removing { .. }
            | State::Holding { .. }
            | State::Selecting { .. }
            | State::AskingTries { .. }
            | State::Verifying { .. }
            | State::Reading { .. } => Some(SessionReport::Failed(problem)),
            State::Changing { .. } => Some(SessionReport::PinOldOrNew),
            State::AskingTriesAgain { .. } => Some(SessionReport::PinWrong { left: None }),
            State::Writing { .. }
            | State::Pointing { .. }
            | State::ReadingBack { .. }
            | State::Unpointing { .. }
            | State::Erasing { .. } => Some(SessionReport::Failed(CardProblem::TornWrite)),
            State::Cancelling { .. } => Some(SessionReport::Cancelled),
            State::LettingGo { then, .. } => match then {
                Then::Rest => None,
                Then::Report(report) => Some(*report),
                Then::Identify(_) | Then::Removal => Some(SessionReport::Failed(problem)),
            },
        }
    }
}

/// The groups of states that answer alike, with the state in question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Superstate<'state> {
    /// Answers every leftover.
    Top,
    /// There is a reader.
    There(&'state State),
    /// One call is under way.
    Calling(&'state State),
}

/// Where calls go; the outbox of the service, or a list in a test.
pub trait CardOut {
    /// Has this call carried out at this reader; its answer carries the ticket.
    fn call(&mut self, reader: ReaderId, call: CardCall) -> Ticket;
}

/// The surroundings of one session during one event.
pub struct SessionTurn<'t> {
    /// When the event arrived.
    pub now: Now,
    /// Where calls go.
    pub out: &'t mut dyn CardOut,
    /// Set by the session: how a step ended.
    pub report: &'t mut Option<SessionReport>,
}

impl SessionTurn<'_> {
    fn report(&mut self, report: SessionReport) {
        *self.report = Some(report);
    }

    fn refuse(&mut self, problem: CardProblem) -> Outcome<State> {
        self.report(SessionReport::Failed(problem));
        Outcome::Handled
    }
}

/// How long this call may take before its step is reported, milliseconds from when it was polled.
#[must_use]
pub const fn deadline_ms(call: &CardCall) -> u64 {
    match call {
        CardCall::Verify { .. } | CardCall::ChangePin { .. } => PAD_DEADLINE_MS,
        CardCall::Hold
        | CardCall::Select { .. }
        | CardCall::Tries { .. }
        | CardCall::Read { .. }
        | CardCall::Write { .. }
        | CardCall::Point { .. }
        | CardCall::Erase { .. }
        | CardCall::Release => CARD_CALL_DEADLINE_MS,
    }
}

/// The session of one reader; statig is hidden behind it.
pub struct CardSession {
    machine: InitializedStateMachine<Rules>,
}

/// What one session knows, whatever its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    reader: ReaderId,
    presence: Presence,
    /// Whether the held card left meanwhile, though the call under way may still end well.
    left: bool,
}

impl CardSession {
    /// The session of a reader that was not found yet.
    #[must_use]
    pub fn new(reader: ReaderId) -> Self {
        let rules = Rules { reader, presence: Presence::Out, left: false };
        let machine = rules.uninitialized_state_machine();
        // Nothing is called and nothing reported before the first event.
        let mut nobody = Nobody;
        let now = Now { mono_ms: 0, wall_s: None };
        let mut turn = SessionTurn { now, out: &mut nobody, report: &mut None };
        CardSession { machine: machine.init_with_context(&mut turn) }
    }

    /// Takes one event.
    pub fn handle(&mut self, event: SessionEvent, turn: &mut SessionTurn<'_>) {
        self.machine.handle_with_context(&event, turn);
    }

    /// Where the session is.
    #[must_use]
    pub fn state(&self) -> State {
        *self.machine.state()
    }

    /// The call that is waited for. Its deadline, [`deadline_ms`], runs from when it was polled;
    /// when it passes, [`SessionEvent::DeadlinePassed`] is due once.
    #[must_use]
    pub fn awaited(&self) -> Option<Ticket> {
        self.machine.state().awaited()
    }

    /// When [`SessionEvent::DeadlinePassed`] is due because nobody inserted or removed a card,
    /// monotonic milliseconds.
    #[must_use]
    pub fn due_ms(&self) -> Option<u64> {
        match self.machine.state() {
            State::Waiting { due_ms, .. } | State::Removing { due_ms } => Some(*due_ms),
            State::NoReader { .. }
            | State::Idle
            | State::Holding { .. }
            | State::Selecting { .. }
            | State::AskingTries { .. }
            | State::Ready { .. }
            | State::Verifying { .. }
            | State::Changing { .. }
            | State::AskingTriesAgain { .. }
            | State::Reading { .. }
            | State::Writing { .. }
            | State::Pointing { .. }
            | State::ReadingBack { .. }
            | State::Unpointing { .. }
            | State::Erasing { .. }
            | State::Cancelling { .. }
            | State::LettingGo { .. }
            | State::Silent { .. } => None,
        }
    }

    /// The card that is held, once it is known.
    #[must_use]
    pub fn held(&self) -> Option<HeldCard> {
        self.machine.state().held().map(|held| held.card)
    }

    /// Whether a card is in the reader.
    #[must_use]
    pub fn presence(&self) -> Presence {
        self.machine.presence
    }

    /// Whether somebody waits for a report.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        self.machine.state().broken_off(CardProblem::NotNow).is_some()
    }
}

/// Takes no calls: for a machine that handles no event yet.
struct Nobody;

impl CardOut for Nobody {
    fn call(&mut self, _reader: ReaderId, _call: CardCall) -> Ticket {
        Ticket { slot: None, number: 0 }
    }
}

impl IntoStateMachine for Rules {
    type Event<'event> = SessionEvent;
    type Context<'turn> = SessionTurn<'turn>;
    type State = State;
    type Superstate<'sub> = Superstate<'sub>;

    fn initial() -> State {
        State::NoReader { unanswered: None }
    }

    fn after_transition(&mut self, source: &State, target: &State, _turn: &mut SessionTurn<'_>) {
        fmt::trace_transition!("card session", source, target);
    }
}

impl blocking::State<Rules> for State {
    fn call_handler(&mut self, rules: &mut Rules, event: &SessionEvent, turn: &mut SessionTurn<'_>) -> Outcome<State> {
        use Outcome::{Handled, Super, Transition};
        use ReaderEvent::{CardIn, CardOut, Found};
        use SessionEvent as On;
        use SessionOrder as Do;
        match (*self, *event) {
            (State::NoReader { unanswered: None }, On::Reader(Found)) => Transition(State::Idle),
            (State::NoReader { unanswered: Some(ticket) }, On::Reader(Found)) => Transition(State::Silent { ticket }),
            (State::NoReader { unanswered }, On::Done(done, _)) if unanswered == Some(done) => {
                Transition(State::NoReader { unanswered: None })
            }
            (State::NoReader { .. }, On::Order(_)) => turn.refuse(CardProblem::ReaderGone),

            (State::Idle, On::Order(Do::Identify { credential })) => rules.await_card(turn, credential),
            (State::Idle, On::Order(Do::Remove)) => rules.await_removal(turn),
            (State::Idle, On::Order(Do::Cancel)) => rules.rest(turn, SessionReport::Cancelled),

            (State::Waiting { credential, .. }, On::Reader(CardIn)) if rules.presence == Presence::Out => {
                rules.hold(turn, credential)
            }
            (State::Waiting { .. }, On::Order(Do::Cancel)) => rules.rest(turn, SessionReport::Cancelled),
            (State::Waiting { .. }, On::DeadlinePassed) => rules.fail_idle(turn, CardProblem::NotInserted),

            (State::Holding { ticket, credential }, On::Done(done, result)) if done == ticket => {
                rules.taken(turn, credential, result)
            }
            (State::Selecting { ticket, credential, profile }, On::Done(done, result)) if done == ticket => {
                rules.selected(turn, credential, profile, result)
            }
            (State::AskingTries { ticket, credential, profile, said }, On::Done(done, result)) if done == ticket => {
                rules.tries_told(turn, credential, profile, said, result)
            }
            (State::Holding { ticket, .. }, On::Order(Do::Cancel)) => {
                Transition(State::Cancelling { ticket, holds: false })
            }
            (
                State::Selecting { ticket, .. } | State::AskingTries { ticket, .. } | State::Reading { ticket, .. },
                On::Order(Do::Cancel),
            ) => Transition(State::Cancelling { ticket, holds: true }),

            (State::Ready { held }, On::Order(Do::VerifyPin)) => rules.verify(turn, held),
            (State::Ready { held }, On::Order(Do::ChangePin)) => rules.change_pin(turn, held),
            (State::Ready { held }, On::Order(Do::Read { y })) => rules.read(turn, held, y),
            (State::Ready { held }, On::Order(Do::Write { record, y, y_back })) => {
                rules.write(turn, held, record, y, y_back)
            }
            (State::Ready { held }, On::Order(Do::Erase)) => rules.erase(turn, held),
            (State::Ready { .. }, On::Order(Do::Remove)) => rules.let_go(turn, Then::Removal),
            (State::Ready { .. }, On::Order(Do::Cancel)) => rules.let_go(turn, Then::Report(SessionReport::Cancelled)),
            (State::Ready { .. }, On::Reader(CardOut)) => {
                rules.card_out();
                rules.let_go(turn, Then::Rest)
            }

            (State::Verifying { ticket, held, cancelled }, On::Done(done, result)) if done == ticket => {
                rules.verified(turn, held, cancelled, result)
            }
            (State::Changing { ticket, held, cancelled }, On::Done(done, result)) if done == ticket => {
                rules.changed(turn, held, cancelled, result)
            }
            (State::AskingTriesAgain { ticket, held }, On::Done(done, result)) if done == ticket => {
                rules.tries_told_again(turn, held, result)
            }
            (State::Verifying { ticket, held, .. }, On::Order(Do::Cancel)) => {
                Transition(State::Verifying { ticket, held, cancelled: true })
            }
            (State::Changing { ticket, held, .. }, On::Order(Do::Cancel)) => {
                Transition(State::Changing { ticket, held, cancelled: true })
            }

            (State::Reading { ticket, held }, On::Done(done, result)) if done == ticket => {
                rules.was_read(turn, held, result)
            }
            (State::Writing { ticket, held, new }, On::Done(done, result)) if done == ticket => {
                rules.written(turn, held, new, result)
            }
            (State::Pointing { ticket, held, new }, On::Done(done, result)) if done == ticket => {
                rules.pointed(turn, held, new, result)
            }
            (State::ReadingBack { ticket, held, new }, On::Done(done, result)) if done == ticket => {
                rules.read_back(turn, held, new, result)
            }
            (State::Unpointing { ticket, held }, On::Done(done, result)) if done == ticket => {
                rules.unpointed(turn, held, result)
            }
            (State::Erasing { ticket, held, place }, On::Done(done, result)) if done == ticket => {
                rules.erased(turn, held, place, result)
            }
            // The step's own report, which is near, answers this too.
            (
                State::AskingTriesAgain { .. }
                | State::Writing { .. }
                | State::Pointing { .. }
                | State::ReadingBack { .. }
                | State::Unpointing { .. }
                | State::Erasing { .. }
                | State::Cancelling { .. },
                On::Order(Do::Cancel),
            ) => Handled,

            (State::Cancelling { ticket, holds }, On::Done(done, result)) if done == ticket => {
                rules.cancelled(turn, holds, result)
            }

            (State::LettingGo { ticket, then }, On::Done(done, _)) if done == ticket => rules.go_on(turn, then),
            (State::LettingGo { ticket, then: Then::Rest }, On::Order(Do::Identify { credential })) => {
                Transition(State::LettingGo { ticket, then: Then::Identify(credential) })
            }
            (State::LettingGo { ticket, then: Then::Rest }, On::Order(Do::Remove)) => {
                Transition(State::LettingGo { ticket, then: Then::Removal })
            }
            (
                State::LettingGo { ticket, then: Then::Rest | Then::Identify(_) | Then::Removal },
                On::Order(Do::Cancel),
            ) => Transition(State::LettingGo { ticket, then: Then::Report(SessionReport::Cancelled) }),
            (State::LettingGo { then: Then::Report(_), .. }, On::Order(Do::Cancel)) => Handled,

            (State::Removing { .. }, On::Reader(CardOut)) => {
                rules.card_out();
                rules.rest(turn, SessionReport::Removed)
            }
            (State::Removing { .. }, On::Order(Do::Cancel)) => rules.rest(turn, SessionReport::Cancelled),
            (State::Removing { .. }, On::DeadlinePassed) => rules.fail_idle(turn, CardProblem::NotRemoved),

            (State::Silent { ticket }, On::Done(done, result)) if done == ticket => rules.heard(turn, result),
            (State::Silent { .. }, On::Order(_)) => turn.refuse(CardProblem::Unanswered),

            (_, _) => Super,
        }
    }

    fn superstate(&mut self) -> Option<Superstate<'_>> {
        Some(match self {
            State::NoReader { .. } => Superstate::Top,
            State::Idle
            | State::Waiting { .. }
            | State::Ready { .. }
            | State::Removing { .. }
            | State::Silent { .. } => Superstate::There(self),
            State::Holding { .. }
            | State::Selecting { .. }
            | State::AskingTries { .. }
            | State::Verifying { .. }
            | State::Changing { .. }
            | State::AskingTriesAgain { .. }
            | State::Reading { .. }
            | State::Writing { .. }
            | State::Pointing { .. }
            | State::ReadingBack { .. }
            | State::Unpointing { .. }
            | State::Erasing { .. }
            | State::Cancelling { .. }
            | State::LettingGo { .. } => Superstate::Calling(self),
        })
    }
}

impl blocking::Superstate<Rules> for Superstate<'_> {
    fn call_handler(&mut self, rules: &mut Rules, event: &SessionEvent, turn: &mut SessionTurn<'_>) -> Outcome<State> {
        use Outcome::{Handled, Super};
        use SessionEvent as On;
        match (*self, *event) {
            (Superstate::Calling(state), On::DeadlinePassed) => rules.unanswered(turn, state),
            (Superstate::Calling(_), _) => Super,

            (Superstate::There(state), On::Reader(ReaderEvent::Lost)) => rules.lost(turn, state),
            (Superstate::There(_), On::Reader(ReaderEvent::CardIn)) => {
                rules.card_in();
                Handled
            }
            (Superstate::There(_), On::Reader(ReaderEvent::CardOut)) => {
                rules.card_out();
                Handled
            }
            (Superstate::There(_), _) => Super,

            (Superstate::Top, event) => match event {
                // Found twice, or a card in a reader that is not there: by contract harmless.
                On::Reader(
                    ReaderEvent::Found | ReaderEvent::Lost | ReaderEvent::CardIn | ReaderEvent::CardOut,
                )
                // Of a call whose reader went away, or spurious.
                | On::Done(..)
                | On::DeadlinePassed => Handled,
                On::Order(
                    SessionOrder::Identify { .. }
                    | SessionOrder::VerifyPin
                    | SessionOrder::ChangePin
                    | SessionOrder::Read { .. }
                    | SessionOrder::Write { .. }
                    | SessionOrder::Erase
                    | SessionOrder::Remove
                    | SessionOrder::Cancel,
                ) => turn.refuse(CardProblem::NotNow),
            },
        }
    }

    fn superstate(&mut self) -> Option<Superstate<'_>> {
        match self {
            Superstate::Top => None,
            Superstate::There(_) => Some(Superstate::Top),
            Superstate::Calling(state) => Some(Superstate::There(state)),
        }
    }
}
