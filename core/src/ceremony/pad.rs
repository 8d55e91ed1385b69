//! The PIN of a card, typed on the pad and nowhere else. No try is made that a person did not
//! start, and the last one only when a second person, or the typed text, agreed to it (P4, P5).

use statig::Outcome;

use super::visit::SETBACKS_MAX;
use super::{CeremonyTurn, Deed, Noted, Purpose, Question, Rules, State, Task};
use crate::audit::AuditEvent;
use crate::card::session::{PadEnd, SessionOrder, SessionReport};
use crate::fault::Refusal;
use crate::limits::QUESTION_MS;

impl Rules {
    /// Asks for the PIN: the present one, or for a card on its transport PIN a new one first.
    pub(super) fn ask_for_pin(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        let change = match self.visit.purpose {
            Purpose::ChangePin => !self.visit.resolving,
            // P8: nothing is written behind a PIN that came with the card.
            Purpose::Deal | Purpose::CopyTarget => !self.visit.facts.pin_changed,
            Purpose::Gather | Purpose::CopySource | Purpose::Erase => false,
        };
        self.pad(turn, change)
    }

    /// The pad asks for a PIN, unless it is the last try.
    pub(super) fn pad(&mut self, turn: &mut CeremonyTurn<'_>, change: bool) -> Outcome<State> {
        self.visit.change = change;
        let last_try = self.visit.card.is_some_and(|card| card.tries_left == Some(1));
        if last_try && !self.visit.last_try_agreed {
            return self.ask(turn, Question::LastTry);
        }
        let order = if change { SessionOrder::ChangePin } else { SessionOrder::VerifyPin };
        turn.push(Deed::Session(self.visit.reader, order));
        self.note_change();
        Outcome::Transition(State::AtPad { change })
    }

    pub(super) fn pin_accepted(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        self.human_steps = self.human_steps.saturating_add(1);
        self.last = None;
        // The new PIN was typed, and is the card's. Which PIN was typed only the person knows, so the
        // card goes on counting as one whose PIN was never changed (P8).
        self.visit.resolving = false;
        self.unlocked(turn)
    }

    pub(super) fn pin_changed(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        self.human_steps = self.human_steps.saturating_add(1);
        self.last = None;
        self.note_pin_changed(turn);
        match self.visit.purpose {
            Purpose::ChangePin => self.finish_visit(turn),
            // A change does not unlock the card.
            Purpose::Gather | Purpose::Deal | Purpose::CopySource | Purpose::CopyTarget | Purpose::Erase => {
                self.pad(turn, false)
            }
        }
    }

    fn note_pin_changed(&mut self, turn: &mut CeremonyTurn<'_>) {
        self.visit.changed = true;
        let holder = match (self.visit.purpose, self.task()) {
            (Purpose::ChangePin, Some(Task::Reassign { to, .. })) => Some(to),
            (Purpose::Deal, _) => self.holder(),
            (_, _) => None,
        };
        if let Some(card) = self.visit.card {
            turn.push(Deed::Note(self.note(&card, Noted::PinChanged(holder))));
            turn.push(Deed::Journal(holder, AuditEvent::CardPinChanged));
        }
    }

    pub(super) fn pin_wrong(&mut self, turn: &mut CeremonyTurn<'_>, change: bool, left: Option<u8>) -> Outcome<State> {
        self.human_steps = self.human_steps.saturating_add(1);
        self.visit.last_try_agreed = false;
        if let Some(card) = &mut self.visit.card {
            card.tries_left = left;
        }
        turn.push(Deed::Journal(self.visit.facts.holder, AuditEvent::CardPinWrong));
        self.set_back(Refusal::CardPinWrong);
        if self.visit.resolving {
            // The new PIN is not the card's: it was not changed, and is changed now.
            self.visit.resolving = false;
            self.last = Some(Refusal::CardPinNotChanged);
            return self.ask(turn, Question::Again);
        }
        match left {
            Some(0) => self.pin_blocked(turn),
            // Whoever does not know how many tries are left decides whether to make another.
            None => self.ask(turn, Question::Again),
            Some(_) => self.pad(turn, change),
        }
    }

    pub(super) fn pin_blocked(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        self.reject(turn, Refusal::CardBlocked)
    }

    /// Nobody typed a PIN: nothing was changed, no try was spent, and nothing is tried by itself.
    pub(super) fn pad_ended(&mut self, turn: &mut CeremonyTurn<'_>, end: PadEnd) -> Outcome<State> {
        self.human_steps = self.human_steps.saturating_add(1);
        self.set_back(match end {
            PadEnd::TimedOut => Refusal::PadTimedOut,
            PadEnd::Cancelled => Refusal::PadCancelled,
            PadEnd::Mismatch => Refusal::PadMismatch,
            PadEnd::Length => Refusal::PadLength,
        });
        self.ask(turn, Question::Again)
    }

    /// The PIN may have been changed: typed once more on the pad, the card itself tells (P7).
    pub(super) fn pin_old_or_new(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        self.human_steps = self.human_steps.saturating_add(1);
        if let Some(card) = self.visit.card {
            turn.push(Deed::Note(self.note(&card, Noted::PinUnknown)));
            self.visit.expected = Some(card.serial);
        }
        self.visit.changed = false;
        // One verification tells the person. Where more hangs on it, it is changed once more.
        self.visit.resolving = matches!(self.task(), Some(Task::ChangePin { .. }));
        self.reject(turn, Refusal::CardPinOldOrNew)
    }

    /// A person is asked at the console.
    pub(super) fn ask(&mut self, turn: &mut CeremonyTurn<'_>, question: Question) -> Outcome<State> {
        if self.setbacks > SETBACKS_MAX {
            return self.refuse(turn, Refusal::CeremonyGivenUp);
        }
        self.due_ms = turn.now.after_ms(QUESTION_MS);
        self.note_change();
        Outcome::Transition(State::Asking { question })
    }

    pub(super) fn answered(&mut self, turn: &mut CeremonyTurn<'_>, question: Question, yes: bool) -> Outcome<State> {
        self.human_steps = self.human_steps.saturating_add(1);
        match (question, yes) {
            (Question::Overwrite, true) => {
                self.visit.agreed = true;
                // A card that says what is on it without a PIN is asked for that PIN now.
                if self.visit.looked { self.unlocked(turn) } else { self.ask_for_pin(turn) }
            }
            (Question::Overwrite, false) => self.reject(turn, Refusal::CardNotBlank),
            (Question::LastTry, true) => {
                self.visit.last_try_agreed = true;
                let change = self.visit.change;
                self.pad(turn, change)
            }
            (Question::LastTry, false) => self.reject(turn, Refusal::LastTryUnconfirmed),
            (Question::Again, true) if self.last == Some(Refusal::CardInUse) => self.insert(turn),
            (Question::Again, true) => self.ask_for_pin(turn),
            (Question::Again, false) => {
                let enrols = matches!(self.visit.purpose, Purpose::Deal | Purpose::CopyTarget);
                let on_transport_pin = enrols && !self.visit.facts.pin_changed && !self.visit.changed;
                let refusal = if on_transport_pin { Refusal::CardPinNeverChanged } else { Refusal::CeremonyCancelled };
                self.refuse(turn, refusal)
            }
            (Question::AnotherCard, true) => self.visit(turn, Purpose::Gather, 0),
            (Question::AnotherCard | Question::AnotherCopy, false) => self.no_more(turn, question),
            (Question::AdoptKey, true) => {
                self.adopted = true;
                self.next(turn)
            }
            (Question::AdoptKey, false) => self.refuse(turn, Refusal::KeyNotAdopted),
            (Question::AnotherCopy, true) => self.visit(turn, Purpose::CopyTarget, 0),
        }
    }

    /// No other card, no other copy.
    pub(super) fn no_more(&mut self, turn: &mut CeremonyTurn<'_>, question: Question) -> Outcome<State> {
        if question == Question::AnotherCard { self.gathered_enough(turn) } else { self.finish(turn) }
    }

    /// It was ended while a reader had the word; now that is done.
    pub(super) fn left(
        &mut self,
        turn: &mut CeremonyTurn<'_>,
        refusal: Refusal,
        report: SessionReport,
    ) -> Outcome<State> {
        let changes = self.visit.purpose == Purpose::ChangePin;
        match report {
            SessionReport::PinChanged => {
                self.note_pin_changed(turn);
                // It was too late to end it: what was wanted is done.
                if changes { self.finish(turn) } else { self.refuse(turn, refusal) }
            }
            SessionReport::PinOldOrNew => {
                if let Some(card) = self.visit.card {
                    turn.push(Deed::Note(self.note(&card, Noted::PinUnknown)));
                }
                self.refuse(turn, Refusal::CardPinOldOrNew)
            }
            SessionReport::PinWrong { .. } => {
                turn.push(Deed::Journal(self.visit.facts.holder, AuditEvent::CardPinWrong));
                self.refuse(turn, refusal)
            }
            SessionReport::Erased => {
                turn.push(Deed::Journal(self.visit.facts.holder, AuditEvent::CardErased));
                self.finish(turn)
            }
            SessionReport::Written => {
                // A copy that nobody will ask for is a card of that share all the same.
                if let (Some(card), Some((record, holder, _))) = (self.visit.card, self.copied) {
                    let header = record.header;
                    turn.push(Deed::Note(self.note(&card, Noted::Written { header, holder })));
                    turn.push(Deed::Journal(holder, AuditEvent::CardWritten { x: header.x }));
                }
                self.refuse(turn, refusal)
            }
            SessionReport::Identified(_)
            | SessionReport::PinAccepted
            | SessionReport::PinBlocked
            | SessionReport::PadEnded(_)
            | SessionReport::RecordRead(_)
            | SessionReport::Removed
            | SessionReport::Cancelled
            | SessionReport::Failed(_) => self.refuse(turn, refusal),
        }
    }
}
