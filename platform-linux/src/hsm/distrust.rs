//! A worker that is not believed any more, until it may be ended.
//!
//! It said what it cannot say, or closed its end; so it takes no orders and is not heard.
//! But it may be inside a call that rewrites a token file, for another slot, and a kill
//! there can destroy that token. So it is first left to finish that: `hsm_worker::lock`
//! says which call is waited for how long. Its calls stay unanswered meanwhile: each
//! slot's own deadline makes that visible (P44), the operator is told again and again, and
//! a person's order ends the worker at any time. When the daemon restarts meanwhile, the
//! next worker waits for this one in the same way.

use std::time::{Duration, Instant};

use super::WorkerSettings;
use super::link::Link;
use crate::hsm_worker::lock::{End, Rewrites};

/// Between two looks whether it may be ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// The same when it could not even be stopped: each look takes a second then.
const STOP_INTERVAL: Duration = Duration::from_secs(5);
/// How often the operator is told what is waited for.
const NOTE_INTERVAL: Duration = Duration::from_secs(30);

pub(super) struct Distrust {
    /// What it did, for people.
    pub(super) how: &'static str,
    since: Instant,
    pub(super) look_at: Instant,
    note_at: Instant,
}

/// What one look came to.
pub(super) enum Look {
    /// It has ended, or nothing forbids to end it.
    MayEnd,
    /// Later; with what the operator is told, if it is time for that.
    Waits(Option<String>),
}

impl Distrust {
    pub(super) fn new(how: &'static str) -> Self {
        let now = Instant::now();
        // One that died needs a moment until the kernel has closed everything: no note for that.
        Distrust { how, since: now, look_at: now, note_at: now + LOOK_INTERVAL }
    }

    pub(super) fn look(&mut self, link: &mut Link, settings: &WorkerSettings) -> Look {
        let now = Instant::now();
        let logins_too = now.duration_since(self.since) >= settings.waits.login_wait;
        let (does, interval) = match link.end(&settings.lock_file, logins_too) {
            End::Ended => return Look::MayEnd,
            End::Spared(Rewrites::Pin) => ("is changing a PIN", LOOK_INTERVAL),
            End::Spared(Rewrites::Flags) => ("is logging in", LOOK_INTERVAL),
            End::Refused => ("cannot be ended", STOP_INTERVAL),
        };
        self.look_at = now + interval;
        if now < self.note_at {
            return Look::Waits(None);
        }
        self.note_at = now + NOTE_INTERVAL;
        let (process, how) = (link.process(), self.how);
        Look::Waits(Some(format!(
            "HSM worker {process} {how}, but {does}, so it is not ended yet; \
             `slotwarden slot deactivate NAME --confirm \"end call\"` ends it now"
        )))
    }
}
