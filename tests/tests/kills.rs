//! `kill -9` of the daemon and of its worker while codes are being changed, on two modules:
//! afterwards every slot opens with what the store or the person has.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use slotwarden::problem::Problem;
use slotwarden::wire::{Answered, Ask, Order, SecretRole};
use slotwarden_core::fault::Refusal;
use slotwarden_core::record::Mode;
use slotwarden_tests::build;
use slotwarden_tests::campaign::appliance::{Appliance, PATIENCE, give, is_over};
use slotwarden_tests::campaign::destroyed::{codes_are_kept, no_init_is_offered};
use slotwarden_tests::campaign::{self, Victim, custodians};
use slotwarden_tests::modules::{Bench, Kind, PIN};

slotwarden_tests::on_both_modules! {
    p35_after_each_of_100_kills_of_the_daemon_every_slot_opens
    p44_after_each_of_50_kills_of_the_worker_every_slot_opens
    p35_after_each_of_100_kills_between_shares_and_generated_somebody_opens_the_slot
    p34_a_boot_loop_spends_no_more_refused_tries_than_can_be_known
    p35_the_worker_of_a_killed_daemon_finishes_its_call_and_the_next_one_waits
}

/// The code that somebody gave a token without telling us.
const FOREIGN: &str = "changed elsewhere";

fn p35_after_each_of_100_kills_of_the_daemon_every_slot_opens(kind: Kind) {
    let tally = campaign::run(kind, Victim::Daemon, 100);
    assert!(tally.hits >= 20, "the kills came too early or too late: {tally}");
}

fn p44_after_each_of_50_kills_of_the_worker_every_slot_opens(kind: Kind) {
    let tally = campaign::run(kind, Victim::Worker, 50);
    assert!(tally.hits >= 10, "the kills came too early or too late: {tally}");
}

fn p35_after_each_of_100_kills_between_shares_and_generated_somebody_opens_the_slot(kind: Kind) {
    let tally = custodians::run(kind, 100);
    assert!(tally.hits >= 50, "the kills came too late: {tally}");
    assert!(tally.old_shares > 0 && tally.new_shares > 0 && tally.stored > 0, "a way was never interrupted: {tally}");
}

/// The daemon is killed again and again just when a stored code that is wrong reaches its
/// token. A token that shows a low count is asked once: the flag tells what the store could
/// not record. One that shows none is asked twice, after which two unknown outcomes stop it.
fn p34_a_boot_loop_spends_no_more_refused_tries_than_can_be_known(kind: Kind) {
    let mut appliance = Appliance::new(Bench::forwarded(kind, 2), 2);
    let began = Instant::now();
    appliance.start();
    let _ = appliance.settled(None);
    let start_takes = began.elapsed();
    for slot in 0..2 {
        to_generated(&appliance, slot);
    }
    let pins: Vec<String> = (0..2).map(|slot| appliance.handed_over(slot).expect("it is active")).collect();
    appliance.stop();
    for (name, pin) in appliance.names.iter().zip(&pins) {
        let mut tool = appliance.stage.bench.pkcs11_tool();
        tool.args(["--token-label", name, "--login", "--pin", pin, "--change-pin", "--new-pin", FOREIGN]);
        build::run("opensc", &mut tool);
    }
    let logins = |appliance: &Appliance| {
        let calls = appliance.names.iter().map(|name| appliance.stage.bench.calls("C_Login", name));
        calls.collect::<Vec<usize>>()
    };
    let before = logins(&appliance);
    for boot in 0..12_u32 {
        let known = logins(&appliance);
        appliance.start();
        let until = Instant::now() + 3 * start_takes;
        while logins(&appliance) == known && Instant::now() < until {
            thread::sleep(Duration::from_micros(200));
        }
        // Sometimes before the answer, sometimes before it is durable.
        thread::sleep(Duration::from_micros(u64::from(boot % 4) * 700));
        appliance.kill();
    }
    appliance.start();
    let status = appliance.settled(None);
    let spent: Vec<usize> = logins(&appliance).iter().zip(&before).map(|(now, before)| now - before).collect();
    let most = if kind == Kind::SoftHsm { 1 } else { 2 };
    println!("{kind:?}: {spent:?} refused logins in 13 boots");
    assert!(spent.iter().all(|logins| *logins <= most), "{spent:?} refused logins in 13 boots");
    assert_ne!(spent, [0, 0], "no token was ever asked");
    for slot in 0..2 {
        let view = &status.slots[slot];
        assert!(view.waits_for.as_ref().is_some_and(|wait| wait.kind == "person"), "{view:?}");
        activate(&appliance, slot, FOREIGN).expect("that is its PIN now");
    }
    for seen in appliance.second_look(&[FOREIGN.to_owned(), FOREIGN.to_owned()]) {
        assert!(seen.opens && seen.flags.is_empty(), "{seen:?}");
    }
}

/// Two workers never serve: the new daemon's does nothing at the token until the old one
/// has set the PIN that it was setting, and then finds the new code in the store.
fn p35_the_worker_of_a_killed_daemon_finishes_its_call_and_the_next_one_waits(kind: Kind) {
    let mut appliance = Appliance::new(Bench::forwarded(kind, 1), 1);
    appliance.start();
    let _ = appliance.settled(None);
    to_generated(&appliance, 0);
    let before = appliance.handed_over(0).expect("it is active");
    let worker = appliance.worker().expect("it serves");
    let answer = while_a_pin_is_being_set(&appliance, || {
        kill_process(appliance.daemon(), Signal::KILL).expect("it waits for its worker");
    });
    assert!(answer.is_err_and(|problem| problem.name == "answer-lost"));
    appliance.kill();
    let logins = appliance.stage.bench.calls("C_Login", "slot-0");
    appliance.start();
    let until = Instant::now() + Duration::from_millis(700);
    let mut looks = 0;
    while Instant::now() < until {
        if let Ok(Answered::Status(status)) = appliance.client.ask(Ask::Status, &[]) {
            looks += 1;
            assert!(!status.hsm.worker && !status.slots[0].is_active(), "{status:?}");
        }
        assert!(!is_over(worker) && appliance.is_setting_a_pin(), "the call has not ended");
        thread::sleep(Duration::from_millis(5));
    }
    assert_ne!(looks, 0, "the new daemon answers while it waits");
    assert_eq!(appliance.stage.bench.calls("C_Login", "slot-0"), logins, "nobody else is at the token");
    appliance.stage.bench.ask_no_more("hang", "slot-0");
    let status = appliance.settled(None);
    assert!(is_over(worker) && status.slots[0].is_active(), "{status:?}");
    let after = appliance.handed_over(0).expect("it is active");
    assert!(after != before && appliance.second_look(&[after])[0].opens, "the old worker finished its call");
    assert_eq!(appliance.stage.bench.calls("C_SetPIN", "slot-0"), 2, "once for the mode, once for the code");
}

/// What a kill between SoftHSM's truncation of its token file and the write after it
/// leaves behind, made to happen while the worker hangs in `C_SetPIN`.
#[test]
fn p35_a_token_that_softhsm_destroyed_leaves_its_slot_absent_and_both_codes_kept() {
    let mut appliance = Appliance::new(Bench::forwarded(Kind::SoftHsm, 2), 2);
    appliance.start();
    let _ = appliance.settled(None);
    for slot in 0..2 {
        to_generated(&appliance, slot);
    }
    let pin = appliance.handed_over(0).expect("it is active");
    let file = token_file(&appliance, 0);
    let whole = fs::read(&file).expect("SoftHSM keeps its tokens in files");
    let worker = appliance.worker().expect("it serves");
    let answer = while_a_pin_is_being_set(&appliance, || {
        fs::write(&file, b"").expect("the bench's own file");
        kill_process(worker, Signal::KILL).expect("it hangs");
    });
    assert!(answer.is_err_and(|problem| problem.name == "worker-lost"));
    appliance.stage.bench.ask_no_more("hang", &appliance.names[0]);
    let status = appliance.settled(Some(worker));
    assert_eq!(status.slots[0].state, "absent", "{status:?}");
    assert!(status.slots[1].is_active(), "the other slot is not touched: {status:?}");
    no_init_is_offered(&appliance, 0);
    // Also not after a restart, which finds the codes as they were.
    appliance.stop();
    codes_are_kept(&appliance, 0, Mode::Generated, Mode::Generated);
    appliance.start();
    assert_eq!(appliance.settled(None).slots[0].state, "absent");
    no_init_is_offered(&appliance, 0);
    appliance.stop();
    codes_are_kept(&appliance, 0, Mode::Generated, Mode::Generated);
    // Whoever brings the token back from a copy finds its code still there.
    fs::write(&file, whole).expect("the bench's own file");
    appliance.start();
    let status = appliance.settled(None);
    assert!(status.slots[0].is_active(), "{status:?}");
    assert_eq!(appliance.handed_over(0), Some(pin));
}

fn to_generated(appliance: &Appliance, slot: usize) {
    let order = Order::Mode {
        slot: appliance.names[slot].clone(),
        to: Mode::Generated,
        parts: Vec::new(),
        confirmed: false,
        accept: Vec::new(),
    };
    appliance.order(order, &[(SecretRole::Code, PIN)]).expect("the code is right");
}

/// Orders slot 0 another code and acts while the worker hangs in `C_SetPIN`, which it goes
/// on doing until it is asked no more.
fn while_a_pin_is_being_set(appliance: &Appliance, act: impl FnOnce()) -> Result<(), Problem> {
    let bench = &appliance.stage.bench;
    let order = Order::ChangeCode { slot: appliance.names[0].clone(), confirmed: false, accept: Vec::new() };
    let before = bench.calls("C_SetPIN", &appliance.names[0]);
    bench.ask_to("hang", &appliance.names[0]);
    thread::scope(|scope| {
        let client = &appliance.client;
        let person = scope.spawn(move || give(client, order, &[]));
        let until = Instant::now() + PATIENCE;
        while bench.calls("C_SetPIN", &appliance.names[0]) == before {
            assert!(Instant::now() < until, "no PIN is being set");
            thread::sleep(Duration::from_millis(2));
        }
        assert!(appliance.is_setting_a_pin(), "the worker says that it must not be killed now");
        act();
        person.join().expect("an order does not panic")
    })
}

/// Confirmed when asked for.
fn activate(appliance: &Appliance, slot: usize, code: &str) -> Result<(), Problem> {
    let order = |confirmed| Order::Activate { slot: appliance.names[slot].clone(), confirmed };
    match appliance.order(order(false), &[(SecretRole::Code, code)]) {
        Err(problem) if problem.is(Refusal::LastTryUnconfirmed) => {
            appliance.order(order(true), &[(SecretRole::Code, code)])
        }
        answer => answer,
    }
}

/// SoftHSM's file of one token: it holds the label.
fn token_file(appliance: &Appliance, slot: usize) -> PathBuf {
    let label = appliance.names[slot].as_bytes();
    let folders = fs::read_dir(appliance.stage.bench.tokens_dir()).expect("the bench's own");
    let files = folders.flatten().map(|folder| folder.path().join("token.object"));
    let mut its = files.filter(|file| {
        let bytes = fs::read(file).expect("SoftHSM keeps its tokens in files");
        bytes.windows(label.len()).any(|part| part == label)
    });
    its.next().expect("the token was made")
}
