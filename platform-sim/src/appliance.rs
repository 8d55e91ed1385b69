//! An appliance to try: the daemon's own loop, control socket, store and hand-over file, on
//! simulated tokens, in a directory that is removed at the end.
//!
//! Where `/dev/shm` is, the directory is in memory and so the hand-over file is allowed;
//! elsewhere handing over is refused, and the status says why. Codes here are worthless:
//! they lie beside the configuration, for the commands to name.
//!
//! A power cut (`power`) ends the loop without a word to store and tokens: from that moment
//! nothing is written, what no token had settled is lost, and the loop starts again from
//! the records.

mod bench;
mod screen;
mod typed;

use std::ffi::OsString;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufRead as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;
use slotwarden::appliance::{self, Prepared};
use slotwarden::cli::{self, Program};
use slotwarden::control::{self, Request};
use slotwarden::daemon::{self, Devices, Notice};
use slotwarden::devices::{Checkpoint, Event, Events, Lend, Store};
use slotwarden::names::Peer;
use slotwarden::problem::{Own, Problem};
use slotwarden::status_json::StatusView;
use slotwarden::store::DiskStore;
use slotwarden::wire::{Answered, Ask};
use slotwarden::{config, output};
use slotwarden_core::audit::AuditRecord;
use slotwarden_core::effect::{Input, StoreResult, Ticket};
use slotwarden_core::fault::{Fault, Refusal};
use slotwarden_core::record::{Record, SecretKey};
use tempfile::TempDir;

use crate::code::Code;
use crate::hsm::{Character, LABELS_MAX, Token};
use bench::{Bench, SimHsm};
use screen::Screen;
use typed::Typed;

/// The slots; the place is the token's label.
const SLOTS: [&str; LABELS_MAX] = ["ca-root", "signer", "issuing", "archive"];
/// The one application: it uses `ca-root`.
const APPLICATION: &str = "ca";
/// A directory in memory on every Linux.
const MEMORY: &str = "/dev/shm";
/// How often seconds are counted down on the screen.
const TICK: Duration = Duration::from_secs(1);
/// The loop answers a question within a turn.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// Runs the appliance until somebody ends it, or for so many seconds.
///
/// # Errors
/// Why it could not start or go on.
pub fn run(seconds: Option<u64>) -> Result<(), Problem> {
    let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let (happens, happened) = channel();
    watch_signals(&happens).map_err(|error| cannot("signals", &error))?;
    let stage = Stage::set().map_err(|error| cannot("its directory", &error))?;
    let log = File::create(stage.path("log")).map_err(|error| cannot("the log", &error))?;
    appliance::start_log(Mutex::new(log));
    appliance::harden();
    let bench = Bench::new(stage.tokens);
    let mut running = Some(Running::start(&stage, &bench, &happens)?);
    read_typed(&happens);
    let mut screen = Screen::open(stage.below());
    let mut ended = Ok(());
    while let Some(now_running) = &running {
        let happening = next(&happened, until, screen.ticks());
        match happening {
            Happening::Status(status) => screen.status(*status),
            Happening::Tick => {
                if let Some(status) = now_running.status() {
                    screen.status(status);
                }
            }
            Happening::Resized => screen.draw(true),
            Happening::Typed(line) => match Typed::read(&line, &SLOTS) {
                Ok(None) => screen.say(""),
                Err(said) => screen.say(&said),
                Ok(Some(Typed::Quit)) => break,
                Ok(Some(Typed::Power)) => {
                    if let Some(cut) = running.take() {
                        cut.cut_power(&bench);
                    }
                    running = Some(Running::start(&stage, &bench, &happens)?);
                    screen.say("the power was cut; the daemon started again from its records");
                }
                Ok(Some(done)) => screen.say(&carry_out(&bench, done)),
            },
            Happening::Quit => break,
            // The one before a power cut was joined then.
            Happening::Ended(thread) if thread == now_running.thread.thread().id() => {
                ended = running.take().map_or(Ok(()), Running::join);
            }
            Happening::Ended(_) => {}
        }
        if screen.closed {
            break;
        }
    }
    if let Some(running) = running {
        screen.say("stopping");
        // A token that hangs would be waited for.
        bench.answer_all();
        ended = running.stop();
    }
    drop(screen);
    let place = stage.directory.path().display().to_string();
    stage.directory.close().map_err(|error| cannot("the removal of its directory", &error))?;
    output::line(&format!("stopped; {place} is removed"));
    ended
}

/// The command line of the product, as a client of an appliance that runs.
#[must_use]
pub fn command_line(arguments: Vec<OsString>) -> ExitCode {
    let program = Program {
        daemon: |_, _| Err(Own::SpawnFailed.with("the simulator runs it: `slotwarden-sim` without arguments")),
        hsm_worker: || {
            output::aside("slotwarden-sim: simulated tokens need no worker");
            ExitCode::from(slotwarden::problem::EXIT_USAGE)
        },
    };
    cli::main(&program, std::iter::once(OsString::from("slotwarden-sim cli")).chain(arguments))
}

/// What the simulator reacts to.
enum Happening {
    Status(Box<StatusView>),
    Typed(String),
    Tick,
    Resized,
    Quit,
    /// The loop ended: by itself, unless it was before a power cut.
    Ended(ThreadId),
}

fn next(happened: &Receiver<Happening>, until: Option<Instant>, ticks: bool) -> Happening {
    let left = until.map(|until| until.saturating_duration_since(Instant::now()));
    if left.is_some_and(|left| left.is_zero()) {
        return Happening::Quit;
    }
    let wait = left.into_iter().chain(ticks.then_some(TICK)).min();
    match wait {
        None => happened.recv().unwrap_or(Happening::Quit),
        Some(wait) => match happened.recv_timeout(wait) {
            Ok(happening) => happening,
            Err(RecvTimeoutError::Timeout) => Happening::Tick,
            Err(RecvTimeoutError::Disconnected) => Happening::Quit,
        },
    }
}

fn carry_out(bench: &Bench, typed: Typed) -> String {
    let name = |slot: u8| SLOTS[usize::from(slot)];
    let told = |slot, done: Result<(), &str>, then: &str| match done {
        Ok(()) => format!("{}: {then}", name(slot)),
        Err(why) => format!("{}: {why}", name(slot)),
    };
    match typed {
        Typed::Pull(slot) => told(slot, bench.pull(slot), "the token is out"),
        Typed::Insert(slot) => told(slot, bench.insert(slot), "the token is in"),
        Typed::Hang(slot) => {
            bench.hang(slot);
            told(slot, Ok(()), "the next calls stay unanswered until `answer` or `kill`")
        }
        Typed::Answer(slot) => told(slot, bench.answer(slot), "the token answers again"),
        Typed::Wrong(slot) => told(slot, bench.wrong(slot), "somebody else tried a wrong PIN"),
        Typed::Kill => {
            bench.kill();
            "the HSM worker was killed; another starts".to_owned()
        }
        Typed::Help => typed::HELP.to_owned(),
        // Both end the loop that calls this.
        Typed::Power | Typed::Quit => String::new(),
    }
}

/// Where everything is.
struct Stage {
    directory: TempDir,
    /// This program, as it is called from here.
    program: String,
    tokens: [Token; LABELS_MAX],
    code: Code,
}

impl Stage {
    fn set() -> io::Result<Self> {
        let make = |place: &Path| {
            let private = Permissions::from_mode(0o700);
            tempfile::Builder::new().prefix("slotwarden-").rand_bytes(4).permissions(private).tempdir_in(place)
        };
        let directory = make(Path::new(MEMORY)).or_else(|_| make(&std::env::temp_dir()))?;
        let program = std::env::current_exe()?;
        let mut random = fastrand::Rng::new();
        let [code, issuing, archive] = std::array::from_fn(|_| Code::manual(&mut random));
        let so_pin = Code::so_pin(&mut random);
        let mut absent = Token::initialised(3, Character::SOFT, 3, archive, so_pin);
        absent.inserted = false;
        let tokens = [
            Token::initialised(0, Character::STRICT, 0, code, so_pin),
            Token::free(1, Character::COUNTING),
            Token::initialised(2, Character::SOFT, 2, issuing, so_pin),
            absent,
        ];
        let here = std::env::current_dir().ok();
        let shown = here.and_then(|here| program.strip_prefix(here).ok().map(Path::to_owned));
        let stage = Stage { directory, program: quoted(&shown.unwrap_or_else(|| program.clone())), tokens, code };
        stage.write("slotwarden.toml", stage.configuration(&program).as_bytes())?;
        for (name, code) in
            [("ca-root.code", code), ("issuing.code", issuing), ("archive.code", archive), ("so-pin", so_pin)]
        {
            stage.write(name, &[code.bytes(), b"\n"].concat())?;
        }
        Ok(stage)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.path(name));
        file.and_then(|mut file| file.write_all(bytes))
    }

    fn configuration(&self, program: &Path) -> String {
        let path = |name: &str| format!("{:?}", self.path(name).display().to_string());
        let mut text = format!("state_dir = {}\nsocket = {}\n", path("state"), path("control.sock"));
        // The simulator itself is the module: `check-config` wants a file that is there.
        text.push_str(&format!("[hsm]\nmodule = {:?}\n", program.display().to_string()));
        for (slot, name) in SLOTS.iter().enumerate() {
            text.push_str(&format!("[[slot]]\nname = \"{name}\"\ntoken = \"pkcs11:token={name}\"\n"));
            if slot == 0 {
                text.push_str(&format!("applications = [\"{APPLICATION}\"]\n"));
            }
        }
        text.push_str(&format!("[[application]]\nname = \"{APPLICATION}\"\nadapter = \"pin-file\"\n"));
        text.push_str(&format!("path = {}\n", path("ca.pin")));
        text
    }

    /// What stands below the slots.
    fn below(&self) -> Vec<String> {
        let file = |name: &str| quoted(&self.path(name));
        let cli = |rest: &str| format!("{} cli --config {} {rest}", self.program, file("slotwarden.toml"));
        vec![
            format!("The code of ca-root is {}. Log: {}", String::from_utf8_lossy(self.code.bytes()), file("log")),
            "In a second terminal, from the same directory:".to_owned(),
            cli(&format!("slot activate ca-root --code-file {}", file("ca-root.code"))),
            format!("cat {}", file("ca.pin")),
            cli(&format!("slot init signer --so-pin-file {}", file("so-pin"))),
            cli(&format!("slot mode issuing generated --code-file {}", file("issuing.code"))),
            cli("slot deactivate ca-root"),
            cli("status"),
            cli("audit show"),
            screen::typing(),
        ]
    }
}

/// The daemon's loop in a thread of its own.
struct Running {
    events: Events,
    powered: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), Problem>>,
}

impl Running {
    fn start(stage: &Stage, bench: &Bench, happens: &Sender<Happening>) -> Result<Self, Problem> {
        let settings = config::load(&stage.path("slotwarden.toml"))?;
        let (events, arriving) = channel();
        let Prepared { setup, store, applications } = appliance::prepare(&settings, &events)?;
        let socket = control::listen(&settings.socket, Arc::clone(&setup.names), events.clone())?;
        let powered = Arc::new(AtomicBool::new(true));
        let store = Powered { store, powered: Arc::clone(&powered), events: events.clone() };
        let hsm = SimHsm::start(bench, events.clone());
        let devices = Devices { hsm, store, applications };
        let happens = happens.clone();
        let thread = thread::Builder::new().name("daemon".into()).spawn(move || {
            let mut show = |notice: Notice<'_>| match notice {
                Notice::Ready(status) | Notice::Changed(status) => {
                    let _ = happens.send(Happening::Status(Box::new(status.clone())));
                }
                Notice::Stopping => {}
            };
            let ended = daemon::run(setup, devices, &arriving, &mut show);
            drop(socket);
            let _ = happens.send(Happening::Ended(thread::current().id()));
            ended
        });
        let thread = thread.map_err(|error| cannot("a thread", &error))?;
        Ok(Running { events, powered, thread })
    }

    /// Asks for the status; a loop that is ending has none.
    fn status(&self) -> Option<StatusView> {
        let (answer, answered) = sync_channel(1);
        let request = Request { peer: Peer::OwnUser, ask: Ask::Status, secrets: Vec::new(), answer };
        self.events.send(Event::Control(request)).ok()?;
        match answered.recv_timeout(ANSWER_WAIT) {
            Ok(Answered::Status(status)) => Some(status),
            Ok(_) | Err(_) => None,
        }
    }

    fn cut_power(self, bench: &Bench) {
        self.powered.store(false, Ordering::SeqCst);
        bench.cut_power();
        // Without power the loop's end writes nothing: its store fails, its tokens are gone.
        let _ = self.stop();
    }

    fn stop(self) -> Result<(), Problem> {
        // A loop that has ended already needs no order.
        let _ = self.events.send(Event::Stop);
        self.join()
    }

    fn join(self) -> Result<(), Problem> {
        self.thread.join().unwrap_or_else(|_| Err(Own::SpawnFailed.with("the daemon's loop panicked")))
    }
}

/// The store, until the power is cut: from then on nothing reaches the disk.
struct Powered {
    store: DiskStore,
    powered: Arc<AtomicBool>,
    events: Events,
}

impl Powered {
    fn is_on(&self) -> bool {
        self.powered.load(Ordering::SeqCst)
    }
}

impl Store for Powered {
    fn put(&mut self, record: &Record, secrets: &dyn Lend) {
        if self.is_on() {
            self.store.put(record, secrets);
        }
    }

    fn journal(&mut self, record: &AuditRecord) {
        if self.is_on() {
            self.store.journal(record);
        }
    }

    fn commit(&mut self, ticket: Ticket) {
        if self.is_on() {
            return self.store.commit(ticket);
        }
        let _ = self.events.send(Event::Input(Input::Stored { ticket, result: StoreResult::Failed }));
    }

    fn unseal(&mut self, key: SecretKey, place: &mut [u8]) -> Result<usize, Fault> {
        if self.is_on() { self.store.unseal(key, place) } else { Err(Fault::SealBroken) }
    }

    fn checkpoint(&mut self, sequence: u64, head: [u8; 32]) {
        if self.is_on() {
            self.store.checkpoint(sequence, head);
        }
    }

    fn audit(&mut self, first: u64, count: usize) -> Result<Vec<AuditRecord>, Refusal> {
        self.store.audit(first, count)
    }

    fn checkpoints(&mut self) -> Result<Vec<Checkpoint>, Refusal> {
        self.store.checkpoints()
    }

    fn seal(&self) -> &'static str {
        self.store.seal()
    }

    fn node_key(&self) -> [u8; 32] {
        self.store.node_key()
    }
}

/// A closed terminal ends the simulator: nobody is left to try anything.
fn watch_signals(happens: &Sender<Happening>) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP, SIGWINCH])?;
    let happens = happens.clone();
    thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            let happening = if signal == SIGWINCH { Happening::Resized } else { Happening::Quit };
            if happens.send(happening).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}

/// The end of the input is no end: a service manager or a test gives none.
fn read_typed(happens: &Sender<Happening>) {
    let happens = happens.clone();
    thread::spawn(move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            if happens.send(Happening::Typed(line)).is_err() {
                return;
            }
        }
    });
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-".contains(letter);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

fn cannot(what: &str, error: &io::Error) -> Problem {
    Own::SpawnFailed.with(format!("{what}: {error}"))
}
