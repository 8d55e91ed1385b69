//! Facts: what a payload begins with, and all that is in a receipt.
//!
//! The source says of each of its slots what it knows of every key it ever saw there
//! ([`crate::ledger`]), in [frames](crate::frame) whose bodies are never longer than [`FRAME_BYTES_MAX`]:
//!
//! | kind | body | where |
//! |---|---|---|
//! | 16 | [`Begin`] | begins a slot; uids strictly rise |
//! | 17 | rows ([`crate::ledger::Fact`]), names strictly rising | as many as `Begin` says; [`ROWS_MAX`] in every frame but a slot's last |
//! | 18 | [`End`] | once |
//!
//! After it comes an export, where [`End::keys`] says so, or nothing. There is no magic: this is
//! only ever read from the inside of a package, whose header has the version. What was read before
//! [`Part::End`] is not yet known to be whole. Nothing survives a restart.

use embedded_io::{Read, Write};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Problem, WriteProblem};
use crate::frame::{self, HEAD_BYTES, decode};
use crate::ledger::{Fact, KeyName, ROW_BYTES};
use crate::limits::{FACTS_MAX, SLOTS_APPLIANCE};

/// Rows of a frame at most, and exactly in all frames of a slot but its last.
pub const ROWS_MAX: usize = 256;
/// Bytes of a frame's body at most: as many rows, and how many bytes they are.
pub const FRAME_BYTES_MAX: usize = ROWS_MAX * ROW_BYTES + 2;

/// Begins what is known of one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Begin {
    /// The slot's uid.
    pub uid: [u8; 16],
    /// How many rows follow, at most [`FACTS_MAX`].
    pub count: u32,
}

/// Ends the facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct End {
    /// Of how many slots there were some.
    pub slots: u8,
    /// Whether an export follows.
    pub keys: bool,
    /// SHA-256 of every byte before this frame, and of `slots` and `keys`, a byte each.
    pub hash: [u8; 32],
}

/// Rows as they are in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows<'a>(&'a [u8]);

impl<'a> Rows<'a> {
    /// Each row, names rising.
    pub fn iter(&self) -> impl Iterator<Item = Fact> + 'a {
        let (rows, _) = self.0.as_chunks::<ROW_BYTES>();
        rows.iter().filter_map(Fact::from_bytes)
    }

    /// Takes them where they are as many as they have to be and in order behind `above`; answers with the last name.
    fn check(&self, wanted: u32, above: Option<KeyName>) -> Result<Option<KeyName>, Problem> {
        let (rows, rest) = self.0.as_chunks::<ROW_BYTES>();
        let full = usize::try_from(wanted).unwrap_or(ROWS_MAX).min(ROWS_MAX);
        if rows.len() != full || !rest.is_empty() {
            return Err(Problem::Counts);
        }
        rows.iter().try_fold(above, |above, row| {
            let fact = Fact::from_bytes(row).ok_or(Problem::Facts)?;
            let rises = above.is_none_or(|above| above < fact.name);
            if rises { Ok(Some(fact.name)) } else { Err(Problem::Facts) }
        })
    }
}

/// What there is, in the order in which it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// A slot begins.
    Begin(Begin),
    /// Some of its rows.
    Rows(Rows<'a>),
    /// All facts were read. Where keys follow, they are what [`Reader::into_rest`] reads.
    End(End),
}

/// Reads facts.
#[derive(Debug)]
pub struct Reader<R> {
    r: R,
    known: Known,
    body: [u8; FRAME_BYTES_MAX],
}

#[derive(Debug)]
struct Known {
    stage: Stage,
    hash: Sha256,
    slots: u8,
    /// The uid of the slot before.
    above: Option<[u8; 16]>,
}

/// What may come next.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// A slot, or the end.
    Between,
    /// So many rows of a slot, at least one, with names above this one.
    Inside(u32, Option<KeyName>),
    /// Nothing of the facts.
    End(End),
    /// Nothing: they were refused, and stay so.
    Refused(Problem),
}

impl<R: Read> Reader<R> {
    /// Reads from the first byte of a payload on.
    pub fn new(r: R) -> Self {
        let known = Known { stage: Stage::Between, hash: Sha256::new(), slots: 0, above: None };
        Reader { r, known, body: [0; FRAME_BYTES_MAX] }
    }

    /// The next part. After [`Part::End`] it is that again, after a problem the same problem.
    ///
    /// # Errors
    /// Why these are no facts.
    // A `Part` borrows from the reader, which no `Iterator` can say.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Part<'_>, Problem> {
        match self.known.stage {
            Stage::End(end) => return Ok(Part::End(end)),
            Stage::Refused(problem) => return Err(problem),
            Stage::Between | Stage::Inside(..) => {}
        }
        let Reader { r, known, body } = self;
        let part = read_part(r, known, body);
        if let Err(problem) = part {
            known.stage = Stage::Refused(problem);
        }
        part
    }

    /// What the export is read from, after an end that says that there is one.
    #[must_use]
    pub fn into_rest(self) -> Option<R> {
        match self.known.stage {
            Stage::End(End { keys: true, .. }) => Some(self.r),
            Stage::End(_) | Stage::Between | Stage::Inside(..) | Stage::Refused(_) => None,
        }
    }
}

fn read_part<'body, R: Read>(
    r: &mut R,
    known: &mut Known,
    body: &'body mut [u8; FRAME_BYTES_MAX],
) -> Result<Part<'body>, Problem> {
    let head = frame::read_head(r)?;
    let kind = Kind::from_number(head.kind).ok_or(Problem::UnknownFrame)?;
    let may_be = match known.stage {
        Stage::Between => matches!(kind, Kind::Begin | Kind::End),
        Stage::Inside(..) => kind == Kind::Rows,
        Stage::End(_) | Stage::Refused(_) => false,
    };
    if !may_be {
        return Err(Problem::OutOfOrder);
    }
    let body = frame::read_body(r, head, body)?;
    if kind != Kind::End {
        known.hash.update(head.bytes);
        known.hash.update(body);
    }
    match kind {
        Kind::Begin => known.begin(decode(body).ok_or(Problem::Malformed)?),
        Kind::Rows => known.rows(decode(body).ok_or(Problem::Malformed)?),
        Kind::End => {
            let end = known.end(decode(body).ok_or(Problem::Malformed)?)?;
            if !end.keys && frame::fill(r, &mut [0])? { Err(Problem::Trailing) } else { Ok(Part::End(end)) }
        }
    }
}

impl Known {
    fn begin(&mut self, begin: Begin) -> Result<Part<'static>, Problem> {
        let slots = self.slots.checked_add(1).filter(|slots| usize::from(*slots) <= SLOTS_APPLIANCE);
        let rises = self.above.is_none_or(|above| above < begin.uid);
        self.slots = slots.filter(|_| rises).ok_or(Problem::Slots)?;
        if begin.count > FACTS_MAX {
            return Err(Problem::Counts);
        }
        self.above = Some(begin.uid);
        self.stage = if begin.count == 0 { Stage::Between } else { Stage::Inside(begin.count, None) };
        Ok(Part::Begin(begin))
    }

    fn rows<'body>(&mut self, rows: Rows<'body>) -> Result<Part<'body>, Problem> {
        let Stage::Inside(wanted, above) = self.stage else {
            return Err(Problem::OutOfOrder);
        };
        let above = rows.check(wanted, above)?;
        let left = wanted.saturating_sub(u32::try_from(ROWS_MAX).unwrap_or(u32::MAX));
        self.stage = if left == 0 { Stage::Between } else { Stage::Inside(left, above) };
        Ok(Part::Rows(rows))
    }

    fn end(&mut self, end: End) -> Result<End, Problem> {
        if end.slots != self.slots {
            return Err(Problem::Counts);
        }
        if end.hash != end_hash(&self.hash, end.slots, end.keys) {
            return Err(Problem::Hash);
        }
        self.stage = Stage::End(end);
        Ok(end)
    }
}

/// Writes facts: [`Writer::begin`] a slot, each [`Writer::fact`] of it, and [`Writer::end`].
#[derive(Debug)]
pub struct Writer<W> {
    w: W,
    hash: Sha256,
    slots: u8,
    above: Option<[u8; 16]>,
    /// Rows of this slot that are still to come, those in `rows` not counted.
    wanted: u32,
    above_name: Option<KeyName>,
    rows: heapless::Vec<u8, { ROWS_MAX * ROW_BYTES }>,
}

impl<W: Write> Writer<W> {
    /// Writes from the first byte of a payload on.
    pub fn new(w: W) -> Self {
        let rows = heapless::Vec::new();
        Writer { w, hash: Sha256::new(), slots: 0, above: None, wanted: 0, above_name: None, rows }
    }

    /// Begins a slot, of which so many facts come.
    ///
    /// # Errors
    /// [`WriteProblem`]; `Impossible` for a uid that does not rise, too many slots or facts, and in
    /// the middle of a slot.
    pub fn begin(&mut self, begin: Begin) -> Result<(), WriteProblem<W::Error>> {
        let rises = self.above.is_none_or(|above| above < begin.uid);
        let possible = rises && self.wanted == 0 && begin.count <= FACTS_MAX;
        let slots = self.slots.checked_add(1).filter(|slots| possible && usize::from(*slots) <= SLOTS_APPLIANCE);
        let slots = slots.ok_or(WriteProblem::Impossible)?;
        self.frame(Kind::Begin, &begin)?;
        (self.slots, self.above, self.above_name, self.wanted) = (slots, Some(begin.uid), None, begin.count);
        Ok(())
    }

    /// Writes the next fact.
    ///
    /// # Errors
    /// [`WriteProblem`]; `Impossible` for a name that does not rise, a count of 0, and one more than was said.
    pub fn fact(&mut self, fact: Fact) -> Result<(), WriteProblem<W::Error>> {
        let rises = self.above_name.is_none_or(|above| above < fact.name);
        let left = self.wanted.checked_sub(1).filter(|_| rises && fact.known.count > 0);
        self.wanted = left.ok_or(WriteProblem::Impossible)?;
        self.above_name = Some(fact.name);
        // They are written as soon as they are full, so that there is room.
        self.rows.extend_from_slice(&fact.to_bytes()).map_err(|_| WriteProblem::TooLong)?;
        if self.wanted == 0 || self.rows.is_full() { self.flush_rows() } else { Ok(()) }
    }

    /// Writes the end, and answers with what an export is written to if there are to be keys.
    ///
    /// # Errors
    /// [`WriteProblem`]; `Impossible` in the middle of a slot.
    pub fn end(mut self, keys: bool) -> Result<W, WriteProblem<W::Error>> {
        if self.wanted > 0 {
            return Err(WriteProblem::Impossible);
        }
        let end = End { slots: self.slots, keys, hash: end_hash(&self.hash, self.slots, keys) };
        self.frame(Kind::End, &end)?;
        Ok(self.w)
    }

    fn flush_rows(&mut self) -> Result<(), WriteProblem<W::Error>> {
        let Writer { w, hash, rows, .. } = self;
        let done = write_frame(w, Kind::Rows, &Rows(rows), hash);
        rows.clear();
        done
    }

    fn frame(&mut self, kind: Kind, body: &impl Serialize) -> Result<(), WriteProblem<W::Error>> {
        write_frame(&mut self.w, kind, body, &mut self.hash)
    }
}

fn end_hash(before: &Sha256, slots: u8, keys: bool) -> [u8; 32] {
    before.clone().chain_update([slots, u8::from(keys)]).finalize().into()
}

fn write_frame<W: Write>(
    w: &mut W,
    kind: Kind,
    body: &impl Serialize,
    hash: &mut Sha256,
) -> Result<(), WriteProblem<W::Error>> {
    frame::write_frame::<{ HEAD_BYTES + FRAME_BYTES_MAX }, W>(w, kind.number(), body, hash)
}

/// The kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Begin,
    Rows,
    End,
}

impl Kind {
    const fn number(self) -> u8 {
        match self {
            Kind::Begin => 16,
            Kind::Rows => 17,
            Kind::End => 18,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Kind::Begin, Kind::Rows, Kind::End].into_iter().find(|kind| kind.number() == number)
    }
}
