//! Ceremonies with the real program, from the command line to the card: the daemon on SoftHSM and
//! the real pcscd, readers with a keypad and cards of the simulator, people who do what the
//! program asks of them.
//!
//! Needs root: each test has a pcscd of its own in a mount namespace ([`Pcscd`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use slotwarden_sim::cards::Card;
use slotwarden_tests::modules::{Kind, SO_PIN};
use slotwarden_tests::pcscd::Pcscd;
use slotwarden_tests::stage::{Begun, Ran, Stage, begin};
use slotwarden_tests::terminal::Terminal;

/// Longest wait for one ceremony.
const PATIENCE: Duration = Duration::from_secs(90);
/// How long people take to read what they are asked.
const READING: Duration = Duration::from_millis(400);
/// The PIN that a fresh card of the simulator comes with, and those that people choose.
const FRESH: &str = "123456";
const CODE: &str = "manual code one";
const PERSONS: &str = "\
[[person]]\nname = \"alice\"\nuids = [0]\nroles = [\"administrator\", \"auditor\"]\n\
[[person]]\nname = \"bob\"\nuids = [54331]\nroles = [\"custodian\"]\n\
[[person]]\nname = \"carol\"\nuids = [54332]\nroles = [\"custodian\"]\n";

/// An appliance with one reader, at the level that uses cards, and people with cards.
struct Scene {
    pcscd: Pcscd,
    stage: Stage,
    cards: HashMap<u8, Arc<Mutex<Card>>>,
    pins: HashMap<u8, &'static str>,
    /// The card in the reader.
    inside: Option<u8>,
}

impl Scene {
    fn new() -> Self {
        let pcscd = Pcscd::start(&["Front"]);
        let mut stage = Stage::new(Kind::SoftHsm, 1);
        stage.bench.make_token_with("ca", SO_PIN, CODE);
        stage.slot("ca", "ca", "signer");
        stage.top = "security_level = \"cards\"".to_owned();
        stage.more = PERSONS.to_owned();
        stage.open_to_all();
        stage.start();
        stage.run_with(&["slot", "activate", "ca"], "--code-file", CODE).exits(0);
        Scene { pcscd, stage, cards: HashMap::new(), pins: HashMap::new(), inside: None }
    }

    fn status(&self) -> Value {
        self.stage.run(&["status", "--output", "json"]).json()
    }

    /// Does what a ceremony asks until its command ends; `cards`: the serials in the order in which
    /// they are inserted.
    fn people_do(&mut self, mut running: Begun, cards: &[u8], answers: &[&str]) -> Ran {
        let (mut cards, mut answers) = (cards.iter(), answers.iter());
        let until = Instant::now() + PATIENCE;
        let mut done = None;
        loop {
            if let Some(ran) = running.try_end() {
                return ran;
            }
            assert!(Instant::now() < until, "it does not end: {}", self.status());
            let ceremony = self.status()["ceremony"].clone();
            let changes = ceremony["changes"].as_u64();
            if changes.is_none() || changes == done {
                thread::sleep(Duration::from_millis(50));
                continue;
            }
            done = changes;
            // The one who has the program before them reads it first.
            thread::sleep(READING);
            self.does(&ceremony, &mut cards, &mut answers);
        }
    }

    fn does<'a>(
        &mut self,
        ceremony: &Value,
        cards: &mut impl Iterator<Item = &'a u8>,
        answers: &mut impl Iterator<Item = &'a &'a str>,
    ) {
        let pad = self.pcscd.pad(0);
        match ceremony["wait"].as_str().expect("a word") {
            "insert" => {
                let number = *cards.next().unwrap_or_else(|| panic!("one card more than was thought of: {ceremony}"));
                let card =
                    self.cards.entry(number).or_insert_with(|| Arc::new(Mutex::new(Card::new([number; 8])))).clone();
                pad.insert(card);
                self.inside = Some(number);
            }
            "pin" => {
                let number = self.inside.expect("a card is inside");
                pad.types(&[self.pins.get(&number).copied().unwrap_or(FRESH)]);
            }
            "new-pin" => {
                let number = self.inside.expect("a card is inside");
                let old = self.pins.get(&number).copied().unwrap_or(FRESH);
                let new = if old == "918273" { "827364" } else { "918273" };
                pad.types(&[old, new, new]);
                self.pins.insert(number, new);
            }
            "remove" => {
                pad.remove();
                self.inside = None;
            }
            "answer" => {
                let answer = *answers.next().unwrap_or_else(|| panic!("nobody thought of this question: {ceremony}"));
                self.stage.run(&["ceremony", "answer", answer]).exits(0);
            }
            "read" | "write" | "hsm" | "computing" | "end" => {}
            other => panic!("{other} is no wait"),
        }
    }

    fn ceremony(&mut self, arguments: &[&str], cards: &[u8], answers: &[&str]) -> Ran {
        let running = begin(self.stage.command().args(arguments));
        self.people_do(running, cards, answers)
    }
}

/// The id that a command printed for `ceremony show`.
fn transcript_of(ran: &Ran) -> String {
    let text = format!("{}{}", ran.stdout, ran.stderr);
    let id = text.split("ceremony show ").nth(1).expect("the transcript is named");
    id.chars().take_while(char::is_ascii_hexdigit).collect()
}

#[test]
fn a_backup_key_is_made_verified_and_told_of_from_the_command_line() {
    let mut scene = Scene::new();
    scene.stage.run(&["backup", "verify-set"]).refused(1, 960);
    scene.stage.run(&["backup", "create-set", "-m", "2", "-n", "3", "--holders", "alice,bob"]).refused(1, 912);
    scene.stage.run(&["backup", "create-set", "-m", "2", "-n", "2", "--holders", "alice,eve"]).refused(1, 627);

    let create = ["backup", "create-set", "-m", "2", "-n", "2", "--holders", "bob,carol", "--reader", "Front"];
    let made = scene.ceremony(&create, &[1, 2], &[]).exits(0);
    println!("{}", made.stderr);
    assert!(made.stderr.contains("WARNING: as many cards are needed as there are"), "{}", made.stderr);
    assert!(made.stderr.contains("bob: insert the card for share 1 into Front"), "{}", made.stderr);
    assert!(made.stdout.contains("the backup key is made"), "{}", made.stdout);
    let status = scene.status();
    assert_eq!((&status["backup"]["m"], &status["backup"]["n"]), (&2.into(), &2.into()));
    assert_eq!(status["slots"][0]["backup_key"], true);
    assert_eq!(status["last_ceremony"]["end"], "done");

    let id = transcript_of(&made);
    let shown = scene.stage.run(&["ceremony", "show", &id]).exits(0).stdout;
    println!("{shown}");
    for text in
        ["any 2 of 2 cards, for bob and carol", "share was written and read back", "two different quorums", "good"]
    {
        assert!(shown.contains(text), "{text} is not in the transcript:\n{shown}");
    }
    let json = scene.stage.run(&["ceremony", "show", &id, "--output", "json"]).json();
    assert_eq!((&json["standing"], &json["ended"]["end"]), (&"signed".into(), &"done".into()));
    assert_eq!(json["key_id"], status["backup"]["key_id"]);
    assert_eq!(json["program_sha256"].as_str().map(str::len), Some(64));

    let verified = scene.ceremony(&["backup", "verify-set"], &[2, 1], &["no"]).exits(0);
    assert!(verified.stdout.contains("the cards are verified"), "{}", verified.stdout);
    let cards = scene.stage.run(&["card", "list", "--output", "json"]).json();
    let cards = cards["cards"].as_array().expect("a list");
    assert_eq!(cards.len(), 2);
    assert!(cards.iter().all(|card| card["standing"] == "in-force" && card["verified_s"].is_u64()), "{cards:?}");
    let serial = cards[0]["serial"].as_str().expect("a serial").to_owned();
    assert!(scene.stage.run(&["card", "info", &serial]).exits(0).stdout.contains("in force"));
    scene.stage.run(&["card", "info", "0011"]).refused(1, 967);
    scene.stage.run(&["card", "erase"]).refused(2, 642);

    // Transcripts, cards and sets are there after a restart.
    scene.stage.stop();
    scene.stage.start();
    assert_eq!(scene.stage.run(&["ceremony", "show", &id]).exits(0).stdout, shown);
    assert_eq!(scene.status()["backup"]["shares_in_use"], 2);
    let changed = scene.ceremony(&["card", "change-pin"], &[1], &[]).exits(0);
    assert!(changed.stdout.contains("the PIN of the card is changed"), "{}", changed.stdout);
}

#[test]
fn a_command_that_is_ended_leaves_its_ceremony_running_and_says_how_to_follow_it() {
    let mut scene = Scene::new();
    let running = begin(scene.stage.command().args(["card", "change-pin"]));
    let until = Instant::now() + PATIENCE;
    while scene.status()["ceremony"]["wait"] != "insert" {
        assert!(Instant::now() < until, "it does not begin");
        thread::sleep(Duration::from_millis(50));
    }
    scene.stage.run(&["card", "copy"]).refused(75, 902);
    // Time for the first line to be printed.
    thread::sleep(Duration::from_millis(500));
    running.interrupt();
    let ended = running.end().exits(130);
    assert!(ended.stderr.contains("ceremony goes on") && ended.stderr.contains("ceremony watch"), "{}", ended.stderr);
    assert_eq!(scene.status()["ceremony"]["wait"], "insert");
    let watching = begin(scene.stage.command().args(["ceremony", "watch"]));
    let watched = scene.people_do(watching, &[7], &[]).exits(0);
    assert!(watched.stderr.contains("type the old PIN"), "{}", watched.stderr);
    assert!(watched.stdout.contains("done"), "{}", watched.stdout);
    scene.stage.run(&["ceremony", "watch"]).refused(1, 903);
    scene.stage.run(&["ceremony", "cancel"]).refused(1, 903);
}

#[test]
fn a_slot_is_opened_and_unblocked_with_cards_from_the_command_line() {
    let mut scene = Scene::new();
    let file = scene.stage.path("code");
    std::fs::write(&file, CODE).expect("the stage's own directory");
    let file = file.to_str().expect("ASCII");
    let cards = ["slot", "cards", "ca", "-k", "1", "--users", "bob,carol", "--code-file", file];
    let made = scene.ceremony(&cards, &[1, 2], &[]).exits(0);
    assert!(made.stderr.contains("WARNING: one card suffices"), "{}", made.stderr);
    let (_, status) = scene.stage.status();
    let knowledge = &status["slots"][0]["knowledge"];
    assert_eq!(
        (&knowledge["kind"], &knowledge["cards"]["k"], &knowledge["cards"]["n"]),
        (&"cards".into(), &1.into(), &2.into())
    );

    scene.stage.run(&["slot", "deactivate", "ca"]).exits(0);
    let (exit, status) = scene.stage.status();
    assert_eq!((exit, &status["slots"][0]["waits_for"]["kind"]), (2, &"cards".into()));
    scene.stage.run(&["slot", "activate", "ca", "--code-file", file]).refused(1, 970);
    // A stranger's card is refused by name, and the ceremony goes on.
    let opened = scene.ceremony(&["slot", "activate", "ca"], &[9, 2], &[]).exits(0);
    assert!(opened.stderr.contains("not done: nothing of ours is on this card [928]"), "{}", opened.stderr);
    assert!(opened.stdout.contains("ca is active"), "{}", opened.stdout);
    let shown = scene.stage.run(&["ceremony", "show", &transcript_of(&opened)]).exits(0).stdout;
    assert!(shown.contains("what the cards gave went to the slot"), "{shown}");

    let so_pin = scene.stage.path("so-pin");
    std::fs::write(&so_pin, SO_PIN).expect("the stage's own directory");
    let so_pin = so_pin.to_str().expect("ASCII");
    let administrators = ["slot", "admin-cards", "ca", "-k", "1", "--holders", "carol", "--so-pin-file", so_pin];
    scene.stage.run(&administrators).refused(1, 325);
    scene.stage.run(&["slot", "deactivate", "ca"]).exits(0);
    let given = scene.ceremony(&administrators, &[3], &[]).exits(0);
    assert!(given.stderr.contains("nobody unblocks the slot"), "{}", given.stderr);
    scene.stage.run(&["slot", "unblock", "ca", "--so-pin-file", so_pin]).exits(1);
    let unblocked = scene.ceremony(&["slot", "unblock", "ca", "--so-cards"], &[3], &[]).exits(0);
    assert!(unblocked.stdout.contains("generated"), "{}", unblocked.stdout);
    let cards = scene.stage.run(&["card", "list"]).exits(0).stdout;
    assert!(cards.contains("HSM administrator") && cards.contains("slot user"), "{cards}");
}

#[test]
fn a_watcher_that_is_a_script_hears_each_change_as_json() {
    let mut scene = Scene::new();
    let running = begin(scene.stage.command().args(["card", "change-pin"]));
    let until = Instant::now() + PATIENCE;
    while scene.status()["ceremony"].is_null() {
        assert!(Instant::now() < until, "it does not begin");
        thread::sleep(Duration::from_millis(50));
    }
    let watching = begin(scene.stage.command().args(["ceremony", "watch", "--output", "json"]));
    thread::sleep(Duration::from_millis(500));
    scene.people_do(running, &[7], &[]).exits(0);
    let watched = watching.end().exits(0).stdout;
    let first = watched.lines().next().expect("the first wait");
    let first: Value = serde_json::from_str(first).expect("one change a line");
    assert_eq!((&first["wait"], &first["command"]), (&"insert".into(), &"change-card-pin".into()));
    assert!(watched.lines().filter(|line| line.contains("\"changes\"")).count() >= 3, "{watched}");
    assert!(watched.contains("\"end\": \"done\""), "{watched}");
}

#[test]
fn at_a_terminal_the_questions_are_asked_and_answered_where_the_command_runs() {
    let mut scene = Scene::new();
    let create = ["backup", "create-set", "-m", "2", "-n", "3", "--holders", "alice,bob,carol"];
    scene.ceremony(&create, &[1, 2, 3], &[]).exits(0);
    let mut terminal = Terminal::begin(scene.stage.command().args(["backup", "verify-set"]));
    // Drawn anew as the seconds pass.
    terminal.shows("insert a card into Front 00 00 (300 s left)");
    terminal.shows("\rstep 1 of 3: insert a card into Front 00 00 (299 s left)");
    let pad = scene.pcscd.pad(0);
    for (number, serial, answers) in
        [(1, "0101010101010101", ["yes\r"].as_slice()), (3, "0303030303030303", &["perhaps\r", "no\r"])]
    {
        pad.insert(scene.cards[&number].clone());
        terminal.shows(&format!("type the PIN of card {serial}"));
        pad.types(&[scene.pins[&number]]);
        terminal.shows(&format!("take card {serial} out of Front"));
        pad.remove();
        terminal.shows("is there another card to verify?");
        for answer in answers {
            terminal.shows("Type `yes` or `no`: ");
            terminal.types(answer);
        }
    }
    let (exit, shown) = terminal.ends();
    assert_eq!(exit, Some(0), "{shown}");
    assert!(shown.contains("the cards are verified"), "{shown}");
}
