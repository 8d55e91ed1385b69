//! The adapter `exec`. The stand-in is a shell script that writes down what it was given,
//! prints its PIN on every descriptor it has, and fails or hangs when it is told to.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use slotwarden_tests::modules::{Kind, SO_PIN};
use slotwarden_tests::stage::Stage;

use super::{CODE, NEW_CODE, application, at_once, tells_no_secret};

/// `$folder` is put in front. `has` is what it has: the application's state.
const PROGRAM: &str = r#"
cat /proc/$$/environ /proc/$$/cmdline >> $folder/seen
tr '\0' '\n' < /proc/$$/environ | grep ^SLOTWARDEN_ > $folder/words
echo "$*" > $folder/arguments
echo $$ >> $folder/processes
pin=$(cat)
echo "$pin"
echo "$pin" >&2
case $(cat $folder/mood) in
  fail) exit 7 ;;
  hang) sleep 600 ;;
esac
id -u > $folder/uid
case $SLOTWARDEN_ORDER in
  activate) printf %s "$pin" > $folder/has ;;
  deactivate) rm -f $folder/has ;;
esac
"#;

struct Standin {
    stage: Stage,
}

impl Standin {
    fn new(more: &str) -> Self {
        let mut stage = Stage::new(Kind::SoftHsm, 2);
        stage.talkative = true;
        stage.bench.make_token_with("ca", SO_PIN, CODE);
        stage.bench.make_token_with("other", SO_PIN, CODE);
        let folder = stage.path("standin");
        fs::create_dir(&folder).expect("the stage's own");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).expect("the stage's own");
        let program = folder.join("program");
        fs::write(&program, format!("#!/bin/sh\nfolder={}\n{PROGRAM}", folder.display())).expect("the stage's own");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("the stage's own");
        let adapter = format!("adapter = \"exec\"\ncommand = [\"{}\", \"an argument\"]\n{more}", program.display());
        stage.slot_with_adapter("ca", "ca", "signer", &adapter);
        stage.slot("other", "other", "timestamper");
        let standin = Standin { stage };
        standin.mood("well");
        standin
    }

    fn mood(&self, mood: &str) {
        fs::write(self.stage.path("standin/mood"), mood).expect("the stage's own");
    }

    /// What the script wrote into a file, if it is there.
    fn wrote(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.stage.path("standin").join(name)).ok()
    }

    fn has(&self) -> Option<String> {
        self.wrote("has")
    }
}

#[test]
fn a_program_that_fails_is_a_named_fault_and_one_that_ends_well_has_the_pin_until_it_is_taken_back() {
    let mut standin = Standin::new("");
    standin.mood("fail");
    standin.stage.start();
    let failed = standin.stage.activate("ca", CODE).exits(1);
    assert!(failed.stderr.contains("exit 7"), "{}", failed.stderr);
    let fault = "the adapter's program reported a failure: exit 7";
    assert_eq!(application(&standin.stage, "ca"), ("failed".to_owned(), fault.to_owned()));
    assert_eq!(standin.stage.slot_status("ca")["state"], "active");
    let boot = standin.stage.run(&["boot"]).exits(1);
    assert!(boot.stdout.contains("signer"), "{}", boot.stdout);
    assert_eq!(standin.has(), None);
    // It cannot be told to let go: nothing is changed.
    standin.stage.run_with_codes(&["slot", "change-code", "ca"], CODE, NEW_CODE).refused(1, 316);
    assert!(standin.stage.opens("ca", CODE));

    standin.mood("well");
    standin.stage.run(&["slot", "deactivate", "ca"]).exits(0);
    standin.stage.activate("ca", CODE).exits(0);
    assert_eq!(application(&standin.stage, "ca"), ("active".to_owned(), String::new()));
    assert_eq!(standin.has().as_deref(), Some(CODE));
    let words = "SLOTWARDEN_APPLICATION=signer\nSLOTWARDEN_ORDER=activate\nSLOTWARDEN_SLOT=ca\n\
                 SLOTWARDEN_TOKEN=pkcs11:token=ca";
    let wrote = standin.wrote("words").expect("it ran");
    let mut lines: Vec<&str> = wrote.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines.join("\n"), words);
    assert_eq!(standin.wrote("arguments").as_deref(), Some("an argument\n"));

    standin.stage.run_with_codes(&["slot", "change-code", "ca"], CODE, NEW_CODE).exits(0);
    assert_eq!(standin.has().as_deref(), Some(NEW_CODE));
    standin.stage.run_with(&["slot", "mode", "ca", "generated"], "--code-file", NEW_CODE).exits(0);
    let generated = standin.has().expect("it was handed over");
    assert!(standin.stage.opens("ca", &generated));
    standin.stage.run(&["slot", "deactivate", "ca"]).exits(0);
    assert_eq!(standin.has(), None);
    standin.stage.run(&["slot", "activate", "ca"]).exits(0);
    assert_eq!(standin.has().as_ref(), Some(&generated));
    standin.stage.stop();
    assert_eq!(standin.has(), None, "a stop takes it back");
    standin.stage.start();
    assert_eq!(standin.has(), Some(generated), "a boot hands it over");

    // What a killed daemon left is taken back by the next one, also from a slot that stays closed.
    standin.stage.run_with(&["slot", "mode", "ca", "manual"], "--new-code-file", CODE).exits(0);
    assert_eq!(standin.has().as_deref(), Some(CODE));
    standin.stage.kill();
    assert_eq!(standin.has().as_deref(), Some(CODE));
    standin.stage.start();
    standin.stage.wait_slot("ca", "locked", |slot| slot.state == "locked");
    let until = std::time::Instant::now() + slotwarden_tests::stage::PATIENCE;
    while standin.has().is_some() {
        assert!(std::time::Instant::now() < until, "it was not taken back: {}", standin.stage.log());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[test]
fn a_program_that_hangs_delays_nobody_and_is_killed_after_its_time() {
    let mut standin = Standin::new("timeout_s = 15");
    standin.mood("hang");
    standin.stage.start();
    let begun = standin.stage.begin_with(&["slot", "activate", "ca"], "--code-file", CODE);
    standin.stage.wait_slot("ca", "handing over", |slot| {
        slot.applications.iter().any(|application| application.state == "pending")
    });
    at_once(|| standin.stage.activate("other", CODE).exits(0));
    at_once(|| standin.stage.run(&["slot", "deactivate", "other"]).exits(0));
    assert_eq!(application(&standin.stage, "ca").0, "pending", "it still hangs");
    begun.end().exits(1);
    let fault = "the application was not done in the adapter's time";
    assert_eq!(application(&standin.stage, "ca"), ("failed".to_owned(), fault.to_owned()));
    standin.stage.run(&["boot"]).exits(1);
    standin.mood("well");
    standin.stage.run(&["slot", "deactivate", "ca"]).exits(0);
}

#[test]
fn p03_no_program_that_hangs_outlives_the_daemon_with_its_pin() {
    let mut standin = Standin::new("timeout_s = 3");
    standin.mood("hang");
    standin.stage.start();
    let begun = standin.stage.begin_with(&["slot", "activate", "ca"], "--code-file", CODE);
    standin.stage.wait_slot("ca", "handing over", |slot| {
        slot.applications.iter().any(|application| application.state == "pending")
    });
    standin.stage.stop();
    assert_ne!(begun.end().exit, 0);
    let processes = standin.wrote("processes").expect("it ran");
    assert!(processes.lines().count() >= 2, "it was also asked to give back: {processes}");
    for process in processes.lines() {
        let state = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // Whoever adopts orphans may be slow to reap them.
        assert!(state.is_empty() || state.contains(") Z ") || state.contains(") X "), "{state}");
    }
}

#[test]
fn a_program_that_is_not_there_is_named_by_check_config_and_in_the_status() {
    let standin = Standin::new("user = \"no such user\"");
    let program = standin.stage.path("standin/program");
    fs::remove_file(&program).expect("the stage's own");
    standin.stage.configure();
    let checked = standin.stage.run(&["check-config"]).exits(1);
    let told = format!("{}{}", checked.stdout, checked.stderr);
    assert!(told.contains("`command`") && told.contains("correct `user`"), "{told}");

    let mut standin = Standin::new("");
    fs::remove_file(standin.stage.path("standin/program")).expect("the stage's own");
    standin.stage.start();
    standin.stage.activate("ca", CODE).exits(1);
    let fault = "the adapter's program could not be started";
    assert_eq!(application(&standin.stage, "ca"), ("failed".to_owned(), fault.to_owned()));
}

#[test]
fn a_program_runs_as_the_user_that_is_configured() {
    let mut standin = Standin::new("user = \"54324\"");
    standin.stage.open_to_all();
    standin.stage.start();
    standin.stage.activate("ca", CODE).exits(0);
    assert_eq!(standin.wrote("uid").as_deref(), Some("54324\n"));
    assert_eq!(standin.has().as_deref(), Some(CODE));
}

#[test]
fn p03_a_program_that_prints_its_pin_puts_it_into_no_log_word_or_argument() {
    let mut standin = Standin::new("");
    standin.stage.start();
    let mut told = Vec::new();
    for mood in ["fail", "well"] {
        standin.mood(mood);
        let ran = standin.stage.activate("ca", CODE);
        told.push(format!("{}{}", ran.stdout, ran.stderr));
        let ran = standin.stage.run(&["slot", "deactivate", "ca"]);
        told.push(format!("{}{}", ran.stdout, ran.stderr));
    }
    standin.stage.activate("ca", CODE).exits(0);
    assert_eq!(standin.has().as_deref(), Some(CODE), "it was given");
    told.push(standin.wrote("seen").expect("it wrote its words and arguments"));
    assert!(told.last().is_some_and(|seen| seen.contains("SLOTWARDEN_ORDER=activate")));
    let told: Vec<&str> = told.iter().map(String::as_str).collect();
    tells_no_secret(&standin.stage, &told, &[CODE]);
}
