//! Ways out with the real program on real tokens: a token that is blocked, a state directory
//! that is lost, a slot whose life ends, an application that is dead. On two modules, where
//! they can do what the story needs: only Kryoptic blocks a user PIN.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use slotwarden_tests::build;
use slotwarden_tests::modules::{Bench, Kind, SO_PIN};
use slotwarden_tests::stage::{PATIENCE, Ran, Stage, run};

slotwarden_tests::on_both_modules! {
    a_lost_state_directory_is_refused_until_a_new_store_is_ordered_and_every_key_is_kept
    an_unblock_is_refused_where_it_could_do_harm_and_its_so_pin_is_counted
    a_decommissioned_slot_is_erased_and_begins_anew
    a_token_that_is_gone_for_good_is_forgotten_on_a_typed_word_only
    an_application_that_is_dead_is_left_behind_by_its_name_only
    p35_after_each_of_24_kills_in_an_unblock_the_slot_opens
}

const CODE: &str = "manual code one";
const NEW: &str = "manual code two";
const WRONG_SO_PIN: &str = "not the so pin";

/// A stage with a slot `ca` for the application `signer`; its token has the key `01`.
fn slot_with_a_key(kind: Kind) -> Stage {
    let mut stage = Stage::new(kind, 2);
    stage.bench.make_token_with("ca root", SO_PIN, CODE);
    make_key(&stage, CODE);
    stage.slot("ca", "ca root", "signer");
    // Flags are looked at once a second, so that a token blocked past us is noticed soon.
    stage.hsm = "look_interval_s = 1".into();
    stage
}

fn make_key(stage: &Stage, pin: &str) {
    let mut tool = stage.bench.pkcs11_tool();
    tool.args(["--token-label", "ca root", "--login", "--pin", pin, "--keypairgen"]);
    build::run("opensc", tool.args(["--key-type", "EC:prime256v1", "--label", "signing", "--id", "01"]));
    let mut tool = stage.bench.pkcs11_tool();
    tool.args(["--token-label", "ca root", "--read-object", "--type", "pubkey", "--id", "01"]);
    build::run("opensc", tool.arg("--output-file").arg(stage.path("key.der")));
}

/// Whether the token signs with what the hand-over file holds, so that the public key kept
/// from the beginning verifies it.
fn signs_with_the_old_key(stage: &Stage) -> bool {
    let (message, signature) = (stage.path("message"), stage.path("signature"));
    fs::write(&message, [7; 32]).expect("the stage's own");
    let _ = fs::remove_file(&signature);
    let mut tool = stage.bench.pkcs11_tool();
    tool.args(["--token-label", "ca root", "--login", "--sign", "--mechanism", "ECDSA", "--id", "01"]);
    tool.args(["--signature-format", "openssl", "--pin", &stage.handed_over("signer").unwrap_or_default()]);
    let signed = run(tool.arg("--input-file").arg(&message).arg("--output-file").arg(&signature));
    signed.exit == 0 && verifies(stage, &message, &signature)
}

fn verifies(stage: &Stage, message: &Path, signature: &Path) -> bool {
    let mut tool = Command::new("openssl");
    tool.args(["pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey"]).arg(stage.path("key.der"));
    run(tool.arg("-in").arg(message).arg("-sigfile").arg(signature)).exit == 0
}

fn unblock(stage: &Stage, to: &[&str], so_pin: &str) -> Ran {
    stage.run_with(&[&["slot", "unblock", "ca"], to].concat(), "--so-pin-file", so_pin)
}

fn unblock_to(stage: &Stage, code: &str) -> Ran {
    let file = stage.secret_file(code);
    let to = ["manual", "--new-code-file", file.to_str().expect("a path of ours is text")];
    unblock(stage, &to, SO_PIN)
}

#[test]
fn a_token_blocked_by_wrong_pins_past_us_is_brought_back_with_its_keys() {
    let mut stage = slot_with_a_key(Kind::Kryoptic);
    stage.start();
    stage.run_with(&["slot", "mode", "ca", "generated"], "--code-file", CODE).exits(0);
    assert!(signs_with_the_old_key(&stage));
    let before = stage.handed_over("signer").expect("it is active");
    stage.run(&["slot", "deactivate", "ca"]).exits(0);
    // Somebody else types wrong PINs; Kryoptic blocks after ten.
    for _ in 0..10 {
        assert!(!stage.opens("ca root", "a wrong pin"));
    }
    // A running Kryoptic shows the lock once it is asked to log in.
    let refused = stage.run(&["slot", "activate", "ca"]).refused(2, 305);
    stage.wait_state("ca", "blocked");
    assert!(refused.stderr.contains("slotwarden slot unblock"), "the way out is offered: {}", refused.stderr);
    let shown = stage.run(&["slot", "show", "ca"]).exits(0);
    assert!(shown.stdout.contains("SO PIN last proven") && shown.stdout.contains("never"), "{}", shown.stdout);

    unblock(&stage, &[], WRONG_SO_PIN).refused(1, 319);
    assert_eq!(stage.slot_status("ca")["state"], "blocked");
    unblock(&stage, &[], SO_PIN).exits(0);
    let slot = stage.slot_status("ca");
    assert_eq!((&slot["state"], &slot["mode"]), (&"active".into(), &"generated".into()));
    assert!(slot["so_pin_proven_s"].as_u64().is_some_and(|seconds| seconds > 1_700_000_000), "{slot}");
    let after = stage.handed_over("signer").expect("it is active");
    assert_ne!(after, before);
    assert!(signs_with_the_old_key(&stage), "every key is kept");

    // Without a hand from then on; and once more, to a manual code.
    stage.kill();
    stage.start();
    assert_eq!(stage.handed_over("signer"), Some(after));
    stage.run(&["slot", "deactivate", "ca"]).exits(0);
    for _ in 0..10 {
        assert!(!stage.opens("ca root", "a wrong pin"));
    }
    stage.run(&["slot", "activate", "ca"]).refused(2, 305);
    unblock_to(&stage, NEW).exits(0);
    assert_eq!(stage.handed_over("signer").as_deref(), Some(NEW));
    assert!(signs_with_the_old_key(&stage));
}

fn a_lost_state_directory_is_refused_until_a_new_store_is_ordered_and_every_key_is_kept(kind: Kind) {
    let mut stage = slot_with_a_key(kind);
    stage.configure();
    run(stage.daemon_command().arg("--new-store")).refused(1, 408);
    stage.start();
    stage.run_with(&["slot", "mode", "ca", "generated"], "--code-file", CODE).exits(0);
    stage.stop();
    // Nothing is lost, so nothing is moved: also not by an order left in a unit file.
    run(stage.daemon_command().arg("--new-store")).refused(1, 408);
    stage.start();
    assert!(signs_with_the_old_key(&stage));
    stage.stop();

    let store = stage.state_dir().join("store.redb");
    let bytes = fs::read(&store).expect("it was in use");
    fs::write(&store, &bytes[..bytes.len() / 2]).expect("the stage's own");
    let refused = run(&mut stage.daemon_command()).refused(1, 402);
    assert!(refused.stderr.contains("--new-store"), "the way out is named: {}", refused.stderr);
    stage.arguments = vec!["--new-store".into()];
    stage.start();
    stage.arguments.clear();
    let slot = stage.slot_status("ca");
    assert_eq!((&slot["state"], &slot["mode"]), (&"locked".into(), &"manual".into()), "adopted again");
    assert_eq!(lost(&stage).len(), 1, "what was left is kept");
    let kept = fs::read(lost(&stage)[0].join("store.redb")).expect("nothing is deleted");
    assert_eq!(kept.len(), bytes.len() / 2);
    unblock(&stage, &[], SO_PIN).exits(0);
    assert!(signs_with_the_old_key(&stage), "every key is kept");
    stage.stop();

    // The same when the whole directory but its marker is gone, and to a manual code.
    for name in ["store.redb", "seal.blob", "seal.key"] {
        fs::remove_file(stage.state_dir().join(name)).expect("it was in use");
    }
    run(&mut stage.daemon_command()).refused(1, 401);
    stage.arguments = vec!["--new-store".into()];
    stage.start();
    stage.arguments.clear();
    assert_eq!(lost(&stage).len(), 2);
    unblock_to(&stage, NEW).exits(0);
    assert!(signs_with_the_old_key(&stage));
    stage.stop();
    stage.start();
    stage.activate("ca", NEW).exits(0);
    assert!(signs_with_the_old_key(&stage));
}

fn lost(stage: &Stage) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(stage.state_dir()).expect("it was in use").flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("lost-")))
        .collect()
}

fn an_unblock_is_refused_where_it_could_do_harm_and_its_so_pin_is_counted(kind: Kind) {
    let mut stage = slot_with_a_key(kind);
    stage.start();
    stage.activate("ca", CODE).exits(0);
    unblock(&stage, &[], SO_PIN).refused(1, 325);
    assert_eq!(stage.handed_over("signer").as_deref(), Some(CODE));
    stage.run(&["slot", "deactivate", "ca"]).exits(0);
    stage.run(&["slot", "unblock", "ca"]).refused(1, 324);
    unblock(&stage, &["manual"], SO_PIN).refused(1, 206);
    stage.run_with(&["slot", "unblock", "nothing"], "--so-pin-file", SO_PIN).refused(1, 102);
    stage.run(&["slot", "unblock", "ca", "--accept-application", "nobody"]).refused(1, 626);
    for _ in 0..2 {
        unblock(&stage, &[], WRONG_SO_PIN).refused(1, 319);
    }
    unblock(&stage, &[], SO_PIN).refused(2, 308);
    unblock(&stage, &["--confirm", "yes"], SO_PIN).refused(1, 613);
    assert!(stage.opens("ca root", CODE), "nothing was changed");
    // The count survives a crash.
    stage.kill();
    stage.start();
    unblock(&stage, &[], SO_PIN).refused(2, 308);
    unblock(&stage, &["--confirm", "last try"], SO_PIN).exits(0);
    assert!(signs_with_the_old_key(&stage) && !stage.opens("ca root", CODE));
}

fn a_decommissioned_slot_is_erased_and_begins_anew(kind: Kind) {
    let mut stage = slot_with_a_key(kind);
    stage.start();
    stage.run_with(&["slot", "mode", "ca", "generated"], "--code-file", CODE).exits(0);
    let before = stage.handed_over("signer").expect("it is active");
    let decommission = |stage: &Stage, confirm: &str, so_pin: &str| {
        stage.run_with(&["slot", "decommission", "ca root", "--confirm", confirm], "--so-pin-file", so_pin)
    };
    // By its label or its name: what is typed is the configured name.
    decommission(&stage, "decommission ca", SO_PIN).refused(1, 325);
    stage.run(&["slot", "deactivate", "ca"]).exits(0);
    stage.run_with(&["slot", "decommission", "ca"], "--so-pin-file", SO_PIN).refused(2, 328);
    decommission(&stage, "decommission ca root", SO_PIN).refused(1, 613);
    decommission(&stage, "decommission ca", WRONG_SO_PIN).refused(1, 319);
    stage.run(&["slot", "decommission", "ca", "--without-token", "--confirm", "decommission ca"]).refused(1, 327);
    stage.run(&["slot", "activate", "ca"]).exits(0);
    assert!(signs_with_the_old_key(&stage), "nothing was erased");
    stage.run(&["slot", "deactivate", "ca"]).exits(0);

    decommission(&stage, "decommission ca", SO_PIN).exits(0);
    assert_eq!(stage.slot_status("ca")["state"], "uninitialised");
    assert!(!stage.opens("ca root", &before));
    assert_eq!(stage.events("ca", "SlotForgotten"), 1);
    // Also after a crash; and the same token begins anew, without its keys.
    stage.kill();
    stage.start();
    stage.run_with(&["slot", "init", "ca"], "--so-pin-file", SO_PIN).exits(0);
    let after = stage.handed_over("signer").expect("it is active");
    assert!(after != before && stage.opens("ca root", &after));
    assert!(!signs_with_the_old_key(&stage), "the keys are destroyed");
}

fn a_token_that_is_gone_for_good_is_forgotten_on_a_typed_word_only(kind: Kind) {
    let mut stage = slot_with_a_key(kind);
    stage.start();
    stage.run_with(&["slot", "mode", "ca", "generated"], "--code-file", CODE).exits(0);
    stage.stop();
    // Its place is taken by another with the label: adopted by nobody, erased by nobody.
    let (tokens, away) = (stage.bench.tokens_dir(), stage.path("tokens.away"));
    fs::rename(&tokens, &away).expect("one file system");
    fs::create_dir(&tokens).expect("the stage's own");
    stage.start();
    stage.wait_state("ca", "absent");
    let forget = ["slot", "decommission", "ca", "--without-token"];
    stage.run(&forget).refused(2, 328);
    stage
        .run_with(&["slot", "decommission", "ca", "--confirm", "decommission ca"], "--so-pin-file", SO_PIN)
        .refused(1, 326);
    stage.run(&[&forget[..], &["--confirm", "decommission ca"]].concat()).exits(0);
    stage.stop();
    fs::remove_dir_all(&tokens).expect("the stage's own");
    fs::rename(&away, &tokens).expect("one file system");
    stage.start();
    let slot = stage.slot_status("ca");
    assert_eq!((&slot["state"], &slot["mode"]), (&"locked".into(), &"manual".into()), "it came back: adopted again");
    unblock(&stage, &[], SO_PIN).exits(0);
    assert!(signs_with_the_old_key(&stage));
}

fn an_application_that_is_dead_is_left_behind_by_its_name_only(kind: Kind) {
    let mut stage = slot_with_a_key(kind);
    stage.start();
    stage.activate("ca", CODE).exits(0);
    // What stands there now cannot be unlinked, also not by root.
    let file = stage.hand_over_file("signer");
    fs::remove_file(&file).expect("the stage's own");
    fs::create_dir(&file).expect("the stage's own");
    let refused = stage.run_with_codes(&["slot", "change-code", "ca"], CODE, NEW).refused(1, 316);
    assert!(refused.stderr.contains("--accept-application signer"), "it is named: {}", refused.stderr);
    let change = ["slot", "change-code", "ca", "--accept-application"];
    stage.run_with_codes(&[&change[..], &["nobody"]].concat(), CODE, NEW).refused(1, 626);
    assert!(stage.opens("ca root", CODE), "nothing was changed");
    stage.run_with_codes(&[&change[..], &["signer"]].concat(), CODE, NEW).exits(0);
    assert!(stage.opens("ca root", NEW));
    assert_eq!(stage.events("ca", "ApplicationLeft"), 1);
    assert_eq!(stage.slot_status("ca")["state"], "active");
}

/// `kill -9` of the daemon or of its worker at seeded moments of an unblock: afterwards the
/// slot opens with what the store or the person has, and a PIN that another process proves.
fn p35_after_each_of_24_kills_in_an_unblock_the_slot_opens(kind: Kind) {
    let mut random = Rng::with_seed(0x51_07_3A_4D);
    let mut stage = Stage::on(Bench::new(kind, 1));
    stage.bench.make_token_with("ca root", SO_PIN, CODE);
    make_key(&stage, CODE);
    stage.slot("ca", "ca root", "signer");
    stage.start();
    stage.activate("ca", CODE).exits(0);
    let mut manual = vec![CODE.to_owned()];
    let began = Instant::now();
    stage.run(&["slot", "deactivate", "ca"]).exits(0);
    let takes = began.elapsed() * 2;
    let mut interrupted = 0;
    for round in 0..24u32 {
        let to_manual = random.bool();
        let code = format!("manual code {round:04}");
        let so_pin = stage.secret_file(SO_PIN);
        let mut command = stage.command();
        command.args(["slot", "unblock", "ca", if to_manual { "manual" } else { "generated" }]);
        command.args(["--confirm", "last try", "--so-pin-file"]).arg(so_pin);
        if to_manual {
            command.arg("--new-code-file").arg(stage.secret_file(&code));
            // They remember both until they hear that it is done.
            manual.insert(0, code);
        }
        let ordered = slotwarden_tests::stage::begin(&mut command);
        thread::sleep(takes.mul_f64(random.f64()));
        let worker = stage.worker_process();
        if round % 2 == 0 {
            stage.kill();
            stage.start();
        } else {
            kill_worker(worker);
        }
        let ran = ordered.end();
        interrupted += usize::from(ran.exit != 0);
        if ran.exit == 0 {
            manual.truncate(usize::from(to_manual));
        }
        let pin = open(&stage, &mut manual);
        assert!(stage.opens("ca root", &pin), "round {round}: another process opens it too");
        assert!(signs_with_the_old_key(&stage), "round {round}");
        stage.run(&["slot", "deactivate", "ca"]).exits(0);
    }
    println!("{kind:?}: {interrupted} of 24 unblocks were interrupted");
    assert!(interrupted >= 4, "the kills came too late: {interrupted}");
}

fn kill_worker(worker: Pid) {
    // It may have ended by itself.
    let _ = kill_process(worker, Signal::KILL);
}

/// Those who have a code open the slot: the service by itself, on a person's word with what
/// it keeps, or with what people typed. Returns the PIN.
fn open(stage: &Stage, manual: &mut Vec<String>) -> String {
    let until = Instant::now() + PATIENCE;
    let mut tries: Vec<Option<String>> = manual.iter().cloned().map(Some).collect();
    tries.insert(0, None);
    let mut next = 0;
    loop {
        stage.wait("a worker serves and nothing is being worked on", |status| {
            let busy = |state: &str| ["activating", "changing", "absent"].contains(&state);
            status.hsm.worker && status.boot_done && !status.slots.iter().any(|slot| busy(&slot.state))
        });
        let slot = stage.slot_status("ca");
        if slot["state"] == "active" {
            let pin = stage.handed_over("signer").expect("an active slot's application has its PIN");
            manual.retain(|code| *code == pin);
            return pin;
        }
        assert!(Instant::now() < until, "nobody opens it: {slot}\n{}", stage.log());
        let activate = ["slot", "activate", "ca", "--confirm", "last try"];
        match &tries[next % tries.len()] {
            None => stage.run(&activate),
            Some(code) => stage.run_with(&activate, "--code-file", code),
        };
        next += 1;
        if slot["state"] == "cooling-down" {
            thread::sleep(Duration::from_secs(2));
        }
    }
}
