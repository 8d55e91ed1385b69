//! One worker process and the two threads that carry its frames.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Instant;

use rustix::process::Pid;
use slotwarden_core::effect::{HsmAnswer, SlotId, Ticket};

use super::{Drawn, Happening, WorkerSettings};
use crate::hsm_wire::{Duty, Frame, Kind, Order, WirePath, WorkerConfiguration};
use crate::hsm_worker::lock::{self, End, Rewrites};

/// Orders that wait to be written. The core has one call for each slot under way; more
/// than this means that the worker does not read any more.
const OUTBOX_MAX: usize = 256;

/// What the service manager gave the daemon alone: a module must not speak in its name.
const NOT_INHERITED: [&str; 8] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "CREDENTIALS_DIRECTORY",
    "INVOCATION_ID",
];

/// A running worker.
pub(super) struct Link {
    /// Which worker a frame came from; a late frame of an earlier one is recognised.
    pub(super) number: u32,
    pub(super) in_flight: HashMap<u32, InFlight>,
    child: Child,
    outbox: Option<SyncSender<Vec<Frame>>>,
}

/// A request without an answer.
pub(super) struct InFlight {
    pub(super) slot: SlotId,
    pub(super) order: Order,
    pub(super) waits: Waiting,
    /// It was ordered at this moment.
    pub(super) since: Instant,
}

impl InFlight {
    /// Whether the answer is one to this order; a worker holds foreign code.
    pub(super) fn is_answered_by(&self, answer: &HsmAnswer) -> bool {
        match answer {
            HsmAnswer::Observed(_) => self.order == Order::Observe,
            HsmAnswer::LoggedIn => self.order == Order::Login,
            HsmAnswer::LoggedOut => self.order == Order::Logout,
            HsmAnswer::PinSet => self.order == Order::SetPin,
            HsmAnswer::Initialised(_) => matches!(self.order, Order::Initialise { .. }),
            HsmAnswer::Unblocked => matches!(self.order, Order::Unblock),
            HsmAnswer::Erased(_) => matches!(self.order, Order::Erase),
            HsmAnswer::Settled => self.order == Order::Settle,
            HsmAnswer::BackupKeysPut => matches!(self.order, Order::PutBackupKeys { .. }),
            HsmAnswer::BackupKeysKept { .. } => matches!(self.order, Order::KeepBackupKeys { .. }),
            HsmAnswer::SoPinSet => self.order == Order::SetSoPin,
            HsmAnswer::Counted(_) => matches!(self.order, Order::Inventory { .. }),
            HsmAnswer::SectionExported { .. } => matches!(self.order, Order::ExportSection { .. }),
            HsmAnswer::ImportPrepared(_) => {
                matches!(self.order, Order::PrepareImport { .. } | Order::PlanPackage { .. })
            }
            HsmAnswer::Imported { .. } => matches!(self.order, Order::Import { .. } | Order::ImportPackage { .. }),
            HsmAnswer::UnwrapKeyDropped => matches!(self.order, Order::DropUnwrapKey { .. }),
        }
    }

    /// Whether its progress is told.
    pub(super) const fn may_take_long(&self) -> bool {
        is_long(&self.order)
    }

    /// Whether the worker may be ended inside such a call, which changes nothing and is no part of a change.
    pub(super) const fn only_reads(&self) -> bool {
        only_reads(&self.order)
    }

    /// Whether a change of a PIN, of the backup keys or of the keys themselves makes such a call, and makes
    /// another after it.
    pub(super) fn may_be_of_a_change(&self) -> bool {
        match self.order {
            Order::Login
            | Order::Logout
            | Order::SetPin
            | Order::Initialise { .. }
            | Order::Unblock
            | Order::Erase
            | Order::PutBackupKeys { .. }
            | Order::KeepBackupKeys { .. }
            | Order::SetSoPin
            | Order::ExportSection { .. }
            | Order::PrepareImport { .. }
            | Order::Import { .. }
            | Order::PlanPackage { .. }
            | Order::ImportPackage { .. }
            | Order::DropUnwrapKey { .. } => true,
            Order::Inventory { .. } | Order::Observe | Order::Settle | Order::Random | Order::Look => false,
        }
    }
}

/// Whether an order changes nothing, and is not one that belongs to a change.
pub(super) const fn only_reads(order: &Order) -> bool {
    matches!(order, Order::Inventory { .. } | Order::Random | Order::Look)
}

/// Whether an order goes through all keys of a token.
pub(super) const fn is_long(order: &Order) -> bool {
    matches!(
        order,
        Order::ExportSection { .. }
            | Order::PrepareImport { .. }
            | Order::Import { .. }
            | Order::PlanPackage { .. }
            | Order::ImportPackage { .. }
    )
}

/// Who waits for the answer.
pub(super) enum Waiting {
    Core(Ticket),
    Random(Drawn),
}

impl Link {
    /// Starts a worker and tells it its duty.
    ///
    /// # Errors
    /// When the process or its threads cannot be started.
    pub(super) fn start(
        settings: &WorkerSettings,
        duty: Duty,
        number: u32,
        happenings: &SyncSender<Happening>,
    ) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let configuration = WorkerConfiguration {
            module: WirePath::from(settings.module.as_path()),
            tokens: settings.tokens.clone(),
            settle_dir: settings.settle_dir.as_deref().map(WirePath::from),
            look_wait_ms: super::milliseconds(settings.waits.look_wait),
            calls_in_flight_max: settings.calls_in_flight_max,
            transfer_dir: WirePath::from(settings.transfer_dir.as_path()),
            duty,
        };
        let first = Frame::new(0, SlotId(0), Kind::Configure, &configuration)?;
        let mut command = Command::new(&settings.program);
        for name in NOT_INHERITED {
            command.env_remove(name);
        }
        let child = command
            .arg("hsm-worker")
            // Its own group: a Ctrl-C at the daemon's terminal must not end it inside C_SetPIN.
            .process_group(0)
            .envs(settings.module_environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()?;
        let (outbox, to_write) = mpsc::sync_channel(OUTBOX_MAX);
        // From here on the child is ours to reap, whatever fails.
        let mut link = Link { number, in_flight: HashMap::new(), child, outbox: Some(outbox) };
        match link.carry(ours, to_write, happenings, first) {
            Ok(()) => Ok(link),
            Err(error) => {
                link.kill();
                Err(error)
            }
        }
    }

    /// The process id.
    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Queues the frames of one request; false when the worker does not read any more.
    pub(super) fn send(&self, frames: Vec<Frame>) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| outbox.try_send(frames).is_ok())
    }

    /// Closes our end: the worker finishes its calls and exits; `Closed` follows.
    pub(super) fn close(&mut self) {
        self.outbox = None;
    }

    /// Whether the process has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        // An error says that it is not our child any more: there is nothing to wait for.
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills the process unless it is inside a call that forbids it; see [`lock`]. Without
    /// the lock file, what it was ordered to do decides.
    pub(super) fn end(&mut self, lock_file: &Path, logins_too: bool) -> End {
        if self.has_ended() {
            return End::Ended;
        }
        let orders = || self.in_flight.values().map(|call| call.order);
        let rewrites_a_pin = |order| {
            matches!(order, Order::SetPin | Order::Initialise { .. } | Order::Unblock | Order::Erase | Order::SetSoPin)
        };
        let unread = if orders().any(rewrites_a_pin) {
            Some(Rewrites::Pin)
        } else {
            (!logins_too && orders().any(|order| order == Order::Login)).then_some(Rewrites::Flags)
        };
        match File::open(lock_file) {
            Ok(file) => lock::end(Pid::from_child(&self.child), &file, logins_too, unread),
            Err(_) => unread.map_or(End::Ended, End::Spared),
        }
    }

    /// Ends the process now and reaps it; returns how it ended, for people.
    pub(super) fn kill(&mut self) -> String {
        // Fails only when it has exited already, and then there is nothing to kill.
        let _ = self.child.kill();
        match self.child.wait() {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }

    fn carry(
        &self,
        ours: UnixStream,
        to_write: Receiver<Vec<Frame>>,
        happenings: &SyncSender<Happening>,
        first: Frame,
    ) -> io::Result<()> {
        let mut reading = ours.try_clone()?;
        let (happenings, link) = (happenings.clone(), self.number);
        thread::Builder::new().name("hsm reader".into()).spawn(move || {
            // Garbage ends the link like a death; the keeper sees to what is left.
            let how = loop {
                match Frame::read(&mut reading) {
                    Ok(Some(frame)) => {
                        if happenings.send(Happening::Frame { link, frame }).is_err() {
                            return;
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => break "sent garbage",
                    Ok(None) | Err(_) => break "died",
                }
            };
            let _ = happenings.send(Happening::Closed { link, how });
        })?;
        let mut writing = ours;
        thread::Builder::new().name("hsm writer".into()).spawn(move || {
            let batches = std::iter::once(vec![first]).chain(to_write);
            for frame in batches.flatten() {
                // A worker that is gone is noticed by the reader.
                if frame.write(&mut writing).is_err() {
                    break;
                }
            }
            let _ = writing.shutdown(Shutdown::Write);
        })?;
        Ok(())
    }
}
