//! Kinds of card: where a record lies, how its PIN is named, how its tries are asked for.
//!
//! A profile says it as data and reads what its card answers; the bytes of a command are put
//! together in [`super::apdu`], which no profile goes around. Cards are asked in the order of
//! [`ProfileId::ALL`], and the first whose application is there counts.
//!
//! | profile | where | safe writing |
//! |---|---|---|
//! | [`iso7816_files`] | files of an application for each credential | two places and a pointer |
//! | [`openpgp`] | data object 0103 | the card's own |
//!
//! Commands are short APDUs, one exchange each. `GET RESPONSE` is never sent: readers and cards
//! speak T=1, or the reader fetches by itself. Profiles are constants, the same after a restart.

pub mod iso7816_files;
pub mod openpgp;

use super::{CardSerial, Credential, ProfileId, RecordPlace, Selected, StatusWord};
use crate::share::record::ShareHeader;

/// CLA, INS, P1 and P2 of a command.
pub type CommandHeader = [u8; 4];

/// How a record is kept whole when the card is pulled while it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum WriteSafety {
    /// It is written beside the one in force; then one byte says which of the two counts.
    TwoPlaces,
    /// There is one place: the card must write it wholly or not at all, and it is read back.
    CardsOwn,
}

/// A command that asks for something: its header and how much is expected, 0 for up to 256 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Question {
    /// CLA, INS, P1, P2.
    pub header: CommandHeader,
    /// Le; `None`: only the status word is expected.
    pub expected: Option<u8>,
}

/// How a record is emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Emptying {
    /// By as many zeros as a record has bytes.
    Zeros,
    /// By writing nothing: the object is gone.
    Nothing,
}

/// What we must know about a kind of card.
pub trait Profile: Sync {
    /// Its name in configuration, console and transcripts.
    fn name(&self) -> &'static str;
    /// The application identifier to select for this credential.
    fn application(&self, credential: Credential) -> &'static [u8];
    /// How tries are asked for, without spending one.
    fn tries(&self) -> Question;
    /// VERIFY for the PIN that protects the record.
    fn verify(&self) -> CommandHeader;
    /// CHANGE REFERENCE DATA for it; old and new PIN follow each other without a gap.
    fn change_pin(&self) -> CommandHeader;
    /// Fewest digits of a PIN.
    fn digits_min(&self) -> u8;
    /// Most digits of a PIN.
    fn digits_max(&self) -> u8;
    /// The PIN with which such cards are delivered, where it is known. It is shown to people and
    /// typed by them; nothing sends it.
    fn transport_pin(&self) -> Option<&'static str>;
    /// What keeps a record whole while it is written.
    fn safety(&self) -> WriteSafety;
    /// How the record at this place is read; `None`: there is no such place.
    fn read(&self, place: RecordPlace) -> Option<Question>;
    /// How a record is written to this place; `None`: there is no such place.
    fn write(&self, place: RecordPlace) -> Option<CommandHeader>;
    /// How a record is emptied.
    fn emptying(&self) -> Emptying;
    /// How the pointer is written, one byte, and which byte says this; `None`: there is no pointer.
    fn point(&self, place: Option<RecordPlace>) -> Option<(CommandHeader, u8)>;
    /// What the card said when its application was selected; `None`: nothing that such a card says.
    /// `header` judges the first 72 bytes of a record.
    fn selected(
        &self,
        credential: Credential,
        data: &[u8],
        header: &dyn Fn(&[u8]) -> Option<ShareHeader>,
    ) -> Option<Selected>;
    /// What came with the answer about tries; `None`: nothing that such a card says.
    fn tries_said(&self, status: StatusWord, data: &[u8]) -> Option<TriesSaid>;
}

/// What a card said about its tries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct TriesSaid {
    /// Tries left, where it says them.
    pub left: Option<u8>,
    /// Its serial, where it says it here.
    pub serial: Option<CardSerial>,
}

impl ProfileId {
    /// What we know about such cards.
    #[must_use]
    pub fn profile(self) -> &'static dyn Profile {
        match self {
            ProfileId::Iso7816Files => &iso7816_files::Iso7816Files,
            ProfileId::OpenPgp => &openpgp::OpenPgp,
        }
    }
}

/// The value of the first object with this tag, and what follows that object. An object may be
/// cut off at the end where the card had more to say than fits: what is there counts then.
///
/// Tags of one or two bytes and lengths of one to three, definite (ISO/IEC 7816-4 §5.2.2).
fn find(mut data: &[u8], tag: u16) -> Option<&[u8]> {
    while !data.is_empty() {
        let (found, rest) = tag_of(data)?;
        let (len, rest) = length_of(rest)?;
        if found == tag {
            return Some(rest.get(..len).unwrap_or(rest));
        }
        data = rest.get(len..)?;
    }
    None
}

/// The value of an object of exactly this tag that fills all of `data`.
fn whole(data: &[u8], tag: u16) -> Option<&[u8]> {
    let (found, rest) = tag_of(data)?;
    let (len, rest) = length_of(rest)?;
    (found == tag && rest.len() == len).then_some(rest)
}

fn tag_of(data: &[u8]) -> Option<(u16, &[u8])> {
    let (&first, rest) = data.split_first()?;
    if first & 0x1F != 0x1F {
        return Some((u16::from(first), rest));
    }
    let (&second, rest) = rest.split_first()?;
    (second & 0x80 == 0).then_some((u16::from_be_bytes([first, second]), rest))
}

fn length_of(data: &[u8]) -> Option<(usize, &[u8])> {
    let (&first, rest) = data.split_first()?;
    match first {
        0..=0x7F => Some((usize::from(first), rest)),
        0x81 => {
            let (&len, rest) = rest.split_first()?;
            Some((usize::from(len), rest))
        }
        0x82 => {
            let (len, rest) = rest.split_first_chunk::<2>()?;
            Some((usize::from(u16::from_be_bytes(*len)), rest))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_with_an_indefinite_or_long_length_is_refused() {
        assert_eq!(find(&[0x84, 0x80, 1, 0, 0], 0x84), None);
        assert_eq!(find(&[0x84, 0x83, 0, 0, 1, 7], 0x84), None);
        assert_eq!(whole(&[0x6F, 2, 1], 0x6F), None);
        assert_eq!(whole(&[0x6F, 1, 1, 9], 0x6F), None);
        assert_eq!(find(&[0x7F], 0x84), None);
    }

    #[test]
    fn an_object_is_found_behind_others() {
        assert_eq!(find(&[0x5F, 0x52, 1, 9, 0x84, 0x81, 2, 7, 8], 0x84), Some(&[7, 8][..]));
        assert_eq!(find(&[0x5F, 0x52, 1, 9], 0x5F52), Some(&[9][..]));
        assert_eq!(whole(&[0x6F, 0x82, 0, 1, 5], 0x6F), Some(&[5][..]));
    }

    #[test]
    fn an_object_that_is_cut_off_gives_what_is_there() {
        assert_eq!(find(&[0x6E, 0x82, 1, 0x40, 1, 2, 3], 0x6E), Some(&[1, 2, 3][..]));
    }
}
