//! A set on cards: everything in it comes from one seed and one secret.
//!
//! The seed is 32 random bytes, made for one set and one secret: from it come the key that
//! signs the set's records and the coefficients beside the secret (HKDF-Expand, RFC 5869),
//! so that two places in the Safe hold a whole set while it is written, and a share is
//! computed when its card is there. A second secret under the same seed would give away how
//! the two differ. When the set is whole the seed is wiped, and nobody can add to it.
//!
//! A secret that is put together again is held against its key id before anybody uses it.
//! Results are written where the caller wants them; what is needed on the way is wiped.
//! After a restart seed and secret are gone, and a set that was not committed with them.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize as _, Zeroizing};

use super::record::{HEADER_BYTES, ShareHeader, ShareKind, SignedHeader};
use super::shamir::{self, Lanes, Point};
use super::signature;
use crate::code;
use crate::derive;
use crate::fault::Refusal;
use crate::limits::SHARES_MAX;

/// Bytes of the secret of a set on cards, of each of its shares, and of its seed.
pub const SECRET_BYTES: usize = 32;
/// Words of eight bytes in such a secret.
const LANES: usize = 4;
const SIGNING_INFO: &[u8] = b"slotwarden/card-set/signing/v1";
const COEFFICIENTS_INFO: &[u8] = b"slotwarden/card-set/coefficients/v1";
const SET_ID_LABEL: &[u8] = b"slotwarden/set/v1";
const KEY_ID_LABEL: &[u8] = b"slotwarden/key-id/v1";

/// How many cards of how many: any m of n, 1 ≤ m ≤ n ≤ 16. Where one suffices, each card
/// holds the secret itself: never a backup key ([`CardQuorum::is_for`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct CardQuorum {
    m: u8,
    n: u8,
}

impl CardQuorum {
    /// Any `m` of `n`.
    ///
    /// # Errors
    /// [`Refusal::QuorumInvalid`] unless 1 ≤ m ≤ n ≤ 16.
    pub const fn new(m: u8, n: u8) -> Result<Self, Refusal> {
        if 1 <= m && m <= n && n as usize <= SHARES_MAX { Ok(CardQuorum { m, n }) } else { Err(Refusal::QuorumInvalid) }
    }

    /// Whether a secret of this kind may be shared so.
    ///
    /// # Errors
    /// [`Refusal::QuorumInvalid`] for a backup key that one card alone would give away.
    pub const fn is_for(self, kind: ShareKind) -> Result<(), Refusal> {
        match kind {
            ShareKind::BackupKey if self.one_suffices() => Err(Refusal::QuorumInvalid),
            ShareKind::BackupKey | ShareKind::SlotUser | ShareKind::SoPin => Ok(()),
        }
    }

    /// Whether each card holds the secret itself; whoever makes such a set is warned.
    #[must_use]
    pub const fn one_suffices(self) -> bool {
        self.m == 1
    }

    /// How many are needed.
    #[must_use]
    pub const fn m(self) -> u8 {
        self.m
    }

    /// How many there are.
    #[must_use]
    pub const fn n(self) -> u8 {
        self.n
    }

    /// Whether a share of this quorum can have this x.
    #[must_use]
    pub const fn has(self, x: u8) -> bool {
        1 <= x && x <= self.n
    }
}

/// As the pair (m, n).
impl Serialize for CardQuorum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.m, self.n).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for CardQuorum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (m, n) = Deserialize::deserialize(deserializer)?;
        CardQuorum::new(m, n).map_err(|_| D::Error::custom("no such quorum"))
    }
}

/// The public key of the set that comes from this seed: that of the Ed25519 private key whose
/// seed is HKDF-Expand with SHA-256, the set's seed as PRK, info
/// "slotwarden/card-set/signing/v1", 32 bytes.
#[must_use]
pub fn public_key(seed: &[u8; SECRET_BYTES]) -> [u8; 32] {
    let mut signing = Zeroizing::new([0; SECRET_BYTES]);
    let mut public_key = [0; 32];
    signing_seed(seed, &mut signing);
    signature::public_key(&signing, &mut public_key);
    public_key
}

/// The id of the set with this public key: the first 16 bytes of SHA-256 of
/// "slotwarden/set/v1" ‖ public key.
#[must_use]
pub fn set_id(public_key: &[u8; 32]) -> [u8; 16] {
    let hash = Sha256::new().chain_update(SET_ID_LABEL).chain_update(public_key).finalize();
    first_half(hash.as_slice())
}

/// What names a secret without telling it: the first 16 bytes of HMAC with SHA-256 of
/// "slotwarden/key-id/v1" under the secret. For secrets that a machine made only: people's
/// could be guessed and tried.
#[must_use]
pub fn key_id(secret: &[u8; SECRET_BYTES]) -> [u8; 16] {
    let mut mac = Zeroizing::new([0; derive::KEY_BYTES]);
    derive::hmac(secret, &[KEY_ID_LABEL], &mut mac);
    first_half(mac.as_slice())
}

/// Writes share `x` of this secret into `y`: the value at `x` of the polynomial whose
/// coefficient of degree 0 is the secret, and whose others are, from degree 1, the
/// (m − 1) × 32 bytes of HKDF-Expand with SHA-256, the seed as PRK, info
/// "slotwarden/card-set/coefficients/v1" ‖ set id. With m = 1 that is the secret.
///
/// False, with `y` wiped, for an x outside 1 to n.
#[must_use]
pub fn share_of(
    seed: &[u8; SECRET_BYTES],
    secret: &[u8; SECRET_BYTES],
    set_id: &[u8; 16],
    quorum: CardQuorum,
    x: u8,
    y: &mut [u8; SECRET_BYTES],
) -> bool {
    y.zeroize();
    quorum.has(x) && value_at(seed, secret, set_id, quorum, x, y)
}

/// Signs one record of the set that comes from this seed. The header's set id has to be that
/// of the set, or nobody takes the record.
#[must_use]
pub fn sign(seed: &[u8; SECRET_BYTES], header: &ShareHeader, y: &[u8; SECRET_BYTES]) -> SignedHeader {
    let mut signing = Zeroizing::new([0; SECRET_BYTES]);
    let mut bytes = [0; HEADER_BYTES];
    let mut record = SignedHeader { header: *header, public_key: [0; 32], signature: [0; 64] };
    signing_seed(seed, &mut signing);
    header.write(&mut bytes);
    signature::sign(&signing, [&bytes, y], &mut record.public_key, &mut record.signature);
    record
}

/// Writes the secret that `m` shares give, each with its x, into `secret`. With a wrong share
/// that is another value: [`check_combined`] tells.
///
/// False, with `secret` wiped, unless there are exactly `m` shares with different x from 1 to 16.
#[must_use]
pub fn combine(m: u8, shares: &[(u8, &[u8; SECRET_BYTES])], secret: &mut [u8; SECRET_BYTES]) -> bool {
    secret.zeroize();
    let in_range = shares.iter().all(|(x, _)| (1..=SHARES_MAX).contains(&usize::from(*x)));
    if shares.len() != usize::from(m) || !in_range {
        return false;
    }
    if let [(_, y)] = shares {
        secret.iter_mut().zip(*y).for_each(|(to, from)| *to = *from);
        return true;
    }
    let mut points = [const { Point::<LANES>::empty() }; SHARES_MAX];
    let mut value = Lanes::zero();
    let Some(points) = points.get_mut(..shares.len()) else { return false };
    for (point, (x, y)) in points.iter_mut().zip(shares) {
        point.x = *x;
        if !point.y.read(*y) {
            return false;
        }
    }
    shamir::combine(points, &mut value) && value.write(secret)
}

/// Whether this is the secret that the key id names, in constant time; when it is not, it is
/// wiped, so that nobody uses it.
#[must_use]
pub fn check_combined(secret: &mut [u8; SECRET_BYTES], key_id: &[u8; 16]) -> bool {
    let right = code::equal(&self::key_id(secret), key_id);
    if !right {
        secret.zeroize();
    }
    right
}

fn signing_seed(seed: &[u8; SECRET_BYTES], signing: &mut [u8; SECRET_BYTES]) {
    // 32 bytes are within HKDF's bound: nothing can be refused.
    let _ = derive::expand(seed, [SIGNING_INFO, &[]], signing);
}

fn value_at(
    seed: &[u8; SECRET_BYTES],
    secret: &[u8; SECRET_BYTES],
    set_id: &[u8; 16],
    quorum: CardQuorum,
    x: u8,
    y: &mut [u8; SECRET_BYTES],
) -> bool {
    const OTHERS_MAX: usize = SHARES_MAX - 1;
    let mut stream = Zeroizing::new([0u8; OTHERS_MAX * SECRET_BYTES]);
    let mut coefficients = [const { Lanes::<LANES>::zero() }; SHARES_MAX];
    let mut value = Lanes::zero();
    let (blocks, _) = stream.as_chunks_mut::<SECRET_BYTES>();
    let Some(blocks) = blocks.get_mut(..usize::from(quorum.m).saturating_sub(1)) else { return false };
    let Some(coefficients) = coefficients.get_mut(..usize::from(quorum.m)) else { return false };
    let Some((constant, others)) = coefficients.split_first_mut() else { return false };
    constant.read(secret)
        && derive::expand(seed, [COEFFICIENTS_INFO, set_id], blocks.as_flattened_mut())
        && others.iter_mut().zip(&*blocks).all(|(lanes, block)| lanes.read(block))
        && shamir::evaluate(coefficients, x, &mut value)
        && value.write(y)
}

/// The first 16 bytes of a hash.
fn first_half(hash: &[u8]) -> [u8; 16] {
    hash.first_chunk().copied().unwrap_or([0; 16])
}
