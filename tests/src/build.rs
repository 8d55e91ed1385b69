//! Programs and libraries the tests start: built by cargo or gcc, never assumed. `tests/run` has cargo build all of
//! them before, and says so: asked by each of 500 tests for one package, cargo would build some anew, since
//! what a package is built with depends on what is built beside it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};

/// The folder that cargo puts this build's programs in (`target/debug` or `target/release`).
fn target_folder() -> PathBuf {
    let test = std::env::current_exe().expect("the kernel knows which program runs");
    let beside = test.parent().expect("a program lies in a folder");
    // Tests run from TARGET/PROFILE/deps, programs from TARGET/PROFILE.
    let folder = if beside.ends_with("deps") { beside.parent() } else { Some(beside) };
    folder.expect("deps is in TARGET/PROFILE").to_path_buf()
}

/// Set by `tests/run` once everything is built.
const BUILT_BEFORE: &str = "SLOTWARDEN_TESTS_BUILT";

/// Builds a package of the workspace and returns the path of `file` in the target folder.
fn cargo_built(package: &str, file: &str) -> PathBuf {
    let built = target_folder().join(file);
    if std::env::var_os(BUILT_BEFORE).is_some() {
        assert!(built.exists(), "{BUILT_BEFORE} is set, and there is no {}", built.display());
        return built;
    }
    // Cargo waits for its own lock; ours only keeps its messages apart.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", package]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if package == "slotwarden" {
        // The program under test can do everything it can be built with.
        cargo.args(["--features", "etcd"]);
    }
    if target_folder().ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo started this test, so it is there");
    assert!(status.success(), "cargo build --package {package} failed");
    assert!(built.exists(), "cargo did not make {}", built.display());
    built
}

/// The program `slotwarden`.
pub fn slotwarden() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| cargo_built("slotwarden", "slotwarden"))
}

/// Kryoptic as a PKCS#11 module.
pub fn kryoptic() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| cargo_built("kryoptic-module", "libkryoptic_module.so"))
}

/// The program `slotwarden-sim`.
pub fn simulator() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| cargo_built("slotwarden-sim", "slotwarden-sim"))
}

/// The reader that pcscd loads, whose card and keypad are in the simulator.
pub fn ifd_handler() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| cargo_built("slotwarden-ifd", "libslotwarden_ifd.so"))
}

/// SoftHSM2 as a PKCS#11 module.
pub fn softhsm() -> &'static Path {
    let module = Path::new("/usr/lib/softhsm/libsofthsm2.so");
    assert!(module.exists(), "{} is missing: apt-get install softhsm2", module.display());
    module
}

/// The module that forwards to another and misbehaves on request (`tests/forward/forward.c`).
pub fn forward() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let built = target_folder().join("libforward.so");
        // Under another name first: a test program beside this one may be using it.
        let fresh = target_folder().join(format!("libforward.so.{}", std::process::id()));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("forward/forward.c");
        let status = Command::new("gcc")
            .args(["-std=gnu11", "-Wall", "-Werror", "-O1", "-shared", "-fPIC", "-o"])
            .args([fresh.as_path(), source.as_path()])
            .arg("-ldl")
            .status()
            .expect("gcc is missing: apt-get install gcc libc6-dev");
        assert!(status.success(), "gcc refused {}", source.display());
        std::fs::rename(&fresh, &built).expect("one folder, one file system");
        built
    })
}

/// Runs a tool to its end and returns what it printed.
pub fn run(package: &str, command: &mut Command) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}: apt-get install {package}"));
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} failed: {text}");
    text
}
