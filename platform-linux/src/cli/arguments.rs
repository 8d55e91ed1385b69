//! Nouns, verbs and options, as clap reads them.

use std::path::PathBuf;

use clap::{Args, Command, Parser, Subcommand, ValueEnum};
use slotwarden_core::record::Mode;

use super::card_arguments::{At, BackupVerb, CardVerb, CeremonyVerb, PassphraseSource};
use super::cluster_arguments::{ClusterVerb, SyncVerb};
use super::{
    CONFIRM_ABANDON, CONFIRM_DECOMMISSION, CONFIRM_END_CALL, CONFIRM_ERASE, CONFIRM_IMPORT, CONFIRM_LAST_TRY,
    CONFIRM_REMOVE, CONFIRM_ZEROIZE,
};
use crate::config::PATH_DEFAULT;
use crate::output::Format;
use crate::problem::{EXITS, Own, Problem};
use crate::secret::Source;

/// How secrets are entered.
pub(super) const SECRETS: &str = "\
Secrets are asked for at the terminal. Scripts name a file (--code-file, --new-code-file, --so-pin-file, --passphrase-file) or an open \
descriptor (--code-fd and so on) that holds the secret as one line. No option takes a secret itself. A new share is \
shown on the terminal once, on a screen of its own that is cleared when you press Enter.";

/// How an order is confirmed, and each text with what it confirms.
pub(super) const CONFIRMATIONS: (&str, &[(&str, &str)]) = (
    "Where an order could do harm it is refused at first, and the refusal names a text. Type that text when asked, or \
     repeat the order with --confirm TEXT:",
    &[
        (CONFIRM_LAST_TRY, "one more wrong code could block the token"),
        (CONFIRM_END_CALL, "end the HSM worker although the HSM has not answered"),
        (CONFIRM_DECOMMISSION, "destroy every key of the token of the slot NAME"),
        (CONFIRM_ERASE, "take away what is on a card"),
        (CONFIRM_IMPORT, "make keys from a file in a token"),
        (CONFIRM_ABANDON, "give up an import that cannot end; what it made stays"),
        (CONFIRM_REMOVE, "take the node NODE out of the cluster"),
        (CONFIRM_ZEROIZE, "destroy every sealed code and the node key"),
    ],
);

/// Where to begin.
pub(super) const FIRST_STEPS: &str =
    "Begin with `slotwarden check-config`, then `slotwarden daemon`, then `slotwarden status`.";

/// What stands under the help of the program.
fn footer() -> String {
    let confirmations = CONFIRMATIONS.1.iter().map(|(text, meaning)| format!("  \"{text}\"  {meaning}\n"));
    let exits = EXITS.iter().map(|(exit, meaning)| format!("  {exit:<3}  {meaning}\n"));
    let (confirmations, exits): (String, String) = (confirmations.collect(), exits.collect());
    format!("{SECRETS}\n\n{}\n{confirmations}\nExit codes:\n{exits}\n{FIRST_STEPS}", CONFIRMATIONS.0)
}

/// Slotwarden keeps the PKCS#11 slots of an HSM active.
///
/// The daemon logs in to each slot's token, with a code that it keeps sealed or that people
/// enter, and hands the token PIN to the applications that use the slot. All other commands
/// talk to the daemon.
#[derive(Debug, Parser)]
#[command(name = "slotwarden", version, max_term_width = 110, after_long_help = footer())]
#[command(after_help = "Exit codes, secrets and confirmations: slotwarden --help")]
pub(super) struct Arguments {
    /// The configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = PATH_DEFAULT, display_order = 900)]
    pub(super) config: PathBuf,
    /// How answers are printed: `table` for people, `json` for scripts.
    #[arg(long, global = true, value_enum, default_value_t, hide_possible_values = true, display_order = 901)]
    pub(super) output: Format,
    #[command(subcommand)]
    pub(super) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Run the service, in the foreground, until it is stopped with Ctrl-C or SIGTERM.
    ///
    /// The log goes to standard error. The slots that need nobody are activated at once.
    Daemon {
        /// Leave the terminal (`boot --spawn` does).
        #[arg(long, hide = true)]
        detached: bool,
        /// Make a new store where the old one was lost; refused where nothing was lost.
        ///
        /// What is left of the old one is moved into `lost-DATE` in the state directory. The sealed
        /// codes in it are lost with it. Every token is adopted again, locked, its keys kept;
        /// `slot unblock` opens it by its SO PIN.
        #[arg(long)]
        new_store: bool,
    },
    /// Wait until every slot that needs nobody was tried; say what the others wait for.
    ///
    /// For boot scripts. Exits 0 when all slots are active, 2 when some wait for people, 1 on a fault.
    Boot {
        /// Start the daemon in the background if none runs; its log is daemon.log beside the socket.
        #[arg(long)]
        spawn: bool,
        /// How long to wait for the daemon, seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=3600))]
        wait: u64,
    },
    /// Show all slots: which are active, and who or what the others wait for.
    ///
    /// Exits 0 when all slots are active, 2 when some wait for people, 1 on a fault.
    Status,
    /// Check the configuration file, and whether what it names is there; needs no daemon.
    CheckConfig,
    /// Look at slots, activate and deactivate them, change their codes.
    ///
    /// A code is what people, or the service, know for a slot; the token takes it as its user
    /// PIN. A generated code is made and kept sealed by the service; a manual code is known to
    /// people and never stored.
    #[command(subcommand)]
    Slot(SlotVerb),
    /// List cards and readers, change the PIN of a card, give, copy or erase a card.
    ///
    /// A card's PIN is typed on the keypad of its reader and never enters this machine.
    #[command(subcommand)]
    Card(CardVerb),
    /// Make the backup key and its cards, verify, replace and restore them.
    ///
    /// From the backup key come the keys that protect exports. It is split over cards: any M of N
    /// bring it back, fewer know nothing of it.
    #[command(subcommand)]
    Backup(BackupVerb),
    /// Watch a ceremony, answer what it asks, cancel it, show its transcript.
    ///
    /// A ceremony goes on in the daemon when its command is ended, and can be watched from
    /// anywhere: `slotwarden ceremony watch`.
    #[command(subcommand)]
    Ceremony(CeremonyVerb),
    /// Found a cluster, take nodes in and out, show its members.
    ///
    /// The members of a cluster have the same slots and exchange the keys of them. A roster says
    /// who they are; only two persons change it.
    #[command(subcommand)]
    Cluster(ClusterVerb),
    /// Bring the keys of this node's slots to the other members of the cluster, and theirs here.
    #[command(subcommand)]
    Sync(SyncVerb),
    /// Approve what another person asked for, or list what waits for that.
    ///
    /// With dual control on, some orders wait for a second person: an approver or another
    /// administrator. The order tells its requester an id and a short code; read the code to each
    /// other, so that both mean the same order. After the approval the requester gives the same
    /// order again, within 5 minutes.
    Approve {
        /// Which request; without it: list them all.
        id: Option<u32>,
        /// The code that the requester was told; asked for at the terminal when absent.
        code: Option<String>,
        /// Withdraw the request instead: your own, or as an administrator anybody's.
        #[arg(long, requires = "id", conflicts_with = "code")]
        withdraw: bool,
    },
    /// Have two persons decide what one alone should not; needs two persons to leave.
    ///
    /// While it is on, persons, roles, policy, slots, applications and the module of the
    /// configuration file count only as two persons approved them.
    DualControl {
        /// What to do.
        #[command(subcommand)]
        verb: DualControlVerb,
    },
    /// Destroy every sealed code and the node key, and deactivate every slot, within a second.
    ///
    /// The key that protects them is overwritten and removed; on flash old blocks may keep it, wrapped, until they
    /// are reused. Keys in tokens stay, as do manual codes. The daemon starts anew with another node key. Slots
    /// whose code was generated come back by `slot unblock` (SO PIN). A member of a cluster is another node from then
    /// on: `cluster remove` it elsewhere, and invite it anew. Works also when the store has failed.
    Zeroize {
        /// "zeroize": destroy them.
        #[arg(long, value_name = "TEXT")]
        confirm: Option<String>,
    },
    /// Show, verify and export the log of everything that was ordered and done.
    #[command(subcommand)]
    Audit(AuditVerb),
    /// Read a protected export from its first byte to its last: is it whole, who signed it, what is in it?
    ///
    /// Needs neither daemon nor HSM. With its passphrase or its cards the MACs are checked too: that nobody who does not
    /// have them altered the file. Cards are read at the PIN pads of this machine, by the daemon, or where none answers by
    /// this program: then nothing of it is kept, also no transcript. No slot need be open, no token is asked, nothing is
    /// imported.
    Verify {
        /// The file.
        file: PathBuf,
        /// The node's public key (64 hexadecimal digits), known from elsewhere.
        #[arg(long, value_name = "HEX", value_parser = node_key)]
        node_key: Option<[u8; 32]>,
        /// Ask for the passphrase.
        #[arg(long)]
        with_passphrase: bool,
        /// Have M cards of its backup key read at a PIN pad.
        #[arg(long, conflicts_with_all = ["with_passphrase", "passphrase_file", "passphrase_fd"])]
        with_cards: bool,
        /// The reader: its name, a part of it that no other has, or its number.
        #[arg(long, value_name = "NAME", requires = "with_cards")]
        reader: Option<String>,
        #[command(flatten)]
        passphrase: PassphraseSource,
    },
    /// Print the completion of commands and options for a shell.
    ///
    /// bash: into /usr/share/bash-completion/completions/slotwarden. zsh: into a directory of $fpath, as _slotwarden.
    /// fish: into /usr/share/fish/vendor_completions.d/slotwarden.fish.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page: `slotwarden man | man -l -`.
    ///
    /// For packages: into /usr/share/man/man1/slotwarden.1.
    Man,
    /// The process that holds the PKCS#11 module; the daemon starts it.
    #[command(hide = true)]
    HsmWorker,
}

#[derive(Debug, Subcommand)]
pub(super) enum SlotVerb {
    /// List the slots.
    List,
    /// Show one slot with everything known about it.
    Show {
        /// The slot: its name in the configuration, its token's label, or a PKCS#11 URI.
        name: String,
    },
    /// Give a new token its label and a first, generated code.
    ///
    /// Takes a token of the slot's label that has no user PIN, else the only token that was never
    /// initialised. A token with a user PIN or keys is refused. A token that was never
    /// initialised takes the SO PIN (the security officer's) given here from now on: keep it.
    Init {
        /// The slot: its name in the configuration, its token's label, or a PKCS#11 URI.
        name: String,
        /// Which new token to take when there are several: its PKCS#11 slot number, as the refusal lists it.
        #[arg(long, value_name = "ID")]
        free_slot: Option<u64>,
        #[command(flatten)]
        so_pin: SoPinSource,
        #[command(flatten)]
        so_cards: SoCards,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Log in to the slot's token and hand the token PIN to the applications.
    ///
    /// A slot with a manual code asks for it, or for your share or part of it; one that is opened
    /// with cards calls its users to the keypad; one with a generated code needs nothing.
    Activate {
        /// The slot: its name in the configuration, its token's label, or a PKCS#11 URI.
        name: String,
        #[command(flatten)]
        code: CodeSource,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Take the token PIN back from the applications, log out and forget the code.
    ///
    /// A sealed code stays in the store: the slot is active again after the next start.
    Deactivate {
        /// The slot: its name in the configuration, its token's label, or a PKCS#11 URI.
        name: String,
        #[command(flatten)]
        confirm: ConfirmEndCall,
    },
    /// Give the token a new code; a generated one stays generated, a manual one manual.
    ///
    /// A manual code is asked for: the present one, then the new one twice. Where several
    /// persons know it in parts, each enters both with `slot share`.
    ChangeCode {
        /// The slot: its name in the configuration, its token's label, or a PKCS#11 URI.
        name: String,
        #[command(flatten)]
        code: CodeSource,
        #[command(flatten)]
        new_code: NewCodeSource,
        #[command(flatten)]
        accept: Accept,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Give a token another user PIN by its SO PIN; every key stays.
    ///
    /// For a token that is blocked, and for one whose code is lost: with the store, with the
    /// machine, or because nobody remembers it. The slot must not be active. At a terminal it
    /// says what it will do and asks first.
    Unblock {
        /// The slot: its name in the configuration, its token's label, or a PKCS#11 URI.
        name: String,
        /// The mode from then on.
        #[arg(default_value = "generated")]
        to: ModeWord,
        #[command(flatten)]
        so_pin: SoPinSource,
        #[command(flatten)]
        so_cards: SoCards,
        #[command(flatten)]
        new_code: NewCodeSource,
        #[command(flatten)]
        accept: Accept,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// End the life of a slot: erase its token with every key, and forget its codes.
    ///
    /// Nothing brings the keys back. Afterwards `slot init` begins anew. A token that is gone, or
    /// replaced by another, cannot be erased: --without-token forgets the sealed codes kept for it.
    Decommission {
        /// The slot: its name in the configuration, its token's label, or a PKCS#11 URI.
        name: String,
        /// The token is gone for good: only forget what is kept for it.
        #[arg(long, conflicts_with_all = ["so_pin_file", "so_pin_fd", "so_cards"])]
        without_token: bool,
        #[command(flatten)]
        so_pin: SoPinSource,
        #[command(flatten)]
        so_cards: SoCards,
        #[command(flatten)]
        accept: Accept,
        /// "decommission NAME" with the slot's name: every key is destroyed. "last try": try
        /// although one more wrong SO PIN could block it. May be given twice.
        #[arg(long, value_name = "TEXT")]
        confirm: Vec<String>,
    },
    /// Switch between a generated and a manual code, or change who knows a manual one.
    ///
    /// The token gets a new code. A manual code is known to one person, or with --parts to
    /// several together; `slot split` makes one that any m of n persons know. At a terminal it
    /// says what the switch means and asks first.
    Mode {
        /// The slot: its name in the configuration, its token's label, or a PKCS#11 URI.
        name: String,
        /// The mode to switch to.
        to: ModeWord,
        /// Who will know the manual code together, each a part of it: 2 to 8 persons of the
        /// configuration, in the order in which their parts are joined. Each enters theirs with
        /// `slot share`.
        #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
        parts: Vec<String>,
        #[command(flatten)]
        code: CodeSource,
        #[command(flatten)]
        new_code: NewCodeSource,
        #[command(flatten)]
        accept: Accept,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Make a new code that any M of N persons open the slot with, and hand its shares out.
    ///
    /// The present code is asked for first; where several persons know it, each enters theirs
    /// with `slot share`. Then each custodian fetches one new share, once, and types it back, also
    /// with `slot share`. The token gets the new code when all N were typed back; until then the
    /// old one rules.
    Split {
        /// The slot: its name in the configuration, its token's label, or a PKCS#11 URI.
        name: String,
        /// How many persons open the slot together: 2 to N.
        #[arg(short, value_name = "M")]
        m: u8,
        /// How many shares there are: at most 16.
        #[arg(short, value_name = "N")]
        n: u8,
        /// Who the shares are for: N persons of the configuration. Without it any custodian or
        /// administrator may fetch one.
        #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
        custodians: Vec<String>,
        #[command(flatten)]
        code: CodeSource,
        #[command(flatten)]
        accept: Accept,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Let any K of some users open the slot with their cards, alone or on top of a code.
    ///
    /// The cards that open it now, or its code, are asked for first. Then each user sets a PIN on
    /// the keypad and gets a share written; the token gets the new PIN when all were verified.
    /// Such a slot is never activated at boot. `slot mode` goes back to a code.
    Cards {
        /// The slot: its name in the configuration, its token's label, or a PKCS#11 URI.
        name: String,
        /// How many users open the slot together: 1 to as many as there are.
        #[arg(short, value_name = "K")]
        k: u8,
        /// The users: persons of the configuration, at most 16, each with a card of their own.
        #[arg(long, value_name = "NAME,NAME", value_delimiter = ',', required = true)]
        users: Vec<String>,
        /// A code is needed as well as the cards: it is asked for.
        #[arg(long)]
        with_code: bool,
        #[command(flatten)]
        code: CodeSource,
        #[command(flatten)]
        new_code: NewCodeSource,
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        accept: Accept,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Let any K of some cards give the SO PIN of the slot's token.
    ///
    /// The token gets a new SO PIN that nobody knows. The present one is asked for, or read from
    /// the cards that give it now.
    AdminCards {
        /// The slot: its name in the configuration, its token's label, or a PKCS#11 URI.
        name: String,
        /// How many cards give the SO PIN together: 1 to as many as there are.
        #[arg(short, value_name = "K")]
        k: u8,
        /// The HSM administrators: persons of the configuration, at most 16, each with a card.
        #[arg(long, value_name = "NAME,NAME", value_delimiter = ',', required = true)]
        holders: Vec<String>,
        #[command(flatten)]
        so_pin: SoPinSource,
        /// The present SO PIN comes from cards: nobody is asked for it.
        #[arg(long, conflicts_with_all = ["so_pin_file", "so_pin_fd"])]
        so_cards: bool,
        #[command(flatten)]
        at: At,
        #[command(flatten)]
        confirm: Confirm,
    },
    /// Do your part for a code that several persons know, whatever the slot waits for now.
    ///
    /// Enters your share or your part; or shows you your new share, once, and takes it when you
    /// type it back. A share typed wrongly is refused as that and costs nothing. A script gives
    /// a share or part with --code-file; without one, and without a terminal, the new share is
    /// written to standard output as one line.
    Share {
        /// The slot: its name in the configuration, its token's label, or a PKCS#11 URI.
        name: String,
        /// End what is being collected or handed out: all begin again.
        #[arg(long, conflicts_with_all = ["code_file", "code_fd"])]
        reset: bool,
        #[command(flatten)]
        code: CodeSource,
        #[command(flatten)]
        confirm: Confirm,
    },
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(super) enum DualControlVerb {
    /// Switch it on. What the daemon runs with becomes what is approved.
    On,
    /// Switch it off again.
    Off,
    /// Let the configuration file count as it is now, from the next start of the daemon on.
    Adopt,
}

#[derive(Debug, Subcommand)]
pub(super) enum AuditVerb {
    /// Show the last records. Works also while the daemon does not run.
    Show {
        /// How many of the last records.
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        last: u32,
    },
    /// Verify that no record was altered, removed or moved, and who signed the log.
    ///
    /// Without FILE: the log of this node, also while the daemon does not run. With FILE: an
    /// exported file, wherever it came from; this needs neither daemon nor configuration.
    ///
    /// A log whose last records were cut off looks whole. Only who knows how far it reached can
    /// tell: keep exports, or the number that this command prints, in another place, and name
    /// them with --checkpoint.
    Verify {
        /// A file that `audit export` wrote.
        file: Option<PathBuf>,
        /// The node's public key (64 hexadecimal digits), known from elsewhere.
        #[arg(long, value_name = "HEX", value_parser = node_key)]
        node_key: Option<[u8; 32]>,
        /// How far the log reached earlier: an earlier export, a file of its lines that begin
        /// with {"checkpoint", or the number of a record. May be given several times.
        #[arg(long, value_name = "FILE|SEQUENCE", value_parser = checkpoint)]
        checkpoint: Vec<Reached>,
    },
    /// Write the log into a new file. Works also while the daemon does not run.
    Export {
        /// The file to make; it must not exist yet.
        file: PathBuf,
    },
}

/// The shells that completions are made for.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Shell {
    /// GNU Bash with bash-completion.
    Bash,
    /// The Z shell.
    Zsh,
    /// fish.
    Fish,
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
    /// A file with the present code, or your share or part of it, as one line.
    #[arg(long, value_name = "FILE", conflicts_with = "code_fd")]
    pub(super) code_file: Option<PathBuf>,
    /// An open descriptor with the same as one line.
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
pub(super) struct SoCards {
    /// The SO PIN comes from the cards of `slot admin-cards`: nobody types it.
    #[arg(long, conflicts_with_all = ["so_pin_file", "so_pin_fd"])]
    pub(super) so_cards: bool,
    #[command(flatten)]
    pub(super) at: At,
}

#[derive(Args, Debug)]
pub(super) struct Confirm {
    /// "last try": try although one more wrong code could block the token.
    #[arg(long, value_name = "TEXT")]
    pub(super) confirm: Option<String>,
}

#[derive(Args, Debug)]
pub(super) struct Accept {
    /// An application that cannot be told to let go, and need not be: it keeps the old PIN, and
    /// may spend tries with it. May be given several times.
    #[arg(long = "accept-application", value_name = "NAME")]
    pub(super) accept: Vec<String>,
}

#[derive(Args, Debug)]
pub(super) struct ConfirmEndCall {
    /// "end call": end the HSM worker although the HSM has not answered.
    #[arg(long, value_name = "TEXT")]
    confirm: Option<String>,
}

impl From<ConfirmEndCall> for Confirm {
    fn from(ConfirmEndCall { confirm }: ConfirmEndCall) -> Self {
        Confirm { confirm }
    }
}

impl Shell {
    /// The script that completes a command line.
    pub(super) fn completions(self, mut command: Command) -> Vec<u8> {
        let name = command.get_name().to_owned();
        let mut script = Vec::new();
        let shell = match self {
            Shell::Bash => clap_complete::Shell::Bash,
            Shell::Zsh => clap_complete::Shell::Zsh,
            Shell::Fish => clap_complete::Shell::Fish,
        };
        clap_complete::generate(shell, &mut command, name, &mut script);
        script
    }
}

impl ModeWord {
    pub(super) const fn mode(self) -> Mode {
        match self {
            ModeWord::Generated => Mode::Generated,
            ModeWord::Manual => Mode::Manual,
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
