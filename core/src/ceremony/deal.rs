//! A new set: drawn, made, written card by card, read back, rehearsed before it counts (P13).

use statig::Outcome;

use super::order::header_of;
use super::{CeremonyTurn, Deed, Judged, MadeSet, Noted, Part, Purpose, Question, Rules, Share, Shares, State, Task};
use crate::audit::AuditEvent;
use crate::card::session::SessionOrder;
use crate::card::sets::CardSet;
use crate::fault::Refusal;
use crate::limits::PLATFORM_DEADLINE_MS;
use crate::safe::SecretId;
use crate::share::record::SignedHeader;

impl Rules {
    /// The first thing to do.
    pub(super) fn begin(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        match self.task() {
            Some(Task::CreateSet { .. } | Task::Rotate { .. }) => self.draw(turn, Part::Seed),
            Some(Task::ChangePin { .. } | Task::Reassign { .. }) => self.visit(turn, Purpose::ChangePin, 0),
            Some(Task::Copy { .. }) => self.visit(turn, Purpose::CopySource, 0),
            Some(Task::Erase { .. }) => self.visit(turn, Purpose::Erase, 0),
            Some(
                Task::VerifySet
                | Task::VerifyFile { .. }
                | Task::RestoreKey { .. }
                | Task::Restore { .. }
                | Task::ReplaceSet { .. },
            ) => self.visit(turn, Purpose::Gather, 0),
            None if self.facts.gather.is_some() => self.visit(turn, Purpose::Gather, 0),
            None => self.draw(turn, Part::Seed),
        }
    }

    /// What follows when a card that did its part was taken out.
    pub(super) fn next(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        match self.visit.purpose {
            Purpose::Gather => self.next_to_read(turn),
            Purpose::Deal if self.visit.x < self.facts.make.map_or(0, |set| set.quorum.n()) => {
                let x = self.visit.x.saturating_add(1);
                self.visit(turn, Purpose::Deal, x)
            }
            Purpose::Deal => self.rehearse(turn),
            Purpose::CopySource => self.visit(turn, Purpose::CopyTarget, 0),
            Purpose::CopyTarget if self.copies_left() => self.ask(turn, Question::AnotherCopy),
            Purpose::CopyTarget => self.finish(turn),
            Purpose::ChangePin | Purpose::Erase => self.finish(turn),
        }
    }

    /// Whether one more card may hold the share that is copied.
    fn copies_left(&self) -> bool {
        self.copied.is_some_and(|(_, _, room)| self.dealt.len() < usize::from(room))
    }

    fn next_to_read(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        let read = u8::try_from(self.gathered.len()).unwrap_or(u8::MAX);
        let (m, n) = self.first.map_or((1, 1), |first| (first.m, first.n));
        if self.task() == Some(Task::VerifySet) {
            // Any number of them: each was checked alone.
            return if read < n { self.ask(turn, Question::AnotherCard) } else { self.gathered_enough(turn) };
        }
        // Only people can tell whose key it is, and nothing else would stop cards of strangers.
        let unnamed = matches!(self.task(), Some(Task::RestoreKey { key_id: None, .. })) && self.facts.gather.is_none();
        if unnamed && !self.adopted {
            return self.ask(turn, Question::AdoptKey);
        }
        if read < m { self.visit(turn, Purpose::Gather, 0) } else { self.gathered_enough(turn) }
    }

    pub(super) fn draw(&mut self, turn: &mut CeremonyTurn<'_>, part: Part) -> Outcome<State> {
        let id = match turn.secrets.reserve() {
            Ok(id) => id,
            Err(refusal) => return self.refuse(turn, refusal),
        };
        match part {
            Part::Seed => self.seed = Some(id),
            Part::Secret => self.secret = Some(id),
        }
        turn.push(Deed::Draw(id));
        self.due_ms = turn.now.after_ms(PLATFORM_DEADLINE_MS);
        Outcome::Transition(State::Drawing { part })
    }

    pub(super) fn drawn(&mut self, turn: &mut CeremonyTurn<'_>, part: Part) -> Outcome<State> {
        if part == Part::Seed && self.facts.fresh_secret {
            return self.draw(turn, Part::Secret);
        }
        let (Some(seed), Some(secret)) = (self.seed, self.secret) else { return self.bug(turn) };
        turn.push(Deed::Make { seed, secret, fresh: self.facts.fresh_secret });
        Outcome::Transition(State::Judging { what: Judged::Set })
    }

    /// The set has its name: it is recorded as being made before a card is written.
    pub(super) fn set_made(&mut self, turn: &mut CeremonyTurn<'_>, made: MadeSet) -> Outcome<State> {
        let Some(planned) = self.facts.make else { return self.bug(turn) };
        let set = CardSet { id: made.set_id, key_id: made.key_id, ..planned };
        self.made = Some(set);
        self.begun_set = true;
        turn.push(Deed::BeginSet(set));
        turn.push(Deed::Journal(None, AuditEvent::CardSetBegun { generation: set.generation }));
        self.visit(turn, Purpose::Deal, 1)
    }

    /// The share for the card that is held.
    pub(super) fn prepare_share(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        let (Some(seed), Some(secret), Some(set)) = (self.seed, self.secret, self.made) else { return self.bug(turn) };
        let y = match self.place(turn, |visit| visit.y) {
            Ok(y) => y,
            Err(refusal) => return self.refuse(turn, refusal),
        };
        self.visit.y = Some(y);
        let header = header_of(&set, self.facts.credential, self.facts.subject, self.visit.x);
        turn.push(Deed::Share { seed, secret, header, y });
        Outcome::Transition(State::Judging { what: Judged::Share })
    }

    pub(super) fn share_ready(&mut self, turn: &mut CeremonyTurn<'_>, record: Option<SignedHeader>) -> Outcome<State> {
        match (record, self.visit.y) {
            (Some(record), Some(y)) => self.write(turn, record, y),
            (_, _) => self.bug(turn),
        }
    }

    /// The record of the source, byte for byte (P14).
    pub(super) fn write_copy(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        match (self.copied, self.gathered.first().and_then(|source| source.y)) {
            (Some((record, ..)), Some(y)) => self.write(turn, record, y),
            (_, _) => self.bug(turn),
        }
    }

    fn write(&mut self, turn: &mut CeremonyTurn<'_>, record: SignedHeader, y: SecretId) -> Outcome<State> {
        let y_back = match self.place(turn, |visit| visit.y_back) {
            Ok(y_back) => y_back,
            Err(refusal) => return self.refuse(turn, refusal),
        };
        (self.visit.record, self.visit.y_back) = (Some(record), Some(y_back));
        turn.push(Deed::Session(self.visit.reader, SessionOrder::Write { record, y, y_back }));
        Outcome::Transition(State::Writing)
    }

    pub(super) fn written(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        let written = match self.visit.purpose {
            Purpose::CopyTarget => self.gathered.first().and_then(|source| source.y),
            Purpose::Gather | Purpose::Deal | Purpose::ChangePin | Purpose::CopySource | Purpose::Erase => self.visit.y,
        };
        let (Some(y), Some(y_back)) = (written, self.visit.y_back) else { return self.bug(turn) };
        turn.push(Deed::Same(y, y_back));
        Outcome::Transition(State::Judging { what: Judged::ReadBack })
    }

    pub(super) fn read_back(&mut self, turn: &mut CeremonyTurn<'_>, same: bool) -> Outcome<State> {
        if !same {
            return self.reject(turn, Refusal::CardReadBackDiffers);
        }
        let (Some(card), Some(record), Some(y_back)) = (self.visit.card, self.visit.record, self.visit.y_back.take())
        else {
            return self.bug(turn);
        };
        let header = record.header;
        let (holder, kept) = match self.copied {
            // A copy is of its source's holder, and is needed no more.
            Some((_, holder, _)) => {
                turn.push(Deed::Wipe(y_back));
                (holder, None)
            }
            None => (self.holder(), Some(y_back)),
        };
        self.forget(turn, |visit| visit.y.take());
        turn.push(Deed::Note(self.note(&card, Noted::Written { header, holder })));
        turn.push(Deed::Journal(holder, AuditEvent::CardWritten { x: header.x }));
        if self.dealt.push(Share { x: header.x, serial: card.serial, y: kept }).is_err() {
            if let Some(id) = kept {
                turn.push(Deed::Wipe(id));
            }
            return self.refuse(turn, Refusal::TooManyCopies);
        }
        self.finish_visit(turn)
    }

    fn rehearse(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        let Some(set) = self.made else { return self.bug(turn) };
        turn.push(Deed::Rehearse { shares: shares(&self.dealt), m: set.quorum.m(), key_id: set.key_id });
        Outcome::Transition(State::Judging { what: Judged::Rehearsal })
    }

    /// Enough cards were read: the secret is put together.
    pub(super) fn gathered_enough(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        let Some(first) = self.first else { return self.bug(turn) };
        if self.gathered.len() < usize::from(first.m) {
            // Cards were only verified, each alone.
            return self.finish(turn);
        }
        let into = match turn.secrets.reserve() {
            Ok(into) => into,
            Err(refusal) => return self.refuse(turn, refusal),
        };
        self.secret = Some(into);
        let shares = shares(&self.gathered);
        turn.push(Deed::Combine { shares, m: first.m, key_id: first.key_id, into });
        Outcome::Transition(State::Judging { what: Judged::Secret })
    }

    /// A place for a secret of the visit: the one it has, or a new one.
    fn place(
        &mut self,
        turn: &mut CeremonyTurn<'_>,
        has: impl FnOnce(&super::Visit) -> Option<SecretId>,
    ) -> Result<SecretId, Refusal> {
        match has(&self.visit) {
            Some(id) => Ok(id),
            None => turn.secrets.reserve(),
        }
    }
}

/// The shares whose y is still there.
fn shares(kept: &[Share]) -> Shares {
    kept.iter().filter_map(|share| share.y.map(|y| (share.x, y))).collect()
}
