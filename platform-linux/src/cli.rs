//! The command line: noun and verb, in the words of the product.
//!
//! Verbs are clients of the daemon. Before an order is sent the slot is looked at, so that
//! only secrets that the order needs are asked for; the daemon decides all the same. The
//! simulator has the same command line with its own daemon behind it ([`Program`]).

mod arguments;
mod audit;
mod card_arguments;
mod cards;
mod ceremony;
mod cluster;
mod cluster_arguments;
mod follow;
mod man;
mod meaning;
mod session;
mod shares;
mod transfers;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory as _, Parser as _};

use crate::appliance::{CardsAlone, Readers};
use crate::client::{Client, Refused};
use crate::config::Settings;
use crate::export_file::Verified;
use crate::interrupt::Interrupts;
use crate::output::Format;
use crate::problem::{EXIT_DONE, EXIT_ERROR, EXIT_USAGE, Problem};
use crate::secret::Source;
use crate::wire::{Answered, Ask, SecretRole};
use crate::{config, harden, output, secret};
use arguments::{Arguments, Verb};
use session::Session;

/// What confirms a try that could block the token.
pub const CONFIRM_LAST_TRY: &str = "last try";
/// What confirms that the HSM worker is ended although a call is under way.
pub const CONFIRM_END_CALL: &str = "end call";
/// What confirms that a slot's life ends, as the help names it.
pub const CONFIRM_DECOMMISSION: &str = "decommission NAME";

/// What confirms that what is on a card is taken away.
pub const CONFIRM_ERASE: &str = "erase";
/// What a person types to make keys from a file in a token.
pub const CONFIRM_IMPORT: &str = "import";
/// The same for giving up an import that cannot end.
pub const CONFIRM_ABANDON: &str = "abandon";
/// What confirms that a node leaves the cluster, as the help names it.
pub const CONFIRM_REMOVE: &str = "remove NODE";
/// What confirms that every sealed code is destroyed.
pub const CONFIRM_ZEROIZE: &str = crate::wire::ZEROIZE_TEXT;

/// How a daemon starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DaemonStart {
    /// Leave the terminal first.
    pub detached: bool,
    /// Make a new store where the old one was lost.
    pub new_store: bool,
}

/// What differs between the programs that have this command line.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Runs the daemon until it is stopped. The path is that of the configuration.
    pub daemon: fn(config: &Path, start: DaemonStart) -> Result<(), Problem>,
    /// Runs the HSM worker for the daemon that started it.
    pub hsm_worker: fn() -> ExitCode,
    /// Starts the card readers where a verb needs them and no daemon is there; `None`: only a daemon has any.
    pub readers: Option<Readers>,
}

/// Runs the command line.
#[must_use]
pub fn main(program: &Program, arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match Arguments::try_parse_from(arguments) {
        Ok(Arguments { verb: Verb::HsmWorker, .. }) => (program.hsm_worker)(),
        Ok(arguments) => ExitCode::from(run(program, arguments)),
        Err(error) => {
            // The text goes to a terminal that may be gone.
            let _ = error.print();
            ExitCode::from(usage_exit(&error))
        }
    }
}

/// Help and version are answers, everything else is wrong usage.
fn usage_exit(error: &clap::Error) -> u8 {
    if error.use_stderr() { EXIT_USAGE } else { EXIT_DONE }
}

/// Runs one verb; answers with the exit code.
fn run(program: &Program, arguments: Arguments) -> u8 {
    // The daemon does the same for itself and says in its log what failed.
    let _ = harden::forbid_dumps();
    let (config, format) = (arguments.config, arguments.output);
    let ended = match arguments.verb {
        Verb::Daemon { detached, new_store } => {
            let start = DaemonStart { detached, new_store };
            (program.daemon)(&config, start).map(|()| EXIT_DONE).map_err(Refused::from)
        }
        Verb::Completions { shell } => Ok(print(&shell.completions(shown(&Arguments::command())))),
        Verb::Man => Ok(print(man::page(shown(&Arguments::command())).as_bytes())),
        Verb::CheckConfig => check_config(&config, format).map_err(Refused::from),
        Verb::Verify { file, node_key, with_cards: true, reader, .. } => {
            verify_with_cards(program, (&config, format), &file, node_key, reader)
        }
        Verb::Verify { file, node_key, with_passphrase, passphrase, .. } => {
            verify(format, &file, node_key, (with_passphrase, &passphrase.source())).map_err(Refused::from)
        }
        Verb::Audit(verb) => audit::run(&config, format, verb),
        verb => Session::open(&config, format).and_then(|session| session.run(verb)),
    };
    ended.unwrap_or_else(|refused| {
        output::refused(format, &refused);
        refused.problem.exit()
    })
}

/// The command line without what is hidden, which neither manual nor completions are to name.
fn shown(command: &Command) -> Command {
    let mut shown = Command::new(command.get_name().to_owned());
    if let Some(version) = command.get_version() {
        shown = shown.version(version.to_owned());
    }
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(about) = command.get_long_about() {
        shown = shown.long_about(about.clone());
    }
    shown
        .subcommand_required(command.is_subcommand_required_set())
        .args(command.get_arguments().filter(|argument| !argument.is_hide_set()))
        .subcommands(command.get_subcommands().filter(|sub| !sub.is_hide_set()).map(self::shown))
}

/// Prints a file that is made, for a package or a pipe.
fn print(text: &[u8]) -> u8 {
    output::text(text);
    EXIT_DONE
}

fn verify(
    format: Format,
    file: &Path,
    node_key: Option<[u8; 32]>,
    (asks, source): (bool, &Source),
) -> Result<u8, Problem> {
    let given = source.read(SecretRole::Passphrase)?;
    let passphrase = match given {
        None if asks => Some(secret::ask(SecretRole::Passphrase, &format!("Passphrase of {}", file.display()), false)?),
        given => given,
    };
    let found = crate::export_file::verify(file, node_key, passphrase.as_ref().map(|secret| secret.as_slice()))?;
    output::transfers::verified(format, file, &found);
    Ok(EXIT_DONE)
}

/// The same with the cards of its backup key, by the daemon or, where none answers, by this process. What is wrong without them is said before anybody is called to a pad.
fn verify_with_cards(
    program: &Program,
    (config, format): (&Path, Format),
    file: &Path,
    node_key: Option<[u8; 32]>,
    reader: Option<String>,
) -> Result<u8, Refused> {
    let found = crate::export_file::verify(file, node_key, None)?;
    let daemon = Session::open(config, format);
    match program.readers {
        Some(readers) if !daemon.as_ref().is_ok_and(|session| session.client.answers()) => {
            // Two who watch would both end the program, each in its way.
            let interrupts = daemon.map_or_else(|_| Interrupts::watch(), |session| session.interrupts);
            let alone = CardsAlone::start(config, readers, &interrupts)?;
            Session::alone(alone.socket(), interrupts, format).check_with_cards(file, reader)?;
        }
        _ => daemon?.check_with_cards(file, reader)?,
    }
    output::transfers::verified(format, file, &Verified { authentic: true, ..found });
    Ok(EXIT_DONE)
}

fn check_config(path: &Path, format: Format) -> Result<u8, Problem> {
    let (problems, differences) = match config::check(&config::read(path)?) {
        Ok(settings) => {
            let problems = [config::check_machine(&settings), config::check_places(&settings)].concat();
            (problems, approved(&settings).map(|approved| config::differences(&approved, &settings.protected)))
        }
        Err(problems) => (problems, None),
    };
    output::configuration(format, &problems, differences.as_deref());
    Ok(if problems.is_empty() { EXIT_DONE } else { EXIT_ERROR })
}

/// What two persons approved, from the daemon, or from its store while it does not run; as
/// far as whoever asks may know it.
fn approved(settings: &Settings) -> Option<Vec<u8>> {
    let client = Client::new(&settings.socket);
    if client.answers() {
        return match client.ask(Ask::Configuration, &[]) {
            Ok(Answered::Configuration(approved)) => approved,
            Ok(_) | Err(_) => None,
        };
    }
    crate::audit::Log::of_store(&settings.state_dir).ok()?.approved().map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use slotwarden_core::Refusal;

    use super::arguments::Confirm;
    use super::*;
    use crate::problem::{EXIT_INTERRUPTED, EXIT_LATER, EXIT_NOT_ALLOWED, EXIT_WAITS};

    fn exit_of(arguments: &[&str]) -> u8 {
        let program = Program { daemon: |_, _| Ok(()), hsm_worker: || ExitCode::SUCCESS, readers: None };
        match Arguments::try_parse_from(std::iter::once("slotwarden").chain(arguments.iter().copied())) {
            Ok(arguments) => run(&program, arguments),
            Err(error) => usage_exit(&error),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn wrong_usage_exits_64_and_help_exits_0() {
        assert_eq!(exit_of(&[]), 64);
        assert_eq!(exit_of(&["frobnicate"]), 64);
        assert_eq!(exit_of(&["slot", "activate"]), 64);
        assert_eq!(exit_of(&["slot", "mode", "a", "sideways"]), 64);
        assert_eq!(exit_of(&["slot", "activate", "a", "--code-file", "f", "--code-fd", "3"]), 64);
        assert_eq!(exit_of(&["slot", "unblock", "a", "sideways"]), 64);
        assert_eq!(exit_of(&["slot", "decommission", "a", "--without-token", "--so-pin-fd", "3"]), 64);
        assert_eq!(exit_of(&["boot", "--wait", "-1"]), 64);
        assert_eq!(exit_of(&["audit", "verify", "--node-key", "00"]), 64);
        assert_eq!(exit_of(&["card", "erase", "--credential", "share"]), 64);
        assert_eq!(exit_of(&["backup", "create-set", "-m", "2"]), 64);
        assert_eq!(exit_of(&["backup", "restore-key", "--key-id", "00"]), 64);
        assert_eq!(exit_of(&["slot", "init", "a", "--so-cards", "--so-pin-fd", "3"]), 64);
        assert_eq!(exit_of(&["ceremony", "answer", "perhaps"]), 64);
        assert_eq!(exit_of(&["--help"]), 0);
        assert_eq!(exit_of(&["--version"]), 0);
    }

    #[test]
    fn the_help_explains_every_command_option_exit_code_and_confirmation() {
        fn walk(command: &clap::Command) {
            assert!(command.get_about().is_some() || command.is_hide_set(), "{} is not explained", command.get_name());
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(
                    argument.get_help().is_some(),
                    "{}: {} is not explained",
                    command.get_name(),
                    argument.get_id()
                );
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&Arguments::command());
        let help = Arguments::command().render_long_help().to_string();
        let exits = help.split_once("Exit codes:").expect("the footer").1;
        for exit in [EXIT_DONE, EXIT_ERROR, EXIT_WAITS, EXIT_USAGE, EXIT_LATER, EXIT_NOT_ALLOWED, EXIT_INTERRUPTED] {
            assert!(exits.lines().any(|line| line.trim_start().starts_with(&format!("{exit} "))), "{exit}");
        }
        let texts = [
            CONFIRM_LAST_TRY,
            CONFIRM_END_CALL,
            CONFIRM_DECOMMISSION,
            CONFIRM_ERASE,
            CONFIRM_IMPORT,
            CONFIRM_ABANDON,
            CONFIRM_ZEROIZE,
            CONFIRM_REMOVE,
        ];
        for text in texts {
            assert!(help.contains(&format!("\"{text}\"")), "{text}");
        }
    }

    #[test]
    fn manual_and_completions_name_nothing_that_is_hidden() {
        fn names(command: &Command, seen: &mut Vec<String>) {
            seen.push(command.get_name().to_owned());
            seen.extend(command.get_arguments().map(|argument| argument.get_id().to_string()));
            command.get_subcommands().for_each(|sub| names(sub, seen));
        }
        let (mut all, mut seen) = (Vec::new(), Vec::new());
        names(&Arguments::command(), &mut all);
        names(&shown(&Arguments::command()), &mut seen);
        for hidden in ["hsm-worker", "detached"] {
            assert!(all.iter().any(|name| name == hidden) && seen.iter().all(|name| name != hidden), "{hidden}");
        }
        assert!(seen.iter().any(|name| name == "activate") && seen.iter().any(|name| name == "code_fd"));
        shown(&Arguments::command()).debug_assert();
    }

    #[test]
    fn p03_no_option_takes_a_secret_as_its_value() {
        fn walk(command: &clap::Command, seen: &mut Vec<String>) {
            for argument in command.get_arguments().filter(|argument| argument.get_action().takes_values()) {
                seen.extend(argument.get_long().map(str::to_owned));
            }
            command.get_subcommands().for_each(|sub| walk(sub, seen));
        }
        let mut seen = Vec::new();
        walk(&Arguments::command(), &mut seen);
        for name in seen.iter().filter(|name| name.contains("code") || name.contains("pin") || name.contains("pass")) {
            assert!(name.ends_with("-file") || name.ends_with("-fd"), "--{name}");
        }
        assert!(seen.iter().any(|name| name == "so-pin-fd"));
    }

    #[test]
    fn the_configuration_is_named_before_or_after_the_verb() {
        assert_eq!(exit_of(&["--config", "/nowhere", "status"]), 1);
        assert_eq!(exit_of(&["status", "--config", "/nowhere", "--output", "json"]), 1);
        assert_eq!(exit_of(&["check-config", "--config", "/nowhere"]), 1);
        assert_eq!(exit_of(&["daemon", "--config", "/nowhere"]), 0);
    }

    #[test]
    fn another_text_than_the_confirmation_is_a_mistake() {
        let confirm = |text: &str| Confirm { confirm: Some(text.to_owned()) };
        assert_eq!(confirm("yes").is(CONFIRM_LAST_TRY).expect_err("another text").number, 613);
        assert_eq!(confirm("last try").is(CONFIRM_LAST_TRY), Ok(true));
        assert_eq!(Confirm { confirm: None }.is(CONFIRM_LAST_TRY), Ok(false));
        // The remedies of the core name these texts.
        assert!(Refusal::LastTryUnconfirmed.remedy().contains(CONFIRM_LAST_TRY));
        assert!(Refusal::SlotDoubtful.remedy().contains(CONFIRM_END_CALL));
        assert!(Refusal::DecommissionUnconfirmed.remedy().contains(CONFIRM_DECOMMISSION));
        assert!(Refusal::ZeroizeUnconfirmed.remedy().contains(CONFIRM_ZEROIZE));
        assert_eq!(crate::wire::decommission_text("NAME"), CONFIRM_DECOMMISSION);
        assert!(crate::problem::Problem::from(crate::problem::Own::EraseUnconfirmed).remedy.contains(CONFIRM_ERASE));
    }
}
