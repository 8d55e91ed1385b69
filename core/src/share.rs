//! What m of n persons hold together: the quorum, its shares as people type them or carry
//! them on cards, and what is durable about a typed set.
//!
//! A typed set comes from one key of 32 bytes, the two random sources mixed: everything in
//! it is expanded from that key (HKDF-Expand, RFC 5869), so one place in the Safe holds a
//! whole set while it is handed out, and a share is computed when its custodian asks. After
//! a restart the key is gone and the set with it, unless all its shares were confirmed; what
//! stays is a [`Set`], which knows each share again by a fingerprint and holds no secret.
//!
//! | file | what it holds |
//! |---|---|
//! | [`shamir`] | the arithmetic: values of a polynomial, and back |
//! | [`typed`] | one share as people type it |
//! | [`set`] | what is durable, and who may enter what |
//! | [`record`] | one share on a card |
//! | [`card_set`] | a set on cards: dealt from one seed, put together again |
//! | `signature` | Ed25519, and a stack that keeps nothing of it |

pub mod card_set;
pub mod record;
pub mod set;
pub mod shamir;
mod signature;
pub mod typed;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::derive;
use crate::fault::Refusal;
use crate::limits::SHARES_MAX;
use shamir::Lanes;

pub use set::Set;
pub use typed::{TypedShare, looks_like_share};

/// Bytes of the secret of a typed set, and of each of its shares.
pub const SECRET_BYTES: usize = 16;
/// Words of eight bytes in such a secret.
const LANES: usize = 2;
const COEFFICIENTS_INFO: &[u8] = b"slotwarden/slot-set/v1";
const SET_ID_INFO: &[u8] = b"slotwarden/set-id/v1";

/// How many persons of how many: any m of n, 2 ≤ m ≤ n ≤ 16. There is no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Quorum {
    m: u8,
    n: u8,
}

impl Quorum {
    /// Any `m` of `n`.
    ///
    /// # Errors
    /// [`Refusal::QuorumInvalid`] unless 2 ≤ m ≤ n ≤ 16.
    pub const fn new(m: u8, n: u8) -> Result<Self, Refusal> {
        if 2 <= m && m <= n && n as usize <= SHARES_MAX { Ok(Quorum { m, n }) } else { Err(Refusal::QuorumInvalid) }
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
impl Serialize for Quorum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.m, self.n).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Quorum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (m, n) = Deserialize::deserialize(deserializer)?;
        Quorum::new(m, n).map_err(|_| D::Error::custom("no such quorum"))
    }
}

/// The id of the set that comes from this key: HKDF-Expand with SHA-256, the key as PRK,
/// info "slotwarden/set-id/v1", 16 bytes. It says nothing about the set's secret.
#[must_use]
pub fn set_id(key: &[u8; 32]) -> [u8; 16] {
    let mut id = [0; 16];
    // 16 bytes are within HKDF's bound: nothing can be refused.
    let _ = derive::expand(key, [SET_ID_INFO, &[]], &mut id);
    id
}

/// Writes share `x` of the set that comes from this key into `y`: the value at `x` of the
/// polynomial whose coefficients, the secret first, are the m × 16 bytes of HKDF-Expand with
/// SHA-256, the key as PRK, info "slotwarden/slot-set/v1" ‖ set id.
///
/// False, with `y` wiped, for an x outside 1 to n.
#[must_use]
pub fn share_of(key: &[u8; 32], set_id: &[u8; 16], quorum: Quorum, x: u8, y: &mut [u8; SECRET_BYTES]) -> bool {
    *y = [0; SECRET_BYTES];
    quorum.has(x) && value_at(key, set_id, quorum, x, y)
}

/// Writes the secret of the set that comes from this key: its coefficient of degree 0. False,
/// with `secret` wiped, never happens with a quorum that was checked.
#[must_use]
pub fn secret_of(key: &[u8; 32], set_id: &[u8; 16], quorum: Quorum, secret: &mut [u8; SECRET_BYTES]) -> bool {
    *secret = [0; SECRET_BYTES];
    value_at(key, set_id, quorum, 0, secret)
}

fn value_at(key: &[u8; 32], set_id: &[u8; 16], quorum: Quorum, x: u8, y: &mut [u8; SECRET_BYTES]) -> bool {
    let mut stream = Zeroizing::new([0u8; SHARES_MAX * SECRET_BYTES]);
    let mut coefficients = [const { Lanes::<LANES>::zero() }; SHARES_MAX];
    let mut value = Lanes::zero();
    let m = usize::from(quorum.m);
    let (blocks, _) = stream.as_chunks_mut::<SECRET_BYTES>();
    let Some(blocks) = blocks.get_mut(..m) else { return false };
    let Some(coefficients) = coefficients.get_mut(..m) else { return false };
    derive::expand(key, [COEFFICIENTS_INFO, set_id], blocks.as_flattened_mut())
        && coefficients.iter_mut().zip(&*blocks).all(|(lanes, block)| lanes.read(block))
        && shamir::evaluate(coefficients, x, &mut value)
        && value.write(y)
}
