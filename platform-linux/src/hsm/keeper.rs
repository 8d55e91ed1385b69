//! Keeps one worker running, and hands orders and answers through.
//!
//! ```text
//! Down ──start_at──► Starting ──Up──► Up ──death, end_worker, a token came──► Down
//!   ▲                    │            └─garbage─► Distrusted ──ended───────────▲
//!   └── not loaded, death, start_wait ┘
//! ```
//!
//! `WorkerLost` is sent on each arrow into Down from Up and Distrusted, `WorkerUp` on the
//! one into Up, so they alternate.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use slotwarden_core::effect::{HsmAnswer, Input, SlotId, Ticket};
use slotwarden_core::fault::HsmFailure;
use slotwarden_core::token::Presence;
use tracing::info;

use super::distrust::{Distrust, Look};
use super::link::{InFlight, Link, Waiting, only_reads};
use super::looking::Looking;
use super::told::Told;
use super::{Drawn, Happening, WorkerSettings};
use crate::devices::KeysDone;
use crate::hsm_wire::{Duty, Found, Frame, Kind, Order, RANDOM_BYTES, Report, WantedToken, WirePath};
use crate::hsm_worker::lock::End;
use crate::token_uri::TokenUri;

/// A worker that was told to end and had nothing to do is killed after this.
const END_WAIT: Duration = Duration::from_secs(5);
/// Nothing is due: how long to sleep at most.
const LONG: Duration = Duration::from_secs(3600);

pub(super) struct Keeper {
    settings: WorkerSettings,
    happenings: SyncSender<Happening>,
    worker: Worker,
    looking: Looking,
    told: Told,
    /// Workers that were told to end, and when they are killed.
    ending: Vec<(Link, Instant)>,
    /// The worker answered its last call that is more than a reading, or came up, at this moment.
    quiet_since: Instant,
    /// The worker answered a call that may be one of a PIN change at this moment.
    changing_since: Option<Instant>,
    /// Wait before the next start.
    back_off: Duration,
    next_request: u32,
    next_link: u32,
}

enum Worker {
    /// None runs.
    Down { start_at: Instant },
    /// Waits for its lock (no deadline), then loads the module.
    Starting { link: Link, until: Option<Instant>, not_loaded: Option<String> },
    /// Takes orders.
    Up { link: Link, since: Instant },
    /// Takes no orders and is not heard; ended as soon as that destroys nothing.
    Distrusted { link: Link, since: Instant, distrust: Distrust },
}

/// When to start again after a loss.
enum Restart {
    AtOnce,
    AfterBackOff,
}

impl Keeper {
    pub(super) fn new(settings: WorkerSettings, told: Told, happenings: SyncSender<Happening>) -> Self {
        let now = Instant::now();
        Keeper {
            looking: Looking::new(&settings.waits),
            back_off: settings.waits.restart_first,
            settings,
            happenings,
            worker: Worker::Down { start_at: now },
            told,
            ending: Vec::new(),
            quiet_since: now,
            changing_since: None,
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
                Ok(Happening::Perform { ticket, slot, order, secrets }) => self.perform(ticket, slot, order, secrets),
                Ok(Happening::Random(answer)) => self.random(answer),
                Ok(Happening::Look) => self.look(),
                Ok(Happening::EndWorker) => self.lose("was ended by order", Restart::AtOnce),
                Ok(Happening::Frame { link, frame }) => self.hear(link, frame),
                Ok(Happening::Closed { link, how }) => self.closed(link, how),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn next_due(&self) -> Instant {
        let worker = match &self.worker {
            Worker::Down { start_at } => Some(*start_at),
            Worker::Starting { until, .. } => *until,
            Worker::Up { link, .. } => self.restart_due(link).or_else(|| self.report_due(link)),
            Worker::Distrusted { distrust, .. } => Some(distrust.look_at),
        };
        let ending = self.ending.iter().map(|(_, until)| *until).min();
        let looking = self.looking.next_due(self.may_look());
        [worker, ending, looking].into_iter().flatten().min().unwrap_or_else(|| Instant::now() + LONG)
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
        self.looking.end_overdue(now);
        match &self.worker {
            Worker::Down { start_at } if *start_at <= now => self.start(),
            Worker::Starting { until: Some(until), .. } if *until <= now => {
                self.lose("did not finish starting in time", Restart::AfterBackOff);
            }
            Worker::Up { link, .. } => {
                if self.restart_due(link).is_some_and(|at| at <= now) {
                    self.restart_for_what_came();
                } else if self.report_due(link).is_some_and(|at| at <= now) {
                    self.report_hang(now);
                }
            }
            Worker::Distrusted { distrust, .. } if distrust.look_at <= now => self.end_distrusted(),
            Worker::Down { .. } | Worker::Starting { .. } | Worker::Distrusted { .. } => {}
        }
        if self.looking.is_due(self.may_look(), now) {
            self.start_looking();
        }
    }

    /// When the worker is started again for a token that came. Calls that change something are waited for, however
    /// long they take; those that only read for a while.
    fn restart_due(&self, link: &Link) -> Option<Instant> {
        self.looking.came.as_ref()?;
        let hang_wait = self.settings.waits.hang_wait;
        let read_until = |call: &InFlight| call.only_reads().then(|| call.since + hang_wait);
        let read: Option<Vec<Instant>> = link.in_flight.values().map(read_until).collect();
        read?.into_iter().chain([self.quiet_from()]).max()
    }

    /// When it is to be reported that a call keeps the worker from that.
    fn report_due(&self, link: &Link) -> Option<Instant> {
        let oldest = link.in_flight.values().filter(|call| !call.only_reads()).map(|call| call.since).min()?;
        self.looking.next_report().map(|at| at.max(oldest + self.settings.waits.hang_wait))
    }

    /// When the worker may start again although it is well. Whether a PIN change goes on,
    /// only the core knows; between two of its calls there are commits, so time decides.
    fn quiet_from(&self) -> Instant {
        let quiet = self.quiet_since + self.settings.waits.quiet_wait;
        self.changing_since.map_or(quiet, |since| quiet.max(since + self.settings.waits.change_wait))
    }

    // The worker's life

    fn start(&mut self) {
        let waits = self.settings.waits;
        let duty = Duty::Serve {
            lock_file: WirePath::from(self.settings.lock_file.as_path()),
            lock_wait_ms: super::milliseconds(waits.lock_wait),
            login_wait_ms: super::milliseconds(waits.login_wait),
            loss_interval_ms: super::milliseconds(waits.loss_interval),
        };
        let number = self.link_number();
        info!("the HSM worker starts");
        match Link::start(&self.settings, duty, number, &self.happenings) {
            Ok(link) => {
                self.told.shown().process = Some(link.process());
                self.worker = Worker::Starting { link, until: None, not_loaded: None };
            }
            Err(error) => {
                let program = self.settings.program.display();
                self.told.reason(format!("the HSM worker {program} cannot be started: {error}"));
                self.told.all_absent();
                let looks = self.looking.all_answered();
                self.told.looked(looks);
                self.worker = Worker::Down { start_at: Instant::now() + self.longer_back_off() };
            }
        }
    }

    fn came_up(&mut self, found: Found) {
        if found.presences.len() != self.settings.tokens.len() {
            return self.distrust("reported other slots than it was asked for");
        }
        let now = Instant::now();
        match std::mem::replace(&mut self.worker, Worker::Down { start_at: now }) {
            Worker::Starting { link, .. } => self.worker = Worker::Up { link, since: now },
            other => {
                self.worker = other;
                return self.distrust("came up twice");
            }
        }
        self.quiet_since = now;
        self.changing_since = None;
        self.told.forget_reason();
        self.looking.worker_sees(&found.presences);
        self.told.remember_free(found.free);
        self.told.shown().module = format!("{}: {}", self.settings.module.display(), found.module);
        for (slot, presence) in (0..=u8::MAX).map(SlotId).zip(found.presences) {
            if let Some(presence) = presence {
                self.told.presence(slot, presence);
            }
        }
        self.told.input(Input::WorkerUp);
        let looks = self.looking.all_answered();
        self.told.looked(looks);
    }

    /// The worker is not believed any more: it is ended as soon as that destroys nothing.
    fn distrust(&mut self, how: &'static str) {
        match std::mem::replace(&mut self.worker, Worker::Down { start_at: Instant::now() }) {
            Worker::Up { mut link, since } => {
                // It begins no further call.
                link.close();
                self.worker = Worker::Distrusted { link, since, distrust: Distrust::new(how) };
                self.end_distrusted();
            }
            // It serves nobody yet.
            starting @ Worker::Starting { .. } => {
                self.worker = starting;
                self.lose(how, Restart::AfterBackOff);
            }
            other @ (Worker::Down { .. } | Worker::Distrusted { .. }) => self.worker = other,
        }
    }

    fn end_distrusted(&mut self) {
        let Worker::Distrusted { link, distrust, .. } = &mut self.worker else { return };
        match distrust.look(link, &self.settings) {
            Look::MayEnd => {
                let how = distrust.how;
                self.lose(how, Restart::AfterBackOff);
            }
            Look::Waits(Some(note)) => self.told.note(note),
            Look::Waits(None) => {}
        }
    }

    /// Kills what is left and starts again later: after a death, by a person's order, or
    /// when nothing forbids it. With `restart_for_what_came` the only way out of Up and
    /// Distrusted: the core is told once.
    fn lose(&mut self, how: &str, restart: Restart) {
        let start_at = Instant::now();
        match std::mem::replace(&mut self.worker, Worker::Down { start_at }) {
            Worker::Up { mut link, since } | Worker::Distrusted { mut link, since, .. } => {
                let process = link.process();
                let status = link.kill();
                if since.elapsed() >= self.settings.waits.restart_last {
                    self.back_off = self.settings.waits.restart_first;
                }
                self.told.note(format!("HSM worker {process} {how} ({status})"));
                self.lost();
            }
            Worker::Starting { mut link, not_loaded, .. } => {
                let status = link.kill();
                let module = self.settings.module.display();
                self.told.reason(match not_loaded {
                    Some(reason) => format!("the PKCS#11 module {module} cannot be loaded: {reason}"),
                    None => format!("the HSM worker with {module} {how} ({status})"),
                });
                self.told.shown().process = None;
                self.told.all_absent();
                let looks = self.looking.all_answered();
                self.told.looked(looks);
            }
            down @ Worker::Down { .. } => {
                self.worker = down;
                return;
            }
        }
        if let Restart::AfterBackOff = restart {
            self.worker = Worker::Down { start_at: start_at + self.longer_back_off() };
        }
    }

    /// Tells the core that every login is gone and every call under way unanswered.
    fn lost(&mut self) {
        self.looking.worker_lost();
        {
            let mut shown = self.told.shown();
            shown.process = None;
            shown.free.clear();
        }
        self.told.input(Input::WorkerLost);
    }

    fn restart_for_what_came(&mut self) {
        let now = Instant::now();
        match std::mem::replace(&mut self.worker, Worker::Down { start_at: now }) {
            Worker::Up { mut link, .. } => {
                // Politely: it logs out and finalises; the new one waits for its lock.
                link.close();
                self.ending.push((link, now + END_WAIT));
                self.looking.restarting();
                self.told.note("a token came or returned: the HSM worker starts again");
                self.lost();
            }
            other => self.worker = other,
        }
    }

    /// A call that does not end keeps the worker from being started again, which another
    /// slot's token waits for. Ending it is a person's decision: it may be a `C_SetPIN`.
    fn report_hang(&mut self, now: Instant) {
        self.looking.reported();
        let Worker::Up { link, .. } = &self.worker else { return };
        let hang_wait = self.settings.waits.hang_wait;
        let hung = link.in_flight.values().filter(|call| !call.only_reads() && call.since + hang_wait <= now);
        let slots = hung.map(|call| usize::from(call.slot.0));
        let tokens = slots.filter_map(|slot| self.settings.tokens.get(slot));
        let uri =
            |token: &WantedToken| TokenUri { label: token.label.clone(), serial: token.serial.clone() }.to_string();
        let mut names: Vec<String> = tokens.map(uri).collect();
        names.sort();
        names.dedup();
        for name in names {
            self.told.note(format!(
                "a token came or returned, but a call to the token {name} does not end, and until then the HSM worker \
                 is not started again; wait for the HSM, or end the call with \
                 `slotwarden slot deactivate {name:?} --confirm \"end call\"`"
            ));
        }
    }

    fn closed(&mut self, number: u32, how: &'static str) {
        if let Worker::Up { link, .. } | Worker::Starting { link, .. } = &self.worker
            && link.number == number
        {
            return self.distrust(how);
        }
        if self.looking.closed(number) {
            self.look_ended();
        }
        if let Some(index) = self.ending.iter().position(|(link, _)| link.number == number) {
            self.ending.swap_remove(index).0.kill();
        }
    }

    /// Finishes the calls in progress, bounded. A worker that is inside a call longer is
    /// left alone: its lock tells the next daemon, and killing it could destroy a token.
    fn stop(mut self, happened: &Receiver<Happening>) {
        let until = Instant::now() + self.settings.waits.stop_wait;
        self.looking.stop();
        if let Worker::Up { link, .. } | Worker::Starting { link, .. } = &mut self.worker {
            link.close();
        }
        if let Worker::Distrusted { distrust, .. } = &self.worker {
            // Its end was not heard of, and might not be.
            self.told
                .note(format!("the HSM worker {} and is still in a call; it ends by itself after that", distrust.how));
        }
        let current = match &self.worker {
            Worker::Up { link, .. } | Worker::Starting { link, .. } => Some(link.number),
            Worker::Down { .. } | Worker::Distrusted { .. } => None,
        };
        let mut left: Vec<u32> = self.ending.iter().map(|(link, _)| link.number).chain(current).collect();
        while !left.is_empty() {
            match happened.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Happening::Closed { link, .. }) => left.retain(|number| *number != link),
                Ok(Happening::Perform { ticket, .. }) => self.told.answer(ticket, Err(HsmFailure::NoWorker)),
                Ok(Happening::Frame { link, frame }) => self.hear(link, frame),
                Ok(_) => {}
                Err(_) => return self.told.note("the HSM worker is still in a call; it ends by itself after that"),
            }
        }
        // Each closed its socket and is exiting: this reaps it.
        if let Worker::Up { link, .. } | Worker::Starting { link, .. } = &mut self.worker
            && link.end(&self.settings.lock_file, false) == End::Ended
        {
            link.kill();
        }
        for (link, _) in &mut self.ending {
            link.kill();
        }
    }

    // Orders

    fn perform(&mut self, ticket: Ticket, slot: SlotId, order: Order, secrets: Vec<Frame>) {
        if !self.order(slot, order, secrets, Waiting::Core(ticket)) {
            self.told.answer(ticket, Err(HsmFailure::NoWorker));
        }
    }

    /// Asks an idle token, so that a hung one costs nobody's randomness; without one the
    /// asker is let go at once.
    fn random(&mut self, answer: Drawn) {
        let idle = self.told.slots().find(|(slot, _)| self.told.is_present(*slot) && self.is_idle(*slot));
        if let Some((slot, _)) = idle {
            self.order(slot, Order::Random, Vec::new(), Waiting::Random(answer));
        }
    }

    fn is_idle(&self, slot: SlotId) -> bool {
        match &self.worker {
            Worker::Up { link, .. } => !link.in_flight.values().any(|call| call.slot == slot),
            Worker::Down { .. } | Worker::Starting { .. } | Worker::Distrusted { .. } => false,
        }
    }

    fn order(&mut self, slot: SlotId, order: Order, secrets: Vec<Frame>, waits: Waiting) -> bool {
        let request = self.next_request;
        self.next_request = self.next_request.wrapping_add(1).max(1);
        let Worker::Up { link, .. } = &mut self.worker else { return false };
        if usize::from(slot.0) >= self.settings.tokens.len() {
            return false;
        }
        // One reading after the other would put off the start for a token that came for ever.
        let restarts = self.looking.came.is_some() && link.in_flight.values().all(InFlight::only_reads);
        if restarts && only_reads(&order) {
            return false;
        }
        let Ok(last) = Frame::new(request, slot, Kind::Order, &order) else { return false };
        let frames = secrets.into_iter().map(|frame| Frame { request, ..frame }).chain([last]).collect();
        let sent = link.send(frames);
        if sent {
            link.in_flight.insert(request, InFlight { slot, order, waits, since: Instant::now() });
        }
        sent
    }

    fn look(&mut self) {
        self.looking.order();
        match &mut self.worker {
            // A person mended something: no need to wait for the back-off.
            Worker::Down { start_at } => *start_at = Instant::now(),
            Worker::Starting { .. } | Worker::Distrusted { .. } => {}
            Worker::Up { link, .. } => {
                for (slot, _) in self.told.slots() {
                    // A busy slot looks when its call fails; a hung one would only collect orders.
                    let idle = !link.in_flight.values().any(|call| call.slot == slot);
                    if let (true, Ok(frame)) = (idle, Frame::new(0, slot, Kind::Order, &Order::Look)) {
                        link.send(vec![frame]);
                    }
                }
                self.begin_ordered_look();
            }
        }
    }

    /// Begins the look that was ordered. Where no token is missing, or no process can be
    /// started, it ends at once.
    fn begin_ordered_look(&mut self) {
        if self.may_look() {
            self.start_looking();
        }
        if self.looking.is_ordered() {
            let looks = self.looking.all_answered();
            self.told.looked(looks);
        }
    }

    /// A look ended. What it saw counts only when the worker was started again for it;
    /// that one answers then, as does one that is being started now.
    fn look_ended(&mut self) {
        if matches!(self.worker, Worker::Up { .. }) && self.looking.came.is_none() {
            let looks = self.looking.answered();
            self.told.looked(looks);
            if self.looking.is_ordered() {
                self.begin_ordered_look();
            }
        }
    }

    /// A look makes sense while a worker is up that could be started again for its result.
    fn may_look(&self) -> bool {
        matches!(self.worker, Worker::Up { .. }) && self.told.is_any_missing()
    }

    fn start_looking(&mut self) {
        let number = self.link_number();
        if let Err(error) = self.looking.start(&self.settings, number, &self.happenings) {
            self.told.note(format!("no process can look for absent tokens: {error}"));
        }
    }

    // What the processes say

    fn hear(&mut self, number: u32, frame: Frame) {
        if self.looking.is(number) {
            if let Ok(Report::Up(found)) = frame.open()
                && found.presences.len() == self.settings.tokens.len()
                && matches!(self.worker, Worker::Up { .. })
            {
                self.looking.saw(found, &self.told);
            }
            return;
        }
        let (Worker::Up { link, .. } | Worker::Starting { link, .. }) = &mut self.worker else { return };
        if link.number != number {
            return;
        }
        if frame.kind == Kind::Secret {
            if let Some(InFlight { waits: Waiting::Random(answer), .. }) = link.in_flight.remove(&frame.request)
                && frame.body.len() == RANDOM_BYTES
            {
                // Nobody waits any more when this took too long.
                let _ = answer.try_send(frame.body);
            }
            return;
        }
        let Ok(report) = frame.open::<Report>() else { return self.distrust("sent garbage") };
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
            Report::Done(result) => self.done(&frame, result),
            Report::Found(presence) => {
                if usize::from(frame.slot.0) < self.settings.tokens.len() {
                    self.told.presence(frame.slot, presence);
                    if !self.told.is_any_missing() {
                        self.looking.nothing_is_missing();
                    }
                }
            }
            Report::Gone if self.told.is_present(frame.slot) => {
                let free = !self.told.shown().free.is_empty();
                self.looking.token_went();
                self.told.presence(frame.slot, Presence::Absent { free });
            }
            Report::Changed(state) if self.told.is_present(frame.slot) => {
                self.told.presence(frame.slot, Presence::Present(state));
            }
            Report::Gone | Report::Changed(_) => {}
            Report::Free(free) => self.told.free(free),
            Report::NoRandom => {
                link.in_flight.remove(&frame.request);
            }
            Report::Note(text) => self.told.note(text),
            Report::Progress { done, of } => {
                // Of nothing else, however much a worker talks.
                let call = link.in_flight.get(&frame.request).filter(|call| call.slot == frame.slot);
                if call.is_some_and(InFlight::may_take_long) {
                    self.told.shown().progress = Some(KeysDone { slot: frame.slot, done, of });
                }
            }
        }
    }

    fn done(&mut self, frame: &Frame, result: Result<HsmAnswer, HsmFailure>) {
        let Worker::Up { link, .. } = &mut self.worker else { return };
        let Some(call) = link.in_flight.remove(&frame.request) else {
            return self.distrust("answered what nobody asked");
        };
        if !call.only_reads() {
            self.quiet_since = Instant::now();
        }
        if call.may_be_of_a_change() {
            self.changing_since = Some(Instant::now());
        }
        let Waiting::Core(ticket) = call.waits else { return };
        if result.is_ok_and(|answer| !call.is_answered_by(&answer)) {
            // Not an answer: the outcome is unknown, which `WorkerLost` says.
            return self.distrust("answered another question");
        }
        if let Ok(HsmAnswer::Initialised(state) | HsmAnswer::Erased(state)) = result {
            self.told.remember(call.slot, Presence::Present(state));
        }
        self.told.answer(ticket, result);
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
}
