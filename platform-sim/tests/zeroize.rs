//! Zeroize (P41): from several hundred seeds, and with the power going at every durable write and every
//! device call of it, and again at every point of what follows.

// A test that panics has found something.
#![allow(clippy::expect_used, clippy::panic)]

use slotwarden_sim::world::{Cut, World};
use slotwarden_sim::zeroize::{Life, PROMISED_MS, live};

fn lives(world: &mut World, seed: u64, cuts: &[Cut]) -> Life {
    let life = live(world, seed, cuts);
    assert_eq!(world.checkers.violation, None, "seed {seed}, power cuts {cuts:?}");
    life
}

#[test]
fn p41_a_zeroize_of_whatever_is_under_way_ends_within_a_second_and_the_so_pin_brings_the_slots_back() {
    let mut world = World::default();
    let (mut unblocked, mut hung, mut slowest_ms) = (0, 0, 0);
    for seed in 0..600 {
        let life = lives(&mut world, seed, &[]);
        let answered_ms = life.answered_ms.expect("without a power cut it is answered");
        assert!(answered_ms <= PROMISED_MS, "seed {seed}: answered after {answered_ms} ms");
        assert!(life.happened, "seed {seed}");
        slowest_ms = slowest_ms.max(answered_ms);
        unblocked += u32::from(life.unblocked);
        hung += u32::from(life.hung);
    }
    println!(
        "600 seeds: {unblocked} slots came back by the SO PIN, {hung} had a call that hung, slowest {slowest_ms} ms"
    );
    assert!(unblocked > 300 && hung > 50, "the seeds reach what they are for: {unblocked}, {hung}");
}

#[test]
fn p41_after_a_power_cut_at_every_point_of_a_zeroize_the_next_start_finishes_it() {
    let mut world = World::default();
    let (mut states, mut before, mut again) = (0, 0, 0);
    for seed in 1_000..1_060 {
        let points = lives(&mut world, seed, &[]).points;
        for after in 0..points {
            for way in 0..4 {
                let first = Cut { after, way };
                let life = lives(&mut world, seed, &[first]);
                states += 1;
                before += u32::from(!life.happened);
                if way != 1 {
                    continue;
                }
                for after in 0..life.points {
                    for way in [0, 1] {
                        lives(&mut world, seed, &[first, Cut { after, way }]);
                        again += 1;
                    }
                }
            }
        }
    }
    println!("{states} single power cuts, {before} of them before the intent was durable, {again} with a second one");
    assert!(states > 500 && before > 50 && again > 500, "{states}, {before}, {again}");
}
