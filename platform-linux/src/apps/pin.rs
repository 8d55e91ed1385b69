//! A token PIN on its way to an application: a copy out of the Safe, wiped when dropped.
//!
//! It is in one allocation of its final size, so that no copy stays behind in a smaller
//! one; moving it moves the pointer. It cannot be printed.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, pipe_with};
use slotwarden_core::SecretId;
use zeroize::Zeroizing;

use crate::devices::Lend;

/// A token PIN, 1 to 64 bytes of printable ASCII.
pub struct Pin(Zeroizing<Vec<u8>>);

impl Pin {
    /// A copy of this secret; `None` for a stale id.
    #[must_use]
    pub fn of(id: SecretId, secrets: &dyn Lend) -> Option<Self> {
        let mut pin = None;
        let lent = secrets.lend(id, &mut |bytes| pin = Some(Pin(Zeroizing::new(bytes.to_vec()))));
        pin.filter(|_| lent)
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The reading end of a pipe that holds exactly the PIN and then ends. A pipe lies in
    /// the kernel's own memory, which is never swapped (a memfd can be), and goes with its
    /// last reader.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn into_pipe(self) -> io::Result<OwnedFd> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        // Far below PIPE_BUF (pipe(7)): an empty pipe takes it whole, without waiting.
        let written = rustix::io::write(&writer, self.bytes())?;
        if written == self.bytes().len() { Ok(reader) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Pin(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;

    use super::*;

    /// Lends one secret under every id.
    struct One(&'static [u8]);

    impl Lend for One {
        fn lend(&self, _: SecretId, read: &mut dyn FnMut(&[u8])) -> bool {
            read(self.0);
            !self.0.is_empty()
        }
    }

    fn id() -> SecretId {
        let mut safe = slotwarden_core::Safe::<1>::new();
        safe.fill(|_| 1).expect("it is empty")
    }

    #[test]
    fn p03_a_pin_on_its_way_cannot_be_printed() {
        let pin = Pin::of(id(), &One(b"hunter2")).expect("it is lent");
        assert_eq!(format!("{pin:?}"), "Pin(hidden)");
    }

    #[test]
    fn a_stale_id_gives_none_and_a_pipe_holds_exactly_the_pin() {
        assert!(Pin::of(id(), &One(b"")).is_none());
        let pipe = Pin::of(id(), &One(b"hunter2")).expect("it is lent").into_pipe().expect("there is a pipe");
        let mut read = Vec::new();
        File::from(pipe).read_to_end(&mut read).expect("our own pipe");
        assert_eq!(read, b"hunter2");
    }
}
