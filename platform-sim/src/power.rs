//! How the service and its worker start and end: gracefully, killed, or without power.

use slotwarden_core::effect::{Input, SlotId};
use slotwarden_core::record::{Owner, Sets};
use slotwarden_core::status::StateName;
use slotwarden_core::token::Presence;

use crate::Core;
use crate::faults::Kind;
use crate::hsm::Token;
use crate::world::{Event, World};

/// From the power coming back to the daemon's start.
const START_MS: std::ops::Range<u64> = 200..2_000;
/// From the daemon's start, or the loss of a worker, to the new worker.
const WORKER_MS: std::ops::Range<u64> = 20..400;
/// How long a worker that cannot be started stays away.
const WORKER_AWAY_MS: u64 = 45_000;

impl World {
    /// The daemon starts: what it handed over before is taken back, the store is loaded.
    pub fn start(&mut self) {
        self.counts.starts += 1;
        self.apps.withdraw_all();
        if !self.finish_zeroize() {
            return;
        }
        let chain = match self.disk.check_chain() {
            Ok(chain) => chain,
            Err(_) => return self.checkers.violated("P37", 0, "the audit chain does not hold after a restart"),
        };
        let Ok(mut core) = Core::new(self.configuration.clone()) else {
            return self.checkers.violated("P42", 0, "the configuration of the world was refused");
        };
        for slot in 0..self.slots {
            if let Some(record) = self.disk.durable.slots[usize::from(slot)] {
                core.load(Owner(u16::from(slot)), record);
            }
            if let Some(sets) = &self.disk.durable.sets[usize::from(slot)] {
                core.load_sets(Owner(u16::from(slot)), Sets::clone(sets));
            }
        }
        if let Some(policy) = self.disk.durable.policy {
            core.load_policy(policy);
        }
        for (subject, sets) in &self.disk.durable.card_sets {
            core.load_card_sets(*subject, sets.clone());
        }
        for entry in self.disk.durable.cards.iter().flatten() {
            core.load_card(*entry);
        }
        if let Some(cluster) = self.disk.durable.cluster {
            core.load_cluster(cluster);
        }
        core.load_chain(chain);
        self.core = Some(core);
        self.checkers.restarted();
        self.deliver(Input::Start);
        let wait_ms = self.random.u64(WORKER_MS);
        self.schedule(wait_ms, Event::WorkerStarts);
        for reader in 0..self.table.readers.len() {
            self.tell_of_reader(u8::try_from(reader).unwrap_or(u8::MAX));
        }
    }

    /// The power goes. The transaction in flight is there afterwards or not; what tokens
    /// did not settle is kept or lost.
    pub fn power_cut(&mut self, write_is_there: bool, unsettled_is_kept: bool) {
        self.trace.note(self.now_ms, "the power goes");
        self.counts.power_cuts += 1;
        self.disk.power_cut(write_is_there);
        self.cut_was_unsettled = self.tokens.tokens.iter().any(Token::is_unsettled);
        for (number, token) in (0u8..).zip(&mut self.tokens.tokens) {
            let wrong_before = token.live.wrong_in_row;
            token.power_cut(unsettled_is_kept);
            if token.live.wrong_in_row < wrong_before
                && let Some(slot) = (0u8..).zip(self.homes).find(|(_, home)| *home == Some(number))
            {
                // The token lost its count with the power: those tries are not spent any more.
                self.checkers.p34_forgotten(slot.0);
            }
        }
        self.apps.power_cut();
        self.end();
        self.recovering = true;
        self.cuts.pop();
        self.points = 0;
        self.hung = [false; crate::SLOTS];
        self.burst = 0;
        let wait_ms = self.random.u64(START_MS);
        self.boot_ms = self.now_ms + wait_ms;
        self.schedule(wait_ms, Event::DaemonStarts);
        self.check_codes();
    }

    /// The daemon is killed. Its worker ends the calls in progress; what it wrote is in the
    /// page cache, so nothing is lost but what it did not write.
    pub fn daemon_killed(&mut self) {
        self.trace.note(self.now_ms, "the daemon is killed");
        for slot in 0..self.slots {
            let number = usize::from(slot);
            if let (false, Some(pending)) = (self.hung[number], self.calls[number].front().copied()) {
                let _unanswered = self.run(slot, &pending);
            }
        }
        let is_there = self.random.bool();
        self.disk.power_cut(is_there);
        self.end();
        let wait_ms = self.random.u64(START_MS);
        self.schedule(wait_ms, Event::DaemonStarts);
        self.check_codes();
    }

    /// The service says that it stopped.
    pub(crate) fn stopped(&mut self) {
        if let Some(core) = &self.core {
            let (taken, _) = core.secrets_taken_and_owned();
            self.checkers.p16_stopped(taken, core.free_places_are_wiped());
        }
        self.disk.power_cut(false);
        self.apps.withdraw_all();
        self.end();
        let wait_ms = self.random.u64(START_MS);
        self.schedule(wait_ms, Event::DaemonStarts);
    }

    /// Daemon and worker are gone.
    fn end(&mut self) {
        self.core = None;
        self.people.hung_up();
        self.unschedule_all();
        self.readers_reset();
        self.end_calls();
        self.checkers.restarted();
        for active in &mut self.active {
            self.counts.life_cycles += u64::from(std::mem::take(active));
        }
        let soon_ms = self.now_ms + 3_000;
        for visit_ms in &mut self.visits_ms {
            *visit_ms = soon_ms;
        }
    }

    fn end_calls(&mut self) {
        self.worker = false;
        for calls in &mut self.calls {
            calls.clear();
        }
        self.logins = [None; crate::SLOTS];
        self.seen = [None; crate::SLOTS];
        self.hung = [false; crate::SLOTS];
        self.busy_until_ms = [0; crate::SLOTS];
        for token in &mut self.tokens.tokens {
            token.worker_lost();
        }
    }

    /// The core ends the worker.
    pub(crate) fn end_worker(&mut self) {
        self.worker_dies();
    }

    /// The worker dies, with every call and every login.
    pub(crate) fn worker_dies(&mut self) {
        self.trace.note(self.now_ms, "the worker dies");
        self.end_calls();
        self.unschedule_worker();
        self.schedule(1, Event::WorkerGone);
        let wait_ms = if self.worker_unavailable { WORKER_AWAY_MS } else { self.random.u64(WORKER_MS) };
        self.worker_unavailable = false;
        self.schedule(1 + wait_ms, Event::WorkerStarts);
    }

    pub(crate) fn worker_gone(&mut self) {
        for slot in 0..self.slots {
            self.checkers.p33_login_gone(slot);
        }
        self.deliver(Input::WorkerLost);
    }

    /// The new worker runs and has looked for every token.
    pub(crate) fn worker_starts(&mut self) {
        self.worker = true;
        for slot in 0..self.slots {
            self.look(slot);
        }
        if self.core.is_some() {
            self.deliver(Input::WorkerUp);
        }
    }

    /// The worker looks for the token of a slot and tells what it found.
    pub(crate) fn look(&mut self, slot: u8) {
        if !self.worker {
            return;
        }
        let presence = self.tokens.look(slot);
        self.found(slot, presence);
    }

    /// The worker looks for every token, as it does at boot, activate and init, and tells
    /// what is not as it was.
    pub(crate) fn look_for_changes(&mut self) {
        for slot in 0..self.slots {
            if !self.worker {
                return;
            }
            let presence = self.tokens.look(slot);
            let is_new = match (self.seen[usize::from(slot)], presence) {
                (Some(Presence::Present(seen)), Presence::Present(now)) => {
                    seen.serial != now.serial || seen.user_pin != now.user_pin
                }
                (seen, now) => seen != Some(now),
            };
            if is_new {
                self.found(slot, presence);
            }
        }
    }

    fn found(&mut self, slot: u8, presence: Presence) {
        let before = self.seen[usize::from(slot)].replace(presence);
        let low_count = match presence {
            Presence::Present(state) => Some(state.count_low),
            Presence::Absent { .. } | Presence::Ambiguous => None,
        };
        self.checkers.p34_new_reason(slot, low_count);
        // A change under way does not hear of it before its next call.
        let changing = self.status(slot).is_some_and(|status| status.state == StateName::Changing);
        if let (true, Some(Presence::Present(before)), Presence::Present(now)) = (changing, before, presence) {
            // It may take the one for the other; then the operator names the serial in the configuration.
            self.apart[usize::from(slot)] |= before.serial != now.serial;
        }
        if !matches!(presence, Presence::Present(_)) && !changing {
            self.checkers.p33_login_gone(slot);
        }
        self.deliver(Input::Token { slot: SlotId(slot), presence });
    }

    /// Everything that went wrong is well again, and the appliance is switched off and on
    /// once more. Tokens that are gone for good stay so.
    pub fn heal(&mut self) {
        self.plan.end();
        self.cuts.clear();
        self.people_act = false;
        self.stuck = [false; 2];
        self.burst = 0;
        self.disk.reserve = false;
        self.worker_unavailable = false;
        for slot in 0..=u8::try_from(crate::SLOTS).unwrap_or(u8::MAX) {
            self.heals(Kind::ApplicationUnreachable, slot);
        }
        for slot in 0..self.slots {
            self.put_right(slot);
        }
        self.disk.power_cut(false);
        self.heal_table();
        self.end();
        self.schedule(1, Event::DaemonStarts);
    }
}
