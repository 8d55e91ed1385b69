//! Reading an export, part by part, in the memory of one frame.

use ed25519_dalek::{Signature, VerifyingKey};
use embedded_io::Read;
use heapless::Vec;
use sha2::{Digest as _, Sha256};

use super::{
    Entry, FRAME_BYTES_MAX, HASH_BYTES, Header, Kind, LeftOut, MAGIC, MESSAGE_BYTES, Piece, SECTIONS_MAX, Section,
    SectionEnd, Trailer, VERSION, VendorPart, section_message, trailer_message,
};
use crate::frame::{self, HEAD_BYTES, decode, problems};

problems! {
    /// Why a file is no export. No part of it may be used.
    Unreadable "unreadable" "the file could not be read to its end";
    NotOurs "not-ours" "the file does not begin as an export";
    Newer "newer" "the export has a version that is not known here";
    Truncated "truncated" "the file ends too early";
    TooLong "too-long" "a frame is longer than the format allows";
    UnknownFrame "unknown-frame" "a frame has a kind that the version does not have";
    OutOfOrder "out-of-order" "a frame is where none of its kind may be";
    Malformed "malformed" "a frame does not hold what its kind holds, in its only form";
    Attributes "attributes" "the attributes of an entry are cut or not in rising order";
    Index "index" "the indices of a section's entries do not rise by one from 0";
    Repeated "repeated" "two sections are of the same slot";
    Counts "counts" "the file says that it holds more, or less, than it does";
    Hash "hash" "the hash of the trailer is not that of the file";
    Signature "signature" "the signature is not one of the node that the header names";
    Trailing "trailing" "something follows the end of the export";
}

/// What a file holds, in the order in which it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// Comes first.
    Header(Header),
    /// A section begins.
    Section(Section<'a>),
    /// An object.
    Entry(Entry<'a>),
    /// A key that is not in the export.
    LeftOut(LeftOut<'a>),
    /// A piece of the section's vendor part.
    Piece(Piece<'a>),
    /// A section ends.
    SectionEnd {
        /// Its counts, which are right, and its MAC, which was not checked.
        end: SectionEnd,
        /// What the MAC covers.
        message: [u8; MESSAGE_BYTES],
    },
    /// The whole file was read and is in order, but for the MACs.
    End {
        /// What it says, all of it right.
        trailer: Trailer,
    },
}

/// Reads a file. Reads are as long as a frame's head and body: give it something buffered.
#[derive(Debug)]
pub struct Reader<R> {
    r: R,
    known: Known,
    body: [u8; FRAME_BYTES_MAX],
}

/// What is known of the file so far.
#[derive(Debug)]
struct Known {
    stage: Stage,
    /// From the magic on while the header is read; then of every byte behind it.
    hash: Sha256,
    /// The section's frames before its end.
    frames: Sha256,
    header: Option<(Header, [u8; HASH_BYTES])>,
    /// The uids of the sections so far.
    uids: Vec<[u8; 16], SECTIONS_MAX>,
    /// Entries of the sections that ended.
    entries: u32,
    /// Left-out keys of the sections that ended.
    left_out: u32,
}

/// What may come next.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The magic and the header.
    Start,
    /// A section, or the trailer.
    Between,
    /// An object, a left-out key, a piece of a vendor part, or the section's end.
    Inside {
        /// Entries of this section so far.
        entries: u32,
        /// Left-out keys of this section so far.
        left_out: u32,
        /// Its vendor part so far.
        vendor: VendorPart,
    },
    /// Nothing: the file was read.
    End(Trailer),
    /// Nothing: the file was refused, and stays so.
    Refused(Problem),
}

impl<R: Read> Reader<R> {
    /// Reads from the first byte of a file on.
    pub fn new(r: R) -> Self {
        let known = Known {
            stage: Stage::Start,
            hash: Sha256::new(),
            frames: Sha256::new(),
            header: None,
            uids: Vec::new(),
            entries: 0,
            left_out: 0,
        };
        Reader { r, known, body: [0; FRAME_BYTES_MAX] }
    }

    /// The next part. After [`Part::End`] it is that again, after a problem the same problem.
    ///
    /// A file that has no trailer yet can be read to the end of a section, and is known up to
    /// there as [`Reader::unsigned`] says.
    ///
    /// # Errors
    /// Why the file is no export.
    // A `Part` borrows from the reader, which no `Iterator` can say.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Part<'_>, Problem> {
        match self.known.stage {
            Stage::End(trailer) => return Ok(Part::End { trailer }),
            Stage::Refused(problem) => return Err(problem),
            Stage::Start | Stage::Between | Stage::Inside { .. } => {}
        }
        let Reader { r, known, body } = self;
        let part = read_part(r, known, body);
        if let Err(problem) = part {
            known.stage = Stage::Refused(problem);
        }
        part
    }

    /// The hash of the header and what comes before it, once it was read.
    #[must_use]
    pub fn header_hash(&self) -> Option<[u8; HASH_BYTES]> {
        self.known.header.map(|(_, hash)| hash)
    }

    /// The trailer that would fit here, with a signature of zeros: what is left to do is to
    /// sign [`trailer_message`] of [`Reader::header_hash`] and its hash. `None` where no
    /// trailer may be: before the header, in a section, or with sections missing.
    #[must_use]
    pub fn unsigned(&self) -> Option<Trailer> {
        let known = &self.known;
        let (header, _) = known.header?;
        match known.stage {
            Stage::Between if usize::from(header.sections) == known.uids.len() => Some(Trailer {
                sections: header.sections,
                entries: known.entries,
                left_out: known.left_out,
                hash: known.hash.clone().finalize().into(),
                signature: [0; 64],
            }),
            Stage::Between | Stage::Start | Stage::Inside { .. } | Stage::End(_) | Stage::Refused(_) => None,
        }
    }
}

fn read_part<'body, R: Read>(
    r: &mut R,
    known: &mut Known,
    body: &'body mut [u8; FRAME_BYTES_MAX],
) -> Result<Part<'body>, Problem> {
    if matches!(known.stage, Stage::Start) {
        known.hash.update(frame::read_start(r, MAGIC, VERSION)?);
    }
    let head = frame::read_head(r)?;
    let kind = Kind::from_number(head.kind).ok_or(Problem::UnknownFrame)?;
    known.judge_place(kind)?;
    let body = frame::read_body(r, head, body)?;
    let part = known.judge(kind, head.bytes, body)?;
    if matches!(part, Part::End { .. }) && frame::fill(r, &mut [0])? {
        // The end was noted before it was known to be one: the caller notes this problem over it.
        return Err(Problem::Trailing);
    }
    Ok(part)
}

impl Known {
    /// Whether a frame of this kind may be here, before its body is read.
    fn judge_place(&self, kind: Kind) -> Result<(), Problem> {
        let may_be = match self.stage {
            Stage::Start => kind == Kind::Header,
            Stage::Between => matches!(kind, Kind::Section | Kind::Trailer),
            Stage::Inside { .. } => {
                matches!(kind, Kind::Entry | Kind::LeftOut | Kind::Piece | Kind::SectionEnd)
            }
            Stage::End(_) | Stage::Refused(_) => false,
        };
        if may_be { Ok(()) } else { Err(Problem::OutOfOrder) }
    }

    fn judge<'body>(&mut self, kind: Kind, head: [u8; HEAD_BYTES], body: &'body [u8]) -> Result<Part<'body>, Problem> {
        match kind {
            Kind::Header => {
                self.note(head, body);
                self.header(decode(body).ok_or(Problem::Malformed)?)
            }
            Kind::Section => {
                self.frames = Sha256::new();
                self.note_in_section(head, body);
                self.section(decode(body).ok_or(Problem::Malformed)?)
            }
            Kind::Entry => {
                self.note_in_section(head, body);
                self.entry(decode(body).ok_or(Problem::Malformed)?)
            }
            Kind::LeftOut => {
                self.note_in_section(head, body);
                self.left_out(decode(body).ok_or(Problem::Malformed)?)
            }
            Kind::Piece => {
                self.note_in_section(head, body);
                self.piece(decode(body).ok_or(Problem::Malformed)?)
            }
            Kind::SectionEnd => {
                self.note(head, body);
                self.section_end(decode(body).ok_or(Problem::Malformed)?)
            }
            Kind::Trailer => self.trailer(decode(body).ok_or(Problem::Malformed)?),
        }
    }

    fn note(&mut self, head: [u8; HEAD_BYTES], body: &[u8]) {
        self.hash.update(head);
        self.hash.update(body);
    }

    fn note_in_section(&mut self, head: [u8; HEAD_BYTES], body: &[u8]) {
        self.note(head, body);
        self.frames.update(head);
        self.frames.update(body);
    }

    fn header(&mut self, header: Header) -> Result<Part<'static>, Problem> {
        if !header.is_possible() {
            return Err(Problem::Malformed);
        }
        self.header = Some((header, self.hash.finalize_reset().into()));
        self.stage = Stage::Between;
        Ok(Part::Header(header))
    }

    fn section<'body>(&mut self, section: Section<'body>) -> Result<Part<'body>, Problem> {
        if self.uids.contains(&section.uid) {
            return Err(Problem::Repeated);
        }
        let (header, _) = self.header.ok_or(Problem::OutOfOrder)?;
        if self.uids.len() >= usize::from(header.sections) || self.uids.push(section.uid).is_err() {
            return Err(Problem::Counts);
        }
        self.stage = Stage::Inside { entries: 0, left_out: 0, vendor: VendorPart::of(section.strategy) };
        Ok(Part::Section(section))
    }

    fn entry<'body>(&mut self, entry: Entry<'body>) -> Result<Part<'body>, Problem> {
        let (entries, left_out, vendor) = self.before_vendor_part()?;
        if entry.index != entries {
            return Err(Problem::Index);
        }
        if !entry.has_attributes() {
            return Err(Problem::Attributes);
        }
        if !entry.is_possible() {
            return Err(Problem::Malformed);
        }
        self.stage = Stage::Inside { entries: entries.checked_add(1).ok_or(Problem::Counts)?, left_out, vendor };
        Ok(Part::Entry(entry))
    }

    fn left_out<'body>(&mut self, key: LeftOut<'body>) -> Result<Part<'body>, Problem> {
        let (entries, left_out, vendor) = self.before_vendor_part()?;
        if !key.class.has(key.key_type) {
            return Err(Problem::Malformed);
        }
        self.stage = Stage::Inside { entries, left_out: left_out.checked_add(1).ok_or(Problem::Counts)?, vendor };
        Ok(Part::LeftOut(key))
    }

    fn piece<'body>(&mut self, piece: Piece<'body>) -> Result<Part<'body>, Problem> {
        let (entries, left_out, vendor) = self.inside()?;
        self.stage = Stage::Inside { entries, left_out, vendor: vendor.with(&piece)? };
        Ok(Part::Piece(piece))
    }

    fn section_end(&mut self, end: SectionEnd) -> Result<Part<'static>, Problem> {
        let (entries, left_out, vendor) = self.inside()?;
        if (entries, left_out) != (end.entries, end.left_out) || !vendor.may_end() {
            return Err(Problem::Counts);
        }
        self.entries = self.entries.checked_add(end.entries).ok_or(Problem::Counts)?;
        self.left_out = self.left_out.checked_add(end.left_out).ok_or(Problem::Counts)?;
        let (_, header_hash) = self.header.ok_or(Problem::OutOfOrder)?;
        self.stage = Stage::Between;
        Ok(Part::SectionEnd { end, message: section_message(&header_hash, &self.frames.finalize_reset().into()) })
    }

    fn trailer(&mut self, trailer: Trailer) -> Result<Part<'static>, Problem> {
        let (header, header_hash) = self.header.ok_or(Problem::OutOfOrder)?;
        let counts = (usize::from(trailer.sections), trailer.entries, trailer.left_out);
        if counts != (self.uids.len(), self.entries, self.left_out) || trailer.sections != header.sections {
            return Err(Problem::Counts);
        }
        if trailer.hash != <[u8; HASH_BYTES]>::from(self.hash.finalize_reset()) {
            return Err(Problem::Hash);
        }
        let message = trailer_message(&header_hash, &trailer.hash);
        let node = VerifyingKey::from_bytes(&header.node).map_err(|_| Problem::Signature)?;
        let signature = Signature::from_bytes(&trailer.signature);
        node.verify_strict(&message, &signature).map_err(|_| Problem::Signature)?;
        self.stage = Stage::End(trailer);
        Ok(Part::End { trailer })
    }

    /// The same, where an entry or a left-out key may come.
    fn before_vendor_part(&self) -> Result<(u32, u32, VendorPart), Problem> {
        let inside = self.inside()?;
        if inside.2.takes_entries() { Ok(inside) } else { Err(Problem::OutOfOrder) }
    }

    /// Entries, left-out keys and vendor part of this section so far.
    const fn inside(&self) -> Result<(u32, u32, VendorPart), Problem> {
        match self.stage {
            Stage::Inside { entries, left_out, vendor } => Ok((entries, left_out, vendor)),
            Stage::Start | Stage::Between | Stage::End(_) | Stage::Refused(_) => Err(Problem::OutOfOrder),
        }
    }
}
