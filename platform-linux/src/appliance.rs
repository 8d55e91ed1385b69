//! The appliance: which devices the loop gets, and in which order they start.
//!
//! Harden, lock the state directory and open the store, take back what an earlier run
//! handed over, start the worker, listen, loop. A second daemon on the same state
//! directory is refused before it touches anything, in particular the hand-over files of
//! the first. A store that cannot be opened still leads to the files being taken back:
//! whoever left them can do it no more.
//!
//! Here is what every appliance has, whatever its HSM; the simulator begins with it too.
//! The real HSM joins in [`run`].

mod cards_alone;
#[cfg(feature = "pkcs11")]
mod run;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use slotwarden_core::Configuration;
use slotwarden_core::Refusal;
use slotwarden_core::join;
use slotwarden_core::limits::SLOTS_APPLIANCE;
use slotwarden_core::person::Persons;
use slotwarden_core::service::SlotConfiguration;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

pub use cards_alone::{CardsAlone, Readers};
#[cfg(feature = "pkcs11")]
pub use run::run;

use crate::apps::Adapters;
use crate::cluster;
use crate::config::{self, CardsSettings, Offered, Places, Settings, SyncSettings};
use crate::daemon::{Setup, StoredCards, StoredCluster, SyncSetup};
use crate::devices::{Applications as _, Cards, Event, Events, NoCards, Store as _};
use crate::exchange::{self, Courier, CourierSettings};
use crate::names::Names;
use crate::problem::{Own, Problem};
use crate::store::{self, DiskStore, Refused, StoreSettings};
use crate::vendor_program::VendorProgram;
use crate::wire::SPOOL_BYTES_MAX;
use crate::{harden, output};

/// First pause before the exchange is asked again.
const EXCHANGE_PAUSE_MIN: Duration = Duration::from_millis(200);

/// An appliance but for its HSM.
pub struct Prepared {
    /// What the loop begins with.
    pub setup: Setup,
    /// The open store.
    pub store: DiskStore,
    /// The adapters; what an earlier run left was taken back.
    pub applications: Adapters,
    /// What is in force: the file, or under dual control what two persons approved.
    pub settings: Settings,
}

/// Opens the store, or with `new_store` makes one where it was lost; takes back what an
/// earlier run handed over; makes what the core and the loop are configured with.
///
/// # Errors
/// What the store, the configuration or the kernel refuses.
pub fn prepare(offered: &Offered, new_store: bool, events: &Events) -> Result<Prepared, Problem> {
    let place = store_settings(&offered.places);
    if let Err(wrong) = &offered.settings
        && !DiskStore::is_at(&place.state_dir)
    {
        // Nobody could have approved anything here.
        return Err(wrong.clone());
    }
    let made_room = if new_store { set_lost_aside(&place) } else { Ok(()) };
    let mut store = match made_room.and_then(|()| DiskStore::open(&place, events.clone())) {
        Ok(store) => store,
        Err(refused) => {
            if refused.refusal != Refusal::StoreLocked
                && let Ok(settings) = &offered.settings
            {
                Adapters::new(settings, events)?.withdraw_all();
            }
            return Err(refused.into());
        }
    };
    let settings = in_force(offered, &mut store)?;
    let mut applications = Adapters::new(&settings, events)?;
    applications.withdraw_all();
    for person in &settings.persons {
        store.person_of(&person.name)?;
    }
    let numbered = store.persons().map(|(name, person)| (name.to_owned(), person)).collect();
    let mut names = Names::new(&settings, numbered);
    let configured = |name: &str| settings.slots.iter().any(|slot| slot.name == name);
    names.left_out = store.with_sealed_code().filter(|name| !configured(name)).map(str::to_owned).collect();
    for name in &names.left_out {
        warn!("{}", output::kept_code(name));
    }
    let configuration = core_configuration(&settings, offered, &mut store)?;
    let loaded = store.loaded();
    let (records, sets, chain) = (loaded.slots.clone(), loaded.sets.clone(), loaded.chain);
    let cards = StoredCards { sets: loaded.card_sets.clone(), cards: loaded.cards.clone(), cluster: loaded.cluster_id };
    info!(seal = store.seal(), records = chain.sequence, "the store is open");
    let cluster = StoredCluster {
        membership: store.loaded().membership.clone(),
        marks: store.loaded().marks.clone(),
        reception: store.loaded().reception.clone(),
    };
    let policy = store.loaded().policy;
    let sync = SyncSetup {
        dir: sync_dir(&settings),
        transfer_dir: transfer_dir(&settings),
        name: settings.sync.as_ref().and_then(|sync| sync.name.clone()).unwrap_or_else(host_name),
        settings: settings.sync.clone(),
    };
    let setup = Setup {
        names: Arc::new(names),
        configuration,
        records,
        sets,
        cards,
        policy,
        restoration: store.loaded().restoration,
        cluster,
        sync,
        chain,
        protected: settings.protected.clone(),
        coverage: settings.coverage,
        configuration_file: offered.path.clone(),
    };
    Ok(Prepared { setup, store, applications, settings })
}

/// The settings that count: those of the file, or under dual control those that two persons
/// approved, whatever the file says meanwhile, usable or not.
fn in_force(offered: &Offered, store: &mut DiskStore) -> Result<Settings, Problem> {
    let policy = store.loaded().policy;
    store.keep_only(&policy.configuration)?;
    if !policy.dual_control {
        return offered.settings.clone();
    }
    // The store was refused if it did not hold this.
    let approved = store.configuration(&policy.configuration).ok_or(Refusal::StoreUnreadable)?;
    match &offered.settings {
        Ok(settings) if config::digest(&settings.protected) == policy.configuration => {}
        Ok(settings) => {
            warn!("configuration change waits for two persons: what they approved stays in force");
            for difference in config::differences(approved, &settings.protected) {
                warn!("not in force: {difference}");
            }
        }
        Err(wrong) => warn!("{wrong}; what two persons approved stays in force"),
    }
    config::approved(approved, &offered.places)
}

/// The readers of this machine, where they are used.
///
/// # Errors
/// No thread can be started; or this program is built without them.
pub fn card_readers(settings: &CardsSettings, events: &Events) -> Result<Box<dyn Cards + Send>, Problem> {
    if !settings.enabled {
        return Ok(Box::new(NoCards));
    }
    #[cfg(feature = "pcsc")]
    {
        let cards = crate::cards::PcscCards::start(settings.clone(), events.clone())
            .map_err(|error| Own::SpawnFailed.with(format!("the watcher of the card readers: {error}")))?;
        Ok(Box::new(cards))
    }
    #[cfg(not(feature = "pcsc"))]
    {
        let _ = events;
        Err(Own::ConfigurationWrong.with("card readers are wanted, and this program is built without its feature pcsc"))
    }
}

/// What carries packages between the members of the cluster, where the configuration names something.
///
/// # Errors
/// It cannot be begun. That it cannot be reached is none: it is tried again, and `sync status` says so.
pub fn exchange(settings: &Settings, events: &Events) -> Result<Option<Courier>, Problem> {
    let Some(SyncSettings { engine: Some(engine), interval, .. }) = &settings.sync else { return Ok(None) };
    let failed = |error: std::io::Error| Own::SpawnFailed.with(format!("the exchange: {error}"));
    let courier = CourierSettings {
        spool_dir: sync_dir(settings),
        interval: *interval,
        pause_min: EXCHANGE_PAUSE_MIN,
        bytes_max: SPOOL_BYTES_MAX,
    };
    let events = events.clone();
    let deliver = move |arrival| {
        // A loop that ended takes nothing.
        let _ = events.send(Event::Arrived(arrival));
    };
    let engine = exchange::open(engine).map_err(failed)?;
    Courier::start(engine, courier, deliver).map(Some).map_err(failed)
}

/// Where exports are made and files to restore are kept.
#[must_use]
pub fn transfer_dir(settings: &Settings) -> PathBuf {
    settings.state_dir.join("transfer")
}

/// Where rosters, ledgers and packages are kept.
fn sync_dir(settings: &Settings) -> PathBuf {
    settings.state_dir.join("sync")
}

/// The programs that make exports, by the names of their slots.
#[must_use]
pub fn vendor_programs(settings: &Settings) -> BTreeMap<String, VendorProgram> {
    let programs = settings.slots.iter().filter_map(|slot| {
        let (label, serial) = (slot.token.label.clone()?, slot.token.serial.clone()?);
        Some((slot.name.clone(), VendorProgram { path: slot.export_program.clone()?, label, serial }))
    });
    programs.collect()
}

/// What this node is called in its cluster where nobody said: as its host, as far as that can be a name.
fn host_name() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let plain = |found: char| if join::is_name(found.encode_utf8(&mut [0; 4])) { found } else { '-' };
    let name: String = host.chars().map(plain).take(join::NAME_CHARS_MAX).collect();
    if name.is_empty() { "node".to_owned() } else { name }
}

/// Begins the log. The service manager takes it from standard error; a closed terminal
/// must not end the daemon, so failures to write are ignored.
pub fn start_log<W>(writer: W)
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    // A second start in one process keeps the first log.
    let _ = log.with_ansi(false).log_internal_errors(false).try_init();
}

/// Asks of the kernel what a process that holds secrets needs; the log says what failed.
pub fn harden() {
    for failed in harden::forbid_dumps().into_iter().chain(harden::lock_memory()) {
        warn!("{failed}");
    }
}

/// Says in the log where the rest of a lost store lies.
fn set_lost_aside(place: &StoreSettings) -> Result<(), Refused> {
    let aside = store::set_lost_aside(place)?;
    warn!("the store was lost; what was left of it lies in {}; its sealed codes are lost with it", aside.display());
    warn!("every token is adopted again, its keys are kept; `slotwarden slot unblock NAME` opens it by its SO PIN");
    Ok(())
}

fn store_settings(places: &Places) -> StoreSettings {
    let mut store = StoreSettings::new(&places.state_dir);
    if let Some(key_file) = &places.seal_key_file {
        store.seal.key_file.clone_from(key_file);
    }
    store
}

fn core_configuration(
    settings: &Settings,
    offered: &Offered,
    store: &mut DiskStore,
) -> Result<Configuration<SLOTS_APPLIANCE>, Problem> {
    let in_force = store.loaded().membership.as_ref().map(|membership| &membership.roster);
    let annexed = in_force.map_or_else(Vec::new, |roster| cluster::annexed_slots(&sync_dir(settings), roster));
    let common = in_force.map_or(store.cluster_id(), |roster| roster.cluster);
    let mut taken: Vec<_> = store.loaded().slots.iter().map(|(owner, record)| (*owner, record.uid)).collect();
    let mut slots = heapless::Vec::new();
    for slot in &settings.slots {
        let mut applications = heapless::Vec::new();
        for application in &slot.applications {
            let number = u8::try_from(*application).map_err(|_| Refusal::TooManyApplications)?;
            let number = slotwarden_core::effect::ApplicationId(number);
            applications.push(number).map_err(|_| Refusal::TooManyApplications)?;
        }
        let owner = store.owner_of(&slot.name)?;
        let mut uid = cluster::first_uid(common, &annexed, &slot.name);
        if taken.iter().any(|(its, known)| *its != owner && *known == uid) {
            // Two slots with one uid would have one key between them (P17).
            warn!(slot = slot.name, "another slot here has the uid that its name has in the cluster");
            getrandom::fill(&mut uid).map_err(|_| slotwarden_core::Fault::RandomUnavailable)?;
        }
        taken.push((owner, uid));
        let pin_chars_max = slot.pin_chars_max.unwrap_or(0);
        slots.push(SlotConfiguration { owner, uid, applications, pin_chars_max }).map_err(|_| Refusal::TooManySlots)?;
    }
    let mut persons = if settings.persons.is_empty() { Persons::single() } else { Persons::default() };
    for person in &settings.persons {
        persons.add(store.person_of(&person.name)?, person.roles)?;
    }
    let (tries, digest) = (settings.tries, settings.digest);
    let in_force = config::digest(&settings.protected);
    // A file that cannot be used offers nothing that was approved.
    let offered = offered.settings.as_ref().map_or([0; 32], |settings| config::digest(&settings.protected));
    // The id that was made with the store, so that a power cut before the core recorded it changes nothing.
    let (level, cluster) = (settings.security_level, store.cluster_id());
    Ok(Configuration { slots, persons, tries, digest, in_force, offered, level, cluster })
}
