//! A terminal with a command at it: a real one, a pseudo-terminal that is the command's own.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

/// Longest wait for a prompt or an end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A command at a terminal of its own.
pub struct Terminal {
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
    /// Begins a command.
    ///
    /// # Panics
    /// When there are no terminals.
    #[must_use]
    pub fn begin(command: &Command) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("/dev/ptmx is there");
        grantpt(&master).expect("it is ours");
        unlockpt(&master).expect("it is ours");
        let name = ptsname(&master, Vec::new()).expect("it has a name");
        let slave = open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).expect("it is unlocked");
        let end = || Stdio::from(slave.try_clone().expect("descriptors are left"));
        // setsid(1) of util-linux, which every Debian has, makes it the controlling terminal.
        let mut leader = Command::new("setsid");
        leader.arg("--ctty").arg(command.get_program()).args(command.get_args());
        leader.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let child = leader.stdin(end()).stdout(end()).stderr(end()).spawn().expect("setsid starts the program");
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

    /// Everything that was shown up to what was waited for.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// Sends the command a signal.
    ///
    /// # Panics
    /// When it ended already.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// Closes the terminal.
    pub fn close(&mut self) {
        self.slave = None;
        // The reading thread has a descriptor of its own, so hanging up is what the kernel would say.
        self.keyboard = None;
        self.signal(Signal::HUP);
    }

    /// Waits for this text behind the last one.
    ///
    /// # Panics
    /// When it does not come.
    pub fn shows(&mut self, text: &str) {
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
    ///
    /// # Panics
    /// When it does not come, or the terminal echoes.
    pub fn asks(&mut self, prompt: &str) {
        self.shows(prompt);
        let begun = Instant::now();
        // The prompt may come a moment before the echo goes.
        while self.echoes() {
            assert!(begun.elapsed() < PATIENCE, "the terminal echoes at {prompt:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Types this.
    ///
    /// # Panics
    /// When the terminal was closed.
    pub fn types(&mut self, text: &str) {
        let keyboard = self.keyboard.as_mut().expect("the terminal is open");
        keyboard.write_all(text.as_bytes()).expect("the terminal takes it");
    }

    /// Whether what is typed is shown.
    ///
    /// # Panics
    /// When the terminal was closed.
    #[must_use]
    pub fn echoes(&self) -> bool {
        let slave = self.slave.as_ref().expect("the terminal is open");
        tcgetattr(slave).expect("it is a terminal").local_modes.contains(LocalModes::ECHO | LocalModes::ICANON)
    }

    /// Waits for the program's end; returns its exit code and everything that was shown.
    ///
    /// # Panics
    /// When it does not end, or leaves the terminal without echo.
    #[must_use]
    pub fn ends(mut self) -> (Option<i32>, String) {
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
