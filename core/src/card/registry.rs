//! The cards that this appliance knows: whose each is, what is on it, what became of it.
//!
//! Ours alone: no card is asked for any of it. An entry is made when a card is written or
//! its PIN was changed on a pad before this service, and stays; that of a card with nothing on
//! it makes way for another card when there is no room. A
//! credential counts as on its transport PIN until such a change succeeded (P8). Durable
//! with the turn that changes it.

use heapless::Vec;
use serde::{Deserialize, Serialize};

use super::{CardSerial, Credential, ProfileId};
use crate::fault::Refusal;
use crate::limits::CARDS_MAX;
use crate::person::PersonId;
use crate::record;

/// Version of the encoding of [`CardEntry`]. A store with a higher one is refused.
pub const CARD_ENTRY_VERSION: u8 = 1;
/// Bytes that always hold an encoded [`CardEntry`] (100 with every field in use, by test).
pub const CARD_ENTRY_BYTES_MAX: usize = 128;

/// One credential on one card.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct CardEntry {
    /// The card.
    pub serial: CardSerial,
    /// Which of its credentials.
    pub credential: Credential,
    /// Which kind of card.
    pub profile: ProfileId,
    /// Whose it is.
    pub holder: Option<PersonId>,
    /// The share on it, as far as this appliance wrote or read it.
    pub share: Option<ShareOnCard>,
    /// When its PIN was last changed on a pad before this service, seconds since 1970 (0: without
    /// a clock); `None`: never, it counts as on its transport PIN.
    pub pin_changed_s: Option<u64>,
    /// When the share was last read and found good, seconds since 1970.
    pub verified_s: Option<u64>,
    /// Declared lost.
    pub lost: bool,
}

/// Which share a card holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ShareOnCard {
    /// Of which set.
    pub set_id: [u8; 16],
    /// Which share.
    pub x: u8,
    /// Generation of the set.
    pub generation: u32,
}

impl CardEntry {
    /// A card of which nothing is known yet.
    #[must_use]
    pub const fn new(serial: CardSerial, credential: Credential, profile: ProfileId) -> Self {
        CardEntry {
            serial,
            credential,
            profile,
            holder: None,
            share: None,
            pin_changed_s: None,
            verified_s: None,
            lost: false,
        }
    }

    /// Writes version and entry into `out`; returns the part written.
    ///
    /// # Errors
    /// [`Refusal::StoreUnreadable`] when `out` is smaller than [`CARD_ENTRY_BYTES_MAX`].
    pub fn encode<'out>(&self, out: &'out mut [u8]) -> Result<&'out [u8], Refusal> {
        record::encode(CARD_ENTRY_VERSION, self, out)
    }

    /// Reads what [`CardEntry::encode`] wrote.
    ///
    /// # Errors
    /// [`Refusal::StoreNewer`] for a higher version, [`Refusal::StoreUnreadable`] for
    /// anything that is not exactly one entry.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        record::decode(CARD_ENTRY_VERSION, bytes)
    }

    /// Whether it holds a share of this set that can be used.
    #[must_use]
    pub fn holds(&self, set_id: &[u8; 16]) -> bool {
        !self.lost && self.share.is_some_and(|share| share.set_id == *set_id)
    }
}

/// Every card that is known. An entry keeps its place as long as the service runs.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    entries: Vec<CardEntry, CARDS_MAX>,
    /// Which entries have to join the turn's transaction, one bit each.
    dirty: u128,
}

impl Registry {
    /// No card.
    #[must_use]
    pub const fn new() -> Self {
        const { assert!(CARDS_MAX <= 128, "dirty entries are bits of a u128") };
        Registry { entries: Vec::new(), dirty: 0 }
    }

    /// Takes over an entry found in the store.
    pub fn load(&mut self, entry: CardEntry) {
        // The store holds no more than were put into it, and that is bounded here.
        let _ = self.entries.push(entry);
    }

    /// Every entry, in the order in which they were made.
    #[must_use]
    pub fn entries(&self) -> &[CardEntry] {
        &self.entries
    }

    /// What is known of a credential.
    #[must_use]
    pub fn find(&self, serial: &CardSerial, credential: Credential) -> Option<&CardEntry> {
        self.entries.iter().find(|entry| entry.serial == *serial && entry.credential == credential)
    }

    /// Whether no other card can be taken in.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.entries.is_full() && self.spare().is_none()
    }

    /// The place of a card that holds nothing, for another one. Of it only is forgotten that its PIN
    /// was changed: it is changed once more before it holds something.
    fn spare(&self) -> Option<usize> {
        self.entries.iter().position(|entry| entry.share.is_none() && !entry.lost)
    }

    /// Changes an entry, made anew if there is none.
    ///
    /// # Errors
    /// [`Refusal::TooManyCards`].
    pub fn change(
        &mut self,
        serial: CardSerial,
        credential: Credential,
        profile: ProfileId,
        change: impl FnOnce(&mut CardEntry),
    ) -> Result<(), Refusal> {
        let known = self.entries.iter().position(|entry| entry.serial == serial && entry.credential == credential);
        let place = match known {
            Some(place) => place,
            None => {
                let entry = CardEntry::new(serial, credential, profile);
                match self.entries.push(entry) {
                    Ok(()) => self.entries.len().saturating_sub(1),
                    Err(entry) => {
                        let place = self.spare().ok_or(Refusal::TooManyCards)?;
                        *self.entries.get_mut(place).ok_or(Refusal::TooManyCards)? = entry;
                        place
                    }
                }
            }
        };
        if let Some(entry) = self.entries.get_mut(place) {
            change(entry);
            self.dirty |= bit(place);
        }
        Ok(())
    }

    /// Whether something has to join the turn's transaction.
    #[must_use]
    pub const fn is_dirty(&self) -> bool {
        self.dirty != 0
    }

    /// The next entry that has to, and its place.
    pub fn take_dirty(&mut self) -> Option<(u8, CardEntry)> {
        let place = usize::try_from(self.dirty.trailing_zeros()).ok()?;
        let entry = *self.entries.get(place)?;
        self.dirty &= !bit(place);
        Some((u8::try_from(place).ok()?, entry))
    }

    /// How many different shares of a set are on cards that can be used.
    #[must_use]
    pub fn shares_in_use(&self, set_id: &[u8; 16]) -> u8 {
        (1..=16u8).filter(|x| self.cards_of(set_id, *x) > 0).fold(0, |count: u8, _| count.saturating_add(1))
    }

    /// The same without this card.
    #[must_use]
    pub fn shares_without(&self, set_id: &[u8; 16], serial: &CardSerial) -> u8 {
        let other = |entry: &&CardEntry| entry.serial != *serial && entry.holds(set_id);
        let has =
            |x: &u8| self.entries.iter().filter(other).any(|entry| entry.share.is_some_and(|share| share.x == *x));
        (1..=16u8).filter(has).fold(0, |count: u8, _| count.saturating_add(1))
    }

    /// On how many cards a share is that can be used.
    #[must_use]
    pub fn cards_of(&self, set_id: &[u8; 16], x: u8) -> usize {
        let has = |entry: &&CardEntry| entry.holds(set_id) && entry.share.is_some_and(|share| share.x == x);
        self.entries.iter().filter(has).fold(0, |count: usize, _| count.saturating_add(1))
    }
}

fn bit(place: usize) -> u128 {
    u32::try_from(place).ok().and_then(|place| 1u128.checked_shl(place)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serial(number: u8) -> CardSerial {
        CardSerial::new(&[number; 16]).expect("sixteen bytes are a serial")
    }

    #[test]
    fn the_largest_entry_fits_and_comes_back() {
        let entry = CardEntry {
            holder: Some(PersonId(u8::MAX)),
            share: Some(ShareOnCard { set_id: [0xFF; 16], x: 16, generation: u32::MAX }),
            pin_changed_s: Some(u64::MAX),
            verified_s: Some(u64::MAX),
            lost: true,
            ..CardEntry::new(serial(0xFF), Credential::HsmAdministrator, ProfileId::OpenPgp)
        };
        let mut bytes = [0; CARD_ENTRY_BYTES_MAX];
        let Ok(encoded) = entry.encode(&mut bytes) else { panic!("the bound holds") };
        assert!(encoded.len() <= 100, "{}", encoded.len());
        assert_eq!(CardEntry::decode(encoded), Ok(entry));
        for cut in 0..encoded.len() {
            assert!(CardEntry::decode(&encoded[..cut]).is_err());
        }
    }

    #[test]
    fn a_full_registry_refuses_another_card_until_one_holds_nothing() {
        let mut registry = Registry::new();
        let share = Some(ShareOnCard { set_id: [7; 16], x: 1, generation: 1 });
        for number in 0..128u8 {
            let credential = Credential::BackupShare;
            let made = registry.change(serial(number), credential, ProfileId::OpenPgp, |entry| entry.share = share);
            assert_eq!(made, Ok(()));
        }
        let another = |registry: &mut Registry| {
            registry.change(serial(200), Credential::SlotUser, ProfileId::OpenPgp, |entry| entry.share = share)
        };
        assert_eq!((another(&mut registry), registry.is_full()), (Err(Refusal::TooManyCards), true));
        // A lost card is not forgotten.
        for (number, lost) in [(3, true), (5, false)] {
            let erased = registry.change(serial(number), Credential::BackupShare, ProfileId::OpenPgp, |entry| {
                (entry.share, entry.lost) = (None, lost);
            });
            assert_eq!(erased, Ok(()));
        }
        assert!(!registry.is_full());
        assert_eq!((another(&mut registry), registry.is_full()), (Ok(()), true));
        assert!(registry.find(&serial(5), Credential::BackupShare).is_none());
        assert!(registry.find(&serial(3), Credential::BackupShare).is_some_and(|entry| entry.lost));
        let mut written = 0;
        while registry.take_dirty().is_some() {
            written += 1;
        }
        assert_eq!((written, registry.is_dirty()), (128, false));
    }

    #[test]
    fn a_copy_counts_as_the_same_share_and_a_lost_card_as_none() {
        let mut registry = Registry::new();
        for (number, x, lost) in [(1, 1, false), (2, 1, false), (3, 2, true), (4, 3, false)] {
            let share = Some(ShareOnCard { set_id: [7; 16], x, generation: 1 });
            let made = registry.change(serial(number), Credential::BackupShare, ProfileId::OpenPgp, |entry| {
                (entry.share, entry.lost) = (share, lost);
            });
            assert_eq!(made, Ok(()));
        }
        assert_eq!(registry.shares_in_use(&[7; 16]), 2);
        assert_eq!((registry.cards_of(&[7; 16], 1), registry.cards_of(&[7; 16], 2)), (2, 0));
        assert_eq!(registry.shares_in_use(&[8; 16]), 0);
    }
}
