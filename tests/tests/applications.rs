//! What an application gets: the hand-over file, read by real PKCS#11 clients.
//!
//! GnuTLS resolves the `pin-source` of RFC 7512 itself; version 3.7 takes a path there, not
//! a `file:` URL. Each client is a process of its own, so our login opens nothing for it:
//! what it can do it can do with the file alone.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use slotwarden_tests::excluded;
use slotwarden_tests::modules::{Kind, SO_PIN};
use slotwarden_tests::stage::{Ran, Stage, run};

slotwarden_tests::on_both_modules! {
    an_application_signs_while_its_slot_is_active_and_only_then
    pkcs11_tool_signs_with_the_file_and_nothing_but_the_file
    a_hand_over_file_on_a_disk_is_refused_and_the_slot_opens_all_the_same
    an_application_that_cannot_be_told_to_let_go_stops_a_code_change
}

const CODE: &str = "manual code one";

/// A slot with a signing key, locked.
fn slot_with_a_key(kind: Kind) -> Stage {
    let mut stage = Stage::new(kind, 1);
    stage.bench.make_token_with("ca root", SO_PIN, CODE);
    let mut tool = stage.bench.pkcs11_tool();
    tool.args(["--token-label", "ca root", "--login", "--pin", CODE, "--keypairgen"]);
    run(tool.args(["--key-type", "EC:prime256v1", "--label", "signing", "--id", "01"])).exits(0);
    stage.slot("ca", "ca root", "signer");
    stage
}

/// Makes and verifies a signature in the token with the PIN that the hand-over file holds.
fn sign(stage: &Stage) -> Ran {
    let source = stage.hand_over_file("signer");
    let key = format!("pkcs11:token=ca%20root;object=signing;type=private;pin-source={}", source.display());
    let mut tool = Command::new("p11tool");
    tool.arg("--provider").arg(stage.bench.settings(&[]).module).envs(stage.bench.environment());
    run(tool.args(["--batch", "--test-sign", &key]))
}

#[track_caller]
fn signs(stage: &Stage) {
    let ran = sign(stage).exits(0);
    assert!(format!("{}{}", ran.stdout, ran.stderr).contains("Signing using ECDSA-SHA256... ok"), "{ran:?}");
}

#[track_caller]
fn cannot_sign(stage: &Stage) {
    assert_ne!(sign(stage).exit, 0);
}

fn an_application_signs_while_its_slot_is_active_and_only_then(kind: Kind) {
    let mut stage = slot_with_a_key(kind);
    cannot_sign(&stage);
    stage.start();
    cannot_sign(&stage);
    stage.activate("ca", "not the code").refused(1, 209);
    cannot_sign(&stage);
    stage.activate("ca", CODE).exits(0);
    signs(&stage);
    let file = fs::metadata(stage.hand_over_file("signer")).expect("it was just read");
    assert_eq!(file.mode() & 0o7777, 0o640);

    // It goes on with another code, made by people or by us.
    stage.run_with_codes(&["slot", "change-code", "ca"], CODE, "manual code two").exits(0);
    signs(&stage);
    stage.run_with(&["slot", "mode", "ca", "generated"], "--code-file", "manual code two").exits(0);
    signs(&stage);
    stage.run(&["slot", "change-code", "ca"]).exits(0);
    signs(&stage);

    stage.run(&["slot", "deactivate", "ca"]).exits(0);
    cannot_sign(&stage);
    stage.run(&["slot", "activate", "ca"]).exits(0);
    signs(&stage);
    stage.stop();
    cannot_sign(&stage);
    stage.start();
    signs(&stage);
}

fn pkcs11_tool_signs_with_the_file_and_nothing_but_the_file(kind: Kind) {
    let mut stage = slot_with_a_key(kind);
    stage.start();
    stage.activate("ca", CODE).exits(0);
    let message = stage.path("message");
    fs::write(&message, [7; 32]).expect("the stage's own");
    let sign = |stage: &Stage| {
        // As a shell does it: --pin "$(cat FILE)", also when there is no file.
        let pin = stage.handed_over("signer").unwrap_or_default();
        let signature = stage.path("signature");
        let _ = fs::remove_file(&signature);
        let mut tool = stage.bench.pkcs11_tool();
        tool.args(["--token-label", "ca root", "--login", "--sign", "--mechanism", "ECDSA", "--id", "01"]);
        tool.args(["--pin", &pin]).arg("--input-file").arg(&message).arg("--output-file").arg(&signature);
        let ran = run(&mut tool);
        ran.exit == 0 && fs::metadata(&signature).is_ok_and(|made| made.len() == 64)
    };
    assert!(sign(&stage));
    stage.run(&["slot", "deactivate", "ca"]).exits(0);
    assert!(!sign(&stage));
    stage.activate("ca", CODE).exits(0);
    assert!(sign(&stage));
}

/// A directory on a file system that is a disk, as far as its type tells.
fn directory_on_a_disk() -> tempfile::TempDir {
    const MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58F6];
    let is_disk = |path: &PathBuf| {
        rustix::fs::statfs(path).is_ok_and(|found| !MEMORY.contains(&(found.f_type as u64 & 0xFFFF_FFFF)))
    };
    let mut places = [std::env::temp_dir(), excluded::target_dir(), "/var/tmp".into()].into_iter();
    let place = places.find(is_disk).expect("temporary files, the build or /var/tmp are on a disk");
    tempfile::tempdir_in(place).expect("a place for temporary files")
}

fn a_hand_over_file_on_a_disk_is_refused_and_the_slot_opens_all_the_same(kind: Kind) {
    let disk = directory_on_a_disk();
    let path = disk.path().join("signer.pin");
    let mut stage = Stage::new(kind, 1);
    stage.bench.make_token_with("ca", SO_PIN, CODE);
    stage.slot_with_file("ca", "ca", "signer", &path);
    stage.start();
    let failed = stage.activate("ca", CODE).exits(1);
    assert!(failed.stderr.contains("not on a memory file system"), "{}", failed.stderr);
    assert!(!holds_anything(disk.path()), "not a byte was written there");

    let (exit, status) = stage.status();
    let slot = &status["slots"][0];
    assert_eq!((exit, &slot["state"], &slot["attention"]), (1, &"active".into(), &"application-failed".into()));
    assert_eq!(slot["applications"][0]["state"], "failed");
    assert!(slot["applications"][0]["fault"]["detail"].as_str().is_some_and(|text| text.contains("memory")));
    let boot = stage.run(&["boot"]).exits(1);
    assert!(boot.stdout.contains("signer"), "{}", boot.stdout);
    assert!(stage.log().contains("its directory is not on tmpfs or ramfs"), "{}", stage.log());
    stage.run(&["slot", "deactivate", "ca"]).exits(0);
    assert!(!holds_anything(disk.path()));
}

fn holds_anything(directory: &Path) -> bool {
    fs::read_dir(directory).expect("the test's own").next().is_some()
}

fn an_application_that_cannot_be_told_to_let_go_stops_a_code_change(kind: Kind) {
    let mut stage = Stage::new(kind, 1);
    stage.bench.make_token_with("ca", SO_PIN, CODE);
    stage.slot("ca", "ca", "signer");
    stage.start();
    stage.activate("ca", CODE).exits(0);
    // What stands there now cannot be unlinked, also not by root.
    let file = stage.hand_over_file("signer");
    fs::remove_file(&file).expect("the stage's own");
    fs::create_dir(&file).expect("the stage's own");
    stage.run_with_codes(&["slot", "change-code", "ca"], CODE, "manual code two").refused(1, 316);
    assert!(stage.opens("ca", CODE), "nothing was changed");
    fs::remove_dir(&file).expect("the stage's own");
    stage.run_with_codes(&["slot", "change-code", "ca"], CODE, "manual code two").exits(0);
    assert_eq!(stage.handed_over("signer").as_deref(), Some("manual code two"));
}
