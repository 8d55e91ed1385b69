//! The HSM as the daemon sees it: orders out, events in.
//!
//! The PKCS#11 module lives in a child process ([`crate::hsm_worker`]); this side starts
//! it, restarts it when it dies, and turns what it says into [`Event`]s. All decisions
//! about the worker's life are made by one thread (`keeper`), so that the daemon's loop
//! never waits for a vendor's module; the only bounded wait is [`Hsm::random`].
//!
//! Promises: each call is answered by exactly one `Done`, or by the one `WorkerLost` that
//! follows the worker's death; nothing is ever sent to a token twice (P5, P44). After a
//! restart of the daemon nothing is left of an earlier worker but the call it was in: the
//! new worker waits for that behind a lock.

mod distrust;
mod keeper;
mod link;
mod looking;
mod told;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{env, io};

use slotwarden_core::SecretId;
use slotwarden_core::effect::{HsmCall, Input, Outcome, SlotId, Ticket};
use slotwarden_core::fault::{HsmFailure, Refusal};
use zeroize::Zeroizing;

use crate::devices::{Event, Events, FreeToken, Hsm, KeysDone, Lend};
use crate::hsm_wire::{Frame, Order};

pub use crate::hsm_wire::WantedToken;
use keeper::Keeper;
use told::Told;

/// What waits to be taken by the keeper: calls (one for each slot), frames of the workers.
/// A worker that says more is read only as fast as the keeper works (P42).
const HAPPENINGS_MAX: usize = 1024;

/// Calls into a slow module at the same time unless configured: one for each slot of an
/// appliance. A module that cannot take so many says how many in its manual.
pub const CALLS_IN_FLIGHT_MAX_DEFAULT: u16 = 64;

/// What the worker needs to know, and how it is started.
#[derive(Clone, Debug)]
pub struct WorkerSettings {
    /// The program whose subcommand `hsm-worker` is the worker: this one.
    pub program: PathBuf,
    /// The PKCS#11 module.
    pub module: PathBuf,
    /// Added to the worker's environment, which is otherwise the daemon's.
    pub module_environment: Vec<(OsString, OsString)>,
    /// The token of each slot, in the order of `SlotId`.
    pub tokens: Vec<WantedToken>,
    /// Whose files are made durable after a change; `None`: the module does that itself.
    pub settle_dir: Option<PathBuf>,
    /// `worker.lock` in the state directory.
    pub lock_file: PathBuf,
    /// Calls into a slow module at the same time, at least 1.
    pub calls_in_flight_max: u16,
    /// Where exports are made and files to restore are kept: `transfer` in the state directory.
    pub transfer_dir: PathBuf,
    /// How long things may take.
    pub waits: Waits,
}

impl WorkerSettings {
    /// Settings with the program that runs now and the default waits.
    ///
    /// # Errors
    /// When the kernel does not say which program runs.
    pub fn new(module: PathBuf, tokens: Vec<WantedToken>, lock_file: PathBuf) -> io::Result<Self> {
        let transfer_dir = lock_file.with_file_name("transfer");
        Ok(WorkerSettings {
            program: env::current_exe()?,
            module,
            module_environment: Vec::new(),
            tokens,
            settle_dir: None,
            lock_file,
            calls_in_flight_max: CALLS_IN_FLIGHT_MAX_DEFAULT,
            transfer_dir,
            waits: Waits::default(),
        })
    }
}

/// How long things may take. Tests shorten them; people have no reason to.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// Interval between looks at an open, idle token.
    pub loss_interval: Duration,
    /// Interval between looks for absent tokens, by a process of their own.
    pub return_interval: Duration,
    /// Wait for the worker of an earlier daemon before it is killed.
    pub lock_wait: Duration,
    /// Wait for a worker inside `C_Login` before it is killed; one inside a PIN change is
    /// ended by a person only.
    pub login_wait: Duration,
    /// Wait for `C_Initialize` and the first look.
    pub start_wait: Duration,
    /// Wait in one look for slots that do not answer.
    pub look_wait: Duration,
    /// A call that lasts longer while a token that came waits for its end is reported.
    pub hang_wait: Duration,
    /// Wait for the calls in progress when the daemon stops.
    pub stop_wait: Duration,
    /// Wait for `C_GenerateRandom`, which holds up the daemon's loop.
    pub random_wait: Duration,
    /// Quiet on all slots before the worker starts again for a token that came: between
    /// two calls of one PIN change there are commits.
    pub quiet_wait: Duration,
    /// The same after a login, a logout, a new PIN or an initialisation: most likely the
    /// change they belong to goes on.
    pub change_wait: Duration,
    /// Wait before the first restart; doubles with each further one.
    pub restart_first: Duration,
    /// Longest wait before a restart; a worker that ran this long was well.
    pub restart_last: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Waits {
            loss_interval: Duration::from_secs(10),
            return_interval: Duration::from_secs(30),
            lock_wait: Duration::from_secs(30),
            login_wait: Duration::from_secs(120),
            // Network HSMs take up to half a minute to give up on an unreachable member.
            start_wait: Duration::from_secs(60),
            look_wait: Duration::from_secs(10),
            hang_wait: Duration::from_secs(10),
            stop_wait: Duration::from_secs(10),
            // SoftHSM and Kryoptic answer in microseconds; without an answer the system's half stands alone.
            random_wait: Duration::from_millis(500),
            // A commit takes milliseconds; on a disk that struggles, seconds.
            quiet_wait: Duration::from_secs(2),
            change_wait: Duration::from_secs(5),
            restart_first: Duration::from_millis(100),
            restart_last: Duration::from_secs(30),
        }
    }
}

/// The HSM behind its worker.
pub struct WorkerHsm {
    happenings: SyncSender<Happening>,
    keeper: Option<JoinHandle<()>>,
    events: Events,
    shown: Arc<Mutex<Shown>>,
    random_wait: Duration,
}

/// What the daemon may ask for at any time.
#[derive(Debug, Default)]
struct Shown {
    free: Vec<FreeToken>,
    module: String,
    process: Option<u32>,
    /// How far the long order is that was given last.
    progress: Option<KeysDone>,
}

/// Where random bytes go. They stay in one buffer all the way, which is wiped at the end.
type Drawn = SyncSender<Zeroizing<Vec<u8>>>;

/// What the keeper reacts to.
enum Happening {
    /// An order for a token, secrets first.
    Perform { ticket: Ticket, slot: SlotId, order: Order, secrets: Vec<Frame> },
    /// Somebody waits for random bytes.
    Random(Drawn),
    /// Look for absent and free tokens now.
    Look,
    /// End the worker, whatever it is doing.
    EndWorker,
    /// End for good.
    Stop,
    /// A worker said something.
    Frame { link: u32, frame: Frame },
    /// A worker closed its end, or what it says cannot be read any more; how, for people.
    Closed { link: u32, how: &'static str },
}

impl WorkerHsm {
    /// Starts the worker. What it finds arrives at `events`.
    ///
    /// # Errors
    /// When no thread can be started; a worker that cannot be started is tried again.
    pub fn start(settings: WorkerSettings, events: Events) -> io::Result<Self> {
        let (happenings, happened) = mpsc::sync_channel(HAPPENINGS_MAX);
        let shown = Arc::new(Mutex::new(Shown { module: settings.module.display().to_string(), ..Shown::default() }));
        let random_wait = settings.waits.random_wait;
        let told = Told::new(events.clone(), Arc::clone(&shown), settings.tokens.len());
        let keeper = Keeper::new(settings, told, happenings.clone());
        let keeper = thread::Builder::new().name("hsm keeper".into()).spawn(move || keeper.run(&happened))?;
        Ok(WorkerHsm { happenings, keeper: Some(keeper), events, shown, random_wait })
    }

    /// The process id of the worker that runs now.
    #[must_use]
    pub fn worker_process(&self) -> Option<u32> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).process
    }

    fn tell(&self, happening: Happening) {
        // The keeper ends only by `stop`; what is ordered after that has no worker.
        if let Err(mpsc::SendError(Happening::Perform { ticket, .. })) = self.happenings.send(happening) {
            self.fail(ticket, HsmFailure::NoWorker);
        }
    }

    fn fail(&self, ticket: Ticket, failure: HsmFailure) {
        let _ = self.events.send(Event::Input(Input::Done { ticket, outcome: Outcome::Hsm(Err(failure)) }));
    }
}

impl Hsm for WorkerHsm {
    fn perform(&mut self, ticket: Ticket, slot: SlotId, call: HsmCall, secrets: &dyn Lend) {
        let (order, ids): (Order, [Option<SecretId>; 2]) = match call {
            HsmCall::Observe => (Order::Observe, [None, None]),
            HsmCall::Login { pin } => (Order::Login, [Some(pin), None]),
            HsmCall::Logout => (Order::Logout, [None, None]),
            HsmCall::SetPin { old, new } => (Order::SetPin, [Some(old), Some(new)]),
            HsmCall::Initialise { so_pin, new, free_slot } => {
                (Order::Initialise { free_slot }, [Some(so_pin), Some(new)])
            }
            HsmCall::Settle => (Order::Settle, [None, None]),
            HsmCall::Unblock { so_pin, new } => (Order::Unblock, [Some(so_pin), Some(new)]),
            HsmCall::Erase { so_pin } => (Order::Erase, [Some(so_pin), None]),
            HsmCall::PutBackupKeys { key_id, uid, kek, mak, unwrap } => {
                (Order::PutBackupKeys { key_id, uid, unwrap }, [Some(kek), Some(mak)])
            }
            HsmCall::KeepBackupKeys { key_id, uid, unwrap } => {
                (Order::KeepBackupKeys { key_id, uid, unwrap }, [None, None])
            }
            HsmCall::SetSoPin { old, new } => (Order::SetSoPin, [Some(old), Some(new)]),
            HsmCall::Inventory { uid } => (Order::Inventory { uid }, [None, None]),
            HsmCall::ExportSection { key_id, uid, once } => {
                let order = Order::ExportSection { key_id, uid, once: once.is_some() };
                (order, once.map_or([None, None], |keys| keys.map(Some)))
            }
            HsmCall::PrepareImport { key_id, uid, kek, mak } => {
                (Order::PrepareImport { key_id, uid }, [Some(kek), Some(mak)])
            }
            HsmCall::Import { key_id, uid } => (Order::Import { key_id, uid }, [None, None]),
            HsmCall::DropUnwrapKey { keep } => (Order::DropUnwrapKey { keep }, [None, None]),
            HsmCall::PlanPackage { key_id, uid } => (Order::PlanPackage { key_id, uid }, [None, None]),
            HsmCall::ImportPackage { key_id, uid } => (Order::ImportPackage { key_id, uid }, [None, None]),
        };
        let mut frames = Vec::with_capacity(2);
        for id in ids.into_iter().flatten() {
            if !secrets.lend(id, &mut |secret| frames.push(Frame::secret(0, slot, secret))) {
                return self.fail(ticket, HsmFailure::Refused(Refusal::CodeMissing));
            }
        }
        if link::is_long(&order) {
            self.shown.lock().unwrap_or_else(PoisonError::into_inner).progress = None;
        }
        self.tell(Happening::Perform { ticket, slot, order, secrets: frames });
    }

    fn look(&mut self) {
        self.tell(Happening::Look);
    }

    fn end_worker(&mut self) {
        self.tell(Happening::EndWorker);
    }

    fn free_tokens(&self) -> Vec<FreeToken> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).free.clone()
    }

    fn random(&mut self, half: &mut [u8; 32]) -> bool {
        let (answer, drawn) = mpsc::sync_channel(1);
        self.tell(Happening::Random(answer));
        match drawn.recv_timeout(self.random_wait) {
            Ok(bytes) if bytes.len() == half.len() => {
                half.copy_from_slice(&bytes);
                true
            }
            Ok(_) | Err(_) => false,
        }
    }

    fn progress(&self) -> Option<KeysDone> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).progress
    }

    fn description(&self) -> String {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).module.clone()
    }

    fn stop(&mut self) {
        self.tell(Happening::Stop);
        if let Some(keeper) = self.keeper.take() {
            // The keeper's waits are bounded; a panic of it is on stderr already.
            let _ = keeper.join();
        }
    }
}

impl Drop for WorkerHsm {
    fn drop(&mut self) {
        self.stop();
    }
}

fn milliseconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
}
