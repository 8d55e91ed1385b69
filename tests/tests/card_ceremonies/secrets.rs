//! P3 over a whole run with cards: every PIN that anybody typed, y of every record that was ever on
//! a card, the backup keys that the records give and the keys derived from them are looked for in
//! everything that the program shows, logs or keeps.

use std::fs;
use std::path::{Path, PathBuf};

use slotwarden::audit::unhex;
use slotwarden_core::backup;
use slotwarden_core::share::card_set::combine;
use slotwarden_tests::custodians::Act::{Card, Mistypes, Refused, Says};
use slotwarden_tests::custodians::{Reader, Table};
use slotwarden_tests::pcscd::Pcscd;
use slotwarden_tests::stage::{Ran, proc_file};

use crate::scene::{SLOTS, Scene, holders, transcript_of};

/// Offset and length of y, and of x, in a record (core/src/share/record.rs has the table).
const Y: std::ops::Range<usize> = 72..104;
const X: usize = 42;

/// A secret and what it is; never printed.
struct Hidden {
    what: String,
    bytes: Vec<u8>,
}

/// The shapes in which bytes could lie around: plain, hexadecimal of both cases, as Debug and as
/// JSON write numbers; and halves of long ones, for a page border in the store.
fn shapes(secret: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let numbers: Vec<String> = secret.iter().map(u8::to_string).collect();
    let mut shapes = vec![secret.to_vec(), hex.to_uppercase().into(), hex.into()];
    shapes.extend([numbers.join(", ").into(), numbers.join(",").into()]);
    if secret.len() >= 32 {
        shapes.extend(secret.chunks(16).map(<[u8]>::to_vec));
    }
    shapes
}

fn found<'h>(place: &[u8], hidden: &'h [Hidden]) -> Vec<&'h str> {
    let holds = |shape: &Vec<u8>| memchr::memmem::find(place, shape).is_some();
    hidden.iter().filter(|secret| shapes(&secret.bytes).iter().any(holds)).map(|secret| &secret.what[..]).collect()
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the daemon made it").map(|entry| entry.expect("readable").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// y of every card's record, the key that m of them give, and what is derived from it.
fn of_set(scene: &Scene, what: &str, m: u8, cards: &[&str]) -> Vec<Hidden> {
    let records: Vec<Vec<u8>> = cards.iter().map(|card| scene.record(card)).collect();
    let shares: Vec<(u8, [u8; 32])> =
        records.iter().map(|record| (record[X], record[Y].try_into().expect("32 bytes"))).collect();
    let quorum: Vec<(u8, &[u8; 32])> = shares.iter().take(m.into()).map(|(x, y)| (*x, y)).collect();
    let mut key = [0; 32];
    assert!(combine(m, &quorum, &mut key), "{m} cards give a key");
    let mut hidden: Vec<Hidden> =
        shares.iter().map(|(x, y)| Hidden { what: format!("{what}: y of share {x}"), bytes: y.to_vec() }).collect();
    hidden.push(Hidden { what: format!("{what}: the backup key"), bytes: key.to_vec() });
    for slot in SLOTS {
        let (_, id) = scene.derived_keys(slot).pop().expect("it has keys");
        let uid = unhex::<16>(&id[32..]).expect("key id and slot uid");
        let (mut kek, mut mak) = ([0; 32], [0; 32]);
        backup::kek(&key, &uid, &mut kek);
        backup::mak(&key, &uid, &mut mak);
        hidden.push(Hidden { what: format!("{what}: KEK of {slot}"), bytes: kek.to_vec() });
        hidden.push(Hidden { what: format!("{what}: MAK of {slot}"), bytes: mak.to_vec() });
    }
    hidden
}

#[track_caller]
fn search(scene: &Scene, when: &str, hidden: &[Hidden], ran: &[Ran]) {
    let stage = &scene.stage;
    let mut places: Vec<(String, Vec<u8>)> = Vec::new();
    for path in files(&stage.state_dir()).into_iter().chain([stage.path("daemon.log"), stage.path("slotwarden.toml")]) {
        places.push((path.display().to_string(), fs::read(&path).expect("readable")));
    }
    assert!(places.iter().any(|(name, bytes)| name.ends_with("store.redb") && bytes.len() > 1000));
    for (what, process) in [("daemon", stage.daemon_process()), ("worker", stage.worker_process())] {
        for file in ["environ", "cmdline", "status"] {
            places.push((format!("{file} of the {what}"), proc_file(process, file)));
        }
    }
    let export = stage.path(&format!("export of {when}"));
    let mut shown = vec![stage.run(&["audit", "export", export.to_str().expect("ASCII")]).exits(0)];
    places.push(("audit export".into(), fs::read(&export).expect("it was just written")));
    for arguments in [
        &["status"][..],
        &["status", "--output", "json"],
        &["card", "list"],
        &["card", "list", "--output", "json"],
        &["slot", "show", "ca", "--output", "json"],
        &["audit", "show", "--last", "100000"],
        &["audit", "show", "--last", "100000", "--output", "json"],
    ] {
        shown.push(stage.run(arguments));
    }
    for ran in ran {
        let id = transcript_of(ran);
        shown.push(stage.run(&["ceremony", "show", &id]).exits(0));
        shown.push(stage.run(&["ceremony", "show", &id, "--output", "json"]).exits(0));
    }
    for ran in shown {
        assert!(!ran.stdout.is_empty() || ran.exit == 0, "{}", ran.stderr);
        places.push((
            format!("an answer that begins {:.40?}", ran.stdout),
            format!("{}\n{}", ran.stdout, ran.stderr).into(),
        ));
    }
    places.push(("what orders were answered".into(), scene.table.heard().into()));
    for (place, bytes) in &places {
        assert_eq!(found(bytes, hidden), [""; 0], "{when}: in {place}");
    }
    println!("{when}: {} secrets are in none of {} places", hidden.len(), places.len());
}

#[test]
fn p03_no_card_pin_share_or_backup_key_is_shown_logged_or_kept() {
    let pcscd = Pcscd::start(&["Left"]);
    let pads: Vec<Box<dyn Reader>> = vec![Box::new(pcscd.pad(0).clone())];
    let mut scene = Scene::with(pcscd, Table::new(pads), |stage| stage.talkative = true);
    let mut ran = vec![scene.create(2, 3)];
    let mut hidden = of_set(&scene, "the first key", 2, &["1", "2", "3"]);
    // The key that any two of the cards give is one; and the search finds what it looks for.
    let again = of_set(&scene, "again", 2, &["3", "2"]);
    assert!(again[2].bytes == hidden[3].bytes, "another pair gives another key");
    for secret in &hidden {
        for shape in shapes(&secret.bytes) {
            assert!(found(&[b"before ", &shape[..], b" after"].concat(), &hidden).contains(&&secret.what[..]));
        }
    }
    ran.push(scene.order(&["card", "change-pin"], &[Mistypes("1")]).exits(0));
    ran.push(scene.order(&["backup", "restore-key"], &[Card("1"), Mistypes("3")]).exits(0));
    ran.push(scene.order(&["card", "copy"], &[Card("2"), Refused("1", 922), Card("copy"), Says("no")]).exits(0));
    let three = holders(3);
    let replace = ["backup", "replace-set", "-m", "2", "-n", "3", "--holders", three.as_str()];
    ran.push(scene.order(&replace, &[Card("1"), Card("2"), Card("a"), Card("b"), Card("c")]).exits(0));
    hidden.extend(of_set(&scene, "the same key's second set", 2, &["a", "b", "c"]));
    let rotate = ["backup", "rotate", "-m", "2", "-n", "3", "--holders", three.as_str()];
    ran.push(scene.order(&rotate, &[Card("d"), Card("e"), Card("f")]).exits(0));
    hidden.extend(of_set(&scene, "the second key", 2, &["d", "e", "f"]));
    let pins = scene.table.chosen();
    assert_eq!(pins.len(), 3 + 1 + 1 + 1 + 3 + 3, "and one that was typed in vain");
    for pin in pins {
        hidden.push(Hidden { what: "a PIN".into(), bytes: pin.into_bytes() });
    }
    search(&scene, "after six ceremonies", &hidden, &ran);
    scene.stage.kill();
    scene.start();
    search(&scene, "after a kill", &hidden, &ran);
}
