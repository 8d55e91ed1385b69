//! `slotwarden-sim explore`: seeds and power cuts, counted, hashed and reported.
//!
//! Seeds are spread over threads in blocks; each block's traces are hashed in the order of
//! its seeds and the blocks in theirs, so the result does not depend on the number of
//! threads. A seed that fails is printed with the command that replays it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use sha2::{Digest, Sha256};
use slotwarden_core::command::CommandKind;
use slotwarden_core::status::StateName;

use crate::campaign::live;
use crate::cuts::{CutReport, Script, cut_everywhere};
use crate::faults::{Kind, Tally};
use crate::hsm::Character;
use crate::table::CardCounts;
use crate::world::{Counts, World};

/// Seeds that one thread takes at a time.
const BLOCK: u64 = 64;
/// Every so many seeds all printable text is searched for secrets (P3).
const SCAN_EVERY: u64 = 1_024;
/// Every so many seeds each step is tallied, struck or not.
const TALLY_EVERY: u64 = 16;
/// Every so many seeds the seed is lived twice (P43).
const TWICE_EVERY: u64 = 256;
/// Failing sequences of cuts that are printed; the rest is counted.
const FAILURES_SHOWN_MAX: usize = 10;

/// What to explore.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// The first seed.
    pub first: u64,
    /// How many.
    pub seeds: u64,
    /// Threads.
    pub jobs: usize,
    /// Power cuts one after another in the systematic part; 0: none.
    pub cuts_deep: usize,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What happened in all seeds.
    pub counts: Counts,
    /// Where faults struck.
    pub tally: Tally,
    /// SHA-256 over all traces, in the order of the seeds.
    pub hash: [u8; 32],
    /// Failing seeds in order, with what failed.
    pub failures: Vec<(u64, String)>,
    /// Processor time of all threads together, in the seeds.
    pub busy: Duration,
    /// The systematic part.
    pub cuts: CutReport,
    /// Processor time of all threads together, in the systematic part.
    pub cuts_busy: Duration,
}

impl Report {
    /// All power-cut states, of campaigns and of the systematic part.
    #[must_use]
    pub fn power_cut_states(&self) -> u64 {
        self.counts.power_cuts + self.cuts.states
    }

    /// Whether no promise was broken.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.failures.is_empty() && self.cuts.failures.is_empty()
    }
}

/// Explores.
#[must_use]
pub fn explore(order: &Order) -> Report {
    let blocks = order.seeds.div_ceil(BLOCK);
    let next_block = AtomicU64::new(0);
    let next_script = AtomicU64::new(0);
    let hashes = Mutex::new(vec![[0; 32]; usize::try_from(blocks).unwrap_or(0)]);
    let report = Mutex::new(Report::default());
    std::thread::scope(|scope| {
        for _ in 0..order.jobs.max(1) {
            scope.spawn(|| {
                let mut world = World::default();
                let mut failures = Vec::new();
                let began = thread_time();
                loop {
                    let block = next_block.fetch_add(1, Ordering::Relaxed);
                    if block >= blocks {
                        break;
                    }
                    let first = order.first + block * BLOCK;
                    let last = (first + BLOCK).min(order.first + order.seeds);
                    let hash = live_block(&mut world, first..last, &mut failures);
                    if let Ok(mut hashes) = hashes.lock() {
                        hashes[usize::try_from(block).unwrap_or(0)] = hash;
                    }
                }
                let busy = thread_time().saturating_sub(began);
                let counts = std::mem::take(&mut world.counts);
                let tally = std::mem::take(&mut world.tally);
                let began = thread_time();
                let mut cuts = CutReport::default();
                if order.cuts_deep > 0 {
                    cut_all(&mut world, order.cuts_deep, &next_script, &mut cuts);
                }
                if let Ok(mut report) = report.lock() {
                    report.counts.add(&counts);
                    report.tally.add(&tally);
                    report.failures.append(&mut failures);
                    report.busy += busy;
                    report.cuts.states += cuts.states;
                    report.cuts.again += cuts.again;
                    report.cuts.failures.append(&mut cuts.failures);
                    report.cuts_busy += thread_time().saturating_sub(began);
                }
            });
        }
    });
    let mut report = report.into_inner().unwrap_or_default();
    let mut hash = Sha256::new();
    for block in hashes.into_inner().unwrap_or_default() {
        hash.update(block);
    }
    report.hash = hash.finalize().into();
    report.failures.sort();
    report.cuts.failures.sort();
    report
}

/// Processor time of this thread: a busy neighbour does not count.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

fn live_block(world: &mut World, seeds: std::ops::Range<u64>, failures: &mut Vec<(u64, String)>) -> [u8; 32] {
    let mut hash = Sha256::new();
    for seed in seeds {
        world.trace.scans = seed % SCAN_EVERY == 1;
        world.tallies_steps = seed.is_multiple_of(TALLY_EVERY);
        match live_guarded(world, seed) {
            Ok(trace) => hash.update(trace),
            Err(what) => failures.push((seed, what)),
        }
    }
    hash.finalize().into()
}

/// Lives one seed; a panic is a violation of P42 like any other.
///
/// # Errors
/// What was violated, as a sentence.
pub fn live_guarded(world: &mut World, seed: u64) -> Result<[u8; 32], String> {
    let lived = catch_unwind(AssertUnwindSafe(|| {
        let trace = live(world, seed);
        let again = (seed.is_multiple_of(TWICE_EVERY) && !world.trace.prints).then(|| live(world, seed));
        (trace, again)
    }));
    match lived {
        Err(_) => {
            let prints = world.trace.prints;
            *world = World::default();
            world.trace.prints = prints;
            Err("P42 broken: a panic".to_owned())
        }
        Ok(_) if world.checkers.violation.is_some() => {
            Err(world.checkers.violation.map_or_else(String::new, |violation| violation.to_string()))
        }
        Ok((trace, Some(again))) if trace != again => Err("P43 broken: the same seed gave another trace".to_owned()),
        Ok((trace, _)) => Ok(trace),
    }
}

/// The systematic part: every script on every kind of token.
fn cut_all(world: &mut World, depth: usize, next: &AtomicU64, report: &mut CutReport) {
    world.trace.scans = false;
    world.tallies_steps = false;
    let characters = Character::ALL.len();
    loop {
        let number = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX);
        let (Some(script), character) = (Script::ALL.get(number / characters), number % characters) else { return };
        cut_everywhere(world, *script, character, depth, report);
    }
}

/// Prints a report for people; every figure on a line of its own.
pub fn print(order: &Order, report: &Report) {
    let counts = &report.counts;
    let seconds = report.busy.as_secs_f64().max(f64::MIN_POSITIVE);
    println!("seeds                      {} from {}", order.seeds, order.first);
    println!("slot lives                 {} (one slot from its configuration to the end of its world)", counts.lives);
    println!("slot life cycles           {} (active, and no longer active)", counts.life_cycles);
    println!("orders                     {}", counts.orders);
    println!("events                     {} inputs, {} effects", counts.inputs, counts.effects);
    println!("starts of the service      {}", counts.starts);
    println!("durable writes             {}", counts.writes);
    println!("device calls               {}", counts.calls);
    println!(
        "counted apart              {} (locked, changed, torn or lied about by somebody else)",
        counts.counted_apart
    );
    println!("collections                {} of shares or parts, {} of them reset", counts.collections, counts.resets);
    println!("sets of shares in force    {}", counts.sets);
    println!(
        "shares and parts           {} shown, {} taken, {} refused",
        counts.shares_shown, counts.entries_taken, counts.entries_refused
    );
    println!("approvals                  {} asked for, {} given", counts.approvals_asked, counts.approvals_given);
    println!("unblocks                   {} by the SO PIN", counts.unblocks);
    print_cards(&counts.cards, seconds);
    println!("power-cut states           {} in campaigns", counts.power_cuts);
    if order.cuts_deep > 0 {
        println!(
            "                           {} systematic, {} of them cut again in recovery",
            report.cuts.states, report.cuts.again
        );
        println!("                           {} in all", report.power_cut_states());
        let micros = report.cuts_busy.as_secs_f64() * 1e6 / (report.cuts.states.max(1) as f64);
        println!("µs per systematic state    {micros:.1}");
    }
    println!("ns per event               {:.0}", seconds * 1e9 / (counts.inputs + counts.effects).max(1) as f64);
    println!("life cycles per s and core {:.0}", counts.life_cycles as f64 / seconds);
    println!("lives per s and core       {:.0}", counts.lives as f64 / seconds);
    print_faults(&report.tally);
    print!("SHA-256 over all traces    ");
    for byte in report.hash {
        print!("{byte:02x}");
    }
    println!();
    println!("violations                 {}", report.failures.len() + report.cuts.failures.len());
    // One seed of each violation says more than many seeds of one.
    let mut kinds: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
    for (seed, what) in &report.failures {
        let what = what.split_once(" broken at slot ").map_or(what.as_str(), |(_, what)| what.get(3..).unwrap_or(what));
        kinds.entry(what).or_insert((*seed, 0)).1 += 1;
    }
    for (what, (seed, count)) in kinds {
        println!(
            "{count} seeds, the first is {seed}: {what}\n    slotwarden-sim explore --seed {seed} --seeds 1 --trace"
        );
    }
    for failure in report.cuts.failures.iter().take(FAILURES_SHOWN_MAX) {
        let name = failure.split(':').next().unwrap_or_default();
        println!("cut {failure}\n    slotwarden-sim explore --replay-cut {name}");
    }
}

/// Prints what happened at the tables with card readers.
fn print_cards(cards: &CardCounts, seconds: f64) {
    let begun = cards.begun();
    println!("worlds with card readers   {}", cards.worlds);
    println!(
        "ceremonies                 {begun} begun, {} orders about cards refused or ended by a refusal",
        cards.refused
    );
    for kind in CommandKind::ALL {
        let [begun, done, ended] = cards.kinds[kind as usize];
        if begun > 0 {
            println!("    {:<23}{begun:>8} begun {done:>8} done {ended:>8} ended otherwise", format!("{kind:?}"));
        }
    }
    println!("ceremonies per s and core  {:.0} (all worlds counted)", begun as f64 / seconds);
    println!("calls at card readers      {}, {} dialogues at pads", cards.calls, cards.dialogues);
    println!(
        "computed a second time     {} quorums, {} copies compared, {} transcripts replayed",
        cards.quorums, cards.copies, cards.replays
    );
    println!("slots opened with cards    {} at the end of their world", cards.opened);
}

/// Prints how often each kind struck, in which states, and what it missed.
fn print_faults(tally: &Tally) {
    print!("\n{:<27}{:>9}  at states × steps  ", "fault", "struck");
    for state in StateName::ALL {
        print!("{:>14}", state.word());
    }
    println!("  steps never struck");
    let mut kinds_missing = 0;
    for kind in Kind::ALL {
        let (struck, reached) = tally.covered(*kind);
        print!("{:<27}{:>9}  {struck:>7} of {reached:<7} ", kind.word(), tally.count(*kind));
        for state in StateName::ALL {
            print!("{:>14}", tally.count_in(*kind, state));
        }
        let missed = tally.missed(*kind);
        kinds_missing += usize::from(!missed.is_empty() || tally.count(*kind) == 0);
        println!("  {}", missed.iter().map(|step| format!("{step:?}")).collect::<Vec<_>>().join(" "));
    }
    let kinds = Kind::ALL.len();
    println!("fault kinds                {} of {kinds} struck at every reachable step\n", kinds - kinds_missing);
}
#[cfg(test)]
mod tests {
    use super::*;

    fn explore_with(jobs: usize) -> Report {
        explore(&Order { first: 1, seeds: 100, jobs, cuts_deep: 0 })
    }

    #[test]
    fn p43_the_hash_is_the_same_again_and_with_two_threads() {
        let report = explore_with(1);
        assert!(report.is_clean(), "{:?}", report.failures);
        assert!(report.counts.life_cycles > 300 && report.counts.power_cuts > 100);
        assert_eq!(report.hash, explore_with(1).hash);
        assert_eq!(report.hash, explore_with(2).hash);
        assert_ne!(report.hash, explore(&Order { first: 2, seeds: 100, jobs: 1, cuts_deep: 0 }).hash);
    }
}
