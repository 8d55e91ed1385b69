//! What the core orders at readers, performed by pads and cards, with the faults that are due.

use slotwarden_core::card::{CardAnswer, CardCall, CardFailure, Credential, ReaderEvent, ReaderId, StatusWord};
use slotwarden_core::effect::{Input, Outcome, Ticket};
use slotwarden_core::share::record::RecordProblem;

use crate::code::Code;
use crate::faults::{Kind, Step};
use crate::pin_pad::{Entry, Pull};
use crate::table::{PendingCard, is_sound};
use crate::terminal::{Performed, Y};
use crate::world::{Event, World};

/// An answer after every deadline of a reader (15 s; a dialogue 90 s).
const LATE_MS: std::ops::Range<u64> = 16_000..60_000;
/// The same for a dialogue.
const LATE_AT_PAD_MS: std::ops::Range<u64> = 91_000..140_000;
/// How long a reader stays unplugged.
const UNPLUGGED_MS: std::ops::Range<u64> = 500..60_000;

impl World {
    /// A call at a reader is ordered.
    pub(crate) fn card_call(&mut self, ticket: Ticket, reader: ReaderId, call: CardCall) {
        self.counts.cards.calls += 1;
        let y = match call {
            CardCall::Write { y, .. } => {
                let lent = self.core.as_ref().and_then(|core| core.with(y, |bytes| Y::try_from(bytes).ok())).flatten();
                if lent.is_none() {
                    return self.checkers.violated("P16", 0, "y was wiped before the call that writes it");
                }
                lent
            }
            _ => None,
        };
        self.check_dialogue(reader, &call);
        if let (CardCall::Hold, Some(place)) = (call, self.table.at(reader)) {
            (place.tries, place.agreed) = (None, false);
        }
        let there = self.table.at(reader).is_some_and(|place| place.there);
        if !there {
            let outcome = Outcome::Card(Err(CardFailure::ReaderGone));
            return self.schedule(1, Event::Answer(Input::Done { ticket, outcome }));
        }
        let fault = self.due(Step::at_reader(&call), 0);
        let Some(place) = self.table.at(reader) else { return };
        if place.pending.replace(PendingCard { ticket, call, y, fault }).is_some() {
            return self.checkers.violated("P44", 0, "two calls at one reader at once");
        }
        let wait_ms = self.random.u64(2..40);
        self.schedule(wait_ms, Event::CardCall(reader.0));
    }

    /// The reader carries out the call that waits for it.
    pub(crate) fn carry_out_at(&mut self, reader: u8) {
        let Some(pending) = self.table.at(ReaderId(reader)).and_then(|place| place.pending) else { return };
        let is_apdu = !matches!(pending.call, CardCall::Hold | CardCall::Release);
        if let Some(cut) = self.cut_is_due() {
            if cut.is_there() {
                self.perform_unanswered(reader, &pending);
            }
            let is_there = self.random.bool();
            return self.power_cut(is_there, cut.unsettled_is_kept());
        }
        let pull = |world: &mut World, pull| {
            if let Some(place) = world.table.at(ReaderId(reader)) {
                place.terminal.pad.pull(pull);
            }
        };
        match pending.fault {
            Some(Kind::CardPulledBefore) => self.take_out(reader),
            Some(Kind::CardPulledUnheard) => pull(self, Pull::Unheard(0)),
            Some(Kind::CardPulledAmid) => pull(self, Pull::Amid(0)),
            Some(Kind::ReaderLostInCall) => {
                if self.random.bool() {
                    self.perform_unanswered(reader, &pending);
                }
                return self.unplug(reader, Some(pending.ticket));
            }
            Some(Kind::CardHeldByOther) => return self.answer_at(reader, Err(CardFailure::InUse), None),
            Some(Kind::CardTransportBefore) => return self.answer_at(reader, Err(CardFailure::Transport), None),
            Some(Kind::CardGarbage) => {
                self.perform_unanswered(reader, &pending);
                return self.answer_at(reader, Err(CardFailure::Garbage), None);
            }
            Some(Kind::CardTransportAfter) => {
                self.perform_unanswered(reader, &pending);
                return self.answer_at(reader, Err(CardFailure::Transport), None);
            }
            Some(Kind::CardStrangeWord) => return self.answer_at(reader, Ok(strange(&pending.call)), None),
            Some(Kind::CardWrongAnswer) => {
                let wrong = if is_apdu {
                    CardAnswer::Held
                } else {
                    CardAnswer::Tries { status: StatusWord(0x9000), left: Some(3), serial: None }
                };
                return self.answer_at(reader, Ok(wrong), None);
            }
            Some(Kind::ReaderSilent) => {
                if self.random.bool() {
                    self.perform_unanswered(reader, &pending);
                }
                let plugged_ms = self.random.u64(60_000..300_000);
                return self.schedule(plugged_ms, Event::Heals(Kind::ReaderSilent, reader));
            }
            Some(Kind::PowerCutBeforeCard) => return self.power_goes(),
            Some(Kind::PowerCutAfterCard) => {
                self.perform_unanswered(reader, &pending);
                return self.power_goes();
            }
            Some(Kind::PowerCutAmidCard) => {
                pull(self, Pull::Amid(0));
                self.perform_unanswered(reader, &pending);
                self.hand_back(reader);
                return self.power_goes();
            }
            Some(Kind::DaemonKilledAtCard) => {
                self.perform_unanswered(reader, &pending);
                return self.daemon_killed();
            }
            Some(Kind::CardPulledAtPad) => {
                if let Some(place) = self.table.at(ReaderId(reader)) {
                    place.pulls_at_pad = true;
                }
            }
            Some(_) | None => {}
        }
        let performed = self.perform_at(reader, &pending);
        self.performed(reader, performed);
    }

    fn power_goes(&mut self) {
        let (is_there, kept) = (self.random.bool(), self.random.bool());
        self.power_cut(is_there, kept);
    }

    /// The call reaches the card; nobody hears of it. Whoever is at the pad types at once.
    fn perform_unanswered(&mut self, reader: u8, pending: &PendingCard) {
        let mut performed = self.perform_at(reader, pending);
        for _ in 0..8 {
            performed = match performed {
                Performed::Waits { .. } => {
                    self.type_at(reader, None);
                    let Some(place) = self.table.at(ReaderId(reader)) else { return };
                    if place.terminal.pad.expected() == 0 { place.terminal.time_out() } else { place.terminal.go_on() }
                }
                Performed::Hesitates(_) => {
                    let Some(place) = self.table.at(ReaderId(reader)) else { return };
                    place.terminal.go_on()
                }
                Performed::Ended(..) => return,
            };
        }
    }

    fn perform_at(&mut self, reader: u8, pending: &PendingCard) -> Performed {
        self.expect_to_spend(reader, pending);
        let Some(place) = self.table.at(ReaderId(reader)) else {
            return Performed::Ended(Err(CardFailure::ReaderGone), None);
        };
        place.dialogue += 1;
        place.serial = place.terminal.pad.card().map(|card| card.serial());
        place.terminal.pad.take_apdus();
        place.terminal.pad.forget();
        place.terminal.perform(&pending.call, pending.y.as_ref())
    }

    /// Notes what this call may do to the card, whoever hears of it.
    fn expect_to_spend(&mut self, reader: u8, pending: &PendingCard) {
        let Some(serial) = self.table.card_in(reader).map(|card| card.serial()) else { return };
        let torn = matches!(pending.fault, Some(Kind::CardPulledAmid | Kind::PowerCutAmidCard));
        let past = self.table.past(serial);
        match pending.call {
            CardCall::ChangePin { credential, .. } => {
                past.unknown[index(credential)] = true;
                past.wrong += u32::from(torn);
                self.counts.cards.dialogues += 1;
            }
            CardCall::Verify { .. } => {
                past.wrong += u32::from(torn);
                self.counts.cards.dialogues += 1;
            }
            _ => {}
        }
    }

    /// How far a call came.
    fn performed(&mut self, reader: u8, performed: Performed) {
        let Some(place) = self.table.at(ReaderId(reader)) else { return };
        let (dialogue, Some(pending)) = (place.dialogue, place.pending) else { return };
        match performed {
            Performed::Ended(result, y) => {
                if pending.fault == Some(Kind::CardPulledAfter) {
                    self.take_out(reader);
                }
                self.answer_at(reader, result, y);
            }
            Performed::Waits { timeout_ms } => {
                if std::mem::take(&mut place.pulls_at_pad) {
                    self.take_out(reader);
                    let soon_ms = self.random.u64(5..500);
                    return self.schedule(soon_ms, Event::PadGoesOn(reader, dialogue));
                }
                self.type_at(reader, pending.fault);
                let comes = self.table.at(ReaderId(reader)).is_some_and(|place| place.terminal.pad.expected() > 0);
                if comes {
                    let wait_ms = self.random.u64(200..4_000);
                    self.schedule(wait_ms, Event::PadGoesOn(reader, dialogue));
                } else {
                    self.schedule(u64::from(timeout_ms), Event::PadTimesOut(reader, dialogue));
                }
            }
            Performed::Hesitates(pause_ms) => self.schedule(u64::from(pause_ms), Event::PadGoesOn(reader, dialogue)),
        }
    }

    /// Somebody types, or has thought.
    pub(crate) fn pad_goes_on(&mut self, reader: u8, dialogue: u32) {
        let Some(place) = self.table.at(ReaderId(reader)).filter(|place| place.dialogue == dialogue) else { return };
        if place.terminal.asking().is_none() {
            return;
        }
        let performed = place.terminal.go_on();
        self.performed(reader, performed);
    }

    /// Nobody typed.
    pub(crate) fn pad_times_out(&mut self, reader: u8, dialogue: u32) {
        let Some(place) = self.table.at(ReaderId(reader)).filter(|place| place.dialogue == dialogue) else { return };
        if place.terminal.asking().is_none() {
            return;
        }
        let performed = if place.terminal.pad.has_card() { place.terminal.time_out() } else { place.terminal.go_on() };
        self.performed(reader, performed);
    }

    /// What the person at the pad does; nothing: nobody is there.
    fn type_at(&mut self, reader: u8, fault: Option<Kind>) {
        let helpful = self.table.helpful;
        let left = self.is_left();
        let new = Code::new(&std::array::from_fn::<u8, 12, _>(|_| b'0' + self.random.u8(..10)));
        let dice = if helpful { 100 } else { self.random.u8(..100) };
        let pause_ms = self.random.u32(100..3_000);
        let Some(place) = self.table.at(ReaderId(reader)) else { return };
        let (credential, change) = match place.pending.map(|pending| pending.call) {
            Some(CardCall::Verify { credential, .. }) => (credential, false),
            Some(CardCall::ChangePin { credential, .. }) => (credential, true),
            _ => return,
        };
        let Some(card) = place.terminal.pad.card() else { return };
        let (serial, right, tries) = (card.serial(), card.pin(credential), card.tries_left(credential));
        let wrong = Code::new(b"999999999999");
        // Of a change that nobody heard the end of they type the new PIN, and see.
        let (right, unsure) = match place.pending.map(|pending| pending.call) {
            Some(CardCall::Verify { .. }) => {
                self.table.doubted(serial, credential).map_or((right, false), |typed| (typed, typed != right))
            }
            _ => (right, false),
        };
        let Some(place) = self.table.at(ReaderId(reader)) else { return };
        let fault = match (fault, dice) {
            (Some(fault), _) => Some(fault),
            (None, 0..2) if tries > 1 => Some(Kind::WrongCardPin),
            (None, 2..3) => Some(Kind::PadCancelled),
            (None, 3..4) => Some(Kind::PadLength),
            (None, 4..5) if change => Some(Kind::PadMismatch),
            (None, 5..6) => Some(Kind::PersonWalksOff),
            (None, _) => None,
        };
        let pad = &mut place.terminal.pad;
        pad.forget();
        if left {
            return;
        }
        if dice < 12 {
            pad.expect(Entry::Hesitates(pause_ms));
        }
        let spends = fault == Some(Kind::WrongCardPin);
        match (fault, change) {
            (Some(Kind::PadTimesOut), _) => pad.expect(Entry::LetsTimePass),
            (Some(Kind::PersonWalksOff), _) => pad.forget(),
            (Some(Kind::PadCancelled), _) => pad.expect(Entry::Cancels),
            (Some(Kind::PadLength), _) => pad.expect(Entry::Types(Code::new(b"123"))),
            (Some(Kind::PadMismatch), _) => {
                pad.expect(Entry::Types(right));
                pad.expect(Entry::Types(new));
                pad.expect(Entry::Mistypes);
            }
            (fault, change) => {
                pad.expect(Entry::Types(if fault == Some(Kind::WrongCardPin) { wrong } else { right }));
                if change {
                    pad.expect(Entry::Types(new));
                    pad.expect(Entry::Types(new));
                }
            }
        }
        let past = self.table.past(serial);
        past.wrong += u32::from(spends || unsure);
        if change {
            past.typed[index(credential)] = new;
        }
        self.table.pins.extend([right, new].into_iter().filter(|pin| pin.bytes().len() > 6));
    }

    /// The call at a reader ended so; its answer is on its way.
    fn answer_at(&mut self, reader: u8, result: Result<CardAnswer, CardFailure>, y: Option<Y>) {
        let Some(pending) = self.table.at(ReaderId(reader)).and_then(|place| place.pending.take()) else { return };
        self.came_out(reader);
        if let Some(place) = self.table.at(ReaderId(reader)).filter(|place| place.terminal.pad.has_card()) {
            // Whoever was to pull the card does not any more.
            place.terminal.pad.pull(Pull::AfterApdus(u32::MAX));
        }
        let at_pad = matches!(pending.call, CardCall::Verify { .. } | CardCall::ChangePin { .. });
        let wait_ms = match pending.fault {
            Some(Kind::CardLateAnswer) if at_pad => self.random.u64(LATE_AT_PAD_MS),
            Some(Kind::CardLateAnswer) => self.random.u64(LATE_MS),
            _ => 1,
        };
        let y = y.map_or(Code::NONE, |y| Code::new(&y));
        let call = pending.call;
        let answer = Event::CardAnswer { reader, ticket: pending.ticket, call, result, y };
        self.schedule(wait_ms, answer);
        if pending.fault == Some(Kind::CardAnswerTwice) {
            let again_ms = self.random.u64(1..500);
            self.schedule(wait_ms + again_ms, answer);
        }
    }

    /// An answer reaches the core: y goes back into its place.
    pub(crate) fn card_answered(
        &mut self,
        reader: u8,
        (ticket, call): (Ticket, CardCall),
        result: Result<CardAnswer, CardFailure>,
        y: &Code,
    ) {
        let mut result = result;
        if let (CardCall::Read { y: into, .. }, false) = (call, y.is_none())
            && let Some(core) = &mut self.core
            && !core.refill(into, |place| y.write(place))
        {
            result = Err(CardFailure::Garbage);
        }
        self.hear(reader, &call, &result);
        self.deliver(Input::Done { ticket, outcome: Outcome::Card(result) });
    }

    /// What the service heard of a card's PIN.
    fn hear(&mut self, reader: u8, call: &CardCall, result: &Result<CardAnswer, CardFailure>) {
        let Some(place) = self.table.at(ReaderId(reader)) else { return };
        let serial = place.serial;
        match (call, result) {
            (CardCall::Tries { .. }, Ok(CardAnswer::Tries { left, .. })) => place.tries = Some(*left),
            (CardCall::Verify { .. } | CardCall::ChangePin { .. }, Ok(CardAnswer::Pin { status })) => {
                place.agreed = false;
                if status.0 & 0xFFF0 == 0x63C0 {
                    place.tries = Some(Some((status.0 & 0x0F) as u8));
                }
                if status.0 == 0x9000 {
                    // A good PIN gives all tries back.
                    place.tries = Some(None);
                }
                let told = matches!(status.0, 0x9000 | 0x6400..=0x6403 | 0x63C0..=0x63CF | 0x6983);
                if let (true, Some(serial)) = (told, serial) {
                    let (credential, change) = match call {
                        CardCall::ChangePin { credential, .. } => (*credential, true),
                        CardCall::Verify { credential, .. } => (*credential, false),
                        _ => return,
                    };
                    if change || matches!(status.0, 0x9000 | 0x63C0..=0x63CF | 0x6983) {
                        self.table.past(serial).unknown[index(credential)] = false;
                    }
                }
            }
            _ => {}
        }
    }

    /// Something happens at a reader without an order.
    pub(crate) fn reader_tells(&mut self, reader: u8, event: ReaderEvent) {
        let there = self.table.at(ReaderId(reader)).is_some_and(|place| place.there);
        if there || event == ReaderEvent::Lost {
            self.deliver(Input::Reader { reader: ReaderId(reader), event });
        }
    }

    /// A card was pulled by itself: it lies in the drawer, and the reader tells.
    fn came_out(&mut self, reader: u8) {
        let Some(place) = self.table.at(ReaderId(reader)) else { return };
        if place.terminal.pad.has_card() {
            return;
        }
        if let Some(card) = place.terminal.pad.remove() {
            self.table.last = Some(card.serial());
            self.table.drawer.push(card);
            let soon_ms = self.random.u64(1..300);
            self.schedule(soon_ms, Event::ReaderTells(reader, ReaderEvent::CardOut));
        }
    }

    /// A card that lost power in the middle of a command is still in the reader.
    fn hand_back(&mut self, reader: u8) {
        let Some(place) = self.table.at(ReaderId(reader)) else { return };
        if let Some(card) = place.terminal.pad.remove() {
            place.terminal.pad.insert(card);
        }
    }

    /// Somebody takes the card out.
    pub(crate) fn take_out(&mut self, reader: u8) {
        let Some(place) = self.table.at(ReaderId(reader)) else { return };
        let asking = place.terminal.asking().is_some().then_some(place.dialogue);
        if let Some(card) = place.terminal.pad.remove() {
            self.table.last = Some(card.serial());
            self.table.drawer.push(card);
            self.schedule(1, Event::ReaderTells(reader, ReaderEvent::CardOut));
        }
        if let Some(dialogue) = asking {
            self.schedule(2, Event::PadGoesOn(reader, dialogue));
        }
    }

    /// Somebody puts a card of the drawer in.
    pub(crate) fn put_in(&mut self, reader: u8, card: usize) {
        self.take_out(reader);
        if card >= self.table.drawer.len() {
            return;
        }
        let card = self.table.drawer.remove(card);
        let Some(place) = self.table.at(ReaderId(reader)) else { return };
        place.terminal.pad.insert(card);
        let soon_ms = self.random.u64(2..100);
        self.schedule(soon_ms, Event::ReaderTells(reader, ReaderEvent::CardIn));
    }

    /// A reader is unplugged; it comes back after a while. A call in it ends so.
    pub(crate) fn unplug(&mut self, reader: u8, call: Option<Ticket>) {
        let Some(place) = self.table.at(ReaderId(reader)) else { return };
        place.there = false;
        place.pending = None;
        place.dialogue += 1;
        place.terminal.pad.power_off();
        place.terminal.pad.forget();
        if let Some(ticket) = call {
            let outcome = Outcome::Card(Err(CardFailure::ReaderGone));
            self.schedule(1, Event::Answer(Input::Done { ticket, outcome }));
        }
        self.came_out(reader);
        let told_ms = self.random.u64(1..50);
        self.schedule(told_ms, Event::ReaderTells(reader, ReaderEvent::Lost));
        let back_ms = told_ms + self.random.u64(UNPLUGGED_MS);
        self.schedule(back_ms, Event::Heals(Kind::ReaderUnplugged, reader));
    }

    /// A reader is there again.
    pub(crate) fn plug_in(&mut self, reader: u8) {
        let Some(place) = self.table.at(ReaderId(reader)) else { return };
        if std::mem::replace(&mut place.there, true) {
            return;
        }
        if self.core.is_some() {
            self.tell_of_reader(reader);
        }
    }

    /// Every reader is connected again.
    pub(crate) fn plug_all_in(&mut self) {
        (0..2).for_each(|reader| self.plug_in(reader));
    }

    /// The daemon finds a reader, and the card in it.
    pub(crate) fn tell_of_reader(&mut self, reader: u8) {
        let Some(place) = self.table.at(ReaderId(reader)).filter(|place| place.there) else { return };
        let has_card = place.terminal.pad.has_card();
        self.schedule(1, Event::ReaderTells(reader, ReaderEvent::Found));
        if has_card {
            self.schedule(2, Event::ReaderTells(reader, ReaderEvent::CardIn));
        }
    }

    /// The readers lose power, or whoever used them: nothing is verified or asked any more.
    pub(crate) fn readers_reset(&mut self) {
        for reader in 0..self.table.readers.len() {
            let place = &mut self.table.readers[reader];
            place.pending = None;
            place.dialogue += 1;
            (place.tries, place.agreed, place.pulls_at_pad) = (None, false, false);
            place.terminal.pad.power_off();
            place.terminal.pad.forget();
            let number = u8::try_from(reader).unwrap_or(u8::MAX);
            self.came_out(number);
            // A dialogue that is under way ends with its host.
            let _ended = self.table.readers[reader].terminal.perform(&CardCall::Release, None);
        }
        self.table.orders.clear();
        self.table.watched = None;
        self.table.left = None;
        self.table.read.clear();
        self.table.read_x.clear();
    }

    /// Whether everybody left the ceremony that is under way.
    pub(crate) fn is_left(&self) -> bool {
        let id = self.core.as_ref().and_then(|core| core.ceremony()).map(|ceremony| ceremony.id());
        id.is_some() && id == self.table.left
    }

    /// How many tries cards lost that no person spent (P5).
    pub(crate) fn check_tries(&mut self) {
        let mut broken = false;
        for card in self.table.cards().filter(|card| is_sound(card)) {
            let counts_itself = card.manner() == crate::cards::Manner::CountsEmptyVerify;
            let past = self.table.pasts.iter().find(|(of, _)| *of == card.serial()).map(|(_, past)| past.wrong);
            broken |= !counts_itself && card.tries_spent() > past.unwrap_or(0);
        }
        if broken {
            self.checkers.violated("P5", 0, "a card lost a try that no person spent");
        }
    }
}

/// The place of a credential in what is remembered of a card.
pub(crate) fn index(credential: Credential) -> usize {
    match credential {
        Credential::BackupShare => 0,
        Credential::SlotUser => 1,
        Credential::HsmAdministrator => 2,
    }
}

/// 6F00 to a call.
fn strange(call: &CardCall) -> CardAnswer {
    let status = StatusWord(0x6F00);
    match call {
        CardCall::Hold => CardAnswer::Held,
        CardCall::Select { .. } => CardAnswer::Selected { status, found: None },
        CardCall::Tries { .. } => CardAnswer::Tries { status, left: None, serial: None },
        CardCall::Verify { .. } | CardCall::ChangePin { .. } => CardAnswer::Pin { status },
        CardCall::Read { .. } => CardAnswer::Read { status, record: Err(RecordProblem::Missing) },
        CardCall::Write { .. } | CardCall::Point { .. } | CardCall::Erase { .. } => CardAnswer::Written { status },
        CardCall::Release => CardAnswer::Released,
    }
}
