//! Reading a package, part by part, in the memory of one frame.

use ed25519_dalek::{Signature, VerifyingKey};
use embedded_io::Read;
use sha2::{Digest as _, Sha256};

use super::{
    CHUNK_BYTES, Chunk, Commitment, End, FRAME_BYTES_MAX, Header, Kind, MAGIC, SEALED_KEY_BYTES, Sealed, TAG_BYTES,
    VERSION, hash, message,
};
use crate::frame::{self, decode, problems};

problems! {
    /// Why a file is no package, or what was in it no payload. No part of it may be used.
    Unreadable "unreadable" "the file could not be read to its end";
    NotOurs "not-ours" "the file does not begin as a package";
    Newer "newer" "the package has a version that is not known here";
    Truncated "truncated" "the file ends too early";
    TooLong "too-long" "a frame is longer than the format allows";
    UnknownFrame "unknown-frame" "a frame has a kind that the version does not have";
    OutOfOrder "out-of-order" "a frame is where none of its kind may be";
    Malformed "malformed" "a frame does not hold what its kind holds, in its only form";
    Targets "targets" "a sealed key is not that of the next target";
    Sealing "sealing" "a sealed key has another length than those of its suite";
    ChunkLength "chunk-length" "a chunk that is not the last is not full, or the last is empty";
    Counts "counts" "the file says that it holds more, or less, than it does";
    Hash "hash" "the hash at the end is not that of the file";
    Signature "signature" "the signature is not one of the node that the header names";
    Trailing "trailing" "something follows the end of the package";
    Slots "slots" "the slots of the facts do not rise, or are too many";
    Facts "facts" "the names of a slot do not rise, or a row is not in its only form";
}

/// What a file holds, in the order in which it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// Comes first: [`Reader::header`]. Before more is read, [`super::judge_header`] says whether it is worth it.
    Header,
    /// The content key for one target.
    Sealed(Sealed<'a>),
    /// What the content key is tied to.
    Commitment(Commitment),
    /// A piece of the payload.
    Chunk {
        /// Counted from 0.
        number: u32,
        /// The piece.
        chunk: Chunk<'a>,
    },
    /// The whole file was read and is in order; whether it opens is not known.
    End {
        /// What it says, all of it right.
        end: End,
        /// Names the package: [`super::hash`].
        hash: [u8; 32],
    },
}

/// Reads a file. Reads are as long as a frame's head and body: give it something buffered.
#[derive(Debug)]
pub struct Reader<'b, R> {
    r: R,
    known: Known,
    body: &'b mut [u8; FRAME_BYTES_MAX],
}

/// What is known of the file so far.
#[derive(Debug)]
struct Known {
    stage: Stage,
    /// From the magic on while the header is read; then of every byte behind it.
    hash: Sha256,
    header: Option<(Header, [u8; 32])>,
}

/// What may come next.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The magic and the header.
    Start,
    /// The sealed key of the target in this place.
    Sealed(usize),
    /// The commitment.
    Commitment,
    /// A chunk with this number.
    Chunk(u32),
    /// The end, after so many chunks.
    AfterLast(u32),
    /// Nothing: the file was read.
    End(End, [u8; 32]),
    /// Nothing: the file was refused, and stays so.
    Refused(Problem),
}

impl<'b, R: Read> Reader<'b, R> {
    /// Reads from the first byte of a file on; frames are put into `body`.
    pub fn new(r: R, body: &'b mut [u8; FRAME_BYTES_MAX]) -> Self {
        Reader { r, known: Known { stage: Stage::Start, hash: Sha256::new(), header: None }, body }
    }

    /// The next part. After [`Part::End`] it is that again, after a problem the same problem.
    ///
    /// # Errors
    /// Why the file is no package.
    // A `Part` borrows from the reader, which no `Iterator` can say.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Part<'_>, Problem> {
        match self.known.stage {
            Stage::End(end, hash) => return Ok(Part::End { end, hash }),
            Stage::Refused(problem) => return Err(problem),
            Stage::Start | Stage::Sealed(_) | Stage::Commitment | Stage::Chunk(_) | Stage::AfterLast(_) => {}
        }
        let Reader { r, known, body } = self;
        let part = read_part(r, known, body.as_mut_slice());
        if let Err(problem) = part {
            known.stage = Stage::Refused(problem);
        }
        part
    }

    /// The header and its hash, once it was read.
    #[must_use]
    pub fn header(&self) -> Option<(&Header, &[u8; 32])> {
        self.known.header.as_ref().map(|(header, hash)| (header, hash))
    }
}

fn read_part<'body, R: Read>(r: &mut R, known: &mut Known, body: &'body mut [u8]) -> Result<Part<'body>, Problem> {
    if matches!(known.stage, Stage::Start) {
        known.hash.update(frame::read_start(r, MAGIC, VERSION)?);
    }
    let head = frame::read_head(r)?;
    let kind = Kind::from_number(head.kind).ok_or(Problem::UnknownFrame)?;
    let body = frame::read_body(r, head, known.place_for(kind, body)?)?;
    if kind != Kind::End {
        known.hash.update(head.bytes);
        known.hash.update(body);
    }
    let part = match kind {
        Kind::Header => known.header(decode(body).ok_or(Problem::Malformed)?),
        Kind::Sealed => known.sealed(decode(body).ok_or(Problem::Malformed)?),
        Kind::Commitment => {
            known.stage = Stage::Chunk(0);
            Ok(Part::Commitment(decode(body).ok_or(Problem::Malformed)?))
        }
        Kind::Chunk => known.chunk(decode(body).ok_or(Problem::Malformed)?),
        Kind::End => known.end(decode(body).ok_or(Problem::Malformed)?),
    }?;
    if kind == Kind::End && frame::fill(r, &mut [0])? {
        // The end was noted before it was known to be one: the caller notes this problem over it.
        return Err(Problem::Trailing);
    }
    Ok(part)
}

impl Known {
    /// Where the body of such a frame goes, no longer than it may be; refused where none of its kind may be.
    fn place_for<'body>(&self, kind: Kind, body: &'body mut [u8]) -> Result<&'body mut [u8], Problem> {
        let may_be = match self.stage {
            Stage::Start => kind == Kind::Header,
            Stage::Sealed(_) => kind == Kind::Sealed,
            Stage::Commitment => kind == Kind::Commitment,
            Stage::Chunk(_) => kind == Kind::Chunk,
            Stage::AfterLast(_) => kind == Kind::End,
            Stage::End(..) | Stage::Refused(_) => false,
        };
        let place = body.get_mut(..kind.bytes_max()).ok_or(Problem::TooLong)?;
        if may_be { Ok(place) } else { Err(Problem::OutOfOrder) }
    }

    fn header(&mut self, header: Header) -> Result<Part<'static>, Problem> {
        if !header.is_possible() {
            return Err(Problem::Malformed);
        }
        self.header = Some((header, self.hash.finalize_reset().into()));
        self.stage = Stage::Sealed(0);
        Ok(Part::Header)
    }

    fn sealed<'body>(&mut self, sealed: Sealed<'body>) -> Result<Part<'body>, Problem> {
        let (Stage::Sealed(place), Some((header, _))) = (self.stage, &self.header) else {
            return Err(Problem::OutOfOrder);
        };
        if header.targets.get(place) != Some(&sealed.target) {
            return Err(Problem::Targets);
        }
        if !sealed.is_possible(header.suite) {
            return Err(Problem::Sealing);
        }
        let next = place.saturating_add(1);
        self.stage = if next < header.targets.len() { Stage::Sealed(next) } else { Stage::Commitment };
        Ok(Part::Sealed(sealed))
    }

    fn chunk<'body>(&mut self, chunk: Chunk<'body>) -> Result<Part<'body>, Problem> {
        let Stage::Chunk(number) = self.stage else {
            return Err(Problem::OutOfOrder);
        };
        if !chunk.is_possible() {
            return Err(Problem::ChunkLength);
        }
        let next = number.checked_add(1).ok_or(Problem::Counts)?;
        self.stage = if chunk.is_last { Stage::AfterLast(next) } else { Stage::Chunk(next) };
        Ok(Part::Chunk { number, chunk })
    }

    fn end(&mut self, end: End) -> Result<Part<'static>, Problem> {
        let (Stage::AfterLast(chunks), Some((header, header_hash))) = (self.stage, &self.header) else {
            return Err(Problem::OutOfOrder);
        };
        if end.chunks != chunks {
            return Err(Problem::Counts);
        }
        if end.hash != <[u8; 32]>::from(self.hash.finalize_reset()) {
            return Err(Problem::Hash);
        }
        let source = VerifyingKey::from_bytes(&header.source).map_err(|_| Problem::Signature)?;
        let signature = Signature::from_bytes(&end.signature);
        source.verify_strict(&message(header_hash, &end.hash), &signature).map_err(|_| Problem::Signature)?;
        let hash = hash(header_hash, &end.hash);
        self.stage = Stage::End(end, hash);
        Ok(Part::End { end, hash })
    }
}

impl Sealed<'_> {
    /// Whether both parts have the lengths of the suite.
    pub(super) const fn is_possible(&self, suite: super::Suite) -> bool {
        self.enc.len() == suite.enc_bytes() && self.key.len() == SEALED_KEY_BYTES
    }
}

impl Chunk<'_> {
    /// Whether it is as full as it has to be.
    pub(super) const fn is_possible(&self) -> bool {
        const FULL: usize = CHUNK_BYTES + TAG_BYTES;
        let length = self.sealed.len();
        length == FULL || (self.is_last && length > TAG_BYTES && length < FULL)
    }
}
