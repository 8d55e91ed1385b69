//! The program as people and scripts meet it, without any HSM: its module is a path that
//! leads nowhere, so that nothing here depends on a package. What it does with real tokens
//! is tested under `tests/`.

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use slotwarden::devices::Store as _;
use slotwarden_core::record::Record;
use support::{Purse, code};

const PROGRAM: &str = env!("CARGO_BIN_EXE_slotwarden");
/// `nobody` on every Linux.
const NOBODY: u32 = 65_534;

/// One appliance in a directory of its own.
struct Place {
    dir: tempfile::TempDir,
    daemon: Option<Child>,
}

impl Place {
    fn new(persons: &str) -> Place {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is writable");
        let path = dir.path().display();
        let text = format!(
            "state_dir = \"{path}/state\"\nsocket = \"{path}/run/control.sock\"\n[hsm]\nmodule = \"/nowhere/hsm.so\"\n\
             [[slot]]\nname = \"ca-root\"\ntoken = \"pkcs11:token=CA%20Root\"\n{persons}"
        );
        fs::write(dir.path().join("slotwarden.toml"), text).expect("there is room");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
        Place { dir, daemon: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).arg("--config").arg(self.path("slotwarden.toml")).stdin(Stdio::null());
        command.env_remove("CREDENTIALS_DIRECTORY");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program starts")
    }

    fn code(&self, arguments: &[&str]) -> Option<i32> {
        self.run(arguments).status.code()
    }

    fn start(&mut self) -> Pid {
        let daemon = self.command(&["daemon"]);
        self.spawn(daemon)
    }

    /// As systemd does that gives it credentials.
    fn start_in(&mut self, credentials: &Path) -> Pid {
        let mut daemon = self.command(&["daemon"]);
        daemon.env("CREDENTIALS_DIRECTORY", credentials);
        self.spawn(daemon)
    }

    fn spawn(&mut self, mut daemon: Command) -> Pid {
        let log = fs::File::create(self.path("log")).expect("there is room");
        let daemon = daemon.stderr(log).spawn().expect("the program starts");
        let pid = Pid::from_child(&daemon);
        self.daemon = Some(daemon);
        self.wait_for("the socket", |place| UnixStream::connect(place.path("run/control.sock")).is_ok());
        pid
    }

    fn wait_for(&self, what: &str, is_there: impl Fn(&Place) -> bool) {
        let begun = Instant::now();
        while !is_there(self) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{what} did not come: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Sends a signal and waits for the daemon's end.
    fn end(&mut self, signal: Signal) -> Option<i32> {
        let mut daemon = self.daemon.take().expect("it was started");
        kill_process(Pid::from_child(&daemon), signal).expect("it runs");
        daemon.wait().expect("it is our child").code()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // It may have ended by itself.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn without_a_daemon_clients_say_so_and_exit_1() {
    let place = Place::new("");
    let status = place.run(&["status"]);
    assert_eq!(status.status.code(), Some(1));
    assert!(said(&status).contains("[601]") && said(&status).contains("slotwarden daemon"), "{}", said(&status));
    assert_eq!(place.code(&["boot", "--wait", "0"]), Some(1));
    assert_eq!(place.code(&["slot", "activate"]), Some(64));
    let checked = place.run(&["check-config"]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&checked.stdout).contains("/nowhere/hsm.so"));
}

#[test]
fn a_module_that_cannot_be_loaded_is_a_fault_with_path_and_reason() {
    let mut place = Place::new("");
    place.start();
    place.wait_for("the loader's reason", |place| place.log().contains("/nowhere/hsm.so"));
    let status = place.run(&["status", "--output", "json"]);
    assert_eq!(status.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&status.stdout).expect("JSON was asked for");
    assert_eq!(json["schema"], 1);
    assert_eq!(json["summary"]["slots"], 1);
    assert_eq!(json["hsm"]["worker"], false);
    assert_eq!(json["seal"], "key-file");
    let refused = place.run(&["slot", "show", "nobody", "--output", "json"]);
    assert_eq!(refused.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&refused.stdout).expect("JSON was asked for");
    assert_eq!(json["problem"]["name"], "unknown-slot");
}

#[test]
fn the_audit_log_of_a_stopped_daemon_is_verified_shown_and_exported_and_that_is_said() {
    let mut place = Place::new("");
    let nowhere = place.run(&["audit", "verify"]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(said(&nowhere).contains("[601]") && said(&nowhere).contains("does not exist"), "{}", said(&nowhere));
    place.start();
    assert_eq!(place.code(&["audit", "verify"]), Some(0));
    assert_eq!(place.end(Signal::TERM), Some(0));

    let verified = place.run(&["audit", "verify", "--output", "json"]);
    assert_eq!(verified.status.code(), Some(0), "{}", said(&verified));
    assert!(said(&verified).contains("the daemon does not run"), "{}", said(&verified));
    let json: Value = serde_json::from_slice(&verified.stdout).expect("JSON was asked for");
    assert_eq!((&json["source"], &json["trusted"]), (&"stopped-store".into(), &false.into()));
    let records = json["records"].as_u64().expect("a count");
    let shown = place.run(&["audit", "show", "--last", "1", "--output", "json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON was asked for");
    assert_eq!((&shown["last"], &shown["records"][0]["sequence"]), (&records.into(), &records.into()));
    let export = place.path("export").display().to_string();
    assert_eq!(place.code(&["audit", "export", &export]), Some(0));
    assert_eq!(place.code(&["audit", "export", &export]), Some(1), "it exists");
    // A second daemon is not in the way; a running one is told apart from none.
    place.start();
    assert!(!said(&place.run(&["audit", "verify"])).contains("does not run"));
}

#[test]
fn p37_a_truncated_tail_is_found_by_who_brings_a_checkpoint() {
    let mut place = Place::new("");
    place.start();
    assert_eq!(place.end(Signal::TERM), Some(0));
    let path = |name: &str| place.path(name).display().to_string();
    assert_eq!(place.code(&["audit", "export", &path("whole")]), Some(0));
    let whole = fs::read_to_string(path("whole")).expect("it was written");
    let mut lines: Vec<&str> = whole.lines().collect();
    lines.pop();
    while lines.last().is_some_and(|line| line.starts_with("{\"checkpoint\"")) {
        lines.pop();
    }
    lines.pop();
    let records = lines.iter().filter(|line| line.starts_with("{\"sequence\"")).count();
    let signed = lines.iter().filter(|line| line.starts_with("{\"checkpoint\"")).count();
    let cut = format!("{}\n{{\"end\":{records},\"checkpoints\":{signed}}}\n", lines.join("\n"));
    fs::write(path("cut"), cut).expect("there is room");

    let last = (records + 1).to_string();
    for known in [&last, &path("whole")] {
        let found = place.run(&["audit", "verify", &path("cut"), "--checkpoint", known]);
        assert_eq!(found.status.code(), Some(1));
        assert!(said(&found).contains(&format!("ends before record {last}")), "{}", said(&found));
        for whole in [
            &["audit", "verify", &path("whole"), "--checkpoint", known][..],
            &["audit", "verify", "--checkpoint", known],
        ] {
            let whole = place.run(whole);
            assert_eq!(whole.status.code(), Some(0), "{}", said(&whole));
            assert!(String::from_utf8_lossy(&whole.stdout).contains(&format!("reaches record {last}")), "{whole:?}");
        }
    }
    // Without that knowledge nothing contradicts it, which is said.
    let unknowing = place.run(&["audit", "verify", &path("cut")]);
    assert_eq!(unknowing.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&unknowing.stdout).contains(&format!("--checkpoint {records}")), "{unknowing:?}");
    let wrong = place.run(&["audit", "verify", &path("whole"), "--checkpoint", &path("slotwarden.toml")]);
    assert!(said(&wrong).contains("[625]"), "{}", said(&wrong));
    assert_eq!(place.code(&["audit", "verify", "--checkpoint", ""]), Some(64));
}

#[test]
fn a_sealed_code_of_a_slot_that_was_renamed_is_reported_and_kept() {
    let mut place = Place::new("");
    let settings = support::settings(&place.path("state"));
    let mut open = support::open(&settings).expect("a new store");
    for name in ["ca-root", "old-root"] {
        let owner = open.store.owner_of(name).expect("there is room");
        let mut purse = Purse::empty();
        let id = purse.keep(b"hunter2-hunter2");
        open.store.put(&Record::Seal { key: code(owner.0, 1), id }, &purse);
    }
    // Known to the store, but without a code: nothing is lost if nobody names it again.
    open.store.owner_of("never-used").expect("there is room");
    open.settle();
    drop(open);

    place.start();
    let status = place.run(&["status", "--output", "json"]);
    let json: Value = serde_json::from_slice(&status.stdout).expect("JSON was asked for");
    assert_eq!(json["kept_codes"], serde_json::json!(["old-root"]));
    let table = place.run(&["status"]);
    for told in [String::from_utf8_lossy(&table.stdout).into_owned(), place.log()] {
        assert!(told.contains("a sealed code is kept for old-root"), "{told}");
        assert!(!told.contains("never-used"), "{told}");
    }
    assert_eq!(place.end(Signal::TERM), Some(0));
    let open = support::open(&settings).expect("it is whole");
    assert_eq!(open.store.with_sealed_code().collect::<Vec<_>>(), ["ca-root", "old-root"]);
}

#[test]
fn a_store_made_under_a_systemd_credential_opens_with_that_one_only() {
    let mut place = Place::new("");
    let credentials = place.path("credentials");
    fs::create_dir(&credentials).expect("there is room");
    let credential = credentials.join("slotwarden-seal");
    fs::write(&credential, [7; 31]).expect("there is room");
    let daemon = |place: &Place| {
        place.command(&["daemon"]).env("CREDENTIALS_DIRECTORY", &credentials).output().expect("the program starts")
    };
    let short = daemon(&place);
    assert_eq!(short.status.code(), Some(1));
    assert!(said(&short).contains("shorter than 32 bytes"), "{}", said(&short));

    fs::write(&credential, [7; 32]).expect("there is room");
    place.start_in(&credentials);
    let status = place.run(&["status", "--output", "json"]);
    let json: Value = serde_json::from_slice(&status.stdout).expect("JSON was asked for");
    assert_eq!(json["seal"], "systemd-credential");
    assert_eq!(place.end(Signal::TERM), Some(0));
    assert!(!place.path("state/seal.key").exists(), "a key on the disk would protect nothing");

    // Without it, or with another one: refused, and nothing is made in its place.
    let before = support::bytes_of(&place.path("state"));
    let without = place.run(&["daemon"]);
    assert_eq!(without.status.code(), Some(1));
    assert!(said(&without).contains("CREDENTIALS_DIRECTORY is not set"), "{}", said(&without));
    fs::write(&credential, [8; 32]).expect("there is room");
    let other = daemon(&place);
    assert_eq!(other.status.code(), Some(1));
    assert!(said(&other).contains("[407]"), "{}", said(&other));
    assert!(support::bytes_of(&place.path("state")) == before);
    fs::write(&credential, [7; 32]).expect("there is room");
    place.start_in(&credentials);
    assert_eq!(place.end(Signal::TERM), Some(0));
}

/// What an administrator gets wrong in the middle of the night: each message names the
/// thing, says what is so, and what to do.
#[test]
fn mistakes_around_the_daemon_are_told_with_what_to_do() {
    assert!(rustix::process::geteuid().is_root(), "this test has to run as root: it acts as another user");
    let mut place = Place::new("");
    let program = place.path("slotwarden");
    fs::copy(PROGRAM, &program).expect("there is room");
    let run_as = |uid: u32, config: &Path, arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).arg("--config").arg(config).stdin(Stdio::null()).uid(uid);
        let output = command.output().expect("the program starts");
        (output.status.code(), said(&output) + &String::from_utf8_lossy(&output.stdout))
    };
    let config = place.path("slotwarden.toml");
    let text = fs::read_to_string(&config).expect("it was written");
    let other = |name: &str, from: &str, to: &str| {
        assert!(text.contains(from), "the edit must change something");
        let path = place.path(name);
        fs::write(&path, text.replacen(from, to, 1)).expect("there is room");
        path
    };
    let tells = |(code, told): (Option<i32>, String), exit: i32, wanted: &[&str]| {
        assert_eq!(code, Some(exit), "{told}");
        for wanted in wanted {
            assert!(told.contains(wanted), "{wanted:?} is missing in: {told}");
        }
    };

    // The configuration: at another place, not readable, a directory.
    let nowhere = place.path("nowhere.toml");
    tells(run_as(0, &nowhere, &["status"]), 1, &["[614]", "nowhere.toml: No such file", "--config FILE"]);
    tells(run_as(0, place.dir.path(), &["daemon"]), 1, &["[614]", "Is a directory"]);
    let private = other("private.toml", "[hsm]", "[hsm]");
    fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).expect("it is ours");
    tells(run_as(NOBODY, &private, &["status"]), 1, &["[614]", "Permission denied", "allowed to read"]);

    // Directories that the daemon's user may not use; nothing is called damaged.
    let state = place.path("state").display().to_string();
    fs::create_dir(place.path("state")).expect("there is room");
    fs::set_permissions(place.path("state"), fs::Permissions::from_mode(0o700)).expect("it is ours");
    let wanted = ["[624]", &state, "user id 65534", "chown -R"];
    tells(run_as(NOBODY, &config, &["daemon"]), 1, &wanted);
    tells(
        run_as(NOBODY, &config, &["check-config"]),
        1,
        &["state_dir", "user id 65534 may not write", "run this check as"],
    );
    let elsewhere = format!("state_dir = \"{}\"", place.path("nobodys").display());
    let unwritable = other("socket.toml", &format!("state_dir = \"{state}\""), &elsewhere);
    fs::create_dir(place.path("nobodys")).expect("there is room");
    std::os::unix::fs::chown(place.path("nobodys"), Some(NOBODY), None).expect("we are root");
    tells(run_as(NOBODY, &unwritable, &["daemon"]), 1, &["[617]", "control.sock", "Permission denied", "`socket`"]);

    // The machine: reported by the check, and by the daemon that starts all the same.
    let settle = other("settle.toml", "[hsm]", "[hsm]\nsettle_dir = \"/nowhere/tokens\"");
    tells(run_as(0, &settle, &["check-config"]), 1, &["/nowhere/tokens is not a directory", "settle_dir"]);
    let on_disk = "applications = [\"signer\"]\n[[application]]\nname = \"signer\"\nadapter = \"pin-file\"\n\
                   path = \"/proc/self/signer.pin\"\n";
    fs::write(&config, format!("{text}{on_disk}")).expect("there is room");
    tells(run_as(0, &config, &["check-config"]), 1, &["application signer", "/proc/self"]);

    // The daemon: not there, not ours to talk to.
    tells(
        run_as(0, &config, &["status"]),
        1,
        &["[601]", "control.sock", "systemctl start slotwarden", "--config FILE"],
    );
    place.start();
    assert!(place.log().contains("application signer"), "{}", place.log());
    tells(run_as(NOBODY, &config, &["status"]), 77, &["[602]", "run this as the daemon's user", "[[person]]"]);
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let mut place = Place::new("");
    place.start();
    let second = place.run(&["daemon"]);
    assert_eq!(second.status.code(), Some(1));
    assert!(said(&second).contains("another daemon uses this state directory"), "{}", said(&second));
    assert_eq!(place.code(&["slot", "list"]), Some(0));
    assert_eq!(place.end(Signal::TERM), Some(0));
    assert!(!place.path("run/control.sock").exists());
}

#[test]
fn a_closed_terminal_does_not_end_the_daemon_and_ctrl_c_does() {
    let mut place = Place::new("");
    let pid = place.start();
    kill_process(pid, Signal::HUP).expect("it runs");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(place.code(&["slot", "list"]), Some(0));
    assert_eq!(place.end(Signal::INT), Some(0));
    assert!(place.log().contains("stopped"), "{}", place.log());
}

#[test]
fn p42_what_is_no_request_is_refused_and_harms_nothing() {
    let mut place = Place::new("");
    place.start();
    for garbage in [&[0xFF; 4096][..], &[0, 0, 0, 0x40, 1], b"GET / HTTP/1.1\r\n\r\n", b""] {
        let mut stream = UnixStream::connect(place.path("run/control.sock")).expect("it listens");
        // The daemon may have refused already and closed.
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        // A connection closed over unread bytes is reset once its answer was read.
        let _ = stream.read_to_end(&mut answer);
        assert!(String::from_utf8_lossy(&answer).contains("frame-refused"), "{answer:?}");
    }
    assert_eq!(place.code(&["slot", "list"]), Some(0));
}

/// Starts processes of other users, so it needs to be root, as the acceptance tests do.
#[test]
fn strangers_are_refused_and_persons_do_what_their_roles_allow() {
    assert!(rustix::process::geteuid().is_root(), "this test has to run as root: it acts as another user");
    let auditor = format!(
        "[[person]]\nname = \"alice\"\nuids = [1]\nroles = [\"administrator\"]\n\
         [[person]]\nname = \"bob\"\nuids = [{NOBODY}]\nroles = [\"auditor\"]\n"
    );
    let mut place = Place::new(&auditor);
    place.start();
    // Another user may not be able to reach the build directory.
    let program = place.path("slotwarden");
    fs::copy(PROGRAM, &program).expect("there is room");
    let run_as = |uid: u32, arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(arguments).arg("--config").arg(place.path("slotwarden.toml")).stdin(Stdio::null()).uid(uid);
        command.output().expect("the program starts")
    };
    let stranger = run_as(4242, &["status"]);
    assert_eq!(stranger.status.code(), Some(77));
    assert!(said(&stranger).contains("user id 4242"), "{}", said(&stranger));
    assert_eq!(run_as(NOBODY, &["slot", "deactivate", "ca-root"]).status.code(), Some(77));
    assert_eq!(run_as(NOBODY, &["slot", "list"]).status.code(), Some(0));
    assert_eq!(run_as(NOBODY, &["audit", "verify"]).status.code(), Some(0));
    assert_ne!(run_as(1, &["slot", "deactivate", "ca-root"]).status.code(), Some(77));
    // The daemon's own user is only the boot hook now.
    assert_eq!(run_as(0, &["slot", "list"]).status.code(), Some(0));
    assert_eq!(run_as(0, &["slot", "deactivate", "ca-root"]).status.code(), Some(77));
    assert_eq!(run_as(0, &["audit", "show"]).status.code(), Some(77));
    assert_ne!(run_as(0, &["boot"]).status.code(), Some(77));
}

#[test]
fn p45_the_daemon_is_not_dumpable_and_its_memory_is_locked() {
    assert!(rustix::process::geteuid().is_root(), "this test has to run as root: it reads what only root may");
    let mut place = Place::new("");
    let pid = place.start().as_raw_nonzero();
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("every process has it");
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let locked = status.lines().find(|line| line.starts_with("VmLck:")).expect("every process has it");
    let locked_kib: u64 = locked.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
    assert!(locked_kib > 1024, "{locked}");
    drop(place);

    // A process that may be dumped owns its files under /proc; those of one that may not
    // are root's (proc(5)). As root both look alike, so this daemon runs as another user.
    let mut place = Place::new("");
    std::os::unix::fs::chown(place.dir.path(), Some(NOBODY), None).expect("we are root");
    let program = place.path("slotwarden");
    fs::copy(PROGRAM, &program).expect("there is room");
    let log = fs::File::create(place.path("log")).expect("there is room");
    let mut command = Command::new(&program);
    command.arg("daemon").arg("--config").arg(place.path("slotwarden.toml"));
    let daemon = command.stdin(Stdio::null()).stderr(log).uid(NOBODY).spawn().expect("the program starts");
    let pid = daemon.id();
    place.daemon = Some(daemon);
    place.wait_for("the socket", |place| UnixStream::connect(place.path("run/control.sock")).is_ok());
    assert_eq!(fs::metadata(format!("/proc/{pid}/maps")).expect("it runs").uid(), 0);
}

#[test]
fn boot_starts_a_daemon_when_none_listens() {
    let place = Place::new("");
    let boot = place.run(&["boot", "--spawn", "--wait", "20"]);
    let pid = place.run(&["status", "--output", "json"]);
    assert_eq!(boot.status.code(), Some(1), "the module cannot be loaded: {}", said(&boot));
    assert!(String::from_utf8_lossy(&boot.stdout).contains("0 of 1 slots active"), "{boot:?}");
    assert_eq!(pid.status.code(), Some(1));
    // Whoever answers on the socket is the daemon that boot started.
    let stream = UnixStream::connect(place.path("run/control.sock")).expect("it listens");
    let daemon = rustix::net::sockopt::socket_peercred(&stream).expect("a Unix socket").pid;
    assert_ne!(daemon, rustix::process::getpid());
    kill_process(daemon, Signal::TERM).expect("it runs");
    place.wait_for("the daemon's end", |place| !place.path("run/control.sock").exists());
}
