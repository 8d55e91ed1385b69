//! The appliance with the real HSM behind its worker.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::io::Errno;
use sd_notify::NotifyState;
use tracing::{error, warn};

use super::{Prepared, card_readers, exchange, harden, prepare, start_log, transfer_dir, vendor_programs};
use crate::cli::DaemonStart;
use crate::config::{self, Offered, Settings};
use crate::daemon::{self, Devices, Ended, Notice};
use crate::devices::Store as _;
use crate::files::DiskFiles;
use crate::hsm::{WantedToken, WorkerHsm, WorkerSettings};
use crate::problem::{Own, Problem};
use crate::{control, signals};

/// Runs the daemon until it is stopped.
///
/// # Errors
/// Why it could not start. What happens after the start is in its log and its status.
pub fn run(config: &Path, start: DaemonStart) -> Result<(), Problem> {
    let offered = Offered::read(config);
    if start.detached {
        // EPERM: we lead a process group already, so there is no terminal to leave.
        match rustix::process::setsid() {
            Ok(_) | Err(Errno::PERM) => {}
            Err(error) => return Err(Own::SpawnFailed.with(error.to_string())),
        }
    }
    start_log(std::io::stderr);
    harden();
    let (events, arriving) = channel();
    signals::watch(events.clone()).map_err(|error| Own::SpawnFailed.with(error.to_string()))?;
    let Prepared { setup, store, applications, settings } = prepare(&offered, start.new_store, &events)?;
    // What is wrong with the machine stops some orders, not the daemon; it should be in the log.
    for problem in config::check_machine(&settings).into_iter().chain(config::check_places(&settings)) {
        warn!("{problem}");
    }
    let socket = control::listen(&settings.socket, Arc::clone(&setup.names), events.clone())?;
    let hsm = WorkerHsm::start(worker_settings(&settings)?, events.clone())
        .map_err(|error| Own::SpawnFailed.with(format!("the HSM worker's keeper: {error}")))?;
    let cards = card_readers(&settings.cards, &events)?;
    let exchange = exchange(&settings, &events)?;
    // From here on only devices, clients and signals send.
    let files_events = events;
    let files = DiskFiles::new(transfer_dir(&settings), files_events, store.signer(), store.node_keys().current);
    let files = files.with_programs(vendor_programs(&settings));
    let devices = Devices { hsm, store, applications, cards, files: Box::new(files), exchange };
    let ended = daemon::run(setup, devices, &arriving, &mut tell_service_manager);
    drop(socket);
    match ended? {
        Ended::Stopped => Ok(()),
        Ended::Zeroized => Err(begin_anew(config)),
        Ended::ZeroizeUnconfirmed => {
            // No failure to a service manager, which would start it again at once: on a disk that took
            // nothing, that start would open the slots. A start by a person goes on, or says why not.
            error!("zeroize: the disk did not confirm that the data key is destroyed; mend it, then start the daemon");
            Ok(())
        }
    }
}

/// After a zeroize the process becomes another one: nothing that its memory held is left, and the start
/// finishes what the disk holds. It keeps its process id, so that a service manager sees one service.
/// Returns only if the kernel refuses; a service manager that starts it again comes to the same.
fn begin_anew(config: &Path) -> Problem {
    // Not the arguments of this start: a lost store that was made anew is not lost now.
    let error = Command::new("/proc/self/exe").arg0("slotwarden").arg("--config").arg(config).arg("daemon").exec();
    Own::SpawnFailed.with(format!("after a zeroize: {error}"))
}

/// systemd: ready after the automatic slots were tried, never before (sd_notify(3)).
/// Without a service manager there is no socket to tell, and nothing happens.
fn tell_service_manager(notice: Notice<'_>) {
    let told = match notice {
        Notice::Ready(status) => {
            let sentence = status.sentence();
            sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&sentence)])
        }
        Notice::Changed(status) => sd_notify::notify(&[NotifyState::Status(&status.sentence())]),
        Notice::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
    };
    if let Err(error) = told {
        error!("the service manager could not be told: {error}");
    }
}

fn worker_settings(settings: &Settings) -> Result<WorkerSettings, Problem> {
    let tokens = settings
        .slots
        .iter()
        .map(|slot| WantedToken { label: slot.token.label.clone(), serial: slot.token.serial.clone() });
    let lock_file = settings.state_dir.join("worker.lock");
    let mut worker = WorkerSettings::new(settings.hsm.module.clone(), tokens.collect(), lock_file)
        .map_err(|error| Own::SpawnFailed.with(format!("this program's own path: {error}")))?;
    worker.settle_dir.clone_from(&settings.hsm.settle_dir);
    worker.transfer_dir = transfer_dir(settings);
    if let Some(calls) = settings.hsm.calls_in_flight_max {
        worker.calls_in_flight_max = calls;
    }
    if let Some(seconds) = settings.hsm.look_interval_s {
        worker.waits.loss_interval = Duration::from_secs(seconds);
        worker.waits.return_interval = Duration::from_secs(seconds);
    }
    Ok(worker)
}
