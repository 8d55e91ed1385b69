//! The people at the table: what they order, which card they bring, what they answer.
//!
//! They watch the wait view like everybody and mostly do what it asks for; sometimes they
//! bring another card, pull one, walk away, cancel, or begin something else meanwhile. Who
//! types what at a pad stands in `readers`.

use slotwarden_core::card::registry::CardEntry;
use slotwarden_core::card::sets::SetSubject;
use slotwarden_core::card::{CardAnswer, CardSerial, Credential, ReaderEvent, ReaderId, RecordPlace};
use slotwarden_core::ceremony::Question;
use slotwarden_core::ceremony::order::{CardOrder, Places, SlotSet, SoUse, Task};
use slotwarden_core::command::{Answer, Caller, Command, CommandKind, ReplyId};
use slotwarden_core::effect::{ApplicationId, ApplicationSet, Input, Outcome, SlotId, Ticket};
use slotwarden_core::fault::Refusal;
use slotwarden_core::person::{PersonId, Roster, needs_two};
use slotwarden_core::record::{Mode, Owner};
use slotwarden_core::share::card_set::{self, CardQuorum};
use slotwarden_core::share::record::{self, RECORD_BYTES, ShareHeader, ShareKind};
use slotwarden_core::status::{CeremonyStatus, CeremonyWait, KnowledgeStatus, StateName};

use crate::cards::{Card, Manner};
use crate::code::Code;
use crate::custodians::HOLDERS;
use crate::faults::{Kind, Step};
use crate::people::REMEMBERED_MAX;
use crate::strike::{ADMINISTRATOR, AUDITOR, SECOND_ADMINISTRATOR};
use crate::table::{CARDS_MAX, TableOrder, is_sound, share_on};
use crate::world::World;

/// Cards, PINs and answers after which people give a ceremony up.
const PATIENCE_STEPS: u16 = 40;

impl World {
    /// People come to the table.
    pub(crate) fn visit_table(&mut self) {
        self.table.visit_ms = self.now_ms + self.random.u64(60..900);
        if !self.table.helpful
            && let Some(kind) = self.due(Step::Table, 0)
        {
            self.trace.note(self.now_ms, kind.word());
            self.strike_table(kind);
            if self.core.is_none() {
                return;
            }
        }
        let now = self.now();
        let Some(ceremony) = self.core.as_ref().map(|core| core.status(now).ceremony) else { return };
        match ceremony {
            None => self.at_leisure(),
            Some(_) if self.is_left() => self.table.visit_ms = self.now_ms + 30_000,
            Some(ceremony) => self.serve(&ceremony),
        }
    }

    /// No ceremony is under way.
    fn at_leisure(&mut self) {
        for reader in 0..self.table.readers.len() {
            if self.table.helpful || self.random.u8(..10) < 7 {
                self.take_out(u8::try_from(reader).unwrap_or(u8::MAX));
            }
        }
        if self.table.helpful {
            self.table.visit_ms = self.now_ms + 10_000;
            return;
        }
        if let Some((order, id, code, approved)) = self.table.request {
            let other = if order.who == SECOND_ADMINISTRATOR { ADMINISTRATOR } else { SECOND_ADMINISTRATOR };
            let dice = self.random.u8(..100);
            match (approved, dice) {
                (_, 0..4) => self.table.request = None,
                (false, 4..10) => self.order_at_table(order.who, Command::Approve { id, code }, [Code::NONE; 2]),
                (false, _) => self.order_at_table(other, Command::Approve { id, code }, [Code::NONE; 2]),
                (true, _) => {
                    self.table.request = None;
                    self.order_at_table(order.who, order.command, [order.typed, order.new]);
                }
            }
            return;
        }
        if self.random.u8(..10) < 4 {
            let who = if self.random.u8(..10) < 8 { ADMINISTRATOR } else { SECOND_ADMINISTRATOR };
            self.order_something(who);
        } else {
            self.table.visit_ms = self.now_ms + self.random.u64(500..6_000);
        }
    }

    /// What the wait view asks for.
    fn serve(&mut self, ceremony: &CeremonyStatus) {
        let reader = ceremony.reader.0;
        let has_card = self.table.at(ceremony.reader).is_some_and(|place| place.terminal.pad.has_card());
        let dice = if self.table.helpful { 100 } else { self.random.u16(..1_000) };
        match (ceremony.wait, dice) {
            (_, 0..3) => self.table.left = Some(ceremony.id),
            (_, 3..8) => self.cancel_by_somebody(ceremony),
            // Who finds no card that does gives up in the end.
            (_, 0..400) if ceremony.human_steps > PATIENCE_STEPS => self.cancel_by_somebody(ceremony),
            (_, 8..12) => self.order_something(SECOND_ADMINISTRATOR),
            (_, 12..16) => self.take_out(reader),
            (CeremonyWait::Insert, _) if has_card => self.take_out(reader),
            (CeremonyWait::Insert, _) => {
                if let Some(card) = self.choose_card(ceremony) {
                    self.put_in(reader, card);
                }
            }
            (CeremonyWait::Remove, _) if has_card => {
                let credential = self.core.as_ref().and_then(|core| core.ceremony()).map(|one| one.facts().credential);
                if ceremony.last.is_none()
                    && let Some(card) = self.table.card_in(reader)
                {
                    let (serial, share) = (card.serial(), credential.and_then(|credential| share_on(card, credential)));
                    self.table.read.push(serial);
                    self.table.read_x.extend(share.filter(|_| ceremony.x.is_none()).map(|(header, _)| header.x));
                }
                self.take_out(reader);
            }
            (CeremonyWait::Answer(question), _) => self.answer_question(ceremony, question),
            (_, _) => {}
        }
    }

    fn answer_question(&mut self, ceremony: &CeremonyStatus, question: Question) {
        let helpful = self.table.helpful;
        let dice = self.random.u8(..100);
        let yes = match question {
            Question::Overwrite => !helpful && dice < 40,
            Question::LastTry => helpful || dice < 70,
            Question::Again => helpful || dice < 88,
            Question::AnotherCard => dice < 50,
            Question::AnotherCopy => dice < 25,
            Question::AdoptKey => helpful || dice < 80,
        };
        let second = if ceremony.starter == ADMINISTRATOR { SECOND_ADMINISTRATOR } else { ADMINISTRATOR };
        let by_second = question == Question::LastTry || self.random.u8(..10) < 2;
        let who = if by_second { second } else { ceremony.starter };
        let confirmed = helpful || self.random.u8(..10) < 8;
        self.order_at_table(who, Command::AnswerCeremony { id: ceremony.id, yes, confirmed }, [Code::NONE; 2]);
    }

    fn cancel_by_somebody(&mut self, ceremony: &CeremonyStatus) {
        let somebody = [ceremony.starter, SECOND_ADMINISTRATOR, HOLDERS[self.random.usize(..HOLDERS.len())]];
        let who = somebody[self.random.usize(..3)];
        self.order_at_table(who, Command::CancelCeremony { id: ceremony.id }, [Code::NONE; 2]);
    }

    /// The place in the drawer of the card that somebody brings now.
    fn choose_card(&mut self, ceremony: &CeremonyStatus) -> Option<usize> {
        let (facts, lost) = {
            let core = self.core.as_ref()?;
            let facts = *core.ceremony()?.facts();
            let of_it = |entry: &&CardEntry| entry.lost && entry.credential == facts.credential;
            let lost: Vec<CardSerial> = core.card_entries().iter().filter(of_it).map(|entry| entry.serial).collect();
            (facts, lost)
        };
        let credential = facts.credential;
        let mistaken = !self.table.helpful && self.random.u8(..100) < 8;
        if mistaken && !self.table.drawer.is_empty() {
            return Some(self.random.usize(..self.table.drawer.len()));
        }
        let pulled = matches!(
            ceremony.last,
            Some(Refusal::CardPulled | Refusal::CardTornWrite | Refusal::CardPinOldOrNew | Refusal::CardNotExpected)
        );
        if pulled
            && let Some(last) = self.table.last
            && let Some(place) = self.table.drawer.iter().position(|card| card.serial() == last)
        {
            return Some(place);
        }
        let is_lost = |card: &Card| lost.iter().any(|serial| serial.bytes() == card.serial());
        let usable = |card: &Card| is_sound(card) && card.tries_left(credential) > 0 && !is_lost(card);
        let writes = ceremony.x.is_some() || (ceremony.command == CommandKind::CopyCard && ceremony.step > 1);
        let (read, read_x) = (&self.table.read, &self.table.read_x);
        let fits = |card: &&Card| {
            let proper = usable(card) && !read.contains(&card.serial());
            match (writes, share_on(card, credential)) {
                (true, share) => proper && card.manner() == Manner::Proper && share.is_none(),
                (false, None) => false,
                (false, Some((header, _))) => {
                    let wanted = facts.gather.is_none() || facts.candidates().any(|set| set.id == header.set_id);
                    proper && wanted && !read_x.contains(&header.x)
                }
            }
        };
        let fitting: Vec<usize> =
            self.table.drawer.iter().enumerate().filter(|(_, card)| fits(card)).map(|(place, _)| place).collect();
        if let Some(place) = (!fitting.is_empty()).then(|| fitting[self.random.usize(..fitting.len())]) {
            return Some(place);
        }
        if writes && self.table.cards().count() < CARDS_MAX {
            self.table.drawer.push(Card::drawn(&mut self.random));
            return Some(self.table.drawer.len() - 1);
        }
        let any: Vec<usize> = (0..self.table.drawer.len()).filter(|place| usable(&self.table.drawer[*place])).collect();
        (!any.is_empty()).then(|| any[self.random.usize(..any.len())])
    }

    /// Somebody orders something with cards.
    fn order_something(&mut self, who: PersonId) {
        let Some(core) = &self.core else { return };
        let has_set = core.card_sets(SetSubject::BackupKey).is_some_and(|sets| sets.current.is_some());
        let slot = SlotId(self.random.u8(..self.slots));
        let overwrite = self.random.u8(..10) == 0;
        let reader = (self.random.u8(..6) == 0).then(|| ReaderId(self.random.u8(..3)));
        let at = Places { reader, target: None, overwrite };
        let n = self.random.u8(2..=4);
        let m = self.random.u8(2..=n);
        let Ok(quorum) = CardQuorum::new(m, n) else { return };
        let holders = self.holders(n);
        let credential = match self.random.u8(..20) {
            0..13 => Credential::BackupShare,
            13..19 => Credential::SlotUser,
            _ => Credential::HsmAdministrator,
        };
        let leave_out = if self.random.u8(..4) == 0 { SlotSet::NONE.with(slot) } else { SlotSet::NONE };
        let none = [Code::NONE; 2];
        let dice = self.random.u8(..100);
        let task = match dice {
            0..40 if !has_set => Task::CreateSet { quorum, holders, leave_out },
            0..4 => Task::CreateSet { quorum, holders, leave_out },
            4..12 => Task::ChangePin { credential },
            12..18 => Task::Reassign { credential, to: HOLDERS[self.random.usize(..HOLDERS.len())] },
            18..29 => Task::Copy { credential },
            29..38 => Task::VerifySet,
            38..51 => {
                let slot = self.random.bool().then_some(slot);
                Task::RestoreKey { slot, key_id: None }
            }
            51..59 => Task::ReplaceSet { quorum, holders },
            59..66 => Task::Rotate { quorum, holders, leave_out },
            66..71 => Task::Erase { credential },
            71..86 => return self.order_slot_cards(who, slot, (quorum, holders), at),
            86..91 => return self.order_administrator_cards(who, slot, (quorum, holders), at),
            91..93 => return self.order_lost(who),
            93..97 => {
                let codes = &self.people.slots[usize::from(slot.0)].codes;
                let code = codes.first().copied().filter(|_| dice.is_multiple_of(2)).unwrap_or(Code::NONE);
                let command = Command::Activate { slot, code: None, confirmed: false };
                return self.order_at_table(who, command, [code, Code::NONE]);
            }
            _ => {
                let accept = ApplicationSet::NONE.with(ApplicationId(slot.0));
                let then = match dice {
                    97 => SoUse::Init { free_slot: None },
                    98 => SoUse::Unblock { to: Mode::Generated, new_code: None, accept },
                    _ => SoUse::Decommission { accept },
                };
                return self.order_at_table(
                    who,
                    Command::BySoCards { slot, then, confirmed: dice.is_multiple_of(2), at },
                    none,
                );
            }
        };
        self.order_at_table(who, Command::Cards { order: CardOrder { task, at } }, none);
    }

    fn holders(&mut self, n: u8) -> Roster {
        if self.random.u8(..3) == 0 {
            return Roster::NOBODY;
        }
        let mut persons = HOLDERS;
        self.random.shuffle(&mut persons);
        let few = usize::from(self.random.u8(..20) == 0);
        Roster::new(&persons[..usize::from(n) - few]).unwrap_or(Roster::NOBODY)
    }

    fn order_slot_cards(&mut self, who: PersonId, slot: SlotId, (quorum, holders): (CardQuorum, Roster), at: Places) {
        let Some(status) = self.status(slot.0) else { return };
        let knowledge = &self.people.slots[usize::from(slot.0)];
        // What several know is not theirs to give away.
        let one_knows = matches!(status.knowledge, KnowledgeStatus::Whole | KnowledgeStatus::Cards { .. });
        if knowledge.codes.len() >= REMEMBERED_MAX - 1 || !one_knows {
            return;
        }
        let typed = match status.mode {
            Mode::Generated => Code::NONE,
            Mode::Manual => knowledge.candidate(),
        };
        let with_code = self.random.u8(..3) == 0;
        let quorum = if self.random.u8(..6) == 0 { CardQuorum::new(1, quorum.n()).unwrap_or(quorum) } else { quorum };
        let new = if with_code { Code::manual(&mut self.random) } else { Code::NONE };
        let accept = ApplicationSet::NONE.with(ApplicationId(slot.0));
        let command = Command::SlotCards {
            slot,
            quorum,
            holders,
            with_code,
            code: None,
            new_code: None,
            confirmed: false,
            accept,
            at,
        };
        self.order_at_table(who, command, [typed, new]);
    }

    fn order_administrator_cards(
        &mut self,
        who: PersonId,
        slot: SlotId,
        (quorum, holders): (CardQuorum, Roster),
        at: Places,
    ) {
        let by_cards = self.core.as_ref().is_some_and(|core| {
            let sets = core.card_sets(SetSubject::Administrators(Owner(u16::from(slot.0))));
            sets.is_some_and(|sets| sets.current.is_some() || sets.calling)
        });
        let so_pin = if by_cards { Code::NONE } else { self.people.slots[usize::from(slot.0)].so_pin };
        let command = Command::AdministratorCards { slot, quorum, holders, so_pin: None, confirmed: false, at };
        self.order_at_table(who, command, [so_pin, Code::NONE]);
    }

    /// A card is declared lost, unless too few would be left of its set.
    fn order_lost(&mut self, who: PersonId) {
        let Some(core) = &self.core else { return };
        let entries: Vec<_> = core.card_entries().iter().filter(|entry| !entry.lost).copied().collect();
        let Some(entry) = (!entries.is_empty()).then(|| entries[self.random.usize(..entries.len())]) else { return };
        // Which of its shares are on other cards still.
        let mut left: Vec<u8> = Vec::new();
        for other in entries.iter().filter(|other| other.serial != entry.serial) {
            if let (Some(one), Some(other)) = (entry.share, other.share)
                && one.set_id == other.set_id
                && !left.contains(&other.x)
            {
                left.push(other.x);
            }
        }
        if entry.share.is_some() && left.len() < 4 {
            return;
        }
        let command = Command::CardLost { serial: entry.serial, credential: entry.credential };
        self.order_at_table(who, command, [Code::NONE; 2]);
    }

    /// Gives an order, with what is typed for it: the present code or SO PIN, and a new code.
    pub(crate) fn order_at_table(&mut self, who: PersonId, command: Command, [typed, new]: [Code; 2]) {
        let mut filled = [None; 2];
        for (id, code) in filled.iter_mut().zip([typed, new]) {
            match self.fill(&code) {
                Ok(place) => *id = place,
                Err(_) => {
                    if let (Some(id), Some(core)) = (filled[0], &mut self.core) {
                        core.wipe(id);
                    }
                    return;
                }
            }
        }
        let plain = command;
        let command = match command {
            Command::SlotCards { slot, quorum, holders, with_code, confirmed, accept, at, .. } => {
                let [code, new_code] = filled;
                Command::SlotCards { slot, quorum, holders, with_code, code, new_code, confirmed, accept, at }
            }
            Command::AdministratorCards { slot, quorum, holders, confirmed, at, .. } => {
                Command::AdministratorCards { slot, quorum, holders, so_pin: filled[0], confirmed, at }
            }
            Command::Activate { slot, confirmed, .. } => Command::Activate { slot, code: filled[0], confirmed },
            other => other,
        };
        self.checkers.p05_typed(typed);
        if new != typed {
            self.checkers.p05_typed(new);
        }
        if let Some(SlotId(slot)) = command.slot().filter(|_| !new.is_none()) {
            self.people.slots[usize::from(slot)].learn(new);
        }
        let reply = self.table.next_reply;
        self.table.next_reply += 1;
        self.table.orders.push(TableOrder { reply, command: plain, new, typed, who });
        let caller = Caller { who, reply: ReplyId(reply) };
        self.deliver(Input::Command { caller, command });
    }

    /// An answer reaches the people at the table.
    pub(crate) fn answered_at_table(&mut self, reply: ReplyId, answer: Answer) {
        let Some(place) = self.table.orders.iter().position(|order| order.reply == reply.0) else {
            return self.checkers.violated("P44", 0, "an order at the table was answered twice, or nobody gave it");
        };
        let order = self.table.orders.swap_remove(place);
        let slot = order.command.slot().map_or(0, |slot| slot.0);
        let is_refused = matches!(answer, Answer::Refused(_));
        if order.who == AUDITOR && !is_refused {
            self.checkers.violated("P28", slot, "somebody without the right had a part in a ceremony");
        }
        let starts = !matches!(
            order.command,
            Command::AnswerCeremony { .. } | Command::CancelCeremony { .. } | Command::Approve { .. }
        );
        self.counts.cards.refused += u32::from(starts && is_refused);
        match (answer, order.command) {
            (Answer::NeedsApproval { id, code }, command) => {
                self.counts.approvals_asked += 1;
                if needs_two(&command, false) {
                    self.checkers.p27_asked(id, self.operation(&order), order.who);
                }
                self.table.request = Some((order, id, code, false));
            }
            (Answer::Done, Command::Approve { id, .. }) => {
                self.counts.approvals_given += 1;
                self.checkers.p27_given(id, order.who, self.now_ms);
                if let Some((_, known, _, approved)) = &mut self.table.request {
                    *approved |= *known == id;
                }
            }
            (Answer::Refused(_), Command::Approve { .. }) => {
                if self.random.u8(..4) == 0 {
                    self.table.request = None;
                }
            }
            (Answer::Done, Command::AnswerCeremony { yes, .. }) => {
                let now = self.now();
                let reader = self.core.as_ref().and_then(|core| core.status(now).ceremony).map(|status| status.reader);
                if let Some(place) = reader.and_then(|reader| self.table.at(reader)) {
                    place.agreed |= yes;
                }
            }
            (_, _) => {}
        }
        self.learn_at_table(&order, answer);
        self.check_codes();
    }

    /// Codes that go with an order at the table are kept in mind until its answer is there.
    pub(crate) fn remember_at_table(&mut self, slot: Option<u8>) {
        for order in &self.table.orders {
            let about = order.command.slot().map(|slot| slot.0);
            if let Some(number) = slot.filter(|_| about == slot && !order.new.is_none()) {
                let knowledge = &mut self.people.slots[usize::from(number)];
                if !knowledge.codes.contains(&order.new) {
                    knowledge.learn(order.new);
                }
            }
        }
    }

    /// The order as an approval is about it.
    fn operation(&self, order: &TableOrder) -> Command {
        match order.command {
            Command::AdministratorCards { slot, quorum, holders, confirmed, at, .. } => {
                let so_pin = (!order.typed.is_none()).then_some(slotwarden_core::safe::SecretId::NONE);
                Command::AdministratorCards { slot, quorum, holders, so_pin, confirmed, at }
            }
            command => command.without_secrets(),
        }
    }

    fn learn_at_table(&mut self, order: &TableOrder, answer: Answer) {
        let Some(SlotId(slot)) = order.command.slot() else { return };
        let number = usize::from(slot);
        let knowledge = &mut self.people.slots[number];
        match (order.command, answer) {
            (Command::SlotCards { .. }, Answer::Done) => {
                let still: Vec<Code> = self.people.orders.iter().map(|order| order.new).collect();
                knowledge.codes.retain(|code| *code == order.new || still.contains(code));
                knowledge.together.keep(order.new);
                self.check_slot_cards(slot);
            }
            (Command::SlotCards { .. }, Answer::Refused(refusal)) => {
                let both = matches!(
                    refusal,
                    Refusal::StoreFailed | Refusal::Halted | Refusal::Stopping | Refusal::CodeOldOrNew
                );
                if !both && !order.new.is_none() {
                    knowledge.codes.retain(|code| *code != order.new);
                }
            }
            (_, _) => {}
        }
    }

    fn strike_table(&mut self, kind: Kind) {
        let readers = u8::try_from(self.table.readers.len()).unwrap_or(1);
        let now = self.now();
        let ceremony = self.core.as_ref().and_then(|core| core.status(now).ceremony);
        let reader = ceremony.as_ref().map_or_else(|| self.random.u8(..readers), |ceremony| ceremony.reader.0);
        let drawer = self.table.drawer.len();
        match kind {
            Kind::ReaderUnplugged => {
                let call = self.table.at(ReaderId(reader)).and_then(|place| place.pending).map(|call| call.ticket);
                self.unplug(reader, call);
            }
            Kind::CardPulledIdle => self.take_out(reader),
            Kind::CardSwapped if drawer > 0 => {
                let card = self.random.usize(..drawer);
                self.put_in(reader, card);
            }
            Kind::ReaderTellsTwice => {
                let has_card = self.table.at(ReaderId(reader)).is_some_and(|place| place.terminal.pad.has_card());
                let told = if has_card { ReaderEvent::CardIn } else { ReaderEvent::CardOut };
                let event = if self.random.bool() { ReaderEvent::Found } else { told };
                self.reader_tells(reader, event);
            }
            Kind::ForeignCard => self.bring(reader, Manner::Foreign),
            Kind::FullCard => self.bring(reader, Manner::Full),
            Kind::HostileCard => {
                let (_, manner) = Manner::ALL[self.random.usize(1..Manner::ALL.len())];
                self.bring(reader, manner);
            }
            Kind::CardOfOthers => {
                let card = self.card_of_others();
                self.table.drawer.push(card);
                self.put_in(reader, self.table.drawer.len() - 1);
            }
            Kind::UsedCard => {
                let used: Vec<usize> = (0..drawer)
                    .filter(|place| {
                        Credential::ALL.iter().any(|each| share_on(&self.table.drawer[*place], *each).is_some())
                    })
                    .collect();
                if !used.is_empty() {
                    let card = used[self.random.usize(..used.len())];
                    self.put_in(reader, card);
                }
            }
            Kind::CardBlockedElsewhere | Kind::CardAtLastTry if drawer > 0 => {
                let left = u8::from(kind == Kind::CardAtLastTry);
                let card = self.random.usize(..drawer);
                let credential = Credential::ALL[self.random.usize(..3)];
                self.table.drawer[card].set_tries_left(credential, left);
            }
            Kind::EverybodyLeaves => self.table.left = ceremony.map(|ceremony| ceremony.id),
            Kind::StrangerActs => {
                let none = [Code::NONE; 2];
                match (ceremony, self.random.u8(..3)) {
                    (Some(ceremony), 0) => {
                        self.order_at_table(AUDITOR, Command::CancelCeremony { id: ceremony.id }, none);
                    }
                    (Some(ceremony), 1) => {
                        let command = Command::AnswerCeremony { id: ceremony.id, yes: true, confirmed: true };
                        self.order_at_table(AUDITOR, command, none);
                    }
                    (_, _) => self.order_something(AUDITOR),
                }
            }
            Kind::CeremonyCancelled => {
                if let Some(ceremony) = ceremony {
                    self.cancel_by_somebody(&ceremony);
                }
            }
            Kind::CeremonyBeside => self.order_something(SECOND_ADMINISTRATOR),
            Kind::UnknownCardTicket => {
                let ticket = Ticket { slot: None, number: self.random.u32(..) };
                self.deliver(Input::Done { ticket, outcome: Outcome::Card(Ok(CardAnswer::Held)) });
            }
            Kind::PowerCutAtTable => {
                let (is_there, kept) = (self.random.bool(), self.random.bool());
                self.power_cut(is_there, kept);
            }
            // The others strike at a reader (`readers`).
            _ => {}
        }
    }

    fn bring(&mut self, reader: u8, manner: Manner) {
        if self.table.cards().count() < CARDS_MAX {
            let card = Card::with(self.random.u64(..).to_be_bytes(), 3, manner);
            self.table.drawer.push(card);
            self.put_in(reader, self.table.drawer.len() - 1);
        }
    }

    /// A card with a good share of another cluster.
    fn card_of_others(&mut self) -> Card {
        let mut seed = [0; 32];
        self.random.fill(&mut seed);
        let header = ShareHeader {
            kind: ShareKind::BackupKey,
            set_id: card_set::set_id(&card_set::public_key(&seed)),
            subject: [0xEE; 16],
            m: 2,
            n: 3,
            x: 1,
            generation: 1,
            created_s: 0,
            key_id: [7; 16],
        };
        let mut bytes = [0; RECORD_BYTES];
        record::write(&card_set::sign(&seed, &header, &[9; 32]), &[9; 32], &mut bytes);
        let mut card = Card::drawn(&mut self.random);
        card.put(Credential::BackupShare, RecordPlace::A, &bytes);
        card.point(Credential::BackupShare, Some(RecordPlace::A));
        card.set_pin(Credential::BackupShare, Code::new(b"271828182845"));
        card
    }

    /// Everything at the table is well again: readers plugged in, cards unblocked, and people
    /// who do what is asked.
    pub(crate) fn heal_table(&mut self) {
        self.table.helpful = true;
        self.table.request = None;
        for reader in 0..self.table.readers.len() {
            self.take_out(u8::try_from(reader).unwrap_or(u8::MAX));
            self.table.readers[reader].there = true;
        }
        self.table.drawer.retain(is_sound);
        for card in &mut self.table.drawer {
            if card.manner() != Manner::CountsEmptyVerify {
                card.behave(Manner::Proper);
            }
            for credential in Credential::ALL {
                card.set_tries_left(credential, 3);
            }
        }
    }

    /// A ceremony that is under way goes to its end.
    pub(crate) fn let_ceremony_end(&mut self) {
        let until_ms = self.now_ms + 60 * 60_000;
        while self.core.as_ref().is_some_and(|core| core.ceremony().is_some()) && self.step(until_ms) {}
    }

    /// People open a slot with the cards of its users, with this code where one is needed.
    pub(crate) fn open_with_cards(&mut self, slot: u8, code: Code) {
        let command = Command::Activate { slot: SlotId(slot), code: None, confirmed: true };
        self.table.visit_ms = self.now_ms + 100;
        self.order_at_table(ADMINISTRATOR, command, [code, Code::NONE]);
        let until_ms = self.now_ms + 60 * 60_000;
        while !self.table.orders.is_empty() && self.step(until_ms) {}
        if self.status(slot).is_some_and(|status| status.state == StateName::Active) {
            self.counts.cards.opened += 1;
        }
    }
}
