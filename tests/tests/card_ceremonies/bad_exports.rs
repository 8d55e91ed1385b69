//! Exports and restores that cannot go well: files that are none or of another appliance, cards that do not open
//! them, a disk and a token without room. Each ends by its name, and with everything as it was.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{MountFlags, mount};
use rustix::process::{Signal, kill_process};
use sha2::{Digest as _, Sha256};
use slotwarden::status_json::CeremonyView;
use slotwarden::transfer_dir::RESTORE;
use slotwarden_tests::build;
use slotwarden_tests::custodians::Act::{self, At, Card, Mistypes, Refused};
use slotwarden_tests::custodians::{Reader, Table};
use slotwarden_tests::exports::signed_by_somebody_else;
use slotwarden_tests::modules::Kind;
use slotwarden_tests::pcscd::Pcscd;
use slotwarden_tests::stage::{begin, run};

use crate::scene::{CODE, Scene, calls, counting};

/// What a memory file system gives at once.
const PAGE_BYTES: u64 = 4096;

fn table(pcscd: &Pcscd) -> Table {
    Table::new(vec![Box::new(pcscd.pad(0).clone()) as Box<dyn Reader>])
}

fn tool(scene: &Scene, arguments: &[&str]) -> String {
    let mut tool = scene.stage.bench.pkcs11_tool();
    run(tool.args(["--token-label", "ca", "--login", "--pin", CODE]).args(arguments)).exits(0).stdout
}

/// Labels and ids of everything in the token.
fn listed(scene: &Scene) -> Vec<String> {
    let listed = tool(scene, &["--list-objects"]);
    let mut lines: Vec<String> =
        listed.lines().filter(|line| line.contains("label:") || line.contains("ID:")).map(str::to_owned).collect();
    lines.sort();
    lines
}

fn make_keys(scene: &Scene) {
    for (label, id) in [("one", "11"), ("two", "12"), ("three", "13")] {
        tool(scene, &["--keygen", "--key-type", "AES:32", "--extractable", "--label", label, "--id", id]);
    }
}

fn destroy_keys(scene: &Scene) {
    for id in ["11", "12", "13"] {
        tool(scene, &["--delete-object", "--type", "secrkey", "--id", id]);
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("ASCII").to_owned()
}

/// Fills the file system that this file is on but for so many bytes.
fn fill(path: &Path, free_bytes: u64) {
    let mut file = fs::File::create(path).expect("there is room for a name");
    while file.write_all(&[0; PAGE_BYTES as usize]).is_ok() {}
    let length = file.metadata().expect("it is open").len();
    file.set_len(length - free_bytes).expect("it is shorter then");
}

#[test]
fn p19_for_what_is_refused_the_module_is_not_asked_anything() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
    let folder = folder.path();
    // Cards and an export of another appliance.
    let pcscd = Pcscd::start(&["Front"]);
    let there = table(&pcscd);
    let mut elsewhere = Scene::with(pcscd, there, |_| {});
    elsewhere.create(2, 2);
    make_keys(&elsewhere);
    let foreign_file = text(&folder.join("foreign.slwx"));
    elsewhere.stage.run(&["backup", "export", &foreign_file, "--slot", "ca"]).exits(0);
    let (foreign, foreign_pin) = (elsewhere.table.shared("1"), elsewhere.table.pin("1"));
    elsewhere.stage.stop();

    let here = table(&elsewhere.pcscd);
    let scene = Scene::before(counting(), elsewhere.pcscd, here, |_| {});
    for spare in ["spare 1", "spare 2"] {
        drop(scene.table.shared(spare));
    }
    scene.create(2, 2);
    scene.table.brings("foreign", foreign);
    scene.table.knows("foreign", &foreign_pin);
    make_keys(&scene);
    let file = text(&folder.join("keys.slwx"));
    scene.stage.run(&["backup", "export", &file, "--slot", "ca"]).exits(0);
    destroy_keys(&scene);
    let whole = fs::read(&file).expect("it was written");
    let restore = |file: &str| scene.stage.run(&["backup", "restore", file, "--slot", "ca"]);
    let before = (calls(&scene), listed(&scene));
    let untouched = |name: &str| {
        assert_eq!(calls(&scene), before.0, "{name}: no call of the module");
    };

    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x20;
    let mut spliced = whole.clone();
    let foreign_bytes = fs::read(&foreign_file).expect("it was written");
    spliced.truncate(whole.len() / 2);
    spliced.extend_from_slice(&foreign_bytes[foreign_bytes.len() / 2..]);
    for (name, bytes) in [
        ("empty", &[][..]),
        ("cut", &whole[..whole.len() / 3]),
        ("flipped", &flipped),
        ("spliced", &spliced),
        ("longer", &[&whole[..], &whole[..]].concat()),
    ] {
        let path = folder.join(name);
        fs::write(&path, bytes).expect("the folder is there");
        restore(&text(&path)).refused(1, 646);
        untouched(name);
    }
    let huge = folder.join("huge");
    fs::File::create(&huge).and_then(|file| file.set_len(10_000_000_000)).expect("a sparse file");
    restore(&text(&huge)).refused(1, 646);
    untouched("ten gigabytes of zeros");

    // Whole files, and cards that do not open them: the token's keys are tried when m cards agreed, not before.
    let cancel = |_: &CeremonyView| drop(scene.stage.run(&["ceremony", "cancel"]).exits(0));
    let order = ["backup", "restore", &file, "--slot", "ca"];
    scene.order(&order, &[Refused("foreign", 923), At("insert", &cancel)]).refused(1, 909);
    scene.order(&order, &[Card("1"), At("insert", &cancel)]).refused(1, 909);
    let order = ["backup", "restore", &foreign_file, "--slot", "ca"];
    scene.order(&order, &[Refused("1", 923), At("insert", &cancel)]).refused(1, 909);
    let makes = ["C_CreateObject", "C_UnwrapKey", "C_CopyObject", "C_GenerateKey", "C_GenerateKeyPair"];
    let made: Vec<String> = calls(&scene).split_off(before.0.len());
    assert!(!made.iter().any(|call| makes.contains(&call.as_str())), "{made:?}");
    assert_eq!(listed(&scene), before.1);

    // A name says nothing: under another one it is what it was.
    let renamed = text(&folder.join("holiday.jpg"));
    fs::rename(&file, &renamed).expect("the folder is there");
    scene.order(&["backup", "restore", &renamed, "--slot", "ca"], &[Card("2"), Card("1")]).exits(0);
    let import = ["backup", "import", "ca", "--confirm", "import"];
    scene.stage.run(&import).exits(0);
    assert!(tool(&scene, &["--list-objects"]).contains("three"));

    // Played once more it makes nothing.
    let there = listed(&scene);
    scene.order(&["backup", "restore", &renamed, "--slot", "ca"], &[Card("1"), Card("2")]).exits(0);
    scene.stage.run(&import).exits(0);
    assert_eq!(listed(&scene), there);
}

#[test]
fn p19_cards_tell_a_file_that_nobody_altered_from_one_that_was_signed_anew() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
    let folder = folder.path();
    let pcscd = Pcscd::start(&["Front"]);
    let people = table(&pcscd);
    let mut scene = Scene::before(counting(), pcscd, people, |_| {});
    scene.create(2, 3);
    make_keys(&scene);
    let file = text(&folder.join("keys.slwx"));
    scene.stage.run(&["backup", "export", &file, "--slot", "ca"]).exits(0);
    let told = scene.stage.run(&["verify", &file]).exits(0).stdout;
    assert!(told.contains("its MACs are not checked: give --with-cards"), "{told}");
    let whole = fs::read(&file).expect("it was written");
    let damaged = text(&folder.join("damaged.slwx"));
    fs::write(&damaged, &whole[..whole.len() - 1]).expect("the folder is there");
    let forged = text(&folder.join("forged.slwx"));
    fs::write(&forged, signed_by_somebody_else(&whole)).expect("the folder is there");
    let before = calls(&scene);

    // What is wrong without cards calls nobody to a pad.
    scene.stage.run(&["verify", &damaged, "--with-cards"]).refused(1, 646);
    scene.stage.run(&["verify", &file, "--with-cards", "--reader", "Back"]).refused(1, 906);
    // It is whole, and says that it is this key's; the cards know better.
    scene.stage.run(&["verify", &forged]).exits(0);
    let ran = scene.order(&["verify", &forged, "--with-cards"], &[Card("1"), Card("3")]).refused(1, 1010);
    assert!(!ran.stdout.contains("MACs are right"), "{}", ran.stdout);
    let ran = scene.order(&["verify", &file, "--with-cards"], &[Card("3"), Card("2")]).exits(0);
    assert!(ran.stdout.contains("its MACs are right"), "{}", ran.stdout);
    let json = ["verify", &file, "--with-cards", "--output", "json"];
    let told = scene.order(&json, &[Card("1"), Card("2")]).exits(0).json();
    let told = &told["export"];
    assert_eq!((&told["authentic"], &told["level"]), (&true.into(), &"cards".into()), "{told}");
    assert_eq!(calls(&scene), before, "no call of the module");
    // Nothing is prepared, and the file is not kept.
    let kept = scene.stage.state_dir().join("transfer").join(RESTORE);
    assert!(!kept.exists(), "{}", kept.display());
    scene.stage.run(&["backup", "import", "ca", "--confirm", "import"]).refused(1, 1002);
    let log = folder.join("log");
    scene.stage.run(&["audit", "export", &text(&log)]).exits(0);
    let log = fs::read_to_string(log).expect("it was written");
    let digest: String = Sha256::digest(&whole).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(log.matches(&format!("\"FileVerified\":\"{digest}\"")).count(), 2, "{log}");

    // Without a daemon this program has the cards read; nothing of it stays.
    scene.stage.stop();
    let alone = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
    let socket = || -> Option<PathBuf> {
        let made = fs::read_dir(alone.path()).ok()?.next()?.ok()?;
        Some(made.path().join("control.sock"))
    };
    let nothing_stays = || {
        let left = run(Command::new("find").arg(alone.path())).stdout;
        assert_eq!(left.lines().count(), 1, "{left}");
    };
    let here = |arguments: &[&str], acts: &[Act<'_>]| {
        let order = begin(scene.stage.command().args(arguments).env("TMPDIR", alone.path()));
        scene.table.follow_at(&socket, &scene.stage, order, acts)
    };
    here(&["verify", &file, "--with-cards", "--reader", "Back"], &[]).refused(1, 906);
    here(&["verify", &forged, "--with-cards"], &[Card("1"), Card("3")]).refused(1, 1010);
    nothing_stays();
    let ran = here(&["verify", &file, "--with-cards"], &[Card("3"), Mistypes("1")]).exits(0);
    assert!(ran.stdout.contains("its MACs are right"), "{}", ran.stdout);
    assert!(ran.stderr.contains("nothing of it is kept") && !ran.stderr.contains("transcript"), "{}", ran.stderr);
    nothing_stays();
    // Whoever interrupts it ends it, and finds nothing left either.
    let order = begin(scene.stage.command().args(["verify", &file, "--with-cards"]).env("TMPDIR", alone.path()));
    let process = order.process();
    let interrupts = |_: &CeremonyView| kill_process(process, Signal::INT).expect("it runs");
    let acts = [Card("1"), At("insert", &interrupts)];
    scene.table.follow_at(&socket, &scene.stage, order, &acts).exits(130);
    nothing_stays();

    // An auditor's own daemon knows neither the cluster nor the slots, and needs no HSM for it.
    let cards = ["1", "3"].map(|card| (card, scene.table.shared(card), scene.table.pin(card)));
    let there = table(&scene.pcscd);
    let desk = Scene::with(scene.pcscd, there, |_| {});
    for (card, shared, pin) in cards {
        desk.table.brings(card, shared);
        desk.table.knows(card, &pin);
    }
    let ran = desk.order(&["verify", &file, "--with-cards"], &[Card("3"), Card("1")]).exits(0);
    assert!(ran.stdout.contains("its MACs are right"), "{}", ran.stdout);
    desk.order(&["verify", &forged, "--with-cards"], &[Card("1"), Card("3")]).refused(1, 1010);
}

#[test]
fn p24_a_full_token_refuses_the_import_by_name_and_has_nothing_of_it() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
    let pcscd = Pcscd::start(&["Front"]);
    let people = table(&pcscd);
    let scene = Scene::before(counting(), pcscd, people, |_| {});
    scene.create(2, 2);
    make_keys(&scene);
    let file = text(&folder.path().join("keys.slwx"));
    scene.stage.run(&["backup", "export", &file, "--slot", "ca"]).exits(0);
    destroy_keys(&scene);
    let before = listed(&scene);
    let restore = ["backup", "restore", &file, "--slot", "ca"];
    let import = ["backup", "import", "ca", "--confirm", "import"];
    for room in [2, 0] {
        scene.order(&restore, &[Card("1"), Card("2")]).exits(0);
        scene.stage.bench.leave_room_for(room, "ca");
        scene.stage.run(&import).refused(1, 1030);
        scene.stage.wait("U is gone", |status| status.transfer.is_none());
        assert_eq!(listed(&scene), before, "room for {room}");
        scene.stage.bench.ask_no_more("full", "ca");
        // The application has its slot back.
        assert_eq!(scene.stage.slot_status("ca")["state"], "active");
        assert!(scene.stage.handed_over("ca-app").is_some());
    }
    scene.order(&restore, &[Card("2"), Card("1")]).exits(0);
    scene.stage.run(&import).exits(0);
    assert!(tool(&scene, &["--list-objects"]).contains("three"));
}

#[test]
fn p20_a_full_disk_refuses_the_export_by_name_and_the_next_one_is_made() {
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
    let pcscd = Pcscd::start(&["Front"]);
    let people = table(&pcscd);
    // A file system of its own for exports, as small as they come. This thread has its own mounts since pcscd began.
    let scene = Scene::on(Kind::SoftHsm, pcscd, people, |stage| {
        let dir = stage.state_dir().join("transfer");
        fs::create_dir_all(&dir).expect("the bench's own directory");
        mount("tmpfs", &dir, "tmpfs", MountFlags::NOSUID, Some(c"size=256k,mode=0700")).expect("we are root");
    });
    scene.create(2, 2);
    let mut custody = Command::new(env!("CARGO_BIN_EXE_custody"));
    custody.arg(scene.stage.bench.real_module()).args(["ca", CODE, "many", "100"]);
    build::run("softhsm2", custody.envs(scene.stage.bench.environment()));
    let dir = scene.stage.state_dir().join("transfer");
    let file = folder.path().join("keys.slwx");
    let name = text(&file);
    let export = ["backup", "export", &name, "--slot", "ca"];
    scene.stage.run(&export).exits(0);
    let last = fs::read(&file).expect("it was written");
    let pages = (last.len() as u64).div_ceil(PAGE_BYTES);
    fs::remove_file(&file).expect("it is ours");
    // No room at all, for the beginning and some keys, and for all of it but its last page.
    let ballast = dir.join("ballast");
    for free in [0, 3, pages - 1] {
        fill(&ballast, free * PAGE_BYTES);
        scene.stage.run(&export).refused(1, 1014);
        assert!(!file.exists(), "{free} of {pages} pages: complete or absent");
        scene.stage.wait("it is over", |status| status.transfer.is_none());
        assert!(!dir.join("export.part").exists(), "{free} of {pages} pages");
        assert!(fs::read(dir.join("last.slwx")).expect("it was made") == last, "{free} of {pages} pages");
        fs::remove_file(&ballast).expect("it is ours");
    }
    scene.stage.run(&export).exits(0);
    let shown = run(scene.stage.command().args(["verify", &name])).exits(0).stdout;
    assert_eq!(shown.matches("private EC").count(), 100, "{shown}");
}
