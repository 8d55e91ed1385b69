//! A cluster of appliances, each with a token of its own: keys travel in packages that are carried by
//! hand, and by an exchange without a hand.
//!
//! Nodes join by fingerprints that people compare and by the cards of the backup key. What is tried then is
//! what the keys do: a signature made on one node verifies against the public key of another.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use slotwarden_tests::custodians::Act::Card;
use slotwarden_tests::custodians::{Reader, Table};
use slotwarden_tests::modules::{Bench, Kind, SO_PIN};
use slotwarden_tests::pcscd::Pcscd;
use slotwarden_tests::stage::{Ran, begin, run};
use tempfile::TempDir;

use crate::scene::{CODE, SLOTS, Scene, calls, counting};

/// Appliances, and a stick that people carry between them.
pub(crate) struct Nodes {
    scenes: Vec<Scene>,
    stick: TempDir,
}

impl Nodes {
    /// So many nodes that do not know one another; `more` is added to the configuration of each.
    pub(crate) fn strangers(kinds: &[Kind], more: impl Fn(usize) -> String) -> Self {
        Nodes::before(kinds.iter().map(|kind| Bench::new(*kind, SLOTS.len())).collect(), more)
    }

    /// The same on these modules without tokens.
    fn before(benches: Vec<Bench>, more: impl Fn(usize) -> String) -> Self {
        let scenes = benches.into_iter().enumerate().map(|(number, bench)| {
            let pcscd = Pcscd::start(&["Front"]);
            let table = Table::new(vec![Box::new(pcscd.pad(0).clone()) as Box<dyn Reader>]);
            Scene::before(bench, pcscd, table, |stage| {
                let others = more(number);
                stage.more += &format!("[sync]\nname = \"node-{number}\"\n{others}");
            })
        });
        let stick = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
        Nodes { scenes: scenes.collect(), stick }
    }

    /// A cluster: the first node has a backup key on three cards, of which two suffice.
    pub(crate) fn cluster(kinds: &[Kind], more: impl Fn(usize) -> String) -> Self {
        Nodes::strangers(kinds, more).joined()
    }

    /// Makes strangers a cluster.
    fn joined(self) -> Self {
        let nodes = self;
        nodes.at(0).create(2, 3);
        for number in 1..nodes.count() {
            nodes.invite(0, number);
            for other in 1..number {
                nodes.follow(other, &nodes.file(&format!("roster-{number}")));
            }
            nodes.join(number, 0);
        }
        // U came with the others' restore; the first node has it from its cards as well.
        nodes.at(0).order(&["backup", "restore-key"], &[Card("1"), Card("2")]).exits(0);
        nodes
    }

    pub(crate) fn at(&self, number: usize) -> &Scene {
        &self.scenes[number]
    }

    pub(crate) fn at_mut(&mut self, number: usize) -> &mut Scene {
        &mut self.scenes[number]
    }

    pub(crate) fn count(&self) -> usize {
        self.scenes.len()
    }

    pub(crate) fn file(&self, name: &str) -> String {
        self.path(name).to_str().expect("ASCII").to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.stick.path().join(name)
    }

    pub(crate) fn fingerprint(&self, number: usize) -> String {
        let shown = self.at(number).stage.run(&["cluster", "show", "--output", "json"]).exits(0).json();
        shown["node_fingerprint"].as_str().expect("every node has one").to_owned()
    }

    #[track_caller]
    fn invite(&self, by: usize, whom: usize) {
        let (request, roster) = (self.file(&format!("request-{whom}")), self.file(&format!("roster-{whom}")));
        self.at(whom).stage.run(&["cluster", "request", &request]).exits(0);
        let fingerprint = self.fingerprint(whom);
        self.once_nothing_travels(by, &["cluster", "invite", &request, &roster, "--fingerprint", &fingerprint]);
    }

    #[track_caller]
    fn join(&self, whom: usize, by: usize) {
        let (roster, fingerprint) = (self.file(&format!("roster-{whom}")), self.fingerprint(by));
        self.at(whom).stage.run(&["cluster", "join", &roster, "--fingerprint", &fingerprint]).exits(0);
        for card in ["1", "2", "3"] {
            self.at(whom).table.brings(card, self.at(by).table.shared(card));
            self.at(whom).table.knows(card, &self.at(by).table.pin(card));
        }
        self.at(whom).order(&["backup", "restore-key"], &[Card("1"), Card("2")]).exits(0);
    }

    #[track_caller]
    fn follow(&self, at: usize, roster: &str) {
        self.once_nothing_travels(at, &["cluster", "follow", roster]);
    }

    /// Orders it, once no package is under way: where packages travel by themselves one may be at any time.
    #[track_caller]
    fn once_nothing_travels(&self, at: usize, order: &[&str]) {
        let begun = Instant::now();
        loop {
            let ran = self.at(at).stage.run(order);
            if ran.exit != 75 || begun.elapsed() > Duration::from_secs(30) {
                ran.exits(0);
                return;
            }
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Has a node make a package, as `name` on the stick.
    #[track_caller]
    fn export(&self, from: usize, name: &str) -> String {
        let file = self.file(name);
        self.at(from).stage.run(&["sync", "export", &file]).exits(0);
        file
    }

    #[track_caller]
    fn import(&self, at: usize, file: &str) -> Ran {
        self.at(at).stage.run(&["sync", "import", file, "--confirm", "import"])
    }

    pub(crate) fn tool(&self, at: usize, arguments: &[&str]) -> Ran {
        self.tool_in(at, "ca", arguments)
    }

    fn tool_in(&self, at: usize, token: &str, arguments: &[&str]) -> Ran {
        let mut tool = self.at(at).stage.bench.pkcs11_tool();
        run(tool.args(["--token-label", token, "--login", "--pin", CODE]).args(arguments))
    }

    /// Makes a key pair that can leave.
    #[track_caller]
    pub(crate) fn make_key(&self, at: usize, label: &str, id: &str) {
        let make = ["--keypairgen", "--key-type", "EC:prime256v1", "--usage-sign", "--extractable"];
        self.tool(at, &[&make[..], &["--label", label, "--id", id]].concat()).exits(0);
    }

    #[track_caller]
    pub(crate) fn destroy_key(&self, at: usize, id: &str) {
        for kind in ["privkey", "pubkey"] {
            self.tool(at, &["--delete-object", "--type", kind, "--id", id]).exits(0);
        }
    }

    pub(crate) fn has_key(&self, at: usize, id: &str) -> bool {
        let shown = self.tool(at, &["--list-objects", "--type", "privkey"]).exits(0).stdout;
        shown.lines().any(|line| line.trim().strip_prefix("ID:").is_some_and(|found| found.trim() == id))
    }

    /// What the key of this id signs at one node verifies against its public key at another.
    #[track_caller]
    pub(crate) fn is_the_same_key(&self, id: &str, signs: usize, knows: usize) {
        let [public, message, digest, signature] =
            ["public.der", "message", "digest", "signature"].map(|name| self.path(&format!("{id}-{signs}-{name}")));
        let text = |path: &Path| path.to_str().expect("ASCII").to_owned();
        fs::write(&message, b"signed on another node").expect("the folder is there");
        fs::write(&digest, Sha256::digest(b"signed on another node")).expect("the folder is there");
        let read = ["--read-object", "--type", "pubkey", "--id", id, "--output-file", &text(&public)];
        self.tool(knows, &read).exits(0);
        let files = ["--input-file", &text(&digest), "--output-file", &text(&signature)];
        let sign = ["--sign", "--id", id, "--mechanism", "ECDSA", "--signature-format", "openssl"];
        self.tool(signs, &[&sign[..], &files].concat()).exits(0);
        let mut openssl = Command::new("openssl");
        openssl.args(["dgst", "-sha256", "-keyform", "DER", "-verify"]).arg(&public);
        run(openssl.arg("-signature").arg(&signature).arg(&message)).exits(0);
    }

    /// How the member `of` stands, as the node `at` knows it.
    pub(crate) fn standing(&self, at: usize, of: usize) -> String {
        let status: Value = self.at(at).stage.run(&["status", "--output", "json"]).json();
        let name = format!("node-{of}");
        let members = status["cluster"]["members"].as_array().expect("it is in a cluster").clone();
        let found = members.iter().find(|member| member["name"] == name.as_str());
        found.unwrap_or_else(|| panic!("{name} is no member: {status}"))["standing"]
            .as_str()
            .expect("a word")
            .to_owned()
    }

    /// Of a private key in the first slot: its state, and the numbers of the members that are named with it.
    #[track_caller]
    fn readiness(&self, at: usize, label: &str) -> (String, Vec<usize>) {
        let listed =
            self.at(at).stage.run(&["sync", "status", "--keys", "--slot", SLOTS[0], "--output", "json"]).json();
        let keys = listed["slots"][0]["keys"].as_array().unwrap_or_else(|| panic!("no list: {listed}"));
        let is_it = |key: &&Value| key["title"]["label"] == label && key["title"]["class"] == "private";
        let key = keys.iter().find(is_it).unwrap_or_else(|| panic!("{label} is not listed: {listed}"));
        let members = ["not_known_at", "still_at"].map(|list| key[list].as_array().expect("a list").clone()).concat();
        let number = |name: &Value| name.as_str()?.strip_prefix("node-")?.parse().ok();
        let state = key["state"].as_str().expect("a word").to_owned();
        (state, members.iter().map(|name| number(name).expect("a member")).collect())
    }
}

#[test]
fn nodes_join_by_fingerprint_and_cards_and_keys_travel_in_any_order() {
    let nodes = Nodes::cluster(&[Kind::SoftHsm, Kind::Kryoptic, Kind::SoftHsm], |_| String::new());
    nodes.make_key(0, "first", "01");
    nodes.make_key(1, "second", "02");
    nodes.at(0).stage.run(&["sync", "status", "--keys", "--slot", "nobody"]).refused(1, 102);
    let (from_0, from_1) = (nodes.export(0, "a"), nodes.export(1, "b"));
    let is = |at: usize, label: &str, state: &str, members: &[usize]| {
        assert_eq!(nodes.readiness(at, label), (state.to_owned(), members.to_vec()), "{label} as {at} knows it");
    };
    is(0, "first", "not-yet-known", &[1, 2]);
    nodes.import(2, &from_1).exits(0);
    nodes.import(2, &from_0).exits(0);
    // The sources are known to have what they sent, and nobody has heard more.
    is(2, "first", "not-yet-known", &[1]);
    is(2, "second", "not-yet-known", &[0]);
    nodes.import(1, &from_0).exits(0);
    nodes.import(0, &from_1).exits(0);
    for id in ["01", "02"] {
        for (signs, knows) in [(0, 1), (1, 2), (2, 0)] {
            nodes.is_the_same_key(id, signs, knows);
        }
    }
    // The same again does nothing, and an older one is refused by that name.
    let ran = nodes.import(2, &from_0).exits(0);
    assert!(ran.stdout.contains("applied before"), "{}", ran.stdout);
    let newer = nodes.export(0, "newer");
    nodes.import(1, &newer).exits(0);
    let ran = nodes.import(1, &from_0);
    assert_ne!(ran.exit, 0, "{}", ran.stdout);

    // Each told the others what it has.
    for from in 0..3 {
        let file = nodes.export(from, &format!("receipt-{from}"));
        for at in (0..3).filter(|at| *at != from) {
            nodes.import(at, &file).exits(0);
        }
    }
    for at in 0..3 {
        for of in (0..3).filter(|of| *of != at) {
            assert_eq!(nodes.standing(at, of), "in-sync", "{of} as {at} knows it");
        }
        for label in ["first", "second"] {
            is(at, label, "ready-to-use", &[]);
        }
    }
    // Nobody deletes it where it was not destroyed, and it is called what it was called.
    nodes.destroy_key(0, "01");
    let without = nodes.export(0, "without");
    is(0, "first", "removed", &[1, 2]);
    is(0, "second", "ready-to-use", &[]);
    let shown = nodes.at(0).stage.run(&["sync", "status", "--keys"]).exits(2).stdout;
    for line in [
        "  private EC \"first\", id 01: removed; still at node-1, node-2",
        "  private EC \"second\", id 02: ready to use",
        "  public EC \"second\", id 02: ready to use",
    ] {
        assert!(shown.lines().any(|found| found == line), "{line}: {shown}");
    }
    nodes.import(1, &without).exits(0);
    nodes.destroy_key(1, "01");
    nodes.import(0, &nodes.export(1, "without-too")).exits(0);
    is(0, "first", "removed", &[2]);
}

#[test]
fn a_slot_that_members_configure_later_is_one_slot_and_until_then_it_is_said_who_has_none() {
    const LATER: &str = "issuing";
    let mut nodes = Nodes::cluster(&[Kind::SoftHsm, Kind::SoftHsm], |_| String::new());
    let without = |nodes: &Nodes, at: usize| {
        let status = nodes.at(at).stage.run(&["sync", "status", "--output", "json"]).json();
        let names = status["synchronised"][LATER]["not_at"].as_array().unwrap_or_else(|| panic!("no slot: {status}"));
        names.iter().map(|name| name.as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    let configure = |nodes: &mut Nodes, at: usize| {
        let scene = nodes.at_mut(at);
        scene.stage.stop();
        scene.stage.bench.make_token_with(LATER, SO_PIN, CODE);
        scene.stage.slot(LATER, LATER, "issuing-app");
        scene.start();
        scene.stage.activate(LATER, CODE).exits(0);
    };
    configure(&mut nodes, 0);
    nodes.import(0, &nodes.export(1, "before")).exits(0);
    assert_eq!(without(&nodes, 0), ["node-1"]);
    let shown = nodes.at(0).stage.run(&["sync", "status"]).exits(0).stdout;
    let line = "issuing: not at node-1, which has no slot of this uid";
    assert!(shown.lines().any(|found| found == line), "{shown}");

    configure(&mut nodes, 1);
    for (from, at) in [(0, 1), (1, 0)] {
        nodes.import(at, &nodes.export(from, &format!("after-{from}"))).exits(0);
        assert_eq!(without(&nodes, at), [] as [&str; 0], "as {at} knows it");
    }
}

#[test]
fn p25_a_key_that_was_destroyed_does_not_come_back_and_another_one_of_its_name_refuses_all() {
    let nodes = Nodes::cluster(&[Kind::SoftHsm, Kind::SoftHsm], |_| String::new());
    nodes.make_key(0, "first", "01");
    nodes.import(1, &nodes.export(0, "a")).exits(0);
    nodes.is_the_same_key("01", 1, 0);
    nodes.destroy_key(0, "01");
    // The other node has it still, and says so.
    nodes.export(0, "without");
    nodes.import(0, &nodes.export(1, "b")).exits(0);
    assert!(!nodes.has_key(0, "01"), "it was destroyed on purpose");
    assert!(nodes.has_key(1, "01"), "nothing is deleted");
    assert_eq!(nodes.standing(0, 1), "diverged");

    // Two keys of one name and another value: nothing of the package is made.
    nodes.make_key(0, "twin", "02");
    nodes.make_key(0, "other", "03");
    nodes.make_key(1, "twin", "02");
    let file = nodes.export(0, "twins");
    let ran = nodes.import(1, &file).refused(1, 1003);
    assert!(!ran.stderr.is_empty());
    assert!(!nodes.has_key(1, "03"), "all or nothing");
    nodes.destroy_key(1, "02");
    // The way out: one of the two is destroyed. Its name is one that was destroyed here, so the other does not come.
    nodes.import(1, &file).exits(0);
    nodes.is_the_same_key("03", 1, 0);
    assert!(!nodes.has_key(1, "02"), "it was destroyed on purpose");
}

#[test]
fn p22_strangers_wrong_fingerprints_and_removed_nodes_are_refused_by_name() {
    let nodes = Nodes::strangers(&[Kind::SoftHsm, Kind::SoftHsm, Kind::SoftHsm], |_| String::new());
    nodes.at(0).create(2, 3);
    let (request, roster) = (nodes.file("request"), nodes.file("roster-1"));
    nodes.at(1).stage.run(&["cluster", "request", &request]).exits(0);
    let wrong = nodes.fingerprint(0);
    let invite = |fingerprint: &str| {
        nodes.at(0).stage.run(&["cluster", "invite", &request, &roster, "--fingerprint", fingerprint])
    };
    invite(&wrong).refused(1, 1108);
    nodes.at(0).stage.run(&["cluster", "invite", &request, &roster]).refused(1, 650);
    assert!(!nodes.path("roster-1").exists());
    nodes.at(0).stage.run(&["sync", "export", &nodes.file("early")]).refused(1, 1101);
    nodes.at(0).stage.run(&["sync", "status", "--keys"]).refused(1, 1101);
    nodes.at(0).stage.run(&["sync", "status", "--keys", "--slot", SLOTS[0]]).refused(1, 1101);
    // Without the list it says the same in words, and is no refusal.
    let shown = nodes.at(0).stage.run(&["sync", "status"]).exits(0).stdout;
    assert!(shown.contains("this node is in no cluster"), "{shown}");
    let mut changed = fs::read(&request).expect("it was written");
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    fs::write(nodes.path("changed"), changed).expect("the folder is there");
    let ran = nodes.at(0).stage.run(&["cluster", "invite", &nodes.file("changed"), &roster, "--fingerprint", &wrong]);
    assert_ne!(ran.exit, 0);
    invite(&nodes.fingerprint(1)).exits(0);
    let join = |at: usize, fingerprint: &str| {
        nodes.at(at).stage.run(&["cluster", "join", &roster, "--fingerprint", fingerprint])
    };
    join(1, &nodes.fingerprint(1)).refused(1, 1108);
    // Who was not invited is no member, whatever file it has.
    let ran = join(2, &nodes.fingerprint(0));
    assert_ne!(ran.exit, 0, "{}", ran.stdout);
    nodes.join(1, 0);
    nodes.at(0).order(&["backup", "restore-key"], &[Card("1"), Card("2")]).exits(0);
    nodes.make_key(0, "first", "01");
    nodes.import(1, &nodes.export(0, "a")).exits(0);
    nodes.make_key(1, "second", "02");
    let from_removed = nodes.export(1, "b");
    let ran = nodes.at(0).stage.run(&["cluster", "remove", "node-1", &nodes.file("roster-2")]).refused(2, 652);
    assert!(ran.stderr.contains("remove node-1"), "{}", ran.stderr);
    let remove = ["cluster", "remove", "node-1", &nodes.file("roster-2"), "--confirm", "remove node-1"];
    nodes.at(0).stage.run(&remove).exits(0);
    let ran = nodes.import(0, &from_removed);
    assert_ne!(ran.exit, 0, "{}", ran.stdout);
    assert!(!nodes.has_key(0, "02"));
}

#[test]
fn p24_after_each_of_8_kills_in_a_package_every_key_of_it_comes_and_none_before_it_was_ordered() {
    const KILLS: u32 = 8;
    let mut nodes = Nodes::cluster(&[Kind::SoftHsm, Kind::SoftHsm], |_| String::new());
    let (mut whole, mut absent, mut takes) = (0, 0, (Duration::ZERO, Duration::ZERO));
    for round in 0..=KILLS {
        let ids: Vec<String> = (0..3).map(|key| format!("{:02x}", 16 + round * 3 + key)).collect();
        let kind = ["--keypairgen", "--key-type", "EC:prime256v1", "--usage-sign", "--extractable"];
        for (token, id) in SLOTS.iter().flat_map(|token| ids.iter().map(move |id| (token, id))) {
            nodes.tool_in(0, token, &[&kind[..], &["--label", &format!("{token} {id}"), "--id", id]].concat()).exits(0);
        }
        let file = nodes.export(0, &format!("package-{round}"));
        // The first kills strike while it is planned, the others while it is made; each phase is timed first.
        let go_on = ["sync", "import", "--confirm", "import"];
        let making = round == 0 || round > KILLS / 2;
        if making {
            let planned = Instant::now();
            nodes.at(1).stage.run(&["sync", "import", &file]).refused(2, 649);
            if round == 0 {
                let made = Instant::now();
                nodes.at(1).stage.run(&go_on).exits(0);
                takes = (made - planned, made.elapsed());
                continue;
            }
        }
        let mut command = nodes.at(1).stage.command();
        let import = begin(if making { command.args(go_on) } else { command.args(["sync", "import", &file]) });
        let (phase, step) = if making { (takes.1, round - KILLS / 2) } else { (takes.0, round) };
        thread::sleep(phase * step / (KILLS / 2 + 1));
        nodes.at_mut(1).stage.kill();
        drop(import.end());
        nodes.at_mut(1).start();
        nodes.at(1).stage.wait("nothing stands still", |status| status.transfer.is_none());
        let there = |nodes: &Nodes| {
            let shown =
                SLOTS.map(|token| nodes.tool_in(1, token, &["--list-objects", "--type", "privkey"]).exits(0).stdout);
            let has =
                |shown: &String, id: &String| shown.lines().any(|line| line.trim() == format!("ID:         {id}"));
            shown.iter().map(|shown| ids.iter().filter(|id| has(shown, id)).count()).sum::<usize>()
        };
        match there(&nodes) {
            0 => absent += 1,
            6 => whole += 1,
            some => panic!("{some} of 6 keys after the kill of round {round}"),
        }
        // The same again brings what is missing, or says that nothing is.
        nodes.import(1, &file).exits(0);
        assert_eq!(there(&nodes), 6, "round {round}");
    }
    println!("{absent} kills before the order was durable, {whole} after it");
    assert!(absent > 0 && whole > 0, "the kills did not strike on both sides: {absent}, {whole}");
}

#[test]
fn a_package_whose_slots_stay_closed_is_given_up_and_brings_its_keys_when_it_is_carried_again() {
    const ATTEMPTS: u32 = 20;
    let mut nodes = Nodes::cluster(&[Kind::SoftHsm, Kind::SoftHsm], |_| String::new());
    let abandon = ["backup", "abandon", "--confirm", "abandon"];
    for attempt in 1..=ATTEMPTS {
        let id = format!("{:02x}", 16 + attempt);
        for token in SLOTS {
            let kind = ["--keypairgen", "--key-type", "EC:prime256v1", "--usage-sign", "--extractable"];
            nodes.tool_in(0, token, &[&kind[..], &["--label", token, "--id", &id]].concat()).exits(0);
        }
        let file = nodes.export(0, &format!("package-{attempt}"));
        nodes.at(1).stage.run(&["sync", "import", &file]).refused(2, 649);
        nodes.at(1).stage.run(&abandon).refused(1, 1020);
        // Power goes between the order and its end, and nobody opens the slots afterwards.
        let import = begin(nodes.at(1).stage.command().args(["sync", "import", "--confirm", "import"]));
        thread::sleep(Duration::from_millis(4) * attempt);
        nodes.at_mut(1).stage.kill();
        drop(import.end());
        let stands_still = nodes.at_mut(1).stage.start().transfer.is_some();
        let elsewhere = nodes.file(&format!("elsewhere-{attempt}"));
        if stands_still {
            nodes.at(1).stage.run(&["backup", "export", &elsewhere]).refused(75, 1001);
            nodes.at(1).stage.run(&abandon).exits(0);
        }
        for slot in SLOTS {
            nodes.at(1).stage.activate(slot, CODE).exits(0);
        }
        nodes.at(1).stage.wait("nothing is under way", |status| status.transfer.is_none());
        if stands_still {
            nodes.import(1, &file).exits(0);
            for token in SLOTS {
                let listed = nodes.tool_in(1, token, &["--list-objects", "--type", "privkey"]).exits(0).stdout;
                assert!(listed.contains(&format!("ID:         {id}")), "{listed}");
            }
            nodes.at(1).stage.run(&["backup", "export", &elsewhere]).exits(0);
            return;
        }
    }
    panic!("none of {ATTEMPTS} kills struck between the order and its end");
}

#[test]
fn p26_p27_under_dual_control_a_member_and_a_package_need_a_second_person_each() {
    let bob = "[[person]]\nname = \"bob\"\nuids = [54499]\nroles = [\"administrator\"]\n";
    let nodes = Nodes::strangers(&[Kind::SoftHsm; 3], |_| bob.to_owned());
    nodes.at(0).create(2, 3);
    nodes.at(0).stage.run(&["dual-control", "on"]).exits(0);
    let requests = [1, 2].map(|number| {
        let request = nodes.file(&format!("request-{number}"));
        nodes.at(number).stage.run(&["cluster", "request", &request]).exits(0);
        (request, nodes.fingerprint(number))
    });
    let roster = nodes.file("roster-1");
    let invite = |number: usize| {
        let (request, fingerprint) = &requests[number - 1];
        nodes.at(0).stage.run(&["cluster", "invite", request, &roster, "--fingerprint", fingerprint])
    };
    let approve = |ran: Ran| {
        let ran = ran.exits(2);
        let word = |after: &str| {
            let rest = ran.stderr.split(after).nth(1).unwrap_or_else(|| panic!("no {after:?}: {}", ran.stderr));
            rest.chars().take_while(|char| char.is_ascii_alphanumeric() || *char == '-').collect::<String>()
        };
        let (id, code) = (word("request "), word("code "));
        nodes.at(0).stage.run_as(54_499, &["approve", &id, &code]).exits(0);
    };
    // The cluster, then its second member; what was approved is this node and no other.
    approve(invite(1));
    let ran = invite(1);
    let told = nodes.at(0).stage.run_as(54_499, &["approve"]).stdout;
    let whom = format!("node-1 comes, with the fingerprint {}", requests[0].1);
    assert!(told.contains(&whom), "the approver sees whom: {told}");
    approve(ran);
    invite(2).exits(2);
    assert!(!nodes.path("roster-1").exists());
    invite(1).exits(0);
    let shown = nodes.at(0).stage.run(&["cluster", "show", "--output", "json"]).exits(0).json();
    let members: Vec<&Value> = shown["cluster"]["members"].as_array().expect("a list").iter().collect();
    assert_eq!(members.iter().filter(|member| member["name"] == "node-1").count(), 1, "{shown}");
    assert_eq!(members.len(), 2, "{shown}");

    nodes.join(1, 0);
    nodes.make_key(0, "first", "01");
    let file = nodes.file("a");
    let export = |to: &str| nodes.at(0).stage.run(&["sync", "export", &file, "--to", "node-1", "--slot", to]);
    approve(export("ca"));
    export("tsa").exits(2);
    assert!(!nodes.path("a").exists());
    export("ca").exits(0);
    nodes.import(1, &file).exits(0);
    nodes.is_the_same_key("01", 1, 0);
}

#[test]
fn p21_every_damaged_package_is_refused_and_nothing_is_imported() {
    let nodes = Nodes::before(vec![Bench::new(Kind::SoftHsm, SLOTS.len()), counting()], |_| String::new()).joined();
    nodes.make_key(0, "first", "01");
    let file = nodes.export(0, "a");
    let whole = fs::read(&file).expect("it was written");
    let damaged = nodes.file("damaged");
    // Once its keys were counted after the last ceremony, the module is left alone.
    nodes.at(1).stage.wait("the keys are counted", |status| status.slots.iter().all(|slot| slot.keys.is_some()));
    let before = calls(nodes.at(1));
    assert!(!before.is_empty(), "the module's calls are written down");
    let refuses = |bytes: &[u8]| {
        fs::write(&damaged, bytes).expect("the folder is there");
        let ran = nodes.import(1, &damaged);
        assert_ne!(ran.exit, 0, "{}", ran.stdout);
    };
    for place in (0..whole.len()).step_by(whole.len() / 24) {
        let mut flipped = whole.clone();
        flipped[place] ^= 0x10;
        refuses(&flipped);
        refuses(&whole[..place]);
    }
    refuses(&[&whole[..], b"x"].concat());
    // A package that is whole, and for somebody else: its own source cannot open it.
    let ran = nodes.import(0, &file);
    assert_ne!(ran.exit, 0, "{}", ran.stdout);
    assert_eq!(calls(nodes.at(1)), before, "no call of the module");
    assert!(!nodes.has_key(1, "01"));
    nodes.import(1, &file).exits(0);
    nodes.is_the_same_key("01", 1, 0);
}
