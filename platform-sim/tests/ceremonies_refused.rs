//! What goes wrong at a reader, one thing at a time: each is refused by its name, nothing is
//! written, and no try is spent that no person spent.

// A test that panics has found something.
#![allow(clippy::expect_used, clippy::panic)]

mod desk;

use desk::{
    CEREMONIES, Desk, OTHER_PIN, PIN, SHARE, TRANSPORT, cards, code, create_set, ready, replace_set, restore, rotate,
};
use slotwarden_core::card::sets::SetSubject;
use slotwarden_core::card::{ReaderEvent, RecordPlace};
use slotwarden_core::ceremony::Question;
use slotwarden_core::ceremony::order::{CardOrder, Places, Task};
use slotwarden_core::command::{Answer, Command};
use slotwarden_core::fault::Refusal;
use slotwarden_core::limits::{CARD_REMOVE_MS, CARD_WAIT_MS, CEREMONY_MS, QUESTION_MS};
use slotwarden_core::person::PersonId;
use slotwarden_core::share::card_set;
use slotwarden_core::share::record::{self, RECORD_BYTES, ShareHeader, ShareKind};
use slotwarden_core::status::CeremonyWait as Wants;
use slotwarden_sim::cards::{Card, Manner};
use slotwarden_sim::pin_pad::Entry;
use slotwarden_sim::room::{ADMINISTRATOR, AUDITOR, CUSTODIAN, SECOND};

const DONE: Option<Answer> = Some(Answer::Done);
const COPY: Task = Task::Copy { credential: SHARE };
const CHANGE: Task = Task::ChangePin { credential: SHARE };

fn refused(refusal: Refusal) -> Option<Answer> {
    Some(Answer::Refused(refusal))
}

/// A record of a set that nobody here made.
fn made_elsewhere(kind: ShareKind, subject: [u8; 16], x: u8) -> [u8; RECORD_BYTES] {
    let (seed, secret) = ([0x5E; 32], [0x5C; 32]);
    let header = ShareHeader {
        kind,
        set_id: card_set::set_id(&card_set::public_key(&seed)),
        subject,
        m: 2,
        n: 3,
        x,
        generation: 1,
        created_s: 0,
        key_id: card_set::key_id(&secret),
    };
    let mut y = [0; 32];
    assert!(card_set::share_of(&seed, &secret, &header.set_id, desk::quorum(2, 3), x, &mut y));
    let mut bytes = [0; RECORD_BYTES];
    record::write(&card_set::sign(&seed, &header, &y), &y, &mut bytes);
    bytes
}

/// A card with this record, on a PIN that was changed elsewhere.
fn holding(desk: &mut Desk, record: &[u8; RECORD_BYTES]) -> usize {
    let number = desk.blank(1)[0];
    let card = desk.card_mut(number);
    card.put(SHARE, RecordPlace::A, record);
    card.point(SHARE, Some(RecordPlace::A));
    card.set_pin(SHARE, code(PIN));
    number
}

/// Plays until the last of these cards is turned away; why. Nothing is written, no try is spent.
fn turned_away(desk: &mut Desk, command: Command, plan: &[usize]) -> (Refusal, u32) {
    let (records, spent) = (desk.records(), desk.tries_spent());
    desk.begin(command, plan);
    let (&last, before) = plan.split_last().expect("a card");
    let mut typed = 0;
    for _ in 0..100 {
        let in_reader =
            desk.cards[last].is_none() && before.iter().all(|card| *card == last || desk.cards[*card].is_some());
        if in_reader && desk.room.wants() == Some(Wants::Remove) && desk.room.last().is_some() {
            break;
        }
        match desk.room.wants() {
            Some(Wants::Insert) => typed = 0,
            Some(Wants::Pin) if in_reader => typed += 1,
            _ => {}
        }
        assert!(desk.step(), "it was not turned away: {:?}", desk.room.ceremony());
    }
    let refusal = desk.room.last().expect("a refusal");
    let id = desk.room.ceremony().expect("a ceremony").id;
    desk.step();
    assert_eq!(desk.room.wants(), Some(Wants::Insert), "the right card is still waited for");
    assert_eq!(desk.room.order(ADMINISTRATOR, Command::CancelCeremony { id }), DONE);
    desk.check();
    desk.collect_all();
    assert_eq!((desk.records(), desk.tries_spent()), (records, spent));
    (refusal, typed)
}

#[test]
fn p11_a_card_that_does_not_fit_is_refused_by_name_before_its_pin_is_asked_for() {
    let mut desk = Desk::with_set(1, 2, 3);
    let cluster = desk.room.stored.cluster.expect("a cluster");
    let blank = desk.blank(1)[0];
    let elsewhere = holding(&mut desk, &made_elsewhere(ShareKind::BackupKey, [0xEE; 16], 1));
    let unknown = holding(&mut desk, &made_elsewhere(ShareKind::BackupKey, cluster, 1));
    let kind = holding(&mut desk, &made_elsewhere(ShareKind::SoPin, cluster, 1));
    let blocked = desk.blank(1)[0];
    let share = *desk.card(0).record(SHARE).expect("a share");
    desk.card_mut(blocked).put(SHARE, RecordPlace::A, &share);
    desk.card_mut(blocked).point(SHARE, Some(RecordPlace::A));
    desk.card_mut(blocked).set_tries_left(SHARE, 0);
    let foreign = desk.with_manner(Manner::Foreign);
    let get = restore(Some(0), None);
    for (command, plan, refusal) in [
        (get, &[0, 0][..], Refusal::CardRepeated),
        (get, &[blank], Refusal::CardBlank),
        (get, &[elsewhere], Refusal::CardForeign),
        (get, &[unknown], Refusal::CardForeign),
        (get, &[kind], Refusal::CardOtherKind),
        (get, &[blocked], Refusal::CardBlocked),
        (get, &[foreign], Refusal::CardUnknown),
        (cards(Task::VerifySet), &[elsewhere], Refusal::CardForeign),
        (replace_set(2, 2), &[blank], Refusal::CardBlank),
        (cards(COPY), &[elsewhere], Refusal::CardForeign),
        (cards(COPY), &[0, 0], Refusal::CardIsSource),
        (cards(COPY), &[0, 1], Refusal::CardOfSet),
        (cards(COPY), &[0, foreign], Refusal::CardUnknown),
        (cards(CHANGE), &[blocked], Refusal::CardBlocked),
        (cards(CHANGE), &[foreign], Refusal::CardUnknown),
        (rotate(2, 2), &[0], Refusal::CardOfSet),
    ] {
        assert_eq!(turned_away(&mut desk, command, plan), (refusal, 0), "{command:?} {plan:?}");
    }
    assert_eq!(desk.run(cards(CHANGE), &[elsewhere]), DONE, "its PIN may be changed here");
}

#[test]
fn p14_a_card_of_the_set_is_no_target_whatever_may_be_overwritten() {
    let mut desk = Desk::with_set(1, 2, 3);
    let at = Places { overwrite: true, ..Places::default() };
    let order = Command::Cards { order: CardOrder { task: COPY, at } };
    assert_eq!(turned_away(&mut desk, order, &[0, 2]), (Refusal::CardOfSet, 0));
}

#[test]
fn p11_a_record_that_only_its_pin_shows_to_be_none_is_refused_by_name() {
    let mut desk = Desk::with_set(1, 2, 3);
    let share = *desk.card(0).record(SHARE).expect("a share");
    let altered = |at: usize| {
        let mut record = share;
        record[at] ^= 1;
        record
    };
    for (record, refusal) in [
        (altered(199), Refusal::CardForged),
        (altered(80), Refusal::CardForged),
        (altered(4), Refusal::CardNewer),
        (altered(0), Refusal::CardNotOurs),
        (altered(40), Refusal::CardForged),
    ] {
        let card = holding(&mut desk, &record);
        for (command, plan) in [(restore(Some(0), None), &[1, card][..]), (cards(COPY), &[card])] {
            assert_eq!(turned_away(&mut desk, command, plan), (refusal, 1), "{plan:?}");
        }
    }
}

#[test]
fn cards_of_a_set_that_never_came_into_force_are_void_everywhere_and_may_be_overwritten() {
    let mut desk = Desk::new(1);
    let new = desk.blank(2);
    desk.begin(create_set(2, 2), &new);
    for _ in 0..7 {
        desk.step();
    }
    let id = desk.room.ceremony().expect("a ceremony").id;
    assert_eq!(desk.room.order(ADMINISTRATOR, Command::CancelCeremony { id }), DONE);
    desk.collect_all();
    assert!(new.iter().all(|card| desk.card(*card).record(SHARE).is_some()), "both were written");
    assert!(desk.sets(SetSubject::BackupKey).current.is_none());
    // Also where no set is in force.
    assert_eq!(turned_away(&mut desk, restore(Some(0), None), &[new[0]]), (Refusal::CardVoid, 0));
    desk.overwrites = false;
    assert_eq!(desk.run(create_set(2, 2), &new), DONE);
    assert_eq!(desk.asked, [], "nobody was asked");
    assert_eq!(desk.run(restore(Some(0), None), &new), DONE);
}

#[test]
fn what_is_on_a_card_is_overwritten_only_when_somebody_agreed() {
    for what in [made_elsewhere(ShareKind::BackupKey, [0xEE; 16], 1), [0x77; RECORD_BYTES]] {
        let mut desk = Desk::with_set(1, 2, 2);
        let card = holding(&mut desk, &what);
        desk.overwrites = false;
        assert_eq!(turned_away(&mut desk, cards(COPY), &[0, card]), (Refusal::CardNotBlank, 0));
        desk.overwrites = true;
        assert_eq!(desk.run(cards(COPY), &[0, card]), DONE);
        assert_eq!(desk.asked, [Question::Overwrite, Question::AnotherCopy]);
        assert_eq!(desk.card(card).record(SHARE), desk.card(0).record(SHARE));
    }
}

#[test]
fn what_was_agreed_to_for_one_card_does_not_count_for_another() {
    let mut desk = Desk::with_set(1, 2, 2);
    let other = made_elsewhere(ShareKind::BackupKey, [0xEE; 16], 1);
    let (first, second) = (holding(&mut desk, &other), holding(&mut desk, &other));
    assert_eq!(desk.run(cards(CHANGE), &[first]), DONE);
    desk.begin(cards(COPY), &[0, first]);
    desk.play_until(Wants::Answer(Question::Overwrite));
    desk.step();
    assert_eq!(desk.room.wants(), Some(Wants::Pin), "agreed: the PIN is asked for");
    desk.take_out(0);
    desk.room.type_pins(0, &[TRANSPORT]);
    let card = desk.cards[second].take().expect("the second");
    desk.room.insert(0, card);
    assert_eq!(desk.room.wants(), Some(Wants::Answer(Question::Overwrite)), "{:?}", desk.room.last());
}

#[test]
fn p8_a_pin_that_was_changed_on_one_card_does_not_count_for_another() {
    let mut desk = Desk::new(1);
    let new = desk.blank(2);
    desk.begin(create_set(2, 2), &new);
    desk.play_until(Wants::Pin);
    // Its PIN was changed; it is pulled, and another comes in its place.
    desk.take_out(0);
    desk.room.type_pins(0, &[PIN]);
    let card = desk.cards[new[1]].take().expect("the second");
    desk.room.insert(0, card);
    assert_eq!(desk.room.wants(), Some(Wants::NewPin), "{:?}", desk.room.last());
}

#[test]
fn p8_a_card_whose_pin_nobody_changes_is_not_enrolled() {
    for command in [create_set(2, 2), cards(COPY)] {
        let mut desk = if command == create_set(2, 2) { Desk::new(1) } else { Desk::with_set(1, 2, 2) };
        let new = desk.blank(1)[0];
        let plan = if command == create_set(2, 2) { vec![new] } else { vec![0, new] };
        let reply = desk.room.begin(AUDITOR, command);
        assert_eq!(desk.room.answer(reply), refused(Refusal::NotAllowed));
        let reply = desk.begin(command, &plan);
        desk.play_until(Wants::NewPin);
        desk.room.at_pad(0, &[Entry::Cancels]);
        assert_eq!(desk.room.last(), Some(Refusal::PadCancelled));
        desk.room.say(ADMINISTRATOR, false);
        desk.check();
        assert_eq!(desk.room.answer(reply), refused(Refusal::CardPinNeverChanged));
        desk.collect_all();
        assert!(desk.card(new).is_on_transport_pin(SHARE));
        assert_eq!(desk.card(new).record(SHARE), None);
    }
}

#[test]
fn p8_a_change_of_unknown_outcome_is_none() {
    // Pulled while the new PIN is set; whichever PIN it has, it is changed once more.
    for heard in [false, true] {
        let mut desk = Desk::new(1);
        let new = desk.blank(2);
        let pull = slotwarden_sim::pin_pad::Pull::Unheard(2);
        let amid = slotwarden_sim::pin_pad::Pull::Amid(2);
        desk.room.pull = Some((0, if heard { pull } else { amid }));
        assert_eq!(desk.run(create_set(2, 2), &new), DONE);
        assert!(desk.shown.contains(&Refusal::CardPinOldOrNew));
        assert!(new.iter().all(|card| !desk.card(*card).is_on_transport_pin(SHARE)));
        assert!(desk.room.stored.cards.values().all(|entry| entry.pin_changed_s.is_some()));
    }
}

#[test]
fn p7_after_an_interrupted_change_the_answer_is_old_or_new_until_a_person_verified() {
    let pulled = |heard| {
        let mut desk = Desk::with_set(1, 2, 2);
        let pull = slotwarden_sim::pin_pad::Pull::Unheard(2);
        let amid = slotwarden_sim::pin_pad::Pull::Amid(2);
        desk.room.pull = Some((0, if heard { pull } else { amid }));
        desk.begin(cards(CHANGE), &[0]);
        desk.play_until(Wants::NewPin);
        desk.step();
        assert_eq!(desk.room.last(), Some(Refusal::CardPinOldOrNew));
        assert_eq!(desk.room.stored.cards[&0].pin_changed_s, None, "nobody knows");
        desk
    };
    for heard in [false, true] {
        // Nobody comes back.
        let mut desk = pulled(heard);
        let id = desk.room.ceremony().expect("it goes on").id;
        desk.room.order(ADMINISTRATOR, Command::CancelCeremony { id });
        assert!(desk.room.answers.values().any(|answer| *answer == Answer::Refused(Refusal::CardPinOldOrNew)));
        // Another card is not the one.
        let mut desk = pulled(heard);
        let other = desk.cards[1].take().expect("the other");
        let first = desk.room.terminals[0].pad.remove().expect("pulled");
        desk.room.insert(0, other);
        assert_eq!(desk.room.last(), Some(Refusal::CardNotExpected));
        desk.take_out(0);
        desk.room.insert(0, first);
        assert_eq!(desk.room.wants(), Some(Wants::Pin), "the new one is typed");
        desk.room.type_pins(0, &[OTHER_PIN]);
        if heard {
            assert_eq!(desk.room.wants(), Some(Wants::Remove));
        } else {
            assert_eq!(desk.room.last(), Some(Refusal::CardPinNotChanged));
            assert_eq!(desk.room.wants(), Some(Wants::Answer(Question::Again)));
            desk.room.say(ADMINISTRATOR, true);
            assert_eq!(desk.room.wants(), Some(Wants::Answer(Question::LastTry)), "pulled amid, and typed wrong");
            desk.room.say(ADMINISTRATOR, true);
            assert_eq!(desk.room.wants(), Some(Wants::NewPin));
            desk.room.type_pins(0, &[PIN, OTHER_PIN, OTHER_PIN]);
        }
        desk.take_out(0);
        desk.check();
        assert_eq!(desk.room.ceremony(), None);
        assert_eq!(desk.card(0).pin(SHARE), code(OTHER_PIN));
    }
}

#[test]
fn p5_whatever_the_pad_says_without_a_pin_is_named_and_costs_no_try() {
    let types = |digits: &str| Entry::Types(code(digits));
    let change = [
        (vec![Entry::LetsTimePass], Refusal::PadTimedOut),
        (vec![Entry::Cancels], Refusal::PadCancelled),
        (vec![types(PIN), types(OTHER_PIN), types("999999")], Refusal::PadMismatch),
        (vec![types(PIN), types("1")], Refusal::PadLength),
    ];
    for (entries, refusal) in change {
        let mut desk = Desk::with_set(1, 2, 2);
        desk.begin(cards(CHANGE), &[0]);
        desk.play_until(Wants::NewPin);
        desk.room.at_pad(0, &entries);
        desk.check();
        assert_eq!(desk.room.last(), Some(refusal));
        assert_eq!(desk.room.wants(), Some(Wants::Answer(Question::Again)), "nothing is tried by itself");
        desk.room.terminals[0].pad.forget();
        desk.play();
        assert_eq!((desk.room.ceremony(), desk.tries_spent()), (None, 0));
        assert_eq!(desk.card(0).pin(SHARE), code(OTHER_PIN));
    }
    for (entry, refusal) in [
        (Entry::LetsTimePass, Refusal::PadTimedOut),
        (Entry::Cancels, Refusal::PadCancelled),
        (types("1"), Refusal::PadLength),
    ] {
        let mut desk = Desk::with_set(1, 2, 2);
        desk.begin(restore(Some(0), None), &[0, 1]);
        desk.play_until(Wants::Pin);
        desk.room.at_pad(0, &[entry]);
        assert_eq!(desk.room.last(), Some(refusal));
        desk.play();
        assert_eq!((desk.room.ceremony(), desk.tries_spent()), (None, 0));
    }
}

#[test]
fn p4_the_last_try_is_asked_about_and_a_blocked_card_is_turned_away() {
    for change in [false, true] {
        let mut desk = Desk::with_set(1, 2, 2);
        let command = if change { cards(CHANGE) } else { restore(Some(0), None) };
        let wrong: &[&str] = if change { &["999999", "888888", "888888"] } else { &["999999"] };
        let wants = if change { Wants::NewPin } else { Wants::Pin };
        desk.begin(command, &[0, 1]);
        desk.play_until(wants);
        desk.room.type_pins(0, wrong);
        assert_eq!((desk.room.wants(), desk.room.last()), (Some(wants), Some(Refusal::CardPinWrong)));
        assert_eq!(desk.room.ceremony().and_then(|status| status.tries_left), Some(2));
        desk.room.type_pins(0, wrong);
        assert_eq!(desk.room.wants(), Some(Wants::Answer(Question::LastTry)));
        let id = desk.room.ceremony().expect("a ceremony").id;
        let untyped = Command::AnswerCeremony { id, yes: true, confirmed: false };
        assert_eq!(desk.room.order(ADMINISTRATOR, untyped), refused(Refusal::LastTryUnconfirmed));
        assert_eq!(desk.room.say(ADMINISTRATOR, false), DONE);
        assert_eq!(desk.room.last(), Some(Refusal::LastTryUnconfirmed));
        desk.take_out(0);
        let card = desk.cards[0].take().expect("the card");
        desk.room.insert(0, card);
        assert_eq!(desk.room.wants(), Some(Wants::Answer(Question::LastTry)), "asked about before anything is typed");
        assert_eq!(desk.room.say(ADMINISTRATOR, true), DONE);
        desk.room.type_pins(0, wrong);
        assert_eq!((desk.room.wants(), desk.room.last()), (Some(Wants::Remove), Some(Refusal::CardBlocked)));
        desk.take_out(0);
        desk.check();
        assert_eq!(desk.card(0).tries_spent(), 3, "as many as people typed");
    }
}

#[test]
fn p4_p26_under_dual_control_the_starter_does_not_confirm_the_last_try() {
    let mut desk = Desk::with_set(1, 2, 2);
    assert_eq!(desk.room.order(ADMINISTRATOR, Command::DualControl { on: true }), DONE);
    desk.card_mut(0).set_tries_left(SHARE, 1);
    desk.begin(cards(CHANGE), &[0]);
    desk.step();
    assert_eq!(desk.room.wants(), Some(Wants::Answer(Question::LastTry)));
    assert_eq!(desk.room.say(ADMINISTRATOR, true), refused(Refusal::SecondPersonWanted));
    assert_eq!(desk.room.say(AUDITOR, true), refused(Refusal::NotAllowed));
    assert_eq!(desk.room.say(SECOND, true), DONE);
    assert_eq!(desk.room.wants(), Some(Wants::NewPin));
}

#[test]
fn p26_p27_what_needs_two_persons_waits_for_the_second_with_all_its_parameters() {
    let mut desk = Desk::with_set(1, 2, 2);
    assert_eq!(desk.room.order(ADMINISTRATOR, Command::DualControl { on: true }), DONE);
    let serial = slotwarden_core::card::CardSerial::new(&desk.card(0).serial()).expect("a serial");
    for command in [
        rotate(2, 2),
        replace_set(2, 2),
        create_set(2, 2),
        restore(Some(0), None),
        cards(Task::Erase { credential: SHARE }),
        cards(Task::Reassign { credential: SHARE, to: CUSTODIAN }),
        Command::CardLost { serial, credential: SHARE },
    ] {
        let answer = desk.room.order(ADMINISTRATOR, command);
        assert!(matches!(answer, Some(Answer::NeedsApproval { .. })), "{command:?} {answer:?}");
        assert_eq!(desk.room.ceremony(), None);
    }
    let Some(Answer::NeedsApproval { id, code }) = desk.room.order(ADMINISTRATOR, restore(Some(1), None)) else {
        panic!("it needs two")
    };
    assert_eq!(desk.room.order(SECOND, Command::Approve { id, code }), DONE);
    for other in [restore(Some(0), None), restore(None, None), restore(Some(1), Some([1; 16]))] {
        let answer = desk.room.order(ADMINISTRATOR, other);
        assert!(matches!(answer, Some(Answer::NeedsApproval { .. })), "{other:?} {answer:?}");
    }
    assert_eq!(desk.run(restore(Some(1), None), &[0, 1]), DONE);
    let answer = desk.room.order(ADMINISTRATOR, restore(Some(1), None));
    assert!(matches!(answer, Some(Answer::NeedsApproval { .. })), "used once");
    for alone in [cards(CHANGE), cards(Task::VerifySet), cards(COPY)] {
        assert_eq!(desk.room.order(ADMINISTRATOR, alone), None, "it began");
        let id = desk.room.ceremony().expect("a ceremony").id;
        assert_eq!(desk.room.order(ADMINISTRATOR, Command::CancelCeremony { id }), DONE);
    }
}

/// Seed 78104: the share that only this card held was counted in, and its set put in force.
#[test]
fn p35_a_card_is_not_declared_lost_while_a_set_is_made_that_counts_it_in() {
    let mut desk = Desk::with_set(1, 2, 2);
    let serial = slotwarden_core::card::CardSerial::new(&desk.card(0).serial()).expect("a serial");
    let lost = Command::CardLost { serial, credential: SHARE };
    desk.begin(replace_set(2, 2), &[0]);
    desk.play_until(Wants::Pin);
    assert_eq!(desk.room.order(SECOND, lost), refused(Refusal::CeremonyUnderWay));
    let id = desk.room.ceremony().expect("a ceremony").id;
    assert_eq!(desk.room.order(ADMINISTRATOR, Command::CancelCeremony { id }), DONE);
    desk.room.at_pad(0, &[Entry::Cancels]);
    desk.room.wait(CEREMONY_MS);
    assert_eq!(desk.room.ceremony(), None);
    assert_eq!(desk.room.order(SECOND, lost), DONE);
}

#[test]
fn p28_a_stranger_neither_begins_feeds_nor_cancels_a_ceremony() {
    let mut desk = Desk::with_set(1, 2, 2);
    let stranger = PersonId(CUSTODIAN.0 + 9);
    for command in [
        create_set(2, 2),
        rotate(2, 2),
        replace_set(2, 2),
        restore(Some(0), None),
        cards(Task::VerifySet),
        cards(Task::Erase { credential: SHARE }),
        cards(Task::Reassign { credential: SHARE, to: stranger }),
    ] {
        for who in [stranger, AUDITOR, PersonId(99)] {
            assert_eq!(desk.room.order(who, command), refused(Refusal::NotAllowed), "{command:?}");
        }
    }
    for command in [cards(CHANGE), cards(COPY)] {
        assert_eq!(desk.room.order(AUDITOR, command), refused(Refusal::NotAllowed));
    }
    desk.begin(cards(CHANGE), &[0]);
    assert_eq!(desk.room.order(SECOND, restore(None, None)), refused(Refusal::CeremonyUnderWay));
    desk.play_until(Wants::NewPin);
    desk.room.at_pad(0, &[Entry::Cancels]);
    let id = desk.room.ceremony().expect("a ceremony").id;
    let cancel = Command::CancelCeremony { id };
    for (who, refusal) in [(stranger, Refusal::CeremonyOfOthers), (AUDITOR, Refusal::NotAllowed)] {
        assert_eq!(desk.room.order(who, cancel), refused(refusal));
        assert_eq!(desk.room.say(who, true), refused(refusal));
    }
    let other = slotwarden_core::ceremony::order::CeremonyId([0; 8]);
    assert_eq!(desk.room.order(ADMINISTRATOR, Command::CancelCeremony { id: other }), refused(Refusal::NoCeremony));
    assert_eq!(desk.room.say(CUSTODIAN, true), DONE, "whose card it is");
    assert_eq!(desk.room.wants(), Some(Wants::NewPin));
    assert_eq!(desk.room.order(CUSTODIAN, cancel), DONE);
    assert_eq!(desk.room.wants(), Some(Wants::End), "the pad has the word");
    for _ in 0..20 {
        assert_eq!(desk.room.order(CUSTODIAN, cancel), DONE);
    }
    desk.room.type_pins(0, &[PIN, OTHER_PIN, OTHER_PIN]);
    assert_eq!(desk.room.ceremony(), None);
    assert_eq!(desk.card_in_reader().pin(SHARE), code(OTHER_PIN));
    assert!(desk.room.answers.values().filter(|answer| **answer == Answer::Done).count() > 20);
}

#[test]
fn a_change_that_was_too_late_to_cancel_is_reported_as_done() {
    let mut desk = Desk::with_set(1, 2, 2);
    let reply = desk.begin(cards(CHANGE), &[0]);
    desk.play_until(Wants::NewPin);
    let id = desk.room.ceremony().expect("a ceremony").id;
    assert_eq!(desk.room.order(ADMINISTRATOR, Command::CancelCeremony { id }), DONE);
    desk.room.type_pins(0, &[PIN, OTHER_PIN, OTHER_PIN]);
    assert_eq!(desk.room.answer(reply), DONE);
    // And one whose card is never taken out.
    desk.take_out(0);
    let reply = desk.begin(cards(CHANGE), &[0]);
    desk.play_until(Wants::Remove);
    desk.room.wait(CARD_REMOVE_MS);
    assert_eq!(desk.room.answer(reply), DONE);
    assert_eq!(desk.card_in_reader().pin(SHARE), code(PIN));
}

#[test]
fn a_card_that_is_never_taken_out_before_the_commit_ends_the_ceremony() {
    let mut desk = Desk::new(1);
    let new = desk.blank(2);
    let reply = desk.begin(create_set(2, 2), &new);
    desk.play_until(Wants::Remove);
    desk.step();
    desk.play_until(Wants::Remove);
    desk.room.wait(CARD_REMOVE_MS);
    assert_eq!(desk.room.answer(reply), refused(Refusal::CeremonyTimedOut));
    assert!(desk.sets(SetSubject::BackupKey).current.is_none());
}

#[test]
fn p29_from_every_state_of_every_ceremony_time_alone_leads_to_its_end() {
    for which in 0..CEREMONIES {
        for steps in 0.. {
            let (name, mut desk, command, plan) = ready(which);
            let reply = desk.begin(command, &plan);
            let went_on = (0..steps).all(|_| desk.step());
            let began_ms = desk.room.now_ms;
            desk.wait_for_the_end();
            assert_eq!(desk.room.ceremony(), None, "{name} after {steps} steps");
            assert!(desk.room.answer(reply).is_some(), "{name} after {steps} steps");
            let longest_ms = CARD_WAIT_MS.max(CARD_REMOVE_MS).max(QUESTION_MS) * 2;
            assert!(desk.room.now_ms - began_ms <= longest_ms.min(CEREMONY_MS), "{name} after {steps} steps");
            // Nobody keeps the reader: the next one begins.
            desk.collect_all();
            desk.credential = SHARE;
            let card = desk.blank(1);
            assert_eq!(desk.run(cards(CHANGE), &card), DONE, "{name} after {steps} steps: {:?}", desk.shown);
            if !went_on {
                break;
            }
        }
    }
}

#[test]
fn p29_a_ceremony_that_meets_nothing_but_wrong_cards_ends() {
    let mut desk = Desk::with_set(1, 2, 3);
    let foreign = desk.with_manner(Manner::Foreign);
    // Whatever went right before counts for the cards after it.
    let plan = [&[foreign; 64][..], &[0], &[foreign; 65]].concat();
    assert_eq!(desk.run(restore(Some(0), None), &plan), refused(Refusal::CeremonyGivenUp));
    assert_eq!(desk.did, 2 * 64 + 3 + 2 * 65, "every card but the last was taken out and asked for anew");
    assert_eq!(desk.run(restore(Some(0), None), &[0, 1]), DONE);
}

#[test]
fn a_reader_that_is_lost_ends_every_ceremony_in_every_state_by_that_name() {
    for which in 0..CEREMONIES {
        for steps in 0.. {
            let (name, mut desk, command, plan) = ready(which);
            let reply = desk.begin(command, &plan);
            if !(0..steps).all(|_| desk.step()) || desk.room.ceremony().is_none() {
                break;
            }
            // At two readers it may be the other one's turn.
            let elsewhere = desk.room.ceremony().is_some_and(|status| status.reader.0 != 0);
            let asked = matches!(desk.room.wants(), Some(Wants::Answer(_)));
            let was_changing = desk.room.wants() == Some(Wants::NewPin) && matches!(name, "change" | "reassign");
            let done = desk.room.wants() == Some(Wants::Remove)
                && matches!(name, "change" | "reassign" | "erase" | "copy" | "copy at two readers");
            desk.room.reader(0, ReaderEvent::Lost);
            desk.check();
            if asked || elsewhere {
                continue;
            }
            let answer = desk.room.answer(reply);
            let expected = match (was_changing, done) {
                (true, _) => None,
                (_, true) if answer == DONE => DONE,
                _ => refused(Refusal::ReaderLost),
            };
            if was_changing {
                assert_ne!(answer, DONE, "{name} after {steps} steps");
                assert_eq!(desk.room.last(), None);
            } else {
                assert_eq!(answer, expected, "{name} after {steps} steps");
            }
        }
    }
}

#[test]
fn p42_no_card_however_it_behaves_brings_a_wrong_set_into_force_or_keeps_a_ceremony_for_ever() {
    for (manner_name, manner) in Manner::ALL {
        for which in 0..CEREMONIES {
            let cards = ready(which).3.len();
            for bad in 0..cards {
                let (name, mut desk, command, plan) = ready(which);
                let spare = desk.blank(1)[0];
                desk.card_mut(plan[bad]).behave(manner);
                let before = desk.sets(SetSubject::BackupKey).current;
                // Whoever is turned away brings another card.
                let mut with_spare = plan.clone();
                with_spare.insert(bad + 1, spare);
                let reply = desk.begin(command, &with_spare);
                for _ in 0..60 {
                    if !desk.step() {
                        break;
                    }
                }
                desk.wait_for_the_end();
                desk.check();
                desk.collect_all();
                let answer = desk.room.answer(reply);
                assert!(answer.is_some(), "{manner_name} {name}: {:?}", desk.room.ceremony());
                let after = desk.sets(SetSubject::BackupKey).current;
                if after != before {
                    assert_eq!(answer, DONE);
                    let set = after.expect("a new one");
                    let good = desk.cards.iter().flatten().filter(|card| holds(card, &set.id)).count();
                    assert!(good >= usize::from(set.quorum.n()), "{manner_name} {name}");
                }
                if manner != Manner::CountsEmptyVerify {
                    assert!(desk.tries_spent() <= desk.typed, "{manner_name} {name}");
                }
            }
        }
    }
}

/// Whether a whole share of this set is on the card.
fn holds(card: &Card, set_id: &[u8; 16]) -> bool {
    let mut y = [0; 32];
    card.record(SHARE)
        .is_some_and(|bytes| record::check(bytes, &mut y).is_ok_and(|record| record.header.set_id == *set_id))
}

#[test]
fn a_full_card_is_refused_by_that_name_and_another_takes_its_place() {
    let mut desk = Desk::new(1);
    let full = desk.with_manner(Manner::Full);
    let new = desk.blank(2);
    assert_eq!(desk.run(create_set(2, 2), &[full, new[0], new[1]]), DONE);
    assert_eq!(desk.shown, [Refusal::CardFull]);
    assert_eq!(desk.card(full).record(SHARE), None);
    assert!(desk.card(new[0]).pin(SHARE) != code(TRANSPORT));
}

#[test]
fn p12_cards_that_do_not_give_the_key_they_name_bring_nothing_into_force() {
    let mut desk = Desk::new(1);
    let whole = made_elsewhere(ShareKind::BackupKey, [0xEE; 16], 1);
    // Signed by whoever made the set, and all the same not a share of its secret.
    let header = ShareHeader { x: 2, ..record::check(&whole, &mut [0; 32]).expect("a record").header };
    let y = [0xBA; 32];
    let mut wrong = [0; RECORD_BYTES];
    record::write(&card_set::sign(&[0x5E; 32], &header, &y), &y, &mut wrong);
    let plan = [holding(&mut desk, &whole), holding(&mut desk, &wrong)];
    assert_eq!(desk.run(restore(Some(0), None), &plan), refused(Refusal::KeyIdDiffers));
    assert_eq!(desk.sets(SetSubject::BackupKey).current, None);
    assert!(!desk.room.calls.contains(&"put backup keys"));
    let good = [plan[0], holding(&mut desk, &made_elsewhere(ShareKind::BackupKey, [0xEE; 16], 3))];
    assert_eq!(desk.run(restore(Some(0), None), &good), DONE);
}

/// Gives an order that needs two, has the second person approve it, and plays it.
fn by_two(desk: &mut Desk, command: impl Fn(&mut Desk) -> Command, plan: &[usize]) -> Option<Answer> {
    let order = command(desk);
    let Some(Answer::NeedsApproval { id, code }) = desk.room.order(ADMINISTRATOR, order) else {
        panic!("it needs two")
    };
    desk.check();
    assert_eq!(desk.room.order(SECOND, Command::Approve { id, code }), DONE);
    let order = command(desk);
    desk.run(order, plan)
}

#[test]
fn p26_a_set_is_under_split_knowledge_only_where_two_decide_and_each_share_has_its_person() {
    let nobody = || {
        let quorum = desk::quorum(2, 2);
        let holders = slotwarden_core::person::Roster::NOBODY;
        let leave_out = slotwarden_core::ceremony::order::SlotSet::NONE;
        cards(Task::CreateSet { quorum, holders, leave_out })
    };
    let mut desk = Desk::new(1);
    let new = desk.blank(2);
    assert_eq!(desk.run(nobody(), &new), DONE, "one who decides alone may name nobody");
    assert!(!desk.backup().split_knowledge);
    let mut desk = Desk::new(1);
    let new = desk.blank(2);
    assert_eq!(desk.room.order(ADMINISTRATOR, Command::DualControl { on: true }), DONE);
    assert_eq!(by_two(&mut desk, |_| nobody(), &[]), refused(Refusal::HoldersInvalid));
    assert_eq!(by_two(&mut desk, |_| create_set(2, 2), &new), DONE);
    assert!(desk.backup().split_knowledge);
}

#[test]
fn p26_fewer_users_for_a_slot_need_two_persons_and_more_do_not() {
    let mut desk = Desk::with_users();
    assert_eq!(desk.room.order(ADMINISTRATOR, Command::DualControl { on: true }), DONE);
    let new = desk.blank(6);
    let fewer = |desk: &mut Desk| desk.slot_cards(0, (1, 2), None, None);
    assert_eq!(by_two(&mut desk, fewer, &[0, 1, new[0], new[1]]), DONE);
    let more = desk.slot_cards(0, (3, 4), None, None);
    assert_eq!(desk.run(more, &[new[0], new[2], new[3], new[4], new[5]]), DONE);
}
