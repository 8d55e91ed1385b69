//! Time from the start of the daemon until 64 SoftHSM slots are active, and what daemon
//! and worker weigh then; next to a C program that does nothing but log in.
//!
//! Both start cold, in turn, in one run; the figure is the median of the pairs' ratios. The
//! tokens are in memory and their PINs equally long. What the daemon does beyond the floor
//! is known: a worker process, an attempt recorded durably before each login, 64 hand-over
//! files, and the outcome recorded after.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use slotwarden_tests::excluded;

use crate::median;

const SLOTS: usize = 64;
const PAIRS: usize = 9;
const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
/// As long as a generated code.
const FLOOR_PIN: &str = "aaaaaaaabbbbbbbbccccccccdddddddd";
/// The daemon says that it is ready within a second; a minute means that it never will.
const READY_WAIT: Duration = Duration::from_secs(60);

/// One token directory with its configuration of SoftHSM.
struct Tokens {
    configuration: PathBuf,
    directory: PathBuf,
}

/// Makes the tokens, runs the pairs, prints.
pub(crate) fn print() -> Result<(), String> {
    let place =
        tempfile::Builder::new().prefix("slotwarden-figures").tempdir_in("/dev/shm").map_err(said("/dev/shm"))?;
    let program = excluded::target_dir().join("release/slotwarden");
    let floor = compile_floor(place.path())?;
    let theirs = Tokens::new(&place.path().join("floor"))?;
    run(Command::new(&floor).args([MODULE, "init", &SLOTS.to_string(), FLOOR_PIN]), &theirs)?;
    let ours = Tokens::new(&place.path().join("ours"))?;
    let configuration = prepare_daemon(&program, place.path(), &ours)?;

    let mut ratios = Vec::new();
    let mut times = [Vec::new(), Vec::new()];
    let mut weights = None;
    for _ in 0..PAIRS {
        let began = Instant::now();
        run(Command::new(&floor).args([MODULE, &SLOTS.to_string(), FLOOR_PIN]), &theirs)?;
        let raw_ms = began.elapsed().as_secs_f64() * 1e3;
        let mut daemon = Daemon::start(&program, &configuration, place.path(), &ours)?;
        let our_ms = daemon.ready_ms;
        daemon.all_active(&program, &configuration)?;
        weights = Some(daemon.weights()?);
        daemon.stop()?;
        ratios.push(our_ms / raw_ms);
        times[0].push(raw_ms);
        times[1].push(our_ms);
    }
    let [raw_ms, our_ms] = times.map(median);
    println!("activation of {SLOTS} slots, {PAIRS} pairs: raw C {raw_ms:.0} ms, daemon from its start {our_ms:.0} ms");
    println!("activation, median of the pairs' ratios: {:.2}", median(ratios));
    if let Some([daemon_kib, worker_kib]) = weights {
        println!("resident memory with {SLOTS} active slots: daemon {daemon_kib} KiB, worker {worker_kib} KiB");
    }
    Ok(())
}

impl Tokens {
    fn new(place: &Path) -> Result<Self, String> {
        let directory = place.join("tokens");
        fs::create_dir_all(&directory).map_err(said("tokens"))?;
        let configuration = place.join("softhsm2.conf");
        let text =
            format!("directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n", directory.display());
        fs::write(&configuration, text).map_err(said("softhsm2.conf"))?;
        Ok(Tokens { configuration, directory })
    }
}

/// A daemon that said it is ready.
struct Daemon {
    child: Child,
    ready_ms: f64,
}

impl Daemon {
    fn start(program: &Path, configuration: &Path, place: &Path, tokens: &Tokens) -> Result<Self, String> {
        let notify = place.join("notify.sock");
        let _ = fs::remove_file(&notify);
        let socket = UnixDatagram::bind(&notify).map_err(said("notify.sock"))?;
        socket.set_read_timeout(Some(READY_WAIT)).map_err(said("notify.sock"))?;
        let log = fs::File::create(place.join("daemon.log")).map_err(said("daemon.log"))?;
        let began = Instant::now();
        let child = Command::new(program)
            .args(["daemon", "--config"])
            .arg(configuration)
            .env("SOFTHSM2_CONF", &tokens.configuration)
            .env("NOTIFY_SOCKET", &notify)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(said("slotwarden"))?;
        let mut daemon = Daemon { child, ready_ms: 0.0 };
        let mut message = [0; 4096];
        // A status text comes with each change before READY=1: at most a few for each slot.
        for _ in 0..100 * SLOTS {
            let Ok(length) = socket.recv(&mut message) else { break };
            if message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1") {
                daemon.ready_ms = began.elapsed().as_secs_f64() * 1e3;
                return Ok(daemon);
            }
        }
        let _ = daemon.child.kill();
        Err(format!(
            "the daemon did not get ready: {}",
            fs::read_to_string(place.join("daemon.log")).unwrap_or_default()
        ))
    }

    /// The floor proves its logins; so must we.
    fn all_active(&self, program: &Path, configuration: &Path) -> Result<(), String> {
        let status = Command::new(program)
            .args(["status", "--output", "json", "--config"])
            .arg(configuration)
            .output()
            .map_err(said("slotwarden status"))?;
        let status: serde_json::Value =
            serde_json::from_slice(&status.stdout).map_err(|error| format!("status: {error}"))?;
        match status["summary"]["active"].as_u64() {
            Some(active) if active == SLOTS as u64 => Ok(()),
            other => Err(format!("{other:?} of {SLOTS} slots are active")),
        }
    }

    /// Resident KiB of the daemon and of its worker.
    fn weights(&self) -> Result<[u64; 2], String> {
        let daemon = self.child.id();
        let children =
            fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children")).map_err(said("children"))?;
        let mut worker = 0;
        for thread in fs::read_dir(format!("/proc/{daemon}/task")).map_err(said("threads"))?.flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace() {
                worker = child.parse().map_err(|error| format!("{child}: {error}"))?;
            }
        }
        if worker == 0 {
            return Err(format!("the daemon has no worker: {children}"));
        }
        Ok([resident_kib(daemon)?, resident_kib(worker)?])
    }

    fn stop(&mut self) -> Result<(), String> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .map_err(|error| format!("SIGTERM: {error}"))?;
        let ended = self.child.wait().map_err(said("the daemon"))?;
        if ended.success() { Ok(()) } else { Err(format!("the daemon ended with {ended}")) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ended already in every good case; then this finds nothing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes the configuration and gives each slot a token with a generated code.
fn prepare_daemon(program: &Path, place: &Path, tokens: &Tokens) -> Result<PathBuf, String> {
    use std::fmt::Write as _;
    let state = place.join("state");
    fs::create_dir_all(&state).map_err(said("state"))?;
    let key = place.join("seal.key");
    fs::write(&key, [0xA5; 32]).map_err(said("seal.key"))?;
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(said("seal.key"))?;
    let so_pin = place.join("so-pin");
    fs::write(&so_pin, "so-pin-of-figures\n").map_err(said("so-pin"))?;
    let at = place.display();
    let mut text = format!(
        "state_dir = \"{at}/state\"\nsocket = \"{at}/control.sock\"\n[seal]\nkey_file = \"{at}/seal.key\"\n\
         [hsm]\nmodule = \"{MODULE}\"\nsettle_dir = \"{}\"\n",
        tokens.directory.display()
    );
    for slot in 0..SLOTS {
        let _ = write!(
            text,
            "[[slot]]\nname = \"s{slot}\"\ntoken = \"pkcs11:token=s{slot}\"\napplications = [\"a{slot}\"]\n"
        );
    }
    for slot in 0..SLOTS {
        let _ =
            write!(text, "[[application]]\nname = \"a{slot}\"\nadapter = \"pin-file\"\npath = \"{at}/a{slot}.pin\"\n");
    }
    let configuration = place.join("slotwarden.toml");
    fs::write(&configuration, text).map_err(said("slotwarden.toml"))?;
    let mut daemon = Daemon::start(program, &configuration, place, tokens)?;
    for slot in 0..SLOTS {
        let mut init = Command::new(program);
        init.args(["slot", "init", &format!("s{slot}"), "--so-pin-file"])
            .arg(&so_pin)
            .arg("--config")
            .arg(&configuration);
        run(&mut init, tokens)?;
    }
    daemon.stop()?;
    Ok(configuration)
}

fn compile_floor(place: &Path) -> Result<PathBuf, String> {
    let program = place.join("activate");
    let source = excluded::repository().join("tests/raw/activate.c");
    let made = Command::new("cc").args(["-O2", "-o"]).arg(&program).arg(source).arg("-ldl").status();
    match made {
        Ok(status) if status.success() => Ok(program),
        Ok(status) => Err(format!("cc ended with {status}")),
        Err(error) => Err(format!("install gcc: {error}")),
    }
}

fn run(command: &mut Command, tokens: &Tokens) -> Result<(), String> {
    let ended = command.env("SOFTHSM2_CONF", &tokens.configuration).stdin(Stdio::null()).output();
    let ended = ended.map_err(|error| format!("{command:?}: {error}"))?;
    if ended.status.success() {
        return Ok(());
    }
    Err(format!("{command:?} ended with {}: {}", ended.status, String::from_utf8_lossy(&ended.stderr)))
}

fn resident_kib(pid: u32) -> Result<u64, String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(said("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).ok_or_else(|| format!("no VmRSS of {pid}"))
}

fn said<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> String + '_ {
    move |error| format!("{what}: {error}")
}
