//! The adapter `systemd`: a unit that is restarted when its slot is active, and has to be
//! healthy then.
//!
//! The service manager is asked over D-Bus (`org.freedesktop.systemd1(5)`): `RestartUnit`,
//! `StartUnit` or `StopUnit` with mode `replace` give a job, and the signal `JobRemoved`
//! tells how it ended; only `done` is done. Then the unit has to stay active for a while,
//! and answer where the configuration says. With a hand-over file the file is there before
//! the job and gone before the job that takes it back.
//!
//! A job for a unit that is ordered after the daemon's own unit waits until the daemon is
//! ready, which waits for the job: such a unit is never in time at boot (the README says so).

use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use slotwarden_core::fault::ApplicationFault;
use zbus::blocking::connection::Builder;
use zbus::blocking::{Connection, MessageIterator};
use zbus::message::{Message, Type};
use zbus::zvariant::{DynamicType, OwnedObjectPath, OwnedValue};
use zbus::{Error, MatchRule};

use super::http::{Http, OK};
use super::memory::Memory;
use super::pin::Pin;
use super::pin_file::{self, PinFile};
use super::program::Program;
use super::{About, Failed, Served};
use crate::config::{OnActivate, OnDeactivate, SystemdSettings};

const MANAGER: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER_INTERFACE: &str = "org.freedesktop.systemd1.Manager";
const UNIT_INTERFACE: &str = "org.freedesktop.systemd1.Unit";
/// Pause between two looks at a unit or its health.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// Signals that wait: a reader takes them at once.
const SIGNALS_MAX: usize = 64;

/// One application with this adapter.
#[derive(Debug)]
pub struct Unit {
    settings: SystemdSettings,
    file: Option<PinFile>,
    memory: Memory,
    about: About,
    http: Http,
}

impl Unit {
    /// As configured.
    #[must_use]
    pub fn new(settings: &SystemdSettings, file: Option<PinFile>, about: About) -> Self {
        Unit { settings: settings.clone(), file, memory: Memory::new(), about, http: Http::plain() }
    }

    /// Asks for a job and waits for its end.
    fn job(&self, manager: &Manager, method: &str, until: Instant) -> Result<(), Failed> {
        let ended = manager.watch_jobs()?;
        let job: OwnedObjectPath = manager.call(method, &(self.settings.unit.as_str(), "replace"))?;
        loop {
            let Ok((removed, result)) = ended.recv_timeout(until.saturating_duration_since(Instant::now())) else {
                return Err(self.failed(ApplicationFault::TimedOut, format!("the job of {method} does not end")));
            };
            if removed != job {
                continue;
            }
            if result == "done" {
                return Ok(());
            }
            return Err(self.failed(ApplicationFault::JobFailed, format!("the job of {method} ended as {result:?}")));
        }
    }

    /// Waits until the unit was active, in one piece, as long as it has to be.
    fn stays_active(&self, manager: &Manager, until: Instant) -> Result<(), Failed> {
        let path: OwnedObjectPath = manager.call("LoadUnit", &self.settings.unit.as_str())?;
        let mut since: Option<(u64, Instant)> = None;
        loop {
            let state = String::try_from(manager.property(&path, "ActiveState")?).unwrap_or_default();
            let entered = u64::try_from(manager.property(&path, "ActiveEnterTimestampMonotonic")?).unwrap_or_default();
            since = match state.as_str() {
                "active" | "reloading" => match since {
                    Some((before, since)) if before == entered => Some((before, since)),
                    // The first look, or it was restarted between two looks.
                    Some(_) | None => Some((entered, Instant::now())),
                },
                "activating" => None,
                other => return Err(self.failed(ApplicationFault::NotHealthy, format!("the unit is {other:?}"))),
            };
            if since.is_some_and(|(_, since)| since.elapsed() >= self.settings.healthy) {
                return Ok(());
            }
            self.pause(until, "the unit does not stay active")?;
        }
    }

    fn answers(&self, url: &str, until: Instant) -> Result<(), Failed> {
        loop {
            let reason = match self.http.get(url, until) {
                Ok(OK) => return Ok(()),
                Ok(status) => format!("`health_url` answers {status}"),
                Err(failed) => failed.reason,
            };
            self.pause(until, &reason)?;
        }
    }

    fn reports_health(&self, command: &[String], until: Instant) -> Result<(), Failed> {
        let words = [
            ("SLOTWARDEN_APPLICATION", self.about.application.as_str()),
            ("SLOTWARDEN_SLOT", self.about.slot.as_str()),
        ];
        let program = Program { command: command.to_vec(), ids: None };
        loop {
            match program.run(&words, None, until) {
                Ok(()) => return Ok(()),
                Err(failed) if failed.fault == ApplicationFault::NotStarted => return Err(failed),
                Err(failed) => self.pause(until, &format!("`health_command`: {}", failed.reason))?,
            }
        }
    }

    /// Waits a moment, or ends the wait as not healthy.
    fn pause(&self, until: Instant, reason: &str) -> Result<(), Failed> {
        if Instant::now() + LOOK_PAUSE >= until {
            return Err(self.failed(ApplicationFault::NotHealthy, reason));
        }
        thread::sleep(LOOK_PAUSE);
        Ok(())
    }

    fn activate(&self, until: Instant) -> Result<(), Failed> {
        let manager = Manager::connect(&self.settings.bus, until)?;
        match self.settings.on_activate {
            OnActivate::Restart => self.job(&manager, "RestartUnit", until)?,
            OnActivate::Start => self.job(&manager, "StartUnit", until)?,
            OnActivate::None => {}
        }
        self.stays_active(&manager, until)?;
        if let Some(url) = &self.settings.health_url {
            self.answers(url, until)?;
        }
        if let Some(command) = &self.settings.health_command {
            self.reports_health(command, until)?;
        }
        Ok(())
    }

    fn deactivate(&self, until: Instant) -> Result<(), Failed> {
        let method = match self.settings.on_deactivate {
            OnDeactivate::Stop => "StopUnit",
            OnDeactivate::Restart => "RestartUnit",
            OnDeactivate::None => return Ok(()),
        };
        let manager = Manager::connect(&self.settings.bus, until)?;
        self.job(&manager, method, until)
    }

    fn failed(&self, fault: ApplicationFault, reason: impl AsRef<str>) -> Failed {
        Failed::new(fault, format!("unit {}: {}", self.settings.unit, reason.as_ref()))
    }
}

impl Served for Unit {
    fn hand_over(&mut self, pin: Pin, until: Instant) -> Result<(), Failed> {
        if let Some(file) = &self.file {
            pin_file::hand_over(file, &self.memory, pin.bytes())?;
        }
        drop(pin);
        self.activate(until)
    }

    fn withdraw(&mut self, until: Instant) -> Result<(), Failed> {
        let removed = self.file.as_ref().map_or(Ok(()), pin_file::withdraw);
        // Also when the file could not be removed: without the unit nobody reads it.
        let deactivated = self.deactivate(until);
        removed.map_err(|reason| Failed::new(ApplicationFault::NotRemoved, reason)).and(deactivated)
    }
}

/// The service manager at the other end of a bus.
struct Manager {
    connection: Connection,
}

impl Manager {
    /// Connects in a thread of its own: a bus that accepts and never greets would hold ours.
    fn connect(bus: &str, until: Instant) -> Result<Self, Failed> {
        let left = until.saturating_duration_since(Instant::now());
        let (sender, connected) = mpsc::channel();
        let bus = bus.to_owned();
        let connect = move || {
            let connection = Builder::address(bus.as_str()).and_then(|builder| builder.method_timeout(left).build());
            // Too late for whoever waited: the connection is closed again.
            let _ = sender.send(connection);
        };
        thread::Builder::new()
            .name("bus".into())
            .spawn(connect)
            .map_err(|error| Failed::new(ApplicationFault::Unreachable, format!("a thread for the bus: {error}")))?;
        match connected.recv_timeout(left) {
            Ok(Ok(connection)) => Ok(Manager { connection }),
            Ok(Err(error)) => Err(Failed::new(ApplicationFault::Unreachable, format!("the bus: {error}"))),
            Err(_) => Err(Failed::new(ApplicationFault::TimedOut, "the bus does not greet")),
        }
    }

    fn call<B, R>(&self, method: &str, body: &B) -> Result<R, Failed>
    where
        B: serde::Serialize + DynamicType,
        R: for<'answer> zbus::zvariant::DynamicDeserialize<'answer>,
    {
        self.ask(MANAGER_PATH, MANAGER_INTERFACE, method, body)
    }

    fn property(&self, unit: &OwnedObjectPath, name: &str) -> Result<OwnedValue, Failed> {
        self.ask(unit.as_str(), "org.freedesktop.DBus.Properties", "Get", &(UNIT_INTERFACE, name))
    }

    fn ask<B, R>(&self, path: &str, interface: &str, method: &str, body: &B) -> Result<R, Failed>
    where
        B: serde::Serialize + DynamicType,
        R: for<'answer> zbus::zvariant::DynamicDeserialize<'answer>,
    {
        let answer = self.connection.call_method(Some(MANAGER), path, Some(interface), method, body);
        let answer = answer.map_err(|error| failed(method, &error))?;
        answer.body().deserialize().map_err(|error| failed(method, &error))
    }

    /// Ends of jobs from now on: the job's path and its result.
    fn watch_jobs(&self) -> Result<Receiver<(OwnedObjectPath, String)>, Failed> {
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(MANAGER)
            .and_then(|rule| rule.interface(MANAGER_INTERFACE))
            .and_then(|rule| rule.member("JobRemoved"))
            .map_err(|error| failed("JobRemoved", &error))?
            .build();
        let signals = MessageIterator::for_match_rule(rule, &self.connection, Some(SIGNALS_MAX))
            .map_err(|error| failed("JobRemoved", &error))?;
        // systemd sends signals only while somebody subscribed.
        self.call::<_, ()>("Subscribe", &())?;
        let (sender, ended) = mpsc::channel();
        let read = move || {
            for signal in signals {
                let Some(end) = signal.ok().as_ref().and_then(job_removed) else { continue };
                if sender.send(end).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new()
            .name("jobs".into())
            .spawn(read)
            .map_err(|error| Failed::new(ApplicationFault::Unreachable, format!("a thread for signals: {error}")))?;
        Ok(ended)
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // Ends the reader of signals too. A bus that is gone is closed already.
        let _ = self.connection.clone().close();
    }
}

/// `JobRemoved(u id, o job, s unit, s result)`.
fn job_removed(signal: &Message) -> Option<(OwnedObjectPath, String)> {
    let (_, job, _, result): (u32, OwnedObjectPath, String, String) = signal.body().deserialize().ok()?;
    Some((job, result))
}

/// Which fault an error of the bus is.
fn failed(method: &str, error: &Error) -> Failed {
    let fault = match error {
        Error::MethodError(name, _, _) => match name.as_str() {
            "org.freedesktop.DBus.Error.ServiceUnknown" | "org.freedesktop.DBus.Error.NameHasNoOwner" => {
                ApplicationFault::Unreachable
            }
            "org.freedesktop.DBus.Error.NoReply" | "org.freedesktop.DBus.Error.Timeout" => ApplicationFault::TimedOut,
            _ => ApplicationFault::Refused,
        },
        Error::InputOutput(error) if error.kind() == std::io::ErrorKind::TimedOut => ApplicationFault::TimedOut,
        _ => ApplicationFault::Unreachable,
    };
    Failed::new(fault, format!("{method}: {error}"))
}
