//! The audit log offline: read it from a store at rest, export it, verify an export.
//!
//! An export is text, one JSON object a line:
//!
//! ```text
//! {"slotwarden_audit":1,"node_key":"…"}
//! {"sequence":1,"wall_s":1767225600,"who":0,"slot":null,"event":{…},"previous":"…","hash":"…","raw":"…"}
//! {"checkpoint":1,"head":"…","signature":"…"}
//! {"end":1,"checkpoints":1}
//! ```
//!
//! `raw` is the record as it was hashed (version byte and postcard, hex); the other members
//! repeat it for people and are compared with it, byte for byte, so nothing in a line can be
//! altered unnoticed. A checkpoint stands directly behind the record it signs.
//!
//! What a verification proves: the records form one unbroken chain; those up to the last
//! checkpoint were signed by the node key. A tail cut off behind it (with a new `end` line)
//! is found only by a verifier who brings a later checkpoint from elsewhere. Whose the node
//! key is, the file cannot prove: compare the fingerprint, or bring the key.

mod log;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, Read as _, Write};

use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use slotwarden_core::audit::{AUDIT_RECORD_BYTES_MAX, AuditEvent, AuditRecord, Chain, ChainBreak};
use slotwarden_core::ceremony::CeremonyId;

use crate::devices::{Checkpoint, TranscriptEnd};
use crate::transcript;
pub use log::Log;

/// Version of the export's lines. A higher one is refused.
const EXPORT_VERSION: u32 = 2;
/// Version of an export of a node that had no other key: as it always was.
const EXPORT_VERSION_FIRST: u32 = 1;
/// Most checkpoints taken from a file of them: one an hour for more than ten years.
const CHECKPOINT_LINES_MAX: usize = 100_000;
/// Longest line of an export, bytes: four times the longest record there is.
const LINE_BYTES_MAX: u64 = 4096;

/// The public keys of a node: each zeroize destroyed one, and the next followed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeKeys {
    /// Those that were destroyed, oldest first.
    pub former: Vec<[u8; 32]>,
    /// The one that signs now.
    pub current: [u8; 32],
}

impl NodeKeys {
    /// A node that had no other key.
    #[must_use]
    pub fn only(current: [u8; 32]) -> Self {
        NodeKeys { former: Vec::new(), current }
    }

    /// Whether it is, or was, the node's.
    #[must_use]
    pub fn has(&self, key: &[u8; 32]) -> bool {
        self.current == *key || self.former.contains(key)
    }

    /// The key that signed this end of a transcript, if one of them did.
    #[must_use]
    pub fn signer_of(&self, id: CeremonyId, end: &TranscriptEnd) -> Option<[u8; 32]> {
        let all = self.former.iter().chain([&self.current]);
        all.copied().find(|key| transcript::is_signed(id, end, key))
    }

    /// From the first on.
    fn in_order(&self) -> VecDeque<[u8; 32]> {
        self.former.iter().chain([&self.current]).copied().collect()
    }
}

/// Follows a log, record by record.
#[derive(Clone, Debug)]
pub struct Verifier {
    chain: Chain,
    /// The key that signs at this place of the log.
    node: VerifyingKey,
    /// Those that follow it.
    next: VecDeque<[u8; 32]>,
    former: Vec<FormerKey>,
    known: Option<[u8; 32]>,
    signed: u64,
    checkpoints: u64,
    /// Heads from elsewhere that were not met yet.
    awaited: Vec<(u64, [u8; 32])>,
    at_least: u64,
}

/// What is wrong with a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A record is missing, repeated or out of order.
    Order {
        /// Expected here.
        expected: u64,
        /// Found instead.
        found: u64,
    },
    /// A record does not follow from the one before it: one of the two was altered.
    Altered(u64),
    /// A checkpoint does not stand behind its record, or names another hash.
    Checkpoint(u64),
    /// A checkpoint's signature is not the node key's.
    Signature(u64),
    /// The log ends before this record, for which there is a checkpoint or a count.
    Truncated(u64),
    /// The node key is none, or not the one the verifier brought.
    NodeKey,
    /// A line of an export is not as this program writes it.
    Line(usize),
    /// The export was written by a newer version.
    Newer(u32),
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Order { expected, found } => {
                write!(out, "record {expected} is missing or out of order: {found} stands in its place")
            }
            Finding::Altered(sequence) => write!(out, "record {sequence} or the one before it was altered"),
            Finding::Checkpoint(sequence) => write!(out, "the checkpoint of record {sequence} does not match the log"),
            Finding::Signature(sequence) => {
                write!(out, "the checkpoint of record {sequence} was not signed by the node key")
            }
            Finding::Truncated(sequence) => write!(out, "the log ends before record {sequence}"),
            Finding::NodeKey => write!(out, "the node key is not the expected one"),
            Finding::Line(line) => write!(out, "line {line} was altered, or is not a line of an audit export"),
            Finding::Newer(version) => write!(out, "the export has version {version}; this program is older"),
        }
    }
}

impl std::error::Error for Finding {}

impl From<ChainBreak> for Finding {
    fn from(broken: ChainBreak) -> Self {
        match broken {
            ChainBreak::Sequence { expected, found } => Finding::Order { expected, found },
            ChainBreak::Hash { sequence } => Finding::Altered(sequence),
        }
    }
}

impl Verifier {
    /// At the beginning of a log of the node with these keys.
    ///
    /// # Errors
    /// [`Finding::NodeKey`] for bytes that are no Ed25519 key.
    pub fn new(nodes: &NodeKeys) -> Result<Self, Finding> {
        Self::knowing(nodes, &Known::default())
    }

    /// The same, for a verifier who knows something beforehand.
    ///
    /// # Errors
    /// [`Finding::NodeKey`], also for another key than the known one.
    pub fn knowing(nodes: &NodeKeys, known: &Known) -> Result<Self, Finding> {
        if known.node_key.is_some_and(|expected| !nodes.has(&expected)) {
            return Err(Finding::NodeKey);
        }
        let mut next = nodes.in_order();
        let first = next.pop_front().ok_or(Finding::NodeKey)?;
        Ok(Verifier {
            chain: Chain::default(),
            node: VerifyingKey::from_bytes(&first).map_err(|_| Finding::NodeKey)?,
            next,
            former: Vec::new(),
            known: known.node_key,
            signed: 0,
            checkpoints: 0,
            awaited: known.heads.clone(),
            at_least: known.at_least,
        })
    }

    /// Takes the next record.
    ///
    /// # Errors
    /// [`Finding::Order`], [`Finding::Altered`]; [`Finding::Checkpoint`] where it had
    /// another head earlier.
    pub fn record(&mut self, record: &AuditRecord) -> Result<(), Finding> {
        self.chain.accept(record)?;
        let Chain { sequence, head } = self.chain;
        if self.awaited.iter().any(|(at, known)| *at == sequence && *known != head) {
            return Err(Finding::Checkpoint(sequence));
        }
        self.awaited.retain(|(at, _)| *at != sequence);
        if let AuditEvent::NodeKeyReplaced { old, new } = record.event {
            self.key_replaced(sequence, old, new)?;
        }
        Ok(())
    }

    /// The record that names another key: what stands before it was signed by the old one.
    fn key_replaced(&mut self, sequence: u64, old: [u8; 32], new: [u8; 32]) -> Result<(), Finding> {
        if self.node.to_bytes() != old || self.next.pop_front() != Some(new) {
            return Err(Finding::NodeKey);
        }
        self.former.push(FormerKey { key: old, until: sequence, signed: self.signed });
        self.node = VerifyingKey::from_bytes(&new).map_err(|_| Finding::NodeKey)?;
        Ok(())
    }

    /// Takes a checkpoint of the last record, with its signature.
    ///
    /// # Errors
    /// [`Finding::Checkpoint`], [`Finding::Signature`].
    pub fn checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), Finding> {
        self.head(checkpoint)?;
        // Strict: no malleable signature, no key of small order (RFC 8032, 5.1.7 leaves both open).
        self.node
            .verify_strict(&self.chain.checkpoint_message(), &Signature::from_bytes(&checkpoint.signature))
            .map_err(|_| Finding::Signature(checkpoint.sequence))?;
        self.signed = checkpoint.sequence;
        Ok(())
    }

    /// Takes a checkpoint of the last record without checking who signed it.
    ///
    /// # Errors
    /// [`Finding::Checkpoint`].
    pub fn head(&mut self, checkpoint: &Checkpoint) -> Result<(), Finding> {
        if checkpoint.sequence != self.chain.sequence || checkpoint.head != self.chain.head || self.chain.sequence == 0
        {
            return Err(Finding::Checkpoint(checkpoint.sequence));
        }
        self.checkpoints += 1;
        Ok(())
    }

    /// The end of what was taken.
    #[must_use]
    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// The log ends here.
    ///
    /// # Errors
    /// [`Finding::Truncated`] when it reached further earlier.
    pub fn finish(self) -> Result<Verified, Finding> {
        let reached = self.awaited.iter().map(|(sequence, _)| *sequence).max().unwrap_or(0).max(self.at_least);
        // A head that was not met stands behind the last record, or is one of record 0.
        if self.chain.sequence < reached || !self.awaited.is_empty() {
            return Err(Finding::Truncated(reached));
        }
        // A key that no record names: the log of another, or one that was cut before that record.
        if !self.next.is_empty() {
            return Err(Finding::NodeKey);
        }
        let node_key = self.node.to_bytes();
        let known = |key: &[u8; 32]| self.known == Some(*key);
        // What a former key signed is trusted up to its last signature, and no further.
        let trusted_to = match self.former.iter().find(|former| known(&former.key)) {
            Some(former) => former.signed,
            None if known(&node_key) => self.signed,
            None => 0,
        };
        Ok(Verified {
            records: self.chain.sequence,
            head: self.chain.head,
            checkpoints: self.checkpoints,
            signed: self.signed,
            trusted: known(&node_key),
            node_key,
            trusted_to,
            former: self.former,
        })
    }
}

/// What a verifier knows beforehand, from elsewhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The node's public key.
    pub node_key: Option<[u8; 32]>,
    /// Heads the log had earlier: each must stand in it still.
    pub heads: Vec<(u64, [u8; 32])>,
    /// The log reached this record at least.
    pub at_least: u64,
}

/// A log that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Number of the last record; 0 for an empty log.
    pub records: u64,
    /// The chain hash of the last record.
    pub head: [u8; 32],
    /// How many checkpoints stand in it, each signed by the node key.
    pub checkpoints: u64,
    /// The last record under a signature; what comes after it could have been written by
    /// whoever held the file.
    pub signed: u64,
    /// The node's public key.
    pub node_key: [u8; 32],
    /// Whether the verifier knew the node key; otherwise compare the fingerprint.
    pub trusted: bool,
    /// The last record under a signature of the key that the verifier knew, be it a former one; 0: none.
    pub trusted_to: u64,
    /// The keys that the node had before, oldest first.
    pub former: Vec<FormerKey>,
}

/// A node key that a zeroize destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormerKey {
    /// The public key.
    pub key: [u8; 32],
    /// The record that names its successor.
    pub until: u64,
    /// The last record under a signature of it; 0: none.
    pub signed: u64,
}

/// Writes an export: every record from the first, and the checkpoints, oldest first.
///
/// # Errors
/// Of the writer.
pub fn export(
    out: &mut dyn Write,
    node_keys: &NodeKeys,
    records: impl Iterator<Item = AuditRecord>,
    checkpoints: &[Checkpoint],
) -> io::Result<()> {
    let mut awaited = checkpoints.iter().peekable();
    let mut last = 0;
    let mut signed = 0;
    let former_node_keys: Vec<String> = node_keys.former.iter().map(|key| hex(key)).collect();
    // A program that knows of no former keys says that it is older, instead of "altered".
    let slotwarden_audit = if former_node_keys.is_empty() { EXPORT_VERSION_FIRST } else { EXPORT_VERSION };
    write_line(out, &Begin { slotwarden_audit, node_key: hex(&node_keys.current), former_node_keys })?;
    for record in records {
        write_line(out, &RecordLine::of(&record)?)?;
        last = record.sequence;
        while let Some(checkpoint) = awaited.next_if(|checkpoint| checkpoint.sequence == last) {
            write_line(out, &CheckpointLine::of(checkpoint))?;
            signed += 1;
        }
    }
    write_line(out, &End { end: last, checkpoints: signed })
}

/// Verifies an export.
///
/// # Errors
/// The first [`Finding`]. Whatever cannot be read is a finding too.
pub fn verify(input: &mut dyn BufRead, known: &Known) -> Result<Verified, Finding> {
    let mut lines = Lines { input, number: 0 };
    let begin = lines.next()?;
    let parsed: Begin = lines.parse(&begin)?;
    if parsed.slotwarden_audit > EXPORT_VERSION {
        return Err(Finding::Newer(parsed.slotwarden_audit));
    }
    let wanted = if parsed.former_node_keys.is_empty() { EXPORT_VERSION_FIRST } else { EXPORT_VERSION };
    if parsed.slotwarden_audit != wanted {
        return Err(lines.altered());
    }
    let former = parsed.former_node_keys.iter().map(|key| unhex(key)).collect::<Option<Vec<_>>>();
    let nodes = former.and_then(|former| Some(NodeKeys { former, current: unhex(&parsed.node_key)? }));
    let mut verifier = Verifier::knowing(&nodes.ok_or_else(|| lines.altered())?, known)?;
    loop {
        let line = lines.next()?;
        if line.starts_with(b"{\"sequence\":") {
            let parsed: RecordLine = lines.parse(&line)?;
            let record = parsed.record().filter(|record| RecordLine::of(record).is_ok_and(|again| again == parsed));
            verifier.record(&record.ok_or_else(|| lines.altered())?)?;
        } else if line.starts_with(b"{\"checkpoint\":") {
            let parsed: CheckpointLine = lines.parse(&line)?;
            verifier.checkpoint(&parsed.checkpoint().ok_or_else(|| lines.altered())?)?;
        } else {
            let end: End = lines.parse(&line)?;
            if end.end != verifier.chain.sequence || end.checkpoints != verifier.checkpoints {
                return Err(Finding::Truncated(end.end.max(verifier.chain.sequence)));
            }
            break;
        }
    }
    lines.end()?;
    verifier.finish()
}

/// Verifies records as they come, and the checkpoints over them, oldest first.
///
/// # Errors
/// The first [`Finding`].
pub fn verify_records(
    node_keys: &NodeKeys,
    records: impl Iterator<Item = AuditRecord>,
    checkpoints: &[Checkpoint],
    known: &Known,
) -> Result<Verified, Finding> {
    let mut verifier = Verifier::knowing(node_keys, known)?;
    let mut awaited = checkpoints.iter().peekable();
    for record in records {
        verifier.record(&record)?;
        while let Some(checkpoint) = awaited.next_if(|checkpoint| checkpoint.sequence == record.sequence) {
            verifier.checkpoint(checkpoint)?;
        }
    }
    match awaited.next() {
        Some(checkpoint) => Err(Finding::Truncated(checkpoint.sequence)),
        None => verifier.finish(),
    }
}

/// What a kept file tells of how far a log reached: an earlier export, verified with what
/// is `known` already, or lines of checkpoints taken from one.
///
/// # Errors
/// What is wrong with the file itself.
pub fn earlier(input: &mut dyn BufRead, known: Known) -> Result<Known, Finding> {
    // The buffer shows the beginning without taking it.
    if input.fill_buf().is_ok_and(|start| start.starts_with(b"{\"slotwarden_audit\":")) {
        let found = verify(input, &known)?;
        let mut known = Known { node_key: Some(found.node_key), ..known };
        // The chain hash of the last record covers every one before it.
        known.heads.extend((found.records > 0).then_some((found.records, found.head)));
        return Ok(known);
    }
    let mut lines = Lines { input, number: 0 };
    let mut known = known;
    loop {
        let line = lines.next()?;
        let parsed: CheckpointLine = lines.parse(&line)?;
        let checkpoint = parsed.checkpoint().ok_or_else(|| lines.altered())?;
        known.heads.push((checkpoint.sequence, checkpoint.head));
        if known.heads.len() > CHECKPOINT_LINES_MAX {
            return Err(lines.altered());
        }
        if lines.input.fill_buf().is_ok_and(<[u8]>::is_empty) {
            return Ok(known);
        }
    }
}

/// The first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Begin {
    slotwarden_audit: u32,
    node_key: String,
    /// Left out where there is none, as every file of version 1 has it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    former_node_keys: Vec<String>,
}

/// The last line: without it the file was cut.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct End {
    end: u64,
    checkpoints: u64,
}

/// One record.
#[derive(PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordLine {
    sequence: u64,
    wall_s: Option<u64>,
    who: Option<u8>,
    slot: Option<u8>,
    event: Value,
    previous: String,
    hash: String,
    raw: String,
}

impl RecordLine {
    fn of(record: &AuditRecord) -> io::Result<Self> {
        let mut place = [0; AUDIT_RECORD_BYTES_MAX];
        let raw = record.encode(&mut place).map_err(|refusal| io::Error::other(refusal.sentence()))?;
        Ok(RecordLine {
            sequence: record.sequence,
            wall_s: record.wall_s,
            who: record.who.map(|who| who.0),
            slot: record.slot.map(|slot| slot.0),
            event: event_json(record)?,
            previous: hex(&record.previous),
            hash: hex(&record.hash()),
            raw: hex(raw),
        })
    }

    fn record(&self) -> Option<AuditRecord> {
        AuditRecord::decode(&unhex_any(&self.raw)?).ok()
    }
}

/// One signed head.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckpointLine {
    checkpoint: u64,
    head: String,
    signature: String,
}

impl CheckpointLine {
    fn of(checkpoint: &Checkpoint) -> Self {
        CheckpointLine {
            checkpoint: checkpoint.sequence,
            head: hex(&checkpoint.head),
            signature: hex(&checkpoint.signature),
        }
    }

    fn checkpoint(&self) -> Option<Checkpoint> {
        Some(Checkpoint { sequence: self.checkpoint, head: unhex(&self.head)?, signature: unhex(&self.signature)? })
    }
}

/// The event as JSON, hashes as hexadecimal text instead of lists of numbers.
///
/// # Errors
/// None that is known; serde's signature has one.
pub fn event_json(record: &AuditRecord) -> io::Result<Value> {
    let mut event = serde_json::to_value(record.event)?;
    let mut put = |pointer: &str, bytes: &[u8]| {
        if let Some(place) = event.pointer_mut(pointer) {
            *place = Value::String(hex(bytes));
        }
    };
    match record.event {
        AuditEvent::Started { configuration } => put("/Started/configuration", &configuration),
        AuditEvent::NodeKeyReplaced { old, new } => {
            put("/NodeKeyReplaced/old", &old);
            put("/NodeKeyReplaced/new", &new);
        }
        AuditEvent::FileVerified(file) => put("/FileVerified", &file),
        // Nothing else that was ever written has a hash as text.
        _ => {}
    }
    Ok(event)
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xF]);
    digits.map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])).collect()
}

/// Reads exactly `LEN` bytes of lower-case hexadecimal.
#[must_use]
pub fn unhex<const LEN: usize>(text: &str) -> Option<[u8; LEN]> {
    unhex_any(text)?.try_into().ok()
}

fn unhex_any(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        // No capitals: a value has one text, so that an altered letter is an altered value.
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

fn write_line(out: &mut dyn Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

/// The lines of an export that may be hostile.
struct Lines<'input> {
    input: &'input mut dyn BufRead,
    number: usize,
}

impl Lines<'_> {
    /// The next line, without its newline. A missing one means that the file was cut.
    fn next(&mut self) -> Result<Vec<u8>, Finding> {
        self.number += 1;
        let mut line = Vec::new();
        let read = (&mut *self.input).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        if read.is_err() || line.pop() != Some(b'\n') {
            return Err(self.altered());
        }
        Ok(line)
    }

    /// Nothing may follow.
    fn end(&mut self) -> Result<(), Finding> {
        self.number += 1;
        match self.input.fill_buf() {
            Ok([]) => Ok(()),
            Ok(_) | Err(_) => Err(self.altered()),
        }
    }

    /// Parses a line, and takes it only if it is written exactly as we write it.
    fn parse<T: Serialize + for<'de> Deserialize<'de>>(&self, line: &[u8]) -> Result<T, Finding> {
        let parsed: T = serde_json::from_slice(line).map_err(|_| self.altered())?;
        match serde_json::to_vec(&parsed) {
            Ok(again) if again == line => Ok(parsed),
            Ok(_) | Err(_) => Err(self.altered()),
        }
    }

    fn altered(&self) -> Finding {
        Finding::Line(self.number)
    }
}
