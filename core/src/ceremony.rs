//! Ceremonies: procedures with people and cards, one at a time.
//!
//! A ceremony is a row of *visits*: a person inserts a card, types its PIN on the pad, the
//! card is read or written, and taken out again. Before, between and after them a set is
//! made, put together, rehearsed; derived keys are brought into slots; a slot's PIN is
//! delivered to the slot. Until its commit nothing changed but cards: a new set is recorded
//! as being made before its first card is written, so that whatever ends the ceremony leaves
//! the old set in force and the new one void. Secrets are in the Safe, and only there; the
//! machine moves their names and hears verdicts.
//!
//! A card that does not fit is refused by name, taken out, and the ceremony goes on waiting
//! for the right one: nothing was written, no try was spent. Each wait has a deadline, from
//! each a person with the right can cancel, and the whole has a deadline too (P29).
//!
//! A card that is never taken out ends a ceremony by its deadline, and nothing changed, unless
//! what was wanted is done already: a PIN that was changed, a copy, an erased card. Whatever ends
//! a ceremony lets every card go. A cancel does not undo what the reader was doing meanwhile: the
//! answer is what came of it.
//!
//! The machine decides from what it is told and nothing else. What it is told stands in the
//! transcript, so that the transcript replays to the same state (P38). After a restart a
//! ceremony is gone and its set void; what it had committed stays.
//!
//! The arrows are here, one a line; what they do is told in `ceremony/`: `visit` (a card from
//! its insertion to its removal), `pad` (its PIN), `deal` (a new set), `finish` (what follows
//! from it all).
//!
//! ```text
//! top
//! ├── Waiting
//! ├── open                 can be cancelled
//! │   ├── Drawing          random halves are being drawn
//! │   ├── Judging          the service computes with secrets
//! │   ├── Asking           a person is asked at the console
//! │   ├── AtHsm            a token gets keys, or another SO PIN
//! │   ├── AtFile           the MACs of a file are checked
//! │   └── at a card        a cancel waits for what the reader is doing
//! │       ├── Inserting    a card is waited for, and identified
//! │       ├── AtPad        a person types a PIN
//! │       ├── Reading
//! │       ├── Writing
//! │       ├── Erasing
//! │       └── Removing     the card is to be taken out
//! ├── Leaving              ends when the reader is done
//! └── Ended
//! ```

mod deal;
pub mod event;
mod finish;
pub mod order;
mod pad;
pub mod transcript;
mod visit;

use heapless::Vec;
use serde::{Deserialize, Serialize};
use statig::Outcome;
use statig::blocking::{self, IntoStateMachine, IntoStateMachineExt as _};
use statig::prelude::InitializedStateMachine;

use crate::card::session::{CardProblem, HeldCard, SessionOrder, SessionReport};
use crate::card::sets::CardSet;
use crate::card::{CardSerial, ReaderId};
use crate::command::Command;
use crate::effect::SlotId;
use crate::fault::{Fault, Refusal};
use crate::fmt;
use crate::limits::{CEREMONY_MS, QUESTION_MS, SHARES_MAX};
use crate::person::PersonId;
use crate::safe::{SecretId, Secrets};
use crate::share::record::{ShareHeader, SignedHeader};
use crate::status::{CeremonyStatus, CeremonyWait};
use crate::time::Now;

pub use event::{CardFacts, CardNote, CeremonyEvent, Deed, MadeSet, Noted, SoPinEnd};
pub use order::{CardOrder, CeremonyId, Facts, Places, Shares, SlotSet, SoUse, Task};

/// Deeds of one event: what ends a ceremony wipes 16 shares, as many read back, seven other
/// secrets, and says so.
pub const DEEDS_MAX: usize = 2 * SHARES_MAX + 20;

/// What a person is asked at the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Question {
    /// Something is on the card: may it be overwritten?
    Overwrite,
    /// One more wrong PIN blocks it: shall it be typed?
    LastTry,
    /// The pad's dialogue ended without a PIN: once more?
    Again,
    /// Is there another card to verify?
    AnotherCard,
    /// Is another copy wanted?
    AnotherCopy,
    /// No set is known here, and these cards name a key: is it the one that is wanted?
    AdoptKey,
}

/// Where a ceremony is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum State {
    /// Not begun.
    Waiting,
    /// Random halves are drawn: for the seed of a set, then for its secret.
    Drawing {
        /// What for.
        part: Part,
    },
    /// The service computes with secrets, and answers within the same turn.
    Judging {
        /// What.
        what: Judged,
    },
    /// A person is asked at the console. Left by an answer, or when nobody gave one in time.
    Asking {
        /// What.
        question: Question,
    },
    /// A token gets the derived keys, or another SO PIN.
    AtHsm {
        /// Whose.
        slot: SlotId,
    },
    /// The MACs of a file are checked with what the cards gave.
    AtFile,
    /// A card is waited for at the visit's reader, then identified.
    Inserting,
    /// A person types a PIN on the pad.
    AtPad {
        /// The old one and twice the new one; else the present one.
        change: bool,
    },
    /// The record is being read.
    Reading,
    /// The record is being written and read back.
    Writing,
    /// The record is being taken away.
    Erasing,
    /// The card is to be taken out.
    Removing {
        /// What follows.
        after: After,
    },
    /// It was ended while a reader had the word: it ends when that is done.
    Leaving {
        /// Why.
        refusal: Refusal,
    },
    /// Over: the service forgets it.
    Ended,
}

/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Part {
    /// The seed of a set.
    Seed,
    /// Its secret.
    Secret,
}

/// What the service computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Judged {
    /// A set from seed and secret.
    Set,
    /// A share for the card.
    Share,
    /// Whether what was read back is what was written.
    ReadBack,
    /// The secret from the cards.
    Secret,
    /// Whether two quorums of the new cards give the secret.
    Rehearsal,
    /// The PIN that the cards read give.
    PresentPin,
    /// The PIN that the new cards give.
    NewPin,
}

/// What follows when a card was taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum After {
    /// The same visit with another card, or this one once more.
    Again,
    /// What comes next.
    Next,
}

/// The groups of states that answer alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Superstate {
    /// Answers every leftover.
    Top,
    /// Can be cancelled.
    Open,
    /// A reader has the word.
    AtCard,
}

/// What a visit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Purpose {
    /// Read a share.
    Gather,
    /// Write a new share.
    Deal,
    /// Change the PIN.
    ChangePin,
    /// Read what is to be copied.
    CopySource,
    /// Write the copy.
    CopyTarget,
    /// Take away what is on it.
    Erase,
}

/// One card from its insertion to its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Visit {
    purpose: Purpose,
    reader: ReaderId,
    /// Which share of the new set.
    x: u8,
    card: Option<HeldCard>,
    facts: CardFacts,
    /// The card that all of the following is about: another one begins anew.
    about: Option<CardSerial>,
    /// Only this card is wanted: it was pulled in the middle of something.
    expected: Option<CardSerial>,
    /// That was while its share was written: what is on it is of this ceremony.
    torn: bool,
    /// Steps that were begun again without anybody having taken the card out.
    repeats: u8,
    /// A PIN was changed in this ceremony on this card.
    changed: bool,
    /// What is on it may be overwritten.
    agreed: bool,
    /// It was read before it is written, since it does not say without a PIN what is on it.
    looked: bool,
    /// Something is on it.
    occupied: bool,
    /// A last try was agreed to.
    last_try_agreed: bool,
    /// Nobody knows whether the PIN was changed: one verification tells.
    resolving: bool,
    /// What the pad was asked last: to change a PIN.
    change: bool,
    /// The record for this card.
    record: Option<SignedHeader>,
    /// Its y, and y as it was read back.
    y: Option<SecretId>,
    y_back: Option<SecretId>,
}

/// One share that was read, or written and read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    x: u8,
    serial: CardSerial,
    /// y, as long as it is needed.
    y: Option<SecretId>,
}

/// The surroundings of a ceremony during one event.
pub struct CeremonyTurn<'t> {
    /// When it happened.
    pub now: Now,
    /// Where places for secrets come from.
    pub secrets: &'t mut dyn Secrets,
    /// What it wants done.
    pub deeds: &'t mut Vec<Deed, DEEDS_MAX>,
    /// An invariant of ours is broken, at this place.
    pub bug: &'t mut Option<u16>,
}

impl CeremonyTurn<'_> {
    fn push(&mut self, deed: Deed) {
        if self.deeds.push(deed).is_err() {
            self.bug.get_or_insert(BUG_TOO_MANY_DEEDS);
        }
    }
}

/// More deeds of one event than any ceremony has.
const BUG_TOO_MANY_DEEDS: u16 = 50;
/// A ceremony began twice.
const BUG_BEGUN: u16 = 51;
/// A step needs a card, a set or a secret that is not there.
const BUG_NOTHING_HELD: u16 = 52;

/// A ceremony; statig is hidden behind it.
pub struct Ceremony {
    machine: InitializedStateMachine<Rules>,
}

/// What one ceremony knows, whatever its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    id: CeremonyId,
    command: Command,
    facts: Facts,
    visit: Visit,
    /// Shares that were read.
    gathered: Vec<Share, SHARES_MAX>,
    /// What the first of them said: where no set was known, the others have to fit it.
    first: Option<ShareHeader>,
    /// Where no set was known, somebody said that the key they name is the one that is wanted.
    adopted: bool,
    /// What went wrong since a card did its part.
    setbacks: u8,
    /// What is copied, whose it is, and how many more cards may hold it.
    copied: Option<(SignedHeader, Option<PersonId>, u8)>,
    /// The set that is made, once it has its ids.
    made: Option<CardSet>,
    /// Its shares as they were read back.
    dealt: Vec<Share, SHARES_MAX>,
    seed: Option<SecretId>,
    secret: Option<SecretId>,
    /// The PIN of the cards that were read; the PIN of the new ones.
    present: Option<SecretId>,
    new: Option<SecretId>,
    /// Slots that still wait for their keys, and those that have them.
    slots_left: SlotSet,
    slots_done: SlotSet,
    /// Whether a set is recorded as being made.
    begun_set: bool,
    visits_done: u8,
    human_steps: u16,
    last: Option<Refusal>,
    changes: u32,
    due_ms: u64,
    ends_ms: u64,
}

impl Ceremony {
    /// A ceremony that has not begun: it does with [`CeremonyEvent::Begin`].
    #[must_use]
    pub fn new(id: CeremonyId, command: Command, facts: Facts, turn: &mut CeremonyTurn<'_>) -> Self {
        Ceremony::in_state(Rules::new(id, command, facts, turn.now), State::Waiting, turn)
    }

    /// A machine in any state: for golden tables.
    #[must_use]
    pub fn in_state(rules: Rules, state: State, turn: &mut CeremonyTurn<'_>) -> Self {
        let mut machine = rules.uninitialized_state_machine();
        *machine.state_mut() = state;
        Ceremony { machine: machine.init_with_context(turn) }
    }

    /// Takes one event.
    pub fn handle(&mut self, event: CeremonyEvent, turn: &mut CeremonyTurn<'_>) {
        self.machine.handle_with_context(&event, turn);
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> State {
        *self.machine.state()
    }

    /// What it knows: compared after a replay.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.machine
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> CeremonyId {
        self.rules().id
    }

    /// What was ordered.
    #[must_use]
    pub fn command(&self) -> &Command {
        &self.rules().command
    }

    /// What it relies on.
    #[must_use]
    pub fn facts(&self) -> &Facts {
        &self.rules().facts
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state() == State::Ended
    }

    /// When time itself becomes an event, monotonic milliseconds. Waits for cards and pads have
    /// their deadlines at the reader.
    #[must_use]
    pub fn due_ms(&self) -> Option<u64> {
        let rules = self.rules();
        match self.state() {
            State::Waiting | State::Ended => None,
            State::Asking { .. } | State::Drawing { .. } | State::AtFile => Some(rules.due_ms.min(rules.ends_ms)),
            // A call that is under way has its whole time, whatever else is over.
            State::AtHsm { .. } | State::Leaving { .. } => Some(rules.due_ms),
            State::Judging { .. }
            | State::Inserting
            | State::AtPad { .. }
            | State::Reading
            | State::Writing
            | State::Erasing
            | State::Removing { .. } => Some(rules.ends_ms),
        }
    }

    /// The file whose MACs are being checked, and the backup key for it.
    #[must_use]
    pub fn file_to_check(&self) -> Option<([u8; 32], SecretId)> {
        match (self.state(), self.rules().task(), self.rules().secret) {
            (State::AtFile, Some(Task::VerifyFile { file, .. }), Some(secret)) => Some((file, secret)),
            (_, _, _) => None,
        }
    }

    /// Whether a person may answer what is asked now.
    ///
    /// # Errors
    /// [`Refusal::NothingAsked`]; [`Refusal::SecondPersonWanted`] for a last try that the starter
    /// wants under dual control; [`Refusal::LastTryUnconfirmed`] for one without the typed text.
    pub fn may_answer(&self, who: PersonId, yes: bool, confirmed: bool) -> Result<(), Refusal> {
        let State::Asking { question } = self.state() else { return Err(Refusal::NothingAsked) };
        let facts = self.facts();
        match question {
            Question::LastTry if yes && facts.two_persons && who == facts.starter => Err(Refusal::SecondPersonWanted),
            Question::LastTry if yes && !facts.two_persons && !confirmed => Err(Refusal::LastTryUnconfirmed),
            Question::LastTry
            | Question::Overwrite
            | Question::Again
            | Question::AnotherCard
            | Question::AnotherCopy
            | Question::AdoptKey => Ok(()),
        }
    }

    /// Whether it is another person than those concerned who is asked: for a last try.
    #[must_use]
    pub fn asks_another(&self) -> bool {
        self.facts().two_persons && self.state() == State::Asking { question: Question::LastTry }
    }

    /// The set of the cards that were read.
    #[must_use]
    pub fn gathered_set(&self) -> Option<[u8; 16]> {
        self.rules().first.map(|first| first.set_id)
    }

    /// Who is wanted at the reader now.
    #[must_use]
    pub fn wanted(&self) -> Option<PersonId> {
        self.rules().wanted()
    }

    /// How many secrets it owns; checkers compare it with the Safe.
    #[must_use]
    pub fn secrets(&self) -> usize {
        if self.is_over() {
            return 0;
        }
        let rules = self.rules();
        let single = [rules.seed, rules.secret, rules.present, rules.new, rules.visit.y, rules.visit.y_back]
            .into_iter()
            .flatten();
        let ordered = rules.command.secrets().into_iter().flatten();
        let shares = rules.gathered.iter().chain(&rules.dealt).filter_map(|share| share.y);
        single.chain(ordered).chain(shares).fold(0, |count: usize, _| count.saturating_add(1))
    }

    /// How far it is, as everybody may see it.
    #[must_use]
    pub fn status(&self, now: Now, reader_left_ms: Option<u64>) -> CeremonyStatus {
        let rules = self.rules();
        let due_ms = match self.state() {
            State::Asking { .. } | State::Drawing { .. } | State::AtHsm { .. } | State::AtFile => Some(rules.due_ms),
            State::Inserting | State::Removing { .. } | State::AtPad { .. } => reader_left_ms,
            State::Waiting
            | State::Judging { .. }
            | State::Reading
            | State::Writing
            | State::Erasing
            | State::Leaving { .. }
            | State::Ended => None,
        };
        let left_s = |due_ms: u64| u32::try_from(due_ms.saturating_sub(now.mono_ms).div_ceil(1000)).unwrap_or(u32::MAX);
        let steps = rules.steps();
        CeremonyStatus {
            id: rules.id,
            command: rules.command.kind(),
            slot: rules.command.slot(),
            starter: rules.facts.starter,
            step: rules.visits_done.saturating_add(1).min(steps),
            steps,
            wait: rules.wait(self.state()),
            who: rules.wanted(),
            reader: rules.visit.reader,
            x: (rules.visit.x > 0).then_some(rules.visit.x),
            serial: rules.visit.card.map(|card| card.serial),
            tries_left: rules.visit.card.and_then(|card| card.tries_left),
            key_id: rules.first.map(|first| first.key_id),
            seconds_left: due_ms.map(left_s),
            last: rules.last,
            human_steps: rules.human_steps,
            changes: rules.changes,
        }
    }
}

impl Rules {
    /// What is ordered; nothing happened yet.
    #[must_use]
    pub fn new(id: CeremonyId, command: Command, facts: Facts, now: Now) -> Self {
        Rules {
            id,
            command,
            visit: Visit::at(Purpose::Gather, facts.reader, 0),
            gathered: Vec::new(),
            first: None,
            adopted: false,
            setbacks: 0,
            copied: None,
            made: None,
            dealt: Vec::new(),
            seed: None,
            secret: None,
            present: None,
            new: None,
            slots_left: facts.slots,
            slots_done: SlotSet::NONE,
            begun_set: false,
            visits_done: 0,
            human_steps: 0,
            last: None,
            changes: 0,
            due_ms: now.after_ms(QUESTION_MS),
            ends_ms: now.after_ms(CEREMONY_MS),
            facts,
        }
    }

    /// The same with the names of secrets told apart no more: as a replay has it.
    #[must_use]
    pub fn without_secrets(&self) -> Rules {
        let named = |id: Option<SecretId>| id.map(|_| SecretId::NONE);
        let mut rules = self.clone();
        rules.command = self.command.without_secrets();
        for share in rules.gathered.iter_mut().chain(&mut rules.dealt) {
            share.y = named(share.y);
        }
        let visit = &mut rules.visit;
        for id in
            [&mut rules.seed, &mut rules.secret, &mut rules.present, &mut rules.new, &mut visit.y, &mut visit.y_back]
        {
            *id = named(*id);
        }
        rules
    }

    /// Visits that it takes when nothing goes wrong.
    fn steps(&self) -> u8 {
        let read = self.facts.gather.map_or(0, |set| match self.task() {
            Some(Task::VerifySet) => set.quorum.n(),
            Some(Task::Copy { .. }) => 0,
            Some(_) | None => set.quorum.m(),
        });
        let read = if read == 0 { self.first.map_or(0, |header| header.m) } else { read };
        let written = self.facts.make.map_or(0, |set| set.quorum.n());
        match self.task() {
            Some(Task::ChangePin { .. } | Task::Reassign { .. } | Task::Erase { .. }) => 1,
            Some(Task::Copy { .. }) => self.visits_done.saturating_add(1).max(2),
            Some(
                Task::CreateSet { .. }
                | Task::VerifySet
                | Task::RestoreKey { .. }
                | Task::Restore { .. }
                | Task::VerifyFile { .. }
                | Task::ReplaceSet { .. }
                | Task::Rotate { .. },
            )
            | None => read.saturating_add(written).max(1),
        }
    }

    fn wait(&self, state: State) -> CeremonyWait {
        match state {
            State::Waiting | State::Drawing { .. } | State::Judging { .. } | State::AtFile => CeremonyWait::Computing,
            State::Asking { question } => CeremonyWait::Answer(question),
            State::AtHsm { .. } => CeremonyWait::Hsm,
            State::Inserting => CeremonyWait::Insert,
            State::AtPad { change: false } => CeremonyWait::Pin,
            State::AtPad { change: true } => CeremonyWait::NewPin,
            State::Reading => CeremonyWait::Read,
            State::Writing | State::Erasing => CeremonyWait::Write,
            State::Removing { .. } => CeremonyWait::Remove,
            State::Leaving { .. } | State::Ended => CeremonyWait::End,
        }
    }

    /// The task, of ceremonies that are about cards alone.
    const fn task(&self) -> Option<Task> {
        if let Command::Cards { order } = self.command { Some(order.task) } else { None }
    }

    fn note_change(&mut self) {
        self.changes = self.changes.wrapping_add(1);
    }
}

impl Visit {
    const fn at(purpose: Purpose, reader: ReaderId, x: u8) -> Self {
        Visit {
            purpose,
            reader,
            x,
            card: None,
            about: None,
            repeats: 0,
            occupied: false,
            facts: CardFacts {
                holder: None,
                pin_changed: false,
                lost: false,
                standing: None,
                in_force: false,
                only_quorum: false,
                cards_of_share: 0,
                no_room: false,
            },
            expected: None,
            torn: false,
            changed: false,
            agreed: false,
            looked: false,
            last_try_agreed: false,
            resolving: false,
            change: false,
            record: None,
            y: None,
            y_back: None,
        }
    }
}

impl IntoStateMachine for Rules {
    type Event<'event> = CeremonyEvent;
    type Context<'turn> = CeremonyTurn<'turn>;
    type State = State;
    type Superstate<'sub> = Superstate;

    fn initial() -> State {
        State::Waiting
    }

    fn after_transition(&mut self, source: &State, target: &State, _turn: &mut CeremonyTurn<'_>) {
        fmt::trace_transition!("ceremony", source, target);
        self.note_change();
    }
}

impl blocking::State<Rules> for State {
    fn call_handler(
        &mut self,
        rules: &mut Rules,
        event: &CeremonyEvent,
        turn: &mut CeremonyTurn<'_>,
    ) -> Outcome<State> {
        use CeremonyEvent as On;
        use Outcome::Super;
        // What happens at a reader that this visit is not at is none of its business.
        if let On::Identified(reader, ..) | On::RecordRead(reader, ..) | On::Reported(reader, _) = event
            && *reader != rules.visit.reader
        {
            return Outcome::Handled;
        }
        match (*self, *event) {
            (State::Waiting, On::Begin) => rules.begin(turn),

            (State::Drawing { part }, On::Drawn(Ok(()))) => rules.drawn(turn, part),
            (State::Drawing { .. }, On::Drawn(Err(fault))) => rules.fail(turn, fault),
            (State::Drawing { .. }, On::DeadlinePassed) => rules.fail(turn, Fault::RandomUnavailable),

            (State::Judging { what: Judged::Set }, On::Made(Ok(made))) => rules.set_made(turn, made),
            (State::Judging { what: Judged::Set }, On::Made(Err(fault))) => rules.fail(turn, fault),
            (State::Judging { what: Judged::Share }, On::ShareReady(record)) => rules.share_ready(turn, record),
            (State::Judging { what: Judged::ReadBack }, On::Verdict(same)) => rules.read_back(turn, same),
            (State::Judging { what: Judged::Secret }, On::Verdict(right)) => rules.put_together(turn, right),
            (State::Judging { what: Judged::Rehearsal }, On::Verdict(right)) => rules.rehearsed(turn, right),
            (State::Judging { what: Judged::PresentPin }, On::Verdict(derived)) => rules.present_derived(turn, derived),
            (State::Judging { what: Judged::NewPin }, On::Verdict(derived)) => rules.new_derived(turn, derived),

            (State::Asking { question }, On::Answered { yes, .. }) => rules.answered(turn, question, yes),
            // What was done stays done: nobody wants more.
            (
                State::Asking { question: question @ (Question::AnotherCopy | Question::AnotherCard) },
                On::DeadlinePassed,
            )
            | (State::Asking { question: question @ Question::AnotherCopy }, On::CancelOrdered { .. }) => {
                rules.no_more(turn, question)
            }
            (State::Asking { .. }, On::DeadlinePassed) => rules.refuse(turn, Refusal::CeremonyTimedOut),

            (State::AtHsm { .. }, On::RestoreRefused(refusal)) => rules.refuse(turn, refusal),
            (State::AtHsm { slot }, On::KeysPut(at, result)) if at == slot && !rules.is_for_so_pin() => {
                rules.keys_put(turn, slot, result)
            }
            (State::AtHsm { slot }, On::DeadlinePassed) => rules.hsm_silent(turn, slot),
            (State::AtHsm { .. }, On::SoPinSet(result)) if rules.is_for_so_pin() => rules.so_pin_set(turn, result),
            // What the token does with it is known only when it answers.
            (State::AtHsm { .. }, On::CancelOrdered { who: Some(_) }) => Outcome::Handled,
            (State::AtHsm { .. }, On::CancelOrdered { who: None }) => rules.hsm_left(turn),

            (State::AtFile, On::FileChecked(checked)) => rules.file_checked(turn, checked),

            (State::Inserting, On::Identified(_, card, facts)) => rules.identified(turn, card, facts),
            (State::AtPad { change }, On::Reported(_, SessionReport::PinAccepted)) if !change => {
                rules.pin_accepted(turn)
            }
            (State::AtPad { change }, On::Reported(_, SessionReport::PinChanged)) if change => rules.pin_changed(turn),
            (State::AtPad { change }, On::Reported(_, SessionReport::PinWrong { left })) => {
                rules.pin_wrong(turn, change, left)
            }
            (State::AtPad { .. }, On::Reported(_, SessionReport::PinBlocked)) => rules.pin_blocked(turn),
            (State::AtPad { .. }, On::Reported(_, SessionReport::PadEnded(end))) => rules.pad_ended(turn, end),
            (State::AtPad { .. }, On::Reported(_, SessionReport::PinOldOrNew)) => rules.pin_old_or_new(turn),
            (State::Reading, On::RecordRead(_, read, standing)) => rules.record_read(turn, read, standing),
            (State::Writing, On::Reported(_, SessionReport::Written)) => rules.written(turn),
            (State::Erasing, On::Reported(_, SessionReport::Erased)) => rules.erased(turn),
            (State::Removing { after }, On::Reported(_, SessionReport::Removed)) => rules.removed(turn, after),
            // What was wanted is done, and only the card is still in.
            (
                State::Removing { after: After::Next },
                On::Reported(_, SessionReport::Failed(_)) | On::CancelOrdered { .. } | On::DeadlinePassed,
            ) if rules.is_done() => rules.finish(turn),
            // The card left between two steps.
            (
                State::AtPad { .. } | State::Reading | State::Writing | State::Erasing,
                On::Reported(_, SessionReport::Failed(CardProblem::NotNow)),
            ) => rules.repeat(turn, Refusal::CardPulled),

            (State::Leaving { refusal }, On::Reported(_, report)) => rules.left(turn, refusal, report),
            (State::Leaving { refusal }, On::Identified(..) | On::RecordRead(..) | On::DeadlinePassed) => {
                rules.refuse(turn, refusal)
            }

            (_, _) => Super,
        }
    }

    fn superstate(&mut self) -> Option<Superstate> {
        Some(match self {
            State::Drawing { .. }
            | State::Judging { .. }
            | State::Asking { .. }
            | State::AtHsm { .. }
            | State::AtFile => Superstate::Open,
            State::Inserting
            | State::AtPad { .. }
            | State::Reading
            | State::Writing
            | State::Erasing
            | State::Removing { .. } => Superstate::AtCard,
            State::Waiting | State::Leaving { .. } | State::Ended => Superstate::Top,
        })
    }
}

impl blocking::Superstate<Rules> for Superstate {
    fn call_handler(
        &mut self,
        rules: &mut Rules,
        event: &CeremonyEvent,
        turn: &mut CeremonyTurn<'_>,
    ) -> Outcome<State> {
        use CeremonyEvent as On;
        match (*self, *event) {
            (Superstate::AtCard, On::Reported(_, SessionReport::Failed(problem))) => rules.failed(turn, problem),
            (Superstate::AtCard, On::Reported(_, SessionReport::Cancelled)) => {
                rules.refuse(turn, Refusal::CeremonyCancelled)
            }
            (Superstate::AtCard, On::CancelOrdered { .. }) => rules.leave(turn, Refusal::CeremonyCancelled),
            (Superstate::AtCard, On::DeadlinePassed) => rules.leave(turn, Refusal::CeremonyTimedOut),
            (Superstate::AtCard, _) => Outcome::Super,

            (Superstate::Open, On::CancelOrdered { .. }) => rules.refuse(turn, Refusal::CeremonyCancelled),
            (Superstate::Open, On::DeadlinePassed) => rules.refuse(turn, Refusal::CeremonyTimedOut),
            (Superstate::Open, _) => Outcome::Super,

            (Superstate::Top, event) => match event {
                On::Begin => {
                    turn.bug.get_or_insert(BUG_BEGUN);
                    Outcome::Handled
                }
                // Late, or of something that was given up: by contract harmless.
                On::Drawn(_)
                | On::Made(_)
                | On::Identified(..)
                | On::RecordRead(..)
                | On::Reported(..)
                | On::ShareReady(_)
                | On::Verdict(_)
                | On::KeysPut(..)
                | On::SoPinSet(_)
                | On::Answered { .. }
                | On::CancelOrdered { .. }
                | On::RestoreRefused(_)
                | On::FileChecked(_)
                | On::DeadlinePassed => Outcome::Handled,
            },
        }
    }

    fn superstate(&mut self) -> Option<Superstate> {
        match self {
            Superstate::Top => None,
            Superstate::Open => Some(Superstate::Top),
            Superstate::AtCard => Some(Superstate::Open),
        }
    }
}

/// The order that lets a card go.
const LET_GO: SessionOrder = SessionOrder::Remove;
