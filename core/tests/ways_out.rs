//! Ways out: a blocked token brought back by the SO PIN, a slot's life ended, a dead
//! application left behind. Told as stories; the refusal comes before the success.

// A test that panics has found something; the lints are for the rules.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![allow(clippy::std_instead_of_core, clippy::wildcard_enum_match_arm)]

mod world;

use slotwarden_core::audit::AuditEvent;
use slotwarden_core::command::{Answer, Command};
use slotwarden_core::effect::{ApplicationId, ApplicationSet, HsmAnswer, HsmCall, Input};
use slotwarden_core::fault::{ApplicationFault, Fault, Function, HsmFailure, Refusal, rv};
use slotwarden_core::record::{Attempts, Change, ChangeKind, Doubt, Mode, Owner, SlotRecord, Unblocking};
use slotwarden_core::status::StateName;
use slotwarden_core::token::Presence;
use world::{SLOT, WALL_S, World, interrupted, key};

const DONE: Answer = Answer::Done;

fn refused(refusal: Refusal) -> Answer {
    Answer::Refused(refusal)
}

/// A slot with a generated code whose token somebody blocked past us.
fn blocked() -> World {
    let mut world = World::with_token(b"right code");
    world.generated();
    assert_eq!(world.order(Command::Deactivate { slot: SLOT }), DONE);
    world.block();
    assert_eq!(world.state(), StateName::Blocked);
    world
}

fn is_unblock(call: &HsmCall) -> bool {
    matches!(call, HsmCall::Unblock { .. })
}

/// Orders an unblock whose call the token never answers, and cuts the power there.
fn cut_inside_unblock(world: &mut World, new_code: Option<&str>, took_effect: bool) {
    let command = world.unblocking("right so pin", new_code, false);
    world.silent = Some(is_unblock);
    world.ask(command);
    world.silent = None;
    if took_effect {
        let unblocking = world.record().unblocking;
        let sealed = unblocking.map(|kept| world.sealed[&key(kept.generation)].clone());
        world.pin = new_code.map_or_else(|| sealed.expect("a new code is sealed first"), |code| code.into());
        world.locked = false;
        world.refused = 0;
    }
    world.held.clear();
    world.restart();
}

#[test]
fn an_active_slot_is_not_unblocked_and_not_decommissioned() {
    let mut world = World::with_token(b"right code");
    assert_eq!(world.activate("right code", false), DONE);
    assert_eq!(world.unblock("right so pin", None, false), refused(Refusal::DeactivateFirst));
    assert_eq!(world.decommission(Some("right so pin"), false), refused(Refusal::DeactivateFirst));
    assert_eq!(world.state(), StateName::Active);
    assert_eq!(world.pin, b"right code");
}

#[test]
fn a_token_without_a_user_pin_is_initialised_and_not_unblocked() {
    let mut world = World::with_token(b"right code");
    world.user_pin = false;
    world.present();
    assert_eq!(world.state(), StateName::Uninitialised);
    assert_eq!(world.unblock("right so pin", None, false), refused(Refusal::SlotUninitialised));
}

#[test]
fn codes_that_an_unblock_cannot_use_are_refused_before_the_token_is_touched() {
    let mut world = blocked();
    world.calls.clear();
    let so_pin = world.secret("right so pin");
    let accept = ApplicationSet::NONE;
    let command = Command::Unblock { slot: SLOT, so_pin, to: Mode::Manual, new_code: None, confirmed: false, accept };
    assert_eq!(world.order(command), refused(Refusal::NewCodeMissing));
    let (so_pin, new_code) = (world.secret("right so pin"), Some(world.secret("another code")));
    let command = Command::Unblock { slot: SLOT, so_pin, to: Mode::Generated, new_code, confirmed: false, accept };
    assert_eq!(world.order(command), refused(Refusal::NewCodeNotWanted));
    assert_eq!(world.unblock("right so pin", Some("short"), false), refused(Refusal::CodeTooShort));
    assert_eq!(world.unblock("", None, false), refused(Refusal::CodeMissing));
    assert!(world.calls.is_empty());
    assert_eq!(world.so_refused, 0);
}

#[test]
fn p05_the_so_pin_of_an_unblock_is_counted_confirmed_and_costs_time() {
    let mut world = blocked();
    for expected in [Refusal::SoPinWrong, Refusal::SoPinWrong, Refusal::LastTryUnconfirmed] {
        assert_eq!(world.unblock("wrong so pin", None, false), refused(expected));
    }
    assert_eq!(world.so_refused, 2, "an order without its confirmation costs no try");
    assert_eq!(world.unblock("wrong so pin", None, true), refused(Refusal::SoPinWrong));
    assert_eq!(world.unblock("right so pin", None, true), refused(Refusal::SlotCoolingDown));
    assert_eq!(world.decommission(Some("right so pin"), true), refused(Refusal::SlotCoolingDown));
    world.restart();
    assert_eq!(world.unblock("right so pin", None, true), refused(Refusal::SlotCoolingDown), "it survives a restart");
    assert_eq!(world.sealed.len(), 1, "a code that no call knew is not kept");
    world.now_ms += 30_000;
    assert_eq!(world.unblock("right so pin", None, false), refused(Refusal::LastTryUnconfirmed));
    assert_eq!(world.unblock("right so pin", None, true), DONE);
    assert_eq!(world.record().so, Attempts::default());
}

#[test]
fn a_final_try_of_the_so_pin_needs_a_confirmation_and_a_blocked_one_is_never_tried() {
    let mut world = blocked();
    world.so_final_try = true;
    assert_eq!(world.unblock("right so pin", None, false), refused(Refusal::LastTryUnconfirmed));
    world.so_locked = true;
    assert_eq!(world.unblock("right so pin", None, true), refused(Refusal::SoPinBlocked));
    assert_eq!(world.decommission(Some("right so pin"), true), refused(Refusal::SoPinBlocked));
    assert!(!world.calls.iter().any(|call| is_unblock(call) || matches!(call, HsmCall::Erase { .. })));
    assert_eq!(world.record().by_so, None);
}

#[test]
fn a_blocked_token_is_brought_back_with_a_generated_code_and_opens_by_itself_from_then_on() {
    let mut world = blocked();
    assert_eq!(world.record().so_proven_s, None);
    let before = world.pin.clone();
    assert_eq!(world.unblock("right so pin", None, false), DONE);
    assert_eq!(world.state(), StateName::Active);
    assert_ne!(world.pin, before);
    assert_eq!(world.handed_over.as_ref(), Some(&world.pin));
    assert_eq!(world.objects, 3, "the keys are kept");
    assert_eq!(world.sealed.len(), 1, "the old code is gone: the new one was accepted and settled");
    assert_eq!(world.record().so_proven_s, WALL_S);
    assert_eq!(world.record().unblocking, None);
    world.restart();
    assert_eq!(world.state(), StateName::Active);
}

#[test]
fn p31_a_blocked_token_is_brought_back_with_a_manual_code_that_is_not_stored() {
    let mut world = blocked();
    assert_eq!(world.unblock("right so pin", Some("known to alice"), false), DONE);
    assert_eq!(world.state(), StateName::Active);
    assert_eq!(world.pin, b"known to alice");
    assert!(world.sealed.is_empty());
    assert_eq!(world.record().mode, Mode::Manual);
}

#[test]
fn p35_every_sealed_code_is_kept_until_the_new_one_is_accepted_and_settled() {
    // Both stored codes were refused: doubtful.
    let mut world = interrupted(Attempts::default(), b"neither of the two");
    world.restart();
    assert_eq!(world.record().doubt, Some(Doubt::BothRefused));
    assert_eq!(world.sealed.len(), 2);
    let before = world.record();
    world.answer_to = Some(|call| is_unblock(call).then_some(Err(HsmFailure::NoWorker)));
    assert!(matches!(world.unblock("right so pin", None, false), Answer::Failed(_)));
    assert_eq!(world.sealed.len(), 2, "nothing was called, so everything is as before");
    let after = world.record();
    assert_eq!(SlotRecord { next_generation: before.next_generation, ..after }, before);
    world.answer_to = Some(|call| matches!(call, HsmCall::Settle).then_some(Err(HsmFailure::NotSettled)));
    assert!(matches!(world.unblock("right so pin", None, false), Answer::Failed(_)));
    assert_eq!(world.sealed.len(), 3, "accepted is not settled");
    world.answer_to = None;
    world.restart();
    assert_eq!(world.state(), StateName::Active, "the new code was tried once more, and settled");
    assert_eq!(world.sealed.len(), 1);
    assert_eq!(world.record().doubt, None);
}

#[test]
fn p35_an_unblock_that_was_cut_is_decided_by_the_flags_of_a_token_that_is_still_locked() {
    let mut world = blocked();
    let logins = world.logins;
    cut_inside_unblock(&mut world, None, false);
    assert_eq!(world.state(), StateName::Blocked);
    assert_eq!(world.logins, logins, "no login decides what the flags say");
    assert_eq!(world.record().by_so, None);
    assert_eq!(world.sealed.len(), 2);
}

#[test]
fn p35_an_unblock_that_was_cut_after_the_call_opens_with_the_new_code() {
    let mut world = blocked();
    cut_inside_unblock(&mut world, None, true);
    assert_eq!(world.state(), StateName::Active);
    assert_eq!(world.refused, 0);
    assert_eq!(world.sealed.len(), 1);
}

#[test]
fn p35_a_new_code_that_the_token_refuses_leaves_everything_as_it_was() {
    let mut world = World::with_token(b"right code");
    world.generated();
    assert_eq!(world.order(Command::Deactivate { slot: SLOT }), DONE);
    cut_inside_unblock(&mut world, None, false);
    assert_eq!(world.refused, 1, "one refused login decides");
    assert_eq!(world.state(), StateName::Locked);
    assert_eq!(world.sealed.len(), 2, "the refused one is kept too");
    assert_eq!(world.order(Command::Activate { slot: SLOT, code: None, confirmed: false }), DONE);
    // Another code that is accepted and settled ends what was kept.
    let command =
        Command::ChangeCode { slot: SLOT, code: None, new_code: None, confirmed: false, accept: ApplicationSet::NONE };
    assert_eq!(world.order(command), DONE);
    assert_eq!(world.sealed.len(), 1);
}

#[test]
fn p35_an_unblock_again_after_an_undecided_one_gives_the_same_code() {
    for first_took_effect in [false, true] {
        let mut world = blocked();
        cut_inside_unblock(&mut world, None, first_took_effect);
        if first_took_effect {
            assert_eq!(world.state(), StateName::Active);
            continue;
        }
        let kept = world.record().unblocking.expect("the code of the first unblock is kept");
        let code = world.sealed[&key(kept.generation)].clone();
        cut_inside_unblock(&mut world, None, true);
        assert_eq!(world.pin, code);
        assert_eq!(world.state(), StateName::Active);
        assert_eq!(world.sealed.len(), 1);
    }
}

#[test]
fn p35_what_an_unblock_left_is_tried_on_a_persons_word_and_beside_what_was_there_before() {
    let mut world = blocked();
    cut_inside_unblock(&mut world, None, false);
    // The vendor's tool unlocks the token with the code of the unblock: nobody says so.
    let kept = world.record().unblocking.expect("kept");
    assert!(kept.may_rule());
    world.pin = world.sealed[&key(kept.generation)].clone();
    world.locked = false;
    world.restart();
    assert_eq!(world.state(), StateName::Locked, "the stored code was refused");
    let activate = |confirmed| Command::Activate { slot: SLOT, code: None, confirmed };
    assert_eq!(world.order(activate(false)), refused(Refusal::StoredCodeRefused));
    assert_eq!(world.order(activate(true)), DONE);
    assert_eq!(world.sealed.len(), 1);
}

#[test]
fn p35_an_unblock_to_manual_that_was_cut_is_resolved_by_people() {
    for took_effect in [false, true] {
        let mut world = interrupted(Attempts::default(), b"neither of the two");
        world.restart();
        let refused_before = world.refused;
        cut_inside_unblock(&mut world, Some("known to alice"), took_effect);
        assert_eq!(world.state(), StateName::Doubtful);
        assert_eq!(world.record().doubt, Some(Doubt::OldOrNew));
        assert_eq!(world.record().mode, Mode::Manual);
        assert_eq!(world.sealed.len(), 2, "sealed codes stay until a manual one is accepted");
        if took_effect {
            assert_eq!(world.refused, 0);
            assert_eq!(world.activate("known to alice", true), DONE);
            assert!(world.sealed.is_empty());
        } else {
            assert_eq!(world.refused, refused_before, "nothing is tried without a person");
            assert_eq!(world.unblock("right so pin", Some("known to alice"), true), DONE);
            assert!(world.sealed.is_empty());
        }
    }
}

#[test]
fn p35_an_unblock_to_manual_of_a_token_that_is_still_locked_changed_nothing() {
    let mut world = blocked();
    cut_inside_unblock(&mut world, Some("known to alice"), false);
    assert_eq!(world.state(), StateName::Blocked);
    assert_eq!(world.record().mode, Mode::Generated);
    assert_eq!(world.record().doubt, None);
}

#[test]
fn p33_an_unblock_whose_new_pin_is_refused_is_not_called_active() {
    let mut world = blocked();
    let wrong = Err(HsmFailure::Pkcs11 { code: rv::PIN_INCORRECT, function: Function::Login });
    world.answer_to = Some(|call| {
        let wrong = HsmFailure::Pkcs11 { code: rv::PIN_INCORRECT, function: Function::Login };
        matches!(call, HsmCall::Login { .. }).then_some(Err(wrong))
    });
    let answer = world.unblock("right so pin", None, false);
    assert_eq!(answer, Answer::Failed(wrong.map(|_: HsmAnswer| ()).expect_err("wrong").fault(Function::Login)));
    assert_eq!(world.sealed.len(), 2);
    assert_eq!(world.handed_over, None);
}

#[test]
fn p44_an_answer_of_the_wrong_kind_to_an_unblock_is_decided_by_the_token() {
    let mut world = blocked();
    world.answer_to = Some(|call| is_unblock(call).then_some(Ok(HsmAnswer::LoggedIn)));
    let answer = world.unblock("right so pin", None, false);
    assert_eq!(answer, Answer::Failed(Fault::ModuleLies(Function::InitPin)));
    assert_eq!(world.state(), StateName::Blocked);
    assert_eq!(world.sealed.len(), 2);
}

#[test]
fn a_recovery_undoes_an_unblock_that_was_only_intended() {
    let mut world = blocked();
    let mut record = world.record();
    record.by_so = Some(Change::intended(ChangeKind::Unblock));
    record.unblocking = Some(Unblocking::drawn(record.next_generation));
    world.sealed.insert(key(record.next_generation), b"drawn and sealed".to_vec());
    record.next_generation += 1;
    world.records.insert(Owner(7), record);
    world.restart();
    assert_eq!((world.record().by_so, world.record().unblocking), (None, None));
    assert_eq!(world.sealed.len(), 1);
}

#[test]
fn a_decommission_erases_token_and_codes_and_the_slot_begins_anew() {
    let mut world = blocked();
    assert_eq!(world.decommission(None, false), refused(Refusal::TokenIsThere));
    assert_eq!(world.decommission(Some("wrong so pin"), false), refused(Refusal::SoPinWrong));
    assert_eq!((world.objects, world.sealed.len()), (3, 1));
    let before = world.record();
    assert_eq!(world.decommission(Some("right so pin"), false), DONE);
    assert_eq!((world.objects, world.sealed.len()), (0, 0));
    assert_eq!(world.state(), StateName::Uninitialised);
    let expected =
        SlotRecord { next_generation: before.next_generation, so_proven_s: WALL_S, ..SlotRecord::new(before.uid) };
    assert_eq!(world.record(), expected, "the uid stays, and generations go on");
    assert!(world.journal.iter().any(|record| record.event == AuditEvent::SlotForgotten));
    assert_eq!(world.init("right so pin", false), DONE);
    assert_eq!(world.state(), StateName::Active);
}

#[test]
fn p35_a_decommission_that_was_cut_is_decided_by_the_flags() {
    for took_effect in [false, true] {
        let mut world = blocked();
        let so_pin = Some(world.secret("right so pin"));
        let command = Command::Decommission { slot: SLOT, so_pin, confirmed: false, accept: ApplicationSet::NONE };
        world.silent = Some(|call| matches!(call, HsmCall::Erase { .. }));
        world.ask(command);
        world.silent = None;
        world.held.clear();
        if took_effect {
            world.pin.clear();
            (world.user_pin, world.locked, world.objects) = (false, false, 0);
        }
        world.restart();
        let (state, sealed) = if took_effect { (StateName::Uninitialised, 0) } else { (StateName::Blocked, 1) };
        assert_eq!((world.state(), world.sealed.len(), world.record().by_so), (state, sealed, None));
    }
}

#[test]
fn p35_an_erased_token_may_have_another_serial_also_after_a_cut() {
    for cut in [false, true] {
        let mut world = blocked();
        world.new_serial_when_erased = true;
        if cut {
            let so_pin = Some(world.secret("right so pin"));
            let command = Command::Decommission { slot: SLOT, so_pin, confirmed: false, accept: ApplicationSet::NONE };
            world.silent = Some(|call| matches!(call, HsmCall::Settle));
            world.ask(command);
            world.silent = None;
            world.held.clear();
            world.restart();
        } else {
            assert_eq!(world.decommission(Some("right so pin"), false), DONE);
        }
        assert_eq!((world.state(), world.sealed.len()), (StateName::Uninitialised, 0), "cut: {cut}");
        assert_eq!(world.init("right so pin", false), DONE);
    }
}

#[test]
fn p44_a_token_that_says_erased_and_still_has_its_pin_is_not_forgotten() {
    let mut world = blocked();
    world.answer_to = Some(|call| {
        let token = slotwarden_core::slot::plain_token();
        matches!(call, HsmCall::Erase { .. }).then_some(Ok(HsmAnswer::Erased(token)))
    });
    let answer = world.decommission(Some("right so pin"), false);
    assert_eq!(answer, Answer::Failed(Fault::ModuleLies(Function::InitToken)));
    assert_eq!(world.sealed.len(), 1);
}

#[test]
fn the_codes_of_a_token_that_is_gone_are_forgotten_on_a_persons_word() {
    let mut world = blocked();
    world.input(Input::Token { slot: SLOT, presence: Presence::Absent { free: false } });
    assert_eq!(world.unblock("right so pin", None, false), refused(Refusal::SlotAbsent));
    assert_eq!(world.decommission(Some("right so pin"), false), refused(Refusal::SoPinNotWanted));
    world.input(Input::Token { slot: SLOT, presence: Presence::Ambiguous });
    assert_eq!(world.decommission(None, false), refused(Refusal::SlotAmbiguous));
    // Another token with the label: its tries are not spent, and it is not erased.
    world.serial = *b"another one     ";
    world.locked = false;
    world.present();
    assert_eq!(world.unblock("right so pin", None, false), refused(Refusal::TokenReplaced));
    assert_eq!(world.decommission(Some("right so pin"), false), refused(Refusal::TokenReplaced));
    assert_eq!(world.sealed.len(), 1);
    assert_eq!(world.decommission(None, false), DONE);
    assert!(world.sealed.is_empty());
    world.present();
    assert_eq!(world.state(), StateName::Locked, "the other token is adopted: manual, locked");
    assert_eq!(world.record().mode, Mode::Manual);
}

#[test]
fn p35_a_code_that_an_initialisation_may_have_given_is_not_forgotten() {
    let mut world = World::without_token();
    world.answer_to = Some(|call| {
        let unknown = HsmFailure::Pkcs11 { code: rv::DEVICE_ERROR, function: Function::InitPin };
        matches!(call, HsmCall::Initialise { .. }).then_some(Err(unknown))
    });
    assert!(matches!(world.init("right so pin", false), Answer::Failed(_)));
    assert_eq!(world.decommission(None, false), refused(Refusal::SlotUninitialised));
    assert_eq!(world.sealed.len(), 1);
}

#[test]
fn a_dead_application_refuses_a_change_until_a_person_accepts_it_by_name() {
    let mut world = World::with_token(b"right code");
    assert_eq!(world.activate("right code", false), DONE);
    world.app_fails = true;
    let change = |world: &mut World, accept| {
        let (code, new_code) = (Some(world.secret("right code")), Some(world.secret("another code")));
        world.order(Command::ChangeCode { slot: SLOT, code, new_code, confirmed: false, accept })
    };
    let nobody = ApplicationSet::NONE;
    assert_eq!(change(&mut world, nobody), refused(Refusal::ApplicationUnreachable));
    assert_eq!(change(&mut world, nobody.with(ApplicationId(5))), refused(Refusal::ApplicationUnreachable));
    assert_eq!(world.pin, b"right code");
    assert_eq!(change(&mut world, nobody.with(ApplicationId(0))), DONE);
    assert_eq!(world.pin, b"another code");
    assert_eq!(world.state(), StateName::Active);
    let left = AuditEvent::ApplicationLeft(ApplicationId(0));
    assert!(world.journal.iter().any(|record| record.event == left && record.who.is_some()));
    let fault = Fault::Application(ApplicationFault::NotWritten);
    assert_eq!(world.order(Command::Deactivate { slot: SLOT }), Answer::Failed(fault), "accepted for one order only");
}

#[test]
fn an_application_that_may_still_have_the_old_pin_is_told_before_an_unblock() {
    let mut world = blocked();
    world.app_fails = true;
    assert_eq!(world.unblock("right so pin", None, false), refused(Refusal::ApplicationUnreachable));
    assert_eq!(world.decommission(Some("right so pin"), false), refused(Refusal::ApplicationUnreachable));
    assert!(world.locked);
    let so_pin = world.secret("right so pin");
    let accept = ApplicationSet::NONE.with(ApplicationId(0));
    let (to, new_code, confirmed) = (Mode::Generated, None, false);
    assert_eq!(world.order(Command::Unblock { slot: SLOT, so_pin, to, new_code, confirmed, accept }), DONE);
    assert_eq!(world.state(), StateName::Active);
}

#[test]
fn application_sets_hold_every_number_that_a_configuration_gives_and_no_other() {
    let mut set = ApplicationSet::NONE;
    for number in (0..64).step_by(2) {
        set = set.with(ApplicationId(number));
    }
    for number in 0..=u8::MAX {
        assert_eq!(set.with(ApplicationId(200)).has(ApplicationId(number)), number < 64 && number % 2 == 0);
    }
}
