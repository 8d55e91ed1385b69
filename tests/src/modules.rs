//! Two PKCS#11 modules nobody here wrote, each with tokens of its own in memory.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use slotwarden::hsm::{CALLS_IN_FLIGHT_MAX_DEFAULT, Waits, WantedToken, WorkerSettings};
use tempfile::TempDir;

use crate::build;

/// The same tests for both modules: each is a function that takes a [`Kind`].
#[macro_export]
macro_rules! on_both_modules {
    ($($name:ident)*) => {
        mod softhsm {
            $(#[test] fn $name() { super::$name($crate::modules::Kind::SoftHsm); })*
        }
        mod kryoptic {
            $(#[test] fn $name() { super::$name($crate::modules::Kind::Kryoptic); })*
        }
    };
}

/// Which module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SoftHSM2: never locks, sets the low count, renumbers slots.
    SoftHsm,
    /// Kryoptic: locks after ten wrong PINs, fixed slots.
    Kryoptic,
}

/// The security officer's PIN of every token made here.
pub const SO_PIN: &str = "so-pin-12345678";
/// The user's.
pub const PIN: &str = "user-pin-1234";

/// One module's world: its tokens, its configuration, its misbehaviour.
pub struct Bench {
    /// Which module.
    pub kind: Kind,
    /// Kryoptic's next slot that has no token yet.
    next_slot: usize,
    forwarded: bool,
    /// Calls into a slow module at the same time.
    pub calls_in_flight_max: u16,
    /// More of the environment, for the forwarding module.
    pub more: Vec<(OsString, OsString)>,
    dir: TempDir,
}

impl Bench {
    /// A module without tokens. Kryoptic gets `slots` slots; SoftHSM always offers one more
    /// than it has tokens.
    #[must_use]
    pub fn new(kind: Kind, slots: usize) -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
        let path = dir.path().display();
        for name in ["tokens", "forward"] {
            fs::create_dir(dir.path().join(name)).expect("a fresh directory");
        }
        let text = match kind {
            Kind::SoftHsm => format!(
                "directories.tokendir = {path}/tokens\nobjectstore.backend = file\nslots.removable = false\nlog.level = ERROR\n"
            ),
            Kind::Kryoptic => (0..slots).fold(String::new(), |mut text, slot| {
                let _ = write!(
                    text,
                    "[[slots]]\nslot = {slot}\ndbtype = \"sqlite\"\ndbargs = \"{path}/tokens/{slot}.sql\"\n\n"
                );
                text
            }),
        };
        fs::write(dir.path().join("module.conf"), text).expect("a fresh directory");
        Bench {
            kind,
            next_slot: 0,
            forwarded: false,
            calls_in_flight_max: CALLS_IN_FLIGHT_MAX_DEFAULT,
            more: Vec::new(),
            dir,
        }
    }

    /// The same, with the forwarding module in front, which misbehaves on request.
    #[must_use]
    pub fn forwarded(kind: Kind, slots: usize) -> Self {
        Bench { forwarded: true, ..Bench::new(kind, slots) }
    }

    /// Makes a token with a user PIN, by the module's own tool or by pkcs11-tool.
    pub fn make_token(&mut self, label: &str) {
        self.make_token_without_pin(label);
        let mut tool = self.pkcs11_tool();
        let slot = self.slot_number(label);
        tool.args([
            "--slot",
            &slot,
            "--login",
            "--login-type",
            "so",
            "--so-pin",
            SO_PIN,
            "--init-pin",
            "--new-pin",
            PIN,
        ]);
        build::run("opensc", &mut tool);
    }

    /// Makes a token with PINs of the test's choice, SoftHSM's by `softhsm2-util`.
    pub fn make_token_with(&mut self, label: &str, so_pin: &str, pin: &str) {
        match self.kind {
            Kind::SoftHsm => {
                let mut tool = Command::new("softhsm2-util");
                tool.args(["--init-token", "--free", "--label", label, "--so-pin", so_pin, "--pin", pin]);
                build::run("softhsm2", tool.envs(self.environment()));
            }
            Kind::Kryoptic => {
                let slot = self.next_slot.to_string();
                let mut tool = self.pkcs11_tool();
                tool.args(["--slot", &slot, "--init-token", "--label", label, "--so-pin", so_pin]);
                build::run("opensc", &mut tool);
                let mut tool = self.pkcs11_tool();
                tool.args(["--slot", &slot, "--login", "--login-type", "so", "--so-pin", so_pin]);
                build::run("opensc", tool.args(["--init-pin", "--new-pin", pin]));
            }
        }
        self.next_slot += 1;
    }

    /// What `pkcs11-tool` says about a token's flags.
    #[must_use]
    pub fn flags(&self, label: &str) -> String {
        let found = self.listing().into_iter().find(|token| token.label == label);
        found.unwrap_or_else(|| panic!("no token {label}")).flags
    }

    /// Makes a token with a label and an SO PIN only.
    pub fn make_token_without_pin(&mut self, label: &str) {
        match self.kind {
            Kind::SoftHsm => {
                // The tool wants a user PIN as well; pkcs11-tool does without.
                let free = self.slot_numbers("uninitialized").pop().expect("SoftHSM offers a free slot");
                let mut tool = self.pkcs11_tool();
                tool.args(["--slot", &free, "--init-token", "--label", label, "--so-pin", SO_PIN]);
                build::run("opensc", &mut tool);
            }
            Kind::Kryoptic => {
                let slot = self.next_slot.to_string();
                let mut tool = self.pkcs11_tool();
                tool.args(["--slot", &slot, "--init-token", "--label", label, "--so-pin", SO_PIN]);
                build::run("opensc", &mut tool);
            }
        }
        self.next_slot += 1;
    }

    /// pkcs11-tool on this module: a client nobody here wrote.
    #[must_use]
    pub fn pkcs11_tool(&self) -> Command {
        let mut tool = Command::new("pkcs11-tool");
        tool.arg("--module").arg(self.real_module()).envs(self.environment());
        tool
    }

    /// Serial numbers of the tokens with this label.
    #[must_use]
    pub fn serials(&self, label: &str) -> Vec<String> {
        self.listing().into_iter().filter(|token| token.label == label).map(|token| token.serial).collect()
    }

    /// The slot number of the newest token with this label.
    pub fn slot_number(&self, label: &str) -> String {
        let without_pin = |token: &Listed| token.label == label && !token.flags.contains("PIN initialized");
        let found = self.listing().into_iter().find(without_pin);
        found.unwrap_or_else(|| panic!("no token {label} without a user PIN")).slot
    }

    fn slot_numbers(&self, state: &str) -> Vec<String> {
        self.listing().into_iter().filter(|token| token.state == state).map(|token| token.slot).collect()
    }

    /// `pkcs11-tool --list-token-slots`, read.
    fn listing(&self) -> Vec<Listed> {
        let mut tool = self.pkcs11_tool();
        let text = build::run("opensc", tool.arg("--list-token-slots"));
        let mut listed: Vec<Listed> = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("Slot ") {
                let number = rest.split(['(', ')']).nth(1).expect("pkcs11-tool prints the slot number in brackets");
                let number = u64::from_str_radix(number.trim_start_matches("0x"), 16).expect("in hexadecimal");
                listed.push(Listed { slot: number.to_string(), ..Listed::default() });
            } else if let Some(last) = listed.last_mut() {
                let (name, value) = line.split_once(':').unwrap_or((line, ""));
                match name.trim() {
                    "token label" => last.label = value.trim().to_owned(),
                    "serial num" => last.serial = value.trim().to_owned(),
                    "token flags" => last.flags = value.trim().to_owned(),
                    "token state" => last.state = value.trim().to_owned(),
                    _ => {}
                }
            }
        }
        listed
    }

    /// What finds the module's configuration.
    #[must_use]
    pub fn environment(&self) -> Vec<(OsString, OsString)> {
        let name = match self.kind {
            Kind::SoftHsm => "SOFTHSM2_CONF",
            Kind::Kryoptic => "KRYOPTIC_CONF",
        };
        vec![
            (name.into(), self.dir.path().join("module.conf").into()),
            ("FORWARD_MODULE".into(), self.real_module().into()),
            ("FORWARD_DIR".into(), self.dir.path().join("forward").into()),
        ]
    }

    /// Settings of a worker for these tokens, with waits short enough for a test.
    #[must_use]
    pub fn settings(&self, tokens: &[WantedToken]) -> WorkerSettings {
        let module = if self.forwarded { build::forward().to_path_buf() } else { self.real_module() };
        WorkerSettings {
            program: build::slotwarden().to_path_buf(),
            module,
            module_environment: self.environment().into_iter().chain(self.more.clone()).collect(),
            tokens: tokens.to_vec(),
            settle_dir: Some(self.tokens_dir()),
            lock_file: self.dir.path().join("worker.lock"),
            calls_in_flight_max: self.calls_in_flight_max,
            transfer_dir: self.transfer_dir(),
            waits: Waits {
                loss_interval: Duration::from_millis(200),
                return_interval: Duration::from_millis(300),
                lock_wait: Duration::from_secs(2),
                login_wait: Duration::from_secs(2),
                quiet_wait: Duration::from_millis(250),
                change_wait: Duration::from_millis(250),
                restart_first: Duration::from_millis(20),
                ..Waits::default()
            },
        }
    }

    /// Where the module keeps its tokens.
    #[must_use]
    pub fn tokens_dir(&self) -> PathBuf {
        self.dir.path().join("tokens")
    }

    /// Where the worker exports to and restores from.
    #[must_use]
    pub fn transfer_dir(&self) -> PathBuf {
        self.dir.path().join("transfer")
    }

    /// A place for files of the test.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.dir.path().to_path_buf()
    }

    /// Asks the forwarding module to misbehave (`hang`, `crash`, `lie`, `hide`, ...; see `forward.c`) with this token.
    pub fn ask_to(&self, what: &str, label: &str) {
        fs::write(self.request(what, label), b"").expect("the bench's own directory");
    }

    /// Leaves room for so many more objects in a token behind the forwarding module.
    pub fn leave_room_for(&self, objects: u32, label: &str) {
        fs::write(self.request("full", label), format!("{objects}\n")).expect("the bench's own directory");
    }

    /// Takes that back.
    pub fn ask_no_more(&self, what: &str, label: &str) {
        fs::remove_file(self.request(what, label)).expect("it was asked before");
    }

    /// How often the forwarding module was called by this function name on this token.
    #[must_use]
    pub fn calls(&self, function: &str, label: &str) -> usize {
        let text = fs::read_to_string(self.dir.path().join("forward/calls")).unwrap_or_default();
        text.lines()
            .filter(|line| *line == format!("{function} {label}").trim_end() || *line == format!("{function} {label}"))
            .count()
    }

    /// Every function the forwarding module was called by on this token (empty: on none), in order, when it was told
    /// to count all of them.
    #[must_use]
    pub fn calls_of(&self, label: &str) -> Vec<String> {
        let text = fs::read_to_string(self.dir.path().join("forward/calls")).unwrap_or_default();
        let of =
            |line: &str| line.split_once(' ').filter(|(_, of)| *of == label).map(|(function, _)| function.to_owned());
        text.lines().filter_map(of).collect()
    }

    /// How many calls the last process made at a time at most, when the forwarding module was told to count.
    #[must_use]
    pub fn calls_in_flight(&self) -> usize {
        let text = fs::read_to_string(self.dir.path().join("forward/most")).expect("calls were counted");
        text.trim().parse().expect("it is a number")
    }

    fn request(&self, what: &str, label: &str) -> PathBuf {
        self.dir.path().join("forward").join(format!("{what}-{label}"))
    }

    /// The module, without the forwarding one in front.
    #[must_use]
    pub fn real_module(&self) -> PathBuf {
        match self.kind {
            Kind::SoftHsm => build::softhsm().to_path_buf(),
            Kind::Kryoptic => build::kryoptic().to_path_buf(),
        }
    }
}

#[derive(Default)]
struct Listed {
    slot: String,
    label: String,
    serial: String,
    flags: String,
    state: String,
}

/// A wanted token by its label.
#[must_use]
pub fn label(label: &str) -> WantedToken {
    WantedToken { label: Some(label.into()), serial: None }
}
