//! What people meet at a terminal. Prompts say what is wanted, nothing that is typed is
//! shown, a share is shown once on a screen of its own, and however an entry ends the
//! terminal echoes again.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use slotwarden_tests::modules::{Kind, SO_PIN};
use slotwarden_tests::stage::{PATIENCE, Stage, run};
use slotwarden_tests::terminal::Terminal;

const CTRL_C: &str = "\u{3}";
const CTRL_D: &str = "\u{4}";
const CODE: &str = "the code of before";
/// User id of the second person.
const BOB: u32 = 54_390;

/// An appliance with one slot, whose token is absent and whose code people would know.
fn without_an_hsm() -> Stage {
    let mut stage = Stage::new(Kind::SoftHsm, 1);
    stage.module = Some("/nowhere/hsm.so".into());
    stage.slot("ca-root", "CA Root", "signer");
    stage.spawn();
    let begun = Instant::now();
    while UnixStream::connect(stage.socket()).is_err() {
        assert!(begun.elapsed() < PATIENCE, "the daemon does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    stage
}

/// Begins a command at a terminal of its own.
fn at_terminal(stage: &Stage, arguments: &[&str]) -> Terminal {
    Terminal::begin(stage.command().args(arguments))
}

/// A slot with a manual code, and two persons who may hold a share: root and bob.
fn of_two_persons() -> Stage {
    let mut stage = Stage::new(Kind::SoftHsm, 1);
    stage.bench.make_token_with("ca", SO_PIN, CODE);
    stage.slot("ca", "ca", "signer");
    stage.more = format!(
        "[[person]]\nname = \"alice\"\nuids = [0]\nroles = [\"administrator\"]\n\
         [[person]]\nname = \"bob\"\nuids = [{BOB}]\nroles = [\"custodian\"]\n"
    );
    stage.open_to_all();
    stage.start();
    stage
}

/// Splits at a terminal: it says what that means first.
fn split(stage: &Stage) {
    let mut terminal = at_terminal(stage, &["slot", "split", "ca", "-m", "2", "-n", "2"]);
    terminal.shows("WARNING: as many are needed as there are: one share that is lost loses the code.");
    terminal.shows("Type `yes` to switch: ");
    terminal.types("yes\r");
    terminal.asks("Present code of ca (not shown): ");
    terminal.types(&format!("{CODE}\r"));
    let (exit, shown) = terminal.ends();
    assert_eq!(exit, Some(2), "{shown}");
    assert!(shown.contains("0 of 2 new shares fetched and typed back"), "{shown}");
    assert!(!shown.contains(CODE), "{shown}");
}

/// Waits for a new share on a screen of its own, and reads it.
fn reads_the_share(terminal: &mut Terminal) -> String {
    terminal.shows("\u{1b}[?1049h");
    terminal.shows("Your share of the code of ca: 1 of 2, any 2 of which open the slot, set 1 (");
    terminal.shows("Press Enter when you have it");
    let from = terminal.shown().find("slws1-").expect("the share is shown");
    terminal.shown()[from..from + 65].to_owned()
}

#[test]
fn p30_a_new_share_is_shown_once_on_a_screen_of_its_own_and_asked_for_at_once() {
    let stage = of_two_persons();
    split(&stage);
    let mut terminal = at_terminal(&stage, &["slot", "share", "ca"]);
    let share = reads_the_share(&mut terminal);
    terminal.types("\r");
    terminal.shows("\u{1b}[2J");
    terminal.shows("\u{1b}[?1049l");
    terminal.asks("Your new share of the code of ca (not shown): ");
    let last = if share.ends_with('q') { "p" } else { "q" };
    terminal.types(&format!("{}{last}\r", &share[..64]));
    terminal.shows("typing error");
    terminal.asks("Your new share of the code of ca (not shown): ");
    // Groups are for the eye.
    terminal.types(&format!("{}\r", share.replace('-', "")));
    let (exit, shown) = terminal.ends();
    assert_eq!(exit, Some(2), "{shown}");
    assert!(shown.contains("1 of 2 new shares"), "{shown}");
    assert_eq!(shown.matches(&share).count(), 1, "{shown}");
    assert_eq!(shown.matches(&share.replace('-', "")).count(), 0, "{shown}");
    assert_eq!(shown.matches(&share[12..30]).count(), 1, "{shown}");

    let bobs = stage.run_as(BOB, &["slot", "share", "ca"]).exits(0).stdout;
    let file = stage.secret_file(&bobs).display().to_string();
    stage.run_as(BOB, &["slot", "share", "ca", "--code-file", &file]).exits(0);
    stage.run(&["slot", "deactivate", "ca"]).exits(0);
    // Activation asks for what several persons know by its name.
    let mut terminal = at_terminal(&stage, &["slot", "activate", "ca"]);
    terminal.asks("Your share of the code of ca");
    terminal.types(&format!("{share}\r"));
    let (exit, shown) = terminal.ends();
    assert_eq!(exit, Some(2), "{shown}");
    assert!(shown.contains("1 of 2 shares entered, attempt ") && shown.contains(": waits for 1 more"), "{shown}");
    let mut terminal = at_terminal(&stage, &["slot", "share", "ca"]);
    terminal.asks("Your share of the code of ca (not shown): ");
    terminal.types("\r");
    let (exit, shown) = terminal.ends();
    assert_eq!(exit, Some(2), "{shown}");
    assert!(shown.contains("nothing was entered"), "{shown}");
    stage.run_as(BOB, &["slot", "share", "ca", "--code-file", &file]).exits(0);
    assert_eq!(stage.slot_status("ca")["state"], "active");

    // What a share goes into is named before it is asked for, unless it opens the slot.
    stage.run(&["slot", "mode", "ca", "generated"]).exits(2);
    let mut terminal = at_terminal(&stage, &["slot", "share", "ca"]);
    terminal.shows("What is entered for ca now is for `slot mode` (attempt ");
    terminal.asks("Your share of the code of ca (not shown): ");
    terminal.types("\r");
    let (exit, shown) = terminal.ends();
    assert_eq!(exit, Some(2), "{shown}");
}

#[test]
fn p30_ctrl_c_over_a_share_clears_it_from_the_screen_and_it_is_not_shown_again() {
    let stage = of_two_persons();
    split(&stage);
    let mut terminal = at_terminal(&stage, &["slot", "share", "ca"]);
    let share = reads_the_share(&mut terminal);
    terminal.types(CTRL_C);
    terminal.shows("\u{1b}[?1049l");
    terminal.shows("will not be shown again");
    assert_eq!(terminal.ends().0, Some(130));
    // It was fetched, so it is asked for now.
    let mut terminal = at_terminal(&stage, &["slot", "share", "ca"]);
    terminal.asks("Your new share of the code of ca (not shown): ");
    terminal.types(&format!("{share}\r"));
    assert_eq!(terminal.ends().0, Some(2));
    run(stage.command().args(["slot", "share", "ca"])).refused(77, 809);
    stage.run(&["slot", "share", "ca", "--reset"]).exits(0);
}

#[test]
fn a_part_of_a_new_code_is_asked_for_twice() {
    let stage = of_two_persons();
    stage.run_with(&["slot", "mode", "ca", "manual", "--parts", "alice,bob"], "--code-file", CODE).exits(2);
    let mut terminal = at_terminal(&stage, &["slot", "share", "ca"]);
    terminal.asks("Your part of the new code of ca (not shown): ");
    terminal.types("hunter2-part\r");
    terminal.asks("Your part of the new code of ca, again: ");
    terminal.types("hunter2-typo\r");
    let (exit, shown) = terminal.ends();
    assert_eq!(exit, Some(1), "{shown}");
    assert!(shown.contains("the two entries differ") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn p03_a_changed_code_is_asked_for_three_times_and_never_shown() {
    let stage = without_an_hsm();
    let mut terminal = at_terminal(&stage, &["slot", "change-code", "ca-root"]);
    terminal.asks("Present code of ca-root (not shown): ");
    terminal.types("hunter2-old\r");
    terminal.asks("New code of ca-root (not shown): ");
    terminal.types("hunter2-new\r");
    terminal.asks("New code of ca-root, again: ");
    terminal.types("hunter2-typo\r");
    let (exit, shown) = terminal.ends();
    assert_eq!(exit, Some(1), "{shown}");
    assert!(shown.contains("the two entries differ") && shown.contains("nothing was attempted"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_new_code_that_no_token_would_take_is_refused_before_it_is_asked_for_again() {
    let stage = without_an_hsm();
    let mut terminal = at_terminal(&stage, &["slot", "change-code", "ca-root"]);
    terminal.asks("Present code of ca-root");
    terminal.types("hunter2-old\r");
    terminal.asks("New code of ca-root");
    terminal.types("short\r");
    let (exit, shown) = terminal.ends();
    assert_eq!(exit, Some(1), "{shown}");
    assert!(shown.contains("at least 8") || shown.contains("8 characters"), "{shown}");
    assert!(!shown.contains("again"), "{shown}");
}

#[test]
fn ctrl_c_at_a_prompt_gives_the_echo_back_and_attempts_nothing() {
    let stage = without_an_hsm();
    for prompts in 1..=3 {
        let mut terminal = at_terminal(&stage, &["slot", "change-code", "ca-root"]);
        let asked = ["Present code of ca-root", "New code of ca-root", "New code of ca-root, again"];
        for (place, prompt) in asked.into_iter().take(prompts).enumerate() {
            terminal.asks(prompt);
            terminal.types(if place + 1 == prompts { "hunter2" } else { "hunter2-hunter2\r" });
        }
        terminal.types(CTRL_C);
        let (exit, shown) = terminal.ends();
        assert_eq!(exit, Some(130), "{shown}");
        assert!(shown.contains("nothing was attempted") && !shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn sigterm_and_ctrl_d_at_a_prompt_give_the_echo_back_too() {
    let stage = without_an_hsm();
    let mut terminal = at_terminal(&stage, &["slot", "activate", "ca-root"]);
    terminal.asks("Code of ca-root (not shown): ");
    terminal.signal(Signal::TERM);
    let (exit, shown) = terminal.ends();
    assert_eq!(exit, Some(130), "{shown}");
    let mut terminal = at_terminal(&stage, &["slot", "init", "ca-root"]);
    terminal.asks("SO PIN for the token of ca-root (not shown): ");
    terminal.types(CTRL_D);
    let (exit, shown) = terminal.ends();
    assert_eq!(exit, Some(1), "{shown}");
    assert!(shown.contains("[622]") && shown.contains("nothing was attempted"), "{shown}");
}

#[test]
fn a_terminal_that_is_closed_ends_the_command() {
    let stage = without_an_hsm();
    let mut terminal = at_terminal(&stage, &["slot", "activate", "ca-root"]);
    terminal.asks("Code of ca-root");
    terminal.types("hunter2");
    terminal.close();
    let (exit, shown) = terminal.ends();
    assert_eq!(exit, Some(130), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_switch_says_what_it_means_and_goes_on_only_after_a_yes() {
    let stage = without_an_hsm();
    let mut terminal = at_terminal(&stage, &["slot", "mode", "ca-root", "generated"]);
    terminal.shows("available without people");
    terminal.shows("whoever steals the powered-off machine");
    terminal.shows("Type `yes` to switch: ");
    assert!(terminal.echoes(), "what is typed here is no secret");
    terminal.types("no\r");
    let (exit, shown) = terminal.ends();
    assert_eq!(exit, Some(1), "{shown}");
    assert!(shown.contains("you did not confirm") && shown.contains("nothing was changed"), "{shown}");

    let mut terminal = at_terminal(&stage, &["slot", "mode", "ca-root", "generated"]);
    terminal.shows("Type `yes` to switch: ");
    terminal.types("yes\r");
    terminal.asks("Present code of ca-root (not shown): ");
    terminal.types("hunter2-hunter2\r");
    let (exit, shown) = terminal.ends();
    assert_ne!(exit, Some(0), "there is no HSM: {shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
}
