//! A private bus (dbus-daemon of the package `dbus`) and on it a stand-in for systemd with one
//! unit: as `org.freedesktop.systemd1(5)` describes the few calls that the adapter makes.
//! The unit is an application that reads its token PIN from a file when it starts. What goes
//! wrong with it is told by the test.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use zbus::blocking::Connection;
use zbus::blocking::connection::Builder;
use zbus::fdo;
use zbus::zvariant::OwnedObjectPath;

/// The one unit there is.
pub(crate) const UNIT: &str = "signer.service";
const UNIT_PATH: &str = "/org/freedesktop/systemd1/unit/signer_2eservice";
/// How long a job takes.
const JOB: Duration = Duration::from_millis(100);

/// What happens to the unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// It starts and stops as it should.
    Well,
    /// Its job fails.
    Fails,
    /// Its job never ends.
    Hangs,
    /// It starts, and ends soon after.
    Dies,
    /// It is started again and again.
    Flaps,
    /// Nobody may give orders about it.
    Denied,
}

#[derive(Debug)]
struct World {
    mood: Mood,
    state: &'static str,
    /// When it became active, in a time of its own.
    entered: u64,
    jobs: u32,
    pin_file: PathBuf,
    /// What the running unit has.
    has: Option<String>,
}

/// The bus and the manager; both end with it.
pub(crate) struct FakeSystemd {
    world: Arc<Mutex<World>>,
    address: String,
    _connection: Connection,
    bus: Child,
}

impl FakeSystemd {
    /// The socket of the bus lies in `dir`; the unit reads `pin_file`.
    pub(crate) fn start(dir: &Path, pin_file: &Path) -> Self {
        let address = format!("unix:path={}", dir.join("bus").display());
        let mut bus = Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--nopidfile", "--nosyslog", "--print-address"])
            .arg(format!("--address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            // It says that it may not raise its limit of descriptors.
            .stderr(Stdio::null())
            .spawn()
            .expect("dbus-daemon runs: the package dbus, which tests/run installs");
        let mut line = String::new();
        let printed = bus.stdout.take().expect("it is piped");
        BufReader::new(printed).read_line(&mut line).expect("it says when it listens");
        assert!(!line.is_empty(), "dbus-daemon ended at once");
        let world = Arc::new(Mutex::new(World {
            mood: Mood::Well,
            state: "inactive",
            entered: 0,
            jobs: 0,
            pin_file: pin_file.to_owned(),
            has: None,
        }));
        let connection = Builder::address(address.as_str())
            .and_then(|builder| builder.serve_at("/org/freedesktop/systemd1", Manager(Arc::clone(&world))))
            .and_then(|builder| builder.serve_at(UNIT_PATH, Unit(Arc::clone(&world))))
            .and_then(|builder| builder.name("org.freedesktop.systemd1"))
            .and_then(Builder::build)
            .expect("our own bus");
        FakeSystemd { world, address, _connection: connection, bus }
    }

    /// The address of the bus.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn mood(&self, mood: Mood) {
        lock(&self.world).mood = mood;
    }

    /// What the running unit has.
    pub(crate) fn has(&self) -> Option<String> {
        lock(&self.world).has.clone()
    }

    pub(crate) fn state(&self) -> &'static str {
        lock(&self.world).state
    }

    /// Orders that were taken so far.
    pub(crate) fn jobs(&self) -> u32 {
        lock(&self.world).jobs
    }

    /// The bus goes away, and the manager with it.
    pub(crate) fn end(&mut self) {
        let _ = self.bus.kill();
        let _ = self.bus.wait();
    }
}

impl Drop for FakeSystemd {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    world.lock().expect("nobody panics with it")
}

struct Manager(Arc<Mutex<World>>);

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    fn subscribe(&self) {}

    fn load_unit(&self, name: &str) -> fdo::Result<OwnedObjectPath> {
        known(name)?;
        Ok(OwnedObjectPath::try_from(UNIT_PATH).expect("a path"))
    }

    fn start_unit(
        &self,
        name: &str,
        mode: &str,
        #[zbus(connection)] connection: &zbus::Connection,
    ) -> fdo::Result<OwnedObjectPath> {
        let runs = lock(&self.0).state == "active";
        self.job(connection, name, mode, !runs, true)
    }

    fn restart_unit(
        &self,
        name: &str,
        mode: &str,
        #[zbus(connection)] connection: &zbus::Connection,
    ) -> fdo::Result<OwnedObjectPath> {
        self.job(connection, name, mode, true, true)
    }

    fn stop_unit(
        &self,
        name: &str,
        mode: &str,
        #[zbus(connection)] connection: &zbus::Connection,
    ) -> fdo::Result<OwnedObjectPath> {
        self.job(connection, name, mode, true, false)
    }
}

fn known(name: &str) -> fdo::Result<()> {
    if name == UNIT { Ok(()) } else { Err(fdo::Error::UnknownObject(format!("Unit {name} not found."))) }
}

impl Manager {
    /// Begins a job and tells its end later, as systemd does.
    fn job(
        &self,
        connection: &zbus::Connection,
        name: &str,
        mode: &str,
        stops: bool,
        starts: bool,
    ) -> fdo::Result<OwnedObjectPath> {
        known(name)?;
        assert_eq!(mode, "replace");
        let mut world = lock(&self.0);
        if world.mood == Mood::Denied {
            return Err(fdo::Error::AccessDenied("Access denied".into()));
        }
        world.jobs += 1;
        let (id, mood) = (world.jobs, world.mood);
        let path = OwnedObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{id}")).expect("a path");
        let (of, told) = (Arc::clone(&self.0), path.clone());
        let connection = Connection::from(connection.clone());
        thread::spawn(move || {
            if mood == Mood::Hangs {
                return;
            }
            thread::sleep(JOB);
            if stops {
                (lock(&of).state, lock(&of).has) = ("inactive", None);
            }
            let result = if mood == Mood::Fails { "failed" } else { "done" };
            if starts && result == "done" {
                enter(&of);
            }
            let body = (id, &told, UNIT, result);
            let manager = ("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager");
            connection.emit_signal(None::<&str>, manager.0, manager.1, "JobRemoved", &body).expect("our own bus");
            match mood {
                Mood::Dies => {
                    thread::sleep(2 * JOB);
                    (lock(&of).state, lock(&of).has) = ("failed", None);
                }
                Mood::Flaps => {
                    while lock(&of).mood == Mood::Flaps {
                        thread::sleep(3 * JOB);
                        enter(&of);
                    }
                }
                Mood::Well | Mood::Fails | Mood::Hangs | Mood::Denied => {}
            }
        });
        Ok(path)
    }
}

/// The unit starts: it reads its PIN, if there is one.
fn enter(world: &Mutex<World>) {
    let mut world = lock(world);
    if world.state != "active" || world.mood == Mood::Flaps {
        world.entered += 1;
        world.state = "active";
        world.has = fs::read_to_string(&world.pin_file).ok();
    }
}

struct Unit(Arc<Mutex<World>>);

#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl Unit {
    #[zbus(property)]
    fn active_state(&self) -> String {
        lock(&self.0).state.to_owned()
    }

    #[zbus(property)]
    fn active_enter_timestamp_monotonic(&self) -> u64 {
        lock(&self.0).entered
    }
}
