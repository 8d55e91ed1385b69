//! Level `passphrase` on the real stack: keys made by `pkcs11-tool` are exported under a passphrase, opened
//! without our code, verified offline, and brought back into another vendor's module.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use sha2::{Digest as _, Sha256};
use slotwarden_tests::exports::signed_by_somebody_else;
use slotwarden_tests::modules::{Kind, SO_PIN};
use slotwarden_tests::stage::{Ran, Stage, run};

const CODE: &str = "manual code one";
const PASSPHRASE: &str = "plough lantern seven quiet harbour";
const WRONG: &str = "plough lantern seven quiet harbours";

/// An appliance at this level with one open slot.
fn stage(kind: Kind, level: &str) -> Stage {
    stage_with(kind, level, |_| {})
}

/// The same with more in its configuration.
fn stage_with(kind: Kind, level: &str, more: impl FnOnce(&mut Stage)) -> Stage {
    let mut stage = Stage::new(kind, 1);
    stage.top = format!("security_level = \"{level}\"\n");
    stage.more = "[[person]]\nname = \"alice\"\nuids = [0]\nroles = [\"administrator\"]\n".to_owned();
    stage.bench.make_token_with("ca", SO_PIN, CODE);
    stage.slot("ca", "ca", "ca-app");
    more(&mut stage);
    stage.start();
    stage.activate("ca", CODE).exits(0);
    stage
}

fn tool(stage: &Stage, arguments: &[&str]) -> String {
    let mut tool = stage.bench.pkcs11_tool();
    run(tool.args(["--token-label", "ca", "--login", "--pin", CODE]).args(arguments)).exits(0).stdout
}

fn with_passphrase(stage: &Stage, arguments: &[&str], passphrase: &str) -> Ran {
    stage.run_with(arguments, "--passphrase-file", passphrase)
}

fn text(path: &Path) -> String {
    path.to_str().expect("ASCII").to_owned()
}

/// No file below this directory holds these bytes.
#[track_caller]
fn nowhere_below(dir: &Path, secret: &str) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("it is there").path();
        if path.is_dir() {
            nowhere_below(&path, secret);
        } else if let Ok(bytes) = fs::read(&path) {
            assert!(!bytes.windows(secret.len()).any(|found| found == secret.as_bytes()), "{}", path.display());
        }
    }
}

fn comes_back_from_to(from: Kind, to: Kind) {
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
    let folder = folder.path();
    let first = stage(from, "passphrase");
    tool(
        &first,
        &[
            "--keypairgen",
            "--key-type",
            "EC:prime256v1",
            "--usage-sign",
            "--extractable",
            "--label",
            "ec",
            "--id",
            "02",
        ],
    );
    tool(&first, &["--keygen", "--key-type", "AES:32", "--extractable", "--label", "aes", "--id", "03"]);
    let public = text(&folder.join("ec.der"));
    tool(&first, &["--read-object", "--type", "pubkey", "--id", "02", "--output-file", &public]);
    let file = text(&folder.join("keys.slwx"));
    let export = ["backup", "export", &file, "--slot", "ca"];
    first.run(&export).refused(1, 1015);
    with_passphrase(&first, &export, "thirteen char").refused(1, 1016);
    // On a medium without room it is made, and nobody has it: nothing is covered by it.
    let stick = folder.join("stick");
    fs::create_dir(&stick).expect("our own directory");
    rustix::mount::mount("tmpfs", &stick, "tmpfs", rustix::mount::MountFlags::NODEV, Some(c"size=4k"))
        .expect("root may");
    fs::write(stick.join("other"), [0; 4096]).expect("there is room for it alone");
    let full = text(&stick.join("keys.slwx"));
    with_passphrase(&first, &["backup", "export", &full, "--slot", "ca"], PASSPHRASE).refused(1, 619);
    assert_eq!(fs::read_dir(&stick).expect("it is there").count(), 1, "nothing is left there either");
    rustix::mount::unmount(&stick, rustix::mount::UnmountFlags::DETACH).expect("it was mounted");
    let uncovered = |stage: &Stage| {
        let shown = stage.run(&["slot", "show", "ca", "--output", "json"]).exits(0).json();
        shown["slot"]["keys"]["uncovered"].as_u64()
    };
    assert_eq!(uncovered(&first), Some(2));
    with_passphrase(&first, &export, PASSPHRASE).exits(0);
    first.wait("its keys are covered", |_| uncovered(&first) == Some(0));
    let listed = tool(&first, &["--list-objects"]);
    assert!(!listed.contains("slotwarden"), "W and MAK are of the session: {listed}");
    nowhere_below(&first.state_dir(), PASSPHRASE);
    assert!(!first.log().contains(PASSPHRASE));
    let counted = first.run(&["slot", "show", "ca", "--output", "json"]).exits(0).json();
    assert_eq!(counted["slot"]["keys"], serde_json::json!({"keys": 2, "can_leave": 2, "uncovered": 0}));

    // Offline: with the passphrase the MACs too.
    let plain = run(first.command().args(["verify", &file])).exits(0).stdout;
    assert!(plain.contains("Argon2id, 256 MiB, 3 passes, 1 lane") && plain.contains("not checked"), "{plain}");
    with_passphrase(&first, &["verify", &file], WRONG).refused(1, 1018);
    let shown = with_passphrase(&first, &["verify", &file], PASSPHRASE).exits(0).stdout;
    assert!(shown.contains("its MACs are right"), "{shown}");

    // Nobody is locked in.
    let opens = |passphrase: &str| {
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-B", concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/open_export.py"), &file, "--passphrase-file"]);
        run(python.arg(first.secret_file(passphrase)))
    };
    assert!(opens(WRONG).stderr.contains("not the one of this file"));
    let opened = opens(PASSPHRASE).exits(0).stdout;
    assert!(opened.contains("2 keys opened"), "{opened}");

    // At another level it stays outside, whoever knows the passphrase.
    let none = stage(to, "none");
    with_passphrase(&none, &["backup", "restore", &file, "--slot", "ca"], PASSPHRASE).refused(1, 1005);
    drop(none);

    let mut other = stage(to, "passphrase");
    let restore = ["backup", "restore", &file, "--slot", "ca"];
    other.run(&restore).refused(1, 1015);
    with_passphrase(&other, &restore, WRONG).refused(1, 1018);
    let ran = with_passphrase(&other, &restore, PASSPHRASE).exits(0);
    assert!(ran.stdout.contains("3 new, 0 there already"), "nobody removed them here: {}", ran.stdout);
    assert!(!tool(&other, &["--list-objects"]).contains("'aes'"), "it is a plan");
    // Power goes before the import is ordered: nothing of it stays.
    other.kill();
    other.start();
    other.activate("ca", CODE).exits(0);
    other.wait("the restore is over", |status| status.transfer.is_none());
    assert!(!tool(&other, &["--list-objects"]).contains("slotwarden U"));
    with_passphrase(&other, &restore, PASSPHRASE).exits(0);
    other.run(&["backup", "import", "ca", "--confirm", "import"]).exits(0);
    let listed = tool(&other, &["--list-objects"]);
    assert!(listed.contains("aes") && !listed.contains("slotwarden"), "{listed}");
    let (digest, signature) = (folder.join("digest"), folder.join("signature"));
    let message = folder.join("message");
    fs::write(&message, b"signed after the restore").expect("the folder is there");
    fs::write(&digest, Sha256::digest(b"signed after the restore")).expect("the folder is there");
    let sign = ["--sign", "--id", "02", "--mechanism", "ECDSA", "--signature-format", "openssl"];
    tool(&other, &[&sign[..], &["--input-file", &text(&digest), "--output-file", &text(&signature)]].concat());
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", "-sha256", "-keyform", "DER", "-verify", &public]);
    run(openssl.arg("-signature").arg(&signature).arg(&message)).exits(0);
    nowhere_below(&other.state_dir(), PASSPHRASE);
}

#[test]
fn keys_under_a_passphrase_go_from_softhsm_to_kryoptic() {
    comes_back_from_to(Kind::SoftHsm, Kind::Kryoptic);
}

#[test]
fn keys_under_a_passphrase_go_from_kryoptic_to_softhsm() {
    comes_back_from_to(Kind::Kryoptic, Kind::SoftHsm);
}

/// As when a partition died between plan and import.
fn is_given_up_while_its_slot_is_closed(kind: Kind) {
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
    let stage = stage(kind, "passphrase");
    let make = ["--keygen", "--key-type", "AES:32", "--extractable", "--label", "aes", "--id", "03"];
    tool(&stage, &make);
    let file = text(&folder.path().join("keys.slwx"));
    with_passphrase(&stage, &["backup", "export", &file, "--slot", "ca"], PASSPHRASE).exits(0);
    tool(&stage, &["--delete-object", "--type", "secrkey", "--id", "03"]);
    let abandon = ["backup", "abandon", "--confirm", "abandon"];
    stage.run(&abandon).refused(1, 1020);
    let restore = ["backup", "restore", &file, "--slot", "ca"];
    with_passphrase(&stage, &restore, PASSPHRASE).exits(0);
    stage.run(&abandon).refused(1, 1020);
    stage.run(&["slot", "deactivate", "ca"]).exits(0);
    stage.run(&["backup", "end-restore"]).refused(1, 309);
    stage.run(&["backup", "abandon"]).refused(2, 659);
    stage.run(&abandon).exits(0);
    stage.wait("it is over", |status| status.transfer.is_none());
    // Opened after all, its token has no U, and nothing is in the way of another restore.
    stage.activate("ca", CODE).exits(0);
    stage.wait("U is gone", |_| !tool(&stage, &["--list-objects"]).contains("slotwarden U"));
    with_passphrase(&stage, &restore, PASSPHRASE).exits(0);
    stage.run(&["backup", "import", "ca", "--confirm", "import"]).exits(0);
    assert!(tool(&stage, &["--list-objects"]).contains("aes"));
}

#[test]
fn a_restore_on_softhsm_is_given_up_while_its_slot_is_closed() {
    is_given_up_while_its_slot_is_closed(Kind::SoftHsm);
}

#[test]
fn a_restore_on_kryoptic_is_given_up_while_its_slot_is_closed() {
    is_given_up_while_its_slot_is_closed(Kind::Kryoptic);
}

#[test]
fn p21_no_bit_of_a_file_under_a_passphrase_can_be_turned() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
    let first = stage(Kind::SoftHsm, "passphrase");
    tool(&first, &["--keygen", "--key-type", "AES:32", "--extractable", "--label", "aes", "--id", "03"]);
    let file = folder.path().join("keys.slwx");
    with_passphrase(&first, &["backup", "export", &text(&file), "--slot", "ca"], PASSPHRASE).exits(0);
    let whole = fs::read(&file).expect("it was written");
    for at in (0..whole.len()).step_by(3) {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(&file, flipped).expect("the folder is there");
        assert!(slotwarden::export_file::verify(&file, None, None).is_err(), "byte {at}");
    }
    // Who does not know it may sign the same sections as their own node: whole, and not authentic.
    fs::write(&file, signed_by_somebody_else(&whole)).expect("the folder is there");
    assert!(slotwarden::export_file::verify(&file, None, None).is_ok());
    let forged = slotwarden::export_file::verify(&file, None, Some(PASSPHRASE.as_bytes())).expect_err("it is forged");
    assert!(forged.to_string().contains("the MAC of ca"), "{forged}");
    fs::write(&file, &whole).expect("the folder is there");
    assert!(slotwarden::export_file::verify(&file, None, Some(PASSPHRASE.as_bytes())).expect("it is whole").authentic);
}

/// No HSM with such a program is here: what runs is a stand-in, a script that knows none.
#[test]
fn what_a_vendors_program_writes_is_restored_by_the_passphrase_and_by_no_other() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
    let (program, given) = (folder.path().join("stand-in"), folder.path().join("given"));
    let script = "if test $1 = backup; then echo \"what only it knows of $2\"; else cat >";
    fs::write(&program, format!("#!/bin/sh\n{script} {}; fi\n", given.display())).expect("a fresh folder");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is ours");
    let stage = stage_with(Kind::SoftHsm, "passphrase", |stage| stage.export_program("ca", "ca", &program));
    tool(&stage, &["--keygen", "--key-type", "AES:32", "--label", "stays", "--id", "03"]);
    let file = text(&folder.path().join("keys.slwx"));
    with_passphrase(&stage, &["backup", "export", &file, "--slot", "ca"], PASSPHRASE).exits(0);
    let shown = with_passphrase(&stage, &["verify", &file], PASSPHRASE).exits(0).stdout;
    assert!(shown.contains("vendor part: 25 bytes") && shown.contains("its MACs are right"), "{shown}");
    let restore = ["backup", "restore", &file, "--slot", "ca"];
    with_passphrase(&stage, &restore, WRONG).refused(1, 1018);
    with_passphrase(&stage, &restore, PASSPHRASE).exits(0);
    assert!(!given.exists(), "a plan changes nothing");
    stage.run(&["backup", "import", "ca", "--confirm", "import"]).exits(0);
    assert_eq!(fs::read_to_string(&given).expect("it was given back"), "what only it knows of ca\n");
    assert!(!tool(&stage, &["--list-objects"]).contains("slotwarden"), "nothing of ours stays in the token");
}
