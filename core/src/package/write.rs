//! Writing a package, frame by frame. Making it durable is for whoever gave the writer.

use embedded_io::Write;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::{Chunk, Commitment, End, Header, Kind, MAGIC, SHORT_BYTES_MAX, Sealed, VERSION, WriteProblem};
use crate::frame::{self, HEAD_BYTES};

/// Writes one file, from its beginning to its end: [`Writer::begin`], [`Writer::seal`] for each target,
/// [`Writer::commit`], [`Writer::chunk`]s, and the signature of [`Writer::unsigned`].
#[derive(Debug)]
pub struct Writer<W> {
    w: W,
    header: Header,
    header_hash: [u8; 32],
    /// Every byte behind the header's frame.
    hash: Sha256,
    stage: Stage,
}

/// What may be written next.
#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The sealed key of the target in this place; with none left, the commitment.
    Sealed(usize),
    /// A chunk with this number.
    Chunk(u32),
    /// The end, after so many chunks.
    AfterLast(u32),
    /// Nothing: it was written, or something went wrong in the middle of a frame.
    Nothing,
}

impl<W: Write> Writer<W> {
    /// Writes magic, version and header.
    ///
    /// # Errors
    /// [`WriteProblem`]
    pub fn begin(mut w: W, header: Header) -> Result<Self, WriteProblem<W::Error>> {
        if !header.is_possible() {
            return Err(WriteProblem::Impossible);
        }
        let start = frame::start(MAGIC, VERSION);
        let mut hash = Sha256::new().chain_update(start);
        frame::write_all(&mut w, &start)?;
        write_short(&mut w, Kind::Header, &header, &mut hash)?;
        let header_hash = hash.finalize_reset().into();
        Ok(Writer { w, header, header_hash, hash, stage: Stage::Sealed(0) })
    }

    /// The hash of the header and what comes before it: what keys are sealed and chunks encrypted with.
    #[must_use]
    pub const fn header_hash(&self) -> &[u8; 32] {
        &self.header_hash
    }

    /// Writes the sealed key of the next target.
    ///
    /// # Errors
    /// [`WriteProblem`]
    pub fn seal(&mut self, sealed: &Sealed<'_>) -> Result<(), WriteProblem<W::Error>> {
        let Stage::Sealed(place) = self.stage else {
            return Err(WriteProblem::Impossible);
        };
        if self.header.targets.get(place) != Some(&sealed.target) || !sealed.is_possible(self.header.suite) {
            return Err(WriteProblem::Impossible);
        }
        self.short(Kind::Sealed, sealed, Stage::Sealed(place.saturating_add(1)))
    }

    /// Writes the commitment, after the keys of all targets.
    ///
    /// # Errors
    /// [`WriteProblem`]
    pub fn commit(&mut self, commitment: &Commitment) -> Result<(), WriteProblem<W::Error>> {
        match self.stage {
            Stage::Sealed(place) if place == self.header.targets.len() => {
                self.short(Kind::Commitment, commitment, Stage::Chunk(0))
            }
            Stage::Sealed(_) | Stage::Chunk(_) | Stage::AfterLast(_) | Stage::Nothing => Err(WriteProblem::Impossible),
        }
    }

    /// Writes the next chunk, which has the number of those before it.
    ///
    /// # Errors
    /// [`WriteProblem`]
    pub fn chunk(&mut self, chunk: &Chunk<'_>) -> Result<(), WriteProblem<W::Error>> {
        let Stage::Chunk(number) = self.stage else {
            return Err(WriteProblem::Impossible);
        };
        let next = number.checked_add(1).filter(|_| chunk.is_possible()).ok_or(WriteProblem::Impossible)?;
        // A chunk's form is these two values and then its bytes as they are, which are not copied here.
        let mut before = [0; 8];
        let length = frame::encode(&(chunk.is_last, chunk.sealed.len()), &mut before).ok_or(WriteProblem::TooLong)?;
        let before = before.get(..length).ok_or(WriteProblem::TooLong)?;
        let body_bytes = length.checked_add(chunk.sealed.len()).and_then(|bytes| u32::try_from(bytes).ok());
        let head = frame::head(Kind::Chunk.number(), body_bytes.ok_or(WriteProblem::TooLong)?);
        self.stage = Stage::Nothing;
        for bytes in [&head, before, chunk.sealed] {
            self.hash.update(bytes);
            frame::write_all(&mut self.w, bytes)?;
        }
        self.stage = if chunk.is_last { Stage::AfterLast(next) } else { Stage::Chunk(next) };
        Ok(())
    }

    /// The end that would fit here, with a signature of zeros, once the last chunk is written: what
    /// is left to do is to sign [`super::message`] of the header's hash and its hash.
    #[must_use]
    pub fn unsigned(&self) -> Option<End> {
        match self.stage {
            Stage::AfterLast(chunks) => {
                Some(End { chunks, hash: self.hash.clone().finalize().into(), signature: [0; 64] })
            }
            Stage::Sealed(_) | Stage::Chunk(_) | Stage::Nothing => None,
        }
    }

    /// Ends the file with the signature of [`Writer::unsigned`]; answers with the package's hash and the writer.
    ///
    /// # Errors
    /// [`WriteProblem`]
    pub fn end(mut self, signature: [u8; 64]) -> Result<([u8; 32], W), WriteProblem<W::Error>> {
        let end = End { signature, ..self.unsigned().ok_or(WriteProblem::Impossible)? };
        self.short(Kind::End, &end, Stage::Nothing)?;
        Ok((super::hash(&self.header_hash, &end.hash), self.w))
    }

    fn short(&mut self, kind: Kind, body: &impl Serialize, then: Stage) -> Result<(), WriteProblem<W::Error>> {
        self.stage = Stage::Nothing;
        write_short(&mut self.w, kind, body, &mut self.hash)?;
        self.stage = then;
        Ok(())
    }
}

/// Writes any frame but a chunk.
fn write_short<W: Write>(
    w: &mut W,
    kind: Kind,
    body: &impl Serialize,
    hash: &mut Sha256,
) -> Result<(), WriteProblem<W::Error>> {
    frame::write_frame::<{ HEAD_BYTES + SHORT_BYTES_MAX }, W>(w, kind.number(), body, hash)
}
