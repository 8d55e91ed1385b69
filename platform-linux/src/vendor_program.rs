//! The backup program of an HSM's vendor: the way for slots whose keys cannot leave by RFC 5649.
//!
//! | order | what it does |
//! |---|---|
//! | `PROGRAM backup TOKEN-LABEL TOKEN-SERIAL` | writes the backup to its standard output |
//! | `PROGRAM restore TOKEN-LABEL TOKEN-SERIAL` | reads such a backup from its standard input |
//!
//! Exit 0 means done. What the bytes are only the program knows: to us they are opaque. It is run as the
//! adapters' programs are ([`crate::apps::program`]): fixed arguments and no shell, an environment of one
//! known word, a process group of its own, and an end. It is told no secret: how it proves itself to the HSM
//! is between the two. So, other than an adapter, it may say something: the first line that it writes to its
//! standard error goes into the log.
//!
//! A restore is given a whole file, not a pipe: a program whose daemon was killed reads to the right end or
//! is killed too, and never takes half a backup for one. After a power cut a restore whose import was ordered
//! runs the program again, so it has to be repeatable.

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::apps::program::PATH;

/// What a program may write of its reasons into the log, characters.
const SAID_CHARS_MAX: usize = 200;
/// Bytes of its standard error that are looked at for that.
const SAID_BYTES_MAX: usize = 4 * SAID_CHARS_MAX;
/// How often somebody who stops it is noticed.
const STOP_INTERVAL: Duration = Duration::from_millis(100);
/// What it started may still write so long after it ended.
const DRAIN_WAIT: Duration = Duration::from_secs(2);

/// The program of one slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VendorProgram {
    /// Absolute.
    pub path: PathBuf,
    /// The token's label.
    pub label: String,
    /// The token's serial.
    pub serial: String,
}

/// When a run ends at the latest.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<'a> {
    /// By the clock.
    pub until: Instant,
    /// Because nobody waits for it any more.
    pub stopped: &'a AtomicBool,
}

impl VendorProgram {
    /// Writes a backup of the token into `into`; returns how many bytes it has, from 1 to `bytes_max`.
    ///
    /// # Errors
    /// Why there is none, for people. What `into` holds then is to be thrown away.
    pub fn backup(&self, into: &mut dyn Write, bytes_max: u64, bounds: Bounds<'_>) -> Result<u64, String> {
        let bytes = self.run("backup", Stdio::null(), Some((into, bytes_max)), bounds)?;
        if bytes == 0 {
            return Err(format!("{} wrote no backup", self.path.display()));
        }
        Ok(bytes)
    }

    /// Hands a whole backup to the program.
    ///
    /// # Errors
    /// Why it was not restored, for people. What the program did until then nobody knows.
    pub fn restore(&self, from: File, bounds: Bounds<'_>) -> Result<(), String> {
        self.run("restore", Stdio::from(from), None, bounds).map(|_| ())
    }

    fn run(
        &self,
        order: &str,
        input: Stdio,
        output: Option<(&mut dyn Write, u64)>,
        bounds: Bounds<'_>,
    ) -> Result<u64, String> {
        let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", self.path.display());
        let mut command = Command::new(&self.path);
        command.args([order, &self.label, &self.serial]).env_clear().env("PATH", PATH).current_dir("/");
        command.stdin(input).stdout(if output.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.stderr(Stdio::piped()).process_group(0).spawn().map_err(|error| failed(&error))?;
        // Our copy of the input is closed with it.
        drop(command);
        let mut said = Vec::new();
        let followed = follow(&mut child, output, &mut said, bounds);
        // It is not reaped yet, so the number is still its own; what it started ends with it.
        let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        let status = child.wait().map_err(|error| failed(&error))?;
        let because = first_line(&said).map(|line| format!(": {line}")).unwrap_or_default();
        let bytes = followed.map_err(|why| failed(&format!("{why}{because}")))?;
        if status.success() { Ok(bytes) } else { Err(failed(&format!("{status}{because}"))) }
    }
}

/// Takes what the program writes until it has ended; how many bytes of output.
fn follow(
    child: &mut Child,
    mut output: Option<(&mut dyn Write, u64)>,
    said: &mut Vec<u8>,
    bounds: Bounds<'_>,
) -> Result<u64, String> {
    let text = |error: io::Error| error.to_string();
    let watched = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).map_err(|errno| text(errno.into()))?;
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let mut buffer = vec![0; 64 * 1024];
    let (mut bytes, mut ended_at) = (0u64, None::<Instant>);
    loop {
        let now = Instant::now();
        if bounds.stopped.load(Ordering::SeqCst) {
            return Err("ended, since nobody waits for it any more".to_owned());
        }
        if now >= bounds.until {
            return Err("killed after its time".to_owned());
        }
        match ended_at {
            Some(_) if stdout.is_none() => return Ok(bytes),
            Some(at) if now >= at + DRAIN_WAIT => return Err("it ended, and what it started still writes".to_owned()),
            Some(_) | None => {}
        }
        let [ended, wrote, told] = ready(&watched, stdout.as_ref(), stderr.as_ref(), ended_at.is_some())?;
        if let Some(from) = stdout.as_mut().filter(|_| wrote) {
            match from.read(&mut buffer).map_err(text)? {
                0 => stdout = None,
                count => {
                    bytes += count as u64;
                    if let Some((into, bytes_max)) = &mut output {
                        if bytes > *bytes_max {
                            return Err(format!("its backup is longer than {bytes_max} bytes"));
                        }
                        into.write_all(&buffer[..count])
                            .map_err(|error| format!("its backup cannot be kept: {error}"))?;
                    }
                }
            }
        }
        if let Some(from) = stderr.as_mut().filter(|_| told) {
            match from.read(&mut buffer).map_err(text)? {
                0 => stderr = None,
                // What is said beyond that is taken, so that it does not wait for us, and dropped.
                count => said.extend(&buffer[..count.min(SAID_BYTES_MAX.saturating_sub(said.len()))]),
            }
        }
        if ended {
            ended_at = Some(now);
        }
    }
}

/// Which of the three has something: the process (its end), its output, its errors. Waits a moment.
fn ready(
    watched: &impl std::os::fd::AsFd,
    stdout: Option<&ChildStdout>,
    stderr: Option<&ChildStderr>,
    has_ended: bool,
) -> Result<[bool; 3], String> {
    // The process first: when it says that it has ended, everything that it wrote is in the pipes.
    let open =
        [(!has_ended).then(|| watched.as_fd()), stdout.map(|pipe| pipe.as_fd()), stderr.map(|pipe| pipe.as_fd())];
    let mut asked: Vec<PollFd<'_>> =
        open.iter().flatten().map(|one| PollFd::from_borrowed_fd(*one, PollFlags::IN)).collect();
    let wait = Timespec::try_from(STOP_INTERVAL).expect("a tenth of a second is one");
    match poll(&mut asked, Some(&wait)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(io::Error::from(errno).to_string()),
    }
    let mut answers = asked.iter().map(|one| !one.revents().is_empty());
    Ok(open.map(|one| one.is_some() && answers.next() == Some(true)))
}

/// The first line that is not empty, as it may stand in a log.
fn first_line(said: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(said);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().map(|char| if char.is_control() { ' ' } else { char }).take(SAID_CHARS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    /// A stand-in for a vendor's program: a shell script.
    fn stand_in(folder: &Path, script: &str) -> VendorProgram {
        let path = folder.join("stand-in");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("the folder is there");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        VendorProgram { path, label: "ca root".into(), serial: "0123".into() }
    }

    fn backup_of(script: &str, bytes_max: u64, within: Duration) -> Result<Vec<u8>, String> {
        let folder = tempfile::tempdir().expect("there is a place for temporary files");
        let (mut into, stopped) = (Vec::new(), AtomicBool::new(false));
        let bounds = Bounds { until: Instant::now() + within, stopped: &stopped };
        let bytes = stand_in(folder.path(), script).backup(&mut into, bytes_max, bounds)?;
        assert_eq!(bytes, into.len() as u64);
        Ok(into)
    }

    #[test]
    fn every_backup_that_is_none_is_refused_with_its_reason() {
        let refused = |script, wanted: &str| {
            let why = backup_of(script, 1000, LONG).expect_err(script);
            assert!(why.contains(wanted), "{script}: {why}");
        };
        refused("exit 0", "wrote no backup");
        refused("echo half; echo 'no\tHSM there' >&2; echo more >&2; exit 3", "exit status: 3: no HSM there");
        refused("echo half; kill -9 $$", "signal: 9");
        refused("head -c 1001 /dev/zero", "longer than 1000 bytes");
        refused("cat /dev/zero", "longer than 1000 bytes");
        // Its own process ended well, and what it started holds its output.
        refused("echo half; setsid sleep 5 & exit 0", "still writes");
        let missing = VendorProgram { path: "/nowhere/program".into(), label: "a".into(), serial: "b".into() };
        let stopped = AtomicBool::new(false);
        let bounds = Bounds { until: Instant::now() + LONG, stopped: &stopped };
        let why = missing.backup(&mut Vec::new(), 1000, bounds).expect_err("it is missing");
        assert!(why.contains("/nowhere/program: No such file"), "{why}");
        assert_eq!(backup_of("head -c 1000 /dev/zero", 1000, LONG), Ok(vec![0; 1000]));
    }

    #[test]
    fn a_program_that_hangs_or_that_nobody_waits_for_is_ended_with_everything_it_started() {
        let folder = tempfile::tempdir().expect("there is a place for temporary files");
        let ids = folder.path().join("ids");
        let script = format!("echo begun; sleep 600 & echo $$ $! > {}; wait", ids.display());
        let why = backup_of(&script, 1000, Duration::from_secs(1)).expect_err("it hangs");
        assert!(why.contains("killed after its time"), "{why}");
        for id in fs::read_to_string(&ids).expect("the script wrote it").split_whitespace() {
            let gone = (0..100).any(|_| {
                let state = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
                let gone = state.is_empty() || state.contains(") Z ") || state.contains(") X ");
                if !gone {
                    thread::sleep(Duration::from_millis(50));
                }
                gone
            });
            assert!(gone, "{id} still runs");
        }
        let stopped = AtomicBool::new(true);
        let bounds = Bounds { until: Instant::now() + LONG, stopped: &stopped };
        let why = stand_in(folder.path(), "sleep 600").backup(&mut Vec::new(), 1000, bounds).expect_err("stopped");
        assert!(why.contains("nobody waits"), "{why}");
    }

    #[test]
    fn a_program_gets_three_arguments_one_word_and_no_input() {
        let script = "test $# = 3 && test \"$1/$2/$3\" = 'backup/ca root/0123' || exit 9\n\
                      env | grep -v -e ^PATH= -e ^PWD= -e ^SHLVL= -e ^_= -e ^OLDPWD= && exit 8\n\
                      read -r line && exit 7\n\
                      echo good";
        assert_eq!(backup_of(script, 1000, LONG), Ok(b"good\n".to_vec()));
    }

    #[test]
    fn a_restore_reads_the_whole_backup_and_fails_by_its_first_word() {
        let folder = tempfile::tempdir().expect("there is a place for temporary files");
        let (part, copy) = (folder.path().join("part"), folder.path().join("copy"));
        let bytes: Vec<u8> = (0..300_000u32).flat_map(u32::to_be_bytes).collect();
        fs::write(&part, &bytes).expect("the folder is there");
        let stopped = AtomicBool::new(false);
        let restore = |script: &str| {
            let bounds = Bounds { until: Instant::now() + LONG, stopped: &stopped };
            stand_in(folder.path(), script).restore(File::open(&part).expect("it is there"), bounds)
        };
        let why = restore("head -c 10 > /dev/null; echo 'wrong HSM' >&2; exit 1").expect_err("it refused");
        assert!(why.ends_with("exit status: 1: wrong HSM"), "{why}");
        assert_eq!(restore(&format!("test $1 = restore && cat > {}", copy.display())), Ok(()));
        assert_eq!(fs::read(copy).expect("it was written"), bytes);
    }
}
