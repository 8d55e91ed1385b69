//! The transcript of a ceremony: what was ordered, what happened, how it ended.
//!
//! Without secrets: events carry none. Each line joins a chain of hashes; the node signs its
//! end. The lines alone replay to the state in which the ceremony was (P38). A transcript
//! without an end is of a ceremony that a power cut ended: nothing of it is in force but what
//! its lines say.

use heapless::Vec;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::event::CeremonyEvent;
use super::order::{CeremonyId, Facts};
use super::{Ceremony, CeremonyTurn, Rules, State};
use crate::audit::CeremonyEnd;
use crate::command::Command;
use crate::fault::Refusal;
use crate::record;
use crate::safe::{SecretId, Secrets};
use crate::time::Now;

/// Version of the encoding of [`Line`].
pub const LINE_VERSION: u8 = 1;
/// Bytes that always hold an encoded [`Line`] (412 for the longest beginning, by test).
pub const LINE_BYTES_MAX: usize = 512;
/// What the chain of a transcript begins with.
pub const DOMAIN: &[u8] = b"slotwarden/transcript/v1";

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Milliseconds since the service started.
    pub mono_ms: u64,
    /// Seconds since 1970, if there was a clock.
    pub wall_s: Option<u64>,
    /// What happened.
    pub entry: Entry,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)] // there is no allocator to box the rare one
pub enum Entry {
    /// It was ordered.
    Begun {
        /// The order, without its secrets.
        command: Command,
        /// What it relies on.
        facts: Facts,
    },
    /// Something happened.
    Event(CeremonyEvent),
    /// It is over.
    Ended {
        /// How.
        end: CeremonyEnd,
        /// What people did: cards inserted and taken out, PINs typed, questions answered.
        human_steps: u16,
    },
}

impl Line {
    /// Writes version and line into `out`; returns the part written.
    ///
    /// # Errors
    /// [`Refusal::StoreUnreadable`] when `out` is smaller than [`LINE_BYTES_MAX`].
    pub fn encode<'out>(&self, out: &'out mut [u8]) -> Result<&'out [u8], Refusal> {
        record::encode(LINE_VERSION, self, out)
    }

    /// Reads what [`Line::encode`] wrote.
    ///
    /// # Errors
    /// [`Refusal::StoreNewer`] for a higher version, [`Refusal::StoreUnreadable`] for
    /// anything that is not exactly one line.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        record::decode(LINE_VERSION, bytes)
    }

    /// The end of the chain with this line.
    #[must_use]
    pub fn hash(&self, before: &[u8; 32]) -> [u8; 32] {
        let mut bytes = [0; LINE_BYTES_MAX];
        let mut hash = Sha256::new().chain_update(DOMAIN).chain_update(before);
        match self.encode(&mut bytes) {
            Ok(encoded) => hash.update(encoded),
            // Not reachable while LINE_BYTES_MAX holds (unit test); the line would then break the chain.
            Err(_) => hash.update([0xFF]),
        }
        hash.finalize().into()
    }
}

/// The bytes that a node signs for a transcript: domain, ceremony, end of the chain.
#[must_use]
pub fn signed_message(id: CeremonyId, head: &[u8; 32]) -> [u8; DOMAIN.len() + 8 + 32] {
    let mut message = [0; DOMAIN.len() + 8 + 32];
    for (to, from) in message.iter_mut().zip(DOMAIN.iter().chain(&id.0).chain(head)) {
        *to = *from;
    }
    message
}

/// Runs a ceremony again from its lines; nothing is done. What it knows comes without the names of
/// secrets: compare it with [`Rules::without_secrets`].
///
/// # Errors
/// [`Refusal::StoreUnreadable`] when the first line is not its beginning.
pub fn replay(id: CeremonyId, lines: &[Line]) -> Result<(State, Rules), Refusal> {
    let Some((Line { mono_ms, wall_s, entry: Entry::Begun { command, facts } }, rest)) = lines.split_first() else {
        return Err(Refusal::StoreUnreadable);
    };
    let mut bug = None;
    let now = Now { mono_ms: *mono_ms, wall_s: *wall_s };
    let mut deeds = Vec::new();
    let mut secrets = NoSecrets { full: false };
    let mut turn = CeremonyTurn { now, secrets: &mut secrets, deeds: &mut deeds, bug: &mut bug };
    let mut ceremony = Ceremony::new(id, *command, *facts, &mut turn);
    for (line, after) in rest.iter().zip(rest.iter().skip(1).map(Some).chain([None])) {
        let Entry::Event(event) = line.entry else { continue };
        // Whether there was a place for a secret stands in no event, but in the end that it led to.
        let end = after.map(|line| line.entry);
        secrets.full = matches!(end, Some(Entry::Ended { end: CeremonyEnd::Refused(Refusal::SafeFull), .. }));
        let now = Now { mono_ms: line.mono_ms, wall_s: line.wall_s };
        deeds.clear();
        ceremony.handle(event, &mut CeremonyTurn { now, secrets: &mut secrets, deeds: &mut deeds, bug: &mut bug });
    }
    Ok((ceremony.state(), ceremony.rules().without_secrets()))
}

/// Places that nobody fills: a replay needs names of secrets, and has none.
struct NoSecrets {
    full: bool,
}

impl Secrets for NoSecrets {
    fn reserve(&mut self) -> Result<SecretId, Refusal> {
        if self.full { Err(Refusal::SafeFull) } else { Ok(SecretId::NONE) }
    }

    fn lend(&self, _id: SecretId, _read: &mut dyn FnMut(&[u8])) -> Option<()> {
        None
    }

    fn rewrite(&mut self, _id: SecretId, _write: &mut dyn FnMut(&mut [u8]) -> usize) -> bool {
        false
    }

    fn wipe(&mut self, _id: SecretId) {}
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::card::session::{CardProblem, HeldCard, SessionReport};
    use crate::card::sets::{Fate, Standing};
    use crate::card::{CardSerial, ProfileId, ReaderId, RecordPlace};
    use crate::ceremony::event::{CardFacts, MadeSet, SoPinEnd};
    use crate::ceremony::order::tests::{facts, orders};
    use crate::effect::SlotId;
    use crate::fault::{Fault, Function};
    use crate::person::PersonId;
    use crate::share::record::{ShareHeader, ShareKind, SignedHeader};

    fn line(entry: Entry) -> Line {
        Line { mono_ms: u64::MAX, wall_s: Some(u64::MAX), entry }
    }

    fn lines() -> std::vec::Vec<Line> {
        let header = ShareHeader {
            kind: ShareKind::SoPin,
            set_id: [0xFF; 16],
            subject: [0xFF; 16],
            m: 16,
            n: 16,
            x: 16,
            generation: u32::MAX,
            created_s: u64::MAX,
            key_id: [0xFF; 16],
        };
        let record = SignedHeader { header, public_key: [0xFF; 32], signature: [0xFF; 64] };
        let reader = ReaderId(u8::MAX);
        let card = HeldCard {
            profile: ProfileId::OpenPgp,
            serial: CardSerial::new(&[0xFF; 16]).expect("a serial"),
            tries_left: Some(u8::MAX),
            place: Some(RecordPlace::B),
            header: Some(header),
        };
        let standing = Some(Standing::Former(Fate::Rotated));
        let facts_of_card = CardFacts {
            holder: Some(PersonId(0xFE)),
            pin_changed: true,
            lost: true,
            standing,
            in_force: true,
            only_quorum: true,
            cards_of_share: u8::MAX,
            no_room: true,
        };
        let fault = Fault::Pkcs11 { code: u64::MAX, function: Function::Other };
        let events = [
            CeremonyEvent::Begin,
            CeremonyEvent::Drawn(Err(fault)),
            CeremonyEvent::Made(Ok(MadeSet { set_id: [0xFF; 16], key_id: [0xFF; 16] })),
            CeremonyEvent::Identified(reader, card, facts_of_card),
            CeremonyEvent::RecordRead(reader, Ok(record), standing),
            CeremonyEvent::Reported(reader, SessionReport::Identified(card)),
            CeremonyEvent::Reported(reader, SessionReport::RecordRead(Ok(record))),
            CeremonyEvent::Reported(reader, SessionReport::Failed(CardProblem::Status(u16::MAX))),
            CeremonyEvent::ShareReady(Some(record)),
            CeremonyEvent::Verdict(true),
            CeremonyEvent::KeysPut(SlotId(u8::MAX), Err(fault)),
            CeremonyEvent::SoPinSet(Err(SoPinEnd::OldOrNew(fault))),
            CeremonyEvent::Answered { who: PersonId(0xFE), yes: true },
            CeremonyEvent::CancelOrdered { who: Some(PersonId(0xFE)) },
            CeremonyEvent::DeadlinePassed,
            CeremonyEvent::FileChecked(Err(fault)),
        ];
        let begun = orders().into_iter().map(|order| Entry::Begun { command: order.without_secrets(), facts: facts() });
        let ended = Entry::Ended { end: CeremonyEnd::Failed(fault), human_steps: u16::MAX };
        begun.chain(events.map(Entry::Event)).chain([ended]).map(line).collect()
    }

    #[test]
    fn the_longest_line_fits_and_comes_back_and_no_part_of_it_does() {
        let mut longest = 0;
        for line in lines() {
            let mut bytes = [0; LINE_BYTES_MAX];
            let encoded = line.encode(&mut bytes).expect("the bound holds");
            longest = longest.max(encoded.len());
            assert_eq!(Line::decode(encoded), Ok(line));
            for cut in 0..encoded.len() {
                assert!(Line::decode(&encoded[..cut]).is_err());
            }
        }
        assert_eq!(longest, LONGEST, "as the bound's doc says");
    }

    /// Bytes of the longest line.
    const LONGEST: usize = 412;

    #[test]
    fn p37_an_altered_a_left_out_and_an_exchanged_line_change_the_end_of_the_chain() {
        let lines = lines();
        let end = |lines: &[Line]| lines.iter().fold([0; 32], |before, line| line.hash(&before));
        let whole = end(&lines);
        for place in 0..lines.len() {
            let mut without = lines.clone();
            without.remove(place);
            assert_ne!(end(&without), whole);
            let mut altered = lines.clone();
            altered[place].mono_ms -= 1;
            assert_ne!(end(&altered), whole);
            if place > 0 {
                let mut exchanged = lines.clone();
                exchanged.swap(place - 1, place);
                assert_ne!(end(&exchanged), whole);
            }
        }
    }

    #[test]
    fn a_transcript_without_its_beginning_is_not_run() {
        let id = CeremonyId([0; 8]);
        assert!(replay(id, &[]).is_err());
        assert!(replay(id, &[line(Entry::Event(CeremonyEvent::Begin))]).is_err());
    }
}
