//! Keys that survive: made by `pkcs11-tool` in one module, exported, and brought back by cards into
//! the token they came from, a fresh one, and one of another vendor.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};
use slotwarden_tests::custodians::Act::{self, Card};
use slotwarden_tests::custodians::{Reader, Table};
use slotwarden_tests::modules::Kind;
use slotwarden_tests::pcscd::Pcscd;
use slotwarden_tests::stage::run;

use crate::scene::{CODE, Scene};

/// Keys of the first slot: label, how `pkcs11-tool` makes it, id.
const KEYS: [(&str, &[&str], &str); 3] = [
    ("rsa", &["--keypairgen", "--key-type", "RSA:2048", "--usage-sign", "--usage-decrypt"], "01"),
    ("ec", &["--keypairgen", "--key-type", "EC:prime256v1", "--usage-sign"], "02"),
    ("aes", &["--keygen", "--key-type", "AES:32", "--usage-decrypt"], "03"),
];
const PLAIN: &[u8; 32] = b"what somebody encrypted long ago";
const IV: &str = "000102030405060708090a0b0c0d0e0f";

/// What a slot's keys did before they were exported.
struct Before {
    rsa_public: PathBuf,
    ec_public: PathBuf,
    encrypted: PathBuf,
}

fn scene_on(kind: Kind) -> Scene {
    let pcscd = Pcscd::start(&["Front"]);
    let table = Table::new(vec![Box::new(pcscd.pad(0).clone()) as Box<dyn Reader>]);
    Scene::on(kind, pcscd, table, |_| {})
}

fn tool(scene: &Scene, arguments: &[&str]) -> String {
    let mut tool = scene.stage.bench.pkcs11_tool();
    run(tool.args(["--token-label", "ca", "--login", "--pin", CODE]).args(arguments)).exits(0).stdout
}

/// Makes the keys, and uses each once.
fn make_keys(scene: &Scene, folder: &Path) -> Before {
    for (label, how, id) in KEYS {
        tool(scene, &[how, &["--extractable", "--label", label, "--id", id]].concat());
    }
    let path = |name: &str| folder.join(name);
    let text = |path: &Path| path.to_str().expect("ASCII").to_owned();
    for (id, name) in [("01", "rsa.der"), ("02", "ec.der")] {
        tool(scene, &["--read-object", "--type", "pubkey", "--id", id, "--output-file", &text(&path(name))]);
    }
    fs::write(path("plain"), PLAIN).expect("a fresh folder");
    let (plain, encrypted) = (text(&path("plain")), text(&path("encrypted")));
    let cbc = ["--mechanism", "AES-CBC", "--iv", IV, "--id", "03"];
    tool(scene, &[&["--encrypt"][..], &cbc, &["--input-file", &plain, "--output-file", &encrypted]].concat());
    assert_ne!(fs::read(path("encrypted")).expect("it was written"), PLAIN);
    Before { rsa_public: path("rsa.der"), ec_public: path("ec.der"), encrypted: path("encrypted") }
}

/// The keys in the token do what they did: their signatures verify against the public keys from before,
/// and what was encrypted is decrypted.
#[track_caller]
fn do_as_before(scene: &Scene, before: &Before, folder: &Path) {
    let text = |path: &Path| path.to_str().expect("ASCII").to_owned();
    let [message, digest, signature] = ["message", "digest", "signature"].map(|name| folder.join(name));
    fs::write(&message, b"signed after the restore").expect("the folder is there");
    // SoftHSM signs a digest with a curve, and digests nothing for it.
    fs::write(&digest, Sha256::digest(b"signed after the restore")).expect("the folder is there");
    for (id, mechanism, public, input, more) in [
        ("01", "SHA256-RSA-PKCS", &before.rsa_public, &message, &[][..]),
        ("02", "ECDSA", &before.ec_public, &digest, &["--signature-format", "openssl"][..]),
    ] {
        let files = ["--input-file", &text(input), "--output-file", &text(&signature)];
        tool(scene, &[&["--sign", "--id", id, "--mechanism", mechanism][..], &files, more].concat());
        let mut openssl = Command::new("openssl");
        openssl.args(["dgst", "-sha256", "-keyform", "DER", "-verify"]).arg(public);
        run(openssl.arg("-signature").arg(&signature).arg(&message)).exits(0);
    }
    let decrypted = folder.join("decrypted");
    let (from, to) = (text(&before.encrypted), text(&decrypted));
    let cbc =
        ["--decrypt", "--mechanism", "AES-CBC", "--iv", IV, "--id", "03", "--input-file", &from, "--output-file", &to];
    tool(scene, &cbc);
    assert_eq!(fs::read(decrypted).expect("it was written"), PLAIN);
}

/// The same people with the same cards before another appliance.
fn come_along(from: &Scene, to: &Scene, cards: &[&str]) {
    for card in cards {
        to.table.brings(card, from.table.shared(card));
        to.table.knows(card, &from.table.pin(card));
    }
}

#[track_caller]
fn restore(scene: &Scene, file: &str, cards: &[&str]) {
    let acts: Vec<Act<'_>> = cards.iter().map(|card| Card(card)).collect();
    let ran = scene.order(&["backup", "restore", file, "--slot", "ca"], &acts).exits(0);
    assert!(ran.stdout.contains("new"), "{}", ran.stdout);
    scene.stage.run(&["backup", "import", "ca"]).refused(2, 649);
    scene.stage.run(&["backup", "import", "ca", "--confirm", "import"]).exits(0);
}

/// A reader that knows nothing of our code opens the export from two cards, and from no fewer.
#[track_caller]
fn nobody_is_locked_in(scene: &Scene, file: &str, before: &Before, folder: &Path) {
    let record = |card: &str| {
        let path = folder.join(format!("record-{card}"));
        fs::write(&path, scene.record(card)).expect("the folder is there");
        path
    };
    let opens = |records: &[&str]| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/open_export.py");
        let mut python = Command::new("/usr/bin/python3");
        python.args(["-B", script, file]).args(records.iter().map(|card| record(card)));
        let out = folder.join("opened");
        fs::create_dir_all(&out).expect("the folder is there");
        run(python.arg("--out").arg(out))
    };
    let refused = opens(&["1"]);
    assert!(refused.stderr.contains("1 different shares are here, 2 are needed"), "{}", refused.stderr);
    let opened = opens(&["2", "3"]).exits(0).stdout;
    assert!(opened.contains("3 keys opened"), "{opened}");
    for public in [&before.rsa_public, &before.ec_public] {
        let digest: String = Sha256::digest(fs::read(public).expect("it was read before"))
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert!(opened.contains(&format!("public key {digest}")), "{opened}");
    }
    fs::remove_dir_all(folder.join("opened")).expect("it was made");
}

fn comes_back_from_to(from: Kind, to: Kind) {
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
    let folder = folder.path();
    let scene = scene_on(from);
    let before = make_keys(&scene, folder);
    let file = folder.join("keys.slwx").to_str().expect("ASCII").to_owned();
    scene.stage.run(&["backup", "export", &file, "--slot", "ca"]).refused(1, 960);
    scene.create(2, 3);
    scene.stage.run(&["backup", "export", &file, "--slot", "ca"]).exits(0);
    // It exists: nothing is written over.
    scene.stage.run(&["backup", "export", &file, "--slot", "ca"]).refused(1, 619);
    let shown = run(scene.stage.command().args(["verify", &file])).exits(0).stdout;
    for (label, _, _) in KEYS {
        assert!(shown.contains(label), "{shown}");
    }
    let counted = scene.stage.run(&["slot", "show", "ca", "--output", "json"]).exits(0).json();
    assert_eq!(counted["slot"]["keys"], serde_json::json!({"keys": 3, "can_leave": 3, "uncovered": 0}));

    nobody_is_locked_in(&scene, &file, &before, folder);

    let other = scene_on(to);
    come_along(&scene, &other, &["1", "2", "3"]);
    // The first appliance burns down.
    drop(scene.stage);
    restore(&other, &file, &["1", "3"]);
    do_as_before(&other, &before, folder);
    let shown = other.stage.run(&["slot", "show", "ca", "--output", "json"]).exits(0).json();
    assert_eq!(shown["slot"]["keys"]["keys"], 3);
    let status = other.status();
    assert_eq!(status["transfer"], serde_json::Value::Null);
    let listed = tool(&other, &["--list-objects"]);
    assert!(!listed.contains("slotwarden U"), "{listed}");
    // Once more: everything is there, and nothing is made.
    let acts = [Card("2"), Card("1")];
    let ran = other.order(&["backup", "restore", &file, "--slot", "ca"], &acts).exits(0);
    assert!(ran.stdout.contains("0 new, 5 there already"), "{}", ran.stdout);
    other.stage.run(&["backup", "end-restore"]).exits(0);
    drop(other.table);
}

#[test]
fn keys_of_softhsm_come_back_in_kryoptic() {
    comes_back_from_to(Kind::SoftHsm, Kind::Kryoptic);
}

#[test]
fn keys_of_kryoptic_come_back_in_softhsm() {
    comes_back_from_to(Kind::Kryoptic, Kind::SoftHsm);
}

#[test]
fn keys_of_softhsm_come_back_in_a_fresh_token_of_softhsm() {
    comes_back_from_to(Kind::SoftHsm, Kind::SoftHsm);
}

#[test]
fn p20_a_key_that_cannot_leave_is_named_and_refused_until_it_is_accepted() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
    let scene = scene_on(Kind::SoftHsm);
    scene.create(2, 2);
    tool(&scene, &["--keypairgen", "--key-type", "EC:prime256v1", "--extractable", "--label", "moves", "--id", "01"]);
    tool(&scene, &["--keypairgen", "--key-type", "EC:prime256v1", "--label", "stays", "--id", "02"]);
    let shown = scene.stage.run(&["slot", "show", "ca"]).exits(0).stdout;
    assert!(shown.contains("1 of 2 keys can leave"), "{shown}");
    let file = folder.path().join("keys.slwx").to_str().expect("ASCII").to_owned();
    let ran = scene.stage.run(&["backup", "export", &file, "--slot", "ca"]).refused(1, 1008);
    assert!(ran.stderr.contains("ca/stays"), "{}", ran.stderr);
    scene.stage.run(&["backup", "export", &file, "--slot", "ca", "--without", "tsa/stays"]).refused(1, 1008);
    scene.stage.run(&["backup", "export", &file, "--slot", "ca", "--without", "ca/other"]).refused(1, 1008);
    assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 0, "not even a part of a file");
    scene.stage.run(&["backup", "export", &file, "--slot", "ca", "--without", "ca/stays"]).exits(0);
    let shown = run(scene.stage.command().args(["verify", &file])).exits(0).stdout;
    assert!(shown.contains("moves") && shown.contains("stays"), "{shown}");
    let status = run(scene.stage.command().arg("status")).exits(0).stdout;
    assert!(status.contains("ca: 1 of 2 keys cannot leave"), "{status}");
}

#[test]
fn p21_p24_hostile_files_are_refused_by_name_and_a_kill_amid_an_import_loses_nothing() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
    let folder = folder.path();
    let mut scene = scene_on(Kind::SoftHsm);
    scene.create(2, 2);
    let before = make_keys(&scene, folder);
    let file = folder.join("keys.slwx").to_str().expect("ASCII").to_owned();
    scene.stage.run(&["backup", "export", &file, "--slot", "ca"]).exits(0);
    let whole = fs::read(&file).expect("it was written");
    let hostile = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, bytes).expect("the folder is there");
        path.to_str().expect("ASCII").to_owned()
    };
    let restore_of = |scene: &Scene, file: &str, number| {
        scene.stage.run(&["backup", "restore", file, "--slot", "ca"]).refused(1, number);
        assert!(scene.status()["ceremony"].is_null(), "nobody is called to a reader");
    };
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for (name, bytes) in [
        ("empty", &[][..]),
        ("zeros", &[0; 200_000]),
        ("half", &whole[..whole.len() / 2]),
        ("short", &whole[..whole.len() - 1]),
        ("flipped", &flipped),
        ("longer", &[&whole[..], b"x"].concat()),
    ] {
        restore_of(&scene, &hostile(name, bytes), 646);
    }
    // Ten gigabytes of zeros, which take no room.
    let huge = folder.join("huge");
    fs::File::create(&huge).and_then(|file| file.set_len(10_000_000_000)).expect("a sparse file");
    restore_of(&scene, huge.to_str().expect("ASCII"), 646);
    restore_of(&scene, folder.to_str().expect("ASCII"), 620);
    scene.stage.run(&["backup", "restore", &file, "--slot", "ca", "--section", "tsa"]).refused(1, 648);

    // Everything is destroyed but what we made, and the daemon is killed while the plan waits.
    for (_, _, id) in KEYS {
        for kind in ["privkey", "pubkey", "secrkey"] {
            let mut tool = scene.stage.bench.pkcs11_tool();
            let _ = run(tool.args(["--token-label", "ca", "--login", "--pin", CODE]).args([
                "--delete-object",
                "--type",
                kind,
                "--id",
                id,
            ]));
        }
    }
    let restore = ["backup", "restore", &file, "--slot", "ca"];
    let ran = scene.order(&restore, &[Card("1"), Card("2")]).exits(0);
    assert!(ran.stdout.contains("5 new (5 recorded as removed: made again), 0 there"), "{}", ran.stdout);
    scene.stage.kill();
    scene.start();
    scene.stage.run(&["backup", "import", "ca", "--confirm", "import"]).refused(1, 1002);
    let listed = tool(&scene, &["--list-objects"]);
    assert!(!listed.contains("slotwarden U") && !listed.contains("rsa"), "{listed}");
    // And while keys are being made.
    scene.order(&restore, &[Card("1"), Card("2")]).exits(0);
    let import = scene.stage.command().args(["backup", "import", "ca", "--confirm", "import"]).spawn();
    let mut import = import.expect("the program was built");
    std::thread::sleep(std::time::Duration::from_millis(20));
    scene.stage.kill();
    let _ = import.wait();
    scene.start();
    scene.stage.wait("the import has ended", |status| status.transfer.is_none());
    // Before it was ordered nothing is made of it; afterwards everything is.
    if !tool(&scene, &["--list-objects"]).contains("rsa") {
        scene.order(&restore, &[Card("1"), Card("2")]).exits(0);
        scene.stage.run(&["backup", "import", "ca", "--confirm", "import"]).exits(0);
    }
    do_as_before(&scene, &before, folder);
}

#[test]
fn p25_a_key_that_somebody_made_since_the_plan_stays_and_refuses_the_import() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
    let scene = scene_on(Kind::SoftHsm);
    scene.create(2, 2);
    let make = ["--keygen", "--key-type", "AES:32", "--extractable", "--label", "data", "--id", "07"];
    let delete = ["--delete-object", "--type", "secrkey", "--id", "07"];
    tool(&scene, &make);
    let file = folder.path().join("keys.slwx").to_str().expect("ASCII").to_owned();
    scene.stage.run(&["backup", "export", &file, "--slot", "ca"]).exits(0);
    tool(&scene, &delete);
    let restore = ["backup", "restore", &file, "--slot", "ca"];
    scene.order(&restore, &[Card("1"), Card("2")]).exits(0);
    tool(&scene, &make);
    let count = |scene: &Scene| {
        let shown = tool(scene, &["--list-objects", "--type", "secrkey"]);
        shown.lines().filter(|line| line.contains("data")).count()
    };
    scene.stage.run(&["backup", "import", "ca", "--confirm", "import"]).refused(1, 1003);
    assert_eq!(count(&scene), 1, "theirs, and no other");
    scene.stage.wait("U is gone", |status| status.transfer.is_none());
    assert!(!tool(&scene, &["--list-objects"]).contains("slotwarden U"));
    // Seen before anybody hopes for it, the next time.
    scene.order(&restore, &[Card("1"), Card("2")]).exits(0);
    scene.stage.run(&["backup", "import", "ca", "--confirm", "import"]).refused(1, 1003);
    scene.stage.run(&["backup", "end-restore"]).exits(0);
    // Out of the way, the exported one comes back.
    tool(&scene, &delete);
    scene.order(&restore, &[Card("1"), Card("2")]).exits(0);
    scene.stage.run(&["backup", "import", "ca", "--confirm", "import"]).exits(0);
    assert_eq!(count(&scene), 1);
    // A key that came back is the one that the export holds.
    let shown = scene.stage.run(&["slot", "show", "ca", "--output", "json"]).exits(0).json();
    assert_eq!(shown["slot"]["keys"], serde_json::json!({"keys": 1, "can_leave": 1, "uncovered": 0}));
}

#[test]
fn p26_under_dual_control_an_export_and_an_import_need_a_second_person() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
    let pcscd = Pcscd::start(&["Front"]);
    let table = Table::new(vec![Box::new(pcscd.pad(0).clone()) as Box<dyn Reader>]);
    let scene = Scene::on(Kind::SoftHsm, pcscd, table, |stage| {
        stage.more += "[[person]]\nname = \"bob\"\nuids = [54499]\nroles = [\"administrator\"]\n";
    });
    scene.create(2, 2);
    tool(&scene, &["--keygen", "--key-type", "AES:32", "--extractable", "--label", "data", "--id", "07"]);
    scene.stage.run(&["dual-control", "on"]).exits(0);
    let file = folder.path().join("keys.slwx").to_str().expect("ASCII").to_owned();
    let approved = |ran: slotwarden_tests::stage::Ran| {
        let ran = ran.exits(2);
        let word = |after: &str| {
            let rest = ran.stderr.split(after).nth(1).unwrap_or_else(|| panic!("no {after:?}: {}", ran.stderr));
            rest.chars().take_while(|char| char.is_ascii_alphanumeric() || *char == '-').collect::<String>()
        };
        let (id, code) = (word("request "), word("code "));
        scene.stage.run_as(54_499, &["approve", &id, &code]).exits(0);
    };
    let export = ["backup", "export", &file, "--slot", "ca"];
    approved(scene.stage.run(&export));
    // The approval is of this export, not of one that leaves a key behind.
    scene.stage.run(&["backup", "export", &file, "--slot", "ca", "--without", "ca/data"]).exits(2);
    assert_eq!(fs::read_dir(folder.path()).expect("it is there").count(), 0);
    scene.stage.run(&export).exits(0);
    let restore = ["backup", "restore", &file, "--slot", "ca"];
    approved(scene.stage.run(&restore));
    scene.order(&restore, &[Card("1"), Card("2")]).exits(0);
    let import = ["backup", "import", "ca", "--confirm", "import"];
    approved(scene.stage.run(&import));
    scene.stage.run(&import).exits(0);
}
