//! Two persons: what needs them, how an approval is bound, used, expires, and that nobody can
//! block the others with it. The machine's golden table, `tests/golden/approval.md`, is written
//! here too (`SLOTWARDEN_GOLDEN=write`).

// A test that panics has found something; the lints are for the rules.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::arithmetic_side_effects, clippy::std_instead_of_core, clippy::wildcard_enum_match_arm)]

mod table;
mod world;

use slotwarden_core::Now;
use slotwarden_core::approval::{Approval, ApprovalCode, ApprovalEvent, Reaction, State};
use slotwarden_core::audit::AuditEvent;
use slotwarden_core::command::{Answer, Command, CommandKind};
use slotwarden_core::effect::{ApplicationSet, Input, SlotId};
use slotwarden_core::fault::Refusal;
use slotwarden_core::limits::{APPROVAL_GIVEN_MS, APPROVAL_REQUESTED_MS, APPROVALS_MAX};
use slotwarden_core::person::{PersonId, Persons, Role, Roles, may, needs_two};
use slotwarden_core::record::Mode;
use slotwarden_core::status::StateName;
use world::{SLOT, World};

const ALICE: PersonId = PersonId(3);
const BOB: PersonId = PersonId(9);
const CAROL: PersonId = PersonId(10);
const OTTO: PersonId = PersonId(11);

/// Two administrators, an approver, an operator, under dual control.
fn under_dual_control() -> World {
    let mut world = World::of_persons(&[
        (ALICE.0, &[Role::Administrator]),
        (BOB.0, &[Role::Administrator]),
        (CAROL.0, &[Role::Approver]),
        (OTTO.0, &[Role::Operator]),
    ]);
    assert_eq!(world.order_as(ALICE, Command::DualControl { on: true }), Answer::Done);
    world
}

fn to_generated(world: &mut World, code: &str) -> Command {
    let code = Some(world.secret(code));
    Command::Mode {
        slot: SLOT,
        to: Mode::Generated,
        parts: None,
        code,
        new_code: None,
        confirmed: false,
        accept: ApplicationSet::NONE,
    }
}

/// Gives an order that has to wait, and returns what its requester is told.
#[track_caller]
fn asks(world: &mut World, who: PersonId, command: Command) -> (u32, ApprovalCode) {
    match world.order_as(who, command) {
        Answer::NeedsApproval { id, code } => (id, code),
        other => panic!("it should wait for a second person: {other:?}"),
    }
}

fn approve(world: &mut World, who: PersonId, (id, code): (u32, ApprovalCode)) -> Answer {
    world.order_as(who, Command::Approve { id, code })
}

fn pending(world: &World) -> usize {
    world.service.status(Now { mono_ms: world.now_ms, wall_s: None }).approvals.len()
}

fn wait(world: &mut World, ms: u64) {
    world.now_ms += ms;
    world.input(Input::Tick);
}

fn journal(world: &World) -> Vec<AuditEvent> {
    world.journal.iter().map(|record| record.event).collect()
}

#[test]
fn p26_two_persons_do_what_one_cannot() {
    let mut world = under_dual_control();
    let command = to_generated(&mut world, "right code");
    let asked = asks(&mut world, ALICE, command);
    assert_eq!(world.state(), StateName::Locked, "nothing was tried");
    assert_eq!(world.logins, 0);
    assert_eq!(approve(&mut world, ALICE, asked), Answer::Refused(Refusal::ApprovalOwn));
    assert_eq!(approve(&mut world, OTTO, asked), Answer::Refused(Refusal::NotAllowed));
    assert_eq!(approve(&mut world, CAROL, asked), Answer::Done);
    let command = to_generated(&mut world, "right code");
    assert_eq!(world.order_as(ALICE, command), Answer::Done);
    assert_eq!(world.state(), StateName::Active);
    assert_eq!(world.records[&slotwarden_core::record::Owner(7)].mode, Mode::Generated);
    let events = journal(&world);
    let kind = CommandKind::Mode;
    let at = |event| events.iter().position(|found| *found == event).expect("it is in the journal");
    let id = asked.0;
    assert!(at(AuditEvent::ApprovalRequested(id, kind)) < at(AuditEvent::ApprovalGiven(id, kind)));
    assert!(at(AuditEvent::ApprovalGiven(id, kind)) < at(AuditEvent::ApprovalSpent(id, kind)));
    assert!(at(AuditEvent::ApprovalSpent(id, kind)) < at(AuditEvent::Completed(kind)));
}

#[test]
fn p26_every_pair_of_roles_and_every_order_needs_the_two_it_should() {
    let code = ApprovalCode::parse("0000-0000").expect("a code");
    let roles: Vec<Vec<Role>> = std::iter::once(vec![]).chain(Role::ALL.iter().map(|role| vec![*role])).collect();
    for first in &roles {
        for second in &roles {
            for (name, command) in orders(code) {
                let persons: &[(u8, &[Role])] = &[
                    (1, &[Role::Administrator]),
                    (2, &[Role::Administrator]),
                    (3, first.as_slice()),
                    (4, second.as_slice()),
                ];
                let mut world = World::of_persons(persons);
                assert_eq!(world.order_as(PersonId(1), Command::DualControl { on: true }), Answer::Done);
                let (requester, other) = (PersonId(3), PersonId(4));
                let so_pin = world.secret("right so pin");
                let typed = world.secret("right code");
                let given = command(so_pin, typed);
                let one = first.iter().fold(Roles::NONE, |set, role| set.with(*role));
                let two = second.iter().fold(Roles::NONE, |set, role| set.with(*role));
                let allowed = may(one, given.kind());
                let needs = needs_two(&given, false);
                for id in [so_pin, typed] {
                    if !given.secrets().contains(&Some(id)) {
                        world.service.wipe(id);
                    }
                }
                let answer = world.order_as(requester, given);
                match answer {
                    Answer::Refused(Refusal::NotAllowed) => assert!(!allowed, "{name} by {first:?}"),
                    Answer::NeedsApproval { id, code } => {
                        assert!(allowed && needs, "{name} by {first:?}");
                        let approved = approve(&mut world, other, (id, code));
                        if may(two, CommandKind::Approve) {
                            assert_eq!(approved, Answer::Done, "{name} approved by {second:?}");
                        } else {
                            assert_eq!(approved, Answer::Refused(Refusal::NotAllowed), "{name} by {second:?}");
                        }
                        assert_eq!(
                            world.service.status(Now { mono_ms: 0, wall_s: None }).approvals[0].by.is_some(),
                            may(two, CommandKind::Approve)
                        );
                    }
                    _ => assert!(allowed && !needs, "{name} by {first:?} was answered {answer:?}"),
                }
            }
        }
    }
}

type Make = Box<dyn Fn(slotwarden_core::SecretId, slotwarden_core::SecretId) -> Command>;

/// Every order, in each form that differs for the two-person rule.
fn orders(approval: ApprovalCode) -> Vec<(&'static str, Make)> {
    fn make(make: impl Fn(slotwarden_core::SecretId, slotwarden_core::SecretId) -> Command + 'static) -> Make {
        Box::new(make)
    }
    let slot = SLOT;
    vec![
        ("boot", make(|_, _| Command::Boot)),
        ("activate", make(move |_, code| Command::Activate { slot, code: Some(code), confirmed: false })),
        ("activate, last try", make(move |_, code| Command::Activate { slot, code: Some(code), confirmed: true })),
        ("deactivate", make(move |_, _| Command::Deactivate { slot })),
        ("end call", make(move |_, _| Command::EndCall { slot })),
        ("init", make(move |so_pin, _| Command::Init { slot, so_pin, free_slot: None, confirmed: false })),
        (
            "change code",
            make(move |_, code| Command::ChangeCode {
                slot,
                code: Some(code),
                new_code: None,
                confirmed: false,
                accept: ApplicationSet::NONE,
            }),
        ),
        (
            "mode generated",
            make(move |_, code| Command::Mode {
                slot,
                to: Mode::Generated,
                parts: None,
                code: Some(code),
                new_code: None,
                confirmed: false,
                accept: ApplicationSet::NONE,
            }),
        ),
        (
            "mode manual",
            make(move |_, code| Command::Mode {
                slot,
                to: Mode::Manual,
                parts: None,
                code: None,
                new_code: Some(code),
                confirmed: false,
                accept: ApplicationSet::NONE,
            }),
        ),
        (
            "unblock",
            make(move |so_pin, code| Command::Unblock {
                slot,
                so_pin,
                to: Mode::Manual,
                new_code: Some(code),
                confirmed: false,
                accept: ApplicationSet::NONE,
            }),
        ),
        (
            "decommission",
            make(move |so_pin, _| Command::Decommission {
                slot,
                so_pin: Some(so_pin),
                confirmed: false,
                accept: ApplicationSet::NONE,
            }),
        ),
        (
            "decommission without token",
            make(move |_, _| Command::Decommission {
                slot,
                so_pin: None,
                confirmed: false,
                accept: ApplicationSet::NONE,
            }),
        ),
        ("approve", make(move |_, _| Command::Approve { id: 77, code: approval })),
        ("withdraw", make(|_, _| Command::Withdraw { id: 77 })),
        ("dual control off", make(|_, _| Command::DualControl { on: false })),
        ("adopt configuration", make(|_, _| Command::AdoptConfiguration { digest: [7; 32] })),
    ]
}

#[test]
fn p27_an_approval_is_used_once() {
    let mut world = under_dual_control();
    let command = to_generated(&mut world, "wrong code");
    let asked = asks(&mut world, ALICE, command);
    assert_eq!(approve(&mut world, BOB, asked), Answer::Done);
    assert_eq!(approve(&mut world, CAROL, asked), Answer::Refused(Refusal::ApprovalGiven));
    let command = to_generated(&mut world, "wrong code");
    assert_eq!(world.order_as(ALICE, command), Answer::Refused(Refusal::CodeWrong));
    // Replayed: the second repetition is a new request.
    let command = to_generated(&mut world, "right code");
    let again = asks(&mut world, ALICE, command);
    assert_ne!(again.0, asked.0);
    assert_ne!(again.1, asked.1);
    assert_eq!(approve(&mut world, BOB, asked), Answer::Refused(Refusal::ApprovalUnknown));
    assert_eq!(world.logins, 1);
}

#[test]
fn p27_another_parameter_is_another_request_and_leaves_the_approval() {
    let mut world = under_dual_control();
    let digest = [5; 32];
    let asked = asks(&mut world, ALICE, Command::AdoptConfiguration { digest });
    assert_eq!(approve(&mut world, BOB, asked), Answer::Done);
    let mut altered = digest;
    altered[31] = 6;
    let other = asks(&mut world, ALICE, Command::AdoptConfiguration { digest: altered });
    assert_ne!(other.0, asked.0);
    assert_eq!(world.policy.configuration, [1; 32], "nothing was adopted");
    assert_eq!(world.order_as(ALICE, Command::AdoptConfiguration { digest }), Answer::Done);
    assert_eq!(world.policy.configuration, digest);
    assert_eq!(pending(&world), 1, "the altered one still waits");
}

#[test]
fn p27_each_parameter_of_an_order_but_its_secrets_is_part_of_the_approval() {
    let mut world = under_dual_control();
    let so_pin = world.secret("right so pin");
    let asked = asks(&mut world, ALICE, Command::Init { slot: SLOT, so_pin, free_slot: Some(4), confirmed: false });
    assert_eq!(approve(&mut world, BOB, asked), Answer::Done);
    for (free_slot, confirmed) in [(None, false), (Some(5), false), (Some(4), true)] {
        let so_pin = world.secret("right so pin");
        let other = asks(&mut world, ALICE, Command::Init { slot: SLOT, so_pin, free_slot, confirmed });
        assert_ne!(other.0, asked.0);
        assert_eq!(world.order_as(ALICE, Command::Withdraw { id: other.0 }), Answer::Done);
    }
    let so_pin = world.secret("another so pin");
    let command = Command::Init { slot: SLOT, so_pin, free_slot: Some(4), confirmed: false };
    assert_eq!(world.order_as(ALICE, command), Answer::Refused(Refusal::SlotHasToken), "it went on to the slot");
}

#[test]
fn p27_requests_and_approvals_expire() {
    let mut world = under_dual_control();
    let asked = asks(&mut world, ALICE, Command::DualControl { on: false });
    wait(&mut world, APPROVAL_REQUESTED_MS - 1);
    assert_eq!(asks(&mut world, ALICE, Command::DualControl { on: false }), asked, "the same while it waits");
    assert_eq!(world.service.poll_deadline(), Some(APPROVAL_REQUESTED_MS), "nobody has to ask for it");
    wait(&mut world, 1);
    assert_eq!(pending(&world), 0);
    assert_eq!(approve(&mut world, BOB, asked), Answer::Refused(Refusal::ApprovalUnknown));

    let asked = asks(&mut world, ALICE, Command::DualControl { on: false });
    wait(&mut world, APPROVAL_REQUESTED_MS - 1);
    assert_eq!(approve(&mut world, BOB, asked), Answer::Done);
    // A tick that is late changes nothing about it.
    world.now_ms += APPROVAL_GIVEN_MS;
    let again = asks(&mut world, ALICE, Command::DualControl { on: false });
    assert_ne!(again.0, asked.0);
    assert!(world.policy.dual_control);
    let expired = journal(&world).iter().filter(|event| matches!(event, AuditEvent::ApprovalExpired(..))).count();
    assert_eq!(expired, 2);
}

#[test]
fn p27_an_approval_is_of_no_use_to_another_person() {
    let mut world = under_dual_control();
    let asked = asks(&mut world, ALICE, Command::DualControl { on: false });
    assert_eq!(approve(&mut world, CAROL, asked), Answer::Done);
    let crossed = asks(&mut world, BOB, Command::DualControl { on: false });
    assert_ne!(crossed.0, asked.0);
    assert!(world.policy.dual_control);
    assert_eq!(world.order_as(ALICE, Command::DualControl { on: false }), Answer::Done);
    assert!(!world.policy.dual_control);
    assert_eq!(pending(&world), 0, "nobody needs a second person any more");
}

#[test]
fn p27_approvals_die_with_a_restart_and_codes_differ_after_it() {
    let mut world = under_dual_control();
    let asked = asks(&mut world, ALICE, Command::DualControl { on: false });
    assert_eq!(approve(&mut world, BOB, asked), Answer::Done);
    world.restart();
    assert!(world.service.policy().dual_control, "dual control is latched");
    assert_eq!(pending(&world), 0);
    let again = asks(&mut world, ALICE, Command::DualControl { on: false });
    assert_ne!(again.1, asked.1);
    assert_eq!(approve(&mut world, BOB, asked), Answer::Refused(Refusal::ApprovalCodeWrong));
}

#[test]
fn p26_a_wrong_code_is_refused_and_three_bar_that_person_only() {
    let mut world = under_dual_control();
    let asked = asks(&mut world, ALICE, Command::DualControl { on: false });
    let wrong = (asked.0, ApprovalCode::parse("0000-0000").expect("a code"));
    for _ in 0..3 {
        assert_eq!(approve(&mut world, CAROL, wrong), Answer::Refused(Refusal::ApprovalCodeWrong));
    }
    assert_eq!(approve(&mut world, CAROL, asked), Answer::Refused(Refusal::ApprovalBarred));
    assert_eq!(approve(&mut world, BOB, wrong), Answer::Refused(Refusal::ApprovalCodeWrong));
    assert_eq!(approve(&mut world, BOB, asked), Answer::Done);
}

#[test]
fn p26_one_persons_second_entry_is_no_second_person() {
    let mut persons = Persons::none();
    persons.add(ALICE, Roles::NONE.with(Role::Administrator)).expect("room");
    persons.add(ALICE, Roles::NONE.with(Role::Approver)).expect("room");
    assert!(!persons.are_two());
    persons.add(OTTO, Roles::NONE.with(Role::Operator)).expect("room");
    assert!(!persons.are_two(), "an operator approves nothing");
    persons.add(CAROL, Roles::NONE.with(Role::Approver)).expect("room");
    assert!(persons.are_two());

    let mut world = World::of_persons(&[(3, &[Role::Administrator, Role::Approver]), (4, &[Role::Operator])]);
    let on = Command::DualControl { on: true };
    assert_eq!(world.order_as(ALICE, on), Answer::Refused(Refusal::TooFewPersons));
    assert!(!world.policy.dual_control);
    assert_eq!(World::with_token(b"right code").order(on), Answer::Refused(Refusal::TooFewPersons));
}

#[test]
fn dual_control_is_latched_and_only_two_leave_it() {
    let mut world = under_dual_control();
    assert_eq!((world.policy.dual_control, world.policy.configuration), (true, [1; 32]));
    assert!(!world.service.status(Now { mono_ms: 0, wall_s: None }).single_person);
    assert_eq!(
        world.order_as(BOB, Command::DualControl { on: true }),
        Answer::Refused(Refusal::DualControlAlready),
        "and nobody is asked to approve it"
    );
    world.restart();
    let asked = asks(&mut world, ALICE, Command::DualControl { on: false });
    assert_eq!(approve(&mut world, BOB, asked), Answer::Done);
    assert_eq!(world.order_as(ALICE, Command::DualControl { on: false }), Answer::Done);
    assert_eq!((world.policy.dual_control, world.policy.configuration), (false, [0; 32]));
    let off = Command::DualControl { on: false };
    assert_eq!(world.order_as(ALICE, off), Answer::Refused(Refusal::DualControlAlready));
    assert_eq!(
        world.order_as(ALICE, Command::AdoptConfiguration { digest: [2; 32] }),
        Answer::Refused(Refusal::DualControlOff)
    );
}

#[test]
fn a_configuration_that_differs_waits_for_two_persons() {
    let mut world = under_dual_control();
    world.configuration.offered = [2; 32];
    world.restart();
    let status = |world: &World| world.service.status(Now { mono_ms: world.now_ms, wall_s: None });
    assert!(status(&world).configuration_waits && !status(&world).restart_wanted);
    let waits = |event: &&AuditEvent| **event == AuditEvent::ConfigurationWaits([2; 32]);
    assert_eq!(journal(&world).iter().filter(waits).count(), 1);
    let adopt = |digest| Command::AdoptConfiguration { digest };
    assert_eq!(world.order_as(ALICE, adopt([1; 32])), Answer::Refused(Refusal::ConfigurationSame));
    let asked = asks(&mut world, ALICE, adopt([2; 32]));
    assert_eq!(approve(&mut world, BOB, asked), Answer::Done);
    assert_eq!(world.order_as(ALICE, adopt([2; 32])), Answer::Done);
    assert!(!status(&world).configuration_waits && status(&world).restart_wanted);
    // The platform makes the next start from what was approved.
    world.configuration.in_force = world.policy.configuration;
    world.restart();
    assert!(!status(&world).configuration_waits && !status(&world).restart_wanted);
}

#[test]
fn p29_nobody_fills_the_table_for_the_others() {
    let persons: Vec<(u8, &[Role])> = (1..=10).map(|who| (who, &[Role::Administrator][..])).collect();
    let mut world = World::of_persons(&persons);
    assert_eq!(world.order_as(PersonId(1), Command::DualControl { on: true }), Answer::Done);
    let adopt = |number: u8| Command::AdoptConfiguration { digest: [number; 32] };
    // One person asks for ever: three stay, the oldest makes way.
    let first = asks(&mut world, PersonId(1), adopt(100));
    for number in 101..140 {
        asks(&mut world, PersonId(1), adopt(number));
        assert!(pending(&world) <= 3);
    }
    assert_eq!(approve(&mut world, PersonId(2), first), Answer::Refused(Refusal::ApprovalUnknown));
    // Three persons fill the table; the others still get in, each at a cost of who has several.
    for who in [2, 3] {
        for number in 0..3 {
            asks(&mut world, PersonId(who), adopt(200 + number));
        }
    }
    assert_eq!(pending(&world), APPROVALS_MAX);
    for who in 4..=8 {
        let asked = asks(&mut world, PersonId(who), adopt(210 + who));
        assert_eq!(approve(&mut world, PersonId(1), asked), Answer::Done, "person {who} goes on");
        assert_eq!(world.order_as(PersonId(who), adopt(210 + who)), Answer::Done, "person {who} is done");
    }
    // Eight different persons with one each: the ninth waits until one is too old.
    for who in 1..=8 {
        asks(&mut world, PersonId(who), adopt(220 + who));
    }
    let held: Vec<u8> = (1..=8).filter(|who| asks(&mut world, PersonId(*who), adopt(220 + *who)).0 > 0).collect();
    assert_eq!(held.len(), 8);
    assert_eq!(world.order_as(PersonId(9), adopt(250)), Answer::Refused(Refusal::TooManyApprovals));
    wait(&mut world, APPROVAL_REQUESTED_MS);
    asks(&mut world, PersonId(9), adopt(250));
}

#[test]
fn p29_a_request_is_withdrawn_by_its_requester_or_an_administrator() {
    let mut world = under_dual_control();
    let code = Some(world.secret("right code"));
    let activate = Command::Activate { slot: SLOT, code, confirmed: true };
    let asked = asks(&mut world, OTTO, activate);
    assert_eq!(world.order_as(CAROL, Command::Withdraw { id: asked.0 }), Answer::Refused(Refusal::NotAllowed));
    assert_eq!(world.order_as(OTTO, Command::Withdraw { id: asked.0 }), Answer::Done);
    assert_eq!(approve(&mut world, BOB, asked), Answer::Refused(Refusal::ApprovalUnknown));
    let asked = asks(&mut world, ALICE, Command::DualControl { on: false });
    assert_eq!(world.order_as(OTTO, Command::Withdraw { id: asked.0 }), Answer::Refused(Refusal::NotAllowed));
    assert_eq!(world.order_as(BOB, Command::Withdraw { id: asked.0 }), Answer::Done);
    assert_eq!(world.order_as(BOB, Command::Withdraw { id: asked.0 }), Answer::Refused(Refusal::ApprovalUnknown));
    assert_eq!(pending(&world), 0);
}

#[test]
fn p29_what_one_person_may_do_goes_on_while_approvals_wait() {
    let mut world = under_dual_control();
    for number in 0..3 {
        asks(&mut world, ALICE, Command::AdoptConfiguration { digest: [number + 10; 32] });
    }
    let code = Some(world.secret("right code"));
    let answer = world.order_as(OTTO, Command::Activate { slot: SLOT, code, confirmed: false });
    assert_eq!(answer, Answer::Done);
    assert_eq!(world.order_as(OTTO, Command::Deactivate { slot: SLOT }), Answer::Done);
    assert_eq!(world.order_as(OTTO, Command::Boot), Answer::Done);
}

#[test]
fn a_code_is_read_as_people_write_it() {
    let code = ApprovalCode::parse("10AB-CDEF").expect("a code");
    assert_eq!(code.to_string(), "10AB-CDEF");
    for same in ["10abcdef", "ioab-cdef", "LOAB CDEF", " 10AB-CDEF "] {
        assert_eq!(ApprovalCode::parse(same), Some(code), "{same}");
    }
    for wrong in ["", "10AB-CDE", "10AB-CDEFG", "10AB-CDEU", "10AB-CDE\n", "10AB_CDEF", "ÄÄÄÄ"] {
        assert_eq!(ApprovalCode::parse(wrong), None, "{wrong}");
    }
}

#[test]
fn a_code_commits_to_the_whole_request() {
    let mut world = under_dual_control();
    let mut codes = Vec::new();
    for number in 0..3 {
        codes.push(asks(&mut world, ALICE, Command::AdoptConfiguration { digest: [number + 10; 32] }).1);
    }
    codes.push(asks(&mut world, BOB, Command::AdoptConfiguration { digest: [10; 32] }).1);
    for (place, code) in codes.iter().enumerate() {
        assert!(codes[place + 1..].iter().all(|other| other != code));
    }
}

#[test]
fn a_slot_that_is_not_there_is_refused_before_anybody_is_asked() {
    let mut world = under_dual_control();
    let so_pin = world.secret("right so pin");
    let init = Command::Init { slot: SlotId(1), so_pin, free_slot: None, confirmed: false };
    assert_eq!(world.order_as(ALICE, init), Answer::Refused(Refusal::UnknownSlot));
    assert_eq!(pending(&world), 0);
}

/// Every state × every event: the review artefact.
#[test]
fn the_table_of_the_approval_machine_is_the_code() {
    const NOW: Now = Now { mono_ms: 1000, wall_s: None };
    let operation =
        Command::Init { slot: SLOT, so_pin: slotwarden_core::SecretId::NONE, free_slot: None, confirmed: false };
    let fresh = || Approval::requested(7, ALICE, operation, &[0; 32], NOW);
    let code = fresh().code();
    let wrong = ApprovalCode::parse("0000-0000").expect("a code");
    let gives = |who: PersonId, code| ApprovalEvent::CodeGiven { who, place: usize::from(who.0), code };
    let approved = || {
        let mut approval = fresh();
        assert_eq!(approval.handle(&gives(BOB, code), NOW), Reaction::Approved);
        approval
    };
    let barred = || {
        let mut approval = fresh();
        for _ in 0..3 {
            assert_eq!(approval.handle(&gives(CAROL, wrong), NOW), Reaction::Refused(Refusal::ApprovalCodeWrong));
        }
        approval
    };
    let late = |approval: Approval| {
        let (State::Requested { until_ms } | State::Approved { until_ms, .. }) = approval.state();
        Now { mono_ms: until_ms, wall_s: None }
    };
    let states: [(&str, Approval, Now); 5] = [
        ("requested", fresh(), NOW),
        ("requested, the approver gave three wrong codes", barred(), NOW),
        ("requested, too old", fresh(), late(fresh())),
        ("approved", approved(), NOW),
        ("approved, too old", approved(), late(approved())),
    ];
    let altered =
        Command::Init { slot: SlotId(1), so_pin: slotwarden_core::SecretId::NONE, free_slot: None, confirmed: false };
    let events = [
        ("same order by its requester", ApprovalEvent::Ordered { who: ALICE, operation }),
        ("altered order by its requester", ApprovalEvent::Ordered { who: ALICE, operation: altered }),
        ("same order by another person", ApprovalEvent::Ordered { who: BOB, operation }),
        ("code by its requester", gives(ALICE, code)),
        ("code by the approver", gives(CAROL, code)),
        ("wrong code by the approver", gives(CAROL, wrong)),
        ("code by an administrator", gives(BOB, code)),
        ("withdrawn by its requester", ApprovalEvent::WithdrawOrdered { who: ALICE, administrator: false }),
        ("withdrawn by an administrator", ApprovalEvent::WithdrawOrdered { who: BOB, administrator: true }),
        ("withdrawn by anybody else", ApprovalEvent::WithdrawOrdered { who: OTTO, administrator: false }),
        ("time passed", ApprovalEvent::TimePassed),
    ];
    let mut text = String::from("# An approval: every state × every event\n\nSpent, withdrawn and expired end it.\n");
    for (name, approval, now) in states {
        text.push_str(&format!("\n## {name}\n\n"));
        let lines = events.iter().map(|(event, given)| {
            let mut approval = approval;
            let reaction = approval.handle(given, now);
            ((*event).to_owned(), format!("{:?} | {reaction:?}", approval.state()))
        });
        text.push_str(&table::grouped(lines.collect()));
    }
    table::check("tests/golden/approval.md", &text);
}
