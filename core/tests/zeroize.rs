//! Zeroize in the core (P41): who may, when it is taken, how every slot lets go, what is never ended.

// A test that panics has found something; the lints are for the rules.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![allow(clippy::std_instead_of_core, clippy::wildcard_enum_match_arm)]

mod world;

use slotwarden_core::command::{Answer, Command};
use slotwarden_core::effect::{ApplicationSet, HsmCall, Input};
use slotwarden_core::fault::{ApplicationFault, Fault, Function, Refusal};
use slotwarden_core::limits::{ZEROIZE_DEADLINE_MS, ZEROIZE_WORKER_MS};
use slotwarden_core::person::{PersonId, Role};
use slotwarden_core::record::{Change, ChangeKind, Doubt, Knowledge, Mode, SlotRecord, Unblocking};
use slotwarden_core::status::StateName;
use slotwarden_core::transfer::{Reached, Restoration};
use world::{SLOT, World};

const DONE: Answer = Answer::Done;
const ALICE: PersonId = PersonId(3);
const BOB: PersonId = PersonId(9);
const OTTO: PersonId = PersonId(11);

fn refused(refusal: Refusal) -> Answer {
    Answer::Refused(refusal)
}

/// An active slot with a generated code.
fn active() -> World {
    let mut world = World::with_token(b"right code");
    world.generated();
    assert_eq!(world.state(), StateName::Active);
    world
}

fn of_two() -> World {
    let mut world =
        World::of_persons(&[(3, &[Role::Administrator]), (9, &[Role::Administrator]), (11, &[Role::Operator])]);
    assert_eq!(world.order_as(ALICE, Command::DualControl { on: true }), DONE);
    world
}

/// Time passes, and the core hears of it when it wanted to.
fn passes(world: &mut World, ms: u64) {
    world.now_ms += ms;
    world.raw(Input::Tick);
}

#[test]
fn p41_one_person_alone_destroys_nothing_under_dual_control_and_two_do() {
    let mut world = of_two();
    assert_eq!(world.order_as(OTTO, Command::Zeroize), refused(Refusal::NotAllowed));
    let Answer::NeedsApproval { id, code } = world.order_as(ALICE, Command::Zeroize) else { panic!("it needs two") };
    assert_eq!(world.order_as(ALICE, Command::Approve { id, code }), refused(Refusal::ApprovalOwn));
    assert_eq!(world.order_as(OTTO, Command::Approve { id, code }), refused(Refusal::NotAllowed));
    assert!(world.zeroized.is_empty() && !world.stopped);
    assert_eq!(world.order_as(BOB, Command::Approve { id, code }), DONE);
    assert!(world.zeroized.is_empty(), "an approval alone does nothing");
    assert_eq!(world.order_as(ALICE, Command::Zeroize), DONE);
    assert!(world.zeroized == [ALICE] && world.stopped);
}

#[test]
fn p41_a_halted_service_is_zeroized_by_two_persons_and_takes_no_other_approval() {
    let mut world = of_two();
    let adopt = Command::AdoptConfiguration { digest: [7; 32] };
    let Answer::NeedsApproval { id: other, code: of_other } = world.order_as(ALICE, adopt) else { panic!("two") };
    world.store_fails = true;
    assert_eq!(world.order_as(BOB, Command::DualControl { on: false }), refused(Refusal::StoreFailed));
    assert_eq!(world.order_as(BOB, Command::Approve { id: other, code: of_other }), refused(Refusal::Halted));
    let Answer::NeedsApproval { id, code } = world.order_as(ALICE, Command::Zeroize) else { panic!("it needs two") };
    assert_eq!(world.order_as(BOB, Command::Approve { id, code }), DONE);
    assert_eq!(world.order_as(ALICE, Command::Zeroize), DONE);
    assert!(world.zeroized == [ALICE] && world.stopped);
}

#[test]
fn p41_every_slot_lets_go_and_the_safe_is_wiped_before_the_answer() {
    let mut world = active();
    assert!(world.handed_over.is_some());
    assert_eq!(world.order(Command::Zeroize), DONE);
    assert!(world.handed_over.is_none(), "the application gave the PIN back");
    assert!(world.calls.contains(&HsmCall::Logout));
    assert_eq!(world.service.secrets_taken_and_owned().0, 0);
    assert!(world.service.free_places_are_wiped() && world.stopped && !world.ended_worker);
}

#[test]
fn p41_a_hung_call_ends_with_the_worker_and_others_are_refused_meanwhile() {
    let mut world = active();
    world.silent = Some(|call| matches!(call, HsmCall::Logout));
    let (reply, answer) = world.ask(Command::Zeroize);
    assert_eq!(answer, None);
    assert_eq!(world.order(Command::Boot), refused(Refusal::Zeroizing));
    passes(&mut world, ZEROIZE_WORKER_MS - 1);
    assert!(!world.ended_worker && world.handed_over.is_none(), "the application is not kept waiting");
    passes(&mut world, 1);
    assert!(world.ended_worker);
    world.input(Input::WorkerLost);
    assert_eq!(world.answers.get(&reply), Some(&DONE));
    assert!(world.stopped);
}

#[test]
fn p41_a_call_that_replaces_a_pin_is_never_ended_and_the_answer_says_what_hangs() {
    let mut world = active();
    world.silent = Some(|call| matches!(call, HsmCall::SetPin { .. }));
    let change =
        Command::ChangeCode { slot: SLOT, code: None, new_code: None, confirmed: false, accept: ApplicationSet::NONE };
    let (of_change, _) = world.ask(change);
    let (reply, answer) = world.ask(Command::Zeroize);
    assert_eq!((answer, world.answers.get(&of_change)), (None, Some(&refused(Refusal::Zeroizing))));
    passes(&mut world, ZEROIZE_WORKER_MS);
    passes(&mut world, ZEROIZE_DEADLINE_MS - ZEROIZE_WORKER_MS);
    assert!(!world.ended_worker, "a kill inside C_SetPIN can destroy a token");
    assert_eq!(world.answers.get(&reply), Some(&Answer::Failed(Fault::Unanswered(Function::SetPin))));
    assert!(world.stopped && !world.zeroized.is_empty());
}

#[test]
fn p41_what_waits_for_a_disk_that_hangs_is_dropped_and_the_key_is_destroyed_at_once() {
    let mut world = active();
    assert_eq!(world.order(Command::Deactivate { slot: SLOT }), DONE);
    let logins = world.logins;
    world.hold = true;
    let (of_activate, _) = world.ask(Command::Activate { slot: SLOT, code: None, confirmed: false });
    let (reply, _) = world.ask(Command::Zeroize);
    assert_eq!(world.zeroized.len(), 1, "it waits for no commit");
    assert_eq!(world.answers.get(&reply), Some(&DONE));
    assert_eq!(world.answers.get(&of_activate), Some(&refused(Refusal::Zeroizing)));
    assert_eq!(world.logins, logins, "nothing begins any more");
}

#[test]
fn an_application_that_does_not_give_the_pin_back_is_named_and_a_disk_that_refuses_too() {
    let mut world = active();
    world.app_fails = true;
    let answer = world.order(Command::Zeroize);
    assert!(matches!(answer, Answer::Failed(Fault::Application(_))), "{answer:?}");
    let mut world = active();
    world.app_silent = true;
    let (reply, _) = world.ask(Command::Zeroize);
    passes(&mut world, ZEROIZE_WORKER_MS);
    passes(&mut world, ZEROIZE_DEADLINE_MS - ZEROIZE_WORKER_MS);
    let unanswered = Answer::Failed(Fault::Application(ApplicationFault::Unanswered));
    assert_eq!(world.answers.get(&reply), Some(&unanswered));
    let mut world = active();
    world.zeroize_result = Err(Fault::StoreFailed);
    assert_eq!(world.order(Command::Zeroize), Answer::Failed(Fault::StoreFailed));
    assert!(world.stopped && world.handed_over.is_none());
}

#[test]
fn p41_a_record_forgets_what_was_sealed_and_keeps_what_people_know() {
    let uid = [1; 16];
    let generated = SlotRecord { mode: Mode::Generated, accepted: Some(3), ..SlotRecord::new(uid) };
    let left = generated.without_sealed_codes();
    assert_eq!((left.mode, left.sealed(), left.lacks_its_code()), (Mode::Generated, [None; 3], true));
    for kind in [ChangeKind::GeneratedToGenerated, ChangeKind::GeneratedToManual, ChangeKind::Unblock] {
        let next = Some(Knowledge::Shares);
        let amid =
            SlotRecord { change: Some(Change::calling(kind)), pending: Some(4), knowledge_next: next, ..generated };
        let left = amid.without_sealed_codes();
        assert_eq!((left.change, left.pending, left.knowledge_next), (None, None, None), "{kind:?}");
    }
    // Nobody but people is needed for these.
    let manual = SlotRecord {
        change: Some(Change::calling(ChangeKind::ManualToManual)),
        knowledge_next: Some(Knowledge::Shares),
        doubt: Some(Doubt::OldOrNew),
        unblocking: Some(Unblocking::drawn(5)),
        ..SlotRecord::new(uid)
    };
    assert_eq!(manual.without_sealed_codes(), SlotRecord { unblocking: None, ..manual });
    let doubtful = SlotRecord { doubt: Some(Doubt::BothRefused), pending: Some(4), ..generated };
    assert_eq!(doubtful.without_sealed_codes().doubt, None);
    let restoration =
        |reached| Restoration { owner: slotwarden_core::record::Owner(1), uid, key_id: uid, file: [2; 32], reached };
    assert_eq!(restoration(Reached::Committed).given_up(), restoration(Reached::Preparing));
    assert_eq!(restoration(Reached::Made).given_up(), restoration(Reached::Made));
}
