//! Where secrets live, and the only place.
//!
//! A secret enters by [`Safe::fill`], is lent by [`Safe::with`] while an effect is
//! performed, and leaves by [`Safe::wipe`]. Everything else (commands, effects, journal,
//! status) carries a [`SecretId`], which can be printed anywhere. Places are wiped in
//! place; no method moves a secret out. After a restart the Safe is empty.

use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

use crate::fault::Refusal;
use crate::limits::PLACE_BYTES;

/// The name of one secret in the Safe: safe to print, useless after the wipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SecretId {
    place: u8,
    use_count: u32,
}

impl SecretId {
    /// Names no secret: what stands in the place of one where only the rest of a command counts.
    pub const NONE: SecretId = SecretId { place: u8::MAX, use_count: u32::MAX };
}

/// A pool of `PLACES` places of [`PLACE_BYTES`] bytes each.
pub struct Safe<const PLACES: usize> {
    places: [Place; PLACES],
}

/// One place. `use_count` rises with each use, so that a stale id finds nothing.
struct Place {
    bytes: [u8; PLACE_BYTES],
    len: usize,
    taken: bool,
    use_count: u32,
}

impl<const PLACES: usize> Safe<PLACES> {
    /// An empty Safe.
    #[must_use]
    pub const fn new() -> Self {
        const { assert!(PLACES <= 256, "a SecretId counts places in one byte") };
        Safe { places: [const { Place::empty() }; PLACES] }
    }

    /// Takes a free place and lets `write` fill it; `write` returns the length in bytes.
    ///
    /// # Errors
    /// [`Refusal::SafeFull`] when no place is free; [`Refusal::SecretTooLong`] when `write`
    /// claims more than a place holds. In both cases nothing is kept.
    pub fn fill(&mut self, write: impl FnOnce(&mut [u8]) -> usize) -> Result<SecretId, Refusal> {
        for (number, place) in (0..=u8::MAX).zip(self.places.iter_mut()) {
            if place.taken {
                continue;
            }
            let len = write(&mut place.bytes);
            if len > PLACE_BYTES {
                place.bytes.zeroize();
                return Err(Refusal::SecretTooLong);
            }
            place.len = len;
            place.taken = true;
            return Ok(SecretId { place: number, use_count: place.use_count });
        }
        Err(Refusal::SafeFull)
    }

    /// Lets `write` replace the bytes of a place that is taken: how a platform answers
    /// `Effect::Random` and `Effect::Unseal`. Returns false for a stale id or a length
    /// beyond the place; the place is then empty.
    pub fn refill(&mut self, id: SecretId, write: impl FnOnce(&mut [u8]) -> usize) -> bool {
        let Some(place) = self.place_mut(id) else { return false };
        place.bytes.zeroize();
        let len = write(&mut place.bytes);
        if len > PLACE_BYTES {
            place.bytes.zeroize();
            place.len = 0;
            return false;
        }
        place.len = len;
        true
    }

    /// Lends the secret to `read`; `None` for a stale id.
    pub fn with<T>(&self, id: SecretId, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        let place = self.places.get(usize::from(id.place))?;
        if !place.taken || place.use_count != id.use_count {
            return None;
        }
        place.bytes.get(..place.len).map(read)
    }

    /// Wipes the secret and frees its place. Wiping twice is harmless.
    pub fn wipe(&mut self, id: SecretId) {
        if let Some(place) = self.place_mut(id) {
            place.clear();
        }
    }

    /// Wipes every place: stop, halt, zeroize.
    pub fn wipe_all(&mut self) {
        for place in &mut self.places {
            place.clear();
        }
    }

    /// How many places are taken. Checkers compare it with what the states own (P16).
    #[must_use]
    pub fn taken(&self) -> usize {
        self.places.iter().filter(|place| place.taken).count()
    }

    /// Whether every free place holds only zero bytes (P16).
    #[must_use]
    pub fn free_places_are_wiped(&self) -> bool {
        self.places.iter().filter(|place| !place.taken).all(|place| place.bytes.iter().all(|byte| *byte == 0))
    }

    fn place_mut(&mut self, id: SecretId) -> Option<&mut Place> {
        self.places.get_mut(usize::from(id.place)).filter(|place| place.taken && place.use_count == id.use_count)
    }
}

impl<const PLACES: usize> Default for Safe<PLACES> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const PLACES: usize> Drop for Safe<PLACES> {
    fn drop(&mut self) {
        self.wipe_all();
    }
}

/// What a machine may do with secrets, whatever the size of the pool.
pub trait Secrets {
    /// Takes an empty place for the platform to fill.
    ///
    /// # Errors
    /// [`Refusal::SafeFull`].
    fn reserve(&mut self) -> Result<SecretId, Refusal>;
    /// Lends the secret; `None` for a stale id.
    fn lend(&self, id: SecretId, read: &mut dyn FnMut(&[u8])) -> Option<()>;
    /// Replaces the bytes in place; false for a stale id.
    fn rewrite(&mut self, id: SecretId, write: &mut dyn FnMut(&mut [u8]) -> usize) -> bool;
    /// Wipes and frees the place.
    fn wipe(&mut self, id: SecretId);
}

impl<const PLACES: usize> Secrets for Safe<PLACES> {
    fn reserve(&mut self) -> Result<SecretId, Refusal> {
        self.fill(|_| 0)
    }

    fn lend(&self, id: SecretId, read: &mut dyn FnMut(&[u8])) -> Option<()> {
        self.with(id, read)
    }

    fn rewrite(&mut self, id: SecretId, write: &mut dyn FnMut(&mut [u8]) -> usize) -> bool {
        self.refill(id, write)
    }

    fn wipe(&mut self, id: SecretId) {
        Safe::wipe(self, id);
    }
}

impl Place {
    const fn empty() -> Self {
        Place { bytes: [0; PLACE_BYTES], len: 0, taken: false, use_count: 0 }
    }

    fn clear(&mut self) {
        self.bytes.zeroize();
        self.len = 0;
        if self.taken {
            self.use_count = self.use_count.wrapping_add(1);
        }
        self.taken = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_safe_refuses_and_keeps_nothing() {
        let mut safe = Safe::<1>::new();
        let id = safe.fill(|bytes| {
            bytes[0] = 7;
            1
        });
        assert!(id.is_ok());
        assert_eq!(safe.fill(|_| 1), Err(Refusal::SafeFull));
        assert_eq!(safe.taken(), 1);
    }

    #[test]
    fn a_secret_that_is_too_long_is_refused_and_wiped() {
        let mut safe = Safe::<1>::new();
        assert_eq!(
            safe.fill(|bytes| {
                bytes.fill(9);
                PLACE_BYTES + 1
            }),
            Err(Refusal::SecretTooLong)
        );
        assert!(safe.free_places_are_wiped());
    }

    #[test]
    fn a_stale_id_finds_nothing_after_the_place_was_used_again() {
        let mut safe = Safe::<1>::new();
        let Ok(first) = safe.fill(|bytes| {
            bytes[0] = 1;
            1
        }) else {
            panic!("the safe is empty")
        };
        safe.wipe(first);
        let Ok(second) = safe.fill(|bytes| {
            bytes[0] = 2;
            1
        }) else {
            panic!("the place was freed")
        };
        assert_eq!(safe.with(first, |secret| secret.len()), None);
        assert!(!safe.refill(first, |_| 0));
        safe.wipe(first);
        assert_eq!(safe.with(second, |secret| secret.first().copied()), Some(Some(2)));
    }

    #[test]
    fn wipe_all_leaves_no_byte() {
        let mut safe = Safe::<3>::new();
        for _ in 0..3 {
            assert!(
                safe.fill(|bytes| {
                    bytes.fill(0xA5);
                    PLACE_BYTES
                })
                .is_ok()
            );
        }
        safe.wipe_all();
        assert_eq!(safe.taken(), 0);
        assert!(safe.free_places_are_wiped());
    }
}
