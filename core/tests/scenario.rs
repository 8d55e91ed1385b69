//! The life of a slot, told as a story: what is said to the core, and what it asks for.

// A test that panics has found something; the lints are for the rules.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![allow(clippy::std_instead_of_core, clippy::wildcard_enum_match_arm)]

mod world;

use slotwarden_core::Now;
use slotwarden_core::audit::AuditEvent;
use slotwarden_core::command::{Answer, Command};
use slotwarden_core::effect::{ApplicationSet, HsmCall, Input};
use slotwarden_core::fault::Refusal;
use slotwarden_core::record::{Mode, Owner};
use slotwarden_core::status::{StateName, WaitKind};
use slotwarden_core::token::LoginState;
use world::{SLOT, World};

#[test]
fn a_wrong_code_is_refused_and_the_right_one_activates() {
    let mut world = World::with_token(b"right code");
    assert_eq!(world.state(), StateName::Locked);
    assert_eq!(world.activate("short", false), Answer::Refused(Refusal::CodeTooShort));
    assert_eq!(world.refused, 0, "a typo costs no try");
    assert_eq!(world.activate("wrong code", false), Answer::Refused(Refusal::CodeWrong));
    assert_eq!(world.records[&Owner(7)].user.refused_in_row, 1);
    assert_eq!(world.activate("right code", false), Answer::Done);
    assert_eq!(world.state(), StateName::Active);
    assert_eq!(world.handed_over.as_deref(), Some(&b"right code"[..]));
    assert_eq!(world.records[&Owner(7)].user.refused_in_row, 0);
    assert_eq!(world.order(Command::Deactivate { slot: SLOT }), Answer::Done);
    assert_eq!(world.state(), StateName::Locked);
    assert_eq!(world.handed_over, None);
}

#[test]
fn the_third_try_needs_a_confirmation_and_its_refusal_costs_time() {
    let mut world = World::with_token(b"right code");
    for _ in 0..2 {
        assert_eq!(world.activate("wrong code", false), Answer::Refused(Refusal::CodeWrong));
    }
    assert_eq!(world.activate("right code", false), Answer::Refused(Refusal::LastTryUnconfirmed));
    assert_eq!(world.activate("wrong code", true), Answer::Refused(Refusal::CodeWrong));
    assert_eq!(world.state(), StateName::CoolingDown);
    assert_eq!(world.activate("right code", true), Answer::Refused(Refusal::SlotCoolingDown));
    world.restart();
    assert_eq!(world.state(), StateName::CoolingDown, "the wait survives a restart");
    world.now_ms += 29_999;
    world.input(Input::Tick);
    assert_eq!(world.state(), StateName::CoolingDown);
    world.now_ms += 1;
    world.input(Input::Tick);
    assert_eq!(world.state(), StateName::Locked);
    assert_eq!(world.activate("right code", true), Answer::Done);
}

#[test]
fn a_generated_slot_is_active_after_a_restart_without_a_hand() {
    let mut world = World::with_token(b"right code");
    let code = Some(world.secret("right code"));
    let to = Mode::Generated;
    let command = Command::Mode {
        slot: SLOT,
        to,
        parts: None,
        code,
        new_code: None,
        confirmed: false,
        accept: ApplicationSet::NONE,
    };
    assert_eq!(world.order(command), Answer::Done);
    assert_eq!(world.state(), StateName::Active);
    assert_eq!(world.pin.len(), 32);
    world.restart();
    assert_eq!(world.state(), StateName::Active);
    assert_eq!(world.handed_over.as_ref(), Some(&world.pin));

    // Another generated code, and back to a manual one.
    let before = world.pin.clone();
    let command =
        Command::ChangeCode { slot: SLOT, code: None, new_code: None, confirmed: false, accept: ApplicationSet::NONE };
    assert_eq!(world.order(command), Answer::Done);
    assert_ne!(world.pin, before);
    assert_eq!(world.sealed.len(), 1);
    let new_code = Some(world.secret("known to alice"));
    let command = Command::Mode {
        slot: SLOT,
        to: Mode::Manual,
        parts: None,
        code: None,
        new_code,
        confirmed: false,
        accept: ApplicationSet::NONE,
    };
    assert_eq!(world.order(command), Answer::Done);
    assert_eq!(world.pin, b"known to alice");
    assert!(world.sealed.is_empty(), "p31: nothing is stored for a manual slot");
    world.restart();
    assert_eq!(world.state(), StateName::Locked);
    let status = world.service.status(Now { mono_ms: 0, wall_s: None });
    assert_eq!(status.slots[0].waits_for.map(|waits| waits.kind), Some(WaitKind::Code));
    assert_eq!(world.activate("known to alice", false), Answer::Done);
}

#[test]
fn a_wrong_present_code_keeps_an_active_slot_active() {
    let mut world = World::with_token(b"right code");
    assert_eq!(world.activate("right code", false), Answer::Done);
    let (code, new_code) = (Some(world.secret("wrong code")), Some(world.secret("another code")));
    let command = Command::ChangeCode { slot: SLOT, code, new_code, confirmed: false, accept: ApplicationSet::NONE };
    assert_eq!(world.order(command), Answer::Refused(Refusal::CodeWrong));
    assert_eq!(world.state(), StateName::Active);
    assert_eq!(world.pin, b"right code");
    assert_eq!(world.handed_over.as_deref(), Some(&b"right code"[..]));
    assert_eq!(world.records[&Owner(7)].change, None);
}

#[test]
fn p16_a_stop_is_durable_and_leaves_no_secret() {
    let mut world = World::with_token(b"right code");
    assert_eq!(world.activate("right code", false), Answer::Done);
    world.stop();
    assert!(world.stopped);
    assert_eq!(world.journal.last().map(|record| record.event), Some(AuditEvent::Stopped));
    assert_eq!(world.service.secrets_taken_and_owned().0, 0);
    assert!(world.service.free_places_are_wiped());
}

#[test]
fn p37_the_journal_of_a_life_is_one_chain() {
    let mut world = World::with_token(b"right code");
    assert_eq!(world.activate("right code", false), Answer::Done);
    let mut chain = slotwarden_core::audit::Chain::default();
    assert!(world.journal.len() > 5);
    for record in &world.journal {
        assert_eq!(chain.accept(record), Ok(()));
    }
    let mut altered = world.journal[2];
    altered.wall_s = Some(1);
    let mut chain = slotwarden_core::audit::Chain::default();
    let verdicts =
        world.journal.iter().map(|record| chain.accept(if record.sequence == 3 { &altered } else { record }));
    assert!(verdicts.collect::<Result<Vec<()>, _>>().is_err());
}

#[test]
fn p05_the_so_pin_has_a_count_and_a_wait_of_its_own() {
    let mut world = World::without_token();
    assert_eq!(world.state(), StateName::Uninitialised);
    for expected in [Refusal::SoPinWrong, Refusal::SoPinWrong, Refusal::LastTryUnconfirmed] {
        assert_eq!(world.init("wrong so pin", false), Answer::Refused(expected));
    }
    assert_eq!(world.init("wrong so pin", true), Answer::Refused(Refusal::SoPinWrong));
    assert_eq!(world.init("right so pin", true), Answer::Refused(Refusal::SlotCoolingDown));
    world.now_ms += 30_000;
    assert_eq!(world.init("right so pin", true), Answer::Done);
    assert_eq!(world.state(), StateName::Active);
    assert_eq!(world.records[&Owner(7)].so.refused_in_row, 0);
    assert_eq!(world.init("right so pin", true), Answer::Refused(Refusal::SlotHasToken));
}

#[test]
fn a_slot_that_came_back_after_its_worker_shows_no_fault() {
    let mut world = World::with_token(b"right code");
    assert_eq!(world.activate("right code", false), Answer::Done);
    world.silent = Some(|call| matches!(call, HsmCall::Observe));
    let (code, new_code) = (Some(world.secret("right code")), Some(world.secret("another code")));
    world.ask(Command::ChangeCode { slot: SLOT, code, new_code, confirmed: false, accept: ApplicationSet::NONE });
    world.silent = None;
    world.raw(Input::WorkerLost);
    world.login = LoginState::Public;
    assert!(world.service.status(Now { mono_ms: 0, wall_s: None }).slots[0].fault.is_some());
    world.present();
    assert_eq!(world.state(), StateName::Active);
    assert_eq!(world.service.status(Now { mono_ms: 0, wall_s: None }).slots[0].fault, None);
}
