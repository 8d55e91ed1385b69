//! Builds the crates that stand outside the workspace: the proof without std, the firmware,
//! the cards under the LGPL.
//!
//! Each has a compiler, a target or a profile of its own, chosen by the files in its folder;
//! so what this process inherited from its own cargo is taken away first. All build into
//! the workspace's `target/`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

/// The repository's root.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the repository")
}

/// Where the workspace builds, and the excluded crates below it.
#[must_use]
pub fn target_dir() -> PathBuf {
    let set = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    repository().join(set.unwrap_or_else(|| PathBuf::from("target")))
}

/// Where such a crate builds: below the workspace, or with it where the profile is the workspace's and most of
/// what it needs is there already.
fn built_in(folder: &str) -> PathBuf {
    match folder {
        "opcard-reader" => target_dir(),
        own => target_dir().join(own),
    }
}

/// Runs cargo in `tests/⟨folder⟩`; returns what it said.
///
/// # Panics
/// When cargo cannot be started at all.
#[must_use]
pub fn cargo(folder: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new("cargo");
    forget_our_cargo(&mut command);
    command
        .args(arguments)
        .current_dir(repository().join("tests").join(folder))
        .env("CARGO_TARGET_DIR", built_in(folder))
        .output()
        .expect("cargo built this test, so it can be started")
}

/// Takes away what cargo told this process, so that another cargo begins as from a shell.
pub fn forget_our_cargo(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO") && text != "CARGO_HOME" && text != "CARGO_BUILD_JOBS"
            || text.starts_with("RUST") && text != "RUSTUP_HOME"
        {
            command.env_remove(&name);
        }
    }
}

/// Builds the excluded crate's program and copies it aside, so that a build with other
/// features does not replace it.
///
/// # Panics
/// When the build fails: with what the compiler said.
#[must_use]
pub fn build(folder: &str, target: &str, features: &str, program: &str) -> PathBuf {
    let place = target_dir().join(folder);
    fs::create_dir_all(&place).unwrap_or_else(|error| panic!("{}: {error}", place.display()));
    let turn = fs::File::create(place.join(".build-turn")).expect("the folder was just made");
    turn.lock().expect("one build at a time: tests run in parallel processes");
    let built = cargo(folder, &["build", "--release", "--locked", "--features", features]);
    assert!(built.status.success(), "tests/{folder} does not build:\n{}", String::from_utf8_lossy(&built.stderr));
    let aside = place.join(format!("{program}-{}", if features.is_empty() { "plain" } else { features }));
    let made = built_in(folder).join(target).join("release").join(program);
    // Renamed into its place: another test may be reading the one before.
    let new = aside.with_extension("new");
    let copied = fs::copy(&made, &new).and_then(|_| fs::rename(&new, &aside));
    copied.unwrap_or_else(|error| panic!("{} was just built: {error}", made.display()));
    aside
}
