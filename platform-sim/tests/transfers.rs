//! Exports and restores in the room: what they come to, what is refused, and power that goes at every
//! commit, every call of the HSM, every command of a card and every step at a file.

// A test that panics has found something.
#![allow(clippy::expect_used, clippy::panic)]

mod desk;

use desk::{Desk, cards, rotate};
use slotwarden_core::audit::AuditEvent;
use slotwarden_core::ceremony::order::{SlotSet, Task};
use slotwarden_core::command::{Answer, Command};
use slotwarden_core::effect::{ImportPlan, Input, SlotId};
use slotwarden_core::fault::{Fault, Function, HsmFailure, Refusal, rv};
use slotwarden_core::limits::{DROP_AGAIN_MS, SLOT_PATIENCE_MS};
use slotwarden_core::service::SecurityLevel;
use slotwarden_core::slot;
use slotwarden_core::status::TransferStage;
use slotwarden_core::token::{LoginState, Presence};
use slotwarden_core::transfer::{Reached, State, TransferOrder};
use slotwarden_core::{Now, backup};
use slotwarden_sim::room::{ADMINISTRATOR, AUDITOR, Cut, CutWay, stretched};
use slotwarden_sim::vault::Keys;

const DONE: Option<Answer> = Some(Answer::Done);
const SLOT: SlotId = SlotId(0);
const FILE: [u8; 32] = [0xF1; 32];

fn refused(refusal: Refusal) -> Option<Answer> {
    Some(Answer::Refused(refusal))
}

fn keys() -> Keys {
    Keys::from([(1, 11), (2, 22), (3, 33)])
}

fn export(slots: &[u8]) -> Command {
    let slots = slots.iter().map(|slot| SlotId(*slot)).fold(SlotSet::NONE, SlotSet::with);
    Command::Transfer { order: TransferOrder::Export { slots, left_out: [0; 32], passphrase: None } }
}

fn import(slot: SlotId, file: [u8; 32]) -> Command {
    Command::Transfer { order: TransferOrder::Import { slot, file } }
}

fn abandon(file: [u8; 32]) -> Command {
    Command::Transfer { order: TransferOrder::Abandon { file } }
}

const END: Command = Command::Transfer { order: TransferOrder::EndRestore };

/// A set of two cards, and three keys in the first slot's token.
fn desk() -> Desk {
    let mut desk = Desk::with_set(1, 2, 2);
    desk.room.vault.tokens[0] = keys();
    desk
}

/// The same with an export of it, and nothing in the token any more.
fn with_export() -> Desk {
    let mut desk = desk();
    assert_eq!(desk.run(export(&[0]), &[]), DONE);
    desk.room.vault.tokens[0].clear();
    desk
}

fn uid(desk: &mut Desk) -> [u8; 16] {
    desk.room.core().slot_record(SLOT).expect("it is configured").uid
}

fn restore(desk: &mut Desk) -> Command {
    let (uid, key_id) = (uid(desk), desk.backup().key_id);
    cards(Task::Restore { slot: SLOT, uid, key_id, file: FILE })
}

fn state(desk: &mut Desk) -> State {
    desk.room.core().transfer_state()
}

#[test]
fn p19_a_restore_makes_nothing_before_it_is_ordered_and_everything_after() {
    let mut desk = with_export();
    let order = restore(&mut desk);
    assert_eq!(desk.room.order(ADMINISTRATOR, import(SLOT, FILE)), refused(Refusal::NothingPrepared));
    assert_eq!(desk.run(order, &[0, 1]), DONE);
    assert!(desk.room.vault.tokens[0].is_empty(), "it is a plan");
    assert!(desk.room.vault.unwraps[0].is_some());
    let State::Prepared { plan, .. } = state(&mut desk) else { panic!("{:?}", state(&mut desk)) };
    assert_eq!(plan, ImportPlan { new: 3, same: 0, conflict: 0, removed: 0 });
    // Whoever may not, another file, another slot, and what would come in between.
    assert_eq!(desk.room.order(AUDITOR, import(SLOT, FILE)), refused(Refusal::NotAllowed));
    assert_eq!(desk.room.order(ADMINISTRATOR, import(SLOT, [0; 32])), refused(Refusal::NothingPrepared));
    assert_eq!(desk.room.order(ADMINISTRATOR, import(SlotId(1), FILE)), refused(Refusal::NothingPrepared));
    assert_eq!(desk.room.order(ADMINISTRATOR, export(&[0])), refused(Refusal::TransferUnderWay));
    let again = restore(&mut desk);
    assert_eq!(desk.run(again, &[]), refused(Refusal::TransferUnderWay));
    // Nobody waits for a token that is not open.
    desk.deactivate(0);
    assert_eq!(desk.room.order(ADMINISTRATOR, import(SLOT, FILE)), refused(Refusal::SlotNotActive));
    assert_eq!(desk.room.order(ADMINISTRATOR, END), refused(Refusal::SlotNotActive));
    assert_eq!(desk.activate(0, Some(b"code-of-people"), &[]), DONE);
    assert_eq!(desk.room.order(ADMINISTRATOR, import(SLOT, FILE)), DONE);
    assert_eq!(desk.room.vault.tokens[0], keys());
    assert_eq!(desk.room.vault.unwraps[0], None, "U is for one restore");
    assert_eq!((state(&mut desk), desk.room.stored.restoration), (State::Idle, None));
    let made = |record: &slotwarden_core::audit::AuditRecord| record.event == AuditEvent::ImportDone { made: 3 };
    assert!(desk.room.stored.journal.iter().any(made));
    desk.check();
}

#[test]
fn p25_a_key_with_the_same_id_and_another_value_refuses_the_import_and_stays() {
    let mut desk = with_export();
    desk.room.vault.tokens[0].insert(2, 99);
    let order = restore(&mut desk);
    assert_eq!(desk.run(order, &[0, 1]), DONE);
    assert_eq!(desk.room.order(ADMINISTRATOR, import(SLOT, FILE)), refused(Refusal::ImportConflicts));
    assert_eq!(desk.room.vault.tokens[0], Keys::from([(2, 99)]));
    assert_eq!(desk.room.order(ADMINISTRATOR, END), DONE);
    assert_eq!((state(&mut desk), desk.room.vault.unwraps[0]), (State::Idle, None));
    assert_eq!(desk.room.order(ADMINISTRATOR, END), refused(Refusal::NothingPrepared));
}

#[test]
fn p20_what_no_export_can_be_made_of_is_refused_by_name() {
    let mut desk = Desk::new(1);
    assert_eq!(desk.room.order(ADMINISTRATOR, export(&[0])), refused(Refusal::NoBackupKey));
    let mut desk = self::desk();
    assert_eq!(desk.room.order(AUDITOR, export(&[0])), refused(Refusal::NotAllowed));
    assert_eq!(desk.room.order(ADMINISTRATOR, export(&[])), refused(Refusal::NoSlotChosen));
    assert_eq!(desk.room.order(ADMINISTRATOR, export(&[9])), refused(Refusal::UnknownSlot));
    desk.deactivate(1);
    assert_eq!(desk.room.order(ADMINISTRATOR, export(&[0, 1])), refused(Refusal::SlotNotActive));
    assert_eq!(desk.room.vault.last, None);
    let failure = HsmFailure::Pkcs11 { code: rv::DEVICE_ERROR, function: Function::WrapKey };
    desk.room.failing = Some(("export section", failure));
    let failed = Some(Answer::Failed(Fault::Pkcs11 { code: rv::DEVICE_ERROR, function: Function::WrapKey }));
    assert_eq!(desk.room.order(ADMINISTRATOR, export(&[0])), failed);
    desk.room.failing = Some(("export section", HsmFailure::Refused(Refusal::KeysCannotLeave)));
    assert_eq!(desk.room.order(ADMINISTRATOR, export(&[0])), refused(Refusal::KeysCannotLeave));
    assert_eq!((desk.room.vault.part.clone(), desk.room.vault.last.clone()), (None, None));
    desk.room.failing = None;
    assert_eq!(desk.room.order(ADMINISTRATOR, export(&[0])), DONE);
    desk.room.at_level(SecurityLevel::None);
    assert_eq!(desk.room.order(ADMINISTRATOR, export(&[0])), refused(Refusal::ExportLevelNone));
}

/// Whoever brings this card for the order is told that it is of something else, and gives up.
#[track_caller]
fn turns_away(desk: &mut Desk, order: Command, card: usize) {
    desk.begin(order, &[card]);
    desk.step();
    desk.step();
    desk.step();
    assert_eq!(desk.room.last(), Some(Refusal::CardForeign), "{:?}", desk.shown);
    let id = desk.room.ceremony().expect("it goes on").id;
    assert_eq!(desk.room.order(ADMINISTRATOR, Command::CancelCeremony { id }), DONE);
    desk.collect_all();
}

#[test]
fn cards_of_another_key_restore_nothing_and_those_of_a_former_one_do() {
    let mut desk = with_export();
    let order = restore(&mut desk);
    let new = desk.blank(2);
    assert_eq!(desk.run(rotate(2, 2), &new), DONE);
    // The new cards are of another key than the file's: each is refused, and nothing reaches the token.
    turns_away(&mut desk, order, new[0]);
    assert_eq!((state(&mut desk), desk.room.vault.unwraps[0]), (State::Idle, None));
    let current = desk.backup();
    assert_eq!(desk.run(order, &[0, 1]), DONE);
    assert_eq!(desk.room.order(ADMINISTRATOR, import(SLOT, FILE)), DONE);
    assert_eq!(desk.room.vault.tokens[0], keys());
    assert_eq!(desk.backup(), current, "the old key is not in force again");
}

/// The MACs of the export that was made last, with the cards of the key that is in force now.
fn verify(desk: &mut Desk) -> Command {
    cards(Task::VerifyFile { key_id: desk.backup().key_id, file: FILE })
}

fn verified(desk: &Desk) -> usize {
    desk.room.stored.journal.iter().filter(|record| record.event == AuditEvent::FileVerified(FILE)).count()
}

#[test]
fn p19_a_file_that_was_altered_or_is_of_another_key_is_not_called_verified() {
    let mut desk = with_export();
    let order = verify(&mut desk);
    assert_eq!(desk.room.order(AUDITOR, order), refused(Refusal::NotAllowed));
    desk.room.vault.altered = true;
    assert_eq!(desk.run(order, &[0, 1]), refused(Refusal::ExportOfAnotherKey));
    desk.room.vault.altered = false;
    let made = desk.room.vault.last.take();
    assert_eq!(desk.run(order, &[0, 1]), Some(Answer::Failed(Fault::StoreFailed)), "there is no file");
    desk.room.vault.last = made;
    // The new cards are of another key than the one that the file names, and the old ones of its own.
    let new = desk.blank(2);
    assert_eq!(desk.run(rotate(2, 2), &new), DONE);
    turns_away(&mut desk, order, new[0]);
    // Whoever names the new key for the file of the old one.
    let other = verify(&mut desk);
    assert_eq!(desk.run(other, &new), refused(Refusal::ExportOfAnotherKey));
    assert_eq!(verified(&desk), 0);
    assert_eq!(desk.run(order, &[0, 1]), DONE);
    assert_eq!(verified(&desk), 1);
    desk.check();
}

#[test]
fn a_file_is_verified_with_cards_while_no_slot_is_open_and_no_token_is_asked_anything() {
    let mut desk = with_export();
    desk.deactivate(0);
    desk.deactivate(1);
    let calls = desk.room.calls.len();
    let order = verify(&mut desk);
    assert_eq!(desk.run(order, &[0, 1]), DONE);
    assert_eq!((verified(&desk), &desk.room.calls[calls..]), (1, &[][..]));
    assert_eq!((state(&mut desk), desk.room.stored.restoration), (State::Idle, None));
    // What is being restored is not exchanged for a file that is only looked at.
    open_all(&mut desk);
    let prepare = restore(&mut desk);
    assert_eq!(desk.run(prepare, &[0, 1]), DONE);
    assert_eq!(desk.run(order, &[]), refused(Refusal::TransferUnderWay));
    assert_eq!(desk.room.order(ADMINISTRATOR, import(SLOT, FILE)), DONE);
    desk.check();
}

#[test]
fn power_that_goes_amid_a_verification_changes_nothing() {
    let mut cuts = 0;
    for way in [CutWay::Before, CutWay::After, CutWay::Amid] {
        for after in 0.. {
            let mut desk = with_export();
            let (tokens, last) = (desk.room.vault.tokens.clone(), desk.room.vault.last.clone());
            let set = desk.backup();
            let order = verify(&mut desk);
            desk.room.cut = Some(Cut { after, way });
            let reply = desk.begin(order, &[0, 1]);
            desk.play();
            if desk.room.core.is_some() {
                assert_eq!(desk.room.answer(reply), DONE);
                break;
            }
            cuts += 1;
            let note = format!("cut {way:?} {after}");
            desk.restart();
            assert!(desk.room.ceremony().is_none(), "{note}");
            assert_eq!((desk.room.vault.tokens.clone(), desk.room.vault.last.clone()), (tokens, last), "{note}");
            assert_eq!(desk.backup(), set, "{note}");
            desk.collect_all();
            assert_eq!(desk.run(order, &[0, 1]), DONE, "{note}");
            desk.check();
        }
    }
    println!("{cuts} power cuts");
    assert!(cuts > 20, "{cuts}");
}

#[test]
fn a_restore_that_the_token_refuses_ends_by_that_name_and_leaves_no_u() {
    for failure in [
        HsmFailure::Refused(Refusal::KeysCannotLeave),
        HsmFailure::Pkcs11 { code: rv::DEVICE_ERROR, function: Function::UnwrapKey },
    ] {
        let mut desk = with_export();
        desk.room.failing = Some(("prepare import", failure));
        let order = restore(&mut desk);
        let expected = match failure {
            HsmFailure::Refused(refusal) => Answer::Refused(refusal),
            other => Answer::Failed(other.fault(Function::UnwrapKey)),
        };
        assert_eq!(desk.run(order, &[0, 1]), Some(expected));
        assert_eq!(desk.room.calls.last(), Some(&"drop unwrap key"), "whatever it did before it failed");
        assert_eq!((state(&mut desk), desk.room.stored.restoration), (State::Idle, None));
        desk.check();
    }
}

#[test]
fn an_import_that_fails_stands_still_and_goes_on_when_it_is_ordered_again() {
    let mut desk = with_export();
    let order = restore(&mut desk);
    assert_eq!(desk.run(order, &[0, 1]), DONE);
    let failure = HsmFailure::Pkcs11 { code: rv::DEVICE_MEMORY, function: Function::UnwrapKey };
    desk.room.failing = Some(("import", failure));
    let failed = Some(Answer::Failed(failure.fault(Function::UnwrapKey)));
    assert_eq!(desk.room.order(ADMINISTRATOR, import(SLOT, FILE)), failed);
    assert!(matches!(state(&mut desk), State::Halfway { .. }));
    assert_eq!(desk.room.order(ADMINISTRATOR, END), refused(Refusal::ImportHalfway));
    desk.room.failing = None;
    assert_eq!(desk.room.order(ADMINISTRATOR, import(SLOT, FILE)), DONE);
    assert_eq!((desk.room.vault.tokens[0].clone(), desk.room.vault.unwraps[0]), (keys(), None));
}

/// An import of three keys that stands still with two of them in the token.
fn with_half_an_import() -> Desk {
    let mut desk = with_export();
    let order = restore(&mut desk);
    assert_eq!(desk.run(order, &[0, 1]), DONE);
    let failure = HsmFailure::Pkcs11 { code: rv::DEVICE_ERROR, function: Function::UnwrapKey };
    desk.room.failing = Some(("import", failure));
    let failed = Some(Answer::Failed(failure.fault(Function::UnwrapKey)));
    assert_eq!(desk.room.order(ADMINISTRATOR, import(SLOT, FILE)), failed);
    desk.room.vault.tokens[0] = Keys::from([(1, 11), (2, 22)]);
    desk.room.failing = None;
    desk
}

#[test]
fn an_import_that_cannot_end_is_given_up_with_what_it_made_and_without_u() {
    let mut desk = with_export();
    assert_eq!(desk.room.order(ADMINISTRATOR, abandon(FILE)), refused(Refusal::NothingHalfway));
    let order = restore(&mut desk);
    assert_eq!(desk.run(order, &[0, 1]), DONE);
    assert_eq!(desk.room.order(ADMINISTRATOR, abandon(FILE)), refused(Refusal::NothingHalfway), "END ends a plan");
    let mut desk = with_half_an_import();
    assert_eq!(desk.room.order(AUDITOR, abandon(FILE)), refused(Refusal::NotAllowed));
    assert_eq!(desk.room.order(ADMINISTRATOR, abandon([0; 32])), refused(Refusal::NothingHalfway));
    assert_eq!(desk.room.order(ADMINISTRATOR, abandon(FILE)), DONE);
    assert_eq!(desk.room.vault.tokens[0], Keys::from([(1, 11), (2, 22)]));
    assert_eq!((state(&mut desk), desk.room.stored.restoration, desk.room.vault.unwraps[0]), (State::Idle, None, None));
    // Nothing is in the way of the next one, which makes what is missing.
    let order = restore(&mut desk);
    assert_eq!(desk.run(order, &[0, 1]), DONE);
    assert_eq!(desk.room.order(ADMINISTRATOR, import(SLOT, FILE)), DONE);
    assert_eq!(desk.room.vault.tokens[0], keys());
    desk.check();
}

#[test]
fn an_import_whose_slot_is_closed_for_ever_is_given_up_and_u_goes_when_it_is_opened_after_all() {
    for plan_only in [true, false] {
        let mut desk = if plan_only {
            let mut desk = with_export();
            let order = restore(&mut desk);
            assert_eq!(desk.run(order, &[0, 1]), DONE);
            desk
        } else {
            with_half_an_import()
        };
        desk.deactivate(0);
        assert_eq!(
            desk.room.order(ADMINISTRATOR, export(&[1])),
            refused(Refusal::TransferUnderWay),
            "as long as it lasts"
        );
        assert_eq!(desk.room.order(ADMINISTRATOR, END), refused(Refusal::SlotNotActive));
        assert_eq!(desk.room.order(ADMINISTRATOR, abandon(FILE)), DONE);
        assert_eq!((state(&mut desk), desk.room.stored.restoration), (State::Idle, None));
        assert_eq!(desk.run(export(&[1]), &[]), DONE, "others go on");
        assert!(desk.room.vault.unwraps[0].is_some(), "nobody could take it away");
        assert_eq!(desk.activate(0, Some(b"code-of-people"), &[]), DONE);
        assert_eq!(desk.room.vault.unwraps[0], None);
        desk.check();
    }
}

#[test]
fn p24_power_that_goes_while_an_import_is_given_up_leaves_it_as_it_was_or_given_up() {
    let mut cuts = 0;
    for way in [CutWay::Before, CutWay::After, CutWay::Amid] {
        for after in 0.. {
            let mut desk = with_half_an_import();
            desk.room.cut = Some(Cut { after, way });
            let reply = desk.room.begin(ADMINISTRATOR, abandon(FILE));
            let note = format!("cut {way:?} {after}");
            if desk.room.core.is_some() {
                assert_eq!(desk.room.answer(reply), DONE, "{note}");
                break;
            }
            cuts += 1;
            let goes_on = desk.room.stored.restoration.is_some_and(|found| found.reached == Reached::Committed);
            desk.restart();
            open_all(&mut desk);
            assert_eq!((state(&mut desk), desk.room.stored.restoration), (State::Idle, None), "{note}");
            let expected = if goes_on { keys() } else { Keys::from([(1, 11), (2, 22)]) };
            assert_eq!(desk.room.vault.tokens[0], expected, "{note}");
            assert_eq!(desk.room.vault.unwraps[0], None, "{note}: U stays");
            desk.check();
        }
    }
    assert!(cuts > 5, "{cuts}");
}

/// A restore whose plan is known.
fn with_plan() -> Desk {
    let mut desk = with_export();
    let order = restore(&mut desk);
    assert_eq!(desk.run(order, &[0, 1]), DONE);
    desk
}

fn stage(desk: &mut Desk) -> Option<TransferStage> {
    let now = desk.room.now();
    desk.room.core().status(now).transfer.map(|found| found.stage)
}

fn has_ended(desk: &mut Desk) -> bool {
    let ended = (state(desk), desk.room.stored.restoration, desk.room.vault.unwraps[0]) == (State::Idle, None, None);
    ended && desk.room.vault.tokens[0] == keys()
}

#[test]
fn p29_an_import_that_ends_with_its_slot_is_told_and_goes_on_when_the_slot_is_active() {
    for failure in [HsmFailure::Pkcs11 { code: rv::DEVICE_ERROR, function: Function::UnwrapKey }, HsmFailure::TokenGone]
    {
        let mut desk = with_plan();
        (desk.room.silent, desk.room.failing) = (Some("import"), Some(("import", failure)));
        let reply = desk.room.begin(ADMINISTRATOR, import(SLOT, FILE));
        desk.deactivate(0);
        assert_eq!(desk.room.answer(reply), None, "the token has it");
        desk.room.failing = None;
        desk.room.answer_late();
        assert_eq!(desk.room.answer(reply), refused(Refusal::SlotNotActive));
        assert_eq!(stage(&mut desk), Some(TransferStage::Importing));
        assert_eq!(desk.activate(0, Some(b"code-of-people"), &[]), DONE);
        assert!(has_ended(&mut desk), "{:?}", state(&mut desk));
        desk.check();
    }
    // On an open slot the same is a failure that a person looks at.
    let mut desk = with_plan();
    desk.room.failing = Some(("import", HsmFailure::TokenGone));
    assert_eq!(desk.room.order(ADMINISTRATOR, import(SLOT, FILE)), Some(Answer::Failed(Fault::TokenGone)));
    assert!(matches!(state(&mut desk), State::Halfway { .. }));
}

#[test]
fn p29_an_import_that_made_everything_is_done_though_its_slot_was_closed_and_u_goes_when_it_is_opened() {
    for given_up in [false, true] {
        let mut desk = with_plan();
        desk.room.silent = Some("import");
        let reply = desk.room.begin(ADMINISTRATOR, import(SLOT, FILE));
        desk.deactivate(0);
        assert_eq!(desk.room.answer(reply), None, "not before the token said so");
        desk.room.answer_late();
        assert_eq!(desk.room.answer(reply), DONE);
        assert_eq!(desk.room.vault.tokens[0], keys());
        assert_eq!(desk.room.stored.restoration.map(|found| found.reached), Some(Reached::Made));
        assert_eq!(stage(&mut desk), Some(TransferStage::Ending));
        assert!(desk.room.vault.unwraps[0].is_some(), "it was closed before");
        if given_up {
            assert_eq!(desk.room.order(ADMINISTRATOR, abandon(FILE)), DONE);
            assert_eq!((state(&mut desk), desk.room.stored.restoration), (State::Idle, None));
        }
        assert_eq!(desk.activate(0, Some(b"code-of-people"), &[]), DONE);
        assert!(has_ended(&mut desk), "{:?}", state(&mut desk));
        desk.check();
    }
}

#[test]
fn p29_power_that_goes_while_the_slot_of_an_import_is_closed_takes_back_nothing_that_was_said() {
    let mut cuts = 0;
    for way in [CutWay::Before, CutWay::After, CutWay::Amid] {
        for after in 0.. {
            let mut desk = with_plan();
            desk.room.silent = Some("import");
            desk.room.cut = Some(Cut { after, way });
            let reply = desk.room.begin(ADMINISTRATOR, import(SLOT, FILE));
            if desk.room.core.is_some() {
                let _ = desk.room.begin(ADMINISTRATOR, Command::Deactivate { slot: SLOT });
            }
            if desk.room.core.is_some() {
                desk.room.answer_late();
            }
            if desk.room.core.is_some() {
                assert_eq!(desk.room.answer(reply), DONE);
                break;
            }
            cuts += 1;
            let note = format!("cut {way:?} {after}");
            let stored = desk.room.stored.restoration.map(|found| found.reached);
            if desk.room.answer(reply) == DONE {
                assert_eq!(stored, Some(Reached::Made), "{note}");
            }
            desk.room.silent = None;
            desk.restart();
            open_all(&mut desk);
            if stored == Some(Reached::Preparing) {
                assert_eq!((state(&mut desk), desk.room.vault.unwraps[0]), (State::Idle, None), "{note}");
            } else {
                assert!(has_ended(&mut desk), "{note}: {:?}", state(&mut desk));
            }
            desk.check();
        }
    }
    assert!(cuts > 5, "{cuts}");
}

#[test]
fn p29_an_import_does_not_wait_without_end_for_a_worker_that_does_not_come_back() {
    let mut desk = with_plan();
    desk.room.silent = Some("import");
    let reply = desk.room.begin(ADMINISTRATOR, import(SLOT, FILE));
    // What it made it made; nobody hears of it.
    desk.room.input(Input::WorkerLost);
    desk.room.silent = None;
    desk.room.wait(SLOT_PATIENCE_MS - 1);
    assert_eq!(desk.room.answer(reply), None, "a new worker may be there any moment");
    desk.room.wait(1);
    assert_eq!(desk.room.answer(reply), refused(Refusal::SlotNotActive));
    assert_eq!(stage(&mut desk), Some(TransferStage::Importing));
    for token in &mut desk.room.tokens {
        token.session = LoginState::Public;
    }
    for slot in [SlotId(0), SlotId(1)] {
        let presence = Presence::Present(desk.room.tokens[usize::from(slot.0)].state());
        desk.room.input(Input::Token { slot, presence });
    }
    desk.room.input(Input::WorkerUp);
    open_all(&mut desk);
    assert!(has_ended(&mut desk), "{:?}", state(&mut desk));
    desk.check();
}

/// A restore whose keys are all there, and whose U the token did not destroy.
fn with_u_that_stays() -> Desk {
    let mut desk = with_plan();
    let failure = HsmFailure::Pkcs11 { code: rv::DEVICE_ERROR, function: Function::DestroyObject };
    desk.room.failing = Some(("drop unwrap key", failure));
    let failed = Some(Answer::Failed(failure.fault(Function::DestroyObject)));
    assert_eq!(desk.room.order(ADMINISTRATOR, import(SLOT, FILE)), failed);
    assert_eq!(desk.room.vault.tokens[0], keys());
    assert_eq!(stage(&mut desk), Some(TransferStage::Ending));
    desk
}

fn drops(desk: &Desk) -> usize {
    desk.room.calls.iter().filter(|call| **call == "drop unwrap key").count()
}

#[test]
fn a_token_that_did_not_destroy_u_is_asked_again_after_a_while_and_not_before() {
    let mut desk = with_u_that_stays();
    for asked in 1..4 {
        let due_ms = desk.room.core().poll_deadline().expect("it waits for something");
        assert_eq!(due_ms, desk.room.now_ms + DROP_AGAIN_MS);
        assert_eq!(desk.room.order(ADMINISTRATOR, export(&[1])), refused(Refusal::TransferUnderWay));
        desk.room.wait(DROP_AGAIN_MS - 1);
        assert_eq!(drops(&desk), asked);
        desk.room.wait(1);
        assert_eq!(drops(&desk), asked + 1);
    }
    desk.room.failing = None;
    assert!(desk.room.vault.unwraps[0].is_some());
    desk.room.wait(DROP_AGAIN_MS);
    assert!(has_ended(&mut desk), "{:?}", state(&mut desk));
    assert_eq!(desk.run(export(&[0]), &[]), DONE, "others go on");
    // Nothing is left to be done by time: the hourly checkpoint is next.
    assert!(desk.room.core().poll_deadline().is_none_or(|due_ms| due_ms > desk.room.now_ms + DROP_AGAIN_MS));
    desk.check();
    // Opened anew the slot is asked at once.
    let mut desk = with_u_that_stays();
    desk.deactivate(0);
    desk.room.failing = None;
    desk.room.wait(DROP_AGAIN_MS);
    assert_eq!(drops(&desk), 1, "nobody asks a token that is closed");
    open_all(&mut desk);
    assert!(has_ended(&mut desk), "{:?}", state(&mut desk));
    desk.check();
}

#[test]
fn a_restore_whose_u_the_token_does_not_destroy_is_given_up_on_an_open_slot_and_u_goes_at_the_next_opening() {
    let mut desk = with_u_that_stays();
    assert_eq!(desk.room.order(AUDITOR, abandon(FILE)), refused(Refusal::NotAllowed));
    assert_eq!(desk.room.order(ADMINISTRATOR, abandon([0; 32])), refused(Refusal::TransferUnderWay));
    assert_eq!(desk.room.order(ADMINISTRATOR, abandon(FILE)), DONE);
    assert_eq!((state(&mut desk), desk.room.stored.restoration), (State::Idle, None));
    assert_eq!(desk.room.vault.tokens[0], keys());
    assert!(desk.room.vault.unwraps[0].is_some(), "nobody could take it away");
    assert_eq!(desk.run(export(&[0]), &[]), DONE, "others go on");
    desk.room.wait(2 * DROP_AGAIN_MS);
    assert_eq!(drops(&desk), 1);
    desk.deactivate(0);
    // What is exported meanwhile needs no U.
    desk.room.silent = Some("export section");
    let reply = desk.room.begin(ADMINISTRATOR, export(&[1]));
    open_all(&mut desk);
    assert_eq!(desk.room.vault.unwraps[0], None);
    desk.room.answer_late();
    assert_eq!(desk.room.answer(reply), DONE);
    assert!(has_ended(&mut desk), "{:?}", state(&mut desk));
    desk.check();
}

#[test]
fn p24_power_that_goes_while_a_restore_is_given_up_whose_u_stays_keeps_every_key_and_never_u() {
    let mut cuts = 0;
    for way in [CutWay::Before, CutWay::After, CutWay::Amid] {
        for after in 0.. {
            let mut desk = with_u_that_stays();
            desk.room.cut = Some(Cut { after, way });
            let reply = desk.room.begin(ADMINISTRATOR, abandon(FILE));
            let note = format!("cut {way:?} {after}");
            if desk.room.core.is_some() {
                assert_eq!(desk.room.answer(reply), DONE, "{note}");
                break;
            }
            cuts += 1;
            desk.room.failing = None;
            desk.restart();
            open_all(&mut desk);
            assert!(has_ended(&mut desk), "{note}: {:?}", state(&mut desk));
            desk.check();
        }
    }
    assert!(cuts > 2, "{cuts}");
}

const PASSPHRASE: &[u8] = b"five words of nobody's list";

fn export_under(desk: &mut Desk, passphrase: &[u8]) -> Command {
    let passphrase = Some(desk.room.secret(passphrase));
    let slots = SlotSet::NONE.with(SLOT);
    Command::Transfer { order: TransferOrder::Export { slots, left_out: [0; 32], passphrase } }
}

fn restore_by(desk: &mut Desk, passphrase: Option<&[u8]>) -> Command {
    let (uid, key_id) = (uid(desk), backup::key_id(&stretched(PASSPHRASE)));
    let passphrase = passphrase.map(|passphrase| desk.room.secret(passphrase));
    Command::Transfer { order: TransferOrder::Restore { slot: SLOT, uid, key_id, file: FILE, passphrase } }
}

/// Three keys in the first slot's token, and no cards.
fn desk_at_level_passphrase() -> Desk {
    let mut desk = Desk::new(1);
    desk.room.at_level(SecurityLevel::Passphrase);
    open_all(&mut desk);
    desk.room.vault.tokens[0] = keys();
    desk
}

#[test]
fn p20_what_no_passphrase_exports_or_restores_is_refused_by_name_and_each_passphrase_is_wiped() {
    let mut desk = desk_at_level_passphrase();
    assert_eq!(desk.room.order(ADMINISTRATOR, export(&[0])), refused(Refusal::PassphraseMissing));
    let short = export_under(&mut desk, b"thirteen char");
    assert_eq!(desk.room.order(ADMINISTRATOR, short), refused(Refusal::PassphraseTooShort));
    let not_printable = export_under(&mut desk, "f\u{fc}nf W\u{f6}rter am Tisch".as_bytes());
    assert_eq!(desk.room.order(ADMINISTRATOR, not_printable), refused(Refusal::CodeNotPrintable));
    let order = export_under(&mut desk, PASSPHRASE);
    assert_eq!(desk.room.order(AUDITOR, order), refused(Refusal::NotAllowed));
    desk.check();
    desk.room.failing = Some(("export section", HsmFailure::Refused(Refusal::KeysCannotLeave)));
    let order = export_under(&mut desk, PASSPHRASE);
    assert_eq!(desk.room.order(ADMINISTRATOR, order), refused(Refusal::KeysCannotLeave));
    assert_eq!((desk.room.vault.part.clone(), desk.room.vault.last.clone()), (None, None));
    desk.room.failing = None;
    desk.check();
    let order = restore_by(&mut desk, None);
    assert_eq!(desk.room.order(ADMINISTRATOR, order), refused(Refusal::PassphraseMissing));
    let order = export_under(&mut desk, PASSPHRASE);
    assert_eq!(desk.room.order(ADMINISTRATOR, order), DONE);
    let order = restore_by(&mut desk, Some(b"five words of another list"));
    assert_eq!(desk.room.order(ADMINISTRATOR, order), refused(Refusal::PassphraseWrong));
    assert!(!desk.room.calls.contains(&"prepare import"), "the token was not asked");
    desk.check();
    desk.deactivate(0);
    let order = restore_by(&mut desk, Some(PASSPHRASE));
    assert_eq!(desk.room.order(ADMINISTRATOR, order), refused(Refusal::SlotNotActive));
    // What another level made does not come in by this one.
    for (level, exports, restores) in [
        (SecurityLevel::None, Refusal::ExportLevelNone, Refusal::ExportLevelNone),
        (SecurityLevel::Cards, Refusal::PassphraseNotWanted, Refusal::FileOfOtherLevel),
    ] {
        desk.room.at_level(level);
        open_all(&mut desk);
        let order = export_under(&mut desk, PASSPHRASE);
        assert_eq!(desk.room.order(ADMINISTRATOR, order), refused(exports));
        let order = restore_by(&mut desk, Some(PASSPHRASE));
        assert_eq!(desk.room.order(ADMINISTRATOR, order), refused(restores));
        desk.check();
    }
}

#[test]
fn p19_a_restore_by_passphrase_makes_nothing_before_it_is_ordered_and_everything_after() {
    let mut desk = desk_at_level_passphrase();
    let order = export_under(&mut desk, PASSPHRASE);
    assert_eq!(desk.room.order(ADMINISTRATOR, order), DONE);
    desk.room.vault.tokens[0].clear();
    let failure = HsmFailure::Refused(Refusal::ExportOfAnotherKey);
    desk.room.failing = Some(("prepare import", failure));
    let order = restore_by(&mut desk, Some(PASSPHRASE));
    assert_eq!(desk.room.order(ADMINISTRATOR, order), refused(Refusal::ExportOfAnotherKey));
    assert_eq!(desk.room.calls.last(), Some(&"drop unwrap key"), "whatever it did before it failed");
    assert_eq!((state(&mut desk), desk.room.stored.restoration), (State::Idle, None));
    desk.room.failing = None;
    let order = restore_by(&mut desk, Some(PASSPHRASE));
    assert_eq!(desk.room.order(ADMINISTRATOR, order), DONE);
    desk.check();
    assert!(desk.room.vault.tokens[0].is_empty(), "it is a plan");
    let again = restore_by(&mut desk, Some(PASSPHRASE));
    assert_eq!(desk.room.order(ADMINISTRATOR, again), refused(Refusal::TransferUnderWay));
    let again = export_under(&mut desk, PASSPHRASE);
    assert_eq!(desk.room.order(ADMINISTRATOR, again), refused(Refusal::TransferUnderWay));
    desk.check();
    assert_eq!(desk.room.order(ADMINISTRATOR, import(SLOT, FILE)), DONE);
    assert_eq!((desk.room.vault.tokens[0].clone(), desk.room.vault.unwraps[0]), (keys(), None));
    assert_eq!((state(&mut desk), desk.room.stored.restoration), (State::Idle, None));
    desk.check();
}

#[test]
fn a_restore_by_passphrase_whose_slot_is_closed_for_ever_is_given_up_and_u_goes_when_it_is_opened_after_all() {
    let mut desk = desk_at_level_passphrase();
    let order = export_under(&mut desk, PASSPHRASE);
    assert_eq!(desk.room.order(ADMINISTRATOR, order), DONE);
    desk.room.vault.tokens[0].clear();
    let order = restore_by(&mut desk, Some(PASSPHRASE));
    assert_eq!(desk.room.order(ADMINISTRATOR, order), DONE);
    assert_eq!(desk.room.order(ADMINISTRATOR, Command::Deactivate { slot: SLOT }), DONE);
    assert_eq!(desk.room.order(ADMINISTRATOR, abandon(FILE)), DONE);
    assert_eq!((state(&mut desk), desk.room.stored.restoration), (State::Idle, None));
    assert!(desk.room.vault.unwraps[0].is_some(), "nobody could take it away");
    open_all(&mut desk);
    assert_eq!(desk.room.vault.unwraps[0], None);
    let now = Now { mono_ms: 0, wall_s: None };
    assert!(desk.room.core().status(now).slots.iter().all(|slot| slot.backup_key.is_none()));
    desk.check();
}

/// As somebody does who restores a file under a passphrase on an appliance with cards.
#[test]
fn what_the_cards_put_into_tokens_outlasts_a_time_at_level_passphrase() {
    let mut desk = desk();
    assert_eq!(desk.run(export(&[0]), &[]), DONE);
    for level in [SecurityLevel::Passphrase, SecurityLevel::Cards] {
        desk.room.at_level(level);
        open_all(&mut desk);
    }
    assert_eq!(desk.run(export(&[0]), &[]), DONE, "nobody had to bring the cards");
    desk.check();
}

#[test]
fn p24_power_that_goes_amid_a_restore_by_passphrase_leaves_nothing_or_all_of_it_and_never_u() {
    let mut cuts = 0;
    for way in [CutWay::Before, CutWay::After, CutWay::Amid] {
        for after in 0.. {
            let mut desk = desk_at_level_passphrase();
            let order = export_under(&mut desk, PASSPHRASE);
            assert_eq!(desk.room.order(ADMINISTRATOR, order), DONE);
            desk.room.vault.tokens[0].clear();
            let order = restore_by(&mut desk, Some(PASSPHRASE));
            desk.room.cut = Some(Cut { after, way });
            let reply = desk.room.begin(ADMINISTRATOR, order);
            let mut answered = desk.room.answer(reply);
            if desk.room.core.is_some() {
                let reply = desk.room.begin(ADMINISTRATOR, import(SLOT, FILE));
                answered = desk.room.answer(reply);
            }
            if desk.room.core.is_some() {
                assert_eq!(answered, DONE);
                break;
            }
            cuts += 1;
            let note = format!("cut {way:?} {after}");
            let committed = desk.room.stored.restoration.is_some_and(|found| found.reached != Reached::Preparing);
            let had = desk.room.vault.tokens[0].clone();
            desk.restart();
            open_all(&mut desk);
            assert_eq!((state(&mut desk), desk.room.stored.restoration), (State::Idle, None), "{note}");
            assert_eq!(desk.room.vault.unwraps[0], None, "{note}: U stays");
            let now = desk.room.vault.tokens[0].clone();
            if committed || had == keys() {
                assert_eq!(now, keys(), "{note}: it was committed");
            } else {
                assert!(now.is_empty(), "{note}: {now:?}");
            }
            desk.check();
        }
    }
    println!("{cuts} power cuts");
    assert!(cuts > 25, "{cuts}");
}

#[test]
fn p24_what_unwraps_a_former_keys_file_stays_through_a_power_cut_until_the_import_is_made() {
    let mut desk = with_export();
    let order = restore(&mut desk);
    let new = desk.blank(2);
    assert_eq!(desk.run(rotate(2, 2), &new), DONE);
    assert_eq!(desk.run(order, &[0, 1]), DONE);
    // The commit of the import is durable, and nothing after it.
    desk.room.cut = Some(Cut { after: 0, way: CutWay::After });
    let _ = desk.room.begin(ADMINISTRATOR, import(SLOT, FILE));
    assert!(desk.room.core.is_none() && desk.room.stored.restoration.is_some());
    desk.restart();
    open_all(&mut desk);
    assert_eq!((desk.room.vault.tokens[0].clone(), desk.room.vault.unwraps[0]), (keys(), None));
    assert_eq!((state(&mut desk), desk.room.stored.restoration), (State::Idle, None));
}

#[test]
fn a_token_without_room_for_all_keys_has_none_of_them_and_the_restore_can_be_begun_again() {
    let mut desk = with_export();
    desk.room.vault.tokens[0].insert(9, 99);
    desk.room.vault.room_for = Some(3);
    let order = restore(&mut desk);
    assert_eq!(desk.run(order, &[0, 1]), DONE);
    assert_eq!(desk.room.order(ADMINISTRATOR, import(SLOT, FILE)), refused(Refusal::TokenFull));
    assert_eq!(desk.room.vault.tokens[0], Keys::from([(9, 99)]), "what was there before, and nothing else");
    assert_eq!((state(&mut desk), desk.room.stored.restoration), (State::Idle, None));
    assert_eq!(desk.room.vault.unwraps[0], None, "U is gone");
    desk.room.vault.room_for = None;
    assert_eq!(desk.run(order, &[0, 1]), DONE);
    assert_eq!(desk.room.order(ADMINISTRATOR, import(SLOT, FILE)), DONE);
    assert_eq!(desk.room.vault.tokens[0].len(), 4);
    desk.check();
}

#[test]
fn p24_power_that_goes_amid_the_end_of_an_import_without_room_leaves_nothing_of_it() {
    let mut cuts = 0;
    for way in [CutWay::Before, CutWay::After, CutWay::Amid] {
        for after in 0.. {
            let mut desk = with_export();
            desk.room.vault.room_for = Some(2);
            let order = restore(&mut desk);
            assert_eq!(desk.run(order, &[0, 1]), DONE);
            // Two of three are there, as an import leaves them that met its end amid them.
            desk.room.vault.tokens[0] = Keys::from([(1, 11), (2, 22)]);
            desk.room.cut = Some(Cut { after, way });
            let reply = desk.room.begin(ADMINISTRATOR, import(SLOT, FILE));
            let note = format!("cut {way:?} {after}");
            if desk.room.core.is_some() {
                assert_eq!(desk.room.answer(reply), refused(Refusal::TokenFull), "{note}");
                assert!(desk.room.vault.tokens[0].is_empty(), "{note}");
                break;
            }
            cuts += 1;
            let committed = desk.room.stored.restoration.is_some_and(|found| found.reached == Reached::Committed);
            let had = desk.room.vault.tokens[0].clone();
            desk.restart();
            open_all(&mut desk);
            assert_eq!((state(&mut desk), desk.room.stored.restoration), (State::Idle, None), "{note}");
            let now = desk.room.vault.tokens[0].clone();
            // Before it was ordered nobody touches anything.
            assert_eq!(now, if committed { Keys::new() } else { had }, "{note}");
            assert_eq!(desk.room.vault.unwraps[0], None, "{note}: U stays");
            desk.check();
        }
    }
    assert!(cuts > 5, "{cuts}");
}

fn open_all(desk: &mut Desk) {
    for slot in 0..2 {
        if !matches!(desk.room.core().slot_state(SlotId(slot)), Some(slot::State::Active { .. })) {
            assert_eq!(desk.activate(slot, Some(b"code-of-people"), &[]), DONE);
        }
    }
}

#[test]
fn p20_power_that_goes_amid_an_export_leaves_the_former_one_or_the_new_one() {
    let mut cuts = 0;
    for way in [CutWay::Before, CutWay::After, CutWay::Amid] {
        for after in 0.. {
            let mut desk = desk();
            assert_eq!(desk.run(export(&[0]), &[]), DONE);
            let former = desk.room.vault.last.clone();
            desk.room.vault.tokens[0].insert(4, 44);
            desk.room.cut = Some(Cut { after, way });
            let reply = desk.room.begin(ADMINISTRATOR, export(&[0, 1]));
            if desk.room.core.is_some() {
                assert_eq!(desk.room.answer(reply), DONE);
                break;
            }
            cuts += 1;
            let note = format!("cut {way:?} {after}");
            let uids: [[u8; 16]; 2] = [[0xA0; 16], [0xA1; 16]];
            let whole = [(uids[0], desk.room.vault.tokens[0].clone()), (uids[1], Keys::new())].into();
            let last = desk.room.vault.last.clone();
            assert!(last == former || last == Some(whole), "{note}: {last:?}");
            desk.restart();
            open_all(&mut desk);
            assert_eq!(state(&mut desk), State::Idle, "{note}");
            assert_eq!(desk.run(export(&[0, 1]), &[]), DONE, "{note}");
            desk.check();
        }
    }
    println!("{cuts} power cuts");
    assert!(cuts > 15, "{cuts}");
}

#[test]
fn p24_power_that_goes_amid_a_restore_leaves_nothing_or_all_of_it_and_never_u() {
    let mut cuts = 0;
    for way in [CutWay::Before, CutWay::After, CutWay::Amid] {
        for after in 0.. {
            // Once more while it goes on after the first cut.
            let mut whole = true;
            for again in [None, Some(0), Some(1), Some(2), Some(4)] {
                let mut desk = with_export();
                let order = restore(&mut desk);
                desk.room.cut = Some(Cut { after, way });
                desk.begin(order, &[0, 1]);
                desk.play();
                let mut answered = None;
                if desk.room.core.is_some() {
                    let reply = desk.room.begin(ADMINISTRATOR, import(SLOT, FILE));
                    answered = desk.room.answer(reply);
                }
                if desk.room.core.is_some() {
                    assert_eq!(answered, DONE);
                    break;
                }
                whole = false;
                cuts += 1;
                let note = format!("cut {way:?} {after}, again {again:?}");
                assert_ne!(answered, DONE, "{note}: it was said before the end");
                let committed = desk.room.stored.restoration.is_some_and(|found| found.reached != Reached::Preparing);
                let had = desk.room.vault.tokens[0].clone();
                desk.restart();
                if let Some(again) = again {
                    desk.room.cut = Some(Cut { after: again, way });
                    let code = desk.room.secret(b"code-of-people");
                    let open = Command::Activate { slot: SLOT, code: Some(code), confirmed: false };
                    let _ = desk.room.begin(ADMINISTRATOR, open);
                    if desk.room.core.is_none() {
                        cuts += 1;
                        desk.restart();
                    }
                    desk.room.cut = None;
                }
                open_all(&mut desk);
                assert_eq!((state(&mut desk), desk.room.stored.restoration), (State::Idle, None), "{note}");
                assert_eq!(desk.room.vault.unwraps[0], None, "{note}: U stays");
                let now = desk.room.vault.tokens[0].clone();
                if committed || had == keys() {
                    assert_eq!(now, keys(), "{note}: it was committed");
                } else {
                    assert!(now.is_empty(), "{note}: {now:?}");
                }
                desk.check();
            }
            if whole {
                break;
            }
        }
    }
    println!("{cuts} power cuts");
    assert!(cuts > 200, "{cuts}");
}
