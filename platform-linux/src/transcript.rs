//! The transcript of a ceremony as it is read back: followed, checked, told in plain words.
//!
//! Lines and their chain are the core's (`slotwarden_core::ceremony::transcript`); the node
//! signs the end of the chain. Whoever reads one checks both anew, from the lines alone. No
//! line can hold a PIN or a byte of a share: events carry none. What a verdict was about, and
//! what an answer answered, is told by running the ceremony again from its lines.
//!
//! A transcript without an end is of a ceremony that is under way, or that a power cut ended.

mod words;

use ed25519_dalek::{Signature, VerifyingKey};
use slotwarden_core::audit::CeremonyEnd;
use slotwarden_core::card::session::SessionReport;
use slotwarden_core::card::{CardSerial, ReaderId};
use slotwarden_core::ceremony::event::MadeSet;
use slotwarden_core::ceremony::transcript::{Entry, Line, replay, signed_message};
use slotwarden_core::ceremony::{CeremonyEvent, CeremonyId, Facts, State};
use slotwarden_core::command::Command;
use slotwarden_core::person::PersonId;

use crate::audit::hex;
use crate::devices::{ReaderView, TranscriptEnd};
use crate::names::Names;

pub use words::end_words;

/// What the chain of every transcript begins with.
pub const BEGINNING: [u8; 32] = [0; 32];

/// The end of the chain of these lines.
#[must_use]
pub fn head(lines: &[Line]) -> [u8; 32] {
    lines.iter().fold(BEGINNING, |head, line| line.hash(&head))
}

/// Whether the node with this key signed this end of this ceremony's transcript.
#[must_use]
pub fn is_signed(id: CeremonyId, end: &TranscriptEnd, node: &[u8; 32]) -> bool {
    let Ok(node) = VerifyingKey::from_bytes(node) else { return false };
    node.verify_strict(&signed_message(id, &end.head), &Signature::from_bytes(&end.signature)).is_ok()
}

/// What a signature under a transcript says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The lines are those that the node signed.
    Signed,
    /// There is no signature: it is under way, or a power cut ended it.
    Unsigned,
    /// The signature is of other lines, or of another node.
    Wrong,
}

impl Standing {
    /// Of these lines.
    #[must_use]
    pub fn of(id: CeremonyId, lines: &[Line], end: Option<&TranscriptEnd>, node: &[u8; 32]) -> Self {
        match end {
            None => Standing::Unsigned,
            Some(end) if end.head == head(lines) && is_signed(id, end, node) => Standing::Signed,
            Some(_) => Standing::Wrong,
        }
    }

    /// The word, for scripts.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Standing::Signed => "signed",
            Standing::Unsigned => "unsigned",
            Standing::Wrong => "wrong",
        }
    }
}

/// Names of persons, slots and readers, as they are now.
#[derive(Clone, Copy, Debug)]
pub struct Named<'n> {
    /// Persons and slots.
    pub names: &'n Names,
    /// Readers.
    pub readers: &'n [ReaderView],
}

impl Named<'_> {
    /// The name of a reader.
    #[must_use]
    pub fn reader(&self, reader: ReaderId) -> String {
        reader_name(self.readers, reader)
    }

    fn person(&self, who: PersonId) -> String {
        self.names.person_name(who)
    }
}

/// The name that PC/SC gives a reader.
#[must_use]
pub fn reader_name(readers: &[ReaderView], reader: ReaderId) -> String {
    let found = readers.iter().find(|found| found.number == Some(reader.0));
    found.map_or_else(|| format!("reader {}", reader.0), |found| found.name.clone())
}

/// One line as people read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whose card it was, or who acted.
    pub who: Option<String>,
    /// The card that was at the reader.
    pub card: Option<String>,
    /// Which share.
    pub share: Option<u8>,
    /// What happened.
    pub sentence: String,
}

/// A transcript as people read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// What was ordered, and what it relied on; `None`: the first line is not a beginning.
    pub begun: Option<(Command, Box<Facts>)>,
    /// The set that was made.
    pub made: Option<MadeSet>,
    /// Those who acted at the console besides whoever began it.
    pub others: Vec<String>,
    /// How it ended, and how many steps people made.
    pub ended: Option<(CeremonyEnd, u16)>,
    /// One for each line.
    pub lines: Vec<Told>,
}

impl Account {
    /// Of these lines.
    #[must_use]
    pub fn of(id: CeremonyId, lines: &[Line], named: Named<'_>) -> Self {
        let mut account = Account { begun: None, made: None, others: Vec::new(), ended: None, lines: Vec::new() };
        let mut seats: Vec<(ReaderId, Seat)> = Vec::new();
        for (place, line) in lines.iter().enumerate() {
            let told = match &line.entry {
                Entry::Begun { command, facts } => {
                    account.begun.get_or_insert_with(|| (*command, Box::new(*facts)));
                    Told {
                        who: Some(named.person(facts.starter)),
                        card: None,
                        share: None,
                        sentence: "it was begun".to_owned(),
                    }
                }
                Entry::Event(event) => {
                    // Only these two are not told by the event alone.
                    let asks = matches!(event, CeremonyEvent::Verdict(_) | CeremonyEvent::Answered { .. });
                    let state = if asks { replay(id, &lines[..place]).ok().map(|(state, _)| state) } else { None };
                    account.event(event, state, &mut seats, named)
                }
                Entry::Ended { end, human_steps } => {
                    account.ended = Some((*end, *human_steps));
                    Told { who: None, card: None, share: None, sentence: end_words(*end) }
                }
            };
            account.lines.push(told);
        }
        account.name_holders(lines, named);
        account
    }

    /// A new card is the one's for whom its share was made, also before that is on it.
    fn name_holders(&mut self, lines: &[Line], named: Named<'_>) {
        let Some(set) = self.begun.as_ref().and_then(|(_, facts)| facts.make) else { return };
        let mut holders: Vec<(String, String)> = Vec::new();
        for (line, told) in lines.iter().zip(&self.lines) {
            let (Entry::Event(CeremonyEvent::ShareReady(Some(record))), Some(card)) = (&line.entry, &told.card) else {
                continue;
            };
            let place = usize::from(record.header.x).checked_sub(1);
            if let Some(who) = place.and_then(|place| set.holders.persons().get(place)) {
                holders.push((card.clone(), named.person(*who)));
            }
        }
        for told in self.lines.iter_mut().filter(|told| told.who.is_none()) {
            let found = holders.iter().find(|(card, _)| Some(card) == told.card.as_ref());
            told.who = found.map(|(_, holder)| holder.clone());
        }
    }

    fn event(
        &mut self,
        event: &CeremonyEvent,
        state: Option<State>,
        seats: &mut Vec<(ReaderId, Seat)>,
        named: Named<'_>,
    ) -> Told {
        let sentence = words::event_words(event, state, named);
        if let CeremonyEvent::Made(Ok(made)) = event {
            self.made = Some(*made);
        }
        let acted = match event {
            CeremonyEvent::Answered { who, .. } | CeremonyEvent::CancelOrdered { who: Some(who) } => Some(*who),
            _ => None,
        };
        if let Some(who) = acted {
            let starter = self.begun.as_ref().map(|(_, facts)| facts.starter);
            let name = named.person(who);
            if starter != Some(who) && !self.others.contains(&name) {
                self.others.push(name.clone());
            }
            return Told { who: Some(name), card: None, share: None, sentence };
        }
        let at = match event {
            CeremonyEvent::Identified(reader, ..)
            | CeremonyEvent::RecordRead(reader, ..)
            | CeremonyEvent::Reported(reader, _) => Some(*reader),
            _ => seats.last().map(|(reader, _)| *reader).filter(|_| matches!(event, CeremonyEvent::ShareReady(_))),
        };
        let Some(at) = at else { return Told { who: None, card: None, share: None, sentence } };
        // The last one that was used stands last.
        let mut seat = match seats.iter().position(|(reader, _)| *reader == at) {
            Some(place) => seats.remove(place).1,
            None => Seat::default(),
        };
        match event {
            CeremonyEvent::Identified(_, card, facts) => {
                seat =
                    Seat { card: Some(card.serial), holder: facts.holder, share: card.header.map(|header| header.x) };
            }
            CeremonyEvent::RecordRead(_, Ok(record), _) | CeremonyEvent::ShareReady(Some(record)) => {
                seat.share = Some(record.header.x);
            }
            _ => {}
        }
        let told = Told {
            who: seat.holder.map(|who| named.person(who)),
            card: seat.card.map(|serial| serial.to_string()),
            share: seat.share,
            sentence,
        };
        if matches!(event, CeremonyEvent::Reported(_, SessionReport::Removed)) {
            seat = Seat::default();
        }
        seats.push((at, seat));
        told
    }
}

/// The card at one reader.
#[derive(Clone, Copy, Debug, Default)]
struct Seat {
    card: Option<CardSerial>,
    holder: Option<PersonId>,
    share: Option<u8>,
}

/// The parameters of a ceremony beside its order: key and sets.
#[must_use]
pub fn parameters(account: &Account) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let Some((_, facts)) = &account.begun else { return found };
    if let Some(set) = &facts.gather {
        found.push(("cards read are of", set_words(&set.id, set.generation, set.quorum.m(), set.quorum.n())));
        found.push(("key id", hex(&set.key_id)));
    }
    if let Some(set) = &facts.make {
        let id = account.made.map_or([0; 16], |made| made.set_id);
        let named = if account.made.is_some() {
            set_words(&id, set.generation, set.quorum.m(), set.quorum.n())
        } else {
            format!("{} of {}, generation {}; it was not made", set.quorum.m(), set.quorum.n(), set.generation)
        };
        found.push(("cards written are of", named));
        if let Some(made) = account.made {
            found.push(("key id of the new cards", hex(&made.key_id)));
        }
        if !set.split_knowledge {
            found.push(("", "not under split knowledge: one person alone decided, or had several shares".to_owned()));
        }
    }
    found
}

fn set_words(id: &[u8; 16], generation: u32, m: u8, n: u8) -> String {
    format!("set {} ({m} of {n}, generation {generation})", hex(id))
}
