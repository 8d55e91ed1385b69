//! Shamir's secret sharing, byte by byte over GF(2^8), eight bytes at a time.
//!
//! The field is that of AES (FIPS 197, section 4.2: x^8 + x^4 + x^3 + x + 1, 0x11B). The
//! secret is a polynomial's value at x = 0, a share its value at another x. Every x is
//! public; secrets, coefficients and shares are not. Whatever touches them is `double` and
//! `add` of [`Lanes`]: no table, no branch, no multiplication instruction, so the same
//! instructions run for every secret (a test counts them). Weights come from x alone and
//! may branch. Results are written where the caller wants them: a secret that is moved
//! leaves a copy behind. Nothing here survives a restart.

use zeroize::Zeroize;

use crate::limits::SHARES_MAX;

/// Bytes side by side in words of eight, each byte an element of the field: 2 lanes hold the
/// secret of a typed set, 4 that of cards. Wiped when dropped; neither printed nor copied.
pub struct Lanes<const LANES: usize>([u64; LANES]);

/// One share of a secret: the polynomial's value `y` at `x`.
pub struct Point<const LANES: usize> {
    /// Where; 1 to n.
    pub x: u8,
    /// The value there.
    pub y: Lanes<LANES>,
}

/// Writes the value of a polynomial at `x` into `y`. The coefficient of degree 0, the
/// secret, comes first; at x = 0 the value is the secret.
///
/// False, with `y` wiped, for more than [`SHARES_MAX`] coefficients: no quorum needs them.
#[must_use]
pub fn evaluate<const LANES: usize>(coefficients: &[Lanes<LANES>], x: u8, y: &mut Lanes<LANES>) -> bool {
    y.wipe();
    if coefficients.len() > SHARES_MAX {
        return false;
    }
    let mut powers = [0; SHARES_MAX];
    let mut power = 1;
    for (place, _) in powers.iter_mut().zip(coefficients) {
        *place = power;
        power = product(power, x);
    }
    weighted_sum(powers.iter().copied().zip(coefficients), y);
    true
}

/// Writes the secret that the points share into `secret`. With fewer points than the
/// polynomial has coefficients, or with a wrong one, that is another value, and nothing here
/// can tell: check the shares before and the secret after.
///
/// False, with `secret` wiped, unless there are 2 to [`SHARES_MAX`] points with different x,
/// none of them 0.
#[must_use]
pub fn combine<const LANES: usize>(points: &[Point<LANES>], secret: &mut Lanes<LANES>) -> bool {
    interpolate(points, 0, secret)
}

/// As [`combine`], for the value at any `x`: another share from enough of them.
#[must_use]
pub fn interpolate<const LANES: usize>(points: &[Point<LANES>], x: u8, y: &mut Lanes<LANES>) -> bool {
    y.wipe();
    let mut weights = [0; SHARES_MAX];
    if points.len() < 2 || points.len() > SHARES_MAX {
        return false;
    }
    for (point, weight) in points.iter().zip(&mut weights) {
        match lagrange(point.x, points.iter().map(|other| other.x), x) {
            Some(value) => *weight = value,
            None => return false,
        }
    }
    weighted_sum(weights.iter().copied().zip(points.iter().map(|point| &point.y)), y);
    true
}

/// The weight of the point at `own` in the value at `x`: for every other of `all` points the
/// factor (x − other) / (own − other). Subtraction is exclusive or. `None` when `own` is 0 or
/// there twice.
fn lagrange(own: u8, all: impl Iterator<Item = u8> + Clone, x: u8) -> Option<u8> {
    if own == 0 || all.clone().filter(|other| *other == own).nth(1).is_some() {
        return None;
    }
    let (mut over, mut under) = (1, 1);
    for other in all.filter(|other| *other != own) {
        over = product(over, x ^ other);
        under = product(under, own ^ other);
    }
    Some(product(over, inverse(under)))
}

/// The sum of public weights times secret values, from the weights' highest bit down: one
/// doubling a bit for all values together, and nothing that depends on a value.
fn weighted_sum<'values, const LANES: usize>(
    terms: impl Iterator<Item = (u8, &'values Lanes<LANES>)> + Clone,
    sum: &mut Lanes<LANES>,
) {
    const BITS: [u8; 8] = [0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02, 0x01];
    let all = terms.clone().fold(0, |all, (weight, _)| all | weight);
    sum.wipe();
    // A bit above every weight's highest would double zero.
    for bit in BITS.into_iter().filter(|bit| *bit <= all) {
        sum.double();
        for (_, value) in terms.clone().filter(|(weight, _)| weight & bit != 0) {
            sum.add(value);
        }
    }
}

/// The product of two public elements: without carries first, then reduced. Twice, since
/// what is added for the upper seven bits can itself be three bits too long.
const fn product(one: u8, other: u8) -> u8 {
    let (mut shifted, mut rest, mut sum) = (one as u16, other, 0);
    while rest != 0 {
        if rest & 1 != 0 {
            sum ^= shifted;
        }
        shifted <<= 1;
        rest >>= 1;
    }
    reduce(reduce(sum)).to_le_bytes()[0]
}

/// Replaces x^8 by x^4 + x^3 + x + 1.
const fn reduce(sum: u16) -> u16 {
    let above = sum >> 8;
    (sum & 0xFF) ^ above ^ (above << 1) ^ (above << 3) ^ (above << 4)
}

/// The inverse of a public element: its 254th power (there are 255 beside 0, so the 255th is 1).
const fn inverse(element: u8) -> u8 {
    let power_2 = product(element, element);
    let power_3 = product(power_2, element);
    let power_6 = product(power_3, power_3);
    let power_12 = product(power_6, power_6);
    let power_15 = product(power_12, power_3);
    let power_30 = product(power_15, power_15);
    let power_60 = product(power_30, power_30);
    let power_120 = product(power_60, power_60);
    let power_126 = product(power_120, power_6);
    let power_127 = product(power_126, element);
    product(power_127, power_127)
}

impl<const LANES: usize> Lanes<LANES> {
    /// Zero in every byte.
    #[must_use]
    pub const fn zero() -> Self {
        Lanes([0; LANES])
    }

    /// Takes over `bytes`; false, with nothing but zeros, unless they are 8 × `LANES`.
    #[must_use]
    pub fn read(&mut self, bytes: &[u8]) -> bool {
        self.wipe();
        let (words, rest) = bytes.as_chunks::<8>();
        if words.len() != LANES || !rest.is_empty() {
            return false;
        }
        for (lane, word) in self.0.iter_mut().zip(words) {
            *lane = u64::from_le_bytes(*word);
        }
        true
    }

    /// Writes 8 × `LANES` bytes; false, with nothing written, when `bytes` has another length.
    #[must_use]
    pub fn write(&self, bytes: &mut [u8]) -> bool {
        let (words, rest) = bytes.as_chunks_mut::<8>();
        if words.len() != LANES || !rest.is_empty() {
            return false;
        }
        for (word, lane) in words.iter_mut().zip(&self.0) {
            *word = lane.to_le_bytes();
        }
        true
    }

    /// Zero in every byte again.
    pub fn wipe(&mut self) {
        self.0.zeroize();
    }

    /// Adds byte by byte.
    fn add(&mut self, other: &Self) {
        for (lane, other) in self.0.iter_mut().zip(&other.0) {
            *lane ^= other;
        }
    }

    /// Multiplies each byte by x. Where its top bit leaves, 0x1B (0x11B without that bit)
    /// is added; the mask of such bytes is each top bit, doubled, less its lowest place.
    fn double(&mut self) {
        const TOP: u64 = 0x8080_8080_8080_8080;
        const REDUCTION: u64 = 0x1B1B_1B1B_1B1B_1B1B;
        for lane in &mut self.0 {
            let top = *lane & TOP;
            let leaving = (top << 1).wrapping_sub(top >> 7);
            *lane = ((*lane & !TOP) << 1) ^ (leaving & REDUCTION);
        }
    }
}

impl<const LANES: usize> Point<LANES> {
    /// No share yet: an x of 0 is refused by [`combine`].
    #[must_use]
    pub const fn empty() -> Self {
        Point { x: 0, y: Lanes::zero() }
    }
}

impl<const LANES: usize> Drop for Lanes<LANES> {
    fn drop(&mut self) {
        self.wipe();
    }
}
