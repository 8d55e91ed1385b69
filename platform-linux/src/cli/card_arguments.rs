//! Nouns, verbs and options about cards and ceremonies, as clap reads them.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use slotwarden_core::card::Credential;

use crate::secret::Source;
use crate::wire;

#[derive(Debug, Subcommand)]
pub(super) enum CardVerb {
    /// List the cards that are known, and the readers with the reason why one is not used.
    List,
    /// Show one card with everything known about it.
    Info {
        /// Its serial, as the list shows it.
        serial: String,
    },
    /// Change the PIN of a card on the keypad of its reader.
    ///
    /// The old PIN is typed, then the new one twice. Cards of other appliances are welcome too.
    ChangePin {
        #[command(flatten)]
        credential: CredentialOption,
        #[command(flatten)]
        at: At,
    },
    /// Give a card to another person, who changes its PIN on the keypad.
    Reassign {
        /// To whom: a person of the configuration.
        #[arg(long, value_name = "NAME")]
        to: String,
        #[command(flatten)]
        credential: CredentialOption,
        #[command(flatten)]
        at: At,
    },
    /// Copy a card: the copy counts as the same share.
    Copy {
        #[command(flatten)]
        credential: CredentialOption,
        #[command(flatten)]
        at: At,
    },
    /// Take away what is on a card; refused while too few shares would be left.
    Erase {
        #[command(flatten)]
        credential: CredentialOption,
        #[command(flatten)]
        at: At,
        /// "erase": take away what is on the card.
        #[arg(long, value_name = "TEXT")]
        confirm: Option<String>,
    },
    /// Declare a card lost: it is never taken again, and counts in no quorum.
    Lost {
        /// Its serial, as the list shows it.
        serial: String,
        /// Which of its credentials, where it has several.
        #[arg(long, value_name = "backup|user|admin", hide_possible_values = true)]
        credential: Option<CredentialWord>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum BackupVerb {
    /// Make the backup key and its cards, and bring its derived keys into the slots that are open.
    ///
    /// Each share goes to a different person, who sets a PIN on the keypad. Nothing counts before
    /// every card was read back and two different quorums gave the key.
    CreateSet {
        #[command(flatten)]
        set: NewSet,
        /// A slot that does not get the key now. May be given several times.
        #[arg(long, value_name = "SLOT")]
        leave_out: Vec<String>,
        #[command(flatten)]
        at: At,
    },
    /// Read cards of the backup key, each alone; with M of them the key is compared.
    ///
    /// Nothing is imported. Each good card counts as verified today.
    VerifySet {
        #[command(flatten)]
        at: At,
    },
    /// Bring the derived keys into slots that lack them, with M cards.
    RestoreKey {
        /// Only into this slot; without it into every slot that is open.
        #[arg(long, value_name = "NAME")]
        slot: Option<String>,
        /// The key id (32 hexadecimal digits) from a transcript, where this appliance knows no set.
        #[arg(long, value_name = "HEX", value_parser = key_id)]
        key_id: Option<[u8; 16]>,
        #[command(flatten)]
        at: At,
    },
    /// Make other cards of the same backup key, with M of the old ones.
    ///
    /// The old cards still open old and future exports, until `backup rotate`.
    ReplaceSet {
        #[command(flatten)]
        set: NewSet,
        #[command(flatten)]
        at: At,
    },
    /// Make another backup key with cards of its own; keep the old cards for older exports.
    Rotate {
        #[command(flatten)]
        set: NewSet,
        /// A slot that does not get the key now. May be given several times.
        #[arg(long, value_name = "SLOT")]
        leave_out: Vec<String>,
        #[command(flatten)]
        at: At,
    },
    /// Write every key that can leave into a protected export, each wrapped in the HSM.
    ///
    /// FILE appears when it is whole, or not at all. Whoever brings M cards restores from it; at security level
    /// `passphrase` whoever knows its passphrase, which is asked for twice.
    Export {
        /// Where to; it must not exist yet.
        file: PathBuf,
        /// A slot. May be given several times; without it every slot that is active.
        #[arg(long, value_name = "NAME")]
        slot: Vec<String>,
        /// A key that cannot leave and stays behind, as SLOT/KEY: its label, or id:HEX. May be given
        /// several times.
        #[arg(long, value_name = "SLOT/KEY")]
        without: Vec<String>,
        #[command(flatten)]
        passphrase: PassphraseSource,
    },
    /// See with M cards, or with its passphrase, what a protected export would import into a slot.
    ///
    /// Every key is unwrapped and compared, and none stays: `backup import` makes them afterwards.
    Restore {
        /// The file.
        file: PathBuf,
        /// Into which slot.
        #[arg(long, value_name = "NAME")]
        slot: String,
        /// Which section of the file, by the name of its slot; without it the one of that name, or the only one.
        #[arg(long, value_name = "NAME")]
        section: Option<String>,
        #[command(flatten)]
        passphrase: PassphraseSource,
        #[command(flatten)]
        at: At,
    },
    /// Make the keys that a prepared restore calls new; a power cut changes nothing about it.
    Import {
        /// Into which slot.
        slot: String,
        /// "import": make them without a question.
        #[arg(long, value_name = "TEXT")]
        confirm: Option<String>,
    },
    /// Give a prepared restore up; nothing of it stays in the token.
    EndRestore,
    /// Give up an import that began and cannot end: of a restore, or of a package of the cluster.
    ///
    /// What it made stays in the tokens, each key whole. First mend the cause that `slotwarden status` shows, if it can
    /// be: the import then goes on by itself. Until it ended or was given up no other export or import begins.
    Abandon {
        /// "abandon": give it up without a question.
        #[arg(long, value_name = "TEXT")]
        confirm: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum CeremonyVerb {
    /// Show the transcript of a ceremony; without ID of the last one, or what is under way.
    Show {
        /// Which, by the 16 hexadecimal digits that its command printed.
        id: Option<String>,
    },
    /// Follow the ceremony under way until it ends, and answer what it asks.
    Watch,
    /// Answer what the ceremony asks.
    Answer {
        /// The answer.
        answer: YesNo,
        /// "last try": have the PIN typed although one more wrong one blocks the card.
        #[arg(long, value_name = "TEXT")]
        confirm: Option<String>,
    },
    /// End the ceremony; what was in force before stays in force.
    Cancel {
        /// Which; without it the one under way.
        id: Option<String>,
    },
}

/// Where the passphrase of an export comes from; without it the terminal asks.
#[derive(Args, Debug)]
pub(super) struct PassphraseSource {
    /// A file with the passphrase as one line, at security level `passphrase`: 14 to 80 printable characters.
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_fd")]
    passphrase_file: Option<PathBuf>,
    /// An open descriptor with the passphrase as one line.
    #[arg(long, value_name = "FD")]
    passphrase_fd: Option<u32>,
}

impl PassphraseSource {
    pub(super) fn source(&self) -> Source {
        Source { file: self.passphrase_file.clone(), descriptor: self.passphrase_fd }
    }
}

/// Who gets the cards of a new set.
#[derive(Args, Debug)]
pub(super) struct NewSet {
    /// How many cards bring the key back: 2 to N.
    #[arg(short, value_name = "M")]
    pub(super) m: u8,
    /// How many cards there are: at most 16.
    #[arg(short, value_name = "N")]
    pub(super) n: u8,
    /// To whom each card goes: N different persons of the configuration. In single-person mode
    /// nobody need be named; the set is then shown as not under split knowledge.
    #[arg(long, value_name = "NAME,NAME", value_delimiter = ',')]
    pub(super) holders: Vec<String>,
}

/// At which readers.
#[derive(Args, Debug, Default)]
pub(super) struct At {
    /// The reader: its name, a part of it that no other has, or its number; without it the first
    /// that can be used.
    #[arg(long, value_name = "NAME")]
    reader: Option<String>,
    /// The reader for what is written, where cards are read at another.
    #[arg(long, value_name = "NAME")]
    target_reader: Option<String>,
    /// Overwrite whatever is on the cards that are written, without asking.
    #[arg(long)]
    overwrite: bool,
}

impl From<At> for wire::At {
    fn from(At { reader, target_reader, overwrite }: At) -> Self {
        wire::At { reader, target: target_reader, overwrite }
    }
}

/// Which credential of a card.
#[derive(Args, Debug)]
pub(super) struct CredentialOption {
    /// What on the card: the share of the backup key, the user of a slot, or the HSM
    /// administrator.
    #[arg(
        long,
        value_name = "backup|user|admin",
        default_value = "backup",
        hide_default_value = true,
        hide_possible_values = true
    )]
    credential: CredentialWord,
}

impl CredentialOption {
    pub(super) fn credential(&self) -> Credential {
        self.credential.into()
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum CredentialWord {
    /// A share of the backup key.
    Backup,
    /// A user of a slot.
    User,
    /// The HSM administrator.
    Admin,
}

impl From<CredentialWord> for Credential {
    fn from(word: CredentialWord) -> Self {
        match word {
            CredentialWord::Backup => Credential::BackupShare,
            CredentialWord::User => Credential::SlotUser,
            CredentialWord::Admin => Credential::HsmAdministrator,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum YesNo {
    /// Yes.
    Yes,
    /// No.
    No,
}

fn key_id(text: &str) -> Result<[u8; 16], String> {
    crate::audit::unhex(&text.to_ascii_lowercase()).ok_or_else(|| "32 hexadecimal digits are wanted".to_owned())
}
