//! A reader with a keypad, and the person at it: PC/SC part 10 as plain data.
//!
//! The host asks for a dialogue with a PIN_VERIFY_STRUCTURE (19 bytes and a command) or a
//! PIN_MODIFY_STRUCTURE (24 bytes and a command), little-endian (PC/SC part 10, 2.5). The
//! pad asks the person, puts what was typed into the command and sends that to the card:
//! the host never sees a digit. The pad's own status words are 6400 (nobody typed in time),
//! 6401 (cancelled), 6402 (the new PINs differ), 6403 (too short or too long) and 6B80 (it
//! cannot do what the structure asks).
//!
//! A person is a queue of [`Entry`], one for each time the pad asks. Nothing here waits: a
//! dialogue that needs somebody says so ([`Progress`]), and whoever drives the pad waits, in
//! real time or not. The log of commands holds their headers, never what was typed.
//!
//! Pads differ in the field; [`Quirks`] says how (OpenSC issues 255, 317 and 424).
//! A pad that lost power forgets its dialogue and its person.

use std::collections::VecDeque;

use crate::cards::SmartCard;
use crate::code::Code;

/// `SCARD_CTL_CODE(3400)`: which features a reader has.
pub const GET_FEATURES: u32 = 0x4200_0D48;
/// The control code of a dialogue that verifies a PIN.
pub const VERIFY_PIN: u32 = 0x4233_0006;
/// The control code of a dialogue that changes a PIN.
pub const MODIFY_PIN: u32 = 0x4233_0007;
/// The control code that asks what the pad can do.
pub const PIN_PROPERTIES: u32 = 0x4233_000A;
/// How long a pad waits where the structure leaves it to the pad, seconds.
const TIMEOUT_S: u8 = 30;
/// Bytes of a PIN_VERIFY_STRUCTURE before the command.
const VERIFY_HEADER_BYTES: usize = 19;
/// Bytes of a PIN_MODIFY_STRUCTURE before the command.
const MODIFY_HEADER_BYTES: usize = 24;
/// `bmFormatString`: units of bytes, no offset, left-justified, ASCII.
const FORMAT_ASCII: u8 = 0x82;

/// What a person does when the pad asks for a PIN.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Types these digits and OK.
    Types(Code),
    /// Types what was typed last, but for the last digit.
    Mistypes,
    /// Thinks for so many milliseconds; the next entry follows.
    Hesitates(u32),
    /// Presses cancel.
    Cancels,
    /// Does nothing until the pad gives up, without anybody having to wait for it.
    LetsTimePass,
    /// Goes away, and does nothing of what was to come.
    WalksOff,
}

/// How a pad differs from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quirks {
    /// Whether it has a keypad at all.
    pub keypad: bool,
    /// Whether it can change a PIN, or only verify one.
    pub changes_pins: bool,
    /// Most digits that it takes for a PIN.
    pub digits_max: u8,
    /// What it wants to see of Lc in the command that it is given.
    pub lc: LcByte,
    /// Whether it can send a PIN of any length, without a block of fixed size.
    pub variable_length: bool,
}

impl Default for Quirks {
    fn default() -> Self {
        Quirks { keypad: true, changes_pins: true, digits_max: 16, lc: LcByte::Either, variable_length: true }
    }
}

/// Whether the command in a structure of a PIN of variable length carries Lc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LcByte {
    /// With or without: the pad sets it.
    Either,
    /// Only with.
    Needed,
    /// Only without.
    Refused,
}

/// When a card is pulled by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pull {
    /// When so many commands were answered from now on.
    AfterApdus(u32),
    /// At the command after so many: it is carried out, and nobody hears the answer.
    Unheard(u32),
    /// In the middle of the command after so many.
    Amid(u32),
    /// In the middle of the next command that writes data (UPDATE BINARY, PUT DATA).
    AmidWrite,
}

/// Whether a card answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// It did.
    Answered,
    /// There is none, or not any more.
    Lost,
}

/// A command that a card was sent, without its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Apdu {
    /// CLA, INS, P1, P2; fewer bytes than four leave zeros.
    pub header: [u8; 4],
    /// Bytes of the whole command.
    pub bytes: usize,
    /// Whether the pad made it of what a person typed.
    pub from_pad: bool,
    /// What the card answered; `None`: nothing was heard.
    pub status: Option<u16>,
}

/// Which dialogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialogue {
    /// One PIN.
    Verify,
    /// The old PIN, the new one, the new one again.
    Modify,
}

/// How far a dialogue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nobody is there: [`PinPad::go_on`] when somebody is, [`PinPad::time_out`] after so long.
    Waits {
        /// Milliseconds.
        timeout_ms: u32,
    },
    /// Somebody thinks for so many milliseconds; [`PinPad::go_on`] then.
    Hesitates(u32),
    /// It ended, and the status word is in the response; or the card was pulled.
    Ended(Contact),
}

/// A dialogue under way.
#[derive(Clone)]
struct Asking {
    /// The command that digits go into.
    command: Vec<u8>,
    /// Bytes of a block of fixed size; `None`: as long as the digits.
    block: Option<usize>,
    /// Where in the data the old PIN goes, if it is asked for.
    old_at: Option<usize>,
    /// Where the new one goes, or the only one.
    new_at: usize,
    /// Whether the new one is typed twice.
    confirms: bool,
    digits_min: usize,
    digits_max: usize,
    timeout_ms: u32,
    typed: Vec<Code>,
}

impl Asking {
    /// How often the pad asks.
    fn prompts(&self) -> usize {
        1 + usize::from(self.old_at.is_some()) + usize::from(self.confirms)
    }

    /// The command with the digits, or the pad's own status word.
    fn fill(&self) -> Result<Vec<u8>, u16> {
        let mut typed = self.typed.iter();
        let old = self.old_at.and_then(|_| typed.next());
        let new = typed.next().ok_or(0x6400_u16)?;
        if self.confirms && typed.next() != Some(new) {
            return Err(0x6402);
        }
        let mut command = self.command.clone();
        let Some(block) = self.block else {
            let old = old.map_or(&[][..], Code::bytes);
            command.truncate(4);
            command.push(u8::try_from(old.len() + new.bytes().len()).map_err(|_| 0x6403_u16)?);
            command.extend(old);
            command.extend(new.bytes());
            return Ok(command);
        };
        let placed = old.zip(self.old_at).into_iter().chain([(new, self.new_at)]);
        for (digits, at) in placed {
            let digits = digits.bytes();
            if digits.len() > block {
                return Err(0x6403);
            }
            command.get_mut(5 + at..5 + at + digits.len()).ok_or(0x6B80_u16)?.copy_from_slice(digits);
        }
        Ok(command)
    }
}

/// A reader with a keypad, perhaps a card in it, perhaps a person before it.
#[derive(Clone)]
pub struct PinPad<C> {
    /// What is special about it.
    pub quirks: Quirks,
    card: Option<C>,
    powered: bool,
    person: VecDeque<Entry>,
    asking: Option<Asking>,
    pull: Option<Pull>,
    pulled: Option<C>,
    apdus: Vec<Apdu>,
    dialogues: u32,
}

impl<C> Default for PinPad<C> {
    fn default() -> Self {
        PinPad::new(Quirks::default())
    }
}

impl<C> PinPad<C> {
    /// A pad without a card and without a person.
    #[must_use]
    pub fn new(quirks: Quirks) -> Self {
        PinPad {
            quirks,
            card: None,
            powered: false,
            person: VecDeque::new(),
            asking: None,
            pull: None,
            pulled: None,
            apdus: Vec::new(),
            dialogues: 0,
        }
    }

    /// A card goes in; what was in comes out.
    pub fn insert(&mut self, card: C) -> Option<C> {
        let before = self.remove();
        self.card = Some(card);
        before
    }

    /// The card comes out, or is handed back after it was pulled by itself.
    pub fn remove(&mut self) -> Option<C> {
        self.powered = false;
        self.pull = None;
        self.card.take().or_else(|| self.pulled.take())
    }

    /// Whether a card is in.
    #[must_use]
    pub fn has_card(&self) -> bool {
        self.card.is_some()
    }

    /// The card that is in.
    #[must_use]
    pub fn card(&self) -> Option<&C> {
        self.card.as_ref()
    }

    /// The same, to look into it and to change it.
    pub fn card_mut(&mut self) -> Option<&mut C> {
        self.card.as_mut()
    }

    /// The person will do this, after what was said before.
    pub fn expect(&mut self, entry: Entry) {
        self.person.push_back(entry);
    }

    /// The person forgets what was to come.
    pub fn forget(&mut self) {
        self.person.clear();
    }

    /// What the person was still going to do.
    #[must_use]
    pub fn expected(&self) -> usize {
        self.person.len()
    }

    /// The card will be pulled by itself; 0 commands from now is now.
    pub fn pull(&mut self, pull: Pull) {
        self.pull = Some(pull);
        if pull == Pull::AfterApdus(0) {
            self.lose();
        }
    }

    /// The commands since the log was emptied, oldest first.
    #[must_use]
    pub fn apdus(&self) -> &[Apdu] {
        &self.apdus
    }

    /// Empties the log.
    pub fn take_apdus(&mut self) -> Vec<Apdu> {
        std::mem::take(&mut self.apdus)
    }

    /// How often a dialogue began.
    #[must_use]
    pub fn dialogues(&self) -> u32 {
        self.dialogues
    }

    /// Whether a dialogue is under way.
    #[must_use]
    pub fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// The features as PC/SC lists them: tag, length 4, control code, big-endian.
    #[must_use]
    pub fn features(&self) -> Vec<u8> {
        let mut list = Vec::new();
        if self.quirks.keypad {
            let mut feature = |tag: u8, code: u32| {
                list.extend([tag, 4]);
                list.extend(code.to_be_bytes());
            };
            feature(0x06, VERIFY_PIN);
            if self.quirks.changes_pins {
                feature(0x07, MODIFY_PIN);
            }
            feature(0x0A, PIN_PROPERTIES);
        }
        list
    }

    /// PIN_PROPERTIES_STRUCTURE: no display, a PIN is ended by OK, one timeout.
    #[must_use]
    pub fn properties(&self) -> [u8; 4] {
        [0, 0, 0x02, 0]
    }

    /// The card is gone without anybody having taken it out in order.
    fn lose(&mut self) {
        self.pulled = self.card.take();
        self.powered = false;
        self.pull = None;
    }
}

impl<C: SmartCard> PinPad<C> {
    /// Powers the card: its answer to reset. A dialogue that a host left behind ends.
    pub fn power(&mut self) -> Option<Vec<u8>> {
        self.asking = None;
        let answer = self.card.as_mut()?.power();
        self.powered = true;
        Some(answer)
    }

    /// Resets the card.
    pub fn reset(&mut self) -> Option<Vec<u8>> {
        if !self.powered {
            return self.power();
        }
        Some(self.card.as_mut()?.reset())
    }

    /// Takes power away; a card forgets then what was selected and verified.
    pub fn power_off(&mut self) {
        self.powered = false;
    }

    /// Sends a command to the card.
    pub fn transmit(&mut self, apdu: &[u8], response: &mut Vec<u8>) -> Contact {
        self.send(apdu, false, response)
    }

    /// The host asks for a dialogue.
    pub fn begin(&mut self, dialogue: Dialogue, structure: &[u8], response: &mut Vec<u8>) -> Progress {
        response.clear();
        if self.card.is_none() || !self.powered {
            return Progress::Ended(Contact::Lost);
        }
        match self.understand(dialogue, structure) {
            Some(asking) => {
                self.dialogues += 1;
                self.asking = Some(asking);
                self.go_on(response)
            }
            None => self.end(0x6B80, response),
        }
    }

    /// Goes on with the dialogue; harmless when there is none.
    pub fn go_on(&mut self, response: &mut Vec<u8>) -> Progress {
        response.clear();
        loop {
            let Some(asking) = &mut self.asking else { return Progress::Ended(Contact::Lost) };
            if self.card.is_none() || !self.powered {
                self.asking = None;
                return Progress::Ended(Contact::Lost);
            }
            let timeout_ms = asking.timeout_ms;
            let digits = match self.person.pop_front() {
                None => return Progress::Waits { timeout_ms },
                Some(Entry::Hesitates(pause_ms)) if pause_ms < timeout_ms => return Progress::Hesitates(pause_ms),
                Some(Entry::Hesitates(_) | Entry::LetsTimePass) => return self.end(0x6400, response),
                Some(Entry::Cancels) => return self.end(0x6401, response),
                Some(Entry::WalksOff) => {
                    self.person.clear();
                    return Progress::Waits { timeout_ms };
                }
                Some(Entry::Mistypes) => mistyped(asking.typed.last()),
                Some(Entry::Types(digits)) => digits,
            };
            if !(asking.digits_min..=asking.digits_max).contains(&digits.bytes().len()) {
                return self.end(0x6403, response);
            }
            asking.typed.push(digits);
            if asking.typed.len() < asking.prompts() {
                continue;
            }
            let filled = asking.fill();
            self.asking = None;
            return match filled {
                Ok(command) => Progress::Ended(self.send(&command, true, response)),
                Err(word) => self.end(word, response),
            };
        }
    }

    /// Nobody came: the dialogue ends with 6400.
    pub fn time_out(&mut self, response: &mut Vec<u8>) -> Progress {
        self.end(0x6400, response)
    }

    fn end(&mut self, word: u16, response: &mut Vec<u8>) -> Progress {
        self.asking = None;
        response.clear();
        response.extend(word.to_be_bytes());
        Progress::Ended(Contact::Answered)
    }

    /// Reads a structure; `None`: this pad cannot do that.
    fn understand(&self, dialogue: Dialogue, structure: &[u8]) -> Option<Asking> {
        let quirks = self.quirks;
        let header_bytes = match dialogue {
            Dialogue::Verify => VERIFY_HEADER_BYTES,
            Dialogue::Modify => MODIFY_HEADER_BYTES,
        };
        let (header, command) = structure.split_at_checked(header_bytes)?;
        let (rest, said) = header.split_last_chunk::<4>()?;
        let &[timeout_s, _, format, block, length_format, ..] = rest else { return None };
        let (old_at, new_at, limits, confirms) = match (dialogue, rest) {
            (Dialogue::Verify, &[_, _, _, _, _, max, min, ..]) => (None, 0, [min, max], false),
            (Dialogue::Modify, &[_, _, _, _, _, old_at, new_at, max, min, confirm, ..]) => {
                let old_at = (confirm & 2 != 0).then_some(usize::from(old_at));
                (old_at, usize::from(new_at), [min, max], confirm & 1 != 0)
            }
            _ => return None,
        };
        let can = quirks.keypad && (dialogue == Dialogue::Verify || quirks.changes_pins);
        let plain = format == FORMAT_ASCII && block >> 4 == 0 && length_format == 0;
        if !can || !plain || limits[1] > quirks.digits_max || limits[0] > limits[1] {
            return None;
        }
        if usize::try_from(u32::from_le_bytes(*said)) != Ok(command.len()) || command.len() < 4 {
            return None;
        }
        let block = match usize::from(block & 0x0F) {
            0 => {
                let lc_fits = match quirks.lc {
                    LcByte::Either => command.len() <= 5,
                    LcByte::Needed => command.len() == 5,
                    LcByte::Refused => command.len() == 4,
                };
                if !quirks.variable_length || !lc_fits {
                    return None;
                }
                None
            }
            bytes => {
                if command.len() < 5 || usize::from(command[4]) != command.len() - 5 {
                    return None;
                }
                Some(bytes)
            }
        };
        Some(Asking {
            command: command.to_vec(),
            block,
            old_at,
            new_at,
            confirms,
            digits_min: usize::from(limits[0]),
            digits_max: usize::from(limits[1]),
            timeout_ms: u32::from(if timeout_s == 0 { TIMEOUT_S } else { timeout_s }) * 1_000,
            typed: Vec::new(),
        })
    }

    fn send(&mut self, apdu: &[u8], from_pad: bool, response: &mut Vec<u8>) -> Contact {
        response.clear();
        let Some(card) = self.card.as_mut().filter(|_| self.powered) else { return Contact::Lost };
        let mut header = [0; 4];
        for (to, from) in header.iter_mut().zip(apdu) {
            *to = *from;
        }
        let writes = matches!(header[1], 0xD6 | 0xDA);
        let lost = match &mut self.pull {
            Some(Pull::Unheard(0)) => {
                card.transmit(apdu, response);
                true
            }
            Some(Pull::Amid(0)) => {
                card.tear(apdu);
                true
            }
            Some(Pull::AmidWrite) if writes => {
                card.tear(apdu);
                true
            }
            Some(Pull::AfterApdus(left) | Pull::Unheard(left) | Pull::Amid(left)) => {
                *left = left.saturating_sub(1);
                false
            }
            Some(Pull::AmidWrite) | None => false,
        };
        if lost {
            response.clear();
            self.apdus.push(Apdu { header, bytes: apdu.len(), from_pad, status: None });
            self.lose();
            return Contact::Lost;
        }
        card.transmit(apdu, response);
        let status = response.last_chunk().map(|word| u16::from_be_bytes(*word));
        self.apdus.push(Apdu { header, bytes: apdu.len(), from_pad, status });
        if self.pull == Some(Pull::AfterApdus(0)) {
            self.lose();
        }
        Contact::Answered
    }
}

/// The digits that were typed last, but for the last one.
fn mistyped(last: Option<&Code>) -> Code {
    let mut digits = last.map_or_else(|| b"000000".to_vec(), |code| code.bytes().to_vec());
    if let Some(digit) = digits.last_mut() {
        *digit = if *digit == b'0' { b'1' } else { b'0' };
    }
    Code::new(&digits)
}

/// A PIN_VERIFY_STRUCTURE for a PIN of variable length: `digits` are the least and the most.
#[must_use]
pub fn verify_structure(command: &[u8], digits: [u8; 2], timeout_s: u8) -> Vec<u8> {
    let mut structure = vec![timeout_s, timeout_s, FORMAT_ASCII, 0, 0, digits[1], digits[0], 0x02, 1, 9, 4, 0, 0, 0, 0];
    close(&mut structure, command);
    structure
}

/// A PIN_MODIFY_STRUCTURE for PINs of variable length: old, new, and new again.
#[must_use]
pub fn modify_structure(command: &[u8], digits: [u8; 2], timeout_s: u8) -> Vec<u8> {
    let mut structure = vec![timeout_s, timeout_s, FORMAT_ASCII, 0, 0, 0, 0, digits[1], digits[0], 0x03, 0x02, 3, 9, 4];
    structure.extend([0, 1, 2, 0, 0, 0]);
    close(&mut structure, command);
    structure
}

fn close(structure: &mut Vec<u8>, command: &[u8]) {
    let len = u32::try_from(command.len()).expect("a command is a few bytes");
    structure.extend(len.to_le_bytes());
    structure.extend(command);
}

#[cfg(test)]
mod tests {
    use slotwarden_core::card::{Credential, RecordPlace};

    use super::*;
    use crate::cards::{Card, aid};

    const VERIFY: [u8; 5] = [0, 0x20, 0, 0x81, 0];
    const CHANGE: [u8; 5] = [0, 0x24, 0, 0x81, 0];

    fn pad() -> PinPad<Card> {
        let mut pad = PinPad::default();
        pad.insert(Card::new([1; 8]));
        select(&mut pad);
        pad
    }

    fn select(pad: &mut PinPad<Card>) {
        pad.power().unwrap();
        let apdu = [&[0, 0xA4, 4, 0, 12][..], &aid(Credential::BackupShare), &[0]].concat();
        assert_eq!(pad.transmit(&apdu, &mut Vec::new()), Contact::Answered);
        pad.take_apdus();
    }

    fn types(pad: &mut PinPad<Card>, pins: &[&str]) {
        pins.iter().for_each(|pin| pad.expect(Entry::Types(Code::new(pin.as_bytes()))));
    }

    #[track_caller]
    fn ends(pad: &mut PinPad<Card>, dialogue: Dialogue, word: u16) {
        let structure = match dialogue {
            Dialogue::Verify => verify_structure(&VERIFY, [6, 12], 30),
            Dialogue::Modify => modify_structure(&CHANGE, [6, 12], 30),
        };
        let mut response = Vec::new();
        assert_eq!(pad.begin(dialogue, &structure, &mut response), Progress::Ended(Contact::Answered));
        assert_eq!(format!("{word:04x}"), format!("{:02x}{:02x}", response[0], response[1]));
        assert!(!pad.is_asking());
    }

    #[test]
    fn what_the_pad_ends_itself_never_reaches_the_card() {
        let mut pad = pad();
        pad.expect(Entry::LetsTimePass);
        ends(&mut pad, Dialogue::Verify, 0x6400);
        pad.expect(Entry::Cancels);
        ends(&mut pad, Dialogue::Verify, 0x6401);
        types(&mut pad, &["12345"]);
        ends(&mut pad, Dialogue::Verify, 0x6403);
        types(&mut pad, &["123456", "654321", "654322"]);
        ends(&mut pad, Dialogue::Modify, 0x6402);
        types(&mut pad, &["123456", "654321"]);
        pad.expect(Entry::Mistypes);
        ends(&mut pad, Dialogue::Modify, 0x6402);
        types(&mut pad, &["123456", "6543210987654"]);
        ends(&mut pad, Dialogue::Modify, 0x6403);
        assert_eq!((pad.apdus().len(), pad.dialogues()), (0, 6));
        assert_eq!(pad.card().unwrap().tries_spent(), 0);
    }

    #[test]
    fn what_is_typed_goes_to_the_card_and_nowhere_else() {
        let mut pad = pad();
        types(&mut pad, &["000000"]);
        ends(&mut pad, Dialogue::Verify, 0x63C2);
        types(&mut pad, &["123456", "87654321", "87654321"]);
        ends(&mut pad, Dialogue::Modify, 0x9000);
        types(&mut pad, &["87654321"]);
        ends(&mut pad, Dialogue::Verify, 0x9000);
        let log = pad.take_apdus();
        assert_eq!(log.iter().map(|apdu| apdu.bytes).collect::<Vec<_>>(), [11, 19, 13]);
        assert!(log.iter().all(|apdu| apdu.from_pad));
    }

    #[test]
    fn nobody_there_is_waited_for_and_a_pause_is_told() {
        let mut pad = pad();
        let mut response = Vec::new();
        let structure = verify_structure(&VERIFY, [6, 12], 15);
        let waits = Progress::Waits { timeout_ms: 15_000 };
        assert_eq!(pad.begin(Dialogue::Verify, &structure, &mut response), waits);
        pad.expect(Entry::Hesitates(700));
        types(&mut pad, &["123456"]);
        assert_eq!(pad.go_on(&mut response), Progress::Hesitates(700));
        assert_eq!(pad.go_on(&mut response), Progress::Ended(Contact::Answered));
        assert_eq!(response, [0x90, 0]);
        pad.expect(Entry::WalksOff);
        types(&mut pad, &["123456"]);
        assert_eq!(pad.begin(Dialogue::Verify, &structure, &mut response), waits);
        assert_eq!(pad.expected(), 0);
        pad.time_out(&mut response);
        assert_eq!(response, [0x64, 0]);
    }

    #[test]
    fn pads_refuse_what_they_cannot_do() {
        let refuses = |quirks: Quirks, structure: &[u8], dialogue| {
            let mut pad = pad();
            pad.quirks = quirks;
            types(&mut pad, &["123456", "654321", "654321"]);
            let mut response = Vec::new();
            pad.begin(dialogue, structure, &mut response);
            response == [0x6B, 0x80]
        };
        let usual = Quirks::default();
        let with_lc = verify_structure(&VERIFY, [6, 12], 0);
        let without_lc = verify_structure(&VERIFY[..4], [6, 12], 0);
        let long = verify_structure(&VERIFY, [6, 16], 0);
        assert!(!refuses(usual, &with_lc, Dialogue::Verify) && !refuses(usual, &without_lc, Dialogue::Verify));
        assert!(refuses(Quirks { lc: LcByte::Needed, ..usual }, &without_lc, Dialogue::Verify));
        assert!(refuses(Quirks { lc: LcByte::Refused, ..usual }, &with_lc, Dialogue::Verify));
        assert!(refuses(Quirks { variable_length: false, ..usual }, &with_lc, Dialogue::Verify));
        assert!(!refuses(usual, &long, Dialogue::Verify));
        assert!(refuses(Quirks { digits_max: 15, ..usual }, &long, Dialogue::Verify));
        let modify = modify_structure(&CHANGE, [6, 12], 0);
        assert!(refuses(Quirks { changes_pins: false, ..usual }, &modify, Dialogue::Modify));
        assert!(refuses(Quirks { keypad: false, ..usual }, &with_lc, Dialogue::Verify));
        for cut in 0..with_lc.len() {
            assert!(refuses(usual, &with_lc[..cut], Dialogue::Verify), "{cut} bytes of a structure");
        }
    }

    #[test]
    fn a_block_of_fixed_size_keeps_what_the_digits_leave() {
        let mut pad = pad();
        pad.quirks.variable_length = false;
        let command = [&[0, 0x20, 0, 0x81, 8][..], &[0xFF; 8]].concat();
        let mut structure = verify_structure(&command, [6, 8], 0);
        structure[3] = 8;
        types(&mut pad, &["123456"]);
        pad.card_mut().unwrap().set_pin(Credential::BackupShare, Code::new(b"123456\xFF\xFF"));
        let mut response = Vec::new();
        pad.begin(Dialogue::Verify, &structure, &mut response);
        assert_eq!(response, [0x90, 0]);
    }

    #[test]
    fn a_card_is_pulled_where_it_was_said() {
        let write = [&[0, 0xD6, 0x81, 0, 200][..], &[5; 200]].concat();
        let mut response = Vec::new();
        let half = |pad: &mut PinPad<Card>| {
            let card = pad.remove().unwrap();
            let place = card.place(Credential::BackupShare, RecordPlace::A);
            (place[0], place[199])
        };
        let cases = [
            (Pull::AfterApdus(1), (5, 5), Contact::Answered),
            (Pull::Unheard(0), (5, 5), Contact::Lost),
            (Pull::Amid(0), (5, 0), Contact::Lost),
            (Pull::AmidWrite, (5, 0), Contact::Lost),
            (Pull::AfterApdus(0), (0, 0), Contact::Lost),
        ];
        for (pull, written, contact) in cases {
            let mut pad = pad();
            types(&mut pad, &["123456"]);
            ends(&mut pad, Dialogue::Verify, 0x9000);
            pad.pull(pull);
            assert_eq!(pad.transmit(&write, &mut response), contact, "{pull:?}");
            assert!(!pad.has_card());
            assert_eq!(pad.transmit(&write, &mut response), Contact::Lost);
            assert_eq!(half(&mut pad), written, "{pull:?}");
        }
    }

    #[test]
    fn a_card_pulled_during_a_dialogue_ends_it() {
        let mut pad = pad();
        let mut response = Vec::new();
        pad.begin(Dialogue::Verify, &verify_structure(&VERIFY, [6, 12], 0), &mut response);
        assert!(pad.is_asking());
        pad.remove();
        types(&mut pad, &["123456"]);
        assert_eq!(pad.go_on(&mut response), Progress::Ended(Contact::Lost));
        assert_eq!(pad.apdus().len(), 0);
    }
}
