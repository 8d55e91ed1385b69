//! A whole appliance on the real stack: tokens, configuration, daemon, command line.
//!
//! Everything lives in one directory in memory. The daemon is a child of the test, known by
//! its process id and ended by it; nothing outlives a test, also not one that failed.

use std::cell::Cell;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde_json::Value;
use slotwarden::client::Client;
use slotwarden::status_json::{SlotView, StatusView};
use slotwarden::token_uri::TokenUri;
use slotwarden::wire::{Answered, Ask};
use tempfile::TempDir;

use crate::build;
use crate::modules::{Bench, Kind};

/// Longest wait for anything in these tests.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(40);

/// One appliance.
pub struct Stage {
    /// The module and its tokens.
    pub bench: Bench,
    /// Lines before the first table of the configuration.
    pub top: String,
    /// Lines of the table `[hsm]`.
    pub hsm: String,
    /// Tables after the slots and applications: persons.
    pub more: String,
    /// Options of the daemon beside its configuration.
    pub arguments: Vec<String>,
    /// Whether the daemon logs everything it can.
    pub talkative: bool,
    /// The module in the configuration, if it is not the bench's.
    pub module: Option<PathBuf>,
    slots: String,
    program: PathBuf,
    user: Option<u32>,
    daemon: Option<Child>,
    secrets: Cell<u32>,
    public_program: Option<TempDir>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit code.
    pub exit: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Fails the test unless the command ended with this exit code.
    #[track_caller]
    pub fn exits(self, exit: i32) -> Self {
        assert_eq!(self.exit, exit, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Fails the test unless the command was refused for this reason: the number that
    /// stands at the end of every refusal, with a remedy under it.
    #[track_caller]
    pub fn refused(self, exit: i32, number: u16) -> Self {
        let ran = self.exits(exit);
        let mut lines = ran.stderr.lines().skip_while(|line| !line.ends_with(&format!(" [{number}]")));
        assert!(lines.next().is_some(), "another reason than {number}: {}", ran.stderr);
        assert!(lines.next().is_some_and(|remedy| remedy.starts_with("  ")), "no remedy: {}", ran.stderr);
        ran
    }

    /// Standard output as JSON.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: stdout: {}\nstderr: {}", self.stdout, self.stderr))
    }
}

impl Stage {
    /// An appliance without slots on a module without tokens ([`Bench::new`]).
    #[must_use]
    pub fn new(kind: Kind, tokens: usize) -> Self {
        Stage::on(Bench::new(kind, tokens))
    }

    /// An appliance without slots.
    #[must_use]
    pub fn on(bench: Bench) -> Self {
        let dir = bench.dir();
        for name in ["run", "secrets"] {
            fs::create_dir(dir.join(name)).expect("the bench's own directory");
        }
        Stage {
            bench,
            top: String::new(),
            hsm: String::new(),
            more: String::new(),
            arguments: Vec::new(),
            talkative: false,
            module: None,
            slots: String::new(),
            program: build::slotwarden().to_path_buf(),
            user: None,
            daemon: None,
            secrets: Cell::new(0),
            public_program: None,
        }
    }

    /// Configures a slot for the token with this label, and an application for it, whose
    /// hand-over file is in memory.
    pub fn slot(&mut self, name: &str, label: &str, application: &str) {
        let path = self.hand_over_file(application);
        self.slot_with_file(name, label, application, &path);
    }

    /// The same, with the hand-over file elsewhere.
    pub fn slot_with_file(&mut self, name: &str, label: &str, application: &str, path: &Path) {
        let token = TokenUri { label: Some(label.to_owned()), serial: None };
        let _ = write!(
            self.slots,
            "[[slot]]\nname = \"{name}\"\ntoken = \"{token}\"\napplications = [\"{application}\"]\n\
             [[application]]\nname = \"{application}\"\nadapter = \"pin-file\"\npath = \"{}\"\n",
            path.display()
        );
    }

    /// Bounds new codes of the slot that was configured last ([[slot]] `pin_chars_max`).
    pub fn pin_chars_max(&mut self, chars: u16) {
        let last = self.slots.rfind("applications = ").expect("a slot was configured");
        self.slots.insert_str(last, &format!("pin_chars_max = {chars}\n"));
    }

    /// Has a program make the exports of a slot that was configured ([[slot]] `export = "vendor"`). It is told
    /// label and serial, so the slot's token is named by both.
    pub fn export_program(&mut self, name: &str, label: &str, program: &Path) {
        let token = |serial| TokenUri { label: Some(label.to_owned()), serial };
        let serial = self.bench.serials(label).pop();
        let (before, after) = (token(None), token(Some(serial.expect("the token is there"))));
        let slot = |token| format!("name = \"{name}\"\ntoken = \"{token}\"\n");
        let with = format!("{}export = \"vendor\"\nexport_program = \"{}\"\n", slot(after), program.display());
        assert!(self.slots.contains(&slot(before.clone())), "the slot was configured");
        self.slots = self.slots.replace(&slot(before), &with);
    }

    /// Configures a slot for the token with this label, and an application for it with
    /// another adapter: `adapter` are the lines of its table but for the name.
    pub fn slot_with_adapter(&mut self, name: &str, label: &str, application: &str, adapter: &str) {
        let token = TokenUri { label: Some(label.to_owned()), serial: None };
        let _ = write!(
            self.slots,
            "[[slot]]\nname = \"{name}\"\ntoken = \"{token}\"\napplications = [\"{application}\"]\n\
             [[application]]\nname = \"{application}\"\n{adapter}\n"
        );
    }

    /// From now on the daemon runs as this user, who owns everything on the stage.
    pub fn as_user(&mut self, uid: u32) {
        self.open_to_all();
        self.user = Some(uid);
        let mut chown = Command::new("chown");
        build::run("coreutils", chown.args(["-R", &uid.to_string()]).arg(self.bench.dir()));
    }

    /// Lets other users run the program and read the configuration.
    pub fn open_to_all(&mut self) {
        let world = fs::Permissions::from_mode(0o755);
        fs::set_permissions(self.bench.dir(), world.clone()).expect("the bench's own directory");
        if self.public_program.is_none() {
            // The folder that cargo builds in may be closed to other users.
            let folder = tempfile::tempdir().expect("there is a place for temporary files");
            fs::set_permissions(folder.path(), world).expect("just made");
            self.program = folder.path().join("slotwarden");
            // By a process of its own: a child of another test that began meanwhile would hold the
            // file open for writing, and nobody could run it (ETXTBSY, execve(2)).
            build::run("coreutils", Command::new("cp").arg(build::slotwarden()).arg(&self.program));
            self.public_program = Some(folder);
        }
    }

    /// Writes the configuration.
    pub fn configure(&self) -> PathBuf {
        let path = self.path("slotwarden.toml");
        fs::write(&path, self.configuration()).expect("the bench's own directory");
        path
    }

    /// The configuration's text.
    #[must_use]
    pub fn configuration(&self) -> String {
        let bench_module = self.bench.settings(&[]).module;
        format!(
            "state_dir = \"{}\"\nsocket = \"{}\"\n{}\n[hsm]\nmodule = \"{}\"\nsettle_dir = \"{}\"\n{}\n{}{}",
            self.state_dir().display(),
            self.socket().display(),
            self.top,
            self.module.as_ref().unwrap_or(&bench_module).display(),
            self.bench.tokens_dir().display(),
            self.hsm,
            self.slots,
            self.more,
        )
    }

    /// Starts the daemon and waits until the automatic slots were tried.
    pub fn start(&mut self) -> StatusView {
        self.spawn();
        self.wait("boot is done", |status| status.boot_done && status.hsm.worker)
    }

    /// The same with another configuration in place of the stage's own.
    pub fn start_with(&mut self, configuration: &str) -> StatusView {
        fs::write(self.path("slotwarden.toml"), configuration).expect("the bench's own directory");
        self.spawn_configured();
        self.wait("boot is done", |status| status.boot_done && status.hsm.worker)
    }

    /// Starts the daemon and waits for nothing. Its log goes on in `daemon.log`.
    pub fn spawn(&mut self) {
        self.configure();
        self.spawn_configured();
    }

    fn spawn_configured(&mut self) {
        assert!(self.daemon.is_none(), "one daemon at a time");
        let log = OpenOptions::new().create(true).append(true).open(self.path("daemon.log"));
        let mut command = self.daemon_command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("the bench's own directory"));
        self.daemon = Some(command.spawn().expect("the program was just built"));
    }

    /// The command that starts a daemon on this stage.
    #[must_use]
    pub fn daemon_command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("daemon").arg("--config").arg(self.path("slotwarden.toml")).args(&self.arguments);
        command.envs(self.bench.environment()).envs(self.bench.more.clone());
        if self.talkative {
            command.env("RUST_LOG", "trace");
        }
        if let Some(uid) = self.user {
            command.uid(uid).gid(uid);
        }
        command
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_end()
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait_end();
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.daemon_process(), signal).expect("our own child");
    }

    /// Waits until the daemon ended by itself.
    pub fn wait_end(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().expect("the daemon was started");
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = daemon.try_wait().expect("our own child") {
                return status;
            }
            if Instant::now() >= until {
                let _ = daemon.kill();
                let _ = daemon.wait();
                panic!("the daemon does not end: {}", self.log());
            }
            thread::sleep(LOOK_PAUSE);
        }
    }

    /// The daemon's process.
    #[must_use]
    pub fn daemon_process(&self) -> Pid {
        let id = self.daemon.as_ref().expect("the daemon was started").id();
        i32::try_from(id).ok().and_then(Pid::from_raw).expect("process ids are positive")
    }

    /// The HSM worker's process, as its lock file names it.
    #[must_use]
    pub fn worker_process(&self) -> Pid {
        let text = fs::read_to_string(self.state_dir().join("worker.lock")).expect("a worker came up");
        let id = text.split_whitespace().next().and_then(|id| id.parse().ok());
        id.and_then(Pid::from_raw).expect("the worker writes its process id")
    }

    /// Runs `slotwarden` with these arguments to its end.
    pub fn run(&self, arguments: &[&str]) -> Ran {
        run(self.command().args(arguments))
    }

    /// The same as another user.
    pub fn run_as(&self, uid: u32, arguments: &[&str]) -> Ran {
        run(self.command().args(arguments).uid(uid).gid(uid))
    }

    /// Runs it with one secret in a file.
    pub fn run_with(&self, arguments: &[&str], option: &str, secret: impl AsRef<[u8]>) -> Ran {
        let file = self.secret_file(secret);
        let mut command = self.command();
        run(command.args(arguments).arg(option).arg(file))
    }

    /// Begins a command with one secret in a file and does not wait for its end.
    pub fn begin_with(&self, arguments: &[&str], option: &str, secret: impl AsRef<[u8]>) -> Begun {
        let file = self.secret_file(secret);
        let mut command = self.command();
        begin(command.args(arguments).arg(option).arg(file))
    }

    /// Runs it with the present and the new code in files.
    pub fn run_with_codes(&self, arguments: &[&str], code: &str, new_code: &str) -> Ran {
        let (code, new_code) = (self.secret_file(code), self.secret_file(new_code));
        let mut command = self.command();
        run(command.args(arguments).arg("--code-file").arg(code).arg("--new-code-file").arg(new_code))
    }

    /// `slotwarden slot activate` with a code.
    pub fn activate(&self, slot: &str, code: &str) -> Ran {
        self.run_with(&["slot", "activate", slot], "--code-file", code)
    }

    /// The same as another user.
    pub fn activate_as(&self, uid: u32, slot: &str, code: &str) -> Ran {
        let file = self.secret_file(code);
        let mut command = self.command();
        run(command.args(["slot", "activate", slot, "--code-file"]).arg(file).uid(uid).gid(uid))
    }

    /// A file with this secret, which no other command uses.
    pub fn secret_file(&self, secret: impl AsRef<[u8]>) -> PathBuf {
        self.secrets.set(self.secrets.get() + 1);
        let path = self.path("secrets").join(self.secrets.get().to_string());
        fs::write(&path, secret).expect("the bench's own directory");
        path
    }

    /// The program and its configuration, ready for a verb.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(self.path("slotwarden.toml")).envs(self.bench.environment());
        command
    }

    /// The status, as the command line tells scripts, and its exit code.
    #[track_caller]
    pub fn status(&self) -> (i32, Value) {
        let ran = self.run(&["status", "--output", "json"]);
        (ran.exit, ran.json())
    }

    /// One slot in the status.
    #[track_caller]
    pub fn slot_status(&self, slot: &str) -> Value {
        let (_, status) = self.status();
        let slots = status["slots"].as_array().expect("the status lists the slots");
        let found = slots.iter().find(|found| found["name"] == slot);
        found.unwrap_or_else(|| panic!("no slot {slot} in {status}")).clone()
    }

    /// Waits until the status is as wanted.
    #[track_caller]
    pub fn wait(&self, what: &str, wanted: impl Fn(&StatusView) -> bool) -> StatusView {
        let client = Client::new(&self.socket());
        let until = Instant::now() + PATIENCE;
        loop {
            let answered = client.ask(Ask::Status, &[]);
            match &answered {
                Ok(Answered::Status(status)) if wanted(status) => return (**status).clone(),
                _ if Instant::now() >= until => panic!("not in time: {what}: {answered:?}; log: {}", self.log()),
                _ => thread::sleep(LOOK_PAUSE),
            }
        }
    }

    /// Waits until one slot is as wanted.
    #[track_caller]
    pub fn wait_slot(&self, slot: &str, what: &str, wanted: impl Fn(&SlotView) -> bool) -> SlotView {
        let of_slot = |status: &StatusView| status.slots.iter().find(|found| found.name == slot).cloned();
        let status =
            self.wait(&format!("{slot} is {what}"), |status| of_slot(status).is_some_and(|slot| wanted(&slot)));
        of_slot(&status).expect("it was just found")
    }

    /// Waits until one slot is in this state.
    #[track_caller]
    pub fn wait_state(&self, slot: &str, state: &str) -> SlotView {
        self.wait_slot(slot, state, |found| found.state == state)
    }

    /// The audit log: each event with the slot it is about, as JSON.
    #[track_caller]
    pub fn audit(&self) -> Vec<(String, Value)> {
        let records = self.run(&["audit", "show", "--last", "100000", "--output", "json"]).exits(0).json();
        let records = records["records"].as_array().expect("a list of records");
        records
            .iter()
            .map(|record| (record["slot"].as_str().unwrap_or("").to_owned(), record["event"].clone()))
            .collect()
    }

    /// Why tries of this slot's PIN were made, in order.
    #[track_caller]
    pub fn attempts(&self, slot: &str) -> Vec<String> {
        let attempt = |(of, event): &(String, Value)| {
            let cause = event.get("AttemptBegins").filter(|_| of == slot)?;
            Some(cause.as_str().expect("a cause is a word").to_owned())
        };
        self.audit().iter().filter_map(attempt).collect()
    }

    /// How often this event of a slot is in the audit log.
    #[track_caller]
    pub fn events(&self, slot: &str, name: &str) -> usize {
        let is_it = |event: &Value| event == name || event.get(name).is_some();
        self.audit().iter().filter(|(of, event)| of == slot && is_it(event)).count()
    }

    /// What an application was handed over.
    #[must_use]
    pub fn handed_over(&self, application: &str) -> Option<String> {
        fs::read_to_string(self.hand_over_file(application)).ok()
    }

    /// Where an application finds the token PIN.
    #[must_use]
    pub fn hand_over_file(&self, application: &str) -> PathBuf {
        self.path("run").join(format!("{application}.pin"))
    }

    /// Whether pkcs11-tool logs in with this PIN.
    #[must_use]
    pub fn opens(&self, label: &str, pin: &str) -> bool {
        let mut tool = self.bench.pkcs11_tool();
        let ran = run(tool.args(["--token-label", label, "--login", "--pin", pin, "--list-objects"]));
        ran.exit == 0
    }

    /// Everything the daemons of this stage wrote into their log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// Where store, marker and locks are.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.path("state")
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path("run").join("control.sock")
    }

    /// A path on the stage.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.bench.dir().join(name)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // Its worker sees the closed socket and ends by itself.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// Runs a command to its end, without a terminal; one that does not end fails the test.
///
/// # Panics
/// When the program is not there or does not end.
pub fn run(command: &mut Command) -> Ran {
    begin(command).end()
}

/// A command that runs.
pub struct Begun {
    said: String,
    process: Pid,
    ended: mpsc::Receiver<std::io::Result<Output>>,
}

/// Begins a command, without a terminal.
///
/// # Panics
/// When the program is not there.
pub fn begin(command: &mut Command) -> Begun {
    let said = format!("{command:?}");
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = spawned.unwrap_or_else(|error| panic!("{said}: {error}: a package that tests/run installs is missing"));
    let process = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("process ids are positive");
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait_with_output()));
    Begun { said, process, ended }
}

impl Begun {
    /// Waits for the end.
    ///
    /// # Panics
    /// When it does not come.
    #[must_use]
    pub fn end(self) -> Ran {
        let Ok(output) = self.ended.recv_timeout(PATIENCE) else {
            let _ = rustix::process::kill_process(self.process, Signal::KILL);
            panic!("{} does not end", self.said);
        };
        ran(output)
    }

    /// How it ended, if it did.
    ///
    /// # Panics
    /// When the system cannot say.
    pub fn try_end(&mut self) -> Option<Ran> {
        self.ended.try_recv().ok().map(ran)
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> Pid {
        self.process
    }

    /// Ends it at once: it has no say.
    ///
    /// # Panics
    /// When it ended before.
    pub fn kill(&self) {
        rustix::process::kill_process(self.process, Signal::KILL).expect("our own child");
    }

    /// Ctrl-C.
    ///
    /// # Panics
    /// When it ended before.
    pub fn interrupt(&self) {
        rustix::process::kill_process(self.process, Signal::INT).expect("our own child");
    }
}

fn ran(output: std::io::Result<Output>) -> Ran {
    let output = output.expect("our own child");
    Ran {
        exit: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A file of `/proc` about a process.
#[must_use]
pub fn proc_file(process: Pid, name: &str) -> Vec<u8> {
    let path = format!("/proc/{}/{name}", process.as_raw_nonzero());
    let mut bytes = Vec::new();
    let read = File::open(&path).and_then(|mut file| std::io::Read::read_to_end(&mut file, &mut bytes));
    read.unwrap_or_else(|error| panic!("{path}: {error}"));
    bytes
}
