//! Cards with files after ISO/IEC 7816-4: one application for each credential, with its own PIN.
//!
//! | what | how |
//! |---|---|
//! | application | `F0` "SLOTWARDEN" and `01` backup share, `02` slot user, `03` HSM administrator |
//! | SELECT answers | `6F` { `84` application identifier, `85` { state, serial length, serial, header } } |
//! | state | `00` no record, `0A` place A counts, `0B` place B counts |
//! | header | the first 72 bytes of the record in force; absent in state `00` |
//! | PIN | reference `81`, 6 to 12 digits, ASCII, as long as it is |
//! | records A and B | transparent files of 200 bytes, short identifiers 1 and 2 |
//! | pointer | a transparent file of one byte (the state), short identifier 3 |
//!
//! Reading, writing and pointing need the PIN verified; selecting and asking for tries do not.
//! The first byte `F0` marks an identifier that is registered nowhere (ISO/IEC 7816-4 §8.2.1.2).
//! The state and the header that SELECT tells are shown and used to find the record; only the
//! record itself, read and its signature checked, is believed.

use super::{CommandHeader, Emptying, Profile, Question, TriesSaid, WriteSafety, find, whole};
use crate::card::status_word::TriesWord;
use crate::card::{CardSerial, Credential, RecordPlace, Selected, StatusWord};
use crate::share::record::{RECORD_BYTES, ShareHeader};

/// Bytes of a record that its card tells without a PIN.
pub const HEADER_BYTES: usize = 72;
/// The pointer's byte where no record counts.
pub const STATE_EMPTY: u8 = 0x00;
/// The pointer's byte where the record at place A counts.
pub const STATE_A: u8 = 0x0A;
/// The pointer's byte where the record at place B counts.
pub const STATE_B: u8 = 0x0B;

/// How many bytes of a record are asked for: all of them.
const RECORD_LE: u8 = 0xC8;
const _: () = assert!(RECORD_LE as usize == RECORD_BYTES);

const BACKUP_SHARE: &[u8] = b"\xF0SLOTWARDEN\x01";
const SLOT_USER: &[u8] = b"\xF0SLOTWARDEN\x02";
const HSM_ADMINISTRATOR: &[u8] = b"\xF0SLOTWARDEN\x03";

/// The profile.
#[derive(Clone, Copy, Debug)]
pub struct Iso7816Files;

impl Profile for Iso7816Files {
    fn name(&self) -> &'static str {
        "iso7816-files"
    }

    fn application(&self, credential: Credential) -> &'static [u8] {
        match credential {
            Credential::BackupShare => BACKUP_SHARE,
            Credential::SlotUser => SLOT_USER,
            Credential::HsmAdministrator => HSM_ADMINISTRATOR,
        }
    }

    /// VERIFY without data (ISO/IEC 7816-4 §11.6.6): such a card answers `63Cx` and spends nothing.
    fn tries(&self) -> Question {
        Question { header: self.verify(), expected: None }
    }

    fn verify(&self) -> CommandHeader {
        [0x00, 0x20, 0x00, 0x81]
    }

    fn change_pin(&self) -> CommandHeader {
        [0x00, 0x24, 0x00, 0x81]
    }

    fn digits_min(&self) -> u8 {
        6
    }

    fn digits_max(&self) -> u8 {
        12
    }

    fn transport_pin(&self) -> Option<&'static str> {
        Some("123456")
    }

    fn safety(&self) -> WriteSafety {
        WriteSafety::TwoPlaces
    }

    /// READ BINARY by short file identifier, offset 0, all bytes of a record.
    fn read(&self, place: RecordPlace) -> Option<Question> {
        Some(Question { header: [0x00, 0xB0, file(place), 0x00], expected: Some(RECORD_LE) })
    }

    /// UPDATE BINARY by short file identifier, offset 0.
    fn write(&self, place: RecordPlace) -> Option<CommandHeader> {
        Some([0x00, 0xD6, file(place), 0x00])
    }

    fn emptying(&self) -> Emptying {
        Emptying::Zeros
    }

    fn point(&self, place: Option<RecordPlace>) -> Option<(CommandHeader, u8)> {
        let state = match place {
            None => STATE_EMPTY,
            Some(RecordPlace::A) => STATE_A,
            Some(RecordPlace::B) => STATE_B,
        };
        Some(([0x00, 0xD6, 0x83, 0x00], state))
    }

    fn selected(
        &self,
        credential: Credential,
        data: &[u8],
        header: &dyn Fn(&[u8]) -> Option<ShareHeader>,
    ) -> Option<Selected> {
        let template = whole(data, 0x6F)?;
        if find(template, 0x84)? != self.application(credential) {
            return None;
        }
        let (&state, rest) = find(template, 0x85)?.split_first()?;
        let (&serial_len, rest) = rest.split_first()?;
        let (serial, told) = rest.split_at_checked(usize::from(serial_len))?;
        let serial = Some(CardSerial::new(serial)?);
        let place = match state {
            STATE_EMPTY if told.is_empty() => return Some(Selected { serial, place: None, header: None }),
            STATE_A => RecordPlace::A,
            STATE_B => RecordPlace::B,
            _ => return None,
        };
        // A header that is none is not the card's end: the record is judged when it is read.
        (told.len() == HEADER_BYTES).then(|| Selected { serial, place: Some(place), header: header(told) })
    }

    fn tries_said(&self, status: StatusWord, data: &[u8]) -> Option<TriesSaid> {
        let left = match status.of_tries() {
            TriesWord::Left(left) => Some(left),
            TriesWord::Blocked => Some(0),
            TriesWord::InData | TriesWord::NotSaid | TriesWord::Failed => None,
        };
        data.is_empty().then_some(TriesSaid { left, serial: None })
    }
}

/// P1 of a command that names this place's file by its short identifier (ISO/IEC 7816-4 §11.3.2).
const fn file(place: RecordPlace) -> u8 {
    match place {
        RecordPlace::A => 0x81,
        RecordPlace::B => 0x82,
    }
}
