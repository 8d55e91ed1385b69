//! The thread that watches readers and cards.
//!
//! It waits in `SCardGetStatusChange` without an end; `SCardCancel` wakes it, to stop or to
//! look anew. The pseudo reader `\\?PnP?\Notification` changes when a reader comes or goes
//! (`SCardGetStatusChange(3)`). While pcscd does not run it pauses, each time twice as long
//! as before, up to [`PAUSE_MAX`].

use std::ffi::{CStr, CString};
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use pcsc::{Context, Error, PNP_NOTIFICATION, ReaderState, Scope, State};

use super::desk;
use super::lock;
use super::table::{Seat, Table};
use crate::config::CardsSettings;
use crate::devices::{Event, Events, NOT_ASKED_YET};

/// First pause before pcscd is looked for again.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Longest pause: nobody waits longer for readers after pcscd is back.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How often a watcher that should stop is woken: a cancel that comes just before the wait
/// begins wakes nobody.
const CANCEL_AGAIN: Duration = Duration::from_millis(20);

/// The thread; it ends when this is dropped.
pub(super) struct Watcher {
    context: Shared,
    /// Closed to stop the thread.
    stop: Option<Sender<()>>,
    /// Says that it ended, by being closed.
    ended: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

/// The context in which the watcher waits, for those who wake it.
type Shared = Arc<Mutex<Option<Context>>>;

/// Wakes the watcher, so that it looks anew which readers there are.
#[derive(Clone)]
pub(super) struct Alarm(Shared);

impl Alarm {
    pub(super) fn ring(&self) {
        if let Some(context) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // Nobody waits there when pcscd is gone.
            let _ = context.cancel();
        }
    }
}

impl Watcher {
    pub(super) fn start(settings: Arc<CardsSettings>, table: Arc<Mutex<Table>>, events: Events) -> io::Result<Self> {
        let context = Shared::default();
        let (stop, stopping) = channel();
        let (ending, ended) = channel();
        let watch = Watch { settings, table, events, context: Arc::clone(&context), stopping, told_absent: false };
        let thread = thread::Builder::new().name("cards".to_owned()).spawn(move || {
            watch.run();
            drop(ending);
        })?;
        Ok(Watcher { context, stop: Some(stop), ended, thread: Some(thread) })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop = None;
        let alarm = Alarm(Arc::clone(&self.context));
        while let Err(RecvTimeoutError::Timeout) = {
            alarm.ring();
            self.ended.recv_timeout(CANCEL_AGAIN)
        } {}
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Watch {
    settings: Arc<CardsSettings>,
    table: Arc<Mutex<Table>>,
    events: Events,
    context: Shared,
    /// Nothing ever arrives; it is closed when the watcher shall stop.
    stopping: Receiver<()>,
    /// Whether the log says that pcscd is not there.
    told_absent: bool,
}

impl Watch {
    fn run(mut self) {
        let mut pause = PAUSE_MIN;
        loop {
            let failed = match Context::establish(Scope::System) {
                Ok(context) => {
                    *self.context.lock().unwrap_or_else(PoisonError::into_inner) = Some(context.clone());
                    let (served, error) = self.watch(&context);
                    *self.context.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    self.lose_all();
                    if served {
                        pause = PAUSE_MIN;
                    }
                    error
                }
                Err(error) => error,
            };
            if !matches!(self.stopping.recv_timeout(pause), Err(RecvTimeoutError::Timeout)) {
                return;
            }
            if !std::mem::replace(&mut self.told_absent, true) {
                self.note(format!("the service of the card readers (pcscd) gives no answer: {failed}"));
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Watches until pcscd is gone or the watcher shall stop. Whether it served at all, and why it ended.
    fn watch(&mut self, context: &Context) -> (bool, Error) {
        let mut served = false;
        let mut states = vec![ReaderState::new(PNP_NOTIFICATION(), State::UNAWARE)];
        loop {
            if self.is_stopping() {
                return (served, Error::Cancelled);
            }
            match context.list_readers_owned() {
                Ok(names) => self.compare(&names, &mut states),
                Err(error) => return (served, error),
            }
            served = true;
            if std::mem::take(&mut self.told_absent) {
                self.note("the service of the card readers (pcscd) answers again".to_owned());
            }
            match context.get_status_change(None, &mut states) {
                Ok(()) => self.look(&mut states),
                // Woken to look again; or a reader went between the list and the wait.
                Err(Error::Cancelled | Error::UnknownReader | Error::Timeout) => {}
                Err(error) => return (served, error),
            }
        }
    }

    /// Compares the readers there are with those that were.
    fn compare(&self, names: &[CString], states: &mut Vec<ReaderState>) {
        // In PC/SC's own order, so that the same readers get the same numbers at every start.
        let shown: Vec<(String, &CStr)> =
            names.iter().map(|name| (name.to_string_lossy().into_owned(), name.as_c_str())).collect();
        for name in lock(&self.table).there() {
            if !shown.iter().any(|(other, _)| *other == name) {
                lock(&self.table).gone(&name);
            }
        }
        // The pseudo reader stays; of readers that are new here nothing is known yet.
        let known = |table: &Table, state: &ReaderState| table.is_there(&state.name().to_string_lossy());
        states.retain(|state| state.name() == PNP_NOTIFICATION() || known(&lock(&self.table), state));
        for (name, handle) in shown {
            if !lock(&self.table).is_there(&name) {
                self.admit(&name, handle);
                states.push(ReaderState::new(handle, State::UNAWARE));
            }
        }
    }

    /// A reader appeared: it is excluded, or gets a desk.
    fn admit(&self, name: &str, handle: &CStr) {
        if let Some(pattern) = self.settings.exclude.iter().find(|pattern| pattern.fits(name)) {
            let reason = format!("excluded by the configuration ({:?})", pattern.text());
            lock(&self.table).appeared(name, None, reason);
            return;
        }
        let (jobs, arriving) = channel();
        let presence = lock(&self.table).appeared(name, Some(jobs), NOT_ASKED_YET.to_owned());
        let desk = desk::Desk {
            name: name.to_owned(),
            handle: handle.to_owned(),
            presence,
            settings: Arc::clone(&self.settings),
            table: Arc::clone(&self.table),
            events: self.events.clone(),
            alarm: Alarm(Arc::clone(&self.context)),
        };
        // Not joined: a pad's dialogue may hold it for a minute, and it ends by itself.
        if let Err(error) = thread::Builder::new().name("card reader".to_owned()).spawn(move || desk.run(&arriving)) {
            lock(&self.table).unusable(presence, format!("no thread could be started for it: {error}"));
        }
    }

    fn look(&self, states: &mut [ReaderState]) {
        for state in states {
            let seen = state.event_state();
            state.sync_current_state();
            // A reader that is not known any more is missing from the next list.
            if state.name() == PNP_NOTIFICATION() || seen.intersects(State::UNKNOWN | State::IGNORE) {
                continue;
            }
            let (card, mute) = (seen.contains(State::PRESENT), seen.contains(State::MUTE));
            let seat = Seat { card, mute, count: state.event_count() };
            lock(&self.table).looked(&state.name().to_string_lossy(), seat);
        }
    }

    fn lose_all(&self) {
        let mut table = lock(&self.table);
        for name in table.there() {
            table.gone(&name);
        }
    }

    fn is_stopping(&self) -> bool {
        !matches!(self.stopping.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty))
    }

    fn note(&self, text: String) {
        let _ = self.events.send(Event::Note(text));
    }
}
