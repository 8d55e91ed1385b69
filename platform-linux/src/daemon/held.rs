//! Orders for a token that is absent are held back while the HSM is looked at: a token that
//! was just connected should not be refused because the last look was half a minute ago.
//! At most as many are held as there are clients.

use std::time::{Duration, Instant};

use slotwarden_core::effect::SlotId;
use slotwarden_core::status::StateName;

use super::Loop;
use crate::control;
use crate::devices::{Applications, Hsm, Store};

/// How long an order is held back at most. A worker's look takes well under a second with
/// the modules we know, its restart about as long.
pub(super) const LOOK_WAIT: Duration = Duration::from_secs(3);

/// An order for a token that is absent, held back while the HSM is looked at.
pub(super) struct Held {
    pub(super) request: control::Request,
    pub(super) slot: SlotId,
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

    /// Gives held orders to the core whose token came, or for which the look took too long.
    pub(super) fn release_held(&mut self) {
        let held = std::mem::take(&mut self.held);
        for order in held {
            if self.first_absent(Some(order.slot)).is_none() || order.until <= Instant::now() {
                self.client_order(order.request, false);
            } else {
                self.held.push(order);
            }
        }
    }
}
