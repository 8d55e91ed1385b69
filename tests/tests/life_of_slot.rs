//! The life of slots with the real program on real tokens: adopted, initialised, switched,
//! changed, deactivated, started again. The same list for SoftHSM2 and Kryoptic.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use slotwarden_tests::modules::{Kind, SO_PIN};
use slotwarden_tests::stage::{PATIENCE, Stage, run};

slotwarden_tests::on_both_modules! {
    slots_are_adopted_initialised_switched_and_come_back_after_restarts
    codes_are_changed_in_both_modes
    new_codes_are_as_short_as_the_applications_need_them_and_a_longer_old_one_still_opens
    p04_the_last_try_needs_a_confirmation_and_a_refused_one_costs_a_wait_that_survives_a_restart
    a_deactivated_slot_takes_its_pin_back_and_stays_closed_until_somebody_wants_it
    boot_says_who_waits_for_whom_and_exits_2_0_or_1
    boot_starts_a_daemon_that_outlives_it
    a_second_daemon_is_refused_and_takes_nothing_from_the_first
    a_stop_takes_back_what_was_handed_over
    p34_a_killed_daemons_hand_over_file_goes_first_and_its_slots_come_back_with_one_try
    a_store_that_is_missing_is_refused_after_the_hand_over_file_is_gone
}

const CODE: &str = "manual code one";
const OTHER: &str = "manual code two";

/// Some clients cut a longer PIN short, and each of their starts costs the token a try.
fn new_codes_are_as_short_as_the_applications_need_them_and_a_longer_old_one_still_opens(kind: Kind) {
    const LONG: &str = "a manual code of 34 characters, ab";
    let mut stage = Stage::new(kind, 1);
    stage.bench.make_token_with("ca", SO_PIN, LONG);
    stage.slot("ca", "ca", "signer");
    stage.pin_chars_max(31);
    stage.start();
    stage.activate("ca", LONG).exits(0);
    stage.run_with_codes(&["slot", "change-code", "ca"], LONG, &OTHER.repeat(3)).refused(1, 202);
    assert_eq!(stage.handed_over("signer").as_deref(), Some(LONG), "nothing was touched");
    stage.run_with_codes(&["slot", "change-code", "ca"], LONG, &OTHER.repeat(2)).exits(0);
    stage.run_with(&["slot", "mode", "ca", "generated"], "--code-file", OTHER.repeat(2)).exits(0);
    assert_eq!(stage.handed_over("signer").map(|code| code.len()), Some(31));
    stage.run(&["slot", "change-code", "ca"]).exits(0);
    assert_eq!(stage.handed_over("signer").map(|code| code.len()), Some(31));
}

/// A stage with one manual slot `ca` for the application `signer`.
fn one_manual_slot(kind: Kind) -> Stage {
    let mut stage = Stage::new(kind, 1);
    stage.bench.make_token_with("ca", SO_PIN, CODE);
    stage.slot("ca", "ca", "signer");
    stage
}

/// The same with a generated code, active.
fn one_generated_slot(kind: Kind) -> Stage {
    let mut stage = one_manual_slot(kind);
    stage.start();
    stage.run_with(&["slot", "mode", "ca", "generated"], "--code-file", CODE).exits(0);
    stage
}

/// 32 characters of Base58.
fn is_generated(pin: &str) -> bool {
    const BASE58: &str = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    pin.len() == 32 && pin.chars().all(|letter| BASE58.contains(letter))
}

fn slots_are_adopted_initialised_switched_and_come_back_after_restarts(kind: Kind) {
    let (root, left, new) = ("CA root 2025", "Schlüssel für Größe", "根 証明書");
    let mut stage = Stage::new(kind, 3);
    stage.bench.make_token_with(root, SO_PIN, CODE);
    stage.bench.make_token_with(left, SO_PIN, OTHER);
    stage.slot("ca root", root, "signer");
    stage.slot("Größe", left, "validator");
    stage.slot("新", new, "timestamper");
    stage.start();

    let (exit, status) = stage.status();
    assert_eq!((exit, &status["schema"], &status["summary"]["active"]), (2, &1.into(), &0.into()));
    for (slot, state, waits) in
        [("ca root", "locked", "code"), ("Größe", "locked", "code"), ("新", "uninitialised", "person")]
    {
        let slot = stage.slot_status(slot);
        assert_eq!((&slot["state"], &slot["waits_for"]["kind"]), (&state.into(), &waits.into()), "{slot}");
    }

    // Adopt one: its code proves it, and the application gets it.
    stage.run_with(&["slot", "init", "ca root"], "--so-pin-file", SO_PIN).refused(1, 304);
    stage.activate("ca root", CODE).exits(0);
    assert_eq!(stage.handed_over("signer").as_deref(), Some(CODE));
    // Initialise the free one: from then on it has a generated code.
    stage.run_with(&["slot", "init", "新"], "--so-pin-file", SO_PIN).exits(0);
    let made = stage.handed_over("timestamper").expect("an initialised slot is active");
    assert!(is_generated(&made));
    // Slots answer to their token's label and URI too. Switch the adopted one over.
    stage.run(&["slot", "show", "pkcs11:token=CA%20root%202025"]).exits(0);
    let switched = stage.run_with(&["slot", "mode", root, "generated"], "--code-file", CODE).exits(0);
    assert!(switched.stderr.contains("steals the powered-off machine"), "the person sees what the switch means");
    let switched = stage.handed_over("signer").expect("it is active again");
    assert!(is_generated(&switched) && switched != made);
    assert!(!stage.opens(root, CODE) && stage.opens(root, &switched));

    // The one that was left waits; the generated ones come back without a hand.
    assert!(stage.stop().success());
    stage.start();
    for (slot, state, mode) in
        [("ca root", "active", "generated"), ("Größe", "locked", "manual"), ("新", "active", "generated")]
    {
        let slot = stage.slot_status(slot);
        assert_eq!((&slot["state"], &slot["mode"]), (&state.into(), &mode.into()), "{slot}");
    }
    assert_eq!(stage.handed_over("signer"), Some(switched));
    assert_eq!(stage.handed_over("timestamper").as_ref(), Some(&made));
    assert_eq!(stage.handed_over("validator"), None);
    assert!(stage.opens(new, &stage.handed_over("timestamper").expect("it is active")));

    // Back to a manual code: from now on it waits for a person.
    let back = stage.run_with(&["slot", "mode", "新", "manual"], "--new-code-file", "known to people").exits(0);
    assert!(back.stderr.contains("after each reboot somebody has to activate the slot"));
    assert_eq!(stage.handed_over("timestamper").as_deref(), Some("known to people"));
    assert!(!stage.opens(new, &made));
    stage.run(&["slot", "mode", "新", "manual"]).refused(1, 310);
    stage.stop();
    stage.start();
    let status = stage.run(&["status"]).exits(2);
    assert!(
        status.stdout.contains("1 of 3 slots active; Größe waits for a code; 新 waits for a code"),
        "{}",
        status.stdout
    );
    stage.activate("新", &made).refused(1, 209);
    stage.activate("新", "known to people").exits(0);
    stage.activate(left, OTHER).exits(0);
    stage.activate(left, OTHER).refused(1, 315);
    let (exit, status) = stage.status();
    assert_eq!((exit, &status["summary"]["active"]), (0, &3.into()));
    let verified = stage.run(&["audit", "verify", "--output", "json"]).exits(0).json();
    assert_eq!(verified["trusted"], true);
}

fn codes_are_changed_in_both_modes(kind: Kind) {
    let mut stage = one_manual_slot(kind);
    stage.start();
    let change = ["slot", "change-code", "ca"];
    // Locked: refusals that cost nothing, then a wrong present code, which costs a try.
    stage.run(&change).refused(1, 204);
    stage.run_with(&change, "--code-file", CODE).refused(1, 206);
    stage.run_with_codes(&change, CODE, CODE).refused(1, 208);
    assert_eq!(stage.attempts("ca"), [""; 0]);
    stage.run_with_codes(&change, "not the code", OTHER).refused(1, 209);
    assert_eq!(stage.slot_status("ca")["tries_left"], 2);
    stage.run_with_codes(&change, CODE, OTHER).exits(0);
    assert!(stage.opens("ca", OTHER) && !stage.opens("ca", CODE));
    // Active: the application gets the new one.
    if stage.slot_status("ca")["state"] == "locked" {
        stage.activate("ca", OTHER).exits(0);
    }
    assert_eq!(stage.handed_over("signer").as_deref(), Some(OTHER));
    stage.run_with_codes(&change, OTHER, CODE).exits(0);
    assert_eq!(stage.handed_over("signer").as_deref(), Some(CODE));
    assert_eq!(stage.slot_status("ca")["state"], "active");

    stage.run_with(&["slot", "mode", "ca", "generated"], "--code-file", CODE).exits(0);
    let first = stage.handed_over("signer").expect("active");
    stage.run_with(&change, "--code-file", &first).refused(1, 205);
    stage.run_with(&change, "--new-code-file", OTHER).refused(1, 207);
    assert_eq!(stage.handed_over("signer").as_ref(), Some(&first), "a refused order changes nothing");
    stage.run(&change).exits(0);
    let second = stage.handed_over("signer").expect("active");
    assert!(is_generated(&second) && first != second);
    assert!(stage.opens("ca", &second) && !stage.opens("ca", &first));
    stage.kill();
    stage.start();
    assert_eq!(stage.handed_over("signer"), Some(second));
}

fn p04_the_last_try_needs_a_confirmation_and_a_refused_one_costs_a_wait_that_survives_a_restart(kind: Kind) {
    let mut stage = one_manual_slot(kind);
    stage.start();
    for left in [2, 1] {
        stage.activate("ca", "not the code").refused(1, 209);
        assert_eq!(stage.slot_status("ca")["tries_left"], left);
    }
    let activate = ["slot", "activate", "ca"];
    let asked = stage.activate("ca", "not the code").refused(2, 308);
    assert!(asked.stderr.contains("--confirm \"last try\""));
    stage.run_with(&["slot", "activate", "ca", "--confirm", "yes"], "--code-file", CODE).refused(1, 613);
    assert_eq!(stage.attempts("ca").len(), 2, "nothing was tried without the confirmation");

    let confirmed = ["slot", "activate", "ca", "--confirm", "last try"];
    stage.run_with(&confirmed, "--code-file", "not the code").refused(1, 209);
    let cools = |stage: &Stage| {
        let slot = stage.slot_status("ca");
        let left = slot["waits_for"]["seconds_left"].as_u64().expect("it says how long");
        assert_eq!((&slot["state"], &slot["tries_left"]), (&"cooling-down".into(), &0.into()));
        assert!((1..=30).contains(&left), "{left}");
        left
    };
    cools(&stage);
    assert_eq!(stage.status().0, 2);
    stage.run_with(&confirmed, "--code-file", CODE).refused(75, 306);
    stage.kill();
    stage.start();
    let begun = Instant::now();
    assert!(cools(&stage) >= 20, "after a restart the whole wait starts anew");
    stage.run_with(&confirmed, "--code-file", CODE).refused(75, 306);
    assert_eq!(stage.attempts("ca").len(), 3);

    stage.wait_state("ca", "locked");
    assert!(begun.elapsed() > Duration::from_secs(20));
    stage.run_with(&activate, "--code-file", CODE).refused(2, 308);
    stage.run_with(&confirmed, "--code-file", CODE).exits(0);
    assert_eq!(stage.slot_status("ca")["tries_left"], 3);
    assert_eq!(stage.handed_over("signer").as_deref(), Some(CODE));
    assert_eq!(stage.attempts("ca").len(), 4);
}

fn a_deactivated_slot_takes_its_pin_back_and_stays_closed_until_somebody_wants_it(kind: Kind) {
    let mut stage = one_generated_slot(kind);
    let pin = stage.handed_over("signer").expect("active");
    stage.run(&["slot", "deactivate", "ca"]).exits(0);
    assert_eq!(stage.handed_over("signer"), None);
    let slot = stage.slot_status("ca");
    assert_eq!((&slot["state"], &slot["applications"][0]["state"]), (&"locked".into(), &"inactive".into()));
    stage.run(&["slot", "deactivate", "ca"]).refused(1, 309);
    stage.run(&["slot", "deactivate", "ca", "--confirm", "end call"]).refused(1, 314);
    stage.run_with(&["slot", "activate", "ca"], "--code-file", &pin).refused(1, 205);
    assert_eq!(stage.handed_over("signer"), None, "it does not come back by itself");
    stage.run(&["slot", "activate", "ca"]).exits(0);
    assert_eq!(stage.handed_over("signer").as_ref(), Some(&pin));
    // Whoever boots wants it too.
    stage.run(&["slot", "deactivate", "ca"]).exits(0);
    stage.run(&["boot"]).exits(0);
    assert_eq!(stage.handed_over("signer"), Some(pin));
    stage.kill();
}

fn boot_says_who_waits_for_whom_and_exits_2_0_or_1(kind: Kind) {
    let mut stage = one_manual_slot(kind);
    stage.configure();
    stage.run(&["boot", "--wait", "0"]).refused(1, 601);
    stage.run(&["status"]).refused(1, 601);
    stage.spawn();
    let waits = stage.run(&["boot"]).exits(2);
    assert_eq!(waits.stdout.trim_end(), "0 of 1 slots active; ca waits for a code");
    let json = stage.run(&["boot", "--output", "json"]).exits(2).json();
    assert_eq!(json["slots"][0]["waits_for"]["need"], 1);
    stage.activate("ca", CODE).exits(0);
    assert_eq!(stage.run(&["boot"]).exits(0).stdout.trim_end(), "1 of 1 slots active");
    stage.stop();
    // The token is gone: a fault, not something a person could open.
    let (tokens, away) = (stage.bench.tokens_dir(), stage.path("away"));
    fs::rename(&tokens, &away).expect("one file system");
    fs::create_dir(&tokens).expect("just moved");
    stage.spawn();
    let broken = stage.run(&["boot"]).exits(1);
    assert!(broken.stdout.starts_with("0 of 1 slots active; ca is absent"), "{}", broken.stdout);
    assert_eq!(stage.status().0, 1);
}

/// The process that listens on the control socket.
fn listener(stage: &Stage) -> Pid {
    let stream = std::os::unix::net::UnixStream::connect(stage.socket()).expect("a daemon listens");
    rustix::net::sockopt::socket_peercred(&stream).expect("a Unix socket").pid
}

/// A daemon that is nobody's child; ended by its id.
struct Spawned(Pid);

impl Spawned {
    /// Whether it still runs; one that nobody reaps yet has ended.
    fn runs(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.as_raw_nonzero())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if self.runs() {
            let _ = rustix::process::kill_process(self.0, Signal::KILL);
        }
    }
}

fn boot_starts_a_daemon_that_outlives_it(kind: Kind) {
    let mut stage = one_generated_slot(kind);
    stage.stop();
    assert_eq!(stage.run(&["boot", "--spawn"]).exits(0).stdout.trim_end(), "1 of 1 slots active");
    let spawned = Spawned(listener(&stage));
    assert_eq!(rustix::process::getsid(Some(spawned.0)).expect("it runs"), spawned.0, "it left our session");
    assert!(stage.handed_over("signer").is_some());
    stage.run(&["boot", "--spawn"]).exits(0);
    assert_eq!(listener(&stage), spawned.0, "one that listens is not started again");
    rustix::process::kill_process(spawned.0, Signal::TERM).expect("it runs");
    let until = Instant::now() + PATIENCE;
    while spawned.runs() {
        assert!(Instant::now() < until, "it does not end");
        std::thread::sleep(Duration::from_millis(40));
    }
    assert_eq!(stage.handed_over("signer"), None);
    assert!(fs::read_to_string(stage.path("run/daemon.log")).expect("its log").contains("stopped"));
    // One that cannot start is named, with its log.
    fs::write(stage.state_dir().join("slotwarden.state"), "damaged").expect("the stage's own");
    let failed = stage.run(&["boot", "--spawn"]).refused(1, 621);
    assert!(failed.stderr.contains("daemon.log"), "{}", failed.stderr);
}

fn a_second_daemon_is_refused_and_takes_nothing_from_the_first(kind: Kind) {
    let stage = one_generated_slot(kind);
    let pin = stage.handed_over("signer");
    run(&mut stage.daemon_command()).refused(1, 404);
    // Also with a socket of its own: the state directory is what counts.
    let other = stage.configuration().replace("control.sock", "other.sock");
    fs::write(stage.path("other.toml"), other).expect("the stage's own");
    let mut second = stage.command();
    run(second.arg("daemon").arg("--config").arg(stage.path("other.toml"))).refused(1, 404);
    assert_eq!(stage.handed_over("signer"), pin);
    assert!(pin.is_some());
    stage.run(&["boot"]).exits(0);
    assert_eq!(stage.run(&["slot", "list"]).exits(0).stderr, "");
}

fn a_stop_takes_back_what_was_handed_over(kind: Kind) {
    let mut stage = one_generated_slot(kind);
    assert!(stage.handed_over("signer").is_some());
    let worker = stage.worker_process();
    assert!(stage.stop().success());
    assert_eq!(stage.handed_over("signer"), None);
    assert!(!stage.socket().exists());
    assert!(!fs::exists(format!("/proc/{}", worker.as_raw_nonzero())).expect("/proc is there"), "its worker ended too");
    stage.run(&["slot", "activate", "ca"]).refused(1, 601);
    // A closed terminal ends nothing, Ctrl-C stops in order.
    stage.start();
    stage.signal(Signal::HUP);
    stage.run(&["boot"]).exits(0);
    stage.signal(Signal::INT);
    assert!(stage.wait_end().success());
    assert_eq!(stage.handed_over("signer"), None);
}

fn p34_a_killed_daemons_hand_over_file_goes_first_and_its_slots_come_back_with_one_try(kind: Kind) {
    let mut stage = one_generated_slot(kind);
    let pin = stage.handed_over("signer");
    let attempts = stage.attempts("ca").len();
    for round in 1..=3 {
        stage.kill();
        assert_eq!(stage.handed_over("signer"), pin, "nobody could take it back");
        fs::write(stage.hand_over_file("signer"), "stale").expect("the stage's own");
        stage.start();
        assert_eq!(stage.handed_over("signer"), pin);
        assert_eq!(stage.attempts("ca").len(), attempts + round);
        assert_eq!(stage.attempts("ca").last().map(String::as_str), Some("Automatic"));
    }
    assert_eq!(stage.events("ca", "AttemptRefused"), 0);
    // A manual slot stays closed, and nothing of it is left for the application.
    stage.run_with(&["slot", "mode", "ca", "manual"], "--new-code-file", CODE).exits(0);
    assert_eq!(stage.handed_over("signer").as_deref(), Some(CODE));
    stage.kill();
    stage.start();
    assert_eq!(stage.handed_over("signer"), None);
    assert_eq!(stage.slot_status("ca")["state"], "locked");
}

fn a_store_that_is_missing_is_refused_after_the_hand_over_file_is_gone(kind: Kind) {
    let mut stage = one_generated_slot(kind);
    let pin = stage.handed_over("signer");
    stage.kill();
    let (store, away) = (stage.state_dir().join("store.redb"), stage.path("store.away"));
    fs::rename(&store, &away).expect("one file system");
    run(&mut stage.daemon_command()).refused(1, 401);
    assert_eq!(stage.handed_over("signer"), None);
    assert!(!store.exists(), "nothing was made in its place");
    fs::rename(&away, &store).expect("one file system");
    stage.start();
    assert_eq!(stage.handed_over("signer"), pin, "nothing was lost");
}
