//! The card readers of the daemon, driven as its loop drives them, on the real pcscd: readers
//! with a keypad and cards are the simulator's, the calls and their answers are PC/SC's.
//!
//! Needs root: each test has a pcscd of its own in a mount namespace ([`Pcscd`](slotwarden_tests::pcscd)).

#[path = "cards/scene.rs"]
mod scene;

use std::thread;
use std::time::{Duration, Instant};

use slotwarden_core::card::{
    CardAnswer, CardCall, CardFailure, Credential, ProfileId, ReaderEvent, ReaderId, RecordPlace, StatusWord,
};
use slotwarden_core::share::record::RecordProblem;
use slotwarden_sim::cards::Manner;
use slotwarden_sim::pin_pad::{LcByte, Pull, Quirks};

use scene::{Scene, card, record};

const PROFILE: ProfileId = ProfileId::Iso7816Files;
const CREDENTIAL: Credential = Credential::BackupShare;
const FIRST: ReaderId = ReaderId(0);
const SECOND: ReaderId = ReaderId(1);

const SELECT: CardCall = CardCall::Select { profile: PROFILE, credential: CREDENTIAL };
const TRIES: CardCall = CardCall::Tries { profile: PROFILE, credential: CREDENTIAL };
const VERIFY: CardCall = CardCall::Verify { profile: PROFILE, credential: CREDENTIAL };
const CHANGE: CardCall = CardCall::ChangePin { profile: PROFILE, credential: CREDENTIAL };

fn point(place: Option<RecordPlace>) -> CardCall {
    CardCall::Point { profile: PROFILE, credential: CREDENTIAL, place }
}

fn erase(place: RecordPlace) -> CardCall {
    CardCall::Erase { profile: PROFILE, credential: CREDENTIAL, place }
}

const fn pin(word: u16) -> Result<CardAnswer, CardFailure> {
    Ok(CardAnswer::Pin { status: StatusWord(word) })
}

const fn written(word: u16) -> Result<CardAnswer, CardFailure> {
    Ok(CardAnswer::Written { status: StatusWord(word) })
}

const HELD: Result<CardAnswer, CardFailure> = Ok(CardAnswer::Held);
const RELEASED: Result<CardAnswer, CardFailure> = Ok(CardAnswer::Released);

/// A reader with a card in it, held, the credential selected.
fn held(scene: &mut Scene) {
    scene.expect_events(&[(0, ReaderEvent::Found)]);
    scene.pad(0).insert(card(1));
    scene.expect_events(&[(0, ReaderEvent::CardIn)]);
    assert_eq!(scene.call(FIRST, CardCall::Hold), HELD);
    assert!(matches!(scene.call(FIRST, SELECT), Ok(CardAnswer::Selected { found: Some(_), .. })));
}

#[test]
fn p02_readers_without_keypad_and_excluded_ones_are_listed_with_the_reason_and_never_used() {
    let mut scene = Scene::new(&["Plain", "Verifies-Only", "Rear-Port", "Desk"]);
    scene.pad(0).set_quirks(Quirks { keypad: false, ..Quirks::default() });
    scene.pad(1).set_quirks(Quirks { changes_pins: false, ..Quirks::default() });
    scene.add_plain_readers();
    scene.watch("exclude = [\"Rear*\"]");
    // Numbers rise in PC/SC's order of all readers that policy allows, so the one that is used is not the first.
    let desk = 4;
    scene.expect_events(&[(desk, ReaderEvent::Found)]);
    let listed = scene.readers_settled();
    let keypad = "no keypad with secure PIN entry";
    for (name, number, reason) in [
        ("Desk", Some(desk), None),
        ("Plain", None, Some(keypad)),
        ("Verifies-Only", None, Some(keypad)),
        ("Virtual PCD", None, Some(keypad)),
        ("Rear-Port", None, Some("excluded by the configuration (\"Rear*\")")),
    ] {
        let found = listed.iter().find(|reader| reader.name.starts_with(name)).unwrap_or_else(|| panic!("{listed:?}"));
        assert_eq!((found.number, found.reason.as_deref(), found.present), (number, reason, true), "{found:?}");
    }
    for pad in 0..3 {
        scene.pad(pad).insert(card(7));
    }
    scene.pad(3).insert(card(1));
    scene.expect_events(&[(desk, ReaderEvent::CardIn)]);
    for number in (0..8).filter(|number| *number != desk) {
        assert_eq!(scene.call(ReaderId(number), CardCall::Hold), Err(CardFailure::ReaderGone));
    }
    assert!((0..3).all(|pad| scene.pad(pad).take_apdus().is_empty()), "no card elsewhere heard a command");
}

#[test]
fn a_record_is_written_read_back_with_its_y_and_erased() {
    let mut scene = Scene::watched(&["Desk"]);
    held(&mut scene);
    let selected = scene.call(FIRST, SELECT).expect("it answers");
    let CardAnswer::Selected { found: Some(found), .. } = selected else { panic!("{selected:?}") };
    assert_eq!(found.serial.expect("it says it").to_string(), "0101010101010101");
    assert_eq!((found.place, found.header), (None, None));
    let tries = CardAnswer::Tries { status: StatusWord(0x63C3), left: Some(3), serial: None };
    assert_eq!(scene.call(FIRST, TRIES), Ok(tries));
    let (signed, y) = record();
    let write = scene.write(PROFILE, CREDENTIAL, RecordPlace::A, signed, &y);
    assert_eq!(scene.call(FIRST, write), written(0x6982));
    scene.pad(0).types(&["123456"]);
    assert_eq!(scene.call(FIRST, VERIFY), pin(0x9000));
    let (read, place) = scene.read(PROFILE, CREDENTIAL, RecordPlace::A);
    assert!(matches!(scene.call(FIRST, read), Ok(CardAnswer::Read { record: Err(RecordProblem::NotOurs), .. })));
    assert_eq!(scene.y(place), None);
    assert_eq!(scene.call(FIRST, write), written(0x9000));
    assert_eq!(scene.call(FIRST, point(Some(RecordPlace::A))), written(0x9000));
    let good = CardAnswer::Read { status: StatusWord(0x9000), record: Ok(signed) };
    assert_eq!(scene.call(FIRST, read), Ok(good));
    assert_eq!(scene.y(place), Some(y));
    let selected = scene.call(FIRST, SELECT).expect("it answers");
    let CardAnswer::Selected { found: Some(found), .. } = selected else { panic!("{selected:?}") };
    assert_eq!((found.place, found.header), (Some(RecordPlace::A), Some(signed.header)));
    scene.pad(0).types(&["123456"]);
    assert_eq!(scene.call(FIRST, VERIFY), pin(0x9000));
    assert_eq!(scene.call(FIRST, point(None)), written(0x9000));
    assert_eq!(scene.call(FIRST, erase(RecordPlace::A)), written(0x9000));
    assert!(matches!(scene.call(FIRST, read), Ok(CardAnswer::Read { record: Err(RecordProblem::NotOurs), .. })));
    assert_eq!(scene.call(FIRST, CardCall::Release), RELEASED);
    assert_eq!(scene.call(FIRST, CardCall::Release), RELEASED);
    assert_eq!(scene.call(FIRST, SELECT), Err(CardFailure::CardGone));
    scene.pad(0).remove();
    scene.expect_events(&[(0, ReaderEvent::CardOut)]);
    assert_eq!(scene.call(FIRST, CardCall::Hold), Err(CardFailure::CardGone));
}

#[test]
fn p06_every_end_of_a_dialogue_is_told_apart() {
    let mut scene = Scene::watched(&["Desk"]);
    held(&mut scene);
    scene.pad(0).types(&["654321"]);
    assert_eq!(scene.call(FIRST, VERIFY), pin(0x63C2));
    scene.pad(0).cancels();
    assert_eq!(scene.call(FIRST, VERIFY), pin(0x6401));
    scene.pad(0).lets_time_pass();
    assert_eq!(scene.call(FIRST, VERIFY), pin(0x6400));
    scene.pad(0).types(&["12345"]);
    assert_eq!(scene.call(FIRST, VERIFY), pin(0x6403));
    scene.pad(0).types(&["123456", "111111", "111112"]);
    assert_eq!(scene.call(FIRST, CHANGE), pin(0x6402));
    scene.pad(0).types(&["654321", "111111", "111111"]);
    assert_eq!(scene.call(FIRST, CHANGE), pin(0x63C1));
    scene.pad(0).types(&["123456", "111111", "111111"]);
    assert_eq!(scene.call(FIRST, CHANGE), pin(0x9000));
    scene.pad(0).types(&["111111"]);
    assert_eq!(scene.call(FIRST, VERIFY), pin(0x9000));
    for word in [0x63C2, 0x63C1] {
        scene.pad(0).types(&["123456"]);
        assert_eq!(scene.call(FIRST, VERIFY), pin(word));
    }
    scene.pad(0).types(&["123456"]);
    assert!(matches!(scene.call(FIRST, VERIFY), Ok(CardAnswer::Pin { status: StatusWord(0x63C0 | 0x6983) })));
    scene.pad(0).types(&["111111"]);
    assert_eq!(scene.call(FIRST, VERIFY), pin(0x6983));
}

#[test]
fn p01_no_command_of_the_host_holds_a_digit() {
    let mut scene = Scene::watched(&["Desk"]);
    held(&mut scene);
    scene.pad(0).types(&["123456"]);
    assert_eq!(scene.call(FIRST, VERIFY), pin(0x9000));
    scene.pad(0).types(&["123456", "111111", "111111"]);
    assert_eq!(scene.call(FIRST, CHANGE), pin(0x9000));
    assert!(matches!(scene.call(FIRST, TRIES), Ok(CardAnswer::Tries { .. })));
    let heard = scene.pad(0).take_apdus();
    let from_pad: Vec<[u8; 4]> = heard.iter().filter(|apdu| apdu.from_pad).map(|apdu| apdu.header).collect();
    assert_eq!(from_pad, [[0x00, 0x20, 0x00, 0x81], [0x00, 0x24, 0x00, 0x81]]);
    for apdu in heard.iter().filter(|apdu| !apdu.from_pad) {
        let names_a_pin = matches!(apdu.header[1], 0x20 | 0x24 | 0x2C);
        assert!(!names_a_pin || apdu.bytes <= 5, "{apdu:?}");
    }
}

#[test]
fn a_card_that_was_let_go_has_forgotten_its_pin() {
    let mut scene = Scene::watched(&["Desk"]);
    held(&mut scene);
    scene.pad(0).types(&["123456"]);
    assert_eq!(scene.call(FIRST, VERIFY), pin(0x9000));
    let (read, _) = scene.read(PROFILE, CREDENTIAL, RecordPlace::A);
    let refused = |answer| matches!(answer, Ok(CardAnswer::Read { status: StatusWord(0x6982), .. }));
    assert!(!refused(scene.call(FIRST, read)), "it was verified");
    // Held anew without a release: the card is another one for us.
    assert_eq!(scene.call(FIRST, CardCall::Hold), HELD);
    assert!(matches!(scene.call(FIRST, SELECT), Ok(CardAnswer::Selected { found: Some(_), .. })));
    assert!(refused(scene.call(FIRST, read)));
    scene.pad(0).types(&["123456"]);
    assert_eq!(scene.call(FIRST, VERIFY), pin(0x9000));
    assert_eq!(scene.call(FIRST, CardCall::Release), RELEASED);
    assert_eq!(scene.call(FIRST, CardCall::Hold), HELD);
    assert!(matches!(scene.call(FIRST, SELECT), Ok(CardAnswer::Selected { found: Some(_), .. })));
    assert!(refused(scene.call(FIRST, read)));
    // Holding and letting go is no insertion.
    scene.expect_events(&[]);
}

#[test]
fn a_card_pulled_at_any_call_is_gone_and_is_held_anew() {
    let mut scene = Scene::watched(&["Desk"]);
    let (signed, y) = record();
    let write = scene.write(PROFILE, CREDENTIAL, RecordPlace::A, signed, &y);
    let (read, place) = scene.read(PROFILE, CREDENTIAL, RecordPlace::A);
    let calls = [SELECT, TRIES, VERIFY, CHANGE, read, write, point(None), erase(RecordPlace::B)];
    scene.expect_events(&[(0, ReaderEvent::Found)]);
    for pull in [Pull::Amid(0), Pull::Unheard(0)] {
        for call in calls {
            scene.pad(0).insert(card(1));
            scene.expect_events(&[(0, ReaderEvent::CardIn)]);
            assert_eq!(scene.call(FIRST, CardCall::Hold), HELD);
            assert!(matches!(scene.call(FIRST, SELECT), Ok(CardAnswer::Selected { found: Some(_), .. })));
            scene.pad(0).types(&["123456"]);
            assert_eq!(scene.call(FIRST, VERIFY), pin(0x9000));
            scene.pad(0).pull(pull);
            scene.pad(0).types(&["123456", "111111", "111111"]);
            assert_eq!(scene.call(FIRST, call), Err(CardFailure::CardGone), "{call:?}, {pull:?}");
            scene.pad(0).forget();
            assert_eq!(scene.call(FIRST, SELECT), Err(CardFailure::CardGone));
            scene.expect_events(&[(0, ReaderEvent::CardOut)]);
            scene.pad(0).remove();
        }
    }
    assert_eq!(scene.y(place), None);
    // Between two calls.
    scene.pad(0).insert(card(1));
    scene.expect_events(&[(0, ReaderEvent::CardIn)]);
    assert_eq!(scene.call(FIRST, CardCall::Hold), HELD);
    scene.pad(0).remove();
    scene.pad(0).insert(card(1));
    scene.expect_events(&[(0, ReaderEvent::CardOut), (0, ReaderEvent::CardIn)]);
    assert_eq!(scene.call(FIRST, SELECT), Err(CardFailure::CardGone));
    assert_eq!(scene.call(FIRST, CardCall::Hold), HELD);
    assert_eq!(scene.call(FIRST, CardCall::Release), RELEASED);
}

/// The reset at the end of a connection fails just when pcscd noticed the removal: in one of some
/// dozen times it then says that a card is there and mute, until the next one comes.
#[test]
fn a_card_that_is_let_go_while_it_is_taken_out_is_not_there_again() {
    let mut scene = Scene::watched(&["Desk"]);
    scene.expect_events(&[(0, ReaderEvent::Found)]);
    for turn in 0..150 {
        scene.pad(0).insert(card(1));
        scene.expect_next(&[(0, ReaderEvent::CardIn)]);
        assert_eq!(scene.call(FIRST, CardCall::Hold), HELD);
        let pad = scene.pad(0).clone();
        let person = thread::spawn(move || {
            thread::sleep(Duration::from_micros(turn % 20 * 25));
            pad.remove();
        });
        assert_eq!(scene.call(FIRST, CardCall::Release), RELEASED);
        scene.expect_next(&[(0, ReaderEvent::CardOut)]);
        person.join().expect("a card goes out");
        // The next one is at hand, and pcscd has done with this one.
        thread::sleep(Duration::from_millis(20));
    }
    scene.expect_events(&[]);
}

/// Another program resets a card just when it goes: from then on pcscd shows one that is mute.
/// Whoever comes after that and counts from there would take the next insertion for a removal.
#[test]
fn a_card_that_only_pcscd_still_sees_is_none_and_the_next_one_is_there() {
    let mut scene = Scene::new(&["Desk"]);
    scene.pad(0).insert(card(1));
    let context = pcsc::Context::establish(pcsc::Scope::System).expect("pcscd runs");
    let mut looks = [pcsc::ReaderState::new(c"Desk 00 00", pcsc::State::UNAWARE)];
    let mut look = || {
        context.get_status_change(Duration::ZERO, &mut looks).expect("pcscd runs");
        looks[0].event_state()
    };
    let other = scene::patiently(|| context.connect(c"Desk 00 00", pcsc::ShareMode::Shared, pcsc::Protocols::ANY).ok());
    scene.pad(0).remove();
    scene::patiently(|| Some(()).filter(|()| look().contains(pcsc::State::EMPTY)));
    scene.pad(0).bounce();
    other.disconnect(pcsc::Disposition::ResetCard).map_err(|(_, error)| error).expect("it forgets the connection");
    assert!(look().contains(pcsc::State::PRESENT | pcsc::State::MUTE), "{:?}", look());
    scene.watch("");
    scene.expect_events(&[(0, ReaderEvent::Found)]);
    assert!(!scene.readers()[0].card, "{:?}", scene.readers());
    for serial in [2, 3] {
        scene.pad(0).insert(card(serial));
        scene.expect_events(&[(0, ReaderEvent::CardIn)]);
        assert_eq!(scene.call(FIRST, CardCall::Hold), HELD);
        assert!(matches!(scene.call(FIRST, SELECT), Ok(CardAnswer::Selected { found: Some(_), .. })));
        assert_eq!(scene.call(FIRST, CardCall::Release), RELEASED);
        scene.pad(0).remove();
        scene.expect_events(&[(0, ReaderEvent::CardOut)]);
    }
}

#[test]
fn hostile_answers_are_garbage_and_end_nothing() {
    let mut scene = Scene::watched(&["Desk"]);
    scene.expect_events(&[(0, ReaderEvent::Found)]);
    for manner in [Manner::Endless, Manner::NoStatus, Manner::HalfStatus] {
        scene.pad(0).insert(slotwarden_sim::cards::Card::with([2; 8], 3, manner));
        scene.expect_events(&[(0, ReaderEvent::CardIn)]);
        assert_eq!(scene.call(FIRST, CardCall::Hold), HELD);
        for call in [SELECT, TRIES, point(None)] {
            let answer = scene.call(FIRST, call);
            let no_answer = matches!(answer, Err(CardFailure::Garbage | CardFailure::Transport));
            assert!(
                no_answer || matches!(answer, Ok(CardAnswer::Selected { found: None, .. })),
                "{manner:?}: {answer:?}"
            );
        }
        assert_eq!(scene.call(FIRST, CardCall::Release), RELEASED);
        scene.pad(0).remove();
        scene.expect_events(&[(0, ReaderEvent::CardOut)]);
    }
}

#[test]
fn a_card_that_another_program_holds_is_in_use_until_it_lets_go() {
    let mut scene = Scene::watched(&["Desk"]);
    scene.expect_events(&[(0, ReaderEvent::Found)]);
    scene.pad(0).insert(card(1));
    scene.expect_events(&[(0, ReaderEvent::CardIn)]);
    for share in [pcsc::ShareMode::Exclusive, pcsc::ShareMode::Shared] {
        let other = pcsc::Context::establish(pcsc::Scope::System).expect("pcscd runs");
        let theirs = other.connect(c"Desk 00 00", share, pcsc::Protocols::ANY).expect("nobody holds it");
        assert_eq!(scene.call(FIRST, CardCall::Hold), Err(CardFailure::InUse));
        theirs.disconnect(pcsc::Disposition::LeaveCard).map_err(|(_, error)| error).expect("it was held");
        assert_eq!(scene.call(FIRST, CardCall::Hold), HELD);
        let refused = other.connect(c"Desk 00 00", pcsc::ShareMode::Shared, pcsc::Protocols::ANY);
        assert_eq!(refused.map(|_| ()), Err(pcsc::Error::SharingViolation), "we hold it alone");
        assert_eq!(scene.call(FIRST, CardCall::Release), RELEASED);
    }
}

#[test]
fn a_reader_held_by_another_program_is_found_when_that_lets_go() {
    let mut scene = Scene::new(&["Desk"]);
    scene.pad(0).insert(card(1));
    let other = pcsc::Context::establish(pcsc::Scope::System).expect("pcscd runs");
    let theirs =
        scene::patiently(|| other.connect(c"Desk 00 00", pcsc::ShareMode::Exclusive, pcsc::Protocols::ANY).ok());
    scene.watch("");
    let reason = scene::patiently(|| {
        let reader = scene.readers().pop()?;
        reader.reason.filter(|reason| !reason.contains("not asked"))
    });
    assert!(reason.contains("could not be asked"), "{reason}");
    scene.expect_events(&[]);
    theirs.disconnect(pcsc::Disposition::LeaveCard).map_err(|(_, error)| error).expect("it was held");
    let let_go = Instant::now();
    scene.expect_events(&[(0, ReaderEvent::Found), (0, ReaderEvent::CardIn)]);
    assert!(let_go.elapsed() < Duration::from_secs(6), "{:?}", let_go.elapsed());
}

#[test]
fn a_pcscd_that_is_killed_loses_the_readers_and_brings_them_back_under_their_numbers() {
    let mut scene = Scene::watched(&["Desk", "Table"]);
    scene.expect_events_in_any_order(&[(0, ReaderEvent::Found), (1, ReaderEvent::Found)]);
    let names = scene.numbered();
    scene.pad(0).insert(card(1));
    let event = scene.next_event();
    assert_eq!(event.1, ReaderEvent::CardIn);
    let with_card = ReaderId(event.0);
    assert_eq!(scene.call(with_card, CardCall::Hold), HELD);
    for round in 0..2 {
        if round == 1 {
            // In the middle of a dialogue, too.
            assert_eq!(scene.call(with_card, CardCall::Hold), HELD);
            assert!(matches!(scene.call(with_card, SELECT), Ok(CardAnswer::Selected { .. })));
            let ticket = scene.begin(with_card, VERIFY);
            assert!(scene.pad(0).wait_until_asking(scene::PATIENCE));
            scene.pcscd().kill();
            assert_eq!(scene.answer(ticket), Err(CardFailure::ReaderGone));
        } else {
            scene.pcscd().kill();
        }
        scene.expect_events_in_any_order(&[(0, ReaderEvent::Lost), (1, ReaderEvent::Lost)]);
        assert_eq!(scene.call(with_card, SELECT), Err(CardFailure::ReaderGone));
        assert!(scene.readers().iter().all(|reader| !reader.present));
        scene.pcscd().start_again();
        let found = [(0, ReaderEvent::Found), (1, ReaderEvent::Found), (with_card.0, ReaderEvent::CardIn)];
        scene.expect_events_in_any_order(&found);
        assert_eq!(scene.numbered(), names);
    }
    assert_eq!(scene.call(with_card, CardCall::Hold), HELD);
    assert_eq!(scene.call(with_card, CardCall::Release), RELEASED);
}

#[test]
fn a_person_who_hesitates_at_one_pad_delays_no_other_reader_and_no_event() {
    let mut scene = Scene::watched(&["Desk", "Table"]);
    scene.expect_events_in_any_order(&[(0, ReaderEvent::Found), (1, ReaderEvent::Found)]);
    for pad in [0, 1] {
        scene.pad(pad).insert(card(1));
    }
    scene.expect_events_in_any_order(&[(0, ReaderEvent::CardIn), (1, ReaderEvent::CardIn)]);
    for reader in [FIRST, SECOND] {
        assert_eq!(scene.call(reader, CardCall::Hold), HELD);
        assert!(matches!(scene.call(reader, SELECT), Ok(CardAnswer::Selected { found: Some(_), .. })));
    }
    let desk = scene.number_of("Desk");
    let table = if desk == FIRST { SECOND } else { FIRST };
    let ticket = scene.begin(desk, VERIFY);
    assert!(scene.pad(0).wait_until_asking(scene::PATIENCE));
    let begun = Instant::now();
    scene.pad(1).types(&["123456"]);
    assert_eq!(scene.call(table, VERIFY), pin(0x9000));
    assert_eq!(scene.call(table, CardCall::Release), RELEASED);
    scene.pad(1).remove();
    scene.expect_events(&[(table.0, ReaderEvent::CardOut)]);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    scene.pad(0).types(&["123456"]);
    assert_eq!(scene.answer(ticket), pin(0x9000));
}

#[test]
fn pads_that_differ_are_served_as_the_configuration_says() {
    let mut scene = Scene::new(&["Desk"]);
    let quirks = |digits_max, lc, variable_length| Quirks { digits_max, lc, variable_length, ..Quirks::default() };
    for (pad, told, expected) in [
        (quirks(8, LcByte::Either, true), "", 0x6B80),
        (quirks(8, LcByte::Either, true), "digits_max = 8", 0x9000),
        (quirks(16, LcByte::Refused, true), "", 0x6B80),
        (quirks(16, LcByte::Refused, true), "lc = false", 0x9000),
        (quirks(16, LcByte::Needed, true), "lc = false", 0x6B80),
        (quirks(16, LcByte::Needed, true), "", 0x9000),
        (quirks(16, LcByte::Either, false), "", 0x6B80),
        (quirks(16, LcByte::Either, false), "variable_length = false\ndigits_max = 6", 0x9000),
        (quirks(16, LcByte::Either, true), "digits_max = 16", 0x9000),
        (quirks(16, LcByte::Either, true), "variable_length = false\ndigits_max = 16", 0x6403),
    ] {
        scene.pad(0).set_quirks(pad);
        scene.watch(&format!("[[cards.pad]]\nreader = \"Desk\"\n{told}"));
        held(&mut scene);
        scene.pad(0).types(&["123456"]);
        assert_eq!(scene.call(FIRST, VERIFY), pin(expected), "{pad:?}, {told}");
        scene.pad(0).forget();
        if expected == 0x9000 {
            scene.pad(0).types(&["123456", "111111", "111111"]);
            assert_eq!(scene.call(FIRST, CHANGE), pin(0x9000), "{pad:?}, {told}");
        }
        assert_eq!(scene.call(FIRST, CardCall::Release), RELEASED);
        scene.pad(0).remove();
        scene.expect_events(&[(0, ReaderEvent::CardOut)]);
        scene.end_watch();
    }
}
