//! The verbs about cards and the backup key.

use slotwarden_core::card::Credential;

use super::CONFIRM_ERASE;
use super::arguments::Confirm;
use super::card_arguments::{At, BackupVerb, CardVerb, NewSet};
use super::meaning;
use super::session::{Session, typed};
use crate::client::Refused;
use crate::output;
use crate::problem::{EXIT_DONE, Own, Problem};
use crate::secret;
use crate::status_json::{CardsView, credential_word};
use crate::wire::{Answered, Ask, CardTask, Order};

impl Session {
    pub(super) fn card_verb(&self, verb: CardVerb) -> Result<u8, Refused> {
        match verb {
            CardVerb::List => {
                output::cards(self.format, &self.cards()?);
                Ok(EXIT_DONE)
            }
            CardVerb::Info { serial } => {
                let found = of_serial(&self.cards()?, &serial)?;
                output::card(self.format, &found);
                Ok(EXIT_DONE)
            }
            CardVerb::ChangePin { credential, at } => {
                let task = CardTask::ChangePin { credential: credential.credential() };
                self.cards_begin(task, at, "the PIN of the card is changed")
            }
            CardVerb::Reassign { to, credential, at } => {
                let done = format!("the card is {to}'s");
                self.cards_begin(CardTask::Reassign { credential: credential.credential(), to }, at, &done)
            }
            CardVerb::Copy { credential, at } => {
                self.cards_begin(CardTask::Copy { credential: credential.credential() }, at, "the card is copied")
            }
            CardVerb::Erase { credential, at, confirm } => {
                let mut confirmed = Confirm { confirm }.is(CONFIRM_ERASE)?;
                if !confirmed && secret::on_terminal() {
                    output::aside("What is on the card is gone for good afterwards.");
                    typed(&format!("Type `{CONFIRM_ERASE}` to go on: "), CONFIRM_ERASE)?;
                    confirmed = true;
                }
                let task = CardTask::Erase { credential: credential.credential(), confirmed };
                self.cards_begin(task, at, "what was on the card is gone")
            }
            CardVerb::Lost { serial, credential } => {
                let credential = match credential {
                    Some(credential) => credential.into(),
                    None => self.only_credential(&serial)?,
                };
                self.order(|_| Order::CardLost { serial: serial.clone(), credential }, true, &[])?;
                if let Some(backup) = self.status().ok().and_then(|status| status.backup) {
                    backup.warnings.iter().for_each(|warning| output::aside(&format!("WARNING: {warning}")));
                }
                self.done(&format!("card {serial} is declared lost"))
            }
        }
    }

    pub(super) fn backup_verb(&self, verb: BackupVerb) -> Result<u8, Refused> {
        match verb {
            BackupVerb::CreateSet { set: NewSet { m, n, holders }, leave_out, at } => {
                meaning::warn_of_set(m, n);
                self.cards_begin(CardTask::CreateSet { m, n, holders, leave_out }, at, "the backup key is made")
            }
            BackupVerb::VerifySet { at } => self.cards_begin(CardTask::VerifySet, at, "the cards are verified"),
            BackupVerb::RestoreKey { slot, key_id, at } => {
                let done = "the derived keys are in place, `slotwarden slot list` says where";
                self.cards_begin(CardTask::RestoreKey { slot, key_id }, at, done)
            }
            BackupVerb::ReplaceSet { set: NewSet { m, n, holders }, at } => {
                meaning::warn_of_set(m, n);
                output::aside(
                    "The old cards still open old and future exports until you rotate (`slotwarden backup rotate`).",
                );
                self.cards_begin(CardTask::ReplaceSet { m, n, holders }, at, "the new cards are in force")
            }
            BackupVerb::Rotate { set: NewSet { m, n, holders }, leave_out, at } => {
                meaning::warn_of_set(m, n);
                output::aside("Keep the old cards: only they open what was exported before.");
                self.cards_begin(CardTask::Rotate { m, n, holders, leave_out }, at, "the new backup key is in force")
            }
            BackupVerb::Export { file, slot, without, passphrase } => self.export(&file, slot, without, &passphrase),
            BackupVerb::Restore { file, slot, section, passphrase, at } => {
                self.restore(&file, slot, section, &passphrase, at)
            }
            BackupVerb::Import { slot, confirm } => self.import(&slot, confirm),
            BackupVerb::EndRestore => {
                self.order(|_| Order::EndRestore, true, &[])?;
                self.done("the restore is given up; nothing of it is in the token")
            }
            BackupVerb::Abandon { confirm } => self.abandon(confirm),
        }
    }

    pub(super) fn cards_begin(&self, task: CardTask, at: At, done: &str) -> Result<u8, Refused> {
        self.begin(Order::Cards { task, at: at.into() }, done)
    }

    fn cards(&self) -> Result<CardsView, Refused> {
        match self.client.ask(Ask::Cards, &[])? {
            Answered::Cards(cards) => Ok(cards),
            _ => Err(Own::OtherVersion.into()),
        }
    }

    /// The one credential that is known of a card.
    fn only_credential(&self, serial: &str) -> Result<Credential, Refused> {
        let found = of_serial(&self.cards()?, serial)?;
        let [only] = found.cards.as_slice() else {
            let words: Vec<&str> = found.cards.iter().map(|card| card.credential.as_str()).collect();
            return Err(Own::CredentialUnclear.with(words.join(", ")).into());
        };
        let credential = Credential::ALL.into_iter().find(|found| credential_word(*found) == only.credential);
        credential.ok_or_else(|| Own::OtherVersion.into())
    }
}

/// What is known of the card with this serial.
fn of_serial(all: &CardsView, serial: &str) -> Result<CardsView, Problem> {
    let plain = |text: &str| text.replace([' ', ':'], "").to_ascii_uppercase();
    let wanted = plain(serial);
    let cards: Vec<_> = all.cards.iter().filter(|card| plain(&card.serial) == wanted).cloned().collect();
    if cards.is_empty() {
        return Err(Problem::from(slotwarden_core::Refusal::UnknownCard).with(serial));
    }
    Ok(CardsView { cards, ..all.clone() })
}
