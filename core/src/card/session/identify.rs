//! From a card in the reader to a known one: held, asked for each kind, asked for its tries.

use statig::Outcome::{self, Transition};

use super::ends::problem;
use super::{CardProblem, Held, HeldCard, Presence, Rules, SessionReport, SessionTurn, State};
use crate::card::status_word::{SelectWord, TriesWord};
use crate::card::{CardAnswer, CardCall, CardFailure, Credential, ProfileId, Selected};
use crate::limits::CARD_WAIT_MS;

impl Rules {
    /// No card is held: takes the one that is there, or waits for one.
    pub(super) fn await_card(&mut self, turn: &mut SessionTurn<'_>, credential: Credential) -> Outcome<State> {
        match self.presence {
            Presence::In => self.hold(turn, credential),
            Presence::Out | Presence::Leftover => {
                Transition(State::Waiting { credential, due_ms: turn.now.after_ms(CARD_WAIT_MS) })
            }
        }
    }

    /// A card is there: takes hold of it.
    pub(super) fn hold(&mut self, turn: &mut SessionTurn<'_>, credential: Credential) -> Outcome<State> {
        self.presence = Presence::In;
        self.left = false;
        let ticket = self.call(turn, CardCall::Hold);
        Transition(State::Holding { ticket, credential })
    }

    /// The card is held, or is not. One that went before it was held is not there any more, and
    /// the next one is waited for: the answer may be here before the news that it went.
    pub(super) fn taken(
        &mut self,
        turn: &mut SessionTurn<'_>,
        credential: Credential,
        result: Result<CardAnswer, CardFailure>,
    ) -> Outcome<State> {
        match result {
            Ok(CardAnswer::Held) => self.select(turn, credential, ProfileId::ALL.first().copied()),
            // An answer to something else: there may be a hold.
            Ok(_) => self.fail(turn, CardProblem::Transport),
            Err(CardFailure::CardGone) => {
                self.presence = Presence::Out;
                self.await_card(turn, credential)
            }
            Err(CardFailure::InUse | CardFailure::ReaderGone | CardFailure::Transport | CardFailure::Garbage) => {
                self.fail_idle(turn, problem(result))
            }
        }
    }

    /// Asks the card whether it is of this kind.
    fn select(&self, turn: &mut SessionTurn<'_>, credential: Credential, profile: Option<ProfileId>) -> Outcome<State> {
        let Some(profile) = profile else { return self.fail(turn, CardProblem::UnknownCard) };
        let ticket = self.call(turn, CardCall::Select { profile, credential });
        Transition(State::Selecting { ticket, credential, profile })
    }

    /// The card is of this kind, or is asked for the next.
    pub(super) fn selected(
        &self,
        turn: &mut SessionTurn<'_>,
        credential: Credential,
        profile: ProfileId,
        result: Result<CardAnswer, CardFailure>,
    ) -> Outcome<State> {
        let Ok(CardAnswer::Selected { status, found }) = result else { return self.fail(turn, problem(result)) };
        match (status.of_select(), found) {
            (SelectWord::Found, Some(said)) => {
                let ticket = self.call(turn, CardCall::Tries { profile, credential });
                Transition(State::AskingTries { ticket, credential, profile, said })
            }
            (SelectWord::Found, None) | (SelectWord::NotThisKind, _) => {
                let next = ProfileId::ALL.into_iter().skip_while(|known| *known != profile).nth(1);
                self.select(turn, credential, next)
            }
            (SelectWord::Failed, _) => self.fail(turn, CardProblem::Status(status.0)),
        }
    }

    /// The card said how many tries are left, as far as it does.
    pub(super) fn tries_told(
        &self,
        turn: &mut SessionTurn<'_>,
        credential: Credential,
        profile: ProfileId,
        said: Selected,
        result: Result<CardAnswer, CardFailure>,
    ) -> Outcome<State> {
        let Ok(CardAnswer::Tries { status, left, serial }) = result else { return self.fail(turn, problem(result)) };
        if status.of_tries() == TriesWord::Failed {
            return self.fail(turn, CardProblem::Status(status.0));
        }
        let Some(serial) = said.serial.or(serial) else { return self.fail(turn, CardProblem::NoSerial) };
        if self.left {
            return self.fail(turn, CardProblem::CardGone);
        }
        let card = HeldCard { profile, serial, tries_left: left, place: said.place, header: said.header };
        self.keep(turn, Held { credential, card }, SessionReport::Identified(card))
    }
}
