//! The command line: noun and verb, in the words of the product.
//!
//! Verbs are clients of the daemon. Before an order is sent the slot is looked at, so that
//! only secrets that the order needs are asked for; the daemon decides all the same. The
//! simulator has the same command line with its own daemon behind it ([`Program`]).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde_json::json;
use slotwarden_core::Refusal;
use slotwarden_core::record::Mode;
use slotwarden_core::status::StateName;

use crate::client::{Client, Refused};
use crate::config::{self, PATH_DEFAULT};
use crate::interrupt::Interrupts;
use crate::output::{self, Format};
use crate::problem::{EXIT_DONE, EXIT_ERROR, EXIT_USAGE, Own, Problem};
use crate::secret::{self, Secret, Source};
use crate::status_json::{SCHEMA, SlotDetail, StatusView, mode_word};
use crate::wire::{Answered, Ask, Order, SecretRole};
use crate::{audit_client, boot, harden};

/// What confirms a try that could block the token.
pub const CONFIRM_LAST_TRY: &str = "last try";
/// What confirms that the HSM worker is ended although a call is under way.
pub const CONFIRM_END_CALL: &str = "end call";

/// What differs between the programs that have this command line.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Runs the daemon until it is stopped. The path is that of the configuration;
    /// `detached`: leave the terminal first.
    pub daemon: fn(config: &Path, detached: bool) -> Result<(), Problem>,
    /// Runs the HSM worker for the daemon that started it.
    pub hsm_worker: fn() -> ExitCode,
}

/// The HSM slots of an appliance, kept active.
#[derive(Debug, Parser)]
#[command(name = "slotwarden", version, about, max_term_width = 100)]
struct Arguments {
    /// The configuration.
    #[arg(long, global = true, value_name = "FILE", default_value = PATH_DEFAULT)]
    config: PathBuf,
    /// How answers are printed.
    #[arg(long, global = true, value_enum, default_value_t)]
    output: Format,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the service in the foreground.
    Daemon {
        /// Leave the terminal (`boot --spawn` does).
        #[arg(long, hide = true)]
        detached: bool,
    },
    /// Make sure that the automatic slots were tried, say which slots wait for whom.
    ///
    /// Exits 0 when all slots are active, 2 when some wait for people, 1 on a fault.
    Boot {
        /// Start the daemon when none listens.
        #[arg(long)]
        spawn: bool,
        /// How long to wait for the daemon, seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=3600))]
        wait: u64,
    },
    /// Show the appliance and its slots. Exits like `boot`.
    Status,
    /// Check the configuration, and what it names on this machine.
    CheckConfig,
    /// The slots.
    #[command(subcommand)]
    Slot(SlotVerb),
    /// The audit log.
    #[command(subcommand)]
    Audit(AuditVerb),
    /// The process that holds the PKCS#11 module; the daemon starts it.
    #[command(hide = true)]
    HsmWorker,
}

/// Slots are named by configured name, token label or PKCS#11 URI.
#[derive(Debug, Subcommand)]
enum SlotVerb {
    /// List the slots.
    List,
    /// Show one slot with everything known about it.
    Show {
        /// Name, token label or PKCS#11 URI.
        name: String,
    },
    /// Give a token its first user PIN, a generated one.
    Init {
        /// Name, token label or PKCS#11 URI.
        name: String,
        /// The PKCS#11 slot number of the free token to take, when there are several.
        #[arg(long, value_name = "ID")]
        free_slot: Option<u64>,
        #[command(flatten)]
        so_pin: SoPinSource,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Prove the code and hand the token PIN to the applications.
    Activate {
        /// Name, token label or PKCS#11 URI.
        name: String,
        #[command(flatten)]
        code: CodeSource,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Take the token PIN back from the applications, log out, forget it.
    Deactivate {
        /// Name, token label or PKCS#11 URI.
        name: String,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Replace the code, in the same mode.
    ChangeCode {
        /// Name, token label or PKCS#11 URI.
        name: String,
        #[command(flatten)]
        code: CodeSource,
        #[command(flatten)]
        new_code: NewCodeSource,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Switch between a generated and a manual code.
    Mode {
        /// Name, token label or PKCS#11 URI.
        name: String,
        /// The mode to switch to.
        to: ModeWord,
        #[command(flatten)]
        code: CodeSource,
        #[command(flatten)]
        new_code: NewCodeSource,
        #[command(flatten)]
        confirm: Confirm,
    },
}

#[derive(Debug, Subcommand)]
enum AuditVerb {
    /// Show the last records.
    Show {
        /// How many.
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        last: u32,
    },
    /// Verify the chain and its signatures: the daemon's log, or an exported file without a daemon.
    Verify {
        /// An exported file.
        file: Option<PathBuf>,
        /// The node's public key (64 hexadecimal digits), known from elsewhere.
        #[arg(long, value_name = "HEX", requires = "file", value_parser = node_key)]
        node_key: Option<[u8; 32]>,
    },
    /// Write the log into a new file.
    Export {
        /// The file.
        file: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeWord {
    /// Made by the service, stored sealed, used at boot, never shown.
    Generated,
    /// Known to people, never stored.
    Manual,
}

#[derive(Args, Debug)]
struct CodeSource {
    /// A file with the present code as one line.
    #[arg(long, value_name = "FILE", conflicts_with = "code_fd")]
    code_file: Option<PathBuf>,
    /// An open descriptor with the present code as one line.
    #[arg(long, value_name = "FD")]
    code_fd: Option<u32>,
}

#[derive(Args, Debug)]
struct NewCodeSource {
    /// A file with the new code as one line.
    #[arg(long, value_name = "FILE", conflicts_with = "new_code_fd")]
    new_code_file: Option<PathBuf>,
    /// An open descriptor with the new code as one line.
    #[arg(long, value_name = "FD")]
    new_code_fd: Option<u32>,
}

#[derive(Args, Debug)]
struct SoPinSource {
    /// A file with the security officer's PIN as one line.
    #[arg(long, value_name = "FILE", conflicts_with = "so_pin_fd")]
    so_pin_file: Option<PathBuf>,
    /// An open descriptor with the security officer's PIN as one line.
    #[arg(long, value_name = "FD")]
    so_pin_fd: Option<u32>,
}

#[derive(Args, Debug)]
struct Confirm {
    /// The text that a refusal asked for.
    #[arg(long, value_name = "TEXT")]
    confirm: Option<String>,
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
        Verb::Daemon { detached } => (program.daemon)(&config, detached).map(|()| EXIT_DONE).map_err(Refused::from),
        Verb::CheckConfig => check_config(&config, format).map_err(Refused::from),
        Verb::Audit(AuditVerb::Verify { file: Some(file), node_key }) => {
            audit_client::verify_file(&file, node_key).map(|found| verified(format, &found)).map_err(Refused::from)
        }
        verb => Session::open(&config, format).and_then(|session| session.run(verb)),
    };
    ended.unwrap_or_else(|refused| {
        output::refused(format, &refused);
        refused.problem.exit()
    })
}

/// A client with what it needs for one verb.
struct Session {
    client: Client,
    config: PathBuf,
    format: Format,
    interrupts: Interrupts,
}

impl Session {
    fn open(config: &Path, format: Format) -> Result<Self, Refused> {
        let settings = config::load(config)?;
        let client = Client::new(&settings.socket);
        Ok(Session { client, config: config.to_owned(), format, interrupts: Interrupts::watch() })
    }

    fn run(&self, verb: Verb) -> Result<u8, Refused> {
        match verb {
            Verb::Boot { spawn, wait } => {
                let config = std::path::absolute(&self.config).unwrap_or_else(|_| self.config.clone());
                self.interrupts.order_sent(true);
                let status = boot::boot(&self.client, spawn.then_some(config.as_path()), Duration::from_secs(wait))?;
                match self.format {
                    Format::Json => output::json(&status),
                    Format::Table => output::line(&status.sentence()),
                }
                Ok(status.exit())
            }
            Verb::Status => {
                let status = self.status()?;
                output::status(self.format, &status);
                Ok(status.exit())
            }
            Verb::Slot(verb) => self.slot_verb(verb),
            Verb::Audit(AuditVerb::Show { last }) => {
                output::audit(self.format, &audit_client::last(&self.client, last)?);
                Ok(EXIT_DONE)
            }
            Verb::Audit(AuditVerb::Verify { .. }) => {
                Ok(verified(self.format, &audit_client::verify_live(&self.client)?))
            }
            Verb::Audit(AuditVerb::Export { file }) => {
                audit_client::export(&self.client, &file)?;
                match self.format {
                    Format::Json => output::json(&json!({"schema": SCHEMA, "file": file.display().to_string()})),
                    Format::Table => output::line(&format!("the audit log is in {}", file.display())),
                }
                Ok(EXIT_DONE)
            }
            // Answered by `main`, without a daemon's socket.
            Verb::Daemon { .. } | Verb::CheckConfig | Verb::HsmWorker => Ok(EXIT_USAGE),
        }
    }

    fn slot_verb(&self, verb: SlotVerb) -> Result<u8, Refused> {
        match verb {
            SlotVerb::List => {
                output::slots(self.format, &self.status()?);
                return Ok(EXIT_DONE);
            }
            SlotVerb::Show { name } => {
                output::slot(self.format, &self.slot(&name)?);
                return Ok(EXIT_DONE);
            }
            SlotVerb::Init { name, free_slot, so_pin, confirm } => {
                let confirmed = confirm.is(CONFIRM_LAST_TRY)?;
                let pin = SoPinSource::source(so_pin).read(SecretRole::SoPin)?;
                self.slot(&name)?;
                let pin = match pin {
                    Some(pin) => pin,
                    // Twice: a free token takes whatever is typed as its SO PIN from now on.
                    None => secret::ask(SecretRole::SoPin, &format!("SO PIN for the token of {name}"), true)?,
                };
                let order = |confirmed| Order::Init { slot: name.clone(), free_slot, confirmed };
                self.order(order, confirmed, vec![(SecretRole::SoPin, pin)])?;
                self.ended(&name)?;
            }
            SlotVerb::Activate { name, code, confirm } => {
                let confirmed = confirm.is(CONFIRM_LAST_TRY)?;
                let code = code.source().read(SecretRole::Code)?;
                let found = self.slot(&name)?;
                let secrets = self.present_code(&name, &found, code)?;
                self.order(|confirmed| Order::Activate { slot: name.clone(), confirmed }, confirmed, secrets)?;
                self.ended(&name)?;
            }
            SlotVerb::Deactivate { name, confirm } => {
                let order = if confirm.is(CONFIRM_END_CALL)? {
                    Order::EndCall { slot: name.clone() }
                } else {
                    Order::Deactivate { slot: name.clone() }
                };
                self.order(|_| order.clone(), true, Vec::new())?;
                self.ended(&name)?;
            }
            SlotVerb::ChangeCode { name, code, new_code, confirm } => {
                let confirmed = confirm.is(CONFIRM_LAST_TRY)?;
                let code = code.source().read(SecretRole::Code)?;
                let new_code = new_code.source().read(SecretRole::NewCode)?;
                let found = self.slot(&name)?;
                let manual = found.slot.mode == mode_word(Mode::Manual);
                let mut secrets = self.present_code(&name, &found, code)?;
                self.new_code(&name, manual, new_code, &mut secrets)?;
                self.order(|confirmed| Order::ChangeCode { slot: name.clone(), confirmed }, confirmed, secrets)?;
                self.ended(&name)?;
            }
            SlotVerb::Mode { name, to, code, new_code, confirm } => {
                let confirmed = confirm.is(CONFIRM_LAST_TRY)?;
                let code = code.source().read(SecretRole::Code)?;
                let new_code = new_code.source().read(SecretRole::NewCode)?;
                let found = self.slot(&name)?;
                let switches = found.slot.mode != mode_word(to.mode());
                if switches {
                    explain(to)?;
                }
                let mut secrets =
                    if switches { self.present_code(&name, &found, code)? } else { given(SecretRole::Code, code) };
                let asks = switches && matches!(to, ModeWord::Manual);
                self.new_code(&name, asks, new_code, &mut secrets)?;
                let order = |confirmed| Order::Mode { slot: name.clone(), to: to.mode(), confirmed };
                self.order(order, confirmed, secrets)?;
                self.ended(&name)?;
            }
        }
        Ok(EXIT_DONE)
    }

    fn status(&self) -> Result<StatusView, Refused> {
        match self.client.ask(Ask::Status, &[])? {
            Answered::Status(status) => Ok(status),
            _ => Err(Own::OtherVersion.into()),
        }
    }

    fn slot(&self, name: &str) -> Result<SlotDetail, Refused> {
        match self.client.ask(Ask::Slot { slot: name.to_owned() }, &[])? {
            Answered::Slot(detail) => Ok(*detail),
            _ => Err(Own::OtherVersion.into()),
        }
    }

    /// The present code: as given, or asked for where the slot needs one. Where no code
    /// helps nobody is asked, and the daemon says why.
    fn present_code(
        &self,
        name: &str,
        found: &SlotDetail,
        given_code: Option<Secret>,
    ) -> Result<Vec<(SecretRole, Secret)>, Refused> {
        let helpless = [StateName::Uninitialised, StateName::Blocked, StateName::Activating, StateName::Changing];
        let helpless = helpless.iter().any(|state| found.slot.state == state.word());
        let wanted = found.slot.mode == mode_word(Mode::Manual) && !helpless;
        let code = match given_code {
            None if wanted && secret::on_terminal() => {
                Some(secret::ask(SecretRole::Code, &format!("Code of {name}"), false)?)
            }
            code => code,
        };
        Ok(given(SecretRole::Code, code))
    }

    /// The new code: as given, or asked for twice where the order needs one.
    fn new_code(
        &self,
        name: &str,
        wanted: bool,
        given_code: Option<Secret>,
        secrets: &mut Vec<(SecretRole, Secret)>,
    ) -> Result<(), Refused> {
        let code = match given_code {
            None if wanted && secret::on_terminal() => {
                Some(secret::ask(SecretRole::NewCode, &format!("New code of {name}"), true)?)
            }
            code => code,
        };
        secrets.extend(given(SecretRole::NewCode, code));
        Ok(())
    }

    /// Sends an order. A last try that was not confirmed is asked about at the terminal,
    /// and sent again: the first time nothing was tried.
    fn order(
        &self,
        order: impl Fn(bool) -> Order,
        confirmed: bool,
        secrets: Vec<(SecretRole, Secret)>,
    ) -> Result<(), Refused> {
        self.interrupts.order_sent(true);
        let answered = self.client.ask(Ask::Order(order(confirmed)), &secrets);
        self.interrupts.order_sent(false);
        match answered {
            Err(refused) if refused.problem.is(Refusal::LastTryUnconfirmed) && !confirmed && secret::on_terminal() => {
                output::aside(&format!("{}.", refused.problem.sentence));
                typed(&format!("Type `{CONFIRM_LAST_TRY}` to go on: "), CONFIRM_LAST_TRY)?;
                self.interrupts.order_sent(true);
                self.client.ask(Ask::Order(order(true)), &secrets).map(|_| ())
            }
            answered => answered.map(|_| ()),
        }
    }

    /// Says in which state the slot is after an order.
    fn ended(&self, name: &str) -> Result<(), Refused> {
        let detail = self.slot(name)?;
        match self.format {
            Format::Json => output::json(&detail),
            Format::Table => {
                let slot = &detail.slot;
                let lack = if slot.waits_for.is_some() { format!("; it {}", slot.lack()) } else { String::new() };
                output::line(&format!("{} is {}, its code is {}{lack}", slot.name, slot.state, slot.mode));
                for application in slot.applications.iter().filter(|application| application.fault.is_some()) {
                    output::line(&format!("the application {} could not be served", application.name));
                }
            }
        }
        Ok(())
    }
}

impl ModeWord {
    const fn mode(self) -> Mode {
        match self {
            ModeWord::Generated => Mode::Generated,
            ModeWord::Manual => Mode::Manual,
        }
    }

    /// What the switch means, in the product's words.
    const fn meaning(self) -> &'static str {
        match self {
            ModeWord::Generated => {
                "A generated code is available without people, hard to guess, and nobody can disclose it;\n\
                 but whoever steals the powered-off machine may extract the keys."
            }
            ModeWord::Manual => {
                "With a manual code a stolen box gives nothing;\n\
                 but after each reboot somebody has to activate the slot."
            }
        }
    }
}

impl CodeSource {
    fn source(self) -> Source {
        Source { file: self.code_file, descriptor: self.code_fd }
    }
}

impl NewCodeSource {
    fn source(self) -> Source {
        Source { file: self.new_code_file, descriptor: self.new_code_fd }
    }
}

impl SoPinSource {
    fn source(self) -> Source {
        Source { file: self.so_pin_file, descriptor: self.so_pin_fd }
    }
}

impl Confirm {
    /// Whether it was confirmed; another text than the one that was asked for is a mistake.
    fn is(&self, text: &str) -> Result<bool, Problem> {
        match self.confirm.as_deref() {
            None => Ok(false),
            Some(given) if given == text => Ok(true),
            Some(_) => Err(Own::ConfirmationWrong.with(format!("here it would be {text:?}"))),
        }
    }
}

fn given(role: SecretRole, secret: Option<Secret>) -> Vec<(SecretRole, Secret)> {
    secret.map(|secret| (role, secret)).into_iter().collect()
}

/// Says what a switch means; asks only at a terminal.
fn explain(to: ModeWord) -> Result<(), Problem> {
    output::aside(to.meaning());
    if !secret::on_terminal() {
        return Ok(());
    }
    typed("Type `yes` to switch: ", "yes").map_err(|_| Problem::from(Own::NotConfirmed))
}

/// Asks for a text that is not secret.
fn typed(prompt: &str, text: &str) -> Result<(), Problem> {
    use std::io::Write as _;
    let _ = write!(std::io::stderr(), "{prompt}");
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line) {
        Ok(_) if line.trim_end_matches(['\r', '\n']) == text => Ok(()),
        Ok(_) => Err(Own::ConfirmationWrong.with(format!("here it would be {text:?}"))),
        Err(error) => Err(Own::TerminalClosed.with(error.to_string())),
    }
}

fn check_config(path: &Path, format: Format) -> Result<u8, Problem> {
    let problems = match config::check(&config::read(path)?) {
        Ok(settings) => config::check_machine(&settings),
        Err(problems) => problems,
    };
    output::configuration(format, &problems);
    Ok(if problems.is_empty() { EXIT_DONE } else { EXIT_ERROR })
}

fn verified(format: Format, found: &crate::audit::Verified) -> u8 {
    let (head, key) = (crate::audit::hex(&found.head), crate::audit::hex(&found.node_key));
    match format {
        Format::Json => output::json(&json!({
            "schema": SCHEMA, "records": found.records, "head": head, "checkpoints": found.checkpoints,
            "signed": found.signed, "node_key": key, "trusted": found.trusted,
        })),
        Format::Table => {
            output::line(&format!("{} records form one unbroken chain", found.records));
            output::line(&format!("{} checkpoints; signed up to record {}", found.checkpoints, found.signed));
            let trust = if found.trusted { "" } else { ", not trusted: compare it with the node's" };
            output::line(&format!("signed by {key}{trust}"));
        }
    }
    EXIT_DONE
}

fn node_key(text: &str) -> Result<[u8; 32], String> {
    crate::audit::unhex(text).ok_or_else(|| "64 hexadecimal digits are wanted".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn exit_of(arguments: &[&str]) -> u8 {
        let program = Program { daemon: |_, _| Ok(()), hsm_worker: || ExitCode::SUCCESS };
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
        assert_eq!(exit_of(&["boot", "--wait", "-1"]), 64);
        assert_eq!(exit_of(&["audit", "verify", "--node-key", "00"]), 64);
        assert_eq!(exit_of(&["--help"]), 0);
        assert_eq!(exit_of(&["--version"]), 0);
    }

    #[test]
    fn p03_no_option_takes_a_secret_as_its_value() {
        fn walk(command: &clap::Command, seen: &mut Vec<String>) {
            for argument in command.get_arguments() {
                seen.extend(argument.get_long().map(str::to_owned));
            }
            command.get_subcommands().for_each(|sub| walk(sub, seen));
        }
        let mut seen = Vec::new();
        walk(&Arguments::command(), &mut seen);
        for name in seen.iter().filter(|name| name.contains("code") || name.contains("pin")) {
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
    }
}
