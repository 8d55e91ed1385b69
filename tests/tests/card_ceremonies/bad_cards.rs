//! Cards, readers and people that do not fit, at real readers.

use slotwarden::status_json::CeremonyView;
use slotwarden_core::card::Credential;
use slotwarden_sim::cards::Manner;
use slotwarden_sim::pin_pad::{Pull, Quirks};
use slotwarden_tests::custodians::Act::{At, Card, In, Refused, Says};
use slotwarden_tests::custodians::{FRESH_PIN, Reader, Table};
use slotwarden_tests::pcscd::Pcscd;

use crate::scene::{STRANGER, Scene};

#[test]
fn a_card_of_another_cluster_is_refused_by_name_but_its_pin_may_be_changed() {
    let pcscd = Pcscd::start(&["Left"]);
    let pads = || vec![Box::new(pcscd.pad(0).clone()) as Box<dyn Reader>];
    let (here, there) = (Table::new(pads()), Table::new(pads()));
    let mut elsewhere = Scene::with(pcscd, there, |_| {});
    elsewhere.create(2, 3);
    let foreign = elsewhere.table.shared("2");
    let (foreign_pin, foreign_key) = (elsewhere.table.pin("2"), elsewhere.key_id());
    elsewhere.stage.stop();
    let scene = Scene::with(elsewhere.pcscd, here, |_| {});
    // Other serials than there.
    for spare in ["spare 1", "spare 2", "spare 3"] {
        drop(scene.table.shared(spare));
    }
    scene.create(2, 3);
    assert_ne!(scene.key_id(), foreign_key);
    scene.table.brings("foreign", foreign);
    scene.table.knows("foreign", &foreign_pin);
    let cancel = |_: &CeremonyView| drop(scene.stage.run(&["ceremony", "cancel"]).exits(0));
    for order in [&["backup", "verify-set"][..], &["backup", "restore-key"], &["card", "copy"]] {
        scene.order(order, &[Refused("foreign", 923), At("insert", &cancel)]).refused(1, 909);
    }
    scene.order(&["card", "change-pin"], &[Card("foreign")]).exits(0);
    // It is overwritten only when somebody says so.
    let no = [Card("1"), In("foreign"), Says("no"), Refused("foreign", 936), Card("blank"), Says("no")];
    let before = scene.record("foreign");
    scene.order(&["card", "copy"], &no).exits(0);
    assert_eq!(scene.record("foreign"), before);
}

#[test]
fn cards_that_are_broken_full_blocked_or_of_another_kind_are_told_apart() {
    let scene = Scene::new(&["Left"]);
    scene.create(2, 3);
    let backup = Credential::BackupShare;
    scene.table.with("full", |card| card.behave(Manner::Full));
    scene.table.with("stranger", |card| card.behave(Manner::Foreign));
    scene.table.with("blocked", |card| card.set_tries_left(backup, 0));
    scene.table.with("odd", |card| card.behave(Manner::StrangeStatus));
    let acts = [
        Card("1"),
        Refused("full", 937),
        Refused("stranger", 934),
        Refused("blocked", 932),
        Refused("odd", 938),
        Card("copy"),
        Says("no"),
    ];
    let ran = scene.order(&["card", "copy"], &acts).exits(0);
    for number in [932, 934, 937, 938] {
        assert!(ran.stderr.contains(&format!("[{number}]")), "{number}: {}", ran.stderr);
    }
    // One byte of the share is another one: it is refused where it is read.
    let (mut record, place) = scene.table.with("3", |card| {
        (*card.record(backup).expect("it was written"), card.in_force(backup).expect("it was written"))
    });
    record[80] ^= 1;
    scene.table.with("3", |card| card.put(backup, place, &record));
    let acts = [Refused("3", 931), Card("2"), Says("no")];
    scene.order(&["backup", "verify-set"], &acts).exits(0);
}

#[test]
fn p15_a_card_pulled_while_it_is_written_is_asked_for_again() {
    let scene = Scene::new(&["Left"]);
    scene.create(2, 3);
    let changed = "314159265358";
    let pull = |_: &CeremonyView| {
        scene.pad(0).pull(Pull::AmidWrite);
        scene.pad(0).types(&[FRESH_PIN, changed, changed]);
        scene.table.knows("copy", changed);
    };
    // Torn, the same card comes once more: without another change of its PIN.
    let acts = [Card("1"), In("copy"), At("new-pin", &pull), Card("copy"), Says("no")];
    scene.order(&["card", "copy"], &acts).exits(0);
    assert_eq!(scene.record("copy"), scene.record("1"));
    let events: Vec<String> = scene.stage.audit().into_iter().map(|(_, event)| event.to_string()).collect();
    assert!(events.iter().any(|event| event.contains("CardTornWrite")), "{events:?}");
}

#[test]
fn p02_a_reader_without_keypad_is_listed_with_the_reason_and_no_ceremony_uses_it() {
    let pcscd = Pcscd::start(&["Plain", "Left", "Rear"]);
    pcscd.pad(0).set_quirks(Quirks { keypad: false, ..Quirks::default() });
    let pads = (0..3).map(|number| Box::new(pcscd.pad(number).clone()) as Box<dyn Reader>).collect();
    let scene = Scene::with(pcscd, Table::new(pads), |stage| stage.more += "[cards]\nexclude = [\"Rear\"]\n");
    let listed = scene.cards();
    let reason = |name: &str| {
        let readers = listed["readers"].as_array().expect("a list");
        let found = readers.iter().find(|found| found["name"].as_str().is_some_and(|shown| shown.starts_with(name)));
        found.unwrap_or_else(|| panic!("{name} is not in {listed}"))["reason"].clone()
    };
    println!("{listed:#}");
    assert!(reason("Plain").as_str().is_some_and(|why| why.contains("PIN")), "{}", reason("Plain"));
    assert!(reason("Rear").as_str().is_some_and(|why| why.contains("excluded")), "{}", reason("Rear"));
    assert!(reason("Left").is_null());
    for name in ["Plain", "Rear", "Nowhere"] {
        let ran = scene.stage.run(&["card", "change-pin", "--reader", name]);
        assert_eq!(ran.exit, 1, "{name}: {}", ran.stderr);
        println!("{name}: {}", ran.stderr);
    }
    scene.create(2, 2);
    assert!(scene.pad(0).take_apdus().is_empty() && scene.pad(2).take_apdus().is_empty());
}

#[test]
fn a_stranger_begins_sees_and_ends_no_ceremony() {
    let scene = Scene::new(&["Left"]);
    scene.create(2, 3);
    let all: [&[&str]; 6] = [
        &["backup", "verify-set"],
        &["backup", "create-set", "-m", "2", "-n", "2", "--holders", "custodian-1,custodian-2"],
        &["card", "change-pin"],
        &["card", "lost", &scene.table.serial("1")],
        &["ceremony", "watch"],
        &["ceremony", "cancel"],
    ];
    for order in all {
        let ran = scene.stage.run_as(STRANGER, order);
        assert_eq!(ran.exit, 77, "{order:?}: {}{}", ran.stdout, ran.stderr);
    }
    assert!(scene.status()["ceremony"].is_null());
    assert_eq!(scene.listed("1")["lost"], false);
}

#[test]
fn below_the_level_of_cards_nothing_is_offered_and_the_reason_is_told() {
    let pcscd = Pcscd::start(&["Left"]);
    let mut stage = slotwarden_tests::stage::Stage::new(slotwarden_tests::modules::Kind::SoftHsm, 1);
    stage.bench.make_token_with("ca", slotwarden_tests::modules::SO_PIN, crate::scene::CODE);
    stage.slot("ca", "ca", "ca-app");
    stage.start();
    let create = ["backup", "create-set", "-m", "2", "-n", "3"];
    for order in [&create[..], &["backup", "verify-set"], &["card", "change-pin"], &["card", "copy"]] {
        let ran = stage.run(order);
        assert!(ran.stderr.contains("[901]"), "{order:?}: {}", ran.stderr);
    }
    assert!(pcscd.pad(0).take_apdus().is_empty());
}
