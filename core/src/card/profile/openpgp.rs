//! OpenPGP cards (specification 3.4): the record is data object 0103, for one credential.
//!
//! | what | how |
//! |---|---|
//! | application | `D2 76 00 01 24 01`, whatever the credential: such a card holds one |
//! | tries and serial | GET DATA `006E`: `4F` is the full application identifier (§4.2.1), `C4` the PIN status (§4.4.3) |
//! | PIN | PW1: VERIFY with reference `82`, CHANGE REFERENCE DATA with `81` (§7.2.2, §7.2.3) |
//! | record | data object `0103`, read and written under PW1 `82` (§4.3.1) |
//!
//! `006E` is longer than one short answer on many cards. What we look for stands in its first
//! half, so the rest is never fetched. The serial is manufacturer and serial number of the
//! application identifier, 6 bytes: the version beside them changes when a card's firmware is
//! renewed. There is one place and no pointer: a card that is pulled while it writes has the
//! old record, the new one or none, as its own PUT DATA has it.

use super::{CommandHeader, Emptying, Profile, Question, TriesSaid, WriteSafety, find};
use crate::card::{CardSerial, Credential, RecordPlace, Selected, StatusWord};
use crate::share::record::ShareHeader;

const APPLICATION: &[u8] = &[0xD2, 0x76, 0x00, 0x01, 0x24, 0x01];
/// Bytes of a full application identifier (§4.2.1).
const APPLICATION_FULL_BYTES: usize = 16;
/// Bytes of the PIN status (§4.4.3).
const PIN_STATUS_BYTES: usize = 7;

/// The profile.
#[derive(Clone, Copy, Debug)]
pub struct OpenPgp;

impl Profile for OpenPgp {
    fn name(&self) -> &'static str {
        "openpgp"
    }

    fn application(&self, credential: Credential) -> &'static [u8] {
        match credential {
            Credential::BackupShare | Credential::SlotUser | Credential::HsmAdministrator => APPLICATION,
        }
    }

    fn tries(&self) -> Question {
        Question { header: [0x00, 0xCA, 0x00, 0x6E], expected: Some(0) }
    }

    fn verify(&self) -> CommandHeader {
        [0x00, 0x20, 0x00, 0x82]
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
        WriteSafety::CardsOwn
    }

    fn read(&self, place: RecordPlace) -> Option<Question> {
        only(place).then_some(Question { header: [0x00, 0xCA, 0x01, 0x03], expected: Some(0) })
    }

    fn write(&self, place: RecordPlace) -> Option<CommandHeader> {
        only(place).then_some([0x00, 0xDA, 0x01, 0x03])
    }

    fn emptying(&self) -> Emptying {
        Emptying::Nothing
    }

    fn point(&self, _place: Option<RecordPlace>) -> Option<(CommandHeader, u8)> {
        None
    }

    /// Cards answer SELECT with nothing or with what we do not need.
    fn selected(
        &self,
        _credential: Credential,
        _data: &[u8],
        _header: &dyn Fn(&[u8]) -> Option<ShareHeader>,
    ) -> Option<Selected> {
        Some(Selected { serial: None, place: None, header: None })
    }

    fn tries_said(&self, status: StatusWord, data: &[u8]) -> Option<TriesSaid> {
        if !status.carries_data() {
            return Some(TriesSaid::default());
        }
        // Some cards answer with the object, some with what is in it.
        let application = find(data, 0x6E).unwrap_or(data);
        let serial =
            find(application, 0x4F).filter(|id| id.len() == APPLICATION_FULL_BYTES && id.starts_with(APPLICATION));
        let serial = serial.and_then(|id| id.get(8..14)).and_then(CardSerial::new);
        let status = find(application, 0x73).and_then(|discretionary| find(discretionary, 0xC4));
        // The fifth byte counts PW1.
        let left = status.filter(|status| status.len() == PIN_STATUS_BYTES).and_then(|status| status.get(4).copied());
        Some(TriesSaid { left, serial })
    }
}

/// There is one place.
const fn only(place: RecordPlace) -> bool {
    match place {
        RecordPlace::A => true,
        RecordPlace::B => false,
    }
}
