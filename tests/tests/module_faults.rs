//! A module that hangs, crashes or vanishes, and a worker that is killed: the same list
//! for SoftHSM2 and Kryoptic. The forwarding module in front misbehaves on request and
//! counts what reaches the module.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use slotwarden::devices::Hsm;
use slotwarden::hsm::Waits;
use slotwarden_core::effect::{HsmAnswer, HsmCall, Input, SlotId};
use slotwarden_core::fault::HsmFailure;
use slotwarden_core::token::{LoginState, Presence};
use slotwarden_tests::driver::{Driver, is_absent, is_present};
use slotwarden_tests::modules::{Bench, Kind, PIN, label};

slotwarden_tests::on_both_modules! {
    a_token_that_disappears_is_absent_and_comes_back
    p44_a_worker_that_dies_in_a_login_is_lost_once_and_nothing_is_repeated
    p44_a_killed_worker_is_lost_once_and_starts_again
    p44_a_slot_that_hangs_delays_no_other
    a_look_that_finds_nothing_ends_at_once_and_one_that_finds_a_token_after_the_restart
    a_call_that_hangs_while_another_token_returns_is_reported_once_with_the_way_out
    p44_a_token_that_returns_is_served_while_the_keys_of_another_are_counted_again_and_again
    p44_a_count_that_hangs_while_another_token_returns_is_ended_without_a_hand
    p44_ending_the_worker_ends_a_hung_call
    a_module_that_cannot_be_loaded_is_named_with_the_loaders_reason
    without_a_worker_calls_are_answered_at_once
    a_new_daemons_worker_waits_for_the_calls_of_the_old_one
    a_worker_that_sets_a_pin_is_not_killed_by_a_new_daemon
    a_worker_that_logs_in_is_killed_by_a_new_daemon_only_after_the_longer_wait
    p35_a_worker_that_sends_garbage_is_not_killed_inside_another_slots_pin_change
    p35_a_token_that_returns_does_not_end_the_worker_between_two_calls_of_a_change
    p44_a_worker_that_does_not_run_holds_up_randomness_for_half_a_second
    p44_a_token_that_hangs_while_it_is_looked_for_delays_no_other
    p44_a_module_that_hangs_when_it_is_loaded_is_ended
    p44_a_module_that_crashes_when_it_is_loaded_is_tried_again_and_named_once
    a_signal_meant_for_the_daemon_does_not_end_the_worker
    p45_the_worker_locks_its_memory_or_says_that_it_may_not
}

/// The worker that runs now.
fn worker(driver: &Driver) -> Pid {
    let process = driver.hsm.worker_process().and_then(|id| i32::try_from(id).ok());
    process.and_then(Pid::from_raw).expect("it is up")
}

fn a_token_that_disappears_is_absent_and_comes_back(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 2);
    bench.make_token("ca");
    bench.make_token("other");
    let (mut driver, presences) = Driver::up(bench.settings(&[label("ca"), label("other")]));
    assert!(presences.iter().all(is_present));
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    // Twice, since the second return looks like the first.
    for round in 1..=2 {
        bench.ask_to("hide", "ca");
        driver.wait_presence(0, is_absent);
        assert_eq!(driver.login(0, PIN), Err(HsmFailure::TokenGone));
        assert_eq!(driver.observe(1).login, LoginState::Public, "the other slot is not touched");
        bench.ask_no_more("hide", "ca");
        let presences = driver.wait_up();
        assert!(presences.iter().all(is_present), "{presences:?}");
        assert_eq!((driver.count(Input::WorkerLost), driver.count(Input::WorkerUp)), (round, round + 1));
        assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    }
    driver.listen(Duration::from_millis(800));
    assert_eq!(driver.count(Input::WorkerUp), 3, "nothing is absent, so nothing starts again");
}

fn p44_a_worker_that_dies_in_a_login_is_lost_once_and_nothing_is_repeated(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 2);
    bench.make_token("ca");
    bench.make_token("other");
    let (mut driver, _) = Driver::up(bench.settings(&[label("ca"), label("other")]));
    bench.ask_to("crash", "ca");
    let pin = driver.secret(PIN);
    let ticket = driver.order(0, HsmCall::Login { pin });
    driver.wait_up();
    driver.listen(Duration::from_millis(500));
    assert_eq!((driver.count(Input::WorkerLost), driver.count(Input::WorkerUp)), (1, 2));
    assert!(!driver.is_answered_within(ticket, Duration::ZERO), "the loss is the answer");
    assert_eq!(bench.calls("C_Login", "ca"), 1);
    bench.ask_no_more("crash", "ca");
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    assert_eq!(bench.calls("C_Login", "ca"), 2);
}

fn p44_a_killed_worker_is_lost_once_and_starts_again(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 1);
    bench.make_token("ca");
    let (mut driver, _) = Driver::up(bench.settings(&[label("ca")]));
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    for round in 1..=3 {
        rustix::process::kill_process(worker(&driver), Signal::KILL).expect("our own child");
        let presences = driver.wait_up();
        assert!(presences.iter().all(is_present));
        assert_eq!((driver.count(Input::WorkerLost), driver.count(Input::WorkerUp)), (round, round + 1));
    }
    assert_eq!(bench.calls("C_Login", "ca"), 1, "whoever wants to be logged in again has to order it");
    assert_eq!(driver.observe(0).login, LoginState::Public);
}

fn p44_a_slot_that_hangs_delays_no_other(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 2);
    bench.make_token("ca");
    bench.make_token("other");
    let (mut driver, _) = Driver::up(bench.settings(&[label("ca"), label("other")]));
    bench.ask_to("hang", "ca");
    let pin = driver.secret(PIN);
    let hung = driver.order(0, HsmCall::Login { pin });
    let begun = Instant::now();
    assert_eq!(driver.login(1, PIN), Ok(HsmAnswer::LoggedIn));
    let mut half = [0; 32];
    assert!(driver.hsm.random(&mut half), "randomness comes from a slot that is idle");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(!driver.is_answered_within(hung, Duration::from_millis(300)));
    bench.ask_no_more("hang", "ca");
    assert_eq!(driver.answer(hung), Ok(HsmAnswer::LoggedIn), "a late answer is still an answer");
    assert_eq!(bench.calls("C_Login", "ca"), 1);
}

fn a_look_that_finds_nothing_ends_at_once_and_one_that_finds_a_token_after_the_restart(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 2);
    bench.make_token("ca");
    bench.make_token("other");
    let mut settings = bench.settings(&[label("ca"), label("other")]);
    // Only ordered looks, so that none comes in between.
    settings.waits.return_interval = Duration::from_secs(3600);
    let (mut driver, _) = Driver::up(settings);
    driver.hsm.look();
    assert!(driver.wait_looked(1) < Duration::from_secs(1), "no token is missing");
    bench.ask_to("hide", "other");
    driver.wait_presence(1, is_absent);
    // The second is ordered while the first may be under way, and has an end of its own.
    driver.hsm.look();
    driver.hsm.look();
    assert!(driver.wait_looked(3) < Duration::from_secs(2), "nothing is found");
    assert_eq!(driver.count(Input::WorkerUp), 1);
    bench.ask_no_more("hide", "other");
    driver.hsm.look();
    driver.wait_looked(4);
    assert_eq!(driver.count(Input::WorkerUp), 2, "what was found is told before the look ends");
    driver.listen(Duration::from_millis(300));
    assert_eq!(driver.looked, 4);
}

fn a_call_that_hangs_while_another_token_returns_is_reported_once_with_the_way_out(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 2);
    bench.make_token("ca");
    bench.make_token("other");
    let mut settings = bench.settings(&[label("ca"), label("other")]);
    settings.waits.hang_wait = Duration::from_millis(300);
    // The hung token does not answer the looking process either.
    settings.waits.look_wait = Duration::from_millis(500);
    let (mut driver, _) = Driver::up(settings);
    bench.ask_to("hide", "other");
    driver.wait_presence(1, is_absent);
    bench.ask_to("hang", "ca");
    let pin = driver.secret(PIN);
    let hung = driver.order(0, HsmCall::Login { pin });
    bench.ask_no_more("hide", "other");
    let note = driver.wait_note("does not end");
    assert!(note.contains("pkcs11:token=ca") && note.contains("--confirm \"end call\""), "{note}");
    driver.listen(Duration::from_secs(2));
    assert_eq!(driver.notes.iter().filter(|note| note.contains("does not end")).count(), 1, "{:?}", driver.notes);
    assert!(!driver.is_answered_within(hung, Duration::ZERO));
    // As soon as the call ends the other token is served, without a hand.
    bench.ask_no_more("hang", "ca");
    assert_eq!(driver.answer(hung), Ok(HsmAnswer::LoggedIn));
    assert!(driver.wait_up().iter().all(is_present));
}

/// Logged in to `ca`; the token `other` is not there.
fn logged_in_beside_a_hidden_one(kind: Kind) -> (Bench, Driver) {
    let mut bench = Bench::forwarded(kind, 2);
    bench.make_token("ca");
    bench.make_token("other");
    let mut settings = bench.settings(&[label("ca"), label("other")]);
    settings.waits.hang_wait = Duration::from_millis(300);
    let (mut driver, _) = Driver::up(settings);
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    bench.ask_to("hide", "other");
    driver.wait_presence(1, is_absent);
    (bench, driver)
}

fn p44_a_token_that_returns_is_served_while_the_keys_of_another_are_counted_again_and_again(kind: Kind) {
    let (bench, mut driver) = logged_in_beside_a_hidden_one(kind);
    bench.ask_no_more("hide", "other");
    let until = Instant::now() + Duration::from_secs(20);
    while driver.count(Input::WorkerUp) < 2 {
        assert!(Instant::now() < until, "{:?}", driver.notes);
        // As a node does that watches for new keys, only oftener.
        let ticket = driver.order(0, HsmCall::Inventory { uid: [1; 16] });
        driver.is_answered_within(ticket, Duration::from_millis(50));
    }
    let told = |input: &Input| match input {
        Input::Token { slot: SlotId(1), presence } => Some(*presence),
        _ => None,
    };
    assert!(driver.heard.iter().rev().find_map(told).as_ref().is_some_and(is_present));
    assert!(!driver.notes.iter().any(|note| note.contains("does not end")), "{:?}", driver.notes);
}

fn p44_a_count_that_hangs_while_another_token_returns_is_ended_without_a_hand(kind: Kind) {
    let (bench, mut driver) = logged_in_beside_a_hidden_one(kind);
    bench.ask_to("search", "ca");
    let hung = driver.order(0, HsmCall::Inventory { uid: [1; 16] });
    bench.ask_no_more("hide", "other");
    assert!(driver.wait_up().iter().all(is_present));
    assert!(!driver.is_answered_within(hung, Duration::ZERO), "the loss is the answer");
    assert!(!driver.notes.iter().any(|note| note.contains("does not end")), "{:?}", driver.notes);
    bench.ask_no_more("search", "ca");
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
}

fn p44_ending_the_worker_ends_a_hung_call(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 1);
    bench.make_token("ca");
    let (mut driver, _) = Driver::up(bench.settings(&[label("ca")]));
    bench.ask_to("hang", "ca");
    let pin = driver.secret(PIN);
    let hung = driver.order(0, HsmCall::Login { pin });
    assert!(!driver.is_answered_within(hung, Duration::from_millis(300)));
    let mut half = [0; 32];
    assert!(!driver.hsm.random(&mut half), "the only token hangs");
    driver.hsm.end_worker();
    driver.wait_up();
    assert_eq!((driver.count(Input::WorkerLost), driver.count(Input::WorkerUp)), (1, 2));
    bench.ask_no_more("hang", "ca");
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
}

fn a_module_that_cannot_be_loaded_is_named_with_the_loaders_reason(kind: Kind) {
    let mut bench = Bench::new(kind, 1);
    bench.make_token("ca");
    let mut settings = bench.settings(&[label("ca")]);
    let module = bench.dir().join("module.so");
    settings.module.clone_from(&module);
    let mut driver = Driver::start(settings.clone());
    assert_eq!(driver.wait_presence(0, is_absent), Presence::Absent { free: false });
    let note = driver.wait_note("cannot be loaded");
    let path = module.display().to_string();
    assert!(note.contains(&path) && note.contains("No such file"), "{note}");
    assert_eq!(driver.login(0, PIN), Err(HsmFailure::NoWorker));
    // The next retry finds it mended; nothing was said twice meanwhile.
    driver.listen(Duration::from_millis(300));
    assert_eq!(driver.notes.iter().filter(|note| note.contains("cannot be loaded")).count(), 1);
    std::os::unix::fs::symlink(bench.settings(&[]).module, &module).expect("the bench's own directory");
    driver.hsm.look();
    assert!(driver.wait_up().iter().all(is_present));
    assert_eq!(driver.count(Input::WorkerLost), 0, "it was never up before");
}

fn without_a_worker_calls_are_answered_at_once(kind: Kind) {
    let mut bench = Bench::new(kind, 1);
    bench.make_token("ca");
    let mut settings = bench.settings(&[label("ca")]);
    settings.program = bench.dir().join("no-such-program");
    let mut driver = Driver::start(settings);
    driver.wait_note("no-such-program");
    assert_eq!(driver.login(0, PIN), Err(HsmFailure::NoWorker));
    let mut half = [0; 32];
    let begun = Instant::now();
    assert!(!driver.hsm.random(&mut half));
    assert!(begun.elapsed() < Duration::from_secs(1));
}

fn a_new_daemons_worker_waits_for_the_calls_of_the_old_one(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 1);
    bench.make_token("ca");
    let mut settings = bench.settings(&[label("ca")]);
    settings.waits.stop_wait = Duration::from_millis(100);
    let (mut old, _) = Driver::up(settings.clone());
    bench.ask_to("hang", "ca");
    let pin = old.secret(PIN);
    old.order(0, HsmCall::Login { pin });
    old.listen(Duration::from_millis(200));
    drop(old);
    settings.waits.lock_wait = Duration::from_secs(60);
    let mut new = Driver::start(settings.clone());
    new.listen(Duration::from_millis(500));
    assert_eq!(new.count(Input::WorkerUp), 0, "the old worker is in a call");
    bench.ask_no_more("hang", "ca");
    new.wait_up();
    drop(new);
    // A call that never ends is not waited for longer than the deadline.
    let (mut old, _) = Driver::up(settings.clone());
    bench.ask_to("mute", "ca");
    let observed = old.order(0, HsmCall::Observe);
    assert!(!old.is_answered_within(observed, Duration::from_millis(200)));
    drop(old);
    settings.waits.lock_wait = Duration::from_millis(300);
    settings.waits.look_wait = Duration::from_millis(300);
    let mut new = Driver::start(settings);
    new.wait_note("was killed");
    new.wait_up();
}

fn a_worker_that_logs_in_is_killed_by_a_new_daemon_only_after_the_longer_wait(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 1);
    bench.make_token("ca");
    let mut settings = bench.settings(&[label("ca")]);
    settings.waits.stop_wait = Duration::from_millis(100);
    settings.waits.lock_wait = Duration::from_millis(200);
    settings.waits.login_wait = Duration::from_secs(2);
    let (mut old, _) = Driver::up(settings.clone());
    bench.ask_to("hang", "ca");
    let pin = old.secret(PIN);
    old.order(0, HsmCall::Login { pin });
    old.listen(Duration::from_millis(200));
    drop(old);
    let begun = Instant::now();
    let mut new = Driver::start(settings);
    new.wait_note("is logging in and is not killed yet");
    new.wait_note("was killed");
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    new.wait_up();
}

/// A module's code that overwrites what the worker says; the other slot is in `C_SetPIN`.
fn p35_a_worker_that_sends_garbage_is_not_killed_inside_another_slots_pin_change(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 2);
    bench.make_token("ca");
    bench.make_token("other");
    let (mut driver, _) = Driver::up(bench.settings(&[label("ca"), label("other")]));
    let mut present = PIN.to_owned();
    for (round, garbage) in ["garbage", "noise"].into_iter().enumerate() {
        assert_eq!(driver.login(0, &present), Ok(HsmAnswer::LoggedIn));
        let process = driver.hsm.worker_process();
        let next = format!("new-pin-{round}");
        let (old, new) = (driver.secret(&present), driver.secret(&next));
        bench.ask_to("hang", "ca");
        let changing = driver.order(0, HsmCall::SetPin { old, new });
        driver.listen(Duration::from_millis(200));
        bench.ask_to(garbage, "other");
        let pin = driver.secret(PIN);
        let login = driver.order(1, HsmCall::Login { pin });
        let note = driver.wait_note("is changing a PIN, so it is not ended yet");
        assert!(note.contains("sent garbage"), "{note}");
        driver.notes.clear();
        driver.listen(Duration::from_millis(500));
        assert_eq!(driver.count(Input::WorkerLost), round);
        assert_eq!(driver.hsm.worker_process(), process);
        assert_eq!(driver.call(1, HsmCall::Observe), Err(HsmFailure::NoWorker), "it is asked nothing more");
        bench.ask_no_more(garbage, "other");
        bench.ask_no_more("hang", "ca");
        driver.wait_up();
        assert_eq!((driver.count(Input::WorkerLost), driver.count(Input::WorkerUp)), (round + 1, round + 2));
        assert!(!driver.is_answered_within(changing, Duration::ZERO), "what it says is not believed");
        assert!(!driver.is_answered_within(login, Duration::ZERO));
        present = next;
    }
    assert_eq!(driver.login(0, &present), Ok(HsmAnswer::LoggedIn), "the call was finished");
    // A person's order ends it at once.
    let process = driver.hsm.worker_process();
    bench.ask_to("hang", "ca");
    let (old, new) = (driver.secret(&present), driver.secret("never-set-1"));
    driver.order(0, HsmCall::SetPin { old, new });
    driver.listen(Duration::from_millis(200));
    bench.ask_to("garbage", "other");
    let pin = driver.secret(PIN);
    driver.order(1, HsmCall::Login { pin });
    driver.wait_note("is changing a PIN");
    driver.hsm.end_worker();
    driver.wait_up();
    bench.ask_no_more("hang", "ca");
    assert_ne!(driver.hsm.worker_process(), process);
    assert_eq!(driver.login(0, &present), Ok(HsmAnswer::LoggedIn));
}

fn p35_a_token_that_returns_does_not_end_the_worker_between_two_calls_of_a_change(kind: Kind) {
    const NEW: &str = "new-pin-5678";
    const SLOW_COMMIT: Duration = Duration::from_millis(1500);
    let mut bench = Bench::forwarded(kind, 2);
    bench.make_token("ca");
    bench.make_token("other");
    let mut settings = bench.settings(&[label("ca"), label("other")]);
    settings.waits =
        Waits { quiet_wait: Waits::default().quiet_wait, change_wait: Waits::default().change_wait, ..settings.waits };
    let (mut driver, _) = Driver::up(settings);
    bench.ask_to("hide", "other");
    driver.wait_presence(1, is_absent);
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    bench.ask_no_more("hide", "other");
    driver.listen(SLOW_COMMIT);
    assert_eq!(driver.set_pin(0, PIN, NEW), Ok(HsmAnswer::PinSet));
    driver.listen(2 * SLOW_COMMIT);
    assert_eq!(driver.call(0, HsmCall::Logout), Ok(HsmAnswer::LoggedOut));
    driver.listen(SLOW_COMMIT);
    assert_eq!(driver.observe(0).login, LoginState::Public);
    driver.listen(SLOW_COMMIT);
    assert_eq!(driver.login(0, NEW), Ok(HsmAnswer::LoggedIn));
    driver.listen(SLOW_COMMIT);
    assert_eq!(driver.call(0, HsmCall::Settle), Ok(HsmAnswer::Settled));
    assert_eq!(driver.count(Input::WorkerLost), 0, "it was one worker all the time");
    let settled = Instant::now();
    assert!(driver.wait_up().iter().all(is_present));
    assert!(settled.elapsed() < Duration::from_secs(10), "and then it starts again: {:?}", settled.elapsed());
}

/// `Hsm::random` is the one call that the daemon's loop waits for.
fn p44_a_worker_that_does_not_run_holds_up_randomness_for_half_a_second(kind: Kind) {
    let mut bench = Bench::new(kind, 1);
    bench.make_token("ca");
    let (mut driver, _) = Driver::up(bench.settings(&[label("ca")]));
    let mut half = [0; 32];
    assert!(driver.hsm.random(&mut half));
    rustix::process::kill_process(worker(&driver), Signal::STOP).expect("our own child");
    let begun = Instant::now();
    assert!(!driver.hsm.random(&mut half));
    let took = begun.elapsed();
    rustix::process::kill_process(worker(&driver), Signal::CONT).expect("our own child");
    assert!(took < Duration::from_secs(1), "{took:?}");
    // The draw that nobody waits for any more is answered first.
    driver.observe(0);
    let begun = Instant::now();
    for _ in 0..100 {
        assert!(driver.hsm.random(&mut half));
    }
    println!("{kind:?}: {:?} for one draw", begun.elapsed() / 100);
}

fn a_worker_that_sets_a_pin_is_not_killed_by_a_new_daemon(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 1);
    bench.make_token("ca");
    let mut settings = bench.settings(&[label("ca")]);
    settings.waits.stop_wait = Duration::from_millis(100);
    settings.waits.lock_wait = Duration::from_millis(200);
    let (mut old, _) = Driver::up(settings.clone());
    assert_eq!(old.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    bench.ask_to("hang", "ca");
    let (before, after) = (old.secret(PIN), old.secret("new-pin-5678"));
    old.order(0, HsmCall::SetPin { old: before, new: after });
    old.listen(Duration::from_millis(200));
    drop(old);
    let mut new = Driver::start(settings);
    new.wait_note("is not killed");
    new.listen(Duration::from_millis(500));
    assert_eq!(new.count(Input::WorkerUp), 0);
    bench.ask_no_more("hang", "ca");
    new.wait_up();
    assert_eq!(new.login(0, "new-pin-5678"), Ok(HsmAnswer::LoggedIn), "the call was finished");
}

fn p44_a_token_that_hangs_while_it_is_looked_for_delays_no_other(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 2);
    bench.make_token("ca");
    bench.make_token("other");
    let mut settings = bench.settings(&[label("ca"), label("other")]);
    settings.waits.look_wait = Duration::from_millis(500);
    // A second worker that looks for returned tokens may be heard before the late answer, and is
    // then a good reason to start again; here only the late answer counts.
    settings.waits.return_interval = Duration::from_secs(600);
    bench.ask_to("mute", "ca");
    let mut driver = Driver::start(settings);
    driver.wait_presence(1, is_present);
    assert_eq!(driver.login(1, PIN), Ok(HsmAnswer::LoggedIn));
    let told_of_the_other = |input: &Input| matches!(input, Input::Token { slot: SlotId(0), .. });
    assert!(!driver.heard.iter().any(told_of_the_other), "the look goes on, and nobody waits for its end");
    assert_eq!(driver.wait_presence(0, |_| true), Presence::Absent { free: kind == Kind::SoftHsm });
    bench.ask_no_more("mute", "ca");
    driver.wait_presence(0, is_present);
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    driver.listen(Duration::from_millis(600));
    assert_eq!(driver.count(Input::WorkerUp), 1, "it answered after all: no reason to start again");
}

fn p44_a_module_that_hangs_when_it_is_loaded_is_ended(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 1);
    bench.make_token("ca");
    let mut settings = bench.settings(&[label("ca")]);
    settings.waits.start_wait = Duration::from_millis(400);
    bench.ask_to("mute", "module");
    let mut driver = Driver::start(settings);
    assert_eq!(driver.wait_presence(0, is_absent), Presence::Absent { free: false });
    driver.wait_note("did not finish starting in time");
    assert_eq!(driver.login(0, PIN), Err(HsmFailure::NoWorker));
    bench.ask_no_more("mute", "module");
    assert!(driver.wait_up().iter().all(is_present));
}

fn p44_a_module_that_crashes_when_it_is_loaded_is_tried_again_and_named_once(kind: Kind) {
    let mut bench = Bench::forwarded(kind, 1);
    bench.make_token("ca");
    bench.ask_to("crash", "module");
    let mut driver = Driver::start(bench.settings(&[label("ca")]));
    driver.wait_presence(0, is_absent);
    driver.listen(Duration::from_millis(500));
    let died = driver.notes.iter().filter(|note| note.contains("died")).count();
    assert_eq!((died, driver.count(Input::WorkerLost)), (1, 0), "{:?}", driver.notes);
    bench.ask_no_more("crash", "module");
    assert!(driver.wait_up().iter().all(is_present));
}

fn a_signal_meant_for_the_daemon_does_not_end_the_worker(kind: Kind) {
    let mut bench = Bench::new(kind, 1);
    bench.make_token("ca");
    let (mut driver, _) = Driver::up(bench.settings(&[label("ca")]));
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    for signal in [Signal::HUP, Signal::INT, Signal::TERM] {
        rustix::process::kill_process(worker(&driver), signal).expect("our own child");
    }
    driver.listen(Duration::from_millis(300));
    assert_eq!(driver.count(Input::WorkerLost), 0);
    assert_eq!(driver.observe(0).login, LoginState::User);
    let group = rustix::process::getpgid(Some(worker(&driver))).expect("our own child");
    assert_eq!(group, worker(&driver), "a terminal's signals reach its foreground group only");
}

fn p45_the_worker_locks_its_memory_or_says_that_it_may_not(kind: Kind) {
    let mut bench = Bench::new(kind, 1);
    bench.make_token("ca");
    let (driver, _) = Driver::up(bench.settings(&[label("ca")]));
    let status = fs::read_to_string(format!("/proc/{}/status", worker(&driver).as_raw_nonzero())).expect("it is up");
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).map(str::trim);
    let said = driver.notes.iter().any(|note| note.contains("may not lock its memory"));
    assert_eq!(locked == Some("0 kB"), said, "{locked:?} {:?}", driver.notes);
}

/// SoftHSM with a real disappearance: its token's directory is moved away and back.
#[test]
fn a_softhsm_token_that_is_moved_away_is_absent_and_comes_back() {
    let mut bench = Bench::new(Kind::SoftHsm, 0);
    bench.make_token("ca");
    let token =
        fs::read_dir(bench.tokens_dir()).expect("the bench's own").next().expect("one token").expect("readable");
    let away = bench.dir().join("away");
    bench.make_token("other");
    let (mut driver, presences) = Driver::up(bench.settings(&[label("ca"), label("other")]));
    assert!(presences.iter().all(is_present));
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
    fs::rename(token.path(), &away).expect("one file system");
    driver.wait_presence(0, is_absent);
    assert_eq!(driver.login(0, PIN), Err(HsmFailure::TokenGone));
    assert_eq!(driver.login(1, PIN), Ok(HsmAnswer::LoggedIn), "the other slot is not touched");
    fs::rename(&away, token.path()).expect("one file system");
    assert!(driver.wait_up().iter().all(is_present));
    assert_eq!(driver.login(0, PIN), Ok(HsmAnswer::LoggedIn));
}
