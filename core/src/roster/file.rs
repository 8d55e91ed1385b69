//! Rosters on their way: the file format `SLWR`, version 1.
//!
//! A file is the magic `SLWR`, the version byte 1 and [frames](crate::frame):
//!
//! | kind | body | bytes at most | where |
//! |---|---|---|---|
//! | 1 | [`Begin`] | 16 | first, once |
//! | 2 | a [`SignedRoster`] with its version byte | [`ROSTER_BYTES_MAX`] | as many as `Begin` says, at least one |
//! | 3 | the annex of that roster, the platform's bytes | [`ANNEX_BYTES_MAX`] | behind each |
//!
//! Each roster follows on the one before it; the first may be of any epoch, so that who has that one needs none
//! before it. Nothing here is secret. Every other file is refused by a named [`Problem`] (P21), and nothing
//! panics. Whether the chain is ours is for [`super::Roster::accepts`]. Nothing survives a restart.

use embedded_io::{Read, Write};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Problem, ROSTER_BYTES_MAX, SignedRoster};
use crate::frame::{self, HEAD_BYTES, WriteProblem, decode};

/// The first bytes of a file.
pub const MAGIC: [u8; 4] = *b"SLWR";
/// The version that is written, and the only one that is read.
pub const VERSION: u8 = 1;
/// Rosters of a file at most: as many changes as a cluster of [`crate::limits::MEMBERS_MAX`] has in decades.
pub const ROSTERS_MAX: u16 = 256;
/// Bytes of an annex at most: the keys of all members take 11 KiB, the names of all slots a few more.
pub const ANNEX_BYTES_MAX: usize = 64 * 1024;

const BEGIN_BYTES_MAX: usize = 16;

/// Begins a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Begin {
    /// How many rosters follow, from 1 to [`ROSTERS_MAX`].
    pub rosters: u16,
}

/// One roster of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link<'a> {
    /// In order, and following on the one before it.
    pub signed: &'a SignedRoster,
    /// The bytes of which it has the hash.
    pub annex: &'a [u8],
}

/// Reads a file. Reads are as long as a frame's head and body: give it something buffered.
#[derive(Debug)]
pub struct Reader<'b, R> {
    r: R,
    stage: Stage,
    /// The roster before.
    above: Option<SignedRoster>,
    annex: &'b mut [u8; ANNEX_BYTES_MAX],
}

/// What may come next.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The magic.
    Start,
    /// So many rosters, at least one.
    Rosters(u16),
    /// Nothing: the file was read.
    End,
    /// Nothing: the file was refused, and stays so.
    Refused(Problem),
}

impl<'b, R: Read> Reader<'b, R> {
    /// Reads from the first byte of a file on; annexes are put into `annex`.
    pub fn new(r: R, annex: &'b mut [u8; ANNEX_BYTES_MAX]) -> Self {
        Reader { r, stage: Stage::Start, above: None, annex }
    }

    /// The next roster; `None` behind the last, when the file is known to be whole. What came before is not yet.
    ///
    /// # Errors
    /// Why the file is none of rosters; after a problem the same problem.
    // A `Link` borrows from the reader, which no `Iterator` can say.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Link<'_>>, Problem> {
        let length = match self.read_next() {
            Ok(None) => return Ok(None),
            Ok(Some(length)) => length,
            Err(problem) => {
                self.stage = Stage::Refused(problem);
                return Err(problem);
            }
        };
        let annex = self.annex.get(..length).unwrap_or(&[]);
        Ok(self.above.as_ref().map(|signed| Link { signed, annex }))
    }

    /// Reads a roster and its annex; how long the annex is.
    fn read_next(&mut self) -> Result<Option<usize>, Problem> {
        if matches!(self.stage, Stage::Start) {
            self.stage = Stage::Rosters(self.begin()?);
        }
        let left = match self.stage {
            Stage::Rosters(left) => left.saturating_sub(1),
            Stage::End | Stage::Start => return Ok(None),
            Stage::Refused(problem) => return Err(problem),
        };
        let mut place = [0; ROSTER_BYTES_MAX];
        let signed = SignedRoster::decode(read_frame(&mut self.r, Kind::Roster, &mut place)?)?;
        if let Some(above) = &self.above {
            above.roster.is_followed_by(&signed)?;
        }
        let annex = read_frame(&mut self.r, Kind::Annex, self.annex.as_mut_slice())?;
        if signed.roster.annex != <[u8; 32]>::from(Sha256::digest(annex)) {
            return Err(Problem::Annex);
        }
        let length = annex.len();
        self.above = Some(signed);
        self.stage = if left > 0 { Stage::Rosters(left) } else { Stage::End };
        if left == 0 && frame::fill(&mut self.r, &mut [0])? { Err(Problem::Trailing) } else { Ok(Some(length)) }
    }

    fn begin(&mut self) -> Result<u16, Problem> {
        frame::read_start(&mut self.r, MAGIC, VERSION)?;
        let mut place = [0; BEGIN_BYTES_MAX];
        let begin: Begin = decode(read_frame(&mut self.r, Kind::Begin, &mut place)?)
            .filter(Begin::is_possible)
            .ok_or(Problem::Malformed)?;
        Ok(begin.rosters)
    }
}

impl Begin {
    fn is_possible(&self) -> bool {
        (1..=ROSTERS_MAX).contains(&self.rosters)
    }
}

fn read_frame<'place, R: Read>(r: &mut R, kind: Kind, place: &'place mut [u8]) -> Result<&'place [u8], Problem> {
    let head = frame::read_head(r)?;
    match Kind::from_number(head.kind) {
        None => Err(Problem::UnknownFrame),
        Some(found) if found != kind => Err(Problem::OutOfOrder),
        Some(_) => Ok(frame::read_body(r, head, place)?),
    }
}

/// Writes a file.
#[derive(Debug)]
pub struct Writer<W> {
    w: W,
    left: u16,
    above: Option<SignedRoster>,
}

impl<W: Write> Writer<W> {
    /// Begins a file of so many rosters.
    ///
    /// # Errors
    /// [`WriteProblem`]; `Impossible` for none and for more than [`ROSTERS_MAX`].
    pub fn begin(mut w: W, begin: Begin) -> Result<Self, WriteProblem<W::Error>> {
        if !begin.is_possible() {
            return Err(WriteProblem::Impossible);
        }
        frame::write_all(&mut w, &frame::start(MAGIC, VERSION))?;
        let mut unused = Sha256::new();
        frame::write_frame::<{ HEAD_BYTES + BEGIN_BYTES_MAX }, W>(&mut w, Kind::Begin.number(), &begin, &mut unused)?;
        Ok(Writer { w, left: begin.rosters, above: None })
    }

    /// Writes the next roster.
    ///
    /// # Errors
    /// [`WriteProblem`]; `Impossible` for one that does not follow on the one before, whose annex is
    /// another, that is not in order, and for one more than was said.
    pub fn push(&mut self, signed: &SignedRoster, annex: &[u8]) -> Result<(), WriteProblem<W::Error>> {
        let follows = match &self.above {
            None => signed.check(),
            Some(above) => above.roster.is_followed_by(signed),
        };
        let is_its_annex = signed.roster.annex == <[u8; 32]>::from(Sha256::digest(annex));
        let left = self.left.checked_sub(1).filter(|_| follows.is_ok() && is_its_annex);
        let left = left.ok_or(WriteProblem::Impossible)?;
        if annex.len() > ANNEX_BYTES_MAX {
            return Err(WriteProblem::TooLong);
        }
        for (kind, body) in [(Kind::Roster, signed.encode().as_slice()), (Kind::Annex, annex)] {
            let length = u32::try_from(body.len()).map_err(|_| WriteProblem::TooLong)?;
            frame::write_all(&mut self.w, &frame::head(kind.number(), length))?;
            frame::write_all(&mut self.w, body)?;
        }
        (self.above, self.left) = (Some(signed.clone()), left);
        Ok(())
    }

    /// Ends the file, and answers with the writer.
    ///
    /// # Errors
    /// `Impossible` where rosters are missing.
    pub fn end(self) -> Result<W, WriteProblem<W::Error>> {
        if self.left == 0 { Ok(self.w) } else { Err(WriteProblem::Impossible) }
    }
}

/// The kinds of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Begin,
    Roster,
    Annex,
}

impl Kind {
    const fn number(self) -> u8 {
        match self {
            Kind::Begin => 1,
            Kind::Roster => 2,
            Kind::Annex => 3,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Kind::Begin, Kind::Roster, Kind::Annex].into_iter().find(|kind| kind.number() == number)
    }
}
