//! The adapters that ask others, against stand-ins: programs and servers of these tests that
//! behave as the real ones are documented to, and fail as they do.
//!
//! Each test begins with what fails: a fault has its name in the status, `boot` exits 1, and
//! the daemon answers everybody else meanwhile. What an application was given is compared
//! with what opens the token.

#[path = "adapters/ejbca_rest.rs"]
mod ejbca_rest;
#[path = "adapters/exec.rs"]
mod exec;
#[path = "adapters/fake_systemd.rs"]
mod fake_systemd;
#[path = "adapters/server.rs"]
mod server;
#[path = "adapters/systemd.rs"]
mod systemd;

use std::time::{Duration, Instant};

use serde_json::Value;
use slotwarden_tests::stage::{Stage, proc_file};

/// A manual code that can be recognised anywhere.
const CODE: &str = "Canary-manual-code-8KdR";
const NEW_CODE: &str = "Canary-new-manual-code-5WmT";
/// What is answered at once, with a machine that is busy.
const AT_ONCE: Duration = Duration::from_secs(10);

/// What the status says about the one application of a slot: its state, and its fault's
/// particulars.
#[track_caller]
fn application(stage: &Stage, slot: &str) -> (String, String) {
    let application = stage.slot_status(slot)["applications"][0].clone();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&application["state"]), text(&application["fault"]["detail"]))
}

/// Runs `act` and fails the test if it took long.
#[track_caller]
fn at_once<T>(act: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let answer = act();
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    answer
}

/// Fails when one of the secrets is in the log, the status, the daemon's own words and
/// arguments, or what was printed.
#[track_caller]
fn tells_no_secret(stage: &Stage, told: &[&str], secrets: &[&str]) {
    let status = stage.run(&["status", "--output", "json"]);
    let audit = stage.run(&["audit", "show", "--last", "1000"]);
    let log = stage.log();
    let own = ["environ", "cmdline"].map(|file| proc_file(stage.daemon_process(), file));
    let own = own.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    for text in [&log, &own[0], &own[1], &status.stdout, &audit.stdout]
        .into_iter()
        .map(String::as_str)
        .chain(told.iter().copied())
    {
        for secret in secrets {
            assert!(!text.contains(secret), "{text}");
        }
    }
}
