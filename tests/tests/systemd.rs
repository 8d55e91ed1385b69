//! The systemd unit as systemd reads it: no key that it does not know, no value that it
//! ignores, and an exposure that stays low.

use std::fs;
use std::process::Command;

use slotwarden_tests::build;

const UNIT: &str = include_str!("../../platform-linux/systemd/slotwarden.service");

fn analyze(arguments: &[&str]) -> std::process::Output {
    let analyzed = Command::new("systemd-analyze").args(arguments).env("SYSTEMD_PAGER", "cat").output();
    analyzed.expect("systemd-analyze is missing: install the package `systemd`")
}

/// A user that every machine has, and a program that is there.
fn unit(dir: &tempfile::TempDir, edit: fn(String) -> String) -> String {
    let program = build::slotwarden().display().to_string();
    let unit =
        UNIT.replace("/usr/bin/slotwarden", &program).replace("=slotwarden\nGroup=slotwarden", "=daemon\nGroup=daemon");
    let path = dir.path().join("slotwarden.service");
    fs::write(&path, edit(unit)).expect("there is room");
    path.display().to_string()
}

#[test]
fn p45_systemd_takes_every_line_of_the_unit() {
    let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is writable");
    let mistyped = unit(&dir, |unit| unit.replace("ProtectHome=yes", "ProtectHoem=yes"));
    let complaint = analyze(&["verify", "--man=no", &mistyped]);
    assert!(String::from_utf8_lossy(&complaint.stderr).contains("ProtectHoem"), "it ignores what it does not know");

    let path = unit(&dir, |unit| unit);
    let verified = analyze(&["verify", "--man=no", &path]);
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && !said.contains("slotwarden.service"), "{said}");
    // 10 is unconfined; a unit without any confinement has 9.2 or more, ours 2.1.
    let exposure = analyze(&["security", "--offline=true", "--threshold=25", "--no-pager", &path]);
    assert!(exposure.status.success(), "{}", String::from_utf8_lossy(&exposure.stdout));
    let open = unit(&dir, |unit| unit.replace("CapabilityBoundingSet=\n", "").replace("=@system-service", "=~@clock"));
    assert!(!analyze(&["security", "--offline=true", "--threshold=25", "--no-pager", &open]).status.success());
}
