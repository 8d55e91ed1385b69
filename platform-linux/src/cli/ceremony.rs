//! The ceremony verbs, and how the orders that begin one end.

use slotwarden_core::Refusal;

use super::CONFIRM_LAST_TRY;
use super::arguments::Confirm;
use super::card_arguments::{CeremonyVerb, YesNo};
use super::follow::Secrets;
use super::session::Session;
use crate::client::Refused;
use crate::output::{self, Format};
use crate::problem::{EXIT_DONE, EXIT_ERROR, Own, Problem};
use crate::secret;
use crate::status_json::{LastCeremonyView, SCHEMA};
use crate::wire::{Answered, Ask, Order, TranscriptPage};

impl Session {
    pub(super) fn ceremony_verb(&self, verb: CeremonyVerb) -> Result<u8, Refused> {
        match verb {
            CeremonyVerb::Show { id: Some(id) } => self.show_transcript(&id),
            CeremonyVerb::Show { id: None } => {
                let now = self.ceremony_now()?;
                match (now.ceremony, now.last) {
                    (Some(ceremony), _) => {
                        output::ceremony(self.format, &ceremony);
                        Ok(EXIT_DONE)
                    }
                    (None, Some(last)) => self.show_transcript(&last.id),
                    (None, None) => Err(Problem::from(Refusal::NoCeremony).into()),
                }
            }
            CeremonyVerb::Watch => {
                let ended = self.watch_ceremony()?;
                output::ceremony_ended(self.format, &ended);
                Ok(exit_of(&ended))
            }
            CeremonyVerb::Answer { answer, confirm } => {
                let confirmed = Confirm { confirm }.is(CONFIRM_LAST_TRY)?;
                let ceremony = self.ceremony_now()?.ceremony.ok_or_else(|| Problem::from(Refusal::NoCeremony))?;
                let order =
                    |confirmed| Order::AnswerCeremony { id: ceremony.id.clone(), yes: answer == YesNo::Yes, confirmed };
                self.order(order, confirmed, &[])?;
                self.done("the answer was given")
            }
            CeremonyVerb::Cancel { id } => {
                let id = match id {
                    Some(id) => id,
                    None => self.ceremony_now()?.ceremony.ok_or_else(|| Problem::from(Refusal::NoCeremony))?.id,
                };
                self.order(|_| Order::CancelCeremony { id: id.clone() }, true, &[])?;
                self.done("the ceremony is cancelled; what the reader is doing is waited for")
            }
        }
    }

    /// Gives an order that begins a ceremony, follows it, and says how it ended.
    pub(super) fn begin(&self, order: Order, what: &str) -> Result<u8, Refused> {
        let (ended, _, mut id) = self.order_followed(order, Vec::new());
        // One that was over before the first look: it is the last one that ended.
        if ended.is_ok() && id.is_none() {
            id = self.ceremony_now().ok().and_then(|now| now.last).map(|last| last.id);
        }
        self.name_transcript(id.as_deref(), ended.is_err());
        ended?;
        match self.format {
            Format::Json => output::json(&serde_json::json!({"schema": SCHEMA, "done": what, "ceremony": id})),
            Format::Table => {
                let transcript =
                    id.map_or_else(String::new, |id| format!("; its transcript: `slotwarden ceremony show {id}`"));
                output::line(&format!("{what}{transcript}"));
            }
        }
        Ok(EXIT_DONE)
    }

    /// The same for an order about a slot: its state is said as after every order about one. A last
    /// try that was not confirmed is asked about at the terminal, and the order given again.
    pub(super) fn begin_for_slot(
        &self,
        name: &str,
        order: impl Fn(bool) -> Order,
        confirmed: bool,
        secrets: Secrets,
    ) -> Result<u8, Refused> {
        let (mut ended, secrets, mut id) = self.order_followed(order(confirmed), secrets);
        if let Err(refused) = &ended
            && refused.problem.is(Refusal::LastTryUnconfirmed)
            && !confirmed
            && secret::on_terminal()
        {
            self.ask_last_try(&refused.problem.sentence)?;
            (ended, _, id) = self.order_followed(order(true), secrets);
        }
        self.name_transcript(id.as_deref(), ended.is_err() || self.format == Format::Table);
        self.told(name, ended)
    }

    /// Names the transcript beside the answer.
    pub(super) fn name_transcript(&self, id: Option<&str>, wanted: bool) {
        if let Some(id) = id.filter(|_| wanted && !self.alone) {
            output::aside(&format!("transcript: `slotwarden ceremony show {id}`"));
        }
    }

    fn show_transcript(&self, id: &str) -> Result<u8, Refused> {
        output::transcript(self.format, &self.whole_transcript(id)?);
        Ok(EXIT_DONE)
    }

    /// All pages of a transcript as one.
    fn whole_transcript(&self, id: &str) -> Result<TranscriptPage, Refused> {
        let page = |first| match self.client.ask(Ask::Transcript { id: id.to_owned(), first }, &[])? {
            Answered::Transcript(page) => Ok::<_, Refused>(*page),
            _ => Err(Own::OtherVersion.into()),
        };
        let mut whole = page(0)?;
        while let Ok(first) = u16::try_from(whole.lines.len()) {
            if u32::from(first) >= whole.all {
                break;
            }
            let next = page(first)?;
            if next.lines.is_empty() {
                break;
            }
            // A line that came meanwhile may have brought the end with it.
            (whole.all, whole.end) = (next.all, next.end);
            whole.lines.extend(next.lines);
        }
        Ok(whole)
    }
}

/// The exit code of how a ceremony ended.
fn exit_of(ended: &LastCeremonyView) -> u8 {
    match (&ended.problem, ended.end.as_str()) {
        (_, "done" | "delivered") => EXIT_DONE,
        (Some(told), _) => Refusal::ALL
            .iter()
            .find(|refusal| refusal.number() == told.number)
            .map_or(EXIT_ERROR, |refusal| Problem::from(*refusal).exit()),
        (None, _) => EXIT_ERROR,
    }
}
