//! Who watches a ceremony: answered with its next change, so that nobody asks again and again.
//!
//! At most as many wait as there are clients. A client that left is answered in vain.

use std::time::{Duration, Instant};

use super::Loop;
use crate::control;
use crate::devices::{Applications, Hsm, Store};
use crate::names::Peer;
use crate::wire::{Answered, CeremonyNow};

/// How long a client waits for a change, before it is told that there was none: so that one that
/// left does not keep its seat.
pub(super) const WATCH_WAIT: Duration = Duration::from_secs(10);

/// A client that waits for the next change.
pub(super) struct Watcher {
    pub(super) request: control::Request,
    /// [`CeremonyStatus::changes`](slotwarden_core::status::CeremonyStatus) that it knows.
    pub(super) seen: u32,
    pub(super) until: Instant,
}

impl<H: Hsm, S: Store, A: Applications> Loop<'_, H, S, A> {
    /// The ceremony as it is now.
    pub(super) fn ceremony_now(&self, peer: Peer) -> CeremonyNow {
        let status = self.status();
        let you = match peer {
            Peer::Person(who) => Some(self.names.person_name(who)),
            Peer::OwnUser => None,
        };
        CeremonyNow { you, ceremony: status.ceremony, last: status.last_ceremony }
    }

    /// Whether the ceremony under way is as somebody saw it.
    pub(super) fn is_as_seen(&self, seen: u32) -> bool {
        self.service.status(self.now()).ceremony.is_some_and(|ceremony| ceremony.changes == seen)
    }

    /// Answers those whose ceremony changed or ended, and those who waited long enough.
    pub(super) fn release_watchers(&mut self) {
        if self.watching.is_empty() {
            return;
        }
        let (changes, now) = (self.service.status(self.now()).ceremony.map(|found| found.changes), Instant::now());
        for watcher in std::mem::take(&mut self.watching) {
            if changes == Some(watcher.seen) && now < watcher.until {
                self.watching.push(watcher);
            } else {
                let answered = Answered::Ceremony(Box::new(self.ceremony_now(watcher.request.peer)));
                let _ = watcher.request.answer.try_send(answered.into());
            }
        }
    }
}
