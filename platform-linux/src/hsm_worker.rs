//! `slotwarden hsm-worker`: the process that holds the PKCS#11 module.
//!
//! A vendor's module is foreign code that may crash, hang or lie. It lives in a child of
//! the daemon, so that it can be ended, and so that its memory is not the daemon's (P44).
//! The daemon's end of a socketpair is our stdin; [`crate::hsm_wire`] says what travels.
//!
//! Each slot has a desk where its orders wait (`desk`); callers carry them out, one at a time
//! on a module of this machine, many on a slow one (`callers`). A slot that hangs delays no
//! other. When the
//! daemon closes the socket (or dies), calls in progress are finished, none is begun, the
//! module is finalised and the process exits. Only one serving worker runs at a time
//! (`lock`): a new daemon's worker waits for the calls of an old one.
//!
//! Outside facts: `C_Initialize` must not be followed by a fork (PKCS#11 v3.1, section
//! 5.4.1), so the worker is executed, and forks nothing. A login is per process, so it
//! ends with this process. After a restart nothing is left of it: the daemon asks again.

mod backup_keys;
mod by_so;
mod callers;
mod desk;
mod find;
mod initialise;
pub(crate) mod lock;
mod module;
mod settle;
mod token;
mod transfer;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{DumpableBehavior, Resource};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use slotwarden_core::effect::SlotId;
use slotwarden_core::token::Presence;
use zeroize::Zeroizing;

use crate::hsm_wire::{Duty, Frame, Kind, Order, Report, WorkerConfiguration, bounded};
use desk::{Clock, Desk};
use lock::WorkerLock;
use module::Module;
use token::{Call, Token};

/// Secrets of one order: the old and the new PIN, or the SO PIN and the new one.
const SECRETS_PER_ORDER_MAX: usize = 2;
/// Requests whose secrets have come and whose order has not: the daemon sends them
/// together, so more means that it is not our daemon.
const REQUESTS_HALF_SENT_MAX: usize = 4;

/// The subcommand `hsm-worker`. Returns when the daemon closed the socket.
#[must_use]
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slotwarden hsm-worker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    ignore_signals()?;
    let locked_memory = protect_memory();
    let mut socket = take_stdin()?;
    let replies = Replies(Arc::new(Mutex::new(socket.try_clone()?)));
    let first = Frame::read(&mut socket)?.filter(|frame| frame.kind == Kind::Configure);
    let Some(first) = first else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "this is started by the daemon, not by hand"));
    };
    let configuration: WorkerConfiguration = first.open()?;
    let lock = match &configuration.duty {
        Duty::Look => None,
        Duty::Serve { lock_file, lock_wait_ms, login_wait_ms, .. } => {
            if !locked_memory {
                replies.note("the HSM worker may not lock its memory: set LimitMEMLOCK=infinity, or encrypt swap");
            }
            let (wait, login_wait) = (Duration::from_millis(*lock_wait_ms), Duration::from_millis(*login_wait_ms));
            let taken = WorkerLock::take(&lock_file.path(), wait, login_wait, &socket, &replies)?;
            let Some(lock) = taken else { return Ok(()) };
            replies.report(SlotId(0), 0, &Report::Locked);
            Some(lock)
        }
    };
    let path = configuration.module.path();
    let calls_max = usize::from(configuration.calls_in_flight_max);
    let module = match Module::load(&path, Duration::from_millis(configuration.look_wait_ms), calls_max, lock) {
        Ok(module) => Arc::new(module),
        Err(reason) => {
            replies.report(SlotId(0), 0, &Report::NotLoaded(bounded(reason)));
            return Ok(());
        }
    };
    let Duty::Serve { loss_interval_ms, .. } = configuration.duty else {
        replies.report(SlotId(0), 0, &Report::Up(find::look(&module, &configuration.tokens)));
        module.finalise();
        return Ok(());
    };
    let (look, found, seen) = find::first_look(&module, &configuration.tokens);
    // The desks stand before the daemon hears of them: an order finds its desk.
    let settle_dir = configuration.settle_dir.as_ref().map(|dir| Arc::from(dir.path()));
    let transfer_dir: Arc<std::path::Path> = Arc::from(configuration.transfer_dir.path());
    let mut desks = Vec::new();
    for ((number, wanted), (presence, place)) in (0..=u8::MAX).zip(&configuration.tokens).zip(&seen) {
        let token = Token {
            slot: SlotId(number),
            wanted: wanted.clone(),
            module: Arc::clone(&module),
            place: *place,
            seen: match presence {
                Some(Presence::Present(state)) => Some(*state),
                Some(Presence::Absent { .. } | Presence::Ambiguous) | None => None,
            },
            replies: replies.clone(),
            settle_dir: settle_dir.clone(),
            transfer_dir: Arc::clone(&transfer_dir),
            known: transfer::Known::default(),
        };
        desks.push(Arc::new(Desk::new(token, Duration::from_millis(loss_interval_ms))));
    }
    let clock = Clock::start(&desks)?;
    replies.report(SlotId(0), 0, &Report::Up(found));
    if seen.iter().any(|(presence, _)| presence.is_none()) {
        let (wanted, at, replies) = (configuration.tokens, desks.clone(), replies.clone());
        thread::Builder::new().name("look".into()).spawn(move || look.go_on(&wanted, seen, &at, &replies))?;
    }
    let ended = serve(&mut socket, &desks);
    module.stopping.store(true, Ordering::SeqCst);
    clock.stop();
    module.callers.finish();
    module.finalise();
    // C_Finalize closed every session; to close each again would ask a slow module 64 times.
    std::mem::forget(desks);
    ended
}

/// Puts each order on its slot's desk until the daemon closes the socket.
fn serve(socket: &mut UnixStream, desks: &[Arc<Desk>]) -> io::Result<()> {
    let mut half_sent: HashMap<u32, Vec<Zeroizing<Vec<u8>>>> = HashMap::new();
    while let Some(frame) = Frame::read(socket)? {
        match frame.kind {
            Kind::Secret => {
                let request = frame.request;
                let secrets = half_sent.entry(request).or_default();
                secrets.push(frame.body);
                if secrets.len() > SECRETS_PER_ORDER_MAX || half_sent.len() > REQUESTS_HALF_SENT_MAX {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "secrets without an order"));
                }
            }
            Kind::Order => {
                let order: Order = frame.open()?;
                let secrets = half_sent.remove(&frame.request).unwrap_or_default();
                let call = Call { request: frame.request, order, secrets };
                let Some(desk) = desks.get(usize::from(frame.slot.0)) else {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "an order for a slot that is not configured",
                    ));
                };
                desk.order(call);
            }
            Kind::Configure | Kind::Report => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a frame that only a worker sends, or a second configuration",
                ));
            }
        }
    }
    Ok(())
}

/// The way back to the daemon, shared by all threads.
#[derive(Clone)]
pub(crate) struct Replies(Arc<Mutex<UnixStream>>);

impl Replies {
    /// Sends a report. A daemon that is gone hears nothing; `serve` notices that.
    pub(crate) fn report(&self, slot: SlotId, request: u32, report: &Report) {
        match Frame::new(request, slot, Kind::Report, report) {
            Ok(frame) => self.send(&frame),
            Err(error) => eprintln!("slotwarden hsm-worker: a report was not sent: {error}"),
        }
    }

    /// Sends random bytes.
    pub(crate) fn secret(&self, slot: SlotId, request: u32, secret: &[u8]) {
        self.send(&Frame::secret(request, slot, secret));
    }

    /// Sends a note for the log.
    pub(crate) fn note(&self, text: impl Into<String>) {
        self.report(SlotId(0), 0, &Report::Note(bounded(text.into())));
    }

    fn send(&self, frame: &Frame) {
        let mut socket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = frame.write(&mut *socket);
    }
}

/// The daemon decides when the worker ends: a signal meant for both must not end it inside
/// a PIN change. A service manager that has lost its patience has SIGKILL.
fn ignore_signals() -> io::Result<()> {
    let heard = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&heard))?;
    }
    Ok(())
}

/// Takes the socketpair from stdin and leaves /dev/null there, so that a module that reads
/// its stdin gets nothing of ours.
fn take_stdin() -> io::Result<UnixStream> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(socket)
}

/// No core dump, no ptrace by the same user, no swap (P45). Returns whether memory is locked.
///
/// Under a limit, `MCL_FUTURE` would make later allocations fail, which is worse than an
/// unlocked page: it is asked for only where nothing limits it.
fn protect_memory() -> bool {
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let unlimited = rustix::process::getrlimit(Resource::Memlock).current.is_none();
    let privileged = rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::IPC_LOCK));
    if !unlimited && !privileged {
        return false;
    }
    use rustix::mm::MlockAllFlags;
    // ONFAULT: thread stacks are mapped at 2 MiB each and mostly untouched.
    rustix::mm::mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT).is_ok()
}
