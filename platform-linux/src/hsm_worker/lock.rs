//! Only one serving worker at a time.
//!
//! When a daemon dies its worker still finishes the call in progress. The next daemon's
//! worker must not log in or change a PIN meanwhile, so it waits for a `flock` on one file
//! in the state directory. The file says who holds it and how many calls run that must not
//! be killed: SoftHSM rewrites its token file in place inside `C_SetPIN`, `C_InitPIN` and
//! `C_InitToken`. After the wait the holder is killed, unless it is inside one of those;
//! then the wait goes on and the operator is told every time it ended.
//!
//! The kernel drops the lock when its holder dies, so nothing has to be cleaned up.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags, Signal};

use super::Replies;

/// Between two tries for the lock.
const TRY_INTERVAL: Duration = Duration::from_millis(10);
/// Fixed width, so that rewriting the file in place leaves nothing of the text before.
const TEXT_BYTES: usize = 24;

/// The lock of the serving worker; held until this process ends.
pub(crate) struct WorkerLock {
    file: File,
    careful_calls: Mutex<u32>,
}

/// While this lives, the lock file says that the worker must not be killed.
pub(super) struct Careful<'a>(&'a WorkerLock);

impl WorkerLock {
    /// Waits for the lock; `None` when the daemon closed the socket meanwhile.
    ///
    /// # Errors
    /// When the file cannot be made or written.
    pub(super) fn take(
        path: &Path,
        wait: Duration,
        daemon: &UnixStream,
        replies: &Replies,
    ) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut deadline = Instant::now() + wait;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    let lock = WorkerLock { file, careful_calls: Mutex::new(0) };
                    lock.write(0)?;
                    return Ok(Some(lock));
                }
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if daemon_is_gone(daemon)? {
                return Ok(None);
            }
            if Instant::now() >= deadline {
                deadline = Instant::now() + wait;
                replies.note(end_holder(&file));
            }
            thread::sleep(TRY_INTERVAL);
        }
    }

    /// Marks the file for the time of one call.
    pub(super) fn carefully(&self) -> Careful<'_> {
        self.count(1);
        Careful(self)
    }

    fn count(&self, change: i32) {
        let mut calls = self.careful_calls.lock().unwrap_or_else(PoisonError::into_inner);
        *calls = calls.saturating_add_signed(change);
        // A mark that cannot be written costs the next daemon's patience only, never this call.
        let _ = self.write(*calls);
    }

    fn write(&self, calls: u32) -> io::Result<()> {
        let text = format!("{:>12} {calls:>10}\n", std::process::id());
        rustix::io::pwrite(&self.file, text.as_bytes(), 0)?;
        Ok(())
    }
}

impl Drop for Careful<'_> {
    fn drop(&mut self) {
        self.0.count(-1);
    }
}

/// Kills the holder if it may be killed; returns what the operator is told.
fn end_holder(file: &File) -> String {
    let Some((holder, _)) = read(file) else {
        return "an HSM worker of an earlier daemon holds the lock, and the lock file does not say which".into();
    };
    // A pidfd names this process and no later one with the same number.
    let Ok(process) = rustix::process::pidfd_open(holder, PidfdFlags::empty()) else {
        return format!("HSM worker {} of an earlier daemon has just ended", holder.as_raw_nonzero());
    };
    // Stopped first: otherwise it could begin a PIN change between our look and the kill.
    let stopped = rustix::process::pidfd_send_signal(&process, Signal::STOP).is_ok() && stops(holder);
    let number = holder.as_raw_nonzero();
    match read(file) {
        Some((again, 0)) if again == holder && stopped => {
            let killed = rustix::process::pidfd_send_signal(&process, Signal::KILL);
            let how = if killed.is_ok() { "was killed" } else { "could not be killed" };
            format!("HSM worker {number} of an earlier daemon did not finish its calls in time and {how}")
        }
        _ => {
            // It goes on from where it was; if it is gone, there is nothing to continue.
            let _ = rustix::process::pidfd_send_signal(&process, Signal::CONT);
            format!("HSM worker {number} of an earlier daemon is changing a PIN and is not killed; waiting on")
        }
    }
}

/// Whether the process is seen stopped within a second.
fn stops(holder: Pid) -> bool {
    let path = format!("/proc/{}/stat", holder.as_raw_nonzero());
    for _ in 0..100 {
        // The state is the first field behind the name, which may itself hold brackets.
        let state = fs::read_to_string(&path).ok().and_then(|stat| stat.rsplit(") ").next()?.chars().next());
        match state {
            Some('T') => return true,
            Some(_) => thread::sleep(Duration::from_millis(10)),
            None => return false,
        }
    }
    false
}

/// Who holds the lock and how many calls it makes that must not be killed.
fn read(file: &File) -> Option<(Pid, u32)> {
    let mut bytes = [0; TEXT_BYTES];
    let count = rustix::io::pread(file, &mut bytes, 0).ok()?;
    let text = std::str::from_utf8(bytes.get(..count)?).ok()?;
    let mut words = text.split_whitespace();
    let holder = Pid::from_raw(words.next()?.parse().ok()?)?;
    Some((holder, words.next()?.parse().ok()?))
}

fn daemon_is_gone(daemon: &UnixStream) -> io::Result<bool> {
    let mut watched = [PollFd::new(daemon, PollFlags::RDHUP)];
    match poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(!watched[0].revents().is_empty()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn replies() -> (UnixStream, Replies) {
        let (ours, theirs) = UnixStream::pair().expect("a socketpair");
        (ours, Replies(Arc::new(Mutex::new(theirs))))
    }

    #[test]
    fn a_second_worker_waits_until_the_daemon_gives_up() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
        let path = dir.path().join("worker.lock");
        let (daemon, replies) = replies();
        let (ours, theirs) = UnixStream::pair().expect("a socketpair");
        let wait = Duration::from_secs(60);
        let first = WorkerLock::take(&path, wait, &theirs, &replies).expect("a writable directory");
        assert!(first.is_some());
        drop(ours);
        assert!(WorkerLock::take(&path, wait, &theirs, &replies).expect("a writable directory").is_none());
        drop(daemon);
    }

    #[test]
    fn the_file_says_who_holds_it_and_whether_it_may_be_killed() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
        let path = dir.path().join("worker.lock");
        let (_daemon, replies) = replies();
        let (_ours, theirs) = UnixStream::pair().expect("a socketpair");
        let lock = WorkerLock::take(&path, Duration::from_secs(60), &theirs, &replies);
        let lock = lock.expect("a writable directory").expect("nobody else holds it");
        let us = rustix::process::getpid();
        assert_eq!(read(&lock.file), Some((us, 0)));
        let one = lock.carefully();
        let other = lock.carefully();
        assert_eq!(read(&lock.file), Some((us, 2)));
        drop((one, other));
        assert_eq!(read(&lock.file), Some((us, 0)));
    }
}
