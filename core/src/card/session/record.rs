//! Reading, writing and erasing the record.
//!
//! A card with two places is written beside the record in force, then the pointer is set: pulled
//! at any moment it has the old record or the new one. Erasing takes the pointer away first, and
//! overwrites both places, since the other one keeps what was in force before.

use statig::Outcome::{self, Transition};

use super::ends::problem;
use super::{CardProblem, Held, NewRecord, Rules, SessionReport, SessionTurn, State, Then};
use crate::card::profile::WriteSafety;
use crate::card::status_word::{ReadWord, WriteWord};
use crate::card::{CardAnswer, CardCall, CardFailure, RecordPlace};
use crate::safe::SecretId;
use crate::share::record::{RecordProblem, SignedHeader};

impl Held {
    fn safety(&self) -> WriteSafety {
        self.card.profile.profile().safety()
    }

    /// Where a record would be; `None`: the card says that there is none.
    fn in_force(&self) -> Option<RecordPlace> {
        match self.safety() {
            WriteSafety::TwoPlaces => self.card.place,
            WriteSafety::CardsOwn => Some(RecordPlace::A),
        }
    }

    /// Where a new record goes.
    fn beside(&self) -> RecordPlace {
        match self.safety() {
            WriteSafety::TwoPlaces => self.card.place.map_or(RecordPlace::A, RecordPlace::other),
            WriteSafety::CardsOwn => RecordPlace::A,
        }
    }

    fn read(&self, place: RecordPlace, y: SecretId) -> CardCall {
        CardCall::Read { profile: self.card.profile, credential: self.credential, place, y }
    }

    fn point(&self, place: Option<RecordPlace>) -> CardCall {
        CardCall::Point { profile: self.card.profile, credential: self.credential, place }
    }
}

impl Rules {
    /// Reads the record in force.
    pub(super) fn read(&self, turn: &mut SessionTurn<'_>, held: Held, y: SecretId) -> Outcome<State> {
        let Some(place) = held.in_force() else {
            return self.keep(turn, held, SessionReport::RecordRead(Err(RecordProblem::Missing)));
        };
        let ticket = self.call(turn, held.read(place, y));
        Transition(State::Reading { ticket, held })
    }

    /// The record was read, or there is none.
    pub(super) fn was_read(
        &self,
        turn: &mut SessionTurn<'_>,
        held: Held,
        result: Result<CardAnswer, CardFailure>,
    ) -> Outcome<State> {
        let Ok(CardAnswer::Read { status, record }) = result else { return self.fail(turn, problem(result)) };
        match status.of_read() {
            ReadWord::Read => self.keep(turn, held, SessionReport::RecordRead(record)),
            ReadWord::Missing => self.keep(turn, held, SessionReport::RecordRead(Err(RecordProblem::Missing))),
            ReadWord::Failed => self.fail(turn, CardProblem::Status(status.0)),
        }
    }

    /// Writes a record beside the one in force.
    pub(super) fn write(
        &self,
        turn: &mut SessionTurn<'_>,
        held: Held,
        record: SignedHeader,
        y: SecretId,
        y_back: SecretId,
    ) -> Outcome<State> {
        let (profile, credential) = (held.card.profile, held.credential);
        let place = held.beside();
        let ticket = self.call(turn, CardCall::Write { profile, credential, place, record, y });
        Transition(State::Writing { ticket, held, new: NewRecord { place, record, y_back } })
    }

    /// The record was written: it comes into force.
    pub(super) fn written(
        &self,
        turn: &mut SessionTurn<'_>,
        held: Held,
        new: NewRecord,
        result: Result<CardAnswer, CardFailure>,
    ) -> Outcome<State> {
        if let Some(ended) = self.not_written(turn, result) {
            return ended;
        }
        match held.safety() {
            WriteSafety::TwoPlaces => {
                let ticket = self.call(turn, held.point(Some(new.place)));
                Transition(State::Pointing { ticket, held, new })
            }
            WriteSafety::CardsOwn => self.begin_read_back(turn, held, new),
        }
    }

    /// The new record is in force: it is read back.
    pub(super) fn pointed(
        &self,
        turn: &mut SessionTurn<'_>,
        mut held: Held,
        new: NewRecord,
        result: Result<CardAnswer, CardFailure>,
    ) -> Outcome<State> {
        if let Some(ended) = self.not_written(turn, result) {
            return ended;
        }
        held.card.place = Some(new.place);
        held.card.header = Some(new.record.header);
        self.begin_read_back(turn, held, new)
    }

    fn begin_read_back(&self, turn: &mut SessionTurn<'_>, held: Held, new: NewRecord) -> Outcome<State> {
        let ticket = self.call(turn, held.read(new.place, new.y_back));
        Transition(State::ReadingBack { ticket, held, new })
    }

    /// The new record was read back. What is public is compared here; whoever owns both places of
    /// y compares those.
    pub(super) fn read_back(
        &self,
        turn: &mut SessionTurn<'_>,
        held: Held,
        new: NewRecord,
        result: Result<CardAnswer, CardFailure>,
    ) -> Outcome<State> {
        let torn = SessionReport::Failed(CardProblem::TornWrite);
        let Ok(CardAnswer::Read { status, record }) = result else { return self.end(turn, torn, problem(result)) };
        match status.of_read() {
            ReadWord::Read if record == Ok(new.record) => self.keep(turn, held, SessionReport::Written),
            ReadWord::Read | ReadWord::Missing => self.fail(turn, CardProblem::ReadBackDiffers),
            ReadWord::Failed => self.let_go(turn, Then::Report(torn)),
        }
    }

    /// Takes away whatever record there is.
    pub(super) fn erase(&self, turn: &mut SessionTurn<'_>, held: Held) -> Outcome<State> {
        match held.safety() {
            WriteSafety::TwoPlaces => {
                let ticket = self.call(turn, held.point(None));
                Transition(State::Unpointing { ticket, held })
            }
            WriteSafety::CardsOwn => self.erase_at(turn, held, RecordPlace::A),
        }
    }

    /// No record is in force: both places are overwritten.
    pub(super) fn unpointed(
        &self,
        turn: &mut SessionTurn<'_>,
        mut held: Held,
        result: Result<CardAnswer, CardFailure>,
    ) -> Outcome<State> {
        if let Some(ended) = self.not_written(turn, result) {
            return ended;
        }
        held.card.place = None;
        held.card.header = None;
        self.erase_at(turn, held, RecordPlace::A)
    }

    fn erase_at(&self, turn: &mut SessionTurn<'_>, held: Held, place: RecordPlace) -> Outcome<State> {
        let (profile, credential) = (held.card.profile, held.credential);
        let ticket = self.call(turn, CardCall::Erase { profile, credential, place });
        Transition(State::Erasing { ticket, held, place })
    }

    /// This place was overwritten; the other one follows where there is one.
    pub(super) fn erased(
        &self,
        turn: &mut SessionTurn<'_>,
        held: Held,
        place: RecordPlace,
        result: Result<CardAnswer, CardFailure>,
    ) -> Outcome<State> {
        if let Some(ended) = self.not_written(turn, result) {
            return ended;
        }
        match (held.safety(), place) {
            (WriteSafety::TwoPlaces, RecordPlace::A) => self.erase_at(turn, held, RecordPlace::B),
            (WriteSafety::TwoPlaces, RecordPlace::B) | (WriteSafety::CardsOwn, _) => {
                self.keep(turn, held, SessionReport::Erased)
            }
        }
    }

    /// How the step ends unless the card wrote.
    fn not_written(
        &self,
        turn: &mut SessionTurn<'_>,
        result: Result<CardAnswer, CardFailure>,
    ) -> Option<Outcome<State>> {
        let torn = SessionReport::Failed(CardProblem::TornWrite);
        let Ok(CardAnswer::Written { status }) = result else { return Some(self.end(turn, torn, problem(result))) };
        match status.of_write() {
            WriteWord::Written => None,
            WriteWord::NotWritten => Some(self.fail(turn, CardProblem::Status(status.0))),
            WriteWord::MaybeWritten => Some(self.let_go(turn, Then::Report(torn))),
        }
    }
}
