//! Smart cards in memory: our own card, plain data, and what it takes to be any card.
//!
//! [`Card`] is a card of the profile `iso7816-files`: one application per credential, each
//! with its own PIN, two places for a record and a pointer that says which is in force.
//!
//! | command | bytes | answer |
//! |---|---|---|
//! | SELECT | `00 A4 04 00 0C` AID `00` | `6F { 84 AID, 85 state ‖ 08 ‖ serial ‖ first 72 bytes of the record in force }` |
//! | VERIFY, empty | `00 20 00 81` | 9000 verified, 63Cx tries left, 6983 blocked; costs no try |
//! | VERIFY | `00 20 00 81 Lc` PIN | 9000, 63Cx, 6983 |
//! | CHANGE REFERENCE DATA | `00 24 00 81 Lc` old ‖ new | 9000, 63Cx, 6983, 6700 |
//! | READ BINARY | `00 B0 81 00 C8`, `82` | 200 bytes; 6982 without the PIN |
//! | UPDATE BINARY | `00 D6 81 00 C8` record, `82` | 9000; 6982 without the PIN |
//! | UPDATE BINARY | `00 D6 83 00 01` state | points: 00 to none, 0A to A, 0B to B |
//!
//! Command bytes and status words are those of ISO/IEC 7816-4. As on real cards a try is
//! spent before the PIN is compared (so a card pulled between the two has one less), a good
//! PIN gives all tries back, and a change of the PIN verifies nothing. A selection, good or
//! not, and a reset forget that a PIN was verified.
//!
//! The card keeps to itself whether a PIN is still the transport PIN; no command tells.
//! After power is lost a card has what was written to it, and no application is selected.

use std::sync::{Arc, Mutex, PoisonError};

use slotwarden_core::card::{Credential, RecordPlace};
use slotwarden_core::share::record::RECORD_BYTES;

use crate::code::Code;

/// The PIN that every new card comes with.
pub const TRANSPORT_PIN: &[u8] = b"123456";
/// Shortest PIN a card takes, digits.
pub const PIN_DIGITS_MIN: usize = 6;
/// Longest PIN a card takes, digits.
pub const PIN_DIGITS_MAX: usize = 12;
/// What a record says without a PIN, bytes.
pub const HEADER_BYTES: usize = 72;
/// Bytes of a serial.
pub const SERIAL_BYTES: usize = 8;
/// Application identifiers are this and the credential's byte (ISO/IEC 7816-5: F is for
/// everybody's own, not registered).
pub const AID_START: [u8; 11] = *b"\xF0SLOTWARDEN";
/// Answer to reset: T=1, one historical byte string `SLWCARD1` (ISO/IEC 7816-3; the last
/// byte is the exclusive or of those after the first).
pub const ATR: [u8; 13] = atr();

const fn atr() -> [u8; 13] {
    let mut atr = [0x3B, 0x88, 0x80, 0x01, b'S', b'L', b'W', b'C', b'A', b'R', b'D', b'1', 0];
    let mut at = 1;
    while at < 12 {
        atr[12] ^= atr[at];
        at += 1;
    }
    atr
}

/// Any card that can lie in a reader.
pub trait SmartCard: Send {
    /// Power comes: the answer to reset.
    fn power(&mut self) -> Vec<u8>;
    /// A warm reset: the answer to reset. Nothing is verified or selected any more.
    fn reset(&mut self) -> Vec<u8> {
        self.power()
    }
    /// Carries out one command; `response` is emptied first, and ends with the status word.
    fn transmit(&mut self, apdu: &[u8], response: &mut Vec<u8>);
    /// Power goes away in the middle of this command. A card that cannot be cut so finely has
    /// not begun it.
    fn tear(&mut self, _apdu: &[u8]) {}
}

impl<C: SmartCard + ?Sized> SmartCard for Box<C> {
    fn power(&mut self) -> Vec<u8> {
        (**self).power()
    }
    fn reset(&mut self) -> Vec<u8> {
        (**self).reset()
    }
    fn transmit(&mut self, apdu: &[u8], response: &mut Vec<u8>) {
        (**self).transmit(apdu, response);
    }
    fn tear(&mut self, apdu: &[u8]) {
        (**self).tear(apdu);
    }
}

/// A card that somebody looks at while it lies in a reader.
impl<C: SmartCard + ?Sized> SmartCard for Arc<Mutex<C>> {
    fn power(&mut self) -> Vec<u8> {
        self.lock().unwrap_or_else(PoisonError::into_inner).power()
    }
    fn reset(&mut self) -> Vec<u8> {
        self.lock().unwrap_or_else(PoisonError::into_inner).reset()
    }
    fn transmit(&mut self, apdu: &[u8], response: &mut Vec<u8>) {
        self.lock().unwrap_or_else(PoisonError::into_inner).transmit(apdu, response);
    }
    fn tear(&mut self, apdu: &[u8]) {
        self.lock().unwrap_or_else(PoisonError::into_inner).tear(apdu);
    }
}

/// How a card behaves. What it holds is another matter: a superseded or a forged record is
/// written to a proper card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// As the table above says.
    #[default]
    Proper,
    /// An empty VERIFY spends a try, as on some cards in the field.
    CountsEmptyVerify,
    /// No memory is left for a record: 6A84 to every UPDATE BINARY.
    Full,
    /// Another kind of card: 6A82 to everything.
    Foreign,
    /// Answers READ BINARY with one byte too few.
    ShortRecord,
    /// Answers READ BINARY with 20 bytes too many.
    LongRecord,
    /// Answers everything with 60,000 bytes and a good status word.
    Endless,
    /// Answers everything without a status word.
    NoStatus,
    /// Answers everything with one byte.
    HalfStatus,
    /// Answers everything that should succeed with a status word no standard knows.
    StrangeStatus,
    /// Answers SELECT with lengths that point outside of what it sends.
    BrokenSelection,
    /// Says that a record is in force at a place that does not exist.
    StrangePlace,
    /// Says that 15 tries are left, always.
    ManyTries,
    /// Answers a good VERIFY with 9000 and reads all the same only zeros.
    Forgetful,
}

impl Manner {
    /// Every manner, and the name by which a person asks for it.
    pub const ALL: [(&'static str, Manner); 14] = [
        ("proper", Manner::Proper),
        ("counts-empty-verify", Manner::CountsEmptyVerify),
        ("full", Manner::Full),
        ("foreign", Manner::Foreign),
        ("short-record", Manner::ShortRecord),
        ("long-record", Manner::LongRecord),
        ("endless", Manner::Endless),
        ("no-status", Manner::NoStatus),
        ("half-status", Manner::HalfStatus),
        ("strange-status", Manner::StrangeStatus),
        ("broken-selection", Manner::BrokenSelection),
        ("strange-place", Manner::StrangePlace),
        ("many-tries", Manner::ManyTries),
        ("forgetful", Manner::Forgetful),
    ];
}

/// Bytes that an endless card sends to each command.
const ENDLESS_BYTES: usize = 60_000;

/// One application of a card: a PIN, its tries, two places and the pointer.
#[derive(Clone)]
struct Application {
    pin: Code,
    transport: bool,
    tries_max: u8,
    tries_left: u8,
    places: [[u8; RECORD_BYTES]; 2],
    in_force: Option<RecordPlace>,
}

/// A card of the profile `iso7816-files`.
#[derive(Clone)]
pub struct Card {
    serial: [u8; SERIAL_BYTES],
    manner: Manner,
    applications: [Application; 3],
    selected: Option<Credential>,
    verified: bool,
    tries_spent: u32,
}

impl Card {
    /// A blank card: no record, three tries, the transport PIN.
    #[must_use]
    pub fn new(serial: [u8; SERIAL_BYTES]) -> Self {
        Card::with(serial, 3, Manner::Proper)
    }

    /// A blank card with another number of tries and another manner.
    #[must_use]
    pub fn with(serial: [u8; SERIAL_BYTES], tries_max: u8, manner: Manner) -> Self {
        let application = Application {
            pin: Code::new(TRANSPORT_PIN),
            transport: true,
            tries_max,
            tries_left: tries_max,
            places: [[0; RECORD_BYTES]; 2],
            in_force: None,
        };
        Card {
            serial,
            manner,
            applications: [application.clone(), application.clone(), application],
            selected: None,
            verified: false,
            tries_spent: 0,
        }
    }

    /// A blank card as one is drawn from a box: some serial; three, five or ten tries.
    #[must_use]
    pub fn drawn(random: &mut fastrand::Rng) -> Self {
        let tries_max = [3, 5, 10][random.usize(..3)];
        Card::with(random.u64(..).to_be_bytes(), tries_max, Manner::Proper)
    }

    /// Its serial.
    #[must_use]
    pub fn serial(&self) -> [u8; SERIAL_BYTES] {
        self.serial
    }

    /// How it behaves.
    #[must_use]
    pub fn manner(&self) -> Manner {
        self.manner
    }

    /// Lets it behave so from now on.
    pub fn behave(&mut self, manner: Manner) {
        self.manner = manner;
    }

    /// The PIN of a credential, as nobody outside a simulation can see it.
    #[must_use]
    pub fn pin(&self, credential: Credential) -> Code {
        self.applications[index(credential)].pin
    }

    /// Whether the PIN was never changed.
    #[must_use]
    pub fn is_on_transport_pin(&self, credential: Credential) -> bool {
        self.applications[index(credential)].transport
    }

    /// Tries that the PIN of a credential has left.
    #[must_use]
    pub fn tries_left(&self, credential: Credential) -> u8 {
        self.applications[index(credential)].tries_left
    }

    /// Tries that were spent in the card's life, on any of its PINs: wrong PINs, and those it
    /// was pulled at.
    #[must_use]
    pub fn tries_spent(&self) -> u32 {
        self.tries_spent
    }

    /// Which place is in force.
    #[must_use]
    pub fn in_force(&self, credential: Credential) -> Option<RecordPlace> {
        self.applications[index(credential)].in_force
    }

    /// What lies at a place.
    #[must_use]
    pub fn place(&self, credential: Credential, place: RecordPlace) -> &[u8; RECORD_BYTES] {
        &self.applications[index(credential)].places[place_index(place)]
    }

    /// The record in force.
    #[must_use]
    pub fn record(&self, credential: Credential) -> Option<&[u8; RECORD_BYTES]> {
        Some(self.place(credential, self.in_force(credential)?))
    }

    /// A record comes to a place, past every rule: to prepare a card.
    pub fn put(&mut self, credential: Credential, place: RecordPlace, record: &[u8; RECORD_BYTES]) {
        self.applications[index(credential)].places[place_index(place)] = *record;
    }

    /// The pointer is set, past every rule: to prepare a card.
    pub fn point(&mut self, credential: Credential, place: Option<RecordPlace>) {
        self.applications[index(credential)].in_force = place;
    }

    /// The PIN is set as if a person had changed it at another pad: to prepare a card.
    pub fn set_pin(&mut self, credential: Credential, pin: Code) {
        let application = &mut self.applications[index(credential)];
        application.pin = pin;
        application.transport = false;
    }

    /// The tries left are set: to prepare a card. 0 is blocked.
    pub fn set_tries_left(&mut self, credential: Credential, tries: u8) {
        self.applications[index(credential)].tries_left = tries;
    }

    fn answer(&mut self, apdu: &[u8], response: &mut Vec<u8>) -> u16 {
        let Some(command) = Command::parse(apdu) else { return 0x6700 };
        match (command.class, command.instruction, command.p1, command.p2) {
            (0, 0xA4, 4, 0) => self.select(&command, response),
            (0, 0x20, 0, 0x81) => self.verify(&command),
            (0, 0x24, 0, 0x81) => self.change(&command),
            (0, 0xB0, 0x81, 0) => self.read(&command, RecordPlace::A, response),
            (0, 0xB0, 0x82, 0) => self.read(&command, RecordPlace::B, response),
            (0, 0xD6, 0x81, 0) => self.update(&command, RecordPlace::A),
            (0, 0xD6, 0x82, 0) => self.update(&command, RecordPlace::B),
            (0, 0xD6, 0x83, 0) => self.move_pointer(&command),
            (0, 0xA4 | 0x20 | 0x24 | 0xB0 | 0xD6, _, _) => 0x6A86,
            (0, _, _, _) => 0x6D00,
            _ => 0x6E00,
        }
    }

    fn select(&mut self, command: &Command, response: &mut Vec<u8>) -> u16 {
        self.verified = false;
        self.selected = None;
        let Some(credential) = Credential::ALL.into_iter().find(|each| command.data == aid(*each)) else {
            return 0x6A82;
        };
        self.selected = Some(credential);
        let application = &self.applications[index(credential)];
        let header_len = if application.in_force.is_some() { HEADER_BYTES } else { 0 };
        let said = 2 + SERIAL_BYTES + header_len;
        let aid = aid(credential);
        response.extend([0x6F, length(2 + aid.len() + 2 + said), 0x84, length(aid.len())]);
        response.extend(aid);
        response.extend([0x85, length(said), state_byte(application.in_force), length(SERIAL_BYTES)]);
        response.extend(self.serial);
        if let Some(place) = application.in_force {
            response.extend(&application.places[place_index(place)][..HEADER_BYTES]);
        }
        match self.manner {
            Manner::BrokenSelection => {
                // The inner length counts more than is there, the outer one less.
                response[1] -= 3;
                response[17] += 40;
            }
            Manner::StrangePlace => response[18] = 0x0C,
            _ => {}
        }
        0x9000
    }

    fn verify(&mut self, command: &Command) -> u16 {
        let Some(credential) = self.selected else { return 0x6985 };
        let application = &mut self.applications[index(credential)];
        if command.data.is_empty() {
            if self.verified {
                return 0x9000;
            }
            if self.manner == Manner::CountsEmptyVerify && application.tries_left > 0 {
                application.tries_left -= 1;
                self.tries_spent += 1;
            }
            return tries_word(application.tries_left);
        }
        if application.tries_left == 0 {
            return 0x6983;
        }
        if !(PIN_DIGITS_MIN..=PIN_DIGITS_MAX).contains(&command.data.len()) {
            return 0x6700;
        }
        self.verified = application.pin.bytes() == command.data;
        if self.verified {
            application.tries_left = application.tries_max;
            return 0x9000;
        }
        application.tries_left -= 1;
        self.tries_spent += 1;
        tries_word(application.tries_left)
    }

    fn change(&mut self, command: &Command) -> u16 {
        let Some(credential) = self.selected else { return 0x6985 };
        let application = &mut self.applications[index(credential)];
        if application.tries_left == 0 {
            return 0x6983;
        }
        if !(2 * PIN_DIGITS_MIN..=2 * PIN_DIGITS_MAX).contains(&command.data.len()) {
            return 0x6700;
        }
        self.verified = false;
        let Some(new) = command.data.strip_prefix(application.pin.bytes()) else {
            application.tries_left -= 1;
            self.tries_spent += 1;
            return tries_word(application.tries_left);
        };
        application.tries_left = application.tries_max;
        if !(PIN_DIGITS_MIN..=PIN_DIGITS_MAX).contains(&new.len()) {
            return 0x6700;
        }
        application.pin = Code::new(new);
        application.transport = false;
        0x9000
    }

    fn read(&self, command: &Command, place: RecordPlace, response: &mut Vec<u8>) -> u16 {
        let credential = match self.opened() {
            Ok(credential) => credential,
            Err(word) => return word,
        };
        if !command.data.is_empty() || command.expected != Some(RECORD_BYTES) {
            return 0x6700;
        }
        response.extend(self.place(credential, place));
        match self.manner {
            Manner::ShortRecord => drop(response.pop()),
            Manner::LongRecord => response.extend([0x53; 20]),
            Manner::Forgetful => response.fill(0),
            _ => {}
        }
        0x9000
    }

    fn update(&mut self, command: &Command, place: RecordPlace) -> u16 {
        let credential = match self.opened() {
            Ok(credential) => credential,
            Err(word) => return word,
        };
        let Ok(record) = <[u8; RECORD_BYTES]>::try_from(command.data) else { return 0x6700 };
        if self.manner == Manner::Full {
            return 0x6A84;
        }
        self.put(credential, place, &record);
        0x9000
    }

    fn move_pointer(&mut self, command: &Command) -> u16 {
        let credential = match self.opened() {
            Ok(credential) => credential,
            Err(word) => return word,
        };
        if self.manner == Manner::Full {
            return 0x6A84;
        }
        let place = match command.data {
            [0x00] => None,
            [0x0A] => Some(RecordPlace::A),
            [0x0B] => Some(RecordPlace::B),
            [_] => return 0x6A80,
            _ => return 0x6700,
        };
        self.point(credential, place);
        0x9000
    }

    /// The credential whose records may be touched now.
    fn opened(&self) -> Result<Credential, u16> {
        let credential = self.selected.ok_or(0x6985_u16)?;
        if self.verified { Ok(credential) } else { Err(0x6982) }
    }

    fn lose_power(&mut self) {
        self.selected = None;
        self.verified = false;
    }
}

impl SmartCard for Card {
    fn power(&mut self) -> Vec<u8> {
        self.lose_power();
        ATR.to_vec()
    }

    fn transmit(&mut self, apdu: &[u8], response: &mut Vec<u8>) {
        response.clear();
        let word = match self.manner {
            Manner::Foreign => 0x6A82,
            Manner::Endless => {
                response.resize(ENDLESS_BYTES, 0x53);
                0x9000
            }
            _ => self.answer(apdu, response),
        };
        let word = match self.manner {
            Manner::StrangeStatus if word == 0x9000 => 0x9F42,
            Manner::ManyTries if word & 0xFFF0 == 0x63C0 => 0x63CF,
            _ => word,
        };
        match self.manner {
            Manner::NoStatus => {}
            Manner::HalfStatus => {
                response.clear();
                response.push(0x90);
            }
            _ => response.extend(word.to_be_bytes()),
        }
    }

    /// A place is half written and the pointer is as it was; of a PIN a try is spent.
    fn tear(&mut self, apdu: &[u8]) {
        if let (Some(command), Some(credential)) = (Command::parse(apdu), self.selected) {
            let application = &mut self.applications[index(credential)];
            match (command.instruction, command.p1) {
                (0x20 | 0x24, 0) if !command.data.is_empty() && application.tries_left > 0 => {
                    application.tries_left -= 1;
                    self.tries_spent += 1;
                }
                (0xD6, 0x81 | 0x82) if self.verified && command.data.len() == RECORD_BYTES => {
                    let place = usize::from(command.p1 - 0x81);
                    let half = RECORD_BYTES / 2;
                    application.places[place][..half].copy_from_slice(&command.data[..half]);
                }
                _ => {}
            }
        }
        self.lose_power();
    }
}

/// A short command (ISO/IEC 7816-3, 12.1).
struct Command<'a> {
    class: u8,
    instruction: u8,
    p1: u8,
    p2: u8,
    data: &'a [u8],
    expected: Option<usize>,
}

impl<'a> Command<'a> {
    fn parse(apdu: &'a [u8]) -> Option<Self> {
        let (&[class, instruction, p1, p2], rest) = apdu.split_first_chunk::<4>()?;
        let (data, expected) = match *rest {
            [] => (&[][..], None),
            [expected] => (&[][..], Some(expected)),
            // Lc 00 is what a pad sends that was given an empty data field.
            [0, ..] => return None,
            [len, ref rest @ ..] if rest.len() == usize::from(len) => (rest, None),
            [len, ref rest @ ..] if rest.len() == usize::from(len) + 1 => {
                let (expected, data) = rest.split_last()?;
                (data, Some(*expected))
            }
            _ => return None,
        };
        let expected = expected.map(|expected| if expected == 0 { 256 } else { usize::from(expected) });
        Some(Command { class, instruction, p1, p2, data, expected })
    }
}

/// The application identifier of a credential.
#[must_use]
pub fn aid(credential: Credential) -> [u8; 12] {
    let mut aid = [0; 12];
    aid[..11].copy_from_slice(&AID_START);
    aid[11] = match credential {
        Credential::BackupShare => 1,
        Credential::SlotUser => 2,
        Credential::HsmAdministrator => 3,
    };
    aid
}

fn index(credential: Credential) -> usize {
    match credential {
        Credential::BackupShare => 0,
        Credential::SlotUser => 1,
        Credential::HsmAdministrator => 2,
    }
}

fn place_index(place: RecordPlace) -> usize {
    match place {
        RecordPlace::A => 0,
        RecordPlace::B => 1,
    }
}

fn state_byte(in_force: Option<RecordPlace>) -> u8 {
    match in_force {
        None => 0x00,
        Some(RecordPlace::A) => 0x0A,
        Some(RecordPlace::B) => 0x0B,
    }
}

fn tries_word(left: u8) -> u16 {
    if left == 0 { 0x6983 } else { 0x63C0 | u16::from(left.min(15)) }
}

fn length(bytes: usize) -> u8 {
    u8::try_from(bytes).expect("what a card says at its selection is 98 bytes at most")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERIAL: [u8; 8] = *b"\x01\x02\x03\x04\x05\x06\x07\x08";

    fn ask(card: &mut Card, apdu: &[u8]) -> (Vec<u8>, u16) {
        let mut response = Vec::new();
        card.transmit(apdu, &mut response);
        let word = response.split_off(response.len() - 2);
        (response, u16::from_be_bytes([word[0], word[1]]))
    }

    fn word(card: &mut Card, apdu: &[u8]) -> u16 {
        ask(card, apdu).1
    }

    fn with_data(header: [u8; 4], data: &[u8]) -> Vec<u8> {
        [&header, &[u8::try_from(data.len()).unwrap()][..], data].concat()
    }

    fn select(card: &mut Card, credential: Credential) -> (Vec<u8>, u16) {
        ask(card, &[&with_data([0, 0xA4, 4, 0], &aid(credential))[..], &[0]].concat())
    }

    fn verify(card: &mut Card, pin: &[u8]) -> u16 {
        word(card, &with_data([0, 0x20, 0, 0x81], pin))
    }

    fn change(card: &mut Card, old: &[u8], new: &[u8]) -> u16 {
        word(card, &with_data([0, 0x24, 0, 0x81], &[old, new].concat()))
    }

    fn opened(mut card: Card) -> Card {
        assert_eq!(select(&mut card, Credential::BackupShare).1, 0x9000);
        assert_eq!(verify(&mut card, TRANSPORT_PIN), 0x9000);
        card
    }

    #[test]
    fn what_is_not_ours_is_refused_and_ours_says_state_and_serial() {
        let mut card = Card::new(SERIAL);
        assert_eq!(word(&mut card, &with_data([0, 0xA4, 4, 0], b"\xD2\x76\x00\x01\x24\x01")), 0x6A82);
        assert_eq!(word(&mut card, &[0, 0x20, 0, 0x81]), 0x6985, "nothing is selected");
        let (said, status) = select(&mut card, Credential::SlotUser);
        assert_eq!(status, 0x9000);
        let expected = [&[0x6F, 26, 0x84, 12][..], b"\xF0SLOTWARDEN\x02", &[0x85, 10, 0, 8], &SERIAL].concat();
        assert_eq!(said, expected);
    }

    #[test]
    fn a_record_in_force_says_its_first_72_bytes_without_a_pin() {
        let mut card = Card::new(SERIAL);
        card.put(Credential::BackupShare, RecordPlace::B, &[7; RECORD_BYTES]);
        card.point(Credential::BackupShare, Some(RecordPlace::B));
        let (said, status) = select(&mut card, Credential::BackupShare);
        assert_eq!((said.len(), status), (100, 0x9000));
        assert_eq!(said[..2], [0x6F, 98]);
        assert_eq!(said[16..20], [0x85, 82, 0x0B, 8]);
        assert_eq!(said[28..], [7; 72]);
        assert_eq!(select(&mut card, Credential::SlotUser).0.len(), 28, "the others have none");
    }

    #[test]
    fn each_pin_has_its_own_tries_and_asking_costs_none() {
        for tries in [3, 5, 10] {
            let mut card = Card::with(SERIAL, tries, Manner::Proper);
            select(&mut card, Credential::BackupShare);
            for left in (1..tries).rev() {
                assert_eq!(verify(&mut card, b"000000"), 0x63C0 | u16::from(left));
                assert_eq!(word(&mut card, &[0, 0x20, 0, 0x81]), 0x63C0 | u16::from(left));
            }
            assert_eq!(verify(&mut card, b"000000"), 0x6983);
            assert_eq!(verify(&mut card, TRANSPORT_PIN), 0x6983, "blocked, also for the right one");
            assert_eq!(change(&mut card, TRANSPORT_PIN, b"654321"), 0x6983);
            assert_eq!(card.tries_spent(), u32::from(tries));
            select(&mut card, Credential::SlotUser);
            assert_eq!(verify(&mut card, TRANSPORT_PIN), 0x9000);
            assert_eq!(word(&mut card, &[0, 0x20, 0, 0x81]), 0x9000);
        }
    }

    #[test]
    fn a_card_that_counts_an_empty_verify_loses_a_try() {
        let mut card = Card::with(SERIAL, 3, Manner::CountsEmptyVerify);
        select(&mut card, Credential::BackupShare);
        assert_eq!(word(&mut card, &[0, 0x20, 0, 0x81]), 0x63C2);
        assert_eq!((card.tries_left(Credential::BackupShare), card.tries_spent()), (2, 1));
    }

    #[test]
    fn a_change_wants_the_old_pin_whatever_its_length() {
        let mut card = Card::new(SERIAL);
        select(&mut card, Credential::BackupShare);
        assert_eq!(change(&mut card, b"000000", b"654321"), 0x63C2, "wrong, and counted");
        assert_eq!(change(&mut card, TRANSPORT_PIN, b"65432"), 0x6700);
        assert_eq!(change(&mut card, TRANSPORT_PIN, b"0123456789012"), 0x6700);
        assert!(card.is_on_transport_pin(Credential::BackupShare));
        assert_eq!(change(&mut card, TRANSPORT_PIN, b"012345678901"), 0x9000);
        assert_eq!(change(&mut card, b"012345678901", b"7654321"), 0x9000);
        assert!(!card.is_on_transport_pin(Credential::BackupShare));
        assert!(card.is_on_transport_pin(Credential::SlotUser));
        assert_eq!(verify(&mut card, TRANSPORT_PIN), 0x63C2);
        assert_eq!(verify(&mut card, b"7654321"), 0x9000);
    }

    #[test]
    fn records_are_touched_only_after_the_pin_and_only_until_the_next_selection() {
        let write = with_data([0, 0xD6, 0x82, 0], &[9; RECORD_BYTES]);
        let mut card = Card::new(SERIAL);
        assert_eq!(word(&mut card, &[0, 0xB0, 0x81, 0, 200]), 0x6985);
        select(&mut card, Credential::BackupShare);
        assert_eq!(word(&mut card, &[0, 0xB0, 0x81, 0, 200]), 0x6982);
        assert_eq!(word(&mut card, &write), 0x6982);
        assert_eq!(word(&mut card, &[0, 0xD6, 0x83, 0, 1, 0x0B]), 0x6982);
        verify(&mut card, TRANSPORT_PIN);
        assert_eq!(word(&mut card, &[0, 0xD6, 0x83, 0, 1, 0x0C]), 0x6A80);
        assert_eq!(word(&mut card, &[0, 0xB0, 0x81, 0, 199]), 0x6700);
        assert_eq!(word(&mut card, &write), 0x9000);
        assert_eq!(word(&mut card, &[0, 0xD6, 0x83, 0, 1, 0x0B]), 0x9000);
        assert_eq!(ask(&mut card, &[0, 0xB0, 0x82, 0, 200]), (vec![9; RECORD_BYTES], 0x9000));
        assert_eq!(card.record(Credential::BackupShare), Some(&[9; RECORD_BYTES]));
        for forget in
            [|card: &mut Card| drop(select(card, Credential::BackupShare)), |card: &mut Card| drop(card.reset())]
        {
            let mut card = card.clone();
            forget(&mut card);
            select(&mut card, Credential::BackupShare);
            assert_eq!(word(&mut card, &[0, 0xB0, 0x82, 0, 200]), 0x6982);
        }
    }

    #[test]
    fn a_card_pulled_amid_a_write_has_half_of_it_beside_the_record_in_force() {
        let mut card = opened(Card::new(SERIAL));
        card.put(Credential::BackupShare, RecordPlace::A, &[1; RECORD_BYTES]);
        card.point(Credential::BackupShare, Some(RecordPlace::A));
        card.tear(&with_data([0, 0xD6, 0x82, 0], &[2; RECORD_BYTES]));
        assert_eq!(card.record(Credential::BackupShare), Some(&[1; RECORD_BYTES]));
        let torn = card.place(Credential::BackupShare, RecordPlace::B);
        assert_eq!((torn[99], torn[100]), (2, 0));
        assert_eq!(word(&mut card, &[0, 0xB0, 0x81, 0, 200]), 0x6985, "it lost power");
    }

    #[test]
    fn a_card_pulled_while_it_compares_a_pin_has_spent_a_try() {
        let mut card = Card::new(SERIAL);
        select(&mut card, Credential::BackupShare);
        card.tear(&with_data([0, 0x24, 0, 0x81], b"123456654321"));
        assert_eq!((card.tries_left(Credential::BackupShare), card.tries_spent()), (2, 1));
        assert!(card.is_on_transport_pin(Credential::BackupShare));
    }

    #[test]
    fn manners_are_as_bad_as_they_say() {
        let mut foreign = Card::with(SERIAL, 3, Manner::Foreign);
        assert_eq!(select(&mut foreign, Credential::BackupShare), (vec![], 0x6A82));
        let mut response = Vec::new();
        Card::with(SERIAL, 3, Manner::Endless).transmit(&[0, 0xB0, 0x81, 0, 200], &mut response);
        assert_eq!(response.len(), ENDLESS_BYTES + 2);
        let mut full = opened(Card::with(SERIAL, 3, Manner::Full));
        assert_eq!(word(&mut full, &with_data([0, 0xD6, 0x81, 0], &[9; RECORD_BYTES])), 0x6A84);
        let mut short = opened(Card::with(SERIAL, 3, Manner::ShortRecord));
        assert_eq!(ask(&mut short, &[0, 0xB0, 0x81, 0, 200]), (vec![0; 199], 0x9000));
        let mut strange = Card::with(SERIAL, 3, Manner::StrangePlace);
        assert_eq!(select(&mut strange, Credential::BackupShare).0[18], 0x0C);
    }

    #[test]
    fn commands_of_any_shape_are_answered() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut card = opened(Card::new(SERIAL));
        let mut response = Vec::new();
        for _ in 0..20_000 {
            let mut apdu = vec![0; random.usize(..12)];
            random.fill(&mut apdu);
            if let [class, instruction, p1, ..] = &mut apdu[..] {
                (*class, *p1) = (0, *p1 & 0x83);
                *instruction = [0xA4, 0x20, 0x24, 0xB0, 0xD6, *instruction][random.usize(..6)];
            }
            card.transmit(&apdu, &mut response);
            assert!(response.len() >= 2);
            card.tear(&apdu);
        }
    }
}
