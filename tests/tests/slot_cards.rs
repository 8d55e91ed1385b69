//! Slots that users open with cards, on the real stack: daemon, command line, pcscd and a
//! PKCS#11 module; people type at the keypads of simulated readers. Commands run as other
//! users and readers have namespaces of their own, so the tests run as root.

#[path = "slot_cards/people.rs"]
mod people;

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use people::Act::{self, At, AtPad, Card, In, Mistypes, MistypesLast, Refused};
use people::{ANNA, BEN, CARL, CODE, OLGA, OTTO, PATIENCE, STRANGER, Scene};
use rustix::process::{Signal, kill_process};
use slotwarden::status_json::CeremonyView;
use slotwarden_core::card::Credential;
use slotwarden_tests::modules::{Kind, SO_PIN};
use slotwarden_tests::stage::Ran;

slotwarden_tests::on_both_modules! {
    a_manual_slot_gets_cards_and_opens_with_any_two_of_three
    a_generated_slot_gets_cards_on_top_of_a_code_and_opens_with_both_only
    users_are_changed_and_a_slot_goes_back_to_a_manual_and_a_generated_code
    a_typed_set_becomes_cards_and_cards_become_a_typed_set
    administrators_cards_give_the_so_pin_and_the_typed_one_is_refused
    p35_a_daemon_killed_inside_the_call_that_sets_the_cards_pin_finds_what_the_token_did
    p35_after_each_kill_while_the_administrators_pin_is_set_the_typed_one_or_the_cards_are_accepted
    users_who_lost_their_cards_get_the_slot_back_by_the_so_pin
    p35_after_each_kill_while_the_cards_pin_is_set_the_old_way_or_the_new_one_opens
}

const USERS: &[&str] = &["slot", "cards", "ca", "-k", "2", "--users", "anna,ben,carl"];
const HOLDERS: &[&str] = &["slot", "admin-cards", "ca", "-k", "2", "--holders", "anna,ben,carl"];
const ACTIVATE: &[&str] = &["slot", "activate", "ca"];
const DEACTIVATE: &[&str] = &["slot", "deactivate", "ca"];
const OTHER: &str = "manual code two";
const ON_TOP: &str = "code on top of cards";

fn enrol(scene: &Scene) {
    scene.order_with(USERS, &[("--code-file", CODE)], &[Card("anna"), Card("ben"), Card("carl")]).exits(0);
}

/// An answer at the console of the daemon's own user.
fn says(scene: &Scene, answer: &[&str]) {
    scene.stage.run(&[&["ceremony", "answer"], answer].concat()).exits(0);
}

/// Ends the ceremony under way, as an administrator may.
fn cancel(scene: &Scene) {
    scene.stage.run(&["ceremony", "cancel"]).exits(0);
}

fn a_manual_slot_gets_cards_and_opens_with_any_two_of_three(kind: Kind) {
    let mut scene = Scene::new(kind, &["ca"]);
    enrol(&scene);
    let pin = scene.stage.handed_over("ca-app").expect("it is active");
    assert!(!scene.stage.opens("ca", CODE), "the code alone opens nothing any more");
    assert!(scene.stage.opens("ca", &pin));
    scene.restart(true);
    assert_eq!(scene.stage.handed_over("ca-app"), None);
    scene.stage.run(&["boot"]).exits(2);
    let slot = scene.stage.slot_status("ca");
    assert_eq!(slot["waits_for"]["kind"], "cards", "{slot}");
    assert_eq!((&slot["waits_for"]["need"], &slot["waits_for"]["have"]), (&2.into(), &0.into()), "{slot}");

    // One card, and the code alone, do not.
    let tried = scene.stage.attempts("ca").len();
    let refused = scene.order(ACTIVATE, &[Card("anna"), At("insert", &|_| cancel(&scene))]);
    refused.refused(1, 909);
    scene.order_with(ACTIVATE, &[("--code-file", CODE)], &[]).refused(1, 970);
    let twice = [Card("anna"), Refused("anna", 920), At("insert", &|_| cancel(&scene))];
    scene.order(ACTIVATE, &twice).refused(1, 909);
    assert_eq!(scene.stage.attempts("ca").len(), tried, "the token was not asked");

    for pair in [["anna", "ben"], ["carl", "anna"], ["ben", "carl"]] {
        scene.order(ACTIVATE, &[Card(pair[0]), Card(pair[1])]).exits(0);
        assert_eq!(scene.stage.handed_over("ca-app").as_ref(), Some(&pin));
        scene.order(DEACTIVATE, &[]).exits(0);
        assert_eq!(scene.stage.handed_over("ca-app"), None);
    }

    // A copy counts as the card that it is of.
    let copy = ["card", "copy", "--credential", "user"];
    let no = |_: &CeremonyView| says(&scene, &["no"]);
    scene.order(&copy, &[Card("anna"), Card("anna's copy"), At("answer", &no)]).exits(0);
    let both = [Card("anna"), Refused("anna's copy", 920), At("insert", &|_| cancel(&scene))];
    scene.order(ACTIVATE, &both).refused(1, 909);
    scene.order(ACTIVATE, &[Card("anna's copy"), Card("ben")]).exits(0);
    assert_eq!(scene.stage.handed_over("ca-app"), Some(pin));
}

fn a_generated_slot_gets_cards_on_top_of_a_code_and_opens_with_both_only(kind: Kind) {
    let mut scene = Scene::new(kind, &["ca"]);
    scene.order_with(&["slot", "mode", "ca", "generated"], &[("--code-file", CODE)], &[]).exits(0);
    let generated = scene.stage.handed_over("ca-app").expect("it is active");
    let with_code = [USERS, &["--with-code"]].concat();
    scene.order(&with_code, &[]).refused(1, 971);
    scene.order_with(&with_code, &[("--new-code-file", "short")], &[]).refused(1, 201);
    scene.order_with(USERS, &[("--new-code-file", ON_TOP)], &[]).refused(1, 207);
    let all = [Card("anna"), Card("ben"), Card("carl")];
    scene.order_with(&with_code, &[("--new-code-file", ON_TOP)], &all).exits(0);
    let pin = scene.stage.handed_over("ca-app").expect("it is active");
    for no_pin in [CODE, ON_TOP, &generated] {
        assert!(!scene.stage.opens("ca", no_pin));
    }
    assert!(pin != generated && scene.stage.opens("ca", &pin));

    scene.restart(false);
    assert_eq!(scene.stage.run(&["boot"]).exits(2).stderr, "");
    assert_eq!(scene.stage.slot_status("ca")["waits_for"]["kind"], "cards");
    // The cards alone; then with a wrong code, which only the token can tell.
    scene.order(ACTIVATE, &[]).refused(1, 204);
    let two = [Card("carl"), Card("ben")];
    scene.order_with(ACTIVATE, &[("--code-file", OTHER)], &two).refused(1, 209);
    assert_eq!(scene.stage.handed_over("ca-app"), None);
    scene.order_with(ACTIVATE, &[("--code-file", ON_TOP)], &two).exits(0);
    assert_eq!(scene.stage.handed_over("ca-app").as_ref(), Some(&pin));
    // Neither the code nor what the cards gave is kept anywhere.
    scene.order(DEACTIVATE, &[]).exits(0);
    let told = scene.stage.run(&["ceremony", "show"]).exits(0).stdout;
    for said in ["anna", "ben", "carl"] {
        assert_eq!(told.contains(said), said != "anna", "the two who came: {told}");
    }
    let audit = scene.stage.run(&["audit", "show", "--last", "1000", "--output", "json"]).exits(0).stdout;
    let files = fs::read_dir(scene.stage.state_dir()).expect("the stage's own").flatten();
    let stored = files.map(|file| fs::read(file.path()).unwrap_or_default());
    let kept = stored.chain([scene.stage.log().into_bytes(), told.into_bytes(), audit.into_bytes()]);
    for bytes in kept {
        for secret in [&pin, ON_TOP, OTHER, &generated] {
            assert!(memchr::memmem::find(&bytes, secret.as_bytes()).is_none(), "{} bytes hold it", bytes.len());
        }
    }
}

fn users_are_changed_and_a_slot_goes_back_to_a_manual_and_a_generated_code(kind: Kind) {
    let mut scene = Scene::new(kind, &["ca"]);
    enrol(&scene);
    let first = scene.stage.handed_over("ca-app").expect("it is active");
    // Carl is removed: the others get cards of a new set, and one opens the slot.
    let one = ["slot", "cards", "ca", "-k", "1", "--users", "anna,ben"];
    let acts = [
        Card("anna"),
        Card("carl"),
        // The cards in force stay as they are until the new ones are.
        Refused("anna", 922),
        Card("anna's copy"),
        Card("ben's copy"),
    ];
    let ran = scene.order(&one, &acts).exits(0);
    assert!(ran.stderr.contains("WARNING"), "one card is enough: {}", ran.stderr);
    let second = scene.stage.handed_over("ca-app").expect("it is active");
    assert!(second != first && !scene.stage.opens("ca", &first) && scene.stage.opens("ca", &second));
    scene.order(DEACTIVATE, &[]).exits(0);
    let acts = [Refused("carl", 924), Refused("anna", 924), Card("ben's copy")];
    scene.order(ACTIVATE, &acts).exits(0);
    assert_eq!(scene.stage.handed_over("ca-app"), Some(second.clone()));

    // Back: the cards are the present code of the switch.
    let manual = ["slot", "mode", "ca", "manual"];
    scene.order_with(&manual, &[("--new-code-file", "short")], &[]).refused(1, 201);
    scene.order_with(&manual, &[("--new-code-file", OTHER)], &[Card("anna's copy")]).exits(0);
    assert!(!scene.stage.opens("ca", &second) && scene.stage.opens("ca", OTHER));
    scene.restart(true);
    assert_eq!(scene.stage.slot_status("ca")["waits_for"]["kind"], "code");
    scene.order_with(ACTIVATE, &[("--code-file", OTHER)], &[]).exits(0);

    // And from cards to a generated code, which boots without anybody. Cards of a set that is
    // in force no more are written over after a question, or with --overwrite.
    let two = ["slot", "cards", "ca", "-k", "2", "--users", "anna,ben"];
    let yes = |_: &CeremonyView| says(&scene, &["yes"]);
    let no = |_: &CeremonyView| says(&scene, &["no"]);
    let acts = [In("anna"), At("answer", &no), Refused("anna", 936), In("anna"), At("answer", &yes), Card("anna")];
    let acts: Vec<Act<'_>> = acts.into_iter().chain([In("ben"), At("answer", &yes), Card("ben")]).collect();
    scene.order_with(&two, &[("--code-file", OTHER)], &acts).exits(0);
    scene.order(&["slot", "mode", "ca", "generated"], &[Card("ben"), Card("anna")]).exits(0);
    let generated = scene.stage.handed_over("ca-app").expect("it is active");
    assert!(scene.stage.opens("ca", &generated));
    scene.restart(true);
    scene.stage.run(&["boot"]).exits(0);
    assert_eq!(scene.stage.handed_over("ca-app"), Some(generated));
}

fn a_typed_set_becomes_cards_and_cards_become_a_typed_set(kind: Kind) {
    let scene = Scene::new(kind, &["ca"]);
    let split = ["slot", "split", "ca", "-m", "2", "-n", "2", "--custodians", "anna,ben"];
    scene.order_with(&split, &[("--code-file", CODE)], &[]).exits(2);
    let shares = handed_out(&scene);
    let typed_pin = scene.stage.handed_over("ca-app").expect("it is active");
    // The cards are written first; then the shares are entered for the PIN that rules.
    scene.order(USERS, &[Card("anna"), Card("ben"), Card("carl")]).exits(2);
    assert!(scene.stage.opens("ca", &typed_pin), "until then the old shares rule");
    enters(&scene, ANNA, &shares[0]).exits(2);
    enters(&scene, BEN, &shares[1]).exits(0);
    let pin = scene.stage.handed_over("ca-app").expect("it is active");
    assert!(pin != typed_pin && scene.stage.opens("ca", &pin) && !scene.stage.opens("ca", &typed_pin));
    scene.order(DEACTIVATE, &[]).exits(0);
    scene.order(ACTIVATE, &[Card("carl"), Card("anna")]).exits(0);

    scene.order(&split, &[Card("ben"), Card("carl")]).exits(2);
    assert!(scene.stage.opens("ca", &pin), "until all are typed back the cards rule");
    handed_out(&scene);
    let typed_pin = scene.stage.handed_over("ca-app").expect("it is active");
    assert!(typed_pin != pin && !scene.stage.opens("ca", &pin));
    assert_eq!(scene.stage.slot_status("ca")["knowledge"]["kind"], "shares");
}

/// Anna and Ben fetch their shares and type them back; the last one changes the PIN.
#[track_caller]
fn handed_out(scene: &Scene) -> Vec<String> {
    let fetch = |uid| scene.stage.run_as(uid, &["slot", "share", "ca"]).exits(0).stdout.trim_end().to_owned();
    let shares = [fetch(ANNA), fetch(BEN)];
    enters(scene, ANNA, &shares[0]).exits(2);
    enters(scene, BEN, &shares[1]).exits(0);
    shares.to_vec()
}

fn enters(scene: &Scene, uid: u32, share: &str) -> Ran {
    scene.order_as(uid, &["slot", "share", "ca"], &[("--code-file", share)], &[])
}

fn administrators_cards_give_the_so_pin_and_the_typed_one_is_refused(kind: Kind) {
    let mut scene = Scene::new(kind, &["ca"]);
    scene.means(Credential::HsmAdministrator);
    let all = || [Card("anna"), Card("ben"), Card("carl")];
    scene.order(HOLDERS, &[]).refused(1, 968);
    scene.order_with(HOLDERS, &[("--so-pin-file", "not the SO PIN")], &all()).refused(1, 319);
    assert!(opens_as_so(&scene, SO_PIN), "nothing was changed");
    let listed = scene.stage.run(&["card", "list", "--output", "json"]).exits(0).json();
    for card in listed["cards"].as_array().expect("a list") {
        assert_eq!((&card["credential"], &card["standing"]), (&"admin".into(), &"void".into()), "{card}");
    }
    // Void cards are written over without a question.
    scene.order_with(HOLDERS, &[("--so-pin-file", SO_PIN)], &all()).exits(0);
    assert!(!opens_as_so(&scene, SO_PIN), "nobody can type it any more");
    scene.restart(true);

    // Who lost the code: two administrators make the token take another one.
    let unblock = ["slot", "unblock", "ca", "generated", "--so-cards"];
    scene.order_with(&["slot", "unblock", "ca"], &[("--so-pin-file", SO_PIN)], &[]).refused(1, 319);
    let one = [Card("anna"), Refused("anna", 920), At("insert", &|_| cancel(&scene))];
    scene.order(&unblock, &one).refused(1, 909);
    assert!(scene.stage.opens("ca", CODE));
    scene.order(&unblock, &[Card("anna"), Card("carl")]).exits(0);
    let generated = scene.stage.handed_over("ca-app").expect("it is active");
    assert!(!scene.stage.opens("ca", CODE) && scene.stage.opens("ca", &generated));
    scene.order(DEACTIVATE, &[]).exits(0);
    let manual = ["slot", "unblock", "ca", "manual", "--so-cards"];
    scene.order_with(&manual, &[("--new-code-file", OTHER)], &[Card("ben"), Card("carl")]).exits(0);
    assert!(!scene.stage.opens("ca", &generated) && scene.stage.opens("ca", OTHER));
    scene.order(DEACTIVATE, &[]).exits(0);

    // The end of a slot, and its next life, by cards as well.
    let decommission = ["slot", "decommission", "ca", "--so-cards"];
    scene.order(&decommission, &[]).refused(2, 328);
    let confirmed = [&decommission[..], &["--confirm", "decommission ca"]].concat();
    scene.order(&confirmed, &[Card("carl"), Card("ben")]).exits(0);
    assert!(!scene.stage.opens("ca", OTHER));
    scene.order(&["slot", "init", "ca", "--so-cards"], &[Card("ben"), Card("anna")]).exits(0);
    let generated = scene.stage.handed_over("ca-app").expect("it is active");
    assert!(scene.stage.opens("ca", &generated) && !opens_as_so(&scene, SO_PIN));
}

/// Whether `pkcs11-tool` logs in as security officer with this PIN.
fn opens_as_so(scene: &Scene, so_pin: &str) -> bool {
    let mut tool = scene.stage.bench.pkcs11_tool();
    tool.args(["--token-label", "ca", "--login", "--login-type", "so", "--so-pin", so_pin]);
    slotwarden_tests::stage::run(tool.args(["--session-rw", "--list-objects"])).exit == 0
}

/// The daemon is killed while it gives the token the PIN of the cards: a little later in each
/// round. The set of the cards and the code of before are then both known, and one of them
/// opens the slot.
fn p35_after_each_kill_while_the_cards_pin_is_set_the_old_way_or_the_new_one_opens(kind: Kind) {
    let mut scene = Scene::new(kind, &["ca"]);
    let users = ["slot", "cards", "ca", "-k", "1", "--users", "anna,ben", "--overwrite"];
    let (mut old_ways, mut new_ways) = (0, 0);
    for round in 0..12_u64 {
        let kill = |_: &CeremonyView| {
            // The last card is taken out: what follows is the rehearsal and the token's part.
            scene.pad().remove();
            thread::sleep(Duration::from_millis(5 * round));
            scene.stage.signal(Signal::KILL);
        };
        let acts = [Card("anna"), In("ben"), At("remove", &kill)];
        let ran = scene.order_with(&users, &[("--code-file", CODE)], &acts);
        scene.stage.wait_end();
        scene.start();
        let slot = scene.stage.slot_status("ca");
        let by_cards = slot["waits_for"]["kind"] == "cards" && scene.order(ACTIVATE, &[Card("anna")]).exit == 0;
        if by_cards {
            new_ways += 1;
            let back = ["slot", "mode", "ca", "manual"];
            scene.order_with(&back, &[("--new-code-file", CODE)], &[Card("ben")]).exits(0);
        } else {
            old_ways += 1;
            assert_ne!(ran.exit, 0, "what was answered as done is durable");
            scene.order_with(ACTIVATE, &[("--code-file", CODE)], &[]).exits(0);
        }
        scene.order(DEACTIVATE, &[]).exits(0);
    }
    println!("{kind:?}: the code opened {old_ways} times, the cards {new_ways} times");
    assert!(old_ways > 0 && new_ways > 0, "{old_ways} and {new_ways}: the kills came too early or too late");
}

/// A kill that always hits: the worker hangs in `C_SetPIN` while the daemon goes. What the
/// worker does after that decides which way opens.
fn p35_a_daemon_killed_inside_the_call_that_sets_the_cards_pin_finds_what_the_token_did(kind: Kind) {
    for finishes in [false, true] {
        let mut scene = Scene::forwarded(kind, &["ca"]);
        scene.order_with(ACTIVATE, &[("--code-file", CODE)], &[]).exits(0);
        let calls = || scene.stage.bench.calls("C_SetPIN", "ca");
        let before = calls();
        let worker = scene.stage.worker_process();
        let kill = |_: &CeremonyView| {
            scene.stage.bench.ask_to("hang", "ca");
            scene.pad().remove();
            let until = Instant::now() + PATIENCE;
            while calls() == before {
                assert!(Instant::now() < until, "no PIN is being set");
                thread::sleep(Duration::from_millis(2));
            }
            scene.stage.signal(Signal::KILL);
            if !finishes {
                kill_process(worker, Signal::KILL).expect("it hangs");
            }
            scene.stage.bench.ask_no_more("hang", "ca");
        };
        let users = ["slot", "cards", "ca", "-k", "1", "--users", "anna,ben"];
        let acts = [Card("anna"), In("ben"), At("remove", &kill)];
        let ran = scene.order_with(&users, &[("--code-file", CODE)], &acts);
        assert_ne!(ran.exit, 0, "nobody knew yet: {ran:?}");
        scene.stage.wait_end();
        scene.start();
        let slot = scene.stage.slot_status("ca");
        assert_eq!(slot["doubt"], "old-or-new", "{slot}");
        if finishes {
            scene.order(ACTIVATE, &[Card("ben")]).exits(0);
            assert!(!scene.stage.opens("ca", CODE));
        } else {
            // The new way is asked for first, then the old one.
            scene.order(ACTIVATE, &[Card("ben")]).refused(1, 209);
            scene.order_with(ACTIVATE, &[("--code-file", CODE)], &[]).exits(0);
            assert!(scene.stage.opens("ca", CODE));
        }
        let kind = if finishes { "cards" } else { "whole" };
        assert_eq!(scene.stage.slot_status("ca")["knowledge"]["kind"], kind);
        // It is known for good now.
        scene.order(DEACTIVATE, &[]).exits(0);
        if finishes {
            scene.order(ACTIVATE, &[Card("anna")]).exits(0);
        } else {
            scene.order_with(ACTIVATE, &[("--code-file", CODE)], &[]).exits(0);
        }
    }
}

/// A token has one SO PIN after each kill, and the program takes it from whoever has it.
fn p35_after_each_kill_while_the_administrators_pin_is_set_the_typed_one_or_the_cards_are_accepted(kind: Kind) {
    let (mut typed, mut by_cards) = (0, 0);
    for round in 0..6_u64 {
        let mut scene = Scene::new(kind, &["ca"]);
        scene.means(Credential::HsmAdministrator);
        let kill = |_: &CeremonyView| {
            scene.pad().remove();
            thread::sleep(Duration::from_millis(8 * round));
            scene.stage.signal(Signal::KILL);
        };
        let holders = ["slot", "admin-cards", "ca", "-k", "1", "--holders", "anna,ben"];
        let acts = [Card("anna"), In("ben"), At("remove", &kill)];
        let ran = scene.order_with(&holders, &[("--so-pin-file", SO_PIN)], &acts);
        scene.stage.wait_end();
        scene.start();
        if opens_as_so(&scene, SO_PIN) {
            typed += 1;
            assert_ne!(ran.exit, 0, "what was answered as done is durable");
            scene.order_with(&["slot", "unblock", "ca"], &[("--so-pin-file", SO_PIN)], &[]).exits(0);
        } else {
            by_cards += 1;
            scene.order(&["slot", "unblock", "ca", "--so-cards"], &[Card("ben")]).exits(0);
        }
        let pin = scene.stage.handed_over("ca-app").expect("it is active");
        assert!(scene.stage.opens("ca", &pin));
    }
    println!("{kind:?}: the typed SO PIN was accepted {typed} times, the cards {by_cards} times");
    assert!(typed > 0 && by_cards > 0, "{typed} and {by_cards}: the kills came too early or too late");
}

fn users_who_lost_their_cards_get_the_slot_back_by_the_so_pin(kind: Kind) {
    let mut scene = Scene::new(kind, &["ca"]);
    enrol(&scene);
    let pin = scene.stage.handed_over("ca-app").expect("it is active");
    scene.order(&["slot", "change-code", "ca"], &[]).refused(2, 969);
    let unblock = ["slot", "unblock", "ca"];
    scene.order_with(&unblock, &[("--so-pin-file", SO_PIN)], &[]).exits(1);
    scene.order(DEACTIVATE, &[]).exits(0);
    scene.order_with(&unblock, &[("--so-pin-file", SO_PIN)], &[]).exits(0);
    let generated = scene.stage.handed_over("ca-app").expect("it is active");
    assert!(!scene.stage.opens("ca", &pin) && scene.stage.opens("ca", &generated));
    scene.restart(true);
    scene.stage.run(&["boot"]).exits(0);
    let listed = scene.stage.run(&["card", "list", "--output", "json"]).exits(0).json();
    let cards = listed["cards"].as_array().expect("a list");
    assert!(cards.len() == 3 && cards.iter().all(|card| card["standing"] == "rotated"), "{listed}");
}

#[test]
fn p35_a_kill_at_any_phase_of_dealing_leaves_the_old_code_and_void_cards() {
    let mut scene = Scene::new(Kind::SoftHsm, &["ca"]);
    for phase in 0..4 {
        let kill = |_: &CeremonyView| scene.stage.signal(Signal::KILL);
        let acts = match phase {
            0 => vec![At("insert", &kill)],
            1 => vec![AtPad("anna", &kill)],
            2 => vec![Card("anna"), At("insert", &kill)],
            _ => vec![Card("anna"), Card("ben"), In("carl"), At("remove", &kill)],
        };
        let ran = scene.order_with(USERS, &[("--code-file", CODE)], &acts);
        assert_ne!(ran.exit, 0, "{ran:?}");
        scene.stage.wait_end();
        scene.start();
        assert_eq!(scene.stage.slot_status("ca")["waits_for"]["kind"], "code", "phase {phase}");
        scene.order_with(ACTIVATE, &[("--code-file", CODE)], &[]).exits(0);
        scene.order(DEACTIVATE, &[]).exits(0);
    }
    // What was written meanwhile is void, and is written over without a question.
    let listed = scene.stage.run(&["card", "list", "--output", "json"]).exits(0).json();
    for card in listed["cards"].as_array().expect("a list") {
        assert!(card["standing"] == "void" || card["standing"] == "empty", "{card}");
    }
    enrol(&scene);
}

/// Cards that do not fit are refused by name and taken out; no try of their PINs is spent.
#[test]
fn p11_cards_that_do_not_open_this_slot_are_refused_by_name() {
    let scene = Scene::new(Kind::SoftHsm, &["ca", "other"]);
    enrol(&scene);
    let others = ["slot", "cards", "other", "-k", "1", "--users", "olga"];
    scene.order_with(&others, &[("--code-file", CODE)], &[Refused("anna", 922), Card("olga")]).exits(0);
    scene.order(DEACTIVATE, &[]).exits(0);

    let blocked = scene.card("anna").tries_left(Credential::SlotUser);
    scene.card("anna").set_tries_left(Credential::SlotUser, 0);
    let spent = scene.card("ben").tries_spent();
    let cancels = |_: &CeremonyView| cancel(&scene);
    let acts = [
        Refused("olga", 923),
        Refused("nobody", 928),
        Refused("anna", 932),
        Card("ben"),
        Refused("ben", 920),
        At("insert", &cancels),
    ];
    scene.order(ACTIVATE, &acts).refused(1, 909);
    assert_eq!(scene.card("ben").tries_spent(), spent);
    scene.card("anna").set_tries_left(Credential::SlotUser, blocked);

    let serial = "0505050505050505";
    scene.order(&["card", "lost", serial, "--credential", "user"], &[]).exits(0);
    scene.order(ACTIVATE, &[Refused("carl", 933), Card("anna"), Mistypes("ben")]).exits(0);
    assert_eq!(scene.card("ben").tries_spent(), spent + 1);
    scene.order(&["slot", "deactivate", "other"], &[]).exits(0);
    scene.order_with(&["slot", "activate", "other"], &[("--code-file", CODE)], &[]).refused(1, 970);
}

#[test]
fn what_is_no_set_of_users_is_refused_before_anybody_is_called() {
    let scene = Scene::new(Kind::SoftHsm, &["ca"]);
    let cards = |k: &str, users: &str| {
        let arguments = ["slot", "cards", "ca", "-k", k, "--users", users];
        scene.order_with(&arguments, &[("--code-file", CODE)], &[])
    };
    cards("0", "anna,ben").refused(1, 801);
    cards("3", "anna,ben").refused(1, 801);
    cards("2", "anna,anna").refused(1, 817);
    cards("2", "anna,mallory").refused(1, 627);
    scene.order(&["slot", "activate", "ca"], &[]).refused(1, 204);
    scene.order(&["slot", "cards", "elsewhere", "-k", "1", "--users", "anna"], &[]).refused(1, 102);
    scene.order(&["slot", "cards", "ca", "-k", "1", "--users", "anna", "--reader", "Right"], &[]).refused(1, 906);

    // One ceremony at a time, and none while shares are being collected.
    let second = |_: &CeremonyView| {
        scene
            .stage
            .run_with(&["slot", "cards", "ca", "-k", "1", "--users", "ben"], "--code-file", CODE)
            .refused(75, 902);
        cancel(&scene);
    };
    scene.order_with(USERS, &[("--code-file", CODE)], &[At("insert", &second)]).refused(1, 909);
    let split = ["slot", "split", "ca", "-m", "2", "-n", "2", "--custodians", "anna,ben"];
    scene.order_with(&split, &[("--code-file", CODE)], &[]).exits(2);
    cards("1", "anna").refused(75, 819);
}

#[test]
fn p26_what_needs_two_persons_needs_two_different_ones_at_the_reader_too() {
    let scene = Scene::new(Kind::SoftHsm, &["ca"]);
    enrol(&scene);
    scene.order(&["dual-control", "on"], &[]).exits(0);
    let create = |m: &str, acts: &[Act<'_>]| {
        let arguments = ["backup", "create-set", "-m", m, "-n", "3", "--holders", "anna,ben,carl", "--output", "json"];
        scene.order(&arguments, acts)
    };
    let (id, code) = waits(create("2", &[]));
    for (uid, number) in [(0, 702), (CARL, 101), (OTTO, 101), (OLGA, 101), (STRANGER, 603)] {
        scene.stage.run_as(uid, &["approve", &id, &code]).refused(77, number);
    }
    scene.stage.run_as(ANNA, &["approve", &id, &code]).exits(0);
    let (other, _) = waits(create("3", &[]));
    assert_ne!(other, id, "the approved order is about 2 of 3");
    scene.stage.run_as(0, &["approve", &other, "--withdraw"]).exits(0);
    let cancels = |_: &CeremonyView| cancel(&scene);
    create("2", &[At("insert", &cancels)]).refused(1, 909);
    let (again, _) = waits(create("2", &[]));
    assert_ne!(again, id, "an approval is spent once");
    scene.stage.run_as(0, &["approve", &again, "--withdraw"]).exits(0);

    // Approved and repeated, the switch to a generated code still takes the cards.
    let generated = ["slot", "mode", "ca", "generated", "--output", "json"];
    let (id, code) = waits(scene.order(&generated, &[]));
    scene.stage.run_as(ANNA, &["approve", &id, &code]).exits(0);
    scene.order(&generated, &[Card("ben"), At("insert", &cancels)]).refused(1, 909);
    assert_eq!(scene.stage.slot_status("ca")["mode"], "manual");

    // Fewer users than now.
    let fewer = ["slot", "cards", "ca", "-k", "1", "--users", "anna,ben,carl", "--output", "json"];
    let (id, code) = waits(scene.order(&fewer, &[]));
    scene.stage.run_as(0, &["approve", &id, &code]).refused(77, 702);
    scene.stage.run_as(0, &["approve", &id, "--withdraw"]).exits(0);
    let (id, _) =
        waits(scene.order_with(&[HOLDERS, &["--output", "json"]].concat(), &[("--so-pin-file", SO_PIN)], &[]));
    scene.stage.run_as(0, &["approve", &id, "--withdraw"]).exits(0);
    let (id, _) = waits(scene.order(&["slot", "unblock", "ca", "--so-cards", "--output", "json"], &[]));
    scene.stage.run_as(0, &["approve", &id, "--withdraw"]).exits(0);
    let lost = ["card", "lost", "0303030303030303", "--credential", "user", "--output", "json"];
    let (id, _) = waits(scene.order(&lost, &[]));
    scene.stage.run_as(0, &["approve", &id, "--withdraw"]).exits(0);
}

#[test]
fn p04_the_last_try_of_a_card_is_answered_by_another_person_than_the_starter() {
    let scene = Scene::new(Kind::SoftHsm, &["ca"]);
    enrol(&scene);
    scene.order(DEACTIVATE, &[]).exits(0);
    scene.order(&["dual-control", "on"], &[]).exits(0);
    scene.card("anna").set_tries_left(Credential::SlotUser, 1);
    let asked = |view: &CeremonyView| {
        assert_eq!((view.question.as_deref(), view.tries_left), (Some("last-try"), Some(1)));
        for confirm in [&["ceremony", "answer", "yes"][..], &["ceremony", "answer", "yes", "--confirm", "last try"]] {
            scene.stage.run(confirm).refused(77, 908);
        }
        for (uid, number) in [(OTTO, 101), (STRANGER, 603)] {
            scene.stage.run_as(uid, &["ceremony", "answer", "yes"]).refused(77, number);
        }
        assert!(!scene.pad().is_asking());
        scene.stage.run_as(BEN, &["ceremony", "answer", "yes"]).exits(0);
    };
    scene.order(ACTIVATE, &[In("anna"), At("answer", &asked), Card("anna"), Card("carl")]).exits(0);
    assert_eq!(scene.card("anna").tries_left(Credential::SlotUser), 3);
}

#[test]
fn p04_the_last_try_of_a_card_is_made_alone_only_after_a_typed_text() {
    let scene = Scene::new(Kind::SoftHsm, &["ca"]);
    enrol(&scene);
    scene.order(DEACTIVATE, &[]).exits(0);
    scene.card("anna").set_tries_left(Credential::SlotUser, 1);
    let no = |_: &CeremonyView| says(&scene, &["no"]);
    let yes = |_: &CeremonyView| {
        scene.stage.run(&["ceremony", "answer", "yes"]).refused(2, 308);
        assert!(!scene.pad().is_asking());
        says(&scene, &["yes", "--confirm", "last try"]);
    };
    let acts = [In("anna"), At("answer", &no), Refused("anna", 308), In("anna"), At("answer", &yes), Card("anna")];
    let acts: Vec<Act<'_>> = acts.into_iter().chain([Card("carl")]).collect();
    scene.order(ACTIVATE, &acts).exits(0);
    // A wrong PIN at the last try blocks the card, and nobody is asked for it again.
    scene.order(DEACTIVATE, &[]).exits(0);
    scene.card("anna").set_tries_left(Credential::SlotUser, 1);
    let spent = scene.card("anna").tries_spent();
    let acts = [In("anna"), At("answer", &yes), MistypesLast(932), Card("ben"), Refused("anna", 932), Card("carl")];
    scene.order(ACTIVATE, &acts).exits(0);
    assert_eq!(scene.card("anna").tries_spent(), spent + 1);
}

#[test]
fn p28_strangers_and_auditors_begin_answer_and_cancel_nothing() {
    let scene = Scene::new(Kind::SoftHsm, &["ca"]);
    for (uid, number) in [(OTTO, 101), (STRANGER, 603)] {
        for order in [USERS, ACTIVATE, HOLDERS, &["card", "copy"], &["card", "erase", "--confirm", "erase"]] {
            scene.order_as(uid, order, &[], &[]).refused(77, number);
        }
    }
    let meddle = |_: &CeremonyView| {
        for (uid, number) in [(OTTO, 101), (STRANGER, 603)] {
            for order in [&["ceremony", "cancel"][..], &["ceremony", "answer", "yes"]] {
                scene.stage.run_as(uid, order).refused(77, number);
            }
        }
        scene.stage.run_as(OLGA, &["ceremony", "cancel"]).exits(77);
        scene.stage.run_as(STRANGER, &["ceremony", "watch"]).refused(77, 603);
    };
    let acts = [At("insert", &meddle), Card("anna"), Card("ben"), Card("carl")];
    scene.order_with(USERS, &[("--code-file", CODE)], &acts).exits(0);
}

/// Id and code of the request that a command was told to wait for.
#[track_caller]
fn waits(ran: Ran) -> (String, String) {
    let ran = ran.exits(2);
    let approval = &ran.json()["approval"];
    let id = approval["id"].as_u64().expect("an id").to_string();
    (id, approval["code"].as_str().expect("a code").to_owned())
}
