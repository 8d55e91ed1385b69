//! Where secrets are not, on the running program: codes that can be recognised go through a
//! whole life, and everything that the program shows, logs or keeps is searched for them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command};

use rustix::process::Pid;
use slotwarden_core::share::TypedShare;
use slotwarden_tests::modules::Kind;
use slotwarden_tests::stage::{Ran, Stage, proc_file, run};

slotwarden_tests::on_both_modules! {
    p03_no_code_pin_or_so_pin_is_shown_logged_or_kept
    p03_no_share_or_part_is_shown_twice_logged_or_kept
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

/// Log, configuration, and every file of the state directory and of what is below it.
fn kept(stage: &Stage) -> Vec<(String, Vec<u8>)> {
    let mut paths: Vec<PathBuf> = vec![stage.path("daemon.log"), stage.path("slotwarden.toml")];
    let mut folders = vec![stage.state_dir()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("the daemon made it") {
            let path = entry.expect("readable").path();
            if path.is_dir() { folders.push(path) } else { paths.push(path) }
        }
    }
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

/// In which forms a share could lie around: its text with and without groups, the bytes that
/// the text carries, and its secret part alone.
fn forms_of_share(text: &str) -> Vec<Vec<u8>> {
    let share = TypedShare::parse(text.as_bytes()).expect("it was shown to be typed back");
    let [high, low] = share.generation().to_be_bytes();
    let quorum = (share.quorum().m() - 1) << 4 | (share.quorum().n() - 1);
    // core/src/share/typed.rs has the table of this.
    let payload = [&[0x12, quorum, share.x(), high, low], &share.set_mark()[..], share.y()].concat();
    let plain = text.replace('-', "");
    let texts = [text, &plain, &plain.to_uppercase(), &plain[16..40]].map(|text| text.as_bytes().to_vec());
    texts.into_iter().chain([payload, share.y().to_vec()]).collect()
}

/// Shares and parts go through a whole life: handed out, typed back, entered, void. Each is
/// shown to its person once and is nowhere else.
fn p03_no_share_or_part_is_shown_twice_logged_or_kept(kind: Kind) {
    const CUSTODIANS: [u32; 3] = [54_331, 54_332, 54_333];
    const PARTS: [&str; 2] = ["Canary-part-of-one-2HsD", "Canary part of two 8KqV"];
    let mut stage = Stage::new(kind, 1);
    stage.bench.make_token_with("ca", SO_PIN, FIRST);
    stage.slot("ca", "ca", "signer");
    stage.talkative = true;
    stage.more = "[[person]]\nname = \"root\"\nuids = [0]\nroles = [\"administrator\", \"auditor\"]\n".into();
    for uid in CUSTODIANS {
        stage.more += &format!("[[person]]\nname = \"p{uid}\"\nuids = [{uid}]\nroles = [\"custodian\"]\n");
    }
    stage.open_to_all();
    stage.start();
    let mut answers = Vec::new();
    let enter = |stage: &Stage, uid: u32, text: &str| {
        let file = stage.secret_file(text).display().to_string();
        stage.run_as(uid, &["slot", "share", "ca", "--code-file", &file])
    };
    let mut secrets = vec![FIRST.to_owned(), PARTS[0].into(), PARTS[1].into()];
    let mut forms: Vec<Vec<u8>> = Vec::new();
    let mut hand_out = |stage: &Stage, code: Option<&str>, answers: &mut Vec<Ran>| {
        let split = ["slot", "split", "ca", "-m", "2", "-n", "3"];
        answers.push(match code {
            Some(code) => stage.run_with(&split, "--code-file", code).exits(2),
            None => stage.run(&split).exits(2),
        });
        let mut shares = Vec::new();
        for uid in CUSTODIANS {
            let share = stage.run_as(uid, &["slot", "share", "ca"]).exits(0).stdout.trim_end().to_owned();
            forms.extend(forms_of_share(&share));
            shares.push(share);
        }
        search_forms(stage, "handed out", &forms);
        shares
    };
    // A set that becomes void, in every step of its short life.
    let void = hand_out(&stage, Some(FIRST), &mut answers);
    answers.push(enter(&stage, CUSTODIANS[1], &void[0]).exits(77));
    answers.push(enter(&stage, CUSTODIANS[0], &void[0]).exits(2));
    stage.kill();
    stage.start();
    // One that rules, entered right and wrong.
    let shares = hand_out(&stage, Some(FIRST), &mut answers);
    for (uid, share) in CUSTODIANS.iter().zip(&shares) {
        answers.push(enter(&stage, *uid, share));
    }
    secrets.extend(stage.handed_over("signer"));
    answers.push(stage.run(&["slot", "deactivate", "ca"]).exits(0));
    answers.push(enter(&stage, CUSTODIANS[0], &void[0]).exits(1));
    let other = if shares[0].ends_with('q') { "p" } else { "q" };
    answers.push(enter(&stage, CUSTODIANS[0], &format!("{}{other}", &shares[0][..64])).exits(1));
    answers.push(enter(&stage, CUSTODIANS[2], &shares[2]).exits(2));
    answers.push(enter(&stage, CUSTODIANS[0], &shares[0]).exits(0));
    // From shares to parts.
    let names = format!("p{},p{}", CUSTODIANS[0], CUSTODIANS[1]);
    answers.push(stage.run(&["slot", "mode", "ca", "manual", "--parts", &names]).exits(2));
    answers.push(enter(&stage, CUSTODIANS[1], &shares[1]).exits(2));
    answers.push(enter(&stage, CUSTODIANS[2], &shares[2]).exits(2));
    answers.push(enter(&stage, CUSTODIANS[1], PARTS[1]).exits(2));
    answers.push(enter(&stage, CUSTODIANS[0], PARTS[0]).exits(0));
    let all: Vec<&str> = secrets.iter().map(String::as_str).collect();
    forms.extend(shares.iter().flat_map(|share| forms_of_share(share)));
    for when in ["shares and parts were entered", "after a restart"] {
        search(&stage, when, &all);
        search_forms(&stage, when, &forms);
        assert!(stage.stop().success());
        stage.start();
    }
    for answer in answers {
        assert_eq!(found(&told(&answer), &all), [""; 0], "{answer:?}");
        for form in &forms {
            assert!(memchr::memmem::find(&told(&answer), form).is_none(), "{answer:?}");
        }
    }
}

/// Fails when something of the running appliance holds one of these, as it is or in hexadecimal.
#[track_caller]
fn search_forms(stage: &Stage, when: &str, forms: &[Vec<u8>]) {
    let commands: [&[&str]; 3] =
        [&["status", "--output", "json"], &["slot", "show", "ca"], &["audit", "show", "--last", "1000"]];
    let mut places = kept(stage);
    places.extend(commands.iter().map(|arguments| (arguments.join(" "), told(&stage.run(arguments)))));
    for process in [stage.daemon_process(), stage.worker_process()] {
        places.extend(["environ", "cmdline"].map(|file| (file.to_owned(), proc_file(process, file))));
    }
    for (place, bytes) in places {
        for form in forms {
            let hex: String = form.iter().map(|byte| format!("{byte:02x}")).collect();
            let numbers: Vec<String> = form.iter().map(u8::to_string).collect();
            for shape in [form.clone(), hex.to_uppercase().into(), hex.into(), numbers.join(", ").into()] {
                assert!(memchr::memmem::find(&bytes, &shape).is_none(), "{when}: in {place}");
            }
        }
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
