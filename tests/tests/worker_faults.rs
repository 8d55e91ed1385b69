//! What a daemon makes of a worker that dies, a token that leaves and a module that hangs,
//! crashes or lies. The worker's own answers are in `module_faults`; here people look.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use slotwarden_tests::modules::{Bench, Kind, SO_PIN};
use slotwarden_tests::stage::{Stage, run};

slotwarden_tests::on_both_modules! {
    p44_slots_of_a_killed_worker_come_back_active_without_another_try
    a_token_that_leaves_is_absent_and_its_slot_comes_back_as_its_mode_says
    p44_a_call_that_hangs_leaves_one_slot_doubtful_and_ends_on_a_persons_order
    p44_a_late_answer_is_still_an_answer
    p34_a_worker_that_crashes_in_a_login_costs_one_try_that_is_not_repeated
    p33_a_module_that_claims_a_login_opens_nothing
}

const CODE: &str = "manual code one";
/// Looks every second, and a busy machine may take its time.
const SOON: Duration = Duration::from_secs(15);

/// Slots with one token each, all manual, none active. The forwarding module misbehaves on request.
fn slots(kind: Kind, names: &[&str]) -> Stage {
    let mut bench = Bench::forwarded(kind, names.len());
    for name in names {
        bench.make_token_with(name, SO_PIN, CODE);
    }
    let mut stage = Stage::on(bench);
    for name in names {
        stage.slot(name, name, &format!("app-{name}"));
    }
    stage.hsm = "look_interval_s = 1".into();
    stage.start();
    stage
}

fn make_generated(stage: &Stage, slot: &str) -> String {
    stage.run_with(&["slot", "mode", slot, "generated"], "--code-file", CODE).exits(0);
    stage.handed_over(&format!("app-{slot}")).expect("it is active")
}

fn p44_slots_of_a_killed_worker_come_back_active_without_another_try(kind: Kind) {
    let stage = slots(kind, &["ca", "tsa"]);
    let pin = make_generated(&stage, "ca");
    stage.activate("tsa", CODE).exits(0);
    let attempts = (stage.attempts("ca"), stage.attempts("tsa"));
    for round in 1..=3 {
        let worker = stage.worker_process();
        let logins = stage.bench.calls("C_Login", "ca");
        rustix::process::kill_process(worker, Signal::KILL).expect("the daemon's child");
        stage.wait("a new worker runs and all is active", |status| {
            status.hsm.worker && status.summary.active == 2 && stage.worker_process() != worker
        });
        assert_eq!(stage.events("", "WorkerLost"), round);
        assert_eq!(stage.bench.calls("C_Login", "ca"), logins + 1, "the login is made again, once");
        assert_eq!(stage.handed_over("app-ca").as_ref(), Some(&pin));
        assert_eq!(stage.handed_over("app-tsa").as_deref(), Some(CODE));
    }
    assert_eq!((stage.attempts("ca"), stage.attempts("tsa")), attempts);
    assert_eq!(stage.status().0, 0);
}

fn a_token_that_leaves_is_absent_and_its_slot_comes_back_as_its_mode_says(kind: Kind) {
    let stage = slots(kind, &["ca", "tsa", "other"]);
    let pin = make_generated(&stage, "ca");
    stage.activate("tsa", CODE).exits(0);
    stage.activate("other", CODE).exits(0);
    let attempts = (stage.attempts("ca").len(), stage.attempts("tsa").len(), stage.attempts("other").len());
    let begun = Instant::now();
    stage.bench.ask_to("hide", "ca");
    stage.bench.ask_to("hide", "tsa");
    for slot in ["ca", "tsa"] {
        stage.wait_state(slot, "absent");
        assert_eq!(stage.handed_over(&format!("app-{slot}")), None, "nobody needs the PIN of a token that is gone");
    }
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!(stage.status().0, 1);
    stage.activate("tsa", CODE).refused(75, 301);
    assert_eq!(stage.handed_over("app-other").as_deref(), Some(CODE), "the other slot is not touched");

    let begun = Instant::now();
    stage.bench.ask_no_more("hide", "ca");
    stage.bench.ask_no_more("hide", "tsa");
    stage.wait_state("ca", "active");
    let waits = stage.wait_state("tsa", "locked");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!(waits.waits_for.map(|wait| wait.kind).as_deref(), Some("code"));
    assert_eq!(stage.handed_over("app-ca"), Some(pin));
    assert_eq!(stage.handed_over("app-tsa"), None);
    stage.wait_state("other", "active");
    assert_eq!(stage.attempts("tsa").len(), attempts.1);
    assert_eq!(stage.attempts("other").len(), attempts.2, "its worker was started again: a repeat is no try");
    assert_eq!(stage.attempts("ca").len(), attempts.0 + 1);
    stage.activate("tsa", CODE).exits(0);
    assert_eq!(stage.status().0, 0);
}

/// SoftHSM with a real disappearance, seen by the daemon.
#[test]
fn a_softhsm_token_that_is_moved_away_is_absent_and_active_again_when_it_returns() {
    let stage = slots(Kind::SoftHsm, &["ca"]);
    let pin = make_generated(&stage, "ca");
    let token = fs::read_dir(stage.bench.tokens_dir()).expect("the bench's own").next();
    let token: PathBuf = token.expect("one token").expect("readable").path();
    let away = stage.path("away");
    fs::rename(&token, &away).expect("one file system");
    stage.wait_state("ca", "absent");
    assert_eq!(stage.handed_over("app-ca"), None);
    // SoftHSM offers a free token now; a slot that had one is not given another.
    stage.run_with(&["slot", "init", "ca"], "--so-pin-file", SO_PIN).refused(1, 304);
    fs::rename(&away, &token).expect("one file system");
    stage.wait_state("ca", "active");
    assert_eq!(stage.handed_over("app-ca"), Some(pin));
}

fn p44_a_call_that_hangs_leaves_one_slot_doubtful_and_ends_on_a_persons_order(kind: Kind) {
    let stage = slots(kind, &["ca", "other"]);
    let pin = make_generated(&stage, "other");
    stage.bench.ask_to("hang", "ca");
    let hung = stage.begin_with(&["slot", "activate", "ca"], "--code-file", CODE);
    stage.wait_state("ca", "activating");
    assert_eq!(stage.slot_status("ca")["state"], "activating");
    stage.activate("ca", CODE).refused(75, 103);
    // The other slot works meanwhile.
    stage.run(&["slot", "deactivate", "other"]).exits(0);
    stage.run(&["slot", "activate", "other"]).exits(0);

    let told = hung.end().exits(1);
    assert!(told.stderr.contains("not answered yet") || told.stderr.contains("C_Login"), "{}", told.stderr);
    let slot = stage.slot_status("ca");
    assert_eq!((&slot["state"], &slot["doubt"]), (&"doubtful".into(), &"call-unanswered".into()), "{slot}");
    stage.activate("ca", CODE).refused(2, 307);
    stage.run(&["slot", "deactivate", "ca"]).refused(2, 307);
    stage.run(&["slot", "deactivate", "other", "--confirm", "end call"]).refused(1, 314);
    let worker = stage.worker_process();
    stage.run(&["slot", "deactivate", "ca", "--confirm", "end call"]).exits(0);
    stage.wait("a new worker runs", |status| status.hsm.worker && stage.worker_process() != worker);
    let slot = stage.wait_state("ca", "locked");
    assert_eq!(slot.tries_left, 2, "nobody knows how that try ended, so it counts");
    assert_eq!(stage.bench.calls("C_Login", "ca"), 1, "and it is not repeated");
    stage.wait_state("other", "active");
    assert_eq!(stage.handed_over("app-other"), Some(pin));
    stage.bench.ask_no_more("hang", "ca");
    stage.activate("ca", CODE).exits(0);
    assert_eq!(stage.slot_status("ca")["tries_left"], 3);
}

fn p44_a_late_answer_is_still_an_answer(kind: Kind) {
    let stage = slots(kind, &["ca"]);
    stage.bench.ask_to("hang", "ca");
    stage.activate("ca", CODE).exits(1);
    assert_eq!(stage.slot_status("ca")["state"], "doubtful");
    stage.bench.ask_no_more("hang", "ca");
    stage.wait_state("ca", "active");
    assert_eq!(stage.handed_over("app-ca").as_deref(), Some(CODE));
    assert_eq!(stage.bench.calls("C_Login", "ca"), 1);
    let slot = stage.slot_status("ca");
    assert!(slot["fault"].is_null() && slot["doubt"].is_null(), "{slot}");
    assert_eq!(stage.status().0, 0);
}

fn p34_a_worker_that_crashes_in_a_login_costs_one_try_that_is_not_repeated(kind: Kind) {
    let mut stage = slots(kind, &["ca"]);
    let pin = make_generated(&stage, "ca");
    stage.stop();
    stage.bench.ask_to("crash", "ca");
    let before = stage.bench.calls("C_Login", "ca");
    // A boot loop: each start may make one try whose outcome nobody knows, two in all.
    for tries in [1, 2, 2, 2] {
        stage.spawn();
        stage.wait("boot is done", |status| {
            status.boot_done && status.hsm.worker && status.slots[0].fault.is_some() || tries_are_over(status)
        });
        assert_eq!(stage.bench.calls("C_Login", "ca"), before + tries);
        stage.kill();
    }
    stage.start();
    let slot = stage.slot_status("ca");
    assert_eq!((&slot["state"], &slot["waits_for"]["kind"]), (&"locked".into(), &"person".into()), "{slot}");
    stage.bench.ask_no_more("crash", "ca");
    assert_eq!(stage.run(&["boot"]).exit, 2, "without a person it is not tried again");
    stage.run(&["slot", "activate", "ca"]).refused(2, 308);
    stage.run(&["slot", "activate", "ca", "--confirm", "last try"]).exits(0);
    assert_eq!(stage.handed_over("app-ca"), Some(pin), "the stored code was kept");
}

fn tries_are_over(status: &slotwarden::status_json::StatusView) -> bool {
    status.boot_done && status.hsm.worker && status.slots[0].state == "locked"
}

fn p33_a_module_that_claims_a_login_opens_nothing(kind: Kind) {
    let stage = slots(kind, &["ca"]);
    stage.bench.ask_to("lie", "ca");
    for code in ["not the code", CODE] {
        let ran = stage.activate("ca", code);
        assert_ne!(ran.exit, 0, "{ran:?}");
        assert_eq!(stage.handed_over("app-ca"), None);
        assert_ne!(stage.slot_status("ca")["state"], "active");
    }
    stage.bench.ask_no_more("lie", "ca");
    let _ = stage.activate("ca", "not the code");
    assert_eq!(stage.handed_over("app-ca"), None);
}

/// Somebody else's wrong PINs: SoftHSM shows that there were some, Kryoptic locks after ten.
#[test]
fn tries_that_somebody_else_spends_raise_attention() {
    let stage = slots(Kind::SoftHsm, &["ca"]);
    assert!(stage.slot_status("ca")["attention"].is_null());
    assert!(!stage.opens("ca", "somebody's guess"));
    let slot = stage.wait_slot("ca", "watched", |slot| slot.attention.is_some());
    assert_eq!(slot.attention.as_deref(), Some("tries-spent-elsewhere"));
    assert_eq!(stage.events("ca", "TriesSpentElsewhere"), 1);
    stage.activate("ca", CODE).exits(0);
    assert!(stage.slot_status("ca")["attention"].is_null());
}

/// All states that a slot has, side by side, as scripts and people see them.
#[test]
fn every_state_of_a_slot_is_visible_in_the_status() {
    let manual = ["locked", "active", "cooling-down", "blocked", "doubtful", "changing"];
    let mut bench = Bench::forwarded(Kind::Kryoptic, manual.len() + 1);
    for name in manual {
        bench.make_token_with(name, SO_PIN, CODE);
    }
    bench.make_token_without_pin("uninitialised");
    let mut stage = Stage::on(bench);
    for name in manual.iter().chain(&["uninitialised", "absent"]) {
        stage.slot(name, name, &format!("app-{name}"));
    }
    for _ in 0..10 {
        assert!(!stage.opens("blocked", "somebody's guess"));
    }
    stage.start();
    for name in ["doubtful", "changing"] {
        stage.bench.ask_to("hang", name);
    }
    let hung = stage.begin_with(&["slot", "activate", "doubtful"], "--code-file", CODE);
    stage.wait_state("doubtful", "activating");
    stage.activate("active", CODE).exits(0);
    stage.activate("blocked", CODE).refused(2, 305);
    let told = hung.end().exits(1);
    assert!(told.stderr.contains("C_Login"), "{}", told.stderr);
    for confirmed in [false, false, true] {
        let confirm: &[&str] = if confirmed { &["--confirm", "last try"] } else { &[] };
        let order: Vec<&str> = ["slot", "activate", "cooling-down"].iter().chain(confirm).copied().collect();
        stage.run_with(&order, "--code-file", "not the code").refused(1, 209);
    }
    let changing = stage.begin_with(&["slot", "mode", "changing", "generated"], "--code-file", CODE);
    stage.wait_state("changing", "changing");

    let (exit, status) = stage.status();
    let shown: Vec<(&str, &str)> = status["slots"]
        .as_array()
        .expect("the status lists the slots")
        .iter()
        .map(|slot| (slot["name"].as_str().unwrap_or(""), slot["state"].as_str().unwrap_or("")))
        .collect();
    assert_eq!(shown.len(), 8);
    for (name, state) in shown {
        assert_eq!(name, state);
    }
    assert_eq!(exit, 1, "one is absent");
    let table = run(stage.command().arg("status")).exits(1).stdout;
    for name in manual {
        assert!(table.contains(name), "{table}");
    }
    stage.bench.ask_no_more("hang", "changing");
    changing.end().exits(0);
}
