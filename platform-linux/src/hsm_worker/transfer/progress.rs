//! How many keys of a long transfer are done, told a few times in a second: nothing of it is durable, and a
//! daemon that hears none of it misses nothing.

use std::time::{Duration, Instant};

use slotwarden_core::effect::SlotId;

use super::super::Replies;
use crate::hsm_wire::Report;

/// Between two reports: people read no faster, and 10,000 keys would be 10,000 frames.
const INTERVAL: Duration = Duration::from_millis(300);

/// Counts objects, and says so now and then.
pub(super) struct Progress<'a> {
    replies: &'a Replies,
    request: u32,
    slot: SlotId,
    done: u32,
    of: u32,
    told: Instant,
}

impl<'a> Progress<'a> {
    /// Nothing is said within the first moment: a transfer that ends in it needs no progress.
    pub(super) fn new(replies: &'a Replies, slot: SlotId, request: u32) -> Self {
        Progress { replies, request, slot, done: 0, of: 0, told: Instant::now() }
    }

    /// So many objects there are.
    pub(super) fn begin(&mut self, of: usize) {
        (self.done, self.of) = (0, u32::try_from(of).unwrap_or(u32::MAX));
    }

    /// The next one is taken up. What is said counts those before it: never more than what is done.
    pub(super) fn step(&mut self) {
        if self.told.elapsed() >= INTERVAL {
            self.told = Instant::now();
            self.replies.report(self.slot, self.request, &Report::Progress { done: self.done, of: self.of });
        }
        self.done = self.done.saturating_add(1).min(self.of);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::hsm_wire::Frame;

    #[test]
    fn progress_is_told_when_a_moment_went_by_and_counts_only_what_is_done() {
        let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
        theirs.set_read_timeout(Some(Duration::from_millis(50))).expect("it is a socket");
        let replies = Replies(Arc::new(Mutex::new(ours)));
        let mut progress = Progress::new(&replies, SlotId(1), 7);
        progress.begin(3);
        progress.told = Instant::now() + Duration::from_secs(60);
        progress.step();
        progress.step();
        assert!(Frame::read(&mut theirs).is_err(), "the moment is not over");
        progress.told = Instant::now().checked_sub(INTERVAL).expect("the machine is up for longer");
        progress.step();
        let frame = Frame::read(&mut theirs).expect("it was told").expect("the other end is open");
        assert_eq!((frame.slot, frame.request), (SlotId(1), 7));
        assert!(matches!(frame.open::<Report>(), Ok(Report::Progress { done: 2, of: 3 })));
        progress.step();
        assert!(Frame::read(&mut theirs).is_err(), "and not again at once");
    }
}
