//! A simulated PIN pad as the core's calls drive it: calls become APDUs as on the real stack,
//! and what the card answers becomes the core's words.
//!
//! Nothing waits here: a dialogue that needs somebody says so, and goes on when somebody is there.

use slotwarden_core::card::apdu::{self, Apdu, Dialogue, PinTemplate};
use slotwarden_core::card::{CardAnswer, CardCall, CardFailure};
use slotwarden_core::safe::SecretId;
use slotwarden_core::share::record::{self, RECORD_BYTES, ShareHeader};

use crate::cards::SmartCard;
use crate::pin_pad::{self, Contact, PinPad, Progress};

/// y of a record.
pub type Y = [u8; 32];

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Performed {
    /// With this answer, and y of a record that was read.
    Ended(Result<CardAnswer, CardFailure>, Option<Y>),
    /// The pad waits for somebody, for so many milliseconds.
    Waits {
        /// Milliseconds.
        timeout_ms: u32,
    },
    /// Somebody thinks for so many milliseconds.
    Hesitates(u32),
}

/// A pad, and whether we hold the card in it.
pub struct Terminal<C> {
    /// The pad.
    pub pad: PinPad<C>,
    /// The call whose dialogue is under way.
    asking: Option<CardCall>,
    /// Where y goes of the record that was asked for last.
    y_into: Option<SecretId>,
    response: Vec<u8>,
}

impl<C: SmartCard> Terminal<C> {
    /// A pad without a card.
    #[must_use]
    pub fn new(pad: PinPad<C>) -> Self {
        Terminal { pad, asking: None, y_into: None, response: Vec::new() }
    }

    /// Where y goes of the record that was asked for last.
    #[must_use]
    pub fn y_into(&self) -> Option<SecretId> {
        self.y_into
    }

    /// Carries out one call; `y` is what a record to be written has secret.
    pub fn perform(&mut self, call: &CardCall, y: Option<&Y>) -> Performed {
        if let CardCall::Read { y, .. } = call {
            self.y_into = Some(*y);
        }
        match call {
            CardCall::Hold => {
                let held = self.pad.power().map(|_| CardAnswer::Held).ok_or(CardFailure::CardGone);
                Performed::Ended(held, None)
            }
            CardCall::Release => {
                self.asking = None;
                self.pad.power_off();
                Performed::Ended(Ok(CardAnswer::Released), None)
            }
            CardCall::Verify { .. } | CardCall::ChangePin { .. } => {
                let Some(template) = apdu::pin_template(call) else {
                    return Performed::Ended(Err(CardFailure::Garbage), None);
                };
                self.asking = Some(*call);
                let dialogue = match template.dialogue() {
                    Dialogue::Verify => pin_pad::Dialogue::Verify,
                    Dialogue::Modify => pin_pad::Dialogue::Modify,
                };
                let progress = self.pad.begin(dialogue, &structure(&template), &mut self.response);
                self.told(progress)
            }
            CardCall::Write { profile, place, record, .. } => {
                let mut bytes = [0; RECORD_BYTES];
                let Some(y) = y else { return Performed::Ended(Err(CardFailure::Garbage), None) };
                record::write(record, y, &mut bytes);
                let mut command = Apdu::empty();
                if !apdu::write(*profile, *place, &bytes, &mut command) {
                    return Performed::Ended(Err(CardFailure::Garbage), None);
                }
                self.transmit(call, command.bytes())
            }
            CardCall::Select { .. }
            | CardCall::Tries { .. }
            | CardCall::Read { .. }
            | CardCall::Point { .. }
            | CardCall::Erase { .. } => match apdu::command(call) {
                Some(command) => self.transmit(call, command.bytes()),
                None => Performed::Ended(Err(CardFailure::Garbage), None),
            },
        }
    }

    /// Goes on with the dialogue, now that somebody is there or has thought.
    pub fn go_on(&mut self) -> Performed {
        let progress = self.pad.go_on(&mut self.response);
        self.told(progress)
    }

    /// Nobody came.
    pub fn time_out(&mut self) -> Performed {
        let progress = self.pad.time_out(&mut self.response);
        self.told(progress)
    }

    /// The call whose dialogue waits for somebody.
    #[must_use]
    pub fn asking(&self) -> Option<&CardCall> {
        self.asking.as_ref()
    }

    fn told(&mut self, progress: Progress) -> Performed {
        match progress {
            Progress::Waits { timeout_ms } => Performed::Waits { timeout_ms },
            Progress::Hesitates(pause_ms) => Performed::Hesitates(pause_ms),
            Progress::Ended(contact) => match self.asking.take() {
                Some(call) => self.heard(&call, contact),
                None => Performed::Ended(Err(CardFailure::CardGone), None),
            },
        }
    }

    fn transmit(&mut self, call: &CardCall, command: &[u8]) -> Performed {
        let contact = self.pad.transmit(command, &mut self.response);
        self.heard(call, contact)
    }

    fn heard(&mut self, call: &CardCall, contact: Contact) -> Performed {
        if contact == Contact::Lost {
            return Performed::Ended(Err(CardFailure::CardGone), None);
        }
        let mut y = None;
        let header = |bytes: &[u8]| ShareHeader::parse(bytes).ok();
        let answer = apdu::parse(call, &self.response, &header, |bytes| {
            let mut read = [0; 32];
            let record = record::check(bytes, &mut read)?;
            y = Some(read);
            Ok(record)
        });
        Performed::Ended(answer, y)
    }
}

/// PIN_VERIFY_STRUCTURE or PIN_MODIFY_STRUCTURE (PC/SC part 10, 2.5) for a pad without quirks.
fn structure(template: &PinTemplate) -> Vec<u8> {
    let mut bytes = vec![0, 0, PinTemplate::FORMAT_STRING, PinTemplate::BLOCK_STRING, PinTemplate::LENGTH_FORMAT];
    let modify = template.dialogue() == Dialogue::Modify;
    if modify {
        bytes.extend([template.offset_old(), template.offset_new()]);
    }
    bytes.extend([template.digits_max(), template.digits_min()]);
    if modify {
        bytes.push(3);
    }
    // Validated by OK; messages, language, indices and prologue as the pad likes.
    bytes.push(2);
    bytes.extend(if modify { &[3, 9, 4, 0, 1, 2][..] } else { &[1, 9, 4, 0][..] });
    bytes.extend([0, 0, 0]);
    bytes.extend(4u32.to_le_bytes());
    bytes.extend(template.header());
    bytes
}
