//! Bytes of card commands, and what their answers say.
//!
//! A platform asks here what to send for a [`CardCall`]: bytes to transmit ([`command`],
//! [`write()`]), or a template from which the reader's pad builds the command itself
//! ([`pin_template`]). Facts: ISO/IEC 7816-4 §5.1 (short commands: header of four bytes, Lc up to
//! 255, Le), PC/SC part 10 §2.5 (`PIN_VERIFY_STRUCTURE`, `PIN_MODIFY_STRUCTURE`).
//!
//! Promised here: nothing in this file takes a PIN (P1). VERIFY and CHANGE REFERENCE DATA exist
//! as templates, whose fields are the profile's and private; the only VERIFY that is made of
//! bytes is the one without data, which asks for tries. An [`Apdu`] cannot be made from bytes:
//!
//! ```compile_fail,E0451
//! let mut bytes = [0; slotwarden_core::card::apdu::COMMAND_BYTES_MAX];
//! bytes[..7].copy_from_slice(&[0x00, 0x20, 0x00, 0x81, 2, b'1', b'2']);
//! let sent = slotwarden_core::card::apdu::Apdu { bytes, len: 7 };
//! ```
//!
//! ```compile_fail,E0624
//! let digits = *b"123456";
//! let sent = slotwarden_core::card::apdu::Apdu::new([0x00, 0x20, 0x00, 0x81], &digits, None);
//! ```
//!
//! and a template has no place for digits:
//!
//! ```compile_fail,E0451
//! use slotwarden_core::card::apdu::{Dialogue, PinTemplate};
//! let filled = PinTemplate { header: [0, 0x20, 0, 0x81], digits_min: 6, digits_max: 12, dialogue: Dialogue::Verify };
//! ```
//!
//! while this is how one is made:
//!
//! ```
//! use slotwarden_core::card::{CardCall, Credential, ProfileId, apdu};
//! let call = CardCall::Verify { profile: ProfileId::OpenPgp, credential: Credential::BackupShare };
//! assert_eq!(apdu::pin_template(&call).map(|template| template.header()), Some([0x00, 0x20, 0x00, 0x82]));
//! assert!(apdu::command(&call).is_none());
//! ```
//!
//! Answers may be hostile: whatever comes back, [`parse`] gives an answer or
//! [`CardFailure::Garbage`], and never panics (P42). Nothing here is kept.

use core::fmt;

use zeroize::Zeroize;

use super::profile::{CommandHeader, Emptying};
use super::status_word::ReadWord;
use super::{CardAnswer, CardCall, CardFailure, ProfileId, RecordPlace, StatusWord};
use crate::share::record::{RECORD_BYTES, RecordProblem, ShareHeader, SignedHeader};

/// Longest short command: header, Lc, 255 bytes, Le.
pub const COMMAND_BYTES_MAX: usize = 261;
/// Longest answer to a short command: 256 bytes and the status word.
pub const RESPONSE_BYTES_MAX: usize = 258;

/// One command as it is sent. A record may be in it, so it is wiped when it is dropped or filled
/// again, and only its header is ever printed.
pub struct Apdu {
    bytes: [u8; COMMAND_BYTES_MAX],
    len: usize,
}

impl Apdu {
    /// A place for a command.
    #[must_use]
    pub const fn empty() -> Self {
        Apdu { bytes: [0; COMMAND_BYTES_MAX], len: 0 }
    }

    /// A command without a secret; `None` where `data` is longer than a short command carries.
    fn new(header: CommandHeader, data: &[u8], expected: Option<u8>) -> Option<Self> {
        let mut apdu = Apdu::empty();
        apdu.put(header, data, expected)?;
        Some(apdu)
    }

    fn put(&mut self, header: CommandHeader, data: &[u8], expected: Option<u8>) -> Option<()> {
        self.clear();
        self.append(&header)?;
        if !data.is_empty() {
            self.append(&[u8::try_from(data.len()).ok()?])?;
            self.append(data)?;
        }
        match expected {
            Some(expected) => self.append(&[expected]),
            None => Some(()),
        }
    }

    fn clear(&mut self) {
        self.bytes.zeroize();
        self.len = 0;
    }

    fn append(&mut self, more: &[u8]) -> Option<()> {
        let end = self.len.checked_add(more.len())?;
        self.bytes.get_mut(self.len..end)?.copy_from_slice(more);
        self.len = end;
        Some(())
    }

    /// What is sent.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }
}

impl Drop for Apdu {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl fmt::Debug for Apdu {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [class, instruction, first, second, ..] = self.bytes;
        write!(out, "Apdu {class:02X} {instruction:02X} {first:02X} {second:02X}, {} bytes", self.len)
    }
}

/// Which dialogue the pad has with a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Dialogue {
    /// The PIN, once.
    Verify,
    /// The old PIN, the new one, and the new one again (`bConfirmPIN` = 3).
    Modify,
}

/// A command with a PIN as the pad is told to build it. PINs are ASCII digits, left-justified,
/// without padding and without a length of their own; the pad puts Lc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct PinTemplate {
    header: CommandHeader,
    dialogue: Dialogue,
    digits_min: u8,
    digits_max: u8,
}

impl PinTemplate {
    /// `bmFormatString`: the PIN begins at byte 0 of the data, left-justified, in ASCII.
    pub const FORMAT_STRING: u8 = 0x82;
    /// `bmPINBlockString`: no length is inserted, the block is as long as the PIN.
    pub const BLOCK_STRING: u8 = 0x00;
    /// `bmPINLengthFormat`: no length is inserted.
    pub const LENGTH_FORMAT: u8 = 0x00;

    /// CLA, INS, P1, P2.
    #[must_use]
    pub const fn header(&self) -> CommandHeader {
        self.header
    }

    /// Which dialogue.
    #[must_use]
    pub const fn dialogue(&self) -> Dialogue {
        self.dialogue
    }

    /// Fewest digits, for `wPINMaxExtraDigit`.
    #[must_use]
    pub const fn digits_min(&self) -> u8 {
        self.digits_min
    }

    /// Most digits, for `wPINMaxExtraDigit`.
    #[must_use]
    pub const fn digits_max(&self) -> u8 {
        self.digits_max
    }

    /// `bInsertionOffsetOld`: the old PIN is first.
    #[must_use]
    pub const fn offset_old(&self) -> u8 {
        0
    }

    /// `bInsertionOffsetNew`: 0, since the new PIN follows the old one wherever that ends.
    #[must_use]
    pub const fn offset_new(&self) -> u8 {
        0
    }
}

/// What to transmit for this call; `None`: it is none that is transmitted ([`CardCall::Hold`],
/// [`CardCall::Release`]), the pad's ([`pin_template`]), [`CardCall::Write`] ([`write()`]), or the
/// kind of card has no such thing.
#[must_use]
pub fn command(call: &CardCall) -> Option<Apdu> {
    match *call {
        CardCall::Select { profile, credential } => {
            Apdu::new([0x00, 0xA4, 0x04, 0x00], profile.profile().application(credential), Some(0))
        }
        CardCall::Tries { profile, .. } => {
            let question = profile.profile().tries();
            Apdu::new(question.header, &[], question.expected)
        }
        CardCall::Read { profile, place, .. } => {
            let question = profile.profile().read(place)?;
            Apdu::new(question.header, &[], question.expected)
        }
        CardCall::Point { profile, place, .. } => {
            let (header, state) = profile.profile().point(place)?;
            Apdu::new(header, &[state], None)
        }
        CardCall::Erase { profile, place, .. } => {
            let header = profile.profile().write(place)?;
            match profile.profile().emptying() {
                Emptying::Zeros => Apdu::new(header, &[0; RECORD_BYTES], None),
                Emptying::Nothing => Apdu::new(header, &[], None),
            }
        }
        CardCall::Hold
        | CardCall::Release
        | CardCall::Verify { .. }
        | CardCall::ChangePin { .. }
        | CardCall::Write { .. } => None,
    }
}

/// What to transmit for [`CardCall::Write`], the 200 bytes of a record, into `apdu`: in its place,
/// since a command that is returned may leave a copy of y on the stack. False: the kind of card
/// has no such place, and `apdu` is empty.
#[must_use]
pub fn write(profile: ProfileId, place: RecordPlace, record: &[u8; RECORD_BYTES], apdu: &mut Apdu) -> bool {
    apdu.clear();
    let header = profile.profile().write(place);
    header.and_then(|header| apdu.put(header, record, None)).is_some()
}

/// What the pad is told for [`CardCall::Verify`] and [`CardCall::ChangePin`]; `None` for another call.
#[must_use]
pub fn pin_template(call: &CardCall) -> Option<PinTemplate> {
    let (profile, dialogue) = match *call {
        CardCall::Verify { profile, .. } => (profile.profile(), Dialogue::Verify),
        CardCall::ChangePin { profile, .. } => (profile.profile(), Dialogue::Modify),
        CardCall::Hold
        | CardCall::Select { .. }
        | CardCall::Tries { .. }
        | CardCall::Read { .. }
        | CardCall::Write { .. }
        | CardCall::Point { .. }
        | CardCall::Erase { .. }
        | CardCall::Release => return None,
    };
    let header = match dialogue {
        Dialogue::Verify => profile.verify(),
        Dialogue::Modify => profile.change_pin(),
    };
    let (digits_min, digits_max) = (profile.digits_min(), profile.digits_max());
    Some(PinTemplate { header, dialogue, digits_min, digits_max })
}

/// What an answer to this call says: the data and the status word as they came. `header` reads
/// the first 72 bytes of a record, `check` judges all of it and keeps y.
///
/// # Errors
/// [`CardFailure::Garbage`] for more or less than any card answers to this call.
pub fn parse(
    call: &CardCall,
    response: &[u8],
    header: &dyn Fn(&[u8]) -> Option<ShareHeader>,
    check: impl FnOnce(&[u8]) -> Result<SignedHeader, RecordProblem>,
) -> Result<CardAnswer, CardFailure> {
    if response.len() > RESPONSE_BYTES_MAX {
        return Err(CardFailure::Garbage);
    }
    let (data, word) = response.split_last_chunk::<2>().ok_or(CardFailure::Garbage)?;
    let status = StatusWord(u16::from_be_bytes(*word));
    let only_the_word = || if data.is_empty() { Ok(status) } else { Err(CardFailure::Garbage) };
    match *call {
        CardCall::Select { profile, credential } => {
            let found = status.carries_data().then(|| profile.profile().selected(credential, data, header)).flatten();
            Ok(CardAnswer::Selected { status, found })
        }
        CardCall::Tries { profile, .. } => {
            let said = profile.profile().tries_said(status, data).ok_or(CardFailure::Garbage)?;
            Ok(CardAnswer::Tries { status, left: said.left, serial: said.serial })
        }
        CardCall::Verify { .. } | CardCall::ChangePin { .. } => Ok(CardAnswer::Pin { status: only_the_word()? }),
        CardCall::Read { .. } => Ok(CardAnswer::Read { status, record: record(status, data, check) }),
        CardCall::Write { .. } | CardCall::Point { .. } | CardCall::Erase { .. } => {
            Ok(CardAnswer::Written { status: only_the_word()? })
        }
        CardCall::Hold | CardCall::Release => Err(CardFailure::Garbage),
    }
}

/// What was read: a record that `check` finds good, or why there is none.
fn record(
    status: StatusWord,
    data: &[u8],
    check: impl FnOnce(&[u8]) -> Result<SignedHeader, RecordProblem>,
) -> Result<SignedHeader, RecordProblem> {
    match status.of_read() {
        ReadWord::Missing | ReadWord::Failed => Err(RecordProblem::Missing),
        ReadWord::Read if data.is_empty() => Err(RecordProblem::Missing),
        ReadWord::Read if data.len() != RECORD_BYTES => Err(RecordProblem::NotOurs),
        ReadWord::Read => check(data),
    }
}
