//! Writing an export. Header and trailer are written by the process that holds the node's key,
//! sections by the one that holds the token: what ties them is the header's hash. A frame is
//! handed over in one piece; making it durable is for whoever gave the writer.

use embedded_io::Write;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{
    Entry, FRAME_BYTES_MAX, HASH_BYTES, Header, Kind, LeftOut, MAGIC, MESSAGE_BYTES, Piece, Section, SectionEnd,
    Trailer, VERSION, VendorPart, section_message,
};
use crate::frame::{self, HEAD_BYTES, WriteProblem};

/// Writes magic, version and header; answers with the hash that every section and the trailer
/// are tied to.
///
/// # Errors
/// [`WriteProblem`]
pub fn begin<W: Write>(mut w: W, header: &Header) -> Result<[u8; HASH_BYTES], WriteProblem<W::Error>> {
    if !header.is_possible() {
        return Err(WriteProblem::Impossible);
    }
    let mut hash = Sha256::new();
    let start = frame::start(MAGIC, VERSION);
    hash.update(start);
    frame::write_all(&mut w, &start)?;
    write_frame(&mut w, Kind::Header, header, &mut hash)?;
    Ok(hash.finalize().into())
}

/// Writes the trailer. Its hash and counts are those of [`super::Reader::unsigned`].
///
/// # Errors
/// [`WriteProblem`]
pub fn write_trailer<W: Write>(mut w: W, trailer: &Trailer) -> Result<(), WriteProblem<W::Error>> {
    write_frame(&mut w, Kind::Trailer, trailer, &mut Sha256::new())
}

/// Writes one section, from its beginning to its end.
#[derive(Debug)]
pub struct SectionWriter<W> {
    w: W,
    header_hash: [u8; HASH_BYTES],
    frames: Sha256,
    entries: u32,
    left_out: u32,
    vendor: VendorPart,
}

impl<W: Write> SectionWriter<W> {
    /// Begins the section of a slot.
    ///
    /// # Errors
    /// [`WriteProblem`]
    pub fn begin(
        mut w: W,
        header_hash: [u8; HASH_BYTES],
        section: &Section<'_>,
    ) -> Result<Self, WriteProblem<W::Error>> {
        let mut frames = Sha256::new();
        write_frame(&mut w, Kind::Section, section, &mut frames)?;
        let vendor = VendorPart::of(section.strategy);
        Ok(SectionWriter { w, header_hash, frames, entries: 0, left_out: 0, vendor })
    }

    /// Writes an object; its index is [`SectionWriter::entries`].
    ///
    /// # Errors
    /// [`WriteProblem`]
    pub fn entry(&mut self, entry: &Entry<'_>) -> Result<(), WriteProblem<W::Error>> {
        let possible =
            self.vendor.takes_entries() && entry.index == self.entries && entry.is_possible() && entry.has_attributes();
        let next = self.entries.checked_add(1).filter(|_| possible).ok_or(WriteProblem::Impossible)?;
        write_frame(&mut self.w, Kind::Entry, entry, &mut self.frames)?;
        self.entries = next;
        Ok(())
    }

    /// Writes that a key is not in the export.
    ///
    /// # Errors
    /// [`WriteProblem`]
    pub fn left_out(&mut self, left_out: &LeftOut<'_>) -> Result<(), WriteProblem<W::Error>> {
        let possible = self.vendor.takes_entries() && left_out.class.has(left_out.key_type);
        let next = self.left_out.checked_add(1).filter(|_| possible).ok_or(WriteProblem::Impossible)?;
        write_frame(&mut self.w, Kind::LeftOut, left_out, &mut self.frames)?;
        self.left_out = next;
        Ok(())
    }

    /// Writes a piece of the vendor part; nothing but the section's end comes behind the last one.
    ///
    /// # Errors
    /// [`WriteProblem`]
    pub fn piece(&mut self, piece: &Piece<'_>) -> Result<(), WriteProblem<W::Error>> {
        let next = self.vendor.with(piece).map_err(|_| WriteProblem::Impossible)?;
        write_frame(&mut self.w, Kind::Piece, piece, &mut self.frames)?;
        self.vendor = next;
        Ok(())
    }

    /// Entries so far, which is the index of the next.
    #[must_use]
    pub const fn entries(&self) -> u32 {
        self.entries
    }

    /// Left-out keys so far.
    #[must_use]
    pub const fn left_out_keys(&self) -> u32 {
        self.left_out
    }

    /// What the slot's MAK authenticates, once everything of the section is written.
    #[must_use]
    pub fn message(&self) -> [u8; MESSAGE_BYTES] {
        section_message(&self.header_hash, &self.frames.clone().finalize().into())
    }

    /// Ends the section with the MAC of [`SectionWriter::message`].
    ///
    /// # Errors
    /// [`WriteProblem`]
    pub fn end(mut self, mac: [u8; HASH_BYTES]) -> Result<SectionEnd, WriteProblem<W::Error>> {
        if !self.vendor.may_end() {
            return Err(WriteProblem::Impossible);
        }
        let end = SectionEnd { entries: self.entries, left_out: self.left_out, mac };
        write_frame(&mut self.w, Kind::SectionEnd, &end, &mut self.frames)?;
        Ok(end)
    }
}

fn write_frame<W: Write>(
    w: &mut W,
    kind: Kind,
    body: &impl Serialize,
    hash: &mut Sha256,
) -> Result<(), WriteProblem<W::Error>> {
    frame::write_frame::<{ HEAD_BYTES + FRAME_BYTES_MAX }, W>(w, kind.number(), body, hash)
}
