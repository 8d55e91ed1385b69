//! A real daemon on real tokens, that can be killed, started again and looked at.
//!
//! Every process here is a child of the test or of such a child, and is ended by its id.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, thread};

use rustix::process::{Pid, Signal};
use slotwarden::client::Client;
use slotwarden::problem::Problem;
use slotwarden::status_json::StatusView;
use slotwarden::wire::{Answered, Ask, Order, SecretRole};
use slotwarden_core::audit::AuditRecord;
use zeroize::Zeroizing;

use crate::modules::Bench;
use crate::stage::Stage;

/// Longest wait for anything. A kill must not cost more: the worker's own waits are 30 s.
pub const PATIENCE: Duration = Duration::from_secs(25);
/// Between two looks at what is not there yet.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// One daemon and its tokens; the daemon runs or does not. The stage has no daemon of its
/// own: it looks too seldom for kills that are milliseconds apart.
pub struct Appliance {
    /// Tokens, configuration, paths.
    pub stage: Stage,
    /// Names of the slots, which are the tokens' labels.
    pub names: Vec<String>,
    /// What asks the daemon.
    pub client: Client,
    daemon: Option<Child>,
}

/// What [`second_look`](Appliance::second_look) saw of one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whether the module lists it.
    pub present: bool,
    /// What its flags said before anything was tried.
    pub flags: String,
    /// Whether the PIN opened it.
    pub opens: bool,
}

impl Appliance {
    /// Tokens with a user PIN that a person knows ([`crate::modules::PIN`]), one slot each.
    #[must_use]
    pub fn new(mut bench: Bench, slots: usize) -> Self {
        let names: Vec<String> = (0..slots).map(|number| format!("slot-{number}")).collect();
        for name in &names {
            bench.make_token(name);
        }
        let mut stage = Stage::on(bench);
        for name in &names {
            stage.slot(name, name, name);
        }
        stage.configure();
        let client = Client::new(&stage.socket());
        Appliance { stage, names, client, daemon: None }
    }

    /// Starts the daemon without waiting for it.
    pub fn start(&mut self) {
        assert!(self.daemon.is_none(), "one daemon at a time");
        let log = OpenOptions::new().create(true).append(true).open(self.stage.path("daemon.log"));
        let mut command = self.stage.daemon_command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("the bench's own directory"));
        self.daemon = Some(command.spawn().expect("it was built just now"));
    }

    /// The daemon.
    #[must_use]
    pub fn daemon(&self) -> Pid {
        Pid::from_child(self.daemon.as_ref().expect("it runs"))
    }

    /// `kill -9`, and reaps it.
    pub fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("it runs");
        // Whoever killed it before us is no error.
        let _ = daemon.kill();
        daemon.wait().expect("our own child");
    }

    /// Ends the daemon in order; takes back what was handed over.
    pub fn stop(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        // It may have ended by itself; `wait` says so either way.
        let _ = rustix::process::kill_process(Pid::from_child(&daemon), Signal::TERM);
        daemon.wait().expect("our own child");
    }

    /// The serving worker: the daemon's only child.
    #[must_use]
    pub fn worker(&self) -> Option<Pid> {
        let daemon = self.daemon.as_ref().expect("it runs");
        let threads = fs::read_dir(format!("/proc/{}/task", daemon.id())).ok()?;
        let mut children = threads
            .flatten()
            .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
            .flat_map(|text| text.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<i32>>());
        children.next().and_then(Pid::from_raw)
    }

    /// Whether a call runs that changes a PIN: the worker marks its lock file for the time of it.
    #[must_use]
    pub fn is_setting_a_pin(&self) -> bool {
        let text = fs::read_to_string(self.stage.state_dir().join("worker.lock")).unwrap_or_default();
        text.split_whitespace().nth(1).is_some_and(|calls| calls != "0")
    }

    /// The status once the automatic slots were tried, a worker serves that is not `ended`,
    /// and nothing is being worked on.
    #[must_use]
    pub fn settled(&mut self, ended: Option<Pid>) -> StatusView {
        let until = Instant::now() + PATIENCE;
        loop {
            let asked = self.client.ask(Ask::Status, &[]);
            if let Ok(Answered::Status(status)) = &asked
                && status.boot_done
                && status.hsm.worker
                && !status.slots.iter().any(|slot| ["activating", "changing"].contains(&slot.state.as_str()))
                && self.worker().is_some_and(|worker| Some(worker) != ended)
            {
                return (**status).clone();
            }
            let daemon = self.daemon.as_mut().expect("it runs");
            if let Some(how) = daemon.try_wait().expect("our own child") {
                panic!("the daemon ended by itself ({how})\n{}", self.log_end());
            }
            assert!(Instant::now() < until, "nothing settled: {asked:?}\n{}", self.log_end());
            thread::sleep(LOOK_PAUSE);
        }
    }

    /// The status now.
    #[must_use]
    pub fn status(&self) -> StatusView {
        match self.client.ask(Ask::Status, &[]) {
            Ok(Answered::Status(status)) => *status,
            other => panic!("no status: {other:?}\n{}", self.log_end()),
        }
    }

    /// An order, answered when it ended or its daemon did.
    ///
    /// # Errors
    /// What was refused or failed, or that the answer was lost.
    pub fn order(&self, order: Order, secrets: &[(SecretRole, &str)]) -> Result<(), Problem> {
        give(&self.client, order, secrets)
    }

    /// The PIN in the hand-over file of a slot, if there is one.
    #[must_use]
    pub fn handed_over(&self, slot: usize) -> Option<String> {
        self.stage.handed_over(&self.names[slot])
    }

    /// Whether the slot's hand-over file is there.
    #[must_use]
    pub fn is_handed_over(&self, slot: usize) -> bool {
        self.stage.hand_over_file(&self.names[slot]).exists()
    }

    /// Number of the last audit record.
    #[must_use]
    pub fn audit_end(&self) -> u64 {
        match self.client.ask(Ask::Audit { first: None, count: 1 }, &[]) {
            Ok(Answered::Audit(page)) => page.last,
            other => panic!("no audit log: {other:?}"),
        }
    }

    /// The audit records from this one on.
    #[must_use]
    pub fn audit_from(&self, first: u64) -> Vec<AuditRecord> {
        let mut records: Vec<AuditRecord> = Vec::new();
        loop {
            let from = first + records.len() as u64;
            match self.client.ask(Ask::Audit { first: Some(from), count: u32::MAX }, &[]) {
                Ok(Answered::Audit(page)) if page.records.is_empty() => return records,
                Ok(Answered::Audit(page)) => records.extend(page.records),
                other => panic!("no audit log: {other:?}"),
            }
        }
    }

    /// Looks at every token with the given PIN, by another process and PKCS#11 alone.
    #[must_use]
    pub fn second_look(&self, pins: &[String]) -> Vec<Seen> {
        let mut look = Command::new(second_look());
        look.arg(self.stage.bench.settings(&[]).module).envs(self.stage.bench.environment());
        let mut look = look.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cargo built it");
        let asked = self.names.iter().zip(pins).fold(String::new(), |mut text, (name, pin)| {
            let _ = writeln!(text, "{name}\t{pin}");
            text
        });
        // Dropped after the write, which ends its stdin.
        look.stdin.take().expect("it is piped").write_all(asked.as_bytes()).expect("it reads to the end");
        let output = look.wait_with_output().expect("our own child");
        assert!(output.status.success(), "the second look failed: see stderr");
        let text = String::from_utf8(output.stdout).expect("labels are ASCII here");
        let seen: Vec<Seen> = text
            .lines()
            .map(|line| {
                let words: Vec<&str> = line.split('\t').collect();
                Seen { present: words[1] == "present", flags: words[2].to_owned(), opens: words[3] == "opens" }
            })
            .collect();
        assert_eq!(seen.len(), self.names.len(), "{text}");
        seen
    }

    /// The last lines of the daemon's log.
    #[must_use]
    pub fn log_end(&self) -> String {
        let text = self.stage.log();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Appliance {
    /// Also when a test failed: its worker ends with it, once its calls are finished.
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// An order from any thread, answered when it ended or its daemon did.
///
/// # Errors
/// What was refused or failed, or that the answer was lost.
pub fn give(client: &Client, order: Order, secrets: &[(SecretRole, &str)]) -> Result<(), Problem> {
    let secrets: Vec<_> =
        secrets.iter().map(|(role, text)| (*role, Zeroizing::new(text.as_bytes().to_vec()))).collect();
    client.ask(Ask::Order(order), &secrets).map(|_| ()).map_err(|refused| *refused.problem)
}

/// Whether a process is over; a zombie holds nothing any more.
#[must_use]
pub fn is_over(process: Pid) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())) else { return true };
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    matches!(state, Some('Z' | 'X') | None)
}

/// The program beside the tests: cargo builds a package's programs before its tests.
fn second_look() -> PathBuf {
    let test = env::current_exe().expect("the kernel knows which program runs");
    let built = test.ancestors().nth(2).expect("tests run from TARGET/PROFILE/deps").join("second_look");
    assert!(built.exists(), "{} is missing: cargo build -p slotwarden-tests", built.display());
    built
}
