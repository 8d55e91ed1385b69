//! How a step is reported, a card let go, a reader lost, and what follows.

use statig::Outcome::{self, Transition};

use super::{CardProblem, Held, Presence, Rules, SessionReport, SessionTurn, State, Then};
use crate::card::{CardAnswer, CardCall, CardFailure};
use crate::effect::Ticket;
use crate::limits::CARD_REMOVE_MS;

impl Rules {
    /// Has a call carried out at this reader.
    pub(super) fn call(&self, turn: &mut SessionTurn<'_>, call: CardCall) -> Ticket {
        turn.out.call(self.reader, call)
    }

    /// The step ended well for the card: it stays held, unless it left meanwhile.
    pub(super) fn keep(&self, turn: &mut SessionTurn<'_>, held: Held, report: SessionReport) -> Outcome<State> {
        if self.left {
            return self.let_go(turn, Then::Report(report));
        }
        turn.report(report);
        Transition(State::Ready { held })
    }

    /// The step did not succeed: the card is let go, then it is reported.
    pub(super) fn fail(&self, turn: &mut SessionTurn<'_>, problem: CardProblem) -> Outcome<State> {
        self.end(turn, SessionReport::Failed(problem), problem)
    }

    /// The step is reported once the card was let go, for this reason; a reader that is gone holds none.
    pub(super) fn end(
        &self,
        turn: &mut SessionTurn<'_>,
        report: SessionReport,
        problem: CardProblem,
    ) -> Outcome<State> {
        if problem == CardProblem::ReaderGone {
            return self.rest(turn, report);
        }
        self.let_go(turn, Then::Report(report))
    }

    /// Lets the card go.
    pub(super) fn let_go(&self, turn: &mut SessionTurn<'_>, then: Then) -> Outcome<State> {
        let ticket = self.call(turn, CardCall::Release);
        Transition(State::LettingGo { ticket, then })
    }

    /// No card is held, and the step is reported.
    pub(super) fn rest(&self, turn: &mut SessionTurn<'_>, report: SessionReport) -> Outcome<State> {
        turn.report(report);
        Transition(State::Idle)
    }

    /// No card is held, and the step did not succeed.
    pub(super) fn fail_idle(&self, turn: &mut SessionTurn<'_>, problem: CardProblem) -> Outcome<State> {
        self.rest(turn, SessionReport::Failed(problem))
    }

    /// The card was let go, or cannot be: either way we hold none.
    pub(super) fn go_on(&mut self, turn: &mut SessionTurn<'_>, then: Then) -> Outcome<State> {
        match then {
            Then::Rest => Transition(State::Idle),
            Then::Report(report) => self.rest(turn, report),
            Then::Identify(credential) => self.await_card(turn, credential),
            Then::Removal => self.await_removal(turn),
        }
    }

    /// No card is held; the one in the reader is to be taken out.
    pub(super) fn await_removal(&mut self, turn: &mut SessionTurn<'_>) -> Outcome<State> {
        if self.presence == Presence::Out {
            return self.rest(turn, SessionReport::Removed);
        }
        self.presence = Presence::Leftover;
        Transition(State::Removing { due_ms: turn.now.after_ms(CARD_REMOVE_MS) })
    }

    /// What was cancelled has ended, whatever it came to.
    pub(super) fn cancelled(
        &self,
        turn: &mut SessionTurn<'_>,
        holds: bool,
        result: Result<CardAnswer, CardFailure>,
    ) -> Outcome<State> {
        let problem = problem(result);
        if holds || result.is_ok() {
            return self.end(turn, SessionReport::Cancelled, problem);
        }
        self.rest(turn, SessionReport::Cancelled)
    }

    /// A call did not end in time. Its step is reported with what that leaves open.
    pub(super) fn unanswered(&self, turn: &mut SessionTurn<'_>, state: &State) -> Outcome<State> {
        let Some(ticket) = state.awaited() else { return Outcome::Super };
        if let Some(report) = state.broken_off(CardProblem::Unanswered) {
            turn.report(report);
        }
        Transition(State::Silent { ticket })
    }

    /// The reader was heard after a deadline. Whatever it says now is too late for a step, and
    /// letting go of a card that is not held is harmless.
    pub(super) fn heard(&self, turn: &mut SessionTurn<'_>, result: Result<CardAnswer, CardFailure>) -> Outcome<State> {
        if result == Ok(CardAnswer::Released) || result == Err(CardFailure::ReaderGone) {
            return Transition(State::Idle);
        }
        self.let_go(turn, Then::Rest)
    }

    /// The reader went away, and every hold with it.
    pub(super) fn lost(&mut self, turn: &mut SessionTurn<'_>, state: &State) -> Outcome<State> {
        self.presence = Presence::Out;
        self.left = true;
        if let Some(report) = state.broken_off(CardProblem::ReaderGone) {
            turn.report(report);
        }
        Transition(State::NoReader { unanswered: state.awaited() })
    }

    /// A card came.
    pub(super) fn card_in(&mut self) {
        if self.presence == Presence::Out {
            self.presence = Presence::In;
        }
    }

    /// The card went.
    pub(super) fn card_out(&mut self) {
        self.presence = Presence::Out;
        self.left = true;
    }
}

/// Why a call did not come to what was asked for; an answer to something else is none.
pub(super) const fn problem(result: Result<CardAnswer, CardFailure>) -> CardProblem {
    match result {
        Err(CardFailure::CardGone) => CardProblem::CardGone,
        Err(CardFailure::InUse) => CardProblem::InUse,
        Err(CardFailure::ReaderGone) => CardProblem::ReaderGone,
        Err(CardFailure::Transport | CardFailure::Garbage) | Ok(_) => CardProblem::Transport,
    }
}
