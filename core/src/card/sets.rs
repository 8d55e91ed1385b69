//! Sets of shares on cards: which is in force, which is being made, which once were.
//!
//! Nothing here is secret. A set that is being made is recorded before its first card is
//! written, so that after a power cut its shares are refused as *void*, and its cards may be
//! overwritten without a question.

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::fault::Refusal;
use crate::limits::FORMER_CARD_SETS_MAX;
use crate::person::Roster;
use crate::record::{self, Owner};
use crate::share::card_set::CardQuorum;
use crate::share::record::ShareKind;

/// Version of the encoding of [`CardSets`]. A store with a higher one is refused.
pub const CARD_SETS_VERSION: u8 = 1;
/// Bytes that always hold encoded [`CardSets`] (458 with every field in use, by test).
pub const CARD_SETS_BYTES_MAX: usize = 640;

/// What a set of cards is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum SetSubject {
    /// The backup key of this cluster.
    BackupKey,
    /// The users of a slot with smart card activation.
    Users(Owner),
    /// The SO PIN of a slot's token.
    Administrators(Owner),
}

impl SetSubject {
    /// Kind of its records.
    #[must_use]
    pub const fn kind(self) -> ShareKind {
        match self {
            SetSubject::BackupKey => ShareKind::BackupKey,
            SetSubject::Users(_) => ShareKind::SlotUser,
            SetSubject::Administrators(_) => ShareKind::SoPin,
        }
    }

    /// The slot it is about.
    #[must_use]
    pub const fn owner(self) -> Option<Owner> {
        match self {
            SetSubject::BackupKey => None,
            SetSubject::Users(owner) | SetSubject::Administrators(owner) => Some(owner),
        }
    }
}

/// One set, as far as it is public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct CardSet {
    /// Tells sets apart.
    pub id: [u8; 16],
    /// Names the secret; the same after a re-share.
    pub key_id: [u8; 16],
    /// Which set of its subject; rises with each.
    pub generation: u32,
    /// How many of how many.
    pub quorum: CardQuorum,
    /// To whom each share went, share 1 first.
    pub holders: Roster,
    /// When it was made, seconds since 1970; 0 without a clock.
    pub created_s: u64,
    /// Whether each share went to another person while two persons decided. Else the set is
    /// *not under split knowledge*.
    pub split_knowledge: bool,
    /// Whether the token PIN needs a code as well as the cards.
    pub with_code: bool,
    /// Characters of the PIN that the secret gives; 0 for a backup key.
    pub pin_chars: u8,
}

/// A set that is no longer in force, or never was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct FormerSet {
    /// Its id.
    pub id: [u8; 16],
    /// Names its secret.
    pub key_id: [u8; 16],
    /// Which it was.
    pub generation: u32,
    /// How many of how many.
    pub quorum: CardQuorum,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Fate {
    /// Its making ended before its commit: nothing was ever protected by it.
    Void,
    /// Another set of the same secret took its place: it still opens what it opened.
    Superseded,
    /// Another secret took its place: it opens only what is older.
    Rotated,
}

/// Every set of one subject.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardSets {
    /// The set in force.
    pub current: Option<CardSet>,
    /// The set that is being made, or that a change of the token's PIN is to bring into force.
    pub next: Option<CardSet>,
    /// A set whose PIN an unanswered call may have given the token, while another is being made.
    pub doubted: Option<CardSet>,
    /// Sets before it, the last ones.
    pub former: Vec<FormerSet, FORMER_CARD_SETS_MAX>,
    /// Generation of the set that was made last; 0: none.
    pub last_generation: u32,
    /// A call may have given the token the PIN of the next set: it is not void, whatever ends.
    pub calling: bool,
}

/// How a set on a card stands to the sets of its subject here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Standing {
    /// It is the one in force, or nobody knows whether it is.
    Current,
    /// It is being made.
    Next,
    /// It once was, or never came to be.
    Former(Fate),
    /// Its subject is ours, and we know no such set: made before our store, or forgotten.
    Unknown,
    /// It is of another cluster or another slot.
    Foreign,
}

impl CardSets {
    /// A subject that never had a set.
    #[must_use]
    pub const fn none() -> Self {
        CardSets { current: None, next: None, doubted: None, former: Vec::new(), last_generation: 0, calling: false }
    }

    /// A set is being made. One that the token may have the PIN of is kept beside it.
    pub fn begin_next(&mut self, set: CardSet) {
        if self.calling && self.doubted.is_none() {
            self.doubted = self.next.take();
        }
        if let Some(before) = self.next.take() {
            self.remember(before, Fate::Void);
        }
        self.calling = false;
        self.last_generation = set.generation;
        self.next = Some(set);
    }

    /// The set that was being made never comes into force; what was in doubt before it is again.
    pub fn void_next(&mut self) {
        if let Some(set) = self.next.take() {
            self.remember(set, Fate::Void);
        }
        self.next = self.doubted.take();
        self.calling = self.next.is_some();
    }

    /// The set that was being made is in force from here on.
    pub fn promote_next(&mut self) {
        self.calling = false;
        let Some(next) = self.next.take() else { return };
        let before = [self.doubted.take(), self.current.replace(next)];
        for before in before.into_iter().flatten() {
            self.remember(before, if before.key_id == next.key_id { Fate::Superseded } else { Fate::Rotated });
        }
    }

    /// The token accepted the PIN of this set: of those in doubt it is the one.
    pub fn prove(&mut self, set_id: &[u8; 16]) {
        let Some(proven) = self.in_force().find(|set| set.id == *set_id) else { return };
        let next = self.next.take_if(|_| self.calling);
        self.calling = false;
        let others = [next, self.doubted.take(), self.current.replace(proven)];
        for other in others.into_iter().flatten().filter(|set| set.id != proven.id) {
            self.remember(other, Fate::Rotated);
        }
    }

    /// The sets whose cards may be what is wanted now: the one in force, and those in doubt.
    pub fn in_force(&self) -> impl Iterator<Item = CardSet> {
        let next = self.next.filter(|_| self.calling);
        [next, self.doubted, self.current].into_iter().flatten()
    }

    /// No set is in force any more.
    pub fn retire(&mut self) {
        if let Some(before) = self.current.take() {
            self.remember(before, Fate::Rotated);
        }
    }

    /// How a set stands here; `None`: it is not known.
    #[must_use]
    pub fn standing(&self, set_id: &[u8; 16]) -> Option<Standing> {
        if self.in_force().any(|set| set.id == *set_id) {
            Some(Standing::Current)
        } else if self.next.is_some_and(|set| set.id == *set_id) {
            Some(Standing::Next)
        } else {
            self.former.iter().find(|former| former.id == *set_id).map(|former| Standing::Former(former.fate))
        }
    }

    /// Writes version and sets into `out`; returns the part written.
    ///
    /// # Errors
    /// [`Refusal::StoreUnreadable`] when `out` is smaller than [`CARD_SETS_BYTES_MAX`].
    pub fn encode<'out>(&self, out: &'out mut [u8]) -> Result<&'out [u8], Refusal> {
        record::encode(CARD_SETS_VERSION, self, out)
    }

    /// Reads what [`CardSets::encode`] wrote.
    ///
    /// # Errors
    /// [`Refusal::StoreNewer`] for a higher version, [`Refusal::StoreUnreadable`] for
    /// anything that is not exactly the sets of one subject.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        record::decode(CARD_SETS_VERSION, bytes)
    }

    fn remember(&mut self, set: CardSet, fate: Fate) {
        if self.former.is_full() {
            self.former.remove(0);
        }
        let CardSet { id, key_id, generation, quorum, .. } = set;
        // One place was just made free.
        let _ = self.former.push(FormerSet { id, key_id, generation, quorum, fate });
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::person::PersonId;

    fn set(generation: u32, key: u8) -> CardSet {
        let holders: [PersonId; 16] = core::array::from_fn(|number| PersonId(u8::try_from(number).unwrap_or(0)));
        CardSet {
            id: [u8::try_from(generation & 0xFF).unwrap_or(0); 16],
            key_id: [key; 16],
            generation,
            quorum: CardQuorum::new(16, 16).expect("a quorum"),
            holders: Roster::new(&holders).expect("sixteen persons"),
            created_s: u64::MAX,
            split_knowledge: true,
            with_code: true,
            pin_chars: u8::MAX,
        }
    }

    fn fates(sets: &CardSets) -> std::vec::Vec<(u32, Fate)> {
        sets.former.iter().map(|former| (former.generation, former.fate)).collect()
    }

    #[test]
    fn the_largest_sets_fit_and_come_back_and_no_part_of_them_does() {
        let mut sets = CardSets::none();
        for generation in 0..10 {
            sets.begin_next(set(u32::MAX - 10 + generation, 0xFF));
            sets.promote_next();
        }
        sets.begin_next(set(u32::MAX - 1, 0xFF));
        sets.calling = true;
        sets.begin_next(set(u32::MAX, 0xFF));
        assert!(sets.current.is_some() && sets.next.is_some() && sets.doubted.is_some() && sets.former.is_full());
        let mut bytes = [0; CARD_SETS_BYTES_MAX];
        let encoded = sets.encode(&mut bytes).expect("the bound holds");
        assert_eq!(encoded.len(), LARGEST, "as the bound's doc says");
        assert_eq!(CardSets::decode(encoded).as_ref(), Ok(&sets));
        for cut in 0..encoded.len() {
            assert!(CardSets::decode(encoded.get(..cut).expect("a part")).is_err());
        }
    }

    /// Bytes of the largest sets.
    const LARGEST: usize = 458;

    #[test]
    fn a_set_that_is_never_committed_is_void_and_the_one_before_stays() {
        let mut sets = CardSets::none();
        sets.begin_next(set(1, 1));
        assert_eq!(sets.standing(&[1; 16]), Some(Standing::Next));
        sets.promote_next();
        sets.begin_next(set(2, 2));
        sets.void_next();
        assert_eq!((sets.current, sets.next, sets.calling), (Some(set(1, 1)), None, false));
        assert_eq!(fates(&sets), [(2, Fate::Void)]);
        assert_eq!(sets.last_generation, 2, "no generation is given twice");
        assert_eq!(sets.standing(&[2; 16]), Some(Standing::Former(Fate::Void)));
        assert_eq!(sets.standing(&[9; 16]), None);
    }

    #[test]
    fn a_set_of_the_same_secret_is_superseded_and_of_another_rotated() {
        let mut sets = CardSets::none();
        for (generation, key) in [(1, 1), (2, 1), (3, 2)] {
            sets.begin_next(set(generation, key));
            sets.promote_next();
        }
        assert_eq!(fates(&sets), [(1, Fate::Superseded), (2, Fate::Rotated)]);
        sets.retire();
        assert_eq!((sets.current, fates(&sets).last()), (None, Some(&(3, Fate::Rotated))));
    }

    #[test]
    fn a_set_in_doubt_outlives_another_that_comes_to_nothing_and_ends_with_one_that_counts() {
        let mut sets = CardSets::none();
        sets.begin_next(set(1, 1));
        sets.promote_next();
        sets.begin_next(set(2, 2));
        sets.calling = true;
        let doubtful = sets.clone();
        assert_eq!(sets.standing(&[2; 16]), Some(Standing::Current), "it may be the one");
        sets.begin_next(set(3, 3));
        assert_eq!(sets.in_force().map(|set| set.generation).collect::<std::vec::Vec<_>>(), [2, 1]);
        assert_eq!(sets.standing(&[3; 16]), Some(Standing::Next));
        sets.void_next();
        assert_eq!((sets.current, sets.next, sets.calling), (doubtful.current, doubtful.next, true));
        sets.begin_next(set(4, 4));
        sets.calling = true;
        assert_eq!(sets.in_force().map(|set| set.generation).collect::<std::vec::Vec<_>>(), [4, 2, 1]);
        let mut proven = sets.clone();
        proven.prove(&[9; 16]);
        assert_eq!(proven, sets, "a set that is not in doubt decides nothing");
        proven.prove(&[2; 16]);
        assert_eq!((proven.current, proven.next, proven.doubted, proven.calling), (Some(set(2, 2)), None, None, false));
        assert_eq!(fates(&proven), [(3, Fate::Void), (4, Fate::Rotated), (1, Fate::Rotated)]);
        sets.promote_next();
        assert_eq!(sets.in_force().map(|set| set.generation).collect::<std::vec::Vec<_>>(), [4]);
        assert_eq!(fates(&sets), [(3, Fate::Void), (2, Fate::Rotated), (1, Fate::Rotated)]);
    }
}
