//! What a PIN pad can do, and how it is asked: PC/SC part 10 (revision 2.02.09), "IFDs with
//! Secure PIN Entry Capabilities".
//!
//! A reader names its features when asked with `CM_IOCTL_GET_FEATURE_REQUEST`: blocks of tag,
//! length 4 and a control code, big-endian. Only a reader with both `VERIFY_PIN_DIRECT` and
//! `MODIFY_PIN_DIRECT` is used (P2). The structures that begin a dialogue are little-endian and
//! not padded; they end with the command into which the *reader* puts the digits. Nothing here
//! has a place for one (P1): of a PIN the host knows how long it may be.
//!
//! Pads differ from the specification, and what they do instead is data ([`Quirks`]): some
//! take at most 15 digits (OpenSC issue 255), the block carries Lc or does not (issue 317),
//! some take PINs of one length only (issue 424). What the driver knows of the digits comes
//! from `GET_TLV_PROPERTIES`; the configuration can say the rest, by the reader's name.

use slotwarden_core::card::apdu::PinTemplate;
use slotwarden_core::limits::PAD_DEADLINE_MS;

use crate::config::CardsSettings;

/// `CM_IOCTL_GET_FEATURE_REQUEST` (part 10, §2.2), before `SCARD_CTL_CODE`.
pub(super) const GET_FEATURE_REQUEST: u32 = 3400;
/// Longest answer of a reader to a question about itself, bytes: some twenty features of six.
pub(super) const ABOUT_BYTES_MAX: usize = 512;

/// Tags of features (part 10, §2.3).
const VERIFY_PIN_DIRECT: u8 = 0x06;
const MODIFY_PIN_DIRECT: u8 = 0x07;
const GET_TLV_PROPERTIES: u8 = 0x12;
/// Tag of the longest PIN a pad takes, in the answer to `GET_TLV_PROPERTIES` (§2.6.14).
const MAX_PIN_SIZE: u8 = 7;

/// `bTimerOut` and `bTimerOut2` of a PIN: how long the pad waits for the first digit, and from
/// there to the end, seconds. A pad that ends its dialogue says so; the core stops waiting later.
const VERIFY_TIMEOUTS_S: [u8; 2] = [30, 30];
/// The same for each of the three PINs of a change.
const MODIFY_TIMEOUTS_S: [u8; 2] = [15, 14];
const _: () = assert!((VERIFY_TIMEOUTS_S[0] + VERIFY_TIMEOUTS_S[1]) as u64 * 1000 < PAD_DEADLINE_MS);
const _: () = assert!(3 * (MODIFY_TIMEOUTS_S[0] + MODIFY_TIMEOUTS_S[1]) as u64 * 1000 < PAD_DEADLINE_MS);
/// `bEntryValidationCondition`: the person presses the key that ends the entry.
const VALIDATION_KEY: u8 = 0x02;
/// The same, or all digits are there: for PINs of one length.
const VALIDATION_KEY_OR_FULL: u8 = 0x03;
/// `bConfirmPIN`: the old PIN is asked for, and the new one twice.
const CONFIRM_AND_OLD: u8 = 0x03;
/// `wLangId` of the texts on a pad's display: English (United States). Part 10 names the
/// language, not the text.
const LANGUAGE: u16 = 0x0409;
/// What stands where the reader puts digits of a PIN of one length.
const FILLER: u8 = 0xFF;

/// Control codes of a reader with a pad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Features {
    /// Begins the dialogue of VERIFY.
    pub(super) verify: u32,
    /// Begins the dialogue of CHANGE REFERENCE DATA.
    pub(super) modify: u32,
    /// Asks what the pad says about itself.
    pub(super) properties: Option<u32>,
}

impl Features {
    /// Reads the answer to the feature request; `None` without secure PIN entry.
    pub(super) fn read(answer: &[u8]) -> Option<Self> {
        let (blocks, _) = answer.as_chunks::<6>();
        let code = |wanted| {
            blocks.iter().find_map(|[tag, length, code @ ..]| {
                (*tag == wanted && *length == 4).then_some(u32::from_be_bytes(*code))
            })
        };
        let (verify, modify) = (code(VERIFY_PIN_DIRECT)?, code(MODIFY_PIN_DIRECT)?);
        Some(Features { verify, modify, properties: code(GET_TLV_PROPERTIES) })
    }
}

/// The longest PIN that a pad says it takes, if it says one.
pub(super) fn digits_said(mut properties: &[u8]) -> Option<u8> {
    while let [tag, length, rest @ ..] = properties {
        let value = rest.get(..usize::from(*length))?;
        if *tag == MAX_PIN_SIZE {
            // Little-endian; 0 says nothing.
            return value.first().copied().filter(|digits| *digits > 0);
        }
        properties = &rest[value.len()..];
    }
    None
}

/// What is to be known of one pad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quirks {
    /// It takes no PIN with more digits.
    pub(super) digits_max: Option<u8>,
    /// Whether the block for a PIN of any length carries Lc.
    pub(super) lc: bool,
    /// Whether it takes PINs of any length.
    pub(super) variable_length: bool,
}

impl Quirks {
    /// What the configuration says about the reader, else what the pad said.
    pub(super) fn of(settings: &CardsSettings, name: &str, said: Option<u8>) -> Self {
        let pad = settings.pads.iter().find(|pad| pad.reader.fits(name));
        Quirks {
            digits_max: pad.and_then(|pad| pad.digits_max).or(said),
            lc: pad.and_then(|pad| pad.lc).unwrap_or(true),
            variable_length: pad.and_then(|pad| pad.variable_length).unwrap_or(true),
        }
    }
}

/// How many digits the pad lets a person type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Digits {
    /// At least and at most so many.
    Between(u8, u8),
    /// Exactly so many.
    Exactly(u8),
}

impl Digits {
    /// `None`: no PIN of such a card can be typed on such a pad.
    fn of(template: &PinTemplate, quirks: Quirks) -> Option<Self> {
        let (min, max) = (template.digits_min(), template.digits_max());
        let most = quirks.digits_max.unwrap_or(max);
        let digits = if quirks.variable_length { Digits::Between(min, most.min(max)) } else { Digits::Exactly(most) };
        let possible = most >= min && (quirks.variable_length || most <= max);
        possible.then_some(digits)
    }

    /// `wPINMaxExtraDigit`: least and most, as the two bytes of a number.
    fn bounds(self) -> [u8; 2] {
        let (min, max) = match self {
            Digits::Between(min, max) => (min, max),
            Digits::Exactly(digits) => (digits, digits),
        };
        u16::from_be_bytes([min, max]).to_le_bytes()
    }

    fn validation(self) -> u8 {
        match self {
            Digits::Between(..) => VALIDATION_KEY,
            Digits::Exactly(_) => VALIDATION_KEY_OR_FULL,
        }
    }

    /// `bmPINBlockString`: size of the block of a PIN, 0 if the reader makes it as long as the PIN.
    fn block(self) -> u8 {
        match self {
            Digits::Between(..) => PinTemplate::BLOCK_STRING,
            Digits::Exactly(digits) => digits,
        }
    }

    /// `bInsertionOffsetNew`: behind the old PIN, if that has a length of its own.
    fn offset_new(self, template: &PinTemplate) -> u8 {
        match self {
            Digits::Between(..) => template.offset_new(),
            Digits::Exactly(digits) => template.offset_old() + digits,
        }
    }

    /// The command with places for so many PINs.
    fn command(self, header: [u8; 4], pins: u8, lc: bool) -> Vec<u8> {
        let mut command = header.to_vec();
        match self {
            Digits::Between(..) if lc => command.push(0),
            Digits::Between(..) => {}
            Digits::Exactly(digits) => {
                let places = digits * pins;
                command.push(places);
                command.extend(std::iter::repeat_n(FILLER, usize::from(places)));
            }
        }
        command
    }
}

/// `PIN_VERIFY_STRUCTURE` (§2.6.1), 19 bytes and the command; `None` if the pad takes no PIN
/// as long as such a card has one.
pub(super) fn verify_block(template: &PinTemplate, quirks: Quirks) -> Option<Vec<u8>> {
    let digits = Digits::of(template, quirks)?;
    let command = digits.command(template.header(), 1, quirks.lc);
    let mut block = VERIFY_TIMEOUTS_S.to_vec();
    block.extend([PinTemplate::FORMAT_STRING, digits.block(), PinTemplate::LENGTH_FORMAT]);
    block.extend(digits.bounds());
    block.extend([digits.validation(), 1]); // bNumberMessage: one
    block.extend(LANGUAGE.to_le_bytes());
    block.push(0); // bMsgIndex: the first
    end_block(block, &command)
}

/// `PIN_MODIFY_STRUCTURE` (§2.6.2), 24 bytes and the command; `None` as for [`verify_block`].
pub(super) fn modify_block(template: &PinTemplate, quirks: Quirks) -> Option<Vec<u8>> {
    let digits = Digits::of(template, quirks)?;
    let command = digits.command(template.header(), 2, quirks.lc);
    let mut block = MODIFY_TIMEOUTS_S.to_vec();
    block.extend([
        PinTemplate::FORMAT_STRING,
        digits.block(),
        PinTemplate::LENGTH_FORMAT,
        template.offset_old(),
        digits.offset_new(template),
    ]);
    block.extend(digits.bounds());
    block.extend([CONFIRM_AND_OLD, digits.validation(), 3]); // bNumberMessage: old, new, again
    block.extend(LANGUAGE.to_le_bytes());
    block.extend([0, 1, 2]); // bMsgIndex1 to bMsgIndex3
    end_block(block, &command)
}

/// `bTeoPrologue`, `ulDataLength`, `abData`.
fn end_block(mut block: Vec<u8>, command: &[u8]) -> Option<Vec<u8>> {
    block.extend([0; 3]);
    block.extend(u32::try_from(command.len()).ok()?.to_le_bytes());
    block.extend(command);
    Some(block)
}

#[cfg(test)]
mod tests {
    use slotwarden_core::card::apdu::pin_template;
    use slotwarden_core::card::{CardCall, Credential, ProfileId};

    use super::*;
    use crate::config::{NamePattern, PadSettings};

    const PLAIN: Quirks = Quirks { digits_max: None, lc: true, variable_length: true };

    fn verify() -> PinTemplate {
        let (profile, credential) = (ProfileId::Iso7816Files, Credential::BackupShare);
        pin_template(&CardCall::Verify { profile, credential }).expect("a dialogue")
    }

    fn modify() -> PinTemplate {
        let (profile, credential) = (ProfileId::Iso7816Files, Credential::BackupShare);
        pin_template(&CardCall::ChangePin { profile, credential }).expect("a dialogue")
    }

    #[test]
    fn p02_a_reader_that_lacks_one_of_the_two_features_has_no_secure_pin_entry() {
        let verify = [0x06, 4, 0x42, 0x33, 0x00, 0x06];
        let modify = [0x07, 4, 0x42, 0x33, 0x00, 0x07];
        let properties = [0x12, 4, 0x42, 0x33, 0x00, 0x12];
        for answer in [
            vec![],
            verify.to_vec(),
            modify.to_vec(),
            [verify, properties].concat(),
            [&verify[..], &modify[..5]].concat(),
            [verify, [0x07, 3, 0x42, 0x33, 0x00, 0x07]].concat(),
        ] {
            assert_eq!(Features::read(&answer), None, "{answer:02X?}");
        }
        let features = Features { verify: 0x4233_0006, modify: 0x4233_0007, properties: None };
        assert_eq!(Features::read(&[modify, verify].concat()), Some(features));
        let features = Features { properties: Some(0x4233_0012), ..features };
        assert_eq!(Features::read(&[verify, properties, modify].concat()), Some(features));
    }

    #[test]
    fn what_a_pad_says_of_its_digits_counts_unless_it_says_nonsense() {
        for said in [&[][..], &[7], &[7, 1], &[7, 0], &[6, 1, 4, 7, 1, 0], &[6, 9, 4]] {
            assert_eq!(digits_said(said), None, "{said:02X?}");
        }
        // Display of 2 × 16, at least 4 and at most 8 digits: as libccid says of a GemPC Pinpad.
        assert_eq!(digits_said(&[1, 2, 0x10, 0x02, 6, 1, 4, 7, 1, 8, 9, 1, 0]), Some(8));
    }

    #[test]
    fn the_block_of_verify_has_the_bytes_of_the_specification() {
        let block = verify_block(&verify(), PLAIN).expect("it takes such a PIN");
        let expected = [
            30, 30, 0x82, 0x00, 0x00, // timeouts, format, block, length
            12, 6, // most and least digits: 0x060C, little-endian
            0x02, 1, 0x09, 0x04, 0, // key, one message, language, index
            0, 0, 0, 5, 0, 0, 0, // prologue, length
            0x00, 0x20, 0x00, 0x81, 0x00,
        ];
        assert_eq!(block, expected);
    }

    #[test]
    fn the_block_of_a_change_has_the_bytes_of_the_specification() {
        let block = modify_block(&modify(), PLAIN).expect("it takes such a PIN");
        let expected = [
            15, 14, 0x82, 0x00, 0x00, 0, 0, // as above, offsets of old and new
            12, 6, 0x03, 0x02, 3, 0x09, 0x04, 0, 1, 2, // digits, old and twice new, key, three messages
            0, 0, 0, 5, 0, 0, 0, // prologue, length
            0x00, 0x24, 0x00, 0x81, 0x00,
        ];
        assert_eq!(block, expected);
    }

    #[test]
    fn pads_that_differ_are_asked_as_they_want_it() {
        assert_eq!(verify_block(&verify(), Quirks { digits_max: Some(5), ..PLAIN }), None);
        let short = verify_block(&verify(), Quirks { digits_max: Some(8), ..PLAIN }).expect("6 to 8");
        assert_eq!(short[5..7], [8, 6]);
        let wide = verify_block(&verify(), Quirks { digits_max: Some(15), ..PLAIN }).expect("the card's own bound");
        assert_eq!(wide[5..7], [12, 6]);
        let bare = verify_block(&verify(), Quirks { lc: false, ..PLAIN }).expect("without Lc");
        assert_eq!(bare[15..], [4, 0, 0, 0, 0x00, 0x20, 0x00, 0x81]);
        let fixed = Quirks { digits_max: Some(8), lc: false, variable_length: false };
        assert_eq!(verify_block(&verify(), Quirks { digits_max: Some(15), ..fixed }), None, "the card takes 12");
        let block = verify_block(&verify(), fixed).expect("exactly 8");
        assert_eq!((block[3], &block[5..8]), (8, &[8, 8, 0x03][..]));
        assert_eq!(block[15..], [&[13, 0, 0, 0, 0x00, 0x20, 0x00, 0x81, 8][..], &[0xFF; 8]].concat());
        let block = modify_block(&modify(), fixed).expect("exactly 8, twice");
        assert_eq!((block[3], &block[5..9]), (8, &[0, 8, 8, 8][..]));
        assert_eq!(block[20..], [&[21, 0, 0, 0, 0x00, 0x24, 0x00, 0x81, 16][..], &[0xFF; 16]].concat());
    }

    #[test]
    fn the_configuration_counts_before_what_the_pad_says() {
        let pad = |text, digits_max, lc| PadSettings {
            reader: NamePattern::new(text),
            digits_max,
            lc,
            variable_length: None,
        };
        let pads = vec![pad("Old*", Some(15), None), pad("Pad", None, Some(false))];
        let settings = CardsSettings { enabled: true, exclude: vec![], pads };
        assert_eq!(Quirks::of(&settings, "New Reader", None), PLAIN);
        assert_eq!(Quirks::of(&settings, "Old Pad", Some(8)), Quirks { digits_max: Some(15), ..PLAIN });
        assert_eq!(Quirks::of(&settings, "My Pad", Some(8)), Quirks { digits_max: Some(8), lc: false, ..PLAIN });
    }
}
