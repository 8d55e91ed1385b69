//! What happened in a ceremony, one sentence for each kind of event. The rendered list is
//! `tests/golden/ceremony_words.md`.

use slotwarden_core::audit::CeremonyEnd;
use slotwarden_core::card::ProfileId;
use slotwarden_core::card::session::{CardProblem, HeldCard, PadEnd, SessionReport};
use slotwarden_core::card::sets::{Fate, Standing};
use slotwarden_core::ceremony::event::{CardFacts, SoPinEnd};
use slotwarden_core::ceremony::{CeremonyEvent, Judged, Question, State};
use slotwarden_core::share::record::RecordProblem;

use super::Named;
use crate::audit::hex;
use crate::problem::Problem;

/// What happened. `state`: in which the ceremony was, for what only it tells.
pub(super) fn event_words(event: &CeremonyEvent, state: Option<State>, named: Named<'_>) -> String {
    match event {
        CeremonyEvent::Begin => "its first step begins".to_owned(),
        CeremonyEvent::Drawn(Ok(())) => "random halves were drawn from two sources".to_owned(),
        CeremonyEvent::Drawn(Err(fault)) => format!("no random halves could be drawn: {}", Problem::from(*fault)),
        CeremonyEvent::Made(Ok(made)) => format!("set {} of key {} was made", hex(&made.set_id), hex(&made.key_id)),
        CeremonyEvent::Made(Err(fault)) => format!("no set could be made: {}", Problem::from(*fault)),
        CeremonyEvent::Identified(reader, card, facts) => {
            format!("a card is at {}: {}", named.reader(*reader), card_words(card, facts))
        }
        CeremonyEvent::RecordRead(_, Ok(record), standing) => {
            let header = record.header;
            let standing = standing.map_or("nothing is known of its set", standing_words);
            format!("share {} of {} was read, its signature is good; {standing}", header.x, header.n)
        }
        CeremonyEvent::RecordRead(_, Err(problem), _) => record_problem(*problem).to_owned(),
        CeremonyEvent::Reported(reader, report) => report_words(*report, &named.reader(*reader)),
        CeremonyEvent::ShareReady(Some(record)) => {
            format!("share {} of {} was computed and signed", record.header.x, record.header.n)
        }
        CeremonyEvent::ShareReady(None) => "no share could be computed".to_owned(),
        CeremonyEvent::Verdict(right) => verdict_words(state, *right).to_owned(),
        CeremonyEvent::RestoreRefused(refusal) => format!("nothing can be restored: {}", Problem::from(*refusal)),
        CeremonyEvent::FileChecked(Ok(true)) => "every MAC of the file is of this key".to_owned(),
        CeremonyEvent::FileChecked(Ok(false)) => {
            "a MAC of the file is not of this key: it was altered or forged".to_owned()
        }
        CeremonyEvent::FileChecked(Err(fault)) => format!("the file could not be checked: {}", Problem::from(*fault)),
        CeremonyEvent::KeysPut(slot, Ok(())) => {
            format!("the token of {} has the derived keys, read back and checked", named.names.slot_name(*slot))
        }
        CeremonyEvent::KeysPut(slot, Err(fault)) => {
            format!(
                "the token of {} does not have the derived keys: {}",
                named.names.slot_name(*slot),
                Problem::from(*fault)
            )
        }
        CeremonyEvent::SoPinSet(Ok(())) => "the token has the SO PIN of the new cards".to_owned(),
        CeremonyEvent::SoPinSet(Err(SoPinEnd::Refused(refusal))) => {
            format!("the SO PIN was not changed: {}", Problem::from(*refusal))
        }
        CeremonyEvent::SoPinSet(Err(SoPinEnd::OldOrNew(fault))) => {
            format!("nobody knows whether the token has the old SO PIN or the new one: {}", Problem::from(*fault))
        }
        CeremonyEvent::Answered { yes, .. } => {
            let answer = if *yes { "yes" } else { "no" };
            match state {
                Some(State::Asking { question }) => format!("answered {answer}: {}", question_words(question)),
                Some(_) | None => format!("answered {answer}"),
            }
        }
        CeremonyEvent::CancelOrdered { who: Some(_) } => "cancelled it".to_owned(),
        CeremonyEvent::CancelOrdered { who: None } => "the service stopped".to_owned(),
        CeremonyEvent::DeadlinePassed => "nobody went on in time".to_owned(),
    }
}

/// How a ceremony ended.
#[must_use]
pub fn end_words(end: CeremonyEnd) -> String {
    match end {
        CeremonyEnd::Done => "everything was done".to_owned(),
        CeremonyEnd::Delivered => "what the cards gave went to the slot".to_owned(),
        CeremonyEnd::Refused(refusal) => format!("it ended: {}", Problem::from(refusal)),
        CeremonyEnd::Failed(fault) => format!("it failed: {}", Problem::from(fault)),
        CeremonyEnd::Interrupted => "the service ended in the middle of it".to_owned(),
    }
}

/// What a person was asked.
pub(super) const fn question_words(question: Question) -> &'static str {
    match question {
        Question::Overwrite => "may what is on the card be overwritten?",
        Question::LastTry => "one more wrong PIN blocks the card: shall it be typed?",
        Question::Again => "once more?",
        Question::AnotherCard => "is there another card to verify?",
        Question::AnotherCopy => "another copy?",
        Question::AdoptKey => "no set of cards is known here: is the key that these cards name the one that is wanted?",
    }
}

fn card_words(card: &HeldCard, facts: &CardFacts) -> String {
    let profile = match card.profile {
        ProfileId::Iso7816Files => "a card with files",
        ProfileId::OpenPgp => "an OpenPGP card",
    };
    let mut words = profile.to_owned();
    if let Some(tries) = card.tries_left {
        words.push_str(&format!(", {tries} tries left"));
    }
    if let Some(standing) = facts.standing {
        words.push_str(&format!("; {}", standing_words(standing)));
    }
    if facts.lost {
        words.push_str("; it was declared lost");
    }
    if !facts.pin_changed {
        words.push_str("; its PIN was never changed here");
    }
    words
}

const fn standing_words(standing: Standing) -> &'static str {
    match standing {
        Standing::Current => "its set is in force",
        Standing::Next => "its set is being made",
        Standing::Former(Fate::Void) => "its set never came into force",
        Standing::Former(Fate::Superseded) => "its set was replaced by another of the same key",
        Standing::Former(Fate::Rotated) => "its set is of an earlier key",
        Standing::Unknown => "its set is of here and not known",
        Standing::Foreign => "its set is of another cluster or slot",
    }
}

const fn record_problem(problem: RecordProblem) -> &'static str {
    match problem {
        RecordProblem::Missing => "nothing of ours is on the card",
        RecordProblem::NotOurs => "what is on the card is no share",
        RecordProblem::Newer => "the share on the card is of a newer version",
        RecordProblem::Malformed => "the share on the card is malformed",
        RecordProblem::Forged => "the share on the card was altered or forged: its signature is wrong",
    }
}

fn report_words(report: SessionReport, reader: &str) -> String {
    match report {
        SessionReport::Identified(_) => format!("a card is at {reader}"),
        SessionReport::PinAccepted => "the PIN typed on the pad was accepted".to_owned(),
        SessionReport::PinChanged => "the PIN was changed on the pad".to_owned(),
        SessionReport::PinWrong { left: Some(left) } => {
            format!("the PIN typed on the pad was wrong; {left} tries left")
        }
        SessionReport::PinWrong { left: None } => "the PIN typed on the pad was wrong".to_owned(),
        SessionReport::PinBlocked => "the PIN is blocked".to_owned(),
        SessionReport::PadEnded(PadEnd::TimedOut) => "nobody typed on the pad in time; no try was spent".to_owned(),
        SessionReport::PadEnded(PadEnd::Cancelled) => "somebody pressed cancel on the pad; no try was spent".to_owned(),
        SessionReport::PadEnded(PadEnd::Mismatch) => {
            "the two new PINs were not the same; nothing was changed".to_owned()
        }
        SessionReport::PadEnded(PadEnd::Length) => "the PIN was too short or too long; nothing was changed".to_owned(),
        SessionReport::PinOldOrNew => "the card was interrupted: it has the old PIN or the new one".to_owned(),
        SessionReport::RecordRead(Ok(record)) => format!("share {} was read", record.header.x),
        SessionReport::RecordRead(Err(problem)) => record_problem(problem).to_owned(),
        SessionReport::Written => "the share was written and read back".to_owned(),
        SessionReport::Erased => "what was on the card is gone".to_owned(),
        SessionReport::Removed => format!("the card was taken out of {reader}"),
        SessionReport::Cancelled => "the step at the reader was ended".to_owned(),
        SessionReport::Failed(problem) => failed_words(problem, reader),
    }
}

fn failed_words(problem: CardProblem, reader: &str) -> String {
    match problem {
        CardProblem::ReaderGone => format!("{reader} is gone"),
        CardProblem::NotInserted => "nobody inserted a card in time".to_owned(),
        CardProblem::NotRemoved => "nobody took the card out in time".to_owned(),
        CardProblem::CardGone => "the card was pulled in the middle of a step; nothing was changed on it".to_owned(),
        CardProblem::TornWrite => {
            "the card was interrupted while it was written: it has what was there, the new share, or nothing".to_owned()
        }
        CardProblem::InUse => "another program holds the card".to_owned(),
        CardProblem::UnknownCard => "no card that we know how to use".to_owned(),
        CardProblem::NoSerial => "the card does not say its serial number".to_owned(),
        CardProblem::ReadBackDiffers => "the card gave back something else than was written".to_owned(),
        CardProblem::Status(word) => format!("the card answered {word:04X}"),
        CardProblem::Transport => "the card or its reader failed".to_owned(),
        CardProblem::Unanswered => format!("{reader} does not answer"),
        CardProblem::NotNow => format!("{reader} was still doing something else"),
    }
}

const fn verdict_words(state: Option<State>, right: bool) -> &'static str {
    let Some(State::Judging { what }) = state else {
        return if right { "what was computed is right" } else { "what was computed is wrong" };
    };
    match (what, right) {
        (Judged::ReadBack, true) => "what was read back is what was written",
        (Judged::ReadBack, false) => "what was read back is not what was written",
        (Judged::Secret, true) => "the cards gave the key that they name",
        (Judged::Secret, false) => "the cards did not give the key that they name; what they gave was wiped",
        (Judged::Rehearsal, true) => "two different quorums of the new cards gave the key",
        (Judged::Rehearsal, false) => "the new cards did not give the key",
        (Judged::PresentPin, true) => "the PIN that the cards give was derived",
        (Judged::NewPin, true) => "the PIN that the new cards give was derived",
        (Judged::PresentPin | Judged::NewPin, false) => "no PIN could be derived for the token",
        (Judged::Set | Judged::Share, true) => "what was computed is right",
        (Judged::Set | Judged::Share, false) => "what was computed is wrong",
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use slotwarden_core::card::{CardSerial, ReaderId};
    use slotwarden_core::ceremony::event::MadeSet;
    use slotwarden_core::effect::SlotId;
    use slotwarden_core::fault::{Fault, Refusal};
    use slotwarden_core::person::PersonId;
    use slotwarden_core::share::record::{ShareHeader, ShareKind, SignedHeader};
    use slotwarden_core::status::{CeremonyStatus, CeremonyWait};

    use super::*;
    use crate::ceremony_words;
    use crate::devices::ReaderView;
    use crate::names::{Names, SlotName};
    use crate::status_json::view_of_ceremony;
    use crate::token_uri::TokenUri;

    fn names() -> Names {
        let token = TokenUri { label: None, serial: None };
        Names {
            slots: vec![SlotName { name: "ca-root".into(), token }],
            numbered: vec![("alice".into(), PersonId(1)), ("bob".into(), PersonId(2))],
            ..Names::default()
        }
    }

    fn readers() -> [ReaderView; 1] {
        [ReaderView { number: Some(0), name: "Front Pad".into(), present: true, card: true, reason: None }]
    }

    fn record() -> SignedHeader {
        let header = ShareHeader {
            kind: ShareKind::BackupKey,
            set_id: [1; 16],
            subject: [2; 16],
            m: 2,
            n: 3,
            x: 2,
            generation: 4,
            created_s: 0,
            key_id: [3; 16],
        };
        SignedHeader { header, public_key: [4; 32], signature: [5; 64] }
    }

    fn events() -> Vec<CeremonyEvent> {
        let reader = ReaderId(0);
        let serial = CardSerial::new(&[0xD2, 0x76]).expect("a serial");
        let card = |profile, tries_left| HeldCard { profile, serial, tries_left, place: None, header: None };
        let known = CardFacts { holder: Some(PersonId(1)), pin_changed: true, ..CardFacts::default() };
        let standings = [
            Standing::Current,
            Standing::Next,
            Standing::Former(Fate::Void),
            Standing::Former(Fate::Superseded),
            Standing::Former(Fate::Rotated),
            Standing::Unknown,
            Standing::Foreign,
        ];
        let problems = [
            RecordProblem::Missing,
            RecordProblem::NotOurs,
            RecordProblem::Newer,
            RecordProblem::Malformed,
            RecordProblem::Forged,
        ];
        let reports = [
            SessionReport::PinAccepted,
            SessionReport::PinChanged,
            SessionReport::PinWrong { left: Some(2) },
            SessionReport::PinWrong { left: None },
            SessionReport::PinBlocked,
            SessionReport::PadEnded(PadEnd::TimedOut),
            SessionReport::PadEnded(PadEnd::Cancelled),
            SessionReport::PadEnded(PadEnd::Mismatch),
            SessionReport::PadEnded(PadEnd::Length),
            SessionReport::PinOldOrNew,
            SessionReport::Written,
            SessionReport::Erased,
            SessionReport::Removed,
            SessionReport::Cancelled,
        ];
        let failures = [
            CardProblem::ReaderGone,
            CardProblem::NotInserted,
            CardProblem::NotRemoved,
            CardProblem::CardGone,
            CardProblem::TornWrite,
            CardProblem::InUse,
            CardProblem::UnknownCard,
            CardProblem::NoSerial,
            CardProblem::ReadBackDiffers,
            CardProblem::Status(0x6A84),
            CardProblem::Transport,
            CardProblem::Unanswered,
            CardProblem::NotNow,
        ];
        let mut events = vec![
            CeremonyEvent::Begin,
            CeremonyEvent::Drawn(Ok(())),
            CeremonyEvent::Drawn(Err(Fault::RandomStuck)),
            CeremonyEvent::Made(Ok(MadeSet { set_id: [1; 16], key_id: [3; 16] })),
            CeremonyEvent::Made(Err(Fault::RandomUnavailable)),
            CeremonyEvent::Identified(reader, card(ProfileId::OpenPgp, Some(3)), known),
            CeremonyEvent::Identified(reader, card(ProfileId::Iso7816Files, None), CardFacts::default()),
            CeremonyEvent::Identified(reader, card(ProfileId::OpenPgp, None), CardFacts { lost: true, ..known }),
        ];
        events.extend(standings.map(|standing| CeremonyEvent::RecordRead(reader, Ok(record()), Some(standing))));
        events.extend(problems.map(|problem| CeremonyEvent::RecordRead(reader, Err(problem), None)));
        events.extend(reports.map(|report| CeremonyEvent::Reported(reader, report)));
        events.extend(failures.map(|problem| CeremonyEvent::Reported(reader, SessionReport::Failed(problem))));
        events.extend([
            CeremonyEvent::ShareReady(Some(record())),
            CeremonyEvent::ShareReady(None),
            CeremonyEvent::KeysPut(SlotId(0), Ok(())),
            CeremonyEvent::KeysPut(SlotId(0), Err(Fault::TokenGone)),
            CeremonyEvent::SoPinSet(Ok(())),
            CeremonyEvent::SoPinSet(Err(SoPinEnd::Refused(Refusal::SoPinWrong))),
            CeremonyEvent::SoPinSet(Err(SoPinEnd::OldOrNew(Fault::TokenGone))),
            CeremonyEvent::CancelOrdered { who: Some(PersonId(1)) },
            CeremonyEvent::CancelOrdered { who: None },
            CeremonyEvent::DeadlinePassed,
        ]);
        events
    }

    /// What each wait, event, verdict and end is told as. The file is what people review.
    #[test]
    fn every_wait_and_every_event_of_a_ceremony_has_its_words() {
        let (names, readers) = (names(), readers());
        let named = Named { names: &names, readers: &readers };
        let mut text = String::from(
            "# What people read of a ceremony\n\nWritten by a test (`SLOTWARDEN_GOLDEN=write`).\n\n## Waits\n\n",
        );
        let questions = [
            Question::Overwrite,
            Question::LastTry,
            Question::Again,
            Question::AnotherCard,
            Question::AnotherCopy,
            Question::AdoptKey,
        ];
        let waits = [
            CeremonyWait::Insert,
            CeremonyWait::Pin,
            CeremonyWait::NewPin,
            CeremonyWait::Read,
            CeremonyWait::Write,
            CeremonyWait::Remove,
            CeremonyWait::Hsm,
            CeremonyWait::Computing,
            CeremonyWait::End,
        ];
        for wait in waits.into_iter().chain(questions.map(CeremonyWait::Answer)) {
            for (who, x, serial) in [(Some(PersonId(1)), Some(2), CardSerial::new(&[0xD2, 0x76])), (None, None, None)] {
                let status = CeremonyStatus {
                    id: slotwarden_core::ceremony::CeremonyId([0xAB; 8]),
                    command: slotwarden_core::command::CommandKind::CreateSet,
                    slot: None,
                    starter: PersonId(2),
                    step: 2,
                    steps: 3,
                    wait,
                    who,
                    reader: ReaderId(0),
                    x,
                    serial,
                    tries_left: Some(1),
                    key_id: Some([0x5A; 16]),
                    seconds_left: Some(59),
                    last: None,
                    human_steps: 0,
                    changes: 0,
                };
                let view = view_of_ceremony(&status, &names, &readers);
                let left = ceremony_words::left(&view, view.seconds_left);
                let _ = writeln!(text, "- {}{left}", ceremony_words::wait(&view));
            }
        }
        text.push_str("\n## Events\n\n");
        for event in events() {
            let _ = writeln!(text, "- {}", event_words(&event, None, named));
        }
        text.push_str("\n## Verdicts\n\n");
        let judged = [
            Judged::Set,
            Judged::Share,
            Judged::ReadBack,
            Judged::Secret,
            Judged::Rehearsal,
            Judged::PresentPin,
            Judged::NewPin,
        ];
        for what in judged {
            for right in [true, false] {
                let state = Some(State::Judging { what });
                let _ = writeln!(text, "- {}", event_words(&CeremonyEvent::Verdict(right), state, named));
            }
        }
        text.push_str("\n## Answers\n\n");
        for question in questions {
            let answered = CeremonyEvent::Answered { who: PersonId(1), yes: question == Question::Again };
            let _ = writeln!(text, "- {}", event_words(&answered, Some(State::Asking { question }), named));
        }
        text.push_str("\n## Ends\n\n");
        let ends = [
            CeremonyEnd::Done,
            CeremonyEnd::Delivered,
            CeremonyEnd::Refused(Refusal::CeremonyCancelled),
            CeremonyEnd::Failed(Fault::TokenGone),
            CeremonyEnd::Interrupted,
        ];
        for end in ends {
            let _ = writeln!(text, "- {}", end_words(end));
        }
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/ceremony_words.md");
        if std::env::var_os("SLOTWARDEN_GOLDEN").is_some_and(|value| value == "write") {
            std::fs::write(path, &text).expect("the golden file is writable");
        }
        let golden = std::fs::read_to_string(path).expect("the golden file is in the repository");
        assert_eq!(text, golden, "after a review write it with SLOTWARDEN_GOLDEN=write");
    }
}
