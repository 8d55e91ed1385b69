//! The bytes of every card command, and what hostile answers come to.

// A test that panics has found something; the lints are for the rules.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![allow(clippy::std_instead_of_core)]

use proptest::prelude::*;
use slotwarden_core::card::apdu::{self, Apdu, Dialogue};
use slotwarden_core::card::{
    CardAnswer, CardCall, CardFailure, CardSerial, Credential, ProfileId, RecordPlace, Selected, StatusWord,
};
use slotwarden_core::safe::SecretId;
use slotwarden_core::share::record::{RecordProblem, ShareHeader, ShareKind, SignedHeader};

use Credential::{BackupShare, HsmAdministrator, SlotUser};
use ProfileId::{Iso7816Files as Iso, OpenPgp};
use RecordPlace::{A, B};

fn header() -> ShareHeader {
    ShareHeader {
        kind: ShareKind::BackupKey,
        set_id: [1; 16],
        subject: [2; 16],
        m: 2,
        n: 3,
        x: 1,
        generation: 4,
        created_s: 5,
        key_id: [6; 16],
    }
}

fn signed() -> SignedHeader {
    SignedHeader { header: header(), public_key: [7; 32], signature: [8; 64] }
}

/// Every call that there is.
fn calls() -> Vec<CardCall> {
    let y = SecretId::NONE;
    let mut calls = vec![CardCall::Hold, CardCall::Release];
    for profile in ProfileId::ALL {
        for credential in Credential::ALL {
            calls.push(CardCall::Select { profile, credential });
            calls.push(CardCall::Tries { profile, credential });
            calls.push(CardCall::Verify { profile, credential });
            calls.push(CardCall::ChangePin { profile, credential });
            calls.push(CardCall::Point { profile, credential, place: None });
            for place in [A, B] {
                calls.push(CardCall::Read { profile, credential, place, y });
                calls.push(CardCall::Write { profile, credential, place, record: signed(), y });
                calls.push(CardCall::Point { profile, credential, place: Some(place) });
                calls.push(CardCall::Erase { profile, credential, place });
            }
        }
    }
    calls
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(" ")
}

fn sent(call: CardCall) -> String {
    apdu::command(&call).map_or_else(|| "nothing".to_owned(), |apdu| hex(apdu.bytes()))
}

fn with_record(profile: ProfileId, place: RecordPlace) -> Option<Apdu> {
    let mut apdu = Apdu::empty();
    apdu::write(profile, place, &[0x5A; 200], &mut apdu).then_some(apdu)
}

fn answer(call: &CardCall, response: &[u8]) -> Result<CardAnswer, CardFailure> {
    apdu::parse(call, response, &|_| Some(header()), |_| Ok(signed()))
}

#[test]
fn p01_no_command_of_any_call_holds_a_pin() {
    let mut pin_commands = Vec::new();
    for call in calls() {
        if let Some(apdu) = apdu::command(&call) {
            let bytes = apdu.bytes();
            assert_ne!(bytes[1], 0x24, "{call:?} changes a PIN without the pad");
            if bytes[1] == 0x20 {
                assert!(matches!(call, CardCall::Tries { .. }), "{call:?}");
                assert_eq!(bytes.len(), 4, "a VERIFY without data asks for tries; this one has some");
            }
        }
        if let CardCall::Write { profile, place, .. } = call
            && let Some(apdu) = with_record(profile, place)
        {
            assert!(matches!(apdu.bytes()[1], 0xD6 | 0xDA), "{call:?}");
        }
        if let Some(template) = apdu::pin_template(&call) {
            assert!(apdu::command(&call).is_none(), "{call:?} is the pad's alone");
            pin_commands.push(template.header()[1]);
            // Nothing in it but a header and bounds: there is no room for digits.
            assert!(size_of_val(&template) <= 8);
        }
    }
    assert_eq!(pin_commands.iter().filter(|instruction| **instruction == 0x20).count(), 6);
    assert_eq!(pin_commands.iter().filter(|instruction| **instruction == 0x24).count(), 6);
}

#[test]
fn what_a_kind_of_card_does_not_have_is_not_sent() {
    let (profile, credential) = (OpenPgp, BackupShare);
    for call in [
        CardCall::Hold,
        CardCall::Release,
        CardCall::Read { profile, credential, place: B, y: SecretId::NONE },
        CardCall::Erase { profile, credential, place: B },
        CardCall::Point { profile, credential, place: Some(A) },
        CardCall::Point { profile, credential, place: None },
        CardCall::Write { profile, credential, place: A, record: signed(), y: SecretId::NONE },
    ] {
        assert_eq!(sent(call), "nothing", "{call:?}");
        assert!(apdu::pin_template(&call).is_none());
    }
    assert!(with_record(OpenPgp, B).is_none());
}

#[test]
fn commands_for_cards_with_files_are_these_bytes() {
    let (profile, credential, y) = (Iso, BackupShare, SecretId::NONE);
    let name = "F0 53 4C 4F 54 57 41 52 44 45 4E";
    assert_eq!(sent(CardCall::Select { profile, credential }), format!("00 A4 04 00 0C {name} 01 00"));
    assert_eq!(sent(CardCall::Select { profile, credential: SlotUser }), format!("00 A4 04 00 0C {name} 02 00"));
    assert_eq!(
        sent(CardCall::Select { profile, credential: HsmAdministrator }),
        format!("00 A4 04 00 0C {name} 03 00")
    );
    assert_eq!(sent(CardCall::Tries { profile, credential }), "00 20 00 81");
    assert_eq!(sent(CardCall::Read { profile, credential, place: A, y }), "00 B0 81 00 C8");
    assert_eq!(sent(CardCall::Read { profile, credential, place: B, y }), "00 B0 82 00 C8");
    assert_eq!(sent(CardCall::Point { profile, credential, place: None }), "00 D6 83 00 01 00");
    assert_eq!(sent(CardCall::Point { profile, credential, place: Some(A) }), "00 D6 83 00 01 0A");
    assert_eq!(sent(CardCall::Point { profile, credential, place: Some(B) }), "00 D6 83 00 01 0B");
    assert_eq!(sent(CardCall::Erase { profile, credential, place: B }), format!("00 D6 82 00 C8{}", " 00".repeat(200)));
    let written = with_record(Iso, A).expect("there is a place A");
    assert_eq!(hex(written.bytes()), format!("00 D6 81 00 C8{}", " 5A".repeat(200)));
}

#[test]
fn commands_for_openpgp_cards_are_these_bytes() {
    let (profile, credential, y) = (OpenPgp, BackupShare, SecretId::NONE);
    for credential in Credential::ALL {
        assert_eq!(sent(CardCall::Select { profile, credential }), "00 A4 04 00 06 D2 76 00 01 24 01 00");
    }
    assert_eq!(sent(CardCall::Tries { profile, credential }), "00 CA 00 6E 00");
    assert_eq!(sent(CardCall::Read { profile, credential, place: A, y }), "00 CA 01 03 00");
    assert_eq!(sent(CardCall::Erase { profile, credential, place: A }), "00 DA 01 03");
    let written = with_record(OpenPgp, A).expect("there is a place A");
    assert_eq!(hex(written.bytes()), format!("00 DA 01 03 C8{}", " 5A".repeat(200)));
}

#[test]
fn pads_are_told_header_format_and_bounds() {
    for (profile, verify) in [(Iso, 0x81), (OpenPgp, 0x82)] {
        let credential = BackupShare;
        let template = apdu::pin_template(&CardCall::Verify { profile, credential }).expect("of the pad");
        assert_eq!((template.header(), template.dialogue()), ([0, 0x20, 0, verify], Dialogue::Verify));
        assert_eq!((template.digits_min(), template.digits_max()), (6, 12));
        let template = apdu::pin_template(&CardCall::ChangePin { profile, credential }).expect("of the pad");
        assert_eq!((template.header(), template.dialogue()), ([0, 0x24, 0, 0x81], Dialogue::Modify));
        assert_eq!((template.digits_min(), template.digits_max()), (6, 12));
        assert_eq!((template.offset_old(), template.offset_new()), (0, 0));
    }
}

#[test]
fn p03_a_command_with_a_record_prints_its_header_only() {
    let written = with_record(Iso, A).expect("there is a place A");
    assert_eq!(format!("{written:?}"), "Apdu 00 D6 81 00, 205 bytes");
}

/// What SELECT answers: the application's name of this credential, and what is behind the state.
fn selection(last: u8, proprietary: &[u8]) -> Vec<u8> {
    let mut inner = vec![0x84, 12, 0xF0];
    inner.extend_from_slice(b"SLOTWARDEN");
    inner.push(last);
    inner.extend_from_slice(&[0x85, u8::try_from(proprietary.len()).expect("short")]);
    inner.extend_from_slice(proprietary);
    let mut response = vec![0x6F, u8::try_from(inner.len()).expect("short")];
    response.extend_from_slice(&inner);
    response.extend_from_slice(&[0x90, 0x00]);
    response
}

fn found(response: &[u8]) -> Option<Selected> {
    match answer(&CardCall::Select { profile: Iso, credential: BackupShare }, response) {
        Ok(CardAnswer::Selected { found, .. }) => found,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_selection_that_is_not_whole_finds_nothing() {
    let blank = [0x00, 4, 1, 2, 3, 4];
    let full = [&[0x0A, 2, 1, 2][..], &[9; 72]].concat();
    assert_eq!(found(&[0x90, 0x00]), None, "no answer");
    assert_eq!(found(&[0x6A, 0x82]), None, "no such application");
    assert_eq!(found(&selection(2, &blank)), None, "another application than asked for");
    assert_eq!(found(&selection(1, &[0x00, 0])), None, "no serial");
    assert_eq!(found(&selection(1, &[0x00, 5, 1, 2, 3, 4])), None, "a serial that is cut off");
    assert_eq!(found(&selection(1, &[0x00, 17, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16])), None);
    assert_eq!(found(&selection(1, &[0x00, 1, 7, 9])), None, "more than a serial without a record");
    assert_eq!(found(&selection(1, &[0x0A, 1, 7])), None, "a record without a header");
    assert_eq!(found(&selection(1, &[0x0C, 1, 7])), None, "a third place");
    let mut short = selection(1, &full);
    short.remove(40);
    assert_eq!(found(&short), None, "lengths that do not fit");
}

#[test]
fn one_selection_tells_serial_place_and_header() {
    let serial = CardSerial::new(&[1, 2, 3, 4]);
    assert_eq!(
        found(&selection(1, &[0x00, 4, 1, 2, 3, 4])),
        Some(Selected { serial, place: None, header: None }),
        "a blank card"
    );
    for (state, place) in [(0x0A, A), (0x0B, B)] {
        let told = [&[state, 4, 1, 2, 3, 4][..], &[9; 72]].concat();
        assert_eq!(found(&selection(1, &told)), Some(Selected { serial, place: Some(place), header: Some(header()) }));
    }
    // A header that is none is judged with the record; the card is there all the same.
    let told = [&[0x0A, 4, 1, 2, 3, 4][..], &[9; 72]].concat();
    let call = CardCall::Select { profile: Iso, credential: BackupShare };
    let refused = apdu::parse(&call, &selection(1, &told), &|_| None, |_| Ok(signed()));
    let expected = Some(Selected { serial, place: Some(A), header: None });
    assert_eq!(refused, Ok(CardAnswer::Selected { status: StatusWord::OK, found: expected }));
}

/// Application related data of an OpenPGP card; a real one goes on with fingerprints and dates.
fn application_data(status: &[u8], fingerprints: usize) -> Vec<u8> {
    let mut discretionary = vec![0xC0, 2, 0x7F, 0x00, 0xC1, 1, 0x01, 0xC4, u8::try_from(status.len()).expect("short")];
    discretionary.extend_from_slice(status);
    discretionary.extend_from_slice(&[0xC5, u8::try_from(fingerprints).expect("short")]);
    discretionary.extend(std::iter::repeat_n(0xEE, fingerprints));
    let mut inner = vec![0x4F, 16, 0xD2, 0x76, 0x00, 0x01, 0x24, 0x01, 3, 4, 0x00, 0x0F, 0xAA, 0xBB, 0xCC, 0xDD, 0, 0];
    inner.extend_from_slice(&[0x5F, 0x52, 2, 0, 0, 0x73, 0x81, u8::try_from(discretionary.len()).expect("short")]);
    inner.extend_from_slice(&discretionary);
    inner
}

fn enclosed(inner: &[u8]) -> Vec<u8> {
    let mut data = vec![0x6E, 0x82];
    data.extend_from_slice(&u16::try_from(inner.len()).expect("short").to_be_bytes());
    data.extend_from_slice(inner);
    data
}

fn tries(profile: ProfileId, response: &[u8]) -> Result<CardAnswer, CardFailure> {
    answer(&CardCall::Tries { profile, credential: BackupShare }, response)
}

#[test]
fn tries_of_an_openpgp_card_come_with_its_serial() {
    let status = [0, 127, 127, 127, 2, 0, 3];
    let serial = CardSerial::new(&[0x00, 0x0F, 0xAA, 0xBB, 0xCC, 0xDD]);
    let expected = |word, left, serial| Ok(CardAnswer::Tries { status: StatusWord(word), left, serial });
    let ok = [0x90, 0x00];
    assert_eq!(tries(OpenPgp, &ok), expected(0x9000, None, None), "no data");
    assert_eq!(tries(OpenPgp, &[0x6A, 0x88]), expected(0x6A88, None, None));
    let short = [&application_data(&status[..5], 0)[..], &ok].concat();
    assert_eq!(tries(OpenPgp, &short), expected(0x9000, None, serial), "a PIN status of five bytes");

    let whole = [&enclosed(&application_data(&status, 60))[..], &ok].concat();
    assert_eq!(tries(OpenPgp, &whole), expected(0x9000, Some(2), serial));
    let inner = [&application_data(&status, 60)[..], &ok].concat();
    assert_eq!(tries(OpenPgp, &inner), expected(0x9000, Some(2), serial), "without the object around it");
    let cut_off = [&enclosed(&application_data(&status, 230))[..256], &[0x61, 0x30]].concat();
    assert_eq!(tries(OpenPgp, &cut_off), expected(0x6130, Some(2), serial), "the first 256 bytes of more");
}

#[test]
fn tries_of_a_card_with_files_are_in_the_word() {
    let expected = |word, left| Ok(CardAnswer::Tries { status: StatusWord(word), left, serial: None });
    assert_eq!(tries(Iso, &[1, 0x63, 0xC3]), Err(CardFailure::Garbage));
    assert_eq!(tries(Iso, &[0x63, 0xC0]), expected(0x63C0, Some(0)));
    assert_eq!(tries(Iso, &[0x69, 0x83]), expected(0x6983, Some(0)));
    assert_eq!(tries(Iso, &[0x63, 0xC3]), expected(0x63C3, Some(3)));
    assert_eq!(tries(Iso, &[0x90, 0x00]), expected(0x9000, None));
}

#[test]
fn a_record_of_another_length_is_refused_before_it_is_judged() {
    let call = CardCall::Read { profile: Iso, credential: BackupShare, place: A, y: SecretId::NONE };
    let read = |response: &[u8]| match apdu::parse(&call, response, &|_| None, |bytes| {
        assert_eq!(bytes, [0x5A; 200]);
        Ok(signed())
    }) {
        Ok(CardAnswer::Read { record, .. }) => record,
        other => panic!("{other:?}"),
    };
    let with = |len: usize, word: [u8; 2]| [&vec![0x5A; len][..], &word].concat();
    assert_eq!(read(&[0x90, 0x00]), Err(RecordProblem::Missing));
    assert_eq!(read(&with(200, [0x69, 0x82])), Err(RecordProblem::Missing));
    assert_eq!(read(&with(199, [0x90, 0x00])), Err(RecordProblem::NotOurs));
    assert_eq!(read(&with(256, [0x61, 0x00])), Err(RecordProblem::NotOurs));
    assert_eq!(read(&with(200, [0x90, 0x00])), Ok(signed()));
}

#[test]
fn p42_an_answer_of_another_length_than_any_card_gives_is_garbage() {
    for call in calls() {
        assert_eq!(answer(&call, &[]), Err(CardFailure::Garbage), "{call:?}");
        assert_eq!(answer(&call, &[0x90]), Err(CardFailure::Garbage), "{call:?}");
        assert_eq!(answer(&call, &[0; 259]), Err(CardFailure::Garbage), "{call:?}");
        let word_only = matches!(
            call,
            CardCall::Verify { .. }
                | CardCall::ChangePin { .. }
                | CardCall::Write { .. }
                | CardCall::Point { .. }
                | CardCall::Erase { .. }
        );
        if word_only {
            assert_eq!(answer(&call, &[7, 0x90, 0x00]), Err(CardFailure::Garbage), "{call:?}");
            assert!(answer(&call, &[0x90, 0x00]).is_ok(), "{call:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn p42_no_answer_makes_the_rules_panic(
        number in 0..100usize,
        response in prop::collection::vec(any::<u8>(), 0..300),
        word in prop::sample::select(vec![[0x90, 0x00], [0x61, 0x00], [0x63, 0xC2], [0x6A, 0x82]]),
    ) {
        let calls = calls();
        let call = calls[number % calls.len()];
        let _ = answer(&call, &response);
        let _ = answer(&call, &[&response[..], &word].concat());
    }

    /// Answers that are nearly right reach deeper than those that are nothing at all.
    #[test]
    fn p42_no_altered_answer_makes_the_rules_panic(at in 0..400usize, to in any::<u8>(), cut in 0..400usize) {
        let data = [&[0x0A, 4, 1, 2, 3, 4][..], &[9; 72]].concat();
        let selected = selection(1, &data);
        let tries = [&enclosed(&application_data(&[0, 127, 127, 127, 2, 0, 3], 60))[..], &[0x90, 0x00]].concat();
        for (call, mut response) in [
            (CardCall::Select { profile: Iso, credential: BackupShare }, selected),
            (CardCall::Tries { profile: OpenPgp, credential: BackupShare }, tries),
        ] {
            let len = response.len();
            response[at % len] = to;
            let _ = answer(&call, &response);
            response.truncate(cut % (len + 1));
            let _ = answer(&call, &response);
        }
    }
}
