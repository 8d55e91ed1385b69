//! What an attacker, a liar or a bad moment could do to the rules, and that it fails.
//!
//! Each test is a sequence of inputs that once broke a promise, or would.

// A test that panics has found something; the lints are for the rules.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
#![allow(clippy::std_instead_of_core, clippy::wildcard_enum_match_arm)]

mod world;

use slotwarden_core::Now;
use slotwarden_core::audit::AuditEvent;
use slotwarden_core::command::{Answer, Caller, Command, ReplyId};
use slotwarden_core::effect::{ApplicationSet, HsmAnswer, HsmCall, Input, Outcome, SlotId, StoreResult};
use slotwarden_core::fault::{HsmFailure, Refusal};
use slotwarden_core::person::{PersonId, Persons};
use slotwarden_core::record::{Attempts, Owner, SlotRecord};
use slotwarden_core::service::{Configuration, SecurityLevel, SlotConfiguration};
use slotwarden_core::status::StateName;
use slotwarden_core::token::{LoginState, Presence, TokenState};
use world::{SLOT, Small, World, interrupted, key, service};

#[test]
fn p05_an_order_without_its_confirmation_re_arms_no_automatic_try() {
    let mut w =
        interrupted(Attempts { refused_in_row: 2, automatic_stopped: true, ..Attempts::default() }, b"neither of them");
    w.restart();
    assert_eq!(w.refused, 0, "stopped: nothing tried");
    let a = w.order(Command::Activate { slot: SLOT, code: None, confirmed: false });
    assert_eq!(a, Answer::Refused(Refusal::LastTryUnconfirmed));
    assert_eq!(w.refused, 0);
    w.restart();
    assert_eq!(w.refused, 0, "no try without a person's confirmation");
}

#[test]
fn p35_a_code_that_init_pin_may_have_set_is_kept() {
    let mut w = World::with_token(b"");
    w.user_pin = false;
    w.restart();
    assert_eq!(w.state(), StateName::Uninitialised);
    // worker: C_InitPIN OK, C_Logout OK, state not public -> Err(AlreadyLoggedIn)
    w.answer_to = Some(|c| matches!(c, HsmCall::Initialise { .. }).then_some(Err(HsmFailure::AlreadyLoggedIn)));
    let so = w.secret("right so pin");
    let a = w.ask(Command::Init { slot: SLOT, so_pin: so, free_slot: None, confirmed: false }).1;
    assert_eq!(w.sealed.len(), 1, "the code the token now has is kept; answer {a:?}");
}

#[test]
fn p42_refused_orders_cannot_halt_the_service() {
    let mut w = World::with_token(b"right code");
    w.hold = true;
    for n in 0..60u32 {
        let caller = Caller { who: PersonId(9), reply: ReplyId(1000 + n) }; // nobody: no roles
        let now = Now { mono_ms: 0, wall_s: None };
        assert_eq!(w.service.handle(now, Input::Command { caller, command: Command::Boot }), Err(Refusal::NotAllowed));
        w.perform_all();
    }
    assert_eq!(w.service.status(Now { mono_ms: 0, wall_s: None }).halted, None);
}

#[test]
fn p44_a_session_that_lies_about_its_login_ends_in_a_fault() {
    let mut w = World::with_token(b"right code");
    w.answer_to = Some(|c| match c {
        HsmCall::Observe => Some(Ok(HsmAnswer::Observed(TokenState {
            login: LoginState::User,
            serial: *b"0123456789abcdef",
            ..slotwarden_core::slot::plain_token()
        }))),
        HsmCall::Logout => Some(Ok(HsmAnswer::LoggedOut)),
        _ => None,
    });
    let code = Some(w.secret("right code"));
    let new_code = Some(w.secret("another code"));
    w.ask(Command::ChangeCode { slot: SLOT, code, new_code, confirmed: false, accept: ApplicationSet::NONE });
}

#[test]
fn p03_a_token_that_goes_while_a_login_is_repeated_leaves_no_hand_over_file() {
    let mut w = World::with_token(b"right code");
    assert_eq!(w.activate("right code", false), Answer::Done);
    w.raw(Input::WorkerLost);
    // login state is shared between processes: first login says already logged in; the token goes during the logout
    w.answer_to = Some(|c| matches!(c, HsmCall::Login { .. }).then_some(Err(HsmFailure::AlreadyLoggedIn)));
    w.silent = Some(|c| matches!(c, HsmCall::Logout));
    w.login = LoginState::Public;
    w.present();
    w.answer_to = None;
    w.silent = None;
    w.raw(Input::Token { slot: SLOT, presence: Presence::Absent { free: false } });
    let Input::Done { ticket, .. } = w.held.pop().unwrap() else { panic!() };
    w.raw(Input::Done { ticket, outcome: Outcome::Hsm(Ok(HsmAnswer::LoggedOut)) });
    assert_eq!(w.state(), StateName::Absent);
    assert_eq!(w.handed_over, None, "the hand-over file is taken back");
}

#[test]
fn p03_a_late_answer_while_a_login_is_repeated_leaves_no_hand_over_file() {
    let mut w = World::with_token(b"right code");
    assert_eq!(w.activate("right code", false), Answer::Done);
    w.raw(Input::WorkerLost);
    w.answer_to = Some(|c| matches!(c, HsmCall::Login { .. }).then_some(Err(HsmFailure::AlreadyLoggedIn)));
    w.silent = Some(|c| matches!(c, HsmCall::Logout));
    w.login = LoginState::Public;
    w.present();
    w.answer_to = None;
    w.silent = None;
    w.now_ms += 30_000;
    w.raw(Input::Tick);
    assert_eq!(w.state(), StateName::Doubtful);
    let Input::Done { ticket, .. } = w.held.pop().unwrap() else { panic!() };
    w.raw(Input::Done { ticket, outcome: Outcome::Hsm(Ok(HsmAnswer::LoggedOut)) });
    assert_ne!(w.state(), StateName::Active);
    assert_eq!(w.handed_over, None, "the hand-over file is taken back");
}

#[test]
fn p40_a_halted_service_takes_the_pin_back_when_the_worker_returns() {
    let mut w = World::with_token(b"right code");
    assert_eq!(w.activate("right code", false), Answer::Done);
    w.raw(Input::Stored {
        ticket: slotwarden_core::effect::Ticket { slot: None, number: 0 },
        result: StoreResult::Failed,
    });
    w.raw(Input::WorkerLost);
    w.login = LoginState::Public;
    w.present();
    let a = w.ask(Command::Deactivate { slot: SLOT }).1;
    assert_eq!((a, w.handed_over.clone()), (Some(Answer::Refused(Refusal::SlotNotActive)), None));
}

#[test]
fn a_deadline_of_the_hand_over_does_not_count_against_the_taking_back() {
    let mut w = World::with_token(b"right code");
    assert_eq!(w.activate("right code", false), Answer::Done);
    w.now_ms += 29_990;
    w.hold = true; // the commit takes 20 ms
    let (code, new_code) = (Some(w.secret("right code")), Some(w.secret("another code")));
    let (reply, a) =
        w.ask(Command::ChangeCode { slot: SLOT, code, new_code, confirmed: false, accept: ApplicationSet::NONE });
    assert_eq!(a, None);
    w.now_ms += 20;
    w.raw(Input::Tick);
    w.hold = false;
    for i in std::mem::take(&mut w.held) {
        w.raw(i);
    }
    assert_eq!(w.answers.get(&reply), Some(&Answer::Done));
}

#[test]
fn p35_a_second_init_never_erases_the_code_of_the_first_token() {
    let mut w = World::with_token(b"");
    w.user_pin = false;
    w.restart();
    // C_InitPIN happens, then the power fails.
    w.silent = Some(|c| matches!(c, HsmCall::Initialise { .. }));
    let so = w.secret("right so pin");
    w.ask(Command::Init { slot: SLOT, so_pin: so, free_slot: None, confirmed: false });
    w.user_pin = true;
    w.silent = None;
    w.held.clear();
    assert_eq!(w.sealed.len(), 1);
    // Restart: the flags say it happened; token pulled before the login reaches it.
    w.answer_to = Some(|c| matches!(c, HsmCall::Login { .. }).then_some(Err(HsmFailure::TokenGone)));
    w.restart();
    w.answer_to = None;
    assert_eq!(w.records[&Owner(7)].accepted, Some(1));
    w.raw(Input::Token { slot: SLOT, presence: Presence::Absent { free: true } });
    let so = w.secret("right so pin");
    let a = w.ask(Command::Init { slot: SLOT, so_pin: so, free_slot: None, confirmed: false }).1;
    assert!(w.sealed.contains_key(&key(1)), "the first token's code is kept; init answered {a:?}");
}

#[test]
fn p34_repeated_logins_of_unknown_outcome_are_counted() {
    let mut w = World::with_token(b"right code");
    w.generated();
    w.pin = b"somebody changed it".to_vec();
    let mut tries = 0;
    w.silent = Some(|c| matches!(c, HsmCall::Login { .. }));
    for _ in 0..6 {
        w.raw(Input::WorkerLost);
        w.held.clear();
        w.login = LoginState::Public;
        let before = w.logins;
        w.present();
        tries += w.logins - before;
    }
    assert_eq!(tries, 2, "two unknown outcomes in a row end automatic tries");
}

#[test]
fn a_logout_that_was_not_confirmed_is_not_answered_done() {
    let mut w = World::with_token(b"right code");
    assert_eq!(w.activate("right code", false), Answer::Done);
    w.answer_to = Some(|c| matches!(c, HsmCall::Logout).then_some(Ok(HsmAnswer::Settled)));
    let a = w.ask(Command::Deactivate { slot: SLOT }).1;
    assert_ne!(a, Some(Answer::Done));
}

#[test]
fn p33_a_pin_that_the_token_just_refused_is_not_handed_over() {
    let mut w = World::with_token(b"right code");
    w.generated();
    w.pin = b"changed elsewhere".to_vec();
    let a = w
        .ask(Command::ChangeCode {
            slot: SLOT,
            code: None,
            new_code: None,
            confirmed: false,
            accept: ApplicationSet::NONE,
        })
        .1;
    let _ = a;
    assert_ne!(w.state(), StateName::Active);
}

#[test]
fn p05_boot_never_spends_a_final_try() {
    let mut w = World::with_token(b"right code");
    w.generated();
    assert_eq!(w.order(Command::Deactivate { slot: SLOT }), Answer::Done);
    w.pin = b"changed elsewhere".to_vec();
    w.final_try = true;
    w.order(Command::Boot);
    assert_eq!(w.refused, 0, "flags are read first; nobody spends a last try by itself");
}

#[test]
fn p05_a_repeated_login_never_spends_a_final_try() {
    let mut w = World::with_token(b"right code");
    w.generated();
    w.raw(Input::WorkerLost);
    w.login = LoginState::Public;
    w.pin = b"changed elsewhere".to_vec();
    w.final_try = true;
    w.present();
    assert_eq!(w.refused, 0, "nobody spends a last try by itself");
}

const OTHER: SlotId = SlotId(1);
#[test]
fn p44_ending_a_call_of_one_slot_never_kills_inside_anothers_set_pin() {
    let mut w = World::with_token(b"right code");
    let mut slots = heapless::Vec::new();
    for (o, u) in [(7u16, 1u8), (8, 2)] {
        let slot =
            SlotConfiguration { owner: Owner(o), uid: [u; 16], applications: heapless::Vec::new(), pin_chars_max: 0 };
        slots.push(slot).unwrap();
    }
    w.service = Small::new(Configuration {
        slots,
        persons: Persons::single(),
        tries: 3,
        digest: [0; 32],
        in_force: [0; 32],
        offered: [0; 32],
        level: SecurityLevel::None,
        cluster: [0; 16],
    })
    .unwrap();
    w.raw(Input::Start);
    w.present();
    w.raw(Input::Token {
        slot: OTHER,
        presence: Presence::Present(TokenState {
            serial: *b"fedcba9876543210",
            ..slotwarden_core::slot::plain_token()
        }),
    });
    // slot 1 hangs in a harmless call and is doubtful
    w.silent = Some(|c| matches!(c, HsmCall::Observe));
    let code = Some(w.secret("whatever code"));
    w.ask(Command::Activate { slot: OTHER, code, confirmed: false });
    w.now_ms += 30_000;
    w.raw(Input::Tick);
    // slot 0 is inside C_SetPIN, for one millisecond
    w.silent = Some(|c| matches!(c, HsmCall::SetPin { .. }));
    let (code, new_code) = (Some(w.secret("right code")), Some(w.secret("another code")));
    w.ask(Command::ChangeCode { slot: SLOT, code, new_code, confirmed: false, accept: ApplicationSet::NONE });
    w.now_ms += 1;
    assert!(matches!(w.calls.last(), Some(HsmCall::SetPin { .. })));
    let a = w.ask(Command::EndCall { slot: OTHER });
    assert!(!w.ended_worker, "the worker is not killed inside another slot's C_SetPIN: {a:?}");
}

#[test]
fn p34_a_final_try_without_a_low_count_proves_no_innocence() {
    // openCryptoki and others clear COUNT_LOW when they set FINAL_TRY.
    let mut r = SlotRecord::new([1; 16]);
    r.shows_count_low = true;
    r.user.begin();
    r.user.close_after_restart();
    r.user.begin();
    r.user.close_after_restart();
    let mut d = slotwarden_core::slot_data::SlotData::new(SLOT, Owner(7), r);
    d.observe(TokenState { count_low: false, final_try: true, ..slotwarden_core::slot::plain_token() });
    assert!(d.record.user.automatic_stopped);
    assert_eq!(d.record.user.refused_in_row, 2);
}

#[test]
fn an_order_to_end_the_worker_does_not_outlive_it() {
    let mut w = World::with_token(b"right code");
    w.silent = Some(|c| matches!(c, HsmCall::Observe));
    let code = Some(w.secret("right code"));
    w.ask(Command::Activate { slot: SLOT, code, confirmed: false });
    w.now_ms += 30_000;
    w.raw(Input::Tick);
    w.hold = true;
    w.ask(Command::EndCall { slot: SLOT });
    assert!(!w.ended_worker);
    w.raw(Input::WorkerLost); // it died by itself
    w.present();
    w.raw(Input::WorkerUp);
    w.hold = false;
    let Some(stored) = w.held.iter().position(|i| matches!(i, Input::Stored { .. })) else { panic!() };
    let stored = w.held.remove(stored);
    w.raw(stored);
    assert!(!w.ended_worker, "the new worker is not killed");
}

#[test]
fn a_taking_back_that_failed_can_be_ordered_again() {
    let mut w = World::with_token(b"right code");
    assert_eq!(w.activate("right code", false), Answer::Done);
    // the adapter does not answer in time
    w.app_silent = true;
    let (reply, _) = w.ask(Command::Deactivate { slot: SLOT });
    w.now_ms += 30_000;
    w.raw(Input::Tick);
    w.app_silent = false;
    assert!(matches!(w.answers.get(&reply), Some(Answer::Failed(_))));
    assert_eq!(w.ask(Command::Deactivate { slot: SLOT }).1, Some(Answer::Done));
}

#[test]
fn p36_an_activation_that_the_worker_left_is_in_the_log() {
    let mut w = World::with_token(b"right code");
    w.app_silent = true;
    let code = Some(w.secret("right code"));
    let (reply, a) = w.ask(Command::Activate { slot: SLOT, code, confirmed: false });
    assert_eq!(a, None);
    w.raw(Input::WorkerLost);
    assert!(matches!(w.answers.get(&reply), Some(Answer::Failed(_))));
    assert!(w.journal.iter().any(|r| matches!(r.event, AuditEvent::Failed(..))), "the answer is in the log");
}

#[test]
fn p35_a_pending_code_that_was_refused_is_not_tried_again_after_a_cut() {
    let mut w = interrupted(Attempts::default(), b"old generated code");
    static N: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    w.silent = Some(|c| matches!(c, HsmCall::Observe) && N.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 1);
    w.service = service();
    for (o, r) in &w.records {
        w.service.load(*o, *r);
    }
    w.raw(Input::Start);
    w.present();
    w.silent = None;
    w.held.clear();
    w.restart();
    let mut answers = vec![w.order(Command::Activate { slot: SLOT, code: None, confirmed: false })];
    answers.push(w.order(Command::Activate { slot: SLOT, code: None, confirmed: true }));
    let refused = w.journal.iter().filter(|r| r.event == AuditEvent::AttemptRefused).count();
    assert_eq!(refused, 1, "{answers:?} {:?}", w.state());
}

#[test]
fn an_undecided_change_leaves_no_login_behind() {
    let mut w = interrupted(Attempts::default(), b"new generated code");
    w.answer_to = Some(|c| matches!(c, HsmCall::Settle).then_some(Err(HsmFailure::NotSettled)));
    w.restart();
    assert_eq!(w.state(), StateName::Doubtful);
    assert_eq!(w.login, LoginState::Public);
}

#[test]
fn p40_a_login_answered_after_the_halt_is_logged_out() {
    let mut w = World::with_token(b"right code");
    w.silent = Some(|c| matches!(c, HsmCall::Login { .. }));
    let code = Some(w.secret("right code"));
    w.ask(Command::Activate { slot: SLOT, code, confirmed: false });
    w.raw(Input::Stored {
        ticket: slotwarden_core::effect::Ticket { slot: None, number: 0 },
        result: StoreResult::Failed,
    });
    let Some(Input::Done { ticket, .. }) = w.held.pop() else { panic!() };
    w.login = LoginState::User;
    w.raw(Input::Done { ticket, outcome: Outcome::Hsm(Ok(HsmAnswer::LoggedIn)) });
    let a = w.ask(Command::Deactivate { slot: SLOT }).1;
    assert_eq!((a, w.login), (Some(Answer::Refused(Refusal::SlotNotActive)), LoginState::Public));
}

#[test]
fn p42_refused_orders_cannot_halt_an_appliance() {
    let configuration = Configuration {
        slots: heapless::Vec::new(),
        persons: Persons::single(),
        tries: 3,
        digest: [0; 32],
        in_force: [0; 32],
        offered: [0; 32],
        level: SecurityLevel::None,
        cluster: [0; 16],
    };
    // In place, as the daemon has it: handed on by value it takes its size of stack each time.
    let mut service = Box::new(slotwarden_core::Appliance::empty());
    service.configure(&configuration).unwrap();
    let now = Now { mono_ms: 0, wall_s: None };
    service.handle(now, Input::Start).unwrap();
    while service.poll_effect().is_some() {} // a commit is under way
    let mut n = 0u32;
    while service.status(now).halted.is_none() && n < 5000 {
        n += 1;
        let caller = Caller { who: PersonId(9), reply: ReplyId(n) };
        let _ = service.handle(now, Input::Command { caller, command: Command::Boot });
        while service.poll_effect().is_some() {}
    }
    assert_eq!(n, 5000, "halted after {n} refused orders");
}

#[test]
fn p33_a_login_answered_late_is_not_credited_to_the_token_that_took_its_place() {
    let mut w = World::with_token(b"right code");
    w.silent = Some(|c| matches!(c, HsmCall::Login { .. }));
    let code = Some(w.secret("right code"));
    w.ask(Command::Activate { slot: SLOT, code, confirmed: false });
    let other = TokenState { serial: *b"another serial!!", ..w.token() };
    w.raw(Input::Token { slot: SLOT, presence: Presence::Present(other) });
    let Some(Input::Done { ticket, .. }) = w.held.pop() else { panic!("the login is held back") };
    w.raw(Input::Done { ticket, outcome: Outcome::Hsm(Ok(HsmAnswer::LoggedIn)) });
    assert_ne!(w.state(), StateName::Active);
    assert_eq!(w.records[&Owner(7)].serial, Some(*b"0123456789abcdef"));
    assert_eq!(w.handed_over, None);
}

#[test]
fn p33_a_session_that_lost_its_login_is_not_called_active() {
    let mut w = World::with_token(b"right code");
    assert_eq!(w.activate("right code", false), Answer::Done);
    w.answer_to = Some(|c| {
        let function = slotwarden_core::fault::Function::SetPin;
        let lost = HsmFailure::Pkcs11 { code: slotwarden_core::fault::rv::USER_NOT_LOGGED_IN, function };
        matches!(c, HsmCall::SetPin { .. }).then_some(Err(lost))
    });
    let (code, new_code) = (Some(w.secret("right code")), Some(w.secret("another code")));
    w.ask(Command::ChangeCode { slot: SLOT, code, new_code, confirmed: false, accept: ApplicationSet::NONE });
    assert_eq!(w.state(), StateName::Locked);
    assert_eq!(w.handed_over, None);
    assert_eq!(w.records[&Owner(7)].change, None);
}

#[test]
fn p05_a_login_without_an_answer_is_not_made_again() {
    let mut w = World::with_token(b"right code");
    w.silent = Some(|c| matches!(c, HsmCall::Login { .. }));
    let code = Some(w.secret("wrong code"));
    let (reply, _) = w.ask(Command::Activate { slot: SLOT, code, confirmed: false });
    for _ in 0..5 {
        w.now_ms += 30_000;
        w.raw(Input::Tick);
        w.present();
    }
    assert_eq!(w.logins, 1, "one order, one try: whether it was refused is not known yet");
    assert!(matches!(w.answers.get(&reply), Some(Answer::Failed(_))));
    assert_eq!(w.state(), StateName::Doubtful);
}

#[test]
fn p33_a_login_that_was_there_already_proves_no_code() {
    let mut w = World::with_token(b"right code");
    w.answer_to = Some(|c| matches!(c, HsmCall::Login { .. }).then_some(Err(HsmFailure::AlreadyLoggedIn)));
    let answer = w.activate("wrong code", false);
    assert!(matches!(answer, Answer::Failed(_)), "the token compared nothing: {answer:?}");
    assert_eq!(w.state(), StateName::Locked);
    assert_eq!(w.handed_over, None);
}

#[test]
fn p34_a_try_that_a_power_cut_ended_was_counted_before_it_was_made() {
    let mut w = World::with_token(b"right code");
    w.silent = Some(|c| matches!(c, HsmCall::Login { .. }));
    let code = Some(w.secret("wrong code"));
    w.ask(Command::Activate { slot: SLOT, code, confirmed: false });
    assert_eq!(w.logins, 1);
    w.silent = None;
    w.held.clear();
    w.restart();
    assert_eq!(w.records[&Owner(7)].user.refused_in_row, 1, "it may have been refused");
}

#[test]
fn p36_nothing_is_called_and_nobody_answered_before_the_commit_is_durable() {
    let mut w = World::with_token(b"right code");
    let called = w.calls.len();
    w.hold = true;
    let code = Some(w.secret("right code"));
    let (reply, answer) = w.ask(Command::Activate { slot: SLOT, code, confirmed: false });
    let durable = |w: &mut World| {
        assert_eq!(w.held.len(), 1, "one commit at a time");
        let stored = w.held.remove(0);
        w.raw(stored);
    };
    assert_eq!((answer, w.calls.len()), (None, called), "the order is not durable yet");
    durable(&mut w);
    assert_eq!((w.calls.len(), w.logins), (called + 1, 0), "the flags were read; the try is not durable yet");
    durable(&mut w);
    assert_eq!((w.logins, w.handed_over.as_ref()), (1, None), "that it was accepted is not durable yet");
    durable(&mut w);
    assert_eq!(w.handed_over.as_deref(), Some(&b"right code"[..]));
    assert_eq!(w.answers.get(&reply), None, "that it is active is not durable yet");
    durable(&mut w);
    assert_eq!(w.answers.get(&reply), Some(&Answer::Done));
}

#[test]
fn p33_an_answer_to_an_earlier_call_is_not_taken_for_this_one() {
    let mut w = World::with_token(b"right code");
    w.silent = Some(|c| matches!(c, HsmCall::Login { .. }));
    let code = Some(w.secret("right code"));
    w.ask(Command::Activate { slot: SLOT, code, confirmed: false });
    let Some(Input::Done { ticket: earlier, .. }) = w.held.pop() else { panic!("the login is held back") };
    w.raw(Input::WorkerLost);
    w.present();
    w.raw(Input::WorkerUp);
    let code = Some(w.secret("wrong code"));
    let (reply, _) = w.ask(Command::Activate { slot: SLOT, code, confirmed: false });
    assert_eq!(w.logins, 2);
    w.raw(Input::Done { ticket: earlier, outcome: Outcome::Hsm(Ok(HsmAnswer::LoggedIn)) });
    assert_eq!(w.answers.get(&reply), None, "the call under way has not been answered");
    assert_ne!(w.state(), StateName::Active);
    assert_eq!(w.handed_over, None);
}
