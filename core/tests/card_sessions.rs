//! Card sessions with honest cards, cards that are pulled, and cards, readers and platforms that
//! say anything at any time.

// A test that panics has found something; the lints are for the rules.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![allow(clippy::std_instead_of_core, clippy::wildcard_enum_match_arm)]

use proptest::prelude::*;
use slotwarden_core::Now;
use slotwarden_core::card::session::{
    CardOut, CardProblem, CardSession, PadEnd, SessionEvent, SessionOrder, SessionReport, SessionTurn, State,
    deadline_ms,
};
use slotwarden_core::card::{
    CardAnswer, CardCall, CardFailure, CardSerial, Credential, ProfileId, ReaderEvent, ReaderId, RecordPlace, Selected,
    StatusWord,
};
use slotwarden_core::effect::Ticket;
use slotwarden_core::safe::SecretId;
use slotwarden_core::share::record::{RecordProblem, ShareHeader, ShareKind, SignedHeader};

const Y: SecretId = SecretId::NONE;
const IDENTIFY: SessionOrder = SessionOrder::Identify { credential: Credential::BackupShare };

fn signed(generation: u32) -> SignedHeader {
    let header = ShareHeader {
        kind: ShareKind::BackupKey,
        set_id: [1; 16],
        subject: [2; 16],
        m: 2,
        n: 3,
        x: 1,
        generation,
        created_s: 5,
        key_id: [6; 16],
    };
    SignedHeader { header, public_key: [7; 32], signature: [8; 64] }
}

const fn write(record: SignedHeader) -> SessionOrder {
    SessionOrder::Write { record, y: Y, y_back: Y }
}

fn serial() -> CardSerial {
    CardSerial::new(&[0xCA, 0x4D]).expect("two bytes")
}

/// A reader and its session: one call at a time, checked.
struct Reader {
    session: CardSession,
    out: Out,
    now_ms: u64,
}

#[derive(Default)]
struct Out {
    under_way: Option<(Ticket, CardCall)>,
    log: Vec<CardCall>,
}

impl CardOut for Out {
    fn call(&mut self, reader: ReaderId, call: CardCall) -> Ticket {
        assert_eq!(reader, ReaderId(3));
        assert_eq!(self.under_way, None, "{call:?} while another call is unanswered");
        let ticket = Ticket { slot: None, number: u32::try_from(self.log.len()).expect("few") };
        self.under_way = Some((ticket, call));
        self.log.push(call);
        ticket
    }
}

impl Reader {
    fn new() -> Reader {
        Reader { session: CardSession::new(ReaderId(3)), out: Out::default(), now_ms: 0 }
    }

    fn with_card() -> Reader {
        let mut reader = Reader::new();
        assert_eq!(reader.event(SessionEvent::Reader(ReaderEvent::Found)), None);
        assert_eq!(reader.event(SessionEvent::Reader(ReaderEvent::CardIn)), None);
        reader
    }

    fn event(&mut self, event: SessionEvent) -> Option<SessionReport> {
        let mut report = None;
        let now = Now { mono_ms: self.now_ms, wall_s: None };
        self.session.handle(event, &mut SessionTurn { now, out: &mut self.out, report: &mut report });
        report
    }

    fn order(&mut self, order: SessionOrder) -> Option<SessionReport> {
        self.event(SessionEvent::Order(order))
    }

    fn answer(&mut self, answer: Result<CardAnswer, CardFailure>) -> Option<SessionReport> {
        let (ticket, _) = self.out.under_way.take().expect("a call is under way");
        self.event(SessionEvent::Done(ticket, answer))
    }

    /// Orders a step and lets the card answer until it is reported.
    fn step(&mut self, order: SessionOrder, card: &mut Card) -> SessionReport {
        let mut report = self.order(order);
        while report.is_none() {
            let (_, call) = self.out.under_way.expect("a step under way with an inserted card has a call");
            let answer = card.answer(&call);
            report = self.answer(answer);
        }
        report.expect("the loop ended")
    }

    /// The names of the calls since the last time.
    fn calls(&mut self) -> Vec<String> {
        self.out.log.drain(..).map(|call| name(&call)).collect()
    }
}

fn name(call: &CardCall) -> String {
    let text = format!("{call:?}");
    text.split(' ').next().expect("split yields at least one part").to_owned()
}

/// When a card is pulled: before a call is carried out, while it is, just after.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pulled {
    Before,
    During,
    After,
}

/// An honest card that can be pulled at one of its calls, counting from 1. Pulled while a record is
/// being written it has none at that place; everything else is done or not.
#[derive(Clone)]
struct Card {
    profile: ProfileId,
    places: [Option<SignedHeader>; 2],
    in_force: Option<RecordPlace>,
    tries: u8,
    /// What people type next: the PIN, or how the pad ends.
    typed: Vec<u16>,
    verified: bool,
    calls: usize,
    pulled_at: Option<(usize, Pulled)>,
}

impl Card {
    fn new(profile: ProfileId) -> Card {
        let (places, in_force) = ([None, None], None);
        Card { profile, places, in_force, tries: 3, typed: vec![], verified: false, calls: 0, pulled_at: None }
    }

    fn with_record(profile: ProfileId, record: SignedHeader) -> Card {
        Card { places: [Some(record), None], in_force: Some(RecordPlace::A), ..Card::new(profile) }
    }

    fn place(&mut self, place: RecordPlace) -> &mut Option<SignedHeader> {
        match place {
            RecordPlace::A => &mut self.places[0],
            RecordPlace::B => &mut self.places[1],
        }
    }

    /// The record that the card has, as the next one sees it who identifies it.
    fn record(&mut self) -> Option<SignedHeader> {
        match self.profile {
            ProfileId::Iso7816Files => self.in_force.and_then(|place| *self.place(place)),
            ProfileId::OpenPgp => self.places[0],
        }
    }

    fn answer(&mut self, call: &CardCall) -> Result<CardAnswer, CardFailure> {
        if *call == CardCall::Release {
            return Ok(CardAnswer::Released);
        }
        self.calls += 1;
        let pulled = self.pulled_at.filter(|(at, _)| *at <= self.calls);
        if let Some((at, moment)) = pulled {
            match (*call, moment) {
                _ if at < self.calls => {}
                (_, Pulled::After) => drop(self.carry_out(call)),
                (CardCall::Write { place, .. }, Pulled::During) => *self.place(place) = None,
                (_, Pulled::Before | Pulled::During) => {}
            }
            return Err(CardFailure::CardGone);
        }
        Ok(self.carry_out(call))
    }

    fn carry_out(&mut self, call: &CardCall) -> CardAnswer {
        let status = |word| StatusWord(word);
        let open = status(if self.verified { 0x9000 } else { 0x6982 });
        match *call {
            CardCall::Hold => CardAnswer::Held,
            CardCall::Select { profile, .. } if profile != self.profile => {
                CardAnswer::Selected { status: status(0x6A82), found: None }
            }
            CardCall::Select { profile: ProfileId::Iso7816Files, .. } => {
                let header = self.record().map(|record| record.header);
                let found = Some(Selected { serial: Some(serial()), place: self.in_force, header });
                CardAnswer::Selected { status: StatusWord::OK, found }
            }
            CardCall::Select { profile: ProfileId::OpenPgp, .. } => {
                let found = Some(Selected { serial: None, place: None, header: None });
                CardAnswer::Selected { status: StatusWord::OK, found }
            }
            CardCall::Tries { .. } => {
                CardAnswer::Tries { status: StatusWord::OK, left: Some(self.tries), serial: Some(serial()) }
            }
            CardCall::Verify { .. } | CardCall::ChangePin { .. } => {
                let word = self.typed.pop().expect("somebody types");
                if word == 0x6300 {
                    self.tries -= 1;
                }
                self.verified |= word == 0x9000;
                CardAnswer::Pin { status: status(word) }
            }
            CardCall::Read { place, .. } => {
                let record = self.place(place).ok_or(RecordProblem::NotOurs);
                CardAnswer::Read {
                    status: open,
                    record: if self.verified { record } else { Err(RecordProblem::Missing) },
                }
            }
            CardCall::Write { place, record, .. } => {
                *self.place(place) = Some(record);
                CardAnswer::Written { status: open }
            }
            CardCall::Point { place, .. } => {
                self.in_force = place;
                CardAnswer::Written { status: open }
            }
            CardCall::Erase { place, .. } => {
                *self.place(place) = None;
                CardAnswer::Written { status: open }
            }
            CardCall::Release => CardAnswer::Released,
        }
    }
}

fn identified(reader: &mut Reader, card: &mut Card) {
    let report = reader.step(IDENTIFY, card);
    assert!(matches!(report, SessionReport::Identified(_)), "{report:?}");
}

#[test]
fn orders_without_a_reader_or_a_card_are_refused() {
    let orders = [SessionOrder::VerifyPin, SessionOrder::ChangePin, SessionOrder::Read { y: Y }, write(signed(2))];
    let mut reader = Reader::new();
    for order in orders.into_iter().chain([IDENTIFY, SessionOrder::Erase, SessionOrder::Remove, SessionOrder::Cancel]) {
        assert_eq!(reader.order(order), Some(SessionReport::Failed(CardProblem::ReaderGone)));
    }
    let mut reader = Reader::with_card();
    for order in orders.into_iter().chain([SessionOrder::Erase]) {
        assert_eq!(reader.order(order), Some(SessionReport::Failed(CardProblem::NotNow)));
    }
    assert_eq!(reader.calls(), Vec::<String>::new());
}

#[test]
fn a_share_is_read_with_three_commands_and_the_question_about_tries() {
    for (profile, selections) in [(ProfileId::Iso7816Files, 1), (ProfileId::OpenPgp, 2)] {
        let mut card = Card::with_record(profile, signed(1));
        card.typed = vec![0x9000];
        let mut reader = Reader::with_card();
        identified(&mut reader, &mut card);
        assert_eq!(reader.step(SessionOrder::VerifyPin, &mut card), SessionReport::PinAccepted);
        assert_eq!(reader.step(SessionOrder::Read { y: Y }, &mut card), SessionReport::RecordRead(Ok(signed(1))));
        let expected = [&["Hold"][..], &["Select"; 2][..selections], &["Tries", "Verify", "Read"]].concat();
        assert_eq!(reader.calls(), expected, "{profile:?}");
    }
}

#[test]
fn a_record_is_written_beside_the_one_in_force_and_read_back() {
    let mut card = Card::with_record(ProfileId::Iso7816Files, signed(1));
    card.typed = vec![0x9000];
    let mut reader = Reader::with_card();
    identified(&mut reader, &mut card);
    assert_eq!(reader.step(SessionOrder::VerifyPin, &mut card), SessionReport::PinAccepted);
    assert_eq!(reader.step(write(signed(2)), &mut card), SessionReport::Written);
    assert_eq!(reader.calls(), ["Hold", "Select", "Tries", "Verify", "Write", "Point", "Read"]);
    assert_eq!(card.places, [Some(signed(1)), Some(signed(2))]);
    let held = reader.session.held().expect("a card is held");
    assert_eq!((held.place, held.header), (Some(RecordPlace::B), Some(signed(2).header)));

    // The next one takes the other place again.
    assert_eq!(reader.step(write(signed(3)), &mut card), SessionReport::Written);
    assert_eq!(card.places, [Some(signed(3)), Some(signed(2))]);
}

#[test]
fn an_erased_card_has_a_record_at_no_place() {
    for profile in ProfileId::ALL {
        let mut card = Card::with_record(profile, signed(1));
        if profile == ProfileId::Iso7816Files {
            card.places[1] = Some(signed(0));
        }
        card.typed = vec![0x9000];
        let mut reader = Reader::with_card();
        identified(&mut reader, &mut card);
        assert_eq!(reader.step(SessionOrder::VerifyPin, &mut card), SessionReport::PinAccepted);
        assert_eq!(reader.step(SessionOrder::Erase, &mut card), SessionReport::Erased);
        assert_eq!((card.places, card.record()), ([None, None], None));
    }
}

#[test]
fn p04_after_a_wrong_pin_the_tries_are_known_before_anybody_types_again() {
    let mut card = Card::new(ProfileId::OpenPgp);
    card.typed = vec![0x9000, 0x6300];
    let mut reader = Reader::with_card();
    identified(&mut reader, &mut card);
    assert_eq!(reader.step(SessionOrder::VerifyPin, &mut card), SessionReport::PinWrong { left: Some(2) });
    assert_eq!(reader.session.held().and_then(|held| held.tries_left), Some(2));
    assert_eq!(reader.step(SessionOrder::VerifyPin, &mut card), SessionReport::PinAccepted);
    let calls = reader.calls();
    assert_eq!(calls[3..], ["Tries", "Verify", "Tries", "Verify"]);
}

#[test]
fn p05_nothing_is_repeated_after_the_pad_ended_without_a_pin() {
    for (word, end) in
        [(0x6400, PadEnd::TimedOut), (0x6401, PadEnd::Cancelled), (0x6402, PadEnd::Mismatch), (0x6403, PadEnd::Length)]
    {
        let mut card = Card::new(ProfileId::Iso7816Files);
        card.typed = vec![word];
        let mut reader = Reader::with_card();
        identified(&mut reader, &mut card);
        reader.calls();
        assert_eq!(reader.step(SessionOrder::ChangePin, &mut card), SessionReport::PadEnded(end));
        assert_eq!(reader.calls(), ["ChangePin"]);
    }
}

#[test]
fn p07_a_card_pulled_while_its_pin_is_changed_has_the_old_or_the_new_one() {
    for moment in [Pulled::Before, Pulled::During, Pulled::After] {
        let mut card = Card { pulled_at: Some((4, moment)), ..Card::new(ProfileId::Iso7816Files) };
        card.typed = vec![0x9000];
        let mut reader = Reader::with_card();
        identified(&mut reader, &mut card);
        assert_eq!(reader.step(SessionOrder::ChangePin, &mut card), SessionReport::PinOldOrNew);
        assert_eq!(reader.session.held(), None);
    }
}

#[test]
fn p15_a_card_pulled_at_any_moment_of_a_write_has_the_old_record_the_new_one_or_none() {
    for profile in ProfileId::ALL {
        for at in 1..=9 {
            for moment in [Pulled::Before, Pulled::During, Pulled::After] {
                let mut card = Card::with_record(profile, signed(1));
                card.typed = vec![0x9000];
                card.pulled_at = Some((at, moment));
                let mut reader = Reader::with_card();
                let mut report = SessionReport::Written;
                for order in [IDENTIFY, SessionOrder::VerifyPin, write(signed(2))] {
                    report = match reader.order(order) {
                        Some(report) => report,
                        None => loop {
                            let Some((_, call)) = reader.out.under_way else {
                                // Nothing was held yet: the next card is waited for.
                                break reader.order(SessionOrder::Cancel).expect("nothing is under way");
                            };
                            let answer = card.answer(&call);
                            if let Some(report) = reader.answer(answer) {
                                break report;
                            }
                        },
                    };
                    if matches!(report, SessionReport::Failed(_) | SessionReport::Cancelled) {
                        break;
                    }
                }
                let record = card.record();
                // A card with one place may lose what it had; never has it half of a record.
                let none = record.is_none() && profile == ProfileId::OpenPgp && moment == Pulled::During;
                let whole = record == Some(signed(1)) || record == Some(signed(2));
                assert!(whole || none, "{profile:?} {at} {moment:?}: {record:?}");
                match report {
                    SessionReport::Written => assert_eq!(record, Some(signed(2))),
                    SessionReport::Failed(CardProblem::CardGone) | SessionReport::Cancelled => {
                        assert_eq!(record, Some(signed(1)), "{profile:?} {at} {moment:?}: nothing was written yet");
                    }
                    other => assert_eq!(other, SessionReport::Failed(CardProblem::TornWrite)),
                }
                assert!(reader.session.held().is_none() || report == SessionReport::Written);
            }
        }
    }
}

#[test]
fn what_is_read_back_must_be_what_was_written() {
    let mut card = Card::with_record(ProfileId::Iso7816Files, signed(1));
    card.typed = vec![0x9000];
    let mut reader = Reader::with_card();
    identified(&mut reader, &mut card);
    assert_eq!(reader.step(SessionOrder::VerifyPin, &mut card), SessionReport::PinAccepted);
    assert_eq!(reader.order(write(signed(2))), None);
    for _ in ["Write", "Point"] {
        assert_eq!(reader.answer(Ok(CardAnswer::Written { status: StatusWord::OK })), None);
    }
    let other = CardAnswer::Read { status: StatusWord::OK, record: Ok(signed(1)) };
    assert_eq!(reader.answer(Ok(other)), None);
    assert_eq!(reader.answer(Ok(CardAnswer::Released)), Some(SessionReport::Failed(CardProblem::ReadBackDiffers)));
}

#[test]
fn a_card_that_was_to_be_removed_is_nobodys_next_card() {
    let mut card = Card::new(ProfileId::Iso7816Files);
    let mut reader = Reader::with_card();
    identified(&mut reader, &mut card);
    assert_eq!(reader.order(SessionOrder::Remove), None);
    assert_eq!(reader.answer(Ok(CardAnswer::Released)), None);
    assert_eq!(reader.session.due_ms(), Some(120_000));
    assert_eq!(reader.event(SessionEvent::DeadlinePassed), Some(SessionReport::Failed(CardProblem::NotRemoved)));
    assert_eq!(reader.order(IDENTIFY), None);
    assert_eq!(reader.session.due_ms(), Some(300_000), "a card is waited for, though one is there");
    assert_eq!(reader.event(SessionEvent::Reader(ReaderEvent::CardOut)), None);
    assert_eq!(reader.event(SessionEvent::Reader(ReaderEvent::CardIn)), None);
    assert!(matches!(reader.session.state(), State::Holding { .. }));
}

#[test]
fn a_reader_that_gives_no_answer_takes_no_orders_until_it_was_heard() {
    let mut card = Card::new(ProfileId::Iso7816Files);
    let mut reader = Reader::with_card();
    identified(&mut reader, &mut card);
    assert_eq!(reader.order(SessionOrder::VerifyPin), None);
    let (_, call) = reader.out.under_way.expect("the pad has the dialogue");
    assert_eq!(deadline_ms(&call), 90_000);
    assert_eq!(reader.event(SessionEvent::DeadlinePassed), Some(SessionReport::Failed(CardProblem::Unanswered)));
    for order in [IDENTIFY, SessionOrder::VerifyPin, SessionOrder::Cancel] {
        assert_eq!(reader.order(order), Some(SessionReport::Failed(CardProblem::Unanswered)));
    }
    // A reader that goes and comes back still owes its answer.
    assert_eq!(reader.event(SessionEvent::Reader(ReaderEvent::Lost)), None);
    assert_eq!(reader.event(SessionEvent::Reader(ReaderEvent::Found)), None);
    assert_eq!(reader.order(IDENTIFY), Some(SessionReport::Failed(CardProblem::Unanswered)));
    // A PIN that was accepted too late is of no use: the card is reset.
    assert_eq!(reader.answer(Ok(CardAnswer::Pin { status: StatusWord::OK })), None);
    assert_eq!(reader.answer(Ok(CardAnswer::Released)), None);
    assert_eq!(reader.session.state(), State::Idle);
}

#[test]
fn a_cancelled_dialogue_is_waited_for_and_believed() {
    for (word, expected) in [
        (0x9000, SessionReport::PinChanged),
        (0x63C1, SessionReport::PinWrong { left: Some(1) }),
        (0x6401, SessionReport::Cancelled),
    ] {
        let mut card = Card::new(ProfileId::Iso7816Files);
        let mut reader = Reader::with_card();
        identified(&mut reader, &mut card);
        assert_eq!(reader.order(SessionOrder::ChangePin), None);
        assert_eq!(reader.order(SessionOrder::Cancel), None);
        let mut report = reader.answer(Ok(CardAnswer::Pin { status: StatusWord(word) }));
        if report.is_none() {
            report = reader.answer(Ok(CardAnswer::Released));
        }
        assert_eq!(report, Some(expected));
        assert_eq!(reader.session.held().is_some(), expected != SessionReport::Cancelled);
    }
}

/// One thing that may happen.
#[derive(Clone, Copy, Debug)]
enum Happens {
    Reader(ReaderEvent),
    Order(SessionOrder),
    /// An answer to the call under way, if there is one: honest, or this.
    Answer(Option<Result<CardAnswer, CardFailure>>),
    Stale(Result<CardAnswer, CardFailure>),
    Deadline,
}

fn an_order() -> impl Strategy<Value = SessionOrder> {
    prop::sample::select(vec![
        IDENTIFY,
        IDENTIFY,
        SessionOrder::VerifyPin,
        SessionOrder::VerifyPin,
        SessionOrder::ChangePin,
        SessionOrder::Read { y: Y },
        write(signed(2)),
        write(signed(3)),
        SessionOrder::Erase,
        SessionOrder::Remove,
        SessionOrder::Cancel,
    ])
}

fn a_word() -> impl Strategy<Value = StatusWord> {
    let usual = vec![0x9000, 0x9000, 0x6100, 0x63C0, 0x63C2, 0x6300, 0x6400, 0x6401, 0x6402, 0x6700, 0x6982, 0x6983];
    prop_oneof![3 => prop::sample::select(usual), 1 => any::<u16>()].prop_map(StatusWord)
}

fn an_answer() -> impl Strategy<Value = Result<CardAnswer, CardFailure>> {
    let selected = Selected { serial: Some(serial()), place: Some(RecordPlace::B), header: None };
    let record = prop_oneof![
        Just(Ok(signed(2))),
        Just(Ok(signed(1))),
        Just(Err(RecordProblem::Missing)),
        Just(Err(RecordProblem::Forged)),
    ];
    let failure = prop::sample::select(vec![
        CardFailure::CardGone,
        CardFailure::InUse,
        CardFailure::ReaderGone,
        CardFailure::Transport,
        CardFailure::Garbage,
    ]);
    prop_oneof![
        Just(Ok(CardAnswer::Held)),
        Just(Ok(CardAnswer::Released)),
        (a_word(), any::<bool>())
            .prop_map(move |(status, found)| Ok(CardAnswer::Selected { status, found: found.then_some(selected) })),
        (a_word(), prop::option::of(any::<u8>()), any::<bool>())
            .prop_map(|(status, left, told)| Ok(CardAnswer::Tries { status, left, serial: told.then(serial) })),
        a_word().prop_map(|status| Ok(CardAnswer::Pin { status })),
        (a_word(), record).prop_map(|(status, record)| Ok(CardAnswer::Read { status, record })),
        a_word().prop_map(|status| Ok(CardAnswer::Written { status })),
        failure.prop_map(Err),
    ]
}

fn happens() -> impl Strategy<Value = Happens> {
    let reader = prop::sample::select(vec![
        ReaderEvent::Found,
        ReaderEvent::CardIn,
        ReaderEvent::CardIn,
        ReaderEvent::CardOut,
        ReaderEvent::Lost,
    ]);
    prop_oneof![
        1 => reader.prop_map(Happens::Reader),
        4 => an_order().prop_map(Happens::Order),
        8 => Just(Happens::Answer(None)),
        3 => an_answer().prop_map(|answer| Happens::Answer(Some(answer))),
        1 => an_answer().prop_map(Happens::Stale),
        1 => Just(Happens::Deadline),
    ]
}

/// What the promises say, counted beside the session.
#[derive(Default)]
struct Promised {
    verify_orders: usize,
    change_orders: usize,
    verify_calls: usize,
    change_calls: usize,
    /// Whether the tries were told in this hold, and since the last PIN that was wrong without a count.
    tries_told: bool,
    holds: bool,
    changed: bool,
}

/// Lets all of it happen, and checks every promise at every step.
fn run(profile: ProfileId, all: &[Happens], typed: &[u16]) -> Result<(), TestCaseError> {
    let mut reader = Reader::with_card();
    let mut card = Card::with_record(profile, signed(1));
    card.typed = typed.to_vec();
    let mut promised = Promised::default();
    for happens in all {
        let under_way = reader.session.is_under_way();
        let calls_before = reader.out.log.len();
        let mut expected = 0;
        let report = match *happens {
            Happens::Reader(event) => {
                if event == ReaderEvent::Lost {
                    promised.holds = false;
                }
                reader.event(SessionEvent::Reader(event))
            }
            Happens::Order(order) => {
                promised.verify_orders += usize::from(order == SessionOrder::VerifyPin);
                promised.change_orders += usize::from(order == SessionOrder::ChangePin);
                expected = usize::from(order != SessionOrder::Cancel || !under_way);
                reader.order(order)
            }
            Happens::Answer(answer) => {
                let Some((_, call)) = reader.out.under_way else { continue };
                card.typed.extend(card.typed.is_empty().then_some(0x6300));
                card.tries = card.tries.max(1);
                let answer = answer.unwrap_or_else(|| card.answer(&call));
                let there = !matches!(reader.session.state(), State::NoReader { .. });
                match (call, answer) {
                    // Whoever says so has let go, whatever was asked.
                    (CardCall::Release, _) | (_, Ok(CardAnswer::Released) | Err(CardFailure::ReaderGone)) => {
                        promised.holds = false;
                    }
                    (CardCall::Hold, Ok(_)) => promised.holds = there,
                    (CardCall::Tries { .. }, Ok(CardAnswer::Tries { .. })) => promised.tries_told = true,
                    (
                        CardCall::Verify { .. } | CardCall::ChangePin { .. },
                        Ok(CardAnswer::Pin { status: StatusWord(0x6300 | 0x6982) }),
                    ) => promised.tries_told = false,
                    _ => {}
                }
                promised.changed = matches!(call, CardCall::ChangePin { .. })
                    && answer == Ok(CardAnswer::Pin { status: StatusWord::OK });
                reader.answer(answer)
            }
            Happens::Stale(answer) => {
                let ticket = Ticket { slot: None, number: 1_000_000 };
                reader.event(SessionEvent::Done(ticket, answer))
            }
            Happens::Deadline => reader.event(SessionEvent::DeadlinePassed),
        };

        // Exactly one report for each order.
        let before = usize::from(under_way) + expected;
        let after = usize::from(reader.session.is_under_way()) + usize::from(report.is_some());
        prop_assert_eq!(before, after, "{:?} → {:?}", happens, report);
        // A change is reported once the card said so, at the latest after it was let go.
        if report == Some(SessionReport::PinChanged) {
            let state = reader.session.state();
            prop_assert!(promised.changed || !matches!(state, State::Ready { .. }), "{:?}", state);
        }

        for call in &reader.out.log[calls_before..] {
            match call {
                CardCall::Hold => promised.tries_told = false,
                CardCall::Verify { .. } => {
                    promised.verify_calls += 1;
                    prop_assert!(promised.tries_told, "P4: tries are known before a PIN is asked for");
                }
                CardCall::ChangePin { .. } => {
                    promised.change_calls += 1;
                    prop_assert!(promised.tries_told, "P4: tries are known before a PIN is asked for");
                }
                _ => {}
            }
        }
        // P5: one dialogue for one order at the most.
        prop_assert!(promised.verify_calls <= promised.verify_orders);
        prop_assert!(promised.change_calls <= promised.change_orders);
        // A session that waits for nothing of the reader holds no card, unless it says which.
        let state = reader.session.state();
        if matches!(state, State::Idle | State::Waiting { .. } | State::Removing { .. } | State::NoReader { .. }) {
            prop_assert!(!promised.holds, "{:?} leaves a card held", happens);
        }
        prop_assert_eq!(reader.session.awaited(), reader.out.under_way.map(|(ticket, _)| ticket));
        let released = report.is_some_and(|report| {
            matches!(report, SessionReport::PinOldOrNew | SessionReport::Cancelled | SessionReport::Failed(_))
                && report != SessionReport::Failed(CardProblem::NotNow)
        });
        prop_assert!(!released || reader.session.held().is_none(), "{:?} with a card held", report);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn p04_p05_hostile_cards_and_readers_break_no_promise_of_a_session(
        files in any::<bool>(),
        all in prop::collection::vec(happens(), 1..80),
        typed in prop::collection::vec(
            prop::sample::select(vec![0x9000, 0x9000, 0x6300, 0x63C2, 0x6400, 0x6401, 0x6402, 0x6403, 0x6F00]), 0..8),
    ) {
        let profile = if files { ProfileId::Iso7816Files } else { ProfileId::OpenPgp };
        run(profile, &all, &typed)?;
    }
}
