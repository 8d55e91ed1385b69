//! Keeps one worker running, and looks for tokens that went or came.
//!
//! ```text
//! Down ──start_at──► Starting ──Up──► Up ──death, end_worker, a token came──► Down
//!   ▲                    │
//!   └── not loaded, death, start_wait ┘
//! ```
//!
//! `WorkerLost` is sent on the one arrow out of Up, `WorkerUp` on the one into it, so they
//! alternate. A running SoftHSM never lists a token that came or returned, so a second
//! process looks while a slot is absent; when it sees more than the worker, the worker is
//! restarted once nobody uses it, and the slots log in again from the Safe.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slotwarden_core::effect::{HsmAnswer, Input, Outcome, SlotId, Ticket};
use slotwarden_core::fault::HsmFailure;
use slotwarden_core::token::Presence;
use zeroize::Zeroizing;

use super::link::{InFlight, Link, Waiting};
use super::{Happening, Shown, WorkerSettings};
use crate::devices::{Event, Events, FreeToken};
use crate::hsm_wire::{Duty, Found, FoundFree, Frame, Kind, Order, RANDOM_BYTES, Report, WirePath};

/// A looking process that takes longer is ended.
const LOOK_WAIT: Duration = Duration::from_secs(20);
/// A worker that was told to end and had nothing to do is killed after this.
const END_WAIT: Duration = Duration::from_secs(5);
/// The worker is restarted for a token that came only when nobody used it for this long:
/// between two calls of one PIN change there are commits of a few milliseconds.
const QUIET: Duration = Duration::from_millis(250);
/// Nothing is due: how long to sleep at most.
const LONG: Duration = Duration::from_secs(3600);

pub(super) struct Keeper {
    settings: WorkerSettings,
    events: Events,
    shown: Arc<Mutex<Shown>>,
    happenings: Sender<Happening>,
    worker: Worker,
    /// The second process, and when it is ended.
    looking: Option<(Link, Instant)>,
    /// When to look next, while a slot is absent.
    look_at: Instant,
    /// Workers that were told to end, and when they are killed.
    ending: Vec<(Link, Instant)>,
    /// What the core was told of each slot.
    told: Vec<Option<Presence>>,
    /// What a looking process saw and the worker does not: a restart is due.
    came: Option<Found>,
    /// What the last restart was for: the same sight again is no reason for another.
    restarted_for: Option<Found>,
    /// The worker answered its last call, or came up, at this moment.
    quiet_since: Instant,
    /// Wait before the next start.
    back_off: Duration,
    /// Why the worker could not be started, as the operator was told.
    reason: Option<String>,
    next_request: u32,
    next_link: u32,
}

enum Worker {
    Down {
        start_at: Instant,
    },
    /// Waits for its lock (no deadline), then loads the module.
    Starting {
        link: Link,
        until: Option<Instant>,
        not_loaded: Option<String>,
    },
    Up {
        link: Link,
        since: Instant,
    },
}

impl Keeper {
    pub(super) fn new(
        settings: WorkerSettings,
        events: Events,
        shown: Arc<Mutex<Shown>>,
        happenings: Sender<Happening>,
    ) -> Self {
        let now = Instant::now();
        Keeper {
            told: vec![None; settings.tokens.len()],
            back_off: settings.waits.restart_first,
            look_at: now + settings.waits.return_interval,
            settings,
            events,
            shown,
            happenings,
            worker: Worker::Down { start_at: now },
            looking: None,
            ending: Vec::new(),
            came: None,
            restarted_for: None,
            quiet_since: now,
            reason: None,
            next_request: 1,
            next_link: 1,
        }
    }

    /// Until `Stop`.
    pub(super) fn run(mut self, happened: &Receiver<Happening>) {
        loop {
            self.do_what_is_due();
            let wait = self.next_due().saturating_duration_since(Instant::now());
            match happened.recv_timeout(wait) {
                Ok(Happening::Stop) | Err(RecvTimeoutError::Disconnected) => return self.stop(happened),
                Ok(happening) => self.take(happening),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn take(&mut self, happening: Happening) {
        match happening {
            Happening::Perform { ticket, slot, order, secrets } => self.perform(ticket, slot, order, secrets),
            Happening::Random(answer) => self.random(answer),
            Happening::Look => self.look(),
            Happening::EndWorker => {
                if let Worker::Up { .. } | Worker::Starting { .. } = self.worker {
                    self.lose("was ended by order", Instant::now());
                }
            }
            Happening::Frame { link, frame } => self.hear(link, &frame),
            Happening::Closed { link } => self.closed(link),
            Happening::Stop => {}
        }
    }

    fn next_due(&self) -> Instant {
        let mut due = Instant::now() + LONG;
        match &self.worker {
            Worker::Down { start_at } => due = due.min(*start_at),
            Worker::Starting { until, .. } => due = due.min(until.unwrap_or(due)),
            Worker::Up { link, .. } => {
                if self.looking.is_none() && self.is_any_missing() {
                    due = due.min(self.look_at);
                }
                if self.came.is_some() && link.in_flight.is_empty() {
                    due = due.min(self.quiet_since + QUIET);
                }
            }
        }
        let links = self.looking.iter().chain(&self.ending);
        links.map(|(_, until)| *until).fold(due, Instant::min)
    }

    fn do_what_is_due(&mut self) {
        let now = Instant::now();
        for (link, until) in &mut self.ending {
            if *until <= now {
                link.kill();
                // `Closed` follows and takes it off the list.
                *until = now + LONG;
            }
        }
        if let Some((link, until)) = &mut self.looking
            && *until <= now
        {
            link.kill();
            *until = now + LONG;
        }
        match &self.worker {
            Worker::Down { start_at } if *start_at <= now => self.start(),
            Worker::Starting { until: Some(until), .. } if *until <= now => {
                self.lose("did not finish starting in time", now + self.back_off);
            }
            Worker::Up { link, .. } => {
                if self.came.is_some() && link.in_flight.is_empty() && self.quiet_since + QUIET <= now {
                    self.restart_for_what_came();
                } else if self.looking.is_none() && self.is_any_missing() && self.look_at <= now {
                    self.start_looking();
                }
            }
            Worker::Down { .. } | Worker::Starting { .. } => {}
        }
    }

    // The worker's life

    fn start(&mut self) {
        let waits = self.settings.waits;
        let milliseconds = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let duty = Duty::Serve {
            lock_file: WirePath::from(self.settings.lock_file.as_path()),
            lock_wait_ms: milliseconds(waits.lock_wait),
            loss_interval_ms: milliseconds(waits.loss_interval),
        };
        let number = self.link_number();
        match Link::start(&self.settings, duty, number, &self.happenings) {
            Ok(link) => {
                self.shown().process = Some(link.process());
                self.worker = Worker::Starting { link, until: None, not_loaded: None };
            }
            Err(error) => {
                self.note_reason(format!(
                    "the HSM worker {} cannot be started: {error}",
                    self.settings.program.display()
                ));
                self.tell_absent();
                self.worker = Worker::Down { start_at: Instant::now() + self.longer_back_off() };
            }
        }
    }

    fn came_up(&mut self, found: Found) {
        if found.presences.len() != self.settings.tokens.len() {
            return self.lose("reported other slots than it was asked for", Instant::now() + self.back_off);
        }
        let Worker::Starting { link, .. } =
            std::mem::replace(&mut self.worker, Worker::Down { start_at: Instant::now() })
        else {
            return;
        };
        let now = Instant::now();
        self.worker = Worker::Up { link, since: now };
        self.quiet_since = now;
        self.look_at = now + self.settings.waits.return_interval;
        self.reason = None;
        {
            let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            shown.free = found.free.into_iter().map(free_token).collect();
            shown.module = format!("{}: {}", self.settings.module.display(), found.module);
        }
        if self.restarted_for.as_ref().is_some_and(|sight| sight.presences == found.presences) {
            self.restarted_for = None;
        }
        for (slot, presence) in (0..=u8::MAX).map(SlotId).zip(found.presences) {
            self.tell_presence(slot, presence);
        }
        self.send(Input::WorkerUp);
    }

    /// The one arrow out of Up: kills what is left, tells the core once, restarts later.
    fn lose(&mut self, how: &str, start_at: Instant) {
        match std::mem::replace(&mut self.worker, Worker::Down { start_at }) {
            Worker::Up { mut link, since } => {
                let process = link.process();
                let status = link.kill();
                if since.elapsed() >= self.settings.waits.restart_last {
                    self.back_off = self.settings.waits.restart_first;
                } else {
                    self.longer_back_off();
                }
                self.note(format!("HSM worker {process} {how} ({status})"));
                self.down();
            }
            Worker::Starting { mut link, not_loaded, .. } => {
                let status = link.kill();
                let module = self.settings.module.display();
                self.note_reason(match not_loaded {
                    Some(reason) => format!("the PKCS#11 module {module} cannot be loaded: {reason}"),
                    None => format!("the HSM worker with {module} {how} ({status})"),
                });
                self.tell_absent();
                self.longer_back_off();
                self.shown().process = None;
            }
            Worker::Down { start_at } => self.worker = Worker::Down { start_at },
        }
    }

    /// Tells the core that every login is gone and every call under way unanswered.
    fn down(&mut self) {
        self.came = None;
        let mut shown = self.shown();
        shown.process = None;
        shown.free.clear();
        drop(shown);
        self.send(Input::WorkerLost);
    }

    fn restart_for_what_came(&mut self) {
        let now = Instant::now();
        let Worker::Up { mut link, .. } = std::mem::replace(&mut self.worker, Worker::Down { start_at: now }) else {
            return;
        };
        // Politely: it logs out and finalises; the new one waits for its lock.
        link.close();
        self.ending.push((link, now + END_WAIT));
        self.restarted_for = self.came.take();
        self.note("a token came or returned: the HSM worker starts again".into());
        self.down();
    }

    fn closed(&mut self, number: u32) {
        if let Worker::Up { link, .. } | Worker::Starting { link, .. } = &self.worker
            && link.number == number
        {
            return self.lose("died", Instant::now() + self.back_off);
        }
        if let Some((mut link, _)) = self.looking.take_if(|(link, _)| link.number == number) {
            link.kill();
            self.look_at = Instant::now() + self.settings.waits.return_interval;
        }
        if let Some(index) = self.ending.iter().position(|(link, _)| link.number == number) {
            self.ending.swap_remove(index).0.kill();
        }
    }

    /// Finishes the calls in progress, bounded. A worker that is inside a call longer is
    /// left alone: its lock tells the next daemon, and killing it could destroy a token.
    fn stop(mut self, happened: &Receiver<Happening>) {
        let until = Instant::now() + self.settings.waits.stop_wait;
        if let Some((mut link, _)) = self.looking.take() {
            link.kill();
        }
        let mut left = Vec::new();
        if let Worker::Up { link, .. } | Worker::Starting { link, .. } = &mut self.worker {
            link.close();
            left.push(link.number);
        }
        left.extend(self.ending.iter().map(|(link, _)| link.number));
        while !left.is_empty() {
            match happened.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Happening::Closed { link }) => left.retain(|number| *number != link),
                Ok(Happening::Perform { ticket, .. }) => self.answer(ticket, Err(HsmFailure::NoWorker)),
                Ok(Happening::Frame { link, frame }) => self.hear(link, &frame),
                Ok(_) => {}
                Err(_) => return self.note("the HSM worker is still in a call; it ends by itself after that".into()),
            }
        }
        // What closed its socket is exiting: this reaps it.
        if let Worker::Up { link, .. } | Worker::Starting { link, .. } = &mut self.worker {
            link.kill();
        }
        for (link, _) in &mut self.ending {
            link.kill();
        }
    }

    // Orders

    fn perform(&mut self, ticket: Ticket, slot: SlotId, order: Order, secrets: Vec<Frame>) {
        if !self.order(slot, order, secrets, Waiting::Core(ticket)) {
            self.answer(ticket, Err(HsmFailure::NoWorker));
        }
    }

    /// Asks an idle token, so that a hung one costs nobody's randomness; without one the
    /// asker is let go at once.
    fn random(&mut self, answer: std::sync::mpsc::SyncSender<Zeroizing<[u8; RANDOM_BYTES]>>) {
        let Worker::Up { link, .. } = &self.worker else { return };
        let idle = (0..=u8::MAX).map(SlotId).zip(&self.told).find(|(slot, told)| {
            matches!(told, Some(Presence::Present(_))) && !link.in_flight.values().any(|call| call.slot == *slot)
        });
        if let Some((slot, _)) = idle {
            self.order(slot, Order::Random, Vec::new(), Waiting::Random(answer));
        }
    }

    fn order(&mut self, slot: SlotId, order: Order, secrets: Vec<Frame>, waits: Waiting) -> bool {
        let request = self.next_request;
        self.next_request = self.next_request.wrapping_add(1).max(1);
        let Worker::Up { link, .. } = &mut self.worker else { return false };
        let Ok(last) = Frame::new(request, slot, Kind::Order, &order) else { return false };
        if usize::from(slot.0) >= self.settings.tokens.len() {
            return false;
        }
        let frames = secrets.into_iter().map(|frame| Frame { request, ..frame }).chain([last]).collect();
        let sent = link.send(frames);
        if sent {
            link.in_flight.insert(request, InFlight { slot, order, waits });
        }
        sent
    }

    fn look(&mut self) {
        match &mut self.worker {
            // A person mended something: no need to wait for the back-off.
            Worker::Down { start_at } => *start_at = Instant::now(),
            Worker::Starting { .. } => {}
            Worker::Up { .. } => {
                for slot in (0..=u8::MAX).map(SlotId).take(self.settings.tokens.len()) {
                    self.ask_for_loss(slot);
                }
                if self.looking.is_none() {
                    self.start_looking();
                }
            }
        }
    }

    fn ask_for_loss(&mut self, slot: SlotId) {
        if let Worker::Up { link, .. } = &self.worker
            && let Ok(frame) = Frame::new(0, slot, Kind::Order, &Order::Look)
        {
            link.send(vec![frame]);
        }
    }

    // What the processes say

    fn hear(&mut self, number: u32, frame: &Frame) {
        if self.looking.as_ref().is_some_and(|(link, _)| link.number == number) {
            return self.hear_looking(frame);
        }
        let (Worker::Up { link, .. } | Worker::Starting { link, .. }) = &mut self.worker else { return };
        if link.number != number {
            return;
        }
        if frame.kind == Kind::Secret {
            if let Some(InFlight { waits: Waiting::Random(answer), .. }) = link.in_flight.remove(&frame.request)
                && let Ok(bytes) = <[u8; RANDOM_BYTES]>::try_from(frame.body.as_slice())
            {
                // Nobody waits any more when this took too long.
                let _ = answer.try_send(Zeroizing::new(bytes));
            }
            self.quiet_since = Instant::now();
            return;
        }
        let Ok(report) = frame.open::<Report>() else {
            return self.lose("sent garbage", Instant::now() + self.back_off);
        };
        match report {
            Report::Locked => {
                if let Worker::Starting { until, .. } = &mut self.worker {
                    *until = Some(Instant::now() + self.settings.waits.start_wait);
                }
            }
            Report::Up(found) => self.came_up(found),
            Report::NotLoaded(reason) => {
                if let Worker::Starting { not_loaded, .. } = &mut self.worker {
                    *not_loaded = Some(reason);
                }
            }
            Report::Done(result) => self.done(frame, result),
            Report::Gone => self.gone(frame.slot),
            Report::Free(free) => self.free(free),
            Report::NoRandom => {
                link.in_flight.remove(&frame.request);
                self.quiet_since = Instant::now();
            }
            Report::Note(text) => self.note(text),
        }
    }

    fn done(&mut self, frame: &Frame, result: Result<HsmAnswer, HsmFailure>) {
        let Worker::Up { link, .. } = &mut self.worker else { return };
        let Some(call) = link.in_flight.remove(&frame.request) else {
            return self.note("the HSM worker answered what nobody asked".into());
        };
        self.quiet_since = Instant::now();
        let Waiting::Core(ticket) = call.waits else { return };
        if result.is_ok_and(|answer| !answers(call.order, &answer)) {
            // Not an answer: the outcome is unknown, which `WorkerLost` says.
            return self.lose("answered another question", Instant::now() + self.back_off);
        }
        if let Ok(HsmAnswer::Initialised(state)) = result
            && let Some(told) = self.told.get_mut(usize::from(call.slot.0))
        {
            *told = Some(Presence::Present(state));
        }
        self.answer(ticket, result);
    }

    fn gone(&mut self, slot: SlotId) {
        let free = !self.shown().free.is_empty();
        self.restarted_for = None;
        self.look_at = self.look_at.min(Instant::now() + self.settings.waits.return_interval);
        self.tell_presence(slot, Presence::Absent { free });
    }

    fn free(&mut self, free: Vec<FoundFree>) {
        let is_any = !free.is_empty();
        self.shown().free = free.into_iter().map(free_token).collect();
        for slot in (0..=u8::MAX).map(SlotId).take(self.told.len()) {
            if let Some(Some(Presence::Absent { free })) = self.told.get(usize::from(slot.0))
                && *free != is_any
            {
                self.tell_presence(slot, Presence::Absent { free: is_any });
            }
        }
    }

    fn start_looking(&mut self) {
        let now = Instant::now();
        self.look_at = now + self.settings.waits.return_interval;
        let number = self.link_number();
        match Link::start(&self.settings, Duty::Look, number, &self.happenings) {
            Ok(link) => self.looking = Some((link, now + LOOK_WAIT)),
            Err(error) => self.note(format!("no process can look for absent tokens: {error}")),
        }
    }

    /// Compares what a fresh process sees with what the worker sees.
    fn hear_looking(&mut self, frame: &Frame) {
        let Ok(Report::Up(found)) = frame.open::<Report>() else { return };
        if found.presences.len() != self.told.len() || !matches!(self.worker, Worker::Up { .. }) {
            return;
        }
        let missing = |told: &Option<Presence>| !matches!(told, Some(Presence::Present(_)));
        let differs = self.told.iter().zip(&found.presences).any(|(told, seen)| missing(told) && *told != Some(*seen));
        let more_free = self.is_any_missing() && self.shown().free.len() != found.free.len();
        if (differs || more_free) && self.restarted_for.as_ref() != Some(&found) {
            self.came = Some(found);
        }
    }

    // What the core and the operator are told

    fn tell_presence(&mut self, slot: SlotId, presence: Presence) {
        if let Some(told) = self.told.get_mut(usize::from(slot.0)) {
            *told = Some(presence);
            self.send(Input::Token { slot, presence });
        }
    }

    /// No module, no tokens: told once, not with each retry.
    fn tell_absent(&mut self) {
        let absent = Presence::Absent { free: false };
        self.shown().free.clear();
        for slot in (0..=u8::MAX).map(SlotId).take(self.told.len()) {
            if self.told.get(usize::from(slot.0)) != Some(&Some(absent)) {
                self.tell_presence(slot, absent);
            }
        }
    }

    fn is_any_missing(&self) -> bool {
        self.told.iter().any(|told| !matches!(told, Some(Presence::Present(_))))
    }

    fn answer(&self, ticket: Ticket, result: Result<HsmAnswer, HsmFailure>) {
        self.send(Input::Done { ticket, outcome: Outcome::Hsm(result) });
    }

    fn send(&self, input: Input) {
        // A daemon whose loop has ended needs no answer.
        let _ = self.events.send(Event::Input(input));
    }

    fn note(&self, text: String) {
        let _ = self.events.send(Event::Note(text));
    }

    /// The same reason is told once, however often the start is tried.
    fn note_reason(&mut self, text: String) {
        if self.reason.as_ref() != Some(&text) {
            self.note(text.clone());
            self.reason = Some(text);
        }
    }

    fn longer_back_off(&mut self) -> Duration {
        let wait = self.back_off;
        self.back_off = wait.saturating_mul(2).min(self.settings.waits.restart_last);
        wait
    }

    fn link_number(&mut self) -> u32 {
        let number = self.next_link;
        self.next_link = number.wrapping_add(1);
        number
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn free_token(found: FoundFree) -> FreeToken {
    FreeToken { slot_number: found.slot_number, description: found.description }
}

/// Whether the answer is one to this order; a worker is foreign code too.
fn answers(order: Order, answer: &HsmAnswer) -> bool {
    match answer {
        HsmAnswer::Observed(_) => order == Order::Observe,
        HsmAnswer::LoggedIn => order == Order::Login,
        HsmAnswer::LoggedOut => order == Order::Logout,
        HsmAnswer::PinSet => order == Order::SetPin,
        HsmAnswer::Initialised(_) => matches!(order, Order::Initialise { .. }),
        HsmAnswer::Settled => order == Order::Settle,
    }
}
