//! A connection to the simulator: one question, one answer, in frames.
//!
//! A frame is its length (u32, little-endian), a byte and a body; the table is in the
//! simulator's `reader.rs`. A connection that broke is forgotten and made anew at the next
//! question: whether a command that was under way reached the card is then unknown.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Is a card in?
pub(crate) const PRESENCE: u8 = 1;
/// Give it power.
pub(crate) const POWER: u8 = 2;
/// Take it away.
pub(crate) const POWER_OFF: u8 = 3;
/// Reset it.
pub(crate) const RESET: u8 = 4;
/// Send it a command.
pub(crate) const TRANSMIT: u8 = 5;
/// Ask the keypad.
pub(crate) const CONTROL: u8 = 6;
/// Wait until a card comes or goes.
const WAIT: u8 = 7;
/// Is a card in, for somebody who does not follow what comes and goes?
pub(crate) const CARD: u8 = 8;

/// Longest answer that is taken, bytes: that of an extended command and some more.
const FRAME_BYTES_MAX: u32 = 0x1_1000;
/// How long `wait` sleeps where nobody serves the socket.
const ABSENT_PAUSE: Duration = Duration::from_millis(100);

/// What the simulator answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Done, with this.
    Done(Vec<u8>),
    /// No card is in, or it was pulled.
    NoCard,
    /// The reader has no such feature.
    NotSupported,
    /// Nobody answered.
    Broken,
}

/// A connection, and where to make it again.
pub(crate) struct Channel {
    path: PathBuf,
    stream: Mutex<Option<UnixStream>>,
    /// Of the same connection, to end a question that waits.
    handle: Mutex<Option<UnixStream>>,
    present: Mutex<u8>,
    /// Nobody is to wait any more.
    interrupted: AtomicBool,
}

impl Channel {
    /// Not yet connected.
    pub(crate) fn new(path: PathBuf) -> Self {
        Channel {
            path,
            stream: Mutex::default(),
            handle: Mutex::default(),
            present: Mutex::default(),
            interrupted: AtomicBool::new(false),
        }
    }

    /// Asks; `body` is sent in one frame.
    pub(crate) fn ask(&self, kind: u8, body: &[&[u8]]) -> Answer {
        let mut stream = held(&self.stream);
        // A connection that the simulator closed meanwhile says so only when it is used.
        if stream.as_ref().is_some_and(is_closed) {
            *stream = None;
        }
        let answer = match &mut *stream {
            Some(open) => talk(open, kind, body),
            none => UnixStream::connect(&self.path).and_then(|fresh| {
                *held(&self.handle) = fresh.try_clone().ok();
                talk(none.insert(fresh), kind, body)
            }),
        };
        answer.unwrap_or_else(|_| {
            *stream = None;
            Answer::Broken
        })
    }

    /// Returns when a card came or went since the last time, and after so long.
    pub(crate) fn wait(&self, longest_ms: u32) {
        if self.interrupted.load(Ordering::Acquire) {
            return;
        }
        let known = *held(&self.present);
        match self.ask(WAIT, &[&[known], &longest_ms.to_le_bytes()]) {
            Answer::Done(answer) => *held(&self.present) = answer.first().copied().unwrap_or(0),
            _ => std::thread::sleep(ABSENT_PAUSE),
        }
    }

    /// Ends a question that waits; none waits from now on.
    pub(crate) fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Release);
        if let Some(handle) = held(&self.handle).take() {
            let _ = handle.shutdown(Shutdown::Both);
        }
    }
}

/// Whether the other side closed: then there is an end to be read, and nothing else.
fn is_closed(stream: &UnixStream) -> bool {
    let peeked = stream.set_nonblocking(true).and_then(|()| (&*stream).read(&mut [0]));
    let closed = !matches!(&peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    closed || stream.set_nonblocking(false).is_err()
}

fn talk(stream: &mut UnixStream, kind: u8, body: &[&[u8]]) -> io::Result<Answer> {
    let body = body.concat();
    let len = u32::try_from(body.len() + 1).map_err(io::Error::other)?;
    let mut frame = len.to_le_bytes().to_vec();
    frame.push(kind);
    frame.extend(body);
    stream.write_all(&frame)?;
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    let len = u32::from_le_bytes(len);
    if len == 0 || len > FRAME_BYTES_MAX {
        return Err(io::Error::other("an answer of no length"));
    }
    let mut outcome = [0];
    stream.read_exact(&mut outcome)?;
    let mut said = vec![0; usize::try_from(len - 1).map_err(io::Error::other)?];
    stream.read_exact(&mut said)?;
    match outcome {
        [0] => Ok(Answer::Done(said)),
        [1] => Ok(Answer::NoCard),
        [2] => Ok(Answer::NotSupported),
        _ => Err(io::Error::other("an answer of no kind")),
    }
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}
