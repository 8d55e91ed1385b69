//! The desk of one slot: where its orders wait. They are carried out one at a time, in the
//! order of their arrival, by whichever caller is free; so a slot that hangs keeps only its
//! own orders waiting.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use cryptoki::slot::Slot;
use slotwarden_core::token::Presence;

use super::callers::Callers;
use super::token::{Call, Kept, Token};
use crate::hsm_wire::Order;

/// The clock that looks at idle tokens wakes no oftener.
const CLOCK_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// One slot's desk.
pub(super) struct Desk {
    callers: Callers,
    tray: Mutex<Tray>,
    token: Mutex<(Token, Kept)>,
    loss_interval: Duration,
}

/// What waits at a desk.
struct Tray {
    waiting: VecDeque<Errand>,
    /// A caller has an errand of this slot, or will.
    served: bool,
    /// When the token is looked at if nothing is ordered until then.
    look_at: Instant,
}

/// What is to be done for a slot.
enum Errand {
    Order(Call),
    /// The first look found something out after all.
    Found(Presence, Option<Slot>),
}

impl Desk {
    /// The desk of an idle token, which is looked at every `loss_interval`.
    pub(super) fn new(token: Token, loss_interval: Duration) -> Self {
        let tray = Tray { waiting: VecDeque::new(), served: false, look_at: Instant::now() + loss_interval };
        Desk {
            callers: token.module.callers.clone(),
            tray: Mutex::new(tray),
            token: Mutex::new((token, None)),
            loss_interval,
        }
    }

    /// Takes an order.
    pub(super) fn order(self: &Arc<Self>, call: Call) {
        // The daemon's loop waits for random bytes, and for nothing else.
        let first = call.order == Order::Random;
        self.put(Errand::Order(call), first);
    }

    /// Takes what the first look found after it was reported.
    pub(super) fn found(self: &Arc<Self>, presence: Presence, place: Option<Slot>) {
        self.put(Errand::Found(presence, place), false);
    }

    fn put(self: &Arc<Self>, errand: Errand, first: bool) {
        let mut tray = self.tray();
        tray.waiting.push_back(errand);
        if !std::mem::replace(&mut tray.served, true) {
            drop(tray);
            self.call_somebody(first);
        }
    }

    fn call_somebody(self: &Arc<Self>, first: bool) {
        let desk = Arc::clone(self);
        if first {
            self.callers.order_first(move || desk.serve());
        } else {
            self.callers.order(move || desk.serve());
        }
    }

    /// One errand.
    fn serve(self: &Arc<Self>) {
        let Some(errand) = self.tray().waiting.pop_front() else { return };
        let _served = Served(self);
        // Nobody else holds it: a slot is served by one caller at a time.
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        let (token, session) = &mut *token;
        match errand {
            Errand::Order(call) if token.module.stopping.load(Ordering::SeqCst) => drop(call),
            Errand::Order(call) => token.answer(session, call),
            Errand::Found(presence, place) => token.found(session, presence, place),
        }
    }

    /// Orders a look when the token was idle for long enough; returns when the next is due.
    fn look_if_due(self: &Arc<Self>, now: Instant) -> Instant {
        let tray = self.tray();
        if tray.served {
            return now + self.loss_interval;
        }
        if tray.look_at > now {
            return tray.look_at;
        }
        drop(tray);
        self.order(Call { request: 0, order: Order::Look, secrets: Vec::new() });
        now + self.loss_interval
    }

    fn tray(&self) -> MutexGuard<'_, Tray> {
        self.tray.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends one errand, also one that panicked: the desk goes on.
struct Served<'a>(&'a Arc<Desk>);

impl Drop for Served<'_> {
    fn drop(&mut self) {
        let mut tray = self.0.tray();
        tray.look_at = Instant::now() + self.0.loss_interval;
        tray.served = !tray.waiting.is_empty();
        if tray.served {
            drop(tray);
            self.0.call_somebody(false);
        }
    }
}

/// The clock that looks at idle tokens, until it is stopped.
pub(super) struct Clock {
    thread: Thread,
    stopped: Arc<AtomicBool>,
}

impl Clock {
    /// Starts it.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(desks: &[Arc<Desk>]) -> std::io::Result<Self> {
        let stopped = Arc::new(AtomicBool::new(false));
        let (desks, end) = (desks.to_vec(), Arc::clone(&stopped));
        let thread = thread::Builder::new().name("clock".into()).spawn(move || {
            while !end.load(Ordering::SeqCst) {
                let now = Instant::now();
                let next = desks.iter().map(|desk| desk.look_if_due(now)).min();
                // Without a slot there is nothing to look at.
                let Some(next) = next else { return };
                thread::park_timeout(next.saturating_duration_since(Instant::now()).max(CLOCK_INTERVAL_MIN));
            }
        })?;
        Ok(Clock { thread: thread.thread().clone(), stopped })
    }

    /// Looks no more.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.thread.unpark();
    }
}
