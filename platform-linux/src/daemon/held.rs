//! Orders for a token that is absent are held back while the HSM is looked at: a token that
//! was just connected should not be refused because the last look was half a minute ago.
//! At most as many are held as there are clients.

use std::time::{Duration, Instant};

use slotwarden_core::effect::SlotId;
use slotwarden_core::status::StateName;

use super::Loop;
use crate::control;
use crate::devices::{Applications, Hsm, Store};
use crate::wire::{Answered, Ask, Order};

/// How long an order is held back at most, for a look that does not end: it takes well
/// under a second with the modules we know, a restart of the worker about as long, and
/// that waits up to 5 s after another slot's login, which may belong to a PIN change.
pub(super) const LOOK_WAIT: Duration = Duration::from_secs(7);

/// An order for a token that is absent, held back while the HSM is looked at.
pub(super) struct Held {
    pub(super) request: control::Request,
    pub(super) slot: SlotId,
    /// Which look it waits for, counting from 1.
    pub(super) look: u64,
    pub(super) until: Instant,
}

impl<H: Hsm, S: Store, A: Applications> Loop<'_, H, S, A> {
    /// The slot whose token should be looked for before this order: the one it is about,
    /// or for boot the first that is absent.
    pub(super) fn first_absent(&self, slot: Option<SlotId>) -> Option<SlotId> {
        let absent = |state| matches!(state, StateName::Absent);
        let status = self.service.status(self.now());
        let mut slots = status.slots.iter().filter(|found| slot.is_none_or(|slot| found.slot == slot));
        slots.find(|found| absent(found.state)).map(|found| found.slot)
    }

    /// Gives held orders to the core when their token came, or when the look ended without it.
    /// A returned token of a generated slot activates by itself: that is waited for, and
    /// whoever ordered just this is told that it is done.
    pub(super) fn release_held(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let status = self.service.status(self.now());
        for order in std::mem::take(&mut self.held) {
            let state = status.slots.iter().find(|found| found.slot == order.slot).map(|found| found.state);
            let waits = match state {
                Some(StateName::Absent) => self.looks_ended < order.look && Instant::now() < order.until,
                // Bounded by the core's deadlines; it ends with an input.
                Some(StateName::Activating) => true,
                Some(_) | None => false,
            };
            let by_itself = order.request.secrets.is_empty()
                && matches!(order.request.ask, Ask::Order(Order::Activate { .. }))
                && state == Some(StateName::Active);
            if waits {
                self.held.push(order);
            } else if by_itself {
                // A client that left is not told.
                let _ = order.request.answer.try_send(Answered::Done.into());
            } else {
                self.client_order(order.request, false);
            }
        }
    }
}
