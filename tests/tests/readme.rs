//! What the README tells a newcomer to paste works as pasted.

use std::fs;
use std::process::{Command, Stdio};

use slotwarden_tests::{build, excluded};

#[test]
fn the_readme_shows_its_two_commands() {
    let readme = readme();
    for command in ["cargo run --release -p slotwarden-sim", "tests/run"] {
        assert!(readme.lines().any(|line| line.starts_with(command)), "the README does not show: {command}");
    }
}

/// The block under "By hand", run by bash as it stands but for three things: nothing is
/// installed, the program is this build's, and the folder is this test's own.
#[test]
fn the_readme_walk_through_signs_survives_a_kill_and_ends_without_a_pin() {
    let place = tempfile::Builder::new().prefix("slotwarden-readme").tempdir_in("/dev/shm").expect("/dev/shm is there");
    let built = build::slotwarden().parent().expect("a program lies in a folder");
    let script = block(&readme(), "## By hand")
        .lines()
        .filter(|line| !line.contains("apt-get") && !line.starts_with("cargo build"))
        .map(|line| line.replace("$PWD/target/release", &built.display().to_string()))
        .map(|line| line.replace("/dev/shm/slotwarden-try", &place.path().join("try").display().to_string()))
        .collect::<Vec<_>>()
        .join("\n");
    // `timeout` ends the daemon too, should the script hang: both are in its process group.
    let ran = Command::new("timeout")
        .args(["120", "bash", "-e", "-c", &script])
        .current_dir(place.path())
        .stdin(Stdio::null())
        .output()
        .expect("timeout is in coreutils");
    let out = String::from_utf8_lossy(&ran.stdout).into_owned();
    let said = format!("{out}{}", String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "the walk-through ended with {}:\n{said}", ran.status);
    assert!(said.contains("0 of 1 slots active; ca-root waits for a code"), "before the code:\n{said}");
    assert!(said.contains("1 of 1 slots active"), "after the restart:\n{said}");
    assert_eq!(
        out.lines().filter(|line| *line == "signed").count(),
        2,
        "with the typed code, and after the kill:\n{said}"
    );
    assert!(out.contains("no PIN, no signature"), "after the deactivation:\n{said}");
    assert!(!said.contains("old-manual-code"), "the code was printed:\n{said}");
}

fn readme() -> String {
    fs::read_to_string(excluded::repository().join("README.md")).expect("the README is there")
}

/// The first shell block under a heading.
fn block(text: &str, heading: &str) -> String {
    let under = text.split_once(heading).expect("the heading is there").1;
    let begun = under.split_once("```sh\n").expect("a shell block follows").1;
    begun.split_once("```").expect("the block ends").0.to_owned()
}
