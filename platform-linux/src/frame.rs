//! Frames on the control socket: {length u32, kind u8}, little-endian, then `length` bytes.
//!
//! A body is postcard, or the raw bytes of one secret: secrets travel in frames of their
//! own, into buffers that are wiped. A length is checked before anything is allocated, so
//! a peer that announces 1 GB costs nothing. Reading and writing go through `embedded-io`,
//! so the same frames fit a serial line of a firmware. No frame outlives its connection.

use embedded_io::{Read, ReadExactError, Write};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// Longest body of a request, bytes. The longest we make is under 1 KiB.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Longest body of an answer, bytes: a status of 64 slots, each with four applications,
/// the longest names and a fault everywhere, is about 220 KiB.
pub const ANSWER_BYTES_MAX: usize = 512 * 1024;
/// {length u32, kind u8}.
const HEADER_BYTES: usize = 5;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request, postcard.
    Request,
    /// One secret, raw.
    Secret,
    /// An answer, postcard.
    Answer,
}

/// Why no frame came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameProblem {
    /// The peer closed the connection, in the middle of a frame or before one.
    #[error("the connection ended before the frame did")]
    Ended,
    /// The length is beyond what its kind allows.
    #[error("the frame is longer than is taken")]
    TooLong,
    /// Another kind of frame was due.
    #[error("a frame of another kind was due")]
    WrongKind,
    /// The body is not what it should be.
    #[error("the frame's content is not readable")]
    Unreadable,
    /// Nothing came, or nothing was taken, in time.
    #[error("the frame did not come in time")]
    Late,
    /// The connection failed.
    #[error("the connection failed")]
    Broken,
}

/// Sends one postcard frame.
///
/// # Errors
/// [`FrameProblem::TooLong`], [`FrameProblem::Broken`], [`FrameProblem::Late`].
pub fn send<W: Write>(to: &mut W, kind: Kind, what: &impl Serialize) -> Result<(), FrameProblem> {
    let body = postcard::to_stdvec(what).map_err(|_| FrameProblem::Unreadable)?;
    send_bytes(to, kind, &body)
}

/// Sends one secret.
///
/// # Errors
/// As [`send`].
pub fn send_secret<W: Write>(to: &mut W, secret: &[u8]) -> Result<(), FrameProblem> {
    send_bytes(to, Kind::Secret, secret)
}

/// Receives one postcard frame: exactly one value, nothing behind it.
///
/// # Errors
/// [`FrameProblem`].
pub fn receive<T: DeserializeOwned, R: Read>(from: &mut R, kind: Kind) -> Result<T, FrameProblem> {
    let body = receive_bytes(from, kind, kind.bytes_max())?;
    match postcard::take_from_bytes(&body) {
        Ok((value, [])) => Ok(value),
        Ok(_) | Err(_) => Err(FrameProblem::Unreadable),
    }
}

/// Receives one secret of at most `bytes_max` bytes.
///
/// # Errors
/// [`FrameProblem`].
pub fn receive_secret<R: Read>(from: &mut R, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, FrameProblem> {
    receive_bytes(from, Kind::Secret, bytes_max.min(Kind::Secret.bytes_max()))
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Kind::Request => 1,
            Kind::Secret => 2,
            Kind::Answer => 3,
        }
    }

    const fn bytes_max(self) -> usize {
        match self {
            Kind::Request | Kind::Secret => REQUEST_BYTES_MAX,
            Kind::Answer => ANSWER_BYTES_MAX,
        }
    }
}

fn send_bytes<W: Write>(to: &mut W, kind: Kind, body: &[u8]) -> Result<(), FrameProblem> {
    if body.len() > kind.bytes_max() {
        return Err(FrameProblem::TooLong);
    }
    let length = u32::try_from(body.len()).map_err(|_| FrameProblem::TooLong)?.to_le_bytes();
    let header = [length[0], length[1], length[2], length[3], kind.byte()];
    to.write_all(&header).map_err(broken)?;
    to.write_all(body).map_err(broken)?;
    to.flush().map_err(broken)
}

fn receive_bytes<R: Read>(from: &mut R, kind: Kind, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, FrameProblem> {
    let mut header = [0; HEADER_BYTES];
    read_exact(from, &mut header)?;
    let [a, b, c, d, found] = header;
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).map_err(|_| FrameProblem::TooLong)?;
    if length > bytes_max {
        return Err(FrameProblem::TooLong);
    }
    if found != kind.byte() {
        return Err(FrameProblem::WrongKind);
    }
    // Filled in place: a buffer that grew would leave copies of a secret behind.
    let mut body = Zeroizing::new(vec![0; length]);
    read_exact(from, &mut body)?;
    Ok(body)
}

fn read_exact<R: Read>(from: &mut R, buffer: &mut [u8]) -> Result<(), FrameProblem> {
    from.read_exact(buffer).map_err(|error| match error {
        ReadExactError::UnexpectedEof => FrameProblem::Ended,
        ReadExactError::Other(other) => broken(other),
    })
}

fn broken(error: impl embedded_io::Error) -> FrameProblem {
    match error.kind() {
        embedded_io::ErrorKind::TimedOut => FrameProblem::Late,
        _ => FrameProblem::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(kind: Kind, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        send_bytes(&mut bytes, kind, body).expect("a vector takes everything");
        bytes
    }

    #[test]
    fn a_length_of_one_gigabyte_is_refused_before_anything_is_allocated() {
        let mut bytes = 0x4000_0000u32.to_le_bytes().to_vec();
        bytes.push(1);
        assert_eq!(receive::<String, _>(&mut bytes.as_slice(), Kind::Request), Err(FrameProblem::TooLong));
        assert_eq!(send_bytes(&mut Vec::new(), Kind::Answer, &[0; ANSWER_BYTES_MAX + 1]), Err(FrameProblem::TooLong));
    }

    #[test]
    fn every_part_of_a_frame_is_refused_as_ended() {
        let mut whole = Vec::new();
        send(&mut whole, Kind::Request, &"ca-root".to_owned()).expect("a vector takes everything");
        for length in 0..whole.len() {
            let problem = receive::<String, _>(&mut &whole[..length], Kind::Request);
            assert_eq!(problem, Err(FrameProblem::Ended), "{length} bytes");
        }
        assert_eq!(receive::<String, _>(&mut whole.as_slice(), Kind::Request).as_deref(), Ok("ca-root"));
    }

    #[test]
    fn another_kind_and_bytes_behind_the_value_are_refused() {
        let frame = framed(Kind::Answer, b"\x01a");
        assert_eq!(receive::<String, _>(&mut frame.as_slice(), Kind::Request), Err(FrameProblem::WrongKind));
        let frame = framed(Kind::Request, b"\x01ab");
        assert_eq!(receive::<String, _>(&mut frame.as_slice(), Kind::Request), Err(FrameProblem::Unreadable));
        let frame = framed(Kind::Secret, &[b'x'; 65]);
        assert_eq!(receive_secret(&mut frame.as_slice(), 64), Err(FrameProblem::TooLong));
        let frame = framed(Kind::Secret, b"hunter22");
        assert_eq!(receive_secret(&mut frame.as_slice(), 64).as_deref().map(Vec::as_slice), Ok(b"hunter22".as_slice()));
    }

    proptest! {
        #[test]
        fn p42_garbage_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = receive::<crate::wire::Request, _>(&mut bytes.as_slice(), Kind::Request);
            let _ = receive::<crate::wire::Request, _>(&mut framed(Kind::Request, &bytes).as_slice(), Kind::Request);
            let _ = receive::<crate::wire::Answered, _>(&mut framed(Kind::Answer, &bytes).as_slice(), Kind::Answer);
            let _ = receive_secret(&mut bytes.as_slice(), 64);
        }
    }
}
