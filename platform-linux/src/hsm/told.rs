//! What the core and the operator were told, so that nothing is told twice.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slotwarden_core::effect::{HsmAnswer, Input, Outcome, SlotId, Ticket};
use slotwarden_core::fault::HsmFailure;
use slotwarden_core::token::Presence;

use super::Shown;
use crate::devices::{Event, Events, FreeToken};
use crate::hsm_wire::FoundFree;

/// Notes in one [`NOTES_WINDOW`]. A module that talks more is cut: it must not fill the
/// daemon's memory or the log (P42).
const NOTES_MAX: u32 = 100;
const NOTES_WINDOW: Duration = Duration::from_secs(60);

pub(super) struct Told {
    events: Events,
    shown: Arc<Mutex<Shown>>,
    /// The last presence of each slot; `None` before the first.
    slots: Vec<Option<Presence>>,
    /// Why the worker could not be started.
    reason: Option<String>,
    notes: u32,
    notes_since: Instant,
}

impl Told {
    pub(super) fn new(events: Events, shown: Arc<Mutex<Shown>>, slots: usize) -> Self {
        Told { events, shown, slots: vec![None; slots], reason: None, notes: 0, notes_since: Instant::now() }
    }

    /// The slots, for whoever sends something to each.
    pub(super) fn slots(&self) -> impl Iterator<Item = (SlotId, Option<Presence>)> + use<> {
        (0..=u8::MAX).map(SlotId).zip(self.slots.clone())
    }

    pub(super) fn is_present(&self, slot: SlotId) -> bool {
        matches!(self.slots.get(usize::from(slot.0)), Some(Some(Presence::Present(_))))
    }

    pub(super) fn is_any_missing(&self) -> bool {
        self.slots().any(|(slot, _)| !self.is_present(slot))
    }

    /// Remembers without telling: the answer to an order said it.
    pub(super) fn remember(&mut self, slot: SlotId, presence: Presence) {
        if let Some(told) = self.slots.get_mut(usize::from(slot.0)) {
            *told = Some(presence);
        }
    }

    pub(super) fn presence(&mut self, slot: SlotId, presence: Presence) {
        self.remember(slot, presence);
        self.input(Input::Token { slot, presence });
    }

    /// Every slot's token is gone; told once, not with each retry.
    pub(super) fn all_absent(&mut self) {
        let absent = Presence::Absent { free: false };
        self.shown().free.clear();
        for (slot, told) in self.slots() {
            if told != Some(absent) {
                self.presence(slot, absent);
            }
        }
    }

    /// The free tokens as a worker that just came up sees them; presences follow.
    pub(super) fn remember_free(&self, free: Vec<FoundFree>) {
        self.shown().free = free.into_iter().map(free_token).collect();
    }

    /// The free tokens are these now.
    pub(super) fn free(&mut self, free: Vec<FoundFree>) {
        let is_any = !free.is_empty();
        self.remember_free(free);
        for (slot, told) in self.slots() {
            if told == Some(Presence::Absent { free: !is_any }) {
                self.presence(slot, Presence::Absent { free: is_any });
            }
        }
    }

    pub(super) fn answer(&self, ticket: Ticket, result: Result<HsmAnswer, HsmFailure>) {
        self.input(Input::Done { ticket, outcome: Outcome::Hsm(result) });
    }

    pub(super) fn input(&self, input: Input) {
        // A daemon whose loop has ended needs no answer.
        let _ = self.events.send(Event::Input(input));
    }

    pub(super) fn note(&mut self, text: impl Into<String>) {
        if self.notes_since.elapsed() >= NOTES_WINDOW {
            self.notes_since = Instant::now();
            self.notes = 0;
        }
        self.notes = self.notes.saturating_add(1);
        if self.notes <= NOTES_MAX {
            let _ = self.events.send(Event::Note(text.into()));
        }
    }

    /// So many looks that the loop ordered have ended.
    pub(super) fn looked(&self, looks: u32) {
        for _ in 0..looks {
            let _ = self.events.send(Event::Looked);
        }
    }

    /// Why the worker cannot be started: told once, however often it is tried.
    pub(super) fn reason(&mut self, text: String) {
        if self.reason.as_ref() != Some(&text) {
            self.note(text.clone());
            // Where the status names the module it names what is wrong with it.
            self.shown().module.clone_from(&text);
            self.reason = Some(text);
        }
    }

    /// It could be started after all.
    pub(super) fn forget_reason(&mut self) {
        self.reason = None;
    }

    /// What the daemon may ask for at any time.
    pub(super) fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn free_token(found: FoundFree) -> FreeToken {
    FreeToken { slot_number: found.slot_number, description: found.description }
}
