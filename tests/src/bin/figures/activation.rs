//! How long activation takes, next to what it cannot do without.
//!
//! Two ways in turn, A B A B, in one run; the figure is the median of the pairs' ratios. Ours
//! is measured from the exec of the worker until the last slot is active and everything is
//! stored; tokens and store are in memory. The floor is a C program that does nothing but
//! `C_Initialize`, and per token `C_GetTokenInfo`, `C_OpenSession` and `C_Login`, from before
//! its exec to its last login. What the service does beyond it is known: an attempt recorded
//! durably before each login and its outcome after, `C_GetSessionInfo`, a hand-over file.
//!
//! The network HSM is the forwarding module (`tests/forward/forward.c`) with 20 ms for each
//! call that would cross a network. Each figure beyond 1.5 times its goal ends the run with
//! an error.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use slotwarden_tests::excluded;

use crate::appliance::{Appliance, SOFTHSM, Start, Tokens, said};

const SLOTS: usize = 64;
/// As long as a generated code.
const FLOOR_PIN: &str = "aaaaaaaabbbbbbbbccccccccdddddddd";

/// Runs everything, prints.
pub(crate) fn print() -> Result<(), String> {
    let place =
        tempfile::Builder::new().prefix("slotwarden-figures").tempdir_in("/dev/shm").map_err(said("/dev/shm"))?;
    let floor = Floor::make(place.path(), SLOTS)?;
    let ours = Appliance::make(&place.path().join("ours"), SLOTS)?;
    let mut missed = Vec::new();
    let mut judge = |what: &str, ratio: f64, goal: f64, at_most: bool| {
        println!("{what}: {ratio:.2} (goal {} {goal})", if at_most { "at most" } else { "at least" });
        if if at_most { ratio > goal * 1.5 } else { ratio < goal / 1.5 } {
            missed.push(what.to_owned());
        }
    };

    let local = Start::default();
    let ratio = pairs("64 local slots, ours / raw C", 15, || ours.activate(&local), || floor.activate(SOFTHSM, &[]))?;
    judge("64 local slots, ours / raw C", ratio, 1.10, true);

    let one_floor = Floor::make(&place.path().join("one-floor"), 1)?;
    let one = Appliance::make(&place.path().join("one"), 1)?;
    let ratio = pairs("one local slot", 15, || one.activate(&local), || one_floor.activate(SOFTHSM, &[]))?;
    judge("one local slot, ours / raw C", ratio, 1.3, true);

    let ratio = pairs("one pkcs11-tool per slot", 3, || floor.one_tool_per_slot(), || ours.activate(&local))?;
    judge("one pkcs11-tool --login per slot / ours", ratio, 15.0, false);

    let forward = slotwarden_tests::build::forward().display().to_string();
    let far = |calls| Start { forward: vec![("FORWARD_LATENCY_MS".into(), "20".into())], calls: Some(calls) };
    for (calls, goal) in [(16, 12.0), (64, 20.0)] {
        let with = format!("64 slots at 20 ms per call, one call at a time / {calls}");
        let ratio = pairs(&with, 3, || ours.activate(&far(1)), || ours.activate(&far(calls)))?;
        judge(&with, ratio, goal, false);
        let with = format!("64 slots at 20 ms per call, raw C in sequence / ours with {calls}");
        let ratio = pairs(&with, 3, || floor.activate(&forward, &far(1).forward), || ours.activate(&far(calls)))?;
        judge(&with, ratio, goal, false);
    }

    let near = Start { forward: vec![("FORWARD_MODULE".into(), SOFTHSM.into())], calls: None };
    for (where_, start) in [("a local module", &near), ("20 ms per call", &far(64))] {
        for function in ["any", "C_Login"] {
            let with = format!("63 slots beside one whose {function} call hangs 30 s, {where_}, / without");
            // Each time another slot: one whose login was not answered twice waits for a person.
            let (mut hung, mut well) = (0, 0);
            let beside = || {
                hung += 1;
                ours.activate_others(hung, start, Some(function))
            };
            let without = || {
                well += 1;
                ours.activate_others(well, start, None)
            };
            let ratio = pairs(&with, 7, beside, without)?;
            judge(&with, ratio, 1.2, true);
        }
    }

    let daemon = ours.start(&local)?;
    daemon.all_active_ms()?;
    let [daemon_kib, worker_kib] = daemon.weights()?;
    println!("resident memory with {SLOTS} active slots: daemon {daemon_kib} KiB, worker {worker_kib} KiB");
    daemon.stop()?;
    if missed.is_empty() { Ok(()) } else { Err(format!("beyond 1.5 times the goal: {}", missed.join("; "))) }
}

/// The median of A / B over so many pairs, after one that is not counted.
fn pairs(
    what: &str,
    count: usize,
    mut a: impl FnMut() -> Result<f64, String>,
    mut b: impl FnMut() -> Result<f64, String>,
) -> Result<f64, String> {
    let (mut ratios, mut times) = (Vec::new(), [Vec::new(), Vec::new()]);
    for pair in 0..=count {
        let (a_ms, b_ms) = (a()?, b()?);
        if pair > 0 {
            ratios.push(a_ms / b_ms);
            times[0].push(a_ms);
            times[1].push(b_ms);
        }
    }
    let [a_ms, b_ms] = times.map(median);
    println!("  {what}: {count} pairs, medians {a_ms:.1} ms and {b_ms:.1} ms");
    Ok(median(ratios))
}

/// Tokens with a known PIN, and the C program that logs in to them.
struct Floor {
    program: PathBuf,
    tokens: Tokens,
    slots: usize,
}

impl Floor {
    fn make(place: &Path, slots: usize) -> Result<Self, String> {
        let place = place.join("floor");
        fs::create_dir_all(&place).map_err(said("floor"))?;
        let program = place.join("activate");
        let source = excluded::repository().join("tests/raw/activate.c");
        let made = Command::new("cc").args(["-O2", "-o"]).arg(&program).arg(source).arg("-ldl").status();
        match made {
            Ok(status) if status.success() => {}
            Ok(status) => return Err(format!("cc ended with {status}")),
            Err(error) => return Err(format!("install gcc: {error}")),
        }
        let tokens = Tokens::new(&place)?;
        tokens.run(Command::new(&program).args([SOFTHSM, "init", &slots.to_string(), FLOOR_PIN]))?;
        Ok(Floor { program, tokens, slots })
    }

    fn activate(&self, module: &str, forward: &[(String, String)]) -> Result<f64, String> {
        let mut command = Command::new(&self.program);
        command.args([module, &self.slots.to_string(), FLOOR_PIN]).env("FORWARD_MODULE", SOFTHSM);
        self.tokens.time(command.envs(forward.iter().map(|(name, value)| (name, value))))
    }

    fn one_tool_per_slot(&self) -> Result<f64, String> {
        let began = Instant::now();
        for slot in 0..self.slots {
            let mut tool = Command::new("pkcs11-tool");
            tool.args(["--module", SOFTHSM, "--token-label", &slot.to_string(), "--login", "--pin", FLOOR_PIN]);
            self.tokens.run(tool.arg("--list-objects"))?;
        }
        Ok(began.elapsed().as_secs_f64() * 1e3)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
