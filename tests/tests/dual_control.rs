//! Two persons on the real stack: what one cannot do alone, what counts of a configuration
//! file that somebody edited, and that none of it is lost with the power. Commands run as
//! other users, so the tests run as root.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use slotwarden_tests::modules::{Kind, SO_PIN};
use slotwarden_tests::stage::{Ran, Stage, begin, run};

slotwarden_tests::on_both_modules! {
    p26_an_order_that_needs_two_persons_waits_for_another_one
    p27_an_approval_is_used_once_for_the_same_order_by_its_requester
}

const CODE: &str = "manual code one";
/// Users of the tests: alice has two user ids and is one person.
const ALICE: u32 = 54_331;
const ALICES_OTHER: u32 = 54_332;
const BOB: u32 = 54_333;
const OTTO: u32 = 54_334;
const MALLORY: u32 = 54_335;

const PERSONS: &str = "\
[[person]]\nname = \"alice\"\nuids = [54331, 54332]\nroles = [\"administrator\", \"approver\"]\n\
[[person]]\nname = \"bob\"\nuids = [54333]\nroles = [\"administrator\"]\n\
[[person]]\nname = \"otto\"\nuids = [54334]\nroles = [\"operator\", \"auditor\"]\n";

/// A manual slot `ca`, the persons above, dual control on.
fn under_dual_control(kind: Kind) -> Stage {
    let mut stage = with_persons(kind, PERSONS);
    stage.start();
    assert!(stage.run_as(ALICE, &["status"]).exits(2).stdout.contains("single-person mode"));
    stage.run_as(OTTO, &["dual-control", "on"]).refused(77, 101);
    stage.run_as(ALICE, &["dual-control", "on"]).exits(0);
    let status = stage.run_as(ALICE, &["status"]).exits(2);
    assert!(status.stdout.contains("dual control") && !status.stdout.contains("single-person"), "{}", status.stdout);
    stage
}

fn with_persons(kind: Kind, persons: &str) -> Stage {
    let mut stage = Stage::new(kind, 1);
    stage.bench.make_token_with("ca", SO_PIN, CODE);
    stage.slot("ca", "ca", "signer");
    stage.more = persons.to_owned();
    stage.open_to_all();
    stage
}

fn as_user(stage: &Stage, uid: u32) -> Command {
    use std::os::unix::process::CommandExt as _;
    let mut command = stage.command();
    command.uid(uid).gid(uid);
    command
}

fn to_generated(stage: &Stage, uid: u32) -> Ran {
    let code = stage.secret_file(CODE);
    let mut command = as_user(stage, uid);
    run(command.args(["slot", "mode", "ca", "generated", "--output", "json", "--code-file"]).arg(code))
}

/// Id and code of the request that a command was told to wait for.
#[track_caller]
fn waits(ran: Ran) -> (String, String) {
    let ran = ran.exits(2);
    let approval = &ran.json()["approval"];
    let code = approval["code"].as_str().expect("a code").to_owned();
    assert_eq!((code.len(), &code[4..5]), (9, "-"));
    let id = approval["id"].as_u64().expect("an id").to_string();
    assert!(ran.stderr.contains(&format!("request {id}, code {code}")), "{}", ran.stderr);
    (id, code)
}

fn adopt(stage: &Stage, uid: u32) -> Ran {
    stage.run_as(uid, &["dual-control", "adopt", "--output", "json"])
}

fn status(stage: &Stage) -> Value {
    stage.run_as(OTTO, &["status", "--output", "json"]).json()
}

#[track_caller]
fn attempts(stage: &Stage) -> usize {
    let show = ["audit", "show", "--last", "100000", "--output", "json"];
    let records = stage.run_as(OTTO, &show).exits(0).json();
    let records = records["records"].as_array().expect("a list of records");
    records.iter().filter(|record| record["event"].get("AttemptBegins").is_some()).count()
}

fn p26_an_order_that_needs_two_persons_waits_for_another_one(kind: Kind) {
    let stage = under_dual_control(kind);
    let (id, code) = waits(to_generated(&stage, ALICE));
    assert_eq!(attempts(&stage), 0, "nothing was tried");
    assert_eq!(waits(to_generated(&stage, ALICES_OTHER)), (id.clone(), code.clone()), "two user ids are one person");
    stage.run_as(ALICES_OTHER, &["approve", &id, &code]).refused(77, 702);
    stage.run_as(OTTO, &["approve", &id, &code]).refused(77, 101);
    stage.run_as(MALLORY, &["approve", &id, &code]).refused(77, 603);
    stage.run(&["approve", &id, &code]).refused(77, 101);
    stage.run_as(BOB, &["approve", &id]).refused(1, 641);
    stage.run_as(BOB, &["approve", &id, "0000-0000"]).refused(1, 703);
    stage.run_as(BOB, &["approve", &id, "not a code"]).refused(1, 703);
    stage.run_as(BOB, &["approve", "999", &code]).refused(1, 701);
    let listed = stage.run_as(BOB, &["approve"]).exits(0).stdout;
    assert!(listed.contains("alice wants to switch ca to a generated code; waits for a second person"), "{listed}");
    assert!(!listed.contains(&code), "the code is told to the requester only");
    assert!(!status(&stage).to_string().contains(&code));
    assert_eq!(status(&stage)["approvals"][0]["state"], "requested");

    stage.run_as(BOB, &["approve", &id, &code.to_lowercase()]).exits(0);
    let approval = &status(&stage)["approvals"][0];
    assert_eq!((&approval["state"], &approval["approver"]), (&"approved".into(), &"bob".into()));
    assert_eq!(stage.slot_status("ca")["mode"], "manual", "only its requester goes on");
    to_generated(&stage, ALICE).exits(0);
    let slot = stage.slot_status("ca");
    assert_eq!((&slot["mode"], &slot["state"]), (&"generated".into(), &"active".into()));
    assert_eq!(status(&stage)["approvals"], Value::Array(vec![]));
    let log = stage.run_as(OTTO, &["audit", "show", "--last", "100"]).exits(0).stdout;
    for said in ["alice", "bob", "approval requested", "approval given", "approval spent", "dual control is: true"] {
        assert!(log.contains(said), "{said}: {log}");
    }
    // What one person may do goes on.
    stage.run_as(OTTO, &["slot", "deactivate", "ca"]).exits(0);
    stage.run_as(OTTO, &["slot", "activate", "ca"]).exits(0);
}

fn p27_an_approval_is_used_once_for_the_same_order_by_its_requester(kind: Kind) {
    let mut stage = under_dual_control(kind);
    let (id, code) = waits(to_generated(&stage, ALICE));
    stage.run_as(BOB, &["approve", &id, &code]).exits(0);
    // Crossed, and altered: requests of their own.
    let (crossed, _) = waits(to_generated(&stage, BOB));
    let last_try = ["slot", "activate", "ca", "--confirm", "last try", "--output", "json"];
    let (altered, _) = waits(stage.run_as(ALICE, &last_try));
    assert!(crossed != id && altered != id);
    assert_eq!(attempts(&stage), 0);
    stage.run_as(ALICE, &["approve", &altered, "--withdraw"]).exits(0);
    stage.run_as(ALICE, &["approve", &crossed, "--withdraw"]).exits(0);
    to_generated(&stage, ALICE).exits(0);
    // Replayed.
    stage.run_as(BOB, &["approve", &id, &code]).refused(1, 701);
    let off = ["dual-control", "off", "--output", "json"];
    let (id, code) = waits(stage.run_as(ALICE, &off));
    stage.run_as(BOB, &["approve", &id, &code]).exits(0);
    // Approvals die with the daemon; the latch does not.
    stage.kill();
    stage.start();
    assert_eq!(status(&stage)["single_person"], false);
    let (id, other) = waits(stage.run_as(ALICE, &off));
    assert_ne!(other, code);
    stage.run_as(BOB, &["approve", &id, &code]).refused(1, 703);
    stage.run_as(BOB, &["approve", &id, &other]).exits(0);
    stage.run_as(ALICE, &off).exits(0);
    assert_eq!(status(&stage)["single_person"], true);
    stage.run_as(ALICE, &off).refused(1, 708);
    stage.stop();
}

#[test]
fn p26_one_person_with_two_user_ids_is_not_two_persons() {
    let (alice, _) = PERSONS.split_once("[[person]]\nname = \"bob\"").expect("bob is the second");
    let mut stage = with_persons(Kind::SoftHsm, alice);
    stage.start();
    stage.run_as(ALICE, &["dual-control", "on"]).refused(1, 707);
    stage.stop();
    // Nor is the daemon's own user alone.
    stage.more.clear();
    stage.start();
    stage.run(&["dual-control", "on"]).refused(1, 707);
    assert_eq!(stage.status().1["single_person"], true);
}

#[test]
fn p26_an_edited_configuration_counts_only_after_two_persons_approved_it() {
    let mut stage = under_dual_control(Kind::SoftHsm);
    stage.activate_as(ALICE, "ca", CODE).exits(0);
    let approved = stage.configuration();
    // Whoever is root on the box adds a person, takes a right away, and names another module.
    let mallory = "[[person]]\nname = \"mallory\"\nuids = [54335]\nroles = [\"administrator\"]\n";
    let edited = format!("tries = 9\n{approved}{mallory}").replace("[\"operator\", \"auditor\"]", "[\"auditor\"]");
    let edited_module = edited.replace("softhsm2.so", "softhsm2-of-mallory.so");
    assert_ne!(edited_module, edited);
    for killed in [true, false] {
        if killed {
            stage.kill();
        } else {
            stage.stop();
        }
        stage.start_with(&edited_module);
        let told = stage.run_as(BOB, &["status"]).exits(2).stdout;
        assert!(told.contains("configuration change waits for two persons"), "{told}");
        assert_eq!(status(&stage)["configuration_waits"], true);
        stage.run_as(MALLORY, &["status"]).refused(77, 603);
        stage.activate_as(OTTO, "ca", CODE).exits(0);
        let differs = stage.run(&["check-config"]).exits(1).stdout;
        for said in [
            "person mallory is new: {\"roles\":[\"administrator\"],\"uids\":[54335]}",
            "person otto: roles: [\"operator\",\"auditor\"] becomes [\"auditor\"]",
            "[hsm]: module: ",
            "tries: 3 becomes 9",
        ] {
            assert!(differs.contains(said), "{said}: {differs}");
        }
    }
    let journaled = stage.run_as(OTTO, &["audit", "show", "--last", "1000"]).exits(0).stdout;
    assert_eq!(journaled.matches("configuration waits").count(), 2, "once for each start: {journaled}");

    // A module that is right again, and the rest is wanted: two persons decide.
    fs::write(stage.path("slotwarden.toml"), &edited).expect("the stage's own");
    stage.run_as(OTTO, &["dual-control", "adopt"]).refused(77, 101);
    let (id, code) = waits(adopt(&stage, ALICE));
    let listed = stage.run_as(BOB, &["approve"]).exits(0).stdout;
    assert!(listed.contains("person mallory is new"), "{listed}");
    stage.run_as(BOB, &["approve", &id, &code]).exits(0);
    // Altered behind their backs: another request.
    fs::write(stage.path("slotwarden.toml"), edited.replace("54335", "54336")).expect("the stage's own");
    let (altered, _) = waits(adopt(&stage, ALICE));
    assert_ne!(altered, id);
    assert_eq!(status(&stage)["restart_wanted"], false);
    fs::write(stage.path("slotwarden.toml"), &edited).expect("the stage's own");
    adopt(&stage, ALICE).exits(0);
    adopt(&stage, ALICE).refused(1, 710);
    let told = stage.run_as(BOB, &["status"]).stdout;
    assert!(told.contains("counts from the next start") && !told.contains("waits for two persons"), "{told}");
    stage.run_as(MALLORY, &["status"]).refused(77, 603);
    stage.kill();
    stage.start_with(&edited);
    let status = status(&stage);
    assert_eq!((&status["configuration_waits"], &status["restart_wanted"]), (&false.into(), &false.into()));
    stage.run_as(MALLORY, &["status"]).exits(2);
    stage.activate_as(OTTO, "ca", CODE).refused(77, 101);
    assert!(stage.run(&["check-config"]).exits(0).stdout.contains("it is what two persons approved"));
}

#[test]
fn p26_a_configuration_with_too_few_persons_is_not_adopted() {
    let stage = under_dual_control(Kind::SoftHsm);
    let alone = stage.configuration().replace(
        "name = \"bob\"\nuids = [54333]\nroles = [\"administrator\"]",
        "name = \"bob\"\nuids = [54333]\nroles = [\"operator\"]",
    );
    assert_ne!(alone, stage.configuration());
    fs::write(stage.path("slotwarden.toml"), alone).expect("the stage's own");
    adopt(&stage, ALICE).refused(1, 707);
    fs::write(stage.path("slotwarden.toml"), "state_dir = [").expect("the stage's own");
    // The client cannot read where the daemon listens either; it is told by a file of its own.
    let own = stage.path("client.toml");
    fs::write(&own, stage.configuration()).expect("the stage's own");
    let mut command = as_user(&stage, ALICE);
    run(command.args(["dual-control", "adopt", "--config"]).arg(own)).refused(1, 615);
}

#[test]
fn p26_a_broken_configuration_leaves_what_two_persons_approved_in_force() {
    let mut stage = under_dual_control(Kind::SoftHsm);
    let good = stage.configuration();
    for broken in [
        good.replace("[[slot]]", "[[slot]"),
        good.replace("roles = [\"administrator\"]", "roles = []").replace("\"administrator\", ", ""),
        good.replace("[hsm]", "[hsm]\nevil = true"),
        good.replace("[[slot]]", "\u{1}\u{2}\n[[slot]]"),
    ] {
        assert_ne!(broken, good);
        stage.stop();
        stage.start_with(&broken);
        let told = stage.run_as(BOB, &["status"]).exits(2).stdout;
        assert!(told.contains("configuration change waits for two persons"), "{told}");
        stage.activate_as(OTTO, "ca", CODE).exits(0);
        stage.run(&["check-config"]).exits(1);
    }
    stage.stop();
    // Without dual control such a file is refused, and the store stays as it is.
    let other = with_persons(Kind::SoftHsm, PERSONS);
    fs::write(other.path("slotwarden.toml"), other.configuration().replace("[hsm]", "[hsm]\nevil = true"))
        .expect("its own");
    run(&mut other.daemon_command()).refused(1, 615);
    assert!(!other.state_dir().exists());
}

#[test]
fn p39_a_kill_while_dual_control_is_switched_leaves_it_on_or_off_with_its_configuration() {
    let mut stage = with_persons(Kind::SoftHsm, PERSONS);
    stage.start();
    let mut was_on = 0;
    for round in 0..12u64 {
        let mut command = as_user(&stage, ALICE);
        let ordered = begin(command.args(["dual-control", "on"]));
        thread::sleep(Duration::from_millis(3 * round));
        stage.kill();
        let ran = ordered.end();
        stage.start();
        let is_on = status(&stage)["single_person"] == false;
        assert!(is_on || ran.exit != 0, "what was answered as done is durable");
        assert_eq!(status(&stage)["configuration_waits"], false);
        if is_on {
            was_on += 1;
            let off = ["dual-control", "off", "--output", "json"];
            let (id, code) = waits(stage.run_as(ALICE, &off));
            stage.run_as(BOB, &["approve", &id, &code]).exits(0);
            stage.run_as(ALICE, &off).exits(0);
        }
    }
    println!("on after {was_on} of 12 kills");
}
