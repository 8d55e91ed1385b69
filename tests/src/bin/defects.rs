//! Plants every deliberate defect in a copy of the sources, one after the other, and asks the
//! test that is named for it: it has to pass without the defect and to fail with it.
//!
//! `defects` plants all of them, `defects WORDS` those whose name contains the words. The copy
//! and its build lie in `target/defects`, so neither the sources nor the normal build are
//! touched. It ends with 1, and says why, when a defect survives, does not compile, does not
//! end, or when its place is not found exactly once. The sources are copied anew at each
//! start, so one that was interrupted leaves nothing planted.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use slotwarden_tests::defects::{DEFECTS, Defect, Test};
use slotwarden_tests::excluded::{forget_our_cargo, repository, target_dir};

/// What the workspace consists of, and the compiler it asks for; the rest is not built.
const SOURCES: [&str; 7] =
    ["Cargo.toml", "Cargo.lock", "rust-toolchain.toml", "core", "platform-linux", "platform-sim", "tests"];
/// Seconds for one build and one test: the first one builds every dependency.
const DEADLINE_S: u32 = 1200;

fn main() -> ExitCode {
    let words = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let chosen: Vec<&Defect> = DEFECTS.iter().filter(|defect| defect.name.contains(&words)).collect();
    if chosen.is_empty() {
        eprintln!("no defect is named like: {words}");
        return ExitCode::FAILURE;
    }
    let bench = Bench { tree: target_dir().join("defects/tree"), built: target_dir().join("defects/target") };
    if let Err(error) = bench.copy_sources() {
        eprintln!("{}: {error}", bench.tree.display());
        return ExitCode::FAILURE;
    }
    let mut survived = 0;
    // A package at a time: what it needs is built once.
    for defects in chosen.chunk_by(|one, other| one.caught_by.package == other.caught_by.package) {
        let begun = Instant::now();
        let tests: BTreeSet<Test> = defects.iter().map(|defect| defect.caught_by).collect();
        for test in &tests {
            if let Err(reason) = bench.passes(*test) {
                eprintln!("without any defect {} {reason}", test.name);
                return ExitCode::FAILURE;
            }
        }
        println!("{} tests pass without a defect ({} s)", tests.len(), begun.elapsed().as_secs());
        for defect in defects {
            let begun = Instant::now();
            match bench.is_caught(defect) {
                Ok(why) => println!(
                    "caught: {} ({} s)\n    {}: {}\n    {why}",
                    defect.name,
                    begun.elapsed().as_secs(),
                    defect.caught_by.file(),
                    defect.caught_by.name,
                ),
                Err(reason) => {
                    survived += 1;
                    println!("NOT CAUGHT: {} in {}: {reason}", defect.name, defect.file);
                }
            }
        }
    }
    println!("campaign: {} passed, {survived} failed", chosen.len() - survived);
    if survived == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How a test ended.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    /// What it said first.
    Failed(String),
    /// It was not built, not found or did not end.
    None,
}

impl Verdict {
    /// Only the test's own line is a verdict: cargo fails as well when nothing was built.
    fn read(success: bool, said: &str, test: &str) -> Verdict {
        let line = |verdict: &str| said.lines().any(|line| line == format!("test {test} ... {verdict}"));
        match (success, line("ok"), line("FAILED")) {
            (true, true, false) => Verdict::Passed,
            (false, false, true) => {
                let panic = said.lines().skip_while(|line| !line.contains("panicked at")).nth(1);
                Verdict::Failed(panic.unwrap_or_default().to_owned())
            }
            (_, _, _) => Verdict::None,
        }
    }
}

/// The source with the defect in it.
fn spoilt(sound: &str, defect: &Defect) -> Result<String, String> {
    match sound.matches(defect.find).count() {
        1 => Ok(sound.replacen(defect.find, defect.replace, 1)),
        found => Err(format!("its place is there {found} times")),
    }
}

/// The copy of the sources, and where it is built.
struct Bench {
    tree: PathBuf,
    built: PathBuf,
}

impl Bench {
    /// Makes the copy equal to the sources. Files that are equal already keep their time, so
    /// that cargo builds again only what changed.
    fn copy_sources(&self) -> io::Result<()> {
        fs::create_dir_all(&self.tree)?;
        for name in SOURCES {
            copy(&repository().join(name), &self.tree.join(name))?;
        }
        Ok(())
    }

    fn passes(&self, test: Test) -> Result<(), String> {
        match self.run(test) {
            (Verdict::Passed, _) => Ok(()),
            (Verdict::Failed(why), _) => Err(format!("fails: {why}")),
            (Verdict::None, said) => Err(format!("has no verdict:\n{said}")),
        }
    }

    /// Plants the defect, runs its test, and takes the defect out again. Returns what the
    /// test complained of.
    fn is_caught(&self, defect: &Defect) -> Result<String, String> {
        let path = self.tree.join(defect.file);
        let sound = fs::read_to_string(&path).map_err(|error| error.to_string())?;
        fs::write(&path, spoilt(&sound, defect)?).map_err(|error| error.to_string())?;
        let verdict = self.run(defect.caught_by);
        fs::write(&path, sound).map_err(|error| error.to_string())?;
        match verdict {
            (Verdict::Failed(why), _) => Ok(why),
            (Verdict::Passed, _) => Err(format!("{} passes all the same", defect.caught_by.name)),
            (Verdict::None, said) => Err(format!("{} has no verdict:\n{said}", defect.caught_by.name)),
        }
    }

    /// Runs one test of the copy; returns its verdict and all that was said.
    fn run(&self, test: Test) -> (Verdict, String) {
        let mut cargo = Command::new("timeout");
        forget_our_cargo(&mut cargo);
        let ran = cargo
            .arg(DEADLINE_S.to_string())
            .args(["cargo", "test", "--locked", "--package", test.package, "--test", test.program])
            .args(["--", "--exact", test.name])
            .current_dir(&self.tree)
            .stdin(Stdio::null())
            .env("CARGO_TARGET_DIR", &self.built)
            .env("CARGO_TERM_COLOR", "never")
            // Nobody reads a backtrace here, and without its tables the build is smaller.
            .env("CARGO_PROFILE_DEV_DEBUG", "false")
            .output()
            .expect("timeout is in coreutils");
        let said = String::from_utf8_lossy(&ran.stdout);
        let verdict = Verdict::read(ran.status.success(), &said, test.name);
        (verdict, format!("{said}{}", String::from_utf8_lossy(&ran.stderr)))
    }
}

/// Makes `to` equal to `from`, a file or a folder. What builds left in a folder stays behind.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        let bytes = fs::read(from)?;
        if fs::read(to).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        return fs::write(to, bytes);
    }
    fs::create_dir_all(to)?;
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        if name != "target" {
            copy(&from.join(&name), &to.join(&name))?;
            names.insert(name);
        }
    }
    for entry in fs::read_dir(to)? {
        let name = entry?.file_name();
        let gone = to.join(&name);
        if !names.contains(&name) && gone.is_dir() {
            fs::remove_dir_all(gone)?;
        } else if !names.contains(&name) {
            fs::remove_file(gone)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_was_not_built_not_found_or_is_another_is_no_verdict() {
        for (success, said) in [
            (false, "error: could not compile"),
            (true, "running 0 tests\n\ntest result: ok. 0 passed"),
            (false, "test p01_another ... FAILED"),
            (false, "test p01_a_rule ... ok"),
            (true, "test p01_a_rule ... FAILED"),
        ] {
            assert_eq!(Verdict::read(success, said, "p01_a_rule"), Verdict::None, "{said}");
        }
    }

    #[test]
    fn a_test_that_passes_and_one_that_fails_are_told_apart() {
        assert_eq!(Verdict::read(true, "test p01_a_rule ... ok\n", "p01_a_rule"), Verdict::Passed);
        let said =
            "test p01_a_rule ... FAILED\n\nthread 'p01_a_rule' panicked at core/tests/a.rs:1:1:\none order, one try\n";
        assert_eq!(Verdict::read(false, said, "p01_a_rule"), Verdict::Failed("one order, one try".to_owned()));
    }

    #[test]
    fn a_place_that_is_not_there_once_is_refused() {
        let defect = Defect { find: "a", replace: "b", ..DEFECTS[0] };
        assert!(spoilt("nothing", &defect).is_err_and(|why| why.contains("0 times")));
        assert!(spoilt("a a", &defect).is_err_and(|why| why.contains("2 times")));
        assert_eq!(spoilt("one a.", &defect), Ok("one b.".to_owned()));
    }

    #[test]
    fn a_copy_loses_what_its_source_lost() {
        let place = tempfile::tempdir().expect("there is a folder for passing things");
        let (from, to) = (place.path().join("from"), place.path().join("to"));
        fs::create_dir_all(from.join("sub")).expect("it is ours");
        fs::create_dir_all(from.join("target")).expect("it is ours");
        fs::write(from.join("sub/file"), "one").expect("it is ours");
        copy(&from, &to).expect("it is ours");
        assert_eq!(fs::read_to_string(to.join("sub/file")).expect("copied"), "one");
        assert!(!to.join("target").exists());
        fs::remove_dir_all(from.join("sub")).expect("it is ours");
        copy(&from, &to).expect("it is ours");
        assert!(!to.join("sub").exists());
    }
}
