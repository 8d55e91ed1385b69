//! Time to split 32 bytes into 3 of 5 shares, and to combine three of them, next to the
//! crate vsss-rs, which shares over the same field, byte by byte and in memory it allocates.
//!
//! Both draw coefficients from the same generator and run in turn, in one run; the figure is
//! the median of the pairs' ratios.

use std::convert::Infallible;
use std::hint::black_box;
use std::time::Instant;

use rand_core::{TryCryptoRng, TryRng};
use slotwarden_core::share::shamir::{self, Lanes, Point};
use vsss_rs::Gf256;

use crate::median;

const PAIRS: usize = 201;
/// Splits or combines in one measurement: some milliseconds, so that the clock's own time vanishes.
const ROUNDS: u32 = 2_000;
const M: usize = 3;
const N: u8 = 5;
const SECRET: [u8; 32] = *b"a backup key has so many bytes..";

/// A fast generator for both sides. Not fit for secrets.
struct Draw(fastrand::Rng);

impl TryRng for Draw {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.u32(..))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.u64(..))
    }

    fn try_fill_bytes(&mut self, place: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill(place);
        Ok(())
    }
}

impl TryCryptoRng for Draw {}

/// Runs the pairs, prints.
pub(crate) fn print() -> Result<(), String> {
    let mut draw = Draw(fastrand::Rng::with_seed(1));
    let theirs = Gf256::split_bytes(M, usize::from(N), SECRET, &mut draw).map_err(|error| error.to_string())?;
    let theirs = [theirs[0].clone(), theirs[2].clone(), theirs[4].clone()];
    let ours = theirs.each_ref().map(|share| point(share));
    if combine(&ours) != SECRET || Gf256::combine_bytes(&theirs).ok().as_deref() != Some(&SECRET) {
        return Err("the two do not agree".to_owned());
    }
    let mut another_draw = Draw(fastrand::Rng::with_seed(2));
    compare(
        "split of 32 bytes, 3 of 5",
        || split(&mut draw),
        || drop(black_box(Gf256::split_bytes(M, usize::from(N), black_box(SECRET), &mut another_draw))),
    );
    compare(
        "combine of 32 bytes from 3",
        || _ = black_box(combine(black_box(&ours))),
        || drop(black_box(Gf256::combine_bytes(black_box(&theirs)))),
    );
    Ok(())
}

fn compare(what: &str, mut ours: impl FnMut(), mut theirs: impl FnMut()) {
    let (mut ratios, mut our_times, mut their_times) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let (their_ns, our_ns) = (time(&mut theirs), time(&mut ours));
        ratios.push(our_ns / their_ns);
        our_times.push(our_ns);
        their_times.push(their_ns);
    }
    let [ratio, our_ns, their_ns] = [ratios, our_times, their_times].map(median);
    println!("{what}, {PAIRS} pairs: ours {our_ns:.0} ns, vsss-rs {their_ns:.0} ns, median of the ratios {ratio:.3}");
}

/// Nanoseconds of one call.
fn time(mut call: impl FnMut()) -> f64 {
    let began = Instant::now();
    for _ in 0..ROUNDS {
        call();
    }
    began.elapsed().as_secs_f64() * 1e9 / f64::from(ROUNDS)
}

/// Draws coefficients and computes all shares.
fn split(draw: &mut Draw) {
    let mut coefficients = [const { Lanes::<4>::zero() }; M];
    let [secret, random @ ..] = &mut coefficients;
    let mut read = secret.read(black_box(&SECRET));
    for coefficient in random {
        let mut drawn = [0; 32];
        draw.0.fill(&mut drawn);
        read &= coefficient.read(&drawn);
    }
    let mut shares = [const { Point::<4>::empty() }; N as usize];
    for (x, share) in (1..).zip(&mut shares) {
        share.x = x;
        read &= shamir::evaluate(&coefficients, x, &mut share.y);
    }
    assert!(read, "32 bytes are four lanes");
    black_box(&shares);
}

fn combine(points: &[Point<4>]) -> [u8; 32] {
    let mut secret = Lanes::zero();
    let mut bytes = [0; 32];
    assert!(shamir::combine(points, &mut secret) && secret.write(&mut bytes), "different points, four lanes");
    bytes
}

/// vsss-rs writes x before y.
fn point(share: &[u8]) -> Point<4> {
    let mut point = Point::empty();
    point.x = share[0];
    assert!(point.y.read(&share[1..]), "y has 32 bytes");
    point
}
