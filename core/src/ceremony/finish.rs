//! What follows from a ceremony: keys in slots, a PIN for a slot, the commit, and its end
//! with everything wiped (P16).

use statig::Outcome;

use super::{CeremonyTurn, Deed, Judged, Part, Purpose, Rules, SlotSet, SoPinEnd, State, Task};
use crate::audit::AuditEvent;
use crate::card::session::SessionOrder;
use crate::card::sets::CardSet;
use crate::command::{Answer, Command};
use crate::effect::SlotId;
use crate::fault::{Fault, Function, Refusal};
use crate::limits::{CALL_DEADLINE_MS, CARD_CALL_DEADLINE_MS, PAD_DEADLINE_MS, TRANSFER_DEADLINE_MS};
use crate::person::Roster;
use crate::safe::SecretId;
use crate::share::card_set::CardQuorum;

impl Rules {
    /// The cards gave their secret, or another one.
    pub(super) fn put_together(&mut self, turn: &mut CeremonyTurn<'_>, right: bool) -> Outcome<State> {
        if !right {
            // P12: it was wiped before anybody could use it.
            return self.refuse(turn, Refusal::KeyIdDiffers);
        }
        self.wipe_gathered(turn);
        match self.task() {
            Some(Task::VerifySet) => {
                turn.push(Deed::Journal(None, AuditEvent::KeyCompared));
                self.finish(turn)
            }
            Some(Task::RestoreKey { .. } | Task::Restore { .. }) => self.put_keys(turn),
            Some(Task::VerifyFile { .. }) => {
                turn.push(Deed::Journal(None, AuditEvent::KeyCompared));
                turn.push(Deed::CheckFile);
                self.due_ms = turn.now.after_ms(TRANSFER_DEADLINE_MS);
                Outcome::Transition(State::AtFile)
            }
            Some(Task::ReplaceSet { .. }) => self.draw(turn, Part::Seed),
            Some(
                Task::CreateSet { .. }
                | Task::Rotate { .. }
                | Task::Copy { .. }
                | Task::ChangePin { .. }
                | Task::Reassign { .. }
                | Task::Erase { .. },
            ) => self.bug(turn),
            None => {
                let of_cards = |set: &CardSet| self.first.is_some_and(|first| first.set_id == set.id);
                let set = self.facts.candidates().find(of_cards);
                self.derive_pin(turn, set, Judged::PresentPin)
            }
        }
    }

    /// The platform held every MAC of the file against the key.
    pub(super) fn file_checked(&mut self, turn: &mut CeremonyTurn<'_>, checked: Result<bool, Fault>) -> Outcome<State> {
        match (checked, self.task()) {
            (Ok(true), Some(Task::VerifyFile { file, .. })) => {
                turn.push(Deed::Journal(None, AuditEvent::FileVerified(file)));
                self.finish(turn)
            }
            (Ok(true), _) => self.bug(turn),
            (Ok(false), _) => self.refuse(turn, Refusal::ExportOfAnotherKey),
            (Err(fault), _) => self.fail(turn, fault),
        }
    }

    fn derive_pin(&mut self, turn: &mut CeremonyTurn<'_>, set: Option<CardSet>, what: Judged) -> Outcome<State> {
        let (Some(secret), Some(set)) = (self.secret, set) else { return self.bug(turn) };
        let [present, new] = self.command.secrets();
        let code = match (what, self.command) {
            // What is typed with such an order is an SO PIN, or the code of a slot that has no cards yet.
            (_, Command::AdministratorCards { .. } | Command::BySoCards { .. }) => None,
            (Judged::NewPin, _) => new.filter(|_| set.with_code),
            (_, _) => present.filter(|_| set.with_code),
        };
        turn.push(Deed::Pin { secret, set, code });
        Outcome::Transition(State::Judging { what })
    }

    pub(super) fn present_derived(&mut self, turn: &mut CeremonyTurn<'_>, derived: bool) -> Outcome<State> {
        if !derived {
            return self.refuse(turn, Refusal::GeneratedTooShort);
        }
        self.present = self.secret.take();
        if self.facts.make.is_some() { self.draw(turn, Part::Seed) } else { self.deliver(turn) }
    }

    pub(super) fn rehearsed(&mut self, turn: &mut CeremonyTurn<'_>, right: bool) -> Outcome<State> {
        if !right {
            return self.refuse(turn, Refusal::RehearsalFailed);
        }
        turn.push(Deed::Journal(None, AuditEvent::SetRehearsed));
        match self.task() {
            Some(Task::CreateSet { .. } | Task::Rotate { .. }) => self.put_keys(turn),
            Some(
                Task::ReplaceSet { .. }
                | Task::VerifySet
                | Task::RestoreKey { .. }
                | Task::Restore { .. }
                | Task::VerifyFile { .. }
                | Task::Copy { .. }
                | Task::ChangePin { .. }
                | Task::Reassign { .. }
                | Task::Erase { .. },
            ) => self.commit(turn),
            None => self.derive_pin(turn, self.made, Judged::NewPin),
        }
    }

    pub(super) fn new_derived(&mut self, turn: &mut CeremonyTurn<'_>, derived: bool) -> Outcome<State> {
        if !derived {
            return self.refuse(turn, Refusal::GeneratedTooShort);
        }
        self.new = self.secret.take();
        let typed = self.command.secrets()[0];
        match (self.command, self.present.or(typed), self.new) {
            (Command::AdministratorCards { slot, .. }, Some(old), Some(new)) => {
                turn.push(Deed::SetSoPin { slot, old, new });
                self.due_ms = turn.now.after_ms(CALL_DEADLINE_MS);
                Outcome::Transition(State::AtHsm { slot })
            }
            (Command::AdministratorCards { .. }, _, _) => self.bug(turn),
            (_, _, _) => self.deliver(turn),
        }
    }

    /// The slot goes on with what the cards gave; it answers whoever ordered this.
    fn deliver(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        let (present, new) = (self.present.take(), self.new.take());
        // The set in the making is the slot's now: a change of its PIN brings it into force.
        self.begun_set = false;
        self.let_go(turn);
        self.wipe_all(turn);
        turn.push(Deed::Deliver { present, new });
        self.note_change();
        Outcome::Transition(State::Ended)
    }

    /// The next slot gets its keys; when all were asked, the commit.
    fn put_keys(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        let Some(slot) = self.slots_left.slots().next() else { return self.commit(turn) };
        let key_id = self.made.map(|set| set.key_id).or(self.first.map(|first| first.key_id));
        let (Some(secret), Some(key_id)) = (self.secret, key_id) else { return self.bug(turn) };
        self.slots_left = self.slots_left.without(slot);
        turn.push(Deed::PutKeys { secret, key_id, slot });
        let restores = matches!(self.task(), Some(Task::Restore { .. }));
        self.due_ms = turn.now.after_ms(if restores { TRANSFER_DEADLINE_MS } else { CALL_DEADLINE_MS });
        Outcome::Transition(State::AtHsm { slot })
    }

    /// A slot that did not get them is listed as without; the others go on.
    pub(super) fn keys_put(
        &mut self,
        turn: &mut CeremonyTurn<'_>,
        slot: SlotId,
        result: Result<(), Fault>,
    ) -> Outcome<State> {
        let event = match result {
            Ok(()) => {
                self.slots_done = self.slots_done.with(slot);
                AuditEvent::BackupKeyPut(slot)
            }
            Err(fault) => AuditEvent::BackupKeyNotPut(slot, fault),
        };
        // What a restore brings is U, for a while: its plan says so in the log.
        if result.is_err() || !matches!(self.task(), Some(Task::Restore { .. })) {
            turn.push(Deed::Journal(None, event));
        }
        let nowhere = self.slots_left == SlotSet::NONE && self.slots_done == SlotSet::NONE;
        match result {
            // Nothing else was wanted, and no slot has them.
            Err(fault) if nowhere && matches!(self.task(), Some(Task::RestoreKey { .. } | Task::Restore { .. })) => {
                self.fail(turn, fault)
            }
            Ok(()) | Err(_) => self.put_keys(turn),
        }
    }

    /// Whether it ends with another SO PIN, rather than with keys.
    pub(super) const fn is_for_so_pin(&self) -> bool {
        matches!(self.command, Command::AdministratorCards { .. })
    }

    pub(super) fn hsm_silent(&mut self, turn: &mut CeremonyTurn<'_>, slot: SlotId) -> Outcome<State> {
        if self.is_for_so_pin() {
            return self.so_pin_set(turn, Err(SoPinEnd::OldOrNew(Fault::Unanswered(Function::SetPin))));
        }
        self.keys_put(turn, slot, Err(Fault::Unanswered(Function::Other)))
    }

    /// The service stops while a token is at work: what it does with it stays unknown.
    pub(super) fn hsm_left(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        if self.is_for_so_pin() {
            return self.so_pin_set(turn, Err(SoPinEnd::OldOrNew(Fault::Unanswered(Function::SetPin))));
        }
        self.refuse(turn, Refusal::CeremonyCancelled)
    }

    pub(super) fn so_pin_set(&mut self, turn: &mut CeremonyTurn<'_>, result: Result<(), SoPinEnd>) -> Outcome<State> {
        match result {
            Ok(()) => self.commit(turn),
            Err(SoPinEnd::Refused(refusal)) => self.refuse(turn, refusal),
            Err(SoPinEnd::OldOrNew(fault)) => {
                // The cards may be what the token wants: their set is not void.
                self.begun_set = false;
                self.fail(turn, fault)
            }
        }
    }

    /// From here on the new set is in force.
    fn commit(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        if self.begun_set {
            self.begun_set = false;
            turn.push(Deed::CommitSet(None));
            turn.push(Deed::Journal(None, AuditEvent::CardSetInForce));
        } else if let (Some(Task::RestoreKey { .. }), None, Some(first)) = (self.task(), self.facts.gather, self.first)
            && let Ok(quorum) = CardQuorum::new(first.m, first.n)
        {
            turn.push(Deed::CommitSet(Some(CardSet {
                id: first.set_id,
                key_id: first.key_id,
                generation: first.generation,
                quorum,
                holders: Roster::NOBODY,
                created_s: first.created_s,
                split_knowledge: false,
                with_code: false,
                pin_chars: 0,
            })));
            turn.push(Deed::Journal(None, AuditEvent::CardSetInForce));
        }
        self.finish(turn)
    }

    pub(super) fn erased(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        turn.push(Deed::Journal(self.visit.facts.holder, AuditEvent::CardErased));
        self.finish_visit(turn)
    }

    /// Whether everything that was ordered is done once this card is.
    pub(super) const fn is_done(&self) -> bool {
        matches!(self.visit.purpose, Purpose::ChangePin | Purpose::Erase | Purpose::CopyTarget)
    }

    /// Everything was done.
    pub(super) fn finish(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        self.end(turn, Answer::Done)
    }

    /// Nothing is in force that was not before; the person can do something about it.
    pub(super) fn refuse(&mut self, turn: &mut CeremonyTurn<'_>, refusal: Refusal) -> Outcome<State> {
        // Whatever ended it: where nobody knows which PIN the card has, that is the answer (P7).
        let doubtful = self.visit.purpose == Purpose::ChangePin && self.visit.expected.is_some();
        let refusal = if doubtful { Refusal::CardPinOldOrNew } else { refusal };
        self.last = Some(refusal);
        self.end(turn, Answer::Refused(refusal))
    }

    /// The same for a device that failed.
    pub(super) fn fail(&mut self, turn: &mut CeremonyTurn<'_>, fault: Fault) -> Outcome<State> {
        self.end(turn, Answer::Failed(fault))
    }

    /// Ends while a reader has the word: what it is doing is waited for.
    pub(super) fn leave(&mut self, turn: &mut CeremonyTurn<'_>, refusal: Refusal) -> Outcome<State> {
        turn.push(Deed::Session(self.visit.reader, SessionOrder::Cancel));
        // The reader reports sooner: its own deadlines are shorter.
        self.due_ms = turn.now.after_ms(PAD_DEADLINE_MS.saturating_add(CARD_CALL_DEADLINE_MS));
        Outcome::Transition(State::Leaving { refusal })
    }

    fn end(&mut self, turn: &mut CeremonyTurn<'_>, answer: Answer) -> Outcome<State> {
        self.let_go(turn);
        if self.begun_set {
            self.begun_set = false;
            turn.push(Deed::VoidSet);
        }
        self.wipe_all(turn);
        for id in self.command.secrets().into_iter().flatten() {
            turn.push(Deed::Wipe(id));
        }
        turn.push(Deed::End(answer));
        self.note_change();
        Outcome::Transition(State::Ended)
    }

    /// No card stays held, and no reader waits for anybody any more.
    fn let_go(&mut self, turn: &mut CeremonyTurn<'_>) {
        self.visit.card = None;
        turn.push(Deed::Session(self.visit.reader, SessionOrder::Cancel));
        let source = self.facts.reader;
        if source != self.visit.reader {
            turn.push(Deed::Session(source, SessionOrder::Cancel));
        }
    }

    /// Wipes what the ceremony made and read; what was ordered with it is the order's.
    fn wipe_all(&mut self, turn: &mut CeremonyTurn<'_>) {
        self.wipe_gathered(turn);
        let dealt = self.dealt.iter_mut().filter_map(|share| share.y.take());
        let single = [
            self.seed.take(),
            self.secret.take(),
            self.present.take(),
            self.new.take(),
            self.visit.y.take(),
            self.visit.y_back.take(),
        ];
        for id in dealt.chain(single.into_iter().flatten()) {
            turn.push(Deed::Wipe(id));
        }
    }

    fn wipe_gathered(&mut self, turn: &mut CeremonyTurn<'_>) {
        let shares: heapless::Vec<SecretId, { crate::limits::SHARES_MAX }> =
            self.gathered.iter_mut().filter_map(|share| share.y.take()).collect();
        for id in shares {
            turn.push(Deed::Wipe(id));
        }
    }
}
