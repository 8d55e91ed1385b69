//! What people are told when something was not done: number, sentence, remedy.
//!
//! Refusals and faults of the core keep their numbers (1xx to 5xx, from 701 on, `core::fault`). The
//! program has its own, 6xx: the socket, files of secrets, the configuration. The
//! exit code is derived from the class here and nowhere else.

use std::fmt;

use serde::{Deserialize, Serialize};
use slotwarden_core::command::Answer;
use slotwarden_core::fault::{ApplicationFault, Class, Fault, Refusal};

/// Done.
pub const EXIT_DONE: u8 = 0;
/// An error: the order cannot be carried out as it is, or a device failed.
pub const EXIT_ERROR: u8 = 1;
/// Something waits for people.
pub const EXIT_WAITS: u8 = 2;
/// Wrong usage (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;
/// The same order may succeed later (`EX_TEMPFAIL`).
pub const EXIT_LATER: u8 = 75;
/// The person may not (`EX_NOPERM`).
pub const EXIT_NOT_ALLOWED: u8 = 77;
/// The person pressed Ctrl-C (128 + SIGINT, as shells say it).
pub const EXIT_INTERRUPTED: u8 = 130;

/// Every exit code and what it says, as help and manual tell it.
pub const EXITS: [(u8, &str); 7] = [
    (EXIT_DONE, "done; for `status` and `boot`: all slots are active"),
    (EXIT_ERROR, "refused or failed; the message says why and what to do"),
    (EXIT_WAITS, "something waits for people, for example a slot for its code or for more shares of it"),
    (EXIT_USAGE, "wrong usage"),
    (EXIT_LATER, "not now: try again later"),
    (EXIT_NOT_ALLOWED, "you are not allowed to"),
    (EXIT_INTERRUPTED, "interrupted with Ctrl-C"),
];

/// Declares the program's own refusals: number, name, class, sentence, remedy.
macro_rules! own_refusals {
    ($($number:literal $variant:ident $name:literal $class:ident $sentence:literal $remedy:literal;)*) => {
        /// What the program itself refuses, before or beside the core.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Own {
            $(#[doc = $sentence] $variant,)*
        }

        impl Own {
            /// Every one, in the order of the numbers.
            pub const ALL: &'static [Own] = &[$(Own::$variant,)*];

            const fn row(self) -> (u16, &'static str, Class, &'static str, &'static str) {
                match self { $(Own::$variant => ($number, $name, Class::$class, $sentence, $remedy),)* }
            }
        }
    };
}

own_refusals! {
    601 Unreachable "unreachable" Wrong
        "no daemon answers on the control socket" "start it with `systemctl start slotwarden` or `slotwarden daemon`; if it runs, name its configuration with --config FILE";
    602 SocketForbidden "socket-forbidden" NotAllowed
        "you may not open the control socket" "run this as the daemon's user, or have an administrator name your user id in a [[person]] and let you into the socket's directory";
    603 NobodyKnown "nobody-known" NotAllowed
        "your user id belongs to no person of the configuration" "run this as the daemon's user, or have an administrator name your user id in a [[person]] and restart the daemon";
    604 FrameRefused "frame-refused" Wrong
        "what arrived on the control socket was not a request" "use the `slotwarden` of the daemon's version";
    605 OtherVersion "other-version" Wrong
        "this program and the daemon are of different versions" "restart the daemon, or use the program that belongs to it";
    606 TooManyClients "too-many-clients" Later
        "too many clients are connected" "try again when they are answered";
    607 AnswerLost "answer-lost" Later
        "the daemon ended before it answered; the order may have been carried out" "start the daemon again and look with `slotwarden status`";
    608 SecretFileEmpty "secret-file-empty" Wrong
        "the file for a secret is empty" "write the secret into it as one line; nothing was attempted";
    609 SecretFileTooLong "secret-file-too-long" Wrong
        "the file for a secret is longer than 4 KiB" "name a file that holds one line; nothing was attempted";
    610 SecretFileUnreadable "secret-file-unreadable" Wrong
        "the file for a secret cannot be read" "check its path and permissions; nothing was attempted";
    611 NoTerminal "no-terminal" Wrong
        "a secret is needed and there is no terminal to ask on" "give it with --code-file, --new-code-file or --so-pin-file (or the -fd forms)";
    612 SecretsDiffer "secrets-differ" Wrong
        "the two entries differ" "start again; nothing was attempted";
    613 ConfirmationWrong "confirmation-wrong" Wrong
        "the confirmation is not the text that was asked for" "repeat with the text that the refusal names";
    614 ConfigurationUnreadable "configuration-unreadable" Wrong
        "the configuration cannot be read" "name another one with --config FILE, or write it there; you must be allowed to read it";
    615 ConfigurationWrong "configuration-wrong" Wrong
        "the configuration has problems" "`slotwarden check-config` lists them with their remedies";
    616 NotConfirmed "not-confirmed" Wrong
        "you did not confirm" "nothing was changed";
    617 SocketUnusable "socket-unusable" Wrong
        "the control socket cannot be made" "check `socket` in the configuration: the user that the daemon runs as must be able to make its directory and to write there";
    618 AuditBroken "audit-broken" Wrong
        "the audit log is not whole" "keep the file and the store as evidence; compare with an earlier export";
    619 FileUnwritable "file-unwritable" Wrong
        "the file cannot be written" "check its path and permissions, and that it does not exist yet";
    620 FileUnreadable "file-unreadable" Wrong
        "the file cannot be read" "check its path and permissions";
    621 SpawnFailed "spawn-failed" Wrong
        "the daemon could not be started" "start `slotwarden daemon` by hand and read what it says";
    622 TerminalClosed "terminal-closed" Wrong
        "the entry at the terminal ended" "start again; nothing was attempted";
    623 TooSoon "too-soon" Later
        "slots are still being worked on" "ask again in a moment";
    624 StateDirectoryUnusable "state-directory-unusable" Wrong
        "the state directory cannot be used" "check `state_dir` in the configuration; the directory and each file in it must belong to the user that the daemon runs as (once started as root, files of root stay: `chown -R`)";
    625 CheckpointFileWrong "checkpoint-file-wrong" Wrong
        "the file given by --checkpoint is neither a whole export nor lines of checkpoints" "name an earlier export as it was written, or give the number of a record";
    626 UnknownApplication "unknown-application" Wrong
        "no application has this name" "`slotwarden slot show NAME` lists those of the slot";
    640 NeedsApproval "needs-approval" WaitsForPeople
        "this needs a second person; nothing was done yet" "have an approver or another administrator run `slotwarden approve` with this id and read them the code; then give the same order again, within 5 minutes";
    641 ApprovalCodeMissing "approval-code-missing" Wrong
        "the code of the request is needed" "have the person who asked read it to you: `slotwarden approve ID CODE`";
    642 EraseUnconfirmed "erase-unconfirmed" WaitsForPeople
        "this takes away what is on the card, for good" "be sure that nothing needs it, then repeat with --confirm \"erase\"";
    643 NoTranscript "no-transcript" Wrong
        "no ceremony with this id left a transcript here" "`slotwarden ceremony show` names the last one, `slotwarden audit show` those before";
    644 CredentialUnclear "credential-unclear" Wrong
        "the card has several credentials" "name one with --credential";
    645 NoExport "no-export" Wrong
        "no export was made on this appliance yet" "`slotwarden backup export FILE` makes one";
    646 FileRefused "file-refused" Wrong
        "the file is none of ours, or is not whole; nothing was changed" "take another copy of it, or have it made anew";
    647 FileNotSpooled "file-not-spooled" Wrong
        "the file that this is about is not here any more" "begin again with `slotwarden backup restore FILE`";
    649 ImportUnconfirmed "import-unconfirmed" WaitsForPeople
        "this makes the keys of a file in a token" "look at its plan with `slotwarden status`, then repeat with --confirm \"import\"";
    659 AbandonUnconfirmed "abandon-unconfirmed" WaitsForPeople
        "this gives up an import for good; what it made stays in the tokens" "look with `slotwarden status` why it stands still, then repeat with --confirm \"abandon\"";
    660 Replaced "replaced" Later
        "another file took its place while it was fetched; what was fetched was thrown away" "give the order again";
    661 SignedByAnother "signed-by-another" Wrong
        "another node signed it than the one whose key was given" "compare the keys; whoever alters a file has to sign it anew";
    648 SectionUnclear "section-unclear" Wrong
        "it is not clear which section of the file is meant" "`slotwarden verify FILE` lists its sections; name one with --section";
    650 FingerprintMissing "fingerprint-missing" Wrong
        "the fingerprint that the other node shows is needed" "read it there with `slotwarden cluster show` and repeat with --fingerprint FINGERPRINT";
    651 OtherKindOfFile "other-kind-of-file" Wrong
        "the file is whole, and of another kind than this order takes; nothing was changed" "name the file that the detail asks for";
    652 RemoveUnconfirmed "remove-unconfirmed" WaitsForPeople
        "this takes a node out of the cluster" "be sure that it is the right one, then repeat with the text that the detail names";
    655 NoPackage "no-package" Wrong
        "no package was made on this node yet" "`slotwarden sync export FILE` makes one";
    658 SlotsDiffer "slots-differ" Wrong
        "the cluster has a slot that this node does not have" "name a [[slot]] of the same name in the configuration, initialise its token, and join again";
    627 UnknownPerson "unknown-person" Wrong
        "the configuration names no such person" "name persons as their [[person]] does";
}

/// One refusal or fault as it travels and is printed. Nothing secret is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable number.
    pub number: u16,
    /// Stable name, for scripts.
    pub name: String,
    /// What is so.
    pub sentence: String,
    /// What to do about it.
    pub remedy: String,
    /// Particulars: a path, a PKCS#11 code, a line number.
    pub detail: Option<String>,
    /// The class of a refusal; `None`: a device failed.
    pub class: Option<Class>,
}

impl Problem {
    /// The same, with particulars.
    #[must_use]
    pub fn with(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The exit code: the one place where classes become numbers.
    #[must_use]
    pub const fn exit(&self) -> u8 {
        match self.class {
            None | Some(Class::Wrong) => EXIT_ERROR,
            Some(Class::WaitsForPeople) => EXIT_WAITS,
            Some(Class::Later) => EXIT_LATER,
            Some(Class::NotAllowed) => EXIT_NOT_ALLOWED,
        }
    }

    /// Whether this is that refusal of the core.
    #[must_use]
    pub fn is(&self, refusal: Refusal) -> bool {
        self.number == refusal.number()
    }
}

impl Own {
    /// With particulars.
    pub fn with(self, detail: impl Into<String>) -> Problem {
        Problem::from(self).with(detail)
    }
}

impl From<Own> for Problem {
    fn from(own: Own) -> Self {
        let (number, name, class, sentence, remedy) = own.row();
        Problem {
            number,
            name: name.into(),
            sentence: sentence.into(),
            remedy: remedy.into(),
            detail: None,
            class: Some(class),
        }
    }
}

impl From<crate::store::Refused> for Problem {
    fn from(refused: crate::store::Refused) -> Self {
        if refused.forbidden {
            return Own::StateDirectoryUnusable.with(refused.detail);
        }
        Problem::from(refused.refusal).with(refused.detail)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Problem {
            number: refusal.number(),
            name: refusal.name().into(),
            sentence: refusal.sentence().into(),
            remedy: refusal.remedy().into(),
            detail: None,
            class: Some(refusal.class()),
        }
    }
}

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        Problem {
            number: fault.number(),
            name: fault.name().into(),
            sentence: fault.sentence().into(),
            remedy: fault.remedy().into(),
            detail: fault_detail(fault),
            class: None,
        }
    }
}

/// Whether an order was carried out, as far as one person can; an answer that waits for more
/// people, or shows a share, is no problem.
///
/// # Errors
/// The refusal or fault in it.
pub fn of_answer(answer: Answer) -> Result<(), Problem> {
    match answer {
        // What waits for a second person is told on the wire as an answer of its own.
        Answer::Done | Answer::NeedsApproval { .. } | Answer::Waits(_) | Answer::Share { .. } => Ok(()),
        Answer::Refused(refusal) => Err(refusal.into()),
        Answer::Failed(fault) => Err(fault.into()),
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.sentence)?;
        if let Some(detail) = &self.detail {
            write!(out, " ({detail})")?;
        }
        write!(out, " [{}]", self.number)
    }
}

impl std::error::Error for Problem {}

/// What a fault carries beside its name.
fn fault_detail(fault: Fault) -> Option<String> {
    match fault {
        Fault::Pkcs11 { code, function } => Some(format!("{} returned {code:#010x}", function.name())),
        Fault::Unanswered(function) | Fault::WorkerLost(function) | Fault::ModuleLies(function) => {
            Some(function.name().into())
        }
        Fault::Application(ApplicationFault::Exited(code)) => {
            Some(format!("{}: exit {code}", ApplicationFault::Exited(code).sentence()))
        }
        Fault::Application(what) => Some(what.sentence().into()),
        Fault::Bug(place) => Some(format!("place {place}")),
        Fault::WorkerUnavailable
        | Fault::TokenGone
        | Fault::RandomStuck
        | Fault::RandomUnavailable
        | Fault::SealBroken
        | Fault::StoreFailed
        | Fault::SettleFailed
        | Fault::Zeroized
        | Fault::OutOfMemory => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_the_exit_code_of_the_design() {
        assert_eq!(Problem::from(Refusal::UnknownSlot).exit(), 1);
        assert_eq!(Problem::from(Refusal::SlotBlocked).exit(), 2);
        assert_eq!(Problem::from(Refusal::Busy).exit(), 75);
        assert_eq!(Problem::from(Refusal::NotAllowed).exit(), 77);
        assert_eq!(Problem::from(Fault::TokenGone).exit(), 1);
        for refusal in Refusal::ALL {
            assert!([1, 2, 75, 77].contains(&Problem::from(*refusal).exit()), "{}", refusal.name());
        }
    }

    #[test]
    fn own_numbers_and_names_collide_with_nothing() {
        let mut seen: Vec<(u16, String)> =
            Refusal::ALL.iter().map(|refusal| (refusal.number(), refusal.name().to_owned())).collect();
        for own in Own::ALL {
            let problem = Problem::from(*own);
            assert!(problem.number > 600, "faults end at 599");
            assert!(!problem.sentence.is_empty() && !problem.remedy.is_empty());
            assert!(seen.iter().all(|(number, name)| *number != problem.number && *name != problem.name));
            seen.push((problem.number, problem.name));
        }
    }

    #[test]
    fn a_pkcs11_fault_names_call_and_code() {
        let fault = Fault::Pkcs11 { code: 0x30, function: slotwarden_core::fault::Function::Login };
        assert_eq!(Problem::from(fault).detail.as_deref(), Some("C_Login returned 0x00000030"));
    }
}
