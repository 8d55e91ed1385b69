//! The second process, which sees tokens that a running module does not.
//!
//! A running SoftHSM never lists a token that came or returned. While a slot's token is
//! missing, a short-lived process looks with a fresh view; when it sees more than the
//! worker, the worker is to be started again. The same sight is a reason only once: where
//! a module shows two processes different things, starting again would never end.

use std::io;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use slotwarden_core::token::Presence;

use super::link::Link;
use super::told::Told;
use super::{Happening, Waits, WorkerSettings};
use crate::hsm_wire::{Duty, Found};

/// A looking process that takes longer than its look may is ended.
const SPARE: Duration = Duration::from_secs(10);
/// The process was killed; its end is heard of in a moment.
const SOON: Duration = Duration::from_secs(3600);

pub(super) struct Looking {
    process: Option<(Link, Instant)>,
    next: Instant,
    interval: Duration,
    hang_wait: Duration,
    /// What was seen that the worker does not see.
    pub(super) came: Option<Found>,
    /// When it is to be reported that what came waits for the end of a call.
    report_at: Option<Instant>,
    /// What the worker was started again for.
    restarted_for: Option<Found>,
    /// Looks ordered before the process began: its end answers them.
    ordered: u32,
    /// Looks ordered while it was under way: what it saw may be older than the order.
    ordered_since: u32,
}

impl Looking {
    pub(super) fn new(waits: &Waits) -> Self {
        let interval = waits.return_interval;
        Looking {
            process: None,
            next: Instant::now() + interval,
            interval,
            hang_wait: waits.hang_wait,
            came: None,
            report_at: None,
            restarted_for: None,
            ordered: 0,
            ordered_since: 0,
        }
    }

    /// When there is something to do, `missing` telling whether a slot's token is.
    pub(super) fn next_due(&self, missing: bool) -> Option<Instant> {
        match &self.process {
            Some((_, until)) => Some(*until),
            None => missing.then_some(self.next),
        }
    }

    /// Whether it is time for a look.
    pub(super) fn is_due(&self, missing: bool, now: Instant) -> bool {
        self.process.is_none() && missing && self.next <= now
    }

    /// Starts a look unless one is under way.
    ///
    /// # Errors
    /// When no process can be started.
    pub(super) fn start(
        &mut self,
        settings: &WorkerSettings,
        number: u32,
        happenings: &SyncSender<Happening>,
    ) -> io::Result<()> {
        let now = Instant::now();
        self.next = now + self.interval;
        if self.process.is_none() {
            let link = Link::start(settings, Duty::Look, number, happenings)?;
            self.process = Some((link, now + settings.waits.look_wait + SPARE));
        }
        Ok(())
    }

    /// A look was ordered.
    pub(super) fn order(&mut self) {
        if self.process.is_some() {
            self.ordered_since = self.ordered_since.saturating_add(1);
        } else {
            self.ordered = self.ordered.saturating_add(1);
        }
    }

    /// How many looks the process that just ended answers; the others are next.
    pub(super) fn answered(&mut self) -> u32 {
        std::mem::replace(&mut self.ordered, std::mem::take(&mut self.ordered_since))
    }

    /// How many looks a worker that just started, or could not, answers: all of them.
    pub(super) fn all_answered(&mut self) -> u32 {
        self.answered().saturating_add(self.answered())
    }

    /// Whether an ordered look has not begun.
    pub(super) fn is_ordered(&self) -> bool {
        self.process.is_none() && self.ordered > 0
    }

    /// Ends a process that takes too long.
    pub(super) fn end_overdue(&mut self, now: Instant) {
        if let Some((link, until)) = &mut self.process
            && *until <= now
        {
            link.kill();
            *until = now + SOON;
        }
    }

    /// Ends the process, whatever it is doing: it changes nothing.
    pub(super) fn stop(&mut self) {
        if let Some((mut link, _)) = self.process.take() {
            link.kill();
        }
    }

    /// The process closed its end: reaps it. False for another one.
    pub(super) fn closed(&mut self, number: u32) -> bool {
        let Some((mut link, _)) = self.process.take_if(|(link, _)| link.number == number) else { return false };
        link.kill();
        self.next = Instant::now() + self.interval;
        true
    }

    pub(super) fn is(&self, number: u32) -> bool {
        self.process.as_ref().is_some_and(|(link, _)| link.number == number)
    }

    /// Compares what a fresh process sees with what the core was told.
    pub(super) fn saw(&mut self, found: Found, told: &Told) {
        let differs = told.slots().zip(&found.presences).any(|((slot, told_of), seen)| {
            // Of a slot that the worker has not heard of yet, only a token is news.
            let news = told_of.map_or(matches!(seen, Some(Presence::Present(_))), |told_of| *seen != Some(told_of));
            !told.is_present(slot) && news
        });
        let free = told.is_any_missing() && told.shown().free.len() != found.free.len();
        if (differs || free) && self.restarted_for.as_ref() != Some(&found) {
            if self.came.is_none() {
                self.report_at = Some(Instant::now() + self.hang_wait);
            }
            self.came = Some(found);
        }
    }

    /// When what came has waited so long for the end of a call that somebody should know.
    pub(super) fn next_report(&self) -> Option<Instant> {
        self.report_at
    }

    /// It was reported; once is enough.
    pub(super) fn reported(&mut self) {
        self.report_at = None;
    }

    /// The worker is started again for what came.
    pub(super) fn restarting(&mut self) {
        self.report_at = None;
        self.restarted_for = self.came.take();
    }

    /// The worker is up and sees this; a new reason is a new one.
    pub(super) fn worker_sees(&mut self, presences: &[Option<Presence>]) {
        self.next = Instant::now() + self.interval;
        if self.restarted_for.as_ref().is_some_and(|sight| sight.presences == presences) {
            self.restarted_for = None;
        }
    }

    /// No token is missing any more: what was seen has come by itself.
    pub(super) fn nothing_is_missing(&mut self) {
        self.report_at = None;
        self.came = None;
    }

    /// A token went: its return is a new reason, even if it looks like the last one.
    pub(super) fn token_went(&mut self) {
        self.restarted_for = None;
        self.next = self.next.min(Instant::now() + self.interval);
    }

    /// The worker is gone; its successor sees for itself.
    pub(super) fn worker_lost(&mut self) {
        self.report_at = None;
        self.came = None;
    }
}
