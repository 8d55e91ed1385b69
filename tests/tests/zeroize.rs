//! Zeroize with the real program on real tokens (P41): who may, how long it takes with healthy tokens and
//! with hanging ones, that nothing opens a sealed code any more, that every key stays, and that `kill -9`
//! at any moment of it leaves a daemon that finishes it. Some commands run as other users, so the tests
//! run as root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::test_kill_process;
use serde_json::Value;
use slotwarden::seal::{self, SealPlaces};
use slotwarden::store::directory::Directory;
use slotwarden::store::{StoreSettings, inspect};
use slotwarden_core::fault::Refusal;
use slotwarden_core::record::SecretKind;
use slotwarden_tests::build;
use slotwarden_tests::modules::{Bench, Kind, SO_PIN};
use slotwarden_tests::stage::{PATIENCE, Stage, begin, run};

slotwarden_tests::on_both_modules! {
    p41_without_its_text_or_a_second_person_nothing_is_destroyed
    p41_zeroize_takes_less_than_a_second_and_the_so_pin_brings_the_slot_back_with_its_keys
    p41_a_token_that_hangs_does_not_hold_a_zeroize_up
    p41_a_hanging_change_of_a_pin_is_not_killed_and_its_token_survives
    p41_after_each_of_24_kills_amid_a_zeroize_the_next_start_finishes_it
}

const CODE: &str = "manual code one";
const ALICE: u32 = 54_331;
const BOB: u32 = 54_333;
const OTTO: u32 = 54_334;

const PERSONS: &str = "\
[[person]]\nname = \"alice\"\nuids = [54331]\nroles = [\"administrator\"]\n\
[[person]]\nname = \"bob\"\nuids = [54333]\nroles = [\"administrator\"]\n\
[[person]]\nname = \"otto\"\nuids = [54334]\nroles = [\"operator\", \"auditor\"]\n";

/// What the product promises whoever orders it.
const PROMISED: Duration = Duration::from_secs(1);

/// A slot `ca` with a generated code and the key `01`, and a slot `manual`.
fn two_slots(bench: Bench) -> Stage {
    let mut stage = Stage::on(bench);
    for label in ["ca", "manual"] {
        stage.bench.make_token_with(label, SO_PIN, CODE);
        stage.slot(label, label, label);
    }
    let mut tool = stage.bench.pkcs11_tool();
    tool.args(["--token-label", "ca", "--login", "--pin", CODE, "--keypairgen"]);
    build::run("opensc", tool.args(["--key-type", "EC:prime256v1", "--label", "signing", "--id", "01"]));
    let mut tool = stage.bench.pkcs11_tool();
    tool.args(["--token-label", "ca", "--read-object", "--type", "pubkey", "--id", "01"]);
    build::run("opensc", tool.arg("--output-file").arg(stage.path("key.der")));
    stage
}

fn both_open(stage: &mut Stage) {
    stage.start();
    stage.run_with(&["slot", "mode", "ca", "generated"], "--code-file", CODE).exits(0);
    stage.activate("manual", CODE).exits(0);
    assert!(stage.handed_over("ca").is_some() && stage.handed_over("manual").is_some());
}

/// Whether the token signs with the PIN that was handed over, so that the first public key verifies it.
fn signs_with_the_old_key(stage: &Stage) -> bool {
    let (message, signature) = (stage.path("message"), stage.path("signature"));
    fs::write(&message, [7; 32]).expect("the stage's own");
    let _ = fs::remove_file(&signature);
    let mut tool = stage.bench.pkcs11_tool();
    tool.args(["--token-label", "ca", "--login", "--sign", "--mechanism", "ECDSA", "--id", "01"]);
    tool.args(["--signature-format", "openssl", "--pin", &stage.handed_over("ca").unwrap_or_default()]);
    let signed = run(tool.arg("--input-file").arg(&message).arg("--output-file").arg(&signature));
    let mut tool = Command::new("openssl");
    tool.args(["pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey"]).arg(stage.path("key.der"));
    signed.exit == 0 && run(tool.arg("-in").arg(&message).arg("-sigfile").arg(&signature)).exit == 0
}

/// The daemon became another one, and finished what the first began.
fn wait_anew(stage: &Stage) {
    let until = Instant::now() + 2 * PATIENCE;
    while stage.state_dir().join("zeroize").exists() || stage.state_dir().join("seal.next").exists() {
        assert!(Instant::now() < until, "it is not finished: {}", stage.log());
        thread::sleep(Duration::from_millis(5));
    }
    stage.wait("the daemon is up again", |status| status.boot_done && status.hsm.worker);
}

fn unblock(stage: &Stage) {
    stage.run_with(&["slot", "unblock", "ca"], "--so-pin-file", SO_PIN).exits(0);
    assert!(signs_with_the_old_key(stage), "every key is kept");
}

fn verified(stage: &Stage, more: &[&str]) -> Value {
    stage.run(&[&["audit", "verify", "--output", "json"], more].concat()).exits(0).json()
}

/// The log in a file of its own, for whoever has no daemon.
fn exported(stage: &Stage, name: &str) -> String {
    let file = stage.path(name);
    let text = file.to_str().expect("a path of ours is text").to_owned();
    stage.run(&["audit", "export", &text]).exits(0);
    text
}

fn all_bytes(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(dir).expect("it was in use").flatten().map(|entry| entry.path());
    entries.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(&path).unwrap_or_default())).collect()
}

fn p41_without_its_text_or_a_second_person_nothing_is_destroyed(kind: Kind) {
    let mut stage = two_slots(Bench::new(kind, 2));
    stage.more = PERSONS.to_owned();
    stage.open_to_all();
    stage.start();
    let code = stage.secret_file(CODE);
    let code = code.to_str().expect("a path of ours is text");
    stage.run_as(ALICE, &["slot", "mode", "ca", "generated", "--code-file", code]).exits(0);
    let before = all_bytes(&stage.state_dir().join("."));
    let blob = |files: &[(PathBuf, Vec<u8>)]| {
        files.iter().find(|(path, _)| path.ends_with("seal.blob")).map(|(_, bytes)| bytes.clone())
    };
    stage.run_as(ALICE, &["zeroize"]).refused(2, 115);
    stage.run_as(ALICE, &["zeroize", "--confirm", "yes"]).refused(1, 613);
    stage.run_as(OTTO, &["zeroize", "--confirm", "zeroize"]).refused(77, 101);
    stage.run_as(ALICE, &["dual-control", "on"]).exits(0);
    let asked = stage.run_as(ALICE, &["zeroize", "--confirm", "zeroize", "--output", "json"]).exits(2).json();
    let (id, code) = (asked["approval"]["id"].to_string(), asked["approval"]["code"].as_str().expect("a code"));
    stage.run_as(ALICE, &["approve", &id, code]).refused(77, 702);
    stage.run_as(OTTO, &["approve", &id, code]).refused(77, 101);
    let listed = stage.run_as(BOB, &["approve"]).exits(0).stdout;
    assert!(listed.contains("alice wants to zeroize"), "{listed}");
    assert!(stage.handed_over("ca").is_some(), "one person alone changes nothing");
    assert_eq!(blob(&all_bytes(&stage.state_dir())), blob(&before));

    stage.run_as(BOB, &["approve", &id, code]).exits(0);
    assert!(stage.handed_over("ca").is_some(), "an approval alone changes nothing");
    stage.run_as(ALICE, &["zeroize", "--confirm", "zeroize"]).exits(0);
    assert_eq!(stage.handed_over("ca"), None);
    wait_anew(&stage);
    assert_eq!(stage.slot_status("ca")["attention"], "code-gone");
    assert!(stage.run_as(ALICE, &["status"]).stdout.contains("dual control"), "two persons go on deciding");
    let log = stage.run_as(OTTO, &["audit", "show", "--last", "100"]).exits(0).stdout;
    let order = log.lines().find(|line| line.contains("ordered: zeroize")).unwrap_or_default();
    assert!(order.contains("alice"), "{log}");
}

fn p41_zeroize_takes_less_than_a_second_and_the_so_pin_brings_the_slot_back_with_its_keys(kind: Kind) {
    let mut stage = two_slots(Bench::new(kind, 2));
    both_open(&mut stage);
    let aside = stage.path("aside");
    fs::create_dir(&aside).expect("the stage's own");
    for (path, bytes) in all_bytes(&stage.state_dir()) {
        fs::write(aside.join(path.file_name().expect("a file has a name")), bytes).expect("the stage's own");
    }
    let old_key = verified(&stage, &[])["node_key"].as_str().expect("a key").to_owned();
    let earlier = exported(&stage, "earlier.jsonl");

    let began = Instant::now();
    stage.run(&["zeroize", "--confirm", "zeroize"]).exits(0);
    let took = began.elapsed();
    println!("{kind:?}: zeroize took {took:?} from the command line and back");
    assert!(took < PROMISED, "{took:?}");
    assert_eq!((stage.handed_over("ca"), stage.handed_over("manual")), (None, None));
    wait_anew(&stage);

    // Old key file and old blob lie nowhere any more, and the old key opens nothing that was left.
    let (key_file, blob) = (fs::read(aside.join("seal.key")), fs::read(aside.join("seal.blob")));
    let (key_file, blob) = (key_file.expect("it was there"), blob.expect("it was there"));
    for (path, bytes) in all_bytes(&stage.state_dir()) {
        let holds = |wanted: &[u8]| bytes.windows(wanted.len()).any(|window| window == wanted);
        assert!(!holds(&key_file) && !holds(&blob[36..68]), "{} holds the old key", path.display());
    }
    let old = SealPlaces { credential: None, key_file: aside.join("seal.key") };
    let left = fs::read(stage.state_dir().join("seal.blob")).expect("a new one was made");
    let refused = seal::open(&left, &old).err().map(|refused| refused.refusal);
    assert_eq!(refused, Some(Refusal::SealWrong));
    // And the new key opens nothing of what was sealed before, in whatever copy of the store.
    let new = SealPlaces { credential: None, key_file: stage.state_dir().join("seal.key") };
    let (key, _) = seal::open(&left, &new).expect("the daemon opened it");
    let copy = inspect(&Directory { path: aside.clone() }).expect("a copy of a store");
    let sealed: Vec<_> = copy.secrets.iter().filter(|(key, _)| key.kind == SecretKind::GeneratedCode).collect();
    assert!(!sealed.is_empty(), "there was a sealed code");
    for (secret, bytes) in sealed {
        assert!(key.unseal(&copy.cluster, *secret, bytes, &mut [0; 128]).is_err());
    }
    let with_old_key = StoreSettings { state_dir: stage.state_dir(), seal: old };
    let now = inspect(&Directory { path: with_old_key.state_dir.clone() }).expect("it is a store");
    assert!(now.secrets.iter().all(|(key, _)| key.kind == SecretKind::NodeKey), "{:?}", now.secrets.len());

    let slot = stage.slot_status("ca");
    assert_eq!((&slot["state"], &slot["attention"]), (&"locked".into(), &"code-gone".into()), "{slot}");
    assert!(stage.run(&["slot", "show", "ca"]).exits(0).stdout.contains("slotwarden slot unblock"));
    unblock(&stage);
    let slot = stage.slot_status("ca");
    assert_eq!((&slot["state"], &slot["attention"]), (&"active".into(), &Value::Null), "{slot}");
    stage.activate("manual", CODE).exits(0);

    // One log, two keys, and both say what they signed.
    let found = verified(&stage, &[]);
    assert_ne!(found["node_key"], old_key.as_str());
    let former = &found["former_node_keys"][0];
    assert_eq!(former["node_key"], old_key.as_str());
    let (until, signed) = (former["replaced_by_record"].as_u64(), former["signed"].as_u64());
    assert!(signed > Some(0) && signed < until && found["signed"].as_u64() >= until, "{found}");
    let file = exported(&stage, "later.jsonl");
    let found = verified(&stage, &[&file, "--node-key", &old_key, "--checkpoint", &earlier]);
    assert_eq!((&found["trusted"], found["trusted_to"].as_u64()), (&false.into(), signed), "{found}");
    let new_key = found["node_key"].as_str().expect("a key").to_owned();
    assert_eq!(verified(&stage, &[&file, "--node-key", &new_key])["trusted"], true);
    let text = stage.run(&["audit", "verify", &file]).exits(0).stdout;
    assert!(text.contains(&format!("{old_key} signed up to record")), "{text}");
    stage.run(&["audit", "verify", &file, "--node-key", &"7".repeat(64)]).refused(1, 618);

    // A second one, and a start after it: what was made since is gone as well.
    stage.run(&["zeroize", "--confirm", "zeroize"]).exits(0);
    wait_anew(&stage);
    stage.stop();
    stage.start();
    let found = verified(&stage, &[]);
    assert_eq!(found["former_node_keys"].as_array().map(Vec::len), Some(2), "{found}");
    assert_eq!(stage.slot_status("ca")["attention"], "code-gone");
    unblock(&stage);
}

fn p41_a_token_that_hangs_does_not_hold_a_zeroize_up(kind: Kind) {
    let mut stage = two_slots(Bench::forwarded(kind, 2));
    both_open(&mut stage);
    stage.bench.ask_to("stuck", "ca");
    let worker = stage.worker_process();
    let began = Instant::now();
    stage.run(&["zeroize", "--confirm", "zeroize"]).exits(0);
    let took = began.elapsed();
    println!("{kind:?}: with a token that does not log out {took:?}");
    assert!(took < PROMISED, "{took:?}");
    assert!(took > Duration::from_millis(450), "the token hung: {took:?}");
    assert!(test_kill_process(worker).is_err(), "the worker, and every login in it, is gone");
    assert_eq!((stage.handed_over("ca"), stage.handed_over("manual")), (None, None));
    stage.bench.ask_no_more("stuck", "ca");
    wait_anew(&stage);
    unblock(&stage);
}

fn p41_a_hanging_change_of_a_pin_is_not_killed_and_its_token_survives(kind: Kind) {
    let mut stage = two_slots(Bench::forwarded(kind, 2));
    both_open(&mut stage);
    let (worker, before) = (stage.worker_process(), stage.bench.calls("C_SetPIN", "ca"));
    stage.bench.ask_to("hang", "ca");
    let change = begin(stage.command().args(["slot", "change-code", "ca"]));
    let until = Instant::now() + PATIENCE;
    while stage.bench.calls("C_SetPIN", "ca") == before {
        assert!(Instant::now() < until, "no PIN is being set");
        thread::sleep(Duration::from_millis(2));
    }
    let began = Instant::now();
    let ran = stage.run(&["zeroize", "--confirm", "zeroize"]);
    let took = began.elapsed();
    println!("{kind:?}: with a token that hangs in C_SetPIN {took:?}");
    ran.refused(1, 502);
    assert!(took < PROMISED, "{took:?}");
    change.end().refused(75, 114);
    assert_eq!((stage.handed_over("ca"), stage.handed_over("manual")), (None, None));
    assert!(test_kill_process(worker).is_ok(), "a kill inside C_SetPIN can destroy a token");
    stage.bench.ask_no_more("hang", "ca");
    wait_anew(&stage);
    unblock(&stage);
}

fn p41_after_each_of_24_kills_amid_a_zeroize_the_next_start_finishes_it(kind: Kind) {
    let mut stage = two_slots(Bench::new(kind, 2));
    both_open(&mut stage);
    let (mut before, mut amid, mut after) = (0, 0, 0);
    for kill in 0..24_u64 {
        let zeroizes = verified(&stage, &[])["former_node_keys"].as_array().map_or(0, Vec::len);
        let order = begin(stage.command().args(["zeroize", "--confirm", "zeroize"]));
        // The first ones before the intent, the last ones into the start that finishes it.
        let wait = Duration::from_millis(1 + kill * 2);
        let until = Instant::now() + wait;
        while Instant::now() < until {
            thread::sleep(Duration::from_micros(200));
        }
        stage.kill();
        let _ = order.end();
        let names = ["zeroize", "seal.next"].map(|name| stage.state_dir().join(name).exists());
        let is_amid = names != [false, false];
        stage.start();
        assert!(!stage.state_dir().join("zeroize").exists() && !stage.state_dir().join("seal.next").exists());
        let found = verified(&stage, &[]);
        let zeroized = found["former_node_keys"].as_array().map_or(0, Vec::len) - zeroizes;
        match (is_amid, zeroized) {
            (false, 0) => before += 1,
            (true, 1) => amid += 1,
            (false, 1) => after += 1,
            other => panic!("kill {kill} after {wait:?}: {other:?}"),
        }
        let slot = stage.slot_status("ca");
        if zeroized == 0 {
            assert_eq!(slot["state"], "active", "as if nobody had ordered it: {slot}");
        } else {
            assert_eq!((&slot["state"], &slot["attention"]), (&"locked".into(), &"code-gone".into()), "{slot}");
            assert_eq!(stage.handed_over("ca"), None);
            unblock(&stage);
        }
    }
    println!("{kind:?}: {before} kills before the intent, {amid} amid, {after} after the end");
    assert!(amid >= 3, "the kills came too early or too late: {before}, {amid}, {after}");
}
