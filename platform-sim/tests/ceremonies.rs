//! Ceremonies from their order to their end: people, cards, pads, tokens and a store in one room.

// A test that panics has found something.
#![allow(clippy::expect_used, clippy::panic)]

mod desk;

use desk::{Desk, OTHER_PIN, PIN, SHARE, cards, create_set, holders, quorum, replace_set, restore, rotate};
use slotwarden_core::card::sets::{Fate, SetSubject};
use slotwarden_core::card::{Credential, ReaderId};
use slotwarden_core::ceremony::Question;
use slotwarden_core::ceremony::order::{CardOrder, Places, SlotSet, SoUse, Task};
use slotwarden_core::command::{Answer, Caller, Command, ReplyId};
use slotwarden_core::effect::{ApplicationSet, Input, SlotId};
use slotwarden_core::fault::Function;
use slotwarden_core::fault::{HsmFailure, Refusal, rv};
use slotwarden_core::limits::{CALL_DEADLINE_MS, STOP_DEADLINE_MS};
use slotwarden_core::person::PersonId;
use slotwarden_core::record::{Mode, Owner};
use slotwarden_core::share::Quorum;
use slotwarden_core::status::CeremonyWait as Wants;
use slotwarden_sim::hsm::Token;
use slotwarden_sim::room::{ADMINISTRATOR, CUSTODIAN};

const DONE: Option<Answer> = Some(Answer::Done);

fn refused(refusal: Refusal) -> Option<Answer> {
    Some(Answer::Refused(refusal))
}

/// Keys of which backup keys a token has.
fn key_ids(token: &Token) -> Vec<[u8; 16]> {
    let mut ids: Vec<[u8; 16]> = token.live.backup_keys.iter().flatten().map(|key| key.key_id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[test]
fn a_ceremony_is_refused_where_the_level_is_not_cards() {
    let mut desk = Desk::new(1);
    desk.room.at_level(slotwarden_core::service::SecurityLevel::None);
    let answer = desk.run(cards(Task::ChangePin { credential: SHARE }), &[]);
    assert_eq!(answer, refused(Refusal::LevelNotCards));
}

#[test]
fn p13_sets_of_every_size_are_created_and_give_keys_to_every_slot() {
    for (m, n) in [(2, 2), (2, 3), (3, 5), (16, 16)] {
        let desk = Desk::with_set(1, m, n);
        let set = desk.backup();
        assert_eq!((set.quorum.m(), set.quorum.n(), set.generation), (m, n, 1));
        for token in &desk.room.tokens {
            assert_eq!(key_ids(token), [set.key_id]);
        }
        let holders: Vec<_> = desk.room.stored.cards.values().map(|entry| entry.holder).collect();
        let expected: Vec<_> = (0..n).map(|number| Some(PersonId(CUSTODIAN.0 + number))).collect();
        assert_eq!(holders, expected);
        assert_eq!(desk.tries_spent(), 0);
    }
}

#[test]
fn a_slot_that_is_left_out_or_fails_does_not_keep_a_set_from_being_created() {
    let mut desk = Desk::new(1);
    let new = desk.blank(2);
    let leave_out = SlotSet::NONE.with(SlotId(1));
    let task = Task::CreateSet { quorum: quorum(2, 2), holders: holders(2), leave_out };
    assert_eq!(desk.run(cards(task), &new), DONE);
    assert_eq!(key_ids(&desk.room.tokens[0]).len(), 1);
    assert!(key_ids(&desk.room.tokens[1]).is_empty());
}

#[test]
fn any_two_cards_of_three_restore_the_key_and_one_does_not() {
    let mut desk = Desk::with_set(1, 2, 3);
    for pair in [[0, 1], [0, 2], [2, 1]] {
        assert_eq!(desk.run(restore(Some(0), None), &pair), DONE, "{pair:?}");
    }
    desk.begin(restore(Some(0), None), &[1]);
    desk.play_until(Wants::Remove);
    desk.step();
    assert_eq!(desk.room.wants(), Some(Wants::Insert), "another one is wanted");
    desk.room.wait(300_000);
    assert_eq!(desk.room.ceremony(), None, "nobody came");
}

#[test]
fn with_one_card_lost_the_others_restore_the_key_and_the_lost_one_does_not() {
    let mut desk = Desk::with_set(1, 2, 3);
    let serial = slotwarden_core::card::CardSerial::new(&desk.card(0).serial()).expect("a serial");
    let lost = Command::CardLost { serial, credential: SHARE };
    assert_eq!(desk.room.order(ADMINISTRATOR, lost), DONE);
    assert_eq!(desk.run(restore(Some(0), None), &[1, 0]), None, "the lost one is asked for again");
    assert_eq!(desk.shown, [Refusal::CardDeclaredLost]);
}

#[test]
fn a_key_that_no_slot_took_is_not_reported_as_restored() {
    let mut desk = Desk::with_set(1, 2, 2);
    desk.room.failing = Some(("put backup keys", HsmFailure::Pkcs11 { code: 0x30, function: Function::Other }));
    for slot in [Some(0), None] {
        let answer = desk.run(restore(slot, None), &[0, 1]);
        assert!(matches!(answer, Some(Answer::Failed(_))), "{answer:?}");
    }
}

#[test]
fn a_store_without_a_set_takes_the_one_on_the_cards_over() {
    for typed in [false, true] {
        let mut desk = Desk::with_set(1, 2, 3);
        let set = desk.backup();
        desk.room.stored.card_sets.clear();
        desk.room.stored.cards.clear();
        desk.reopen();
        assert_eq!(desk.run(restore(None, Some([9; 16])), &[0]), None);
        assert_eq!(desk.shown, [Refusal::CardForeign], "another key was named");
        desk.reopen();
        // Who names no key is asked whether that of the first card is the right one.
        let asked = if typed { &[][..] } else { &[Question::AdoptKey] };
        if !typed {
            desk.overwrites = false;
            assert_eq!(desk.run(restore(None, None), &[2]), refused(Refusal::KeyNotAdopted));
            let now = desk.room.now();
            assert_eq!(desk.room.core().status(now).backup, None, "no set was adopted");
            desk.overwrites = true;
        }
        assert_eq!(desk.run(restore(None, typed.then_some(set.key_id)), &[2, 0]), DONE);
        assert_eq!(desk.asked, asked);
        let adopted = desk.backup();
        assert_eq!((adopted.id, adopted.key_id, adopted.split_knowledge), (set.id, set.key_id, false));
        let now = desk.room.now();
        assert_eq!(desk.room.core().status(now).backup.map(|backup| backup.shares_in_use), Some(2));
        assert_eq!(desk.run(restore(Some(1), None), &[1, 2]), DONE);
        assert_eq!(desk.run(restore(Some(1), Some([9; 16])), &[]), refused(Refusal::KeyIdDiffers));
    }
}

#[test]
fn p12_cards_of_two_sets_of_one_key_are_not_put_together() {
    let mut desk = Desk::with_set(1, 2, 3);
    let new = desk.blank(3);
    let plan = [&[0, 1][..], &new].concat();
    assert_eq!(desk.run(replace_set(2, 3), &plan), DONE);
    desk.room.stored.card_sets.clear();
    desk.room.stored.cards.clear();
    desk.reopen();
    // Of no set is known what became of it: the first card says which one it is to be.
    assert_eq!(desk.run(restore(None, None), &[1, new[2], 2]), DONE);
    assert_eq!(desk.shown, [Refusal::CardOfOtherSet]);
}

#[test]
fn p13_another_set_has_the_same_key_and_the_old_one_is_superseded() {
    let mut desk = Desk::with_set(1, 2, 3);
    let old = desk.backup();
    let new = desk.blank(4);
    let plan = [&[2, 0][..], &new].concat();
    assert_eq!(desk.run(replace_set(3, 4), &plan), DONE);
    let set = desk.backup();
    assert_eq!((set.key_id, set.quorum.m(), set.quorum.n(), set.generation), (old.key_id, 3, 4, 2));
    assert_ne!(set.id, old.id);
    let former = desk.sets(SetSubject::BackupKey).former;
    assert_eq!(former.iter().map(|former| (former.id, former.fate)).collect::<Vec<_>>(), [(old.id, Fate::Superseded)]);
    // A superseded set still brings the key back, but not mixed with another, and nothing else.
    assert_eq!(desk.run(restore(Some(0), None), &[0, 1]), DONE);
    assert_eq!(desk.run(restore(Some(0), None), &[new[3], new[1], new[0]]), DONE);
    for (command, card) in
        [(replace_set(2, 2), 0), (cards(Task::VerifySet), 1), (cards(Task::Copy { credential: SHARE }), 2)]
    {
        desk.begin(command, &[card]);
        desk.step();
        assert_eq!(desk.room.last(), Some(Refusal::CardSuperseded));
        desk.restart();
    }
}

#[test]
fn p17_after_a_rotation_tokens_have_the_keys_of_the_new_key_only() {
    let mut desk = Desk::with_set(1, 2, 2);
    let old = desk.backup();
    let new = desk.blank(3);
    assert_eq!(desk.run(rotate(2, 3), &new), DONE);
    let set = desk.backup();
    assert_ne!(set.key_id, old.key_id);
    for token in &desk.room.tokens {
        assert_eq!(key_ids(token), [set.key_id]);
    }
    assert_eq!(desk.sets(SetSubject::BackupKey).former[0].fate, Fate::Rotated);
    desk.begin(restore(Some(0), None), &[0]);
    desk.step();
    assert_eq!(desk.room.last(), Some(Refusal::CardSuperseded));
}

#[test]
fn a_pin_is_changed_on_own_cards_on_blank_ones_and_of_every_credential() {
    let mut desk = Desk::with_set(1, 2, 2);
    let blank = desk.blank(1)[0];
    let change = cards(Task::ChangePin { credential: SHARE });
    let before = desk.records();
    assert_eq!(desk.run(change, &[0]), DONE);
    assert_eq!(desk.card(0).pin(SHARE), desk::code(OTHER_PIN));
    assert_eq!(desk.run(change, &[blank]), DONE);
    assert_eq!(desk.card(blank).pin(SHARE), desk::code(PIN));
    assert_eq!(desk.records(), before);
    for credential in [Credential::SlotUser, Credential::HsmAdministrator] {
        desk.credential = credential;
        assert_eq!(desk.run(cards(Task::ChangePin { credential }), &[1]), DONE);
        assert!(!desk.card(1).is_on_transport_pin(credential));
    }
}

#[test]
fn a_reassigned_card_is_of_whoever_changed_its_pin() {
    let mut desk = Desk::with_set(1, 2, 2);
    let to = PersonId(CUSTODIAN.0 + 9);
    let answer = desk.run(cards(Task::Reassign { credential: SHARE, to: PersonId(99) }), &[0]);
    assert_eq!(answer, refused(Refusal::HoldersInvalid));
    assert_eq!(desk.run(cards(Task::Reassign { credential: SHARE, to }), &[0]), DONE);
    assert_eq!(desk.room.stored.cards[&0].holder, Some(to));
}

#[test]
fn p14_a_copy_is_the_same_byte_for_byte_and_its_source_stays_as_it_is() {
    for readers in [1, 2] {
        let mut desk = Desk::with_set(readers, 2, 3);
        let new = desk.blank(2);
        let before = desk.card(1).record(SHARE).copied();
        assert_eq!(desk.run(cards(Task::Copy { credential: SHARE }), &[1, new[0], new[1]]), DONE);
        desk.collect_all();
        assert_eq!(desk.card(1).record(SHARE).copied(), before);
        for copy in &new {
            assert_eq!(desk.card(*copy).record(SHARE).copied(), before, "{readers} readers");
        }
        // A copy counts as its source.
        assert_eq!(desk.run(restore(Some(0), None), &[0, new[1]]), DONE);
        desk.begin(restore(Some(0), None), &[new[0], 1]);
        desk.play_until(Wants::Remove);
        desk.step();
        desk.step();
        assert_eq!(desk.room.last(), Some(Refusal::CardRepeated));
    }
}

#[test]
fn no_more_copies_are_offered_than_there_may_be() {
    let mut desk = Desk::with_set(1, 2, 2);
    let new = desk.blank(4);
    let plan = [&[0][..], &new].concat();
    assert_eq!(desk.run(cards(Task::Copy { credential: SHARE }), &plan), DONE);
    assert_eq!(desk.asked, [Question::AnotherCopy; 3], "the fifth card is the last");
    desk.begin(cards(Task::Copy { credential: SHARE }), &[0]);
    desk.step();
    desk.step();
    assert_eq!(desk.room.last(), Some(Refusal::TooManyCopies));
}

#[test]
fn a_set_is_verified_card_by_card_and_compared_with_enough_of_them() {
    for count in 1..=3 {
        let mut desk = Desk::with_set(1, 2, 3);
        desk.room.now_ms += 5_000_000;
        let plan: Vec<usize> = (0..count).collect();
        let before = desk.records();
        assert_eq!(desk.run(cards(Task::VerifySet), &plan), DONE, "{count}");
        assert_eq!(desk.records(), before);
        let later = desk.room.stored.cards.values().filter(|entry| entry.verified_s > Some(1_800_004_000)).count();
        assert_eq!(later, count);
        let compared = |record: &&slotwarden_core::audit::AuditRecord| {
            record.event == slotwarden_core::audit::AuditEvent::KeyCompared
        };
        assert_eq!(desk.room.stored.journal.iter().filter(compared).count(), usize::from(count >= 2));
        assert_eq!(desk.room.calls.iter().filter(|call| **call == "put backup keys").count(), 2, "nothing is imported");
    }
}

#[test]
fn a_card_is_erased_only_where_the_set_can_spare_it() {
    let mut desk = Desk::with_set(1, 2, 3);
    let erase = cards(Task::Erase { credential: SHARE });
    assert_eq!(desk.run(erase, &[2]), DONE);
    assert_eq!(desk.card(2).record(SHARE), None);
    desk.begin(erase, &[0]);
    desk.step();
    assert_eq!(desk.room.last(), Some(Refusal::WouldBreakQuorum));
    desk.reopen();
    assert_eq!(desk.run(cards(Task::Copy { credential: SHARE }), &[0, 2]), DONE, "what was erased is a new card");
    assert_eq!(desk.run(erase, &[0]), DONE, "its copy is left");
    assert_eq!(desk.run(restore(Some(0), None), &[1, 2]), DONE);
}

const USERS: SetSubject = SetSubject::Users(Owner(1));

#[test]
fn users_with_cards_open_a_slot_any_two_of_three_but_not_one() {
    let mut desk = Desk::new(1);
    desk.credential = Credential::SlotUser;
    let new = desk.blank(4);
    let order = desk.slot_cards(0, (2, 3), Some(b"code-of-people"), None);
    assert_eq!(desk.run(order, &new[..3]), DONE);
    assert_eq!(desk.run(cards(Task::Copy { credential: Credential::SlotUser }), &[0, new[3]]), DONE);
    for pair in [[0, 1], [2, 0], [1, 2], [3, 2]] {
        desk.deactivate(0);
        assert_eq!(desk.activate(0, Some(b"code-of-people"), &[]), refused(Refusal::CodeNotOnTop));
        assert_eq!(desk.activate(0, None, &pair), DONE, "{pair:?}");
    }
    desk.deactivate(0);
    desk.begin(Command::Activate { slot: SlotId(0), code: None, confirmed: false }, &[0, 3]);
    desk.play_until(Wants::Remove);
    desk.step();
    desk.step();
    assert_eq!(desk.room.last(), Some(Refusal::CardRepeated), "a copy is the same user");
}

#[test]
fn users_with_cards_on_top_of_a_code_need_both() {
    let mut desk = Desk::new(1);
    desk.credential = Credential::SlotUser;
    let new = desk.blank(3);
    let order = desk.slot_cards(0, (2, 3), Some(b"code-of-people"), Some(b"code-on-top"));
    assert_eq!(desk.run(order, &new), DONE);
    desk.deactivate(0);
    assert_eq!(desk.activate(0, None, &[]), refused(Refusal::CodeMissing));
    let wrong = desk.activate(0, Some(b"code-of-no-use"), &[0, 1]);
    assert_eq!(wrong, refused(Refusal::CodeWrong));
    assert_eq!(desk.activate(0, Some(b"code-on-top"), &[2, 1]), DONE);
}

fn mode(desk: &mut Desk, to: Mode, code: Option<&[u8]>, new_code: Option<&[u8]>) -> Command {
    let code = code.map(|code| desk.secret(code));
    let new_code = new_code.map(|code| desk.secret(code));
    Command::Mode { slot: SlotId(0), to, parts: None, code, new_code, confirmed: false, accept: ApplicationSet::NONE }
}

#[test]
fn a_slot_goes_from_generated_to_cards_to_others_to_manual_to_cards_to_generated() {
    let mut desk = Desk::new(1);
    desk.credential = Credential::SlotUser;
    let to_generated = mode(&mut desk, Mode::Generated, Some(b"code-of-people"), None);
    assert_eq!(desk.run(to_generated, &[]), DONE);
    let new = desk.blank(7);
    let order = desk.slot_cards(0, (2, 3), None, None);
    assert_eq!(desk.run(order, &new[..3]), DONE);
    let first = desk.sets(USERS).current.expect("a set");
    let order = desk.slot_cards(0, (3, 3), None, None);
    assert_eq!(desk.run(order, &[&new[..2], &new[3..6]].concat()), DONE, "the old cards, then new ones");
    assert_eq!(desk.sets(USERS).former[0].id, first.id);
    desk.deactivate(0);
    desk.begin(Command::Activate { slot: SlotId(0), code: None, confirmed: false }, &[0]);
    desk.step();
    assert_eq!(desk.room.last(), Some(Refusal::CardSuperseded));
    desk.restart();
    assert_eq!(desk.activate(0, None, &new[3..6]), DONE);
    let to_manual = mode(&mut desk, Mode::Manual, None, Some(b"another-code"));
    assert_eq!(desk.run(to_manual, &new[3..6]), DONE);
    assert_eq!(desk.sets(USERS).current, None);
    desk.deactivate(0);
    assert_eq!(desk.activate(0, Some(b"another-code"), &[]), DONE);
    let order = desk.slot_cards(0, (1, 2), Some(b"another-code"), None);
    assert_eq!(desk.run(order, &[new[0], new[6]]), DONE, "one suffices");
    desk.deactivate(0);
    assert_eq!(desk.activate(0, None, &[new[6]]), DONE);
    let to_generated = mode(&mut desk, Mode::Generated, None, None);
    assert_eq!(desk.run(to_generated, &[new[0]]), DONE);
    assert_eq!(desk.sets(USERS).current, None);
    assert_eq!(desk.room.core().slot_record(SlotId(0)).map(|record| record.mode), Some(Mode::Generated));
}

const ADMINISTRATORS: SetSubject = SetSubject::Administrators(Owner(1));

fn by_so(then: SoUse) -> Command {
    Command::BySoCards { slot: SlotId(0), then, confirmed: true, at: Places::default() }
}

fn unblock() -> Command {
    by_so(SoUse::Unblock { to: Mode::Generated, new_code: None, accept: ApplicationSet::NONE })
}

#[test]
fn cards_give_the_so_pin_and_other_cards_after_them() {
    let mut desk = Desk::new(1);
    desk.credential = Credential::HsmAdministrator;
    let new = desk.blank(5);
    let order = desk.so_cards(0, (2, 3), Some(b"so-pin-of-people"));
    assert_eq!(desk.run(order, &[]), refused(Refusal::DeactivateFirst));
    desk.deactivate(0);
    let order = desk.so_cards(0, (2, 3), Some(b"so-pin-of-nobody"));
    assert_eq!(desk.run(order, &new[..3]), refused(Refusal::SoPinWrong));
    assert_eq!(desk.sets(ADMINISTRATORS).current, None);
    let order = desk.so_cards(0, (2, 3), Some(b"so-pin-of-people"));
    assert_eq!(desk.run(order, &new[..3]), DONE);
    assert_eq!(desk.run(unblock(), &[0, 2]), DONE);
    assert_eq!(desk.room.core().slot_record(SlotId(0)).map(|record| record.mode), Some(Mode::Generated));
    desk.deactivate(0);
    let order = desk.so_cards(0, (2, 2), None);
    assert_eq!(desk.run(order, &[&new[1..3], &new[3..5]].concat()), DONE);
    desk.begin(unblock(), &[0]);
    desk.step();
    assert_eq!(desk.room.last(), Some(Refusal::CardSuperseded));
    desk.restart();
    desk.deactivate(0);
    let decommission = by_so(SoUse::Decommission { accept: ApplicationSet::NONE });
    assert_eq!(desk.run(decommission, &[new[4], new[3]]), DONE);
}

#[test]
fn an_so_pin_of_unknown_outcome_keeps_every_set_that_may_count_also_while_another_is_made() {
    let unknown = HsmFailure::Pkcs11 { code: rv::DEVICE_ERROR, function: Function::SetPin };
    for token_has_new in [false, true] {
        let mut desk = Desk::new(1);
        desk.credential = Credential::HsmAdministrator;
        desk.deactivate(0);
        let new = desk.blank(8);
        let order = desk.so_cards(0, (2, 2), Some(b"so-pin-of-people"));
        assert_eq!(desk.run(order, &new[..2]), DONE);
        let old_pin = desk.room.tokens[0].live.so_pin;
        let order = desk.so_cards(0, (2, 2), None);
        if token_has_new {
            assert_eq!(desk.run(order, &new[..4]), DONE);
            // As if the token had not answered.
            let mut sets = desk.sets(ADMINISTRATORS);
            (sets.next, sets.calling) = (sets.current.take(), true);
            let before = sets.former.pop().expect("the first set");
            sets.current = Some(slotwarden_core::card::sets::CardSet {
                id: before.id,
                key_id: before.key_id,
                generation: before.generation,
                ..sets.next.expect("the second set")
            });
            desk.room.stored.card_sets.insert(ADMINISTRATORS, sets);
            desk.restart();
        } else {
            desk.room.failing = Some(("set so pin", unknown));
            let answer = desk.run(order, &new[..4]);
            assert!(matches!(answer, Some(Answer::Failed(_))), "{answer:?}");
            desk.room.failing = None;
            assert_eq!(desk.room.tokens[0].live.so_pin, old_pin);
        }
        let sets = desk.sets(ADMINISTRATORS);
        assert!(sets.calling && sets.next.is_some() && sets.current.is_some());
        // Cards of both are in use: neither is written over.
        let spare = desk.blank(1)[0];
        for card in [0, 2] {
            let order = desk.so_cards(0, (1, 1), Some(b"so-pin-of-people"));
            desk.begin(order, &[card]);
            desk.step();
            assert_eq!(desk.room.last(), Some(Refusal::CardOfSet));
            desk.restart();
            assert!(desk.sets(ADMINISTRATORS).calling, "what is in doubt stays so");
        }
        // The wrong SO PIN, and another set that comes to nothing.
        let order = desk.so_cards(0, (1, 1), Some(b"so-pin-of-nobody"));
        assert_eq!(desk.run(order, &[spare]), refused(Refusal::SoPinWrong));
        let sets = desk.sets(ADMINISTRATORS);
        assert!(sets.calling && sets.next.is_some() && sets.current.is_some());
        let right = if token_has_new { &new[2..4] } else { &new[..2] };
        let order = desk.so_cards(0, (2, 2), None);
        assert_eq!(desk.run(order, &[right, &new[4..6]].concat()), DONE);
        assert_eq!(desk.run(unblock(), &new[4..6]), DONE);
        let sets = desk.sets(ADMINISTRATORS);
        assert!(!sets.calling && sets.next.is_none() && sets.doubted.is_none());
    }
}

#[test]
fn a_free_token_is_not_needed_twice_init_by_cards_takes_their_so_pin() {
    let mut desk = Desk::new(1);
    desk.credential = Credential::HsmAdministrator;
    desk.deactivate(0);
    let new = desk.blank(2);
    let order = desk.so_cards(0, (2, 2), Some(b"so-pin-of-people"));
    assert_eq!(desk.run(order, &new), DONE);
    let init = by_so(SoUse::Init { free_slot: None });
    assert_eq!(desk.run(init, &new), refused(Refusal::SlotHasToken), "a slot with a token is not initialised");
}

#[test]
fn a_transcript_is_signed_once_at_its_end() {
    let mut desk = Desk::with_set(1, 2, 2);
    assert_eq!(desk.room.signed.len(), 1);
    desk.begin(restore(Some(0), None), &[0]);
    desk.play_until(Wants::Pin);
    desk.room.wait(slotwarden_core::limits::CEREMONY_MS);
    desk.room.pad_times_out(0);
    assert_eq!(desk.room.ceremony(), None);
    assert_eq!(desk.room.signed.len(), 2);
    for (id, head) in desk.room.signed.clone() {
        let lines = &desk.room.stored.transcripts[&id.0];
        assert_eq!(lines.iter().fold([0; 32], |before, line| line.hash(&before)), head);
    }
}

fn typed_share(desk: &mut Desk, who: u8, code: Option<&[u8]>) -> Option<Answer> {
    let code = code.map(|code| desk.secret(code));
    let share = Command::Share { slot: SlotId(0), code, confirmed: false };
    desk.room.order(PersonId(CUSTODIAN.0 + who), share)
}

/// The order for two of two typed shares.
fn split(desk: &mut Desk, code: Option<&[u8]>) -> Command {
    let quorum = Quorum::new(2, 2).expect("a quorum");
    let code = code.map(|code| desk.secret(code));
    let accept = ApplicationSet::NONE;
    Command::Split { slot: SlotId(0), quorum, custodians: holders(2), code, confirmed: false, accept }
}

/// Each custodian fetches their share and types it back.
fn hand_out(desk: &mut Desk) -> Vec<Vec<u8>> {
    (0..2)
        .map(|who| {
            let shown = typed_share(desk, who, None);
            assert!(matches!(shown, Some(Answer::Share { .. })), "{shown:?}");
            let text = desk.room.shown.take().expect("shown").bytes().to_vec();
            let confirmed = typed_share(desk, who, Some(&text));
            assert!(matches!(confirmed, Some(Answer::Done | Answer::Waits(_))), "{confirmed:?}");
            text
        })
        .collect()
}

#[test]
fn a_slot_goes_from_typed_shares_to_cards_and_back() {
    let mut desk = Desk::new(1);
    desk.credential = Credential::SlotUser;
    let order = split(&mut desk, Some(b"code-of-people"));
    desk.run(order, &[]);
    let texts = hand_out(&mut desk);
    let new = desk.blank(2);
    let order = desk.slot_cards(0, (2, 2), None, None);
    let answer = desk.run(order, &new);
    assert!(matches!(answer, Some(Answer::Waits(_))), "the cards are ready, and the old shares are wanted: {answer:?}");
    assert!(desk.sets(USERS).current.is_none() && desk.sets(USERS).next.is_some());
    for (who, text) in (0..).zip(&texts) {
        let entered = typed_share(&mut desk, who, Some(text));
        assert!(matches!(entered, Some(Answer::Done | Answer::Waits(_))), "{entered:?}");
    }
    desk.check();
    let sets = desk.sets(USERS);
    assert!(sets.current.is_some() && sets.next.is_none());
    desk.deactivate(0);
    assert_eq!(desk.activate(0, None, &new), DONE);

    let order = split(&mut desk, None);
    let answer = desk.run(order, &new);
    assert!(matches!(answer, Some(Answer::Waits(_))), "the cards were read, and shares are handed out: {answer:?}");
    assert!(desk.sets(USERS).current.is_some(), "the cards count until every share was typed back");
    hand_out(&mut desk);
    desk.check();
    assert!(desk.sets(USERS).current.is_none() && desk.sets(USERS).next.is_none());
    assert_eq!(desk.sets(USERS).former.last().map(|former| former.fate), Some(Fate::Rotated));
}

#[test]
fn cards_for_a_slot_come_to_nothing_when_its_typed_shares_do_not_come() {
    let mut desk = Desk::new(1);
    desk.credential = Credential::SlotUser;
    let order = split(&mut desk, Some(b"code-of-people"));
    desk.run(order, &[]);
    let texts = hand_out(&mut desk);
    let new = desk.blank(2);
    let order = desk.slot_cards(0, (2, 2), None, None);
    desk.run(order, &new);
    desk.room.wait(slotwarden_core::limits::COLLECTION_IDLE_MS);
    desk.check();
    let sets = desk.sets(USERS);
    assert_eq!((sets.current, sets.next), (None, None));
    assert_eq!(sets.former.last().map(|former| former.fate), Some(Fate::Void));
    desk.deactivate(0);
    for (who, text) in (0..).zip(&texts) {
        typed_share(&mut desk, who, Some(text));
    }
    let state = desk.room.core().slot_state(SlotId(0));
    assert!(matches!(state, Some(slotwarden_core::slot::State::Active { .. })), "{state:?}");
}

#[test]
fn p2_without_a_usable_reader_no_ceremony_begins() {
    let mut desk = Desk::new(0);
    let change = Task::ChangePin { credential: SHARE };
    assert_eq!(desk.room.order(ADMINISTRATOR, cards(change)), refused(Refusal::NoReader));
    let mut desk = Desk::new(1);
    let at = Places { reader: Some(ReaderId(7)), ..Places::default() };
    let order = Command::Cards { order: CardOrder { task: change, at } };
    assert_eq!(desk.room.order(ADMINISTRATOR, order), refused(Refusal::UnknownReader));
}

#[test]
fn p29_p42_orders_that_come_faster_than_they_become_durable_do_not_halt_the_service() {
    let mut desk = Desk::with_set(1, 2, 2);
    let now = desk.room.now();
    for number in 0..40 {
        let caller = |reply| Caller { who: CUSTODIAN, reply: ReplyId(reply) };
        let command = cards(Task::ChangePin { credential: SHARE });
        let _ = desk.room.core().handle(now, Input::Command { caller: caller(1_000 + 2 * number), command });
        if let Some(id) = desk.room.core().ceremony().map(slotwarden_core::ceremony::Ceremony::id) {
            let command = Command::CancelCeremony { id };
            let _ = desk.room.core().handle(now, Input::Command { caller: caller(1_001 + 2 * number), command });
        }
    }
    desk.room.input(Input::Tick);
    desk.check();
    assert_eq!(desk.room.ceremony(), None);
    assert_eq!(desk.run(restore(Some(0), None), &[0, 1]), DONE);
}

#[test]
fn an_so_pin_change_that_is_not_answered_keeps_both_sets_whoever_or_whatever_ends_it() {
    for stops in [false, true] {
        let mut desk = Desk::new(1);
        desk.credential = Credential::HsmAdministrator;
        desk.deactivate(0);
        let new = desk.blank(4);
        let order = desk.so_cards(0, (2, 2), Some(b"so-pin-of-people"));
        assert_eq!(desk.run(order, &new[..2]), DONE);
        desk.room.silent = Some("set so pin");
        let order = desk.so_cards(0, (2, 2), None);
        let reply = desk.begin(order, &new);
        desk.play();
        let ceremony = desk.room.ceremony().expect("it waits for the HSM");
        assert_eq!(ceremony.wait, Wants::Hsm);
        let cancel = Command::CancelCeremony { id: ceremony.id };
        assert_eq!(desk.room.order(ADMINISTRATOR, cancel), refused(Refusal::CeremonyNotNow));
        if stops {
            desk.room.begin(ADMINISTRATOR, Command::Stop);
            if desk.room.core.is_some() {
                desk.room.wait(STOP_DEADLINE_MS);
            }
            assert!(desk.room.core.is_none());
            desk.room.silent = None;
            desk.restart();
        } else {
            desk.room.wait(CALL_DEADLINE_MS);
            assert!(matches!(desk.room.answer(reply), Some(Answer::Failed(_))));
            desk.room.answer_late();
        }
        desk.check();
        let sets = desk.sets(ADMINISTRATORS);
        assert_eq!((sets.current.is_some(), sets.next.is_some(), sets.calling), (true, true, true));
        assert_eq!(desk.run(unblock(), &new[..2]), refused(Refusal::SoPinWrong), "the token took the new one");
        assert_eq!(desk.run(unblock(), &new[2..]), DONE);
        let proven = desk.sets(ADMINISTRATORS);
        assert_eq!((proven.current, proven.next, proven.calling), (sets.next, None, false), "that decided");
    }
}

#[test]
fn so_pin_changes_that_stay_unanswered_twice_want_a_proof_before_another() {
    let mut desk = Desk::new(1);
    desk.credential = Credential::HsmAdministrator;
    desk.deactivate(0);
    let new = desk.blank(8);
    let order = desk.so_cards(0, (2, 2), Some(b"so-pin-of-people"));
    assert_eq!(desk.run(order, &new[..2]), DONE);
    let unknown = HsmFailure::Pkcs11 { code: rv::DEVICE_ERROR, function: Function::SetPin };
    desk.room.failing = Some(("set so pin", unknown));
    for made in [&new[2..4], &new[4..6]] {
        let order = desk.so_cards(0, (2, 2), None);
        let answer = desk.run(order, &[&new[..2], made].concat());
        assert!(matches!(answer, Some(Answer::Failed(_))), "{answer:?}");
    }
    assert_eq!(desk.sets(ADMINISTRATORS).in_force().count(), 3);
    let order = desk.so_cards(0, (2, 2), None);
    assert_eq!(desk.run(order, &[]), refused(Refusal::SoPinOldOrNew));
    desk.room.failing = None;
    desk.room.wait(slotwarden_core::limits::BACK_OFF_LAST_MS);
    assert_eq!(desk.run(unblock(), &new[..2]), DONE);
    assert_eq!(desk.sets(ADMINISTRATORS).in_force().count(), 1);
    desk.deactivate(0);
    let order = desk.so_cards(0, (2, 2), None);
    assert_eq!(desk.run(order, &[&new[..2], &new[6..]].concat()), DONE);
}

#[test]
fn a_slot_that_never_answers_does_not_keep_a_set_from_coming_into_force() {
    let mut desk = Desk::new(1);
    let new = desk.blank(2);
    desk.room.silent = Some("put backup keys");
    let reply = desk.begin(create_set(2, 2), &new);
    desk.play();
    for _ in 0..2 {
        assert_eq!(desk.room.wants(), Some(Wants::Hsm));
        desk.room.wait(CALL_DEADLINE_MS);
        desk.check();
    }
    assert_eq!(desk.room.answer(reply), DONE);
    desk.room.answer_late();
    desk.check();
    assert_eq!(desk.run(restore(None, None), &new), DONE);
}
