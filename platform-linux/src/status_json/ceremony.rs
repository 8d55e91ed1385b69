//! A ceremony as scripts and the live view see it.

use serde::{Deserialize, Serialize};
use slotwarden_core::audit::CeremonyEnd;
use slotwarden_core::ceremony::{CeremonyId, Question};
use slotwarden_core::command::CommandKind;
use slotwarden_core::status::{CeremonyStatus, CeremonyWait};

use super::Told;
use crate::audit::hex;
use crate::devices::ReaderView;
use crate::names::Names;
use crate::operation;
use crate::problem::Problem;
use crate::transcript::reader_name;

/// What a ceremony waits for, live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CeremonyView {
    /// Names it, and commits to everything that was ordered.
    pub id: String,
    /// What was ordered: `create-set`, `copy-card`, …
    pub command: String,
    /// About which slot.
    pub slot: Option<String>,
    /// Who began it.
    pub starter: String,
    /// The step it is at, counted from 1.
    pub step: u8,
    /// Of how many, when nothing goes wrong.
    pub steps: u8,
    /// What is wanted now: `insert`, `pin`, `new-pin`, `read`, `write`, `remove`, `answer`, `hsm`,
    /// `computing`, `end`.
    pub wait: String,
    /// What is asked: `overwrite`, `last-try`, `again`, `another-card`, `another-copy`,
    /// `adopt-key`.
    pub question: Option<String>,
    /// Who is wanted, where that is known.
    pub who: Option<String>,
    /// At which reader, by its PC/SC name.
    pub reader: String,
    /// Which share is being written.
    pub share: Option<u8>,
    /// The serial of the card that is there, hexadecimal.
    pub card: Option<String>,
    /// Tries that its PIN has left, where the card says.
    pub tries_left: Option<u8>,
    /// The id of the key that the cards name which were read so far, hexadecimal.
    pub key_id: Option<String>,
    /// Seconds until the wait ends by itself.
    pub seconds_left: Option<u32>,
    /// Why the last card or PIN did not do.
    pub last: Option<Told>,
    /// What people did so far: cards inserted and taken out, PINs typed, questions answered.
    pub human_steps: u16,
    /// Rises with each change.
    pub changes: u32,
}

/// How the last ceremony ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastCeremonyView {
    /// Names it.
    pub id: String,
    /// What was ordered.
    pub command: String,
    /// `done`, `delivered` (to the slot), `refused`, `failed`, `interrupted`.
    pub end: String,
    /// Why, where it was refused or failed.
    pub problem: Option<Told>,
}

/// A ceremony with names instead of numbers.
#[must_use]
pub fn view_of_ceremony(status: &CeremonyStatus, names: &Names, readers: &[ReaderView]) -> CeremonyView {
    let (wait, question) = match status.wait {
        CeremonyWait::Insert => ("insert", None),
        CeremonyWait::Pin => ("pin", None),
        CeremonyWait::NewPin => ("new-pin", None),
        CeremonyWait::Read => ("read", None),
        CeremonyWait::Write => ("write", None),
        CeremonyWait::Remove => ("remove", None),
        CeremonyWait::Answer(question) => ("answer", Some(question_word(question))),
        CeremonyWait::Hsm => ("hsm", None),
        CeremonyWait::Computing => ("computing", None),
        CeremonyWait::End => ("end", None),
    };
    CeremonyView {
        id: status.id.to_string(),
        command: operation::word(status.command),
        slot: status.slot.map(|slot| names.slot_name(slot)),
        starter: names.person_name(status.starter),
        step: status.step,
        steps: status.steps,
        wait: wait.to_owned(),
        question: question.map(str::to_owned),
        who: status.who.map(|who| names.person_name(who)),
        reader: reader_name(readers, status.reader),
        share: status.x,
        card: status.serial.map(|serial| serial.to_string()),
        tries_left: status.tries_left,
        key_id: status.key_id.map(|id| hex(&id)),
        seconds_left: status.seconds_left,
        last: status.last.map(|refusal| Problem::from(refusal).into()),
        human_steps: status.human_steps,
        changes: status.changes,
    }
}

pub(super) fn last_view((id, command, end): (CeremonyId, CommandKind, CeremonyEnd)) -> LastCeremonyView {
    let (word, problem) = end_word(end);
    LastCeremonyView {
        id: id.to_string(),
        command: operation::word(command),
        end: word.to_owned(),
        problem: problem.map(Told::from),
    }
}

/// How a ceremony ended, in a word, and why.
#[must_use]
pub fn end_word(end: CeremonyEnd) -> (&'static str, Option<Problem>) {
    match end {
        CeremonyEnd::Done => ("done", None),
        CeremonyEnd::Delivered => ("delivered", None),
        CeremonyEnd::Refused(refusal) => ("refused", Some(refusal.into())),
        CeremonyEnd::Failed(fault) => ("failed", Some(fault.into())),
        CeremonyEnd::Interrupted => ("interrupted", None),
    }
}

const fn question_word(question: Question) -> &'static str {
    match question {
        Question::Overwrite => "overwrite",
        Question::LastTry => "last-try",
        Question::Again => "again",
        Question::AnotherCard => "another-card",
        Question::AnotherCopy => "another-copy",
        Question::AdoptKey => "adopt-key",
    }
}
