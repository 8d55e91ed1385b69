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
/// Bytes that always hold an encoded [`Line`] (506 for the longest beginning, by test).
pub const LINE_BYTES_MAX: usize = 768;
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
