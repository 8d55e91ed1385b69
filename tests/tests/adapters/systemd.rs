//! The adapter `systemd`, on a private bus with a stand-in for systemd.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use slotwarden_tests::modules::{Kind, SO_PIN};
use slotwarden_tests::stage::Stage;

use super::fake_systemd::{FakeSystemd, Mood, UNIT};
use super::{CODE, NEW_CODE, application, at_once, server, tells_no_secret};

struct Standin {
    stage: Stage,
    systemd: FakeSystemd,
    file: PathBuf,
}

impl Standin {
    fn new(more: &str) -> Self {
        let mut stage = Stage::new(Kind::SoftHsm, 2);
        stage.talkative = true;
        stage.bench.make_token_with("ca", SO_PIN, CODE);
        stage.bench.make_token_with("other", SO_PIN, CODE);
        let file = stage.hand_over_file("signer");
        let systemd = FakeSystemd::start(&stage.path("run"), &file);
        let adapter = format!(
            "adapter = \"systemd\"\nunit = \"{UNIT}\"\npath = \"{}\"\nbus = \"{}\"\n{more}",
            file.display(),
            systemd.address()
        );
        stage.slot_with_adapter("ca", "ca", "signer", &adapter);
        stage.slot("other", "other", "timestamper");
        Standin { stage, systemd, file }
    }

    /// Activates the slot, which has to fail like this, and closes it again.
    #[track_caller]
    fn fails(&self, mood: Mood, fault: &str) {
        self.systemd.mood(mood);
        self.stage.activate("ca", CODE).exits(1);
        assert_eq!(application(&self.stage, "ca"), ("failed".to_owned(), fault.to_owned()), "{mood:?}");
        assert_eq!(self.stage.slot_status("ca")["state"], "active");
        self.stage.run(&["boot"]).exits(1);
        self.systemd.mood(Mood::Well);
        self.stage.run(&["slot", "deactivate", "ca"]).exits(0);
        assert!(!self.file.exists());
    }
}

const NOT_HEALTHY: &str = "the application was served and is not healthy";

#[test]
fn a_unit_that_does_not_come_up_is_a_named_fault_and_one_that_does_has_the_pin_until_it_is_taken_back() {
    let mut standin = Standin::new("healthy_s = 1\ntimeout_s = 5");
    standin.stage.start();
    standin.fails(Mood::Fails, "the service manager's job for the unit failed");
    standin.fails(Mood::Dies, NOT_HEALTHY);
    standin.fails(Mood::Denied, "the application or its service manager refused the order");
    assert_eq!(standin.systemd.has(), None);

    standin.stage.activate("ca", CODE).exits(0);
    assert_eq!(application(&standin.stage, "ca"), ("active".to_owned(), String::new()));
    assert_eq!(standin.systemd.has().as_deref(), Some(CODE));
    let before = standin.systemd.jobs();
    standin.stage.run_with_codes(&["slot", "change-code", "ca"], CODE, NEW_CODE).exits(0);
    assert_eq!(standin.systemd.has().as_deref(), Some(NEW_CODE));
    assert_eq!(standin.systemd.jobs(), before + 2, "stopped and started once");
    standin.stage.run_with(&["slot", "mode", "ca", "generated"], "--code-file", NEW_CODE).exits(0);
    let generated = standin.systemd.has().expect("it was handed over");
    assert!(standin.stage.opens("ca", &generated));
    standin.stage.run(&["slot", "deactivate", "ca"]).exits(0);
    assert_eq!((standin.systemd.has(), standin.systemd.state()), (None, "inactive"));
    standin.stage.run(&["slot", "activate", "ca"]).exits(0);
    standin.stage.stop();
    assert_eq!((standin.systemd.has(), standin.systemd.state()), (None, "inactive"), "a stop takes it back");
    standin.stage.start();
    assert_eq!(standin.systemd.has(), Some(generated.clone()), "a boot hands it over");
    tells_no_secret(&standin.stage, &[], &[CODE, NEW_CODE, &generated]);
}

#[test]
fn a_job_that_hangs_and_a_unit_that_flaps_delay_nobody() {
    let mut standin = Standin::new("healthy_s = 1\ntimeout_s = 15");
    standin.stage.start();
    for (mood, fault) in
        [(Mood::Hangs, "the application was not done in the adapter's time"), (Mood::Flaps, NOT_HEALTHY)]
    {
        standin.systemd.mood(mood);
        let begun = standin.stage.begin_with(&["slot", "activate", "ca"], "--code-file", CODE);
        standin.stage.wait_slot("ca", "handing over", |slot| {
            slot.applications.iter().any(|application| application.state == "pending")
        });
        at_once(|| standin.stage.activate("other", CODE).exits(0));
        assert_eq!(application(&standin.stage, "ca").0, "pending", "it is not done yet");
        at_once(|| standin.stage.run(&["slot", "deactivate", "other"]).exits(0));
        begun.end().exits(1);
        assert_eq!(application(&standin.stage, "ca"), ("failed".to_owned(), fault.to_owned()));
        standin.systemd.mood(Mood::Well);
        standin.stage.run(&["slot", "deactivate", "ca"]).exits(0);
    }
}

#[test]
fn a_service_manager_that_is_gone_stops_a_code_change_and_is_named() {
    let mut standin = Standin::new("healthy_s = 0\ntimeout_s = 5");
    standin.stage.start();
    standin.stage.activate("ca", CODE).exits(0);
    standin.systemd.end();
    standin.stage.run_with_codes(&["slot", "change-code", "ca"], CODE, NEW_CODE).refused(1, 316);
    assert!(standin.stage.opens("ca", CODE), "nothing was changed");
    let fault = "the application or its service manager cannot be reached";
    assert_eq!(application(&standin.stage, "ca"), ("failed".to_owned(), fault.to_owned()));
    standin.stage.run(&["slot", "deactivate", "ca"]).exits(1);
    assert!(!standin.file.exists(), "the file went all the same");
}

#[test]
fn an_application_is_healthy_when_it_says_so() {
    let status = Arc::new(AtomicU16::new(503));
    let of = Arc::clone(&status);
    let address = server::serve(None, move |request| (request.path == "/health").then(|| of.load(Ordering::SeqCst)));
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    let well = folder.path().join("well");
    let mut standin = Standin::new(&format!(
        "healthy_s = 0\ntimeout_s = 3\nhealth_url = \"http://{address}/health\"\n\
         health_command = [\"/usr/bin/test\", \"-e\", \"{}\"]",
        well.display()
    ));
    standin.stage.start();
    standin.fails(Mood::Well, NOT_HEALTHY);
    status.store(200, Ordering::SeqCst);
    standin.fails(Mood::Well, NOT_HEALTHY);
    std::fs::write(&well, "").expect("the test's own");
    standin.stage.activate("ca", CODE).exits(0);
    assert_eq!(application(&standin.stage, "ca"), ("active".to_owned(), String::new()));
}

#[test]
fn a_unit_can_run_on_without_its_pin() {
    let mut standin = Standin::new("healthy_s = 0\non_activate = \"start\"\non_deactivate = \"restart\"");
    standin.stage.start();
    standin.stage.activate("ca", CODE).exits(0);
    assert_eq!(standin.systemd.state(), "active");
    standin.stage.run(&["slot", "deactivate", "ca"]).exits(0);
    assert_eq!((standin.systemd.has(), standin.systemd.state()), (None, "active"));
}
