//! Where secrets are not, on the running program: codes that can be recognised go through a
//! whole life, and everything that the program shows, logs or keeps is searched for them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command};

use rustix::process::Pid;
use slotwarden_tests::modules::Kind;
use slotwarden_tests::stage::{Ran, Stage, proc_file, run};

slotwarden_tests::on_both_modules! {
    p03_no_code_pin_or_so_pin_is_shown_logged_or_kept
    p45_daemon_and_worker_are_not_dumpable_and_lock_their_memory
}

const FIRST: &str = "Canary-first-manual-7RbW";
const SECOND: &str = "Canary second manual 9TzL";
const WRONG: &str = "Canary-of-a-wrong-code-4XpQ";
const SO_PIN: &str = "Canary-so-pin-3MvK";
/// A user of the test: neither root nor anybody's.
const NOBODY: u32 = 54_323;

/// The shapes in which a secret could lie around.
fn shapes(secret: &str) -> Vec<Vec<u8>> {
    let bytes = secret.as_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
    let wide: Vec<u8> = bytes.iter().flat_map(|byte| [*byte, 0]).collect();
    let mut shapes = vec![bytes.to_vec(), hex.to_uppercase().into(), hex.into(), wide];
    // As Debug prints bytes, and as JSON writes them.
    shapes.extend([numbers.join(", ").into(), numbers.join(",").into()]);
    // In base64 wherever it begins: only the characters that its bytes alone decide.
    for before in 0..3 {
        let padded: Vec<u8> = std::iter::repeat_n(0, before).chain(bytes.iter().copied()).collect();
        let whole = padded.len() / 3 * 3;
        let text = base64(&padded[..whole]);
        shapes.push(text[if before == 0 { 0 } else { 4 }..].to_vec());
    }
    shapes
}

/// RFC 4648, for a length that three divides.
fn base64(bytes: &[u8]) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |three: &[u8]| {
        let bits = three.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        [18, 12, 6, 0].map(|shift| LETTERS[(bits >> shift & 63) as usize])
    };
    bytes.chunks_exact(3).flat_map(group).collect()
}

/// Which of these secrets are in there, in any shape.
fn found<'s>(place: &[u8], secrets: &[&'s str]) -> Vec<&'s str> {
    let holds = |shape: &Vec<u8>| memchr::memmem::find(place, shape).is_some();
    secrets.iter().filter(|secret| shapes(secret).iter().any(holds)).copied().collect()
}

/// Fails when something of the running appliance holds one of the secrets.
#[track_caller]
fn search(stage: &Stage, when: &str, secrets: &[&str]) {
    let mut places: Vec<(String, Vec<u8>)> = Vec::new();
    for (what, process) in [("daemon", stage.daemon_process()), ("worker", stage.worker_process())] {
        for file in ["environ", "cmdline", "status", "comm"] {
            places.push((format!("{file} of the {what}"), proc_file(process, file)));
        }
    }
    let export = stage.path(&format!("export of {when}"));
    let exported = run(stage.command().args(["audit", "export"]).arg(&export)).exits(0);
    places.push(("audit export".into(), fs::read(&export).expect("it was just written")));
    let shown: [&[&str]; 6] = [
        &["status"],
        &["status", "--output", "json"],
        &["slot", "show", "ca"],
        &["slot", "show", "ca", "--output", "json"],
        &["audit", "show", "--last", "1000"],
        &["audit", "show", "--last", "1000", "--output", "json"],
    ];
    places.push(("audit export's answer".into(), told(&exported)));
    places.extend(shown.iter().map(|arguments| (arguments.join(" "), told(&stage.run(arguments)))));
    places.extend(kept(stage));
    for (place, bytes) in places {
        assert_eq!(found(&bytes, secrets), [""; 0], "{when}: in {place}");
    }
}

fn told(ran: &Ran) -> Vec<u8> {
    format!("{}\n{}", ran.stdout, ran.stderr).into_bytes()
}

/// Log, configuration, and every file of the state directory.
fn kept(stage: &Stage) -> Vec<(String, Vec<u8>)> {
    let mut paths: Vec<PathBuf> = vec![stage.path("daemon.log"), stage.path("slotwarden.toml")];
    let state = fs::read_dir(stage.state_dir()).expect("the daemon made it");
    paths.extend(state.map(|entry| entry.expect("readable").path()));
    assert!(paths.iter().any(|path| path.ends_with("store.redb")), "{paths:?}");
    // The reserve for a full disk, 4 MiB of zeros: nothing to search.
    let (reserve, paths): (Vec<PathBuf>, Vec<PathBuf>) = paths.into_iter().partition(|path| path.ends_with("ballast"));
    for path in reserve {
        assert_eq!(fs::read(path).expect("readable").iter().max(), Some(&0));
    }
    let read = |path: &PathBuf| (path.display().to_string(), fs::read(path).expect("readable"));
    paths.iter().map(read).collect()
}

fn p03_no_code_pin_or_so_pin_is_shown_logged_or_kept(kind: Kind) {
    let mut stage = Stage::new(kind, 2);
    stage.bench.make_token_with("ca", SO_PIN, FIRST);
    stage.slot("ca", "ca", "signer");
    stage.slot("new", "new", "timestamper");
    stage.talkative = true;
    stage.start();
    let mut secrets = vec![FIRST.to_owned(), SECOND.into(), WRONG.into(), SO_PIN.into()];
    // The search finds what it looks for.
    for secret in &secrets {
        for shape in shapes(secret) {
            let place = [b"before ", shape.as_slice(), b" after"].concat();
            assert_eq!(found(&place, &[secret.as_str()]), [secret]);
        }
    }
    let mut answers = vec![
        stage.activate("ca", WRONG).exits(1),
        stage.run_with(&["slot", "init", "new"], "--so-pin-file", SO_PIN).exits(0),
        stage.activate("ca", FIRST).exits(0),
        stage.run_with_codes(&["slot", "change-code", "ca"], FIRST, SECOND).exits(0),
    ];
    secrets.extend(stage.handed_over("timestamper"));
    let all = |secrets: &[String]| secrets.iter().map(|secret| secret.clone().leak() as &str).collect::<Vec<_>>();
    search(&stage, "manual and active", &all(&secrets));

    answers.push(stage.run_with(&["slot", "mode", "ca", "generated"], "--code-file", SECOND).exits(0));
    secrets.extend(stage.handed_over("signer"));
    answers.push(stage.run(&["slot", "change-code", "ca"]).exits(0));
    secrets.extend(stage.handed_over("signer"));
    search(&stage, "generated and active", &all(&secrets));
    stage.kill();
    stage.start();
    search(&stage, "after a kill", &all(&secrets));
    answers.push(stage.run(&["slot", "deactivate", "ca"]).exits(0));
    search(&stage, "deactivated", &all(&secrets));
    stage.stop();

    assert_eq!(secrets.len(), 4 + 3, "three PINs were generated");
    let secrets = all(&secrets);
    let in_mode_of_nobody_else = fs::metadata(stage.state_dir()).expect("it is there").mode() & 0o077;
    assert_eq!(in_mode_of_nobody_else, 0);
    for (place, bytes) in kept(&stage) {
        assert_eq!(found(&bytes, &secrets), [""; 0], "after the end: in {place}");
    }
    for answer in answers {
        assert_eq!(found(&told(&answer), &secrets), [""; 0], "{answer:?}");
    }
}

/// Who owns the memory of a process, as `/proc` tells: root once it is not dumpable (proc(5)).
fn owner_of_memory(process: Pid) -> u32 {
    let path = format!("/proc/{}/mem", process.as_raw_nonzero());
    fs::metadata(path).expect("it runs").uid()
}

/// Whether another process of the same user can read how it was started.
fn is_readable_by_its_user(process: Pid) -> bool {
    let path = format!("/proc/{}/environ", process.as_raw_nonzero());
    run(Command::new("cat").arg(path).uid(NOBODY).gid(NOBODY)).exit == 0
}

/// A process of that user which hides nothing; ended by its id.
struct Plain(Child);

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn p45_daemon_and_worker_are_not_dumpable_and_lock_their_memory(kind: Kind) {
    let mut stage = Stage::new(kind, 1);
    stage.bench.make_token_with("ca", SO_PIN, FIRST);
    stage.slot("ca", "ca", "signer");
    stage.start();
    stage.activate("ca", FIRST).exits(0);
    let processes = |stage: &Stage| [stage.daemon_process(), stage.worker_process()];
    for (process, excuse) in processes(&stage).into_iter().zip(["memory is not locked", "may not lock its memory"]) {
        let limits = String::from_utf8(proc_file(process, "limits")).expect("text");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a line");
        assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
        let status = String::from_utf8(proc_file(process, "status")).expect("text");
        let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("a line").trim();
        assert!(locked != "0 kB" || stage.log().contains(excuse), "{locked}: {}", stage.log());
    }
    stage.stop();

    // As another user than root, since nothing is hidden from root.
    stage.more = "[[person]]\nname = \"root\"\nuids = [0]\nroles = [\"administrator\"]\n".into();
    stage.as_user(NOBODY);
    stage.start();
    stage.activate("ca", FIRST).exits(0);
    let plain = Plain(Command::new("sleep").arg("600").uid(NOBODY).gid(NOBODY).spawn().expect("coreutils"));
    let plain_process = Pid::from_child(&plain.0);
    assert_eq!((owner_of_memory(plain_process), is_readable_by_its_user(plain_process)), (NOBODY, true));
    for process in processes(&stage) {
        let status = String::from_utf8(proc_file(process, "status")).expect("text");
        assert!(status.contains(&format!("Uid:\t{NOBODY}\t")), "{status}");
        assert_eq!((owner_of_memory(process), is_readable_by_its_user(process)), (0, false));
    }
    // What it hands over is for its user and group only, in a directory that others may enter.
    let file = fs::metadata(stage.hand_over_file("signer")).expect("the slot is active");
    assert_eq!((file.uid(), file.mode() & 0o7777), (NOBODY, 0o640));
}
