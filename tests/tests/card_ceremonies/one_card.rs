//! What is done with one card: its PIN, its holder, its copies; and exactly which commands it gets.

use std::thread;
use std::time::Duration;

use slotwarden::status_json::CeremonyView;
use slotwarden_tests::custodians::Act::{At, Card, In, Mistypes, Refused, Says, Stays};
use slotwarden_tests::stage::begin;

use crate::scene::{STRANGER, Scene, person};

/// Instructions of the commands that a reader's cards were sent since this was last asked, and
/// whether the keypad made each.
fn sent(scene: &Scene, reader: usize) -> Vec<&'static str> {
    let name = |apdu: &slotwarden_sim::pin_pad::Apdu| match (apdu.header[1], apdu.from_pad) {
        (0xA4, false) => "select",
        (0x20, false) => "tries",
        (0x20, true) => "verify",
        (0x24, true) => "change",
        (0xB0, false) => "read",
        (0xD6, false) => "write",
        (other, pad) => panic!("{other:02X}, by the pad: {pad}"),
    };
    scene.pad(reader).take_apdus().iter().map(name).collect()
}

const READ: [&str; 4] = ["select", "tries", "verify", "read"];

/// The commands of the table of performance: three to read a share, two to change a PIN, six to
/// restore with two cards, and the question for the tries of each card that is held.
#[test]
fn p04_reading_and_changing_a_pin_cost_the_fewest_commands() {
    let scene = Scene::new(&["Left"]);
    scene.create(2, 3);
    let _ = sent(&scene, 0);
    scene.order(&["backup", "verify-set"], &[Card("1"), Says("no")]).exits(0);
    assert_eq!(sent(&scene, 0), READ);
    let before = scene.table.pin("1");
    scene.order(&["card", "change-pin"], &[Card("1")]).exits(0);
    assert_eq!(sent(&scene, 0), ["select", "tries", "change"]);
    assert_ne!(scene.table.pin("1"), before);
    scene.order(&["backup", "restore-key"], &[Card("1"), Card("2")]).exits(0);
    assert_eq!(sent(&scene, 0), [READ, READ].concat());
    // A wrong PIN is one more of the keypad's own, and nothing else.
    scene.order(&["card", "change-pin"], &[Mistypes("1")]).exits(0);
    assert_eq!(sent(&scene, 0), ["select", "tries", "change", "change"]);
}

/// Eight commands for a copy: three to read, and SELECT, VERIFY, UPDATE, the pointer, READ; then
/// the tries of two cards, and a change where the target is on its transport PIN.
#[test]
fn p14_a_copy_with_one_reader_is_byte_for_byte_the_source_and_costs_the_fewest_commands() {
    let scene = Scene::new(&["Left"]);
    scene.create(2, 3);
    let source = scene.record("1");
    let _ = sent(&scene, 0);
    let copy = ["card", "copy"];
    let acts = [Card("1"), Refused("1", 921), Refused("2", 922), Card("copy"), Says("no")];
    scene.order(&copy, &acts).exits(0);
    let written = ["select", "tries", "change", "verify", "write", "write", "read"];
    let refused = ["select", "tries"];
    assert_eq!(sent(&scene, 0), [&READ[..], &refused, &refused, &written].concat());
    assert_eq!((scene.record("1"), scene.record("copy")), (source.clone(), source.clone()));
    let (first, second) = (scene.listed("1"), scene.listed("copy"));
    assert_eq!((&first["holder"], &first["x"]), (&second["holder"], &second["x"]));
    assert_eq!(scene.status()["backup"]["shares_in_use"], 3, "a copy is no other share");

    // The card whose PIN was changed before gets another copy once what is on it may go.
    scene.order(&["card", "erase", "--confirm", "erase"], &[Card("copy")]).exits(0);
    let _ = sent(&scene, 0);
    scene.order(&copy, &[Card("1"), Card("copy"), Says("yes"), Card("second copy"), Says("no")]).exits(0);
    let without_change = ["select", "tries", "verify", "write", "write", "read"];
    assert_eq!(sent(&scene, 0), [&READ[..], &without_change, &written].concat());
    assert_eq!(scene.record("second copy"), source);
    // Two copies of a share are one share.
    let restore = ["backup", "restore-key"];
    scene.order(&restore, &[Card("1"), Refused("copy", 920), Card("3")]).exits(0);
}

#[test]
fn p14_with_two_readers_nobody_swaps_cards() {
    let scene = Scene::new(&["Left", "Right"]);
    scene.create(2, 3);
    let _ = (sent(&scene, 0), sent(&scene, 1));
    let acts = [Stays("2"), Card("copy"), Says("no")];
    scene.order(&["card", "copy"], &acts).exits(0);
    assert_eq!(sent(&scene, 0), READ);
    assert_eq!(sent(&scene, 1), ["select", "tries", "change", "verify", "write", "write", "read"]);
    assert_eq!(scene.record("copy"), scene.record("2"));
    // Reader by name: what is read at Right is written at Left.
    let named = ["card", "copy", "--reader", "Right", "--target-reader", "Left"];
    scene.order(&named, &[Stays("3"), Card("another"), Says("no")]).exits(0);
    assert_eq!(scene.record("another"), scene.record("3"));
}

#[test]
fn a_card_is_given_to_another_person_who_changes_its_pin() {
    let scene = Scene::new(&["Left"]);
    scene.create(2, 3);
    let before = scene.table.pin("2");
    scene.order(&["card", "reassign", "--to", "nobody"], &[]).refused(1, 627);
    let to = person(9);
    let given = scene.order(&["card", "reassign", "--to", &to], &[Card("2")]).exits(0);
    assert!(given.stdout.contains(&format!("the card is {to}'s")), "{}", given.stdout);
    assert_eq!(scene.listed("2")["holder"], to.as_str());
    assert_ne!(scene.table.pin("2"), before);
    assert!(scene.transcript(&given).contains(&to));
}

#[test]
fn a_ceremony_is_watched_from_a_second_terminal_and_ended_by_who_may() {
    let scene = Scene::new(&["Left"]);
    let watching = std::cell::Cell::new(None);
    let watch = |_: &CeremonyView| {
        watching.set(Some(begin(scene.stage.command().args(["ceremony", "watch"]))));
        // The watcher is there before the ceremony goes on.
        thread::sleep(Duration::from_millis(500));
        assert_eq!(scene.stage.run_as(STRANGER, &["ceremony", "cancel"]).exit, 77);
        scene.stage.run(&["card", "change-pin"]).refused(75, 902);
        scene.stage.run(&["backup", "verify-set"]).refused(75, 902);
    };
    let cancel = |_: &CeremonyView| {
        scene.stage.run(&["ceremony", "cancel", "0011223344556677"]).exits(1);
        scene.stage.run(&["ceremony", "cancel"]).exits(0);
    };
    let acts = [At("insert", &watch), In("1"), At("new-pin", &cancel), At("end", &|_| scene.pad(0).cancels())];
    let ran = scene.order(&["card", "change-pin"], &acts);
    ran.refused(1, 909);
    let watched = watching.take().expect("it was begun").end();
    assert_eq!(watched.exit, 1, "{}{}", watched.stdout, watched.stderr);
    assert!(watched.stderr.contains("insert a card into Left"), "{}", watched.stderr);
    assert_eq!(scene.last_end(), ("refused".into(), Some(909)));
    assert!(scene.table.with("1", |card| card.is_on_transport_pin(slotwarden_core::card::Credential::BackupShare)));
}

#[test]
fn a_command_that_is_killed_leaves_its_ceremony_to_whoever_watches_it() {
    let scene = Scene::new(&["Left"]);
    scene.create(2, 3);
    let order = begin(scene.stage.command().args(["backup", "verify-set"]));
    let id = scene
        .stage
        .wait("it waits for a card", |status| status.ceremony.as_ref().is_some_and(|view| view.wait == "insert"));
    let id = id.ceremony.expect("it was just there").id;
    order.kill();
    assert_eq!(scene.status()["ceremony"]["id"], id.as_str());
    let watching = begin(scene.stage.command().args(["ceremony", "watch"]));
    let acts = [Card("1"), Says("yes"), Card("3"), Says("no")];
    let watched = scene.table.follow(&scene.stage, watching, &acts).exits(0);
    assert!(watched.stdout.contains("done"), "{}", watched.stdout);
    let shown = scene.stage.run(&["ceremony", "show", &id]).exits(0).stdout;
    assert!(shown.contains("human steps") && shown.contains("good"), "{shown}");
}
