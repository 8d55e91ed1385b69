//! The smallest and the largest quorum.

use std::time::Instant;

use slotwarden_tests::custodians::Act::{self, Card, Refused};

use crate::scene::{Scene, holders};

#[test]
fn two_of_two_is_warned_of_and_both_cards_are_needed() {
    let scene = Scene::new(&["Left"]);
    for (m, n) in [("1", "2"), ("3", "2"), ("2", "17"), ("0", "0")] {
        let ran = scene.stage.run(&["backup", "create-set", "-m", m, "-n", n, "--holders", &holders(2)]);
        assert_ne!(ran.exit, 0, "{m} of {n}");
    }
    assert!(scene.status()["ceremony"].is_null());
    let made = scene.create(2, 2);
    assert!(made.stderr.contains("WARNING: as many cards are needed as there are"), "{}", made.stderr);
    let warnings = scene.status()["backup"]["warnings"].to_string();
    assert!(warnings.contains("one lost card ends recovery"), "{warnings}");
    let acts = [Card("1"), Refused("1", 920), Card("2")];
    scene.order(&["backup", "restore-key", "--slot", "tsa"], &acts).exits(0);
    let erase = ["card", "erase", "--confirm", "erase"];
    let cancel = |_: &slotwarden::status_json::CeremonyView| drop(scene.stage.run(&["ceremony", "cancel"]).exits(0));
    scene.order(&erase, &[Refused("1", 964), Act::At("insert", &cancel)]).refused(1, 909);
}

#[test]
fn sixteen_of_sixteen_are_made_and_bring_the_key_back() {
    let scene = Scene::new(&["Left"]);
    let began = Instant::now();
    let made = scene.create(16, 16);
    println!("16 of 16 made in {:?}", began.elapsed());
    let key_id = scene.key_id();
    let transcript = scene.transcript_json(&made);
    // A card in, a new PIN, the PIN, a card out: nothing else is asked of anybody.
    assert_eq!(transcript["ended"]["human_steps"], 16 * 4, "{transcript}");
    assert_eq!(scene.cards()["cards"].as_array().map(Vec::len), Some(16));
    let names: Vec<String> = (1..=16).rev().map(|number: u32| number.to_string()).collect();
    let acts: Vec<Act<'_>> = names.iter().map(|name| Card(name)).collect();
    let restored = scene.order(&["backup", "restore-key"], &acts).exits(0);
    assert_eq!(scene.transcript_json(&restored)["ended"]["human_steps"], 16 * 3);
    scene.has_keys_of("ca", &key_id);
    scene.has_keys_of("tsa", &key_id);
}
