//! Faults that strike between orders, how they heal, and the visits of people.

use slotwarden_core::card::ReaderId;
use slotwarden_core::command::{Caller, Command, CommandKind, ReplyId};
use slotwarden_core::effect::{ApplicationId, HsmAnswer, Input, Outcome, Room, SlotId, StoreResult, Ticket};
use slotwarden_core::person::PersonId;
use slotwarden_core::status::StateName;

use crate::code::Code;
use crate::faults::{Kind, Step};
use crate::hsm::{Character, Token, WRONG_PINS_MAX};
use crate::people::Wish;
use crate::world::{Event, World};

/// The person who may do everything.
pub(crate) const ADMINISTRATOR: PersonId = PersonId(0);
/// The person who may activate and deactivate.
pub(crate) const OPERATOR: PersonId = PersonId(1);
/// The person who may only read.
pub(crate) const AUDITOR: PersonId = PersonId(2);
/// Another one who may do everything.
pub(crate) const SECOND_ADMINISTRATOR: PersonId = PersonId(3);

impl World {
    /// People look at a slot, more rarely where others are busy with cards.
    pub(crate) fn visit(&mut self, slot: u8) {
        self.look_at(slot);
        let pace = self.pace();
        let visit_ms = &mut self.visits_ms[usize::from(slot)];
        let wait_ms = visit_ms.saturating_sub(self.now_ms);
        *visit_ms = self.now_ms + wait_ms.min(60_000) * pace + wait_ms.saturating_sub(60_000);
    }

    /// Something may have gone wrong meanwhile; then they order what they want.
    fn look_at(&mut self, slot: u8) {
        let number = usize::from(slot);
        // Without an answer they come back after a while; an answer brings them back sooner.
        self.visits_ms[number] = self.now_ms + self.random.u64(35_000..50_000);
        if let Some(kind) = self.due(Step::Idle, slot) {
            self.trace.note(self.now_ms, kind.word());
            self.strike(kind, slot);
            if self.core.is_none() {
                return;
            }
        }
        let Some(status) = self.status(slot) else { return };
        if self.people.are_two {
            let is_single = self.is_single();
            if let Some((about, wish)) = self.people.wish_of_two(is_single, &mut self.random) {
                self.order(about, &wish, wish.who.unwrap_or(ADMINISTRATOR));
                self.visits_ms[number] = self.now_ms + self.random.u64(50..2_000);
                return;
            }
        }
        let Some(wish) = self.people.wish(slot, &status, &mut self.random) else {
            let patience_ms = match status.state {
                StateName::CoolingDown | StateName::Blocked => 10_000..200_000,
                // Whoever is wanted next comes, or comes too late.
                _ if status.collection.is_some() => 1_000..4_500_000,
                _ => 500..20_000,
            };
            self.visits_ms[number] = self.now_ms + self.random.u64(patience_ms);
            return;
        };
        let about = match wish.kind {
            CommandKind::Boot | CommandKind::Stop => None,
            _ => Some(slot),
        };
        let dice = self.random.u8(..100);
        let who = wish.who.unwrap_or(if dice < 20 { OPERATOR } else { ADMINISTRATOR });
        if dice > 90 {
            // Somebody impatient looks again before the answer is there.
            self.visits_ms[number] = self.now_ms + self.random.u64(1..60);
        }
        self.order(about, &wish, who);
    }

    fn strike(&mut self, kind: Kind, slot: u8) {
        let number = usize::from(slot);
        match kind {
            Kind::TokenPulled => self.pull(slot),
            Kind::TokenReturned => {
                if let Some(home) = self.homes[number] {
                    self.tokens.tokens[usize::from(home)].inserted = true;
                    self.came(slot);
                }
            }
            Kind::TokenReplaced => {
                self.pull(slot);
                self.add_foreign(slot);
                self.came(slot);
            }
            Kind::TokenAmbiguous => {
                self.add_foreign(slot);
                self.came(slot);
                let wait_ms = self.random.u64(1_000..60_000);
                self.schedule(wait_ms, Event::Heals(Kind::TokenAmbiguous, slot));
            }
            Kind::TrySpentElsewhere | Kind::FinalTryElsewhere | Kind::LockedElsewhere => {
                let Some(home) = self.homes[number] else { return };
                let token = &mut self.tokens.tokens[usize::from(home)];
                let tries = match kind {
                    Kind::TrySpentElsewhere => 1,
                    Kind::FinalTryElsewhere => (WRONG_PINS_MAX - 1).saturating_sub(token.live.wrong_in_row),
                    _ => WRONG_PINS_MAX,
                };
                if token.live.user_pin.is_none() {
                    return;
                }
                for _ in 0..tries {
                    token.spend_a_try();
                }
                self.look(slot);
            }
            Kind::PinChangedElsewhere => {
                let Some(home) = self.homes[number] else { return };
                let token = &mut self.tokens.tokens[usize::from(home)];
                if !token.live.user_pin.is_none() {
                    let code = Code::manual(&mut self.random);
                    token.change_elsewhere(code);
                    self.people.slots[number].learn(code);
                    self.apart[number] = true;
                }
            }
            Kind::PowerCutIdle => {
                let (is_there, kept) = (self.random.bool(), self.random.bool());
                self.power_cut(is_there, kept);
            }
            Kind::DaemonKilledIdle => self.daemon_killed(),
            Kind::WorkerKilledIdle => self.worker_dies(),
            Kind::WorkerUnavailable => {
                self.worker_unavailable = true;
                self.worker_dies();
            }
            Kind::ClockForward => self.wall_jump_s = Some(300_000_000),
            Kind::ClockBack => self.wall_jump_s = Some(-1_767_000_000),
            Kind::ClockLost => self.wall_jump_s = None,
            Kind::UnknownTicket => {
                let number = self.random.u32(..);
                let ticket = Ticket { slot: Some(SlotId(self.random.u8(..))), number };
                let outcomes = [
                    Outcome::Hsm(Ok(HsmAnswer::LoggedIn)),
                    Outcome::Random(Ok(())),
                    Outcome::Unsealed(Ok(())),
                    Outcome::Application(Ok(())),
                ];
                let outcome = outcomes[self.random.usize(..outcomes.len())];
                self.deliver(Input::Done { ticket, outcome });
                let result = StoreResult::Durable(Room::Plenty);
                self.deliver(Input::Stored { ticket: Ticket { slot: None, number }, result });
            }
            Kind::SpuriousTick => self.deliver(Input::Tick),
            Kind::SpuriousWorkerUp if self.worker => self.deliver(Input::WorkerUp),
            Kind::SpuriousToken => self.look(slot),
            Kind::StaleSecret => self.order_with_stale_secret(slot),
            Kind::NotAllowed => {
                let kinds = [CommandKind::Init, CommandKind::ChangeCode, CommandKind::Deactivate, CommandKind::Stop];
                let mut wish = Wish::plain(kinds[self.random.usize(..kinds.len())]);
                if wish.kind == CommandKind::Init {
                    wish.typed = self.people.slots[number].so_pin;
                }
                let about = (wish.kind != CommandKind::Stop).then_some(slot);
                self.order(about, &wish, AUDITOR);
            }
            // The others strike at a device or at the store (`devices`).
            _ => {}
        }
    }

    /// An order whose secret was wiped meanwhile: the platform's mistake, not a person's.
    fn order_with_stale_secret(&mut self, slot: u8) {
        let Some(core) = &mut self.core else { return };
        let Ok(id) = core.fill(|place| Code::new(b"M-wiped-meanwhile").write(place)) else { return };
        for _ in 0..2 {
            let wish = Wish::plain(CommandKind::Activate);
            let Some(reply) = self.people.give(Some(slot), &wish, self.now_ms) else { return };
            let caller = Caller { who: AUDITOR, reply: ReplyId(reply) };
            // The auditor may not, so the first order wipes the secret; the second one is stale.
            let command = Command::Activate { slot: SlotId(slot), code: Some(id), confirmed: false };
            self.deliver(Input::Command { caller, command });
        }
        let Some(reply) = self.people.give(Some(slot), &Wish::plain(CommandKind::Activate), self.now_ms) else {
            return;
        };
        let caller = Caller { who: ADMINISTRATOR, reply: ReplyId(reply) };
        let command = Command::Activate { slot: SlotId(slot), code: Some(id), confirmed: true };
        self.note_operation(reply, &command);
        self.deliver(Input::Command { caller, command });
    }

    /// The token of a slot is pulled; it returns after a while.
    pub(crate) fn pull(&mut self, slot: u8) {
        let Some(home) = self.homes[usize::from(slot)] else { return };
        let token = &mut self.tokens.tokens[usize::from(home)];
        token.inserted = false;
        token.worker_lost();
        let noticed_ms = self.random.u64(1..10_000);
        self.schedule(noticed_ms, Event::Look(slot));
        let back_ms = noticed_ms + self.random.u64(1..60_000);
        self.schedule(back_ms, Event::Heals(Kind::TokenPulled, slot));
    }

    /// Another token with the slot's label appears.
    fn add_foreign(&mut self, slot: u8) {
        let number = u8::try_from(self.tokens.tokens.len()).unwrap_or(9);
        let (pin, so_pin) = (Code::manual(&mut self.random), Code::so_pin(&mut self.random));
        let mut foreign = Token::initialised(number, Character::SOFT, slot, pin, so_pin);
        foreign.serial[..4].copy_from_slice(b"ELSE");
        self.add_token(foreign, None);
    }

    /// A token came or went: either the worker that runs sees it, or it is started anew.
    fn came(&mut self, slot: u8) {
        if self.random.bool() {
            let seen_ms = self.random.u64(1..5_000);
            self.schedule(seen_ms, Event::Look(slot));
        } else if self.worker {
            self.worker_dies();
        }
    }

    /// A fault is over.
    pub(crate) fn heals(&mut self, kind: Kind, place: u8) {
        match kind {
            Kind::TokenPulled => {
                self.put_right(place);
                if self.core.is_some() {
                    self.came(place);
                }
            }
            Kind::TokenAmbiguous => {
                self.put_right(place);
                self.schedule(1, Event::Look(place));
            }
            Kind::ApplicationUnreachable => self.apps.of(ApplicationId(place)).reachable = true,
            Kind::DiskReserve => self.disk.reserve = false,
            Kind::ReaderUnplugged => self.plug_in(place),
            Kind::ReaderSilent => {
                // Every call has an answer, even if it is that its reader is gone.
                let call =
                    self.table.at(ReaderId(place)).and_then(|reader| reader.pending).map(|pending| pending.ticket);
                self.unplug(place, call);
            }
            Kind::RandomBothStuck => self.stuck = [false; 2],
            _ => {}
        }
    }

    /// The right token of a slot is there, and no other with its label.
    pub(crate) fn put_right(&mut self, slot: u8) {
        let home = self.homes[usize::from(slot)];
        for (number, token) in (0u8..).zip(&mut self.tokens.tokens) {
            if Some(number) == home {
                token.inserted = true;
            } else if token.live.label == Some(slot) {
                token.inserted = false;
            }
        }
    }
}
