//! Only one serving worker at a time, and when it may be killed.
//!
//! When a daemon dies its worker still finishes the call in progress. The next daemon's
//! worker must not log in or change a PIN meanwhile, so it waits for a `flock` on one file
//! in the state directory. The file is also the mark of what its holder is doing:
//!
//! | the holder is inside | its token file | who may end it |
//! |---|---|---|
//! | `C_SetPIN`, `C_InitPIN`, `C_InitToken` | SoftHSM truncates and rewrites it | a person |
//! | `C_Login` | SoftHSM rewrites its flags, after a refusal and after a success | anybody, after `login_wait` |
//! | nothing of these | is not written | anybody, after the wait for the lock |
//!
//! A kill inside a rewrite can destroy the token. A login takes milliseconds and its
//! rewrite microseconds: one that is not back after `login_wait` (120 s) hangs, on its
//! device or in a lock, and no longer writes. Waiting on would leave every slot locked;
//! so it is killed, while a PIN change that hangs waits for a person. The operator is told
//! after each wait. The daemon asks the same of its own worker when it no longer believes
//! it ([`end`]).
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
const TEXT_BYTES: usize = 35;

/// The lock of the serving worker; held until this process ends.
pub(crate) struct WorkerLock {
    file: File,
    calls: Mutex<Calls>,
}

/// What a worker is inside of, as its lock file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Calls {
    /// `C_SetPIN`, `C_InitPIN`, `C_InitToken`.
    changing: u32,
    /// `C_Login`.
    logging_in: u32,
}

/// A kind of call during which the module may rewrite a token file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rewrites {
    /// `C_SetPIN`, `C_InitPIN`, `C_InitToken`: ended by a person only.
    Pin,
    /// `C_Login`: ended after a long wait.
    Flags,
}

/// While this lives, the lock file says that the worker is inside such a call.
pub(super) struct Marked<'a>(&'a WorkerLock, Rewrites);

/// How a try to end a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It was killed, or had ended.
    Ended,
    /// It lives, because it is inside this.
    Spared(Rewrites),
    /// It lives, because the kernel refused.
    Refused,
}

impl WorkerLock {
    /// Waits for the lock; `None` when the daemon closed the socket meanwhile.
    ///
    /// # Errors
    /// When the file cannot be made or written.
    pub(super) fn take(
        path: &Path,
        wait: Duration,
        login_wait: Duration,
        daemon: &UnixStream,
        replies: &Replies,
    ) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let begun = Instant::now();
        let mut deadline = begun + wait;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {
                    let lock = WorkerLock { file, calls: Mutex::default() };
                    lock.write(Calls::default())?;
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
                replies.note(end_holder(&file, begun.elapsed() >= login_wait));
            }
            thread::sleep(TRY_INTERVAL);
        }
    }

    /// Marks the file for the time of one call.
    pub(super) fn mark(&self, rewrites: Rewrites) -> Marked<'_> {
        self.count(rewrites, 1);
        Marked(self, rewrites)
    }

    fn count(&self, rewrites: Rewrites, change: i32) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let count = match rewrites {
            Rewrites::Pin => &mut calls.changing,
            Rewrites::Flags => &mut calls.logging_in,
        };
        *count = count.saturating_add_signed(change);
        // The bytes are there since `take` and are written over: that needs no space. Where
        // even this fails the state directory is lost, and so is the daemon that could kill.
        let _ = self.write(*calls);
    }

    fn write(&self, calls: Calls) -> io::Result<()> {
        let Calls { changing, logging_in } = calls;
        let text = format!("{:>12} {changing:>10} {logging_in:>10}\n", std::process::id());
        rustix::io::pwrite(&self.file, text.as_bytes(), 0)?;
        Ok(())
    }
}

impl Calls {
    /// What forbids the kill; `logins_too` once a login was waited for long enough.
    fn forbid(self, logins_too: bool) -> Option<Rewrites> {
        match self {
            Calls { changing: 1.., .. } => Some(Rewrites::Pin),
            Calls { logging_in: 1.., .. } if !logins_too => Some(Rewrites::Flags),
            Calls { .. } => None,
        }
    }
}

impl Drop for Marked<'_> {
    fn drop(&mut self) {
        self.0.count(self.1, -1);
    }
}

/// Kills the worker `process`, unless the lock file says that it is inside a call that
/// forbids it. A file that names another process says that this one holds no lock and
/// makes no call; one that cannot be read says nothing, and `unread` decides.
pub(crate) fn end(process: Pid, lock_file: &File, logins_too: bool, unread: Option<Rewrites>) -> End {
    let forbidden = || match read(lock_file) {
        Some((holder, calls)) if holder == process => calls.forbid(logins_too),
        Some(_) => None,
        None => unread,
    };
    if let Some(rewrites) = forbidden() {
        return End::Spared(rewrites);
    }
    // A pidfd names this process and no later one with the same number.
    let Ok(process_fd) = rustix::process::pidfd_open(process, PidfdFlags::empty()) else { return End::Ended };
    // Stopped first: otherwise it could begin a PIN change between our look and the kill.
    let stopped = rustix::process::pidfd_send_signal(&process_fd, Signal::STOP).is_ok() && stops(process);
    let forbidden = forbidden();
    if stopped && forbidden.is_none() {
        return match rustix::process::pidfd_send_signal(&process_fd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => End::Ended,
            Err(_) => End::Refused,
        };
    }
    // It goes on from where it was; if it is gone, there is nothing to continue.
    let _ = rustix::process::pidfd_send_signal(&process_fd, Signal::CONT);
    forbidden.map_or(End::Refused, End::Spared)
}

/// Kills the holder if it may be killed; returns what the operator is told.
fn end_holder(file: &File, logins_too: bool) -> String {
    let Some((holder, _)) = read(file) else {
        return "an HSM worker of an earlier daemon holds the lock, and the lock file does not say which".into();
    };
    let number = holder.as_raw_nonzero();
    match end(holder, file, logins_too, Some(Rewrites::Pin)) {
        End::Ended => {
            format!("HSM worker {number} of an earlier daemon did not finish its calls in time and was killed")
        }
        End::Refused => {
            format!("HSM worker {number} of an earlier daemon did not finish its calls in time and could not be killed")
        }
        End::Spared(Rewrites::Pin) => {
            format!("HSM worker {number} of an earlier daemon is changing a PIN and is not killed; waiting on")
        }
        End::Spared(Rewrites::Flags) => {
            format!("HSM worker {number} of an earlier daemon is logging in and is not killed yet; waiting on")
        }
    }
}

/// Whether every thread of the process is seen stopped, or ended, within a second.
fn stops(process: Pid) -> bool {
    let path = format!("/proc/{}/task", process.as_raw_nonzero());
    for _ in 0..100 {
        // Nothing to list: the process was reaped.
        let Ok(threads) = fs::read_dir(&path) else { return true };
        if threads.flatten().all(|thread| is_still(&thread.path())) {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    false
}

/// Whether the thread of this folder in /proc runs no instruction: it is stopped or ended.
fn is_still(thread: &Path) -> bool {
    // The state is the first field behind the name, which may itself hold brackets.
    let state = fs::read_to_string(thread.join("stat")).ok().and_then(|stat| stat.rsplit(") ").next()?.chars().next());
    matches!(state, None | Some('T' | 't' | 'Z' | 'X'))
}

/// Who holds the lock and which calls it is inside of.
fn read(file: &File) -> Option<(Pid, Calls)> {
    let mut bytes = [0; TEXT_BYTES];
    let count = rustix::io::pread(file, &mut bytes, 0).ok()?;
    let text = std::str::from_utf8(bytes.get(..count)?).ok()?;
    let mut words = text.split_whitespace();
    let holder = Pid::from_raw(words.next()?.parse().ok()?)?;
    let changing = words.next()?.parse().ok()?;
    let logging_in = words.next()?.parse().ok()?;
    Some((holder, Calls { changing, logging_in }))
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
        let first = WorkerLock::take(&path, wait, wait, &theirs, &replies).expect("a writable directory");
        assert!(first.is_some());
        drop(ours);
        assert!(WorkerLock::take(&path, wait, wait, &theirs, &replies).expect("a writable directory").is_none());
        drop(daemon);
    }

    #[test]
    fn the_file_says_who_holds_it_and_whether_it_may_be_killed() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
        let path = dir.path().join("worker.lock");
        let (_daemon, replies) = replies();
        let (_ours, theirs) = UnixStream::pair().expect("a socketpair");
        let wait = Duration::from_secs(60);
        let lock = WorkerLock::take(&path, wait, wait, &theirs, &replies);
        let lock = lock.expect("a writable directory").expect("nobody else holds it");
        let us = rustix::process::getpid();
        assert_eq!(read(&lock.file), Some((us, Calls::default())));
        let marks = (lock.mark(Rewrites::Pin), lock.mark(Rewrites::Pin), lock.mark(Rewrites::Flags));
        assert_eq!(read(&lock.file), Some((us, Calls { changing: 2, logging_in: 1 })));
        // This process is the holder: that it runs on shows that it was not even stopped.
        assert_eq!(end(us, &lock.file, true, None), End::Spared(Rewrites::Pin));
        drop((marks.0, marks.1));
        assert_eq!(end(us, &lock.file, false, None), End::Spared(Rewrites::Flags));
        assert_eq!(Calls { changing: 0, logging_in: 1 }.forbid(true), None);
        drop(marks.2);
        assert_eq!(read(&lock.file), Some((us, Calls::default())));
    }

    #[test]
    fn a_worker_is_killed_when_the_file_names_another_and_spared_when_it_cannot_be_read() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
        let path = dir.path().join("worker.lock");
        fs::write(&path, "garbage").expect("a fresh directory");
        let file = File::open(&path).expect("it was just written");
        let mut child = std::process::Command::new("sleep").arg("600").spawn().expect("coreutils are there");
        let process = Pid::from_child(&child);
        assert_eq!(end(process, &file, true, Some(Rewrites::Pin)), End::Spared(Rewrites::Pin));
        assert!(child.try_wait().expect("our own child").is_none());
        fs::write(&path, format!("{} 1 0\n", std::process::id())).expect("our own directory");
        assert_eq!(end(process, &file, false, Some(Rewrites::Pin)), End::Ended);
        assert!(!child.wait().expect("our own child").success());
    }
}
