//! The ledger: which keys a slot has had, has, and must not get back.
//!
//! Nodes of a cluster tell each other the *names* of their keys and, of each, two facts: how
//! often it was made or removed ([`Known::count`]) and whether it is there now
//! ([`Known::here`]). The count is a causal length (Yu, Rostad: "A low-cost set CRDT based on
//! causal lengths", PaPoC 2020): 0 never seen, odd made, even removed. The larger count is the
//! later fact, so facts can come late, twice and in any order, and everybody ends with the same.
//!
//! What it promises (P25): merging is idempotent, commutative and associative; a merge changes no
//! `here`, so it neither brings nor takes a key; and a key whose newest fact is that it was removed
//! is wanted by nobody ([`Known::is_wanted`]). It may still be in a token that has not heard of it:
//! nothing is deleted there, it is only sent no further.
//!
//! Names say nothing about values: two keys of the same name and another value are a conflict, which those find
//! who hold both tokens. Our own keys of the backup key have no names.
//! Nothing here survives a restart; who keeps a ledger keeps its rows ([`Fact::to_bytes`]).

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::export::{Class, Entry};

/// Bytes of a name.
pub const NAME_BYTES: usize = 16;
/// Bytes of a row: name, count (big-endian) and whether it is there (0 or 1).
pub const ROW_BYTES: usize = NAME_BYTES + 5;

const DOMAIN: &[u8] = b"slotwarden/key-name/v1";
/// `CKA_VALUE`, in which a certificate is.
const CKA_VALUE: u32 = 0x11;

/// Names a key, a public key or a certificate of a slot, the same for every module and node:
/// from what a restore sets again, never from check values, which not every module has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct KeyName(pub [u8; NAME_BYTES]);

/// What a name is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named<'a> {
    /// What it is.
    pub class: Class,
    /// `CKK_*`, or [`crate::export::NO_KEY_TYPE`] for certificates.
    pub key_type: u64,
    /// `CKA_ID`.
    pub id: &'a [u8],
    /// `CKA_LABEL`.
    pub label: &'a [u8],
    /// `CKA_VALUE` of a certificate, since several often have the same label and id; of other
    /// objects it does not enter.
    pub certificate: &'a [u8],
}

impl KeyName {
    /// The first 16 bytes of SHA-256("slotwarden/key-name/v1" ‖ slot uid ‖ class, one byte ‖ key type,
    /// u64 ‖ length u16 ‖ id ‖ length u16 ‖ label ‖ for certificates: length u16 ‖ value); numbers
    /// big-endian, classes 0 secret, 1 private, 2 public, 3 certificate.
    ///
    /// `None` where one of them is longer than 65,535 bytes; no export could hold it.
    #[must_use]
    pub fn new(slot_uid: &[u8; 16], named: &Named<'_>) -> Option<Self> {
        let class = match named.class {
            Class::Secret => 0,
            Class::Private => 1,
            Class::Public => 2,
            Class::Certificate => 3,
        };
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        hash.update(slot_uid);
        hash.update([class]);
        hash.update(named.key_type.to_be_bytes());
        let certificate = (named.class == Class::Certificate).then_some(named.certificate);
        for part in [named.id, named.label].into_iter().chain(certificate) {
            hash.update(u16::try_from(part.len()).ok()?.to_be_bytes());
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        digest.first_chunk().copied().map(KeyName)
    }

    /// The name of an object as it is in an export.
    #[must_use]
    pub fn of_entry(slot_uid: &[u8; 16], entry: &Entry<'_>) -> Option<Self> {
        let certificate = entry.set.value(CKA_VALUE).unwrap_or(&[]);
        let Entry { class, key_type, id, label, .. } = *entry;
        KeyName::new(slot_uid, &Named { class, key_type, id, label, certificate })
    }
}

/// What is known of a key: how often it was made or removed, and whether it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Known {
    /// 0: never seen. Odd: made. Even: removed.
    pub count: u32,
    /// Whether the token of whoever knows this has it.
    pub here: bool,
}

impl Known {
    /// Of a key that nobody has heard of.
    pub const NEVER: Known = Known { count: 0, here: false };

    /// Whether the newest that is known is that it was made.
    #[must_use]
    pub const fn is_made(self) -> bool {
        self.count % 2 == 1
    }

    /// Whether somebody had it and removed it, and nobody made it since.
    #[must_use]
    pub const fn is_removed(self) -> bool {
        self.count > 0 && !self.is_made()
    }

    /// Whether it is here although it is known that somebody removed it.
    #[must_use]
    pub const fn is_removed_elsewhere(self) -> bool {
        self.here && !self.is_made()
    }

    /// Takes in whether the own token has the key now. Somebody who makes it where it was removed
    /// means it, and somebody who removes it, too; a key that was removed elsewhere and is still
    /// here stays as it is.
    pub const fn observe(&mut self, there: bool) {
        match (self.here, there) {
            // At the last count it stays what it is: nobody makes and removes a key four thousand million times.
            (false, true) if !self.is_made() => self.count = self.count.saturating_add(1),
            (true, false) if self.is_made() => self.count = self.count.saturating_add(1),
            (false, true | false) | (true, true | false) => {}
        }
        self.here = there;
    }

    /// Takes in whether the own token has the key now, and after that the counts that other members told.
    ///
    /// In this order, for every slot and whenever facts came: a key that was in the token and was never seen
    /// would else count as made after its removal elsewhere was heard of, and so come back everywhere (P25).
    /// Who keeps a ledger therefore files what members say, and merges it the next time the token is looked at;
    /// a key that was just made from a package is seen at once, so that its removal will be.
    pub fn look(&mut self, there: bool, told: impl IntoIterator<Item = u32>) {
        self.observe(there);
        told.into_iter().for_each(|count| self.merge(count));
    }

    /// Takes in how often another member knows it to have been made or removed.
    pub const fn merge(&mut self, their_count: u32) {
        if their_count > self.count {
            self.count = their_count;
        }
    }

    /// Whether whoever knows this wants the key from somebody who knows `theirs`: they have it, it is not here,
    /// and nothing newer than theirs is known that says it was removed.
    #[must_use]
    pub const fn is_wanted(self, theirs: Known) -> bool {
        theirs.here && theirs.is_made() && !self.here && theirs.count >= self.count
    }
}

/// Whether a key can be used at every member: it is here, and the last facts of each have it there.
/// A member that was never heard of is `None`.
#[must_use]
pub fn is_ready(mine: Known, members: impl IntoIterator<Item = Option<Known>>) -> bool {
    mine.here && members.into_iter().all(|known| known.is_some_and(|known| known.here))
}

/// One row of a ledger, and of the facts in a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Fact {
    /// Which key.
    pub name: KeyName,
    /// What is known of it, never [`Known::NEVER`].
    pub known: Known,
}

impl Fact {
    /// The row, in its only form.
    #[must_use]
    pub fn to_bytes(self) -> [u8; ROW_BYTES] {
        let mut row = [0; ROW_BYTES];
        let count = self.known.count.to_be_bytes();
        let bytes = self.name.0.into_iter().chain(count).chain([u8::from(self.known.here)]);
        row.iter_mut().zip(bytes).for_each(|(place, byte)| *place = byte);
        row
    }

    /// Takes a row in its only form; `None` for another one, and for a count of 0: who never
    /// saw a key says nothing about it.
    #[must_use]
    pub fn from_bytes(row: &[u8; ROW_BYTES]) -> Option<Self> {
        let (name, rest) = row.split_first_chunk()?;
        let (count, here) = rest.split_first_chunk()?;
        let here = match here {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        let known = Known { count: u32::from_be_bytes(*count), here };
        (known.count > 0).then_some(Fact { name: KeyName(*name), known })
    }
}

/// How another member stands to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Standing {
    /// Nothing was heard of it yet.
    Unheard,
    /// Both have the same keys.
    InSync,
    /// It has keys that are not here.
    Ahead,
    /// It does not have keys that are here.
    Behind,
    /// Each has keys that the other does not have; or one has a key that is recorded as
    /// removed; or there are two rosters of one epoch.
    Diverged,
}

/// Finds out how a member stands: goes through the own ledger and its last facts, key by key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Comparison {
    /// Keys that it has and that are not here.
    pub lacking_here: u32,
    /// Keys that are here and that it does not have.
    pub lacking_there: u32,
    /// Keys that one of both has although the newer fact is that they were removed.
    pub removed: u32,
}

impl Comparison {
    /// Counts one key; what one of both never saw is [`Known::NEVER`].
    pub const fn see(&mut self, mine: Known, theirs: Known) {
        let newest = if mine.count > theirs.count { mine } else { theirs };
        let place = match (mine.here, theirs.here) {
            (true, true) | (false, false) => return,
            (true, false) | (false, true) if !newest.is_made() => &mut self.removed,
            (true, false) => &mut self.lacking_there,
            (false, true) => &mut self.lacking_here,
        };
        *place = place.saturating_add(1);
    }

    /// How a member stands of whom facts were heard.
    #[must_use]
    pub const fn standing(self) -> Standing {
        match self {
            Comparison { lacking_here: 0, lacking_there: 0, removed: 0 } => Standing::InSync,
            Comparison { lacking_here: 1.., lacking_there: 0, removed: 0 } => Standing::Ahead,
            Comparison { lacking_here: 0, lacking_there: 1.., removed: 0 } => Standing::Behind,
            Comparison { lacking_here: 0.., lacking_there: 0.., removed: 0.. } => Standing::Diverged,
        }
    }
}
