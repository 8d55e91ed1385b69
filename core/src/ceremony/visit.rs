//! A card from its insertion to its removal: what it may be used for, and what is read from it.

use statig::Outcome;

use super::order::kind_of;
use super::{After, BUG_NOTHING_HELD, CardFacts, CardNote, CeremonyTurn, Deed, LET_GO, Noted, Purpose, Question};
use super::{Rules, Share, State, Task, Visit};
use crate::audit::AuditEvent;
use crate::card::ProfileId;
use crate::card::session::{CardProblem, HeldCard, SessionOrder};
use crate::card::sets::{Fate, Standing};
use crate::fault::Refusal;
use crate::limits::COPIES_MAX;
use crate::person::PersonId;
use crate::share::record::{RecordProblem, ShareHeader, SignedHeader};

impl Rules {
    /// Waits for a card.
    pub(super) fn visit(&mut self, turn: &mut CeremonyTurn<'_>, purpose: Purpose, x: u8) -> Outcome<State> {
        let reader = match purpose {
            Purpose::CopyTarget => self.facts.target,
            Purpose::Gather | Purpose::Deal | Purpose::ChangePin | Purpose::CopySource | Purpose::Erase => {
                self.facts.reader
            }
        };
        self.visit = Visit::at(purpose, reader, x);
        self.insert(turn)
    }

    /// Waits for the card of this visit, again.
    pub(super) fn insert(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        if self.setbacks > SETBACKS_MAX {
            return self.refuse(turn, Refusal::CeremonyGivenUp);
        }
        self.visit.card = None;
        self.visit.last_try_agreed = false;
        let credential = self.facts.credential;
        turn.push(Deed::Session(self.visit.reader, SessionOrder::Identify { credential }));
        Outcome::Transition(State::Inserting)
    }

    /// Who is wanted at the reader.
    pub(super) fn wanted(&self) -> Option<PersonId> {
        match self.visit.purpose {
            Purpose::Deal => self.holder(),
            Purpose::ChangePin => match self.task() {
                Some(Task::Reassign { to, .. }) => Some(to),
                _ => self.visit.facts.holder,
            },
            Purpose::Gather | Purpose::CopySource | Purpose::CopyTarget | Purpose::Erase => self.visit.facts.holder,
        }
    }

    /// To whom the share goes that is written now.
    pub(super) fn holder(&self) -> Option<PersonId> {
        let place = usize::from(self.visit.x).checked_sub(1)?;
        self.facts.make?.holders.persons().get(place).copied()
    }

    /// A card is there: whether it is the right one is said before a PIN is asked for.
    pub(super) fn identified(
        &mut self,
        turn: &mut CeremonyTurn<'_>,
        card: HeldCard,
        facts: CardFacts,
    ) -> Outcome<State> {
        self.human_steps = self.human_steps.saturating_add(1);
        (self.visit.card, self.visit.facts) = (Some(card), facts);
        if self.visit.expected.is_some_and(|expected| expected != card.serial) {
            return self.reject(turn, Refusal::CardNotExpected);
        }
        if self.visit.about != Some(card.serial) {
            // What was agreed to, seen and done is about the card before it.
            let Visit { purpose, reader, x, repeats, .. } = self.visit;
            self.visit =
                Visit { card: Some(card), facts, about: Some(card.serial), repeats, ..Visit::at(purpose, reader, x) };
        }
        // A PIN that was changed in this visit is known to be, whatever else went wrong since.
        self.visit.facts.pin_changed |= self.visit.changed;
        self.visit.occupied = match card.profile {
            ProfileId::Iso7816Files => card.place.is_some(),
            ProfileId::OpenPgp => facts.standing.is_some(),
        };
        if let Err(refusal) = self.check_card(&card) {
            return self.reject(turn, refusal);
        }
        if self.must_ask_to_overwrite() {
            return self.ask(turn, Question::Overwrite);
        }
        self.ask_for_pin(turn)
    }

    /// Whether this card may be used for what the visit is for, as far as it says without a PIN.
    fn check_card(&self, card: &HeldCard) -> Result<(), Refusal> {
        let Visit { purpose, facts, torn, .. } = self.visit;
        if card.tries_left == Some(0) {
            return Err(Refusal::CardBlocked);
        }
        if facts.lost {
            return Err(Refusal::CardDeclaredLost);
        }
        let keeps = matches!(purpose, Purpose::Deal | Purpose::CopyTarget | Purpose::ChangePin);
        if keeps && facts.no_room {
            return Err(Refusal::TooManyCards);
        }
        let read = self.gathered.iter().any(|share| share.serial == card.serial);
        let written = self.dealt.iter().any(|share| share.serial == card.serial);
        match purpose {
            Purpose::Gather if read => Err(Refusal::CardRepeated),
            Purpose::Gather | Purpose::CopySource => match (card.header, facts.standing) {
                (Some(header), Some(standing)) => self.check_header(&header, standing),
                (None, _) if card.profile == ProfileId::Iso7816Files && card.place.is_none() => Err(Refusal::CardBlank),
                (Some(_) | None, _) => Ok(()),
            },
            Purpose::CopyTarget if read => Err(Refusal::CardIsSource),
            Purpose::Deal | Purpose::CopyTarget if written => Err(Refusal::CardRepeated),
            // Written and torn: it is this very share that is written once more.
            Purpose::Deal | Purpose::CopyTarget if facts.in_force && !torn => Err(Refusal::CardOfSet),
            Purpose::Erase if facts.only_quorum => Err(Refusal::WouldBreakQuorum),
            Purpose::Deal | Purpose::CopyTarget | Purpose::ChangePin | Purpose::Erase => Ok(()),
        }
    }

    /// Whether a share that says this of itself belongs to what is gathered or copied.
    fn check_header(&self, header: &ShareHeader, standing: Standing) -> Result<(), Refusal> {
        if header.kind != kind_of(self.facts.credential) {
            return Err(Refusal::CardOtherKind);
        }
        let named = match standing {
            Standing::Former(Fate::Void) | Standing::Next => Refusal::CardVoid,
            Standing::Former(Fate::Superseded | Fate::Rotated) => Refusal::CardSuperseded,
            Standing::Unknown | Standing::Foreign | Standing::Current => Refusal::CardForeign,
        };
        let fits = match (self.task(), self.facts.gather) {
            (Some(Task::Copy { .. }), _) => standing == Standing::Current,
            // Any set of the same key brings the key back, whatever became of the set since.
            (Some(Task::RestoreKey { .. }), Some(set)) => {
                let usable = matches!(standing, Standing::Current | Standing::Former(Fate::Superseded));
                usable && header.key_id == set.key_id
            }
            // Whatever became of the set since: what it opened once it opens still.
            (Some(Task::Restore { key_id, .. } | Task::VerifyFile { key_id, .. }), _) => {
                !matches!(standing, Standing::Former(Fate::Void) | Standing::Next) && header.key_id == key_id
            }
            (Some(Task::RestoreKey { key_id, .. }), None) => {
                let never_was = matches!(standing, Standing::Former(Fate::Void) | Standing::Next);
                !never_was && key_id.is_none_or(|key_id| key_id == header.key_id)
            }
            (Some(_) | None, _) => self.facts.candidates().any(|set| set.id == header.set_id),
        };
        if !fits {
            return Err(named);
        }
        if self.first.is_some_and(|first| first.set_id != header.set_id) {
            return Err(Refusal::CardOfOtherSet);
        }
        if self.gathered.iter().any(|share| share.x == header.x) {
            return Err(Refusal::CardRepeated);
        }
        Ok(())
    }

    /// Whether somebody has to agree that what is on the card is lost.
    fn must_ask_to_overwrite(&self) -> bool {
        let writes = matches!(self.visit.purpose, Purpose::Deal | Purpose::CopyTarget);
        let never_was = matches!(self.visit.facts.standing, Some(Standing::Next | Standing::Former(Fate::Void)));
        writes && self.visit.occupied && !never_was && !self.visit.agreed && !self.facts.overwrite
    }

    /// The PIN was accepted: read, or write.
    pub(super) fn unlocked(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        let Some(card) = self.visit.card else { return self.bug(turn) };
        match self.visit.purpose {
            Purpose::Gather | Purpose::CopySource => self.read(turn),
            // Such a card says what is on it only now.
            Purpose::Deal | Purpose::CopyTarget | Purpose::Erase
                if card.profile == ProfileId::OpenPgp && !self.visit.looked =>
            {
                self.visit.looked = true;
                self.read(turn)
            }
            Purpose::Deal => self.prepare_share(turn),
            Purpose::CopyTarget => self.write_copy(turn),
            Purpose::Erase => {
                // Before it is done: a card that cannot be counted on is not counted.
                turn.push(Deed::Note(self.note(&card, Noted::Erased)));
                turn.push(Deed::Session(self.visit.reader, SessionOrder::Erase));
                Outcome::Transition(State::Erasing)
            }
            Purpose::ChangePin => self.finish_visit(turn),
        }
    }

    fn read(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        let y = match self.visit.y_back {
            Some(y) => y,
            None => match turn.secrets.reserve() {
                Ok(y) => y,
                Err(refusal) => return self.refuse(turn, refusal),
            },
        };
        self.visit.y_back = Some(y);
        turn.push(Deed::Session(self.visit.reader, SessionOrder::Read { y }));
        Outcome::Transition(State::Reading)
    }

    /// The record was read: judged alone, kept with those before.
    pub(super) fn record_read(
        &mut self,
        turn: &mut CeremonyTurn<'_>,
        read: Result<SignedHeader, RecordProblem>,
        standing: Option<Standing>,
    ) -> Outcome<State> {
        match self.visit.purpose {
            Purpose::Gather | Purpose::CopySource => {
                let record = match read {
                    Ok(record) => record,
                    Err(problem) => return self.reject(turn, named(problem)),
                };
                let standing = standing.unwrap_or(Standing::Foreign);
                if let Err(refusal) = self.check_header(&record.header, standing) {
                    return self.reject(turn, refusal);
                }
                if self.visit.purpose == Purpose::CopySource
                    && usize::from(self.visit.facts.cards_of_share) >= COPIES_MAX
                {
                    return self.reject(turn, Refusal::TooManyCopies);
                }
                self.keep(turn, record, standing)
            }
            // Only looked at: whether something is there that somebody may miss.
            Purpose::Deal | Purpose::CopyTarget => {
                self.forget(turn, |visit| visit.y_back.take());
                self.visit.facts.standing = standing.filter(|_| read.is_ok());
                self.visit.occupied = read != Err(RecordProblem::Missing);
                if let Err(refusal) = self.check_found(read) {
                    return self.reject(turn, refusal);
                }
                if self.must_ask_to_overwrite() {
                    return self.ask(turn, Question::Overwrite);
                }
                self.unlocked(turn)
            }
            // One place for all credentials: what is there may be another's.
            Purpose::Erase => {
                self.forget(turn, |visit| visit.y_back.take());
                match read {
                    Ok(record) if record.header.kind != kind_of(self.facts.credential) => {
                        self.reject(turn, Refusal::CardOtherKind)
                    }
                    Ok(_) | Err(_) => self.unlocked(turn),
                }
            }
            Purpose::ChangePin => self.bug(turn),
        }
    }

    /// Whether what is on a card that is to be written lets it be.
    fn check_found(&self, read: Result<SignedHeader, RecordProblem>) -> Result<(), Refusal> {
        match (read, self.visit.facts.standing) {
            (Ok(_), Some(Standing::Current)) if !self.visit.torn => Err(Refusal::CardOfSet),
            (Ok(_) | Err(_), _) => Ok(()),
        }
    }

    fn keep(&mut self, turn: &mut CeremonyTurn<'_>, record: SignedHeader, standing: Standing) -> Outcome<State> {
        let (Some(card), Some(y)) = (self.visit.card, self.visit.y_back.take()) else { return self.bug(turn) };
        let header = record.header;
        self.first.get_or_insert(header);
        if self.gathered.push(Share { x: header.x, serial: card.serial, y: Some(y) }).is_err() {
            turn.push(Deed::Wipe(y));
            return self.bug(turn);
        }
        if self.visit.purpose == Purpose::CopySource {
            let room = COPIES_MAX.saturating_sub(usize::from(self.visit.facts.cards_of_share.max(1)));
            self.copied = Some((record, self.visit.facts.holder, u8::try_from(room).unwrap_or(0)));
        }
        // Where no set is known, this one may become it.
        let adopted = self.facts.gather.is_none() && matches!(self.task(), Some(Task::RestoreKey { .. }));
        if adopted || !matches!(standing, Standing::Foreign | Standing::Unknown) {
            turn.push(Deed::Note(self.note(&card, Noted::Verified(header))));
        }
        turn.push(Deed::Journal(self.visit.facts.holder, AuditEvent::CardRead { x: header.x }));
        self.finish_visit(turn)
    }

    /// The visit went well: the card is to be taken out. A source at a reader of its own may stay.
    pub(super) fn finish_visit(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        self.visits_done = self.visits_done.saturating_add(1);
        (self.last, self.setbacks) = (None, 0);
        turn.push(Deed::Session(self.visit.reader, LET_GO));
        if self.visit.purpose == Purpose::CopySource && self.facts.reader != self.facts.target {
            return self.visit(turn, Purpose::CopyTarget, 0);
        }
        Outcome::Transition(State::Removing { after: After::Next })
    }

    /// This card does not do: it is taken out, and the visit begins anew.
    pub(super) fn reject(&mut self, turn: &mut CeremonyTurn<'_>, refusal: Refusal) -> Outcome<State> {
        self.set_back(refusal);
        self.note_change();
        turn.push(Deed::Journal(None, AuditEvent::CardRefused(refusal)));
        self.forget(turn, |visit| visit.y.take());
        self.forget(turn, |visit| visit.y_back.take());
        turn.push(Deed::Session(self.visit.reader, LET_GO));
        Outcome::Transition(State::Removing { after: After::Again })
    }

    /// The card was taken out.
    pub(super) fn removed(&mut self, turn: &mut CeremonyTurn<'_>, after: After) -> Outcome<State> {
        self.human_steps = self.human_steps.saturating_add(1);
        self.visit.card = None;
        match after {
            After::Next => self.next(turn),
            After::Again => {
                let Visit { purpose, reader, x, about, expected, torn, changed, resolving, .. } = self.visit;
                self.visit = Visit { about, expected, torn, changed, resolving, ..Visit::at(purpose, reader, x) };
                self.insert(turn)
            }
        }
    }

    /// A step at the reader did not succeed.
    pub(super) fn failed(&mut self, turn: &mut CeremonyTurn<'_>, problem: CardProblem) -> Outcome<State> {
        let serial = self.visit.card.map(|card| card.serial);
        match problem {
            CardProblem::NotInserted | CardProblem::NotRemoved => self.refuse(turn, Refusal::CeremonyTimedOut),
            CardProblem::ReaderGone => self.refuse(turn, Refusal::ReaderLost),
            CardProblem::Unanswered => self.refuse(turn, Refusal::ReaderSilent),
            CardProblem::NotNow => self.refuse(turn, Refusal::ReaderBusy),
            // The step is repeated, with the same card.
            CardProblem::CardGone => self.repeat(turn, Refusal::CardPulled),
            CardProblem::TornWrite => {
                self.visit.expected = serial;
                self.visit.torn = true;
                self.repeat(turn, Refusal::CardTornWrite)
            }
            CardProblem::InUse => {
                self.set_back(Refusal::CardInUse);
                self.ask(turn, Question::Again)
            }
            CardProblem::UnknownCard => self.reject(turn, Refusal::CardUnknown),
            CardProblem::NoSerial => self.reject(turn, Refusal::CardWithoutSerial),
            CardProblem::ReadBackDiffers => self.reject(turn, Refusal::CardReadBackDiffers),
            CardProblem::Status(0x6A84) => self.reject(turn, Refusal::CardFull),
            CardProblem::Status(_) | CardProblem::Transport => self.reject(turn, Refusal::CardFaulty),
        }
    }

    /// The card went in the middle of a step: it is waited for again.
    pub(super) fn repeat(&mut self, turn: &mut CeremonyTurn<'_>, refusal: Refusal) -> Outcome<State> {
        self.visit.repeats = self.visit.repeats.saturating_add(1);
        if self.visit.repeats > REPEATS_MAX {
            return self.reject(turn, refusal);
        }
        self.set_back(refusal);
        self.note_change();
        turn.push(Deed::Journal(None, AuditEvent::CardRefused(refusal)));
        self.forget(turn, |visit| visit.y.take());
        self.forget(turn, |visit| visit.y_back.take());
        self.insert(turn)
    }

    /// A card, a PIN or a reader did not do.
    pub(super) fn set_back(&mut self, refusal: Refusal) {
        self.last = Some(refusal);
        self.setbacks = self.setbacks.saturating_add(1);
    }

    /// Wipes a secret of the visit.
    pub(super) fn forget(
        &mut self,
        turn: &mut CeremonyTurn<'_>,
        take: impl FnOnce(&mut Visit) -> Option<crate::safe::SecretId>,
    ) {
        if let Some(id) = take(&mut self.visit) {
            turn.push(Deed::Wipe(id));
        }
    }

    /// What becomes known of the card that is held.
    pub(super) fn note(&self, card: &HeldCard, what: Noted) -> CardNote {
        CardNote { serial: card.serial, credential: self.facts.credential, profile: card.profile, what }
    }

    pub(super) fn bug(&mut self, turn: &mut CeremonyTurn<'_>) -> Outcome<State> {
        turn.bug.get_or_insert(BUG_NOTHING_HELD);
        Outcome::Handled
    }
}

/// Steps that are begun again without anybody taking the card out. A reader that loses a card
/// time and again would otherwise keep the ceremony busy for ever.
const REPEATS_MAX: u8 = 3;

/// What may go wrong in a row before a ceremony ends (P29): whoever brings one wrong card after the
/// other would otherwise keep everybody else from theirs for hours, and fill the store with its lines.
pub(super) const SETBACKS_MAX: u8 = 64;

/// A record that is none, as people are told it.
const fn named(problem: RecordProblem) -> Refusal {
    match problem {
        RecordProblem::Missing => Refusal::CardBlank,
        RecordProblem::NotOurs => Refusal::CardNotOurs,
        RecordProblem::Newer => Refusal::CardNewer,
        RecordProblem::Malformed | RecordProblem::Forged => Refusal::CardForged,
    }
}
