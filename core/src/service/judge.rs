//! What a ceremony cannot decide because it takes secrets: computed here, with the Safe, and
//! answered by a verdict. Everything on the way is wiped.

use zeroize::{Zeroize as _, Zeroizing};

use super::Service;
use crate::card::Credential;
use crate::card::sets::CardSet;
use crate::ceremony::Deed;
use crate::ceremony::event::{CeremonyEvent, MadeSet};
use crate::ceremony::order::Shares;
use crate::code;
use crate::fault::Fault;
use crate::limits::{PLACE_BYTES, SHARES_MAX};
use crate::safe::{SecretId, Secrets as _};
use crate::share::card_set::{self, SECRET_BYTES};
use crate::share::record::ShareHeader;

type Secret = Zeroizing<[u8; SECRET_BYTES]>;

impl<const SLOTS: usize, const PLACES: usize, const OUTBOX: usize> Service<SLOTS, PLACES, OUTBOX> {
    /// Computes what was asked for.
    pub(super) fn judge(&mut self, deed: Deed) -> Option<CeremonyEvent> {
        Some(match deed {
            Deed::Make { seed, secret, fresh } => CeremonyEvent::Made(self.make_set(seed, secret, fresh)),
            Deed::Share { seed, secret, header, y } => self.make_share(seed, secret, &header, y),
            Deed::Same(one, other) => CeremonyEvent::Verdict(self.are_same(one, other)),
            Deed::Combine { shares, m, key_id, into } => {
                let mut secret = Secret::default();
                let right = self.combine(&shares, usize::from(m), &key_id, &mut secret);
                let kept = right && self.put(into, secret.as_slice());
                CeremonyEvent::Verdict(kept)
            }
            Deed::Rehearse { shares, m, key_id } => CeremonyEvent::Verdict(self.rehearse(&shares, m, &key_id)),
            Deed::Pin { secret, set, code } => CeremonyEvent::Verdict(self.derive_pin(secret, &set, code)),
            Deed::Session(..)
            | Deed::Draw(_)
            | Deed::PutKeys { .. }
            | Deed::CheckFile
            | Deed::SetSoPin { .. }
            | Deed::BeginSet(_)
            | Deed::VoidSet
            | Deed::CommitSet(_)
            | Deed::Note(_)
            | Deed::Deliver { .. }
            | Deed::Wipe(_)
            | Deed::Journal(..)
            | Deed::End(_) => return None,
        })
    }

    /// The two random sources, mixed, become seed and secret in their own places.
    fn make_set(&mut self, seed: SecretId, secret: SecretId, fresh: bool) -> Result<MadeSet, Fault> {
        for id in [Some(seed), fresh.then_some(secret)].into_iter().flatten() {
            let mut mixed = Secret::default();
            let mut verdict = Err(Fault::RandomUnavailable);
            let watch = &mut self.watch;
            self.safe.with(id, |drawn| verdict = watch.mix(drawn, &mut mixed)).ok_or(Fault::RandomUnavailable)?;
            verdict?;
            if !self.put(id, mixed.as_slice()) {
                return Err(Fault::RandomUnavailable);
            }
        }
        let seed = self.secret(seed).ok_or(Fault::RandomUnavailable)?;
        let secret = self.secret(secret).ok_or(Fault::RandomUnavailable)?;
        Ok(MadeSet { set_id: card_set::set_id(&card_set::public_key(&seed)), key_id: card_set::key_id(&secret) })
    }

    fn make_share(&mut self, seed: SecretId, secret: SecretId, header: &ShareHeader, y: SecretId) -> CeremonyEvent {
        let made = || {
            let (seed, secret) = (self.secret(seed)?, self.secret(secret)?);
            let quorum = header.quorum()?;
            let mut share = Secret::default();
            if !card_set::share_of(&seed, &secret, &header.set_id, quorum, header.x, &mut share) {
                return None;
            }
            Some((card_set::sign(&seed, header, &share), share))
        };
        let Some((record, share)) = made() else { return CeremonyEvent::ShareReady(None) };
        CeremonyEvent::ShareReady(self.put(y, share.as_slice()).then_some(record))
    }

    fn are_same(&self, one: SecretId, other: SecretId) -> bool {
        match (self.secret(one), self.secret(other)) {
            (Some(one), Some(other)) => code::equal(one.as_slice(), other.as_slice()),
            (_, _) => false,
        }
    }

    /// Puts the secret together from the first m shares, and holds it against its key id.
    fn combine(&self, shares: &[(u8, SecretId)], m: usize, key_id: &[u8; 16], secret: &mut Secret) -> bool {
        let mut ys: heapless::Vec<(u8, Secret), SHARES_MAX> = heapless::Vec::new();
        for (x, id) in shares.iter().take(m) {
            let Some(y) = self.secret(*id) else { return false };
            if ys.push((*x, y)).is_err() {
                return false;
            }
        }
        let lent: heapless::Vec<(u8, &[u8; SECRET_BYTES]), SHARES_MAX> = ys.iter().map(|(x, y)| (*x, &**y)).collect();
        let Ok(m) = u8::try_from(m) else { return false };
        card_set::combine(m, &lent, secret) && card_set::check_combined(secret, key_id)
    }

    /// Every row of m cards next to each other gives the secret: n − m + 1 quorums, and each card
    /// is in one of them at least. Where m is n there is one (P13).
    fn rehearse(&self, shares: &Shares, m: u8, key_id: &[u8; 16]) -> bool {
        let m = usize::from(m);
        let quorums = shares.windows(m.max(1));
        shares.len() >= m && quorums.into_iter().all(|quorum| self.combine(quorum, m, key_id, &mut Secret::default()))
    }

    /// The PIN that a secret gives takes its place.
    fn derive_pin(&mut self, id: SecretId, set: &CardSet, typed: Option<SecretId>) -> bool {
        let Some(secret) = self.secret(id) else { return false };
        let Some(ceremony) = self.cards.ceremony() else { return false };
        let (uid, chars) = (ceremony.facts().subject, usize::from(set.pin_chars));
        let so = ceremony.facts().credential == Credential::HsmAdministrator;
        let mut code = Zeroizing::new([0; PLACE_BYTES]);
        let mut code_len = 0;
        if let Some(typed) = typed {
            let lent = self.safe.with(typed, |bytes| {
                code.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
                code_len = bytes.len();
            });
            if lent.is_none() {
                return false;
            }
        }
        let Some(code) = code.get(..code_len) else { return false };
        let mut written = 0;
        let refilled = self.safe.rewrite(id, &mut |place| {
            written = if so {
                code::so_pin(secret.as_slice(), &uid, &set.id, chars, place)
            } else {
                code::token_pin(secret.as_slice(), code, &uid, &set.id, chars, place)
            };
            written
        });
        refilled && written == chars && chars > 0
    }

    /// 32 bytes of the Safe, on their way.
    pub(super) fn secret(&self, id: SecretId) -> Option<Secret> {
        let mut secret = Secret::default();
        let mut whole = false;
        self.safe.with(id, |bytes| {
            whole = bytes.len() == SECRET_BYTES;
            secret.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        })?;
        if !whole {
            secret.zeroize();
            return None;
        }
        Some(secret)
    }

    /// Puts bytes into a place.
    pub(super) fn put(&mut self, id: SecretId, bytes: &[u8]) -> bool {
        self.safe.refill(id, |place| {
            place.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            bytes.len()
        })
    }
}
