//! An appliance to try: the daemon's own loop, store and command line on simulated tokens.
//!
//! Four slots: one generated (a security officer initialises it at the start), one manual
//! with a code that is printed, one whose token waits for its first PIN, one whose token
//! is pulled. Everything
//! lives in a temporary directory that is removed at the end, so nothing survives it. It
//! needs no PKCS#11 module and no system library. Codes here protect nothing.

use std::fs;
use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use slotwarden::client::Client;
use slotwarden::config;
use slotwarden::daemon::{self, Devices, Notice, Setup};
use slotwarden::devices::{self, Event, Events, FreeToken, Lend};
use slotwarden::names::Names;
use slotwarden::problem::{Own, Problem};
use slotwarden::status_json::StatusView;
use slotwarden::store::{DiskStore, Refused, StoreSettings};
use slotwarden::wire::{Ask, Order, SecretRole};
use slotwarden::{control, signals};
use slotwarden_core::effect::{ApplicationId, ApplicationOrder, HsmAnswer, HsmCall, Input, Outcome, SlotId, Ticket};
use slotwarden_core::fault::HsmFailure;
use slotwarden_core::person::Persons;
use slotwarden_core::token::Presence;
use slotwarden_core::{Configuration, SlotConfiguration};
use zeroize::Zeroizing;

use crate::code::Code;
use crate::hsm::{Character, Extent, Token, Tokens};

/// The slots, in the order of the configuration.
const NAMES: [&str; 4] = ["ca-root", "ca-issuing", "timestamp", "ocsp"];
/// The slot that is initialised at the start.
const GENERATED: &str = NAMES[0];
/// Its security officer's PIN, and that of the free token.
const SO_PIN: &str = "demo-so-pin";
/// The code of the manual slot. Not a secret: it is printed.
const MANUAL_CODE: &str = "demo-manual-code";
/// What one call of a simulated token takes: enough to see a state pass.
const CALL_TAKES: Duration = Duration::from_millis(60);

/// Runs the appliance until it is stopped, or for so many seconds.
#[must_use]
pub fn run(seconds: Option<u64>) -> ExitCode {
    match serve(seconds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("slotwarden-sim: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn serve(seconds: Option<u64>) -> Result<(), Problem> {
    let directory = directory().map_err(|error| Own::SpawnFailed.with(error.to_string()))?;
    let config = furnish(directory.path()).map_err(|error| Own::SpawnFailed.with(error.to_string()))?;
    let settings = config::load(&config)?;
    let names = Arc::new(Names::from(&settings));
    let (events, arriving) = channel();
    signals::watch(events.clone()).map_err(|error| Own::SpawnFailed.with(error.to_string()))?;
    let mut store = DiskStore::open(&StoreSettings::new(&settings.state_dir), events.clone()).map_err(refused)?;
    let configuration = core_configuration(&mut store, settings.digest)?;
    let (records, chain) = (store.loaded().slots.clone(), store.loaded().chain);
    let socket = control::listen(&settings.socket, Arc::clone(&names), events.clone())?;
    let world = Arc::new(Mutex::new(tokens()));
    let hsm = SimulatedHsm::start(Arc::clone(&world), events.clone());
    let applications = SimulatedApplications { events: events.clone() };
    initialise_later(&settings.socket);
    if let Some(seconds) = seconds {
        let events = events.clone();
        thread::spawn(move || {
            thread::sleep(Duration::from_secs(seconds));
            // The loop may have ended already.
            let _ = events.send(Event::Stop);
        });
    }
    let terminal = std::io::stdout().is_terminal();
    if std::io::stdin().is_terminal() {
        obey_keyboard(world, events.clone());
    }
    drop(events);
    let introduction = introduction(&config);
    if !terminal {
        println!("{introduction}");
    }
    let mut shown = String::new();
    let mut show = |notice: Notice<'_>| show(terminal, &introduction, &notice, &mut shown);
    let devices = Devices { hsm, store, applications };
    let ended = daemon::run(Setup { names, configuration, records, chain }, devices, &arriving, &mut show);
    drop(socket);
    ended
}

/// A directory in memory where there is one: nothing of it should reach a disk.
fn directory() -> std::io::Result<tempfile::TempDir> {
    let mut name = tempfile::Builder::new();
    name.prefix("slotwarden-sim-");
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { name.tempdir_in(memory) } else { name.tempdir() }
}

/// Writes the configuration and the files that the commands to try read.
fn furnish(directory: &Path) -> std::io::Result<PathBuf> {
    let place = directory.display();
    let mut text =
        format!("state_dir = \"{place}/state\"\nsocket = \"{place}/control.sock\"\n\n[hsm]\nmodule = \"/simulated\"\n");
    for name in NAMES {
        text.push_str(&format!(
            "\n[[slot]]\nname = \"{name}\"\ntoken = \"pkcs11:token={name}\"\napplications = [\"{name}-app\"]\n\n\
             [[application]]\nname = \"{name}-app\"\nadapter = \"pin-file\"\npath = \"{place}/{name}.pin\"\n"
        ));
    }
    let config = directory.join("slotwarden.toml");
    fs::write(&config, text)?;
    fs::write(directory.join("demo-code"), format!("{MANUAL_CODE}\n"))?;
    fs::write(directory.join("demo-so-pin"), format!("{SO_PIN}\n"))?;
    Ok(config)
}

fn tokens() -> Tokens {
    let (code, so_pin) = (Code::new(MANUAL_CODE.as_bytes()), Code::new(SO_PIN.as_bytes()));
    let mut world = Tokens::default();
    let mut pulled = Token::initialised(4, Character::SOFT, 3, code, so_pin);
    pulled.inserted = false;
    for token in [
        Token::initialised(1, Character::COUNTING, 0, Code::NONE, so_pin),
        Token::initialised(2, Character::STRICT, 1, code, so_pin),
        Token::initialised(3, Character::SOFT, 2, Code::NONE, so_pin),
        pulled,
    ] {
        // Four tokens, in a table of eight.
        let _fits = world.tokens.push(token);
    }
    world
}

fn core_configuration<const SLOTS: usize>(
    store: &mut DiskStore,
    digest: [u8; 32],
) -> Result<Configuration<SLOTS>, Problem> {
    let mut slots = heapless::Vec::new();
    for (number, name) in (0u8..).zip(NAMES) {
        let mut applications = heapless::Vec::new();
        // One application each, in a table of four; four slots, in a table of SLOTS.
        let _fits = applications.push(ApplicationId(number));
        let _fits = slots.push(SlotConfiguration {
            owner: store.owner_of(name).map_err(refused)?,
            uid: [number; 16],
            applications,
        });
    }
    Ok(Configuration { slots, persons: Persons::single(), tries: 3, digest })
}

fn refused(refused: Refused) -> Problem {
    Problem::from(refused.refusal).with(refused.detail)
}

/// The first person at the appliance: initialises the first slot as soon as it listens.
fn initialise_later(socket: &Path) {
    let client = Client::new(socket);
    thread::spawn(move || {
        for _ in 0..50 {
            thread::sleep(Duration::from_millis(100));
            let init = Order::Init { slot: GENERATED.to_owned(), free_slot: None, confirmed: false };
            let so_pin = (SecretRole::SoPin, Zeroizing::new(SO_PIN.as_bytes().to_vec()));
            if client.ask(Ask::Order(init), &[so_pin]).is_ok() {
                return;
            }
        }
    });
}

/// Pulls and inserts tokens as the keyboard says.
fn obey_keyboard(world: Arc<Mutex<Tokens>>, events: Events) {
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let mut words = line.split_whitespace();
            let inserted = match words.next() {
                Some("pull") => false,
                Some("insert") => true,
                Some("quit") => {
                    let _ = events.send(Event::Stop);
                    return;
                }
                _ => continue,
            };
            let named = words.next().and_then(|name| NAMES.iter().position(|known| *known == name));
            let Some(slot) = named.and_then(|slot| u8::try_from(slot).ok()) else { continue };
            let presence = {
                let mut world = lock(&world);
                for token in world.tokens.iter_mut().filter(|token| token.live.label == Some(slot)) {
                    token.inserted = inserted;
                    token.worker_lost();
                }
                world.look(slot)
            };
            if events.send(Event::Input(Input::Token { slot: SlotId(slot), presence })).is_err() {
                return;
            }
        }
    });
}

fn introduction(config: &Path) -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("slotwarden-sim"));
    let place = config.parent().unwrap_or(Path::new("."));
    let (command, place) = (format!("{} cli --config {}", program.display(), config.display()), place.display());
    format!(
        "Slotwarden on simulated tokens. The code of ca-issuing is `{MANUAL_CODE}`; codes here protect nothing.\n\
         Try, from a second terminal:\n\
         \x20 {command} status\n\
         \x20 {command} slot activate ca-issuing --code-file {place}/demo-code\n\
         \x20 {command} slot init timestamp --so-pin-file {place}/demo-so-pin\n\
         \x20 {command} slot mode ca-issuing generated --code-file {place}/demo-code\n\
         \x20 {command} slot deactivate ca-root\n\
         \x20 {command} audit show\n\
         Here: pull NAME, insert NAME, quit (or Ctrl-C)."
    )
}

/// Redraws on a terminal; elsewhere writes one line for each change that a sentence can tell.
fn show(terminal: bool, introduction: &str, notice: &Notice<'_>, shown: &mut String) {
    let text = match notice {
        Notice::Stopping => "stopping".to_owned(),
        Notice::Ready(view) | Notice::Changed(view) if terminal => {
            format!("\x1b[2J\x1b[H{introduction}\n\n{}", table(view))
        }
        Notice::Ready(view) => format!("ready: {}", view.sentence()),
        Notice::Changed(view) => view.sentence(),
    };
    if text != *shown {
        let mut out = std::io::stdout().lock();
        // A closed terminal must not end the appliance, so failures to write are ignored.
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
        *shown = text;
    }
}

fn table(view: &StatusView) -> String {
    let mut text = format!("{:<14}{:<12}{:<16}{:<16}\n", "slot", "mode", "state", "application");
    for slot in &view.slots {
        let application = slot.applications.first().map_or("", |application| application.state.as_str());
        let lack = if slot.is_active() { String::new() } else { slot.lack() };
        text.push_str(&format!("{:<14}{:<12}{:<16}{application:<16}{lack}\n", slot.name, slot.mode, slot.state));
    }
    text.push_str(&format!("\n{}\n", view.sentence()));
    text
}

fn lock(world: &Mutex<Tokens>) -> MutexGuard<'_, Tokens> {
    // Tokens are plain data, whole at every moment.
    world.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One call on its way to a token.
struct Job {
    ticket: Ticket,
    slot: u8,
    call: HsmCall,
    first: Code,
    second: Code,
}

/// The HSM of the appliance: one thread carries out one call after the other.
struct SimulatedHsm {
    world: Arc<Mutex<Tokens>>,
    events: Events,
    jobs: Option<Sender<Job>>,
    worker: Option<thread::JoinHandle<()>>,
    seen: [Option<Presence>; NAMES.len()],
}

impl SimulatedHsm {
    fn start(world: Arc<Mutex<Tokens>>, events: Events) -> Self {
        let (jobs, queue) = channel::<Job>();
        let worker = thread::spawn({
            let (world, events) = (Arc::clone(&world), events.clone());
            move || {
                for job in queue {
                    thread::sleep(CALL_TAKES);
                    let result = carry_out(&mut lock(&world), &job);
                    let done = Input::Done { ticket: job.ticket, outcome: Outcome::Hsm(result) };
                    if events.send(Event::Input(done)).is_err() {
                        return;
                    }
                }
            }
        });
        let mut hsm = SimulatedHsm { world, events, jobs: Some(jobs), worker: Some(worker), seen: [None; NAMES.len()] };
        devices::Hsm::look(&mut hsm);
        hsm.tell(Input::WorkerUp);
        hsm
    }

    fn tell(&self, input: Input) {
        // The loop may have ended; then nobody waits.
        let _ = self.events.send(Event::Input(input));
    }
}

fn carry_out(world: &mut Tokens, job: &Job) -> Result<HsmAnswer, HsmFailure> {
    match job.call {
        HsmCall::Initialise { free_slot, .. } => {
            let number = world.for_init(job.slot, free_slot).map_err(HsmFailure::Refused)?;
            let token = world.tokens.get_mut(usize::from(number)).ok_or(HsmFailure::TokenGone)?;
            let answer = token.initialise(job.slot, &job.first, &job.second, Extent::Whole)?;
            world.attached[usize::from(job.slot)] = Some(number);
            Ok(answer)
        }
        HsmCall::Settle => {
            world.settle_all();
            Ok(HsmAnswer::Settled)
        }
        HsmCall::Observe | HsmCall::Login { .. } | HsmCall::Logout | HsmCall::SetPin { .. } => {
            let token = world.of(job.slot).ok_or(HsmFailure::TokenGone)?;
            match job.call {
                HsmCall::Login { .. } => token.login(&job.first),
                HsmCall::Logout => token.logout(),
                HsmCall::SetPin { .. } => token.set_pin(&job.first, &job.second),
                HsmCall::Observe | HsmCall::Initialise { .. } | HsmCall::Settle => {
                    Ok(HsmAnswer::Observed(token.state()))
                }
            }
        }
    }
}

impl devices::Hsm for SimulatedHsm {
    fn perform(&mut self, ticket: Ticket, slot: SlotId, call: HsmCall, secrets: &dyn Lend) {
        let lent = |id| {
            let mut code = Code::NONE;
            secrets.lend(id, &mut |bytes| code = Code::new(bytes));
            code
        };
        let (first, second) = match call {
            HsmCall::Observe | HsmCall::Logout | HsmCall::Settle => (Code::NONE, Code::NONE),
            HsmCall::Login { pin } => (lent(pin), Code::NONE),
            HsmCall::SetPin { old, new } => (lent(old), lent(new)),
            HsmCall::Initialise { so_pin, new, free_slot: _ } => (lent(so_pin), lent(new)),
        };
        let job = Job { ticket, slot: slot.0, call, first, second };
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if !sent {
            let outcome = Outcome::Hsm(Err(HsmFailure::NoWorker));
            self.tell(Input::Done { ticket, outcome });
        }
    }

    fn look(&mut self) {
        for (slot, seen) in (0u8..).zip(self.seen) {
            let presence = lock(&self.world).look(slot);
            if seen != Some(presence) {
                self.seen[usize::from(slot)] = Some(presence);
                self.tell(Input::Token { slot: SlotId(slot), presence });
            }
        }
    }

    fn end_worker(&mut self) {
        for token in &mut lock(&self.world).tokens {
            token.worker_lost();
        }
        self.tell(Input::WorkerLost);
        self.seen = [None; NAMES.len()];
        self.look();
        self.tell(Input::WorkerUp);
    }

    fn free_tokens(&self) -> Vec<FreeToken> {
        let world = lock(&self.world);
        let free = (0u64..).zip(&world.tokens).filter(|(_, token)| token.is_there() && token.live.label.is_none());
        free.map(|(slot_number, token)| FreeToken {
            slot_number,
            description: String::from_utf8_lossy(&token.serial).into_owned(),
        })
        .collect()
    }

    fn random(&mut self, _half: &mut [u8; 32]) -> bool {
        // The loop then uses the system's sources alone.
        false
    }

    fn description(&self) -> String {
        "simulated tokens".to_owned()
    }

    fn stop(&mut self) {
        self.jobs = None;
        if let Some(worker) = self.worker.take() {
            // A panic of the device thread has been printed already.
            let _ = worker.join();
        }
    }
}

/// The applications of the appliance: they take what they are given, and keep nothing.
struct SimulatedApplications {
    events: Events,
}

impl devices::Applications for SimulatedApplications {
    fn perform(
        &mut self,
        ticket: Ticket,
        _application: ApplicationId,
        _slot: SlotId,
        _order: ApplicationOrder,
        _secrets: &dyn Lend,
    ) {
        let done = Input::Done { ticket, outcome: Outcome::Application(Ok(())) };
        let _ = self.events.send(Event::Input(done));
    }

    fn withdraw_all(&mut self) {}
}
