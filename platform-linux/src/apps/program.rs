//! A program that an adapter runs: a list of arguments and no shell, an environment of
//! known words, one descriptor, a process group of its own, and an end.
//!
//! What it writes goes nowhere: a program that was given a token PIN may print it, and then
//! the PIN would stand in our log. It keeps a log of its own if it needs one.

use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use slotwarden_core::fault::ApplicationFault;

use super::Failed;

/// Where a program finds others; the daemon's own path is not inherited.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program with its arguments, and who runs it.
#[derive(Clone, Debug)]
pub struct Program {
    /// Absolute path, then arguments.
    pub command: Vec<String>,
    /// User and group, if not the daemon's; other groups are given up.
    pub ids: Option<(u32, u32)>,
}

impl Program {
    /// Runs it to its end, which has to be exit 0. `input` is its descriptor 0; without it
    /// the program reads nothing. At `until` its whole process group is killed.
    ///
    /// # Errors
    /// [`ApplicationFault::NotStarted`], [`ApplicationFault::Exited`], [`ApplicationFault::TimedOut`].
    pub fn run(&self, words: &[(&str, &str)], input: Option<Stdio>, until: Instant) -> Result<(), Failed> {
        let (program, arguments) = self.command.split_first().expect("the configuration refuses an empty command");
        let mut command = Command::new(program);
        command.args(arguments).env_clear().env("PATH", PATH).envs(words.iter().copied()).current_dir("/");
        command.stdin(input.unwrap_or_else(Stdio::null)).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        if let Some((uid, gid)) = self.ids {
            // As root the standard library gives up the other groups too.
            command.uid(uid).gid(gid);
        }
        let not_started = |error: io::Error| Failed::new(ApplicationFault::NotStarted, format!("{program}: {error}"));
        let mut child = command.spawn().map_err(not_started)?;
        // The copy of the input in `command` is closed: the program's end is the last one.
        drop(command);
        match wait(&child, until) {
            Ok(true) => {}
            Ok(false) => {
                end(&mut child);
                return Err(Failed::new(ApplicationFault::TimedOut, format!("{program}: killed after its time")));
            }
            Err(errno) => {
                end(&mut child);
                return Err(not_started(errno.into()));
            }
        }
        let status = child.wait().map_err(not_started)?;
        if status.success() {
            return Ok(());
        }
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
        let fault = ApplicationFault::Exited(u8::try_from(code).unwrap_or(u8::MAX));
        Err(Failed::new(fault, format!("{program}: {status}")))
    }
}

/// Whether the program ended before `until`. It is not reaped by this.
fn wait(child: &Child, until: Instant) -> Result<bool, Errno> {
    let watched = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match poll(&mut [PollFd::new(&watched, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Kills the program and everything it started in its group, and reaps it.
fn end(child: &mut Child) {
    // It is not reaped yet, so the number is still its own.
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn run(command: &[&str], within: Duration) -> Result<(), ApplicationFault> {
        let program = Program { command: command.iter().map(|&word| word.to_owned()).collect(), ids: None };
        program.run(&[("WORD", "a b")], None, Instant::now() + within).map_err(|failed| failed.fault)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn every_way_to_fail_has_its_fault() {
        assert_eq!(run(&["/nowhere/program"], LONG), Err(ApplicationFault::NotStarted));
        assert_eq!(run(&["/etc/passwd"], LONG), Err(ApplicationFault::NotStarted));
        assert_eq!(run(&["/bin/sh", "-c", "exit 7"], LONG), Err(ApplicationFault::Exited(7)));
        assert_eq!(run(&["/bin/sh", "-c", "kill -9 $$"], LONG), Err(ApplicationFault::Exited(137)));
        assert_eq!(run(&["/bin/true"], LONG), Ok(()));
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_everything_it_started() {
        let folder = tempfile::tempdir().expect("there is a place for temporary files");
        let ids = folder.path().join("ids");
        let script = format!("sleep 600 & echo $$ $! > {}; wait", ids.display());
        assert_eq!(run(&["/bin/sh", "-c", &script], Duration::from_secs(1)), Err(ApplicationFault::TimedOut));
        let ids = std::fs::read_to_string(ids).expect("the script wrote it");
        for id in ids.split_whitespace() {
            // A killed process dies when it is next scheduled, and whoever adopts it may be slow to reap it.
            let mut state = String::new();
            for _ in 0..100 {
                state = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
                if state.is_empty() || state.contains(") Z ") || state.contains(") X ") {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            assert!(state.is_empty() || state.contains(") Z ") || state.contains(") X "), "{state}");
        }
    }

    #[test]
    fn a_program_gets_the_words_and_nothing_else() {
        let script = "test \"$WORD\" = 'a b' && ! read -r line && \
                      test \"$(env | grep -v -e ^PATH= -e ^PWD= -e ^SHLVL= -e ^_= -e ^OLDPWD=)\" = 'WORD=a b'";
        assert_eq!(run(&["/bin/sh", "-c", script], LONG), Ok(()));
    }
}
