//! The real appliance: which devices the loop gets, and in which order they start.
//!
//! Harden, lock the state directory and open the store, take back what an earlier run
//! handed over, start the worker, listen, loop. A second daemon on the same state
//! directory is refused before it touches anything, in particular the hand-over files of
//! the first. A store that cannot be opened still leads to the files being taken back:
//! whoever left them can do it no more.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::io::Errno;
use sd_notify::NotifyState;
use slotwarden_core::Configuration;
use slotwarden_core::Refusal;
use slotwarden_core::limits::SLOTS_APPLIANCE;
use slotwarden_core::person::Persons;
use slotwarden_core::service::SlotConfiguration;
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::apps::{PinFile, PinFiles};
use crate::config::{self, ApplicationSettings, Settings};
use crate::daemon::{self, Devices, Notice, Setup};
use crate::devices::Applications as _;
use crate::devices::Store as _;
use crate::hsm::{WantedToken, WorkerHsm, WorkerSettings};
use crate::names::Names;
use crate::problem::{Own, Problem};
use crate::store::{DiskStore, StoreSettings};
use crate::{control, harden, output, signals};

/// Runs the daemon until it is stopped.
///
/// # Errors
/// Why it could not start. What happens after the start is in its log and its status.
pub fn run(config: &Path, detached: bool) -> Result<(), Problem> {
    let settings = config::load(config)?;
    if detached {
        // EPERM: we lead a process group already, so there is no terminal to leave.
        match rustix::process::setsid() {
            Ok(_) | Err(Errno::PERM) => {}
            Err(error) => return Err(Own::SpawnFailed.with(error.to_string())),
        }
    }
    start_log();
    for failed in harden::forbid_dumps().into_iter().chain(harden::lock_memory()) {
        warn!("{failed}");
    }
    let mut names = Names::from(&settings);
    let (events, arriving) = channel();
    signals::watch(events.clone()).map_err(|error| Own::SpawnFailed.with(error.to_string()))?;
    let mut applications = PinFiles::new(pin_files(&settings.applications)?, events.clone());
    let mut store = match DiskStore::open(&store_settings(&settings), events.clone()) {
        Ok(store) => store,
        Err(refused) => {
            if refused.refusal != Refusal::StoreLocked {
                applications.withdraw_all();
            }
            return Err(refused.into());
        }
    };
    applications.withdraw_all();
    let configured = |name: &str| settings.slots.iter().any(|slot| slot.name == name);
    names.left_out = store.with_sealed_code().filter(|name| !configured(name)).map(str::to_owned).collect();
    for name in &names.left_out {
        warn!("{}", output::kept_code(name));
    }
    let names = Arc::new(names);
    let configuration = core_configuration(&settings, &mut store)?;
    let (records, chain) = (store.loaded().slots.clone(), store.loaded().chain);
    info!(seal = store.seal(), records = chain.sequence, "the store is open");
    let socket = control::listen(&settings.socket, Arc::clone(&names), events.clone())?;
    let hsm = WorkerHsm::start(worker_settings(&settings)?, events.clone())
        .map_err(|error| Own::SpawnFailed.with(format!("the HSM worker's keeper: {error}")))?;
    // From here on only devices, clients and signals send.
    drop(events);
    let devices = Devices { hsm, store, applications };
    let setup = Setup { names, configuration, records, chain };
    let ended = daemon::run(setup, devices, &arriving, &mut tell_service_manager);
    drop(socket);
    ended
}

/// The log goes to standard error, where a service manager takes it. A closed terminal
/// must not end the daemon, so failures to write are ignored.
fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // A second start in one process keeps the first log.
    let _ = log.with_ansi(false).log_internal_errors(false).try_init();
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

fn store_settings(settings: &Settings) -> StoreSettings {
    let mut store = StoreSettings::new(&settings.state_dir);
    if let Some(key_file) = &settings.seal_key_file {
        store.seal.key_file.clone_from(key_file);
    }
    store
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
    if let Some(seconds) = settings.hsm.look_interval_s {
        worker.waits.loss_interval = Duration::from_secs(seconds);
        worker.waits.return_interval = Duration::from_secs(seconds);
    }
    Ok(worker)
}

fn pin_files(applications: &[ApplicationSettings]) -> Result<Vec<PinFile>, Problem> {
    let file = |application: &ApplicationSettings| {
        let mut file = PinFile::new(&application.path);
        if let Some(group) = &application.group {
            file.group = Some(config::group_id(group).ok_or_else(|| {
                Own::ConfigurationWrong.with(format!("application {}: there is no group {group:?}", application.name))
            })?);
        }
        Ok(file)
    };
    applications.iter().map(file).collect()
}

fn core_configuration(settings: &Settings, store: &mut DiskStore) -> Result<Configuration<SLOTS_APPLIANCE>, Problem> {
    let mut slots = heapless::Vec::new();
    for slot in &settings.slots {
        let mut applications = heapless::Vec::new();
        for application in &slot.applications {
            let number = u8::try_from(*application).map_err(|_| Refusal::TooManyApplications)?;
            let number = slotwarden_core::effect::ApplicationId(number);
            applications.push(number).map_err(|_| Refusal::TooManyApplications)?;
        }
        let mut uid = [0; 16];
        getrandom::fill(&mut uid).map_err(|_| slotwarden_core::Fault::RandomUnavailable)?;
        let owner = store.owner_of(&slot.name)?;
        slots.push(SlotConfiguration { owner, uid, applications }).map_err(|_| Refusal::TooManySlots)?;
    }
    let mut persons = if settings.persons.is_empty() { Persons::single() } else { Persons::default() };
    for person in &settings.persons {
        persons.add(person.roles)?;
    }
    Ok(Configuration { slots, persons, tries: settings.tries, digest: settings.digest })
}
