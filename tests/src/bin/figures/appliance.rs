//! An appliance to measure: SoftHSM tokens in memory, a store in memory, the released
//! program. What happened when is read from the daemon's own log, whose lines carry
//! microseconds.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use slotwarden_tests::excluded;

/// SoftHSM, where Debian puts it.
pub(crate) const SOFTHSM: &str = "/usr/lib/softhsm/libsofthsm2.so";
/// Nothing measured here takes as long.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the daemon logs before it executes its worker.
const WORKER_STARTS: &str = "the HSM worker starts";

/// One token directory with its configuration of SoftHSM.
pub(crate) struct Tokens {
    configuration: PathBuf,
    directory: PathBuf,
}

impl Tokens {
    pub(crate) fn new(place: &Path) -> Result<Self, String> {
        let directory = place.join("tokens");
        fs::create_dir_all(&directory).map_err(said("tokens"))?;
        let configuration = place.join("softhsm2.conf");
        let text =
            format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", directory.display());
        fs::write(&configuration, text).map_err(said("softhsm2.conf"))?;
        Ok(Tokens { configuration, directory })
    }

    /// Runs a program on these tokens to its end; returns what it printed.
    pub(crate) fn run(&self, command: &mut Command) -> Result<String, String> {
        let ended = command.env("SOFTHSM2_CONF", &self.configuration).stdin(Stdio::null()).output();
        let ended = ended.map_err(|error| format!("{command:?}: {error}"))?;
        if ended.status.success() {
            return Ok(String::from_utf8_lossy(&ended.stdout).into_owned());
        }
        Err(format!("{command:?} ended with {}: {}", ended.status, String::from_utf8_lossy(&ended.stderr)))
    }

    /// The same until it prints its first line; returns the milliseconds from before its start.
    pub(crate) fn time(&self, command: &mut Command) -> Result<f64, String> {
        use std::io::BufRead as _;
        let command = command.env("SOFTHSM2_CONF", &self.configuration).stdin(Stdio::null()).stdout(Stdio::piped());
        let began = Instant::now();
        let mut child = command.spawn().map_err(said("the floor"))?;
        let mut line = String::new();
        let output = child.stdout.take().ok_or("its output is a pipe")?;
        std::io::BufReader::new(output).read_line(&mut line).map_err(said("the floor"))?;
        let took_ms = began.elapsed().as_secs_f64() * 1e3;
        let ended = child.wait().map_err(said("the floor"))?;
        if ended.success() { Ok(took_ms) } else { Err(format!("the floor ended with {ended}")) }
    }
}

/// How one start differs from another.
#[derive(Clone, Default)]
pub(crate) struct Start {
    /// The forwarding module's variables; none: SoftHSM itself is loaded.
    pub(crate) forward: Vec<(String, String)>,
    /// `calls_in_flight_max`.
    pub(crate) calls: Option<u16>,
}

/// Slots `s0`, `s1`, ... with generated codes, each with an application.
pub(crate) struct Appliance {
    program: PathBuf,
    place: PathBuf,
    tokens: Tokens,
    slots: usize,
}

impl Appliance {
    /// Makes the tokens and gives each slot one.
    pub(crate) fn make(place: &Path, slots: usize) -> Result<Self, String> {
        fs::create_dir_all(place.join("state")).map_err(said("state"))?;
        let key = place.join("seal.key");
        fs::write(&key, [0xA5; 32]).map_err(said("seal.key"))?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).map_err(said("seal.key"))?;
        let so_pin = place.join("so-pin");
        fs::write(&so_pin, "so-pin-of-figures\n").map_err(said("so-pin"))?;
        let program = excluded::target_dir().join("release/slotwarden");
        let appliance = Appliance { program, place: place.to_owned(), tokens: Tokens::new(place)?, slots };
        let daemon = appliance.start(&Start::default())?;
        daemon.wait_line(|line| line.contains(" slots active"))?;
        for slot in 0..slots {
            let mut init = Command::new(&appliance.program);
            init.args(["slot", "init", &format!("s{slot}"), "--so-pin-file"]).arg(&so_pin);
            appliance.tokens.run(init.arg("--config").arg(appliance.configuration()))?;
        }
        daemon.stop()?;
        Ok(appliance)
    }

    fn configuration(&self) -> PathBuf {
        self.place.join("slotwarden.toml")
    }

    /// Starts the daemon and does not wait for it.
    pub(crate) fn start(&self, start: &Start) -> Result<Daemon, String> {
        let at = self.place.display();
        let module = if start.forward.is_empty() { Path::new(SOFTHSM) } else { slotwarden_tests::build::forward() };
        let mut text = format!(
            "state_dir = \"{at}/state\"\nsocket = \"{at}/control.sock\"\n[seal]\nkey_file = \"{at}/seal.key\"\n\
             [hsm]\nmodule = \"{}\"\nsettle_dir = \"{}\"\n",
            module.display(),
            self.tokens.directory.display()
        );
        if let Some(calls) = start.calls {
            let _ = writeln!(text, "calls_in_flight_max = {calls}");
        }
        for slot in 0..self.slots {
            let _ = write!(
                text,
                "[[slot]]\nname = \"s{slot}\"\ntoken = \"pkcs11:token=s{slot}\"\napplications = [\"a{slot}\"]\n\
                 [[application]]\nname = \"a{slot}\"\nadapter = \"pin-file\"\npath = \"{at}/a{slot}.pin\"\n"
            );
        }
        fs::write(self.configuration(), text).map_err(said("slotwarden.toml"))?;
        let log = self.place.join("daemon.log");
        let written = fs::File::create(&log).map_err(said("daemon.log"))?;
        let mut command = Command::new(&self.program);
        command.args(["daemon", "--config"]).arg(self.configuration());
        command.env("SOFTHSM2_CONF", &self.tokens.configuration).env("FORWARD_MODULE", SOFTHSM);
        command.envs(start.forward.iter().map(|(name, value)| (name, value)));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(written).spawn();
        Ok(Daemon { child: child.map_err(said("slotwarden"))?, log, slots: self.slots })
    }

    /// One activation of all slots: milliseconds from the exec of the worker until the last
    /// slot is active and everything is stored.
    pub(crate) fn activate(&self, start: &Start) -> Result<f64, String> {
        let daemon = self.start(start)?;
        let took_ms = daemon.all_active_ms()?;
        daemon.stop()?;
        Ok(took_ms)
    }

    /// One activation in which one slot's calls of this function do not return; milliseconds
    /// until the last of the others is active. Without a function nothing hangs, and the same
    /// slots are waited for.
    pub(crate) fn activate_others(&self, but: usize, start: &Start, hangs: Option<&str>) -> Result<f64, String> {
        let mut start = start.clone();
        if let Some(function) = hangs {
            start.forward.push(("FORWARD_HANG".into(), format!("s{but}:30:{function}")));
        }
        let daemon = self.start(&start)?;
        let but = format!(" active slot=\"s{but}\"");
        let is_other = |line: &str| line.contains(" active slot=") && !line.contains(&but);
        daemon.wait(|log| log.lines().filter(|line| is_other(line)).count() == self.slots - 1)?;
        let log = daemon.read()?;
        let took_ms = between_ms(&log, |line| line.contains(WORKER_STARTS), is_other)?;
        if hangs.is_some() {
            daemon.kill()?
        } else {
            daemon.stop()?
        }
        Ok(took_ms)
    }
}

/// A daemon that runs.
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
    slots: usize,
}

impl Daemon {
    /// Waits until all slots are active; see [`Appliance::activate`].
    pub(crate) fn all_active_ms(&self) -> Result<f64, String> {
        let all = format!("{0} of {0} slots active", self.slots);
        self.wait_line(|line| line.contains(" slots active"))?;
        between_ms(&self.read()?, |line| line.contains(WORKER_STARTS), |line| line.contains(&all))
    }

    fn wait_line(&self, wanted: impl Fn(&str) -> bool) -> Result<(), String> {
        self.wait(|log| log.lines().any(&wanted))
    }

    /// Waits until the log says so. It says itself when: looking at it seldom disturbs less.
    fn wait(&self, wanted: impl Fn(&str) -> bool) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        while !wanted(&self.read()?) {
            if Instant::now() >= until {
                return Err(format!("what is waited for is not in the daemon's log: {}", self.read()?));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn read(&self) -> Result<String, String> {
        fs::read_to_string(&self.log).map_err(said("daemon.log"))
    }

    /// Resident KiB of the daemon and of its worker.
    pub(crate) fn weights(&self) -> Result<[u64; 2], String> {
        Ok([resident_kib(self.child.id())?, resident_kib(self.worker()?)?])
    }

    /// The worker's process id.
    fn worker(&self) -> Result<u32, String> {
        let daemon = self.child.id();
        for thread in fs::read_dir(format!("/proc/{daemon}/task")).map_err(said("threads"))?.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            if let Some(child) = children.split_whitespace().next() {
                return child.parse().map_err(|error| format!("{child}: {error}"));
            }
        }
        Err("the daemon has no worker".into())
    }

    pub(crate) fn stop(mut self) -> Result<(), String> {
        signal(self.child.id(), rustix::process::Signal::TERM)?;
        let ended = self.child.wait().map_err(said("the daemon"))?;
        if ended.success() { Ok(()) } else { Err(format!("the daemon ended with {ended}")) }
    }

    /// Ends both processes at once: one that hangs would be waited for.
    fn kill(mut self) -> Result<(), String> {
        let worker = self.worker()?;
        self.child.kill().map_err(said("the daemon"))?;
        self.child.wait().map_err(said("the daemon"))?;
        signal(worker, rustix::process::Signal::KILL)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ended already in every good case; then this finds nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(process: u32, signal: rustix::process::Signal) -> Result<(), String> {
    let process = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw);
    let process = process.ok_or("a process id is a small number")?;
    rustix::process::kill_process(process, signal).map_err(|error| format!("{signal:?}: {error}"))
}

/// Milliseconds from the first line of one kind to the last of another.
fn between_ms(log: &str, from: impl Fn(&str) -> bool, to: impl Fn(&str) -> bool) -> Result<f64, String> {
    let began = log.lines().find(|line| from(line)).and_then(time_s);
    let ended = log.lines().rev().find(|line| to(line)).and_then(time_s);
    match (began, ended) {
        // A day's end lies between where it is negative.
        (Some(began), Some(ended)) => Ok((ended - began).rem_euclid(86_400.0) * 1e3),
        _ => Err(format!("not all that was waited for is in the daemon's log: {log}")),
    }
}

/// Seconds of the day of a log line, which begins `2026-01-31T12:34:56.123456Z`.
fn time_s(line: &str) -> Option<f64> {
    let time = line.get(11..26)?;
    let mut parts = time.split(':').map(str::parse::<f64>);
    Some(parts.next()?.ok()? * 3600.0 + parts.next()?.ok()? * 60.0 + parts.next()?.ok()?)
}

fn resident_kib(pid: u32) -> Result<u64, String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(said("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).ok_or_else(|| format!("no VmRSS of {pid}"))
}

pub(crate) fn said<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> String + '_ {
    move |error| format!("{what}: {error}")
}
