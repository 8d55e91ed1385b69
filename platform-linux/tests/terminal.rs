//! What people meet at a terminal: a real one (a pseudo-terminal that is the program's own),
//! with a daemon behind it whose HSM is not there. Prompts say what is wanted, nothing that
//! is typed is shown, and however an entry ends the terminal echoes again.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

const PROGRAM: &str = env!("CARGO_BIN_EXE_slotwarden");
/// Longest wait for a prompt or an end.
const PATIENCE: Duration = Duration::from_secs(20);
const CTRL_C: &str = "\u{3}";
const CTRL_D: &str = "\u{4}";

/// An appliance with one slot, whose token is absent and whose code people would know.
struct Appliance {
    dir: tempfile::TempDir,
    daemon: Child,
}

impl Appliance {
    fn start() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is writable");
        let path = dir.path().display();
        let text = format!(
            "state_dir = \"{path}/state\"\nsocket = \"{path}/control.sock\"\n[hsm]\nmodule = \"/nowhere/hsm.so\"\n\
             [[slot]]\nname = \"ca-root\"\ntoken = \"pkcs11:token=CA%20Root\"\n"
        );
        let config = dir.path().join("slotwarden.toml");
        fs::write(&config, text).expect("there is room");
        let mut daemon = Command::new(PROGRAM);
        daemon.arg("daemon").arg("--config").arg(&config).stdin(Stdio::null()).stderr(Stdio::null());
        let daemon = daemon.spawn().expect("the program starts");
        let begun = Instant::now();
        while UnixStream::connect(dir.path().join("control.sock")).is_err() {
            assert!(begun.elapsed() < PATIENCE, "the daemon does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Appliance { dir, daemon }
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("slotwarden.toml")
    }

    /// Begins a command at a terminal of its own.
    fn at_terminal(&self, arguments: &[&str]) -> Terminal {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("/dev/ptmx is there");
        grantpt(&master).expect("it is ours");
        unlockpt(&master).expect("it is ours");
        let name = ptsname(&master, Vec::new()).expect("it has a name");
        let slave = open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).expect("it is unlocked");
        let end = || Stdio::from(slave.try_clone().expect("descriptors are left"));
        // setsid(1) of util-linux, which every Debian has, makes it the controlling terminal.
        let mut command = Command::new("setsid");
        command.args(["--ctty", PROGRAM]).args(arguments).arg("--config").arg(self.config());
        let child = command.stdin(end()).stdout(end()).stderr(end()).spawn().expect("setsid starts the program");
        let (heard, hears) = channel();
        let mut reading = File::from(master.try_clone().expect("descriptors are left"));
        std::thread::spawn(move || {
            let mut part = [0; 1024];
            // EIO when the last descriptor of the other end is closed (pty(7)).
            while let Ok(read @ 1..) = reading.read(&mut part) {
                if heard.send(part[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Terminal { child, keyboard: Some(File::from(master)), slave: Some(slave), hears, shown: String::new(), seen: 0 }
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

struct Terminal {
    child: Child,
    keyboard: Option<File>,
    slave: Option<OwnedFd>,
    hears: Receiver<Vec<u8>>,
    /// Everything that was shown.
    shown: String,
    /// Up to here it was waited for.
    seen: usize,
}

impl Terminal {
    /// Waits for this text behind the last one.
    fn shows(&mut self, text: &str) {
        let begun = Instant::now();
        loop {
            if let Some(at) = self.shown[self.seen..].find(text) {
                self.seen += at + text.len();
                return;
            }
            match self.hears.recv_timeout(PATIENCE.saturating_sub(begun.elapsed())) {
                Ok(part) => self.shown.push_str(&String::from_utf8_lossy(&part)),
                Err(_) => panic!("{text:?} was not shown, but: {}", self.shown),
            }
        }
    }

    /// A prompt for a secret: what is typed is not echoed.
    fn asks(&mut self, prompt: &str) {
        self.shows(prompt);
        let begun = Instant::now();
        // The prompt may come a moment before the echo goes.
        while self.echoes() {
            assert!(begun.elapsed() < PATIENCE, "the terminal echoes at {prompt:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn types(&mut self, text: &str) {
        let keyboard = self.keyboard.as_mut().expect("the terminal is open");
        keyboard.write_all(text.as_bytes()).expect("the terminal takes it");
    }

    fn echoes(&self) -> bool {
        let slave = self.slave.as_ref().expect("the terminal is open");
        tcgetattr(slave).expect("it is a terminal").local_modes.contains(LocalModes::ECHO | LocalModes::ICANON)
    }

    /// Waits for the program's end; returns its exit code and everything that was shown.
    fn ends(mut self) -> (Option<i32>, String) {
        let begun = Instant::now();
        let status = loop {
            match self.child.try_wait().expect("it is our child") {
                Some(status) => break status,
                None => assert!(begun.elapsed() < PATIENCE, "it does not end: {}", self.shown),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        if self.slave.is_some() {
            assert!(self.echoes(), "the terminal is left without echo: {}", self.shown);
        }
        // Until nothing comes any more, or the other end is closed.
        while let Ok(part) = self.hears.recv_timeout(Duration::from_millis(200)) {
            self.shown.push_str(&String::from_utf8_lossy(&part));
        }
        (status.code(), self.shown.clone())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn p03_a_changed_code_is_asked_for_three_times_and_never_shown() {
    let appliance = Appliance::start();
    let mut terminal = appliance.at_terminal(&["slot", "change-code", "ca-root"]);
    terminal.asks("Present code of ca-root (not shown): ");
    terminal.types("hunter2-old\r");
    terminal.asks("New code of ca-root (not shown): ");
    terminal.types("hunter2-new\r");
    terminal.asks("New code of ca-root, again: ");
    terminal.types("hunter2-typo\r");
    let (exit, shown) = terminal.ends();
    assert_eq!(exit, Some(1), "{shown}");
    assert!(shown.contains("the two entries differ") && shown.contains("nothing was attempted"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_new_code_that_no_token_would_take_is_refused_before_it_is_asked_for_again() {
    let appliance = Appliance::start();
    let mut terminal = appliance.at_terminal(&["slot", "change-code", "ca-root"]);
    terminal.asks("Present code of ca-root");
    terminal.types("hunter2-old\r");
    terminal.asks("New code of ca-root");
    terminal.types("short\r");
    let (exit, shown) = terminal.ends();
    assert_eq!(exit, Some(1), "{shown}");
    assert!(shown.contains("at least 8") || shown.contains("8 characters"), "{shown}");
    assert!(!shown.contains("again"), "{shown}");
}

#[test]
fn ctrl_c_at_a_prompt_gives_the_echo_back_and_attempts_nothing() {
    let appliance = Appliance::start();
    for prompts in 1..=3 {
        let mut terminal = appliance.at_terminal(&["slot", "change-code", "ca-root"]);
        let asked = ["Present code of ca-root", "New code of ca-root", "New code of ca-root, again"];
        for (place, prompt) in asked.into_iter().take(prompts).enumerate() {
            terminal.asks(prompt);
            terminal.types(if place + 1 == prompts { "hunter2" } else { "hunter2-hunter2\r" });
        }
        terminal.types(CTRL_C);
        let (exit, shown) = terminal.ends();
        assert_eq!(exit, Some(130), "{shown}");
        assert!(shown.contains("nothing was attempted") && !shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn sigterm_and_ctrl_d_at_a_prompt_give_the_echo_back_too() {
    let appliance = Appliance::start();
    let mut terminal = appliance.at_terminal(&["slot", "activate", "ca-root"]);
    terminal.asks("Code of ca-root (not shown): ");
    kill_process(Pid::from_child(&terminal.child), Signal::TERM).expect("it runs");
    let (exit, shown) = terminal.ends();
    assert_eq!(exit, Some(130), "{shown}");
    let mut terminal = appliance.at_terminal(&["slot", "init", "ca-root"]);
    terminal.asks("SO PIN for the token of ca-root (not shown): ");
    terminal.types(CTRL_D);
    let (exit, shown) = terminal.ends();
    assert_eq!(exit, Some(1), "{shown}");
    assert!(shown.contains("[622]") && shown.contains("nothing was attempted"), "{shown}");
}

#[test]
fn a_terminal_that_is_closed_ends_the_command() {
    let appliance = Appliance::start();
    let mut terminal = appliance.at_terminal(&["slot", "activate", "ca-root"]);
    terminal.asks("Code of ca-root");
    terminal.types("hunter2");
    terminal.slave = None;
    // The reading thread has a descriptor of its own, so hanging up is what the kernel would say.
    terminal.keyboard = None;
    kill_process(Pid::from_child(&terminal.child), Signal::HUP).expect("it runs");
    let (exit, shown) = terminal.ends();
    assert_eq!(exit, Some(130), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_switch_says_what_it_means_and_goes_on_only_after_a_yes() {
    let appliance = Appliance::start();
    let mut terminal = appliance.at_terminal(&["slot", "mode", "ca-root", "generated"]);
    terminal.shows("available without people");
    terminal.shows("whoever steals the powered-off machine");
    terminal.shows("Type `yes` to switch: ");
    assert!(terminal.echoes(), "what is typed here is no secret");
    terminal.types("no\r");
    let (exit, shown) = terminal.ends();
    assert_eq!(exit, Some(1), "{shown}");
    assert!(shown.contains("you did not confirm") && shown.contains("nothing was changed"), "{shown}");

    let mut terminal = appliance.at_terminal(&["slot", "mode", "ca-root", "generated"]);
    terminal.shows("Type `yes` to switch: ");
    terminal.types("yes\r");
    terminal.asks("Present code of ca-root (not shown): ");
    terminal.types("hunter2-hunter2\r");
    let (exit, shown) = terminal.ends();
    assert_ne!(exit, Some(0), "there is no HSM: {shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}
