//! The orders of one application, carried out one after another by a thread of its own.
//!
//! At most [`ORDERS_MAX`] wait. The core asks again only when an order was answered or its
//! deadline passed, and an order's own time lies below that deadline, so more than two
//! never wait; one more is answered at once as unanswered, and never forgotten silently.

use std::fmt;
use std::io;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use slotwarden_core::effect::Ticket;
use slotwarden_core::fault::ApplicationFault;

use super::pin::Pin;
use super::{Failed, Served, answer};
use crate::devices::{Event, Events};

/// Orders of one application that wait.
pub const ORDERS_MAX: usize = 4;

enum Order {
    HandOver(Ticket, Pin),
    Withdraw(Ticket),
    /// Of an earlier run, or at the end: nobody waits for the answer.
    WithdrawWhatIsLeft,
}

/// One application's orders and the thread that carries them out.
pub struct Line {
    application: String,
    orders: Option<SyncSender<Order>>,
    /// When the daemon ends, once that is known: no order lasts longer.
    end: Arc<OnceLock<Instant>>,
    ended: Receiver<()>,
}

impl Line {
    /// Starts the thread. Each order has `timeout` from the moment it is begun.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(application: &str, served: Box<dyn Served>, timeout: Duration, events: Events) -> io::Result<Self> {
        let (orders, arriving) = mpsc::sync_channel(ORDERS_MAX);
        let (ending, ended) = mpsc::channel();
        let end = Arc::new(OnceLock::new());
        let (name, known_end) = (application.to_owned(), Arc::clone(&end));
        thread::Builder::new().name("application".into()).spawn(move || {
            let until = move || {
                let until = Instant::now() + timeout;
                known_end.get().map_or(until, |end| until.min(*end))
            };
            carry_out(&name, served, &until, &arriving, &events);
            // Nobody listens where the daemon did not wait.
            let _ = ending.send(());
        })?;
        Ok(Line { application: application.to_owned(), orders: Some(orders), end, ended })
    }

    /// Queues a hand-over; the answer comes by the events.
    ///
    /// # Errors
    /// When too many orders wait.
    pub fn hand_over(&self, ticket: Ticket, pin: Pin) -> Result<(), Failed> {
        self.queue(Order::HandOver(ticket, pin))
    }

    /// Queues a withdrawal; the answer comes by the events.
    ///
    /// # Errors
    /// When too many orders wait.
    pub fn withdraw(&self, ticket: Ticket) -> Result<(), Failed> {
        self.queue(Order::Withdraw(ticket))
    }

    /// Queues a withdrawal of what the application may have, if anything; nothing is answered.
    ///
    /// # Errors
    /// When too many orders wait.
    pub fn withdraw_what_is_left(&self) -> Result<(), Failed> {
        self.queue(Order::WithdrawWhatIsLeft)
    }

    fn queue(&self, order: Order) -> Result<(), Failed> {
        let queued = self.orders.as_ref().is_some_and(|orders| orders.try_send(order).is_ok());
        if queued {
            return Ok(());
        }
        Err(Failed::new(
            ApplicationFault::Unanswered,
            format!("application {}: too many orders wait", self.application),
        ))
    }

    /// No order follows; those that wait have until `end`.
    pub(super) fn close(&mut self, end: Instant) {
        // Said once; the first word counts.
        let _ = self.end.set(end);
        self.orders = None;
    }

    /// Waits for the thread's end.
    pub(super) fn wait_end(&mut self, until: Instant) {
        // Not in time: the process ends, and the thread with it.
        let _ = self.ended.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Line({})", self.application)
    }
}

fn carry_out(
    application: &str,
    mut served: Box<dyn Served>,
    until: &dyn Fn() -> Instant,
    arriving: &Receiver<Order>,
    events: &Events,
) {
    let named = |failed: Failed| Failed { reason: format!("application {application}: {}", failed.reason), ..failed };
    // Nobody knows what an earlier run left.
    let mut may_have = true;
    while let Ok(order) = arriving.recv() {
        let until = until();
        match order {
            Order::HandOver(ticket, pin) => {
                may_have = true;
                answer(events, ticket, served.hand_over(pin, until).map_err(named));
            }
            Order::Withdraw(ticket) => {
                let withdrawn = served.withdraw(until).map_err(named);
                may_have = withdrawn.is_err();
                answer(events, ticket, withdrawn);
            }
            Order::WithdrawWhatIsLeft if !may_have => {}
            Order::WithdrawWhatIsLeft => match served.withdraw(until).map_err(named) {
                Ok(()) => may_have = false,
                Err(failed) => {
                    // A closed channel: the loop has ended, and nobody reads.
                    let _ = events.send(Event::Note(failed.reason));
                }
            },
        }
    }
}
