//! Zeroize in a world of tokens, a disk and power that goes (P41).
//!
//! The disk does what `store/zeroize.rs` of the real platform does, write by write: the intent, the
//! destruction, one transaction of the next start, the end of the intent. The power may go before and
//! after each of them, and at every device call and commit as anywhere else. A life is drawn from its
//! seed: slots of both modes, some open, orders and calls under way, tokens that hang, a disk that is
//! nearly full. Whatever happened, afterwards no sealed code can be opened, no application has a PIN, the
//! audit chain holds and names one new node key for each zeroize, and the SO PIN brings back every slot
//! whose code is gone, with the token that it had.

use slotwarden_core::audit::{AuditEvent, AuditRecord};
use slotwarden_core::command::{Answer, CommandKind};
use slotwarden_core::effect::{ApplicationId, Input, Outcome, Ticket};
use slotwarden_core::person::PersonId;
use slotwarden_core::record::{Mode, Owner};
use slotwarden_core::status::StateName;
use slotwarden_core::token::LoginState;

use crate::campaign::{Furniture, finish, furnish, settle_down};
use crate::hsm::Character;
use crate::model;
use crate::people::Wish;
use crate::strike::ADMINISTRATOR;
use crate::world::{Cut, Event, World};

/// What whoever ordered it was promised, milliseconds.
pub const PROMISED_MS: u64 = 1_000;
/// The public node key after so many zeroizes; plain enough to be checked.
fn node_key(number: u8) -> [u8; 32] {
    [number; 32]
}

/// What one life came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// Points at which the power could have gone since the order, or since the last cut.
    pub points: u32,
    /// Whether the order was answered, and after how many milliseconds.
    pub answered_ms: Option<u64>,
    /// Whether the intent was durable before the power went the first time.
    pub happened: bool,
    /// Whether a call hung that may not be ended.
    pub hung: bool,
    /// Slots that came back by the SO PIN.
    pub unblocked: u8,
}

impl World {
    /// The two writes of the order. The power may go before and after each.
    pub(crate) fn destroy_key(&mut self, ticket: Ticket, who: PersonId) {
        if !self.write(|world| world.disk.durable.zeroize = Some(who)) || !self.write(World::destroy) {
            return;
        }
        self.schedule(1, Event::Zeroized(ticket));
    }

    pub(crate) fn zeroized(&mut self, ticket: Ticket) {
        self.deliver(Input::Done { ticket, outcome: Outcome::Zeroized(Ok(())) });
    }

    /// What is true at the very moment of the answer, before the service ends.
    pub(crate) fn zeroize_answered(&mut self, answer: Answer) {
        let gone = self.disk.durable.key_is_gone;
        let (taken, _) = self.core.as_ref().map_or((0, 0), |core| core.secrets_taken_and_owned());
        match answer {
            Answer::Done | Answer::Failed(_) => {
                check(self, gone, "a zeroize was answered before the data key was gone");
                check(self, taken == 0, "the Safe holds a secret after a zeroize");
            }
            // Before anything began, or while the power goes.
            Answer::Refused(_) | Answer::NeedsApproval { .. } | Answer::Waits(_) | Answer::Share { .. } => return,
        }
        if answer != Answer::Done {
            return;
        }
        for slot in 0..self.slots {
            let holds = !self.apps.of(ApplicationId(slot)).holds.is_none();
            check(self, !holds, "a zeroize was done, and an application had a PIN");
            let logged_in = self.home(slot).is_some_and(|token| token.session == LoginState::User);
            check(self, !logged_in, "a zeroize was done, and a token was logged in");
        }
    }

    /// What a start does first, if a zeroize is under way. False: the power went.
    pub(crate) fn finish_zeroize(&mut self) -> bool {
        let Some(who) = self.disk.durable.zeroize else { return true };
        self.write(World::destroy) && self.write(|world| world.rekey(who))
    }

    /// One durable write. False: the power went before it or after it.
    fn write(&mut self, write: impl FnOnce(&mut World)) -> bool {
        let cut = self.cut_is_due();
        if cut.is_none_or(Cut::is_there) {
            write(self);
        }
        if let Some(cut) = cut {
            self.power_cut(false, cut.unsettled_is_kept());
        }
        cut.is_none()
    }

    fn destroy(&mut self) {
        self.disk.durable.key_is_gone = true;
        for slot in 0..self.slots {
            let number = usize::from(slot);
            let Some(token) = self.home(slot).copied() else { continue };
            let people = &self.people.slots[number];
            let owner = Owner(u16::from(slot));
            let lost = model::could_open(&token).iter().any(|pin| !model::somebody_has(pin, &self.disk, owner, people));
            self.zeroized[number] |= lost;
        }
    }

    /// The one transaction, and the intent's end with it: between the two nothing differs here.
    fn rekey(&mut self, who: PersonId) {
        let durable = &mut self.disk.durable;
        durable.sealed.clear();
        durable.key_is_gone = false;
        durable.zeroize = None;
        for record in durable.slots.iter_mut().flatten() {
            *record = record.without_sealed_codes();
        }
        let number = u8::try_from(replaced(&durable.journal)).unwrap_or(u8::MAX);
        let keys = AuditEvent::NodeKeyReplaced { old: node_key(number), new: node_key(number.saturating_add(1)) };
        let events =
            [(Some(who), AuditEvent::Ordered(CommandKind::Zeroize)), (None, AuditEvent::Zeroized), (None, keys)];
        for (who, event) in events {
            let last = durable.journal.last();
            let sequence = last.map_or(0, |record| record.sequence) + 1;
            let previous = last.map_or([0; 32], AuditRecord::hash);
            durable.journal.push(AuditRecord { sequence, wall_s: None, previous, who, slot: None, event });
        }
    }
}

/// How often the node got another key.
fn replaced(journal: &[AuditRecord]) -> usize {
    journal.iter().filter(|record| matches!(record.event, AuditEvent::NodeKeyReplaced { .. })).count()
}

/// One life with a zeroize in it, and the power going at these points.
pub fn live(world: &mut World, seed: u64, cuts: &[Cut]) -> Life {
    let mut life = Life::default();
    let mut random = fastrand::Rng::with_seed(seed);
    let slots = random.u8(1..=3);
    world.begin(seed, slots);
    for slot in 0..slots {
        furnish(world, slot, Furniture::Adopted, Character::ALL[random.usize(..Character::ALL.len())]);
    }
    world.start();
    settle_down(world);
    for slot in 0..slots {
        let candidate = world.people.slots[usize::from(slot)].candidate();
        order(world, slot, Wish { typed: candidate, ..Wish::plain(CommandKind::Activate) });
        if random.u8(..3) != 0 {
            let candidate = world.people.slots[usize::from(slot)].candidate();
            order(world, slot, Wish { to: Mode::Generated, typed: candidate, ..Wish::plain(CommandKind::Mode) });
        }
        if random.u8(..4) == 0 {
            order(world, slot, Wish::plain(CommandKind::Deactivate));
        }
    }
    disturb(world, &mut random, slots);
    life.hung = world.hung.iter().any(|hung| *hung);

    world.points = 0;
    for cut in cuts.iter().rev() {
        let _fits = world.cuts.push(*cut);
    }
    let ordered_ms = world.now_ms;
    world.order(None, &Wish::plain(CommandKind::Zeroize), ADMINISTRATOR);
    let is_open = |world: &World| world.people.orders.iter().any(|open| open.kind == CommandKind::Zeroize);
    while is_open(world) && world.step(ordered_ms + 60_000) {}
    if world.counts.power_cuts == 0 || cuts.is_empty() {
        life.answered_ms = Some(world.now_ms - ordered_ms);
    }
    settle_down(world);
    life.points = world.points;
    life.happened = replaced(&world.disk.durable.journal) > 0;
    if !life.happened && world.checkers.violation.is_none() {
        // The power went before the intent: as if nobody had ordered it. They do so again.
        check(world, world.disk.durable.zeroize.is_none(), "an intent without an end");
        world.order(None, &Wish::plain(CommandKind::Zeroize), ADMINISTRATOR);
        settle_down(world);
    }
    verify(world, slots);
    for slot in 0..slots {
        life.unblocked += u8::from(come_back(world, slot));
    }
    finish(world);
    life
}

fn order(world: &mut World, slot: u8, wish: Wish) {
    world.order(Some(slot), &wish, ADMINISTRATOR);
    settle_down(world);
}

/// Something is under way, or wrong, when the order comes.
fn disturb(world: &mut World, random: &mut fastrand::Rng, slots: u8) {
    let slot = random.u8(..slots);
    let number = usize::from(slot);
    match random.u8(..8) {
        0 => world.hung[number] = true,
        1 => {
            world.order(Some(slot), &Wish::plain(CommandKind::ChangeCode), ADMINISTRATOR);
            let until_ms = world.now_ms + random.u64(0..12);
            while world.step(until_ms) {}
        }
        2 => {
            world.order(Some(slot), &Wish::plain(CommandKind::ChangeCode), ADMINISTRATOR);
            let until_ms = world.now_ms + random.u64(0..12);
            while world.step(until_ms) {}
            world.hung[number] = true;
        }
        3 => {
            order(world, slot, Wish::plain(CommandKind::Deactivate));
            world.order(Some(slot), &Wish::plain(CommandKind::Activate), ADMINISTRATOR);
            let until_ms = world.now_ms + random.u64(0..10);
            while world.step(until_ms) {}
        }
        4 => world.apps.of(ApplicationId(slot)).reachable = false,
        5 => {
            world.daemon_killed();
            let until_ms = world.now_ms + random.u64(200..3_000);
            while world.step(until_ms) {}
            while world.core.is_none() && world.step(world.now_ms + 5_000) {}
        }
        6 => world.disk.reserve = true,
        _ => {}
    }
}

/// What has to be so after a zeroize, whatever happened in it.
fn verify(world: &mut World, slots: u8) {
    if world.checkers.violation.is_some() {
        return;
    }
    let is_over = world.disk.durable.zeroize.is_none() && !world.disk.durable.key_is_gone;
    check(world, is_over, "a zeroize that did not end");
    let once = replaced(&world.disk.durable.journal) == 1;
    check(world, once, "not one new node key");
    let sealed = world.disk.durable.sealed.is_empty();
    check(world, sealed, "a sealed code outlived a zeroize");
    for slot in 0..slots {
        let holds = !world.apps.of(ApplicationId(slot)).holds.is_none();
        check(world, !holds, "an application has a PIN after a zeroize");
        let active = world.status(slot).is_some_and(|status| status.state == StateName::Active);
        check(world, !active, "a slot is active after a zeroize");
    }
    let chain_holds = world.disk.check_chain().is_ok();
    check(world, chain_holds, "the audit chain does not hold");
}

fn check(world: &mut World, holds: bool, what: &'static str) {
    if !holds && world.checkers.violation.is_none() {
        world.checkers.violated("P41", 0, what);
    }
}

/// The SO PIN brings a slot back whose code is gone.
fn come_back(world: &mut World, slot: u8) -> bool {
    let number = usize::from(slot);
    world.hung[number] = false;
    world.apps.of(ApplicationId(slot)).reachable = true;
    world.disk.reserve = false;
    settle_down(world);
    if !world.zeroized[number] || world.checkers.violation.is_some() {
        return false;
    }
    let so_pin = world.people.slots[number].so_pin;
    let wish = Wish { to: Mode::Generated, typed: so_pin, confirmed: true, ..Wish::plain(CommandKind::Unblock) };
    for _ in 0..2 {
        let state = world.status(slot).map(|status| status.state);
        if state != Some(StateName::Active) {
            order(world, slot, wish);
        }
    }
    let active = world.status(slot).is_some_and(|status| status.state == StateName::Active);
    check(world, active, "the SO PIN does not bring a slot back after a zeroize");
    world.zeroized[number] = false;
    active
}
