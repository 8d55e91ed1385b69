//! The manual page and the shells' completions that the program prints for packages.
//!
//! What they must name is read from the program's help, as a person would find it: so a new
//! command is looked for as soon as the help shows it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use slotwarden_tests::build;
use slotwarden_tests::modules::{Kind, SO_PIN};
use slotwarden_tests::stage::{Ran, Stage, run};
use tempfile::TempDir;

fn slotwarden(arguments: &[&str]) -> String {
    run(Command::new(build::slotwarden()).args(arguments)).exits(0).stdout
}

/// A folder with this text in a file.
fn file_with(text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
    let file = folder.path().join("slotwarden.1");
    fs::write(&file, text).expect("a fresh folder");
    (folder, file)
}

/// Every command in the help, with its options: `["slot", "activate"]`, `["--code-file", ...]`.
fn commands() -> Vec<(Vec<String>, Vec<String>)> {
    let mut found = Vec::new();
    let mut open = vec![Vec::<String>::new()];
    while let Some(path) = open.pop() {
        let mut arguments: Vec<&str> = path.iter().map(String::as_str).collect();
        arguments.push("-h");
        let help = slotwarden(&arguments);
        let entries = |heading: &str| -> Vec<String> {
            let under = help.lines().skip_while(|line| *line != heading).skip(1);
            let entries = under.take_while(|line| line.starts_with(' '));
            // What a long line is wrapped into stands further to the right.
            let entries = entries.filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
            entries.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
        };
        for command in entries("Commands:").into_iter().filter(|command| command != "help") {
            open.push(path.iter().cloned().chain([command]).collect());
        }
        let long = |line: &str| line.split([' ', ',']).find(|word| word.starts_with("--")).map(str::to_owned);
        let options = help.lines().filter(|line| line.trim_start().starts_with('-')).filter_map(long).collect();
        found.push((path, options));
    }
    found
}

/// The page as a reader sees it, one line per paragraph.
fn rendered(page: &str) -> Ran {
    let (_folder, file) = file_with(page);
    let mut man = Command::new("man");
    man.args(["--warnings", "-l"]).arg(&file).env("MANWIDTH", "4000").env("LC_ALL", "C.UTF-8");
    run(man.env("MAN_KEEP_FORMATTING", "").env("GROFF_NO_SGR", "1"))
}

#[test]
fn a_faulty_page_is_warned_of_and_ours_is_not() {
    let faulty = rendered(".TH A 1\n.SH NAME\na \\- b\n.nosuchmacro\n");
    assert!(faulty.stderr.contains("nosuchmacro"), "man says what it does not know: {faulty:?}");

    let page = slotwarden(&["man"]);
    let clean = rendered(&page).exits(0);
    assert_eq!(clean.stderr, "");
    let (_folder, file) = file_with(&page);
    let strict = run(Command::new("groff").args(["-ww", "-man", "-Tutf8"]).arg(&file)).exits(0);
    assert_eq!(strict.stderr, "");
    let name = run(Command::new("lexgrog").arg(&file)).exits(0);
    assert!(name.stdout.contains("slotwarden - "), "whatis finds it: {name:?}");
}

#[test]
fn the_manual_names_every_command_option_and_exit_code_of_the_help() {
    let page = rendered(&slotwarden(&["man"])).exits(0).stdout;
    let lines: Vec<&str> = page.lines().map(str::trim).collect();
    let commands = commands();
    assert!(commands.len() > 15, "{commands:?}");
    for (path, options) in &commands {
        let command = ["slotwarden".to_owned()].into_iter().chain(path.iter().cloned()).collect::<Vec<_>>().join(" ");
        let section = lines.iter().position(|line| *line == command);
        assert!(section.is_some() || path.is_empty(), "{command} is not in the manual:\n{page}");
        for option in options {
            let named = |line: &&str| line.split([' ', ',']).any(|word| word == option);
            let under = lines.iter().skip(section.unwrap_or(0) + 1);
            let here =
                under.take_while(|line| path.is_empty() || !line.starts_with("slotwarden ") || line.contains('['));
            let everywhere = lines.iter().take_while(|line| **line != "COMMANDS");
            assert!(here.chain(everywhere).any(named), "{command}: {option} is not in the manual:\n{page}");
        }
    }
    assert!(!page.contains("hsm-worker") && !page.contains("--detached"), "what is hidden stays hidden");

    let help = slotwarden(&["--help"]);
    let exits = help.lines().skip_while(|line| *line != "Exit codes:").skip(1).take_while(|line| !line.is_empty());
    let exits: Vec<(&str, &str)> = exits.map(|line| line.trim().split_once(' ').expect("number and meaning")).collect();
    assert!(exits.len() >= 7, "{exits:?}");
    let status: Vec<&str> = lines.iter().copied().skip_while(|line| *line != "EXIT STATUS").collect();
    for (exit, meaning) in exits {
        let told = |line: &&str| line.starts_with(exit) && line.contains(meaning.trim());
        assert!(status.iter().any(told), "{exit} {meaning} is not in the manual:\n{page}");
    }
}

#[test]
fn the_manual_names_every_file_that_a_daemon_makes() {
    let mut stage = Stage::new(Kind::SoftHsm, 1);
    stage.bench.make_token_with("ca", SO_PIN, "manual code one");
    stage.slot("ca", "ca", "signer");
    stage.start();
    let page = rendered(&slotwarden(&["man"])).exits(0).stdout;
    let files = page.split_once("FILES").expect("a section").1;
    let made = fs::read_dir(stage.state_dir()).expect("the stage's own");
    let made: Vec<String> =
        made.map(|entry| entry.expect("readable").file_name().into_string().expect("ASCII")).collect();
    assert!(made.iter().any(|name| name == "store.redb"), "{made:?}");
    for name in made {
        assert!(files.contains(&format!("STATE_DIR/{name}")), "{name} is not in the manual:\n{files}");
    }
}

#[test]
fn each_shell_takes_its_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let script = slotwarden(&["completions", shell]);
        let accepts = |text: &str| {
            let (_folder, file) = file_with(text);
            run(Command::new(shell).arg("-n").arg(file)).exit == 0
        };
        assert!(!accepts(&format!("{script}\nif (")), "{shell} -n sees a mistake");
        assert!(accepts(&script), "{shell}");
        assert!(!script.contains("hsm-worker") && !script.contains("detached"), "what is hidden stays hidden");
    }
}

/// What bash offers after these words, as with the Tab key.
fn offered(words: &[&str]) -> Vec<String> {
    let (_folder, script) = file_with(&slotwarden(&["completions", "bash"]));
    let typed: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let last = words.len() - 1;
    let ask = format!(
        "source {script}\nfor f in $(complete -p slotwarden); do case $last in -F) function=$f;; esac; last=$f; done\n\
         COMP_WORDS=({typed})\nCOMP_CWORD={last}\n\
         \"$function\" slotwarden \"${{COMP_WORDS[{last}]}}\" \"${{COMP_WORDS[{before}]}}\"\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"",
        script = script.display(),
        typed = typed.join(" "),
        before = last - 1,
    );
    let ran = run(Command::new("bash").args(["--norc", "--noprofile", "-c", &ask])).exits(0);
    ran.stdout.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[test]
fn bash_completes_every_command_and_option_of_the_help() {
    assert_eq!(offered(&["slotwarden", "slot", "nonsense"]), Vec::<String>::new());
    assert_eq!(offered(&["slotwarden", "slot", "act"]), ["activate"]);
    assert!(offered(&["slotwarden", "slot", ""]).contains(&"activate".to_owned()));
    assert_eq!(offered(&["slotwarden", "completions", "ba"]), ["bash"]);
    for (path, options) in commands() {
        let mut typed: Vec<&str> = ["slotwarden"].into_iter().chain(path.iter().map(String::as_str)).collect();
        typed.push("--");
        let offers = offered(&typed);
        for option in options {
            assert!(offers.contains(&option), "{path:?}: {option} is not among {offers:?}");
        }
        if let Some((command, group)) = path.split_last() {
            let mut typed: Vec<&str> = ["slotwarden"].into_iter().chain(group.iter().map(String::as_str)).collect();
            typed.push("");
            assert!(offered(&typed).contains(command), "{path:?}");
        }
    }
}
