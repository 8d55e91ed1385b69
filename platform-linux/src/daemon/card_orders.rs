//! What orders about cards name: readers, persons, slots, serials, ceremonies. All of it is
//! looked up before a secret of the order is in the Safe, so that a refusal leaves none there.

use slotwarden_core::Refusal;
use slotwarden_core::card::{CardSerial, ReaderId, SERIAL_BYTES_MAX};
use slotwarden_core::ceremony::{CeremonyId, Places, SlotSet, Task};
use slotwarden_core::person::Roster;
use slotwarden_core::share::card_set::CardQuorum;

use super::Loop;
use super::readings::ceremony_id;
use crate::devices::{Applications, Hsm, ReaderView, Store};
use crate::problem::{Own, Problem};
use crate::wire::{At, CardTask, Order};

/// What an order about cards names, as the core takes it.
#[derive(Default)]
pub(super) struct CardPart {
    pub(super) task: Option<Task>,
    pub(super) quorum: Option<CardQuorum>,
    pub(super) serial: Option<CardSerial>,
    pub(super) id: Option<CeremonyId>,
    pub(super) at: Places,
}

impl<H: Hsm, S: Store, A: Applications> Loop<'_, H, S, A> {
    /// What an order names that only orders about cards do. `named`: its persons.
    pub(super) fn card_part(&self, order: &Order, named: Roster) -> Result<CardPart, Problem> {
        let part = CardPart::default();
        match order {
            Order::Cards { task, at } => {
                Ok(CardPart { task: Some(self.task(task, named)?), at: self.places(at)?, ..part })
            }
            Order::SlotCards { k, at, .. } | Order::AdministratorCards { k, at, .. } => {
                let quorum = Some(CardQuorum::new(*k, named.count())?);
                Ok(CardPart { quorum, at: self.places(at)?, ..part })
            }
            Order::BySoCards { at, .. } => Ok(CardPart { at: self.places(at)?, ..part }),
            Order::CardLost { serial, .. } => Ok(CardPart { serial: Some(card_serial(serial)?), ..part }),
            Order::AnswerCeremony { id, .. } | Order::CancelCeremony { id } => {
                let id = ceremony_id(id).map_err(|_| Refusal::NoCeremony)?;
                Ok(CardPart { id: Some(id), ..part })
            }
            Order::Boot
            | Order::Activate { .. }
            | Order::Deactivate { .. }
            | Order::EndCall { .. }
            | Order::Init { .. }
            | Order::ChangeCode { .. }
            | Order::Mode { .. }
            | Order::Unblock { .. }
            | Order::Decommission { .. }
            | Order::Approve { .. }
            | Order::Withdraw { .. }
            | Order::DualControl { .. }
            | Order::AdoptConfiguration
            | Order::Split { .. }
            | Order::Share { .. }
            | Order::Export { .. }
            | Order::RestoreByPassphrase { .. }
            | Order::Import { .. }
            | Order::CountKeys { .. }
            | Order::Cluster(_)
            | Order::Sync(_)
            | Order::EndRestore
            | Order::Abandon { .. }
            | Order::Zeroize { .. }
            | Order::Reset { .. } => Ok(part),
        }
    }

    fn task(&self, task: &CardTask, holders: Roster) -> Result<Task, Problem> {
        Ok(match task {
            CardTask::CreateSet { m, n, leave_out, .. } => {
                Task::CreateSet { quorum: CardQuorum::new(*m, *n)?, holders, leave_out: self.slot_set(leave_out)? }
            }
            CardTask::ChangePin { credential } => Task::ChangePin { credential: *credential },
            CardTask::Reassign { credential, to } => {
                Task::Reassign { credential: *credential, to: self.names.person(to)? }
            }
            CardTask::Copy { credential } => Task::Copy { credential: *credential },
            CardTask::VerifySet => Task::VerifySet,
            CardTask::VerifyFile { key_id, file } => {
                if self.devices.files.spooled() != Some(*file) {
                    return Err(Own::FileNotSpooled.into());
                }
                Task::VerifyFile { key_id: *key_id, file: *file }
            }
            CardTask::RestoreKey { slot, key_id } => {
                let slot = slot.as_deref().map(|slot| self.names.slot(slot)).transpose()?;
                Task::RestoreKey { slot, key_id: key_id.or_else(|| self.key_to_restore()) }
            }
            CardTask::Restore { slot, uid, key_id, file } => {
                if self.devices.files.spooled() != Some(*file) {
                    return Err(Own::FileNotSpooled.into());
                }
                // Before anybody is called to a reader.
                let into = self.names.slot_name(self.names.slot(slot)?);
                if self.devices.files.vendor_bytes(*uid).is_some() && self.devices.files.program(&into).is_none() {
                    return Err(Refusal::VendorProgramMissing.into());
                }
                Task::Restore { slot: self.names.slot(slot)?, uid: *uid, key_id: *key_id, file: *file }
            }
            CardTask::ReplaceSet { m, n, .. } => Task::ReplaceSet { quorum: CardQuorum::new(*m, *n)?, holders },
            CardTask::Rotate { m, n, leave_out, .. } => {
                Task::Rotate { quorum: CardQuorum::new(*m, *n)?, holders, leave_out: self.slot_set(leave_out)? }
            }
            CardTask::Erase { confirmed: false, .. } => return Err(Own::EraseUnconfirmed.into()),
            CardTask::Erase { credential, confirmed: true } => Task::Erase { credential: *credential },
        })
    }

    pub(super) fn slot_set(&self, names: &[String]) -> Result<SlotSet, Problem> {
        names.iter().try_fold(SlotSet::NONE, |set, name| Ok(set.with(self.names.slot(name)?)))
    }

    fn places(&self, at: &At) -> Result<Places, Problem> {
        let readers = self.devices.cards.readers();
        let find = |text: &Option<String>| text.as_deref().map(|text| reader(&readers, text)).transpose();
        Ok(Places { reader: find(&at.reader)?, target: find(&at.target)?, overwrite: at.overwrite })
    }
}

/// The reader that somebody means by its name, its number, or a part of its name that only one
/// usable reader has. One that is not used is refused with the reason.
fn reader(readers: &[ReaderView], text: &str) -> Result<ReaderId, Problem> {
    let named: Vec<&ReaderView> = match readers.iter().filter(|found| found.name == text).collect::<Vec<_>>() {
        exact if !exact.is_empty() => exact,
        _ => match text.parse::<u8>() {
            Ok(number) => readers.iter().filter(|found| found.number == Some(number)).collect(),
            Err(_) => readers.iter().filter(|found| !text.is_empty() && found.name.contains(text)).collect(),
        },
    };
    let usable: Vec<ReaderId> = named.iter().filter_map(|found| found.number.map(ReaderId)).collect();
    match (usable.as_slice(), named.first()) {
        ([reader], _) => Ok(*reader),
        ([_, ..], _) => Err(Problem::from(Refusal::UnknownReader).with("several readers fit; use the whole name")),
        ([], Some(ReaderView { name, reason: Some(reason), .. })) => {
            Err(Problem::from(Refusal::UnknownReader).with(format!("{name}: {reason}")))
        }
        ([], _) => Err(Problem::from(Refusal::UnknownReader).with(text)),
    }
}

/// A serial as people type it: hexadecimal, capital letters or small ones, with blanks or colons.
fn card_serial(text: &str) -> Result<CardSerial, Problem> {
    let unknown = || Problem::from(Refusal::UnknownCard).with(text);
    let digits: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b' ' | b':')).collect();
    if !digits.len().is_multiple_of(2)
        || digits.len() > 2 * SERIAL_BYTES_MAX
        || !digits.iter().all(u8::is_ascii_hexdigit)
    {
        return Err(unknown());
    }
    let byte = |pair: &[u8]| {
        let digits = std::str::from_utf8(pair).unwrap_or_default();
        u8::from_str_radix(digits, 16).map_err(|_| unknown())
    };
    let bytes = digits.chunks(2).map(byte).collect::<Result<Vec<u8>, Problem>>()?;
    CardSerial::new(&bytes).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(number: Option<u8>, name: &str, reason: Option<&str>) -> ReaderView {
        ReaderView { number, name: name.to_owned(), present: true, card: false, reason: reason.map(str::to_owned) }
    }

    #[test]
    fn a_reader_is_found_by_name_number_or_part_and_refused_otherwise() {
        let readers = [
            view(Some(0), "Pad A 00 00", None),
            view(None, "Keyless B 00 01", Some("it has no keypad")),
            view(Some(1), "Pad C 00 02", None),
        ];
        for (text, detail) in [("Pad", "several"), ("Keyless", "no keypad"), ("7", "7"), ("", ""), ("pad a", "pad a")] {
            let refused = reader(&readers, text).expect_err("no usable reader is meant");
            assert!(refused.is(Refusal::UnknownReader), "{text}");
            assert!(refused.detail.unwrap_or_default().contains(detail), "{text}");
        }
        assert_eq!(reader(&readers, "Pad A 00 00"), Ok(ReaderId(0)));
        assert_eq!(reader(&readers, "1"), Ok(ReaderId(1)));
        assert_eq!(reader(&readers, "C"), Ok(ReaderId(1)));
    }

    #[test]
    fn a_serial_is_read_as_it_is_shown_and_nothing_else_is_one() {
        for text in ["", "A", "XY", "+1", "0x", &"AB".repeat(17)] {
            assert!(card_serial(text).expect_err("no serial").is(Refusal::UnknownCard), "{text}");
        }
        let serial = card_serial("D2:76 00AB").expect("a serial");
        assert_eq!(serial.to_string(), "D27600AB");
        assert_eq!(card_serial("d27600ab").expect("the same"), serial);
    }
}
