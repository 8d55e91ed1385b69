//! Frames: what all files of ours have in common.
//!
//! A file is a magic of four bytes, a version byte and frames {kind u8, length u32 big-endian,
//! body}; a body is the [postcard](https://postcard.jamesmunns.com) form of a struct, in its
//! only canonical form. What kinds there are, in which order and how long, each format says itself.
//! Nothing here survives a restart.

use embedded_io::{Error as _, ErrorKind, Read, Write};
use postcard::ser_flavors::{Flavor, Slice};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Bytes before a body: kind and length.
pub const HEAD_BYTES: usize = 5;
/// Bytes of magic and version.
pub(crate) const START_BYTES: usize = 5;

/// Declares the problems of a format: variant, name, sentence, one line each.
macro_rules! problems {
    ($(#[$about:meta])* $($variant:ident $name:literal $sentence:literal;)*) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[cfg_attr(feature = "defmt", derive(defmt::Format))]
        pub enum Problem {
            $(#[doc = $sentence] $variant,)*
        }

        impl Problem {
            /// Every one.
            pub const ALL: &'static [Problem] = &[$(Problem::$variant,)*];

            /// The stable name, for scripts.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Problem::$variant => $name,)* }
            }

            /// What is so, for people.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Problem::$variant => $sentence,)* }
            }
        }

        impl From<$crate::frame::Broken> for Problem {
            fn from(broken: $crate::frame::Broken) -> Self {
                use $crate::frame::Broken;
                match broken {
                    Broken::Unreadable => Problem::Unreadable,
                    Broken::NotOurs => Problem::NotOurs,
                    Broken::Newer => Problem::Newer,
                    Broken::Truncated => Problem::Truncated,
                    Broken::TooLong => Problem::TooLong,
                }
            }
        }
    };
}
pub(crate) use problems;

/// What can be wrong with the frames of whatever format; each has a problem for every one of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The file could not be read to its end.
    Unreadable,
    /// It does not begin with the magic; also a file that is too short to be told, and the empty one.
    NotOurs,
    /// Another version.
    Newer,
    /// It ends too early.
    Truncated,
    /// A frame is longer than the format allows.
    TooLong,
}

/// A frame whose body was not read yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    /// Which kind.
    pub(crate) kind: u8,
    /// As it is in the file.
    pub(crate) bytes: [u8; HEAD_BYTES],
    length: u32,
}

impl Head {
    /// Bytes of the body.
    pub(crate) fn length(self) -> usize {
        usize::try_from(self.length).unwrap_or(usize::MAX)
    }
}

/// Reads magic and version, and answers with them.
pub(crate) fn read_start<R: Read>(r: &mut R, magic: [u8; 4], version: u8) -> Result<[u8; START_BYTES], Broken> {
    let (mut found, mut its_version) = ([0; 4], [0]);
    if !fill(r, &mut found)? || found != magic {
        return Err(Broken::NotOurs);
    }
    if !fill(r, &mut its_version)? {
        return Err(Broken::Truncated);
    }
    if its_version == [version] { Ok(start(magic, version)) } else { Err(Broken::Newer) }
}

/// Reads kind and length.
pub(crate) fn read_head<R: Read>(r: &mut R) -> Result<Head, Broken> {
    let mut bytes = [0; HEAD_BYTES];
    if !fill(r, &mut bytes)? {
        return Err(Broken::Truncated);
    }
    let [kind, length @ ..] = bytes;
    Ok(Head { kind, bytes, length: u32::from_be_bytes(length) })
}

/// Reads the body into the beginning of `out`, which is as long as a body may be.
pub(crate) fn read_body<'body, R: Read>(r: &mut R, head: Head, out: &'body mut [u8]) -> Result<&'body [u8], Broken> {
    let body = out.get_mut(..head.length()).ok_or(Broken::TooLong)?;
    if fill(r, body)? { Ok(body) } else { Err(Broken::Truncated) }
}

/// Fills all of `out`; false where the file ends before that.
pub(crate) fn fill<R: Read>(r: &mut R, mut out: &mut [u8]) -> Result<bool, Broken> {
    while !out.is_empty() {
        match r.read(out) {
            Ok(0) => return Ok(false),
            Ok(bytes) => out = out.get_mut(bytes..).ok_or(Broken::Unreadable)?,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Err(Broken::Unreadable),
        }
    }
    Ok(true)
}

/// Why something was not written. What was written before it is no whole file any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteProblem<E> {
    /// The writer failed.
    Device(E),
    /// The writer took nothing and gave no reason.
    Stopped,
    /// A frame would be longer than the format allows; nothing of it was written.
    TooLong,
    /// No reader would take it, or not in this place; nothing of it was written.
    Impossible,
}

/// As [`Write::write_all`], which panics when nothing is taken.
pub(crate) fn write_all<W: Write>(w: &mut W, mut bytes: &[u8]) -> Result<(), WriteProblem<W::Error>> {
    while !bytes.is_empty() {
        match w.write(bytes) {
            Ok(0) => return Err(WriteProblem::Stopped),
            Ok(taken) => bytes = bytes.get(taken..).unwrap_or(&[]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(WriteProblem::Device(error)),
        }
    }
    Ok(())
}

/// Magic and version.
pub(crate) const fn start(magic: [u8; 4], version: u8) -> [u8; START_BYTES] {
    let [a, b, c, d] = magic;
    [a, b, c, d, version]
}

/// What comes before a body: kind and length.
pub(crate) const fn head(kind: u8, body_bytes: u32) -> [u8; HEAD_BYTES] {
    let [a, b, c, d] = body_bytes.to_be_bytes();
    [kind, a, b, c, d]
}

/// Writes a frame in one piece and adds it to the hash. With its head it has at most `FRAME_BYTES` bytes.
pub(crate) fn write_frame<const FRAME_BYTES: usize, W: Write>(
    w: &mut W,
    kind: u8,
    body: &impl Serialize,
    hash: &mut Sha256,
) -> Result<(), WriteProblem<W::Error>> {
    let mut frame = [0; FRAME_BYTES];
    let (begin, place) = frame.split_at_mut_checked(HEAD_BYTES).ok_or(WriteProblem::TooLong)?;
    // Nothing in our structs but their length can be refused by postcard.
    let written = encode(body, place).ok_or(WriteProblem::TooLong)?;
    let length = u32::try_from(written).map_err(|_| WriteProblem::TooLong)?;
    begin.iter_mut().zip(head(kind, length)).for_each(|(place, byte)| *place = byte);
    let frame = frame.get(..HEAD_BYTES.saturating_add(written)).ok_or(WriteProblem::TooLong)?;
    hash.update(frame);
    write_all(w, frame)
}

/// Takes a body that is the only form of what it holds, and no other: postcard also reads numbers
/// with zeros before them, and a signature must not cover one file and mean another.
pub(crate) fn decode<'body, T: Deserialize<'body> + Serialize>(body: &'body [u8]) -> Option<T> {
    let (value, rest) = postcard::take_from_bytes::<T>(body).ok()?;
    let mut serializer = postcard::Serializer { output: Same(body) };
    let is_same = value.serialize(&mut serializer).is_ok() && serializer.output.0.is_empty();
    (rest.is_empty() && is_same).then_some(value)
}

/// Writes the form of `body` to the beginning of `out`; how many bytes it has, or `None` where it does not fit.
pub(crate) fn encode(body: &impl Serialize, out: &mut [u8]) -> Option<usize> {
    let mut serializer = postcard::Serializer { output: Slice::new(out) };
    body.serialize(&mut serializer).ok()?;
    serializer.output.finalize().ok().map(|written| written.len())
}

/// SHA-256 of the version byte and the form of `value` behind it.
pub(crate) fn digest(version: u8, value: &impl Serialize) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([version]);
    let mut serializer = postcard::Serializer { output: Hashed(hash) };
    // Only what has no length of its own is refused by postcard, and a hash is never full.
    let _ = value.serialize(&mut serializer);
    serializer.output.0.finalize().into()
}

/// Puts parts behind each other.
pub(crate) fn joined<const BYTES: usize>(domain: &[u8], parts: &[&[u8]]) -> [u8; BYTES] {
    let mut message = [0; BYTES];
    let bytes = domain.iter().chain(parts.iter().copied().flatten());
    message.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
    message
}

/// Holds what is written against what is there, instead of writing it.
struct Same<'a>(&'a [u8]);

impl Flavor for Same<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        match self.0.split_first() {
            Some((first, rest)) if *first == byte => {
                self.0 = rest;
                Ok(())
            }
            Some(_) | None => Err(postcard::Error::SerializeBufferFull),
        }
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Hashes what is written, instead of writing it.
struct Hashed(Sha256);

impl Flavor for Hashed {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.update([byte]);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.update(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}
