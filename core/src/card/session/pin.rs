//! What the pad's dialogues came to.
//!
//! One order, one dialogue (P5). A PIN that is known to be blocked is not asked for at all.
//! After an accepted or changed PIN the count of tries stays what it was: a card counts from the
//! top again then, so there are at least as many.

use statig::Outcome::{self, Transition};

use super::ends::problem;
use super::{CardProblem, Held, PadEnd, Rules, SessionReport, SessionTurn, State, Then};
use crate::card::status_word::{ChangeWord, TriesWord, VerifyWord};
use crate::card::{CardAnswer, CardCall, CardFailure};

impl Rules {
    /// Has a person type the PIN.
    pub(super) fn verify(&self, turn: &mut SessionTurn<'_>, held: Held) -> Outcome<State> {
        if held.card.tries_left == Some(0) {
            return self.keep(turn, held, SessionReport::PinBlocked);
        }
        let (profile, credential) = (held.card.profile, held.credential);
        let ticket = self.call(turn, CardCall::Verify { profile, credential });
        Transition(State::Verifying { ticket, held, cancelled: false })
    }

    /// Has a person type the old PIN and twice the new one.
    pub(super) fn change_pin(&self, turn: &mut SessionTurn<'_>, held: Held) -> Outcome<State> {
        if held.card.tries_left == Some(0) {
            return self.keep(turn, held, SessionReport::PinBlocked);
        }
        let (profile, credential) = (held.card.profile, held.credential);
        let ticket = self.call(turn, CardCall::ChangePin { profile, credential });
        Transition(State::Changing { ticket, held, cancelled: false })
    }

    /// The dialogue for the PIN ended.
    pub(super) fn verified(
        &self,
        turn: &mut SessionTurn<'_>,
        held: Held,
        cancelled: bool,
        result: Result<CardAnswer, CardFailure>,
    ) -> Outcome<State> {
        let Ok(CardAnswer::Pin { status }) = result else { return self.fail(turn, problem(result)) };
        match status.of_verify() {
            // A card that left has no PIN verified any more.
            VerifyWord::Accepted if self.left => self.fail(turn, CardProblem::CardGone),
            VerifyWord::Accepted => self.keep(turn, held, SessionReport::PinAccepted),
            VerifyWord::Wrong { left } => self.wrong(turn, held, left),
            VerifyWord::Blocked => self.blocked(turn, held),
            VerifyWord::TimedOut => self.pad_ended(turn, held, cancelled, PadEnd::TimedOut),
            VerifyWord::Cancelled => self.pad_ended(turn, held, cancelled, PadEnd::Cancelled),
            VerifyWord::Length => self.pad_ended(turn, held, cancelled, PadEnd::Length),
            VerifyWord::NotTried | VerifyWord::MaybeTried => self.fail(turn, CardProblem::Status(status.0)),
        }
    }

    /// The dialogue for another PIN ended.
    pub(super) fn changed(
        &self,
        turn: &mut SessionTurn<'_>,
        held: Held,
        cancelled: bool,
        result: Result<CardAnswer, CardFailure>,
    ) -> Outcome<State> {
        let Ok(CardAnswer::Pin { status }) = result else {
            return self.end(turn, SessionReport::PinOldOrNew, problem(result));
        };
        match status.of_change() {
            ChangeWord::Changed => self.keep(turn, held, SessionReport::PinChanged),
            ChangeWord::Wrong { left } => self.wrong(turn, held, left),
            ChangeWord::Blocked => self.blocked(turn, held),
            ChangeWord::TimedOut => self.pad_ended(turn, held, cancelled, PadEnd::TimedOut),
            ChangeWord::Cancelled => self.pad_ended(turn, held, cancelled, PadEnd::Cancelled),
            ChangeWord::Mismatch => self.pad_ended(turn, held, cancelled, PadEnd::Mismatch),
            ChangeWord::Length => self.pad_ended(turn, held, cancelled, PadEnd::Length),
            ChangeWord::NotChanged => self.fail(turn, CardProblem::Status(status.0)),
            ChangeWord::OldOrNew => self.let_go(turn, Then::Report(SessionReport::PinOldOrNew)),
        }
    }

    /// No PIN came to the card. Who cancelled meanwhile hears that, and the card is let go.
    fn pad_ended(&self, turn: &mut SessionTurn<'_>, held: Held, cancelled: bool, end: PadEnd) -> Outcome<State> {
        if cancelled {
            return self.let_go(turn, Then::Report(SessionReport::Cancelled));
        }
        self.keep(turn, held, SessionReport::PadEnded(end))
    }

    /// The PIN was wrong. A card that did not say what is left is asked, before anybody types again (P4).
    fn wrong(&self, turn: &mut SessionTurn<'_>, mut held: Held, left: Option<u8>) -> Outcome<State> {
        held.card.tries_left = left;
        if left.is_some() {
            return self.keep(turn, held, SessionReport::PinWrong { left });
        }
        let (profile, credential) = (held.card.profile, held.credential);
        let ticket = self.call(turn, CardCall::Tries { profile, credential });
        Transition(State::AskingTriesAgain { ticket, held })
    }

    fn blocked(&self, turn: &mut SessionTurn<'_>, mut held: Held) -> Outcome<State> {
        held.card.tries_left = Some(0);
        self.keep(turn, held, SessionReport::PinBlocked)
    }

    /// The card said what is left after a wrong PIN; where it cannot, it is let go.
    pub(super) fn tries_told_again(
        &self,
        turn: &mut SessionTurn<'_>,
        mut held: Held,
        result: Result<CardAnswer, CardFailure>,
    ) -> Outcome<State> {
        let wrong = SessionReport::PinWrong { left: None };
        let Ok(CardAnswer::Tries { status, left, .. }) = result else {
            return self.end(turn, wrong, problem(result));
        };
        if status.of_tries() == TriesWord::Failed {
            return self.let_go(turn, Then::Report(wrong));
        }
        if left == Some(0) {
            return self.blocked(turn, held);
        }
        held.card.tries_left = left;
        self.keep(turn, held, SessionReport::PinWrong { left })
    }
}
