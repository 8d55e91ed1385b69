//! Splits and combines one secret, so that a test can count the instructions of each by
//! valgrind (`tests/tests/shares.rs`): they have to be equal for all secrets.
//!
//! `count_shares SECRET KEY` takes 32 bytes in hexadecimal each. What is counted happens in
//! functions of their own that are not inlined; reading the arguments does not count.

#![allow(clippy::std_instead_of_core)] // an example has std; what it shows has not

use std::env;
use std::hint::black_box;
use std::process::ExitCode;

use slotwarden_core::share::card_set::{self, CardQuorum};
use slotwarden_core::share::shamir::{Lanes, Point, combine, evaluate};
use slotwarden_core::share::{Quorum, set_id, share_of};

/// Coefficients beside the secret: any that differ. They do not depend on the secret.
const OTHERS: [[u8; 32]; 2] = [[0xA7; 32], [0x35; 32]];

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1).map(|text| bytes(&text));
    let (Some(Some(secret)), Some(Some(key))) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: count_shares SECRET KEY (64 hexadecimal digits each)");
        return ExitCode::FAILURE;
    };
    let mut coefficients = [const { Lanes::<4>::zero() }; 3];
    let mut read = true;
    for (coefficient, bytes) in coefficients.iter_mut().zip([secret, OTHERS[0], OTHERS[1]]) {
        read &= coefficient.read(&bytes);
    }
    let mut points = [const { Point::<4>::empty() }; 5];
    let mut again = Lanes::zero();
    let [one, _, three, _, five] = counted_split(black_box(&coefficients), &mut points);
    let points = [one, three, five].map(|point| Point { x: point.x, y: copy(&point.y) });
    let combined = counted_combine(black_box(&points), &mut again);
    let mut bytes = [0; 32];
    let right = again.write(&mut bytes) && bytes == secret;
    let mut share = [0; 16];
    let dealt = counted_share(black_box(&key), &mut share);
    let dealt_card = counted_card_share(black_box(&key), black_box(&secret), &mut bytes);
    let mut named = secret;
    let named = counted_key_id(black_box(&mut named));
    black_box(counted_by_branches(black_box(&secret)));
    if read && combined && right && dealt && dealt_card && named { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[inline(never)]
fn counted_split<'points>(coefficients: &[Lanes<4>], points: &'points mut [Point<4>; 5]) -> &'points [Point<4>; 5] {
    for (x, point) in (1..).zip(points.iter_mut()) {
        point.x = x;
        let _ = black_box(evaluate(coefficients, x, &mut point.y));
    }
    points
}

#[inline(never)]
fn counted_combine(points: &[Point<4>], secret: &mut Lanes<4>) -> bool {
    combine(points, secret)
}

/// One share of a typed set, from the key it is expanded from.
#[inline(never)]
fn counted_share(key: &[u8; 32], y: &mut [u8; 16]) -> bool {
    Quorum::new(3, 5).is_ok_and(|quorum| share_of(key, &set_id(key), quorum, 4, y))
}

/// One share of a set on cards, from its seed and its secret.
#[inline(never)]
fn counted_card_share(seed: &[u8; 32], secret: &[u8; 32], y: &mut [u8; 32]) -> bool {
    CardQuorum::new(3, 5).is_ok_and(|quorum| card_set::share_of(seed, secret, &[1; 16], quorum, 4, y))
}

/// Whether a secret is the one that its key id names.
#[inline(never)]
fn counted_key_id(secret: &mut [u8; 32]) -> bool {
    let key_id = card_set::key_id(secret);
    card_set::check_combined(secret, &key_id)
}

/// What would be wrong: a product that looks at the secret's bits. The test has to see it.
#[inline(never)]
fn counted_by_branches(secret: &[u8; 32]) -> u8 {
    let mut sum = 0u8;
    for byte in secret {
        let mut rest = *byte;
        while black_box(rest) != 0 {
            sum ^= rest;
            rest >>= 1;
        }
    }
    sum
}

fn copy(lanes: &Lanes<4>) -> Lanes<4> {
    let (mut bytes, mut copy) = ([0; 32], Lanes::zero());
    let _ = lanes.write(&mut bytes) && copy.read(&bytes);
    copy
}

fn bytes(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    for (place, nth) in bytes.iter_mut().zip((0usize..).step_by(2)) {
        *place = u8::from_str_radix(text.get(nth..nth.checked_add(2)?)?, 16).ok()?;
    }
    Some(bytes)
}
