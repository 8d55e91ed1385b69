//! Cards that nobody here wrote: the card application of Nitrokey's devices, in a program of its
//! own behind a keypad. What it cannot do is refused by name.

use std::cell::{Cell, RefCell};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use slotwarden::status_json::CeremonyView;
use slotwarden_tests::custodians::Act::{At, Card, In, Mistypes, Refused, Says};
use slotwarden_tests::custodians::{Reader, Table};
use slotwarden_tests::excluded;
use slotwarden_tests::pcscd::Pcscd;

use crate::scene::{SLOTS, Scene, holders};

const CARDS: [&str; 5] = ["1", "2", "3", "copy", "other"];
/// Where the reader and the orders to its program are, in a folder.
const SOCKET: &str = "Pgp.sock";
const CONTROL: &str = "control";

/// The program, ended with this value.
struct Program(Child);

impl Program {
    fn start(folder: &Path) -> Self {
        let program = excluded::build("opcard-reader", "", "", "opcard-reader");
        let mut command = Command::new(program);
        command.arg(folder.join(SOCKET)).arg(folder.join(CONTROL)).args(CARDS);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("just built");
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut ready).expect("it speaks");
        assert_eq!(ready, "ready\n");
        Program(child)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Its reader; orders are lines.
struct Desk {
    orders: RefCell<(UnixStream, BufReader<UnixStream>)>,
    occupied: Cell<bool>,
}

impl Desk {
    fn at(folder: &Path) -> Self {
        let orders = UnixStream::connect(folder.join(CONTROL)).expect("it is ready");
        let answers = BufReader::new(orders.try_clone().expect("a socket can be shared"));
        let desk = Desk { orders: RefCell::new((orders, answers)), occupied: Cell::new(true) };
        desk.remove();
        desk
    }

    #[track_caller]
    fn order(&self, line: &str) -> String {
        let (orders, answers) = &mut *self.orders.borrow_mut();
        writeln!(orders, "{line}").expect("it listens");
        let mut answer = String::new();
        answers.read_line(&mut answer).expect("it answers");
        assert!(answer.starts_with("ok"), "{line}: {answer}");
        answer
    }
}

impl Reader for Desk {
    fn name(&self) -> &str {
        "Pgp"
    }
    fn insert(&self, card: &str, _: &Table) {
        self.order(&format!("insert {card}"));
        self.occupied.set(true);
    }
    fn remove(&self) {
        self.order("remove");
        self.occupied.set(false);
    }
    fn has_card(&self) -> bool {
        self.occupied.get()
    }
    fn types(&self, pins: &[&str]) {
        self.order(&format!("type {}", pins.join(" ")));
    }
    fn forget(&self) {}
}

/// A scene whose only reader is the program's, and a second hand at it.
fn scene(folder: &Path) -> (Program, Desk, Scene) {
    let program = Program::start(folder);
    let pcscd = Pcscd::for_sockets(&[("Pgp", &folder.join(SOCKET))]);
    let table = Table::new(vec![Box::new(Desk::at(folder))]);
    let orders = UnixStream::connect(folder.join(CONTROL)).expect("it is ready");
    let answers = BufReader::new(orders.try_clone().expect("a socket can be shared"));
    let hand = Desk { orders: RefCell::new((orders, answers)), occupied: Cell::new(false) };
    (program, hand, Scene::with(pcscd, table, |_| {}))
}

#[test]
fn a_set_lives_on_openpgp_cards_from_its_making_to_the_restore_of_its_key() {
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    let (_program, hand, scene) = scene(folder.path());
    let made = scene.create(2, 3);
    let key_id = scene.key_id();
    for slot in SLOTS {
        scene.has_keys_of(slot, &key_id);
    }
    println!("{}", scene.transcript(&made));
    let listed = scene.cards();
    let listed = listed["cards"].as_array().expect("a list");
    assert_eq!(listed.len(), 3);
    assert!(listed.iter().all(|card| card["profile"] == "openpgp" && card["standing"] == "in-force"), "{listed:?}");

    let verify = ["backup", "verify-set"];
    let _ = hand.order("count");
    scene
        .order(&verify, &[Card("1"), Says("yes"), Refused("1", 920), Refused("other", 928), Mistypes("3"), Says("no")])
        .exits(0);
    // The card that was read before is known without its PIN; a wrong PIN is one VERIFY more.
    assert_eq!(hand.order("count").trim(), "ok 19 commands, 20: 4, A4: 8, CA: 7");
    scene.order(&["card", "change-pin"], &[Card("2")]).exits(0);
    assert_eq!(hand.order("count").trim(), "ok 4 commands, 24: 1, A4: 2, CA: 1");
    scene
        .order(&["card", "copy"], &[Card("1"), Refused("1", 921), Refused("2", 922), Card("copy"), Says("no")])
        .exits(0);
    let _ = hand.order("count");
    scene.order(&["backup", "restore-key", "--slot", "ca"], &[Card("copy"), Refused("1", 920), Card("2")]).exits(0);
    // Three cards: what it is, twice asked for (ours are asked for first), tries, VERIFY, GET DATA.
    assert_eq!(hand.order("count").trim(), "ok 15 commands, 20: 3, A4: 6, CA: 6");
    scene.has_keys_of("ca", &key_id);
    assert_eq!(scene.key_id(), key_id);
}

#[test]
fn an_openpgp_card_takes_one_credential_and_says_when_it_is_blocked() {
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    let (_program, hand, scene) = scene(folder.path());
    scene.create(2, 3);
    let cancel = |_: &CeremonyView| drop(scene.stage.run(&["ceremony", "cancel"]).exits(0));
    // The share of a set in force is not written over by another credential.
    let code = scene.stage.secret_file(crate::scene::CODE);
    let code = code.to_str().expect("ASCII");
    let (one, none) = (holders(1), ["slot", "cards", "ca", "-k", "1", "--code-file", code, "--users"]);
    let users = [&none[..], &[&one]].concat();
    scene.order(&users, &[Refused("1", 922), At("insert", &cancel)]).refused(1, 909);

    // Nor is it erased by another one's name: the card has one place for all.
    let erase = ["card", "erase", "--credential", "user", "--confirm", "erase"];
    scene.order(&erase, &[Refused("1", 927), At("insert", &cancel)]).refused(1, 909);
    scene.order(&["backup", "verify-set"], &[Card("1"), Says("no")]).exits(0);

    // Three wrong ones: the last only after a question.
    let last = |_: &CeremonyView| {
        scene.stage.run(&["ceremony", "answer", "yes"]).refused(2, 308);
        scene.stage.run(&["ceremony", "answer", "yes", "--confirm", "last try"]).exits(0);
    };
    let wrong = |_: &CeremonyView| drop(hand.order("type 111111"));
    let acts = [
        In("3"),
        At("pin", &wrong),
        At("pin", &wrong),
        At("answer", &last),
        At("pin", &wrong),
        // Once when it was blocked, and once more before anybody types.
        Refused("3", 932),
        Refused("3", 932),
        At("insert", &cancel),
    ];
    scene.order(&["backup", "verify-set"], &acts).refused(1, 909);
}
