//! What an activation asks of a module, counted by the forwarding module: exactly so many
//! calls for each slot, one at a time on a module of this machine, many at a time on a slow
//! one and never more than the configuration allows, and nobody waiting for a slot that hangs.
//!
//! Times are compared within one run and fail only beyond 1.5 times the goal of
//! `tests/figures activation`, which measures them.

use std::time::{Duration, Instant};

use slotwarden_core::effect::{HsmAnswer, HsmCall};
use slotwarden_tests::driver::{Driver, is_present};
use slotwarden_tests::modules::{Bench, Kind, PIN, SO_PIN, label};

/// As many as an appliance has.
const SLOTS: usize = 64;

/// SoftHSM tokens `t0` to `t63` behind the forwarding module, which writes every call down.
fn bench() -> Bench {
    let mut bench = Bench::forwarded(Kind::SoftHsm, SLOTS);
    for slot in 0..SLOTS {
        bench.make_token_with(&format!("t{slot}"), SO_PIN, PIN);
    }
    bench.more.push(("FORWARD_COUNT".into(), "all".into()));
    bench
}

/// Starts a worker and logs in to every slot but those named; returns it and how long that took.
fn log_in(bench: &Bench, but: &[usize]) -> (Driver, Duration) {
    let tokens: Vec<_> = (0..SLOTS).map(|slot| label(&format!("t{slot}"))).collect();
    let mut settings = bench.settings(&tokens);
    settings.waits.loss_interval = Duration::from_secs(600);
    let began = Instant::now();
    let mut driver = Driver::start(settings);
    let mut ordered = Vec::new();
    let pin = driver.secret(PIN);
    let wanted: Vec<usize> = (0..SLOTS).filter(|slot| !but.contains(slot)).collect();
    while ordered.len() < wanted.len() {
        let (slot, presence) = driver.wait_token();
        if but.contains(&usize::from(slot.0)) {
            continue;
        }
        assert!(is_present(&presence), "slot {}: {presence:?}", slot.0);
        ordered.push(driver.order(slot.0, HsmCall::Login { pin }));
    }
    for ticket in ordered {
        assert_eq!(driver.answer(ticket), Ok(HsmAnswer::LoggedIn));
    }
    (driver, began.elapsed())
}

#[test]
fn activating_a_slot_takes_four_calls_and_one_at_a_time_on_a_local_module() {
    let bench = bench();
    drop(log_in(&bench, &[]));
    for slot in 0..SLOTS {
        let calls = bench.calls_of(&format!("t{slot}"));
        assert_eq!(calls, ["C_GetTokenInfo", "C_OpenSession", "C_GetSessionInfo", "C_Login"], "of slot {slot}");
    }
    // For the module itself, for the list and its length, and for the free slot that SoftHSM always offers.
    let mut others = bench.calls_of("");
    others.sort();
    let once = ["C_Finalize", "C_GetInfo", "C_GetSlotInfo", "C_GetSlotList", "C_GetSlotList", "C_GetTokenInfo"];
    assert_eq!(others, [&once[..], &["C_Initialize"]].concat());
    // One, unless a call took 4 ms because the machine was busy elsewhere; then it may be any number. Whether it is one
    // in every case of quick calls, the tests of `callers` show without a module.
    assert!(bench.calls_in_flight() >= 1);
}

#[test]
fn a_slow_module_gets_as_many_calls_at_a_time_as_are_allowed_and_no_more() {
    let mut bench = bench();
    bench.more.push(("FORWARD_LATENCY_MS".into(), "20".into()));
    bench.calls_in_flight_max = 16;
    let (driver, together) = log_in(&bench, &[]);
    drop(driver);
    assert_eq!(bench.calls_in_flight(), 16);
    bench.calls_in_flight_max = 1;
    let (_driver, in_a_row) = log_in(&bench, &[]);
    let ratio = in_a_row.as_secs_f64() / together.as_secs_f64();
    println!("{SLOTS} slots at 20 ms a call: {in_a_row:?} in a row, {together:?} with 16 at a time: {ratio:.1} x");
    assert!(ratio >= 12.0 / 1.5, "{ratio:.1}");
}

#[test]
fn p44_a_slot_that_hangs_at_its_first_call_delays_no_other() {
    let mut bench = bench();
    let mut times = [Duration::MAX; 2];
    for round in 0..6 {
        bench.more.retain(|(name, _)| name != "FORWARD_HANG");
        if round % 2 == 1 {
            bench.more.push(("FORWARD_HANG".into(), "t7:30".into()));
        }
        let (_driver, took) = log_in(&bench, &[7]);
        times[round % 2] = times[round % 2].min(took);
    }
    let [alone, beside] = times;
    let ratio = beside.as_secs_f64() / alone.as_secs_f64();
    println!("{} slots: {alone:?}, beside one that hangs {beside:?}: {ratio:.2} x", SLOTS - 1);
    assert!(ratio <= 1.2 * 1.5, "{ratio:.2}");
}

#[test]
fn with_one_call_at_a_time_a_slot_that_hangs_still_lets_the_others_pass() {
    let mut bench = bench();
    bench.calls_in_flight_max = 1;
    bench.more.push(("FORWARD_HANG".into(), "t3:ever".into()));
    let (_driver, took) = log_in(&bench, &[3]);
    assert!(took < Duration::from_secs(8), "a quarter of a second for the call that hangs, not {took:?}");
}
