//! Nouns, verbs and options, as clap reads them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use slotwarden_core::record::Mode;

use crate::config::PATH_DEFAULT;
use crate::output::Format;
use crate::problem::{Own, Problem};
use crate::secret::Source;

/// The HSM slots of an appliance, kept active.
#[derive(Debug, Parser)]
#[command(name = "slotwarden", version, about, max_term_width = 100)]
pub(super) struct Arguments {
    /// The configuration.
    #[arg(long, global = true, value_name = "FILE", default_value = PATH_DEFAULT)]
    pub(super) config: PathBuf,
    /// How answers are printed.
    #[arg(long, global = true, value_enum, default_value_t)]
    pub(super) output: Format,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
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
pub(super) enum SlotVerb {
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
pub(super) enum AuditVerb {
    /// Show the last records, also while the daemon does not run.
    Show {
        /// How many.
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        last: u32,
    },
    /// Verify that no record was altered, removed or moved, and who signed the log.
    ///
    /// Without FILE: the log of this node, also while the daemon does not run. With FILE: an
    /// exported file, wherever it came from; this needs neither daemon nor configuration.
    ///
    /// Records cut off at the end leave a log that is whole in itself. They are missed only by
    /// whoever knows how far it reached: keep exports, or the number this command prints, in
    /// another place and bring them with --checkpoint.
    Verify {
        /// An exported file.
        file: Option<PathBuf>,
        /// The node's public key (64 hexadecimal digits), known from elsewhere.
        #[arg(long, value_name = "HEX", value_parser = node_key)]
        node_key: Option<[u8; 32]>,
        /// How far the log reached earlier: an earlier export, a file of its lines that begin
        /// with {"checkpoint", or the number of a record. May be given several times.
        #[arg(long, value_name = "FILE|SEQUENCE", value_parser = checkpoint)]
        checkpoint: Vec<Reached>,
    },
    /// Write the log into a new file, also while the daemon does not run.
    Export {
        /// The file.
        file: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ModeWord {
    /// Made by the service, stored sealed, used at boot, never shown.
    Generated,
    /// Known to people, never stored.
    Manual,
}

#[derive(Args, Debug)]
pub(super) struct CodeSource {
    /// A file with the present code as one line.
    #[arg(long, value_name = "FILE", conflicts_with = "code_fd")]
    pub(super) code_file: Option<PathBuf>,
    /// An open descriptor with the present code as one line.
    #[arg(long, value_name = "FD")]
    pub(super) code_fd: Option<u32>,
}

#[derive(Args, Debug)]
pub(super) struct NewCodeSource {
    /// A file with the new code as one line.
    #[arg(long, value_name = "FILE", conflicts_with = "new_code_fd")]
    pub(super) new_code_file: Option<PathBuf>,
    /// An open descriptor with the new code as one line.
    #[arg(long, value_name = "FD")]
    pub(super) new_code_fd: Option<u32>,
}

#[derive(Args, Debug)]
pub(super) struct SoPinSource {
    /// A file with the security officer's PIN as one line.
    #[arg(long, value_name = "FILE", conflicts_with = "so_pin_fd")]
    pub(super) so_pin_file: Option<PathBuf>,
    /// An open descriptor with the security officer's PIN as one line.
    #[arg(long, value_name = "FD")]
    pub(super) so_pin_fd: Option<u32>,
}

#[derive(Args, Debug)]
pub(super) struct Confirm {
    /// The text that a refusal asked for.
    #[arg(long, value_name = "TEXT")]
    pub(super) confirm: Option<String>,
}

impl ModeWord {
    pub(super) const fn mode(self) -> Mode {
        match self {
            ModeWord::Generated => Mode::Generated,
            ModeWord::Manual => Mode::Manual,
        }
    }

    /// What the switch means, in the product's words.
    pub(super) const fn meaning(self) -> &'static str {
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
    pub(super) fn source(self) -> Source {
        Source { file: self.code_file, descriptor: self.code_fd }
    }
}

impl NewCodeSource {
    pub(super) fn source(self) -> Source {
        Source { file: self.new_code_file, descriptor: self.new_code_fd }
    }
}

impl SoPinSource {
    pub(super) fn source(self) -> Source {
        Source { file: self.so_pin_file, descriptor: self.so_pin_fd }
    }
}

impl Confirm {
    /// Whether it was confirmed; another text than the one that was asked for is a mistake.
    pub(super) fn is(&self, text: &str) -> Result<bool, Problem> {
        match self.confirm.as_deref() {
            None => Ok(false),
            Some(given) if given == text => Ok(true),
            Some(_) => Err(Own::ConfirmationWrong.with(format!("here it would be {text:?}"))),
        }
    }
}

/// How far a log reached earlier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// At least to this record.
    Record(u64),
    /// As far as this file tells.
    File(PathBuf),
}

/// A number is a record; a file whose name is a number is given as `./NAME`.
fn checkpoint(text: &str) -> Result<Reached, String> {
    if text.is_empty() {
        return Err("a file or the number of a record is wanted".to_owned());
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(Reached::File(PathBuf::from(text)));
    }
    text.parse().map(Reached::Record).map_err(|_| "no log has so many records".to_owned())
}

fn node_key(text: &str) -> Result<[u8; 32], String> {
    crate::audit::unhex(text).ok_or_else(|| "64 hexadecimal digits are wanted".to_owned())
}
