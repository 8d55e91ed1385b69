//! The life of a backup key: made, lost with its token and brought back, shared anew, replaced.

use std::cell::Cell;

use rustix::process::Signal;
use slotwarden::status_json::CeremonyView;
use slotwarden_tests::custodians::Act::{At, Card, In, Mistypes, Refused, Says};
use slotwarden_tests::modules::SO_PIN;

use crate::scene::{SLOTS, STRANGER, Scene, holders, person};

#[test]
fn a_set_is_made_shown_and_there_after_a_restart() {
    let mut scene = Scene::new(&["Left"]);
    assert!(scene.status()["backup"].is_null());
    assert_eq!(scene.derived_keys("ca"), []);
    let made = scene.create(2, 3);
    let transcript = scene.transcript(&made);
    println!("{transcript}");
    let status = scene.status();
    assert_eq!((&status["backup"]["m"], &status["backup"]["n"]), (&2.into(), &3.into()));
    assert_eq!((&status["backup"]["shares_in_use"], &status["backup"]["generation"]), (&3.into(), &1.into()));
    let key_id = scene.key_id();
    for slot in SLOTS {
        scene.has_keys_of(slot, &key_id);
        assert_eq!(scene.stage.slot_status(slot)["backup_key"], true);
    }
    for number in 1..=3 {
        let card = scene.listed(&number.to_string());
        assert_eq!((&card["holder"], &card["x"]), (&person(number).into(), &number.into()), "{card}");
        assert_eq!((&card["standing"], &card["lost"]), (&"in-force".into(), &false.into()), "{card}");
        assert!(card["pin_changed_s"].is_u64() && card["verified_s"].is_u64(), "{card}");
        // Who, which card and which share stand in one line of what is printed.
        let serial = scene.table.serial(&number.to_string()).to_ascii_lowercase();
        let written = transcript.lines().any(|line| {
            line.to_ascii_lowercase().contains(&serial)
                && line.contains(&person(number))
                && line.contains("written and read back")
        });
        assert!(written, "{number} is not in {transcript}");
    }
    assert!(transcript.contains("signature") && transcript.contains("good"), "{transcript}");
    assert_no_pin(&scene, &transcript);

    scene.stage.stop();
    scene.start();
    assert_eq!((scene.key_id(), scene.transcript(&made)), (key_id.clone(), transcript));
    for slot in SLOTS {
        scene.has_keys_of(slot, &key_id);
    }
    // Nobody makes a second one beside it.
    let (again, three) = (["backup", "create-set", "-m", "2", "-n", "3", "--holders"], holders(3));
    scene.order(&[&again[..], &[&three]].concat(), &[]).refused(1, 961);
}

#[track_caller]
fn assert_no_pin(scene: &Scene, text: &str) {
    let chosen = scene.table.chosen();
    assert!(!chosen.is_empty());
    assert!(chosen.iter().all(|pin| !text.contains(pin.as_str())), "a PIN is in {text}");
}

/// Killed at the second card: the old state rules, the set is void, and its card is written over
/// without a question.
#[test]
fn p13_a_daemon_killed_while_cards_are_written_leaves_no_key_and_a_void_set() {
    let mut scene = Scene::new(&["Left"]);
    let three = holders(3);
    let create = ["backup", "create-set", "-m", "2", "-n", "3", "--holders", three.as_str()];
    let id = Cell::new(String::new());
    let kill = |view: &CeremonyView| {
        id.set(view.id.clone());
        scene.stage.signal(Signal::KILL);
    };
    let ran = scene.order(&create, &[Card("1"), In("2"), At("new-pin", &kill)]);
    assert_ne!(ran.exit, 0);
    let id = id.take();
    scene.stage.wait_end();
    scene.start();
    assert!(scene.status()["backup"].is_null());
    assert_eq!(scene.derived_keys("ca"), []);
    assert_eq!(scene.listed("1")["standing"], "void");
    assert!(scene.stage.run(&["ceremony", "show", &id]).exits(0).stdout.contains("power cut"));
    // What is void opens nothing, by that name; and is no obstacle.
    scene.order(&["backup", "verify-set"], &[]).refused(1, 960);
    let made = scene.create(2, 3);
    assert!(!made.stderr.contains("overwritten"), "{}", made.stderr);
    assert_eq!(scene.listed("1")["standing"], "in-force");
    scene.has_keys_of("ca", &scene.key_id());
}

#[test]
fn a_lost_card_is_warned_of_and_never_taken_again() {
    let scene = Scene::new(&["Left"]);
    scene.create(2, 3);
    scene.stage.run(&["card", "lost", "0011223344"]).refused(1, 967);
    let lost = scene.stage.run(&["card", "lost", &scene.table.serial("2")]).exits(0);
    assert!(lost.stderr.contains("one more lost card ends recovery"), "{}", lost.stderr);
    assert_eq!(scene.status()["backup"]["shares_in_use"], 2);
    assert_eq!(scene.listed("2")["lost"], true);
    let verify = ["backup", "verify-set"];
    scene.order(&verify, &[Refused("2", 933), Card("1"), Says("yes"), Card("3"), Says("no")]).exits(0);
    let lost = scene.stage.run(&["card", "lost", &scene.table.serial("1")]).exits(0);
    assert!(lost.stderr.contains("only 1 of the 2 shares"), "{}", lost.stderr);
}

#[test]
fn a_key_is_brought_back_to_a_fresh_token_with_two_of_three_cards() {
    let scene = Scene::new(&["Left"]);
    scene.create(2, 3);
    let key_id = scene.key_id();
    let stage = &scene.stage;
    stage.run(&["slot", "deactivate", "ca"]).exits(0);
    stage.run_with(&["slot", "decommission", "ca", "--confirm", "decommission ca"], "--so-pin-file", SO_PIN).exits(0);
    stage.run_with(&["slot", "init", "ca"], "--so-pin-file", SO_PIN).exits(0);
    assert_eq!((scene.derived_keys("ca"), &stage.slot_status("ca")["backup_key"]), (vec![], &false.into()));
    let restore = ["backup", "restore-key", "--slot", "ca"];
    let other = format!("{:0>32}", 1);
    scene.order(&[&restore[..], &["--key-id", &other]].concat(), &[]).refused(1, 962);
    let acts = [Card("3"), Refused("3", 920), Refused("blank", 928), Card("1")];
    let restored = scene.order(&restore, &acts).exits(0);
    scene.has_keys_of("ca", &key_id);
    assert_eq!((scene.key_id(), &stage.slot_status("ca")["backup_key"]), (key_id, &true.into()));
    assert!(scene.transcript(&restored).contains("human steps"));
}

#[test]
fn a_set_of_three_becomes_one_of_five_of_the_same_key_and_then_another_key() {
    let scene = Scene::new(&["Left"]);
    scene.create(2, 3);
    let key_id = scene.key_id();
    let five = holders(5);
    let replace = ["backup", "replace-set", "-m", "3", "-n", "5", "--holders", five.as_str()];
    let new = ["a", "b", "c", "d", "e"].map(Card);
    let acts = [&[Card("1"), Card("3"), Refused("2", 922)], &new[..]].concat();
    let replaced = scene.order(&replace, &acts).exits(0);
    assert!(replaced.stderr.contains("until you rotate"), "{}", replaced.stderr);
    let backup = scene.status()["backup"].clone();
    assert_eq!((&backup["m"], &backup["n"], &backup["generation"]), (&3.into(), &5.into(), &2.into()), "{backup}");
    assert_eq!(scene.key_id(), key_id, "the same key");
    scene.has_keys_of("tsa", &key_id);
    assert_eq!(scene.listed("1")["standing"], "superseded");
    // The old cards are refused by that name, but for bringing the same key back.
    let cancel = |_: &CeremonyView| drop(scene.stage.run(&["ceremony", "cancel"]).exits(0));
    scene.order(&["backup", "verify-set"], &[Refused("1", 924), At("insert", &cancel)]).refused(1, 909);
    scene.order(&["backup", "restore-key", "--slot", "ca"], &[Card("1"), Card("2")]).exits(0);

    let two = holders(2);
    let rotate = ["backup", "rotate", "-m", "2", "-n", "2", "--holders", two.as_str()];
    scene.order(&rotate, &[Card("f"), Refused("a", 922), Card("g")]).exits(0);
    let rotated = scene.key_id();
    assert_ne!(rotated, key_id);
    for slot in SLOTS {
        scene.has_keys_of(slot, &rotated);
    }
    assert_eq!(
        (&scene.listed("a")["standing"], &scene.listed("f")["standing"]),
        (&"rotated".into(), &"in-force".into())
    );
}

#[test]
fn a_set_is_verified_card_by_card_and_an_erased_card_is_blank() {
    let scene = Scene::new(&["Left"]);
    scene.create(2, 3);
    let verify = ["backup", "verify-set"];
    scene.order(&verify, &[Card("2"), Says("no")]).exits(0);
    scene.order(&verify, &[Card("3"), Says("yes"), Mistypes("1"), Says("yes"), Card("2")]).exits(0);
    // One card can be spared of three, not two.
    let erase = ["card", "erase", "--confirm", "erase"];
    scene.stage.run(&["card", "erase", "--confirm", "yes"]).refused(1, 613);
    scene.order(&erase, &[Card("1")]).exits(0);
    assert_eq!(scene.status()["backup"]["shares_in_use"], 2);
    let cancel = |_: &CeremonyView| drop(scene.stage.run(&["ceremony", "cancel"]).exits(0));
    scene.order(&erase, &[Refused("2", 964), At("insert", &cancel)]).refused(1, 909);
    scene.order(&verify, &[Refused("1", 928), Card("2"), Says("yes"), Card("3"), Says("no")]).exits(0);
    // A stranger ends nothing and begins nothing.
    assert_eq!(scene.stage.run_as(STRANGER, &verify).exit, 77);
}
