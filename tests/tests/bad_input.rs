//! Wrong input at every door: each is a refusal that says what to do, nothing is attempted,
//! nothing is lost, and the daemon goes on.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use slotwarden_tests::modules::{Bench, Kind, SO_PIN};
use slotwarden_tests::stage::{Ran, Stage, run};

slotwarden_tests::on_both_modules! {
    what_can_be_no_code_is_refused_before_the_token_is_asked
    what_can_be_no_new_code_is_refused_before_the_token_is_asked
    so_pins_that_can_be_none_are_refused_and_no_token_is_made
    an_unknown_slot_is_refused_whatever_is_wanted
    two_tokens_with_one_label_are_refused_until_the_serial_is_named
    p42_garbage_half_a_frame_and_a_gigabyte_on_the_socket_harm_nothing
    p26_strangers_are_turned_away_and_operators_activate_but_change_nothing
    a_module_that_cannot_be_loaded_is_named_with_path_and_reason_and_found_when_it_is_mended
}

const CODE: &str = "manual code one";
/// Users of the test: neither root nor anybody's.
const OPERATOR: u32 = 54_321;
const STRANGER: u32 = 54_322;

fn one_manual_slot(kind: Kind) -> Stage {
    let mut stage = Stage::new(kind, 2);
    stage.bench.make_token_with("ca", SO_PIN, CODE);
    stage.slot("ca", "ca", "signer");
    stage
}

/// Nothing was tried, counted or lost: the slot waits as before and opens with its code.
#[track_caller]
fn nothing_happened(stage: &Stage) {
    assert_eq!(stage.attempts("ca"), [""; 0]);
    assert!(!stage.bench.flags("ca").contains("count low"), "{}", stage.bench.flags("ca"));
    let slot = stage.slot_status("ca");
    assert_eq!((&slot["state"], &slot["tries_left"]), (&"locked".into(), &3.into()), "{slot}");
    stage.activate("ca", CODE).exits(0);
    assert_eq!(stage.handed_over("signer").as_deref(), Some(CODE));
}

/// Texts that can be no code, and the number of each refusal.
fn no_codes() -> Vec<(Vec<u8>, u16)> {
    vec![
        (b"".into(), 608),
        (b"\n".into(), 608),
        (b"1234567".into(), 201),
        (b"1234567\n".into(), 201),
        (vec![b'x'; 65], 202),
        (b"12345678\n90".into(), 203),
        (b"12345678\r\n".into(), 203),
        (b"1234\x005678".into(), 203),
        ("Schlüssel1".into(), 203),
        (vec![0xFF; 12], 203),
        (vec![b'x'; 5000], 609),
    ]
}

fn what_can_be_no_code_is_refused_before_the_token_is_asked(kind: Kind) {
    let mut stage = one_manual_slot(kind);
    stage.start();
    for (code, number) in no_codes() {
        stage.run_with(&["slot", "activate", "ca"], "--code-file", &code).refused(1, number);
        stage.run_with(&["slot", "mode", "ca", "generated"], "--code-file", &code).refused(1, number);
    }
    stage.run(&["slot", "activate", "ca"]).refused(1, 204);
    stage.run(&["slot", "activate", "ca", "--code-file", "/nowhere/code"]).refused(1, 610);
    stage.run(&["slot", "activate", "ca", "--code-fd", "987"]).refused(1, 610);
    stage.run(&["slot", "activate", "ca", "--code", CODE]).exits(64);
    nothing_happened(&stage);
}

fn what_can_be_no_new_code_is_refused_before_the_token_is_asked(kind: Kind) {
    let mut stage = one_manual_slot(kind);
    stage.start();
    let code = stage.secret_file(CODE);
    for (new_code, number) in no_codes() {
        let new_code = stage.secret_file(new_code);
        let mut change = stage.command();
        change.args(["slot", "change-code", "ca", "--code-file"]).arg(&code);
        run(change.arg("--new-code-file").arg(new_code)).refused(1, number);
    }
    nothing_happened(&stage);
    assert!(stage.opens("ca", CODE));
}

fn so_pins_that_can_be_none_are_refused_and_no_token_is_made(kind: Kind) {
    let mut stage = one_manual_slot(kind);
    stage.slot("new", "new one", "other");
    stage.start();
    for (so_pin, number) in [(&b""[..], 608), (&[b'x'; 65], 210), (b"so\npin-1234", 203), (b"so\x00pin-1234", 203)] {
        stage.run_with(&["slot", "init", "new"], "--so-pin-file", so_pin).refused(1, number);
    }
    stage.run_with(&["slot", "init", "new", "--free-slot", "7654321"], "--so-pin-file", SO_PIN).refused(1, 312);
    assert_eq!(stage.slot_status("new")["state"], "uninitialised");
    nothing_happened(&stage);
    stage.run_with(&["slot", "init", "new"], "--so-pin-file", SO_PIN).exits(0);
}

fn an_unknown_slot_is_refused_whatever_is_wanted(kind: Kind) {
    let mut stage = one_manual_slot(kind);
    stage.start();
    for slot in ["cb", "", "ca ", "pkcs11:token=cb", "pkcs11:slot-id=0", "根"] {
        for verb in [&["show", slot][..], &["deactivate", slot]] {
            let arguments: Vec<&str> = ["slot"].iter().chain(verb).copied().collect();
            stage.run(&arguments).refused(1, 102);
        }
        stage.activate(slot, CODE).refused(1, 102);
        stage.run_with_codes(&["slot", "change-code", slot], CODE, "manual code two").refused(1, 102);
    }
    nothing_happened(&stage);
}

fn two_tokens_with_one_label_are_refused_until_the_serial_is_named(kind: Kind) {
    let mut stage = Stage::new(kind, 2);
    stage.bench.make_token_with("twin", SO_PIN, CODE);
    let first = stage.bench.serials("twin").pop().expect("it was just made");
    stage.bench.make_token_with("twin", SO_PIN, CODE);
    stage.slot("ca", "twin", "signer");
    stage.start();
    stage.activate("ca", CODE).refused(1, 302);
    assert_eq!(stage.attempts("ca"), [""; 0]);
    let slot = stage.slot_status("ca");
    assert_eq!(slot["refusal"]["number"], 302, "{slot}");
    assert!(slot["refusal"]["remedy"].as_str().is_some_and(|remedy| remedy.contains("serial")));
    assert_eq!(stage.status().0, 1);
    stage.stop();
    // The remedy helps.
    let named = stage.configuration().replace("token=twin", &format!("token=twin;serial={first}"));
    stage.start_with(&named);
    stage.activate("ca", CODE).exits(0);
    assert_eq!(stage.run(&["slot", "show", "ca", "--output", "json"]).exits(0).json()["serial"], first.as_str());
}

/// What the daemon answers to these bytes before it closes the connection.
fn answer_to(stage: &Stage, bytes: &[u8], end: bool) -> Vec<u8> {
    let mut stream = UnixStream::connect(stage.socket()).expect("the daemon listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
    // A daemon that has heard enough may close before everything is written.
    let _ = stream.write_all(bytes);
    if end {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    // Closed with our bytes unread, the connection is reset after the answer.
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn p42_garbage_half_a_frame_and_a_gigabyte_on_the_socket_harm_nothing(kind: Kind) {
    let mut stage = one_manual_slot(kind);
    stage.start();
    let memory = resident_kib(&stage);
    let mut gigabyte = 0x4000_0000u32.to_le_bytes().to_vec();
    gigabyte.extend([1; 60]);
    let mut backwards = 0x4000_0000u32.to_be_bytes().to_vec();
    backwards.extend([1; 60]);
    let half = [40, 0, 0, 0, 1, 1, 0];
    for (bytes, end) in [
        (&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], false),
        (&[0xFF; 4096], false),
        (&[0; 4096], false),
        (&gigabyte, false),
        (&backwards, false),
        (&half, true),
        (&half[..3], true),
        (b"", true),
    ] {
        let answer = answer_to(&stage, bytes, end);
        let text = String::from_utf8_lossy(&answer);
        assert!(text.contains("frame-refused") && text.contains("use the `slotwarden`"), "{bytes:?}: {text}");
    }
    // A whole megabyte poured in, by several at once, and peers that say nothing.
    let silent: Vec<UnixStream> =
        (0..10).map(|_| UnixStream::connect(stage.socket()).expect("the daemon listens")).collect();
    let noise = vec![0xA5; 1 << 20];
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (stage, noise) = (&stage.socket(), &noise);
            let socket = stage.clone();
            scope.spawn(move || {
                let mut stream = UnixStream::connect(socket).expect("the daemon listens");
                let _ = stream.write_all(noise);
            });
        }
    });
    stage.run(&["slot", "list"]).exits(0);
    drop(silent);
    assert!(resident_kib(&stage) < memory + 8 * 1024, "{} after {memory}", resident_kib(&stage));
    nothing_happened(&stage);
}

fn resident_kib(stage: &Stage) -> u64 {
    let path = format!("/proc/{}/status", stage.daemon_process().as_raw_nonzero());
    let status = fs::read_to_string(path).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("every process has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn p26_strangers_are_turned_away_and_operators_activate_but_change_nothing(kind: Kind) {
    let mut stage = one_manual_slot(kind);
    stage.more = format!(
        "[[person]]\nname = \"alice\"\nuids = [0]\nroles = [\"administrator\", \"auditor\"]\n\
         [[person]]\nname = \"otto\"\nuids = [{OPERATOR}]\nroles = [\"operator\"]\n"
    );
    stage.open_to_all();
    stage.start();
    let code = stage.secret_file(CODE).display().to_string();
    let other = stage.secret_file("manual code two").display().to_string();
    let activate = ["slot", "activate", "ca", "--code-file", &code];
    let change = ["slot", "change-code", "ca", "--code-file", &code, "--new-code-file", &other];
    let switch = ["slot", "mode", "ca", "generated", "--code-file", &code];

    let keys = ["sync", "status", "--keys", "--slot", "ca"];
    for refused in [&["status"][..], &activate, &switch, &["boot"], &["audit", "show"], &keys] {
        let refused = stage.run_as(STRANGER, refused).refused(77, 603);
        assert!(refused.stderr.contains(&STRANGER.to_string()), "{}", refused.stderr);
    }
    for refused in [&change[..], &switch, &["audit", "show"], &["audit", "verify"]] {
        stage.run_as(OPERATOR, refused).refused(77, 101);
    }
    assert_eq!(stage.attempts("ca"), [""; 0]);
    let show = stage.run(&["audit", "show", "--output", "json"]).exits(0).json();
    let records = show["records"].as_array().expect("a list");
    let refusals: Vec<_> = records.iter().filter(|record| record["event"]["Refused"][1] == "NotAllowed").collect();
    assert!(refusals.len() == 2 && refusals.iter().all(|record| record["who"] == "otto"), "{refusals:?}");

    stage.run_as(OPERATOR, &["status"]).exits(2);
    stage.run_as(OPERATOR, &activate).exits(0);
    stage.run_as(OPERATOR, &["slot", "deactivate", "ca"]).exits(0);
    stage.run(&change).exits(0);
    assert!(stage.opens("ca", "manual code two"));
    let audit = stage.audit();
    assert!(audit.iter().any(|(_, event)| event["Completed"] == "ChangeCode"), "{audit:?}");
}

fn a_module_that_cannot_be_loaded_is_named_with_path_and_reason_and_found_when_it_is_mended(kind: Kind) {
    let mut stage = one_manual_slot(kind);
    let module = stage.path("module.so");
    stage.module = Some(module.clone());
    stage.configure();
    let says = |ran: &Ran| ran.stdout.contains(&module.display().to_string());
    assert!(says(&stage.run(&["check-config"]).exits(1)));
    stage.spawn();
    let boot = stage.run(&["boot"]).exits(1);
    assert!(boot.stdout.starts_with("0 of 1 slots active; ca is absent"), "{}", boot.stdout);
    for told in [boot, stage.run(&["status"]).exits(1), stage.run(&["status", "--output", "json"]).exits(1)] {
        assert!(says(&told) && told.stdout.contains("No such file"), "{}", told.stdout);
    }
    let logged = format!("the PKCS#11 module {} cannot be loaded", module.display());
    assert!(stage.log().contains(&logged) && stage.log().contains("No such file"), "{}", stage.log());
    stage.activate("ca", CODE).refused(75, 301);
    // A file that is no library: the loader's reason is another.
    fs::write(&module, "not a library").expect("the stage's own");
    stage.run(&["boot"]).exits(1);
    assert!(stage.log().contains("file too short") || stage.log().contains("invalid ELF header"), "{}", stage.log());
    fs::remove_file(&module).expect("the stage's own");
    std::os::unix::fs::symlink(stage.bench.settings(&[]).module, &module).expect("the stage's own");
    stage.run(&["boot"]).exits(2);
    nothing_happened(&stage);
}

#[test]
fn a_configuration_with_mistakes_is_refused_with_line_key_and_remedy_and_touches_nothing() {
    let stage = one_manual_slot(Kind::SoftHsm);
    let good = stage.configuration();
    let slot_twice = "[[slot]]\nname = \"other\"\ntoken = \"pkcs11:token=ca;serial=1\"\n";
    for (text, told) in [
        (good.replace("settle_dir", "settle_directory"), "unknown key `settle_directory`"),
        (format!("trys = 3\n{good}"), "line 1: unknown key `trys`"),
        (good.replace("[hsm]", "[hsm]\nlook_interval_s = 0"), "`look_interval_s` is out of range"),
        (good.replace("[hsm]", "[hsm]\ncalls_in_flight_max = 0"), "`calls_in_flight_max` is out of range"),
        (format!("{good}{slot_twice}"), "slot ca means the same token"),
        (good.replace("pkcs11:token=ca", "pkcs11:slot-id=0"), "slot numbers change"),
        (good.replace("pkcs11:token=ca", "pkcs11:token=ca?pin-value=canary-in-config"), "slot ca"),
        (good.replace("applications = [\"signer\"]", "applications = [\"singer\"]"), "\"singer\" is not configured"),
        ("state_dir = [".into(), "line 1"),
        (String::new(), "a key is missing: `state_dir`"),
    ] {
        let config = stage.path("wrong.toml");
        fs::write(&config, text).expect("the stage's own");
        let checked = run(stage.command().arg("check-config").arg("--config").arg(&config)).exits(1);
        assert!(checked.stdout.contains(told), "{told}: {}", checked.stdout);
        assert!(checked.stdout.lines().any(|line| line.starts_with("  ")), "a remedy: {}", checked.stdout);
        let refused = run(stage.command().arg("daemon").arg("--config").arg(&config)).refused(1, 615);
        assert!(refused.stderr.contains(told), "{told}: {}", refused.stderr);
        assert!(!checked.stdout.contains("canary") && !refused.stderr.contains("canary"));
        run(stage.command().arg("status").arg("--config").arg(&config)).refused(1, 615);
    }
    let nowhere = stage.path("nowhere.toml");
    run(stage.command().arg("daemon").arg("--config").arg(nowhere)).refused(1, 614);
    assert!(!stage.state_dir().exists(), "nothing was made for a wrong configuration");
}

#[test]
fn several_free_tokens_are_listed_for_the_person_to_choose() {
    let mut stage = Stage::on(Bench::new(Kind::Kryoptic, 3));
    stage.bench.make_token_with("ca", SO_PIN, CODE);
    stage.slot("new", "new one", "signer");
    stage.start();
    let several = stage.run_with(&["slot", "init", "new"], "--so-pin-file", SO_PIN).refused(1, 313);
    let choices: Vec<&str> = several.stderr.lines().filter(|line| line.contains("--free-slot ")).collect();
    assert_eq!(choices.len(), 2, "{}", several.stderr);
    stage.run_with(&["slot", "init", "new", "--free-slot", "0"], "--so-pin-file", SO_PIN).refused(1, 304);
    assert!(stage.opens("ca", CODE), "a token in use is not erased");
    stage.run_with(&["slot", "init", "new", "--free-slot", "2"], "--so-pin-file", SO_PIN).exits(0);
    assert_eq!(stage.slot_status("new")["state"], "active");
}
