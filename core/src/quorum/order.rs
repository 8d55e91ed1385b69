//! What a collection asks for, in which order, and what it gives to the slot machine.

use statig::Outcome;

use super::{CollectionOrder, NewCode, Rules, State, Want};
use crate::audit::{AuditEvent, CollectionEnd};
use crate::code;
use crate::command::{Answer, Caller, CommandKind};
use crate::fault::Refusal;
use crate::limits::{COLLECTION_IDLE_MS, HAND_OUT_IDLE_MS};
use crate::person::PersonId;
use crate::record::{Knowledge, Mode};
use crate::share::Set;
use crate::slot::SlotEvent;
use crate::turn::Turn;

impl Rules {
    /// Checks what can be checked before people are called together, then asks for the first thing.
    pub(super) fn begin(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        let CollectionOrder { caller, want, code, .. } = self.order;
        if let Err(refusal) = self.check(turn) {
            turn.wipe_any(code);
            return self.end_refused(turn, caller, refusal);
        }
        turn.journal(Some(caller.who), AuditEvent::CollectionBegan(want.command()));
        if !self.asks_for_the_present(turn) {
            self.present = code;
            return self.ask_for_the_new(turn, caller);
        }
        let Some(code) = code else {
            turn.reply(caller, Answer::Waits(self.progress(State::Present, turn.slot)));
            return Outcome::Transition(State::Present);
        };
        match self.enter_present(turn, caller, code) {
            // What was entered is not good, so nobody waits for others yet.
            Outcome::Handled if self.entered.is_empty() => {
                turn.journal(None, AuditEvent::CollectionEnded(CollectionEnd::Reset));
                self.end(turn)
            }
            Outcome::Handled => Outcome::Transition(State::Present),
            next @ (Outcome::Transition(_) | Outcome::Super) => next,
        }
    }

    /// Whether several persons know the present code.
    fn asks_for_the_present(&self, turn: &Turn<'_>) -> bool {
        let knowledge = turn.slot.knowledge(self.order.by);
        let is_manual = turn.slot.record.mode == Mode::Manual || turn.slot.record.knowledge_next.is_some();
        // What cards give is whole before it comes here.
        is_manual && matches!(knowledge, Knowledge::Parts(_) | Knowledge::Shares)
    }

    fn check(&self, turn: &Turn<'_>) -> Result<(), Refusal> {
        let record = &turn.slot.record;
        if record.user.needs_confirmation(turn.tries, turn.slot.final_try()) && !self.confirmed {
            return Err(Refusal::LastTryUnconfirmed);
        }
        let Want::Change { command, new, .. } = self.order.want else { return Ok(()) };
        if command == CommandKind::Mode && record.mode == new.mode() && record.knowledge == new.knowledge() {
            return Err(Refusal::ModeAlready);
        }
        if turn.slot.keeps_a_code() {
            return Err(Refusal::ActivateFirst);
        }
        if turn.slot.is_open_between_two() {
            return Err(Refusal::CodeOldOrNew);
        }
        if !self.asks_for_the_present(turn) {
            match (record.mode, self.order.code) {
                (Mode::Generated, None) => {}
                (Mode::Generated, Some(_)) => return Err(Refusal::CodeNotWanted),
                (Mode::Manual, None) => return Err(Refusal::CodeMissing),
                (Mode::Manual, Some(id)) => code::check_in_safe(turn.secrets, id, turn.slot.pin_chars_max())?,
            }
        }
        match (new, self.new) {
            (NewCode::Whole | NewCode::Cards(_), None) => Err(Refusal::NewCodeMissing),
            (NewCode::Whole | NewCode::Cards(_), Some(id)) => {
                code::check_in_safe(turn.secrets, id, turn.slot.new_pin_chars_max())
            }
            (NewCode::Generated | NewCode::Parts(_) | NewCode::Shares { .. }, Some(_)) => {
                Err(Refusal::NewCodeNotWanted)
            }
            (NewCode::Generated | NewCode::Shares { .. }, None) => {
                code::generated_chars(turn.slot.new_pin_chars_max()).map(|_| ())
            }
            (NewCode::Parts(_), None) => Ok(()),
        }
    }

    /// The present code is there: asks for the new one, or lets the slot machine begin.
    pub(super) fn ask_for_the_new(&mut self, turn: &mut Turn<'_>, caller: Caller) -> Outcome<State> {
        let new = match self.order.want {
            Want::Activate => return self.deliver(turn, caller),
            Want::Change { new, .. } => new,
        };
        match new {
            NewCode::Generated | NewCode::Whole | NewCode::Cards(_) => self.deliver(turn, caller),
            NewCode::Parts(_) => {
                self.go_on(turn, COLLECTION_IDLE_MS);
                turn.reply(caller, Answer::Waits(self.progress(State::NewParts, turn.slot)));
                Outcome::Transition(State::NewParts)
            }
            NewCode::Shares { .. } => match turn.random() {
                Ok((ticket, id)) => {
                    self.waiting = Some(caller);
                    self.go_on(turn, crate::limits::PLATFORM_DEADLINE_MS);
                    Outcome::Transition(State::Drawing { ticket, id })
                }
                Err(refusal) => self.end_refused(turn, caller, refusal),
            },
        }
    }

    /// Everything is whole: the slot machine gets it, as if one person had typed it.
    pub(super) fn deliver(&mut self, turn: &mut Turn<'_>, caller: Caller) -> Outcome<State> {
        let (code, new_code) = (self.present.take(), self.new.take());
        let confirmed = self.confirmed;
        *turn.deliver = Some(match self.order.want {
            Want::Activate => SlotEvent::ActivateOrdered { caller, code, by: self.order.by, confirmed },
            Want::Change { command, new, accept } => SlotEvent::ChangeOrdered {
                caller,
                kind: command,
                to: new.mode(),
                code,
                new_code,
                next: new.knowledge(),
                confirmed,
                accept,
            },
        });
        turn.journal(Some(caller.who), AuditEvent::CollectionEnded(CollectionEnd::Complete));
        self.wipe_entered(turn);
        Outcome::Transition(State::Ended)
    }

    /// Somebody went on: the wait for the next one starts anew.
    pub(super) fn go_on(&mut self, turn: &Turn<'_>, wait_ms: u64) {
        self.due_ms = turn.now.after_ms(wait_ms);
    }

    /// The wait for the next custodian starts anew.
    pub(super) fn go_on_handing_out(&mut self, turn: &Turn<'_>) {
        self.go_on(turn, HAND_OUT_IDLE_MS);
    }

    /// Whether this person ordered it and nobody else entered anything or was shown a share:
    /// one of several custodians must not be able to undo the others' work again and again (P29).
    pub(super) fn is_alone(&self, turn: &Turn<'_>, who: PersonId) -> bool {
        let shown = |set: &Set| set.holders.iter().flatten().any(|holder| *holder != who);
        let another_was_shown = turn.slot.sets.next.as_ref().is_some_and(shown);
        let another_entered = self.entered.iter().any(|entered| entered.who != who);
        self.order.caller.who == who && !another_was_shown && !another_entered
    }

    /// Refuses one person; the others' work stays.
    pub(super) fn refuse(
        &self,
        turn: &mut Turn<'_>,
        caller: Caller,
        kind: CommandKind,
        refusal: Refusal,
    ) -> Outcome<State> {
        turn.journal(Some(caller.who), AuditEvent::Refused(kind, refusal));
        turn.reply(caller, Answer::Refused(refusal));
        Outcome::Handled
    }

    pub(super) fn end_refused(&mut self, turn: &mut Turn<'_>, caller: Caller, refusal: Refusal) -> Outcome<State> {
        turn.journal(Some(caller.who), AuditEvent::Refused(self.order.want.command(), refusal));
        turn.reply(caller, Answer::Refused(refusal));
        self.end(turn)
    }

    /// Ends without a code for the slot machine: everything is wiped, a set that it made is void.
    pub(super) fn end(&mut self, turn: &mut Turn<'_>) -> Outcome<State> {
        self.wipe_entered(turn);
        turn.wipe_any(self.present.take());
        turn.wipe_any(self.new.take());
        if let Some(caller) = self.waiting.take() {
            turn.reply(caller, Answer::Refused(Refusal::NothingCollected));
        }
        if turn.slot.void_handed_out() {
            turn.journal(None, AuditEvent::SetVoid);
        }
        Outcome::Transition(State::Ended)
    }

    pub(super) fn wipe_entered(&mut self, turn: &mut Turn<'_>) {
        for entered in &self.entered {
            turn.wipe(entered.id);
        }
        self.entered.clear();
    }
}
