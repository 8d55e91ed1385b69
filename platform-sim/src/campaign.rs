//! One seed: a few slots, their people, their faults; at the end the question that matters.
//!
//! A campaign sets up one to three slots (a free token, one initialised elsewhere, one
//! with an SO PIN only), lets people work while faults strike, then heals everything,
//! switches the appliance off and on, and asks whether each slot can be opened by those
//! who have its code: the store, or people with what the answers let them remember.

use slotwarden_core::command::CommandKind;
use slotwarden_core::person::PersonId;
use slotwarden_core::record::{Doubt, Mode, Owner};
use slotwarden_core::status::{KnowledgeStatus, SlotStatus, StateName, WaitKind};

use crate::code::Code;
use crate::faults::Plan;
use crate::hsm::{Character, Token};
use crate::people::Wish;
use crate::strike::{ADMINISTRATOR, OPERATOR};
use crate::world::{EVENTS_MAX, World};
use crate::{SLOTS, model};

/// Orders of one campaign, for each slot.
const ORDERS_OF_A_SLOT: std::ops::Range<u64> = 6..30;
/// Longest wait for everything to become quiet, milliseconds of the world.
const QUIET_MAX_MS: u64 = 10 * 60_000;
/// What people try to open a slot at the end: every code they remember, twice, and a few
/// calls that only show what is so.
const OPENING_TRIES_MAX: u32 = 24;
/// The same where several persons know a code: each enters what they have.
const OPENING_TRIES_OF_MANY_MAX: u32 = 160;
/// One of so many worlds has codes that several persons know: a collection takes many orders.
const MANY_EVERY: u64 = 3;
/// How many times more orders people give in such a world.
const ORDERS_OF_MANY: u64 = 3;

/// One of so many blocks of seeds has a table with card readers; and so many seeds are a block,
/// so that worlds of every other kind have one.
const TABLE_EVERY: u64 = 4;
const TABLE_BLOCK: u64 = 7;
/// Ceremonies of a world with a table.
const CEREMONIES: std::ops::Range<u64> = 2..9;

/// Turns in which people try the codes they know before they try what is kept.
const OWN_CODES_FIRST: u32 = 8;

/// A little more than the longest wait after a refusal (15 min).
const LONGEST_WAIT_MS: u64 = 16 * 60_000;

/// Lives one seed to its end; returns the hash of its trace.
pub fn live(world: &mut World, seed: u64) -> [u8; 32] {
    let mut random = fastrand::Rng::with_seed(seed ^ 0x51_07_3A_12);
    let slots = random.u8(1..=SLOTS as u8);
    world.begin(seed, slots);
    for slot in 0..slots {
        furnish(world, slot, Furniture::draw(&mut random), Character::ALL[random.usize(..Character::ALL.len())]);
    }
    world.plan = Plan::draw(&mut random);
    let has_table = seed / TABLE_BLOCK % TABLE_EVERY == 1;
    if has_table {
        world.set_table(random.u8(1..=2));
        world.plan.add_of_cards(&mut random);
    }
    let ceremonies_max = if has_table { world.counts.cards.begun() + random.u64(CEREMONIES) } else { 0 };
    world.start();
    world.people_act = true;
    world.people.are_many = seed.is_multiple_of(MANY_EVERY);
    world.people.are_two = seed.is_multiple_of(2 * MANY_EVERY);
    for visit_ms in &mut world.visits_ms {
        *visit_ms = random.u64(400..3_000);
    }
    let times = if world.people.are_many { ORDERS_OF_MANY } else { 1 };
    let orders_max = world.counts.orders + times * u64::from(slots) * random.u64(ORDERS_OF_A_SLOT);
    let inputs_max = world.counts.inputs + EVENTS_MAX;
    while (world.counts.orders < orders_max || world.counts.cards.begun() < ceremonies_max)
        && world.counts.inputs < inputs_max
        && world.step(u64::MAX)
    {}
    finish(world)
}

/// Heals everything, opens every slot, and closes the trace.
pub(crate) fn finish(world: &mut World) -> [u8; 32] {
    if world.checkers.violation.is_none() {
        world.heal();
        if world.people.are_two {
            world.let_one_decide();
        }
        for slot in 0..world.slots {
            open(world, slot);
        }
        world.counts.lives += u64::from(world.slots);
        if world.table.is_there() && world.checkers.violation.is_none() {
            world.check_cards();
            world.check_keys();
        }
    }
    match world.disk.check_chain() {
        Ok(chain) => world.trace.end(&chain),
        Err(_) => {
            world.checkers.violated("P37", 0, "the audit chain does not hold at the end");
            [0; 32]
        }
    }
}

/// What a slot begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Furniture {
    /// A token that nobody initialised.
    Free,
    /// A token with the slot's label and an SO PIN, without a user PIN.
    Labelled,
    /// A token that was initialised elsewhere; people know its code.
    Adopted,
    /// No token at all.
    Nothing,
}

impl Furniture {
    fn draw(random: &mut fastrand::Rng) -> Self {
        match random.u8(..100) {
            0..40 => Furniture::Free,
            40..55 => Furniture::Labelled,
            55..97 => Furniture::Adopted,
            _ => Furniture::Nothing,
        }
    }
}

/// Gives a slot its token, and people what they know.
pub(crate) fn furnish(world: &mut World, slot: u8, furniture: Furniture, character: Character) {
    let (code, so_pin) = (Code::manual(&mut world.random), Code::so_pin(&mut world.random));
    let number = slot + 1;
    world.people.slots[usize::from(slot)].so_pin = so_pin;
    match furniture {
        Furniture::Free => world.add_token(Token::free(number, character), None),
        Furniture::Labelled => {
            world.add_token(Token::initialised(number, character, slot, Code::NONE, so_pin), Some(slot));
        }
        Furniture::Adopted => {
            world.add_token(Token::initialised(number, character, slot, code, so_pin), Some(slot));
            world.people.slots[usize::from(slot)].learn(code);
            world.checkers.p05_typed(Code::NONE);
        }
        Furniture::Nothing => {}
    }
}

/// Lets things happen until nothing is under way.
pub(crate) fn settle_down(world: &mut World) {
    let until_ms = world.now_ms + QUIET_MAX_MS;
    while world.is_busy() && world.step(until_ms) {}
}

/// What the next of several persons enters, where the slot asks for shares or parts.
pub(crate) fn next_entry(world: &mut World, slot: u8, status: &SlotStatus) -> Option<Wish> {
    let collection = status.collection.as_ref();
    let asked = collection.map(|collection| collection.progress.kind).or(status.waits_for.map(|waits| waits.kind))?;
    let done: Vec<PersonId> = collection.into_iter().flat_map(|open| &open.persons).map(|one| one.who).collect();
    match asked {
        WaitKind::Shares | WaitKind::Parts => {
            world.people.slots[usize::from(slot)].present(asked == WaitKind::Shares, &done, &mut world.random)
        }
        WaitKind::Code | WaitKind::NewParts | WaitKind::Custodians | WaitKind::Cards | WaitKind::Person => None,
    }
}

/// Whether a slot is opened by cards.
fn asks_for_cards(status: &SlotStatus) -> bool {
    matches!(status.knowledge, KnowledgeStatus::Cards { .. })
        || status.waits_for.is_some_and(|waits| waits.kind == WaitKind::Cards)
}

/// Those who have the code of a slot open it, or the slot is one that nobody can promise.
fn open(world: &mut World, slot: u8) {
    let number = usize::from(slot);
    let mut service_decides = true;
    let tries_max =
        if world.people.are_many || world.table.is_there() { OPENING_TRIES_OF_MANY_MAX } else { OPENING_TRIES_MAX };
    for turn in 0..tries_max {
        world.plug_all_in();
        settle_down(world);
        world.let_ceremony_end();
        settle_down(world);
        if world.checkers.violation.is_some() {
            return;
        }
        let Some(status) = world.status(slot) else { break };
        let Some(token) = world.home(slot).copied() else { return };
        let so_pin = world.people.slots[number].so_pin;
        let lost = token.is_locked() && (token.is_so_locked() || token.live.so_pin != so_pin);
        if !token.readable || lost || world.apart[number] {
            world.counts.counted_apart += 1;
            return;
        }
        let mut wish = Wish::plain(CommandKind::Activate);
        wish.confirmed = true;
        match status.state {
            StateName::Active => {
                let owner = Owner(u16::from(slot));
                let store_has = world.disk.codes(owner).any(|code| *code == token.live.user_pin);
                let people_have =
                    model::people_have(&token.live.user_pin, &world.disk, owner, &world.people.slots[number])
                        || world.table.can_open(
                            &token.live.user_pin,
                            owner,
                            slot,
                            &world.disk.durable,
                            &world.people.slots[number],
                        );
                world.checkers.p35_known_state(slot, status.mode, store_has, people_have);
                return;
            }
            StateName::CoolingDown => {
                let until_ms = world.now_ms + LONGEST_WAIT_MS;
                while world.status(slot).is_some_and(|status| status.state == StateName::CoolingDown)
                    && world.step(until_ms)
                {}
                continue;
            }
            StateName::Uninitialised => {
                if token.live.so_pin != world.people.slots[number].so_pin && !token.live.so_pin.is_none() {
                    // A mistyped SO PIN became the token's. Nothing is in it yet.
                    world.counts.counted_apart += 1;
                    return;
                }
                wish.kind = CommandKind::Init;
                wish.typed = world.people.slots[number].so_pin;
            }
            StateName::Activating | StateName::Changing => {
                let until_ms = world.now_ms + 31_000;
                while world.step(until_ms) {}
                continue;
            }
            StateName::Blocked => {
                // Nothing but the SO PIN leads out, and it brings the slot back with its keys.
                wish.kind = CommandKind::Unblock;
                wish.to = Mode::Generated;
                wish.typed = so_pin;
            }
            StateName::Absent | StateName::Locked | StateName::Collecting | StateName::Doubtful
                if world.table.is_there() && asks_for_cards(&status) && turn % 3 != 2 =>
            {
                let codes = &world.people.slots[number].codes;
                // Of two sets between which nobody decided yet one may want a code, and the other none.
                let needs_code = turn % 3 == 1;
                let place = usize::try_from(turn / 3).unwrap_or(0) % codes.len().max(1);
                let code = codes.get(place).copied().filter(|_| needs_code).unwrap_or(Code::NONE);
                world.open_with_cards(slot, code);
                // A reader that is silent, or only slow, is waited for.
                let until_ms = world.now_ms + LONGEST_WAIT_MS;
                while world.status(slot).is_some_and(|status| status.state != StateName::Active) && world.step(until_ms)
                {
                }
                continue;
            }
            StateName::Absent | StateName::Locked | StateName::Collecting | StateName::Doubtful => {
                // Of an undecided change the service decides itself, when a person asks for it.
                let kept = world.disk.codes(Owner(u16::from(slot))).next().is_some();
                let undecided = status.state == StateName::Doubtful && (kept || status.doubt != Some(Doubt::OldOrNew));
                // A code that people know opens a slot whose stored code was refused.
                // Of an unblock and a decommission that nobody saw the end of a sealed code may be left
                // that rules: people who run out of codes give the order without one.
                let keeps_one = kept && turn >= OWN_CODES_FIRST;
                // What was begun is finished first: a try of another code may cost the wait in which it expires.
                let begun = status.collection.is_some();
                let typed = match status.mode {
                    Mode::Manual => begun || !((undecided || keeps_one) && service_decides),
                    Mode::Generated => !service_decides,
                };
                if typed {
                    let whole = world.people.slots[number].candidate();
                    // Of an unblock that nobody saw the end of one person may know the whole code.
                    let rescued = status.state == StateName::Doubtful && status.collection.is_none() && turn % 3 == 2;
                    wish = match next_entry(world, slot, &status) {
                        Some(_) if rescued && !whole.is_none() => Wish { typed: whole, who: Some(OPERATOR), ..wish },
                        Some(entry) => Wish { confirmed: true, ..entry },
                        // They began with what is not asked for, and nobody has another one.
                        None if status.collection.is_some() => Wish::plain(CommandKind::Reset),
                        None => Wish { typed: whole, ..wish },
                    };
                }
                service_decides = !service_decides;
            }
        }
        world.order(Some(slot), &wish, wish.who.unwrap_or(ADMINISTRATOR));
        if matches!(wish.kind, CommandKind::Init | CommandKind::Unblock) {
            // The SO PIN has its own waits, which no state shows.
            settle_down(world);
            let until_ms = world.now_ms + LONGEST_WAIT_MS;
            let closed = |state| matches!(state, StateName::Uninitialised | StateName::Blocked);
            while world.status(slot).is_some_and(|status| closed(status.state)) && world.step(until_ms) {}
            world.now_ms = world.now_ms.max(until_ms);
        }
    }
    if world.refused_right[number] {
        world.counts.counted_apart += 1;
        return;
    }
    if let Some(token) = world.home(slot)
        && token.live.user_pin.is_none()
        && token.live.label.is_none()
    {
        // Its first PIN was lost with the power; it is free again.
        return;
    }
    world.checkers.p35_opened(slot, false);
}
