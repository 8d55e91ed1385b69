//! One test's appliance with readers, two open slots, and custodians with cards.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use slotwarden::audit::unhex;
use slotwarden_core::card::Credential;
use slotwarden_sim::reader::Pad;
use slotwarden_tests::custodians::{Act, PATIENCE, Reader, Table};
use slotwarden_tests::modules::{Bench, Kind, SO_PIN};
use slotwarden_tests::pcscd::Pcscd;
use slotwarden_tests::stage::{Ran, Stage, run};

/// The code of every token.
pub(crate) const CODE: &str = "manual code one";
/// The slots.
pub(crate) const SLOTS: [&str; 2] = ["ca", "tsa"];
/// Somebody whom the configuration does not name.
pub(crate) const STRANGER: u32 = 54_499;

/// What the worker asks of its own accord, to see whether the tokens are still there.
const LOOKS: [&str; 2] = ["C_GetTokenInfo", "C_GetSessionInfo"];

/// In front of SoftHSM is the forwarding module, which writes every call down.
pub(crate) fn counting() -> Bench {
    let mut bench = Bench::forwarded(Kind::SoftHsm, SLOTS.len());
    bench.more.push(("FORWARD_COUNT".into(), "all".into()));
    bench
}

/// Calls of the module on the first slot's token, but for those that look whether it is there.
pub(crate) fn calls(scene: &Scene) -> Vec<String> {
    scene.stage.bench.calls_of("ca").into_iter().filter(|call| !LOOKS.contains(&call.as_str())).collect()
}

/// An appliance and everybody around it.
pub(crate) struct Scene {
    pub(crate) stage: Stage,
    pub(crate) table: Table,
    pub(crate) pcscd: Pcscd,
}

/// A person by number, as the configuration names them; their user is 54400 and the number.
pub(crate) fn person(number: u32) -> String {
    format!("custodian-{number}")
}

/// `custodian-1,custodian-2,…`: so many holders.
pub(crate) fn holders(count: u32) -> String {
    (1..=count).map(person).collect::<Vec<_>>().join(",")
}

impl Scene {
    /// With readers of these names on a pcscd of its own; both slots are active.
    pub(crate) fn new(readers: &[&str]) -> Self {
        let pcscd = Pcscd::start(readers);
        let pads = (0..readers.len()).map(|number| Box::new(pcscd.pad(number).clone()) as Box<dyn Reader>).collect();
        Scene::with(pcscd, Table::new(pads), |_| {})
    }

    /// The same on a pcscd and a table that are there, with more in the configuration.
    pub(crate) fn with(pcscd: Pcscd, table: Table, more: impl FnOnce(&mut Stage)) -> Self {
        Scene::on(Kind::SoftHsm, pcscd, table, more)
    }

    /// The same on a module of this kind.
    pub(crate) fn on(kind: Kind, pcscd: Pcscd, table: Table, more: impl FnOnce(&mut Stage)) -> Self {
        Scene::before(Bench::new(kind, SLOTS.len()), pcscd, table, more)
    }

    /// The same on this module without tokens.
    pub(crate) fn before(bench: Bench, pcscd: Pcscd, table: Table, more: impl FnOnce(&mut Stage)) -> Self {
        let mut stage = Stage::on(bench);
        stage.top = "security_level = \"cards\"\n".to_owned();
        stage.more = "[[person]]\nname = \"alice\"\nuids = [0]\nroles = [\"administrator\", \"auditor\"]\n".to_owned();
        for number in 1..=16 {
            let (name, uid) = (person(number), 54_400 + number);
            stage.more += &format!("[[person]]\nname = \"{name}\"\nuids = [{uid}]\nroles = [\"custodian\"]\n");
        }
        for slot in SLOTS {
            stage.bench.make_token_with(slot, SO_PIN, CODE);
            stage.slot(slot, slot, &format!("{slot}-app"));
        }
        stage.open_to_all();
        more(&mut stage);
        let mut scene = Scene { stage, table, pcscd };
        scene.start();
        scene
    }

    /// Starts the daemon, waits for a reader, and opens the slots.
    pub(crate) fn start(&mut self) {
        self.stage.start();
        self.wait_for_readers();
        for slot in SLOTS {
            if self.stage.slot_status(slot)["state"] == "locked" {
                self.stage.activate(slot, CODE).exits(0);
            }
        }
    }

    /// Until every reader was asked what it can do: before that a ceremony may be at another one.
    #[track_caller]
    fn wait_for_readers(&self) {
        let began = Instant::now();
        loop {
            let listed = self.cards();
            let readers = listed["readers"].as_array().expect("a list");
            let asked = |found: &Value| !found["reason"].as_str().is_some_and(|why| why.starts_with("not asked yet"));
            let used = |found: &Value| found["present"] == true && found["reason"].is_null();
            if readers.iter().all(asked) && readers.iter().any(used) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "no reader is used: {listed}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn pad(&self, number: usize) -> &Pad {
        self.pcscd.pad(number)
    }

    /// Gives an order and lets people act until it is answered.
    #[track_caller]
    pub(crate) fn order(&self, arguments: &[&str], acts: &[Act<'_>]) -> Ran {
        self.table.order(&self.stage, arguments, acts)
    }

    /// Makes the first set: m of n cards for the first n custodians, on cards `1`, `2`, ….
    #[track_caller]
    pub(crate) fn create(&self, m: u8, n: u32) -> Ran {
        let names: Vec<String> = (1..=n).map(|number| number.to_string()).collect();
        let acts: Vec<Act<'_>> = names.iter().map(|name| Act::Card(name)).collect();
        let (m, count, holders) = (m.to_string(), n.to_string(), holders(n));
        self.order(&["backup", "create-set", "-m", &m, "-n", &count, "--holders", &holders], &acts).exits(0)
    }

    /// What `status` tells scripts.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        self.stage.status().1
    }

    /// What `card list` tells scripts.
    #[track_caller]
    pub(crate) fn cards(&self) -> Value {
        self.stage.run(&["card", "list", "--output", "json"]).exits(0).json()
    }

    /// The line of one card's share in `card list`.
    #[track_caller]
    pub(crate) fn listed(&self, card: &str) -> Value {
        let (serial, listed) = (self.table.serial(card), self.cards());
        let found = listed["cards"].as_array().expect("a list").iter().find(|found| {
            found["serial"].as_str().is_some_and(|shown| shown.eq_ignore_ascii_case(&serial))
                && found["credential"] == "backup"
        });
        found.unwrap_or_else(|| panic!("{card} ({serial}) is not listed: {listed}")).clone()
    }

    /// The record on a card, as nobody but a test sees it.
    #[track_caller]
    pub(crate) fn record(&self, card: &str) -> Vec<u8> {
        self.table.with(card, |card| card.record(Credential::BackupShare).expect("a record is on it").to_vec())
    }

    /// Labels and ids of the keys that a token's user sees, in order.
    #[track_caller]
    pub(crate) fn derived_keys(&self, slot: &str) -> Vec<(String, String)> {
        let pin = self.stage.handed_over(&format!("{slot}-app")).expect("it is active");
        let mut tool = self.stage.bench.pkcs11_tool();
        let shown = run(tool.args(["--token-label", slot, "--login", "--pin", &pin, "--list-objects"])).exits(0).stdout;
        let value = |line: &str, name: &str| line.trim().strip_prefix(name).map(|text| text.trim().to_owned());
        let labels = shown.lines().filter_map(|line| value(line, "label:"));
        let ids = shown.lines().filter_map(|line| value(line, "ID:"));
        let mut keys: Vec<(String, String)> = labels.zip(ids).collect();
        keys.retain(|(label, _)| label.starts_with("slotwarden "));
        keys.sort();
        keys
    }

    /// Fails unless exactly the keys of the backup key with this id are in the token.
    #[track_caller]
    pub(crate) fn has_keys_of(&self, slot: &str, key_id: &str) {
        let keys = self.derived_keys(slot);
        let labels: Vec<&str> = keys.iter().map(|(label, _)| label.as_str()).collect();
        assert_eq!(labels, ["slotwarden MAK", "slotwarden W"], "{slot}: {keys:?}");
        assert!(keys.iter().all(|(_, id)| id.starts_with(key_id)), "{slot}: {keys:?} are not of {key_id}");
    }

    /// The key id in force.
    #[track_caller]
    pub(crate) fn key_id(&self) -> String {
        let id = self.status()["backup"]["key_id"].as_str().expect("a backup key is there").to_owned();
        assert_eq!(unhex::<16>(&id).map(|bytes| bytes.len()), Some(16));
        id
    }

    /// How the last ceremony ended: its word, and the number of its reason.
    #[track_caller]
    pub(crate) fn last_end(&self) -> (String, Option<u64>) {
        let last = self.status()["last_ceremony"].clone();
        (last["end"].as_str().expect("one ended").to_owned(), last["problem"]["number"].as_u64())
    }

    /// The transcript that a command named, as it prints.
    #[track_caller]
    pub(crate) fn transcript(&self, ran: &Ran) -> String {
        self.stage.run(&["ceremony", "show", &transcript_of(ran)]).exits(0).stdout
    }

    /// The same for scripts.
    #[track_caller]
    pub(crate) fn transcript_json(&self, ran: &Ran) -> Value {
        self.stage.run(&["ceremony", "show", &transcript_of(ran), "--output", "json"]).exits(0).json()
    }
}

/// The id that a command printed for `ceremony show`.
#[track_caller]
pub(crate) fn transcript_of(ran: &Ran) -> String {
    let text = format!("{}{}", ran.stdout, ran.stderr);
    let id = text.split("ceremony show ").nth(1).unwrap_or_else(|| panic!("no transcript is named: {text}"));
    id.chars().take_while(char::is_ascii_hexdigit).collect()
}
