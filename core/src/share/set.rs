//! What is durable about a typed set, and the judgement of each share alone.
//!
//! A set knows its shares by fingerprints, so that a wrong one is refused when it is
//! entered and not when m of them give a wrong code, which would cost a try. Nothing in it
//! is secret. Whether a share was entered twice, or belongs to a set that no longer rules,
//! is for those to say who collect shares and keep former sets.

use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

use super::shamir::{self, Lanes, Point};
use super::typed::{SET_MARK_BYTES, TypedShare};
use super::{LANES, Quorum, SECRET_BYTES};
use crate::code;
use crate::fault::Refusal;
use crate::limits::SHARES_MAX;
use crate::person::PersonId;
use crate::record;

/// Version of the encoding of [`Set`]. A store with a higher one is refused.
pub const SET_VERSION: u8 = 1;
/// Bytes that always hold an encoded [`Set`] (327 with every field in use, by test).
pub const SET_BYTES_MAX: usize = 336;

/// A typed set. Fields of x stand at x − 1; those beyond n are empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Set {
    /// Tells sets apart; bound into the token PIN.
    pub id: [u8; 16],
    /// Which set of its slot; rises with each.
    pub generation: u16,
    /// Any m of n.
    pub quorum: Quorum,
    /// Characters of the token PIN that the secret gives.
    pub pin_chars: u8,
    /// SHA-256 of each share's payload, the first 16 bytes.
    pub fingerprints: [[u8; 16]; SHARES_MAX],
    /// To whom each share was shown.
    pub holders: [Option<PersonId>; SHARES_MAX],
    /// Which shares were typed back by their holders.
    pub confirmed: [bool; SHARES_MAX],
}

impl Set {
    /// The set that comes from this key; no share of it was shown yet.
    #[must_use]
    pub fn new(key: &[u8; 32], generation: u16, quorum: Quorum, pin_chars: u8) -> Set {
        let mut set = Set {
            id: super::set_id(key),
            generation,
            quorum,
            pin_chars,
            fingerprints: [[0; 16]; SHARES_MAX],
            holders: [None; SHARES_MAX],
            confirmed: [false; SHARES_MAX],
        };
        let id = set.id;
        for (x, place) in (1..=quorum.n()).zip(&mut set.fingerprints) {
            let mut share = TypedShare::blank(&id, quorum, x, generation);
            if super::share_of(key, &id, quorum, x, share.y_mut()) {
                *place = share.fingerprint();
            }
        }
        set
    }

    /// Share `x`, from the key that the set came from; `None` for an x outside 1 to n.
    #[must_use]
    pub fn share(&self, key: &[u8; 32], x: u8) -> Option<TypedShare> {
        let mut share = TypedShare::blank(&self.id, self.quorum, x, self.generation);
        super::share_of(key, &self.id, self.quorum, x, share.y_mut()).then_some(share)
    }

    /// Whether this share is what was handed out, and to this person.
    ///
    /// # Errors
    /// In this order: [`Refusal::ShareForeign`]: of another set. [`Refusal::ShareWrong`]:
    /// altered or forged, or never shown to anybody. [`Refusal::ShareOfAnother`]: shown to
    /// somebody else.
    pub fn judge(&self, who: PersonId, share: &TypedShare) -> Result<(), Refusal> {
        self.recognise(share)?;
        match self.holder(share.x()) {
            Some(holder) if holder == who => Ok(()),
            Some(_) => Err(Refusal::ShareOfAnother),
            None => Err(Refusal::ShareWrong),
        }
    }

    /// Whether the share names this set. Nothing else of it is looked at.
    #[must_use]
    pub fn is_of_set(&self, share: &TypedShare) -> bool {
        share.set_mark() == self.set_mark()
    }

    /// What a share shows of the set's id.
    #[must_use]
    pub fn set_mark(&self) -> [u8; SET_MARK_BYTES] {
        let mut mark = [0; SET_MARK_BYTES];
        for (to, from) in mark.iter_mut().zip(self.id) {
            *to = from;
        }
        mark
    }

    /// Writes the secret that the shares give into `secret`, after every one of them was
    /// known again by its fingerprint. The same share twice counts once; of more than m the
    /// first m are used. Where n > m the result is checked too: it has to give a share that
    /// was not used.
    ///
    /// # Errors
    /// As [`Set::judge`], without the holder; [`Refusal::SharesMissing`] for fewer than m
    /// different ones. `secret` is then wiped.
    pub fn reconstruct(&self, shares: &[TypedShare], secret: &mut [u8; SECRET_BYTES]) -> Result<(), Refusal> {
        secret.zeroize();
        let mut places = [const { Point::<LANES>::empty() }; SHARES_MAX];
        let mut taken = 0usize;
        for share in shares {
            self.recognise(share)?;
            let repeated = places.iter().any(|point| point.x == share.x());
            if taken == usize::from(self.quorum.m()) || repeated {
                continue;
            }
            if let Some(point) = places.get_mut(taken)
                && point.y.read(share.y())
            {
                point.x = share.x();
                taken = taken.saturating_add(1);
            }
        }
        if taken < usize::from(self.quorum.m()) {
            return Err(Refusal::SharesMissing);
        }
        let points = places.get(..taken).ok_or(Refusal::SharesMissing)?;
        self.check_another(points)?;
        let mut value = Lanes::zero();
        if shamir::combine(points, &mut value) && value.write(secret) { Ok(()) } else { Err(Refusal::ShareWrong) }
    }

    /// The first share that nobody holds.
    #[must_use]
    pub fn next_x(&self) -> Option<u8> {
        (1..=self.quorum.n()).find(|x| self.holder(*x).is_none())
    }

    /// The share that this person holds.
    #[must_use]
    pub fn x_of(&self, who: PersonId) -> Option<u8> {
        (1..=self.quorum.n()).find(|x| self.holder(*x) == Some(who))
    }

    /// To whom share `x` was shown.
    #[must_use]
    pub fn holder(&self, x: u8) -> Option<PersonId> {
        self.holders.get(index(x)).copied().flatten()
    }

    /// Notes that share `x` is shown to this person. False, and nothing noted, when it is no
    /// share of the set, somebody holds it, or the person holds another.
    #[must_use]
    pub fn hand_out(&mut self, x: u8, who: PersonId) -> bool {
        if !self.quorum.has(x) || self.x_of(who).is_some() {
            return false;
        }
        match self.holders.get_mut(index(x)) {
            Some(holder @ None) => *holder = Some(who),
            Some(Some(_)) | None => return false,
        }
        true
    }

    /// Notes that the holder of share `x` typed it back. False when nobody holds it.
    #[must_use]
    pub fn confirm(&mut self, x: u8) -> bool {
        let held = self.holder(x).is_some();
        if let Some(confirmed) = self.confirmed.get_mut(index(x)) {
            *confirmed |= held;
        }
        held
    }

    /// Whether share `x` was typed back.
    #[must_use]
    pub fn is_confirmed(&self, x: u8) -> bool {
        self.confirmed.get(index(x)).copied().unwrap_or(false)
    }

    /// Whether all n shares were typed back: only then may the token get its new PIN.
    #[must_use]
    pub fn all_confirmed(&self) -> bool {
        (1..=self.quorum.n()).all(|x| self.is_confirmed(x))
    }

    /// Writes version and set into `out`; returns the part written.
    ///
    /// # Errors
    /// [`Refusal::StoreUnreadable`] when `out` is smaller than [`SET_BYTES_MAX`].
    pub fn encode<'out>(&self, out: &'out mut [u8]) -> Result<&'out [u8], Refusal> {
        record::encode(SET_VERSION, self, out)
    }

    /// Reads what [`Set::encode`] wrote.
    ///
    /// # Errors
    /// [`Refusal::StoreNewer`] for a higher version, [`Refusal::StoreUnreadable`] for
    /// anything that is not exactly one set with a possible quorum.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        record::decode(SET_VERSION, bytes)
    }

    /// Whether this very share came from the set.
    fn recognise(&self, share: &TypedShare) -> Result<(), Refusal> {
        if !self.is_of_set(share) {
            return Err(Refusal::ShareForeign);
        }
        let ours = share.generation() == self.generation && share.quorum() == self.quorum && self.quorum.has(share.x());
        let known = self.fingerprints.get(index(share.x()));
        if ours && known.is_some_and(|known| code::equal(known, &share.fingerprint())) {
            Ok(())
        } else {
            Err(Refusal::ShareWrong)
        }
    }

    /// Computes a share that is not among `points`, if there is one, and looks whether it is
    /// the one that was handed out.
    fn check_another(&self, points: &[Point<LANES>]) -> Result<(), Refusal> {
        let unused = (1..=self.quorum.n()).find(|x| points.iter().all(|point| point.x != *x));
        let Some(x) = unused else { return Ok(()) };
        let mut share = TypedShare::blank(&self.id, self.quorum, x, self.generation);
        let mut value = Lanes::zero();
        if shamir::interpolate(points, x, &mut value) && value.write(share.y_mut()) {
            self.recognise(&share)
        } else {
            Err(Refusal::ShareWrong)
        }
    }
}

/// Where the fields of x stand; for x = 0 nowhere.
fn index(x: u8) -> usize {
    usize::from(x).checked_sub(1).unwrap_or(SHARES_MAX)
}
