//! The appliance to try, as a person tries it: the program at one terminal, its command
//! line at another.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

const WAIT: Duration = Duration::from_secs(20);

/// The program, with pipes where a person has a terminal.
struct Appliance {
    program: Child,
    typed: ChildStdin,
    shown: Receiver<String>,
    /// What was shown so far.
    seen: Vec<String>,
    directory: PathBuf,
}

impl Appliance {
    fn start() -> Self {
        assert!(Path::new("/dev/shm").is_dir(), "this test needs /dev/shm: there the hand-over file is allowed");
        let mut program = Command::new(env!("CARGO_BIN_EXE_slotwarden-sim"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it was built for this test");
        let typed = program.stdin.take().expect("it is piped");
        let out = BufReader::new(program.stdout.take().expect("it is piped"));
        let (show, shown) = channel();
        thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| show.send(line)));
        let mut appliance = Appliance { program, typed, shown, seen: Vec::new(), directory: PathBuf::new() };
        let line = appliance.see("slot activate ca-root --code-file ");
        let config = line.split_whitespace().find(|word| word.ends_with("/slotwarden.toml")).expect("it is named");
        appliance.directory = Path::new(config).parent().expect("it is in a directory").to_owned();
        appliance.see("ca-root: manual, locked");
        appliance
    }

    /// Waits for a line that holds the text.
    fn see(&mut self, text: &str) -> String {
        let until = Instant::now() + WAIT;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.shown.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(_) => panic!("{text:?} was not shown, but:\n{}", self.seen.join("\n")),
            }
        }
    }

    fn type_line(&mut self, line: &str) {
        writeln!(self.typed, "{line}").expect("it reads");
    }

    fn cli(&self, arguments: &[&str]) -> Output {
        cli(&self.path("slotwarden.toml"), arguments)
    }

    fn done(&self, arguments: &[&str]) {
        let ended = self.cli(arguments);
        assert!(ended.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
    }

    /// One slot in the status.
    fn slot(&self, name: &str) -> Value {
        let answered = self.cli(&["status", "--output", "json"]);
        let status: Value = serde_json::from_slice(&answered.stdout).expect("the status is JSON");
        let slots = status["slots"].as_array().expect("slots are listed");
        slots.iter().find(|slot| slot["name"] == name).expect("the slot is configured").clone()
    }

    /// Waits until the ceremony wants this.
    fn wants(&self, what: &str) {
        let until = Instant::now() + WAIT;
        loop {
            let answered = self.cli(&["status", "--output", "json"]);
            let status: Value = serde_json::from_slice(&answered.stdout).expect("the status is JSON");
            let wait = status["ceremony"]["wait"].as_str().unwrap_or("end");
            if wait == what {
                return;
            }
            assert!(Instant::now() < until, "{what} is not wanted, but: {}", status["ceremony"]);
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the token was looked at after its backup key was put there: an observation of its own.
    fn has_backup_key(&self, name: &str) {
        let until = Instant::now() + WAIT;
        while self.slot(name)["backup_key"] != true {
            assert!(Instant::now() < until, "no backup key was seen: {}", self.slot(name));
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn file(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn quit(mut self) {
        self.type_line("quit");
        self.see("stopped");
        let ended = self.program.wait().expect("it is our child");
        assert!(ended.success(), "{ended}");
        assert!(!self.directory.exists(), "{} was left behind", self.directory.display());
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        // A test that failed leaves nothing that runs.
        let _ = self.program.kill();
        let _ = self.program.wait();
        if self.directory.starts_with("/dev/shm/") {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

fn cli(config: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_slotwarden-sim"))
        .args(["cli", "--config"])
        .arg(config)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("it was built for this test")
}

#[test]
fn a_slot_is_activated_by_its_code_and_handed_over_until_it_is_deactivated() {
    let mut appliance = Appliance::start();
    let (code, wrong, handed) = (appliance.file("ca-root.code"), appliance.file("wrong"), appliance.path("ca.pin"));
    fs::write(&wrong, "not-the-code\n").expect("the directory is ours");
    let refused = appliance.cli(&["slot", "activate", "ca-root", "--code-file", &wrong]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("code"), "{refused:?}");
    assert!(!handed.exists(), "nothing is handed over for a wrong code");
    assert_eq!(appliance.slot("ca-root")["tries_left"], 2);

    appliance.done(&["slot", "activate", "ca-root", "--code-file", &code]);
    appliance.see("ca-root: manual, active; ca active");
    assert_eq!(appliance.slot("ca-root")["state"], "active");
    let typed = fs::read_to_string(&code).expect("it was made for people");
    assert_eq!(fs::read_to_string(&handed).expect("it is handed over"), typed.trim_end());

    appliance.done(&["slot", "deactivate", "ca-root"]);
    appliance.see("ca-root: manual, locked");
    assert!(!handed.exists(), "the hand-over file is taken back");
    appliance.done(&["audit", "verify"]);
    appliance.done(&["check-config"]);
    appliance.quit();
}

#[test]
fn generated_codes_survive_the_worker_and_the_power_and_a_manual_one_waits() {
    let mut appliance = Appliance::start();
    let (so_pin, issuing) = (appliance.file("so-pin"), appliance.file("issuing.code"));
    appliance.done(&["slot", "activate", "ca-root", "--code-file", &appliance.file("ca-root.code")]);
    appliance.done(&["slot", "init", "signer", "--so-pin-file", &so_pin]);
    appliance.done(&["slot", "mode", "issuing", "generated", "--code-file", &issuing]);
    appliance.see("issuing: generated, active");
    assert_eq!(appliance.slot("signer")["mode"], "generated");

    appliance.type_line("kill");
    appliance.see("killed");
    appliance.see("issuing: generated, activating");
    appliance.see("issuing: generated, active");

    appliance.type_line("power");
    appliance.see("the power was cut");
    let booted = appliance.cli(&["boot"]);
    let said = String::from_utf8_lossy(&booted.stdout);
    assert!(said.contains("2 of 4 slots active; ca-root waits for a code"), "{booted:?}");
    for name in ["signer", "issuing"] {
        assert_eq!(appliance.slot(name)["state"], "active");
    }
    assert_eq!(appliance.slot("ca-root")["state"], "locked");
    assert!(!appliance.path("ca.pin").exists(), "memory is empty after a power cut");
    appliance.quit();
}

#[test]
fn a_token_that_is_pulled_is_absent_and_one_that_hangs_is_waited_for() {
    let mut appliance = Appliance::start();
    let (code, config) = (appliance.file("ca-root.code"), appliance.path("slotwarden.toml"));
    appliance.type_line("pull nobody");
    appliance.see("there is no slot \"nobody\"");
    appliance.done(&["slot", "init", "signer", "--so-pin-file", &appliance.file("so-pin")]);
    appliance.see("archive: manual, absent");
    appliance.type_line("insert archive");
    appliance.see("archive: manual, locked");
    appliance.type_line("pull ca-root");
    appliance.see("ca-root: manual, absent");
    appliance.type_line("insert ca-root");
    appliance.see("ca-root: manual, locked");

    appliance.type_line("hang ca-root");
    appliance.see("stay unanswered");
    let activate = move || cli(&config, &["slot", "activate", "ca-root", "--code-file", &code]);
    let activated = thread::spawn(activate);
    appliance.see("ca-root: manual, activating");
    appliance.type_line("answer ca-root");
    appliance.see("ca-root: manual, active; ca active");
    assert!(activated.join().expect("it does not panic").status.success());
    appliance.quit();
}

#[test]
fn a_backup_key_is_made_on_three_cards_and_restored_from_two_after_a_power_cut() {
    let mut appliance = Appliance::start();
    appliance.type_line("pin 123456");
    appliance.see("the pad asks for nothing");
    let (code, config) = (appliance.file("ca-root.code"), appliance.path("slotwarden.toml"));
    appliance.done(&["slot", "activate", "ca-root", "--code-file", &code]);
    let ordered = {
        let config = config.clone();
        thread::spawn(move || cli(&config, &["backup", "create-set", "-m", "2", "-n", "3"]))
    };
    for name in ["alice", "bob", "carol"] {
        appliance.wants("insert");
        appliance.type_line(&format!("card {name}"));
        appliance.wants("new-pin");
        appliance.type_line("pin 123456 654321 654321");
        appliance.wants("pin");
        appliance.type_line("pin 654321");
        appliance.wants("remove");
        appliance.type_line("card out");
        appliance.see("the card is out");
    }
    assert!(ordered.join().expect("it does not panic").status.success());
    appliance.has_backup_key("ca-root");

    appliance.type_line("power");
    appliance.see("the power was cut");
    let booted = appliance.cli(&["boot"]);
    assert_eq!(booted.status.code(), Some(2), "every slot was looked for, and waits for people: {booted:?}");
    appliance.done(&["slot", "activate", "ca-root", "--code-file", &code]);
    let ordered = thread::spawn(move || cli(&config, &["backup", "restore-key", "--slot", "ca-root"]));
    for name in ["carol", "alice"] {
        appliance.wants("insert");
        appliance.type_line(&format!("card {name}"));
        appliance.wants("pin");
        appliance.type_line("pin 654321");
        appliance.wants("remove");
        appliance.type_line("card out");
        appliance.see("the card is out");
    }
    assert!(ordered.join().expect("it does not panic").status.success());
    appliance.done(&["audit", "verify"]);
    appliance.quit();
}

#[test]
fn it_ends_by_itself_with_its_input_closed_and_names_every_slot() {
    let ended = Command::new(env!("CARGO_BIN_EXE_slotwarden-sim"))
        .args(["--seconds", "2"])
        .stdin(Stdio::null())
        .output()
        .expect("it was built for this test");
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{said}");
    for name in ["ca-root: ", "signer: ", "issuing: ", "archive: "] {
        assert!(said.contains(name), "{name}: {said}");
    }
    let last = said.lines().last().expect("it says something");
    let place = last.strip_prefix("stopped; ").and_then(|last| last.strip_suffix(" is removed")).expect(last);
    assert!(!Path::new(place).exists());
}
