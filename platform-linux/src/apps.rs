//! The adapters to applications: who gives an active slot's token PIN to whom, and how.
//!
//! - [`pin_file`]: a file in memory. Written and removed by the loop itself: nothing in it waits.
//! - [`exec`]: a program with the PIN on its standard input.
//! - [`systemd`]: a unit that is restarted, with a file or without, and has to stay healthy.
//! - [`ejbca_rest`]: a crypto token of EJBCA Enterprise.
//!
//! What waits for a process, a bus or a server has a thread of its own for each application
//! ([`line`]): its orders keep their order, the loop never waits, and an application that
//! hangs delays no other. A token PIN on its way ([`pin`]) is wiped when it was handed over.
//!
//! After a start each application is first told to give back what an earlier run may have
//! handed over: that run may have been killed.

#[cfg(feature = "http")]
pub mod ejbca_rest;
pub mod exec;
#[cfg(feature = "http")]
pub mod http;
pub mod line;
pub mod memory;
pub mod pin;
pub mod pin_file;
pub mod program;
#[cfg(feature = "systemd")]
pub mod systemd;

use std::time::{Duration, Instant};

use slotwarden_core::effect::{ApplicationId, ApplicationOrder, Input, Outcome, SlotId, Ticket};
use slotwarden_core::fault::{ApplicationFault, Fault};

use self::exec::Exec;
use self::line::Line;
use self::memory::Memory;
use self::pin::Pin;
use self::pin_file::{PinFile, hand_over, withdraw};
use crate::config::{self, Adapter, PinFileSettings, Settings};
use crate::devices::{Applications, Event, Events, Lend};
use crate::problem::{Own, Problem};

/// How long the end of the daemon waits for applications that are still giving back: a
/// little more than an order may take, so that no program of ours outlives us with a PIN.
pub const END_WAIT: Duration = Duration::from_secs(26);
/// What is left of that to end what has no time any more.
const END_MARGIN: Duration = Duration::from_secs(1);

/// Why an order was not carried out: the fault that people see, and the reason for the log.
/// Nothing that a program or a server said is in it: that could be the token PIN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// As the status shows it.
    pub fault: ApplicationFault,
    /// For the log.
    pub reason: String,
}

impl Failed {
    /// A fault with its reason.
    pub fn new(fault: ApplicationFault, reason: impl Into<String>) -> Self {
        Failed { fault, reason: reason.into() }
    }
}

/// An application that is served by a thread of its own. Orders have to be done by `until`.
pub trait Served: Send {
    /// Gives it the token PIN; done when the application confirmed that it has what it needs.
    ///
    /// # Errors
    /// Why it has not.
    fn hand_over(&mut self, pin: Pin, until: Instant) -> Result<(), Failed>;
    /// Takes it back. What was not handed over counts as done.
    ///
    /// # Errors
    /// Why the application may still have it.
    fn withdraw(&mut self, until: Instant) -> Result<(), Failed>;
}

/// What an application is told about the slot that it is bound to. No secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// The application's own name.
    pub application: String,
    /// The slot's name.
    pub slot: String,
    /// The token as a PKCS#11 URI.
    pub token: String,
}

/// One application.
#[derive(Debug)]
enum Application {
    File(PinFile),
    Line(Line),
    /// Bound to no slot: it is given nothing.
    Unbound,
}

/// The applications of the configuration, by number.
#[derive(Debug)]
pub struct Adapters {
    applications: Vec<Application>,
    memory: Memory,
    events: Events,
}

impl Adapters {
    /// As configured.
    ///
    /// # Errors
    /// [`Own::ConfigurationWrong`]: a group, a user or a file that is not there.
    pub fn new(settings: &Settings, events: &Events) -> Result<Self, Problem> {
        let application = |(number, application): (usize, &config::ApplicationSettings)| {
            let wrong = |why: String| Own::ConfigurationWrong.with(format!("application {}: {why}", application.name));
            let slot = settings.slots.iter().find(|slot| slot.applications.contains(&number));
            if let Adapter::PinFile(file) = &application.adapter {
                return pin_file(file).map(Application::File).map_err(wrong);
            }
            let Some(slot) = slot else { return Ok(Application::Unbound) };
            let about =
                About { application: application.name.clone(), slot: slot.name.clone(), token: slot.token.to_string() };
            let (served, timeout) = served(&application.adapter, about).map_err(wrong)?;
            let line = Line::start(&application.name, served, timeout, events.clone());
            line.map(Application::Line).map_err(|error| Own::SpawnFailed.with(format!("an adapter's thread: {error}")))
        };
        let applications = settings.applications.iter().enumerate().map(application);
        Ok(Adapters {
            applications: applications.collect::<Result<_, _>>()?,
            memory: Memory::new(),
            events: events.clone(),
        })
    }

    /// Hand-over files alone, in the order of their applications.
    #[must_use]
    pub fn of_files(files: Vec<PinFile>, events: Events) -> Self {
        let applications = files.into_iter().map(Application::File).collect();
        Adapters { applications, memory: Memory::new(), events }
    }

    /// The same with another view of swap and mounts.
    #[must_use]
    pub fn with_memory(mut self, memory: Memory) -> Self {
        self.memory = memory;
        self
    }
}

fn pin_file(settings: &PinFileSettings) -> Result<PinFile, String> {
    let group = match &settings.group {
        None => None,
        Some(group) => Some(config::group_id(group).ok_or_else(|| format!("there is no group {group:?}"))?),
    };
    Ok(PinFile { group, ..PinFile::new(&settings.path) })
}

/// Makes what serves an application in a thread of its own.
fn served(adapter: &Adapter, about: About) -> Result<(Box<dyn Served>, Duration), String> {
    match adapter {
        Adapter::Exec(exec) => Ok((Box::new(Exec::new(exec, about)?), exec.timeout)),
        #[cfg(feature = "systemd")]
        Adapter::Systemd(unit) => {
            let file = unit.pin_file.as_ref().map(pin_file).transpose()?;
            Ok((Box::new(systemd::Unit::new(unit, file, about)), unit.timeout))
        }
        #[cfg(feature = "http")]
        Adapter::EjbcaRest(ejbca) => Ok((Box::new(ejbca_rest::CryptoToken::new(ejbca)), ejbca.timeout)),
        // The configuration refuses what this program is built without.
        Adapter::PinFile(_) => Err("a hand-over file needs no thread".into()),
        #[cfg(not(feature = "systemd"))]
        Adapter::Systemd(_) => Err("this program is built without systemd".into()),
        #[cfg(not(feature = "http"))]
        Adapter::EjbcaRest(_) => Err("this program is built without HTTP".into()),
    }
}

impl Applications for Adapters {
    fn perform(
        &mut self,
        ticket: Ticket,
        application: ApplicationId,
        _slot: SlotId,
        order: ApplicationOrder,
        secrets: &dyn Lend,
    ) {
        let result = match self.applications.get(usize::from(application.0)) {
            Some(Application::File(file)) => on_file(file, &self.memory, order, secrets),
            Some(Application::Line(line)) => {
                let queued = match order {
                    ApplicationOrder::Withdraw => line.withdraw(ticket),
                    ApplicationOrder::HandOver { pin } => {
                        Pin::of(pin, secrets).ok_or_else(no_pin).and_then(|pin| line.hand_over(ticket, pin))
                    }
                };
                match queued {
                    // The line answers.
                    Ok(()) => return,
                    Err(failed) => Err(failed),
                }
            }
            Some(Application::Unbound) | None => Err(Failed::new(
                ApplicationFault::NotWritten,
                format!("application {} is not configured", application.0),
            )),
        };
        answer(&self.events, ticket, result);
    }

    fn withdraw_all(&mut self) {
        for application in &self.applications {
            let withdrawn = match application {
                Application::File(file) => {
                    withdraw(file).map_err(|reason| Failed::new(ApplicationFault::NotRemoved, reason))
                }
                Application::Line(line) => line.withdraw_what_is_left(),
                Application::Unbound => Ok(()),
            };
            if let Err(failed) = withdrawn {
                // A closed channel: the loop has ended, and nobody reads.
                let _ = self.events.send(Event::Note(failed.reason));
            }
        }
    }
}

impl Drop for Adapters {
    /// Lets applications finish giving back, for a while.
    fn drop(&mut self) {
        let until = Instant::now() + END_WAIT;
        for application in &mut self.applications {
            if let Application::Line(line) = application {
                line.close(until - END_MARGIN);
            }
        }
        for application in &mut self.applications {
            if let Application::Line(line) = application {
                line.wait_end(until);
            }
        }
    }
}

fn on_file(file: &PinFile, memory: &Memory, order: ApplicationOrder, secrets: &dyn Lend) -> Result<(), Failed> {
    match order {
        ApplicationOrder::Withdraw => {
            withdraw(file).map_err(|reason| Failed::new(ApplicationFault::NotRemoved, reason))
        }
        ApplicationOrder::HandOver { pin } => {
            let mut written = None;
            let lent = secrets.lend(pin, &mut |pin| written = Some(hand_over(file, memory, pin)));
            written.filter(|_| lent).unwrap_or_else(|| Err(no_pin()))
        }
    }
}

fn no_pin() -> Failed {
    Failed::new(ApplicationFault::NotWritten, "the token PIN is no longer in the Safe")
}

/// Tells the loop how an order ended, and why it failed if it did.
fn answer(events: &Events, ticket: Ticket, result: Result<(), Failed>) {
    let result = result.map_err(|failed| {
        // Closed channels, here and below: the loop has ended, and nobody waits.
        let _ = events.send(Event::Note(failed.reason));
        Fault::Application(failed.fault)
    });
    let _ = events.send(Event::Input(Input::Done { ticket, outcome: Outcome::Application(result) }));
}
